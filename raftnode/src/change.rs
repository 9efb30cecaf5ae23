//! A change of the membership as an entry of the log.
//!
//! One idea: one member at a time, so that any majority of before and any majority of after share
//! a member (Raft thesis, section 4.1). The entry's data say which member and how; its context is
//! the command with which the state machine carries the same change out. The state machine judges
//! it, the same on every member, and only what it accepted becomes Raft's configuration
//! ([`crate::Node::changed`]).
//!
//! The data are read by the `raft` crate as well, with a parser that hostile bytes can exhaust.
//! So there is exactly one form, five bytes and more, and everything else is refused before the
//! crate sees it: tag 0x10, how (0 voter, 1 remove, 2 learner), tag 0x18, the id as a varint
//! (`docs/FORMAT.md`, section 4.1).

use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType};
use varve_wal::trial;

use crate::{Error, MemberChange, NodeId, Result};

const TAG_TYPE: u8 = 0x10;
const TAG_NODE: u8 = 0x18;
const ADD_VOTER: u8 = 0;
const REMOVE: u8 = 1;
const ADD_LEARNER: u8 = 2;

/// The entry that proposes a change; `command` is what the state machine gets.
pub(crate) fn entry_of(change: MemberChange, command: Bytes) -> Entry {
    let mut entry = Entry { data: encode(change), context: command, ..Entry::default() };
    entry.set_entry_type(EntryType::EntryConfChange);
    entry
}

/// The change that an entry carries; none for a normal one.
///
/// # Errors
/// Data of another form than [`entry_of`] writes, or a kind of change that nobody here writes.
pub(crate) fn change_of(entry: &Entry) -> Result<Option<MemberChange>> {
    match entry.get_entry_type() {
        EntryType::EntryNormal => Ok(None),
        EntryType::EntryConfChange => match decode(&entry.data) {
            Some(change) => Ok(Some(change)),
            None => Err(malformed(entry, "a change of one member")),
        },
        EntryType::EntryConfChangeV2 => {
            Err(malformed(entry, "a normal entry or a change of one member"))
        }
    }
}

/// The crate's form of a change.
pub(crate) fn crate_form(change: MemberChange) -> ConfChangeV2 {
    let (kind, id) = match change {
        MemberChange::AddVoter(id) => (ConfChangeType::AddNode, id),
        MemberChange::AddLearner(id) if trial::has_bug("learner-counts") => {
            (ConfChangeType::AddNode, id)
        }
        MemberChange::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
        MemberChange::Remove(id) => (ConfChangeType::RemoveNode, id),
    };
    let mut single = ConfChangeSingle { node_id: id.0, ..ConfChangeSingle::default() };
    single.set_change_type(kind);
    ConfChangeV2 { changes: vec![single].into(), ..ConfChangeV2::default() }
}

fn encode(change: MemberChange) -> Bytes {
    let (kind, id) = match change {
        MemberChange::AddVoter(id) => (ADD_VOTER, id),
        MemberChange::AddLearner(id) => (ADD_LEARNER, id),
        MemberChange::Remove(id) => (REMOVE, id),
    };
    let mut bytes = BytesMut::with_capacity(13);
    bytes.put_slice(&[TAG_TYPE, kind, TAG_NODE]);
    let mut number = id.0;
    while number >= 0x80 {
        bytes.put_u8((number as u8) | 0x80);
        number >>= 7;
    }
    bytes.put_u8(number as u8);
    bytes.freeze()
}

/// The change, if the bytes are exactly those that [`encode`] gives for it.
fn decode(data: &Bytes) -> Option<MemberChange> {
    let [TAG_TYPE, kind, TAG_NODE, ref varint @ ..] = data[..] else { return None };
    if varint.len() > 10 {
        return None;
    }
    let mut id: u64 = 0;
    for (position, byte) in varint.iter().enumerate() {
        id |= u64::from(byte & 0x7f).checked_shl(7 * position as u32)?;
    }
    let change = match kind {
        ADD_VOTER => MemberChange::AddVoter(NodeId(id)),
        REMOVE => MemberChange::Remove(NodeId(id)),
        ADD_LEARNER => MemberChange::AddLearner(NodeId(id)),
        _ => return None,
    };
    (id != 0 && encode(change) == *data).then_some(change)
}

fn malformed(entry: &Entry, expected: &str) -> Error {
    Error::Malformed {
        what: "log entry",
        expected: expected.to_string(),
        found: format!("a membership change at index {}: {:02x?}", entry.index, &entry.data[..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_have_these_bytes() {
        for (change, bytes) in [
            (MemberChange::AddVoter(NodeId(1)), &[0x10, 0, 0x18, 1][..]),
            (MemberChange::Remove(NodeId(0x80)), &[0x10, 1, 0x18, 0x80, 1]),
            (
                MemberChange::AddLearner(NodeId(u64::MAX)),
                &[0x10, 2, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
            ),
        ] {
            let entry = entry_of(change, Bytes::from_static(b"command"));
            assert_eq!(&entry.data[..], bytes);
            assert_eq!(change_of(&entry).unwrap(), Some(change));
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let good = entry_of(MemberChange::AddVoter(NodeId(300)), Bytes::new());
        for cut in 0..good.data.len() {
            let mut entry = good.clone();
            entry.data = good.data.slice(..cut);
            assert!(change_of(&entry).is_err(), "cut at {cut}");
        }
        for bytes in [
            &[0x10, 3, 0x18, 1][..],
            &[0x10, 0, 0x18, 0],
            &[0x10, 0, 0x18, 0x81, 0],
            &[0x10, 0, 0x18, 1, 0x20],
            &[0x18, 1, 0x10, 0],
            &[0x10, 0, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
            &[0x10, 0, 0x18, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 1],
        ] {
            let mut entry = good.clone();
            entry.data = Bytes::copy_from_slice(bytes);
            let error = change_of(&entry).unwrap_err();
            assert!(error.to_string().contains("membership change at index"), "{error}");
        }
        let mut joint = good;
        joint.set_entry_type(EntryType::EntryConfChangeV2);
        assert!(change_of(&joint).is_err());
    }
}
