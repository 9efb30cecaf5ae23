//! Reads and writes the fixed-width, little-endian fields of our formats.
//!
//! The one idea: bytes are hostile. Every read is checked against what is left, and a count is
//! checked against the bytes that its items need before anything is reserved for them.

use bytes::{Buf, Bytes};

use crate::{Error, Result};

/// Takes fields off the front of a record.
///
/// Invariant: `rest` is the part that was not read yet.
pub(crate) struct Reader {
    what: &'static str,
    rest: Bytes,
}

impl Reader {
    /// Reads `bytes`, which errors call `what`.
    pub(crate) fn new(what: &'static str, bytes: Bytes) -> Self {
        Self { what, rest: bytes }
    }

    /// One byte.
    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.need(1)?;
        Ok(self.rest.get_u8())
    }

    /// Four bytes.
    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.need(4)?;
        Ok(self.rest.get_u32_le())
    }

    /// Eight bytes.
    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.need(8)?;
        Ok(self.rest.get_u64_le())
    }

    /// Eight bytes, signed.
    pub(crate) fn i64(&mut self) -> Result<i64> {
        self.need(8)?;
        Ok(self.rest.get_i64_le())
    }

    /// The next `length` bytes, shared with the input rather than copied.
    pub(crate) fn bytes(&mut self, length: u32) -> Result<Bytes> {
        let length = length as usize;
        self.need(length)?;
        Ok(self.rest.split_to(length))
    }

    /// A byte that has one allowed value.
    pub(crate) fn exactly(&mut self, field: &str, value: u8) -> Result<()> {
        let found = self.u8()?;
        if found == value {
            return Ok(());
        }
        Err(self.malformed(format!("{field} {value}"), found))
    }

    /// Checks that `count` items of at least `item_bytes` can follow.
    pub(crate) fn room_for(&self, count: u32, item_bytes: usize) -> Result<usize> {
        let count = count as usize;
        let needed = count.saturating_mul(item_bytes);
        if needed <= self.rest.len() {
            return Ok(count);
        }
        let found = format!("{} bytes left", self.rest.len());
        Err(self.malformed(format!("at least {needed} bytes for {count} items"), found))
    }

    /// Everything that was not read.
    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }

    /// Checks that nothing is left.
    pub(crate) fn end(self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(self.malformed("the end", format!("{} more bytes", self.rest.len())))
    }

    /// An error about this record.
    pub(crate) fn malformed(&self, expected: impl ToString, found: impl ToString) -> Error {
        Error::Malformed {
            what: self.what,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    fn need(&self, length: usize) -> Result<()> {
        if length <= self.rest.len() {
            return Ok(());
        }
        Err(self.malformed(format!("{length} more bytes"), format!("{}", self.rest.len())))
    }
}

/// A length as it is written. Our own messages and entries are far below 4 GiB.
pub(crate) fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("lengths in messages and entries are below 4 GiB")
}
