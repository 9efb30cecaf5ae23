//! What was called and how it ended: the numbers behind `grpc_server_started_total` and its kin.
//!
//! One idea: one set of counters per socket thread, so that counting a call touches no cache line
//! of another thread; whoever renders metrics sums over the sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use varve_api::error::{CODES, Code, Status};
use varve_api::method::{METHODS, Method};

use super::request::RequestMeta;
use crate::trace::CallTrace;

/// Counters of one method.
#[derive(Debug, Default)]
pub struct MethodCounters {
    /// Calls that began.
    pub started: AtomicU64,
    /// Messages received from clients.
    pub messages_received: AtomicU64,
    /// Messages sent to clients.
    pub messages_sent: AtomicU64,
    /// Calls that ended, by code.
    pub handled: [AtomicU64; CODES.len()],
    /// Ended calls by duration: one counter per bucket and one for those above the last.
    pub handling_buckets: [AtomicU64; HANDLING_BUCKETS_SECONDS.len() + 1],
    /// Sum of the durations of ended calls.
    pub handling_nanos: AtomicU64,
}

/// Upper bounds of the buckets of `grpc_server_handling_seconds`; the defaults of the Prometheus
/// client for Go.
pub const HANDLING_BUCKETS_SECONDS: [f64; 11] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counters of one socket thread.
#[derive(Debug)]
pub struct GrpcCounters {
    methods: Vec<MethodCounters>,
    /// Bytes of messages received from gRPC clients, prefixes included.
    pub received_bytes: AtomicU64,
    /// Bytes of messages sent to gRPC clients, prefixes included.
    pub sent_bytes: AtomicU64,
}

impl Default for GrpcCounters {
    fn default() -> Self {
        Self {
            methods: METHODS.iter().map(|_| MethodCounters::default()).collect(),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }
}

impl GrpcCounters {
    /// The counters of `method`.
    pub fn method(&self, method: &Method) -> &MethodCounters {
        &self.methods[method.index]
    }
}

/// Accounts for one call from its start to its end; a call whose record is dropped before its
/// outcome is known was cancelled by the client.
#[derive(Debug)]
pub(super) struct CallRecord {
    tally: Tally,
    trace: CallTrace,
    began: Instant,
    ended: bool,
}

/// Where the messages of one call are counted.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    counters: Arc<GrpcCounters>,
    method: &'static Method,
}

impl Tally {
    pub(super) fn received(&self, bytes: usize) {
        add(&self.counters.method(self.method).messages_received, 1);
        add(&self.counters.received_bytes, bytes as u64);
    }
}

impl CallRecord {
    pub(super) fn start(counters: &Arc<GrpcCounters>, meta: &RequestMeta) -> Self {
        let method = meta.method();
        add(&counters.method(method).started, 1);
        let tally = Tally { counters: Arc::clone(counters), method };
        Self { tally, trace: meta.trace().clone(), began: Instant::now(), ended: false }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.clone()
    }

    pub(super) fn sent(&self, messages: u64, bytes: usize) {
        add(&self.tally.counters.method(self.tally.method).messages_sent, messages);
        add(&self.tally.counters.sent_bytes, bytes as u64);
    }

    pub(super) fn handled(&mut self, outcome: &Result<(), Status>) {
        if !self.ended {
            self.ended = true;
            let code = outcome.as_ref().err().map_or(Code::Ok, |status| status.code);
            let method = self.tally.counters.method(self.tally.method);
            add(&method.handled[usize::from(code.number())], 1);
            let took = self.began.elapsed();
            let bucket =
                HANDLING_BUCKETS_SECONDS.partition_point(|bound| *bound < took.as_secs_f64());
            add(&method.handling_buckets[bucket], 1);
            add(&method.handling_nanos, took.as_nanos() as u64);
            self.trace.end(outcome);
        }
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        self.handled(&Err(Status::new(Code::Canceled, "")));
    }
}

/// Counters are statistics: no order with anything else is needed.
fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
