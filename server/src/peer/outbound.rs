//! One outgoing stream to one peer: dial, greet, then write what the queue holds, several frames
//! at a time.
//!
//! While the peer cannot be reached its queue is emptied: old Raft messages are worthless, and the
//! node is told, so that it stops streaming to that peer. They count as failures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::frame::{self, FrameError, FrameKind, Hello, StreamKind};
use super::stream::{self, PeerStream};
use super::{Context, Outgoing, PeerAddress, Stream, hex, node};
use crate::cluster::Cluster;
use crate::limits;
use crate::metrics::Metrics;
use crate::raft::RaftInput;

/// Runs until the member is none any more and its queue is empty.
pub(super) async fn run(context: Arc<Context>, peer: PeerAddress, stream: Stream) {
    let Stream { kind, connected, mut queue } = stream;
    // One of the two streams speaks for the member.
    let shown = (kind == StreamKind::Small).then(|| Shown::new(&context, &peer));
    let mut pause = limits::PEER_REDIAL_MIN;
    let mut was_up = true;
    loop {
        match connect(&context, &peer, kind).await {
            Ok(stream) => {
                let connected_at = Instant::now();
                was_up = true;
                connected.set(true);
                shown.iter().for_each(|shown| shown.set_active(true));
                tracing::info!(peer = hex(peer.id), stream = ?kind, "established a peer stream");
                match pump(&context, &peer, stream, &mut queue).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(peer = hex(peer.id), stream = ?kind, error = %error, "lost a peer stream");
                        if matches!(error, FrameError::Removed) {
                            context.cluster.publish_removed();
                        }
                    }
                }
                connected.set(false);
                shown.iter().for_each(|shown| shown.set_active(false));
                // A peer that accepts and then refuses is dialled as rarely as one that is away.
                if connected_at.elapsed() > limits::PEER_REDIAL_MAX {
                    pause = limits::PEER_REDIAL_MIN;
                }
            }
            Err(error) if was_up => {
                was_up = false;
                tracing::warn!(peer = hex(peer.id), stream = ?kind, error = %error, "cannot reach a peer");
            }
            Err(_) => {}
        }
        let _ = context.raft.try_send(RaftInput::Unreachable(node(peer.id)));
        let mut dropped = 0;
        while queue.try_recv().is_ok() {
            dropped += 1;
        }
        context.metrics.peer_sent_failures.with_label_values(&[&hex(peer.id)]).inc_by(dropped);
        if queue.is_closed() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(limits::PEER_REDIAL_MAX);
    }
}

/// A member in the metrics, as long as it is one.
struct Shown {
    metrics: Arc<Metrics>,
    own: String,
    peer: String,
}

impl Shown {
    fn new(context: &Context, peer: &PeerAddress) -> Self {
        let (own, peer) = (hex(context.cluster.member_id), hex(peer.id));
        let metrics = Arc::clone(&context.metrics);
        metrics.known_peers.with_label_values(&[&own, &peer]).set(1);
        metrics.active_peers.with_label_values(&[&own, &peer]).set(0);
        metrics.disconnected_peers.with_label_values(&[&own, &peer]);
        Self { metrics, own, peer }
    }

