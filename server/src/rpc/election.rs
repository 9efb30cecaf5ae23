//! `v3electionpb.Election`: Campaign waits until it is the caller's turn, Proclaim changes the
//! leader's value, Resign gives way, Leader asks once and Observe all the time.
//!
//! A caller that goes away while it campaigns leaves no key behind; see `concurrency`.

use bytes::Bytes;
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{PutRequest, ResponseHeader, TxnRequest};
use varve_api::mvccpb::KeyValue;
use varve_api::mvccpb::event::EventType;
use varve_api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use varve_api::{Status, error, method};

use super::concurrency::{
    Caller, delete_op, first_of, if_created_at, plain_error, prefix_end, queue_prefix,
};
use super::watch::leader_lost;
use crate::grpc::{Encoded, Outgoing, Router};
use crate::services::Services;

/// Registers the service.
pub fn register(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary(&method::ELECTION_CAMPAIGN, move |meta, request| {
        campaign(Caller::new(s.clone(), meta), request)
    });
    let s = services.clone();
    router.unary(&method::ELECTION_PROCLAIM, move |meta, request| {
        proclaim(Caller::new(s.clone(), meta), request)
    });
    let s = services.clone();
    router.unary(&method::ELECTION_LEADER, move |meta, request| {
        leader(Caller::new(s.clone(), meta), request)
    });
    let s = services.clone();
    router.server_stream(&method::ELECTION_OBSERVE, move |meta, request, outgoing| {
        observe(Caller::new(s.clone(), meta), request, outgoing)
    });
    let s = services.clone();
    router.unary(&method::ELECTION_RESIGN, move |meta, request| {
        resign(Caller::new(s.clone(), meta), request)
    });
}

async fn campaign(caller: Caller, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let lease = caller.lease(request.lease).await?;
    let prefix = queue_prefix(&request.name);
    let mut candidate = caller.stand(&prefix, lease, request.value.clone()).await?;
    let (header, revision) = (candidate.header.take(), candidate.revision);
    if candidate.found.as_ref().is_some_and(|found| found.value != request.value) {
        let key = candidate.key.clone().expect("it is still a candidate");
        let put = proclamation(key, revision, lease, request.value);
        announce(&caller, &put).await?;
    }
    caller.wait_for_turn(&prefix, revision).await?;
    let key = candidate.keep();
    let leader = LeaderKey { name: request.name, key, rev: revision, lease };
    Ok(CampaignResponse { header, leader: Some(leader) })
}

async fn proclaim(caller: Caller, request: ProclaimRequest) -> Result<ProclaimResponse, Status> {
    let leader = request.leader.ok_or_else(missing_leader)?;
    let lease = caller.lease(leader.lease).await?;
    let put = proclamation(leader.key, leader.rev, lease, request.value);
    Ok(ProclaimResponse { header: announce(&caller, &put).await? })
}

fn proclamation(key: Bytes, revision: i64, lease: i64, value: Bytes) -> TxnRequest {
    let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
    if_created_at(&key, revision, Request::RequestPut(put))
}

async fn announce(caller: &Caller, put: &TxnRequest) -> Result<Option<ResponseHeader>, Status> {
    let response = caller.txn(put).await?;
    if !response.succeeded {
        return Err(plain_error("election: not leader"));
    }
    Ok(response.header)
}

/// Who does not lead resigns as well: there is nothing to do then.
async fn resign(caller: Caller, request: ResignRequest) -> Result<ResignResponse, Status> {
    let leader = request.leader.ok_or_else(missing_leader)?;
    let give_way = if_created_at(&leader.key, leader.rev, delete_op(leader.key.clone()));
    Ok(ResignResponse { header: caller.txn(&give_way).await?.header })
}

async fn leader(caller: Caller, request: LeaderRequest) -> Result<LeaderResponse, Status> {
    let response = caller.range(&first_of(&queue_prefix(&request.name))).await?;
    match response.kvs.into_iter().next() {
        Some(kv) => Ok(LeaderResponse { header: response.header, kv: Some(kv) }),
        None => Err(plain_error("election: no leader")),
    }
}

