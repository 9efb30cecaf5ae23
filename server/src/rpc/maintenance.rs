//! `etcdserverpb.Maintenance`: Status, and Alarm as far as it asks which alarms there are (none can
//! be raised yet). The rest is not supported yet.

use varve_api::etcdserverpb::alarm_request::AlarmAction;
use varve_api::etcdserverpb::{
    AlarmRequest, AlarmResponse, DowngradeInfo, StatusRequest, StatusResponse,
};
use varve_api::{Code, Status, error, method};

use crate::grpc::Router;
use crate::services::Services;
use crate::version::{ETCD_VERSION, STORAGE_VERSION};

/// Registers the service.
pub fn register(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary(&method::MAINTENANCE_STATUS, move |_, request| status(s.clone(), request));
    let s = services.clone();
    router.unary(&method::MAINTENANCE_ALARM, move |_, request| alarm(s.clone(), request));
}

async fn status(services: Services, _: StatusRequest) -> Result<StatusResponse, Status> {
    let cluster = &services.cluster;
    let sizes = services.view.db_sizes();
    let leader = cluster.leader();
    let errors = if leader == 0 { vec![error::NO_LEADER.message.to_owned()] } else { Vec::new() };
    Ok(StatusResponse {
        header: Some(cluster.header(services.view.revision())),
        version: ETCD_VERSION.to_owned(),
        db_size: i64::try_from(sizes.disk_bytes + sizes.memtable_bytes).unwrap_or(i64::MAX),
        leader,
        raft_index: cluster.committed(),
        raft_term: cluster.term(),
        raft_applied_index: cluster.applied(),
        errors,
        db_size_in_use: i64::try_from(sizes.live_bytes + sizes.memtable_bytes).unwrap_or(i64::MAX),
        is_learner: false,
        storage_version: STORAGE_VERSION.to_owned(),
        db_size_quota: services.limits.quota_bytes,
        downgrade_info: Some(DowngradeInfo::default()),
    })
}

async fn alarm(services: Services, request: AlarmRequest) -> Result<AlarmResponse, Status> {
    match AlarmAction::try_from(request.action) {
        // There is none to list or to take away.
        Ok(AlarmAction::Get | AlarmAction::Deactivate) => Ok(AlarmResponse {
            header: Some(services.cluster.header(services.view.revision())),
            alarms: Vec::new(),
        }),
        _ => Err(Status::new(Code::Unimplemented, "varve: alarms cannot be raised yet")),
    }
}
