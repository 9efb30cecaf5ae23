//! A disk that is read-only or full.
//!
//! Each server runs in a mount namespace of its own, with a small ext4 image mounted there as its
//! data directory: nothing outside sees the mount, and it goes away with the process. The test
//! reaches the files through `/proc/<pid>/root`. Needs root; skipped with a message elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use varve_tests::grpc_client::Client;
use varve_tests::process::{Options, Program, Server, fresh_directory};

use crate::{
    Acknowledged, CALL_TIMEOUT, EXIT_TIMEOUT, assert_ends, assert_keys, assert_no_panic, block_on,
    put, put_keys,
};

/// Room for one segment of the log and a little more.
const SMALL_BYTES: u64 = 96 << 20;
/// Room for three segments of the log.
const LARGER_BYTES: u64 = 256 << 20;
/// From the beginning of the first write that fails to the end of the process: one second, and one
/// more for a slow machine.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// An image of a file system and the directory where servers mount it.
struct SmallDisk {
    directory: PathBuf,
    image: PathBuf,
    mount_point: PathBuf,
}

impl SmallDisk {
    /// `None`, with a message, where mounting is not permitted.
    fn new(image_bytes: u64) -> Option<SmallDisk> {
        let directory = fresh_directory("small-disk");
        let (image, mount_point) = (directory.join("image"), directory.join("data"));
        std::fs::create_dir(&mount_point).expect("a fresh directory");
        let file = std::fs::File::create(&image).expect("a fresh directory");
        file.set_len(image_bytes).expect("a sparse file");
        let disk = SmallDisk { directory, image, mount_point };
        let made =
            Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&disk.image).status();
        if made.is_ok_and(|status| status.success()) && disk.run("rmdir \"$0/lost+found\"") {
            return Some(disk);
        }
        eprintln!("SKIPPED: needs mkfs.ext4, unshare and the right to mount (root)");
        None
    }

    /// A command line that goes on as what is behind it, with the image mounted.
    fn launcher(&self, mount_options: &str) -> Vec<String> {
        let script = format!(
            "mount -o loop,{mount_options} '{}' '{}' && exec \"$@\"",
            self.image.display(),
            self.mount_point.display()
        );
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"]
            .map(str::to_owned)
            .to_vec()
    }

    /// Runs a shell script with the image mounted at `$0`; whether it succeeded.
    fn run(&self, script: &str) -> bool {
        let launcher = self.launcher("rw");
        let mut command = Command::new(&launcher[0]);
        command.args(&launcher[1..]).args(["sh", "-c", script]).arg(&self.mount_point);
        command.status().is_ok_and(|status| status.success())
    }

    fn options(&self, extra_flags: &[&str]) -> Options {
        let mut options = Options::single("small-disk");
        std::fs::remove_dir_all(&options.data_directory).expect("the test's own directory");
        options.data_directory = self.mount_point.clone();
        options.launcher = self.launcher("rw");
        options.extra_flags = extra_flags.iter().map(|flag| (*flag).to_owned()).collect();
        options
    }

    /// The mounted directory of a running server, as this process reaches it.
    fn seen_by(&self, server: &Server) -> PathBuf {
        let relative = self.mount_point.strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(server.pid().to_string()).join("root").join(relative)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Takes all room with one file, first in large steps, then in small ones.
fn fill(path: &Path) {
    use std::os::fd::AsRawFd as _;
    let file = std::fs::File::create(path).expect("there is an inode left");
    let mut length = 0;
    for step_bytes in [1 << 20, 1 << 10] {
        // SAFETY: the call takes integers only, and the file is open.
        while unsafe { libc::fallocate(file.as_raw_fd(), 0, length, step_bytes) } == 0 {
            length += step_bytes;
        }
    }
    file.sync_all().expect("nothing is left to be allocated");
}

#[test]
fn an_engine_without_room_stops_the_server_at_once_and_acknowledged_writes_are_there_later() {
    let Some(disk) = SmallDisk::new(SMALL_BYTES) else { return };
    // Tables soon, from small values: the engine is what asks for room first.
    let options = disk.options(&["--snapshot-count", "50", "--snapshot-catchup-entries", "10"]);
    full(&disk, options, 64 << 10, "/engine/");
}

#[test]
fn a_log_without_room_stops_the_server_at_once_and_acknowledged_writes_are_there_later() {
    let Some(disk) = SmallDisk::new(LARGER_BYTES) else { return };
    // Only the log is on the disk that is full, so it is what asks for room.
    let mut options = disk.options(&["--max-request-bytes", "8000000", "--wal-dir"]);
    options.extra_flags.push(disk.mount_point.join("log").display().to_string());
    options.data_directory = disk.directory.join("engine's disk");
    full(&disk, options, 4 << 20, "/data/log/");
}

/// Fills the disk under a server, writes until one fails, and makes room again. The error names a
/// file below `part`.
fn full(disk: &SmallDisk, options: Options, value_bytes: usize, part: &str) {
    let mut server = Server::start_with(&Program::varve(), options).expect("it serves");
    let mut keys = put_keys(&server, "before", 20);
    // A founded member makes its first table right away.
    assert!(server.wait_for_log("saved snapshot", CALL_TIMEOUT), "{}", server.log());
    fill(&disk.seen_by(&server).join("filler"));
    let (more, began) = block_on(write_until_failure(&server, value_bytes));
    assert!(server.wait_exit(EXIT_TIMEOUT).is_some_and(|status| status.code() == Some(1)));
    let took = began.elapsed();
    println!("{} writes fit, the process ended {took:?} after the next one began", more.len());
    assert!(took < STOP_WITHIN, "it stopped after {took:?}:\n{}", server.log());
    let log = server.log();
    for text in ["No space left on device", "stopping", part] {
        assert!(log.contains(text), "{text:?} in\n{log}");
    }
    assert_no_panic(&log);
    keys.extend(more);

    // Still full: it refuses to start or stops again, and says why.
    server.restart_unawaited();
    if !server.wait_for_log("ready to serve client requests", CALL_TIMEOUT) {
        let status = server.wait_exit(EXIT_TIMEOUT).expect("it does not serve, so it ends");
        assert_eq!(status.code(), Some(1));
        assert!(server.log().contains("No space left on device"), "{}", server.log());
    }
    server.kill();
    assert_no_panic(&server.log());

    assert!(disk.run("rm \"$0/filler\""), "the filler can be removed");
    server.restart();
    assert_keys(&server, &keys);
    put_keys(&server, "after", 100);
}

/// Puts until one fails; what was acknowledged, and when the one that failed began.
async fn write_until_failure(server: &Server, value_bytes: usize) -> (Vec<Acknowledged>, Instant) {
    let client = Client::new(&server.client_address(), CALL_TIMEOUT);
    let value = "v".repeat(value_bytes);
    let mut acknowledged = Vec::new();
    for number in 0..5_000 {
        let key = format!("filling/{number:06}");
        let began = Instant::now();
        match put(&client, &key, &value).await {
            Ok(revision) => {
                acknowledged.push(Acknowledged { key, value: value.clone(), revision });
            }
            Err(_) => return (acknowledged, began),
        }
    }
    panic!("5000 values of {value_bytes} bytes fit on a disk that does not take any more");
}

#[test]
fn a_disk_that_is_full_from_the_start_is_refused_and_starts_when_there_is_room() {
    let Some(disk) = SmallDisk::new(SMALL_BYTES) else { return };
    assert!(disk.run("cat /dev/zero > \"$0/filler\" 2>/dev/null; sync"), "it can be filled");
    let mut server = Server::spawn(&Program::varve(), disk.options(&[]));
    assert_ends(&mut server, &["No space left on device"]);
    assert!(disk.run("rm \"$0/filler\""), "the filler can be removed");
    server.restart();
    let keys = put_keys(&server, "k", 3);
    server.kill();
    server.restart();
    assert_keys(&server, &keys);
}

#[test]
fn a_read_only_disk_is_refused_by_name_and_starts_when_it_is_writable() {
    let Some(disk) = SmallDisk::new(SMALL_BYTES) else { return };
    let writable = disk.options(&[]);
    let mut read_only = writable.clone();
    read_only.launcher = disk.launcher("ro");
    let mut refused = Server::spawn(&Program::varve(), read_only.clone());
    assert_ends(&mut refused, &[&disk.mount_point.display().to_string(), "Read-only"]);
    let mut server = Server::start_with(&Program::varve(), writable).expect("it is writable");
    let keys = put_keys(&server, "k", 5);
    server.kill();
    // With data on it.
    let mut refused_again = Server::spawn(&Program::varve(), read_only);
    assert_ends(&mut refused_again, &["Read-only file system"]);
    server.restart();
    assert_keys(&server, &keys);
}

/// The file system turns read-only under a running server, as ext4 does after an error.
#[test]
fn a_disk_that_turns_read_only_stops_the_server_and_loses_nothing() {
    let Some(disk) = SmallDisk::new(SMALL_BYTES) else { return };
    let options = disk.options(&["--snapshot-count", "20"]);
    let mut server = Server::start_with(&Program::varve(), options).expect("it serves");
    let mut keys = put_keys(&server, "before", 10);
    // An emergency remount (`echo u > sysrq-trigger`) would hit the machine; ext4's own shutdown
    // hits this image alone.
    if !shut_down(&disk.seen_by(&server)) {
        eprintln!("SKIPPED: this file system cannot be shut down");
        return;
    }
    let (more, _) = block_on(write_until_failure(&server, 1_000));
    keys.extend(more);
    let status = server.wait_exit(EXIT_TIMEOUT);
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{}", server.log());
    assert!(server.log().contains("stopping"), "{}", server.log());
    assert_no_panic(&server.log());
    server.restart();
    assert_keys(&server, &keys);
}

/// `EXT4_IOC_SHUTDOWN` without flushing the journal: every later call fails.
fn shut_down(directory: &Path) -> bool {
    const SHUTDOWN: libc::c_ulong = 0x8004_587d;
    use std::os::fd::AsRawFd as _;
    let without_journal_flush: u32 = 2;
    let file = std::fs::File::open(directory).expect("the mounted directory");
    // SAFETY: the call reads four bytes at the pointer, which lives during the call.
    unsafe { libc::ioctl(file.as_raw_fd(), SHUTDOWN, &raw const without_journal_flush) == 0 }
}

#[test]
fn a_stopped_server_with_a_full_disk_starts_or_says_why_not() {
    let Some(disk) = SmallDisk::new(SMALL_BYTES) else { return };
    let mut server = Server::start_with(&Program::varve(), disk.options(&[])).expect("it serves");
    let keys = put_keys(&server, "k", 5);
    assert!(server.terminate().is_some_and(|status| status.success()));
    assert!(disk.run("cat /dev/zero > \"$0/filler\" 2>/dev/null; sync"), "it can be filled");
    server.restart_unawaited();
    if server.wait_for_log("ready to serve client requests", CALL_TIMEOUT) {
        assert_keys(&server, &keys);
        server.kill();
    } else {
        assert_ends(&mut server, &["No space left on device"]);
    }
    assert!(disk.run("rm \"$0/filler\""), "the filler can be removed");
    server.restart();
    assert_keys(&server, &keys);
    assert_no_panic(&server.log());
}
