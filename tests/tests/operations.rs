//! What an operator does to a cluster, by the book (docs/OPERATIONS.md), while clients work: it
//! grows, it is restarted member by member, a member's log is damaged and the member replaced; in
//! the end a majority is lost, and the survivor founds the cluster anew.
//!
//! One idea: one story on a network of namespaces, with the load of `workload` all the way, and its
//! judge. What the survivor of the end has is what all had.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::runtime::Runtime;
use varve_api::etcdserverpb::{MemberListRequest, MemberListResponse, PutRequest};
use varve_api::method;
use varve_judge::history::{History, Replica};
use varve_judge::violations;
use varve_tests::group::{Group, Life};
use varve_tests::grpc_client::Client;
use varve_tests::network;
use varve_tests::process::{Program, Server};
use varve_tests::trouble::{Blow, Phase, Wire};
use varve_tests::workload::{Workload, replica};

/// Longer than anything takes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Writes between two events, so that each is met by a load.
const WRITES: u64 = 50;
/// What frames of the log begin with, where on a block (docs/FORMAT.md section 1.3).
const FRAME_MAGIC: &[u8] = b"VWLF";

#[test]
fn a_cluster_grows_is_restarted_and_repaired_under_load_and_survives_its_majority() {
    let program = Program::varve();
    network::within(5, 0, |network| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let mut group = Group::start(network, &runtime, &program, 3, &[]);
        group.wait_leader(PATIENCE);
        let workload = Workload::start(&runtime, group.addresses(), 0);
        let goes_on = |group: &Group<'_>| {
            assert!(workload.wait_for(WRITES, PATIENCE), "no writes\n{}", group.logs());
        };
        goes_on(&group);
        for number in 3..5 {
            group.add(number);
            group.places[number].server.wait_ready();
            goes_on(&group);
        }
        let (lasts, rest) = (Duration::ZERO, Duration::ZERO);
        Phase { wire: Wire::Whole, blow: Blow::Rolling, lasts, rest }.carry_out(&mut group);
        goes_on(&group);
        let other = (group.wait_leader(PATIENCE) + 1) % 5;
        refuses_a_damaged_log(&mut group, other);
        goes_on(&group);
        group.replace(other);
        group.places[other].server.wait_ready();
        goes_on(&group);
        let (history, counts) = workload.finish(&group);
        println!("{counts:?}");
        let found = violations(&history);
        assert!(found.is_empty(), "{found:#?}\n{}", group.logs());
        the_survivor_founds_it_anew(&program, &runtime, group, &history);
    });
}

/// Damages what a member has acknowledged: it must refuse to serve, and say what to do.
fn refuses_a_damaged_log(group: &mut Group<'_>, number: usize) {
    group.kill(number);
    let place = &mut group.places[number];
    damage(&place.server.options().data_directory.join("member/log/0000000000000001.wal"));
    place.server.restart_unawaited();
    let status = place.server.wait_exit(PATIENCE).expect("it ends by itself");
    let log = place.server.log();
    assert_eq!(status.code(), Some(1), "{log}");
    for said in ["log damaged", "expected", "found", "add it again with an empty data directory"] {
        assert!(log.contains(said), "expected {said:?} in:\n{log}");
    }
    assert_eq!(place.life, Life::Down);
}

/// Flips a bit in a frame that others follow.
fn damage(path: &Path) {
    let segment = std::fs::read(path).expect("the member's segment");
    let block = u32::from_le_bytes(segment[12..16].try_into().expect("four bytes")) as usize;
    let blocks = (1..segment.len() / block).map(|position| position * block);
    let frames: Vec<usize> = blocks.filter(|at| segment[*at..].starts_with(FRAME_MAGIC)).collect();
    let at = frames[frames.len() / 2] + 70;
    let file = std::fs::File::options().write(true).open(path).expect("the member's segment");
    file.write_all_at(&[segment[at] ^ 0x20], at as u64).expect("the disk works");
}

/// All are gone but one, which is started with `--force-new-cluster`, and then joined by another.
fn the_survivor_founds_it_anew(
    program: &Program,
    runtime: &Runtime,
    mut group: Group<'_>,
    history: &History,
) {
    let known = &history.replicas[0];
    let has_all = |group: &Group<'_>, number: usize| {
        let address = &group.addresses()[number];
        let found = runtime.block_on(replica(known.member, address, known.revision));
        let found: Replica = found.unwrap_or_else(|error| panic!("{error}\n{}", group.logs()));
        assert_eq!((found.hash, found.keys.len()), (known.hash, known.keys.len()));
        assert!(found == *known, "m{number} at {}", known.revision);
    };
    (0..5).for_each(|number| group.kill(number));
    group.places.truncate(1);
    let options = group.places[0].server.options().clone();
    let mut forced = options.clone();
    forced.extra_flags.push("--force-new-cluster".into());
    // Their data directory is that of the one that runs: they are dropped after it.
    let mut stopped = Vec::new();
    let survivor = Server::start_with(program, forced).unwrap_or_else(|log| panic!("{log}"));
    stopped.push(std::mem::replace(&mut group.places[0].server, survivor));
    group.places[0].life = Life::Running;
    has_all(&group, 0);
    let address = group.addresses()[0].clone();
    let members: MemberListResponse = runtime.block_on(async {
        let client = Client::new(&address, PATIENCE);
        let put = PutRequest { key: "kz-anew".into(), ..PutRequest::default() };
        client.put(put).await.expect("it serves alone");
        let request = MemberListRequest { linearizable: true };
        client.unary(&method::CLUSTER_MEMBER_LIST, request).await.expect("the members")
    });
    assert_eq!(members.members.len(), 1, "{members:?}");
    // Once is enough.
    group.places[0].server.kill();
    let again = Server::start_with(program, options).unwrap_or_else(|log| panic!("{log}"));
    stopped.push(std::mem::replace(&mut group.places[0].server, again));
    group.add(1);
    group.places[1].server.wait_ready();
    has_all(&group, 1);
    drop(group);
    drop(stopped);
}
