//! What locks and elections have in common, as the `concurrency` package of etcd's client does it:
//! who comes first below a prefix holds it.
//!
//! One idea: a candidate is the key `prefix/lease`, attached to that lease. Candidates queue by their
//! create revisions, and each waits until all before it are gone. Keys are etcd's, so that holders
//! through this service and holders through a client's own package exclude each other.
//!
//! Invariant: a candidate whose call ends without success leaves no key ([`Candidate`]).

use std::rc::Rc;

use bytes::Bytes;
use prost::Message;
use varve_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use varve_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::response_op::Response;
use varve_api::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use varve_api::mvccpb::KeyValue;
use varve_api::{Code, Status};

use super::{kv, lease};
use crate::grpc::RequestMeta;
use crate::services::Services;

/// Time to live of the lease that a call without one is given, in seconds; etcd's number.
const SESSION_TTL_SECONDS: i64 = 60;

/// One caller with its metadata, which decides what it may do.
#[derive(Clone)]
pub struct Caller {
    pub services: Services,
    pub meta: Rc<RequestMeta>,
}

/// A key that stands in a queue. Dropped before [`Candidate::keep`], it is deleted.
pub struct Candidate {
    caller: Caller,
    /// What is deleted; `None` when it is kept.
    pub key: Option<Bytes>,
    /// Its create revision.
    pub revision: i64,
    /// Of the transaction that found or made it.
    pub header: Option<ResponseHeader>,
    /// As it was when it had been there already.
    pub found: Option<KeyValue>,
    /// Who was first in the queue then.
    pub owner: Option<KeyValue>,
}

/// An error of etcd's `concurrency` package, which has no code of its own.
pub fn plain_error(text: &'static str) -> Status {
    Status::new(Code::Unknown, text)
}

/// `prefix/`.
pub fn queue_prefix(name: &Bytes) -> Bytes {
    [name.as_ref(), b"/"].concat().into()
}

impl Caller {
    pub fn new(services: Services, meta: RequestMeta) -> Self {
        Self { services, meta: Rc::new(meta) }
    }

    /// The lease, or a new one if it is 0.
    ///
    /// # Errors
    /// Those of granting.
    pub async fn lease(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let request = LeaseGrantRequest { id: 0, ttl: SESSION_TTL_SECONDS };
        Ok(lease::grant(self.services.clone(), &self.meta, request).await.map_err(unknown)?.id)
    }

    /// Puts the candidate `prefix` and lease into the queue, or finds it there.
    ///
    /// # Errors
    /// Those of the transaction; nothing was put.
    pub async fn stand(
        &self,
        prefix: &Bytes,
        lease: i64,
        value: Bytes,
    ) -> Result<Candidate, Status> {
        let (caller, prefix) = (self.clone(), prefix.clone());
        // A task of its own: a call that is cut off between the put and its answer would leave a
        // key that nobody withdraws. This goes on, and drops the candidate.
        let standing =
            tokio::task::spawn_local(async move { caller.stand_up(&prefix, lease, value).await });
        standing.await.expect("nobody aborts the task")
    }

    async fn stand_up(
        &self,
        prefix: &Bytes,
        lease: i64,
        value: Bytes,
    ) -> Result<Candidate, Status> {
        let key = candidate_key(prefix, lease);
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let own = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let owner = op(Request::RequestRange(first_of(prefix)));
        let request = TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![op(Request::RequestPut(put)), owner.clone()],
            failure: vec![op(Request::RequestRange(own)), owner],
        };
        let response = self.txn(&request).await?;
        let mut ranges = response.responses.into_iter().map(|response| match response.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        let found = ranges.next().flatten();
        let made_at = response.header.as_ref().map_or(0, |header| header.revision);
        Ok(Candidate {
            caller: self.clone(),
            key: Some(key),
            revision: found.as_ref().map_or(made_at, |found| found.create_revision),
            header: response.header,
            found,
            owner: ranges.next().flatten(),
        })
    }

