//! Two members on loopback, without Raft: what each of them would be told.

mod snapshots;

use std::path::Path;
use std::time::Duration;

use prost::Message as _;
use tokio::time::timeout;
use varve_api::etcdserverpb::PutRequest;
use varve_disk::sim::SimDisk;
use varve_lsm::{Options, Work};
use varve_raftnode::{Index, Status, Term};
use varve_store::{Command, CommandKind, Founding, Member, RequestId, Store, encode_batch};

use super::*;
use crate::lease::Answer;
use crate::listener::{self, ListenAddress, ListenOptions};
use crate::mailbox::{MailboxOwner, mailbox};
use crate::metrics::Detail;
use crate::peer::snapshot::Staged;
use crate::queue::{Receiver, bounded};

const CLUSTER: u64 = 0xc1;
const INCOMING: &str = "/incoming";
const PATIENCE: Duration = Duration::from_secs(20);

/// A member without Raft: the test reads what Raft would get.
struct Side {
    context: Arc<Context>,
    store: Store,
    inbox: Receiver<RaftInput>,
    answers: MailboxOwner<ToWorker>,
    disk: SimDisk,
}

fn side(id: u64) -> Side {
    let disk = SimDisk::new(id);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    shared.create_dir_all(Path::new(INCOMING)).unwrap();
    let options = Options { origin: id as u32, ..Options::default() };
    let (db, writer) = Db::open(Arc::clone(&shared), Path::new("/engine"), options).unwrap();
    let member = |id: u64| Member {
        id,
        name: id.to_string(),
        peer_urls: Vec::new(),
        client_urls: Vec::new(),
        is_learner: false,
    };
    let founding = Founding { cluster_id: CLUSTER, members: vec![member(1), member(2)] };
    let store = Store::open(db.clone(), writer, &founding).unwrap();
    let (raft, inbox) = bounded(64);
    let (worker, answers) = mailbox(64);
    let context = Context {
        tls: None,
        cluster: Arc::new(Cluster::new(CLUSTER, id)),
        raft,
        lessor: Arc::new(Lessor::default()),
        workers: vec![worker],
        boot_nonce: BootNonce(7),
        disk: shared,
        incoming: INCOMING.into(),
        snapshot_rate: Rate::new(0),
        db,
        view: store.view(),
        metrics: Metrics::new(Detail::Basic),
    };
    Side { context: Arc::new(context), store, inbox, answers, disk }
}

impl Side {
    fn put(&mut self, number: usize, value_bytes: usize) {
        let request = PutRequest {
            key: format!("k{number:04}").into(),
            value: vec![b'v'; value_bytes].into(),
            ..PutRequest::default()
        };
        let body = request.encode_to_vec().into();
        let (id, kind) = (RequestId(0), CommandKind::Put);
        let command = Command { id, kind, author: None, body };
        let index = self.store.applied().index + 1;
        self.store.apply(index, 1, &encode_batch(&[command])).unwrap();
    }

    fn flush(&mut self) {
        self.store.freeze().unwrap();
        while self.context.db.work().unwrap() != Work::Idle {}
    }

    /// Forgets what broken transfers have left.
    fn forget_parts(&self) {
        self.disk.remove_dir_all(&Path::new(INCOMING).join("parts")).unwrap();
    }

    /// Bytes of all files of a snapshot.
    fn snapshot_bytes(&self) -> u64 {
        self.context.db.checkpoint().files.iter().map(|file| file.content.len() as u64).sum()
    }

    /// Listens for peers; where.
    fn listen(&self, peers: Peers) -> String {
        let anywhere = ListenAddress::Tcp { host: "127.0.0.1".to_owned(), port: 0 };
        let socket = listener::bind_socket(&anywhere, ListenOptions::default()).unwrap();
        let address = socket.local_address().unwrap().to_string();
        let listener = PeerListener { socket, is_secure: false };
        tokio::spawn(inbound::listen(Arc::clone(&self.context), peers, listener));
        address
    }

    fn staged(&mut self) -> Option<Staged> {
        match self.inbox.try_recv() {
            Ok(RaftInput::Snapshot { staged, .. }) => Some(staged),
            Ok(_) => panic!("neither a snapshot nor nothing"),
            Err(_) => None,
        }
    }
}

