//! Lock, election, authentication and health: services that etcdctl and the Go client do
//! themselves or hide.

use std::time::{Duration, Instant};

use varve_api::error;
use varve_api::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest,
    AuthenticateResponse, PutResponse, RangeRequest, RangeResponse,
};
use varve_api::health::{HealthCheckRequest, HealthCheckResponse};
use varve_api::method::{self, Method};
use varve_api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use varve_api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use varve_api::{authpb, v3electionpb};
use varve_tests::grpc_client::Client;

use crate::not_yet::is_left_out;
use crate::session::{Anything, Session, expect_error, get, grant, put_request, run};

/// How long a lock that nobody waits for any more may leave its key.
/// Calls that are given up, each a little later than the one before.
const GIVEN_UP: u64 = 100;
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn the_lock_service_hands_a_lock_over() {
    run(async {
        let session = Session::start(&[]);
        let client = session.client.clone();
        let (first, second) = (grant(&client, 60).await, grant(&client, 60).await);
        let request = |lease| LockRequest { name: "mutex".into(), lease };
        let held: LockResponse =
            client.unary(&method::LOCK_LOCK, request(first)).await.expect("the lock is free");
        assert_eq!(held.key, format!("mutex/{first:x}"));
        let again: LockResponse =
            client.unary(&method::LOCK_LOCK, request(first)).await.expect("it is held already");
        assert_eq!(again.key, held.key);

        let waiter = client.clone();
        let waiting = tokio::spawn(async move {
            waiter.unary::<_, LockResponse>(&method::LOCK_LOCK, request(second)).await
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished(), "the lock is held");
        let unlock = UnlockRequest { key: held.key };
        let _: UnlockResponse =
            client.unary(&method::LOCK_UNLOCK, unlock).await.expect("the lock is released");
        let now = waiting.await.expect("no panic").expect("the lock is free now");
        assert_eq!(now.key, format!("mutex/{second:x}"));
        assert!(get(&client, &format!("mutex/{first:x}")).await.is_none());
    });
}

#[test]
fn a_lock_that_is_given_up_leaves_no_key() {
    run(async {
        let session = Session::start(&[]);
        let client = session.client.clone();
        let (first, second) = (grant(&client, 60).await, grant(&client, 60).await);
        let request = |lease| LockRequest { name: "mutex".into(), lease };
        let _: LockResponse =
            client.unary(&method::LOCK_LOCK, request(first)).await.expect("the lock is free");
        let waiter = client.clone();
        let waiting = tokio::spawn(async move {
            waiter.unary::<_, LockResponse>(&method::LOCK_LOCK, request(second)).await
        });
        let key = format!("mutex/{second:x}");
        let deadline = Instant::now() + GIVE_UP_TIMEOUT;
        while get(&client, &key).await.is_none() {
            assert!(Instant::now() < deadline, "no candidate in {GIVE_UP_TIMEOUT:?}");
        }
        waiting.abort();
        while get(&client, &key).await.is_some() {
            assert!(Instant::now() < deadline, "the candidate is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // A lease that nobody has granted.
        let refused = client
            .unary::<_, LockResponse>(&method::LOCK_LOCK, request(12345))
            .await
            .expect_err("no such lease");
        assert_eq!(refused.code(), tonic::Code::Unknown);
        assert_eq!(refused.message(), error::LEASE_NOT_FOUND.message);
    });
}

/// Wherever the call is cut off: before its put, between the put and its answer, or after.
#[test]
fn locks_that_are_given_up_at_any_moment_leave_no_keys() {
    run(async {
        let session = Session::start(&[]);
        let client = session.client.clone();
        let holder = grant(&client, 60).await;
        let request = |lease| LockRequest { name: "mutex".into(), lease };
        let _: LockResponse =
            client.unary(&method::LOCK_LOCK, request(holder)).await.expect("the lock is free");
        for attempt in 0..GIVEN_UP {
            let (lease, waiter) = (grant(&client, 60).await, client.clone());
            let waiting = tokio::spawn(async move {
                waiter.unary::<_, LockResponse>(&method::LOCK_LOCK, request(lease)).await
            });
            tokio::time::sleep(Duration::from_micros(attempt * 25)).await;
            waiting.abort();
        }
        let deadline = Instant::now() + GIVE_UP_TIMEOUT;
        let all = RangeRequest {
            key: "mutex/".into(),
            range_end: "mutex0".into(),
            ..RangeRequest::default()
        };
        loop {
            let left: RangeResponse =
                client.unary(&method::KV_RANGE, all.clone()).await.expect("a range");
            if left.count == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "{} candidates are still there", left.count - 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn the_election_service_has_one_leader_after_another() {
    run(async {
        let session = Session::start(&[]);
        let client = session.client.clone();
        let (first, second) = (grant(&client, 60).await, grant(&client, 60).await);
        let campaign = |lease, value: &str| CampaignRequest {
            name: "boss".into(),
            lease,
            value: value.to_owned().into(),
        };
        let leader = LeaderRequest { name: "boss".into() };
        let nobody = client
            .unary::<_, LeaderResponse>(&method::ELECTION_LEADER, leader.clone())
            .await
            .expect_err("there is no leader");
        assert_eq!(nobody.message(), "election: no leader");
        let won: CampaignResponse = client
            .unary(&method::ELECTION_CAMPAIGN, campaign(first, "one"))
            .await
            .expect("nobody else campaigns");
        let key = won.leader.expect("the winner has a key");
        assert_eq!((&key.name[..], key.lease), (&b"boss"[..], first));

        // The answer begins with the first leader, so there must be one.
        let mut observed = client
            .server_stream::<_, LeaderResponse>(&method::ELECTION_OBSERVE, leader.clone())
            .await
            .expect("the stream opens");

        let rival = client.clone();
        let request = campaign(second, "two");
        let waiting = tokio::spawn(async move {
            rival.unary::<_, CampaignResponse>(&method::ELECTION_CAMPAIGN, request).await
        });
        let proclaim = ProclaimRequest { leader: Some(key.clone()), value: "still one".into() };
        let _: ProclaimResponse =
            client.unary(&method::ELECTION_PROCLAIM, proclaim).await.expect("it leads");
        let now: LeaderResponse = client
            .unary(&method::ELECTION_LEADER, leader.clone())
            .await
            .expect("there is a leader");
        assert_eq!(now.kv.expect("a leader has a value").value, "still one");
        let resign = ResignRequest { leader: Some(key) };
        let _: ResignResponse =
            client.unary(&method::ELECTION_RESIGN, resign).await.expect("it leads");
        waiting.await.expect("no panic").expect("the rival leads now");
        let mut seen = Vec::new();
        while seen.last().is_none_or(|value| value != "two") {
            let response = observed.message().await.expect("no error").expect("not the end");
            seen.push(response.kv.expect("a leader has a value").value);
        }
        assert!(seen.contains(&"still one".into()), "{seen:?}");
        // Whoever does not lead cannot proclaim.
        let stranger = v3electionpb::LeaderKey {
            name: "boss".into(),
            key: "boss/none".into(),
            rev: 1,
            lease: first,
        };
        let proclaim = ProclaimRequest { leader: Some(stranger), value: "mine".into() };
        let refused = client
            .unary::<_, ProclaimResponse>(&method::ELECTION_PROCLAIM, proclaim)
            .await
            .expect_err("it does not lead");
        assert_eq!(refused.message(), "election: not leader");
    });
}

async fn do_unary<Req>(client: &Client, method: &Method, request: Req)
where
    Req: prost::Message + Send + Sync + 'static,
{
    let _: Anything = client.unary(method, request).await.unwrap_or_else(|error| panic!("{error}"));
}

async fn token(client: &Client, name: &str, password: &str) -> String {
    let request = AuthenticateRequest { name: name.into(), password: password.into() };
    let answer: AuthenticateResponse =
        client.unary(&method::AUTH_AUTHENTICATE, request).await.expect("the password is right");
    answer.token
}

#[test]
fn tokens_open_what_roles_allow() {
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        if is_left_out(client, &[method::AUTH_ENABLE, method::AUTH_AUTHENTICATE]).await {
            return;
        }
        let user = |name: &str| AuthUserAddRequest {
            name: name.into(),
            password: format!("{name} secret"),
            ..AuthUserAddRequest::default()
        };
        let role = |name: &str| AuthRoleAddRequest { name: name.into() };
        let grants = |user: &str, role: &str| AuthUserGrantRoleRequest {
            user: user.into(),
            role: role.into(),
        };
        for name in ["root", "alice"] {
            do_unary(client, &method::AUTH_USER_ADD, user(name)).await;
            do_unary(client, &method::AUTH_ROLE_ADD, role(name)).await;
            do_unary(client, &method::AUTH_USER_GRANT_ROLE, grants(name, name)).await;
        }
        let permission = AuthRoleGrantPermissionRequest {
            name: "alice".into(),
            perm: Some(authpb::Permission {
                perm_type: authpb::permission::Type::Readwrite.into(),
                key: "a".into(),
                range_end: "b".into(),
            }),
        };
        do_unary(client, &method::AUTH_ROLE_GRANT_PERMISSION, permission).await;
        do_unary(client, &method::AUTH_ENABLE, AuthEnableRequest {}).await;

        expect_error(client, &method::KV_PUT, put_request("a1", "v"), error::USER_EMPTY).await;
        let wrong = AuthenticateRequest { name: "alice".into(), password: "wrong".into() };
        expect_error(client, &method::AUTH_AUTHENTICATE, wrong, error::AUTH_FAILED).await;
        let put_with = async |token: &str, key: &str| {
            let mut request = tonic::Request::new(put_request(key, "v"));
            request.metadata_mut().insert("token", token.parse().expect("a token is ASCII"));
            client.unary_with::<_, PutResponse>(&method::KV_PUT, request).await
        };
        let alice = token(client, "alice", "alice secret").await;
        let root = token(client, "root", "root secret").await;
        put_with(&alice, "a1").await.expect("alice may");
        put_with(&root, "z").await.expect("root may");
        let denied = put_with(&alice, "c").await.expect_err("alice may not");
        assert_eq!(denied.message(), error::PERMISSION_DENIED.message);
        let unknown = put_with("nonsense", "a1").await.expect_err("no such token");
        assert_eq!(unknown.code(), tonic::Code::Unauthenticated);
        assert_eq!(unknown.message(), error::INVALID_AUTH_TOKEN.message);
        let status: AuthStatusResponse = client
            .unary(&method::AUTH_STATUS, AuthStatusRequest {})
            .await
            .expect("since etcd 3.7 this needs no token");
        assert!(status.enabled && status.auth_revision > 0);
    });
}

#[test]
fn the_health_check_says_serving() {
    run(async {
        let session = Session::start(&[]);
        let request = HealthCheckRequest { service: String::new() };
        let answer: HealthCheckResponse =
            session.client.unary(&method::HEALTH_CHECK, request).await.expect("it is healthy");
        assert_eq!(answer.status, 1);
        let (status, body) = session.server.http_get("/health").expect("HTTP is served");
        assert_eq!((status, body.contains("\"health\":\"true\"")), (200, true), "{body}");
        let (status, body) = session.server.http_get("/version").expect("HTTP is served");
        assert_eq!((status, body.contains("\"etcdserver\"")), (200, true), "{body}");
    });
}
