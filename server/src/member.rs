//! A member, put together and not yet running: its durable parts recovered, and what its threads
//! will be made of.
//!
//! One idea: everything that decides anything is here, and takes clock, randomness and disk from
//! outside; `server` gives it the system's, with threads and sockets. A simulation gives it others
//! and calls the steps of the threads itself ([`RaftThread::take_inputs`], [`ApplyThread::take`],
//! [`crate::background::step`], and the tasks of [`Shared::serve`]).

use std::sync::Arc;
use std::time::Duration;

use varve_disk::Disk;
use varve_lsm::Db;
use varve_raftnode::{Applied, Node, NodeId};
use varve_store::{Founding, Store, View};

use crate::apply::{ApplyInput, ApplyThread, ToWorker, leases};
use crate::auth::Authenticator;
use crate::background::{self, Background, configuration_of, standing};
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::data_dir::{DataDir, Identity};
use crate::error::Error;
use crate::key_wait::KeyWaiters;
use crate::lease::Lessor;
use crate::limits;
use crate::mailbox::{Mailbox, MailboxOwner, mailbox};
use crate::metrics::Metrics;
use crate::metrics::requests::RequestMetrics;
use crate::peer::{self, PeerAddress, PeerQueues, Peers, others};
use crate::queue::{Sender, bounded};
use crate::raft::{RaftInput, RaftThread};
use crate::read_pool::ReadPool;
use crate::request::{BootNonce, Budget, Waiting};
use crate::rounds;
use crate::rpc::told_hashes::ToldHashes;
use crate::services::{self, Services};
use crate::setup::Setup;
use crate::watch::hub::Hub;

/// Where a member runs.
pub struct Surroundings<'a> {
    /// Where its data lies.
    pub disk: Arc<dyn Disk>,
    /// Tokens and passwords.
    pub auth: Arc<Authenticator>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What time it is for the lessor and the Raft thread.
    pub clock: Clock,
    /// Where seeds and nonces come from.
    pub random: &'a mut dyn FnMut() -> u64,
    /// Whether there is a background thread; without, who waits for a flush flushes.
    pub has_threads: bool,
}

/// See the head of the file.
pub struct Member {
    /// What the threads share.
    pub shared: Shared,
    /// The Raft thread.
    pub raft: RaftThread,
    /// The apply thread.
    pub apply: ApplyThread,
    /// Queues to the other members.
    pub peers: Peers,
    /// Their other ends.
    pub peer_queues: PeerQueues,
    /// The socket threads' ends of their mailboxes.
    pub owners: Vec<MailboxOwner<ToWorker>>,
    /// The data directory, locked.
    pub data_dir: DataDir,
}

/// What the threads share.
#[derive(Clone)]
pub struct Shared {
    /// Ids and published numbers.
    pub cluster: Arc<Cluster>,
    /// The state machine's reading side.
    pub view: View,
    /// The engine.
    pub db: Db,
    /// Where everything lies.
    pub disk: Arc<dyn Disk>,
    /// Lease clock.
    pub lessor: Arc<Lessor>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What the engine still has to do.
    pub background: Arc<Background>,
    /// Distinguishes this start.
    pub boot_nonce: BootNonce,
    /// Bytes of requests that wait.
    pub in_flight: Budget,
    /// Tokens and passwords.
    pub auth: Arc<Authenticator>,
    /// What `HashKV` has told.
    pub told_hashes: Arc<ToldHashes>,
    /// The Raft thread's inbox.
    pub raft: Sender<RaftInput>,
    /// The socket threads' mailboxes.
    pub workers: Vec<Mailbox<ToWorker>>,
}

