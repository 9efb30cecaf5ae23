//! Length-prefixed messages: one flag byte, four bytes of length (big-endian), the message.
//!
//! One idea: a message that arrives in one piece is never copied (a `Bytes` slice of the received
//! frame), and a message that leaves is encoded once into a buffer of the exact size.
//!
//! Source: the gRPC over HTTP/2 protocol, `Length-Prefixed-Message`; error texts are grpc-go's,
//! because etcd's clients and tests compare them.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes};
use prost::Message;

use super::gzip;
use super::status::{Code, Status};
use crate::limits;

/// Bytes before every message: the compressed flag and the length.
pub const PREFIX_BYTES: usize = 5;

/// The flag of a compressed message.
const IS_COMPRESSED: u8 = 1;

/// One message with its prefix, ready for the socket, in one or more parts.
///
/// A part is shared by reference count: an event that is encoded once can be a part of the
/// messages of many watchers.
///
/// Invariants: the first five bytes of `head` are the prefix, and its length field is the number
/// of all bytes after it, over all parts.
#[derive(Clone, Debug)]
pub struct Encoded {
    head: Bytes,
    rest: Vec<Bytes>,
}

impl Encoded {
    /// Encodes a protobuf message.
    pub fn message(message: &impl Message) -> Self {
        let length = message.encoded_len();
        Self::written(length, |buffer| {
            message
                .encode(buffer)
                .expect("a Vec grows, so encoding into it cannot run out of room");
        })
    }

    /// Encodes a message whose length its client decides.
    ///
    /// # Errors
    /// It is longer than a gRPC client takes: `ResourceExhausted` with grpc-go's text.
    pub fn bounded(message: &impl Message) -> Result<Self, Status> {
        check_length(message.encoded_len())?;
        Ok(Self::message(message))
    }

    /// Lets `write` append exactly `length` bytes of message after the prefix.
    pub fn written(length: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut buffer = Vec::with_capacity(PREFIX_BYTES + length);
        buffer.extend_from_slice(&prefix(length));
        write(&mut buffer);
        assert_eq!(buffer.len(), PREFIX_BYTES + length, "a message must have its announced length");
        Self { head: buffer.into(), rest: Vec::new() }
    }

    /// A message made of parts that are already encoded; `head` is copied behind the prefix
    /// (it is expected to be small: a response header), `rest` is shared.
    ///
    /// Concatenated protobuf encodings of parts of a message are an encoding of the message.
    pub fn parts(head: &[u8], rest: Vec<Bytes>) -> Self {
        let length = head.len() + rest.iter().map(Bytes::len).sum::<usize>();
        let mut buffer = Vec::with_capacity(PREFIX_BYTES + head.len());
        buffer.extend_from_slice(&prefix(length));
        buffer.extend_from_slice(head);
        Self { head: buffer.into(), rest }
    }

    /// The same message compressed; an empty one is not worth it (as in grpc-go).
    pub fn compressed(self) -> Self {
        if self.len() == PREFIX_BYTES {
            return self;
        }
        let rest = self.rest.iter().map(|part| part.as_ref());
        let message = gzip::compress(std::iter::once(&self.head[PREFIX_BYTES..]).chain(rest));
        let mut prefix = prefix(message.len());
        prefix[0] = IS_COMPRESSED;
        Self { head: Bytes::copy_from_slice(&prefix), rest: vec![message.into()] }
    }

    /// Bytes on the wire, prefix included.
    pub fn len(&self) -> usize {
        self.head.len() + self.rest.iter().map(Bytes::len).sum::<usize>()
    }

    /// Never: a message has at least its prefix.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The parts in order.
    pub fn into_parts(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.head).chain(self.rest)
    }
}

fn check_length(length: usize) -> Result<(), Status> {
    let length_max = limits::RESPONSE_BYTES_MAX;
    if length <= length_max {
        return Ok(());
    }
    let text = format!("grpc: trying to send message larger than max ({length} vs. {length_max})");
    Err(Status::new(Code::ResourceExhausted, text))
}

