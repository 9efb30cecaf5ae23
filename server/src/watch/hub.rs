//! Who watches what on one socket thread: the table of streams and watchers, matching a batch of
//! events against it, and writing to the streams.
//!
//! Invariants:
//! - A synced watcher has been sent (or did not match, or filters) every event from its start
//!   revision up to `delivered`; a watcher that is behind, everything below `next_revision`.
//! - Events of one revision are in one response, unless the watcher asked for fragments; then
//!   fragments follow each other with nothing between them.
//! - A watcher that is not synced is in its stream's `behind` set, and nowhere in the match tables.
//!
//! It never reads history; `catch_up` does.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use varve_api::etcdserverpb::WatchResponse;
use varve_store::View;

use super::batch::{EventBatch, WatchEvent};
use super::interval::{End, Intervals};
use super::response;
use crate::cluster::Cluster;
use crate::grpc::{Encoded, Outgoing};

/// What a client asked for when it created a watcher.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// First key.
    pub key: Bytes,
    /// As in requests: empty for one key, one zero byte for no end.
    pub range_end: Bytes,
    /// First revision to deliver.
    pub next_revision: i64,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletes.
    pub no_delete: bool,
    /// Send the replaced value along.
    pub prev_kv: bool,
    /// Large responses may be split.
    pub fragment: bool,
    /// Send the revision now and then when nothing happens.
    pub progress_notify: bool,
}

/// The watchers of one socket thread.
#[derive(Clone)]
pub struct Hub {
    inner: Rc<RefCell<Inner>>,
    view: View,
}

struct Inner {
    cluster: Arc<Cluster>,
    /// Revision up to which this thread has seen batches.
    delivered: i64,
    streams: HashMap<u64, Stream>,
    next_stream: u64,
    watchers: BTreeMap<usize, Watcher>,
    next_watcher: usize,
    by_key: HashMap<Bytes, Vec<usize>>,
    ranges: Intervals,
    fragment_bytes_max: usize,
}

struct Stream {
    outgoing: Outgoing,
    /// Watch id to watcher.
    watchers: BTreeMap<i64, usize>,
    next_id: i64,
    behind: BTreeSet<usize>,
    wake: Rc<Notify>,
}

struct Watcher {
    stream: u64,
    id: i64,
    spec: WatchSpec,
    synced: bool,
    /// No event since the last progress notification was due.
    idle: bool,
    /// Positions of matching events in the batch at hand.
    matched: Vec<usize>,
}

/// A stream's place in the hub; leaving it removes its watchers.
pub struct StreamHandle {
    hub: Hub,
    id: u64,
    /// Notified when a watcher of the stream falls behind.
    pub wake: Rc<Notify>,
}

/// The next watcher that must read history, and from where.
pub struct Behind {
    /// Which one.
    pub watcher: usize,
    /// What it wants, with `next_revision` where it stands.
    pub spec: WatchSpec,
}

impl Hub {
    /// An empty hub; events up to the view's revision count as delivered.
    pub fn new(cluster: Arc<Cluster>, view: View, fragment_bytes_max: usize) -> Self {
        let inner = Inner {
            cluster,
            delivered: view.revision(),
            streams: HashMap::new(),
            next_stream: 0,
            watchers: BTreeMap::new(),
            next_watcher: 0,
            by_key: HashMap::new(),
            ranges: Intervals::default(),
            fragment_bytes_max,
        };
        Self { inner: Rc::new(RefCell::new(inner)), view }
    }

    /// Adds a stream.
    pub fn open(&self, outgoing: Outgoing) -> StreamHandle {
        let mut inner = self.inner.borrow_mut();
        let id = inner.next_stream;
        inner.next_stream += 1;
        let wake = Rc::new(Notify::new());
        inner.streams.insert(
            id,
            Stream {
                outgoing,
                watchers: BTreeMap::new(),
                next_id: 0,
                behind: BTreeSet::new(),
                wake: Rc::clone(&wake),
            },
        );
        StreamHandle { hub: self.clone(), id, wake }
    }

