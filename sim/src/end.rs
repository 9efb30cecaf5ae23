//! The end of a seed: first a quorum is healed while the rest stays broken, and must make progress;
//! then everything is healed, and all must come together.
//!
//! One idea: faults that always heal hide a cluster that only works when everything does. A member
//! that can send and not receive stays so while the others must serve.

use varve_api::etcdserverpb::PutRequest;

use crate::history::{Outcome, Replica, Request};
use crate::members::counted;
use crate::node::{Node, Running};
use crate::plan::{MILLISECOND, SECOND};
use crate::roster::Configuration;
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
        self.take_out_rotten();
        let voters: Vec<u64> = self.roster.now().voters.iter().copied().collect();
        let first = self.random.below(voters.len() as u64) as usize;
        let sound = voters.iter().cycle().skip(first).take(voters.len());
        let sound = sound.filter(|id| !self.operator.has_lost(**id) && !self.is_out(**id));
        let mut core: Vec<u64> = sound.take(self.roster.now().quorum()).copied().collect();
        for other in self.machines() {
            if core.contains(&other) {
                continue;
            }
            core.iter().for_each(|id| self.cut(*id, other));
            if self.random.one_in(2) {
                core.iter().for_each(|id| self.cut(other, *id));
            }
        }
        core.iter().for_each(|id| self.repair(*id));
        if !self.require_progress(&mut core) {
            return;
        }
        self.heal();
        let all = self.roster.now().clone();
        for id in all.voters.union(&all.learners) {
            self.repair(*id);
        }
        // Who does not know yet that it was removed is told; some start again who do.
        for id in self.nodes.keys().copied().collect::<Vec<u64>>() {
            let is_gone = !self.nodes[&id].can_run && !self.operator.has_lost(id);
            if is_gone && self.random.one_in(2) {
                self.count("removed member started again");
                self.nodes.get_mut(&id).expect("a member").can_run = true;
            }
            if !all.has(id) {
                self.repair(id);
            }
        }
        self.require_quiet();
        if self.violations.is_empty() {
            self.complete_streams();
            self.take_replicas();
            self.look_at_rotten();
        }
    }

    /// Heals so many more members that the core is a quorum of all that it may take for the members:
    /// one that does not know yet that a change was agreed asks those of before.
    fn widen(&mut self, core: &mut Vec<u64>) -> bool {
        let Some(next) = self.lacking(core) else { return false };
        for id in &*core {
            self.mend(*id, next);
        }
        core.push(next);
        self.count("core widened for a change of the members");
        self.tell(|| format!("{next} is needed, too"), [20, next, 0]);
        self.repair(next);
        true
    }

    fn lacking(&self, core: &[u64]) -> Option<u64> {
        let applied = core.iter().filter_map(|id| {
            let up = self.nodes.get(id)?.up.as_ref()?;
            Some(up.context.cluster.applied()).filter(|applied| *applied > 0)
        });
        let oldest = applied.min().unwrap_or(u64::MAX);
        self.roster.since(oldest).find_map(|configuration| {
            let voters = &configuration.voters;
            let there = voters.iter().filter(|id| core.contains(id)).count();
            let can_run = |id: &&u64| {
                let node = self.nodes.get(id);
                let is_there = |node: &Node| node.can_run && !node.is_out;
                !core.contains(id) && node.map_or(self.roster.now().has(**id), is_there)
            };
            let next = voters.iter().find(can_run);
            next.copied().filter(|_| there < configuration.quorum())
        })
    }

    pub fn repair(&mut self, id: u64) {
        let runtime = self.runtime;
        let Some(node) = self.nodes.get_mut(&id) else { return self.join(id) };
        if !node.can_run {
            return;
        }
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

    /// Whether nobody who is left can tell of the latest change: a leader that was removed was cut off or
    /// killed for as long as it would have told the rest, and too few of those are left who were members
    /// before. A learner that was told cannot pass it on, for it is never elected. etcd has this, too, where
    /// two members become one.
    fn is_lost_with_the_removed(&self) -> bool {
        let changed_at = self.roster.changed_at();
        let tells = |id: u64| {
            let knows = self.nodes.get(&id).is_some_and(|node| node.applied_ever >= changed_at);
            knows && self.roster.now().voters.contains(&id)
        };
        let Some(before) = self.roster.since(changed_at.saturating_sub(1)).next() else {
            return false;
        };
        let can_run = |id: &&u64| self.nodes.get(id).is_some_and(|node| node.can_run);
        let is_short = before.voters.iter().filter(can_run).count() < before.quorum();
        let mut went = before.voters.difference(&self.roster.now().voters);
        // Any other leader knows for good before who is removed hears of it.
        let has_led = went.any(|id| self.leaders.values().any(|leader| leader == id));
        is_short && has_led && !self.remaining().any(tells)
    }

    /// A write is answered within the bound; false if none can be.
    fn require_progress(&mut self, core: &mut Vec<u64>) -> bool {
        // Whoever starts first finds out what it has.
        self.run_until(self.now + SECOND);
        let mut deadline = self.now + PROGRESS_MAX_SECONDS * SECOND;
        for attempt in 0.. {
            if self.now >= deadline || !self.violations.is_empty() {
                break;
            }
            if self.widen(core) {
                deadline = self.now + PROGRESS_MAX_SECONDS * SECOND;
            }
            let member = core[attempt % core.len()];
            let put = PutRequest {
                key: "end".into(),
                value: self.now.to_string().into(),
                ..PutRequest::default()
            };
            let is_there = self.nodes.get(&member).and_then(|node| node.up.as_ref());
            if !is_there.is_some_and(Running::serves) {
                self.run_until(self.now + 100 * MILLISECOND);
                continue;
            }
            let number = self.send_request(usize::MAX, member, Request::Put(put));
            while self.calls.contains_key(&number) && self.violations.is_empty() {
                self.run_until(self.now + 100 * MILLISECOND);
            }
            if matches!(self.history.operations[number].outcome, Outcome::Done(_)) {
                return true;
            }
        }
        if self.is_lost_with_the_removed() {
            self.count("lost with a removed leader");
        } else if self.violations.is_empty() {
            let (seconds, states) = (PROGRESS_MAX_SECONDS, self.states());
            let violation =
                format!("liveness: quorum {core:?} served no write in {seconds} s: {states}");
            self.violations.push(violation);
        }
        false
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
            let states = self.states();
            let calls = self.calls.len();
            self.violations.push(format!(
                "liveness: not quiet within {QUIET_MAX_SECONDS} s: {calls} calls; {states}"
            ));
        }
    }

    /// Who is how far, in words.
    fn states(&self) -> String {
        let states = self.nodes.values().map(|node| match &node.up {
            None => format!("{} is down", node.id),
            Some(up) => {
                let cluster = &up.context.cluster;
                let leases = up.context.view.leases().map_or(0, |leases| leases.len());
                format!(
                    "{} applied {} of {}, leader {}, {leases} leases, serves {}, counts {:?}",
                    node.id,
                    cluster.applied(),
                    cluster.committed(),
                    cluster.leader(),
                    up.serves(),
                    counted(up),
                )
            }
        });
        let states: Vec<String> = states.collect();
        format!("{}; members {:?}", states.join("; "), self.roster.now())
    }

    /// Members that are to be there in the end.
    fn remaining(&self) -> impl Iterator<Item = u64> {
        let Configuration { voters, learners } = self.roster.now();
        let there = voters.union(learners).copied();
        there.filter(|id| !self.operator.has_lost(*id) && !self.is_out(*id))
    }

    fn is_quiet(&self) -> bool {
        let last = self.history.log.keys().next_back().copied().unwrap_or(1);
        let all_applied = self.remaining().all(|id| {
            self.nodes.get(&id).and_then(|node| node.up.as_ref()).is_some_and(|up| {
                let has_leases = up.context.view.leases().is_ok_and(|leases| !leases.is_empty());
                let is_last = up.context.cluster.applied() == last;
                is_last && !has_leases && up.serves() && counted(up) == *self.roster.now()
            })
        });
        let is_over = |node: &Node| {
            let is_one = self.roster.now().has(node.id);
            node.up.as_ref().is_none_or(|up| is_one || self.is_forgotten(up))
        };
        let is_removal_done = self.nodes.values().all(is_over);
        all_applied && is_removal_done && self.calls.is_empty() && !self.operator.is_waiting()
    }

    /// Whether nobody is left to tell a member that it was removed: none of those that it counts is a
    /// member still, with its disk. It has no leader, and goes on asking for votes, as etcd does.
    fn is_forgotten(&self, up: &Running) -> bool {
        let Configuration { voters, learners } = counted(up);
        let mut counts = voters.union(&learners);
        up.context.cluster.leader() == 0 && !counts.any(|id| self.remaining().any(|one| one == *id))
    }

    fn take_replicas(&mut self) {
        for id in self.remaining().collect::<Vec<u64>>() {
            let up = self.nodes[&id].up.as_ref().expect("all are up");
            let members = up.context.view.members().unwrap_or_default();
            let has = |is_learner: bool| {
                let of_kind = members.iter().filter(|member| member.is_learner == is_learner);
                of_kind.map(|member| member.id).collect()
            };
            let told = Configuration { voters: has(false), learners: has(true) };
            if told != *self.roster.now() {
                let expected = self.roster.now();
                let violation = format!("members: expected {expected:?}, {id} tells {told:?}");
                self.violations.push(violation);
            }
            match self.replica(id) {
                Ok(replica) => self.history.replicas.push(replica),
                Err(status) => {
                    self.violations.push(format!("{id} cannot be read: {status:?}"));
                }
            }
        }
    }

    /// What a member holds that runs.
    pub fn replica(&self, member: u64) -> Result<Replica, varve_api::Status> {
        let view = &self.nodes[&member].up.as_ref().expect("it runs").context.view;
        let all = varve_api::etcdserverpb::RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            ..Default::default()
        };
        let leases = view.leases()?;
        Ok(Replica {
            member,
            keys: view.range(&all)?.kvs,
            leases: leases.into_iter().map(|(id, ttl)| (id.0, ttl)).collect(),
            revision: view.revision(),
            compacted: view.compacted(),
            hash: view.hash_kv(0)?.hash,
            changes: None,
        })
    }
}
