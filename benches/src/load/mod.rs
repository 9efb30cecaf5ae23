//! Load on a server: many clients doing one kind of call, and what that cost.
//!
//! A run is: threads open their connections, all wait for each other, the clock starts, each
//! thread's clients call until the run is over, the histograms are added up. A *client* is a task
//! with one call at a time; clients share connections.
//!
//! Without a rate the loop is closed: a client calls again when it has its answer, and a slow
//! server is asked less. With a rate it is open: calls are due at fixed times, and a latency counts
//! from then, so that calls that wait for a stalled server are counted as late as their user saw
//! them (no coordinated omission).
//!
//! Threads have a current-thread runtime each; nothing is shared between them while a run goes on.

mod operation;
mod pace;
mod timer;
mod watchers;

use std::net::SocketAddr;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::grpc::{self, Connection};
use crate::latency::Latencies;
use crate::process::Figures;
use crate::workload::Workload;

pub use operation::{Operation, Reading, all_keys};
pub use watchers::{WatchReport, watch};

use operation::Caller;
use pace::Pace;

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// After this many calls of all clients.
    Calls(u64),
    /// No call is begun after this time.
    Time(Duration),
}

/// What to do to a server.
#[derive(Clone)]
pub struct Spec {
    /// Addresses of the server's members; connections are spread over them.
    pub endpoints: Vec<SocketAddr>,
    /// The kind of call.
    pub operation: Operation,
    /// Calls in flight at most.
    pub clients: usize,
    /// Connections, at most one per client.
    pub connections: usize,
    /// Threads of the load generator, at most one per connection.
    pub threads: usize,
    /// Calls per second that are due, or as many as the server answers.
    pub rate: Option<f64>,
    /// When it is over.
    pub limit: Limit,
    /// Keys and values.
    pub workload: Arc<Workload>,
    /// What a log-in gave, if the server wants one.
    pub token: Option<String>,
    /// The server's processes, if they are on this machine: of one member, or of all.
    pub server_pids: Vec<u32>,
}

/// What a run measured.
#[derive(Clone, Default)]
pub struct Report {
    /// Latencies of the calls that were answered.
    pub latencies: Latencies,
    /// Calls that failed.
    pub failed: u64,
    /// Why the first one did.
    pub first_error: Option<String>,
    /// Bytes of the responses, for calls that count them.
    pub response_bytes: u64,
    /// From the start to the last answer.
    pub elapsed: Duration,
    /// CPU time that the server's processes spent meanwhile, if they are known.
    pub server_cpu: Option<Duration>,
    /// The server's processes at the end, added up, if they are known.
    pub server: Option<Figures>,
    /// CPU time that this process spent meanwhile.
    pub client_cpu: Duration,
}

impl Report {
    /// Calls that were answered.
    pub fn calls(&self) -> u64 {
        self.latencies.count()
    }

    /// Answers a second.
    pub fn calls_per_second(&self) -> f64 {
        self.calls() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// CPU time of the server per call, if known.
    pub fn server_cpu_per_call(&self) -> Option<Duration> {
        self.server_cpu.map(|cpu| cpu.div_f64(self.calls().max(1) as f64))
    }

    /// CPU time of this process per call.
    pub fn client_cpu_per_call(&self) -> Duration {
        self.client_cpu.div_f64(self.calls().max(1) as f64)
    }

    /// Adds another run of the same kind, as if both had been one.
    pub fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies);
        self.add_failures(other);
        self.response_bytes += other.response_bytes;
        self.elapsed += other.elapsed;
        self.client_cpu += other.client_cpu;
        self.server_cpu = match (self.server_cpu, other.server_cpu) {
            (Some(own), Some(others)) => Some(own + others),
            (own, others) => own.or(others),
        };
        self.server = other.server.or(self.server);
    }

    fn add_failures(&mut self, other: &Self) {
        self.failed += other.failed;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }
}

