//! When the next call is due.
//!
//! One idea: clients ask one [`Pace`] for their next call and get its number and the time from
//! which its latency counts: now in a closed loop, the time on the schedule in an open one. Of the
//! clients that are idle one waits for the timer and the others wait for it, in order.
//!
//! Invariants: numbers are given once; those of different threads differ.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::timer::Timer;
use super::{Limit, Spec};

/// The calls of one thread.
pub struct Pace {
    start: Instant,
    thread: u64,
    threads: u64,
    /// Calls that this thread may begin.
    calls_max: u64,
    /// No call is due at or behind it.
    end: Option<Instant>,
    schedule: Schedule,
}

enum Schedule {
    /// As fast as answers come: the number of calls begun.
    Closed(AtomicU64),
    /// One call each interval.
    Open { interval: Duration, next: tokio::sync::Mutex<(u64, Timer)> },
}

impl Pace {
    /// The share of `thread` in a run of `threads`.
    pub fn new(spec: &Spec, start: Instant, thread: usize, threads: usize) -> Self {
        let (thread, threads) = (thread as u64, threads as u64);
        let (calls_max, end) = match spec.limit {
            Limit::Calls(calls) => (calls / threads + u64::from(thread < calls % threads), None),
            Limit::Time(time) => (u64::MAX, Some(start + time)),
        };
        let schedule = match spec.rate {
            None => Schedule::Closed(AtomicU64::new(0)),
            Some(rate) => Schedule::Open {
                interval: Duration::from_secs_f64(1.0 / rate),
                next: tokio::sync::Mutex::new((0, Timer::new().expect("a timer can be made"))),
            },
        };
        Self { start, thread, threads, calls_max, end, schedule }
    }

    /// Waits until a call is due; its number and the time from which its latency counts. `None`
    /// when the run is over.
    pub async fn next(&self) -> Option<(u64, Instant)> {
        match &self.schedule {
            Schedule::Closed(begun) => {
                let own = begun.fetch_add(1, Ordering::Relaxed);
                let now = Instant::now();
                (!self.is_over(own, now)).then(|| (self.number(own), now))
            }
            Schedule::Open { interval, next } => {
                let mut next = next.lock().await;
                let own = next.0;
                let due = self.start + interval.mul_f64(self.number(own) as f64);
                if self.is_over(own, due) {
                    return None;
                }
                next.1.wait_until(due).await.expect("a timer can be read");
                next.0 += 1;
                Some((self.number(own), due))
            }
        }
    }

    /// The number in the whole run of this thread's call `own`.
    fn number(&self, own: u64) -> u64 {
        own * self.threads + self.thread
    }

    fn is_over(&self, own: u64, due: Instant) -> bool {
        own >= self.calls_max || self.end.is_some_and(|end| due >= end)
    }
}
