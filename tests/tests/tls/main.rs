//! TLS as clients, members and operators see it: real servers, certificates made by the test, and
//! etcd's own command line client where it is to be had.
//!
//! One idea: every rule is shown from both sides. Who may connect does, and whoever differs in one
//! thing only (another authority, an expired or revoked certificate, none at all) does not.
//!
//! `VARVE_TLS_ROTATIONS` and `VARVE_TLS_SILENT` say how often certificates are replaced under load
//! and how many connections say nothing.

mod clients;
mod command_lines;
mod members;
mod rotation;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use varve_api::etcdserverpb::{PutRequest, RangeRequest};
use varve_tests::certificates::{Authority, Pair, SERVER, put};
use varve_tests::grpc_client::Client;
use varve_tests::process::{Options, Program, Server, find_in_path, fresh_directory};

/// How long one call may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a start is repeated because another process took a port.
const START_ATTEMPTS_MAX: usize = 3;

/// An authority with a server's certificate on the disk.
pub(crate) struct Files {
    pub(crate) authority: Authority,
    pub(crate) directory: PathBuf,
    pub(crate) ca: String,
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Files {
    pub(crate) fn new() -> Files {
        let (authority, directory) = (Authority::new("authority"), fresh_directory("tls"));
        let (cert, key) = authority.sign(&SERVER).write(&directory, "server");
        let ca = put(&directory, "ca.crt", authority.pem().as_bytes());
        Files { ca: text(&ca), cert: text(&cert), key: text(&key), authority, directory }
    }

    /// Flags that name the server's certificate.
    pub(crate) fn flags(&self) -> Vec<String> {
        strings(&["--cert-file", &self.cert, "--key-file", &self.key])
    }

    /// And those that ask clients for one of the same authority.
    pub(crate) fn flags_with_clients(&self) -> Vec<String> {
        let mut flags = self.flags();
        flags.extend(strings(&["--client-cert-auth", "--trusted-ca-file", &self.ca]));
        flags
    }

    /// A client that trusts the authority and shows `pair`.
    pub(crate) fn client(&self, address: &str, pair: Option<&Pair>) -> Client {
        Client::over_tls(address, CALL_TIMEOUT, client_tls(&self.authority, pair))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// curl, which asks listeners that speak no gRPC.
pub(crate) struct Curl(PathBuf);

impl Curl {
    pub(crate) fn find() -> Option<Curl> {
        find_in_path("curl").map(Curl)
    }

    /// The status of `/health` for who shows `pair`; 000 for no answer.
    pub(crate) fn health(&self, files: &Files, port: u16, pair: Option<&Pair>) -> String {
        let mut command = std::process::Command::new(&self.0);
        command.args(["-s", "--max-time", "20", "--cacert", &files.ca, "-o", "/dev/null"]);
        command.args(["-w", "%{http_code}"]);
        if let Some(pair) = pair {
            let (cert, key) = pair.write(&files.directory, "curl");
            command.arg("--cert").arg(cert).arg("--key").arg(key);
        }
        let output = command.arg(format!("https://127.0.0.1:{port}/health")).output();
        String::from_utf8_lossy(&output.expect("curl runs").stdout).into_owned()
    }
}

pub(crate) fn client_tls(authority: &Authority, pair: Option<&Pair>) -> ClientTlsConfig {
    let tls = ClientTlsConfig::new()
        .domain_name("localhost")
        .ca_certificate(Certificate::from_pem(authority.pem()));
    match pair {
        None => tls,
        Some(pair) => tls.identity(Identity::from_pem(&pair.certificate, &pair.key)),
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Starts a member whose client URL is https, with more flags.
pub(crate) fn start(flags: &[String]) -> Server {
    start_made(|options| {
        let url = format!("https://127.0.0.1:{}", options.client_port);
        let mut all = strings(&["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        all.extend_from_slice(flags);
        all
    })
}

/// Starts a member with flags that are made of its ports.
pub(crate) fn start_made(flags: impl Fn(&Options) -> Vec<String>) -> Server {
    for _ in 0..START_ATTEMPTS_MAX {
        let mut options = Options::single("tls");
        options.extra_flags = flags(&options);
        match Server::start_with(&Program::varve(), options) {
            Ok(server) => return server,
            Err(log) if log.contains("address already in use") => {}
            Err(log) => panic!("does not serve:\n{log}"),
        }
    }
    panic!("{START_ATTEMPTS_MAX} times another process took a port");
}

/// Runs a future to its end on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

pub(crate) async fn put_key(client: &Client, key: &str, value: &str) -> Result<(), tonic::Status> {
    let request = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    };
    client.put(request).await.map(drop)
}

pub(crate) async fn value_of(client: &Client, key: &str) -> Result<String, tonic::Status> {
    let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
    let found = client.range(request).await?.kvs;
    Ok(found
        .first()
        .map_or(String::new(), |pair| String::from_utf8_lossy(&pair.value).into_owned()))
}
