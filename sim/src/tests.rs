//! A fixed set of seeds and a few fresh ones, in `cargo test`.

use crate::plan::Plan;
use crate::seed::Player;

/// Seeds of the fixed set.
const FIXED: u64 = 6;
/// Fresh ones, printed.
const FRESH: u64 = 2;

fn play(seeds: impl Iterator<Item = u64>) {
    let player = Player::new();
    for seed in seeds {
        let report = player.play(&Plan::draw(seed), false);
        let first = report.violations.first();
        assert_eq!(first, None, "seed {seed}: cargo run -p varve-sim -- replay {seed}");
        assert!(report.operations >= 100, "seed {seed} tested little: {}", report.operations);
    }
}

#[test]
fn a_fixed_set_of_seeds_keeps_all_promises() {
    play(0..FIXED);
}

#[test]
fn fresh_seeds_keep_all_promises() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let fresh = now.map_or(1 << 32, |now| now.as_secs() * 1_000);
    println!("fresh seeds from {fresh}");
    play(fresh..fresh + FRESH);
}

#[test]
fn equal_seeds_leave_equal_traces() {
    let player = Player::new();
    let digest = || player.play(&Plan::draw(7), false).digest;
    assert_eq!(digest(), digest());
}
