//! What a measured stretch cost this process and the disk: CPU time and bytes written.
//!
//! One idea: read the kernel's counters before and after, and subtract. CPU time is that of all
//! threads of the process, to the microsecond (getrusage), so idle time and other programs do not
//! count; the kernel's own workers, which write dirty pages back, do not count either.
//!
//! Bytes come twice, because neither counter is what one wants. *Charged* is what the kernel puts
//! down to the process (`write_bytes` of `/proc/self/io`): exact for direct writes; for writes
//! through the page cache it counts pages that become dirty, whole folios of them. *Device* is what
//! the disk under the directory was sent (`/sys/dev/block/.../stat`): exact, with the file system's
//! journal, but of everything on the machine.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use varve_benches::process::Figures;

/// Sectors of the kernel's statistics, whatever the disk has.
const SECTOR_BYTES: u64 = 512;

/// The counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    at: Instant,
    cpu: Duration,
    charged_bytes: u64,
    device_bytes: Option<u64>,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Time that went by.
    pub elapsed: Duration,
    /// CPU time of all threads, user and system.
    pub cpu: Duration,
    /// Bytes that the process was charged with.
    pub charged_bytes: u64,
    /// Bytes that the disk was sent; `None` where the file system has no disk of its own.
    pub device_bytes: Option<u64>,
}

impl Resources {
    /// Those of this process now, and of the disk under `directory`.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn now(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            cpu: cpu_time()?,
            charged_bytes: Figures::of(std::process::id())?.written_bytes,
            device_bytes: statistics_of(directory).and_then(|path| sent_bytes(&path)),
        })
    }

    /// What was used since `self`.
    ///
    /// # Errors
    /// As [`Resources::now`].
    pub fn used(&self, directory: &Path) -> io::Result<Used> {
        let now = Self::now(directory)?;
        let device = now.device_bytes.zip(self.device_bytes);
        Ok(Used {
            elapsed: now.at - self.at,
            cpu: now.cpu.saturating_sub(self.cpu),
            charged_bytes: now.charged_bytes.saturating_sub(self.charged_bytes),
            device_bytes: device.map(|(now, before)| now.saturating_sub(before)),
        })
    }
}

/// CPU time of this process, all threads, user and system.
fn cpu_time() -> io::Result<Duration> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `usage` has room for the answer.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: getrusage returned 0, so it filled in the whole structure.
    let usage = unsafe { usage.assume_init() };
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    Ok(duration(usage.ru_utime) + duration(usage.ru_stime))
}

/// The kernel's statistics of the disk that holds `directory`.
fn statistics_of(directory: &Path) -> Option<PathBuf> {
    let device = std::fs::metadata(directory).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let path = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
    path.exists().then_some(path)
}

/// The seventh number: sectors written.
fn sent_bytes(statistics: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(statistics).ok()?;
    let sectors: u64 = text.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_uses_cpu_time() {
        let here = Path::new(".");
        let before = Resources::now(here).unwrap();
        let mut sum = 0u64;
        while before.at.elapsed() < Duration::from_millis(50) {
            sum = sum.wrapping_add(varve_benches::workload::mix(sum));
        }
        let used = before.used(here).unwrap();
        assert!(used.cpu > Duration::ZERO, "{used:?}, {sum}");
        assert!(used.elapsed >= Duration::from_millis(50));
    }
}
