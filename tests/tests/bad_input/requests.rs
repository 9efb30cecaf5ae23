//! Requests that are well-formed gRPC and wrong: too large, nested too deep, not protobuf.
//!
//! Each is answered with an error, and every other client is served before and after.

use varve_api::etcdserverpb::{
    PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, request_op,
};
use varve_api::method;
use varve_tests::grpc_client::Client;
use varve_tests::process::{Program, Server};

use crate::{CALL_TIMEOUT, assert_keys, assert_no_panic, block_on, put, put_keys};

/// Default of `--max-request-bytes`.
const REQUEST_BYTES_MAX: usize = 1_536 * 1_024;
/// What a gRPC message may be larger.
const OVERHEAD_BYTES: usize = 512 * 1_024;
/// Bytes of a put besides its value, at most, for a key of one byte, and what etcd adds to it
/// before it measures.
const PUT_OVERHEAD_BYTES: usize = 64;

fn sized(value_bytes: usize) -> PutRequest {
    PutRequest {
        key: b"k".as_slice().into(),
        value: vec![b'v'; value_bytes].into(),
        ..PutRequest::default()
    }
}

#[test]
fn a_request_that_is_too_large_is_refused_in_etcds_words_and_the_next_one_is_served() {
    let server = Server::start(&Program::varve(), &[]);
    let keys = put_keys(&server, "k", 3);
    block_on(async {
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        for value_bytes in [REQUEST_BYTES_MAX, REQUEST_BYTES_MAX + OVERHEAD_BYTES / 2] {
            let status = client.put(sized(value_bytes)).await.expect_err("it is too large");
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
            assert_eq!(status.message(), "etcdserver: request is too large");
        }
        let limit = REQUEST_BYTES_MAX + OVERHEAD_BYTES;
        for value_bytes in [limit, 4 * limit] {
            let request = sized(value_bytes);
            let length = prost::Message::encoded_len(&request);
            let status = client.put(request).await.expect_err("it is too large");
            assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
            let text = format!("grpc: received message larger than max ({length} vs. {limit})");
            assert_eq!(status.message(), text);
        }
        let largest = sized(REQUEST_BYTES_MAX - PUT_OVERHEAD_BYTES);
        client.put(largest).await.expect("it is just small enough");
        put(&client, "after", "v").await.expect("the server serves");
    });
    assert_keys(&server, &keys);
    assert_no_panic(&server.log());
}

#[test]
fn a_smaller_limit_of_requests_is_kept() {
    let server = Server::start(&Program::varve(), &["--max-request-bytes", "1000"]);
    block_on(async {
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        client.put(sized(900)).await.expect("it is small enough");
        let status = client.put(sized(1_001)).await.expect_err("it is too large");
        assert_eq!(status.message(), "etcdserver: request is too large");
    });
}

/// A put within `depth` transactions.
fn nested(depth: usize) -> TxnRequest {
    let put = |key: String| {
        request_op::Request::RequestPut(PutRequest {
            key: key.into(),
            value: b"v".as_slice().into(),
            ..PutRequest::default()
        })
    };
    let mut request = put(format!("nested/{depth:05}"));
    for _ in 1..depth {
        request = request_op::Request::RequestTxn(TxnRequest {
            success: vec![RequestOp { request: Some(request) }],
            ..TxnRequest::default()
        });
    }
    TxnRequest { success: vec![RequestOp { request: Some(request) }], ..TxnRequest::default() }
}

/// Etcd's limit is 128 levels, the operations that a transaction may have. What is accepted can also
/// be applied, and applied again after a restart.
#[test]
fn transactions_are_nested_up_to_a_limit_and_what_is_accepted_survives_a_restart() {
    let mut server = Server::start(&Program::varve(), &[]);
    let mut accepted = Vec::new();
    block_on(async {
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        for depth in [1, 2, 48, 49, 50, 51, 127, 128, 129, 256, 257, 1_000, 5_000] {
            let key = format!("nested/{depth:05}");
            // The response is nested too, deeper than this client can decode: it looks at nothing.
            let answer = client.unary::<_, ()>(&method::KV_TXN, nested(depth)).await;
            if depth <= 128 {
                answer.unwrap_or_else(|status| panic!("depth {depth}: {status}"));
                let range = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
                let found: RangeResponse =
                    client.unary(&method::KV_RANGE, range).await.expect("the server serves");
                let revision = found.kvs[0].mod_revision;
                accepted.push(crate::Acknowledged { key, value: "v".into(), revision });
            } else {
                let status = answer.expect_err("it is too deep");
                let text = "etcdserver: too many operations in txn request";
                let said = (status.code(), status.message());
                assert_eq!(said, (tonic::Code::InvalidArgument, text), "depth {depth}");
            }
            put(&client, "bystander", "v").await.expect("the server serves");
        }
    });
    assert_keys(&server, &accepted);
    server.kill();
    server.restart();
    assert_keys(&server, &accepted);
    assert_no_panic(&server.log());
}
