//! The Raft thread: the only owner of the node and, through it, of the log.
//!
//! One turn: wait for input or the next tick; take all input that is there; propose what was
//! gathered as one entry; then run the node's cycle until it is quiet. The cycle sends what may
//! go out at once, appends to the log with one sync, and sends what had to wait for it. While
//! the sync runs, new proposals gather in the inbox and become the next entry: group commit
//! without a timer.
//!
//! Invariants:
//! - Committed entries go to the apply thread in order, each once.
//! - What is committed is published before it is handed to the apply thread or to a peer: whoever
//!   hears of an entry in any way finds at least it in `Cluster::committed`.
//! - When the apply thread is behind by more than `APPLY_BACKLOG_BYTES_MAX`, requests are refused
//!   (`Cluster::is_behind`) and bulk messages of peers are dropped (Raft sends them again).
//! - An error of the node is final: the process stops, nothing is acknowledged after it.
//!
//! It does not know what a command means.

mod backlog;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;
use varve_raftnode::{
    Applied, Index, MemberChange, MessageClass, Node, NodeId, Output, Progress, ProposeError, Term,
};
use varve_store::{Command, decode_batch, encode_batch};

use self::backlog::Backlog;
use crate::apply::ApplyInput;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::limits;
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::peer::snapshot::Staged;

/// What the Raft thread is asked to do. Its inbox is bounded by `limits::RAFT_INBOX_MAX`; a full
/// inbox makes the sender wait (peers, background) or refuse the request (`propose`).
pub enum RaftInput {
    /// A client's command.
    Propose(Command),
    /// A command that only the leader of `term` may propose: dropped when this node does not lead
    /// in that term at the moment it is proposed. (etcd issue 15247: a deposed leader's clock must
    /// revoke nothing, not even when the same node was elected again.)
    ProposeAsLeader {
        /// The term whose leader decided it.
        term: u64,
        /// The command.
        command: Command,
    },
    /// A linearizable read wants to know what it must wait for.
    Read(u64),
    /// A message of a peer.
    Peer {
        /// The peer, as its stream was opened.
        from: NodeId,
        /// The message as the node encodes it.
        message: Bytes,
    },
    /// A snapshot of a peer has arrived completely; then its message.
    Snapshot {
        /// The peer.
        from: NodeId,
        /// The message that announces it.
        message: Bytes,
        /// The received files.
        staged: Staged,
    },
    /// The state machine holds the received snapshot.
    Installed(Applied),
    /// The state machine has applied a change of the membership.
    Changed {
        /// Its entry.
        index: Index,
        /// Whether it took effect; Raft follows.
        is_accepted: bool,
    },
    /// The leader is to propose a change of the membership.
    ProposeChange {
        /// For Raft.
        change: MemberChange,
        /// For the state machine.
        command: Command,
        /// Whether it was proposed.
        taken: oneshot::Sender<Result<(), ProposeError>>,
    },
    /// How far the members are, if this node leads.
    AskProgress(oneshot::Sender<Option<Vec<Progress>>>),
    /// Hand leadership to this member; for who waits, the published leader tells the end.
    TransferTo(NodeId),
    /// The state machine is durable up to here.
    Flushed(Applied),
    /// How sending a snapshot ended.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// Whether it confirmed.
        delivered: bool,
    },
    /// A peer cannot be reached.
    Unreachable(NodeId),
    /// Hand leadership over if this node leads and somebody else can; go on as a follower.
    HandOver,
    /// Stop; a leader first hands over, unless `deadline` passes.
    Stop {
        /// When to stop at the latest.
        deadline: Instant,
    },
}

