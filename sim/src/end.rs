//! The end of a seed: first a quorum is healed while the rest stays broken, and must make progress;
//! then everything is healed, and all must come together.
//!
//! One idea: faults that always heal hide a cluster that only works when everything does. A member
//! that can send and not receive stays so while the others must serve.

use varve_api::etcdserverpb::PutRequest;

use crate::history::{Outcome, Replica, Request};
use crate::plan::{MILLISECOND, SECOND};
use crate::world::World;

/// Ten election timeouts, and as long as a client may wait.
const PROGRESS_MAX_SECONDS: u64 = 30;
/// How long all may take to come together, leases that run out included.
const QUIET_MAX_SECONDS: u64 = 90;

impl World<'_> {
    /// See the head of the file.
    pub fn end(&mut self) {
        self.is_ending = true;
        self.heal();
        let quorum = self.plan.members / 2 + 1;
        let first = self.random.below(self.plan.members);
        let core: Vec<u64> = (0..quorum).map(|at| 1 + (first + at) % self.plan.members).collect();
        let others: Vec<u64> = (1..=self.plan.members).filter(|id| !core.contains(id)).collect();
        for other in &others {
            core.iter().for_each(|id| self.cut(*id, *other));
            if self.random.one_in(2) {
                core.iter().for_each(|id| self.cut(*other, *id));
            }
        }
        core.iter().for_each(|id| self.repair(*id));
        self.require_progress(core[0]);
        self.heal();
        others.iter().for_each(|id| self.repair(*id));
        self.require_quiet();
        if self.violations.is_empty() {
            self.complete_streams();
            self.take_replicas();
        }
    }

    fn repair(&mut self, id: u64) {
        let runtime = self.runtime;
        let node = self.nodes.get_mut(&id).expect("a member");
        node.paused_until = 0;
        node.slow_until = 0;
        node.disk.clear_faults();
        if node.disk.is_stopped() {
            node.lose_power(runtime);
        }
        node.disk.stop_at_operation(u64::MAX);
        node.is_disk_faulty = false;
        if node.up.is_none() {
            self.start(id);
        }
        self.schedule(id);
    }

    /// A write is answered within the bound.
    fn require_progress(&mut self, member: u64) {
        let deadline = self.now + PROGRESS_MAX_SECONDS * SECOND;
        while self.now < deadline && self.violations.is_empty() {
            let put = PutRequest {
                key: "end".into(),
                value: self.now.to_string().into(),
                ..PutRequest::default()
            };
            let number = self.send_request(usize::MAX, member, Request::Put(put));
            while self.calls.contains_key(&number) && self.violations.is_empty() {
                self.run_until(self.now + 100 * MILLISECOND);
            }
            if matches!(self.history.operations[number].outcome, Outcome::Done(_)) {
                return;
            }
        }
        if self.violations.is_empty() {
            let seconds = PROGRESS_MAX_SECONDS;
            self.violations.push(format!("liveness: a quorum served no write in {seconds} s"));
        }
    }

    /// All have applied the same, no lease runs, no request is under way, watchers have read all.
    fn require_quiet(&mut self) {
        let deadline = self.now + QUIET_MAX_SECONDS * SECOND;
        while self.now < deadline && self.violations.is_empty() {
            self.run_until(self.now + SECOND);
            if self.is_quiet() {
                // What watchers have not read yet, the slowest of which have just begun to sleep.
                let before = self.history.log.len();
                self.run_until(self.now + 20 * SECOND);
                if self.is_quiet() && before == self.history.log.len() {
                    return;
                }
            }
        }
        if self.violations.is_empty() {
            let states = self.nodes.values().map(|node| match &node.up {
                None => format!("{} is down", node.id),
                Some(up) => {
                    let cluster = &up.context.cluster;
                    let leases = up.context.view.leases().map_or(0, |leases| leases.len());
                    format!(
                        "{} applied {} of {}, leader {}, {leases} leases",
                        node.id,
                        cluster.applied(),
                        cluster.committed(),
                        cluster.leader()
                    )
                }
            });
            let states: Vec<String> = states.collect();
            let calls = self.calls.len();
            self.violations.push(format!(
                "liveness: not quiet within {QUIET_MAX_SECONDS} s: {calls} calls; {}",
                states.join("; ")
            ));
        }
    }

    fn is_quiet(&self) -> bool {
        let last = self.history.log.keys().next_back().copied().unwrap_or(1);
        let all_applied = self.nodes.values().all(|node| {
            node.up.as_ref().is_some_and(|up| {
                let has_leases = up.context.view.leases().is_ok_and(|leases| !leases.is_empty());
                up.context.cluster.applied() == last && !has_leases
            })
        });
        all_applied && self.calls.is_empty()
    }

    fn take_replicas(&mut self) {
        for node in self.nodes.values() {
            let up = node.up.as_ref().expect("all are up");
            let view = &up.context.view;
            let all = varve_api::etcdserverpb::RangeRequest {
                key: "\0".into(),
                range_end: "\0".into(),
                ..Default::default()
            };
            let read = || -> Result<Replica, varve_api::Status> {
                let leases = view.leases()?;
                Ok(Replica {
                    member: node.id,
                    keys: view.range(&all)?.kvs,
                    leases: leases.into_iter().map(|(id, ttl)| (id.0, ttl)).collect(),
                    revision: view.revision(),
                    compacted: view.compacted(),
                    hash: view.hash_kv(0)?.hash,
                    changes: None,
                })
            };
            match read() {
                Ok(replica) => self.history.replicas.push(replica),
                Err(status) => {
                    self.violations.push(format!("{} cannot be read: {status:?}", node.id));
                }
            }
        }
    }
}
