//! A fixed set of seeds and a few fresh ones, in `cargo test`; and stories of their own.

use tokio::runtime::Runtime;
use varve_api::etcdserverpb::{LeaseGrantRequest, PutRequest, RangeRequest};
use varve_store::MemberChange;

use crate::history::{Outcome, Request, Response};
use crate::node::Shared;
use crate::operator::CHANGES;
use crate::plan::{Plan, SECOND, TROUBLES};
use crate::plant::Plant;
use crate::seed::{Player, runtime};
use crate::shorten::shorten;
use crate::world::{Event, World};

/// Seeds of the fixed set.
const FIXED: u64 = 12;
/// Fresh ones, printed.
const FRESH: u64 = 4;

fn play(seeds: impl Iterator<Item = u64>) {
    let player = Player::new();
    for seed in seeds {
        let report = player.play(&Plan::draw(seed), false);
        let first = report.violations.first();
        assert_eq!(first, None, "seed {seed}: cargo run -p varve-sim -- replay {seed}");
        assert!(report.operations >= 100, "seed {seed} tested little: {}", report.operations);
    }
}

#[test]
fn a_fixed_set_of_seeds_keeps_all_promises() {
    play(0..FIXED);
}

#[test]
fn fresh_seeds_keep_all_promises() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let fresh = now.map_or(1 << 32, |now| now.as_secs() * 1_000);
    println!("fresh seeds from {fresh}");
    play(fresh..fresh + FRESH);
}

#[test]
fn equal_seeds_leave_equal_traces() {
    let player = Player::new();
    let digest = || player.play(&Plan::draw(7), false).digest;
    assert_eq!(digest(), digest());
}

#[test]
fn rot_is_told_of_or_does_no_harm_and_the_others_go_on() {
    let player = Player::new();
    let mut told = 0;
    for seed in 0..4 {
        let mut plan = Plan { members: 3, trouble: 6 * SECOND, ..Plan::draw(seed) };
        plan.weights = TROUBLES.map(|name| u64::from(name == "bit flip"));
        let report = player.play(&plan, false);
        assert_eq!(report.violations.first(), None, "seed {seed}");
        let marks = ["start refused for rot", "stopped by rot", "rot found by a read"];
        told += marks.iter().filter_map(|mark| report.counts.get(mark)).sum::<u64>();
    }
    assert_ne!(told, 0, "no member noticed anything");
}

#[test]
fn a_rotten_member_is_removed_and_another_one_catches_up_in_its_place() {
    let changes = CHANGES.map(|name| u64::from(name == "add a voter"));
    let (snapshot_count, change) = (1_000, 5 * SECOND);
    let plan = Plan { snapshot_count, change, changes, ..quiet(false) };
    let (runtime, shared) = (runtime(), Shared::new());
    started(plan, &runtime, &shared, |world| {
        let rotten = 1 + leader(world, 1) % 3;
        for _ in 0..40 {
            let done = outcome_soon(world, leader(world, 1), put("k", "v"));
            assert!(matches!(done, Outcome::Done(_)), "{done:?}");
        }
        for _ in 0..200 {
            if !world.is_out(rotten) {
                assert!(world.rot(rotten, Some("rot of the log")), "the log has old files");
                world.nodes.get_mut(&rotten).expect("a member").kill(&runtime);
                world.start(rotten);
            }
        }
        assert!(world.is_out(rotten), "of 200 bits one counts");
        let before = world.history.log.len() as u64;
        world.change();
        world.run_until(world.now + 40 * SECOND);
        assert!(!voters(world).contains(&rotten), "{:?}", voters(world));
        assert!(voters(world).contains(&4), "{:?}", voters(world));
        let new = world.nodes[&4].up.as_ref().expect("it runs");
        assert!(new.serves() && new.context.cluster.applied() > before);
    });
}

#[test]
fn a_failing_seed_is_shortened() {
    let player = Player::new();
    let plan = Plan::draw(0).with(Some(Plant::EventsLost));
    let shorter = shorten(&player, &plan, 12).expect("it fails");
    let left = plan.operations - shorter.left_out.operations.len();
    assert!(left < plan.operations / 2, "{left} operations of {} are left", plan.operations);
    assert_ne!(player.play(&shorter, false).violations, [""; 0]);
}

