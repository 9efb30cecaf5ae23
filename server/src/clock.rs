//! What time it is, for the parts that decide by it: the lessor and the Raft thread.
//!
//! One idea: a clock is handed in, so that a test can be the clock. The system's is the monotonic
//! one, which jumps for nobody; one that is set stands still until it is set again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A monotonic clock. Clones tell the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Manual>>);

#[derive(Debug)]
struct Manual {
    start: Instant,
    nanoseconds: AtomicU64,
}

impl Clock {
    /// A clock that tells what it is set to; its start is nowhere in particular.
    pub fn manual() -> Self {
        let nanoseconds = AtomicU64::new(0);
        Self(Some(Arc::new(Manual { start: Instant::now(), nanoseconds })))
    }

    /// Sets a manual clock to so long after its start. It never goes back.
    ///
    /// # Panics
    /// If it is the system's.
    pub fn set(&self, since_start: Duration) {
        let manual = self.0.as_ref().expect("only a manual clock can be set");
        let nanoseconds = u64::try_from(since_start.as_nanos()).expect("584 years are enough");
        manual.nanoseconds.fetch_max(nanoseconds, Ordering::Relaxed);
    }

    /// The time since a fixed moment, that in which the machine slept included.
    pub fn awake_or_asleep(&self) -> Duration {
        let Some(manual) = &self.0 else { return since_boot() };
        Duration::from_nanos(manual.nanoseconds.load(Ordering::Relaxed))
    }

    /// The time.
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(manual) => {
                manual.start + Duration::from_nanos(manual.nanoseconds.load(Ordering::Relaxed))
            }
        }
    }
}

/// CLOCK_BOOTTIME: what `Instant` tells stands still while the machine is suspended.
fn since_boot() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written to a place that is ours.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(outcome, 0, "Linux has this clock since 2.6.39");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_stands_still_until_it_is_set_and_never_goes_back() {
        let clock = Clock::manual();
        let start = clock.now();
        assert_eq!(clock.now(), start);
        clock.set(Duration::from_secs(5));
        clock.clone().set(Duration::from_secs(3));
        assert_eq!(clock.now() - start, Duration::from_secs(5));
        assert_eq!(clock.awake_or_asleep(), Duration::from_secs(5));
    }

    #[test]
    fn the_time_since_boot_goes_on() {
        let clock = Clock::default();
        let (before, started) = (clock.awake_or_asleep(), Instant::now());
        std::thread::sleep(Duration::from_millis(5));
        assert!(clock.awake_or_asleep() - before >= Duration::from_millis(5));
        assert!(clock.awake_or_asleep() >= before + started.elapsed() / 2);
    }
}
