//! Methods to handlers, and everything a call goes through before and after its handler.
//!
//! One idea: a table indexed by `Method::index`, filled once per socket thread with `!Send`
//! closures; a call costs one boxed future. Plain HTTP requests that are not gRPC go to one
//! separate handler.
//!
//! Answers to nonsense are grpc-go's, in code, text and HTTP status, because etcd's clients and
//! tests were written against them.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use prost::Message;
use tokio::time::Instant;
use varve_api::json;
use varve_api::method::{self, Kind, METHODS, Method};

use super::body::ResponseBody;
use super::counters::{CallRecord, GrpcCounters};
use super::frame::{Decoder, Encoded, decode};
use super::gzip;
use super::incoming::{Incoming, RequestBody};
use super::outgoing::Outgoing;
use super::request::{Caller, PeerAddress, RequestMeta};
use super::status::{Code, GRPC_CONTENT_TYPE, Status, append, deadline_exceeded};

/// Header of requests and responses that names their compression.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// What every call is subject to.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Longest message accepted from a client, in bytes without prefix.
    pub message_bytes_max: usize,
    /// Bytes that may wait in one stream's [`Outgoing`].
    pub stream_buffer_bytes_max: usize,
    /// Where this socket thread counts its calls.
    pub counters: Arc<GrpcCounters>,
}

/// A response that is being computed on this thread.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Response<ResponseBody>>>>;

/// Answers requests that are not gRPC.
pub trait HttpHandler {
    /// Starts answering `request`; what it asks of the services goes through `router`.
    fn call(
        &self,
        request: Request<hyper::body::Incoming>,
        caller: &Rc<Caller>,
        origin: Origin,
        router: &Rc<Router>,
    ) -> ResponseFuture;
}

/// The listener that a plain HTTP request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// One for clients.
    Client,
    /// One for metrics and health checks only.
    Metrics,
}

/// What is asked before a handler is called: who calls, and the encoded request.
pub type Guard = Rc<dyn Fn(RequestMeta, Bytes) -> GuardFuture>;

/// Asked before anything else of a call: whether this member takes it now.
type Gate = dyn Fn(&RequestMeta) -> Result<(), Status>;

/// Told of each unary call with one whole request, when it has its answer.
pub type Observer = Rc<dyn Fn(&Answered)>;

/// A unary call and its answer.
pub struct Answered {
    /// What was called.
    pub method: &'static Method,
    /// By whom.
    pub peer: PeerAddress,
    /// How long ago the call came.
    pub took: Duration,
    /// The request, without prefix.
    pub request: Bytes,
    /// The response, not compressed; `None` if there is an error instead.
    pub response: Option<Encoded>,
}

/// Gives back what it was given, or refuses the call.
pub type GuardFuture = Pin<Box<dyn Future<Output = Result<(RequestMeta, Bytes), Status>>>>;

/// The services of one socket thread. Filled before it serves; `!Send`.
///
/// Invariants: `routes` has one slot per entry of `METHODS`; a filled slot has the kind of its
/// method (asserted on registration).
pub struct Router {
    routes: Vec<Option<Box<dyn Route>>>,
    http: Option<Box<dyn HttpHandler>>,
    guard: Option<Guard>,
    gate: Option<Box<Gate>>,
    observer: Option<Observer>,
    options: RouterOptions,
}

/// One call on its way to a handler.
struct Call {
    meta: RequestMeta,
    body: RequestBody,
    /// The client sends gzip and gets it.
    is_gzip: bool,
    record: CallRecord,
    guard: Option<Guard>,
    observer: Option<Observer>,
    message_bytes_max: usize,
    stream_buffer_bytes_max: usize,
}

/// A registered method.
trait Route {
    fn call(&self, call: Call) -> ResponseFuture;
}

impl<F: Fn(Call) -> ResponseFuture> Route for F {
    fn call(&self, call: Call) -> ResponseFuture {
        self(call)
    }
}

