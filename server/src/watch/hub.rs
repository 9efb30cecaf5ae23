//! Who watches what on one socket thread, as its callers see it: streams come and go, watchers are
//! created and canceled on them, batches of events arrive, history is read for those behind.
//!
//! One idea: all of it happens on one thread and each call is a step that nothing can come between,
//! so a watcher is always either synced up to `delivered` or behind from its `next_revision`.
//!
//! Invariants: those of `table`, and:
//! - What answers a request of a client is queued in the same step that changes the table. So the
//!   word "created" is in front of the watcher's first event, and behind "canceled" there is none.
//! - Progress of a stream is told only when all its watchers have got everything up to the revision
//!   that it tells. (etcd issue 15220)
//!
//! It never reads history; `catch_up` does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use varve_api::Status;
use varve_api::etcdserverpb::WatchResponse;
use varve_store::View;

use super::batch::{EventBatch, WatchEvent};
use super::response;
use super::table::Table;
use crate::cluster::Cluster;
use crate::grpc::Outgoing;
use crate::metrics::Metrics;

/// What a client asked for when it created a watcher.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// First key.
    pub key: Bytes,
    /// As in requests: empty for one key, one zero byte for no end.
    pub range_end: Bytes,
    /// First revision to deliver.
    pub next_revision: i64,
    /// Progress below this revision is not told: the client asked for later events only, or knows
    /// this revision already. (etcd issue 20221)
    pub progress_from: i64,
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
    table: Rc<RefCell<Table>>,
    cluster: Arc<Cluster>,
    view: View,
    counted: Rc<Counted>,
}

/// What of this thread's watchers and streams is in the sums of all threads.
#[derive(Default)]
struct Counted {
    metrics: Option<Arc<Metrics>>,
    so_far: Cell<(usize, usize, usize)>,
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

/// The id is another watcher's of the same stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdTaken;

/// There was no room in the stream for a message of so many bytes; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// Bytes that must be free.
    pub bytes: usize,
}

impl Hub {
    /// An empty hub; events up to the view's revision count as delivered.
    pub fn new(cluster: Arc<Cluster>, view: View, fragment_bytes_max: usize) -> Self {
        let table = Table::new(Arc::clone(&cluster), view.revision(), fragment_bytes_max);
        Self { table: Rc::new(RefCell::new(table)), cluster, view, counted: Rc::default() }
    }

    /// The same with its watchers and streams counted in `metrics`.
    pub fn counted_in(mut self, metrics: Arc<Metrics>) -> Self {
        self.counted = Rc::new(Counted { metrics: Some(metrics), so_far: Cell::default() });
        self
    }

    /// Brings the sums up to date.
    fn count(&self) {
        let Some(metrics) = &self.counted.metrics else { return };
        let now = self.counts();
        let before = self.counted.so_far.replace(now);
        metrics.watchers.add(now.0 as i64 - before.0 as i64);
        metrics.watch_streams.add(now.1 as i64 - before.1 as i64);
        metrics.slow_watchers.add(now.2 as i64 - before.2 as i64);
    }

    /// Adds a stream.
    pub fn open(&self, outgoing: Outgoing) -> StreamHandle {
        let wake = Rc::new(Notify::new());
        let id = self.table.borrow_mut().open(outgoing, Rc::clone(&wake));
        self.count();
        StreamHandle { hub: self.clone(), id, wake }
    }

    /// Sends a batch to the synced watchers that it concerns.
    pub fn deliver(&self, batch: &EventBatch) {
        self.table.borrow_mut().deliver(batch, &self.view);
    }

    /// Batches up to `revision` were skipped: every watcher reads history.
    pub fn resync(&self, revision: i64) {
        self.table.borrow_mut().resync(revision);
        self.count();
    }

    /// Tells idle watchers that asked for it how far they are.
    pub fn notify_progress(&self) {
        self.table.borrow_mut().notify_progress();
    }

    /// Number of watchers, of streams, and of watchers that read history, for metrics.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.table.borrow().counts()
    }

    /// The cluster's numbers.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// What reads go to.
    pub fn view(&self) -> &View {
        &self.view
    }
}

impl StreamHandle {
    /// Adds a watcher under `id`, or under the next free one, and queues `created` with it.
    ///
    /// # Errors
    /// The id is taken; nothing is queued.
    pub fn create(
        &self,
        id: Option<i64>,
        spec: WatchSpec,
        created: WatchResponse,
    ) -> Result<i64, IdTaken> {
        let mut table = self.hub.table.borrow_mut();
        let watcher = table.add(self.id, id, spec).ok_or(IdTaken)?;
        let watch_id = table.watch_id(watcher);
        table.reply(self.id, &WatchResponse { watch_id, ..created });
        table.start(watcher, self.hub.view.revision());
        drop(table);
        self.hub.count();
        Ok(watch_id)
    }

    /// Removes a watcher and queues `canceled`; does nothing when there is none with this id.
    pub fn cancel(&self, id: i64, canceled: &WatchResponse) {
        let mut table = self.hub.table.borrow_mut();
        if table.cancel(self.id, id) {
            table.reply(self.id, canceled);
            table.tell_progress(self.id);
        }
        drop(table);
        self.hub.count();
    }

    /// Queues a response that changes nothing.
    pub fn reply(&self, response: &WatchResponse) {
        self.hub.table.borrow_mut().reply(self.id, response);
    }

    /// Tells the stream's progress, up to the present revision or later, as soon as all its
    /// watchers are there. Without watchers, or with one of the future, nothing is told (as in
    /// etcd).
    pub fn request_progress(&self) {
        let revision = self.hub.view.revision();
        self.hub.table.borrow_mut().request_progress(self.id, revision);
    }

    /// A watcher of this stream that is behind: the one that has waited longest after `previous`.
    pub fn next_behind(&self, previous: usize) -> Option<Behind> {
        self.hub.table.borrow().next_behind(self.id, previous)
    }

    /// Queues events read from the history, complete up to `through`; the watcher is synced again
    /// if that is as far as this thread is.
    ///
    /// # Errors
    /// A previous value cannot be read; and within, there was no room.
    pub fn send_history(
        &self,
        watcher: usize,
        events: &[WatchEvent],
        through: i64,
    ) -> Result<Result<(), NoRoom>, Status> {
        let mut table = self.hub.table.borrow_mut();
        let sent = table.send_history(watcher, events, through, &self.hub.view);
        drop(table);
        self.hub.count();
        sent
    }

    /// Ends a watcher whose history was compacted away.
    pub fn cancel_compacted(&self, watcher: usize, compacted: i64) {
        let mut table = self.hub.table.borrow_mut();
        let Some(id) = table.remove(watcher) else { return };
        // etcd's header carries no revision here.
        let response = WatchResponse {
            header: Some(self.hub.cluster.header(0)),
            watch_id: id,
            canceled: true,
            compact_revision: compacted,
            ..WatchResponse::default()
        };
        table.reply(self.id, &response);
        table.tell_progress(self.id);
        drop(table);
        self.hub.count();
    }

    /// The hub.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.hub.table.borrow_mut().close(self.id);
        self.hub.count();
    }
}

/// A response without events that tells a revision.
pub(super) fn progress(cluster: &Cluster, revision: i64, watch_id: i64) -> crate::grpc::Encoded {
    response::control(&WatchResponse {
        header: Some(cluster.header(revision)),
        watch_id,
        ..WatchResponse::default()
    })
}
