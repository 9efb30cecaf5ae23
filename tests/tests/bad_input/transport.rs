//! What is no gRPC at all, on the client port: bytes, frames, headers and bodies.
//!
//! Every case ends its own connection or call; a client that was connected before, with a watch
//! open, notices nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use http::{HeaderValue, Request};
use tonic::body::Body;
use varve_api::etcdserverpb::WatchCreateRequest;
use varve_tests::grpc_client::Client;
use varve_tests::process::{Program, Server};

use crate::{CALL_TIMEOUT, assert_no_panic, block_on, put};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const PUT_PATH: &str = "/etcdserverpb.KV/Put";

/// Bytes that look like nothing, the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// What somebody may send first on a connection.
fn hostile_connections() -> Vec<(&'static str, Vec<u8>)> {
    let http2 = |frames: &[&[u8]]| [&[PREFACE, SETTINGS], frames].concat().concat();
    // A frame's header: length (24 bits), type, flags, stream (31 bits).
    let headers_bad_hpack = [&[0, 0, 4, 1, 5, 0, 0, 0, 1][..], &[0xff; 4]].concat();
    let data_on_idle_stream = [&[0, 0, 3, 0, 1, 0, 0, 0, 9][..], b"abc"].concat();
    let oversize = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let settings_of_odd_length = [&[0, 0, 5, 4, 0, 0, 0, 0, 0][..], &[1; 5]].concat();
    let window_overflow = [
        &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff][..],
        &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff],
    ]
    .concat();
    let continuation_alone = [0, 0, 0, 9, 4, 0, 0, 0, 1];
    vec![
        ("nothing", Vec::new()),
        ("noise", noise(4_000)),
        ("zeros", vec![0; 4_000]),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on".to_vec()),
        ("half a preface", PREFACE[..11].to_vec()),
        ("a preface of HTTP/3", b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n".to_vec()),
        (
            "an HTTP/1 header without end",
            [b"GET / HTTP/1.1\r\nx: ", vec![b'y'; 100_000].as_slice()].concat(),
        ),
        ("a broken HTTP/1 request", b"GET\0/ HTP\r\n\r\n\r\n".to_vec()),
        ("a preface and noise", [PREFACE, &noise(4_000)].concat()),
        ("frames of noise", http2(&[&noise(4_000)])),
        ("a header block that is none", http2(&[&headers_bad_hpack])),
        ("data on a stream that is not open", http2(&[&data_on_idle_stream])),
        ("a frame of 16 MiB", http2(&[&oversize, &noise(1_000)])),
        ("settings of odd length", http2(&[&settings_of_odd_length])),
        ("a window that overflows", http2(&[&window_overflow])),
        ("a continuation of nothing", http2(&[&continuation_alone])),
    ]
}

/// Sends bytes on a connection of their own and reads until the server closes it.
fn send(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a positive time");
    stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a positive time");
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the server keeps the connection: {error}"),
    }
}

#[test]
fn connections_that_are_no_grpc_are_closed_and_others_are_served_all_the_while() {
    let server = Server::start(&Program::varve(), &[]);
    let address = server.client_address();
    block_on(async {
        let bystander = Client::new(&address, CALL_TIMEOUT);
        let patient = Client::new(&address, Duration::from_secs(600));
        let create =
            WatchCreateRequest { key: b"k".as_slice().into(), ..WatchCreateRequest::default() };
        let mut watch = patient.watch(create).await.expect("the server serves");
        let created = watch.message().await.expect("a response").expect("an open stream");
        assert!(created.created);
        for (what, bytes) in hostile_connections() {
            println!("{what}");
            let to = address.clone();
            tokio::task::spawn_blocking(move || send(&to, &bytes))
                .await
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let revision =
                put(&bystander, "k", what).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let seen = tokio::time::timeout(CALL_TIMEOUT, watch.message())
                .await
                .unwrap_or_else(|_| panic!("{what}: the watcher waits"))
                .expect("a response")
                .expect("an open stream");
            let revisions: Vec<i64> = seen
                .events
                .iter()
                .filter_map(|event| Some(event.kv.as_ref()?.mod_revision))
                .collect();
            assert_eq!(revisions, [revision], "{what}");
        }
    });
    assert_no_panic(&server.log());
}

/// A call that is not as gRPC wants it. Bodies are ASCII: all that matters is in the prefix.
#[derive(Clone, Copy)]
struct BadCall {
    what: &'static str,
    method: &'static str,
    path: &'static str,
    content_type: Option<&'static str>,
    encoding: Option<&'static str>,
    body: &'static str,
    http_status: u16,
    grpc_status: tonic::Code,
    says: &'static str,
}

