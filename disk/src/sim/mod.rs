//! The simulated disk: in memory, a function of its seed, and it crashes.
//!
//! One idea: what was written and what is durable are kept apart, for bytes (`content.rs`) and for
//! names (`names.rs`, `tree.rs`), by the rules of the crate's "What we assume of a disk". A crash
//! (`crash.rs`) makes of one such disk another, on which everything is durable. So a test can run
//! to any disk call, lose power there, and look at whatever might be found:
//!
//! ```
//! use std::path::Path;
//! use varve_disk::Disk;
//! use varve_disk::sim::{CrashStyle, SimDisk};
//!
//! let disk = SimDisk::new(1);
//! disk.stop_at_operation(2); // The create and the write pass; the sync loses power.
//! let file = disk.create(Path::new("/a")).unwrap();
//! file.write_at(0, b"hello").unwrap();
//! assert!(file.sync().is_err());
//! let found = disk.crash_with(CrashStyle::LoseAll);
//! assert!(!found.exists(Path::new("/a")).unwrap());
//! ```
//!
//! Paths begin at the root, which is durable and always there; `a/b` is `/a/b`. Every other
//! directory is lost like a file when its parent was not synced.
//!
//! What it does not do: a linked file is a copy, no permissions, no time; a mapping is a copy, so writing to
//! a mapped file is not noticed. The whole disk is behind one mutex, which is held for no longer
//! than one call.

mod calls;
mod content;
mod crash;
mod fault;
mod names;
mod random;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::crash::CrashStyle;
pub use self::fault::{Fault, FaultRule, OperationKind};
pub use self::random::Random;

use self::fault::Faults;
use self::names::NodeId;
use self::tree::Tree;
use crate::{Error, Result};

/// The size of a disk whose capacity was not set: 1 PiB.
const CAPACITY_DEFAULT_BYTES: u64 = 1 << 50;

/// A disk in memory. A clone is the same disk.
///
/// Invariants: all that happens on it is a function of the seed and of the calls, in order.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    tree: Tree,
    faults: Faults,
    random: Random,
    capacity_bytes: u64,
    /// Directories that are locked.
    locks: BTreeSet<NodeId>,
}

impl SimDisk {
    /// An empty disk. The seed decides what failed writes leave and what [`SimDisk::crash`] keeps.
    pub fn new(seed: u64) -> Self {
        Self::from_tree(Tree::new(), CAPACITY_DEFAULT_BYTES, seed)
    }

    /// A disk that holds these files, all durable, with the directories above them.
    ///
    /// Fails if a path is also a directory of another one, or contains `..`.
    pub fn from_files(seed: u64, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Self> {
        let mut tree = Tree::new();
        for (path, bytes) in files {
            tree.add_durable_file(path, bytes)
                .map_err(|error| Error::new("create", path, error))?;
        }
        Ok(Self::from_tree(tree, CAPACITY_DEFAULT_BYTES, seed))
    }

    fn from_tree(tree: Tree, capacity_bytes: u64, seed: u64) -> Self {
        let state = State {
            tree,
            faults: Faults::default(),
            random: Random::new(seed),
            capacity_bytes,
            locks: BTreeSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The power goes out, and comes back on a new disk as it may be found then: any legal subset
    /// of what was not synced, chosen by the disk's seed.
    ///
    /// On this handle, its clones and its files every later call fails; their locks are void.
    /// Crashing again is possible, and draws another subset of the same unsynced changes.
    pub fn crash(&self) -> Self {
        let seed = self.lock_state().random.next_u64();
        self.crash_with(CrashStyle::Random(seed))
    }

    /// As [`SimDisk::crash`], with a say in what is found. The new disk has the same capacity, no
    /// faults, and counts its operations from 0.
    pub fn crash_with(&self, style: CrashStyle) -> Self {
        let found = self.crash_image(style);
        self.lock_state().faults.cut_power();
        found
    }

    /// What [`SimDisk::crash_with`] would find now. This disk goes on, and as if nobody had asked:
    /// a test can look after every call of a single run.
    pub fn crash_image(&self, style: CrashStyle) -> Self {
        let state = self.lock_state();
        let tree = crash::crash(&state.tree, style);
        Self::from_tree(tree, state.capacity_bytes, state.random.clone().next_u64())
    }

    /// How many mutating operations (see [`OperationKind::is_mutating`]) were called so far,
    /// including failed ones, excluding those after the power went out.
    pub fn operations(&self) -> u64 {
        self.lock_state().faults.operations()
    }

    /// The power goes out just before the mutating operation of this number (the first is 0): it
    /// and all calls after it fail, and [`SimDisk::crash`] finds the state before it.
    ///
    /// To visit every crash point of a run: count its operations once, then run it again for each
    /// number up to that count.
    pub fn stop_at_operation(&self, operation: u64) {
        self.lock_state().faults.stop_at(operation);
    }

    /// Whether the power is out: a crash was taken, or the operation to stop at was reached.
    pub fn is_stopped(&self) -> bool {
        self.lock_state().faults.power_is_out()
    }

    /// Lets `count` mutating operations pass and fails the next one, once.
    pub fn fail_after(&self, count: u64, fault: Fault) {
        self.inject(FaultRule::new(fault).after(count));
    }

    /// Adds a rule for which operation fails.
    ///
    /// A failed write leaves any number of its first sectors; a failed sync leaves it open for good
    /// whether what was unsynced is durable, and a later sync reports success without changing
    /// that; other failed operations change nothing.
    pub fn inject(&self, rule: FaultRule) {
        self.lock_state().faults.add(rule);
    }

    /// Forgets all rules: the disk works again.
    pub fn clear_faults(&self) {
        self.lock_state().faults.clear_rules();
    }

    /// Limits the disk to so many bytes; more fail with [`io::ErrorKind::StorageFull`].
    ///
    /// A named file takes its length, rounded up to whole sectors; holes count.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.lock_state().capacity_bytes = capacity_bytes;
    }

    /// Inverts bit `bit` (0 is the lowest) of byte `byte` of the file that is at `path` now, in
    /// all its states: bit rot. Works without power too.
    ///
    /// Fails if there is no such file, byte or bit.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u32) -> Result<()> {
        let fail = |error| Error::new("flip a bit of", path, error);
        let mut state = self.lock_state();
        let file = state.tree.lookup_file(path).map_err(fail)?;
        if bit >= u8::BITS || !state.tree.file_mut(file).flip_bit(byte, bit) {
            let what = format!("found no bit {bit} of byte {byte}");
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        Ok(())
    }

    /// All files as they are on the medium: what [`CrashStyle::LoseAll`] would find. By absolute
    /// path. Works without power too.
    pub fn durable_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.lock_state();
        let files = state.tree.durable_files().into_iter();
        files.map(|(path, id)| (path, state.tree.file(id).durable_content().to_vec())).collect()
    }

    /// All files as they read now: what [`CrashStyle::KeepAll`] would find. By absolute path.
    /// Works without power too.
    pub fn current_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.lock_state();
        let files = state.tree.current_files().into_iter();
        files.map(|(path, id)| (path, state.tree.file(id).current().to_vec())).collect()
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a broken invariant that some thread already reported; a state
        // that goes on is better than a second panic in a destructor.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
