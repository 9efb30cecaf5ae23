//! Three real members in trouble: one that was away for long, all that were away, a leader that
//! was frozen, a leader that is asked to go.
//!
//! One idea: whatever happens, a client sees one history. What was acknowledged stays, nobody reads
//! the past, a lease that is renewed lives, and every member holds the same data in the end.
//!
//! What it does not do: kill under load again and again; see `nothing_lost`.

use std::time::{Duration, Instant};

use varve_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, RangeRequest, RangeResponse,
    WatchCreateRequest,
};
use varve_api::method;
use varve_api::mvccpb::{Event, KeyValue};
use varve_tests::grpc_client::Client;
use varve_tests::load::{self, ACKNOWLEDGED_PER_ROUND, find_leader};
use varve_tests::process::{Cluster, Program, Server};

const MEMBERS: usize = 3;
/// Longer than a member needs for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// A log that is cut early, so that a member that was away for a moment needs a snapshot.
const SHORT_LOG: [&str; 2] = ["--snapshot-count=60", "--snapshot-catchup-entries=10"];
/// What a member logs when it holds a received snapshot.
const INSTALLED: &str = "applied snapshot";

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("an executor can be made");
    runtime.block_on(test);
}

fn client(server: &Server) -> Client {
    Client::new(&server.client_address(), PATIENCE)
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster.servers.iter().map(Server::client_address).collect()
}

/// Puts until it is acknowledged; gives the revision. The key must be one that may be put twice.
async fn put(client: &Client, key: &str, value: &str) -> i64 {
    let started = Instant::now();
    loop {
        let request = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..PutRequest::default()
        };
        match client.put(request).await {
            Ok(response) => return response.header.expect("a header").revision,
            Err(error) => assert!(started.elapsed() < PATIENCE, "no put: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything, at one revision.
async fn dump(client: &Client, revision: i64) -> Result<Vec<KeyValue>, tonic::Status> {
    let request = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        ..RangeRequest::default()
    };
    client.range(request).await.map(|response: RangeResponse| response.kvs)
}

/// All events from one revision to another.
async fn history(client: &Client, from: i64, to: i64) -> Vec<Event> {
    let create = WatchCreateRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        start_revision: from,
        prev_kv: true,
        ..WatchCreateRequest::default()
    };
    let mut stream = client.watch(create).await.expect("the stream opens");
    let mut events: Vec<Event> = Vec::new();
    let last = |events: &[Event]| {
        events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision)
    };
    while last(&events) < to {
        let response = stream.message().await.expect("no error").expect("not the end");
        assert!(!response.canceled, "{response:?}");
        events.extend(response.events);
    }
    events
}

/// Every member holds the same state and the same history from `from` on.
async fn check_equal(cluster: &Cluster, from: i64) {
    let first = client(&cluster.servers[0]);
    let last = put(&first, "the last one", "v").await;
    let state = dump(&first, last).await.expect("a range succeeds");
    let events = history(&first, from, last).await;
    for server in &cluster.servers[1..] {
        let other = client(server);
        assert_eq!(dump(&other, last).await.expect("a range succeeds"), state);
        assert_eq!(history(&other, from, last).await, events);
    }
}

