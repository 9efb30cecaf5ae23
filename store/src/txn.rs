//! Transactions: compare, then one of two branches, nested to any depth.
//!
//! One idea: three passes, so that nothing is written before it is certain that all of it will be.
//!
//! 1. *compare*: every guard is evaluated on the state before the transaction, those of nested
//!    transactions too. The result is a path: one bool for each transaction that will run, in the
//!    order in which they are met.
//! 2. *check*: along the path, what could refuse an operation (a revision that cannot be read, a
//!    lease that is not there) refuses the whole transaction.
//! 3. *execute*: along the same path. Operations see what earlier ones of the same transaction did.
//!
//! Depth and number of operations are limited by `validate` and by the decoder.

mod decode;

use std::cmp::Ordering;

use bytes::Bytes;
use varve_api::error as api;
use varve_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::response_op::Response;
use varve_api::etcdserverpb::{
    Compare, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use varve_api::mvccpb::KeyValue;
use varve_lsm::Keyspace;
use varve_lsm::db::Values;

use crate::error::{Outcome, Result};
use crate::kv::{self, WriteTxn};
use crate::lease::LeaseTable;
use crate::range::{Count, Reader};
use crate::{compact, schema};

pub use decode::{LEVELS_MAX, TxnDecodeError, decode};

/// Applies a transaction. Refused, it has changed nothing.
pub(crate) fn apply(txn: &mut WriteTxn<'_>, request: TxnRequest) -> Outcome<TxnResponse> {
    let path = txn.read(|reader| -> Outcome<Vec<bool>> {
        let mut path = Vec::new();
        compare(reader, &request, &mut path)?;
        check(reader, &txn.state.leases, &request, &mut path.iter().copied())?;
        Ok(path)
    })?;
    let mut path = path.into_iter();
    let mut response = execute(txn, request, &mut path)?;
    assert_eq!(path.len(), 0, "every transaction on the path was executed");
    response.header = kv::header(txn.current());
    Ok(response)
}

/// Answers a transaction that holds only ranges.
pub(crate) fn read(reader: &Reader<'_>, request: &TxnRequest) -> Outcome<TxnResponse> {
    let mut path = Vec::new();
    compare(reader, request, &mut path)?;
    let succeeded = path[0];
    let ranges = || {
        branch(request, succeeded).iter().filter_map(|op| match &op.request {
            Some(Request::RequestRange(range)) => Some(range),
            _ => None,
        })
    };
    for range in ranges() {
        check_range(reader, range)?;
    }
    let mut responses = Vec::new();
    for range in ranges() {
        let response = Response::ResponseRange(reader.range(range, Count::All)?);
        responses.push(ResponseOp { response: Some(response) });
    }
    Ok(TxnResponse { header: kv::header(reader.current), succeeded, responses })
}

/// First pass: appends the branch of `request`, then those of the transactions in that branch.
fn compare(reader: &Reader<'_>, request: &TxnRequest, path: &mut Vec<bool>) -> Result<()> {
    let mut succeeded = true;
    for guard in &request.compare {
        if !holds(reader, guard)? {
            succeeded = false;
            break;
        }
    }
    path.push(succeeded);
    for op in branch(request, succeeded) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            compare(reader, nested, path)?;
        }
    }
    Ok(())
}

