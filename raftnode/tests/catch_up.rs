//! What a follower that was away for long costs its leader: bytes, counted.
//!
//! One idea: a leader keeps nothing for a follower that is down. What it lacks is in the log, and
//! is read back in bounded pieces when it returns.

mod cluster;

use cluster::Cluster;

/// Bounds of the nodes in `cluster`: entry bytes read for followers in a cycle, and in a message.
const CATCH_UP_BYTES_MAX: usize = 8 << 10;
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// A message's header and those of its entries, at most.
const OVERHEAD_BYTES: usize = 1 << 10;

fn fill(cluster: &mut Cluster, leader: u64, value_bytes: usize, count: usize) {
    let value = "v".repeat(value_bytes);
    for _ in 0..count {
        cluster.propose(leader, &value).expect("the leader has room");
        cluster.run();
        // Nobody reads it.
        cluster.trace.clear();
    }
}

fn elected(cluster: &mut Cluster) -> u64 {
    for _ in 0..100 {
        if let Some(leader) = cluster.leader() {
            return leader;
        }
        for node in 1..=3 {
            cluster.tick(node);
        }
        cluster.run();
    }
    panic!("nobody leads");
}

#[test]
fn a_follower_that_returns_is_caught_up_with_in_bounded_pieces() {
    // Values as large as a message, and several in one.
    for (value_bytes, count) in [(MESSAGE_BYTES_MAX, 400), (100, 2_000)] {
        let mut cluster = Cluster::new(1, &[1, 2, 3], &[]);
        let leader = elected(&mut cluster);
        let away = leader % 3 + 1;
        cluster.crash(away);
        fill(&mut cluster, leader, value_bytes, count);
        cluster.output_bytes_max = 0;
        cluster.restart(away).expect("its disk is whole");
        let last = cluster.status(leader).last;
        for _ in 0..2_000 {
            if cluster.status(away).commit >= last {
                break;
            }
            cluster.tick(leader);
            cluster.run();
            cluster.trace.clear();
        }
        assert!(cluster.status(away).commit >= last, "it has everything");
        // The piece that exceeds the bound is the last one of its cycle.
        let most = CATCH_UP_BYTES_MAX + MESSAGE_BYTES_MAX + 3 * OVERHEAD_BYTES;
        let found = cluster.output_bytes_max;
        assert!(found <= most, "{found} bytes in one output, at most {most} are allowed");
        assert!(found > MESSAGE_BYTES_MAX / 2, "{found} bytes: more than one entry at a time");
    }
}
