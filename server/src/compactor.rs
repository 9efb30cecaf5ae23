//! When history is compacted without being asked: `--auto-compaction-mode` and
//! `--auto-compaction-retention`.
//!
//! One idea: a rule is told the revision and the time at regular intervals and says which revision
//! is to be compacted; what then happens is a compaction like any other, through consensus. The
//! rules are etcd's:
//! - *periodic*: every tenth of the period (of an hour, if the period is longer) the revision is
//!   noted; the first compaction comes after a whole period, the next ones after each period or
//!   hour, whichever is shorter, at the revision that was noted a period ago.
//! - *revision*: every five minutes, all but the last so many revisions.
//!
//! Only the leader compacts; the others note revisions, so that a new leader knows the past.

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message;
use tokio::time::Instant;
use varve_api::etcdserverpb::CompactionRequest;
use varve_api::{Status, error};
use varve_store::CommandKind;

use crate::config::AutoCompaction;
use crate::services::Services;

const HOUR: Duration = Duration::from_secs(3600);
/// Notes of revisions in a period, or in an hour.
const NOTES: u32 = 10;
/// Time between compactions of the other mode.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// Shortest time between notes, whatever the period.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// A rule and what it remembers. Times are since some fixed moment.
#[derive(Debug)]
enum Rule {
    Periodic {
        period: Duration,
        /// Revisions noted, oldest first: the first is a period old when they are all there.
        noted: VecDeque<i64>,
        noted_max: usize,
        /// Time that must have passed since `success`: the period, until it is over once.
        wait: Duration,
        success: Duration,
        compacted: i64,
    },
    Revision {
        retention: i64,
        compacted: i64,
    },
}

impl Rule {
    /// The rule of these flags, started at `now`; `None` if nothing is to be compacted.
    fn new(flags: AutoCompaction, now: Duration) -> Option<Self> {
        match flags {
            AutoCompaction::Off => None,
            AutoCompaction::Revision(retention) => Some(Self::Revision { retention, compacted: 0 }),
            AutoCompaction::Periodic(period) => {
                let intervals = period.as_nanos() / interval_of(period).as_nanos();
                Some(Self::Periodic {
                    period,
                    noted: VecDeque::new(),
                    noted_max: usize::try_from(intervals).unwrap_or(usize::MAX).saturating_add(1),
                    wait: period,
                    success: now,
                    compacted: 0,
                })
            }
        }
    }

    /// Time between two looks.
    fn interval(&self) -> Duration {
        match self {
            Self::Periodic { period, .. } => interval_of(*period),
            Self::Revision { .. } => REVISION_INTERVAL,
        }
    }

    /// Notes the revision; before each pause.
    fn note(&mut self, revision: i64) {
        if let Self::Periodic { noted, noted_max, .. } = self {
            noted.push_back(revision);
            if noted.len() > *noted_max {
                noted.pop_front();
            }
        }
    }

    /// What is to be compacted now; after each pause, if this member leads.
    fn due(&mut self, now: Duration, revision: i64) -> Option<i64> {
        match self {
            Self::Periodic { period, noted, wait, success, compacted, .. } => {
                let oldest = *noted.front()?;
                if now.saturating_sub(*success) < *wait || oldest == *compacted {
                    return None;
                }
                *wait = (*period).min(HOUR);
                Some(oldest)
            }
            Self::Revision { retention, compacted } => {
                let target = revision.saturating_sub(*retention);
                (target > 0 && target != *compacted).then_some(target)
            }
        }
    }

    /// `revision` is compacted.
    fn done(&mut self, now: Duration, revision: i64) {
        match self {
            Self::Periodic { success, compacted, .. } => {
                (*success, *compacted) = (now, revision);
            }
            Self::Revision { compacted, .. } => *compacted = revision,
        }
    }
}

fn interval_of(period: Duration) -> Duration {
    (period.min(HOUR) / NOTES).max(INTERVAL_MIN)
}

