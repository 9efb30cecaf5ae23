//! Raft messages to and from the other members.
//!
//! Each member dials each other member twice: one stream for small messages (heartbeats, votes,
//! acknowledgements, lease questions), one for appends with entries, so that a large append never
//! delays a heartbeat. A snapshot gets a stream of its own. Streams carry one direction only.
//! All of it runs on one thread with its own runtime; one slow or dead peer delays no other,
//! because every peer has its own tasks and its own bounded queues.
//!
//! A full queue drops the message: Raft sends again what matters, and is told of appends that were
//! dropped. Lost connections are dialled
//! again with growing pauses. Frames and handshake: docs/FORMAT.md section 5.
//!
//! What it does not do: knowing what a message means.

pub mod call;
pub mod frame;
pub mod hash;
pub mod inbound;
pub mod lend;
mod outbound;
mod parts;
pub mod rate;
pub mod snapshot;
pub mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use varve_disk::Disk;
use varve_lsm::Db;
use varve_raftnode::{Message, MessageClass, NodeId};
use varve_store::{Member, View};

use crate::apply::ToWorker;
use crate::cluster::Cluster;
use crate::lease::Lessor;
use crate::limits;
use crate::listener::BoundSocket;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::peer::call::{Call, CallAnswer};
use crate::peer::frame::{FrameKind, LeaseQuestion, StreamKind};
use crate::peer::lend::SnapshotJob;
pub use crate::peer::outbound::hello;
use crate::peer::rate::Rate;
use crate::queue::Sender;
use crate::raft::RaftInput;
use crate::request::{BootNonce, Budget, Share};
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
    pub socket: BoundSocket,
    /// Whether TLS is spoken.
    pub is_secure: bool,
}

