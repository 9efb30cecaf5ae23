//! The same etcdctl calls against varve and against etcd, compared byte for byte.
//!
//! One idea: what etcd does is the specification, so it is asked. Each file of `differential/` is
//! a script (`etcdctl_script` explains it) run on two fresh servers; its name says what it shows.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `VARVE_BIN` | the server under test; default: varve as built |
//! | `VARVE_PEER_ETCD`, `VARVE_PEER_ETCDCTL` | the peer and the client; default: those in `PATH` |
//! | `VARVE_SCRIPT` | only scripts whose name contains this |
//!
//! Notes `differs:` are written for Debian's etcdctl 3.4. With a newer client they are held
//! against nothing: then the peer must be a current etcd, and both must agree.
//!
//! What it does not do: tests of what etcdctl cannot ask for; see `go_client` and `rust_client`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use varve_tests::etcdctl::Etcdctl;
use varve_tests::etcdctl_compare::{Side, compare, differences, run_script};
use varve_tests::etcdctl_script::Script;
use varve_tests::process::{Options, Program, Server, skip_or_fail};

/// Scripts that run at the same time; each has two servers, which mostly wait.
const SCRIPTS_AT_ONCE: usize = 3;
/// Scripts that varve must pass.
const DIRECTORY: &str = "differential";
/// What the scripts promise together.
const CALLS_MIN: usize = 900;

/// The scripts of a directory below `tests`, by name.
fn scripts(directory: &str) -> Vec<(String, Script)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut scripts: Vec<(String, Script)> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("the directory is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a script is UTF-8 text");
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            let script = Script::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, script)
        })
        .collect();
    scripts.sort_by(|left, right| left.0.cmp(&right.0));
    scripts
}

fn client_is_current(etcdctl: &Path) -> bool {
    let output = Command::new(etcdctl).arg("version").output().expect("etcdctl runs");
    !String::from_utf8_lossy(&output.stdout).contains("etcdctl version: 3.4")
}

fn peer_and_client() -> Option<(Side, PathBuf)> {
    let (Some(etcd), Some(etcdctl)) = (Program::etcd(), Etcdctl::find()) else {
        skip_or_fail("Debian's etcd and etcdctl (packages etcd-server, etcd-client)");
        return None;
    };
    Some((Side::of(etcd), etcdctl))
}

#[test]
fn scripts_make_at_least_900_calls() {
    let calls: usize = scripts(DIRECTORY).iter().map(|(_, script)| script.calls()).sum();
    println!("{calls} calls of etcdctl");
    assert!(calls >= CALLS_MIN, "{calls}");
}

#[test]
fn two_etcds_agree_and_a_planted_difference_is_found() {
    let Some((peer, etcdctl)) = peer_and_client() else { return };
    let text = "put a 1\nlet l = lease grant 60\nput b 2 --lease=$l\nget '' --prefix -w json\n\
                member list\nstart w: watch a --rev=1 -w json\nawait w 1\nstop w\n";
    let script = Script::parse(text).expect("the script is well formed");
    let report = differences(&script, &etcdctl, &peer, &peer);
    assert!(report.is_empty(), "{}", report.join("\n"));

    let planted = Script::parse(&text.replace("put a 1", "put a 7")).expect("well formed");
    let sides = [&script, &planted].map(|script| run_script(script, &etcdctl, &peer.program));
    let report = compare(&script, &sides[0], &sides[1], peer.is_current);
    let lines: Vec<bool> =
        ["line 4:", "line 8:"].iter().map(|l| report.iter().any(|r| r.starts_with(l))).collect();
    assert_eq!((report.len(), lines), (2, vec![true, true]), "{}", report.join("\n"));
}

/// Ids depend on the peer URLs and the token alone, so a cluster may change its program.
#[test]
fn member_and_cluster_ids_are_those_etcd_computes() {
    let Some((peer, etcdctl)) = peer_and_client() else { return };
    let mut options = Options::single("ids");
    options.token = "a token of its own".into();
    let list = |program: &Program, name: &str| {
        let mut options = options.clone();
        options.name = name.into();
        options.initial_cluster = format!("{name}=http://127.0.0.1:{}", options.peer_port);
        let server = Server::start_with(program, options).unwrap_or_else(|log| panic!("{log}"));
        let arguments = ["member", "list", "-w", "json"].map(str::to_owned);
        let outcome = Etcdctl::new(&etcdctl, &server.client_address()).call(&arguments, b"");
        let text = String::from_utf8_lossy(&outcome.stdout).replace(name, "<name>");
        text.split("\"raft_term\"").next().expect("split gives a part").to_owned()
    };
    let theirs = list(&peer.program, "one");
    assert!(theirs.contains("cluster_id") && theirs.contains("member_id"), "{theirs}");
    assert_eq!(list(&Program::varve(), "two"), theirs);
}

#[test]
fn varve_answers_every_call_of_etcdctl_as_etcd_does() {
    let Some((peer, etcdctl)) = peer_and_client() else { return };
    let subject = Side::of(Program::varve());
    let only = std::env::var("VARVE_SCRIPT").unwrap_or_default();
    let mut scripts: Vec<(String, Script)> =
        scripts(DIRECTORY).into_iter().filter(|(name, _)| name.contains(&only)).collect();
    if client_is_current(&etcdctl) {
        assert!(peer.is_current, "a current etcdctl needs a current etcd: set VARVE_PEER_ETCD");
        scripts.iter_mut().for_each(|(_, script)| script.drop_notes());
    }
    // Two of the same kind (to try the harness) agree, notes or not.
    if !subject.is_current && !peer.is_current {
        scripts.iter_mut().for_each(|(_, script)| script.drop_notes());
    }
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SCRIPTS_AT_ONCE {
            scope.spawn(|| {
                while let Some((name, script)) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    let found = differences(script, &etcdctl, &subject, &peer);
                    println!("{name}: {} calls, {:.1?}", script.calls(), start.elapsed());
                    let found = found.iter().map(|report| format!("{name}.txt {report}"));
                    failures.lock().expect("no panic under this lock").extend(found);
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no panic under this lock");
    failures.sort();
    assert!(
        failures.is_empty(),
        "{} of the calls differ ({} against {}):\n\n{}",
        failures.len(),
        subject.program.path.display(),
        peer.program.path.display(),
        failures.join("\n")
    );
}
