//! A lessor without a server: time passes where a test moves what it is compared with.

use std::cmp::Reverse;
use std::time::Instant;

use super::timetable::STALE_ENTRIES_MAX;
use super::*;
use crate::limits;

fn lessor(leases: &[(i64, i64)]) -> Lessor {
    let lessor = Lessor::default();
    let known = leases.iter().map(|(id, ttl)| Known { id: *id, ttl: *ttl, left: *ttl });
    lessor.reset(&known.collect::<Vec<_>>());
    lessor
}

fn none() -> Vec<i64> {
    Vec::new()
}

#[test]
fn only_a_leader_expires_leases_and_each_once() {
    let lessor = lessor(&[(7, 0), (8, 3600)]);
    assert_eq!(lessor.expired(10).leases, none());
    lessor.lead(Some(3));
    assert_eq!(lessor.expired(10), Expired { term: 3, leases: vec![7] });
    assert_eq!(lessor.expired(10).leases, none());
    assert_eq!(lessor.renew(7), Answer::NotAlive);
    assert_eq!(lessor.remaining(7), Answer::Alive { seconds: 0, term: 3 });
    assert_eq!(lessor.renew(8), Answer::Alive { seconds: 3600, term: 3 });
    lessor.revoked(7);
    assert_eq!(lessor.remaining(7), Answer::NotAlive);
    lessor.lead(None);
    assert_eq!(lessor.expired(10).leases, none());
}

#[test]
fn who_does_not_lead_says_nothing_about_a_lease() {
    // Its time is over here, since renewals went to the leader: that means nothing.
    let lessor = lessor(&[(1, 0), (2, 1000)]);
    for id in [1, 2, 3] {
        assert_eq!(lessor.renew(id), Answer::NotLeading);
        assert_eq!(lessor.remaining(id), Answer::NotLeading);
    }
}

#[test]
fn a_new_leader_starts_every_lease_afresh() {
    let lessor = lessor(&[]);
    lessor.granted(1, 1000);
    for term in [4, 6] {
        lessor.lock().timetable.leases.get_mut(&1).expect("granted").deadline = Instant::now();
        lessor.lead(Some(term));
        let Answer::Alive { seconds, .. } = lessor.remaining(1) else { panic!("it leads") };
        assert!(seconds >= 998, "{seconds}");
    }
    // The same term again changes nothing.
    lessor.lock().timetable.leases.get_mut(&1).expect("granted").deadline = Instant::now();
    lessor.lead(Some(6));
    assert_eq!(lessor.remaining(1), Answer::Alive { seconds: 0, term: 6 });
}

#[test]
fn a_renewed_lease_does_not_expire_at_its_first_deadline() {
    let lessor = lessor(&[]);
    lessor.lead(Some(1));
    lessor.granted(1, 1000);
    {
        let mut state = lessor.lock();
        let first = Instant::now();
        state.timetable.leases.get_mut(&1).expect("granted").queued = first;
        state.timetable.deadlines.push(Reverse((first, 1)));
    }
    assert_eq!(lessor.expired(10).leases, none());
    assert_eq!(lessor.renew(1), Answer::Alive { seconds: 1000, term: 1 });
    assert_eq!(lessor.lock().timetable.deadlines.len(), 2, "its entry was moved, not dropped");
}

#[test]
fn a_storm_is_worked_off_in_rounds_and_each_lease_named_once() {
    let leases: Vec<(i64, i64)> = (0..1000).map(|id| (id, 0)).collect();
    let lessor = lessor(&leases);
    lessor.lock().term = Some(1);
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
    let lessor = lessor(&[]);
    for _ in 0..100_000 {
        lessor.granted(5, 9_000_000_000);
        lessor.revoked(5);
    }
    lessor.granted(5, i64::MAX);
    let entries = lessor.lock().timetable.deadlines.len();
    assert!(entries <= STALE_ENTRIES_MAX + 4, "{entries}");
}