    /// Sends a batch to the synced watchers that it concerns.
    pub fn deliver(&self, batch: &EventBatch) {
        let inner = &mut *self.inner.borrow_mut();
        let touched = inner.matching(batch);
        let mut last: Option<Shared> = None;
        for key in touched {
            inner.send_matched(key, batch, &self.view, &mut last);
        }
        inner.delivered = inner.delivered.max(batch.revision());
    }

    /// Batches up to `revision` were skipped: every watcher reads history.
    pub fn resync(&self, revision: i64) {
        let inner = &mut *self.inner.borrow_mut();
        let synced: Vec<usize> = inner
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.synced)
            .map(|(key, _)| *key)
            .collect();
        for key in synced {
            inner.fall_behind(key);
        }
        inner.delivered = inner.delivered.max(revision);
    }

    /// Tells idle watchers that asked for it how far they are.
    pub fn notify_progress(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let revision = inner.delivered;
        for watcher in inner.watchers.values_mut() {
            if !watcher.spec.progress_notify || !watcher.synced {
                continue;
            }
            if watcher.idle
                && let Some(stream) = inner.streams.get(&watcher.stream)
            {
                let _ = stream.outgoing.try_send(progress(&inner.cluster, revision, watcher.id));
            }
            watcher.idle = true;
        }
    }

    /// Number of watchers and of streams, for metrics.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.inner.borrow();
        (inner.watchers.len(), inner.streams.len())
    }

    /// The cluster's numbers.
    pub fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.inner.borrow().cluster)
    }

    /// What reads go to.
    pub fn view(&self) -> &View {
        &self.view
    }
}

impl StreamHandle {
    /// Adds a watcher under `id`, or under the next free one; `None` if the id is taken.
    pub fn create(&self, id: Option<i64>, spec: WatchSpec) -> Option<i64> {
        let inner = &mut *self.hub.inner.borrow_mut();
        let stream = inner.streams.get_mut(&self.id)?;
        let id = match id {
            Some(id) if stream.watchers.contains_key(&id) => return None,
            Some(id) => id,
            None => {
                while stream.watchers.contains_key(&stream.next_id) {
                    stream.next_id += 1;
                }
                stream.next_id += 1;
                stream.next_id - 1
            }
        };
        let key = inner.next_watcher;
        inner.next_watcher += 1;
        stream.watchers.insert(id, key);
        let synced = spec.next_revision > inner.delivered;
        let watcher =
            Watcher { stream: self.id, id, spec, synced: false, idle: false, matched: Vec::new() };
        inner.watchers.insert(key, watcher);
        if synced {
            inner.become_synced(key);
        } else {
            inner.fall_behind(key);
        }
        Some(id)
    }

    /// Removes a watcher; whether it was there.
    pub fn cancel(&self, id: i64) -> bool {
        let inner = &mut *self.hub.inner.borrow_mut();
        let Some(stream) = inner.streams.get_mut(&self.id) else { return false };
        let Some(key) = stream.watchers.remove(&id) else { return false };
        inner.forget(key);
        true
    }

    /// A progress response for the whole stream, if it has watchers and all of them are synced.
    pub fn progress(&self) -> Option<Encoded> {
        let inner = self.hub.inner.borrow();
        let stream = inner.streams.get(&self.id)?;
        if stream.watchers.is_empty() || !stream.behind.is_empty() {
            return None;
        }
        Some(progress(&inner.cluster, inner.delivered, -1))
    }

    /// A watcher of this stream that is behind: the one that has waited longest after `previous`.
    pub fn next_behind(&self, previous: usize) -> Option<Behind> {
        let inner = self.hub.inner.borrow();
        let behind = &inner.streams.get(&self.id)?.behind;
        let watcher = *behind.range(previous + 1..).next().or_else(|| behind.first())?;
        Some(Behind { watcher, spec: inner.watchers.get(&watcher)?.spec.clone() })
    }

