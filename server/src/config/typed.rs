//! The configuration as far as each part of it depends on one flag, or on a few that belong together.
//!
//! One idea: a table of fields, one line each; what takes more than a line has a function below, in
//! the order of the fields. Numbers and words are etcd's.
//!
//! What it does not do: defaults and checks across flags (`build.rs`, `check.rs`), TLS (`tls.rs`).

use std::path::PathBuf;
use std::time::Duration;

use varve_wal::{Backend, BackendChoice};

use super::values::Values;
use super::{AutoCompaction, ClusterState, Config, ConfigError, Note, duration, features, tls};
use crate::auth::{JWT_TIME_TO_LIVE_DEFAULT, TokenOptions};
use crate::discovery::DiscoveryOptions;
use crate::limits;
use crate::log::{JOURNAL, LogFormat, LogLevel, LogOptions, Rotation};
use crate::metrics::Detail;
use crate::trace::TraceOptions;

/// What `--quota-backend-bytes=0` means; the number is etcd's.
const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
/// What `--watch-progress-notify-interval=0` means.
const PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// What `--grpc-keepalive-timeout=0` means.
const KEEPALIVE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);
/// What `--warning-unary-request-duration=0` means.
const WARNING_UNARY_DEFAULT: Duration = Duration::from_millis(300);
/// What `--discovery-dial-timeout=0` means.
const DISCOVERY_DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// What `--discovery-request-timeout=0` means.
const DISCOVERY_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest `--watch-progress-notify-interval`.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Costs that bcrypt has.
const BCRYPT_COSTS: std::ops::RangeInclusive<u64> = 4..=31;
/// What another cost becomes, with a warning.
const BCRYPT_COST_DEFAULT: u32 = 10;

/// Everything that depends on one flag only.
pub(super) fn typed(values: &Values<'_>, notes: &mut Vec<Note>) -> Result<Config, ConfigError> {
    let keepalive_interval = values.duration("grpc-keepalive-interval")?;
    let corrupt_check = values.duration("corrupt-check-time")?;
    Ok(Config {
        name: values.text("name"),
        data_dir: PathBuf::from(values.text("data-dir")),
        wal_dir: values.path("wal-dir"),
        snapshot_count: values.unsigned("snapshot-count")?,
        snapshot_catchup_entries: values.unsigned("snapshot-catchup-entries")?,
        log_backend: log_backend(values),
        log_compress_bytes_min: log_compress_bytes_min(values)?,
        compress_cold_values: values.flag("experimental-varve-compress-cold-values"),
        lease_reads: values.flag("experimental-varve-lease-reads"),
        snapshot_bytes_per_second: values
            .unsigned("experimental-varve-snapshot-bytes-per-second")?,
        snapshots_from_followers: values.flag("experimental-varve-snapshots-from-followers"),
        heartbeat_interval: values.millis("heartbeat-interval")?,
        election_timeout: values.millis("election-timeout")?,
        initial_election_tick_advance: values.flag("initial-election-tick-advance"),
        pre_vote: values.flag("pre-vote"),
        strict_reconfig_check: values.flag("strict-reconfig-check"),
        learners_max: usize::try_from(values.signed("max-learners")?).unwrap_or(0),
        listen_peer_urls: values.urls("listen-peer-urls")?,
        listen_client_urls: values.urls("listen-client-urls")?,
        listen_client_http_urls: values.urls("listen-client-http-urls")?,
        listen_metrics_urls: values.urls("listen-metrics-urls")?,
        initial_advertise_peer_urls: values.urls("initial-advertise-peer-urls")?,
        advertise_client_urls: values.urls("advertise-client-urls")?,
        initial_cluster: values.text("initial-cluster"),
        initial_cluster_state: initial_cluster_state(values),
        initial_cluster_token: values.text("initial-cluster-token"),
        discovery: discovery(values)?,
        force_new_cluster: values.flag("force-new-cluster"),
        quota_bytes: quota_bytes(values)?,
        txn_ops_max: values.size("max-txn-ops")?,
        request_bytes_max: request_bytes_max(values, notes)?,
        concurrent_streams_max: u32::try_from(values.unsigned("max-concurrent-streams")?)
            .unwrap_or(u32::MAX),
        grpc_keepalive_interval: (!keepalive_interval.is_zero()).then_some(keepalive_interval),
        grpc_keepalive_timeout: values
            .duration_or("grpc-keepalive-timeout", KEEPALIVE_TIMEOUT_DEFAULT)?,
        memory_mlock: values.flag("memory-mlock"),
        socket_reuse_port: values.flag("socket-reuse-port"),
        watch_progress_notify_interval: progress_interval(values, notes)?,
        auto_compaction: auto_compaction(
            &values.text("auto-compaction-mode"),
            &values.text("auto-compaction-retention"),
        )?,
        corrupt_check_interval: (!corrupt_check.is_zero()).then_some(corrupt_check),
        compact_hash_check_interval: values.duration("compact-hash-check-time")?,
        warning_apply_duration: values.duration("warning-apply-duration")?,
        warning_unary_request_duration: values
            .duration_or("warning-unary-request-duration", WARNING_UNARY_DEFAULT)?,
        features: features::Gates::parse(&values.0.feature_gates())?,
        unsafe_no_fsync: values.flag("unsafe-no-fsync"),
        auth_token: auth_token(&values.text("auth-token"), notes)?,
        auth_token_ttl: Duration::from_secs(values.unsigned("auth-token-ttl")?),
        bcrypt_cost: bcrypt_cost(values, notes)?,
        tls: tls::flags(values)?,
        enable_grpc_gateway: values.flag("enable-grpc-gateway"),
        enable_pprof: values.flag("enable-pprof"),
        cors: values.list("cors"),
        host_whitelist: values.list("host-whitelist"),
        metrics: metrics_detail(&values.text("metrics")),
        trace: trace(values)?,
        log: log_options(values, notes)?,
        shown: String::new(),
        notes: Vec::new(),
    })
}

