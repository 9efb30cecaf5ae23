//! What happened, as the checkers see it: what was agreed, what clients asked and were told, what
//! watchers got, and what the members held in the end.
//!
//! One idea: data and nothing else, so that a checker is a function of it and a test can falsify it.
//!
//! What a history must be: operations in the order in which they began; a value is written by one
//! operation only. Without a log, besides: nothing is compacted, the changes of the first replica are
//! there, and keys with a lease are deleted by calls that are answered, or by nobody.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use varve_api::Status;
use varve_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse, WatchResponse,
};
use varve_api::mvccpb::KeyValue;

/// Microseconds from some beginning, simulated or real.
pub type Micros = u64;

/// A second.
pub const SECOND: Micros = 1_000_000;

/// What a client asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// A put.
    Put(PutRequest),
    /// A range.
    Range(RangeRequest),
    /// A deletion.
    Delete(DeleteRangeRequest),
    /// A transaction.
    Txn(TxnRequest),
    /// A compaction.
    Compact(CompactionRequest),
    /// A new lease.
    Grant(LeaseGrantRequest),
    /// The end of a lease.
    Revoke(LeaseRevokeRequest),
    /// A renewal.
    KeepAlive(i64),
}

/// What it is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To a put.
    Put(PutResponse),
    /// To a range.
    Range(RangeResponse),
    /// To a deletion.
    Delete(DeleteRangeResponse),
    /// To a transaction.
    Txn(TxnResponse),
    /// To a compaction.
    Compact(CompactionResponse),
    /// To a grant.
    Grant(LeaseGrantResponse),
    /// To a revocation.
    Revoke(LeaseRevokeResponse),
    /// To a renewal: seconds, 0 if there is no such lease.
    KeepAlive(i64),
}

/// The number of the field that carries an operation's number through the log: no field of etcd.
const TAG_FIELD: u32 = 1_000;

impl Request {
    /// The request as it goes over the wire. A write carries its operation's number in a field that
    /// nobody knows.
    pub fn encode(&self, operation: usize) -> Bytes {
        let mut bytes = match self {
            Self::Put(request) => request.encode_to_vec(),
            Self::Range(request) => return request.encode_to_vec().into(),
            Self::Delete(request) => request.encode_to_vec(),
            Self::Txn(request) => request.encode_to_vec(),
            Self::Compact(request) => request.encode_to_vec(),
            Self::Grant(request) => return request.encode_to_vec().into(),
            Self::Revoke(request) => return request.encode_to_vec().into(),
            Self::KeepAlive(_) => return Bytes::new(),
        };
        prost::encoding::uint64::encode(TAG_FIELD, &(operation as u64), &mut bytes);
        bytes.into()
    }
}

/// Only the tag of a request.
#[derive(Clone, PartialEq, Message)]
struct Tagged {
    #[prost(uint64, optional, tag = "1000")]
    tag: Option<u64>,
}

/// The operation that a body in the log was sent for.
pub fn operation_of(body: &Bytes) -> Option<usize> {
    Tagged::decode(body.clone()).ok()?.tag.map(|tag| tag as usize)
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nobody knows.
    Unknown,
    /// It was answered.
    Done(Response),
    /// It was refused; a write has not happened, unless [`is_certain`] says otherwise.
    Refused(Status),
}

/// Whether a refusal says that nothing has happened.
pub fn is_certain(status: &Status) -> bool {
    use varve_api::Code;
    !matches!(
        status.code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Canceled
            | Code::Internal
            | Code::Unknown
    ) && !status.message.contains("too many requests")
}

/// An operation of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Who.
    pub client: usize,
    /// The member that was asked.
    pub member: u64,
    /// What.
    pub request: Request,
    /// When it was sent.
    pub invoked: Micros,
    /// When the answer came, or the client gave up.
    pub returned: Micros,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a client watches, over all streams that it needed for it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// First key.
    pub key: Bytes,
    /// As in requests.
    pub range_end: Bytes,
    /// Whether the replaced value was asked for.
    pub prev_kv: bool,
    /// Filters.
    pub no_put: bool,
    /// Filters.
    pub no_delete: bool,
    /// Its streams, one after the other.
    pub streams: Vec<WatchStream>,
}

/// One stream of a watcher.
#[derive(Clone, Debug)]
pub struct WatchStream {
    /// What was asked for; 0 is "from now on".
    pub start_revision: i64,
    /// What came.
    pub responses: Vec<WatchResponse>,
    /// Whether the member still served it when everything was quiet: then nothing may be missing.
    pub is_complete: bool,
}

/// What happened to one key in one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The revision.
    pub revision: i64,
    /// As events have it: of a deletion only key and revision.
    pub kv: KeyValue,
    /// Whether the key is gone after it.
    pub is_delete: bool,
    /// The key before it, if it was there.
    pub previous: Option<KeyValue>,
}

/// An entry that was agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Its term.
    pub term: u64,
    /// Its payload.
    pub payload: Bytes,
    /// When a member first handed it to its state machine.
    pub at: Micros,
}

/// What a member held at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Which.
    pub member: u64,
    /// All keys.
    pub keys: Vec<KeyValue>,
    /// All leases and their times.
    pub leases: Vec<(i64, i64)>,
    /// Current revision.
    pub revision: i64,
    /// Compacted revision.
    pub compacted: i64,
    /// Hash of all history that can be read.
    pub hash: u32,
    /// All that ever changed, if it was asked for that: nothing must be compacted then.
    pub changes: Option<Vec<Change>>,
}

/// See the head of the file.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By index. Empty for real clusters, whose log nobody can look into: what was agreed is
    /// concluded from the changes of the first replica then.
    pub log: BTreeMap<u64, Agreed>,
    /// In the order in which they began.
    pub operations: Vec<Operation>,
    /// All watchers.
    pub watched: Vec<Watched>,
    /// All members, when all was quiet.
    pub replicas: Vec<Replica>,
    /// How far clocks go wrong, in parts per million.
    pub drift: u64,
    /// How far a member's clock may lag behind the time at which things happen: simulated ones move in
    /// steps.
    pub clock_step: Micros,
}
