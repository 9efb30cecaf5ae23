//! Integers and byte strings of the manifest: fixed width, little-endian, lengths before bytes.
//!
//! [`Encoder`] appends to a buffer; [`Decoder`] takes from a slice and says at which offset what
//! was missing. Neither knows what the fields mean.

use bytes::Bytes;

use crate::Revision;

/// Appends fields to a buffer.
#[derive(Default)]
pub(super) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.raw(&value.to_le_bytes());
    }

    /// A count or length: `u32`.
    pub(super) fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).expect("counts in a manifest are below 2^32"));
    }

    pub(super) fn string(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.raw(bytes);
    }

    pub(super) fn revision(&mut self, revision: Revision) {
        self.u64(revision.main);
        self.u32(revision.sub);
    }
}

/// What a sound field would have been, what is there, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub offset: u64,
    pub expected: String,
    pub found: String,
}

/// Takes fields from a slice.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(super) fn wrong(&self, expected: impl Into<String>, found: impl Into<String>) -> Wrong {
        let offset = self.offset as u64;
        Wrong { offset, expected: expected.into(), found: found.into() }
    }

    pub(super) fn raw(&mut self, length: usize) -> Result<&'a [u8], Wrong> {
        let rest = &self.bytes[self.offset..];
        let Some(taken) = rest.get(..length) else {
            return Err(self.wrong(format!("{length} bytes"), format!("{}", rest.len())));
        };
        self.offset += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let taken = self.raw(N)?;
        Ok(taken.try_into().expect("`raw` returned as many bytes as were asked for"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Wrong> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Wrong> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Wrong> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, Wrong> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(super) fn u128(&mut self) -> Result<u128, Wrong> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(super) fn string(&mut self) -> Result<Bytes, Wrong> {
        let length = self.u32()? as usize;
        Ok(Bytes::copy_from_slice(self.raw(length)?))
    }

    pub(super) fn revision(&mut self) -> Result<Revision, Wrong> {
        Ok(Revision { main: self.u64()?, sub: self.u32()? })
    }

    /// `count` items, each of at least one byte: a damaged count fails instead of allocating.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Wrong>,
    ) -> Result<Vec<T>, Wrong> {
        let count = self.u32()? as usize;
        let left = self.bytes.len() - self.offset;
        if count > left {
            return Err(self.wrong(format!("{count} items"), format!("{left} bytes")));
        }
        (0..count).map(|_| item(self)).collect()
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), Wrong> {
        match self.bytes.len() - self.offset {
            0 => Ok(()),
            left => Err(self.wrong("the end", format!("{left} more bytes"))),
        }
    }
}
