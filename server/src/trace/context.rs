//! What a client says of the trace that its call belongs to: the headers `traceparent` and
//! `tracestate`.
//!
//! ```text
//! traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//!              |  |                                |                flags: 1 sampled, 2 random
//!              |  id of the trace                  id of the parent
//!              version
//! ```
//!
//! Source: W3C Trace Context, levels 1 and 2, as OpenTelemetry for Go reads it. A `traceparent` that
//! is none counts as not sent; a `tracestate` that is none as an empty one.

use http::{HeaderMap, HeaderValue};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
/// Bit of the flags: who called records this trace.
const SAMPLED: u8 = 1;
/// Flags that are known.
const FLAGS: u8 = 3;
/// Members that a `tracestate` may have.
const STATE_MEMBERS_MAX: usize = 32;
/// Bytes that we keep of one; the standard's least.
const STATE_BYTES_MAX: usize = 512;

/// The id of a trace; not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// `None` for 0, which is no id.
    pub fn from_halves(high: u64, low: u64) -> Option<Self> {
        Self::new(u128::from(high) << 64 | u128::from(low))
    }

    fn new(id: u128) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// As it is sent.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// The id of a span; not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(u64);

impl SpanId {
    /// `None` for 0, which is no id.
    pub fn new(id: u64) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// As it is sent.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

/// The trace that a call belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span of the client; `None` if the trace begins here.
    pub parent: Option<SpanId>,
    /// See the head of the file.
    pub flags: u8,
    /// `tracestate`: handed on, not understood.
    pub state: String,
}

impl Context {
    /// A trace that begins here.
    pub fn begun(trace: TraceId) -> Self {
        Self { trace, parent: None, flags: SAMPLED, state: String::new() }
    }

    /// What the headers say; `None` if they say nothing.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let parent = headers.get(PARENT)?.to_str().ok()?;
        let (trace, parent, flags) = read_parent(parent)?;
        let state = headers.get(STATE).and_then(read_state).unwrap_or_default();
        Some(Self { trace, parent: Some(parent), flags, state })
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

fn read_parent(text: &str) -> Option<(TraceId, SpanId, u8)> {
    let mut parts = text.split('-');
    let version = hex(parts.next()?, 2)?;
    let trace = TraceId::new(hex(parts.next()?, 32)?)?;
    let parent = SpanId::new(hex(parts.next()?, 16)? as u64)?;
    let flags = hex(parts.next()?, 2)? as u8;
    let is_readable = match version {
        0 => parts.next().is_none() && flags <= FLAGS,
        // Later versions may have more parts; this one is reserved.
        _ => version != 0xff,
    };
    is_readable.then_some((trace, parent, flags & FLAGS))
}

/// The number that so many digits stand for; only small letters are digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() != digits || !is_hex {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

/// A list of `key=value`; nothing of one that is none.
fn read_state(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    let members = text.split(',').map(str::trim).filter(|member| !member.is_empty());
    let is_list = members.clone().count() <= STATE_MEMBERS_MAX
        && members.clone().all(|member| member.find('=').is_some_and(|at| at > 0));
    (is_list && text.len() <= STATE_BYTES_MAX).then(|| members.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn context(parent: &str, state: &[u8]) -> Option<Context> {
        let mut headers = HeaderMap::new();
        headers.insert(PARENT, HeaderValue::from_str(parent).expect("a header"));
        headers.insert(STATE, HeaderValue::from_bytes(state).expect("a header"));
        Context::of(&headers)
    }

    #[test]
    fn a_parent_is_read_as_the_standard_says() {
        for (flags, expected) in [("00", 0), ("01", 1), ("02", 2), ("03", 3)] {
            let context = context(&format!("00-{TRACE}-{SPAN}-{flags}"), b"").expect("a parent");
            assert_eq!(context.trace.to_bytes()[..2], [0x0a, 0xf7]);
            assert_eq!(context.parent.expect("it has one").to_bytes()[..2], [0xb7, 0xad]);
            assert_eq!((context.flags, context.is_sampled()), (expected, expected & 1 == 1));
        }
        // A later version, with more than we know.
        let later = context(&format!("42-{TRACE}-{SPAN}-ff-more"), b"").expect("a parent");
        assert_eq!(later.flags, 3);
    }

    #[test]
    fn what_is_no_parent_counts_as_not_sent() {
        let none = "0".repeat(32);
        for wrong in [
            String::new(),
            "00".into(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{none}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &none[..16]),
            format!("00-{TRACE}-{SPAN}-04"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{SPAN}-{SPAN}-01"),
        ] {
            assert_eq!(context(&wrong, b""), None, "{wrong}");
        }
        assert_eq!(Context::of(&HeaderMap::new()), None);
    }

    #[test]
    fn a_state_is_handed_on_if_it_is_one() {
        let long = format!("a={}", "b".repeat(STATE_BYTES_MAX));
        let many = vec!["a=b"; STATE_MEMBERS_MAX + 1].join(",");
        for (state, expected) in [
            (&b"a=1, b=2"[..], "a=1,b=2"),
            (b"", ""),
            (b"a", ""),
            (b"=1", ""),
            (b"a=\xff", ""),
            (long.as_bytes(), ""),
            (many.as_bytes(), ""),
        ] {
            let context = context(&format!("00-{TRACE}-{SPAN}-01"), state).expect("a parent");
            assert_eq!(context.state, expected, "{}", String::from_utf8_lossy(state));
        }
    }
}
