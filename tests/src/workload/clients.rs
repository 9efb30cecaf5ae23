//! What a client asks, drawn at random, and how it ended.
//!
//! Two kinds of keys: those of `k` come and go by puts, deletions and transactions; those of `l` have
//! leases, which end them. Every value is its own, and so is every lease.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use varve_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use varve_api::etcdserverpb::request_op::Request as Op;
use varve_api::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use varve_api::{Code, Status, method};
use varve_disk::sim::Random;
use varve_judge::durable::{is_tagged, revision_of};
use varve_judge::history::{Operation, Outcome, Request, Response, is_certain};

use super::{CALL_TIMEOUT, SETTLE_TIMEOUT, Shared};
use crate::grpc_client::Client;

const KEYS: u64 = 12;
const LEASED_KEYS: u64 = 5;
/// Leases that a client thinks of; older ones run out.
const LEASES_KNOWN: usize = 3;

/// What a client remembers.
struct Memory {
    random: Random,
    /// The newest revision that it was told.
    revision: i64,
    leases: Vec<i64>,
}

/// Does one thing after another until it is stopped.
pub async fn act(shared: Arc<Shared>, number: usize, seed: u64) {
    let random = Random::new(seed ^ ((number as u64 + 1) << 32));
    let mut memory = Memory { random, revision: 1, leases: Vec::new() };
    let mut at = number % shared.addresses.len();
    let mut client = Client::new(&shared.addresses[at], CALL_TIMEOUT);
    while !shared.stop.load(Ordering::Relaxed) {
        let request = memory.draw(&shared);
        let outcome = call(&shared, &client, (number, at), request).await;
        memory.learn(&outcome);
        let is_answered = match &outcome {
            Outcome::Done(_) => true,
            Outcome::Refused(status) => is_certain(status),
            Outcome::Unknown => false,
        };
        if !is_answered {
            at = (at + 1) % shared.addresses.len();
            // A connection that was cut would wait for TCP, which waits longer and longer.
            client = Client::new(&shared.addresses[at], CALL_TIMEOUT);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(memory.random.below(12))).await;
    }
}

