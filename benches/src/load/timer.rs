//! A timer with the kernel's resolution.
//!
//! One idea: tokio's timers have steps of a millisecond, which is longer than a put takes. A
//! `timerfd` is as exact as the kernel's clock and wakes the runtime as a socket does.
//!
//! Source: timerfd_create(2).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of a runtime. Made within it.
pub struct Timer {
    file: AsyncFd<File>,
}

impl Timer {
    /// A timer that is not running.
    ///
    /// # Errors
    /// The process has too many files.
    pub fn new() -> io::Result<Self> {
        // SAFETY: timerfd_create(2) takes two integers and touches no memory of this process.
        let fd = unsafe {
            libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else has it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: the descriptor is the file's and stays open and the same for as long as the file,
        // which nobody can take out of here.
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
        Ok(Self { file: file? })
    }

    /// Waits until `due`; not at all when that is past.
    ///
    /// # Errors
    /// The timer cannot be set or read.
    pub async fn wait_until(&mut self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let value = libc::timespec {
            tv_sec: left.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(left.subsec_nanos() as i32),
        };
        let once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: once, it_value: value };
        let fd = self.file.get_ref().as_raw_fd();
        // SAFETY: `setting` lives through the call, which only reads it; the old setting is not
        // asked for.
        let result = unsafe { libc::timerfd_settime(fd, 0, &setting, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // How often it expired: once, which is known.
        let mut expirations = [0; 8];
        let read = |mut file: &File| file.read_exact(&mut expirations);
        self.file.async_io(Interest::READABLE, read).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_timer_does_not_expire_early() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut timer = Timer::new().unwrap();
            for micros in [0, 100, 700, 1500] {
                let due = Instant::now() + Duration::from_micros(micros);
                timer.wait_until(due).await.unwrap();
                assert!(Instant::now() >= due);
            }
        });
    }
}
