//! The HTTP paths on the wire, over a server whose state the test chooses. Bodies, codes and
//! headers are those that etcd 3.7.1 gave to the same requests.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{Server, call, connect, http1, http1_bytes, run};
use varve_api::error::{Code, Status};
use varve_server::http::{Access, Consistency, Health, HttpOptions, HttpRoutes};
use varve_server::metrics::{Detail, Metrics};
use varve_server::socket::Role;
use varve_server::worker::ConnectionOptions;

/// A state of the server.
#[derive(Clone, Default)]
struct State {
    no_space: Arc<AtomicBool>,
    corrupt: Arc<AtomicBool>,
    leaderless: Arc<AtomicBool>,
    learner: Arc<AtomicBool>,
    undecided: Arc<AtomicBool>,
}

fn is(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst)
}

impl Health for State {
    fn alarms(&self) -> Vec<&'static str> {
        let all = [("NOSPACE", &self.no_space), ("CORRUPT", &self.corrupt)];
        all.into_iter().filter(|(_, flag)| is(flag)).map(|(name, _)| name).collect()
    }

    fn has_leader(&self) -> bool {
        !is(&self.leaderless)
    }

    fn is_learner(&self) -> bool {
        is(&self.learner)
    }

    async fn read(&self, consistency: Consistency) -> Result<(), Status> {
        if consistency == Consistency::Linearizable && is(&self.leaderless) {
            return Err(Status::new(Code::Unavailable, "etcdserver: no leader"));
        }
        Ok(())
    }

    fn cluster_version(&self) -> Option<String> {
        (!is(&self.undecided)).then(|| "3.7.0".to_owned())
    }

    fn storage_version(&self) -> Option<String> {
        (!is(&self.undecided)).then(|| "3.7.0".to_owned())
    }

    fn raft_status(&self) -> serde_json::Value {
        serde_json::json!({"id": "8e9e05c52164694d"})
    }

    fn takes_users_from_certificates(&self) -> bool {
        false
    }
}

fn start(state: &State, role: Role, access: Access) -> Server {
    start_with(state, role, HttpOptions { access, ..HttpOptions::default() })
}

fn start_with(state: &State, role: Role, options: HttpOptions) -> Server {
    let state = state.clone();
    Server::start_with(role, 100, ConnectionOptions::default(), move |router| {
        router.http(HttpRoutes::new(state, Metrics::new(Detail::Basic), options));
    })
}

#[track_caller]
fn assert_answer(answer: &(String, String), status: &str, body: &str) {
    let (head, found) = answer;
    assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    assert_eq!(found, body);
}

#[test]
fn health_tells_the_first_thing_that_is_wrong() {
    let state = State::default();
    let server = start(&state, Role::Client, Access::default());
    run(async {
        let ask = async |path: &str| http1(&server, &format!("GET {path}"), "Host: h\r\n").await;
        let good = "{\"health\":\"true\",\"reason\":\"\"}";
        assert_answer(&ask("/health").await, "200", good);

        state.leaderless.store(true, Ordering::SeqCst);
        let bad = "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n";
        assert_answer(&ask("/health").await, "503", bad);
        assert_answer(&ask("/health?serializable=true").await, "200", good);
        assert_answer(&ask("/health?serializable=yes").await, "503", bad);

        state.no_space.store(true, Ordering::SeqCst);
        let bad = "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n";
        assert_answer(&ask("/health?serializable=true").await, "503", bad);
        assert_answer(&ask("/health?serializable=true&exclude=NOSPACE").await, "200", good);
    });
}

#[test]
fn livez_and_readyz_run_their_checks() {
    let state = State::default();
    let server = start(&state, Role::Client, Access::default());
    run(async {
        let ask = async |path: &str| http1(&server, &format!("GET {path}"), "Host: h\r\n").await;
        let answer = ask("/readyz").await;
        assert_answer(&answer, "200", "ok\n");
        assert!(answer.0.contains("X-Content-Type-Options: nosniff"), "{}", answer.0);
        let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n\
                   [+]non_learner ok\nok\n";
        assert_answer(&ask("/readyz?verbose").await, "200", all);
        assert_answer(&ask("/livez?verbose").await, "200", "[+]serializable_read ok\nok\n");
        let some = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\nok\n";
        assert_answer(&ask("/readyz?exclude=non_learner&verbose").await, "200", some);
        assert_answer(&ask("/readyz?exclude=unknown").await, "200", "ok\n");

        state.leaderless.store(true, Ordering::SeqCst);
        state.learner.store(true, Ordering::SeqCst);
        state.corrupt.store(true, Ordering::SeqCst);
        state.no_space.store(true, Ordering::SeqCst);
        let failed = "[-]data_corruption failed: alarm activated: CORRUPT\n\
                      [+]serializable_read ok\n\
                      [-]linearizable_read failed: etcdserver: no leader\n\
                      [-]non_learner failed: not supported for learner\n\n";
        assert_answer(&ask("/readyz").await, "503", failed);
        assert_answer(&ask("/livez").await, "200", "ok\n");
        let failed = "[-]linearizable_read failed: etcdserver: no leader\n\n";
        assert_answer(&ask("/readyz/linearizable_read").await, "503", failed);
        assert_answer(&ask("/readyz/serializable_read").await, "200", "ok\n");
    });
}

#[test]
fn version_tells_what_is_decided() {
    let state = State::default();
    let server = start(&state, Role::Client, Access::default());
    run(async {
        let answer = http1(&server, "GET /version", "Host: h\r\n").await;
        let decided = "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}";
        assert_answer(&answer, "200", decided);
        assert!(answer.0.contains("Content-Type: application/json\r\n"), "{}", answer.0);
        state.undecided.store(true, Ordering::SeqCst);
        let answer = http1(&server, "GET /version", "Host: h\r\n").await;
        let undecided =
            "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"not_decided\",\"storage\":\"unknown\"}";
        assert_answer(&answer, "200", undecided);
    });
}

