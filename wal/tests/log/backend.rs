//! How appends are made durable: every backend writes the same log, and the choice among them.
//!
//! One idea: what a kernel or a container refuses is a list of backends here, on a simulated disk
//! that has them all (`Choosy`); that kernels do refuse them, and how, is tested where the calls
//! are made (`disk/tests/refusal.rs`).

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use bytes::Bytes;
use varve_disk::durable::DurableWriter;
use varve_disk::os::OsDisk;
use varve_disk::sim::{CrashStyle, Fault, FaultRule, OperationKind, SimDisk};
use varve_disk::{DirLock, Disk, File};
use varve_wal::Backend::{BufferedDsync, Dsync, Fdatasync, Uring};
use varve_wal::{Backend, BackendChoice, Batch, Error, Options, Outcome, Wal, check};

use crate::model::{DIR, IDENTITY};

const PROBE: &str = "probe.tmp";
const LINUX_EPERM: i32 = 1;

#[test]
fn every_backend_writes_the_same_bytes_and_reads_what_the_others_wrote() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for block_bytes in [512, 4096] {
        let mut contents: Vec<(Backend, BTreeMap<String, Vec<u8>>)> = Vec::new();
        for backend in Backend::ALL {
            let dir = home.path().join(format!("{backend}-{block_bytes}"));
            let Some(mut wal) = open_real(&dir, backend, block_bytes) else { continue };
            assert_eq!(wal.backend(), backend);
            for index in 1..=60 {
                wal.append(&batch(index)).unwrap();
                // Through the page cache, right behind what may have gone past it.
                assert_eq!(wal.entries(index, index + 1, u64::MAX).unwrap(), [payload(index)]);
                if index % 20 == 0 {
                    wal.truncate_front(index - 10).unwrap();
                }
            }
            drop(wal);
            contents.push((backend, read_files(&dir)));
            reopen_by_every_backend(&dir, block_bytes);
        }
        assert!(contents.len() >= 2, "two backends work everywhere");
        for (backend, files) in &contents[1..] {
            assert!(*files == contents[0].1, "{backend} differs from {}", contents[0].0);
        }
    }
}

#[test]
fn the_fastest_backend_of_a_real_disk_is_found_and_leaves_nothing_behind() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = home.path().join("wal");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    disk.create_dir_all(&dir).unwrap();
    // Left behind by a start that was killed.
    disk.create(&dir.join(PROBE)).unwrap();
    let mut wal = Wal::open(Arc::clone(&disk), &dir, options(BackendChoice::Auto)).unwrap();
    let report = wal.probe().expect("a real disk has a choice");
    let tried: Vec<Backend> = report.candidates.iter().map(|tried| tried.backend).collect();
    assert_eq!(tried, Backend::ALL);
    let chosen = report.candidates.iter().find(|tried| tried.backend == wal.backend()).unwrap();
    assert!(
        matches!(chosen.outcome, Outcome::Measured { fastest, p50, p99, .. } if fastest <= p50 && p50 <= p99),
        "{report}"
    );
    assert!(!disk.exists(&dir.join(PROBE)).unwrap());
    wal.append(&batch(1)).unwrap();
}

#[test]
fn what_is_refused_is_not_chosen() {
    for refused in [vec![Uring], vec![Uring, Dsync], vec![Uring, Dsync, BufferedDsync]] {
        for at_open in [true, false] {
            let disk = Choosy::new(SimDisk::new(1), &refused, at_open);
            let mut wal = open(&disk, BackendChoice::Auto).unwrap();
            assert!(!refused.contains(&wal.backend()), "{} in spite of {refused:?}", wal.backend());
            for tried in &wal.probe().unwrap().candidates {
                let is_refused = matches!(tried.outcome, Outcome::Refused(_));
                assert_eq!(is_refused, refused.contains(&tried.backend), "{tried}");
            }
            wal.append(&batch(1)).unwrap();
            drop(wal);
            assert_eq!(open(&disk, BackendChoice::Auto).unwrap().last_index(), 1);
        }
    }
}

#[test]
fn a_forced_backend_is_taken_or_the_start_is_refused() {
    let disk = Choosy::new(SimDisk::new(1), &[Uring], true);
    let Err(error) = open(&disk, BackendChoice::Only(Uring)) else { panic!("it was refused") };
    let Error::Disk(error) = error else { panic!("{error}") };
    assert!(error.is_refusal(), "{error}");
    for backend in [Dsync, BufferedDsync, Fdatasync] {
        let mut wal = open(&disk, BackendChoice::Only(backend)).unwrap();
        assert_eq!(wal.backend(), backend);
        // The one that works everywhere is not measured.
        assert_eq!(wal.probe().is_some(), backend != Fdatasync);
        wal.append(&batch(wal.last_index() + 1)).unwrap();
    }
}

