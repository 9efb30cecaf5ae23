//! Compressed payloads: what is stored of a large frame when that is less.
//!
//! One idea: compression is a matter of one frame. Its header says how its payload is stored and
//! how many bytes come out, so that memory is bounded before anything is decoded; everything above
//! sees records only. The layout is in `docs/FORMAT.md`, section 1.3.
//!
//! The checksum covers the bytes that are stored. So a payload that verifies and cannot be decoded
//! was written so, which no crash does: it is damage.
//!
//! What it does not do: no dictionaries, no state from one frame to the next, and no choice of
//! what is worth it (`Options::compress_bytes_min`).

use zstd_safe::{CCtx, DCtx};

use crate::frame::{Coding, Frame};
use crate::record::Malformed;

/// Larger payloads are stored plain, so that reading one entry back never decodes more than this.
pub(crate) const PLAIN_BYTES_MAX: usize = 16 << 20;

/// The fastest of zstd's ordinary levels: the thread that compresses is the one that writes.
const LEVEL: i32 = 1;

/// Compresses payloads, one after the other.
pub(crate) struct Compressor(CCtx<'static>);

impl Compressor {
    /// A compressor.
    pub fn new() -> Self {
        Self(CCtx::create())
    }

    /// Writes `plain` compressed to the front of `out`; how many bytes. None when it does not fit.
    pub fn compress(&mut self, plain: &[u8], out: &mut [u8]) -> Option<usize> {
        self.0.compress(out, plain, LEVEL).ok()
    }
}

/// Decodes payloads, one after the other, into memory that is used again.
#[derive(Default)]
pub(crate) struct Decompressor {
    context: Option<DCtx<'static>>,
    plain: Vec<u8>,
}

impl Decompressor {
    /// The records of a frame that verified, of a coding that is known.
    ///
    /// # Errors
    /// The payload is not what its header says.
    pub fn records<'a>(&'a mut self, frame: &Frame<'a>) -> Result<&'a [u8], Malformed> {
        match frame.coding() {
            Some(Coding::Plain) => Ok(frame.payload),
            Some(Coding::Zstd { plain_bytes }) => self.decode(frame.payload, plain_bytes as usize),
            None => Err(Malformed::new("a coding of 0 or 1", format!("{}", frame.coding_number))),
        }
    }

    fn decode(&mut self, stored: &[u8], plain_bytes: usize) -> Result<&[u8], Malformed> {
        if plain_bytes > PLAIN_BYTES_MAX {
            let expected = format!("a compressed payload of at most {PLAIN_BYTES_MAX} bytes");
            return Err(Malformed::new(expected, format!("{plain_bytes}")));
        }
        self.plain.resize(plain_bytes, 0);
        let context = self.context.get_or_insert_with(DCtx::create);
        // Never writes beyond `plain`, whatever the stored bytes say that they hold.
        let found = match context.decompress(&mut self.plain[..], stored) {
            Ok(count) if count == plain_bytes => return Ok(&self.plain),
            Ok(count) => format!("{count} bytes"),
            Err(code) => zstd_safe::get_error_name(code).to_owned(),
        };
        Err(Malformed::new(format!("{plain_bytes} bytes, compressed by zstd"), found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plain.len() + 1000];
        let count = Compressor::new().compress(plain, &mut out).unwrap();
        out.truncate(count);
        out
    }

    #[test]
    fn what_was_compressed_is_decoded_and_memory_is_used_again() {
        let mut decompressor = Decompressor::default();
        for length in [100_000, 0, 1, 70_000] {
            let plain: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
            let stored = compressed(&plain);
            assert!(length < 100 || stored.len() < length / 5, "{} of {length}", stored.len());
            assert_eq!(decompressor.decode(&stored, length).unwrap(), plain);
        }
    }

    #[test]
    fn what_does_not_fit_is_not_compressed() {
        let mut state = 1u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let plain: Vec<u8> = noise.take(10_000).collect();
        assert_eq!(Compressor::new().compress(&plain, &mut [0; 9_000]), None);
    }

    #[test]
    fn more_or_fewer_bytes_than_the_header_says_are_refused() {
        let bomb = compressed(&vec![0; 50_000_000]);
        assert!(bomb.len() < 10_000);
        let mut decompressor = Decompressor::default();
        for claimed in [0, 100, 49_999, PLAIN_BYTES_MAX] {
            let error = decompressor.decode(&bomb, claimed).unwrap_err();
            assert!(error.expected.contains(&format!("{claimed} bytes")), "{error:?}");
            assert!(decompressor.plain.capacity() <= PLAIN_BYTES_MAX);
        }
        let error = decompressor.decode(&bomb, 50_000_000).unwrap_err();
        assert!(error.expected.contains("at most"), "{error:?}");
        let error = decompressor.decode(&compressed(&[7; 500]), 501).unwrap_err();
        assert_eq!(error.found, "500 bytes");
    }

    #[test]
    fn damaged_bytes_are_refused_or_decoded_to_the_length_that_was_said() {
        let plain: Vec<u8> = (0..3000u32).map(|at| ((at * at) >> 3) as u8).collect();
        let stored = compressed(&plain);
        let mut decompressor = Decompressor::default();
        let mut refused = 0;
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match decompressor.decode(&flipped, plain.len()) {
                Ok(decoded) => assert_eq!(decoded.len(), plain.len()),
                Err(error) => refused += usize::from(!error.found.is_empty()),
            }
        }
        assert!(refused > 0);
        assert!(decompressor.decode(&stored[..stored.len() - 1], plain.len()).is_err());
    }
}
