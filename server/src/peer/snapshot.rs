//! Snapshots between members: the engine's pinned files, not a copy of its content.
//!
//! The sender offers a manifest and a list of files with digests; the receiver answers which it
//! lacks; only those travel, in checksummed chunks; last comes the Raft message that announces
//! them. The receiver checks the digest of each file as it arrives and makes it durable (`parts.rs`),
//! puts all of them into a staging directory, has the engine check the whole, and only then hands it to
//! the Raft thread. Until the state machine has installed it, nothing of the old state is touched.
//! A transfer that breaks off leaves its whole files to the next one. The sender sends no faster than
//! its [`Rate`](super::rate::Rate).
//!
//! Invariants: at most one snapshot is received at a time (`Staged` holds the permit); a staging
//! directory is removed when its `Staged` is dropped, and all of them at start.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use prometheus::{HistogramVec, IntCounterVec};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use varve_disk::Disk;
use varve_lsm::{Checkpoint, Db};
use varve_raftnode::{Applied, Message, Node};
use varve_store::Mark;

use super::frame::{self, Fields, FrameError, FrameKind, StreamKind};
use super::parts::Parts;
use super::stream::PeerStream;
use super::{Context, PeerAddress, hex, node, outbound};
use crate::background::applied_at;
use crate::limits;
use crate::raft::RaftInput;

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
static NEXT_STAGING: AtomicU64 = AtomicU64::new(0);

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

/// Sends snapshots to one peer, one after the other, for the life of the process.
pub(super) async fn send_all(
    context: Arc<Context>,
    peer: PeerAddress,
    mut queue: mpsc::Receiver<Message>,
) {
    while let Some(message) = queue.recv().await {
        let (started, to) = (Instant::now(), hex(peer.id));
        let outcome = send(&context, &peer, &message).await;
        let metrics = &context.metrics;
        let counters = [&metrics.snapshot_send_success, &metrics.snapshot_send_failures];
        count(outcome.is_ok(), counters, &metrics.snapshot_send_seconds, &to, started);
        if let Err(error) = &outcome {
            tracing::warn!(to = hex(peer.id), error = %error, "failed to send database snapshot");
            // Raft asks again at once, and each attempt costs both sides.
            sleep(limits::SNAPSHOT_RETRY_PAUSE).await;
        }
        let report = RaftInput::SnapshotSent { to: node(peer.id), delivered: outcome.is_ok() };
        let raft = context.raft.clone();
        // The report must not be lost, or Raft never tries again; it may wait, this task not.
        let _ = tokio::task::spawn_blocking(move || raft.send(report)).await;
    }
}

pub(super) async fn send(
    context: &Context,
    peer: &PeerAddress,
    message: &Message,
) -> Result<u64, FrameError> {
    let checkpoint = context.db.checkpoint();
    let mark = applied_at(&checkpoint.mark, &context.view).map_err(own_state)?;
    let message = Node::snapshot_message(message, &mark).map_err(own_state)?;
    let mut stream = outbound::connect(context, peer, StreamKind::Snapshot).await?;
    let offer = encode_offer(&checkpoint);
    write(&mut stream, FrameKind::SnapshotOffer, &offer).await?;
    let wanted = answer(&mut stream, FrameKind::SnapshotWanted, "an answer to a snapshot offer");
    let wanted = wanted.await?;
    let mut sent_bytes = 0;
    let mut fields = Fields::new("a list of wanted files", &wanted);
    for _ in 0..fields.u32()? {
        let index = fields.u32()?;
        let file = checkpoint.files.get(index as usize).ok_or_else(|| {
            FrameError::malformed(
                format!("a file number below {}", checkpoint.files.len()),
                index.to_string(),
            )
        })?;
        sent_bytes += send_file(context, &mut stream, index, &file.content).await?;
    }
    write(&mut stream, FrameKind::SnapshotEnd, &message.bytes).await?;
    answer(&mut stream, FrameKind::SnapshotDone, "a confirmed snapshot").await?;
    let of_bytes: u64 = checkpoint.files.iter().map(|file| file.content.len() as u64).sum();
    tracing::info!(to = hex(peer.id), bytes = sent_bytes, of_bytes, "sent database snapshot");
    Ok(sent_bytes)
}

