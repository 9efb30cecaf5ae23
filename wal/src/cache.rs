//! The newest entries, kept in memory and bounded by bytes.
//!
//! Followers nearly always ask for what was just appended. The entries are the caller's own
//! `Bytes`, so keeping one costs a reference count; older ones are read back from their files.

use std::collections::VecDeque;

use bytes::Bytes;

/// What an entry costs beside its payload, so that a million empty ones are bounded too.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// A suffix of the log.
///
/// Invariants:
/// - It holds consecutive entries; the newest one is the newest of the log, or it is empty.
/// - `bytes` is the cost of all it holds and is at most `bytes_max`.
#[derive(Debug)]
pub(crate) struct Cache {
    first: u64,
    entries: VecDeque<Bytes>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    /// An empty cache of a log whose next entry is `next`.
    pub fn new(next: u64, bytes_max: usize) -> Self {
        Self { first: next, entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Index of the oldest entry held; the log's next index when there is none.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The entry `index`, if it is held.
    pub fn get(&self, index: u64) -> Option<&Bytes> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Adds an entry of the log; what was held at or after `index` is dropped.
    pub fn push(&mut self, index: u64, payload: Bytes) {
        if index < self.first {
            self.reset(index);
        }
        while self.next() > index {
            self.pop_newest();
        }
        assert_eq!(self.next(), index, "the cache ends where the log does");
        self.bytes += cost(&payload);
        self.entries.push_back(payload);
        while self.bytes > self.bytes_max {
            self.pop_oldest();
        }
    }

    /// Forgets entries before `first`.
    pub fn forget_before(&mut self, first: u64) {
        while self.first < first && !self.entries.is_empty() {
            self.pop_oldest();
        }
    }

    /// Forgets all; the next entry is `next`.
    pub fn reset(&mut self, next: u64) {
        self.first = next;
        self.entries.clear();
        self.bytes = 0;
    }

    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn pop_newest(&mut self) {
        if let Some(payload) = self.entries.pop_back() {
            self.bytes -= cost(&payload);
        }
    }

    fn pop_oldest(&mut self) {
        if let Some(payload) = self.entries.pop_front() {
            self.first += 1;
            self.bytes -= cost(&payload);
        }
    }
}

fn cost(payload: &Bytes) -> usize {
    payload.len() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(index: u64) -> Bytes {
        Bytes::from(format!("{index:036}"))
    }

    #[test]
    fn the_oldest_are_dropped_when_the_bound_is_reached() {
        let mut cache = Cache::new(1, 1000);
        for index in 1..=20 {
            cache.push(index, payload(index));
        }
        assert_eq!(cache.first(), 11);
        assert_eq!(cache.get(10), None);
        assert_eq!(cache.get(11), Some(&payload(11)));
        assert_eq!(cache.get(20), Some(&payload(20)));
    }

    #[test]
    fn an_entry_larger_than_the_bound_is_not_kept() {
        let mut cache = Cache::new(1, 10);
        cache.push(1, payload(1));
        assert_eq!((cache.first(), cache.get(1)), (2, None));
        cache.push(2, payload(2));
        assert_eq!(cache.first(), 3);
    }

    #[test]
    fn an_overwrite_drops_the_tail_even_before_the_first_held() {
        let mut cache = Cache::new(1, 1000);
        for index in 1..=20 {
            cache.push(index, payload(index));
        }
        cache.push(15, Bytes::from_static(b"new"));
        assert_eq!(cache.get(15), Some(&Bytes::from_static(b"new")));
        assert_eq!(cache.get(16), None);
        cache.push(3, payload(3));
        assert_eq!((cache.first(), cache.get(3)), (3, Some(&payload(3))));
    }
}
