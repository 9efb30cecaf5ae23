//! The gateway over a WebSocket: each message of the client is a request, each line of the answer a
//! message.
//!
//! One idea: a WebSocket is only another way to carry the two bodies of a call. The handshake is
//! HTTP and is made here; the frames are `tungstenite`'s.
//!
//! A page in a browser cannot set `Authorization`; it sends its token as the subprotocols
//! `Bearer, <token>`, or as the cookie `token`.
//!
//! Source: RFC 6455; what the proxy that etcd uses makes of tokens.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method as Verb, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use varve_api::method::Method;

use super::request::json_bytes_max;
use super::{Gone, call, meta, response};
use crate::grpc::status::{Code, Status};
use crate::grpc::{Caller, ResponseBody, Router};

/// What RFC 6455 appends to a client's key.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The only version there is.
const VERSION: &str = "13";
/// Requests that wait for a call that is busy; then the client waits.
const REQUESTS_QUEUED_MAX: usize = 8;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether a request asks to become a WebSocket.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    has_token(headers, &CONNECTION, "upgrade") && has_token(headers, &UPGRADE, "websocket")
}

/// Answers such a request. The call runs when the connection has left HTTP.
pub fn answer(
    mut request: Request<hyper::body::Incoming>,
    method: Option<&'static Method>,
    caller: &Rc<Caller>,
    router: &Rc<Router>,
) -> Response<ResponseBody> {
    let accept = match accept(&request) {
        Ok(accept) => accept,
        Err(status) => return response::error(&status),
    };
    let on_upgrade = hyper::upgrade::on(&mut request);
    let headers = headers_of_call(request.headers());
    let bytes_max = json_bytes_max(router.message_bytes_max());
    let (requests, body) = mpsc::channel(REQUESTS_QUEUED_MAX);
    let body = Box::pin(Requests(body));
    let meta = meta(method, &Verb::POST, &headers, caller);
    let call = meta.map(|meta| call(meta, body, router));
    caller.successor.set(async move {
        let answer = async {
            match call {
                Ok(call) => call.answer().await,
                Err(status) => response::error(&status),
            }
        };
        run(on_upgrade, bytes_max, requests, answer).await;
    });
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answered = response.headers_mut();
    answered.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answered.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answered.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if text(request.headers(), &SEC_WEBSOCKET_PROTOCOL).starts_with("Bearer") {
        answered.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }
    response
}

/// What proves to the client that it speaks with a WebSocket.
fn accept<B>(request: &Request<B>) -> Result<HeaderValue, Status> {
    let refuse = |text: &str| Err(Status::new(Code::InvalidArgument, format!("websocket: {text}")));
    let headers = request.headers();
    if request.method() != Verb::GET {
        return refuse("request method is not GET");
    }
    if text(headers, &SEC_WEBSOCKET_VERSION) != VERSION {
        return refuse("unsupported version: 13 not found in 'Sec-Websocket-Version' header");
    }
    let key = text(headers, &SEC_WEBSOCKET_KEY);
    if key.is_empty() {
        return refuse("'Sec-WebSocket-Key' header is missing or blank");
    }
    let digest = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    Ok(HeaderValue::try_from(accept).expect("base64 is visible ASCII"))
}

/// The headers with the token where a call looks for it.
fn headers_of_call(headers: &HeaderMap) -> HeaderMap {
    let mut of_call = headers.clone();
    let protocol = text(headers, &SEC_WEBSOCKET_PROTOCOL);
    let from_protocol = protocol.split_once("Bearer,").map(|(_, token)| token.trim());
    let cookies = text(headers, &COOKIE).split(';');
    let from_cookie = cookies.filter_map(|cookie| cookie.trim().strip_prefix("token=")).next();
    let token = from_cookie.or(from_protocol).map(|token| format!("Bearer {token}"));
    if let Some(Ok(token)) = token.map(HeaderValue::try_from) {
        of_call.insert(AUTHORIZATION, token);
    }
    of_call
}

/// Carries both directions until either ends.
async fn run(
    on_upgrade: OnUpgrade,
    bytes_max: usize,
    requests: mpsc::Sender<Bytes>,
    answer: impl Future<Output = Response<ResponseBody>>,
) {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, "error upgrading websocket"),
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(bytes_max))
        .max_frame_size(Some(bytes_max));
    let socket = Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut sink, stream) = socket.split();
    let writing = async {
        write(&mut sink, answer.await.into_body()).await;
        // The client may be gone.
        let _closed = sink.close().await;
    };
    tokio::select! {
        () = read(stream, requests) => {}
        () = writing => {}
    }
}

/// Hands on what the client sends until it goes away.
async fn read(mut stream: SplitStream<Socket>, requests: mpsc::Sender<Bytes>) {
    while let Some(Ok(message)) = stream.next().await {
        let value = match message {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            // Answered by the library.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            Message::Close(_) => return,
        };
        if requests.send(value).await.is_err() {
            // The call takes no more; the connection lives until its answer is over.
            drain(&mut stream).await;
            return;
        }
    }
}

async fn drain(stream: &mut SplitStream<Socket>) {
    while let Some(Ok(message)) = stream.next().await {
        if message.is_close() {
            return;
        }
    }
}

/// Sends an answer, a message a line.
async fn write(sink: &mut SplitSink<Socket, Message>, mut body: ResponseBody) {
    let mut pending = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        // A line is not longer than a frame of its body.
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let mut line = pending.split_to(end + 1);
            line.truncate(end);
            if send(sink, line).await.is_err() {
                return;
            }
        }
    }
    if !pending.is_empty() {
        // Nothing follows.
        let _sent = send(sink, pending).await;
    }
}

async fn send(sink: &mut SplitSink<Socket, Message>, line: BytesMut) -> Result<(), Gone> {
    let text = String::from_utf8_lossy(&line).into_owned();
    sink.send(Message::text(text)).await.map_err(|_| Gone)
}

/// What the client sends, as a body.
struct Requests(mpsc::Receiver<Bytes>);

impl Body for Requests {
    type Data = Bytes;
    type Error = Gone;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Gone>>> {
        self.0.poll_recv(context).map(|value| value.map(|value| Ok(Frame::data(value))))
    }
}

/// The first value of a header, if it is text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        let request = Request::get("/v3/watch")
            .header("Connection", "keep-alive, Upgrade")
            .header("Upgrade", "WebSocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap();
        assert!(is_wanted(request.headers()));
        assert_eq!(accept(&request).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let old = Request::get("/").header("Sec-WebSocket-Version", "8").body(()).unwrap();
        assert!(!is_wanted(old.headers()));
        assert!(accept(&old).is_err());
    }

    #[test]
    fn tokens_come_as_subprotocol_or_cookie() {
        for (name, value) in [
            ("sec-websocket-protocol", "Bearer, abc.5"),
            ("sec-websocket-protocol", "Bearer,abc.5"),
            ("cookie", "a=b; token=abc.5"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(headers_of_call(&headers)[AUTHORIZATION], "Bearer abc.5", "{value}");
        }
        assert!(headers_of_call(&HeaderMap::new()).is_empty());
    }
}
