//! Hashes of the data, by which members find out that they differ.
//!
//! One idea: what is hashed is what etcd hashes, in its bytes: every version up to a revision, in
//! revision order, each as etcd's key (`main`, `_`, `sub`, and `t` for a deletion) and its
//! `KeyValue` message. So two members, however their files lie, and even an etcd with the same
//! history, have the same hash. Of the versions at or below the compacted revision those count
//! that a compaction at the hashed revision would keep: when each member drops the others is its
//! own affair.
//!
//! The scenario `hash_covers_what_every_member_must_have` has the numbers that etcd 3.7.1 gave for
//! the same commands.
//!
//! What it does not do: compare. Reads everything: not for a socket thread.

use bytes::BytesMut;
use prost::Message;
use varve_api::error as api;
use varve_api::mvccpb::KeyValue;
use varve_lsm::db::Values;
use varve_lsm::{Entry, KeyRange, Keyspace, Kind, Snapshot};

use crate::crc32c::Crc32c;
use crate::error::{Outcome, Result};
use crate::{compact, etcd_rows, schema};

/// The hash of all keys at a revision, as `HashKV` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// CRC-32C.
    pub hash: u32,
    /// The revision that was hashed.
    pub hash_revision: i64,
    /// The compacted revision, -1 when never compacted: hashes are comparable only if it is equal.
    pub compact_revision: i64,
    /// The newest revision.
    pub current_revision: i64,
}

/// What the bucket of keys is called in etcd; the first bytes hashed.
const KEY_BUCKET: &[u8] = b"key";

/// The hash at `revision`; 0 is the newest.
pub(crate) fn hash_kv(snapshot: &Snapshot, revision: i64) -> Outcome<KvHash> {
    let (crc, hash) = begin(snapshot, revision)?;
    Ok(KvHash { hash: crc.finish(), ..hash })
}

/// A hash of everything that is replicated, at the newest revision.
pub(crate) fn hash_all(snapshot: &Snapshot) -> Outcome<KvHash> {
    let (mut crc, hash) = begin(snapshot, 0)?;
    for entry in snapshot.range(Keyspace::Sys, KeyRange::all(), u64::MAX, Values::Load) {
        let entry = entry?;
        crc.update(&entry.key);
        crc.update(&entry.value);
    }
    Ok(KvHash { hash: crc.finish(), ..hash })
}

fn begin(snapshot: &Snapshot, revision: i64) -> Outcome<(Crc32c, KvHash)> {
    let current = snapshot.visible();
    let compact_revision = compact::floor(snapshot.compacted());
    if revision > 0 && revision < compact_revision {
        return Err(api::COMPACTED.into());
    }
    if revision > current.cast_signed() {
        return Err(api::FUTURE_REV.into());
    }
    // Of a negative revision nothing is hashed, as in etcd.
    let at = match revision {
        0 => current,
        _ => u64::try_from(revision).unwrap_or(0),
    };
    let mut crc = Crc32c::new();
    crc.update(KEY_BUCKET);
    add_versions(&mut crc, snapshot, at)?;
    let hash = KvHash {
        hash: 0,
        hash_revision: if revision < 0 { revision } else { at.cast_signed() },
        compact_revision,
        current_revision: current.cast_signed(),
    };
    Ok((crc, hash))
}

fn add_versions(crc: &mut Crc32c, snapshot: &Snapshot, at: u64) -> Result<()> {
    let compacted = snapshot.compacted();
    // etcd keeps by the index at the hashed revision, or all that is still there if nothing lives
    // at that revision; what is still there is then what lived at the compacted one.
    let is_empty = snapshot.count(Keyspace::Kv, &KeyRange::all(), at)? == 0;
    let keeps_at = if is_empty { compacted } else { at };
    let mut message = BytesMut::new();
    for entry in snapshot.history(KeyRange::all(), 0, at) {
        let entry = entry?;
        if entry.revision.main > compacted || is_kept(snapshot, &entry, keeps_at)? {
            add_version(crc, entry, &mut message)?;
        }
    }
    Ok(())
}

/// Whether a version is what its key is at revision `at`, and no deletion.
pub(crate) fn is_kept(snapshot: &Snapshot, entry: &Entry, at: u64) -> Result<bool> {
    if entry.kind == Kind::Delete {
        return Ok(false);
    }
    let newest = snapshot.get_meta(Keyspace::Kv, &entry.key, at)?;
    Ok(newest.is_some_and(|newest| newest.revision == entry.revision))
}

fn add_version(crc: &mut Crc32c, entry: Entry, message: &mut BytesMut) -> Result<()> {
    let key = etcd_rows::version_key(entry.revision, entry.kind);
    let key_value = match entry.kind {
        Kind::Put => schema::key_value(entry)?,
        Kind::Delete => KeyValue { key: entry.key, ..KeyValue::default() },
    };
    crc.update(&key);
    message.clear();
    key_value.encode(message).expect("the buffer grows");
    crc.update(message);
    Ok(())
}
