//! Members that come and go while clients write.
//!
//! One idea: whatever is done to the membership, what was acknowledged stays. The load's first
//! address is the first member, which stays; at the end every member is asked for everything.

use std::time::{Duration, Instant};

use varve_api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, MoveLeaderRequest, MoveLeaderResponse, PutRequest,
    RangeRequest,
};
use varve_api::method;
use varve_api::mvccpb::KeyValue;
use varve_tests::grpc_client::Client;
use varve_tests::load;
use varve_tests::process::{Cluster, Options, Program, Server, fresh_directory};

/// Longer than a member needs for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const REMOVED: &str = "the member has been permanently removed from the cluster";

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

fn client(server: &Server) -> Client {
    Client::new(&server.client_address(), PATIENCE)
}

fn peer_url(options: &Options) -> String {
    format!("http://127.0.0.1:{}", options.peer_port)
}

fn members(server: &Server) -> Vec<Member> {
    let request = MemberListRequest { linearizable: true };
    let list: Result<MemberListResponse, _> =
        run(async { client(server).unary(&method::CLUSTER_MEMBER_LIST, request).await });
    list.expect("the members").members
}

fn id_of(server: &Server, asked: &Server) -> u64 {
    let url = peer_url(server.options());
    let all = members(asked);
    all.iter().find(|member| member.peer_urls == [url.clone()]).expect("a member").id
}

/// Asks again while the cluster is not ready for it.
fn until_done<T>(mut attempt: impl FnMut() -> Result<T, tonic::Status>) -> T {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// That it takes writes again and has everything that the other has.
fn assert_back(away: &Server, other: &Server) {
    until_done(|| {
        let put = PutRequest { key: b"back".as_slice().into(), ..PutRequest::default() };
        run(async { client(away).put(put).await })
    });
    assert_eq!(everything(away), everything(other));
}

/// Adds a learner to these, starts it, and promotes it when it has caught up.
fn grow(running: &[&Server], name: &str) -> Server {
    let first = running[0];
    let mut options = Options { name: name.to_owned(), ..Options::single("members") };
    options.data_directory = fresh_directory("members");
    let request = MemberAddRequest { peer_urls: vec![peer_url(&options)], is_learner: true };
    let added: MemberAddResponse = until_done(|| {
        run(async { client(first).unary(&method::CLUSTER_MEMBER_ADD, request.clone()).await })
    });
    let id = added.member.expect("the new member").id;
    // Whichever it asks knows it.
    running.iter().for_each(|server| assert_eq!(members(server).len(), added.members.len()));
    let named: Vec<String> = added
        .members
        .iter()
        .map(|member| {
            let known = if member.id == id { name } else { member.name.as_str() };
            format!("{known}={}", member.peer_urls[0])
        })
        .collect();
    options.initial_cluster = named.join(",");
    options.initial_cluster_state = "existing".into();
    options.extra_flags.clone_from(&first.options().extra_flags);
    let server = Server::start_with(&Program::varve(), options).expect("the new member serves");
    let _: MemberPromoteResponse = until_done(|| {
        let request = MemberPromoteRequest { id };
        run(async { client(first).unary(&method::CLUSTER_MEMBER_PROMOTE, request).await })
    });
    server
}

fn remove(id: u64, asked: &Server) {
    let request = MemberRemoveRequest { id };
    let _: MemberRemoveResponse = until_done(|| {
        run(async { client(asked).unary(&method::CLUSTER_MEMBER_REMOVE, request).await })
    });
}

fn everything(server: &Server) -> Vec<KeyValue> {
    let all = RangeRequest {
        key: b"\0".as_slice().into(),
        range_end: b"\0".as_slice().into(),
        ..RangeRequest::default()
    };
    run(async { client(server).range(all).await }).expect("a range of everything").kvs
}

#[test]
fn a_cluster_grows_and_shrinks_under_load_and_loses_nothing() {
    let first = Server::start(&Program::varve(), &[]);
    let mut others = Vec::new();
    load::run(vec![first.client_address()], PATIENCE, |load| {
        others.push(grow(&[&first], "second"));
        load.wait_for(50);
        let third = grow(&[&first, &others[0]], "third");
        others.push(third);
        load.wait_for(50);
        assert!(members(&first).iter().all(|member| !member.is_learner));
    });
    let expected = everything(&first);
    assert!(!expected.is_empty());
    for other in &others {
        assert_eq!(everything(other), expected, "{}", other.options().name);
    }

    // The leader goes: it hands over first, is told, and ends well; so it does when started again.
    let mut second = others.remove(0);
    let id = id_of(&second, &first);
    let _: MoveLeaderResponse = until_done(|| {
        let request = MoveLeaderRequest { target_id: id };
        run(async { client(&first).unary(&method::MAINTENANCE_MOVE_LEADER, request).await })
    });
    remove(id, &second);
    for _ in 0..2 {
        let ended = second.wait_exit(PATIENCE).expect("a removed member ends");
        assert!(ended.success(), "{ended}");
        assert!(second.log().contains(REMOVED), "{}", second.log());
        second.restart_unawaited();
    }
    assert_eq!(members(&first).len(), 2);
    assert_eq!(everything(&first), expected);
}

/// With its vote, others that do not have what it acknowledged could lead.
#[test]
fn a_founder_that_lost_its_disk_is_not_taken_back() {
    let mut cluster = Cluster::start(&Program::varve(), 3, &[]);
    let id = id_of(&cluster.servers[1], &cluster.servers[0]);
    let wiped = &mut cluster.servers[1];
    wiped.kill();
    std::fs::remove_dir_all(&wiped.options().data_directory).expect("the member's own directory");
    wiped.restart_unawaited();
    let ended = wiped.wait_exit(PATIENCE).expect("it ends");
    let log = wiped.log();
    assert!(!ended.success(), "{log}");
    let expected = format!("member {id:x} has already been bootstrapped");
    assert!(log.contains(&expected), "{log}");
    // It has made no data that a later start would go on with.
    let identity = wiped.options().data_directory.join("member/IDENTITY");
    assert!(!identity.exists(), "{}", identity.display());
}

/// Each is judged by what the one before leaves. The second of these would need the vote of a member
/// that nobody has started.
#[test]
fn of_many_members_added_at_once_each_is_judged_after_the_one_before() {
    let server = Server::start(&Program::varve(), &[]);
    let outcomes: Vec<Result<MemberAddResponse, tonic::Status>> = run(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8 {
            let peer_urls = vec![format!("http://127.0.0.1:{}", 20_000 + number)];
            let request = MemberAddRequest { peer_urls, is_learner: false };
            let client = client(&server);
            tasks.spawn(async move { client.unary(&method::CLUSTER_MEMBER_ADD, request).await });
        }
        tasks.join_all().await
    });
    let refused: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().err().map(|status| status.message().to_owned()))
        .collect();
    assert_eq!(refused.len(), 7, "{refused:?}");
    for text in refused {
        let expected = "etcdserver: re-configuration failed due to not enough started members";
        assert_eq!(text, expected);
    }
}

