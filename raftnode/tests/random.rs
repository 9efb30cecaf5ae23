//! Groups under random trouble: crashes at any point of a cycle and of a disk call, partitions of
//! single directions, lost, repeated and reordered messages, snapshots, hand-overs.
//!
//! What must never happen is checked by [`cluster::Cluster`] at every step. At the end the trouble
//! stops, and all members must have everything that was ever applied anywhere: nothing that
//! could have been acknowledged is lost.
//!
//! The groups of the membership tests also grow, shrink and replace members all the while; whoever
//! was removed goes on for a while, and at the end is gone for good: nobody may need it.
//!
//! A failing seed is printed; `VARVE_SEED=<seed>` runs it alone, `VARVE_SEEDS=<n>` runs more.

mod cluster;

use std::collections::BTreeSet;

use varve_disk::sim::Random;
use varve_raftnode::{MemberChange, NodeId};

use cluster::Cluster;

const STEPS: u64 = 3000;
const QUEUE_MAX: usize = 300;
/// Members at once, learners included.
const MEMBERS_MAX: usize = 6;

/// How often things happened that a run without them would not have tested.
#[derive(Debug, Default)]
struct Reached {
    crashes: u64,
    crashes_within_persist: u64,
    crashes_while_opening: u64,
    crashes_around_install: u64,
    installs: u64,
    reads_answered: u64,
    reads_failed: u64,
    applied: u64,
    leaders: u64,
    additions: u64,
    promotions: u64,
    removals: u64,
    refused_changes: u64,
}

struct Run {
    cluster: Cluster,
    random: Random,
    reached: Reached,
    requests: u64,
    /// Whether members come and go. The newest has the highest id; no id is used twice.
    changes_members: bool,
}

impl Run {
    fn new(seed: u64, voters: &[u64], learners: &[u64]) -> Self {
        Self {
            cluster: Cluster::new(seed, voters, learners),
            random: Random::new(seed),
            reached: Reached::default(),
            requests: 0,
            changes_members: false,
        }
    }

