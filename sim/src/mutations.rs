//! The checkers checked: histories of sound seeds are falsified in a thousand places, one lie at a
//! time, and every lie must be noticed.
//!
//! One idea: a lie is a change of what a client was told, a watcher got, a member holds, or the log
//! says, that no sound cluster could have brought about. Where a change might have been true, it is
//! none of these. Half of them are told about histories without a log, as real clusters leave them.

use varve_disk::sim::Random;

use crate::check::{order, violations};
use crate::client::REQUESTS;
use crate::history::{Change, History, Micros, Outcome, Request, Response};
use crate::plan::Plan;
use crate::seed::Player;

/// Lies in all.
const LIES: usize = 1_000;
/// Sound histories that they are told about; as many again are without a log.
const HISTORIES: u64 = 4;

/// Tells one lie; false if this history has no place for it.
fn lie(kind: u64, history: &mut History, random: &mut Random) -> Option<&'static str> {
    match kind {
        0 => forget_write(history, random).then_some("an acknowledged write is lost"),
        1 => shift_revision(history, random, 1).then_some("a write has a later revision"),
        2 => shift_revision(history, random, -1).then_some("a write has an earlier revision"),
        3 => alter_read(history, random).then_some("a read tells another value"),
        4 => drop_read(history, random).then_some("a read lacks a key"),
        5 => drop_event(history, random).then_some("an event is lost"),
        6 => repeat_event(history, random).then_some("an event comes twice"),
        7 => swap_events(history, random).then_some("events are swapped"),
        8 => alter_event(history, random).then_some("an event has another value"),
        9 => alter_replica(history, random).then_some("a member holds another value"),
        10 => alter_hash(history, random).then_some("a member has another history"),
        11 => call_later(history, random).then_some("a write happened before it was asked for"),
        12 => early_answer(history, random).then_some("a write was answered before agreement"),
        13 => stale_read(history, random).then_some("a read is older than what returned before"),
        14 => split_revision(history, random).then_some("an event has another revision"),
        15 => end_lease(history, random).then_some("a lease ends early"),
        16 => alter_changes(history, lose_end).then_some("the end of all is lost"),
        17 => alter_changes(history, repeat_end).then_some("a write happened twice"),
        18 => alter_changes(history, |all| alter_end(all)).then_some("a value is nobody's"),
        _ => drop_change(history, random).then_some("a member has other changes"),
    }
}

/// Kinds of lies.
const KINDS: u64 = 20;

/// One of the positions for which `fits`.
fn any(count: usize, random: &mut Random, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let fitting: Vec<usize> = (0..count).filter(|at| fits(*at)).collect();
    match fitting.is_empty() {
        true => None,
        false => Some(fitting[random.below(fitting.len() as u64) as usize]),
    }
}

fn put_revision(history: &mut History, at: usize) -> Option<&mut i64> {
    match &mut history.operations[at].outcome {
        Outcome::Done(Response::Put(told)) => told.header.as_mut().map(|head| &mut head.revision),
        _ => None,
    }
}

fn any_put(history: &History, random: &mut Random) -> Option<usize> {
    let operations = &history.operations;
    let is_put = |at: usize| matches!(operations[at].outcome, Outcome::Done(Response::Put(_)));
    any(operations.len(), random, is_put)
}

fn forget_write(history: &mut History, random: &mut Random) -> bool {
    let Some(at) = any_put(history, random) else { return false };
    let wanted = Some(at);
    let lost = put_revision(history, at).map(|revision| *revision);
    let forgets = |changes: &mut Vec<Change>| {
        let before = changes.len();
        changes.retain(|change| Some(change.revision) != lost);
        changes.len() < before
    };
    if alter_changes(history, forgets) {
        return true;
    }
    for agreed in history.log.values_mut() {
        let Ok(commands) = varve_store::decode_batch(&agreed.payload) else { continue };
        let left: Vec<_> = commands
            .iter()
            .filter(|command| crate::history::operation_of(&command.body) != wanted)
            .cloned()
            .collect();
        if left.len() < commands.len() {
            agreed.payload = varve_store::encode_batch(&left);
            return true;
        }
    }
    false
}

fn shift_revision(history: &mut History, random: &mut Random, by: i64) -> bool {
    let Some(at) = any_put(history, random) else { return false };
    put_revision(history, at).map(|revision| *revision += by).is_some()
}

/// A linearizable read of the present that found something.
fn any_read(history: &History, random: &mut Random) -> Option<usize> {
    let operations = &history.operations;
    any(operations.len(), random, |at| match &operations[at].outcome {
        Outcome::Done(Response::Range(told)) => !told.kvs.is_empty(),
        _ => false,
    })
}

