//! The only writer: applies the log, one entry at a time.
//!
//! One idea: an entry is a list of commands and one commit. Commands see what earlier ones of the
//! same entry did; readers see all of an entry or nothing. What a client did wrong is a reply;
//! anything else is an error, after which this member must stop (the engine may hold half an entry
//! in memory, and nothing of it is committed).
//!
//! For a put, the whole work is: decode the body in place, one look-up of the key without its
//! value, one insertion, one event. Keys and values are slices of the entry until the engine copies
//! them.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use varve_api::etcdserverpb::{
    AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse, DeleteRangeRequest,
    DeleteRangeResponse, LeaseCheckpointRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, PutResponse, TxnResponse,
};
use varve_api::mvccpb::Event;
use varve_api::{Code, Status};
use varve_lsm::{Db, Writer};

use crate::alarm::{self, AlarmChange};
use crate::auth::{self, AuthChange, AuthReply, Author};
use crate::command::{self, Command, CommandKind, RequestId};
use crate::error::{Failure, Outcome, Result};
use crate::kv::{self, WriteTxn};
use crate::lease::{self, LeaseChange, LeaseId};
use crate::mark::Mark;
use crate::member::{self, Founding, Member};
use crate::member_change::{self, VoteChange};
use crate::state::State;
use crate::view::View;
use crate::{compact, quota, txn, validate, version};

/// The state machine; owned by the apply thread.
///
/// Invariants: [`Store::applied`] is the mark of the engine's newest commit; entries are applied
/// without a gap and never twice.
pub struct Store {
    db: Db,
    cluster_id: u64,
    pub(crate) state: State,
}

/// What one entry did.
#[derive(Debug, Default)]
pub struct Applied {
    /// One reply for each command, in their order.
    pub replies: Vec<(RequestId, std::result::Result<Reply, Status>)>,
    /// The changes of keys in revision order, without `prev_kv`. Keys and values may be slices of
    /// the entry's payload: who keeps an event for long keeps the payload.
    pub events: Vec<Event>,
    /// The changes of leases, in order.
    pub leases: Vec<LeaseChange>,
    /// The changes of alarms, in order.
    pub alarms: Vec<AlarmChange>,
    /// The changes of users and roles, in order.
    pub auth: Vec<AuthChange>,
    /// The compacted revision, if the entry has moved it.
    pub compacted: Option<i64>,
    /// The members, if the entry has changed any of them.
    pub members: Option<Vec<Member>>,
    /// Who votes or learns is not the same as before; only after [`Store::apply_change`].
    pub is_vote_changed: bool,
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
    /// To an `Alarm`.
    Alarm(AlarmResponse),
    /// To a change of users and roles.
    Auth(AuthReply),
    /// To a `Downgrade`.
    Downgraded,
    /// To a `LeaseCheckpoint`.
    LeaseCheckpointed,
    /// To a `MemberChange`: all members, by id.
    Members(Vec<Member>),
}

impl Store {
    /// Takes over an open engine. An empty one is founded: at index 1 and term 1, with revision 1
    /// and rows for the cluster and its members, and frozen, so that the next
    /// [`varve_lsm::Db::work`] makes it durable. The log therefore starts behind index 1.
    ///
    /// # Errors
    /// [`crate::Error::Cluster`] when the data belongs to another cluster; [`crate::Error::Row`] or
    /// [`crate::Error::Engine`] when it is damaged.
    pub fn open(db: Db, writer: Writer, founding: &Founding) -> Result<Store> {
        let cluster_id = founding.cluster_id;
        let committed = db.snapshot();
        let state = match committed.mark().is_empty() {
            true => State::found(writer, founding)?,
            false => State::load(writer, &committed, cluster_id)?,
        };
        Ok(Store { db, cluster_id, state })
    }