    /// Waits until every key below `prefix` created before `revision` is gone.
    ///
    /// The state that is applied here is enough: it has the transaction that made `revision`, and so
    /// all that came before.
    pub async fn wait_for_turn(&self, prefix: &Bytes, revision: i64) -> Result<(), Status> {
        let last = RangeRequest {
            sort_order: SortOrder::Descend as i32,
            max_create_revision: revision - 1,
            ..first_of(prefix)
        };
        loop {
            let before = self.services.view.range(&last)?.kvs.into_iter().next();
            let Some(before) = before else { return Ok(()) };
            let wait = self.services.key_waiters.key(before.key.clone());
            let only = RangeRequest { key: before.key, ..RangeRequest::default() };
            loop {
                let now = self.services.view.range(&only)?.kvs.into_iter().next();
                if now.is_none_or(|now| now.create_revision != before.create_revision) {
                    break;
                }
                wait.changed().await;
            }
        }
    }

    /// A transaction as this caller may make it.
    pub async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        let body = request.encode_to_vec().into();
        kv::write_txn(&self.services, &self.meta, request, body).await.map_err(unknown)
    }

    /// A linearizable read as this caller may make it.
    pub async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        kv::read_range(&self.services, &self.meta, request).await.map_err(unknown)
    }

    /// A deletion as this caller may make it; the header of its answer.
    pub async fn delete(&self, key: Bytes) -> Result<Option<ResponseHeader>, Status> {
        let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        let body = request.encode_to_vec().into();
        let response = kv::delete(&self.services, &self.meta, &request, body).await;
        Ok(response.map_err(unknown)?.header)
    }
}

impl Candidate {
    /// It has what it stood for: the key stays.
    pub fn keep(mut self) -> Bytes {
        self.key.take().expect("a candidate has its key until it is kept")
    }

    /// Whether nobody was before it when it stood up.
    pub fn is_first(&self) -> bool {
        let revision = self.owner.as_ref().map(|owner| owner.create_revision);
        revision.is_none_or(|revision| revision == self.revision)
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let (caller, revision) = (self.caller.clone(), self.revision);
        tokio::task::spawn_local(async move {
            let request = if_created_at(&key, revision, delete_op(key.clone()));
            if let Err(error) = caller.txn(&request).await {
                tracing::warn!(%error, "failed to withdraw a candidate; its lease ends it");
            }
        });
    }
}

/// `then` if the key is the one created at this revision.
pub fn if_created_at(key: &Bytes, revision: i64, then: Request) -> TxnRequest {
    TxnRequest {
        compare: vec![created_at(key, revision)],
        success: vec![op(then)],
        failure: vec![],
    }
}

/// The deletion of one key.
pub fn delete_op(key: Bytes) -> Request {
    Request::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() })
}

/// The oldest key below a prefix.
pub fn first_of(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_target: SortTarget::Create as i32,
        sort_order: SortOrder::Ascend as i32,
        ..RangeRequest::default()
    }
}

/// The end of the keys that begin with `prefix`, which ends in a slash.
pub fn prefix_end(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    let last = end.last_mut().expect("a prefix is not empty");
    assert_eq!(*last, b'/', "the end of a prefix");
    *last += 1;
    end.into()
}

/// The lease in hexadecimal, as Go prints it: with a sign.
fn candidate_key(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix.as_ref(), format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// etcd's services call its client, whose errors lose their codes on the way out.
fn unknown(status: Status) -> Status {
    Status::new(Code::Unknown, status.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcds_clients() {
        let prefix = queue_prefix(&Bytes::from_static(b"a"));
        assert_eq!(candidate_key(&prefix, 0x2f), "a/2f");
        assert_eq!(candidate_key(&prefix, -5), "a/-5");
        assert_eq!(candidate_key(&prefix, i64::MIN), "a/-8000000000000000");
        assert_eq!(prefix_end(&prefix), "a0");
    }
}
