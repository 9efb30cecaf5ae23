//! Leases: a time-to-live and the keys attached to it. No clock here.
//!
//! One idea: a lease is rows (`lease/`, `lease_left/`, `lease_key/`) mirrored by [`LeaseTable`]; which a
//! key is attached to stands in the key's own meta; nothing looks up the way from key to lease.
//! Whoever owns a clock learns of grants and revocations by [`LeaseChange`] and lets a lease end by
//! proposing its revocation.
//!
//! A *checkpoint* says how much of its time a lease has left, so that a new leader need not start it
//! afresh. The leader proposes it; a renewal takes it back.
//!
//! Invariant: a live key's meta names lease L != 0 if and only if L is in the table with that key.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use varve_api::error as api;
use varve_api::etcdserverpb::{
    LeaseCheckpointRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest,
    LeaseRevokeResponse,
};
use varve_lsm::{Delta, Snapshot};

use crate::error::{Error, Outcome, Result};
use crate::kv::{self, WriteTxn};
use crate::schema::{self, LEASE_KEY_PREFIX, LEASE_LEFT_PREFIX, LEASE_PREFIX};
use crate::state::{self, State};
use crate::validate;

/// A lease's id; never 0, which means "no lease". Negative ids are legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// What an entry did to leases, for whoever owns the clock. In the order of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// The lease is there from now on.
    Granted {
        /// Its id.
        id: LeaseId,
        /// Its granted time-to-live in seconds.
        ttl_seconds: i64,
    },
    /// The lease was checkpointed: a new leader starts it with this.
    Checkpointed {
        /// Its id.
        id: LeaseId,
        /// What it has left, in seconds; its whole time if the checkpoint was taken back.
        left_seconds: i64,
    },
    /// The lease and its keys are gone.
    Revoked {
        /// Its id.
        id: LeaseId,
    },
}

/// A lease as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Granted time-to-live in seconds.
    pub ttl_seconds: i64,
    /// The attached keys, in key order.
    pub keys: Vec<Bytes>,
}

/// All leases. Keys are copies of their own: a slice of a log entry would keep the entry in memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaseTable {
    leases: BTreeMap<LeaseId, Lease>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Lease {
    ttl_seconds: i64,
    /// If there is a checkpoint.
    left_seconds: Option<i64>,
    keys: BTreeSet<Box<[u8]>>,
}

impl LeaseTable {
    /// Reads all leases and their keys.
    pub fn load(snapshot: &Snapshot) -> Result<Self> {
        let mut table = Self::default();
        state::for_each_row(snapshot, LEASE_PREFIX, |row, value| {
            let id = LeaseId(schema::row_id(LEASE_PREFIX, row)?.cast_signed());
            let ttl_seconds = schema::decode_number(row, value)?.cast_signed();
            table.leases.insert(id, Lease { ttl_seconds, ..Lease::default() });
            Ok(())
        })?;
        state::for_each_row(snapshot, LEASE_LEFT_PREFIX, |row, value| {
            let id = LeaseId(schema::row_id(LEASE_LEFT_PREFIX, row)?.cast_signed());
            let lease = table.leases.get_mut(&id);
            let lease = lease.ok_or_else(|| Error::row(row, "a lease with a row", id))?;
            lease.left_seconds = Some(schema::decode_number(row, value)?.cast_signed());
            Ok(())
        })?;
        state::for_each_row(snapshot, LEASE_KEY_PREFIX, |row, _| {
            let (id, key) = schema::attachment(row)?;
            let lease = table.leases.get_mut(&id);
            let lease = lease.ok_or_else(|| Error::row(row, "a lease with a row", id))?;
            lease.keys.insert(key.as_ref().into());
            Ok(())
        })?;
        Ok(table)
    }

    /// Whether there is such a lease.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// The keys of a lease, in order; none if there is no such lease.
    pub fn keys(&self, id: LeaseId) -> impl Iterator<Item = &[u8]> {
        let lease = self.leases.get(&id);
        lease.into_iter().flat_map(|lease| lease.keys.iter().map(AsRef::as_ref))
    }

    /// All attachments, by lease and key.
    pub fn attachments(&self) -> impl Iterator<Item = (LeaseId, &[u8])> {
        self.leases.iter().flat_map(|(id, lease)| lease.keys.iter().map(|key| (*id, key.as_ref())))
    }
}

/// Attaches a key that is attached to no lease.
pub(crate) fn attach(state: &mut State, id: LeaseId, key: &[u8]) {
    let lease = state.leases.leases.get_mut(&id);
    let lease = lease.unwrap_or_else(|| panic!("{id:?} was there when the put was checked"));
    let is_new = lease.keys.insert(key.into());
    assert!(is_new, "{} is attached to {id:?} already", key.escape_ascii());
    state.put_row(&schema::lease_key_row(id, key), Delta::Plus, b"");
}

