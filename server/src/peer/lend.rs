//! Words about a snapshot that one member sends in another's name, and the words' bytes.
//!
//! The leader asks a member that has what a third one lacks; that one says that it is at it, and how it
//! ended. Layouts: docs/FORMAT.md section 5. Who is asked, and what silence means: `raft/lending.rs`.

use bytes::{BufMut, Bytes, BytesMut};
use varve_raftnode::{Message, MessageClass, Node, NodeId};

use super::Peers;
use super::frame::{Fields, FrameError, FrameKind};

/// A snapshot to be sent.
#[derive(Clone, Debug)]
pub struct SnapshotJob {
    /// Raft's announcement, of the leader, with the lowest index that helps.
    pub message: Message,
    /// Who asked for it, and is told what comes of it; this member's own Raft if nobody.
    pub asker: Option<u64>,
}

/// What has become of a snapshot that was asked of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lent {
    /// It is under way.
    Going,
    /// It arrived.
    Delivered,
    /// It did not, or this member has none that would help.
    Failed,
}

/// The bytes that ask for a snapshot.
pub fn encode_asked(message: &Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 + message.bytes.len());
    bytes.put_u64_le(message.to.0);
    bytes.put_slice(&message.bytes);
    bytes.freeze()
}

/// What `from` asks for.
///
/// # Errors
/// It is no announcement of a snapshot, or not of `from`.
pub fn decode_asked(from: u64, payload: &Bytes) -> Result<SnapshotJob, FrameError> {
    let mut fields = Fields::new("a question for a snapshot", payload);
    let (to, bytes) = (NodeId(fields.u64()?), payload.slice(8..));
    if Node::snapshot_mark(&bytes).is_none() || Node::sender(&bytes) != Some(NodeId(from)) {
        return Err(FrameError::malformed(
            "the announcement of an own snapshot",
            "another message",
        ));
    }
    let message = Message { to, class: MessageClass::Snapshot, bytes };
    Ok(SnapshotJob { message, asker: Some(from) })
}

/// The bytes that tell what has become of the snapshot for `to`.
pub fn encode_told(to: u64, lent: Lent) -> Bytes {
    let mut bytes = BytesMut::with_capacity(9);
    bytes.put_u64_le(to);
    bytes.put_u8(match lent {
        Lent::Going => 0,
        Lent::Delivered => 1,
        Lent::Failed => 2,
    });
    bytes.freeze()
}

/// For whom, and what has become of it.
///
/// # Errors
/// It is cut off, or none of the words.
pub fn decode_told(payload: &[u8]) -> Result<(u64, Lent), FrameError> {
    let mut fields = Fields::new("a word about a snapshot", payload);
    let (to, [word]) = (fields.u64()?, fields.take()?);
    let lent = match word {
        0 => Lent::Going,
        1 => Lent::Delivered,
        2 => Lent::Failed,
        other => return Err(FrameError::malformed("a word from 0 to 2", other.to_string())),
    };
    Ok((to, lent))
}

impl Peers {
    /// Asks a member to send a snapshot in this one's name; false if its queue is full.
    pub fn ask_for_snapshot(&self, member: u64, message: &Message) -> bool {
        self.send_frame(member, FrameKind::SnapshotAsked, encode_asked(message))
    }

    /// A member asks this one to send a snapshot: it is told what becomes of it.
    pub(super) fn lend_snapshot(&self, job: SnapshotJob) {
        let (to, asker) = (job.message.to.0, job.asker);
        if !self.queue_snapshot(job) {
            asker.into_iter().for_each(|asker| self.tell_snapshot(asker, to, Lent::Failed));
        }
    }

    /// Tells a member what has become of the snapshot that it asked for.
    pub fn tell_snapshot(&self, asker: u64, to: u64, lent: Lent) {
        self.send_frame(asker, FrameKind::SnapshotTold, encode_told(to, lent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_these_bytes() {
        for (lent, byte) in [(Lent::Going, 0), (Lent::Delivered, 1), (Lent::Failed, 2)] {
            let golden = [3, 0, 0, 0, 0, 0, 0, 0, byte];
            assert_eq!(encode_told(3, lent), golden[..]);
            assert_eq!(decode_told(&golden).unwrap(), (3, lent));
            assert!(decode_told(&golden[..8]).is_err());
        }
        assert!(decode_told(&[3, 0, 0, 0, 0, 0, 0, 0, 3]).is_err());
    }

    #[test]
    fn only_an_own_announcement_asks_for_a_snapshot() {
        // docs/FORMAT.md, section 4: from 1 to 2, of the state at 9 in term 4.
        let mut bytes = vec![1, 10, 2, 0];
        let header = [2_u64, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0];
        header.iter().for_each(|field| bytes.extend(field.to_le_bytes()));
        [9_u64, 4].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
        [1_u32, 0].iter().for_each(|count| bytes.extend(count.to_le_bytes()));
        bytes.extend(1_u64.to_le_bytes());
        let (to, class) = (NodeId(2), MessageClass::Snapshot);
        let message = Message { to, class, bytes: bytes.clone().into() };
        let asked = encode_asked(&message);
        assert_eq!(asked[..], [&[2, 0, 0, 0, 0, 0, 0, 0][..], &bytes].concat());
        let job = decode_asked(1, &asked).unwrap();
        assert_eq!((job.asker, job.message.to, job.message.bytes), (Some(1), to, bytes.into()));
        assert!(decode_asked(3, &asked).is_err(), "in the name of another");
        for length in 0..asked.len() {
            assert!(decode_asked(1, &asked.slice(..length)).is_err(), "cut to {length}");
        }
    }
}
