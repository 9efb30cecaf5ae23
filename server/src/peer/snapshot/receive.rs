//! Receiving: what is lacking here is asked for, checked, and handed to the Raft thread.
//!
//! One idea: the right to receive ([`Turn`]) is taken first and goes with what was received, so that
//! at most one snapshot is anywhere between its sender and the state machine.
//!
//! Files that arrive are kept by `parts.rs`; the engine checks the whole. What a transfer that failed
//! has left is let go after a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::{sleep, timeout};
use varve_raftnode::{Node, NodeId};

use super::offer::decode_offer;
use super::send::write;
use super::{Staged, Turn, blocking, check_sound, count, own_disk};
use crate::limits;
use crate::metrics::Held;
use crate::peer::frame::{self, FrameError, FrameKind};
use crate::peer::parts::Parts;
use crate::peer::stream::PeerStream;
use crate::peer::{Context, Peers, hex};
use crate::raft::RaftInput;

static NEXT_STAGING: AtomicU64 = AtomicU64::new(0);

/// Receives one snapshot and hands it to the Raft thread.
pub(in crate::peer) async fn receive(
    context: &Arc<Context>,
    peers: &Peers,
    stream: &mut PeerStream,
    from: u64,
) -> Result<(), FrameError> {
    let (started, metrics) = (Instant::now(), &context.metrics);
    let under_way = Held::new(&metrics.snapshots_in_receiving.with_label_values(&[&hex(from)]));
    let outcome = receive_uncounted(context, peers, stream, from).await;
    drop(under_way);
    let counters = [&metrics.snapshot_receive_success, &metrics.snapshot_receive_failures];
    let seconds = &metrics.snapshot_receive_seconds;
    count(outcome.is_ok(), counters, seconds, &hex(from), started);
    if outcome.is_ok() {
        metrics.snap_db_save_seconds.observe(started.elapsed().as_secs_f64());
    }
    outcome
}

async fn receive_uncounted(
    context: &Arc<Context>,
    peers: &Peers,
    stream: &mut PeerStream,
    from: u64,
) -> Result<(), FrameError> {
    let turn = Turn::take(&context.db)
        .ok_or_else(|| FrameError::malformed("one snapshot at a time", "a second one"))?;
    let outcome = receive_in_turn(context, peers, stream, from, turn).await;
    if outcome.is_err() {
        tokio::spawn(let_go(Arc::clone(context), NEXT_STAGING.load(Ordering::Relaxed)));
    }
    outcome
}

async fn receive_in_turn(
    context: &Arc<Context>,
    peers: &Peers,
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
    write(stream, FrameKind::SnapshotWanted, &answer).await?;
    tracing::info!(
        from = hex(from),
        files = of_files,
        wanted = missing.len(),
        kept = lacking.len() - missing.len(),
        "receiving database snapshot"
    );

    let message = parts.receive(stream, &missing).await?;
    let received = context.metrics.peer_received_bytes.with_label_values(&[&hex(from)]);
    received.inc_by(missing.iter().map(|(_, file)| file.bytes).sum());
    let dir = staged.dir.clone();
    blocking(move || parts.hand_over(&lacking, &dir)).await?.map_err(own_disk)?;
    let staged = check(context, staged, &message).await?;
    let from = leader(peers, from, &message)?;
    let input = RaftInput::Snapshot { from, message, staged };
    let raft = context.raft.clone();
    let _ = tokio::task::spawn_blocking(move || raft.send(input)).await;
    write(stream, FrameKind::SnapshotDone, &[]).await?;
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

/// In whose name it was sent: the leader's, who is answered; it may have asked another to send it.
fn leader(peers: &Peers, from: u64, message: &Bytes) -> Result<NodeId, FrameError> {
    let leader =
        Node::sender(message).filter(|leader| leader.0 == from || peers.is_known(leader.0));
    leader.ok_or_else(|| {
        let found = format!("{:?}", Node::sender(message));
        FrameError::malformed("a snapshot in the name of a member", found)
    })
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
