//! Command lines: one that kubeadm writes starts unchanged, and what is wrong with files is said.

use std::process::{Command, Stdio};
use std::time::Duration;

use varve_tests::certificates::{Authority, CLIENT, SERVER, put};
use varve_tests::process::{Program, free_port, skip_or_fail, wait_bounded};

use crate::{Files, block_on, put_key, start_made, strings, text};

#[test]
fn a_command_line_of_kubeadm_starts_unchanged() {
    let files = Files::new();
    let metrics = free_port();
    let server = start_made(|options| {
        let client = format!("https://127.0.0.1:{}", options.client_port);
        let peer = format!("https://127.0.0.1:{}", options.peer_port);
        [
            format!("--advertise-client-urls={client}"),
            format!("--cert-file={}", files.cert),
            "--client-cert-auth=true".to_owned(),
            "--experimental-initial-corrupt-check=true".to_owned(),
            "--experimental-watch-progress-notify-interval=5s".to_owned(),
            "--feature-gates=InitialCorruptCheck=true".to_owned(),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}={peer}", options.name),
            format!("--key-file={}", files.key),
            format!("--listen-client-urls={client}"),
            format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"),
            format!("--listen-peer-urls={peer}"),
            format!("--peer-cert-file={}", files.cert),
            "--peer-client-cert-auth=true".to_owned(),
            format!("--peer-key-file={}", files.key),
            format!("--peer-trusted-ca-file={}", files.ca),
            "--snapshot-count=10000".to_owned(),
            format!("--trusted-ca-file={}", files.ca),
        ]
        .into()
    });
    block_on(async {
        let pair = files.authority.sign(&CLIENT);
        let client = files.client(&server.client_address(), Some(&pair));
        put_key(&client, "a", "1").await.expect("as the API server would");
    });
    // The probes of the static pod.
    for path in ["/health?exclude=NOSPACE&serializable=true", "/livez", "/readyz", "/metrics"] {
        assert_eq!(get(metrics, path), 200, "{path}");
    }
}

fn get(port: u16, path: &str) -> u16 {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status")
}

/// Starts a program with these flags behind those of a sound start; exit code and output.
fn run(program: &Program, files: &Files, flags: &[String]) -> (Option<i32>, String) {
    let (client, peer) = (free_port(), free_port());
    let client = format!("https://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    let data = files.directory.join("data");
    let mut command = Command::new(&program.path);
    command.args(["--name", "m", "--data-dir"]).arg(&data);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("m={peer}")]).args(flags);
    let output = files.directory.join("output");
    let file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).open(&output);
    let file = file.expect("a fresh directory");
    command.stdin(Stdio::null()).stdout(file.try_clone().expect("one more handle")).stderr(file);
    let mut child = command.spawn().expect("the program starts");
    let status = wait_bounded(&mut child, Duration::from_secs(20));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = String::from_utf8_lossy(&std::fs::read(&output).expect("written")).into_owned();
    let _ = std::fs::remove_dir_all(&data);
    (status.and_then(|status| status.code()), text)
}

#[test]
fn what_is_wrong_with_files_is_said_with_etcds_exit_code() {
    let files = Files::new();
    let other = Authority::new("other").sign(&SERVER);
    let other_key = text(&put(&files.directory, "other.key", other.key.as_bytes()));
    let garbage = text(&put(&files.directory, "garbage", b"no certificate"));
    let (cert, key, ca) = (files.cert.as_str(), files.key.as_str(), files.ca.as_str());
    let with = |more: &[&str]| {
        let mut flags = files.flags();
        flags.extend(strings(more));
        flags
    };
    let cases: Vec<(Vec<String>, &str)> = vec![
        (vec![], "TLS key/cert (--cert-file, --key-file) must be provided for client url https://"),
        (
            strings(&["--cert-file", cert]),
            "KeyFile and CertFile must both be present[key: , cert: ",
        ),
        (strings(&["--key-file", key]), "KeyFile and CertFile must both be present[key: /"),
        (
            strings(&["--cert-file", "/nonexistent/a.crt", "--key-file", key]),
            "open /nonexistent/a.crt: no such file or directory",
        ),
        (
            strings(&["--cert-file", cert, "--key-file", &other_key]),
            "private key does not match public key",
        ),
        (strings(&["--cert-file", &garbage, "--key-file", key]), "expected a certificate in PEM"),
        (strings(&["--cert-file", cert, "--key-file", &garbage]), "expected a private key in PEM"),
        (with(&["--trusted-ca-file", "/nonexistent/ca.crt"]), "open /nonexistent/ca.crt: no such"),
        (
            with(&["--client-cert-file", cert]),
            "ClientKeyFile and ClientCertFile must both be present",
        ),
        (with(&["--cipher-suites", "TLS_NONE"]), "unexpected TLS cipher suite"),
        (with(&["--tls-min-version", "TLS1.1"]), "unexpected TLS version"),
        (
            with(&["--tls-min-version", "TLS1.3", "--tls-max-version", "TLS1.2"]),
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            with(&["--tls-min-version", "TLS1.3", "--cipher-suites", "TLS_AES_128_GCM_SHA256"]),
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            with(&["--listen-peer-urls", "https://127.0.0.1:1"]),
            "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
        (
            with(&["--peer-cert-file", cert, "--peer-key-file", "/nonexistent/p.key"]),
            "open /nonexistent/p.key: no such file or directory",
        ),
        (
            strings(&["--auto-tls", "--self-signed-cert-validity", "0"]),
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
    ];
    let etcd = Program::etcd();
    if etcd.is_none() {
        skip_or_fail("etcd to compare exit codes with");
    }
    for (flags, says) in &cases {
        let (code, output) = run(&Program::varve(), &files, flags);
        assert_eq!(code, Some(1), "{flags:?}:\n{output}");
        assert!(output.contains(says), "{flags:?}: {says:?} in:\n{output}");
        assert!(!output.contains("panicked"), "{output}");
        // Flags that are younger than 3.4 have no older opinion.
        let is_young = |flag: &String| {
            flag.starts_with("--tls-")
                || flag.starts_with("--self-")
                || flag.starts_with("--client-cert-file")
        };
        if let Some(etcd) = etcd.as_ref().filter(|_| !flags.iter().any(is_young)) {
            let (etcds, text) = run(etcd, &files, flags);
            assert_eq!(code, etcds, "{flags:?}: etcd says\n{text}");
        }
    }
    // Beyond what etcd asks: lists and authorities that would let nobody in are found at the start.
    for (flags, says) in [
        (with(&["--trusted-ca-file", &garbage]), "garbage: expected a certificate in PEM"),
        (
            with(&["--trusted-ca-file", ca, "--client-crl-file", &garbage]),
            "garbage: expected a certificate revocation list",
        ),
    ] {
        let (code, output) = run(&Program::varve(), &files, &flags);
        assert_eq!(code, Some(1), "{flags:?}:\n{output}");
        assert!(output.contains(says), "{flags:?}: {says:?} in:\n{output}");
    }
}
