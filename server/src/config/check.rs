//! The checks across flags, in etcd's order and words.

use super::build::Source;
use super::settings::Settings;
use super::url::{self, Url};
use super::{Config, ConfigError, Note};
use crate::trace::SAMPLING_UNIT;

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
    check_bootstrap(config, settings)?;
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
    check_trace(config)?;
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

/// Founders are named, or found in one way.
fn check_bootstrap(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let discovery = &config.discovery;
    let ways =
        [config.initial_cluster.as_str(), &discovery.domain, settings.get("discovery-endpoints")];
    let text = if ways.into_iter().filter(|way| !way.is_empty()).count() > 1 {
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
         \"discovery-endpoints\" or \"discovery-srv\""
    } else if discovery.token.is_empty() != settings.get("discovery-endpoints").is_empty() {
        "both --discovery-token and --discovery-endpoints must be set"
    } else if !discovery.token.is_empty()
        && settings.get("discovery-endpoints").split(',').any(|one| one.trim().is_empty())
    {
        "--discovery-endpoints must not contain empty endpoints"
    } else {
        return Ok(());
    };
    Err(text.to_owned().into())
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

fn check_trace(config: &Config) -> Result<(), ConfigError> {
    let rate = config.trace.as_ref().map_or(0, |trace| trace.sampling_rate);
    let reason = if rate < 0 {
        "tracing sampling rate must be positive".to_owned()
    } else if rate > SAMPLING_UNIT {
        format!("tracing sampling rate must be less than {SAMPLING_UNIT}")
    } else {
        return Ok(());
    };
    Err(format!("distributed tracing configurition is not valid: ({reason})").into())
}

/// Checks that ports are ports.
pub(super) fn check_addresses(config: &Config) -> Result<(), ConfigError> {
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

#[cfg(test)]
mod tests {
    use varve_disk::sim::SimDisk;

    use super::*;
    use crate::config::{Invocation, load};
    use crate::trace::TraceOptions;

    fn loaded(arguments: &[&str]) -> Result<Box<Config>, ConfigError> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        match load(&arguments, &[], &SimDisk::new(1), &mut Vec::new())? {
            Invocation::Run(config) => Ok(config),
            Invocation::Print(text) => panic!("{text}"),
        }
    }

    /// The words are those of etcd 3.7.1 for the same flags.
    #[test]
    fn founders_are_named_or_found_in_one_way() {
        let (srv, token, place) =
            ("--discovery-srv=a.test", "--discovery-token=t", "--discovery-endpoints=a:1");
        let twice = "multiple discovery or bootstrap flags are set. Choose one of \
                     \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"";
        let half = "both --discovery-token and --discovery-endpoints must be set";
        for (arguments, expected) in [
            (&[srv, token, place][..], twice),
            (&[srv, "--initial-cluster=default=http://localhost:2380"], twice),
            (&[token, place, "--initial-cluster=default=http://localhost:2380"], twice),
            (&[token], half),
            (&[place], half),
            (
                &[token, "--discovery-endpoints=a:1,,b:1"],
                "--discovery-endpoints must not contain empty endpoints",
            ),
        ] {
            assert_eq!(loaded(arguments).unwrap_err().to_string(), expected, "{arguments:?}");
        }
        for arguments in [&[srv][..], &[token, place], &["--discovery-srv-name=x"]] {
            let config = loaded(arguments).unwrap();
            assert_eq!(config.initial_cluster, "", "{arguments:?}");
        }
        let config = loaded(&[token, place, "--discovery-user=a:b"]).unwrap();
        assert_eq!(
            (config.discovery.user.as_str(), config.discovery.password.as_str()),
            ("a", "b")
        );
    }

    /// The words are those of etcd 3.7.1 for the same flags.
    #[test]
    fn a_sampling_rate_is_a_part_of_a_million_if_there_are_traces() {
        let on = "--enable-distributed-tracing";
        for (rate, expected) in [
            (
                "-1",
                "distributed tracing configurition is not valid: (tracing sampling rate must be positive)",
            ),
            (
                "1000001",
                "distributed tracing configurition is not valid: (tracing sampling rate must be less than 1000000)",
            ),
        ] {
            let rate = format!("--distributed-tracing-sampling-rate={rate}");
            assert_eq!(loaded(&[on, &rate]).unwrap_err().to_string(), expected);
            assert_eq!(loaded(&[&rate]).unwrap().trace, None);
        }
        let config = loaded(&[
            on,
            "--distributed-tracing-sampling-rate=1000000",
            "--experimental-distributed-tracing-instance-id=a",
        ]);
        let expected = TraceOptions {
            address: "localhost:4317".to_owned(),
            service_name: "etcd".to_owned(),
            instance_id: "a".to_owned(),
            sampling_rate: SAMPLING_UNIT,
        };
        assert_eq!(config.unwrap().trace, Some(expected));
    }
}
