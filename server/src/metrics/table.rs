//! The table of metrics: each one's field, type, name and meaning.
//!
//! One idea: a metric is one entry below, and nowhere else: its field, its registration and its
//! documentation are made from it. Names are etcd's; what etcd has no name for begins with `varve_`.
//!
//! etcd's `go_*` and `etcd_server_go_version` have no honest counterpart and are left out;
//! `etcd_debugging_*` metrics of bbolt and of the v2 store likewise, and what nothing here would
//! move: a constant 0 reads as healthy.

use std::sync::{Arc, Mutex};

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, exponential_buckets,
};

use super::{Detail, Scraper};
use crate::grpc::GrpcCounters;
use crate::log_latency::LogLatency;

/// First bucket, in the metric's unit, and number of buckets; each is twice the one before.
type Buckets = (f64, usize);

/// Latencies of disks.
const FROM_1_MS: Buckets = (0.001, 14);
/// Latencies within the process.
const FROM_100_US: Buckets = (0.000_1, 20);

macro_rules! metrics {
    (
        $(plain { $( $plain:ident: $plain_type:ident = $plain_name:literal, $plain_help:literal; )* })?
        $(labelled { $( $labelled:ident: $labelled_type:ident = $labelled_name:literal,
            [$($label:literal),*], $labelled_help:literal; )* })?
        $(histograms { $( $histogram:ident = $histogram_name:literal, $buckets:expr,
            $histogram_help:literal; )* })?
        $(labelled_histograms { $( $vector:ident = $vector_name:literal,
            [$($vector_label:literal),*], $vector_buckets:expr, $vector_help:literal; )* })?
    ) => {
        /// Every metric that a part of the server can move. Cheap to share: `Arc<Metrics>`.
        pub struct Metrics {
            $($( #[doc = concat!("`", $plain_name, "`: ", $plain_help)]
                pub $plain: $plain_type, )*)?
            $($( #[doc = concat!("`", $labelled_name, "`: ", $labelled_help)]
                pub $labelled: $labelled_type, )*)?
            $($( #[doc = concat!("`", $histogram_name, "`: ", $histogram_help)]
                pub $histogram: Histogram, )*)?
            $($( #[doc = concat!("`", $vector_name, "`: ", $vector_help)]
                pub $vector: HistogramVec, )*)?
            /// How slow the log was lately; not a metric, but for who yields to it.
            pub log_latency: LogLatency,
            pub(super) registry: Registry,
            pub(super) detail: Detail,
            pub(super) sockets: Mutex<Vec<Arc<GrpcCounters>>>,
            pub(super) scrapers: Mutex<Vec<Scraper>>,
        }

        impl Metrics {
            /// All metrics at their initial values.
            pub fn new(detail: Detail) -> Arc<Self> {
                let registry = Registry::new();
                let metrics = Self {
                    $($( $plain: registered(&registry,
                        $plain_type::new($plain_name, $plain_help)), )*)?
                    $($( $labelled: registered(&registry,
                        $labelled_type::new(Opts::new($labelled_name, $labelled_help),
                            &[$($label),*])), )*)?
                    $($( $histogram: registered(&registry,
                        Histogram::with_opts(
                            options($histogram_name, $histogram_help, $buckets))), )*)?
                    $($( $vector: registered(&registry,
                        HistogramVec::new(options($vector_name, $vector_help, $vector_buckets),
                            &[$($vector_label),*])), )*)?
                    registry,
                    detail,
                    log_latency: LogLatency::default(),
                    sockets: Mutex::default(),
                    scrapers: Mutex::default(),
                };
                metrics.register_process();
                Arc::new(metrics)
            }
        }
    };
}

