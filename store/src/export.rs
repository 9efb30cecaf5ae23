//! The whole state in etcd's rows, for a backup that real etcd can read.
//!
//! One idea: a pinned snapshot is immutable, so the rows can be given out as often as one likes and
//! are the same every time; nobody waits for it, and it waits for nobody. All versions above the
//! compacted revision come with their numbers within a revision; of the older ones those that a
//! compaction keeps, and a deletion at that very revision.
//!
//! Invariant: buckets come by name and rows by key, both in the order of their bytes.

use std::collections::BTreeSet;

use prost::Message;
use varve_api::etcdserverpb::AlarmMember;
use varve_api::mvccpb::KeyValue;
use varve_lsm::{Db, KeyRange, Kind, Revision, Snapshot};

use crate::error::{Error, Result};
use crate::etcd_rows::{self, LeaseRow};
use crate::mark::Mark;
use crate::member::{self, Member};
use crate::schema::{self, LEASE_PREFIX, ROLE_PREFIX, USER_PREFIX};
use crate::version::Release;
use crate::{alarm, auth, hash, state, version};

/// Where the rows go.
pub trait RowSink {
    /// Why it takes no more.
    type Error: From<Error>;

    /// Begins a bucket.
    ///
    /// # Errors
    /// The sink's own.
    fn bucket(&mut self, name: &str) -> std::result::Result<(), Self::Error>;

    /// A row of the bucket.
    ///
    /// # Errors
    /// The sink's own.
    fn row(&mut self, key: &[u8], value: &[u8]) -> std::result::Result<(), Self::Error>;
}

/// A pinned state that can be written out.
pub struct Export {
    snapshot: Snapshot,
    release: Release,
}

impl Export {
    /// Pins what is committed. `release` is the cluster's while no downgrade is under way.
    pub(crate) fn new(db: &Db, release: Release) -> Result<Self> {
        let snapshot = db.snapshot();
        let release = version::load(&snapshot)?.unwrap_or(release);
        Ok(Self { snapshot, release })
    }

    /// The version that the rows tell of themselves, as in 3.7.0.
    pub fn storage_version(&self) -> String {
        format!("{}.0", self.release)
    }

    /// The newest revision in it.
    pub fn revision(&self) -> u64 {
        self.snapshot.visible()
    }

    /// Gives out all rows. Reads everything.
    ///
    /// # Errors
    /// Those of the engine and of the sink.
    pub fn write<S: RowSink>(&self, sink: &mut S) -> std::result::Result<(), S::Error> {
        let members: Vec<Member> = member::load(&self.snapshot)?.into_values().collect();
        self.write_alarms(sink)?;
        self.write_auth(sink)?;
        self.write_cluster(sink)?;
        self.write_versions(sink)?;
        self.write_leases(sink)?;
        write_members(&members, &member::load_removed(&self.snapshot)?, sink)?;
        self.write_meta(&members, sink)
    }

    fn write_alarms<S: RowSink>(&self, sink: &mut S) -> std::result::Result<(), S::Error> {
        let alarms = alarm::load(&self.snapshot)?.into_iter();
        let row = |alarm: alarm::Alarm| {
            AlarmMember { member_id: alarm.member_id, alarm: alarm.kind }.encode_to_vec()
        };
        let mut rows: Vec<Vec<u8>> = alarms.map(row).collect();
        rows.sort();
        sink.bucket(etcd_rows::ALARM)?;
        rows.iter().try_for_each(|row| sink.row(row, b""))
    }

    fn write_auth<S: RowSink>(&self, sink: &mut S) -> std::result::Result<(), S::Error> {
        let auth = auth::load(&self.snapshot)?;
        sink.bucket(etcd_rows::AUTH)?;
        sink.row(etcd_rows::AUTH_ENABLED, &[u8::from(auth.is_enabled())])?;
        sink.row(etcd_rows::AUTH_REVISION, &auth.revision().to_be_bytes())?;
        let buckets = [(etcd_rows::AUTH_ROLES, ROLE_PREFIX), (etcd_rows::AUTH_USERS, USER_PREFIX)];
        for (bucket, prefix) in buckets {
            sink.bucket(bucket)?;
            let mut taken = Ok(());
            auth::for_each_message(&self.snapshot, prefix, |name, message| {
                if taken.is_ok() {
                    taken = sink.row(name, message);
                }
            })?;
            taken?;
        }
        Ok(())
    }

    fn write_cluster<S: RowSink>(&self, sink: &mut S) -> std::result::Result<(), S::Error> {
        let target =
            version::load(&self.snapshot)?.map_or_else(String::new, |to| format!("{to}.0"));
        let downgrade =
            serde_json::json!({ "target-version": target, "enabled": !target.is_empty() });
        sink.bucket(etcd_rows::CLUSTER)?;
        sink.row(b"clusterVersion", self.storage_version().as_bytes())?;
        sink.row(b"downgrade", downgrade.to_string().as_bytes())
    }

