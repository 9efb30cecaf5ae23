//! Linearizable reads: rounds of ReadIndex shared by everybody who came in time.
//!
//! (Raft thesis, section 6.4.) One round is under way, the next one gathers. A round asks the
//! leader to prove by a heartbeat to a majority that it still leads; the commit index that it had
//! before is then a point at which every read of the round may be answered.
//!
//! What makes it right is that an answer cannot belong to an older question:
//!
//! - Every attempt has a context of its own that is never used again: node, start of the process,
//!   counter. A repeated attempt is a new one. (etcd 3.4 to 3.6 reused it: a late heartbeat
//!   response to the first attempt vouched for the second, on a leader that had been deposed in
//!   between; etcd issue 20418.)
//! - A leader adds a context of its own to a question from a follower, so that a network that
//!   repeats the question cannot queue it a second time behind a newer one and let its old
//!   responses vouch for both.
//! - An attempt dies with its term and its leader. Its reads are reported as failed.
//!
//! What it does not do: it bounds neither the number of tokens nor how long a client waits.

use bytes::{BufMut, Bytes, BytesMut};

use varve_wal::trial;

use crate::{Index, Term};

/// Bytes of one context.
pub(crate) const CONTEXT_BYTES: usize = 24;

/// Attempts before the reads of a round are given up.
const ATTEMPTS_MAX: u32 = 3;

/// Hands out contexts that are never used again.
pub(crate) struct Contexts {
    node: u64,
    boot_nonce: u64,
    counter: u64,
}

impl Contexts {
    /// Contexts of one start of one node.
    pub(crate) fn new(node: u64, boot_nonce: u64) -> Self {
        Self { node, boot_nonce, counter: 0 }
    }

    /// `prefix` followed by a context that nobody has seen.
    pub(crate) fn fresh(&mut self, prefix: &[u8]) -> Bytes {
        self.counter += u64::from(!trial::has_bug("read-context-reused"));
        let mut bytes = BytesMut::with_capacity(prefix.len() + CONTEXT_BYTES);
        bytes.put_slice(prefix);
        bytes.put_u64_le(self.node);
        bytes.put_u64_le(self.boot_nonce);
        bytes.put_u64_le(self.counter);
        bytes.freeze()
    }
}

/// The rounds of one node.
///
/// Invariants: a token is in exactly one of `gathering`, `attempt` and `failed` until it is
/// answered; there is no attempt under way without a known leader.
pub(crate) struct Reads {
    /// Ticks without an answer after which an attempt is repeated.
    patience_ticks: usize,
    gathering: Vec<u64>,
    /// Ticks for which the gathering reads could not start.
    gathering_ticks: usize,
    /// Attempts that the oldest of the gathering reads has behind it.
    gathering_attempts: u32,
    attempt: Option<Attempt>,
    failed: Vec<u64>,
}

struct Attempt {
    context: Bytes,
    tokens: Vec<u64>,
    term: Term,
    leader: u64,
    ticks: usize,
    number: u32,
}

impl Reads {
    /// No reads; `patience_ticks` is an election timeout.
    pub(crate) fn new(patience_ticks: usize) -> Self {
        Self {
            patience_ticks,
            gathering: Vec::new(),
            gathering_ticks: 0,
            gathering_attempts: 0,
            attempt: None,
            failed: Vec::new(),
        }
    }

    /// Adds a read to the next round.
    pub(crate) fn gather(&mut self, token: u64) {
        self.gathering.push(token);
    }

    /// Whether a round could start if there is somebody to ask.
    pub(crate) fn wants_start(&self) -> bool {
        self.attempt.is_none() && !self.gathering.is_empty()
    }

    /// Starts a round with everything gathered, under a fresh context.
    pub(crate) fn start(&mut self, context: Bytes, term: Term, leader: u64) {
        assert!(self.wants_start(), "a round starts alone and not empty");
        assert_ne!(leader, 0, "a round without a leader");
        self.attempt = Some(Attempt {
            context,
            tokens: std::mem::take(&mut self.gathering),
            term,
            leader,
            ticks: 0,
            number: self.gathering_attempts + 1,
        });
        self.gathering_ticks = 0;
        self.gathering_attempts = 0;
    }

    /// The answer to a context: the reads of that round and their point. An answer to any other
    /// context than that of the round under way is nobody's.
    pub(crate) fn answered(&mut self, context: &[u8], index: Index) -> Vec<(u64, Index)> {
        let ours = |attempt: &mut Attempt| context.starts_with(&attempt.context);
        match self.attempt.take_if(ours) {
            Some(attempt) => attempt.tokens.into_iter().map(|token| (token, index)).collect(),
            None => Vec::new(),
        }
    }

