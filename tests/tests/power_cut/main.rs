//! The power is cut beneath a real file system, ext4 and XFS, under load: nothing acknowledged is
//! lost. The log by itself, over every backend, and the server.
//!
//! One idea: the power is cut at a random write or flush of the disk (`medium.rs` says what is found
//! then), what was acknowledged is noted while that request waits, and what is found is mounted, so
//! that the file system replays its journal, and opened. The load goes on: it does not notice.
//!
//! Needs root, FUSE, loop devices, mkfs.ext4 and mkfs.xfs, and says so where it skips. Only on
//! demand, for it takes minutes; all of it is
//!
//! ```sh
//! VARVE_POWER_CUTS=100 cargo test -p varve-tests --test power_cut -- --nocapture --test-threads 1
//! ```
//!
//! which cuts the log 100 times and the server 100 times on each file system.

#![expect(clippy::disallowed_methods, reason = "makes and reads images beneath the file system")]

mod medium;
mod rig;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use medium::Cut;
use rig::{Made, Rig};
use varve_api::etcdserverpb::{PutRequest, RangeRequest};
use varve_disk::Disk;
use varve_disk::os::OsDisk;
use varve_disk::sim::Random;
use varve_tests::grpc_client::Client;
use varve_tests::process::{Options, Program, Server};
use varve_wal::{Backend, BackendChoice, Batch, Wal, check};

const IDENTITY: [u8; 16] = *b"cut the power...";
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Cuts of one run of the server; then they are all opened, at its ports.
const CUTS_PER_RUN: u64 = 10;
const WRITERS: usize = 4;
/// Writes and flushes of the disk that a cut may wait for.
const SKIP_MAX: u64 = 40;

fn cuts_wanted() -> Option<u64> {
    let wanted = std::env::var("VARVE_POWER_CUTS").ok().and_then(|text| text.parse().ok());
    if wanted.is_none() {
        eprintln!("SKIPPED: VARVE_POWER_CUTS says how often to cut");
    }
    wanted
}

const EXT4: [&str; 4] = ["mkfs.ext4", "-q", "-F", "-Elazy_itable_init=0"];
const XFS: [&str; 2] = ["mkfs.xfs", "-q"];

#[test]
fn the_log_on_ext4_survives_power_cuts() {
    cut_the_log(&EXT4);
}

#[test]
fn the_log_on_xfs_survives_power_cuts() {
    cut_the_log(&XFS);
}

#[test]
fn the_server_on_ext4_survives_power_cuts() {
    cut_the_server(&EXT4);
}

#[test]
fn the_server_on_xfs_survives_power_cuts() {
    cut_the_server(&XFS);
}

/// Ends the writers when the test ends, also by a panic: nothing then waits for them for ever.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What a log's writer has been told.
#[derive(Default)]
struct Noted {
    last: AtomicU64,
    /// Forgotten up to here, perhaps.
    forgotten: AtomicU64,
    stop: AtomicBool,
}

impl Noted {
    /// The newest record that must be found, and those that need not.
    fn now(&self) -> (u64, u64) {
        let last = self.last.load(Ordering::SeqCst);
        (last, self.forgotten.load(Ordering::SeqCst))
    }
}

/// What cuts have come to.
#[derive(Default)]
struct Tally {
    cuts: u64,
    cuts_with_a_stake: u64,
    at_stake_bytes: u64,
    kept_bytes: u64,
    read: u64,
}

impl Tally {
    fn add(&mut self, made: &Made, read: u64) {
        self.cuts += 1;
        self.cuts_with_a_stake += u64::from(made.at_stake_bytes > 0);
        self.at_stake_bytes += made.at_stake_bytes;
        self.kept_bytes += made.kept_bytes;
        self.read += read;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cuts, cuts_with_a_stake, at_stake_bytes, kept_bytes, read } = self;
        write!(
            formatter,
            "{cuts} cuts, {cuts_with_a_stake} with {at_stake_bytes} bytes not flushed, of which \
             {kept_bytes} were found; {read} acknowledged records were read back"
        )
    }
}

