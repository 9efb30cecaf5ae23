//! A group of nodes on one thread: simulated disks, a network that is a list, and a state machine
//! that remembers every command.
//!
//! Whoever drives it decides every step; [`Cluster`] carries out what the nodes ask for, writes
//! down what happened, and checks at once what must never happen:
//!
//! - committed entries come out in order, once, and the same everywhere;
//! - a term has one leader; terms and commit indexes never fall;
//! - a read point is not below anything that was applied anywhere before the read began.

// Each test file uses its own part of this.
#![allow(dead_code)]

pub mod frames;
pub mod machine;
mod membership;
mod network;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use varve_disk::sim::SimDisk;
use varve_raftnode::{
    Applied, Config, Index, MessageClass, Node, NodeId, Output, ProposeError, Status, Term,
};
use varve_wal::{Options, Wal};

use machine::Machine;
pub use network::Envelope;

pub const ELECTION_TICKS: usize = 10;

/// One member: its disk and its state machine's durable part stay when it crashes.
pub struct Member {
    pub disk: SimDisk,
    pub node: Option<Node>,
    pub machine: Machine,
    /// Content that came before a snapshot's message, by its index.
    pub staged: BTreeMap<u64, Machine>,
    pub asked_to_install: Option<Applied>,
    /// Changes that the machine has judged and not confirmed: index, whether accepted.
    pub unconfirmed: VecDeque<(u64, bool)>,
    pub boots: u64,
    pub seen: Option<Status>,
}

/// The group. Invariants: see the head of the file.
pub struct Cluster {
    pub members: BTreeMap<u64, Member>,
    pub queue: Vec<Envelope>,
    /// Directions that lose everything.
    pub cut: BTreeSet<(u64, u64)>,
    /// What was committed, by index.
    pub history: BTreeMap<u64, (u64, Bytes)>,
    pub leaders: BTreeMap<u64, u64>,
    /// Everybody who was a member as of any entry.
    pub ever_members: BTreeSet<u64>,
    /// Changes by their first appearance: additions, promotions, removals, refused ones.
    pub changes: [u64; 4],
    /// Where a member's removal was committed.
    removed_at: BTreeMap<u64, u64>,
    /// The most append bytes that one output held.
    pub output_bytes_max: usize,
    highest_id: u64,
    /// Where a read may not point below.
    pub read_floors: BTreeMap<u64, u64>,
    pub answered: BTreeMap<u64, u64>,
    pub failed_reads: Vec<u64>,
    pub trace: Vec<String>,
    /// Whether snapshots are installed as soon as they are announced.
    pub installs_at_once: bool,
    /// Who sends snapshots instead of the leader.
    pub lender: Option<u64>,
    /// Whether changes of the membership are confirmed as soon as they are applied.
    pub confirms_at_once: bool,
    pub seed: u64,
    pub founders: Applied,
    /// As nodes are started with.
    pub read_lease: Option<Duration>,
    /// Everybody's clock.
    pub now: Duration,
}

impl Cluster {
    pub fn new(seed: u64, voters: &[u64], learners: &[u64]) -> Self {
        let ids = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect();
        let founders = Applied {
            index: Index(1),
            term: Term(1),
            voters: ids(voters),
            learners: ids(learners),
        };
        let mut cluster = Self {
            members: BTreeMap::new(),
            queue: Vec::new(),
            cut: BTreeSet::new(),
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            ever_members: voters.iter().chain(learners).copied().collect(),
            changes: [0; 4],
            removed_at: BTreeMap::new(),
            output_bytes_max: 0,
            highest_id: 0,
            read_floors: BTreeMap::new(),
            answered: BTreeMap::new(),
            failed_reads: Vec::new(),
            trace: Vec::new(),
            installs_at_once: true,
            lender: None,
            confirms_at_once: true,
            seed,
            founders,
            read_lease: None,
            now: Duration::ZERO,
        };
        for id in voters.iter().chain(learners) {
            cluster.add(*id, cluster.founders.clone());
        }
        cluster.trace.clear();
        cluster
    }

    /// Starts a node that has nothing and waits for a snapshot.
    pub fn join(&mut self, id: u64) {
        let nothing =
            Applied { index: Index(0), term: Term(0), voters: Vec::new(), learners: Vec::new() };
        self.add(id, nothing);
    }

