//! The bytes of a manifest: what is written, and how much of what is found is believed.
//!
//! Specified in docs/FORMAT.md section 2.3. Pure: slices in, states out; the files are the
//! business of [`Manifest`](super::Manifest).

use std::ops::Range;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::Identity;
use super::codec::{Decoder, Encoder, Wrong};
use super::edit::{Edit, State};
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"VRVMANIF";
const CURRENT_MAGIC: [u8; 8] = *b"VRVCURNT";
/// The version that is written; the one before it is read, too.
pub(super) const FORMAT_VERSION: u32 = 2;
const FORMAT_VERSION_OLDEST: u32 = 1;
const HEADER_BYTES: usize = 56;
const CURRENT_BYTES: usize = 24;
/// Payload length, zero, previous checksum, checksum.
const EDIT_HEADER_BYTES: usize = 24;
/// An edit without a payload, which no edit is.
const RECEIPT_BYTES: u64 = EDIT_HEADER_BYTES as u64;
/// Edits start at multiples of this, so that a search for a later one need not try every byte.
const EDIT_ALIGNMENT: usize = 8;

/// A manifest file with `state` as its only edit, and the checksum that the next edit chains to.
pub(crate) fn image(identity: Identity, number: u64, state: &State) -> (Vec<u8>, u64) {
    let mut to = Encoder::default();
    to.raw(&MAGIC);
    to.u32(FORMAT_VERSION);
    to.u32(identity.origin);
    to.raw(&identity.identity);
    to.u64(number);
    to.u64(0);
    let mut bytes = to.finish();
    let checksum = xxh3_64(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    assert_eq!(bytes.len(), HEADER_BYTES, "the header has its length");
    let (edit, previous) = edit_image(checksum, &state.to_edit());
    bytes.extend_from_slice(&edit);
    (bytes, previous)
}

/// The state in a manifest file that came from elsewhere, where every edit must be whole.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<State> {
    let recovered = recover(path, bytes)?;
    if recovered.end != bytes.len() as u64 {
        let found = format!("{} bytes", bytes.len());
        return Err(Error::corrupt(path, recovered.end, "the end of the manifest", found));
    }
    Ok(recovered.state)
}

/// The bytes of an edit that follows checksum `previous`, and its own checksum.
pub(super) fn edit_image(previous: u64, edit: &Edit) -> (Vec<u8>, u64) {
    record_image(previous, &edit.encode())
}

/// What is written behind an edit, here that of this checksum, once it is durable: if it is found
/// damaged, it was not torn.
pub(super) fn receipt_image(edit_checksum: u64) -> Vec<u8> {
    record_image(edit_checksum, &[]).0
}

fn record_image(previous: u64, payload: &[u8]) -> (Vec<u8>, u64) {
    let mut to = Encoder::default();
    to.length(payload.len());
    to.u32(0);
    to.u64(previous);
    to.u64(0);
    to.raw(payload);
    let mut bytes = to.finish();
    bytes.resize(bytes.len().next_multiple_of(EDIT_ALIGNMENT), 0);
    let checksum = edit_checksum(&bytes);
    bytes[16..EDIT_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    (bytes, checksum)
}

/// Over all bytes of the edit, padding included, with zeros in the place of the checksum.
fn edit_checksum(bytes: &[u8]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&bytes[..16]);
    hasher.update(&[0; 8]);
    hasher.update(&bytes[EDIT_HEADER_BYTES..]);
    hasher.digest()
}

/// What a manifest file says, as far as it can be believed.
pub(super) struct Recovered {
    pub version: u32,
    pub identity: Identity,
    pub number: u64,
    pub state: State,
    /// Length of what is believed, with the receipt of the last edit, which may be missing; the
    /// rest is torn.
    pub end: u64,
    /// Checksum of the last edit.
    pub previous: u64,
    pub edits: u32,
    /// Length after the first edit.
    pub snapshot_end: u64,
    /// Where the last edit is.
    pub last: Range<usize>,
}

/// Reads all edits that can be believed; see the table in docs/FORMAT.md section 2.3.
pub(super) fn recover(path: &Path, bytes: &[u8]) -> Result<Recovered> {
    let Header { version, identity, number, checksum: header_checksum } =
        parse_header(path, bytes)?;
    let mut recovered = Recovered {
        version,
        identity,
        number,
        state: State::default(),
        end: HEADER_BYTES as u64,
        previous: header_checksum,
        edits: 0,
        snapshot_end: 0,
        last: 0..0,
    };
    while (recovered.end as usize) < bytes.len() {
        let start = recovered.end as usize;
        let Some((payload, previous, checksum, length)) = edit_at(&bytes[start..]) else {
            refuse_unless_torn(path, bytes, start, recovered.edits)?;
            break;
        };
        if previous != recovered.previous {
            let expected = format!("an edit after checksum {:016x}", recovered.previous);
            let found = format!("one after {previous:016x}");
            return Err(Error::corrupt(path, start as u64, expected, found));
        }
        let edit = Edit::decode(payload, version).map_err(|wrong| {
            let offset = (start + EDIT_HEADER_BYTES) as u64 + wrong.offset;
            Error::corrupt(path, offset, wrong.expected, wrong.found)
        })?;
        recovered
            .state
            .apply(edit)
            .map_err(|(expected, found)| Error::corrupt(path, start as u64, expected, found))?;
        recovered.last = start..start + length;
        recovered.end += length as u64;
        recovered.previous = checksum;
        recovered.edits += 1;
        if recovered.edits == 1 {
            recovered.snapshot_end = recovered.end;
        } else if version == FORMAT_VERSION {
            // What stands there counts only where the edit before it is damaged.
            recovered.end += RECEIPT_BYTES;
        }
    }
    if recovered.edits == 0 {
        let found = format!("{} bytes", bytes.len());
        return Err(Error::corrupt(path, HEADER_BYTES as u64, "a first edit", found));
    }
    Ok(recovered)
}

