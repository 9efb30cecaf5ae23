//! The order of writing: all `kv` records of a memtable in an append-only list.
//!
//! Revisions of `kv` grow with every write, so this is revision order, which is what a watch that
//! catches up reads. A list of fixed blocks in the arena: the writer fills a block and then links
//! the next; a reader looks at the length of a block with `Acquire` and at the entries below it.

use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use super::arena::{Arena, Chunks};
use super::record::{Record, RecordRef};
use super::sync::{AtomicPtr, AtomicUsize};

/// Entries of a block: with its head it takes 4 KiB.
const BLOCK_ENTRIES: usize = if cfg!(varve_loom) { 2 } else { 510 };

/// Some records in the order of writing. Entries below `length` do not change any more.
#[repr(C)]
pub(super) struct Block {
    next: AtomicPtr<Block>,
    length: AtomicUsize,
    entries: [AtomicPtr<Record>; BLOCK_ENTRIES],
}

/// A position in the list: the next entry to look at.
#[derive(Clone, Copy)]
pub(super) struct Position {
    block: NonNull<Block>,
    entry: usize,
}

/// An empty block in the arena.
pub(super) fn new_block(arena: &mut Arena, chunks: &Chunks) -> NonNull<Block> {
    let block = arena.allocate(chunks, size_of::<Block>()).cast::<Block>();
    let empty = Block {
        next: AtomicPtr::new(ptr::null_mut()),
        length: AtomicUsize::new(0),
        entries: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
    };
    // SAFETY: the arena gave out room for a block, aligned, that nobody else points to.
    unsafe { block.write(empty) };
    block
}

/// Appends a record to the list whose last block is `tail`, and returns the new last block.
/// Writer only.
///
/// # Safety
/// `tail` is the last block of a list in `chunks`.
pub(super) unsafe fn append(
    tail: NonNull<Block>,
    record: RecordRef<'_>,
    arena: &mut Arena,
    chunks: &Chunks,
) -> NonNull<Block> {
    // SAFETY: the caller says that it is a block; blocks change through atomics only.
    let block = unsafe { tail.as_ref() };
    let length = block.length.load(Ordering::Relaxed);
    if length == BLOCK_ENTRIES {
        let next = new_block(arena, chunks);
        // Release: who finds the block finds it initialised.
        block.next.store(next.as_ptr(), Ordering::Release);
        // SAFETY: `next` is now the last block.
        return unsafe { append(next, record, arena, chunks) };
    }
    block.entries[length].store(record.as_ptr().cast_mut(), Ordering::Relaxed);
    // Release: who sees the length sees the entry.
    block.length.store(length + 1, Ordering::Release);
    tail
}

impl Position {
    /// At the first entry with `revision.main >= from` of the list that begins with `first`,
    /// or at its end.
    ///
    /// # Safety
    /// The list lives as long as the position is used.
    pub(super) unsafe fn seek(first: NonNull<Block>, from: u64) -> Self {
        let mut position = Self { block: first, entry: 0 };
        loop {
            // SAFETY: as the caller says.
            let block = unsafe { position.block.as_ref() };
            let length = block.length.load(Ordering::Acquire);
            // Whole blocks first, by their last entry.
            if length == BLOCK_ENTRIES && position.main_at(length - 1) < from {
                let Some(next) = NonNull::new(block.next.load(Ordering::Acquire)) else {
                    return Self { entry: length, ..position };
                };
                position.block = next;
                continue;
            }
            let mut bounds = 0..length;
            while !bounds.is_empty() {
                let middle = bounds.start + (bounds.end - bounds.start) / 2;
                if position.main_at(middle) < from {
                    bounds.start = middle + 1;
                } else {
                    bounds.end = middle;
                }
            }
            return Self { entry: bounds.start, ..position };
        }
    }

    fn main_at(self, entry: usize) -> u64 {
        // SAFETY: `seek` passes entries below the length that it loaded with Acquire.
        let record = unsafe {
            RecordRef::from_ptr(self.block.as_ref().entries[entry].load(Ordering::Relaxed))
        };
        record.expect("entries below the length are set").revision().main
    }

    /// The record here, and the position behind it; `None` at the present end of the list.
    ///
    /// # Safety
    /// The list lives for `'a`.
    pub(super) unsafe fn next<'a>(mut self) -> Option<(RecordRef<'a>, Self)> {
        // SAFETY: as the caller says.
        let mut block = unsafe { self.block.as_ref() };
        if self.entry == BLOCK_ENTRIES {
            self = Self { block: NonNull::new(block.next.load(Ordering::Acquire))?, entry: 0 };
            // SAFETY: a block of the same list.
            block = unsafe { self.block.as_ref() };
        }
        if self.entry >= block.length.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: below the length loaded with Acquire.
        let record =
            unsafe { RecordRef::from_ptr(block.entries[self.entry].load(Ordering::Relaxed)) }?;
        Some((record, Self { entry: self.entry + 1, ..self }))
    }
}
