//! The frames of a peer stream: docs/FORMAT.md section 5.
//!
//! `{ length u32, kind u8, crc32 u32, payload }`, little-endian; the checksum covers kind and
//! payload. The first frame of a stream is a hello that both sides check before anything else is
//! believed. Every length is bounded before memory is taken for it.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits;

/// First bytes of every hello.
pub const MAGIC: [u8; 8] = *b"varvpeer";
/// Version of the stream format.
pub const VERSION: u16 = 2;
/// What a member that was removed is told, here and in its log: etcd's words.
pub const REMOVED: &str = "the member has been permanently removed from the cluster";
/// Bytes before the payload.
const HEADER_BYTES: usize = 9;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Opens a stream: [`Hello`].
    Hello = 1,
    /// A Raft message, as `raftnode` encodes it.
    Raft = 2,
    /// Asks the leader about a lease: [`LeaseQuestion`].
    LeaseQuestion = 3,
    /// The leader's answer: [`LeaseAnswer`].
    LeaseAnswer = 4,
    /// Opens a snapshot transfer: the engine's manifest and the list of files.
    SnapshotOffer = 5,
    /// The receiver's answer: which files it wants.
    SnapshotWanted = 6,
    /// A piece of a file.
    SnapshotChunk = 7,
    /// All was sent; carries the Raft message that announces the snapshot.
    SnapshotEnd = 8,
    /// The receiver has taken the snapshot over.
    SnapshotDone = 9,
    /// The other side refuses; carries a sentence that says why.
    Refused = 10,
    /// Asks the leader to change the membership: [`super::call::Call`].
    Call = 11,
    /// The leader's answer: [`super::call::CallAnswer`].
    CallAnswer = 12,
    /// Who belongs to the cluster: an `etcdserverpb.MemberListResponse`.
    Members = 13,
    /// Asks for the hash of a member's keys: [`super::hash::HashQuestion`].
    HashQuestion = 14,
    /// The answer: [`super::hash::HashAnswer`].
    HashAnswer = 15,
    /// The leader asks a member to send a snapshot in its name: `super::lend`.
    SnapshotAsked = 16,
    /// What has become of it.
    SnapshotTold = 17,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Raft,
            3 => Self::LeaseQuestion,
            4 => Self::LeaseAnswer,
            5 => Self::SnapshotOffer,
            6 => Self::SnapshotWanted,
            7 => Self::SnapshotChunk,
            8 => Self::SnapshotEnd,
            9 => Self::SnapshotDone,
            10 => Self::Refused,
            11 => Self::Call,
            12 => Self::CallAnswer,
            13 => Self::Members,
            14 => Self::HashQuestion,
            15 => Self::HashAnswer,
            16 => Self::SnapshotAsked,
            17 => Self::SnapshotTold,
            _ => return None,
        })
    }
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamKind {
    /// Small messages and lease questions.
    Small = 1,
    /// Appends with entries.
    Bulk = 2,
    /// One snapshot transfer.
    Snapshot = 3,
    /// Somebody who is no member yet asks who the members are; ids in the hello are 0.
    Members = 4,
}

/// Who opens a stream to whom, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Both sides must be of the same cluster.
    pub cluster_id: u64,
    /// The member that dials.
    pub from: u64,
    /// The member that is meant.
    pub to: u64,
    /// What the stream carries.
    pub stream: StreamKind,
    /// Up to which index the dialler has applied the log, at least.
    pub as_of: u64,
    /// The dialler's peer URLs as of there, for a receiver that is behind and does not know it, or
    /// where it is now; at most `limits::PEER_HELLO_URLS_MAX`.
    pub urls: Vec<String>,
}

/// What a follower asks the leader about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseQuestion {
    /// Comes back with the answer.
    pub request: u64,
    /// The lease.
    pub lease: i64,
    /// Renew it, or only tell how long it has left.
    pub renew: bool,
}

/// The leader's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// From the question.
    pub request: u64,
    /// Seconds: the time to live after a renewal, or what is left; -1 for an unknown lease,
    /// -2 when the asked member does not lead.
    pub seconds: i64,
    /// The term in which the asked member takes itself for the leader; 0 without seconds.
    pub term: u64,
}

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What arrived is not what this protocol sends.
    #[error("peer stream: expected {expected}, found {found}")]
    Malformed {
        /// What a sound stream has here.
        expected: String,
        /// What arrived.
        found: String,
    },
    /// The other side is no member any more.
    #[error("{REMOVED}")]
    Removed,
    /// The other side gave a reason.
    #[error("the peer refuses: {0}")]
    Refused(String),
    /// This side cannot go on: its disk or its state, not the stream, is the cause.
    #[error("this member: {0}")]
    Own(String),
}

