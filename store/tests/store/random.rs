//! Requests drawn from a seed: few keys, so that they meet; revisions around the readable ones, so
//! that some are refused.

use bytes::Bytes;
use varve_api::etcdserverpb::compare::TargetUnion;
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use crate::naive::Naive;

const KEYS: [&str; 14] =
    ["\0", "a", "a\0", "a/", "a/1", "a/2", "a/3", "a0", "b", "bb", "bbb", "c", "d", "~"];
const LEASES: [i64; 5] = [1, 2, 0x7fff_0000_1111_2222, -1, -77];

/// splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS[self.below(KEYS.len() as u64) as usize].as_bytes())
    }

    /// One key, a range, a range without an end, or an empty one.
    pub fn keys(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.below(8) {
            0..3 => Bytes::new(),
            3 => Bytes::from_static(b"\0"),
            _ => self.key(),
        };
        (key, end)
    }

    pub fn lease(&mut self) -> i64 {
        LEASES[self.below(LEASES.len() as u64) as usize]
    }

    fn value(&mut self) -> Bytes {
        let length = match self.below(4) {
            0 => self.below(3),
            1 => self.below(25),
            2 => self.below(60),
            _ => self.below(400),
        };
        let letter = b'a' + self.below(3) as u8;
        vec![letter; length as usize].into()
    }

    /// Mostly the current revision, else one around the readable ones.
    fn revision(&mut self, model: &Naive) -> i64 {
        match self.below(3) {
            0 => {
                model.compacted - 1
                    + self.below((model.revision - model.compacted + 3) as u64) as i64
            }
            _ => 0,
        }
    }

    pub fn put(&mut self, model: &Naive) -> PutRequest {
        let lease = match self.below(3) {
            0 => self.existing_lease(model),
            1 if self.one_in(8) => self.lease(),
            _ => 0,
        };
        let mut request =
            PutRequest { key: self.key(), value: self.value(), lease, ..PutRequest::default() };
        request.prev_kv = self.one_in(4);
        if self.one_in(6) {
            request.ignore_value = true;
            request.value = Bytes::new();
        }
        if self.one_in(6) {
            request.ignore_lease = true;
            request.lease = 0;
        }
        request
    }

    fn existing_lease(&mut self, model: &Naive) -> i64 {
        let count = model.leases.len() as u64;
        match count {
            0 => 0,
            count => *model.leases.keys().nth(self.below(count) as usize).unwrap(),
        }
    }

    pub fn delete(&mut self) -> DeleteRangeRequest {
        let (key, mut range_end) = self.keys();
        // Whole-range deletions would leave little to look at.
        if range_end == b"\0"[..] && !self.one_in(5) {
            range_end = Bytes::new();
        }
        DeleteRangeRequest { key, range_end, prev_kv: self.one_in(3) }
    }

    pub fn range(&mut self, model: &Naive) -> RangeRequest {
        let (key, range_end) = self.keys();
        let bound = |random: &mut Self| match random.below(8) {
            0 => random.below(model.revision as u64 + 1) as i64,
            _ => 0,
        };
        RangeRequest {
            key,
            range_end,
            min_mod_revision: bound(self),
            max_mod_revision: bound(self),
            min_create_revision: bound(self),
            max_create_revision: bound(self),
            limit: if self.one_in(2) { self.below(6) as i64 - 1 } else { 0 },
            revision: self.revision(model),
            sort_order: if self.one_in(2) { self.below(3) as i32 } else { 0 },
            sort_target: if self.one_in(2) { self.below(5) as i32 } else { 0 },
            serializable: self.one_in(2),
            keys_only: self.one_in(4),
            count_only: self.one_in(6),
        }
    }

    pub fn guards(&mut self, model: &Naive) -> Vec<Compare> {
        (0..self.below(3)).map(|_| self.guard(model)).collect()
    }

    fn guard(&mut self, model: &Naive) -> Compare {
        let (key, range_end) = self.keys();
        let revision = self.below(model.revision as u64 + 1) as i64;
        let target = self.below(5) as i32;
        let union = match target {
            0 => TargetUnion::Version(self.below(4) as i64),
            1 => TargetUnion::CreateRevision(revision),
            2 => TargetUnion::ModRevision(revision),
            3 => TargetUnion::Value(self.value()),
            _ => TargetUnion::Lease(if self.one_in(2) { self.lease() } else { 0 }),
        };
        let result = self.below(4) as i32;
        Compare { result, target, key, range_end, target_union: Some(union) }
    }

    pub fn txn(&mut self, model: &Naive, depth: u64) -> TxnRequest {
        let compare = self.guards(model);
        let ops =
            |random: &mut Self| (0..random.below(4)).map(|_| random.op(model, depth)).collect();
        TxnRequest { compare, success: ops(self), failure: ops(self) }
    }

    fn op(&mut self, model: &Naive, depth: u64) -> RequestOp {
        op(match self.below(10) {
            0..4 => Request::RequestPut(self.put(model)),
            4..6 => Request::RequestDeleteRange(self.delete()),
            6..8 if depth > 0 => Request::RequestTxn(self.txn(model, depth - 1)),
            _ => Request::RequestRange(self.range(model)),
        })
    }
}

pub fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// All keys at a revision.
pub fn everything(revision: i64) -> RangeRequest {
    let zero = Bytes::from_static(b"\0");
    RangeRequest { key: zero.clone(), range_end: zero, revision, ..RangeRequest::default() }
}
