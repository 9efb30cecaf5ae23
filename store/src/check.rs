//! Walks the whole state and reports what does not fit together.
//!
//! One idea: every fact that is kept twice is compared. A key's meta names a lease and the lease
//! has a row for the key; a count is a sum and also the number of keys that a walk meets. Used by
//! tests after every scenario and by the offline tool; too slow for a running server.

use std::collections::BTreeSet;

use bytes::Bytes;
use varve_lsm::db::Values;
use varve_lsm::{Db, KeyRange, Keyspace, Snapshot};

use crate::alarm;
use crate::apply::Store;
use crate::auth;
use crate::error::Result;
use crate::lease::{LeaseId, LeaseTable};
use crate::mark::{Configuration, Mark};
use crate::member;
use crate::schema::{self, KeyMeta};
use crate::version;

/// All violations in an engine that holds a state machine, in words; none if it is sound.
///
/// # Errors
/// When the state cannot be read at all.
pub fn check(db: &Db) -> Result<Vec<String>> {
    let snapshot = db.snapshot();
    let mut violations = Vec::new();
    Mark::decode(snapshot.mark())?;
    member::load(&snapshot)?;
    alarm::load(&snapshot)?;
    auth::load(&snapshot)?;
    let leases = LeaseTable::load(&snapshot)?;
    check_keys(&snapshot, &leases, &mut violations)?;
    Ok(violations)
}

/// As [`check`], and the caches of an open store against its rows.
///
/// # Errors
/// As [`check`].
pub fn check_store(store: &Store, db: &Db) -> Result<Vec<String>> {
    let mut violations = check(db)?;
    let snapshot = db.snapshot();
    let state = &store.state;
    let mut same = |name: &str, is_same: bool| {
        if !is_same {
            violations.push(format!("{name} in memory differ from their rows"));
        }
    };
    same("leases", LeaseTable::load(&snapshot)? == state.leases);
    same("members", member::load(&snapshot)? == state.members);
    same("a downgrade", version::load(&snapshot)? == state.downgrade);
    same("alarms", alarm::load(&snapshot)? == state.alarms);
    same("users and roles", auth::load(&snapshot)? == *state.auth);
    same("published users and roles", **state.published_auth.load() == *state.auth);
    same("removed members", member::load_removed(&snapshot)? == state.removed);
    // A mark of version 1 has none.
    let configuration = Configuration::decode(snapshot.mark())?;
    same(
        "the mark's voters",
        configuration
            .is_none_or(|configuration| configuration == member::configuration(&state.members)),
    );
    same("revision and compaction", {
        (snapshot.visible(), snapshot.compacted()) == (state.revision, state.compacted)
    });
    same("index and term", Mark::decode(snapshot.mark())? == state.mark());
    Ok(violations)
}

fn check_keys(
    snapshot: &Snapshot,
    leases: &LeaseTable,
    violations: &mut Vec<String>,
) -> Result<()> {
    let at = snapshot.visible();
    let mut attached: BTreeSet<(LeaseId, Bytes)> =
        leases.attachments().map(|(id, key)| (id, Bytes::copy_from_slice(key))).collect();
    let mut walked = 0;
    let mut last: Option<Bytes> = None;
    for entry in snapshot.range(Keyspace::Kv, KeyRange::all(), at, Values::Skip) {
        let entry = entry?;
        let key = entry.key.escape_ascii().to_string();
        walked += 1;
        if last.as_ref().is_some_and(|last| *last >= entry.key) {
            violations.push(format!("{key} is out of order"));
        }
        if entry.revision.main > at {
            violations.push(format!("{key} is at revision {} of {at}", entry.revision.main));
        }
        let lease = LeaseId(KeyMeta::of(&entry)?.lease);
        if lease.0 != 0 && !attached.remove(&(lease, entry.key.clone())) {
            violations.push(format!("{key} names {lease:?}, which does not have it"));
        }
        if schema::live(snapshot.get_meta(Keyspace::Kv, &entry.key, at)?).as_ref() != Some(&entry) {
            violations.push(format!("{key} is not what a look-up finds"));
        }
        last = Some(entry.key);
    }
    for (lease, key) in attached {
        violations.push(format!("{lease:?} has {}, which does not name it", key.escape_ascii()));
    }
    let counted = snapshot.count(Keyspace::Kv, &KeyRange::all(), at)?;
    if counted != walked {
        violations.push(format!("{counted} keys are counted and {walked} are there"));
    }
    Ok(())
}
