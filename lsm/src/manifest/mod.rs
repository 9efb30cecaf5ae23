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
//! - Each edit was durable before the next was written, or the *receipt* behind it. So a crash can
//!   tear the last edit only, and that has no receipt: an invalid edit with anything valid behind it
//!   is damage and refused, at the end it is cut.
//!
//! What it does not do: it does not open the files that it names.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::{Disk, File};

use crate::{Error, Result};

mod codec;
mod edit;
mod image;
#[cfg(test)]
mod tests;

pub(crate) use edit::{Edit, Level, State, TIER_MAX, TableRecord};
pub(crate) use image::{image, parse};

use image::{
    FORMAT_VERSION, Recovered, current_image, edit_image, parse_current, receipt_image, recover,
};

/// Names the manifest in use.
pub(crate) const CURRENT_NAME: &str = "CURRENT";
/// Becomes [`CURRENT_NAME`] by rename.
pub(crate) const CURRENT_NEW_NAME: &str = "CURRENT.new";
/// Followed by the manifest's number as 16 hex digits.
pub(crate) const MANIFEST_PREFIX: &str = "MANIFEST-";

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
/// Invariants: `end` is where the next edit goes; all before it is durable, but for the receipt of
/// the last edit. After a failed write or sync nothing more is written.
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
    /// Written by an older program: read, never appended to.
    is_outdated: bool,
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
        let bytes = read_file(&**disk, &path)?;
        let recovered = recover(&path, &bytes)?;
        if recovered.number != number {
            let found = recovered.number.to_string();
            return Err(Error::corrupt(&path, 0, format!("manifest number {number}"), found));
        }
        settle(&*file, &recovered, &bytes)?;
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
            is_outdated: recovered.version < FORMAT_VERSION,
        };
        Ok(Some((manifest, recovered.state)))
    }

    /// What the manifest that `CURRENT` names adds up to; `None` if there is none. Changes nothing.
    ///
    /// # Errors
    /// As [`Manifest::open`].
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<State>> {
        let current = dir.join(CURRENT_NAME);
        if !disk.exists(&current)? {
            return Ok(None);
        }
        let number = parse_current(&current, &read_file(disk, &current)?)?;
        let path = dir.join(manifest_name(number));
        Ok(Some(recover(&path, &read_file(disk, &path)?)?.state))
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
            is_outdated: false,
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
        assert!(!self.is_outdated, "an older manifest is rotated before it is appended to");
        self.refuse_after_failure()?;
        let (bytes, checksum) = edit_image(self.previous, edit);
        self.has_failed = true;
        self.file.write_at(self.end, &bytes)?;
        // After this, the edit is durable: a restart begins with the files that it names.
        self.file.sync()?;
        let receipt = receipt_image(checksum);
        self.end += (bytes.len() + receipt.len()) as u64;
        self.previous = checksum;
        self.edits += 1;
        match self.write_receipt() {
            // The edit is durable without it.
            Err(Error::Disk(error)) if error.source.kind() == ErrorKind::StorageFull => {}
            written => written?,
        }
        self.has_failed = false;
        Ok(())
    }

    /// Whether it has an older version, and must be rotated before an edit is appended.
    pub(crate) fn is_outdated(&self) -> bool {
        self.is_outdated
    }

    /// Writes the receipt of the last edit again: a crash may have kept it from the disk. Without it
    /// all goes on as well, so a full disk is no reason to refuse.
    pub(crate) fn restore_receipt(&mut self) {
        if self.edits > 1 {
            let _ = self.write_receipt();
        }
    }

    /// Writes the receipt of the last edit, which is durable. Needs no sync: without its receipt a
    /// damaged last edit is taken for a torn one, which is a later and smaller evil.
    fn write_receipt(&mut self) -> Result<()> {
        let receipt = receipt_image(self.previous);
        Ok(self.file.write_at(self.end - receipt.len() as u64, &receipt)?)
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

/// Makes the newest edit durable that is about to be believed.
///
/// It may be in the kernel's cache only: when its sync failed, the process stopped, and the kernel then
/// took the pages and the file's new length for clean, so that no later sync writes them. All before it
/// are durable. It is written with the bytes that it has, so a crash here changes nothing; then its
/// receipt, which makes the file longer if there was none. A full disk may lack the room for that.
fn settle(file: &dyn File, recovered: &Recovered, bytes: &[u8]) -> Result<()> {
    let Range { start, end } = recovered.last;
    file.write_at(start as u64, &bytes[start..end])?;
    // After this, the bytes of every edit that was read are durable.
    file.sync()?;
    if recovered.edits == 1 || recovered.version < FORMAT_VERSION {
        return Ok(());
    }
    match file.write_at(end as u64, &receipt_image(recovered.previous)) {
        // After this, so is the length that they need.
        Ok(()) => Ok(file.sync()?),
        Err(error) if error.source.kind() == ErrorKind::StorageFull => Ok(()),
        Err(error) => Err(error.into()),
    }
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
