//! Raft messages in a format of our own.
//!
//! The `raft` crate's protobuf library has no bound on nesting, so that its parser never sees
//! bytes from outside. Here every field has a fixed place and width, every count is checked
//! against the bytes that follow, and a type that only a node may send to itself has no code at
//! all. The layout is in `docs/FORMAT.md` section 4 and pinned by the golden test below.
//!
//! What it does not do: it has no checksum (the carrier's stream has one) and does not judge
//! whether a message makes sense here (see `validate.rs`).

use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::{Entry, Message, MessageType, Snapshot};

use crate::entry::{kind_code, read_kind};
use crate::snapshot::{mark_of, snapshot_of};
use crate::wire::{Reader, length_u32};
use crate::{Applied, Index, NodeId, Result, Term};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 92;
const SNAPSHOT_HEADER_BYTES: usize = 24;
const ENTRY_HEADER_BYTES: usize = 25;
const FLAG_REJECT: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;

/// Members of one kind in a snapshot's mark; far above what anybody runs.
const MEMBERS_MAX: u32 = 128;

/// The types that travel, with their codes. The others are a node's messages to itself
/// (`MsgHup`, `MsgBeat`, `MsgUnreachable`, `MsgSnapStatus`, `MsgCheckQuorum`) or are never
/// forwarded by us (`MsgTransferLeader`).
const TYPES: [(u8, MessageType); 13] = [
    (1, MessageType::MsgPropose),
    (2, MessageType::MsgAppend),
    (3, MessageType::MsgAppendResponse),
    (4, MessageType::MsgRequestVote),
    (5, MessageType::MsgRequestVoteResponse),
    (6, MessageType::MsgRequestPreVote),
    (7, MessageType::MsgRequestPreVoteResponse),
    (8, MessageType::MsgHeartbeat),
    (9, MessageType::MsgHeartbeatResponse),
    (10, MessageType::MsgSnapshot),
    (11, MessageType::MsgTimeoutNow),
    (12, MessageType::MsgReadIndex),
    (13, MessageType::MsgReadIndexResp),
];

/// The bytes of a message; none for a type that does not travel.
pub(crate) fn encode(message: &Message) -> Option<Bytes> {
    let code = TYPES.iter().find(|entry| entry.1 == message.get_msg_type())?.0;
    let snapshot = message.snapshot.as_ref().filter(|snapshot| !snapshot.is_empty());
    let mut bytes = BytesMut::with_capacity(encoded_bytes(message));
    bytes.put_u8(VERSION);
    bytes.put_u8(code);
    let reject = if message.reject { FLAG_REJECT } else { 0 };
    bytes.put_u8(reject | if snapshot.is_some() { FLAG_SNAPSHOT } else { 0 });
    bytes.put_u8(0);
    for field in [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.request_snapshot,
    ] {
        bytes.put_u64_le(field);
    }
    bytes.put_i64_le(message.priority);
    bytes.put_u32_le(length_u32(message.context.len()));
    bytes.put_u32_le(length_u32(message.entries.len()));
    bytes.put_slice(&message.context);
    if let Some(snapshot) = snapshot {
        put_mark(&mut bytes, &mark_of(snapshot));
    }
    for entry in message.entries.iter() {
        put_entry(&mut bytes, entry);
    }
    Some(bytes.freeze())
}

/// Whether these are the bytes of a `MsgPropose`, if of a message at all.
pub(crate) fn is_proposal(bytes: &[u8]) -> bool {
    bytes.get(1) == Some(&TYPES[0].0)
}

/// Whether these are the bytes of a message with a snapshot, if of a message at all.
pub(crate) fn has_snapshot(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & FLAG_SNAPSHOT != 0)
}

