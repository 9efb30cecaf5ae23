//! Checks of requests that need no state: done by the server before it proposes or reads, in etcd's
//! order and with its errors.

use varve_api::Status;
use varve_api::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, TxnRequest,
};

/// A `Range`: key given, sort options known.
pub fn range(request: &RangeRequest) -> Result<(), Status> {
    let _ = request;
    todo!()
}

/// A `RangeStream`: as [`range`], and neither custom order nor revision filters (`Unimplemented`).
pub fn range_stream(request: &RangeRequest) -> Result<(), Status> {
    let _ = request;
    todo!()
}

/// A `Put`: key given; no value with `ignore_value`, no lease with `ignore_lease`.
pub fn put(request: &PutRequest) -> Result<(), Status> {
    let _ = request;
    todo!()
}

/// A `DeleteRange`: key given.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Status> {
    let _ = request;
    todo!()
}

/// A `Txn`: number of operations, keys of compares, every operation, duplicate keys. `ops_max` is
/// etcd's `--max-txn-ops`; a nested transaction has what its parent left of it.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), Status> {
    let _ = (request, ops_max);
    todo!()
}

/// A `LeaseGrant`: the TTL is not too large.
pub fn lease_grant(request: &LeaseGrantRequest) -> Result<(), Status> {
    let _ = request;
    todo!()
}

/// Whether a transaction only reads, so that it need not go through the log: ranges only, and no
/// nested transaction whatever it holds.
pub fn is_read_only(request: &TxnRequest) -> bool {
    let _ = request;
    todo!()
}

/// Whether a read-only transaction may be answered locally: all its ranges are serializable.
pub fn is_serializable(request: &TxnRequest) -> bool {
    let _ = request;
    todo!()
}
