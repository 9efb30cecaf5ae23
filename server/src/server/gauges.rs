//! Gauges that are only set when somebody asks: at each scrape, from what the threads share.
//!
//! One idea: what is known elsewhere is not counted a second time; it is looked up. A scrape is
//! answered on a socket thread, so nothing here waits: a store that cannot be read now leaves its
//! gauges as they were.

use std::sync::Arc;

use bytes::Bytes;
use varve_api::etcdserverpb::RangeRequest;
use varve_store::View;

use crate::member::Shared;
use crate::metrics::Metrics;
use crate::setup::Setup;
use crate::version;

/// Sets what stays as it is, and has the rest set at each scrape.
pub(super) fn observe(shared: &Shared, setup: &Setup) {
    let (cluster, view) = (Arc::clone(&shared.cluster), shared.view.clone());
    shared.metrics.quota_backend_bytes.set(setup.requests.quota_bytes as f64);
    shared.metrics.server_version.with_label_values(&[version::ETCD_VERSION]).set(1);
    let id = format!("{:x}", shared.cluster.member_id);
    shared.metrics.server_id.with_label_values(&[&id]).set(1);
    shared.metrics.on_scrape(move |metrics| {
        let sizes = view.db_sizes();
        metrics.has_leader.set(i64::from(cluster.leader() != 0));
        metrics.is_leader.set(i64::from(cluster.is_leader()));
        metrics.is_learner.set(i64::from(cluster.is_learner()));
        observe_store(metrics, &view);
        metrics.proposals_committed.set(cluster.committed() as i64);
        let seen = metrics.leader_changes_seen.get();
        metrics.leader_changes_seen.inc_by(cluster.leader_changes().saturating_sub(seen));
        metrics.db_total_bytes.set((sizes.disk_bytes + sizes.memtable_bytes) as i64);
        metrics.db_in_use_bytes.set((sizes.live_bytes + sizes.memtable_bytes) as i64);
        metrics.engine_runs.set(sizes.runs as i64);
        metrics.engine_memtable_bytes.set(sizes.memtable_bytes as i64);
        metrics.engine_pressure_percent.set((view.db_pressure() * 100.0) as i64);
        metrics.auth_revision.set(view.auth().revision() as i64);
        metrics.current_revision.set(view.revision());
        metrics.compact_revision.set(view.compacted());
    });
}

/// What only a read tells; what cannot be read now stays as it was.
fn observe_store(metrics: &Metrics, view: &View) {
    let everything = RangeRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        count_only: true,
        ..RangeRequest::default()
    };
    // Counts are sums: no value is read, and few blocks of keys.
    if let Ok(Some(found)) = view.range_of_residents(&everything) {
        metrics.keys.set(found.count);
    }
    if let Ok(downgrade) = view.downgrade() {
        let release = version::cluster_release(downgrade).to_string();
        metrics.cluster_version.reset();
        metrics.cluster_version.with_label_values(&[&release]).set(1);
    }
}
