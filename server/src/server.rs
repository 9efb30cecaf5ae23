//! Starting and stopping, in order.
//!
//! ```text
//! bind every address                              (a taken port is known before anything is written)
//! traces thread, if it is wanted
//! lock and identify the data directory
//! engine -> state machine -> log -> node          (all recovery happens here)
//! give IDENTITY its name                          (a founded member; nothing is acknowledged before)
//! background, apply, raft, peer threads           (from here on this member takes part)
//! socket threads                                  (no connection is accepted yet)
//! publish this member's name and client URLs      (the first commit: there is a quorum)
//! accept connections; "ready to serve client requests"
//! ```
//!
//! Stopping goes the other way: no new connections, leadership handed over, calls in flight
//! answered, threads ended. A crash at any moment is as good: recovery is the same.
//!
//! | thread | owns | its queue |
//! | --- | --- | --- |
//! | raft | node, log | `RAFT_INBOX_MAX` |
//! | apply | state machine, engine's writer | `APPLY_QUEUE_MAX` |
//! | background | flushes, merges | - |
//! | peer | all peer streams | per peer, see `peer` |
//! | socket-N | its connections, watchers, waiting requests | mailbox, `MAILBOX_ITEMS_MAX` |
//! | read-N | long reads | `READ_QUEUE_MAX` |
//! | password-N | bcrypt | `PASSWORD_QUEUE_MAX` |
//! | traces | the way to a collector, if there is one | `TRACE_SPANS_WAITING_MAX` |
//! | acceptor | listening sockets | - |

mod gauges;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;
use varve_api::health::health_check_response::ServingStatus;
use varve_disk::Disk;
use varve_disk::os::OsDisk;
use varve_store::MemberPublish;

use crate::apply::{ApplyThread, ToWorker};
use crate::auth::Authenticator;
use crate::background::Background;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::compactor;
use crate::corruption::{self, CorruptionChecks};
use crate::data_dir::DataDir;
use crate::error::{Error, fatal};
use crate::grpc::{Router, RouterOptions};
use crate::http::HttpRoutes;
use crate::limits;
use crate::listener::{self, Acceptor, Bound, ListenAddress};
use crate::mailbox::MailboxOwner;
use crate::member::{self, Member, Shared, Surroundings};
use crate::metrics::Metrics;
use crate::peer::{self, PeerListener, Peers};
use crate::queue::{RecvError, Sender, bounded};
use crate::raft::{RaftInput, RaftThread};
use crate::random;
use crate::read_pool::{ReadPool, lower_priority};
use crate::rpc;
use crate::services::Services;
use crate::setup::{Listen, Setup, Speaks};
use crate::socket::{Role, Security};
use crate::trace::{Exporting, Tracer};
use crate::worker::{self, WorkerHandle};

/// A running server.
pub struct Server {
    acceptor: Option<Acceptor>,
    workers: Vec<WorkerHandle>,
    raft: Sender<RaftInput>,
    raft_thread: JoinHandle<()>,
    background: Arc<Background>,
    cluster: Arc<Cluster>,
    serving: watch::Sender<ServingStatus>,
    traces: Option<Exporting>,
    listened_at: Vec<ListenAddress>,
    _data_dir: DataDir,
}

