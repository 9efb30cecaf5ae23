//! From events to streams: which watchers a batch concerns, and the responses that they get.
//!
//! One idea: watchers that want the same events in the same form get the same bytes; most of those
//! who watch the same thing follow each other.

use bytes::Bytes;
use varve_api::Status;
use varve_store::View;

use super::Table;
use crate::cluster::Cluster;
use crate::grpc::{Encoded, Outgoing};
use crate::watch::batch::EventBatch;
use crate::watch::hub::NoRoom;
use crate::watch::response;

/// The last response that was built in one piece, for watchers that get the same bytes.
struct Shared {
    watch_id: i64,
    prev_kv: bool,
    matched: Vec<usize>,
    event_bytes: usize,
    response: Encoded,
}

impl Table {
    /// Sends a batch to the synced watchers that it concerns.
    pub(super) fn send_batch(&mut self, batch: &EventBatch, view: &View) {
        let touched = self.matching(batch);
        let mut last: Option<Shared> = None;
        for key in touched {
            self.send_matched(key, batch, view, &mut last);
        }
    }

    /// Notes for each synced watcher which events concern it; who has any, in order of creation.
    fn matching(&mut self, batch: &EventBatch) -> Vec<usize> {
        let mut touched = Vec::new();
        for (position, event) in batch.events().iter().enumerate() {
            let watchers = &mut self.watchers;
            let mut note = |key: usize| {
                let Some(watcher) = watchers.get_mut(&key) else { return };
                if watcher.wants(event) {
                    if watcher.matched.is_empty() {
                        touched.push(key);
                    }
                    watcher.matched.push(position);
                }
            };
            for key in self.by_key.get(event.key()).into_iter().flatten() {
                note(*key);
            }
            self.ranges.containing(event.key(), note);
        }
        touched.sort_unstable();
        touched
    }

    fn send_matched(
        &mut self,
        key: usize,
        batch: &EventBatch,
        view: &View,
        last: &mut Option<Shared>,
    ) {
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        let Some(stream) = self.streams.get(&watcher.stream) else { return };
        let matched = std::mem::take(&mut watcher.matched);
        watcher.idle = false;
        let bytes_max = response::piece_bytes_max(watcher.spec.fragment, self.fragment_bytes_max);
        let same = last.as_ref().filter(|shared| {
            shared.watch_id == watcher.id
                && shared.prev_kv == watcher.spec.prev_kv
                && shared.event_bytes <= bytes_max
                && shared.matched == matched
        });
        let sent = if let Some(shared) = same {
            stream.outgoing.try_send(shared.response.clone()).is_ok()
        } else {
            let events = matched.iter().map(|at| watcher.encode(&batch.events()[*at], view));
            let Ok(events) = events.collect::<Result<Vec<Bytes>, Status>>() else {
                // Its history says why to the client.
                return self.fall_behind(key);
            };
            let pieces = response::fragments(&events, bytes_max);
            if pieces.len() > 1 {
                let revision = batch.revision();
                send_pieces(&self.cluster, &stream.outgoing, watcher.id, revision, &pieces).is_ok()
            } else {
                let (watch_id, prev_kv) = (watcher.id, watcher.spec.prev_kv);
                let response =
                    response::events(&self.cluster, batch.revision(), watch_id, false, &events);
                let sent = stream.outgoing.try_send(response.clone()).is_ok();
                let event_bytes = events.iter().map(Bytes::len).sum();
                *last = Some(Shared { watch_id, prev_kv, matched, event_bytes, response });
                sent
            }
        };
        if !sent {
            self.fall_behind(key);
        }
    }
}

/// Queues all pieces or none; all but the last say that more follows.
pub(super) fn send_pieces(
    cluster: &Cluster,
    outgoing: &Outgoing,
    watch_id: i64,
    revision: i64,
    pieces: &[&[Bytes]],
) -> Result<(), NoRoom> {
    for (at, piece) in pieces.iter().enumerate() {
        let more = at + 1 < pieces.len();
        let response = response::events(cluster, revision, watch_id, more, piece);
        let bytes = response.len();
        if at > 0 {
            // The first had room; the rest belongs to it and is bounded by one batch.
            outgoing.append(response);
        } else if outgoing.try_send(response).is_err() {
            return Err(NoRoom { bytes });
        }
    }
    Ok(())
}