    /// A group whose members change.
    fn with_changes(seed: u64, voters: &[u64], learners: &[u64]) -> Self {
        Self { changes_members: true, ..Self::new(seed, voters, learners) }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    fn any_node(&mut self) -> u64 {
        let count = self.cluster.members.len() as u64;
        let position = self.below(count) as usize;
        *self.cluster.members.keys().nth(position).expect("a member")
    }

    fn step(&mut self) {
        let waiting = self.cluster.queue.len();
        if waiting > 0 && self.random.one_in(2) {
            // Mostly in order, so that there is progress between the confusions.
            let ahead = if self.random.one_in(3) { waiting as u64 } else { 1 };
            let position = self.below(ahead) as usize;
            return self.cluster.deliver(position);
        }
        if self.changes_members && self.random.one_in(60) {
            return self.change_members();
        }
        let node = self.any_node();
        let action = self.below(1000);
        if !self.cluster.is_up(node) {
            if action < 100 {
                self.restart(node);
            }
            return;
        }
        match action {
            0..600 => self.cycle(node),
            600..800 => self.cluster.tick(node),
            800..880 => {
                self.requests += 1;
                let text = format!("{}.{node}", self.requests);
                // Refusals are part of the game.
                let _ = self.cluster.propose(node, &text);
            }
            880..920 => {
                self.requests += 1;
                self.cluster.read(node, self.requests);
            }
            920..940 if waiting > 0 => {
                let position = self.below(waiting as u64) as usize;
                self.cluster.lose(position);
            }
            940..955 if waiting > 0 => {
                let position = self.below(waiting as u64) as usize;
                let twin = self.cluster.queue[position].clone();
                self.cluster.queue.push(twin);
            }
            955..970 => {
                let keep = self.below(5);
                self.cluster.flush(node, keep);
            }
            970..974 => self.crash(node),
            974..980 => {
                let other = self.any_node();
                self.cluster.cut.insert((node, other));
            }
            980..990 => self.cluster.cut.clear(),
            990..993 => {
                let other = self.any_node();
                self.cluster.node(node).transfer_leadership(NodeId(other));
            }
            993..996 => {
                let other = self.any_node();
                self.cluster.node(node).unreachable(NodeId(other));
            }
            996..1000 => self.cluster.installs_at_once = self.random.one_in(2),
            _ => {}
        }
        while self.cluster.queue.len() > QUEUE_MAX {
            self.cluster.lose(0);
        }
    }

    /// Asks somebody who leads for a change that may or may not make sense.
    fn change_members(&mut self) {
        if self.random.one_in(10) {
            self.retire_one();
        }
        let Some(leader) = self.cluster.leader() else { return };
        let (voters, learners) = self.cluster.members[&leader].machine.members.clone();
        let pick = |run: &mut Self, of: &[NodeId]| {
            (!of.is_empty()).then(|| of[run.below(of.len() as u64) as usize])
        };
        let change = match self.below(10) {
            0..3 if voters.len() + learners.len() < MEMBERS_MAX => {
                let newest = self.newest(&voters, &learners);
                if self.random.one_in(2) {
                    Some(MemberChange::AddVoter(newest))
                } else {
                    Some(MemberChange::AddLearner(newest))
                }
            }
            3..5 => pick(self, &learners).map(MemberChange::AddVoter),
            5..8 => pick(self, &voters).map(MemberChange::Remove),
            8 => pick(self, &learners).map(MemberChange::Remove),
            _ => Some(MemberChange::Remove(NodeId(99))),
        };
        if let Some(change) = change {
            // Refusals are part of the game.
            let _ = self.cluster.change(leader, change);
        }
    }

    /// A node that has started with nothing and was never a member; the same one until it is.
    fn newest(&mut self, voters: &[NodeId], learners: &[NodeId]) -> NodeId {
        let newest = *self.cluster.members.keys().next_back().expect("a member");
        let id = NodeId(newest);
        let was_member = |id: &NodeId| voters.contains(id) || learners.contains(id);
        let has_nothing = self.cluster.members[&newest].machine.applied() == 0;
        if has_nothing && !was_member(&id) && !self.cluster.was_member(newest) {
            return id;
        }
        let next = self.cluster.highest_id() + 1;
        self.cluster.join(next);
        NodeId(next)
    }

    /// Somebody who is no member any more is switched off for good.
    fn retire_one(&mut self) {
        let members = self.cluster.configuration();
        let gone: Vec<u64> = self.gone(&members);
        if let Some(node) = gone.first() {
            self.cluster.retire(*node);
        }
    }

    /// Nodes that were members, and of whose removal a voter knows.
    fn gone(&self, members: &BTreeSet<u64>) -> Vec<u64> {
        let ids = self.cluster.members.keys().copied();
        ids.filter(|id| !members.contains(id) && self.cluster.may_be_gone(*id)).collect()
    }

    /// A cycle, which may end in the middle, or within the log's calls to the disk.
    fn cycle(&mut self, node: u64) {
        if self.cluster.members[&node].asked_to_install.is_some() {
            return self.install(node);
        }
        self.cluster.begin(node);
        let fate = self.below(150);
        if fate == 0 {
            return self.crash(node);
        }
        if fate == 1 {
            let calls = self.below(4);
            let disk = &self.cluster.members[&node].disk;
            disk.stop_at_operation(disk.operations() + calls);
        }
        self.cluster.persist(node);
        if fate == 1 {
            self.reached.crashes_within_persist += u64::from(!self.cluster.is_up(node));
            self.cluster.members[&node].disk.stop_at_operation(u64::MAX);
        }
    }

    fn install(&mut self, node: u64) {
        let fate = self.below(10);
        if fate == 0 {
            self.reached.crashes_around_install += 1;
            return self.crash(node);
        }
        self.cluster.install(node);
        self.reached.installs += 1;
        if fate < 3 {
            self.reached.crashes_around_install += 1;
            return self.crash(node);
        }
        self.cluster.confirm(node);
    }

    fn crash(&mut self, node: u64) {
        self.reached.crashes += 1;
        self.cluster.crash(node);
    }

    fn restart(&mut self, node: u64) {
        let stops = self.below(4) == 0;
        if stops {
            let calls = self.below(6);
            self.cluster.members[&node].disk.stop_at_operation(calls);
        }
        match self.cluster.restart(node) {
            Ok(()) => self.cluster.members[&node].disk.stop_at_operation(u64::MAX),
            Err(error) => {
                assert!(stops, "{node} does not start: {error}");
                self.reached.crashes_while_opening += 1;
                self.cluster.crash(node);
            }
        }
    }

    /// Ends the trouble and waits until all have everything.
    fn settle(&mut self) {
        self.cluster.cut.clear();
        self.cluster.installs_at_once = true;
        let members = self.cluster.configuration();
        for node in self.gone(&members) {
            self.cluster.retire(node);
        }
        let ids: Vec<u64> = self.cluster.members.keys().copied().collect();
        for node in &ids {
            if !self.cluster.is_up(*node) {
                self.cluster.restart(*node).expect("a whole disk opens");
            }
            if self.cluster.members[node].asked_to_install.is_some() {
                self.cluster.install(*node);
                self.cluster.confirm(*node);
            }
        }
        let mut proposed = 0;
        for _ in 0..400 {
            ids.iter().for_each(|node| self.cluster.tick(*node));
            self.cluster.run();
            // A last command in the term of a leader that all hear.
            if let Some(leader) = self.cluster.leader()
                && self.cluster.propose(leader, "last").is_ok()
            {
                proposed += 1;
                self.cluster.run();
                // A new member needs a snapshot in which it is one.
                if self.changes_members {
                    self.cluster.flush(leader, 3);
                }
            }
            if proposed > 3 && self.all_have_all() {
                return;
            }
        }
        let standing: Vec<_> = self.cluster.members.keys().copied().collect();
        let standing: Vec<_> = standing
            .into_iter()
            .map(|id| (id, self.cluster.status(id), &self.cluster.members[&id].machine.members))
            .collect();
        panic!("the group does not come together: {standing:#?}");
    }

    fn all_have_all(&self) -> bool {
        let last = *self.cluster.history.keys().last().expect("something was applied");
        let members = self.cluster.configuration();
        let mut machines = members.iter().map(|id| &self.cluster.members[id].machine);
        machines.all(|machine| machine.applied() == last)
    }

    /// Raft counts those whom the state machine names.
    fn check_configuration(&mut self) {
        let leader = self.cluster.leader().expect("somebody leads");
        let progress = self.cluster.node(leader).progress().expect("it leads");
        let of_kind = |is_voter: bool| {
            let fits = progress.iter().filter(|one| one.is_voter == is_voter);
            fits.map(|one| one.id).collect::<BTreeSet<_>>()
        };
        let (voters, learners) = &self.cluster.members[&leader].machine.members;
        assert_eq!(of_kind(true), voters.iter().copied().collect(), "voters");
        assert_eq!(of_kind(false), learners.iter().copied().collect(), "learners");
    }

    fn check_nothing_is_lost(&self) {
        for node in self.cluster.configuration() {
            let member = &self.cluster.members[&node];
            let found: Vec<_> = member.machine.entries.iter().map(|entry| entry.0).collect();
            let all: Vec<_> = self.cluster.history.keys().copied().collect();
            assert_eq!(found, all, "{node} lacks something that was applied");
            for (index, term, payload) in &member.machine.entries {
                let entry = (*term, payload.clone());
                assert_eq!(self.cluster.history[index], entry, "{node} differs at {index}");
            }
        }
    }

    fn play(mut self) -> (Reached, Vec<String>) {
        for _ in 0..STEPS {
            self.step();
        }
        self.settle();
        self.check_nothing_is_lost();
        self.check_configuration();
        let mut reached = self.reached;
        reached.reads_answered = self.cluster.answered.len() as u64;
        reached.reads_failed = self.cluster.failed_reads.len() as u64;
        reached.applied = self.cluster.history.len() as u64;
        reached.leaders = self.cluster.leaders.len() as u64;
        reached.additions = self.cluster.changes[0];
        reached.promotions = self.cluster.changes[1];
        reached.removals = self.cluster.changes[2];
        reached.refused_changes = self.cluster.changes[3];
        (reached, self.cluster.trace)
    }
}

/// Names the seed when a test fails.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with VARVE_SEED={}", self.0);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds(count: u64) -> Vec<u64> {
    match number("VARVE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("VARVE_SEEDS").unwrap_or(count)).collect(),
    }
}

