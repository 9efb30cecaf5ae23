//! What one seed plays: sizes, rates, and which troubles there are.
//!
//! One idea (swarm testing, Groce et al., 2012): each seed draws its own mix and its own sizes, most
//! of them extreme. A run with everything at once seldom reaches what needs much of one thing.

use std::time::Duration;

use varve_disk::sim::Random;
pub use varve_judge::history::{Micros, SECOND};

use crate::operator::CHANGES;
use crate::plant::Plant;
use crate::shorten::LeftOut;

/// A millisecond.
pub const MILLISECOND: Micros = 1_000;

/// What a seed was drawn into. Chances are "one in so many", 0 for never.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Founding members.
    pub members: u64,
    /// Clients, each with one request at a time.
    pub clients: usize,
    /// Operations that clients begin, watches and their reading apart.
    pub operations: usize,
    /// Keys that they use.
    pub keys: u64,
    /// Mean pause of a client between two requests.
    pub think: Micros,
    /// A tick of Raft.
    pub tick: Duration,
    /// Ticks of an election timeout.
    pub election_ticks: usize,
    /// Entries after which a memtable is made durable.
    pub snapshot_count: u64,
    /// Entries kept for slow followers.
    pub catch_up_entries: u64,
    /// The engine's sizes.
    pub engine: varve_lsm::Options,
    /// The log's sizes.
    pub log: varve_wal::Options,
    /// Revisions in one piece of history.
    pub catch_up_revisions: i64,
    /// Bytes that a watch stream holds for its client.
    pub stream_bytes: usize,
    /// Mean delay of a message.
    pub delay: Micros,
    /// Mean time until the apply thread takes what there is for it.
    pub apply: Micros,
    /// Longest time of a sync of the log.
    pub sync: Micros,
    /// Messages lost.
    pub loss: u64,
    /// Messages that come twice.
    pub repeat: u64,
    /// Whether messages of one stream may overtake each other.
    pub reorders: bool,
    /// How far clocks go wrong, in parts per million.
    pub drift: u64,
    /// Mean time between two troubles; 0 for none.
    pub trouble: Micros,
    /// How likely each trouble is, see [`TROUBLES`].
    pub weights: [u64; TROUBLES.len()],
    /// Mean time between two changes of the members; 0 for none.
    pub change: Micros,
    /// How likely each change is, see [`CHANGES`].
    pub changes: [u64; CHANGES.len()],
    /// Whether leaders judge changes by who has started and is connected.
    pub is_strict: bool,
    /// Snapshots that are cut off on their way.
    pub snapshot_cut: u64,
    /// Leases live so many seconds at least.
    pub ttl: i64,
    /// How likely each request is, see [`crate::client::REQUESTS`].
    pub requests: [u64; crate::client::REQUESTS.len()],
    /// Longest value.
    pub value_bytes: u64,
    /// What is not played of all this.
    pub left_out: LeftOut,
    /// Whether the leader answers reads by a lease.
    pub lease_reads: bool,
    /// Whether the leader asks others to send snapshots.
    pub lends_snapshots: bool,
    /// A bug that is planted.
    pub plant: Option<Plant>,
}

/// What may happen to a cluster.
pub const TROUBLES: [&str; 18] = [
    "kill",
    "power loss",
    "power loss at a disk call",
    "power loss of all",
    "pause",
    "failed sync",
    "failed write",
    "disk full",
    "slow disk",
    "symmetric partition",
    "one-way cut",
    "heal",
    "leader transfer",
    "bit flip",
    "sleeping leader",
    "late leader",
    "restarted voters",
    "needed member rots",
];

impl Plan {
    /// The same with a planted bug.
    pub fn with(self, plant: Option<Plant>) -> Self {
        Self { plant, ..self }
    }

