//! Election timeouts from a seed.
//!
//! The `raft` crate draws them from the thread's generator, which would make equal inputs give
//! different outputs. It draws exactly where it resets itself, and every reset changes the term or
//! the role, so that whoever drives it can see that it happened and put a value of its own there.

use raft::{Raft, StateRole, Storage};

/// Replaces every timeout that `raft` drew by one of our own.
///
/// Invariants: `timeout` is what `raft` was last given; `seen` is the term and role at that time.
pub(crate) struct ElectionTimer {
    state: u64,
    election_ticks: u64,
    seen: Option<(u64, StateRole)>,
    timeout: usize,
}

impl ElectionTimer {
    /// Draws from `seed` between `election_ticks` and twice as many.
    pub(crate) fn new(seed: u64, election_ticks: usize) -> Self {
        Self { state: seed, election_ticks: election_ticks as u64, seen: None, timeout: 0 }
    }

    /// To be called after everything that may have changed the term or the role.
    pub(crate) fn observe<S: Storage>(&mut self, raft: &mut Raft<S>) {
        let now = (raft.term, raft.state);
        if self.seen != Some(now) {
            self.seen = Some(now);
            self.timeout = (self.election_ticks + self.next() % self.election_ticks) as usize;
        }
        if raft.randomized_election_timeout() != self.timeout {
            raft.set_randomized_election_timeout(self.timeout);
        }
    }

    /// splitmix64 (Steele, Lea, Flood 2014): one word of state, any seed is good.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}
