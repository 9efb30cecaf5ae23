//! Which ranges contain a key: intervals sorted by start, read as a balanced tree (the middle is
//! the root), with the largest end of each subtree beside its root. A look-up leaves out subtrees
//! that end before the key and those that start after it: it costs the answers and a logarithm,
//! also when one watcher of everything lies over many of little.
//!
//! Inserts and removals are rare beside look-ups; they only mark the order as stale.
//!
//! Invariant: unless `stale`, `intervals` is sorted by start and `reach[i]` is the largest end of
//! the subtree whose root is `intervals[i]`.

use std::ops::Range;

use bytes::Bytes;

/// Where an interval ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Before this key.
    Before(Bytes),
    /// Nowhere. (Ordered after every key.)
    Never,
}

impl End {
    fn is_past(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end.as_ref(),
            Self::Never => true,
        }
    }
}

/// A set of intervals, each with an owner.
#[derive(Default)]
pub struct Intervals {
    intervals: Vec<Interval>,
    reach: Vec<End>,
    stale: bool,
}

struct Interval {
    start: Bytes,
    end: End,
    owner: usize,
}

impl Intervals {
    /// Adds an interval.
    pub fn insert(&mut self, start: Bytes, end: End, owner: usize) {
        self.intervals.push(Interval { start, end, owner });
        self.stale = true;
    }

    /// Removes the interval of an owner.
    pub fn remove(&mut self, owner: usize) {
        self.intervals.retain(|interval| interval.owner != owner);
        self.stale = true;
    }

    /// Calls `found` with the owner of every interval that contains `key`.
    pub fn containing(&mut self, key: &[u8], mut found: impl FnMut(usize)) {
        if self.stale {
            self.rebuild();
        }
        let _visited = self.search(0..self.intervals.len(), key, &mut found);
    }

    /// The number of intervals that were looked at.
    fn search(&self, subtree: Range<usize>, key: &[u8], found: &mut impl FnMut(usize)) -> usize {
        let Some(root) = root(&subtree) else { return 0 };
        if !self.reach[root].is_past(key) {
            return 1;
        }
        let mut visited = 1 + self.search(subtree.start..root, key, found);
        let interval = &self.intervals[root];
        if interval.start.as_ref() <= key {
            if interval.end.is_past(key) {
                found(interval.owner);
            }
            visited += self.search(root + 1..subtree.end, key, found);
        }
        visited
    }

    fn rebuild(&mut self) {
        self.intervals.sort_by(|a, b| a.start.cmp(&b.start));
        self.reach.clear();
        self.reach.extend(self.intervals.iter().map(|interval| interval.end.clone()));
        self.measure(0..self.intervals.len());
        self.stale = false;
    }

    /// Sets `reach` in a subtree; gives that of its root.
    fn measure(&mut self, subtree: Range<usize>) -> Option<End> {
        let root = root(&subtree)?;
        let below = [self.measure(subtree.start..root), self.measure(root + 1..subtree.end)];
        for end in below.into_iter().flatten() {
            if end > self.reach[root] {
                self.reach[root] = end;
            }
        }
        Some(self.reach[root].clone())
    }
}

/// The root of the subtree over a run of intervals.
fn root(subtree: &Range<usize>) -> Option<usize> {
    (!subtree.is_empty()).then(|| subtree.start + subtree.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Bytes {
        Bytes::from(format!("{number:02}"))
    }

    #[test]
    fn a_watcher_of_everything_does_not_make_others_slow_to_find() {
        let mut intervals = Intervals::default();
        intervals.insert(Bytes::from_static(&[0]), End::Never, 0);
        for owner in 1..10_000_usize {
            let start = Bytes::from(format!("{owner:05}/"));
            intervals.insert(start, End::Before(Bytes::from(format!("{owner:05}0"))), owner);
        }
        intervals.rebuild();
        for owner in 1..10_000_usize {
            let mut found = Vec::new();
            let key = format!("{owner:05}/key");
            let all = 0..intervals.intervals.len();
            let visited = intervals.search(all, key.as_bytes(), &mut |owner| found.push(owner));
            found.sort_unstable();
            assert_eq!(found, [0, owner]);
            assert!(visited < 64, "{visited} of 10,000 were looked at");
        }
    }

    #[test]
    fn the_same_ranges_are_found_as_by_looking_at_each() {
        let mut random = 88_172_645_463_325_252_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for round in 0..200 {
            let mut intervals = Intervals::default();
            let mut naive: Vec<(Bytes, End, usize)> = Vec::new();
            for owner in 0..next(20) as usize {
                let start = key(next(30));
                let end = if next(8) == 0 { End::Never } else { End::Before(key(next(40))) };
                intervals.insert(start.clone(), end.clone(), owner);
                naive.push((start, end, owner));
            }
            if !naive.is_empty() && next(2) == 0 {
                let (_, _, owner) = naive.swap_remove(next(naive.len() as u64) as usize);
                intervals.remove(owner);
            }
            for probe in 0..40 {
                let mut found = Vec::new();
                intervals.containing(&key(probe), |owner| found.push(owner));
                found.sort_unstable();
                let mut expected: Vec<usize> = naive
                    .iter()
                    .filter(|(start, end, _)| *start <= key(probe) && end.is_past(&key(probe)))
                    .map(|(_, _, owner)| *owner)
                    .collect();
                expected.sort_unstable();
                assert_eq!(found, expected, "round {round}, key {probe:02}");
            }
        }
    }
}
