//! From the answer of a call to one in JSON.
//!
//! One idea: the body of the call is read as a client of gRPC would read it. A single message
//! becomes the body; the messages of a stream become lines `{"result":...}`, written as they come;
//! an error before the first byte has the HTTP status of its code, one after it is a line
//! `{"error":...}`.
//!
//! Source: what etcd 3.7.1 (grpc-gateway 2) answers.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use serde::Serialize;
use varve_api::method::{Kind, Method};

use super::words::Words;
use crate::grpc::ResponseBody;
use crate::grpc::frame::Decoder;
use crate::grpc::status::{self, Code, Status};
use crate::limits;

/// A content type of gRPC's metadata, which the gateway hands on.
const METADATA_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");

/// The answer to a call of `method`.
pub async fn translate(
    method: &'static Method,
    answer: Response<ResponseBody>,
) -> Response<ResponseBody> {
    let (head, body) = answer.into_parts();
    let mut messages = AnswerReader::new(Words::of(method), body);
    let is_stream = method.kind != Kind::Unary;
    let first = match status::read(&head.headers) {
        Some(Err(status)) => Event::End(Err(status)),
        Some(Ok(())) => Event::End(Ok(())),
        None => messages.next().await,
    };
    match first {
        Event::Message(json) if is_stream => {
            let lines = Lines { first: Some(line("result", &json)), messages, is_over: false };
            with_metadata(json_response(StatusCode::OK, ResponseBody::translated(lines)))
        }
        Event::Message(json) => {
            with_metadata(json_response(StatusCode::OK, ResponseBody::plain(json)))
        }
        Event::End(Err(status)) if is_stream => {
            let over = Lines { first: Some(error_line(&status)), messages, is_over: true };
            json_response(http_status(status.code), ResponseBody::translated(over))
        }
        Event::End(Err(status)) => error(&status),
        // A stream that ends without a word; a single answer always has its message.
        Event::End(Ok(())) => {
            let over = Lines { first: None, messages, is_over: true };
            Response::new(ResponseBody::translated(over))
        }
    }
}

/// The answer to a request that came to no call, or whose call failed.
pub fn error(status: &Status) -> Response<ResponseBody> {
    let body = ResponseBody::plain(to_json(&ErrorBody::new(status)));
    let mut response = json_response(http_status(status.code), body);
    if status.code == Code::Unauthenticated
        && let Ok(value) = HeaderValue::from_str(&status.message)
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// `google.rpc.Status` as the gateway writes it.
#[derive(Serialize)]
struct ErrorBody<'a> {
    code: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

impl<'a> ErrorBody<'a> {
    fn new(status: &'a Status) -> Self {
        Self { code: status.code.number(), message: &status.message }
    }
}

fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("numbers and texts can always be written")
}

fn json_response(status: StatusCode, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn with_metadata(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    response.headers_mut().insert(METADATA_CONTENT_TYPE, status::GRPC_CONTENT_TYPE);
    response
}

/// The HTTP status of a code.
fn http_status(code: Code) -> StatusCode {
    let status = match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Canceled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    };
    StatusCode::from_u16(status).expect("it is between 100 and 999")
}

fn line(name: &str, json: &[u8]) -> Bytes {
    let mut line = format!("{{\"{name}\":").into_bytes();
    line.extend_from_slice(json);
    line.extend_from_slice(b"}\n");
    line.into()
}

fn error_line(status: &Status) -> Bytes {
    line("error", &to_json(&ErrorBody::new(status)))
}

/// What comes next in an answer.
enum Event {
    /// A message, in JSON.
    Message(Vec<u8>),
    /// Nothing more.
    End(Result<(), Status>),
}

/// The messages of an answer.
struct AnswerReader {
    words: &'static Words,
    body: ResponseBody,
    decoder: Decoder,
}

impl AnswerReader {
    fn new(words: &'static Words, body: ResponseBody) -> Self {
        Self { words, body, decoder: Decoder::new(limits::RESPONSE_BYTES_MAX, false) }
    }

    async fn next(&mut self) -> Event {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => {
                    let json = self.words.write(message);
                    let failed = |status| Event::End(Err(status));
                    return Poll::Ready(json.map_or_else(failed, Event::Message));
                }
                Ok(None) => {}
                Err(status) => return Poll::Ready(Event::End(Err(status))),
            }
            let Some(Ok(frame)) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                return Poll::Ready(Event::End(Ok(())));
            };
            match frame.into_data() {
                Ok(data) => self.decoder.push(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Poll::Ready(Event::End(status::read(&trailers).unwrap_or(Ok(()))));
                }
            }
        }
    }
}

/// A stream of answers, a line each.
struct Lines {
    first: Option<Bytes>,
    messages: AnswerReader,
    is_over: bool,
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if this.is_over {
            return Poll::Ready(None);
        }
        let next = match ready!(this.messages.poll_next(context)) {
            Event::Message(json) => Some(line("result", &json)),
            Event::End(outcome) => {
                this.is_over = true;
                outcome.err().map(|status| error_line(&status))
            }
        };
        Poll::Ready(next.map(|line| Ok(Frame::data(line))))
    }
}
