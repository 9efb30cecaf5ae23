//! Decompressed frames that were read lately, of all segments of an engine.
//!
//! One idea: nobody waits for the cache. It is a few shards, each behind a lock that is only tried:
//! whoever finds it taken decompresses the frame for itself, which takes some microseconds, while a
//! thread that lost its processor in the middle may take a thousand times that.
//!
//! A shard is a queue with a second chance (CLOCK): what was read since it came to the front goes
//! to the back once more, all else leaves. Keys are digests of files, so a file that is opened again
//! finds its frames, and another one under the same name does not.
//!
//! Invariant: a shard's frames have `bytes_max` bytes together, or less. What is longer than that is
//! not kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, TryLockError};

use bytes::Bytes;

/// So many threads can use the cache without meeting, about.
const SHARDS: usize = 16;

/// A frame: digest of its file, number in it.
pub(super) type FrameKey = (u128, u32);

/// The cache.
pub(crate) struct FrameCache {
    shards: [Mutex<Shard>; SHARDS],
    /// Of one shard.
    bytes_max: usize,
}

#[derive(Default)]
struct Shard {
    frames: BTreeMap<FrameKey, Cached>,
    /// The keys of `frames`, in the order in which they may leave.
    queue: VecDeque<FrameKey>,
    bytes: usize,
}

struct Cached {
    content: Bytes,
    was_read: bool,
}

impl FrameCache {
    /// A cache of at most `bytes_max` bytes; a frame of more than a sixteenth of that is not kept.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { shards: Default::default(), bytes_max: bytes_max / SHARDS }
    }

    /// The frame, if it is here and nobody is in the way.
    pub(super) fn get(&self, key: FrameKey) -> Option<Bytes> {
        let mut shard = self.shard(key)?;
        let cached = shard.frames.get_mut(&key)?;
        cached.was_read = true;
        Some(cached.content.clone())
    }

    /// Keeps a frame, if there is room for it and nobody is in the way.
    pub(super) fn insert(&self, key: FrameKey, content: &Bytes) {
        if content.len() > self.bytes_max {
            return;
        }
        let Some(mut shard) = self.shard(key) else { return };
        if shard.frames.contains_key(&key) {
            return;
        }
        shard.bytes += content.len();
        shard.queue.push_back(key);
        shard.frames.insert(key, Cached { content: content.clone(), was_read: false });
        while shard.bytes > self.bytes_max {
            shard.make_room();
        }
    }

    fn shard(&self, (digest, number): FrameKey) -> Option<MutexGuard<'_, Shard>> {
        // Neighbouring frames, which a scan reads one after the other, go to different shards.
        let shard = (digest as usize).wrapping_add(number as usize) % SHARDS;
        match self.shards[shard].try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// As a thread that stands still in the middle of each shard.
    #[cfg(test)]
    pub(super) fn hold_shards(&self) -> Vec<impl Sized + '_> {
        self.shards.iter().map(|shard| shard.lock().expect("not poisoned")).collect()
    }

    /// Bytes of all frames.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("not poisoned").bytes).sum()
    }
}

impl Shard {
    /// Lets the frame at the front go, or gives it its second chance.
    fn make_room(&mut self) {
        let key = self.queue.pop_front().expect("what has bytes has frames");
        let cached = self.frames.get_mut(&key).expect("the queue lists the frames");
        if std::mem::take(&mut cached.was_read) {
            self.queue.push_back(key);
        } else {
            self.bytes -= cached.content.len();
            self.frames.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize) -> Bytes {
        vec![7; length].into()
    }

    /// All in one shard.
    fn key(number: u128) -> FrameKey {
        (number * SHARDS as u128, 0)
    }

    #[test]
    fn what_is_read_stays_and_what_is_not_goes() {
        let cache = FrameCache::new(100 * SHARDS);
        (0..10).for_each(|number| cache.insert(key(number), &frame(10)));
        assert_eq!(cache.bytes(), 100);
        for number in 10..200 {
            assert!(cache.get(key(3)).is_some(), "{number}");
            cache.insert(key(number), &frame(10));
            assert_eq!(cache.bytes(), 100);
        }
        assert!(cache.get(key(4)).is_none());
        assert!(cache.get(key(199)).is_some());
    }

    #[test]
    fn bytes_are_bounded_whatever_the_lengths() {
        let cache = FrameCache::new(100 * SHARDS);
        for number in 0..1_000 {
            cache.insert((number, number as u32 * 7), &frame(number as usize % 120));
            assert!(cache.bytes() <= 100 * SHARDS);
        }
        cache.insert(key(5_000), &frame(101));
        assert!(cache.get(key(5_000)).is_none(), "longer than a shard");
        let none = FrameCache::new(0);
        none.insert(key(1), &frame(1));
        assert!(none.get(key(1)).is_none());
    }

    #[test]
    fn a_frame_that_comes_twice_counts_once() {
        let cache = FrameCache::new(100 * SHARDS);
        (0..3).for_each(|_| cache.insert(key(1), &frame(60)));
        assert_eq!(cache.bytes(), 60);
    }

    #[test]
    fn nobody_waits_for_a_shard() {
        let cache = FrameCache::new(100 * SHARDS);
        cache.insert(key(1), &frame(10));
        let held = cache.hold_shards();
        assert!(cache.get(key(1)).is_none());
        cache.insert(key(2), &frame(10));
        drop(held);
        assert!(cache.get(key(1)).is_some() && cache.get(key(2)).is_none());
    }
}
