//! Every answer shows the state at the revision that it names, whole: reads, what was there before a
//! write, what a comparison found. That holds for serializable reads, too: they may be old, never
//! wrong, and never of what was lost later.

use super::model::Model;
use super::{Asked, Operation, Seen, Told};

/// Holds every answer against the model.
pub fn check(operations: &[Operation], model: &Model, violations: &mut Vec<String>) {
    for operation in operations {
        let Operation { asked, told, .. } = operation;
        let last = model.last_revision();
        if let Some(revision) = operation.revision().filter(|revision| *revision > last) {
            violations.push(format!("{asked:?} was answered from {revision}, the last is {last}"));
        }
        let (expected, found): (Vec<&Seen>, &[Seen]) = match (asked, told) {
            (_, Told::Nothing) => continue,
            (Asked::Read { from, to, .. }, Told::Found { revision, found }) => {
                (model.range(from, to, *revision), found)
            }
            (Asked::Put { keys, .. }, Told::Written { revision, before }) if keys.len() == 1 => {
                (model.at(&keys[0], revision - 1).into_iter().collect(), before)
            }
            (Asked::Put { .. }, Told::Written { .. }) => continue,
            (Asked::Delete { key }, Told::Written { revision, before }) => {
                (model.at(key, revision - 1).into_iter().collect(), before)
            }
            (Asked::Swap { key, expected, .. }, Told::Written { revision, .. }) => {
                let before = model.at(key, revision - 1).map_or(0, |seen| seen.mod_revision);
                if before != *expected {
                    violations.push(format!("{asked:?} at {revision}: it was changed at {before}"));
                }
                continue;
            }
            (Asked::Swap { key, expected, .. }, Told::Found { revision, found }) => {
                let now = model.at(key, *revision);
                if now.map_or(0, |seen| seen.mod_revision) == *expected {
                    violations.push(format!("{asked:?} at {revision} was refused without reason"));
                }
                (now.into_iter().collect(), found)
            }
            // A deletion of what is not there.
            (Asked::Delete { key }, Told::Found { revision, found }) => {
                (model.at(key, *revision).into_iter().collect(), found)
            }
            (Asked::Put { .. }, Told::Found { .. })
            | (Asked::Read { .. }, Told::Written { .. }) => {
                violations.push(format!("{told:?} is no answer to {asked:?}"));
                continue;
            }
        };
        if expected != found.iter().collect::<Vec<_>>() {
            violations.push(format!("{asked:?} was told {told:?}, and there was {expected:?}"));
        }
    }
}