/// Detaches a key from the lease that its meta names.
pub(crate) fn detach(state: &mut State, id: LeaseId, key: &[u8]) {
    let was_there = state.leases.leases.get_mut(&id).is_some_and(|lease| lease.keys.remove(key));
    assert!(was_there, "{} names {id:?} and is not attached to it", key.escape_ascii());
    state.delete_row(&schema::lease_key_row(id, key));
}

/// Adds a lease that is not there.
pub(crate) fn add(state: &mut State, id: LeaseId, ttl_seconds: i64) {
    let lease = Lease { ttl_seconds, ..Lease::default() };
    let replaced = state.leases.leases.insert(id, lease);
    assert!(replaced.is_none(), "{id:?} was there");
    let value = schema::encode_number(ttl_seconds.cast_unsigned());
    state.put_row(&schema::lease_row(id), Delta::Plus, &value);
}

/// Applies a `LeaseGrant`; id and TTL are final.
pub(crate) fn grant(
    state: &mut State,
    request: &LeaseGrantRequest,
    changes: &mut Vec<LeaseChange>,
) -> Outcome<LeaseGrantResponse> {
    let id = LeaseId(request.id);
    if id.0 == 0 {
        return Err(api::LEASE_NOT_FOUND.into());
    }
    validate::lease_grant(request)?;
    if state.leases.contains(id) {
        return Err(api::LEASE_EXIST.into());
    }
    let ttl_seconds = request.ttl;
    add(state, id, ttl_seconds);
    changes.push(LeaseChange::Granted { id, ttl_seconds });
    Ok(LeaseGrantResponse {
        header: kv::header(state.revision),
        id: id.0,
        ttl: ttl_seconds,
        error: String::new(),
    })
}

/// Applies a `LeaseCheckpoint`: of the leases that are there. One that would have its whole time left,
/// or nothing, has no checkpoint.
pub(crate) fn checkpoint(
    state: &mut State,
    request: &LeaseCheckpointRequest,
    changes: &mut Vec<LeaseChange>,
) {
    for checkpoint in &request.checkpoints {
        let id = LeaseId(checkpoint.id);
        let Some(lease) = state.leases.leases.get_mut(&id) else { continue };
        let range = 1..lease.ttl_seconds;
        let left = Some(checkpoint.remaining_ttl).filter(|left| range.contains(left));
        let left_seconds = left.unwrap_or(lease.ttl_seconds);
        let before = std::mem::replace(&mut lease.left_seconds, left);
        let row = schema::lease_left_row(id);
        match (before, left) {
            (None, None) => {}
            (Some(_), None) => state.delete_row(&row),
            (None, Some(left)) => {
                state.put_row(&row, Delta::Plus, &schema::encode_number(left.cast_unsigned()));
            }
            (Some(_), Some(left)) => {
                state.put_row(&row, Delta::Zero, &schema::encode_number(left.cast_unsigned()));
            }
        }
        changes.push(LeaseChange::Checkpointed { id, left_seconds });
    }
}

/// Applies a `LeaseRevoke`: the keys go in key order and in one revision; none when there is no
/// key.
pub(crate) fn revoke(
    state: &mut State,
    request: &LeaseRevokeRequest,
    events: &mut Vec<varve_api::mvccpb::Event>,
    changes: &mut Vec<LeaseChange>,
) -> Outcome<LeaseRevokeResponse> {
    let id = LeaseId(request.id);
    let lease = state.leases.leases.get(&id).ok_or(api::LEASE_NOT_FOUND)?;
    let keys: Vec<Bytes> = lease.keys.iter().map(|key| Bytes::copy_from_slice(key)).collect();
    let mut txn = WriteTxn::begin(state, events);
    for key in keys {
        let deleted = txn.delete_range(&key, &Bytes::new(), false)?.deleted;
        assert_eq!(deleted, 1, "{} is attached to {id:?} and not live", key.escape_ascii());
    }
    txn.end();
    let lease = state.leases.leases.remove(&id);
    let lease = lease.unwrap_or_else(|| panic!("{id:?} was there a moment ago"));
    assert!(lease.keys.is_empty(), "{id:?} has lost its keys");
    if lease.left_seconds.is_some() {
        state.delete_row(&schema::lease_left_row(id));
    }
    state.delete_row(&schema::lease_row(id));
    changes.push(LeaseChange::Revoked { id });
    Ok(LeaseRevokeResponse { header: kv::header(state.revision) })
}