/// How the Raft thread is made.
pub struct RaftThread {
    /// The node, open.
    pub node: Node,
    /// Its input.
    pub inbox: Receiver<RaftInput>,
    /// Where committed entries go.
    pub apply: Sender<ApplyInput>,
    /// Where messages go.
    pub peers: Peers,
    /// Where the status is published.
    pub cluster: Arc<Cluster>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Length of a tick.
    pub tick: Duration,
    /// Ticks to be passed over at the start, so that the first election is soon.
    pub ticks_advanced: usize,
    /// Entries kept in the log behind the flushed index, for slow followers.
    pub catch_up_entries: u64,
    /// What time it is.
    pub clock: Clock,
}

/// The thread's state besides the node.
pub struct Turn {
    proposals: Vec<Command>,
    proposal_bytes: usize,
    /// Reads that have come in this turn.
    reads: Vec<u64>,
    /// Proposals that no leader could take yet, with the time at which their clients give up.
    held: VecDeque<(Instant, Bytes)>,
    held_bytes: usize,
    backlog: Backlog,
    /// The term in which the lessor was told to time leases; `None` when it was told to rest.
    lessor_term: Option<Term>,
    /// Files whose announcement the node was just given; dropped if it does not want them.
    staged: Option<(Applied, Staged)>,
    /// A snapshot is being installed: the node rests until the state machine confirms.
    installing: bool,
    /// When the last attempt to hand leadership over was started.
    handed_over: Option<Instant>,
    stop: Option<Instant>,
}

impl RaftThread {
    /// Runs until it is stopped.
    pub fn run(mut self) -> varve_raftnode::Result<()> {
        let mut turn = self.begin_turns();
        let mut next_tick = Instant::now() + self.tick;
        loop {
            let wait = if turn.backlog.is_waiting() { retry_soon(next_tick) } else { next_tick };
            let first = self.inbox.recv_deadline(wait).ok();
            let is_tick_due = Instant::now() >= next_tick;
            self.take_inputs(&mut turn, first, is_tick_due)?;
            if is_tick_due {
                // A thread that was paused does not make up for lost ticks: that would start an
                // election that nobody asked for. Counted from behind the tick, so that two are
                // never closer than their period, on which the silence of voters is built.
                next_tick = Instant::now() + self.tick;
            }
            while self.begin_cycle(&mut turn) {
                self.end_cycle(&mut turn)?;
            }
            if self.end_turn(&mut turn) {
                return Ok(());
            }
        }
    }

    /// What has to be kept between turns. A turn is [`RaftThread::take_inputs`], then
    /// [`RaftThread::end_cycle`] as long as [`RaftThread::begin_cycle`] says so, then
    /// [`RaftThread::end_turn`]. None of them waits for anything but the log, so that a simulation
    /// can be the thread.
    pub fn begin_turns(&mut self) -> Turn {
        (0..self.ticks_advanced).for_each(|_| self.node.tick());
        Turn::new(self.apply.clone())
    }

    /// Takes all input that is there, behind `first`, and what became of earlier turns; proposes
    /// what was gathered.
    ///
    /// # Errors
    /// The log or the node failed; final, as in the other steps.
    pub fn take_inputs(
        &mut self,
        turn: &mut Turn,
        first: Option<RaftInput>,
        is_tick_due: bool,
    ) -> varve_raftnode::Result<()> {
        let more: Vec<_> = self.inbox.try_iter().take(limits::RAFT_INPUTS_PER_TURN).collect();
        for input in first.into_iter().chain(more) {
            self.take(turn, input)?;
        }
        if is_tick_due {
            self.node.tick();
        }
        let applied = self.cluster.applied();
        turn.backlog.applied(applied);
        self.node.applied(Index(applied));
        self.offer(turn);
        turn.backlog.flush();
        self.publish();
        self.begin_reads(turn);
        Ok(())
    }

    /// Answers what has come by a lease, or has the node ask a majority.
    fn begin_reads(&mut self, turn: &mut Turn) {
        if turn.reads.is_empty() {
            return;
        }
        let tokens = std::mem::take(&mut turn.reads);
        // The index first, then the clock: whatever pauses this thread in between ends the lease.
        let leased = self.node.leased_read();
        match leased.filter(|(_, until)| self.clock.awake_or_asleep() < *until) {
            Some((index, _)) => {
                let ready = tokens.into_iter().map(|token| (token, index)).collect();
                turn.backlog.push(ApplyInput::Reads { ready, failed: Vec::new() });
            }
            None => tokens.into_iter().for_each(|token| self.node.read(token)),
        }
    }

