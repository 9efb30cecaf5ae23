//! The fast way to a key: a hash table from key to node, beside the skiplist.
//!
//! One idea: slots are only ever filled, never moved or emptied, so a reader probes with `Acquire`
//! loads while the writer inserts. When the table is half full the writer builds a larger one and
//! publishes it with one store; the old ones stay until the memtable goes, because readers may
//! still be in them. A reader in an old one misses only keys that are newer than its view.
//!
//! It makes the apply thread's existence check, and the misses of a point read in up to three
//! memtables, cost one or two cache lines instead of a descent.

use std::ptr;
use std::sync::atomic::Ordering;

use super::record::{Node, NodeRef};
use super::sync::{AtomicPtr, AtomicU64, Written};

const FIRST_SLOTS: usize = if cfg!(varve_loom) { 2 } else { 256 };
/// Growing by four leaves a third of the final size in retired tables, by two as much again.
const GROWTH: usize = 4;

struct Slot {
    /// Valid once `node` is set.
    hash: AtomicU64,
    node: AtomicPtr<Node>,
}

/// One generation of the table. Invariants: the number of slots is a power of two, and more than
/// half of them are empty, so probing ends.
struct Slots {
    slots: Box<[Slot]>,
    /// The generation before, kept for readers that are still in it.
    retired: *mut Slots,
    written: Written,
}

/// A hash table from key to node; one writer, many readers.
pub(super) struct Index {
    current: AtomicPtr<Slots>,
}

impl Index {
    pub(super) fn new() -> Self {
        Self { current: AtomicPtr::new(Slots::new(FIRST_SLOTS, ptr::null_mut())) }
    }

    fn current(&self) -> &Slots {
        // SAFETY: always a table made by `Slots::new`, completely written before it was stored
        // with Release; tables are freed only by the drop of the index.
        let slots = unsafe { &*self.current.load(Ordering::Acquire) };
        slots.written.assert_visible();
        slots
    }

    /// The node of `key`, whose hash is `hash`.
    ///
    /// # Safety
    /// The nodes in the index live for `'a`.
    pub(super) unsafe fn get<'a>(&self, hash: u64, key: &[u8]) -> Option<NodeRef<'a>> {
        let slots = &self.current().slots;
        let mut position = hash as usize & (slots.len() - 1);
        loop {
            // SAFETY: loaded with Acquire; the caller vouches for the lifetime.
            let node = unsafe { NodeRef::from_ptr(slots[position].node.load(Ordering::Acquire)) }?;
            // The hash was stored before the node was.
            if slots[position].hash.load(Ordering::Relaxed) == hash && node.key() == key {
                return Some(node);
            }
            position = (position + 1) & (slots.len() - 1);
        }
    }

    /// Adds a node whose key is not in the index; `nodes` is how many there are with it.
    /// Writer only. Returns the bytes that the index grew by.
    pub(super) fn insert(&self, hash: u64, node: NodeRef<'_>, nodes: usize) -> usize {
        let mut grown_bytes = 0;
        if nodes * 2 > self.current().slots.len() {
            let old = self.current.load(Ordering::Relaxed);
            let slots = self.current().slots.len() * GROWTH;
            let larger = Slots::new(slots, old);
            // SAFETY: just made, and only this thread knows it.
            let larger_slots = unsafe { &*larger };
            for slot in &self.current().slots {
                let node = slot.node.load(Ordering::Relaxed);
                if !node.is_null() {
                    larger_slots.place(slot.hash.load(Ordering::Relaxed), node);
                }
            }
            // Release: who finds the new table finds all that was copied into it.
            self.current.store(larger, Ordering::Release);
            grown_bytes = slots * size_of::<Slot>();
        }
        self.current().place(hash, node.as_ptr().cast_mut());
        grown_bytes
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // With `&mut self` nobody stores any more.
        let mut next = self.current.load(Ordering::Relaxed);
        while !next.is_null() {
            // SAFETY: made by Box::into_raw in `Slots::new`; each is in the chain once, and with
            // `&mut self` nobody reads any more.
            let slots = unsafe { Box::from_raw(next) };
            next = slots.retired;
        }
    }
}

impl Slots {
    fn new(length: usize, retired: *mut Slots) -> *mut Slots {
        assert!(length.is_power_of_two(), "{length} slots");
        let slots = (0..length)
            .map(|_| Slot { hash: AtomicU64::new(0), node: AtomicPtr::new(ptr::null_mut()) })
            .collect();
        Box::into_raw(Box::new(Slots { slots, retired, written: Written::new() }))
    }

    fn place(&self, hash: u64, node: *mut Node) {
        let mut position = hash as usize & (self.slots.len() - 1);
        while !self.slots[position].node.load(Ordering::Relaxed).is_null() {
            position = (position + 1) & (self.slots.len() - 1);
        }
        self.slots[position].hash.store(hash, Ordering::Relaxed);
        // Release: who finds the node finds its hash and all of the node.
        self.slots[position].node.store(node, Ordering::Release);
    }
}
