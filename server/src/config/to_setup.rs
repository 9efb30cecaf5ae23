//! From what may be written on a command line to what the server runs with.
//!
//! One idea: everything that can be wrong with the flags of bootstrapping is asked only here, and
//! only counts if the data directory does not know yet who this member is.

use std::path::Path;
use std::sync::Arc;

use varve_disk::Disk;

use super::bootstrap::Founder;
use super::url::Url;
use super::{ClusterState, Config, bootstrap, identity};
use crate::auth::AuthOptions;
use crate::corruption::CorruptionChecks;
use crate::data_dir::{FoundingMember, Identity};
use crate::discovery;
use crate::http::{Access, HttpOptions};
use crate::join;
use crate::limits;
use crate::listener::{ListenAddress, ListenOptions};
use crate::services::RequestLimits;
use crate::setup::{Listen, Setup, Speaks};
use crate::socket::Role;
use crate::tls::made_up::made_up;
use crate::tls::source::Use;
use crate::tls::{TlsOptions, TlsSource};
use crate::watch::catch_up::Bounds;
use crate::worker::ConnectionOptions;

/// Streams that require a leader end after so many election timeouts without one, as in etcd.
const LEADERLESS_ELECTIONS: u32 = 3;

/// What `config` means.
///
/// # Errors
/// Etcd's text if the flags of bootstrapping do not fit each other and the data directory is new.
pub fn setup(config: &Config, disk: &dyn Disk) -> Result<Setup, String> {
    let texts = |urls: &[Url]| urls.iter().map(|url| url.as_str().to_owned()).collect();
    let peer_tls = peer_tls(config, disk)?;
    Ok(Setup {
        name: config.name.clone(),
        identity: own_identity(config, peer_tls.as_deref(), disk)?,
        data_dir: config.data_dir.clone(),
        wal_dir: config.wal_dir.clone(),
        listen: listen(config)?,
        client_tls: client_tls(config, disk)?,
        listen_peers: listen_peers(&config.listen_peer_urls)?,
        peer_tls,
        listen_options: ListenOptions { reuse_port: config.socket_reuse_port },
        advertise_client_urls: texts(&config.advertise_client_urls),
        tick: config.heartbeat_interval,
        election_ticks: config.election_ticks(),
        pre_vote: config.pre_vote,
        election_tick_advance: config.initial_election_tick_advance,
        force_new_cluster: config.force_new_cluster,
        snapshot_count: config.snapshot_count,
        snapshot_catchup_entries: config.snapshot_catchup_entries,
        lease_reads: config.lease_reads,
        snapshot_bytes_per_second: config.snapshot_bytes_per_second,
        snapshots_from_followers: config.snapshots_from_followers,
        log: log(config),
        auth: auth(config),
        requests: RequestLimits {
            txn_ops_max: config.txn_ops_max,
            request_bytes_max: config.request_bytes_max,
            request_timeout: config.request_timeout(),
            lease_ttl_min: config.lease_ttl_min_seconds(),
            leaderless_max: config.election_timeout * LEADERLESS_ELECTIONS,
            strict_reconfig_check: config.strict_reconfig_check,
            learners_max: config.learners_max,
            quota_bytes: config
                .quota_bytes
                .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            catch_up: Bounds::default(),
        },
        connections: ConnectionOptions {
            concurrent_streams_max: config.concurrent_streams_max,
            keepalive_interval: config.grpc_keepalive_interval,
            keepalive_timeout: config.grpc_keepalive_timeout,
        },
        http: http_options(config),
        socket_threads: std::thread::available_parallelism()
            .map_or(1, std::num::NonZero::get)
            .min(limits::SOCKET_THREADS_MAX),
        auto_compaction: config.auto_compaction,
        corruption: CorruptionChecks {
            at_start: config.features.is_on("InitialCorruptCheck"),
            period: config.corrupt_check_interval,
            compactions: config
                .features
                .is_on("CompactHashCheck")
                .then_some(config.compact_hash_check_interval),
        },
        warning_apply_duration: config.warning_apply_duration,
        warning_unary_request_duration: config.warning_unary_request_duration,
        lease_checkpoint_interval: config
            .features
            .is_on("LeaseCheckpoint")
            .then_some(limits::LEASE_CHECKPOINT_INTERVAL),
        trace: config.trace.clone(),
        progress_interval: config.watch_progress_notify_interval,
        engine: engine(config),
    })
}

