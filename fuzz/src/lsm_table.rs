//! A key table, or the manifest of a checkpoint, whose bytes were changed and whose checksums were
//! computed again: what a forger could write, and what a bug of ours would.
//!
//! What must hold: opening gives a table, a state or an error; a table that opens can be walked, searched and
//! counted in every way, each call ends, and keys come in the order in which the walk finds them.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use varve_disk::Disk;
use varve_disk::sim::{Random, SimDisk};
use varve_lsm::table::{Row, Table, TableBuilder, TableInfo, ValueHandle, ValueRef};
use varve_lsm::{Delta, KeyRange, Keyspace, Kind, Meta, Revision, Snapshot};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

use super::input::Input;
use super::lsm_support::{Model, commit, open, random_batch, settle, write};

const DIRECTORY: &str = "/tables";
const ID: u64 = 7;
const ROWS: u64 = 900;
/// Most changes to one file.
const CHANGES_MAX: usize = 16;
/// Steps of one walk; a forged table may lead in circles only so long.
const STEPS_MAX: usize = 4 * ROWS as usize;

fn revision(main: u64) -> Revision {
    Revision { main, sub: (main % 3) as u32 }
}

fn key(number: u64) -> Bytes {
    format!("registry/pods/namespace-{}/pod-{number:05}", number / 100).into()
}

/// A sound table and what the manifest says about it.
fn good() -> &'static (TableInfo, Vec<u8>) {
    static GOOD: OnceLock<(TableInfo, Vec<u8>)> = OnceLock::new();
    GOOD.get_or_init(|| {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let directory = Path::new(DIRECTORY);
        disk.create_dir_all(directory).expect("a simulated disk takes a directory");
        let mut builder = TableBuilder::new(Arc::clone(&disk), directory, ID).expect("a file");
        for number in 0..ROWS {
            let versions = 1 + number % 4;
            for version in (0..versions).rev() {
                let is_delete = version == 2;
                let value = match number % 3 {
                    _ if is_delete => ValueRef::None,
                    0 => ValueRef::Inline(Bytes::from(vec![number as u8; (number % 60) as usize])),
                    _ => ValueRef::Stored(ValueHandle {
                        segment: 40 + number % 2,
                        offset: 64 + 8 * number as u32,
                        length: 200,
                    }),
                };
                let delta = [Delta::Plus, Delta::Zero, Delta::Minus, Delta::Plus];
                let row = Row {
                    key: key(number),
                    revision: revision(1 + number + version * ROWS),
                    kind: if is_delete { Kind::Delete } else { Kind::Put },
                    delta: delta[version as usize],
                    meta: Meta::new(&[number as u8; 24][..(number % 25) as usize]).expect("short"),
                    value,
                };
                builder.add(&row).expect("a simulated disk works");
            }
        }
        let info = builder.finish().expect("a simulated disk works");
        let table = Table::open(&*disk, directory, info.clone()).expect("it is sound");
        (info, table.content().to_vec())
    })
}

/// Runs one input.
pub fn table(data: &[u8]) {
    let (info, content) = good();
    let mut input = Input::new(data);
    let mut content = content.clone();
    change(&mut content, &mut input, 0);
    let info = TableInfo { digest: xxh3_128(&content), ..info.clone() };
    let path = Path::new(DIRECTORY).join(varve_lsm::table::file_name(ID));
    let files = [(path, content)].into();
    let disk = SimDisk::from_files(1, &files).expect("the files are well formed");
    let Ok(table) = Table::open(&disk, Path::new(DIRECTORY), info) else { return };
    walk(&table, &mut input);
}

/// Overwrites bytes from `start` on as the tape says.
fn change(content: &mut [u8], input: &mut Input<'_>, start: usize) {
    let changes = input.below(CHANGES_MAX);
    for _ in 0..changes {
        let at =
            start + (usize::from(input.u16()) << 4 | input.below(16)) % (content.len() - start);
        let length = 1 + input.below(8);
        for (place, byte) in content[at..].iter_mut().zip(input.take(length)) {
            *place = *byte;
        }
    }
}

fn walk(table: &Arc<Table>, input: &mut Input<'_>) {
    let mut cursor = table.cursor();
    for _ in 0..STEPS_MAX {
        if cursor.advance().is_err() || cursor.key().is_none() {
            break;
        }
        let _ = (cursor.revision(), cursor.kind(), cursor.delta(), cursor.value_bytes());
        let _ = (cursor.meta(), cursor.value_ref(), cursor.row());
    }
    let at = u64::from(input.u16()) % (5 * ROWS);
    let mut cursor = table.cursor();
    if cursor.seek_last(std::ops::Bound::Unbounded).is_ok() {
        for _ in 0..STEPS_MAX {
            if cursor.key().is_none() || cursor.select(at).is_err() || cursor.retreat_key().is_err()
            {
                break;
            }
        }
    }
    let mut cursor = table.cursor();
    if cursor.seek(&key(u64::from(input.u16()) % ROWS)).is_ok() {
        for _ in 0..STEPS_MAX {
            if cursor.key().is_none() || cursor.select(at).is_err() || cursor.advance_key().is_err()
            {
                break;
            }
        }
    }
    for number in (0..ROWS).step_by(29) {
        let _ = table.get(&key(number), revision(at));
        let range = KeyRange::between(key(number / 2), key(number));
        let _ = table.delta_sum(&range, at);
    }
    let _ = table.delta_sum(&KeyRange::all(), at);
    for row in table.by_revision(at / 2, at).take(STEPS_MAX) {
        let _ = row;
    }
}

