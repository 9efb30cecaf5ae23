//! A snapshot that another member sends in this leader's name.
//!
//! One idea: the leader's own state is not needed, but any from which its log goes on. So it asks for
//! less than it has itself: a state at or above the entry before its log. The crate waits for that
//! index instead (`pending_snapshot`), the log is not cut behind it meanwhile (`Node::flushed`), and
//! whatever index arrives, the follower's own acknowledgement says where to go on.
//!
//! What it does not do: choose who sends, or notice that nobody does. The carrier owes the same report
//! as for a snapshot of this node's own ([`Node::snapshot_sent`]).

use bytes::Bytes;
use raft::{ProgressState, StateRole};

use crate::node::Node;
use crate::snapshot::snapshot_of;
use crate::{Applied, Index, Message, NodeId, Term, codec};

impl Node {
    /// A message of class [`crate::MessageClass::Snapshot`] rewritten to ask for no more than this
    /// leader needs; from now on it waits for that. None if it waits for no snapshot of this follower.
    pub fn snapshot_of_another(&mut self, message: &Message) -> Option<Message> {
        let raft = &mut self.raw.raft;
        let needed = raft.raft_log.first_index() - 1;
        let term = raft.raft_log.term(needed).ok()?;
        let leads = raft.state == StateRole::Leader;
        let progress = raft.mut_prs().get_mut(message.to.0)?;
        // An index of 0 would wait for nothing.
        if !leads || needed == 0 || progress.state != ProgressState::Snapshot {
            return None;
        }
        let mut rewritten = codec::decode(message.bytes.clone()).ok()?;
        let announced = Self::snapshot_mark(&message.bytes)?;
        progress.pending_snapshot = needed;
        let mark = Applied { index: Index(needed), term: Term(term), ..announced };
        rewritten.set_snapshot(snapshot_of(&mark));
        let bytes = codec::encode(&rewritten).expect("snapshot messages travel");
        Some(Message { bytes, ..message.clone() })
    }

    /// In whose name a message travels, if it is well formed; not always who carries it.
    pub fn sender(message: &Bytes) -> Option<NodeId> {
        codec::decode(message.clone()).ok().map(|message| NodeId(message.from))
    }
}
