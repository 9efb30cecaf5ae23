//! `--enable-distributed-tracing`: what a collector gets of the calls of a real server, and that a
//! collector which gets or takes nothing harms nobody.
//!
//! Names, attributes and parents are those that etcd 3.7.1 sends for the same calls.

mod collector;

use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use prost::Message;
use varve_api::etcdserverpb::watch_request::RequestUnion;
use varve_api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    WatchCreateRequest, WatchRequest, request_op::Request,
};
use varve_api::method::{self, Method};
use varve_api::v3lockpb::{LockRequest, LockResponse};
use varve_tests::grpc_client::Client;
use varve_tests::http_client::ask;
use varve_tests::process::{Program, Server};

use collector::{Collector, Mood, Received};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The trace of the client's calls.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// Spans that wait in the server, at most.
const WAITING_MAX: usize = 2_048;

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("an executor can be made").block_on(test)
}

fn start(collector: &Collector, rate: &str) -> Server {
    let address = format!("--distributed-tracing-address={}", collector.address());
    let rate = format!("--distributed-tracing-sampling-rate={rate}");
    let name = "--distributed-tracing-service-name=kept";
    let instance = "--distributed-tracing-instance-id=one";
    let flags = ["--enable-distributed-tracing", &address, &rate, name, instance];
    Server::start(&Program::varve(), &flags)
}

/// As the call number `parent` of the client, in its trace.
fn traceparent(parent: u64, flags: &str) -> String {
    format!("00-{TRACE}-{parent:016x}-{flags}")
}

fn traced(parent: u64, message: &impl Message) -> tonic::Request<Vec<u8>> {
    in_trace(&traceparent(parent, "01"), message)
}

/// A read in a trace that the client does not record.
fn unrecorded(parent: u64) -> tonic::Request<Vec<u8>> {
    in_trace(&traceparent(parent, "00"), &of_key())
}

fn in_trace(parent: &str, message: &impl Message) -> tonic::Request<Vec<u8>> {
    let mut request = tonic::Request::new(message.encode_to_vec());
    let parent = parent.parse().expect("visible ASCII");
    request.metadata_mut().insert("traceparent", parent);
    request
}

fn of_key() -> RangeRequest {
    RangeRequest { key: "k".into(), ..RangeRequest::default() }
}