    /// Draws a plan.
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x706c_616e);
        let r = &mut random;
        let members = [1, 2, 3, 3, 3, 3, 5, 5][r.below(8) as usize];
        let mut weights = [0; TROUBLES.len()];
        for weight in &mut weights {
            *weight = if r.one_in(2) { 1 + r.below(8) } else { 0 };
        }
        // What is cut is healed sooner or later.
        weights[named("heal")] = 4 + r.below(8);
        // Who has rotted is of no use any more.
        let rots = u64::from(r.one_in(2));
        weights[named("bit flip")] *= rots;
        weights[named("needed member rots")] *= rots;
        let mut requests = [0; crate::client::REQUESTS.len()];
        for weight in &mut requests {
            *weight = if r.one_in(4) { 0 } else { 1 + r.below(10) };
        }
        requests[0] = 5 + r.below(20);
        let operations = 550 + r.below(100) as usize;
        let clients = 2 + r.below(8) as usize;
        let mut plan = Self {
            seed,
            members,
            clients,
            operations,
            keys: [1, 3, 8, 40][r.below(4) as usize],
            think: 85 * SECOND * clients as u64 / operations as u64,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            snapshot_count: [3, 10, 50, 1000][r.below(4) as usize],
            catch_up_entries: [0, 1, 10, 1000][r.below(4) as usize],
            engine: engine(r),
            log: varve_wal::Options {
                segment_bytes: [16 << 10, 32 << 10, 64 << 10][r.below(3) as usize],
                cache_bytes_max: [0, 1 << 10, 1 << 20][r.below(3) as usize],
                compress_bytes_min: [None, Some(100)][r.below(2) as usize],
                ..varve_wal::Options::default()
            },
            catch_up_revisions: [1, 3, 20, 4096][r.below(4) as usize],
            stream_bytes: [200, 1000, 1 << 20][r.below(3) as usize],
            delay: [100, MILLISECOND, 20 * MILLISECOND][r.below(3) as usize],
            apply: [20, 20, 5 * MILLISECOND, 50 * MILLISECOND][r.below(4) as usize],
            sync: [200, 2 * MILLISECOND, 30 * MILLISECOND][r.below(3) as usize],
            loss: [0, 0, 100, 10, 4][r.below(5) as usize],
            repeat: [0, 0, 50, 5][r.below(4) as usize],
            reorders: r.one_in(2),
            drift: [0, 1_000, 20_000][r.below(3) as usize],
            trouble: [0, 20 * SECOND, 6 * SECOND, 2 * SECOND][r.below(4) as usize],
            weights,
            snapshot_cut: [0, 3][r.below(2) as usize],
            ttl: [2, 5, 20][r.below(3) as usize],
            requests,
            value_bytes: [8, 200, 3000][r.below(3) as usize],
            change: [0, 0, 30 * SECOND, 8 * SECOND][r.below(4) as usize],
            changes: std::array::from_fn(|_| if r.one_in(3) { 0 } else { 1 + r.below(8) }),
            is_strict: r.one_in(2),
            left_out: LeftOut::default(),
            lease_reads: seed % 2 == 1,
            lends_snapshots: seed.is_multiple_of(3),
            plant: None,
        };
        match r.below(6) {
            0 if members > 1 => plan.narrow_to_leaders(r),
            1 if members > 2 => plan.narrow_to_rot(r),
            2 => plan.narrow_to_few_members(r),
            _ => {}
        }
        plan
    }

    /// Nothing but leaders on their own, and who asks them.
    fn narrow_to_leaders(&mut self, r: &mut Random) {
        self.weights = only(r, &["heal", "sleeping leader", "late leader", "restarted voters"]);
        self.trouble = 12 * SECOND;
    }

    /// Little but bits that turn over, in small files of large values, and clients who read.
    fn narrow_to_rot(&mut self, r: &mut Random) {
        self.weights = only(r, &["heal", "kill", "bit flip", "needed member rots"]);
        self.trouble = 8 * SECOND;
        self.change = [0, 0, 8 * SECOND][r.below(3) as usize];
        self.snapshot_count = [10, 50, 1000][r.below(3) as usize];
        self.engine.memtable_bytes = 8 << 10;
        self.engine.table_bytes = [1 << 10, 4 << 10][r.below(2) as usize];
        self.engine.inline_value_bytes_max = [0, 64][r.below(2) as usize];
        self.value_bytes = [200, 3000][r.below(2) as usize];
        for weight in &mut self.requests[1..=4] {
            *weight = 5 + r.below(10);
        }
    }

    /// Members that are added and removed, one or two at a time.
    fn narrow_to_few_members(&mut self, r: &mut Random) {
        self.members = 2;
        self.trouble = [20 * SECOND, 6 * SECOND][r.below(2) as usize];
        self.change = 8 * SECOND;
        let usual = ["add a voter", "remove a member", "remove the leader"];
        self.changes = CHANGES.map(|name| if usual.contains(&name) { 1 + r.below(4) } else { 0 });
    }
}

/// Weights of these troubles, and of no others.
fn only(r: &mut Random, names: &[&str]) -> [u64; TROUBLES.len()] {
    TROUBLES.map(|name| if names.contains(&name) { 1 + r.below(4) } else { 0 })
}

/// The place of a trouble in [`TROUBLES`].
fn named(name: &str) -> usize {
    TROUBLES.iter().position(|known| *known == name).expect("it is one of them")
}

/// Sizes so small that a few hundred writes make several levels; whose it is comes later.
fn engine(r: &mut Random) -> varve_lsm::Options {
    varve_lsm::Options {
        memtable_bytes: [8 << 10, 32 << 10, 256 << 10][r.below(3) as usize],
        frozen_memtables_max: [1, 2][r.below(2) as usize],
        level0_tables: [1, 2, 2, 4][r.below(4) as usize],
        // 0: never large enough for the bottom, so that tiers are made above it.
        bottom_factor: [0, 1, 8][r.below(3) as usize],
        segment_bytes: [4 << 10, 16 << 10][r.below(2) as usize],
        table_bytes: [1 << 10, 4 << 10, 16 << 10][r.below(3) as usize],
        inline_value_bytes_max: [0, 64, 1 << 10][r.below(3) as usize],
        step_bytes: [1 << 10, varve_lsm::STEP_BYTES][r.below(2) as usize],
        compression: [None, Some(varve_lsm::Compression::default())][r.below(2) as usize],
        frame_cache_bytes: [0, 1 << 20][r.below(2) as usize],
        ..varve_lsm::Options::default()
    }
}

/// One of these, by weight; nothing if all are 0.
pub fn choose(random: &mut Random, weights: &[u64]) -> Option<usize> {
    let sum: u64 = weights.iter().sum();
    let mut at = if sum == 0 { return None } else { random.below(sum) };
    weights.iter().position(|weight| {
        let hit = at < *weight;
        at = at.saturating_sub(*weight);
        hit
    })
}
