//! The two kinds of things in the arena: a record is one version, a node is one key.
//!
//! ```text
//! Node:    newest | spans | key length, height | next[0..height] | key bytes
//! Record:  previous | node | ordinal | revision | lengths, sums | jump | meta bytes | value bytes
//! ```
//!
//! A record has room for a jump (see `chain.rs`) only if that leads over more than one version:
//! a key with one or two versions pays nothing, one with many 8 bytes for every other version.
//!
//! One idea: both are written completely before a pointer to them is stored with `Release`, and
//! never change afterwards, except for the atomic pointers of a node. A reader that loaded the
//! pointer with `Acquire` therefore sees all of it. [`NodeRef`] and [`RecordRef`] wrap the raw
//! pointers with the lifetime of the memtable, so that the rest of the code is safe.
//!
//! Raw pointers are never turned into `&Node`: a reference would cover the header only, and the
//! tower and key behind it could not be reached from it.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use super::chain::{self, Moment, State};
use super::sync::{AtomicPtr, Written};
use crate::{Delta, Kind, Meta, Revision};

/// Levels of the tallest node. With one node in four rising a level, 4^12 keys are well served.
pub(super) const HEIGHT_MAX: usize = 12;

/// The fixed part of a node. Shared parts are the atomics; the rest is written once.
#[repr(C)]
pub(super) struct Node {
    newest: AtomicPtr<Record>,
    /// Sums over the keys from here on, see `spans.rs`; null in most nodes.
    spans: AtomicPtr<Span>,
    key_length: u32,
    height: u32,
    written: Written,
}

/// The fixed part of a record; written once.
#[repr(C)]
pub(super) struct Record {
    /// The next older version of the key in this memtable, or null.
    previous: *const Record,
    node: *const Node,
    ordinal: u64,
    main: u64,
    sub: u32,
    value_length: u32,
    delta_sum: i32,
    kind: Kind,
    delta: Delta,
    meta_length: u8,
    /// Above 1, a pointer to a record follows the header.
    jump_level: u8,
    written: Written,
}

/// The sum of the deltas of a span of keys, from one moment on; written once. See `spans.rs`.
#[repr(C)]
pub(super) struct Span {
    /// The state before, or null.
    previous: *const Span,
    /// A state further back, or null: see `chain.rs`.
    jump: *const Span,
    /// Where the span ended; null at the end of the list.
    end: *const Node,
    moment: Moment,
    pub sum: i64,
    jump_level: u8,
    written: Written,
}

impl Span {
    pub(super) fn new(end: *const Node, moment: Moment, sum: i64) -> Self {
        let (previous, jump, jump_level) = (ptr::null(), ptr::null(), 0);
        let written = Written::new();
        Self { previous, jump, end, moment, sum, jump_level, written }
    }
}

/// A key of a memtable that lives at least as long as `'a`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeRef<'a> {
    node: NonNull<Node>,
    memtable: PhantomData<&'a [u8]>,
}

/// A version in a memtable that lives at least as long as `'a`.
#[derive(Clone, Copy)]
pub(crate) struct RecordRef<'a> {
    record: NonNull<Record>,
    memtable: PhantomData<&'a [u8]>,
}

/// What a record is made from.
pub(super) struct NewRecord<'a> {
    pub ordinal: u64,
    pub revision: Revision,
    pub kind: Kind,
    pub delta: Delta,
    pub meta: Meta,
    pub value: &'a [u8],
}

const NODE_BYTES: usize = size_of::<Node>();
const LINK_BYTES: usize = size_of::<AtomicPtr<Node>>();
const RECORD_BYTES: usize = size_of::<Record>();
const JUMP_BYTES: usize = size_of::<*const Record>();
const _: () = assert!(NODE_BYTES.is_multiple_of(LINK_BYTES), "the tower follows the header");
const _: () = assert!(RECORD_BYTES.is_multiple_of(JUMP_BYTES), "the jump follows the header");

impl<'a> NodeRef<'a> {
    /// Bytes that a node takes.
    pub(super) fn bytes(height: usize, key: &[u8]) -> usize {
        NODE_BYTES + height * LINK_BYTES + key.len()
    }

