//! `etcdserverpb.Watch`: one stream carries any number of watchers.
//!
//! Requests are handled here; events reach the stream from the hub (synced watchers) and from
//! `catch_up` (those behind). All of it runs on the stream's socket thread.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::time::sleep;
use varve_api::etcdserverpb::watch_create_request::FilterType;
use varve_api::etcdserverpb::watch_request::RequestUnion;
use varve_api::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use varve_api::{Status, error, method};

use crate::grpc::{Incoming, Outgoing, RequestMeta, Router};
use crate::services::Services;
use crate::trace::{Entered, attributes};
use crate::watch::catch_up;
use crate::watch::hub::{StreamHandle, WatchSpec};

/// The spans of a stream's watchers. One lasts until the client cancels its watcher, or the stream
/// ends.
type Spans = BTreeMap<i64, Entered>;

/// Registers the service.
pub fn register(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.bidi_stream(&method::WATCH_WATCH, move |meta, incoming, outgoing| {
        watch(s.clone(), meta, incoming, outgoing)
    });
}

/// Serves a stream of watchers until one side ends it.
///
/// # Errors
/// etcd's.
pub async fn watch(
    services: Services,
    meta: RequestMeta,
    mut incoming: Incoming<WatchRequest>,
    outgoing: Outgoing,
) -> Result<(), Status> {
    let stream = services.hub.open(outgoing.clone());
    let requests = async {
        let mut spans = Spans::new();
        while let Some(request) = incoming.next().await {
            let request = request.inspect_err(|_| {
                services.metrics.stream_failures.with_label_values(&["receive", "watch"]).inc();
            });
            handle(&services, &meta, &stream, &mut spans, request?).await;
            // Answers are queued whether or not there is room; the next request waits for it.
            if outgoing.ready().await.is_err() {
                return Ok(());
            }
        }
        // A client that has nothing more to ask still listens (as in etcd).
        outgoing.closed().await;
        Ok(())
    };
    tokio::select! {
        // In this order always: what happens must follow from what has happened.
        biased;
        ended = requests => ended,
        ended = catch_up::run(&stream, &outgoing, services.limits.catch_up) => ended,
        status = leader_lost(&services, &meta) => Err(status),
    }
}

/// Completes when a client that wants a leader has been without one for three election timeouts.
pub async fn leader_lost(services: &Services, meta: &RequestMeta) -> Status {
    if !meta.requires_leader() {
        return std::future::pending().await;
    }
    let mut leader = services.cluster.leader_changed();
    loop {
        if *leader.borrow_and_update() != 0 {
            if leader.changed().await.is_err() {
                return error::STOPPED.into();
            }
            continue;
        }
        tokio::select! {
            biased;
            _changed = leader.changed() => {}
            () = sleep(services.limits.leaderless_max) => return error::NO_LEADER.into(),
        }
    }
}

async fn handle(
    services: &Services,
    meta: &RequestMeta,
    stream: &StreamHandle,
    spans: &mut Spans,
    request: WatchRequest,
) {
    match request.request_union {
        None => {}
        Some(RequestUnion::CreateRequest(create)) => {
            if let Some((id, span)) = self::create(services, meta, stream, create).await {
                spans.insert(id, span);
            }
        }
        Some(RequestUnion::CancelRequest(cancel)) => {
            let canceled = WatchResponse {
                header: Some(services.cluster.header(services.view.revision())),
                watch_id: cancel.watch_id,
                canceled: true,
                ..WatchResponse::default()
            };
            stream.cancel(cancel.watch_id, &canceled);
            spans.remove(&cancel.watch_id);
        }
        Some(RequestUnion::ProgressRequest(_)) => stream.request_progress(),
    }
}

/// Whether the caller may read what a watcher would tell, as etcd writes a refusal.
async fn permit(
    services: &Services,
    meta: &RequestMeta,
    key: &[u8],
    range_end: &[u8],
) -> Result<(), String> {
    let judge = async {
        let author = services.author(meta).await?;
        Ok(services.view.auth().may_read(author.as_ref(), key, range_end)?)
    };
    judge.await.map_err(|status: Status| {
        format!("rpc error: code = {} desc = {}", status.code, status.message)
    })
}

/// Makes a watcher; its id and its span, if it is sampled.
async fn create(
    services: &Services,
    meta: &RequestMeta,
    stream: &StreamHandle,
    request: WatchCreateRequest,
) -> Option<(i64, Entered)> {
    // An empty key means the first one possible; with an empty end, too.
    let first = Bytes::from_static(&[0]);
    let key = if request.key.is_empty() { first } else { request.key.clone() };
    let range_end = request.range_end.clone();
    // Before the revision is taken: what is answered must be true when it is queued.
    let permitted = permit(services, meta, &key, &range_end).await;
    let revision = services.view.revision();
    let created = WatchResponse {
        header: Some(services.cluster.header(revision)),
        created: true,
        ..WatchResponse::default()
    };
    let refuse = |reason: &str| {
        stream.reply(&WatchResponse {
            watch_id: -1,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..created.clone()
        });
        None
    };
    let filters = |filter: FilterType| request.filters.contains(&(filter as i32));
    let (no_put, no_delete) = (filters(FilterType::Noput), filters(FilterType::Nodelete));
    if request.start_revision < 0 {
        return refuse(error::COMPACTED.message);
    }
    if let Err(reason) = permitted {
        return refuse(&reason);
    }
    if range_end.as_ref() != [0] && !range_end.is_empty() && key >= range_end {
        return refuse("mvcc: watcher range is empty");
    }
    let span = meta.trace().enter("watch", || attributes::watch(&key, &request));
    let starts_now = request.start_revision == 0;
    let spec = WatchSpec {
        key,
        range_end,
        next_revision: if starts_now { revision + 1 } else { request.start_revision },
        progress_from: if starts_now { revision } else { request.start_revision },
        no_put,
        no_delete,
        prev_kv: request.prev_kv,
        fragment: request.fragment,
        progress_notify: request.progress_notify,
    };
    let wanted = (request.watch_id != 0).then_some(request.watch_id);
    match stream.create(wanted, spec, created.clone()) {
        Ok(id) => span.is_recorded().then_some((id, span)),
        Err(_) => refuse("mvcc: duplicate watch ID provided on the WatchStream"),
    }
}