metrics! {
    plain {
        has_leader: IntGauge = "etcd_server_has_leader", "1 if this member knows a leader.";
        is_leader: IntGauge = "etcd_server_is_leader", "1 if this member is the leader.";
        is_learner: IntGauge = "etcd_server_is_learner", "1 if this member is a learner.";
        leader_changes_seen: IntCounter = "etcd_server_leader_changes_seen_total",
            "Changes of leader that this member saw.";
        proposals_committed: IntGauge = "etcd_server_proposals_committed_total",
            "Raft index up to which entries are committed.";
        proposals_applied: IntGauge = "etcd_server_proposals_applied_total",
            "Raft index up to which entries are applied.";
        proposals_pending: IntGauge = "etcd_server_proposals_pending",
            "Proposals that wait for their reply.";
        proposals_failed: IntCounter = "etcd_server_proposals_failed_total",
            "Proposals that were not committed.";
        quota_backend_bytes: Gauge = "etcd_server_quota_backend_bytes",
            "Size at which the store refuses to grow, in bytes.";
        read_indexes_failed: IntCounter = "etcd_server_read_indexes_failed_total",
            "Linearizable reads that could not be confirmed.";
        slow_read_indexes: IntCounter = "etcd_server_slow_read_indexes_total",
            "Linearizable reads whose confirmation took too long.";
        slow_apply: IntCounter = "etcd_server_slow_apply_total",
            "Requests whose execution exceeded --warning-apply-duration.";
        heartbeat_send_failures: IntCounter = "etcd_server_heartbeat_send_failures_total",
            "Heartbeats that the leader sent too late.";
        snapshot_apply_in_progress: IntGauge = "etcd_server_snapshot_apply_in_progress_total",
            "1 while a snapshot from the leader is being installed.";
        learner_promote_successes: IntCounter = "etcd_server_learner_promote_successes",
            "Learners promoted while this member was leader.";
        health_success: IntCounter = "etcd_server_health_success", "Successful /health checks.";
        health_failures: IntCounter = "etcd_server_health_failures", "Failed /health checks.";
        lease_expired: IntCounter = "etcd_debugging_server_lease_expired_total",
            "Leases that expired.";
        lease_granted: IntCounter = "etcd_debugging_lease_granted_total", "Leases granted.";
        lease_renewed: IntCounter = "etcd_debugging_lease_renewed_total",
            "Lease renewals seen by the leader.";
        lease_revoked: IntCounter = "etcd_debugging_lease_revoked_total", "Leases revoked.";
        auth_revision: IntGauge = "etcd_debugging_auth_revision",
            "Revision of users, roles and permissions.";
        compact_revision: IntGauge = "etcd_debugging_mvcc_compact_revision",
            "Revision of the last compaction.";
        current_revision: IntGauge = "etcd_debugging_mvcc_current_revision",
            "Current revision of the store.";
        compaction_last: IntGauge = "etcd_debugging_mvcc_db_compaction_last",
            "Unix time of the last compaction, 0 if there was none since the start.";
        events: IntCounter = "etcd_debugging_mvcc_events_total", "Events sent to watchers.";
        keys: IntGauge = "etcd_debugging_mvcc_keys_total", "Live keys.";
        slow_watchers: IntGauge = "etcd_debugging_mvcc_slow_watcher_total",
            "Watchers that catch up from storage.";
        watch_streams: IntGauge = "etcd_debugging_mvcc_watch_stream_total", "Open watch streams.";
        watchers: IntGauge = "etcd_debugging_mvcc_watcher_total", "Open watchers.";
        put_bytes: IntGauge = "etcd_debugging_mvcc_total_put_size_in_bytes",
            "Bytes of keys and values put since the start.";
        db_total_bytes: IntGauge = "etcd_mvcc_db_total_size_in_bytes",
            "Bytes of the store on disk.";
        db_in_use_bytes: IntGauge = "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Bytes of the store on disk that hold live data.";
        puts: IntCounter = "etcd_mvcc_put_total", "Puts executed.";
        deletes: IntCounter = "etcd_mvcc_delete_total", "Deletes executed.";
        ranges: IntCounter = "etcd_mvcc_range_total", "Ranges executed.";
        txns: IntCounter = "etcd_mvcc_txn_total", "Transactions executed.";
        defrag_inflight: IntGauge = "etcd_disk_defrag_inflight",
            "1 while a defragmentation runs.";
        scrubbed_bytes: IntCounter = "varve_engine_scrubbed_bytes_total",
            "Bytes of files that were compared with their digests.";
        scrubbed_passes: IntCounter = "varve_engine_scrubbed_passes_total",
            "Times that all files were compared with their digests.";
        merge_rate: IntGauge = "varve_engine_merge_rate_bytes",
            "Bytes a second that merges may take; falls while the log is slow.";
        engine_runs: IntGauge = "varve_engine_runs",
            "Tables that a point read looks into at most, beside the memtables.";
        engine_memtable_bytes: IntGauge = "varve_engine_memtable_bytes",
            "Bytes in memtables: not in files yet, and in the log.";
        engine_pressure_percent: IntGauge = "varve_engine_pressure_percent",
            "How far writes are ahead of background work; they are slowed down from 67 on.";
        trace_spans_sent: IntCounter = "varve_trace_spans_sent_total",
            "Spans that the collector of traces has taken.";
        trace_spans_dropped: IntCounter = "varve_trace_spans_dropped_total",
            "Spans for which there was no room, or that the collector did not take.";
        wal_write_bytes: IntGauge = "etcd_disk_wal_write_bytes_total",
            "Bytes written to the log.";
    }
    labelled {
        cluster_version: IntGaugeVec = "etcd_cluster_version", ["cluster_version"],
            "1 for the version that the cluster has agreed on.";
        server_version: IntGaugeVec = "etcd_server_version", ["server_version"],
            "1 for the version of etcd that this server speaks.";
        server_id: IntGaugeVec = "etcd_server_id", ["server_id"],
            "1 for the id of this member, in hexadecimal.";
        alarms: IntGaugeVec = "etcd_debugging_server_alarms", ["server_id", "alarm_type"],
            "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm";
        feature_enabled: IntGaugeVec = "etcd_server_feature_enabled", ["name", "stage"],
            "1 if the feature is on.";
        client_requests: IntCounterVec = "etcd_server_client_requests_total",
            ["type", "client_api_version"], "Requests by kind and by version of the client.";
        healthcheck: GaugeVec = "etcd_server_healthcheck", ["type", "name"],
            "1 if the check of /livez or /readyz last succeeded.";
        healthchecks: IntCounterVec = "etcd_server_healthchecks_total", ["type", "name", "status"],
            "Checks of /livez and /readyz by outcome.";
        learner_promote_failures: IntCounterVec = "etcd_server_learner_promote_failures",
            ["Reason"], "Learners not promoted while this member was leader.";
        known_peers: IntGaugeVec = "etcd_network_known_peers", ["Local", "Remote"],
            "1 for each member of the cluster.";
        active_peers: IntGaugeVec = "etcd_network_active_peers", ["Local", "Remote"],
            "1 for each peer with a connection.";
        disconnected_peers: IntCounterVec = "etcd_network_disconnected_peers_total",
            ["Local", "Remote"], "Connections to peers that were lost.";
        peer_sent_bytes: IntCounterVec = "etcd_network_peer_sent_bytes_total", ["To"],
            "Bytes sent to the peer.";
        peer_received_bytes: IntCounterVec = "etcd_network_peer_received_bytes_total", ["From"],
            "Bytes received from the peer.";
        peer_sent_failures: IntCounterVec = "etcd_network_peer_sent_failures_total", ["To"],
            "Messages to the peer that were lost or dropped.";
        peer_received_failures: IntCounterVec = "etcd_network_peer_received_failures_total",
            ["From"], "Messages from the peer that could not be read.";
        snapshot_send_success: IntCounterVec = "etcd_network_snapshot_send_success", ["To"],
            "Snapshots sent to the peer.";
        snapshot_send_failures: IntCounterVec = "etcd_network_snapshot_send_failures", ["To"],
            "Snapshots that did not reach the peer.";
        snapshots_in_sending: IntGaugeVec = "etcd_network_snapshot_send_inflights_total", ["To"],
            "Snapshots that are being sent to the peer.";
        snapshots_in_receiving: IntGaugeVec = "etcd_network_snapshot_receive_inflights_total",
            ["From"], "Snapshots that are being received from the peer.";
        snapshot_receive_success: IntCounterVec = "etcd_network_snapshot_receive_success",
            ["From"], "Snapshots received from the peer.";
        snapshot_receive_failures: IntCounterVec = "etcd_network_snapshot_receive_failures",
            ["From"], "Snapshots from the peer that were not completed.";
        stream_failures: IntCounterVec = "etcd_network_server_stream_failures_total",
            ["Type", "API"], "Streams that ended with an error.";
    }
    histograms {
        wal_fsync_seconds = "etcd_disk_wal_fsync_duration_seconds", FROM_1_MS,
            "Time to make a batch of the log durable.";
        wal_write_seconds = "etcd_disk_wal_write_duration_seconds", FROM_1_MS,
            "Time to write a batch of the log.";
        backend_commit_seconds = "etcd_disk_backend_commit_duration_seconds", FROM_1_MS,
            "Time to apply a batch to the store.";
        backend_defrag_seconds = "etcd_disk_backend_defrag_duration_seconds", (0.1, 13),
            "Time of a defragmentation.";
        backend_snapshot_seconds = "etcd_disk_backend_snapshot_duration_seconds", (0.01, 17),
            "Time to stream a snapshot to a client.";
        hash_seconds = "etcd_mvcc_hash_duration_seconds", (0.01, 15),
            "Time to hash the whole store.";
        hash_rev_seconds = "etcd_mvcc_hash_rev_duration_seconds", (0.01, 15),
            "Time to hash the store up to a revision.";
        snap_db_save_seconds = "etcd_snap_db_save_total_duration_seconds", (0.1, 10),
            "Time to receive and store a snapshot.";
        lease_ttl_seconds = "etcd_debugging_lease_ttl_total", (1.0, 24),
            "Time-to-live of granted leases.";
    }
    labelled_histograms {
        snapshot_send_seconds = "etcd_network_snapshot_send_total_duration_seconds", ["To"],
            (0.1, 10), "Time to send a snapshot to the peer.";
        snapshot_receive_seconds = "etcd_network_snapshot_receive_total_duration_seconds",
            ["From"], (0.1, 10), "Time to receive a snapshot from the peer.";
        range_seconds = "etcd_server_range_duration_seconds", ["success"], FROM_100_US,
            "Time to read a range from the store.";
        request_seconds = "etcd_server_request_duration_seconds", ["type", "success"], FROM_1_MS,
            "Time to answer a request.";
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("names and labels in the table above are well-formed");
    registry.register(Box::new(metric.clone())).expect("names in the table above are unique");
    metric
}

fn options(name: &str, help: &str, (first, count): Buckets) -> HistogramOpts {
    let buckets = exponential_buckets(first, 2.0, count).expect("buckets grow from above zero");
    HistogramOpts::new(name, help).buckets(buckets)
}