impl Server {
    /// Starts everything and waits until this member serves clients.
    ///
    /// # Errors
    /// Whatever refuses the start: a foreign data directory, damage, a taken port.
    pub fn start(setup: Setup, metrics: Arc<Metrics>) -> Result<Self, Error> {
        // Before the data directory: it remembers the peer URLs it was founded with, so a start
        // that fails for a taken port must not have founded anything.
        let bound = bind(&setup)?;
        let peer_listeners = bind_peers(&setup)?;
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
        let authenticator = Arc::new(Authenticator::start(&setup.auth, disk.as_ref())?);
        let traces = setup.trace.as_ref().map(|options| Exporting::start(options, &metrics));
        let (tracer, traces) = traces.transpose()?.unzip();
        let surroundings = Surroundings {
            disk,
            auth: authenticator,
            metrics,
            clock: Clock::default(),
            random: &mut random::u64,
            has_threads: true,
        };
        let member = Member::open(&setup, surroundings)?;
        let Member { shared, raft, apply, peers, peer_queues, owners, data_dir } = member;
        gauges::observe(&shared, &setup);
        let raft_thread = start_consensus(&shared, raft, apply)?;
        start_peers(&shared, &setup, &data_dir, peers.clone(), peer_queues, peer_listeners)?;

        let (serving, health) = watch::channel(ServingStatus::NotServing);
        let (ready, is_ready) = bounded(1);
        let first = (Publishing::new(&setup, &data_dir), ready);
        let workers = start_workers(&shared, &setup, &peers, owners, health, first, tracer)?;
        // No timeout: without a quorum there is nothing to serve, and etcd waits as well. A member
        // that was removed will never have one.
        while is_ready.recv_timeout(limits::APPLIED_POLL) == Err(RecvError::Timeout) {
            if *shared.cluster.removed().borrow() {
                return Err(Error::Removed);
            }
        }
        let inboxes = workers.iter().map(WorkerHandle::inbox).collect();
        let acceptor = listener::start(bound, inboxes, listener::connection_limit())?;
        serving.send_replace(ServingStatus::Serving);
        tracing::info!("ready to serve client requests");
        log_listeners(&setup.listen);
        let for_clients = setup.listen.into_iter().map(|listen| listen.address);
        let for_peers = setup.listen_peers.into_iter().map(|(address, _)| address);
        let listened_at = for_clients.chain(for_peers).collect();
        Ok(Self {
            acceptor: Some(acceptor),
            workers,
            raft: shared.raft,
            raft_thread,
            background: shared.background,
            cluster: shared.cluster,
            serving,
            traces,
            listened_at,
            _data_dir: data_dir,
        })
    }

    /// Tells when this member was removed from its cluster: then it is to be stopped.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.cluster.removed()
    }

    /// Stops in order; returns when all is quiet.
    pub fn stop(mut self) {
        self.serving.send_replace(ServingStatus::NotServing);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        // As a follower this member still gets the requests in flight to the new leader and
        // answers them: until the last connection is closed it takes part in everything.
        let _ = self.raft.send(RaftInput::HandOver);
        for worker in &self.workers {
            worker.stop(limits::SHUTDOWN_GRACE);
        }
        for worker in self.workers.drain(..) {
            worker.join();
        }
        if let Some(traces) = &self.traces {
            traces.begin_stop();
        }
        let deadline = Instant::now() + limits::LEADER_TRANSFER_TIMEOUT;
        let _ = self.raft.send(RaftInput::Stop { deadline });
        self.background.stop();
        if self.raft_thread.join().is_err() {
            tracing::error!("the raft thread panicked while stopping");
        }
        if let Some(traces) = self.traces.take() {
            traces.join();
        }
        listener::remove_socket_files(&self.listened_at);
        tracing::info!("closed etcd server");
    }
}

/// Wrappers wait for these lines.
fn log_listeners(listeners: &[Listen]) {
    for Listen { address, role, speaks } in listeners {
        let traffic = match role {
            Role::Client => "grpc+http",
            Role::GrpcOnly => "grpc",
            Role::HttpOnly => "http",
            Role::Metrics => continue,
        };
        if *speaks != Speaks::Plain {
            tracing::info!(traffic, address = %address, "serving client traffic securely");
        }
        if *speaks != Speaks::Tls {
            let text = "serving client traffic insecurely; this is strongly discouraged!";
            tracing::info!(traffic, address = %address, "{text}");
        }
    }
}

fn bind(setup: &Setup) -> Result<Vec<Bound>, Error> {
    let mut bound = Vec::new();
    for listen in &setup.listen {
        let source = || {
            let source = setup.client_tls.as_ref();
            Arc::clone(source.expect("flags with an https URL and no certificate are refused"))
        };
        let security = match listen.speaks {
            Speaks::Plain => Security::Plain,
            Speaks::Tls => Security::Tls(source()),
            Speaks::Either => Security::Either(source()),
        };
        let socket = listener::bind(&listen.address, listen.role, setup.listen_options)?;
        bound.push(socket.with_security(security));
    }
    Ok(bound)
}

fn bind_peers(setup: &Setup) -> Result<Vec<PeerListener>, Error> {
    let mut listeners = Vec::new();
    for (address, is_secure) in &setup.listen_peers {
        let socket = listener::bind_socket(address, setup.listen_options)?;
        listeners.push(PeerListener { socket, is_secure: *is_secure });
    }
    Ok(listeners)
}

