//! The reading side: what is committed, at any revision that is not compacted.
//!
//! One idea: every call takes its own snapshot of the engine (two atomic loads), so a view is as
//! cheap to keep as a pointer and pins nothing between calls. Readers never wait for the writer.
//!
//! All errors are [`Status`]: what the client hears. A read that fails in the engine is `DataLoss`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use varve_api::error as api;
use varve_api::etcdserverpb::{RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use varve_api::mvccpb::KeyValue;
use varve_api::{ApiError, Status};
use varve_lsm::db::Sizes;
use varve_lsm::{Db, Keyspace, trial};

use crate::alarm::{self, Alarm};
use crate::auth::Auth;
use crate::error::{Error, Failure, Outcome, Result as FatalResult};
use crate::export::Export;
use crate::hash::{self, KvHash};
use crate::history::Events;
use crate::lease::{LeaseId, LeaseInfo};
use crate::member::{self, Member};
use crate::range::{Count, Reader};
use crate::stream::RangeStream;
use crate::version::{self, Release};
use crate::{schema, state, txn, validate};

/// Reads of committed state; cheap to clone, used from any thread.
#[derive(Clone)]
pub struct View {
    db: Db,
    auth: Arc<ArcSwap<Auth>>,
}

impl View {
    /// A view of an engine that holds a state machine.
    pub(crate) fn new(db: Db, auth: Arc<ArcSwap<Auth>>) -> Self {
        Self { db, auth }
    }

    /// Whether anybody is asked who they are.
    pub fn is_auth_enabled(&self) -> bool {
        self.auth.load().is_enabled()
    }

    /// Users and roles.
    pub fn auth(&self) -> Arc<Auth> {
        self.auth.load_full()
    }

    /// Reads what `may` permits, and only if users are still the same when it has been read. (A
    /// change of users is published before the data of its entry, or snapshot.)
    ///
    /// # Errors
    /// Those of `may` and of `read`; `AUTH_OLD_REVISION` when users have changed meanwhile.
    pub fn judged<T>(
        &self,
        may: impl FnOnce(&Auth) -> Result<(), ApiError>,
        read: impl FnOnce() -> Result<T, Status>,
    ) -> Result<T, Status> {
        let auth = self.auth.load();
        may(&auth)?;
        let found = read()?;
        self.confirm(&auth)?;
        Ok(found)
    }

    /// Whether what was judged by `auth`, and then read, may be told.
    ///
    /// # Errors
    /// `AUTH_OLD_REVISION` when users have changed meanwhile, or authentication was turned on.
    pub fn confirm(&self, auth: &Auth) -> Result<(), ApiError> {
        // Turning it on makes no new auth revision.
        let judged_by = |auth: &Auth| auth.is_enabled().then(|| auth.revision());
        let is_same = judged_by(auth) == judged_by(&self.auth.load());
        if is_same { Ok(()) } else { Err(api::AUTH_OLD_REVISION) }
    }

    /// The newest revision that readers see; at least 1.
    pub fn revision(&self) -> i64 {
        self.db.snapshot().visible().cast_signed()
    }

    /// The compacted revision: older ones have no answer. 0 when never compacted.
    pub fn compacted(&self) -> i64 {
        self.db.snapshot().compacted().cast_signed()
    }

    /// Answers a `Range` that passed [`crate::validate::range`]. The header has only the revision:
    /// the current one, whatever was asked for.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        let snapshot = self.db.snapshot();
        Ok(Reader::committed(&snapshot).range(request, Count::All)?)
    }

    /// As [`View::range`], for a thread that must not wait for the disk: `None` if a value of the
    /// answer is not in memory.
    pub fn range_of_residents(
        &self,
        request: &RangeRequest,
    ) -> Result<Option<RangeResponse>, Status> {
        let snapshot = self.db.snapshot_of_residents();
        unless_elsewhere(Reader::committed(&snapshot).range(request, Count::All))
    }

    /// Answers a transaction for which [`crate::validate::is_read_only`] holds, at one revision.
    pub fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        assert!(validate::is_read_only(request), "a transaction that writes goes through the log");
        let snapshot = self.db.snapshot();
        Ok(txn::read(&Reader::committed(&snapshot), request)?)
    }

    /// As [`View::txn`], for a thread that must not wait for the disk: `None` if a value of the
    /// answer is not in memory.
    pub fn txn_of_residents(&self, request: &TxnRequest) -> Result<Option<TxnResponse>, Status> {
        assert!(validate::is_read_only(request), "a transaction that writes goes through the log");
        let snapshot = self.db.snapshot_of_residents();
        unless_elsewhere(txn::read(&Reader::committed(&snapshot), request))
    }

    /// Answers a `RangeStream` in chunks of about `chunk_bytes_max` bytes (they may be up to twice
    /// as large, or hold one key) at one revision. Header, `more` and `count` come with the last
    /// chunk only.
    ///
    /// # Errors
    /// Those of [`crate::validate::range_stream`] at once; those of reading with the chunk that
    /// meets them, `COMPACTED` perhaps in the middle.
    pub fn range_stream(
        &self,
        request: RangeRequest,
        chunk_bytes_max: usize,
    ) -> Result<RangeStream, Status> {
        validate::range_stream(&request)?;
        Ok(RangeStream::new(self.db.clone(), request, chunk_bytes_max))
    }

    /// The changes of a range of keys with `from_revision <= mod_revision <= to_revision`, in
    /// revision order, without `prev_kv`. `range_end` as in requests: empty is one key, one zero
    /// byte is no upper bound. The snapshot is pinned until the iterator is dropped.
    ///
    /// # Errors
    /// `COMPACTED` when `from_revision` is below the compacted revision.
    pub fn history(
        &self,
        key: &Bytes,
        range_end: &Bytes,
        from_revision: i64,
        to_revision: i64,
    ) -> Result<Events, Status> {
        let snapshot = self.db.snapshot();
        let from = from_revision.max(0).cast_unsigned();
        let to = to_revision.max(0).cast_unsigned().min(snapshot.visible());
        if from < snapshot.compacted() && !trial::has_bug("history-of-what-is-gone") {
            return Err(api::COMPACTED.into());
        }
        let range = schema::key_range(key, range_end).filter(|_| from <= to);
        Ok(Events::new(range.map(|range| snapshot.history(range, from, to))))
    }

    /// The hash of all keys at `revision`; 0 is the newest. Reads everything.
    ///
    /// # Errors
    /// `COMPACTED` and `FUTURE_REV`.
    pub fn hash_kv(&self, revision: i64) -> Result<KvHash, Status> {
        Ok(hash::hash_kv(&self.db.snapshot(), revision)?)
    }

    /// The hash of all that is replicated, users' keys and everything else. Reads everything.
    pub fn hash(&self) -> Result<KvHash, Status> {
        Ok(hash::hash_all(&self.db.snapshot())?)
    }

    /// All that is replicated, pinned, to be written out in etcd's rows. `release` is what the
    /// cluster passes for while no downgrade is under way.
    pub fn export(&self, release: Release) -> Result<Export, Status> {
        Ok(Export::new(&self.db, release)?)
    }

    /// What `key` was before the change at `mod_revision`: a watcher's `prev_kv`. `None` when it
    /// was not there or is compacted.
    pub fn previous(&self, key: &[u8], mod_revision: i64) -> Result<Option<KeyValue>, Status> {
        let snapshot = self.db.snapshot();
        let at = mod_revision.saturating_sub(1);
        if at < 1 || at < snapshot.compacted().cast_signed() {
            return Ok(None);
        }
        let read = || -> FatalResult<Option<KeyValue>> {
            let entry = snapshot.get(Keyspace::Kv, key, at.cast_unsigned())?;
            schema::live(entry).map(schema::key_value).transpose()
        };
        Ok(read()?)
    }

    /// The members, by id.
    pub fn members(&self) -> Result<Vec<Member>, Status> {
        Ok(member::load(&self.db.snapshot())?.into_values().collect())
    }

    /// The release that the cluster goes back to, if it does.
    pub fn downgrade(&self) -> Result<Option<Release>, Status> {
        Ok(version::load(&self.db.snapshot())?)
    }

    /// The alarms, by kind and member.
    pub fn alarms(&self) -> Result<Vec<Alarm>, Status> {
        Ok(alarm::load(&self.db.snapshot())?.into_iter().collect())
    }

    /// The leases that have a checkpoint, and the seconds that they had left, by id.
    pub fn lease_checkpoints(&self) -> Result<Vec<(LeaseId, i64)>, Status> {
        self.lease_numbers(schema::LEASE_LEFT_PREFIX)
    }

    /// Whether this was a member once and is none any more.
    pub fn is_removed_member(&self, id: u64) -> Result<bool, Status> {
        Ok(member::load_removed(&self.db.snapshot())?.contains(&id))
    }

    /// All leases with their granted time-to-live in seconds, by id (negative ones last).
    pub fn leases(&self) -> Result<Vec<(LeaseId, i64)>, Status> {
        self.lease_numbers(schema::LEASE_PREFIX)
    }

    fn lease_numbers(&self, prefix: &[u8]) -> Result<Vec<(LeaseId, i64)>, Status> {
        let mut leases = Vec::new();
        state::for_each_row(&self.db.snapshot(), prefix, |row, value| {
            let id = schema::row_id(prefix, row)?;
            let seconds = schema::decode_number(row, value)?;
            leases.push((LeaseId(id.cast_signed()), seconds.cast_signed()));
            Ok(())
        })?;
        Ok(leases)
    }

    /// One lease and its keys; `None` when there is no such lease.
    pub fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>, Status> {
        let read = || -> Outcome<Option<LeaseInfo>> {
            let snapshot = self.db.snapshot();
            let row = schema::lease_row(id);
            let Some(entry) = schema::live(snapshot.get(Keyspace::Sys, &row, u64::MAX)?) else {
                return Ok(None);
            };
            let ttl_seconds = schema::decode_number(&row, &entry.value)?.cast_signed();
            let mut keys = Vec::new();
            state::for_each_row(&snapshot, &schema::lease_keys_prefix(id), |row, _| {
                keys.push(schema::attachment(row)?.1);
                Ok::<(), Error>(())
            })?;
            Ok(Some(LeaseInfo { ttl_seconds, keys }))
        };
        Ok(read()?)
    }

    /// Sizes of the engine, for metrics and quotas.
    pub fn db_sizes(&self) -> Sizes {
        self.db.sizes()
    }

    /// How far the writer is ahead of background work: 1 is as far as it may be.
    pub fn db_pressure(&self) -> f64 {
        self.db.pressure()
    }
}

/// `None` for an answer that needs a value which is not in memory.
fn unless_elsewhere<T>(outcome: Outcome<T>) -> Result<Option<T>, Status> {
    match outcome {
        Ok(response) => Ok(Some(response)),
        Err(Failure::Fatal(Error::Engine(varve_lsm::Error::NotResident))) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}