const SOUND: BadCall = BadCall {
    what: "",
    method: "POST",
    path: PUT_PATH,
    content_type: Some("application/grpc"),
    encoding: None,
    // The prefix (not compressed, three bytes), then field 1 of one byte.
    body: "\0\0\0\0\x03\n\x01k",
    http_status: 200,
    grpc_status: tonic::Code::Ok,
    says: "",
};

fn bad_calls() -> Vec<BadCall> {
    use tonic::Code;
    let unsupported = BadCall {
        http_status: 415,
        grpc_status: Code::InvalidArgument,
        says: "invalid gRPC request content-type",
        ..SOUND
    };
    let unimplemented = BadCall { grpc_status: Code::Unimplemented, ..SOUND };
    let internal = BadCall { grpc_status: Code::Internal, ..SOUND };
    // As grpc-go of a unary call.
    let cut_off = BadCall { grpc_status: Code::Unknown, says: "unexpected EOF", ..SOUND };
    vec![
        BadCall { what: "JSON", content_type: Some("application/json"), ..unsupported },
        BadCall { what: "no content type", content_type: None, ..unsupported },
        BadCall { what: "gRPC-Web", content_type: Some("application/grpc-web"), ..unsupported },
        BadCall {
            what: "PUT",
            method: "PUT",
            http_status: 405,
            says: "which should be POST",
            ..internal
        },
        BadCall {
            what: "an unknown service",
            path: "/etcdserverpb.Nothing/Put",
            says: "unknown service etcdserverpb.Nothing",
            ..unimplemented
        },
        BadCall {
            what: "an unknown method",
            path: "/etcdserverpb.KV/Steal",
            says: "unknown method Steal for service etcdserverpb.KV",
            ..unimplemented
        },
        BadCall { what: "no method", path: "/", says: "", ..unimplemented },
        BadCall {
            what: "an unknown compression",
            encoding: Some("lz77"),
            says: "Decompressor is not installed for grpc-encoding \"lz77\"",
            ..unimplemented
        },
        BadCall {
            what: "the compressed flag",
            body: "\x01\0\0\0\x03\n\x01k",
            says: "compressed flag set",
            ..internal
        },
        BadCall {
            what: "an unknown flag",
            body: "\x07\0\0\0\x03\n\x01k",
            says: "unexpected payload format 7",
            ..internal
        },
        BadCall { what: "half a prefix", body: "\0\0", ..cut_off },
        BadCall { what: "half a message", body: "\0\0\0\0\x7f\n\x01k", ..cut_off },
        BadCall {
            what: "a length of 2 GiB",
            body: "\0\x7f\x7f\x7f\x7f\n\x01k",
            grpc_status: Code::ResourceExhausted,
            says: "larger than max",
            ..SOUND
        },
        BadCall { what: "no message", body: "", says: "received no request message", ..internal },
        BadCall {
            what: "two messages",
            body: "\0\0\0\0\x03\n\x01k\0\0\0\0\x03\n\x01k",
            says: "received multiple request messages",
            ..internal
        },
        BadCall {
            what: "a wire type that is none",
            body: "\0\0\0\0\x03\x0f\x01k",
            says: "failed to unmarshal",
            ..internal
        },
        BadCall {
            what: "a field longer than the message",
            body: "\0\0\0\0\x03\n\x7fk",
            says: "failed to unmarshal",
            ..internal
        },
        BadCall {
            what: "a field of another type",
            body: "\0\0\0\0\x02\x08\x01",
            says: "failed to unmarshal",
            ..internal
        },
    ]
}

#[test]
fn calls_that_grpc_does_not_allow_are_answered_with_the_reason_and_the_next_is_served() {
    let server = Server::start(&Program::varve(), &[]);
    block_on(async {
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        for call in bad_calls() {
            let what = call.what;
            let uri = format!("http://{}{}", server.client_address(), call.path);
            let mut request = Request::new(Body::new(call.body.to_owned()));
            *request.method_mut() = call.method.parse().expect("a method");
            *request.uri_mut() = uri.parse().expect("a URI");
            for (name, value) in
                [("content-type", call.content_type), ("grpc-encoding", call.encoding)]
            {
                if let Some(value) = value {
                    request.headers_mut().insert(name, HeaderValue::from_static(value));
                }
            }
            let response = client.raw(request).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            let header = |name: &str| {
                let value = response.headers().get(name);
                value.map_or("", |value| value.to_str().expect("text")).replace("%22", "\"")
            };
            assert_eq!(response.status().as_u16(), call.http_status, "{what}: {response:?}");
            let code = (call.grpc_status as i32).to_string();
            assert_eq!(header("grpc-status"), code, "{what}: {response:?}");
            assert!(header("grpc-message").contains(call.says), "{what}: {response:?}");
            put(&client, "k", "v").await.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    });
    assert_no_panic(&server.log());
}