/// A client of `member` asks; how that had ended after three seconds.
fn outcome(world: &mut World<'_>, member: u64, request: Request) -> Outcome {
    let number = world.send_request(0, member, request);
    world.run_until(world.now + 3 * SECOND);
    assert_eq!(world.violations, [""; 0]);
    world.history.operations[number].outcome.clone()
}

/// Three members that only do what a story has them do.
fn quiet(lease_reads: bool) -> Plan {
    let drawn = Plan::draw(0);
    Plan { members: 3, operations: 0, loss: 0, trouble: 0, drift: 0, lease_reads, ..drawn }
}

/// Whom `asked` takes for the leader.
fn leader(world: &World<'_>, asked: u64) -> u64 {
    world.nodes[&asked].up.as_ref().expect("it runs").services.cluster.leader()
}

fn put(key: &'static str, value: &'static str) -> Request {
    Request::Put(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() })
}

fn get(key: &'static str) -> Request {
    Request::Range(RangeRequest { key: key.into(), ..RangeRequest::default() })
}

/// As [`outcome`], after a moment in which no message could have gone to and fro.
fn outcome_soon(world: &mut World<'_>, member: u64, request: Request) -> Outcome {
    let number = world.send_request(0, member, request);
    world.run_until(world.now + SECOND / 5);
    world.history.operations[number].outcome.clone()
}

#[test]
fn a_leader_with_a_lease_answers_alone_and_only_as_long_as_nobody_else_can_lead() {
    let (runtime, shared) = (runtime(), Shared::new());
    let mut world = World::new(quiet(true), &runtime, &shared, false);
    (1..=3).for_each(|id| world.after(0, Event::Start(id)));
    world.run_until(10 * SECOND);
    let old = leader(&world, 1);
    let other = 1 + old % 3;
    for request in [put("k", "old"), get("k")] {
        let done = outcome_soon(&mut world, old, request);
        assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    }
    for id in 1..=3 {
        world.cut(old, id);
        world.cut(id, old);
    }
    let alone = outcome_soon(&mut world, old, get("k"));
    assert!(matches!(alone, Outcome::Done(_)), "its lease is not over: {alone:?}");
    // It sleeps, and so cannot notice that nobody answers it any more: only its clock tells.
    let asleep = 5 * SECOND;
    world.nodes.get_mut(&old).expect("a member").paused_until = world.now + asleep;
    world.after(asleep, Event::Resume(old));
    world.run_until(world.now + asleep - SECOND);
    assert_ne!(leader(&world, other), old, "the others have another leader");
    let put = outcome_soon(&mut world, other, put("k", "new"));
    assert!(matches!(put, Outcome::Done(_)), "{put:?}");
    let number = world.send_request(0, old, get("k"));
    world.run_until(world.now + 2 * SECOND);
    let late = world.history.operations[number].outcome.clone();
    assert!(!matches!(late, Outcome::Done(_)), "its lease was over: {late:?}");
    let inside = runtime.enter();
    drop(world);
    drop(inside);
}

#[test]
fn a_leader_that_slept_through_its_end_renews_no_lease() {
    let (runtime, shared) = (runtime(), Shared::new());
    let mut world = World::new(quiet(false), &runtime, &shared, false);
    (1..=3).for_each(|id| world.after(0, Event::Start(id)));
    world.run_until(10 * SECOND);
    let old = leader(&world, 1);
    let grant = Request::Grant(LeaseGrantRequest { id: 7, ttl: 600 });
    let granted = outcome(&mut world, old, grant);
    assert!(matches!(granted, Outcome::Done(_)), "{granted:?}");

    for id in 1..=3 {
        world.cut(old, id);
        world.cut(id, old);
    }
    let asleep = 60 * SECOND;
    world.nodes.get_mut(&old).expect("a member").paused_until = world.now + asleep;
    world.after(asleep, Event::Resume(old));
    world.run_until(world.now + asleep - 1);
    let other = 1 + old % 3;
    assert_ne!(leader(&world, other), old, "the others have another leader");
    assert_eq!(leader(&world, old), old, "nobody told the old one");

    let renewed = outcome(&mut world, old, Request::KeepAlive(7));
    assert!(!matches!(renewed, Outcome::Done(_)), "{renewed:?}");
    let renewed = outcome(&mut world, other, Request::KeepAlive(7));
    assert_eq!(renewed, Outcome::Done(Response::KeepAlive(600)));
    let inside = runtime.enter();
    drop(world);
    drop(inside);
}

