//! The log on file systems that are unlike the one the tests lie on: a disk with blocks of 4096
//! bytes, one in memory, one stacked on another.
//!
//! One idea: each is mounted for the test, used by every backend, and unmounted, also when the
//! test fails. That takes root and a kernel that lets it; where it cannot be had, the test says why
//! and is skipped.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;
use varve_disk::os::OsDisk;
use varve_wal::{Backend, BackendChoice, Batch, Error, Options, Wal, check};

const IDENTITY: [u8; 16] = *b"varve wal mounts";
const DEVICE_BYTES: u64 = 48 << 20;

/// Runs a program; what it printed, or why it failed.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(said(&output.stdout));
    }
    Err(format!("{program} {}: {}", arguments.join(" "), said(&output.stderr)))
}

/// Something mounted at `point`, until it is dropped.
struct Mount {
    point: PathBuf,
}

impl Mount {
    fn new(arguments: &[&str], point: PathBuf) -> Result<Self, String> {
        std::fs::create_dir(&point).unwrap();
        let arguments: Vec<&str> = arguments.iter().copied().chain(point.to_str()).collect();
        run("mount", &arguments).map(|_| Self { point })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.point.to_str().unwrap()]).unwrap();
    }
}

/// A loop device, until it is dropped.
struct Device(String);

impl Drop for Device {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.0]).unwrap();
    }
}

/// A directory for mounts, and their files.
fn home() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The mount, or nothing, having said why.
fn available<T>(found: Result<T, String>) -> Option<T> {
    found.map_err(|reason| eprintln!("skipped: {reason}")).ok()
}

#[test]
fn a_disk_with_blocks_of_4096_bytes_takes_frames_of_any_alignment() {
    let home = home();
    let image = home.path().join("image");
    OsDisk::new().create(&image).unwrap().set_len(DEVICE_BYTES).unwrap();
    let image = image.to_str().unwrap();
    let made = run("losetup", &["--find", "--show", "--sector-size", "4096", image]);
    let Some(device) = available(made).map(Device) else { return };
    let mounted = run("mkfs.ext4", &["-q", &device.0])
        .and_then(|_| Mount::new(&[&device.0], home.path().join("mount")));
    let Some(mount) = available(mounted) else { return };
    let worked = use_by_every_backend(&mount.point);
    assert!(worked.contains(&Backend::Dsync), "ext4 takes direct writes: {worked:?}");
}

#[test]
fn a_file_system_in_memory_holds_a_log() {
    let home = home();
    let arguments = ["-t", "tmpfs", "-o", "size=48m", "tmpfs"];
    let Some(mount) = available(Mount::new(&arguments, home.path().join("mount"))) else { return };
    use_by_every_backend(&mount.point);
}

#[test]
fn a_stacked_file_system_holds_a_log() {
    let home = home();
    let layer = |name: &str| {
        let path = home.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (lower, upper, work) = (layer("lower"), layer("upper"), layer("work"));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let arguments = ["-t", "overlay", "-o", &options, "overlay"];
    let Some(mount) = available(Mount::new(&arguments, home.path().join("mount"))) else { return };
    use_by_every_backend(&mount.point);
}

/// Each backend that can be had here appends, in frames of blocks of 512 and of 4096 bytes, and
/// the next one finds all of it. Which those were.
fn use_by_every_backend(mount: &Path) -> Vec<Backend> {
    let mut worked = Vec::new();
    for block_bytes in [512, 4096] {
        let dir = mount.join(format!("log-{block_bytes}"));
        let mut last = 0;
        for backend in Backend::ALL {
            let Some(mut wal) = open(&dir, BackendChoice::Only(backend), block_bytes) else {
                continue;
            };
            assert_eq!(wal.last_index(), last);
            for _ in 0..40 {
                last += 1;
                wal.append(&batch(last)).unwrap();
                let read_back = wal.entries(last, last + 1, u64::MAX).unwrap();
                assert_eq!(read_back, [payload(last)], "{backend}");
            }
            wal.truncate_front(last - 10).unwrap();
            drop(wal);
            let report = check(&OsDisk::new(), &dir, &IDENTITY).unwrap();
            assert_eq!((report.violations, report.last_index), (Vec::new(), last), "{backend}");
            worked.push(backend);
        }
        let wal = open(&dir, BackendChoice::Auto, block_bytes).expect("something works anywhere");
        assert!(worked.contains(&wal.backend()), "{} in spite of {worked:?}", wal.backend());
    }
    assert!(worked.contains(&Backend::Fdatasync), "{worked:?}");
    worked
}

/// Nothing where the file system does not have the backend.
fn open(dir: &Path, backend: BackendChoice, block_bytes: u32) -> Option<Wal> {
    let options = Options {
        identity: IDENTITY,
        segment_bytes: 256 << 10,
        cache_bytes_max: 0,
        backend,
        ..Options::default()
    };
    match Wal::open_with_block_bytes(Arc::new(OsDisk::new()), dir, options, block_bytes) {
        Err(Error::Disk(error)) if error.is_refusal() => None,
        outcome => Some(outcome.unwrap()),
    }
}

fn batch(index: u64) -> Batch {
    let mut batch = Batch::default();
    batch.entry(index, payload(index));
    batch
}

fn payload(index: u64) -> Bytes {
    let length = if index.is_multiple_of(7) { 9000 } else { 300 };
    Bytes::from(vec![index as u8; length])
}