#[test]
fn other_methods_and_other_paths_are_refused_as_go_does() {
    let server = start(&State::default(), Role::Client, Access::default());
    run(async {
        for path in
            ["/health", "/livez", "/readyz", "/version", "/debug/vars", "/readyz/non_learner"]
        {
            let answer = http1(&server, &format!("PUT {path}"), "Host: h\r\n").await;
            assert_answer(&answer, "405", "Method Not Allowed\n");
            assert!(answer.0.contains("Allow: GET\r\n"), "{}", answer.0);
        }
        for path in ["/", "/health/", "/readyz/", "/readyz/x", "/v3/kv/range", "/debug/pprof/"] {
            let answer = http1(&server, &format!("GET {path}"), "Host: h\r\n").await;
            assert_answer(&answer, "404", "404 page not found\n");
        }
    });
}

#[test]
fn the_metrics_port_has_less_and_no_cors() {
    let server = start(&State::default(), Role::Metrics, Access::default());
    run(async {
        let ask = async |path: &str| http1(&server, &format!("GET {path}"), "Host: h\r\n").await;
        let answer = ask("/health").await;
        assert_answer(&answer, "200", "{\"health\":\"true\",\"reason\":\"\"}");
        assert!(!answer.0.contains("Access-Control"), "{}", answer.0);
        assert_answer(&ask("/readyz").await, "200", "ok\n");
        let (head, body) = ask("/metrics").await;
        assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("\netcd_server_has_leader 0\n"));
        assert_answer(&ask("/version").await, "404", "404 page not found\n");
    });
}

#[test]
fn profiles_are_made_and_what_only_go_has_says_so() {
    let with = HttpOptions { has_profiles: true, ..HttpOptions::default() };
    let server = start_with(&State::default(), Role::Client, with.clone());
    run(async {
        let ask = async |path: &str| http1(&server, &format!("GET {path}"), "Host: h\r\n").await;
        let (head, body) = ask("/debug/pprof/").await;
        assert!(head.starts_with("HTTP/1.1 200") && body.contains("profile?seconds=30"), "{head}");
        let (head, body) = ask("/debug/pprof/cmdline").await;
        let own: Vec<String> = std::env::args().collect();
        assert!(head.starts_with("HTTP/1.1 200") && body == own.join("\0"), "{head} {body}");
        assert_answer(&ask("/debug/pprof/symbol").await, "200", "num_symbols: 0\n");
        for name in ["heap", "goroutine", "mutex", "trace"] {
            let (head, body) = ask(&format!("/debug/pprof/{name}")).await;
            assert!(head.starts_with("HTTP/1.1 501"), "{name}: {head}");
            assert!(body.starts_with(&format!("{name}: only programs in Go have it; here: ")));
        }
        assert_answer(&ask("/debug/pprof/nonsense").await, "404", "Unknown profile\n");

        let line = "GET /debug/pprof/profile?seconds=1";
        let (head, body) = http1_bytes(&server, line, "Host: h\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("application/octet-stream"), "{head}");
        let mut message = Vec::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut message).expect("gzip");
        let has = |text: &[u8]| message.windows(text.len()).any(|window| window == text);
        assert!(has(b"nanoseconds") && has(b"samples"), "{} bytes", message.len());
    });
    let server = start_with(&State::default(), Role::Metrics, with);
    run(async {
        let answer = http1(&server, "GET /debug/pprof/", "Host: h\r\n").await;
        assert_answer(&answer, "404", "404 page not found\n");
    });
}

#[test]
fn hosts_and_origins_are_checked_on_the_client_port() {
    let access = Access {
        origins: vec!["http://good.example:80".into()],
        hosts: vec!["good.example".into()],
    };
    let server = start(&State::default(), Role::Client, access);
    run(async {
        let (head, _) = http1(&server, "GET /health", "Host: bad.example:2379\r\n").await;
        assert!(head.starts_with("HTTP/1.1 421"), "{head}");
        let good = "Host: good.example:2379\r\nOrigin: http://good.example:80\r\n";
        let (head, _) = http1(&server, "GET /health", good).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("Access-Control-Allow-Origin: http://good.example:80"), "{head}");
        let other = "Host: good.example\r\nOrigin: http://bad.example:80\r\n";
        let (head, _) = http1(&server, "GET /health", other).await;
        assert!(!head.contains("Access-Control"), "{head}");
        let (head, body) = http1(&server, "OPTIONS /health", good).await;
        assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}");
    });
}

#[test]
fn http2_without_grpc_reaches_the_same_paths() {
    let server = start(&State::default(), Role::Client, Access::default());
    run(async {
        let client = connect(&server).await;
        let request = http::Request::builder().method("GET").uri("http://h/health");
        let answer = call(&client, request, &[]).await;
        assert_eq!(answer.http_status, 200);
        assert_eq!(&answer.body[..], b"{\"health\":\"true\",\"reason\":\"\"}");
        assert_eq!(answer.headers["content-length"], "29");
    });
}

#[test]
fn roles_of_listeners_are_kept_apart() {
    let state = State::default();
    let grpc_only = start(&state, Role::GrpcOnly, Access::default());
    let http_only = start(&state, Role::HttpOnly, Access::default());
    run(async {
        let (head, _) = http1(&grpc_only, "GET /health", "Host: h\r\n").await;
        assert!(head.starts_with("HTTP/1.1 415"), "{head}");
        let client = connect(&http_only).await;
        let answer = call(&client, support::grpc_request("/etcdserverpb.KV/Put"), &[]).await;
        assert_eq!(answer.http_status, 404);
    });
}