impl Router {
    /// A router without services: everything is `Unimplemented`, plain HTTP is 404.
    pub fn new(options: RouterOptions) -> Self {
        Self {
            routes: METHODS.iter().map(|_| None).collect(),
            http: None,
            guard: None,
            gate: None,
            observer: None,
            options,
        }
    }

    /// Registers a unary method.
    ///
    /// # Panics
    /// If the method is not unary or is registered already.
    pub fn unary<Req, Resp, Fut>(
        &mut self,
        method: &'static Method,
        handler: impl Fn(RequestMeta, Req) -> Fut + 'static,
    ) -> &mut Self
    where
        Req: Message + Default + 'static,
        Resp: Message,
        Fut: Future<Output = Result<Resp, Status>> + 'static,
    {
        let handler = Rc::new(handler);
        self.register(method, Kind::Unary, move |call| {
            let handler = Rc::clone(&handler);
            Box::pin(call.unary(move |meta, bytes| async move {
                let response = handler(meta, decode::<Req>(bytes)?).await?;
                Encoded::bounded(&response)
            }))
        })
    }

    /// Registers a unary method whose handler reads and writes encoded messages.
    ///
    /// # Panics
    /// If the method is not unary or is registered already.
    pub fn unary_raw<Fut>(
        &mut self,
        method: &'static Method,
        handler: impl Fn(RequestMeta, Bytes) -> Fut + 'static,
    ) -> &mut Self
    where
        Fut: Future<Output = Result<Encoded, Status>> + 'static,
    {
        let handler = Rc::new(handler);
        self.register(method, Kind::Unary, move |call| {
            let handler = Rc::clone(&handler);
            Box::pin(call.unary(move |meta, bytes| handler(meta, bytes)))
        })
    }

    /// Registers a method with one request and a stream of responses. The call ends with the
    /// handler's result, after everything queued has been sent.
    ///
    /// # Panics
    /// If the method is of another kind or is registered already.
    pub fn server_stream<Req, Fut>(
        &mut self,
        method: &'static Method,
        handler: impl Fn(RequestMeta, Req, Outgoing) -> Fut + 'static,
    ) -> &mut Self
    where
        Req: Message + Default + 'static,
        Fut: Future<Output = Result<(), Status>> + 'static,
    {
        let handler = Rc::new(handler);
        self.register(method, Kind::ServerStream, move |call| {
            let handler = Rc::clone(&handler);
            Box::pin(call.server_stream(move |meta, request, outgoing| {
                Box::pin(handler(meta, request, outgoing))
            }))
        })
    }

    /// Registers a method with streams both ways. The call ends with the handler's result, after
    /// everything queued has been sent; a handler normally returns `Ok` some time after
    /// `Incoming::next` gave `None`.
    ///
    /// # Panics
    /// If the method is of another kind or is registered already.
    pub fn bidi_stream<Req, Fut>(
        &mut self,
        method: &'static Method,
        handler: impl Fn(RequestMeta, Incoming<Req>, Outgoing) -> Fut + 'static,
    ) -> &mut Self
    where
        Req: Message + Default + 'static,
        Fut: Future<Output = Result<(), Status>> + 'static,
    {
        self.register(method, Kind::BidiStream, move |call| {
            let deadline = call.meta.deadline();
            let is_gzip = call.is_gzip;
            let outgoing = Outgoing::with_encoding(call.stream_buffer_bytes_max, is_gzip);
            let decoder = Decoder::new(call.message_bytes_max, is_gzip);
            let incoming = Incoming::new(call.body, decoder, call.record.tally());
            let running = Box::pin(handler(call.meta, incoming, outgoing.clone()));
            let body = ResponseBody::stream(running, outgoing, deadline, call.record);
            Box::pin(std::future::ready(grpc_response(body, is_gzip)))
        })
    }

