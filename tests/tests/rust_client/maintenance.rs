//! Alarms, quotas and hashes, by the calls that etcdctl has no word for.

use varve_api::etcdserverpb::alarm_request::AlarmAction;
use varve_api::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse,
    DeleteRangeRequest, HashKvRequest, HashKvResponse, HashRequest, HashResponse, StatusRequest,
    StatusResponse,
};
use varve_api::method;
use varve_tests::grpc_client::Client;
use varve_tests::process::{Cluster, Program};

use crate::session::{Answer, CALL_TIMEOUT, Session, get, put_request, run};

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
