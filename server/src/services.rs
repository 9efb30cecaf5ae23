//! What every RPC of one socket thread shares: the way to consensus, the way to a linearizable
//! read, the way to the read pool. One instance a thread, not `Send`.
//!
//! Invariants: a request waits at most `request_timeout`; whoever stops waiting leaves no trace in
//! the table of waiting requests. A write that timed out may still happen (etcd's rule). One for
//! which there was no leader all the time ends with etcd's other code.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::time::{Instant, timeout_at};
use varve_api::etcdserverpb::alarm_request::AlarmAction;
use varve_api::etcdserverpb::{AlarmRequest, AlarmType, ResponseHeader};
use varve_api::{Status, error};
use varve_store::{Author, Command, CommandKind, Reply, RequestId, View};

use crate::apply::ToWorker;
use crate::auth::{self, Authenticator};
use crate::background::Background;
use crate::cluster::Cluster;
use crate::grpc::RequestMeta;
use crate::grpc::status::deadline_exceeded;
use crate::key_wait::KeyWaiters;
use crate::lease::Lessor;
use crate::limits;
use crate::mailbox::MailboxOwner;
use crate::metrics::requests::{RequestMetrics, kind_name};
use crate::metrics::{Held, Metrics};
use crate::peer::Peers;
use crate::peer::call::CallAnswer;
use crate::peer::frame::LeaseAnswer;
use crate::peer::hash::HashAnswer;
use crate::queue::{Sender, TrySendError};
use crate::raft::RaftInput;
use crate::read_pool::ReadPool;
use crate::request::{Budget, Waiting};
use crate::rpc;
use crate::rpc::told_hashes::ToldHashes;
use crate::watch::catch_up::Bounds;
use crate::watch::hub::Hub;

/// What flags decide about requests.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// `--max-txn-ops`.
    pub txn_ops_max: usize,
    /// `--max-request-bytes`.
    pub request_bytes_max: usize,
    /// 5 s and twice the election timeout, as in etcd.
    pub request_timeout: Duration,
    /// Shortest time to live of a lease, in seconds.
    pub lease_ttl_min: i64,
    /// Streams that require a leader end after this long without one: three election timeouts.
    pub leaderless_max: Duration,
    /// `--strict-reconfig-check`.
    pub strict_reconfig_check: bool,
    /// `--max-learners`.
    pub learners_max: usize,
    /// `--quota-backend-bytes`; negative is no quota.
    pub quota_bytes: i64,
    /// Pieces of history for watchers that are behind.
    pub catch_up: Bounds,
}

/// Shared by the handlers of one socket thread; cheap to clone.
#[derive(Clone)]
pub struct Services {
    inner: Rc<Inner>,
}

/// The parts of [`Services`].
pub struct Inner {
    /// Ids and published numbers.
    pub cluster: Arc<Cluster>,
    /// The state machine's reading side.
    pub view: View,
    /// The Raft thread.
    pub raft: Sender<RaftInput>,
    /// Requests of this thread that wait.
    pub waiting: Waiting<Answer>,
    /// Bytes of all threads' requests that wait.
    pub in_flight: Budget,
    /// What the engine still has to do.
    pub background: Arc<Background>,
    /// Lease clock.
    pub lessor: Arc<Lessor>,
    /// The other members.
    pub peers: Peers,
    /// Watchers of this thread.
    pub hub: Hub,
    /// Calls of this thread that wait for keys.
    pub key_waiters: KeyWaiters,
    /// Threads for reads that take long.
    pub read_pool: ReadPool,
    /// Tokens and passwords.
    pub auth: Arc<Authenticator>,
    /// What `HashKV` has told, by any thread.
    pub told_hashes: Arc<ToldHashes>,
    /// From flags.
    pub limits: RequestLimits,
    /// Counters of this thread's requests.
    pub requests: RequestMetrics,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// What a waiting request gets.
pub enum Answer {
    /// It was applied.
    Reply(Result<Reply, Status>),
    /// The read may go ahead.
    ReadReady,
    /// The read must be tried again.
    ReadFailed,
    /// The leader to whom it may have gone has failed, and its successor knows nothing of it.
    LeaderFailed,
    /// The leader's word on a lease.
    Lease(LeaseAnswer),
    /// A member's hash.
    Hash(HashAnswer),
    /// The leader's word on a change of the membership.
    Call(CallAnswer),
}

impl std::ops::Deref for Services {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl Services {
    /// Shares the parts.
    pub fn new(inner: Inner) -> Self {
        Self { inner: Rc::new(inner) }
    }

