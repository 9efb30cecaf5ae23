//! Raft messages to and from the other members.
//!
//! Each member dials each other member twice: one stream for small messages (heartbeats, votes,
//! acknowledgements, lease questions), one for appends with entries, so that a large append never
//! delays a heartbeat. A snapshot gets a stream of its own. Streams carry one direction only.
//! All of it runs on one thread with its own runtime; one slow or dead peer delays no other,
//! because every peer has its own tasks and its own bounded queues.
//!
//! A full queue drops the message: Raft sends again what matters. Lost connections are dialled
//! again with growing pauses. Frames and handshake: docs/FORMAT.md section 5.
//!
//! What it does not do: knowing what a message means.

pub mod frame;
pub mod hash;
mod inbound;
mod outbound;
pub mod snapshot;
pub mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::Sender;
use tokio::sync::mpsc;
use varve_disk::Disk;
use varve_lsm::Db;
use varve_raftnode::{Message, MessageClass, NodeId};
use varve_store::View;

use crate::apply::ToWorker;
use crate::cluster::Cluster;
use crate::lease::Lessor;
use crate::limits;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::peer::frame::{FrameKind, LeaseQuestion, StreamKind};
use crate::raft::RaftInput;
use crate::request::BootNonce;
use crate::tls::TlsSource;

/// Another member, and where it listens for peers (see [`stream`]), tried in order.
#[derive(Clone, Debug)]
pub struct PeerAddress {
    /// Its id.
    pub id: u64,
    /// From its advertised peer URLs.
    pub addresses: Vec<String>,
}

/// Where members connect to.
#[derive(Debug)]
pub struct PeerListener {
    /// Bound, and listening.
    pub socket: std::net::TcpListener,
    /// Whether TLS is spoken.
    pub is_secure: bool,
}

/// What the peer thread works with.
pub struct Context {
    /// Ids of this member and its cluster.
    pub cluster: Arc<Cluster>,
    /// Where incoming messages go.
    pub raft: Sender<RaftInput>,
    /// Answers lease questions while this member leads.
    pub lessor: Arc<Lessor>,
    /// Where lease answers go.
    pub workers: Vec<Mailbox<ToWorker>>,
    /// Finds the socket thread that waits for a lease answer.
    pub boot_nonce: BootNonce,
    /// How members are spoken to whose URLs are https.
    pub tls: Option<Arc<TlsSource>>,
    /// Where files are received.
    pub disk: Arc<dyn Disk>,
    /// A directory for incoming snapshots; emptied at start.
    pub incoming: PathBuf,
    /// What snapshots are made of.
    pub db: Db,
    /// Who the members are.
    pub view: View,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Queues to every other member; cheap to clone, used from any thread.
#[derive(Clone)]
pub struct Peers {
    queues: Arc<HashMap<u64, Queues>>,
    metrics: Arc<Metrics>,
}

struct Queues {
    small: mpsc::Sender<Outgoing>,
    bulk: mpsc::Sender<Outgoing>,
    snapshots: mpsc::Sender<Message>,
}

/// A frame to be sent.
type Outgoing = (FrameKind, Bytes);

struct Receivers {
    peer: PeerAddress,
    small: mpsc::Receiver<Outgoing>,
    bulk: mpsc::Receiver<Outgoing>,
    snapshots: mpsc::Receiver<Message>,
}

/// The receiving ends, to be run.
pub struct PeerQueues(Vec<Receivers>);

impl Peers {
    /// Queues for these members.
    pub fn new(peers: Vec<PeerAddress>, metrics: Arc<Metrics>) -> (Self, PeerQueues) {
        let mut queues = HashMap::new();
        let mut receivers = Vec::new();
        for peer in peers {
            let (small_sender, small) = mpsc::channel(limits::PEER_SMALL_QUEUE_MAX);
            let (bulk_sender, bulk) = mpsc::channel(limits::PEER_BULK_QUEUE_MAX);
            let (snapshot_sender, snapshots) = mpsc::channel(1);
            queues.insert(
                peer.id,
                Queues { small: small_sender, bulk: bulk_sender, snapshots: snapshot_sender },
            );
            receivers.push(Receivers { peer, small, bulk, snapshots });
        }
        (Self { queues: Arc::new(queues), metrics }, PeerQueues(receivers))
    }

    /// Queues a Raft message; dropped when the queue is full or the member unknown.
    pub fn send(&self, message: Message) {
        let Some(queues) = self.queues.get(&message.to.0) else { return };
        let queue = match message.class {
            MessageClass::Bulk => &queues.bulk,
            MessageClass::Small | MessageClass::Snapshot => &queues.small,
        };
        if queue.try_send((FrameKind::Raft, message.bytes)).is_err() {
            self.metrics.peer_sent_failures.with_label_values(&[&hex(message.to.0)]).inc();
        }
    }

    /// Starts sending a snapshot; false if one is under way to that member, or it is unknown.
    pub fn send_snapshot(&self, message: Message) -> bool {
        let queues = self.queues.get(&message.to.0);
        queues.is_some_and(|queues| queues.snapshots.try_send(message).is_ok())
    }

    /// Asks a member about a lease; no answer comes when its queue is full.
    pub fn ask_about_lease(&self, member: u64, question: &LeaseQuestion) {
        self.send_frame(member, FrameKind::LeaseQuestion, question.encode());
    }

    /// Asks a member for a hash; no answer comes when its queue is full.
    pub fn ask_for_hash(&self, member: u64, question: &hash::HashQuestion) {
        self.send_frame(member, FrameKind::HashQuestion, question.encode());
    }

    fn send_frame(&self, member: u64, kind: FrameKind, payload: Bytes) {
        if let Some(queues) = self.queues.get(&member) {
            let _ = queues.small.try_send((kind, payload));
        }
    }
}

impl PeerQueues {
    /// Runs all peer traffic on the calling thread until the process ends.
    pub async fn run(self, context: Arc<Context>, peers: Peers, listeners: Vec<PeerListener>) {
        for receivers in self.0 {
            let Receivers { peer, small, bulk, snapshots } = receivers;
            tokio::spawn(outbound::run(
                Arc::clone(&context),
                peer.clone(),
                StreamKind::Small,
                small,
            ));
            tokio::spawn(outbound::run(Arc::clone(&context), peer.clone(), StreamKind::Bulk, bulk));
            tokio::spawn(snapshot::send_all(Arc::clone(&context), peer, snapshots));
        }
        let mut tasks = Vec::new();
        for listener in listeners {
            tasks.push(tokio::spawn(inbound::listen(
                Arc::clone(&context),
                peers.clone(),
                listener,
            )));
        }
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(error = %error, "a peer listener ended");
            }
        }
        std::future::pending::<()>().await;
    }
}

/// For log lines: how ids are written everywhere.
fn hex(id: impl Into<u64>) -> String {
    format!("{:x}", id.into())
}

/// The node id of a member.
fn node(id: u64) -> NodeId {
    NodeId(id)
}

/// Socket options of every peer connection.
fn tune(stream: &tokio::net::TcpStream) {
    // Messages are small and latency is what a commit waits for.
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(limits::PEER_KEEPALIVE)
        .with_interval(limits::PEER_KEEPALIVE);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
}
