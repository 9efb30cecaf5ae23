//! Agreed order: drives the `raft` crate over the log.
//!
//! Commands go in as payloads that nobody here understands; they come out of every member in the
//! same order. [`Node`] is one member: a function of its inputs, without clock, thread, socket or
//! randomness besides a seed, so that a whole group runs on one thread from one seed.
//!
//! # The cycle
//!
//! The caller owns the node on one thread. It feeds inputs, and as long as [`Node::has_ready`]
//! it runs a cycle and carries out both outputs in field order:
//!
//! ```text
//!   tick   step(message)   propose   read   applied   flushed   ...
//!     \________\_____________|________/______/_________/
//!                             v
//!   begin() ----> Output: messages   a leader's appends, before its own sync
//!      |                  committed  durable here and on a majority: apply, then applied()
//!      |                  reads      answer when applied up to the index
//!      |                  install    a snapshot: put it into the state machine (durably),
//!      |                             then snapshot_installed()
//!      v
//!   persist() --> one frame, one sync in the log
//!                 Output: messages   acknowledgements and votes: what a sync must precede
//!                         committed  what this node's own copy completed
//! ```
//!
//! Proposals that arrive while `persist` waits for the disk share the next frame and the next
//! message: batches grow with load, without a timer. Between `begin` and `persist` a tick, a
//! message or a proposal is a caller's bug; [`Node::read`], [`Node::applied`], [`Node::flushed`]
//! and the carrier's reports are taken at any time. One exception: while the state machine
//! installs a snapshot, everything may be called; messages and proposals are refused, ticks are
//! ignored, and `has_ready` is false until the confirmation.
//!
//! # What is durable when
//!
//! - A vote, a new term and an acknowledged entry are in the log's frame before the message that
//!   promises them leaves. A leader's appends promise nothing; its own copy is counted only after
//!   its sync. A commit index is not synced for its own sake: it goes along with the next frame,
//!   and what is lost of it is found again. But a change of the membership is handed out only when
//!   it is durable that it is committed: whoever was removed may be gone before a restart.
//! - The state machine follows behind and says how far it is durable ([`Node::flushed`]). The log
//!   is cut only up to there. After a crash the entries from there on come out again, once.
//! - A snapshot changes the state machine first, then the log (`snapshot.rs`).
//!
//! # Where to read
//!
//! `node.rs` inputs; `cycle.rs` outputs; `read.rs` linearizable reads; `lease.rs` reads without a
//! round; `leave.rs` the end of a removed leader; `validate.rs` what a peer may not send;
//! `snapshot.rs` the order of installing; `lend.rs` snapshots that another member sends;
//! `storage.rs` the log as the crate sees it; `codec.rs` and `entry.rs` the formats (specified in
//! `docs/FORMAT.md`, section 4).
//!
//! # Traps of the `raft` crate, and where each is closed
//!
//! | trap (version 0.7.0) | closed in |
//! | --- | --- |
//! | no pre-vote, no quorum check, one entry a message, nothing bounded by default | `node.rs`, `raft_config` |
//! | election timeouts from the thread's random generator | `timer.rs` |
//! | a read context that is used again lets old responses vouch for new reads | `read.rs` |
//! | reads are dropped without a word: no leader, no commit in the term, any change of term | `read.rs`, `Node::can_read` |
//! | about forty panics that a message can reach | `validate.rs`, `wire.rs` |
//! | a late rejection moves a follower's next index behind what it acknowledged | `validate.rs` |
//! | panics if the commit index is above the log or below what is applied after a restart | `storage.rs`, `raised` |
//! | a sole voter sends its new term to learners before it is durable | `cycle.rs`, `owes` |
//! | a committed change takes effect only when told to; forgotten, majorities differ | `Node::changed` |
//! | a second change before the first is applied becomes an empty entry, without a word | `Node::propose_change` |
//! | changes are parsed by a parser that hostile bytes exhaust | `change.rs`, `validate.rs` |
//! | a removed leader goes on leading | `leave.rs` |
//! | a snapshot of before a member was added is refused by it, for ever | `storage.rs`, `snapshot` |
//! | a change that is confirmed late would undo the configuration of a snapshot | `Node::changed` |
//! | a node campaigns over changes that it has committed and not applied | `Node::applied` |
//! | a sole voter with an entry that is not durable panics when it is elected | `Node::tick`, `validate.rs` |
//! | two nodes that take each other for the leader pass a proposal to and fro | `validate.rs` |
//! | reads by lease believe in it as long as the node takes itself for the leader, and voters that start again know of none | `lease.rs` |
//! | a storage error panics | `storage.rs`, `nothing_to_read` |
//! | a small append overtakes a large one and is rejected | `cycle.rs`, `frame` |
//!
//! # Caveats
//!
//! - The membership is what [`Applied`] says, and then what [`Node::changed`] confirms, one member
//!   at a time. Entries of joint changes are refused by name.
//! - A proposal that was forwarded may vanish. Whoever waits for it needs a timeout, and a
//!   payload that may be proposed twice must carry its own identity.
//! - A follower whose snapshot was sent waits for [`Node::snapshot_sent`], whatever happened.
//! - Entries handed out and not applied are bounded by the caller, which may leave `begin`
//!   uncalled.

use std::time::Duration;

use bytes::Bytes;

