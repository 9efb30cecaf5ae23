//! What a record costs in processor time when batches are full: 256 entries of 256 bytes each.
//!
//! `cargo run --release -p varve-wal --example append_cpu -- <directory> [<batches>]`
//!
//! One idea: the kernel counts the time that a thread ran, in user and kernel mode together, so
//! neither the device nor other work on the machine is in the figure. Segments are recycled, as in
//! a server that runs for long; the first fifth of the batches, which fills them, is not counted.
//! In a directory in memory (`/dev/shm`) the figure is nearly all the log's own.
//!
//! What it does not do: it does not count what workers of the kernel do for the device.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use varve_disk::os::OsDisk;
use varve_wal::{Backend, BackendChoice, Batch, Options, Wal};

const ENTRY_BYTES: usize = 256;
const BATCH_ENTRIES: u64 = 256;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().expect("the first argument is a directory");
    let batches = arguments.next().map_or(5000, |text| text.parse().expect("a number of batches"));
    let home = tempfile::tempdir_in(parent).expect("the directory can be written to");
    let payload = Bytes::from(vec![7; ENTRY_BYTES]);
    for backend in Backend::ALL {
        let options = Options {
            backend: BackendChoice::Only(backend),
            segment_bytes: 8 << 20,
            cache_bytes_max: 1 << 20,
            ..Options::default()
        };
        let dir = home.path().join(backend.to_string());
        let mut wal = match Wal::open(Arc::new(OsDisk::new()), &dir, options) {
            Ok(wal) => wal,
            Err(error) => {
                println!("{backend}: {error}");
                continue;
            }
        };
        let mut batch = Batch::default();
        let mut counted = (Instant::now(), thread_nanos());
        for number in 0..batches {
            if number == batches / 5 {
                counted = (Instant::now(), thread_nanos());
            }
            batch.clear();
            let first = wal.last_index() + 1;
            for index in first..first + BATCH_ENTRIES {
                batch.entry(index, payload.clone());
            }
            wal.append(&batch).expect("the disk works");
            if number % 64 == 0 {
                wal.truncate_front(first - 1).expect("the disk works");
            }
        }
        let records = (batches - batches / 5) * BATCH_ENTRIES;
        let processor = (thread_nanos() - counted.1) / records;
        let elapsed = counted.0.elapsed().as_nanos() as u64 / records;
        println!("{backend}: {processor} ns of processor time a record, {elapsed} ns elapsed");
    }
}

/// How long this thread has run.
fn thread_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let first = text.split(' ').next().expect("a split has a first part");
    first.parse().expect("the first field is a number")
}
