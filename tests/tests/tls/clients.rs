//! Clients: who may connect, on which listener, and as whom.

use std::error::Error as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use varve_api::authpb::{Permission, permission};
use varve_api::etcdserverpb::*;
use varve_api::method;
use varve_tests::certificates::{Authority, CLIENT, Pair, Wanted, put};
use varve_tests::etcdctl::Etcdctl;
use varve_tests::grpc_client::Client;
use varve_tests::process::{find_in_path, free_port, skip_or_fail};

use crate::{
    CALL_TIMEOUT, Curl, Files, block_on, put_key, start, start_made, strings, text, value_of,
};

#[test]
fn clients_of_ours_and_of_etcd_speak_tls() {
    let files = Files::new();
    let pair = files.authority.sign(&CLIENT);
    let server = start(&files.flags_with_clients());
    block_on(async {
        let client = files.client(&server.client_address(), Some(&pair));
        put_key(&client, "a", "1").await.expect("a good certificate");
        assert_eq!(value_of(&client, "a").await.expect("a good certificate"), "1");
    });
    assert!(
        server.wait_for_log("serving client traffic securely", CALL_TIMEOUT),
        "{}",
        server.log()
    );
    let Some(program) = Etcdctl::find() else { return skip_or_fail("etcdctl") };
    let (cert, key) = pair.write(&files.directory, "client");
    let endpoint = format!("https://{}", server.client_address());
    let etcdctl = Etcdctl::new(&program, &endpoint);
    let call = |words: &[&str]| {
        let mut arguments = strings(&["--cacert", &files.ca, "--cert", &text(&cert)]);
        arguments.extend(strings(&["--key", &text(&key)]));
        arguments.extend(strings(words));
        etcdctl.call(&arguments, b"")
    };
    let outcome = call(&["put", "b", "2"]);
    assert_eq!(
        (outcome.exit_code, outcome.stdout.as_slice()),
        (0, b"OK\n".as_slice()),
        "{outcome:?}"
    );
    assert_eq!(call(&["get", "b", "--print-value-only"]).stdout, b"2\n");
    let without = etcdctl.call(&strings(&["--cacert", &files.ca, "put", "b", "3"]), b"");
    assert_ne!(without.exit_code, 0);
    assert_eq!(call(&["get", "b", "--print-value-only"]).stdout, b"2\n");
}

/// Everybody who differs from a good client in one thing.
fn refused(files: &Files) -> Vec<(&'static str, Option<Pair>)> {
    let sign = |wanted: &Wanted<'_>| Some(files.authority.sign(wanted));
    vec![
        ("no certificate", None),
        ("another authority", Some(Authority::new("authority").sign(&CLIENT))),
        ("expired", sign(&Wanted { is_expired: true, ..CLIENT })),
        ("revoked", sign(&Wanted { serial: 666, ..CLIENT })),
    ]
}

#[test]
fn whoever_shows_no_good_certificate_is_refused_on_every_listener() {
    let files = Files::new();
    let list = put(&files.directory, "revoked.crl", &files.authority.revoke(&[5, 666]));
    let (http, metrics) = (free_port(), free_port());
    let mut flags = files.flags_with_clients();
    flags.extend(strings(&["--client-crl-file", &text(&list)]));
    flags.extend(strings(&["--listen-client-http-urls", &format!("https://127.0.0.1:{http}")]));
    flags.extend(strings(&["--listen-metrics-urls", &format!("https://127.0.0.1:{metrics}")]));
    let server = start(&flags);
    let good = files.authority.sign(&CLIENT);
    block_on(async {
        put_key(&files.client(&server.client_address(), Some(&good)), "a", "1")
            .await
            .expect("good");
        for (who, pair) in refused(&files) {
            let client = files.client(&server.client_address(), pair.as_ref());
            let error = put_key(&client, "a", "2").await.expect_err(who);
            // How the end of a connection is told depends on how far its first call was.
            assert!(error.source().is_some(), "{who}: answered with {error:?}");
        }
    });
    assert!(
        server.wait_for_log("rejected connection on client endpoint", CALL_TIMEOUT),
        "{}",
        server.log()
    );
    let Some(curl) = Curl::find() else { return skip_or_fail("curl") };
    for port in [http, metrics] {
        assert_eq!(curl.health(&files, port, Some(&good)), "200");
        for (who, pair) in refused(&files) {
            assert_eq!(curl.health(&files, port, pair.as_ref()), "000", "{who} at {port}");
        }
    }
}

#[test]
fn only_allowed_names_may_connect() {
    for (flag, value) in
        [("--client-cert-allowed-hostname", "a.example"), ("--client-cert-allowed-cn", "alice,bob")]
    {
        let files = Files::new();
        let mut flags = files.flags_with_clients();
        flags.extend(strings(&[flag, value]));
        let server = start(&flags);
        let sign =
            |common_name, names| files.authority.sign(&Wanted { common_name, names, ..CLIENT });
        block_on(async {
            let good = sign("alice", &["a.example"]);
            let client = files.client(&server.client_address(), Some(&good));
            put_key(&client, "a", "1").await.expect("allowed");
            let bad = sign("eve", &["b.example"]);
            let client = files.client(&server.client_address(), Some(&bad));
            put_key(&client, "a", "2").await.expect_err("not allowed");
        });
        assert!(
            server.wait_for_log("client certificate authentication failed", CALL_TIMEOUT),
            "{}",
            server.log()
        );
    }
}

