//! Every call that the log of a real server makes fails once, with EIO and with ENOSPC.
//!
//! One idea: the calls are known from a run in which none fails; a *site* is a call on a file of a
//! certain name, met for the first time or in the middle of the run. Then the server runs once for
//! each site with that one call failing (`shim.c`, loaded in front of the C library), and:
//!
//! - of the writes that began after the failure, none is acknowledged;
//! - the process ends, with code 1, naming the file and what the system said; how long it took is
//!   printed, and is less than a second on a machine that is not overloaded;
//! - started again with a disk that works, it has everything acknowledged.
//!
//! One failure is meant to be survived: no room for the file that backends are tried on. A disk that
//! stalls instead of failing is in `stall`, one that is slow in `slow`.
//!
//! Failures of every call in simulation, torn and half made, are in `wal/tests/log/fault.rs`; full
//! and read-only file systems in `tests/tests/bad_input/disks.rs`.
//!
//! The backends that a shim can reach are run; io_uring's calls are no functions of the C library,
//! and fail in simulation only. Every `cargo test` makes each kind of call fail once, and a frame of
//! each backend; all sites, with both errors, are
//!
//! ```sh
//! VARVE_LONG=1 cargo test -p varve-tests --test log_faults -- --nocapture
//! ```

mod slow;
mod stall;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use varve_api::etcdserverpb::{PutRequest, RangeRequest};
use varve_tests::grpc_client::Client;
use varve_tests::process::{Options, Program, Server, fresh_directory};

const CALL_TIMEOUT: Duration = Duration::from_secs(20);
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
/// What is promised is a second; the rest is for a machine that has much else to do.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// What a shim can make fail.
const BACKENDS: [&str; 3] = ["dsync", "buffered-dsync", "fdatasync"];
const ERRORS: [(i32, &str); 2] =
    [(libc::EIO, "Input/output error"), (libc::ENOSPC, "No space left on device")];
const VALUE_BYTES: usize = 4 << 20;
/// Two segments of 64 MiB and a bit are filled, so that one is begun and one is given up.
const WRITES: usize = 36;
/// Half a segment, which has every kind of call, too.
const WRITES_SHORT: usize = 8;

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
    let directory = fresh_directory("log-faults");
    let Some(shim) = build_shim(&directory) else { return };
    let results: Vec<(usize, Duration)> = std::thread::scope(|scope| {
        let (shim, directory) = (&shim, &directory);
        let start = |backend| scope.spawn(move || run(shim, directory, backend));
        let threads: Vec<_> = BACKENDS.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("nothing is lost")).collect()
    });
    let runs: usize = results.iter().map(|(runs, _)| runs).sum();
    let slowest = results.iter().map(|(_, slowest)| *slowest).max().expect("three backends");
    println!("{runs} calls failed, one in each run; the slowest end took {slowest:?}");
    std::fs::remove_dir_all(&directory).expect("the test's own directory");
}

/// Makes the calls of one backend fail; how many, and the slowest end.
fn run(shim: &Path, directory: &Path, backend: &str) -> (usize, Duration) {
    let directory = directory.join(backend);
    std::fs::create_dir(&directory).expect("the test's own directory");
    let sites = sites(shim, &directory, backend);
    let mut runs = Vec::new();
    for site in &sites {
        // A disk without room for the probe is written to without a measurement.
        let is_tolerated = |errno| site.name == "probe.tmp" && errno == libc::ENOSPC;
        runs.extend(
            ERRORS.iter().filter(|(errno, _)| !is_tolerated(*errno)).map(|with| (site, with)),
        );
    }
    if !is_long() {
        runs = sample(&runs, backend);
    }
    println!("{backend}: {} failures at {} sites: {}", runs.len(), sites.len(), describe(&sites));
    let ends = runs
        .iter()
        .map(|(site, (errno, words))| fail(shim, &directory, backend, site, *errno, words));
    (runs.len(), ends.max().expect("a backend writes"))
}

type Run<'a> = (&'a Site, &'a (i32, &'a str));

/// Of each kind of call one, with one error or the other, and a frame in the middle of the run; of
/// the second and third backend only the frame, for that is what differs.
fn sample<'a>(runs: &[Run<'a>], backend: &str) -> Vec<Run<'a>> {
    let is_frame = |site: &Site| site.name.ends_with(".wal") && site.call.starts_with("pwrite");
    let frame = runs.iter().find(|(site, _)| is_frame(site) && site.count > 1);
    let mut sampled = vec![*frame.expect("the log writes frames")];
    if backend == BACKENDS[0] {
        let calls: BTreeSet<&str> = runs.iter().map(|(site, _)| site.call.as_str()).collect();
        for (number, call) in calls.into_iter().enumerate() {
            let of_call = runs.iter().filter(|(site, _)| site.call == call);
            let mut of_error = of_call.clone().filter(|(_, with)| with.0 == ERRORS[number % 2].0);
            let chosen = of_error.next().or_else(|| of_call.clone().next());
            sampled.push(*chosen.expect("a site of each call"));
        }
    }
    sampled
}

fn is_long() -> bool {
    std::env::var_os("VARVE_LONG").is_some_and(|value| value == "1")
}

fn writes_wanted() -> usize {
    if is_long() { WRITES } else { WRITES_SHORT }
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
    assert_eq!(acknowledged.len(), writes_wanted(), "{}", server.log());
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
        // How often the probe writes depends on how fast the disk is today.
        if count >= 4 && name != "probe.tmp" {
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
    for number in 0..writes_wanted() {
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
