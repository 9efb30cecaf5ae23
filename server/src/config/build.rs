//! From checked texts to the typed configuration.
//!
//! One idea: first what depends on one flag only (`typed.rs`), then the defaults that depend on others,
//! then the checks across flags (`check.rs`).

use std::path::PathBuf;

use super::flag::Support;
use super::settings::Settings;
use super::typed::typed;
use super::values::Values;
use super::{Config, ConfigError, Note, check, default_host, flags, shown, tls, url};

/// Where settings came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Flags and environment.
    CommandLine,
    /// A configuration file.
    File,
}

/// What etcd says of flags that have no effect here.
const ETCDS_WORDS: [(&str, &str); 3] = [
    ("bootstrap-defrag-threshold-megabytes", "Skipping defragmentation"),
    ("max-snapshots", "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
    (
        "v2-deprecation",
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is \
         enforced, ignoring user input.",
    ),
];

/// Builds and checks.
///
/// # Errors
/// `Invalid`, with etcd's text.
pub fn build(settings: &Settings, source: Source) -> Result<Config, ConfigError> {
    let values = Values(settings);
    let mut notes = Vec::new();
    let mut config = typed(&values, &mut notes)?;
    depend(&mut config, settings, source, &mut notes);
    check::check(&config, settings, source, &mut notes)?;
    tls::check(&config, &mut notes)?;
    check::check_addresses(&config)?;
    for (name, value) in settings.given() {
        let flag = flags::find(name).expect("settings have only names of the table");
        let message = match flag.support {
            Support::Ignored => "flag has no effect here",
            Support::Later => "flag has no effect yet",
            Support::Works => continue,
        };
        if let Some((_, text)) = ETCDS_WORDS.iter().find(|(flag, _)| *flag == name) {
            notes.push(Note::warn(text, &[]));
        }
        if value != flag.default {
            notes.push(Note::warn(message, &[("flag", name), ("value", value)]));
        }
    }
    for key in settings.unknown_keys() {
        notes.push(Note::warn("the configuration file has an unknown key", &[("key", key)]));
    }
    config.shown = shown::fields(settings);
    config.notes = notes;
    Ok(config)
}

/// Defaults that depend on other flags.
fn depend(config: &mut Config, settings: &Settings, source: Source, notes: &mut Vec<Note>) {
    let default_cluster = flags::find("initial-cluster").map_or("", |flag| flag.default);
    // Founders are found, unless they are named.
    let is_wanted = config.discovery.is_wanted()
        || (source == Source::CommandLine && !config.discovery.service_name.is_empty());
    if is_wanted && !settings.is_given("initial-cluster") {
        config.initial_cluster.clear();
    }
    // Whoever chooses where to listen must say where to be reached.
    let is_unreachable = source == Source::CommandLine
        && settings.is_given("listen-client-urls")
        && !settings.is_given("advertise-client-urls");
    if is_unreachable {
        config.advertise_client_urls.clear();
    }
    default_host::advertise(config, default_host::find, notes);
    if config.name != "default" && config.initial_cluster == default_cluster {
        let pairs = config.initial_advertise_peer_urls.iter();
        let pairs: Vec<String> = pairs.map(|url| format!("{}={url}", config.name)).collect();
        config.initial_cluster = pairs.join(",");
    }
    if config.data_dir.as_os_str().is_empty() {
        let data_dir = format!("{}.etcd", config.name);
        let message = "'data-dir' was empty; using default";
        notes.push(Note::warn(message, &[("data-dir", &data_dir)]));
        config.data_dir = PathBuf::from(data_dir);
    }
    // An empty list on the command line means the default.
    for (urls, name) in [
        (&mut config.listen_peer_urls, "listen-peer-urls"),
        (&mut config.listen_client_urls, "listen-client-urls"),
        (&mut config.initial_advertise_peer_urls, "initial-advertise-peer-urls"),
    ] {
        let default = flags::find(name).and_then(|flag| url::parse_list(flag.default).ok());
        if urls.is_empty() {
            *urls = default.unwrap_or_default();
        }
    }
}

impl From<String> for ConfigError {
    fn from(text: String) -> Self {
        Self::Invalid(text)
    }
}
