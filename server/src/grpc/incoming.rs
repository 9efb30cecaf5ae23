//! The receiving direction of a call: messages out of a hyper body.
//!
//! One idea: flow control is the back-pressure. Nothing is read ahead of `next`, so a handler that
//! does not ask lets the client run into its window.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;

use bytes::Bytes;
use http_body::{Body, Frame};
use prost::Message;
use tokio::sync::mpsc;

use super::counters::Tally;
use super::frame::{Decoder, PREFIX_BYTES, decode};
use super::status::{Code, Status};

/// Where the messages of a call come from, as gRPC frames them.
pub enum RequestBody {
    /// From a client that speaks gRPC.
    Http(hyper::body::Incoming),
    /// From whatever translates another language into gRPC.
    Translated(Pin<Box<dyn Body<Data = Bytes, Error = Status>>>),
}

impl RequestBody {
    async fn chunk(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        match self {
            Self::Http(body) if body.is_end_stream() => None,
            Self::Http(body) => poll_fn(|context| Pin::new(&mut *body).poll_frame(context))
                .await
                .map(|frame| frame.map_err(|_| Status::new(Code::Canceled, "context canceled"))),
            Self::Translated(body) => poll_fn(|context| body.as_mut().poll_frame(context)).await,
        }
    }
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RequestBody")
    }
}

/// The messages of a client stream, in order.
///
/// Invariants: after an error or the end, `next` gives `None` for ever.
#[derive(Debug)]
pub struct Incoming<M> {
    source: Source,
    decoder: Decoder,
    /// Only connections are counted.
    tally: Option<Tally>,
    done: bool,
    message: PhantomData<fn() -> M>,
}

/// Where the bytes come from.
#[derive(Debug)]
enum Source {
    /// A connection.
    Body(RequestBody),
    /// A caller on the same thread, without a connection between.
    Local(mpsc::Receiver<Bytes>),
}

/// What is said when the stream ends within a message.
const UNEXPECTED_END: &str = "unexpected EOF";

impl<M> Incoming<M> {
    pub(super) fn new(body: RequestBody, decoder: Decoder, tally: Tally) -> Self {
        Self {
            source: Source::Body(body),
            decoder,
            tally: Some(tally),
            done: false,
            message: PhantomData,
        }
    }

    /// The messages of a caller on this thread, each as [`super::Encoded`] has it on the wire.
    pub fn local(chunks: mpsc::Receiver<Bytes>, message_bytes_max: usize) -> Self {
        let decoder = Decoder::new(message_bytes_max, false);
        Self {
            source: Source::Local(chunks),
            decoder,
            tally: None,
            done: false,
            message: PhantomData,
        }
    }

    /// The next message, undecoded; `None` when the client has half-closed the stream.
    /// Cancel-safe: no message is lost if the future is dropped.
    pub async fn next_raw(&mut self) -> Option<Result<Bytes, Status>> {
        while !self.done {
            match self.decoder.next_message() {
                Ok(Some(message)) => {
                    if let Some(tally) = &self.tally {
                        tally.received(PREFIX_BYTES + message.len());
                    }
                    return Some(Ok(message));
                }
                Ok(None) => {}
                Err(status) => {
                    self.done = true;
                    return Some(Err(status));
                }
            }
            match self.read().await {
                Ok(true) => {}
                Ok(false) => {
                    self.done = true;
                    if self.decoder.is_mid_message() {
                        return Some(Err(Status::new(Code::Internal, UNEXPECTED_END)));
                    }
                }
                Err(status) => {
                    self.done = true;
                    return Some(Err(status));
                }
            }
        }
        None
    }

    /// The only message of a unary call.
    ///
    /// # Errors
    /// Internal with grpc-go's texts if there is none or more than one.
    pub(super) async fn single(&mut self) -> Result<Bytes, Status> {
        let Some(first) = self.next_raw().await else {
            return Err(Status::new(
                Code::Internal,
                "cardinality violation: received no request message from non-client-streaming RPC",
            ));
        };
        let message = first.map_err(cut_off)?;
        if self.next_raw().await.is_some() {
            return Err(Status::new(
                Code::Internal,
                "cardinality violation: received multiple request messages for \
                 non-client-streaming RPC",
            ));
        }
        Ok(message)
    }

    /// Feeds the decoder with one more chunk; false at the end of the stream.
    async fn read(&mut self) -> Result<bool, Status> {
        let body = match &mut self.source {
            Source::Body(body) => body,
            Source::Local(chunks) => {
                let chunk = chunks.recv().await;
                return Ok(chunk.map(|chunk| self.decoder.push(chunk)).is_some());
            }
        };
        loop {
            let Some(frame) = body.chunk().await else { return Ok(false) };
            // Trailers of a request carry nothing in gRPC.
            if let Ok(data) = frame?.into_data() {
                self.decoder.push(data);
                return Ok(true);
            }
        }
    }
}

impl<M: Message + Default> Incoming<M> {
    /// The next message; `None` when the client has half-closed the stream.
    ///
    /// An error is final: return it from the handler. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<M, Status>> {
        let result = self.next_raw().await?;
        let decoded = result.and_then(decode);
        self.done |= decoded.is_err();
        Some(decoded)
    }
}

/// grpc-go has no code for a unary call whose message is cut off, but has one for a stream.
fn cut_off(status: Status) -> Status {
    match status.message.as_ref() {
        UNEXPECTED_END if status.code == Code::Internal => {
            Status::new(Code::Unknown, UNEXPECTED_END)
        }
        _ => status,
    }
}
