//! What members have in the end.

use std::time::{Duration, Instant};

use varve_api::etcdserverpb::{
    LeaseLeasesRequest, LeaseLeasesResponse, RangeRequest, WatchCreateRequest,
};
use varve_api::method;
use varve_api::mvccpb::Event;
use varve_api::mvccpb::event::EventType;
use varve_judge::history::{Change, Replica};

use super::SETTLE_TIMEOUT;
use crate::group::Group;
use crate::grpc_client::Client;

/// Waits until a member knows no lease any more.
///
/// # Errors
/// What it says instead in the end.
pub async fn leases_end(address: &str) -> Result<(), tonic::Status> {
    let client = Client::new(address, SETTLE_TIMEOUT);
    let began = Instant::now();
    loop {
        let request = LeaseLeasesRequest::default();
        let answer: Result<LeaseLeasesResponse, _> =
            client.unary(&method::LEASE_LEASES, request).await;
        match answer {
            Ok(answer) if answer.leases.is_empty() => return Ok(()),
            Ok(answer) if began.elapsed() > SETTLE_TIMEOUT => {
                let leases = answer.leases.len();
                return Err(tonic::Status::unavailable(format!("{leases} leases do not end")));
            }
            Err(error) if began.elapsed() > SETTLE_TIMEOUT => return Err(error),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Everything a member has up to a revision, asked for until it has it. Leases are over by then.
///
/// # Errors
/// What it says instead in the end.
pub async fn replica(member: u64, address: &str, last: i64) -> Result<Replica, tonic::Status> {
    let client = Client::new(address, SETTLE_TIMEOUT);
    // A serializable read of a revision that is not there yet is refused: so this waits for it.
    let began = Instant::now();
    let keys = loop {
        let request = RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            serializable: true,
            revision: last,
            ..RangeRequest::default()
        };
        match client.range(request).await {
            Ok(answer) => break answer.kvs,
            Err(error) if began.elapsed() > SETTLE_TIMEOUT => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let create = WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: 1,
        prev_kv: true,
        ..WatchCreateRequest::default()
    };
    let mut stream = client.watch(create).await?;
    let mut changes: Vec<Change> = Vec::new();
    while changes.last().is_none_or(|change| change.revision < last) {
        let response = stream.message().await?;
        let response = response.ok_or_else(|| tonic::Status::unavailable("the watch ended"))?;
        changes.extend(response.events.into_iter().map(change));
    }
    // What else is written later is of nobody: calls whose clients have given up.
    changes.retain(|change| change.revision <= last);
    let hash = Group::hash(&client, last).await?;
    let (leases, changes) = (Vec::new(), Some(changes));
    Ok(Replica { member, keys, leases, revision: last, compacted: 0, hash, changes })
}

fn change(event: Event) -> Change {
    let is_delete = event.r#type() == EventType::Delete;
    let kv = event.kv.expect("an event has a key");
    Change { revision: kv.mod_revision, kv, is_delete, previous: event.prev_kv }
}
