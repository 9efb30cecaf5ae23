//! An `io_uring` that carries one write at a time.
//!
//! One idea: submit one entry and wait for its completion in the same system call. The ring adds
//! nothing to what `pwritev2` does but a cheaper way into the kernel and out of it; there is no
//! second entry in flight, no linked sync (which the kernel would hand to a worker thread), and no
//! thread of the kernel that polls.
//!
//! What it does not do: no partial writes made whole, no opinion on alignment (`durable.rs`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

/// Entries of the ring. One is in flight.
const ENTRIES: u32 = 2;

/// The kernel takes at most so many bytes in one write.
const WRITE_BYTES_MAX: usize = 1 << 30;

/// A ring.
///
/// Invariants: between two calls, nothing is submitted that is not completed.
pub(super) struct Ring {
    ring: IoUring,
}

impl Ring {
    /// A new ring.
    ///
    /// # Errors
    /// `EPERM` where it is forbidden (containers, `kernel.io_uring_disabled`), `ENOSYS` where the
    /// kernel has none, `ENOMEM` or `EMFILE` where a limit is reached.
    pub(super) fn new() -> io::Result<Self> {
        // The thread that waits runs the completion itself, without an interrupt in between.
        // Linux 5.19 has that; older ones say that they do not know it.
        let cooperative = IoUring::builder().setup_coop_taskrun().build(ENTRIES);
        let ring = match cooperative {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(ENTRIES)?,
            outcome => outcome?,
        };
        Ok(Self { ring })
    }

    /// Writes some of `data` at `offset`, and waits until that is durable; how many bytes.
    pub(super) fn write_dsync(
        &mut self,
        file: &File,
        offset: u64,
        data: &[u8],
    ) -> io::Result<usize> {
        let length = u32::try_from(data.len().min(WRITE_BYTES_MAX)).expect("1 GiB fits 32 bits");
        let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), data.as_ptr(), length)
            .offset(offset)
            .rw_flags(libc::RWF_DSYNC)
            .build();
        // SAFETY: the entry points at `data` and names an open descriptor. Both are borrowed for
        // this call, and this call does not return before the kernel is done with the entry:
        // `complete` waits for its completion, and ends the process where it cannot.
        unsafe { self.ring.submission().push(&entry) }
            .expect("nothing is in flight, so the queue has room");
        self.complete()
    }

    fn complete(&mut self) -> io::Result<usize> {
        loop {
            let outcome = self.ring.submit_and_wait(1);
            if let Some(completion) = self.ring.completion().next() {
                return match completion.result() {
                    count @ 0.. => Ok(count as usize),
                    errno => Err(io::Error::from_raw_os_error(-errno)),
                };
            }
            match outcome {
                // A signal came first, or the kernel is short of something for a moment.
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(_) => {
                    // The kernel may still read the caller's memory, and nobody can say for how
                    // long: returning would be unsound. The log is at its end anyway.
                    std::process::abort();
                }
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}
