//! The one that writes into a memtable.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::arena::{Arena, Chunks};
use super::chain::Moment;
use super::index::Index;
use super::record::{HEIGHT_MAX, NewRecord, Node, NodeRef, RecordRef};
use super::skiplist::Splice;
use super::spans::{self, Memory};
use super::sync::ArcSwap;
use super::{Committed, InMemtable, List, Memtable, order};
use crate::{Delta, Keyspace, Kind, Meta, Revision};

/// Deterministic start of the generator for node heights.
const HEIGHT_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The writing half of a memtable; there is one for each, used by one thread at a time.
pub(crate) struct MemtableWriter {
    memtable: Arc<Memtable>,
    arena: Arena,
    /// Where the last insert into each list went. The nodes live in `memtable`.
    splices: [Splice<'static>; 2],
    /// Nodes in each list.
    nodes: [usize; 2],
    order_tail: NonNull<order::Block>,
    ordinal: u64,
    index_bytes: usize,
    random: u64,
    owns: InMemtable,
}

// SAFETY: the pointers lead into the memtable, which the writer keeps alive; `&mut self` makes
// sure that one thread uses them at a time.
unsafe impl Send for MemtableWriter {}

impl MemtableWriter {
    /// A new, empty memtable that begins in the state of `committed`.
    pub(crate) fn new(committed: Committed) -> Self {
        assert_eq!(committed.ordinal, 0, "an empty memtable has no committed record");
        let chunks = Chunks::default();
        let mut arena = Arena::new();
        let heads = [new_head(&mut arena, &chunks), new_head(&mut arena, &chunks)];
        let order = order::new_block(&mut arena, &chunks);
        let begin = committed.kv_visible;
        let memtable = Arc::new(Memtable {
            lists: heads.map(|head| List { head: head_ptr(head), index: Index::new() }),
            order,
            committed: ArcSwap::from_pointee(committed),
            begin,
            used_bytes: AtomicUsize::new(0),
            flushed_bytes: AtomicUsize::new(0),
            chunks,
        });
        Self {
            memtable,
            arena,
            splices: heads.map(Splice::new),
            nodes: [0; 2],
            order_tail: order,
            ordinal: 0,
            index_bytes: 0,
            random: HEIGHT_SEED,
            owns: PhantomData,
        }
    }

    /// What readers hold.
    pub(crate) fn memtable(&self) -> &Arc<Memtable> {
        &self.memtable
    }

    /// Number of records written.
    pub(crate) fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// Adds a version. Readers do not see it before [`MemtableWriter::commit`].
    #[expect(clippy::too_many_arguments, reason = "the fields of a record, passed by the engine")]
    pub(crate) fn add(
        &mut self,
        keyspace: Keyspace,
        key: &[u8],
        revision: Revision,
        kind: Kind,
        delta: Delta,
        meta: Meta,
        value: &[u8],
    ) {
        let begin = self.memtable.begin;
        assert!(
            keyspace == Keyspace::Sys || revision.main > begin,
            "{revision:?} in a memtable that began at {begin}"
        );
        let hash = super::hash(key);
        // SAFETY: nodes live as long as the memtable, which this writer holds.
        let known: Option<NodeRef<'static>> =
            unsafe { self.memtable.list(keyspace).index.get(hash, key) };
        if let Some(newest) = known.and_then(NodeRef::newest) {
            assert!(
                newest.revision() < revision,
                "key {key:02x?}: revision {revision:?} follows {:?}",
                newest.revision()
            );
        }
        let height = self.draw_height();
        let node = known.unwrap_or_else(|| {
            let memory = self.arena.allocate(&self.memtable.chunks, NodeRef::bytes(height, key));
            // SAFETY: fresh memory of the right size in the memtable's chunks.
            unsafe { NodeRef::write(memory, height, key) }
        });
        let new = NewRecord { ordinal: self.ordinal, revision, kind, delta, meta, value };
        let memory = self.arena.allocate(&self.memtable.chunks, RecordRef::bytes(node, &new));
        // SAFETY: fresh memory of the right size in the memtable's chunks.
        let record = unsafe { RecordRef::write(memory, node, &new) };
        // From here on the record can be found, but its ordinal hides it until the commit.
        node.set_newest(record);
        let moment = Moment { ordinal: self.ordinal, main: revision.main };
        // SAFETY: the head lives in the memtable, which this writer holds.
        let head = unsafe { NodeRef::from_ptr(self.memtable.list(keyspace).head.as_ptr()) };
        let head = head.expect("not null");
        let mut memory = Memory { arena: &mut self.arena, chunks: &self.memtable.chunks };
        if known.is_some() {
            spans::change(&mut memory, head, key, moment, delta as i64);
        } else {
            let start = self.splices[keyspace as usize].insert(head, node, height);
            spans::insert(&mut memory, start, node, height, moment, delta as i64);
            self.nodes[keyspace as usize] += 1;
            let index = &self.memtable.list(keyspace).index;
            self.index_bytes += index.insert(hash, node, self.nodes[keyspace as usize]);
        }
        if keyspace == Keyspace::Kv {
            let (arena, chunks) = (&mut self.arena, &self.memtable.chunks);
            // SAFETY: `order_tail` is the last block of this memtable's list.
            self.order_tail = unsafe { order::append(self.order_tail, record, arena, chunks) };
        }
        self.ordinal += 1;
        let used_bytes = self.arena.used_bytes() + self.index_bytes;
        self.memtable.used_bytes.store(used_bytes, Ordering::Relaxed);
    }

    /// Publishes all that was added, together with the state it belongs to.
    pub(crate) fn commit(&mut self, committed: Committed) {
        assert_eq!(committed.ordinal, self.ordinal, "a commit covers all records");
        self.memtable.committed.store(Arc::new(committed));
    }

    /// One node in four rises a level (xorshift64).
    fn draw_height(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // Two bits a level; the low bits of xorshift are as good as the high ones.
        let levels = self.random.trailing_zeros() as usize / 2;
        (1 + levels).min(HEIGHT_MAX)
    }
}

fn new_head(arena: &mut Arena, chunks: &Chunks) -> NodeRef<'static> {
    let memory = arena.allocate(chunks, NodeRef::bytes(HEIGHT_MAX, b""));
    // SAFETY: fresh memory of the right size. It lives as long as the chunks, which go into the
    // memtable that the caller makes and whose writer keeps it alive.
    unsafe { NodeRef::write(memory, HEIGHT_MAX, b"") }
}

fn head_ptr(head: NodeRef<'static>) -> NonNull<Node> {
    NonNull::new(head.as_ptr().cast_mut()).expect("not null")
}