impl Member {
    /// Recovers what is on the disk, or founds it. Nothing runs yet.
    ///
    /// # Errors
    /// Whatever refuses the start: a foreign data directory, damage.
    pub fn open(setup: &Setup, surroundings: Surroundings<'_>) -> Result<Self, Error> {
        let Surroundings { disk, auth, metrics, clock, random, has_threads } = surroundings;
        let data_dir = DataDir::open(Arc::clone(&disk), setup)?;
        let Recovered { db, store, node } = Recovered::open(&disk, &data_dir, setup, random)?;
        data_dir.founded()?;
        let (raft, inbox) = bounded(limits::RAFT_INBOX_MAX);
        let (workers, owners): (Vec<_>, Vec<_>) =
            (0..setup.socket_threads).map(|_| mailbox(limits::MAILBOX_ITEMS_MAX)).unzip();
        let identity = &data_dir.identity;
        let cluster = Cluster::new(identity.cluster_id, identity.member_id);
        // Before anybody compares it with how far another is.
        cluster.publish_applied(store.applied().index);
        let shared = Shared {
            cluster: Arc::new(cluster),
            view: store.view(),
            db: db.clone(),
            disk,
            lessor: Arc::new(lessor(setup, &store, clock.clone())?),
            metrics,
            background: Arc::new(background(has_threads, &db, &store, &raft)),
            boot_nonce: BootNonce(random() as u16),
            in_flight: Budget::new(limits::PROPOSAL_BYTES_IN_FLIGHT_MAX),
            auth,
            told_hashes: Arc::default(),
            raft,
            workers,
        };
        let others = known_members(&store, identity, setup.force_new_cluster);
        let (peers, peer_queues) = Peers::new(others, Arc::clone(&shared.metrics));
        let (apply, queue) = bounded::<ApplyInput>(limits::APPLY_QUEUE_MAX);
        let raft = RaftThread {
            node,
            inbox,
            apply,
            peers: peers.clone(),
            cluster: Arc::clone(&shared.cluster),
            metrics: Arc::clone(&shared.metrics),
            tick: setup.tick,
            ticks_advanced: ticks_advanced(
                setup.election_tick_advance && !setup.lease_reads,
                setup.pre_vote,
                setup.election_ticks,
            ),
            catch_up_entries: setup.snapshot_catchup_entries,
            snapshots_from_followers: setup.snapshots_from_followers,
            clock,
        };
        let apply = ApplyThread {
            store,
            queue,
            raft: shared.raft.clone(),
            workers: shared.workers.clone(),
            boot_nonce: shared.boot_nonce,
            cluster: Arc::clone(&shared.cluster),
            lessor: Arc::clone(&shared.lessor),
            auth: Arc::clone(&shared.auth),
            background: Arc::clone(&shared.background),
            peers: peers.clone(),
            metrics: Arc::clone(&shared.metrics),
            snapshot_count: setup.snapshot_count,
            warning_duration: setup.warning_apply_duration,
        };
        Ok(Self { shared, raft, apply, peers, peer_queues, owners, data_dir })
    }
}

impl Shared {
    /// What the handlers of one socket thread share, with the tasks that keep it going: to be
    /// called inside that thread's runtime. The first one also does what happens by the clock.
    pub fn serve(
        &self,
        setup: &Setup,
        worker: usize,
        owner: MailboxOwner<ToWorker>,
        peers: Peers,
        read_pool: ReadPool,
        request_start: u64,
    ) -> Services {
        let services = Services::new(services::Inner {
            cluster: Arc::clone(&self.cluster),
            view: self.view.clone(),
            raft: self.raft.clone(),
            waiting: Waiting::new(self.boot_nonce, worker as u8, request_start),
            in_flight: self.in_flight.clone(),
            background: Arc::clone(&self.background),
            lessor: Arc::clone(&self.lessor),
            peers,
            hub: Hub::new(Arc::clone(&self.cluster), self.view.clone(), message_bytes_max(setup))
                .counted_in(Arc::clone(&self.metrics)),
            key_waiters: KeyWaiters::default(),
            read_pool,
            auth: Arc::clone(&self.auth),
            told_hashes: Arc::clone(&self.told_hashes),
            limits: setup.requests.clone(),
            requests: RequestMetrics::new(&self.metrics),
            metrics: Arc::clone(&self.metrics),
        });
        tokio::task::spawn_local(services.clone().pump(owner));
        tokio::task::spawn_local(services.clone().give_up_lost());
        let progress = rounds::tell_progress(services.hub.clone(), setup.progress_interval);
        tokio::task::spawn_local(progress);
        if worker == 0 {
            tokio::task::spawn_local(rounds::expire_leases(services.clone()));
            tokio::task::spawn_local(rounds::checkpoint_leases(services.clone()));
        }
        services
    }

