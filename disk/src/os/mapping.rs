//! Mapped files: what to do about pages that are not there.
//!
//! One idea: a mapping is a promise that the disk may break, so each one is entered in a table that
//! a signal handler can read. A page that cannot be had (the file was cut short, the device failed)
//! raises SIGBUS; [`stop_on_lost_pages`] makes that end the process with file and offset instead
//! of a bare signal number. Pages that are merely elsewhere are asked for with [`is_resident`].
//!
//! **Unmapping** interrupts every processor that runs a thread of the process, so it is not done
//! where the last reader happens to be: a mapping that was let go waits until [`unmap_let_go`].
//!
//! Invariants: an entry is complete before a byte of its mapping is handed out, and stays until the
//! mapping is gone. The handler only reads atomics and the name of the mapping that is being
//! touched, allocates nothing and takes no lock.
//!
//! What it does not do: go on after a lost page. Other members have the data; this one stops.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use crate::Access;

/// Mappings that the handler can name; more are mapped, and reported without a name. At 64 MiB a
/// file this is a terabyte.
const NAMED_MAPPINGS_MAX: usize = 16 << 10;
/// What the smallest device takes in one request; a multiple of any page.
const READ_BYTES: usize = 128 << 10;
/// Mappings that wait to be unmapped; more are unmapped where they are let go.
const LET_GO_MAX: usize = 4 << 10;

/// Where a mapping lies and what it is of. `start` is 0 when the entry is free.
struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    name: AtomicPtr<u8>,
    name_bytes: AtomicUsize,
}

static ENTRIES: [Entry; NAMED_MAPPINGS_MAX] = [const {
    Entry {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        name: AtomicPtr::new(std::ptr::null_mut()),
        name_bytes: AtomicUsize::new(0),
    }
}; NAMED_MAPPINGS_MAX];

/// Which entries are free: those in the list, and those from `never_used` on.
struct Free {
    list: Vec<usize>,
    never_used: usize,
}

static FREE: Mutex<Free> = Mutex::new(Free { list: Vec::new(), never_used: 0 });
static LET_GO: Mutex<Vec<Mapped>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mapping and its entry.
struct Mapped {
    map: memmap2::Mmap,
    entry: Option<usize>,
    /// What the entry's name points to.
    _name: Box<[u8]>,
}

impl Mapped {
    fn new(map: memmap2::Mmap, path: &Path) -> Self {
        let mut name: Box<[u8]> = path.as_os_str().as_bytes().into();
        let index = {
            let mut free = lock(&FREE);
            let fresh = free.never_used;
            free.list.pop().or_else(|| {
                (fresh < NAMED_MAPPINGS_MAX).then(|| {
                    free.never_used += 1;
                    fresh
                })
            })
        };
        if let Some(index) = index {
            let entry = &ENTRIES[index];
            let start = map.as_ptr() as usize;
            entry.name.store(name.as_mut_ptr(), Ordering::Relaxed);
            entry.name_bytes.store(name.len(), Ordering::Relaxed);
            entry.end.store(start + map.len(), Ordering::Relaxed);
            // Release: whoever sees the start sees the rest.
            entry.start.store(start, Ordering::Release);
        }
        Self { map, entry: index, _name: name }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(index) = self.entry {
            ENTRIES[index].start.store(0, Ordering::Release);
            lock(&FREE).list.push(index);
        }
    }
}

/// Owns a mapping for a `Bytes`; hands it over to [`LET_GO`] when the last slice is gone.
struct Owner(Option<Mapped>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |mapped| &mapped.map)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut let_go = lock(&LET_GO);
        if let_go.len() < LET_GO_MAX {
            let_go.extend(self.0.take());
        }
    }
}

/// Maps a file that is not empty.
pub(super) fn map(file: &std::fs::File, path: &Path) -> io::Result<Bytes> {
    // SAFETY: the bytes must not change while they are mapped. `Disk::map` takes complete
    // files only, which nobody writes to again; the directory is ours alone (mode 0700 and
    // locked), and a removal leaves the mapped pages in place.
    let map = unsafe { memmap2::Mmap::map(file) }?;
    Ok(Bytes::from_owner(Owner(Some(Mapped::new(map, path)))))
}

/// Unmaps the oldest `files_max` files of what was let go; how many those were.
pub(super) fn unmap_let_go(files_max: usize) -> usize {
    let mut let_go = lock(&LET_GO);
    let count = let_go.len().min(files_max);
    let oldest: Vec<Mapped> = let_go.drain(..count).collect();
    // Nobody who lets go waits while these are unmapped.
    drop(let_go);
    oldest.len()
}

