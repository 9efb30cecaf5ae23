//! Where in the log a state stands.
//!
//! The engine keeps these bytes with every commit and gives them back with the data, so the applied
//! index can never be apart from what was applied. Layout: `docs/FORMAT.md`, section 3.2.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::wire::{Cursor, Malformed};

/// The log entry that a state contains as its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Index of the entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

const MARK_VERSION: u8 = 1;

impl Mark {
    /// The bytes that go into the engine's commit.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(17);
        out.push(MARK_VERSION);
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.into()
    }

    /// Reads what [`Mark::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Row`] when the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let decode = || -> std::result::Result<Self, Malformed> {
            let mut cursor = Cursor::new(bytes);
            let version = cursor.take_u8("a version")?;
            if version != MARK_VERSION {
                return Err(Malformed {
                    offset: 0,
                    expected: "version 1",
                    found: version.to_string(),
                });
            }
            let mark =
                Self { index: cursor.take_u64("an index")?, term: cursor.take_u64("a term")? };
            cursor.finish()?;
            Ok(mark)
        };
        decode().map_err(|malformed| Error::row(b"(mark)", malformed.expected, malformed.found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_these_bytes() {
        let mark = Mark { index: 0x0102, term: 3 };
        let bytes = mark.encode();
        assert_eq!(bytes.as_ref(), b"\x01\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
        assert_eq!(Mark::decode(&bytes).unwrap(), mark);
    }

    #[test]
    fn other_bytes_are_refused() {
        let bytes = Mark { index: 1, term: 1 }.encode();
        for length in 0..bytes.len() {
            assert!(Mark::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        let mut other = bytes.to_vec();
        other[0] = 9;
        let error = Mark::decode(&other).unwrap_err();
        assert_eq!(error.to_string(), "row (mark): expected version 1, found \"9\"");
    }
}