fn log_backend(values: &Values<'_>) -> BackendChoice {
    Backend::from_name(&values.text("experimental-varve-log-backend"))
        .map_or(BackendChoice::Auto, BackendChoice::Only)
}

/// 0 is for none; a bound beyond any batch stays one beyond any batch.
fn log_compress_bytes_min(values: &Values<'_>) -> Result<Option<u32>, ConfigError> {
    let bytes = values.unsigned("experimental-varve-log-compress-min-bytes")?;
    Ok((bytes > 0).then(|| u32::try_from(bytes).unwrap_or(u32::MAX)))
}

fn initial_cluster_state(values: &Values<'_>) -> ClusterState {
    match values.text("initial-cluster-state").as_str() {
        "existing" => ClusterState::Existing,
        _ => ClusterState::New,
    }
}

fn discovery(values: &Values<'_>) -> Result<DiscoveryOptions, ConfigError> {
    let (mut user, mut password) =
        (values.text("discovery-user"), values.text("discovery-password"));
    if password.is_empty()
        && let Some((name, secret)) = values.text("discovery-user").split_once(':')
    {
        (user, password) = (name.to_owned(), secret.to_owned());
    }
    Ok(DiscoveryOptions {
        domain: values.text("discovery-srv"),
        service_name: values.text("discovery-srv-name"),
        token: values.text("discovery-token"),
        endpoints: values.list("discovery-endpoints"),
        dial_timeout: values.duration_or("discovery-dial-timeout", DISCOVERY_DIAL_TIMEOUT)?,
        request_timeout: values
            .duration_or("discovery-request-timeout", DISCOVERY_REQUEST_TIMEOUT)?,
        is_plain: values.flag("discovery-insecure-transport"),
        skips_verification: values.flag("discovery-insecure-skip-tls-verify"),
        cert_file: values.path("discovery-cert"),
        key_file: values.path("discovery-key"),
        ca_file: values.path("discovery-cacert"),
        user,
        password,
    })
}

