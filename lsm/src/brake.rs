//! The writer's brake: it slows down by degrees before it would have to stop.
//!
//! Background work empties what the writer fills: memory, and level 0. How full that is, is the
//! *pressure* ([`Db::pressure`](crate::Db::pressure)). Below [`PRESSURE_FREE`] the writer is free;
//! from there to 1 the rate it may write at falls by a constant factor for each step of pressure.
//! So the pressure settles where the writer's rate is what background work gets done, whatever that
//! is: nothing is measured, nothing swings, and a pause is short because it is taken in every batch.
//!
//! Invariants: a pause is at most [`PAUSE_MAX`]; the rate is never below [`RATE_MIN`]. Pure: who
//! holds the clock sleeps. A writer at pressure 1 must still wait, see
//! [`Db::is_writer_ahead`](crate::Db::is_writer_ahead); the brake is there so that it never gets there.

use std::time::Duration;

/// Up to here the writer is free: two thirds of the memory, or of the tables in level 0.
const PRESSURE_FREE: f64 = 2.0 / 3.0;
/// Bytes a second that may be written at that pressure.
const RATE_MAX: f64 = (1u64 << 30) as f64;
/// Bytes a second that may be written at a pressure of 1.
const RATE_MIN: f64 = (2u64 << 20) as f64;
/// Shorter pauses are saved up: a sleep takes some hundred microseconds at least.
const PAUSE_MIN: Duration = Duration::from_micros(500);
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_millis(4);
/// What can be owed: a large batch slows those behind it for so long at most.
const OWED_MAX: Duration = Duration::from_millis(200);

/// The brake of one writer.
#[derive(Clone, Debug, Default)]
pub struct Brake {
    owed: Duration,
}

impl Brake {
    /// How long the writer pauses before a batch of `bytes`, at this pressure; mostly not at all.
    pub fn pause(&mut self, bytes: u64, pressure: f64) -> Duration {
        if pressure <= PRESSURE_FREE {
            self.owed = Duration::ZERO;
            return Duration::ZERO;
        }
        let depth = ((pressure - PRESSURE_FREE) / (1.0 - PRESSURE_FREE)).min(1.0);
        let rate = RATE_MAX * (RATE_MIN / RATE_MAX).powf(depth);
        let cost = (bytes as f64 / rate).min(OWED_MAX.as_secs_f64());
        self.owed = (self.owed + Duration::from_secs_f64(cost)).min(OWED_MAX);
        if self.owed < PAUSE_MIN {
            return Duration::ZERO;
        }
        let pause = self.owed.min(PAUSE_MAX);
        self.owed -= pause;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: u64 = 16 << 10;
    const CAPACITY: f64 = 96.0 * 1048576.0;

    /// Writes at `rate` for ten seconds while `drain` bytes a second are emptied; returns the
    /// highest pressure of the second half, the bytes written in it a second, and the longest pause.
    fn run(rate: f64, drain: f64) -> (f64, f64, Duration) {
        let (mut brake, mut full, mut clock) = (Brake::default(), 0.0f64, 0.0);
        let (mut highest, mut written, mut longest) = (0.0f64, 0.0, Duration::ZERO);
        while clock < 10.0 {
            let pause = brake.pause(BATCH, full / CAPACITY);
            let took = (BATCH as f64 / rate) + pause.as_secs_f64();
            clock += took;
            full = (full - took * drain).max(0.0) + BATCH as f64;
            longest = longest.max(pause);
            if clock > 5.0 {
                highest = highest.max(full / CAPACITY);
                written += BATCH as f64 / 5.0;
            }
        }
        (highest, written, longest)
    }

    #[test]
    fn who_is_slower_than_background_work_is_never_braked() {
        let (highest, _, longest) = run(50e6, 60e6);
        assert!(highest < 0.01 && longest.is_zero(), "{highest} {longest:?}");
    }

    #[test]
    fn who_is_faster_comes_down_to_the_rate_of_background_work_and_never_stops() {
        for drain in [5e6, 20e6, 100e6, 300e6] {
            let (highest, written, longest) = run(600e6, drain);
            assert!(highest < 1.0, "{drain}: pressure {highest}");
            assert!((written / drain - 1.0).abs() < 0.05, "{drain}: {written}");
            assert!(longest <= PAUSE_MAX, "{longest:?}");
        }
    }

    #[test]
    fn a_huge_batch_costs_many_short_pauses_and_is_forgotten_when_pressure_falls() {
        let mut brake = Brake::default();
        assert_eq!(brake.pause(1 << 30, 1.0), PAUSE_MAX);
        for _ in 0..10 {
            assert_eq!(brake.pause(0, 0.9), PAUSE_MAX);
        }
        assert!(brake.pause(0, 0.5).is_zero());
        assert!(brake.pause(0, 0.9).is_zero());
    }

    #[test]
    fn pressure_beyond_all_bounds_is_as_1() {
        assert_eq!(Brake::default().pause(BATCH, 7.0), Brake::default().pause(BATCH, 1.0));
    }
}