fn cut_the_log(make: &[&str]) {
    let Some(cuts) = cuts_wanted() else { return };
    let Some(mut rig) = Rig::new(make) else { return };
    let mut random = Random::new(1);
    let mut tally = Tally::default();
    for (number, backend) in Backend::ALL.into_iter().enumerate() {
        let noted = Noted::default();
        let dir = rig.live.join(format!("log-{backend}"));
        let busy = rig.live.join("busy");
        std::thread::scope(|scope| {
            let stop = StopAtEnd(&noted.stop);
            let writer = scope.spawn(|| append_until_stopped(&dir, backend, &noted));
            let other = scope.spawn(|| write_without_syncs(&busy, &noted.stop));
            for cut in (number as u64..cuts).step_by(Backend::ALL.len()) {
                // At least something new each time, and then any request of the next appends.
                let before = noted.last.load(Ordering::SeqCst);
                wait_until(|| noted.last.load(Ordering::SeqCst) > before || writer.is_finished());
                let style = Cut::ALL[(cut / 4) as usize % Cut::ALL.len()];
                let image = rig.directory.join("cut");
                let (skip, seed) = (random.below(SKIP_MAX), random.next_u64());
                let ((acknowledged, forgotten), made) =
                    rig.cut(style, seed, skip, &image, || noted.now());
                let dir = rig.found.join(format!("log-{backend}"));
                let context = format!("{} {backend} {style:?} {acknowledged}", make[0]);
                let mut read = 0;
                rig.look(&image, &rig.found, || {
                    read = assert_log(&dir, acknowledged, forgotten, &context);
                });
                tally.add(&made, read);
            }
            drop(stop);
            writer.join().expect("the writer's disk works");
            other.join().expect("the other writer's disk works");
        });
    }
    println!("{}, the log: {tally}", make[0]);
}

