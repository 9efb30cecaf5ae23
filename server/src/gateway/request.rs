//! From a body of JSON to the messages of a call.
//!
//! One idea: a value ends where its outermost bracket closes, so one pass over the bytes finds it,
//! however they are cut. Each value is then read and leaves as gRPC frames it, so that the call
//! cannot tell that it came through the gateway.
//!
//! A method with one request takes the first value, and does not look at what follows it; no value at
//! all is a request of defaults. A method with a stream of requests takes them all. (As etcd, but
//! that etcd does not tell of a value in a stream that is wrong, and lets the client wait.)
//!
//! Invariants: `buffer` holds at most one value and what came with its end; a value is not longer
//! than `JSON_BYTES_FACTOR` times the longest message.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use varve_api::method::{Kind, Method};

use super::JsonBody;
use super::words::Words;
use crate::grpc::frame::prefix;
use crate::grpc::status::{Code, Status};

/// Base64 needs 4 bytes for 3; the rest is for names, blanks and escapes.
const JSON_BYTES_FACTOR: usize = 2;

/// The requests of one call, framed.
pub struct Messages {
    words: &'static Words,
    is_stream: bool,
    body: JsonBody,
    values: Values,
    done: bool,
}

impl Messages {
    /// Those of `method` in `body`.
    pub fn new(method: &Method, body: JsonBody, message_bytes_max: usize) -> Self {
        Self {
            words: Words::of(method),
            is_stream: method.kind == Kind::BidiStream,
            body,
            values: Values::new(json_bytes_max(message_bytes_max)),
            done: false,
        }
    }

    /// The next message, if its value is there.
    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(value) = self.values.next()? else { return Ok(None) };
        self.done = !self.is_stream;
        self.words.read(&value).map(|message| Some(framed(&message)))
    }

    /// The last message, when nothing more will come.
    fn last(&mut self) -> Result<Option<Bytes>, Status> {
        self.done = true;
        if !self.values.is_empty() {
            return Err(Status::new(Code::InvalidArgument, "unexpected EOF"));
        }
        Ok((!self.is_stream).then(|| framed(&[])))
    }
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if this.done {
                return Poll::Ready(None);
            }
            let message = match this.next() {
                Ok(None) => match ready!(this.body.as_mut().poll_frame(context)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            this.values.push(&data);
                        }
                        continue;
                    }
                    Some(Err(_gone)) => Err(Status::new(Code::Canceled, "context canceled")),
                    None => this.last(),
                },
                found => found,
            };
            this.done |= message.is_err();
            return Poll::Ready(message.transpose().map(|message| message.map(Frame::data)));
        }
    }
}

/// Longest value that can be a request of `message_bytes_max`.
pub fn json_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_mul(JSON_BYTES_FACTOR)
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = prefix(message.len()).to_vec();
    framed.extend_from_slice(message);
    framed.into()
}

/// Cuts bytes into JSON values.
struct Values {
    buffer: BytesMut,
    /// How much of `buffer` was looked at.
    seen: usize,
    /// Brackets that are open.
    depth: usize,
    in_text: bool,
    /// The byte before was a backslash in a text.
    is_escaped: bool,
    bytes_max: usize,
}

impl Values {
    fn new(bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            seen: 0,
            depth: 0,
            in_text: false,
            is_escaped: false,
            bytes_max,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether nothing of a value has come.
    fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next value, if it has come whole.
    fn next(&mut self) -> Result<Option<BytesMut>, Status> {
        if self.depth == 0 {
            let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
            let blanks = self.buffer.iter().take_while(is_blank).count();
            let _blanks = self.buffer.split_to(blanks);
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'{' | b'[') => {}
                Some(other) => return Err(no_value(*other)),
            }
        }
        while let Some(byte) = self.buffer.get(self.seen) {
            self.seen += 1;
            if self.ends_with(*byte) {
                let value = self.buffer.split_to(self.seen);
                self.seen = 0;
                return Ok(Some(value));
            }
        }
        if self.buffer.len() > self.bytes_max {
            let text = format!("a JSON value is longer than max ({})", self.bytes_max);
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(None)
    }

    /// Whether `byte` is the last of the value.
    fn ends_with(&mut self, byte: u8) -> bool {
        if self.in_text {
            self.in_text = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return false;
        }
        match byte {
            b'"' => self.in_text = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// No request begins so. The text is that of Go.
fn no_value(byte: u8) -> Status {
    let shown = char::from(byte);
    let text = format!("invalid character {shown:?} looking for beginning of value");
    Status::new(Code::InvalidArgument, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Result<Vec<String>, Status> {
        let mut values = Values::new(1_000);
        let mut found = Vec::new();
        for piece in pieces {
            values.push(piece);
            while let Some(value) = values.next()? {
                found.push(String::from_utf8(value.to_vec()).unwrap());
            }
        }
        assert!(values.is_empty());
        Ok(found)
    }

    #[test]
    fn every_cut_of_the_bytes_gives_the_same_values() {
        let values = [r#"{"a":"}\\\"]","b":[1,{}]}"#, "{}", "[]", r#"{"c":"\\"}"#];
        let text = values.join(" \n");
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let bytes = text.as_bytes();
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(cut(&pieces).unwrap(), values, "cuts at {first} and {second}");
            }
        }
    }

    #[test]
    fn what_begins_no_value_is_refused_at_once() {
        for (text, shown) in [("xyz", "'x'"), ("{}5", "'5'"), ("}", "'}'"), ("\"a\"", "'\"'")] {
            let status = cut(&[text.as_bytes()]).unwrap_err();
            let wanted = format!("invalid character {shown} looking for beginning of value");
            assert_eq!((status.code, &*status.message), (Code::InvalidArgument, &*wanted));
        }
    }

    #[test]
    fn a_value_without_end_is_bounded() {
        let long = format!("{{\"a\":\"{}", "b".repeat(1_000));
        assert_eq!(cut(&[long.as_bytes()]).unwrap_err().code, Code::ResourceExhausted);
    }
}
