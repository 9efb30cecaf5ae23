//! Durable writes: a write that is on the medium when the call returns.
//!
//! One idea: what a log does all day is one write at a known place of a file that was filled
//! before, and then a wait until the device has it. An operating system has several calls for
//! that, alike in what they promise and different in what they cost; [`Backend`] names them, and
//! [`DurableWriter`] is the promise.
//!
//! What it does not do: it does not choose (whoever keeps the log measures), it does not read, and
//! it does not make names durable.

use std::fmt;

use crate::Result;

/// A way to make a write durable. What is promised is the same for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// `pwritev2` with `RWF_DSYNC`, past the page cache.
    Dsync,
    /// `pwritev2` with `RWF_DSYNC`, through the page cache.
    BufferedDsync,
    /// `io_uring`: one write with `RWF_DSYNC`, past the page cache. Where the device cannot force
    /// a single write (FUA), a worker thread of the kernel completes it, and waits for a processor
    /// like any other thread.
    Uring,
    /// `pwrite`, then `fdatasync`: two calls, and they work everywhere.
    Fdatasync,
}

impl Backend {
    /// All of them, in the order in which to prefer them where they are equally fast.
    pub const ALL: [Self; 4] = [Self::Dsync, Self::BufferedDsync, Self::Uring, Self::Fdatasync];

    /// The name that people write and read: `dsync`, `buffered-dsync`, `uring`, `fdatasync`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Dsync => "dsync",
            Self::BufferedDsync => "buffered-dsync",
            Self::Fdatasync => "fdatasync",
        }
    }

    /// The backend of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A file that is open for durable writes, beside any number of [`File`](crate::File) handles that read it.
///
/// One owner and one write at a time; it may be handed to another thread between two writes.
pub trait DurableWriter: Send {
    /// Writes all of `data` at `offset`, inside the file. On return the bytes survive any crash,
    /// and every handle on the file reads them.
    ///
    /// That holds for these bytes only: what was written to the file by other means is durable
    /// after [`File::sync`](crate::File::sync), as ever.
    ///
    /// It takes the short way when offset, length and the address of `data` are multiples of
    /// 4096 bytes (or of the device's logical block); it works with any.
    ///
    /// # Errors
    /// Final, as that of a sync: any subset of the sectors may be on the medium, or come there
    /// later, and repeating the write proves nothing.
    fn write_durable_at(&mut self, offset: u64, data: &[u8]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_has_a_name_of_its_own() {
        for backend in Backend::ALL {
            assert_eq!(Backend::from_name(backend.name()), Some(backend));
        }
        assert_eq!(Backend::from_name("auto"), None);
    }
}
