//! Who belongs to the cluster, changed while clients work: members are added, promoted, removed and
//! replaced, start as members that join, and end when they are removed.
//!
//! One idea: the operator is as careful as a person must be, and no more. It may have several changes
//! under way whose outcome it does not know, and the code must cope; but it gives up a disk only
//! when it is sure that the rest makes a quorum, whatever becomes of what it asked before.
//!
//! Invariants: while the disk of a member is lost, nothing but its removal is asked for; ids are never
//! used twice, but to see that this is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use varve_api::{Status, method};
use varve_server::rpc;
use varve_store::MemberChange;

use crate::check::durable::is_tagged;
use crate::history::{Operation, is_certain};
use crate::members::counted;
use crate::node::url_of;
use crate::plan::{Micros, SECOND, choose};
use crate::roster::{Configuration, Step};
use crate::world::{Event, World};

/// What may be asked for.
pub const CHANGES: [&str; 7] = [
    "add a voter",
    "add a learner",
    "promote a learner",
    "remove a member",
    "remove the leader",
    "replace a lost disk",
    "ask for what makes no sense",
];

/// Voters and learners that a seed has at most at once, and members that it ever has.
const MEMBERS_MAX: usize = 6;
const MEMBERS_EVER_MAX: u64 = 40;
/// An operator waits so long for an answer: longer than a member tries.
const PATIENCE: Micros = 15 * SECOND;
/// Behind this nobody still tries to propose what the operator gave up: as long as a member may be
/// asleep, and then try.
const UNSURE: Micros = 40 * SECOND;

/// What the operator knows.
#[derive(Default)]
pub struct Operator {
    /// Under way, by number.
    calls: BTreeMap<u64, Asked>,
    sent: u64,
    /// What was agreed, in order.
    agreed: Vec<MemberChange>,
    /// Changes drawn so far.
    drawn: u64,
    next_id: u64,
    /// Members whose disks are lost.
    lost: BTreeSet<u64>,
    /// How many of them are not replaced yet.
    owed: u64,
    /// A write that begins after this, and is acknowledged, decides what is undecided.
    unsure_until: Option<Micros>,
}

struct Asked {
    change: MemberChange,
    /// The term when it was asked.
    term: u64,
}

/// Answers to changes, by number.
pub type Outcomes = Vec<(u64, Result<(), Status>)>;

impl Operator {
    pub fn new(founders: u64) -> Self {
        Self { next_id: founders + 1, ..Self::default() }
    }

