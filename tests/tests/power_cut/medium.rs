//! A medium with a volatile cache, beneath a real file system, and what is found on it after the
//! power was cut.
//!
//! One idea: a disk is one file of a FUSE file system that a process serves, and the kernel puts
//! a loop device and ext4 or XFS on it. Every write that reaches the disk arrives here, and so does
//! every flush. What was flushed is durable; of the rest a power cut keeps any subset of sectors. So
//! a cut can be legal *and* merciless at any instant, which a copy of an image cannot: that one is
//! torn in itself, or keeps all that was written, flushed or not.
//!
//! What is assumed: sectors of 512 bytes are written whole; a flush covers the writes that were
//! answered before it came. A loop device has no FUA, so the kernel flushes instead.
//!
//! A cut is made at a request, so that it falls into bursts and not into the long pauses between
//! them: after a write has come, or before a flush has done its work. Most often something is at
//! stake then. The request waits until the image is written, so everything stands still.
//!
//! What it does not do: only the requests of the FUSE protocol that a loop device makes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use varve_disk::sim::Random;

const SECTOR: usize = 512;
const BLOCK: usize = 4096;
/// Largest write of the kernel, and room for its header.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// Which writes that were not flushed are found.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// None: the cache is gone.
    LoseAll,
    /// All, as after a kill.
    KeepAll,
    /// The first of them.
    Prefix,
    /// Each sector for itself.
    Sectors,
    /// Each write for itself.
    Writes,
}

impl Cut {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::LoseAll, Self::Sectors, Self::Prefix, Self::Writes, Self::KeepAll];
}

/// Blocks by number; one that is missing holds zeros.
type Blocks = HashMap<u64, Box<[u8; BLOCK]>>;

#[derive(Default)]
struct State {
    durable: Blocks,
    current: Blocks,
    /// Since the last flush, in order.
    unflushed: Vec<(u64, Vec<u8>)>,
    wanted: Option<Wanted>,
}

/// A cut that was asked for.
struct Wanted {
    /// Requests that still pass.
    skip: u64,
    /// Told that all stands still, once, and waited for until the image is written.
    reached: SyncSender<SyncSender<()>>,
}

/// The disk. A clone is the same one.
#[derive(Clone)]
pub struct Medium {
    state: Arc<Mutex<State>>,
    bytes: u64,
}

impl Medium {
    /// A disk that holds what a file holds.
    pub fn of_image(image: &Path) -> Medium {
        let bytes = std::fs::read(image).expect("the image was just made");
        let mut state = State::default();
        write(&mut state.durable, 0, &bytes);
        state.current = state.durable.clone();
        Medium { state: Arc::new(Mutex::new(state)), bytes: bytes.len() as u64 }
    }

    /// Cuts the power at a write or flush, after `skip` others: calls `note`, and writes to `image`
    /// what is found. How many bytes were not flushed, and how many of them were kept.
    pub fn cut_after(
        &self,
        skip: u64,
        style: Cut,
        seed: u64,
        image: &Path,
        note: impl FnOnce(),
    ) -> (usize, usize) {
        let (reached, is_reached) = sync_channel(1);
        self.lock().wanted = Some(Wanted { skip, reached });
        // It goes on when this is dropped.
        let _standstill = is_reached.recv().expect("the medium is served");
        note();
        let state = self.lock();
        let at_stake = state.unflushed.iter().map(|(_, data)| data.len()).sum();
        (at_stake, write_image(&state, self.bytes, style, seed, image))
    }

    /// Serves the disk as a file over the file `mount_point`, until it is unmounted.
    /// An error where that is not permitted.
    pub fn serve(&self, mount_point: &Path) -> std::io::Result<JoinHandle<()>> {
        use std::os::fd::AsRawFd as _;
        use std::os::unix::ffi::OsStrExt as _;
        std::fs::write(mount_point, b"")?;
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=100600,user_id=0,group_id=0\0", device.as_raw_fd());
        let target = std::ffi::CString::new(mount_point.as_os_str().as_bytes())?;
        // SAFETY: all strings end in NUL and live during the call.
        let result = unsafe {
            libc::mount(
                c"varve-medium".as_ptr(),
                target.as_ptr(),
                c"fuse".as_ptr(),
                0,
                options.as_ptr().cast(),
            )
        };
        if result != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let medium = self.clone();
        Ok(std::thread::spawn(move || medium.answer_all(&device)))
    }

    fn answer_all(&self, mut device: &File) {
        let mut request = vec![0; WRITE_BYTES_MAX as usize + BLOCK];
        loop {
            let length = match device.read(&mut request) {
                Ok(length) => length,
                // A request that was taken back before it was read.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // Unmounted.
                Err(_) => return,
            };
            let request = &request[..length];
            let Some(answer) = self.answer(request) else { continue };
            let (error, body) = match answer {
                Ok(body) => (0, body),
                Err(errno) => (-errno, Vec::new()),
            };
            let mut reply = (16 + body.len() as u32).to_le_bytes().to_vec();
            reply.extend(error.to_le_bytes());
            reply.extend(&request[8..16]);
            reply.extend(body);
            // A reply to a request that was taken back is refused, and nobody minds.
            let _ = device.write(&reply);
        }
    }

