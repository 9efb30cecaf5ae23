//! Durable writes on the real disk.
//!
//! One idea: two descriptors on one file. The *direct* one (`O_DIRECT`) goes past the page cache
//! and takes only what is aligned to the device's logical block; the *plain* one takes all the
//! rest, and is the only one that cannot be refused. Linux keeps them coherent: a direct write
//! first writes back and then drops the cached pages of its range, so that every later read,
//! through any descriptor, sees it.
//!
//! | refused | where | here |
//! | --- | --- | --- |
//! | `io_uring_setup` | containers, `kernel.io_uring_disabled`, old kernels | the open fails |
//! | `O_DIRECT` | some network, stacked and memory file systems | the open fails |
//! | `RWF_DSYNC` | gVisor, kernels before 4.7 | the first write fails |
//! | an unaligned direct write | 4 KiB blocks under a file made for 512 | written the plain way |
//!
//! Who chooses a backend tries it on a file that does not matter, and then all of these are known.
//!
//! What it does not do: no registered buffers and files (`docs/decisions/0015-log-backends.md` has
//! the figures), no retries except after `EINTR`.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::ring::Ring;
use crate::durable::{Backend, DurableWriter};
use crate::{Error, Result};

/// What a direct write must be aligned to when the kernel does not say: no device needs more.
const ALIGNMENT_BYTES_MAX: u32 = 4096;

/// Opens an existing file for durable writes.
///
/// # Errors
/// Those of opening it; and with the system's error number, when the backend cannot be had.
pub(super) fn open(path: &Path, backend: Backend) -> Result<Box<dyn DurableWriter>> {
    let fail = |error| Error::new("open for durable writes", path, error);
    let plain = OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
    let direct = match backend {
        Backend::Uring | Backend::Dsync => Some(
            Direct::open(path).map_err(|error| Error::new("open with O_DIRECT", path, error))?,
        ),
        Backend::BufferedDsync | Backend::Fdatasync => None,
    };
    let ring = match backend {
        Backend::Uring => {
            Some(Ring::new().map_err(|error| Error::new("set up io_uring for", path, error))?)
        }
        _ => None,
    };
    let is_dsync = backend != Backend::Fdatasync;
    let operation = match backend {
        Backend::Uring => "write durably (by uring) to",
        Backend::Dsync => "write durably (by dsync) to",
        Backend::BufferedDsync => "write durably (by buffered-dsync) to",
        Backend::Fdatasync => "write durably (by fdatasync) to",
    };
    let path = path.to_path_buf();
    Ok(Box::new(OsWriter { plain, direct, ring, is_dsync, operation, path }))
}

/// A file with its descriptors.
///
/// Invariants: a ring is there only beside a direct descriptor.
struct OsWriter {
    plain: File,
    direct: Option<Direct>,
    ring: Option<Ring>,
    /// Whether writes carry `RWF_DSYNC`; otherwise `fdatasync` follows them.
    is_dsync: bool,
    /// For errors, as the path is.
    operation: &'static str,
    path: PathBuf,
}

impl DurableWriter for OsWriter {
    fn write_durable_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let outcome = match &self.direct {
            // Not for this device: a file that was laid out for smaller blocks.
            Some(direct) if !direct.takes(offset, data) => {
                write_then_sync(&self.plain, offset, data)
            }
            Some(direct) => match &mut self.ring {
                Some(ring) => write_all(offset, data, |offset, data| {
                    ring.write_dsync(&direct.file, offset, data)
                }),
                None => write_all(offset, data, |at, data| pwrite_dsync(&direct.file, at, data)),
            },
            None if self.is_dsync => {
                write_all(offset, data, |at, data| pwrite_dsync(&self.plain, at, data))
            }
            None => write_then_sync(&self.plain, offset, data),
        };
        outcome.map_err(|error| Error::new(self.operation, &self.path, error))
    }
}

/// A descriptor that goes past the page cache.
struct Direct {
    file: File,
    /// What the address of the memory must be a multiple of.
    memory_alignment: u32,
    /// What offset and length must be multiples of.
    offset_alignment: u32,
}

