//! What clients saw of a cluster, and the judgement whether one strictly serializable store can have
//! shown it to them.
//!
//! One idea: the store numbers its changes, and every answer carries such a number. So the order of
//! everything is no riddle that a search must solve: each answer names its place, and the judge
//! replays the changes ([`model`]) and holds every answer against the state at its place, and the
//! places against real time. That is complete for operations whose place is known, and takes one
//! sort.
//!
//! | file | rule |
//! | --- | --- |
//! | `model.rs` | the changes are one history: revisions without gaps, versions that count |
//! | `writes.rs` | what was acknowledged is there, once, at its revision; nothing else is |
//! | `reads.rs` | every read, also a serializable one, saw the state at its revision, whole |
//! | `real_time.rs` | what ended before something began has a place before it |
//! | `watches.rs` | watchers saw every change once, in order, a revision at a time |
//! | `replicas.rs` | all members have the same history, state and hash |
//!
//! What a history must be: every value is written by one operation only; keys are never compacted;
//! leases take no part.
//!
//! What it does not do: I/O, or anything that depends on how the history came about.

pub mod model;
mod reads;
mod real_time;
mod replicas;
#[cfg(test)]
mod tests;
mod watches;
mod writes;

use model::Model;

/// A key as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Revision in which it was created.
    pub create_revision: i64,
    /// Revision of its last change.
    pub mod_revision: i64,
    /// Changes since it was created, that one included.
    pub version: i64,
}

/// One change, as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its revision.
    pub revision: i64,
    /// The key.
    pub key: String,
    /// The key after it; `None` for a deletion.
    pub after: Option<Seen>,
    /// The key before it, if there was one.
    pub before: Option<Seen>,
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A value for each of these keys, in one transaction if they are several.
    Put {
        /// The keys.
        keys: Vec<String>,
        /// The value.
        value: String,
    },
    /// That a key be gone.
    Delete {
        /// The key.
        key: String,
    },
    /// A value for a key, if its last change has this revision (0: if it is not there); else the
    /// key.
    Swap {
        /// The key.
        key: String,
        /// The revision.
        expected: i64,
        /// The value.
        value: String,
    },
    /// All keys from one to another, that one excluded.
    Read {
        /// The first key.
        from: String,
        /// The first key beyond.
        to: String,
        /// Whether any member may answer from what it has.
        is_serializable: bool,
    },
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing that says whether it happened.
    Nothing,
    /// It was written, and this was there before; several keys come without it.
    Written {
        /// The revision.
        revision: i64,
        /// What was there before.
        before: Vec<Seen>,
    },
    /// Nothing was written at this revision, where a read found this.
    Found {
        /// The revision.
        revision: i64,
        /// What is there.
        found: Vec<Seen>,
    },
}

/// A call of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Nanoseconds from some beginning to the call.
    pub began: u64,
    /// And to the answer.
    pub ended: u64,
    /// The request.
    pub asked: Asked,
    /// The answer.
    pub told: Told,
}

/// What a watcher that resumes behind what it saw was sent, from the first revision on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The first key of its range.
    pub from: String,
    /// The first key beyond.
    pub to: String,
    /// The changes of each response.
    pub responses: Vec<Vec<Change>>,
}

/// What a member has in the end, all at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The member.
    pub name: String,
    /// All changes up to there.
    pub changes: Vec<Change>,
    /// All keys.
    pub state: Vec<Seen>,
    /// The hash over keys and revisions.
    pub hash: u32,
}

/// All that is known of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What clients did.
    pub operations: Vec<Operation>,
    /// What watchers saw.
    pub watches: Vec<Watch>,
    /// What members have.
    pub replicas: Vec<Replica>,
}

impl Operation {
    /// Where its effect or its answer stands in the order of revisions, if it was told.
    fn revision(&self) -> Option<i64> {
        match self.told {
            Told::Nothing => None,
            Told::Written { revision, .. } | Told::Found { revision, .. } => Some(revision),
        }
    }
}

/// Judges a history.
///
/// # Errors
/// Every violation, a sentence each, the most basic first.
pub fn check(history: &History) -> Result<(), Vec<String>> {
    let Some(first) = history.replicas.first() else {
        return Err(vec!["no member was asked for what it has".into()]);
    };
    let mut violations = Vec::new();
    let model = Model::replay(&first.changes, &mut violations);
    replicas::check(&history.replicas, &model, &mut violations);
    let placed = writes::check(&history.operations, &model, &mut violations);
    reads::check(&history.operations, &model, &mut violations);
    real_time::check(&history.operations, &placed, &mut violations);
    watches::check(&history.watches, &model, &mut violations);
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}
