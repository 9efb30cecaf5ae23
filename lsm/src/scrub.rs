//! The scrubber: reads every file, slowly, and compares it with its digest.
//!
//! Values are checked when they are read, so what nobody reads could rot unseen until the other
//! members have rotted too. The scrubber reads a bounded piece at a time; who calls it decides how
//! fast, and knows of the damage while the other copies are sound.
//!
//! It reads through the file, not the mapping, so that a page that the device cannot read is an
//! error and not a signal. What the kernel has in memory is compared as it is there; rot of the disk
//! beneath it shows in a pass after it has left memory.
//!
//! Invariants: only the file under way is held; a pass looks once at each file of the version that
//! was the newest when the pass began, but for those that are not needed any more at their turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};

use varve_disk::File;
use xxhash_rust::xxh3::Xxh3;

use crate::db::Shared;
use crate::files::FileGuard;
use crate::version::Version;
use crate::{Db, Error, Result};

/// What one call of [`Db::scrub`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes read and compared or on the way to be.
    pub bytes: u64,
    /// Files found to be what the manifest says.
    pub files: u64,
    /// Whether a pass over all files ended with this call.
    pub is_pass_done: bool,
}

/// Where the scrubber is; part of the worker's state.
#[derive(Default)]
pub(crate) struct Scrub {
    /// Names of the files of this pass that are still to come.
    names: VecDeque<String>,
    open: Option<OpenFile>,
}

struct OpenFile {
    guard: Arc<FileGuard>,
    file: Arc<dyn File>,
    bytes: u64,
    position: u64,
    digest: Xxh3,
}

impl Db {
    /// Reads and verifies about `budget_bytes` more of the files of the engine, beginning anew
    /// after the last one. Takes turns with [`Db::work`].
    ///
    /// # Errors
    /// Damage, with the file, what was expected and what was found. It is final: the data of this
    /// engine is not what was written.
    pub fn scrub(&self, budget_bytes: u64) -> Result<Scrubbed> {
        let mut worker = self.shared.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.scrub.step(&self.shared, budget_bytes)
    }
}

impl Scrub {
    fn step(&mut self, shared: &Shared, budget_bytes: u64) -> Result<Scrubbed> {
        let mut done = Scrubbed::default();
        let version = Arc::clone(&shared.current.load().version);
        if self.open.is_none() && self.names.is_empty() {
            self.names = files(&version).map(|(guard, _)| guard.name().to_owned()).collect();
        }
        while done.bytes < budget_bytes && !done.is_pass_done {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => match self.next(shared, &version)? {
                    Some(open) => open,
                    None => {
                        done.is_pass_done = true;
                        break;
                    }
                },
            };
            done.bytes += open.read(shared, budget_bytes - done.bytes)?;
            if open.position < open.bytes {
                self.open = Some(open);
            } else {
                open.compare(shared)?;
                done.files += 1;
                done.is_pass_done = self.names.is_empty();
            }
        }
        Ok(done)
    }

    /// Opens the next file that is still needed. The worker's lock is held, so it is not removed
    /// before it is open.
    fn next(&mut self, shared: &Shared, version: &Version) -> Result<Option<OpenFile>> {
        let files: BTreeMap<&str, _> = files(version).map(|file| (file.0.name(), file)).collect();
        while let Some(name) = self.names.pop_front() {
            if let Some((guard, bytes)) = files.get(name.as_str()).copied() {
                return OpenFile::new(shared, Arc::clone(guard), bytes).map(Some);
            }
        }
        Ok(None)
    }
}

/// All files of a version, with their lengths.
fn files(version: &Version) -> impl Iterator<Item = (&Arc<FileGuard>, u64)> {
    let tables = version.tables().map(|file| (&file.guard, file.record.info.bytes));
    tables.chain(version.segments().map(|file| (&file.guard, file.segment.info().bytes)))
}

impl OpenFile {
    fn new(shared: &Shared, guard: Arc<FileGuard>, bytes: u64) -> Result<Self> {
        let path = shared.place.dir.join(guard.name());
        let file = shared.place.disk.open(&path)?;
        let found = file.len()?;
        if found != bytes {
            return Err(Error::corrupt(
                &path,
                0,
                format!("{bytes} bytes"),
                format!("{found} bytes"),
            ));
        }
        Ok(Self { guard, file, bytes, position: 0, digest: Xxh3::new() })
    }

    /// Reads up to `budget_bytes`; how many bytes that were.
    fn read(&mut self, shared: &Shared, budget_bytes: u64) -> Result<u64> {
        let mut buffer = vec![0; (self.bytes - self.position).min(budget_bytes) as usize];
        let count = self.file.read_at(self.position, &mut buffer)?;
        if count < buffer.len() {
            let path = shared.place.dir.join(self.guard.name());
            let (expected, found) = (buffer.len(), format!("{count} before the end"));
            return Err(Error::corrupt(&path, self.position, format!("{expected} bytes"), found));
        }
        self.digest.update(&buffer);
        self.position += count as u64;
        Ok(count as u64)
    }

    fn compare(&self, shared: &Shared) -> Result<()> {
        let (expected, found) = (self.guard.digest(), self.digest.digest128());
        if found == expected {
            return Ok(());
        }
        let path = shared.place.dir.join(self.guard.name());
        let digest = |digest: u128| format!("digest {digest:032x} of the whole file");
        Err(Error::corrupt(&path, 0, digest(expected), digest(found)))
    }
}