/// The sum of all metrics that begin so.
fn total(server: &Server, prefix: &str) -> f64 {
    let (_, text) = server.http_get("/metrics").expect("metrics");
    let lines = text.lines().filter(|line| line.starts_with(prefix));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn a_member_that_was_away_for_long_gets_a_snapshot_and_serves_the_same() {
    let mut cluster = Cluster::start(&Program::varve(), MEMBERS, &SHORT_LOG);
    let away = (find_leader(&cluster) + 1) % MEMBERS;
    run(async {
        let other = client(&cluster.servers[(away + 1) % MEMBERS]);
        for number in 0..30 {
            put(&other, &format!("before{number:02}"), "v").await;
        }
        cluster.servers[away].kill();
        for number in 0..400 {
            // Over and over, so that there is history besides the state.
            put(&other, &format!("k{:02}", number % 40), &format!("{number} {}", "x".repeat(300)))
                .await;
        }
        let delete = DeleteRangeRequest {
            key: b"k1".as_slice().into(),
            range_end: b"k2".as_slice().into(),
            ..DeleteRangeRequest::default()
        };
        let _: DeleteRangeResponse =
            other.unary(&method::KV_DELETE_RANGE, delete).await.expect("a deletion");
        let compact = CompactionRequest { revision: 200, physical: false };
        let _: CompactionResponse =
            other.unary(&method::KV_COMPACT, compact).await.expect("a compaction");
        for number in 0..100 {
            put(&other, &format!("after{number:02}"), "v").await;
        }
        cluster.servers[away].restart_unawaited();
        let server = &cluster.servers[away];
        assert!(server.wait_for_log(INSTALLED, PATIENCE), "no snapshot:\n{}", server.log());
        server.wait_ready();
        check_equal(&cluster, 200).await;
        let received = total(server, "etcd_network_snapshot_receive_success{");
        assert!(received > 0.0, "{received} snapshots");
        let timed = total(server, "etcd_network_snapshot_receive_total_duration_seconds_count{");
        assert!((timed - received).abs() < 0.5, "{timed} of {received} were timed");
        let others = cluster.servers.iter().filter(|other| other.pid() != server.pid());
        let sent = others.map(|other| total(other, "etcd_network_snapshot_send_success{"));
        assert!(sent.sum::<f64>() > 0.0, "somebody sent them");
        assert!((total(server, "etcd_network_known_peers{") - 2.0).abs() < 0.5);
        let early = dump(&client(server), 199).await.expect_err("it is compacted here too");
        assert_eq!(early.message(), varve_api::error::COMPACTED.message);
        // And it is a member like any other: with it, one of the others can go.
        cluster.servers[(away + 1) % MEMBERS].kill();
        put(&client(&cluster.servers[away]), "again", "v").await;
    });
}

#[test]
fn a_member_that_is_away_again_gets_what_it_lacks() {
    const KEYS: usize = 800;
    let mut cluster = Cluster::start(&Program::varve(), MEMBERS, &SHORT_LOG);
    let leader = find_leader(&cluster);
    let away = (leader + 1) % MEMBERS;
    let other = (leader + 2) % MEMBERS;
    let mut sent = Vec::new();
    run(async {
        // Everything, and then a tenth of it, all over the keys.
        for step in [1, 10] {
            cluster.servers[away].kill();
            let client = client(&cluster.servers[other]);
            let puts: Vec<_> = (0..KEYS)
                .step_by(step)
                .map(|number| {
                    let client = client.clone();
                    let (key, value) = (format!("k{number:04}"), "x".repeat(4 << 10));
                    tokio::spawn(async move { put(&client, &key, &value).await })
                })
                .collect();
            for put in puts {
                put.await.expect("no panic");
            }
            for number in 0..80 {
                put(&client, "beyond the short log", &number.to_string()).await;
            }
            cluster.servers[away].restart_unawaited();
            let server = &cluster.servers[away];
            assert!(server.wait_for_log(INSTALLED, PATIENCE), "no snapshot:\n{}", server.log());
            server.wait_ready();
            // The sender hears of it when the files are handed over, which is before.
            sent.push(last_sent(&cluster.servers[leader]));
        }
    });
    println!("bytes of files sent, and of how many, at first and then: {sent:?}");
    if find_leader(&cluster) != leader {
        return println!("SKIPPED: another leads than at first, with files of its own");
    }
    let [Some((all, of)), Some((rest, of_then))] = sent[..] else {
        panic!("nothing sent: {sent:?}\n{}", cluster.servers[leader].log())
    };
    assert_eq!(all, of, "it had none of the leader's files");
    assert!(rest * 4 <= of_then, "{rest} of {of_then} bytes");
}

/// Bytes of files that a member's last snapshot took, and of all its files.
fn last_sent(server: &Server) -> Option<(u64, u64)> {
    let log = server.log();
    let line = log.lines().rfind(|line| line.contains("sent database snapshot"))?;
    let number = |name: &str| {
        let (_, behind) = line.split_once(&format!("\"{name}\":"))?;
        behind.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok()
    };
    Some((number("bytes")?, number("of-bytes")?))
}

#[test]
fn a_member_gets_a_snapshot_while_others_go_on_writing() {
    let mut cluster = Cluster::start(&Program::varve(), MEMBERS, &SHORT_LOG);
    let away = (find_leader(&cluster) + 1) % MEMBERS;
    // The load is judged by the first address: that of the member that was away.
    let mut addresses = addresses(&cluster);
    addresses.swap(0, away);
    load::run(addresses, Duration::from_secs(5), |load| {
        for _ in 0..2 {
            cluster.servers[away].kill();
            load.wait_for(600);
            cluster.servers[away].restart_unawaited();
            let server = &cluster.servers[away];
            assert!(server.wait_for_log(INSTALLED, PATIENCE), "no snapshot:\n{}", server.log());
            server.wait_ready();
            load.wait_for(ACKNOWLEDGED_PER_ROUND);
        }
    });
    run(check_equal(&cluster, 1));
}

#[test]
fn all_members_at_once_go_and_come_back() {
    let mut cluster = Cluster::start(&Program::varve(), MEMBERS, &SHORT_LOG);
    load::run(addresses(&cluster), Duration::from_secs(5), |load| {
        cluster.servers.iter_mut().for_each(Server::kill);
        cluster.restart_all();
        load.wait_for(ACKNOWLEDGED_PER_ROUND);
        for server in &mut cluster.servers {
            let status = server.terminate().expect("it ends when it is asked to");
            assert!(status.success(), "{status}:\n{}", server.log());
        }
        cluster.restart_all();
        load.wait_for(ACKNOWLEDGED_PER_ROUND);
    });
    run(check_equal(&cluster, 1));
}

#[test]
fn a_leader_that_was_frozen_does_not_answer_from_the_past() {
    freeze_leaders(&[], 3);
}

#[test]
fn a_leader_that_was_frozen_with_a_lease_does_not_either() {
    freeze_leaders(&["--experimental-varve-lease-reads"], 2);
}

fn freeze_leaders(flags: &[&str], rounds: usize) {
    let cluster = Cluster::start(&Program::varve(), MEMBERS, flags);
    run(async {
        for round in 0..rounds {
            let frozen = find_leader_beside(&cluster).await;
            let (old, other) = (
                client(&cluster.servers[frozen]),
                client(&cluster.servers[(frozen + 1) % MEMBERS]),
            );
            put(&old, "k", &format!("{round} old")).await;
            // With leases it has one now.
            dump(&old, 0).await.expect("a read");
            cluster.servers[frozen].pause();
            let new = format!("{round} new");
            let asked = Instant::now();
            put(&other, "k", &new).await;
            // The first attempt went down with the leader and was answered soon after the next was
            // elected, long before it would have timed out by itself.
            assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
            // Asked after the new value was acknowledged; in the socket when the leader wakes.
            let asked: Vec<_> = (0..50)
                .map(|_| {
                    let old = Client::new(&cluster.servers[frozen].client_address(), PATIENCE);
                    tokio::spawn(async move {
                        let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
                        old.range(request).await
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(200)).await;
            cluster.servers[frozen].resume();
            let mut answers = 0;
            for asked in asked {
                let Ok(response) = asked.await.expect("no panic") else { continue };
                answers += 1;
                assert_eq!(response.kvs[0].value, new, "round {round}: a stale read");
            }
            assert!(answers > 0, "round {round}: nobody was answered");
        }
    });
}

/// As `find_leader`, from within an executor.
async fn find_leader_beside(cluster: &Cluster) -> usize {
    std::thread::scope(|scope| {
        scope.spawn(|| find_leader(cluster)).join().expect("there is a leader")
    })
}

#[test]
fn a_leader_that_is_asked_to_go_hands_over_and_fails_nobody_without_a_word() {
    let mut cluster = Cluster::start(&Program::varve(), MEMBERS, &[]);
    // Longer than the server's own timeout: who waits that long was left without an answer.
    load::run(addresses(&cluster), Duration::from_secs(15), |load| {
        for _ in 0..2 {
            let leader = find_leader(&cluster);
            let status = cluster.servers[leader].terminate().expect("it ends when it is asked to");
            let log = cluster.servers[leader].log();
            assert!(status.success(), "{status}:\n{log}");
            assert!(log.contains("leadership transfer starting"), "{log}");
            load.wait_for(ACKNOWLEDGED_PER_ROUND);
            cluster.servers[leader].restart();
            load.wait_for(ACKNOWLEDGED_PER_ROUND);
        }
        for error in load.errors() {
            let text = error.message();
            let is_unanswered = text.contains("timed out") || text.contains("Timeout expired");
            let logs: Vec<String> = cluster.servers.iter().map(Server::log).collect();
            assert!(!is_unanswered, "{error:?}\n{}", logs.join("\n"));
        }
    });
}

#[test]
fn a_lease_that_is_renewed_outlives_its_leader() {
    let mut cluster = Cluster::start(&Program::varve(), MEMBERS, &[]);
    run(async {
        let leader = find_leader_beside(&cluster).await;
        let other = client(&cluster.servers[(leader + 1) % MEMBERS]);
        let grant = LeaseGrantRequest { ttl: 4, id: 0 };
        let lease: LeaseGrantResponse =
            other.unary(&method::LEASE_GRANT, grant).await.expect("a lease");
        let request = PutRequest { key: "k".into(), lease: lease.id, ..PutRequest::default() };
        other.put(request).await.expect("the lease is there");
        let (sender, requests) = tokio::sync::mpsc::channel(8);
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let mut answers = other
            .bidi_stream::<_, LeaseKeepAliveResponse>(&method::LEASE_KEEP_ALIVE, requests)
            .await
            .expect("the stream opens");
        let started = Instant::now();
        let mut is_killed = false;
        // Twice its time to live, with the leader's end in between.
        while started.elapsed() < Duration::from_secs(8) {
            let request = LeaseKeepAliveRequest { id: lease.id };
            sender.send(request).await.expect("the stream is open");
            let answer = answers.message().await.expect("no error").expect("not the end");
            assert!(answer.ttl > 0, "the lease lives: {answer:?}");
            if !is_killed && started.elapsed() > Duration::from_secs(1) {
                cluster.servers[leader].kill();
                is_killed = true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let kvs = dump(&other, 0).await.expect("a range succeeds");
        assert!(kvs.iter().any(|kv| kv.lease == lease.id), "its key is there: {kvs:?}");
        // Once it is revoked, it is gone for everybody at once.
        let revoke = LeaseRevokeRequest { id: lease.id };
        let _: LeaseRevokeResponse =
            other.unary(&method::LEASE_REVOKE, revoke).await.expect("the lease is revoked");
        sender.send(LeaseKeepAliveRequest { id: lease.id }).await.expect("the stream is open");
        let answer = answers.message().await.expect("no error").expect("not the end");
        assert_eq!(answer.ttl, 0);
    });
}