/// Tells the leader and each of its values, then the next leader, until the client goes away.
async fn observe(caller: Caller, request: LeaderRequest, outgoing: Outgoing) -> Result<(), Status> {
    let prefix = queue_prefix(&request.name);
    let observer = Observer { caller, outgoing };
    tokio::select! {
        biased;
        ended = observer.run(&prefix) => ended,
        status = leader_lost(&observer.caller.services, &observer.caller.meta) => Err(status),
    }
}

struct Observer {
    caller: Caller,
    outgoing: Outgoing,
}

impl Observer {
    async fn run(&self, prefix: &Bytes) -> Result<(), Status> {
        loop {
            let Some((revision, kv)) = self.await_leader(prefix).await? else { return Ok(()) };
            let key = kv.key.clone();
            if !self.tell(revision, kv).await || !self.follow(key, revision).await? {
                return Ok(());
            }
        }
    }

    /// The leader, with the revision at which it was seen; the first candidate to come if there is
    /// none. `None` when nobody listens any more.
    async fn await_leader(&self, prefix: &Bytes) -> Result<Option<(i64, KeyValue)>, Status> {
        let wait = self.caller.services.key_waiters.prefix(prefix.clone());
        let mut response = self.caller.range(&first_of(prefix)).await?;
        let mut seen = response.header.map_or(0, |header| header.revision);
        if let Some(kv) = response.kvs.pop() {
            return Ok(Some((seen, kv)));
        }
        loop {
            tokio::select! {
                () = wait.changed() => {}
                () = self.outgoing.closed() => return Ok(None),
            }
            match self.changes(prefix, &prefix_end(prefix), &mut seen)? {
                None => return Ok(None),
                Some(changes) => {
                    if let Some((_, kv)) = changes.into_iter().find(|(is_put, _)| *is_put) {
                        return Ok(Some((kv.mod_revision, kv)));
                    }
                }
            }
        }
    }

    /// Tells the values of a leader's key after `seen` until it is deleted; false when nobody
    /// listens any more.
    async fn follow(&self, key: Bytes, mut seen: i64) -> Result<bool, Status> {
        let wait = self.caller.services.key_waiters.key(key.clone());
        loop {
            let Some(changes) = self.changes(&key, &Bytes::new(), &mut seen)? else {
                return Ok(false);
            };
            for (is_put, kv) in changes {
                if !is_put {
                    return Ok(true);
                }
                if !self.tell(kv.mod_revision, kv).await {
                    return Ok(false);
                }
            }
            tokio::select! {
                () = wait.changed() => {}
                () = self.outgoing.closed() => return Ok(false),
            }
        }
    }

    /// Puts and deletions after `seen`, which moves on; `None` if they are compacted already: the
    /// stream then ends, as in etcd, and the client asks again.
    fn changes(
        &self,
        key: &Bytes,
        range_end: &Bytes,
        seen: &mut i64,
    ) -> Result<Option<Vec<(bool, KeyValue)>>, Status> {
        let view = &self.caller.services.view;
        let now = view.revision();
        let events = match view.history(key, range_end, *seen + 1, now) {
            Err(status) if status == error::COMPACTED => return Ok(None),
            events => events?,
        };
        *seen = now.max(*seen);
        let change = |event: varve_api::mvccpb::Event| {
            let is_put = event.r#type == EventType::Put as i32;
            (is_put, event.kv.unwrap_or_default())
        };
        events.map(|event| event.map(change)).collect::<Result<_, _>>().map(Some)
    }

    async fn tell(&self, revision: i64, kv: KeyValue) -> bool {
        let header = Some(self.caller.services.cluster.header(revision));
        let response = LeaderResponse { header, kv: Some(kv) };
        self.outgoing.send(Encoded::message(&response)).await.is_ok()
    }
}

fn missing_leader() -> Status {
    plain_error("\"leader\" field must be provided")
}
