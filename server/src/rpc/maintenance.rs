//! `etcdserverpb.Maintenance`: Status, Alarm, Defragment, Hash, HashKV, Snapshot, Downgrade. The
//! rest is elsewhere or not supported yet.
//!
//! Hashes read everything, so they are computed on the read pool.

use bytes::Bytes;
use tokio::sync::Semaphore;
use varve_api::etcdserverpb::downgrade_request::DowngradeAction;
use varve_api::etcdserverpb::{
    DefragmentRequest, DefragmentResponse, DowngradeInfo, DowngradeRequest, DowngradeResponse,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use varve_api::{Code, Status, error, method};
use varve_store::{Alarm, CommandKind, Downgrade, KvHash, Release, Reply};

use super::kv::unexpected;
use crate::grpc::{Encoded, Outgoing, Router};
use crate::limits;
use crate::metrics::Held;
use crate::services::Services;
use crate::snapshot::save::{self, Piece};
use crate::version::{ETCD_VERSION, RELEASE, cluster_release};

/// Registers the service.
pub fn register(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary(&method::MAINTENANCE_STATUS, move |_, request| status(s.clone(), request));
    let s = services.clone();
    router.unary_raw(&method::MAINTENANCE_ALARM, move |_, body| alarm(s.clone(), body));
    let s = services.clone();
    router.unary(&method::MAINTENANCE_DEFRAGMENT, move |_, request| defragment(s.clone(), request));
    let s = services.clone();
    router.unary(&method::MAINTENANCE_HASH, move |_, request| hash(s.clone(), request));
    let s = services.clone();
    router.unary(&method::MAINTENANCE_DOWNGRADE, move |_, request| downgrade(s.clone(), request));
    let s = services.clone();
    router.unary(&method::MAINTENANCE_HASH_KV, move |_, request| hash_kv(s.clone(), request));
    let s = services.clone();
    router.server_stream(&method::MAINTENANCE_SNAPSHOT, move |_, request, outgoing| {
        snapshot(s.clone(), request, outgoing)
    });
}

async fn status(services: Services, _: StatusRequest) -> Result<StatusResponse, Status> {
    let cluster = &services.cluster;
    let sizes = services.view.db_sizes();
    let leader = cluster.leader();
    let downgrade = services.view.downgrade()?;
    let mut errors = Vec::new();
    if leader == 0 {
        errors.push(error::NO_LEADER.message.to_owned());
    }
    errors.extend(services.view.alarms()?.iter().map(alarm_text));
    Ok(StatusResponse {
        header: Some(cluster.header(services.view.revision())),
        version: ETCD_VERSION.to_owned(),
        db_size: i64::try_from(sizes.disk_bytes + sizes.memtable_bytes).unwrap_or(i64::MAX),
        leader,
        raft_index: cluster.committed(),
        raft_term: cluster.term(),
        raft_applied_index: cluster.applied(),
        errors,
        db_size_in_use: i64::try_from(sizes.logical_bytes()).unwrap_or(i64::MAX),
        is_learner: cluster.is_learner(),
        storage_version: format!("{}.0", cluster_release(downgrade)),
        db_size_quota: services.limits.quota_bytes,
        downgrade_info: Some(DowngradeInfo {
            enabled: downgrade.is_some(),
            target_version: downgrade.map_or_else(String::new, |target| format!("{target}.0")),
        }),
    })
}

/// An alarm as etcd shows it: the text form of its message.
fn alarm_text(alarm: &Alarm) -> String {
    format!("memberID:{} alarm:{}", alarm.member_id, alarm.name())
}

/// Listing goes through consensus too, as in etcd: what it tells is not stale.
async fn alarm(services: Services, body: Bytes) -> Result<Encoded, Status> {
    match services.propose(CommandKind::Alarm, body).await? {
        Reply::Alarm(mut response) => {
            services.complete(&mut response.header);
            Encoded::bounded(&response)
        }
        other => Err(unexpected(&other)),
    }
}

/// There is nothing to defragment; what the engine has due anyway is done when this answers.
async fn defragment(
    services: Services,
    _: DefragmentRequest,
) -> Result<DefragmentResponse, Status> {
    tracing::info!("starting defragment");
    let _under_way = Held::new(&services.metrics.defrag_inflight);
    let timer = services.metrics.backend_defrag_seconds.start_timer();
    services.background.wake();
    services.wait_for_background().await;
    timer.observe_duration();
    tracing::info!("finished defragment");
    // As etcd's, without a header.
    Ok(DefragmentResponse { header: None })
}

async fn hash(services: Services, _: HashRequest) -> Result<HashResponse, Status> {
    let view = services.view.clone();
    let timer = services.metrics.hash_seconds.start_timer();
    let hash = services.read_pool.run(move || view.hash()).await??;
    timer.observe_duration();
    let header = Some(services.cluster.header(hash.current_revision));
    Ok(HashResponse { header, hash: hash.hash })
}

async fn hash_kv(services: Services, request: HashKvRequest) -> Result<HashKvResponse, Status> {
    let (view, revision) = (services.view.clone(), request.revision);
    let told = services.told_hashes.before_compaction(revision, view.compacted());
    let hash = match told {
        Some(told) => KvHash { current_revision: view.revision(), ..told },
        None => {
            let timer = services.metrics.hash_rev_seconds.start_timer();
            let hash = services.read_pool.run(move || view.hash_kv(revision)).await??;
            timer.observe_duration();
            services.told_hashes.remember(hash);
            hash
        }
    };
    Ok(HashKvResponse {
        header: Some(services.cluster.header(hash.current_revision)),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    })
}

/// What is committed here, as a database of etcd's and its SHA-256.
async fn snapshot(
    services: Services,
    _: SnapshotRequest,
    outgoing: Outgoing,
) -> Result<(), Status> {
    static UNDER_WAY: Semaphore = Semaphore::const_new(limits::SNAPSHOTS_MAX);
    let _place = UNDER_WAY.try_acquire().map_err(|_| error::TOO_MANY_REQUESTS)?;
    // Told when it ends, however that is.
    let _timer = services.metrics.backend_snapshot_seconds.start_timer();
    let export = services.view.export(RELEASE)?;
    let version = export.storage_version();
    let started = save::start(export);
    let mut pieces = started.map_err(|error| Status::new(Code::Internal, error.to_string()))?;
    while let Some(piece) = pieces.recv().await {
        let Piece { remaining_bytes, blob } = piece?;
        // As etcd's, without a header.
        let response =
            SnapshotResponse { header: None, remaining_bytes, blob, version: version.clone() };
        if outgoing.send(Encoded::message(&response)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Tells whether a downgrade is possible, begins it, or ends it. The answer has the version that the
/// cluster had before.
async fn downgrade(
    services: Services,
    request: DowngradeRequest,
) -> Result<DowngradeResponse, Status> {
    let action = DowngradeAction::try_from(request.action);
    let action = action.map_err(|_| Status::new(Code::Unknown, "etcdserver: unknown method"))?;
    let target = match action {
        DowngradeAction::Validate | DowngradeAction::Enable => {
            Some(Release::parse(&request.version).ok_or(error::WRONG_DOWNGRADE_VERSION_FORMAT)?)
        }
        DowngradeAction::Cancel => None,
    };
    services.read_barrier().await?;
    let in_progress = services.view.downgrade()?;
    let current = cluster_release(in_progress);
    if target.is_some() && in_progress.is_some() {
        return Err(error::DOWNGRADE_IN_PROCESS.into());
    }
    if target.is_some_and(|target| current.before() != Some(target)) {
        return Err(error::INVALID_DOWNGRADE_TARGET_VERSION.into());
    }
    let command = match (action, target) {
        (DowngradeAction::Enable, Some(target)) => Some(Downgrade::Enable(target)),
        (DowngradeAction::Cancel, _) => Some(Downgrade::Cancel),
        _ => None,
    };
    if let Some(command) = command {
        services.propose(CommandKind::Downgrade, command.encode()).await?;
        tracing::info!(?command, from = %current, "changed the downgrade of the cluster");
    }
    Ok(DowngradeResponse {
        header: Some(services.cluster.header(services.view.revision())),
        version: current.to_string(),
    })
}
