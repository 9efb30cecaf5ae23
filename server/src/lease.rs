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
//! - Every lease has exactly one entry in `deadlines` that counts, at `Lease::queued`, at or before
//!   its deadline. A renewal leaves it where it is; it is moved when it comes up. So a renewal
//!   costs one look-up. Entries that do not count are fewer than those that do, or few.
//! - Nothing expires, and nothing is renewed, while the clock does not run.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use varve_disk::trial;

use crate::clock::Clock;
use crate::limits;

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
    leases: HashMap<i64, Lease>,
    deadlines: BinaryHeap<Reverse<(Instant, i64)>>,
    /// When to make checkpoints. Entries of leases that are gone are left over.
    checkpoints: BinaryHeap<Reverse<(Instant, i64)>>,
    /// Leases whose checkpoints are to be taken back.
    renewed: Vec<i64>,
}

struct Lease {
    ttl: Duration,
    /// What a new leader starts it with.
    left: Duration,
    /// A checkpoint is on its way through consensus.
    is_proposed: bool,
    /// It is in `renewed`, or that is on its way through consensus.
    is_taken_back: Option<Instant>,
    deadline: Instant,
    /// Its entry in `deadlines`; others with its id are left over.
    queued: Instant,
    /// Revocation was proposed at this time; proposed again if nothing came of it.
    proposed: Option<Instant>,
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

/// After this time without effect, a revocation or the end of a checkpoint is proposed again.
const PROPOSE_RETRY: Duration = Duration::from_secs(3);
/// Entries that do not count are swept out when they are this many more than the others.
const STALE_ENTRIES_MAX: usize = 1_024;
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
        let term = state.term;
        *state = State { term, ..State::default() };
        let now = self.clock.now();
        for lease in leases {
            state.start(lease.id, ttl(lease.ttl), ttl(lease.left), now);
        }
    }

    /// A lease was granted.
    pub fn granted(&self, id: i64, ttl_seconds: i64) {
        let mut state = self.lock();
        let (ttl, now) = (ttl(ttl_seconds), self.clock.now());
        state.start(id, ttl, ttl, now);
        if let Some(interval) = self.checkpoint_interval {
            state.schedule_checkpoint(id, ttl, now, interval);
        }
    }

    /// A lease was checkpointed, or its checkpoint taken back.
    pub fn checkpointed(&self, id: i64, left_seconds: i64) {
        if let Some(lease) = self.lock().leases.get_mut(&id) {
            lease.left = ttl(left_seconds).min(lease.ttl);
            lease.is_taken_back = None;
            lease.is_proposed = false;
        }
    }

    /// A lease was revoked.
    pub fn revoked(&self, id: i64) {
        self.lock().leases.remove(&id);
    }

    /// This member leads in `term` and has applied what came before it; or, with `None`, it leads
    /// no more. A new term starts every lease afresh, or with what its checkpoint left it.
    pub fn lead(&self, term: Option<u64>) {
        let mut state = self.lock();
        if term.is_some() && term != state.term && !trial::has_bug("lease-not-restarted") {
            state.start_all(self.clock.now() + self.grace, self.checkpoint_interval);
        }
        state.term = term;
    }

    /// Renews a lease: its full time to live. One whose time is over is not renewed any more.
    pub fn renew(&self, id: i64) -> Answer {
        let mut state = self.lock();
        let Some(term) = state.term else { return Answer::NotLeading };
        let now = self.clock.now();
        let Some(lease) = state.leases.get_mut(&id).filter(|lease| lease.deadline > now) else {
            return Answer::NotAlive;
        };
        // In any case, so that it does not end while its checkpoint is taken back.
        lease.deadline = now + lease.ttl;
        if lease.left >= lease.ttl && !lease.is_proposed {
            return Answer::Alive { seconds: lease.ttl.as_secs() as i64, term };
        }
        if lease.is_taken_back.is_none_or(|since| since + PROPOSE_RETRY <= now) {
            lease.is_taken_back = Some(now);
            state.renewed.push(id);
            self.taken_back.notify_one();
        }
        Answer::NotLeading
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
        let now = self.clock.now();
        let renewed = state.renewed.len().min(count_max);
        let mut leases: Vec<_> = state.renewed.drain(..renewed).map(|id| (id, 0)).collect();
        let interval = self.checkpoint_interval.unwrap_or_default();
        while leases.len() < count_max {
            match state.checkpoints.peek() {
                Some(Reverse((due, _))) if *due <= now => {}
                _ => break,
            }
            let Some(Reverse((_, id))) = state.checkpoints.pop() else { break };
            let Some(lease) = state.leases.get_mut(&id) else { continue };
            let left = lease.left(now);
            // Rounded up, so that no lease ends early.
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            if seconds > 0 {
                let ttl = lease.ttl;
                if seconds < ttl.as_secs() {
                    // Not agreed upon yet, but a renewal must come behind it.
                    lease.is_proposed = true;
                    leases.push((id, seconds.cast_signed()));
                }
                state.schedule_checkpoint(id, ttl, now, interval);
            }
        }
        Checkpoints { term, leases }
    }

    /// Whole seconds that a lease has left; 0 while its revocation is under way.
    pub fn remaining(&self, id: i64) -> Answer {
        let state = self.lock();
        let Some(term) = state.term else { return Answer::NotLeading };
        let Some(lease) = state.leases.get(&id) else { return Answer::NotAlive };
        Answer::Alive { seconds: lease.left(self.clock.now()).as_secs() as i64, term }
    }

    /// These leases by the end of their time, as far as this member knows it: a guess unless it
    /// leads.
    pub fn sort_by_end(&self, leases: &mut [i64]) {
        let state = self.lock();
        leases.sort_by_key(|id| state.leases.get(id).map(|lease| lease.deadline));
    }

    /// At most `count_max` leases whose revocation must be proposed now; none unless leading.
    pub fn expired(&self, count_max: usize) -> Expired {
        let mut state = self.lock();
        let Some(term) = state.term else { return Expired::default() };
        let mut expired = Expired { term, leases: Vec::new() };
        let now = self.clock.now();
        while expired.leases.len() < count_max {
            match state.deadlines.peek() {
                Some(Reverse((due, _))) if *due <= now => {}
                _ => break,
            }
            let Some(Reverse((due, id))) = state.deadlines.pop() else { break };
            let Some(lease) = state.leases.get_mut(&id).filter(|lease| lease.queued == due) else {
                continue;
            };
            let next = if lease.deadline > now {
                trial::reach("a renewed lease comes up");
                // Renewed since: look again then.
                lease.deadline
            } else {
                if lease.proposed.is_none_or(|proposed| proposed + PROPOSE_RETRY <= now) {
                    lease.proposed = Some(now);
                    expired.leases.push(id);
                }
                now + PROPOSE_RETRY
            };
            lease.queued = next;
            state.deadlines.push(Reverse((next, id)));
        }
        expired
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Starts a lease with its whole time, or with what a checkpoint left it.
    fn start(&mut self, id: i64, ttl: Duration, left: Duration, now: Instant) {
        let left = left.min(ttl);
        let deadline = now + left;
        let lease = Lease {
            ttl,
            left,
            is_proposed: false,
            is_taken_back: None,
            deadline,
            queued: deadline,
            proposed: None,
        };
        self.leases.insert(id, lease);
        self.deadlines.push(Reverse((deadline, id)));
        if self.deadlines.len() > 2 * self.leases.len() + STALE_ENTRIES_MAX {
            let counting = self.leases.iter().map(|(id, lease)| Reverse((lease.queued, *id)));
            self.deadlines = counting.collect();
        }
    }

    /// A new leader's start of all leases at `now`. Where more would end in a second than can be
    /// revoked without hurting others, the later ones are given more time.
    fn start_all(&mut self, now: Instant, checkpoint_interval: Option<Duration>) {
        self.deadlines.clear();
        self.checkpoints.clear();
        self.renewed.clear();
        let times = self.leases.iter().map(|(id, lease)| (lease.left, *id, lease.ttl));
        let mut leases: Vec<_> = times.collect();
        leases.sort_unstable();
        let gap = match leases.len() > limits::LEASES_SPREAD_MIN {
            true => Duration::from_secs(1) / limits::LEASES_ENDING_PER_SECOND,
            false => Duration::ZERO,
        };
        let mut free_at = now;
        for (left, id, ttl) in leases {
            let deadline = free_at.max(now + left);
            free_at = deadline + gap;
            self.start(id, ttl, left, now);
            if let Some(lease) = self.leases.get_mut(&id) {
                // Its entry comes up before, and is moved then.
                lease.deadline = deadline;
            }
            if let Some(interval) = checkpoint_interval {
                self.schedule_checkpoint(id, ttl, now, interval);
            }
        }
    }

    /// Short leases have no checkpoints.
    fn schedule_checkpoint(&mut self, id: i64, ttl: Duration, now: Instant, interval: Duration) {
        if ttl <= interval {
            return;
        }
        self.checkpoints.push(Reverse((now + interval, id)));
        if self.checkpoints.len() > 2 * self.leases.len() + STALE_ENTRIES_MAX {
            let mut seen = HashSet::new();
            let leases = &self.leases;
            self.checkpoints.retain(|Reverse((_, id))| leases.contains_key(id) && seen.insert(*id));
        }
    }
}

impl Lease {
    /// What it has left of its time.
    fn left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }
}

fn ttl(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(TTL_MAX)
}
