//! etcd's services, one file each: check the request, take it to consensus or to a read, complete
//! the header, answer. Methods that are not registered answer `Unimplemented`; see
//! docs/COMPATIBILITY.md.

pub mod auth;
pub mod cluster;
mod concurrency;
pub mod election;
pub mod health;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod watch;

use crate::grpc::Router;
use crate::services::Services;

/// Registers all services.
pub fn register(router: &mut Router, services: &Services) {
    kv::register(router, services);
    watch::register(router, services);
    lease::register(router, services);
    auth::register(router, services);
    cluster::register(router, services);
    maintenance::register(router, services);
    lock::register(router, services);
    election::register(router, services);
}
