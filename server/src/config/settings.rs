//! From command line, environment and file to one set of values.
//!
//! One idea: [`Settings`] holds checked texts by flag name and knows which were given; it is what
//! all three sources produce, and the only thing the typed [`super::Config`] is built from.
//! Precedence is etcd's: a configuration file replaces everything else; a flag and its environment
//! variable together are an error.

use std::collections::BTreeMap;

use super::flag::{Flag, Kind};
use super::{ConfigError, Note, flags, shown};

/// Values by flag name.
///
/// Invariants: names are in the table; values passed the check of their kind.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    given: BTreeMap<&'static str, String>,
    unknown_keys: Vec<String>,
}

/// What a command line asks for.
#[derive(Debug)]
pub enum CommandLine {
    /// Print help and exit.
    Help,
    /// Start, or print the version if the flag `version` is set.
    Settings(Settings),
}

impl Settings {
    /// Reads a command line (without the program's name) as Go's `flag` package does: `-x`, `--x`,
    /// `-x=v`, `-x v`; bools only as `-x` or `-x=v`.
    ///
    /// # Errors
    /// `Usage` with Go's text; `Invalid` for arguments that are no flags.
    pub fn from_arguments(arguments: &[String]) -> Result<CommandLine, ConfigError> {
        let mut settings = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(body) = argument.strip_prefix('-').filter(|body| !body.is_empty()) else {
                return Err(ConfigError::Invalid(format!("{argument:?} is not a valid flag")));
            };
            let body = body.strip_prefix('-').unwrap_or(body);
            if body.is_empty() {
                // Everything after `--` would be arguments, of which there are none.
                match rest.next() {
                    None => break,
                    Some(argument) => {
                        let text = format!("{argument:?} is not a valid flag");
                        return Err(ConfigError::Invalid(text));
                    }
                }
            }
            if body.starts_with(['-', '=']) {
                return Err(ConfigError::Usage(format!("bad flag syntax: {argument}")));
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let Some(flag) = flags::find(name) else {
                if matches!(name, "help" | "h") {
                    return Ok(CommandLine::Help);
                }
                // As etcd: they need no value.
                if flags::FORGOTTEN.contains(&name) {
                    continue;
                }
                return Err(ConfigError::Usage(format!("flag provided but not defined: -{name}")));
            };
            let value = match (value, flag.kind) {
                (Some(value), _) => value,
                (None, Kind::Bool) => "true".to_owned(),
                (None, _) => rest.next().cloned().ok_or_else(|| {
                    ConfigError::Usage(format!("flag needs an argument: -{name}"))
                })?,
            };
            settings.give(flag, value).map_err(|(value, reason)| {
                ConfigError::Usage(if flag.kind == Kind::Bool {
                    format!("invalid boolean value {value:?} for -{name}: {reason}")
                } else {
                    format!("invalid value {value:?} for flag -{name}: {reason}")
                })
            })?;
        }
        Ok(CommandLine::Settings(settings))
    }

    /// Adds what the environment says (`ETCD_` and the flag in capitals), as etcd does.
    ///
    /// # Errors
    /// `Conflict` if a flag was given too; `Invalid` for a bad value.
    pub fn add_environment(
        &mut self,
        environment: &[(String, String)],
        notes: &mut Vec<Note>,
    ) -> Result<(), ConfigError> {
        let from_command_line = self.given.clone();
        let mut known = Vec::new();
        // `ETCD_VERSION` is set by wrappers for their own ends; it is not the flag `version`.
        for name in flags::names().filter(|name| *name != "version") {
            let flag = flags::find(name).expect("it is one of their names");
            let variable = variable_of(name);
            known.push(variable.clone());
            let Some((_, value)) = environment.iter().find(|(name, _)| *name == variable) else {
                continue;
            };
            if from_command_line.contains_key(flag.name) {
                return Err(ConfigError::Conflict(variable));
            }
            if value.is_empty() {
                continue;
            }
            self.give(flag, value.clone()).map_err(|(value, reason)| {
                ConfigError::Invalid(format!("invalid value {value:?} for {variable}: {reason}"))
            })?;
            notes.push(Note::info(
                "recognized and used environment variable",
                &[
                    ("variable-name", &variable),
                    ("variable-value", shown::without_secret(flag.name, value)),
                ],
            ));
        }
        for (name, value) in environment {
            if name == "ETCD_VERSION" {
                let fields = [("key", name.as_str()), ("value", value)];
                notes.push(Note::warn("cannot set special environment variable", &fields));
            } else if name.starts_with("ETCD_") && !known.contains(name) {
                let assignment = format!("{name}={value}");
                let fields = [("environment-variable", assignment.as_str())];
                notes.push(Note::warn("unrecognized environment variable", &fields));
            }
        }
        Ok(())
    }

