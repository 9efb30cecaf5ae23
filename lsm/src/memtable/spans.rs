//! Counts without a walk over all keys: sums of deltas over spans of the skiplist.
//!
//! One node in 256 (those that reach [`SPAN_LEVEL`]), and the head, begin a *span*: the keys from
//! it up to the next such node. It carries a chain of [`Span`] records, newest first, one for each
//! change of the sum of deltas over its span: (ordinal, revision, sum, where the span ended then).
//! A reader takes the newest record that its view covers (`chain.rs`), adds the sum, and jumps to the
//! end that *this record* names. So a span that was split later is still whole for an older view, and
//! views need no agreement with the writer beyond the ordinal that they have anyway.
//!
//! Where a view finds no record (the span is younger than the view), or a range ends inside a
//! span, the nodes are walked one by one.
//!
//! Invariants: the newest record of a span has the sum of the newest `delta_sum` of its nodes, and
//! its present end; ordinals and revisions fall along the chain.

use std::ptr::NonNull;

use super::arena::{Arena, Chunks};
use super::chain::Moment;
use super::newest_at;
use super::record::{Node, NodeRef, Span};
use super::skiplist;
use crate::KeyRange;

/// Nodes that reach this level begin spans: one in 4^4.
pub(super) const SPAN_LEVEL: usize = 4;

/// Where the writer puts records.
pub(super) struct Memory<'a> {
    pub arena: &'a mut Arena,
    pub chunks: &'a Chunks,
}

/// A key that was there changed by `delta`. Writer only.
pub(super) fn change(
    memory: &mut Memory<'_>,
    head: NodeRef<'_>,
    key: &[u8],
    moment: Moment,
    delta: i64,
) {
    if delta != 0 {
        let start = skiplist::seek_start(head, key, SPAN_LEVEL);
        push(memory, start, moment, newest_sum(start) + delta);
    }
}

/// `node`, of `height` levels, was linked, and counts `delta`; before it, `start` began its span.
/// Writer only.
pub(super) fn insert(
    memory: &mut Memory<'_>,
    start: NodeRef<'_>,
    node: NodeRef<'_>,
    height: usize,
    moment: Moment,
    delta: i64,
) {
    let sum = newest_sum(start) + delta;
    if height > SPAN_LEVEL {
        // The node splits the span. Only the right part is added up; the left one is the rest.
        let end = node.next(SPAN_LEVEL);
        let right = walk(Some(node), end, u64::MAX, u64::MAX);
        push(memory, node, moment, right);
        push(memory, start, moment, sum - right);
    } else if delta != 0 || start.newest_span().is_none() {
        push(memory, start, moment, sum);
    }
}

fn newest_sum(start: NodeRef<'_>) -> i64 {
    start.newest_span().map_or(0, |span| span.sum)
}

fn push(memory: &mut Memory<'_>, start: NodeRef<'_>, moment: Moment, sum: i64) {
    let end = start.next(SPAN_LEVEL).map_or(std::ptr::null(), NodeRef::as_ptr);
    let target: NonNull<Span> = memory.arena.allocate(memory.chunks, size_of::<Span>()).cast();
    // SAFETY: fresh, aligned memory of the right size, which lives as long as the nodes do.
    unsafe { start.push_span(target, Span::new(end, moment, sum)) };
}

/// Sum of the deltas in `range` with `revision.main <= at`, of records below `ordinal`.
pub(super) fn delta_sum(head: NodeRef<'_>, range: &KeyRange, at: u64, ordinal: u64) -> i64 {
    let mut sum = 0;
    // The head stands before all keys, with a key of no bytes and no versions.
    let mut next = match range.start.is_empty() {
        true => Some(head),
        false => skiplist::seek(head, &range.start),
    };
    // Whether the range reaches over the last key; looked up when it first matters.
    let mut reaches_last = None;
    while let Some(node) = next
        && !range.is_past(node.key())
    {
        let span = node.span_at(at, ordinal);
        let jump = span.filter(|span| match node.span_end(span) {
            Some(end) => !range.is_past(end.key()),
            None => *reaches_last.get_or_insert_with(|| !range.is_past(skiplist::last(head).key())),
        });
        match jump {
            Some(span) => {
                sum += span.sum;
                next = node.span_end(span);
            }
            None => {
                sum += delta_of(node, at, ordinal);
                next = node.next(0);
            }
        }
    }
    sum
}

/// As [`delta_sum`], node by node.
fn walk(mut next: Option<NodeRef<'_>>, end: Option<NodeRef<'_>>, at: u64, ordinal: u64) -> i64 {
    let mut sum = 0;
    while let Some(node) = next
        && next != end
    {
        sum += delta_of(node, at, ordinal);
        next = node.next(0);
    }
    sum
}

fn delta_of(node: NodeRef<'_>, at: u64, ordinal: u64) -> i64 {
    newest_at(node, at, ordinal).map_or(0, |record| i64::from(record.delta_sum()))
}

/// Sum over the keys of `range`, one by one: what [`delta_sum`] must equal.
#[cfg(all(test, not(varve_loom)))]
pub(super) fn delta_sum_by_walk(head: NodeRef<'_>, range: &KeyRange, at: u64, ordinal: u64) -> i64 {
    let mut end = skiplist::seek(head, &range.start);
    let start = end;
    while let Some(node) = end
        && !range.is_past(node.key())
    {
        end = node.next(0);
    }
    walk(start, end, at, ordinal)
}

const _: () = assert!(align_of::<Span>() <= super::arena::ALIGNMENT_BYTES);
const _: () = assert!(align_of::<Node>() <= super::arena::ALIGNMENT_BYTES);
