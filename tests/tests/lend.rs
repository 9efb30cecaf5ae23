//! Files for a member that was away, from another member than the leader, when that is asked for.
//!
//! One idea: what each has sent stands in its metrics and in its log; the leader's must not be there.
//!
//! What it does not do: everything that may go wrong meanwhile; see the simulator, and
//! `raftnode/tests/scripts`, `snapshot_of_another_member_*`.

use std::time::Duration;

use varve_api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, PutRequest, RangeRequest,
};
use varve_api::method;
use varve_tests::grpc_client::Client;
use varve_tests::load::find_leader;
use varve_tests::process::{Cluster, Options, Program, Server};

/// Longer than a member needs for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// A log that is cut early, but not so early that another member's files are too old; and nobody waits
/// until members count as connected.
const FLAGS: [&str; 4] = [
    "--strict-reconfig-check=false",
    "--snapshot-count=40",
    "--snapshot-catchup-entries=120",
    "--experimental-varve-snapshots-from-followers",
];
const WRITES: usize = 400;
const VALUE_BYTES: usize = 4 << 10;
const BEGUN: &str = "receiving database snapshot";
const INSTALLED: &str = "applied snapshot";
const SENT: &str = "sent database snapshot";

fn client(server: &Server) -> Client {
    Client::new(&server.client_address(), PATIENCE)
}

/// Adds a learner to these and starts it.
async fn add_learner(cluster: &Cluster, more: &str) -> Server {
    let mut options = Options { name: "learner".to_owned(), ..Options::single("learner") };
    let request = MemberAddRequest { peer_urls: vec![options.peer_url()], is_learner: true };
    let client = client(&cluster.servers[0]);
    let added: MemberAddResponse =
        client.unary(&method::CLUSTER_MEMBER_ADD, request).await.expect("a learner");
    let named = |member: &Member| {
        let name = if member.name.is_empty() { "learner" } else { member.name.as_str() };
        format!("{name}={}", member.peer_urls[0])
    };
    options.initial_cluster = added.members.iter().map(named).collect::<Vec<_>>().join(",");
    options.initial_cluster_state = "existing".into();
    options.extra_flags = FLAGS.iter().chain([&more]).map(|flag| (*flag).to_owned()).collect();
    Server::start_with(&Program::varve(), options).expect("the learner serves")
}

async fn write(server: &Server, round: usize) {
    let client = client(server);
    for number in 0..WRITES {
        let put = PutRequest {
            key: format!("{round}/{number:04}").into(),
            value: vec![b'v'; VALUE_BYTES].into(),
            ..PutRequest::default()
        };
        client.put(put).await.expect("a majority is there");
    }
}

async fn keys(server: &Server) -> i64 {
    let all = RangeRequest {
        key: b"\0".as_slice().into(),
        range_end: b"\0".as_slice().into(),
        count_only: true,
        ..RangeRequest::default()
    };
    client(server).range(all).await.expect("a linearizable count").count
}

/// Snapshots that it has sent, by its log.
fn sent(server: &Server) -> usize {
    server.log().matches(SENT).count()
}

#[test]
fn a_learner_sends_what_a_member_lacks_and_the_leader_does_if_it_cannot() {
    let mut cluster = Cluster::start(&Program::varve(), 3, &FLAGS);
    let leader = find_leader(&cluster);
    let away = (leader + 1) % 3;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        // So slow that there is time to stop it.
        let slow = "--experimental-varve-snapshot-bytes-per-second=500000";
        let mut learner = add_learner(&cluster, slow).await;
        cluster.servers[away].kill();
        write(&cluster.servers[leader], 0).await;
        let before = sent(&cluster.servers[leader]);
        cluster.servers[away].restart_unawaited();
        let returned = &cluster.servers[away];
        assert!(returned.wait_for_log(INSTALLED, PATIENCE), "no snapshot:\n{}", returned.log());
        returned.wait_ready();
        assert_eq!(keys(returned).await, WRITES as i64);
        assert!(learner.wait_for_log(SENT, PATIENCE), "{}", learner.log());
        let log = cluster.servers[leader].log();
        assert_eq!(sent(&cluster.servers[leader]), before, "the leader has sent it:\n{log}");

        // It ends midway: the leader notices that it says nothing more.
        cluster.servers[away].kill();
        write(&cluster.servers[leader], 1).await;
        cluster.servers[away].restart_unawaited();
        let returned = &cluster.servers[away];
        assert!(returned.wait_for_log(BEGUN, PATIENCE), "nothing offered:\n{}", returned.log());
        learner.kill();
        assert!(returned.wait_for_log(INSTALLED, PATIENCE), "no snapshot:\n{}", returned.log());
        returned.wait_ready();
        assert_eq!(keys(returned).await, 2 * WRITES as i64);
        let leader = &cluster.servers[leader];
        assert_eq!(sent(leader), before + 1, "{}", leader.log());
    });
}