/// The threads that agree on an order, apply it and make it compact.
fn start_consensus(
    shared: &Shared,
    raft_thread: RaftThread,
    apply_thread: ApplyThread,
) -> Result<JoinHandle<()>, Error> {
    thread("apply", move || {
        if let Err(error) = apply_thread.run() {
            fatal("cannot apply a committed entry", &error);
        }
    })?;
    let background = shared.clone();
    thread("background", move || {
        lower_priority();
        let Shared { background, db, view, raft, metrics, .. } = &background;
        if let Err(error) = background.run(db, view, raft, metrics) {
            fatal("background work of the engine failed", &error);
        }
    })?;
    thread("raft", move || {
        if let Err(error) = raft_thread.run() {
            fatal("the log or the node failed", &error);
        }
    })
}

fn start_peers(
    shared: &Shared,
    setup: &Setup,
    data_dir: &DataDir,
    peers: Peers,
    queues: peer::PeerQueues,
    listeners: Vec<PeerListener>,
) -> Result<(), Error> {
    let context = shared.peer_context(setup, data_dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread("peer", move || runtime.block_on(queues.run(Arc::new(context), peers, listeners)))?;
    Ok(())
}

fn start_workers(
    shared: &Shared,
    setup: &Setup,
    peers: &Peers,
    owners: Vec<MailboxOwner<ToWorker>>,
    health: rpc::health::HealthState,
    first: (Publishing, Sender<()>),
    tracer: Option<Tracer>,
) -> Result<Vec<WorkerHandle>, Error> {
    let read_pool = ReadPool::start()?;
    let mut workers = Vec::new();
    for (number, owner) in owners.into_iter().enumerate() {
        let (shared, setup, peers) = (shared.clone(), setup.clone(), peers.clone());
        let (read_pool, health, tracer) = (read_pool.clone(), health.clone(), tracer.clone());
        // The first socket thread also does the few things that happen by the clock.
        let first = (number == 0).then(|| first.clone());
        let connections = setup.connections;
        let build = move || {
            let services =
                shared.serve(&setup, number, owner, peers, read_pool, random::u64() >> 24);
            let mut router = Router::new(RouterOptions {
                message_bytes_max: member::message_bytes_max(&setup),
                stream_buffer_bytes_max: limits::STREAM_BUFFER_BYTES_MAX,
                counters: shared.metrics.socket_counters(),
                tracer,
            });
            rpc::register(&mut router, &services);
            rpc::health::register(&mut router, health);
            router.observer(rpc::stats::observer(setup.warning_unary_request_duration));
            router.http(HttpRoutes::new(
                services.clone(),
                Arc::clone(&shared.metrics),
                setup.http.clone(),
            ));
            if let Some((publish, ready)) = first {
                tokio::task::spawn_local(compactor::run(services.clone(), setup.auto_compaction));
                spawn_corruption_checks(&services, setup.corruption);
                tokio::task::spawn_local(self::publish(services, publish, ready));
            }
            router
        };
        workers.push(worker::spawn(format!("socket-{number}"), connections, build)?);
    }
    Ok(workers)
}

fn spawn_corruption_checks(services: &Services, checks: CorruptionChecks) {
    if let Some(interval) = checks.period {
        tokio::task::spawn_local(corruption::check_periodically(services.clone(), interval));
    }
    if let Some(interval) = checks.compactions {
        tokio::task::spawn_local(corruption::check_compactions(services.clone(), interval));
    }
}

/// What the first socket thread does before anybody is served.
#[derive(Clone)]
struct Publishing {
    publish: MemberPublish,
    /// This member becomes the only one first.
    is_forced: bool,
    /// It serves only if its data is that of the others.
    checks: bool,
}

impl Publishing {
    fn new(setup: &Setup, data_dir: &DataDir) -> Self {
        let publish = MemberPublish {
            member_id: data_dir.identity.member_id,
            name: setup.name.clone(),
            client_urls: setup.advertise_client_urls.clone(),
        };
        let (is_forced, checks) = (setup.force_new_cluster, setup.corruption.at_start);
        Self { publish, is_forced, checks }
    }
}

/// Tells the group this member's name and client URLs; its success is the proof of a quorum.
async fn publish(services: Services, first: Publishing, ready: Sender<()>) {
    let Publishing { publish, is_forced, checks } = first;
    if is_forced {
        rpc::cluster::make_sole(&services).await;
    }
    rpc::cluster::publish(&services, &publish).await;
    tracing::info!(
        local_member_id = %format!("{:x}", publish.member_id),
        name = %publish.name,
        client_urls = ?publish.client_urls,
        "published local member to cluster through raft"
    );
    if checks && let Err(error) = corruption::check_at_start(&services).await {
        fatal("checkInitialHashKV failed", &error);
    }
    let _ = ready.send(());
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    Ok(std::thread::Builder::new().name(name.to_owned()).spawn(body)?)
}
