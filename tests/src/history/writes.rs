//! What was acknowledged is there, at its revision and whole; what may have happened happened once
//! or not at all; and nothing is there that nobody asked for.
//!
//! A value names its operation. A deletion has no value: those that nobody was told of must find an
//! operation that asked for them and was told nothing.

use std::collections::{BTreeMap, VecDeque};

use super::model::Model;
use super::{Asked, Change, Operation, Told};

/// Gives the revision in which each operation took effect, for those that did.
pub fn check(
    operations: &[Operation],
    model: &Model,
    violations: &mut Vec<String>,
) -> Vec<Option<i64>> {
    let found = revisions_by_value(model, violations);
    let mut placed = vec![None; operations.len()];
    // Who took effect in a revision; one revision, one operation.
    let mut owners: BTreeMap<i64, usize> = BTreeMap::new();
    let mut unknown_deletions: BTreeMap<&str, VecDeque<usize>> = BTreeMap::new();
    for (number, operation) in operations.iter().enumerate() {
        let (keys, value) = match &operation.asked {
            Asked::Put { keys, value } => (keys.as_slice(), Some(value)),
            Asked::Swap { key, value, .. } => (std::slice::from_ref(key), Some(value)),
            Asked::Delete { key } => (std::slice::from_ref(key), None),
            Asked::Read { .. } => continue,
        };
        let there = value.and_then(|value| found.get(value.as_str()).copied());
        let revision = match (&operation.told, value) {
            (Told::Written { revision, .. }, _) => Some(*revision),
            (Told::Nothing, Some(_)) => there,
            (Told::Nothing, None) => {
                unknown_deletions.entry(&keys[0]).or_default().push_back(number);
                None
            }
            (Told::Found { revision, .. }, _) => {
                if let Some(there) = there {
                    violations.push(format!(
                        "{:?} was not to be written ({revision}) and is there at {there}",
                        operation.asked
                    ));
                }
                None
            }
        };
        let Some(revision) = revision else { continue };
        placed[number] = Some(revision);
        if !is_whole(model.changes_of(revision), keys, value) {
            violations.push(format!(
                "{:?}, {:?}: revision {revision} is {:?}",
                operation.asked,
                operation.told,
                model.changes_of(revision)
            ));
        }
        if let Some(other) = owners.insert(revision, number) {
            let (one, other) = (&operation.asked, &operations[other].asked);
            violations.push(format!("{one:?} and {other:?} both have revision {revision}"));
        }
    }
    for change in &model.changes {
        if owners.contains_key(&change.revision) {
            continue;
        }
        let asked_for = change.after.is_none()
            && model.changes_of(change.revision).len() == 1
            && unknown_deletions.get_mut(change.key.as_str()).is_some_and(|of_key| {
                // Any of them will do: the one that was asked for first could have been it if
                // another could.
                of_key.pop_front().is_some()
            });
        if !asked_for {
            violations.push(format!("nobody asked for {change:?}"));
        }
    }
    placed
}

/// Where each value was written first; a value is written in one revision only.
fn revisions_by_value<'a>(
    model: &'a Model,
    violations: &mut Vec<String>,
) -> BTreeMap<&'a str, i64> {
    let mut found = BTreeMap::new();
    for change in &model.changes {
        let Some(after) = &change.after else { continue };
        let first = *found.entry(after.value.as_str()).or_insert(change.revision);
        if first != change.revision {
            let revision = change.revision;
            violations.push(format!("{} is written at {first} and at {revision}", after.value));
        }
    }
    found
}

/// Whether a revision is these keys with this value, or this key's deletion, and nothing else.
fn is_whole(changes: &[Change], keys: &[String], value: Option<&String>) -> bool {
    let mut asked: Vec<&String> = keys.iter().collect();
    let mut changed: Vec<&String> = changes.iter().map(|change| &change.key).collect();
    asked.sort();
    changed.sort();
    let has_value = |change: &Change| change.after.as_ref().map(|after| &after.value) == value;
    asked == changed && changes.iter().all(has_value)
}
