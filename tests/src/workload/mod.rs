//! Clients that do everything to few keys, watchers that resume, and what they saw, as a [`History`].
//!
//! One idea: nothing is retried and nothing is guessed. A call that ends in an error may have
//! happened; the judge sorts that out. Each client stays with one member until that fails it, so that
//! members that are cut off are asked, too.
//!
//! | file | whose work |
//! | --- | --- |
//! | `clients.rs` | what a client asks, and how it ended |
//! | `watchers.rs` | what a watcher is sent, at one member after the other |
//! | `members.rs` | what members have in the end |
//!
//! What it does not do: judge; see the crate `judge`.

mod clients;
mod members;
mod watchers;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use varve_judge::history::{History, Micros, Operation, Outcome, Watched};

use crate::group::Group;
pub use members::replica;

const CLIENTS: usize = 8;
/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_millis(1_500);
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
    /// Clients name values and leases by it.
    numbers: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

/// Load on a cluster.
pub struct Workload<'a> {
    shared: Arc<Shared>,
    runtime: &'a Runtime,
    clients: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<Watched>>,
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
    /// Events that watchers got.
    pub events: usize,
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
            numbers: AtomicU64::new(1),
            operations: Mutex::default(),
        });
        let client = |number| runtime.spawn(clients::act(Arc::clone(&shared), number, seed));
        let watcher = |(number, watched)| {
            runtime.spawn(watchers::watch(Arc::clone(&shared), number, watched))
        };
        Workload {
            clients: (0..CLIENTS).map(client).collect(),
            watchers: watchers::all().into_iter().enumerate().map(watcher).collect(),
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

    /// Ends the load on a cluster that is whole again, waits until all leases are over and all members
    /// have the same, and gives what was seen.
    ///
    /// # Panics
    /// If that does not come about in time.
    pub fn finish(self, group: &Group<'_>) -> (History, Counts) {
        let began = Instant::now();
        self.shared.stop.store(true, Ordering::Relaxed);
        let shared = Arc::clone(&self.shared);
        self.runtime.block_on(async {
            for client in self.clients {
                client.await.expect("a client does not panic");
            }
            let addresses = group.addresses();
            let fails = |number: usize, error: tonic::Status| -> ! {
                panic!("m{number} does not serve in the end: {error}\n{}", group.logs())
            };
            for (number, address) in addresses.iter().enumerate() {
                let ended = members::leases_end(address).await;
                ended.unwrap_or_else(|error| fails(number, error));
            }
            // Through every member, so that each one has what all others were told.
            let mut last = 0;
            for (number, address) in addresses.iter().enumerate() {
                let insisted = clients::insist(&shared, number, address).await;
                last = insisted.unwrap_or_else(|error| fails(number, error));
            }
            shared.last_revision.store(last, Ordering::Relaxed);
            let mut watched = Vec::new();
            for watcher in self.watchers {
                let seen = tokio::time::timeout(SETTLE_TIMEOUT, watcher).await;
                watched.push(seen.expect("watchers see everything").expect("and do not panic"));
            }
            // Calls whose clients have given up may have been carried out even later.
            let last = watched.iter().flat_map(watchers::revisions).fold(last, i64::max);
            let mut replicas = Vec::new();
            for (number, address) in addresses.iter().enumerate() {
                let replica = replica(number as u64, address, last).await;
                replicas.push(replica.unwrap_or_else(|error| fails(number, error)));
            }
            let settled = began.elapsed();
            let mut operations =
                std::mem::take(&mut *shared.operations.lock().expect("no panic under this lock"));
            operations.sort_by_key(|operation| operation.invoked);
            let history = History { operations, watched, replicas, ..History::default() };
            let counts = Counts { settled, writes: shared.writes(), ..Counts::of(&history) };
            (history, counts)
        })
    }
}

impl Counts {
    fn of(history: &History) -> Counts {
        let is_answered = |one: &&Operation| matches!(one.outcome, Outcome::Done(_));
        let answered = history.operations.iter().filter(is_answered).count();
        let changes = history.replicas.first().and_then(|replica| replica.changes.as_ref());
        let streams = history.watched.iter().flat_map(|watched| &watched.streams);
        let responses = streams.flat_map(|stream| &stream.responses);
        Counts {
            answered,
            unknown: history.operations.len() - answered,
            changes: changes.map_or(0, Vec::len),
            events: responses.map(|response| response.events.len()).sum(),
            ..Counts::default()
        }
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: Counts) {
        self.answered += other.answered;
        self.writes += other.writes;
        self.unknown += other.unknown;
        self.changes += other.changes;
        self.events += other.events;
        self.settled = self.settled.max(other.settled);
    }
}

impl Shared {
    fn now(&self) -> Micros {
        Micros::try_from(self.began.elapsed().as_micros()).expect("a short run")
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn writes(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed) as usize
    }
}
