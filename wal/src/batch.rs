//! A batch: what is appended together.

use bytes::Bytes;

use crate::record::{HEADER_BYTES, Kind, encode};

/// What is appended together: becomes one frame, one write, one sync. All of it survives a crash
/// or none of it does.
///
/// Invariants: entries are consecutive; after a reset they begin at its next index.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    reset: Option<u64>,
    state: Option<Bytes>,
    /// Index of `entries[0]`; meaningless while there are none.
    first: u64,
    entries: Vec<Bytes>,
    entry_bytes: usize,
}

impl Batch {
    /// Adds an entry. Indexes within a batch are consecutive. An index at or below the last one
    /// of the log cuts the log there first (a Raft follower replacing a conflicting tail).
    ///
    /// # Panics
    /// When the index is not the one after the entry before it, or not the one that a reset in
    /// this batch named.
    pub fn entry(&mut self, index: u64, payload: Bytes) {
        let expected = if self.entries.is_empty() { self.reset } else { Some(self.next()) };
        assert!(expected.is_none_or(|next| next == index), "entry {index}, not {expected:?}");
        if self.entries.is_empty() {
            self.first = index;
        }
        self.entry_bytes += payload.len();
        self.entries.push(payload);
    }

    /// Sets the latest state, an opaque value (for Raft: term, vote, commit). The last one set in
    /// a batch counts.
    pub fn state(&mut self, payload: Bytes) {
        self.state = Some(payload);
    }

    /// Empties the log: all entries are forgotten and the next index is `next_index`. What follows
    /// a snapshot that was installed. Comes first in its batch.
    ///
    /// # Panics
    /// When the batch has entries already, or `next_index` is 0.
    pub fn reset(&mut self, next_index: u64) {
        assert!(self.entries.is_empty(), "reset to {next_index} behind entry {}", self.first);
        assert!(next_index > 0, "the first index of a log is 1");
        self.reset = Some(next_index);
    }

    /// Whether there is nothing to append.
    pub fn is_empty(&self) -> bool {
        self.reset.is_none() && self.state.is_none() && self.entries.is_empty()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.reset = None;
        self.state = None;
        self.entries.clear();
        self.entry_bytes = 0;
    }

    /// Bytes of the payloads in it: a measure for when a batch is large enough.
    pub fn payload_bytes(&self) -> usize {
        self.entry_bytes + self.state.as_ref().map_or(0, Bytes::len)
    }

    /// The next index that its reset names, if it has one.
    pub(crate) fn reset_to(&self) -> Option<u64> {
        self.reset
    }

    /// Its entries with their indexes.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, &Bytes)> {
        (self.first..).zip(&self.entries)
    }

    /// Records in it.
    pub(crate) fn records(&self) -> usize {
        self.entries.len() + usize::from(self.reset.is_some()) + usize::from(self.state.is_some())
    }

    /// Bytes of its records.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.records() * HEADER_BYTES + self.payload_bytes()
    }

    /// Appends its records to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        if let Some(next) = self.reset {
            encode(out, Kind::Reset, next, &[]);
        }
        for (index, payload) in self.entries() {
            encode(out, Kind::Entry, index, payload);
        }
        if let Some(state) = &self.state {
            encode(out, Kind::State, 0, state);
        }
    }

    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_bytes_is_what_encode_writes() {
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        batch.reset(5);
        batch.entry(5, Bytes::from_static(b"five"));
        batch.entry(6, Bytes::from_static(b""));
        batch.state(Bytes::from_static(b"state"));
        let mut out = Vec::new();
        batch.encode(&mut out);
        assert_eq!(out.len(), batch.encoded_bytes());
        assert_eq!(batch.records(), 4);
        batch.clear();
        assert!(batch.is_empty());
        assert_eq!(batch.encoded_bytes(), 0);
    }

    #[test]
    #[should_panic(expected = "entry 7")]
    fn a_gap_within_a_batch_is_a_bug() {
        let mut batch = Batch::default();
        batch.entry(5, Bytes::new());
        batch.entry(7, Bytes::new());
    }
}
