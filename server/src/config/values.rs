//! Typed reading of checked texts, flag by flag.
//!
//! A text that is no value of its type is refused with its flag's name. What a value means is not known
//! here (`typed.rs`).

use std::path::PathBuf;
use std::time::Duration;

use super::flag::{parse_bool, parse_signed, parse_unsigned};
use super::settings::Settings;
use super::url::{self, Url};
use super::{ConfigError, duration};

/// All settings, given or by default.
pub(super) struct Values<'a>(pub(super) &'a Settings);

impl Values<'_> {
    pub(super) fn text(&self, name: &str) -> String {
        self.0.get(name).to_owned()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        parse_bool(self.0.get(name)).unwrap_or(false)
    }

    pub(super) fn unsigned(&self, name: &str) -> Result<u64, ConfigError> {
        parse_unsigned(self.0.get(name), u64::MAX).map_err(|error| self.wrong(name, &error))
    }

    pub(super) fn size(&self, name: &str) -> Result<usize, ConfigError> {
        usize::try_from(self.unsigned(name)?).map_err(|error| self.wrong(name, &error.to_string()))
    }

    pub(super) fn signed(&self, name: &str) -> Result<i64, ConfigError> {
        parse_signed(self.0.get(name)).map_err(|error| self.wrong(name, &error))
    }

    pub(super) fn duration(&self, name: &str) -> Result<Duration, ConfigError> {
        let nanos = duration::parse(self.0.get(name));
        nanos.map(duration::at_least_zero).ok_or_else(|| self.wrong(name, "parse error"))
    }

    /// A duration for which zero means a default.
    pub(super) fn duration_or(
        &self,
        name: &str,
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        let duration = self.duration(name)?;
        Ok(if duration.is_zero() { default } else { duration })
    }

    pub(super) fn millis(&self, name: &str) -> Result<Duration, ConfigError> {
        Ok(Duration::from_millis(self.unsigned(name)?))
    }

    /// `None` if it is empty.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.0.get(name)).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    pub(super) fn urls(&self, name: &str) -> Result<Vec<Url>, ConfigError> {
        match self.0.get(name) {
            "" => Ok(Vec::new()),
            text => url::parse_list(text).map_err(|error| self.wrong(name, &error)),
        }
    }

    /// Unique entries, in order.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let mut entries: Vec<String> = Vec::new();
        for entry in self.0.get(name).split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if !entries.iter().any(|known| known == entry) {
                entries.push(entry.to_owned());
            }
        }
        entries
    }

    pub(super) fn wrong(&self, name: &str, reason: &str) -> ConfigError {
        ConfigError::Invalid(format!("invalid value {:?} for {name}: {reason}", self.0.get(name)))
    }
}
