//! A member of the group: its inputs.
//!
//! Every input that reaches the `raft` crate ends in [`Node::settle`], which keeps our own parts
//! in step with it: the seeded election timeout, and reads that must die with their leader.
//! How it begins is in `open.rs`, what comes out in `cycle.rs`, what it tells about itself in
//! `report.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::{Entry, Message as RaftMessage, MessageType};
use raft::{
    Progress as Follower, ProgressState, ProgressTracker, RawNode, SnapshotStatus, StateRole,
};
use varve_wal::trial;

use crate::change::entry_of;
use crate::cycle::Cycle;
use crate::lease::{Lease, Silence};
use crate::leave::Leaving;
use crate::read::{Contexts, Reads};
use crate::snapshot::same_mark;
use crate::storage::LogStorage;
use crate::timer::ElectionTimer;
use crate::validate::{self, View};
use crate::{Applied, Error, Index, MemberChange, NodeId, ProposeError, Result, Term, codec};

/// Bytes of the log up to which nothing is cut that comes behind a snapshot under way.
const KEPT_BEHIND_SNAPSHOTS_BYTES_MAX: u64 = 1 << 30;

/// One member of the group: the `raft` crate, its storage over the log, and the rules between.
/// Pure: no clock, thread, socket or randomness besides the seed.
///
/// Invariants: between [`Node::begin`] and [`Node::persist`] the crate sees no input that could
/// change what is about to be persisted; `handed_out` is at or above what was applied and
/// at or below what is committed and durable here.
pub struct Node {
    pub(crate) id: u64,
    pub(crate) raw: RawNode<LogStorage>,
    pub(crate) timer: ElectionTimer,
    pub(crate) contexts: Contexts,
    pub(crate) reads: Reads,
    pub(crate) lease: Lease,
    pub(crate) silence: Silence,
    /// Questions of followers that wait until this leader has committed in its term: at most the
    /// latest of each.
    pub(crate) held_reads: BTreeMap<u64, RaftMessage>,
    /// What was begun and not persisted.
    pub(crate) cycle: Option<Cycle>,
    /// Highest committed index given to the caller.
    pub(crate) handed_out: u64,
    /// Changes of the membership given to the caller and not confirmed, by index.
    pub(crate) changes: VecDeque<(u64, MemberChange)>,
    /// Changes up to here have no effect, see [`crate::Config::ignores_changes_found`].
    pub(crate) ignored_to: u64,
    /// Who has been sent a snapshot, at which index, and has not said yet that it has it.
    pub(crate) delivered: BTreeMap<u64, u64>,
    /// This leader was removed, and tells the others.
    pub(crate) leaving: Option<Leaving>,
}

impl Node {
    /// One tick of the logical clock passed. Time stands still while a snapshot is installed.
    pub fn tick(&mut self) {
        if self.is_closed_for_input() {
            return;
        }
        // The crate asserts that a new leader's log is durable. A sole voter would lead at once.
        let waits = self.has_unpersisted() && self.members().is_singleton();
        if !waits || self.raw.raft.state == StateRole::Leader {
            self.raw.tick();
        }
        self.reads.tick();
        self.silence.tick();
        self.settle();
        self.tick_leaving();
    }

    /// A message arrived from `from`.
    ///
    /// # Errors
    /// Why it was refused; nothing has changed then. Raft repeats what matters, so that the
    /// caller needs to do no more than count it.
    pub fn step(&mut self, from: NodeId, message: &Bytes) -> Result<()> {
        let mut message = codec::decode(message.clone())?;
        if self.is_closed_for_input() {
            let reason = "a snapshot is being installed".to_string();
            return Err(Error::Refused { from, reason });
        }
        validate::check(from, &message, &self.view(from.0))?;
        if self.silence.refuses(&message, self.raw.raft.term) {
            trial::reach("a candidate met with silence");
            return Ok(());
        }
        if message.get_msg_type() == MessageType::MsgReadIndex {
            if !self.raw.raft.commit_to_current_term() {
                self.held_reads.insert(from.0, message);
                return Ok(());
            }
            self.own_question(&mut message);
        }
        let stepped = self.raw.step(message);
        self.settle();
        self.leave_when_told();
        stepped.map_err(|error| match error {
            raft::Error::ProposalDropped => Error::NotNow { from, reason: error.to_string() },
            _ => Error::Refused { from, reason: error.to_string() },
        })
    }

    /// Proposes one payload (a batch of commands), not empty; forwarded to the leader if that is
    /// another, and then possibly lost without a word.
    ///
    /// # Errors
    /// Nothing was proposed: no leader is known, too many bytes are uncommitted, or leadership is
    /// being handed over.
    pub fn propose(&mut self, payload: Bytes) -> std::result::Result<(), ProposeError> {
        assert!(!payload.is_empty(), "an empty payload is the leader's own entry");
        if self.is_closed_for_input() || self.raw.raft.leader_id == raft::INVALID_ID {
            return Err(ProposeError::NoLeader);
        }
        self.propose_entry(Entry { data: payload, ..Entry::default() })
    }