/// Where peers are listened for, and whether TLS is spoken there.
fn listen_peers(urls: &[Url]) -> Result<Vec<(ListenAddress, bool)>, String> {
    urls.iter().map(|url| Ok((url.listen_address()?, url.is_secure()))).collect()
}

fn engine(config: &Config) -> varve_lsm::Options {
    varve_lsm::Options {
        compression: config.compress_cold_values.then(varve_lsm::Compression::default),
        ..varve_lsm::Options::default()
    }
}

fn log(config: &Config) -> varve_wal::Options {
    varve_wal::Options {
        cache_bytes_max: limits::LOG_CACHE_BYTES_MAX,
        backend: config.log_backend,
        compress_bytes_min: config.log_compress_bytes_min,
        ..varve_wal::Options::default()
    }
}

fn auth(config: &Config) -> AuthOptions {
    AuthOptions {
        token: config.auth_token.clone(),
        token_time_to_live: config.auth_token_ttl,
        bcrypt_cost: config.bcrypt_cost,
        client_cert_auth: config.tls.clients.client_cert_auth,
    }
}

/// Every address for clients with what it is for. One that stands in the list with and without TLS
/// is listened on once, for both.
fn listen(config: &Config) -> Result<Vec<Listen>, String> {
    let clients =
        if config.listen_client_http_urls.is_empty() { Role::Client } else { Role::GrpcOnly };
    let mut found: Vec<Listen> = Vec::new();
    for (urls, role) in [
        (&config.listen_client_urls, clients),
        (&config.listen_client_http_urls, Role::HttpOnly),
        (&config.listen_metrics_urls, Role::Metrics),
    ] {
        for url in urls {
            let address = url.listen_address()?;
            let speaks = if url.is_secure() { Speaks::Tls } else { Speaks::Plain };
            let same =
                found.iter_mut().find(|known| known.address == address && known.role == role);
            match same {
                Some(known) if known.speaks == speaks => {}
                Some(_) if matches!(address, ListenAddress::Unix(_)) => {
                    return Err(format!(
                        "cannot serve both unix and unixs on the same path: {url}"
                    ));
                }
                Some(known) => known.speaks = Speaks::Either,
                None => found.push(Listen { address, role, speaks }),
            }
        }
    }
    Ok(found)
}

fn http_options(config: &Config) -> HttpOptions {
    HttpOptions {
        access: Access { origins: config.cors.clone(), hosts: config.host_whitelist.clone() },
        has_gateway: config.enable_grpc_gateway,
        has_profiles: config.enable_pprof || config.log.level.0 >= tracing::Level::DEBUG,
    }
}

/// The certificates for clients, if any listener has a use for them.
fn client_tls(config: &Config, disk: &dyn Disk) -> Result<Option<Arc<TlsSource>>, String> {
    let clients = config.listen_client_urls.iter().chain(&config.listen_client_http_urls);
    if !clients.clone().chain(&config.listen_metrics_urls).any(Url::is_secure) {
        return Ok(None);
    }
    let hosts: Vec<&str> = clients.map(Url::host).collect();
    let made_up = config.tls.makes_up_clients.then_some(("client", hosts.as_slice()));
    source(config, &config.tls.clients, made_up, Use::Accept, disk).map(Some)
}

/// The certificates for members, if any is spoken to with TLS.
fn peer_tls(config: &Config, disk: &dyn Disk) -> Result<Option<Arc<TlsSource>>, String> {
    let options = &config.tls.members;
    let is_spoken = config.initial_cluster.contains("https://")
        || config.listen_peer_urls.iter().any(Url::is_secure);
    let is_given = config.tls.makes_up_members
        || !options.has_no_certificate()
        || options.trusted_ca_file.is_some();
    if !is_spoken && !is_given {
        return Ok(None);
    }
    let hosts: Vec<&str> = config.listen_peer_urls.iter().map(Url::host).collect();
    let made_up = config.tls.makes_up_members.then_some(("peer", hosts.as_slice()));
    source(config, options, made_up, Use::AcceptAndDial, disk).map(Some)
}

