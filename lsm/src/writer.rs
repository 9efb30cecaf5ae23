//! The only writer of an engine: batches of changes into the active memtable.
//!
//! A batch is a sequence of puts and deletes in both keyspaces, ended by [`Writer::commit`], which
//! makes all of it visible with one store. When the memtable is full the commit also freezes it, so
//! that a memtable always ends between two batches and its mark says exactly what is in it.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::db::Shared;
use crate::memtable::{Committed, MemtableWriter};
use crate::snapshot::Snapshot;
use crate::version::{SuperVersion, Version};
use crate::{Delta, Error, Keyspace, Kind, Meta, Result, Revision};

/// What becomes visible, together, at the end of a batch.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Opaque: where the caller's log stands (etcd: consistent index). Recovered with the data.
    pub mark: Bytes,
    /// Newest `kv` revision that readers see from now on.
    pub kv_visible: u64,
    /// `kv` versions whose successor is at or below this may be dropped; never goes back.
    pub compacted: u64,
}

/// The only writer of an engine; owned by the apply thread.
///
/// Invariants, each checked: revisions of a key grow; those of `kv` do not fall from one write to
/// the next, and are above what is visible (a visible revision never changes); what a commit
/// makes visible and compacted never goes back.
pub struct Writer {
    shared: Arc<Shared>,
    memtable: MemtableWriter,
    /// Newest `kv` revision written.
    kv_last: Revision,
    kv_visible: u64,
    compacted: u64,
    mark: Bytes,
    /// Whether the active memtable saw a commit.
    has_commit: bool,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, memtable: MemtableWriter) -> Self {
        let committed = memtable.memtable().committed();
        Self {
            shared,
            memtable,
            kv_last: Revision { main: committed.kv_visible, sub: u32::MAX },
            kv_visible: committed.kv_visible,
            compacted: committed.compacted,
            mark: committed.mark.clone(),
            has_commit: false,
        }
    }

    /// Adds a version that puts a value. Revisions of one key must grow. Not visible to readers
    /// until [`Writer::commit`]; visible at once through [`Writer::view`].
    ///
    /// Revisions of `kv` must not fall from one write to the next, and must be above
    /// [`Commit::kv_visible`] of the last commit.
    pub fn put(
        &mut self,
        keyspace: Keyspace,
        key: &[u8],
        revision: Revision,
        delta: Delta,
        meta: Meta,
        value: &[u8],
    ) {
        assert!(delta != Delta::Minus, "a put of {key:02x?} does not delete a key");
        self.check_revision(keyspace, revision);
        self.memtable.add(keyspace, key, revision, Kind::Put, delta, meta, value);
    }

    /// Adds a tombstone for a live key.
    pub fn delete(&mut self, keyspace: Keyspace, key: &[u8], revision: Revision) {
        self.check_revision(keyspace, revision);
        self.memtable.add(keyspace, key, revision, Kind::Delete, Delta::Minus, Meta::EMPTY, b"");
    }

    fn check_revision(&mut self, keyspace: Keyspace, revision: Revision) {
        if keyspace == Keyspace::Kv {
            assert!(
                revision >= self.kv_last && revision.main > self.kv_visible,
                "revision {revision:?} after {:?}, visible {}",
                self.kv_last,
                self.kv_visible
            );
            self.kv_last = revision;
        }
    }

    /// A view of everything including what is not committed yet. For the writer's thread.
    pub fn view(&self) -> Snapshot {
        Snapshot::of_writer(self.shared.current.load_full(), self.kv_last.main)
    }

    /// Ends a batch: publishes it to readers, and freezes the memtable if it is full.
    /// Nothing is durable by this: the caller's log is.
    ///
    /// A full memtable is not frozen while [`Options::frozen_memtables_max`] others wait for their
    /// flush: it grows, and [`Db::is_writer_ahead`] says so.
    ///
    /// [`Options::frozen_memtables_max`]: crate::Options::frozen_memtables_max
    /// [`Db::is_writer_ahead`]: crate::Db::is_writer_ahead
    pub fn commit(&mut self, commit: Commit) -> Result<()> {
        assert!(
            commit.kv_visible >= self.kv_visible && commit.kv_visible >= self.kv_last.main,
            "visible {} after {}, written {:?}",
            commit.kv_visible,
            self.kv_visible,
            self.kv_last
        );
        assert!(
            (self.compacted..=commit.kv_visible).contains(&commit.compacted),
            "compacted {} after {}, visible {}",
            commit.compacted,
            self.compacted,
            commit.kv_visible
        );
        self.kv_visible = commit.kv_visible;
        self.kv_last = Revision { main: commit.kv_visible, sub: u32::MAX };
        self.compacted = commit.compacted;
        self.mark = commit.mark;
        self.has_commit = true;
        self.memtable.commit(Committed { ordinal: self.memtable.ordinal(), ..self.state() });
        let options = &self.shared.options;
        let is_full = self.memtable.memtable().used_bytes() >= options.memtable_bytes;
        let waiting = self.shared.current.load().frozen.len();
        if is_full && waiting < options.frozen_memtables_max {
            self.freeze()?;
        }
        Ok(())
    }

    /// The committed state, for an empty memtable.
    fn state(&self) -> Committed {
        Committed {
            mark: self.mark.clone(),
            kv_visible: self.kv_visible,
            compacted: self.compacted,
            ordinal: 0,
        }
    }

    /// Freezes the memtable at the end of the last batch even if it is not full, so that
    /// [`Db::work`](crate::Db::work) makes it durable. Without a commit since the last freeze
    /// there is nothing to do. Must not be called within a batch.
    pub fn freeze(&mut self) -> Result<()> {
        let committed = self.memtable.memtable().committed();
        assert_eq!(committed.ordinal, self.memtable.ordinal(), "freeze within a batch");
        if !self.has_commit {
            return Ok(());
        }
        let fresh = MemtableWriter::new(self.state());
        self.shared.publish(|current| {
            let mut frozen = Vec::with_capacity(current.frozen.len() + 1);
            frozen.push(Arc::clone(&current.active));
            frozen.extend(current.frozen.iter().cloned());
            let (active, version) = (Arc::clone(fresh.memtable()), Arc::clone(&current.version));
            SuperVersion { active, frozen, version }
        });
        self.memtable = fresh;
        self.has_commit = false;
        Ok(())
    }

    /// Replaces the whole state by a received checkpoint whose files lie in `staged` (those that
    /// [`Db::has_file`] already knew may be absent there). Durable on return; old readers keep
    /// what they pinned. Uncommitted writes are discarded.
    ///
    /// # Errors
    /// A file that is missing or is not what the manifest says: the state is as before, and the
    /// caller may stage the files again. After an error of the disk the process stops.
    ///
    /// [`Db::has_file`]: crate::Db::has_file
    pub fn install(&mut self, manifest: &Bytes, staged: &Path) -> Result<()> {
        self.install_after(manifest, staged, |_| Ok(()))
    }

    /// As [`Writer::install`]; `before` gets to see the received state just before readers do.
    ///
    /// # Errors
    /// As there, and those of `before`: then readers keep the old state, a restart begins with the
    /// received one, and the process stops.
    pub fn install_after<E: From<Error>>(
        &mut self,
        manifest: &Bytes,
        staged: &Path,
        before: impl FnOnce(&Snapshot) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let shared = Arc::clone(&self.shared);
        let mut worker = shared.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let version = worker.install(&shared, manifest, staged)?;
        let fresh = MemtableWriter::new(committed_of(&version));
        let received = || SuperVersion {
            active: Arc::clone(fresh.memtable()),
            frozen: Vec::new(),
            version: Arc::clone(&version),
        };
        before(&Snapshot::of_committed(Arc::new(received())))?;
        shared.publish(|_| received());
        shared.pins().clear();
        drop(worker);
        *self = Self::new(shared, fresh);
        Ok(())
    }
}

/// What a restart with these files finds committed.
pub(crate) fn committed_of(version: &Version) -> Committed {
    Committed {
        mark: version.mark.clone().unwrap_or_default(),
        kv_visible: version.kv_visible,
        compacted: version.compacted,
        ordinal: 0,
    }
}
