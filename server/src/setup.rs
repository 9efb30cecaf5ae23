//! What the server runs with: flags after they were understood. `config` says what may be written
//! on a command line; this says what it means.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::AuthOptions;
use crate::config::AutoCompaction;
use crate::corruption::CorruptionChecks;
use crate::data_dir::Identity;
use crate::http::HttpOptions;
use crate::listener::{ListenAddress, ListenOptions};
use crate::services::RequestLimits;
use crate::socket::Role;
use crate::tls::TlsSource;
use crate::trace::TraceOptions;
use crate::worker::ConnectionOptions;

/// Everything that is decided before the start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `--name`.
    pub name: String,
    /// Who this member is, if the data directory does not know better.
    pub identity: Identity,
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// `--wal-dir`.
    pub wal_dir: Option<PathBuf>,
    /// Client, HTTP and metrics addresses.
    pub listen: Vec<Listen>,
    /// Certificates for those of them that speak TLS.
    pub client_tls: Option<Arc<TlsSource>>,
    /// `--listen-peer-urls`, and whether TLS is spoken there.
    pub listen_peers: Vec<(ListenAddress, bool)>,
    /// Certificates for members.
    pub peer_tls: Option<Arc<TlsSource>>,
    /// How to bind.
    pub listen_options: ListenOptions,
    /// `--advertise-client-urls`.
    pub advertise_client_urls: Vec<String>,
    /// `--heartbeat-interval`: a tick.
    pub tick: Duration,
    /// `--election-timeout` in ticks.
    pub election_ticks: usize,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--initial-election-tick-advance`.
    pub election_tick_advance: bool,
    /// `--force-new-cluster`.
    pub force_new_cluster: bool,
    /// `--snapshot-count`.
    pub snapshot_count: u64,
    /// `--warning-apply-duration`.
    pub warning_apply_duration: Duration,
    /// `--warning-unary-request-duration`.
    pub warning_unary_request_duration: Duration,
    /// `--snapshot-catchup-entries`.
    pub snapshot_catchup_entries: u64,
    /// `--experimental-varve-lease-reads`.
    pub lease_reads: bool,
    /// `--experimental-varve-snapshot-bytes-per-second`; 0 for no bound.
    pub snapshot_bytes_per_second: u64,
    /// `--experimental-varve-snapshots-from-followers`.
    pub snapshots_from_followers: bool,
    /// Tokens and passwords.
    pub auth: AuthOptions,
    /// Limits of requests.
    pub requests: RequestLimits,
    /// Limits of connections.
    pub connections: ConnectionOptions,
    /// What the HTTP paths do, and for whom.
    pub http: HttpOptions,
    /// Time between two checkpoints of a lease; none are made without. With the feature gate
    /// `LeaseCheckpoint`.
    pub lease_checkpoint_interval: Option<Duration>,
    /// `--distributed-tracing-*`, if `--enable-distributed-tracing`.
    pub trace: Option<TraceOptions>,
    /// Number of socket threads.
    pub socket_threads: usize,
    /// `--auto-compaction-mode`, `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// When members compare their data.
    pub corruption: CorruptionChecks,
    /// `--watch-progress-notify-interval`.
    pub progress_interval: Duration,
    /// The engine's sizes; whose it is follows from the identity.
    pub engine: varve_lsm::Options,
    /// The log's sizes, `--experimental-varve-log-backend` and
    /// `--experimental-varve-log-compress-min-bytes`; whose it is follows from the identity.
    pub log: varve_wal::Options,
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: ListenAddress,
    /// What for.
    pub role: Role,
    /// How.
    pub speaks: Speaks,
}

/// What is spoken on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP in plain.
    Plain,
    /// TLS.
    Tls,
    /// As the client likes.
    Either,
}
