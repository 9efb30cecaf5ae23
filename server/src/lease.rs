//! The leader's clock for leases. The state machine knows which leases exist and how long they
//! are to live; only here is it known when that time is over, and only the leader acts on it.
//!
//! A lease that ran out is not gone: its revocation is proposed, and it is gone everywhere when
//! that is applied. A new leader starts every lease afresh with its full time, so no lease ends
//! early because leadership moved (etcd's rule).
//!
//! Invariants:
//! - The clock runs in at most one term, that in which this member leads. It is started only after
//!   everything that earlier terms committed was applied: then no lease that anybody was granted
//!   is missing here, and no revocation that an earlier leader proposed is still to come.
//! - Every lease has exactly one entry in `deadlines` that counts, at `Lease::queued`, at or before
//!   its deadline. A renewal leaves it where it is; it is moved when it comes up. So a renewal
//!   costs one look-up. Entries that do not count are fewer than those that do, or few.
//! - Nothing expires, and nothing is renewed, while the clock does not run.
//!
//! What it does not do: checkpoints of the remaining time (a later issue).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Times all leases; shared by the apply thread (which leases there are), the socket threads
/// (renewals) and the expiry loop.
#[derive(Default)]
pub struct Lessor {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The term in which this member leads and the clock runs.
    term: Option<u64>,
    leases: HashMap<i64, Lease>,
    deadlines: BinaryHeap<Reverse<(Instant, i64)>>,
}

struct Lease {
    ttl: Duration,
    deadline: Instant,
    /// Its entry in `deadlines`; others with its id are left over.
    queued: Instant,
    /// Revocation was proposed at this time; proposed again if nothing came of it.
    proposed: Option<Instant>,
}

/// What the lessor of a member says about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It lives, and has so many seconds left.
    Seconds(i64),
    /// This member does not lead, or not yet with all that it must know: ask again.
    NotLeading,
    /// The leader knows no such lease, or its time is over. Only the state machine can tell
    /// whether it is gone for good.
    NotAlive,
}

impl Answer {
    /// As members tell it each other: seconds, -1 or -2.
    pub fn to_wire(self) -> i64 {
        match self {
            Self::Seconds(seconds) => seconds,
            Self::NotAlive => -1,
            Self::NotLeading => -2,
        }
    }