/// The prefix of an uncompressed message of `length` bytes.
///
/// # Panics
/// If the length does not fit 32 bits; messages are bounded far below (`limits.rs`).
pub fn prefix(length: usize) -> [u8; PREFIX_BYTES] {
    let length = u32::try_from(length).expect("messages are bounded far below 4 GiB");
    let [a, b, c, d] = length.to_be_bytes();
    [0, a, b, c, d]
}

/// Cuts a sequence of received chunks into messages.
///
/// Invariants: `partial` is empty or holds the beginning of exactly one message that did not
/// arrive in one chunk; `chunks` holds no empty chunk; what is buffered is at most one message of
/// the maximal size plus what the peer's flow-control window allows.
#[derive(Debug)]
pub struct Decoder {
    message_bytes_max: usize,
    /// The client may send messages in gzip.
    is_gzip: bool,
    chunks: VecDeque<Bytes>,
    partial: Vec<u8>,
    /// Length of the message in `partial`, once its prefix is complete.
    partial_length: Option<usize>,
}

impl Decoder {
    /// A decoder that refuses messages longer than `message_bytes_max`, compressed or not.
    /// Compressed ones are taken only with `is_gzip`.
    pub fn new(message_bytes_max: usize, is_gzip: bool) -> Self {
        Self {
            message_bytes_max,
            is_gzip,
            chunks: VecDeque::new(),
            partial: Vec::new(),
            partial_length: None,
        }
    }

    /// Appends what was received.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// True if a message has begun and not ended: the end of the stream here is an error.
    pub fn is_mid_message(&self) -> bool {
        !self.partial.is_empty() || !self.chunks.is_empty()
    }

    /// The next whole message, without its prefix and decompressed; `None` if more has to be received.
    ///
    /// # Errors
    /// ResourceExhausted if the message is longer than the limit, Internal if it is flagged as
    /// compressed and must not be, or is no gzip, or has an unknown flag. The stream is then
    /// unusable.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.is_empty() {
            let Some(chunk) = self.chunks.front_mut() else { return Ok(None) };
            if chunk.len() >= PREFIX_BYTES {
                let length = check_prefix(chunk, self.message_bytes_max, self.is_gzip)?;
                if chunk.len() - PREFIX_BYTES >= length {
                    let message = chunk.split_to(PREFIX_BYTES + length);
                    if chunk.is_empty() {
                        self.chunks.pop_front();
                    }
                    return self.open(message).map(Some);
                }
            }
        }
        self.gather()
    }

    /// Copies chunks until the message in `partial` is whole.
    fn gather(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if self.partial_length.is_none() && self.partial.len() >= PREFIX_BYTES {
                let bytes_max = self.message_bytes_max;
                let length = check_prefix(&self.partial, bytes_max, self.is_gzip)?;
                self.partial_length = Some(length);
            }
            // The announced length is not trusted with memory: `partial` grows as bytes arrive.
            let wanted = self.partial_length.map_or(PREFIX_BYTES, |length| PREFIX_BYTES + length);
            assert!(self.partial.len() <= wanted, "{} > {wanted}", self.partial.len());
            if self.partial_length.is_some() && self.partial.len() == wanted {
                self.partial_length = None;
                let message = Bytes::from(std::mem::take(&mut self.partial));
                return self.open(message).map(Some);
            }
            let Some(chunk) = self.chunks.front_mut() else { return Ok(None) };
            let taken = chunk.split_to(chunk.len().min(wanted - self.partial.len()));
            self.partial.put_slice(&taken);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    /// Takes the prefix off, and the compression.
    fn open(&self, mut message: Bytes) -> Result<Bytes, Status> {
        let prefix = message.split_to(PREFIX_BYTES);
        match prefix[0] {
            IS_COMPRESSED => Ok(gzip::decompress(&message, self.message_bytes_max)?.into()),
            _ => Ok(message),
        }
    }
}

/// Checks flag and length of a prefix; gives the length.
fn check_prefix(prefix: &[u8], message_bytes_max: usize, is_gzip: bool) -> Result<usize, Status> {
    let announced = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    let length = announced as usize;
    if length > message_bytes_max {
        return Err(Status::new(
            Code::ResourceExhausted,
            format!("grpc: received message larger than max ({length} vs. {message_bytes_max})"),
        ));
    }
    match prefix[0] {
        0 => Ok(length),
        IS_COMPRESSED if is_gzip => Ok(length),
        IS_COMPRESSED => Err(Status::new(
            Code::Internal,
            "grpc: compressed flag set with identity or empty encoding",
        )),
        flag => Err(Status::new(
            Code::Internal,
            format!("grpc: received unexpected payload format {flag}"),
        )),
    }
}

