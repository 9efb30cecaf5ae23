//! The manifest on a simulated disk: exact bytes, torn tails, damage, rotation.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::sim::{CrashStyle, Fault, FaultRule, OperationKind, SimDisk};

use super::*;
use crate::garbage::Garbage;
use crate::segment::SegmentInfo;
use crate::table::TableInfo;
use crate::{Keyspace, Revision};

const DIR: &str = "/engine";
const RECEIPT_BYTES: usize = 24;
const IDENTITY: Identity = Identity { identity: *b"cluster and node", origin: 0x0a0b_0c0d };

fn table(id: u64) -> TableRecord {
    TableRecord {
        keyspace: if id.is_multiple_of(2) { Keyspace::Kv } else { Keyspace::Sys },
        level: if id.is_multiple_of(3) { Level::Bottom } else { Level::ZERO },
        info: TableInfo {
            id,
            bytes: 1000 + id,
            digest: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10 + u128::from(id),
            first_key: Bytes::from_static(b"first"),
            last_key: Bytes::from_static(b"last"),
            rows: 30,
            revision_min: Revision { main: 4, sub: 1 },
            revision_max: Revision { main: 9, sub: 2 },
            delta_sum: -2,
            segments: vec![(id + 1, 10, 5_000)],
        },
        garbage: Garbage { buckets: vec![(7, 3, 700), (9, 4, 0)] },
    }
}

fn segment(id: u64) -> SegmentInfo {
    SegmentInfo { id, bytes: 6_000, digest: 77, values: 10, value_bytes: 5_000 }
}

fn edit(number: u64) -> Edit {
    Edit {
        mark: Some(Bytes::from(format!("mark {number}"))),
        kv_visible: 10 * number,
        compacted: 10 * number - 5,
        next_sequence: 2 * number as u32,
        removed_tables: if number > 1 { vec![100 * (number - 1)] } else { Vec::new() },
        removed_segments: if number > 1 { vec![100 * (number - 1) + 1] } else { Vec::new() },
        added_tables: vec![table(100 * number)],
        added_segments: vec![segment(100 * number + 1)],
    }
}

fn new_disk() -> Arc<dyn Disk> {
    with_dir(SimDisk::new(1))
}

fn with_dir(disk: SimDisk) -> Arc<dyn Disk> {
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    Arc::new(disk)
}

fn create(disk: &Arc<dyn Disk>) -> Manifest {
    Manifest::create(disk, Path::new(DIR), IDENTITY, 1, &State::default()).unwrap()
}

fn reopen(disk: &Arc<dyn Disk>) -> Result<(Manifest, State)> {
    let (mut manifest, state) = Manifest::open(disk, Path::new(DIR))?.expect("CURRENT is there");
    if !manifest.is_outdated() {
        manifest.restore_receipt();
    }
    Ok((manifest, state))
}

fn state_after(edits: u64) -> State {
    let mut state = State::default();
    (1..=edits).for_each(|number| state.apply(edit(number)).unwrap());
    state
}

fn path(number: u64) -> PathBuf {
    Path::new(DIR).join(manifest_name(number))
}

/// Compares what `edits` are written as with a golden file, and what that is read as with `state`.
fn assert_golden(name: &str, golden: &[u8], edits: &[Edit], state: &State) -> Arc<dyn Disk> {
    let disk = new_disk();
    let mut manifest = create(&disk);
    edits.iter().for_each(|edit| manifest.append(edit).unwrap());
    let written = read_file(&*disk, &path(1)).unwrap();
    if std::env::var_os("VARVE_WRITE_GOLDEN").is_some() {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let os = varve_disk::os::OsDisk::new();
        let file = os.open(&target).unwrap();
        file.set_len(0).unwrap();
        file.write_at(0, &written).unwrap();
        return disk;
    }
    assert_eq!(written, golden, "docs/FORMAT.md section 2.3 or the code changed");
    disk.open(&path(1)).unwrap().write_at(0, golden).unwrap();
    assert_eq!(reopen(&disk).unwrap().1, *state);
    disk
}

