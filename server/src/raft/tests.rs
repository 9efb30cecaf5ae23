//! The Raft thread of a sole member over a simulated disk; the test plays the apply thread.

use std::path::Path;
use std::thread::JoinHandle;

use varve_disk::sim::SimDisk;
use varve_store::{CommandKind, RequestId, decode_batch};
use varve_wal::Wal;

use super::*;
use crate::metrics::{Detail, Metrics};
use crate::queue::bounded;

const MEMBER: u64 = 7;
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    raft: Sender<RaftInput>,
    queue: Receiver<ApplyInput>,
    cluster: Arc<Cluster>,
    thread: JoinHandle<varve_raftnode::Result<()>>,
}

fn start(queue_length: usize) -> Running {
    let metrics = Metrics::new(Detail::Basic);
    let cluster = Arc::new(Cluster::new(1, MEMBER));
    let disk = Arc::new(SimDisk::new(1));
    let options = varve_wal::Options { segment_bytes: 1 << 20, ..varve_wal::Options::default() };
    let wal = Wal::open(disk, Path::new("/log"), options).unwrap();
    let config = varve_raftnode::Config {
        id: NodeId(MEMBER),
        election_ticks: 10,
        heartbeat_ticks: 1,
        pre_vote: true,
        seed: 1,
        boot_nonce: 1,
        message_bytes_max: limits::APPEND_BYTES_MAX,
        inflight_messages_max: limits::APPENDS_IN_FLIGHT_MAX,
        uncommitted_bytes_max: limits::UNCOMMITTED_BYTES_MAX,
        catch_up_bytes_max: 1 << 20,
        ignores_changes_found: false,
        read_lease: None,
    };
    let founded = Applied {
        index: Index(1),
        term: Term(1),
        voters: vec![NodeId(MEMBER)],
        learners: Vec::new(),
    };
    cluster.publish_applied(1);
    let node = Node::open(config, wal, founded).unwrap();
    let (raft, inbox) = bounded(limits::RAFT_INBOX_MAX);
    let (apply, queue) = bounded(queue_length);
    let (peers, _) = Peers::new(Vec::new(), Arc::clone(&metrics));
    let thread = RaftThread {
        node,
        inbox,
        apply,
        peers,
        cluster: Arc::clone(&cluster),
        metrics,
        tick: Duration::from_millis(10),
        ticks_advanced: 0,
        catch_up_entries: 10,
        snapshots_from_followers: false,
        clock: Clock::default(),
    };
    let thread = std::thread::spawn(move || thread.run());
    Running { raft, queue, cluster, thread }
}

impl Running {
    fn next(&self) -> ApplyInput {
        self.queue.recv_timeout(PATIENCE).expect("the thread goes on")
    }

    /// Plays the apply thread until it is told to time leases; that term.
    fn lead(&self) -> u64 {
        let mut entries = 0;
        loop {
            match self.next() {
                ApplyInput::Committed(committed) => {
                    entries += committed.len();
                    let last = committed.last().expect("not empty");
                    assert_eq!(last.term.0, self.cluster.term());
                    self.cluster.publish_applied(last.index.0);
                }
                ApplyInput::Lead { term: Some(term) } => {
                    assert!(entries > 0, "the term's first entry comes before");
                    return term;
                }
                _ => panic!("neither entries nor a term"),
            }
        }
    }

    fn stop(self) {
        self.raft.send(RaftInput::Stop { deadline: Instant::now() + PATIENCE }).unwrap();
        self.thread.join().unwrap().unwrap();
    }
}

fn command(id: u64) -> Command {
    let (kind, body) = (CommandKind::Put, Bytes::from_static(b"body"));
    Command { id: RequestId(id), kind, author: None, body }
}

#[test]
fn who_hears_of_an_entry_finds_it_and_its_leader_published() {
    for _ in 0..20 {
        let running = start(64);
        // As fast as another thread can be.
        let entries = loop {
            match running.queue.try_recv() {
                Ok(ApplyInput::Committed(entries)) => break entries,
                _ => std::hint::spin_loop(),
            }
        };
        let (leader, committed) = (running.cluster.leader(), running.cluster.committed());
        let last = entries.last().expect("not empty").index.0;
        assert_eq!(leader, MEMBER, "entry {last} was handed over before its leader was known");
        assert!(committed >= last, "entry {last} was handed over when {committed} was published");
        running.stop();
    }
}

#[test]
fn only_the_leader_of_the_very_term_may_expire_a_lease() {
    let running = start(64);
    let term = running.lead();
    for (term, id) in [(term - 1, 1), (term, 2), (term + 1, 3)] {
        let input = RaftInput::ProposeAsLeader { term, command: command(id) };
        running.raft.send(input).unwrap();
    }
    running.raft.send(RaftInput::Propose(command(4))).unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&4) {
        let ApplyInput::Committed(entries) = running.next() else { panic!("no entries") };
        for entry in entries {
            seen.extend(decode_batch(&entry.payload).unwrap().iter().map(|command| command.id.0));
            running.cluster.publish_applied(entry.index.0);
        }
    }
    assert_eq!(seen, [2, 4]);
    running.stop();
}

#[test]
fn an_apply_thread_that_takes_nothing_for_a_while_gets_everything_in_order() {
    const COMMANDS: u64 = 500;
    let running = start(1);
    for id in 0..COMMANDS {
        running.raft.send(RaftInput::Propose(command(id))).unwrap();
        if id % 50 == 0 {
            // Several turns, so several entries.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let mut seen = Vec::new();
    let mut next_index = 2;
    while seen.len() < COMMANDS as usize {
        let ApplyInput::Committed(entries) = running.next() else { continue };
        for entry in entries {
            assert_eq!(entry.index.0, next_index);
            next_index += 1;
            if !entry.payload.is_empty() {
                let batch = decode_batch(&entry.payload).unwrap();
                seen.extend(batch.iter().map(|command| command.id.0));
            }
            running.cluster.publish_applied(entry.index.0);
        }
    }
    assert!(seen.into_iter().eq(0..COMMANDS));
    running.stop();
}

#[test]
fn a_sole_member_stops_at_once_with_nobody_to_hand_over_to() {
    let running = start(64);
    running.lead();
    running.raft.send(RaftInput::HandOver).unwrap();
    let started = Instant::now();
    running.stop();
    assert!(started.elapsed() < PATIENCE / 2, "{:?}", started.elapsed());
}
