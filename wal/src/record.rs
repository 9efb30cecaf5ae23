//! Records: what a frame's payload consists of.
//!
//! A record is a 20-byte header and opaque bytes, without padding, one directly after the other.
//! The layout is in `docs/FORMAT.md`, section 1.4. Its checksum makes a single entry verifiable when
//! it is read back later without its frame; recovery relies on the checksum of the whole frame instead
//! and need not compute this one. It is stored masked: see [`masked`].
//!
//! What it does not do: it gives records no meaning; that is `image.rs`.

/// Bytes of a record's header.
pub(crate) const HEADER_BYTES: usize = 20;

/// Longest payload: a frame is at most 1 GiB, and so is what is in it.
pub(crate) const PAYLOAD_BYTES_MAX: usize = crate::frame::FRAME_BYTES_MAX as usize;

const KIND_AT: usize = 0;
const RESERVED_AT: usize = 1;
const LENGTH_AT: usize = 4;
const INDEX_AT: usize = 8;
const CRC_AT: usize = 16;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// An entry of the log: its index and payload.
    Entry = 1,
    /// The latest state: index 0, payload opaque.
    State = 2,
    /// The log is emptied: index is the next index, no payload.
    Reset = 3,
    /// What the log was when its segment began: index is the first index, the payload is the next
    /// index (8 bytes). The first record of every segment.
    Base = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Entry),
            2 => Some(Self::State),
            3 => Some(Self::Reset),
            4 => Some(Self::Base),
            _ => None,
        }
    }
}

/// A record as it lies in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// What it says.
    pub kind: Kind,
    /// Meaning depends on the kind.
    pub index: u64,
    /// Opaque bytes.
    pub payload: &'a [u8],
    crc: u32,
}

impl<'a> Record<'a> {
    /// Bytes of header and payload.
    pub fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Reads the record at the start of `bytes`, without its checksum.
    ///
    /// # Errors
    /// What is wrong with it, as "expected X, found Y".
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER_BYTES {
            return Err(Malformed::new(
                format!("a record header of {HEADER_BYTES} bytes"),
                format!("{} bytes", bytes.len()),
            ));
        }
        let kind = Kind::from_byte(bytes[KIND_AT]).ok_or_else(|| {
            Malformed::new("a record kind of 1 to 4", format!("{}", bytes[KIND_AT]))
        })?;
        if bytes[RESERVED_AT..LENGTH_AT] != [0; 3] {
            return Err(Malformed::new(
                "zeros in a record's reserved bytes",
                format!("{:?}", &bytes[RESERVED_AT..LENGTH_AT]),
            ));
        }
        let length = u32_at(bytes, LENGTH_AT) as usize;
        let rest = &bytes[HEADER_BYTES..];
        if length > rest.len() {
            return Err(Malformed::new(
                format!("a record payload of at most {} bytes", rest.len()),
                format!("{length}"),
            ));
        }
        let payload = &rest[..length];
        Ok(Self { kind, index: u64_at(bytes, INDEX_AT), payload, crc: u32_at(bytes, CRC_AT) })
    }

    /// Verifies the checksum.
    ///
    /// # Errors
    /// The checksum that belongs there and the one that is there.
    pub fn verify(&self) -> Result<(), Malformed> {
        let expected = checksum(&head(self.kind, self.index, self.payload.len()), self.payload);
        if expected == self.crc {
            return Ok(());
        }
        Err(Malformed::new(format!("record checksum {expected:08x}"), format!("{:08x}", self.crc)))
    }
}

/// Appends a record to `out`.
pub(crate) fn encode(out: &mut Vec<u8>, kind: Kind, index: u64, payload: &[u8]) {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "record of {} bytes", payload.len());
    let head = head(kind, index, payload.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(&checksum(&head, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// What belongs there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Malformed {
    /// Both halves of the sentence.
    #[cold]
    pub fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into() }
    }
}

/// The little-endian number at an offset that the caller has checked to be inside.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

/// The little-endian number at an offset that the caller has checked to be inside.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(field)
}

/// The header without its checksum, which covers it and the payload.
fn head(kind: Kind, index: u64, length: usize) -> [u8; CRC_AT] {
    let mut head = [0; CRC_AT];
    head[KIND_AT] = kind as u8;
    head[LENGTH_AT..INDEX_AT].copy_from_slice(&(length as u32).to_le_bytes());
    head[INDEX_AT..].copy_from_slice(&index.to_le_bytes());
    head
}

fn checksum(head: &[u8; CRC_AT], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    masked(hasher.finalize())
}

/// A checksum that can stand in what another one covers.
///
/// The frame's checksum is of the same kind and covers this one. Unmasked, bytes with their own
/// CRC-32 behind them add the same to a CRC-32 whatever they are: a frame that was torn so that a
/// whole record is an older one of the same length would verify. The mask is `LevelDB`'s.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded() {
        let mut bytes = Vec::new();
        encode(&mut bytes, Kind::Entry, 7, b"seven");
        encode(&mut bytes, Kind::Reset, 9, b"");
        let first = Record::decode(&bytes).unwrap();
        assert_eq!((first.kind, first.index, first.payload), (Kind::Entry, 7, &b"seven"[..]));
        first.verify().unwrap();
        let second = Record::decode(&bytes[first.encoded_bytes()..]).unwrap();
        assert_eq!((second.kind, second.index, second.payload), (Kind::Reset, 9, &b""[..]));
        second.verify().unwrap();
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        encode(&mut bytes, Kind::State, 0, b"some state");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let noticed = match Record::decode(&flipped) {
                Ok(record) => record.verify().is_err(),
                Err(_) => true,
            };
            assert!(noticed, "bit {bit}");
        }
    }

    #[test]
    fn a_length_beyond_the_buffer_is_refused() {
        let mut bytes = Vec::new();
        encode(&mut bytes, Kind::Entry, 1, b"payload");
        assert!(Record::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Record::decode(&bytes[..HEADER_BYTES - 1]).is_err());
        assert!(Record::decode(&[]).is_err());
    }
}
