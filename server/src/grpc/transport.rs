//! What makes a request of HTTP one of gRPC, and a response: headers, refusals, error codes.
//!
//! Refusals are grpc-go's, in code, text and HTTP status, because etcd's clients and tests were
//! written against them.
//!
//! What it does not do: bodies (`body.rs`); the encoding of a status (`status.rs`).

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};

use super::body::ResponseBody;
use super::gzip;
use super::status::{Code, GRPC_CONTENT_TYPE, Status, append};

/// Header of requests and responses that names their compression.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// What grpc-go's transport refuses before it looks for the method.
pub(super) fn refuse_transport<B>(request: &Request<B>) -> Option<Response<ResponseBody>> {
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

pub(super) fn is_grpc_content_type(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    // As grpc-go: the media type alone, or followed by a subtype or parameters.
    value
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// Whether the client compresses, in the only way that is installed (as in etcd).
pub(super) fn is_gzip(headers: &HeaderMap) -> Result<bool, Status> {
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

pub(super) fn grpc_response(body: ResponseBody, is_gzip: bool) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    if is_gzip {
        response.headers_mut().insert(ENCODING, HeaderValue::from_static(gzip::NAME));
    }
    response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// A response of headers only ("Trailers-Only").
pub(super) fn error_response(status: &Status) -> Response<ResponseBody> {
    let mut response = grpc_response(ResponseBody::empty(), false);
    append(response.headers_mut(), status);
    response
}

pub(super) fn early_abort(http_status: StatusCode, status: &Status) -> Response<ResponseBody> {
    let mut response = error_response(status);
    *response.status_mut() = http_status;
    response
}
