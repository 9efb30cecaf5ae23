//! The files of an open log: making, finding, recycling and removing segments.
//!
//! # Making a segment
//!
//! 1. Take a spare, or a file filled with real zeros and synced. Either way its blocks are
//!    allocated and written, so that appending overwrites in place: the sync of an append then has
//!    no metadata to write, and a device may use a single forced write.
//! 2. Write the header, sync: the file is complete under a name that means nothing.
//! 3. Rename it to its segment name, sync the directory: now it exists.
//!
//! A crash anywhere leaves either the log without the segment or with an empty one.
//!
//! Filling 64 MiB takes long, so it is spread over the appends of the second half of the active
//! segment ([`Directory::prepare`]) in steps of [`FILL_STEP_BYTES`]: each is handed to the device and
//! not waited for, and one sync at the end makes all of them durable. A step that waited would cost
//! some 3 ms, for it also makes the file system write that these blocks are now in use.
//!
//! Once the log has been truncated, used segments are recycled instead ([`SPARES_MAX`]), and nothing
//! is filled any more.
//!
//! # Writing to a segment
//!
//! The active segment has a second handle, for durable writes only, which may go past the page
//! cache; everything is read through the first one. The two see the same bytes
//! (`varve_disk::durable`).
//!
//! # Removing a segment
//!
//! Oldest first, and the directory is synced after each, so that a crash cannot leave a gap.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use varve_disk::durable::{Backend, DurableWriter};
use varve_disk::{Disk, File, trial};

use crate::error::{Error, Result};
use crate::frame::padded;
use crate::segment::{
    FRESH_NAME, Listing, PROBE_NAME, SPARES_MAX, SegmentHeader, SegmentId, spare_name,
};

/// Zeros that one append writes for the next segment: some 20 us.
const FILL_STEP_BYTES: u64 = 64 << 10;

pub(crate) static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// A segment of the open log.
pub(crate) struct Segment {
    /// What it says about itself.
    pub header: SegmentHeader,
    /// Its path.
    pub path: PathBuf,
    /// Its file, for everything but appending.
    pub file: Arc<dyn File>,
    /// Whether at least one durable frame is in it.
    pub has_frames: bool,
}

impl Segment {
    /// The segment in `file`, which must be what its name says, for us, and complete.
    pub fn verified(
        file: Arc<dyn File>,
        path: PathBuf,
        id: SegmentId,
        identity: &[u8; 16],
    ) -> Result<Self> {
        let header = SegmentHeader::read(&path, &*file)?;
        if header.identity != *identity {
            let (expected, found) = (*identity, header.identity);
            return Err(Error::IdentityMismatch { path, expected, found });
        }
        if header.id != id {
            let found = format!("segment {}", header.id);
            return Err(Error::damaged(
                &path,
                32,
                format!("segment {id}, as its name says"),
                found,
            ));
        }
        let length = file.len()?;
        if header.segment_bytes != length {
            let expected = format!("{} bytes in the file", header.segment_bytes);
            return Err(Error::damaged(&path, length, expected, format!("{length}")));
        }
        Ok(Self { header, path, file, has_frames: false })
    }
}

/// What all segments of the log have in common.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The log.
    pub identity: [u8; 16],
    /// Length of a segment file.
    pub segment_bytes: u64,
    /// Alignment of frames in new segments.
    pub block_bytes: u32,
}

/// The files of an open log.
///
/// Invariants:
/// - `segments` ascend in id without gaps; the last one is the active one.
/// - Spares have the length `layout.segment_bytes`, at most [`SPARES_MAX`] of them.
/// - `writer` writes to the active segment.
/// - `fresh.filled_bytes` bytes of the file `fresh.tmp` are zeros that were written.
pub(crate) struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    layout: Layout,
    segments: VecDeque<Segment>,
    backend: Backend,
    writer: Option<Box<dyn DurableWriter>>,
    spares: Vec<Spare>,
    fresh: Option<Fresh>,
}

struct Spare {
    slot: usize,
    file: Arc<dyn File>,
}

struct Fresh {
    file: Arc<dyn File>,
    filled_bytes: u64,
}