/// Compacts by the rule of these flags, for the life of the thread.
pub async fn run(services: Services, flags: AutoCompaction) {
    let start = Instant::now();
    let Some(mut rule) = Rule::new(flags, Duration::ZERO) else { return };
    loop {
        rule.note(services.view.revision());
        tokio::time::sleep(rule.interval()).await;
        if !services.cluster.is_leader() {
            continue;
        }
        let Some(revision) = rule.due(start.elapsed(), services.view.revision()) else { continue };
        tracing::info!(revision, mode = ?flags, "starting auto compaction");
        match compact(&services, revision).await {
            Err(status) if status != error::COMPACTED => {
                tracing::warn!(revision, mode = ?flags, error = %status, "failed auto compaction");
            }
            _ => {
                rule.done(start.elapsed(), revision);
                tracing::info!(revision, mode = ?flags, "completed auto compaction");
            }
        }
    }
}

async fn compact(services: &Services, revision: i64) -> Result<(), Status> {
    let request = CompactionRequest { revision, physical: false };
    services.propose_as_root(CommandKind::Compact, request.encode_to_vec().into()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a rule for `looks` pauses on a clock that only it moves; the revision grows by
    /// `per_look` between them. What was compacted, and at which look.
    fn compactions(
        flags: AutoCompaction,
        looks: u32,
        per_look: i64,
        leads: impl Fn(u32) -> bool,
    ) -> Vec<(u32, i64)> {
        let mut rule = Rule::new(flags, Duration::ZERO).expect("a rule");
        let mut done = Vec::new();
        let mut revision = 1;
        for look in 1..=looks {
            rule.note(revision);
            revision += per_look;
            let now = rule.interval() * look;
            if leads(look)
                && let Some(due) = rule.due(now, revision)
            {
                rule.done(now, due);
                done.push((look, due));
            }
        }
        done
    }

    #[test]
    fn a_short_period_compacts_what_is_a_period_old_once_a_period() {
        let flags = AutoCompaction::Periodic(Duration::from_secs(5));
        let rule = Rule::new(flags, Duration::ZERO).unwrap();
        assert_eq!(rule.interval(), Duration::from_millis(500));
        // Looks come every half second; revision 1 + look.
        assert_eq!(compactions(flags, 31, 1, |_| true), [(10, 1), (20, 10), (30, 20)]);
    }

    #[test]
    fn a_long_period_waits_for_its_end_and_then_compacts_every_hour() {
        let flags = AutoCompaction::Periodic(Duration::from_secs(24 * 3600));
        let rule = Rule::new(flags, Duration::ZERO).unwrap();
        assert_eq!(rule.interval(), Duration::from_secs(360));
        let done = compactions(flags, 265, 1, |_| true);
        assert_eq!(done, [(240, 1), (250, 10), (260, 20)]);
    }

    #[test]
    fn an_idle_store_is_compacted_once() {
        let flags = AutoCompaction::Periodic(Duration::from_secs(5));
        assert_eq!(compactions(flags, 50, 0, |_| true), [(10, 1)]);
        assert_eq!(compactions(AutoCompaction::Revision(0), 9, 0, |_| true), [(1, 1)]);
    }

    #[test]
    fn a_follower_notes_and_a_new_leader_compacts_what_it_noted() {
        let flags = AutoCompaction::Periodic(Duration::from_secs(5));
        assert_eq!(compactions(flags, 25, 1, |look| look > 23), [(24, 14)]);
    }

    #[test]
    fn the_last_revisions_are_kept() {
        let flags = AutoCompaction::Revision(10);
        let rule = Rule::new(flags, Duration::ZERO).unwrap();
        assert_eq!(rule.interval(), Duration::from_secs(300));
        assert_eq!(compactions(flags, 4, 5, |_| true), [(2, 1), (3, 6), (4, 11)]);
    }

    #[test]
    fn a_failure_is_tried_again_at_the_next_look() {
        let mut rule = Rule::new(AutoCompaction::Periodic(HOUR), Duration::ZERO).unwrap();
        rule.note(7);
        rule.note(8);
        assert_eq!(rule.due(HOUR - Duration::from_secs(1), 9), None);
        assert_eq!(rule.due(HOUR, 9), Some(7));
        assert_eq!(rule.due(HOUR + Duration::from_secs(1), 9), Some(7));
        rule.done(HOUR, 7);
        assert_eq!(rule.due(3 * HOUR, 9), None);
        assert!(Rule::new(AutoCompaction::Off, Duration::ZERO).is_none());
    }

    #[test]
    fn the_shortest_period_does_not_spin() {
        let flags = AutoCompaction::Periodic(Duration::from_nanos(1));
        let rule = Rule::new(flags, Duration::ZERO).unwrap();
        assert_eq!(rule.interval(), INTERVAL_MIN);
    }
}
