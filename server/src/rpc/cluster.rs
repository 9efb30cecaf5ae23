//! `etcdserverpb.Cluster`: who the members are, and changing that.
//!
//! One idea: a change is judged and proposed by the leader, whichever member was asked. It alone
//! knows who is connected, who has caught up, and whether an earlier change is done. What all
//! members must judge alike is judged when the change is applied (`varve_store::MemberChange`).
//!
//! Invariants: a change that may have been proposed is never proposed again by itself; who answers
//! a client has applied the change.

mod judge;

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use varve_api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use varve_api::{Code, Status, error, method};
use varve_disk::trial;
use varve_raftnode::{MemberChange as RaftChange, NodeId, Progress, ProposeError};
use varve_store::{Command, CommandKind, MemberChange, MemberPublish, RequestId, VoteChange};

use self::judge::{Standing, judge};
use crate::config::identity;
use crate::config::url::Url;
use crate::grpc::Router;
use crate::limits;
use crate::peer::call::{Call, CallAnswer};
use crate::raft::{Outlook, RaftInput};
use crate::services::{Answer, Services};

/// Registers the service.
pub fn register(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary(&method::CLUSTER_MEMBER_LIST, move |_, request| member_list(s.clone(), request));
    let s = services.clone();
    router.unary(&method::CLUSTER_MEMBER_ADD, move |_, request| member_add(s.clone(), request));
    let s = services.clone();
    router
        .unary(&method::CLUSTER_MEMBER_REMOVE, move |_, request| member_remove(s.clone(), request));
    let s = services.clone();
    router
        .unary(&method::CLUSTER_MEMBER_UPDATE, move |_, request| member_update(s.clone(), request));
    let s = services.clone();
    router.unary(&method::CLUSTER_MEMBER_PROMOTE, move |_, request| {
        member_promote(s.clone(), request)
    });
}

/// A member as clients see it.
pub fn wire_member(member: varve_store::Member) -> Member {
    Member {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        is_learner: member.is_learner,
    }
}

/// All members as clients see them.
fn wire_members(services: &Services) -> Result<Vec<Member>, Status> {
    Ok(services.view.members()?.into_iter().map(wire_member).collect())
}

async fn member_list(
    services: Services,
    request: MemberListRequest,
) -> Result<MemberListResponse, Status> {
    if request.linearizable {
        services.read_barrier().await?;
    }
    // etcd's cluster responses carry no revision.
    Ok(MemberListResponse {
        header: Some(services.cluster.header(0)),
        members: wire_members(&services)?,
    })
}

async fn member_add(
    services: Services,
    request: MemberAddRequest,
) -> Result<MemberAddResponse, Status> {
    let peer_urls = peer_urls(&request.peer_urls)?;
    let texts: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // The time makes the id a new one even for a URL that was a member's before.
    let id = identity::member_id_of_texts(&texts, "", Some(now.map_or(0, |since| since.as_secs())));
    let change = MemberChange::Add {
        id,
        peer_urls: peer_urls.clone(),
        is_learner: request.is_learner,
        learners_max: services.limits.learners_max as u64,
    };
    change_members(&services, change).await?;
    let member = Member { id, peer_urls, is_learner: request.is_learner, ..Member::default() };
    Ok(MemberAddResponse {
        header: Some(services.cluster.header(0)),
        member: Some(member),
        members: wire_members(&services)?,
    })
}

async fn member_remove(
    services: Services,
    request: MemberRemoveRequest,
) -> Result<MemberRemoveResponse, Status> {
    change_members(&services, MemberChange::Remove { id: request.id }).await?;
    let members = wire_members(&services)?;
    Ok(MemberRemoveResponse { header: Some(services.cluster.header(0)), members })
}

