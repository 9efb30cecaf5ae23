//! How fast snapshots go out, all of this member together: what is left of the line and the disk
//! belongs to the log and to clients.
//!
//! One idea: whoever wants to send takes the next place in time and waits for it. Nothing is saved
//! up in quiet times, so that there is no burst beyond one piece.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The bound, shared by all transfers.
#[derive(Debug)]
pub struct Rate {
    /// 0 for none.
    bytes_per_second: u64,
    /// From when on the next piece may go.
    free_at: Mutex<Option<Instant>>,
}

impl Rate {
    /// At most so many bytes a second; 0 for as many as there are.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::default() }
    }

    /// Waits until `bytes` may go out.
    pub(super) async fn wait(&self, bytes: usize) {
        let now = Instant::now();
        let place = self.place(now, bytes);
        if place > now {
            tokio::time::sleep_until(place.into()).await;
        }
    }

    /// When `bytes`, asked for now, may go out; from then on they take their time.
    fn place(&self, now: Instant, bytes: usize) -> Instant {
        if self.bytes_per_second == 0 {
            return now;
        }
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let place = free_at.map_or(now, |free_at| free_at.max(now));
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *free_at = Some(place + takes.min(LONGEST));
        place
    }
}

/// What one piece takes at most, however low the rate is: the receiver takes longer silence for the
/// end.
const LONGEST: Duration = Duration::from_secs(10);

const _: () = assert!(LONGEST.as_secs() * 2 <= crate::limits::SNAPSHOT_STEP_TIMEOUT.as_secs());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_transfers_share_one_rate_and_quiet_times_save_nothing_up() {
        let (rate, start) = (Rate::new(1_000), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let places: Vec<_> = (0..4).map(|_| rate.place(start, 250)).collect();
        assert_eq!(places, [at(0), at(250), at(500), at(750)]);
        assert_eq!(rate.place(at(60_000), 250), at(60_000));
        assert_eq!(rate.place(at(60_000), 250), at(60_250));
    }

    #[test]
    fn no_bound_is_no_wait_and_the_lowest_is_not_silence() {
        let (none, lowest, now) = (Rate::new(0), Rate::new(1), Instant::now());
        for _ in 0..3 {
            assert_eq!(none.place(now, 1 << 30), now);
        }
        assert_eq!(lowest.place(now, 1 << 30), now);
        assert_eq!(lowest.place(now, 1 << 30), now + LONGEST);
    }
}