/// Second pass.
fn check(
    reader: &Reader<'_>,
    leases: &LeaseTable,
    request: &TxnRequest,
    path: &mut impl Iterator<Item = bool>,
) -> Outcome<()> {
    let succeeded = next_branch(path);
    for op in branch(request, succeeded) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(reader, range)?,
            Some(Request::RequestPut(put)) => kv::check_put(reader, leases, put)?,
            Some(Request::RequestTxn(nested)) => check(reader, leases, nested, path)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

/// A range in a transaction must be readable at the revision before it. Unlike alone, a negative
/// revision is compared with the compacted one.
fn check_range(reader: &Reader<'_>, range: &RangeRequest) -> Outcome<()> {
    match range.revision {
        0 => Ok(()),
        revision if revision > reader.current.cast_signed() => Err(api::FUTURE_REV.into()),
        revision if revision < compact::floor(reader.compacted) => Err(api::COMPACTED.into()),
        _ => Ok(()),
    }
}

/// Third pass.
fn execute(
    txn: &mut WriteTxn<'_>,
    request: TxnRequest,
    path: &mut impl Iterator<Item = bool>,
) -> Outcome<TxnResponse> {
    let succeeded = next_branch(path);
    let ops = if succeeded { request.success } else { request.failure };
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let response = match op.request {
            Some(Request::RequestRange(range)) => {
                let response = txn.read(|reader| reader.range(&range, Count::All))?;
                Some(Response::ResponseRange(response))
            }
            Some(Request::RequestPut(put)) => Some(Response::ResponsePut(txn.put(put)?)),
            Some(Request::RequestDeleteRange(delete)) => {
                let deleted = txn.delete_range(&delete.key, &delete.range_end, delete.prev_kv)?;
                Some(Response::ResponseDeleteRange(deleted))
            }
            Some(Request::RequestTxn(nested)) => {
                Some(Response::ResponseTxn(execute(txn, nested, path)?))
            }
            None => None,
        };
        responses.push(ResponseOp { response });
    }
    // A nested response has a header without a revision, as in etcd; the caller fills the outer
    // one.
    Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
}

fn next_branch(path: &mut impl Iterator<Item = bool>) -> bool {
    path.next().expect("the first pass met every transaction that the others meet")
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// Whether all keys that a guard names satisfy it.
fn holds(reader: &Reader<'_>, guard: &Compare) -> Result<bool> {
    let values = match guard.target() {
        CompareTarget::Value if is_known_target(guard) => Values::Load,
        _ => Values::Skip,
    };
    let mut is_empty = true;
    if guard.range_end.is_empty() {
        let entry = match values {
            Values::Load => reader.snapshot.get(Keyspace::Kv, &guard.key, reader.current)?,
            Values::Skip => reader.snapshot.get_meta(Keyspace::Kv, &guard.key, reader.current)?,
        };
        if let Some(entry) = schema::live(entry) {
            return Ok(satisfies(&schema::key_value(entry)?, guard));
        }
    } else if let Some(range) = schema::key_range(&guard.key, &guard.range_end) {
        for entry in reader.snapshot.range(Keyspace::Kv, range, reader.current, values) {
            is_empty = false;
            if !satisfies(&schema::key_value(entry?)?, guard) {
                return Ok(false);
            }
        }
    }
    // No key compares as one with all numbers 0; but a missing value equals no value, not even "".
    Ok(!is_empty || (values == Values::Skip && satisfies(&KeyValue::default(), guard)))
}

/// Whether the target is one that this version knows; an unknown one compares as equal.
fn is_known_target(guard: &Compare) -> bool {
    CompareTarget::try_from(guard.target).is_ok()
}

/// Compares one key. An operand of another type than the target counts as 0, or as empty.
fn satisfies(kv: &KeyValue, guard: &Compare) -> bool {
    let operand = guard.target_union.as_ref();
    let number = |operand: Option<i64>| operand.unwrap_or(0);
    let ordering = match CompareTarget::try_from(guard.target) {
        Ok(CompareTarget::Value) => {
            let value = match operand {
                Some(TargetUnion::Value(value)) => value.clone(),
                _ => Bytes::new(),
            };
            kv.value.cmp(&value)
        }
        Ok(CompareTarget::Create) => kv.create_revision.cmp(&number(match operand {
            Some(TargetUnion::CreateRevision(revision)) => Some(*revision),
            _ => None,
        })),
        Ok(CompareTarget::Mod) => kv.mod_revision.cmp(&number(match operand {
            Some(TargetUnion::ModRevision(revision)) => Some(*revision),
            _ => None,
        })),
        Ok(CompareTarget::Version) => kv.version.cmp(&number(match operand {
            Some(TargetUnion::Version(version)) => Some(*version),
            _ => None,
        })),
        Ok(CompareTarget::Lease) => kv.lease.cmp(&number(match operand {
            Some(TargetUnion::Lease(lease)) => Some(*lease),
            _ => None,
        })),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(guard.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