async fn member_update(
    services: Services,
    request: MemberUpdateRequest,
) -> Result<MemberUpdateResponse, Status> {
    let peer_urls = peer_urls(&request.peer_urls).map_err(|error| {
        // Whom it is about counts more than what is wrong with it.
        let is_member = |members: &Vec<Member>| members.iter().any(|one| one.id == request.id);
        let is_known = wire_members(&services).as_ref().is_ok_and(is_member);
        if is_known { error } else { error::MEMBER_NOT_FOUND.into() }
    })?;
    change_members(&services, MemberChange::Update { id: request.id, peer_urls }).await?;
    let members = wire_members(&services)?;
    Ok(MemberUpdateResponse { header: Some(services.cluster.header(0)), members })
}

async fn member_promote(
    services: Services,
    request: MemberPromoteRequest,
) -> Result<MemberPromoteResponse, Status> {
    change_members(&services, MemberChange::Promote { id: request.id }).await?;
    let members = wire_members(&services)?;
    Ok(MemberPromoteResponse { header: Some(services.cluster.header(0)), members })
}

/// Checked and sorted, as etcd keeps them.
fn peer_urls(texts: &[String]) -> Result<Vec<String>, Status> {
    let parsed: Result<Vec<Url>, String> = texts.iter().map(|text| Url::parse(text)).collect();
    let mut urls = parsed.map_err(|_| error::MEMBER_BAD_URLS)?;
    if urls.is_empty() {
        return Err(error::MEMBER_BAD_URLS.into());
    }
    urls.sort();
    Ok(urls.iter().map(|url| url.as_str().to_owned()).collect())
}

/// Tells the group this member's name and client URLs, until it has heard; that is the proof of a
/// quorum.
pub async fn publish(services: &Services, publish: &MemberPublish) {
    let body = publish.encode();
    while let Err(status) = services.propose(CommandKind::MemberPublish, body.clone()).await {
        tracing::warn!(error = %status, "failed to publish local member to cluster through raft");
        sleep(limits::PUBLISH_RETRY_PAUSE).await;
    }
}

/// Gets a change done by whoever leads, and waits until it is applied here.
///
/// # Errors
/// etcd's; after a timeout it may still happen.
pub async fn change_members(services: &Services, change: MemberChange) -> Result<(), Status> {
    let deadline = Instant::now() + services.limits.request_timeout;
    loop {
        let outcome = match services.cluster.leader() {
            0 => Err(error::NOT_LEADER.into()),
            leader if leader == services.cluster.member_id => {
                change_counted(services, &change, deadline).await
            }
            leader => ask_leader(services, leader, &change, deadline).await,
        };
        match outcome {
            Ok(index) => return wait_until_applied(services, index, deadline).await,
            // Nothing was proposed.
            Err(status) if is_not_leader(&status) => {}
            Err(status) => return Err(status),
        }
        if Instant::now() >= deadline {
            return Err(error::TIMEOUT.into());
        }
        sleep(limits::READ_RETRY_PAUSE).await;
    }
}

fn is_not_leader(status: &Status) -> bool {
    let not_leader: Status = error::NOT_LEADER.into();
    *status == not_leader
}

async fn ask_leader(
    services: &Services,
    leader: u64,
    change: &MemberChange,
    deadline: Instant,
) -> Result<u64, Status> {
    let mut ticket = services.waiting.take().ok_or(error::TOO_MANY_REQUESTS)?;
    let call = Call { request: ticket.id, change: change.encode() };
    services.peers.call(leader, &call);
    let mut removed = services.cluster.removed();
    let answer = tokio::select! {
        biased;
        answer = timeout_at(deadline, ticket.answer()) => answer,
        // The leader does not know this member any more and answers it nothing. If that is what was
        // asked for, it is done; what becomes of anything else nobody says here.
        _ = removed.wait_for(|removed| *removed) => {
            return if is_own_end(services, change) {
                Ok(services.cluster.applied())
            } else {
                Err(error::STOPPED.into())
            };
        }
    };
    match answer {
        Ok(Some(Answer::Call(answer))) => answer.outcome,
        Ok(Some(Answer::LeaderFailed)) => Err(error::TIMEOUT_DUE_TO_LEADER_FAIL.into()),
        Ok(_) => Err(error::STOPPED.into()),
        Err(_) => Err(error::TIMEOUT.into()),
    }
}

