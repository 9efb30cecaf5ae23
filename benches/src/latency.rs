//! Latencies: a histogram and what is reported of it.
//!
//! One idea: never keep a mean of percentiles. Threads and rounds record into histograms of their
//! own, which are added up before anything is read from them.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency told apart; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// Significant decimal digits.
const DIGITS: u8 = 3;

/// Latencies of calls, in nanoseconds within 0.1 %.
#[derive(Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        let highest = LATENCY_MAX.as_nanos() as u64;
        let histogram = Histogram::new_with_bounds(1, highest, DIGITS).expect("bounds are valid");
        Self { histogram }
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(latency.as_nanos() as u64);
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Their mean; 0 when there are none.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.histogram.mean() as u64)
    }

    /// The latency that this share of the calls did not exceed, 0 to 1.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_quantile(share))
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.histogram.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_add_up() {
        let (mut first, mut second) = (Latencies::default(), Latencies::default());
        (1..=50).for_each(|ms| first.record(Duration::from_millis(ms)));
        (51..=100).for_each(|ms| second.record(Duration::from_millis(ms)));
        first.add(&second);
        assert_eq!(first.count(), 100);
        let close = |found: Duration, ms: u64| found.as_micros().abs_diff(1000 * ms as u128) < 200;
        assert!(close(first.quantile(0.5), 50), "{:?}", first.quantile(0.5));
        assert!(close(first.quantile(0.99), 99), "{:?}", first.quantile(0.99));
        assert!(close(first.longest(), 100), "{:?}", first.longest());
    }
}
