//! The judge accepts what a sound store shows, and rejects it once anything in it is altered.
//!
//! Sound histories are made by a store that is one map, with random operations of random length
//! around the instant at which they take effect; then each kind of alteration is tried at random
//! places. An alteration that finds nothing to alter does not count.

use std::collections::BTreeMap;

use varve_disk::sim::Random;

use super::*;

const SEEDS: u64 = 60;
const OPERATIONS: u64 = 80;

/// A store that is a map, and all that it did.
#[derive(Default)]
struct Store {
    revision: i64,
    state: BTreeMap<String, Seen>,
    changes: Vec<Change>,
}

impl Store {
    fn write(&mut self, keys: &[String], value: Option<&str>) -> Vec<Seen> {
        self.revision += 1;
        let mut all_before = Vec::new();
        for key in keys {
            let before = self.state.remove(key);
            let after = value.map(|value| Seen {
                key: key.clone(),
                value: value.into(),
                create_revision: before.as_ref().map_or(self.revision, |seen| seen.create_revision),
                mod_revision: self.revision,
                version: before.as_ref().map_or(1, |seen| seen.version + 1),
            });
            self.state.extend(after.clone().map(|after| (key.clone(), after)));
            all_before.extend(before.clone());
            self.changes.push(Change { revision: self.revision, key: key.clone(), after, before });
        }
        all_before
    }

    fn found(&self, found: Vec<Seen>) -> Told {
        Told::Found { revision: self.revision, found }
    }

    fn carry_out(&mut self, asked: &Asked) -> Told {
        match asked {
            Asked::Put { keys, value } => {
                let mut before = self.write(keys, Some(value));
                if keys.len() > 1 {
                    before.clear();
                }
                Told::Written { revision: self.revision, before }
            }
            Asked::Delete { key } if !self.state.contains_key(key) => self.found(Vec::new()),
            Asked::Delete { key } => {
                let before = self.write(std::slice::from_ref(key), None);
                Told::Written { revision: self.revision, before }
            }
            Asked::Swap { key, expected, value } => {
                let now = self.state.get(key).cloned();
                if now.as_ref().map_or(0, |seen| seen.mod_revision) != *expected {
                    return self.found(now.into_iter().collect());
                }
                self.write(std::slice::from_ref(key), Some(value));
                Told::Written { revision: self.revision, before: Vec::new() }
            }
            Asked::Read { from, to, .. } => {
                let range = self.state.range(from.clone()..to.clone());
                self.found(range.map(|(_, seen)| seen.clone()).collect())
            }
        }
    }
}

fn key(random: &mut Random) -> String {
    format!("k{}", random.below(5))
}

fn asked(random: &mut Random, store: &Store, number: u64) -> Asked {
    let value = format!("value {number}");
    match random.below(8) {
        0..3 => Asked::Put { keys: vec![key(random)], value },
        3 => Asked::Put { keys: vec!["k1".into(), "k3".into()], value },
        4 => Asked::Delete { key: key(random) },
        5 => {
            let key = key(random);
            let right = store.state.get(&key).map_or(0, |seen| seen.mod_revision);
            let expected = if random.one_in(3) { right + 1 } else { right };
            Asked::Swap { key, expected, value }
        }
        kind => Asked::Read { from: "k".into(), to: "l".into(), is_serializable: kind == 6 },
    }
}

fn sound(seed: u64) -> History {
    let mut random = Random::new(seed);
    let mut store = Store { revision: model::FIRST_REVISION, ..Store::default() };
    let mut operations = Vec::new();
    for number in 0..OPERATIONS {
        let asked = asked(&mut random, &store, number);
        let instant = 1_000 + number * 10;
        let (began, ended) = (instant - random.below(50), instant + random.below(50));
        // Some never get there, and of some others the answer is lost.
        let told = if random.one_in(20) { Told::Nothing } else { store.carry_out(&asked) };
        let told = if random.one_in(20) { Told::Nothing } else { told };
        operations.push(Operation { began, ended, asked, told });
    }
    let by_revision = store.changes.chunk_by(|left, right| left.revision == right.revision);
    let responses = by_revision.map(<[Change]>::to_vec).collect();
    let replica = |number: usize| Replica {
        name: format!("m{number}"),
        changes: store.changes.clone(),
        state: store.state.values().cloned().collect(),
        hash: 7,
    };
    History {
        operations,
        watches: vec![Watch { from: "k".into(), to: "l".into(), responses }],
        replicas: (0..3).map(replica).collect(),
    }
}

