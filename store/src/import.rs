//! A state from etcd's rows: how a backup of etcd, or of varve, becomes a new member.
//!
//! One idea: what comes in is what the first entry of a new log did: the engine is founded at index
//! 1 and term 1 with the new members, and beside them stand all versions, leases, users, roles and
//! alarms. Every member that imports the same rows has the same state.
//!
//! Not taken over, as by etcd's own restoration: members, cluster version, index and term; and a
//! downgrade under way and what was left of a lease's time: leases begin anew.
//!
//! A key that lives may name a lease that is no more (etcd shows such a key with its lease and never
//! lets it expire); here a key names a lease that has it. Which version of a key is its last is known
//! only at the end, so [`Import::finish`] may tell which ones must lose their lease, and the caller
//! begins again with an empty engine. That is rare.

use std::collections::BTreeSet;

use prost::Message;
use varve_api::authpb::{Role, User};
use varve_api::etcdserverpb::AlarmMember;
use varve_api::mvccpb::KeyValue;
use varve_lsm::db::Values;
use varve_lsm::{Db, Delta, KeyRange, Keyspace, Kind, Revision, Writer};

use crate::alarm::{self, Alarm};
use crate::auth;
use crate::error::{Error, Result};
use crate::etcd_rows::{self, LeaseRow};
use crate::lease::{self, LeaseId};
use crate::member::Founding;
use crate::schema::{self, KeyMeta};
use crate::state::State;

/// Rows between two commits: so many are in memory beyond a full memtable.
const ROWS_PER_COMMIT: u32 = 4096;

/// An import under way. Buckets may come in any order but for [`Import::BUCKETS`].
pub struct Import {
    db: Db,
    state: State,
    /// Versions that lose their lease.
    unleased: BTreeSet<Revision>,
    versions: u64,
    /// Newest revision seen.
    last: Revision,
    /// Compacted revision of the rows.
    compacted: u64,
    auth: (bool, u64),
    rows_since_commit: u32,
}

/// What an import made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The newest revision.
    pub revision: u64,
    /// The compacted revision; 0 when never compacted.
    pub compacted: u64,
    /// Keys that live.
    pub keys: u64,
    /// Versions taken over.
    pub versions: u64,
}

/// How an import ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// All is in the engine, and durable.
    Done(Imported),
    /// These versions name leases that are not there: again, without them.
    Again(BTreeSet<Revision>),
}

impl Import {
    /// The buckets that are taken over, in the order in which they must come.
    pub const BUCKETS: [&'static str; 7] = [
        etcd_rows::META,
        etcd_rows::LEASE,
        etcd_rows::AUTH,
        etcd_rows::AUTH_ROLES,
        etcd_rows::AUTH_USERS,
        etcd_rows::ALARM,
        etcd_rows::KEY,
    ];

    /// Begins with an empty engine. Versions in `unleased` lose their lease.
    pub fn begin(
        db: Db,
        writer: Writer,
        founding: &Founding,
        unleased: BTreeSet<Revision>,
    ) -> Result<Self> {
        let found = db.snapshot().mark().len();
        if found > 0 {
            return Err(Error::row(b"(mark)", "an empty engine", found));
        }
        Ok(Self {
            db,
            state: State::begin_founding(writer, founding),
            unleased,
            versions: 0,
            last: Revision { main: 0, sub: 0 },
            compacted: 0,
            auth: (false, 1),
            rows_since_commit: 0,
        })
    }

    /// Takes one row of a bucket of [`Import::BUCKETS`].
    ///
    /// # Errors
    /// A row that etcd does not write, or the engine's.
    pub fn row(&mut self, bucket: &str, key: &[u8], value: &[u8]) -> Result<()> {
        match bucket {
            etcd_rows::META => self.meta(key, value)?,
            etcd_rows::LEASE => self.lease(key, value)?,
            etcd_rows::AUTH => self.auth(key, value)?,
            etcd_rows::AUTH_ROLES => {
                let role = Role { name: key.to_vec().into(), ..decode(bucket, key, value)? };
                auth::restore_role(&mut self.state, role)?;
            }
            etcd_rows::AUTH_USERS => {
                let user = User { name: key.to_vec().into(), ..decode(bucket, key, value)? };
                auth::restore_user(&mut self.state, user)?;
            }
            etcd_rows::ALARM => {
                let message: AlarmMember = decode(bucket, key, key)?;
                let alarm = Alarm { kind: message.alarm, member_id: message.member_id };
                alarm::restore(&mut self.state, alarm);
            }
            etcd_rows::KEY => self.version(key, value)?,
            other => panic!("bucket {other} is not taken over"),
        }
        Ok(())
    }

    fn meta(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if key == etcd_rows::FINISHED_COMPACTION || key == etcd_rows::SCHEDULED_COMPACTION {
            let revision = etcd_rows::parse_version_key(value);
            let (at, _) = revision.ok_or_else(|| Error::row(key, "a revision", value))?;
            self.compacted = self.compacted.max(at.main);
        }
        Ok(())
    }

    fn lease(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let lease: LeaseRow = decode(etcd_rows::LEASE, key, value)?;
        if lease.id == 0 || key != lease.id.to_be_bytes() {
            return Err(Error::row(key, "the key of its lease, not 0", lease.id));
        }
        lease::add(&mut self.state, LeaseId(lease.id), lease.ttl_seconds);
        self.count_row()
    }

