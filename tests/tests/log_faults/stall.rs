//! A leader whose disk does not answer any more, and does not fail either: another leads soon, and
//! the old one answers no read from the past, neither meanwhile nor when the disk is back.
//!
//! One idea: the shim makes every call of that member's log wait while a file is there.

use std::time::Instant;

use varve_tests::load::find_leader;
use varve_tests::process::Cluster;

use super::*;

pub(super) const MEMBERS: usize = 3;
/// The disk is away at least so long.
const STALL: Duration = Duration::from_secs(5);
/// What is promised is ten seconds; the rest is for a machine that has much else to do.
const LEADS_WITHIN: Duration = Duration::from_secs(60);
const READERS: usize = 20;
const READ_TIMEOUT: Duration = Duration::from_secs(3);

#[test]
fn a_leader_whose_disk_stalls_is_replaced_and_answers_nothing_from_the_past() {
    let directory = fresh_directory("log-stall");
    let Some(shim) = build_shim(&directory) else { return };
    let stall = |member: usize| directory.join(format!("fault-{member}"));
    let cluster = start_members(&shim, &directory, "STALL");
    let leader = find_leader(&cluster);
    let address = |member: usize| cluster.servers[member % MEMBERS].client_address();
    let (old, other) = (address(leader), address(leader + 1));
    put_until_done(&other, "old");
    std::fs::write(stall(leader), "").expect("the test's own file");
    let began = Instant::now();
    // Waits at the old leader's disk, so that its Raft thread does, too.
    let waits = {
        let old = old.clone();
        std::thread::spawn(move || block_on(put_value(&old, "k2", "lost or not")))
    };
    put_until_done(&other, "new");
    let took = began.elapsed();
    println!("a write was acknowledged {took:?} after the leader's disk had stalled");
    assert!(took < LEADS_WITHIN, "{took:?}");
    let meanwhile = read_from(&old);
    std::thread::sleep(STALL.saturating_sub(began.elapsed()));
    // In its socket when the disk is back.
    let reader = {
        let old = old.clone();
        std::thread::spawn(move || read_from(&old))
    };
    std::fs::remove_file(stall(leader)).expect("it was there");
    let afterwards = reader.join().expect("no panic");
    for value in meanwhile.into_iter().chain(afterwards) {
        assert_eq!(value, "new", "a stale read");
    }
    // And it is a member like any other again.
    let deadline = Instant::now() + LEADS_WITHIN;
    while read_from(&old).is_empty() {
        assert!(Instant::now() < deadline, "{}", cluster.servers[leader].log());
    }
    let _lost_or_not = waits.join().expect("no panic");
    drop(cluster);
    std::fs::remove_dir_all(&directory).expect("the test's own directory");
}

/// Members whose log meets a fault while `fault-N` is in the directory; their calls are in `calls-N`.
pub(super) fn start_members(shim: &Path, directory: &Path, fault: &str) -> Cluster {
    let mut options: Vec<Options> = (0..MEMBERS)
        .map(|member| {
            let log = directory.join(format!("calls-{member}"));
            let mut options = super::options(shim, &log, "dsync", None);
            options.name = format!("m{member}");
            let file = directory.join(format!("fault-{member}"));
            options.launcher.push(format!("VARVE_FAULT_{fault}={}", file.display()));
            options
        })
        .collect();
    let named = options.iter().map(|one| format!("{}={}", one.name, one.peer_url()));
    let founders = named.collect::<Vec<_>>().join(",");
    options.iter_mut().for_each(|one| one.initial_cluster.clone_from(&founders));
    let start = |options| Server::spawn(&Program::varve(), options);
    let cluster = Cluster { servers: options.into_iter().map(start).collect() };
    cluster.servers.iter().for_each(Server::wait_ready);
    cluster
}

/// Puts a value until it is acknowledged.
fn put_until_done(address: &str, value: &str) {
    let deadline = Instant::now() + LEADS_WITHIN;
    while let Err(error) = block_on(put_value(address, "k", value)) {
        assert!(Instant::now() < deadline, "{error}");
    }
}

async fn put_value(address: &str, key: &str, value: &str) -> Result<(), tonic::Status> {
    let request = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    };
    Client::new(address, READ_TIMEOUT).put(request).await.map(|_| ())
}

/// What many linearizable reads at once are told, of those that are answered.
fn read_from(address: &str) -> Vec<String> {
    block_on(async {
        let reads: Vec<_> = (0..READERS)
            .map(|_| {
                let client = Client::new(address, READ_TIMEOUT);
                tokio::spawn(async move {
                    let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
                    client.range(request).await
                })
            })
            .collect();
        let mut values = Vec::new();
        for read in reads {
            let Ok(answer) = read.await.expect("no panic") else { continue };
            values.push(String::from_utf8_lossy(&answer.kvs[0].value).into_owned());
        }
        values
    })
}