impl FrameError {
    /// Malformed input.
    pub fn malformed(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Malformed { expected: expected.into(), found: found.into() }
    }
}

/// Encodes a frame.
pub fn encode(kind: FrameKind, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    frame.put_u32_le(u32::try_from(payload.len()).expect("payloads are bounded below 4 GiB"));
    frame.put_u8(kind as u8);
    frame.put_u32_le(checksum(kind as u8, payload));
    frame.put_slice(payload);
    frame.freeze()
}

/// Writes a frame and flushes it.
pub async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: FrameKind,
    payload: &[u8],
) -> std::io::Result<()> {
    stream.write_all(&encode(kind, payload)).await?;
    stream.flush().await
}

/// Reads the next frame.
///
/// # Errors
/// A length above `limits::PEER_FRAME_BYTES_MAX`, an unknown kind or a wrong checksum end the
/// stream.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<(FrameKind, Bytes), FrameError> {
    read_bounded(stream, limits::PEER_FRAME_BYTES_MAX).await
}

async fn read_bounded(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<(FrameKind, Bytes), FrameError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let crc = u32::from_le_bytes([header[5], header[6], header[7], header[8]]);
    let kind = FrameKind::from_byte(header[4])
        .ok_or_else(|| FrameError::malformed("a frame kind from 1 to 17", header[4].to_string()))?;
    if length > bytes_max {
        return Err(FrameError::malformed(
            format!("a frame of at most {bytes_max} bytes"),
            format!("{length} bytes"),
        ));
    }
    let mut payload = BytesMut::zeroed(length);
    stream.read_exact(&mut payload).await?;
    let found = checksum(kind as u8, &payload);
    if found != crc {
        return Err(FrameError::malformed(format!("checksum {crc:08x}"), format!("{found:08x}")));
    }
    Ok((kind, payload.freeze()))
}

/// Reads the next frame and requires its kind.
pub async fn expect(
    stream: &mut (impl AsyncRead + Unpin),
    wanted: FrameKind,
) -> Result<Bytes, FrameError> {
    require(read(stream).await?, wanted)
}

/// Reads the first frame of a stream: of somebody who may be anybody.
pub async fn expect_hello(stream: &mut (impl AsyncRead + Unpin)) -> Result<Bytes, FrameError> {
    require(read_bounded(stream, limits::PEER_HELLO_BYTES_MAX).await?, FrameKind::Hello)
}

fn require(frame: (FrameKind, Bytes), wanted: FrameKind) -> Result<Bytes, FrameError> {
    match frame {
        (kind, payload) if kind == wanted => Ok(payload),
        (FrameKind::Refused, reason) => {
            Err(FrameError::Refused(String::from_utf8_lossy(&reason).into_owned()))
        }
        (kind, _) => Err(FrameError::malformed(format!("{wanted:?}"), format!("{kind:?}"))),
    }
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}

impl Hello {
    /// The hello's bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(44);
        bytes.put_slice(&MAGIC);
        bytes.put_u16_le(VERSION);
        bytes.put_u64_le(self.cluster_id);
        bytes.put_u64_le(self.from);
        bytes.put_u64_le(self.to);
        bytes.put_u8(self.stream as u8);
        bytes.put_u64_le(self.as_of);
        assert!(self.urls.len() <= limits::PEER_HELLO_URLS_MAX, "{} URLs", self.urls.len());
        bytes.put_u8(self.urls.len() as u8);
        for url in &self.urls {
            bytes.put_u16_le(u16::try_from(url.len()).expect("whoever says hello bounds its URLs"));
            bytes.put_slice(url.as_bytes());
        }
        bytes.freeze()
    }

    /// Parses a hello.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("a hello", bytes);
        let magic = fields.take::<8>()?;
        if magic != MAGIC {
            return Err(FrameError::malformed(
                format!("magic {MAGIC:02x?}"),
                format!("{magic:02x?}"),
            ));
        }
        let version = u16::from_le_bytes(fields.take()?);
        if version != VERSION {
            return Err(FrameError::malformed(
                format!("peer protocol version {VERSION}"),
                version.to_string(),
            ));
        }
        let (cluster_id, from, to) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let stream = match fields.take::<1>()?[0] {
            1 => StreamKind::Small,
            2 => StreamKind::Bulk,
            3 => StreamKind::Snapshot,
            4 => StreamKind::Members,
            other => {
                return Err(FrameError::malformed("a stream kind from 1 to 4", other.to_string()));
            }
        };
        let (as_of, [count]) = (fields.u64()?, fields.take()?);
        if usize::from(count) > limits::PEER_HELLO_URLS_MAX {
            return Err(FrameError::malformed(
                format!("at most {} URLs", limits::PEER_HELLO_URLS_MAX),
                count.to_string(),
            ));
        }
        let mut urls = Vec::new();
        for _ in 0..count {
            let length = u16::from_le_bytes(fields.take()?);
            let url = fields.slice(usize::from(length))?;
            let url = std::str::from_utf8(url);
            let url = url.map_err(|error| FrameError::malformed("a URL", error.to_string()))?;
            urls.push(url.to_owned());
        }
        Ok(Self { cluster_id, from, to, stream, as_of, urls })
    }
}