    fn auth(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if key == etcd_rows::AUTH_ENABLED {
            self.auth.0 = value == [1];
        } else if key == etcd_rows::AUTH_REVISION {
            let bytes = value.try_into().map_err(|_| Error::row(key, "8 bytes", value))?;
            self.auth.1 = u64::from_be_bytes(bytes).max(1);
        }
        Ok(())
    }

    fn version(&mut self, row: &[u8], value: &[u8]) -> Result<()> {
        let parsed = etcd_rows::parse_version_key(row);
        let (at, kind) = parsed
            .filter(|(at, _)| at.main >= 1)
            .ok_or_else(|| Error::row(row, "a revision from 1, with or without a t", row.len()))?;
        if at <= self.last {
            return Err(Error::row(row, "revisions that grow", at));
        }
        // Between two revisions: readers of a state that is half made there are none, but the
        // engine holds that a visible revision never changes.
        if at.main > self.last.main && self.rows_since_commit >= ROWS_PER_COMMIT {
            self.commit()?;
        }
        self.last = at;
        let kv: KeyValue = decode(etcd_rows::KEY, row, value)?;
        if kv == KeyValue::default() {
            // How etcdutl raises the revision: a version of no key.
            return Ok(());
        }
        if kv.key.is_empty() {
            return Err(Error::row(row, "a key", "none"));
        }
        let is_live =
            schema::live(self.state.writer.view().get_meta(Keyspace::Kv, &kv.key, u64::MAX)?)
                .is_some();
        self.versions += 1;
        match kind {
            Kind::Delete if is_live => self.state.writer.delete(Keyspace::Kv, &kv.key, at),
            // What it deleted is compacted.
            Kind::Delete => {}
            Kind::Put => {
                let meta = self.meta_of(row, at, &kv)?.encode(at.main);
                let delta = if is_live { Delta::Zero } else { Delta::Plus };
                self.state.writer.put(Keyspace::Kv, &kv.key, at, delta, meta, &kv.value);
            }
        }
        self.rows_since_commit += 1;
        Ok(())
    }

    fn meta_of(&self, row: &[u8], at: Revision, kv: &KeyValue) -> Result<KeyMeta> {
        let main = at.main.cast_signed();
        let is_sound =
            (1..=main).contains(&kv.create_revision) && kv.mod_revision == main && kv.version >= 1;
        if !is_sound {
            let found = (kv.create_revision, kv.mod_revision, kv.version);
            let expected =
                "1 <= create revision <= modification revision = the row's, version >= 1";
            return Err(Error::row(row, expected, found));
        }
        Ok(KeyMeta {
            create_revision: kv.create_revision.cast_unsigned(),
            version: kv.version.cast_unsigned(),
            lease: if self.unleased.contains(&at) { 0 } else { kv.lease },
        })
    }

    /// Ends the import: attaches keys to leases, and raises the revision by `bump` and compacts
    /// there, if it is not 0. What it made is durable in the engine's directory.
    ///
    /// # Errors
    /// The engine's; a revision beyond what etcd can count.
    pub fn finish(mut self, bump: u64) -> Result<ImportOutcome> {
        auth::restore_state(&mut self.state, self.auth.0, self.auth.1);
        self.commit()?;
        let unleased = self.attach()?;
        if !unleased.is_empty() {
            return Ok(ImportOutcome::Again(unleased));
        }
        let revision = self.last.main.max(self.compacted).max(1);
        let bumped = revision.checked_add(bump).filter(|bumped| i64::try_from(*bumped).is_ok());
        self.state.revision = bumped
            .ok_or_else(|| Error::row(b"(bump)", "a revision below 2^63", (revision, bump)))?;
        self.state.compacted = if bump > 0 { self.state.revision } else { self.compacted };
        self.state.commit()?;
        self.state.writer.freeze()?;
        while self.db.work()? != varve_lsm::db::Work::Idle {}
        let keys = self.db.snapshot().count(Keyspace::Kv, &KeyRange::all(), u64::MAX)?;
        Ok(ImportOutcome::Done(Imported {
            revision: self.state.revision,
            compacted: self.state.compacted,
            keys,
            versions: self.versions,
        }))
    }

    /// Attaches the living keys; gives those whose lease is not there.
    fn attach(&mut self) -> Result<BTreeSet<Revision>> {
        let mut unleased = self.unleased.clone();
        let known = unleased.len();
        let snapshot = self.db.snapshot();
        for entry in snapshot.range(Keyspace::Kv, KeyRange::all(), u64::MAX, Values::Skip) {
            let entry = entry?;
            let lease = LeaseId(KeyMeta::of(&entry)?.lease);
            if lease.0 != 0 && self.state.leases.contains(lease) {
                lease::attach(&mut self.state, lease, &entry.key);
                self.count_row()?;
            } else if lease.0 != 0 {
                unleased.insert(entry.revision);
            }
        }
        Ok(if unleased.len() > known { unleased } else { BTreeSet::new() })
    }

    fn count_row(&mut self) -> Result<()> {
        self.rows_since_commit += 1;
        if self.rows_since_commit >= ROWS_PER_COMMIT { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<()> {
        self.rows_since_commit = 0;
        self.state.revision = self.last.main.max(1);
        self.state.compacted = self.compacted.min(self.state.revision);
        self.state.commit()?;
        while self.db.is_writer_ahead() {
            self.db.work()?;
        }
        Ok(())
    }
}

fn decode<M: Message + Default>(bucket: &str, key: &[u8], value: &[u8]) -> Result<M> {
    M::decode(value).map_err(|error| {
        let row = [bucket.as_bytes(), b"/", key].concat();
        Error::row(&row, "a message of etcd's", error.to_string())
    })
}
