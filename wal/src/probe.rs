//! Which backend writes the log: a short measurement where the log lies.
//!
//! One idea: which call is the fastest depends on device, file system, kernel and sandbox, and
//! trying takes less time than knowing. Each backend that the disk has writes blocks to a file of
//! zeros in the log's directory, in turns, so that a slow moment meets all of them. What a system
//! refuses shows here, where nothing depends on it.
//!
//! The choice: the lowest median; those within a tenth of it are taken for equal, and of these the
//! ones whose slowest writes were more than twice as slow as the best one's are dropped; of what is
//! left, the one that the disk lists first. So a choice rarely changes from start to start by
//! chance, and what is equal at an idle start goes to what also stands a busy machine
//! (`docs/decisions/0015-log-backends.md`).
//!
//! What it does not do: it does not measure again while the log is open, and it says nothing of
//! throughput.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use varve_disk::Disk;
use varve_disk::durable::{Backend, DurableWriter};

use crate::directory::ZEROS;
use crate::error::Result;
use crate::segment::PROBE_NAME;

/// Bytes of one write: a small batch.
const WRITE_BYTES: usize = 4096;
/// Writes of a backend that count. The first one before them does not.
const WRITES: usize = 32;
/// No turn is begun after this, so that a slow disk does not hold up the start: one turn of the
/// slowest disks takes some 50 ms.
const TIME_MAX: Duration = Duration::from_millis(90);

const _: () = assert!(Backend::ALL.len() * (WRITES + 1) * WRITE_BYTES <= ZEROS.len());

/// How a log comes by its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendChoice {
    /// By the probe: all that the disk has are measured, the best is taken.
    Auto,
    /// This one; opening fails where it cannot be had.
    Only(Backend),
}

impl Default for BackendChoice {
    /// What works everywhere and needs no probe.
    fn default() -> Self {
        Self::Only(Backend::Fdatasync)
    }
}

/// What the probe found.
#[derive(Debug)]
pub struct ProbeReport {
    /// Every backend that was tried, most wanted first.
    pub candidates: Vec<Candidate>,
    /// How long all of it took.
    pub elapsed: Duration,
}

/// A backend that was tried.
#[derive(Debug)]
pub struct Candidate {
    /// Which.
    pub backend: Backend,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of trying a backend.
#[derive(Debug)]
pub enum Outcome {
    /// Time of a durable write of 4 KiB.
    Measured {
        /// The median.
        p50: Duration,
        /// The 99th percentile; with at most 32 writes that is the slowest.
        p99: Duration,
    },
    /// The system does not have it, or not for us; or there was no space to try it.
    Refused(varve_disk::Error),
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Measured { p50, p99 } => write!(
                f,
                "{}: p50 {} us, p99 {} us",
                self.backend,
                p50.as_micros(),
                p99.as_micros()
            ),
            Outcome::Refused(error) => write!(f, "{}: {error}", self.backend),
        }
    }
}

