//! What a sender offers: the manifest of its engine, and each file with its digest.
//!
//! Layout: `docs/FORMAT.md`, section 5. The receiver trusts none of it: a name becomes a path here.

use bytes::{BufMut, Bytes, BytesMut};
use varve_lsm::Checkpoint;

use crate::peer::frame::{Fields, FrameError};

/// What a sender says about one file.
#[derive(Clone)]
pub(in crate::peer) struct OfferedFile {
    pub(in crate::peer) name: String,
    /// xxh3-128 of its content.
    pub(in crate::peer) digest: u128,
    pub(in crate::peer) bytes: u64,
}

pub(in crate::peer) fn encode_offer(checkpoint: &Checkpoint) -> Bytes {
    let mut offer = BytesMut::new();
    offer.put_u32_le(u32::try_from(checkpoint.manifest.len()).expect("manifests are small"));
    offer.put_slice(&checkpoint.manifest);
    offer.put_u32_le(u32::try_from(checkpoint.files.len()).expect("files are countable"));
    for file in &checkpoint.files {
        offer.put_u16_le(u16::try_from(file.name.len()).expect("names are short"));
        offer.put_slice(file.name.as_bytes());
        offer.put_u128_le(file.digest);
        offer.put_u64_le(file.content.len() as u64);
    }
    offer.freeze()
}

pub(super) fn decode_offer(payload: &[u8]) -> Result<(Bytes, Vec<OfferedFile>), FrameError> {
    let mut fields = Fields::new("a snapshot offer", payload);
    let manifest_bytes = fields.u32()? as usize;
    let manifest = Bytes::copy_from_slice(fields.slice(manifest_bytes)?);
    let mut files = Vec::new();
    for _ in 0..fields.u32()? {
        let name_bytes = u16::from_le_bytes(fields.take()?);
        let name = fields.slice(usize::from(name_bytes))?;
        let name =
            std::str::from_utf8(name).ok().filter(|name| is_file_name(name)).ok_or_else(|| {
                FrameError::malformed(
                    "a file name of letters, digits and dots",
                    format!("{name:02x?}"),
                )
            })?;
        let (name, digest) = (name.to_owned(), u128::from_le_bytes(fields.take()?));
        files.push(OfferedFile { name, digest, bytes: fields.u64()? });
    }
    Ok((manifest, files))
}

/// Names come from another machine and become paths here.
fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_from_a_peer_cannot_leave_the_directory() {
        assert!(is_file_name("00000000000000a1.kt"));
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a b", "a\0"] {
            assert!(!is_file_name(name), "{name:?}");
        }
    }
}