/// So many members that have been connected for a while.
fn started(plan: Plan, runtime: &Runtime, shared: &Shared, story: impl FnOnce(&mut World<'_>)) {
    let mut world = World::new(plan, runtime, shared, false);
    (1..=world.plan.members).for_each(|id| world.after(0, Event::Start(id)));
    world.run_until(12 * SECOND);
    story(&mut world);
    assert_eq!(world.violations, [""; 0]);
    let inside = runtime.enter();
    drop(world);
    drop(inside);
}

fn voters(world: &World<'_>) -> Vec<u64> {
    world.roster.now().voters.iter().copied().collect()
}

#[test]
fn of_two_removals_at_once_the_second_is_judged_by_what_the_first_has_left() {
    let plan = Plan { members: 4, is_strict: true, ..quiet(false) };
    let (runtime, shared) = (runtime(), Shared::new());
    started(plan, &runtime, &shared, |world| {
        let leader = leader(world, 1);
        let others: Vec<u64> = (1..=4).filter(|id| *id != leader).collect();
        world.nodes.get_mut(&others[0]).expect("a member").kill(&runtime);
        world.run_until(world.now + SECOND);
        for id in &others[1..] {
            world.send_change(leader, MemberChange::Remove { id: *id });
        }
        world.run_until(world.now + 9 * SECOND);
        // Without the second, one that is down would make a quorum of two.
        assert_eq!(voters(world).len(), 3, "{:?}", voters(world));
    });
}

#[test]
fn a_removed_leader_ends_and_the_others_go_on() {
    let (runtime, shared) = (runtime(), Shared::new());
    started(quiet(false), &runtime, &shared, |world| {
        let old = leader(world, 1);
        world.send_change(old, MemberChange::Remove { id: old });
        world.run_until(world.now + 9 * SECOND);
        assert!(!world.nodes[&old].can_run, "it has ended");
        let other = voters(world)[0];
        let put = outcome(world, other, put("k", "v"));
        assert!(matches!(put, Outcome::Done(_)), "{put:?}");
        // Started again, it knows.
        world.nodes.get_mut(&old).expect("a member").can_run = true;
        world.start(old);
        world.run_until(world.now + 5 * SECOND);
        assert!(world.nodes[&old].up.is_none());
    });
}

#[test]
fn a_learner_joins_refuses_reads_and_votes_when_it_is_promoted() {
    let plan = Plan { members: 1, is_strict: true, ..quiet(false) };
    let (runtime, shared) = (runtime(), Shared::new());
    started(plan, &runtime, &shared, |world| {
        let done = outcome(world, 1, put("k", "v"));
        assert!(matches!(done, Outcome::Done(_)), "{done:?}");
        let peer_urls = vec![crate::node::url_of(2)];
        let add = MemberChange::Add { id: 2, peer_urls, is_learner: true, learners_max: 1 };
        world.send_change(1, add);
        world.run_until(world.now + SECOND);
        world.join(2);
        world.run_until(world.now + 9 * SECOND);
        let refused = outcome(world, 2, get("k"));
        let expected = varve_api::error::NOT_SUPPORTED_FOR_LEARNER.into();
        assert_eq!(refused, Outcome::Refused(expected));
        world.send_change(2, MemberChange::Promote { id: 2 });
        world.send_change(1, MemberChange::Promote { id: 2 });
        world.run_until(world.now + 3 * SECOND);
        assert_eq!(voters(world), [1, 2]);
        let done = outcome(world, 2, get("k"));
        assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    });
}
