//! How slow the log was lately: the last syncs, and the p99 of them.
//!
//! Written by the Raft thread, read by the background thread, which yields when it rises. A ring of
//! atomics: whoever reads may see some old and some new entries, which is as good.
//!
//! What it does not do: metrics; those have a histogram.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// Syncs that are remembered.
const SYNCS: usize = 128;

/// The durations of the last syncs, in microseconds; 0 stands for none.
#[derive(Debug)]
pub struct LogLatency {
    microseconds: [AtomicU32; SYNCS],
    next: AtomicUsize,
}

impl Default for LogLatency {
    fn default() -> Self {
        Self { microseconds: [const { AtomicU32::new(0) }; SYNCS], next: AtomicUsize::new(0) }
    }
}

impl LogLatency {
    /// A sync took so long.
    pub fn record(&self, took: Duration) {
        let microseconds = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let place = self.next.fetch_add(1, Ordering::Relaxed) % SYNCS;
        self.microseconds[place].store(microseconds, Ordering::Relaxed);
    }

    /// The p99 since the last call, of the last 128 syncs at most; `None` if there was none.
    pub fn take_p99(&self) -> Option<Duration> {
        let mut taken: Vec<u32> = self
            .microseconds
            .iter()
            .map(|place| place.swap(0, Ordering::Relaxed))
            .filter(|microseconds| *microseconds > 0)
            .collect();
        taken.sort_unstable();
        let place = (taken.len() * 99).div_ceil(100).checked_sub(1)?;
        Some(Duration::from_micros(taken[place].into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_p99_is_of_what_was_recorded_since_the_last_look() {
        let latency = LogLatency::default();
        assert_eq!(latency.take_p99(), None);
        latency.record(Duration::ZERO);
        assert_eq!(latency.take_p99(), Some(Duration::from_micros(1)));
        // The ring has forgotten the first ones.
        (1..=1_128).for_each(|number| latency.record(Duration::from_micros(number)));
        assert_eq!(latency.take_p99(), Some(Duration::from_micros(1_127)));
        assert_eq!(latency.take_p99(), None);
    }
}
