//! Traces of calls, sent to a collector: `--enable-distributed-tracing` and its kin.
//!
//! One idea: whoever is not asked pays nothing. Without the flag there is no tracer, and a call looks
//! at one `None`; of a call that is not sampled nothing is kept but that it is not. What is sampled is
//! recorded on the socket thread of its call, is put into one bounded table when it has ended, and
//! leaves in batches on a thread of its own. When the table is full (the collector is slow or away),
//! what comes is dropped and counted: no call ever waits for a collector. The Raft and the apply thread
//! know nothing of all this.
//!
//! - [`context`]: what a client says of the trace that its call belongs to;
//! - [`call`]: the spans of one call;
//! - [`attributes`]: what they say of their requests;
//! - `otlp`: spans as OpenTelemetry's messages;
//! - `export`: the thread that sends them.
//!
//! Which spans there are, their names and attributes are etcd's; who is sampled is decided as etcd
//! does, so that members of both kinds decide alike: the client's word if it says one, otherwise the
//! id of the trace against `--distributed-tracing-sampling-rate`.
//!
//! What it does not do: hand traces on to other members (nor does etcd); use what clients send as
//! `baggage`; read `OTEL_*` variables.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use tokio::sync::Notify;

use crate::limits;
use crate::metrics::Metrics;
use crate::random;

pub mod attributes;
pub mod call;
pub mod context;
mod export;
mod otlp;

pub use call::{Attribute, CallTrace, Entered, Value};
pub use export::Exporting;

use call::Span;
use context::{Context, SpanId, TraceId};

/// Calls in which `--distributed-tracing-sampling-rate` counts.
pub const SAMPLING_UNIT: i64 = 1_000_000;

/// What flags decide about traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceOptions {
    /// `--distributed-tracing-address`: `host:port`, or `unix:` and a path.
    pub address: String,
    /// `--distributed-tracing-service-name`.
    pub service_name: String,
    /// `--distributed-tracing-instance-id`; empty is none.
    pub instance_id: String,
    /// `--distributed-tracing-sampling-rate`: so many of [`SAMPLING_UNIT`] traces that begin here.
    pub sampling_rate: i64,
}

/// Where calls become traces. Cheap to clone; each socket thread has one.
#[derive(Clone)]
pub struct Tracer(Arc<Shared>);

/// What the socket threads and the exporting thread share.
///
/// Invariants: at most `TRACE_SPANS_WAITING_MAX` spans wait.
struct Shared {
    /// A trace that begins here is sampled if the low half of its id, halved, is below.
    sampled_below: u64,
    waiting: Mutex<Vec<Span>>,
    /// Told when a batch is full.
    enough: Notify,
    metrics: Arc<Metrics>,
}

impl Tracer {
    fn new(sampling_rate: i64, metrics: Arc<Metrics>) -> Self {
        // In floating point, because etcd does so: the same trace, the same decision.
        let fraction = sampling_rate as f64 / SAMPLING_UNIT as f64;
        Self(Arc::new(Shared {
            sampled_below: (fraction * (1_u64 << 63) as f64) as u64,
            waiting: Mutex::default(),
            enough: Notify::new(),
            metrics,
        }))
    }

    /// Begins the span of a call with these headers, if it is sampled.
    pub fn begin(
        &self,
        headers: &HeaderMap,
        name: &'static str,
        attributes: impl FnOnce() -> Vec<Attribute>,
    ) -> CallTrace {
        let context = match Context::of(headers) {
            Some(context) if context.is_sampled() => context,
            Some(_) => return CallTrace::default(),
            None => match self.sample() {
                Some(trace) => Context::begun(trace),
                None => return CallTrace::default(),
            },
        };
        CallTrace::begin(self.clone(), context, name, attributes())
    }

    /// The id of a trace that begins here; `None` if it is not sampled.
    fn sample(&self) -> Option<TraceId> {
        // Nothing is: no need to roll dice.
        if self.0.sampled_below == 0 {
            return None;
        }
        let low = random::u64();
        let is_sampled = low >> 1 < self.0.sampled_below;
        is_sampled.then(|| TraceId::from_halves(random::u64(), low)).flatten()
    }

    fn span_id() -> SpanId {
        loop {
            if let Some(id) = SpanId::new(random::u64()) {
                return id;
            }
        }
    }

    /// Hands over a span that has ended.
    fn put(&self, span: Span) {
        let mut waiting = self.0.waiting();
        if waiting.len() >= limits::TRACE_SPANS_WAITING_MAX {
            drop(waiting);
            return self.count_dropped(1);
        }
        waiting.push(span);
        let is_enough = waiting.len() == limits::TRACE_BATCH_SPANS_MAX;
        drop(waiting);
        if is_enough {
            self.0.enough.notify_one();
        }
    }

    /// Counts spans that are lost.
    fn count_dropped(&self, spans: usize) {
        self.0.metrics.trace_spans_dropped.inc_by(spans as u64);
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tracer")
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Vec<Span>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest that wait, as many as go together.
    fn take_batch(&self) -> Vec<Span> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(limits::TRACE_BATCH_SPANS_MAX);
        waiting.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::metrics::Detail;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const NOT_SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn tracer(sampling_rate: i64) -> Tracer {
        Tracer::new(sampling_rate, Metrics::new(Detail::Basic))
    }

    fn begin(tracer: &Tracer, parent: Option<&'static str>) -> CallTrace {
        let mut headers = HeaderMap::new();
        if let Some(parent) = parent {
            headers.insert("traceparent", HeaderValue::from_static(parent));
        }
        tracer.begin(&headers, "a", Vec::new)
    }

    fn ended(tracer: &Tracer) -> Vec<Span> {
        tracer.0.take_batch()
    }

    #[test]
    fn the_client_says_who_is_sampled_and_without_a_word_the_rate_does() {
        for (rate, parent, expected) in [
            (0, None, 0),
            (0, Some(SAMPLED), 1),
            (0, Some(NOT_SAMPLED), 0),
            (SAMPLING_UNIT, None, 1),
            (SAMPLING_UNIT, Some(NOT_SAMPLED), 0),
            // What nobody understands is no word.
            (SAMPLING_UNIT, Some("00-0af7"), 1),
        ] {
            let tracer = tracer(rate);
            begin(&tracer, parent).end(&Ok(()));
            assert_eq!(ended(&tracer).len(), expected, "rate {rate}, {parent:?}");
        }
    }

    #[test]
    fn a_rate_is_a_share_of_the_traces() {
        let tracer = tracer(SAMPLING_UNIT / 4);
        let calls = 4_000;
        for _ in 0..calls {
            begin(&tracer, None).end(&Ok(()));
        }
        let share = ended_count(&tracer) as f64 / f64::from(calls);
        // Twenty standard deviations.
        assert!((0.11..0.39).contains(&share), "{share}");
    }

    fn ended_count(tracer: &Tracer) -> usize {
        std::iter::from_fn(|| Some(ended(tracer).len()).filter(|count| *count > 0)).sum()
    }

    #[test]
    fn what_has_no_room_is_dropped_and_counted() {
        let tracer = tracer(SAMPLING_UNIT);
        for _ in 0..limits::TRACE_SPANS_WAITING_MAX + 3 {
            begin(&tracer, None).end(&Ok(()));
        }
        assert_eq!(tracer.0.metrics.trace_spans_dropped.get(), 3);
        assert_eq!(ended(&tracer).len(), limits::TRACE_BATCH_SPANS_MAX);
        let left = limits::TRACE_SPANS_WAITING_MAX - limits::TRACE_BATCH_SPANS_MAX;
        assert_eq!(ended_count(&tracer), left);
    }
}
