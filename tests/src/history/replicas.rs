//! All members have the same changes, the same keys and the same hash, at one revision.

use super::model::Model;
use super::{Replica, Seen};

/// Holds the members against each other, and against the model.
pub fn check(replicas: &[Replica], model: &Model, violations: &mut Vec<String>) {
    let last = model.last_revision();
    // Every key is below this one, for keys are text.
    let state: Vec<&Seen> = model.range("", "\u{10ffff}", last);
    for replica in replicas {
        let Replica { name, changes, state: found, hash } = replica;
        if *changes != replicas[0].changes {
            let other = &replicas[0];
            let at = changes.iter().zip(&other.changes).position(|(left, right)| left != right);
            let (count, others) = (changes.len(), other.changes.len());
            let other = &other.name;
            violations.push(format!(
                "{name} has {count} changes and {other} {others}, the first that differs is {at:?}"
            ));
        }
        if found.iter().collect::<Vec<_>>() != state {
            violations.push(format!("the keys of {name} are {found:?}, not {state:?}"));
        }
        if *hash != replicas[0].hash {
            let (other, others) = (&replicas[0].name, replicas[0].hash);
            violations.push(format!("the hash of {name} is {hash}, that of {other} {others}"));
        }
    }
}
