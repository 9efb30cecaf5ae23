//! A server, a client and an executor for one test, and short forms of the usual calls.

use std::future::Future;
use std::time::Duration;

use varve_api::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse,
};
use varve_api::method::{self, Method};
use varve_api::mvccpb::KeyValue;
use varve_tests::grpc_client::Client;
use varve_tests::process::{Program, Server};

/// How long a call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a test may take in all.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// What a call gave: an answer, or code and text.
pub type Answer<T> = Result<T, tonic::Status>;

/// Runs a test on an executor of its own.
///
/// # Panics
///
/// If it takes longer than [`TEST_TIMEOUT`].
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("an executor can be made");
    runtime.block_on(async {
        tokio::time::timeout(TEST_TIMEOUT, test).await.expect("the test ends in time");
    });
}

/// One server and a client of it.
pub struct Session {
    pub server: Server,
    pub client: Client,
}

impl Session {
    pub fn start(flags: &[&str]) -> Session {
        let server = Server::start(&Program::varve(), flags);
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        Session { server, client }
    }
}

/// The range of all keys with this prefix; the prefix must not end in 0xff.
pub fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().expect("a prefix is not empty");
    *last = last.checked_add(1).expect("a prefix does not end in 0xff");
    end
}

pub fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    }
}

pub fn range_request(prefix: &str) -> RangeRequest {
    RangeRequest {
        key: prefix.to_owned().into(),
        range_end: prefix_end(prefix).into(),
        ..RangeRequest::default()
    }
}

/// Puts a key and gives the revision.
pub async fn put(client: &Client, key: &str, value: &str) -> i64 {
    let answer = client.put(put_request(key, value)).await;
    answer.expect("a put succeeds").header.expect("an answer has a header").revision
}

pub async fn get(client: &Client, key: &str) -> Option<KeyValue> {
    let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
    let answer = client.range(request).await.expect("a get succeeds");
    answer.kvs.into_iter().next()
}

pub async fn range(client: &Client, prefix: &str) -> RangeResponse {
    client.range(range_request(prefix)).await.expect("a range succeeds")
}

pub async fn delete(client: &Client, prefix: &str) -> DeleteRangeResponse {
    let request = DeleteRangeRequest {
        key: prefix.to_owned().into(),
        range_end: prefix_end(prefix).into(),
        ..DeleteRangeRequest::default()
    };
    client.unary(&method::KV_DELETE_RANGE, request).await.expect("a deletion succeeds")
}

/// Grants a lease and gives its id.
pub async fn grant(client: &Client, ttl_seconds: i64) -> i64 {
    let request = LeaseGrantRequest { ttl: ttl_seconds, id: 0 };
    let answer: LeaseGrantResponse =
        client.unary(&method::LEASE_GRANT, request).await.expect("a lease is granted");
    answer.id
}

/// Puts a key with a lease.
pub async fn put_leased(client: &Client, key: &str, lease: i64) -> Answer<PutResponse> {
    client.put(PutRequest { lease, ..put_request(key, "leased") }).await
}

/// Calls that must fail, with code and text.
pub async fn expect_error<Req>(
    client: &Client,
    method: &Method,
    request: Req,
    error: varve_api::ApiError,
) where
    Req: prost::Message + Send + Sync + 'static,
{
    let answer: Answer<Anything> = client.unary(method, request).await;
    let status = answer.expect_err("the call is refused");
    let code = i32::from(error.code.number());
    assert_eq!((status.code() as i32, status.message()), (code, error.message), "{}", method.path);
}

/// A message that accepts any answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Anything {}