/// Whether this member is to be removed.
fn is_own_end(services: &Services, change: &MemberChange) -> bool {
    *change == MemberChange::Remove { id: services.cluster.member_id }
}

/// A member asks this one because it leads.
pub async fn answer(services: Services, from: u64, call: Call) {
    let deadline = Instant::now() + services.limits.request_timeout;
    let outcome = match MemberChange::decode(&call.change) {
        Ok(change) => change_counted(&services, &change, deadline).await,
        Err(error) => Err(Status::new(Code::InvalidArgument, error.to_string())),
    };
    services.peers.answer_call(from, &CallAnswer { request: call.request, outcome });
}

/// As [`change_here`]; what becomes of promotions is counted.
async fn change_counted(
    services: &Services,
    change: &MemberChange,
    deadline: Instant,
) -> Result<u64, Status> {
    let outcome = change_here(services, change, deadline).await;
    if matches!(change, MemberChange::Promote { .. }) {
        let metrics = &services.metrics;
        match &outcome {
            Ok(_) => metrics.learner_promote_successes.inc(),
            Err(status) if is_not_leader(status) => {}
            Err(status) => {
                metrics.learner_promote_failures.with_label_values(&[&status.message]).inc();
            }
        }
    }
    outcome
}

/// Judges and proposes a change as the leader; the index by which it is applied.
///
/// # Errors
/// `NOT_LEADER` if nothing was proposed because this member does not lead (any more).
async fn change_here(
    services: &Services,
    change: &MemberChange,
    deadline: Instant,
) -> Result<u64, Status> {
    loop {
        // Judged again each time: an earlier change may have made it one too many.
        let Outlook { changes, progress } = outlook(services).await?;
        let standing = Standing {
            own: services.cluster.member_id,
            is_strict: services.limits.strict_reconfig_check,
            members: &services.view.members()?,
            progress: &progress,
            connected_for: &|member| connected_for(services, member),
        };
        judge(change, &standing)?;
        if is_own_end(services, change) && hand_over(services, &progress).await {
            return Err(error::NOT_LEADER.into());
        }
        let is_done = match change.vote_change() {
            Some(voted) => propose(services, voted, change, changes, deadline).await?,
            None => {
                services.propose(CommandKind::MemberChange, change.encode()).await?;
                true
            }
        };
        if is_done {
            return Ok(services.cluster.applied());
        }
        trial::reach("change judged again");
        if Instant::now() >= deadline {
            return Err(error::TIMEOUT.into());
        }
        sleep(limits::READ_RETRY_PAUSE).await;
    }
}

/// For how long this member has been connected to another that is heard of; none if one is not so.
fn connected_for(services: &Services, member: u64) -> Option<Duration> {
    let silence_max = limits::PEER_SILENCE_MAX.max(services.limits.leaderless_max);
    services.peers.connected_since(member, silence_max).map(|at| at.elapsed())
}

