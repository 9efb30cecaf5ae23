//! Programs and places: where varve, etcd and other tools are, and where tests may write.
//!
//! One idea: a test names what it needs and gets a path, or skips with a message that says what is
//! missing. varve is built first, so that no test runs against a stale one.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `VARVE_BIN` | the server to test, instead of the one cargo builds |
//! | `VARVE_PEER_ETCD` | the etcd to compare with, instead of the one in `PATH` |
//! | `CI` | `true`: what is missing is a failure |
//!
//! What it does not do: run servers; see `process`.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which program to run as a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Short name for messages: `varve` or `etcd`.
    pub label: String,
    /// The executable.
    pub path: PathBuf,
}

impl Program {
    /// varve: the file in `VARVE_BIN`, or the one cargo builds for the profile of this test.
    ///
    /// Building is left to cargo, which does nothing when the program is up to date; so a test
    /// never runs against a stale server.
    pub fn varve() -> Program {
        static PATH: OnceLock<PathBuf> = OnceLock::new();
        let path = PATH.get_or_init(|| match std::env::var_os("VARVE_BIN") {
            Some(path) => PathBuf::from(path),
            None => build_varve(),
        });
        Program { label: "varve".into(), path: path.clone() }
    }

    /// etcd: the file in `VARVE_PEER_ETCD`, or the first `etcd` in `PATH`; `None` if there is none.
    pub fn etcd() -> Option<Program> {
        let path = match std::env::var_os("VARVE_PEER_ETCD") {
            Some(path) => PathBuf::from(path),
            None => find_in_path("etcd")?,
        };
        Some(Program { label: "etcd".into(), path })
    }

    /// Whether it says that it is varve; `VARVE_BIN` may name an etcd.
    pub fn is_varve(&self) -> bool {
        let output = Command::new(&self.path).arg("--version").output();
        output
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("varve Version: "))
    }

    /// Major and minor version as `--version` prints them; `None` if it prints no version.
    pub fn version(&self) -> Option<(u32, u32)> {
        let output = Command::new(&self.path).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers = text.lines().find_map(|line| line.strip_prefix("etcd Version: "))?;
        let mut parts = numbers.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// The first executable of this name in `PATH`.
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Says whether a test that needs `what` must fail (`CI=true`) or may be skipped with a message.
///
/// # Panics
///
/// If `CI` is `true`.
pub fn skip_or_fail(what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI needs {what}");
    eprintln!("SKIPPED: {what} is not here");
}

/// The directory cargo sets apart for what tests write: `target/tmp`.
pub fn scratch_directory() -> PathBuf {
    let directory = target_directory().join("tmp");
    std::fs::create_dir_all(&directory).expect("target/tmp can be made");
    directory
}

/// The directory `target` and the profile's name in it, from where this test program lies.
fn target_directory() -> PathBuf {
    profile_directory().parent().expect("the profile's directory is in target").to_path_buf()
}

fn profile_directory() -> PathBuf {
    let program = std::env::current_exe().expect("a test program knows its path");
    let deps = program.parent().expect("a file has a directory");
    if deps.ends_with("deps") {
        return deps.parent().expect("deps is in the profile's directory").to_path_buf();
    }
    deps.to_path_buf()
}

fn build_varve() -> PathBuf {
    let profile = profile_directory();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--package", "varve-server", "--bin", "varve"]);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    command.arg("--target-dir").arg(target_directory());
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "cargo build -p varve-server: {status}");
    profile.join("varve")
}

/// A free port of loopback at the time of the call.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// A fresh directory below [`scratch_directory`], removed by the caller.
pub fn fresh_directory(label: &str) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let directory = scratch_directory().join(format!("{label}-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("target/tmp is writable");
    directory
}
