//! Long random runs, each from a printed seed.
//!
//! One idea: the simulated disk is checked against two others that are simpler in one respect. The
//! real disk says what every call returns; plain records of what every sector held, and of which
//! files were removed, say what a crash may leave.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use varve_disk::os::OsDisk;
use varve_disk::sim::{Random, SimDisk};
use varve_disk::{Disk, File, Result, SECTOR_BYTES};

const PATHS: [&str; 9] = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "f", "f/a"];
const STEPS: u64 = 400;

/// What a call gave: text that both disks must agree on.
fn outcome<T>(result: Result<T>, show: impl Fn(T) -> String) -> String {
    match result {
        Ok(value) => format!("ok {}", show(value)),
        Err(error) => format!("error {:?}", error.kind()),
    }
}

fn done(_: ()) -> String {
    String::new()
}

fn read_all(file: &dyn File) -> String {
    let mut bytes = vec![0; file.len().unwrap() as usize + 10];
    let count = file.read_at(0, &mut bytes).unwrap();
    format!("{:?}", &bytes[..count])
}

/// One random call below `root`. Both disks get the same numbers.
fn step(
    disk: &dyn Disk,
    root: &Path,
    handles: &mut BTreeMap<u64, Arc<dyn File>>,
    random: &mut Random,
) -> String {
    let action = random.below(16);
    let path = root.join(PATHS[random.below(PATHS.len() as u64) as usize]);
    let other = root.join(PATHS[random.below(PATHS.len() as u64) as usize]);
    let slot = random.below(4);
    let offset = random.below(1500);
    let data = vec![random.next_u64() as u8; random.below(1200) as usize];
    let mut keep = |file: Arc<dyn File>| {
        let shown = read_all(&*file);
        handles.insert(slot, file);
        shown
    };
    let result = match action {
        0 | 1 => match disk.create(&path) {
            Ok(file) => keep(file),
            error => outcome(error, |_| String::new()),
        },
        2 | 3 => match disk.open(&path) {
            Ok(file) => keep(file),
            error => outcome(error, |_| String::new()),
        },
        4 => outcome(disk.rename(&path, &other), done),
        5 => outcome(disk.remove(&path), done),
        6 => outcome(disk.remove_dir_all(&root.join("d/e")), done),
        7 => outcome(disk.create_dir_all(&path), done),
        8 => outcome(disk.list(&path), |names| names.join(" ")),
        9 => outcome(disk.sync_dir(&path), done),
        10 => outcome(disk.map(&path), |bytes| format!("{bytes:?}")),
        _ => match handles.get(&slot) {
            None => String::new(),
            Some(file) => {
                let result = match action {
                    11 | 12 => file.write_at(offset, &data),
                    13 => file.set_len(offset),
                    14 => file.preallocate(offset),
                    _ => file.sync(),
                };
                outcome(result, done) + &read_all(&**file)
            }
        },
    };
    format!("{action} {result} {:?}", disk.list(root).unwrap())
}

#[test]
fn both_disks_answer_every_call_alike() {
    for seed in 0..30 {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (real, simulated) = (OsDisk::new(), SimDisk::new(seed));
        let simulated_root = Path::new("/");
        let (mut real_random, mut simulated_random) = (Random::new(seed), Random::new(seed));
        let (mut real_handles, mut simulated_handles) = (BTreeMap::new(), BTreeMap::new());
        for number in 0..STEPS {
            let expected = step(&real, dir.path(), &mut real_handles, &mut real_random);
            let found =
                step(&simulated, simulated_root, &mut simulated_handles, &mut simulated_random);
            assert_eq!(found, expected, "seed {seed}, step {number}");
        }
    }
}

/// The states that one sector may be found in: the durable one first.
type History = Vec<Vec<u8>>;