    /// Applies the next entry: `index` must be the applied index + 1. An empty payload is an entry
    /// without commands (a new leader's first one, or a change of Raft's configuration).
    ///
    /// # Errors
    /// Any error is fatal: the process stops, see [`crate::Error`]. What a client did wrong is in
    /// the replies.
    pub fn apply(&mut self, index: u64, term: u64, payload: &Bytes) -> Result<Applied> {
        self.apply_entry(index, term, payload, None)
    }

    /// As [`Store::apply`], for an entry that tells Raft to change who votes. A command that means
    /// anything else is refused. Whether the change is accepted, [`Applied::is_vote_changed`]
    /// says; Raft must follow.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn apply_change(
        &mut self,
        index: u64,
        term: u64,
        payload: &Bytes,
        voted: VoteChange,
    ) -> Result<Applied> {
        let before = self.state.configuration.clone();
        let mut applied = self.apply_entry(index, term, payload, Some(voted))?;
        applied.is_vote_changed = self.state.configuration != before;
        Ok(applied)
    }

    fn apply_entry(
        &mut self,
        index: u64,
        term: u64,
        payload: &Bytes,
        voted: Option<VoteChange>,
    ) -> Result<Applied> {
        let commands = match payload.is_empty() {
            true => Vec::new(),
            false => command::decode_batch(payload)?,
        };
        self.state.begin(Mark { index, term });
        let mut applied = Applied::default();
        applied.replies.reserve(commands.len());
        applied.events.reserve(commands.len());
        for command in commands {
            let id = command.id;
            let reply = match self.execute(command, voted, &mut applied) {
                Ok(reply) => Ok(reply),
                Err(Failure::Refused(status)) => Err(status),
                Err(Failure::Fatal(error)) => return Err(error),
            };
            applied.replies.push((id, reply));
        }
        self.state.commit()?;
        Ok(applied)
    }

    /// The last entry applied.
    pub fn applied(&self) -> Mark {
        self.state.mark()
    }

    /// The reading side.
    pub fn view(&self) -> View {
        View::new(self.db.clone(), Arc::clone(&self.state.published_auth))
    }

    /// Freezes what is in memory so that [`varve_lsm::Db::work`] can make it durable.
    ///
    /// # Errors
    /// Those of the engine; fatal.
    pub fn freeze(&mut self) -> Result<()> {
        Ok(self.state.writer.freeze()?)
    }

    /// Whether to wait for [`varve_lsm::Db::work`] before the next entry.
    pub fn is_writer_ahead(&self) -> bool {
        self.db.is_writer_ahead()
    }

    /// How far the writer is ahead of [`varve_lsm::Db::work`], for its [`varve_lsm::Brake`].
    pub fn pressure(&self) -> f64 {
        self.db.pressure()
    }

    /// Replaces the whole state by a checkpoint received from a peer, whose files lie in `staged`.
    /// Durable on return; [`Store::applied`] is then where the checkpoint stands. Readers are held to
    /// its users before they see its data.
    ///
    /// # Errors
    /// As [`Store::open`]; fatal.
    pub fn install(&mut self, manifest: &Bytes, staged: &Path) -> Result<()> {
        self.state.install(manifest, staged, self.cluster_id)?;
        self.state.reload(&self.db.snapshot())
    }

    /// The members, by id.
    pub fn members(&self) -> Vec<Member> {
        self.state.members.values().cloned().collect()
    }

    /// One command. Refused, it has changed nothing.
    fn execute(
        &mut self,
        command: Command,
        voted: Option<VoteChange>,
        applied: &mut Applied,
    ) -> Outcome<Reply> {
        let (state, body) = (&mut self.state, command.body);
        alarm::admit(&state.alarms, command.kind)?;
        let author = command.author.as_ref();
        Ok(match command.kind {
            CommandKind::Put => {
                let request = decode(body)?;
                state.auth.may_put(author, &state.leases, &request)?;
                Reply::Put(put(state, request, &mut applied.events)?)
            }
            CommandKind::DeleteRange => {
                let request = decode(body)?;
                state.auth.may_delete(author, &request)?;
                Reply::DeleteRange(delete_range(state, &request, &mut applied.events)?)
            }
            CommandKind::Txn => Reply::Txn(transact(state, author, body, &mut applied.events)?),
            CommandKind::Compact => {
                let request: CompactionRequest = decode(body)?;
                state.auth.require_root(author)?;
                Reply::Compact(compact::compact(state, &request, &mut applied.compacted)?)
            }
            CommandKind::LeaseGrant => {
                let request: LeaseGrantRequest = decode(body)?;
                state.auth.require_user(author)?;
                Reply::LeaseGrant(lease::grant(state, &request, &mut applied.leases)?)
            }
            CommandKind::LeaseRevoke => {
                let request: LeaseRevokeRequest = decode(body)?;
                state.auth.require_user(author)?;
                state.auth.may_change_lease(author, &state.leases, LeaseId(request.id))?;
                let (events, leases) = (&mut applied.events, &mut applied.leases);
                Reply::LeaseRevoke(lease::revoke(state, &request, events, leases)?)
            }
            CommandKind::MemberPublish => {
                applied.members = Some(member::publish(state, &body)?);
                Reply::Published
            }
            CommandKind::Downgrade => {
                version::apply(state, &body)?;
                Reply::Downgraded
            }
            CommandKind::LeaseCheckpoint => {
                let request: LeaseCheckpointRequest = decode(body)?;
                lease::checkpoint(state, &request, &mut applied.leases);
                Reply::LeaseCheckpointed
            }
            CommandKind::Alarm => {
                let request: AlarmRequest = decode(body)?;
                Reply::Alarm(alarm::apply(state, &request, &mut applied.alarms)?)
            }
            CommandKind::Auth => Reply::Auth(auth::apply(state, author, &body, &mut applied.auth)?),
            CommandKind::MemberChange => {
                let members = member_change::apply(state, &body, voted)?;
                applied.members = Some(members.clone());
                Reply::Members(members)
            }
        })
    }
}

