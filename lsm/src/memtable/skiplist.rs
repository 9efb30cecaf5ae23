//! The order of keys: a skiplist with one writer and any number of readers.
//!
//! One idea (Pugh 1990, and LevelDB's memtable): a node is linked bottom level first, each link by
//! one `Release` store, so a reader always finds a sorted list at every level. With a single writer
//! no compare-and-swap is needed. Versions are not nodes: sixty changes of one key are sixty links
//! of its version chain and still one node.
//!
//! Invariants: every level is sorted by key without duplicates; a node at level n is at n-1 too.

use std::ops::Bound;

use super::record::{HEIGHT_MAX, NodeRef};
use super::spans::SPAN_LEVEL;

/// The first node whose key is at or above `key`.
pub(super) fn seek<'a>(head: NodeRef<'a>, key: &[u8]) -> Option<NodeRef<'a>> {
    let mut node = head;
    let mut found = None;
    for level in (0..HEIGHT_MAX).rev() {
        let (before, behind) = walk(node, level, key, found);
        node = before;
        found = behind;
    }
    found
}

/// The last node of `level` whose key is at or below `key`; the head if there is none.
pub(super) fn seek_start<'a>(head: NodeRef<'a>, key: &[u8], level: usize) -> NodeRef<'a> {
    let mut node = head;
    for level in (level..HEIGHT_MAX).rev() {
        while let Some(next) = node.next(level).filter(|next| next.key() <= key) {
            node = next;
        }
    }
    node
}

/// The last node; the head of an empty list.
pub(super) fn last(head: NodeRef<'_>) -> NodeRef<'_> {
    let mut node = head;
    for level in (0..HEIGHT_MAX).rev() {
        while let Some(next) = node.next(level) {
            node = next;
        }
    }
    node
}

/// From `node` along `level`: the last node below `key`, and its successor there.
/// `known` is a node known to be at or above `key`; meeting it again costs no comparison.
fn walk<'a>(
    mut node: NodeRef<'a>,
    level: usize,
    key: &[u8],
    known: Option<NodeRef<'a>>,
) -> (NodeRef<'a>, Option<NodeRef<'a>>) {
    loop {
        match node.next(level) {
            None => return (node, None),
            Some(next) if Some(next) == known || next.key() >= key => return (node, Some(next)),
            Some(next) => node = next,
        }
    }
}

/// A walk backwards: the last node of each level that is not past the current position.
///
/// Links lead forwards only, so a step back looks for the node in front of the current one: from
/// the lowest level that has not come to the current node itself, down to level 0. That walks over
/// a handful of links on average, and compares no keys.
///
/// Invariant: `upto[level]` is linked at `level` (the head is at all), is at or before
/// `upto[level - 1]`, and nothing that was linked at that level when it was found is between them.
pub(super) struct Back<'a> {
    head: NodeRef<'a>,
    upto: [NodeRef<'a>; HEIGHT_MAX],
}

impl<'a> Back<'a> {
    /// At the last node whose key is within `end`.
    pub(super) fn seek(head: NodeRef<'a>, end: Bound<&[u8]>) -> Self {
        let is_within = |node: &NodeRef<'_>| match end {
            Bound::Included(end) => node.key() <= end,
            Bound::Excluded(end) => node.key() < end,
            Bound::Unbounded => true,
        };
        let mut upto = [head; HEIGHT_MAX];
        let mut node = head;
        for level in (0..HEIGHT_MAX).rev() {
            while let Some(next) = node.next(level).filter(is_within) {
                node = next;
            }
            upto[level] = node;
        }
        Self { head, upto }
    }

    /// The current node; `None` in front of the first.
    pub(super) fn node(&self) -> Option<NodeRef<'a>> {
        Some(self.upto[0]).filter(|node| *node != self.head)
    }

    /// Moves to the node in front of the current one.
    pub(super) fn step(&mut self) {
        let Some(current) = self.node() else { return };
        let top = self.upto.iter().position(|node| *node != current).unwrap_or(HEIGHT_MAX);
        let mut node = if top == HEIGHT_MAX { self.head } else { self.upto[top] };
        for level in (0..top).rev() {
            loop {
                let next = node.next(level).expect("the current node is linked behind this one");
                if next == current {
                    break;
                }
                node = next;
            }
            self.upto[level] = node;
        }
    }
}

/// Where the last node went, level by level: the start of the search for the next one. Sorted
/// bursts (a restore, a range of new keys) thereby insert in constant time.
///
/// Invariants: `before[level]` is the last node of that level at or before the last inserted key.
pub(super) struct Splice<'a> {
    before: [NodeRef<'a>; HEIGHT_MAX],
}

impl<'a> Splice<'a> {
    /// At the head of an empty list.
    pub(super) fn new(head: NodeRef<'a>) -> Self {
        Self { before: [head; HEIGHT_MAX] }
    }

    /// Links `node`, of `height` levels, whose key is not in the list. Returns the node in front
    /// of it on [`SPAN_LEVEL`]. Writer only.
    pub(super) fn insert(
        &mut self,
        head: NodeRef<'a>,
        node: NodeRef<'a>,
        height: usize,
    ) -> NodeRef<'a> {
        self.seek(head, node.key());
        let span_start = self.before[SPAN_LEVEL];
        for level in 0..height {
            let before = self.before[level];
            let next = before.next(level);
            assert!(
                next.is_none_or(|next| next.key() > node.key()),
                "the key {:02x?} is in the memtable twice",
                node.key()
            );
            node.set_next(level, next);
            before.set_next(level, Some(node));
            self.before[level] = node;
        }
        span_start
    }

    fn seek(&mut self, head: NodeRef<'a>, key: &[u8]) {
        let mut top = HEIGHT_MAX - 1;
        let mut node = head;
        // The head is no key; all others compare.
        let is_ahead = self.before[0] != head && self.before[0].key() < key;
        if is_ahead {
            // Climb until the last position brackets the key, then descend from there.
            let brackets =
                |level: usize| self.before[level].next(level).is_none_or(|next| next.key() >= key);
            top = (0..HEIGHT_MAX).find(|&level| brackets(level)).unwrap_or(HEIGHT_MAX - 1);
            node = self.before[top];
        }
        let mut known = None;
        for level in (0..=top).rev() {
            (node, known) = walk(node, level, key, known);
            self.before[level] = node;
        }
    }
}