    /// Builds a node without versions and successors.
    ///
    /// # Safety
    /// `memory` has [`NodeRef::bytes`] bytes, aligned to 8, that nobody else points to and that
    /// live for `'a`.
    pub(super) unsafe fn write(memory: NonNull<u8>, height: usize, key: &[u8]) -> Self {
        assert!((1..=HEIGHT_MAX).contains(&height), "height {height} is out of range");
        let key_length = u32::try_from(key.len()).expect("keys are far below 4 GiB");
        let node = memory.cast::<Node>();
        let header = Node {
            newest: AtomicPtr::new(ptr::null_mut()),
            spans: AtomicPtr::new(ptr::null_mut()),
            key_length,
            height: height as u32,
            written: Written::new(),
        };
        // SAFETY: the caller gave room for header, tower and key; they follow one another and all
        // parts are aligned because the header's size is a multiple of a pointer's.
        unsafe {
            node.write(header);
            let tower = memory.add(NODE_BYTES).cast::<AtomicPtr<Node>>();
            for level in 0..height {
                tower.add(level).write(AtomicPtr::new(ptr::null_mut()));
            }
            let target = memory.add(NODE_BYTES + height * LINK_BYTES);
            ptr::copy_nonoverlapping(key.as_ptr(), target.as_ptr(), key.len());
        }
        Self { node, memtable: PhantomData }
    }

    /// Wraps a pointer that [`NodeRef::as_ptr`] gave.
    ///
    /// # Safety
    /// The node's memtable lives for `'a`, and the pointer was loaded with `Acquire`, or by the
    /// writer, or with the memtable's own happens-before.
    pub(super) unsafe fn from_ptr(node: *const Node) -> Option<Self> {
        NonNull::new(node.cast_mut()).map(|node| Self { node, memtable: PhantomData })
    }

    pub(super) fn as_ptr(self) -> *const Node {
        self.node.as_ptr()
    }

    /// The key.
    pub(super) fn key(self) -> &'a [u8] {
        // SAFETY: the node was completely written before it could be found; header and key do not
        // change. The pointer covers the whole allocation.
        unsafe {
            (*self.node.as_ptr()).written.assert_visible();
            let length = (*self.node.as_ptr()).key_length as usize;
            let height = (*self.node.as_ptr()).height as usize;
            let start = self.node.cast::<u8>().add(NODE_BYTES + height * LINK_BYTES);
            std::slice::from_raw_parts(start.as_ptr(), length)
        }
    }

    fn link(self, level: usize) -> &'a AtomicPtr<Node> {
        // SAFETY: reading the height as in `key`; the tower has `height` atomics.
        unsafe {
            let height = (*self.node.as_ptr()).height as usize;
            assert!(level < height, "level {level} of a node of height {height}");
            let tower = self.node.cast::<u8>().add(NODE_BYTES).cast::<AtomicPtr<Node>>();
            tower.add(level).as_ref()
        }
    }

    /// The next node at `level`.
    pub(super) fn next(self, level: usize) -> Option<Self> {
        // SAFETY: loaded with Acquire from a node of the same memtable.
        unsafe { Self::from_ptr(self.link(level).load(Ordering::Acquire)) }
    }

    /// Puts `next` behind this node at `level`. Writer only.
    pub(super) fn set_next(self, level: usize, next: Option<Self>) {
        let next = next.map_or(ptr::null_mut(), |next| next.node.as_ptr());
        // Release: who finds `next` here finds it completely written.
        self.link(level).store(next, Ordering::Release);
    }

    /// The newest version of the key; a node that can be found has one, only heads do not.
    pub(super) fn newest(self) -> Option<RecordRef<'a>> {
        // SAFETY: an atomic field of a written node; what it points to was written before.
        unsafe { RecordRef::from_ptr((*self.node.as_ptr()).newest.load(Ordering::Acquire)) }
    }

    /// Makes `record` the newest version of the key. Writer only.
    pub(super) fn set_newest(self, record: RecordRef<'a>) {
        // SAFETY: an atomic field of a written node.
        // Release: who finds the record here finds it completely written.
        unsafe { (*self.node.as_ptr()).newest.store(record.record.as_ptr(), Ordering::Release) }
    }
}

