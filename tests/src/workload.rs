//! Clients that do everything to few keys, watchers that resume, and what they saw, as a [`History`].
//!
//! One idea: nothing is retried and nothing is guessed. A call that ends in an error may have
//! happened, whatever the error says; the judge sorts that out. Each client stays with one member
//! until that fails it, so that members that are cut off are asked, too.
//!
//! What it does not do: judge; see `history`.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use varve_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use varve_api::etcdserverpb::request_op::Request as Op;
use varve_api::etcdserverpb::response_op::Response as OpAnswer;
use varve_api::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest,
};
use varve_api::method;
use varve_api::mvccpb::event::EventType;
use varve_api::mvccpb::{Event, KeyValue};
use varve_disk::sim::Random;

use crate::group::Group;
use crate::grpc_client::Client;
use crate::history::{Asked, Change, History, Operation, Replica, Seen, Told, Watch};

const CLIENTS: usize = 8;
const KEYS: u64 = 12;
/// All keys, and some with the last ones.
const RANGES: [(&str, &str); 3] = [("k", "l"), ("k", "l"), ("k07", "l")];
const CALL_TIMEOUT: Duration = Duration::from_millis(1_500);
/// A watcher that hears nothing for so long asks another member.
const WATCH_SILENCE_MAX: Duration = Duration::from_secs(1);
/// How long members may take, once nothing is wrong any more, until all have the same.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

/// What clients and watchers share.
struct Shared {
    addresses: Vec<String>,
    began: Instant,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    /// Up to which revision watchers go on; 0 while that is not known.
    last_revision: AtomicI64,
    /// Clients name their values by it.
    values: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

/// Load on a cluster.
pub struct Workload<'a> {
    shared: Arc<Shared>,
    runtime: &'a Runtime,
    clients: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<Watch>>,
}

/// How much there was, for who reads the output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Calls that were answered.
    pub answered: usize,
    /// Writes that were acknowledged.
    pub writes: usize,
    /// Calls of which nothing is known.
    pub unknown: usize,
    /// Changes of the store.
    pub changes: usize,
    /// From the end of all trouble until all members had the same.
    pub settled: Duration,
}

