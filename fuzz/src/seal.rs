//! Checksums of the log's format, computed once more: so that a tape gets past them.
//!
//! One idea: behind a checksum a fuzzer only ever sees "does not verify"; what lies behind it is
//! reached by damage that is sealed again, as a bug of a writer would. Written after
//! `docs/FORMAT.md`, sections 1.2 to 1.4, not after the code under test.

/// Bytes of a segment's header that mean something.
pub const SEGMENT_HEADER_BYTES: usize = 512;
/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 64;

/// Gives a segment's header the checksum that its bytes ask for.
pub fn seal_segment(bytes: &mut [u8]) {
    if bytes.len() >= SEGMENT_HEADER_BYTES {
        let crc = crc32fast::hash(&bytes[..508]);
        bytes[508..SEGMENT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Gives the frame at `offset` of a segment the checksum that its bytes ask for, if it lies within;
/// that checksum.
pub fn seal_frame(bytes: &mut [u8], offset: usize) -> Option<u32> {
    let header = bytes.get(offset..offset + FRAME_HEADER_BYTES)?;
    let payload_bytes = u32::from_le_bytes(header[40..44].try_into().expect("four bytes"));
    let end = (offset + FRAME_HEADER_BYTES).checked_add(payload_bytes as usize)?;
    if end > bytes.len() || bytes.len() < SEGMENT_HEADER_BYTES {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    // Identity, segment id and generation, as the segment's header has them.
    hasher.update(&bytes[16..48]);
    hasher.update(&bytes[offset..offset + 60]);
    hasher.update(&bytes[offset + FRAME_HEADER_BYTES..end]);
    let crc = hasher.finalize();
    bytes[offset + 60..offset + FRAME_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    Some(crc)
}

/// Seals what looks like a segment: its header, and every frame that begins on a block of 512
/// bytes. The checksums that frames name of one another are left as they are.
pub fn seal_all(bytes: &mut [u8]) {
    seal_segment(bytes);
    for offset in (SEGMENT_HEADER_BYTES..bytes.len()).step_by(512) {
        if bytes[offset..].starts_with(b"VWLF") {
            seal_frame(bytes, offset);
        }
    }
}

/// A record with the right checksum.
pub fn record(kind: u8, index: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 0, 0, 0];
    record.extend((payload.len() as u32).to_le_bytes());
    record.extend(index.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record);
    hasher.update(payload);
    let masked = hasher.finalize().rotate_right(15).wrapping_add(0xa282_ead8);
    record.extend(masked.to_le_bytes());
    record.extend(payload);
    record
}
