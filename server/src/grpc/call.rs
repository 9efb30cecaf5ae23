//! One call between the router and its handler: what it goes through before and after.
//!
//! One idea: the steps are the same for every method, in one order. The request is received whole,
//! the guard is asked, the handler runs, the observer is told, the answer is framed; a deadline cuts
//! the way wherever it stands.
//!
//! Invariants: every call that begins is recorded as handled, once; a compressed request has a
//! compressed answer.
//!
//! What it does not do: find the handler (`router.rs`); send what a stream queues (`body.rs`).

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use prost::Message;
use tokio::time::Instant;
use varve_api::method::Method;

use super::body::{ResponseBody, StreamHandler};
use super::counters::CallRecord;
use super::frame::{Decoder, Encoded, decode};
use super::incoming::{Incoming, RequestBody};
use super::outgoing::Outgoing;
use super::request::{PeerAddress, RequestMeta};
use super::status::{Status, deadline_exceeded};
use super::transport::{error_response, grpc_response};

/// What is asked before a handler is called: who calls, and the encoded request.
pub type Guard = Rc<dyn Fn(RequestMeta, Bytes) -> GuardFuture>;

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

/// One call on its way to a handler.
pub(super) struct Call {
    pub(super) meta: RequestMeta,
    pub(super) body: RequestBody,
    /// The client sends gzip and gets it.
    pub(super) is_gzip: bool,
    pub(super) record: CallRecord,
    pub(super) guard: Option<Guard>,
    pub(super) observer: Option<Observer>,
    pub(super) message_bytes_max: usize,
    pub(super) stream_buffer_bytes_max: usize,
}

impl Call {
    /// One request, one response.
    pub(super) async fn unary<Fut>(
        self,
        run: impl FnOnce(RequestMeta, Bytes) -> Fut,
    ) -> Response<ResponseBody>
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
            Err(status) => failed(record, status),
        }
    }

    /// One request; the response ends when the handler does.
    pub(super) async fn server_stream<Req: Message + Default>(
        self,
        run: impl FnOnce(RequestMeta, Req, Outgoing) -> StreamHandler,
    ) -> Response<ResponseBody> {
        let Self {
            meta,
            body,
            is_gzip,
            record,
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
            Err(status) => failed(record, status),
        }
    }

    /// Answers at once: the handler itself reads the requests.
    pub(super) fn bidi_stream<Req: Message + Default>(
        self,
        run: impl FnOnce(RequestMeta, Incoming<Req>, Outgoing) -> StreamHandler,
    ) -> Response<ResponseBody> {
        let deadline = self.meta.deadline();
        let outgoing = Outgoing::with_encoding(self.stream_buffer_bytes_max, self.is_gzip);
        let decoder = Decoder::new(self.message_bytes_max, self.is_gzip);
        let incoming = Incoming::new(self.body, decoder, self.record.tally());
        let running = run(self.meta, incoming, outgoing.clone());
        let body = ResponseBody::stream(running, outgoing, deadline, self.record);
        grpc_response(body, self.is_gzip)
    }
}

/// The answer to a call that has come to nothing.
pub(super) fn failed(mut record: CallRecord, status: Status) -> Response<ResponseBody> {
    let response = error_response(&status);
    record.handled(&Err(status));
    response
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