/// Whether all pages of `bytes` are in memory. If the kernel does not say, they may be anywhere:
/// the answer is no.
pub(super) fn is_resident(bytes: &[u8]) -> bool {
    /// Pages asked for at once; their answers are on the stack.
    const PAGES: usize = 256;
    let page_bytes = page_bytes();
    let start = bytes.as_ptr() as usize / page_bytes * page_bytes;
    let end = bytes.as_ptr() as usize + bytes.len();
    let mut answers = [0_u8; PAGES];
    (start..end).step_by(PAGES * page_bytes).all(|from| {
        let length = (end - from).min(PAGES * page_bytes);
        let pages = length.div_ceil(page_bytes);
        // SAFETY: the pages from `from` on belong to `bytes`, which is borrowed, so they are
        // mapped; `answers` has a byte for each of them.
        let result = unsafe {
            libc::mincore(from as *mut libc::c_void, length, answers.as_mut_ptr().cast())
        };
        result == 0 && answers[..pages].iter().all(|answer| answer & 1 == 1)
    })
}

/// Tells the kernel how `bytes` will be read. It may take no notice, and so do we.
pub(super) fn advise(bytes: &[u8], access: Access) {
    let start = bytes.as_ptr() as usize / page_bytes() * page_bytes();
    let length = bytes.as_ptr() as usize + bytes.len() - start;
    let advice = match access {
        Access::Random => libc::MADV_RANDOM,
        Access::Soon => libc::MADV_WILLNEED,
    };
    // Of what should be read the kernel takes a request's worth from each call, and drops the rest.
    let piece_bytes = if access == Access::Soon { READ_BYTES } else { length.max(1) };
    for offset in (0..length).step_by(piece_bytes) {
        let (piece, length) = (start + offset, piece_bytes.min(length - offset));
        // SAFETY: the pages from `start` on belong to `bytes`, which is borrowed, so they are mapped,
        // and neither advice changes what is in them.
        let _ = unsafe { libc::madvise(piece as *mut libc::c_void, length, advice) };
    }
}

fn page_bytes() -> usize {
    static PAGE_BYTES: OnceLock<usize> = OnceLock::new();
    *PAGE_BYTES.get_or_init(|| {
        // SAFETY: takes and returns integers only.
        let found = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(found).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
    })
}

/// Makes a page of a mapped file that cannot be had end the process with a line on stderr: the
/// file, and the offset in it. Once for the process; programs call it first.
///
/// A fault that is not in a mapped file is handled as before the call.
///
/// # Errors
/// The system's, if there can be no handler.
pub fn stop_on_lost_pages() -> io::Result<()> {
    // SAFETY: a structure of integers, pointers and sets of bits, for all of which zero is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_lost_page as *const () as usize;
    // On the signal stack where the thread has one: the fault may be at the end of a deep call.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both point to whole structures; the handler does what a handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Set before any file is mapped, so the handler finds it.
    let _ = BEFORE.set(Before(before));
    Ok(())
}

struct Before(libc::sigaction);
// SAFETY: plain data, written once before it is shared.
unsafe impl Send for Before {}
// SAFETY: as above.
unsafe impl Sync for Before {}

static BEFORE: OnceLock<Before> = OnceLock::new();

extern "C" fn on_lost_page(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid structure, of which a SIGBUS has the address; one that a
    // process sent (code 0 or below) has not, and is not looked at.
    let address = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) };
    let found = address.and_then(|address| {
        let has_it = |entry: &&Entry| {
            let start = entry.start.load(Ordering::Acquire);
            start != 0 && (start..entry.end.load(Ordering::Relaxed)).contains(&address)
        };
        ENTRIES.iter().find(has_it).map(|entry| (entry, address))
    });
    if let Some((entry, address)) = found {
        let mut digits = [0; 20];
        say(b"varve: lost a page of the mapped file ");
        let length = entry.name_bytes.load(Ordering::Relaxed);
        // SAFETY: the name lives as long as the mapping, and somebody is touching the mapping now.
        say(unsafe { std::slice::from_raw_parts(entry.name.load(Ordering::Relaxed), length) });
        say(b" at offset ");
        say(decimal(address - entry.start.load(Ordering::Relaxed), &mut digits));
        say(b": expected what was synced, found no page (the file was cut short, or its disk \
              failed). Stopping; the data of this member is damaged.\n");
    }
    // The touch is repeated on return, and then ends the process; a signal that was sent is sent
    // again. A fault elsewhere, such as at the end of a stack, is the business of who was there
    // before.
    // SAFETY: zero is valid for the structure, and means the default action.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    let before = BEFORE.get().filter(|_| found.is_none() && address.is_some());
    let next = before.map_or(&raw const default, |before| &raw const before.0);
    // SAFETY: points to a whole structure; sigaction and raise may be called from a handler.
    unsafe {
        libc::sigaction(libc::SIGBUS, next, std::ptr::null_mut());
        if address.is_none() {
            libc::raise(signal);
        }
    }
}

/// Writes to stderr, as far as it goes.
fn say(text: &[u8]) {
    // SAFETY: the bytes are borrowed for the call; write may be called from a handler.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

/// Decimal digits without an allocation.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are() {
        for number in [0, 7, 10, 4096, usize::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
