//! A set of keys, as ranges: what a user may read, or write.
//!
//! One idea: ranges that touch become one when the set is made, so that one look-up decides whether
//! a request's range lies within the set, however many permissions it takes to cover it.
//!
//! Invariants: sorted by start; no two ranges overlap or touch; only the last may have no end.

/// First key, and the first key behind; `None` is no end.
type Range = (Box<[u8]>, Option<Box<[u8]>>);

/// See the head of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    ranges: Vec<Range>,
}

impl Ranges {
    /// The union of ranges given as in requests: an empty end is one key, one zero byte no end.
    pub fn union<'a>(parts: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut parts: Vec<Range> = parts
            .map(|(key, range_end)| (key.into(), end(key, range_end).map(Box::from)))
            .filter(|(start, end)| end.as_ref().is_none_or(|end| start < end))
            .collect();
        parts.sort();
        let mut ranges: Vec<Range> = Vec::new();
        for (start, end) in parts {
            match ranges.last_mut() {
                Some((_, None)) => break,
                Some((_, Some(last))) if *last >= start => match end {
                    Some(end) if end <= *last => {}
                    end => ranges.last_mut().expect("there is a last one").1 = end,
                },
                _ => ranges.push((start, end)),
            }
        }
        Self { ranges }
    }

    /// Whether all keys that a request names are in the set. A range that ends before it begins
    /// names no key; it is treated as its first one (etcd's answer there depends on the shape of a
    /// tree).
    pub fn covers(&self, key: &[u8], range_end: &[u8]) -> bool {
        let position = self.ranges.partition_point(|(start, _)| start.as_ref() <= key);
        let Some((_, last)) = position.checked_sub(1).map(|position| &self.ranges[position]) else {
            return false;
        };
        let Some(last) = last else { return true };
        key < last.as_ref() && end(key, range_end).is_some_and(|end| *end <= **last)
    }
}

/// The first key behind those that a request names; `None` is no end.
fn end<'a>(key: &[u8], range_end: &'a [u8]) -> Option<std::borrow::Cow<'a, [u8]>> {
    match range_end {
        b"" => Some([key, b"\0"].concat().into()),
        b"\0" => None,
        end => Some(end.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(parts: &[(&str, &str)]) -> Ranges {
        Ranges::union(parts.iter().map(|(key, end)| (key.as_bytes(), end.as_bytes())))
    }

    fn covers(set: &Ranges, key: &str, end: &str) -> bool {
        set.covers(key.as_bytes(), end.as_bytes())
    }

    #[test]
    fn one_key_is_one_key() {
        let set = set(&[("b", "")]);
        assert!(covers(&set, "b", ""));
        assert!(covers(&set, "b", "b\0"));
        for (key, end) in [("a", ""), ("b\0", ""), ("b", "c"), ("b", "\0"), ("a", "c"), ("b", "bb")]
        {
            assert!(!covers(&set, key, end), "{key:?} {end:?}");
        }
    }

    #[test]
    fn ranges_that_touch_or_overlap_cover_what_lies_across() {
        let set = set(&[("m", "n"), ("a", "c"), ("c", "f"), ("b", "d"), ("n", ""), ("n\0", "p")]);
        assert_eq!(set.ranges.len(), 2);
        assert!(covers(&set, "a", "f") && covers(&set, "b", "e") && covers(&set, "m", "p"));
        assert!(!covers(&set, "a", "g") && !covers(&set, "e", "n") && !covers(&set, "f", ""));
        assert!(!covers(&set, "m", "\0"));
    }

    #[test]
    fn a_range_without_an_end_swallows_what_follows() {
        let set = set(&[("x", "z"), ("k", "\0"), ("a", "b")]);
        assert_eq!(set.ranges.len(), 2);
        assert!(covers(&set, "k", "\0") && covers(&set, "zz", "\0") && covers(&set, "k", ""));
        assert!(!covers(&set, "j", "\0") && !covers(&set, "a", "\0"));
        let all = super::Ranges::union([(&b"\0"[..], &b"\0"[..])].into_iter());
        assert!(covers(&all, "\0", "\0") && covers(&all, "a", "b"));
    }

    #[test]
    fn an_end_that_is_not_behind_the_key_is_no_range_and_asks_for_its_first_key() {
        assert_eq!(set(&[("b", "a"), ("b", "b")]).ranges.len(), 0);
        let set = set(&[("b", "d")]);
        assert!(covers(&set, "c", "a") && covers(&set, "c", "c"));
        assert!(!covers(&set, "d", "a") && !covers(&set, "a", "a"));
    }
}