fn transact(
    state: &mut State,
    author: Option<&Author>,
    body: Bytes,
    events: &mut Vec<Event>,
) -> Outcome<TxnResponse> {
    let request = txn::decode(body).map_err(Status::from)?;
    if quota::txn_bytes(&request) > 0 {
        alarm::admit_growth(&state.alarms)?;
    }
    state.auth.may_txn(author, &state.leases, &request)?;
    let mut write = WriteTxn::begin(state, events);
    let response = txn::apply(&mut write, request);
    let is_refused = matches!(response, Err(Failure::Refused(_)));
    let is_unchanged = write.changes() == 0;
    assert!(!is_refused || is_unchanged, "refused after a change: {response:?}");
    write.end();
    response
}

fn put(state: &mut State, request: PutRequest, events: &mut Vec<Event>) -> Outcome<PutResponse> {
    validate::put(&request)?;
    let mut txn = WriteTxn::begin(state, events);
    // The usual put has nothing to check and is spared the snapshot.
    if request.lease != 0 || request.ignore_value || request.ignore_lease {
        txn.read(|reader| kv::check_put(reader, &txn.state.leases, &request))?;
    }
    let response = txn.put(request)?;
    txn.end();
    Ok(response)
}

fn delete_range(
    state: &mut State,
    request: &DeleteRangeRequest,
    events: &mut Vec<Event>,
) -> Outcome<DeleteRangeResponse> {
    validate::delete_range(request)?;
    let mut txn = WriteTxn::begin(state, events);
    let response = txn.delete_range(&request.key, &request.range_end, request.prev_kv)?;
    txn.end();
    Ok(response)
}

/// Decodes a body in place. What cannot be decoded here cannot be decoded on any member: a reply.
fn decode<M: Message + Default>(body: Bytes) -> Outcome<M> {
    M::decode(body).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()).into())
}
