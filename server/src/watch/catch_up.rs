//! Reading history for watchers of one stream that are behind.
//!
//! One bounded piece for one watcher at a time, in turn, and only while the stream has room: a
//! slow client holds back nobody but itself, and a long history does not keep the socket thread
//! from its other connections for long.

use varve_api::Status;
use varve_api::error::COMPACTED;
use varve_disk::trial;

use super::batch::WatchEvent;
use super::hub::{Behind, NoRoom, StreamHandle};
use crate::grpc::Outgoing;
use crate::limits;

/// How much is read for one watcher before it is another's turn.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Revisions at most.
    pub revisions_max: i64,
    /// Bytes of events after which the piece ends at the next revision.
    pub bytes_target: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            revisions_max: limits::CATCH_UP_REVISIONS_MAX,
            bytes_target: limits::CATCH_UP_BYTES_TARGET,
        }
    }
}

/// Serves the stream's watchers until the stream ends.
///
/// # Errors
/// The history cannot be read: the stream must end, so that its client goes on elsewhere.
pub async fn run(stream: &StreamHandle, outgoing: &Outgoing, bounds: Bounds) -> Result<(), Status> {
    let mut previous = 0;
    loop {
        while let Some(behind) = stream.next_behind(previous) {
            if outgoing.ready().await.is_err() {
                return Ok(());
            }
            previous = behind.watcher;
            if let Err(NoRoom { bytes }) = step(stream, behind, bounds)? {
                trial::reach("no room for history");
                if outgoing.room(bytes).await.is_err() {
                    return Ok(());
                }
            }
            tokio::task::yield_now().await;
        }
        stream.wake.notified().await;
    }
}

/// One piece of history for one watcher; it stays where it is when there is no room for it.
fn step(
    stream: &StreamHandle,
    behind: Behind,
    bounds: Bounds,
) -> Result<Result<(), NoRoom>, Status> {
    let Behind { watcher, spec } = behind;
    let view = stream.hub().view();
    let compacted = view.compacted();
    if spec.next_revision < compacted && !trial::has_bug("history-of-what-is-gone") {
        trial::reach("watcher of what was compacted");
        stream.cancel_compacted(watcher, compacted);
        return Ok(Ok(()));
    }
    let last = spec.next_revision.saturating_add(bounds.revisions_max - 1);
    let to = view.revision().min(last);
    let events = match view.history(&spec.key, &spec.range_end, spec.next_revision, to) {
        Ok(events) => events,
        // Compacted since we looked.
        Err(status) if status == COMPACTED => {
            stream.cancel_compacted(watcher, view.compacted());
            return Ok(Ok(()));
        }
        Err(status) => return Err(unreadable(status)),
    };
    let mut piece: Vec<WatchEvent> = Vec::new();
    let mut bytes = 0;
    let mut through = to;
    for event in events {
        let event = WatchEvent::new(event.map_err(unreadable)?);
        let last = piece.last().map(WatchEvent::revision);
        // A revision is never split over responses, so a piece ends between two.
        if bytes > bounds.bytes_target
            && let Some(last) = last
            && last != event.revision()
        {
            trial::reach("piece of history ends between two revisions");
            through = last;
            break;
        }
        bytes += event.encoded().len();
        piece.push(event);
    }
    stream.send_history(watcher, &piece, through).map_err(unreadable)
}

fn unreadable(status: Status) -> Status {
    tracing::error!(error = %status, "cannot read the history for a watcher");
    status
}
