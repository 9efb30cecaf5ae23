//! A state machine, one socket thread's hub, a mailbox between them, and streams with clients.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use varve_api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchResponse,
    request_op,
};
use varve_api::mvccpb::event::EventType;
use varve_disk::sim::SimDisk;
use varve_lsm::{Db, Options, Work};
use varve_store::{Command, CommandKind, Founding, Member, RequestId, Store, encode_batch};

use super::client::{Client, Watched};
use crate::cluster::Cluster;
use crate::grpc::Outgoing;
use crate::watch::batch::EventBatch;
use crate::watch::catch_up::{self, Bounds};
use crate::watch::hub::{Hub, IdTaken, StreamHandle, WatchSpec};

pub const FRAGMENT_BYTES_MAX: usize = 600;
/// Small, so that clients are often too slow.
const STREAM_BYTES_MAX: usize = 2_000;
const BOUNDS: Bounds = Bounds { revisions_max: 7, bytes_target: 300 };
/// Turns of the executor after which nothing more will happen by itself.
const TURNS_QUIET: usize = 20;

/// What happened to one key.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: i64,
    pub key: Bytes,
    /// `None` for a deletion.
    pub value: Option<Bytes>,
    pub previous: Option<Bytes>,
}

impl Change {
    pub fn is_delete(&self) -> bool {
        self.value.is_none()
    }
}

enum Posted {
    Events(EventBatch),
    Resync(i64),
}

pub struct World {
    pub store: Store,
    db: Db,
    pub hub: Hub,
    cluster: Arc<Cluster>,
    mailbox: VecDeque<Posted>,
    /// Batches are being lost, until there is room to say so.
    is_lost: bool,
    pub model: Vec<Change>,
    live: BTreeMap<Bytes, Bytes>,
    pub streams: Vec<Stream>,
}

