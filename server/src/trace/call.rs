//! The spans of one call: that of the call itself, and inner ones below it.
//!
//! One idea: a call that is not sampled is a `None`, and everything asked of it does nothing. The
//! others are recorded in one cell that the call's record (which knows how it ends), its metadata
//! (through which handlers find it) and the inner spans share; all of them live on one socket thread.
//!
//! Invariants: a span is handed over once, when it ends; none begins in a call that has ended.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::Tracer;
use super::context::{Context, SpanId};
use crate::grpc::{Code, Status};
use crate::limits;

/// A name and what it says.
pub type Attribute = (&'static str, Value);

/// Events of a span that are kept; OpenTelemetry's number.
const EVENTS_MAX: usize = 128;
/// The attribute that says how a call ended.
const STATUS_CODE: &str = "rpc.response.status_code";

/// What an attribute says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl Value {
    /// The bytes of a key as text, the first `limits::TRACE_TEXT_BYTES_MAX` of them.
    pub fn key(key: &[u8]) -> Self {
        let end = key.len().min(limits::TRACE_TEXT_BYTES_MAX);
        Self::Text(String::from_utf8_lossy(&key[..end]).into_owned())
    }
}

/// What a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpanKind {
    /// A call.
    Server,
    /// A part of one.
    Internal,
}

/// One span.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) context: Arc<Context>,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) kind: SpanKind,
    pub(super) name: &'static str,
    /// Nanoseconds since 1970, as all times here.
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) attributes: Vec<Attribute>,
    pub(super) events: Vec<(&'static str, u64)>,
    /// Why it failed; not for what is a client's mistake.
    pub(super) error: Option<String>,
}

/// The spans of a call; cheap to clone. That of a call that is not sampled does nothing.
#[derive(Clone, Default)]
pub struct CallTrace(Option<Rc<RefCell<Spans>>>);

/// An inner span: it ends when this is dropped.
#[must_use = "the span ends when this is dropped"]
#[derive(Debug)]
pub struct Entered(Option<(CallTrace, SpanId)>);

struct Spans {
    tracer: Tracer,
    context: Arc<Context>,
    id: SpanId,
    /// `None` when it has ended.
    call: Option<Open>,
    inner: Vec<Open>,
}

/// A span that has begun.
struct Open {
    span: Span,
    since: Instant,
}

impl CallTrace {
    pub(super) fn begin(
        tracer: Tracer,
        context: Context,
        name: &'static str,
        attributes: Vec<Attribute>,
    ) -> Self {
        let context = Arc::new(context);
        let parent = context.parent;
        let call = Open::begin(&context, parent, SpanKind::Server, name, attributes);
        let id = call.span.id;
        let spans = Spans { tracer, context, id, call: Some(call), inner: Vec::new() };
        Self(Some(Rc::new(RefCell::new(spans))))
    }

    /// Begins an inner span. A call has `limits::TRACE_SPANS_OPEN_MAX` of them at once; what is beyond
    /// is dropped and counted.
    pub fn enter(
        &self,
        name: &'static str,
        attributes: impl FnOnce() -> Vec<Attribute>,
    ) -> Entered {
        let Some(spans) = &self.0 else { return Entered(None) };
        let mut spans = spans.borrow_mut();
        if spans.call.is_none() {
            return Entered(None);
        }
        if spans.inner.len() >= limits::TRACE_SPANS_OPEN_MAX {
            spans.tracer.count_dropped(1);
            return Entered(None);
        }
        let (parent, kind) = (Some(spans.id), SpanKind::Internal);
        let open = Open::begin(&spans.context, parent, kind, name, attributes());
        let id = open.span.id;
        spans.inner.push(open);
        Entered(Some((self.clone(), id)))
    }

    /// Something happens: in the span that began last.
    pub fn event(&self, name: &'static str) {
        let Some(spans) = &self.0 else { return };
        let mut spans = spans.borrow_mut();
        let Spans { call, inner, .. } = &mut *spans;
        if let Some(open) = inner.last_mut().or(call.as_mut())
            && open.span.events.len() < EVENTS_MAX
        {
            let at = open.now();
            open.span.events.push((name, at));
        }
    }

    /// The call has ended.
    pub fn end(&self, outcome: &Result<(), Status>) {
        let Some(spans) = &self.0 else { return };
        let mut spans = spans.borrow_mut();
        let Some(mut open) = spans.call.take() else { return };
        let code = outcome.as_ref().err().map_or(Code::Ok, |status| status.code);
        open.span.attributes.push((STATUS_CODE, Value::Text(name_of(code).to_owned())));
        open.span.error = outcome.as_ref().err().filter(|_| is_ours(code)).map(error_text);
        spans.tracer.put(open.end());
    }

