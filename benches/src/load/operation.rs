//! The kinds of calls, and how one is made.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use varve_api::etcdserverpb::TxnRequest;
use varve_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{
    Compare, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp,
};
use varve_api::method::{KV_PUT, KV_RANGE, KV_RANGE_STREAM, KV_TXN, LEASE_GRANT, LEASE_REVOKE};

use crate::grpc::{self, Connection, Target, frame};
use crate::workload::{PREFIX, PREFIX_END, Workload};

/// Keys of a page, when a database is read in pages.
const PAGE_KEYS: i64 = 10_000;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Puts a key.
    Put,
    /// Gets a key; `is_serializable` asks the member alone, which may be behind.
    Get {
        /// Without asking the other members.
        is_serializable: bool,
    },
    /// Puts a key that hangs on the lease with the number of the call.
    PutLeased,
    /// Puts a key that is none of the workload's.
    PutBeside,
    /// Grants the lease with the number of the call.
    GrantLease {
        /// Its time to live, in seconds.
        ttl_s: i64,
    },
    /// Revokes the lease with the number of the call.
    RevokeLease,
    /// Puts a key if a condition holds, which it does, as a guarded update of Kubernetes.
    Txn,
    /// Reads the whole database.
    RangeAll(Reading),
    /// Counts all keys.
    Count,
}

/// How a whole database is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// In one response.
    Whole,
    /// In pages of 10,000 keys at one revision.
    Pages,
    /// With RangeStream.
    Stream,
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reading::Whole => "one response",
            Reading::Pages => "pages of 10,000 keys",
            Reading::Stream => "RangeStream",
        })
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "put" => Operation::Put,
            "get" => Operation::Get { is_serializable: false },
            "get-serializable" => Operation::Get { is_serializable: true },
            "txn" => Operation::Txn,
            "range-all" => Operation::RangeAll(Reading::Whole),
            "range-pages" => Operation::RangeAll(Reading::Pages),
            "range-stream" => Operation::RangeAll(Reading::Stream),
            "count" => Operation::Count,
            _ => {
                return Err("expected put, get, get-serializable, txn, range-all, range-pages, \
                            range-stream or count"
                    .to_owned());
            }
        })
    }
}

/// A client's side of its calls.
pub struct Caller {
    connection: Connection,
    target: Target,
    operation: Operation,
    workload: Arc<Workload>,
}

impl Caller {
    /// Calls on a connection.
    pub fn new(connection: &Connection, operation: Operation, workload: &Arc<Workload>) -> Self {
        let method = match operation {
            Operation::Put | Operation::PutLeased | Operation::PutBeside => &KV_PUT,
            Operation::GrantLease { .. } => &LEASE_GRANT,
            Operation::RevokeLease => &LEASE_REVOKE,
            Operation::Txn => &KV_TXN,
            Operation::RangeAll(Reading::Stream) => &KV_RANGE_STREAM,
            Operation::Get { .. } | Operation::RangeAll(_) | Operation::Count => &KV_RANGE,
        };
        Self {
            connection: connection.clone(),
            target: connection.target(method),
            operation,
            workload: Arc::clone(workload),
        }
    }

    /// Makes a call to its end; the bytes of its responses.
    ///
    /// # Errors
    /// It failed.
    pub async fn call(&mut self, number: u64) -> Result<u64, grpc::Error> {
        let request = match self.operation {
            Operation::Put => frame(&self.put(number)),
            Operation::PutLeased => {
                frame(&PutRequest { lease: lease_id(number), ..self.put(number) })
            }
            Operation::PutBeside => {
                frame(&PutRequest { key: Bytes::from_static(b"beside"), ..self.put(number) })
            }
            Operation::GrantLease { ttl_s } => {
                frame(&LeaseGrantRequest { id: lease_id(number), ttl: ttl_s })
            }
            Operation::RevokeLease => frame(&LeaseRevokeRequest { id: lease_id(number) }),
            Operation::Get { is_serializable } => frame(&RangeRequest {
                key: self.workload.key(number),
                serializable: is_serializable,
                ..Default::default()
            }),
            Operation::Txn => frame(&self.guarded_put(number)),
            Operation::RangeAll(Reading::Pages) => return self.read_pages().await,
            Operation::RangeAll(_) => frame(&all_keys()),
            Operation::Count => frame(&RangeRequest { count_only: true, ..all_keys() }),
        };
        self.connection.discard(&self.target, request).await
    }

    fn put(&self, number: u64) -> PutRequest {
        PutRequest {
            key: self.workload.key(number),
            value: self.workload.value(number),
            ..Default::default()
        }
    }

    fn guarded_put(&self, number: u64) -> TxnRequest {
        let put = self.put(number);
        let compare = Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Version.into(),
            key: put.key.clone(),
            target_union: Some(TargetUnion::Version(-1)),
            ..Default::default()
        };
        let read = RangeRequest { key: put.key.clone(), ..Default::default() };
        let operation = |request| vec![RequestOp { request: Some(request) }];
        TxnRequest {
            compare: vec![compare],
            success: operation(Request::RequestPut(put)),
            failure: operation(Request::RequestRange(read)),
        }
    }

    async fn read_pages(&self) -> Result<u64, grpc::Error> {
        let mut page = RangeRequest { limit: PAGE_KEYS, ..all_keys() };
        let mut bytes = 0;
        loop {
            let response: RangeResponse = self.connection.unary(&self.target, &page).await?;
            bytes += prost::Message::encoded_len(&response) as u64;
            let Some(last) = response.kvs.last().filter(|_| response.more) else {
                return Ok(bytes);
            };
            page.key = [last.key.as_ref(), &[0]].concat().into();
            page.revision = match (page.revision, &response.header) {
                (0, Some(header)) => header.revision,
                (revision, _) => revision,
            };
        }
    }
}

/// Leases are numbered from 1; 0 is none.
fn lease_id(number: u64) -> i64 {
    i64::try_from(number).expect("calls are fewer") + 1
}

/// All keys of a workload.
pub fn all_keys() -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(PREFIX.as_bytes()),
        range_end: Bytes::from_static(PREFIX_END.as_bytes()),
        ..Default::default()
    }
}
