//! Every call that the log of a real server makes fails once, with EIO and with ENOSPC.
//!
//! One idea: the calls are known from a run in which none fails; a *site* is a call on a file of a
//! certain name, met for the first time or in the middle of the run. Then the server runs once for
//! each site with that one call failing (`shim.c`, loaded in front of the C library), and:
//!
//! - of the writes that began after the failure, none is acknowledged;
//! - the process ends within a second, with code 1, naming the file and what the system said;
//! - started again with a disk that works, it has everything acknowledged.
//!
//! One failure is meant to be survived: no room for the file that backends are tried on.
//!
//! Failures of every call in simulation, torn and half made, are in `wal/tests/log/fault.rs`; full
//! and read-only file systems in `tests/tests/bad_input/disks.rs`.
//!
//! The backends that a shim can reach are run; io_uring's calls are no functions of the C library.
//! Every `cargo test` takes a site with one of the two errors; `VARVE_LONG=1` takes both:
//!
//! ```sh
//! VARVE_LONG=1 cargo test -p varve-tests --test log_faults -- --nocapture
//! ```

#![expect(clippy::disallowed_methods, reason = "reads what the shim wrote")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use varve_api::etcdserverpb::{PutRequest, RangeRequest};
use varve_tests::grpc_client::Client;
use varve_tests::process::{Options, Program, Server, fresh_directory};

const CALL_TIMEOUT: Duration = Duration::from_secs(20);
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
/// One second to stop, and one more for a slow machine.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Two segments of 64 MiB and a bit are filled, so that one is begun and one is given up.
const VALUE_BYTES: usize = 4 << 20;
const WRITES: usize = 36;

/// A call on a file of this name, and how often it was met when it fails.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Site {
    call: String,
    name: String,
    count: usize,
}

/// A write that was acknowledged.
struct Acknowledged {
    key: String,
    revision: i64,
    began: SystemTime,
}

#[test]
fn a_call_of_the_log_that_fails_stops_the_server_and_loses_nothing() {
    let is_long = std::env::var_os("VARVE_LONG").is_some_and(|value| value == "1");
    let directory = fresh_directory("log-faults");
    let Some(shim) = build_shim(&directory) else { return };
    let mut runs = 0;
    let mut slowest = Duration::ZERO;
    for backend in ["dsync", "fdatasync"] {
        let sites = sites(&shim, &directory, backend);
        for (number, site) in sites.iter().enumerate() {
            // What differs between backends is how a frame is written.
            let is_of_frames = site.name.ends_with(".wal");
            if backend != "dsync" && !is_of_frames && !is_long {
                continue;
            }
            for (which, errno, words) in
                [(0, libc::EIO, "Input/output error"), (1, libc::ENOSPC, "No space left on device")]
            {
                // A disk without room for the probe is written to without a measurement.
                let is_tolerated = site.name == "probe.tmp" && errno == libc::ENOSPC;
                if !is_tolerated && (is_long || number % 2 == which || site.name == "probe.tmp") {
                    let took = fail(&shim, &directory, backend, site, errno, words);
                    slowest = slowest.max(took);
                    runs += 1;
                }
            }
        }
        println!("{backend}: {} sites: {}", sites.len(), describe(&sites));
    }
    println!("{runs} calls failed, one in each run; the slowest end took {slowest:?}");
    std::fs::remove_dir_all(&directory).expect("the test's own directory");
}

fn describe(sites: &[Site]) -> String {
    let names = sites.iter().map(|site| format!("{} {} #{}", site.call, site.name, site.count));
    names.collect::<Vec<_>>().join(", ")
}

/// `None`, with a reason, where there is no C compiler. Rust's linker is one.
fn build_shim(directory: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/log_faults/shim.c");
    let shim = directory.join("shim.so");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-U_FORTIFY_SOURCE", "-o"]).arg(&shim).arg(&source);
    match command.args(["-ldl", "-lpthread"]).status() {
        Ok(status) => {
            assert!(status.success(), "{} does not compile", source.display());
            Some(shim)
        }
        Err(error) => {
            eprintln!("SKIPPED: no C compiler (cc): {error}");
            None
        }
    }
}

fn options(shim: &Path, log: &Path, backend: &str, fault: Option<(&Site, i32)>) -> Options {
    let mut options = Options::single("log-faults");
    let flags = [
        ["--experimental-varve-log-backend", backend],
        ["--max-request-bytes", "8000000"],
        ["--snapshot-count", "10"],
        ["--snapshot-catchup-entries", "2"],
    ];
    options.extra_flags = flags.concat().into_iter().map(str::to_owned).collect();
    // A shim for the server alone: what launches it would count, too.
    let mut launcher = vec!["env".to_owned(), format!("LD_PRELOAD={}", shim.display())];
    launcher.push(format!("VARVE_FAULT_DIRECTORY={}", log_directory(&options).display()));
    launcher.push(format!("VARVE_FAULT_LOG={}", log.display()));
    if let Some((site, errno)) = fault {
        let Site { call, name, count } = site;
        launcher.push(format!("VARVE_FAULT_AT={call} {name} {count} {errno}"));
    }
    options.launcher = launcher;
    options
}