    fn leave(&self, id: SpanId) {
        let Some(spans) = &self.0 else { return };
        let mut spans = spans.borrow_mut();
        let at = spans.inner.iter().rposition(|open| open.span.id == id);
        let open = spans.inner.remove(at.expect("a span is open until it is left"));
        spans.tracer.put(open.end());
    }
}

impl fmt::Debug for CallTrace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "CallTrace" } else { "not sampled" })
    }
}

impl Entered {
    /// Whether there is anything to keep.
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some((call, id)) = &self.0 {
            call.leave(*id);
        }
    }
}

impl Open {
    fn begin(
        context: &Arc<Context>,
        parent: Option<SpanId>,
        kind: SpanKind,
        name: &'static str,
        attributes: Vec<Attribute>,
    ) -> Self {
        // A clock before 1970 is no reason to stop.
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began = u64::try_from(began.as_nanos()).unwrap_or(u64::MAX);
        let span = Span {
            context: Arc::clone(context),
            id: Tracer::span_id(),
            parent,
            kind,
            name,
            began,
            ended: began,
            attributes,
            events: Vec::new(),
            error: None,
        };
        Self { span, since: Instant::now() }
    }

    /// The time, as far as the clock did not jump since the span began.
    fn now(&self) -> u64 {
        let passed = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.span.began.saturating_add(passed)
    }

    fn end(mut self) -> Span {
        self.span.ended = self.now();
        self.span
    }
}

fn error_text(status: &Status) -> String {
    status.message.clone().into()
}

/// Whether a call that ends so has failed on our side, as OpenTelemetry has it for servers.
fn is_ours(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The name of a code in gRPC's definition.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Canceled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::TraceId;
    use super::super::{SAMPLING_UNIT, Tracer};
    use super::*;
    use crate::metrics::{Detail, Metrics};

    fn call(tracer: &Tracer) -> CallTrace {
        let context = Context::begun(TraceId::from_halves(1, 2).expect("not 0"));
        CallTrace::begin(tracer.clone(), context, "call", Vec::new())
    }

    fn tracer() -> Tracer {
        Tracer::new(SAMPLING_UNIT, Metrics::new(Detail::Basic))
    }

    #[test]
    fn inner_spans_end_when_they_are_left_and_events_go_to_the_last_that_began() {
        let tracer = tracer();
        let call = call(&tracer);
        call.event("first");
        let outer = call.enter("outer", || vec![("key", Value::key(b"a\xff"))]);
        let inner = call.enter("inner", Vec::new);
        call.event("second");
        drop(outer);
        drop(inner);
        call.event("third");
        call.end(&Err(Status::new(Code::Internal, "why")));
        call.end(&Ok(()));
        assert!(call.enter("late", Vec::new).0.is_none());
        let spans = tracer.0.take_batch();
        let names: Vec<&str> = spans.iter().map(|span| span.name).collect();
        assert_eq!(names, ["outer", "inner", "call"]);
        let events = |span: &Span| span.events.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        let events: Vec<Vec<&str>> = spans.iter().map(events).collect();
        assert_eq!(events, [vec![], vec!["second"], vec!["first", "third"]]);
        assert_eq!(spans[0].attributes, [("key", Value::Text("a\u{fffd}".into()))]);
        assert_eq!(spans[2].attributes, [(STATUS_CODE, Value::Text("INTERNAL".into()))]);
        assert_eq!(spans[2].error.as_deref(), Some("why"));
        assert!(spans.iter().take(2).all(|span| span.parent == Some(spans[2].id)));
        assert!(spans.iter().all(|span| span.began <= span.ended));
    }

    #[test]
    fn mistakes_of_clients_are_no_errors_of_ours() {
        let tracer = tracer();
        call(&tracer).end(&Err(Status::new(Code::NotFound, "not there")));
        assert_eq!(tracer.0.take_batch()[0].error, None);
    }

    #[test]
    fn a_call_has_so_many_inner_spans_at_once() {
        let tracer = tracer();
        let call = call(&tracer);
        let entered: Vec<Entered> =
            (0..limits::TRACE_SPANS_OPEN_MAX + 1).map(|_| call.enter("a", Vec::new)).collect();
        drop(entered);
        call.end(&Ok(()));
        assert_eq!(tracer.0.metrics.trace_spans_dropped.get(), 1);
        assert_eq!(tracer.0.waiting().len(), limits::TRACE_SPANS_OPEN_MAX + 1);
    }

    #[test]
    fn long_keys_are_cut() {
        let key = vec![b'k'; limits::TRACE_TEXT_BYTES_MAX + 1];
        let Value::Text(text) = Value::key(&key) else { panic!("a key is a text") };
        assert_eq!(text.len(), limits::TRACE_TEXT_BYTES_MAX);
    }
}
