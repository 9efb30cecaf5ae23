//! Members as they come and go: a process that joins, connections that tell a member that it was
//! removed, one that ends because of it, and what must hold of all of them meanwhile.
//!
//! One idea: a member joins and leaves by the server's own steps; what stands here is only what the
//! process around them does, which dials, asks, waits and exits.

use varve_raftnode::NodeId;
use varve_server::config::bootstrap::{InitialCluster, assign_ids};
use varve_server::data_dir::Identity;
use varve_server::limits;
use varve_server::peer::frame::{FrameError, StreamKind};
use varve_server::peer::{self, inbound};
use varve_server::raft::RaftInput;
use varve_server::rpc;
use varve_store::Member;

use crate::history::{Operation, Outcome, Request};
use crate::node::{CLUSTER_ID, Node, Running, name_of};
use crate::plan::SECOND;
use crate::roster::Configuration;
use crate::world::{Event, World};

impl World<'_> {
    /// A new member's process starts, as `--initial-cluster-state existing` has it: it asks a member
    /// who the members are, and must find those that it was told.
    pub fn join(&mut self, id: u64) {
        let is_over = self.nodes.contains_key(&id) || self.operator.has_lost(id);
        let is_hopeful = self.operator.is_waiting() || !self.operator.is_sure();
        let may_be_one = self.roster.now().has(id) || is_hopeful && !self.is_ending;
        if is_over || !may_be_one {
            return;
        }
        match self.identity(id) {
            Ok(identity) => {
                self.count("member joined");
                let node = Node::joining(&self.plan, id, identity, &mut self.random);
                self.nodes.insert(id, node);
                self.start(id);
            }
            Err(why) => {
                self.tell(|| format!("{id} does not join: {why}"), [18, id, 0]);
                self.count("joining refused");
                self.after(SECOND, Event::Join(id));
            }
        }
    }

    /// Who a joining member is: the operator writes `--initial-cluster` by one member's list, and the
    /// process asks another.
    fn identity(&mut self, id: u64) -> Result<Identity, String> {
        let named = self.ask_members().ok_or("nobody answers")?;
        let pairs = named.iter().map(|member| {
            let url = &member.peer_urls[0];
            let name = url.trim_start_matches("http://").split(':').next().unwrap_or_default();
            format!("{name}={url}")
        });
        let named = InitialCluster::parse(&pairs.collect::<Vec<_>>().join(","))?;
        let existing = self.ask_members().ok_or("nobody answers")?;
        let existing: Vec<_> = existing.into_iter().map(rpc::cluster::wire_member).collect();
        let members = assign_ids(&named, &existing)?;
        let own = members.iter().find(|member| member.name == name_of(id));
        let own = own.ok_or("this member is not among the members of the cluster")?.id;
        Ok(Identity::joined(CLUSTER_ID, own, members))
    }

    /// The members by what any running one has applied.
    fn ask_members(&mut self) -> Option<Vec<Member>> {
        let up = self.nodes.values().filter_map(|node| node.up.as_ref());
        let lists = up.filter_map(|up| up.context.view.members().ok());
        let mut lists: Vec<Vec<Member>> = lists.filter(|list| !list.is_empty()).collect();
        let count = lists.len() as u64;
        (count > 0).then(|| lists.swap_remove(self.random.below(count) as usize))
    }

    /// What a member's connections tell it: which of the others are there, and that it was removed.
    /// Where it is not known it dials now and then, and says where it is, as members do.
    pub fn connect(&mut self, id: u64) {
        let runtime = self.runtime;
        let _inside = runtime.enter();
        let Some(up) = self.nodes.get(&id).and_then(|node| node.up.as_ref()) else { return };
        let mut strangers = Vec::new();
        for (other, node) in self.nodes.iter().filter(|(other, _)| **other != id) {
            let cut = &self.network.cut;
            let is_way = !cut.contains(&(id, *other)) && !cut.contains(&(*other, id));
            let there = node.up.as_ref().filter(|_| is_way);
            let is_known = there.is_some_and(|there| there.peers.is_known(id));
            up.peers.set_connected(*other, is_known);
            if !is_known && up.peers.is_known(*other) {
                strangers.extend(there.map(|there| (*other, there)));
            }
        }
        if strangers.is_empty() || !self.random.one_in(10) {
            return;
        }
        let mut is_refused = false;
        let mut learnt = Vec::new();
        for (other, there) in strangers {
            let hello = peer::hello(&up.context, other, StreamKind::Small);
            match inbound::admit(&there.context, &there.peers, &hello) {
                Ok(()) => learnt.push(other),
                Err(error) => is_refused |= matches!(error, FrameError::Removed),
            }
        }
        for other in learnt {
            self.count("believed where it is by a member that is behind");
            self.schedule(other);
        }
        if is_refused {
            self.refused(id);
        }
    }

    /// A member is told by another that it was removed.
    pub fn refused(&mut self, id: u64) {
        let Some(up) = self.nodes.get(&id).and_then(|node| node.up.as_ref()) else { return };
        if !up.is_removed() {
            up.context.cluster.publish_removed();
            self.count("told by others that it was removed");
        }
        self.schedule(id);
    }

    /// What came of a frame that a member took.
    pub fn taken(&mut self, from: u64, to: u64, outcome: Result<(), FrameError>) {
        if matches!(outcome, Err(FrameError::Removed)) && !self.network.cut.contains(&(to, from)) {
            let delay = 20 + self.about(self.plan.delay);
            self.after(delay, Event::Refused(from));
        }
    }

    /// A member that was removed begins to stop, as the server does: it hands over, then ends.
    pub fn begin_to_leave(&mut self, id: u64, boot: u64) {
        if let Some(up) = self.nodes.get(&id).and_then(|node| node.up.as_ref()) {
            let _ = up.context.raft.try_send(RaftInput::HandOver);
        }
        self.schedule(id);
        let delay = self.random.below(SECOND);
        self.after(delay, Event::Leave(id, boot));
    }

    /// The second half of it.
    pub fn leave(&mut self, id: u64, boot: u64) {
        let node = &self.nodes[&id];
        if let Some(up) = node.up.as_ref().filter(|up| up.boot == boot) {
            let deadline = node.clock.now() + limits::LEADER_TRANSFER_TIMEOUT;
            let _ = up.context.raft.try_send(RaftInput::Stop { deadline });
            self.schedule(id);
        }
    }

    /// A member that was removed has stopped, and is not started again.
    pub fn left(&mut self, id: u64) {
        self.tell(|| format!("{id} was removed and ends"), [19, id, 0]);
        self.count("removed member ended");
        if !self.roster.removed().contains(&id) {
            self.violations.push(format!("{id} ends as removed, and it is a member"));
        }
        let runtime = self.runtime;
        let node = self.nodes.get_mut(&id).expect("a member");
        node.kill(runtime);
        node.can_run = false;
    }

    /// Whom a member counts must have been the members at some time.
    pub fn check_counted(&mut self, id: u64) {
        let Some(up) = self.nodes.get(&id).and_then(|node| node.up.as_ref()) else { return };
        let counted = counted(up);
        // One that has joined knows nobody before its snapshot.
        if !counted.voters.is_empty() && !self.roster.knows(&counted) {
            self.violations.push(format!(
                "members: {id} counts {counted:?}, which was never agreed; last {:?}",
                self.roster.now()
            ));
        }
        let status = up.raft.node.status();
        if status.is_leader {
            let leader = *self.leaders.entry(status.term.0).or_insert(id);
            if leader != id {
                let term = status.term.0;
                self.violations.push(format!("members: {leader} and {id} lead in term {term}"));
            }
        }
    }

    /// A member that starts knows that the changes are committed that it has applied before: it would
    /// ask for votes of members that were removed, who may be gone for good.
    pub fn check_remembers(&mut self, id: u64) {
        let node = &self.nodes[&id];
        let Some(up) = &node.up else { return };
        let (commit, changed) = (up.raft.node.status().commit.0, node.changed_ever);
        if commit < changed && node.rot.is_empty() {
            self.violations.push(format!(
                "members: {id} has applied a change at {changed}, and now knows of {commit} only"
            ));
        }
    }

    /// Who has applied its own removal is about to end, and serves nobody.
    pub fn check_ends(&mut self, id: u64) {
        let Some(up) = self.nodes.get(&id).and_then(|node| node.up.as_ref()) else { return };
        if up.is_removed() || !self.roster.removed().contains(&id) {
            return;
        }
        let members = up.context.view.members().unwrap_or_default();
        // One that has joined knows nobody before its snapshot.
        if !members.is_empty() && members.iter().all(|member| member.id != id) {
            self.violations.push(format!("members: {id} knows that it was removed, and goes on"));
        }
    }

    /// A learner answers nothing that needs a vote.
    pub fn check_learner(&mut self, id: u64, operation: usize) {
        let Some(up) = self.nodes.get(&id).and_then(|node| node.up.as_ref()) else { return };
        let Operation { request, outcome, .. } = &self.history.operations[operation];
        let is_own = matches!(request, Request::Range(range) if range.serializable);
        assert!(matches!(outcome, Outcome::Unknown), "it is not told yet");
        if up.context.cluster.is_learner() && !is_own {
            self.violations.push(format!("members: {id} learns, and answers {request:?}"));
        }
    }
}

/// Whom a member's Raft counts.
pub fn counted(up: &Running) -> Configuration {
    let (voters, learners) = up.raft.node.members_known();
    let ids = |ids: Vec<NodeId>| ids.into_iter().map(|id| id.0).collect();
    Configuration { voters: ids(voters), learners: ids(learners) }
}