#[test]
fn a_new_leader_spreads_what_would_end_together_and_ends_nothing_early() {
    let count = 4 * limits::LEASES_ENDING_PER_SECOND as i64;
    let leases: Vec<(i64, i64)> = (0..count).map(|id| (id, 10 + id % 2)).collect();
    let lessor = lessor(&leases);
    let before = Instant::now();
    lessor.lead(Some(1));
    let state = lessor.lock();
    let mut ends: Vec<Duration> = Vec::new();
    for (id, ttl) in &leases {
        let lease = &state.timetable.leases[id];
        let end = lease.deadline - before;
        assert!(end >= Duration::from_secs(*ttl as u64), "{id} ends early");
        assert!(lease.queued <= lease.deadline);
        ends.push(end);
    }
    ends.sort_unstable();
    let per_second = limits::LEASES_ENDING_PER_SECOND as usize;
    for window in ends.windows(per_second + 1) {
        let took = window[per_second] - window[0];
        assert!(took >= Duration::from_millis(999), "{took:?}");
    }
    // Not later than needed: four seconds' worth of leases.
    assert!(ends[ends.len() - 1] < Duration::from_secs(10 + 4 + 2));
}

const INTERVAL: Duration = Duration::from_secs(300);

/// Makes all scheduled checkpoints due, with the leases so far through their time.
fn let_pass(lessor: &Lessor, time: Duration) {
    let mut state = lessor.lock();
    let all: Vec<_> = state.timetable.checkpoints.drain().collect();
    let earlier = all.into_iter().map(|Reverse((due, id))| Reverse((due - time, id)));
    state.timetable.checkpoints = earlier.collect();
    state.timetable.leases.values_mut().for_each(|lease| lease.deadline -= time);
}

#[test]
fn long_leases_are_checkpointed_and_a_new_leader_goes_on_from_there() {
    let lessor = Lessor::new(Some(INTERVAL), Duration::ZERO);
    lessor.lead(Some(4));
    for (id, ttl) in [(1, 1000), (2, 300), (3, 1000)] {
        lessor.granted(id, ttl);
    }
    assert_eq!(lessor.due_checkpoints(10).leases, []);
    let_pass(&lessor, INTERVAL);
    let Checkpoints { term, mut leases } = lessor.due_checkpoints(10);
    leases.sort_unstable();
    assert_eq!((term, leases), (4, vec![(1, 700), (3, 700)]));
    assert_eq!(lessor.due_checkpoints(10).leases, [], "not twice in an interval");
    assert_eq!(lessor.renew(1), Answer::NotLeading, "the proposal may still be agreed upon");
    lessor.checkpointed(1, 700);
    lessor.checkpointed(1, 1000);
    assert_eq!(lessor.renew(1), Answer::Alive { seconds: 1000, term: 4 });
    lessor.checkpointed(1, 700);
    lessor.lead(None);
    let_pass(&lessor, INTERVAL);
    assert_eq!(lessor.due_checkpoints(10).leases, [], "only the leader");
    lessor.lead(Some(5));
    let Answer::Alive { seconds, .. } = lessor.remaining(1) else { panic!("it leads") };
    assert!((698..=700).contains(&seconds), "{seconds}");
    let Answer::Alive { seconds, .. } = lessor.remaining(3) else { panic!("it leads") };
    assert!(seconds >= 998, "without a checkpoint it starts afresh: {seconds}");
}

#[test]
fn a_renewal_is_told_when_its_checkpoint_is_taken_back() {
    let lessor = Lessor::new(None, Duration::ZERO);
    lessor.reset(&[Known { id: 1, ttl: 1000, left: 400 }]);
    lessor.lead(Some(4));
    assert_eq!(lessor.renew(1), Answer::NotLeading);
    assert_eq!(lessor.renew(1), Answer::NotLeading, "it is under way");
    let Answer::Alive { seconds, .. } = lessor.remaining(1) else { panic!("it leads") };
    assert!(seconds >= 998, "it does not end meanwhile: {seconds}");
    assert_eq!(lessor.due_checkpoints(10), Checkpoints { term: 4, leases: vec![(1, 0)] });
    assert_eq!(lessor.due_checkpoints(10).leases, []);
    lessor.checkpointed(1, 1000);
    assert_eq!(lessor.renew(1), Answer::Alive { seconds: 1000, term: 4 });
}

#[test]
fn checkpoints_of_leases_that_come_and_go_leave_nothing_behind() {
    let lessor = Lessor::new(Some(INTERVAL), Duration::ZERO);
    for _ in 0..100_000 {
        lessor.granted(5, 1000);
        lessor.revoked(5);
    }
    let entries = lessor.lock().timetable.checkpoints.len();
    assert!(entries <= STALE_ENTRIES_MAX + 4, "{entries}");
}
