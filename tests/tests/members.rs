//! Members that come and go while clients write.
//!
//! One idea: whatever is done to the membership, what was acknowledged stays. The load's first
//! address is the first member, which stays; at the end every member is asked for everything.

use std::time::{Duration, Instant};

use varve_api::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MoveLeaderRequest, MoveLeaderResponse, RangeRequest,
};
use varve_api::method;
use varve_api::mvccpb::KeyValue;
use varve_tests::grpc_client::Client;
use varve_tests::load;
use varve_tests::process::{Options, Program, Server, fresh_directory};

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

/// Adds a learner, starts it, and promotes it when it has caught up.
fn grow(first: &Server, name: &str) -> Server {
    let mut options = Options { name: name.to_owned(), ..Options::single("members") };
    options.data_directory = fresh_directory("members");
    let request = MemberAddRequest { peer_urls: vec![peer_url(&options)], is_learner: true };
    let added: MemberAddResponse = until_done(|| {
        run(async { client(first).unary(&method::CLUSTER_MEMBER_ADD, request.clone()).await })
    });
    let id = added.member.expect("the new member").id;
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
        others.push(grow(&first, "second"));
        load.wait_for(50);
        others.push(grow(&first, "third"));
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
