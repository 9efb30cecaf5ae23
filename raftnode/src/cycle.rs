//! One cycle: what goes out before the sync, the sync, and what had to wait for it.
//!
//! Two steps, so that a leader's entries travel to its followers while its own disk writes them
//! (Raft thesis, section 10.2.1): [`Node::begin`] gives out what needs no sync, [`Node::persist`]
//! writes one frame and gives out the rest. A leader's own copy counts towards the majority only
//! after the sync, and nothing is handed out as committed that is not durable here.
//!
//! The crate offers to persist in the background as well; then entries would have to be readable
//! from storage before they are durable. One cycle at a time is simpler, and what arrives
//! meanwhile is the next, larger batch.

use raft::eraftpb::{Entry, EntryType, Message as RaftMessage, MessageType};
use raft::{Ready, StateRole};
use varve_wal::trial;

use crate::change::change_of;
use crate::node::Node;
use crate::snapshot::mark_of;
use crate::{
    Applied, Committed, Index, Message, MessageClass, NodeId, Output, Result, Term, codec,
};

/// What was begun.
///
/// Invariant: `is_installed` only if there is something to install.
pub(crate) struct Cycle {
    ready: Ready,
    /// Messages that promise something not durable yet.
    held: Vec<RaftMessage>,
    /// Entries that must not be applied before it is durable that they are committed.
    held_entries: Vec<Entry>,
    must_write: bool,
    /// A snapshot that the state machine must install first.
    pub(crate) install: Option<Applied>,
    pub(crate) is_installed: bool,
}

impl Cycle {
    /// Whether this cycle installs a snapshot.
    pub(crate) fn installs(&self) -> bool {
        self.install.is_some()
    }

    fn waits_for_install(&self) -> bool {
        self.install.is_some() && !self.is_installed
    }
}

impl Node {
    /// Whether there is anything to send, persist, hand out or install. Not while a snapshot is
    /// being installed.
    pub fn has_ready(&self) -> bool {
        if let Some(cycle) = &self.cycle {
            return !cycle.waits_for_install();
        }
        self.raw.has_ready()
            || self.reads.has_failed()
            || self.can_read()
            || self.raw.store().has_failed()
    }

    /// First half of a cycle: what may go out before anything is durable. Nothing if the cycle
    /// before is not persisted yet.
    pub fn begin(&mut self) -> Output {
        let mut output = Output::default();
        if self.cycle.is_some() {
            return output;
        }
        self.raw.mut_store().begin_cycle();
        self.ask_reads();
        output.reads_failed = self.reads.take_failed();
        if !self.raw.has_ready() {
            return output;
        }
        let mut ready = self.raw.ready();
        for state in ready.take_read_states() {
            let answered = self.reads.answered(&state.request_ctx, Index(state.index));
            if !answered.is_empty() && self.raw.raft.state == StateRole::Leader {
                self.lease.prove(Term(self.raw.raft.term));
            }
            output.reads.extend(answered);
        }
        let mut held_entries = ready.take_committed_entries();
        if !self.must_find_again(&held_entries) {
            output.committed = self.hand_out(std::mem::take(&mut held_entries));
        }
        let install = (!ready.snapshot().is_empty()).then(|| mark_of(ready.snapshot()));
        if let Some(mark) = &install {
            let has_entries = !output.committed.is_empty() || !held_entries.is_empty();
            assert!(!has_entries, "entries before a snapshot: {mark:?}");
            self.handed_out = mark.index.0;
        }
        // The crate holds nothing back at a leader. But a sole voter leads without having asked
        // anybody, so that its new term is not durable: learners must not see it before.
        let must_hold =
            self.raw.store().owes(&self.raw.raft.hard_state()) || self.tells_of_a_change();
        let must_write = must_hold
            || !ready.entries().is_empty()
            || !held_entries.is_empty()
            || install.is_some();
        let mut held = ready.take_persisted_messages();
        let mut early = ready.take_messages();
        if must_hold {
            held.append(&mut early);
        }
        if !must_write || trial::has_bug("sent-before-sync") {
            early.append(&mut held);
        }
        output.messages = frame(early);
        output.install = install.clone();
        let is_installed = false;
        self.cycle = Some(Cycle { ready, held, held_entries, must_write, install, is_installed });
        output
    }

