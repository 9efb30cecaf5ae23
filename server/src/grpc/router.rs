//! Methods to handlers: where each request goes.
//!
//! One idea: a table indexed by `Method::index`, filled once per socket thread with `!Send`
//! closures; a call costs one boxed future. Plain HTTP requests that are not gRPC go to one
//! separate handler.
//!
//! What it does not do: what a call goes through before and after its handler (`call.rs`); say what
//! is no gRPC at all (`transport.rs`).

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use prost::Message;
use varve_api::json;
use varve_api::method::{self, Kind, METHODS, Method};

use super::body::ResponseBody;
use super::call::{Call, Guard, Observer, failed};
use super::counters::{CallRecord, GrpcCounters};
use super::frame::{Encoded, decode};
use super::incoming::{Incoming, RequestBody};
use super::outgoing::Outgoing;
use super::request::{Caller, RequestMeta};
use super::status::{Code, Status};
use super::transport::{
    early_abort, error_response, is_grpc_content_type, is_gzip, refuse_transport,
};
use crate::trace::Tracer;

/// What every call is subject to.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Longest message accepted from a client, in bytes without prefix.
    pub message_bytes_max: usize,
    /// Bytes that may wait in one stream's [`Outgoing`].
    pub stream_buffer_bytes_max: usize,
    /// Where this socket thread counts its calls.
    pub counters: Arc<GrpcCounters>,
    /// Where its calls become traces, if they do.
    pub tracer: Option<Tracer>,
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

/// A registered method.
type Route = dyn Fn(Call) -> ResponseFuture;

/// Asked before anything else of a call: whether this member takes it now.
type Gate = dyn Fn(&RequestMeta) -> Result<(), Status>;

/// The services of one socket thread. Filled before it serves; `!Send`.
///
/// Invariants: `routes` has one slot per entry of `METHODS`; a filled slot has the kind of its
/// method (asserted on registration).
pub struct Router {
    routes: Vec<Option<Box<Route>>>,
    http: Option<Box<dyn HttpHandler>>,
    guard: Option<Guard>,
    gate: Option<Box<Gate>>,
    observer: Option<Observer>,
    options: RouterOptions,
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
            let response = call.bidi_stream(|meta, incoming, outgoing| {
                Box::pin(handler(meta, incoming, outgoing))
            });
            Box::pin(std::future::ready(response))
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
    pub fn call(&self, mut meta: RequestMeta, body: RequestBody, is_gzip: bool) -> Dispatch {
        let method = meta.method();
        let route = self.routes[method.index].as_ref();
        let route = route.unwrap_or_else(|| panic!("{} is asked for and known", method.path));
        if let Some(tracer) = &self.options.tracer {
            meta.begin_trace(tracer);
        }
        let record = CallRecord::start(&self.options.counters, &meta);
        if let Some(Err(status)) = self.gate.as_ref().map(|gate| gate(&meta)) {
            return Dispatch::refused(failed(record, status));
        }
        Dispatch::Running(route(Call {
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

/// Whether a path is one of the JSON gateway. No service of gRPC has such a name.
fn is_gateway(path: &str) -> bool {
    path.starts_with(json::PREFIX) || path.starts_with(json::PREFIX_OLD)
}