async fn send_file(
    context: &Context,
    stream: &mut PeerStream,
    index: u32,
    content: &Bytes,
) -> Result<u64, FrameError> {
    let mut offset = 0;
    while offset < content.len() {
        let end = content.len().min(offset + limits::SNAPSHOT_CHUNK_BYTES);
        context.snapshot_rate.wait(end - offset).await;
        let (db, chunk) = (context.db.clone(), content.slice(offset..end));
        // The file is mapped and may be cold: this thread also carries heartbeats.
        let payload = blocking(move || {
            db.will_read(&chunk);
            let mut payload = BytesMut::with_capacity(12 + chunk.len());
            payload.put_u32_le(index);
            payload.put_u64_le(offset as u64);
            payload.put_slice(&chunk);
            payload
        });
        write(stream, FrameKind::SnapshotChunk, &payload.await?).await?;
        offset = end;
    }
    Ok(content.len() as u64)
}

/// Writes a frame; a peer that takes nothing for long has gone.
async fn write(stream: &mut PeerStream, kind: FrameKind, payload: &[u8]) -> Result<(), FrameError> {
    timeout(limits::SNAPSHOT_STEP_TIMEOUT, frame::write(stream, kind, payload))
        .await
        .map_err(|_| FrameError::malformed("a peer that takes a snapshot", "silence"))??;
    Ok(())
}

async fn answer(stream: &mut PeerStream, kind: FrameKind, what: &str) -> Result<Bytes, FrameError> {
    timeout(limits::SNAPSHOT_STEP_TIMEOUT, frame::expect(stream, kind))
        .await
        .map_err(|_| FrameError::malformed(what, "silence"))?
}

/// Runs what may wait for the disk on another thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FrameError> {
    tokio::task::spawn_blocking(work).await.map_err(own_state)
}

/// What a sender says about one file.
#[derive(Clone)]
pub(super) struct OfferedFile {
    pub(super) name: String,
    /// xxh3-128 of its content.
    pub(super) digest: u128,
    pub(super) bytes: u64,
}

pub(super) fn encode_offer(checkpoint: &Checkpoint) -> Bytes {
    let mut offer = BytesMut::new();
    offer.put_u32_le(u32::try_from(checkpoint.manifest.len()).expect("manifests are small"));
    offer.put_slice(&checkpoint.manifest);
    offer.put_u32_le(u32::try_from(checkpoint.files.len()).expect("files are countable"));
    for file in &checkpoint.files {
        offer.put_u16_le(u16::try_from(file.name.len()).expect("names are short"));
        offer.put_slice(file.name.as_bytes());
        offer.put_u128_le(file.digest);
        offer.put_u64_le(file.content.len() as u64);
    }
    offer.freeze()
}

fn decode_offer(payload: &[u8]) -> Result<(Bytes, Vec<OfferedFile>), FrameError> {
    let mut fields = Fields::new("a snapshot offer", payload);
    let manifest_bytes = fields.u32()? as usize;
    let manifest = Bytes::copy_from_slice(fields.slice(manifest_bytes)?);
    let mut files = Vec::new();
    for _ in 0..fields.u32()? {
        let name_bytes = u16::from_le_bytes(fields.take()?);
        let name = fields.slice(usize::from(name_bytes))?;
        let name =
            std::str::from_utf8(name).ok().filter(|name| is_file_name(name)).ok_or_else(|| {
                FrameError::malformed(
                    "a file name of letters, digits and dots",
                    format!("{name:02x?}"),
                )
            })?;
        let (name, digest) = (name.to_owned(), u128::from_le_bytes(fields.take()?));
        files.push(OfferedFile { name, digest, bytes: fields.u64()? });
    }
    Ok((manifest, files))
}

/// Names come from another machine and become paths here.
fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
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

/// Receives one snapshot and hands it to the Raft thread.
pub(super) async fn receive(
    context: &Arc<Context>,
    stream: &mut PeerStream,
    from: u64,
) -> Result<(), FrameError> {
    let started = Instant::now();
    let outcome = receive_uncounted(context, stream, from).await;
    let metrics = &context.metrics;
    let counters = [&metrics.snapshot_receive_success, &metrics.snapshot_receive_failures];
    let seconds = &metrics.snapshot_receive_seconds;
    count(outcome.is_ok(), counters, seconds, &hex(from), started);
    outcome
}

async fn receive_uncounted(
    context: &Arc<Context>,
    stream: &mut PeerStream,
    from: u64,
) -> Result<(), FrameError> {
    let turn = Turn::take(&context.db)
        .ok_or_else(|| FrameError::malformed("one snapshot at a time", "a second one"))?;
    let outcome = receive_in_turn(context, stream, from, turn).await;
    if outcome.is_err() {
        tokio::spawn(let_go(Arc::clone(context), NEXT_STAGING.load(Ordering::Relaxed)));
    }
    outcome
}

