//! What the state machine should do, in the simplest words: a list of events.
//!
//! One idea: no index, no cache, no count. The keys at a revision are what is left when the events
//! up to it are played into an ordered map, and every answer is computed from that map by the rules
//! of etcd in the order in which etcd applies them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;
use varve_api::Status;
use varve_api::error as api;
use varve_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use varve_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::response_op::Response;
use varve_api::etcdserverpb::{
    CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantResponse,
    LeaseRevokeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
    ResponseOp, TxnRequest, TxnResponse,
};
use varve_api::mvccpb::{Event, KeyValue, event::EventType};
use varve_store::Reply;

pub type Keys = BTreeMap<Bytes, KeyValue>;

pub struct Naive {
    pub revision: i64,
    /// -1 when never compacted.
    pub compacted: i64,
    pub events: Vec<Event>,
    pub leases: BTreeMap<i64, i64>,
}

pub enum Write {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(i64),
    Grant { id: i64, ttl: i64 },
    Revoke(i64),
}

impl Naive {
    pub fn new() -> Self {
        Self { revision: 1, compacted: -1, events: Vec::new(), leases: BTreeMap::new() }
    }

    /// The keys at a revision.
    pub fn keys(&self, revision: i64) -> Keys {
        let mut keys = Keys::new();
        for event in &self.events {
            let kv = event.kv.as_ref().unwrap();
            if kv.mod_revision > revision {
                break;
            }
            match event.r#type() {
                EventType::Put => keys.insert(kv.key.clone(), kv.clone()),
                EventType::Delete => keys.remove(&kv.key),
            };
        }
        keys
    }

    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        let keys = self.keys(self.revision).into_values();
        keys.filter(|kv| kv.lease == id).map(|kv| kv.key).collect()
    }

    pub fn apply(&mut self, write: Write) -> Result<Reply, Status> {
        let known = self.events.len();
        let reply = self.execute(write);
        if self.events.len() > known {
            assert!(reply.is_ok());
            self.revision += 1;
        }
        reply
    }

    fn execute(&mut self, write: Write) -> Result<Reply, Status> {
        Ok(match write {
            Write::Put(request) => {
                self.check_put(&request)?;
                Reply::Put(self.put(request))
            }
            Write::Delete(request) => Reply::DeleteRange(self.delete(&request)),
            Write::Txn(request) => {
                let mut path = Vec::new();
                self.compare(&request, &mut path);
                self.check(&request, &mut path.clone().into_iter())?;
                let mut response = self.run(&request, &mut path.into_iter());
                response.header = header(self.current());
                Reply::Txn(response)
            }
            Write::Compact(revision) => {
                if revision <= self.compacted {
                    return Err(api::COMPACTED.into());
                }
                if revision > self.revision {
                    return Err(api::FUTURE_REV.into());
                }
                self.compacted = revision;
                Reply::Compact(CompactionResponse { header: header(self.revision) })
            }
            Write::Grant { id, ttl } => {
                if self.leases.contains_key(&id) {
                    return Err(api::LEASE_EXIST.into());
                }
                self.leases.insert(id, ttl);
                let header = header(self.revision);
                Reply::LeaseGrant(LeaseGrantResponse { header, id, ttl, error: String::new() })
            }
            Write::Revoke(id) => {
                self.leases.remove(&id).ok_or(Status::from(api::LEASE_NOT_FOUND))?;
                for key in self.lease_keys(id) {
                    self.delete(&DeleteRangeRequest { key, ..Default::default() });
                }
                Reply::LeaseRevoke(LeaseRevokeResponse { header: header(self.current()) })
            }
        })
    }

    /// The revision of reads within a transaction.
    fn current(&self) -> i64 {
        let newest = self.events.last().map_or(0, |event| event.kv.as_ref().unwrap().mod_revision);
        newest.max(self.revision)
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), Status> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(api::LEASE_NOT_FOUND.into());
        }
        let needs_key = request.ignore_value || request.ignore_lease;
        if needs_key && !self.keys(self.revision).contains_key(&request.key) {
            return Err(api::KEY_NOT_FOUND.into());
        }
        Ok(())
    }

    fn put(&mut self, request: PutRequest) -> PutResponse {
        let before = self.keys(i64::MAX).remove(&request.key);
        let revision = self.revision + 1;
        let fresh = KeyValue { create_revision: revision, ..KeyValue::default() };
        let old = before.clone().unwrap_or(fresh);
        let kv = KeyValue {
            key: request.key,
            create_revision: old.create_revision,
            mod_revision: revision,
            version: old.version + 1,
            value: if request.ignore_value { old.value } else { request.value },
            lease: if request.ignore_lease { old.lease } else { request.lease },
        };
        self.events.push(Event { r#type: EventType::Put as i32, kv: Some(kv), prev_kv: None });
        let prev_kv = before.filter(|_| request.prev_kv);
        PutResponse { header: header(revision), prev_kv }
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let keys = within(self.keys(i64::MAX), &request.key, &request.range_end);
        for kv in &keys {
            let (key, mod_revision) = (kv.key.clone(), self.revision + 1);
            let kv = Some(KeyValue { key, mod_revision, ..KeyValue::default() });
            self.events.push(Event { r#type: EventType::Delete as i32, kv, prev_kv: None });
        }
        DeleteRangeResponse {
            header: header(self.current()),
            deleted: keys.len() as i64,
            prev_kvs: if request.prev_kv { keys } else { Vec::new() },
        }
    }

    fn compare(&self, request: &TxnRequest, path: &mut Vec<bool>) {
        let keys = self.keys(self.revision);
        path.push(request.compare.iter().all(|guard| holds(&keys, guard)));
        for op in branch(request, *path.last().unwrap()) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.compare(nested, path);
            }
        }
    }

    fn check(
        &self,
        request: &TxnRequest,
        path: &mut impl Iterator<Item = bool>,
    ) -> Result<(), Status> {
        for op in branch(request, path.next().unwrap()) {
            match op.request.as_ref().unwrap() {
                Request::RequestPut(put) => self.check_put(put)?,
                Request::RequestTxn(nested) => self.check(nested, path)?,
                Request::RequestDeleteRange(_) => {}
                Request::RequestRange(range) => match range.revision {
                    0 => {}
                    revision if revision > self.revision => return Err(api::FUTURE_REV.into()),
                    revision if revision < self.compacted => return Err(api::COMPACTED.into()),
                    _ => {}
                },
            }
        }
        Ok(())
    }

    fn run(&mut self, request: &TxnRequest, path: &mut impl Iterator<Item = bool>) -> TxnResponse {
        let succeeded = path.next().unwrap();
        let mut responses = Vec::new();
        for op in branch(request, succeeded) {
            let response = match op.request.clone().unwrap() {
                Request::RequestRange(range) => {
                    Response::ResponseRange(self.range(&range).unwrap())
                }
                Request::RequestPut(put) => Response::ResponsePut(self.put(put)),
                Request::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.delete(&delete))
                }
                Request::RequestTxn(nested) => Response::ResponseTxn(self.run(&nested, path)),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses }
    }

    /// Answers a transaction that only reads.
    pub fn read(&self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        let mut path = Vec::new();
        self.compare(request, &mut path);
        self.check(request, &mut path.clone().into_iter())?;
        let mut copy = Naive { events: self.events.clone(), leases: BTreeMap::new(), ..*self };
        let mut response = copy.run(request, &mut path.into_iter());
        response.header = header(self.revision);
        Ok(response)
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        let current = self.current();
        if request.revision > current {
            return Err(api::FUTURE_REV.into());
        }
        let revision = if request.revision <= 0 { current } else { request.revision };
        if revision < self.compacted {
            return Err(api::COMPACTED.into());
        }
        let mut kvs = within(self.keys(revision), &request.key, &request.range_end);
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(RangeResponse { header: header(current), count, ..Default::default() });
        }
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX - 1 };
        let (target, order) = (request.sort_target(), request.sort_order());
        let bounds = [
            (request.min_mod_revision, request.max_mod_revision),
            (request.min_create_revision, request.max_create_revision),
        ];
        let is_plain_order =
            order == SortOrder::None || (target == SortTarget::Key && order == SortOrder::Ascend);
        if is_plain_order && bounds == [(0, 0); 2] {
            kvs.truncate(limit + 1);
        }
        let passes = |value: i64, (min, max): (i64, i64)| {
            (min == 0 || value >= min) && (max == 0 || value <= max)
        };
        kvs.retain(|kv| {
            passes(kv.mod_revision, bounds[0]) && passes(kv.create_revision, bounds[1])
        });
        kvs.sort_by(|left, right| {
            let ordering = match target {
                SortTarget::Key => left.key.cmp(&right.key),
                SortTarget::Version => left.version.cmp(&right.version),
                SortTarget::Create => left.create_revision.cmp(&right.create_revision),
                SortTarget::Mod => left.mod_revision.cmp(&right.mod_revision),
                SortTarget::Value => left.value.cmp(&right.value),
            };
            if order == SortOrder::Descend { ordering.reverse() } else { ordering }
        });
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        for kv in &mut kvs {
            if request.keys_only {
                kv.value = Bytes::new();
                if target != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        Ok(RangeResponse { header: header(current), kvs, more, count })
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[varve_api::etcdserverpb::RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// The keys of a range.
pub fn within(keys: Keys, key: &Bytes, range_end: &Bytes) -> Vec<KeyValue> {
    let lies_within = |candidate: &Bytes| match range_end.as_ref() {
        b"" => candidate == key,
        b"\0" => candidate >= key,
        _ => candidate >= key && candidate < range_end,
    };
    keys.into_values().filter(|kv| lies_within(&kv.key)).collect()
}

fn holds(keys: &Keys, guard: &Compare) -> bool {
    let kvs = within(keys.clone(), &guard.key, &guard.range_end);
    if kvs.is_empty() {
        return guard.target() != CompareTarget::Value && satisfies(&KeyValue::default(), guard);
    }
    kvs.iter().all(|kv| satisfies(kv, guard))
}

fn satisfies(kv: &KeyValue, guard: &Compare) -> bool {
    let ordering = match guard.target_union.as_ref().unwrap() {
        TargetUnion::Version(version) => kv.version.cmp(version),
        TargetUnion::CreateRevision(revision) => kv.create_revision.cmp(revision),
        TargetUnion::ModRevision(revision) => kv.mod_revision.cmp(revision),
        TargetUnion::Value(value) => kv.value.cmp(value),
        TargetUnion::Lease(lease) => kv.lease.cmp(lease),
    };
    match guard.result() {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::NotEqual => ordering != Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
    }
}
