//! Pages byte for byte: headers, elements, and the meta pages with their checksum.
//!
//! All numbers are little-endian. A page is a header of 16 bytes, `count` elements of 16 bytes, and
//! what the elements point to; a page that is too long goes on in the `overflow` pages behind it.

/// Bytes of a page in the files we write.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a page's header, and of an element.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes of an element of a branch or a leaf.
pub(crate) const ELEMENT_BYTES: usize = 16;
/// Bytes of a bucket's header: root page and sequence.
pub(crate) const BUCKET_BYTES: usize = 16;
/// Bytes of a meta behind the page's header.
pub(crate) const META_BYTES: usize = 64;

/// Kinds of pages.
pub(crate) const BRANCH: u16 = 0x01;
pub(crate) const LEAF: u16 = 0x02;
pub(crate) const META: u16 = 0x04;
pub(crate) const FREELIST: u16 = 0x10;

/// Flag of a leaf's element whose value is a bucket.
pub(crate) const IS_BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// A page's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub id: u64,
    pub kind: u16,
    pub count: u16,
    pub overflow: u32,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.kind.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }

    /// Of the first 16 of `bytes`.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            id: u64_at(bytes, 0),
            kind: u16::from_le_bytes([bytes[8], bytes[9]]),
            count: u16::from_le_bytes([bytes[10], bytes[11]]),
            overflow: u32_at(bytes, 12),
        }
    }
}

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub page_bytes: u32,
    pub root: u64,
    pub freelist: u64,
    /// One more than the last page.
    pub pages: u64,
    /// The meta with the higher one counts.
    pub transaction: u64,
}

impl Meta {
    pub fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_bytes.to_le_bytes());
        // 4 bytes of flags and the root bucket's sequence are 0.
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.pages.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.transaction.to_le_bytes());
        let checksum = fnv1a(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Of the first 64 of `bytes`.
    ///
    /// # Errors
    /// What was expected and found.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (magic, version) = (u32_at(bytes, 0), u32_at(bytes, 4));
        if magic != MAGIC {
            return Err(format!("expected bbolt's magic {MAGIC:08x}, found {magic:08x}"));
        }
        if version != VERSION {
            return Err(format!("expected version {VERSION} of bbolt's format, found {version}"));
        }
        let (stored, computed) = (u64_at(bytes, 56), fnv1a(&bytes[..56]));
        if stored != computed {
            return Err(format!("expected checksum {computed:016x}, found {stored:016x}"));
        }
        let page_bytes = u32_at(bytes, 8);
        if !page_bytes.is_power_of_two() || !(512..=65536).contains(&page_bytes) {
            return Err(format!(
                "expected pages of 512 to 65536 bytes, a power of two, found {page_bytes}"
            ));
        }
        Ok(Self {
            page_bytes,
            root: u64_at(bytes, 16),
            freelist: u64_at(bytes, 32),
            pages: u64_at(bytes, 40),
            transaction: u64_at(bytes, 48),
        })
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// The checksum of a meta: FNV-1a of 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_meta_with_any_bit_flipped_is_refused() {
        let meta = Meta { page_bytes: 4096, root: 3, freelist: 2, pages: 4, transaction: 1 };
        let sound = meta.encode();
        assert_eq!(Meta::decode(&sound).unwrap(), meta);
        for bit in 0..sound.len() * 8 {
            let mut damaged = sound;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&damaged).is_err(), "bit {bit}");
        }
    }
}
