//! Bugs planted on purpose, to see that they are found: ways in which the shell around the pure parts
//! (threads, queues, network, disk) could be wrong,
//! and in them.
//!
//! One idea: around them, a planted bug is something that the simulation does *to* a sound member. In
//! them, it is a line that only the feature `trial` compiles in (`varve_disk::trial`). So none can be
//! in a server. `varve-sim plant NAME` looks for one; docs/TESTING.md has the table.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::durable::{Backend, DurableWriter};
use varve_disk::{DirLock, Disk, File, Result};

/// The planted bugs: name, and what is wrong.
pub const PLANTS: &[(Plant, &str, &str)] = &[
    (Plant::LogSync, "log-sync", "the log is not synced: acknowledged before durable"),
    (Plant::EngineSync, "engine-sync", "files of the engine are not synced before they count"),
    (Plant::DirectorySync, "directory-sync", "names are not synced"),
    (Plant::ReadEarly, "read-early", "a read does not wait until its index is applied"),
    (Plant::ReadAlone, "read-alone", "who last led reads without asking a quorum"),
    (Plant::LessorHurries, "lessor-hurries", "the lessor's clock is twice as fast"),
    (Plant::ProposalTwice, "proposal-twice", "a forwarded proposal is delivered twice"),
    (Plant::CutAhead, "cut-ahead", "the log is cut up to what is applied, not what is durable"),
    (Plant::EntrySkipped, "entry-skipped", "the first entry after a start changes nothing"),
    (Plant::Diverges, "diverges", "one member applies a command less now and then"),
    (Plant::EventsLost, "events-lost", "a batch of events does not reach the watchers"),
    (Plant::EventsTwice, "events-twice", "a batch of events reaches the watchers twice"),
    (Plant::ResyncLost, "resync-lost", "watchers are not told that events were skipped"),
    within("vote-forgotten", "a vote is given before it is durable"),
    within("sent-before-sync", "a follower acknowledges what it has not synced"),
    within("read-context-reused", "a later round of reads has the context of the earlier one"),
    within("mark-ahead", "the applied index is durable before what it stands for"),
    within("tombstone-early", "a merge drops a tombstone that hides a value in an older table"),
    within("delta-misfolded", "a merge forgets what dropped versions counted"),
    within("compacted-too-far", "a merge drops one revision too many"),
    within("revision-reused", "a start goes on with the revision before the last"),
    within("lease-keeps-key", "a deleted key stays with its lease"),
    within("lease-not-restarted", "a new leader does not start leases afresh"),
    within("renewal-unchecked", "a renewal is told without asking whether its leader still leads"),
    within("handed-over-early", "a watcher goes live before it has caught up"),
    within("resumed-twice", "a watcher that falls behind gets the last revision again"),
    within("progress-ahead", "a watcher that is behind is told that it is not"),
    within("learner-counts", "Raft counts a learner as a voter"),
    within("removal-forgotten", "that a change of the members is committed is not durable at once"),
    within("removed-goes-on", "a member that was removed does not end"),
    within("removed-still-counts", "Raft goes on counting a member that was removed"),
    within("history-of-what-is-gone", "a watcher gets history that was compacted meanwhile"),
    within("compaction-forgotten", "a snapshot takes a member back behind its last compaction"),
    within("lease-outlived", "a leader answers reads by a lease that is over"),
    within("silence-forgotten", "a voter that starts again votes against a lease that it gave"),
    within("revoked-by-old-leader", "who leads no more revokes leases by its own clock"),
    within("tail-cut-too-far", "the log is cut one frame before its torn tail"),
    within("middle-cut", "the log is cut at damage in its middle"),
    within("recycled-believed", "frames of what a segment of the log held before count"),
    within("frame-unchecked", "the checksum of the log's frames is not compared"),
    within("table-unchecked", "the digest of key tables is not compared"),
    within("value-unchecked", "the checksum of values is not compared"),
];

/// A bug in the crates below.
const fn within(name: &'static str, what: &'static str) -> (Plant, &'static str, &'static str) {
    (Plant::Within(name), name, what)
}

/// See [`PLANTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    LogSync,
    EngineSync,
    DirectorySync,
    ReadEarly,
    ReadAlone,
    LessorHurries,
    ProposalTwice,
    CutAhead,
    EntrySkipped,
    Diverges,
    EventsLost,
    EventsTwice,
    ResyncLost,
    /// In the code, by the name of `varve_disk::trial`.
    Within(&'static str),
}

/// The name of a bug in the crates below.
pub fn bug_within(plant: Plant) -> Option<&'static str> {
    match plant {
        Plant::Within(name) => Some(name),
        _ => None,
    }
}

/// The bug of a name.
pub fn named(name: &str) -> Option<Plant> {
    PLANTS.iter().find(|(_, known, _)| *known == name).map(|(plant, _, _)| *plant)
}

/// A disk that skips the syncs that a planted bug forgets.
pub fn disk(plant: Option<Plant>, disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
    match plant {
        Some(plant @ (Plant::LogSync | Plant::EngineSync | Plant::DirectorySync)) => {
            Arc::new(Liar { disk, plant })
        }
        _ => disk,
    }
}

struct Liar {
    disk: Arc<dyn Disk>,
    plant: Plant,
}

impl Liar {
    /// Whether syncs of this file are skipped.
    fn skips(&self, path: &Path) -> bool {
        let is_log = path.components().any(|part| part.as_os_str() == "log");
        match self.plant {
            Plant::LogSync => is_log,
            Plant::EngineSync => path.components().any(|part| part.as_os_str() == "engine"),
            _ => false,
        }
    }

    fn file(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        if self.skips(path) { Arc::new(Unsynced(file)) } else { file }
    }
}

/// A file whose syncs do nothing.
struct Unsynced(Arc<dyn File>);

impl File for Unsynced {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.write_at(offset, data)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn len(&self) -> Result<u64> {
        self.0.len()
    }
    fn set_len(&self, length_bytes: u64) -> Result<()> {
        self.0.set_len(length_bytes)
    }
    fn preallocate(&self, length_bytes: u64) -> Result<()> {
        self.0.preallocate(length_bytes)
    }
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(offset, buffer)
    }
}

impl DurableWriter for Unsynced {
    fn write_durable_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.write_at(offset, data)
    }
}

impl Disk for Liar {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        Ok(self.file(path, self.disk.create(path)?))
    }
    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        Ok(self.file(path, self.disk.open(path)?))
    }
    fn open_durable(&self, path: &Path, backend: Backend) -> Result<Box<dyn DurableWriter>> {
        match self.skips(path) {
            true => Ok(Box::new(Unsynced(self.disk.open(path)?))),
            false => self.disk.open_durable(path, backend),
        }
    }
    fn backends(&self) -> &'static [Backend] {
        self.disk.backends()
    }
    fn map(&self, path: &Path) -> Result<Bytes> {
        self.disk.map(path)
    }
    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> Result<()> {
        self.disk.remove_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn exists(&self, path: &Path) -> Result<bool> {
        self.disk.exists(path)
    }
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        if self.plant == Plant::DirectorySync { Ok(()) } else { self.disk.sync_dir(dir) }
    }
    fn space_left(&self, dir: &Path) -> Result<u64> {
        self.disk.space_left(dir)
    }
    fn lock(&self, dir: &Path) -> Result<Box<dyn DirLock>> {
        self.disk.lock(dir)
    }
}
