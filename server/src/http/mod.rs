//! Plain HTTP beside gRPC: health checks, version, metrics.
//!
//! One idea: paths, bodies, headers and status codes are etcd's to the byte, because probes and
//! tests compare them; what the server's state is comes from the trait [`Health`].
//!
//! What it does not do: the JSON gateway (`/v3/...`), which is called from here (`crate::gateway`).

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use varve_api::error::Status;

mod pprof;
mod query;
pub mod unread;

use query::Query;
use unread::read_away;

use crate::gateway;
use crate::grpc::router::ResponseFuture;
use crate::grpc::{Caller, HttpHandler, Origin, ResponseBody, Router};
use crate::metrics::Metrics;
use crate::version::ETCD_VERSION;

/// What the HTTP paths need to know of the server. `!Send`: one per socket thread.
pub trait Health: 'static {
    /// Names of active alarms as in `AlarmType`: `NOSPACE`, `CORRUPT`.
    fn alarms(&self) -> Vec<&'static str>;

    /// Whether this member knows a leader.
    fn has_leader(&self) -> bool;

    /// Whether this member is a learner.
    fn is_learner(&self) -> bool;

    /// Reads at most one key, as root, within the request timeout.
    fn read(&self, consistency: Consistency) -> impl Future<Output = Result<(), Status>>;

    /// The version of the cluster as `3.7.0`; `None` until it is decided.
    fn cluster_version(&self) -> Option<String>;

    /// The version of the storage as `3.7.0`; `None` while unknown.
    fn storage_version(&self) -> Option<String>;

    /// The state of Raft as a JSON object, for `/debug/vars`.
    fn raft_status(&self) -> serde_json::Value;

    /// Whether who shows a certificate is the user of its common name.
    fn takes_users_from_certificates(&self) -> bool;
}

/// How a health check reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// From this member as it is.
    Serializable,
    /// After a majority confirmed the leader.
    Linearizable,
}

/// Who may use the HTTP paths of the client port: `--cors`, `--host-whitelist`.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Allowed origins; empty or `*` allows all.
    pub origins: Vec<String>,
    /// Acceptable host names; empty or `*` allows all (against DNS rebinding).
    pub hosts: Vec<String>,
}

/// What flags decide about the HTTP paths.
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    /// Who may use those of the client port.
    pub access: Access,
    /// `--enable-grpc-gateway`.
    pub has_gateway: bool,
    /// `--enable-pprof`, or `--log-level=debug`.
    pub has_profiles: bool,
}

/// Answers plain HTTP on one socket thread.
pub struct HttpRoutes<H> {
    inner: Rc<Inner<H>>,
}

struct Inner<H> {
    health: H,
    metrics: Arc<Metrics>,
    options: HttpOptions,
}

impl<H: Health> HttpRoutes<H> {
    /// Routes over the state of the server.
    pub fn new(health: H, metrics: Arc<Metrics>, options: HttpOptions) -> Self {
        Self { inner: Rc::new(Inner { health, metrics, options }) }
    }
}

impl<H: Health> HttpHandler for HttpRoutes<H> {
    fn call(
        &self,
        request: Request<hyper::body::Incoming>,
        caller: &Rc<Caller>,
        origin: Origin,
        router: &Rc<Router>,
    ) -> ResponseFuture {
        let (inner, caller) = (Rc::clone(&self.inner), Rc::clone(caller));
        let router = Rc::clone(router);
        Box::pin(async move {
            match origin {
                Origin::Client => inner.guarded(request, &caller, &router).await,
                Origin::Metrics => inner.answer(request.method(), request.uri(), origin).await,
            }
        })
    }
}

/// The checks of `/livez` and `/readyz`, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }
}