/// Reads the files, after making those up that are wanted and not given.
fn source(
    config: &Config,
    options: &TlsOptions,
    wanted: Option<(&str, &[&str])>,
    used_for: Use,
    disk: &dyn Disk,
) -> Result<Arc<TlsSource>, String> {
    let mut options = options.clone();
    if let Some((whose, hosts)) = wanted.filter(|_| options.has_no_certificate()) {
        let directory = config.data_dir.join("fixtures").join(whose);
        let years = config.tls.made_up_validity_years;
        let (cert_file, key_file) = made_up(disk, &directory, hosts, years)
            .map_err(|error| format!("failed to get {whose} self-signed certs: {error}"))?;
        // As in etcd, nothing else that was said about certificates counts then.
        options = TlsOptions {
            cert_file: Some(cert_file),
            key_file: Some(key_file),
            is_made_up: true,
            cipher_suites: options.cipher_suites,
            version_min: options.version_min,
            version_max: options.version_max,
            ..TlsOptions::default()
        };
    }
    TlsSource::load(options, used_for).map(Arc::new)
}

/// Who the flags say this member is. If the data directory knows better, what is wrong with the
/// flags does not matter.
fn own_identity(
    config: &Config,
    tls: Option<&TlsSource>,
    disk: &dyn Disk,
) -> Result<Identity, String> {
    if config.discovery.is_wanted() {
        return own_with_founders_found(config, tls, disk);
    }
    if !is_initialized(&config.data_dir, disk)? {
        return named(config, tls);
    }
    // Nobody is asked on a restart.
    let flags = match config.initial_cluster_state {
        ClusterState::Existing => None,
        ClusterState::New => founded(config).ok().map(|(identity, _)| identity),
    };
    Ok(flags.unwrap_or_else(|| Identity::new(0, 0, Vec::new())))
}

/// As [`own_identity`], if the founders are to be found first. Nobody is asked on a restart.
fn own_with_founders_found(
    config: &Config,
    tls: Option<&TlsSource>,
    disk: &dyn Disk,
) -> Result<Identity, String> {
    if is_initialized(&config.data_dir, disk)? {
        if !config.discovery.endpoints.is_empty() {
            let text = "discovery token is ignored since cluster already initialized; valid logs \
                        are found";
            tracing::warn!("{text}");
        }
        return Ok(Identity::new(0, 0, Vec::new()));
    }
    named(&discovery::find(config)?, tls)
}

/// Who this member is among those that `--initial-cluster` names.
fn named(config: &Config, tls: Option<&TlsSource>) -> Result<Identity, String> {
    match config.initial_cluster_state {
        ClusterState::New => founding(config, tls),
        ClusterState::Existing => joining(config, tls),
    }
}

/// Who this member is among the founders, unless it has been there before: what it acknowledged then
/// is gone, and with its vote a majority of others who do not have it either could lead.
fn founding(config: &Config, tls: Option<&TlsSource>) -> Result<Identity, String> {
    let (identity, founders) = founded(config)?;
    let own = identity.member_id;
    let others = founders.iter().filter(|founder| founder.id != own);
    if join::has_started(own, others.flat_map(|founder| &founder.peer_urls), tls)? {
        return Err(format!("member {own:x} has already been bootstrapped"));
    }
    Ok(identity)
}

/// Who the members of a running cluster say this member is.
fn joining(config: &Config, tls: Option<&TlsSource>) -> Result<Identity, String> {
    let named = bootstrap::verify_existing(config)?;
    let own_urls = &config.initial_advertise_peer_urls;
    let others = named.members.iter().filter(|(name, _)| **name != config.name);
    let others: Vec<&Url> = others.flat_map(|(_, urls)| urls).collect();
    let others = others.into_iter().filter(|url| !own_urls.contains(url));
    let cluster = join::ask_members(others, tls)?;
    let members = bootstrap::assign_ids(&named, &cluster.members)?;
    let own = members.iter().find(|member| member.name == config.name);
    let own = own.ok_or("this member is not among the members of the cluster")?.id;
    Ok(Identity::joined(cluster.cluster_id, own, members))
}

/// Who the flags say this member is, and all founders.
fn founded(config: &Config) -> Result<(Identity, Vec<Founder>), String> {
    let founders = bootstrap::verify_new(config)?;
    let own = founders.iter().find(|founder| founder.name == config.name);
    let own = own.ok_or("this member is not among the founders")?;
    let cluster_id = identity::cluster_id(founders.iter().map(|founder| founder.id));
    let members = founders
        .iter()
        .map(|founder| FoundingMember {
            id: founder.id,
            name: founder.name.clone(),
            peer_urls: founder.peer_urls.iter().map(|url| url.as_str().to_owned()).collect(),
        })
        .collect();
    Ok((Identity::new(cluster_id, own.id, members), founders))
}

fn is_initialized(data_dir: &Path, disk: &dyn Disk) -> Result<bool, String> {
    disk.exists(&data_dir.join("member").join("IDENTITY")).map_err(|error| error.to_string())
}
