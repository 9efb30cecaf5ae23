//! From any thread to one socket thread: a batch at a time.
//!
//! One idea: the poster appends to a vector under a mutex and wakes the owner only if the vector
//! was empty; the owner swaps the whole vector out. However many items are posted while the owner
//! is busy, they cost one wake.
//!
//! Full: a mailbox holds at most `items_max` items. `post` then appends nothing and gives the items
//! back; the poster decides (apply: the item is a reply, whose call is bounded by the number of
//! streams; events: the watcher falls back to catching up from storage).
//!
//! Invariants: `items.len() <= items_max`; if `items` is not empty, a wake is on its way to the
//! owner or the owner is awake.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The posting end, for any thread. Clones post into the same box.
#[derive(Debug)]
pub struct Mailbox<T>(Arc<Shared<T>>);

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The receiving end; one task drains it.
#[derive(Debug)]
pub struct MailboxOwner<T>(Arc<Shared<T>>);

/// What did not fit, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected<T>(pub Vec<T>);

#[derive(Debug)]
struct Shared<T> {
    items: Mutex<Vec<T>>,
    items_max: usize,
    arrived: Notify,
}

/// A mailbox for at most `items_max` items, and its owner.
pub fn mailbox<T>(items_max: usize) -> (Mailbox<T>, MailboxOwner<T>) {
    let items = Mutex::new(Vec::new());
    let shared = Arc::new(Shared { items, items_max, arrived: Notify::new() });
    (Mailbox(Arc::clone(&shared)), MailboxOwner(shared))
}

impl<T> Mailbox<T> {
    /// Posts all items or none.
    ///
    /// # Errors
    /// Gives the items back if they do not all fit.
    pub fn post(&self, mut items: Vec<T>) -> Result<(), Rejected<T>> {
        if items.is_empty() {
            return Ok(());
        }
        let mut queued = self.0.lock();
        let was_empty = queued.is_empty();
        if queued.len() + items.len() > self.0.items_max {
            return Err(Rejected(items));
        }
        if was_empty && queued.capacity() < items.len() {
            *queued = items;
        } else {
            queued.append(&mut items);
        }
        drop(queued);
        self.wake(was_empty);
        Ok(())
    }

    /// Posts one item.
    ///
    /// # Errors
    /// Gives the item back if the box is full.
    pub fn post_one(&self, item: T) -> Result<(), T> {
        let mut queued = self.0.lock();
        let was_empty = queued.is_empty();
        if queued.len() >= self.0.items_max {
            return Err(item);
        }
        queued.push(item);
        drop(queued);
        self.wake(was_empty);
        Ok(())
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn wake(&self, was_empty: bool) {
        if was_empty {
            self.0.arrived.notify_one();
        }
    }
}

impl<T> MailboxOwner<T> {
    /// Waits until something was posted and moves all of it behind what `into` holds.
    /// Cancel-safe: items are taken only when the future is ready.
    pub async fn drain(&self, into: &mut Vec<T>) {
        while !self.try_drain(into) {
            self.0.arrived.notified().await;
        }
    }

    /// Moves everything posted behind what `into` holds; false if there was nothing.
    pub fn try_drain(&self, into: &mut Vec<T>) -> bool {
        let mut queued = self.0.lock();
        if queued.is_empty() {
            return false;
        }
        if into.is_empty() {
            // The two vectors change places, so that neither allocates in steady state.
            std::mem::swap(&mut *queued, into);
        } else {
            into.append(&mut queued);
        }
        true
    }

    /// Another posting end.
    pub fn sender(&self) -> Mailbox<T> {
        Mailbox(Arc::clone(&self.0))
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        // A vector is whole after every operation above, whoever panicked.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_drain_takes_everything_that_was_posted_in_order() {
        let (mailbox, owner) = mailbox(10);
        mailbox.post(vec![1, 2]).unwrap();
        mailbox.post_one(3).unwrap();
        let mut taken = vec![0];
        run(owner.drain(&mut taken));
        assert_eq!(taken, [0, 1, 2, 3]);
        assert!(!owner.try_drain(&mut taken));
    }

    #[test]
    fn a_full_mailbox_gives_everything_back_and_keeps_what_it_has() {
        let (mailbox, owner) = mailbox(3);
        mailbox.post(vec![1, 2]).unwrap();
        assert_eq!(mailbox.post(vec![3, 4]), Err(Rejected(vec![3, 4])));
        mailbox.post_one(3).unwrap();
        assert_eq!(mailbox.post_one(4), Err(4));
        let mut taken = Vec::new();
        assert!(owner.try_drain(&mut taken));
        assert_eq!(taken, [1, 2, 3]);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        const EACH: u64 = 5_000;
        let (mailbox, owner) = mailbox(64);
        let posters: Vec<_> = (0..4u64)
            .map(|poster| {
                let mailbox = mailbox.clone();
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        while mailbox.post_one(poster * EACH + number).is_err() {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut received = Vec::new();
        run(async {
            let mut batch = Vec::new();
            while received.len() < 4 * EACH as usize {
                owner.drain(&mut batch).await;
                received.append(&mut batch);
            }
        });
        for poster in posters {
            poster.join().unwrap();
        }
        received.sort_unstable();
        assert!(received.iter().copied().eq(0..4 * EACH));
    }
}
