//! An engine directory whose files were damaged.
//!
//! What must hold: opening, reading and background work give results or errors, and a value that is
//! returned is one that was once written under that key.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use varve_disk::Disk;
use varve_disk::sim::{Random, SimDisk};
use varve_lsm::{
    Commit, Db, Delta, KeyRange, Keyspace, Meta, Options, Revision, Values, Work, Writer,
};

use super::damage::{Files, damage};
use super::input::Input;

const DIRECTORY: &str = "/engine";
const ENTRIES: u64 = 300;
const KEYS: u64 = 40;
const STEPS_MAX: usize = 50;

/// Runs one input.
pub fn directory(data: &[u8]) {
    let mut input = Input::new(data);
    let mut files = good().clone();
    let is_raw = input.byte() == 0xff;
    if is_raw {
        // One file of arbitrary bytes among good ones.
        let at = input.below(files.len());
        let content = files.values_mut().nth(at).expect("the number is below their count");
        *content = data[2.min(data.len())..].to_vec();
    } else {
        damage(&mut files, &mut input);
    }
    let disk = SimDisk::from_files(1, &files).expect("the files are well formed");
    let Ok((db, _writer)) = open(&disk) else { return };
    let snapshot = db.snapshot();
    for number in 0..KEYS {
        let key = key(number);
        if let Ok(Some(entry)) = snapshot.get(Keyspace::Kv, &key, u64::MAX) {
            expect_written(&key, &entry.value);
        }
        let _ = snapshot.get_meta(Keyspace::Kv, &key, ENTRIES / 2);
    }
    for entry in snapshot.range(Keyspace::Kv, KeyRange::all(), u64::MAX, Values::Load).flatten() {
        expect_written(&entry.key, &entry.value);
    }
    let _ = snapshot.count(Keyspace::Kv, &KeyRange::all(), ENTRIES);
    let _ = snapshot.history(KeyRange::all(), 1, ENTRIES).count();
    for _ in 0..STEPS_MAX {
        if !matches!(db.work(), Ok(work) if work != Work::Idle) {
            break;
        }
    }
}

/// A value names its key, so that a value of another key is noticed.
fn expect_written(key: &[u8], value: &[u8]) {
    let expected = [key, b"="].concat();
    assert!(
        value.is_empty() || value.starts_with(&expected),
        "{:?} has {:?}",
        Bytes::copy_from_slice(key),
        Bytes::copy_from_slice(value)
    );
}

fn key(number: u64) -> Vec<u8> {
    format!("registry/pods/namespace-{}/pod-{number:04}", number % 3).into_bytes()
}

fn open(disk: &SimDisk) -> varve_lsm::Result<(Db, Writer)> {
    let options = Options {
        identity: [7; 16],
        memtable_bytes: 16 << 10,
        segment_bytes: 64 << 10,
        table_bytes: 16 << 10,
        level0_tables: 3,
        bottom_factor: 0,
        inline_value_bytes_max: 64,
        ..Options::default()
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Db::open(disk, Path::new(DIRECTORY), options)
}

fn good() -> &'static Files {
    static GOOD: OnceLock<Files> = OnceLock::new();
    GOOD.get_or_init(|| {
        let (disk, mut random) = (SimDisk::new(1), Random::new(1));
        let (db, mut writer) = open(&disk).expect("an empty directory opens");
        let mut lives = [false; KEYS as usize];
        for main in 2..ENTRIES {
            let number = random.below(KEYS);
            let (key, lives) = (key(number), &mut lives[number as usize]);
            let revision = Revision { main, sub: 0 };
            if *lives && random.one_in(4) {
                writer.delete(Keyspace::Kv, &key, revision);
                *lives = false;
            } else {
                let delta = if *lives { Delta::Zero } else { Delta::Plus };
                let length = random.below(200) as usize;
                let value = [key.as_slice(), b"=", &vec![b'v'; length]].concat();
                writer.put(Keyspace::Kv, &key, revision, delta, Meta::EMPTY, &value);
                *lives = true;
            }
            let mark = Bytes::copy_from_slice(&main.to_le_bytes());
            let compacted = main / 4;
            writer
                .commit(Commit { mark, kv_visible: main, compacted })
                .expect("the simulated disk works");
            if main % 60 == 0 {
                writer.freeze().expect("the simulated disk works");
                while db.work().expect("the simulated disk works") != Work::Idle {}
            }
        }
        writer.freeze().expect("the simulated disk works");
        while db.work().expect("the simulated disk works") != Work::Idle {}
        drop((db, writer));
        disk.durable_files()
    })
}

/// One input for each kind of damage and file, the undamaged directory, and raw files.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = vec![("undamaged".to_owned(), Vec::new())];
    for kind in 0..7_u8 {
        for file in 0..good().len().min(4) as u8 {
            let tape = vec![0, kind, file, 0x10, 0x40, 3, 9, 9, 9, 9];
            seeds.push((format!("damage-{kind}-{file}"), tape));
        }
    }
    seeds.push(("raw-0".to_owned(), [&[0xff, 0], [7; 64].as_slice()].concat()));
    seeds
}
