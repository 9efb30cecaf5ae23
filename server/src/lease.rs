//! The leader's clock for leases. The state machine knows which leases exist and how long they
//! are to live; only here is it known when that time is over, and only the leader acts on it.
//!
//! A lease that ran out is not gone: its revocation is proposed, and it is gone everywhere when
//! that is applied. A new leader starts every lease afresh with its full time, so no lease ends
//! early because leadership moved; many that would end together are spread out (etcd's rules).
//!
//! With checkpoints (`--feature-gates=LeaseCheckpoint=true`) the leader has agreed upon, every few
//! minutes, what long leases have left, and a new one starts them with that. A renewal must take
//! the checkpoint back before it is told, else a new leader would end the lease early: so who renews
//! such a lease is told to ask again, and [`Lessor::taken_back`] says that there is something to
//! propose.
//!
//! Invariants:
//! - The clock runs in at most one term, that in which this member leads. It is started only after
//!   everything that earlier terms committed was applied: then no lease that anybody was granted
//!   is missing here, and no revocation that an earlier leader proposed is still to come.
//! - Nothing expires, and nothing is renewed, while the clock does not run.
//!
//! Which lease comes up when, `lease/timetable.rs` knows; here it is known whether that means anything.

#[cfg(test)]
mod tests;
mod timetable;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use varve_disk::trial;

use self::timetable::{Renewal, Timetable};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Times all leases; shared by the apply thread (which leases there are), the socket threads
/// (renewals) and the expiry loop.
#[derive(Default)]
pub struct Lessor {
    state: Mutex<State>,
    /// A checkpoint is to be taken back.
    taken_back: Notify,
    /// Time between two checkpoints of a lease; none are made without.
    checkpoint_interval: Option<Duration>,
    /// What a new leader gives every lease on top, since nobody could renew it meanwhile.
    grace: Duration,
    clock: Clock,
}

/// A lease as the state machine knows it; times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub id: i64,
    /// Its granted time to live.
    pub ttl: i64,
    /// What a new leader starts it with: the last checkpoint, or the whole time.
    pub left: i64,
}

#[derive(Default)]
struct State {
    /// The term in which this member leads and the clock runs.
    term: Option<u64>,
    timetable: Timetable,
}

/// What the lessor of a member says about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It lives, and has so many seconds left: if this member still led in that term when it said
    /// so, which it cannot know itself. [`crate::rpc::lease::ask_leader`] finds out.
    Alive {
        /// Whole seconds.
        seconds: i64,
        /// The term in which the clock runs.
        term: u64,
    },
    /// This member does not lead, or not yet with all that it must know, or has something to agree
    /// upon first: ask again.
    NotLeading,
    /// The leader knows no such lease, or its time is over. Only the state machine can tell
    /// whether it is gone for good.
    NotAlive,
}

impl Answer {
    /// As members tell it each other: seconds, -1 or -2; and the term, 0 without seconds.
    pub fn to_wire(self) -> (i64, u64) {
        match self {
            Self::Alive { seconds, term } => (seconds, term),
            Self::NotAlive => (-1, 0),
            Self::NotLeading => (-2, 0),
        }
    }

    /// What a member told.
    pub fn from_wire(seconds: i64, term: u64) -> Self {
        match seconds {
            0.. => Self::Alive { seconds, term },
            -1 => Self::NotAlive,
            _ => Self::NotLeading,
        }
    }
}

/// Leases whose time is over, and the term in which that was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Only the leader of this term may revoke them.
    pub term: u64,
    /// Their ids.
    pub leases: Vec<i64>,
}

/// Checkpoints to propose, and the term in which that was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checkpoints {
    /// Only the leader of this term may propose them.
    pub term: u64,
    /// Ids and seconds left; 0 for the whole time.
    pub leases: Vec<(i64, i64)>,
}

/// Longest time to live: far beyond etcd's limit (9,000,000,000 s), and clocks can still add it.
const TTL_MAX: Duration = Duration::from_secs(1 << 40);

impl Lessor {
    /// A lessor that knows no leases and does not lead. See [`Lessor`] for the two times.
    pub fn new(checkpoint_interval: Option<Duration>, grace: Duration) -> Self {
        Self { checkpoint_interval, grace, ..Self::default() }
    }

