//! Signed tokens (`--auth-token jwt,...`) of real servers, as clients and other programs use them.
//!
//! One idea: the test signs tokens itself, with the server's keys. One that says what the server's
//! own token says is accepted; each that differs in one thing is refused with etcd's error.
//!
//! `VARVE_BIN` names another server: with etcd 3.7 in its place the same must hold.
//!
//! What it does not do: every algorithm with every key; see the server's own tests of `auth::jwt`.

mod keys;
mod session;

use std::time::{SystemTime, UNIX_EPOCH};

use varve_api::error::{self, ApiError};
use varve_tests::etcdctl::Etcdctl;
use varve_tests::process::{Cluster, Program, Server, fresh_directory, skip_or_fail};

use keys::{Key, Place};
use session::{ALICE, Session, block_on};

/// How long the server's tokens live.
const TIME_TO_LIVE_SECONDS: u64 = 600;

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// As Go writes them.
fn claims(user: &str, revision: u64, end: u64) -> String {
    format!(r#"{{"exp":{end},"revision":{revision},"username":"{user}"}}"#)
}

/// Tokens that must be refused: what is wrong with them, and the error.
fn refused(key: &Key, revision: u64) -> Vec<(&'static str, String, ApiError)> {
    let method = key.method;
    let end = now_seconds() + TIME_TO_LIVE_SECONDS;
    let good = claims(ALICE, revision, end);
    let signed = key.token(method, &good);
    let (message, signature) = signed.rsplit_once('.').expect("three parts");
    let forged = keys::message(method, &claims("root", revision, end));
    let mut cases = vec![
        ("expired", key.token(method, &claims(ALICE, revision, now_seconds() - 1))),
        ("of another key", Key::new(method).token(method, &good)),
        ("of another method", key.token(key.other_method(), &good)),
        ("of no method", format!("{}.", keys::message("none", &good))),
        ("of no method, with a signature", format!("{}.{signature}", keys::message("none", &good))),
        ("without a signature", format!("{message}.")),
        ("with a changed user", format!("{forged}.{signature}")),
        ("without a user", key.token(method, &format!(r#"{{"exp":{end},"revision":1}}"#))),
        (
            "without a revision",
            key.token(method, &format!(r#"{{"exp":{end},"username":"alice"}}"#)),
        ),
        ("cut", message.to_owned()),
        ("nonsense", "nonsense".to_owned()),
    ];
    if let Some(public) = &key.public {
        let secret = Key::of_secret(public.as_bytes());
        cases.push(("with the public key as a secret", secret.token("HS256", &good)));
    }
    let refused = |(what, token)| (what, token, error::INVALID_AUTH_TOKEN);
    let mut cases: Vec<_> = cases.into_iter().map(refused).collect();
    let old = key.token(method, &claims(ALICE, revision - 1, end));
    cases.push(("of an old revision", old, error::AUTH_OLD_REVISION));
    cases
}

async fn assert_refused(session: &Session, token: &str, what: &str, error: &ApiError) {
    let outcomes =
        [session.put(token, "k", "refused").await, session.get(token, "k").await.map(drop)];
    for outcome in outcomes {
        let found = outcome.expect_err(what);
        assert_eq!(found.message(), error.message, "{what}");
        assert_eq!(found.code() as i32, error.code as i32, "{what}");
    }
}

fn start(key: &Key, place: &Place) -> Server {
    let flag = place.flag(key, TIME_TO_LIVE_SECONDS);
    Server::start(&Program::varve(), &["--bcrypt-cost=4", "--auth-token", &flag])
}

async fn assert_method(method: &'static str) {
    let (key, place) = (Key::new(method), Place::new(fresh_directory("signed-tokens")));
    let server = start(&key, &place);
    let session = Session::new(&server.client_address());
    session.add_users().await;

    let before = now_seconds();
    let token = session.authenticate(ALICE).await;
    let after = now_seconds();
    let revision = session.auth_revision().await;
    let (message, _) = token.rsplit_once('.').expect("three parts");
    let ends = before + TIME_TO_LIVE_SECONDS..=after + TIME_TO_LIVE_SECONDS;
    let mut said = ends.map(|end| keys::message(method, &claims(ALICE, revision, end)));
    assert!(said.any(|said| said == message), "{method}: {token}");

    session.put(&token, "k", "of the server's token").await.expect(method);
    let made = key.token(method, &claims(ALICE, revision, after + 60));
    session.put(&made, "k", method).await.expect("signed with the server's key");
    for token in [&token, &made] {
        let denied = session.put(token, "other", "v").await.expect_err("not for alice");
        assert_eq!(denied.message(), error::PERMISSION_DENIED.message, "{method}");
    }
    for (what, token, error) in refused(&key, revision) {
        assert_refused(&session, &token, &format!("{method}: {what}"), &error).await;
    }
    assert_eq!(session.get(&token, "k").await.expect("alice may read"), method);
    assert_etcdctl(&server, method);
    let refused = session.authenticate_with(ALICE, "wrong").await.expect_err("a wrong password");
    assert_eq!(refused.message(), error::AUTH_FAILED.message, "{method}");
}

/// etcdctl gets a token for each call by itself.
fn assert_etcdctl(server: &Server, method: &str) {
    let Some(program) = Etcdctl::find() else { return skip_or_fail("etcdctl") };
    let etcdctl = Etcdctl::new(&program, &server.client_address());
    let call = |user: &str, words: &[&str]| {
        let arguments: Vec<String> =
            ["--user", user].iter().chain(words).map(|word| (*word).to_owned()).collect();
        etcdctl.call(&arguments, b"")
    };
    let alice = format!("{ALICE}:{}", session::password(ALICE));
    let read = call(&alice, &["get", "k", "--print-value-only"]);
    assert_eq!(String::from_utf8_lossy(&read.stdout), format!("{method}\n"), "{read:?}");
    assert_eq!(call(&alice, &["put", "k", "etcdctl"]).exit_code, 0, "{method}");
    let denied = call(&alice, &["put", "other", "v"]);
    assert!(String::from_utf8_lossy(&denied.stderr).contains("permission denied"), "{denied:?}");
    assert_ne!(call("alice:wrong", &["get", "k"]).exit_code, 0, "{method}");
}

#[test]
fn tokens_of_rsa_keys_are_good_and_whatever_differs_is_not() {
    block_on(async {
        assert_method("RS256").await;
        assert_method("PS256").await;
    });
}

#[test]
fn tokens_of_curves_and_of_secrets_are_good_and_whatever_differs_is_not() {
    block_on(async {
        for method in ["ES256", "EdDSA", "HS256"] {
            assert_method(method).await;
        }
    });
}

#[test]
fn a_server_with_the_public_key_alone_verifies_and_makes_none() {
    let (key, place) = (Key::new("ES256"), Place::new(fresh_directory("signed-tokens")));
    let flag = place.public_flag(&key);
    let server = Server::start(&Program::varve(), &["--bcrypt-cost=4", "--auth-token", &flag]);
    block_on(async {
        let session = Session::new(&server.client_address());
        session.add_users().await;
        let password = session::password(ALICE);
        let none = session.authenticate_with(ALICE, &password).await.expect_err("no private key");
        let text = "auth: token signing attempted with verify-only key";
        assert!(none.message().contains(text), "{none:?}");
        let revision = session.auth_revision().await;
        let token = key.token("ES256", &claims(ALICE, revision, now_seconds() + 60));
        session.put(&token, "k", "v").await.expect("signed by whoever has the key");
        assert_eq!(session.get(&token, "k").await.expect("alice may read"), "v");
    });
}

/// A token of each member is good at all; so is a user that one adds, and a permission that one
/// revokes is gone at all. `is_signed` says what becomes of tokens that were made before.
async fn assert_members_agree(cluster: &Cluster, is_signed: bool) {
    let sessions: Vec<Session> =
        cluster.servers.iter().map(|server| Session::new(&server.client_address())).collect();
    sessions[0].add_users().await;
    // A member that lags does not ask for tokens yet; it has caught up when it answers.
    for session in &sessions {
        session.auth_revision().await;
    }
    for (number, maker) in sessions.iter().enumerate() {
        let token = maker.authenticate(ALICE).await;
        for session in &sessions {
            let value = format!("of {number}");
            session.put(&token, "k", &value).await.expect("the token is good at every member");
            assert_eq!(session.get(&token, "k").await.expect("alice may read"), value);
        }
    }
    for (number, maker) in sessions.iter().enumerate() {
        let name = format!("user {number}");
        let root = maker.authenticate("root").await;
        maker.add_user(&root, &name, "readers").await;
        for session in &sessions {
            session.auth_revision().await;
            let token = session.authenticate(&name).await;
            session.get(&token, "k").await.expect("readers may read");
            let denied = session.put(&token, "k", "v").await.expect_err("readers may not write");
            assert_eq!(denied.message(), error::PERMISSION_DENIED.message, "{name}");
        }
    }
    let mut tokens = Vec::new();
    for session in &sessions {
        tokens.push(session.authenticate(ALICE).await);
    }
    let root = sessions[2].authenticate("root").await;
    sessions[2].revoke_writes(&root).await;
    let old = if is_signed { error::AUTH_OLD_REVISION } else { error::PERMISSION_DENIED };
    for (session, token) in sessions.iter().zip(&tokens) {
        session.auth_revision().await;
        let denied = session.put(token, "k", "v").await.expect_err("it is revoked");
        assert_eq!(denied.message(), old.message);
        let token = session.authenticate(ALICE).await;
        for denied in
            [session.put(&token, "k", "v").await, session.get(&token, "k").await.map(drop)]
        {
            let denied = denied.expect_err("it is revoked");
            assert_eq!(denied.message(), error::PERMISSION_DENIED.message);
        }
    }
}

#[test]
fn members_know_the_same_users_and_a_signed_token_is_good_at_all() {
    let (key, place) = (Key::new("RS256"), Place::new(fresh_directory("signed-tokens")));
    let flag = place.flag(&key, TIME_TO_LIVE_SECONDS);
    let flags = ["--bcrypt-cost=4", "--auth-token", &flag];
    let cluster = Cluster::start(&Program::varve(), 3, &flags);
    block_on(async {
        assert_members_agree(&cluster, true).await;
        let session = Session::new(&cluster.servers[1].client_address());
        let revision = session.auth_revision().await;
        for (what, token, error) in refused(&key, revision) {
            for server in &cluster.servers {
                assert_refused(&Session::new(&server.client_address()), &token, what, &error).await;
            }
        }
    });
}

#[test]
fn members_know_the_same_users_and_a_simple_token_is_good_at_all() {
    let cluster = Cluster::start(&Program::varve(), 3, &["--bcrypt-cost=4"]);
    block_on(assert_members_agree(&cluster, false));
}