    /// Sets who is asked before handlers with one request; streams of requests ask themselves.
    pub fn guard(&mut self, guard: Guard) -> &mut Self {
        self.guard = Some(guard);
        self
    }

    /// Sets who is told of answered calls.
    pub fn observer(&mut self, observer: Observer) -> &mut Self {
        self.observer = Some(observer);
        self
    }

    /// Sets who answers plain HTTP.
    pub fn http(&mut self, handler: impl HttpHandler + 'static) -> &mut Self {
        self.http = Some(Box::new(handler));
        self
    }

    /// Sets who decides, before any call is read, whether it is taken now.
    pub fn gate(
        &mut self,
        gate: impl Fn(&RequestMeta) -> Result<(), Status> + 'static,
    ) -> &mut Self {
        self.gate = Some(Box::new(gate));
        self
    }

    fn register(
        &mut self,
        method: &'static Method,
        kind: Kind,
        route: impl Fn(Call) -> ResponseFuture + 'static,
    ) -> &mut Self {
        assert_eq!(method.kind, kind, "{} is registered as what it is", method.path);
        let slot = &mut self.routes[method.index];
        assert!(slot.is_none(), "{} is registered once", method.path);
        *slot = Some(Box::new(route));
        self
    }

    /// Answers one request of a connection that may carry both gRPC and plain HTTP.
    pub fn dispatch(
        self: &Rc<Self>,
        request: Request<hyper::body::Incoming>,
        caller: &Rc<Caller>,
    ) -> Dispatch {
        // A POST over HTTP/2 is meant as gRPC, but for those of the gateway; only reads can be meant
        // for the other HTTP paths.
        let is_grpc = request.version() == Version::HTTP_2
            && (request.method() == http::Method::POST || is_grpc_content_type(request.headers()))
            && !is_gateway(request.uri().path());
        if is_grpc {
            self.dispatch_grpc(request, caller)
        } else {
            self.dispatch_http(request, caller, Origin::Client)
        }
    }

    /// Answers one request of a connection that is for gRPC only.
    pub fn dispatch_grpc(
        &self,
        request: Request<hyper::body::Incoming>,
        caller: &Rc<Caller>,
    ) -> Dispatch {
        if let Some(response) = refuse_transport(&request) {
            return Dispatch::refused(response);
        }
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let Some(method) = method::find(path).filter(|method| self.serves(method)) else {
            return Dispatch::refused(error_response(&self.unimplemented(path)));
        };
        let is_gzip = match is_gzip(&head.headers) {
            Ok(is_gzip) => is_gzip,
            Err(status) => return Dispatch::refused(error_response(&status)),
        };
        match RequestMeta::new(method, head.headers, Rc::clone(caller)) {
            Err(status) => Dispatch::refused(early_abort(StatusCode::BAD_REQUEST, &status)),
            Ok(meta) => self.call(meta, RequestBody::Http(body), is_gzip),
        }
    }

    /// Whether a method is registered.
    pub fn serves(&self, method: &Method) -> bool {
        self.routes[method.index].is_some()
    }

    /// Longest message accepted from a client, in bytes without prefix.
    pub fn message_bytes_max(&self) -> usize {
        self.options.message_bytes_max
    }

    /// Starts a call; the answer is one in gRPC, compressed if the client is.
    ///
    /// # Panics
    /// If the method is not registered.
    pub fn call(&self, meta: RequestMeta, body: RequestBody, is_gzip: bool) -> Dispatch {
        let method = meta.method();
        let route = self.routes[method.index].as_ref();
        let route = route.unwrap_or_else(|| panic!("{} is asked for and known", method.path));
        let mut record = CallRecord::start(&self.options.counters, method);
        if let Some(Err(status)) = self.gate.as_ref().map(|gate| gate(&meta)) {
            let response = error_response(&status);
            record.handled(&Err(status));
            return Dispatch::refused(response);
        }
        Dispatch::Running(route.call(Call {
            meta,
            body,
            is_gzip,
            record,
            guard: self.guard.clone(),
            observer: self.observer.clone(),
            message_bytes_max: self.options.message_bytes_max,
            stream_buffer_bytes_max: self.options.stream_buffer_bytes_max,
        }))
    }

