//! Accepting connections: the limit, silent clients, Unix sockets, stopping.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::time::Duration;

use support::{PATIENCE, Server, call, connect, framed, grpc_request, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use varve_api::health::health_check_response::ServingStatus;
use varve_server::grpc::{GrpcCounters, Router, RouterOptions};
use varve_server::listener::{self, ListenAddress, ListenOptions};
use varve_server::rpc::health;
use varve_server::socket::Role;
use varve_server::worker::{self, ConnectionOptions};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const SERVING: [u8; 2] = [8, 1];
const NOT_SERVING: [u8; 2] = [8, 2];

fn serving() -> (watch::Sender<ServingStatus>, impl FnOnce(&mut Router) + Send + 'static) {
    let (sender, state) = watch::channel(ServingStatus::Serving);
    (sender, move |router: &mut Router| health::register(router, state))
}

#[test]
fn health_is_told_once_or_as_it_changes() {
    let (state, register) = serving();
    let server = Server::start(register);
    run(async {
        let client = connect(&server).await;
        let answer = call(&client, grpc_request(CHECK), &[&framed(b"")]).await;
        assert_eq!(answer.messages(), [&SERVING[..]]);
        let unknown = framed(&[10, 1, b'x']);
        let answer = call(&client, grpc_request(CHECK), &[&unknown]).await;
        assert_eq!(answer.grpc_status(), (5, "unknown service".to_owned()));

        let mut client = client.ready().await.unwrap();
        let (response, mut sender) =
            client.send_request(grpc_request(WATCH).body(()).unwrap(), false).unwrap();
        sender.send_data(framed(b"").into(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap()[5..], SERVING);
        state.send_replace(ServingStatus::NotServing);
        assert_eq!(body.data().await.unwrap().unwrap()[5..], NOT_SERVING);
        drop(state);
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "1");
    });
}

#[test]
fn at_the_limit_a_connection_waits_until_another_ends() {
    let (_state, register) = serving();
    let options = ConnectionOptions::default();
    let server = Server::start_with(Role::Client, 2, options, register);
    run(async {
        let first = connect(&server).await;
        let second = connect(&server).await;
        for client in [&first, &second] {
            let answer = call(client, grpc_request(CHECK), &[&framed(b"")]).await;
            assert_eq!(answer.grpc_status().0, 0);
        }
        // The kernel accepts it, the server does not: nothing comes back.
        let mut third = TcpStream::connect(server.address).await.unwrap();
        third.write_all(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let read = third.read_to_end(&mut answer);
        assert!(tokio::time::timeout(Duration::from_millis(100), read).await.is_err());
        assert_eq!(server.connections(), 2);
        drop(first);
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, third.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 404"));
    });
}

#[test]
fn stopping_lets_calls_finish_and_then_closes() {
    let (state, register) = serving();
    let server = Server::start(register);
    run(async {
        let client = connect(&server).await;
        let mut stream_client = client.clone().ready().await.unwrap();
        let (response, mut sender) =
            stream_client.send_request(grpc_request(WATCH).body(()).unwrap(), false).unwrap();
        sender.send_data(framed(b"").into(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap()[5..], SERVING);

        server.begin_stop(PATIENCE);
        state.send_replace(ServingStatus::NotServing);
        assert_eq!(body.data().await.unwrap().unwrap()[5..], NOT_SERVING);
        drop(state);
        assert!(body.data().await.is_none());
        // The last call has ended, so the connection is closed long before the grace is over.
        while server.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_stop_without_grace_drops_what_runs() {
    let (_state, register) = serving();
    let server = Server::start(register);
    run(async {
        let client = connect(&server).await;
        let mut stream_client = client.clone().ready().await.unwrap();
        let (response, mut sender) =
            stream_client.send_request(grpc_request(WATCH).body(()).unwrap(), false).unwrap();
        sender.send_data(framed(b"").into(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap()[5..], SERVING);
        server.begin_stop(Duration::ZERO);
        while let Some(Ok(_)) = body.data().await {}
        assert!(client.ready().await.is_err());
    });
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let (_state, register) = serving();
    let server = Server::start(register);
    run(async {
        let client = connect(&server).await;
        let garbage: [&[u8]; 5] = [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello TLS",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"GET / HTTP/9.9\r\n\r\n",
        ];
        for bytes in garbage {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            socket.write_all(bytes).await.unwrap();
            socket.shutdown().await.unwrap();
            let mut answer = Vec::new();
            // Reset or closed: either ends it.
            let _how = socket.read_to_end(&mut answer).await;
        }
        let answer = call(&client, grpc_request(CHECK), &[&framed(b"")]).await;
        assert_eq!(answer.grpc_status().0, 0);
        while server.connections() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_unix_socket_is_served_and_its_old_file_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (_state, register) = serving();
    let worker = worker::spawn("socket-0".into(), ConnectionOptions::default(), || {
        let counters = std::sync::Arc::<GrpcCounters>::default();
        let mut router = Router::new(RouterOptions {
            message_bytes_max: 1024,
            stream_buffer_bytes_max: 1024,
            counters,
            tracer: None,
        });
        register(&mut router);
        router
    })
    .unwrap();
    let address = ListenAddress::Unix(path.clone());
    let bound = listener::bind(&address, Role::Client, ListenOptions::default()).unwrap();
    let acceptor = listener::start(vec![bound], vec![worker.inbox()], 10).unwrap();
    run(async {
        let socket = UnixStream::connect(&path).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(async move {
            let _outcome = connection.await;
        });
        let answer = call(&client, grpc_request(CHECK), &[&framed(b"")]).await;
        assert_eq!(answer.messages(), [&SERVING[..]]);
    });
    acceptor.stop();
    worker.stop(Duration::ZERO);
    worker.join();
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let address = ListenAddress::Tcp { host: "127.0.0.1".into(), port };
    let error = listener::bind(&address, Role::Client, ListenOptions::default()).unwrap_err();
    assert!(error.to_string().starts_with(&format!("listen tcp 127.0.0.1:{port}: ")), "{error}");
}
