//! Reading and writing the small formats of this crate: fixed little-endian numbers, varints,
//! length-prefixed bytes.
//!
//! One idea: a [`Cursor`] takes from the front of a slice and says where and why it cannot; each
//! format turns that [`Malformed`] into its own error. A varint is unsigned LEB128, at most ten
//! bytes, always in its shortest form, so that equal values have equal bytes.

/// Appends an unsigned LEB128 number in its shortest form.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length as a varint, then the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Why bytes cannot be taken.
#[derive(Debug)]
pub(crate) struct Malformed {
    pub offset: u64,
    pub expected: &'static str,
    pub found: String,
}

/// Takes numbers and bytes from the front of a slice.
///
/// Invariant: `offset <= bytes.len()`; a failed take leaves the offset where it was.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes not taken yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    #[cold]
    pub fn malformed(&self, expected: &'static str, found: impl std::fmt::Display) -> Malformed {
        Malformed { offset: self.offset as u64, expected, found: found.to_string() }
    }

    pub fn take(&mut self, length: usize, expected: &'static str) -> Result<&'a [u8], Malformed> {
        if length > self.remaining() {
            let found = format!("{} bytes where {length} were due", self.remaining());
            return Err(self.malformed(expected, found));
        }
        let taken = &self.bytes[self.offset..self.offset + length];
        self.offset += length;
        Ok(taken)
    }

    pub fn take_u8(&mut self, expected: &'static str) -> Result<u8, Malformed> {
        Ok(self.take(1, expected)?[0])
    }

    pub fn take_u64(&mut self, expected: &'static str) -> Result<u64, Malformed> {
        let mut number = [0; 8];
        number.copy_from_slice(self.take(8, expected)?);
        Ok(u64::from_le_bytes(number))
    }

    pub fn take_varint(&mut self, expected: &'static str) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (position, byte) in self.bytes[self.offset..].iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * position as u32;
            let is_lost = shift == 63 && bits > 1;
            let is_longer_than_needed = position > 0 && *byte == 0;
            if is_lost || is_longer_than_needed {
                return Err(self.malformed(expected, "a varint too large or not in its short form"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                self.offset += position + 1;
                return Ok(value);
            }
        }
        Err(self.malformed(expected, "an unfinished varint"))
    }

    /// Takes a length-prefixed run of bytes.
    pub fn take_bytes(&mut self, expected: &'static str) -> Result<&'a [u8], Malformed> {
        let start = self.offset;
        let length = self.take_varint(expected)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.take(length, expected).inspect_err(|_| self.offset = start)
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), Malformed> {
        match self.remaining() {
            0 => Ok(()),
            count => Err(self.malformed("the end", format!("{count} more bytes"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_is_read_as_it_was_written() {
        for value in
            [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX]
        {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(cursor.take_varint("a number").unwrap(), value);
            cursor.finish().unwrap();
        }
    }

    #[test]
    fn a_varint_that_is_cut_or_too_long_is_refused() {
        for bytes in [&[][..], &[0x80], &[0x80, 0x00], &[0xff; 10], &[0xff; 12]] {
            let mut cursor = Cursor::new(bytes);
            assert!(cursor.take_varint("a number").is_err(), "{bytes:02x?}");
            assert_eq!(cursor.offset(), 0);
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, u64::MAX);
        let mut cursor = Cursor::new(&bytes);
        assert!(cursor.take_bytes("a name").is_err());
        assert_eq!(cursor.offset(), 0);
    }
}
