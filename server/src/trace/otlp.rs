//! Spans as OpenTelemetry's messages: what `opentelemetry.proto.collector.trace.v1.TraceService/Export`
//! takes and answers.
//!
//! One idea: only the fields that we fill, by hand; who reads them leaves out what is not there.
//! Numbers are those of opentelemetry-proto 1.x, whose own types read ours in
//! `tests/tests/traces/main.rs`.

use prost::{Enumeration, Message, Oneof};

use super::TraceOptions;
use super::call::{self, Attribute};

/// The path of the one method of collectors that we call.
pub(super) const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Bit of a span's flags: it is known whether the parent is another process's.
const HAS_IS_REMOTE: u32 = 0x100;
/// Bit of a span's flags: it is.
const IS_REMOTE: u32 = 0x200;
/// Who made these spans.
const SCOPE: &str = "varve";

/// `ExportTraceServiceRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(message, repeated, tag = "1")]
    spans_of: Vec<ResourceSpans>,
}

/// `ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Answer {
    /// What was wrong with some of the spans.
    #[prost(message, optional, tag = "1")]
    pub(super) refusal: Option<Refusal>,
}

/// `ExportTracePartialSuccess`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Refusal {
    #[prost(int64, tag = "1")]
    pub(super) spans: i64,
    #[prost(string, tag = "2")]
    pub(super) why: String,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    spans_of: Vec<ScopeSpans>,
}

/// Whose spans these are.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(enumeration = "Kind", tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    began_unix_nanos: u64,
    #[prost(fixed64, tag = "8")]
    ended_unix_nanos: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
enum Kind {
    Unspecified = 0,
    Internal = 1,
    Server = 2,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(fixed64, tag = "1")]
    unix_nanos: u64,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(enumeration = "StatusCode", tag = "3")]
    code: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
enum StatusCode {
    Unset = 0,
    Error = 2,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// Who the flags say this process is.
pub(super) fn resource(options: &TraceOptions) -> Resource {
    let pairs =
        [("service.name", &options.service_name), ("service.instance.id", &options.instance_id)];
    // A name may be empty; an instance that is the same everywhere is none.
    let pairs = pairs.into_iter().filter(|(key, text)| *key == "service.name" || !text.is_empty());
    let attributes = pairs.map(|(key, text)| key_value(key, Value::Text(text.clone())));
    Resource { attributes: attributes.collect() }
}

/// These spans of this process.
pub(super) fn request(resource: &Resource, spans: &[call::Span]) -> Request {
    let scope = Scope { name: SCOPE.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = spans.iter().map(span).collect();
    let of_scope = ScopeSpans { scope: Some(scope), spans };
    let of_resource = ResourceSpans { resource: Some(resource.clone()), spans_of: vec![of_scope] };
    Request { spans_of: vec![of_resource] }
}

fn span(span: &call::Span) -> Span {
    let is_call = span.kind == call::SpanKind::Server;
    let is_remote = if is_call && span.parent.is_some() { IS_REMOTE } else { 0 };
    let event = |(name, unix_nanos): &(&str, u64)| Event {
        unix_nanos: *unix_nanos,
        name: (*name).to_owned(),
    };
    let failed = |error: &String| Status { message: error.clone(), code: StatusCode::Error.into() };
    Span {
        trace_id: span.context.trace.to_bytes().to_vec(),
        span_id: span.id.to_bytes().to_vec(),
        trace_state: span.context.state.clone(),
        parent_span_id: span.parent.map_or_else(Vec::new, |parent| parent.to_bytes().to_vec()),
        name: span.name.to_owned(),
        kind: if is_call { Kind::Server } else { Kind::Internal }.into(),
        began_unix_nanos: span.began,
        ended_unix_nanos: span.ended,
        attributes: span.attributes.iter().map(attribute).collect(),
        events: span.events.iter().map(event).collect(),
        status: span.error.as_ref().map(failed),
        flags: u32::from(span.context.flags) | HAS_IS_REMOTE | is_remote,
    }
}

fn attribute((key, value): &Attribute) -> KeyValue {
    let value = match value {
        super::Value::Text(text) => Value::Text(text.clone()),
        super::Value::Number(number) => Value::Number(*number),
        super::Value::Flag(flag) => Value::Flag(*flag),
    };
    key_value(key, value)
}

fn key_value(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
