//! Recovery of a log whose files were damaged, and of a file of arbitrary bytes.
//!
//! What must hold: opening gives a log or an error; what the log then returns is what was once
//! appended under that index; the log can be continued and opened again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use varve_disk::Disk;
use varve_disk::sim::{Random, SimDisk};
use varve_wal::{Batch, Options, SEGMENT_BYTES_MIN, Wal, check};

use super::damage::{Files, damage};
use super::input::Input;
use super::seal::seal_all;

const DIRECTORY: &str = "/log";
const BATCHES: u64 = 24;
const IDENTITY: [u8; 16] = [7; 16];

/// A good log and what is in it.
struct Good {
    files: Files,
    /// The entries of index 1 and following; an index that was written twice has both payloads.
    entries: Vec<Vec<Bytes>>,
}

/// Runs one input.
pub fn recovery(data: &[u8]) {
    let mut input = Input::new(data);
    let good = good();
    let mut files = good.files.clone();
    let mode = input.byte();
    // Raw bytes, or damage with checksums that match it: then anything may be read, but no panic.
    let (is_raw, is_sealed) = (mode >= 0xfe, mode & 1 == 1);
    if is_raw {
        files = Files::from([(first_segment(&good.files), data[1..].to_vec())]);
    } else {
        damage(&mut files, &mut input);
    }
    if is_sealed {
        files.values_mut().for_each(|bytes| seal_all(bytes));
    }
    let disk = SimDisk::from_files(1, &files).expect("the files are well formed");
    let _ = check(&disk, Path::new(DIRECTORY), &IDENTITY);
    let Ok(mut wal) = open(&disk) else { return };
    read_all(&wal, |index, payload| {
        let known = good.entries.get(index as usize - 1);
        let is_known = known.is_some_and(|payloads| payloads.contains(payload));
        assert!(is_raw || is_sealed || is_known, "entry {index} was never appended: {payload:?}");
    });
    let next = wal.last_index() + 1;
    let mut batch = Batch::default();
    batch.entry(next, Bytes::from_static(b"after"));
    wal.append(&batch).expect("a log that was opened can be continued");
    drop(wal);
    let wal = open(&disk).expect("a log that was continued can be opened");
    assert_eq!(wal.last_index(), next, "the entry that was acknowledged");
    let found = wal.entries(next, next + 1, u64::MAX).expect("the newest entry is there");
    assert_eq!(found, [Bytes::from_static(b"after")]);
}

fn read_all(wal: &Wal, mut see: impl FnMut(u64, &Bytes)) {
    for index in wal.first_index()..=wal.last_index() {
        // Damage that recovery does not read payloads for is found here.
        if let Ok(entries) = wal.entries(index, index + 1, u64::MAX) {
            see(index, &entries[0]);
        }
    }
}

fn open(disk: &SimDisk) -> varve_wal::Result<Wal> {
    let options = Options {
        identity: IDENTITY,
        segment_bytes: SEGMENT_BYTES_MIN,
        cache_bytes_max: 0,
        ..Options::default()
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Wal::open_with_block_bytes(disk, Path::new(DIRECTORY), options, 512)
}

fn first_segment(files: &Files) -> PathBuf {
    files.keys().next().expect("a log has a segment").clone()
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let (disk, mut random) = (SimDisk::new(1), Random::new(1));
        let mut wal = open(&disk).expect("an empty log opens");
        let mut entries: Vec<Vec<Bytes>> = Vec::new();
        for number in 0..BATCHES {
            let mut batch = Batch::default();
            batch.state(Bytes::from(format!("state {number}")));
            // Now and then the end of the log is replaced, as a follower's is.
            let next = wal.last_index() + 1;
            let first = if random.one_in(5) { next.saturating_sub(2).max(1) } else { next };
            for index in first..=first + random.below(3) {
                let filler = "x".repeat(random.below(700) as usize);
                let payload = Bytes::from(format!("{index} of batch {number} {filler}"));
                let slot = index as usize - 1;
                entries.resize(entries.len().max(slot + 1), Vec::new());
                entries[slot].push(payload.clone());
                batch.entry(index, payload);
            }
            wal.append(&batch).expect("the simulated disk works");
        }
        drop(wal);
        Good { files: disk.durable_files(), entries }
    })
}

/// One input for each kind of damage, the undamaged log, and a raw segment.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<(String, Vec<u8>)> = (0..7_u8)
        .map(|kind| {
            let tape = [0, kind, 1, 0x40, 0x60, 3, 9, 9, 9, 9, 9, 9];
            (format!("damage-{kind}"), tape.to_vec())
        })
        .collect();
    seeds.extend((0..7_u8).map(|kind| {
        let tape = [1, kind, 1, 0x40, 0x60, 3, 9, 9, 9, 9, 9, 9];
        (format!("sealed-{kind}"), tape.to_vec())
    }));
    seeds.push(("undamaged".to_owned(), Vec::new()));
    let good = good();
    let mut raw = vec![0xff_u8];
    raw.extend_from_slice(&good.files[&first_segment(&good.files)][..1024]);
    seeds.push(("raw".to_owned(), raw));
    seeds
}
