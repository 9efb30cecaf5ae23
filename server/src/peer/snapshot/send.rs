//! Sending: the engine's files as they are pinned, those that the receiver wants.
//!
//! One idea: one task a peer, one snapshot after the other; whatever comes of one is reported to
//! Raft, which sends that peer nothing else before, or to the leader that asked for it.
//!
//! A file is read on another thread: it is mapped and may be cold. A peer that takes nothing, or
//! answers nothing, for long has gone.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use prometheus::IntCounter;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use varve_raftnode::{Applied, Message, Node};

use super::offer::encode_offer;
use super::{blocking, count, own_state};
use crate::background::applied_at;
use crate::limits;
use crate::metrics::Held;
use crate::peer::frame::{self, Fields, FrameError, FrameKind, StreamKind};
use crate::peer::lend::{Lent, SnapshotJob};
use crate::peer::stream::PeerStream;
use crate::peer::{Context, PeerAddress, Peers, hex, node, outbound};
use crate::raft::RaftInput;

/// Sends snapshots to one peer, one after the other, for the life of the process.
pub(in crate::peer) async fn send_all(
    context: Arc<Context>,
    peers: Peers,
    peer: PeerAddress,
    mut queue: mpsc::Receiver<SnapshotJob>,
) {
    while let Some(SnapshotJob { message, asker }) = queue.recv().await {
        let (started, to) = (Instant::now(), hex(peer.id));
        let metrics = &context.metrics;
        let under_way = Held::new(&metrics.snapshots_in_sending.with_label_values(&[&to]));
        let work = send(&context, &peer, &message);
        let outcome = match asker {
            None => work.await,
            Some(asker) => telling(|| peers.tell_snapshot(asker, peer.id, Lent::Going), work).await,
        };
        drop(under_way);
        let counters = [&metrics.snapshot_send_success, &metrics.snapshot_send_failures];
        count(outcome.is_ok(), counters, &metrics.snapshot_send_seconds, &to, started);
        if let Err(error) = &outcome {
            tracing::warn!(to = hex(peer.id), error = %error, "failed to send database snapshot");
        }
        if let Some(asker) = asker {
            let lent = if outcome.is_ok() { Lent::Delivered } else { Lent::Failed };
            peers.tell_snapshot(asker, peer.id, lent);
            continue;
        }
        if outcome.is_err() {
            // Raft asks again at once, and each attempt costs both sides.
            sleep(limits::SNAPSHOT_RETRY_PAUSE).await;
        }
        let report = RaftInput::SnapshotSent { to: node(peer.id), delivered: outcome.is_ok() };
        let raft = context.raft.clone();
        // The report must not be lost, or Raft never tries again; it may wait, this task not.
        let _ = tokio::task::spawn_blocking(move || raft.send(report)).await;
    }
}

/// Does the work, and says now and then that it goes on.
async fn telling<T>(say: impl Fn(), work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        match timeout(limits::SNAPSHOT_LENT_WORD, work.as_mut()).await {
            Ok(done) => return done,
            Err(_) => say(),
        }
    }
}

/// The announcement of what is here, if that helps the receiver.
///
/// # Errors
/// It is older than what is asked for, or the receiver is no member in it.
pub fn announce(message: &Message, mark: &Applied) -> Result<Message, FrameError> {
    if !mark.voters.contains(&message.to) && !mark.learners.contains(&message.to) {
        return Err(FrameError::malformed(
            format!("a state in which {} is a member", hex(message.to.0)),
            format!("{mark:?}"),
        ));
    }
    Node::snapshot_message(message, mark).map_err(own_state)
}

pub(in crate::peer) async fn send(
    context: &Context,
    peer: &PeerAddress,
    message: &Message,
) -> Result<u64, FrameError> {
    let checkpoint = context.db.checkpoint();
    let mark = applied_at(&checkpoint.mark, &context.view).map_err(own_state)?;
    let message = announce(message, &mark)?;
    let mut stream = outbound::connect(context, peer, StreamKind::Snapshot).await?;
    let offer = encode_offer(&checkpoint);
    write(&mut stream, FrameKind::SnapshotOffer, &offer).await?;
    let wanted = answer(&mut stream, FrameKind::SnapshotWanted, "an answer to a snapshot offer");
    let wanted = wanted.await?;
    let sent = context.metrics.peer_sent_bytes.with_label_values(&[&hex(peer.id)]);
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
        sent_bytes += send_file(context, &mut stream, index, &file.content, &sent).await?;
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
    sent: &IntCounter,
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
        let payload = payload.await?;
        write(stream, FrameKind::SnapshotChunk, &payload).await?;
        sent.inc_by(payload.len() as u64);
        offset = end;
    }
    Ok(content.len() as u64)
}

/// Writes a frame; a peer that takes nothing for long has gone.
pub(super) async fn write(
    stream: &mut PeerStream,
    kind: FrameKind,
    payload: &[u8],
) -> Result<(), FrameError> {
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