/// A member that may dial, and is not dialled.
fn unreachable(id: u64) -> PeerAddress {
    PeerAddress { id, addresses: Vec::new() }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

#[test]
fn appends_for_a_peer_that_takes_none_are_bounded_in_bytes() {
    let metrics = Metrics::new(Detail::Basic);
    let (peers, _queues) = Peers::new(vec![unreachable(2)], metrics);
    let bytes = Bytes::from(vec![0; limits::PEER_BULK_BYTES_MAX / 4]);
    let send = |to: u64, class| peers.send(Message { to: NodeId(to), class, bytes: bytes.clone() });
    for number in 0..4 {
        assert!(send(2, MessageClass::Bulk), "append {number} has room");
    }
    assert!(!send(2, MessageClass::Bulk), "a fifth has none");
    assert!(send(2, MessageClass::Small), "heartbeats wait for no append");
    assert!(!send(3, MessageClass::Bulk), "nobody has this id");
}

#[test]
fn what_is_dropped_while_a_peer_is_away_counts_as_failed() {
    run(async {
        let one = side(1);
        let metrics = &one.context.metrics;
        let (peers, queues) = Peers::new(vec![unreachable(2)], Arc::clone(metrics));
        tokio::spawn(queues.run(Arc::clone(&one.context), peers.clone(), Vec::new()));
        let question = LeaseQuestion { request: 1, lease: 1, renew: false };
        (0..3).for_each(|_| peers.ask_about_lease(2, &question));
        let failed = metrics.peer_sent_failures.with_label_values(&[&hex(2_u64)]);
        let all = async {
            while failed.get() < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, all).await.expect("all three are counted");
    });
}

#[test]
fn a_question_about_a_lease_is_answered_by_who_leads_and_by_nobody_else() {
    run(async {
        let (asker, asked) = (side(1), side(2));
        // Each dials the other; addresses are known only after both listen.
        let (unused, _) = Peers::new(vec![unreachable(2)], Arc::clone(&asked.context.metrics));
        let asker_address = asker.listen(unused);
        let back = PeerAddress { id: 1, addresses: vec![asker_address] };
        let (answering, answers) = Peers::new(vec![back], Arc::clone(&asked.context.metrics));
        tokio::spawn(answers.run(Arc::clone(&asked.context), answering.clone(), Vec::new()));
        let forth = PeerAddress { id: 2, addresses: vec![asked.listen(answering)] };
        let (asking, questions) = Peers::new(vec![forth], Arc::clone(&asker.context.metrics));
        tokio::spawn(questions.run(Arc::clone(&asker.context), asking.clone(), Vec::new()));

        let mut request = u64::from(asker.context.boot_nonce.0) << 48;
        let mut ask = async |lease: i64, renew: bool| {
            // A queue is emptied while the peer is dialled: asked again, as by the service.
            for _ in 0..PATIENCE.as_secs() {
                request += 1;
                asking.ask_about_lease(2, &LeaseQuestion { request, lease, renew });
                let mut posted = Vec::new();
                if timeout(Duration::from_secs(1), asker.answers.drain(&mut posted)).await.is_err()
                {
                    continue;
                }
                for answer in posted {
                    if let ToWorker::Lease(answer) = answer
                        && answer.request == request
                    {
                        return Answer::from_wire(answer.seconds, answer.term);
                    }
                }
            }
            panic!("no answer");
        };
        asked.context.lessor.granted(5, 100);
        assert_eq!(ask(5, true).await, Answer::NotLeading);
        // Raft says that it leads, but its lessor has not heard everything yet.
        let leads = Status {
            term: Term(3),
            leader: Some(NodeId(2)),
            is_leader: true,
            commit: Index(1),
            last: Index(1),
            is_sole_leader: false,
            has_committed_in_term: false,
        };
        asked.context.cluster.publish(&leads);
        assert_eq!(ask(5, true).await, Answer::NotLeading);
        asked.context.lessor.lead(Some(3));
        assert_eq!(ask(5, true).await, Answer::Alive { seconds: 100, term: 3 });
        assert_eq!(ask(6, true).await, Answer::NotAlive);
        assert_eq!(ask(6, false).await, Answer::NotAlive);
        let Answer::Alive { seconds: left, term: 3 } = ask(5, false).await else {
            panic!("it leads")
        };
        assert!((1..=100).contains(&left));
        asked.context.lessor.lead(None);
        assert_eq!(ask(5, false).await, Answer::NotLeading);
    });
}

#[test]
fn a_member_that_is_behind_believes_where_others_are_until_it_knows_better() {
    let (peers, _queues) =
        Peers::new(vec![unreachable(2), unreachable(3)], Metrics::new(Detail::Basic));
    let places = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let known = |id| peers.with(id, |queues| queues.addresses.clone());
    // It says nothing that this member could not know by itself.
    peers.learn(4, places(&["d:1"]), 10, 10);
    assert!(!peers.is_known(4));
    peers.learn(4, places(&["d:1"]), 11, 10);
    assert_eq!(known(4), Some(places(&["d:1"])));
    // One that moved.
    peers.learn(3, places(&["c:2"]), 20, 10);
    assert_eq!(known(3), Some(places(&["c:2"])));
    // A change in between does not undo it.
    let at = |id, names: &[&str]| PeerAddress { id, addresses: places(names) };
    peers.set_members(vec![at(3, &["c:1"])], 10);
    assert_eq!(known(3), Some(places(&["c:2"])));
    assert!(peers.is_known(4) && !peers.is_known(2));
    // The own state has come as far as their words.
    peers.set_members(vec![at(3, &["c:3"])], 20);
    assert_eq!(known(3), Some(places(&["c:3"])));
    assert!(!peers.is_known(4), "its state does not have it");
    // Nobody fills the memory with members that there are not.
    for id in 100..1_000 {
        peers.learn(id, places(&["x:1"]), 1_000, 20);
    }
    let learnt = (100..1_000).filter(|id| peers.is_known(*id)).count();
    assert_eq!(learnt, limits::PEERS_LEARNT_MAX);
}

#[test]
fn who_is_connected_and_says_nothing_does_not_count_as_connected() {
    let (peers, _queues) = Peers::new(vec![unreachable(2)], Metrics::new(Detail::Basic));
    peers.with(2, |queues| queues.connected.set(true));
    assert!(peers.connected_since(2, PATIENCE).is_none(), "nothing was heard");
    peers.hear(2);
    assert!(peers.connected_since(2, PATIENCE).is_some());
    std::thread::sleep(Duration::from_millis(2));
    assert!(peers.connected_since(2, Duration::from_millis(1)).is_none(), "silent for too long");
    peers.with(2, |queues| queues.connected.set(false));
    assert!(peers.connected_since(2, PATIENCE).is_none());
}
