//! Durable order: an append-only log of indexed entries and a latest state.
//!
//! The log is the only thing that varve syncs on the way of a write, so it decides what a write
//! costs and what a crash can take. It promises: when [`Wal::append`] returned, the batch is there
//! after any crash; a batch is there whole or not at all; order is kept; and damage of what was
//! acknowledged is noticed and refused, never repaired by forgetting.
//!
//! # Design
//!
//! A log is a directory of *segments*, files of one size, written front to back. A segment is a
//! header block and *frames*; a frame is one batch, begins on a block boundary, and is a header
//! and *records*. The bytes are specified in `docs/FORMAT.md`, section 1.
//!
//! ```text
//!   000...01.wal   [header][frame 1][frame 2  ][frame 3]..unused..
//!   000...02.wal   [header][frame 4: base, state, records ][frame 5]....zeros....
//!   spare-0.wal    a used segment, waiting to become 000...03.wal
//! ```
//!
//! Frames are numbered and each names the checksum of the one before it. Every segment begins with
//! a frame that repeats the state and where the log begins, so the oldest segments can be dropped
//! without loss.
//!
//! # The write path in ten lines
//!
//! 1. The Raft thread gathers a [`Batch`]: what arrived while the last one was written.
//! 2. [`Wal::append`] checks that the batch continues the log (`lib.rs`).
//! 3. If its frame does not fit, the next segment is begun: a recycled or zero-filled file gets a
//!    header, a sync, its name, and a sync of the directory (`directory.rs`).
//! 4. The records are laid out in one aligned buffer that is kept (`writer.rs`, `record.rs`).
//! 5. A large payload may be compressed (`compress.rs`). The frame's header is filled in, with the
//!    checksum of all of it (`frame.rs`).
//! 6. One durable write at a block boundary that holds nothing acknowledged; blocks were written
//!    before, so that no metadata changes. It is one call or two, through the page cache or past
//!    it, as the [`Backend`] has it, which was chosen when the log was opened (`probe.rs`).
//! 7. It returned: from here on the batch is durable.
//! 8. The frame is applied to the image: the same code that recovery runs (`image.rs`).
//! 9. The payloads go to the cache: reference counts, no copies (`cache.rs`).
//! 10. An error anywhere is final: what is on the disk is unknown, so nothing is appended again. That
//!     holds for a system that refuses a write by a backend which it took before, too: the next
//!     start finds out what works.
//!
//! # Back-pressure
//!
//! One batch is in flight, and [`Wal::append`] keeps its caller until that is durable; a batch that
//! no frame can hold is refused before anything is written. So the log itself queues nothing, and
//! what arrives while the device is busy waits with the caller, whose queue has the bound and
//! refuses what is over it. What has gathered there is the next batch: groups form by themselves,
//! larger the slower the device is, and no timer holds up an append that is alone.
//!
//! # Recovery
//!
//! Reads every segment once, walks the frames (`scan.rs`), and decides by a table (`recover.rs`)
//! whether the first frame that is missing was torn by a crash, and is cut off, or was acknowledged
//! and is damaged, and the start is refused.
//!
//! # Caveats
//!
//! - Damage of the newest frame looks like a torn write, because nothing later proves that it was
//!   durable; it is cut off. A peer has what was in it; Raft's own rules find that out.
//! - The same holds for a newest segment that was deleted together with its name.
//! - That the oldest segments are there is not checked, for dropping them is ordinary: the caller
//!   compares [`Wal::first_index`] with what it has stored elsewhere.
//! - What was forgotten by [`Wal::truncate_front`] may come back after a restart.
//! - A sync of a directory that failed in an earlier process is not made good at the next start
//!   (that of a frame is): file systems stop themselves when their journal fails. The worst that a
//!   later crash makes of it is a segment that is missing.
//! - Directories above the log's that exist already, but for the nearest one, are taken to be
//!   durable.
//! - There is no lock: the server locks the data directory.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;

mod batch;
mod cache;
mod check;
mod compress;
mod directory;
mod error;
mod frame;
mod image;
mod index;
mod probe;
mod reader;
mod record;
mod recover;
mod scan;
mod segment;
mod writer;

pub use batch::Batch;
pub use check::{Item, Report, check, inspect};
pub use error::{Error, Result};
pub use probe::{BackendChoice, Candidate, Outcome, ProbeReport};
pub use varve_disk::durable::Backend;
pub use varve_disk::trial;
pub use writer::Counters;

use cache::Cache;
use directory::{Directory, Layout};
use image::Image;
use recover::Recovered;
use segment::SegmentId;
use writer::Writer;

/// Alignment of frames when nothing else is asked for: the logical block of most disks, and a
/// multiple of that of all others.
pub const BLOCK_BYTES: u32 = 4096;

