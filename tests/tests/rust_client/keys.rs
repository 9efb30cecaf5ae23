//! Keys, transactions and streamed ranges.

use bytes::Bytes;
use varve_api::error;
use varve_api::etcdserverpb::{
    CompactionRequest, Compare, PutRequest, RangeRequest, RangeStreamResponse, RequestOp,
    TxnRequest, TxnResponse, compare, request_op, response_op,
};
use varve_api::method;

use crate::session::{
    Session, delete, expect_error, get, put, put_request, range, range_request, run,
};

fn op_put(key: &str, value: &str) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestPut(put_request(key, value))) }
}

fn op_range(prefix: &str) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestRange(range_request(prefix))) }
}

fn op_txn(txn: TxnRequest) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestTxn(txn)) }
}

fn value_is(key: &str, value: &str) -> Compare {
    Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Value.into(),
        key: key.to_owned().into(),
        target_union: Some(compare::TargetUnion::Value(value.to_owned().into())),
        range_end: Bytes::new(),
    }
}

#[test]
fn a_key_is_written_read_and_deleted() {
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        assert!(get(client, "k").await.is_none());
        let first = put(client, "k", "1").await;
        assert_eq!(first, 2, "the first write of a store has revision 2");
        let second = put(client, "k", "2").await;
        let kv = get(client, "k").await.expect("the key is there");
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));
        assert_eq!(kv.value, "2");
        assert_eq!(delete(client, "k").await.deleted, 1);
        assert!(get(client, "k").await.is_none());
        expect_error(client, &method::KV_PUT, PutRequest::default(), error::EMPTY_KEY).await;
        let future = RangeRequest { revision: 99, ..range_request("k") };
        expect_error(client, &method::KV_RANGE, future, error::FUTURE_REV).await;
        let ahead = CompactionRequest { revision: 99, physical: false };
        expect_error(client, &method::KV_COMPACT, ahead, error::FUTURE_REV).await;
    });
}

#[test]
fn transactions_nest_and_guard() {
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        put(client, "k", "1").await;
        let inner = TxnRequest {
            compare: vec![value_is("k", "2")],
            success: vec![op_put("wrong", "x")],
            failure: vec![op_put("inner", "x"), op_range("k")],
        };
        let outer = TxnRequest {
            compare: vec![value_is("k", "1")],
            success: vec![op_put("outer", "x"), op_txn(inner), op_range("inner")],
            failure: vec![],
        };
        let answer: TxnResponse =
            client.unary(&method::KV_TXN, outer).await.expect("the transaction is done");
        assert!(answer.succeeded);
        assert_eq!(answer.header.expect("a header").revision, 3);
        let [_, nested, seen] = answer.responses.as_slice() else { panic!("three answers") };
        let Some(response_op::Response::ResponseTxn(nested)) = &nested.response else {
            panic!("a nested answer: {nested:?}")
        };
        assert!(!nested.succeeded && nested.responses.len() == 2);
        let Some(response_op::Response::ResponseRange(seen)) = &seen.response else {
            panic!("a range: {seen:?}")
        };
        assert_eq!(seen.kvs[0].mod_revision, 3);
        assert!(get(client, "wrong").await.is_none());

        let twice = TxnRequest {
            success: vec![op_put("k", "a"), op_put("k", "b")],
            ..TxnRequest::default()
        };
        expect_error(client, &method::KV_TXN, twice, error::DUPLICATE_KEY).await;
        let many = TxnRequest {
            success: (0..129).map(|number| op_put(&format!("n{number}"), "v")).collect(),
            ..TxnRequest::default()
        };
        expect_error(client, &method::KV_TXN, many, error::TOO_MANY_OPS).await;
        assert_eq!(range(client, "k").await.header.expect("a header").revision, 3);
    });
}

#[test]
fn a_streamed_range_merges_to_the_plain_one() {
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        let value = "v".repeat(40_000);
        for number in 0..120 {
            put(client, &format!("k{number:03}"), &value).await;
        }
        let plain = range(client, "k").await;
        let mut stream = client
            .server_stream::<_, RangeStreamResponse>(&method::KV_RANGE_STREAM, range_request("k"))
            .await
            .expect("the stream opens");
        let mut merged = varve_api::etcdserverpb::RangeResponse::default();
        let mut chunks = 0;
        while let Some(chunk) = stream.message().await.expect("the stream does not fail") {
            assert!(merged.header.is_none(), "nothing comes after the header");
            let chunk = chunk.range_response.expect("a chunk has an answer");
            chunks += 1;
            merged.kvs.extend(chunk.kvs);
            merged.header = chunk.header;
            merged.more = chunk.more;
            merged.count = chunk.count;
        }
        assert!(chunks > 1, "5 MB come in {chunks} chunks");
        assert_eq!(merged, plain);
    });
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_and_a_restart() {
    run(async {
        let mut session = Session::start(&[]);
        for number in 0..100 {
            put(&session.client, &format!("k{number}"), "v").await;
        }
        delete(&session.client, "k5").await;
        let before = range(&session.client, "k").await;
        session.server.kill();
        session.server.restart();
        let after = range(&session.client, "k").await;
        assert_eq!(before.kvs, after.kvs);
        assert_eq!(put(&session.client, "k", "next").await, 103);
        session.server.terminate();
        session.server.restart();
        assert_eq!(range(&session.client, "k").await.count, before.count + 1);
        let past = RangeRequest { revision: 101, ..range_request("k") };
        assert_eq!(session.client.range(past).await.expect("history is kept").count, 100);
    });
}