    /// Fails the round under way if the term or the leader is not its own any more.
    pub(crate) fn observe(&mut self, term: Term, leader: u64) {
        let moved = |attempt: &mut Attempt| attempt.term != term || attempt.leader != leader;
        if let Some(attempt) = self.attempt.take_if(moved) {
            trial::reach("read round dies with its leader");
            self.failed.extend(attempt.tokens);
        }
    }

    /// One tick passed: repeats or gives up what takes too long.
    pub(crate) fn tick(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.ticks += 1;
        } else if !self.gathering.is_empty() {
            self.gathering_ticks += 1;
            if self.gathering_ticks >= 2 * self.patience_ticks {
                self.failed.append(&mut self.gathering);
                self.gathering_ticks = 0;
                self.gathering_attempts = 0;
            }
        }
        let patience = self.patience_ticks;
        let Some(late) = self.attempt.take_if(|attempt| attempt.ticks >= patience) else { return };
        trial::reach("read round repeated");
        if late.number >= ATTEMPTS_MAX {
            trial::reach("read round given up");
            self.failed.extend(late.tokens);
            return;
        }
        let newer = std::mem::replace(&mut self.gathering, late.tokens);
        self.gathering.extend(newer);
        self.gathering_attempts = late.number;
    }

    /// Whether there are failed reads to report.
    pub(crate) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// The failed reads, once.
    pub(crate) fn take_failed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Term = Term(3);

    fn started(tokens: &[u64]) -> (Contexts, Reads, Bytes) {
        let mut contexts = Contexts::new(1, 9);
        let mut reads = Reads::new(10);
        tokens.iter().for_each(|token| reads.gather(*token));
        let context = contexts.fresh(b"");
        reads.start(context.clone(), TERM, 2);
        (contexts, reads, context)
    }

    #[test]
    fn a_round_answers_what_it_started_with() {
        let (mut contexts, mut reads, context) = started(&[1, 2]);
        reads.gather(3);
        assert!(!reads.wants_start(), "one round at a time");
        assert_eq!(reads.answered(&context, Index(8)), [(1, Index(8)), (2, Index(8))]);
        assert_eq!(reads.answered(&context, Index(9)), []);
        assert!(reads.wants_start());
        let next = contexts.fresh(b"");
        assert_ne!(next, context);
        reads.start(next.clone(), TERM, 2);
        assert_eq!(reads.answered(&context, Index(9)), []);
        assert_eq!(reads.answered(&next, Index(9)), [(3, Index(9))]);
    }

    #[test]
    fn an_answer_may_carry_the_leaders_context_behind() {
        let (mut contexts, mut reads, context) = started(&[1]);
        let both = contexts.fresh(&context);
        assert_eq!(both.len(), 2 * CONTEXT_BYTES);
        assert_eq!(reads.answered(&both, Index(8)), [(1, Index(8))]);
    }

    #[test]
    fn an_attempt_dies_with_its_term_or_leader() {
        for (term, leader) in [(Term(4), 2), (TERM, 1), (TERM, 0)] {
            let (_, mut reads, context) = started(&[1, 2]);
            reads.observe(TERM, 2);
            assert!(!reads.has_failed());
            reads.observe(term, leader);
            assert_eq!(reads.take_failed(), [1, 2]);
            assert_eq!(reads.answered(&context, Index(8)), []);
        }
    }

    #[test]
    fn a_late_attempt_is_repeated_and_then_given_up() {
        let (mut contexts, mut reads, first) = started(&[1]);
        reads.gather(2);
        for _ in 0..10 {
            reads.tick();
        }
        assert!(reads.wants_start() && !reads.has_failed());
        reads.start(contexts.fresh(b""), TERM, 2);
        assert_eq!(reads.answered(&first, Index(8)), [], "the first attempt is dead");
        for _ in 0..10 {
            reads.tick();
        }
        reads.start(contexts.fresh(b""), TERM, 2);
        for _ in 0..10 {
            reads.tick();
        }
        assert_eq!(reads.take_failed(), [1, 2]);
        assert!(!reads.wants_start());
    }

    #[test]
    fn reads_without_anybody_to_ask_fail_in_the_end() {
        let mut reads = Reads::new(10);
        reads.gather(1);
        for _ in 0..19 {
            reads.tick();
        }
        assert!(!reads.has_failed());
        reads.tick();
        assert_eq!(reads.take_failed(), [1]);
    }
}