impl Directory {
    /// Opens the segments of a listing and makes what they hold durable, so that nothing is
    /// believed that a crash could still take back. Removes what is left of half-made files.
    ///
    /// # Errors
    /// Headers that do not verify, another identity, an unknown version, or a file whose name or
    /// length is not what its header says.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        layout: Layout,
        listing: &Listing,
    ) -> Result<Self> {
        let mut segments = VecDeque::with_capacity(listing.segments.len());
        for id in &listing.segments {
            let path = path.join(id.file_name());
            segments.push_back(Segment::verified(disk.open(&path)?, path, *id, &layout.identity)?);
        }
        // Names first: a segment's name that a crash could take back must not be built upon.
        disk.sync_dir(path)?;
        for segment in &segments {
            // What an earlier process wrote but did not sync is durable from here on.
            segment.file.sync()?;
        }
        let mut directory = Self {
            disk,
            path: path.to_path_buf(),
            layout,
            segments,
            backend: Backend::Fdatasync,
            writer: None,
            spares: Vec::new(),
            fresh: None,
        };
        if listing.fresh {
            directory.disk.remove(&directory.path.join(FRESH_NAME))?;
        }
        if listing.probe {
            directory.disk.remove(&directory.path.join(PROBE_NAME))?;
        }
        for slot in &listing.spares {
            directory.open_spare(*slot)?;
        }
        Ok(directory)
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &Segment> {
        self.segments.iter()
    }

    /// The segment `id`, if the log has it.
    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        let oldest = self.segments.front()?.header.id;
        self.segments.get(usize::try_from(id.0.checked_sub(oldest.0)?).ok()?)
    }

    /// The segment at a position, oldest first.
    pub fn at(&mut self, position: usize) -> &mut Segment {
        &mut self.segments[position]
    }

    /// The segment that is appended to.
    pub fn active(&self) -> &Segment {
        self.segments.back().expect("an open log has a segment")
    }

    /// The segment that is appended to.
    pub fn active_mut(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("an open log has a segment")
    }

    /// Appends are written by `backend` from now on.
    pub fn use_backend(&mut self, backend: Backend) -> Result<()> {
        self.backend = backend;
        self.writer = None;
        self.writer().map(drop)
    }

    /// What appends are written by.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Writes to the active segment. Durable on return.
    pub fn write_durable_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        Ok(self.writer()?.write_durable_at(offset, data)?)
    }

    fn writer(&mut self) -> Result<&mut dyn DurableWriter> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.open_writer()?,
        };
        Ok(&mut **self.writer.insert(writer))
    }

    /// Nothing was written by the backend yet, so another one can take its place: a limit on
    /// memory, say, may be reached long after the start.
    fn open_writer(&mut self) -> Result<Box<dyn DurableWriter>> {
        let path = &self.active().path;
        match self.disk.open_durable(path, self.backend) {
            Err(error) if error.is_refusal() && self.backend != Backend::Fdatasync => {
                let writer = self.disk.open_durable(path, Backend::Fdatasync)?;
                self.backend = Backend::Fdatasync;
                Ok(writer)
            }
            outcome => Ok(outcome?),
        }
    }

    /// Makes the next segment, with room for a first frame of `frame_bytes`. Durable on return.
    pub fn begin_segment(&mut self, first_sequence: u64, frame_bytes: u64) -> Result<()> {
        let id = self.segments.back().map_or(SegmentId(1), |segment| segment.header.id.next());
        let block_bytes = self.layout.block_bytes;
        let bytes_min = u64::from(block_bytes) + padded(frame_bytes, block_bytes);
        let is_ordinary = bytes_min <= self.layout.segment_bytes;
        let source = match if is_ordinary { self.take_spare()? } else { None } {
            Some(source) => source,
            None => self.finish_fresh(bytes_min.max(self.layout.segment_bytes))?,
        };
        let header = SegmentHeader {
            identity: self.layout.identity,
            id,
            generation: source.generation + 1,
            first_sequence,
            segment_bytes: source.length_bytes,
            block_bytes,
        };
        source.file.write_at(0, &header.encode())?;
        // The whole file is durable before it gets its name: a segment is never half made.
        source.file.sync()?;
        let path = self.path.join(id.file_name());
        self.disk.rename(&source.path, &path)?;
        // The name is durable before the first frame is acknowledged in it.
        self.disk.sync_dir(&self.path)?;
        // Opened by its name, so that errors name it.
        let file = self.disk.open(&path)?;
        self.segments.push_back(Segment { header, path, file, has_frames: false });
        self.writer = None;
        Ok(())
    }

    /// One step towards the next segment, if `used_bytes` of the active one say that it is time:
    /// nothing in its first half, and then as large a part of the zeros as of the second half has
    /// been used.
    pub fn prepare(&mut self, used_bytes: u64) -> Result<()> {
        let total = self.layout.segment_bytes;
        let due = used_bytes.saturating_mul(2).saturating_sub(total).min(total);
        let filled = self.fresh.as_ref().map_or(0, |fresh| fresh.filled_bytes);
        if self.spares.is_empty() && filled < due {
            // Whole steps, so that small frames write nothing most of the time.
            self.fill_to(due.next_multiple_of(FILL_STEP_BYTES).min(total), total)?;
        }
        Ok(())
    }

    /// Takes the oldest segment out of the log. Durable on return.
    pub fn retire_oldest(&mut self) -> Result<()> {
        assert!(self.segments.len() > 1, "the active segment is never retired");
        let segment = self.segments.pop_front().expect("there is more than one segment");
        let slot = (0..SPARES_MAX).find(|slot| self.spares.iter().all(|spare| spare.slot != *slot));
        match slot {
            Some(slot) if segment.header.segment_bytes == self.layout.segment_bytes => {
                self.disk.rename(&segment.path, &self.path.join(spare_name(slot)))?;
                self.spares.push(Spare { slot, file: segment.file });
            }
            _ => self.disk.remove(&segment.path)?,
        }
        // Before the next one goes: a crash that kept an older and lost a newer segment would
        // leave a gap, which is taken for damage.
        self.disk.sync_dir(&self.path)?;
        Ok(())
    }

    /// Bytes of all files.
    pub fn disk_bytes(&self) -> u64 {
        let segments: u64 = self.segments.iter().map(|segment| segment.header.segment_bytes).sum();
        let spares = self.spares.len() as u64 * self.layout.segment_bytes;
        segments + spares + self.fresh.as_ref().map_or(0, |fresh| fresh.filled_bytes)
    }

    /// Overwrites a segment from `offset` to its end with zeros, except where zeros are already,
    /// and syncs it if anything changed. `bytes` is what the segment holds.
    pub fn zero_tail(&self, segment: &Segment, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut at = offset as usize;
        let mut changed = false;
        while at < bytes.len() {
            let end = bytes.len().min(at + ZEROS.len());
            let zeros = &ZEROS[..end - at];
            if bytes[at..end] != *zeros {
                segment.file.write_at(at as u64, zeros)?;
                changed = true;
            }
            at = end;
        }
        if changed {
            trial::reach("torn tail overwritten");
            // Nothing of the torn frame can come back after this.
            segment.file.sync()?;
        }
        Ok(())
    }

    /// A spare is kept only if it can be recycled: nothing in it is believed but its length.
    fn open_spare(&mut self, slot: usize) -> Result<()> {
        let path = self.path.join(spare_name(slot));
        let file = self.disk.open(&path)?;
        if file.len()? == self.layout.segment_bytes {
            self.spares.push(Spare { slot, file });
        } else {
            self.disk.remove(&path)?;
        }
        Ok(())
    }

    fn take_spare(&mut self) -> Result<Option<Source>> {
        while let Some(Spare { slot, file }) = self.spares.pop() {
            let path = self.path.join(spare_name(slot));
            match SegmentHeader::read(&path, &*file) {
                Ok(header) => {
                    let length_bytes = self.layout.segment_bytes;
                    let generation = header.generation;
                    return Ok(Some(Source { path, file, generation, length_bytes }));
                }
                Err(Error::Disk(error)) => return Err(error.into()),
                // Without its generation, old frames in it could verify again.
                Err(_) => self.disk.remove(&path)?,
            }
        }
        Ok(None)
    }

    fn finish_fresh(&mut self, length_bytes: u64) -> Result<Source> {
        self.fill_to(length_bytes, length_bytes)?;
        let fresh = self.fresh.take().expect("it was filled just now");
        let path = self.path.join(FRESH_NAME);
        Ok(Source { path, file: fresh.file, generation: 0, length_bytes: fresh.filled_bytes })
    }

    /// Fills the next segment, which will have `length_bytes`, up to `filled_bytes`. Durable when
    /// the file is synced.
    fn fill_to(&mut self, filled_bytes: u64, length_bytes: u64) -> Result<()> {
        if self.fresh.is_none() {
            let file = self.disk.create(&self.path.join(FRESH_NAME))?;
            file.preallocate(length_bytes)?;
            self.fresh = Some(Fresh { file, filled_bytes: 0 });
        }
        let fresh = self.fresh.as_mut().expect("it was made just now");
        while fresh.filled_bytes < filled_bytes {
            let step = (filled_bytes - fresh.filled_bytes).min(ZEROS.len() as u64);
            fresh.file.write_at(fresh.filled_bytes, &ZEROS[..step as usize])?;
            fresh.filled_bytes += step;
            // Written out step by step, so that the sync at the end finds little left to do, and
            // memory that the zeros took is used for the next ones.
            fresh.file.write_out(fresh.filled_bytes);
        }
        Ok(())
    }
}

/// Creates `dir` and its missing parents. Durable on return: without its directory, all of a log
/// would be gone. Whether a parent's name is durable cannot be seen, whoever made it may have ended
/// before its sync; so all of them are synced, but for those that the system keeps from us.
pub(crate) fn create_durably(disk: &dyn Disk, dir: &Path) -> Result<()> {
    disk.create_dir_all(dir)?;
    for (distance, parent) in dir.ancestors().skip(1).enumerate() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            // One that is not ours to read was not made by us. The nearest one must be durable.
            Err(error) if distance > 0 && error.is_refusal() => {}
            result => result?,
        }
    }
    Ok(())
}

/// A file that is about to become a segment.
struct Source {
    path: PathBuf,
    file: Arc<dyn File>,
    generation: u64,
    length_bytes: u64,
}