/// The message in `bytes`; its entries share them.
pub(crate) fn decode(bytes: Bytes) -> Result<Message> {
    let mut reader = Reader::new("raft message", bytes);
    reader.exactly("version", VERSION)?;
    let code = reader.u8()?;
    let Some((_, kind)) = TYPES.iter().find(|entry| entry.0 == code) else {
        return Err(reader.malformed("a message type from 1 to 13", code));
    };
    let flags = reader.u8()?;
    if flags & !(FLAG_REJECT | FLAG_SNAPSHOT) != 0 {
        return Err(reader.malformed("flags of the bits 1 and 2", flags));
    }
    reader.exactly("reserved byte", 0)?;
    let mut message = Message::default();
    message.set_msg_type(*kind);
    message.reject = flags & FLAG_REJECT != 0;
    message.to = reader.u64()?;
    message.from = reader.u64()?;
    message.term = reader.u64()?;
    message.log_term = reader.u64()?;
    message.index = reader.u64()?;
    message.commit = reader.u64()?;
    message.commit_term = reader.u64()?;
    message.reject_hint = reader.u64()?;
    message.request_snapshot = reader.u64()?;
    message.priority = reader.i64()?;
    let context_bytes = reader.u32()?;
    let entry_count = reader.u32()?;
    message.context = reader.bytes(context_bytes)?;
    if flags & FLAG_SNAPSHOT != 0 {
        message.set_snapshot(read_snapshot(&mut reader)?);
    }
    let count = reader.room_for(entry_count, ENTRY_HEADER_BYTES)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(read_entry(&mut reader)?);
    }
    message.set_entries(entries.into());
    reader.end()?;
    Ok(message)
}

fn encoded_bytes(message: &Message) -> usize {
    let entries: usize = message
        .entries
        .iter()
        .map(|entry| ENTRY_HEADER_BYTES + entry.context.len() + entry.data.len())
        .sum();
    let members = message.snapshot.as_ref().map_or(0, |snapshot| {
        let members = snapshot.get_metadata().get_conf_state();
        SNAPSHOT_HEADER_BYTES + 8 * (members.voters.len() + members.learners.len())
    });
    HEADER_BYTES + message.context.len() + members + entries
}

fn put_mark(bytes: &mut BytesMut, mark: &Applied) {
    bytes.put_u64_le(mark.index.0);
    bytes.put_u64_le(mark.term.0);
    bytes.put_u32_le(length_u32(mark.voters.len()));
    bytes.put_u32_le(length_u32(mark.learners.len()));
    for member in mark.voters.iter().chain(&mark.learners) {
        bytes.put_u64_le(member.0);
    }
}

fn put_entry(bytes: &mut BytesMut, entry: &Entry) {
    bytes.put_u8(kind_code(entry.get_entry_type()));
    bytes.put_u64_le(entry.index);
    bytes.put_u64_le(entry.term);
    bytes.put_u32_le(length_u32(entry.context.len()));
    bytes.put_u32_le(length_u32(entry.data.len()));
    bytes.put_slice(&entry.context);
    bytes.put_slice(&entry.data);
}

fn read_snapshot(reader: &mut Reader) -> Result<Snapshot> {
    let index = Index(reader.u64()?);
    let term = Term(reader.u64()?);
    if index.0 == 0 || term.0 == 0 {
        return Err(reader.malformed("a snapshot from index 1 and term 1", index.0.min(term.0)));
    }
    let voter_count = reader.u32()?;
    let learner_count = reader.u32()?;
    let voters = read_members(reader, voter_count)?;
    let learners = read_members(reader, learner_count)?;
    if voters.is_empty() {
        return Err(reader.malformed("a snapshot with voters", "none"));
    }
    if let Some(both) = learners.iter().find(|member| voters.contains(member)) {
        return Err(reader.malformed("voters and learners apart", format!("{} in both", both.0)));
    }
    Ok(snapshot_of(&Applied { index, term, voters, learners }))
}

fn read_members(reader: &mut Reader, count: u32) -> Result<Vec<NodeId>> {
    if count > MEMBERS_MAX {
        return Err(reader.malformed(format!("at most {MEMBERS_MAX} members"), count));
    }
    let mut members = Vec::with_capacity(reader.room_for(count, 8)?);
    let mut before = 0;
    for _ in 0..count {
        let member = reader.u64()?;
        if member <= before {
            return Err(reader.malformed(format!("a member above {before}"), member));
        }
        before = member;
        members.push(NodeId(member));
    }
    Ok(members)
}

fn read_entry(reader: &mut Reader) -> Result<Entry> {
    let mut entry = Entry::default();
    entry.set_entry_type(read_kind(reader)?);
    entry.index = reader.u64()?;
    entry.term = reader.u64()?;
    let context_bytes = reader.u32()?;
    let data_bytes = reader.u32()?;
    entry.context = reader.bytes(context_bytes)?;
    entry.data = reader.bytes(data_bytes)?;
    Ok(entry)
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
