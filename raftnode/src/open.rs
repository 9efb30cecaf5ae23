//! How a node begins: from its recovered log and what its state machine has applied.
//!
//! One idea: what cannot work is refused here, by name, before anything is sent; the crate would panic
//! over it later. All of the crate's configuration is below, since none of its defaults are ours.

use std::collections::{BTreeMap, VecDeque};

use raft::RawNode;
use varve_wal::{Wal, trial};

use crate::lease::{Lease, Silence};
use crate::node::Node;
use crate::read::{Contexts, Reads};
use crate::storage::LogStorage;
use crate::timer::ElectionTimer;
use crate::{Applied, Config, Error, Result};

/// Bytes of committed entries handed out at once; one entry may be larger.
const COMMITTED_BYTES_MAX: u64 = 16 << 20;

impl Node {
    /// Makes a node from its recovered log and what its state machine has applied.
    ///
    /// A founder of a cluster passes `Applied { index: 1, term: 1, .. }` with an empty log; who
    /// joins one passes index 0, term 0 and no members, and gets a snapshot.
    /// A log that ends before `applied.index` (crash between installing a snapshot and resetting
    /// the log) is reset to follow it. A sole voter campaigns at once, but not with leases for reads.
    ///
    /// # Errors
    /// A log that begins after `applied.index + 1`, that contradicts the state machine, or that
    /// cannot be read; a configuration that cannot work.
    pub fn open(config: Config, wal: Wal, applied: Applied) -> Result<Self> {
        check_members(&applied)?;
        let raft_config = raft_config(&config, &applied);
        raft_config.validate().map_err(invalid)?;
        let storage = LogStorage::open(wal, &applied, config.catch_up_bytes_max)?;
        let ignored_to = if config.ignores_changes_found { storage.last() } else { 0 };
        let silence_ticks = config.read_lease.map_or(0, |_| config.election_ticks);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, storage, &logger).map_err(invalid)?;
        // A word of a leader is answered when its term is durable, and a founder's has none.
        let has_followed = raw.raft.term > 1 && !trial::has_bug("silence-forgotten");
        let mut node = Self {
            id: config.id.0,
            raw,
            timer: ElectionTimer::new(config.seed, config.election_ticks),
            contexts: Contexts::new(config.id.0, config.boot_nonce),
            reads: Reads::new(config.election_ticks),
            lease: Lease::new(config.read_lease),
            silence: Silence::new(silence_ticks, has_followed),
            held_reads: BTreeMap::new(),
            cycle: None,
            handed_out: applied.index.0,
            changes: VecDeque::new(),
            ignored_to,
            delivered: BTreeMap::new(),
            leaving: None,
        };
        node.settle();
        // With leases for reads it first is silent for as long as one that it confirmed may last: as
        // the other of two it may have applied the removal of a leader that has not.
        let may_be_leased = silence_ticks > 0 && has_followed;
        if applied.voters == [config.id] && !may_be_leased {
            node.raw.campaign().map_err(invalid)?;
            node.settle();
        }
        Ok(node)
    }
}

/// The crate's configuration. Its defaults are not ours: no pre-vote, no check of the quorum, one
/// entry per message, nothing bounded.
fn raft_config(config: &Config, applied: &Applied) -> raft::Config {
    raft::Config {
        id: config.id.0,
        election_tick: config.election_ticks,
        heartbeat_tick: config.heartbeat_ticks,
        applied: applied.index.0,
        max_size_per_msg: config.message_bytes_max,
        max_inflight_msgs: config.inflight_messages_max,
        check_quorum: true,
        pre_vote: config.pre_vote,
        max_uncommitted_size: config.uncommitted_bytes_max,
        max_committed_size_per_ready: COMMITTED_BYTES_MAX,
        ..raft::Config::default()
    }
}

fn invalid(error: raft::Error) -> Error {
    Error::Config { reason: error.to_string() }
}

/// Members are named once, not 0, and there are voters as soon as there is anything applied.
fn check_members(applied: &Applied) -> Result<()> {
    let config = |reason: String| Err(Error::Config { reason });
    let mut members: Vec<_> = applied.voters.iter().chain(&applied.learners).collect();
    members.sort_unstable();
    if members.first().is_some_and(|member| member.0 == 0) {
        return config("0 is no member's id".to_string());
    }
    if let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
        return config(format!("member {} is named twice", pair[0].0));
    }
    let joins = applied.index.0 == 0;
    if joins != applied.voters.is_empty() || joins != (applied.term.0 == 0) {
        return config(format!("an impossible start: {applied:?}"));
    }
    Ok(())
}