fn log_directory(options: &Options) -> PathBuf {
    options.data_directory.join("member/log")
}

/// The sites of a run without a failure: of each call on each name the first, and one in the middle
/// of the run.
fn sites(shim: &Path, directory: &Path, backend: &str) -> Vec<Site> {
    let log = directory.join("calls");
    let _ = std::fs::remove_file(&log);
    let options = options(shim, &log, backend, None);
    let server = Server::start_with(&Program::varve(), options).expect("it serves");
    let acknowledged = block_on(write(&server));
    assert_eq!(acknowledged.len(), WRITES, "{}", server.log());
    drop(server);
    let text = std::fs::read_to_string(&log).expect("the shim was loaded and met the log's calls");
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(call), Some(name)) = (words.next(), words.next()) else { continue };
        *counts.entry((call.to_owned(), name.to_owned())).or_default() += 1;
    }
    let mut sites = Vec::new();
    for ((call, name), count) in counts {
        sites.push(Site { call: call.clone(), name: name.clone(), count: 1 });
        if count >= 4 {
            sites.push(Site { call, name, count: count / 2 });
        }
    }
    for call in ["create", "rename", "fsync", "fdatasync", "pwrite", "fallocate"] {
        assert!(sites.iter().any(|site| site.call == call), "{call}: {text}");
    }
    sites
}

/// Runs the server with one call failing; how long it took from there to its end.
fn fail(
    shim: &Path,
    directory: &Path,
    backend: &str,
    site: &Site,
    errno: i32,
    words: &str,
) -> Duration {
    let log = directory.join("calls");
    let _ = std::fs::remove_file(&log);
    let options = options(shim, &log, backend, Some((site, errno)));
    let context = format!("{backend}, {site:?}, {words}");
    let mut server = Server::spawn(&Program::varve(), options.clone());
    let is_serving = server.wait_for_log("ready to serve client requests", EXIT_TIMEOUT);
    let acknowledged = if is_serving { block_on(write(&server)) } else { Vec::new() };
    let status = server.wait_exit(EXIT_TIMEOUT);
    let ended = SystemTime::now();
    let text = server.log();
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{context}:\n{text}");
    let calls = std::fs::read_to_string(&log).expect("the shim was loaded");
    let failed = calls.lines().find(|line| line.starts_with("FAILED"));
    let failed = failed.unwrap_or_else(|| panic!("{context}: the call was not met"));
    let nanoseconds = failed.rsplit(' ').next().and_then(|number| number.parse().ok());
    let failed = SystemTime::UNIX_EPOCH
        + Duration::from_nanos(nanoseconds.expect("the shim writes the time last"));
    for said in [words, "member/log"] {
        assert!(text.contains(said), "{context}: expected {said:?} in:\n{text}");
    }
    assert!(!text.contains("panicked at"), "{context}:\n{text}");
    for write in &acknowledged {
        assert!(write.began <= failed, "{context}: {} began after the failure", write.key);
    }
    let took = ended.duration_since(failed).expect("it ended after the failure");
    assert!(took < STOP_WITHIN, "{context}: it stopped after {took:?}:\n{text}");
    drop_shim_and_restart(options, &acknowledged, &context, server);
    took
}

/// With a disk that works, all is there, and it goes on.
fn drop_shim_and_restart(
    mut options: Options,
    acknowledged: &[Acknowledged],
    context: &str,
    stopped: Server,
) {
    options.launcher.clear();
    let again = Server::start_with(&Program::varve(), options)
        .unwrap_or_else(|log| panic!("{context}: it does not start again:\n{log}"));
    block_on(async {
        let client = Client::new(&again.client_address(), CALL_TIMEOUT);
        for write in acknowledged {
            let key = write.key.clone().into();
            let request = RangeRequest { key, ..RangeRequest::default() };
            let response = client.range(request).await.expect(context);
            let found: Vec<_> = response.kvs.iter().map(|kv| kv.mod_revision).collect();
            assert_eq!(found, [write.revision], "{context}: {}", write.key);
        }
        put(&client, "after", 10).await.expect(context);
    });
    // Its data directory is that of the one that runs.
    drop(stopped);
}

/// Writes until it has written enough or a write fails; what was acknowledged.
async fn write(server: &Server) -> Vec<Acknowledged> {
    let client = Client::new(&server.client_address(), CALL_TIMEOUT);
    let mut acknowledged = Vec::new();
    for number in 0..WRITES {
        let (key, began) = (format!("key/{number:04}"), SystemTime::now());
        match put(&client, &key, VALUE_BYTES).await {
            Ok(revision) => acknowledged.push(Acknowledged { key, revision, began }),
            Err(_) => break,
        }
    }
    acknowledged
}

async fn put(client: &Client, key: &str, value_bytes: usize) -> Result<i64, tonic::Status> {
    let request = PutRequest {
        key: key.to_owned().into(),
        value: vec![b'v'; value_bytes].into(),
        ..PutRequest::default()
    };
    let response = client.put(request).await?;
    Ok(response.header.expect("every response has a header").revision)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}
