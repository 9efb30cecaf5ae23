//! Where in the log a state stands.
//!
//! The engine keeps these bytes with every commit and gives them back with the data, so the applied
//! index can never be apart from what was applied. Layout: `docs/FORMAT.md`, section 3.2.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::wire::{self, Cursor, Malformed};

/// The log entry that a state contains as its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Index of the entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// Who votes, as of a mark. Raft's configuration is read from here and from nowhere else: it
/// stands in the same bytes as the index that it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Ids of the voters, rising.
    pub voters: Vec<u64>,
    /// Ids of the learners, rising.
    pub learners: Vec<u64>,
}

/// Version 1 had no configuration: nobody could change it then.
const MARK_VERSION_FOUNDERS_ONLY: u8 = 1;
const MARK_VERSION: u8 = 2;

impl Mark {
    /// The bytes that go into the engine's commit.
    pub fn encode(&self, configuration: &Configuration) -> Bytes {
        let Configuration { voters, learners } = configuration;
        let mut out = Vec::with_capacity(19 + 8 * (voters.len() + learners.len()));
        out.push(MARK_VERSION);
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        for ids in [voters, learners] {
            wire::put_varint(&mut out, ids.len() as u64);
            ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        }
        out.into()
    }

    /// Reads the mark of what [`Mark::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Row`] when the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes).map(|(mark, _)| mark)
    }
}

impl Configuration {
    /// Reads the configuration of what [`Mark::encode`] wrote; none in a mark of version 1.
    ///
    /// # Errors
    /// [`Error::Row`] when the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        decode(bytes).map(|(_, configuration)| configuration)
    }
}

fn decode(bytes: &[u8]) -> Result<(Mark, Option<Configuration>)> {
    let decode = || -> std::result::Result<_, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let version = cursor.take_u8("a version")?;
        if ![MARK_VERSION_FOUNDERS_ONLY, MARK_VERSION].contains(&version) {
            let found = version.to_string();
            return Err(Malformed { offset: 0, expected: "version 1 or 2", found });
        }
        let mark = Mark { index: cursor.take_u64("an index")?, term: cursor.take_u64("a term")? };
        let configuration = match version {
            MARK_VERSION_FOUNDERS_ONLY => None,
            _ => Some(Configuration { voters: ids(&mut cursor)?, learners: ids(&mut cursor)? }),
        };
        cursor.finish()?;
        Ok((mark, configuration))
    };
    decode().map_err(|malformed| Error::row(b"(mark)", malformed.expected, malformed.found))
}

fn ids(cursor: &mut Cursor) -> std::result::Result<Vec<u64>, Malformed> {
    let count = cursor.take_varint("the number of members")?;
    if count > (cursor.remaining() / 8) as u64 {
        return Err(cursor.malformed("at most as many members as fit", count));
    }
    (0..count).map(|_| cursor.take_u64("a member id")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration() -> Configuration {
        Configuration { voters: vec![1, 2], learners: vec![0x0304] }
    }

    #[test]
    fn a_mark_has_these_bytes() {
        let mark = Mark { index: 0x0102, term: 3 };
        let bytes = mark.encode(&configuration());
        let expected = b"\x02\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\
            \x02\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\x04\x03\0\0\0\0\0\0";
        assert_eq!(bytes.as_ref(), expected);
        assert_eq!(Mark::decode(&bytes).unwrap(), mark);
        assert_eq!(Configuration::decode(&bytes).unwrap(), Some(configuration()));
    }

    #[test]
    fn a_mark_of_version_1_is_read() {
        let bytes = b"\x01\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0";
        assert_eq!(Mark::decode(bytes).unwrap(), Mark { index: 0x0102, term: 3 });
        assert_eq!(Configuration::decode(bytes).unwrap(), None);
    }

    #[test]
    fn other_bytes_are_refused() {
        let bytes = Mark { index: 1, term: 1 }.encode(&configuration());
        for length in 0..bytes.len() {
            assert!(Mark::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        let mut other = bytes.to_vec();
        other[0] = 9;
        let error = Mark::decode(&other).unwrap_err();
        assert_eq!(error.to_string(), "row (mark): expected version 1 or 2, found \"9\"");
        let mut many = bytes.to_vec();
        many[17] = 0x7f;
        assert!(Mark::decode(&many).is_err());
    }
}
