//! A collector of traces: OTLP over gRPC on a free port of loopback.
//!
//! One idea: messages are read with the types that OpenTelemetry generates, so what the server sends is
//! judged by who defines it. Whether the collector takes anything is switched while it runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Bytes before a message of gRPC.
const PREFIX_BYTES: usize = 5;

/// What it does with who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Takes what is sent.
    Takes,
    /// Hangs up at once.
    HangsUp,
    /// Listens and never answers.
    Silent,
}

/// A collector; it ends with the process.
#[derive(Clone)]
pub struct Collector {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mood: Mood,
    spans: Vec<Received>,
}

/// A span and whose it is.
#[derive(Clone, Debug)]
pub struct Received {
    /// The attributes of the process.
    pub resource: Vec<(String, Value)>,
    /// The span.
    pub span: Span,
}

impl Received {
    /// What the span says of its request.
    pub fn attributes(&self) -> Vec<(String, Value)> {
        pairs(&self.span.attributes)
    }

    /// The names of what happened in it.
    pub fn events(&self) -> Vec<&str> {
        self.span.events.iter().map(|event| event.name.as_str()).collect()
    }
}

impl Collector {
    /// Starts one.
    pub fn start(mood: Mood) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let state = Mutex::new(State { mood, spans: Vec::new() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("an executor can be made").block_on(serving.serve(listener));
        });
        Self { shared, address }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Does something else from now on, with new connections.
    pub fn set_mood(&self, mood: Mood) {
        self.shared.lock().mood = mood;
    }

    /// What has come so far.
    pub fn spans(&self) -> Vec<Received> {
        self.shared.lock().spans.clone()
    }

    /// Waits until so many spans have come.
    ///
    /// # Panics
    /// If they do not in `patience`.
    pub fn wait(&self, count: usize, patience: Duration) -> Vec<Received> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        while state.spans.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} spans of {count} in {patience:?}", state.spans.len());
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.spans.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self: Arc<Self>, listener: std::net::TcpListener) {
        let listener = TcpListener::from_std(listener).expect("the socket is registered");
        loop {
            let (stream, _) = listener.accept().await.expect("connections come");
            let mood = self.lock().mood;
            match mood {
                Mood::HangsUp => drop(stream),
                Mood::Takes | Mood::Silent => _ = tokio::spawn(Arc::clone(&self).talk(stream)),
            }
        }
    }

    /// Until the other end goes away.
    async fn talk(self: Arc<Self>, stream: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(Arc::clone(&self).answer(request, respond));
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) {
        assert_eq!(request.uri().path(), EXPORT);
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let mut body = request.into_body();
        let mut bytes = BytesMut::new();
        while let Some(Ok(part)) = body.data().await {
            bytes.extend_from_slice(&part);
            body.flow_control().release_capacity(part.len()).expect("it was taken");
        }
        if self.lock().mood != Mood::Takes {
            return std::future::pending().await;
        }
        self.take(bytes.freeze());
        let head = Response::builder().header("content-type", "application/grpc").body(());
        let mut sending = respond.send_response(head.expect("a response"), false).expect("sent");
        let message = ExportTraceServiceResponse::default().encode_to_vec();
        assert!(message.is_empty(), "who takes everything says nothing");
        sending.send_data(Bytes::from_static(&[0; PREFIX_BYTES]), false).expect("sent");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        sending.send_trailers(trailers).expect("sent");
    }

    fn take(&self, body: Bytes) {
        assert_eq!(body[0], 0, "the message is not compressed");
        let length = u32::from_be_bytes(body[1..PREFIX_BYTES].try_into().expect("four bytes"));
        assert_eq!(length as usize, body.len() - PREFIX_BYTES);
        let request = ExportTraceServiceRequest::decode(&body[PREFIX_BYTES..]);
        let mut state = self.lock();
        for of_resource in request.expect("a message").resource_spans {
            let resource = pairs(&of_resource.resource.expect("spans are somebody's").attributes);
            let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
            let received = spans.map(|span| Received { resource: resource.clone(), span });
            state.spans.extend(received);
        }
        self.changed.notify_all();
    }
}

/// In the order of their names: that in which they are sent has no meaning.
fn pairs(attributes: &[KeyValue]) -> Vec<(String, Value)> {
    let value = |pair: &KeyValue| pair.value.as_ref()?.value.clone();
    let pair = |pair: &KeyValue| (pair.key.clone(), value(pair).expect("an attribute has a value"));
    let mut pairs: Vec<(String, Value)> = attributes.iter().map(pair).collect();
    pairs.sort_by(|one, other| one.0.cmp(&other.0));
    pairs
}
