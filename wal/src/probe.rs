//! Which backend writes the log: a short measurement where the log lies.
//!
//! One idea: which call is the fastest depends on device, file system, kernel and sandbox, and
//! trying takes less time than knowing. Each backend that the disk has writes blocks to a file of
//! zeros in the log's directory, in turns, so that a slow moment meets all of them. What a system
//! refuses shows here, where nothing depends on it.
//!
//! The choice: the first in the disk's order than which no other is clearly faster; that is, by more
//! than a tenth both in its fastest write and in its median. The median alone will not do: on a busy
//! machine it says who had to queue for a processor, and at a start that is chance. The slowest
//! writes are reported and decide nothing, for the same reason: of 32 writes, the 99th percentile is
//! one write. A probe that was cut short after a few writes prefers nothing. So what is equal goes
//! to what also stands a busy machine (`docs/decisions/0015-log-backends.md`).
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
/// With fewer writes of each, chance decides who is the fastest.
const WRITES_MIN: usize = 8;
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
        /// How many were written.
        writes: usize,
        /// The fastest.
        fastest: Duration,
        /// The median.
        p50: Duration,
        /// The 99th percentile; with at most 32 writes that is the slowest.
        p99: Duration,
    },
    /// The system does not have it, or not for us; or there was no space to try it.
    Refused(varve_disk::Error),
}

impl Outcome {
    /// Whether it can be compared; a refusal is never compared.
    fn is_enough(&self) -> bool {
        match self {
            Self::Measured { writes, .. } => *writes >= WRITES_MIN,
            Self::Refused(_) => true,
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Measured { writes, fastest, p50, p99 } => write!(
                f,
                "{}: {writes} writes, fastest {} us, p50 {} us, p99 {} us",
                self.backend,
                fastest.as_micros(),
                p50.as_micros(),
                p99.as_micros()
            ),
            Outcome::Refused(error) => write!(f, "{}: {error}", self.backend),
        }
    }
}

/// As one line for people: `dsync: 32 writes, fastest 61 us, p50 88 us, p99 120 us; uring: ...`.
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
    let measured: Vec<(Backend, Duration, Duration)> = candidates
        .iter()
        .filter_map(|candidate| match candidate.outcome {
            Outcome::Measured { fastest, p50, .. } => Some((candidate.backend, fastest, p50)),
            Outcome::Refused(_) => None,
        })
        .collect();
    let is_known = candidates.iter().all(|candidate| candidate.outcome.is_enough());
    let is_beaten = |&(_, fastest, p50): &(Backend, Duration, Duration)| {
        measured
            .iter()
            .any(|other| is_clearly_less(other.1, fastest) && is_clearly_less(other.2, p50))
    };
    // The one with the lowest median is never beaten.
    measured
        .iter()
        .find(|candidate| !is_known || !is_beaten(candidate))
        .map(|(backend, ..)| *backend)
}

fn is_clearly_less(one: Duration, other: Duration) -> bool {
    one + one / 10 < other
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
        let at = |position: usize| self.times[position];
        let (fastest, p50, p99) = (at(0), at(count / 2), at(count * 99 / 100));
        (self.backend, Outcome::Measured { writes: count, fastest, p50, p99 })
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

    fn candidate(backend: Backend, fastest: u64, p50: u64) -> Candidate {
        let (fastest, p50) = (Duration::from_micros(fastest), Duration::from_micros(p50));
        Candidate {
            backend,
            outcome: Outcome::Measured { writes: WRITES, fastest, p50, p99: p50 * 2 },
        }
    }

    fn refused(backend: Backend) -> Candidate {
        let error = varve_disk::Error::new("open", Path::new("x"), ErrorKind::Unsupported.into());
        Candidate { backend, outcome: Outcome::Refused(error) }
    }

    #[test]
    fn only_what_is_clearly_faster_is_preferred_to_the_first() {
        use Backend::{BufferedDsync, Dsync, Fdatasync, Uring};
        let cases = [
            (vec![candidate(Dsync, 60, 100), candidate(Uring, 50, 90)], Some(Uring)),
            (vec![candidate(Dsync, 60, 100), candidate(Uring, 55, 80)], Some(Dsync)),
            (vec![candidate(Dsync, 60, 100), candidate(Uring, 50, 91)], Some(Dsync)),
            // A busy machine: medians by chance, the fastest writes alike.
            (vec![candidate(Dsync, 60, 711), candidate(Uring, 62, 200)], Some(Dsync)),
            // Faster than the first, but not by as much as the third.
            (
                vec![
                    candidate(Dsync, 90, 90),
                    candidate(Uring, 70, 70),
                    candidate(Fdatasync, 50, 50),
                ],
                Some(Fdatasync),
            ),
            (vec![refused(Dsync), candidate(BufferedDsync, 1, 1)], Some(BufferedDsync)),
            (vec![refused(Dsync), refused(Uring)], None),
            (vec![candidate(Dsync, 0, 0), candidate(Uring, 0, 0)], Some(Dsync)),
        ];
        for (candidates, expected) in cases {
            assert_eq!(choose(&candidates), expected, "{candidates:?}");
        }
    }

    #[test]
    fn a_probe_that_was_cut_short_prefers_nothing() {
        let mut candidates =
            [candidate(Backend::Dsync, 4864, 4864), candidate(Backend::Uring, 2875, 2875)];
        assert_eq!(choose(&candidates), Some(Backend::Uring));
        for candidate in &mut candidates {
            if let Outcome::Measured { writes, .. } = &mut candidate.outcome {
                *writes = WRITES_MIN - 1;
            }
        }
        assert_eq!(choose(&candidates), Some(Backend::Dsync));
    }

    #[test]
    fn a_report_is_a_line_for_people() {
        let candidates = vec![refused(Backend::Uring), candidate(Backend::Dsync, 61, 88)];
        let report = ProbeReport { candidates, elapsed: Duration::ZERO };
        let expected = "uring: cannot open x: unsupported; \
                        dsync: 32 writes, fastest 61 us, p50 88 us, p99 176 us";
        assert_eq!(report.to_string(), expected);
    }
}