/// Files come, are written, renamed and go, and nobody syncs them: the file system has a journal to
/// write, and much that is not flushed when the log's frames are.
fn write_without_syncs(dir: &Path, stop: &AtomicBool) {
    use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
    std::fs::create_dir_all(dir).expect("the disk works");
    // O_DIRECT wants memory as aligned as a page; a part of a large buffer is.
    let buffer = vec![0x5a_u8; 64 << 10];
    let start = buffer.as_ptr().align_offset(4096);
    let data = &buffer[start..start + (32 << 10)];
    for number in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let (path, moved) = (dir.join(format!("new-{}", number % 8)), dir.join("old"));
        let mut options = std::fs::File::options();
        let file = options.write(true).create(true).custom_flags(libc::O_DIRECT).open(&path);
        let file = file.expect("the disk works");
        for part in 0..4 {
            file.write_all_at(data, part * data.len() as u64).expect("the disk works");
        }
        std::fs::rename(&path, &moved).expect("the disk works");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn append_until_stopped(dir: &Path, backend: Backend, noted: &Noted) {
    let mut random = Random::new(2);
    let mut wal = open(dir, BackendChoice::Only(backend));
    assert_eq!(wal.backend(), backend, "this file system has it");
    while !noted.stop.load(Ordering::SeqCst) {
        let first = wal.last_index() + 1;
        let mut batch = Batch::default();
        for index in first..=first + random.below(4) {
            batch.entry(index, payload(index));
        }
        batch.state(Bytes::from(format!("state {first}")));
        wal.append(&batch).expect("the disk works");
        noted.last.store(wal.last_index(), Ordering::SeqCst);
        if random.one_in(200) {
            let through = wal.last_index().saturating_sub(100);
            noted.forgotten.fetch_max(through, Ordering::SeqCst);
            wal.truncate_front(through).expect("the disk works");
        }
    }
}

/// Opens what was found; how many records were read. All that was acknowledged must be there.
fn assert_log(dir: &Path, acknowledged: u64, forgotten: u64, context: &str) -> u64 {
    let wal = open(dir, BackendChoice::Only(Backend::Fdatasync));
    let (first, last) = (wal.first_index(), wal.last_index());
    assert!(last >= acknowledged, "{context}: {last} is the last one");
    assert!(first <= forgotten + 1, "{context}: {first} is the first one");
    let entries = wal.entries(first, last + 1, u64::MAX).expect(context);
    for (index, found) in (first..).zip(&entries) {
        assert_eq!(*found, payload(index), "{context}: entry {index}");
    }
    drop(wal);
    let report = check(&OsDisk::new(), dir, &IDENTITY).expect(context);
    assert!(report.violations.is_empty(), "{context}: {:#?}", report.violations);
    entries.len() as u64
}

fn open(dir: &Path, backend: BackendChoice) -> Wal {
    // Small segments, so that all that is rare happens between two cuts.
    let options = varve_wal::Options {
        identity: IDENTITY,
        segment_bytes: 256 << 10,
        backend,
        ..varve_wal::Options::default()
    };
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    Wal::open(disk, dir, options).expect("nothing acknowledged is damaged")
}

/// Of any length, some of them long enough to be compressed.
fn payload(index: u64) -> Bytes {
    let length = [20, 300, 3_000, 12_000][index as usize % 4];
    let mut bytes = vec![index as u8; length];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    Bytes::from(bytes)
}

fn cut_the_server(make: &[&str]) {
    let Some(cuts) = cuts_wanted() else { return };
    let mut tally = Tally::default();
    let mut random = Random::new(3);
    while tally.cuts < cuts {
        let Some(mut rig) = Rig::new(make) else { return };
        let mut options = Options::single("power-cut");
        std::fs::remove_dir_all(&options.data_directory).expect("the test's own directory");
        options.data_directory = rig.live.join("data");
        // The engine flushes between cuts, too, and cuts the log.
        options.extra_flags = vec!["--snapshot-count".into(), "200".into()];
        let mut server = Server::start_with(&Program::varve(), options).expect("it serves");
        let noted = Arc::new(NotedKeys::default());
        let stop = StopAtEnd(&noted.stop);
        let writers = start_writers(&server, &noted);
        let mut images = Vec::new();
        for number in 0..CUTS_PER_RUN.min(cuts - tally.cuts) {
            let before = noted.count();
            wait_until(|| noted.count() > before + 20);
            let style = Cut::ALL[number as usize % Cut::ALL.len()];
            let image = rig.directory.join(format!("cut-{number}"));
            let (skip, seed) = (random.below(SKIP_MAX), random.next_u64());
            let (acknowledged, made) = rig.cut(style, seed, skip, &image, || noted.count());
            images.push((image, style, acknowledged, made));
        }
        drop(stop);
        writers.into_iter().for_each(|writer| writer.join().expect("the server serves"));
        server.kill();
        rig.unmount_live();
        let keys = noted.keys.lock().expect("no panic under this lock").clone();
        for (image, style, acknowledged, made) in images {
            rig.look(&image, &rig.live, || {
                server.restart();
                assert_keys(&server, &keys[..acknowledged], &format!("{} {style:?}", make[0]));
                server.kill();
            });
            tally.add(&made, acknowledged as u64);
        }
    }
    println!("{}, the server: {tally}", make[0]);
}

/// Keys and revisions, in the order in which they were acknowledged.
#[derive(Default)]
struct NotedKeys {
    keys: std::sync::Mutex<Vec<(String, i64)>>,
    stop: AtomicBool,
}

impl NotedKeys {
    fn count(&self) -> usize {
        self.keys.lock().expect("no panic under this lock").len()
    }
}

fn start_writers(server: &Server, noted: &Arc<NotedKeys>) -> Vec<std::thread::JoinHandle<()>> {
    let start = |number| {
        let (noted, address) = (Arc::clone(noted), server.client_address());
        std::thread::spawn(move || {
            block_on(async {
                let client = Client::new(&address, CALL_TIMEOUT);
                for sequence in 0_u64.. {
                    if noted.stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let key = format!("w{number}/{sequence:08}");
                    let value = format!("{key} {}", "x".repeat(sequence as usize * 37 % 3_000));
                    let request = PutRequest {
                        key: key.clone().into(),
                        value: value.into(),
                        ..PutRequest::default()
                    };
                    let response = client.put(request).await.expect("it serves");
                    let revision = response.header.expect("every response has one").revision;
                    noted.keys.lock().expect("no panic under this lock").push((key, revision));
                }
            });
        })
    };
    (0..WRITERS).map(start).collect()
}

fn assert_keys(server: &Server, acknowledged: &[(String, i64)], context: &str) {
    let request = RangeRequest {
        key: b"w".as_slice().into(),
        range_end: b"x".as_slice().into(),
        ..RangeRequest::default()
    };
    let response = block_on(async {
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        client.range(request).await.expect(context)
    });
    let found: std::collections::BTreeMap<String, i64> = response
        .kvs
        .iter()
        .map(|kv| {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            assert!(kv.value.starts_with(key.as_bytes()), "{context}: {key} has another's value");
            (key, kv.mod_revision)
        })
        .collect();
    for (key, revision) in acknowledged {
        assert_eq!(found.get(key), Some(revision), "{context}: {key}");
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

fn wait_until(is_so: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("no progress within a minute");
}