#[test]
fn the_bytes_are_those_of_the_golden_file() {
    let golden = include_bytes!("../../tests/golden/manifest_v2.bin");
    let edits = [edit(1), edit(2)];
    let disk = assert_golden("manifest_v2.bin", golden, &edits, &state_after(2));
    let current = read_file(&*disk, &Path::new(DIR).join(CURRENT_NAME)).unwrap();
    assert_eq!(current[..16], *b"VRVCURNT\x01\0\0\0\0\0\0\0");
    assert_eq!(current.len(), 24);
}

/// Version 1 has no bytes of garbage; what it has is kept, in a manifest of the present version.
#[test]
fn a_manifest_of_version_1_is_read_and_rotated() {
    let disk = new_disk();
    create(&disk);
    let golden = include_bytes!("../../tests/golden/manifest_v1.bin");
    disk.open(&path(1)).unwrap().write_at(0, golden).unwrap();
    let (mut manifest, state) = reopen(&disk).unwrap();
    let mut expected = state_after(2);
    for table in &mut expected.tables {
        table.garbage.buckets.iter_mut().for_each(|(_, _, value_bytes)| *value_bytes = 0);
    }
    assert_eq!(state, expected);
    assert_eq!(parse(&path(1), golden).unwrap(), expected, "as one from elsewhere");
    assert!(manifest.is_outdated());
    manifest.rotate(&state).unwrap();
    assert!(!manifest.is_outdated());
    manifest.append(&edit(3)).unwrap();
    let (manifest, state) = reopen(&disk).unwrap();
    assert!(manifest.number() == 2 && !manifest.is_outdated());
    expected.apply(edit(3)).unwrap();
    assert_eq!(state, expected);
}

#[test]
fn the_bytes_of_tiers_are_those_of_the_golden_file() {
    let golden = include_bytes!("../../tests/golden/manifest_v2_tiers.bin");
    let levels =
        [Level::Bottom, Level::Tier(TIER_MAX), Level::Tier(1), Level::Tier(1), Level::ZERO];
    let tables = (1..).zip(levels).map(|(id, level)| TableRecord { level, ..table(2 * id) });
    let edit = Edit { added_tables: tables.collect(), ..edit(1) };
    let mut state = State::default();
    state.apply(edit.clone()).unwrap();
    let written = edit.encode();
    assert_golden("manifest_v2_tiers.bin", golden, &[edit], &state);
    // One tier more than there is: behind an id of 4 and in front of one of 6.
    let at = written.windows(3).position(|bytes| bytes == [0, 1 + TIER_MAX, 4]).unwrap() + 1;
    let mut wrong = written;
    wrong[at] += 1;
    let wrong = Edit::decode(&wrong, FORMAT_VERSION).unwrap_err();
    assert_eq!((wrong.expected.as_str(), wrong.found.as_str()), ("level 0 to 16", "17"));
}

#[test]
fn edits_add_up_after_reopening() {
    let disk = new_disk();
    let mut manifest = create(&disk);
    for number in 1..=5 {
        manifest.append(&edit(number)).unwrap();
        let (next, state) = reopen(&disk).unwrap();
        assert_eq!(state, state_after(number));
        assert_eq!(next.identity(), IDENTITY);
        manifest = next;
    }
}

#[test]
fn a_long_manifest_is_rotated_and_the_state_stays() {
    let disk = new_disk();
    let mut manifest = create(&disk);
    let mut rotations = 0;
    for number in 1..=200 {
        manifest.append(&edit(number)).unwrap();
        if manifest.is_long() {
            manifest.rotate(&state_after(number)).unwrap();
            rotations += 1;
        }
    }
    assert_eq!(rotations, 3);
    assert_eq!(manifest.number(), 4);
    let names = disk.list(Path::new(DIR)).unwrap();
    assert_eq!(names, [CURRENT_NAME.to_owned(), manifest_name(4)]);
    assert_eq!(reopen(&disk).unwrap().1, state_after(200));
}

