//! Bad input, given to real processes: flags, ports, directories, damage, full disks, requests and
//! peers. Each case ends in a clear error, and nothing that was acknowledged is lost.
//!
//! One idea: what a server refuses, it refuses with the exit code of etcd and with words that name
//! what was expected and what was found; afterwards the same data, put right, starts again and has
//! every write with its revision. No case may end in a panic.
//!
//! Cases that need root (mounts) or etcd are skipped with a message where those are not to be had.

#![expect(clippy::disallowed_methods, reason = "fills and damages what varve wrote through Disk")]

mod damage;
mod directories;
mod disks;
mod flags;
mod identity;
mod memory;
mod peers;
mod ports;
mod requests;
mod transport;

use std::path::Path;
use std::time::Duration;

use varve_api::etcdserverpb::{PutRequest, RangeRequest};
use varve_tests::grpc_client::Client;
use varve_tests::process::Server;

/// How long a server may take to refuse its start or to stop after a failure.
pub const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The exit code of a server that cannot start or go on.
pub const FAILURE: Option<i32> = Some(1);

/// A write as it was acknowledged.
pub struct Acknowledged {
    /// What was written,
    pub key: String,
    /// its value,
    pub value: String,
    /// and where it was acknowledged.
    pub revision: i64,
}

/// Runs a future to its end on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Puts `count` keys below `prefix`, one after the other, so that each is a frame of the log.
pub fn put_keys(server: &Server, prefix: &str, count: usize) -> Vec<Acknowledged> {
    block_on(async {
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        let mut acknowledged = Vec::new();
        for number in 0..count {
            let (key, value) = (format!("{prefix}/{number:04}"), format!("value of {number:04}"));
            let revision = put(&client, &key, &value).await.expect("a server that serves");
            acknowledged.push(Acknowledged { key, value, revision });
        }
        acknowledged
    })
}

/// One put; its revision.
pub async fn put(client: &Client, key: &str, value: &str) -> Result<i64, tonic::Status> {
    let request = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    };
    let response = client.put(request).await?;
    Ok(response.header.expect("every response has a header").revision)
}

/// Everything acknowledged is there, with its value and revision.
pub fn assert_keys(server: &Server, acknowledged: &[Acknowledged]) {
    block_on(async {
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        for write in acknowledged {
            let request = RangeRequest { key: write.key.clone().into(), ..RangeRequest::default() };
            let response = client.range(request).await.expect("a server that serves");
            let found: Vec<_> =
                response.kvs.iter().map(|kv| (kv.value.clone(), kv.mod_revision)).collect();
            assert_eq!(found, [(write.value.clone().into(), write.revision)], "{}", write.key);
        }
    });
}

/// Starts a stopped server again; it must end by itself with code 1 and say all of `texts`.
pub fn assert_refuses_restart(server: &mut Server, texts: &[&str]) {
    server.restart_unawaited();
    assert_ends(server, texts);
}

/// A server ends by itself with code 1 and has said all of `texts`.
pub fn assert_ends(server: &mut Server, texts: &[&str]) {
    let Some(status) = server.wait_exit(EXIT_TIMEOUT) else {
        panic!("it runs, expected a refusal with {texts:?}:\n{}", server.log());
    };
    let log = server.log();
    assert_eq!(status.code(), FAILURE, "{texts:?}: {status}\n{log}");
    for text in texts {
        assert!(log.contains(text), "expected {text:?} in:\n{log}");
    }
    assert_no_panic(&log);
}

/// Bad input is refused, never a panic.
pub fn assert_no_panic(log: &str) {
    assert!(!log.contains("panicked at"), "{log}");
}

/// Replaces one file by what `change` makes of its bytes; gives the bytes it had.
pub fn change_file(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let before = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut bytes = before.clone();
    change(&mut bytes);
    std::fs::write(path, bytes).expect("the test's own file");
    before
}
