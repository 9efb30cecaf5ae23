//! Memory of a memtable: chunks that only grow, given out by moving a pointer.
//!
//! One idea: nothing in a memtable is freed before the whole memtable is, so allocation is an
//! addition and readers need neither reference counts nor epochs. [`Chunks`] owns the memory and
//! lives in the shared memtable; [`Arena`] is the bump pointer and belongs to the single writer.
//!
//! **Spare chunks.** Memory that the system has not given yet is given at the first touch, by the
//! writer: a huge page is cleared then, or even made room for, which takes it some 5 ms of work and
//! whoever waits for it 20. So the chunks of a dropped memtable are kept, and the next one begins in
//! memory that is there.
//!
//! What it does not do: it never frees or moves a single allocation.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Every allocation starts at a multiple of this, enough for pointers and `u64`.
pub(super) const ALIGNMENT_BYTES: usize = 8;
/// Size of the first chunk; small, because tests and idle engines open many memtables.
const FIRST_CHUNK_BYTES: usize = 64 << 10;
/// Chunks double up to this size.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Larger allocations get a chunk of their own, so that they do not waste the rest of one.
const SHARED_BYTES_MAX: usize = CHUNK_BYTES_MAX / 4;
/// Chunks of the full size that are kept in this process: those of a memtable of the default size,
/// for in a steady load one is dropped for each that fills up.
const SPARE_CHUNKS_MAX: usize = 32;

static SPARES: Spares = Spares { list: Mutex::new(Vec::new()) };

/// Chunks of [`CHUNK_BYTES_MAX`] that no memtable owns.
struct Spares {
    list: Mutex<Vec<Chunk>>,
}

/// The memory of one memtable; spare or freed when the memtable is dropped.
#[derive(Default)]
pub(super) struct Chunks {
    list: Mutex<Vec<Chunk>>,
}

impl Drop for Chunks {
    fn drop(&mut self) {
        let list = self.list.get_mut().unwrap_or_else(PoisonError::into_inner);
        SPARES.give(std::mem::take(list));
    }
}

impl Spares {
    /// One, if there is any and nobody is at the list: who writes waits for nobody.
    fn take(&self) -> Option<Chunk> {
        self.list.try_lock().ok()?.pop()
    }

    /// Keeps of `chunks` what is of use and has room.
    fn give(&self, mut chunks: Vec<Chunk>) {
        chunks.retain(|chunk| chunk.layout.size() == CHUNK_BYTES_MAX);
        // Whoever drops the last view of a memtable waits for nobody either: all is freed then.
        let Ok(mut list) = self.list.try_lock() else { return };
        let room = SPARE_CHUNKS_MAX - list.len();
        list.extend(chunks.drain(..room.min(chunks.len())));
        // The others are freed without the lock.
        drop(list);
    }
}

/// One block of memory.
struct Chunk {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a chunk is plain memory that it owns; who may touch it when is the memtable's contract.
unsafe impl Send for Chunk {}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc` with exactly this layout and is freed once, here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Chunks {
    #[cfg(test)]
    pub(super) fn hold(&self) -> impl Sized + '_ {
        self.list.lock().expect("not poisoned")
    }

    /// A new chunk of `bytes`, owned by this list.
    fn add(&self, bytes: usize) -> NonNull<u8> {
        assert!(bytes > 0, "a chunk has at least one byte");
        let layout = Layout::from_size_align(bytes, ALIGNMENT_BYTES)
            .expect("chunk sizes are far below isize::MAX");
        let spare = if bytes == CHUNK_BYTES_MAX { SPARES.take() } else { None };
        let chunk = spare.unwrap_or_else(|| {
            // SAFETY: the layout has a size above zero.
            let start = NonNull::new(unsafe { alloc(layout) });
            Chunk { start: start.unwrap_or_else(|| handle_alloc_error(layout)), layout }
        });
        let start = chunk.start;
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(chunk);
        start
    }
}

/// The bump pointer into the newest chunk. Used by the single writer only.
///
/// Invariants: `left` bytes from `next` on belong to a chunk of the memtable and were not given
/// out; `next` is aligned to [`ALIGNMENT_BYTES`].
pub(super) struct Arena {
    next: NonNull<u8>,
    left: usize,
    chunk_bytes: usize,
    used_bytes: usize,
}

impl Arena {
    /// An arena without memory yet.
    pub(super) fn new() -> Self {
        Self { next: NonNull::dangling(), left: 0, chunk_bytes: FIRST_CHUNK_BYTES, used_bytes: 0 }
    }

    /// Uninitialised memory of `bytes`, aligned to [`ALIGNMENT_BYTES`], which lives as long as
    /// `chunks`. Nobody else has a pointer into it.
    pub(super) fn allocate(&mut self, chunks: &Chunks, bytes: usize) -> NonNull<u8> {
        let bytes = bytes.max(1).next_multiple_of(ALIGNMENT_BYTES);
        self.used_bytes += bytes;
        if bytes > self.left {
            if bytes > SHARED_BYTES_MAX {
                return chunks.add(bytes);
            }
            let chunk_bytes = self.chunk_bytes.max(bytes.next_power_of_two());
            self.next = chunks.add(chunk_bytes);
            self.left = chunk_bytes;
            self.chunk_bytes = (chunk_bytes * 2).min(CHUNK_BYTES_MAX);
        }
        let start = self.next;
        // SAFETY: `bytes <= left`, so the sum stays inside the chunk or one past its end.
        self.next = unsafe { start.add(bytes) };
        self.left -= bytes;
        start
    }

    /// Bytes given out so far.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_chunks_are_used_again_and_only_so_many_kept() {
        // Not the ones of the process: other tests use those.
        let spares = Spares { list: Mutex::default() };
        let take_all = |chunks: Chunks| std::mem::take(&mut *chunks.list.lock().unwrap());
        let chunks = Chunks::default();
        let small = chunks.add(FIRST_CHUNK_BYTES);
        let full: Vec<_> = (0..3).map(|_| chunks.add(CHUNK_BYTES_MAX)).collect();
        spares.give(take_all(chunks));
        let taken: Vec<_> = std::iter::from_fn(|| spares.take()).collect();
        assert_eq!(taken.len(), 3);
        assert!(taken.iter().all(|chunk| full.contains(&chunk.start) && chunk.start != small));
        spares.give(taken);
        for kept in [SPARE_CHUNKS_MAX - 1, SPARE_CHUNKS_MAX] {
            let chunks = Chunks::default();
            (0..SPARE_CHUNKS_MAX - 4).for_each(|_| _ = chunks.add(CHUNK_BYTES_MAX));
            spares.give(take_all(chunks));
            assert_eq!(spares.list.lock().unwrap().len(), kept);
        }
    }

    #[test]
    fn allocations_are_aligned_and_do_not_overlap() {
        let chunks = Chunks::default();
        let mut arena = Arena::new();
        let mut taken: Vec<(usize, usize)> = Vec::new();
        for bytes in [1, 7, 8, 9, 300_000, 5, 100_000, 64 << 10, 200_000, 1, 2 << 20, 3] {
            let start = arena.allocate(&chunks, bytes);
            assert_eq!(start.as_ptr() as usize % ALIGNMENT_BYTES, 0);
            // SAFETY: the arena just gave out these bytes.
            unsafe { start.as_ptr().write_bytes(0xab, bytes) };
            taken.push((start.as_ptr() as usize, bytes));
        }
        taken.sort_unstable();
        for pair in taken.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?} overlap");
        }
        assert!(arena.used_bytes() >= 300_000 + (2 << 20));
    }
}
