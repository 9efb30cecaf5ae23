//! The only writer.

use std::path::Path;

use bytes::Bytes;
use varve_api::Status;
use varve_api::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, LeaseGrantResponse, LeaseRevokeResponse, PutResponse,
    TxnResponse,
};
use varve_api::mvccpb::Event;

use crate::command::RequestId;
use crate::error::Result;
use crate::lease::LeaseChange;
use crate::mark::Mark;
use crate::member::{Founding, Member};
use crate::view::View;

/// The state machine; owned by the apply thread.
pub struct Store {
    db: varve_lsm::Db,
    writer: varve_lsm::Writer,
}

/// What one entry did.
#[derive(Debug, Default)]
pub struct Applied {
    /// One reply for each command, in their order.
    pub replies: Vec<(RequestId, std::result::Result<Reply, Status>)>,
    /// The changes of keys in revision order, without `prev_kv`.
    pub events: Vec<Event>,
    /// The changes of leases, in order.
    pub leases: Vec<LeaseChange>,
    /// The compacted revision, if the entry has moved it.
    pub compacted: Option<i64>,
}

/// The answer to a command. Headers carry the revision only: the server adds ids and term.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To a `Put`.
    Put(PutResponse),
    /// To a `DeleteRange`.
    DeleteRange(DeleteRangeResponse),
    /// To a `Txn`.
    Txn(TxnResponse),
    /// To a `Compact`.
    Compact(CompactionResponse),
    /// To a `LeaseGrant`.
    LeaseGrant(LeaseGrantResponse),
    /// To a `LeaseRevoke`.
    LeaseRevoke(LeaseRevokeResponse),
    /// To a `MemberPublish`.
    Published,
}

impl Store {
    /// Takes over an open engine. An empty one is founded: at index 1 and term 1, with revision 1 and
    /// rows for the cluster and its members, and frozen, so that the next [`varve_lsm::Db::work`]
    /// makes it durable. The log therefore starts behind index 1.
    ///
    /// # Errors
    /// [`crate::Error::Cluster`] when the data belongs to another cluster; [`crate::Error::Row`] or
    /// [`crate::Error::Engine`] when it is damaged.
    pub fn open(
        db: varve_lsm::Db,
        writer: varve_lsm::Writer,
        founding: &Founding,
    ) -> Result<Store> {
        let _ = (db, writer, founding);
        todo!()
    }

    /// Applies the next entry: `index` must be the applied index + 1. An empty payload is an entry
    /// without commands (a new leader's first one, or a change of Raft's configuration).
    ///
    /// # Errors
    /// Any error is fatal: the process stops, see [`crate::Error`]. What a client did wrong is in the
    /// replies.
    pub fn apply(&mut self, index: u64, term: u64, payload: &Bytes) -> Result<Applied> {
        let _ = (index, term, payload);
        todo!()
    }

    /// The last entry applied.
    pub fn applied(&self) -> Mark {
        todo!()
    }

    /// The reading side.
    pub fn view(&self) -> View {
        todo!()
    }

    /// Freezes what is in memory so that [`varve_lsm::Db::work`] can make it durable.
    pub fn freeze(&mut self) -> Result<()> {
        Ok(self.writer.freeze()?)
    }

    /// Whether to wait for [`varve_lsm::Db::work`] before the next entry.
    pub fn is_writer_ahead(&self) -> bool {
        self.db.is_writer_ahead()
    }

    /// Replaces the whole state by a checkpoint received from a peer, whose files lie in `staged`.
    /// Durable on return; [`Store::applied`] is then where the checkpoint stands.
    ///
    /// # Errors
    /// As [`Store::open`]; fatal.
    pub fn install(&mut self, manifest: &Bytes, staged: &Path) -> Result<()> {
        let _ = (manifest, staged);
        todo!()
    }

    /// The members, by id.
    pub fn members(&self) -> Vec<Member> {
        todo!()
    }
}