impl<'a> NodeRef<'a> {
    fn spans(self) -> &'a AtomicPtr<Span> {
        // SAFETY: an atomic field of a written node that lives for 'a.
        unsafe { &*ptr::addr_of!((*self.node.as_ptr()).spans) }
    }

    /// The present state of the span that begins here, if one does.
    pub(super) fn newest_span(self) -> Option<&'a Span> {
        // SAFETY: null, or written before it was stored with Release; lives as long as the node.
        let span = unsafe { self.spans().load(Ordering::Acquire).as_ref() };
        span.inspect(|span| span.written.assert_visible())
    }

    /// The state of the span after the records below `ordinal` with `main <= at`.
    pub(super) fn span_at(self, at: u64, ordinal: u64) -> Option<&'a Span> {
        chain::state_at(self.newest_span(), at, ordinal)
    }

    /// Where `span`, which begins here, ended; `None` at the end of the list.
    pub(super) fn span_end(self, span: &Span) -> Option<Self> {
        // SAFETY: null, or a node of this memtable, linked before the span was written.
        unsafe { Self::from_ptr(span.end) }
    }

    /// Makes `span` the present state. Writer only.
    ///
    /// # Safety
    /// `memory` has room for a span, aligned, that nobody else points to and that lives for `'a`.
    pub(super) unsafe fn push_span(self, memory: NonNull<Span>, span: Span) {
        let previous = self.newest_span();
        let (jump, jump_level) = chain::jump_over(previous);
        let [previous, jump] = [previous, jump].map(|span| span.map_or(ptr::null(), ptr::from_ref));
        // SAFETY: as the caller says.
        unsafe { memory.write(Span { previous, jump, jump_level, ..span }) };
        // Release: who finds the span finds it completely written.
        self.spans().store(memory.as_ptr(), Ordering::Release);
    }
}

impl State for &Span {
    fn moment(self) -> Moment {
        self.moment
    }

    fn previous(self) -> Option<Self> {
        // SAFETY: null, or written before this state was; lives as long as the node.
        unsafe { self.previous.as_ref() }
    }

    fn jump(self) -> Option<Self> {
        // SAFETY: as in `previous`.
        unsafe { self.jump.as_ref() }
    }

    fn jump_level(self) -> u8 {
        self.jump_level
    }
}

impl<'a> RecordRef<'a> {
    /// Bytes that the next record of `node` takes.
    pub(super) fn bytes(node: NodeRef<'a>, new: &NewRecord<'_>) -> usize {
        let (_, jump_level) = chain::jump_over(node.newest());
        header_bytes(jump_level) + new.meta.as_slice().len() + new.value.len()
    }

