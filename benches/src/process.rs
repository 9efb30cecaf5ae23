//! What the kernel knows about a process: CPU time, memory, bytes written; and the size of files.
//!
//! One idea: a server is measured from outside, in the same way whatever it is written in.
//!
//! Source: proc(5).

use std::io;
use std::path::Path;
use std::time::Duration;

/// Linux reports CPU time to user space in hundredths of a second on all architectures (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// A process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// CPU time of all threads since the start, user and system, in steps of 10 ms.
    pub cpu: Duration,
    /// Resident memory in bytes, mapped files that are in memory included.
    pub resident_bytes: u64,
    /// The part of it that is not files: heap and stacks.
    pub anonymous_bytes: u64,
    /// The most resident memory since the start.
    pub resident_bytes_max: u64,
    /// Bytes that it made the kernel send to disks since the start.
    pub written_bytes: u64,
}

impl Figures {
    /// Those of process `pid`.
    ///
    /// # Errors
    /// There is no such process, or it is somebody else's.
    pub fn of(pid: u32) -> io::Result<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let (stat, status, io) = (read("stat")?, read("status")?, read("io")?);
        Ok(Self {
            cpu: cpu_of_stat(&stat).ok_or_else(|| unexpected("stat", &stat))?,
            resident_bytes: field(&status, "VmRSS:").unwrap_or(0) << 10,
            anonymous_bytes: field(&status, "RssAnon:").unwrap_or(0) << 10,
            resident_bytes_max: field(&status, "VmHWM:").unwrap_or(0) << 10,
            written_bytes: field(&io, "write_bytes:").unwrap_or(0),
        })
    }

    /// Those of several processes, added up.
    ///
    /// # Errors
    /// As [`Figures::of`].
    pub fn of_all(pids: &[u32]) -> io::Result<Self> {
        pids.iter().map(|pid| Self::of(*pid)).sum()
    }
}

impl std::iter::Sum for Figures {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            cpu: sum.cpu + one.cpu,
            resident_bytes: sum.resident_bytes + one.resident_bytes,
            anonymous_bytes: sum.anonymous_bytes + one.anonymous_bytes,
            resident_bytes_max: sum.resident_bytes_max + one.resident_bytes_max,
            written_bytes: sum.written_bytes + one.written_bytes,
        })
    }
}

fn unexpected(name: &str, text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected /proc/.../{name}: {text}"))
}

/// Fields 14 and 15; the second field is a name in brackets that may contain spaces.
fn cpu_of_stat(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes that a directory and all below it take on the disk.
///
/// # Errors
/// When it cannot be read. Files that vanish meanwhile are no error.
pub fn disk_bytes(directory: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += disk_bytes(&entry.path())?,
            Ok(metadata) => bytes += metadata.blocks() * 512,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "12 (a ) name) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(cpu_of_stat(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu_of_stat("12 (a"), None);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = Figures::of(std::process::id()).unwrap();
        assert!(figures.resident_bytes > 0);
        assert!(figures.resident_bytes_max >= figures.resident_bytes);
    }
}
