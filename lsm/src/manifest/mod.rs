//! The manifest: which files make up the engine, as a log of edits. See docs/FORMAT.md section 2.3.
//!
//! One idea: an edit is appended with one write and one sync, and carries a checksum over itself
//! and the checksum before it, so the log is believed exactly as far as the chain reaches. Every 64
//! edits, or when it has grown long, the whole state is written as the first edit of a new file,
//! and `CURRENT` is replaced by rename.
//!
//! Invariants:
//! - `CURRENT` names a file whose header and first edit are complete: both were synced before the
//!   rename.
//! - An edit names only files that were complete and durable before it was written.
//! - Each edit was durable before the next was written. So a crash can tear the last edit only: an
//!   invalid edit with a valid one behind it is damage and refused, at the end it is cut.
//!
//! What it does not do: it does not open the files that it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::{Disk, File};
use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result};

mod codec;
mod edit;
#[cfg(test)]
mod tests;

pub(crate) use edit::{Edit, Level, State, TableRecord};

use codec::Encoder;

/// Names the manifest in use.
pub(crate) const CURRENT_NAME: &str = "CURRENT";
/// Becomes [`CURRENT_NAME`] by rename.
pub(crate) const CURRENT_NEW_NAME: &str = "CURRENT.new";
/// Followed by the manifest's number as 16 hex digits.
pub(crate) const MANIFEST_PREFIX: &str = "MANIFEST-";

const MAGIC: [u8; 8] = *b"VRVMANIF";
const CURRENT_MAGIC: [u8; 8] = *b"VRVCURNT";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 56;
const CURRENT_BYTES: usize = 24;
/// Length, previous checksum, checksum, padding length... see docs/FORMAT.md section 2.3.
const EDIT_HEADER_BYTES: usize = 24;
/// Edits start at multiples of this, so that a search for a later one need not try every byte.
const EDIT_ALIGNMENT: usize = 8;
/// Edits after which a new manifest is begun.
const EDITS_MAX: u32 = 64;
/// Length after which a new manifest is begun, if the snapshot itself was not as long.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// Whose directory this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Cluster and node.
    pub identity: [u8; 16],
    /// High half of the ids of files that this directory makes.
    pub origin: u32,
}

/// The open manifest.
///
/// Invariants: `end` is where the next edit goes; all before it is durable. After a failed write
/// or sync nothing more is written.
pub(crate) struct Manifest {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    number: u64,
    file: Arc<dyn File>,
    end: u64,
    /// Checksum of the newest edit: the next one chains to it.
    previous: u64,
    edits: u32,
    /// Length after the first edit.
    snapshot_end: u64,
    has_failed: bool,
}

/// Name of the manifest with this number.
pub(crate) fn manifest_name(number: u64) -> String {
    format!("{MANIFEST_PREFIX}{number:016x}")
}

impl Manifest {
    /// Reads the manifest that `CURRENT` names; `None` if there is none. A torn last edit is cut.
    ///
    /// # Errors
    /// Damage, and an unknown format version.
    pub(crate) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Option<(Self, State)>> {
        // Names of a process that was killed before it synced them must not be believed: after
        // this, what `list` and `exists` say is durable.
        disk.sync_dir(dir)?;
        let current = dir.join(CURRENT_NAME);
        if !disk.exists(&current)? {
            return Ok(None);
        }
        let number = parse_current(&current, &read_file(&**disk, &current)?)?;
        let path = dir.join(manifest_name(number));
        let file = disk.open(&path)?;
        // After this, every edit that we are about to believe is durable.
        file.sync()?;
        let bytes = read_file(&**disk, &path)?;
        let recovered = recover(&path, &bytes)?;
        if recovered.number != number {
            let found = recovered.number.to_string();
            return Err(Error::corrupt(&path, 0, format!("manifest number {number}"), found));
        }
        if recovered.end < bytes.len() as u64 {
            file.set_len(recovered.end)?;
            // After this, the torn edit is gone for good, and cannot follow a later one.
            file.sync()?;
        }
        let manifest = Self {
            disk: Arc::clone(disk),
            dir: dir.to_path_buf(),
            identity: recovered.identity,
            number,
            file,
            end: recovered.end,
            previous: recovered.previous,
            edits: recovered.edits,
            snapshot_end: recovered.snapshot_end,
            has_failed: false,
        };
        Ok(Some((manifest, recovered.state)))
    }

