//! How long a start takes with a log of 1 GiB of entries of 256 bytes, 64 to a batch.
//!
//! `cargo run --release -p varve-wal --example recover_one_gibibyte -- <directory> [<rounds>]`
//!
//! The log is written once, and opened `rounds` times; what was just written is in the page cache,
//! so this is the warm figure. The last lines are what else a start may cost: reading all entries
//! back, and a whole check. On a busy machine the fastest round says the most.
//!
//! What it does not do: it empties no cache, so it says nothing of the device.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use varve_disk::os::OsDisk;
use varve_wal::{Batch, Options, Wal, check};

const ENTRY_BYTES: usize = 256;
const BATCH_ENTRIES: u64 = 64;
const BATCHES: u64 = (1 << 30) / (ENTRY_BYTES as u64 * BATCH_ENTRIES);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().expect("the first argument is a directory");
    let rounds = arguments.next().map_or(5, |text| text.parse().expect("a number of rounds"));
    let home = tempfile::tempdir_in(parent).expect("the directory can be written to");
    let dir = home.path().join("wal");
    let (took, written_bytes) = timed(|| write(&dir));
    println!("{BATCHES} appends of {written_bytes} bytes: {took:?}");
    for _ in 0..rounds {
        let (took, wal) = timed(|| open(&dir));
        assert_eq!(wal.last_index(), BATCHES * BATCH_ENTRIES);
        println!("opened {} entries in {took:?}", wal.last_index());
    }
    let wal = open(&dir);
    let (took, ()) = timed(|| read_back(&wal));
    println!("read them in {took:?}");
    let identity = Options::default().identity;
    let (took, report) = timed(|| check(&OsDisk::new(), &dir, &identity).expect("the disk works"));
    assert_eq!(report.violations, Vec::<String>::new());
    println!("checked {} records in {took:?}", report.records);
}

fn timed<T>(step: impl FnOnce() -> T) -> (Duration, T) {
    let began = Instant::now();
    let outcome = step();
    (began.elapsed(), outcome)
}

fn open(dir: &Path) -> Wal {
    let wal = Wal::open(Arc::new(OsDisk::new()), dir, Options::default());
    wal.expect("a healthy log opens")
}

/// Writes the log; bytes of its frames.
fn write(dir: &Path) -> u64 {
    let mut wal = open(dir);
    for first in (0..BATCHES).map(|number| 1 + number * BATCH_ENTRIES) {
        let mut batch = Batch::default();
        for index in first..first + BATCH_ENTRIES {
            let mut payload = vec![index as u8; ENTRY_BYTES];
            payload[..8].copy_from_slice(&index.to_le_bytes());
            batch.entry(index, Bytes::from(payload));
        }
        wal.append(&batch).expect("the disk works");
    }
    wal.counters().written_bytes
}

fn read_back(wal: &Wal) {
    let (mut low, end) = (wal.first_index(), wal.last_index() + 1);
    while low < end {
        low += wal.entries(low, end, 1 << 20).expect("the log is sound").len() as u64;
    }
}