/// It knows neither of the two that have all there is to know, and they must tell it.
#[test]
fn a_member_that_was_away_comes_back_though_all_others_are_new() {
    // So that nobody waits until members count as connected.
    let mut cluster = Cluster::start(&Program::varve(), 3, &["--strict-reconfig-check=false"]);
    let mut away = cluster.servers.pop().expect("three members");
    away.kill();
    let [first, second] = &cluster.servers[..] else { panic!("two members run") };
    let fourth = grow(&[first, second], "fourth");
    let mut fifth = grow(&[first, second, &fourth], "fifth");
    let old: Vec<u64> = cluster.servers.iter().map(|server| id_of(server, &fourth)).collect();
    old.into_iter().for_each(|id| remove(id, &fourth));
    cluster.servers.iter_mut().for_each(Server::kill);
    away.restart();
    // Of three members two are a majority: it counts.
    fifth.kill();
    assert_back(&away, &fourth);
}

/// It knows the other only where that was, and nobody else is there to tell it.
#[test]
fn a_member_that_was_away_finds_one_that_moved_meanwhile() {
    let mut cluster = Cluster::start(&Program::varve(), 3, &[]);
    let mut away = cluster.servers.pop().expect("three members");
    let mut moving = cluster.servers.pop().expect("three members");
    let stays = &mut cluster.servers[0];
    let id = id_of(&moving, stays);
    away.kill();

    let elsewhere = Options::single("moved");
    let mut options = moving.options().clone();
    (options.peer_port, options.data_directory) = (elsewhere.peer_port, elsewhere.data_directory);
    let peer_urls = vec![peer_url(&options)];
    let _: MemberUpdateResponse = until_done(|| {
        let request = MemberUpdateRequest { id, peer_urls: peer_urls.clone() };
        run(async { client(stays).unary(&method::CLUSTER_MEMBER_UPDATE, request).await })
    });
    moving.kill();
    std::fs::rename(&moving.options().data_directory, &options.data_directory).expect("it moves");
    let moved = Server::start_with(&Program::varve(), options).expect("it serves where it is now");
    assert_eq!(id_of(&moved, stays), id);

    stays.kill();
    away.restart();
    assert_back(&away, &moved);
}
