//! State that travels: pinning it at the sender, installing it at the receiver.
//!
//! Files are immutable and named by ids that differ between nodes, so a checkpoint is a version
//! and a manifest that describes it: nothing is copied and nothing is stopped. The receiver says
//! by digest what it has already (after a short absence: most of it), and only the rest travels.
//!
//! **Installing.** Received files are verified, synced, and renamed into the directory; that alone
//! changes nothing, since no manifest names them. Then a new manifest is written and `CURRENT`
//! swapped by rename: before it a restart finds the old state, after it the new one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use varve_disk::Access;

use crate::db::{Db, Shared};
use crate::files::{FileGuard, map_verified, segment_name, table_name};
use crate::flush::FlushJob;
use crate::manifest::{self, Manifest, State, manifest_name};
use crate::merge::MergeJob;
use crate::version::Version;
use crate::worker::Worker;
use crate::{Error, Result};

/// A pinned, complete, durable state that can be sent elsewhere.
pub struct Checkpoint {
    /// A manifest that describes exactly `files`.
    pub manifest: Bytes,
    /// The mark of the newest commit that the files contain.
    pub mark: Bytes,
    /// The files, each complete and immutable.
    pub files: Vec<CheckpointFile>,
}

/// One file of a checkpoint.
#[derive(Clone)]
pub struct CheckpointFile {
    /// Its name in an engine directory.
    pub name: String,
    /// xxh3-128 of its content.
    pub digest: u128,
    /// Its content, mapped.
    pub content: Bytes,
}

impl Db {
    /// Pins the newest durable state for a transfer.
    pub fn checkpoint(&self) -> Checkpoint {
        let version = Arc::clone(&self.shared.current.load().version);
        let (manifest, _) = manifest::image(self.shared.identity, 1, &version.state(0));
        let tables = version.tables().map(|file| CheckpointFile {
            name: file.guard.name().to_owned(),
            digest: file.guard.digest(),
            content: file.table.content(),
        });
        let segments = version.segments().map(|file| CheckpointFile {
            name: file.guard.name().to_owned(),
            digest: file.guard.digest(),
            content: file.segment.content(),
        });
        Checkpoint {
            manifest: manifest.into(),
            mark: version.mark.clone().unwrap_or_default(),
            files: tables.chain(segments).collect(),
        }
    }

    /// `bytes`, a part of a checkpoint's file, will be read now, and all of it: lets the disk begin.
    pub fn will_read(&self, bytes: &[u8]) {
        self.shared.place.disk.advise(bytes, Access::Soon);
    }

    /// Which of a checkpoint's files are already here: by digest. A file that is stays until the
    /// next [`Writer::install`](crate::Writer::install) or [`Db::forget_promises`], even if merges
    /// drop it meanwhile.
    pub fn has_file(&self, name: &str, digest: u128) -> bool {
        // Held from the look to the promise: the file is not removed in between.
        let mut pins = self.shared.pins();
        if pins.iter().any(|pin| pin.name() == name && pin.digest() == digest) {
            return true;
        }
        let version = Arc::clone(&self.shared.current.load().version);
        let found = find_guard(&version, name, digest);
        pins.extend(found.map(Arc::clone));
        found.is_some()
    }

    /// What [`Db::has_file`] promised is not needed any more: nothing will be installed.
    pub fn forget_promises(&self) {
        self.shared.pins().clear();
    }

    /// Whether what was received could be installed: the manifest is sound, and each file that it
    /// names is here or in `staged`, complete. Changes nothing. Gives the mark of what the files
    /// contain; `None` when they hold no commit.
    ///
    /// [`Writer::install`](crate::Writer::install) checks the same, but too late for a receiver
    /// that could still refuse.
    ///
    /// # Errors
    /// As `install`.
    pub fn check_checkpoint(&self, manifest: &[u8], staged: &Path) -> Result<Option<Bytes>> {
        let state = manifest::parse(&staged.join("manifest"), manifest)?;
        verified_files(&self.shared, &state, staged)?;
        Ok(state.mark)
    }
}

