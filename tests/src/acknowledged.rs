//! The checker of acknowledged writes: what clients were told must be what the store holds, and
//! what a resuming watcher saw.
//!
//! The load it checks writes every key once, so a history is easy to judge:
//! - an acknowledged put is in the final state with the revision it was acknowledged with;
//! - a put whose outcome is unknown may be there, whole, or not at all; nothing else is there;
//! - no revision is given twice, and each writer's revisions grow;
//! - a watcher that resumes where it stopped sees exactly the final state, each change once, in
//!   the order of revisions.

use std::collections::{BTreeMap, BTreeSet};

/// What one writer was told.
#[derive(Clone, Debug, Default)]
pub struct WriterLog {
    /// Acknowledged: key and revision, in the order of the writer.
    pub acknowledged: Vec<(String, i64)>,
    /// Sent, and the outcome is not known.
    pub unknown: BTreeSet<String>,
}

/// Checks what writers were told against the final state and the watcher's events.
///
/// # Errors
/// Every violation found, one sentence each.
pub fn check(
    writers: &[WriterLog],
    final_state: &BTreeMap<String, i64>,
    watched: &[(String, i64)],
) -> Result<(), Vec<String>> {
    let mut violations = Vec::new();
    let mut known = BTreeSet::new();
    for (number, writer) in writers.iter().enumerate() {
        let mut last = 0;
        for (key, revision) in &writer.acknowledged {
            known.insert(key.clone());
            if *revision <= last {
                violations.push(format!("writer {number}: {key} at {revision} after {last}"));
            }
            last = *revision;
            match final_state.get(key) {
                None => {
                    violations.push(format!("{key} was acknowledged at {revision} and is lost"))
                }
                Some(found) if found != revision => violations
                    .push(format!("{key} was acknowledged at {revision} and is there at {found}")),
                Some(_) => {}
            }
        }
        known.extend(writer.unknown.iter().cloned());
    }
    let mut revisions = BTreeMap::new();
    for (key, revision) in final_state {
        if !known.contains(key) {
            violations.push(format!("{key} is there at {revision} and nobody wrote it"));
        }
        if let Some(other) = revisions.insert(*revision, key) {
            violations.push(format!("{key} and {other} both have revision {revision}"));
        }
    }
    check_watch(final_state, watched, &mut violations);
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

fn check_watch(
    final_state: &BTreeMap<String, i64>,
    watched: &[(String, i64)],
    violations: &mut Vec<String>,
) {
    let mut seen = BTreeMap::new();
    let mut last = 0;
    for (key, revision) in watched {
        if *revision <= last {
            violations.push(format!("the watcher saw {key} at {revision} after {last}"));
        }
        last = *revision;
        if seen.insert(key.clone(), *revision).is_some() {
            violations.push(format!("the watcher saw {key} twice"));
        }
    }
    for (key, revision) in final_state {
        if seen.get(key) != Some(revision) {
            violations.push(format!(
                "the watcher saw {key} at {:?}, and it is there at {revision}",
                seen.get(key)
            ));
        }
    }
    for (key, revision) in &seen {
        if !final_state.contains_key(key) {
            violations.push(format!("the watcher saw {key} at {revision}, and it is not there"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Watched = Vec<(String, i64)>;

    fn sound() -> (Vec<WriterLog>, BTreeMap<String, i64>, Watched) {
        let key = |number: i64| format!("k{number}");
        let writers = vec![
            WriterLog {
                acknowledged: vec![(key(1), 2), (key(2), 4)],
                unknown: BTreeSet::from([key(3), key(5)]),
            },
            WriterLog { acknowledged: vec![(key(4), 3)], unknown: BTreeSet::new() },
        ];
        let state = BTreeMap::from([(key(1), 2), (key(4), 3), (key(2), 4), (key(3), 5)]);
        let watched = vec![(key(1), 2), (key(4), 3), (key(2), 4), (key(3), 5)];
        (writers, state, watched)
    }

    #[test]
    fn a_sound_history_is_accepted() {
        let (writers, state, watched) = sound();
        assert_eq!(check(&writers, &state, &watched), Ok(()));
    }

    #[test]
    fn every_way_to_lose_or_invent_is_rejected() {
        type Change = fn(&mut Vec<WriterLog>, &mut BTreeMap<String, i64>, &mut Watched);
        let changes: [(&str, Change); 9] = [
            ("an acknowledged write is gone", |_, state, watched| {
                state.remove("k2");
                watched.remove(2);
            }),
            ("it has another revision", |_, state, _| {
                state.insert("k2".into(), 9);
            }),
            ("a writer's revisions go back", |writers, _, _| writers[0].acknowledged.swap(0, 1)),
            ("a key that nobody wrote", |_, state, watched| {
                state.insert("k9".into(), 9);
                watched.push(("k9".into(), 9));
            }),
            ("a revision is given twice", |_, state, _| {
                state.insert("k3".into(), 4);
            }),
            ("the watcher misses an event", |_, _, watched| {
                watched.remove(1);
            }),
            ("the watcher sees an event twice", |_, _, watched| {
                let again = watched[1].clone();
                watched.push(again);
            }),
            ("the watcher sees events out of order", |_, _, watched| watched.swap(0, 1)),
            ("the watcher sees what is not there", |_, _, watched| watched.push(("k5".into(), 6))),
        ];
        for (name, change) in changes {
            let (mut writers, mut state, mut watched) = sound();
            change(&mut writers, &mut state, &mut watched);
            assert!(check(&writers, &state, &watched).is_err(), "{name}");
        }
    }
}