/// The edit at the start of `bytes`, if its checksum holds: payload, previous checksum, checksum,
/// length with header and padding.
fn edit_at(bytes: &[u8]) -> Option<(&[u8], u64, u64, usize)> {
    let header = bytes.get(..EDIT_HEADER_BYTES)?;
    let field = |range: Range<usize>| -> u64 {
        header[range].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    let payload_end = EDIT_HEADER_BYTES + field(0..4) as usize;
    let length = payload_end.next_multiple_of(EDIT_ALIGNMENT);
    let whole = bytes.get(..length)?;
    let checksum = field(16..EDIT_HEADER_BYTES);
    if field(4..8) != 0 || edit_checksum(whole) != checksum {
        return None;
    }
    Some((&whole[EDIT_HEADER_BYTES..payload_end], field(8..16), checksum, length))
}

/// The edit at `start` is invalid: torn if it is the last and not the first.
fn refuse_unless_torn(path: &Path, bytes: &[u8], start: usize, edits: u32) -> Result<()> {
    let refuse = |found: String| {
        Err(Error::corrupt(path, start as u64, "an edit whose checksum holds", found))
    };
    if edits == 0 {
        return refuse("an invalid one, though it was synced before CURRENT named the file".into());
    }
    let later = (start + EDIT_ALIGNMENT..bytes.len())
        .step_by(EDIT_ALIGNMENT)
        .find(|&offset| edit_at(&bytes[offset..]).is_some());
    match later {
        Some(later) => refuse(format!("an invalid one, before a valid one at {later}")),
        None => Ok(()),
    }
}

struct Header {
    version: u32,
    identity: Identity,
    number: u64,
    checksum: u64,
}

fn parse_header(path: &Path, bytes: &[u8]) -> Result<Header> {
    let wrong = |offset, expected: String, found: String| {
        Err(Error::corrupt(path, offset, expected, found))
    };
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        let found = format!("{} bytes", bytes.len());
        return wrong(0, format!("a header of {HEADER_BYTES} bytes"), found);
    };
    let mut from = Decoder::new(header);
    let mut parse = || -> std::result::Result<_, Wrong> {
        let magic = from.raw(MAGIC.len())?.to_vec();
        let version = from.u32()?;
        let origin = from.u32()?;
        let identity: [u8; 16] = from.u128()?.to_le_bytes();
        let number = from.u64()?;
        let reserved = from.u64()?;
        let checksum = from.u64()?;
        Ok((magic, version, Identity { identity, origin }, number, reserved, checksum))
    };
    let (magic, version, identity, number, reserved, checksum) =
        parse().expect("the header has the length of its fields");
    if magic != MAGIC {
        return wrong(0, format!("{MAGIC:02x?}"), format!("{magic:02x?}"));
    }
    if !(FORMAT_VERSION_OLDEST..=FORMAT_VERSION).contains(&version) {
        let expected = format!("format version {FORMAT_VERSION_OLDEST} to {FORMAT_VERSION}");
        return wrong(8, expected, version.to_string());
    }
    let computed = xxh3_64(&header[..HEADER_BYTES - 8]);
    if checksum != computed || reserved != 0 {
        let offset = HEADER_BYTES as u64 - 8;
        return wrong(offset, format!("checksum {computed:016x}"), format!("{checksum:016x}"));
    }
    Ok(Header { version, identity, number, checksum })
}

/// The bytes of `CURRENT` for this manifest.
pub(super) fn current_image(number: u64) -> [u8; CURRENT_BYTES] {
    let mut image = [0; CURRENT_BYTES];
    image[..8].copy_from_slice(&CURRENT_MAGIC);
    image[8..16].copy_from_slice(&number.to_le_bytes());
    let checksum = xxh3_64(&image[..16]);
    image[16..].copy_from_slice(&checksum.to_le_bytes());
    image
}

/// The number of the manifest that `CURRENT` names.
pub(super) fn parse_current(path: &Path, bytes: &[u8]) -> Result<u64> {
    let number = bytes
        .get(8..16)
        .and_then(|field| field.try_into().ok())
        .map(u64::from_le_bytes)
        .unwrap_or_default();
    let expected = current_image(number);
    if bytes != expected {
        let found = format!("{bytes:02x?}");
        return Err(Error::corrupt(path, 0, format!("{expected:02x?}"), found));
    }
    Ok(number)
}