/// Decodes a protobuf message.
///
/// # Errors
/// Internal with grpc-go's text if the bytes are not an encoding of the message.
pub fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes).map_err(|error| not_unmarshalled(&error))
}

/// The status of bytes that are not the message that they should be.
pub fn not_unmarshalled(error: &prost::DecodeError) -> Status {
    let text = format!("grpc: failed to unmarshal the received message: {error}");
    Status::new(Code::Internal, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_no_client_takes_is_an_error_and_not_the_end_of_the_server() {
        let longest = limits::RESPONSE_BYTES_MAX;
        assert_eq!(check_length(longest), Ok(()));
        let status = check_length(longest + 1).unwrap_err();
        assert_eq!(status.code, Code::ResourceExhausted);
        let text = "grpc: trying to send message larger than max (2147483648 vs. 2147483647)";
        assert_eq!(status.message, text);
    }

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        let mut wire = Vec::new();
        for message in messages {
            wire.extend_from_slice(&prefix(message.len()));
            wire.extend_from_slice(message);
        }
        wire
    }

    fn drain(decoder: &mut Decoder) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let Some(message) = decoder.next_message().expect("well-formed") {
            messages.push(message.to_vec());
        }
        messages
    }

    #[test]
    fn every_cut_of_the_wire_gives_the_same_messages() {
        let messages: [&[u8]; 4] = [b"first", b"", b"a longer third message", b"x"];
        let wire = framed(&messages);
        for first_cut in 0..=wire.len() {
            for second_cut in first_cut..=wire.len() {
                let mut decoder = Decoder::new(100, false);
                let mut found = Vec::new();
                for piece in [&wire[..first_cut], &wire[first_cut..second_cut], &wire[second_cut..]]
                {
                    decoder.push(Bytes::copy_from_slice(piece));
                    found.extend(drain(&mut decoder));
                }
                assert_eq!(found, messages, "cuts at {first_cut} and {second_cut}");
                assert!(!decoder.is_mid_message());
            }
        }
    }

    #[test]
    fn a_message_in_one_chunk_is_not_copied() {
        let chunk = Bytes::from(framed(&[b"hello", b"world"]));
        let mut decoder = Decoder::new(100, false);
        decoder.push(chunk.clone());
        let first = decoder.next_message().unwrap().unwrap();
        assert_eq!(first.as_ptr(), chunk[PREFIX_BYTES..].as_ptr());
    }

    #[test]
    fn a_message_over_the_limit_is_refused_at_its_prefix() {
        for chunks in [vec![&[0u8, 0, 0, 0, 9][..]], vec![&[0u8, 0][..], &[0u8, 0, 9][..]]] {
            let mut decoder = Decoder::new(8, false);
            for chunk in chunks {
                decoder.push(Bytes::copy_from_slice(chunk));
                let _not_yet = decoder.next_message();
            }
            decoder.push(Bytes::from_static(b"123456789"));
            let status = decoder.next_message().unwrap_err();
            assert_eq!(status.code, Code::ResourceExhausted);
            assert_eq!(status.message, "grpc: received message larger than max (9 vs. 8)");
        }
    }

    #[test]
    fn compressed_and_unknown_flags_are_refused() {
        for (flag, code) in [(1u8, Code::Internal), (7, Code::Internal)] {
            let mut decoder = Decoder::new(8, false);
            decoder.push(Bytes::copy_from_slice(&[flag, 0, 0, 0, 0]));
            assert_eq!(decoder.next_message().unwrap_err().code, code);
        }
    }

    #[test]
    fn an_encoded_message_of_parts_announces_the_sum_of_its_parts() {
        let encoded = Encoded::parts(b"head", vec![Bytes::from_static(b"tail"); 2]);
        let wire: Vec<u8> = encoded.into_parts().flatten().collect();
        assert_eq!(wire, framed(&[b"headtailtail"]));
    }
}
