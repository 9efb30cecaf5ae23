//! Load on real servers while something happens to them, and the judgement afterwards.
//!
//! One idea: writers write each key once, one watcher resumes behind what it saw, and whatever
//! trouble a test makes meanwhile, `acknowledged` can judge the outcome.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use varve_api::etcdserverpb::{
    PutRequest, RangeRequest, StatusRequest, StatusResponse, WatchCreateRequest,
};
use varve_api::method;

use crate::acknowledged::{WriterLog, check};
use crate::grpc_client::Client;
use crate::process::Cluster;

const WRITERS: usize = 16;
/// A watcher that hears nothing for so long asks another member.
const WATCH_SILENCE_MAX: Duration = Duration::from_secs(1);
/// A round is void if it proves nothing: between two troubles at least this much is acknowledged.
pub const ACKNOWLEDGED_PER_ROUND: u64 = 50;

/// What the load shares.
pub struct Load {
    addresses: Vec<String>,
    call_timeout: Duration,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    errors: Mutex<Vec<tonic::Status>>,
}

impl Load {
    fn new(addresses: Vec<String>, call_timeout: Duration) -> Arc<Load> {
        Arc::new(Load {
            addresses,
            call_timeout,
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            errors: Mutex::default(),
        })
    }

    /// What writers were told instead of an acknowledgement, so far.
    ///
    /// # Panics
    /// If a writer panicked.
    pub fn errors(&self) -> Vec<tonic::Status> {
        self.errors.lock().expect("no panic under this lock").clone()
    }

    /// Blocks until `more` further writes were acknowledged.
    ///
    /// # Panics
    /// If they are not within a minute.
    pub fn wait_for(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        for _ in 0..6_000 {
            if self.acknowledged.load(Ordering::Relaxed) >= goal {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no progress: {} of {goal} writes", self.acknowledged.load(Ordering::Relaxed));
    }
}

/// Writes new keys one after the other, each once, at one server after the other.
async fn write(load: Arc<Load>, number: usize) -> WriterLog {
    let clients: Vec<Client> =
        load.addresses.iter().map(|address| Client::new(address, load.call_timeout)).collect();
    let mut log = WriterLog::default();
    let mut at = number % clients.len();
    for sequence in 0_u64.. {
        if load.stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{number:02}/{sequence:08}");
        let request = PutRequest {
            key: key.clone().into(),
            value: format!("{key} {}", "x".repeat(200)).into(),
            ..PutRequest::default()
        };
        match clients[at].put(request).await {
            Ok(response) => {
                let revision = response.header.expect("every response has a header").revision;
                log.acknowledged.push((key, revision));
                load.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                load.errors.lock().expect("no panic under this lock").push(status);
                log.unknown.insert(key);
                at = (at + 1) % clients.len();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    log
}

/// Watches all of the load's keys, resuming behind the last revision it saw, until `stop` holds
/// the revision up to which it must have seen everything.
async fn watch(load: Arc<Load>, until: Arc<AtomicU64>) -> Vec<(String, i64)> {
    let mut events: Vec<(String, i64)> = Vec::new();
    let mut at = 0;
    loop {
        let next = events.last().map_or(1, |(_, revision)| revision + 1);
        let done = until.load(Ordering::Relaxed);
        if done != 0 && next > done as i64 {
            return events;
        }
        // The timeout of a channel would end a stream too; a watcher has none.
        let client = Client::new(&load.addresses[at], Duration::from_secs(3_600));
        at = (at + 1) % load.addresses.len();
        let create = WatchCreateRequest {
            key: b"w".as_slice().into(),
            range_end: b"x".as_slice().into(),
            start_revision: next,
            ..WatchCreateRequest::default()
        };
        let Ok(Ok(mut stream)) =
            tokio::time::timeout(load.call_timeout, client.watch(create)).await
        else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        // Silence ends the stream too: the member may be cut off, or all was seen.
        while let Ok(Ok(Some(response))) =
            tokio::time::timeout(WATCH_SILENCE_MAX, stream.message()).await
        {
            assert!(!response.canceled, "nothing was compacted: {response:?}");
            for event in response.events {
                let kv = event.kv.expect("an event has a key");
                events.push((String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision));
            }
            let next = events.last().map_or(1, |(_, revision)| revision + 1);
            let done = until.load(Ordering::Relaxed);
            if done != 0 && next > done as i64 {
                return events;
            }
        }
    }
}

async fn final_state(client: &Client) -> (BTreeMap<String, i64>, i64) {
    let request = RangeRequest {
        key: b"w".as_slice().into(),
        range_end: b"x".as_slice().into(),
        ..RangeRequest::default()
    };
    let response = client.range(request).await.expect("the load is over and the group whole");
    let state = response
        .kvs
        .iter()
        .map(|kv| {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            assert!(kv.value.starts_with(key.as_bytes()), "{key} has a foreign value");
            (key, kv.mod_revision)
        })
        .collect();
    (state, response.header.expect("every response has a header").revision)
}

/// Runs the load while `trouble` happens, then judges by what the first address has.
///
/// # Panics
/// With what was violated.
pub fn run(addresses: Vec<String>, call_timeout: Duration, trouble: impl FnOnce(&Load)) {
    let load = Load::new(addresses, call_timeout);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let writers: Vec<_> =
        (0..WRITERS).map(|number| runtime.spawn(write(Arc::clone(&load), number))).collect();
    let until = Arc::new(AtomicU64::new(0));
    let watcher = runtime.spawn(watch(Arc::clone(&load), Arc::clone(&until)));
    load.wait_for(ACKNOWLEDGED_PER_ROUND);
    trouble(&load);
    load.wait_for(ACKNOWLEDGED_PER_ROUND);
    load.stop.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        let mut logs = Vec::new();
        for writer in writers {
            logs.push(writer.await.expect("a writer does not panic"));
        }
        let client = Client::new(&load.addresses[0], Duration::from_secs(60));
        let (state, _) = final_state(&client).await;
        let last = state.values().max().copied().unwrap_or(0);
        until.store(last as u64, Ordering::Relaxed);
        let watched = tokio::time::timeout(Duration::from_secs(60), watcher)
            .await
            .expect("the watcher sees everything within a minute")
            .expect("the watcher does not panic");
        let unknown: usize = logs.iter().map(|log| log.unknown.len()).sum();
        println!(
            "{} writes acknowledged, {unknown} unknown, {} in the end, last revision {last}",
            load.acknowledged.load(Ordering::Relaxed),
            state.len(),
        );
        if let Err(violations) = check(&logs, &state, &watched) {
            let shown: Vec<_> = violations.iter().take(20).collect();
            panic!("{} violations, the first: {shown:#?}", violations.len());
        }
    });
}

/// Position of the member that leads. Members that do not run are passed over.
///
/// # Panics
/// If there is none for some time.
pub fn find_leader(cluster: &Cluster) -> usize {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for _ in 0..500 {
        for (position, member) in cluster.servers.iter().enumerate() {
            let status: Result<StatusResponse, _> = runtime.block_on(async {
                let client = Client::new(&member.client_address(), Duration::from_secs(2));
                client.unary(&method::MAINTENANCE_STATUS, StatusRequest::default()).await
            });
            if let Ok(status) = status
                && status.leader != 0
                && status.header.is_some_and(|header| header.member_id == status.leader)
            {
                return position;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no member leads");
}
