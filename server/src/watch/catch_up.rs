//! Reading history for watchers of one stream that are behind.
//!
//! One bounded piece for one watcher at a time, in turn, and only while the stream has room: a
//! slow client holds back nobody but itself, and a long history does not keep the socket thread
//! from its other connections for long.

use varve_api::Status;
use varve_api::error::COMPACTED;

use super::batch::WatchEvent;
use super::hub::{Behind, StreamHandle};
use crate::grpc::{Closed, Outgoing};
use crate::limits;

/// Serves the stream's watchers until the stream ends.
pub async fn run(stream: &StreamHandle, outgoing: &Outgoing) -> Result<(), Closed> {
    let mut previous = 0;
    loop {
        while let Some(behind) = stream.next_behind(previous) {
            outgoing.ready().await?;
            previous = behind.watcher;
            step(stream, behind);
            tokio::task::yield_now().await;
        }
        stream.wake.notified().await;
    }
}

/// One piece of history for one watcher.
fn step(stream: &StreamHandle, behind: Behind) {
    let Behind { watcher, spec } = behind;
    let view = stream.hub().view();
    let compacted = view.compacted();
    if spec.next_revision < compacted {
        stream.cancel_compacted(watcher, compacted);
        return;
    }
    let to = view.revision().min(spec.next_revision + limits::CATCH_UP_REVISIONS_MAX - 1);
    let events = match view.history(&spec.key, &spec.range_end, spec.next_revision, to) {
        Ok(events) => events,
        Err(status) => return failed(stream, watcher, &status),
    };
    let mut piece: Vec<WatchEvent> = Vec::new();
    let mut bytes = 0;
    let mut through = to;
    for event in events {
        let event = match event {
            Ok(event) => WatchEvent::new(event),
            Err(status) => return failed(stream, watcher, &status),
        };
        let last = piece.last().map(WatchEvent::revision);
        // A revision is never split over responses, so a piece ends between two.
        if bytes > limits::CATCH_UP_BYTES_TARGET
            && let Some(last) = last
            && last != event.revision()
        {
            through = last;
            break;
        }
        bytes += event.key().len() + event.encoded().len();
        piece.push(event);
    }
    stream.send_history(watcher, &piece, through);
}

fn failed(stream: &StreamHandle, watcher: usize, status: &Status) {
    if *status != COMPACTED {
        tracing::error!(error = %status, "cannot read the history for a watcher");
    }
    stream.cancel_compacted(watcher, stream.hub().view().compacted());
}
