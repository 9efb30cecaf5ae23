//! When which lease comes up: to end, to have its checkpoint made, to have one taken back.
//!
//! One idea: heaps of moments beside the table of leases. What changes a lease leaves its entries where
//! they are; one that comes up too early is put back, one that no longer counts is dropped. So a
//! renewal costs one look-up.
//!
//! Invariants:
//! - Every lease has exactly one entry in `deadlines` that counts, at `Lease::queued`, at or before
//!   its deadline.
//! - Entries that do not count are fewer than those that do, or few.
//!
//! It knows neither clock nor term: `now` is an argument, and whether anything is to be done about what
//! has come up is for the lessor to say.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::{Duration, Instant};

use varve_disk::trial;

use crate::limits;

/// After this time without effect, a revocation or the end of a checkpoint is proposed again.
const PROPOSE_RETRY: Duration = Duration::from_secs(3);
/// Entries that do not count are swept out when they are this many more than the others.
pub(super) const STALE_ENTRIES_MAX: usize = 1_024;

/// See the head of the file.
#[derive(Default)]
pub(super) struct Timetable {
    pub(super) leases: HashMap<i64, Lease>,
    pub(super) deadlines: BinaryHeap<Reverse<(Instant, i64)>>,
    /// When to make checkpoints. Entries of leases that are gone are left over.
    pub(super) checkpoints: BinaryHeap<Reverse<(Instant, i64)>>,
    /// Leases whose checkpoints are to be taken back.
    renewed: Vec<i64>,
}

/// A lease and what is under way about it.
pub(super) struct Lease {
    ttl: Duration,
    /// What a new leader starts it with.
    left: Duration,
    /// A checkpoint is on its way through consensus.
    is_proposed: bool,
    /// It is in `renewed`, or that is on its way through consensus.
    is_taken_back: Option<Instant>,
    pub(super) deadline: Instant,
    /// Its entry in `deadlines`; others with its id are left over.
    pub(super) queued: Instant,
    /// Revocation was proposed at this time; proposed again if nothing came of it.
    proposed: Option<Instant>,
}

/// What came of renewing a lease that lives.
pub(super) enum Renewal {
    /// It has its full time.
    Full(Duration),
    /// Its checkpoint must be taken back before anybody is told.
    TakesBack {
        /// It waits for that since now; else since earlier.
        is_new: bool,
    },
}

impl Timetable {
    /// Starts a lease with its whole time, or with what a checkpoint left it.
    pub(super) fn start(&mut self, id: i64, ttl: Duration, left: Duration, now: Instant) {
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
    pub(super) fn start_all(&mut self, now: Instant, checkpoint_interval: Option<Duration>) {
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

    /// Plans the next checkpoint of a lease. Short leases have none.
    pub(super) fn schedule_checkpoint(
        &mut self,
        id: i64,
        ttl: Duration,
        now: Instant,
        interval: Duration,
    ) {
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

    /// A lease is gone; its entries are left over.
    pub(super) fn remove(&mut self, id: i64) {
        self.leases.remove(&id);
    }

    /// A lease was checkpointed, or its checkpoint taken back.
    pub(super) fn checkpointed(&mut self, id: i64, left: Duration) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.left = left.min(lease.ttl);
            lease.is_taken_back = None;
            lease.is_proposed = false;
        }
    }

    /// Gives a lease its full time; `None` if there is none, or its time is over.
    pub(super) fn renew(&mut self, id: i64, now: Instant) -> Option<Renewal> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.deadline > now)?;
        // In any case, so that it does not end while its checkpoint is taken back.
        lease.deadline = now + lease.ttl;
        if lease.left >= lease.ttl && !lease.is_proposed {
            return Some(Renewal::Full(lease.ttl));
        }
        let is_new = lease.is_taken_back.is_none_or(|since| since + PROPOSE_RETRY <= now);
        if is_new {
            lease.is_taken_back = Some(now);
            self.renewed.push(id);
        }
        Some(Renewal::TakesBack { is_new })
    }

    /// What a lease has left of its time; `None` if there is none.
    pub(super) fn left(&self, id: i64, now: Instant) -> Option<Duration> {
        self.leases.get(&id).map(|lease| lease.left(now))
    }

    /// These by the end of their time; first those that are not known.
    pub(super) fn sort_by_end(&self, leases: &mut [i64]) {
        leases.sort_by_key(|id| self.leases.get(id).map(|lease| lease.deadline));
    }

    /// At most `count_max` leases whose revocation must be proposed now.
    pub(super) fn expired(&mut self, count_max: usize, now: Instant) -> Vec<i64> {
        let mut expired = Vec::new();
        while expired.len() < count_max {
            let Some((due, id)) = pop_due(&mut self.deadlines, now) else { break };
            let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.queued == due) else {
                continue;
            };
            let next = if lease.deadline > now {
                trial::reach("a renewed lease comes up");
                // Renewed since: look again then.
                lease.deadline
            } else {
                if lease.proposed.is_none_or(|proposed| proposed + PROPOSE_RETRY <= now) {
                    lease.proposed = Some(now);
                    expired.push(id);
                }
                now + PROPOSE_RETRY
            };
            lease.queued = next;
            self.deadlines.push(Reverse((next, id)));
        }
        expired
    }

    /// At most `count_max` checkpoints that must be proposed now, as ids and seconds left; 0 takes a
    /// checkpoint back. The next one of each comes up after `interval`.
    pub(super) fn due_checkpoints(
        &mut self,
        count_max: usize,
        now: Instant,
        interval: Duration,
    ) -> Vec<(i64, i64)> {
        let renewed = self.renewed.len().min(count_max);
        let mut due: Vec<_> = self.renewed.drain(..renewed).map(|id| (id, 0)).collect();
        while due.len() < count_max {
            let Some((_, id)) = pop_due(&mut self.checkpoints, now) else { break };
            let Some(lease) = self.leases.get_mut(&id) else { continue };
            let left = lease.left(now);
            // Rounded up, so that no lease ends early.
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            if seconds > 0 {
                let ttl = lease.ttl;
                if seconds < ttl.as_secs() {
                    // Not agreed upon yet, but a renewal must come behind it.
                    lease.is_proposed = true;
                    due.push((id, seconds.cast_signed()));
                }
                self.schedule_checkpoint(id, ttl, now, interval);
            }
        }
        due
    }
}

impl Lease {
    fn left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }
}

/// The earliest entry, if its time has come.
fn pop_due(
    entries: &mut BinaryHeap<Reverse<(Instant, i64)>>,
    now: Instant,
) -> Option<(Instant, i64)> {
    entries.peek().filter(|Reverse((due, _))| *due <= now)?;
    entries.pop().map(|Reverse(entry)| entry)
}
