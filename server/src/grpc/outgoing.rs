//! The sending direction of a stream: a queue of encoded messages, bounded in bytes.
//!
//! One idea: producers on the socket thread (the handler itself, or a watch hub that holds a clone)
//! append parts; the response body takes them out whenever hyper asks. Small parts are then copied
//! together into one DATA frame (cheaper than a frame each); large parts go out as they are.
//!
//! Full: `try_send` gives the message back, `send` waits until the client has read. A message
//! larger than the bound is accepted when the queue is empty, so that progress is always possible.
//!
//! Invariants: `bytes` is the sum of the queued parts; a message's parts are queued as a whole;
//! after `finish` or `closed` nothing is queued.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::frame::{Encoded, PREFIX_BYTES, prefix};
use super::status::Status;

/// Parts up to this size are copied together; a DATA frame of its own costs more than the copy.
const PART_COPY_BYTES_MAX: usize = 4 * 1024;
/// A gathered DATA chunk ends before it would exceed this; HTTP/2 frames are 16 KiB by default.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// The stream is gone: reset by the client, connection lost, or already finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream is closed")]
pub struct Closed;

/// Why a message was not queued.
#[derive(Debug)]
pub enum TrySendError {
    /// The client does not read fast enough; here is the message.
    Full(Encoded),
    /// Nobody will read it.
    Closed,
}

/// Why shared parts were not queued; nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryPartsError {
    /// The client does not read fast enough.
    Full,
    /// Nobody will read it.
    Closed,
}

/// Handle to the sending direction; clones are the same stream. `!Send`.
#[derive(Clone, Debug)]
pub struct Outgoing(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    parts: VecDeque<Part>,
    bytes: usize,
    bytes_max: usize,
    /// Messages go out compressed.
    is_gzip: bool,
    /// Messages queued since the body last asked.
    messages: u64,
    /// Set by `finish`: the queue is flushed, then the status is sent.
    outcome: Option<Result<(), Status>>,
    /// The body is gone.
    closed: bool,
    /// The task that polls the body.
    reader: Option<Waker>,
    /// Tasks that wait for room or for the end.
    waiters: Vec<Waker>,
}

#[derive(Debug)]
enum Part {
    Prefix([u8; PREFIX_BYTES]),
    Bytes(Bytes),
}

impl Part {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Prefix(prefix) => prefix,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Outgoing {
    /// As [`Outgoing::with_encoding`], uncompressed.
    #[cfg(test)]
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self::with_encoding(bytes_max, false)
    }

    /// A queue that holds at most `bytes_max` bytes (or one larger message); with `is_gzip` for a
    /// client that sends gzip and is answered so.
    pub fn with_encoding(bytes_max: usize, is_gzip: bool) -> Self {
        Self(Rc::new(RefCell::new(State {
            parts: VecDeque::new(),
            bytes: 0,
            bytes_max,
            is_gzip,
            messages: 0,
            outcome: None,
            closed: false,
            reader: None,
            waiters: Vec::new(),
        })))
    }

