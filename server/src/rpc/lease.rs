//! `etcdserverpb.Lease`: LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases.
//!
//! Granting and revoking go through consensus. Renewing does not: only the leader's clock counts,
//! so other members ask it (etcd does the same over HTTP).

use prost::Message;
use tokio::time::{Instant, timeout_at};
use varve_api::etcdserverpb::{
    LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use varve_api::{Status, error, method};
use varve_disk::trial;
use varve_store::{Auth, Author, CommandKind, LeaseId, Reply, quota};

use super::kv::unexpected;
use super::watch::leader_lost;
use crate::grpc::{Encoded, Incoming, Outgoing, RequestMeta, Router};
use crate::lease as clock;
use crate::limits;
use crate::peer::frame::LeaseQuestion;
use crate::random;
use crate::services::{Answer, Services};
use crate::trace::attributes;

/// Registers the service.
pub fn register(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary(&method::LEASE_GRANT, move |meta, request| {
        let s = s.clone();
        async move { grant(s, &meta, request).await }
    });
    let s = services.clone();
    router.unary(&method::LEASE_REVOKE, move |meta, request| revoke(s.clone(), meta, request));
    let s = services.clone();
    router.bidi_stream(&method::LEASE_KEEP_ALIVE, move |meta, incoming, outgoing| {
        keep_alive(s.clone(), meta, incoming, outgoing)
    });
    let s = services.clone();
    router.unary(&method::LEASE_TIME_TO_LIVE, move |meta, request| {
        time_to_live(s.clone(), meta, request)
    });
    let s = services.clone();
    router.unary(&method::LEASE_LEASES, move |meta, request| leases(s.clone(), meta, request));
}

/// Grants a lease to a caller.
///
/// # Errors
/// etcd's.
pub async fn grant(
    services: Services,
    meta: &RequestMeta,
    mut request: LeaseGrantRequest,
) -> Result<LeaseGrantResponse, Status> {
    services.admit_growth(quota::LEASE_BYTES).await?;
    if request.id == 0 {
        // Positive, as etcd's; a taken one is answered by the state machine.
        request.id = (random::u64() >> 1).max(1) as i64;
    }
    let _span = meta.trace().enter("lease_grant", || attributes::lease_grant(&request));
    request.ttl = request.ttl.max(services.limits.lease_ttl_min);
    match propose(&services, meta, CommandKind::LeaseGrant, &request).await? {
        Reply::LeaseGrant(mut response) => {
            services.complete(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// Ends a lease.
///
/// # Errors
/// etcd's.
pub async fn revoke(
    services: Services,
    meta: RequestMeta,
    request: LeaseRevokeRequest,
) -> Result<LeaseRevokeResponse, Status> {
    let _span = meta.trace().enter("lease_revoke", || attributes::lease(request.id));
    match propose(&services, &meta, CommandKind::LeaseRevoke, &request).await? {
        Reply::LeaseRevoke(mut response) => {
            services.complete(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

async fn propose(
    services: &Services,
    meta: &RequestMeta,
    kind: CommandKind,
    request: &impl Message,
) -> Result<Reply, Status> {
    services.propose_for(meta, kind, request.encode_to_vec().into()).await
}

/// Revokes a lease whose time was over in `term`; one that is gone already is no error.
pub async fn revoke_expired(services: &Services, term: u64, lease: i64) -> Result<(), Status> {
    let body = LeaseRevokeRequest { id: lease }.encode_to_vec().into();
    match services.propose_as_leader(term, CommandKind::LeaseRevoke, body).await {
        Err(status) if status != error::LEASE_NOT_FOUND => Err(status),
        _ => Ok(()),
    }
}

/// Proposes checkpoints that were due in `term`: ids and seconds left.
pub async fn checkpoint(
    services: &Services,
    term: u64,
    leases: Vec<(i64, i64)>,
) -> Result<(), Status> {
    let of = |(id, remaining_ttl)| LeaseCheckpoint { id, remaining_ttl };
    let request = LeaseCheckpointRequest { checkpoints: leases.into_iter().map(of).collect() };
    let body = request.encode_to_vec().into();
    services.propose_as_leader(term, CommandKind::LeaseCheckpoint, body).await.map(drop)
}

async fn keep_alive(
    services: Services,
    meta: RequestMeta,
    mut incoming: Incoming<LeaseKeepAliveRequest>,
    outgoing: Outgoing,
) -> Result<(), Status> {
    let serve = async {
        while let Some(request) = incoming.next().await {
            let request = request.inspect_err(|_| {
                let labels = ["receive", "lease-keepalive"];
                services.metrics.stream_failures.with_label_values(&labels).inc();
            });
            let id = request?.id;
            // etcd takes the revision before it renews.
            let header = services.cluster.header(services.view.revision());
            let span = meta.trace().enter("lease_renew", || attributes::lease(id));
            may_renew(&services, &meta, LeaseId(id)).await?;
            let ttl = ask_leader(&services, id, true).await?.unwrap_or(0);
            drop(span);
            let response = LeaseKeepAliveResponse { header: Some(header), id, ttl };
            if outgoing.send(Encoded::message(&response)).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        biased;
        ended = serve => ended,
        status = leader_lost(&services, &meta) => Err(status),
    }
}

/// Whether the caller may write all keys of a lease, as who renews it keeps them alive.
async fn may_renew(services: &Services, meta: &RequestMeta, id: LeaseId) -> Result<(), Status> {
    if !services.view.is_auth_enabled() {
        return Ok(());
    }
    let author = services.author(meta).await?;
    services.view.auth().require_user(author.as_ref())?;
    let keys = services.view.lease(id)?.map_or_else(Vec::new, |lease| lease.keys);
    let keys = keys.iter().map(AsRef::as_ref);
    let may = |auth: &Auth| auth.may_write_all(author.as_ref(), keys);
    services.view.judged(may, || Ok(()))
}

/// Renews a lease, or asks how many seconds it has left, at the leader; `None` if there is no such
/// lease.
///
/// Only time is the leader's to tell, and only if it still leads afterwards (etcd asks before it
/// renews, and only when it has not ticked for a while). That a lease does not exist is decided by
/// the state machine, by a linearizable read: who takes itself for the leader may have missed the
/// grant. One whose time is over is waited for until it is gone, or lives on under a new leader (as
/// in etcd).
pub async fn ask_leader(
    services: &Services,
    lease: i64,
    renew: bool,
) -> Result<Option<i64>, Status> {
    let deadline = Instant::now() + services.limits.request_timeout;
    loop {
        match ask_once(services, lease, renew, deadline).await? {
            clock::Answer::Alive { seconds, .. } if trial::has_bug("renewal-unchecked") => {
                return Ok(Some(seconds));
            }
            clock::Answer::Alive { seconds, term } => {
                // Who was paused may have lost its office without knowing; its successor has not
                // heard of the renewal. A read confirmed in the same term says it had not.
                match services.read_barrier().await {
                    Ok(()) if services.cluster.term() == term => return Ok(Some(seconds)),
                    Ok(()) => trial::reach("renewed by who leads no more"),
                    // It is renewed: a moment's crowd is no reason to end the stream.
                    Err(status) if status == error::TOO_MANY_REQUESTS => {}
                    Err(status) => return Err(status),
                }
            }
            clock::Answer::NotAlive => {
                services.read_barrier().await?;
                if services.view.lease(LeaseId(lease))?.is_none() {
                    return Ok(None);
                }
            }
            clock::Answer::NotLeading => {}
        }
        if Instant::now() >= deadline {
            let has_leader = services.cluster.leader() != 0;
            return Err(if has_leader { error::TIMEOUT } else { error::NO_LEADER }.into());
        }
        tokio::time::sleep(limits::READ_RETRY_PAUSE).await;
    }
}

/// The answer of this member's lessor, or that of the member that it takes for the leader.
async fn ask_once(
    services: &Services,
    lease: i64,
    renew: bool,
    deadline: Instant,
) -> Result<clock::Answer, Status> {
    let leader = services.cluster.leader();
    if leader == services.cluster.member_id {
        return Ok(services.lessor.ask(lease, renew, &services.metrics));
    }
    if leader == 0 {
        return Ok(clock::Answer::NotLeading);
    }
    let mut ticket = services.waiting.take().ok_or(error::TOO_MANY_REQUESTS)?;
    let question = LeaseQuestion { request: ticket.id, lease, renew };
    services.peers.ask_about_lease(leader, &question);
    let patience = deadline.min(Instant::now() + limits::LEASE_ANSWER_TIMEOUT);
    match timeout_at(patience, ticket.answer()).await {
        Ok(Some(Answer::Lease(answer))) => {
            Ok(clock::Answer::from_wire(answer.seconds, answer.term))
        }
        // No answer came: it may have gone to a member that is not there any more.
        _ => Ok(clock::Answer::NotLeading),
    }
}

async fn time_to_live(
    services: Services,
    meta: RequestMeta,
    request: LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, Status> {
    services.read_barrier().await.map_err(|status| {
        let has_leader = services.cluster.leader() != 0;
        if status != error::TIMEOUT || has_leader { status } else { error::NO_LEADER.into() }
    })?;
    let author = services.author(&meta).await?;
    let author = author.as_ref();
    let auth = services.view.auth();
    auth.require_user(author)?;
    let header = Some(services.cluster.header(services.view.revision()));
    let unknown = LeaseTimeToLiveResponse {
        header,
        id: request.id,
        ttl: -1,
        ..LeaseTimeToLiveResponse::default()
    };
    let Some(info) = services.view.lease(LeaseId(request.id))? else { return Ok(unknown) };
    if request.keys {
        auth.may_read_all(author, info.keys.iter().map(AsRef::as_ref))?;
    }
    let Some(seconds) = ask_leader(&services, request.id, false).await? else {
        return Ok(unknown);
    };
    if request.keys {
        services.view.confirm(&auth)?;
    }
    let keys = if request.keys { info.keys } else { Vec::new() };
    Ok(LeaseTimeToLiveResponse { ttl: seconds, granted_ttl: info.ttl_seconds, keys, ..unknown })
}

/// What this member knows of, whoever leads (as in etcd).
async fn leases(
    services: Services,
    meta: RequestMeta,
    _: LeaseLeasesRequest,
) -> Result<LeaseLeasesResponse, Status> {
    let author = services.author(&meta).await?;
    let view = &services.view;
    let may = |auth: &Auth| auth.require_user(author.as_ref());
    let list = || -> Result<Vec<i64>, Status> {
        Ok(view.leases()?.into_iter().map(|(id, _)| id.0).collect())
    };
    let mut leases = view.judged(may, list)?;
    may_list(&services, author.as_ref(), &leases)?;
    // etcd lists them by their end.
    services.lessor.sort_by_end(&mut leases);
    Ok(LeaseLeasesResponse {
        header: Some(services.cluster.header(services.view.revision())),
        leases: leases.into_iter().map(|id| LeaseStatus { id }).collect(),
    })
}

/// Leases are listed to who may read all keys of all of them.
fn may_list(services: &Services, author: Option<&Author>, leases: &[i64]) -> Result<(), Status> {
    let view = &services.view;
    if view.auth().require_root(author).is_ok() {
        return Ok(());
    }
    for id in leases {
        let Some(lease) = view.lease(LeaseId(*id))? else { continue };
        let keys = lease.keys.iter().map(AsRef::as_ref);
        view.judged(|auth| auth.may_read_all(author, keys), || Ok(()))?;
    }
    Ok(())
}
