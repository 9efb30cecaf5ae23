//! Real processes under load, killed with SIGKILL at any moment: every acknowledged write is there
//! with its revision, no revision goes back or repeats, and a watcher that resumes sees every
//! event exactly once and in order.
//!
//! `VARVE_KILLS_ONE` and `VARVE_KILLS_LEADER` set how often (short by default; the full run is 100
//! and 20, see docs/TESTING.md). The data lies on a real file system.

use std::time::Duration;

use varve_tests::load::{ACKNOWLEDGED_PER_ROUND, find_leader, run};
use varve_tests::process::{Cluster, Program, Server};

const CALL_TIMEOUT: Duration = Duration::from_secs(2);

fn count(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn one_node_killed_again_and_again_loses_nothing() {
    let kills = count("VARVE_KILLS_ONE", 5);
    let mut server = Server::start(&Program::varve(), &[]);
    let address = server.client_address();
    run(vec![address], CALL_TIMEOUT, |load| {
        for _ in 0..kills {
            server.kill();
            server.restart();
            load.wait_for(ACKNOWLEDGED_PER_ROUND);
        }
    });
    println!("killed {kills} times");
}

#[test]
fn three_nodes_whose_leader_is_killed_again_and_again_lose_nothing() {
    let kills = count("VARVE_KILLS_LEADER", 3);
    let mut cluster = Cluster::start(&Program::varve(), 3, &[]);
    let addresses: Vec<String> = cluster.servers.iter().map(Server::client_address).collect();
    run(addresses, CALL_TIMEOUT, |load| {
        for _ in 0..kills {
            let leader = find_leader(&cluster);
            cluster.servers[leader].kill();
            load.wait_for(ACKNOWLEDGED_PER_ROUND);
            cluster.servers[leader].restart();
            load.wait_for(ACKNOWLEDGED_PER_ROUND);
        }
        // All together, as when the power fails.
        cluster.servers.iter_mut().for_each(Server::kill);
        cluster.restart_all();
        load.wait_for(ACKNOWLEDGED_PER_ROUND);
    });
    println!("killed the leader {kills} times, and all together once");
}