/// One of those that will do, at random; `None` if there is none.
fn pick<'a, T>(
    random: &mut Random,
    all: &'a mut [T],
    will_do: impl Fn(&T) -> bool,
) -> Option<&'a mut T> {
    let possible: Vec<usize> = (0..all.len()).filter(|at| will_do(&all[*at])).collect();
    let count = u64::try_from(possible.len()).expect("a short list");
    (count > 0).then(|| &mut all[possible[random.below(count) as usize]])
}

/// Changes a history; `None` if it has nothing of this kind.
type Alteration = fn(&mut History, &mut Random) -> Option<()>;

fn is_write(operation: &Operation) -> bool {
    matches!(operation.told, Told::Written { .. })
}

/// A revision that was told, to be altered.
fn revision(operation: &mut Operation) -> &mut i64 {
    match &mut operation.told {
        Told::Nothing => panic!("nothing was told"),
        Told::Written { revision, .. } | Told::Found { revision, .. } => revision,
    }
}

/// What was told to be there, to be altered; none for those told nothing.
fn shown(operation: &mut Operation) -> &mut Vec<Seen> {
    match &mut operation.told {
        Told::Nothing => panic!("nothing was told"),
        Told::Written { before, .. } => before,
        Told::Found { found, .. } => found,
    }
}

fn found_something(operation: &Operation) -> bool {
    matches!(&operation.told, Told::Found { found, .. } if !found.is_empty())
}

fn all_changes(history: &mut History, mut change: impl FnMut(&mut Vec<Change>)) {
    for replica in &mut history.replicas {
        change(&mut replica.changes);
    }
}

/// Moves an operation that others of later revisions have followed behind the end of all.
fn move_behind(
    history: &mut History,
    random: &mut Random,
    will_do: fn(&Operation) -> bool,
) -> Option<()> {
    let last = history.operations.iter().map(|operation| operation.ended).max()?;
    let newest = history.operations.iter().filter_map(Operation::revision).max()?;
    let is_old = |one: &Operation| one.revision().is_some_and(|revision| revision < newest);
    let operation = pick(random, &mut history.operations, |one| is_old(one) && will_do(one))?;
    (operation.began, operation.ended) = (last + 1, last + 2);
    Some(())
}