pub struct Stream {
    handle: Rc<StreamHandle>,
    pub client: Client,
    catch_up: tokio::task::JoinHandle<()>,
    /// How often the task of `catch_up` was woken.
    pub polls: Rc<Cell<u64>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.catch_up.abort();
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::on(Arc::new(SimDisk::new(seed)))
    }

    /// What is on this disk, or nothing yet.
    pub fn on(disk: Arc<SimDisk>) -> Self {
        let (db, writer) = Db::open(disk, Path::new("/engine"), Options::default()).unwrap();
        let member = Member {
            id: 1,
            name: "one".into(),
            peer_urls: vec!["http://one:2380".into()],
            client_urls: Vec::new(),
            is_learner: false,
        };
        let founding = Founding { cluster_id: 1, members: vec![member] };
        let store = Store::open(db.clone(), writer, &founding).unwrap();
        let cluster = Arc::new(Cluster::new(1, 1));
        let hub = Hub::new(Arc::clone(&cluster), store.view(), FRAGMENT_BYTES_MAX);
        Self {
            store,
            db,
            hub,
            cluster,
            mailbox: VecDeque::new(),
            is_lost: false,
            model: Vec::new(),
            live: BTreeMap::new(),
            streams: Vec::new(),
        }
    }

    pub fn revision(&self) -> i64 {
        self.store.view().revision()
    }

    pub fn compacted(&self) -> i64 {
        self.store.view().compacted()
    }

    /// Applies one entry; `has_room` says whether the mailbox takes what comes of it.
    pub fn apply(&mut self, commands: &[Command], has_room: bool) {
        let index = self.store.applied().index + 1;
        let applied = self.store.apply(index, 1, &encode_batch(commands)).unwrap();
        for event in &applied.events {
            let kv = event.kv.clone().expect("an event has a key");
            let value = (event.r#type() == EventType::Put).then_some(kv.value);
            let previous = match &value {
                Some(value) => self.live.insert(kv.key.clone(), value.clone()),
                None => self.live.remove(&kv.key),
            };
            let change = Change { revision: kv.mod_revision, key: kv.key, value, previous };
            self.model.push(change);
        }
        if applied.events.is_empty() {
            return;
        }
        let batch = EventBatch::new(applied.events);
        match (has_room, self.is_lost) {
            (true, false) => self.mailbox.push_back(Posted::Events(batch)),
            (true, true) => self.post_resync(),
            (false, _) => self.is_lost = true,
        }
    }

    /// What the apply thread does when it is idle, or has installed a snapshot.
    pub fn post_resync(&mut self) {
        let revision = self.revision();
        self.mailbox.push_back(Posted::Resync(revision));
        self.is_lost = false;
    }

    pub fn put(&mut self, key: &str, value: &str) {
        self.apply(&[put(key.as_bytes(), value.as_bytes())], true);
    }

    pub fn delete(&mut self, key: &str, range_end: &str) {
        self.apply(&[delete(key.as_bytes(), range_end.as_bytes())], true);
    }

    pub fn compact(&mut self, revision: i64) {
        self.apply(&[compact(revision)], true);
        self.work();
    }

    /// Lets the engine throw away what is compacted.
    pub fn work(&mut self) {
        self.store.freeze().unwrap();
        while self.db.work().unwrap() != Work::Idle {}
    }

    /// The socket thread takes up to `count` items out of its mailbox.
    pub fn deliver(&mut self, count: usize) {
        for posted in self.mailbox.drain(..count.min(self.mailbox.len())) {
            match posted {
                Posted::Events(batch) => self.hub.deliver(&batch),
                Posted::Resync(revision) => self.hub.resync(revision),
            }
        }
    }

    pub fn open(&mut self) -> usize {
        let outgoing = Outgoing::new(STREAM_BYTES_MAX);
        let handle = Rc::new(self.hub.open(outgoing.clone()));
        let (stream, room) = (Rc::clone(&handle), outgoing.clone());
        let polls = Rc::new(Cell::new(0));
        let counter = Rc::clone(&polls);
        let catch_up = tokio::task::spawn_local(async move {
            let mut running = pin!(catch_up::run(&stream, &room, BOUNDS));
            let ended = poll_fn(|context| {
                counter.set(counter.get() + 1);
                running.as_mut().poll(context)
            });
            ended.await.unwrap();
        });
        self.streams.push(Stream { handle, client: Client::new(outgoing), catch_up, polls });
        self.streams.len() - 1
    }

    /// Creates a watcher as the service does; `start_revision` 0 is from now on.
    pub fn watch(
        &mut self,
        stream: usize,
        id: Option<i64>,
        start_revision: i64,
        spec: WatchSpec,
    ) -> Result<i64, IdTaken> {
        let now = self.revision();
        let starts_now = start_revision == 0;
        let spec = WatchSpec {
            next_revision: if starts_now { now + 1 } else { start_revision },
            progress_from: if starts_now { now } else { start_revision },
            ..spec
        };
        let created = WatchResponse {
            header: Some(self.cluster.header(now)),
            created: true,
            ..WatchResponse::default()
        };
        let stream = &mut self.streams[stream];
        let id = stream.handle.create(id, spec.clone(), created)?;
        stream.client.watchers.insert(id, Watched::new(spec));
        Ok(id)
    }

    pub fn cancel(&mut self, stream: usize, id: i64) {
        let stream = &mut self.streams[stream];
        if let Some(watched) = stream.client.watchers.get_mut(&id) {
            watched.is_canceled = true;
        }
        let canceled = WatchResponse {
            header: Some(self.cluster.header(1)),
            watch_id: id,
            canceled: true,
            ..WatchResponse::default()
        };
        stream.handle.cancel(id, &canceled);
    }

    pub fn request_progress(&self, stream: usize) {
        self.streams[stream].handle.request_progress();
    }

    /// The client reads once; whether there was anything.
    pub fn read(&mut self, stream: usize) -> bool {
        let compacted = self.compacted();
        self.streams[stream].client.read(&self.model, compacted)
    }

    /// Lets everything go on until nothing more happens.
    pub async fn settle(&mut self) {
        if self.is_lost {
            self.post_resync();
        }
        let mut quiet = 0;
        while quiet < TURNS_QUIET {
            self.deliver(usize::MAX);
            let mut has_read = false;
            for stream in 0..self.streams.len() {
                while self.read(stream) {
                    has_read = true;
                }
            }
            tokio::task::yield_now().await;
            quiet = if has_read { 0 } else { quiet + 1 };
        }
    }

    /// After [`World::settle`]: every watcher has got everything, or was told why not.
    pub fn check(&self) {
        for (number, stream) in self.streams.iter().enumerate() {
            for (id, watched) in &stream.client.watchers {
                let what = format!("stream {number}, watcher {id}, {:?}", watched.spec);
                assert!(watched.is_created, "{what}: not created");
                assert!(watched.has_ended || !watched.is_canceled, "{what}: not ended");
                if let Some(compacted) = watched.compacted {
                    assert!(watched.spec.next_revision < compacted, "{what}: ended by {compacted}");
                }
                if !watched.has_ended {
                    watched.check_complete(&self.model, i64::MAX);
                }
            }
        }
    }

    /// The revisions that a watcher has got.
    pub fn received(&self, stream: usize, id: i64) -> Vec<i64> {
        let received = &self.streams[stream].client.watchers[&id].received;
        received.iter().map(|position| self.model[*position].revision).collect()
    }
}

fn command(kind: CommandKind, body: impl Message) -> Command {
    Command { id: RequestId(1), kind, author: None, body: body.encode_to_vec().into() }
}

fn put_request(key: &[u8], value: &[u8]) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        ..PutRequest::default()
    }
}

pub fn put(key: &[u8], value: &[u8]) -> Command {
    command(CommandKind::Put, put_request(key, value))
}

/// Several puts in one revision.
pub fn put_all(pairs: &[(Vec<u8>, Vec<u8>)]) -> Command {
    let operation = |(key, value): &(Vec<u8>, Vec<u8>)| RequestOp {
        request: Some(request_op::Request::RequestPut(put_request(key, value))),
    };
    let success = pairs.iter().map(operation).collect();
    command(CommandKind::Txn, TxnRequest { success, ..TxnRequest::default() })
}

pub fn delete(key: &[u8], range_end: &[u8]) -> Command {
    let request = DeleteRangeRequest {
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::copy_from_slice(range_end),
        prev_kv: false,
    };
    command(CommandKind::DeleteRange, request)
}

pub fn compact(revision: i64) -> Command {
    command(CommandKind::Compact, CompactionRequest { revision, physical: false })
}

/// A watcher of a range with no wishes.
pub fn spec(key: &str, range_end: &str) -> WatchSpec {
    WatchSpec {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end.as_bytes()),
        next_revision: 0,
        progress_from: 0,
        no_put: false,
        no_delete: false,
        prev_kv: false,
        fragment: false,
        progress_notify: false,
    }
}

/// Runs a test where tasks of one thread can be spawned.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}
