//! Every bit of a log, flipped, one at a time: what was acknowledged is read back as it was, or the
//! log is refused. There is no third answer.
//!
//! The reference log has closed segments, a recycled one with stale frames behind the new ones, a
//! spare, frames of more than one block, some of them compressed, and at its end a frame whose write was never acknowledged:
//! its disk failed, and it is there all the same. Where a bit lies says what must happen, and the
//! places are computed from `docs/FORMAT.md` alone:
//!
//! | class | a flip is |
//! | --- | --- |
//! | header of a segment, acknowledged frame | refused, and found by the checker; nothing is changed |
//! | unacknowledged frame | cut off; all that was acknowledged is there |
//! | padding, unused (zeros or stale), spare | without effect: the same entries and state |
//!
//! The short run flips a sample. All of it, more than two million flips, is
//!
//! ```sh
//! VARVE_LONG=1 cargo test --release -p varve-wal --test log flips -- --nocapture
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use varve_disk::sim::{CrashStyle, Fault, FaultRule, OperationKind, Random, SimDisk};
use varve_wal::{Error, check};

use crate::model::{DIR, IDENTITY, Model, Operation, Shape, to_batch};

const SHAPE: Shape = Shape { segment_bytes: 32 << 10, block_bytes: 512, compress_bytes_min: None };
/// The batches that are written with compression, about half of which it makes shorter: few, for
/// every opening decompresses them again.
const COMPRESSED: std::ops::Range<u64> = 100..116;
const REFERENCE_BYTES_MIN: usize = 256 << 10;
/// The short run flips one bit of one in so many bytes.
const SAMPLE_BYTES: usize = 97;

/// What a byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Header,
    Acknowledged,
    Unacknowledged,
    Padding,
    Unused,
    Spare,
}

/// What a flip did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    Refused,
    Cut,
    Nothing,
}

type Files = BTreeMap<PathBuf, Vec<u8>>;
type Tally = BTreeMap<(Class, Effect), u64>;

struct Reference {
    files: Files,
    acknowledged: Model,
    attempted: Model,
}

#[test]
fn every_flipped_bit_is_refused_or_provably_means_nothing() {
    let is_long = std::env::var_os("VARVE_LONG").is_some_and(|value| value == "1");
    let reference = reference();
    let total: usize = reference.files.values().map(Vec::len).sum();
    assert!(total >= REFERENCE_BYTES_MIN, "{total} bytes");
    let compressed = compressed_frames(&reference.files);
    assert!(compressed >= 4, "{compressed} compressed frames");
    let newest = newest_sequence(&reference.files);
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            let reference = &reference;
            scope.spawn(move || {
                let mut tally = Tally::new();
                for (path, bytes) in &reference.files {
                    let classes = classes(path, bytes, newest);
                    flip_file(reference, path, &classes, half, is_long, &mut tally);
                }
                tally
            })
        });
        halves.into_iter().map(|half| half.join().expect("no flip is believed")).collect()
    });
    let mut tally = Tally::new();
    for ((class, effect), count) in tallies.into_iter().flatten() {
        *tally.entry((class, effect)).or_default() += count;
    }
    let flips: u64 = tally.values().sum();
    println!("{flips} bits of {total} bytes flipped, {compressed} frames compressed:");
    for ((class, effect), count) in &tally {
        println!("{count:>9} {class:?}: {effect:?}");
    }
    // Whether an answer was right is asserted at each flip. This says that each class was met.
    let classes: Vec<Class> = tally.keys().map(|(class, _)| *class).collect();
    let all = [Class::Header, Class::Acknowledged, Class::Unacknowledged];
    let all = all.into_iter().chain([Class::Padding, Class::Unused, Class::Spare]);
    assert_eq!(classes, all.collect::<Vec<_>>());
    assert!(!is_long || flips == 8 * total as u64);
}