mod carrier;
mod change;
mod codec;
mod cycle;
mod entry;
mod error;
mod lease;
mod leave;
mod lend;
mod node;
mod open;
mod read;
mod report;
mod snapshot;
mod storage;
mod terms;
mod timer;
mod validate;
mod wire;

pub use error::{Error, Result};
pub use node::Node;

/// Identity of a member, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Position in the log, from 1; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// A Raft term; 0 before the first election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// How a node is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Ticks without a leader's message before a node campaigns (randomised up to twice this).
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Ask before campaigning, so that a node that was cut off does not disturb.
    pub pre_vote: bool,
    /// Seed of the election timeouts: equal seeds and inputs give equal outputs.
    pub seed: u64,
    /// Distinguishes this start of the process from earlier ones in read contexts.
    pub boot_nonce: u64,
    /// Upper bound of entry bytes in one append message.
    pub message_bytes_max: u64,
    /// Append messages under way to one follower.
    pub inflight_messages_max: usize,
    /// Entry bytes read back from the log for followers in one cycle; one message may be larger.
    pub catch_up_bytes_max: u64,
    /// Bytes proposed and not yet committed; beyond it proposals are refused.
    pub uncommitted_bytes_max: u64,
    /// Changes of the membership that the log has when it is opened have no effect here: a
    /// survivor goes on alone, whatever was under way.
    pub ignores_changes_found: bool,
    /// How long after a round of reads began its leader may answer further ones without another
    /// ([`Node::leased_read`]); must be shorter than `election_ticks` - 1 ticks of any member's clock.
    /// With it a voter refuses candidates for `election_ticks` after a leader's word and after its
    /// start. The same for all members, or none.
    pub read_lease: Option<Duration>,
}

/// Where the state machine stands: what it has applied durably, and who votes as of there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Everything up to here is durable in the state machine.
    pub index: Index,
    /// The term of the entry at `index`.
    pub term: Term,
    /// Voting members as of `index`.
    pub voters: Vec<NodeId>,
    /// Non-voting members as of `index`.
    pub learners: Vec<NodeId>,
}

/// A change of the membership: one member at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new voter, or a learner that becomes one.
    AddVoter(NodeId),
    /// A new member without a vote.
    AddLearner(NodeId),
    /// Not a member any more.
    Remove(NodeId),
}

impl MemberChange {
    /// Who it is about.
    pub fn member(self) -> NodeId {
        match self {
            Self::AddVoter(member) | Self::AddLearner(member) | Self::Remove(member) => member,
        }
    }
}

/// A committed log entry, in order, handed out exactly once per start of the process.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its position.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// What was proposed; empty for the entry with which a leader opens its term.
    pub payload: Bytes,
    /// A change of the membership, which the state machine judges and then confirms or refuses
    /// with [`Node::changed`].
    pub change: Option<MemberChange>,
}

/// A message for another node, framed in our own format.
#[derive(Clone, Debug)]
pub struct Message {
    /// The receiver.
    pub to: NodeId,
    /// Small messages overtake bulk ones on streams of their own.
    pub class: MessageClass,
    /// The frame to be carried, opaque to the carrier; what [`Node::step`] takes.
    pub bytes: Bytes,
}

/// How a message wants to travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageClass {
    /// Heartbeats, votes, acknowledgements, reads.
    Small,
    /// Appends and forwarded proposals, in order: an append that overtakes another is rejected.
    Bulk,
    /// Announces a snapshot at or above this index: the carrier sends the state machine's files
    /// first, then this message with [`Node::snapshot_message`]'s mark filled in.
    Snapshot,
}

/// What the caller must carry out, in field order. See the crate documentation for the cycle.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent now.
    pub messages: Vec<Message>,
    /// To be applied, in order.
    pub committed: Vec<Committed>,
    /// Reads that may be answered once `Index` is applied: (read token, index).
    pub reads: Vec<(u64, Index)>,
    /// Reads that must be retried or failed: leadership moved.
    pub reads_failed: Vec<u64>,
    /// A received snapshot that the state machine must install now and confirm with
    /// [`Node::snapshot_installed`] before anything else is persisted.
    pub install: Option<Applied>,
}

/// What is known about the group; compare for changes after every cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Current term.
    pub term: Term,
    /// Leader of the term, if known.
    pub leader: Option<NodeId>,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Highest committed index known here.
    pub commit: Index,
    /// Highest index in the log here.
    pub last: Index,
    /// This node is the only member and leads: what it has applied is all that anybody has seen, so
    /// local reads are linearizable. A learner may have applied, and shown, what this node has not.
    pub is_sole_leader: bool,
    /// A leader that has committed in its term: only then it may serve reads.
    pub has_committed_in_term: bool,
}

/// How far a member is, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The member.
    pub id: NodeId,
    /// Up to here it has the leader's log, durably.
    pub matched: Index,
    /// Whether it has a vote.
    pub is_voter: bool,
    /// Whether it was heard from lately.
    pub is_active: bool,
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// There is no leader to take it.
    NoLeader,
    /// Too many uncommitted bytes, or leadership is being handed over.
    Dropped,
    /// Only the leader proposes changes of the membership, and this node does not lead.
    NotLeader,
    /// A change before this one is not applied yet.
    ChangePending,
    /// The change is of member 0, and 0 is nobody's id.
    Nobody,
}
