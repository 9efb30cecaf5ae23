//! Members among each other: three with certificates, one with a wrong one, made-up ones, and one
//! that joins.

use std::time::Duration;

use varve_api::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
};
use varve_api::method;
use varve_tests::certificates::{Authority, SERVER, Wanted, put};
use varve_tests::grpc_client::Client;
use varve_tests::process::{Options, Program, Server};

use crate::{CALL_TIMEOUT, Files, block_on, put_key, strings, text, value_of};

/// Three members that speak TLS with each other and plain with clients.
fn spawn(flags: impl Fn(usize) -> Vec<String>) -> Vec<Server> {
    spawn_at(|member| format!("https://127.0.0.1:{}", member.peer_port), flags)
}

/// Three members with these peer URLs, and flags of each by its number.
fn spawn_at(url: impl Fn(&Options) -> String, flags: impl Fn(usize) -> Vec<String>) -> Vec<Server> {
    let mut members: Vec<Options> = (0..3)
        .map(|number| Options { name: format!("m{number}"), ..Options::single("tls-member") })
        .collect();
    let cluster: Vec<String> =
        members.iter().map(|member| format!("{}={}", member.name, url(member))).collect();
    for (number, member) in members.iter_mut().enumerate() {
        member.initial_cluster = cluster.join(",");
        let url = url(member);
        let mut all = strings(&["--listen-peer-urls", &url, "--initial-advertise-peer-urls", &url]);
        all.extend(flags(number));
        member.extra_flags = all;
    }
    members.into_iter().map(|options| Server::spawn(&Program::varve(), options)).collect()
}

fn assert_replicates(servers: &[&Server], value: &str) {
    block_on(async {
        for (number, server) in servers.iter().enumerate() {
            let client = Client::new(&server.client_address(), CALL_TIMEOUT);
            put_key(&client, "a", &format!("{value} {number}")).await.expect("a quorum");
            for other in servers {
                let client = Client::new(&other.client_address(), CALL_TIMEOUT);
                let read = value_of(&client, "a").await.expect("a quorum");
                assert_eq!(read, format!("{value} {number}"));
            }
        }
    });
}

fn peer_flags(files: &Files, cert: &str, key: &str) -> Vec<String> {
    let mut flags = strings(&["--peer-cert-file", cert, "--peer-key-file", key]);
    flags.extend(strings(&["--peer-client-cert-auth", "--peer-trusted-ca-file", &files.ca]));
    flags
}

#[test]
fn three_members_speak_tls_and_take_new_certificates_while_they_run() {
    let files = Files::new();
    let mut servers = spawn(|_| {
        let mut flags = peer_flags(&files, &files.cert, &files.key);
        flags.extend(strings(&["--peer-cert-allowed-cn", "server"]));
        flags
    });
    servers.iter().for_each(Server::wait_ready);
    assert_replicates(&servers.iter().collect::<Vec<_>>(), "first");
    // A new pair of the same authority: whoever connects anew uses it.
    files.authority.sign(&SERVER).write(&files.directory, "server");
    for number in 0..servers.len() {
        servers[number].kill();
        servers[number].restart();
        assert_replicates(&servers.iter().collect::<Vec<_>>(), &format!("after {number}"));
    }
}

/// A member with `flags` of its own cannot take part, the two others go on without it, and their
/// log says why.
fn assert_left_out(files: &Files, odd_flags: &[String], common: &[&str], why: &str) {
    let servers = spawn(|number| {
        let mut flags = match number {
            2 => odd_flags.to_vec(),
            _ => peer_flags(files, &files.cert, &files.key),
        };
        flags.extend(strings(common));
        flags
    });
    servers[0].wait_ready();
    servers[1].wait_ready();
    assert_replicates(&[&servers[0], &servers[1]], "two");
    assert!(servers[0].wait_for_log(why, Duration::from_secs(20)), "{}", servers[0].log());
    assert!(!servers[2].log().contains("ready to serve client requests"));
}

#[test]
fn a_member_of_another_authority_is_left_out() {
    let files = Files::new();
    let other = Authority::new("another");
    let (cert, key) = other.sign(&SERVER).write(&files.directory, "other");
    let odd = peer_flags(&files, &text(&cert), &text(&key));
    assert_left_out(&files, &odd, &[], "rejected connection on peer endpoint");
}

#[test]
fn a_member_whose_certificate_is_for_another_address_is_left_out() {
    let files = Files::new();
    let wanted = Wanted { names: &["10.1.2.3"], serial: 101, ..SERVER };
    let (cert, key) = files.authority.sign(&wanted).write(&files.directory, "odd");
    let odd = peer_flags(&files, &text(&cert), &text(&key));
    assert_left_out(&files, &odd, &[], "rejected connection on peer endpoint");
}

#[test]
fn a_member_with_another_name_or_a_revoked_certificate_is_left_out() {
    let files = Files::new();
    let wanted = Wanted { common_name: "eve", serial: 102, ..SERVER };
    let (cert, key) = files.authority.sign(&wanted).write(&files.directory, "odd");
    let odd = peer_flags(&files, &text(&cert), &text(&key));
    let why = "client certificate authentication failed";
    assert_left_out(&files, &odd, &["--peer-cert-allowed-cn", "server"], why);
    let list = put(&files.directory, "revoked.crl", &files.authority.revoke(&[102]));
    assert_left_out(&files, &odd, &["--peer-crl-file", &text(&list)], "Revoked");
}

