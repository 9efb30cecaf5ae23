//! The response body that hyper polls: nothing, plain bytes, one message, a running stream, or a
//! translation of one of them.
//!
//! One idea: the body of a streaming response *owns* the handler's future. hyper polls the body
//! until it is pending; the body hands out what is queued and then lets the handler run. So a call
//! is one task, and dropping the body (reset, lost connection) drops the handler.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::counters::CallRecord;
use super::frame::Encoded;
use super::outgoing::Outgoing;
use super::status::{Status, deadline_exceeded, trailers};

/// A handler of a stream, running.
pub(super) type StreamHandler = Pin<Box<dyn Future<Output = Result<(), Status>>>>;

/// What the server sends after its response headers. `!Send`.
pub struct ResponseBody(Kind);

enum Kind {
    /// Nothing: a response whose headers say it all.
    Empty,
    /// Plain HTTP.
    Plain(Option<Bytes>),
    /// One message, then the trailers of success.
    Single { first: Option<Bytes>, rest: VecDeque<Bytes>, trailers: Option<HeaderMap> },
    /// A stream.
    Stream(Box<Stream>),
    /// What somebody else makes of another body.
    Translated(Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>),
}

struct Stream {
    handler: Option<StreamHandler>,
    outgoing: Outgoing,
    deadline: Option<Pin<Box<Sleep>>>,
    record: CallRecord,
    done: bool,
}

impl ResponseBody {
    /// No body.
    pub fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// The body of a plain HTTP response.
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Plain(Some(bytes.into())))
    }

    /// A body of somebody else's making, of unknown length.
    pub fn translated(body: impl Body<Data = Bytes, Error = Infallible> + 'static) -> Self {
        Self(Kind::Translated(Box::pin(body)))
    }

    pub(super) fn single(message: Encoded) -> Self {
        let mut parts = message.into_parts();
        let first = parts.next();
        Self(Kind::Single { first, rest: parts.collect(), trailers: Some(trailers(&Ok(()))) })
    }

    pub(super) fn stream(
        handler: StreamHandler,
        outgoing: Outgoing,
        deadline: Option<Instant>,
        record: CallRecord,
    ) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        Self(Kind::Stream(Box::new(Stream {
            handler: Some(handler),
            outgoing,
            deadline,
            record,
            done: false,
        })))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match &mut self.get_mut().0 {
            Kind::Empty => None,
            Kind::Plain(bytes) => bytes.take().map(Frame::data),
            Kind::Single { first, rest, trailers } => match first.take() {
                Some(part) => Some(Frame::data(part)),
                None => match rest.pop_front() {
                    Some(part) => Some(Frame::data(part)),
                    None => trailers.take().map(Frame::trailers),
                },
            },
            Kind::Stream(stream) => return stream.poll_frame(context),
            Kind::Translated(body) => return body.as_mut().poll_frame(context),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Plain(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Single { trailers, .. } => trailers.is_none(),
            Kind::Stream(stream) => stream.done,
            Kind::Translated(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Plain(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            // An exact hint would become a content-length, which gRPC responses do not have.
            Kind::Single { .. } | Kind::Stream(_) | Kind::Translated(_) => SizeHint::default(),
        }
    }
}

impl Stream {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if self.done {
                return Poll::Ready(None);
            }
            if let Some(chunk) = self.outgoing.take_chunk() {
                self.record.sent(self.outgoing.take_message_count(), chunk.len());
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if let Some(outcome) = self.outgoing.take_outcome() {
                self.done = true;
                self.handler = None;
                self.record.handled(&outcome);
                return Poll::Ready(Some(Ok(Frame::trailers(trailers(&outcome)))));
            }
            if let Some(handler) = &mut self.handler
                && let Poll::Ready(outcome) = handler.as_mut().poll(context)
            {
                self.handler = None;
                self.outgoing.finish(outcome);
            }
            if let Some(deadline) = &mut self.deadline
                && deadline.as_mut().poll(context).is_ready()
            {
                self.deadline = None;
                self.outgoing.abort(deadline_exceeded());
            }
            std::task::ready!(self.outgoing.poll_work(context));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The handler first: it may still look at its `Outgoing`.
        self.handler = None;
        self.outgoing.close();
    }
}
