//! The writer's brake: it slows down by degrees before it would have to stop.
//!
//! Background work empties what the writer fills: memory, and level 0. How full that is, is the
//! *pressure* ([`Db::pressure`](crate::Db::pressure)). Below [`PRESSURE_FREE`] the writer is free;
//! from there to 1 the rate it may write at falls by a constant factor for each step of pressure.
//! So the pressure settles where the writer's rate is what background work gets done, whatever that
//! is: nothing is measured, nothing swings, and a pause is short because it is taken in every batch.
//!
//! A batch is paid for after it: the next one waits until the time that it takes at that rate has
//! passed, by pauses or by itself. So who is slower than permitted never pauses, and a large batch
//! costs many short pauses in a row, which end when the pressure falls.
//!
//! Invariants: a pause is at most [`PAUSE_MAX`]; the rate is never below [`RATE_MIN`]; nothing that
//! was written is forgiven while the pressure lasts. Pure: who holds the clock sleeps. A writer at
//! pressure 1 must still wait, see [`Db::is_writer_ahead`](crate::Db::is_writer_ahead); the brake is
//! there so that it never gets there.

use std::time::Duration;

/// Up to here the writer is free: two thirds of the memory, or of the tables in level 0.
const PRESSURE_FREE: f64 = 2.0 / 3.0;
/// Bytes a second that may be written at that pressure.
const RATE_MAX: f64 = (1u64 << 30) as f64;
/// Bytes a second that may be written at a pressure of 1.
const RATE_MIN: f64 = (2u64 << 20) as f64;
/// Shorter pauses are saved up: a sleep takes some hundred microseconds at least.
const PAUSE_MIN: Duration = Duration::from_micros(500);
/// No pause is longer: after it, the pressure is looked at again.
const PAUSE_MAX: Duration = Duration::from_millis(4);

/// The brake of one writer.
#[derive(Clone, Debug, Default)]
pub struct Brake {
    owed_bytes: f64,
    seen_at: Duration,
}

impl Brake {
    /// How long the writer pauses now, before it asks again; zero, which it mostly is: it may write
    /// a batch. `now` is the time since any fixed moment.
    pub fn pause(&mut self, now: Duration, pressure: f64) -> Duration {
        let elapsed = now.saturating_sub(self.seen_at);
        self.seen_at = now;
        if pressure <= PRESSURE_FREE {
            self.owed_bytes = 0.0;
            return Duration::ZERO;
        }
        let depth = ((pressure - PRESSURE_FREE) / (1.0 - PRESSURE_FREE)).min(1.0);
        let rate = RATE_MAX * (RATE_MIN / RATE_MAX).powf(depth);
        self.owed_bytes = (self.owed_bytes - elapsed.as_secs_f64() * rate).max(0.0);
        let owed_seconds = (self.owed_bytes / rate).min(PAUSE_MAX.as_secs_f64());
        let owed = Duration::from_secs_f64(owed_seconds);
        if owed < PAUSE_MIN { Duration::ZERO } else { owed }
    }

    /// A batch of `bytes` is written.
    pub fn spend(&mut self, bytes: u64) {
        self.owed_bytes += bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small one, and what a log's entry of many requests, or of one large value, holds.
    const BATCHES: [u64; 2] = [16 << 10, 1 << 20];
    const CAPACITY: f64 = 96.0 * 1048576.0;
    const SECONDS: f64 = 40.0;

    /// Writes batches at `rate` while `drain` bytes a second are emptied; returns the highest
    /// pressure of the second half, the bytes written in it a second, and the longest pause.
    fn run(batch: u64, rate: f64, drain: f64) -> (f64, f64, Duration) {
        let (mut brake, mut full, mut clock) = (Brake::default(), 0.0f64, 0.0);
        let (mut highest, mut written, mut longest) = (0.0f64, 0.0, Duration::ZERO);
        while clock < SECONDS {
            let pause = brake.pause(Duration::from_secs_f64(clock), full / CAPACITY);
            longest = longest.max(pause);
            let mut took = pause.as_secs_f64();
            if pause.is_zero() {
                brake.spend(batch);
                full += batch as f64;
                took = batch as f64 / rate;
            }
            clock += took;
            if clock > SECONDS / 2.0 {
                highest = highest.max(full / CAPACITY);
                written += if pause.is_zero() { batch as f64 / (SECONDS / 2.0) } else { 0.0 };
            }
            full = (full - took * drain).max(0.0);
        }
        (highest, written, longest)
    }

    #[test]
    fn who_is_slower_than_background_work_is_never_braked() {
        for batch in BATCHES {
            let (highest, _, longest) = run(batch, 50e6, 60e6);
            assert!(highest < 0.02 && longest.is_zero(), "{highest} {longest:?}");
        }
    }

    #[test]
    fn who_is_slower_than_the_pressure_permits_is_never_braked() {
        for batch in BATCHES {
            let (mut brake, mut clock) = (Brake::default(), Duration::ZERO);
            for _ in 0..10_000 {
                assert_eq!(brake.pause(clock, 0.75), Duration::ZERO, "of {batch} bytes");
                brake.spend(batch);
                clock += Duration::from_secs_f64(batch as f64 / 50e6);
            }
        }
    }

    #[test]
    fn who_is_faster_comes_down_to_the_rate_of_background_work_and_never_stops() {
        for batch in BATCHES {
            for drain in [5e6, 20e6, 100e6, 300e6] {
                let (highest, written, longest) = run(batch, 600e6, drain);
                assert!(highest < 1.0, "{batch}, {drain}: pressure {highest}");
                assert!((written / drain - 1.0).abs() < 0.05, "{batch}, {drain}: {written}");
                assert!(longest <= PAUSE_MAX, "{longest:?}");
            }
        }
    }

    #[test]
    fn a_huge_batch_costs_many_short_pauses_and_is_forgotten_when_pressure_falls() {
        let (mut brake, mut clock) = (Brake::default(), Duration::ZERO);
        assert!(brake.pause(clock, 1.0).is_zero());
        brake.spend(1 << 30);
        // At 2 MiB a second.
        while clock < Duration::from_secs(511) {
            assert_eq!(brake.pause(clock, 1.0), PAUSE_MAX);
            clock += PAUSE_MAX;
        }
        assert!(brake.clone().pause(clock + Duration::from_secs(1), 1.0).is_zero());
        assert!(brake.pause(clock, 0.5).is_zero());
        assert!(brake.pause(clock, 1.0).is_zero());
    }

    #[test]
    fn pressure_beyond_all_bounds_is_as_1_and_a_clock_may_jump() {
        let mut brake = Brake::default();
        brake.spend(4 << 10);
        let now = Duration::ZERO;
        assert_eq!(brake.clone().pause(now, 7.0), brake.clone().pause(now, 1.0));
        assert!(!brake.pause(now, 7.0).is_zero());
        assert!(brake.pause(Duration::MAX, 1.0).is_zero());
        brake.spend(u64::MAX);
        assert_eq!(brake.pause(now, 1.0), PAUSE_MAX);
    }
}
