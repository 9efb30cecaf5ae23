//! Replicas: when all is quiet, all members hold the same, and it is what was agreed.

use crate::history::History;
use crate::model::Model;

/// Adds what is wrong.
pub fn check(history: &History, model: &Model, found: &mut Vec<String>) {
    let expected = model.range(&[0], &[0], i64::MAX);
    let leases: Vec<(i64, i64)> = model.leases.iter().map(|(id, ttl)| (*id, *ttl)).collect();
    for replica in &history.replicas {
        let member = replica.member;
        let mut differ = |what: &str, expected: String, found_there: String| {
            if expected != found_there {
                found.push(format!(
                    "replica {member}: {what}: expected {expected}, found {found_there}"
                ));
            }
        };
        differ("revision", model.revision.to_string(), replica.revision.to_string());
        differ("compacted", model.compacted.to_string(), replica.compacted.to_string());
        differ("keys", format!("{expected:?}"), format!("{:?}", replica.keys));
        differ("leases", format!("{leases:?}"), format!("{:?}", replica.leases));
        let first = &history.replicas[0];
        differ("hash of history", first.hash.to_string(), replica.hash.to_string());
        if let Some(changes) = &replica.changes {
            let pairs = changes.iter().zip(&model.changes);
            let same = pairs.take_while(|(found, expected)| found == expected).count();
            let (expected, found_there) = (model.changes.get(same), changes.get(same));
            differ("first other change", format!("{expected:?}"), format!("{found_there:?}"));
        }
    }
}