/// Smallest segment: a header block and a frame of a block.
pub const SEGMENT_BYTES_MIN: u64 = 2 * BLOCK_BYTES as u64;

/// Largest segment, so that offsets fit in 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Debug builds compare recovery with the checker for logs of at most this size.
const CROSS_CHECK_BYTES_MAX: u64 = 1 << 20;

/// Limits and identity of a log.
#[derive(Clone, Debug)]
pub struct Options {
    /// Identity of the log (cluster and node); a directory with another identity is refused.
    pub identity: [u8; 16],
    /// Size of one segment file, [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`], a multiple of
    /// [`BLOCK_BYTES`]. May differ from one start to the next.
    pub segment_bytes: u64,
    /// Upper bound of the recent entries kept in memory for read-back.
    pub cache_bytes_max: usize,
    /// How appends are made durable.
    pub backend: BackendChoice,
    /// Frames with at least so many bytes of records are compressed with zstd, if that saves a
    /// block; none are when this is nothing. Logs with and without are opened alike, so it may
    /// differ from one start to the next.
    pub compress_bytes_min: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            identity: [0; 16],
            segment_bytes: 64 << 20,
            cache_bytes_max: 64 << 20,
            backend: BackendChoice::default(),
            compress_bytes_min: None,
        }
    }
}

/// An open log. One owner, one thread: the Raft thread.
///
/// Invariants:
/// - All that `image` says is durable.
/// - The cache holds a suffix of the image's entries.
/// - Once `is_poisoned`, no file is written again.
pub struct Wal {
    directory: Directory,
    writer: Writer,
    image: Image,
    cache: Cache,
    probe: Option<ProbeReport>,
    is_poisoned: bool,
}

