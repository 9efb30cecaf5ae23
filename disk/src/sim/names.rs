//! Changes of names that are not durable yet.
//!
//! One idea: a change is a set of edits of directory entries that takes place whole or not at all;
//! that makes a rename atomic. A create and a remove are one edit, a rename is two. Each change is
//! kept or lost by itself, except that one entry only ever takes the states that it had in the
//! order in which it had them: a change is lost with any earlier one to the same entry that is
//! lost, and becomes durable together with all earlier ones to the same entries. Likewise the
//! removal of a directory stands and falls with all that emptied it: a file that was moved out
//! before is not lost with it.
//!
//! What it does not do: it does not know what an entry leads to (`tree.rs`), and does not order
//! moves of directories into one another (a crash among several could make a cycle; nobody does).

use std::collections::BTreeSet;

/// A file or a directory, whatever its name.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct NodeId(pub(super) u64);

/// What a directory entry is from now on.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) dir: NodeId,
    pub(super) name: String,
    /// `None`: there is no such entry any more.
    pub(super) target: Option<NodeId>,
}

#[derive(Clone, Debug)]
struct NameChange {
    /// The number of the disk operation that made it.
    operation: u64,
    edits: Vec<Edit>,
    /// Directories that lose their name by it, and so were empty.
    removed_dirs: Vec<NodeId>,
    /// Directories that must still be synced before it is durable.
    unsynced_dirs: BTreeSet<NodeId>,
    /// A sync of one of its directories failed: a later sync does not make it durable.
    abandoned: bool,
}

/// What some changes touch; changes before or after them to the same depend on them.
#[derive(Default)]
struct Touched {
    entries: BTreeSet<(NodeId, String)>,
    dirs: BTreeSet<NodeId>,
    removed_dirs: BTreeSet<NodeId>,
}

impl Touched {
    fn add(&mut self, change: &NameChange) {
        for edit in &change.edits {
            self.entries.insert((edit.dir, edit.name.clone()));
            self.dirs.insert(edit.dir);
        }
        self.removed_dirs.extend(&change.removed_dirs);
    }

    fn has_entry_of(&self, change: &NameChange) -> bool {
        change.edits.iter().any(|edit| self.entries.contains(&(edit.dir, edit.name.clone())))
    }

    /// Whether these changes, being earlier, must take place for `later` to take place.
    fn precedes(&self, later: &NameChange) -> bool {
        self.has_entry_of(later) || later.removed_dirs.iter().any(|dir| self.dirs.contains(dir))
    }

    /// Whether `earlier` must take place for these changes, being later, to take place.
    fn follows(&self, earlier: &NameChange) -> bool {
        self.has_entry_of(earlier)
            || earlier.edits.iter().any(|edit| self.removed_dirs.contains(&edit.dir))
    }
}

/// The changes that a crash may lose, oldest first.
///
/// Invariants: operations never decrease; every change lacks the sync of at least one directory or
/// was abandoned.
#[derive(Clone, Debug, Default)]
pub(super) struct NameChanges {
    changes: Vec<NameChange>,
}

impl NameChanges {
    /// `removed_dirs` are the directories that lose their name by these edits.
    pub(super) fn push(&mut self, operation: u64, edits: Vec<Edit>, removed_dirs: Vec<NodeId>) {
        let last = self.changes.last().map_or(0, |change| change.operation);
        assert!(last <= operation, "operation {operation} came after {last}");
        let unsynced_dirs = edits.iter().map(|edit| edit.dir).collect();
        let abandoned = false;
        self.changes.push(NameChange { operation, edits, removed_dirs, unsynced_dirs, abandoned });
    }

    /// Takes out, in order, the edits that are durable once `dir` is synced.
    pub(super) fn sync(&mut self, dir: NodeId) -> Vec<Edit> {
        // From the newest to the oldest: a durable change makes the earlier states of its entries
        // history, so whatever made them is settled too.
        let mut settled = Touched::default();
        let mut is_durable = vec![false; self.changes.len()];
        for (index, change) in self.changes.iter_mut().enumerate().rev() {
            if !change.abandoned {
                change.unsynced_dirs.remove(&dir);
            }
            if change.unsynced_dirs.is_empty() || settled.follows(change) {
                settled.add(change);
                is_durable[index] = true;
            }
        }
        let mut durable = Vec::new();
        let mut index = 0;
        self.changes.retain_mut(|change| {
            if is_durable[index] {
                durable.append(&mut change.edits);
            }
            index += 1;
            !is_durable[index - 1]
        });
        durable
    }

    /// A sync of `dir` failed: what was unsynced in it may or may not be on the medium, for good.
    pub(super) fn abandon(&mut self, dir: NodeId) {
        for change in &mut self.changes {
            change.abandoned |= change.unsynced_dirs.contains(&dir);
        }
    }

    /// Whether a sync of `dir` failed since the power was last off.
    pub(super) fn is_abandoned(&self, dir: NodeId) -> bool {
        self.changes.iter().any(|change| change.abandoned && change.unsynced_dirs.contains(&dir))
    }

    /// The edits that a crash keeps, in order, when `keep` says of each change, by its operation,
    /// whether it may be kept.
    pub(super) fn after_crash(&self, mut keep: impl FnMut(u64) -> bool) -> Vec<Edit> {
        let mut lost = Touched::default();
        let mut kept = Vec::new();
        for change in &self.changes {
            // Asked first, so that the answers do not depend on what was lost before.
            if keep(change.operation) && !lost.precedes(change) {
                kept.extend(change.edits.iter().cloned());
            } else {
                lost.add(change);
            }
        }
        kept
    }

    /// The operations that are not durable yet, the first and the last.
    pub(super) fn unsynced(&self) -> Option<(u64, u64)> {
        Some((self.changes.first()?.operation, self.changes.last()?.operation))
    }

    /// The entries of `dir` that a crash may bring up.
    pub(super) fn targets_in(&self, dir: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let edits = self.changes.iter().flat_map(|change| &change.edits);
        edits.filter(move |edit| edit.dir == dir).filter_map(|edit| edit.target)
    }

    /// The directories in which something changed.
    pub(super) fn dirs(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.changes.iter().flat_map(|change| &change.edits).map(|edit| edit.dir)
    }
}