    /// Queues a message, waiting until there is room.
    ///
    /// # Errors
    /// `Closed` if the stream ended before there was room.
    pub async fn send(&self, message: Encoded) -> Result<(), Closed> {
        let mut message = Some(message);
        poll_fn(|context| {
            let unsent = message.take().expect("a future is not polled after it was ready");
            match self.try_send(unsent) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(TrySendError::Closed) => Poll::Ready(Err(Closed)),
                Err(TrySendError::Full(unsent)) => {
                    message = Some(unsent);
                    self.0.borrow_mut().wait(context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Queues a message if there is room now.
    ///
    /// # Errors
    /// `Full` returns the message; `Closed` drops it.
    pub fn try_send(&self, message: Encoded) -> Result<(), TrySendError> {
        let state = &mut *self.0.borrow_mut();
        match state.room_for(message.len()) {
            Ok(()) => {
                state.push(message);
                Ok(())
            }
            Err(TryPartsError::Full) => Err(TrySendError::Full(message)),
            Err(TryPartsError::Closed) => Err(TrySendError::Closed),
        }
    }

    /// Queues a message whether or not there is room: the continuation of one that had room
    /// (fragments of one watch response), or a small answer to a request that was taken while there
    /// was room. Dropped when nobody will read it.
    pub fn append(&self, message: Encoded) {
        let state = &mut *self.0.borrow_mut();
        if state.closed || state.outcome.is_some() {
            return;
        }
        state.push(message);
    }

    /// Queues one message made of `head` and then `shared` parts if there is room now; the parts
    /// are shared by reference count. The hot path of watch: no allocation but the queue's own.
    ///
    /// # Errors
    /// Nothing is queued then.
    pub fn try_send_parts(&self, head: Bytes, shared: &[Bytes]) -> Result<(), TryPartsError> {
        let length = head.len() + shared.iter().map(Bytes::len).sum::<usize>();
        let state = &mut *self.0.borrow_mut();
        state.room_for(PREFIX_BYTES + length)?;
        if state.is_gzip {
            state.push(Encoded::parts(&head, shared.to_vec()));
            return Ok(());
        }
        state.bytes += PREFIX_BYTES + length;
        state.messages += 1;
        state.parts.push_back(Part::Prefix(prefix(length)));
        state.parts.push_back(Part::Bytes(head));
        state.parts.extend(shared.iter().cloned().map(Part::Bytes));
        state.wake_reader();
        Ok(())
    }

    /// Bytes queued here and not yet handed to HTTP/2 (which buffers up to its own limit).
    pub fn buffered_bytes(&self) -> usize {
        self.0.borrow().bytes
    }

    /// Waits until at most half of the bound is queued.
    ///
    /// # Errors
    /// `Closed` if the stream ended first.
    pub async fn ready(&self) -> Result<(), Closed> {
        poll_fn(|context| {
            let state = &mut *self.0.borrow_mut();
            if state.closed || state.outcome.is_some() {
                return Poll::Ready(Err(Closed));
            }
            if state.bytes <= state.bytes_max / 2 {
                return Poll::Ready(Ok(()));
            }
            state.wait(context);
            Poll::Pending
        })
        .await
    }

    /// Waits until `try_send` would take a message of `bytes`.
    ///
    /// # Errors
    /// `Closed` if the stream ended first.
    pub async fn room(&self, bytes: usize) -> Result<(), Closed> {
        poll_fn(|context| {
            let state = &mut *self.0.borrow_mut();
            match state.room_for(bytes) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(TryPartsError::Closed) => Poll::Ready(Err(Closed)),
                Err(TryPartsError::Full) => {
                    state.wait(context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Ends the call from outside its handler: what is queued goes out, then the status; the
    /// handler is dropped. The first outcome counts.
    pub fn finish(&self, outcome: Result<(), Status>) {
        let state = &mut *self.0.borrow_mut();
        if state.outcome.is_none() {
            state.outcome = Some(outcome);
            state.wake_reader();
            state.wake_waiters();
        }
    }

    /// As `finish` with an error, but what is queued is thrown away. Without effect on a call that
    /// has an outcome: what belongs to it is still sent.
    pub fn abort(&self, status: Status) {
        {
            let state = &mut *self.0.borrow_mut();
            if state.outcome.is_some() {
                return;
            }
            state.parts.clear();
            state.bytes = 0;
        }
        self.finish(Err(status));
    }

    /// True if nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        let state = self.0.borrow();
        state.closed || state.outcome.is_some()
    }

    /// Waits until nothing can be sent any more.
    pub async fn closed(&self) {
        poll_fn(|context| {
            if self.is_closed() {
                return Poll::Ready(());
            }
            self.0.borrow_mut().wait(context);
            Poll::Pending
        })
        .await;
    }

    /// For the body: the next DATA chunk, if anything is queued.
    pub fn take_chunk(&self) -> Option<Bytes> {
        let state = &mut *self.0.borrow_mut();
        let chunk = state.take_chunk()?;
        if state.bytes <= state.bytes_max / 2 {
            state.wake_waiters();
        }
        Some(chunk)
    }

    /// For the body: messages queued since it last asked, for the counters.
    pub(super) fn take_message_count(&self) -> u64 {
        std::mem::take(&mut self.0.borrow_mut().messages)
    }

    /// For the body: the outcome, once everything queued was taken.
    pub(super) fn take_outcome(&self) -> Option<Result<(), Status>> {
        let state = self.0.borrow();
        if state.parts.is_empty() { state.outcome.clone() } else { None }
    }

    /// For the body: has something to be sent arrived? If not, `context` is woken when it does.
    pub(super) fn poll_work(&self, context: &Context<'_>) -> Poll<()> {
        let state = &mut *self.0.borrow_mut();
        if !state.parts.is_empty() || state.outcome.is_some() {
            return Poll::Ready(());
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// For the body: it is dropped.
    pub fn close(&self) {
        let state = &mut *self.0.borrow_mut();
        state.closed = true;
        state.parts.clear();
        state.bytes = 0;
        state.wake_waiters();
    }
}

impl State {
    fn push(&mut self, message: Encoded) {
        let message = if self.is_gzip { message.compressed() } else { message };
        self.bytes += message.len();
        self.messages += 1;
        self.parts.extend(message.into_parts().map(Part::Bytes));
        self.wake_reader();
    }

    fn room_for(&self, bytes: usize) -> Result<(), TryPartsError> {
        if self.closed || self.outcome.is_some() {
            Err(TryPartsError::Closed)
        } else if self.bytes > 0 && self.bytes + bytes > self.bytes_max {
            Err(TryPartsError::Full)
        } else {
            Ok(())
        }
    }

    fn take_chunk(&mut self) -> Option<Bytes> {
        let first = self.parts.front()?;
        if first.as_slice().len() > PART_COPY_BYTES_MAX || self.parts.len() == 1 {
            // Large, or alone: as it is.
            if let Some(Part::Bytes(bytes)) =
                self.parts.pop_front_if(|part| matches!(part, Part::Bytes(_)))
            {
                self.took(bytes.len());
                return Some(bytes);
            }
        }
        let mut gathered = Vec::with_capacity(self.bytes.min(CHUNK_BYTES_MAX));
        while let Some(part) = self.parts.front() {
            let slice = part.as_slice();
            let is_large = slice.len() > PART_COPY_BYTES_MAX;
            if !gathered.is_empty() && (is_large || gathered.len() + slice.len() > CHUNK_BYTES_MAX)
            {
                break;
            }
            gathered.extend_from_slice(slice);
            self.parts.pop_front();
        }
        self.took(gathered.len());
        Some(gathered.into())
    }

    fn took(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes, "took {bytes} of {} queued bytes", self.bytes);
        self.bytes -= bytes;
    }

    fn wait(&mut self, context: &Context<'_>) {
        if !self.waiters.iter().any(|waiter| waiter.will_wake(context.waker())) {
            self.waiters.push(context.waker().clone());
        }
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wake_waiters(&mut self) {
        for waiter in self.waiters.drain(..) {
            waiter.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Code;

    fn message(length: usize) -> Encoded {
        Encoded::parts(&vec![7; length], Vec::new())
    }

    #[test]
    fn small_parts_leave_together_and_large_ones_as_they_are() {
        let outgoing = Outgoing::new(1 << 20);
        let large = Bytes::from(vec![9; PART_COPY_BYTES_MAX + 1]);
        outgoing.try_send(message(10)).unwrap();
        outgoing.try_send_parts(Bytes::from_static(b"head"), std::slice::from_ref(&large)).unwrap();
        outgoing.try_send(message(20)).unwrap();
        assert_eq!(outgoing.take_message_count(), 3);
        let first = outgoing.take_chunk().unwrap();
        assert_eq!(first.len(), PREFIX_BYTES + 10 + PREFIX_BYTES + 4);
        let second = outgoing.take_chunk().unwrap();
        assert_eq!((second.len(), second.as_ptr()), (large.len(), large.as_ptr()));
        assert_eq!(outgoing.take_chunk().unwrap().len(), PREFIX_BYTES + 20);
        assert!(outgoing.take_chunk().is_none());
        assert_eq!(outgoing.buffered_bytes(), 0);
    }

    #[test]
    fn a_gathered_chunk_is_bounded() {
        let outgoing = Outgoing::new(1 << 20);
        for _ in 0..300 {
            outgoing.try_send(message(1_000)).unwrap();
        }
        let mut total = 0;
        while let Some(chunk) = outgoing.take_chunk() {
            assert!(chunk.len() <= CHUNK_BYTES_MAX, "{}", chunk.len());
            total += chunk.len();
        }
        assert_eq!(total, 300 * (PREFIX_BYTES + 1_000));
    }

    #[test]
    fn a_full_queue_gives_back_and_an_empty_one_takes_anything() {
        let outgoing = Outgoing::new(100);
        outgoing.try_send(message(5_000)).unwrap();
        assert!(matches!(outgoing.try_send(message(1)), Err(TrySendError::Full(_))));
        let parts = outgoing.try_send_parts(Bytes::new(), &[]);
        assert_eq!(parts, Err(TryPartsError::Full));
        outgoing.take_chunk().unwrap();
        outgoing.try_send(message(1)).unwrap();
    }

    #[test]
    fn the_first_outcome_counts_and_comes_after_what_was_queued() {
        let outgoing = Outgoing::new(100);
        outgoing.try_send(message(1)).unwrap();
        outgoing.finish(Ok(()));
        outgoing.abort(Status::new(Code::DeadlineExceeded, "too late"));
        assert!(matches!(outgoing.try_send(message(1)), Err(TrySendError::Closed)));
        assert_eq!(outgoing.take_outcome(), None);
        assert!(outgoing.take_chunk().is_some());
        assert_eq!(outgoing.take_outcome(), Some(Ok(())));
    }
}