/// A sound checkpoint's manifest, and the engine's files to stage beside it.
fn good_manifest() -> &'static Vec<u8> {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    GOOD.get_or_init(|| {
        let (disk, mut random, mut model) = (SimDisk::new(1), Random::new(5), Model::default());
        let (db, mut writer) = open(&disk).expect("an empty disk takes an engine");
        for number in 1..=60 {
            let batch = random_batch(&model, &mut random);
            write(&mut writer, &batch.changes);
            commit(&mut writer, &batch, number).expect("a commit needs no disk");
            model.push(batch);
        }
        writer.freeze().expect("a memtable freezes");
        settle(&db).expect("the simulated disk works");
        db.checkpoint().manifest.to_vec()
    })
}

/// Bytes of a manifest's header without its checksum, and of an edit's header: docs/FORMAT.md 2.3.
const MANIFEST_HEADER_BYTES: usize = 48;
const EDIT_HEADER_BYTES: usize = 24;

/// Computes the checksums of header and edit again, so that what they say is looked at.
fn seal(manifest: &mut [u8]) {
    let (header, rest) = manifest.split_at_mut(MANIFEST_HEADER_BYTES);
    let (checksum, edit) = rest.split_at_mut(8);
    let of_header = xxh3_64(header);
    checksum.copy_from_slice(&of_header.to_le_bytes());
    let length = u32::from_le_bytes(edit[..4].try_into().expect("four bytes")) as usize;
    let end = (EDIT_HEADER_BYTES + length).next_multiple_of(8).min(edit.len());
    let edit = &mut edit[..end.max(EDIT_HEADER_BYTES)];
    edit[8..16].copy_from_slice(&of_header.to_le_bytes());
    let mut hasher = Xxh3::new();
    hasher.update(&edit[..16]);
    hasher.update(&[0; 8]);
    hasher.update(&edit[EDIT_HEADER_BYTES..]);
    let of_edit = hasher.digest();
    edit[16..24].copy_from_slice(&of_edit.to_le_bytes());
}

/// Runs one input: a manifest that comes from another node.
pub fn manifest(data: &[u8]) {
    let mut input = Input::new(data);
    let mut content = good_manifest().clone();
    let is_sealed = input.byte() != 0xff;
    change(&mut content, &mut input, 0);
    let cut = usize::from(input.u16());
    if cut != 0 && cut < content.len() - MANIFEST_HEADER_BYTES - EDIT_HEADER_BYTES - 8 {
        content.truncate(content.len() - cut);
    }
    if is_sealed {
        seal(&mut content);
    }
    let disk = SimDisk::new(2);
    let (db, mut writer) = open(&disk).expect("an empty disk takes an engine");
    let staged = Path::new("/node/staged");
    disk.create_dir_all(staged).expect("a simulated disk takes a directory");
    let found = db.check_checkpoint(&content, staged);
    // Its files are missing: nothing may be installed, and what is there stays.
    let installed = writer.install(&content.into(), staged);
    if installed.is_err() {
        assert_eq!(state(&db.snapshot()), (0, 0, 0), "a refused checkpoint left something");
    } else {
        // Only a state without files needs none.
        assert!(found.is_ok(), "{:?}", found.err());
        assert_eq!(db.checkpoint().files.len(), 0);
    }
}

fn state(snapshot: &Snapshot) -> (u64, u64, u64) {
    let at = u64::MAX;
    let count = snapshot.count(Keyspace::Kv, &KeyRange::all(), at).expect("a count");
    (snapshot.visible(), snapshot.compacted(), count)
}

/// The sound table, and one with a change in every stretch of it.
pub fn table_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![("sound".to_owned(), Vec::new())];
    let stretches = good().1.len() as u64 / 4096;
    for stretch in 0..=stretches {
        let at = ((stretch * 4096) >> 4) as u16;
        let [low, high] = at.to_le_bytes();
        let tape =
            vec![3, low, high, 9, 1, 0xff, low, high, 77, 3, 1, 2, 3, 4, low, high, 200, 0, 0];
        seeds.push((format!("stretch-{stretch}"), tape));
    }
    seeds
}

/// The sound manifest; sealed and unsealed changes in header, edit and end.
pub fn manifest_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![("sound".to_owned(), Vec::new())];
    for sealed in [0, 0xff] {
        for at in [0_u16, 1, 3, 5, 8, 20, 40] {
            let [low, high] = at.to_le_bytes();
            let tape = vec![sealed, 2, low, high, 3, 0, 0x80, low, high, 11, 2, 1, 0, 0xff, 0, 0];
            seeds.push((format!("change-{sealed}-{at}"), tape));
        }
    }
    seeds.push(("cut".to_owned(), vec![0, 0, 40, 0]));
    seeds
}
