//! A network that was cut for longer than anybody waits, and is whole again.
//!
//! One idea: what TCP sent into the cut it sends again ever more rarely, so that a connection of before
//! stays silent for as long again after the cut. Members must have given it up by then.
//!
//! `VARVE_LONG=1` cuts for half a minute instead of as long as it takes to notice.

use std::time::{Duration, Instant};

use varve_tests::group::Group;
use varve_tests::network::{self, Link, Network};
use varve_tests::process::Program;

/// Longer than a cluster needs for anything, on a busy machine; a connection that is not given up is
/// held for a quarter of an hour.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a cut of half a minute may cost at most after it. Members dial within seconds; what TCP sends
/// again comes 21 s later.
const HEALED_WITHIN: Duration = Duration::from_secs(15);
/// What a member logs that gives a connection up.
const LOST: &str = "lost a peer stream";

fn cut_all(network: &Network) {
    let cut = Link { is_cut: true, ..Link::default() };
    for from in 1..=network.members() {
        (1..=network.members()).for_each(|to| network.set(from, to, cut));
    }
}

#[test]
fn a_network_that_was_cut_serves_soon_after_it_is_whole() {
    network::within(3, 1, |network| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let group = Group::start(network, &runtime, &Program::varve(), 3, &[]);
        group.places.iter().for_each(|place| place.server.wait_ready());

        let cut_at = Instant::now();
        cut_all(network);
        for place in &group.places {
            assert!(place.server.wait_for_log(LOST, PATIENCE), "{}", group.logs());
        }
        println!("given up after {:?}", cut_at.elapsed());
        if std::env::var_os("VARVE_LONG").is_some() {
            let thirty = Duration::from_secs(30);
            std::thread::sleep(thirty.saturating_sub(cut_at.elapsed()));
        }

        let healed_at = Instant::now();
        network.heal();
        group.wait_leader(PATIENCE);
        for place in &group.places {
            let is_healthy =
                || place.server.http_get("/health").is_ok_and(|answer| answer.0 == 200);
            while !is_healthy() {
                assert!(healed_at.elapsed() < PATIENCE, "{}", group.logs());
            }
        }
        let took = healed_at.elapsed();
        println!("healthy after {took:?}");
        assert!(took < HEALED_WITHIN, "healthy after {took:?}\n{}", group.logs());
    });
}