fn play_seeds(count: u64, voters: &[u64], learners: &[u64]) {
    play_runs(count, |seed| Run::new(seed, voters, learners));
}

fn play_runs(count: u64, run: impl Fn(u64) -> Run) -> Reached {
    let mut sum = Reached::default();
    let seeds = seeds(count);
    for seed in &seeds {
        let _announce = Announce(*seed);
        let (reached, _) = run(*seed).play();
        sum.crashes += reached.crashes;
        sum.crashes_within_persist += reached.crashes_within_persist;
        sum.crashes_while_opening += reached.crashes_while_opening;
        sum.crashes_around_install += reached.crashes_around_install;
        sum.installs += reached.installs;
        sum.reads_answered += reached.reads_answered;
        sum.reads_failed += reached.reads_failed;
        sum.applied += reached.applied;
        sum.leaders += reached.leaders;
        sum.additions += reached.additions;
        sum.promotions += reached.promotions;
        sum.removals += reached.removals;
        sum.refused_changes += reached.refused_changes;
    }
    eprintln!("{} seeds: {sum:?}", seeds.len());
    if seeds.len() >= 20 {
        let Reached { crashes, installs, reads_answered, reads_failed, .. } = sum;
        assert!(crashes > 0 && installs > 0 && reads_answered > 0 && reads_failed > 0, "{sum:?}");
        assert!(sum.crashes_within_persist > 0 && sum.crashes_around_install > 0, "{sum:?}");
        assert!(sum.applied > 100 && sum.leaders > 20, "{sum:?}");
    }
    sum
}

