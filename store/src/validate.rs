//! Checks of requests that need no state: done by the server before it proposes or reads, in etcd's
//! order and with its errors.
//!
//! One idea: what passes here may still be refused by the state (a lease that is gone), but is
//! never malformed. `apply` repeats only the cheap ones: the limits here are flags of one member,
//! and members with different flags must not differ in what they apply.

use std::collections::BTreeSet;

use varve_api::error as api;
use varve_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use varve_api::{Code, Status};

use crate::range;

/// The longest time-to-live of a lease, in seconds.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// A `Range`: key given, sort options known.
pub fn range(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(api::EMPTY_KEY.into());
    }
    let is_order_known = SortOrder::try_from(request.sort_order).is_ok();
    let is_target_known = SortTarget::try_from(request.sort_target).is_ok();
    if !is_order_known || !is_target_known {
        return Err(api::INVALID_SORT_OPTION.into());
    }
    Ok(())
}

/// A `RangeStream`: as [`range`], and neither custom order nor revision filters (`Unimplemented`,
/// upon which clients fall back to `Range`).
pub fn range_stream(request: &RangeRequest) -> Result<(), Status> {
    range(request)?;
    let unimplemented = |text: &'static str| Err(Status::new(Code::Unimplemented, text));
    if !range::is_default_order(request) {
        return unimplemented("RangeStream does not support custom sort orders");
    }
    if range::has_filters(request) {
        return unimplemented("RangeStream does not support revision filters");
    }
    Ok(())
}

/// A `Put`: key given; no value with `ignore_value`, no lease with `ignore_lease`.
pub fn put(request: &PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(api::EMPTY_KEY.into());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(api::VALUE_PROVIDED.into());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(api::LEASE_PROVIDED.into());
    }
    Ok(())
}

/// A `DeleteRange`: key given.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(api::EMPTY_KEY.into());
    }
    Ok(())
}

/// A `Txn`: number of operations, keys of compares, every operation, duplicate keys. `ops_max` is
/// etcd's `--max-txn-ops`; a nested transaction has what its parent left of it.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), Status> {
    txn_ops(request, ops_max)?;
    // Only now: the first pass has bounded the number of operations.
    changed_keys(&request.success)?;
    changed_keys(&request.failure)?;
    Ok(())
}

/// A `LeaseGrant`: the TTL is not too large.
pub fn lease_grant(request: &LeaseGrantRequest) -> Result<(), Status> {
    if request.ttl > LEASE_TTL_SECONDS_MAX {
        return Err(api::LEASE_TTL_TOO_LARGE.into());
    }
    Ok(())
}

/// Whether a transaction only reads, so that it need not go through the log: ranges only, and no
/// nested transaction whatever it holds.
pub fn is_read_only(request: &TxnRequest) -> bool {
    all_ops(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a transaction may be answered locally: it holds only serializable ranges.
pub fn is_serializable(request: &TxnRequest) -> bool {
    all_ops(request)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn all_ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

fn txn_ops(request: &TxnRequest, ops_max: usize) -> Result<(), Status> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > ops_max {
        return Err(api::TOO_MANY_OPS.into());
    }
    if request.compare.iter().any(|guard| guard.key.is_empty()) {
        return Err(api::EMPTY_KEY.into());
    }
    for op in all_ops(request) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => txn_ops(request, ops_max - ops)?,
            None => return Err(api::KEY_NOT_FOUND.into()),
        }
    }
    Ok(())
}

/// What the operations of a branch change: keys put, and ranges deleted (an empty end is one key).
#[derive(Default)]
struct Changed<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Changed<'a> {
    /// As in etcd, a deletion to the end of all keys (one zero byte) collides with nothing: there
    /// the end is compared as a key.
    fn is_deleted(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|(start, end)| match end.is_empty() {
            true => key == *start,
            false => key >= *start && key < *end,
        })
    }

    fn add_put(&mut self, key: &'a [u8]) -> Result<(), Status> {
        if self.is_deleted(key) || !self.puts.insert(key) {
            return Err(api::DUPLICATE_KEY.into());
        }
        Ok(())
    }
}

/// Refuses a key that is put twice, or put and deleted, in one branch or in those below it. The two
/// branches of a nested transaction exclude each other, so they may put the same key; deletions may
/// overlap.
fn changed_keys(ops: &[RequestOp]) -> Result<Changed<'_>, Status> {
    let mut changed = Changed::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            changed.deletes.push((&delete.key, &delete.range_end));
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            let success = changed_keys(&nested.success)?;
            let failure = changed_keys(&nested.failure)?;
            for key in success.puts.union(&failure.puts) {
                changed.add_put(key)?;
            }
            changed.deletes.extend(success.deletes);
            changed.deletes.extend(failure.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            changed.add_put(&put.key)?;
        }
    }
    Ok(changed)
}