#[test]
fn addresses_are_not_checked_if_a_flag_says_so() {
    let files = Files::new();
    // For the host that is dialled, and shown by members that come from elsewhere.
    let wanted = Wanted { names: &["name.invalid"], serial: 103, ..SERVER };
    let (cert, key) = files.authority.sign(&wanted).write(&files.directory, "odd");
    let (cert, key) = (text(&cert), text(&key));
    let flags = |skips: bool| {
        let mut flags = peer_flags(&files, &files.cert, &files.key);
        flags.extend(strings(&["--peer-client-cert-file", &cert, "--peer-client-key-file", &key]));
        if skips {
            flags.push("--peer-skip-client-san-verification".to_owned());
        }
        flags
    };
    let servers = spawn(|_| flags(true));
    servers.iter().for_each(Server::wait_ready);
    assert_replicates(&servers.iter().collect::<Vec<_>>(), "skipped");
    drop(servers);
    let servers = spawn(|_| flags(false));
    let why = "does not match any of DNSNames";
    assert!(servers[0].wait_for_log(why, Duration::from_secs(20)), "{}", servers[0].log());
}

#[test]
fn a_member_joins_over_tls_and_one_without_a_certificate_does_not() {
    let files = Files::new();
    let member = |name: &str| Options { name: name.to_owned(), ..Options::single("tls-join") };
    let url = |member: &Options| format!("https://127.0.0.1:{}", member.peer_port);
    let flags = |member: &Options, own: Vec<String>| {
        let url = url(member);
        let mut all = strings(&["--listen-peer-urls", &url, "--initial-advertise-peer-urls", &url]);
        all.extend(own);
        all
    };
    let trusted = || peer_flags(&files, &files.cert, &files.key);
    let mut first = member("first");
    first.initial_cluster = format!("first={}", url(&first));
    first.extra_flags = flags(&first, trusted());
    let mut second = member("second");
    second.initial_cluster = format!("{},second={}", first.initial_cluster, url(&second));
    second.initial_cluster_state = "existing".into();

    let first = Server::spawn(&Program::varve(), first);
    first.wait_ready();
    block_on(async {
        let client = Client::new(&first.client_address(), CALL_TIMEOUT);
        let request = MemberAddRequest { peer_urls: vec![url(&second)], is_learner: true };
        let added: MemberAddResponse =
            client.unary(&method::CLUSTER_MEMBER_ADD, request).await.expect("a learner is added");
        assert_eq!(added.members.len(), 2);
    });

    let mut stranger = second.clone();
    stranger.extra_flags = flags(&stranger, strings(&["--peer-auto-tls"]));
    let mut stranger = Server::spawn(&Program::varve(), stranger);
    let ended = stranger.wait_exit(Duration::from_secs(60)).expect("it learns nothing and ends");
    assert!(!ended.success(), "{ended}");
    assert!(
        stranger.log().contains("cannot fetch cluster info from peer urls"),
        "{}",
        stranger.log()
    );

    second.extra_flags = flags(&second, trusted());
    let second = Server::spawn(&Program::varve(), second);
    second.wait_ready();
    block_on(async {
        let client = Client::new(&first.client_address(), CALL_TIMEOUT);
        put_key(&client, "a", "joined").await.expect("a quorum");
        let request = MemberListRequest { linearizable: true };
        let list: MemberListResponse =
            client.unary(&method::CLUSTER_MEMBER_LIST, request).await.expect("the members");
        assert!(list.members.iter().any(|one| one.name == "second" && one.is_learner));
    });
}

#[test]
fn made_up_certificates_are_enough_to_encrypt() {
    let servers = spawn(|_| strings(&["--peer-auto-tls"]));
    servers.iter().for_each(Server::wait_ready);
    assert_replicates(&servers.iter().collect::<Vec<_>>(), "made up");
    let directory = servers[0].options().data_directory.join("fixtures").join("peer");
    assert!(directory.join("key.pem").is_file());
}

/// A short path: that of a socket has 107 bytes at most.
fn socket_of(member: &Options) -> String {
    let name = member.data_directory.file_name().expect("a directory has a name");
    text(&std::env::temp_dir().join(name).with_extension("sock"))
}

#[test]
fn members_meet_on_unix_sockets_in_plain_and_with_tls() {
    let files = Files::new();
    let mut plain = spawn_at(|member| format!("unix://{}", socket_of(member)), |_| Vec::new());
    plain.iter().for_each(Server::wait_ready);
    assert_replicates(&plain.iter().collect::<Vec<_>>(), "plain");
    let socket = socket_of(plain[0].options());
    assert!(std::fs::symlink_metadata(&socket).is_ok(), "{socket}");
    assert!(plain[0].terminate().is_some_and(|status| status.success()), "{}", plain[0].log());
    assert!(std::fs::symlink_metadata(&socket).is_err(), "{socket} is left behind");
    // What a killed member leaves behind is in nobody's way.
    plain[1].kill();
    plain[1].restart_unawaited();
    plain[0].restart();
    assert_replicates(&plain.iter().collect::<Vec<_>>(), "again");
    drop(plain);

    let trusted = |_| peer_flags(&files, &files.cert, &files.key);
    let secure = spawn_at(|member| format!("unixs://{}", socket_of(member)), trusted);
    secure.iter().for_each(Server::wait_ready);
    assert_replicates(&secure.iter().collect::<Vec<_>>(), "secure");
}