    /// Builds the record that will be the newest of `node`. It is not linked yet.
    ///
    /// # Safety
    /// `memory` has [`RecordRef::bytes`] bytes, aligned to 8, that nobody else points to and that
    /// live for `'a`.
    pub(super) unsafe fn write(
        memory: NonNull<u8>,
        node: NodeRef<'a>,
        new: &NewRecord<'_>,
    ) -> RecordRef<'a> {
        let previous = node.newest();
        let (jump, jump_level) = chain::jump_over(previous);
        let record = memory.cast::<Record>();
        let meta = new.meta.as_slice();
        let header = Record {
            previous: previous.map_or(ptr::null(), RecordRef::as_ptr),
            node: node.as_ptr(),
            ordinal: new.ordinal,
            main: new.revision.main,
            sub: new.revision.sub,
            value_length: u32::try_from(new.value.len()).expect("values are below 4 GiB"),
            delta_sum: previous.map_or(0, RecordRef::delta_sum) + new.delta as i32,
            kind: new.kind,
            delta: new.delta,
            meta_length: meta.len() as u8,
            jump_level,
            written: Written::new(),
        };
        // SAFETY: the caller gave room for header, jump, meta and value, which follow one another;
        // the jump is aligned because the header's size is a multiple of a pointer's.
        unsafe {
            record.write(header);
            if let Some(jump) = jump.filter(|_| jump_level > 1) {
                memory.add(RECORD_BYTES).cast().write(jump.as_ptr());
            }
            let target = memory.add(header_bytes(jump_level));
            ptr::copy_nonoverlapping(meta.as_ptr(), target.as_ptr(), meta.len());
            let target = target.add(meta.len());
            ptr::copy_nonoverlapping(new.value.as_ptr(), target.as_ptr(), new.value.len());
        }
        RecordRef { record, memtable: PhantomData }
    }

    /// Wraps a pointer that [`RecordRef::as_ptr`] gave; the same duties as [`NodeRef::from_ptr`].
    ///
    /// # Safety
    /// The record's memtable lives for `'a`, and the pointer was loaded with `Acquire`, or by the
    /// writer, or with the memtable's own happens-before.
    pub(super) unsafe fn from_ptr(record: *const Record) -> Option<Self> {
        NonNull::new(record.cast_mut()).map(|record| Self { record, memtable: PhantomData })
    }

    pub(super) fn as_ptr(self) -> *const Record {
        self.record.as_ptr()
    }

    fn header(self) -> &'a Record {
        // SAFETY: records do not change after they can be found, and live for 'a.
        let header = unsafe { self.record.as_ref() };
        header.written.assert_visible();
        header
    }

    fn tail(self, offset: usize, length: usize) -> &'a [u8] {
        let offset = header_bytes(self.header().jump_level) + offset;
        // SAFETY: meta and value follow header and jump in the same allocation and do not change;
        // the callers below pass offsets and lengths from the header.
        unsafe {
            let start = self.record.cast::<u8>().add(offset);
            std::slice::from_raw_parts(start.as_ptr(), length)
        }
    }

    /// The next older version of the key in this memtable.
    pub(crate) fn previous(self) -> Option<Self> {
        // SAFETY: written before this record was, by the same writer.
        unsafe { Self::from_ptr(self.header().previous) }
    }

    fn node(self) -> NodeRef<'a> {
        // SAFETY: the node existed before the record.
        unsafe { NodeRef::from_ptr(self.header().node) }.expect("a record has a node")
    }

    /// The key.
    pub(crate) fn key(self) -> &'a [u8] {
        self.node().key()
    }

    /// Position among all records of the memtable, in the order they were written.
    pub(crate) fn ordinal(self) -> u64 {
        self.header().ordinal
    }

    /// The version number.
    pub(crate) fn revision(self) -> Revision {
        Revision { main: self.header().main, sub: self.header().sub }
    }

    /// Put or delete.
    pub(crate) fn kind(self) -> Kind {
        self.header().kind
    }

    /// Change in the number of live keys.
    pub(crate) fn delta(self) -> Delta {
        self.header().delta
    }

    /// Sum of the deltas of this version and all older ones of the key in this memtable.
    pub(crate) fn delta_sum(self) -> i32 {
        self.header().delta_sum
    }

    /// The caller's bytes beside the key.
    pub(crate) fn meta(self) -> Meta {
        Meta::new(self.meta_bytes()).expect("it was a Meta when it was written")
    }

    /// As [`RecordRef::meta`], where they lie.
    pub(crate) fn meta_bytes(self) -> &'a [u8] {
        self.tail(0, usize::from(self.header().meta_length))
    }

    /// The value.
    pub(crate) fn value(self) -> &'a [u8] {
        let header = self.header();
        self.tail(usize::from(header.meta_length), header.value_length as usize)
    }
}

impl State for RecordRef<'_> {
    fn moment(self) -> Moment {
        Moment { ordinal: self.header().ordinal, main: self.header().main }
    }

    fn previous(self) -> Option<Self> {
        self.previous()
    }

    fn jump(self) -> Option<Self> {
        if self.jump_level() <= 1 {
            return self.previous();
        }
        // SAFETY: at this level a pointer follows the header, in the same allocation, to a record
        // that was written before this one was, by the same writer.
        unsafe { Self::from_ptr(self.record.add(1).cast::<*const Record>().read()) }
    }

    fn jump_level(self) -> u8 {
        self.header().jump_level
    }
}

/// Bytes of a record in front of its meta: the header, and a jump that leads over more than one.
fn header_bytes(jump_level: u8) -> usize {
    RECORD_BYTES + if jump_level > 1 { JUMP_BYTES } else { 0 }
}
