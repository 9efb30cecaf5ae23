//! A member whose data differs is found out.
//!
//! One idea: the difference is made by hand, with the state machine itself, while the member is
//! down: one entry of its log is applied with other content, and durably. Its files are sound and
//! its position in the log is right; only a comparison with the others can show it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use varve_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    StatusRequest, StatusResponse,
};
use varve_api::method;
use varve_disk::os::OsDisk;
use varve_lsm::{Db, Work};
use varve_store::{Command, CommandKind, Founding, RequestId, Store, encode_batch};
use varve_tests::grpc_client::Client;
use varve_tests::process::{Cluster, Program};

const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a check may take to find what is wrong.
const FIND_TIMEOUT: Duration = Duration::from_secs(90);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("an executor can be made");
    runtime.block_on(test);
}

fn put(value: &'static str) -> PutRequest {
    PutRequest { key: "key".into(), value: value.into(), ..PutRequest::default() }
}

async fn status(client: &Client) -> StatusResponse {
    let answer = client.unary(&method::MAINTENANCE_STATUS, StatusRequest {}).await;
    answer.expect("a member tells its status")
}

/// A cluster of three whose member at the position, a follower, was killed and holds another value
/// than the others; with the follower's id.
async fn with_a_corrupt_member(flags: &[&str]) -> (Cluster, Vec<Client>, usize, u64) {
    let mut cluster = Cluster::start(&Program::varve(), 3, flags);
    let clients: Vec<Client> = cluster
        .servers
        .iter()
        .map(|server| Client::new(&server.client_address(), CALL_TIMEOUT))
        .collect();
    let deadline = Instant::now() + FIND_TIMEOUT;
    let (follower, header) = loop {
        assert!(Instant::now() < deadline, "no leader in {FIND_TIMEOUT:?}");
        let status = status(&clients[0]).await;
        let header = status.header.expect("a header");
        match status.leader {
            0 => tokio::time::sleep(Duration::from_millis(50)).await,
            leader if leader == header.member_id => {
                let other = self::status(&clients[1]).await.header.expect("a header");
                break (1, other);
            }
            _ => break (0, header),
        }
    };
    let client = &clients[follower];
    let _: PutResponse = client.unary(&method::KV_PUT, put("before")).await.expect("a put");
    // After this the member's files contain everything up to the compaction.
    let compact = CompactionRequest { revision: 2, physical: true };
    let _: CompactionResponse =
        client.unary(&method::KV_COMPACT, compact).await.expect("a compaction");
    let _: PutResponse = client.unary(&method::KV_PUT, put("right")).await.expect("a put");
    let read = RangeRequest { key: "key".into(), ..RangeRequest::default() };
    let found: RangeResponse = client.unary(&method::KV_RANGE, read).await.expect("a read");
    assert_eq!(found.kvs[0].value, "right");
    cluster.servers[follower].kill();
    let directory = cluster.servers[follower].options().data_directory.clone();
    apply_otherwise(&directory, header.cluster_id, header.member_id);
    (cluster, clients, follower, header.member_id)
}

/// Applies the entry behind what is flushed as a put of a wrong value.
fn apply_otherwise(directory: &Path, cluster_id: u64, member_id: u64) {
    let mut identity = [0; 16];
    identity[..8].copy_from_slice(&cluster_id.to_le_bytes());
    identity[8..].copy_from_slice(&member_id.to_le_bytes());
    let options = varve_lsm::Options { identity, origin: 77, ..varve_lsm::Options::default() };
    let engine = directory.join("member").join("engine");
    let (db, writer) = Db::open(Arc::new(OsDisk::new()), &engine, options).expect("sound files");
    let founding = Founding { cluster_id, members: Vec::new() };
    let mut store = Store::open(db.clone(), writer, &founding).expect("a sound state");
    assert_eq!(store.view().revision(), 2, "the compaction was the last that was flushed");
    let command = Command {
        id: RequestId(1),
        kind: CommandKind::Put,
        author: None,
        body: put("wrong").encode_to_vec().into(),
    };
    let mark = store.applied();
    let applied = store.apply(mark.index + 1, mark.term, &encode_batch(&[command]));
    assert!(applied.expect("it can be applied").replies[0].1.is_ok());
    store.freeze().expect("it can be frozen");
    while db.work().expect("it can be flushed") != Work::Idle {}
}

#[test]
fn a_member_that_differs_does_not_serve_if_it_looks_first() {
    run(async {
        let flags = ["--feature-gates=InitialCorruptCheck=true"];
        let (mut cluster, _clients, follower, _) = with_a_corrupt_member(&flags).await;
        let server = &mut cluster.servers[follower];
        server.restart_unawaited();
        let exit = server.wait_exit(FIND_TIMEOUT).expect("it ends by itself");
        assert_eq!(exit.code(), Some(1));
        let log = server.log();
        assert!(log.contains("found data inconsistency with peers"), "{log}");
    });
}

#[test]
fn a_member_that_looks_first_serves_though_one_that_it_asks_is_restarted_meanwhile() {
    let flags = ["--feature-gates=InitialCorruptCheck=true"];
    let mut cluster = Cluster::start(&Program::varve(), 3, &flags);
    let [first, _, last] = &mut cluster.servers[..] else { panic!("there are three") };
    first.kill();
    // It takes the question, and will never answer it.
    last.pause();
    first.restart_unawaited();
    let has_asked = first.wait_for_log("starting initial corruption check", FIND_TIMEOUT);
    assert!(has_asked, "{}", first.log());
    last.kill();
    last.restart_unawaited();
    first.wait_ready();
    last.wait_ready();
}

#[test]
fn a_member_that_differs_is_told_by_an_alarm() {
    for flags in [
        &["--corrupt-check-time=500ms"][..],
        &["--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=500ms"],
    ] {
        run(async {
            let (mut cluster, clients, follower, id) = with_a_corrupt_member(flags).await;
            cluster.servers[follower].restart();
            let other = &clients[(follower + 1) % 3];
            let compact = CompactionRequest { revision: 3, physical: true };
            // The other check may have stopped all changes before.
            let _: Result<CompactionResponse, _> = other.unary(&method::KV_COMPACT, compact).await;
            let expected = format!("memberID:{id} alarm:CORRUPT");
            let deadline = Instant::now() + FIND_TIMEOUT;
            loop {
                let errors = status(other).await.errors;
                if errors.contains(&expected) {
                    assert_eq!(errors.len(), 1, "{errors:?}");
                    break;
                }
                assert!(Instant::now() < deadline, "{flags:?}: {errors:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let refused: Result<PutResponse, _> = other.unary(&method::KV_PUT, put("more")).await;
            let refused = refused.expect_err("a corrupt cluster changes nothing");
            assert_eq!(refused.message(), "etcdserver: corrupt cluster");
        });
    }
}
