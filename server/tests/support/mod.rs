//! A server of one socket thread on a free port, and HTTP clients to talk to it.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use varve_server::grpc::{Router, RouterOptions};
use varve_server::listener::{self, Acceptor, ListenAddress, ListenOptions};
use varve_server::metrics::{Detail, Metrics};
use varve_server::socket::Role;
use varve_server::worker::{self, ConnectionOptions, WorkerHandle};

/// Longest message that the test servers accept.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Bytes that may wait in one stream of the test servers.
pub const STREAM_BUFFER_BYTES: usize = 32 * 1024;
/// Nothing in a test may take longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; stops when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub metrics: std::sync::Arc<Metrics>,
    acceptor: Option<Acceptor>,
    worker: Option<WorkerHandle>,
}

impl Server {
    /// Serves what `register` puts into the router.
    pub fn start(register: impl FnOnce(&mut Router) + Send + 'static) -> Self {
        Self::start_with(Role::Client, 1_000, ConnectionOptions::default(), register)
    }

    pub fn start_with(
        role: Role,
        connections_max: usize,
        options: ConnectionOptions,
        register: impl FnOnce(&mut Router) + Send + 'static,
    ) -> Self {
        let metrics = Metrics::new(Detail::Basic);
        let router_options = RouterOptions {
            message_bytes_max: MESSAGE_BYTES_MAX,
            stream_buffer_bytes_max: STREAM_BUFFER_BYTES,
            counters: metrics.socket_counters(),
            tracer: None,
        };
        let worker = worker::spawn("socket-0".into(), options, move || {
            let mut router = Router::new(router_options);
            register(&mut router);
            router
        })
        .expect("a thread can be started");
        let address = ListenAddress::Tcp { host: "127.0.0.1".into(), port: 0 };
        let bound = listener::bind(&address, role, ListenOptions::default()).expect("a free port");
        let address = bound.local_address().expect("TCP has an address");
        let acceptor = listener::start(vec![bound], vec![worker.inbox()], connections_max)
            .expect("a thread can be started");
        Self { address, metrics, acceptor: Some(acceptor), worker: Some(worker) }
    }

    pub fn connections(&self) -> usize {
        self.worker.as_ref().map_or(0, WorkerHandle::connections)
    }

    /// Tells the socket thread to finish within `grace`.
    pub fn begin_stop(&self, grace: Duration) {
        self.worker.as_ref().expect("not stopped yet").stop(grace);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        if let Some(worker) = self.worker.take() {
            worker.stop(Duration::ZERO);
            worker.join();
        }
    }
}

/// Runs a test's client side on this thread.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("in time") })
}

/// What a call came to.
#[derive(Debug)]
pub struct Answer {
    pub http_status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    /// `grpc-status` and the decoded `grpc-message`, from trailers or headers.
    pub fn grpc_status(&self) -> (u32, String) {
        let get = |name: &str| self.trailers.get(name).or(self.headers.get(name));
        let code = get("grpc-status").expect("a status").to_str().unwrap().parse().unwrap();
        let message = get("grpc-message").map_or("", |value| value.to_str().unwrap());
        (code, message.to_owned())
    }

    /// The messages of the body.
    pub fn messages(&self) -> Vec<Bytes> {
        let mut rest = self.body.clone();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let prefix = rest.split_to(5);
            assert_eq!(prefix[0], 0, "not compressed");
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
            messages.push(rest.split_to(length as usize));
        }
        messages
    }
}

/// A length-prefixed message.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let mut wire = vec![0];
    wire.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    wire.extend_from_slice(message);
    wire
}

/// An HTTP/2 connection to the server.
pub async fn connect(server: &Server) -> h2::client::SendRequest<Bytes> {
    let socket = TcpStream::connect(server.address).await.expect("the server listens");
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .handshake(socket)
        .await
        .expect("HTTP/2 is spoken");
    tokio::spawn(async move {
        // Ends with the server, in whatever way the test chose.
        let _outcome = connection.await;
    });
    client
}

/// The request headers of a gRPC call.
pub fn grpc_request(path: &str) -> http::request::Builder {
    Request::builder()
        .method("POST")
        .uri(format!("http://varve.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Sends `chunks` as separate DATA frames and reads the whole answer.
pub async fn call(
    client: &h2::client::SendRequest<Bytes>,
    request: http::request::Builder,
    chunks: &[&[u8]],
) -> Answer {
    let mut client = client.clone().ready().await.expect("room for a stream");
    let (response, mut body) =
        client.send_request(request.body(()).unwrap(), false).expect("the request is sent");
    for chunk in chunks {
        body.send_data(Bytes::copy_from_slice(chunk), false).expect("the body is sent");
    }
    // A server that has answered already may have reset the stream.
    let _ended = body.send_data(Bytes::new(), true);
    read(response.await.expect("an answer")).await
}

/// Reads body and trailers.
pub async fn read(response: Response<h2::RecvStream>) -> Answer {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.expect("the body is whole");
        body.flow_control().release_capacity(data.len()).expect("it was counted");
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.expect("trailers are well-formed").unwrap_or_default();
    Answer {
        http_status: head.status.as_u16(),
        headers: head.headers,
        body: bytes.freeze(),
        trailers,
    }
}

/// Sends one HTTP/1.1 request and reads until the server closes; gives head and body.
pub async fn http1(server: &Server, request_line: &str, headers: &str) -> (String, String) {
    let (head, body) = http1_bytes(server, request_line, headers).await;
    (head, String::from_utf8(body).expect("text"))
}

/// As [`http1`], for bodies that are no text.
pub async fn http1_bytes(server: &Server, request_line: &str, headers: &str) -> (String, Vec<u8>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = TcpStream::connect(server.address).await.expect("the server listens");
    let request = format!("{request_line} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("read");
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    let body = answer.split_off(end + 4);
    answer.truncate(end);
    (String::from_utf8(answer).expect("text"), body)
}
