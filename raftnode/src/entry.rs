//! The bytes of one log entry and of the hard state, as they stand in the log.
//!
//! The layouts are in `docs/FORMAT.md` section 4 and pinned by the golden tests below. The index
//! is not among the bytes: the log itself knows it.

use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::{Entry, EntryType, HardState};

use crate::Result;
use crate::wire::{Reader, length_u32};

const ENTRY_VERSION: u8 = 1;
const ENTRY_HEADER_BYTES: usize = 14;
const STATE_VERSION: u8 = 1;
const STATE_BYTES: usize = 25;

/// The bytes of an entry.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let length = ENTRY_HEADER_BYTES + entry.context.len() + entry.data.len();
    let mut bytes = BytesMut::with_capacity(length);
    bytes.put_u8(ENTRY_VERSION);
    bytes.put_u8(kind_code(entry.get_entry_type()));
    bytes.put_u64_le(entry.term);
    bytes.put_u32_le(length_u32(entry.context.len()));
    bytes.put_slice(&entry.context);
    bytes.put_slice(&entry.data);
    assert_eq!(bytes.len(), length, "an entry's header grew without its constant");
    bytes.freeze()
}

/// The entry at `index`; its data shares `bytes`.
pub(crate) fn decode_entry(index: u64, bytes: Bytes) -> Result<Entry> {
    let mut reader = Reader::new("log entry", bytes);
    reader.exactly("version", ENTRY_VERSION)?;
    let kind = read_kind(&mut reader)?;
    let term = reader.u64()?;
    if term == 0 {
        return Err(reader.malformed("a term from 1", term));
    }
    let context_bytes = reader.u32()?;
    let context = reader.bytes(context_bytes)?;
    let mut entry = Entry::default();
    entry.set_entry_type(kind);
    entry.index = index;
    entry.term = term;
    entry.context = context;
    entry.data = reader.rest();
    Ok(entry)
}

/// The bytes of the hard state: term, vote, commit.
pub(crate) fn encode_state(state: &HardState) -> Bytes {
    let mut bytes = BytesMut::with_capacity(STATE_BYTES);
    bytes.put_u8(STATE_VERSION);
    bytes.put_u64_le(state.term);
    bytes.put_u64_le(state.vote);
    bytes.put_u64_le(state.commit);
    bytes.freeze()
}

/// The hard state in `bytes`.
pub(crate) fn decode_state(bytes: Bytes) -> Result<HardState> {
    let mut reader = Reader::new("hard state", bytes);
    reader.exactly("version", STATE_VERSION)?;
    let (term, vote, commit) = (reader.u64()?, reader.u64()?, reader.u64()?);
    reader.end()?;
    let state = HardState { term, vote, commit, ..HardState::default() };
    Ok(state)
}

/// How an entry's type is written, in the log and in messages.
pub(crate) fn kind_code(kind: EntryType) -> u8 {
    match kind {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

/// Reads an entry's type.
pub(crate) fn read_kind(reader: &mut Reader) -> Result<EntryType> {
    match reader.u8()? {
        0 => Ok(EntryType::EntryNormal),
        1 => Ok(EntryType::EntryConfChange),
        2 => Ok(EntryType::EntryConfChangeV2),
        other => Err(reader.malformed("an entry type from 0 to 2", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            index: 7,
            term: 0x0102,
            data: Bytes::from_static(b"data"),
            context: Bytes::from_static(b"ctx"),
            ..Entry::default()
        }
    }

    #[test]
    fn golden_bytes_of_an_entry() {
        let expected: &[u8] = &[
            1, 0, // version, type
            2, 1, 0, 0, 0, 0, 0, 0, // term
            3, 0, 0, 0, b'c', b't', b'x', // context
            b'd', b'a', b't', b'a',
        ];
        assert_eq!(encode_entry(&entry()), expected);
        assert_eq!(decode_entry(7, Bytes::from_static(expected)).unwrap(), entry());
    }

    #[test]
    fn golden_bytes_of_the_state() {
        let state = HardState { term: 3, vote: 2, commit: 0x0100, ..HardState::default() };
        let expected: &[u8] =
            &[1, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(encode_state(&state), expected);
        assert_eq!(decode_state(Bytes::from_static(expected)).unwrap(), state);
    }

    #[test]
    fn damaged_entries_are_errors() {
        let good = encode_entry(&entry());
        for cut in 0..ENTRY_HEADER_BYTES + 3 {
            assert!(decode_entry(7, good.slice(..cut)).is_err(), "cut at {cut}");
        }
        for (at, value) in [(0, 9), (1, 3), (13, 0xff)] {
            let mut bad = good.to_vec();
            bad[at] = value;
            assert!(decode_entry(7, bad.into()).is_err(), "byte {at} is {value}");
        }
        let mut no_term = good.to_vec();
        no_term[2..10].fill(0);
        assert!(decode_entry(7, no_term.into()).is_err());
    }

    #[test]
    fn damaged_states_are_errors() {
        let good = encode_state(&HardState::default());
        for cut in 0..STATE_BYTES {
            assert!(decode_state(good.slice(..cut)).is_err(), "cut at {cut}");
        }
        let mut long = good.to_vec();
        long.push(0);
        assert!(decode_state(long.into()).is_err());
    }
}