    /// The same by another clock than the system's.
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Forgets all and starts with these.
    pub fn reset(&self, leases: &[Known]) {
        let mut state = self.lock();
        state.timetable = Timetable::default();
        let now = self.clock.now();
        for lease in leases {
            state.timetable.start(lease.id, ttl(lease.ttl), ttl(lease.left), now);
        }
    }

    /// A lease was granted.
    pub fn granted(&self, id: i64, ttl_seconds: i64) {
        let mut state = self.lock();
        let (ttl, now) = (ttl(ttl_seconds), self.clock.now());
        state.timetable.start(id, ttl, ttl, now);
        if let Some(interval) = self.checkpoint_interval {
            state.timetable.schedule_checkpoint(id, ttl, now, interval);
        }
    }

    /// A lease was checkpointed, or its checkpoint taken back.
    pub fn checkpointed(&self, id: i64, left_seconds: i64) {
        self.lock().timetable.checkpointed(id, ttl(left_seconds));
    }

    /// A lease was revoked.
    pub fn revoked(&self, id: i64) {
        self.lock().timetable.remove(id);
    }

    /// This member leads in `term` and has applied what came before it; or, with `None`, it leads
    /// no more. A new term starts every lease afresh, or with what its checkpoint left it.
    pub fn lead(&self, term: Option<u64>) {
        let mut state = self.lock();
        if term.is_some() && term != state.term && !trial::has_bug("lease-not-restarted") {
            state.timetable.start_all(self.clock.now() + self.grace, self.checkpoint_interval);
        }
        state.term = term;
    }

    /// Renews a lease: its full time to live. One whose time is over is not renewed any more.
    pub fn renew(&self, id: i64) -> Answer {
        let mut state = self.lock();
        let Some(term) = state.term else { return Answer::NotLeading };
        match state.timetable.renew(id, self.clock.now()) {
            None => Answer::NotAlive,
            Some(Renewal::Full(ttl)) => Answer::Alive { seconds: ttl.as_secs() as i64, term },
            Some(Renewal::TakesBack { is_new }) => {
                if is_new {
                    self.taken_back.notify_one();
                }
                Answer::NotLeading
            }
        }
    }

    /// Returns when a checkpoint is to be taken back.
    pub async fn taken_back(&self) {
        self.taken_back.notified().await;
    }

    /// At most `count_max` checkpoints that must be proposed now, as ids and seconds left; 0 takes a
    /// checkpoint back. None unless leading.
    pub fn due_checkpoints(&self, count_max: usize) -> Checkpoints {
        let mut state = self.lock();
        let Some(term) = state.term else { return Checkpoints::default() };
        let interval = self.checkpoint_interval.unwrap_or_default();
        let leases = state.timetable.due_checkpoints(count_max, self.clock.now(), interval);
        Checkpoints { term, leases }
    }

    /// As [`Lessor::renew`], which is counted, or as [`Lessor::remaining`].
    pub fn ask(&self, id: i64, renew: bool, metrics: &Metrics) -> Answer {
        if !renew {
            return self.remaining(id);
        }
        let answer = self.renew(id);
        if matches!(answer, Answer::Alive { .. }) {
            metrics.lease_renewed.inc();
        }
        answer
    }

    /// Whole seconds that a lease has left; 0 while its revocation is under way.
    pub fn remaining(&self, id: i64) -> Answer {
        let state = self.lock();
        let Some(term) = state.term else { return Answer::NotLeading };
        match state.timetable.left(id, self.clock.now()) {
            None => Answer::NotAlive,
            Some(left) => Answer::Alive { seconds: left.as_secs() as i64, term },
        }
    }

    /// These leases by the end of their time, as far as this member knows it: a guess unless it
    /// leads.
    pub fn sort_by_end(&self, leases: &mut [i64]) {
        self.lock().timetable.sort_by_end(leases);
    }

    /// At most `count_max` leases whose revocation must be proposed now; none unless leading.
    pub fn expired(&self, count_max: usize) -> Expired {
        let mut state = self.lock();
        let Some(term) = state.term else { return Expired::default() };
        let leases = state.timetable.expired(count_max, self.clock.now());
        Expired { term, leases }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ttl(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(TTL_MAX)
}
