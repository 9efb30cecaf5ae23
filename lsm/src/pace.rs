//! How fast merges may go: a token bucket whose rate yields to the caller's log.
//!
//! Merges compete with the log for the device, and nobody waits for them; so they get what is left.
//! The bucket fills at a rate that is halved while the log's recent p99 is more than twice its
//! usual one, and grows again by steps when it is not (as TCP does with a link that it shares).
//! What a step costs is taken out afterwards: the bucket may be overdrawn by one step.
//!
//! Flushes are not paced: memory and the log wait for them. Neither are merges that keep level 0
//! bounded.
//!
//! Invariants: the rate stays within [`RATE_MIN`] and [`RATE_MAX`], so merges neither starve nor
//! come all at once. Pure: time and latency are arguments, no clock is read here.

use std::time::Duration;

/// Bytes a second that merges may take however slow the log is.
const RATE_MIN: u64 = 8 << 20;
/// Bytes a second that merges may take when the log does not mind.
const RATE_MAX: u64 = 256 << 20;
/// What the rate grows by at a look.
const RATE_STEP: u64 = 16 << 20;
/// Bytes that may be saved up.
const SAVED_BYTES_MAX: i64 = 32 << 20;
/// How often the rate is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Below this, a p99 that doubles is noise.
const QUIET: Duration = Duration::from_millis(2);

/// The pace of merges.
#[derive(Clone, Debug)]
pub struct Pace {
    rate: u64,
    saved_bytes: i64,
    filled_at: Duration,
    looked_at: Duration,
    /// What the log's p99 usually is: falls at once, rises by a hundredth a look.
    usual: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            rate: RATE_MAX,
            saved_bytes: SAVED_BYTES_MAX,
            filled_at: Duration::ZERO,
            looked_at: Duration::ZERO,
            usual: None,
        }
    }
}

impl Pace {
    /// How long the next merge step should wait; zero: it may be made. `now` is the time since any
    /// fixed moment; `log_p99`, asked for now and then, that of the log's syncs since it was asked
    /// for last, if there were any.
    pub fn wait(&mut self, now: Duration, log_p99: impl FnOnce() -> Option<Duration>) -> Duration {
        let elapsed = now.saturating_sub(self.filled_at);
        self.filled_at = now;
        let earned = elapsed.as_secs_f64() * self.rate as f64;
        // The cast saturates; more than can be saved is not.
        self.saved_bytes = self.saved_bytes.saturating_add(earned as i64).min(SAVED_BYTES_MAX);
        if now.saturating_sub(self.looked_at) >= LOOK_EVERY {
            self.looked_at = now;
            self.look(log_p99());
        }
        let missing = u64::try_from(-self.saved_bytes).unwrap_or(0);
        Duration::from_secs_f64(missing as f64 / self.rate as f64)
    }

    /// A merge step took `bytes`.
    pub fn spend(&mut self, bytes: u64) {
        self.saved_bytes = self.saved_bytes.saturating_sub_unsigned(bytes);
    }

    /// Bytes a second that merges may take now.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    fn look(&mut self, log_p99: Option<Duration>) {
        let faster = (self.rate + RATE_STEP).min(RATE_MAX);
        self.rate = match (log_p99, self.usual) {
            (Some(p99), Some(usual)) if p99 > 2 * usual.max(QUIET) => (self.rate / 2).max(RATE_MIN),
            _ => faster,
        };
        if let Some(p99) = log_p99 {
            let risen = self.usual.map_or(p99, |usual| usual + usual / 100);
            self.usual = Some(p99.min(risen));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP_BYTES: u64 = 8 << 20;

    /// Bytes merged in ten seconds by a caller that asks every millisecond.
    fn merged(pace: &mut Pace, from: Duration, p99: impl Fn(u64) -> Option<Duration>) -> u64 {
        let mut bytes = 0;
        for millisecond in 0..10_000 {
            let now = from + Duration::from_millis(millisecond);
            if pace.wait(now, || p99(millisecond)).is_zero() {
                pace.spend(STEP_BYTES);
                bytes += STEP_BYTES;
            }
        }
        bytes
    }

    #[test]
    fn a_quiet_log_lets_merges_have_the_full_rate_and_no_more() {
        let bytes = merged(&mut Pace::default(), Duration::ZERO, |_| None);
        let most = 10 * RATE_MAX + SAVED_BYTES_MAX as u64 + 2 * STEP_BYTES;
        assert!((9 * RATE_MAX..=most).contains(&bytes), "{bytes}");
    }

    #[test]
    fn merges_yield_while_the_log_is_slow_and_come_back_after() {
        let mut pace = Pace::default();
        let ms = |number| Some(Duration::from_millis(number));
        merged(&mut pace, Duration::ZERO, |_| ms(3));
        assert_eq!(pace.rate(), RATE_MAX);
        let slow = merged(&mut pace, Duration::from_secs(10), |_| ms(20));
        assert!(slow <= 15 * RATE_MIN + RATE_MAX, "{slow}");
        assert!(slow >= 10 * RATE_MIN - STEP_BYTES, "they starve: {slow}");
        assert_eq!(pace.rate(), RATE_MIN);
        merged(&mut pace, Duration::from_secs(20), |_| ms(3));
        assert_eq!(pace.rate(), RATE_MAX);
    }

    #[test]
    fn a_log_that_is_always_slow_becomes_the_usual() {
        let mut pace = Pace::default();
        let ms = |number| Some(Duration::from_millis(number));
        merged(&mut pace, Duration::ZERO, |_| ms(5));
        for second in (10..200).step_by(10) {
            merged(&mut pace, Duration::from_secs(second), |_| ms(15));
        }
        assert_eq!(pace.rate(), RATE_MAX);
    }

    #[test]
    fn noise_of_a_fast_log_is_no_reason_to_yield() {
        let mut pace = Pace::default();
        let p99 = |ms: u64| Some(Duration::from_micros(if ms % 700 < 350 { 100 } else { 3_900 }));
        merged(&mut pace, Duration::ZERO, p99);
        assert_eq!(pace.rate(), RATE_MAX);
    }

    #[test]
    fn a_clock_that_jumps_neither_stops_merges_nor_floods() {
        let mut pace = Pace::default();
        pace.spend(100 << 20);
        let wait = pace.wait(Duration::ZERO, || None);
        assert!(wait > Duration::ZERO && wait < Duration::from_secs(1), "{wait:?}");
        assert!(pace.wait(Duration::MAX, || None).is_zero());
        pace.spend(2 * SAVED_BYTES_MAX as u64);
        assert!(!pace.wait(Duration::from_secs(1), || None).is_zero());
    }
}
