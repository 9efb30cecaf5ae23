//! The other side of a call: one request, one answer, over a connection that somebody has opened.
//!
//! One idea: what is on the wire is shared with the server (frames, statuses), so a client is a few
//! lines over hyper.
//!
//! What it does not do: dial, TLS, deadlines, streams, compression; these are the caller's.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::frame::{Decoder, Encoded, decode};
use super::status::{self, Code, GRPC_CONTENT_TYPE, Status};
use crate::limits;

/// A connection that speaks HTTP/2.
pub type Connection = SendRequest<Full<Bytes>>;

/// Begins HTTP/2 on a stream. The connection is driven by a task of this runtime.
///
/// # Errors
/// The other end speaks something else.
pub async fn connect<S>(stream: S) -> hyper::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, driver) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // It ends with the connection; calls are told of its errors.
    tokio::spawn(driver);
    Ok(connection)
}

/// Calls the method at `path` of the server that calls itself `authority`.
///
/// # Errors
/// The server's, or `Unavailable` if there is no answer that can be read.
pub async fn unary<Answer: Message + Default>(
    connection: &mut Connection,
    authority: &str,
    path: &str,
    metadata: HeaderMap,
    message: &impl Message,
) -> Result<Answer, Status> {
    let body: Vec<u8> =
        Encoded::message(message).into_parts().flat_map(|part| part.to_vec()).collect();
    let request = Request::post(format!("http://{authority}{path}"));
    let mut request =
        request.body(Full::new(Bytes::from(body))).map_err(|error| unavailable(&error))?;
    *request.headers_mut() = metadata;
    request.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    connection.ready().await.map_err(|error| unavailable(&error))?;
    let response = connection.send_request(request).await;
    decode(read(response.map_err(|error| unavailable(&error))?).await?)
}

/// What a call ends with that found nobody, or nobody who speaks gRPC.
pub fn unavailable(reason: &dyn std::fmt::Display) -> Status {
    Status::new(Code::Unavailable, reason.to_string())
}

/// The message of an answer, or what went wrong.
async fn read(response: Response<hyper::body::Incoming>) -> Result<Bytes, Status> {
    if response.status() != StatusCode::OK {
        return Err(unavailable(&format!("unexpected HTTP status {}", response.status())));
    }
    if let Some(outcome) = status::read(response.headers()) {
        outcome?;
    }
    let body = Limited::new(response.into_body(), limits::REQUEST_BYTES_MAX).collect().await;
    let body = body.map_err(|error| unavailable(&error))?;
    if let Some(outcome) = body.trailers().and_then(status::read) {
        outcome?;
    }
    let mut frames = Decoder::new(limits::REQUEST_BYTES_MAX, false);
    frames.push(body.to_bytes());
    frames.next_message()?.ok_or_else(|| unavailable(&"an answer without a message"))
}
