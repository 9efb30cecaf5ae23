//! One simulated member: a real one (`varve_server::member`) on a simulated disk, whose threads are
//! functions that somebody calls.
//!
//! One idea: nothing of the member is rewritten here. What its Raft, apply, socket and background
//! threads do between two waits is one call each; what would be a socket is a queue.
//!
//! Invariants: everything that happens within a member is a function of the calls, in order.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::LocalSet;
use varve_disk::sim::{Random, SimDisk};
use varve_lsm::Work;
use varve_raftnode::{Index, Status};
use varve_server::apply::{ApplyInput, Outbox, ToWorker};
use varve_server::auth::{AuthOptions, Authenticator, TokenOptions};
use varve_server::background;
use varve_server::clock::Clock;
use varve_server::config::AutoCompaction;
use varve_server::corruption::CorruptionChecks;
use varve_server::data_dir::{FoundingMember, Identity};
use varve_server::error::Error;
use varve_server::http::HttpOptions;
use varve_server::listener::ListenOptions;
use varve_server::mailbox::{Mailbox, MailboxOwner, mailbox};
use varve_server::member::{Member, Surroundings, message_bytes_max};
use varve_server::metrics::{Detail, Metrics};
use varve_server::peer::frame::{FrameError, FrameKind};
use varve_server::peer::inbound::{self, Hashing};
use varve_server::peer::{self, Carried, Carrier, PeerQueues, Peers};
use varve_server::raft::{RaftInput, RaftThread, Turn};
use varve_server::read_pool::ReadPool;
use varve_server::request::Budget;
use varve_server::rpc;
use varve_server::services::{RequestLimits, Services};
use varve_server::setup::Setup;
use varve_server::watch::catch_up::Bounds;
use varve_server::worker::ConnectionOptions;
use varve_store::MemberPublish;

use crate::operator::Outcomes;
use crate::plan::{Micros, Plan};
use crate::plant::{self, Plant};
use crate::world::Thread;

/// What all members of all seeds of a thread share, and nothing depends on.
pub struct Shared {
    pub metrics: Arc<Metrics>,
    pub auth: Arc<Authenticator>,
}

impl Shared {
    pub fn new() -> Self {
        let options = auth_options();
        let auth = Authenticator::start(&options, &SimDisk::new(0)).expect("threads can be made");
        Self { metrics: Metrics::new(Detail::Basic), auth: Arc::new(auth) }
    }
}

/// Answers of handlers, by operation.
pub type Replies = Rc<RefCell<Vec<(usize, Result<Bytes, varve_api::Status>)>>>;

/// A member that runs.
pub struct Running {
    pub boot: u64,
    pub raft: RaftThread,
    pub turn: Turn,
    pub apply: varve_server::apply::ApplyThread,
    outbox: Outbox,
    pub peers: Peers,
    queues: PeerQueues,
    carrier: Carrier,
    pub context: peer::Context,
    hashing: Hashing,
    pub services: Services,
    local: LocalSet,
    flag: Arc<Flag>,
    waker: Waker,
    pub replies: Replies,
    /// Answers to changes of the members.
    pub outcomes: Rc<RefCell<Outcomes>>,
    /// Its name is told: a quorum was there.
    is_ready: Rc<Cell<bool>>,
    removed: watch::Receiver<bool>,
    /// It stops because it was removed.
    pub is_leaving: bool,
    pub incoming: PathBuf,
    /// The socket thread's mailbox, and another behind it: planted bugs sit between.
    mail: (MailboxOwner<ToWorker>, Mailbox<ToWorker>),
    plant: Option<Plant>,
    batches: u64,
    /// Inputs of the apply thread so far.
    inputs: u64,
    /// Between the two halves of a cycle.
    pub is_syncing: bool,
    pub is_tick_due: bool,
    has_led: bool,
    /// What each thread has been scheduled for.
    pub due: [bool; 4],
}