    /// Second half: one append to the log, one sync; then what had to wait for it. Nothing
    /// happens while the snapshot that [`Output::install`] announced is not confirmed.
    ///
    /// # Errors
    /// The log failed, in this or in an earlier call. Final: the process stops.
    pub fn persist(&mut self) -> Result<Output> {
        let mut output = Output::default();
        if let Some(error) = self.raw.mut_store().take_failure() {
            return Err(error);
        }
        let Some(cycle) = self.cycle.take_if(|cycle| !cycle.waits_for_install()) else {
            return Ok(output);
        };
        if cycle.must_write {
            let state = self.raw.raft.hard_state();
            let entries = cycle.ready.entries();
            self.raw.mut_store().write(cycle.install.as_ref(), entries, &state)?;
        }
        let mut light = self.raw.advance_append(cycle.ready);
        if let Some(mark) = &cycle.install {
            // The crate looks for entries after what is applied: there are none before the mark.
            self.raw.advance_apply_to(mark.index.0);
        }
        if let Some(error) = self.raw.mut_store().take_failure() {
            return Err(error);
        }
        let mut committed = cycle.held_entries;
        committed.extend(light.take_committed_entries());
        if self.must_find_again(&committed) || self.tells_of_a_change() {
            trial::reach("a commit index written for a change");
            let state = self.raw.raft.hard_state();
            self.raw.mut_store().write(None, &[], &state)?;
        }
        output.committed = self.hand_out(committed);
        let mut messages = cycle.held;
        messages.extend(light.take_messages());
        output.messages = frame(messages);
        self.settle();
        Ok(output)
    }

    /// Whether gathered reads have somebody to ask. A leader that has not committed in its term
    /// does not know yet what is committed (thesis, section 6.4).
    fn can_read(&self) -> bool {
        let raft = &self.raw.raft;
        let can_ask = match raft.state {
            StateRole::Leader => raft.commit_to_current_term(),
            _ => raft.leader_id != raft::INVALID_ID,
        };
        let asked = self.reads.wants_start() || !self.held_reads.is_empty();
        can_ask && asked
    }

    /// Starts the next round of reads, and takes up what followers asked too early.
    fn ask_reads(&mut self) {
        if !self.can_read() {
            return;
        }
        for (_, mut question) in std::mem::take(&mut self.held_reads) {
            trial::reach("a follower's read held for a new leader");
            self.own_question(&mut question);
            // An error means that the asker is no member any more.
            let _ = self.raw.step(question);
        }
        if self.reads.wants_start() {
            let context = self.contexts.fresh(&[]);
            self.lease.begin_round();
            let raft = &self.raw.raft;
            self.reads.start(context.clone(), Term(raft.term), raft.leader_id);
            self.raw.read_index(context.to_vec());
        }
        self.settle();
    }

    /// Whether these entries change who votes, and a crash would forget that they are committed.
    /// The member that finds the change again would ask for votes of before: of somebody who was
    /// removed, and perhaps is gone for good because of it.
    fn must_find_again(&self, committed: &[Entry]) -> bool {
        let durable = self.raw.store().durable_commit();
        let is_change = |entry: &Entry| entry.get_entry_type() != EntryType::EntryNormal;
        committed.iter().any(|entry| is_change(entry) && entry.index > durable)
            && !trial::has_bug("removal-forgotten")
    }

    /// Whether a leader's messages may tell that a change is committed which it would forget in a
    /// crash. Who hears of its own removal goes at once, and its vote must not be needed again.
    fn tells_of_a_change(&self) -> bool {
        let raft = &self.raw.raft;
        let durable = self.raw.store().durable_commit();
        // A new leader counts all that it found in its log as a change.
        raft.state == StateRole::Leader
            && raft.pending_conf_index > durable
            && raft.raft_log.committed > durable
            && !trial::has_bug("removal-forgotten")
    }

    fn hand_out(&mut self, entries: Vec<Entry>) -> Vec<Committed> {
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            assert_eq!(entry.index, self.handed_out + 1, "committed entries have a gap");
            self.handed_out = entry.index;
            let change = change_of(&entry).expect("what is not a change was refused at the door");
            if let Some(change) = change {
                self.changes.push_back((entry.index, change));
            }
            committed.push(Committed {
                index: Index(entry.index),
                term: Term(entry.term),
                payload: if change.is_some() { entry.context } else { entry.data },
                change,
            });
        }
        committed
    }
}

/// Frames what travels. Appends all go one way, or a small one would overtake the large one
/// before it and be rejected.
fn frame(messages: Vec<RaftMessage>) -> Vec<Message> {
    let mut framed = Vec::with_capacity(messages.len());
    for message in messages {
        let class = match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgPropose => MessageClass::Bulk,
            MessageType::MsgSnapshot => MessageClass::Snapshot,
            _ => MessageClass::Small,
        };
        let bytes = codec::encode(&message).expect("the crate sends what travels");
        framed.push(Message { to: NodeId(message.to), class, bytes });
    }
    framed
}
