//! One Raft node among peers that send arbitrary bytes and nearly true messages.
//!
//! What must hold: no message makes the node panic, and it hands out entries in order, without a
//! gap, each once. Nothing more is asked: liars can break Raft's promises.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use varve_disk::sim::SimDisk;
use varve_raftnode::{Applied, Config, Index, Node, NodeId, Output, Term};
use varve_wal::{Options, Wal};

use super::input::Input;

const STEPS_MAX: usize = 200;
const MEMBERS: u64 = 3;

/// A node and how far it has handed out entries.
struct Member {
    node: Node,
    handed_out: u64,
}

/// Runs one input: a tape of messages, ticks, proposals, reads and cycles.
pub fn step(data: &[u8]) {
    let mut input = Input::new(data);
    let mut member = Member::new(1);
    for _ in 0..STEPS_MAX {
        if input.is_over() {
            break;
        }
        match input.below(8) {
            0 => {
                let from = NodeId(1 + input.below(4) as u64);
                let length = usize::from(input.u16() % 512);
                let bytes = Bytes::copy_from_slice(input.take(length));
                let _ = member.node.step(from, &bytes);
            }
            1..=4 => {
                let (from, bytes) = nearly_true(&mut input);
                let _ = member.node.step(from, &bytes);
            }
            5 => (0..input.below(25)).for_each(|_| member.node.tick()),
            6 => {
                let _ = member.node.propose(Bytes::from_static(b"truth"));
                member.node.read(u64::from(input.byte()));
            }
            _ => drop(member.cycle()),
        }
    }
    member.cycle();
}

/// A message that a real group exchanged, with a few bytes changed.
fn nearly_true(input: &mut Input) -> (NodeId, Bytes) {
    let messages = true_messages();
    let (from, bytes) = &messages[usize::from(input.u16()) % messages.len()];
    let mut bytes = bytes.to_vec();
    for _ in 0..input.below(4) {
        let at = usize::from(input.u16()) % bytes.len();
        bytes[at] = input.byte();
    }
    (*from, bytes.into())
}

impl Member {
    fn new(id: u64) -> Self {
        let disk = SimDisk::new(id);
        let options = Options {
            identity: [7; 16],
            segment_bytes: 64 << 10,
            cache_bytes_max: 256,
            ..Options::default()
        };
        let wal = Wal::open_with_block_bytes(Arc::new(disk), Path::new("/log"), options, 512)
            .expect("an empty log opens");
        let config = Config {
            id: NodeId(id),
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            seed: id,
            boot_nonce: id,
            message_bytes_max: 4 << 10,
            inflight_messages_max: 4,
            uncommitted_bytes_max: 16 << 10,
            catch_up_bytes_max: 16 << 10,
            ignores_changes_found: false,
            read_lease: None,
        };
        let founded = Applied {
            index: Index(1),
            term: Term(1),
            voters: (1..=MEMBERS).map(NodeId).collect(),
            learners: Vec::new(),
        };
        let node = Node::open(config, wal, founded).expect("a fresh node starts");
        Self { node, handed_out: 1 }
    }

    /// Runs the node until it is quiet; what it sends.
    fn cycle(&mut self) -> Vec<(NodeId, Bytes)> {
        let mut sent = Vec::new();
        for _ in 0..100 {
            if !self.node.has_ready() {
                return sent;
            }
            let output = self.node.begin();
            let install = output.install.clone();
            self.carry_out(output, &mut sent);
            if let Some(mark) = install {
                self.handed_out = mark.index.0;
                self.node.snapshot_installed(mark).expect("it was announced");
            }
            let output = self.node.persist().expect("the simulated disk works");
            self.carry_out(output, &mut sent);
        }
        panic!("no end of cycles: {:?}", self.node.status());
    }

    fn carry_out(&mut self, output: Output, sent: &mut Vec<(NodeId, Bytes)>) {
        sent.extend(output.messages.into_iter().map(|message| (message.to, message.bytes)));
        for committed in output.committed {
            self.handed_out += 1;
            assert_eq!(committed.index.0, self.handed_out, "entries in order");
            self.node.applied(committed.index);
        }
    }
}

/// What members 2 and 3 say to member 1 while the group elects, replicates and reads.
fn true_messages() -> &'static [(NodeId, Bytes)] {
    static MESSAGES: OnceLock<Vec<(NodeId, Bytes)>> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let mut members: Vec<Member> = (1..=MEMBERS).map(Member::new).collect();
        let mut heard = Vec::new();
        for round in 0..120_usize {
            for member in &mut members {
                // Each member has its time as the most impatient one.
                let ticks = if member.node.status().is_leader { 1 } else { 1 + round % 3 };
                (0..ticks).for_each(|_| member.node.tick());
                let _ = member.node.propose(Bytes::from(format!("round {round}")));
                member.node.read(round as u64);
            }
            for at in 0..members.len() {
                let from = NodeId(at as u64 + 1);
                for (to, bytes) in members[at].cycle() {
                    if to == NodeId(1) {
                        heard.push((from, bytes.clone()));
                    }
                    // Losses, so that there are rejections and elections as well.
                    if (round + at) % 7 != 0 {
                        let _ = members[to.0 as usize - 1].node.step(from, &bytes);
                    }
                }
            }
        }
        assert!(heard.len() > 100, "only {} messages", heard.len());
        heard
    })
}

/// A tape of each kind of step, and true messages as raw ones.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![
        ("ticks-and-cycles".to_owned(), [5, 24, 7, 5, 24, 7, 6, 1, 7].repeat(3)),
        ("nearly-true".to_owned(), [1, 0, 0, 0, 7, 2, 9, 0, 1, 4, 0, 9, 7].repeat(4)),
    ];
    let messages = true_messages();
    for at in 0..4 {
        let (from, bytes) = &messages[at * messages.len() / 4];
        let mut tape = vec![0, from.0 as u8 - 1];
        tape.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        tape.extend_from_slice(bytes);
        tape.push(7);
        seeds.push((format!("true-{at}"), tape));
    }
    seeds
}