/// As one line for people: `uring: p50 88 us, p99 120 us; dsync: ...`.
impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, candidate) in self.candidates.iter().enumerate() {
            write!(f, "{}{candidate}", if position == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// The backend for the log in `dir`, and what was measured to find it. Nothing is measured where
/// there is nothing to find out.
///
/// # Errors
/// The disk failed, or refuses the only backend that is allowed.
pub(crate) fn decide(
    disk: &dyn Disk,
    dir: &Path,
    choice: BackendChoice,
) -> Result<(Backend, Option<ProbeReport>)> {
    match choice {
        BackendChoice::Only(Backend::Fdatasync) => Ok((Backend::Fdatasync, None)),
        // A disk without a choice makes every durable write the same way.
        BackendChoice::Only(backend) if disk.backends().len() == 1 => Ok((backend, None)),
        BackendChoice::Auto if disk.backends().len() == 1 => Ok((disk.backends()[0], None)),
        BackendChoice::Auto => {
            let report = probe(disk, dir, disk.backends())?;
            Ok((choose(&report.candidates).unwrap_or(Backend::Fdatasync), Some(report)))
        }
        BackendChoice::Only(backend) => {
            let mut report = probe(disk, dir, &[backend])?;
            if choose(&report.candidates).is_some() {
                return Ok((backend, Some(report)));
            }
            match report.candidates.remove(0).outcome {
                // Without space nothing is known; a refusal would show at the first append.
                Outcome::Refused(error) if is_full(&error) => Ok((backend, None)),
                Outcome::Refused(error) => Err(error.into()),
                Outcome::Measured { .. } => unreachable!("what was measured is chosen"),
            }
        }
    }
}

fn is_full(error: &varve_disk::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// The best of what was measured.
fn choose(candidates: &[Candidate]) -> Option<Backend> {
    let mut measured: Vec<(Backend, Duration, Duration)> = candidates
        .iter()
        .filter_map(|candidate| match candidate.outcome {
            Outcome::Measured { p50, p99 } => Some((candidate.backend, p50, p99)),
            Outcome::Refused(_) => None,
        })
        .collect();
    let p50_best = measured.iter().map(|(_, p50, _)| *p50).min()?;
    measured.retain(|(_, p50, _)| *p50 <= p50_best + p50_best / 10);
    let p99_best = measured.iter().map(|(.., p99)| *p99).min()?;
    measured.retain(|(.., p99)| *p99 <= p99_best * 2);
    measured.first().map(|(backend, ..)| *backend)
}

/// Tries `backends` on a file of its own, which is gone afterwards.
fn probe(disk: &dyn Disk, dir: &Path, backends: &[Backend]) -> Result<ProbeReport> {
    let began = Instant::now();
    let path = dir.join(PROBE_NAME);
    let bytes = backends.len() * (WRITES + 1) * WRITE_BYTES;
    // Like a segment: blocks that are allocated and written, so that the probe overwrites.
    let filled = disk.create(&path).and_then(|file| {
        file.write_at(0, &ZEROS[..bytes])?;
        file.sync()
    });
    let candidates = match filled {
        Ok(()) => measure(disk, &path, backends, began)?,
        Err(error) if is_full(&error) => {
            let refuse = |_| varve_disk::Error::new("fill", &path, error.kind().into());
            let candidate = |&backend| (backend, Outcome::Refused(refuse(backend)));
            candidates(backends.iter().map(candidate))
        }
        Err(error) => return Err(error.into()),
    };
    if disk.exists(&path)? {
        // If a crash brings it back, the next start removes it.
        disk.remove(&path)?;
    }
    Ok(ProbeReport { candidates, elapsed: began.elapsed() })
}

fn candidates(outcomes: impl Iterator<Item = (Backend, Outcome)>) -> Vec<Candidate> {
    outcomes.map(|(backend, outcome)| Candidate { backend, outcome }).collect()
}

/// A backend while it is tried.
struct Trial {
    backend: Backend,
    writer: std::result::Result<Box<dyn DurableWriter>, varve_disk::Error>,
    times: Vec<Duration>,
}

fn measure(
    disk: &dyn Disk,
    path: &Path,
    backends: &[Backend],
    began: Instant,
) -> Result<Vec<Candidate>> {
    let mut trials = Vec::with_capacity(backends.len());
    for &backend in backends {
        let writer = match disk.open_durable(path, backend) {
            Err(error) if !error.is_refusal() => return Err(error.into()),
            outcome => outcome,
        };
        trials.push(Trial { backend, writer, times: Vec::with_capacity(WRITES) });
    }
    let block = Block::new();
    for turn in 0..=WRITES {
        for (position, trial) in trials.iter_mut().enumerate() {
            let offset = (position * (WRITES + 1) + turn) * WRITE_BYTES;
            trial.write(offset as u64, block.bytes())?;
        }
        if turn == 0 {
            // What is only slow the first time is over.
            trials.iter_mut().for_each(|trial| trial.times.clear());
        } else if began.elapsed() >= TIME_MAX {
            break;
        }
    }
    Ok(candidates(trials.into_iter().map(Trial::finish)))
}

impl Trial {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let Ok(writer) = &mut self.writer else { return Ok(()) };
        let began = Instant::now();
        match writer.write_durable_at(offset, data) {
            Ok(()) => self.times.push(began.elapsed()),
            Err(error) if error.is_refusal() => self.writer = Err(error),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn finish(mut self) -> (Backend, Outcome) {
        if let Err(error) = self.writer {
            return (self.backend, Outcome::Refused(error));
        }
        self.times.sort_unstable();
        let count = self.times.len();
        assert!((1..=WRITES).contains(&count), "{} wrote {count} times", self.backend);
        let (p50, p99) = (self.times[count / 2], self.times[count * 99 / 100]);
        (self.backend, Outcome::Measured { p50, p99 })
    }
}

/// A block at an aligned address.
struct Block {
    memory: Vec<u8>,
    start: usize,
}

impl Block {
    fn new() -> Self {
        // Not zeros, which a device might treat apart.
        let memory = vec![0xa5; 2 * WRITE_BYTES];
        let start = memory.as_ptr().align_offset(WRITE_BYTES);
        Self { memory, start }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + WRITE_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(backend: Backend, p50: u64, p99: u64) -> Candidate {
        let (p50, p99) = (Duration::from_micros(p50), Duration::from_micros(p99));
        Candidate { backend, outcome: Outcome::Measured { p50, p99 } }
    }

    fn refused(backend: Backend) -> Candidate {
        let error = varve_disk::Error::new("open", Path::new("x"), ErrorKind::Unsupported.into());
        Candidate { backend, outcome: Outcome::Refused(error) }
    }

    #[test]
    fn the_lowest_median_wins_then_the_tail_then_the_order() {
        use Backend::{BufferedDsync, Dsync, Fdatasync, Uring};
        let cases = [
            (vec![candidate(Uring, 100, 200), candidate(Dsync, 90, 200)], Some(Dsync)),
            (vec![candidate(Uring, 100, 200), candidate(Dsync, 91, 200)], Some(Uring)),
            (vec![candidate(Uring, 100, 900), candidate(Dsync, 100, 200)], Some(Dsync)),
            (vec![candidate(Uring, 100, 390), candidate(Dsync, 100, 200)], Some(Uring)),
            // Slow in the middle is not made good by a good tail.
            (vec![candidate(Uring, 200, 200), candidate(Fdatasync, 100, 900)], Some(Fdatasync)),
            (vec![refused(Uring), candidate(BufferedDsync, 1, 1)], Some(BufferedDsync)),
            (vec![refused(Uring), refused(Dsync)], None),
            (vec![candidate(Uring, 0, 0), candidate(Dsync, 0, 0)], Some(Uring)),
        ];
        for (candidates, expected) in cases {
            assert_eq!(choose(&candidates), expected, "{candidates:?}");
        }
    }

    #[test]
    fn a_report_is_a_line_for_people() {
        let candidates = vec![refused(Backend::Uring), candidate(Backend::Dsync, 88, 120)];
        let report = ProbeReport { candidates, elapsed: Duration::ZERO };
        let expected = "uring: cannot open x: unsupported; dsync: p50 88 us, p99 120 us";
        assert_eq!(report.to_string(), expected);
    }
}
