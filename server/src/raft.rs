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
mod input;
mod lending;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use varve_disk::trial;
use varve_raftnode::{Applied, Index, MessageClass, Node, NodeId, Output, ProposeError, Term};
use varve_store::{Command, encode_batch};

use self::backlog::Backlog;
pub use self::input::{Outlook, RaftInput};
use self::lending::Lending;
use crate::apply::ApplyInput;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::limits;
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::peer::snapshot::Staged;
use crate::queue::{Receiver, Sender};

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
    /// Whether other members are asked to send snapshots.
    pub snapshots_from_followers: bool,
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
    /// [`Outlook::changes`].
    changes: u64,
    /// Files whose announcement the node was just given; dropped if it does not want them.
    staged: Option<(Applied, Staged)>,
    /// A snapshot is being installed: the node rests until the state machine confirms.
    installing: bool,
    /// Snapshots that other members were asked to send.
    lending: Vec<Lending>,
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
                self.count_late_heartbeat(next_tick.elapsed());
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

    /// etcd's measure: a leader's heartbeats should not be two periods apart.
    fn count_late_heartbeat(&self, late: Duration) {
        if late > self.tick && self.cluster.is_leader() && !self.cluster.is_sole_leader() {
            self.metrics.heartbeat_send_failures.inc();
            tracing::warn!(
                heartbeat_interval = ?self.tick,
                exceeded_duration = ?(late - self.tick),
                "leader failed to send out heartbeat on time; took too long, leader is \
                 overloaded likely from slow disk"
            );
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
        let more = self.inbox.take(limits::RAFT_INPUTS_PER_TURN);
        for input in first.into_iter().chain(more) {
            self.take(turn, input)?;
        }
        if is_tick_due {
            self.node.tick();
            self.end_lending(turn);
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
        let is_over =
            |until| self.clock.awake_or_asleep() >= until && !trial::has_bug("lease-outlived");
        match leased.filter(|(_, until)| !is_over(*until)) {
            Some((index, _)) => {
                trial::reach("a read answered by a lease");
                let ready = tokens.into_iter().map(|token| (token, index)).collect();
                turn.backlog.push(ApplyInput::Reads { ready, failed: Vec::new() });
            }
            None => {
                if leased.is_some() {
                    trial::reach("a lease for reads is over");
                }
                tokens.into_iter().for_each(|token| self.node.read(token));
            }
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
                MessageClass::Snapshot => self.send_snapshot(turn, message),
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
    /// others have still sent to it; one that was removed, until they know; all of it up to the
    /// deadline.
    fn stopped(&self, turn: &Turn) -> bool {
        let Some(deadline) = turn.stop else { return false };
        if self.node.is_leaving() {
            return self.clock.now() >= deadline;
        }
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
            changes: 0,
            staged: None,
            installing: false,
            lending: Vec::new(),
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
            trial::reach("a proposal held for a leader");
            self.held_bytes += payload.len();
            let give_up = now + limits::HELD_PROPOSAL_AGE_MAX;
            self.held.push_back((give_up, payload));
        }
    }
}

/// With something waiting for room at the apply thread, look again soon.
fn retry_soon(next_tick: Instant) -> Instant {
    next_tick.min(Instant::now() + Duration::from_millis(1))
}

/// For log lines: how ids are written everywhere.
fn hex(id: NodeId) -> String {
    format!("{:x}", id.0)
}