#[test]
fn a_backend_that_is_refused_later_is_replaced_and_nothing_is_lost() {
    for backend in [Dsync, BufferedDsync, Uring] {
        let disk = Choosy::new(SimDisk::new(1), &[], true);
        let mut wal = open(&disk, BackendChoice::Only(backend)).unwrap();
        wal.append(&batch(1)).unwrap();
        disk.refused_later.store(true, Ordering::Relaxed);
        // The open segment goes on as it is; the next one is opened another way.
        wal.append(&batch(2)).unwrap();
        assert_eq!(wal.backend(), backend);
        for index in 3..=40 {
            wal.append(&batch(index)).unwrap();
        }
        assert_eq!(wal.backend(), Fdatasync);
        drop(wal);
        let crashed = disk.sim.crash_with(CrashStyle::LoseAll);
        let wal = Wal::open(Arc::new(crashed), Path::new(DIR), options(BackendChoice::default()));
        let found = wal.unwrap().entries(1, 41, u64::MAX).unwrap();
        assert!((1..).zip(found).all(|(index, found)| found == payload(index)), "{backend}");
    }
}

#[test]
fn a_write_that_is_refused_later_is_final_and_nothing_is_lost() {
    for backend in Backend::ALL {
        let disk = Choosy::new(SimDisk::new(1), &[], true);
        let mut wal = open(&disk, BackendChoice::Only(backend)).unwrap();
        wal.append(&batch(1)).unwrap();
        disk.device.refuses.store(true, Ordering::Relaxed);
        // Nobody knows what a refused write has done, so no other way is tried.
        let Err(Error::Disk(error)) = wal.append(&batch(2)) else { panic!("{backend}") };
        assert!(error.is_refusal(), "{error}");
        assert!(matches!(wal.append(&batch(2)), Err(Error::Poisoned)), "{backend}");
        drop(wal);
        // The next start finds out what works now.
        let mut wal = open(&disk, BackendChoice::Auto).unwrap();
        assert_eq!((wal.backend(), wal.last_index()), (Fdatasync, 1));
        wal.append(&batch(2)).unwrap();
    }
}

#[test]
fn a_caller_that_outruns_the_device_waits_and_what_waits_shares_a_frame() {
    const BOUND: u64 = 8;
    let disk = Choosy::new(SimDisk::new(1), &[], true);
    let mut wal = open(&disk, BackendChoice::Only(Dsync)).unwrap();
    let (queue, queued) = mpsc::sync_channel::<u64>(BOUND as usize);
    let (tell, told) = mpsc::sync_channel(BOUND as usize);
    let busy = disk.device.busy.lock().unwrap();
    let writes = || disk.device.writes.load(Ordering::Relaxed);
    let before = writes();
    let appender = thread::spawn(move || {
        while let Ok(index) = queued.recv() {
            let mut batch = batch(index);
            queued.try_iter().for_each(|index| batch.entry(index, payload(index)));
            wal.append(&batch).unwrap();
            tell.send(wal.last_index()).unwrap();
        }
        wal.counters().frames
    });
    queue.send(1).unwrap();
    while writes() == before {
        thread::yield_now();
    }
    // One write is in flight: what comes now waits, up to the bound, and what is over it is refused.
    for index in 2..=1 + BOUND {
        queue.try_send(index).unwrap();
    }
    assert!(matches!(queue.try_send(BOUND + 2), Err(mpsc::TrySendError::Full(_))));
    assert_eq!(writes(), before + 1);
    assert!(told.try_recv().is_err(), "told of what is not durable");
    drop(busy);
    assert_eq!(told.recv(), Ok(1));
    assert_eq!(told.recv(), Ok(1 + BOUND));
    drop(queue);
    assert_eq!(appender.join().unwrap(), 2);
}

#[test]
fn a_disk_without_a_choice_is_not_measured() {
    let disk = SimDisk::new(1);
    let wal = Wal::open(Arc::new(disk.clone()), Path::new(DIR), options(BackendChoice::Auto));
    assert!(wal.unwrap().probe().is_none());
    let plain = SimDisk::new(1);
    let wal = Wal::open(Arc::new(plain.clone()), Path::new(DIR), options(BackendChoice::default()));
    drop(wal.unwrap());
    assert_eq!(disk.operations(), plain.operations());
}

