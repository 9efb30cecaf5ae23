//! Alarms, quotas and hashes, by the calls that etcdctl has no word for.

use varve_api::error;
use varve_api::etcdserverpb::alarm_request::AlarmAction;
use varve_api::etcdserverpb::downgrade_request::DowngradeAction;
use varve_api::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse,
    DeleteRangeRequest, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse,
    HashRequest, HashResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, MemberPromoteRequest, MemberPromoteResponse, MemberUpdateRequest,
    MemberUpdateResponse, StatusRequest, StatusResponse,
};
use varve_api::method;
use varve_tests::grpc_client::Client;
use varve_tests::process::{Cluster, Program};

use crate::session::{Answer, CALL_TIMEOUT, Session, delete, get, grant, put_request, run};

const CORRUPT: i32 = AlarmType::Corrupt as i32;

async fn alarm(client: &Client, action: AlarmAction, alarm: i32, member_id: u64) -> AlarmResponse {
    let request = AlarmRequest { action: action as i32, member_id, alarm };
    client.unary(&method::MAINTENANCE_ALARM, request).await.expect("an answer about alarms")
}

async fn hash_kv(client: &Client, revision: i64) -> Answer<HashKvResponse> {
    client.unary(&method::MAINTENANCE_HASH_KV, HashKvRequest { revision }).await
}

#[test]
fn a_corrupt_cluster_changes_nothing_and_still_reads() {
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        client.put(put_request("a", "1")).await.expect("a put");
        let raised = alarm(client, AlarmAction::Activate, CORRUPT, 7).await;
        assert_eq!((raised.alarms[0].alarm, raised.alarms[0].member_id), (CORRUPT, 7));
        let refused = client.put(put_request("a", "2")).await.expect_err("no change now");
        assert_eq!(refused.code(), tonic::Code::DataLoss);
        assert_eq!(refused.message(), "etcdserver: corrupt cluster");
        assert!(get(client, "a").await.is_some());
        let status: StatusResponse =
            client.unary(&method::MAINTENANCE_STATUS, StatusRequest {}).await.expect("a status");
        // Go's protobuf library prints one blank or two, as the build happened to be.
        let shown: Vec<&str> = status.errors.iter().flat_map(|text| text.split(' ')).collect();
        let words: Vec<&str> = shown.into_iter().filter(|word| !word.is_empty()).collect();
        assert_eq!(words, ["memberID:7", "alarm:CORRUPT"]);
        alarm(client, AlarmAction::Deactivate, CORRUPT, 7).await;
        client.put(put_request("a", "2")).await.expect("a put");
    });
}

#[test]
fn calls_that_take_long_are_told_in_the_log_without_their_values() {
    run(async {
        let session = Session::start(&["--warning-unary-request-duration=1ns"]);
        session.client.put(put_request("slow", "confidential")).await.expect("a put");
        let line = "\"response type\":\"/etcdserverpb.KV/Put\"";
        assert!(session.server.wait_for_log(line, CALL_TIMEOUT), "{}", session.server.log());
        let log = session.server.log();
        let line = log.lines().find(|found| found.contains(line)).expect("it was just found");
        assert!(line.contains("request stats") && line.contains("value_size:12"), "{line}");
        assert!(!log.contains("confidential"), "{log}");
    });
}

#[test]
fn metrics_count_what_clients_do() {
    if !Program::varve().is_varve() {
        return;
    }
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        for (key, value) in [("a", "1"), ("a", "2"), ("b", "3")] {
            client.put(put_request(key, value)).await.expect("a put");
        }
        delete(client, "b").await;
        get(client, "a").await.expect("it is there");
        let metric = |name: &str| session.server.metric(name);
        for (name, value) in [
            ("etcd_mvcc_put_total", 3.0),
            ("etcd_mvcc_delete_total", 1.0),
            ("etcd_mvcc_range_total", 1.0),
            ("etcd_debugging_mvcc_keys_total", 1.0),
            ("etcd_cluster_version{cluster_version=\"3.7\"}", 1.0),
            ("etcd_server_version{server_version=\"3.7.1\"}", 1.0),
            ("etcd_server_is_learner", 0.0),
            ("etcd_debugging_mvcc_watcher_total", 0.0),
            ("etcd_debugging_mvcc_slow_watcher_total", 0.0),
            ("etcd_disk_defrag_inflight", 0.0),
            ("etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"}", 1.0),
            ("etcd_server_feature_enabled{name=\"LeaseCheckpoint\",stage=\"ALPHA\"}", 0.0),
        ] {
            assert_eq!(metric(name), Some(value), "{name}");
        }
        for name in [
            "etcd_disk_wal_write_bytes_total",
            "etcd_disk_wal_write_duration_seconds_count",
            "etcd_disk_wal_fsync_duration_seconds_count",
            "etcd_disk_backend_commit_duration_seconds_count",
            "etcd_server_request_duration_seconds_count{success=\"true\",type=\"Put\"}",
            "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"}",
        ] {
            let before = metric(name).expect("it is told");
            client.put(put_request("c", "4")).await.expect("a put");
            assert!(metric(name).expect("it is told") > before, "{name} stays at {before}");
        }
        for name in [
            "etcd_server_range_duration_seconds_count{success=\"true\"}",
            "etcd_server_request_duration_seconds_count{success=\"true\",type=\"Range\"}",
        ] {
            let before = metric(name).expect("it is told");
            get(client, "a").await.expect("it is there");
            assert_eq!(metric(name), Some(before + 1.0), "{name}");
        }
        let id = grant(client, 100).await;
        let renewal = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
        let mut renewed = client
            .bidi_stream::<_, LeaseKeepAliveResponse>(&method::LEASE_KEEP_ALIVE, renewal)
            .await
            .expect("the stream opens");
        renewed.message().await.expect("no error").expect("an answer");
        assert_eq!(metric("etcd_debugging_lease_renewed_total"), Some(1.0));
        let promote = MemberPromoteRequest { id: 5 };
        let answer: Result<MemberPromoteResponse, _> =
            client.unary(&method::CLUSTER_MEMBER_PROMOTE, promote).await;
        let reason = answer.expect_err("nobody has this id").message().to_owned();
        let failures = format!("etcd_server_learner_promote_failures{{Reason=\"{reason}\"}}");
        assert_eq!(metric(&failures), Some(1.0), "{failures}");
    });
}

