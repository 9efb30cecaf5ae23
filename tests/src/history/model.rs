//! The store as its changes tell it: a list of changes, and the versions of every key.
//!
//! Invariants: revisions begin with 2 and have no gaps; of one revision no key changes twice; a key
//! has version 1 in the revision that creates it, and one more with each change.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{Change, Seen};

/// The revision of a store that was never written to.
pub const FIRST_REVISION: i64 = 1;

/// A history that can be asked for any state.
#[derive(Debug, Default)]
pub struct Model {
    /// All changes, oldest first.
    pub changes: Vec<Change>,
    /// Of each key the revisions that changed it, and what it is since.
    keys: BTreeMap<String, Vec<(i64, Option<Seen>)>>,
}

impl Model {
    /// Reads changes, and says what in them cannot be.
    pub fn replay(changes: &[Change], violations: &mut Vec<String>) -> Model {
        let mut model = Model::default();
        let mut last = FIRST_REVISION;
        for change in changes {
            let Change { revision, key, after, before } = change;
            if ![last, last + 1].contains(revision) || *revision == FIRST_REVISION {
                violations.push(format!("revision {revision} comes after {last}"));
            }
            last = *revision;
            let versions = model.keys.entry(key.clone()).or_default();
            if versions.last().is_some_and(|(known, _)| known >= revision) {
                violations.push(format!("{key} changes again at {revision}"));
                continue;
            }
            let known = versions.last().and_then(|(_, seen)| seen.as_ref());
            if before.as_ref() != known {
                violations.push(format!("{key} at {revision}: {before:?} before, not {known:?}"));
            }
            let expected = after.as_ref().map(|seen| Seen {
                key: key.clone(),
                value: seen.value.clone(),
                create_revision: known.map_or(*revision, |known| known.create_revision),
                mod_revision: *revision,
                version: known.map_or(1, |known| known.version + 1),
            });
            if *after != expected {
                violations.push(format!("{key} at {revision} is {after:?}, not {expected:?}"));
            }
            if expected.is_none() && known.is_none() {
                violations.push(format!("{key} is deleted at {revision} and was not there"));
            }
            versions.push((*revision, expected));
            model.changes.push(change.clone());
        }
        model
    }

    /// The last revision.
    pub fn last_revision(&self) -> i64 {
        self.changes.last().map_or(FIRST_REVISION, |change| change.revision)
    }

    /// A key after all changes up to a revision.
    pub fn at(&self, key: &str, revision: i64) -> Option<&Seen> {
        let versions = self.keys.get(key)?;
        let known = versions.partition_point(|(changed, _)| *changed <= revision);
        versions[..known].last()?.1.as_ref()
    }

    /// All keys of a range after all changes up to a revision.
    pub fn range(&self, from: &str, to: &str, revision: i64) -> Vec<&Seen> {
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let keys = self.keys.range::<str, _>(bounds);
        keys.filter_map(|(key, _)| self.at(key, revision)).collect()
    }

    /// The changes of a revision; none if there is no such revision.
    pub fn changes_of(&self, revision: i64) -> &[Change] {
        let from = self.changes.partition_point(|change| change.revision < revision);
        let to = self.changes.partition_point(|change| change.revision <= revision);
        &self.changes[from..to]
    }
}
