//! What commands change: the engine's writer and what is kept in memory beside it.
//!
//! One idea: the engine is the truth and this is its cache. [`State::load`] rebuilds all of it from
//! rows, after a restart as after a checkpoint from a peer, and every change of the cache is made
//! together with the change of its row.
//!
//! Invariants (checked by `check`):
//! - `revision >= 1`, and it is the newest revision that any key has, or that was ever made;
//! - `compacted <= revision`;
//! - `leases` holds exactly the `lease/` and `lease_key/` rows, `members` the `member/` rows,
//!   `alarms` the `alarm/` rows, `auth` those of users and roles, `removed` the `removed/` rows;
//!   `configuration` follows from `members`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use varve_lsm::db::Values;
use varve_lsm::{Commit, Delta, Keyspace, Meta, Revision, Snapshot, Writer, trial};

use crate::alarm::{self, Alarms};
use crate::auth::{self, Auth};
use crate::error::{Error, Result};
use crate::lease::LeaseTable;
use crate::mark::{Configuration, Mark};
use crate::member::{self, Founding, Member};
use crate::schema;
use crate::version::{self, Release};

/// The writer and the caches; see the head of the file.
pub(crate) struct State {
    pub writer: Writer,
    /// The newest revision.
    pub revision: u64,
    /// Older revisions have no answer; 0 when never compacted.
    pub compacted: u64,
    pub leases: LeaseTable,
    pub members: BTreeMap<u64, Member>,
    pub alarms: Alarms,
    pub auth: Arc<Auth>,
    /// What readers hold themselves to.
    pub published_auth: Arc<ArcSwap<Auth>>,
    /// The release that the cluster goes back to.
    pub downgrade: Option<Release>,
    /// Ids that are never used again.
    pub removed: BTreeSet<u64>,
    /// Who votes, for the mark.
    pub configuration: Configuration,
    /// The entry being applied, or applied last.
    mark: Mark,
    /// Changes of rows so far by the entry being applied.
    row_changes: u32,
}

impl State {
    /// Founds an empty engine, see [`crate::Store::open`].
    pub fn found(writer: Writer, founding: &Founding) -> Result<Self> {
        let mut state = Self::begin_founding(writer, founding);
        // Who joins a cluster has nothing until a snapshot comes, and writes nothing.
        if founding.members.is_empty() {
            return Ok(state);
        }
        state.commit()?;
        state.writer.freeze()?;
        Ok(state)
    }

    /// As [`State::found`], without the commit: the first entry is under way, if there are members.
    pub fn begin_founding(writer: Writer, founding: &Founding) -> Self {
        let mut state = Self {
            writer,
            revision: 1,
            compacted: 0,
            leases: LeaseTable::default(),
            members: BTreeMap::new(),
            alarms: Alarms::new(),
            auth: Arc::default(),
            published_auth: Arc::default(),
            downgrade: None,
            removed: BTreeSet::new(),
            configuration: Configuration::default(),
            mark: Mark { index: 0, term: 0 },
            row_changes: 0,
        };
        if founding.members.is_empty() {
            return state;
        }
        state.begin(Mark { index: 1, term: 1 });
        let cluster = schema::encode_number(founding.cluster_id);
        state.put_row(schema::CLUSTER_ROW, Delta::Plus, &cluster);
        for member in &founding.members {
            member::store(&mut state, member.clone());
        }
        state
    }

    /// Reads everything back from the engine.
    pub fn load(writer: Writer, committed: &Snapshot, cluster_id: u64) -> Result<Self> {
        check_cluster(committed, cluster_id)?;
        let mark = Mark::decode(committed.mark())?;
        let leases = LeaseTable::load(committed)?;
        let members = member::load(committed)?;
        let alarms = alarm::load(committed)?;
        let auth = Arc::new(auth::load(committed)?);
        let downgrade = version::load(committed)?;
        let removed = member::load_removed(committed)?;
        let configuration = member::configuration(&members);
        let (mut revision, compacted) = (committed.visible(), committed.compacted());
        if trial::has_bug("revision-reused") && revision > 1.max(compacted) {
            revision -= 1;
        }
        if revision < 1 || compacted > revision {
            let found = format!("revision {revision}, compacted {compacted}");
            return Err(Error::row(b"(commit)", "1 <= revision, compacted <= revision", found));
        }
        Ok(Self {
            writer,
            revision,
            compacted,
            leases,
            members,
            alarms,
            published_auth: Arc::new(ArcSwap::new(Arc::clone(&auth))),
            auth,
            downgrade,
            removed,
            configuration,
            mark,
            row_changes: 0,
        })
    }

