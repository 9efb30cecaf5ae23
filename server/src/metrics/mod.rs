//! The metrics of the server, under etcd's names, in Prometheus text format 0.0.4.
//!
//! One idea: one table (`table.rs`) gives each metric its field, type, name and meaning. Whoever moves
//! a number holds an `Arc<Metrics>` and adds to a field; what is only known elsewhere (sizes,
//! revisions) is set by functions that run when a scrape comes (`on_scrape`). gRPC calls are
//! counted in each socket thread's own [`GrpcCounters`] and summed here.

mod grpc;
pub mod requests;
mod table;

use std::fmt::Write as _;
use std::sync::{Arc, PoisonError};

use prometheus::{Encoder, IntGauge, TextEncoder};

pub use self::table::Metrics;
use crate::config::features::{Gates, Stage};
use crate::grpc::GrpcCounters;

/// How detailed the metrics are: `--metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Counters and storage latencies.
    #[default]
    Basic,
    /// Also `grpc_server_handling_seconds`.
    Extensive,
}

/// One more in a gauge, as long as it lives.
pub struct Held(IntGauge);

impl Held {
    /// Counts it.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Sets what is only known elsewhere, just before a scrape is answered.
type Scraper = Box<dyn Fn(&Metrics) + Send>;

impl Metrics {
    /// Counters for one more socket thread.
    pub fn socket_counters(&self) -> Arc<GrpcCounters> {
        let counters = Arc::new(GrpcCounters::default());
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.push(Arc::clone(&counters));
        counters
    }

    /// Tells which features are on.
    pub fn tell_features(&self, gates: &Gates) {
        for (name, stage, is_on) in gates.iter() {
            let stage = match stage {
                Stage::Alpha => "ALPHA",
                Stage::Beta => "BETA",
            };
            self.feature_enabled.with_label_values(&[name, stage]).set(i64::from(is_on));
        }
    }

    /// Runs `scraper` before each scrape is answered, on a socket thread: it must not block.
    pub fn on_scrape(&self, scraper: impl Fn(&Metrics) + Send + 'static) {
        let mut scrapers = self.scrapers.lock().unwrap_or_else(PoisonError::into_inner);
        scrapers.push(Box::new(scraper));
    }

    /// All metrics as text.
    pub fn render(&self) -> Vec<u8> {
        for scraper in self.scrapers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            scraper(self);
        }
        let families = self.registry.gather();
        let mut text = Vec::with_capacity(256 * 1024);
        TextEncoder::new()
            .encode(&families, &mut text)
            .expect("metrics are well-formed, and writing to a Vec cannot fail");
        let mut extra = String::with_capacity(192 * 1024);
        for (process_name, name, help) in [
            ("process_max_fds", "os_fd_limit", "Most file descriptors that may be open."),
            ("process_open_fds", "os_fd_used", "File descriptors that are open."),
        ] {
            let family = families.iter().find(|family| family.name() == process_name);
            let value = family
                .and_then(|family| family.get_metric().first())
                .map_or(0.0, |metric| metric.get_gauge().get_value());
            write!(extra, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
                .expect("writing to a String cannot fail");
        }
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        grpc::render(&mut extra, &sockets, self.detail);
        text.extend_from_slice(extra.as_bytes());
        text
    }

    fn register_process(&self) {
        let collector = prometheus::process_collector::ProcessCollector::for_self();
        self.registry
            .register(Box::new(collector))
            .expect("the names of process metrics are not in the table");
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Metrics").field("detail", &self.detail).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
    }

    #[test]
    fn the_metrics_of_dashboards_and_alerts_are_there_before_anything_happened() {
        let text = text(&Metrics::new(Detail::Basic));
        for name in [
            "etcd_server_has_leader 0",
            "etcd_server_leader_changes_seen_total 0",
            "etcd_server_proposals_committed_total 0",
            "etcd_server_proposals_applied_total 0",
            "etcd_server_proposals_pending 0",
            "etcd_server_proposals_failed_total 0",
            "etcd_server_quota_backend_bytes 0",
            "varve_engine_runs 0",
            "varve_engine_memtable_bytes 0",
            "varve_engine_pressure_percent 0",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 0",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 0",
            "etcd_disk_backend_commit_duration_seconds_bucket{le=\"0.001\"} 0",
            "etcd_mvcc_db_total_size_in_bytes 0",
            "etcd_mvcc_db_total_size_in_use_in_bytes 0",
            "etcd_network_client_grpc_received_bytes_total 0",
            "etcd_network_client_grpc_sent_bytes_total 0",
            "grpc_server_started_total{grpc_method=\"Watch\",\
             grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 0",
            "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",\
             grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 0",
            "process_resident_memory_bytes ",
            "os_fd_used ",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing");
        }
        assert!(!text.contains("grpc_server_handling_seconds"));
    }

    #[test]
    fn labels_of_peers_are_spelled_as_etcd_spells_them() {
        let metrics = Metrics::new(Detail::Basic);
        metrics.peer_sent_bytes.with_label_values(&["8e9e05c52164694d"]).inc_by(7);
        metrics.snapshot_send_seconds.with_label_values(&["8e9e05c52164694d"]).observe(0.001);
        let text = text(&metrics);
        assert!(text.contains("etcd_network_peer_sent_bytes_total{To=\"8e9e05c52164694d\"} 7"));
        assert!(text.contains("etcd_network_snapshot_send_total_duration_seconds_count{To="));
    }

    #[test]
    fn what_is_known_elsewhere_is_asked_for_at_each_scrape() {
        let metrics = Metrics::new(Detail::Basic);
        metrics.on_scrape(|metrics| metrics.keys.add(1));
        assert!(text(&metrics).contains("etcd_debugging_mvcc_keys_total 1"));
        assert!(text(&metrics).contains("etcd_debugging_mvcc_keys_total 2"));
    }

    #[test]
    fn every_family_is_announced_once() {
        let text = text(&Metrics::new(Detail::Extensive));
        let mut names: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
