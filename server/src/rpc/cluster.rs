//! `etcdserverpb.Cluster`: MemberList. Changing the members is not supported yet.

use varve_api::etcdserverpb::{Member, MemberListRequest, MemberListResponse};
use varve_api::{Status, method};

use crate::grpc::Router;
use crate::services::Services;

/// Registers the service.
pub fn register(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary(&method::CLUSTER_MEMBER_LIST, move |_, request| member_list(s.clone(), request));
}

async fn member_list(
    services: Services,
    request: MemberListRequest,
) -> Result<MemberListResponse, Status> {
    if request.linearizable {
        services.read_barrier().await?;
    }
    let members = services.view.members()?;
    let members = members
        .into_iter()
        .map(|member| Member {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
        })
        .collect();
    // etcd's cluster responses carry no revision.
    Ok(MemberListResponse { header: Some(services.cluster.header(0)), members })
}
