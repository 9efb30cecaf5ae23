//! A page of a mapped file is lost: the process stops and says where.
//!
//! The test runs itself once more as the process that is to stop.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use varve_disk::Disk;
use varve_disk::os::{OsDisk, stop_on_lost_pages};

/// Tells the second run which file to map.
const FILE: &str = "TEST_LOST_PAGE_FILE";

fn run_again(name: &str, file: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .output()
        .unwrap()
}

#[test]
fn a_file_that_is_cut_under_its_mapping_stops_the_process_with_file_and_offset() {
    if let Some(path) = std::env::var_os(FILE) {
        stop_on_lost_pages().unwrap();
        let map = OsDisk::new().map(Path::new(&path)).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(20_000).unwrap();
        println!("{} went on", map[49_152]);
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("a segment.vs");
    std::fs::write(&path, vec![1; 100_000]).unwrap();
    let name = "a_file_that_is_cut_under_its_mapping_stops_the_process_with_file_and_offset";
    let output = run_again(name, &path);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
    let expected = format!("lost a page of the mapped file {} at offset 49152", path.display());
    assert!(said.contains(&expected), "{said}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("went on"));
}

#[test]
fn a_bus_error_that_is_not_about_a_mapped_file_ends_the_process_as_ever() {
    if std::env::var_os(FILE).is_some() {
        stop_on_lost_pages().unwrap();
        // SAFETY: sends a signal to this process; takes an integer only.
        unsafe { libc::raise(libc::SIGBUS) };
        println!("went on");
        return;
    }
    let name = "a_bus_error_that_is_not_about_a_mapped_file_ends_the_process_as_ever";
    let output = run_again(name, Path::new("none"));
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("lost a page"));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("went on"));
}
