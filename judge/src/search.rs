//! A second opinion on linearizability that believes no revision: for one key with few operations,
//! some order of them must explain all values that were read (Wing and Gong, 1993, with Lowe's memo
//! of states that were seen).
//!
//! It looks only at keys that were touched by single puts, reads and deletions, at most
//! `OPERATIONS_MAX` of them, so that it always ends.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;

use crate::history::{History, Micros, Operation, Outcome, Request, Response};
use crate::linear::is_read_only;

/// Operations on a key beyond which it is passed over; they are bits of a `u64`.
const OPERATIONS_MAX: usize = 40;
/// States after which a search counts as failed.
const STATES_MAX: usize = 2_000_000;

#[derive(Clone)]
struct Step {
    invoked: Micros,
    returned: Micros,
    /// Whether it must have happened.
    is_certain: bool,
    effect: Effect,
}

#[derive(Clone)]
enum Effect {
    Write(Option<Bytes>),
    Read(Option<Bytes>),
}

/// Adds what is wrong.
pub fn check(history: &History, found: &mut Vec<String>) {
    let mut by_key: BTreeMap<&Bytes, Vec<Step>> = BTreeMap::new();
    let mut excluded: BTreeSet<&Bytes> = BTreeSet::new();
    for operation in &history.operations {
        match &operation.request {
            Request::Put(put) if put.lease == 0 => {
                let effect = Effect::Write(Some(put.value.clone()));
                by_key.entry(&put.key).or_default().extend(step(operation, effect));
            }
            Request::Delete(delete) if delete.range_end.is_empty() => {
                let effect = Effect::Write(None);
                by_key.entry(&delete.key).or_default().extend(step(operation, effect));
            }
            Request::Range(range) if !range.serializable && range.range_end.is_empty() => {
                let Outcome::Done(Response::Range(told)) = &operation.outcome else { continue };
                if range.revision == 0 && !range.count_only {
                    let value = told.kvs.first().map(|kv| kv.value.clone());
                    let steps = step(operation, Effect::Read(value));
                    by_key.entry(&range.key).or_default().extend(steps);
                }
            }
            Request::Put(put) => _ = excluded.insert(&put.key),
            // A range may delete anything, and a transaction write anything.
            Request::Delete(_) => return,
            Request::Txn(txn) if !is_read_only(txn) => return,
            _ => {}
        }
    }
    for (key, mut steps) in by_key {
        leave_out_what_nobody_saw(&mut steps);
        if steps.len() <= OPERATIONS_MAX && !excluded.contains(key) && !is_explained(&steps) {
            let key = key.escape_ascii();
            found.push(format!("search: no order explains the {} steps of {key}", steps.len()));
        }
    }
}

/// A write that may have happened, and whose value nobody read: whatever order explains the rest with
/// it explains the rest without it, for between it and the next write nothing was read. Many of them
/// would make a search without end.
fn leave_out_what_nobody_saw(steps: &mut Vec<Step>) {
    let told = |step: &Step| match &step.effect {
        Effect::Read(value) => Some(value.clone()),
        Effect::Write(_) => None,
    };
    let read: HashSet<Option<Bytes>> = steps.iter().filter_map(told).collect();
    steps.retain(|step| match &step.effect {
        Effect::Write(value) => step.is_certain || read.contains(value),
        Effect::Read(_) => true,
    });
}

fn step(operation: &Operation, effect: Effect) -> Option<Step> {
    let (is_certain, returned) = match &operation.outcome {
        Outcome::Done(_) => (true, operation.returned),
        Outcome::Unknown => (false, Micros::MAX),
        Outcome::Refused(status) if crate::history::is_certain(status) => return None,
        Outcome::Refused(_) => (false, Micros::MAX),
    };
    Some(Step { invoked: operation.invoked, returned, is_certain, effect })
}

/// Whether some order explains what was read.
fn is_explained(steps: &[Step]) -> bool {
    let mut seen: HashSet<(u64, Option<Bytes>)> = HashSet::new();
    let mut waiting: Vec<(u64, Option<Bytes>)> = vec![(0, None)];
    let certain = (0..steps.len()).filter(|at| steps[*at].is_certain);
    let goal = certain.fold(0_u64, |bits, at| bits | 1 << at);
    while let Some((done, value)) = waiting.pop() {
        if done & goal == goal {
            return true;
        }
        if !seen.insert((done, value.clone())) {
            continue;
        }
        if seen.len() > STATES_MAX {
            return false;
        }
        let left = || (0..steps.len()).filter(|at| done & (1 << at) == 0);
        // Whatever is next was called before the first of those left returned.
        let first_return = left().map(|at| steps[at].returned).min().unwrap_or(Micros::MAX);
        for at in left().filter(|at| steps[*at].invoked <= first_return) {
            match &steps[at].effect {
                Effect::Read(told) if *told != value => {}
                Effect::Read(_) => waiting.push((done | 1 << at, value.clone())),
                Effect::Write(next) => waiting.push((done | 1 << at, next.clone())),
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(number: u64) -> Option<Bytes> {
        Some(Bytes::from(number.to_string()))
    }

    fn certain(invoked: Micros, effect: Effect) -> Step {
        Step { invoked, returned: invoked + 1, is_certain: true, effect }
    }

    fn unknown(invoked: Micros, written: u64) -> Step {
        let effect = Effect::Write(value(written));
        Step { invoked, returned: Micros::MAX, is_certain: false, effect }
    }

    #[test]
    fn many_writes_that_nobody_saw_do_not_end_the_search() {
        let told = |second: u64| {
            let mut steps = vec![certain(1, Effect::Write(value(1)))];
            steps.push(certain(20, Effect::Read(value(1))));
            steps.push(certain(30, Effect::Read(value(second))));
            steps.extend((100..136).map(|number| unknown(10, number)));
            leave_out_what_nobody_saw(&mut steps);
            steps
        };
        // One that was seen may have happened at any time behind its call.
        assert!(is_explained(&told(117)));
        // What nobody wrote explains nothing, and neither does giving up.
        let steps = told(7);
        assert_eq!(steps.len(), 3);
        assert!(!is_explained(&steps));
    }
}
