//! The public crate `etcd-client` against varve: builds and runs tests/interop/rust, which is a
//! workspace of its own because that crate's build script wants a protoc. The protoc comes from
//! the crate `protoc-bin-vendored`; where it has none for this machine, the test says so and ends.

use std::path::Path;
use std::process::Command;

use varve_tests::process::{Program, Server, skip_or_fail};

#[test]
fn the_public_rust_client_works_against_varve() {
    let Ok(protoc) = protoc_bin_vendored::protoc_bin_path() else {
        skip_or_fail("no protoc for this machine, which the crate etcd-client needs");
        return;
    };
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/rust");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients-rust");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked"])
        .current_dir(&package)
        .env("PROTOC", protoc)
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the client does not build");
    let mut server = Server::start(&Program::varve(), &[]);
    let ran = Command::new(target.join("debug/varve-client-check"))
        .arg(server.client_address())
        .output()
        .expect("the client runs");
    println!("{}", String::from_utf8_lossy(&ran.stdout));
    assert!(
        ran.status.success(),
        "{}\nthe server's log:\n{}",
        String::from_utf8_lossy(&ran.stderr),
        server.log()
    );
    server.kill();
}