    /// Answers one request of a connection that is for plain HTTP only.
    pub fn dispatch_http(
        self: &Rc<Self>,
        request: Request<hyper::body::Incoming>,
        caller: &Rc<Caller>,
        origin: Origin,
    ) -> Dispatch {
        match &self.http {
            Some(http) => Dispatch::Running(http.call(request, caller, origin, self)),
            None => {
                let mut response = Response::new(ResponseBody::empty());
                *response.status_mut() = StatusCode::NOT_FOUND;
                Dispatch::refused(response)
            }
        }
    }

    /// Why nothing is registered under `path`.
    fn unimplemented(&self, path: &str) -> Status {
        let text = match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
            None => format!("malformed method name: {path:?}"),
            Some((service, name)) => {
                let is_known = METHODS
                    .iter()
                    .any(|known| known.service == service && self.routes[known.index].is_some());
                if is_known {
                    format!("unknown method {name} for service {service}")
                } else {
                    format!("unknown service {service}")
                }
            }
        };
        Status::new(Code::Unimplemented, text)
    }
}

/// A response, or one to come. The future hyper polls for each request.
pub enum Dispatch {
    /// Answered at once.
    Ready(Box<Response<ResponseBody>>),
    /// A handler is at work.
    Running(ResponseFuture),
    /// The answer was given.
    Done,
}

impl Dispatch {
    // Boxed: refusals are rare, and every running call would carry their size.
    fn refused(response: Response<ResponseBody>) -> Self {
        Self::Ready(Box::new(response))
    }
}

impl Future for Dispatch {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::Running(future) = &mut *self {
            return future.as_mut().poll(context).map(Ok);
        }
        match std::mem::replace(&mut *self, Self::Done) {
            Self::Ready(response) => Poll::Ready(Ok(*response)),
            Self::Running(_) | Self::Done => panic!("a dispatch is polled until it is ready"),
        }
    }
}

impl Call {
    async fn unary<Fut>(self, run: impl FnOnce(RequestMeta, Bytes) -> Fut) -> Response<ResponseBody>
    where
        Fut: Future<Output = Result<Encoded, Status>>,
    {
        let Self { meta, body, is_gzip, mut record, guard, observer, message_bytes_max, .. } = self;
        let deadline = meta.deadline();
        let (method, peer, began) = (meta.method(), meta.peer().clone(), Instant::now());
        let mut request = None;
        let outcome = until(deadline, async {
            let decoder = Decoder::new(message_bytes_max, is_gzip);
            let bytes = receive_single(body, decoder, &record).await?;
            request = observer.is_some().then(|| bytes.clone());
            let (meta, bytes) = guarded(guard, meta, bytes).await?;
            run(meta, bytes).await
        })
        .await;
        if let (Some(observer), Some(request)) = (observer, request) {
            let response = outcome.as_ref().ok().cloned();
            observer(&Answered { method, peer, took: began.elapsed(), request, response });
        }
        match outcome {
            Ok(message) => {
                let message = if is_gzip { message.compressed() } else { message };
                record.sent(1, message.len());
                record.handled(&Ok(()));
                grpc_response(ResponseBody::single(message), is_gzip)
            }
            Err(status) => {
                let response = error_response(&status);
                record.handled(&Err(status));
                response
            }
        }
    }

