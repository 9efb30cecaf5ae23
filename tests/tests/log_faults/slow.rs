//! A follower whose every write of the log takes half a second: the leader goes on with the other one.
//!
//! One idea: a client that puts one key after the other gets as many answers as there are entries; a
//! leader that waited for the slow follower would need a write of that follower's log for each. What
//! clients feel, with and without, is printed and not judged; with more clients and puts it is
//!
//! ```sh
//! VARVE_LONG=1 cargo test --release -p varve-tests --test log_faults slow -- --nocapture
//! ```

use std::time::Instant;

use varve_tests::load::find_leader;

use super::stall::{MEMBERS, start_members};
use super::*;

#[test]
fn a_follower_whose_disk_is_slow_holds_up_nobody() {
    let directory = fresh_directory("log-slow");
    let Some(shim) = build_shim(&directory) else { return };
    let cluster = start_members(&shim, &directory, "SLOW");
    let leader = find_leader(&cluster);
    let slow = (leader + 1) % MEMBERS;
    let address = cluster.servers[leader].client_address();
    let calls = || {
        let text = std::fs::read_to_string(directory.join(format!("calls-{slow}")));
        text.expect("the shim wrote it").lines().count()
    };
    let (clients, puts) = if is_long() { (16, 1_000) } else { (1, 60) };
    // A cluster that has just started has other things to do.
    put_all(&address, clients, puts / 4);
    let without = put_all(&address, clients, puts);
    std::fs::write(directory.join(format!("fault-{slow}")), "").expect("the test's own file");
    let before = calls();
    let with = put_all(&address, clients, puts);
    let written = calls() - before;
    println!("without: {}", describe_times(&without));
    println!("with:    {}; {written} writes of the slow log", describe_times(&with));
    assert!(written < with.len(), "the leader waits: {written} writes, {} puts", with.len());
    drop(cluster);
    std::fs::remove_dir_all(&directory).expect("the test's own directory");
}

/// Puts by several clients, each one after the other; how long each put took, in order.
fn put_all(address: &str, clients: usize, puts: usize) -> Vec<Duration> {
    let client = |number: usize| {
        let client = Client::new(address, CALL_TIMEOUT);
        async move {
            let mut times = Vec::new();
            for put in 0..puts {
                let request = PutRequest {
                    key: format!("{number}/{put}").into(),
                    value: vec![b'x'; 100].into(),
                    ..PutRequest::default()
                };
                let began = Instant::now();
                client.put(request).await.expect("a majority is well");
                times.push(began.elapsed());
            }
            times
        }
    };
    let mut times = block_on(async {
        let clients: Vec<_> = (0..clients).map(|number| tokio::spawn(client(number))).collect();
        let mut times = Vec::new();
        for client in clients {
            times.extend(client.await.expect("no panic"));
        }
        times
    });
    times.sort();
    times
}

fn describe_times(times: &[Duration]) -> String {
    let [p50, p99] = [50, 99].map(|percent| times[times.len() * percent / 100]);
    let max = times[times.len() - 1];
    format!("{} puts, p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}", times.len())
}
