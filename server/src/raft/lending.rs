//! Who sends a snapshot: this leader, or another member in its name
//! (`--experimental-varve-snapshots-from-followers`).
//!
//! One idea: nothing depends on the other member. It is asked; while it says that it is at it, this
//! leader waits; if it declines, fails or falls silent, this leader sends the snapshot itself. If both
//! send in the end, the receiver takes one at a time, and Raft the newer.
//!
//! Members without a vote are asked first: nobody waits for them. One transfer each at a time.

use std::cmp::Reverse;
use std::time::Instant;

use varve_disk::trial;
use varve_raftnode::{Message, Node, NodeId, Progress};

use super::{RaftThread, Turn, hex};
use crate::limits;
use crate::peer::lend::Lent;

/// A snapshot that another member was asked to send.
pub(super) struct Lending {
    by: NodeId,
    message: Message,
    heard: Instant,
}

impl RaftThread {
    /// Has a snapshot sent that Raft asks for.
    pub(super) fn send_snapshot(&mut self, turn: &mut Turn, message: Message) {
        let lender = if self.snapshots_from_followers { self.lender(turn, &message) } else { None };
        if let Some(by) = lender
            && let Some(asked) = self.node.snapshot_of_another(&message)
            && self.peers.ask_for_snapshot(by.0, &asked)
        {
            trial::reach("a snapshot asked of another member");
            tracing::info!(
                by = hex(by),
                to = hex(message.to),
                "asked another member to send a snapshot"
            );
            turn.lending.push(Lending { by, message: asked, heard: self.clock.now() });
            return;
        }
        self.send_own_snapshot(message);
    }

    fn send_own_snapshot(&mut self, message: Message) {
        let to = message.to;
        if !self.peers.send_snapshot(message) {
            // Raft waits for a report on every snapshot.
            self.node.snapshot_sent(to, false);
        }
    }

    /// Whom to ask: somebody who is there, has as much as this leader would send, and has nobody to
    /// send to yet.
    fn lender(&self, turn: &Turn, message: &Message) -> Option<NodeId> {
        let mark = Node::snapshot_mark(&message.bytes)?;
        let progress = self.node.progress()?;
        let is_free = |one: &Progress| turn.lending.iter().all(|lending| lending.by != one.id);
        let may = |one: &Progress| {
            one.is_active
                && one.id != message.to
                && one.id.0 != self.cluster.member_id
                && one.matched >= mark.index
                && self.peers.is_connected(one.id.0)
                && is_free(one)
        };
        choose(progress.into_iter().filter(may))
    }

    /// A member says what has become of a snapshot that was asked of it. Nobody waits for it if this
    /// leader has sent its own meanwhile.
    pub(super) fn told_of_snapshot(&mut self, turn: &mut Turn, by: NodeId, to: NodeId, lent: Lent) {
        let is_it = |lending: &Lending| lending.by == by && lending.message.to == to;
        let Some(at) = turn.lending.iter().position(is_it) else { return };
        match lent {
            Lent::Going => turn.lending[at].heard = self.clock.now(),
            Lent::Delivered => {
                turn.lending.swap_remove(at);
                self.node.snapshot_sent(to, true);
            }
            Lent::Failed => {
                let lending = turn.lending.swap_remove(at);
                self.send_instead(lending, "failed");
            }
        }
    }

    /// A tick passed: what was asked of who is silent is sent from here. Who leads no more has nothing
    /// to send.
    pub(super) fn end_lending(&mut self, turn: &mut Turn) {
        if !self.node.status().is_leader {
            turn.lending.clear();
        }
        let now = self.clock.now();
        let is_silent =
            |lending: &mut Lending| now - lending.heard >= limits::SNAPSHOT_LENT_SILENCE_MAX;
        let silent: Vec<Lending> = turn.lending.extract_if(.., is_silent).collect();
        silent.into_iter().for_each(|lending| self.send_instead(lending, "fell silent"));
    }

    fn send_instead(&mut self, lending: Lending, what: &str) {
        trial::reach("a snapshot sent instead of another member");
        let Lending { by, message, .. } = lending;
        tracing::warn!(
            by = hex(by),
            to = hex(message.to),
            "a member that was asked to send a snapshot {what}"
        );
        self.send_own_snapshot(message);
    }
}

fn choose(candidates: impl Iterator<Item = Progress>) -> Option<NodeId> {
    // Of equals the one with the lowest id, so that equal inputs give equal outputs.
    let best = candidates.min_by_key(|one| (one.is_voter, Reverse(one.matched.0), one.id.0));
    best.map(|one| one.id)
}

#[cfg(test)]
mod tests {
    use varve_raftnode::Index;

    use super::*;

    #[test]
    fn who_has_no_vote_is_asked_first_then_who_is_furthest() {
        let one = |id: u64, matched: u64, is_voter: bool| Progress {
            id: NodeId(id),
            matched: Index(matched),
            is_voter,
            is_active: true,
        };
        let chosen = |all: &[Progress]| choose(all.iter().copied()).map(|id| id.0);
        assert_eq!(chosen(&[one(1, 9, true), one(2, 8, false), one(3, 9, true)]), Some(2));
        assert_eq!(chosen(&[one(1, 8, true), one(2, 9, true), one(3, 9, true)]), Some(2));
        assert_eq!(chosen(&[]), None);
    }
}