#[test]
fn a_torn_last_edit_is_cut_at_every_length() {
    let disk = new_disk();
    let mut manifest = create(&disk);
    manifest.append(&edit(1)).unwrap();
    let sound = read_file(&*disk, &path(1)).unwrap();
    manifest.append(&edit(2)).unwrap();
    let whole = read_file(&*disk, &path(1)).unwrap();
    for length in sound.len()..whole.len() {
        let file = disk.open(&path(1)).unwrap();
        file.write_at(0, &whole).unwrap();
        file.set_len(length as u64).unwrap();
        let (mut manifest, state) = reopen(&disk).unwrap();
        if length < whole.len() - RECEIPT_BYTES {
            assert_eq!(state, state_after(1), "cut at {length}");
            assert_eq!(read_file(&*disk, &path(1)).unwrap(), sound);
            manifest.append(&edit(2)).unwrap();
        }
        // A receipt that is missing is written at the next start.
        assert_eq!(read_file(&*disk, &path(1)).unwrap(), whole);
        assert_eq!(reopen(&disk).unwrap().1, state_after(2));
    }
}

#[test]
fn a_flipped_bit_is_refused_or_lies_in_a_receipt() {
    let disk = new_disk();
    let mut manifest = create(&disk);
    manifest.append(&edit(1)).unwrap();
    let first = read_file(&*disk, &path(1)).unwrap().len();
    manifest.append(&edit(2)).unwrap();
    let whole = read_file(&*disk, &path(1)).unwrap();
    let receipts = [first - RECEIPT_BYTES..first, whole.len() - RECEIPT_BYTES..whole.len()];
    let mut ignored = 0;
    for bit in 0..whole.len() * 8 {
        let file = disk.open(&path(1)).unwrap();
        file.write_at(bit as u64 / 8, &[whole[bit / 8] ^ (1 << (bit % 8))]).unwrap();
        match reopen(&disk) {
            Ok((_, state)) => {
                assert!(receipts.iter().any(|range| range.contains(&(bit / 8))), "bit {bit}");
                assert_eq!(state, state_after(2), "bit {bit}");
                ignored += 1;
            }
            Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
        }
        file.write_at(0, &whole).unwrap();
        file.set_len(whole.len() as u64).unwrap();
    }
    assert_eq!(ignored, 2 * 8 * RECEIPT_BYTES, "no two receipts are needed at once");
}

#[test]
fn an_edit_whose_receipt_did_not_reach_the_disk_is_believed() {
    let found = (0..64).map(|seed| {
        let sim = SimDisk::new(seed);
        let disk = with_dir(sim.clone());
        let mut manifest = create(&disk);
        manifest.append(&edit(1)).unwrap();
        // Its write passes, and its sync not: what of it reaches the disk is anybody's guess.
        sim.fail_after(1, varve_disk::sim::Fault::Io);
        assert!(manifest.append(&edit(2)).is_err());
        let found: Arc<dyn Disk> = Arc::new(sim.crash_with(CrashStyle::Random(seed)));
        let state = reopen(&found).unwrap().1;
        assert!(state == state_after(1) || state == state_after(2), "{seed}");
        state == state_after(2)
    });
    let (believed, torn): (Vec<bool>, Vec<bool>) = found.partition(|is_believed| *is_believed);
    assert!(!believed.is_empty() && !torn.is_empty(), "{} and {}", believed.len(), torn.len());
}

#[test]
fn a_disk_without_room_for_a_receipt_keeps_no_later_edit_out() {
    let sim = SimDisk::new(5);
    let disk = with_dir(sim.clone());
    let mut manifest = create(&disk);
    manifest.append(&edit(1)).unwrap();
    // The edit is written and synced; its receipt finds no room.
    sim.fail_after(2, Fault::StorageFull);
    manifest.append(&edit(2)).unwrap();
    sim.clear_faults();
    manifest.append(&edit(3)).unwrap();
    let found: Arc<dyn Disk> = Arc::new(sim.crash());
    assert_eq!(reopen(&found).unwrap().1, state_after(3));
}