    /// Sets a value if it is one of the flag's kind.
    ///
    /// # Errors
    /// Gives the value back with the reason.
    pub fn give(&mut self, flag: &'static Flag, value: String) -> Result<(), (String, String)> {
        if let Err(reason) = flag.kind.check(&value) {
            return Err((value, reason));
        }
        self.given.insert(flag.name, value);
        Ok(())
    }

    /// The value of a flag, given or default.
    ///
    /// # Panics
    /// If there is no such flag: names come from the program, not from users.
    pub fn get(&self, name: &str) -> &str {
        let flag = flags::find(name).expect("the name of a flag is in the table");
        self.given.get(name).map_or(flag.default, String::as_str)
    }

    /// `--feature-gates` with what flags say that have become gates; what it says itself counts
    /// more.
    pub fn feature_gates(&self) -> String {
        let old = flags::OLD_GATES.iter().filter_map(|(flag, gate)| {
            self.given.get(flag.name).map(|value| format!("{gate}={value}"))
        });
        let mut gates: Vec<String> = old.collect();
        gates.push(self.get("feature-gates").to_owned());
        gates.join(",")
    }

    /// Whether the flag was given.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Remembers a key of a configuration file that is no flag.
    pub fn note_unknown(&mut self, key: String) {
        self.unknown_keys.push(key);
    }

    /// The keys that mean nothing.
    pub fn unknown_keys(&self) -> &[String] {
        &self.unknown_keys
    }

    /// The flags that were given.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.given.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

/// The environment variable of a flag.
pub fn variable_of(flag: &str) -> String {
    format!("ETCD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::features::Gates;

    fn given(arguments: &[&str]) -> Settings {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
        match Settings::from_arguments(&arguments).unwrap() {
            CommandLine::Settings(settings) => settings,
            CommandLine::Help => panic!("nobody asked for help"),
        }
    }

    #[test]
    fn old_names_of_flags_mean_the_new_ones() {
        let settings = given(&[
            "--experimental-corrupt-check-time=5m",
            "--experimental-watch-progress-notify-interval",
            "10s",
        ]);
        assert_eq!(settings.get("corrupt-check-time"), "5m");
        assert_eq!(settings.get("watch-progress-notify-interval"), "10s");
        let mut settings = Settings::default();
        let variable = ("ETCD_EXPERIMENTAL_MAX_LEARNERS".to_owned(), "3".to_owned());
        settings.add_environment(&[variable], &mut Vec::new()).unwrap();
        assert_eq!(settings.get("max-learners"), "3");
        let arguments = ["--experimental-corrupt-check-time=often".to_owned()];
        let error = Settings::from_arguments(&arguments).unwrap_err();
        assert!(matches!(error, ConfigError::Usage(text) if text.contains("often")));
    }

    #[test]
    fn flags_that_became_gates_set_them_unless_the_gates_are_named() {
        let settings = given(&[
            "--experimental-initial-corrupt-check",
            "--experimental-enable-lease-checkpoint=true",
            "--feature-gates=LeaseCheckpoint=false,CompactHashCheck=true",
            "--experimental-txn-mode-write-with-shared-buffer=false",
        ]);
        let gates = Gates::parse(&settings.feature_gates()).unwrap();
        assert!(gates.is_on("InitialCorruptCheck") && gates.is_on("CompactHashCheck"));
        assert!(!gates.is_on("LeaseCheckpoint"));
        assert!(!gates.is_on("TxnModeWriteWithSharedBuffer"));
        assert!(Gates::parse(&given(&[]).feature_gates()).unwrap() == Gates::default());
    }
}