/// What etcd 3.7.1 answers to requests that hardly anybody sends.
#[test]
fn odd_requests_are_answered_as_etcd_answers_them() {
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        client.put(put_request("a", "1")).await.expect("a put");
        let hash = hash_kv(client, -1).await.expect("a hash of nothing");
        assert_eq!((hash.hash, hash.hash_revision), (1_084_519_789, -1));

        let request = DowngradeRequest { action: 7, version: "3.6.0".into() };
        let answer: Answer<DowngradeResponse> =
            client.unary(&method::MAINTENANCE_DOWNGRADE, request).await;
        let refused = answer.expect_err("there is no such action");
        assert_eq!(
            (refused.code(), refused.message()),
            (tonic::Code::Unknown, "etcdserver: unknown method")
        );

        let request = MemberUpdateRequest { id: 5, peer_urls: Vec::new() };
        let answer: Answer<MemberUpdateResponse> =
            client.unary(&method::CLUSTER_MEMBER_UPDATE, request).await;
        let refused = answer.expect_err("there is no such member");
        assert_eq!(refused.message(), "etcdserver: member not found");

        alarm(client, AlarmAction::Activate, AlarmType::Nospace as i32, 0).await;
        let request = LeaseGrantRequest { ttl: 9_000_000_001, id: 0 };
        let answer: Answer<LeaseGrantResponse> = client.unary(&method::LEASE_GRANT, request).await;
        let refused = answer.expect_err("neither space nor time");
        assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");
    });
}

/// The numbers are those etcd 3.7.1 gives for the same commands.
#[test]
fn hashes_are_those_etcd_computes() {
    if !Program::varve().is_varve() {
        return;
    }
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        client.put(put_request("a", "1")).await.expect("a put");
        client.put(put_request("b", "2")).await.expect("a put");
        let delete = DeleteRangeRequest { key: "a".into(), ..DeleteRangeRequest::default() };
        let _: varve_api::etcdserverpb::DeleteRangeResponse =
            client.unary(&method::KV_DELETE_RANGE, delete).await.expect("a deletion");
        let at_3 = hash_kv(client, 3).await.expect("a hash");
        assert_eq!((at_3.hash, at_3.compact_revision, at_3.hash_revision), (1_827_592_406, -1, 3));
        assert_eq!(at_3.header.expect("a header").revision, 4);
        assert_eq!(hash_kv(client, 4).await.expect("a hash").hash, 1_562_576_432);
        let compact = CompactionRequest { revision: 3, physical: true };
        let _: CompactionResponse =
            client.unary(&method::KV_COMPACT, compact).await.expect("a compaction");
        let newest = hash_kv(client, 0).await.expect("a hash");
        assert_eq!((newest.hash, newest.compact_revision), (776_148_148, 3));
        for revision in [2, 9] {
            let refused = hash_kv(client, revision).await.expect_err("out of range");
            assert_eq!(refused.code(), tonic::Code::OutOfRange, "{revision}");
        }
    });
}

