//! The JSON gateway: etcd's methods for clients that speak HTTP and JSON (`/v3/kv/range`, ...).
//!
//! One idea: it translates and does nothing else. A request becomes the gRPC call that it means and
//! goes through the same router, with the same checks, limits and counters; the response of that
//! call becomes JSON. So there is nothing here that could answer otherwise than gRPC does.
//!
//! - `words`: messages between JSON and protobuf, by descriptors;
//! - `request`: JSON values out of a body, framed as gRPC frames messages;
//! - `response`: one message, or a stream of lines, or an error, as grpc-gateway 2 writes them;
//! - `websocket`: the same over a WebSocket, a value or a line a message.
//!
//! What it does not do: paths with parameters, other methods than POST, forms (etcd has none). The
//! texts of errors in JSON are serde's.

mod request;
mod response;
mod websocket;
mod words;

use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Method as Verb, Request, Response};
use http_body::Body;
use http_body_util::BodyExt as _;
use varve_api::json;
use varve_api::method::Method;

use self::request::Messages;
use crate::grpc::router::Dispatch;
use crate::grpc::status::{Code, Status, parse_timeout};
use crate::grpc::{Caller, RequestBody, RequestMeta, ResponseBody, Router};
use crate::http::unread::read_away;

/// Bytes of JSON as they come in; an error is a client that went away.
type JsonBody = Pin<Box<dyn Body<Data = Bytes, Error = Gone>>>;

/// The client went away in the middle of its request.
struct Gone;

/// Headers of HTTP that begin so are metadata of the call.
const METADATA_PREFIX: &str = "grpc-metadata-";
/// Tells the services that a call came through a gateway: the certificate is not the user's then.
const GATEWAY_MARK: HeaderName = HeaderName::from_static("grpcgateway-accept");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether the gateway answers `path`.
pub fn answers(path: &str) -> bool {
    path.starts_with(json::PREFIX) || path.starts_with(json::PREFIX_OLD)
}

/// Answers a request whose path [`answers`] knows.
pub async fn answer(
    request: Request<hyper::body::Incoming>,
    caller: &Rc<Caller>,
    router: &Rc<Router>,
) -> Response<ResponseBody> {
    let path = request.uri().path();
    let found = match path.strip_prefix(json::PREFIX_OLD) {
        Some(rest) => json::find(&format!("{}{rest}", json::PREFIX)),
        None => json::find(path),
    };
    let method = found.filter(|method| router.serves(method));
    if websocket::is_wanted(request.headers()) {
        return websocket::answer(request, method, caller, router);
    }
    let (head, body) = request.into_parts();
    match meta(method, &head.method, &head.headers, caller) {
        Ok(meta) => call(meta, from_http(body), router).answer().await,
        Err(status) => {
            read_away(body).await;
            response::error(&status)
        }
    }
}

/// A call on its way.
struct Call {
    method: &'static Method,
    dispatch: Dispatch,
}

impl Call {
    async fn answer(self) -> Response<ResponseBody> {
        let Ok(answer) = self.dispatch.await;
        response::translate(self.method, answer).await
    }
}

/// Which call a request means.
///
/// # Errors
/// There is no such path, or it is not called so, or its headers are wrong.
fn meta(
    method: Option<&'static Method>,
    verb: &Verb,
    headers: &HeaderMap,
    caller: &Rc<Caller>,
) -> Result<RequestMeta, Status> {
    let method = method.ok_or_else(|| Status::new(Code::NotFound, "Not Found"))?;
    if verb != Verb::POST {
        return Err(Status::new(Code::Unimplemented, "Method Not Allowed"));
    }
    RequestMeta::new(method, metadata(headers)?, Rc::clone(caller))
}

/// Starts it.
fn call(meta: RequestMeta, body: JsonBody, router: &Router) -> Call {
    let method = meta.method();
    let messages = Messages::new(method, body, router.message_bytes_max());
    let body = RequestBody::Translated(Box::pin(messages));
    Call { method, dispatch: router.call(meta, body, false) }
}

/// The metadata of a call: what the headers of HTTP mean.
fn metadata(headers: &HeaderMap) -> Result<HeaderMap, Status> {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let stripped = name.as_str().strip_prefix(METADATA_PREFIX);
        if let Some(Ok(name)) = stripped.map(HeaderName::try_from) {
            metadata.append(name, value.clone());
        } else if *name == AUTHORIZATION {
            metadata.append(AUTHORIZATION, value.clone());
        }
    }
    if let Some(timeout) = headers.get(TIMEOUT) {
        parse_timeout(timeout.as_bytes()).map_err(|_| {
            let shown = String::from_utf8_lossy(timeout.as_bytes());
            Status::new(Code::InvalidArgument, format!("invalid grpc-timeout: {shown}"))
        })?;
        metadata.insert(TIMEOUT, timeout.clone());
    }
    metadata.insert(GATEWAY_MARK, HeaderValue::from_static("*/*"));
    Ok(metadata)
}

fn from_http(body: hyper::body::Incoming) -> JsonBody {
    Box::pin(body.map_err(|_| Gone))
}