    /// Sends and hands out what may go before the log's sync; whether [`RaftThread::end_cycle`] is
    /// to follow. False when the node is quiet, or waits for a snapshot to be installed.
    pub fn begin_cycle(&mut self, turn: &mut Turn) -> bool {
        if turn.installing || !self.node.has_ready() {
            return false;
        }
        self.node.now(self.clock.awake_or_asleep());
        let output = self.node.begin();
        self.carry_out(turn, output);
        !turn.installing
    }

    /// Appends to the log with one sync, then sends and hands out what had to wait for it.
    ///
    /// # Errors
    /// The log failed; final.
    pub fn end_cycle(&mut self, turn: &mut Turn) -> varve_raftnode::Result<()> {
        let started = Instant::now();
        let output = self.node.persist()?;
        let took = started.elapsed();
        // A write of the log is durable when it returns: it is the sync, too.
        self.metrics.wal_fsync_seconds.observe(took.as_secs_f64());
        self.metrics.wal_write_seconds.observe(took.as_secs_f64());
        let written_bytes = self.node.log_written_bytes();
        self.metrics.wal_write_bytes.set(i64::try_from(written_bytes).unwrap_or(i64::MAX));
        self.metrics.log_latency.record(took);
        self.publish();
        self.carry_out(turn, output);
        Ok(())
    }

    /// The node is quiet: publishes what that means; whether the thread is to end.
    pub fn end_turn(&mut self, turn: &mut Turn) -> bool {
        if !turn.installing {
            turn.staged = None;
        }
        self.tell_lessor(turn);
        self.cluster.publish_behind(turn.backlog.is_over());
        self.stopped(turn)
    }

    fn take(&mut self, turn: &mut Turn, input: RaftInput) -> varve_raftnode::Result<()> {
        match input {
            RaftInput::Propose(command) => {
                turn.proposal_bytes += command.body.len();
                turn.proposals.push(command);
                if turn.proposal_bytes >= limits::ENTRY_BYTES_TARGET {
                    self.offer(turn);
                }
            }
            RaftInput::ProposeAsLeader { term, command } => {
                // Not gathered: a message taken in between could depose this node, and the crate
                // would forward the proposal to its successor.
                self.offer(turn);
                let status = self.node.status();
                if status.is_leader && status.term.0 == term && turn.held.is_empty() {
                    // A refusal is as good as a drop: the lessor proposes again.
                    let _ = self.node.propose(encode_batch(&[command]));
                }
            }
            RaftInput::Read(token) => turn.reads.push(token),
            RaftInput::Peer { from, message } => self.step(turn, from, &message),
            RaftInput::Snapshot { from, message, staged } => {
                // Takes effect in the next cycle, if the node wants it at all.
                match (Node::snapshot_mark(&message), self.node.step(from, &message)) {
                    (Some(mark), Ok(())) => turn.staged = Some((mark, staged)),
                    (None, _) => tracing::warn!(from = hex(from), "files came without a snapshot"),
                    (_, Err(error)) => {
                        tracing::warn!(from = hex(from), error = %error, "refused a snapshot of a peer");
                    }
                }
            }
            RaftInput::Installed(applied) => {
                turn.installing = false;
                self.node.snapshot_installed(applied)?;
            }
            RaftInput::Changed { index, is_accepted } => self.node.changed(index, is_accepted),
            RaftInput::ProposeChange { change, command, taken } => {
                self.offer(turn);
                // A receiver that is gone has stopped waiting; the change goes its way.
                let _ = taken.send(self.node.propose_change(change, encode_batch(&[command])));
            }
            RaftInput::AskProgress(answer) => {
                let _ = answer.send(self.node.progress());
            }
            RaftInput::TransferTo(to) => {
                tracing::info!(to = hex(to), "leadership transfer starting");
                self.node.transfer_leadership(to);
            }
            RaftInput::Flushed(flushed) => {
                let cut = Index(flushed.index.0.saturating_sub(self.catch_up_entries));
                self.node.flushed(flushed, cut)?;
            }
            RaftInput::SnapshotSent { to, delivered } => self.node.snapshot_sent(to, delivered),
            RaftInput::Unreachable(peer) => self.node.unreachable(peer),
            RaftInput::HandOver => self.hand_over(turn),
            RaftInput::Stop { deadline } => {
                turn.stop = Some(deadline);
                self.hand_over(turn);
            }
        }
        Ok(())
    }

