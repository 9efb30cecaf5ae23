//! What the Raft thread is asked to do, and what each of it means for the node.
//!
//! One idea: an input is taken at once and in order; what it leads to, an append or a message, is the
//! work of the cycle that follows (`raft.rs`). So inputs that arrive together share one sync.
//!
//! Nothing of a peer is believed: a message that the state machine would not understand once it is
//! committed, or a snapshot without its files, is refused with a line in the log.

use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;
use varve_disk::trial;
use varve_raftnode::{Applied, Index, MemberChange, Node, NodeId, Progress, ProposeError};
use varve_store::{Command, decode_batch, encode_batch};

use super::{RaftThread, Turn, hex};
use crate::limits;
use crate::peer::lend::Lent;
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
        /// The [`Outlook::changes`] with which it was judged: not proposed if there are more by now.
        judged_after: u64,
        /// Whether it was proposed.
        taken: oneshot::Sender<Result<(), ProposeError>>,
    },
    /// How far the members are, if this node leads.
    AskOutlook(oneshot::Sender<Option<Outlook>>),
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
    /// A member that was asked to send a snapshot in this one's name says what has become of it.
    SnapshotTold {
        /// Who says so.
        by: NodeId,
        /// The receiver.
        to: NodeId,
        /// What has become of it.
        lent: Lent,
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

/// What a change of the membership is judged by.
pub struct Outlook {
    /// So many changes has the state machine confirmed since the start; it shows them before it does.
    pub changes: u64,
    /// How far the members are.
    pub progress: Vec<Progress>,
}

impl RaftThread {
    pub(super) fn take(&mut self, turn: &mut Turn, input: RaftInput) -> varve_raftnode::Result<()> {
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
                let leads = status.is_leader && status.term.0 == term;
                if !leads {
                    trial::reach("an end of a lease by who leads no more");
                }
                let may = leads || trial::has_bug("revoked-by-old-leader");
                if may && turn.held.is_empty() {
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
            RaftInput::Changed { index, is_accepted } => {
                turn.changes += 1;
                self.node.changed(index, is_accepted);
            }
            RaftInput::ProposeChange { change, command, judged_after, taken } => {
                let outcome = self.propose_change(turn, change, command, judged_after);
                // A receiver that is gone has stopped waiting; the change goes its way.
                let _ = taken.send(outcome);
            }
            RaftInput::AskOutlook(answer) => _ = answer.send(self.outlook(turn)),
            RaftInput::TransferTo(to) => {
                tracing::info!(to = hex(to), "leadership transfer starting");
                self.node.transfer_leadership(to);
            }
            RaftInput::Flushed(flushed) => {
                let cut = Index(flushed.index.0.saturating_sub(self.catch_up_entries));
                self.node.flushed(flushed, cut)?;
            }
            RaftInput::SnapshotSent { to, delivered } => self.node.snapshot_sent(to, delivered),
            RaftInput::SnapshotTold { by, to, lent } => self.told_of_snapshot(turn, by, to, lent),
            RaftInput::Unreachable(peer) => self.node.unreachable(peer),
            RaftInput::HandOver => self.hand_over(turn),
            RaftInput::Stop { deadline } => {
                turn.stop = Some(deadline);
                self.hand_over(turn);
            }
        }
        Ok(())
    }

    /// None unless this node leads.
    fn outlook(&self, turn: &Turn) -> Option<Outlook> {
        let progress = self.node.progress()?;
        Some(Outlook { changes: turn.changes, progress })
    }

    /// Proposes a change, unless it was judged before the newest one.
    fn propose_change(
        &mut self,
        turn: &mut Turn,
        change: MemberChange,
        command: Command,
        judged_after: u64,
    ) -> Result<(), ProposeError> {
        self.offer(turn);
        if judged_after != turn.changes {
            return Err(ProposeError::ChangePending);
        }
        self.node.propose_change(change, encode_batch(&[command]))
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
}

/// Why the state machine would not understand what a peer asks to propose. Committed, it would
/// stop every member at every start.
fn unintelligible(message: &Bytes) -> Option<varve_store::Error> {
    Node::proposed(message).iter().find_map(|payload| decode_batch(payload).err())
}