    pub fn is_waiting(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Whether nothing that it has given up may still happen.
    pub fn is_sure(&self) -> bool {
        self.unsure_until.is_none()
    }

    pub fn has_lost(&self, id: u64) -> bool {
        self.lost.contains(&id)
    }

    /// A write of a client was acknowledged.
    pub fn acknowledged(&mut self, operation: &Operation) {
        let is_write = is_tagged(&operation.request);
        if is_write && self.unsure_until.is_some_and(|until| operation.invoked > until) {
            self.unsure_until = None;
        }
    }
}

impl World<'_> {
    /// Members whose machines are there, running or not.
    pub fn machines(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| node.can_run).map(|node| node.id).collect()
    }

    pub fn any_machine(&mut self) -> u64 {
        let machines = self.machines();
        // Of a cluster of one, its voter is never removed.
        machines[self.random.below(machines.len() as u64) as usize]
    }

    /// The operator asks for something, and draws when it does again.
    pub fn change(&mut self) {
        if self.is_ending || self.plan.change == 0 {
            return;
        }
        let delay = self.about(self.plan.change);
        self.after(delay, Event::Change);
        let number = self.operator.drawn;
        self.operator.drawn += 1;
        let weights = self.plan.changes;
        let Some(kind) = choose(&mut self.random, &weights) else { return };
        if self.plan.left_out.changes.contains(&number) {
            return;
        }
        let now = self.roster.now().clone();
        // Whoever has rotted may be of no use any more, and the others must not become fewer.
        if !self.rotten().is_empty() {
            return;
        }
        // What is lost goes before anything else is done.
        if let Some(lost) = self.operator.lost.iter().copied().find(|id| now.has(*id)) {
            return self.ask_change(MemberChange::Remove { id: lost });
        }
        let kind = if self.operator.owed > 0 { 0 } else { kind };
        let Some(change) = self.draw_change(kind, &now) else { return };
        if kind == 0 {
            self.operator.owed = self.operator.owed.saturating_sub(1);
        }
        self.count(CHANGES[kind]);
        self.ask_change(change);
    }

    fn draw_change(&mut self, kind: usize, now: &Configuration) -> Option<MemberChange> {
        let all: Vec<u64> = now.voters.union(&now.learners).copied().collect();
        let any = |world: &mut Self| all[world.random.below(all.len() as u64) as usize];
        match kind {
            0 | 1 => {
                if all.len() >= MEMBERS_MAX || self.operator.next_id > MEMBERS_EVER_MAX {
                    return None;
                }
                self.operator.next_id += 1;
                Some(self.addition(self.operator.next_id - 1, kind == 1))
            }
            2 => now.learners.first().map(|id| MemberChange::Promote { id: *id }),
            3 if now.voters.len() > 1 => Some(MemberChange::Remove { id: any(self) }),
            4 if now.voters.len() > 1 => self.leader().map(|(id, _)| MemberChange::Remove { id }),
            5 => self.lose_a_disk(now).map(|id| MemberChange::Remove { id }),
            6 => {
                let gone = self.roster.removed().first().copied();
                let id = gone.filter(|_| self.random.one_in(2)).unwrap_or(63);
                Some(match self.random.below(4) {
                    0 => MemberChange::Remove { id },
                    1 => MemberChange::Promote { id: any(self) },
                    // Somebody who was a member, or still is.
                    2 => self.addition(gone.unwrap_or(all[0]), false),
                    _ => self.addition(all[0], true),
                })
            }
            _ => None,
        }
    }

    fn addition(&self, id: u64, is_learner: bool) -> MemberChange {
        MemberChange::Add { id, peer_urls: vec![url_of(id)], is_learner, learners_max: 1 }
    }

    /// Whoever leads in the highest term, and that term.
    pub fn leader(&self) -> Option<(u64, u64)> {
        let leading = self.nodes.values().filter_map(|node| {
            let cluster = &node.up.as_ref()?.context.cluster;
            cluster.is_leader().then_some((node.id, cluster.term()))
        });
        leading.max_by_key(|(_, term)| *term)
    }

    /// A disk is lost, if then it is certain that the others make a quorum without it; whose.
    fn lose_a_disk(&mut self, now: &Configuration) -> Option<u64> {
        let voters: Vec<u64> = now.voters.iter().copied().collect();
        let id = voters[self.random.below(voters.len() as u64) as usize];
        if !self.can_do_without(id) {
            return None;
        }
        self.give_up_disk(id);
        self.count("disk lost");
        self.tell(|| format!("{id} has lost its disk"), [14, id, 0]);
        Some(id)
    }

    /// Whether it is certain that without this voter the others make a quorum, and that it is not the
    /// only one that knows of the latest change.
    pub fn can_do_without(&self, id: u64) -> bool {
        let now = self.roster.now();
        let is_settled = !self.operator.is_waiting() && self.operator.is_sure();
        let is_lost = |id: &u64| self.operator.has_lost(*id);
        if !is_settled || now.voters.len() < 3 || !now.voters.contains(&id) {
            return false;
        }
        let knows = |other: &u64| {
            let up = self.nodes.get(other).and_then(|node| node.up.as_ref());
            up.is_some_and(|up| counted(up) == *now)
        };
        !now.voters.iter().any(is_lost)
            && now.voters.iter().all(|other| *other == id || knows(other))
    }

    /// The disk of a member is lost; it is to be removed, and another one added.
    pub fn give_up_disk(&mut self, id: u64) {
        self.operator.lost.insert(id);
        self.operator.owed += 1;
        let runtime = self.runtime;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.kill(runtime);
            node.can_run = false;
        }
    }

    fn ask_change(&mut self, change: MemberChange) {
        let target = match &change {
            MemberChange::Remove { id } => Some(*id).filter(|id| self.is_up(*id)),
            _ => None,
        };
        let member = match target {
            Some(id) if self.random.one_in(3) => {
                self.count("asked to remove itself");
                id
            }
            _ => self.any_machine(),
        };
        if let MemberChange::Add { id, .. } = change {
            // Whether it is told or not: the list of members will say.
            let delay = self.random.below(8 * SECOND);
            self.after(delay, Event::Join(id));
        }
        self.send_change(member, change);
    }

    /// Asks a member for a change.
    pub fn send_change(&mut self, member: u64, change: MemberChange) {
        let number = self.operator.sent;
        self.operator.sent += 1;
        self.tell(|| format!("operator asks {member}: {change:?}"), [15, number, member]);
        let term = self.leader().map_or(0, |(_, term)| term);
        self.operator.calls.insert(number, Asked { change, term });
        let delay = 10 + self.about(self.plan.delay);
        self.after(delay, Event::ReachChange(number, member));
        self.after(PATIENCE, Event::Changed(number, None));
    }

    fn is_up(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.up.is_some())
    }

    /// A change is at its member.
    pub fn reach_change(&mut self, number: u64, member: u64) {
        let Some(asked) = self.operator.calls.get(&number) else { return };
        let change = asked.change.clone();
        let up = self.nodes.get(&member).and_then(|node| node.up.as_ref());
        let Some(up) = up.filter(|up| up.serves()) else { return };
        let (services, outcomes) = (up.services.clone(), Rc::clone(&up.outcomes));
        up.spawn(self.runtime, async move {
            let outcome = match rpc::learner_may(&services, &method::CLUSTER_MEMBER_ADD) {
                Ok(()) => rpc::cluster::change_members(&services, change).await,
                Err(refused) => Err(refused),
            };
            outcomes.borrow_mut().push((number, outcome));
        });
        self.schedule(member);
    }

    /// An answer is at the operator, or none came.
    pub fn changed(&mut self, number: u64, outcome: Option<Result<(), Status>>) {
        let Some(asked) = self.operator.calls.remove(&number) else { return };
        let change = asked.change;
        self.tell(|| format!("operator: {change:?}: {outcome:?}"), [16, number, 0]);
        match outcome {
            Some(Ok(())) if self.operator.agreed.contains(&change) => self.count("change done"),
            Some(Ok(())) => {
                let violation =
                    format!("members: {change:?} is acknowledged, and nobody agreed to it");
                self.violations.push(violation);
            }
            Some(Err(status)) if is_certain(&status) => self.count("change refused"),
            _ => {
                self.operator.unsure_until = Some(self.now + UNSURE);
                self.count("change of unknown outcome");
            }
        }
    }

    /// A change is agreed, and this member was the first to apply it: what it means.
    pub fn agreed_change(&mut self, first: u64, index: u64, term: u64, step: &Step) {
        self.tell(|| format!("members at {index}/{term}: {step:?}"), [17, index, term]);
        let change = match step {
            Step::Accepted(change) => change,
            Step::Refused => return self.count("change refused when it was applied"),
        };
        self.operator.agreed.push(change.clone());
        let asked = self.operator.calls.values().find(|asked| asked.change == *change);
        let is_later = asked.is_some_and(|asked| asked.term != term);
        let is_unasked = asked.is_none();
        match change {
            // Its process has given up waiting for an answer that comes only now.
            MemberChange::Add { id, .. } if self.is_ending => {
                let id = *id;
                self.after(SECOND, Event::Join(id));
            }
            MemberChange::Promote { .. } if is_later => {
                self.count("learner promoted while the leader changed");
            }
            MemberChange::Remove { id } if self.leader().is_some_and(|(led, _)| led == *id) => {
                self.count("leader removed");
            }
            _ => {}
        }
        if let MemberChange::Remove { id } = change
            && self.nodes.get(id).is_some_and(|node| !node.rot.is_empty())
        {
            self.count("rotten member removed");
        }
        self.stop_behind_a_change(first);
        if is_unasked {
            self.count("change agreed after the operator gave up");
        }
        if self.roster.now().voters.len() == 1 {
            self.count("one voter left");
        }
    }
}
