//! How long requests took, and of which version their clients are: one instance a socket thread.
//!
//! One idea: labels are looked up once a thread; what they lead to is kept here, so that counting a
//! request costs a short search and an atomic addition.
//!
//! Invariants: a thread counts at most `VERSIONS_MAX` versions by name, for a client may call itself
//! what it likes.

use std::cell::RefCell;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};
use varve_api::method::Kind;
use varve_store::CommandKind;

use super::Metrics;
use crate::grpc::RequestMeta;

/// Versions of clients that are told apart; the others are [`UNKNOWN`].
const VERSIONS_MAX: usize = 16;
/// What etcd calls a client that does not say.
const UNKNOWN: &str = "unknown";

/// Counts the requests of one socket thread.
pub struct RequestMetrics {
    seconds: HistogramVec,
    clients: IntCounterVec,
    ranges: Outcomes,
    kinds: RefCell<Vec<(&'static str, Outcomes)>>,
    versions: RefCell<Vec<(String, Clients)>>,
}

/// Times of what succeeded and of what did not.
#[derive(Clone)]
pub struct Outcomes {
    succeeded: Histogram,
    failed: Histogram,
}

/// Calls by clients of one version.
#[derive(Clone)]
struct Clients {
    unary: IntCounter,
    stream: IntCounter,
}

impl RequestMetrics {
    /// Counts in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let range = |success| metrics.range_seconds.with_label_values(&[success]);
        Self {
            seconds: metrics.request_seconds.clone(),
            clients: metrics.client_requests.clone(),
            ranges: Outcomes { succeeded: range("true"), failed: range("false") },
            kinds: RefCell::default(),
            versions: RefCell::default(),
        }
    }

    /// A request of this kind, as etcd names it, is answered.
    pub fn took(&self, kind: &'static str, is_success: bool, took: Duration) {
        let mut kinds = self.kinds.borrow_mut();
        let position = kinds.iter().position(|(known, _)| *known == kind);
        let position = position.unwrap_or_else(|| {
            let of = |success| self.seconds.with_label_values(&[kind, success]);
            kinds.push((kind, Outcomes { succeeded: of("true"), failed: of("false") }));
            kinds.len() - 1
        });
        kinds[position].1.took(is_success, took);
    }

    /// Where reads of ranges are timed, for other threads too.
    pub fn ranges(&self) -> &Outcomes {
        &self.ranges
    }

    /// A call has come.
    pub fn came(&self, meta: &RequestMeta) {
        let clients = self.clients_of(meta.client_api_version().unwrap_or(UNKNOWN));
        match meta.method().kind {
            Kind::Unary => clients.unary.inc(),
            Kind::ServerStream | Kind::BidiStream => clients.stream.inc(),
        }
    }

    fn clients_of(&self, version: &str) -> Clients {
        let mut versions = self.versions.borrow_mut();
        if let Some((_, clients)) = versions.iter().find(|(known, _)| known == version) {
            return clients.clone();
        }
        let is_full = versions.len() >= VERSIONS_MAX;
        let shown = if is_full { UNKNOWN } else { version };
        let of = |kind| self.clients.with_label_values(&[kind, shown]);
        let clients = Clients { unary: of("unary"), stream: of("stream") };
        if !is_full {
            versions.push((version.to_owned(), clients.clone()));
        }
        clients
    }
}

impl Outcomes {
    /// One more has ended.
    pub fn took(&self, is_success: bool, took: Duration) {
        let histogram = if is_success { &self.succeeded } else { &self.failed };
        histogram.observe(took.as_secs_f64());
    }
}

/// What etcd calls a command of this kind; `method` is the call's name if it is one of `Auth`.
pub fn kind_name(kind: CommandKind, method: &str) -> &'static str {
    match kind {
        CommandKind::Put => "Put",
        CommandKind::DeleteRange => "DeleteRange",
        CommandKind::Txn => "Txn",
        CommandKind::Compact => "Compaction",
        CommandKind::LeaseGrant => "LeaseGrant",
        CommandKind::LeaseRevoke => "LeaseRevoke",
        CommandKind::LeaseCheckpoint => "LeaseCheckpoint",
        CommandKind::Alarm => "Alarm",
        CommandKind::MemberPublish => "ClusterMemberAttrSet",
        CommandKind::Downgrade => "DowngradeInfoSet",
        // In etcd a change of the membership is no request of this sort.
        CommandKind::MemberChange => "Unknown",
        CommandKind::Auth => match method {
            "AuthEnable" => "AuthEnable",
            "AuthDisable" => "AuthDisable",
            "UserAdd" => "AuthUserAdd",
            "UserDelete" => "AuthUserDelete",
            "UserChangePassword" => "AuthUserChangePassword",
            "UserGrantRole" => "AuthUserGrantRole",
            "UserRevokeRole" => "AuthUserRevokeRole",
            "RoleAdd" => "AuthRoleAdd",
            "RoleDelete" => "AuthRoleDelete",
            "RoleGrantPermission" => "AuthRoleGrantPermission",
            "RoleRevokePermission" => "AuthRoleRevokePermission",
            _ => "Authenticate",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Detail;

    #[test]
    fn clients_that_call_themselves_everything_are_unknown_in_the_end() {
        let metrics = Metrics::new(Detail::Basic);
        let requests = RequestMetrics::new(&metrics);
        for number in 0..100 {
            requests.clients_of(&format!("3.{number}")).unary.inc();
        }
        requests.clients_of("3.1").unary.inc();
        let count = |version| metrics.client_requests.with_label_values(&["unary", version]).get();
        assert_eq!((count("3.0"), count("3.1"), count(UNKNOWN)), (1, 2, 100 - VERSIONS_MAX as u64));
    }

    #[test]
    fn requests_are_counted_by_kind_and_outcome() {
        let metrics = Metrics::new(Detail::Basic);
        let requests = RequestMetrics::new(&metrics);
        for (kind, is_success) in [("Put", true), ("Txn", false), ("Put", true)] {
            requests.took(kind, is_success, Duration::from_millis(2));
        }
        let count = |kind, success| {
            metrics.request_seconds.with_label_values(&[kind, success]).get_sample_count()
        };
        let counts = [count("Put", "true"), count("Put", "false"), count("Txn", "false")];
        assert_eq!(counts, [2, 0, 1]);
    }
}
