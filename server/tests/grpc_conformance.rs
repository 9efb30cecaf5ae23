//! The gRPC layer as a client on the wire sees it: a small echo service behind real sockets, an
//! HTTP/2 client that can also misbehave. Expected codes and texts are grpc-go's.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use support::{
    Answer, MESSAGE_BYTES_MAX, STREAM_BUFFER_BYTES, Server, call, connect, framed, grpc_request,
    run,
};
use varve_api::error::{Code, Status};
use varve_api::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, PutResponse, RangeRequest,
    WatchRequest,
};
use varve_api::method;
use varve_server::grpc::{Encoded, Incoming, Outgoing, RequestMeta, Router, TrySendError};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Registers what the tests call: methods that echo, fail, wait, count.
fn echo(router: &mut Router) {
    router.unary(&method::KV_PUT, |meta: RequestMeta, request: PutRequest| async move {
        match request.key.as_ref() {
            b"fail" => Err(Status::new(Code::InvalidArgument, "100% wrong:\nreally \u{f6}")),
            b"wait" => std::future::pending().await,
            b"token" => Err(Status::new(Code::Unknown, meta.token().unwrap_or("none").to_owned())),
            b"leader" => Err(Status::new(Code::Unknown, meta.requires_leader().to_string())),
            _ => Ok(PutResponse::default()),
        }
    });
    router.unary_raw(&method::KV_RANGE, |_, bytes: Bytes| async move {
        Ok(Encoded::written(bytes.len(), |buffer| buffer.extend_from_slice(&bytes)))
    });
    router.server_stream(
        &method::KV_RANGE_STREAM,
        |_, request: RangeRequest, outgoing: Outgoing| async move {
            for number in 0..request.limit {
                let part = Bytes::from(vec![number as u8; 700]);
                let message = Encoded::parts(b"head", vec![part.clone(), part]);
                outgoing.send(message).await.map_err(|_| Status::new(Code::Canceled, ""))?;
            }
            Ok(())
        },
    );
    router.bidi_stream(
        &method::LEASE_KEEP_ALIVE,
        |_, mut incoming: Incoming<LeaseKeepAliveRequest>, outgoing: Outgoing| async move {
            while let Some(request) = incoming.next().await {
                let id = request?.id;
                if id < 0 {
                    return Err(Status::new(
                        Code::NotFound,
                        "etcdserver: requested lease not found",
                    ));
                }
                let response = LeaseKeepAliveResponse { header: None, id, ttl: 1 };
                outgoing
                    .send(Encoded::message(&response))
                    .await
                    .map_err(|_| Status::new(Code::Canceled, "nobody reads"))?;
            }
            Ok(())
        },
    );
}

fn put(key: &'static [u8]) -> Vec<u8> {
    framed(&PutRequest { key: Bytes::from_static(key), ..Default::default() }.encode_to_vec())
}

#[track_caller]
fn assert_status(answer: &Answer, code: Code, message: &str) {
    assert_eq!(answer.http_status, 200);
    assert_eq!(answer.grpc_status(), (u32::from(code.number()), message.to_owned()));
}

#[test]
fn a_unary_call_gets_headers_one_message_and_a_status() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let answer = call(&client, grpc_request(PUT), &[&put(b"k")]).await;
        assert_status(&answer, Code::Ok, "");
        assert_eq!(answer.headers["content-type"], "application/grpc");
        assert!(!answer.headers.contains_key("content-length"));
        assert!(!answer.headers.contains_key("grpc-status"));
        assert_eq!(answer.messages(), [Bytes::new()]);
    });
}

#[test]
fn an_error_is_headers_only_with_a_percent_encoded_message() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let answer = call(&client, grpc_request(PUT), &[&put(b"fail")]).await;
        assert_status(&answer, Code::InvalidArgument, "100%25 wrong:%0Areally %C3%B6");
        assert!(answer.headers.contains_key("grpc-status"));
        assert!(answer.body.is_empty() && answer.trailers.is_empty());
    });
}

#[test]
fn a_message_may_come_in_any_pieces() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let wire = framed(b"some message");
        for cut in 0..=wire.len() {
            let answer =
                call(&client, grpc_request(RANGE), &[&wire[..cut], b"", &wire[cut..]]).await;
            assert_status(&answer, Code::Ok, "");
            assert_eq!(answer.messages(), [&b"some message"[..]]);
        }
        let single_bytes: Vec<&[u8]> = wire.chunks(1).collect();
        let answer = call(&client, grpc_request(RANGE), &single_bytes).await;
        assert_eq!(answer.messages(), [&b"some message"[..]]);
    });
}

