//! The leader's clock for leases. The state machine knows which leases exist and how long they
//! are to live; only here is it known when that time is over, and only the leader acts on it.
//!
//! A lease that ran out is not gone: its revocation is proposed, and it is gone everywhere when
//! that is applied. A new leader starts every lease afresh with its full time, so no lease ends
//! early because leadership moved (etcd's rule).
//!
//! Invariants:
//! - `deadlines` holds, for every lease, at least one entry at or before its deadline (renewals
//!   leave the old entry behind; it is moved when it comes up). So a renewal costs one look-up.
//! - Nothing expires here while this member does not lead.
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
    leads: bool,
    leases: HashMap<i64, Lease>,
    deadlines: BinaryHeap<Reverse<(Instant, i64)>>,
}

struct Lease {
    ttl: Duration,
    deadline: Instant,
    /// Revocation was proposed at this time; proposed again if nothing came of it.
    proposed: Option<Instant>,
}

/// After this time without effect, a revocation is proposed again.
const REVOKE_RETRY: Duration = Duration::from_secs(3);

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
            state.start(*id, *ttl_seconds, now);
        }
    }

    /// A lease was granted.
    pub fn granted(&self, id: i64, ttl_seconds: i64) {
        self.lock().start(id, ttl_seconds, Instant::now());
    }

    /// A lease was revoked.
    pub fn revoked(&self, id: i64) {
        self.lock().leases.remove(&id);
    }

    /// Leadership was won or lost; winning it starts every lease afresh.
    pub fn leadership(&self, leads: bool) {
        let mut state = self.lock();
        if leads && !state.leads {
            let now = Instant::now();
            let ids: Vec<(i64, Duration)> =
                state.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect();
            state.deadlines.clear();
            for (id, ttl) in ids {
                state.leases.insert(id, Lease { ttl, deadline: now + ttl, proposed: None });
                state.deadlines.push(Reverse((now + ttl, id)));
            }
        }
        state.leads = leads;
    }

    /// Renews a lease; its time to live in seconds. `None` if there is no such lease, or its time
    /// is over and its revocation under way. Only the leader's answer counts.
    pub fn renew(&self, id: i64) -> Option<i64> {
        let mut state = self.lock();
        let now = Instant::now();
        let lease = state.leases.get_mut(&id)?;
        if lease.deadline <= now {
            return None;
        }
        lease.deadline = now + lease.ttl;
        Some(lease.ttl.as_secs() as i64)
    }

    /// Whole seconds that a lease has left, as far as this member knows; `None` if unknown.
    pub fn remaining(&self, id: i64) -> Option<i64> {
        let state = self.lock();
        let lease = state.leases.get(&id)?;
        Some(lease.deadline.saturating_duration_since(Instant::now()).as_secs() as i64)
    }

    /// Number of leases.
    pub fn len(&self) -> usize {
        self.lock().leases.len()
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At most `count_max` leases whose revocation must be proposed now; empty unless leading.
    pub fn expired(&self, count_max: usize) -> Vec<i64> {
        let mut state = self.lock();
        let mut expired = Vec::new();
        let now = Instant::now();
        while state.leads && expired.len() < count_max {
            match state.deadlines.peek() {
                Some(Reverse((due, _))) if *due <= now => {}
                _ => break,
            }
            let Some(Reverse((_, id))) = state.deadlines.pop() else { break };
            let Some(lease) = state.leases.get_mut(&id) else { continue };
            let next = if lease.deadline > now {
                // Renewed since: look again then.
                lease.deadline
            } else {
                if lease.proposed.is_none_or(|proposed| proposed + REVOKE_RETRY <= now) {
                    lease.proposed = Some(now);
                    expired.push(id);
                }
                now + REVOKE_RETRY
            };
            state.deadlines.push(Reverse((next, id)));
        }
        expired
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn start(&mut self, id: i64, ttl_seconds: i64, now: Instant) {
        let ttl = Duration::from_secs(u64::try_from(ttl_seconds).unwrap_or(0));
        self.leases.insert(id, Lease { ttl, deadline: now + ttl, proposed: None });
        self.deadlines.push(Reverse((now + ttl, id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leader_expires_leases_and_each_once() {
        let lessor = Lessor::new(&[(7, 0), (8, 3600)]);
        assert_eq!(lessor.expired(10), Vec::<i64>::new());
        lessor.leadership(true);
        assert_eq!(lessor.expired(10), vec![7]);
        assert_eq!(lessor.expired(10), Vec::<i64>::new());
        assert_eq!(lessor.renew(7), None);
        assert_eq!(lessor.renew(8), Some(3600));
        lessor.revoked(7);
        assert_eq!(lessor.remaining(7), None);
    }

    #[test]
    fn a_new_leader_starts_every_lease_afresh() {
        let lessor = Lessor::new(&[]);
        lessor.granted(1, 1000);
        lessor.lock().leases.get_mut(&1).expect("granted").deadline = Instant::now();
        lessor.leadership(true);
        assert!(lessor.remaining(1).expect("granted") >= 998);
    }

    #[test]
    fn a_renewed_lease_does_not_expire_at_its_first_deadline() {
        let lessor = Lessor::new(&[]);
        lessor.leadership(true);
        lessor.granted(1, 1000);
        lessor.lock().deadlines.push(Reverse((Instant::now(), 1)));
        assert_eq!(lessor.expired(10), Vec::<i64>::new());
        assert_eq!(lessor.renew(1), Some(1000));
    }
}