    /// Proposes a change of the membership with the command that carries it out in the state
    /// machine. Committed, it comes out as any entry, and takes effect here when
    /// [`Node::changed`] says so.
    ///
    /// # Errors
    /// Nothing was proposed: this node does not lead, or an earlier change is not applied yet (or
    /// might not be: a new leader first applies what it found), or as [`Node::propose`].
    pub fn propose_change(
        &mut self,
        change: MemberChange,
        command: Bytes,
    ) -> std::result::Result<(), ProposeError> {
        let leads = self.raw.raft.state == StateRole::Leader && !self.is_leaving();
        if self.is_closed_for_input() || !leads {
            return Err(ProposeError::NotLeader);
        }
        // No log may hold it: who read it back would end.
        if change.member() == NodeId(0) {
            return Err(ProposeError::Nobody);
        }
        // The crate would make an empty entry of it.
        if self.raw.raft.has_pending_conf() {
            trial::reach("change refused: another is pending");
            return Err(ProposeError::ChangePending);
        }
        self.propose_entry(entry_of(change, command))
    }

    fn propose_entry(&mut self, entry: Entry) -> std::result::Result<(), ProposeError> {
        let mut message = RaftMessage { from: self.id, ..RaftMessage::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        let stepped = self.raw.step(message);
        self.settle();
        stepped.map_err(|_| ProposeError::Dropped)
    }

    /// The state machine has applied the change of the membership at `index`, the oldest that was
    /// handed out and not confirmed; it accepted it, or refused it and nothing changes. Until this
    /// is called for it, the entry does not count as applied: no campaign, no further change.
    pub fn changed(&mut self, index: Index, is_accepted: bool) {
        let Some((expected, change)) = self.changes.pop_front() else {
            panic!("no change was handed out, {index:?} is confirmed")
        };
        assert_eq!(expected, index.0, "changes are confirmed in order");
        // A snapshot has brought its own, later configuration with it.
        let snapshot = self.raw.raft.raft_log.unstable_snapshot();
        let is_superseded = snapshot.as_ref().is_some_and(|s| s.get_metadata().index >= index.0);
        let is_bug = trial::has_bug("removed-still-counts");
        let is_kept = is_bug && matches!(change, MemberChange::Remove(_));
        if !is_accepted || is_superseded || index.0 <= self.ignored_to || is_kept {
            return;
        }
        self.lease.end();
        self.follow_change(index.0, change);
        self.settle();
    }

    /// Asks for a linearizable read point for `token`; answered in [`crate::Output::reads`] or
    /// [`crate::Output::reads_failed`]. Tokens gathered while one round is under way share the
    /// next. Tokens are the caller's; their number is not bounded here.
    pub fn read(&mut self, token: u64) {
        self.reads.gather(token);
    }

    /// The time since a fixed moment, by a clock that does not stand still while the machine sleeps.
    /// Of use before [`Node::begin`]; needed only with [`crate::Config::read_lease`].
    pub fn now(&mut self, now: Duration) {
        self.lease.now(now);
    }

    /// The point of a read that needs no round, and until when it is one: the caller looks at its clock
    /// after this. None unless this node leads, has committed in its term, and holds a lease.
    pub fn leased_read(&self) -> Option<(Index, Duration)> {
        let raft = &self.raw.raft;
        let leads = raft.state == StateRole::Leader && !self.is_leaving();
        if !leads || !raft.commit_to_current_term() {
            return None;
        }
        let until = self.lease.until(Term(raft.term))?;
        Some((Index(raft.raft_log.committed), until))
    }

    /// The state machine has applied everything up to `index` (not necessarily durably).
    pub fn applied(&mut self, index: Index) {
        assert!(
            index.0 <= self.handed_out,
            "index {} is applied, {} was handed out",
            index.0,
            self.handed_out
        );
        // A snapshot's index counts when its cycle is persisted, which does it itself.
        let installs = self.cycle.as_ref().is_some_and(Cycle::installs);
        // A change counts as applied when it is confirmed: before, nobody may campaign over it.
        let change = self.changes.front().map_or(u64::MAX, |(change, _)| *change);
        let index = index.0.min(change - 1);
        if !installs && index > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index);
        }
    }

    /// The state machine is durable up to `flushed`: a snapshot at it can be offered, and the log
    /// may be cut up to `cut` (at most `flushed.index`). What a follower needs next that is getting a
    /// snapshot stays, within bounds: or else the next snapshot is all that helps it.
    ///
    /// # Errors
    /// The log failed; final.
    pub fn flushed(&mut self, flushed: Applied, cut: Index) -> Result<()> {
        assert!(cut <= flushed.index, "cut {cut:?} is above the flushed {:?}", flushed.index);
        if self.cycle.as_ref().is_some_and(Cycle::installs) {
            trial::reach("flushed while a snapshot is installed");
            // The log of before the snapshot is about to be reset as a whole.
            return Ok(());
        }
        self.applied(flushed.index);
        // The crate reads again what does not count as applied.
        let cut = cut.0.min(self.raw.raft.raft_log.applied).min(self.needed_behind_snapshots());
        self.raw.mut_store().flushed(&flushed, cut)
    }

    /// The state machine now holds the snapshot that [`crate::Output::install`] announced
    /// (durably).
    ///
    /// # Errors
    /// No snapshot or another one was announced.
    pub fn snapshot_installed(&mut self, applied: Applied) -> Result<()> {
        let announced = self.cycle.as_ref().and_then(|cycle| cycle.install.clone());
        if !announced.as_ref().is_some_and(|mark| same_mark(mark, &applied)) {
            let (announced, confirmed) = (announced.map(Box::new), Box::new(applied));
            return Err(Error::WrongSnapshot { announced, confirmed });
        }
        if let Some(cycle) = &mut self.cycle {
            cycle.is_installed = true;
        }
        Ok(())
    }

    /// The carrier's report on a snapshot that it was asked to send. Until it comes, the follower
    /// gets nothing else: it must come for every message of class
    /// [`crate::MessageClass::Snapshot`].
    pub fn snapshot_sent(&mut self, to: NodeId, delivered: bool) {
        let status = if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        let progress = self.members().get(to.0);
        let mark = progress.map_or(0, |progress| progress.pending_snapshot);
        if delivered && mark > 0 {
            self.delivered.insert(to.0, mark);
        }
        self.raw.report_snapshot(to.0, status);
        self.settle();
    }

    /// The carrier could not reach a node.
    pub fn unreachable(&mut self, node: NodeId) {
        self.delivered.remove(&node.0);
        self.raw.report_unreachable(node.0);
        self.settle();
    }

    /// Starts handing leadership to another voter; nothing happens unless this node leads.
    /// Given up after an election timeout. Proposals are refused meanwhile. A leader that was removed
    /// hands over to nobody: who can elect without it does not listen to it any more.
    pub fn transfer_leadership(&mut self, to: NodeId) {
        let leads = self.raw.raft.state == StateRole::Leader && !self.is_leaving();
        if self.is_closed_for_input() || !leads {
            return;
        }
        self.raw.transfer_leader(to.0);
        self.settle();
    }

    /// Follows what the crate did: whatever changed the term, the role or the leader.
    pub(crate) fn settle(&mut self) {
        self.timer.observe(&mut self.raw.raft);
        let raft = &self.raw.raft;
        self.reads.observe(Term(raft.term), raft.leader_id);
        if raft.lead_transferee.is_some() {
            self.lease.offer(Term(raft.term));
        }
        if raft.state != StateRole::Leader {
            self.held_reads.clear();
        }
    }

    /// Turns a follower's question into one that this leader asks only once.
    pub(crate) fn own_question(&mut self, message: &mut RaftMessage) {
        let entry = &mut message.mut_entries()[0];
        entry.data = self.contexts.fresh(&entry.data);
    }

    /// Whether entries or a snapshot wait to become durable.
    pub(crate) fn has_unpersisted(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        !log.unstable_entries().is_empty() || log.unstable_snapshot().is_some()
    }

    /// Up to here the log may be cut for the sake of followers that are being sent snapshots, or
    /// install one.
    fn needed_behind_snapshots(&mut self) -> u64 {
        let raft = &self.raw.raft;
        let members = raft.prs();
        let lacks = |id: u64, mark: u64| members.get(id).is_some_and(|one| one.matched < mark);
        self.delivered.retain(|id, mark| raft.state == StateRole::Leader && lacks(*id, *mark));
        if raft.state != StateRole::Leader || self.log_bytes() > KEPT_BEHIND_SNAPSHOTS_BYTES_MAX {
            return u64::MAX;
        }
        let is_sent = |progress: &&Follower| progress.state == ProgressState::Snapshot;
        let sent = members.iter().map(|(_, progress)| progress).filter(is_sent);
        let sent = sent.map(|progress| progress.pending_snapshot);
        sent.chain(self.delivered.values().copied()).min().unwrap_or(u64::MAX)
    }

    pub(crate) fn members(&self) -> &ProgressTracker {
        self.raw.raft.prs()
    }

    /// Whether a snapshot is being installed. Any other input within a cycle is a caller's bug.
    fn is_closed_for_input(&self) -> bool {
        let Some(cycle) = &self.cycle else { return false };
        assert!(cycle.installs(), "an input between begin and persist");
        true
    }

    fn view(&self, from: u64) -> View {
        let raft = &self.raw.raft;
        let is_leader = raft.state == StateRole::Leader;
        let progress = if is_leader { self.members().get(from) } else { None };
        View {
            id: self.id,
            term: raft.term,
            is_leader,
            last: raft.raft_log.last_index(),
            has_unpersisted: self.has_unpersisted(),
            matched: progress.map(|progress| progress.matched),
        }
    }
}

/// The node may be moved to its thread.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Node>();
};