/// A write through one member, tried until it is acknowledged; its revision. Each attempt is an
/// operation of the history.
pub async fn insist(shared: &Shared, member: usize, address: &str) -> Result<i64, tonic::Status> {
    let began = Instant::now();
    loop {
        let client = Client::new(address, CALL_TIMEOUT);
        let put = put(format!("kz-end-{address}").into(), shared, 0);
        match call(shared, &client, (super::CLIENTS, member), Request::Put(put)).await {
            Outcome::Done(response) => {
                return Ok(revision_of(&response).expect("a put has a header"));
            }
            outcome if began.elapsed() > SETTLE_TIMEOUT => {
                return Err(tonic::Status::unavailable(format!("{outcome:?}")));
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// One call, from its beginning to its end.
async fn call(
    shared: &Shared,
    client: &Client,
    (number, member): (usize, usize),
    request: Request,
) -> Outcome {
    let invoked = shared.now();
    let answer = tokio::time::timeout(CALL_TIMEOUT, send(client, &request)).await;
    let returned = shared.now();
    let outcome = match answer {
        Ok(Ok(response)) => Outcome::Done(response),
        Ok(Err(status)) => {
            let code = u8::try_from(status.code() as i32).ok().and_then(Code::from_number);
            let message = status.message().to_owned().into();
            Outcome::Refused(Status { code: code.unwrap_or(Code::Unknown), message })
        }
        Err(_) => Outcome::Unknown,
    };
    if is_tagged(&request) && matches!(outcome, Outcome::Done(_)) {
        shared.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    let member = member as u64;
    let told = outcome.clone();
    let operation = Operation { client: number, member, request, invoked, returned, outcome };
    shared.operations.lock().expect("no panic under this lock").push(operation);
    told
}

async fn send(client: &Client, request: &Request) -> Result<Response, tonic::Status> {
    Ok(match request.clone() {
        Request::Put(put) => Response::Put(client.put(put).await?),
        Request::Range(range) => Response::Range(client.range(range).await?),
        Request::Delete(delete) => {
            Response::Delete(client.unary(&method::KV_DELETE_RANGE, delete).await?)
        }
        Request::Txn(txn) => Response::Txn(client.unary(&method::KV_TXN, txn).await?),
        Request::Compact(compact) => {
            Response::Compact(client.unary(&method::KV_COMPACT, compact).await?)
        }
        Request::Grant(grant) => Response::Grant(client.unary(&method::LEASE_GRANT, grant).await?),
        Request::Revoke(revoke) => {
            Response::Revoke(client.unary(&method::LEASE_REVOKE, revoke).await?)
        }
        Request::KeepAlive(id) => {
            let requests = tokio_stream::once(LeaseKeepAliveRequest { id });
            let mut stream = client.bidi_stream(&method::LEASE_KEEP_ALIVE, requests).await?;
            let answer: Option<LeaseKeepAliveResponse> = stream.message().await?;
            let answer = answer.ok_or_else(|| tonic::Status::unavailable("the stream ended"))?;
            Response::KeepAlive(answer.ttl)
        }
    })
}

impl Memory {
    fn learn(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Done(response) => {
                self.revision = revision_of(response).unwrap_or(0).max(self.revision);
                if let Response::Grant(granted) = response {
                    self.leases.truncate(LEASES_KNOWN - 1);
                    self.leases.insert(0, granted.id);
                }
            }
            // Its lease has run out.
            Outcome::Refused(status) if is_certain(status) => _ = self.leases.pop(),
            Outcome::Refused(_) | Outcome::Unknown => {}
        }
    }

    fn key(&mut self) -> Bytes {
        format!("k{:02}", self.random.below(KEYS)).into()
    }

    fn lease(&mut self) -> Option<i64> {
        let count = self.leases.len() as u64;
        (count > 0).then(|| self.leases[self.random.below(count) as usize])
    }

    fn draw(&mut self, shared: &Shared) -> Request {
        match self.random.below(17) {
            0..4 => Request::Put(put(self.key(), shared, 0)),
            4 => {
                let range_end = if self.random.one_in(2) { "k06".into() } else { Bytes::new() };
                let prev_kv = self.random.one_in(2);
                Request::Delete(DeleteRangeRequest { key: self.key(), range_end, prev_kv })
            }
            5..8 => Request::Txn(self.txn(shared)),
            8 => Request::Txn(TxnRequest {
                compare: vec![self.guard(), self.guard()],
                success: vec![
                    op(Op::RequestRange(self.range())),
                    op(Op::RequestRange(self.range())),
                ],
                failure: vec![op(Op::RequestRange(self.range()))],
            }),
            9..11 => Request::Range(self.range()),
            11 => Request::Range(RangeRequest { serializable: true, ..self.range() }),
            12 => {
                let back = self.random.below(20) as i64;
                let revision = (self.revision - back).max(1);
                Request::Range(RangeRequest { revision, ..self.range() })
            }
            13 if self.random.one_in(6) => {
                let (id, ttl) = (shared.number() as i64, 2 + self.random.below(3) as i64);
                Request::Grant(LeaseGrantRequest { id, ttl })
            }
            kind => match self.lease() {
                Some(id) if kind == 16 && self.random.one_in(8) => {
                    Request::Revoke(LeaseRevokeRequest { id })
                }
                Some(id) if kind == 16 => Request::KeepAlive(id),
                lease => {
                    let key = format!("l{:02}", self.random.below(LEASED_KEYS)).into();
                    Request::Put(put(key, shared, lease.unwrap_or(0)))
                }
            },
        }
    }

    fn range(&mut self) -> RangeRequest {
        let (key, range_end) = match self.random.below(3) {
            0 => ("k".into(), "m".into()),
            1 => (self.key(), "k99".into()),
            _ => (self.key(), Bytes::new()),
        };
        let limit = if self.random.one_in(4) { 1 + self.random.below(3) as i64 } else { 0 };
        let count_only = self.random.one_in(8);
        RangeRequest { key, range_end, limit, count_only, ..RangeRequest::default() }
    }

    /// What it writes, if its comparisons hold, has a value in any case.
    fn txn(&mut self, shared: &Shared) -> TxnRequest {
        let compare = (0..self.random.below(3)).map(|_| self.guard()).collect();
        let number = self.random.below(KEYS);
        let key = |behind: u64| Bytes::from(format!("k{:02}", (number + behind) % KEYS));
        let mut success = vec![
            op(Op::RequestPut(put(key(0), shared, 0))),
            op(Op::RequestPut(put(key(5), shared, 0))),
            op(Op::RequestRange(self.range())),
        ];
        if self.random.one_in(2) {
            let delete = DeleteRangeRequest { key: key(2), ..DeleteRangeRequest::default() };
            success.push(op(Op::RequestDeleteRange(delete)));
        }
        TxnRequest { compare, success, failure: vec![op(Op::RequestRange(self.range()))] }
    }

    /// A comparison that may hold or not.
    fn guard(&mut self) -> Compare {
        let (target, operand) = match self.random.below(4) {
            0 => (CompareTarget::Version, TargetUnion::Version(self.random.below(3) as i64)),
            1 => (CompareTarget::Create, TargetUnion::CreateRevision(0)),
            2 => (CompareTarget::Lease, TargetUnion::Lease(0)),
            _ => {
                let revision = (self.revision - self.random.below(40) as i64).max(0);
                (CompareTarget::Mod, TargetUnion::ModRevision(revision))
            }
        };
        let results = [
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ];
        Compare {
            result: results[self.random.below(4) as usize] as i32,
            target: target as i32,
            key: self.key(),
            range_end: Bytes::new(),
            target_union: Some(operand),
        }
    }
}

fn put(key: Bytes, shared: &Shared, lease: i64) -> PutRequest {
    let number = shared.number();
    // Some are long enough to be kept apart from their keys.
    let padding = if number.is_multiple_of(8) { 600 } else { 10 };
    let value = format!("value {number} {}", "x".repeat(padding)).into();
    PutRequest { key, value, lease, prev_kv: number.is_multiple_of(2), ..PutRequest::default() }
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}
