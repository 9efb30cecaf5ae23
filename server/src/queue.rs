//! Bounded queues between threads that sleep while there is nothing to do.
//!
//! One idea: a mutex, a ring and two condition variables, so that a thread with nothing to do is
//! asleep at once. Channels that are lock-free yield the processor a few times first. Where another
//! process is busy each yield lasts a whole slice of its time, milliseconds, and a put meets half a
//! dozen such waits: beside compilers on two cores three members took one client's puts at a third to a
//! fifth of the rate.
//!
//! Wakes are counted: a sleeper is woken once, however much arrives before it runs.
//!
//! Invariants: at most `items_max` items wait; `sleeping + woken` threads are in a receiver's wait;
//! items wait only while some receiver exists: the last one takes them with it, so whoever hopes for
//! an answer to one learns of its end.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The sending end.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving end. Of several, whoever comes first takes an item.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

/// Nobody receives any more; what was to be sent is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendError;

/// Why an item was not taken at once, and the item.
#[derive(PartialEq, Eq)]
pub enum TrySendError<T> {
    /// As many wait as may.
    Full(T),
    /// Nobody receives any more.
    Disconnected(T),
}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Disconnected(_) => "Disconnected",
        })
    }
}

/// Why no item came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvError {
    /// None until then.
    Timeout,
    /// None, and nobody is left to send one.
    Disconnected,
}

/// A queue of at most `items_max` items.
///
/// # Panics
/// If nothing could ever be in it.
pub fn bounded<T>(items_max: usize) -> (Sender<T>, Receiver<T>) {
    assert!(items_max > 0, "a queue has room for one item at least");
    let state = State {
        items: VecDeque::new(),
        items_max,
        senders: 1,
        receivers: 1,
        sleeping: 0,
        woken: 0,
        blocked: 0,
    };
    let shared = Shared { state: Mutex::new(state), filled: Condvar::new(), freed: Condvar::new() };
    let shared = Arc::new(shared);
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// An item has come, or the last sender has gone.
    filled: Condvar,
    /// An item was taken, or the last receiver has gone.
    freed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    items_max: usize,
    senders: usize,
    receivers: usize,
    /// Receivers that wait and that nobody has woken.
    sleeping: usize,
    /// Receivers that were woken and do not run yet.
    woken: usize,
    /// Senders that wait for room.
    blocked: usize,
}

impl<T> Shared<T> {
    /// A thread that panicked left whole items.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, mut state: MutexGuard<'_, State<T>>, item: T) {
        state.items.push_back(item);
        assert!(state.items.len() <= state.items_max, "more than the queue's bound");
        let wakes = state.sleeping > 0;
        if wakes {
            state.sleeping -= 1;
            state.woken += 1;
        }
        // Whoever is woken needs the lock.
        drop(state);
        if wakes {
            self.filled.notify_one();
        }
    }

    fn freed(&self, state: MutexGuard<'_, State<T>>) {
        let wakes = state.blocked > 0;
        drop(state);
        if wakes {
            self.freed.notify_all();
        }
    }
}

impl<T> Sender<T> {
    /// Sends, and waits for room.
    ///
    /// # Errors
    /// Nobody receives.
    pub fn send(&self, item: T) -> Result<(), SendError> {
        let mut state = self.0.lock();
        while state.items.len() == state.items_max && state.receivers > 0 {
            state.blocked += 1;
            state = self.0.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
        }
        if state.receivers == 0 {
            return Err(SendError);
        }
        self.0.push(state, item);
        Ok(())
    }

    /// Sends if there is room.
    ///
    /// # Errors
    /// There is none, or nobody receives.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let state = self.0.lock();
        if state.receivers == 0 {
            return Err(TrySendError::Disconnected(item));
        }
        if state.items.len() == state.items_max {
            return Err(TrySendError::Full(item));
        }
        self.0.push(state, item);
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next item, whenever it comes.
    ///
    /// # Errors
    /// [`RecvError::Disconnected`].
    pub fn recv(&self) -> Result<T, RecvError> {
        self.next(None)
    }

    /// The next item, if it comes within this time.
    ///
    /// # Errors
    /// It does not, or nobody is left to send.
    pub fn recv_timeout(&self, patience: Duration) -> Result<T, RecvError> {
        self.next(Instant::now().checked_add(patience))
    }

    /// The next item, if it comes until then.
    ///
    /// # Errors
    /// As [`Receiver::recv_timeout`].
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvError> {
        self.next(Some(deadline))
    }

    /// An item that is there.
    ///
    /// # Errors
    /// [`RecvError::Timeout`] if there is none now.
    pub fn try_recv(&self) -> Result<T, RecvError> {
        let mut state = self.0.lock();
        match state.items.pop_front() {
            Some(item) => {
                self.0.freed(state);
                Ok(item)
            }
            None if state.senders == 0 => Err(RecvError::Disconnected),
            None => Err(RecvError::Timeout),
        }
    }

