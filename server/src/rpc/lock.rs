//! `v3lockpb.Lock`: Lock waits until it is the caller's turn, Unlock deletes the key.
//!
//! A caller that goes away while it waits leaves no key behind; see `concurrency`.

use bytes::Bytes;
use varve_api::etcdserverpb::RangeRequest;
use varve_api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use varve_api::{Status, method};

use super::concurrency::{Caller, plain_error, queue_prefix};
use crate::grpc::Router;
use crate::services::Services;

/// Registers the service.
pub fn register(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary(&method::LOCK_LOCK, move |meta, request| {
        lock(Caller::new(s.clone(), meta), request)
    });
    let s = services.clone();
    router.unary(&method::LOCK_UNLOCK, move |meta, request| {
        unlock(Caller::new(s.clone(), meta), request)
    });
}

async fn lock(caller: Caller, request: LockRequest) -> Result<LockResponse, Status> {
    let lease = caller.lease(request.lease).await?;
    let prefix = queue_prefix(&request.name);
    let mut candidate = caller.stand(&prefix, lease, Bytes::new()).await?;
    let mut header = candidate.header.take();
    if !candidate.is_first() {
        caller.wait_for_turn(&prefix, candidate.revision).await?;
        // The lease may have ended meanwhile, and the key with it.
        let key = candidate.key.clone().expect("it is still a candidate");
        let own = caller.range(&RangeRequest { key, ..RangeRequest::default() }).await?;
        if own.kvs.is_empty() {
            return Err(plain_error("mutex: session is expired"));
        }
        header = own.header;
    }
    Ok(LockResponse { header, key: candidate.keep() })
}

async fn unlock(caller: Caller, request: UnlockRequest) -> Result<UnlockResponse, Status> {
    Ok(UnlockResponse { header: caller.delete(request.key).await? })
}