    /// Replaces what the engine holds by a checkpoint. [`State::reload`] has to follow.
    pub fn install(&mut self, manifest: &Bytes, staged: &Path, cluster_id: u64) -> Result<()> {
        let Self { writer, auth, published_auth, .. } = self;
        writer.install_after(manifest, staged, |received| {
            check_cluster(received, cluster_id)?;
            // Before the data, as in [`State::commit`].
            *auth = Arc::new(auth::load(received)?);
            published_auth.store(Arc::clone(auth));
            Ok(())
        })
    }

    /// As [`State::load`], behind [`State::install`]. Readers do not wait for it: what they share
    /// with the writer, users and roles, they have.
    pub fn reload(&mut self, committed: &Snapshot) -> Result<()> {
        self.mark = Mark::decode(committed.mark())?;
        self.leases = LeaseTable::load(committed)?;
        self.members = member::load(committed)?;
        self.alarms = alarm::load(committed)?;
        self.downgrade = version::load(committed)?;
        self.removed = member::load_removed(committed)?;
        self.configuration = member::configuration(&self.members);
        self.revision = committed.visible();
        if !trial::has_bug("compaction-forgotten") {
            self.compacted = committed.compacted();
        }
        Ok(())
    }

    /// The entry applied last, or being applied.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Begins an entry.
    pub fn begin(&mut self, mark: Mark) {
        assert!(
            mark.index == self.mark.index + 1 && mark.term >= self.mark.term,
            "{mark:?} does not follow {:?}",
            self.mark
        );
        self.mark = mark;
        self.row_changes = 0;
    }

    /// Ends an entry: all it did becomes visible, together with its position in the log.
    pub fn commit(&mut self) -> Result<()> {
        assert!(self.compacted <= self.revision, "{} > {}", self.compacted, self.revision);
        // Before the data: who reads what this entry changed, and then finds the users as they were
        // when it was permitted to, has read nothing that this entry forbids.
        if !Arc::ptr_eq(&self.auth, &self.published_auth.load()) {
            self.published_auth.store(Arc::clone(&self.auth));
        }
        self.writer.commit(Commit {
            mark: self.mark.encode(&self.configuration),
            kv_visible: self.revision,
            compacted: self.compacted,
        })?;
        Ok(())
    }

    /// Users and roles, to be changed together with their rows.
    pub fn auth_mut(&mut self) -> &mut Auth {
        Arc::make_mut(&mut self.auth)
    }

    /// Writes a row. `delta` is `Plus` for a new one, else `Zero`.
    pub fn put_row(&mut self, row: &[u8], delta: Delta, value: &[u8]) {
        let revision = self.next_row_revision();
        self.writer.put(Keyspace::Sys, row, revision, delta, Meta::EMPTY, value);
    }

    /// Removes a row that is there.
    pub fn delete_row(&mut self, row: &[u8]) {
        let revision = self.next_row_revision();
        self.writer.delete(Keyspace::Sys, row, revision);
    }

    /// Rows are numbered by the log, not by etcd's revisions: a lease is granted without a
    /// revision, and the versions of a row must grow.
    fn next_row_revision(&mut self) -> Revision {
        let sub = self.row_changes;
        self.row_changes += 1;
        Revision { main: self.mark.index, sub }
    }
}

/// Whether the data is this cluster's.
fn check_cluster(snapshot: &Snapshot, expected: u64) -> Result<()> {
    let row = schema::CLUSTER_ROW;
    let entry = schema::live(snapshot.get(Keyspace::Sys, row, u64::MAX)?)
        .ok_or_else(|| Error::row(row, "a row", "none"))?;
    match schema::decode_number(row, &entry.value)? {
        found if found == expected => Ok(()),
        found => Err(Error::Cluster { expected, found }),
    }
}

/// Calls `each` with key and value of every row that begins with `prefix`.
pub(crate) fn for_each_row(
    snapshot: &Snapshot,
    prefix: &[u8],
    mut each: impl FnMut(&bytes::Bytes, &[u8]) -> Result<()>,
) -> Result<()> {
    let rows = schema::rows_of(prefix);
    for entry in snapshot.range(Keyspace::Sys, rows, u64::MAX, Values::Load) {
        let entry = entry?;
        each(&entry.key, &entry.value)?;
    }
    Ok(())
}