async fn receive_in_turn(
    context: &Arc<Context>,
    stream: &mut PeerStream,
    from: u64,
    turn: Turn,
) -> Result<(), FrameError> {
    // Nobody else can send a snapshot meanwhile: silence must end.
    let offer =
        timeout(limits::SNAPSHOT_STEP_TIMEOUT, frame::expect(stream, FrameKind::SnapshotOffer))
            .await
            .map_err(|_| FrameError::malformed("a snapshot offer", "silence"))??;
    let (manifest, files) = decode_offer(&offer)?;
    let number = NEXT_STAGING.fetch_add(1, Ordering::Relaxed);
    let staged = Staged {
        manifest,
        dir: context.incoming.join(number.to_string()),
        disk: Arc::clone(&context.disk),
        turn: Some(turn),
    };
    context.disk.create_dir_all(&staged.dir).map_err(own_disk)?;
    let parts = Parts::new(&context.disk, &context.incoming);
    let of_files = files.len();
    let lacking: Vec<_> = (0_u32..)
        .zip(files)
        .filter(|(_, file)| !context.db.has_file(&file.name, file.digest))
        .collect();
    let (of_parts, lacking) = (parts.clone(), Arc::new(lacking));
    let wanted = Arc::clone(&lacking);
    let missing = blocking(move || of_parts.missing(&wanted)).await?.map_err(own_disk)?;
    let mut answer = BytesMut::new();
    answer.put_u32_le(missing.len() as u32);
    missing.iter().for_each(|(index, _)| answer.put_u32_le(*index));
    frame::write(stream, FrameKind::SnapshotWanted, &answer).await?;
    tracing::info!(
        from = hex(from),
        files = of_files,
        wanted = missing.len(),
        kept = lacking.len() - missing.len(),
        "receiving database snapshot"
    );

    let message = parts.receive(stream, &missing).await?;
    let dir = staged.dir.clone();
    blocking(move || parts.hand_over(&lacking, &dir)).await?.map_err(own_disk)?;
    let staged = check(context, staged, &message).await?;
    let input = RaftInput::Snapshot { from: node(from), message, staged };
    let raft = context.raft.clone();
    let _ = tokio::task::spawn_blocking(move || raft.send(input)).await;
    frame::write(stream, FrameKind::SnapshotDone, &[]).await?;
    Ok(())
}

/// What a transfer that failed has left is let go after a while, unless another one has begun since:
/// then that one cares for it, if it fails. `next` is the number that it will have.
async fn let_go(context: Arc<Context>, next: u64) {
    let turn = loop {
        sleep(limits::SNAPSHOT_PARTS_AGE_MAX).await;
        if NEXT_STAGING.load(Ordering::Relaxed) != next {
            return;
        }
        // Whoever has it may yet go without having begun.
        if let Some(turn) = Turn::take(&context.db) {
            break turn;
        }
    };
    let parts = Parts::new(&context.disk, &context.incoming);
    let cleared = blocking(move || {
        let cleared = parts.clear();
        drop(turn);
        cleared
    });
    if let Ok(Err(error)) = cleared.await {
        let text = "cannot remove files of a snapshot that broke off; the next start will";
        tracing::warn!(error = %error, "{text}");
    }
}

/// What was received is what was announced, and can be installed. Once it is with the Raft thread
/// nobody can refuse it any more.
async fn check(context: &Context, staged: Staged, message: &Bytes) -> Result<Staged, FrameError> {
    let announced = Node::snapshot_mark(message)
        .ok_or_else(|| FrameError::malformed("the announcement of a snapshot", "none"))?;
    let db = context.db.clone();
    // Reads all files once.
    let checked = blocking(move || {
        let sound = check_sound(&db, &staged, &announced);
        (staged, sound)
    });
    let (staged, sound) = checked.await?;
    sound.map(|()| staged)
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

pub(super) fn own_disk(error: varve_disk::Error) -> FrameError {
    FrameError::Own(error.to_string())
}

fn own_state(error: impl std::error::Error) -> FrameError {
    FrameError::Own(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_from_a_peer_cannot_leave_the_directory() {
        assert!(is_file_name("00000000000000a1.kt"));
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a b", "a\0"] {
            assert!(!is_file_name(name), "{name:?}");
        }
    }
}