/// Tells that a task of the socket thread can go on.
pub struct Flag(pub AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// See the head of the file.
pub struct Node {
    pub id: u64,
    pub disk: SimDisk,
    pub setup: Setup,
    /// Its clock's error, parts per million; may be negative.
    pub drift: i64,
    pub clock: Clock,
    pub up: Option<Running>,
    pub boots: u64,
    /// It does nothing until then.
    pub paused_until: Micros,
    /// Its log is slow until then.
    pub slow_until: Micros,
    /// A fault was put into its disk: an error that stops it is expected.
    pub is_disk_faulty: bool,
    /// Highest index that it has applied in any of its starts.
    pub applied_ever: u64,
    /// Highest index at which it has applied a change of who votes.
    pub changed_ever: u64,
    /// Neither was its disk lost nor has it ended because it was removed.
    pub can_run: bool,
    /// Files of which a bit has flipped.
    pub rot: Vec<PathBuf>,
    /// It was given up, and is not started.
    pub is_out: bool,
    random: Random,
    plant: Option<Plant>,
}

impl Node {
    /// A founder.
    pub fn new(plan: &Plan, id: u64, random: &mut Random) -> Self {
        let founder =
            |id: u64| FoundingMember { id, name: name_of(id), peer_urls: vec![url_of(id)] };
        let founders = (1..=plan.members).map(founder).collect();
        Self::joining(plan, id, Identity::new(CLUSTER_ID, id, founders), random)
    }

    /// A member that joins as this one.
    pub fn joining(plan: &Plan, id: u64, identity: Identity, random: &mut Random) -> Self {
        let drift = match plan.drift {
            0 => 0,
            drift => random.below(2 * drift + 1).cast_signed() - drift.cast_signed(),
        };
        Self {
            id,
            disk: SimDisk::new(random.next_u64()),
            setup: setup(plan, id, identity),
            drift,
            clock: Clock::manual(),
            up: None,
            boots: 0,
            paused_until: 0,
            slow_until: 0,
            is_disk_faulty: false,
            applied_ever: 0,
            changed_ever: 0,
            can_run: true,
            rot: Vec::new(),
            is_out: false,
            random: Random::new(random.next_u64()),
            plant: plan.plant,
        }
    }

    /// Simulated time as this member's clock has it.
    pub fn set_clock(&self, now: Micros) {
        let error = (now as i128 * i128::from(self.drift) / 1_000_000) as i64;
        let hurry = if self.plant == Some(Plant::LessorHurries) { 2 } else { 1 };
        self.clock.set(Duration::from_micros(hurry * now.saturating_add_signed(error)));
    }

    /// Starts the process on what the disk holds.
    pub fn start(&mut self, runtime: &Runtime, shared: &Shared) -> Result<(), Error> {
        assert!(self.up.is_none(), "{} runs already", self.id);
        self.boots += 1;
        let random = &mut self.random;
        let member = Member::open(
            &self.setup,
            Surroundings {
                disk: plant::disk(self.plant, Arc::new(self.disk.clone())),
                auth: Arc::clone(&shared.auth),
                metrics: Arc::clone(&shared.metrics),
                clock: self.clock.clone(),
                random: &mut || random.next_u64(),
                has_threads: false,
            },
        )?;
        let Member { shared: parts, mut raft, apply, peers, peer_queues, owners, data_dir } =
            member;
        let _inside = runtime.enter();
        let local = LocalSet::new();
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let real = owners.into_iter().next().expect("there is one socket thread");
        let (forward, owner) = mailbox(1 << 20);
        let services = {
            let _inside = local.enter();
            let start = self.random.next_u64() >> 24;
            parts.serve(&self.setup, 0, owner, peers.clone(), ReadPool::inline(), start)
        };
        let is_ready = Rc::new(Cell::new(false));
        let (told, telling) = (Rc::clone(&is_ready), services.clone());
        let publish = MemberPublish {
            member_id: self.id,
            name: self.setup.name.clone(),
            client_urls: Vec::new(),
        };
        local.spawn_local(async move {
            rpc::cluster::publish(&telling, &publish).await;
            told.set(true);
        });
        let turn = raft.begin_turns();
        let outbox = apply.begin();
        let context = parts.peer_context(&self.setup, &data_dir);
        self.up = Some(Running {
            boot: self.boots,
            raft,
            turn,
            apply,
            outbox,
            peers,
            queues: peer_queues,
            carrier: Carrier::default(),
            context,
            hashing: None,
            services,
            local,
            waker: Waker::from(Arc::clone(&flag)),
            flag,
            replies: Replies::default(),
            outcomes: Rc::default(),
            is_ready,
            removed: parts.cluster.removed(),
            is_leaving: false,
            incoming: data_dir.incoming.clone(),
            mail: (real, forward),
            plant: self.plant,
            batches: 0,
            inputs: 0,
            is_syncing: false,
            is_tick_due: false,
            has_led: false,
            due: [false; 4],
        });
        Ok(())
    }

    /// The process ends; the machine runs on.
    pub fn kill(&mut self, runtime: &Runtime) {
        let _inside = runtime.enter();
        self.up = None;
    }

    /// The power goes out.
    pub fn lose_power(&mut self, runtime: &Runtime) {
        let found = self.disk.crash();
        self.kill(runtime);
        self.disk = found;
        self.is_disk_faulty = false;
    }
}

impl Running {
    /// Lets the socket thread run until it waits.
    pub fn run_sockets(&mut self, runtime: &Runtime) {
        self.forward_mail();
        runtime.block_on(async {
            for _ in 0..10_000 {
                self.flag.0.store(false, Ordering::Relaxed);
                let mut context = Context::from_waker(&self.waker);
                let _ = Pin::new(&mut self.local).poll(&mut context);
                // Tasks that have yielded are woken by the runtime, when it is yielded to.
                tokio::task::yield_now().await;
                if !self.flag.0.load(Ordering::Relaxed) {
                    return;
                }
            }
            panic!("the socket thread never waits");
        });
    }

    /// Whether a task may go on for which nothing is scheduled.
    pub fn is_woken(&self) -> bool {
        !self.due[Thread::Sockets as usize] && self.has_socket_work()
    }

    pub fn has_socket_work(&self) -> bool {
        self.flag.0.load(Ordering::Relaxed) || !self.context.workers[0].is_empty()
    }

    /// What is posted to the socket thread reaches it, if no planted bug is in the way.
    fn forward_mail(&mut self) {
        let mut posted = Vec::new();
        self.mail.0.try_drain(&mut posted);
        for item in posted {
            let is_batch = matches!(item, ToWorker::Events(..));
            self.batches += u64::from(is_batch);
            let is_hit = is_batch && self.batches.is_multiple_of(17);
            match (self.plant, &item) {
                (Some(Plant::EventsLost), _) if is_hit => continue,
                (Some(Plant::ResyncLost), ToWorker::Resync(_)) => continue,
                (Some(Plant::EventsTwice), ToWorker::Events(batch, _)) if is_hit => {
                    let share = Budget::new(usize::MAX).take(0).expect("there is room");
                    let twin = ToWorker::Events(Arc::clone(batch), share);
                    let _ = self.mail.1.post_one(twin);
                }
                _ => {}
            }
            assert!(self.mail.1.post_one(item).is_ok(), "the mailbox is larger than any run");
        }
    }

    pub fn spawn(&self, runtime: &Runtime, task: impl Future<Output = ()> + 'static) {
        let _inside = runtime.enter();
        self.local.spawn_local(task);
        self.flag.0.store(true, Ordering::Relaxed);
    }

    /// One input of the apply thread, if there is any.
    pub fn next_to_apply(&mut self) -> Option<ApplyInput> {
        let input = self.apply.queue.try_recv().ok()?;
        self.inputs += 1;
        match (self.plant, input) {
            (Some(Plant::ReadEarly), ApplyInput::Reads { ready, failed }) => {
                let ready = ready.into_iter().map(|(token, _)| (token, Index(0))).collect();
                Some(ApplyInput::Reads { ready, failed })
            }
            (_, input) => Some(input),
        }
    }

    /// What a planted bug makes of the entries that a member applies.
    pub fn spoil(&self, id: u64, input: ApplyInput) -> ApplyInput {
        let is_spoiled = match self.plant {
            Some(Plant::EntrySkipped) => self.boot > 1 && self.inputs == 1,
            Some(Plant::Diverges) => id == 1 && self.inputs.is_multiple_of(50),
            _ => false,
        };
        match input {
            ApplyInput::Committed(mut entries) if is_spoiled => {
                let plain = entries.iter_mut().find(|entry| entry.change.is_none());
                plain.into_iter().for_each(|entry| entry.payload = Bytes::new());
                ApplyInput::Committed(entries)
            }
            input => input,
        }
    }

    /// What a planted bug makes of the Raft thread's inputs, before it takes them.
    pub fn spoil_inbox(&mut self) {
        let Some(plant) = self.plant else { return };
        if plant == Plant::ReadAlone && self.raft.node.status().has_committed_in_term {
            self.has_led = true;
        }
        let (applied, members) = (self.apply.store.applied(), self.apply.store.members());
        if plant == Plant::CutAhead && applied.index > 0 {
            let configuration = background::configuration_of(&members);
            let ahead = RaftInput::Flushed(background::standing(applied, &configuration));
            let _ = self.context.raft.try_send(ahead);
        }
    }

    /// Who has led goes on reading alone, if that bug is planted.
    pub fn spoil_status(&self) {
        if self.has_led {
            let status = self.raft.node.status();
            self.context.cluster.publish(&Status {
                is_sole_leader: true,
                has_committed_in_term: true,
                ..status
            });
        }
    }

    pub fn apply(&mut self, input: ApplyInput) -> Result<(), Error> {
        self.apply.take(&mut self.outbox, input)
    }

    /// One step of the engine.
    pub fn work(&mut self) -> Result<Work, Error> {
        background::step(&self.context.db, &self.context.view, &self.context.raft)
    }

    /// What goes to other members.
    pub fn outgoing(&mut self) -> Vec<(u64, Carried)> {
        self.carrier.take(&mut self.queues)
    }

    /// A frame of a member has arrived.
    pub fn receive(&mut self, from: u64, frame: (FrameKind, Bytes)) -> Result<(), FrameError> {
        inbound::take(&self.context, &self.peers, from, frame, &mut self.hashing)
    }

    /// Whether it was removed and knows it.
    pub fn is_removed(&self) -> bool {
        *self.removed.borrow()
    }

    /// Whether clients reach it: it has told its name, and was not removed.
    pub fn serves(&self) -> bool {
        self.is_ready.get() && !self.is_removed()
    }
}

/// The id of every simulated cluster.
pub const CLUSTER_ID: u64 = 7;

/// A member's name.
pub fn name_of(id: u64) -> String {
    format!("m{id}")
}

/// Where its peers reach it.
pub fn url_of(id: u64) -> String {
    format!("http://m{id}:2380")
}

fn auth_options() -> AuthOptions {
    AuthOptions {
        token: TokenOptions::None,
        token_time_to_live: Duration::ZERO,
        bcrypt_cost: 4,
        client_cert_auth: false,
    }
}

fn setup(plan: &Plan, id: u64, identity: Identity) -> Setup {
    let setup = Setup {
        name: name_of(id),
        identity,
        data_dir: Path::new("/data").to_owned(),
        wal_dir: None,
        listen: Vec::new(),
        client_tls: None,
        listen_peers: Vec::new(),
        peer_tls: None,
        listen_options: ListenOptions::default(),
        advertise_client_urls: Vec::new(),
        tick: plan.tick,
        election_ticks: plan.election_ticks,
        pre_vote: true,
        election_tick_advance: true,
        force_new_cluster: false,
        snapshot_count: plan.snapshot_count,
        warning_apply_duration: Duration::MAX,
        warning_unary_request_duration: Duration::MAX,
        snapshot_catchup_entries: plan.catch_up_entries,
        lease_reads: plan.lease_reads,
        snapshot_bytes_per_second: 0,
        snapshots_from_followers: plan.lends_snapshots,
        auth: auth_options(),
        requests: RequestLimits {
            txn_ops_max: 128,
            request_bytes_max: 1 << 20,
            request_timeout: Duration::from_secs(7),
            lease_ttl_min: 2,
            leaderless_max: Duration::from_secs(3),
            strict_reconfig_check: plan.is_strict,
            learners_max: 1,
            quota_bytes: -1,
            catch_up: Bounds { revisions_max: plan.catch_up_revisions, bytes_target: 300 },
        },
        connections: ConnectionOptions::default(),
        http: HttpOptions::default(),
        lease_checkpoint_interval: None,
        trace: None,
        socket_threads: 1,
        auto_compaction: AutoCompaction::Off,
        corruption: CorruptionChecks { at_start: false, period: None, compactions: None },
        progress_interval: Duration::from_secs(5),
        engine: plan.engine.clone(),
        log: plan.log.clone(),
    };
    assert!(message_bytes_max(&setup) > 0);
    setup
}
