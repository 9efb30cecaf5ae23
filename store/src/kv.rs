//! Puts and deletes: one write transaction over the engine.
//!
//! One idea: everything that a command changes is numbered `{revision, 0}`, `{revision, 1}`, ...
//! with one new revision, which exists only if there was a change. What a change needs to know of
//! the key before it - created when, which version, which lease - is one look-up that touches no
//! value unless the client asked for it.
//!
//! Entries carry a delta so that the engine can count without walking: +1 when the key was not
//! there, 0 when it was; a tombstone (-1) is only ever written for a live key.
//!
//! Invariants:
//! - `changes` is the number of entries written, and of events recorded, by this transaction;
//! - the revision moves by one in [`WriteTxn::end`], if and only if `changes > 0`.

use bytes::Bytes;
use varve_api::error as api;
use varve_api::etcdserverpb::{DeleteRangeResponse, PutRequest, PutResponse, ResponseHeader};
use varve_api::mvccpb::event::EventType;
use varve_api::mvccpb::{Event, KeyValue};
use varve_lsm::db::Values;
use varve_lsm::{Delta, Entry, Keyspace, Revision, Snapshot, trial};

use crate::error::{Outcome, Result};
use crate::lease::{self, LeaseId, LeaseTable};
use crate::range::Reader;
use crate::schema::{self, KeyMeta};
use crate::state::State;

/// A header as the state machine gives it: the revision only.
pub(crate) fn header(revision: u64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: revision.cast_signed(), ..ResponseHeader::default() })
}

/// One write transaction; see the head of the file.
pub(crate) struct WriteTxn<'a> {
    pub state: &'a mut State,
    events: &'a mut Vec<Event>,
    changes: u32,
}

impl<'a> WriteTxn<'a> {
    /// Begins a transaction; events are appended to `events`.
    pub fn begin(state: &'a mut State, events: &'a mut Vec<Event>) -> Self {
        Self { state, events, changes: 0 }
    }

    /// Ends it: the next transaction has a new revision if this one has changed anything.
    pub fn end(self) {
        if self.changes > 0 {
            self.state.revision += 1;
        }
    }

    /// Entries written so far.
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// The revision at which reads see this transaction: the new one once something has changed.
    pub fn current(&self) -> u64 {
        self.state.revision + u64::from(self.changes > 0)
    }