#[test]
fn a_crash_at_any_operation_of_the_probe_harms_nothing() {
    let full = Choosy::new(SimDisk::new(1), &[], true);
    let mut wal = open(&full, BackendChoice::default()).unwrap();
    wal.append(&batch(1)).unwrap();
    drop(wal);
    let files = full.sim.durable_files();
    let counted = Choosy::new(SimDisk::from_files(1, &files).unwrap(), &[], true);
    drop(open(&counted, BackendChoice::Auto).unwrap());
    let operations = counted.sim.operations();
    assert!(operations > 100, "{operations} operations");
    let mut stopped = 0;
    for stop in 0..operations {
        let disk = Choosy::new(SimDisk::from_files(1, &files).unwrap(), &[], true);
        disk.sim.stop_at_operation(stop);
        if open(&disk, BackendChoice::Auto).is_ok() {
            // A busy machine: this probe was cut short, and never came so far.
            assert!(disk.sim.operations() <= stop, "call {stop} failed and nobody noticed");
            continue;
        }
        stopped += 1;
        for style in [CrashStyle::LoseAll, CrashStyle::KeepAll, CrashStyle::Random(stop)] {
            let found = Choosy::new(disk.sim.crash_with(style), &[], true);
            let mut wal = open(&found, BackendChoice::Auto)
                .unwrap_or_else(|error| panic!("stop {stop} {style:?}: {error}"));
            assert_eq!(wal.last_index(), 1);
            wal.append(&batch(2)).unwrap();
            let report = check(&found, Path::new(DIR), &IDENTITY).unwrap();
            assert_eq!(report.violations, Vec::<String>::new());
        }
    }
    // The file is made, filled and synced, and two turns are taken however late it is.
    assert!(stopped >= 3 + 2 * 2 * Backend::ALL.len(), "{stopped} of {operations}");
}

#[test]
fn a_disk_that_fails_under_the_probe_fails_the_start() {
    for kind in [OperationKind::Create, OperationKind::Write, OperationKind::Sync] {
        let disk = Choosy::new(SimDisk::new(1), &[], true);
        disk.sim.inject(FaultRule::new(Fault::Io).on(kind).path(PROBE).always());
        assert!(open(&disk, BackendChoice::Auto).is_err(), "{kind:?}");
        disk.sim.clear_faults();
        assert!(open(&disk, BackendChoice::Auto).is_ok(), "{kind:?}");
    }
}

#[test]
fn a_full_disk_is_opened_without_a_measurement() {
    for kind in [OperationKind::Create, OperationKind::Write, OperationKind::Sync] {
        for (choice, expected) in
            [(BackendChoice::Auto, Fdatasync), (BackendChoice::Only(Dsync), Dsync)]
        {
            let disk = Choosy::new(SimDisk::new(1), &[], true);
            let rule = FaultRule::new(Fault::StorageFull).on(kind).path(PROBE);
            disk.sim.inject(rule);
            let mut wal = open(&disk, choice).unwrap();
            assert_eq!(wal.backend(), expected);
            wal.append(&batch(1)).unwrap();
            assert!(!disk.exists(&Path::new(DIR).join(PROBE)).unwrap());
        }
    }
}

/// A simulated disk with all backends, some of which are refused.
#[derive(Clone)]
struct Choosy {
    sim: SimDisk,
    refused: Vec<Backend>,
    /// When opening; otherwise when writing.
    at_open: bool,
    /// Whether opening is refused to all that can be refused, from now on.
    refused_later: Arc<AtomicBool>,
    device: Arc<Device>,
}

/// What all writers of a disk share.
#[derive(Default)]
struct Device {
    /// Whether durable writes are refused from now on, but for those of `Fdatasync` made later.
    refuses: AtomicBool,
    /// Durable writes that were begun.
    writes: AtomicU64,
    /// While this is held, they do not end.
    busy: Mutex<()>,
}

/// A writer to a device.
struct Attached {
    writer: Box<dyn DurableWriter>,
    device: Arc<Device>,
    /// Whether writes were refused when it was opened, and it is what is left.
    is_last: bool,
}

impl DurableWriter for Attached {
    fn write_durable_at(&mut self, offset: u64, data: &[u8]) -> varve_disk::Result<()> {
        self.device.writes.fetch_add(1, Ordering::Relaxed);
        let _end = self.device.busy.lock().unwrap();
        if self.device.refuses.load(Ordering::Relaxed) && !self.is_last {
            return Err(refusal(Path::new("a segment")));
        }
        self.writer.write_durable_at(offset, data)
    }
}

impl Choosy {
    fn new(sim: SimDisk, refused: &[Backend], at_open: bool) -> Self {
        let refused_later = Arc::new(AtomicBool::new(false));
        let device = Arc::default();
        Self { sim, refused: refused.to_vec(), at_open, refused_later, device }
    }
}

/// A writer whose every write is refused.
struct Refusing;

fn refusal(path: &Path) -> varve_disk::Error {
    varve_disk::Error::new("write to", path, io::Error::from_raw_os_error(LINUX_EPERM))
}