/// Where all members but `own` listen.
pub fn others(members: &[Member], own: u64) -> Vec<PeerAddress> {
    let others = members.iter().filter(|member| member.id != own);
    others
        .map(|member| PeerAddress {
            id: member.id,
            addresses: stream::addresses_of(&member.peer_urls),
        })
        .collect()
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
    /// How fast snapshots go out.
    pub snapshot_rate: Rate,
    /// What snapshots are made of.
    pub db: Db,
    /// Who the members are.
    pub view: View,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Queues to every other member; cheap to clone, used from any thread. Members come and go
/// ([`Peers::set_members`]), or say themselves where they are (`Peers::learn`); a message to an
/// unknown one is dropped.
#[derive(Clone)]
pub struct Peers {
    known: Arc<RwLock<Known>>,
    added: mpsc::UnboundedSender<Receivers>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Known {
    queues: HashMap<u64, Queues>,
    /// What members that are ahead of this one have said of themselves: addresses, and as of which
    /// index. It counts before what the own state says, until that has come so far.
    learnt: HashMap<u64, (Vec<String>, u64)>,
}

struct Queues {
    addresses: Vec<String>,
    small: mpsc::Sender<Outgoing>,
    bulk: mpsc::Sender<Outgoing>,
    /// What waits in `bulk` may take of the memory.
    bulk_room: Budget,
    snapshots: mpsc::Sender<SnapshotJob>,
    connected: Connected,
    /// When its Raft last said something; a member that is frozen stays connected.
    heard: Mutex<Option<Instant>>,
}

/// Since when the stream for small messages is up.
#[derive(Clone, Default)]
struct Connected(Arc<Mutex<Option<Instant>>>);

impl Connected {
    fn set(&self, is_up: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = is_up.then(Instant::now);
    }

    fn get(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A frame to be sent, and its share of the memory.
type Outgoing = (FrameKind, Bytes, Option<Share>);

struct Receivers {
    peer: PeerAddress,
    small: mpsc::Receiver<Outgoing>,
    bulk: mpsc::Receiver<Outgoing>,
    snapshots: mpsc::Receiver<SnapshotJob>,
    connected: Connected,
}

/// The receiving ends of members as they come, to be run.
pub struct PeerQueues(mpsc::UnboundedReceiver<Receivers>);

impl Peers {
    /// Queues for these members.
    pub fn new(peers: Vec<PeerAddress>, metrics: Arc<Metrics>) -> (Self, PeerQueues) {
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded by the members that are added while the process lives"
        )]
        let (added, receivers) = mpsc::unbounded_channel();
        let this = Self { known: Arc::default(), added, metrics };
        this.set_members(peers, 0);
        (this, PeerQueues(receivers))
    }

    /// From now on these are the others, as of an applied index. Queues to the rest are closed, and
    /// what is in them still goes out; a member that moved gets new ones.
    pub fn set_members(&self, peers: Vec<PeerAddress>, applied: u64) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let Known { queues, learnt } = &mut *known;
        learnt.retain(|_, (_, as_of)| *as_of > applied);
        // In order: a simulation must find the same queues in the same places.
        let mut wanted: BTreeMap<u64, Vec<String>> =
            peers.into_iter().map(|peer| (peer.id, peer.addresses)).collect();
        wanted.extend(learnt.iter().map(|(id, (addresses, _))| (*id, addresses.clone())));
        queues.retain(|id, known| wanted.get(id) == Some(&known.addresses));
        for (id, addresses) in wanted {
            queues.entry(id).or_insert_with(|| self.connect(PeerAddress { id, addresses }));
        }
    }

    /// A member says where it is as of an index, and this one has applied the log up to `applied`. It
    /// is believed if it has applied more, and if there are not too many.
    fn learn(&self, id: u64, addresses: Vec<String>, as_of: u64, applied: u64) {
        if as_of <= applied || addresses.is_empty() {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let Known { queues, learnt } = &mut *known;
        let is_news = queues.get(&id).is_none_or(|known| known.addresses != addresses);
        let has_room = learnt.len() < limits::PEERS_LEARNT_MAX || learnt.contains_key(&id);
        if !is_news || !has_room {
            return;
        }
        tracing::info!(peer = hex(id), ?addresses, as_of, applied, "learnt where a member is");
        learnt.insert(id, (addresses.clone(), as_of));
        queues.insert(id, self.connect(PeerAddress { id, addresses }));
    }

    /// Queues to a member, and the other ends to who runs them.
    fn connect(&self, peer: PeerAddress) -> Queues {
        let (small_sender, small) = mpsc::channel(limits::PEER_SMALL_QUEUE_MAX);
        let (bulk_sender, bulk) = mpsc::channel(limits::PEER_BULK_QUEUE_MAX);
        let (snapshot_sender, snapshots) = mpsc::channel(1);
        let connected = Connected::default();
        let queues = Queues {
            addresses: peer.addresses.clone(),
            small: small_sender,
            bulk: bulk_sender,
            bulk_room: Budget::new(limits::PEER_BULK_BYTES_MAX),
            snapshots: snapshot_sender,
            connected: connected.clone(),
            heard: Mutex::default(),
        };
        // Nobody receives when the process ends, or in a test without a peer thread.
        let _ = self.added.send(Receivers { peer, small, bulk, snapshots, connected });
        queues
    }

    /// Whether this is one of the others.
    pub fn is_known(&self, member: u64) -> bool {
        self.with(member, |_| ()).is_some()
    }

    /// Whether this member has a connection to that one.
    pub fn is_connected(&self, member: u64) -> bool {
        self.with(member, |queues| queues.connected.get().is_some()) == Some(true)
    }

    /// Since when this member has a connection to that one; none if it has not, or if nothing was heard
    /// of the other's Raft for longer than `silence_max`.
    pub fn connected_since(&self, member: u64, silence_max: Duration) -> Option<Instant> {
        let heard_in_time = |queues: &Queues| {
            let heard = *queues.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.is_some_and(|at| at.elapsed() <= silence_max)
        };
        let since = |queues: &Queues| queues.connected.get().filter(|_| heard_in_time(queues));
        self.with(member, since).flatten()
    }

    /// A message of that member's Raft has come.
    fn hear(&self, member: u64) {
        self.with(member, |queues| {
            *queues.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        });
    }

    /// What another carrier than the peer thread knows of its way to a member, told now and then.
    pub fn set_connected(&self, member: u64, is_up: bool) {
        self.with(member, |queues| {
            if queues.connected.get().is_some() != is_up {
                queues.connected.set(is_up);
            }
        });
        if is_up {
            self.hear(member);
        }
    }

    /// Queues a Raft message; false if it is dropped, because the queue is full or the member
    /// unknown.
    pub fn send(&self, message: Message) -> bool {
        let is_queued = self.with(message.to.0, |queues| {
            let bytes = message.bytes.clone();
            match message.class {
                MessageClass::Bulk => queues.bulk_room.take(bytes.len()).is_some_and(|share| {
                    queues.bulk.try_send((FrameKind::Raft, bytes, Some(share))).is_ok()
                }),
                MessageClass::Small | MessageClass::Snapshot => {
                    queues.small.try_send((FrameKind::Raft, bytes, None)).is_ok()
                }
            }
        });
        if is_queued == Some(false) {
            self.metrics.peer_sent_failures.with_label_values(&[&hex(message.to.0)]).inc();
        }
        is_queued.unwrap_or(false)
    }

    /// Starts sending a snapshot; false if one is under way to that member, or it is unknown.
    pub fn send_snapshot(&self, message: Message) -> bool {
        self.queue_snapshot(SnapshotJob { message, asker: None })
    }

    fn queue_snapshot(&self, job: SnapshotJob) -> bool {
        let to = job.message.to.0;
        self.with(to, |queues| queues.snapshots.try_send(job).is_ok()) == Some(true)
    }

    /// Asks a member about a lease; no answer comes when its queue is full.
    pub fn ask_about_lease(&self, member: u64, question: &LeaseQuestion) {
        self.send_frame(member, FrameKind::LeaseQuestion, question.encode());
    }

    /// Asks a member for a hash; no answer comes when its queue is full.
    pub fn ask_for_hash(&self, member: u64, question: &hash::HashQuestion) {
        self.send_frame(member, FrameKind::HashQuestion, question.encode());
    }

    /// Asks a member, the leader, to change the membership; no answer comes when its queue is full.
    pub fn call(&self, member: u64, call: &Call) {
        self.send_frame(member, FrameKind::Call, call.encode());
    }

    /// Answers a member's call.
    pub fn answer_call(&self, member: u64, answer: &CallAnswer) {
        self.send_frame(member, FrameKind::CallAnswer, answer.encode());
    }

    /// False if its queue is full, or nobody has this id.
    fn send_frame(&self, member: u64, kind: FrameKind, payload: Bytes) -> bool {
        let send = |queues: &Queues| queues.small.try_send((kind, payload, None)).is_ok();
        self.with(member, send) == Some(true)
    }

    fn with<T>(&self, member: u64, work: impl FnOnce(&Queues) -> T) -> Option<T> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.queues.get(&member).map(work)
    }
}

/// What another carrier than the peer thread takes off the queues.
#[derive(Debug)]
pub enum Carried {
    /// A frame of a stream.
    Frame(StreamKind, FrameKind, Bytes),
    /// A snapshot is asked for; the carrier owes a report to the Raft thread, or to who asked.
    Snapshot(SnapshotJob),
}

/// The queues of all members, for a carrier that is no peer thread: a simulated network.
#[derive(Default)]
pub struct Carrier {
    receivers: Vec<Receivers>,
}

impl Carrier {
    /// Everything that waits now, with whom it is for; in order for each stream.
    pub fn take(&mut self, queues: &mut PeerQueues) -> Vec<(u64, Carried)> {
        while let Ok(receivers) = queues.0.try_recv() {
            self.receivers.push(receivers);
        }
        let mut taken = Vec::new();
        for receivers in &mut self.receivers {
            let to = receivers.peer.id;
            while let Ok((kind, payload, _share)) = receivers.small.try_recv() {
                taken.push((to, Carried::Frame(StreamKind::Small, kind, payload)));
            }
            while let Ok((kind, payload, _share)) = receivers.bulk.try_recv() {
                taken.push((to, Carried::Frame(StreamKind::Bulk, kind, payload)));
            }
            while let Ok(job) = receivers.snapshots.try_recv() {
                taken.push((to, Carried::Snapshot(job)));
            }
        }
        self.receivers.retain(|receivers| !receivers.small.is_closed());
        taken
    }
}

impl PeerQueues {
    /// Runs all peer traffic on the calling thread until the process ends.
    pub async fn run(mut self, context: Arc<Context>, peers: Peers, listeners: Vec<PeerListener>) {
        for listener in listeners {
            tokio::spawn(inbound::listen(Arc::clone(&context), peers.clone(), listener));
        }
        // `peers` keeps the sending end: this ends with the process.
        while let Some(receivers) = self.0.recv().await {
            let Receivers { peer, small, bulk, snapshots, connected } = receivers;
            let context = || Arc::clone(&context);
            let small = Stream { kind: StreamKind::Small, connected, queue: small };
            let bulk =
                Stream { kind: StreamKind::Bulk, connected: Connected::default(), queue: bulk };
            tokio::spawn(outbound::run(context(), peer.clone(), small));
            tokio::spawn(outbound::run(context(), peer.clone(), bulk));
            tokio::spawn(snapshot::send::send_all(context(), peers.clone(), peer, snapshots));
        }
    }
}

/// One outgoing stream: what it carries, and from where.
struct Stream {
    kind: StreamKind,
    connected: Connected,
    queue: mpsc::Receiver<Outgoing>,
}

/// For log lines: how ids are written everywhere.
fn hex(id: impl Into<u64>) -> String {
    format!("{:x}", id.into())
}

/// The node id of a member.
fn node(id: u64) -> NodeId {
    NodeId(id)
}

/// Socket options of every peer connection. What is sent into a network that was cut is sent again
/// ever more rarely, half an hour long: that ends after `silence_max`, and dialling takes over. The
/// kernel counts a receiver that has no room as silent, too.
fn tune(stream: &tokio::net::TcpStream, silence_max: Duration) {
    // Messages are small and latency is what a commit waits for.
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(limits::PEER_KEEPALIVE)
        .with_interval(limits::PEER_KEEPALIVE);
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(silence_max));
}