    /// Who asks: nobody while authentication is off, or if the client does not say.
    ///
    /// # Errors
    /// The client shows a token that is not valid (any more).
    pub async fn author(&self, meta: &RequestMeta) -> Result<Option<Author>, Status> {
        let deadline = Instant::now() + self.limits.request_timeout;
        self.auth.author(meta, &self.view, &self.cluster, deadline).await
    }

    /// Gets a command agreed and applied that needs nobody's permission; its reply. While
    /// authentication is on, most kinds are refused without an author.
    pub async fn propose(&self, kind: CommandKind, body: Bytes) -> Result<Reply, Status> {
        self.propose_with(kind_name(kind, ""), kind, None, body, RaftInput::Propose).await
    }

    /// As [`Services::propose`], for the client that calls.
    pub async fn propose_for(
        &self,
        meta: &RequestMeta,
        kind: CommandKind,
        body: Bytes,
    ) -> Result<Reply, Status> {
        let author = self.author(meta).await?;
        let name = kind_name(kind, meta.method().name);
        meta.trace().event("Send raft proposal");
        let outcome = self.propose_with(name, kind, author, body, RaftInput::Propose).await;
        if outcome.is_ok() {
            meta.trace().event("Receive raft result");
        }
        outcome
    }

    /// As [`Services::propose`], for this member itself, which may do everything.
    pub async fn propose_as_root(&self, kind: CommandKind, body: Bytes) -> Result<Reply, Status> {
        let author = auth::internal_author(&self.view);
        self.propose_with(kind_name(kind, ""), kind, author, body, RaftInput::Propose).await
    }

    /// As [`Services::propose`], as root, and only as the leader of `term`.
    pub async fn propose_as_leader(
        &self,
        term: u64,
        kind: CommandKind,
        body: Bytes,
    ) -> Result<Reply, Status> {
        let input = |command| RaftInput::ProposeAsLeader { term, command };
        let author = auth::internal_author(&self.view);
        self.propose_with(kind_name(kind, ""), kind, author, body, input).await
    }

    async fn propose_with(
        &self,
        name: &'static str,
        kind: CommandKind,
        author: Option<Author>,
        body: Bytes,
        input: impl FnOnce(Command) -> RaftInput,
    ) -> Result<Reply, Status> {
        let began = Instant::now();
        let outcome = self.agree(kind, author, body, input).await;
        self.requests.took(name, outcome.is_ok(), began.elapsed());
        outcome
    }

    async fn agree(
        &self,
        kind: CommandKind,
        author: Option<Author>,
        body: Bytes,
        input: impl FnOnce(Command) -> RaftInput,
    ) -> Result<Reply, Status> {
        if body.len() > self.limits.request_bytes_max {
            return Err(error::REQUEST_TOO_LARGE.into());
        }
        let gap = self.cluster.committed().saturating_sub(self.cluster.applied());
        if gap > limits::COMMIT_APPLY_GAP_MAX || self.cluster.is_behind() {
            return Err(error::TOO_MANY_REQUESTS.into());
        }
        let Some(_in_flight) = self.in_flight.take(body.len()) else {
            return Err(error::TOO_MANY_REQUESTS.into());
        };
        let mut ticket = self.waiting.take().ok_or(error::TOO_MANY_REQUESTS)?;
        let command = Command { id: RequestId(ticket.id), kind, author, body };
        let _pending = Held::new(&self.metrics.proposals_pending);
        match self.raft.try_send(input(command)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(error::TOO_MANY_REQUESTS.into()),
            Err(TrySendError::Disconnected(_)) => return Err(error::STOPPED.into()),
        }
        let mut leader = self.cluster.leader_changed();
        let had_none = *leader.borrow_and_update() == 0;
        let deadline = Instant::now() + self.limits.request_timeout;
        match timeout_at(deadline, ticket.answer()).await {
            Ok(Some(Answer::Reply(reply))) => reply,
            Ok(Some(Answer::LeaderFailed)) => {
                self.metrics.proposals_failed.inc();
                Err(error::TIMEOUT_DUE_TO_LEADER_FAIL.into())
            }
            Ok(_) => Err(error::STOPPED.into()),
            Err(_) => {
                self.metrics.proposals_failed.inc();
                // Raft has never taken it.
                let has_none = had_none && !leader.has_changed().unwrap_or(false);
                Err(if has_none { deadline_exceeded() } else { error::TIMEOUT.into() })
            }
        }
    }