/// Proposes a change of Raft's that was judged after so many others, and waits for its reply; false if
/// nothing was proposed, because there is another one by now.
async fn propose(
    services: &Services,
    voted: VoteChange,
    change: &MemberChange,
    judged_after: u64,
    deadline: Instant,
) -> Result<bool, Status> {
    let body = change.encode();
    let change = match voted {
        VoteChange::AddVoter(id) => RaftChange::AddVoter(NodeId(id)),
        VoteChange::AddLearner(id) => RaftChange::AddLearner(NodeId(id)),
        VoteChange::Remove(id) => RaftChange::Remove(NodeId(id)),
    };
    let mut ticket = services.waiting.take().ok_or(error::TOO_MANY_REQUESTS)?;
    let kind = CommandKind::MemberChange;
    let command = Command { id: RequestId(ticket.id), kind, author: None, body };
    let (taken, is_taken) = oneshot::channel();
    let input = RaftInput::ProposeChange { change, command, judged_after, taken };
    services.raft.try_send(input).map_err(|_| error::TOO_MANY_REQUESTS)?;
    match is_taken.await.map_err(|_| error::STOPPED)? {
        Ok(()) => {}
        Err(ProposeError::NoLeader | ProposeError::NotLeader) => {
            return Err(error::NOT_LEADER.into());
        }
        Err(ProposeError::Nobody) => return Err(error::MEMBER_NOT_FOUND.into()),
        // One at a time.
        Err(ProposeError::ChangePending | ProposeError::Dropped) => return Ok(false),
    }
    match timeout_at(deadline, ticket.answer()).await {
        Ok(Some(Answer::Reply(reply))) => reply.map(|_| true),
        Ok(Some(Answer::LeaderFailed)) => Err(error::TIMEOUT_DUE_TO_LEADER_FAIL.into()),
        Ok(_) => Err(error::STOPPED.into()),
        Err(_) => Err(error::TIMEOUT.into()),
    }
}

/// What a change is judged by, if this member leads.
async fn outlook(services: &Services) -> Result<Outlook, Status> {
    let (answer, outlook) = oneshot::channel();
    services.raft.try_send(RaftInput::AskOutlook(answer)).map_err(|_| error::TOO_MANY_REQUESTS)?;
    let outlook = outlook.await.map_err(|_| error::STOPPED)?;
    outlook.ok_or_else(|| error::NOT_LEADER.into())
}

/// A leader that is to be removed lets another lead first, so that nobody waits for an election.
/// Whether another does.
async fn hand_over(services: &Services, progress: &[Progress]) -> bool {
    let own = services.cluster.member_id;
    let others = progress.iter().filter(|one| one.is_voter && one.is_active && one.id.0 != own);
    let Some(best) = others.max_by_key(|one| one.matched) else { return false };
    transfer(services, best.id.0).await
}

/// Hands leadership to `to`; whether this member has stopped leading in time.
pub async fn transfer(services: &Services, to: u64) -> bool {
    let mut leader = services.cluster.leader_changed();
    if services.raft.try_send(RaftInput::TransferTo(NodeId(to))).is_err() {
        return false;
    }
    let deadline = Instant::now() + limits::LEADER_TRANSFER_TIMEOUT;
    let own = services.cluster.member_id;
    let moved = leader.wait_for(|leader| *leader != 0 && *leader != own);
    timeout_at(deadline, moved).await.is_ok()
}

/// Makes this member the only one, whoever else its state names, before it serves anybody. Raft
/// counts it alone already (`--force-new-cluster`).
pub async fn make_sole(services: &Services) {
    let own = services.cluster.member_id;
    loop {
        let Ok(Outlook { changes, .. }) = outlook(services).await else {
            // Not the leader yet.
            sleep(limits::READ_RETRY_PAUSE).await;
            continue;
        };
        let members = services.view.members().unwrap_or_default();
        let is_learner = members.iter().any(|member| member.id == own && member.is_learner);
        let other = members.iter().find(|member| member.id != own);
        let (voted, change) = match other {
            _ if is_learner => (VoteChange::AddVoter(own), MemberChange::Promote { id: own }),
            Some(other) => {
                let id = other.id;
                (VoteChange::Remove(id), MemberChange::Remove { id })
            }
            None => return,
        };
        let deadline = Instant::now() + services.limits.request_timeout;
        match propose(services, voted, &change, changes, deadline).await {
            Ok(true) => tracing::info!(?change, "changed the members of the forced cluster"),
            Ok(false) | Err(_) => sleep(limits::READ_RETRY_PAUSE).await,
        }
    }
}

async fn wait_until_applied(
    services: &Services,
    index: u64,
    deadline: Instant,
) -> Result<(), Status> {
    while services.cluster.applied() < index {
        if Instant::now() >= deadline {
            return Err(error::TIMEOUT.into());
        }
        sleep(limits::APPLIED_POLL).await;
    }
    Ok(())
}