    /// Queues events read from the history, complete up to `through`; the watcher is synced again
    /// if that is as far as this thread is. False if there was no room: nothing has changed then.
    pub fn send_history(&self, watcher: usize, events: &[WatchEvent], through: i64) -> bool {
        let inner = &mut *self.hub.inner.borrow_mut();
        let Some(state) = inner.watchers.get(&watcher) else { return true };
        let wanted = events.iter().filter(|event| state.wants(event));
        let encoded: Vec<Bytes> = wanted.map(|event| state.encode(event, &self.hub.view)).collect();
        if !encoded.is_empty() {
            let Some(stream) = inner.streams.get(&self.id) else { return true };
            let pieces = if state.spec.fragment {
                response::fragments(&encoded, inner.fragment_bytes_max)
            } else {
                vec![encoded.as_slice()]
            };
            if !send_pieces(&inner.cluster, &stream.outgoing, state.id, through, &pieces) {
                return false;
            }
        }
        let delivered = inner.delivered;
        if let Some(state) = inner.watchers.get_mut(&watcher) {
            state.idle &= encoded.is_empty();
            state.spec.next_revision = through + 1;
            if state.spec.next_revision > delivered {
                inner.become_synced(watcher);
            }
        }
        true
    }

    /// Ends a watcher whose history was compacted away.
    pub fn cancel_compacted(&self, watcher: usize, compacted: i64) {
        let inner = &mut *self.hub.inner.borrow_mut();
        let Some(state) = inner.watchers.get(&watcher) else { return };
        let Some(stream) = inner.streams.get_mut(&self.id) else { return };
        stream.watchers.remove(&state.id);
        // etcd's header carries no revision here.
        let response = WatchResponse {
            header: Some(inner.cluster.header(0)),
            watch_id: state.id,
            canceled: true,
            compact_revision: compacted,
            ..WatchResponse::default()
        };
        let _ = stream.outgoing.try_send(response::control(&response));
        inner.forget(watcher);
    }

    /// The hub.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let inner = &mut *self.hub.inner.borrow_mut();
        if let Some(stream) = inner.streams.remove(&self.id) {
            for key in stream.watchers.into_values() {
                inner.forget(key);
            }
        }
    }
}

/// The last response that was built, for watchers that get the same bytes.
struct Shared {
    watch_id: i64,
    prev_kv: bool,
    matched: Vec<usize>,
    response: Encoded,
}

impl Inner {
    /// Notes for each synced watcher which events concern it; who has any, in order of creation.
    fn matching(&mut self, batch: &EventBatch) -> Vec<usize> {
        let mut touched = Vec::new();
        for (position, event) in batch.events().iter().enumerate() {
            let watchers = &mut self.watchers;
            let mut note = |key: usize| {
                let Some(watcher) = watchers.get_mut(&key) else { return };
                if watcher.wants(event) {
                    if watcher.matched.is_empty() {
                        touched.push(key);
                    }
                    watcher.matched.push(position);
                }
            };
            for key in self.by_key.get(event.key()).into_iter().flatten() {
                note(*key);
            }
            self.ranges.containing(event.key(), note);
        }
        touched.sort_unstable();
        touched
    }

    fn send_matched(
        &mut self,
        key: usize,
        batch: &EventBatch,
        view: &View,
        last: &mut Option<Shared>,
    ) {
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        let Some(stream) = self.streams.get(&watcher.stream) else { return };
        let matched = std::mem::take(&mut watcher.matched);
        watcher.idle = false;
        let prev_kv = watcher.spec.prev_kv;
        let same = last.as_ref().filter(|shared| {
            shared.watch_id == watcher.id && shared.prev_kv == prev_kv && shared.matched == matched
        });
        let sent = if let Some(shared) = same {
            stream.outgoing.try_send(shared.response.clone()).is_ok()
        } else {
            let events: Vec<Bytes> = matched
                .iter()
                .map(|position| watcher.encode(&batch.events()[*position], view))
                .collect();
            let bytes: usize = events.iter().map(Bytes::len).sum();
            if watcher.spec.fragment && bytes > self.fragment_bytes_max {
                let pieces = response::fragments(&events, self.fragment_bytes_max);
                send_pieces(&self.cluster, &stream.outgoing, watcher.id, batch.revision(), &pieces)
            } else {
                let revision = batch.revision();
                let response =
                    response::events(&self.cluster, revision, watcher.id, false, &events);
                let sent = stream.outgoing.try_send(response.clone()).is_ok();
                *last = Some(Shared { watch_id: watcher.id, prev_kv, matched, response });
                sent
            }
        };
        if !sent {
            self.fall_behind(key);
        }
    }

