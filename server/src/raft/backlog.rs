//! What is on its way from the Raft thread to the apply thread: what its queue has no room for,
//! and how many bytes of entries were handed over and are not applied yet.
//!
//! Invariants:
//! - Inputs reach the apply thread in the order in which they were pushed.
//! - `unapplied_bytes` is the sum over `unapplied`, whose indexes rise.
//!
//! It refuses nothing itself: what is committed must be applied. The Raft thread asks
//! [`Backlog::is_over`] and takes less from others.

use std::collections::VecDeque;

use varve_raftnode::Committed;

use crate::apply::ApplyInput;
use crate::limits;
use crate::queue::{Sender, TrySendError};

/// See the head of the file.
pub(super) struct Backlog {
    apply: Sender<ApplyInput>,
    waiting: VecDeque<ApplyInput>,
    /// Last index and bytes of each bundle of entries that is not applied.
    unapplied: VecDeque<(u64, usize)>,
    unapplied_bytes: usize,
}

impl Backlog {
    /// Nothing is on its way.
    pub(super) fn new(apply: Sender<ApplyInput>) -> Self {
        Self { apply, waiting: VecDeque::new(), unapplied: VecDeque::new(), unapplied_bytes: 0 }
    }

    /// Hands over, at once or as soon as there is room.
    pub(super) fn push(&mut self, input: ApplyInput) {
        if let ApplyInput::Committed(entries) = &input
            && let Some(last) = entries.last()
        {
            let bytes = entries.iter().map(entry_bytes).sum();
            self.unapplied.push_back((last.index.0, bytes));
            self.unapplied_bytes += bytes;
        }
        self.waiting.push_back(input);
        self.flush();
    }

    /// Hands over what there is room for now.
    pub(super) fn flush(&mut self) {
        while let Some(input) = self.waiting.pop_front() {
            match self.apply.try_send(input) {
                Ok(()) => {}
                Err(TrySendError::Full(input)) => {
                    self.waiting.push_front(input);
                    return;
                }
                // The apply thread has stopped: so does the process.
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    /// Everything up to `index` is applied.
    pub(super) fn applied(&mut self, index: u64) {
        while let Some((_, bytes)) = self.unapplied.pop_front_if(|(last, _)| *last <= index) {
            self.unapplied_bytes -= bytes;
        }
    }

    /// Whether something waits for room.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the apply thread is so far behind that nothing new should be taken on.
    pub(super) fn is_over(&self) -> bool {
        self.unapplied_bytes > limits::APPLY_BACKLOG_BYTES_MAX
    }
}

fn entry_bytes(entry: &Committed) -> usize {
    entry.payload.len() + std::mem::size_of::<Committed>()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use varve_raftnode::{Index, Term};

    use super::*;

    fn entry(index: u64, bytes: usize) -> Committed {
        let payload = Bytes::from(vec![0; bytes]);
        Committed { index: Index(index), term: Term(1), payload, change: None }
    }

    #[test]
    fn what_has_no_room_follows_in_order() {
        let (apply, queue) = crate::queue::bounded(1);
        let mut backlog = Backlog::new(apply);
        for index in 1..=3 {
            backlog.push(ApplyInput::Committed(vec![entry(index, 1)]));
        }
        for index in 1..=3 {
            let Ok(ApplyInput::Committed(entries)) = queue.try_recv() else { panic!("{index}") };
            assert_eq!(entries[0].index.0, index);
            backlog.flush();
            assert_eq!(backlog.is_waiting(), index == 1);
        }
    }

    #[test]
    fn entries_count_until_they_are_applied_wherever_they_wait() {
        let (apply, _queue) = crate::queue::bounded(8);
        let mut backlog = Backlog::new(apply);
        let half = limits::APPLY_BACKLOG_BYTES_MAX / 2;
        backlog.push(ApplyInput::Committed(vec![entry(1, 1), entry(2, half)]));
        assert!(!backlog.is_over());
        backlog.push(ApplyInput::Committed(vec![entry(3, half)]));
        assert!(backlog.is_over() && !backlog.is_waiting(), "the queue had room for all of it");
        backlog.applied(1);
        assert!(backlog.is_over(), "a bundle counts as a whole");
        backlog.applied(2);
        assert!(!backlog.is_over());
        backlog.applied(9);
        assert_eq!(backlog.unapplied_bytes, 0);
    }
}
