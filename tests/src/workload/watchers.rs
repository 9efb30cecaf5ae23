//! What a watcher is sent, at one member after the other, each time from behind what it knows, until
//! it knows of the last revision.
//!
//! One idea: what it knows are bookmarks as well as events. It asks for its progress now and then, and
//! a member that does not answer may be cut off.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use varve_api::etcdserverpb::watch_create_request::FilterType;
use varve_api::etcdserverpb::watch_request::RequestUnion;
use varve_api::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use varve_api::method;
use varve_judge::history::{WatchStream, Watched};

use super::{CALL_TIMEOUT, Shared};
use crate::grpc_client::Client;

/// A watcher that hears nothing for so long asks how far it is.
const SILENCE: Duration = Duration::from_millis(300);
/// So many times; then it goes elsewhere.
const QUESTIONS_MAX: usize = 4;

/// What is watched.
pub fn all() -> Vec<Watched> {
    let watched = |key: &'static str, range_end: &'static str| Watched {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv: true,
        no_put: false,
        no_delete: false,
        streams: Vec::new(),
    };
    vec![
        watched("k", "m"),
        Watched { no_delete: true, ..watched("k", "m") },
        Watched { no_put: true, ..watched("k03", "l") },
        Watched { prev_kv: false, ..watched("l", "m") },
    ]
}

/// The revisions that a watcher was told.
pub fn revisions(watched: &Watched) -> impl Iterator<Item = i64> {
    watched.streams.iter().flat_map(|stream| &stream.responses).map(told)
}

fn told(response: &WatchResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

/// Watches until it knows of the last revision.
pub async fn watch(shared: Arc<Shared>, number: usize, mut watched: Watched) -> Watched {
    let mut at = number;
    // Up to which revision it knows everything.
    let mut known = 0;
    loop {
        at = (at + 1) % shared.addresses.len();
        // The timeout of a channel would end a stream, too; a watcher has none.
        let client = Client::new(&shared.addresses[at], Duration::from_secs(3_600));
        let (sender, requests) = mpsc::channel(QUESTIONS_MAX);
        sender.try_send(create(&watched, known + 1)).expect("it is empty");
        let opening = client.bidi_stream(&method::WATCH_WATCH, ReceiverStream::new(requests));
        let opened = tokio::time::timeout(CALL_TIMEOUT, opening).await;
        let Ok(Ok(mut stream)) = opened else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let start_revision = known + 1;
        watched.streams.push(WatchStream { start_revision, responses: vec![], is_complete: false });
        while let Some(response) = next(&mut stream, &sender).await {
            known = known.max(if response.created { 0 } else { told(&response) });
            let last = watched.streams.last_mut().expect("one is open");
            let has_ended = response.canceled;
            last.responses.push(response);
            if has_ended {
                break;
            }
            let last = shared.last_revision.load(Ordering::Relaxed);
            if last != 0 && known >= last {
                return watched;
            }
        }
    }
}

/// What comes next; `None` if nothing does, whatever is asked.
async fn next(
    stream: &mut tonic::Streaming<WatchResponse>,
    sender: &Sender<WatchRequest>,
) -> Option<WatchResponse> {
    for _ in 0..QUESTIONS_MAX {
        match tokio::time::timeout(SILENCE, stream.message()).await {
            Ok(answer) => return answer.ok().flatten(),
            // A queue that is full has a question in it.
            Err(_) => _ = sender.try_send(wire(RequestUnion::ProgressRequest(Default::default()))),
        }
    }
    None
}

fn create(watched: &Watched, start_revision: i64) -> WatchRequest {
    let mut filters = Vec::new();
    filters.extend(watched.no_put.then_some(FilterType::Noput as i32));
    filters.extend(watched.no_delete.then_some(FilterType::Nodelete as i32));
    wire(RequestUnion::CreateRequest(WatchCreateRequest {
        key: watched.key.clone(),
        range_end: watched.range_end.clone(),
        start_revision,
        prev_kv: watched.prev_kv,
        filters,
        progress_notify: true,
        ..WatchCreateRequest::default()
    }))
}

fn wire(request: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(request) }
}
