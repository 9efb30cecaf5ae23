//! The load generator against a server that answers when the test wants it to.
//!
//! One idea: a generator that is wrong measures itself. Here the server is ten lines of `h2` whose
//! behaviour is known, so what must come out is known; only lower bounds of times are asserted.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use varve_benches::load::{self, Limit, Operation, Spec};
use varve_benches::workload::{Order, ValueSizes, Workload};

/// What the server does with the calls of a connection before it answers them.
#[derive(Clone)]
enum Manner {
    /// Holds each until as many are there.
    Gather(Arc<Barrier>),
    /// Holds the first of a connection for this long.
    HoldFirst(Duration),
    /// Answers with this status at once.
    Refuse(&'static str),
}

/// Starts a server that lives as long as the test program.
fn serve(manner: Manner) -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("a bound socket");
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("it is non-blocking");
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve_connection(socket, manner.clone()));
            }
        });
    });
    address
}

async fn serve_connection(socket: tokio::net::TcpStream, manner: Manner) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    let mut is_first = true;
    while let Some(Ok((_, respond))) = connection.accept().await {
        tokio::spawn(answer(respond, manner.clone(), is_first));
        is_first = false;
    }
}

async fn answer(mut respond: h2::server::SendResponse<Bytes>, manner: Manner, is_first: bool) {
    let status = match manner {
        Manner::Gather(barrier) => {
            barrier.wait().await;
            "0"
        }
        Manner::HoldFirst(time) => {
            if is_first {
                tokio::time::sleep(time).await;
            }
            "0"
        }
        Manner::Refuse(status) => status,
    };
    let mut stream = respond.send_response(Response::new(()), false).expect("the caller waits");
    stream.send_data(Bytes::from_static(&[0; 5]), false).expect("the caller waits");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static("because"));
    stream.send_trailers(trailers).expect("the caller waits");
}

fn spec(address: SocketAddr) -> Spec {
    Spec {
        endpoints: vec![address],
        operation: Operation::Put,
        clients: 1,
        connections: 1,
        threads: 1,
        rate: None,
        limit: Limit::Calls(100),
        workload: Arc::new(Workload::new(10, Order::Random, ValueSizes::Fixed(10), 1)),
        server_pids: Vec::new(),
        token: None,
    }
}

#[test]
fn all_calls_are_made_and_counted() {
    let address = serve(Manner::HoldFirst(Duration::ZERO));
    let spec = Spec { clients: 7, connections: 3, threads: 2, ..spec(address) };
    let report = load::run(&spec).unwrap();
    assert_eq!((report.calls(), report.failed, report.response_bytes), (100, 0, 500));
    assert!(report.server_cpu.is_none());
}

#[test]
fn clients_of_all_threads_call_at_the_same_time() {
    // Were threads to run one after the other, nobody would ever be answered.
    let address = serve(Manner::Gather(Arc::new(Barrier::new(4))));
    let spec = Spec { clients: 4, connections: 2, threads: 2, ..spec(address) };
    assert_eq!(load::run(&spec).unwrap().calls(), 100);
}

#[test]
fn a_stalled_server_is_charged_for_all_calls_that_were_due() {
    let stall = Duration::from_millis(200);
    let address = serve(Manner::HoldFirst(stall));
    // The last call is due after 99 ms and cannot be made before the first is answered.
    let open = Spec { rate: Some(1000.0), ..spec(address) };
    let report = load::run(&open).unwrap();
    assert_eq!(report.calls(), 100);
    let shortest = report.latencies.quantile(0.0);
    assert!(shortest >= Duration::from_millis(100), "{shortest:?}");
    // A closed loop hides it: one call was slow.
    let report = load::run(&spec(address)).unwrap();
    assert!(report.latencies.longest() >= stall.mul_f64(0.99));
    assert!(report.latencies.quantile(0.5) < report.latencies.longest());
}

#[test]
fn an_open_loop_is_as_long_as_its_time() {
    let address = serve(Manner::HoldFirst(Duration::ZERO));
    let limit = Limit::Time(Duration::from_millis(200));
    let spec = Spec { clients: 10, rate: Some(1000.0), limit, ..spec(address) };
    let report = load::run(&spec).unwrap();
    assert_eq!(report.calls(), 200);
    assert!(report.elapsed >= Duration::from_millis(199), "{:?}", report.elapsed);
}

#[test]
fn refused_calls_are_counted_with_a_reason() {
    let report = load::run(&spec(serve(Manner::Refuse("8")))).unwrap();
    assert_eq!((report.calls(), report.failed), (0, 100));
    assert_eq!(report.first_error.as_deref(), Some("status 8: because"));
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = load::run(&spec(address)).err().unwrap();
    assert!(error.to_string().starts_with("cannot connect to"), "{error}");
}
