//! Which ranges contain a key: intervals sorted by start, with the largest end seen so far beside
//! each, so that a look-up walks back from the key's place only while some earlier interval can
//! still reach it.
//!
//! Prefix watches nest or are disjoint, so a look-up touches little more than its answers. Inserts
//! and removals are rare beside look-ups; they only mark the order as stale.
//!
//! Invariant: unless `stale`, `intervals` is sorted by start and `reach[i]` is the largest end of
//! `intervals[..=i]`.

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
        let after = self.intervals.partition_point(|interval| interval.start.as_ref() <= key);
        for at in (0..after).rev() {
            if !self.reach[at].is_past(key) {
                return;
            }
            if self.intervals[at].end.is_past(key) {
                found(self.intervals[at].owner);
            }
        }
    }

    fn rebuild(&mut self) {
        self.intervals.sort_by(|a, b| a.start.cmp(&b.start));
        self.reach.clear();
        for interval in &self.intervals {
            let reach = match self.reach.last() {
                Some(reach) if *reach > interval.end => reach.clone(),
                _ => interval.end.clone(),
            };
            self.reach.push(reach);
        }
        self.stale = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Bytes {
        Bytes::from(format!("{number:02}"))
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