    /// What streams to and from other members work with.
    pub fn peer_context(&self, setup: &Setup, data_dir: &DataDir) -> peer::Context {
        peer::Context {
            cluster: Arc::clone(&self.cluster),
            raft: self.raft.clone(),
            lessor: Arc::clone(&self.lessor),
            workers: self.workers.clone(),
            boot_nonce: self.boot_nonce,
            tls: setup.peer_tls.clone(),
            disk: Arc::clone(&self.disk),
            incoming: data_dir.incoming.clone(),
            snapshot_rate: peer::rate::Rate::new(setup.snapshot_bytes_per_second),
            db: self.db.clone(),
            view: self.view.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// Longest message to and from a client.
pub fn message_bytes_max(setup: &Setup) -> usize {
    setup.requests.request_bytes_max + limits::MESSAGE_OVERHEAD_BYTES
}

fn background(has_threads: bool, db: &Db, store: &Store, raft: &Sender<RaftInput>) -> Background {
    if has_threads {
        return Background::default();
    }
    let (db, view, raft) = (db.clone(), store.view(), raft.clone());
    Background::without_thread(move || background::step(&db, &view, &raft).is_ok())
}

/// The durable parts, opened and recovered.
struct Recovered {
    db: Db,
    store: Store,
    node: Node,
}

impl Recovered {
    fn open(
        disk: &Arc<dyn Disk>,
        data_dir: &DataDir,
        setup: &Setup,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Self, Error> {
        let identity = &data_dir.identity;
        let engine = varve_lsm::Options {
            identity: identity.bytes(),
            origin: random() as u32,
            ..setup.engine.clone()
        };
        let (db, writer) = Db::open(Arc::clone(disk), &data_dir.engine, engine)?;
        let founding = Founding { cluster_id: identity.cluster_id, members: identity.founders() };
        let store = Store::open(db.clone(), writer, &founding)?;
        let log = varve_wal::Options { identity: identity.bytes(), ..setup.log.clone() };
        let wal = varve_wal::Wal::open(Arc::clone(disk), &data_dir.log, log)?;
        log_backend(&wal);
        let mark = store.applied();
        let mut applied = standing(mark, &configuration_of(&store.members()));
        if setup.force_new_cluster {
            force_sole(&mut applied, identity)?;
        }
        let node = Node::open(
            varve_raftnode::Config {
                id: NodeId(identity.member_id),
                election_ticks: setup.election_ticks,
                heartbeat_ticks: 1,
                pre_vote: setup.pre_vote,
                seed: random(),
                boot_nonce: random(),
                message_bytes_max: limits::APPEND_BYTES_MAX,
                inflight_messages_max: limits::APPENDS_IN_FLIGHT_MAX,
                uncommitted_bytes_max: limits::UNCOMMITTED_BYTES_MAX,
                catch_up_bytes_max: limits::CATCH_UP_READ_BYTES_MAX,
                ignores_changes_found: setup.force_new_cluster,
                read_lease: setup.lease_reads.then(|| read_lease(setup)),
            },
            wal,
            applied,
        )?;
        tracing::info!(
            cluster_id = %format!("{:x}", identity.cluster_id),
            local_member_id = %format!("{:x}", identity.member_id),
            applied_index = mark.index,
            last_index = node.status().last.0,
            "recovered the log and the state machine"
        );
        Ok(Self { db, store, node })
    }
}

/// Whom to connect to at first: who the members are as far as is applied here. A member that has
/// joined and has nothing yet knows whom it asked.
fn known_members(store: &Store, identity: &Identity, forced: bool) -> Vec<PeerAddress> {
    if forced {
        return Vec::new();
    }
    let members = store.members();
    let members = if members.is_empty() { identity.members() } else { members };
    others(&members, identity.member_id)
}

/// `--force-new-cluster`: this member alone votes from now on. What its log has beyond is applied;
/// the others are removed before anybody is served.
fn force_sole(applied: &mut Applied, identity: &Identity) -> Result<(), Error> {
    let own = NodeId(identity.member_id);
    if !applied.voters.contains(&own) && !applied.learners.contains(&own) {
        return Err(Error::DataDir(format!(
            "--force-new-cluster: expected the data of a member, found none of member {:x}",
            own.0
        )));
    }
    tracing::warn!(
        local_member_id = %format!("{:x}", own.0),
        "forcing a new cluster: the other members are removed; those that still run must be \
         stopped, and their data removed"
    );
    applied.voters = vec![own];
    applied.learners.clear();
    Ok(())
}

/// `--initial-election-tick-advance`: the first election comes sooner. Only where asking before
/// campaigning makes sure that it disturbs no leader whose first heartbeat is on its way.
fn ticks_advanced(is_wanted: bool, pre_vote: bool, election_ticks: usize) -> usize {
    if is_wanted && pre_vote { election_ticks.saturating_sub(2) } else { 0 }
}

/// How long after a round of reads began further ones need none. Voters keep silent for one tick less
/// than an election timeout at least, which is four fifths of it or more; the rest is for clocks that
/// differ, by a sixteenth at the least.
fn read_lease(setup: &Setup) -> Duration {
    setup.tick * setup.election_ticks as u32 * 3 / 4
}

/// Says how the log makes writes durable, and why.
fn log_backend(wal: &varve_wal::Wal) {
    let (probe, took) = match wal.probe() {
        Some(report) => (report.to_string(), report.elapsed),
        None => ("not measured".to_owned(), Duration::ZERO),
    };
    tracing::info!(backend = %wal.backend(), %probe, ?took, "chose how the log is written");
}

fn lessor(setup: &Setup, store: &Store, clock: Clock) -> Result<Lessor, Error> {
    let election_timeout = setup.tick * setup.election_ticks as u32;
    let lessor = Lessor::new(setup.lease_checkpoint_interval, election_timeout).with_clock(clock);
    lessor.reset(&leases(store)?);
    Ok(lessor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_advanced_only_where_nobody_can_be_disturbed() {
        assert_eq!(ticks_advanced(true, true, 10), 8, "as many as etcd");
        assert_eq!(ticks_advanced(true, false, 10), 0, "who does not ask first waits");
        assert_eq!(ticks_advanced(false, true, 10), 0);
        assert_eq!(ticks_advanced(true, true, 1), 0);
    }
}
