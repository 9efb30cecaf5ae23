//! The checks across flags, in etcd's order and words, and the refusal of what is not supported.

use super::build::Source;
use super::flag::{Kind, Support, parse_bool};
use super::settings::Settings;
use super::url::{self, Url};
use super::{Config, ConfigError, Note, flags};

/// The largest `--election-timeout`, in milliseconds; the number is etcd's.
const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;

/// Checks across flags, in etcd's order.
pub(super) fn check(
    config: &Config,
    settings: &Settings,
    source: Source,
    notes: &mut Vec<Note>,
) -> Result<(), ConfigError> {
    check_urls(config, notes)?;
    let has_token = !settings.get("discovery-token").is_empty();
    if has_token == settings.get("discovery-endpoints").is_empty() {
        let text = "both --discovery-token and --discovery-endpoints must be set";
        return Err(text.to_owned().into());
    }
    check_timing(config)?;
    if config.advertise_client_urls.is_empty() {
        let text =
            "--advertise-client-urls is required when --listen-client-urls is set explicitly";
        return Err(text.to_owned().into());
    }
    // As etcd: its sample of a configuration file has this value.
    if source == Source::CommandLine && settings.get("discovery-fallback") == "proxy" {
        let text =
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"";
        return Err(text.to_owned().into());
    }
    let has = |gate| config.features.is_on(gate);
    if has("LeaseCheckpointPersist") && !has("LeaseCheckpoint") {
        let text = "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint";
        return Err(text.to_owned().into());
    }
    if config.compact_hash_check_interval.is_zero() {
        let text = "--compact-hash-check-time must be >0 (set to 0s)";
        return Err(text.to_owned().into());
    }
    if config.name == "default" {
        let message = "it isn't recommended to use default name, please set a value for --name; \
                       members of one name are taken for one";
        notes.push(Note::warn(message, &[("name", &config.name)]));
    }
    Ok(())
}

fn check_urls(config: &Config, notes: &mut Vec<Note>) -> Result<(), ConfigError> {
    for url in bound_urls(config) {
        url.check_bind()?;
    }
    if config.listen_client_http_urls.is_empty() {
        let message = "Running http and grpc server on single port. \
                       This is not recommended for production.";
        notes.push(Note::info(message, &[]));
    }
    for url in &config.initial_advertise_peer_urls {
        url.check_host().map_err(|error| {
            let list = url::join(&config.initial_advertise_peer_urls);
            format!("--initial-advertise-peer-urls {list:?} must be \"host:port\" ({error})")
        })?;
    }
    for url in &config.advertise_client_urls {
        url.check_host().map_err(|error| {
            let list = url::join(&config.advertise_client_urls);
            format!(
                "--advertise-client-urls {list:?} must be in the format \"host:port\", \
                 \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" ({error})"
            )
        })?;
    }
    Ok(())
}

fn check_timing(config: &Config) -> Result<(), ConfigError> {
    let tick = config.heartbeat_interval.as_millis();
    let election = config.election_timeout.as_millis();
    let text = if tick == 0 {
        format!("--heartbeat-interval must be >0 (set to {tick}ms)")
    } else if election == 0 {
        format!("--election-timeout must be >0 (set to {election}ms)")
    } else if 5 * tick > election {
        format!(
            "--election-timeout[{election}ms] should be at least as 5 times as \
             --heartbeat-interval[{tick}ms]"
        )
    } else if election > u128::from(ELECTION_TIMEOUT_MS_MAX) {
        format!(
            "--election-timeout[{election}ms] is too long, and should be set less than \
             {ELECTION_TIMEOUT_MS_MAX}ms"
        )
    } else {
        return Ok(());
    };
    Err(text.into())
}

/// Refuses what it would be wrong to ignore.
pub(super) fn refuse_unsupported(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    for (name, value) in settings.given() {
        let flag = flags::find(name).expect("settings have only names of the table");
        let is_default = match flag.kind {
            Kind::Bool => parse_bool(value) == parse_bool(flag.default),
            _ => value == flag.default,
        };
        if flag.support == Support::Refused && !is_default {
            return Err(format!("--{name}: discovery is not supported yet").into());
        }
    }
    for url in bound_urls(config) {
        url.listen_address()?;
    }
    Ok(())
}

/// Every URL that is listened on.
fn bound_urls(config: &Config) -> impl Iterator<Item = &Url> {
    let Config {
        listen_peer_urls,
        listen_client_urls,
        listen_client_http_urls,
        listen_metrics_urls,
        ..
    } = config;
    [listen_peer_urls, listen_client_urls, listen_client_http_urls, listen_metrics_urls]
        .into_iter()
        .flatten()
}
