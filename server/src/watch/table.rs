//! The table of streams and watchers of one socket thread. `send` matches batches of events against
//! it and writes to the streams.
//!
//! Invariants:
//! - A synced watcher has been sent (or did not match, or filters) every event from its start
//!   revision up to `delivered`; a watcher that is behind, everything below `next_revision`, which
//!   never goes back.
//! - Events of one revision are in one response, unless the watcher asked for fragments; then
//!   fragments follow each other with nothing between them.
//! - A watcher that is not synced is in its stream's `behind` set, and nowhere in the match tables.
//! - A stream holds at most its bound in bytes, or one response beyond it, and small answers to
//!   its client's requests, which are taken only while there is room.

mod send;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use varve_api::Status;
use varve_api::etcdserverpb::WatchResponse;
use varve_disk::trial;
use varve_store::View;

use self::send::send_pieces;
use super::batch::{EventBatch, WatchEvent};
use super::hub::{Behind, NoRoom, WatchSpec, progress};
use super::interval::{End, Intervals};
use super::response;
use crate::cluster::Cluster;
use crate::grpc::Outgoing;

/// See the head of the file.
pub(super) struct Table {
    cluster: Arc<Cluster>,
    /// Revision up to which this thread has seen batches.
    delivered: i64,
    streams: HashMap<u64, Stream>,
    /// The sum of all streams' `behind`.
    behind: usize,
    next_stream: u64,
    watchers: BTreeMap<usize, Watcher>,
    next_watcher: usize,
    by_key: HashMap<Bytes, Vec<usize>>,
    ranges: Intervals,
    /// Streams whose `progress_wanted` is set.
    wanting_progress: BTreeSet<u64>,
    fragment_bytes_max: usize,
}

struct Stream {
    outgoing: Outgoing,
    /// Watch id to watcher.
    watchers: BTreeMap<i64, usize>,
    next_id: i64,
    behind: BTreeSet<usize>,
    wake: Rc<Notify>,
    /// The client asked for progress when the state machine was at this revision.
    progress_wanted: Option<i64>,
}

struct Watcher {
    stream: u64,
    id: i64,
    spec: WatchSpec,
    synced: bool,
    /// No event since the last progress notification was due, or since the start.
    idle: bool,
    /// Positions of matching events in the batch at hand.
    matched: Vec<usize>,
}

impl Table {
    pub(super) fn new(cluster: Arc<Cluster>, delivered: i64, fragment_bytes_max: usize) -> Self {
        Self {
            cluster,
            delivered,
            streams: HashMap::new(),
            behind: 0,
            next_stream: 0,
            watchers: BTreeMap::new(),
            next_watcher: 0,
            by_key: HashMap::new(),
            ranges: Intervals::default(),
            wanting_progress: BTreeSet::new(),
            fragment_bytes_max,
        }
    }

