//! Hashes that `HashKV` has told, for who asks again when their revision is compacted.
//!
//! One idea: a compaction at a revision changes its hash, for it drops what was overwritten before;
//! who compares a member with itself, before a compaction and after it, wants the one of before.
//! etcd reads everything while it compacts and so has the hash of each of its last compactions; a
//! compaction here reads nothing, so what is told again is what somebody asked for before.
//!
//! Shared by the socket threads, lost with the process, as in etcd. What it does not do: answer
//! members that compare each other (`corruption.rs`); these want what is there now.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use varve_store::KvHash;

/// How many are kept, the newest ones: as many as etcd keeps of its compactions.
const HASHES_MAX: usize = 10;

/// See the head of the file.
#[derive(Default)]
pub struct ToldHashes(Mutex<VecDeque<KvHash>>);

impl ToldHashes {
    /// What was told of `revision` before it became the `compacted` one; nothing for any other
    /// revision, whose hash is told as it is.
    pub fn before_compaction(&self, revision: i64, compacted: i64) -> Option<KvHash> {
        if revision <= 0 || revision != compacted {
            return None;
        }
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().find(|hash| hash.hash_revision == revision).copied()
    }

    /// Keeps a hash, if its revision can still be compacted.
    pub fn remember(&self, new: KvHash) {
        if new.hash_revision <= 0 || new.hash_revision <= new.compact_revision {
            return;
        }
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|old| old.hash_revision != new.hash_revision);
        if told.len() == HASHES_MAX {
            told.pop_front();
        }
        told.push_back(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hash_revision: i64, compact_revision: i64) -> KvHash {
        KvHash { hash: 7, hash_revision, compact_revision, current_revision: 99 }
    }

    #[test]
    fn only_the_hash_of_the_compacted_revision_is_told_again() {
        let told = ToldHashes::default();
        for kept in [hash(5, -1), hash(6, -1), hash(6, 5)] {
            told.remember(kept);
        }
        for never in [hash(7, 7), hash(-1, -1)] {
            told.remember(never);
        }
        assert_eq!(told.before_compaction(6, 6), Some(hash(6, 5)));
        assert_eq!(told.before_compaction(5, 5), Some(hash(5, -1)));
        for (revision, compacted) in [(6, 5), (5, 6), (7, 7), (0, 0), (-1, -1), (8, 8)] {
            assert_eq!(told.before_compaction(revision, compacted), None, "{revision}");
        }
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let told = ToldHashes::default();
        for revision in 1..=HASHES_MAX as i64 + 1 {
            told.remember(hash(revision, -1));
        }
        assert_eq!(told.before_compaction(1, 1), None);
        assert!((2..=HASHES_MAX as i64 + 1).all(|r| told.before_compaction(r, r).is_some()));
    }
}