#[test]
fn a_message_of_the_largest_size_passes_and_one_byte_more_does_not() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let largest = framed(&vec![7; MESSAGE_BYTES_MAX]);
        let answer = call(&client, grpc_request(RANGE), &[&largest]).await;
        assert_status(&answer, Code::Ok, "");
        assert_eq!(answer.messages()[0].len(), MESSAGE_BYTES_MAX);
        let larger = framed(&vec![7; MESSAGE_BYTES_MAX + 1]);
        let answer = call(&client, grpc_request(RANGE), &[&larger]).await;
        let text = "grpc: received message larger than max (65537 vs. 65536)";
        assert_status(&answer, Code::ResourceExhausted, text);
        let answer = call(&client, grpc_request(RANGE), &[&framed(b"still alive")]).await;
        assert_status(&answer, Code::Ok, "");
    });
}

#[test]
fn malformed_bodies_are_refused() {
    let none = "cardinality violation: received no request message from non-client-streaming RPC";
    let many =
        "cardinality violation: received multiple request messages for non-client-streaming RPC";
    let two = [framed(b"one"), framed(b"two")].concat();
    let cases: [(&[u8], Code, &str); 6] = [
        (b"", Code::Internal, none),
        (&two, Code::Internal, many),
        (b"\0\0\0", Code::Unknown, "unexpected EOF"),
        (b"\0\0\0\0\x05abc", Code::Unknown, "unexpected EOF"),
        (
            b"\x01\0\0\0\0",
            Code::Internal,
            "grpc: compressed flag set with identity or empty encoding",
        ),
        (b"\x09\0\0\0\0", Code::Internal, "grpc: received unexpected payload format 9"),
    ];
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        for (body, code, text) in cases {
            let answer = call(&client, grpc_request(RANGE), &[body]).await;
            assert_status(&answer, code, text);
        }
        let answer = call(&client, grpc_request(PUT), &[&framed(b"\xff\xff")]).await;
        let (code, text) = answer.grpc_status();
        assert_eq!(code, u32::from(Code::Internal.number()));
        assert!(text.starts_with("grpc: failed to unmarshal the received message"), "{text}");
    });
}

#[test]
fn unknown_names_are_told_apart() {
    let cases = [
        ("/etcdserverpb.KV/Nothing", "unknown method Nothing for service etcdserverpb.KV"),
        ("/etcdserverpb.KV/Compact", "unknown method Compact for service etcdserverpb.KV"),
        ("/no.Such/Thing", "unknown service no.Such"),
        ("/a/b/c", "unknown service a/b"),
        ("/nothing", "malformed method name: \"/nothing\""),
    ];
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        for (path, text) in cases {
            let answer = call(&client, grpc_request(path), &[&framed(b"")]).await;
            assert_status(&answer, Code::Unimplemented, text);
        }
    });
}

#[test]
fn what_is_not_grpc_is_refused_as_grpc_go_refuses_it() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let plain = http::Request::builder().method("POST").uri("http://varve.test/x");
        for (request, http_status, code, text) in [
            (
                plain.header("content-type", "text/plain"),
                415,
                3,
                "invalid gRPC request content-type \"text/plain\"",
            ),
            (
                grpc_request(PUT).method("PUT"),
                405,
                13,
                "Received a HEADERS frame with :method \"PUT\" which should be POST",
            ),
            (
                grpc_request(PUT).header("grpc-timeout", "5x"),
                400,
                13,
                "malformed grpc-timeout: transport: timeout unit is not recognized: \"5x\"",
            ),
        ] {
            let answer = call(&client, request, &[]).await;
            assert_eq!(answer.http_status, http_status);
            assert_eq!(answer.grpc_status(), (code, text.to_owned()));
        }
        let answer =
            call(&client, grpc_request(PUT).header("grpc-encoding", "zstd"), &[&put(b"k")]).await;
        let text = "grpc: Decompressor is not installed for grpc-encoding \"zstd\"";
        assert_status(&answer, Code::Unimplemented, text);
    });
}

/// gzip (level 6 of Python's) of an encoded `PutRequest` with key `k`, and its prefix.
const COMPRESSED_PUT: &[u8] = &[
    1, 0, 0, 0, 23, 31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 227, 98, 204, 6, 0, 85, 213, 173, 49, 3, 0, 0,
    0,
];