    /// Watchers, streams, and watchers that are behind.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.watchers.len(), self.streams.len(), self.behind)
    }

    pub(super) fn open(&mut self, outgoing: Outgoing, wake: Rc<Notify>) -> u64 {
        let id = self.next_stream;
        self.next_stream += 1;
        let stream = Stream {
            outgoing,
            watchers: BTreeMap::new(),
            next_id: 0,
            behind: BTreeSet::new(),
            wake,
            progress_wanted: None,
        };
        self.streams.insert(id, stream);
        id
    }

    pub(super) fn close(&mut self, stream: u64) {
        self.wanting_progress.remove(&stream);
        let Some(stream) = self.streams.remove(&stream) else { return };
        self.behind -= stream.behind.len();
        for key in stream.watchers.into_values() {
            self.unmatch(key);
            self.watchers.remove(&key);
        }
    }

    /// Adds a watcher that gets nothing yet; `None` if the id is taken.
    pub(super) fn add(&mut self, stream: u64, id: Option<i64>, spec: WatchSpec) -> Option<usize> {
        let key = self.next_watcher;
        let watchers = self.streams.get_mut(&stream)?;
        let id = watchers.take_id(id)?;
        watchers.watchers.insert(id, key);
        self.next_watcher += 1;
        let watcher = Watcher { stream, id, spec, synced: false, idle: true, matched: Vec::new() };
        self.watchers.insert(key, watcher);
        Some(key)
    }

    /// From now on a watcher gets events: from history, if it wants any of those up to the present
    /// revision. (What of it still waits in the mailbox may be compacted already.)
    pub(super) fn start(&mut self, key: usize, present: i64) {
        let Some(watcher) = self.watchers.get(&key) else { return };
        if watcher.spec.next_revision > present.max(self.delivered) {
            self.become_synced(key);
        } else {
            self.fall_behind(key);
        }
    }

    pub(super) fn watch_id(&self, key: usize) -> i64 {
        self.watchers.get(&key).map_or(-1, |watcher| watcher.id)
    }

    /// Removes a watcher by its id on a stream; whether there was one.
    pub(super) fn cancel(&mut self, stream: u64, id: i64) -> bool {
        let key = self.streams.get(&stream).and_then(|stream| stream.watchers.get(&id));
        key.copied().and_then(|key| self.remove(key)).is_some()
    }

    /// Removes a watcher; the id that it had.
    pub(super) fn remove(&mut self, key: usize) -> Option<i64> {
        self.unmatch(key);
        let watcher = self.watchers.remove(&key)?;
        if let Some(stream) = self.streams.get_mut(&watcher.stream) {
            stream.watchers.remove(&watcher.id);
            self.behind -= usize::from(stream.behind.remove(&key));
        }
        Some(watcher.id)
    }

    /// Queues an answer to a request of the client, behind everything that it must not overtake.
    pub(super) fn reply(&self, stream: u64, response: &WatchResponse) {
        if let Some(stream) = self.streams.get(&stream) {
            stream.outgoing.append(response::control(response));
        }
    }

    pub(super) fn deliver(&mut self, batch: &EventBatch, view: &View) {
        self.send_batch(batch, view);
        self.advance(batch.revision());
    }

    pub(super) fn resync(&mut self, revision: i64) {
        let synced = self.watchers.iter().filter(|(_, watcher)| watcher.synced);
        let synced: Vec<usize> = synced.map(|(key, _)| *key).collect();
        for key in synced {
            self.fall_behind(key);
        }
        self.advance(revision);
    }

    fn advance(&mut self, revision: i64) {
        self.delivered = self.delivered.max(revision);
        if !self.wanting_progress.is_empty() {
            let wanting: Vec<u64> = self.wanting_progress.iter().copied().collect();
            wanting.into_iter().for_each(|stream| self.tell_progress(stream));
        }
    }

    pub(super) fn notify_progress(&mut self) {
        let revision = self.delivered;
        for watcher in self.watchers.values_mut() {
            if !watcher.spec.progress_notify || !watcher.has_all_up_to(revision) {
                continue;
            }
            if watcher.idle
                && let Some(stream) = self.streams.get(&watcher.stream)
            {
                // Without room there is something else to read.
                let _ = stream.outgoing.try_send(progress(&self.cluster, revision, watcher.id));
            }
            watcher.idle = true;
        }
    }

    pub(super) fn request_progress(&mut self, stream: u64, revision: i64) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.progress_wanted = Some(revision);
            self.wanting_progress.insert(stream);
            self.tell_progress(stream);
        }
    }

    /// Tells a stream the progress that its client asked for, if it is time. Also to be called
    /// when a watcher has left, behind the word that it has ended.
    pub(super) fn tell_progress(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(wanted) = stream.progress_wanted else { return };
        if self.delivered < wanted || !stream.behind.is_empty() {
            trial::reach("progress asked for and not there yet");
            return;
        }
        stream.progress_wanted = None;
        self.wanting_progress.remove(&id);
        let watchers = &self.watchers;
        let mut of_stream = stream.watchers.values().filter_map(|key| watchers.get(key));
        let is_complete = of_stream.all(|watcher| watcher.has_all_up_to(self.delivered));
        if is_complete && !stream.watchers.is_empty() {
            stream.outgoing.append(progress(&self.cluster, self.delivered, -1));
        }
    }

    pub(super) fn next_behind(&self, stream: u64, previous: usize) -> Option<Behind> {
        let behind = &self.streams.get(&stream)?.behind;
        let watcher = *behind.range(previous + 1..).next().or_else(|| behind.first())?;
        Some(Behind { watcher, spec: self.watchers.get(&watcher)?.spec.clone() })
    }

    pub(super) fn send_history(
        &mut self,
        key: usize,
        events: &[WatchEvent],
        through: i64,
        view: &View,
    ) -> Result<Result<(), NoRoom>, Status> {
        let Some(watcher) = self.watchers.get_mut(&key) else { return Ok(Ok(())) };
        let Some(stream) = self.streams.get(&watcher.stream) else { return Ok(Ok(())) };
        assert!(!watcher.synced, "history for a watcher that takes events from batches");
        let wanted = events.iter().filter(|event| watcher.wants(event));
        let encoded: Vec<Bytes> =
            wanted.map(|event| watcher.encode(event, view)).collect::<Result<_, _>>()?;
        if !encoded.is_empty() {
            let bytes_max =
                response::piece_bytes_max(watcher.spec.fragment, self.fragment_bytes_max);
            let pieces = response::fragments(&encoded, bytes_max);
            let sent = send_pieces(&self.cluster, &stream.outgoing, watcher.id, through, &pieces);
            if let Err(no_room) = sent {
                return Ok(Err(no_room));
            }
            watcher.idle = false;
        }
        // A watcher of the future stays one: what is behind it is not its past.
        watcher.spec.next_revision = watcher.spec.next_revision.max(through.saturating_add(1));
        if watcher.spec.next_revision > self.delivered || trial::has_bug("handed-over-early") {
            self.become_synced(key);
        } else {
            trial::reach("watcher behind after a piece of history");
        }
        Ok(Ok(()))
    }

    /// From now on the watcher takes events from batches.
    fn become_synced(&mut self, key: usize) {
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        watcher.synced = true;
        let (start, end) = (watcher.spec.key.clone(), end_of(&watcher.spec.range_end));
        match end {
            None => self.by_key.entry(start).or_default().push(key),
            Some(end) => self.ranges.insert(start, end, key),
        }
        let id = watcher.stream;
        if let Some(stream) = self.streams.get_mut(&id) {
            self.behind -= usize::from(stream.behind.remove(&key));
        }
        self.tell_progress(id);
    }

    /// From now on the watcher reads history, from where it stands.
    fn fall_behind(&mut self, key: usize) {
        self.unmatch(key);
        let delivered = self.delivered;
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        if watcher.synced {
            watcher.synced = false;
            let next = delivered + i64::from(!trial::has_bug("resumed-twice"));
            watcher.spec.next_revision = watcher.spec.next_revision.max(next);
        }
        if let Some(stream) = self.streams.get_mut(&watcher.stream) {
            self.behind += usize::from(stream.behind.insert(key));
            stream.wake.notify_one();
        }
    }

    /// Takes a synced watcher out of the match tables.
    fn unmatch(&mut self, key: usize) {
        let Some(watcher) = self.watchers.get(&key).filter(|watcher| watcher.synced) else {
            return;
        };
        if end_of(&watcher.spec.range_end).is_some() {
            self.ranges.remove(key);
        } else if let Some(keys) = self.by_key.get_mut(&watcher.spec.key) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_key.remove(&watcher.spec.key);
            }
        }
    }
}

impl Stream {
    /// The wanted id, or the next free one; `None` if it is taken.
    fn take_id(&mut self, wanted: Option<i64>) -> Option<i64> {
        if let Some(id) = wanted {
            return (!self.watchers.contains_key(&id)).then_some(id);
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }
}

impl Watcher {
    fn wants(&self, event: &WatchEvent) -> bool {
        event.revision() >= self.spec.next_revision
            && !(if event.is_delete() { self.spec.no_delete } else { self.spec.no_put })
    }

    fn encode(&self, event: &WatchEvent, view: &View) -> Result<Bytes, Status> {
        let encoded =
            if self.spec.prev_kv { event.encoded_with_previous(view)? } else { event.encoded() };
        Ok(encoded.clone())
    }

    /// Whether its client may be told that it has got everything up to `revision`.
    fn has_all_up_to(&self, revision: i64) -> bool {
        (self.synced || trial::has_bug("progress-ahead")) && self.spec.progress_from <= revision
    }
}

/// `None` for a single key.
fn end_of(range_end: &Bytes) -> Option<End> {
    match range_end.as_ref() {
        [] => None,
        [0] => Some(End::Never),
        _ => Some(End::Before(range_end.clone())),
    }
}