impl Direct {
    /// # Errors
    /// `EINVAL` when the file system has no direct writes.
    fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        let (memory_alignment, offset_alignment) = alignment(&file)?;
        if memory_alignment == 0 || offset_alignment == 0 {
            // So the kernel says that this file has none, though it let us open it.
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Self { file, memory_alignment, offset_alignment })
    }

    /// Whether the device takes such a write.
    fn takes(&self, offset: u64, data: &[u8]) -> bool {
        offset.is_multiple_of(u64::from(self.offset_alignment))
            && data.len().is_multiple_of(self.offset_alignment as usize)
            && data.as_ptr().addr().is_multiple_of(self.memory_alignment as usize)
    }
}

/// What direct writes to `file` must be aligned to: memory, offset. Zeros: there are none.
fn alignment(file: &File) -> io::Result<(u32, u32)> {
    let mut status = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is open; the path is an empty string that ends in NUL, which
    // AT_EMPTY_PATH makes mean the descriptor itself; `status` has room for the answer.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            status.as_mut_ptr(),
        )
    };
    if result != 0 {
        return match io::Error::last_os_error() {
            // Kernels and sandboxes without statx.
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                Ok((ALIGNMENT_BYTES_MAX, ALIGNMENT_BYTES_MAX))
            }
            error => Err(error),
        };
    }
    // SAFETY: all of it was zeroed, which is a value of this structure of numbers, and statx
    // returned 0 after filling in what it knows.
    let status = unsafe { status.assume_init() };
    if status.stx_mask & libc::STATX_DIOALIGN == 0 {
        // Linux before 6.1, or a file system that does not say.
        return Ok((ALIGNMENT_BYTES_MAX, ALIGNMENT_BYTES_MAX));
    }
    Ok((status.stx_dio_mem_align, status.stx_dio_offset_align))
}

/// Repeats `write`, which writes some bytes durably, until all are written.
fn write_all(
    mut offset: u64,
    mut data: &[u8],
    mut write: impl FnMut(u64, &[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    while !data.is_empty() {
        match write(offset, data) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                offset += count as u64;
                data = &data[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One `pwritev2` with `RWF_DSYNC`: the bytes that it counts are durable when it returns.
fn pwrite_dsync(file: &File, offset: u64, data: &[u8]) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: the descriptor is open; the vector is one element that points at `data`, which is
    // borrowed for the call; the kernel only reads it, though the type of the field is mutable.
    let count = unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, offset, libc::RWF_DSYNC) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn write_then_sync(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    file.write_all_at(data, offset)?;
    // The bytes are durable after this.
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(memory_alignment: u32, offset_alignment: u32) -> Direct {
        let file = tempfile::tempfile().unwrap();
        Direct { file, memory_alignment, offset_alignment }
    }

    #[test]
    fn a_device_takes_only_what_is_aligned_to_its_blocks() {
        let memory = vec![0u8; 3 * 4096];
        let start = memory.as_ptr().align_offset(4096);
        let aligned = &memory[start..start + 4096];
        let small = direct(4, 512);
        let large = direct(512, 4096);
        for (offset, length, by_small, by_large) in [
            (0, 4096, true, true),
            (4096, 4096, true, true),
            (512, 4096, true, false),
            (4096, 512, true, false),
            (4096, 511, false, false),
            (1, 512, false, false),
        ] {
            let data = &aligned[..length];
            assert_eq!(small.takes(offset, data), by_small, "{length} bytes at {offset}");
            assert_eq!(large.takes(offset, data), by_large, "{length} bytes at {offset}");
        }
        let shifted = &memory[start + 4..start + 4 + 4096];
        assert!(small.takes(0, shifted));
        assert!(!large.takes(0, shifted));
    }

    #[test]
    fn a_write_that_stops_half_way_goes_on_there() {
        let mut calls = Vec::new();
        let mut answers = [Ok(2), Err(io::ErrorKind::Interrupted.into()), Ok(3)].into_iter();
        let outcome = write_all(10, b"hello", |offset, data| {
            calls.push((offset, data.to_vec()));
            answers.next().expect("three calls are enough")
        });
        outcome.unwrap();
        let expected = [(10, &b"hello"[..]), (12, &b"llo"[..]), (12, &b"llo"[..])];
        assert_eq!(calls, expected.map(|(offset, data)| (offset, data.to_vec())));
        let error = write_all(0, b"x", |_, _| Ok(0)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
