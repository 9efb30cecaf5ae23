//! Founders that meet in another cluster: `--discovery-endpoints` and its kin, with varve as the
//! meeting place and, where there is one, etcd.
//!
//! What it does not do: DNS; see `server/src/discovery/srv.rs`.

use std::path::PathBuf;
use std::time::Duration;

use varve_api::etcdserverpb::{
    AuthEnableRequest, AuthEnableResponse, AuthUserAddRequest, AuthUserAddResponse,
    AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, MemberListRequest, MemberListResponse,
    PutRequest,
};
use varve_api::method;
use varve_tests::certificates::{Authority, SERVER, put};
use varve_tests::grpc_client::Client;
use varve_tests::process::{Options, Program, Server, fresh_directory};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("an executor can be made").block_on(test);
}

/// Says how many are expected.
async fn expect(address: &str, token: &str, size: &str) {
    let request = PutRequest {
        key: format!("/_etcd/registry/{token}/_config/size").into(),
        value: size.to_owned().into(),
        ..PutRequest::default()
    };
    Client::new(address, PATIENCE).put(request).await.expect("a size is written");
}

/// A member that looks for others.
fn spawn(name: &str, endpoint: &str, token: &str, more: &[String]) -> Server {
    let mut options = Options { name: name.to_owned(), ..Options::single("discovery") };
    options.initial_cluster = String::new();
    for (flag, value) in [("endpoints", endpoint), ("token", token)] {
        options.extra_flags.push(format!("--discovery-{flag}={value}"));
    }
    options.extra_flags.extend_from_slice(more);
    Server::spawn(&Program::varve(), options)
}

fn assert_refused(mut member: Server, why: &str) {
    let status = member.wait_exit(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", member.log());
    assert!(member.log().contains(why), "{}", member.log());
}

#[test]
fn three_members_meet_and_a_fourth_is_too_late() {
    for program in [Some(Program::varve()), Program::etcd()].into_iter().flatten() {
        let mut place = Server::start(&program, &[]);
        let endpoint = place.client_address();
        run(expect(&endpoint, "t", "3"));
        // The first of these is nobody; each URL may have its scheme.
        let endpoints = format!("http://127.0.0.1:1,http://{endpoint}");
        let mut members: Vec<Server> =
            (0..3).map(|number| spawn(&format!("m{number}"), &endpoints, "t", &[])).collect();
        members.iter().for_each(Server::wait_ready);
        run(async {
            let client = Client::new(&members[1].client_address(), PATIENCE);
            let request = MemberListRequest { linearizable: true };
            let list: MemberListResponse =
                client.unary(&method::CLUSTER_MEMBER_LIST, request).await.expect("the members");
            let mut names: Vec<String> = list.members.into_iter().map(|one| one.name).collect();
            names.sort();
            assert_eq!(names, ["m0", "m1", "m2"]);
        });
        assert_refused(
            spawn("late", &endpoint, "t", &[]),
            "failed to join discovery cluster (discovery: cluster is full)",
        );
        // Who has met needs the place no more.
        place.kill();
        members[0].kill();
        members[0].restart();
        let ignored = "discovery token is ignored since cluster already initialized";
        assert!(members[0].wait_for_log(ignored, PATIENCE), "{}", members[0].log());
    }
}

#[test]
fn without_a_size_nobody_meets() {
    let place = Server::start(&Program::varve(), &[]);
    let endpoint = place.client_address();
    assert_refused(spawn("m", &endpoint, "none", &[]), "discovery: size key not found");
    run(expect(&endpoint, "odd", "many"));
    assert_refused(spawn("m", &endpoint, "odd", &[]), "discovery: size key is bad");
}

#[test]
fn a_meeting_place_may_ask_for_certificates_and_a_password() {
    let directory: PathBuf = fresh_directory("discovery-tls");
    let authority = Authority::new("meeting");
    let ca = put(&directory, "ca.pem", authority.pem().as_bytes()).display().to_string();
    let (cert, key) = authority.sign(&SERVER).write(&directory, "server");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let mut options = Options::single("discovery-tls");
    let address = format!("127.0.0.1:{}", options.client_port);
    let urls = format!("http://{address},https://{address}");
    options.extra_flags = vec![
        format!("--listen-client-urls={urls}"),
        format!("--cert-file={cert}"),
        format!("--key-file={key}"),
        "--bcrypt-cost=4".to_owned(),
    ];
    let place = Server::start_with(&Program::varve(), options).expect("a meeting place");
    run(async {
        expect(&place.client_address(), "t", "1").await;
        let client = Client::new(&place.client_address(), PATIENCE);
        let request = AuthUserAddRequest {
            name: "root".into(),
            password: "secret".into(),
            ..AuthUserAddRequest::default()
        };
        let _: AuthUserAddResponse =
            client.unary(&method::AUTH_USER_ADD, request).await.expect("a user");
        let request = AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
        let _: AuthUserGrantRoleResponse =
            client.unary(&method::AUTH_USER_GRANT_ROLE, request).await.expect("a role");
        let _: AuthEnableResponse =
            client.unary(&method::AUTH_ENABLE, AuthEnableRequest {}).await.expect("switched on");
    });
    let endpoint = format!("https://{}", place.client_address());
    let secured =
        |user: &str| vec![format!("--discovery-cacert={ca}"), format!("--discovery-user={user}")];
    let wrong = spawn("m", &endpoint, "t", &secured("root:wrong"));
    assert_refused(wrong, "authentication failed, invalid user ID or password");
    let met = spawn("m", &endpoint, "t", &secured("root:secret"));
    met.wait_ready();
    assert!(!met.log().contains("secret"), "{}", met.log());
    let _removed = std::fs::remove_dir_all(&directory);
}