impl Wal {
    /// Opens or creates the log in `dir` and recovers it. A fresh log has first index 1.
    ///
    /// # Errors
    /// Damage of acknowledged data, another identity or an unknown version refuse the start and
    /// name the file, the offset, what was expected and what was found. So does a backend that is
    /// forced and cannot be had.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Self> {
        Self::open_with_block_bytes(disk, dir, options, BLOCK_BYTES)
    }

    /// As [`Wal::open`]; new segments align frames to `block_bytes`, 512 or 4096, which must be a
    /// multiple of the disk's logical block. Smaller blocks waste less on small batches.
    ///
    /// # Panics
    /// When a size is out of its range.
    pub fn open_with_block_bytes(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        block_bytes: u32,
    ) -> Result<Self> {
        let Options { identity, segment_bytes, cache_bytes_max, backend, compress_bytes_min } =
            options;
        assert!(segment::is_block_size(block_bytes), "block of {block_bytes} bytes");
        assert!(
            (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
                && segment_bytes.is_multiple_of(u64::from(BLOCK_BYTES)),
            "segment of {segment_bytes} bytes"
        );
        directory::create_durably(&*disk, dir)?;
        let listing = segment::list(&*disk, dir)?;
        let layout = Layout { identity, segment_bytes, block_bytes };
        let mut directory = Directory::open(Arc::clone(&disk), dir, layout, &listing)?;
        if listing.segments.is_empty() {
            directory.begin_segment(1, 0)?;
        }
        let Recovered { image, chain, offset } = recover::recover(&mut directory)?;
        let (backend, probe) = probe::decide(&*disk, dir, backend)?;
        directory.use_backend(backend)?;
        let cache = Cache::new(image.index.next(), cache_bytes_max);
        let writer = Writer::new(chain, offset, compress_bytes_min);
        let wal = Self { directory, writer, image, cache, probe, is_poisoned: false };
        if cfg!(debug_assertions) && wal.disk_bytes() <= CROSS_CHECK_BYTES_MAX {
            wal.assert_checker_agrees(&*disk, dir, &identity);
        }
        Ok(wal)
    }

    /// Appends a batch; on return all of it is durable. An empty batch writes nothing.
    ///
    /// # Errors
    /// Final: the batch may be durable or not, and every later call returns [`Error::Poisoned`].
    /// Except [`Error::TooLarge`] (a batch of about 1 GiB), which writes nothing.
    ///
    /// # Panics
    /// When the first entry is neither in the log nor the next one.
    pub fn append(&mut self, batch: &Batch) -> Result<()> {
        if self.is_poisoned {
            return Err(Error::Poisoned);
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.assert_continues(batch);
        Writer::check_size(batch, &self.image)?;
        self.is_poisoned = true;
        let written = self.writer.append(&mut self.directory, batch, &self.image)?;
        self.image
            .apply(written.place, written.records, written.count)
            .expect("a batch that continues the log can be applied");
        self.writer.release();
        if let Some(next) = batch.reset_to() {
            trial::reach("log reset");
            self.cache.reset(next);
            self.retire_unused()?;
        }
        for (index, payload) in batch.entries() {
            self.cache.push(index, payload.clone());
        }
        self.is_poisoned = false;
        Ok(())
    }

    /// The latest state.
    pub fn state(&self) -> Option<&Bytes> {
        self.image.state.as_ref()
    }

    /// Index of the oldest entry that can be read; `last_index() + 1` when there is none.
    pub fn first_index(&self) -> u64 {
        self.image.index.first()
    }

    /// Index of the newest entry; `first_index() - 1` when there is none.
    pub fn last_index(&self) -> u64 {
        self.image.index.next() - 1
    }

    /// Entries `low..high` (at least one, then as many as fit `bytes_max`), from the cache or the
    /// files. None when `low == high`.
    ///
    /// # Errors
    /// [`Error::NotInLog`] when the log does not hold all of `low..high`; [`Error::Damaged`] when
    /// the disk rotted since the log was opened.
    pub fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Bytes>> {
        let index = &self.image.index;
        let (first, next) = (index.first(), index.next());
        if low > high || low < first || high > next {
            return Err(Error::NotInLog { low, high, first, next });
        }
        let high = self.bounded(low, high, bytes_max);
        let mut out = Vec::with_capacity((high - low) as usize);
        let cached = self.cache.first().clamp(low, high);
        if cached > low {
            trial::reach("entries read back from files");
        }
        reader::read_entries(&self.directory, index, low, cached, &mut out)?;
        for at in cached..high {
            let payload = self.cache.get(at).expect("the cache is a suffix of the log");
            out.push(payload.clone());
        }
        Ok(out)
    }

    /// Forgets entries up to and including `through` (at most all); files are recycled or removed
    /// when all of their entries are forgotten. Nothing is lost when a crash undoes it.
    ///
    /// # Errors
    /// Final, as with [`Wal::append`].
    pub fn truncate_front(&mut self, through: u64) -> Result<()> {
        if self.is_poisoned {
            return Err(Error::Poisoned);
        }
        let first = through.saturating_add(1);
        self.image.forget_before(first);
        self.cache.forget_before(first);
        self.is_poisoned = true;
        self.retire_unused()?;
        self.is_poisoned = false;
        Ok(())
    }

    /// Bytes of the log's files on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.directory.disk_bytes()
    }

    /// How appends are made durable.
    pub fn backend(&self) -> Backend {
        self.directory.backend()
    }

    /// What was measured when the log was opened, if there was something to find out.
    pub fn probe(&self) -> Option<&ProbeReport> {
        self.probe.as_ref()
    }

    /// What was written since the log was opened.
    pub fn counters(&self) -> Counters {
        self.writer.counters()
    }

    /// Retires segments without an entry of the log. The newest segment with a frame stays: it
    /// repeats the state and where the log begins.
    fn retire_unused(&mut self) -> Result<()> {
        let with_frames = self.directory.segments().filter(|segment| segment.has_frames);
        let Some(newest) = with_frames.map(|segment| segment.header.id).last() else {
            return Ok(());
        };
        let kept: SegmentId = self.image.index.oldest_segment().unwrap_or(newest).min(newest);
        while self.directory.segments().next().is_some_and(|oldest| oldest.header.id < kept) {
            trial::reach("log segment retired");
            self.directory.retire_oldest()?;
        }
        Ok(())
    }

    /// Recovery and the checker walk the same log, so they must come to the same end.
    fn assert_checker_agrees(&self, disk: &dyn Disk, dir: &Path, identity: &[u8; 16]) {
        // That the disk fails now is for the next call to say.
        let Ok(report) = check(disk, dir, identity) else { return };
        assert!(!report.stale_tail, "recovery left a torn frame: {report:?}");
        let (recovered, checked) =
            ((self.first_index(), self.last_index()), (report.first_index, report.last_index));
        assert_eq!(recovered, checked, "first and last index by recovery, and by {report:?}");
    }

    fn assert_continues(&self, batch: &Batch) {
        let Some((index, _)) = batch.entries().next() else {
            return;
        };
        let (first, next) = match batch.reset_to() {
            Some(next) => (next, next),
            None => (self.image.index.first(), self.image.index.next()),
        };
        assert!((first..=next).contains(&index), "entry {index} does not continue {first}..{next}");
    }

    /// Index after the last entry of `low..high` that fits `bytes_max`, but at least one entry.
    fn bounded(&self, low: u64, high: u64, bytes_max: u64) -> u64 {
        let mut bytes = 0;
        for at in low..high {
            let (_, place) = self.image.index.locate(at).expect("the range was checked");
            bytes += u64::from(place.payload_bytes);
            if bytes > bytes_max && at > low {
                return at;
            }
        }
        high
    }
}