    /// A message from an ordinary stream. One that announces a snapshot comes with its files, on a
    /// stream of their own, or not at all.
    fn step(&mut self, turn: &mut Turn, from: NodeId, message: &Bytes) {
        let is_bulk = message.len() > limits::SMALL_MESSAGE_BYTES_MAX;
        if is_bulk && turn.backlog.is_over() {
            return;
        }
        if Node::snapshot_mark(message).is_some() {
            tracing::warn!(from = hex(from), "refused a snapshot that came without its files");
        } else if let Some(error) = unintelligible(message) {
            tracing::warn!(from = hex(from), error = %error, "refused a proposal of a peer");
        } else if let Err(error) = self.node.step(from, message) {
            let proposed = Node::proposed(message);
            // A leader that is handing over, or has enough to do: its followers' clients wait like
            // its own. So do those who have not heard yet that it has handed over. Nobody else
            // keeps them, or two members could pass them to and fro.
            let keeps = matches!(error, varve_raftnode::Error::NotNow { .. })
                && (self.node.status().is_leader || turn.is_handing_over(self.clock.now()));
            if keeps {
                let now = self.clock.now();
                proposed.into_iter().for_each(|payload| turn.hold(payload, now));
            } else {
                tracing::warn!(from = hex(from), error = %error, "refused a message of a peer");
            }
        }
    }

    /// Proposes what was gathered as one entry; keeps it for later when there is no leader.
    fn offer(&mut self, turn: &mut Turn) {
        let now = self.clock.now();
        while let Some((give_up, payload)) = turn.held.front() {
            if *give_up > now && self.node.propose(payload.clone()).is_err() {
                break;
            }
            turn.held_bytes -= payload.len();
            turn.held.pop_front();
        }
        if turn.proposals.is_empty() {
            return;
        }
        let payload = encode_batch(&turn.proposals);
        turn.proposals.clear();
        turn.proposal_bytes = 0;
        let taken = if turn.held.is_empty() {
            self.node.propose(payload.clone())
        } else {
            Err(ProposeError::NoLeader)
        };
        if taken.is_err() {
            turn.hold(payload, now);
        }
    }

    fn publish(&self) {
        let status = self.node.status();
        if self.cluster.publish(&status) {
            tracing::info!(
                leader = %format!("{:x}", status.leader.map_or(0, |leader| leader.0)),
                term = status.term.0,
                "raft: the leader changed"
            );
        }
    }

    /// The lessor times leases while this node leads and has committed in its term. Told behind
    /// all entries that are committed by now, so that then it knows every lease that any member
    /// has acknowledged, and no revocation of an earlier term is still to come.
    fn tell_lessor(&mut self, turn: &mut Turn) {
        let status = self.node.status();
        let leads = status.is_leader && status.has_committed_in_term;
        let term = leads.then_some(status.term);
        if term != turn.lessor_term {
            turn.lessor_term = term;
            turn.backlog.push(ApplyInput::Lead { term: term.map(|term| term.0) });
        }
    }