/// Runs a load to its end. Blocks.
///
/// # Errors
/// A connection cannot be opened. Calls that fail are counted, not returned.
pub fn run(spec: &Spec) -> Result<Report, grpc::Error> {
    assert!(!spec.endpoints.is_empty(), "a load needs an endpoint");
    let threads = spec.threads.clamp(1, spec.connections.clamp(1, spec.clients.max(1)));
    let barrier = Barrier::new(threads + 1);
    let started: Mutex<Option<Instant>> = Mutex::new(None);
    let run_thread = |thread: usize| {
        let part = Part { spec, thread, threads };
        part.run(&barrier, &started)
    };
    let mut report = Report::default();
    let mut first_error = None;
    std::thread::scope(|scope| {
        let handles: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || run_thread(thread))).collect();
        // All are connected, or have failed to.
        barrier.wait();
        let server_before = figures_of(&spec.server_pids);
        let client_before = figures_of(&[std::process::id()]);
        let start = Instant::now();
        *started.lock().unwrap_or_else(PoisonError::into_inner) = Some(start);
        barrier.wait();
        for handle in handles {
            match handle.join().expect("a load thread does not panic") {
                Ok(part) => {
                    report.latencies.add(&part.latencies);
                    report.add_failures(&part);
                    report.response_bytes += part.response_bytes;
                    report.elapsed = report.elapsed.max(part.elapsed);
                }
                Err(error) => first_error = Some(error),
            }
        }
        report.server = figures_of(&spec.server_pids);
        let client_after = figures_of(&[std::process::id()]);
        report.server_cpu = cpu_between(server_before, report.server);
        report.client_cpu = cpu_between(client_before, client_after).unwrap_or_default();
    });
    match first_error {
        Some(error) => Err(error),
        None => Ok(report),
    }
}

/// The figures of processes; `None` when none is known, or one is gone.
fn figures_of(pids: &[u32]) -> Option<Figures> {
    if pids.is_empty() { None } else { Figures::of_all(pids).ok() }
}

fn cpu_between(before: Option<Figures>, after: Option<Figures>) -> Option<Duration> {
    Some(after?.cpu.saturating_sub(before?.cpu))
}

/// What one thread does of a run.
struct Part<'a> {
    spec: &'a Spec,
    thread: usize,
    threads: usize,
}

impl Part<'_> {
    /// How many of `whole` are this thread's.
    fn share(&self, whole: usize) -> usize {
        whole / self.threads + usize::from(self.thread < whole % self.threads)
    }

    fn run(
        &self,
        barrier: &Barrier,
        started: &Mutex<Option<Instant>>,
    ) -> Result<Report, grpc::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let connections = runtime.block_on(self.connect());
        barrier.wait();
        barrier.wait();
        let connections = connections?;
        // Copied, so that no thread holds the lock while it runs.
        let start = *started.lock().unwrap_or_else(PoisonError::into_inner);
        let start = start.expect("it is set between the two waits");
        Ok(runtime.block_on(self.call(start, &connections)))
    }

    async fn connect(&self) -> Result<Vec<Connection>, grpc::Error> {
        let connections = self.share(self.spec.connections.clamp(1, self.spec.clients.max(1)));
        let mut opened = Vec::with_capacity(connections);
        for number in 0..connections {
            let endpoint = (number * self.threads + self.thread) % self.spec.endpoints.len();
            let connection = Connection::open(self.spec.endpoints[endpoint]).await?;
            opened.push(connection.with_token(self.spec.token.as_deref()));
        }
        Ok(opened)
    }

    async fn call(&self, start: Instant, connections: &[Connection]) -> Report {
        let pace = Arc::new(Pace::new(self.spec, start, self.thread, self.threads));
        let total: Arc<Mutex<Report>> = Arc::default();
        let clients = (0..self.share(self.spec.clients)).map(|client| {
            let connection = &connections[client % connections.len()];
            let caller = Caller::new(connection, self.spec.operation, &self.spec.workload);
            tokio::spawn(run_client(caller, Arc::clone(&pace), start, Arc::clone(&total)))
        });
        let clients: Vec<_> = clients.collect();
        for client in clients {
            client.await.expect("a client does not panic");
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *total)
    }
}

/// One client: a call at a time, until the pace says that it is over or a call fails.
async fn run_client(
    mut caller: Caller,
    pace: Arc<Pace>,
    start: Instant,
    total: Arc<Mutex<Report>>,
) {
    while let Some((number, due)) = pace.next().await {
        let result = caller.call(number).await;
        let now = Instant::now();
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.elapsed = total.elapsed.max(now - start);
        match result {
            Ok(bytes) => {
                total.latencies.record(now - due);
                total.response_bytes += bytes;
            }
            Err(error) => {
                total.failed += 1;
                total.first_error.get_or_insert_with(|| error.to_string());
                if !matches!(error, grpc::Error::Status { .. }) {
                    return;
                }
            }
        }
    }
}