/// `None` for no quota, which is what etcd takes a negative number for.
fn quota_bytes(values: &Values<'_>) -> Result<Option<u64>, ConfigError> {
    Ok(match values.signed("quota-backend-bytes")? {
        0 => Some(QUOTA_BYTES_DEFAULT),
        bytes => u64::try_from(bytes).ok(),
    })
}

fn request_bytes_max(values: &Values<'_>, notes: &mut Vec<Note>) -> Result<usize, ConfigError> {
    let bytes = values.size("max-request-bytes")?;
    if bytes > limits::REQUEST_BYTES_MAX {
        let most = limits::REQUEST_BYTES_MAX;
        return Err(values.wrong("max-request-bytes", &format!("at most {most} is possible")));
    }
    if bytes > limits::REQUEST_BYTES_RECOMMENDED_MAX {
        let (given, limit) = (bytes.to_string(), limits::REQUEST_BYTES_RECOMMENDED_MAX.to_string());
        notes.push(Note::warn(
            "exceeded recommended request limit",
            &[("max-request-bytes", &given), ("recommended-request-bytes", &limit)],
        ));
    }
    Ok(bytes)
}

fn progress_interval(values: &Values<'_>, notes: &mut Vec<Note>) -> Result<Duration, ConfigError> {
    let interval = values.duration("watch-progress-notify-interval")?;
    if interval.is_zero() {
        return Ok(PROGRESS_INTERVAL_DEFAULT);
    }
    if interval < PROGRESS_INTERVAL_MIN {
        notes.push(Note::warn(
            "set watch progress notify interval to minimum value",
            &[("minimum", &duration::format(PROGRESS_INTERVAL_MIN))],
        ));
    }
    Ok(interval.max(PROGRESS_INTERVAL_MIN))
}

/// `--auto-compaction-mode` and `--auto-compaction-retention`: a plain number is hours or
/// revisions, by mode.
fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, ConfigError> {
    let is_periodic = match mode {
        "periodic" => true,
        "revision" => false,
        "" => return Err("undefined auto-compaction-mode".to_owned().into()),
        _ => return Err(format!("unknown auto-compaction-mode {mode:?}").into()),
    };
    let hour_nanos = 3_600_000_000_000_i64;
    let amount = match retention.parse::<i64>() {
        Ok(number) if number >= 0 && is_periodic => number.checked_mul(hour_nanos),
        Ok(number) if number >= 0 => Some(number),
        // etcd reads a duration in either mode; its nanoseconds then count as revisions.
        _ => duration::parse(retention),
    };
    match amount {
        None => {
            let text =
                format!("error parsing CompactionRetention: time: invalid duration {retention:?}");
            Err(text.into())
        }
        Some(..=0) => Ok(AutoCompaction::Off),
        Some(nanos) if is_periodic => Ok(AutoCompaction::Periodic(duration::at_least_zero(nanos))),
        Some(revisions) => Ok(AutoCompaction::Revision(revisions)),
    }
}

/// `simple`, or `jwt` and its options, which are `name=value`.
fn auth_token(text: &str, notes: &mut Vec<Note>) -> Result<TokenOptions, ConfigError> {
    let wrong = || ConfigError::from("auth: invalid auth options".to_owned());
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default();
    let mut options = std::collections::BTreeMap::new();
    for part in parts {
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        if value.contains('=') || options.insert(name, value).is_some() {
            return Err(wrong());
        }
    }
    match kind {
        "simple" => Ok(TokenOptions::Simple),
        "" => Ok(TokenOptions::None),
        "jwt" => {
            let mut take = |name| options.remove(name).filter(|value| !value.is_empty());
            let method = take("sign-method").ok_or_else(wrong)?.to_owned();
            let time_to_live = match take("ttl") {
                None => JWT_TIME_TO_LIVE_DEFAULT,
                Some(ttl) => duration::at_least_zero(duration::parse(ttl).ok_or_else(wrong)?),
            };
            let (private_key, public_key) = (take("priv-key"), take("pub-key"));
            let token = TokenOptions::Jwt {
                method,
                private_key: private_key.map(Into::into),
                public_key: public_key.map(Into::into),
                time_to_live,
            };
            if !options.is_empty() {
                let keys = options.keys().copied().collect::<Vec<_>>().join(",");
                notes.push(Note::warn("unknown JWT options", &[("keys", &keys)]));
            }
            Ok(token)
        }
        _ => Err(wrong()),
    }
}