#[test]
fn who_sends_gzip_is_answered_in_gzip() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let gzip = || grpc_request(RANGE).header("grpc-encoding", "gzip");
        // Whether this very message is compressed makes no difference.
        for body in [COMPRESSED_PUT.to_vec(), put(b"k")] {
            let answer = call(&client, gzip(), &[&body]).await;
            assert_eq!(answer.grpc_status().0, 0);
            assert_eq!(answer.headers["grpc-encoding"], "gzip");
            assert_eq!((answer.body[0], &answer.body[5..8]), (1, &b"\x1f\x8b\x08"[..]));
        }
        let accepts = grpc_request(RANGE).header("grpc-accept-encoding", "gzip");
        let answer = call(&client, accepts, &[&put(b"k")]).await;
        assert!(!answer.headers.contains_key("grpc-encoding") && answer.body[0] == 0);
        let request = RangeRequest { limit: 3, ..RangeRequest::default() };
        let stream = grpc_request(RANGE_STREAM).header("grpc-encoding", "gzip");
        let answer = call(&client, stream, &[&framed(&request.encode_to_vec())]).await;
        assert_eq!((answer.grpc_status().0, answer.body[0]), (0, 1));
        assert!(answer.body.len() < 3 * 700, "{}", answer.body.len());
        let damaged = [&COMPRESSED_PUT[..8], &[0; 20], &COMPRESSED_PUT[28..]].concat();
        assert_eq!(call(&client, gzip(), &[&damaged]).await.grpc_status().0, 13);
    });
}

#[test]
fn a_deadline_ends_a_call_that_waits() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let request = grpc_request(PUT).header("grpc-timeout", "20m");
        let answer = call(&client, request, &[&put(b"wait")]).await;
        assert_status(&answer, Code::DeadlineExceeded, "context deadline exceeded");
    });
}

#[test]
fn a_deadline_ends_a_stream_too() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let mut client = client.ready().await.unwrap();
        let request = grpc_request(KEEP_ALIVE).header("grpc-timeout", "20m").body(()).unwrap();
        let (response, _open) = client.send_request(request, false).unwrap();
        let answer = support::read(response.await.unwrap()).await;
        assert_status(&answer, Code::DeadlineExceeded, "context deadline exceeded");
    });
}

#[test]
fn metadata_reaches_the_handler() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        for (name, value, key, seen) in [
            ("token", "secret", &b"token"[..], "secret"),
            ("authorization", "secret", b"token", "secret"),
            ("authorization", "Bearer secret", b"token", "secret"),
            ("hasleader", "true", b"leader", "true"),
            ("hasleader", "no", b"leader", "false"),
        ] {
            let message = PutRequest { key: Bytes::from_static(key), ..Default::default() };
            let request = grpc_request(PUT).header(name, value);
            let answer = call(&client, request, &[&framed(&message.encode_to_vec())]).await;
            assert_status(&answer, Code::Unknown, seen);
        }
    });
}

#[test]
fn a_server_stream_sends_all_messages_in_order_and_then_its_status() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let request = RangeRequest { limit: 200, ..Default::default() }.encode_to_vec();
        let answer = call(&client, grpc_request(RANGE_STREAM), &[&framed(&request)]).await;
        assert_status(&answer, Code::Ok, "");
        let messages = answer.messages();
        assert_eq!(messages.len(), 200);
        for (number, message) in messages.iter().enumerate() {
            assert_eq!(message.len(), 4 + 2 * 700);
            assert!(message.starts_with(b"head"));
            assert!(message[4..].iter().all(|byte| *byte == number as u8), "message {number}");
        }
    });
}

#[test]
fn a_bidi_stream_answers_while_it_is_open_and_ends_when_the_client_is_done() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let mut client = client.ready().await.unwrap();
        let (response, mut sender) =
            client.send_request(grpc_request(KEEP_ALIVE).body(()).unwrap(), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        for id in 1..=50 {
            let request = LeaseKeepAliveRequest { id };
            sender.send_data(framed(&request.encode_to_vec()).into(), false).unwrap();
            let data = body.data().await.unwrap().unwrap();
            let response = LeaseKeepAliveResponse::decode(data.slice(5..)).unwrap();
            assert_eq!(response.id, id);
        }
        sender.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn an_error_of_a_stream_comes_after_what_was_sent_before() {
    run(async {
        let server = Server::start(echo);
        let client = connect(&server).await;
        let wire: Vec<u8> = [1, 2, -1]
            .iter()
            .flat_map(|id| framed(&LeaseKeepAliveRequest { id: *id }.encode_to_vec()))
            .collect();
        let answer = call(&client, grpc_request(KEEP_ALIVE), &[&wire]).await;
        assert_status(&answer, Code::NotFound, "etcdserver: requested lease not found");
        assert_eq!(answer.messages().len(), 2);
    });
}

/// Counts itself while it lives.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}

#[test]
fn a_cancelled_call_drops_its_handler() {
    run(async {
        let alive = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&alive);
        let server = Server::start(move |router| {
            let unary_count = Arc::clone(&count);
            router.unary(&method::KV_PUT, move |_, _: PutRequest| {
                let alive = Alive::new(&unary_count);
                async move {
                    let _alive = alive;
                    std::future::pending::<Result<PutResponse, Status>>().await
                }
            });
            router.bidi_stream(
                &method::WATCH_WATCH,
                move |_, incoming: Incoming<WatchRequest>, outgoing| {
                    let alive = Alive::new(&count);
                    async move {
                        let (_alive, _incoming, _outgoing) = (alive, incoming, outgoing);
                        std::future::pending().await
                    }
                },
            );
        });
        let client = connect(&server).await;
        for path in [PUT, WATCH] {
            let mut client = client.clone().ready().await.unwrap();
            let (_response, mut sender) =
                client.send_request(grpc_request(path).body(()).unwrap(), false).unwrap();
            sender.send_data(put(b"k").into(), path == PUT).unwrap();
            until("the handler runs", || alive.load(Ordering::SeqCst) == 1).await;
            sender.send_reset(h2::Reason::CANCEL);
            until("the handler is dropped", || alive.load(Ordering::SeqCst) == 0).await;
        }
        let text = String::from_utf8(server.metrics.render()).unwrap();
        assert!(text.contains(
            "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Put\",\
             grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1"
        ));
    });
}

