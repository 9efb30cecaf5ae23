//! What a compaction gives back, on a server that nobody else writes to.

use std::time::Duration;

use varve_api::etcdserverpb::{CompactionRequest, CompactionResponse, PutRequest};
use varve_api::method;
use varve_tests::grpc_client::Client;
use varve_tests::process::{Program, Server};

/// Bytes of the store as the metrics tell them.
const SIZE: &str = "etcd_mvcc_db_total_size_in_bytes";

#[test]
fn a_compaction_on_an_idle_server_gives_the_space_of_old_versions_back() {
    let server = Server::start(&Program::varve(), &[]);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let revision = runtime.block_on(async {
        let client = Client::new(&server.client_address(), Duration::from_secs(10));
        let mut revision = 0;
        for number in 0..4_000 {
            let request = PutRequest {
                key: format!("key {}", number % 10).into(),
                value: vec![b'x'; 2_000].into(),
                ..PutRequest::default()
            };
            let response = client.put(request).await.expect("a sound put");
            revision = response.header.expect("every response has a header").revision;
        }
        revision
    });
    let before = server.metric(SIZE).expect("the metric is there");
    assert!(before > 8e6, "4000 values of 2000 bytes take {before} bytes");
    runtime.block_on(async {
        let client = Client::new(&server.client_address(), Duration::from_secs(10));
        // Physical: the answer comes when the space is free.
        let request = CompactionRequest { revision, physical: true };
        let _: CompactionResponse =
            client.unary(&method::KV_COMPACT, request).await.expect("a sound compaction");
    });
    let after = server.metric(SIZE).expect("the metric is there");
    assert!(after < 1e6, "{after} bytes are left of {before}");
}
