//! Backups both ways between varve and a real etcd: saved by one, restored and served by the other.
//!
//! One idea: the same questions are put to the server that was saved and to the one that was
//! restored - every key at several revisions, the history, leases, users, roles - and must have the
//! same answers. A damaged file must be refused by name.
//!
//! Needs `etcd` and `etcdctl` (3.4, which still restores); without them it is skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use varve_tests::etcdctl::Etcdctl;
use varve_tests::process::{Options, Program, Server, fresh_directory, skip_or_fail};

/// The programs of etcd, if they are there and of the release that restores with `etcdctl`.
fn etcd() -> Option<(Program, PathBuf)> {
    let found = Program::etcd().zip(Etcdctl::find());
    let found = found.filter(|(etcd, _)| etcd.version().is_some_and(|version| version < (3, 6)));
    if found.is_none() {
        skip_or_fail("etcd and etcdctl before 3.6");
    }
    found
}

fn call(etcdctl: &Etcdctl, line: &str) -> String {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let outcome = etcdctl.call(&words, b"");
    let error = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert_eq!(outcome.exit_code, 0, "{line}: {error}");
    String::from_utf8_lossy(&outcome.stdout).into_owned()
}

/// Keys with history, deletions, a lease, a compaction, users; ends at revision 14.
fn fill(etcdctl: &Etcdctl) {
    for line in [
        "put a 1",
        "put b 1",
        "put a 2",
        "del b",
        "put c 1",
        "lease grant 100000",
        "put dir/x 1",
        "put dir/y 2",
        "del a",
        "put a 3",
        "put dir/x 2",
        "compact 5",
        "del --prefix dir/",
        "put dir/z 1",
    ] {
        if let Some(rest) = line.strip_prefix("lease") {
            let lease = call(etcdctl, &format!("lease{rest}"));
            let id = lease.split_whitespace().nth(1).expect("lease <id> granted").to_owned();
            call(etcdctl, &format!("put leased 1 --lease={id}"));
        } else {
            call(etcdctl, line);
        }
    }
    for line in [
        "role add reader",
        "role grant-permission reader read dir/ dir0",
        "user add u:pw",
        "user grant-role u reader",
        "user add root:pw",
        "user grant-role root root",
    ] {
        call(etcdctl, line);
    }
}

/// The answers that must be equal, without what names a cluster.
fn answers(etcdctl: &Etcdctl) -> Vec<String> {
    let mut answers = Vec::new();
    for revision in 5..=14 {
        let line = format!("get a --from-key --rev={revision} -w json");
        answers.push(kvs(&call(etcdctl, &line)));
    }
    let leases = call(etcdctl, "lease list");
    let id = leases.lines().nth(1).expect("one lease").to_owned();
    let keys = call(etcdctl, &format!("lease timetolive {id} --keys -w json"));
    answers.push(leases);
    answers.push(keys.split("\"granted-ttl\"").nth(1).unwrap_or_default().to_owned());
    answers.push(call(etcdctl, "user list"));
    answers.push(call(etcdctl, "user get u"));
    answers.push(call(etcdctl, "role get reader"));
    answers
}

/// What follows the header.
fn kvs(json: &str) -> String {
    let revision = json.split("\"revision\":").nth(1).and_then(|rest| rest.split(',').next());
    let rest = json.split("\"kvs\":").nth(1).unwrap_or_default();
    format!("at {revision:?}: {rest}")
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", "3").args(arguments);
    command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

fn restore(program: &Path, file: &Path, options: &Options, more: &[&str]) -> Output {
    let directory = options.data_directory.display().to_string();
    let peer = format!("http://127.0.0.1:{}", options.peer_port);
    let file = file.display().to_string();
    let mut arguments = vec!["snapshot", "restore", &file, "--data-dir", &directory];
    arguments.extend(["--initial-cluster", &options.initial_cluster]);
    arguments.extend(["--initial-advertise-peer-urls", &peer, "--name", &options.name]);
    arguments.extend(more);
    run(program, &arguments)
}

/// Saves `from`, restores with `restorer`, starts `to` and compares.
fn move_over(from: &Program, restorer: &Path, to: &Program, etcdctl: &Path) {
    let saved = Server::start(from, &[]);
    let asks = Etcdctl::new(etcdctl, &saved.client_address());
    fill(&asks);
    let file = fresh_directory("snapshot").join("backup.db");
    call(&asks, &format!("snapshot save {}", file.display()));
    let expected = answers(&asks);
    let options = Options::single("restored");
    std::fs::remove_dir_all(&options.data_directory).expect("it was made fresh");
    let restored = restore(restorer, &file, &options, &[]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let server = Server::start_with(to, options).unwrap_or_else(|log| panic!("{log}"));
    let asks = Etcdctl::new(etcdctl, &server.client_address());
    assert_eq!(answers(&asks), expected);
    // It goes on where the other was.
    assert_eq!(call(&asks, "put a 4"), "OK\n");
    assert!(call(&asks, "get a -w json").contains("\"revision\":15"), "the next revision is 15");
    call(&asks, "auth enable");
    assert_eq!(call(&asks, "--user=u:pw get dir/z --print-value-only"), "1\n");
}

#[test]
fn what_varve_saves_etcd_serves() {
    let Some((etcd, etcdctl)) = etcd() else { return };
    move_over(&Program::varve(), &etcdctl, &etcd, &etcdctl);
}

#[test]
fn what_etcd_saves_varve_serves() {
    let Some((etcd, etcdctl)) = etcd() else { return };
    let varve = Program::varve();
    move_over(&etcd, &varve.path, &varve, &etcdctl);
}

#[test]
fn damaged_and_foreign_files_are_refused_and_leave_nothing() {
    let varve = Program::varve().path;
    let directory = fresh_directory("snapshot-damaged");
    let file = directory.join("backup.db");
    for (bytes, expected) in [
        (vec![0; 100], "snapshot missing hash but --skip-hash-check=false"),
        (vec![7; 8192 + 32], "expected sha256 0707"),
    ] {
        std::fs::write(&file, bytes).expect("scratch can be written");
        let mut options = Options::single("refused");
        options.data_directory = directory.join("data");
        let refused = restore(&varve, &file, &options, &[]);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{error}");
        assert!(error.contains(expected), "{error}");
        assert!(!options.data_directory.exists(), "nothing is left");
        let skipped = restore(&varve, &file, &options, &["--skip-hash-check"]);
        let error = String::from_utf8_lossy(&skipped.stderr).into_owned();
        assert_eq!(skipped.status.code(), Some(1), "{error}");
        assert!(error.contains("expected a bbolt database, found none"), "{error}");
        assert!(!options.data_directory.exists(), "nothing is left");
    }
    for (arguments, code) in [
        (&["snapshot", "restore"][..], 2),
        (&["snapshot", "restore", "x", "--bump-revision=1"][..], 2),
        (&["snapshot", "status", "x", "--nonsense"][..], 2),
        (&["snapshot", "status", "does-not-exist"][..], 1),
    ] {
        assert_eq!(run(&varve, arguments).status.code(), Some(code), "{arguments:?}");
    }
}