const LIVE_CHECKS: &[Check] = &[Check::SerializableRead];
const READY_CHECKS: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl<H: Health> Inner<H> {
    /// Answers a request of the client port: checks host and origin first.
    async fn guarded(
        &self,
        request: Request<hyper::body::Incoming>,
        caller: &Rc<Caller>,
        router: &Rc<Router>,
    ) -> Reply {
        if let Some(refusal) = self.refuse(&request, caller) {
            read_away(request.into_body()).await;
            return refusal;
        }
        let access = &self.options.access;
        let origin = text(request.headers(), &ORIGIN).to_owned();
        let allowed = if allows(&access.origins, "*") {
            Some("*")
        } else {
            allows(&access.origins, &origin).then_some(origin.as_str())
        };
        let is_asking = request.method() == Method::OPTIONS;
        let mut response = if self.is_gateway(request.uri()) && !is_asking {
            gateway::answer(request, caller, router).await
        } else {
            let (head, body) = request.into_parts();
            read_away(body).await;
            if is_asking {
                Response::new(ResponseBody::empty())
            } else {
                self.answer(&head.method, &head.uri, Origin::Client).await
            }
        };
        if let Some(allowed) = allowed {
            add_cors(response.headers_mut(), allowed);
        }
        response
    }

    /// What is wrong with who asks, if anything.
    fn refuse<B>(&self, request: &Request<B>, caller: &Caller) -> Option<Reply> {
        if !caller.is_secure {
            // Over TLS the certificate has told the client that it has the right host.
            let host = host_name(request.uri(), request.headers());
            if allows(&self.options.access.hosts, host) {
                return None;
            }
            tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
            return Some(error(StatusCode::MISDIRECTED_REQUEST, &unknown_host(host)));
        }
        let is_named = caller.common_name.is_some() && self.health.takes_users_from_certificates();
        (is_named && self.is_gateway(request.uri())).then(|| {
            let text = "CommonName of client sending a request against gateway will be ignored \
                        and not used as expected";
            error(StatusCode::BAD_REQUEST, text)
        })
    }

    fn is_gateway(&self, uri: &Uri) -> bool {
        self.options.has_gateway && gateway::answers(uri.path())
    }

    async fn answer(&self, method: &Method, uri: &Uri, origin: Origin) -> Reply {
        let query = Query::parse(uri.query().unwrap_or(""));
        match (uri.path(), origin) {
            ("/health", _) => match only_get(method) {
                Some(refusal) => refusal,
                None => self.health(&query).await,
            },
            ("/metrics", _) => self.metrics(),
            ("/version", Origin::Client) => only_get(method).unwrap_or_else(|| self.version()),
            ("/debug/vars", Origin::Client) => only_get(method).unwrap_or_else(|| self.vars()),
            (path, Origin::Client)
                if self.options.has_profiles && path.starts_with(pprof::PREFIX) =>
            {
                pprof::answer(&path[pprof::PREFIX.len()..], &query).await
            }
            (path, _) => {
                let found = checks_of(path, &query);
                match (found, only_get(method)) {
                    (None, _) => not_found(),
                    (Some(_), Some(refusal)) => refusal,
                    (Some((kind, checks)), None) => self.run(kind, &checks, &query).await,
                }
            }
        }
    }

    /// `/health`: alarms, leader, one read.
    async fn health(&self, query: &Query) -> Reply {
        let consistency = if query.first("serializable") == Some("true") {
            Consistency::Serializable
        } else {
            Consistency::Linearizable
        };
        let reason = self.unhealthy(query, consistency).await;
        let body = serde_json::json!({
            "health": if reason.is_none() { "true" } else { "false" },
            "reason": reason.as_deref().unwrap_or(""),
        })
        .to_string();
        if reason.is_some() {
            self.metrics.health_failures.inc();
            tracing::warn!(output = body, "/health error");
            return error(StatusCode::SERVICE_UNAVAILABLE, &body);
        }
        self.metrics.health_success.inc();
        reply(StatusCode::OK, "text/plain; charset=utf-8", body)
    }

    async fn unhealthy(&self, query: &Query, consistency: Consistency) -> Option<String> {
        for alarm in self.health.alarms() {
            if !query.all("exclude").any(|excluded| excluded == alarm) {
                return Some(format!("ALARM {alarm}"));
            }
        }
        if consistency == Consistency::Linearizable && !self.health.has_leader() {
            return Some("RAFT NO LEADER".to_owned());
        }
        let read = self.health.read(consistency).await;
        read.err().map(|status| format!("RANGE ERROR:{}", status.message))
    }

    /// `/livez`, `/readyz` and their sub-paths.
    async fn run(&self, kind: &'static str, checks: &[Check], query: &Query) -> Reply {
        let mut lines = String::new();
        let mut failed = false;
        for check in checks {
            let name = check.name();
            let outcome = self.check(*check).await;
            let (status, value) = if outcome.is_ok() { ("success", 1.0) } else { ("error", 0.0) };
            self.metrics.healthcheck.with_label_values(&[kind, name]).set(value);
            self.metrics.healthchecks.with_label_values(&[kind, name, status]).inc();
            let written = match &outcome {
                Ok(()) => writeln!(lines, "[+]{name} ok"),
                Err(reason) => writeln!(lines, "[-]{name} failed: {reason}"),
            };
            written.expect("writing to a String cannot fail");
            failed |= outcome.is_err();
        }
        if failed {
            tracing::error!(path = kind, reason = lines, "Health check error");
            return error(StatusCode::SERVICE_UNAVAILABLE, &lines);
        }
        let body = if query.first("verbose").is_some() { lines + "ok\n" } else { "ok\n".into() };
        no_sniff(reply(StatusCode::OK, "text/plain; charset=utf-8", body))
    }

    async fn check(&self, check: Check) -> Result<(), String> {
        let read = |outcome: Result<(), Status>| outcome.map_err(|status| status.message.into());
        match check {
            Check::DataCorruption if self.health.alarms().contains(&"CORRUPT") => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Check::DataCorruption => Ok(()),
            Check::SerializableRead => read(self.health.read(Consistency::Serializable).await),
            Check::LinearizableRead => read(self.health.read(Consistency::Linearizable).await),
            Check::NonLearner if self.health.is_learner() => {
                Err("not supported for learner".to_owned())
            }
            Check::NonLearner => Ok(()),
        }
    }

    fn version(&self) -> Reply {
        let cluster = self.health.cluster_version();
        let storage = self.health.storage_version();
        let body = format!(
            "{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{}\",\"storage\":\"{}\"}}",
            cluster.as_deref().unwrap_or("not_decided"),
            storage.as_deref().unwrap_or("unknown"),
        );
        reply(StatusCode::OK, "application/json", body)
    }

    fn metrics(&self) -> Reply {
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        reply(StatusCode::OK, content_type, self.metrics.render())
    }

    /// What Go programs publish as `expvar`: the parts that a program not in Go has.
    fn vars(&self) -> Reply {
        let command_line: Vec<String> = std::env::args().collect();
        let body = format!(
            "{{\n\"cmdline\": {},\n\"file_descriptor_limit\": {},\n\"raft.status\": {}\n}}\n",
            serde_json::Value::from(command_line),
            crate::listener::file_limit(),
            self.health.raft_status(),
        );
        reply(StatusCode::OK, "application/json; charset=utf-8", body)
    }
}