fn flip_file(
    reference: &Reference,
    path: &Path,
    classes: &[Class],
    half: usize,
    is_long: bool,
    tally: &mut Tally,
) {
    let mut disk = SimDisk::from_files(1, &reference.files).expect("files of a disk");
    for (byte, class) in classes.iter().enumerate().skip(half).step_by(2) {
        // Of the rare classes every byte, or else a sample might not meet them.
        let is_rare = matches!(class, Class::Unacknowledged | Class::Header);
        let is_sampled = byte / 2 % SAMPLE_BYTES == 0 || (is_rare && byte / 2 % 16 == 0);
        if !is_long && !is_sampled {
            continue;
        }
        for bit in 0..8 {
            if !is_long && bit != byte as u32 * 7 % 8 {
                continue;
            }
            let context = format!("bit {bit} of byte {byte} of {} ({class:?})", path.display());
            disk.flip_bit(path, byte as u64, bit).expect("the file has that bit");
            let effect = open_flipped(reference, &disk, *class, byte % 8 == bit as usize, &context);
            *tally.entry((*class, effect)).or_default() += 1;
            if effect == Effect::Refused {
                disk.flip_bit(path, byte as u64, bit).expect("the file has that bit");
            } else {
                disk = SimDisk::from_files(1, &reference.files).expect("files of a disk");
            }
        }
        // What was refused was left alone: with the bit flipped back, all is as before.
        let is_refused = matches!(class, Class::Header | Class::Acknowledged);
        assert!(!is_refused || byte % 8 > 1 || disk.current_files() == reference.files, "{byte}");
    }
}

/// Opens a log with a flipped bit and holds the answer against what its place demands.
fn open_flipped(
    reference: &Reference,
    disk: &SimDisk,
    class: Class,
    is_checked: bool,
    context: &str,
) -> Effect {
    let is_refused = matches!(class, Class::Header | Class::Acknowledged);
    if is_checked {
        let report = check(disk, Path::new(DIR), &IDENTITY).expect("the disk works");
        // The checker also minds padding that is not zero; recovery does not.
        let is_found = !report.violations.is_empty();
        assert!(is_found == is_refused || class == Class::Padding, "{context}: {report:?}");
    }
    let wal = match SHAPE.open(disk) {
        Ok(wal) => wal,
        Err(Error::Disk(error)) => panic!("{context}: {error}"),
        Err(error) => {
            assert!(is_refused, "{context}: {error}");
            return Effect::Refused;
        }
    };
    assert!(!is_refused, "{context}: opened, {}..={}", wal.first_index(), wal.last_index());
    if class == Class::Unacknowledged {
        assert_eq!(reference.acknowledged.difference(&wal), None, "{context}");
        return Effect::Cut;
    }
    assert_eq!(reference.attempted.difference(&wal), None, "{context}");
    Effect::Nothing
}

/// A log of at least 256 KiB, its model, and its model with the frame that nobody acknowledged.
fn reference() -> Reference {
    let disk = SimDisk::new(1);
    let mut wal = SHAPE.open(&disk).expect("a new log opens");
    let mut model = Model::new();
    let mut random = Random::new(1);
    let files_bytes = |disk: &SimDisk| disk.durable_files().values().map(Vec::len).sum::<usize>();
    for index in 1_u64.. {
        // Truncated in the beginning, so that segments are recycled, and then no more; at the end
        // two are given up, so that there is a spare.
        let is_long_enough = files_bytes(&disk) >= REFERENCE_BYTES_MIN + (64 << 10);
        if index == 60 || is_long_enough {
            let through = if is_long_enough { index * 2 / 5 } else { 50 };
            wal.truncate_front(through).expect("the disk works");
            model.apply(&Operation::Truncate(through));
        }
        if is_long_enough {
            break;
        }
        if index == COMPRESSED.start || index == COMPRESSED.end {
            let compress_bytes_min = COMPRESSED.contains(&index).then_some(600);
            drop(wal);
            wal = Shape { compress_bytes_min, ..SHAPE }.open(&disk).expect("a sound log opens");
        }
        let operation = batch(&mut random, index);
        wal.append(&to_batch(&operation)).expect("the disk works");
        model.apply(&operation);
    }
    model.first = wal.first_index();
    // The write of the newest frame fails, and yet all of it is there.
    let operation = batch(&mut random, model.next);
    let mut attempted = model.clone();
    attempted.apply(&operation);
    disk.inject(FaultRule::new(Fault::Io).on(OperationKind::Sync).path(".wal"));
    wal.append(&to_batch(&operation)).expect_err("the disk fails");
    let found = disk.crash_with(CrashStyle::KeepAll);
    let (acknowledged, files) = (model, found.durable_files());
    let wal = SHAPE.open(&found).expect("a whole frame is taken");
    assert_eq!(attempted.difference(&wal), None);
    Reference { files, acknowledged, attempted }
}