#[test]
fn a_damaged_current_is_refused() {
    let disk = new_disk();
    create(&disk);
    let path = Path::new(DIR).join(CURRENT_NAME);
    let file = disk.open(&path).unwrap();
    for offset in 0..24 {
        let mut byte = [0];
        file.read_exact_at(offset, &mut byte).unwrap();
        file.write_at(offset, &[byte[0] ^ 1]).unwrap();
        assert!(reopen(&disk).is_err(), "byte {offset}");
        file.write_at(offset, &byte).unwrap();
    }
    file.set_len(23).unwrap();
    assert!(reopen(&disk).is_err());
}

#[test]
fn an_unknown_version_is_named() {
    let disk = new_disk();
    create(&disk);
    disk.open(&path(1)).unwrap().write_at(8, &[3]).unwrap();
    let error = reopen(&disk).err().unwrap().to_string();
    assert!(error.contains("expected format version 1 to 2, found 3"), "{error}");
}

#[test]
fn nothing_is_written_after_a_failed_sync() {
    let sim = SimDisk::new(3);
    let disk = with_dir(sim.clone());
    let mut manifest = create(&disk);
    manifest.append(&edit(1)).unwrap();
    // The write passes, the sync fails.
    sim.fail_after(1, varve_disk::sim::Fault::Io);
    assert!(manifest.append(&edit(2)).is_err());
    sim.clear_faults();
    let operations = sim.operations();
    assert!(manifest.append(&edit(2)).is_err());
    assert!(manifest.rotate(&state_after(1)).is_err());
    assert_eq!(sim.operations(), operations);
}

#[test]
fn a_crash_during_rotation_leaves_the_old_or_the_new_manifest() {
    let sim = SimDisk::new(5);
    let disk = with_dir(sim.clone());
    let mut manifest = create(&disk);
    manifest.append(&edit(1)).unwrap();
    let start = sim.operations();
    manifest.rotate(&state_after(1)).unwrap();
    let end = sim.operations();
    for operation in start..=end {
        for seed in 0..6 {
            let sim = SimDisk::new(5);
            let disk = with_dir(sim.clone());
            let mut manifest = create(&disk);
            manifest.append(&edit(1)).unwrap();
            sim.stop_at_operation(operation);
            let _ = manifest.rotate(&state_after(1));
            let style = match seed {
                0 => CrashStyle::LoseAll,
                1 => CrashStyle::KeepAll,
                seed => CrashStyle::Random(seed),
            };
            let found: Arc<dyn Disk> = Arc::new(sim.crash_with(style));
            assert_eq!(reopen(&found).unwrap().1, state_after(1), "{operation} {style:?}");
        }
    }
}

#[test]
fn an_edit_whose_sync_failed_is_durable_before_it_is_believed() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let shared = with_dir(disk.clone());
        let mut manifest = create(&shared);
        manifest.append(&edit(1)).unwrap();
        disk.inject(FaultRule::new(Fault::Io).on(OperationKind::Sync));
        assert!(manifest.append(&edit(2)).is_err());
        disk.clear_faults();
        // The process starts again; the kernel still has what it wrote.
        let (mut manifest, state) = reopen(&shared).unwrap();
        assert_eq!(state, state_after(2));
        // Also before there is another: files that it dropped are removed now.
        let found: Arc<dyn Disk> = Arc::new(disk.crash_image(CrashStyle::LoseAll));
        assert_eq!(reopen(&found).unwrap().1, state_after(2));
        manifest.append(&edit(3)).unwrap();
        let found: Arc<dyn Disk> = Arc::new(disk.crash_with(CrashStyle::LoseAll));
        let (_, state) = reopen(&found).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(state, state_after(3));
    }
}
