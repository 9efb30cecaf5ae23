//! A node among liars: messages that are well formed, nearly true and wrong.
//!
//! Nothing is asked of the outcome (liars can break Raft's promises); the node must not panic,
//! whatever the `raft` crate would do with such messages, and must go on working.
//! A failing seed is printed; `VARVE_SEED=<seed>` runs it alone, `VARVE_SEEDS=<n>` runs more.

mod cluster;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::sim::{Fault, FaultRule, OperationKind, Random, SimDisk};
use varve_raftnode::{Applied, Config, Index, Node, NodeId, Output, Term};
use varve_wal::{Options, Wal};

use cluster::frames::{make, push_entry};

const KINDS: [&str; 13] = [
    "propose",
    "append",
    "append-response",
    "vote",
    "vote-response",
    "pre-vote",
    "pre-vote-response",
    "heartbeat",
    "heartbeat-response",
    "snapshot",
    "timeout-now",
    "read-index",
    "read-index-response",
];

struct Target {
    node: Node,
    random: Random,
    handed_out: u64,
    taken: u64,
    refused: u64,
}

impl Target {
    fn new(seed: u64, voters: u64) -> Self {
        let node = open(&SimDisk::new(seed), seed, voters);
        Self { node, random: Random::new(seed), handed_out: 1, taken: 0, refused: 0 }
    }

    /// A number near one that matters, sometimes far off.
    fn near(&mut self, number: u64) -> u64 {
        match self.random.below(12) {
            0 => 0,
            1 => self.random.next_u64(),
            2 => self.random.below(number + 3),
            3 => number + 1,
            4 => number.saturating_sub(1),
            _ => number,
        }
    }

    fn lie(&mut self) -> (NodeId, Bytes) {
        let status = self.node.status();
        let kind = KINDS[self.random.below(KINDS.len() as u64) as usize];
        let from = 2 + self.random.below(3);
        let forwarded = kind == "propose" || kind == "read-index";
        let term = if forwarded { 0 } else { self.near(status.term.0) };
        let fields = [
            ("from", from),
            ("to", 1),
            ("term", term),
            ("log_term", self.near(status.term.0)),
            ("index", self.near(status.last.0)),
            ("commit", self.near(status.commit.0)),
            ("commit_term", self.near(status.term.0)),
            ("reject_hint", self.near(status.last.0)),
            ("flags", u64::from(kind == "snapshot") * 2 + self.random.below(2)),
        ];
        let mut bytes = make(kind, &fields).to_vec();
        match kind {
            "append" => self.add_entries(&mut bytes, fields[4].1, term),
            "propose" => self.add_data(&mut bytes, 5),
            "read-index" => self.add_data(&mut bytes, 24),
            "read-index-response" => self.add_data(&mut bytes, 48),
            "snapshot" => self.add_mark(&mut bytes, status.last.0, term),
            "heartbeat" | "heartbeat-response" => {
                let length = 24 * self.random.below(3) as usize;
                bytes[84] = length as u8;
                bytes.resize(92 + length, 7);
            }
            _ => {}
        }
        if self.random.one_in(50) {
            let at = self.random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.random.below(8);
        }
        (NodeId(from), bytes.into())
    }

    fn add_entries(&mut self, bytes: &mut Vec<u8>, index: u64, term: u64) {
        let count = self.random.below(4);
        bytes[88] = count as u8;
        for position in 1..=count {
            let straight = index.wrapping_add(position);
            let index = if self.random.one_in(20) { self.near(straight) } else { straight };
            let term = if self.random.one_in(20) { self.near(term) } else { term };
            push_entry(bytes, 0, index, term, b"lie");
        }
    }

    fn add_data(&mut self, bytes: &mut Vec<u8>, length: usize) {
        bytes[88] = 1;
        let length = if self.random.one_in(20) { 0 } else { length };
        push_entry(bytes, 0, 0, 0, &vec![9; length]);
    }

