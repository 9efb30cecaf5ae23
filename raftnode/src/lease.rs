//! Reads that a leader answers without asking anybody, for a while after a majority was asked.
//!
//! (Raft thesis, section 6.4.1.) A round of reads proves that a majority followed this leader at some
//! moment after the round began. Whoever followed then keeps silent towards candidates for an election
//! timeout, so that nobody else can lead, and acknowledge anything, before that is over. Until a while
//! before it, the commit index here is one at which a read may be answered.
//!
//! What the `raft` crate offers for this (`ReadOnlyOption::LeaseBased`) believes in the lease as long as
//! the node takes itself for the leader, counts it by ticks, and forgets it when a voter starts again.
//! Here:
//!
//! - [`Lease`] counts from the moment *before* the questions left, by the caller's clock, which is to
//!   count the time that the machine slept. The caller takes the index first and looks at the clock then:
//!   a process that is paused in between finds the lease over.
//! - [`Silence`] is kept towards every candidate from the last word of a leader, whatever has become of
//!   the term since, and from the start of the process: what was promised before is not known any more.
//! - Who leadership was once offered to may campaign at any later moment of the term, and voters do not
//!   keep silent towards it: there is no lease any more in that term.
//! - A change of the membership ends the lease: majorities of before and after two of them differ.
//!
//! Invariants: a lease is of one term, and counts only while the node leads in it. All members must
//! keep silent, or none may have a lease: it is one setting for the group.
//!
//! What it does not do: no clock is read here, and a clock that stands still while that of others goes
//! on (a virtual machine that is frozen) makes a lease that is no good.

use std::time::Duration;

use raft::eraftpb::{Message, MessageType};

use crate::Term;
use crate::validate::TRANSFER_CONTEXT;

/// What a leader holds.
pub(crate) struct Lease {
    /// How long a round counts; without, there are no leases.
    lasts: Option<Duration>,
    now: Duration,
    /// When the round under way began.
    round: Option<Duration>,
    held: Option<(Term, Duration)>,
    /// The last term in which leadership was offered to another.
    offered: Option<Term>,
}

impl Lease {
    pub(crate) fn new(lasts: Option<Duration>) -> Self {
        Self { lasts, now: Duration::ZERO, round: None, held: None, offered: None }
    }

    /// What time it is at least.
    pub(crate) fn now(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// A round of reads begins, and any before it counts no more.
    pub(crate) fn begin_round(&mut self) {
        self.round = Some(self.now);
    }

    /// The round that began last is answered by a majority in `term`.
    pub(crate) fn prove(&mut self, term: Term) {
        let began = self.round.take();
        if let (Some(began), Some(lasts)) = (began, self.lasts) {
            self.held = Some((term, began + lasts));
        }
    }

    /// Leadership of `term` is offered to another.
    pub(crate) fn offer(&mut self, term: Term) {
        self.offered = Some(term);
    }

    /// Who votes has changed.
    pub(crate) fn end(&mut self) {
        self.held = None;
        self.round = None;
    }

    /// Until when the leader of `term` holds a lease.
    pub(crate) fn until(&self, term: Term) -> Option<Duration> {
        let (of, until) = self.held?;
        (of == term && self.offered != Some(term)).then_some(until)
    }
}

/// What a voter keeps.
pub(crate) struct Silence {
    /// 0 if none is ever kept.
    ticks: usize,
    left: usize,
}

impl Silence {
    /// For so many ticks after a leader's word, and after the start unless no leader can have had one.
    pub(crate) fn new(ticks: usize, has_followed: bool) -> Self {
        Self { ticks, left: if has_followed { ticks } else { 0 } }
    }

    pub(crate) fn tick(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Looks at a message that is about to be stepped in `term`: whether it must not be.
    pub(crate) fn refuses(&mut self, message: &Message, term: u64) -> bool {
        use MessageType as Type;
        match message.get_msg_type() {
            Type::MsgHeartbeat | Type::MsgAppend | Type::MsgSnapshot if message.term >= term => {
                self.left = self.ticks;
                false
            }
            Type::MsgRequestVote | Type::MsgRequestPreVote => {
                self.left > 0 && message.context.as_ref() != TRANSFER_CONTEXT
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Term = Term(4);
    const SECOND: Duration = Duration::from_secs(1);

    fn proven() -> Lease {
        let mut lease = Lease::new(Some(SECOND));
        lease.now(5 * SECOND);
        lease.begin_round();
        lease.now(6 * SECOND);
        lease.prove(TERM);
        lease
    }

    #[test]
    fn a_lease_counts_from_the_question_not_from_the_answer() {
        assert_eq!(proven().until(TERM), Some(6 * SECOND));
        let mut off = Lease::new(None);
        off.begin_round();
        off.prove(TERM);
        assert_eq!(off.until(TERM), None);
    }

    #[test]
    fn a_lease_ends_with_its_term_its_voters_and_the_first_offer() {
        assert_eq!(proven().until(Term(5)), None);
        let mut changed = proven();
        changed.begin_round();
        changed.end();
        changed.prove(TERM);
        assert_eq!(changed.until(TERM), None, "a round of before proves nothing after");
        let mut offered = proven();
        offered.offer(TERM);
        offered.begin_round();
        offered.prove(TERM);
        assert_eq!(offered.until(TERM), None, "the offer may be taken up at any time");
    }

    #[test]
    fn silence_is_kept_from_a_leaders_word_or_the_start_but_not_towards_its_heir() {
        let message = |kind, term| {
            let mut message = Message { term, ..Message::default() };
            message.set_msg_type(kind);
            message
        };
        let asks = message(MessageType::MsgRequestPreVote, 9);
        let mut fresh = Silence::new(3, false);
        assert!(!fresh.refuses(&asks, 4));
        fresh.refuses(&message(MessageType::MsgHeartbeat, 3), 4);
        assert!(!fresh.refuses(&asks, 4), "the word of a deposed leader");
        for mut silence in [fresh, Silence::new(3, true)] {
            silence.refuses(&message(MessageType::MsgHeartbeat, 4), 4);
            for _ in 0..3 {
                assert!(silence.refuses(&asks, 4));
                let mut heir = asks.clone();
                heir.set_msg_type(MessageType::MsgRequestVote);
                assert!(silence.refuses(&heir, 4));
                heir.set_context(TRANSFER_CONTEXT.into());
                assert!(!silence.refuses(&heir, 4));
                silence.tick();
            }
            assert!(!silence.refuses(&asks, 4));
        }
        let mut never = Silence::new(0, true);
        never.refuses(&message(MessageType::MsgHeartbeat, 4), 4);
        assert!(!never.refuses(&asks, 4));
    }
}
