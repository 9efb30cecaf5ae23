//! `etcdserverpb.Maintenance`: Status, Alarm, Defragment, Hash, HashKV. The rest is not supported
//! yet.
//!
//! Hashes read everything, so they are computed on the read pool.

use bytes::Bytes;
use varve_api::etcdserverpb::{
    DefragmentRequest, DefragmentResponse, DowngradeInfo, HashKvRequest, HashKvResponse,
    HashRequest, HashResponse, StatusRequest, StatusResponse,
};
use varve_api::{Status, error, method};
use varve_store::{Alarm, CommandKind, Reply};

use super::kv::unexpected;
use crate::grpc::{Encoded, Router};
use crate::services::Services;
use crate::version::{ETCD_VERSION, STORAGE_VERSION};

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
    router.unary(&method::MAINTENANCE_HASH_KV, move |_, request| hash_kv(s.clone(), request));
}

async fn status(services: Services, _: StatusRequest) -> Result<StatusResponse, Status> {
    let cluster = &services.cluster;
    let sizes = services.view.db_sizes();
    let leader = cluster.leader();
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
        is_learner: false,
        storage_version: STORAGE_VERSION.to_owned(),
        db_size_quota: services.limits.quota_bytes,
        downgrade_info: Some(DowngradeInfo::default()),
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
    services.background.wake();
    services.wait_for_background().await;
    tracing::info!("finished defragment");
    // As etcd's, without a header.
    Ok(DefragmentResponse { header: None })
}

async fn hash(services: Services, _: HashRequest) -> Result<HashResponse, Status> {
    let view = services.view.clone();
    let hash = services.read_pool.run(move || view.hash()).await??;
    let header = Some(services.cluster.header(hash.current_revision));
    Ok(HashResponse { header, hash: hash.hash })
}

async fn hash_kv(services: Services, request: HashKvRequest) -> Result<HashKvResponse, Status> {
    let view = services.view.clone();
    let hash = services.read_pool.run(move || view.hash_kv(request.revision)).await??;
    Ok(HashKvResponse {
        header: Some(services.cluster.header(hash.current_revision)),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    })
}
