//! Request ids and the table of requests that wait for an answer on one socket thread.
//!
//! An id says where its answer must go: 16 bits of the process's boot nonce, 8 bits of the socket
//! thread, 40 bits that count from a random start. Entries of other members and of earlier starts
//! carry other nonces, so their replies find no waiter here (a collision of all 64 bits within the
//! seven seconds of a request's life is not to be expected).
//!
//! Invariants: a table belongs to one thread; an id is in it at most once; dropping the waiter
//! (the client went away, a timeout) removes its row.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use crate::limits;

/// Distinguishes this start of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootNonce(pub u16);

/// The socket thread that waits for `id`, if the id was made by this process.
pub fn worker_of(id: u64, nonce: BootNonce, workers: usize) -> Option<usize> {
    let worker = (id >> 40 & 0xff) as usize;
    (id >> 48 == u64::from(nonce.0) && worker < workers).then_some(worker)
}

/// The waiting requests of one socket thread, answered with `A`.
pub struct Waiting<A> {
    inner: Rc<RefCell<Inner<A>>>,
}

struct Inner<A> {
    prefix: u64,
    next: u64,
    senders: HashMap<u64, oneshot::Sender<A>>,
}

impl<A> Clone for Waiting<A> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

/// One request's place in the table.
pub struct Ticket<A> {
    /// The id to send along.
    pub id: u64,
    table: Waiting<A>,
    receiver: oneshot::Receiver<A>,
}

impl<A> Waiting<A> {
    /// An empty table of socket thread `worker`; ids count from `start`.
    pub fn new(nonce: BootNonce, worker: u8, start: u64) -> Self {
        let inner = Inner {
            prefix: u64::from(nonce.0) << 48 | u64::from(worker) << 40,
            next: start,
            senders: HashMap::new(),
        };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// Takes a place; `None` when `limits::REQUESTS_WAITING_MAX` are taken.
    pub fn take(&self) -> Option<Ticket<A>> {
        let mut inner = self.inner.borrow_mut();
        if inner.senders.len() >= limits::REQUESTS_WAITING_MAX {
            return None;
        }
        inner.next = (inner.next + 1) & 0xff_ffff_ffff;
        let id = inner.prefix | inner.next;
        let (sender, receiver) = oneshot::channel();
        let previous = inner.senders.insert(id, sender);
        assert!(previous.is_none(), "2^40 requests were made while {id:x} waited");
        Some(Ticket { id, table: self.clone(), receiver })
    }

    /// The requests that wait, in order.
    pub fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.inner.borrow().senders.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Answers a request; one that no longer waits is forgotten.
    pub fn answer(&self, id: u64, answer: A) {
        let sender = self.inner.borrow_mut().senders.remove(&id);
        if let Some(sender) = sender {
            let _ = sender.send(answer);
        }
    }
}

impl<A> Ticket<A> {
    /// Waits for the answer; `None` only when the thread is being torn down.
    pub async fn answer(&mut self) -> Option<A> {
        (&mut self.receiver).await.ok()
    }
}

impl<A> Drop for Ticket<A> {
    fn drop(&mut self) {
        self.table.inner.borrow_mut().senders.remove(&self.id);
    }
}

/// A bound in bytes on what many hold together; clones are the same bound.
#[derive(Clone)]
pub struct Budget {
    taken: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// One holder's share; given back when dropped.
pub struct Share {
    bytes: usize,
    of: Budget,
}

impl Budget {
    /// At most `bytes_max`, or one share beyond it.
    pub fn new(bytes_max: usize) -> Self {
        Self { taken: Arc::default(), bytes_max }
    }

    /// A share; `None` when others hold too much. A share that is larger than the whole is given
    /// to who is alone.
    pub fn take(&self, bytes: usize) -> Option<Share> {
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        // Given back if it is refused.
        let share = Share { bytes, of: self.clone() };
        (before == 0 || before + bytes <= self.bytes_max).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_kept_and_given_back_and_never_blocks_who_is_alone() {
        let budget = Budget::new(100);
        let shares = [budget.take(50), budget.take(50)];
        assert!(shares.iter().all(Option::is_some));
        assert!(budget.take(1).is_none());
        drop(shares);
        let large = budget.take(1_000);
        assert!(large.is_some() && budget.take(1).is_none());
        drop(large);
        assert!(budget.take(100).is_some());
        assert_eq!(budget.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_answer_reaches_the_request_that_waits_and_only_once() {
        let table = Waiting::<u32>::new(BootNonce(1), 0, 0);
        let (mut first, mut second) = (table.take().expect("room"), table.take().expect("room"));
        table.answer(second.id, 2);
        table.answer(second.id, 3);
        table.answer(first.id, 1);
        table.answer(first.id ^ 1 << 39, 4);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answers = runtime.block_on(async { (first.answer().await, second.answer().await) });
        assert_eq!(answers, (Some(1), Some(2)));
    }

    #[test]
    fn a_full_table_takes_nobody_until_one_leaves() {
        let table = Waiting::<u32>::new(BootNonce(1), 0, 0xff_ffff_fff0);
        let mut tickets: Vec<_> =
            (0..limits::REQUESTS_WAITING_MAX).map(|_| table.take().expect("room")).collect();
        assert!(table.take().is_none());
        let ids: std::collections::HashSet<u64> = tickets.iter().map(|ticket| ticket.id).collect();
        assert_eq!(ids.len(), tickets.len(), "the count wraps around within its 40 bits");
        assert!(ids.iter().all(|id| worker_of(*id, BootNonce(1), 1) == Some(0)));
        tickets.pop();
        assert!(table.take().is_some());
    }

    #[test]
    fn an_id_leads_back_to_its_thread() {
        let table = Waiting::<u32>::new(BootNonce(0xabcd), 3, 0xff_ffff_ffff);
        let ticket = table.take().expect("there is room");
        assert_eq!(worker_of(ticket.id, BootNonce(0xabcd), 4), Some(3));
        assert_eq!(worker_of(ticket.id, BootNonce(0xabcd), 3), None);
        assert_eq!(worker_of(ticket.id, BootNonce(0xabce), 4), None);
    }

    #[test]
    fn a_dropped_request_leaves_no_trace() {
        let table = Waiting::<u32>::new(BootNonce(1), 0, 0);
        let ticket = table.take().expect("there is room");
        let id = ticket.id;
        drop(ticket);
        table.answer(id, 7);
        assert!(table.inner.borrow().senders.is_empty());
    }
}
