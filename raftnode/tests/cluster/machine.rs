//! A state machine that is the list of all commands, with a durable part.

use bytes::Bytes;
use varve_raftnode::{Applied, Index, Term};

/// Invariants: `entries` are those of indexes 2 and up, without a gap, and reach at least to
/// `flushed`; only what `flushed` covers survives a crash.
#[derive(Clone)]
pub struct Machine {
    /// (index, term, payload).
    pub entries: Vec<(u64, u64, Bytes)>,
    pub flushed: Applied,
}

impl Machine {
    pub fn new(founders: Applied) -> Self {
        Self { entries: Vec::new(), flushed: founders }
    }

    pub fn applied(&self) -> u64 {
        self.entries.last().map_or(1, |entry| entry.0)
    }

    pub fn apply(&mut self, index: u64, term: u64, payload: Bytes) {
        assert_eq!(index, self.applied() + 1, "applied out of order");
        self.entries.push((index, term, payload));
    }

    pub fn flush(&mut self) {
        if let Some((index, term, _)) = self.entries.last() {
            self.flushed.index = Index(*index);
            self.flushed.term = Term(*term);
        }
    }

    pub fn lose_volatile(&mut self) {
        let flushed = self.flushed.index.0;
        self.entries.retain(|entry| entry.0 <= flushed);
    }

    /// All commands, without the leaders' own empty ones.
    pub fn commands(&self) -> Vec<String> {
        let texts = self.entries.iter().map(|entry| String::from_utf8_lossy(&entry.2).to_string());
        texts.filter(|text| !text.is_empty()).collect()
    }
}
