//! The reading side: what is committed, at any revision that is not compacted.
//!
//! One idea: every call takes its own snapshot of the engine (two atomic loads), so a view is as cheap
//! to keep as a pointer and pins nothing between calls. Readers never wait for the writer.
//!
//! All errors are [`Status`]: what the client hears. A read that fails in the engine is `DataLoss`.

use bytes::Bytes;
use varve_api::Status;
use varve_api::etcdserverpb::{RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use varve_api::mvccpb::KeyValue;
use varve_lsm::db::Sizes;

use crate::history::Events;
use crate::lease::{LeaseId, LeaseInfo};
use crate::member::Member;
use crate::stream::RangeStream;

/// Reads of committed state; cheap to clone, used from any thread.
#[derive(Clone)]
pub struct View {
    db: varve_lsm::Db,
}

impl View {
    /// The newest revision that readers see; at least 1.
    pub fn revision(&self) -> i64 {
        todo!()
    }

    /// The compacted revision: older ones have no answer. 0 when never compacted.
    pub fn compacted(&self) -> i64 {
        todo!()
    }

    /// Answers a `Range` that passed [`crate::validate::range`]. The header has only the revision:
    /// the current one, whatever was asked for.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        let _ = request;
        todo!()
    }

    /// Answers a transaction for which [`crate::validate::is_read_only`] holds, at one revision.
    pub fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        let _ = request;
        todo!()
    }

    /// Answers a `RangeStream` in chunks of about `chunk_bytes_max` bytes at one revision. Header,
    /// `more` and `count` come with the last chunk only.
    pub fn range_stream(
        &self,
        request: RangeRequest,
        chunk_bytes_max: usize,
    ) -> Result<RangeStream, Status> {
        let _ = (request, chunk_bytes_max);
        todo!()
    }

    /// The changes of a range of keys with `from_revision <= mod_revision <= to_revision`, in
    /// revision order, without `prev_kv`. `range_end` as in requests: empty is one key, one zero byte
    /// is no upper bound. The snapshot is pinned until the iterator is dropped.
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
        let _ = (key, range_end, from_revision, to_revision);
        todo!()
    }

    /// What `key` was before the change at `mod_revision`: a watcher's `prev_kv`. `None` when it was
    /// not there or is compacted.
    pub fn previous(&self, key: &[u8], mod_revision: i64) -> Result<Option<KeyValue>, Status> {
        let _ = (key, mod_revision);
        todo!()
    }

    /// The members, by id.
    pub fn members(&self) -> Result<Vec<Member>, Status> {
        todo!()
    }

    /// All leases with their granted time-to-live in seconds, by id.
    pub fn leases(&self) -> Result<Vec<(LeaseId, i64)>, Status> {
        todo!()
    }

    /// One lease and its keys; `None` when there is no such lease.
    pub fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>, Status> {
        let _ = id;
        todo!()
    }

    /// Sizes of the engine, for metrics and quotas.
    pub fn db_sizes(&self) -> Sizes {
        self.db.sizes()
    }
}
