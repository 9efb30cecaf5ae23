//! The configuration of a server: etcd 3.7.1's flags, environment and file, typed and checked.
//!
//! One idea: three sources, one set of texts ([`settings`]), one typed [`Config`]. Whatever etcd
//! accepts is accepted, and whatever it refuses is refused with its words and its exit code, so
//! that manifests and wrappers written for etcd work unchanged.
//!
//! What it does not do: look at the data directory; say whether the flags of bootstrapping fit
//! (see [`bootstrap`], only asked on a first start).

use std::path::PathBuf;
use std::time::Duration;

use varve_disk::Disk;
use varve_wal::BackendChoice;

pub mod bootstrap;
mod build;
mod check;
mod default_host;
pub mod duration;
pub mod features;
pub mod file;
pub mod flag;
pub mod flags;
pub mod help;
pub mod identity;
pub mod settings;
pub mod shown;
mod tls;
pub mod to_setup;
mod typed;
pub mod url;
mod values;

use settings::{CommandLine, Settings};
use tls::TlsFlags;
use url::Url;

use crate::auth::TokenOptions;
use crate::discovery::DiscoveryOptions;
use crate::metrics::Detail;
use crate::trace::TraceOptions;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--name`.
    pub name: String,
    /// `--data-dir`; by default the name with `.etcd` added.
    pub data_dir: PathBuf,
    /// `--wal-dir`.
    pub wal_dir: Option<PathBuf>,
    /// `--snapshot-count`, in entries.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`.
    pub snapshot_catchup_entries: u64,
    /// `--experimental-varve-log-backend`.
    pub log_backend: BackendChoice,
    /// `--experimental-varve-log-compress-min-bytes`; none are when it is 0.
    pub log_compress_bytes_min: Option<u32>,
    /// `--experimental-varve-compress-cold-values`.
    pub compress_cold_values: bool,
    /// `--experimental-varve-lease-reads`.
    pub lease_reads: bool,
    /// `--experimental-varve-snapshot-bytes-per-second`; 0 for no bound.
    pub snapshot_bytes_per_second: u64,
    /// `--experimental-varve-snapshots-from-followers`.
    pub snapshots_from_followers: bool,
    /// `--heartbeat-interval`.
    pub heartbeat_interval: Duration,
    /// `--election-timeout`; at least five heartbeats, at most 50 s.
    pub election_timeout: Duration,
    /// `--initial-election-tick-advance`.
    pub initial_election_tick_advance: bool,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--strict-reconfig-check`.
    pub strict_reconfig_check: bool,
    /// `--max-learners`.
    pub learners_max: usize,

    /// `--listen-peer-urls`.
    pub listen_peer_urls: Vec<Url>,
    /// `--listen-client-urls`.
    pub listen_client_urls: Vec<Url>,
    /// `--listen-client-http-urls`; if not empty, `listen_client_urls` are for gRPC only.
    pub listen_client_http_urls: Vec<Url>,
    /// `--listen-metrics-urls`.
    pub listen_metrics_urls: Vec<Url>,
    /// `--initial-advertise-peer-urls`.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// `--advertise-client-urls`.
    pub advertise_client_urls: Vec<Url>,
    /// `--initial-cluster`, as text; see [`bootstrap`].
    pub initial_cluster: String,
    /// `--initial-cluster-state`.
    pub initial_cluster_state: ClusterState,
    /// `--initial-cluster-token`.
    pub initial_cluster_token: String,
    /// `--discovery-*`.
    pub discovery: DiscoveryOptions,
    /// `--force-new-cluster`.
    pub force_new_cluster: bool,

    /// `--quota-backend-bytes`: size at which writes are refused; `None` is never.
    pub quota_bytes: Option<u64>,
    /// `--max-txn-ops`.
    pub txn_ops_max: usize,
    /// `--max-request-bytes`.
    pub request_bytes_max: usize,
    /// `--max-concurrent-streams`, per connection.
    pub concurrent_streams_max: u32,
    /// `--grpc-keepalive-interval`; `None` is never.
    pub grpc_keepalive_interval: Option<Duration>,
    /// `--grpc-keepalive-timeout`.
    pub grpc_keepalive_timeout: Duration,
    /// `--memory-mlock`.
    pub memory_mlock: bool,
    /// `--socket-reuse-port`.
    pub socket_reuse_port: bool,
    /// `--watch-progress-notify-interval`, at least 100 ms.
    pub watch_progress_notify_interval: Duration,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// `--corrupt-check-time`; `None` is never.
    pub corrupt_check_interval: Option<Duration>,
    /// `--compact-hash-check-time`.
    pub compact_hash_check_interval: Duration,
    /// `--warning-apply-duration`.
    pub warning_apply_duration: Duration,
    /// `--warning-unary-request-duration`.
    pub warning_unary_request_duration: Duration,
    /// `--feature-gates`.
    pub features: features::Gates,
    /// `--unsafe-no-fsync`.
    pub unsafe_no_fsync: bool,

    /// `--auth-token`.
    pub auth_token: TokenOptions,
    /// `--auth-token-ttl`.
    pub auth_token_ttl: Duration,
    /// `--bcrypt-cost`, 4 to 31.
    pub bcrypt_cost: u32,

    /// TLS of clients and members.
    pub tls: TlsFlags,

    /// `--enable-grpc-gateway`.
    pub enable_grpc_gateway: bool,
    /// `--enable-pprof`.
    pub enable_pprof: bool,
    /// `--cors`: allowed origins; empty or `*` is all.
    pub cors: Vec<String>,
    /// `--host-whitelist`; empty or `*` is all.
    pub host_whitelist: Vec<String>,
    /// `--metrics`.
    pub metrics: Detail,
    /// `--distributed-tracing-*`, if `--enable-distributed-tracing`.
    pub trace: Option<TraceOptions>,
    /// `--log-level`, `--log-format`, `--log-outputs`.
    pub log: crate::log::LogOptions,

    /// All flags, as JSON fields for the log.
    pub shown: String,
    /// What is to be logged once logging works.
    pub notes: Vec<Note>,
}

impl Config {
    /// How long a request may take: 5 s for the disk and two elections, as in etcd.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// Shortest time to live of a lease, in seconds: one and a half elections, rounded up.
    pub fn lease_ttl_min_seconds(&self) -> i64 {
        let millis = 3 * self.election_timeout.as_millis() / 2;
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
    }

    /// Ticks of one heartbeat interval in an election timeout.
    pub fn election_ticks(&self) -> usize {
        (self.election_timeout.as_millis() / self.heartbeat_interval.as_millis()) as usize
    }
}

/// `--initial-cluster-state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Found a cluster.
    New,
    /// Join one.
    Existing,
}

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// All of it.
    Off,
    /// That of the last so long.
    Periodic(Duration),
    /// The last so many revisions.
    Revision(i64),
}