    fn write_versions<S: RowSink>(&self, sink: &mut S) -> std::result::Result<(), S::Error> {
        let (snapshot, compacted) = (&self.snapshot, self.snapshot.compacted());
        let mut message = Vec::new();
        sink.bucket(etcd_rows::KEY)?;
        for entry in snapshot.history(KeyRange::all(), 0, snapshot.visible()) {
            let entry = entry.map_err(Error::from)?;
            let (at, kind) = (entry.revision, entry.kind);
            // Deletions at the compacted revision: a watcher that begins there is told of them.
            let is_wanted = at.main > compacted
                || (at.main == compacted && kind == Kind::Delete)
                || hash::is_kept(snapshot, &entry, compacted)?;
            if !is_wanted {
                continue;
            }
            let key_value = match kind {
                Kind::Put => schema::key_value(entry)?,
                Kind::Delete => KeyValue { key: entry.key, ..KeyValue::default() },
            };
            message.clear();
            key_value.encode(&mut message).expect("a vector has room");
            sink.row(&etcd_rows::version_key(at, kind), &message)?;
        }
        Ok(())
    }

    fn write_leases<S: RowSink>(&self, sink: &mut S) -> std::result::Result<(), S::Error> {
        sink.bucket(etcd_rows::LEASE)?;
        let mut taken = Ok(());
        state::for_each_row(&self.snapshot, LEASE_PREFIX, |row, value| {
            let id = schema::row_id(LEASE_PREFIX, row)?;
            let ttl_seconds = schema::decode_number(row, value)?.cast_signed();
            let lease = LeaseRow { id: id.cast_signed(), ttl_seconds, remaining_seconds: 0 };
            if taken.is_ok() {
                taken = sink.row(&id.to_be_bytes(), &lease.encode_to_vec());
            }
            Ok(())
        })?;
        taken
    }

    fn write_meta<S: RowSink>(
        &self,
        members: &[Member],
        sink: &mut S,
    ) -> std::result::Result<(), S::Error> {
        let mark = Mark::decode(self.snapshot.mark())?;
        let compacted = Revision { main: self.snapshot.compacted(), sub: 0 };
        sink.bucket(etcd_rows::META)?;
        sink.row(b"confState", conf_state(members).to_string().as_bytes())?;
        sink.row(b"consistent_index", &mark.index.to_be_bytes())?;
        if compacted.main > 0 {
            sink.row(etcd_rows::FINISHED_COMPACTION, &etcd_rows::revision(compacted))?;
            sink.row(etcd_rows::SCHEDULED_COMPACTION, &etcd_rows::revision(compacted))?;
        }
        sink.row(b"storageVersion", self.storage_version().as_bytes())?;
        sink.row(b"term", &mark.term.to_be_bytes())
    }
}

fn write_members<S: RowSink>(
    members: &[Member],
    removed: &BTreeSet<u64>,
    sink: &mut S,
) -> std::result::Result<(), S::Error> {
    let row = |member: &Member| (format!("{:x}", member.id), member_json(member).to_string());
    let mut rows: Vec<(String, String)> = members.iter().map(row).collect();
    rows.sort();
    sink.bucket(etcd_rows::MEMBERS)?;
    for (id, json) in rows {
        sink.row(id.as_bytes(), json.as_bytes())?;
    }
    sink.bucket(etcd_rows::MEMBERS_REMOVED)?;
    let mut removed: Vec<String> = removed.iter().map(|id| format!("{id:x}")).collect();
    removed.sort();
    for id in removed {
        sink.row(id.as_bytes(), etcd_rows::REMOVED)?;
    }
    Ok(())
}

fn member_json(member: &Member) -> serde_json::Value {
    let mut json = serde_json::json!({
        "id": member.id,
        "peerURLs": member.peer_urls,
        "name": member.name,
        "clientURLs": member.client_urls,
    });
    if member.is_learner {
        json["isLearner"] = true.into();
    }
    json
}

/// Raft's members in the JSON of etcd's.
fn conf_state(members: &[Member]) -> serde_json::Value {
    let ids = |are_learners: bool| -> Vec<u64> {
        let some = members.iter().filter(|member| member.is_learner == are_learners);
        some.map(|member| member.id).collect()
    };
    let mut json = serde_json::json!({ "voters": ids(false), "auto_leave": false });
    let learners = ids(true);
    if !learners.is_empty() {
        json["learners"] = learners.into();
    }
    json
}