    /// Begins manifest `number` with the whole `state` and makes it the current one. Durable on
    /// return.
    pub(crate) fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        identity: Identity,
        number: u64,
        state: &State,
    ) -> Result<Self> {
        let path = dir.join(manifest_name(number));
        let (bytes, previous) = image(identity, number, state);
        remove_if_there(&**disk, &path)?;
        let file = disk.create(&path)?;
        file.write_at(0, &bytes)?;
        // After this, the content of the manifest is durable: CURRENT may name it.
        file.sync()?;
        let new = dir.join(CURRENT_NEW_NAME);
        remove_if_there(&**disk, &new)?;
        let pointer = disk.create(&new)?;
        pointer.write_at(0, &current_image(number))?;
        // After this, the new CURRENT is complete, under its temporary name.
        pointer.sync()?;
        // After this, the name of the manifest is durable, before CURRENT names it.
        disk.sync_dir(dir)?;
        disk.rename(&new, &dir.join(CURRENT_NAME))?;
        // After this, a restart begins with the new manifest.
        disk.sync_dir(dir)?;
        let end = bytes.len() as u64;
        Ok(Self {
            disk: Arc::clone(disk),
            dir: dir.to_path_buf(),
            identity,
            number,
            file,
            end,
            previous,
            edits: 1,
            snapshot_end: end,
            has_failed: false,
        })
    }

    /// Whose directory this is.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Number of this manifest, part of its name.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Appends an edit; durable on return. The files that it adds, and their names, must be
    /// durable already.
    pub(crate) fn append(&mut self, edit: &Edit) -> Result<()> {
        self.refuse_after_failure()?;
        let (bytes, checksum) = edit_image(self.previous, edit);
        self.has_failed = true;
        self.file.write_at(self.end, &bytes)?;
        // After this, the edit is durable: a restart begins with the files that it names.
        self.file.sync()?;
        self.has_failed = false;
        self.end += bytes.len() as u64;
        self.previous = checksum;
        self.edits += 1;
        Ok(())
    }

    /// Whether it is time for [`Manifest::rotate`].
    pub(crate) fn is_long(&self) -> bool {
        self.edits > EDITS_MAX || self.end - self.snapshot_end > MANIFEST_BYTES_MAX
    }

    /// Goes on in a new file that begins with the whole `state`; the old one is removed.
    pub(crate) fn rotate(&mut self, state: &State) -> Result<()> {
        self.refuse_after_failure()?;
        self.has_failed = true;
        let next = Self::create(&self.disk, &self.dir, self.identity, self.number + 1, state)?;
        let old = std::mem::replace(self, next);
        // Needs no sync: a manifest that CURRENT does not name is removed at the next start.
        old.disk.remove(&old.dir.join(manifest_name(old.number)))?;
        Ok(())
    }

    /// A failed sync says nothing about what reached the disk, so nothing may follow it.
    fn refuse_after_failure(&self) -> Result<()> {
        if !self.has_failed {
            return Ok(());
        }
        let source = std::io::Error::other("an earlier write or sync failed");
        let path = self.dir.join(manifest_name(self.number));
        Err(varve_disk::Error::new("append to", &path, source).into())
    }
}

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

fn edit_image(previous: u64, edit: &Edit) -> (Vec<u8>, u64) {
    let payload = edit.encode();
    let mut to = Encoder::default();
    to.length(payload.len());
    to.u32(0);
    to.u64(previous);
    to.u64(0);
    to.raw(&payload);
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

struct Recovered {
    identity: Identity,
    number: u64,
    state: State,
    end: u64,
    previous: u64,
    edits: u32,
    snapshot_end: u64,
}

fn recover(path: &Path, bytes: &[u8]) -> Result<Recovered> {
    let (identity, number, header_checksum) = parse_header(path, bytes)?;
    let mut recovered = Recovered {
        identity,
        number,
        state: State::default(),
        end: HEADER_BYTES as u64,
        previous: header_checksum,
        edits: 0,
        snapshot_end: 0,
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
        let edit = Edit::decode(payload).map_err(|wrong| {
            let offset = (start + EDIT_HEADER_BYTES) as u64 + wrong.offset;
            Error::corrupt(path, offset, wrong.expected, wrong.found)
        })?;
        recovered
            .state
            .apply(edit)
            .map_err(|(expected, found)| Error::corrupt(path, start as u64, expected, found))?;
        recovered.end += length as u64;
        recovered.previous = checksum;
        recovered.edits += 1;
        if recovered.edits == 1 {
            recovered.snapshot_end = recovered.end;
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
    let field = |range: std::ops::Range<usize>| -> u64 {
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

fn parse_header(path: &Path, bytes: &[u8]) -> Result<(Identity, u64, u64)> {
    let wrong = |offset, expected: String, found: String| {
        Err(Error::corrupt(path, offset, expected, found))
    };
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        let found = format!("{} bytes", bytes.len());
        return wrong(0, format!("a header of {HEADER_BYTES} bytes"), found);
    };
    let mut from = codec::Decoder::new(header);
    let mut parse = || -> std::result::Result<_, codec::Wrong> {
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
    if version != FORMAT_VERSION {
        return wrong(8, format!("format version {FORMAT_VERSION}"), version.to_string());
    }
    let computed = xxh3_64(&header[..HEADER_BYTES - 8]);
    if checksum != computed || reserved != 0 {
        let offset = HEADER_BYTES as u64 - 8;
        return wrong(offset, format!("checksum {computed:016x}"), format!("{checksum:016x}"));
    }
    Ok((identity, number, checksum))
}

fn current_image(number: u64) -> [u8; CURRENT_BYTES] {
    let mut image = [0; CURRENT_BYTES];
    image[..8].copy_from_slice(&CURRENT_MAGIC);
    image[8..16].copy_from_slice(&number.to_le_bytes());
    let checksum = xxh3_64(&image[..16]);
    image[16..].copy_from_slice(&checksum.to_le_bytes());
    image
}

fn parse_current(path: &Path, bytes: &[u8]) -> Result<u64> {
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

fn read_file(disk: &dyn Disk, path: &Path) -> Result<Bytes> {
    let file = disk.open(path)?;
    let length = file.len()?;
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes.into())
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<()> {
    if disk.exists(path)? {
        disk.remove(path)?;
    }
    Ok(())
}