    /// What a member told.
    pub fn from_wire(seconds: i64) -> Self {
        match seconds {
            0.. => Self::Seconds(seconds),
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

/// After this time without effect, a revocation is proposed again.
const REVOKE_RETRY: Duration = Duration::from_secs(3);
/// Entries that do not count are swept out when they are this many more than the others.
const STALE_ENTRIES_MAX: usize = 1_024;
/// Longest time to live: far beyond etcd's limit (9,000,000,000 s), and clocks can still add it.
const TTL_MAX: Duration = Duration::from_secs(1 << 40);

impl Lessor {
    /// A lessor that knows these leases (id, seconds to live) and does not lead.
    pub fn new(leases: &[(i64, i64)]) -> Self {
        let lessor = Self::default();
        lessor.reset(leases);
        lessor
    }

    /// Forgets all and starts with these.
    pub fn reset(&self, leases: &[(i64, i64)]) {
        let mut state = self.lock();
        state.leases.clear();
        state.deadlines.clear();
        let now = Instant::now();
        for (id, ttl_seconds) in leases {
            state.start(*id, ttl(*ttl_seconds), now);
        }
    }

    /// A lease was granted.
    pub fn granted(&self, id: i64, ttl_seconds: i64) {
        self.lock().start(id, ttl(ttl_seconds), Instant::now());
    }

    /// A lease was revoked.
    pub fn revoked(&self, id: i64) {
        self.lock().leases.remove(&id);
    }

    /// This member leads in `term` and has applied what came before it; or, with `None`, it leads
    /// no more. A new term starts every lease afresh.
    pub fn lead(&self, term: Option<u64>) {
        let mut state = self.lock();
        if term.is_some() && term != state.term {
            let now = Instant::now();
            state.deadlines.clear();
            let leases: Vec<_> = state.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect();
            leases.into_iter().for_each(|(id, ttl)| state.start(id, ttl, now));
        }
        state.term = term;
    }

    /// Renews a lease: its full time to live. One whose time is over is not renewed any more.
    pub fn renew(&self, id: i64) -> Answer {
        let mut state = self.lock();
        if state.term.is_none() {
            return Answer::NotLeading;
        }
        let now = Instant::now();
        match state.leases.get_mut(&id) {
            Some(lease) if lease.deadline > now => {
                lease.deadline = now + lease.ttl;
                Answer::Seconds(lease.ttl.as_secs() as i64)
            }
            _ => Answer::NotAlive,
        }
    }

    /// Whole seconds that a lease has left; 0 while its revocation is under way.
    pub fn remaining(&self, id: i64) -> Answer {
        let state = self.lock();
        match state.leases.get(&id) {
            _ if state.term.is_none() => Answer::NotLeading,
            Some(lease) => Answer::Seconds(lease.left(Instant::now()).as_secs() as i64),
            None => Answer::NotAlive,
        }
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
        let now = Instant::now();
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
                // Renewed since: look again then.
                lease.deadline
            } else {
                if lease.proposed.is_none_or(|proposed| proposed + REVOKE_RETRY <= now) {
                    lease.proposed = Some(now);
                    expired.leases.push(id);
                }
                now + REVOKE_RETRY
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
    fn start(&mut self, id: i64, ttl: Duration, now: Instant) {
        let deadline = now + ttl;
        self.leases.insert(id, Lease { ttl, deadline, queued: deadline, proposed: None });
        self.deadlines.push(Reverse((deadline, id)));
        if self.deadlines.len() > 2 * self.leases.len() + STALE_ENTRIES_MAX {
            let counting = self.leases.iter().map(|(id, lease)| Reverse((lease.queued, *id)));
            self.deadlines = counting.collect();
        }
    }
}

impl Lease {
    fn left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }
}

fn ttl(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(TTL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Vec<i64> {
        Vec::new()
    }

    #[test]
    fn only_a_leader_expires_leases_and_each_once() {
        let lessor = Lessor::new(&[(7, 0), (8, 3600)]);
        assert_eq!(lessor.expired(10).leases, none());
        lessor.lead(Some(3));
        assert_eq!(lessor.expired(10), Expired { term: 3, leases: vec![7] });
        assert_eq!(lessor.expired(10).leases, none());
        assert_eq!(lessor.renew(7), Answer::NotAlive);
        assert_eq!(lessor.remaining(7), Answer::Seconds(0));
        assert_eq!(lessor.renew(8), Answer::Seconds(3600));
        lessor.revoked(7);
        assert_eq!(lessor.remaining(7), Answer::NotAlive);
        lessor.lead(None);
        assert_eq!(lessor.expired(10).leases, none());
    }

    #[test]
    fn who_does_not_lead_says_nothing_about_a_lease() {
        // Its time is over here, since renewals went to the leader: that means nothing.
        let lessor = Lessor::new(&[(1, 0), (2, 1000)]);
        for id in [1, 2, 3] {
            assert_eq!(lessor.renew(id), Answer::NotLeading);
            assert_eq!(lessor.remaining(id), Answer::NotLeading);
        }
    }

    #[test]
    fn a_new_leader_starts_every_lease_afresh() {
        let lessor = Lessor::new(&[]);
        lessor.granted(1, 1000);
        for term in [4, 6] {
            lessor.lock().leases.get_mut(&1).expect("granted").deadline = Instant::now();
            lessor.lead(Some(term));
            let Answer::Seconds(seconds) = lessor.remaining(1) else { panic!("it leads") };
            assert!(seconds >= 998, "{seconds}");
        }
        // The same term again changes nothing.
        lessor.lock().leases.get_mut(&1).expect("granted").deadline = Instant::now();
        lessor.lead(Some(6));
        assert_eq!(lessor.remaining(1), Answer::Seconds(0));
    }

    #[test]
    fn a_renewed_lease_does_not_expire_at_its_first_deadline() {
        let lessor = Lessor::new(&[]);
        lessor.lead(Some(1));
        lessor.granted(1, 1000);
        {
            let mut state = lessor.lock();
            let first = Instant::now();
            state.leases.get_mut(&1).expect("granted").queued = first;
            state.deadlines.push(Reverse((first, 1)));
        }
        assert_eq!(lessor.expired(10).leases, none());
        assert_eq!(lessor.renew(1), Answer::Seconds(1000));
        assert_eq!(lessor.lock().deadlines.len(), 2, "its entry was moved, not dropped");
    }

    #[test]
    fn a_storm_is_worked_off_in_rounds_and_each_lease_named_once() {
        let leases: Vec<(i64, i64)> = (0..1000).map(|id| (id, 0)).collect();
        let lessor = Lessor::new(&leases);
        lessor.lead(Some(1));
        let mut named = Vec::new();
        for _ in 0..4 {
            let round = lessor.expired(300).leases;
            assert!(round.len() <= 300);
            named.extend(round);
        }
        named.sort_unstable();
        assert!(named.into_iter().eq(0..1000));
        assert_eq!(lessor.expired(300).leases, none());
    }

    #[test]
    fn leases_that_come_and_go_leave_no_deadlines_behind() {
        let lessor = Lessor::new(&[]);
        for _ in 0..100_000 {
            lessor.granted(5, 9_000_000_000);
            lessor.revoked(5);
        }
        lessor.granted(5, i64::MAX);
        let entries = lessor.lock().deadlines.len();
        assert!(entries <= STALE_ENTRIES_MAX + 4, "{entries}");
    }
}