impl LeaseQuestion {
    /// The question's bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(17);
        bytes.put_u64_le(self.request);
        bytes.put_i64_le(self.lease);
        bytes.put_u8(u8::from(self.renew));
        bytes.freeze()
    }

    /// Parses a question.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("a lease question", bytes);
        Ok(Self {
            request: fields.u64()?,
            lease: i64::from_le_bytes(fields.take()?),
            renew: fields.take::<1>()?[0] != 0,
        })
    }
}

impl LeaseAnswer {
    /// The answer's bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(24);
        bytes.put_u64_le(self.request);
        bytes.put_i64_le(self.seconds);
        bytes.put_u64_le(self.term);
        bytes.freeze()
    }

    /// Parses an answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("a lease answer", bytes);
        Ok(Self {
            request: fields.u64()?,
            seconds: i64::from_le_bytes(fields.take()?),
            term: fields.u64()?,
        })
    }
}

/// Takes fixed-width fields off a payload, naming what was being read when it is too short.
pub struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Fields of `what`.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// The next `N` bytes.
    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| {
            FrameError::malformed(
                format!("{} with {N} more bytes", self.what),
                format!("{} bytes", self.rest.len()),
            )
        })?;
        self.rest = rest;
        Ok(*field)
    }

    /// The next integer.
    pub fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// The next integer.
    pub fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    /// The next `length` bytes.
    pub fn slice(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        if length > self.rest.len() {
            return Err(FrameError::malformed(
                format!("{} with {length} more bytes", self.what),
                format!("{} bytes", self.rest.len()),
            ));
        }
        let (field, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(field)
    }

    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn a_hello_has_these_bytes() {
        let urls = vec!["http://a:1".to_owned(), "http://b".to_owned()];
        let stream = StreamKind::Bulk;
        let hello = Hello { cluster_id: 1, from: 2, to: 3, stream, as_of: 4, urls };
        let mut golden = b"varvpeer".to_vec();
        golden.extend([2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
        golden.extend([0, 0, 0, 0, 0, 0, 0, 2, 4, 0, 0, 0, 0, 0, 0, 0, 2]);
        golden.extend(b"\x0a\x00http://a:1\x08\x00http://b");
        assert_eq!(hello.encode(), golden);
        assert_eq!(Hello::decode(&golden).expect("golden"), hello);
        for length in 0..golden.len() {
            assert!(Hello::decode(&golden[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_hello_of_another_version_is_refused_by_name() {
        let mut first = b"varvpeer".to_vec();
        first.extend([1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
        first.extend([0, 0, 0, 0, 0, 0, 0, 2]);
        let error = Hello::decode(&first).expect_err("it is of before").to_string();
        assert!(error.contains("expected peer protocol version 2, found 1"), "{error}");
    }

    #[test]
    fn a_frame_has_these_bytes() {
        let frame = encode(FrameKind::LeaseAnswer, &[0xaa, 0xbb]);
        assert_eq!(frame[..5], [2, 0, 0, 0, 4]);
        assert_eq!(frame[9..], [0xaa, 0xbb]);
        let (kind, payload) = block_on(read(&mut frame.as_ref())).expect("just encoded");
        assert_eq!((kind, payload.as_ref()), (FrameKind::LeaseAnswer, [0xaa, 0xbb].as_slice()));
    }

    #[test]
    fn any_flipped_bit_ends_the_stream() {
        let frame = encode(FrameKind::Raft, b"some payload");
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(block_on(read(&mut damaged.as_slice())).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lease_words_survive_the_wire() {
        let question = LeaseQuestion { request: 9, lease: -4, renew: true };
        assert_eq!(LeaseQuestion::decode(&question.encode()).expect("own bytes"), question);
        let answer = LeaseAnswer { request: 9, seconds: 5, term: 7 };
        assert_eq!(LeaseAnswer::decode(&answer.encode()).expect("own bytes"), answer);
    }
}