fn play_changes(count: u64, voters: &[u64]) {
    let sum = play_runs(count, |seed| Run::with_changes(seed, voters, &[]));
    if number("VARVE_SEED").is_none() {
        assert!(sum.additions > count && sum.removals > count, "{sum:?}");
        assert!(sum.promotions > count / 4 && sum.refused_changes > 0, "{sum:?}");
    }
}

#[test]
fn three_nodes_agree_whatever_happens() {
    play_seeds(60, &[1, 2, 3], &[]);
}

#[test]
fn five_nodes_agree_whatever_happens() {
    play_seeds(30, &[1, 2, 3, 4, 5], &[]);
}

#[test]
fn a_sole_voter_and_its_learner_agree_whatever_happens() {
    play_seeds(30, &[1], &[2]);
}

#[test]
fn three_founders_agree_while_members_come_and_go() {
    play_changes(60, &[1, 2, 3]);
}

#[test]
fn a_sole_founder_and_those_it_takes_in_agree() {
    play_changes(40, &[1]);
}

#[test]
fn two_founders_agree_while_members_come_and_go() {
    play_changes(40, &[1, 2]);
}

#[test]
fn equal_seeds_leave_equal_traces() {
    for seed in [3, 4] {
        let _announce = Announce(seed);
        let (_, first) = Run::new(seed, &[1, 2, 3], &[]).play();
        let (_, second) = Run::new(seed, &[1, 2, 3], &[]).play();
        let at = first.iter().zip(&second).take_while(|(one, other)| one == other).count();
        assert_eq!(first.get(at), second.get(at), "the traces differ at line {at}");
        assert_eq!(first.len(), second.len());
    }
}
