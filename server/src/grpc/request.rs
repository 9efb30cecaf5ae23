//! What a handler may know about its caller: metadata, address, deadline.
//!
//! One idea: the header map is moved out of the request, not copied; nothing is parsed until a
//! handler asks.
//!
//! There is no cancellation signal: a call that is cancelled, reset or past its deadline is
//! dropped together with its handler's future (see the module header of `grpc`).

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use varve_api::method::Method;

use super::status::{Status, parse_timeout};
use crate::trace::{CallTrace, Tracer, attributes};

/// Where a connection came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// A TCP connection.
    Tcp(SocketAddr),
    /// A connection through a Unix socket; its clients have no address.
    Unix,
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix => formatter.write_str("@"),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Caller {
    /// Where it came from.
    pub address: PeerAddress,
    /// The address that it has connected to; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
    /// Whether it speaks TLS.
    pub is_secure: bool,
    /// The common name of the certificate with which it has proved who it is; `None` without one,
    /// or if it has none.
    pub common_name: Option<Rc<str>>,
    /// What the connection does after HTTP.
    pub successor: Successor,
}

impl Caller {
    /// One on a Unix socket, of whom nothing is known; and whoever calls in the same process.
    pub fn of_unix_socket() -> Self {
        Self {
            address: PeerAddress::Unix,
            local: None,
            is_secure: false,
            common_name: None,
            successor: Successor::default(),
        }
    }
}

/// What a connection does once it has left HTTP (a WebSocket); empty for nearly all. The task of the
/// connection runs it, so that the connection keeps its slot and ends with its thread.
#[derive(Default)]
pub struct Successor(RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>);

impl Successor {
    /// Says what is to be done.
    pub fn set(&self, future: impl Future<Output = ()> + 'static) {
        *self.0.borrow_mut() = Some(Box::pin(future));
    }

    /// For the task of the connection: what is to be done, if anything.
    pub fn take(&self) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        self.0.borrow_mut().take()
    }
}

impl std::fmt::Debug for Successor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Successor")
    }
}

/// Metadata of one call.
#[derive(Debug)]
pub struct RequestMeta {
    method: &'static Method,
    headers: HeaderMap,
    caller: Rc<Caller>,
    deadline: Option<Instant>,
    trace: CallTrace,
}

impl RequestMeta {
    /// Takes the headers of a request and reads its `grpc-timeout`.
    ///
    /// # Errors
    /// Internal if `grpc-timeout` is malformed.
    pub fn new(
        method: &'static Method,
        headers: HeaderMap,
        caller: Rc<Caller>,
    ) -> Result<Self, Status> {
        let deadline = match headers.get("grpc-timeout") {
            None => None,
            Some(value) => Some(Instant::now() + parse_timeout(value.as_bytes())?),
        };
        Ok(Self { method, headers, caller, deadline, trace: CallTrace::default() })
    }

    /// Begins the trace of the call, if it is sampled.
    pub(super) fn begin_trace(&mut self, tracer: &Tracer) {
        let path = self.method.path.trim_start_matches('/');
        let local = self.caller.local;
        self.trace = tracer.begin(&self.headers, path, || attributes::call(path, local));
    }

    /// The trace of the call.
    pub fn trace(&self) -> &CallTrace {
        &self.trace
    }

    /// See [`Caller::common_name`]. None if the call came through the JSON gateway: the
    /// certificate is that of the gateway then.
    pub fn common_name(&self) -> Option<&str> {
        let is_gateway = self.headers.contains_key("grpcgateway-accept");
        self.caller.common_name.as_deref().filter(|_| !is_gateway)
    }

    /// The method that was called.
    pub fn method(&self) -> &'static Method {
        self.method
    }

    /// The first value of a metadata key (lower case), if it is visible ASCII.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.headers.get(key)?.to_str().ok()
    }

    /// The caller wants ErrNoLeader rather than to wait: `hasleader: true`
    /// (`clientv3.WithRequireLeader`).
    pub fn requires_leader(&self) -> bool {
        self.headers.get("hasleader").is_some_and(|value| value == "true")
    }

    /// The auth token: metadata `token`, else `authorization`, with or without `Bearer `, as etcd
    /// 3.7 reads them. What is not visible ASCII is an empty one, which nobody has.
    pub fn token(&self) -> Option<&str> {
        let value = self.headers.get("token").or_else(|| self.headers.get("authorization"))?;
        let text = value.to_str().unwrap_or_default();
        Some(text.strip_prefix("Bearer ").unwrap_or(text))
    }

    /// `client-api-version` as the client sent it; etcd counts requests by it.
    pub fn client_api_version(&self) -> Option<&str> {
        self.metadata("client-api-version")
    }

    /// The address of the client.
    pub fn peer(&self) -> &PeerAddress {
        &self.caller.address
    }

    /// When the caller stops waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What is left until the deadline.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use varve_api::method;

    use super::*;

    #[test]
    fn a_token_is_found_and_one_that_is_none_is_not_overlooked() {
        for (name, value, token) in [
            ("token", &b"abc.1"[..], Some("abc.1")),
            ("token", b"Bearer abc.1", Some("abc.1")),
            ("authorization", b"Bearer abc.1", Some("abc.1")),
            ("authorization", b"abc.1", Some("abc.1")),
            ("token", b"\xff\xfe", Some("")),
            ("authorization", b"\xff", Some("")),
            ("tokens", b"abc.1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_bytes(value).unwrap());
            let caller = Rc::new(Caller::of_unix_socket());
            let meta = RequestMeta::new(&method::KV_RANGE, headers, caller).unwrap();
            assert_eq!(meta.token(), token, "{name}: {value:?}");
        }
    }
}
