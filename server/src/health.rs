//! What the HTTP health checks ask of this server.

use varve_api::Status;
use varve_api::etcdserverpb::RangeRequest;

use varve_store::Alarm;

use crate::http::{Consistency, Health};
use crate::services::Services;
use crate::version::cluster_release;

impl Health for Services {
    fn alarms(&self) -> Vec<&'static str> {
        // What cannot be read is told by the checks that read.
        let alarms = self.view.alarms().unwrap_or_default();
        let name = |alarm: &Alarm| match () {
            () if alarm.is_no_space() => "NOSPACE",
            () if alarm.is_corrupt() => "CORRUPT",
            () => "UNKNOWN",
        };
        alarms.iter().map(name).collect()
    }

    fn has_leader(&self) -> bool {
        self.cluster.leader() != 0
    }

    fn is_learner(&self) -> bool {
        self.cluster.is_learner()
    }

    async fn read(&self, consistency: Consistency) -> Result<(), Status> {
        if consistency == Consistency::Linearizable {
            self.read_barrier().await?;
        }
        let request = RangeRequest {
            key: b"health".as_slice().into(),
            limit: 1,
            keys_only: true,
            ..RangeRequest::default()
        };
        self.view.range(&request).map(drop)
    }

    fn cluster_version(&self) -> Option<String> {
        let downgrade = self.view.downgrade().ok()?;
        (self.cluster.applied() > 0).then(|| format!("{}.0", cluster_release(downgrade)))
    }

    fn storage_version(&self) -> Option<String> {
        self.cluster_version()
    }

    fn raft_status(&self) -> serde_json::Value {
        serde_json::json!({
            "id": format!("{:x}", self.cluster.member_id),
            "term": self.cluster.term(),
            "commit": self.cluster.committed(),
            "applied": self.cluster.applied(),
            "lead": format!("{:x}", self.cluster.leader()),
            "raftState": if self.cluster.is_leader() { "StateLeader" } else { "StateFollower" },
        })
    }

    fn takes_users_from_certificates(&self) -> bool {
        self.auth.takes_users_from_certificates() && self.view.is_auth_enabled()
    }
}