fn read_kvs(history: &mut History, at: usize) -> &mut Vec<varve_api::mvccpb::KeyValue> {
    match &mut history.operations[at].outcome {
        Outcome::Done(Response::Range(told)) => &mut told.kvs,
        other => panic!("not a read: {other:?}"),
    }
}

fn alter_read(history: &mut History, random: &mut Random) -> bool {
    let Some(at) = any_read(history, random) else { return false };
    read_kvs(history, at)[0].value = "a lie".into();
    true
}

fn drop_read(history: &mut History, random: &mut Random) -> bool {
    let Some(at) = any_read(history, random) else { return false };
    read_kvs(history, at).remove(0);
    true
}

/// Positions of a response with so many events at least: watcher, stream, response.
fn any_response(
    history: &History,
    random: &mut Random,
    events_min: usize,
) -> Option<(usize, usize, usize)> {
    let mut found = Vec::new();
    for (watcher, watched) in history.watched.iter().enumerate() {
        for (stream, responses) in watched.streams.iter().enumerate() {
            for (at, response) in responses.responses.iter().enumerate() {
                if response.events.len() >= events_min {
                    found.push((watcher, stream, at));
                }
            }
        }
    }
    let at = any(found.len(), random, |_| true)?;
    Some(found[at])
}

type Events = Vec<varve_api::mvccpb::Event>;

fn events(history: &mut History, (watcher, stream, at): (usize, usize, usize)) -> &mut Events {
    &mut history.watched[watcher].streams[stream].responses[at].events
}

fn drop_event(history: &mut History, random: &mut Random) -> bool {
    let Some(at) = any_response(history, random, 1) else { return false };
    events(history, at).remove(0);
    true
}

fn repeat_event(history: &mut History, random: &mut Random) -> bool {
    let Some(at) = any_response(history, random, 1) else { return false };
    let events = events(history, at);
    events.push(events[0].clone());
    true
}

fn swap_events(history: &mut History, random: &mut Random) -> bool {
    let Some(at) = any_response(history, random, 2) else { return false };
    events(history, at).swap(0, 1);
    true
}

fn alter_event(history: &mut History, random: &mut Random) -> bool {
    let Some(at) = any_response(history, random, 1) else { return false };
    let Some(kv) = &mut events(history, at)[0].kv else { return false };
    kv.value = "a lie".into();
    true
}

fn split_revision(history: &mut History, random: &mut Random) -> bool {
    let Some(at) = any_response(history, random, 1) else { return false };
    let Some(kv) = &mut events(history, at)[0].kv else { return false };
    kv.mod_revision += 1;
    true
}

fn alter_replica(history: &mut History, random: &mut Random) -> bool {
    let replicas = &mut history.replicas;
    let found = any(replicas.len(), random, |at| !replicas[at].keys.is_empty());
    let Some(at) = found else { return false };
    replicas[at].keys[0].version += 1;
    true
}

fn alter_hash(history: &mut History, random: &mut Random) -> bool {
    if history.replicas.len() < 2 {
        return false;
    }
    let at = random.below(history.replicas.len() as u64) as usize;
    history.replicas[at].hash ^= 1;
    true
}

/// A write is asked for after another one with a later revision has returned.
fn call_later(history: &mut History, random: &mut Random) -> bool {
    let Some(first) = any_put(history, random) else { return false };
    let Some(before) = put_revision(history, first).map(|revision| *revision) else { return false };
    let operations = &history.operations;
    let later = any(operations.len(), random, |at| match &operations[at].outcome {
        Outcome::Done(Response::Put(told)) => {
            told.header.as_ref().is_some_and(|head| head.revision > before)
        }
        _ => false,
    });
    let Some(later) = later else { return false };
    let returned = history.operations[later].returned;
    let operation = &mut history.operations[first];
    operation.invoked = returned + 1;
    operation.returned = operation.returned.max(returned + 2);
    true
}

/// Without a log nobody knows when something was agreed.
fn early_answer(history: &mut History, random: &mut Random) -> bool {
    if history.log.is_empty() {
        return false;
    }
    let Some(at) = any_put(history, random) else { return false };
    let operation = &mut history.operations[at];
    operation.returned = operation.invoked;
    true
}

/// A read is asked for after a write with a later revision has returned.
fn stale_read(history: &mut History, random: &mut Random) -> bool {
    let operations = &history.operations;
    let found = any(operations.len(), random, |at| {
        match (&operations[at].request, &operations[at].outcome) {
            (Request::Range(request), Outcome::Done(_)) => !request.serializable,
            _ => false,
        }
    });
    let Some(read) = found else { return false };
    let told = match &history.operations[read].outcome {
        Outcome::Done(Response::Range(told)) => told.header.as_ref().map_or(0, |h| h.revision),
        _ => return false,
    };
    let operations = &history.operations;
    let later = any(operations.len(), random, |at| match &operations[at].outcome {
        Outcome::Done(Response::Put(put)) => {
            put.header.as_ref().is_some_and(|head| head.revision > told)
        }
        _ => false,
    });
    let Some(later) = later else { return false };
    let returned = history.operations[later].returned;
    history.operations[read].invoked = returned + 1;
    history.operations[read].returned = returned + 2;
    true
}