impl<'a> Workload<'a> {
    /// Starts clients and watchers.
    pub fn start(runtime: &'a Runtime, addresses: Vec<String>, seed: u64) -> Workload<'a> {
        let shared = Arc::new(Shared {
            addresses,
            began: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            last_revision: AtomicI64::new(0),
            values: AtomicU64::new(0),
            operations: Mutex::default(),
        });
        let client = |number| runtime.spawn(act(Arc::clone(&shared), number, seed));
        let watcher = |number| runtime.spawn(watch(Arc::clone(&shared), number));
        Workload {
            clients: (0..CLIENTS).map(client).collect(),
            watchers: (0..RANGES.len()).map(watcher).collect(),
            shared,
            runtime,
        }
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` further writes were acknowledged; `false` if they are not in time.
    pub fn wait_for(&self, more: u64, timeout: Duration) -> bool {
        let (goal, deadline) = (self.acknowledged() + more, Instant::now() + timeout);
        while self.acknowledged() < goal && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.acknowledged() >= goal
    }

    /// Ends the load on a cluster that is whole again, waits until all members have the same, and
    /// gives what was seen.
    ///
    /// # Panics
    /// If they do not in time.
    pub fn finish(self, group: &Group<'_>) -> (History, Counts) {
        let began = Instant::now();
        self.shared.stop.store(true, Ordering::Relaxed);
        let shared = Arc::clone(&self.shared);
        self.runtime.block_on(async {
            for client in self.clients {
                client.await.expect("a client does not panic");
            }
            // Through every member, so that each one has what all others were told.
            let mut last = 0;
            let addresses = group.addresses();
            for (number, address) in addresses.iter().enumerate() {
                last = insist(&shared, address).await.unwrap_or_else(|error| {
                    panic!("m{number} does not serve in the end: {error}\n{}", group.logs())
                });
            }
            let mut replicas = Vec::new();
            for (number, address) in addresses.iter().enumerate() {
                let replica = replica(address, last).await;
                replicas.push(replica.unwrap_or_else(|error| {
                    panic!("m{number} does not have {last}: {error}\n{}", group.logs())
                }));
            }
            let settled = began.elapsed();
            shared.last_revision.store(last, Ordering::Relaxed);
            let mut watches = Vec::new();
            for watcher in self.watchers {
                let seen = tokio::time::timeout(SETTLE_TIMEOUT, watcher).await;
                watches.push(seen.expect("watchers see everything").expect("and do not panic"));
            }
            let operations =
                std::mem::take(&mut *shared.operations.lock().expect("no panic under this lock"));
            let is_write = |one: &&Operation| matches!(one.told, Told::Written { .. });
            let unknown = operations.iter().filter(|one| one.told == Told::Nothing).count();
            let counts = Counts {
                answered: operations.len() - unknown,
                writes: operations.iter().filter(is_write).count(),
                unknown,
                changes: replicas[0].changes.len(),
                settled,
            };
            (History { operations, watches, replicas }, counts)
        })
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a short run")
    }

    fn value(&self) -> String {
        let number = self.values.fetch_add(1, Ordering::Relaxed);
        // Some are long enough to be kept apart from their keys.
        let padding = if number.is_multiple_of(8) { 600 } else { 10 };
        format!("value {number} {}", "x".repeat(padding))
    }

    /// One call, from its beginning to its end.
    async fn call(&self, client: &Client, asked: Asked) -> (Told, Option<tonic::Status>) {
        let began = self.now();
        let answer = carry_out(client, &asked).await;
        let ended = self.now();
        let (told, error) = match answer {
            Ok(told) => (told, None),
            Err(status) => (Told::Nothing, Some(status)),
        };
        if matches!(told, Told::Written { .. }) {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        let operation = Operation { began, ended, asked, told: told.clone() };
        self.operations.lock().expect("no panic under this lock").push(operation);
        (told, error)
    }
}

/// Does one thing after another until it is stopped.
async fn act(shared: Arc<Shared>, number: usize, seed: u64) {
    let mut random = Random::new(seed ^ ((number as u64 + 1) << 32));
    let mut at = number % shared.addresses.len();
    let mut client = Client::new(&shared.addresses[at], CALL_TIMEOUT);
    // What it knows of keys, for comparisons that may hold.
    let mut known = vec![0; KEYS as usize];
    while !shared.stop.load(Ordering::Relaxed) {
        let key = random.below(KEYS);
        let asked = draw(&mut random, &shared, key, known[key as usize]);
        let (told, error) = shared.call(&client, asked).await;
        if let Told::Found { found, .. } = &told
            && let [seen] = found.as_slice()
        {
            known[key as usize] = seen.mod_revision;
        }
        if error.is_some() {
            at = (at + 1) % shared.addresses.len();
            // A connection that was cut would wait for TCP, which waits longer and longer.
            client = Client::new(&shared.addresses[at], CALL_TIMEOUT);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.below(6))).await;
    }
}

fn name(key: u64) -> String {
    format!("k{key:02}")
}

fn draw(random: &mut Random, shared: &Shared, key: u64, known: i64) -> Asked {
    let value = shared.value();
    match random.below(12) {
        0..=3 => Asked::Put { keys: vec![name(key)], value },
        4 => Asked::Put { keys: vec![name(key), name((key + 5) % KEYS)], value },
        5 => Asked::Delete { key: name(key) },
        6..=7 => Asked::Swap { key: name(key), expected: known, value },
        kind => {
            let (from, to) = match kind {
                8 => ("k".into(), "l".into()),
                // This key and nothing behind it.
                _ => (name(key), format!("{}\0", name(key))),
            };
            Asked::Read { from, to, is_serializable: kind == 9 }
        }
    }
}

async fn carry_out(client: &Client, asked: &Asked) -> Result<Told, tonic::Status> {
    match asked {
        Asked::Put { keys, value } if keys.len() == 1 => {
            let answer: PutResponse = client.put(put(&keys[0], value)).await?;
            let before = answer.prev_kv.as_ref().map(seen).into_iter().collect();
            Ok(Told::Written { revision: revision(answer.header), before })
        }
        Asked::Put { keys, value } => {
            let success = keys.iter().map(|key| op(Op::RequestPut(put(key, value)))).collect();
            let request = TxnRequest { success, ..TxnRequest::default() };
            let answer: TxnResponse = client.unary(&method::KV_TXN, request).await?;
            Ok(Told::Written { revision: revision(answer.header), before: Vec::new() })
        }
        Asked::Delete { key } => {
            let request = DeleteRangeRequest {
                key: key.clone().into(),
                prev_kv: true,
                ..DeleteRangeRequest::default()
            };
            let answer: DeleteRangeResponse =
                client.unary(&method::KV_DELETE_RANGE, request).await?;
            let (revision, before) =
                (revision(answer.header), answer.prev_kvs.iter().map(seen).collect());
            Ok(match answer.deleted {
                0 => Told::Found { revision, found: before },
                _ => Told::Written { revision, before },
            })
        }
        Asked::Swap { key, expected, value } => swap(client, key, *expected, value).await,
        Asked::Read { from, to, is_serializable } => {
            let request = RangeRequest {
                key: from.clone().into(),
                range_end: to.clone().into(),
                serializable: *is_serializable,
                ..RangeRequest::default()
            };
            let answer: RangeResponse = client.range(request).await?;
            let found = answer.kvs.iter().map(seen).collect();
            Ok(Told::Found { revision: revision(answer.header), found })
        }
    }
}

async fn swap(
    client: &Client,
    key: &str,
    expected: i64,
    value: &str,
) -> Result<Told, tonic::Status> {
    let get = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
    let request = TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.to_owned().into(),
            target_union: Some(TargetUnion::ModRevision(expected)),
            ..Compare::default()
        }],
        success: vec![op(Op::RequestPut(PutRequest { prev_kv: false, ..put(key, value) }))],
        failure: vec![op(Op::RequestRange(get))],
    };
    let answer: TxnResponse = client.unary(&method::KV_TXN, request).await?;
    let revision = revision(answer.header);
    if answer.succeeded {
        return Ok(Told::Written { revision, before: Vec::new() });
    }
    let found = answer.responses.iter().filter_map(|one| match &one.response {
        Some(OpAnswer::ResponseRange(range)) => Some(range.kvs.iter().map(seen)),
        _ => None,
    });
    Ok(Told::Found { revision, found: found.flatten().collect() })
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        prev_kv: true,
        ..PutRequest::default()
    }
}

fn revision(header: Option<ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}

fn seen(kv: &KeyValue) -> Seen {
    Seen {
        key: String::from_utf8_lossy(&kv.key).into_owned(),
        value: String::from_utf8_lossy(&kv.value).into_owned(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
    }
}

fn change(event: &Event) -> Change {
    let kv = event.kv.as_ref().expect("an event has a key");
    let is_put = event.r#type == EventType::Put as i32;
    Change {
        revision: kv.mod_revision,
        key: String::from_utf8_lossy(&kv.key).into_owned(),
        after: is_put.then(|| seen(kv)),
        before: event.prev_kv.as_ref().map(seen),
    }
}

/// A write through one member, tried until it is acknowledged; its revision. Each attempt is an
/// operation of the history.
async fn insist(shared: &Shared, address: &str) -> Result<i64, tonic::Status> {
    let began = Instant::now();
    loop {
        let client = Client::new(address, CALL_TIMEOUT);
        let asked = Asked::Put { keys: vec![format!("kz-end-{address}")], value: shared.value() };
        match shared.call(&client, asked).await {
            (Told::Written { revision, .. }, _) => return Ok(revision),
            (_, Some(error)) if began.elapsed() > SETTLE_TIMEOUT => return Err(error),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Everything a member has up to a revision, asked for until it has it.
///
/// # Errors
/// What it says instead in the end.
pub async fn replica(address: &str, last: i64) -> Result<Replica, tonic::Status> {
    let client = Client::new(address, SETTLE_TIMEOUT);
    // A serializable read of a revision that is not there yet is refused: so this waits for it.
    let began = Instant::now();
    let state = loop {
        let request = RangeRequest {
            key: "k".into(),
            range_end: "l".into(),
            serializable: true,
            revision: last,
            ..RangeRequest::default()
        };
        match client.range(request).await {
            Ok(answer) => break answer.kvs.iter().map(seen).collect(),
            Err(error) if began.elapsed() > SETTLE_TIMEOUT => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let mut stream = client.watch(create("k", "l", 1)).await?;
    let mut changes: Vec<Change> = Vec::new();
    while changes.last().is_none_or(|change| change.revision < last) {
        let response = stream.message().await?;
        let response = response.ok_or_else(|| tonic::Status::unavailable("the watch ended"))?;
        changes.extend(response.events.iter().map(change));
    }
    // What else is written later is of nobody: calls whose clients have given up.
    changes.retain(|change| change.revision <= last);
    let hash = Group::hash(&client, last).await?;
    Ok(Replica { name: address.into(), changes, state, hash })
}

fn create(from: &str, to: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: from.to_owned().into(),
        range_end: to.to_owned().into(),
        start_revision,
        prev_kv: true,
        ..WatchCreateRequest::default()
    }
}

/// Watches a range at one member after the other, each time from behind what it saw, until it has
/// seen the last revision.
async fn watch(shared: Arc<Shared>, number: usize) -> Watch {
    let (from, to) = RANGES[number];
    let mut watch = Watch { from: from.into(), to: to.into(), responses: Vec::new() };
    let mut at = number;
    loop {
        at = (at + 1) % shared.addresses.len();
        // The timeout of a channel would end a stream, too; a watcher has none.
        let client = Client::new(&shared.addresses[at], Duration::from_secs(3_600));
        let create = create(from, to, watched(&watch) + 1);
        let opened = tokio::time::timeout(CALL_TIMEOUT, client.watch(create)).await;
        let Ok(Ok(mut stream)) = opened else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        // Silence ends it too: the member may be cut off.
        while let Ok(Ok(Some(response))) =
            tokio::time::timeout(WATCH_SILENCE_MAX, stream.message()).await
        {
            assert!(!response.canceled, "nothing was compacted: {response:?}");
            if !response.events.is_empty() {
                watch.responses.push(response.events.iter().map(change).collect());
            }
            if is_done(&shared, &watch) {
                return watch;
            }
        }
        if is_done(&shared, &watch) {
            return watch;
        }
    }
}

/// The revision up to which it has seen everything.
fn watched(watch: &Watch) -> i64 {
    watch.responses.iter().flatten().last().map_or(0, |last| last.revision)
}

fn is_done(shared: &Shared, watch: &Watch) -> bool {
    let last = shared.last_revision.load(Ordering::Relaxed);
    last != 0 && watched(watch) >= last
}