#[test]
fn a_client_that_does_not_read_stops_the_sender_at_its_bound() {
    run(async {
        let most = Arc::new(AtomicUsize::new(0));
        let full = Arc::new(AtomicUsize::new(0));
        let (most_seen, full_seen) = (Arc::clone(&most), Arc::clone(&full));
        let server = Server::start(move |router| {
            router.bidi_stream(
                &method::WATCH_WATCH,
                move |_, mut incoming: Incoming<WatchRequest>, outgoing: Outgoing| {
                    let (most, full) = (Arc::clone(&most_seen), Arc::clone(&full_seen));
                    async move {
                        incoming.next().await;
                        for _ in 0..10_000 {
                            let message = Encoded::parts(&[1; 1000], vec![]);
                            match outgoing.try_send(message) {
                                Ok(()) => {}
                                Err(TrySendError::Closed) => break,
                                Err(TrySendError::Full(message)) => {
                                    full.fetch_add(1, Ordering::SeqCst);
                                    if outgoing.send(message).await.is_err() {
                                        break;
                                    }
                                }
                            }
                            most.fetch_max(outgoing.buffered_bytes(), Ordering::SeqCst);
                        }
                        Ok(())
                    }
                },
            );
        });
        let client = connect(&server).await;
        let mut client = client.ready().await.unwrap();
        let (response, mut sender) =
            client.send_request(grpc_request(WATCH).body(()).unwrap(), false).unwrap();
        sender.send_data(framed(b"").into(), true).unwrap();
        let response = response.await.unwrap();
        until("the bound is hit", || full.load(Ordering::SeqCst) > 0).await;
        assert!(most.load(Ordering::SeqCst) <= STREAM_BUFFER_BYTES);
        // Reading sets it going again, to the end.
        let answer = support::read(response).await;
        assert_status(&answer, Code::Ok, "");
        assert_eq!(answer.messages().len(), 10_000);
    });
}

#[test]
fn a_stream_can_be_fed_and_finished_from_outside_its_handler() {
    run(async {
        let server = Server::start(|router| {
            let streams: Rc<std::cell::RefCell<Vec<Outgoing>>> = Rc::default();
            let known = Rc::clone(&streams);
            router.bidi_stream(
                &method::WATCH_WATCH,
                move |_, _: Incoming<WatchRequest>, outgoing| {
                    known.borrow_mut().push(outgoing);
                    std::future::pending()
                },
            );
            router.unary(&method::KV_PUT, move |_, _: PutRequest| {
                let shared = Bytes::from_static(b"event");
                for outgoing in streams.borrow().iter() {
                    outgoing
                        .try_send_parts(Bytes::new(), std::slice::from_ref(&shared))
                        .expect("room");
                    outgoing.finish(Err(Status::new(Code::Unavailable, "etcdserver: no leader")));
                    assert!(outgoing.is_closed());
                }
                std::future::ready(Ok(PutResponse::default()))
            });
        });
        let client = connect(&server).await;
        let mut stream_client = client.clone().ready().await.unwrap();
        let (response, _sender) =
            stream_client.send_request(grpc_request(WATCH).body(()).unwrap(), false).unwrap();
        let response = response.await.unwrap();
        let put = call(&client, grpc_request(PUT), &[&put(b"k")]).await;
        assert_status(&put, Code::Ok, "");
        let answer = support::read(response).await;
        assert_status(&answer, Code::Unavailable, "etcdserver: no leader");
        assert_eq!(answer.messages(), [&b"event"[..]]);
    });
}
