//! What whoever carries messages may ask about one, without a node that takes it.
//!
//! One idea: bytes of a peer are looked at before they are believed. A snapshot travels beside its
//! message and may be newer than what was asked for; a proposal that the state machine would not
//! understand must not be committed.

use bytes::Bytes;

use crate::node::Node;
use crate::snapshot::{mark_of, snapshot_of};
use crate::{Applied, Error, Message, MessageClass, Result, codec};

impl Node {
    /// A message of class [`crate::MessageClass::Snapshot`] rewritten to announce `mark`, the
    /// state that was really sent (at or above the index that it asked for).
    ///
    /// # Errors
    /// It is no such message, or the mark is below it.
    pub fn snapshot_message(message: &Message, mark: &Applied) -> Result<Message> {
        let mut rewritten = codec::decode(message.bytes.clone())?;
        let asked = mark_of(rewritten.get_snapshot()).index;
        if message.class != MessageClass::Snapshot || mark.index < asked {
            return Err(Error::Malformed {
                what: "snapshot message",
                expected: format!("a mark at or above {asked:?} for class Snapshot"),
                found: format!("{:?} for class {:?}", mark.index, message.class),
            });
        }
        rewritten.set_snapshot(snapshot_of(mark));
        let bytes = codec::encode(&rewritten).expect("snapshot messages travel");
        Ok(Message { to: message.to, class: message.class, bytes })
    }

    /// The mark that a message announces, if it is well formed and announces a snapshot at all.
    ///
    /// A carrier steps such a message only together with the files that came before it, and keeps
    /// files by their mark: [`crate::Output::install`] names one of them, not always the latest.
    pub fn snapshot_mark(message: &Bytes) -> Option<Applied> {
        if !codec::has_snapshot(message) {
            return None;
        }
        let message = codec::decode(message.clone()).ok()?;
        message.snapshot.as_ref().map(mark_of)
    }

    /// Whether a peer's bytes are a message at all, so that a carrier can end the stream of a peer
    /// that sends others.
    ///
    /// # Errors
    /// [`crate::Error`] with what was expected and found.
    pub fn check_form(message: &Bytes) -> Result<()> {
        codec::decode(message.clone()).map(drop)
    }

    /// The payloads that a well-formed message of a follower asks this node to propose.
    ///
    /// What is committed can be refused no more, so a carrier checks first that the state machine
    /// will understand them.
    pub fn proposed(message: &Bytes) -> Vec<Bytes> {
        if !codec::is_proposal(message) {
            return Vec::new();
        }
        let message = codec::decode(message.clone()).unwrap_or_default();
        message.entries.iter().map(|entry| entry.data.clone()).collect()
    }
}
