//! What clients ask: drawn from the seed, one request at a time for each client, every value its
//! own.

use bytes::Bytes;
use varve_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use varve_api::etcdserverpb::request_op::Request as Op;
use varve_api::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use varve_disk::sim::Random;

use crate::history::Request;
use crate::plan::{Plan, choose};

/// What a client may ask for.
pub const REQUESTS: [&str; 11] = [
    "put",
    "get",
    "range",
    "serializable range",
    "range at a revision",
    "delete",
    "transaction",
    "read-only transaction",
    "compaction",
    "lease",
    "renewal or end of a lease",
];

/// What the clients of a seed know together.
#[derive(Default)]
pub struct Knowledge {
    /// Greatest revision that anybody was told.
    pub revision: i64,
    /// Leases that were granted.
    pub leases: Vec<i64>,
}

/// The name of a key.
pub fn key(number: u64) -> Bytes {
    format!("k{number:02}").into()
}

/// Draws the request of operation `number`.
pub fn draw(plan: &Plan, random: &mut Random, known: &Knowledge, number: usize) -> Request {
    let any_key = |random: &mut Random| key(random.below(plan.keys));
    let kind = choose(random, &plan.requests).unwrap_or(0);
    match kind {
        0 => Request::Put(put(plan, random, known, number)),
        1 => Request::Range(RangeRequest { key: any_key(random), ..RangeRequest::default() }),
        2..=4 => {
            let mut request = RangeRequest {
                key: any_key(random),
                range_end: [&b"\0"[..], b"k99", b"k05"][random.below(3) as usize].into(),
                serializable: kind == 3,
                count_only: random.one_in(6),
                ..RangeRequest::default()
            };
            if random.one_in(4) {
                request.limit = 1 + random.below(3) as i64;
            }
            if kind == 4 && known.revision > 1 {
                request.revision = 1 + random.below(known.revision.unsigned_abs()) as i64;
            }
            Request::Range(request)
        }
        5 => {
            let is_range = random.one_in(4);
            Request::Delete(DeleteRangeRequest {
                key: any_key(random),
                range_end: if is_range { "k04".into() } else { Bytes::new() },
                prev_kv: random.one_in(2),
            })
        }
        6 => Request::Txn(txn(plan, random, known, number)),
        7 => {
            let range = |random: &mut Random| RangeRequest {
                key: any_key(random),
                range_end: if random.one_in(2) { "\0".into() } else { Bytes::new() },
                ..RangeRequest::default()
            };
            let op = |random: &mut Random| op(Op::RequestRange(range(random)));
            Request::Txn(TxnRequest {
                compare: vec![guard(random, any_key, known)],
                success: vec![op(random), op(random)],
                failure: vec![op(random)],
            })
        }
        8 if known.revision > 2 => {
            let behind = random.below(1 + known.revision.unsigned_abs() / 2) as i64;
            // Sometimes further than there is anything.
            let ahead = if random.one_in(20) { 50 + behind } else { 0 };
            Request::Compact(CompactionRequest {
                revision: (known.revision - behind + ahead).max(1),
                physical: random.one_in(3),
            })
        }
        9 => Request::Grant(LeaseGrantRequest {
            id: 1_000 + number as i64,
            ttl: plan.ttl + random.below(5) as i64,
        }),
        10 if !known.leases.is_empty() => {
            // Most of the old ones are gone.
            let young = if random.one_in(2) { 3 } else { usize::MAX };
            let among = known.leases.len().min(young);
            let back = random.below(among as u64) as usize;
            let lease = known.leases[known.leases.len() - 1 - back];
            match random.one_in(8) {
                true => Request::Revoke(LeaseRevokeRequest { id: lease }),
                false => Request::KeepAlive(lease),
            }
        }
        _ => Request::Put(put(plan, random, known, number)),
    }
}

fn put(plan: &Plan, random: &mut Random, known: &Knowledge, number: usize) -> PutRequest {
    let mut value = format!("v{number}.").into_bytes();
    let length = random.below(1 + plan.value_bytes) as usize;
    value.resize(value.len() + length, b'x');
    let leased = !known.leases.is_empty() && random.one_in(3);
    let lease =
        if leased { known.leases[random.below(known.leases.len() as u64) as usize] } else { 0 };
    PutRequest {
        key: key(random.below(plan.keys)),
        value: value.into(),
        lease,
        prev_kv: random.one_in(3),
        ..PutRequest::default()
    }
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// Keys of one transaction are its own, each once.
fn txn(plan: &Plan, random: &mut Random, known: &Knowledge, number: usize) -> TxnRequest {
    let branch = |random: &mut Random| {
        let mut ops = Vec::new();
        let mut used: Vec<Bytes> = Vec::new();
        for _ in 0..1 + random.below(3) {
            let put = put(plan, random, known, number);
            if used.contains(&put.key) {
                continue;
            }
            used.push(put.key.clone());
            ops.push(match random.below(4) {
                0 => op(Op::RequestDeleteRange(DeleteRangeRequest {
                    key: put.key,
                    prev_kv: random.one_in(2),
                    ..DeleteRangeRequest::default()
                })),
                1 => op(Op::RequestRange(RangeRequest {
                    key: "k".into(),
                    range_end: "\0".into(),
                    ..RangeRequest::default()
                })),
                _ => op(Op::RequestPut(put)),
            });
        }
        ops
    };
    // At least one branch writes, or it would be a read.
    let mut success = branch(random);
    success.push(op(Op::RequestPut(PutRequest {
        key: format!("t{:02}", random.below(plan.keys)).into(),
        value: format!("t{number}").into(),
        ..PutRequest::default()
    })));
    let failure = branch(random);
    let any_key = |random: &mut Random| key(random.below(plan.keys));
    TxnRequest { compare: vec![guard(random, any_key, known)], success, failure }
}

fn guard(
    random: &mut Random,
    any_key: impl Fn(&mut Random) -> Bytes,
    known: &Knowledge,
) -> Compare {
    let results = [
        CompareResult::Equal,
        CompareResult::Greater,
        CompareResult::Less,
        CompareResult::NotEqual,
    ];
    let (target, operand) = match random.below(3) {
        0 => (CompareTarget::Version, TargetUnion::Version(random.below(3) as i64)),
        1 => {
            let revision = random.below(1 + known.revision.unsigned_abs()) as i64;
            (CompareTarget::Mod, TargetUnion::ModRevision(revision))
        }
        _ => (CompareTarget::Create, TargetUnion::CreateRevision(0)),
    };
    Compare {
        result: results[random.below(4) as usize] as i32,
        target: target as i32,
        key: any_key(random),
        range_end: Bytes::new(),
        target_union: Some(operand),
    }
}