/// The staged files that `state` needs, verified, with the names that they will have.
fn verified_files(
    shared: &Shared,
    state: &State,
    staged: &Path,
) -> Result<Vec<(PathBuf, PathBuf)>> {
    let (disk, dir) = (&shared.place.disk, &shared.place.dir);
    let current = Arc::clone(&shared.current.load().version);
    // The list is let go at once: what follows reads all that was received.
    let pins = shared.pins().clone();
    let here: BTreeMap<&str, u128> =
        guards(&current).chain(&pins).map(|guard| (guard.name(), guard.digest())).collect();
    let tables = state.tables.iter().map(|table| &table.info);
    let tables = tables.map(|info| (table_name(info.id), info.bytes, info.digest));
    let segments = state.segments.values();
    let segments = segments.map(|info| (segment_name(info.id), info.bytes, info.digest));
    let mut moves = Vec::new();
    for (name, bytes, digest) in tables.chain(segments) {
        let path = staged.join(&name);
        match here.get(name.as_str()) {
            Some(known) if *known == digest => continue,
            Some(known) => {
                let expected = format!("digest {known:032x}, as the file here has");
                return Err(Error::corrupt(&path, 0, expected, format!("{digest:032x}")));
            }
            None => {}
        }
        if !disk.exists(&path)? {
            return Err(Error::corrupt(&path, 0, "a file of the checkpoint", "none"));
        }
        map_verified(&**disk, &path, bytes, digest)?;
        moves.push((path, dir.join(&name)));
    }
    Ok(moves)
}

/// What holds the files of `version`.
pub(crate) fn guards(version: &Version) -> impl Iterator<Item = &Arc<FileGuard>> {
    let tables = version.tables().map(|file| &file.guard);
    tables.chain(version.segments().map(|file| &file.guard))
}

fn find_guard<'a>(version: &'a Version, name: &str, digest: u128) -> Option<&'a Arc<FileGuard>> {
    guards(version).find(|guard| guard.name() == name && guard.digest() == digest)
}

impl Shared {
    pub(crate) fn pins(&self) -> std::sync::MutexGuard<'_, Vec<Arc<FileGuard>>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Replaces the files by those of a checkpoint. Durable on return; publishing is the caller's.
    pub(crate) fn install(
        &mut self,
        shared: &Shared,
        manifest: &[u8],
        staged: &Path,
    ) -> Result<Arc<Version>> {
        let mut state = manifest::parse(&staged.join("manifest"), manifest)?;
        self.take_files(shared, &state, staged)?;
        let old = Arc::clone(&shared.current.load().version);
        let version = Arc::new(Version::open(&state, &shared.opener())?);
        let ids = state.tables.iter().map(|table| table.info.id);
        ids.chain(state.segments.keys().copied()).for_each(|id| self.ids.skip(id));
        state.next_sequence = self.ids.next_sequence();
        let (disk, dir) = (&shared.place.disk, &shared.place.dir);
        let number = self.manifest.number();
        // On return a restart begins with the installed state.
        self.manifest = Manifest::create(disk, dir, shared.identity, number + 1, &state)?;
        disk.remove(&dir.join(manifest_name(number)))?;
        // Not before: had the installation been refused, they would go on.
        let merge = self.job.take().map(MergeJob::abandon);
        let flush = self.flush.take().map(FlushJob::abandon);
        merge.into_iter().chain(flush).flatten().for_each(|name| shared.removals.add(name));
        for guard in guards(&old) {
            if find_guard(&version, guard.name(), guard.digest()).is_none() {
                guard.set_obsolete();
            }
        }
        Ok(version)
    }

    /// Brings all files of `state` into the directory, verified and durable.
    fn take_files(&mut self, shared: &Shared, state: &State, staged: &Path) -> Result<()> {
        let (disk, dir) = (&shared.place.disk, &shared.place.dir);
        let moves = verified_files(shared, state, staged)?;
        for (path, _) in &moves {
            // After this, the content is durable; the name will be after the directory's sync.
            disk.open(path)?.sync()?;
        }
        for (from, to) in &moves {
            disk.rename(from, to)?;
        }
        // After this, all files that the new manifest names are durable under their names (a
        // rename between directories is when both are synced).
        if !moves.is_empty() {
            disk.sync_dir(dir)?;
            disk.sync_dir(staged)?;
        }
        Ok(())
    }
}