impl DurableWriter for Refusing {
    fn write_durable_at(&mut self, _offset: u64, _data: &[u8]) -> varve_disk::Result<()> {
        Err(refusal(Path::new(PROBE)))
    }
}

impl Disk for Choosy {
    fn create(&self, path: &Path) -> varve_disk::Result<Arc<dyn File>> {
        self.sim.create(path)
    }
    fn open(&self, path: &Path) -> varve_disk::Result<Arc<dyn File>> {
        self.sim.open(path)
    }
    fn open_durable(
        &self,
        path: &Path,
        backend: Backend,
    ) -> varve_disk::Result<Box<dyn DurableWriter>> {
        if backend != Fdatasync && self.refused_later.load(Ordering::Relaxed) {
            return Err(refusal(path));
        }
        match self.refused.contains(&backend) {
            true if self.at_open => Err(refusal(path)),
            true => Ok(Box::new(Refusing)),
            false => {
                let refuses = self.device.refuses.load(Ordering::Relaxed);
                Ok(Box::new(Attached {
                    writer: self.sim.open_durable(path, backend)?,
                    device: Arc::clone(&self.device),
                    is_last: refuses && backend == Fdatasync,
                }))
            }
        }
    }
    fn backends(&self) -> &'static [Backend] {
        &Backend::ALL
    }
    fn map(&self, path: &Path) -> varve_disk::Result<Bytes> {
        self.sim.map(path)
    }
    fn link(&self, from: &Path, to: &Path) -> varve_disk::Result<()> {
        self.sim.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> varve_disk::Result<()> {
        self.sim.rename(from, to)
    }
    fn remove(&self, path: &Path) -> varve_disk::Result<()> {
        self.sim.remove(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> varve_disk::Result<()> {
        self.sim.remove_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> varve_disk::Result<Vec<String>> {
        self.sim.list(dir)
    }
    fn exists(&self, path: &Path) -> varve_disk::Result<bool> {
        self.sim.exists(path)
    }
    fn create_dir_all(&self, dir: &Path) -> varve_disk::Result<()> {
        self.sim.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> varve_disk::Result<()> {
        self.sim.sync_dir(dir)
    }
    fn space_left(&self, dir: &Path) -> varve_disk::Result<u64> {
        self.sim.space_left(dir)
    }
    fn lock(&self, dir: &Path) -> varve_disk::Result<Box<dyn DirLock>> {
        self.sim.lock(dir)
    }
}

fn options(backend: BackendChoice) -> Options {
    // Nothing is cached, so what is read comes from the files.
    Options {
        identity: IDENTITY,
        segment_bytes: 64 << 10,
        cache_bytes_max: 0,
        backend,
        ..Options::default()
    }
}

fn open(disk: &Choosy, backend: BackendChoice) -> varve_wal::Result<Wal> {
    Wal::open(Arc::new(disk.clone()), Path::new(DIR), options(backend))
}

/// Over the operating system; none where this machine does not have the backend.
fn open_real(dir: &Path, backend: Backend, block_bytes: u32) -> Option<Wal> {
    let options = options(BackendChoice::Only(backend));
    match Wal::open_with_block_bytes(Arc::new(OsDisk::new()), dir, options, block_bytes) {
        Err(Error::Disk(error)) if error.is_refusal() => None,
        outcome => Some(outcome.unwrap_or_else(|error| panic!("{backend}: {error}"))),
    }
}

/// Appends by each backend to what was there, and checks all of it each time.
fn reopen_by_every_backend(dir: &Path, block_bytes: u32) {
    for backend in Backend::ALL {
        let Some(mut wal) = open_real(dir, backend, block_bytes) else { continue };
        let (first, last) = (wal.first_index(), wal.last_index());
        let found = wal.entries(first, last + 1, u64::MAX).unwrap();
        assert!((first..).zip(found).all(|(index, found)| found == payload(index)));
        wal.append(&batch(last + 1)).unwrap();
        assert_eq!(wal.entries(last + 1, last + 2, u64::MAX).unwrap(), [payload(last + 1)]);
        drop(wal);
        let report = check(&OsDisk::new(), dir, &IDENTITY).unwrap();
        assert_eq!((report.violations, report.last_index), (Vec::new(), last + 1), "{backend}");
    }
}

fn read_files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let disk = OsDisk::new();
    let names = disk.list(dir).unwrap();
    let read = |name: String| {
        let bytes = disk.map(&dir.join(&name)).unwrap().to_vec();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

fn batch(index: u64) -> Batch {
    let mut batch = Batch::default();
    batch.entry(index, payload(index));
    batch.state(Bytes::from(format!("state {index}")));
    batch
}

fn payload(index: u64) -> Bytes {
    // Frames of one block and of several.
    let length = if index.is_multiple_of(7) { 9000 } else { 300 };
    Bytes::from(vec![index as u8; length])
}