const ALTERATIONS: [(&str, Alteration); 18] = [
    ("an acknowledged write has another revision", |history, random| {
        *revision(pick(random, &mut history.operations, is_write)?) += 1;
        Some(())
    }),
    ("an acknowledged write is in no member", |history, random| {
        let lost = *revision(pick(random, &mut history.operations, is_write)?);
        all_changes(history, |changes| changes.retain(|change| change.revision != lost));
        Some(())
    }),
    ("the end of the history is lost", |history, _| {
        all_changes(history, |changes| _ = changes.pop());
        Some(())
    }),
    ("a write took effect twice", |history, _| {
        all_changes(history, |changes| {
            let mut again = changes.last().expect("there are changes").clone();
            again.revision += 1;
            again.before = again.after.clone();
            if let Some(after) = &mut again.after {
                after.mod_revision += 1;
                after.version += 1;
            }
            changes.push(again);
        });
        Some(())
    }),
    ("a value is nobody's", |history, random| {
        let seed = random.next_u64();
        all_changes(history, |changes| {
            let has_value = |change: &Change| change.after.is_some();
            let change = pick(&mut Random::new(seed), changes, has_value);
            let after = change.and_then(|change| change.after.as_mut());
            after.expect("some change is no deletion").value.push('!');
        });
        Some(())
    }),
    ("a read misses a key", |history, random| {
        shown(pick(random, &mut history.operations, found_something)?).pop();
        Some(())
    }),
    ("a read saw another value", |history, random| {
        shown(pick(random, &mut history.operations, found_something)?)[0].value.push('!');
        Some(())
    }),
    ("a read saw another version", |history, random| {
        shown(pick(random, &mut history.operations, found_something)?)[0].version += 1;
        Some(())
    }),
    ("a read is from the future", |history, random| {
        let is_read = |one: &Operation| matches!(one.told, Told::Found { .. });
        *revision(pick(random, &mut history.operations, is_read)?) += 1_000;
        Some(())
    }),
    ("a linearizable read began after what it does not know", |history, random| {
        move_behind(history, random, |one| {
            matches!(one.asked, Asked::Read { is_serializable: false, .. })
        })
    }),
    ("a write began after others that have later revisions", |history, random| {
        move_behind(history, random, is_write)
    }),
    ("a comparison was refused that holds", |history, random| {
        let operation = pick(random, &mut history.operations, |one| {
            matches!((&one.asked, &one.told), (Asked::Swap { .. }, Told::Found { .. }))
        })?;
        let now = shown(operation).first().map_or(0, |seen| seen.mod_revision);
        let Asked::Swap { expected, .. } = &mut operation.asked else { return None };
        *expected = now;
        Some(())
    }),
    ("a comparison held that does not", |history, random| {
        let operation = pick(random, &mut history.operations, |one| {
            is_write(one) && matches!(one.asked, Asked::Swap { .. })
        })?;
        let Asked::Swap { expected, .. } = &mut operation.asked else { return None };
        *expected += 1;
        Some(())
    }),
    ("what was there before a write is wrong", |history, random| {
        let operation = pick(
            random,
            &mut history.operations,
            |one| matches!(&one.told, Told::Written { before, .. } if !before.is_empty()),
        )?;
        shown(operation).pop();
        Some(())
    }),
    ("a watcher missed a change", |history, random| {
        let responses = &mut history.watches[0].responses;
        responses.remove(random.below(responses.len() as u64) as usize);
        Some(())
    }),
    ("a watcher saw changes twice or out of order", |history, random| {
        let responses = &mut history.watches[0].responses;
        let at = random.below(responses.len() as u64 - 1) as usize;
        if random.one_in(2) {
            responses.swap(at, at + 1);
        } else {
            responses.insert(at, responses[at].clone());
        }
        Some(())
    }),
    ("a watcher saw a revision in parts", |history, random| {
        let responses = &mut history.watches[0].responses;
        let start = random.below(responses.len() as u64) as usize;
        let at = (start..responses.len()).find(|at| responses[*at].len() > 1)?;
        let rest = responses[at].split_off(1);
        responses.insert(at + 1, rest);
        Some(())
    }),
    ("a member differs", |history, random| {
        let replica = &mut history.replicas[1];
        match random.below(3) {
            0 => replica.hash += 1,
            1 => _ = replica.state.pop()?,
            _ => _ = replica.changes.pop()?,
        }
        Some(())
    }),
];

#[test]
fn sound_histories_are_accepted() {
    for seed in 0..SEEDS {
        assert_eq!(check(&sound(seed)), Ok(()), "seed {seed}");
    }
}

#[test]
fn altered_histories_are_rejected() {
    let mut altered = BTreeMap::new();
    for seed in 0..SEEDS {
        for (name, alter) in ALTERATIONS {
            let mut history = sound(seed);
            if alter(&mut history, &mut Random::new(seed)).is_some() {
                assert!(check(&history).is_err(), "seed {seed}: {name}");
                *altered.entry(name).or_insert(0) += 1;
            }
        }
    }
    for (name, _) in ALTERATIONS {
        let count = altered.get(name).copied().unwrap_or(0);
        assert!(count > SEEDS / 2, "{name}: altered {count} of {SEEDS} histories");
    }
    assert!(altered.values().sum::<u64>() >= 1_000, "{altered:?}");
}