    /// The answer to a request, or none where none is expected.
    fn answer(&self, request: &[u8]) -> Option<Result<Vec<u8>, i32>> {
        let body = &request[40..];
        Some(Ok(match u32_at(request, 4) {
            // FORGET, INTERRUPT, BATCH_FORGET
            2 | 36 | 42 => return None,
            // GETATTR, SETATTR
            3 | 4 => self.attributes(),
            // OPEN: a handle of 0, keep the cache.
            14 => [0_u64.to_le_bytes(), 2_u64.to_le_bytes()].concat(),
            // READ
            15 => self.read(u64_at(body, 8), u32_at(body, 16) as usize),
            // WRITE
            16 => {
                let (offset, length) = (u64_at(body, 8), u32_at(body, 16));
                let data = body[40..40 + length as usize].to_vec();
                let mut state = self.lock();
                write(&mut state.current, offset, &data);
                state.unflushed.push((offset, data));
                drop(state);
                self.stand_still_if_wanted();
                u64::from(length).to_le_bytes().to_vec()
            }
            // RELEASE, FLUSH (of a descriptor), DESTROY
            18 | 25 | 38 => Vec::new(),
            // FSYNC: a flush of the disk.
            20 => {
                self.stand_still_if_wanted();
                let mut state = self.lock();
                for (offset, data) in std::mem::take(&mut state.unflushed) {
                    write(&mut state.durable, offset, &data);
                }
                Vec::new()
            }
            // INIT: version 7.31; big writes and as many pages as they need.
            26 => {
                let mut answer = Vec::new();
                let flags: u32 = 1 << 5 | 1 << 22;
                for number in [7, 31, 1 << 17, flags, 16 | 12 << 16, WRITE_BYTES_MAX, 1, 256] {
                    answer.extend(number.to_le_bytes());
                }
                answer.resize(64, 0);
                answer
            }
            _ => return Some(Err(libc::ENOSYS)),
        }))
    }

    /// If a cut was asked for and this is the request, waits until it is made.
    fn stand_still_if_wanted(&self) {
        let mut state = self.lock();
        let Some(wanted) = &mut state.wanted else { return };
        if wanted.skip > 0 {
            wanted.skip -= 1;
            return;
        }
        let reached = state.wanted.take().expect("it is there").reached;
        drop(state);
        let (standing, is_over) = sync_channel(0);
        reached.send(standing).expect("it waits for this");
        // An error: the other end is dropped, which is the word to go on.
        let _ = is_over.recv();
    }

    fn attributes(&self) -> Vec<u8> {
        let mut answer = vec![0; 16];
        for number in [1, self.bytes, self.bytes / SECTOR as u64, 0, 0, 0] {
            answer.extend(number.to_le_bytes());
        }
        for number in [0, 0, 0, libc::S_IFREG | 0o600, 1, 0, 0, 0, BLOCK as u32, 0] {
            answer.extend(number.to_le_bytes());
        }
        answer
    }

    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.bytes.min(offset + length as u64);
        let mut answer = vec![0; end.saturating_sub(offset) as usize];
        let state = self.lock();
        for_each_part(offset, answer.len(), |number, within, part| {
            if let Some(block) = state.current.get(&number) {
                let length = part.len();
                answer[part].copy_from_slice(&block[within..within + length]);
            }
        });
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}

/// Writes what is found after a cut; how many bytes of what was not flushed are in it.
fn write_image(state: &State, bytes: u64, style: Cut, seed: u64, image: &Path) -> usize {
    let mut random = Random::new(seed);
    let file = File::create(image).expect("the test's own directory");
    file.set_len(bytes).expect("a sparse file");
    for (number, block) in &state.durable {
        file.write_all_at(&block[..], number * BLOCK as u64).expect("there is room");
    }
    let prefix = random.below(state.unflushed.len() as u64 + 1) as usize;
    let mut kept = 0;
    let mut keep = |offset: u64, data: &[u8]| {
        file.write_all_at(data, offset).expect("there is room");
        kept += data.len();
    };
    for (number, (offset, data)) in state.unflushed.iter().enumerate() {
        let is_kept = match style {
            Cut::LoseAll => false,
            Cut::KeepAll => true,
            Cut::Prefix => number < prefix,
            Cut::Writes => random.one_in(2),
            Cut::Sectors => {
                for (at, sector) in data.chunks(SECTOR).enumerate() {
                    if random.one_in(2) {
                        keep(offset + (at * SECTOR) as u64, sector);
                    }
                }
                false
            }
        };
        if is_kept {
            keep(*offset, data);
        }
    }
    kept
}

fn write(blocks: &mut Blocks, offset: u64, data: &[u8]) {
    for_each_part(offset, data.len(), |number, within, part| {
        let data = &data[part];
        if !blocks.contains_key(&number) && data.iter().all(|byte| *byte == 0) {
            return;
        }
        let block = blocks.entry(number).or_insert_with(|| Box::new([0; BLOCK]));
        block[within..within + data.len()].copy_from_slice(data);
    });
}

/// Block, place in the block and place in the data of each block's part.
fn for_each_part(
    offset: u64,
    length: usize,
    mut each: impl FnMut(u64, usize, std::ops::Range<usize>),
) {
    let mut at = 0;
    while at < length {
        let place = offset + at as u64;
        let within = (place % BLOCK as u64) as usize;
        let end = length.min(at + BLOCK - within);
        each(place / BLOCK as u64, within, at..end);
        at = end;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
