//! The floor: a file that was filled before, overwritten in a loop by writes that are durable when
//! they return, of as many bytes as the records have.
//!
//! One idea: nothing that is durable can be faster, for it has no header, no checksum, no index and
//! nobody to wake. Direct writes (`O_DIRECT | O_DSYNC`) go in blocks, buffered ones (`O_DSYNC`) as
//! long as they are.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;

use super::Log;

const BLOCK_BYTES: usize = 4096;
/// As large as a segment of varve's log.
const FILE_BYTES: usize = 64 << 20;
/// Longest write.
const WRITE_BYTES_MAX: usize = 8 << 20;

/// The file and where its next write goes.
pub struct Floor {
    is_direct: bool,
    file: File,
    state: Mutex<State>,
}

struct State {
    offset: usize,
    memory: Vec<u8>,
}

impl Floor {
    /// Creates the file in `directory` and fills it.
    ///
    /// # Errors
    /// The file system does not take direct writes, or is full.
    pub fn open(directory: &Path, is_direct: bool) -> Result<Self, String> {
        let path = directory.join("floor");
        let fail = |error| format!("{}: {error}", path.display());
        let open = |flags| {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).custom_flags(flags).open(&path)
        };
        let filler = open(0).map_err(fail)?;
        filler.write_all_at(&vec![0; FILE_BYTES], 0).map_err(fail)?;
        // After this, no write changes metadata of the file.
        filler.sync_all().map_err(fail)?;
        let direct = if is_direct { libc::O_DIRECT } else { 0 };
        let file = open(direct | libc::O_DSYNC).map_err(fail)?;
        let memory = vec![7; WRITE_BYTES_MAX + BLOCK_BYTES];
        Ok(Self { is_direct, file, state: Mutex::new(State { offset: 0, memory }) })
    }

    fn write(&self, bytes: usize) {
        let bytes = if self.is_direct { bytes.next_multiple_of(BLOCK_BYTES) } else { bytes };
        assert!(bytes <= WRITE_BYTES_MAX, "a write of {bytes} bytes");
        let mut state = self.state.lock().expect("no appender panics");
        if state.offset + bytes > FILE_BYTES {
            state.offset = 0;
        }
        let start = state.memory.as_ptr().align_offset(BLOCK_BYTES);
        let data = &state.memory[start..start + bytes];
        // Durable on return: the file is open with O_DSYNC.
        self.file.write_all_at(data, state.offset as u64).expect("the disk works");
        state.offset += bytes;
    }
}

impl Log for Floor {
    fn append(&self, _appender: usize, record: &Bytes) {
        self.write(record.len());
    }

    fn append_batch(&self, records: &[Bytes]) {
        self.write(records.iter().map(Bytes::len).sum());
    }

    fn is_floor(&self) -> bool {
        true
    }
}
