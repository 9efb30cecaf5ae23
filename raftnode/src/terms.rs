//! The term of every entry of the log, in memory, as runs.
//!
//! Raft asks for terms all the time and must never wait for a file. Terms only grow along a log,
//! so that a log of a million entries is a handful of runs.

/// Terms of the indexes `base.index ..= last`.
///
/// Invariants: the first run begins at the base; runs begin at rising indexes and have rising
/// terms; `last` is at or above the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// (first index of the run, its term).
    runs: Vec<(u64, u64)>,
    last: u64,
}

impl Terms {
    /// A log of which only the term before its first entry is known.
    pub(crate) fn new(base_index: u64, base_term: u64) -> Self {
        Self { runs: vec![(base_index, base_term)], last: base_index }
    }

    /// The index before the first entry that can be read.
    pub(crate) fn base(&self) -> u64 {
        self.runs[0].0
    }

    /// The newest index.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// The term of the newest index.
    pub(crate) fn last_term(&self) -> u64 {
        self.runs[self.runs.len() - 1].1
    }

    /// The term at `index`, if it lies between the base and the last.
    pub(crate) fn at(&self, index: u64) -> Option<u64> {
        if index < self.base() || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|run| run.0 <= index);
        Some(self.runs[after - 1].1)
    }

    /// Adds an entry; one at or below the last cuts the log there first.
    pub(crate) fn push(&mut self, index: u64, term: u64) {
        assert!(
            index > self.base() && index <= self.last + 1,
            "entry {index} does not follow {}..={}",
            self.base(),
            self.last
        );
        let keep = self.runs.partition_point(|run| run.0 < index);
        self.runs.truncate(keep);
        let before = self.last_term();
        assert!(term >= before, "entry {index} has term {term} after term {before}");
        if term > before {
            self.runs.push((index, term));
        }
        self.last = index;
    }

    /// Forgets what is before `base`, which becomes the new base.
    pub(crate) fn cut_front(&mut self, base: u64) {
        let Some(term) = self.at(base) else { return };
        let after = self.runs.partition_point(|run| run.0 <= base);
        self.runs.drain(..after - 1);
        self.runs[0] = (base, term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(base: (u64, u64), terms: &[u64]) -> Terms {
        let mut log = Terms::new(base.0, base.1);
        for (offset, term) in terms.iter().enumerate() {
            log.push(base.0 + 1 + offset as u64, *term);
        }
        log
    }

    #[test]
    fn every_index_has_its_term() {
        let log = terms((4, 1), &[1, 1, 2, 2, 5]);
        let all: Vec<_> = (3..=10).map(|index| log.at(index)).collect();
        let expected = [None, Some(1), Some(1), Some(1), Some(2), Some(2), Some(5), None].to_vec();
        assert_eq!(all, expected);
        assert_eq!((log.base(), log.last(), log.last_term()), (4, 9, 5));
    }

    #[test]
    fn a_lower_entry_cuts_the_tail() {
        let mut log = terms((4, 1), &[1, 1, 2, 2, 5]);
        log.push(6, 6);
        assert_eq!(log, terms((4, 1), &[1, 6]));
        log.push(5, 7);
        assert_eq!(log, terms((4, 1), &[7]));
    }

    #[test]
    fn cutting_the_front_keeps_the_term_before_the_first() {
        let mut log = terms((4, 1), &[1, 1, 2, 2, 5]);
        log.cut_front(7);
        assert_eq!(log, terms((7, 2), &[2, 5]));
        log.cut_front(6);
        assert_eq!(log.base(), 7, "a cut below the base changes nothing");
        log.cut_front(9);
        assert_eq!((log.base(), log.last(), log.at(9)), (9, 9, Some(5)));
    }
}
