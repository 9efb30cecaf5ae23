//! Watchers that resume behind what they saw: every change of their range, once, in order, with what
//! was there before; all changes of a revision in one response.

use super::model::Model;
use super::{Change, Watch};

/// Holds what watchers saw against the model, up to its last revision.
pub fn check(watches: &[Watch], model: &Model, violations: &mut Vec<String>) {
    for (number, watch) in watches.iter().enumerate() {
        let is_watched = |change: &&Change| watch.from <= change.key && change.key < watch.to;
        let expected: Vec<&Change> = model.changes.iter().filter(is_watched).collect();
        let known = |change: &&Change| change.revision <= model.last_revision();
        let seen: Vec<&Change> = watch.responses.iter().flatten().filter(known).collect();
        let differing = expected.iter().zip(&seen).position(|(left, right)| left != right);
        let shared = expected.len().min(seen.len());
        if differing.is_some() || expected.len() != seen.len() {
            let at = differing.unwrap_or(shared);
            let (due, seen) = (expected.get(at), seen.get(at));
            violations.push(format!("watcher {number} saw {seen:?} as change {at}, not {due:?}"));
        }
        for pair in watch.responses.windows(2) {
            let (Some(last), Some(next)) = (pair[0].last(), pair[1].first()) else { continue };
            if last.revision == next.revision {
                violations.push(format!("watcher {number}: {} came in parts", next.revision));
            }
        }
    }
}
