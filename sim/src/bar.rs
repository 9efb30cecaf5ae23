//! How far a run is, how fast, and how long it still takes: a line that is drawn anew on a terminal,
//! and written now and then elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use crate::run::{Sum, Wanted};

const WIDTH: usize = 30;
/// Between two drawings on a terminal, and between two lines elsewhere.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];

/// When it was last shown.
#[derive(Default)]
pub struct Bar {
    next_at: Duration,
}

impl Bar {
    /// Shows it, if it is time.
    pub fn show(&mut self, sum: &Sum, elapsed: Duration, wanted: &Wanted) {
        if elapsed < self.next_at {
            return;
        }
        let is_terminal = std::io::stderr().is_terminal();
        self.next_at = elapsed + PAUSES[usize::from(!is_terminal)];
        let line = line(sum.seeds, sum.failures.len(), elapsed, wanted.seeds, wanted.time);
        match is_terminal {
            true => eprint!("\r{line} "),
            false => eprintln!("{line}"),
        }
    }
}

fn line(seeds: u64, failures: usize, elapsed: Duration, seeds_max: u64, time: Duration) -> String {
    let of_seeds = seeds as f64 / seeds_max as f64;
    let done = of_seeds.max(elapsed.as_secs_f64() / time.as_secs_f64()).clamp(0.000_001, 1.0);
    let left = (elapsed.as_secs_f64() * (1.0 - done) / done) as u64;
    let full = (done * WIDTH as f64) as usize;
    let (full, empty) = ("#".repeat(full), ".".repeat(WIDTH - full));
    let percent = (done * 100.0) as u64;
    let rate = seeds as f64 / elapsed.as_secs_f64();
    format!(
        "[{full}{empty}] {percent:3} %, {}:{:02}:{:02} left, {seeds} seeds, {rate:.2}/s, {failures} failures",
        left / 3600,
        left / 60 % 60,
        left % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_follows_from_what_is_asked_for() {
        let half = line(50, 0, Duration::from_secs(1830), 100, Duration::MAX);
        let bar =
            "[###############...............]  50 %, 0:30:30 left, 50 seeds, 0.03/s, 0 failures";
        assert_eq!(half, bar);
        let timed = line(7, 2, Duration::from_secs(15), u64::MAX, Duration::from_secs(60));
        assert!(timed.contains(" 25 %, 0:00:45 left, 7 seeds") && timed.ends_with("2 failures"));
        let over = line(9, 0, Duration::from_secs(61), u64::MAX, Duration::from_secs(60));
        assert!(over.contains("100 %, 0:00:00 left"), "{over}");
    }
}