#[test]
fn no_crash_leaves_a_sector_in_a_state_that_it_never_had() {
    const SECTORS: usize = 8;
    const BYTES: u64 = SECTORS as u64 * SECTOR_BYTES;
    let sector_bytes = SECTOR_BYTES as usize;
    let path = Path::new("/a");
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut disk = SimDisk::new(seed);
        disk.create(path).unwrap().preallocate(BYTES).unwrap();
        disk.open(path).unwrap().sync().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let mut histories: Vec<History> = vec![vec![vec![0; sector_bytes]]; SECTORS];
        for step in 0..60u64 {
            let file = disk.open(path).unwrap();
            match random.below(8) {
                0 => {
                    file.sync().unwrap();
                    for history in &mut histories {
                        *history = history.split_off(history.len() - 1);
                    }
                }
                1 => {
                    disk = disk.crash();
                    let found = disk.map(path).unwrap();
                    assert_eq!(found.len() as u64, BYTES, "seed {seed}, step {step}");
                    for (number, sector) in found.chunks(sector_bytes).enumerate() {
                        let is_known = histories[number].iter().any(|state| state == sector);
                        assert!(is_known, "seed {seed}, step {step}, sector {number}");
                        histories[number] = vec![sector.to_vec()];
                    }
                }
                _ => {
                    let offset = random.below(BYTES);
                    let data = vec![step as u8 + 1; random.below(BYTES - offset) as usize];
                    file.write_at(offset, &data).unwrap();
                    let now = disk.map(path).unwrap();
                    for (number, sector) in now.chunks(sector_bytes).enumerate() {
                        let history = &mut histories[number];
                        if history.last().is_none_or(|last| last != sector) {
                            history.push(sector.to_vec());
                        }
                    }
                }
            }
        }
    }
}

/// What happened to one file, whatever its names were.
#[derive(Default)]
struct Fate {
    created_in: PathBuf,
    /// The directory that it was created in was synced since.
    is_durable: bool,
    /// It was removed or replaced.
    is_doomed: bool,
}

#[test]
fn no_crash_loses_a_durable_file_or_doubles_it() {
    const DIRS: [&str; 3] = ["/", "/x", "/y"];
    for seed in 0..200u64 {
        let mut random = Random::new(seed);
        let mut disk = SimDisk::new(seed);
        disk.create_dir_all(Path::new("/x")).unwrap();
        disk.create_dir_all(Path::new("/y")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let mut fates: BTreeMap<Vec<u8>, Fate> = BTreeMap::new();
        for step in 0..150u8 {
            let mut pick = || {
                let dir = PathBuf::from(DIRS[random.below(3) as usize]);
                let path = dir.join(["a", "b"][random.below(2) as usize]);
                (dir, path)
            };
            let ((dir, path), (_, other)) = (pick(), pick());
            let tag_at = |path: &Path| disk.map(path).map(|bytes| bytes.to_vec()).ok();
            match random.below(6) {
                0 | 1 => {
                    let Ok(file) = disk.create(&path) else { continue };
                    file.write_at(0, &[step]).unwrap();
                    file.sync().unwrap();
                    fates.insert(vec![step], Fate { created_in: dir, ..Fate::default() });
                }
                2 => {
                    let replaced = tag_at(&other);
                    if disk.rename(&path, &other).is_ok()
                        && path != other
                        && let Some(tag) = replaced
                    {
                        fates.entry(tag).or_default().is_doomed = true;
                    }
                }
                3 => {
                    let removed = tag_at(&path);
                    if disk.remove(&path).is_ok() {
                        let tag = removed.expect("a removed file could be read before");
                        fates.entry(tag).or_default().is_doomed = true;
                    }
                }
                4 => {
                    disk.sync_dir(&dir).unwrap();
                    for fate in fates.values_mut().filter(|fate| fate.created_in == dir) {
                        fate.is_durable = true;
                    }
                }
                _ => {
                    disk = disk.crash();
                    let files: Vec<Vec<u8>> = disk.current_files().into_values().collect();
                    let tags: BTreeSet<Vec<u8>> = files.iter().cloned().collect();
                    let place = format!("seed {seed}, step {step}: {files:?}");
                    assert_eq!(tags.len(), files.len(), "a file is found twice, {place}");
                    for (tag, fate) in &fates {
                        let must_be_there = fate.is_durable && !fate.is_doomed;
                        assert!(!must_be_there || tags.contains(tag), "{tag:?} is lost, {place}");
                    }
                    fates.retain(|tag, _| tags.contains(tag));
                    for fate in fates.values_mut() {
                        (fate.is_durable, fate.is_doomed) = (true, false);
                    }
                }
            }
        }
    }
}
