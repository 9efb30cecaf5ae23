//! `etcdserverpb.Maintenance.MoveLeader`.
//!
//! One idea: only the leader is asked, it hands over to a voter, and answers when that one leads.
//! As etcd's, the response has no header.

use tokio::time::{Instant, timeout_at};
use varve_api::etcdserverpb::{MoveLeaderRequest, MoveLeaderResponse};
use varve_api::{Status, error, method};
use varve_raftnode::NodeId;

use crate::grpc::Router;
use crate::raft::RaftInput;
use crate::services::Services;

/// Registers the method.
pub fn register(router: &mut Router, services: &Services) {
    let s = services.clone();
    router
        .unary(&method::MAINTENANCE_MOVE_LEADER, move |_, request| move_leader(s.clone(), request));
}

async fn move_leader(
    services: Services,
    request: MoveLeaderRequest,
) -> Result<MoveLeaderResponse, Status> {
    let to = request.target_id;
    if !services.cluster.is_leader() {
        return Err(error::NOT_LEADER.into());
    }
    let members = services.view.members()?;
    if !members.iter().any(|member| member.id == to && !member.is_learner) {
        return Err(error::BAD_LEADER_TRANSFEREE.into());
    }
    let mut leader = services.cluster.leader_changed();
    let transfer = RaftInput::TransferTo(NodeId(to));
    services.raft.try_send(transfer).map_err(|_| error::TOO_MANY_REQUESTS)?;
    let deadline = Instant::now() + services.limits.request_timeout;
    let moved = leader.wait_for(|leader| *leader == to);
    match timeout_at(deadline, moved).await {
        Ok(Ok(_)) => Ok(MoveLeaderResponse::default()),
        Ok(Err(_)) => Err(error::STOPPED.into()),
        Err(_) => Err(error::TIMEOUT_LEADER_TRANSFER.into()),
    }
}