fn text(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

/// The span of the call that the client knows as `parent`, and those below.
fn family(spans: &[Received], parent: u64) -> (&Received, Vec<&Received>) {
    let below = |id: &[u8]| -> Vec<&Received> {
        spans.iter().filter(|received| received.span.parent_span_id == id).collect()
    };
    let calls = below(&parent.to_be_bytes());
    assert_eq!(calls.len(), 1, "call {parent}: {calls:?}");
    (calls[0], below(&calls[0].span.span_id))
}

/// Every call that has a span of its own within, in the order of their names below.
async fn call_all(client: &Client, server: &Server) {
    let bytes = |method: &'static Method, request| client.unary_bytes(method, request);
    let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
    bytes(&method::KV_PUT, traced(1, &put)).await.expect("a put");
    let range = RangeRequest { count_only: true, ..of_key() };
    bytes(&method::KV_RANGE, traced(2, &range)).await.expect("a range");
    let op = RequestOp { request: Some(Request::RequestPut(put)) };
    let txn = TxnRequest { success: vec![op], ..TxnRequest::default() };
    bytes(&method::KV_TXN, traced(3, &txn)).await.expect("a transaction");
    let delete = DeleteRangeRequest { key: "k".into(), ..DeleteRangeRequest::default() };
    bytes(&method::KV_DELETE_RANGE, traced(4, &delete)).await.expect("a deletion");
    let compaction = CompactionRequest { revision: 2, physical: false };
    bytes(&method::KV_COMPACT, traced(5, &compaction)).await.expect("a compaction");
    let grant = LeaseGrantRequest { id: 7, ttl: 1_000 };
    bytes(&method::LEASE_GRANT, traced(6, &grant)).await.expect("a lease");
    let renewal = LeaseKeepAliveRequest { id: 7 };
    let mut renewed = client
        .stream_bytes(&method::LEASE_KEEP_ALIVE, traced(7, &renewal))
        .await
        .expect("a stream of renewals");
    let answer = renewed.message().await.expect("it goes on").expect("an answer");
    assert_eq!(LeaseKeepAliveResponse::decode(&answer[..]).expect("a renewal").ttl, 1_000);
    bytes(&method::LEASE_REVOKE, traced(8, &LeaseRevokeRequest { id: 7 })).await.expect("its end");
    let create = WatchCreateRequest { start_revision: 2, ..WatchCreateRequest::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let mut watching = client
        .stream_bytes(&method::WATCH_WATCH, traced(9, &create))
        .await
        .expect("a stream of events");
    watching.message().await.expect("it goes on").expect("an answer");
    let mut chunks = client
        .stream_bytes(&method::KV_RANGE_STREAM, traced(10, &of_key()))
        .await
        .expect("a stream of keys");
    while chunks.message().await.expect("it goes on").is_some() {}
    let refused = bytes(&method::KV_PUT, traced(11, &PutRequest::default())).await;
    assert_eq!(refused.expect_err("a key is needed").code(), tonic::Code::InvalidArgument);
    let header = format!("Grpc-Metadata-Traceparent: {}", traceparent(12, "01"));
    let answer = ask(&server.client_address(), "POST", "/v3/kv/range", &[header], "{}", None);
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[test]
fn calls_of_a_recorded_trace_are_spans_below_the_clients_and_others_are_none() {
    let collector = Collector::start(Mood::Takes);
    let mut server = start(&collector, "0");
    run(async {
        let client = Client::new(&server.client_address(), PATIENCE);
        call_all(&client, &server).await;
        // Nobody wants these recorded.
        client.range(of_key()).await.expect("a range");
        client.unary_bytes(&method::KV_RANGE, unrecorded(13)).await.expect("a range");
    });
    server.terminate().expect("it ends by itself");
    let spans = collector.spans();
    let resource = [("service.instance.id", "one"), ("service.name", "kept")];
    let resource = resource.map(|(key, value)| (key.to_owned(), text(value)));
    for Received { resource: found, span } in &spans {
        assert_eq!(found[..], resource);
        assert_eq!(span.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
        assert!(
            0 < span.start_time_unix_nano && span.start_time_unix_nano <= span.end_time_unix_nano
        );
    }
    let expected: [(&str, &[&str], &str); 12] = [
        ("etcdserverpb.KV/Put", &["put"], "OK"),
        ("etcdserverpb.KV/Range", &["range"], "OK"),
        ("etcdserverpb.KV/Txn", &["txn"], "OK"),
        ("etcdserverpb.KV/DeleteRange", &["delete_range"], "OK"),
        ("etcdserverpb.KV/Compact", &["compact"], "OK"),
        ("etcdserverpb.Lease/LeaseGrant", &["lease_grant"], "OK"),
        ("etcdserverpb.Lease/LeaseKeepAlive", &["lease_renew"], "CANCELLED"),
        ("etcdserverpb.Lease/LeaseRevoke", &["lease_revoke"], "OK"),
        ("etcdserverpb.Watch/Watch", &["watch"], "CANCELLED"),
        ("etcdserverpb.KV/RangeStream", &["range_streaming"], "OK"),
        ("etcdserverpb.KV/Put", &[], "INVALID_ARGUMENT"),
        ("etcdserverpb.KV/Range", &[], "INVALID_ARGUMENT"),
    ];
    let port = server.options().client_port;
    let mut count = 0;
    for (parent, (name, inner, code)) in (1..).zip(expected) {
        let (call, below) = family(&spans, parent);
        assert_eq!((call.span.name.as_str(), call.span.kind()), (name, SpanKind::Server));
        let attributes = [
            ("rpc.method", text(name)),
            ("rpc.response.status_code", text(code)),
            ("rpc.system.name", text("grpc")),
            ("server.address", text("127.0.0.1")),
            ("server.port", Value::IntValue(i64::from(port))),
        ];
        assert_eq!(call.attributes(), attributes.map(|(key, value)| (key.to_owned(), value)));
        let status = call.span.status.clone().unwrap_or_default();
        assert_eq!(status.code(), StatusCode::Unset, "{name}");
        // It is known that the parent is another process's.
        assert_eq!(call.span.flags, 0x301, "{name}");
        let names: Vec<&str> = below.iter().map(|inner| inner.span.name.as_str()).collect();
        assert_eq!(names, inner, "{name}");
        for inner in &below {
            assert_eq!((inner.span.kind(), inner.span.flags), (SpanKind::Internal, 0x101));
        }
        count += 1 + below.len();
    }
    assert_eq!(spans.len(), count, "there are no others: {spans:?}");
    assert_inner_spans(&spans);
}

fn assert_inner_spans(spans: &[Received]) {
    let inner = |parent| family(spans, parent).1[0];
    let attributes = |parent| inner(parent).attributes();
    let expected = |pairs: &[(&str, Value)]| -> Vec<(String, Value)> {
        let mut pairs = pairs.to_vec();
        pairs.sort_by_key(|(key, _)| *key);
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    };
    let (number, flag) = (Value::IntValue, Value::BoolValue);
    assert_eq!(attributes(1), expected(&[("key", text("k"))]));
    assert_eq!(inner(1).events(), ["Send raft proposal", "Receive raft result"]);
    let range = [
        ("range_begin", text("k")),
        ("range_end", text("")),
        ("rev", number(0)),
        ("limit", number(0)),
        ("count_only", flag(true)),
        ("keys_only", flag(false)),
    ];
    assert_eq!(attributes(2), expected(&range));
    assert!(inner(2).events().is_empty());
    let compaction = [("is_physical", flag(false)), ("rev", number(2))];
    assert_eq!(attributes(5), expected(&compaction));
    assert_eq!(attributes(6), expected(&[("id", number(7)), ("ttl", number(1_000))]));
    assert_eq!(attributes(7), expected(&[("id", number(7))]));
    let watch = [
        ("key", text("\0")),
        ("range_end", text("")),
        ("start_rev", number(2)),
        ("progress_notify", flag(false)),
        ("prev_kv", flag(false)),
        ("fragment", flag(false)),
    ];
    assert_eq!(attributes(9), expected(&watch));
}

#[test]
fn traces_begin_here_at_the_rate_and_leave_while_the_server_runs() {
    let collector = Collector::start(Mood::Takes);
    let server = start(&collector, "1000000");
    run(async {
        let client = Client::new(&server.client_address(), PATIENCE);
        client.unary_bytes(&method::KV_RANGE, unrecorded(1)).await.expect("a range");
        let unknown = RangeRequest { revision: 99, ..of_key() };
        client.range(unknown).await.expect_err("a revision of the future");
    });
    let spans = collector.wait(2, PATIENCE);
    let mut names: Vec<&str> = spans.iter().map(|one| one.span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["etcdserverpb.KV/Range", "range"], "{spans:?}");
    let roots = spans.iter().filter(|one| one.span.parent_span_id.is_empty()).count();
    assert_eq!(roots, 1);
    assert_eq!(spans[0].span.trace_id, spans[1].span.trace_id);
}

#[test]
fn a_failure_of_ours_is_told_as_one() {
    let collector = Collector::start(Mood::Takes);
    let mut server = start(&collector, "1000000");
    run(async {
        let client = Client::new(&server.client_address(), PATIENCE);
        let request = LockRequest { name: "l".into(), lease: 99 };
        let locked: Result<LockResponse, _> = client.unary(&method::LOCK_LOCK, request).await;
        locked.expect_err("there is no such lease");
    });
    assert_eq!(server.terminate().and_then(|status| status.code()), Some(0));
    let spans = collector.spans();
    let call = spans.iter().find(|one| one.span.parent_span_id.is_empty()).expect("a call");
    let status = call.span.status.as_ref().expect("it failed");
    assert_eq!(status.code(), StatusCode::Error);
    assert_eq!(status.message, "etcdserver: requested lease not found");
    assert!(spans.iter().any(|one| one.span.name == "txn"), "{spans:?}");
}

/// Serializable reads: two spans each.
fn read(server: &Server, times: usize) {
    run(async {
        let client = Client::new(&server.client_address(), PATIENCE);
        let range = RangeRequest { key: "k".into(), serializable: true, ..RangeRequest::default() };
        for _ in 0..times {
            client.range(range.clone()).await.expect("an answer");
        }
    });
}

#[test]
fn a_collector_that_is_away_costs_spans_and_one_line_and_gets_what_waits_when_it_is_back() {
    let away = "cannot send traces";
    let collector = Collector::start(Mood::HangsUp);
    let server = start(&collector, "1000000");
    read(&server, WAITING_MAX / 2 + 512);
    assert!(server.wait_for_log(away, PATIENCE), "{}", server.log());
    let dropped = server.metric("varve_trace_spans_dropped_total").expect("it is counted");
    assert!(dropped > 0.0, "there was room for everything");
    collector.set_mood(Mood::Takes);
    // What waited, and the batch that was under way.
    let spans = collector.wait(WAITING_MAX, PATIENCE);
    assert!(spans.len() <= WAITING_MAX + 512, "{} waited", spans.len());
    assert!(server.wait_for_log("traces are sent again", PATIENCE), "{}", server.log());
    assert_eq!(server.log().matches(away).count(), 1, "{}", server.log());
    let sent = server.metric("varve_trace_spans_sent_total").expect("it is counted");
    assert!(sent > 0.0, "spans have come");
}

#[test]
fn a_collector_that_never_answers_holds_up_neither_calls_nor_the_end() {
    let collector = Collector::start(Mood::Silent);
    let mut server = start(&collector, "1000000");
    read(&server, 400);
    let status = server.terminate().expect("it ends by itself");
    assert_eq!(status.code(), Some(0));
    assert!(collector.spans().is_empty());
}