/// A lease that ran out was renewed just before.
fn end_lease(history: &mut History, random: &mut Random) -> bool {
    let asked: Vec<i64> = history
        .operations
        .iter()
        .filter_map(|operation| match &operation.request {
            Request::Revoke(request) => Some(request.id),
            _ => None,
        })
        .collect();
    let operations = &history.operations;
    let found = any(operations.len(), random, |at| {
        match (&operations[at].request, &operations[at].outcome) {
            (Request::Grant(request), Outcome::Done(_)) => !asked.contains(&request.id),
            _ => false,
        }
    });
    let Some(at) = found else { return false };
    let Request::Grant(request) = &history.operations[at].request else { return false };
    let (id, ttl) = (request.id, request.ttl);
    let model = order::replay(history).expect("a sound history");
    let Some(revoked) = model.revoked.get(&id).copied() else { return false };
    // Nobody saw the end of a lease without keys.
    if revoked == Micros::MAX {
        return false;
    }
    let mut renewal = history.operations[at].clone();
    renewal.request = Request::KeepAlive(id);
    renewal.invoked = revoked - 1;
    renewal.returned = revoked;
    renewal.outcome = Outcome::Done(Response::KeepAlive(ttl));
    history.operations.push(renewal);
    true
}

/// Changes the changes of all members alike; false if they were not asked for any.
fn alter_changes(history: &mut History, alter: impl Fn(&mut Vec<Change>) -> bool) -> bool {
    let all = history.replicas.iter_mut().filter_map(|replica| replica.changes.as_mut());
    all.map(alter).fold(false, |any, altered| any | altered)
}

fn lose_end(changes: &mut Vec<Change>) -> bool {
    changes.pop().is_some()
}

fn repeat_end(changes: &mut Vec<Change>) -> bool {
    let Some(mut again) = changes.last().cloned() else { return false };
    again.revision += 1;
    again.previous = (!again.is_delete).then(|| again.kv.clone());
    again.kv.mod_revision += 1;
    again.kv.version += i64::from(!again.is_delete);
    changes.push(again);
    true
}

fn alter_end(changes: &mut [Change]) -> bool {
    let put = changes.iter_mut().rev().find(|change| !change.is_delete);
    put.map(|change| change.kv.value = "a lie".into()).is_some()
}

fn drop_change(history: &mut History, random: &mut Random) -> bool {
    let count = history.replicas.len() as u64;
    if count < 2 {
        return false;
    }
    let other = 1 + random.below(count - 1);
    let Some(changes) = &mut history.replicas[other as usize].changes else { return false };
    let at = random.below(changes.len() as u64) as usize;
    changes.remove(at);
    true
}

/// A history that is sound, of a seed; without a log, it is what clients and members alone can tell.
fn play(player: &Player, seed: u64, has_log: bool) -> History {
    let mut plan = Plan::draw(seed);
    if !has_log {
        let compaction = REQUESTS.iter().position(|name| *name == "compaction");
        plan.requests[compaction.expect("clients compact")] = 0;
    }
    let report = player.play(&plan, false);
    assert_eq!(report.violations.first(), None, "seed {seed}");
    let mut history = report.history;
    if !has_log {
        let model = order::replay(&history).expect("a sound history");
        history.log.clear();
        for replica in &mut history.replicas {
            replica.changes = Some(model.changes.clone());
        }
        assert_eq!(violations(&history).first(), None, "seed {seed} without its log");
    }
    history
}

#[test]
fn a_thousand_lies_are_noticed() {
    let player = Player::new();
    let seeds = (0..2 * HISTORIES).map(|number| (number / 2, number % 2 == 0));
    let sound: Vec<History> = seeds.map(|(seed, has_log)| play(&player, seed, has_log)).collect();
    let mut random = Random::new(1);
    let mut told = [0; KINDS as usize];
    let mut number = 0;
    for attempt in 0..4 * LIES as u64 {
        let kind = attempt % KINDS;
        let mut history = sound[random.below(2 * HISTORIES) as usize].clone();
        let Some(name) = lie(kind, &mut history, &mut random) else { continue };
        let found = violations(&history);
        assert!(!found.is_empty(), "lie {attempt} was believed: {name}");
        told[kind as usize] += 1;
        number += 1;
        if number == LIES {
            break;
        }
    }
    assert!(number >= LIES, "only {number} lies were told: {told:?}");
    assert!(told.iter().all(|count| *count > 0), "a kind of lie was never told: {told:?}");
}