    fn add(&mut self, id: u64, start: Applied) {
        let member = Member {
            disk: SimDisk::new(self.seed ^ id),
            node: None,
            machine: Machine::new(start),
            staged: BTreeMap::new(),
            asked_to_install: None,
            unconfirmed: VecDeque::new(),
            boots: 0,
            seen: None,
        };
        self.members.insert(id, member);
        self.highest_id = self.highest_id.max(id);
        self.restart(id).expect("a fresh node starts");
    }

    pub fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).expect("the member exists")
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.member(id).node.as_mut().expect("the node runs")
    }

    /// Empties a member's disk and state, so that it starts like a founder.
    pub fn wipe(&mut self, id: u64) {
        self.crash(id);
        let (seed, start) = (self.seed, self.founders.clone());
        let member = self.member(id);
        member.disk = SimDisk::new(seed ^ id);
        member.machine = Machine::new(start);
    }

    /// Switches a node off for good.
    pub fn retire(&mut self, id: u64) {
        self.crash(id);
        self.members.remove(&id);
    }

    pub fn is_up(&self, id: u64) -> bool {
        self.members.get(&id).is_some_and(|member| member.node.is_some())
    }

    pub fn status(&self, id: u64) -> Status {
        self.members[&id].node.as_ref().expect("the node runs").status()
    }

    pub fn leader(&self) -> Option<u64> {
        let up = self.members.keys().copied().filter(|id| self.is_up(*id));
        up.filter(|id| self.status(*id).is_leader).max_by_key(|id| self.status(*id).term)
    }

    /// Starts a member from its disk and its state machine's durable part.
    pub fn restart(&mut self, id: u64) -> Result<(), String> {
        let (seed, read_lease) = (self.seed, self.read_lease);
        let member = self.member(id);
        assert!(member.node.is_none(), "{id} runs already");
        let options = Options {
            identity: [7; 16],
            segment_bytes: 64 << 10,
            cache_bytes_max: 4 << 10,
            ..Options::default()
        };
        let disk = Arc::new(member.disk.clone());
        let wal = Wal::open_with_block_bytes(disk, Path::new("/wal"), options, 512)
            .map_err(|error| error.to_string())?;
        member.boots += 1;
        member.machine.lose_volatile();
        member.staged.clear();
        member.asked_to_install = None;
        member.unconfirmed.clear();
        let config = Config {
            id: NodeId(id),
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: 1,
            pre_vote: true,
            seed: seed.wrapping_mul(31).wrapping_add(id * 1000 + member.boots),
            boot_nonce: member.boots,
            message_bytes_max: 4 << 10,
            inflight_messages_max: 8,
            uncommitted_bytes_max: 16 << 10,
            catch_up_bytes_max: 8 << 10,
            ignores_changes_found: false,
            read_lease,
        };
        let node = Node::open(config, wal, member.machine.flushed.clone())
            .map_err(|error| error.to_string())?;
        member.seen = None;
        member.node = Some(node);
        self.look(id);
        Ok(())
    }

    /// The power of one member goes out.
    pub fn crash(&mut self, id: u64) {
        let member = self.member(id);
        member.node = None;
        member.disk = member.disk.crash();
    }

    pub fn tick(&mut self, id: u64) {
        self.node(id).tick();
        self.look(id);
    }

    pub fn propose(&mut self, id: u64, payload: &str) -> Result<(), ProposeError> {
        let result = self.node(id).propose(Bytes::copy_from_slice(payload.as_bytes()));
        self.look(id);
        result
    }

    pub fn read(&mut self, id: u64, token: u64) {
        let floor = self.members.values().map(|member| member.machine.applied()).max();
        self.read_floors.insert(token, floor.unwrap_or(0));
        self.node(id).read(token);
    }

    /// Makes the state machine durable where it stands, and cuts the log `keep` entries before.
    pub fn flush(&mut self, id: u64, keep: u64) {
        let member = self.member(id);
        member.machine.flush();
        let mark = member.machine.flushed.clone();
        let cut = Index(mark.index.0.saturating_sub(keep));
        self.node(id).flushed(mark, cut).expect("the log can be cut");
    }

    /// First half of a cycle.
    pub fn begin(&mut self, id: u64) {
        let now = self.now;
        self.node(id).now(now);
        let output = self.node(id).begin();
        self.carry_out(id, output);
    }

    /// Second half of a cycle; a node whose disk fails is down afterwards.
    pub fn persist(&mut self, id: u64) {
        match self.node(id).persist() {
            Ok(output) => self.carry_out(id, output),
            Err(error) => {
                self.trace.push(format!("{id} stops: {error}"));
                self.crash(id);
            }
        }
    }

    /// Runs the cycles of one node until it has nothing to do.
    pub fn cycle(&mut self, id: u64) {
        while self.is_up(id) && self.node(id).has_ready() {
            self.begin(id);
            self.persist(id);
        }
    }

    /// Runs cycles and delivers messages, in order, until nothing happens any more.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            let ids: Vec<u64> = self.members.keys().copied().collect();
            ids.iter().for_each(|id| self.cycle(*id));
            if self.queue.is_empty() {
                return;
            }
            self.deliver(0);
        }
        panic!("no end of messages:\n{}", self.trace[self.trace.len() - 40..].join("\n"));
    }

    /// Installs the snapshot that a node asked its state machine to install.
    pub fn install(&mut self, id: u64) {
        self.confirm_changes(id);
        let member = self.member(id);
        let mark = member.asked_to_install.clone().expect("something is to be installed");
        let content = member.staged.remove(&mark.index.0).expect("the content came before");
        assert_eq!(content.flushed, mark, "another content than announced");
        member.machine = content;
        self.check_machine(id);
    }

    /// Tells the node that its state machine installed what it asked for.
    pub fn confirm(&mut self, id: u64) {
        let mark = self.member(id).asked_to_install.take().expect("something was installed");
        self.node(id).snapshot_installed(mark).expect("it was announced");
    }

    fn carry_out(&mut self, id: u64, output: Output) {
        let bulk = output.messages.iter().filter(|one| one.class == MessageClass::Bulk);
        let bytes = bulk.map(|message| message.bytes.len()).sum();
        self.output_bytes_max = self.output_bytes_max.max(bytes);
        for message in output.messages {
            self.send(id, message);
        }
        for committed in output.committed {
            let index = committed.index.0;
            let entry = (committed.term.0, committed.payload.clone());
            let is_new = !self.history.contains_key(&index);
            let known = self.history.entry(index).or_insert_with(|| entry.clone()).clone();
            assert_eq!(known, entry, "{id} applies another entry at {index}");
            let text = machine::text_of(&entry.1);
            self.trace.push(format!("{id} applies {index}/{} {text}", entry.0));
            let machine = &mut self.member(id).machine;
            machine.apply(index, entry.0, entry.1);
            if let Some(change) = committed.change {
                let was_learner = machine.members.1.contains(&change.member());
                let is_accepted = machine.change(change);
                if is_new {
                    self.note_change(index, change, is_accepted, was_learner);
                }
                if !is_accepted {
                    self.trace.push(format!("{id} refuses {change:?}"));
                }
                self.member(id).unconfirmed.push_back((index, is_accepted));
            }
            if self.confirms_at_once {
                self.confirm_changes(id);
            }
            self.node(id).applied(committed.index);
        }
        for (token, index) in output.reads {
            let floor = self.read_floors[&token];
            assert!(index.0 >= floor, "{id} answers read {token} at {index:?}, below {floor}");
            self.answered.insert(token, index.0);
            self.trace.push(format!("{id} answers read {token} at {}", index.0));
        }
        for token in output.reads_failed {
            self.failed_reads.push(token);
            self.trace.push(format!("{id} fails read {token}"));
        }
        if let Some(mark) = output.install {
            self.trace.push(format!("{id} asks to install {}/{}", mark.index.0, mark.term.0));
            self.member(id).asked_to_install = Some(mark);
            if self.installs_at_once {
                self.install(id);
                self.confirm(id);
            }
        }
        self.look(id);
    }

    /// Compares a node's status with the one before.
    fn look(&mut self, id: u64) {
        let now = self.status(id);
        let before = self.member(id).seen.replace(now);
        if now.is_leader {
            let leader = *self.leaders.entry(now.term.0).or_insert(id);
            assert_eq!(leader, id, "two leaders in {:?}", now.term);
        }
        let Some(before) = before else { return };
        assert!(now.term >= before.term, "{id} goes back from {before:?} to {now:?}");
        assert!(now.commit >= before.commit, "{id} goes back from {before:?} to {now:?}");
        if now.is_leader != before.is_leader {
            let verb = if now.is_leader { "leads" } else { "does not lead any more" };
            self.trace.push(format!("{id} {verb}, term {}", now.term.0));
        }
    }

    fn check_machine(&self, id: u64) {
        for (index, term, payload) in &self.members[&id].machine.entries {
            assert_eq!(
                self.history.get(index),
                Some(&(*term, payload.clone())),
                "{id} installed another history at {index}"
            );
        }
    }
}