    /// What is there, at most so many.
    pub fn take(&self, items_max: usize) -> Vec<T> {
        let mut state = self.0.lock();
        let count = state.items.len().min(items_max);
        let taken = state.items.drain(..count).collect();
        if count > 0 {
            self.0.freed(state);
        }
        taken
    }

    /// Whether nothing waits now.
    pub fn is_empty(&self) -> bool {
        self.0.lock().items.is_empty()
    }

    fn next(&self, deadline: Option<Instant>) -> Result<T, RecvError> {
        let mut state = self.0.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                self.0.freed(state);
                return Ok(item);
            }
            if state.senders == 0 {
                return Err(RecvError::Disconnected);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(RecvError::Timeout);
            }
            state.sleeping += 1;
            state = match left {
                Some(left) => {
                    let waited = self.0.filled.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            // Woken, or out of time: all who return look for items, so it matters only how many did.
            match state.woken.checked_sub(1) {
                Some(woken) => state.woken = woken,
                None => state.sleeping -= 1,
            }
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.lock().receivers += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.senders -= 1;
        if state.senders == 0 {
            state.woken += std::mem::take(&mut state.sleeping);
            drop(state);
            self.0.filled.notify_all();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receivers -= 1;
        if state.receivers == 0 {
            // Dropped without the lock: what is in an item may send.
            let left = std::mem::take(&mut state.items);
            drop(state);
            self.0.freed.notify_all();
            drop(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn items_come_in_order_and_no_more_than_there_is_room_for() {
        let (sender, receiver) = bounded(2);
        assert_eq!(receiver.try_recv(), Err(RecvError::Timeout));
        sender.send(1).unwrap();
        sender.try_send(2).unwrap();
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(receiver.recv(), Ok(1));
        sender.try_send(3).unwrap();
        assert_eq!(receiver.take(1), [2]);
        assert_eq!(receiver.take(9), [3]);
        assert!(receiver.take(9).is_empty() && receiver.is_empty());
        assert_eq!(receiver.recv_timeout(Duration::from_millis(1)), Err(RecvError::Timeout));
    }

    #[test]
    fn whoever_waits_hears_that_the_other_end_is_gone() {
        let (sender, receiver) = bounded::<u8>(1);
        sender.send(1).unwrap();
        std::thread::scope(|scope| {
            let blocked = scope.spawn(|| sender.send(2));
            let other = scope.spawn(move || {
                assert_eq!(receiver.recv_timeout(LONG), Ok(1));
                assert_eq!(receiver.recv_timeout(LONG), Ok(2));
            });
            assert_eq!(blocked.join().unwrap(), Ok(()));
            other.join().unwrap();
        });
        assert_eq!(sender.send(3), Err(SendError));
        assert_eq!(sender.try_send(3), Err(TrySendError::Disconnected(3)));

        let (sender, receiver) = bounded::<u8>(1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| receiver.recv());
            drop(sender);
            assert_eq!(waiting.join().unwrap(), Err(RecvError::Disconnected));
        });
        assert_eq!(receiver.try_recv(), Err(RecvError::Disconnected));
    }

    #[test]
    fn what_nobody_will_receive_is_dropped_while_senders_live() {
        let (answer, told) = bounded::<()>(1);
        let (sender, receiver) = bounded(1);
        sender.send(answer).unwrap();
        drop(receiver);
        assert_eq!(told.recv(), Err(RecvError::Disconnected));
        drop(sender);
    }

    #[test]
    fn nothing_is_lost_between_many_threads() {
        const EACH: usize = 5_000;
        let (sender, receiver) = bounded(8);
        let mut received: Vec<usize> = std::thread::scope(|scope| {
            for first in 0..3 {
                let sender = sender.clone();
                scope.spawn(move || (0..EACH).for_each(|n| sender.send(first + 3 * n).unwrap()));
            }
            drop(sender);
            let receive = |patience: Option<Duration>| {
                let mut got = Vec::new();
                loop {
                    match patience.map_or_else(|| receiver.recv(), |p| receiver.recv_timeout(p)) {
                        Ok(item) => got.push(item),
                        Err(RecvError::Timeout) => got.extend(receiver.take(3)),
                        Err(RecvError::Disconnected) => return got,
                    }
                }
            };
            let hasty = scope.spawn(move || receive(Some(Duration::from_micros(1))));
            let calm = scope.spawn(move || receive(None));
            [hasty, calm].into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        received.sort_unstable();
        assert!(received.iter().copied().eq(0..3 * EACH));
    }
}