/// Entries of many lengths, some of which compress.
fn batch(random: &mut Random, index: u64) -> Operation {
    let length = [20, 150, 900, 3000, 7000][random.below(5) as usize];
    let is_noise = random.one_in(2);
    let payload = (0..length).map(|at| if is_noise { random.next_u64() as u8 } else { at as u8 });
    let entries = vec![(index, payload.collect::<Vec<_>>().into())];
    let state = random.one_in(3).then(|| format!("state {index}").into());
    Operation::Append { reset: None, entries, state }
}

/// What each byte of a file is, by the format.
fn classes(path: &Path, bytes: &[u8], newest: u64) -> Vec<Class> {
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name of ours");
    if !name.ends_with(".wal") || name.starts_with("spare") {
        return vec![Class::Spare; bytes.len()];
    }
    let mut classes = vec![Class::Unused; bytes.len()];
    let block = number(bytes, 12, 4) as usize;
    classes[..512].fill(Class::Header);
    classes[512..block].fill(Class::Padding);
    for (offset, end, sequence) in frames(bytes) {
        let class = if sequence == newest { Class::Unacknowledged } else { Class::Acknowledged };
        classes[offset..end].fill(class);
        classes[end..end.next_multiple_of(block)].fill(Class::Padding);
    }
    classes
}

/// Offset, end without padding, and sequence of the frames of a segment. In a log that is whole, a
/// frame of this segment and generation is a frame of the log.
fn frames(bytes: &[u8]) -> Vec<(usize, usize, u64)> {
    let block = number(bytes, 12, 4) as usize;
    let mut frames = Vec::new();
    let mut offset = block;
    while bytes
        .get(offset..offset + 64)
        .is_some_and(|header| header.starts_with(b"VWLF") && header[8..24] == bytes[32..48])
    {
        let end = offset + 64 + number(bytes, offset + 40, 4) as usize;
        frames.push((offset, end, number(bytes, offset + 24, 8)));
        offset = end.next_multiple_of(block);
    }
    frames
}

fn newest_sequence(files: &Files) -> u64 {
    let frames = segments(files).flat_map(|bytes| frames(bytes));
    frames.map(|(_, _, sequence)| sequence).max().expect("a log has frames")
}

fn compressed_frames(files: &Files) -> usize {
    let is_compressed = |bytes: &[u8], offset: usize| bytes[offset + 6] != 0;
    let count = |bytes: &Vec<u8>| {
        frames(bytes).into_iter().filter(|(offset, ..)| is_compressed(bytes, *offset)).count()
    };
    segments(files).map(count).sum()
}

fn segments(files: &Files) -> impl Iterator<Item = &Vec<u8>> {
    let is_segment = |path: &Path| {
        let path = path.to_string_lossy();
        path.ends_with(".wal") && !path.contains("spare")
    };
    files.iter().filter(move |(path, _)| is_segment(path)).map(|(_, bytes)| bytes)
}

fn number(bytes: &[u8], offset: usize, length: usize) -> u64 {
    let mut number = [0; 8];
    number[..length].copy_from_slice(&bytes[offset..offset + length]);
    u64::from_le_bytes(number)
}
