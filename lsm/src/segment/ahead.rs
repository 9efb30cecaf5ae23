//! What a walk will touch next, so that the disk can begin to read it.
//!
//! Segments are mapped for reads here and there: a page that is not in memory comes alone, since the
//! kernel would read up to megabytes around it, of which a point read needs a kilobyte. A walk in key
//! order meets the values of each segment in the order in which they lie; so who walks keeps, for
//! each segment, how far it was asked to be read, and asks for twice as much when half of that is
//! used up. A walk that jumps, or goes backwards, asks for nothing.
//!
//! Pure: it says what to ask for, [`Segment::read_ahead`](super::Segment::read_ahead) asks.

use std::ops::Range;

/// A walk begins with so much; what is asked for first is twice that.
const WINDOW_BYTES_MIN: usize = 16 << 10;
/// At most so much is asked for at once.
const WINDOW_BYTES_MAX: usize = 1 << 20;
/// Values that a walk leaves out, because they are dead, do not end it.
const SKIPPED_BYTES_MAX: usize = 64 << 10;

/// Where a walk stands in each segment, by the segment's position in its version.
#[derive(Default)]
pub(crate) struct Ahead {
    windows: Vec<Window>,
}

/// Where a walk stands in one segment. Invariant: what was touched or asked for ends at `until`.
#[derive(Clone, Copy, Default)]
struct Window {
    until: usize,
    bytes: usize,
}

impl Ahead {
    /// The walk touches `place` in the segment at `position`: what should be read by now, and was
    /// not asked for yet.
    #[inline]
    pub(crate) fn step(&mut self, position: usize, place: Range<usize>) -> Option<Range<usize>> {
        if position >= self.windows.len() {
            self.windows.resize(position + 1, Window::default());
        }
        let window = &mut self.windows[position];
        // The window before the last may still be in use.
        let is_inside = place.start + 2 * window.bytes >= window.until;
        if is_inside && place.end + window.bytes / 2 < window.until {
            return None;
        }
        window.advance(place, is_inside)
    }
}

impl Window {
    fn advance(&mut self, place: Range<usize>, is_inside: bool) -> Option<Range<usize>> {
        if self.bytes == 0 || !is_inside || place.start > self.until + SKIPPED_BYTES_MAX {
            *self = Self { until: place.end, bytes: WINDOW_BYTES_MIN };
            return None;
        }
        let bytes = (self.bytes * 2).min(WINDOW_BYTES_MAX);
        let start = self.until.max(place.start);
        *self = Self { until: start + bytes, bytes };
        Some(start..self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_asks_for_everything_once_and_ever_more_at_a_time() {
        let mut ahead = Ahead::default();
        let (mut asked, mut calls) = (1_000, 0);
        for start in (0..64 << 20).step_by(1_000) {
            if let Some(next) = ahead.step(3, start..start + 1_000) {
                assert_eq!(next.start, asked, "no gap, and nothing twice");
                asked = next.end;
                calls += 1;
            }
            assert!(start == 0 || asked >= start + 1_000, "{start} was not asked for");
        }
        assert!(calls < 100, "{calls} calls");
    }

    #[test]
    fn values_that_are_left_out_do_not_end_a_walk() {
        let mut ahead = Ahead::default();
        let starts = (0..100).map(|number| number * 20_000);
        let asked = starts.filter_map(|start| ahead.step(0, start..start + 500)).count();
        assert!(asked > 5, "{asked}");
    }

    #[test]
    fn who_jumps_or_walks_backwards_asks_for_nothing() {
        let mut ahead = Ahead::default();
        for start in [5_000_000, 100, 9_000_000, 4_000_000, 50_000_000] {
            assert_eq!(ahead.step(0, start..start + 500), None);
        }
        for start in (0..10_000_000).step_by(70_000).rev() {
            assert_eq!(ahead.step(1, start..start + 500), None, "{start}");
        }
    }
}
