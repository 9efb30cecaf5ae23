//! etcd's services, one file each: check the request, take it to consensus or to a read, complete
//! the header, answer. Methods that are not registered answer `Unimplemented`; see
//! docs/COMPATIBILITY.md.

pub mod auth;
pub mod cluster;
mod concurrency;
pub mod election;
pub mod health;
pub mod kv;
pub mod leadership;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod stats;
pub mod told_hashes;
pub mod watch;

use varve_api::method::{self, Method};
use varve_api::{Status, error};

use crate::grpc::{RequestMeta, Router};
use crate::services::Services;

/// Registers all services.
pub fn register(router: &mut Router, services: &Services) {
    kv::register(router, services);
    watch::register(router, services);
    lease::register(router, services);
    auth::register(router, services);
    cluster::register(router, services);
    leadership::register(router, services);
    maintenance::register(router, services);
    lock::register(router, services);
    election::register(router, services);
    let s = services.clone();
    router.gate(move |meta| {
        learner_may(&s, meta.method())?;
        s.requests.came(meta);
        require_leader(&s, meta)
    });
}

/// `hasleader` metadata: refuse when there is no leader.
fn require_leader(services: &Services, meta: &RequestMeta) -> Result<(), Status> {
    if meta.requires_leader() && services.cluster.leader() == 0 {
        return Err(error::NO_LEADER.into());
    }
    Ok(())
}

/// A learner answers what needs no vote of its own: its status, snapshots of what it has, and
/// (`kv`) serializable ranges.
///
/// # Errors
/// etcd's refusal.
pub fn learner_may(services: &Services, method: &'static Method) -> Result<(), Status> {
    const ALLOWED: [&Method; 3] =
        [&method::MAINTENANCE_STATUS, &method::MAINTENANCE_SNAPSHOT, &method::KV_RANGE];
    if services.cluster.is_learner() && !ALLOWED.iter().any(|known| known.index == method.index) {
        return Err(error::NOT_SUPPORTED_FOR_LEARNER.into());
    }
    Ok(())
}
