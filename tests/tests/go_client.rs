//! etcd's official Go client against varve: `interop/go` prints PASS or FAIL a case.
//!
//! One idea: the client that most programs use is the judge; what it expects was tried against
//! etcd 3.7. `VARVE_BIN` names another server, `VARVE_GO_CASE` runs only cases with this text.
//!
//! Cases of what varve does not do yet must fail for that reason; see `interop/go/main.go`.
//!
//! What it does not do: run where there is no Go (a message says so; with `CI=true` it fails).

use std::path::{Path, PathBuf};
use std::process::Command;

use varve_tests::process::{Program, Server, find_in_path, fresh_directory, skip_or_fail};

fn build_client(go: &Path, directory: &Path) -> PathBuf {
    let client = directory.join("client");
    let output = Command::new(go)
        .args(["build", "-mod=readonly", "-buildvcs=false", "-o"])
        .arg(&client)
        .arg(".")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/go"))
        .output()
        .expect("go runs");
    assert!(output.status.success(), "go build:\n{}", String::from_utf8_lossy(&output.stderr));
    client
}

#[test]
fn the_official_go_client_finds_everything_it_expects() {
    let Some(go) = find_in_path("go") else {
        skip_or_fail("Go (package golang-go, at least the version in interop/go/go.mod)");
        return;
    };
    let directory = fresh_directory("go-client");
    let client = build_client(&go, &directory);
    let server = Server::start(&Program::varve(), &[]);
    let output = Command::new(client)
        .args(["-endpoint", &server.client_address()])
        .args(Program::varve().is_varve().then_some("-varve"))
        .args(["-only", &std::env::var("VARVE_GO_CASE").unwrap_or_default()])
        .output()
        .expect("the client runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    assert!(output.status.success(), "{text}\n{errors}\nthe server's log:\n{}", server.log());
    assert!(text.contains("PASS"), "no case ran: {text}");
    // What remains after a failure is removed with target/.
    let _ = std::fs::remove_dir_all(directory);
}