    /// Answers requests that went down with a leader, for the life of the thread. They are those
    /// that waited when the leader was lost, and wait still some time after the next was found. As
    /// after any timeout, a write among them may still happen. (etcd lets them wait for the whole
    /// of `request_timeout`.)
    pub async fn give_up_lost(self) {
        let mut leader = self.cluster.leader_changed();
        let mut previous = *leader.borrow_and_update();
        while leader.changed().await.is_ok() {
            let lost = if previous == 0 { Vec::new() } else { self.waiting.ids() };
            while *leader.borrow_and_update() == 0 {
                if leader.changed().await.is_err() {
                    return;
                }
            }
            previous = *leader.borrow();
            let waiting = self.waiting.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(limits::LEADER_FAILED_PATIENCE).await;
                lost.into_iter().for_each(|id| waiting.answer(id, Answer::LeaderFailed));
            });
        }
    }

    /// Refuses what would take more space than there is, and tells the cluster.
    ///
    /// The question is asked before the request is proposed, and by this member only: what is under
    /// way at that moment may still exceed the quota by `PROPOSAL_BYTES_IN_FLIGHT_MAX`.
    pub async fn admit_growth(&self, bytes: usize) -> Result<(), Status> {
        let quota_bytes = self.limits.quota_bytes;
        if bytes == 0 || quota_bytes < 0 {
            return Ok(());
        }
        let after = self.view.db_sizes().logical_bytes() + bytes as u64;
        if after < quota_bytes.cast_unsigned() {
            return Ok(());
        }
        let alarm = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: self.cluster.member_id,
            alarm: AlarmType::Nospace as i32,
        };
        // The client hears the same if the others cannot be told now; the next request tries again.
        let _ = self.propose(CommandKind::Alarm, alarm.encode_to_vec().into()).await;
        Err(error::NO_SPACE.into())
    }

    /// Waits until what is applied here includes everything that was acknowledged anywhere before
    /// this call (Raft thesis 6.4).
    pub async fn read_barrier(&self) -> Result<(), Status> {
        if self.cluster.has_all_acknowledged() {
            return Ok(());
        }
        let deadline = Instant::now() + self.limits.request_timeout;
        loop {
            let mut ticket = self.waiting.take().ok_or(error::TOO_MANY_REQUESTS)?;
            match self.raft.try_send(RaftInput::Read(ticket.id)) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => return Err(error::TOO_MANY_REQUESTS.into()),
                Err(TrySendError::Disconnected(_)) => return Err(error::STOPPED.into()),
            }
            match timeout_at(deadline, ticket.answer()).await {
                Ok(Some(Answer::ReadReady)) => return Ok(()),
                // A new attempt has a new context: an old one's confirmation says nothing about it.
                Ok(Some(Answer::ReadFailed | Answer::LeaderFailed)) => {
                    self.metrics.read_indexes_failed.inc();
                    tokio::time::sleep(limits::READ_RETRY_PAUSE).await;
                }
                Ok(_) => return Err(error::STOPPED.into()),
                Err(_) => {
                    self.metrics.slow_read_indexes.inc();
                    return Err(error::TIMEOUT.into());
                }
            }
        }
    }

    /// Waits until the engine has done what was due: what a compaction frees is then freed.
    /// At most as long as a request may take.
    pub async fn wait_for_background(&self) {
        let deadline = Instant::now() + self.limits.request_timeout;
        while !self.background.is_idle() && Instant::now() < deadline {
            tokio::time::sleep(limits::BACKGROUND_POLL).await;
        }
    }

    /// Fills in what the state machine does not know: who answers, and the term.
    pub fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.cluster.header(revision));
    }

    /// Hands out what other threads posted to this one; runs for the life of the thread.
    pub async fn pump(self, owner: MailboxOwner<ToWorker>) {
        let mut posted = Vec::new();
        loop {
            owner.drain(&mut posted).await;
            for item in posted.drain(..) {
                match item {
                    ToWorker::Reply(id, reply) => self.waiting.answer(id.0, Answer::Reply(reply)),
                    ToWorker::ReadReady(id) => self.waiting.answer(id, Answer::ReadReady),
                    ToWorker::ReadFailed(id) => self.waiting.answer(id, Answer::ReadFailed),
                    ToWorker::Lease(answer) => {
                        self.waiting.answer(answer.request, Answer::Lease(answer));
                    }
                    ToWorker::Hash(answer) => {
                        self.waiting.answer(answer.request, Answer::Hash(answer));
                    }
                    ToWorker::Events(batch, _share) => {
                        self.hub.deliver(&batch);
                        self.key_waiters.wake(&batch);
                    }
                    ToWorker::Resync(revision) => {
                        self.hub.resync(revision);
                        self.key_waiters.wake_all();
                    }
                    ToWorker::Call { from, call } => {
                        tokio::task::spawn_local(rpc::cluster::answer(self.clone(), from, call));
                    }
                    ToWorker::CallAnswer(answer) => {
                        self.waiting.answer(answer.request, Answer::Call(answer));
                    }
                }
            }
        }
    }
}
