//! What was agreed, and what it means: etcd's rules once more, as naively as can be, with all
//! history.
//!
//! One idea: command after command becomes versions by key. Then everything that a client was told
//! can be looked up: the answer to every write, the keys at every revision, the events of every
//! revision.
//!
//! It shares no code with `store`, and knows only what the clients of our tests ask for. In which
//! order things were agreed, `order` finds out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use varve_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use varve_api::etcdserverpb::request_op::Request as Op;
use varve_api::etcdserverpb::response_op::Response as OpResponse;
use varve_api::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, PutRequest, PutResponse,
    RangeRequest, RangeResponse, ResponseOp, TxnRequest, TxnResponse,
};
use varve_api::mvccpb::KeyValue;

use crate::history::{Change, Micros, Request, Response};

/// A command of the log, carried out.
#[derive(Clone, Debug)]
pub struct Carried {
    /// The client's operation, if a client's request says so.
    pub operation: Option<usize>,
    /// The revision behind it.
    pub revision: i64,
    /// When it was agreed.
    pub at: Micros,
    /// The answer, headers apart, or etcd's text of the refusal.
    pub result: Result<Response, String>,
}

/// See the head of the file.
#[derive(Clone, Default)]
pub struct Model {
    /// All commands, in order.
    pub commands: Vec<Carried>,
    /// All changes, in order.
    pub changes: Vec<Change>,
    /// Versions of each key, oldest first; `None` for a deletion.
    versions: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    /// The last revision.
    pub revision: i64,
    /// The compacted revision.
    pub compacted: i64,
    /// Leases and their times to live.
    pub leases: BTreeMap<i64, i64>,
    /// When each lease was revoked, and by which operation.
    pub revoked: BTreeMap<i64, Micros>,
    attached: BTreeMap<i64, BTreeSet<Bytes>>,
    /// Changes of the command at hand.
    sub: usize,
}