    async fn server_stream<Req: Message + Default>(
        self,
        run: impl FnOnce(RequestMeta, Req, Outgoing) -> super::body::StreamHandler,
    ) -> Response<ResponseBody> {
        let Self {
            meta,
            body,
            is_gzip,
            mut record,
            guard,
            message_bytes_max,
            stream_buffer_bytes_max,
            ..
        } = self;
        let deadline = meta.deadline();
        let received = until(deadline, async {
            let decoder = Decoder::new(message_bytes_max, is_gzip);
            let bytes = receive_single(body, decoder, &record).await?;
            let (meta, bytes) = guarded(guard, meta, bytes).await?;
            Ok((meta, decode::<Req>(bytes)?))
        })
        .await;
        match received {
            Ok((meta, request)) => {
                let outgoing = Outgoing::with_encoding(stream_buffer_bytes_max, is_gzip);
                let running = run(meta, request, outgoing.clone());
                let body = ResponseBody::stream(running, outgoing, deadline, record);
                grpc_response(body, is_gzip)
            }
            Err(status) => {
                let response = error_response(&status);
                record.handled(&Err(status));
                response
            }
        }
    }
}

async fn guarded(
    guard: Option<Guard>,
    meta: RequestMeta,
    bytes: Bytes,
) -> Result<(RequestMeta, Bytes), Status> {
    match guard {
        Some(guard) => guard(meta, bytes).await,
        None => Ok((meta, bytes)),
    }
}

async fn receive_single(
    body: RequestBody,
    decoder: Decoder,
    record: &CallRecord,
) -> Result<Bytes, Status> {
    Incoming::<()>::new(body, decoder, record.tally()).single().await
}

/// Runs `future`, but not past `deadline`.
async fn until<T>(
    deadline: Option<Instant>,
    future: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match deadline {
        None => future.await,
        Some(deadline) => {
            tokio::time::timeout_at(deadline, future).await.unwrap_or(Err(deadline_exceeded()))
        }
    }
}

/// What grpc-go's transport refuses before it looks for the method.
fn refuse_transport<B>(request: &Request<B>) -> Option<Response<ResponseBody>> {
    let (http_status, status) = if !is_grpc_content_type(request.headers()) {
        let shown = request
            .headers()
            .get(CONTENT_TYPE)
            .map_or("", |value| value.to_str().unwrap_or("not text"));
        let text = format!("invalid gRPC request content-type {shown:?}");
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, Status::new(Code::InvalidArgument, text))
    } else if request.method() != http::Method::POST {
        let shown = request.method().as_str();
        let text = format!("Received a HEADERS frame with :method {shown:?} which should be POST");
        (StatusCode::METHOD_NOT_ALLOWED, Status::new(Code::Internal, text))
    } else {
        return None;
    };
    Some(early_abort(http_status, &status))
}

/// Whether a path is one of the JSON gateway. No service of gRPC has such a name.
fn is_gateway(path: &str) -> bool {
    path.starts_with(json::PREFIX) || path.starts_with(json::PREFIX_OLD)
}

fn is_grpc_content_type(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    // As grpc-go: the media type alone, or followed by a subtype or parameters.
    value
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// Whether the client compresses, in the only way that is installed (as in etcd).
fn is_gzip(headers: &HeaderMap) -> Result<bool, Status> {
    let Some(encoding) = headers.get(ENCODING) else { return Ok(false) };
    match encoding.to_str().unwrap_or("not text") {
        "" | "identity" => Ok(false),
        gzip::NAME => Ok(true),
        other => {
            let text = format!("grpc: Decompressor is not installed for grpc-encoding {other:?}");
            Err(Status::new(Code::Unimplemented, text))
        }
    }
}

fn grpc_response(body: ResponseBody, is_gzip: bool) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    if is_gzip {
        response.headers_mut().insert(ENCODING, HeaderValue::from_static(gzip::NAME));
    }
    response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// A response of headers only ("Trailers-Only").
fn error_response(status: &Status) -> Response<ResponseBody> {
    let mut response = grpc_response(ResponseBody::empty(), false);
    append(response.headers_mut(), status);
    response
}

fn early_abort(http_status: StatusCode, status: &Status) -> Response<ResponseBody> {
    let mut response = error_response(status);
    *response.status_mut() = http_status;
    response
}
