//! Puts, deletions, compactions, lost batches, watchers that come and go, clients that read when
//! they like: from a seed, each seed one run. `VARVE_SEED` runs one, `VARVE_SEEDS` so many.

use super::world::{World, compact, delete, put, put_all, run, spec};
use crate::watch::hub::WatchSpec;

const SEEDS: u64 = 60;
const STEPS: usize = 400;
const STREAMS_MAX: usize = 4;
const WATCHERS_MAX: usize = 12;

struct Random(u64);

impl Random {
    /// A number below `bound` (splitmix64).
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn key(&mut self) -> Vec<u8> {
        vec![b'a' + self.below(6) as u8]
    }

    fn value(&mut self) -> Vec<u8> {
        let length = if self.one_in(10) { 900 } else { self.below(40) };
        vec![b'0' + self.below(10) as u8; length as usize]
    }

    fn spec(&mut self) -> WatchSpec {
        let mut spec = match self.below(4) {
            0 => spec("a", ""),
            1 => spec("b", "e"),
            2 => spec("\0", "\0"),
            _ => spec("c", "\0"),
        };
        spec.no_put = self.one_in(8);
        spec.no_delete = self.one_in(8);
        spec.prev_kv = self.one_in(3);
        spec.fragment = self.one_in(2);
        spec.progress_notify = self.one_in(3);
        spec
    }
}

fn change(world: &mut World, random: &mut Random) {
    let mut commands = Vec::new();
    for _ in 0..=random.below(3) {
        commands.push(match random.below(5) {
            0 => delete(&random.key(), b""),
            1 => delete(b"b", b"e"),
            2 => {
                let keys = [b"a", b"b", b"c", b"d", b"e"];
                let count = 1 + random.below(5) as usize;
                let pairs = keys[..count].iter().map(|key| (key.to_vec(), random.value()));
                put_all(&pairs.collect::<Vec<_>>())
            }
            _ => put(&random.key(), &random.value()),
        });
    }
    let has_room = !random.one_in(12);
    world.apply(&commands, has_room);
}

fn create(world: &mut World, random: &mut Random) {
    if world.streams.is_empty() || (world.streams.len() < STREAMS_MAX && random.one_in(3)) {
        world.open();
    }
    let stream = random.below(world.streams.len() as u64) as usize;
    if world.streams[stream].client.watchers.len() >= WATCHERS_MAX {
        return;
    }
    let now = world.revision();
    let start_revision = match random.below(5) {
        0 | 1 => 0,
        2 | 3 => 1 + random.below(now as u64) as i64,
        _ if random.one_in(10) => i64::MAX,
        _ => now + random.below(6) as i64,
    };
    // Ids are never used twice here, so that a late response cannot be taken for another's.
    let id = 1 + world.streams[stream].client.watchers.len() as i64;
    let spec = random.spec();
    world.watch(stream, Some(id), start_revision, spec).unwrap();
}

async fn step(world: &mut World, random: &mut Random) {
    match random.below(20) {
        0..=6 => change(world, random),
        7 => create(world, random),
        8 if !world.streams.is_empty() => {
            let stream = random.below(world.streams.len() as u64) as usize;
            world.request_progress(stream);
        }
        9 if !world.streams.is_empty() && random.one_in(3) => {
            let stream = random.below(world.streams.len() as u64) as usize;
            let id = random.below(WATCHERS_MAX as u64) as i64;
            world.cancel(stream, id);
        }
        10 if random.one_in(3) => {
            let (compacted, now) = (world.compacted(), world.revision());
            let revision = compacted + random.below((now - compacted) as u64 + 1) as i64;
            world.apply(&[compact(revision)], true);
        }
        11 if random.one_in(3) => world.work(),
        12 if random.one_in(4) => world.post_resync(),
        13 => world.hub.notify_progress(),
        14 if random.one_in(6) && !world.streams.is_empty() => {
            let stream = random.below(world.streams.len() as u64) as usize;
            world.streams.swap_remove(stream);
        }
        14..=16 => {
            for stream in 0..world.streams.len() {
                // Later streams have slower clients.
                if random.below(1 + stream as u64) == 0 {
                    world.read(stream);
                }
            }
        }
        _ => world.deliver(1 + random.below(4) as usize),
    }
    for _ in 0..random.below(3) {
        tokio::task::yield_now().await;
    }
}

async fn run_seed(seed: u64) {
    let mut random = Random(seed);
    let mut world = World::new(seed);
    for number in 1..=STEPS {
        step(&mut world, &mut random).await;
        if number % 100 == 0 {
            world.settle().await;
            world.check();
        }
    }
}

#[test]
fn every_watcher_gets_what_it_asked_for_once_and_in_order() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("VARVE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VARVE_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(run_seed(seed)));
        if let Err(panic) = outcome {
            eprintln!("failed with VARVE_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