    fn add_mark(&mut self, bytes: &mut Vec<u8>, last: u64, term: u64) {
        let (index, term) = (self.near(last + 2), self.near(term));
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&term.to_le_bytes());
        let voters = 1 + self.random.below(4);
        bytes.extend_from_slice(&(voters as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        (1..=voters).for_each(|voter| bytes.extend_from_slice(&voter.to_le_bytes()));
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..70 => {
                let (from, bytes) = self.lie();
                match self.node.step(from, &bytes) {
                    Ok(()) => self.taken += 1,
                    Err(_) => self.refused += 1,
                }
            }
            70..80 => self.node.tick(),
            80..84 => drop(self.node.propose(Bytes::from_static(b"truth"))),
            84..88 => self.node.read(1),
            _ => self.cycle(),
        }
    }

    fn cycle(&mut self) {
        for _ in 0..100 {
            if !self.node.has_ready() {
                return;
            }
            let output = self.node.begin();
            let install = output.install.clone();
            self.carry_out(output);
            if let Some(mark) = install {
                self.handed_out = mark.index.0;
                self.node.snapshot_installed(mark).expect("it was announced");
            }
            let output = self.node.persist().expect("the disk works");
            self.carry_out(output);
        }
        panic!("no end of cycles: {:?}", self.node.status());
    }

    fn carry_out(&mut self, output: Output) {
        for committed in output.committed {
            self.handed_out += 1;
            assert_eq!(committed.index.0, self.handed_out, "out of order");
            self.node.applied(committed.index);
        }
    }
}

fn open(disk: &SimDisk, seed: u64, voters: u64) -> Node {
    let options = Options {
        identity: [7; 16],
        segment_bytes: 64 << 10,
        cache_bytes_max: 256,
        ..Options::default()
    };
    let wal = Wal::open_with_block_bytes(Arc::new(disk.clone()), Path::new("/wal"), options, 512)
        .expect("the log opens");
    let config = Config {
        id: NodeId(1),
        election_ticks: 10,
        heartbeat_ticks: 1,
        pre_vote: true,
        seed,
        boot_nonce: 1,
        message_bytes_max: 4 << 10,
        inflight_messages_max: 4,
        uncommitted_bytes_max: 16 << 10,
        catch_up_bytes_max: 16 << 10,
        ignores_changes_found: false,
        read_lease: None,
    };
    let founders = Applied {
        index: Index(1),
        term: Term(1),
        voters: (1..=voters).map(NodeId).collect(),
        learners: Vec::new(),
    };
    Node::open(config, wal, founders).expect("a fresh node starts")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_message_makes_a_node_panic() {
    let seeds = match number("VARVE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VARVE_SEEDS").unwrap_or(100),
    };
    let (mut taken, mut refused) = (0, 0);
    for seed in seeds {
        eprintln!("VARVE_SEED={seed}");
        // A sole voter, a pair, a group.
        let mut target = Target::new(seed, 1 + seed % 3);
        (0..2000).for_each(|_| target.step());
        taken += target.taken;
        refused += target.refused;
    }
    eprintln!("{taken} lies taken, {refused} refused");
    assert!(taken > refused / 20, "too few lies were good enough: {taken} of {refused}");
}

#[test]
fn a_read_error_of_the_disk_is_an_error_of_persist() {
    let disk = SimDisk::new(1);
    let mut node = open(&disk, 1, 1);
    // Larger than the cache of recent entries, so that handing them out reads the disk.
    for number in 0..4u8 {
        node.propose(Bytes::from(vec![number + 1; 1024])).expect("it leads");
    }
    disk.inject(FaultRule::new(Fault::Io).on(OperationKind::Read).always());
    let mut found = None;
    while found.is_none() && node.has_ready() {
        assert!(node.begin().committed.is_empty(), "nothing can be read");
        found = node.persist().map(|output| assert!(output.committed.is_empty())).err();
    }
    assert!(found.is_some(), "the disk's error does not come out");
}