type Reply = Response<ResponseBody>;

/// Which checks a path asks for; `None` if it is not a path of checks.
fn checks_of(path: &str, query: &Query) -> Option<(&'static str, Vec<Check>)> {
    for (kind, checks) in [("livez", LIVE_CHECKS), ("readyz", READY_CHECKS)] {
        let Some(rest) = path.strip_prefix('/').and_then(|path| path.strip_prefix(kind)) else {
            continue;
        };
        if rest.is_empty() {
            let is_excluded = |check: &Check| query.all("exclude").any(|name| name == check.name());
            let wanted = checks.iter().copied().filter(|check| !is_excluded(check)).collect();
            return Some((kind, wanted));
        }
        let name = rest.strip_prefix('/')?;
        let check = checks.iter().find(|check| check.name() == name)?;
        return Some((kind, vec![*check]));
    }
    None
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(ResponseBody::plain(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// As Go's `http.Error`: the text, a newline, and no guessing of content types.
fn error(status: StatusCode, text: &str) -> Reply {
    no_sniff(reply(status, "text/plain; charset=utf-8", format!("{text}\n")))
}

fn no_sniff(mut response: Reply) -> Reply {
    let name = HeaderName::from_static("x-content-type-options");
    response.headers_mut().insert(name, HeaderValue::from_static("nosniff"));
    response
}

fn not_found() -> Reply {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

fn only_get(method: &Method) -> Option<Reply> {
    if method == Method::GET {
        return None;
    }
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    Some(response)
}

fn add_cors(headers: &mut HeaderMap, origin: &str) {
    for (name, value) in [
        ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
        ("access-control-allow-origin", origin),
        ("access-control-allow-headers", "accept, content-type, authorization"),
    ] {
        // The origin came out of a header, so it is fit to be one.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Whether an allow-list contains `wanted`, or everything.
fn allows(list: &[String], wanted: &str) -> bool {
    list.is_empty() || list.iter().any(|entry| entry == "*" || entry == wanted)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// The host that a request names, without its port; of an IPv6 address also without brackets.
fn host_name<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    let authority =
        uri.authority().map(http::uri::Authority::as_str).unwrap_or_else(|| text(headers, &HOST));
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            address.unwrap_or(host)
        }
        _ => authority,
    }
}

/// etcd's text.
fn unknown_host(host: &str) -> String {
    format!(
        "\netcd received your request, but the Host header was unrecognized.\n\n\
         To fix this, choose one of the following options:\n\
         - Enable TLS, then any HTTPS request will be allowed.\n\
         - Add the hostname you want to use to the whitelist in settings.\n  \
           - e.g. etcd --host-whitelist {host:?}\n\n\
         This requirement has been added to help prevent \"DNS Rebinding\" attacks \
         (CVE-2018-5702).\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_select_their_checks() {
        let names = |path: &str, query: &str| {
            checks_of(path, &Query::parse(query))
                .map(|(_, checks)| checks.iter().map(|check| check.name()).collect::<Vec<_>>())
        };
        assert_eq!(names("/livez", ""), Some(vec!["serializable_read"]));
        assert_eq!(
            names("/readyz", "exclude=non_learner&exclude=unknown"),
            Some(vec!["data_corruption", "serializable_read", "linearizable_read"])
        );
        assert_eq!(names("/readyz/non_learner", ""), Some(vec!["non_learner"]));
        for unknown in ["/readyz/", "/readyzz", "/livez/linearizable_read", "/livez/x", "/"] {
            assert_eq!(names(unknown, ""), None, "{unknown}");
        }
    }

    #[test]
    fn hosts_are_compared_without_their_port() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("example.org:2379"));
        assert_eq!(host_name(&Uri::from_static("/health"), &headers), "example.org");
        // What Go's `net.SplitHostPort` makes of it.
        for (named, host) in [("[::1]:2379", "::1"), ("[::1]", "[::1]"), ("a", "a"), ("a:1", "a")] {
            headers.insert(HOST, HeaderValue::from_static(named));
            assert_eq!(host_name(&Uri::from_static("/health"), &headers), host);
        }
        assert!(unknown_host("h").ends_with(
            "--host-whitelist \"h\"\n\nThis requirement has been \
            added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n"
        ));
        assert!(allows(&["example.org".to_owned()], "example.org"));
        assert!(!allows(&["example.org".to_owned()], "attacker"));
        assert!(allows(&[], "anything"));
    }
}