    /// From now on the watcher takes events from batches.
    fn become_synced(&mut self, key: usize) {
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        watcher.synced = true;
        let WatchSpec { key: start, range_end, .. } = watcher.spec.clone();
        if let Some(stream) = self.streams.get_mut(&watcher.stream) {
            stream.behind.remove(&key);
        }
        match end_of(&range_end) {
            None => self.by_key.entry(start).or_default().push(key),
            Some(end) => self.ranges.insert(start, end, key),
        }
    }

    /// From now on the watcher reads history, from where it stands.
    fn fall_behind(&mut self, key: usize) {
        self.unmatch(key);
        let delivered = self.delivered;
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        if watcher.synced {
            watcher.synced = false;
            watcher.spec.next_revision = watcher.spec.next_revision.max(delivered + 1);
        }
        if let Some(stream) = self.streams.get_mut(&watcher.stream) {
            stream.behind.insert(key);
            stream.wake.notify_one();
        }
    }

    /// Takes a synced watcher out of the match tables.
    fn unmatch(&mut self, key: usize) {
        let Some(watcher) = self.watchers.get(&key) else { return };
        if !watcher.synced {
            return;
        }
        if end_of(&watcher.spec.range_end).is_some() {
            self.ranges.remove(key);
        } else if let Some(keys) = self.by_key.get_mut(&watcher.spec.key) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_key.remove(&watcher.spec.key);
            }
        }
    }

    fn forget(&mut self, key: usize) {
        self.unmatch(key);
        if let Some(watcher) = self.watchers.remove(&key)
            && let Some(stream) = self.streams.get_mut(&watcher.stream)
        {
            stream.behind.remove(&key);
        }
    }
}

impl Watcher {
    fn wants(&self, event: &WatchEvent) -> bool {
        event.revision() >= self.spec.next_revision
            && !(if event.is_delete() { self.spec.no_delete } else { self.spec.no_put })
    }

    fn encode(&self, event: &WatchEvent, view: &View) -> Bytes {
        if self.spec.prev_kv {
            event.encoded_with_previous(view).clone()
        } else {
            event.encoded().clone()
        }
    }
}

/// Queues all pieces or none; all but the last say that more follows.
fn send_pieces(
    cluster: &Cluster,
    outgoing: &Outgoing,
    watch_id: i64,
    revision: i64,
    pieces: &[&[Bytes]],
) -> bool {
    for (at, piece) in pieces.iter().enumerate() {
        let more = at + 1 < pieces.len();
        let response = response::events(cluster, revision, watch_id, more, piece);
        if at > 0 {
            // The first had room; the rest belongs to it and is bounded by one batch.
            outgoing.append(response);
        } else if outgoing.try_send(response).is_err() {
            return false;
        }
    }
    true
}

fn progress(cluster: &Cluster, revision: i64, watch_id: i64) -> Encoded {
    response::control(&WatchResponse {
        header: Some(cluster.header(revision)),
        watch_id,
        ..WatchResponse::default()
    })
}

/// `None` for a single key.
fn end_of(range_end: &Bytes) -> Option<End> {
    match range_end.as_ref() {
        [] => None,
        [0] => Some(End::Never),
        _ => Some(End::Before(range_end.clone())),
    }
}