    fn carry_out(&mut self, turn: &mut Turn, output: Output) {
        for message in output.messages {
            match message.class {
                MessageClass::Snapshot => {
                    let to = message.to;
                    if !self.peers.send_snapshot(message) {
                        // Raft waits for a report on every snapshot.
                        self.node.snapshot_sent(to, false);
                    }
                }
                MessageClass::Small => _ = self.peers.send(message),
                MessageClass::Bulk => {
                    let to = message.to;
                    if !self.peers.send(message) {
                        self.node.unreachable(to);
                    }
                }
            }
        }
        if !output.committed.is_empty() {
            turn.backlog.push(ApplyInput::Committed(output.committed));
        }
        if !output.reads.is_empty() || !output.reads_failed.is_empty() {
            let reads = ApplyInput::Reads { ready: output.reads, failed: output.reads_failed };
            turn.backlog.push(reads);
        }
        if let Some(applied) = output.install {
            let (mark, staged) =
                turn.staged.take().expect("a snapshot is only stepped with its files");
            assert_eq!(mark, applied, "the node installs the snapshot whose files are here");
            turn.installing = true;
            turn.backlog.push(ApplyInput::Install { applied, staged });
        }
    }

    /// Starts handing leadership over, if there is any and somebody to take it. One attempt at a
    /// time: Raft gives an attempt up after an election timeout.
    fn hand_over(&mut self, turn: &mut Turn) {
        let is_under_way = turn.is_handing_over(self.clock.now());
        let to = self.node.best_transferee().filter(|_| !is_under_way);
        if let Some(to) = to {
            tracing::info!(to = hex(to), "leadership transfer starting");
            self.node.transfer_leadership(to);
            turn.handed_over = Some(self.clock.now());
        }
    }

    /// Whether it is time to end. A leader waits for its successor, and then a moment for what
    /// others have still sent to it; all of it up to the deadline.
    fn stopped(&self, turn: &Turn) -> bool {
        let Some(deadline) = turn.stop else { return false };
        let Some(handed_over) = turn.handed_over else { return true };
        let has_successor = self.node.best_transferee().is_none()
            && self.node.status().leader.is_some()
            && turn.held.is_empty();
        let now = self.clock.now();
        let lingered = now - handed_over >= limits::LEADER_TRANSFER_LINGER;
        (has_successor && lingered) || now >= deadline
    }
}

impl Turn {
    fn new(apply: Sender<ApplyInput>) -> Self {
        Self {
            proposals: Vec::new(),
            proposal_bytes: 0,
            reads: Vec::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            backlog: Backlog::new(apply),
            lessor_term: None,
            staged: None,
            installing: false,
            handed_over: None,
            stop: None,
        }
    }

    /// Whether others may still take this node for the leader that it has just stopped being.
    fn is_handing_over(&self, now: Instant) -> bool {
        self.handed_over.is_some_and(|at| now - at < limits::LEADER_TRANSFER_TIMEOUT)
    }

    /// Keeps a proposal for a better moment. The clients' own timeout answers them if none comes,
    /// as etcd does; one beyond the bound is dropped with the same effect.
    fn hold(&mut self, payload: Bytes, now: Instant) {
        if self.held_bytes + payload.len() <= limits::HELD_PROPOSAL_BYTES_MAX {
            self.held_bytes += payload.len();
            let give_up = now + limits::HELD_PROPOSAL_AGE_MAX;
            self.held.push_back((give_up, payload));
        }
    }
}

/// Why the state machine would not understand what a peer asks to propose. Committed, it would
/// stop every member at every start.
fn unintelligible(message: &Bytes) -> Option<varve_store::Error> {
    Node::proposed(message).iter().find_map(|payload| decode_batch(payload).err())
}

/// With something waiting for room at the apply thread, look again soon.
fn retry_soon(next_tick: Instant) -> Instant {
    next_tick.min(Instant::now() + Duration::from_millis(1))
}

/// For log lines: how ids are written everywhere.
fn hex(id: NodeId) -> String {
    format!("{:x}", id.0)
}