    fn set_active(&self, is_active: bool) {
        let labels = [self.own.as_str(), &self.peer];
        self.metrics.active_peers.with_label_values(&labels).set(i64::from(is_active));
        if !is_active {
            self.metrics.disconnected_peers.with_label_values(&labels).inc();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let labels = [self.own.as_str(), &self.peer];
        // They were made above.
        let _known = self.metrics.known_peers.remove_label_values(&labels);
        let _active = self.metrics.active_peers.remove_label_values(&labels);
    }
}

/// Dials the peer's addresses in order and sends the hello.
pub(super) async fn connect(
    context: &Context,
    peer: &PeerAddress,
    kind: StreamKind,
) -> Result<PeerStream, FrameError> {
    let mut failure = FrameError::malformed("a peer address", "none");
    // Who receives files waits for its disk.
    let silence_max = match kind {
        StreamKind::Snapshot => limits::SNAPSHOT_STEP_TIMEOUT,
        _ => limits::PEER_SILENCE_MAX,
    };
    for address in &peer.addresses {
        match stream::dial(address, context.tls.as_deref(), silence_max).await {
            Ok(mut stream) => {
                let hello = hello(context, peer.id, kind);
                frame::write(&mut stream, FrameKind::Hello, &hello.encode()).await?;
                return Ok(stream);
            }
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// Says who this member is and where, as far as it has applied its own membership.
pub fn hello(context: &Context, to: u64, stream: StreamKind) -> Hello {
    let Cluster { cluster_id, member_id: from, .. } = *context.cluster;
    // The index first: what is read after it is as of there, or of later.
    let as_of = context.cluster.applied();
    // Who cannot read its own state has nothing to say.
    let members = context.view.members().unwrap_or_default();
    let own = members.into_iter().find(|member| member.id == from);
    let urls = own.map(|member| member.peer_urls).unwrap_or_default().into_iter();
    let urls = urls.filter(|url| url.len() <= limits::PEER_HELLO_URL_BYTES_MAX);
    let urls = urls.take(limits::PEER_HELLO_URLS_MAX).collect();
    Hello { cluster_id, from, to, stream, as_of, urls }
}

/// Writes queued frames until the stream fails (`Err`) or the queue's senders are gone (`Ok`).
async fn pump(
    context: &Context,
    peer: &PeerAddress,
    stream: PeerStream,
    queue: &mut mpsc::Receiver<Outgoing>,
) -> Result<(), FrameError> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = BytesMut::with_capacity(limits::PEER_WRITE_BYTES_TARGET);
    let mut received = [0; 1];
    let sent = context.metrics.peer_sent_bytes.with_label_values(&[&hex(peer.id)]);
    loop {
        // The share is given back when the frame is in the buffer.
        let (kind, payload, _share) = tokio::select! {
            next = queue.recv() => match next {
                Some(next) => next,
                None => return Ok(()),
            },
            // The peer sends nothing on this stream but a refusal; its end is the news.
            read = reader.read(&mut received) => {
                let length = read?;
                return Err(refusal(&mut reader, &received[..length]).await);
            }
        };
        buffer.extend_from_slice(&frame::encode(kind, &payload));
        while buffer.len() < limits::PEER_WRITE_BYTES_TARGET {
            let Ok((kind, payload, _share)) = queue.try_recv() else { break };
            buffer.extend_from_slice(&frame::encode(kind, &payload));
        }
        let write = async {
            writer.write_all(&buffer).await?;
            // TLS keeps what the socket had no room for.
            writer.flush().await
        };
        timeout(limits::PEER_SILENCE_MAX, write)
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        sent.inc_by(buffer.len() as u64);
        buffer.clear();
        if buffer.capacity() > 4 * limits::PEER_WRITE_BYTES_TARGET {
            buffer = BytesMut::with_capacity(limits::PEER_WRITE_BYTES_TARGET);
        }
    }
}

/// Why the peer ended the stream, if it said so.
async fn refusal(reader: &mut (impl AsyncRead + Unpin), first: &[u8]) -> FrameError {
    if first.is_empty() {
        return std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into();
    }
    let mut whole = tokio::io::AsyncReadExt::chain(first, reader);
    match timeout(Duration::from_secs(1), frame::expect(&mut whole, FrameKind::Refused)).await {
        Ok(Ok(reason)) if reason == frame::REMOVED.as_bytes() => FrameError::Removed,
        Ok(Ok(reason)) => FrameError::Refused(String::from_utf8_lossy(&reason).into_owned()),
        Ok(Err(error)) => error,
        Err(_) => std::io::Error::from(std::io::ErrorKind::TimedOut).into(),
    }
}
