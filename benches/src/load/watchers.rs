//! Watchers of all keys beside a writer: how many events arrive, and how late.
//!
//! One idea: a value begins with the time at which its put was due, so an event tells how old it
//! is. Writer and watchers are one process, so it is one clock.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use varve_api::etcdserverpb::watch_request::RequestUnion;
use varve_api::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use varve_api::method::{KV_PUT, WATCH_WATCH};

use super::pace::Pace;
use super::{Report, Spec, cpu_between, figures_of};
use crate::grpc::{self, Call, Connection, decode, frame};
use crate::workload::{PREFIX, PREFIX_END};

/// How long watchers wait for events that are missing after the last put.
const STRAGGLERS_MAX: Duration = Duration::from_secs(10);

/// What watchers saw.
#[derive(Clone, Default)]
pub struct WatchReport {
    /// The puts.
    pub puts: Report,
    /// Events with their age when they arrived.
    pub events: Report,
}

/// Puts by `spec` while `watchers` streams watch all keys, also with what each held before if
/// `has_previous`; `spec.connections` carry both. All of it on one thread. Blocks.
///
/// # Errors
/// A connection or a watch cannot be opened.
pub fn watch(spec: &Spec, watchers: usize, has_previous: bool) -> Result<WatchReport, grpc::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let connections = connect(&spec.endpoints, spec.connections.max(1)).await?;
        let mut calls = Vec::with_capacity(watchers);
        for number in 0..watchers {
            calls.push(open(&connections[number % connections.len()], has_previous).await?);
        }
        let server_before = figures_of(&spec.server_pids);
        let client_before = figures_of(&[std::process::id()]);
        let start = Instant::now();
        let events: Arc<Mutex<Report>> = Arc::default();
        let streams: Vec<_> = calls
            .into_iter()
            .map(|call| tokio::spawn(follow(call, start, Arc::clone(&events))))
            .collect();
        let puts = put_all(spec, &connections, start).await;
        let expected = puts.calls() * watchers as u64;
        wait_for(&events, expected).await;
        streams.iter().for_each(tokio::task::JoinHandle::abort);
        let events = events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut report = WatchReport { puts, events };
        report.events.failed += expected.saturating_sub(report.events.calls());
        report.events.server = figures_of(&spec.server_pids);
        report.events.server_cpu = cpu_between(server_before, report.events.server);
        let client_after = figures_of(&[std::process::id()]);
        report.events.client_cpu = cpu_between(client_before, client_after).unwrap_or_default();
        Ok(report)
    })
}

async fn connect(
    endpoints: &[SocketAddr],
    connections: usize,
) -> Result<Vec<Connection>, grpc::Error> {
    let mut opened = Vec::with_capacity(connections);
    for number in 0..connections {
        opened.push(Connection::open(endpoints[number % endpoints.len()]).await?);
    }
    Ok(opened)
}

/// Opens a watch of all keys and waits until it is created.
async fn open(connection: &Connection, has_previous: bool) -> Result<Call, grpc::Error> {
    let create = WatchCreateRequest {
        key: Bytes::from_static(PREFIX.as_bytes()),
        range_end: Bytes::from_static(PREFIX_END.as_bytes()),
        prev_kv: has_previous,
        ..Default::default()
    };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let target = connection.target(&WATCH_WATCH);
    let mut call = connection.begin(&target, frame(&request), false).await?;
    let created = call.responses.message().await?;
    let created: WatchResponse = decode(created.unwrap_or_default())?;
    if !created.created {
        return Err(grpc::Error::Malformed {
            expected: "a created watch",
            found: format!("{created:?}"),
        });
    }
    Ok(call)
}

async fn follow(mut call: Call, start: Instant, events: Arc<Mutex<Report>>) {
    while let Ok(Some(message)) = call.responses.message().await {
        let Ok(response) = decode::<WatchResponse>(message) else { break };
        let now = start.elapsed();
        let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
        events.elapsed = now;
        for event in &response.events {
            let stamp = event.kv.as_ref().and_then(|kv| kv.value.get(..8));
            let Some(stamp) = stamp.and_then(|stamp| stamp.try_into().ok()) else { continue };
            let due = Duration::from_nanos(u64::from_le_bytes(stamp));
            events.latencies.record(now.saturating_sub(due));
        }
    }
}

/// The puts of a run, each with the time at which it was due in front of its value.
async fn put_all(spec: &Spec, connections: &[Connection], start: Instant) -> Report {
    let pace = Arc::new(Pace::new(spec, start, 0, 1));
    let total: Arc<Mutex<Report>> = Arc::default();
    let clients = (0..spec.clients).map(|client| {
        let connection = connections[client % connections.len()].clone();
        let (pace, total) = (Arc::clone(&pace), Arc::clone(&total));
        let workload = Arc::clone(&spec.workload);
        tokio::spawn(async move {
            let target = connection.target(&KV_PUT);
            while let Some((number, due)) = pace.next().await {
                let mut value = BytesMut::from(&workload.value(number)[..]);
                let stamp = (due - start).as_nanos() as u64;
                value.resize(value.len().max(8), 0);
                value[..8].copy_from_slice(&stamp.to_le_bytes());
                let (key, value) = (workload.key(number), value.freeze());
                let request = frame(&PutRequest { key, value, ..Default::default() });
                let result = connection.discard(&target, request).await;
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                total.elapsed = now - start;
                match result {
                    Ok(_) => total.latencies.record(now - due),
                    Err(error) => {
                        total.failed += 1;
                        total.first_error.get_or_insert_with(|| error.to_string());
                        return;
                    }
                }
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    for client in clients {
        client.await.expect("a client does not panic");
    }
    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *total)
}

/// Waits until all events are there, or [`STRAGGLERS_MAX`] is over.
async fn wait_for(events: &Mutex<Report>, expected: u64) {
    let deadline = Instant::now() + STRAGGLERS_MAX;
    let count = || events.lock().unwrap_or_else(PoisonError::into_inner).calls();
    while count() < expected && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