fn bcrypt_cost(values: &Values<'_>, notes: &mut Vec<Note>) -> Result<u32, ConfigError> {
    let cost = values.unsigned("bcrypt-cost")?;
    match u32::try_from(cost) {
        Ok(fitting) if BCRYPT_COSTS.contains(&cost) => Ok(fitting),
        _ => {
            let (given, used) = (cost.to_string(), BCRYPT_COST_DEFAULT.to_string());
            notes.push(Note::warn(
                "use default bcrypt cost instead of the invalid given cost",
                &[("given-cost", &given), ("default-cost", &used)],
            ));
            Ok(BCRYPT_COST_DEFAULT)
        }
    }
}

fn metrics_detail(text: &str) -> Detail {
    if text == "extensive" { Detail::Extensive } else { Detail::Basic }
}

fn trace(values: &Values<'_>) -> Result<Option<TraceOptions>, ConfigError> {
    let options = TraceOptions {
        address: values.text("distributed-tracing-address"),
        service_name: values.text("distributed-tracing-service-name"),
        instance_id: values.text("distributed-tracing-instance-id"),
        sampling_rate: values.signed("distributed-tracing-sampling-rate")?,
    };
    Ok(values.flag("enable-distributed-tracing").then_some(options))
}

fn log_options(values: &Values<'_>, notes: &mut Vec<Note>) -> Result<LogOptions, ConfigError> {
    let logger = values.text("logger");
    if logger != "zap" {
        return Err(ConfigError::Invalid(format!("unknown logger option {logger:?}")));
    }
    let mut outputs = values.list("log-outputs");
    if outputs.is_empty() {
        outputs.push("default".to_owned());
    }
    if outputs.len() > 1 && outputs.iter().any(|output| output == "default") {
        return Err("multi logoutput for \"default\" is not supported yet".to_owned().into());
    }
    if outputs.iter().any(|output| output == JOURNAL) {
        notes.push(Note::warn("logs for the journal go to stderr", &[("log-outputs", JOURNAL)]));
    }
    let rotation = log_rotation(values, &outputs)?;
    let level = values.text("log-level");
    let format = values.text("log-format");
    Ok(LogOptions {
        level: LogLevel::parse(&level)
            .ok_or_else(|| ConfigError::Invalid(format!("unrecognized level: {level:?}")))?,
        format: LogFormat::parse(&format).ok_or_else(|| {
            let text = format!("unknown log format: {format}, supported values json, console");
            ConfigError::Invalid(text)
        })?,
        outputs,
        rotation,
    })
}

fn log_rotation(values: &Values<'_>, outputs: &[String]) -> Result<Option<Rotation>, ConfigError> {
    if !values.flag("enable-log-rotation") {
        return Ok(None);
    }
    let is_path =
        |output: &&String| !matches!(output.as_str(), "default" | "stderr" | "stdout" | JOURNAL);
    let paths = outputs.iter().filter(is_path).count();
    if paths > 1 || (paths == 0 && outputs.len() == 1) {
        let text =
            "--log-outputs requires a single file path when --log-rotate-config-json is defined";
        return Err(text.to_owned().into());
    }
    Ok(Some(Rotation::parse(&values.text("log-rotation-config-json"))?))
}