/// So etcd 3.7.1 has it, with these numbers, whether or not anybody asked before.
#[test]
fn a_hash_that_was_told_is_told_again_when_its_revision_is_compacted() {
    if !Program::varve().is_varve() {
        return;
    }
    run(async {
        let mut session = Session::start(&[]);
        let client = session.client.clone();
        for value in ["1", "2", "3"] {
            client.put(put_request("a", value)).await.expect("a put");
        }
        let hash = async |revision: i64| {
            let told = hash_kv(&client, revision).await.expect("a hash");
            let header = told.header.expect("a header");
            (told.hash, told.compact_revision, told.hash_revision, header.revision)
        };
        let before = hash(3).await;
        assert_eq!(before, (535_221_974, -1, 3, 4));
        let compact = CompactionRequest { revision: 3, physical: true };
        let _: CompactionResponse =
            client.unary(&method::KV_COMPACT, compact).await.expect("a compaction");
        client.put(put_request("a", "4")).await.expect("a put");
        assert_eq!(hash(3).await, (before.0, -1, 3, 5), "as before, and the newest revision");
        session.server.kill();
        session.server.restart();
        assert_eq!(hash(3).await, (1_483_641_527, 3, 3, 5), "what is there now");
    });
}

#[test]
fn members_have_equal_hashes_and_share_alarms() {
    run(async {
        let cluster = Cluster::start(&Program::varve(), 3, &[]);
        let address = |server: &varve_tests::process::Server| server.client_address();
        let clients: Vec<Client> =
            cluster.servers.iter().map(|s| Client::new(&address(s), CALL_TIMEOUT)).collect();
        for number in 0..20 {
            let client = &clients[number % clients.len()];
            client.put(put_request(&format!("k{}", number % 7), "v")).await.expect("a put");
        }
        alarm(&clients[0], AlarmAction::Activate, CORRUPT, 7).await;
        let (mut all, mut everything) = (Vec::new(), Vec::new());
        for client in &clients {
            // A linearizable read: this member has all of it.
            let listed = alarm(client, AlarmAction::Get, AlarmType::None as i32, 0).await;
            assert_eq!(listed.alarms.len(), 1);
            assert!(get(client, "k0").await.is_some());
            all.push(hash_kv(client, 0).await.expect("a hash").hash);
            let hash: HashResponse =
                client.unary(&method::MAINTENANCE_HASH, HashRequest {}).await.expect("a hash");
            everything.push(hash.hash);
        }
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{all:?}");
        let is_equal = everything.windows(2).all(|pair| pair[0] == pair[1]);
        assert!(is_equal || !Program::varve().is_varve(), "{everything:?}");
    });
}

#[test]
fn a_downgrade_is_validated_enabled_and_cancelled() {
    if !Program::varve().is_varve() {
        return;
    }
    run(async {
        let mut session = Session::start(&[]);
        let client = session.client.clone();
        let ask = async |action: DowngradeAction, version: &str| -> Result<String, String> {
            let request = DowngradeRequest { action: action as i32, version: version.into() };
            let answer: Answer<DowngradeResponse> =
                client.unary(&method::MAINTENANCE_DOWNGRADE, request).await;
            answer.map(|done| done.version).map_err(|status| status.message().to_owned())
        };
        let version = async || {
            let status: Answer<StatusResponse> =
                client.unary(&method::MAINTENANCE_STATUS, StatusRequest {}).await;
            let status = status.expect("a status");
            let info = status.downgrade_info.expect("it is always told");
            (status.storage_version, info.enabled, info.target_version)
        };
        use DowngradeAction::{Cancel, Enable, Validate};
        let refused = |error: varve_api::ApiError| Err(error.message.to_owned());
        for action in [Validate, Enable] {
            for text in ["", "foo", "3"] {
                let wrong = error::WRONG_DOWNGRADE_VERSION_FORMAT;
                assert_eq!(ask(action, text).await, refused(wrong), "{text}");
            }
            for text in ["3.5.0", "3.7.0", "3.8"] {
                let wrong = error::INVALID_DOWNGRADE_TARGET_VERSION;
                assert_eq!(ask(action, text).await, refused(wrong), "{text}");
            }
        }
        assert_eq!(ask(Cancel, "").await, Ok("3.7".into()));
        assert_eq!(ask(Validate, "3.6.0").await, Ok("3.7".into()));
        assert_eq!(version().await, ("3.7.0".into(), false, String::new()));
        assert_eq!(ask(Enable, "3.6.0").await, Ok("3.7".into()));
        for action in [Validate, Enable] {
            assert_eq!(ask(action, "3.6.0").await, refused(error::DOWNGRADE_IN_PROCESS));
        }
        assert_eq!(version().await, ("3.6.0".into(), true, "3.6.0".into()));
        session.server.kill();
        session.server.restart();
        let (status, body) = session.server.http_get("/version").expect("HTTP is served");
        assert_eq!((status, body.contains("\"etcdcluster\":\"3.6.0\"")), (200, true), "{body}");
        assert_eq!(ask(Cancel, "").await, Ok("3.6".into()));
        assert_eq!(version().await, ("3.7.0".into(), false, String::new()));
    });
}
