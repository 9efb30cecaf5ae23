//! Three members: what one acknowledges, the others have. And two without a leader: what is answered
//! at once, and with which words after a wait.

use std::time::{Duration, Instant};

use varve_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    MemberListRequest, MemberListResponse, StatusRequest, StatusResponse, WatchCreateRequest,
};
use varve_api::method::{self, Method};
use varve_tests::grpc_client::Client;
use varve_tests::process::{Cluster, Program};

use crate::session::{CALL_TIMEOUT, get, grant, put_request, range, run};

const MEMBERS: usize = 3;
/// How long a cluster may be without a leader after one has died.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(20);

fn clients(cluster: &Cluster) -> Vec<Client> {
    let address = |server: &varve_tests::process::Server| server.client_address();
    cluster.servers.iter().map(|server| Client::new(&address(server), CALL_TIMEOUT)).collect()
}

async fn status(client: &Client) -> StatusResponse {
    let answer = client.unary(&method::MAINTENANCE_STATUS, StatusRequest {}).await;
    answer.expect("a member tells its status")
}

/// The position of the leader, as all `clients` see it.
async fn leader(clients: &[&Client]) -> usize {
    let deadline = Instant::now() + ELECTION_TIMEOUT;
    loop {
        let mut states = Vec::new();
        for client in clients {
            states.push(status(client).await);
        }
        let ids: Vec<u64> =
            states.iter().map(|s| s.header.as_ref().expect("a header").member_id).collect();
        if let Some(position) = ids.iter().position(|id| *id == states[0].leader)
            && states.iter().all(|state| state.leader == states[0].leader)
        {
            return position;
        }
        assert!(Instant::now() < deadline, "no leader in {ELECTION_TIMEOUT:?}: {states:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Puts until it is acknowledged; a new leader may be needed first.
async fn put_at_last(client: &Client, key: &str, value: &str) {
    let deadline = Instant::now() + ELECTION_TIMEOUT;
    while let Err(error) = client.put(put_request(key, value)).await {
        assert!(Instant::now() < deadline, "no put in {ELECTION_TIMEOUT:?}: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn every_member_reads_what_any_member_acknowledged() {
    run(async {
        let cluster = Cluster::start(&Program::varve(), MEMBERS, &[]);
        let clients = clients(&cluster);
        leader(&clients.iter().collect::<Vec<_>>()).await;
        for number in 0..30 {
            let key = format!("k{number:02}");
            put_at_last(&clients[number % MEMBERS], &key, "v").await;
            let kv = get(&clients[(number + 1) % MEMBERS], &key).await;
            assert!(kv.is_some(), "{key}: a linearizable read at another member");
        }
        let mut lists = Vec::new();
        for client in &clients {
            let request = MemberListRequest { linearizable: true };
            let list: MemberListResponse =
                client.unary(&method::CLUSTER_MEMBER_LIST, request).await.expect("a list");
            assert_eq!(list.members.len(), MEMBERS);
            lists.push((list.header.expect("a header").cluster_id, list.members));
        }
        assert!(lists.windows(2).all(|pair| pair[0] == pair[1]), "{lists:?}");
    });
}

#[test]
fn a_cluster_survives_its_leader_and_takes_it_back() {
    run(async {
        let mut cluster = Cluster::start(&Program::varve(), MEMBERS, &[]);
        let clients = clients(&cluster);
        let all: Vec<&Client> = clients.iter().collect();
        let old = leader(&all).await;
        let (next, other) = ((old + 1) % MEMBERS, (old + 2) % MEMBERS);
        put_at_last(&clients[old], "k0", "before").await;
        let create = WatchCreateRequest {
            key: "k".into(),
            range_end: "l".into(),
            ..WatchCreateRequest::default()
        };
        let mut watch = clients[other].watch(create).await.expect("the stream opens");
        watch.message().await.expect("no error").expect("created");

        cluster.servers[old].kill();
        for number in 1..20 {
            put_at_last(&clients[next], &format!("k{number}"), "without").await;
        }
        leader(&[&clients[next], &clients[other]]).await;
        assert_eq!(range(&clients[other], "k").await.count, 20);
        let mut seen = 0;
        while seen < 19 {
            let response = watch.message().await.expect("no error").expect("not the end");
            seen += response.events.len();
        }

        cluster.servers[old].restart();
        leader(&all).await;
        let back = range(&clients[old], "k").await;
        assert_eq!(back.count, 20);
        assert_eq!(back.kvs, range(&clients[next], "k").await.kvs);
        put_at_last(&clients[old], "k20", "again").await;
        assert!(get(&clients[next], "k20").await.is_some());
    });
}

/// A call of a client that would rather have an error than wait for a leader.
async fn require_leader<A: prost::Message + Default + Send + Sync + 'static>(
    client: &Client,
    method: &Method,
    request: impl prost::Message + 'static,
) -> Result<A, tonic::Status> {
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("hasleader", "true".parse().expect("a value"));
    client.unary_with(method, request).await
}

fn assert_refused<A: std::fmt::Debug>(
    answer: Result<A, tonic::Status>,
    code: tonic::Code,
    text: &str,
) {
    let status = answer.expect_err("there is no leader");
    assert_eq!((status.code(), status.message()), (code, text));
}

#[test]
fn without_a_leader_calls_end_as_in_etcd() {
    let flags = ["--heartbeat-interval=50", "--election-timeout=250"];
    let mut cluster = Cluster::start(&Program::varve(), 2, &flags);
    run(async {
        let clients = clients(&cluster);
        leader(&clients.iter().collect::<Vec<_>>()).await;
        let lease = grant(&clients[0], 1000).await;
        put_at_last(&clients[0], "k", "v").await;
        get(&clients[0], "k").await.expect("it is there");
        cluster.servers[1].kill();
        let client = &clients[0];
        let deadline = Instant::now() + ELECTION_TIMEOUT;
        while status(client).await.leader != 0 {
            assert!(Instant::now() < deadline, "the other one is dead and still leads");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

        let (no_leader, unavailable) = ("etcdserver: no leader", tonic::Code::Unavailable);
        let list = MemberListRequest { linearizable: false };
        let list = require_leader::<MemberListResponse>(client, &method::CLUSTER_MEMBER_LIST, list);
        assert_refused(list.await, unavailable, no_leader);
        let asked =
            require_leader::<StatusResponse>(client, &method::MAINTENANCE_STATUS, StatusRequest {});
        assert_refused(asked.await, unavailable, no_leader);

        let leases: LeaseLeasesResponse = client
            .unary(&method::LEASE_LEASES, LeaseLeasesRequest {})
            .await
            .expect("this member knows");
        assert_eq!(leases.leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [lease]);

        let (exceeded, text) = (tonic::Code::DeadlineExceeded, "context deadline exceeded");
        let grant = LeaseGrantRequest { ttl: 100, id: 0 };
        let compact = CompactionRequest { revision: 1, physical: false };
        let time = LeaseTimeToLiveRequest { id: lease, keys: false };
        let (put, granted, compacted, time) = tokio::join!(
            client.put(put_request("k", "w")),
            client.unary::<_, LeaseGrantResponse>(&method::LEASE_GRANT, grant),
            client.unary::<_, CompactionResponse>(&method::KV_COMPACT, compact),
            client.unary::<_, LeaseTimeToLiveResponse>(&method::LEASE_TIME_TO_LIVE, time),
        );
        assert_refused(put, exceeded, text);
        assert_refused(granted, exceeded, text);
        assert_refused(compacted, exceeded, text);
        assert_refused(time, unavailable, no_leader);
    });
}