#[test]
fn the_common_name_of_a_certificate_is_the_user() {
    let files = Files::new();
    let server = start(&files.flags_with_clients());
    let as_user = |common_name| {
        let pair = files.authority.sign(&Wanted { common_name, ..CLIENT });
        files.client(&server.client_address(), Some(&pair))
    };
    block_on(async {
        let root = as_user("root");
        for name in ["root", "alice"] {
            let request = AuthUserAddRequest {
                name: name.into(),
                options: Some(varve_api::authpb::UserAddOptions { no_password: true }),
                ..AuthUserAddRequest::default()
            };
            let _: AuthUserAddResponse =
                root.unary(&method::AUTH_USER_ADD, request).await.expect("no users yet");
        }
        for (name, role) in [("root", "root"), ("alice", "reader")] {
            let request = AuthRoleAddRequest { name: role.into() };
            let _: AuthRoleAddResponse =
                root.unary(&method::AUTH_ROLE_ADD, request).await.expect("a new role");
            let request = AuthUserGrantRoleRequest { user: name.into(), role: role.into() };
            let _: AuthUserGrantRoleResponse =
                root.unary(&method::AUTH_USER_GRANT_ROLE, request).await.expect("granted");
        }
        let perm = Permission {
            perm_type: permission::Type::Read.into(),
            key: "a".into(),
            range_end: Default::default(),
        };
        let request = AuthRoleGrantPermissionRequest { name: "reader".into(), perm: Some(perm) };
        let _: AuthRoleGrantPermissionResponse =
            root.unary(&method::AUTH_ROLE_GRANT_PERMISSION, request).await.expect("granted");
        let _: AuthEnableResponse = root
            .unary(&method::AUTH_ENABLE, AuthEnableRequest {})
            .await
            .expect("authentication on");

        put_key(&root, "a", "1").await.expect("root may do all");
        let alice = as_user("alice");
        assert_eq!(value_of(&alice, "a").await.expect("alice may read"), "1");
        let denied = put_key(&alice, "a", "2").await.expect_err("alice may not write");
        assert_eq!(denied.message(), "etcdserver: permission denied");
        for nobody in ["eve", ""] {
            let denied = value_of(&as_user(nobody), "a").await.expect_err("no such user");
            assert!(denied.message().starts_with("etcdserver: "), "{nobody:?}: {denied:?}");
        }
    });
    // etcd's gateway takes nobody for the user of a certificate, and says so.
    let Some(curl) = find_in_path("curl") else { return skip_or_fail("curl") };
    let range = |common_name| {
        let pair = files.authority.sign(&Wanted { common_name, ..CLIENT });
        let (cert, key) = pair.write(&files.directory, "gateway");
        let mut command = std::process::Command::new(&curl);
        command.args(["-sS", "--max-time", "20", "--cacert", &files.ca, "-w", " %{http_code}"]);
        command.arg("--cert").arg(cert).arg("--key").arg(key).args(["-d", "{\"key\":\"YQ==\"}"]);
        let output = command.arg(format!("https://{}/v3/kv/range", server.client_address()));
        let output = output.output().expect("curl runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said + &String::from_utf8_lossy(&output.stdout)
    };
    let text = "CommonName of client sending a request against gateway will be ignored and not \
                used as expected\n 400";
    assert_eq!(range("root"), text);
    let nobody = range("");
    assert!(nobody.contains("etcdserver: user name is empty"), "{nobody}");
}

#[test]
fn plain_and_tls_are_served_side_by_side_and_on_one_port() {
    let files = Files::new();
    let server = start_made(|options| {
        let (port, other) = (options.client_port, free_port());
        let urls =
            format!("http://127.0.0.1:{port},https://127.0.0.1:{port},https://127.0.0.1:{other}");
        let mut flags = strings(&["--listen-client-urls", &urls]);
        flags.extend(strings(&["--advertise-client-urls", &format!("http://127.0.0.1:{port}")]));
        flags.extend(files.flags());
        flags
    });
    let flags = &server.options().extra_flags;
    let other = flags[1].rsplit(',').next().and_then(|url| url.strip_prefix("https://"));
    let other = other.expect("the last URL");
    block_on(async {
        let plain = Client::new(&server.client_address(), CALL_TIMEOUT);
        put_key(&plain, "a", "1").await.expect("in plain");
        for address in [server.client_address().as_str(), other] {
            let client = files.client(address, None);
            assert_eq!(value_of(&client, "a").await.expect("with TLS"), "1", "{address}");
        }
        let client = Client::new(other, CALL_TIMEOUT);
        put_key(&client, "a", "2").await.expect_err("a port with TLS only");
    });
    assert_eq!(server.http_get("/health").expect("in plain").0, 200);
}

#[test]
fn a_made_up_certificate_is_kept_over_a_restart() {
    let mut server = start(&strings(&["--auto-tls", "--self-signed-cert-validity", "2"]));
    let directory = server.options().data_directory.join("fixtures").join("client");
    let cert = std::fs::read_to_string(directory.join("cert.pem")).expect("made at the start");
    let Some(program) = Etcdctl::find() else { return skip_or_fail("etcdctl") };
    let endpoint = format!("https://{}", server.client_address());
    let etcdctl = Etcdctl::new(&program, &endpoint);
    let call =
        strings(&["--insecure-skip-tls-verify", "--insecure-transport=false", "put", "a", "1"]);
    let outcome = etcdctl.call(&call, b"");
    assert_eq!(outcome.exit_code, 0, "{outcome:?}");
    server.terminate();
    server.restart();
    let after = std::fs::read_to_string(directory.join("cert.pem")).expect("still there");
    assert_eq!(after, cert);
}

#[test]
fn plain_words_at_a_port_with_tls_are_cut_off() {
    let files = Files::new();
    let server = start(&files.flags());
    let mut plain = TcpStream::connect(server.client_address()).expect("it listens");
    plain.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    plain.write_all(b"GET /health HTTP/1.0\r\n\r\n").expect("written");
    let mut answer = Vec::new();
    // Whether the end is a reset depends on what was unread.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

/// What a handshake begins with, and too little of it.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// `VARVE_TLS_SILENT`, or 1000, and less if this process, or the server, may not have so many files.
fn silent_connections() -> usize {
    if let Ok(text) = std::env::var("VARVE_TLS_SILENT") {
        return text.parse().expect("VARVE_TLS_SILENT is a number");
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    files.map_or(1000, |files| (files.saturating_sub(300) / 2).min(1000))
}

#[test]
fn handshakes_that_are_never_made_end_in_time_and_others_go_on() {
    let files = Files::new();
    let server = start(&files.flags());
    let address = server.client_address();
    let count = silent_connections();
    let silent: Vec<TcpStream> = (0..count)
        .map(|number| {
            let mut stream = TcpStream::connect(&address).expect("it listens");
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            if number % 2 == 1 {
                stream.write_all(HALF_A_HELLO).expect("the server reads");
            }
            stream
        })
        .collect();
    let started = Instant::now();
    let ending = std::thread::spawn(move || {
        for mut stream in silent {
            let mut byte = [0];
            let end = stream.read(&mut byte);
            assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
            let timed_out = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            assert!(!timed_out, "a silent connection is open after {:?}", started.elapsed());
        }
    });
    let mut puts = 0;
    block_on(async {
        let client = files.client(&address, None);
        while puts < 20 || !ending.is_finished() {
            put_key(&client, "a", &puts.to_string()).await.expect("others go on");
            puts += 1;
            // One that comes now is served, too.
            if puts % 100 == 0 {
                let new = files.client(&address, None);
                assert_eq!(value_of(&new, "a").await.expect("others come"), (puts - 1).to_string());
            }
        }
    });
    ending.join().expect("all are closed");
    println!(
        "{count} silent connections, closed after {:?}, {puts} puts meanwhile",
        started.elapsed()
    );
}

#[test]
fn versions_and_cipher_suites_are_those_of_the_flags() {
    let Some(openssl) = find_in_path("openssl") else { return skip_or_fail("openssl") };
    let files = Files::new();
    let mut flags = files.flags();
    flags.extend(strings(&["--tls-max-version", "TLS1.2", "--cipher-suites"]));
    flags.push("TLS_RSA_WITH_AES_128_CBC_SHA,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384".to_owned());
    let server = start(&flags);
    let speaks = |more: &[&str]| {
        let mut command = std::process::Command::new(&openssl);
        command.args(["s_client", "-brief", "-connect", &server.client_address()]);
        command.args(more).stdin(std::process::Stdio::null());
        let output = command.output().expect("openssl runs");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(speaks(&[]).contains("TLSv1.2"), "{}", speaks(&[]));
    assert!(!speaks(&["-tls1_3"]).contains("CONNECTION ESTABLISHED"));
    assert!(speaks(&["-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"]).contains("ESTABLISHED"));
    assert!(!speaks(&["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]).contains("ESTABLISHED"));
    assert!(server.wait_for_log("cipher suite has no effect", CALL_TIMEOUT), "{}", server.log());
}

#[test]
fn unix_sockets_speak_tls_too() {
    let files = Files::new();
    let path = text(&files.directory.join("s"));
    let server = start_made(|options| {
        let plain = format!("http://127.0.0.1:{}", options.client_port);
        let mut flags = files.flags();
        let urls = format!("{plain},unixs://{path}");
        flags.extend(strings(&["--listen-client-urls", &urls, "--advertise-client-urls", &plain]));
        flags
    });
    let Some(curl) = find_in_path("curl") else { return skip_or_fail("curl") };
    let output = std::process::Command::new(curl)
        .args(["-s", "--unix-socket", &path, "--cacert", &files.ca, "https://localhost/health"])
        .output()
        .expect("curl runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"health\":\"true\""), "{output:?}");
    assert_eq!(server.http_get("/health").expect("in plain").0, 200);
}