    /// Reads what was committed and what this transaction has changed so far.
    pub fn read<T>(&self, read: impl FnOnce(&Reader<'_>) -> T) -> T {
        let snapshot = self.state.writer.view();
        let compacted = self.state.compacted;
        read(&Reader { snapshot: &snapshot, current: self.current(), compacted })
    }

    /// Puts a key; [`check_put`] has passed.
    pub fn put(&mut self, request: PutRequest) -> Result<PutResponse> {
        let revision = self.state.revision + 1;
        let values =
            if request.prev_kv || request.ignore_value { Values::Load } else { Values::Skip };
        let previous = get_live(&self.state.writer.view(), &request.key, values)?;
        let before = previous.as_ref().map(KeyMeta::of).transpose()?;
        // `ignore_*` without a key can only be met when the same transaction has deleted the key
        // after the check (etcd stops there): nothing to keep, so value and lease are empty.
        let value = match &previous {
            Some(entry) if request.ignore_value => entry.value.clone(),
            _ => request.value,
        };
        let old_lease = before.map_or(0, |meta| meta.lease);
        let lease = if request.ignore_lease { old_lease } else { request.lease };
        let meta = match before {
            Some(meta) => KeyMeta { version: meta.version + 1, lease, ..meta },
            None => KeyMeta { create_revision: revision, version: 1, lease },
        };
        let delta = if before.is_some() { Delta::Zero } else { Delta::Plus };
        let at = Revision { main: revision, sub: self.changes };
        let (writer, key) = (&mut self.state.writer, &request.key);
        writer.put(Keyspace::Kv, key, at, delta, meta.encode(revision), &value);
        self.move_to_lease(key, old_lease, lease);
        self.record(
            EventType::Put,
            KeyValue {
                key: request.key,
                create_revision: meta.create_revision.cast_signed(),
                mod_revision: revision.cast_signed(),
                version: meta.version.cast_signed(),
                value,
                lease,
            },
        );
        let prev_kv = previous.filter(|_| request.prev_kv).map(schema::key_value).transpose()?;
        Ok(PutResponse { header: header(revision), prev_kv })
    }

    /// Deletes the live keys of a range, in key order.
    pub fn delete_range(
        &mut self,
        key: &Bytes,
        range_end: &Bytes,
        wants_previous: bool,
    ) -> Result<DeleteRangeResponse> {
        let values = if wants_previous { Values::Load } else { Values::Skip };
        let entries = self.live_entries(key, range_end, values)?;
        let mut response =
            DeleteRangeResponse { deleted: entries.len() as i64, ..Default::default() };
        for entry in entries {
            let lease = KeyMeta::of(&entry)?.lease;
            self.delete(entry.key.clone(), lease);
            if wants_previous {
                response.prev_kvs.push(schema::key_value(entry)?);
            }
        }
        response.header = header(self.current());
        Ok(response)
    }

    /// The live keys of a range as this transaction sees them. They are gathered before the first
    /// deletion, as the engine promises nothing to an iterator that is written under.
    fn live_entries(&self, key: &Bytes, range_end: &Bytes, values: Values) -> Result<Vec<Entry>> {
        let snapshot = self.state.writer.view();
        if range_end.is_empty() {
            return Ok(get_live(&snapshot, key, values)?.into_iter().collect());
        }
        let Some(range) = schema::key_range(key, range_end) else { return Ok(Vec::new()) };
        let entries = snapshot.range(Keyspace::Kv, range, self.current(), values);
        Ok(entries.collect::<varve_lsm::Result<_>>()?)
    }

    /// Deletes a live key that is attached to `lease` (0: to none).
    fn delete(&mut self, key: Bytes, lease: i64) {
        let revision = self.state.revision + 1;
        let at = Revision { main: revision, sub: self.changes };
        self.state.writer.delete(Keyspace::Kv, &key, at);
        self.move_to_lease(&key, lease, 0);
        let mod_revision = revision.cast_signed();
        self.record(EventType::Delete, KeyValue { key, mod_revision, ..KeyValue::default() });
    }

    fn move_to_lease(&mut self, key: &[u8], from: i64, to: i64) {
        if from == to {
            return;
        }
        if from != 0 && !(to == 0 && trial::has_bug("lease-keeps-key")) {
            lease::detach(self.state, LeaseId(from), key);
        }
        if to != 0 {
            lease::attach(self.state, LeaseId(to), key);
        }
    }

    fn record(&mut self, kind: EventType, kv: KeyValue) {
        self.events.push(Event { r#type: kind as i32, kv: Some(kv), prev_kv: None });
        self.changes += 1;
    }
}

/// What must hold before a put writes: the lease exists, and there is a key whose value or lease
/// can be kept.
pub(crate) fn check_put(
    reader: &Reader<'_>,
    leases: &LeaseTable,
    request: &PutRequest,
) -> Outcome<()> {
    if request.lease != 0 && !leases.contains(LeaseId(request.lease)) {
        return Err(api::LEASE_NOT_FOUND.into());
    }
    if request.ignore_value || request.ignore_lease {
        let previous = get_live(reader.snapshot, &request.key, Values::Skip)?;
        previous.ok_or(api::KEY_NOT_FOUND)?;
    }
    Ok(())
}

/// The newest version of a key, if it is live.
fn get_live(snapshot: &Snapshot, key: &[u8], values: Values) -> Result<Option<Entry>> {
    let entry = match values {
        Values::Load => snapshot.get(Keyspace::Kv, key, u64::MAX)?,
        Values::Skip => snapshot.get_meta(Keyspace::Kv, key, u64::MAX)?,
    };
    Ok(schema::live(entry))
}
