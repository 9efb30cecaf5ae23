//! Waiting for a key, or for any key below a prefix, to change: for calls that wait inside the
//! server (locks, elections).
//!
//! One idea: who waits registers first, then reads, then sleeps until a batch of events touches what
//! it waits for, and reads again. So nothing is missed and nothing is buffered; what happened in
//! between is read from history. One table a socket thread; looking up a key that nobody waits for
//! costs one probe.
//!
//! Invariant: each living [`KeyWait`] has one entry in the table.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::watch::batch::{EventBatch, WatchEvent};

/// Who waits for which keys on this thread; clones are the same table.
#[derive(Clone, Default)]
pub struct KeyWaiters(Rc<RefCell<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    keys: HashMap<Bytes, Vec<Waiter>>,
    /// Few: those who wait for the first candidate of an election.
    prefixes: Vec<(Bytes, Waiter)>,
}

struct Waiter {
    id: u64,
    notify: Rc<Notify>,
}

/// A place in the table; leaving it ends the wait.
pub struct KeyWait {
    waiters: KeyWaiters,
    target: Target,
    id: u64,
    notify: Rc<Notify>,
}

enum Target {
    Key(Bytes),
    Prefix,
}

impl KeyWaiters {
    /// Waits for changes of `key`.
    pub fn key(&self, key: Bytes) -> KeyWait {
        let (id, notify) = self.0.borrow_mut().next();
        let waiter = Waiter { id, notify: Rc::clone(&notify) };
        self.0.borrow_mut().keys.entry(key.clone()).or_default().push(waiter);
        KeyWait { waiters: self.clone(), target: Target::Key(key), id, notify }
    }

    /// Waits for changes of keys that begin with `prefix`.
    pub fn prefix(&self, prefix: Bytes) -> KeyWait {
        let (id, notify) = self.0.borrow_mut().next();
        let waiter = Waiter { id, notify: Rc::clone(&notify) };
        self.0.borrow_mut().prefixes.push((prefix, waiter));
        KeyWait { waiters: self.clone(), target: Target::Prefix, id, notify }
    }

    /// Wakes those who wait for a key of this batch.
    pub fn wake(&self, batch: &EventBatch) {
        let table = self.0.borrow();
        if table.keys.is_empty() && table.prefixes.is_empty() {
            return;
        }
        for key in batch.events().iter().map(WatchEvent::key) {
            let of_key = table.keys.get(key).into_iter().flatten();
            of_key.for_each(|waiter| waiter.notify.notify_one());
            for (prefix, waiter) in &table.prefixes {
                if key.starts_with(prefix) {
                    waiter.notify.notify_one();
                }
            }
        }
    }

    /// Wakes all: events were skipped.
    pub fn wake_all(&self) {
        let table = self.0.borrow();
        let prefixes = table.prefixes.iter().map(|(_, waiter)| waiter);
        table.keys.values().flatten().chain(prefixes).for_each(|waiter| waiter.notify.notify_one());
    }
}

impl Table {
    fn next(&mut self) -> (u64, Rc<Notify>) {
        self.next += 1;
        (self.next, Rc::new(Notify::new()))
    }
}

impl KeyWait {
    /// Completes when something has changed since it was made or since this completed last.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for KeyWait {
    fn drop(&mut self) {
        let table = &mut *self.waiters.0.borrow_mut();
        match &self.target {
            Target::Prefix => table.prefixes.retain(|(_, waiter)| waiter.id != self.id),
            Target::Key(key) => {
                let waiters = table.keys.get_mut(key).expect("a wait has an entry");
                waiters.retain(|waiter| waiter.id != self.id);
                if waiters.is_empty() {
                    table.keys.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use varve_api::mvccpb::{Event, KeyValue};

    use super::*;

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn batch(keys: &[&'static str]) -> EventBatch {
        let event = |key: &&'static str| {
            let kv = KeyValue { key: Bytes::from_static(key.as_bytes()), ..KeyValue::default() };
            Event { kv: Some(kv), ..Event::default() }
        };
        EventBatch::new(keys.iter().map(event).collect())
    }

    #[test]
    fn a_wait_is_woken_by_its_own_keys_only_and_remembers_it() {
        let waiters = KeyWaiters::default();
        let key = waiters.key(Bytes::from_static(b"a/1"));
        let prefix = waiters.prefix(Bytes::from_static(b"a/"));
        waiters.wake(&batch(&["b", "a"]));
        assert!(!is_ready(key.changed()) && !is_ready(prefix.changed()));
        waiters.wake(&batch(&["a/2"]));
        assert!(!is_ready(key.changed()) && is_ready(prefix.changed()));
        waiters.wake(&batch(&["a/1"]));
        assert!(is_ready(key.changed()) && is_ready(prefix.changed()));
        assert!(!is_ready(key.changed()));
        waiters.wake_all();
        assert!(is_ready(key.changed()) && is_ready(prefix.changed()));
    }

    #[test]
    fn a_wait_that_ends_leaves_nothing_behind() {
        let waiters = KeyWaiters::default();
        let first = waiters.key(Bytes::from_static(b"a"));
        let second = waiters.key(Bytes::from_static(b"a"));
        drop((waiters.prefix(Bytes::from_static(b"a")), first));
        assert_eq!(waiters.0.borrow().keys.len(), 1);
        drop(second);
        let table = waiters.0.borrow();
        assert!(table.keys.is_empty() && table.prefixes.is_empty());
    }
}
