//! Snapshots between members: the engine's pinned files, not a copy of its content.
//!
//! The sender offers a manifest and a list of files with digests (`snapshot/offer.rs`); the receiver
//! answers which it lacks; only those travel, in checksummed chunks (`snapshot/send.rs`); last comes
//! the Raft message that announces them. The receiver (`snapshot/receive.rs`) checks the digest of each
//! file as it arrives and makes it durable (`parts.rs`), puts all of them into a staging directory, has
//! the engine check the whole, and only then hands it to the Raft thread. Until the state machine has
//! installed it, nothing of the old state is touched. A transfer that breaks off leaves its whole files
//! to the next one. Who sends may do so in the name of the leader that asked for it, and sends no faster
//! than its [`Rate`](super::rate::Rate).
//!
//! Here is what was received, [`Staged`], and the right to receive.
//!
//! Invariants: at most one snapshot is received at a time (`Staged` holds the permit); a staging
//! directory is removed when its `Staged` is dropped, and all of them at start.

pub(super) mod offer;
pub(super) mod receive;
pub mod send;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use prometheus::{HistogramVec, IntCounterVec};
use varve_disk::Disk;
use varve_lsm::Db;
use varve_raftnode::Applied;
use varve_store::Mark;

use super::frame::FrameError;

/// A received snapshot, complete and durable, waiting to be installed.
pub struct Staged {
    /// The engine's manifest for the files.
    pub manifest: Bytes,
    /// Where the files lie.
    pub dir: PathBuf,
    disk: Arc<dyn Disk>,
    turn: Option<Turn>,
}

impl Staged {
    /// What another carrier has put into `dir`; removed where it is dropped.
    pub fn carried(manifest: Bytes, dir: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { manifest, dir, disk, turn: None }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let (disk, dir, turn) = (Arc::clone(&self.disk), self.dir.clone(), self.turn.take());
        let has_thread = turn.is_some();
        // Large files take their time to go, and the Raft thread has none: it drops what its node
        // does not want. The turn is over when they are gone.
        let remove = move || {
            if let Err(error) = disk.remove_dir_all(&dir) {
                let text = "cannot remove a staging directory; the next start will";
                tracing::warn!(error = %error, "{text}");
            }
            drop(turn);
        };
        if !has_thread {
            return remove();
        }
        // Without a thread they stay until the next start, like those of a crash.
        let _ = std::thread::Builder::new().name("unstage".to_owned()).spawn(remove);
    }
}

/// The right to receive; one exists. What the engine promised to keep for it is let go with it.
struct Turn(Db);

static RECEIVING: AtomicBool = AtomicBool::new(false);

impl Turn {
    fn take(db: &Db) -> Option<Self> {
        (!RECEIVING.swap(true, Ordering::AcqRel)).then(|| Self(db.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.forget_promises();
        RECEIVING.store(false, Ordering::Release);
    }
}

/// What lies in the staging directory is sound and what `announced` says.
///
/// # Errors
/// What was expected and found.
pub fn check_sound(db: &Db, staged: &Staged, announced: &Applied) -> Result<(), FrameError> {
    let mark = match db.check_checkpoint(&staged.manifest, &staged.dir) {
        Ok(mark) => Mark::decode(&mark.unwrap_or_default())
            .map_err(|error| FrameError::malformed("a snapshot's mark", error.to_string()))?,
        Err(varve_lsm::Error::Disk(error)) => return Err(own_disk(error)),
        Err(error) => return Err(FrameError::malformed("a sound snapshot", error.to_string())),
    };
    if (mark.index, mark.term) != (announced.index.0, announced.term.0) {
        return Err(FrameError::malformed(
            format!("the snapshot {announced:?}"),
            format!("{mark:?}"),
        ));
    }
    Ok(())
}

/// Runs what may wait for the disk on another thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FrameError> {
    tokio::task::spawn_blocking(work).await.map_err(own_state)
}

/// Counts a snapshot as a success or a failure, and how long it took if it arrived.
fn count(
    has_arrived: bool,
    [successes, failures]: [&IntCounterVec; 2],
    seconds: &HistogramVec,
    peer: &str,
    started: Instant,
) {
    let counter = if has_arrived { successes } else { failures };
    counter.with_label_values(&[peer]).inc();
    if has_arrived {
        seconds.with_label_values(&[peer]).observe(started.elapsed().as_secs_f64());
    }
}

pub(super) fn own_disk(error: varve_disk::Error) -> FrameError {
    FrameError::Own(error.to_string())
}

fn own_state(error: impl std::error::Error) -> FrameError {
    FrameError::Own(error.to_string())
}