/// A line for the log that was due before logging worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a warning.
    pub is_warning: bool,
    /// The text.
    pub message: String,
    /// Its fields.
    pub fields: Vec<(String, String)>,
}

impl Note {
    /// Something to know.
    pub fn info(message: &str, fields: &[(&str, &str)]) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let fields = fields.iter().map(own).collect();
        Self { is_warning: false, message: message.to_owned(), fields }
    }

    /// Something to look at.
    pub fn warn(message: &str, fields: &[(&str, &str)]) -> Self {
        Self { is_warning: true, ..Self::info(message, fields) }
    }
}

/// Why there is no configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An environment variable and its flag were both given. Exit code 1.
    #[error(
        "conflicting environment variable is shadowed by corresponding command-line flag \
         (either unset environment variable or disable flag))"
    )]
    Conflict(String),
    /// A value or a combination of values is not possible. Exit code 1.
    #[error("{0}")]
    Invalid(String),
    /// A mistake on the command line: printed with the usage. Exit code 2.
    #[error("{0}")]
    Usage(String),
}

/// What the program was asked to do.
#[derive(Debug)]
pub enum Invocation {
    /// Print to stdout and exit with 0.
    Print(String),
    /// Serve.
    Run(Box<Config>),
}

/// Reads arguments (without the program's name), environment and, if they name one, the
/// configuration file.
///
/// # Errors
/// With etcd's texts; see [`ConfigError`] for exit codes. `notes` has what is to be logged first.
pub fn load(
    arguments: &[String],
    environment: &[(String, String)],
    disk: &dyn Disk,
    notes: &mut Vec<Note>,
) -> Result<Invocation, ConfigError> {
    if let Some(command) = arguments.first().filter(|first| is_subcommand(first)) {
        return Err(ConfigError::Invalid(format!("the command {command:?} is not supported")));
    }
    let mut settings = match Settings::from_arguments(arguments)? {
        CommandLine::Help => {
            return Ok(Invocation::Print(help::USAGE.to_owned() + "\n" + &help::flags()));
        }
        CommandLine::Settings(settings) => settings,
    };
    if flag::parse_bool(settings.get("version")) == Some(true) {
        return Ok(Invocation::Print(help::version()));
    }
    let mut file_path = settings.get("config-file").to_owned();
    if file_path.is_empty() {
        let from_environment = environment.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE");
        file_path = from_environment.map_or_else(String::new, |(_, value)| value.clone());
    }
    let source = if file_path.is_empty() {
        settings.add_environment(environment, notes)?;
        build::Source::CommandLine
    } else {
        settings = file::parse(&read_file(&file_path, disk)?)?;
        let message = "loaded server configuration, other configuration command line flags and \
                       environment variables will be ignored if provided";
        notes.push(Note::info(message, &[("path", &file_path)]));
        build::Source::File
    };
    let mut config = build::build(&settings, source)?;
    notes.append(&mut config.notes);
    config.notes = std::mem::take(notes);
    Ok(Invocation::Run(Box::new(config)))
}

fn is_subcommand(argument: &str) -> bool {
    matches!(argument, "gateway" | "grpc-proxy")
}

fn read_file(path: &str, disk: &dyn Disk) -> Result<String, ConfigError> {
    let bytes = disk.map(path.as_ref()).map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        ConfigError::Invalid(format!("open {path}: {reason}"))
    })?;
    String::from_utf8(bytes.to_vec())
        .map_err(|_| ConfigError::Invalid(format!("{path}: not UTF-8 text")))
}