/// Whether a range of a request has a key in it.
pub fn contains(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

impl Model {
    /// Nothing has happened.
    pub fn empty() -> Self {
        Self { revision: 1, ..Self::default() }
    }

    /// Carries out what was agreed at some time, for an operation or for nobody. Gives its changes.
    ///
    /// # Panics
    /// If it is a read: nobody agrees on those.
    pub fn execute(
        &mut self,
        request: &Request,
        operation: Option<usize>,
        at: Micros,
    ) -> &[Change] {
        self.sub = 0;
        let before = self.changes.len();
        let result = match request {
            Request::Put(put) => self.check_put(put).map(|()| Response::Put(self.put(put))),
            Request::Delete(delete) => Ok(Response::Delete(self.delete(delete))),
            Request::Txn(txn) => self.txn(txn).map(Response::Txn),
            Request::Compact(compact) => {
                self.compact(compact.revision).map(|()| Response::Compact(Default::default()))
            }
            Request::Grant(grant) => self.grant(grant),
            Request::Revoke(revoke) => self.revoke(revoke.id, at),
            Request::Range(_) | Request::KeepAlive(_) => panic!("{request:?} is not agreed upon"),
        };
        if self.changes.len() > before {
            self.revision += 1;
        }
        self.commands.push(Carried { operation, revision: self.revision, at, result });
        &self.changes[before..]
    }

    fn current(&self) -> i64 {
        self.revision + i64::from(self.sub > 0)
    }

    /// The live version of a key at a revision.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        live_at(self.versions.get(key)?, revision)
    }

    /// The live keys of a range at a revision.
    pub fn range(&self, key: &[u8], end: &[u8], revision: i64) -> Vec<KeyValue> {
        let keys = self.versions.iter().filter(|(found, _)| contains(key, end, found));
        keys.filter_map(|(_, versions)| live_at(versions, revision).cloned()).collect()
    }

    /// The answer to a range at a revision, header apart.
    pub fn answer(&self, request: &RangeRequest, revision: i64) -> RangeResponse {
        let mut kvs = self.range(&request.key, &request.range_end, revision);
        let count = kvs.len() as i64;
        if request.count_only {
            return RangeResponse { count, ..RangeResponse::default() };
        }
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        RangeResponse { header: None, kvs, more, count }
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), String> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err("etcdserver: requested lease not found".to_owned());
        }
        Ok(())
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let revision = self.revision + 1;
        let previous = self.get(&request.key, i64::MAX).cloned();
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: previous.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(1, |kv| kv.version + 1),
            value: request.value.clone(),
            lease: request.lease,
        };
        self.attach(&kv.key, previous.as_ref().map_or(0, |kv| kv.lease), kv.lease);
        self.record(kv, false, previous.clone());
        PutResponse { header: None, prev_kv: previous.filter(|_| request.prev_kv) }
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let found = self.range(&request.key, &request.range_end, i64::MAX);
        for kv in &found {
            self.attach(&kv.key, kv.lease, 0);
            let key = kv.key.clone();
            let mod_revision = self.revision + 1;
            let gone = KeyValue { key, mod_revision, ..KeyValue::default() };
            self.record(gone, true, Some(kv.clone()));
        }
        let deleted = found.len() as i64;
        let prev_kvs = if request.prev_kv { found } else { Vec::new() };
        DeleteRangeResponse { header: None, deleted, prev_kvs }
    }

    fn attach(&mut self, key: &Bytes, from: i64, to: i64) {
        if let Some(keys) = self.attached.get_mut(&from) {
            keys.remove(key);
        }
        if to != 0 {
            self.attached.entry(to).or_default().insert(key.clone());
        }
    }

    fn record(&mut self, kv: KeyValue, is_delete: bool, previous: Option<KeyValue>) {
        let revision = self.revision + 1;
        let version = (revision, (!is_delete).then(|| kv.clone()));
        self.versions.entry(kv.key.clone()).or_default().push(version);
        self.changes.push(Change { revision, kv, is_delete, previous });
        self.sub += 1;
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, String> {
        let succeeded = request.compare.iter().all(|guard| self.holds(guard));
        let ops = if succeeded { &request.success } else { &request.failure };
        for op in ops {
            if let Some(Op::RequestPut(put)) = &op.request {
                self.check_put(put)?;
            }
        }
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref().expect("clients send no empty ones") {
                Op::RequestPut(put) => OpResponse::ResponsePut(self.put(put)),
                Op::RequestDeleteRange(delete) => {
                    OpResponse::ResponseDeleteRange(self.delete(delete))
                }
                Op::RequestRange(range) => {
                    OpResponse::ResponseRange(self.answer(range, self.current()))
                }
                Op::RequestTxn(_) => panic!("clients do not nest"),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: None, succeeded, responses })
    }

    /// The answer to a transaction that only reads, at a revision.
    pub fn read_txn(&self, request: &TxnRequest, revision: i64) -> TxnResponse {
        let succeeded = request.compare.iter().all(|guard| self.holds_at(guard, revision));
        let ops = if succeeded { &request.success } else { &request.failure };
        let ranges = ops.iter().filter_map(|op| match &op.request {
            Some(Op::RequestRange(range)) => Some(range),
            _ => None,
        });
        let answer = |range| OpResponse::ResponseRange(self.answer(range, revision));
        let responses = ranges.map(|range| ResponseOp { response: Some(answer(range)) }).collect();
        TxnResponse { header: None, succeeded, responses }
    }

    fn holds(&self, guard: &Compare) -> bool {
        self.holds_at(guard, i64::MAX)
    }

    fn holds_at(&self, guard: &Compare, revision: i64) -> bool {
        let found = self.get(&guard.key, revision);
        let missing = KeyValue::default();
        let kv = found.unwrap_or(&missing);
        let ordering = match guard.target_union.as_ref().expect("clients say what they compare") {
            TargetUnion::Value(value) if found.is_some() => kv.value.cmp(value),
            TargetUnion::Value(_) => return false,
            TargetUnion::Version(version) => kv.version.cmp(version),
            TargetUnion::CreateRevision(revision) => kv.create_revision.cmp(revision),
            TargetUnion::ModRevision(revision) => kv.mod_revision.cmp(revision),
            TargetUnion::Lease(lease) => kv.lease.cmp(lease),
        };
        assert!(CompareTarget::try_from(guard.target).is_ok());
        match CompareResult::try_from(guard.result).expect("a known comparison") {
            CompareResult::Equal => ordering.is_eq(),
            CompareResult::NotEqual => ordering.is_ne(),
            CompareResult::Greater => ordering.is_gt(),
            CompareResult::Less => ordering.is_lt(),
        }
    }

    fn compact(&mut self, revision: i64) -> Result<(), String> {
        let floor = if self.compacted == 0 { -1 } else { self.compacted };
        if revision <= floor {
            return Err("etcdserver: mvcc: required revision has been compacted".to_owned());
        }
        if revision > self.revision {
            return Err("etcdserver: mvcc: required revision is a future revision".to_owned());
        }
        self.compacted = revision;
        Ok(())
    }

    fn grant(&mut self, request: &LeaseGrantRequest) -> Result<Response, String> {
        if self.leases.contains_key(&request.id) {
            return Err("etcdserver: lease already exists".to_owned());
        }
        self.leases.insert(request.id, request.ttl);
        let response = varve_api::etcdserverpb::LeaseGrantResponse {
            id: request.id,
            ttl: request.ttl,
            ..Default::default()
        };
        Ok(Response::Grant(response))
    }

    fn revoke(&mut self, id: i64, at: Micros) -> Result<Response, String> {
        if self.leases.remove(&id).is_none() {
            return Err("etcdserver: requested lease not found".to_owned());
        }
        self.revoked.insert(id, at);
        for key in self.attached.remove(&id).unwrap_or_default() {
            self.delete(&DeleteRangeRequest { key, ..DeleteRangeRequest::default() });
        }
        Ok(Response::Revoke(Default::default()))
    }
}

fn live_at(versions: &[(i64, Option<KeyValue>)], revision: i64) -> Option<&KeyValue> {
    let at = versions.partition_point(|(found, _)| *found <= revision);
    versions[..at].last()?.1.as_ref()
}
