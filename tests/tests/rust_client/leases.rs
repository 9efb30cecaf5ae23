//! Leases over raw streams and over restarts.

use std::time::{Duration, Instant};

use varve_api::error;
use varve_api::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use varve_api::method;
use varve_tests::grpc_client::Client;

use crate::session::{Session, expect_error, get, grant, put_leased, range, run};

async fn time_to_live(client: &Client, id: i64) -> LeaseTimeToLiveResponse {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    client.unary(&method::LEASE_TIME_TO_LIVE, request).await.expect("a lease has a time")
}

#[test]
fn a_keep_alive_stream_answers_each_request_in_order() {
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        let (one, two) = (grant(client, 30).await, grant(client, 40).await);
        let ids = [one, two, 123, one];
        let requests = ids.map(|id| LeaseKeepAliveRequest { id });
        let mut stream = client
            .bidi_stream::<_, LeaseKeepAliveResponse>(
                &method::LEASE_KEEP_ALIVE,
                tokio_stream::iter(requests),
            )
            .await
            .expect("the stream opens");
        let mut answers = Vec::new();
        while let Some(answer) = stream.message().await.expect("the stream does not fail") {
            assert!(answer.header.is_some());
            answers.push((answer.id, answer.ttl));
        }
        assert_eq!(answers, [(one, 30), (two, 40), (123, 0), (one, 30)]);
    });
}

#[test]
fn a_lease_outlives_its_server_and_then_ends() {
    run(async {
        let mut session = Session::start(&[]);
        let lasting = grant(&session.client, 300).await;
        let short = grant(&session.client, 3).await;
        put_leased(&session.client, "lasting", lasting).await.expect("the lease is there");
        put_leased(&session.client, "short", short).await.expect("the lease is there");
        session.server.kill();
        session.server.restart();
        let leases: LeaseLeasesResponse = session
            .client
            .unary(&method::LEASE_LEASES, LeaseLeasesRequest {})
            .await
            .expect("leases are listed");
        assert!(leases.leases.iter().any(|lease| lease.id == lasting));
        let answer = time_to_live(&session.client, lasting).await;
        assert_eq!((answer.granted_ttl, answer.keys), (300, vec!["lasting".into()]));
        assert!((1..=300).contains(&answer.ttl), "{}", answer.ttl);
        // The new leader gives it its full time again, and a check may be late: 3 s become 10.
        let deadline = Instant::now() + Duration::from_secs(30);
        while get(&session.client, "short").await.is_some() {
            assert!(Instant::now() < deadline, "the lease of 3 s has not ended after 30 s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(time_to_live(&session.client, short).await.ttl, -1);
        assert_eq!(range(&session.client, "lasting").await.count, 1);
    });
}

#[test]
fn errors_of_leases_are_etcds() {
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        let grant = LeaseGrantRequest { ttl: 60, id: 77 };
        let first: varve_api::etcdserverpb::LeaseGrantResponse =
            client.unary(&method::LEASE_GRANT, grant).await.expect("the id is free");
        assert_eq!((first.id, first.ttl), (77, 60));
        expect_error(client, &method::LEASE_GRANT, grant, error::LEASE_EXIST).await;
        let long = LeaseGrantRequest { ttl: 9_000_000_001, id: 0 };
        expect_error(client, &method::LEASE_GRANT, long, error::LEASE_TTL_TOO_LARGE).await;
        let unknown = LeaseRevokeRequest { id: 78 };
        expect_error(client, &method::LEASE_REVOKE, unknown, error::LEASE_NOT_FOUND).await;
        let status = put_leased(client, "k", 78).await.expect_err("there is no such lease");
        assert_eq!(status.message(), error::LEASE_NOT_FOUND.message);
    });
}
