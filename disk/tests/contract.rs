//! What every disk does, checked on the real one and on the simulated one.
//!
//! One idea: a behaviour is a function of a disk and an empty directory on it; `contract!` makes
//! two tests of each. What only a simulation can show (crashes, faults) is in `crash.rs` and
//! `faults.rs`; agreement on long random runs is in `model.rs`.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use varve_disk::durable::{Backend, DurableWriter};
use varve_disk::os::OsDisk;
use varve_disk::sim::SimDisk;
use varve_disk::{Disk, File, LOCK_FILE_NAME};

macro_rules! contract {
    ($($name:ident)+) => {
        mod on_the_real_disk {
            $(#[test]
            fn $name() {
                let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
                super::$name(&super::OsDisk::new(), dir.path());
            })+
        }
        mod on_the_simulated_disk {
            $(#[test]
            fn $name() {
                let disk = super::SimDisk::new(1);
                let dir = std::path::Path::new("/data");
                super::Disk::create_dir_all(&disk, dir).unwrap();
                super::$name(&disk, dir);
            })+
        }
    };
}

contract! {
    a_created_file_exists_and_is_empty
    creating_a_taken_name_fails
    creating_in_a_missing_directory_fails
    opening_a_missing_file_fails
    opening_a_directory_fails
    what_was_written_is_read_back_through_any_handle
    a_write_inside_changes_only_its_bytes
    reading_past_the_end_gives_what_is_there
    reading_exactly_past_the_end_fails
    what_was_never_written_reads_as_zero
    an_empty_write_changes_nothing
    what_is_written_out_is_still_there
    writes_across_sectors_are_read_at_any_offset
    cutting_and_extending_again_gives_zeros
    preallocated_space_reads_as_zero
    preallocating_never_cuts
    a_link_is_a_second_name_that_outlives_the_first
    a_link_takes_no_name_that_is_taken
    what_is_mapped_can_be_asked_for_and_let_go
    a_rename_replaces_the_old_file
    a_rename_moves_a_directory_with_all_in_it
    renaming_a_missing_file_fails
    renaming_a_file_over_a_directory_fails
    an_open_file_outlives_its_name
    removing_a_missing_file_fails
    removing_a_directory_as_a_file_fails
    a_list_is_sorted_and_has_files_and_directories
    listing_what_is_no_directory_fails
    removing_a_directory_removes_all_below_it
    creating_a_directory_creates_its_parents
    creating_a_directory_over_a_file_fails
    a_mapping_holds_the_whole_file_and_outlives_it
    mapping_nothing_fails_or_is_empty
    syncing_works_and_a_missing_directory_fails
    a_lock_keeps_out_a_second_one_until_dropped
    locks_of_two_directories_are_apart
    there_is_space_left
    an_error_names_the_operation_and_the_path
    a_file_is_shared_between_threads
    a_durable_write_is_read_back_through_any_handle
    a_durable_write_is_seen_where_the_old_bytes_were_cached
    a_durable_write_needs_no_alignment
    a_durable_write_keeps_what_is_beside_it
    a_durable_writer_moves_between_threads
    durable_writes_to_a_missing_file_fail
    the_last_backend_is_the_one_that_works_everywhere
}

#[track_caller]
fn expect_error<T>(result: varve_disk::Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => panic!("expected {kind:?}, found success"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
    }
}

fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.create(path).unwrap();
    file.write_at(0, bytes).unwrap();
    file
}

#[track_caller]
fn expect_content(file: &dyn File, expected: &[u8]) {
    assert_eq!(file.len().unwrap(), expected.len() as u64);
    let mut found = vec![0xee; expected.len()];
    file.read_exact_at(0, &mut found).unwrap();
    assert!(found == expected, "the content differs from the expected {} bytes", expected.len());
}

/// A file of 64 KiB of 1s, synced.
fn file_of_ones(disk: &dyn Disk, path: &Path) -> Arc<dyn File> {
    let file = write_file(disk, path, &[1; 64 << 10]);
    file.sync().unwrap();
    file
}

/// Backends that this machine has for a file in `dir`; at least the last one.
fn backends_here(disk: &dyn Disk, path: &Path) -> Vec<(Backend, Box<dyn DurableWriter>)> {
    let mut found = Vec::new();
    for &backend in disk.backends() {
        if let Ok(writer) = disk.open_durable(path, backend) {
            found.push((backend, writer));
        }
    }
    assert_eq!(found.last().map(|(backend, _)| *backend), Some(Backend::Fdatasync));
    found
}

/// `length` bytes at an address that is a multiple of 4096.
fn aligned(memory: &mut Vec<u8>, length: usize, byte: u8) -> &[u8] {
    memory.resize(length + 4096, 0);
    let start = memory.as_ptr().align_offset(4096);
    memory[start..start + length].fill(byte);
    &memory[start..start + length]
}

fn a_created_file_exists_and_is_empty(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    assert!(!disk.exists(&path).unwrap());
    let file = disk.create(&path).unwrap();
    assert!(disk.exists(&path).unwrap());
    assert!(file.is_empty().unwrap());
    expect_content(&*file, b"");
}

fn creating_a_taken_name_fails(disk: &dyn Disk, dir: &Path) {
    write_file(disk, &dir.join("a"), b"kept");
    expect_error(disk.create(&dir.join("a")), ErrorKind::AlreadyExists);
    expect_content(&*disk.open(&dir.join("a")).unwrap(), b"kept");
}

fn creating_in_a_missing_directory_fails(disk: &dyn Disk, dir: &Path) {
    expect_error(disk.create(&dir.join("missing/a")), ErrorKind::NotFound);
    write_file(disk, &dir.join("file"), b"");
    expect_error(disk.create(&dir.join("file/a")), ErrorKind::NotADirectory);
}

fn opening_a_missing_file_fails(disk: &dyn Disk, dir: &Path) {
    expect_error(disk.open(&dir.join("a")), ErrorKind::NotFound);
    expect_error(disk.open(&dir.join("missing/a")), ErrorKind::NotFound);
    assert!(!disk.exists(&dir.join("a")).unwrap());
}

fn opening_a_directory_fails(disk: &dyn Disk, dir: &Path) {
    expect_error(disk.open(dir), ErrorKind::IsADirectory);
}

fn what_was_written_is_read_back_through_any_handle(disk: &dyn Disk, dir: &Path) {
    let writer = write_file(disk, &dir.join("a"), b"hello");
    let other = disk.open(&dir.join("a")).unwrap();
    expect_content(&*other, b"hello");
    other.write_at(5, b", world").unwrap();
    expect_content(&*writer, b"hello, world");
}

fn a_write_inside_changes_only_its_bytes(disk: &dyn Disk, dir: &Path) {
    let file = write_file(disk, &dir.join("a"), &[7; 2000]);
    file.write_at(500, &[9; 600]).unwrap();
    let expected = [vec![7; 500], vec![9; 600], vec![7; 900]].concat();
    expect_content(&*file, &expected);
}

fn reading_past_the_end_gives_what_is_there(disk: &dyn Disk, dir: &Path) {
    let file = write_file(disk, &dir.join("a"), b"hello");
    let mut buffer = [0xee; 8];
    assert_eq!(file.read_at(3, &mut buffer).unwrap(), 2);
    assert_eq!(&buffer, b"lo\xee\xee\xee\xee\xee\xee");
    assert_eq!(file.read_at(5, &mut buffer).unwrap(), 0);
    assert_eq!(file.read_at(1 << 40, &mut buffer).unwrap(), 0);
    assert_eq!(file.read_at(0, &mut []).unwrap(), 0);
}

fn reading_exactly_past_the_end_fails(disk: &dyn Disk, dir: &Path) {
    let file = write_file(disk, &dir.join("a"), b"hello");
    let mut buffer = [0; 3];
    file.read_exact_at(2, &mut buffer).unwrap();
    assert_eq!(&buffer, b"llo");
    expect_error(file.read_exact_at(3, &mut buffer), ErrorKind::UnexpectedEof);
    file.read_exact_at(9, &mut []).unwrap();
}

fn what_was_never_written_reads_as_zero(disk: &dyn Disk, dir: &Path) {
    let file = disk.create(&dir.join("a")).unwrap();
    file.write_at(10_000, b"end").unwrap();
    expect_content(&*file, &[vec![0; 10_000], b"end".to_vec()].concat());
}

fn an_empty_write_changes_nothing(disk: &dyn Disk, dir: &Path) {
    let file = write_file(disk, &dir.join("a"), b"hello");
    file.write_at(100, b"").unwrap();
    expect_content(&*file, b"hello");
}

fn writes_across_sectors_are_read_at_any_offset(disk: &dyn Disk, dir: &Path) {
    let bytes: Vec<u8> = (0..3000u32).map(|number| (number % 251) as u8).collect();
    let file = disk.create(&dir.join("a")).unwrap();
    for (index, chunk) in bytes.chunks(700).enumerate() {
        file.write_at(index as u64 * 700, chunk).unwrap();
    }
    for start in [0, 1, 511, 512, 513, 1024, 1400] {
        for length in [1, 511, 512, 513, 1600] {
            let mut buffer = vec![0; length];
            file.read_exact_at(start as u64, &mut buffer).unwrap();
            assert!(buffer == bytes[start..start + length], "{length} bytes at {start} differ");
        }
    }
}

fn cutting_and_extending_again_gives_zeros(disk: &dyn Disk, dir: &Path) {
    let file = write_file(disk, &dir.join("a"), &[7; 1500]);
    file.set_len(700).unwrap();
    expect_content(&*file, &[7; 700]);
    file.set_len(1500).unwrap();
    expect_content(&*file, &[vec![7; 700], vec![0; 800]].concat());
    file.set_len(0).unwrap();
    expect_content(&*file, b"");
}

fn what_is_written_out_is_still_there(disk: &dyn Disk, dir: &Path) {
    let file = disk.create(&dir.join("a")).unwrap();
    for end in [4096, 8192, 20_000, u64::MAX, 0] {
        let start = file.len().unwrap();
        file.write_at(start, &vec![7; 5000]).unwrap();
        file.write_out(end);
    }
    let mut found = vec![0; 25_000];
    file.read_exact_at(0, &mut found).unwrap();
    assert!(found.iter().all(|byte| *byte == 7));
    file.sync().unwrap();
}

fn preallocated_space_reads_as_zero(disk: &dyn Disk, dir: &Path) {
    let file = write_file(disk, &dir.join("a"), b"head");
    file.preallocate(8192).unwrap();
    expect_content(&*file, &[b"head".to_vec(), vec![0; 8188]].concat());
}

fn preallocating_never_cuts(disk: &dyn Disk, dir: &Path) {
    let file = write_file(disk, &dir.join("a"), &[7; 5000]);
    file.preallocate(4096).unwrap();
    file.preallocate(0).unwrap();
    expect_content(&*file, &[7; 5000]);
}

fn a_rename_replaces_the_old_file(disk: &dyn Disk, dir: &Path) {
    write_file(disk, &dir.join("old"), b"old");
    write_file(disk, &dir.join("new"), b"new");
    disk.rename(&dir.join("new"), &dir.join("old")).unwrap();
    expect_content(&*disk.open(&dir.join("old")).unwrap(), b"new");
    assert_eq!(disk.list(dir).unwrap(), ["old"]);
    disk.rename(&dir.join("old"), &dir.join("old")).unwrap();
    assert_eq!(disk.list(dir).unwrap(), ["old"]);
}

fn a_rename_moves_a_directory_with_all_in_it(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(&dir.join("x/y")).unwrap();
    write_file(disk, &dir.join("x/y/a"), b"a");
    disk.create_dir_all(&dir.join("empty")).unwrap();
    disk.rename(&dir.join("x"), &dir.join("empty")).unwrap();
    expect_content(&*disk.open(&dir.join("empty/y/a")).unwrap(), b"a");
    disk.create_dir_all(&dir.join("z")).unwrap();
    expect_error(disk.rename(&dir.join("z"), &dir.join("empty")), ErrorKind::DirectoryNotEmpty);
    expect_error(disk.rename(&dir.join("empty"), &dir.join("empty/y/z")), ErrorKind::InvalidInput);
}

fn renaming_a_missing_file_fails(disk: &dyn Disk, dir: &Path) {
    expect_error(disk.rename(&dir.join("a"), &dir.join("b")), ErrorKind::NotFound);
    write_file(disk, &dir.join("a"), b"");
    expect_error(disk.rename(&dir.join("a"), &dir.join("missing/b")), ErrorKind::NotFound);
    assert_eq!(disk.list(dir).unwrap(), ["a"]);
}

fn renaming_a_file_over_a_directory_fails(disk: &dyn Disk, dir: &Path) {
    write_file(disk, &dir.join("a"), b"");
    disk.create_dir_all(&dir.join("d")).unwrap();
    expect_error(disk.rename(&dir.join("a"), &dir.join("d")), ErrorKind::IsADirectory);
    expect_error(disk.rename(&dir.join("d"), &dir.join("a")), ErrorKind::NotADirectory);
}

fn an_open_file_outlives_its_name(disk: &dyn Disk, dir: &Path) {
    let file = write_file(disk, &dir.join("a"), b"hello");
    disk.remove(&dir.join("a")).unwrap();
    disk.sync_dir(dir).unwrap();
    write_file(disk, &dir.join("a"), b"another");
    file.write_at(0, b"j").unwrap();
    file.sync().unwrap();
    expect_content(&*file, b"jello");
    expect_content(&*disk.open(&dir.join("a")).unwrap(), b"another");
}

fn removing_a_missing_file_fails(disk: &dyn Disk, dir: &Path) {
    expect_error(disk.remove(&dir.join("a")), ErrorKind::NotFound);
}

fn removing_a_directory_as_a_file_fails(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(&dir.join("d")).unwrap();
    expect_error(disk.remove(&dir.join("d")), ErrorKind::IsADirectory);
    assert!(disk.exists(&dir.join("d")).unwrap());
}

fn a_list_is_sorted_and_has_files_and_directories(disk: &dyn Disk, dir: &Path) {
    assert!(disk.list(dir).unwrap().is_empty());
    for name in ["b", "10", "a", "9"] {
        write_file(disk, &dir.join(name), b"");
    }
    disk.create_dir_all(&dir.join("aa")).unwrap();
    assert_eq!(disk.list(dir).unwrap(), ["10", "9", "a", "aa", "b"]);
}

fn listing_what_is_no_directory_fails(disk: &dyn Disk, dir: &Path) {
    expect_error(disk.list(&dir.join("missing")), ErrorKind::NotFound);
    write_file(disk, &dir.join("a"), b"");
    expect_error(disk.list(&dir.join("a")), ErrorKind::NotADirectory);
}

fn removing_a_directory_removes_all_below_it(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(&dir.join("d/e/f")).unwrap();
    write_file(disk, &dir.join("d/e/a"), b"a");
    disk.remove_dir_all(&dir.join("d")).unwrap();
    assert!(!disk.exists(&dir.join("d/e/a")).unwrap());
    assert!(disk.list(dir).unwrap().is_empty());
    disk.remove_dir_all(&dir.join("d")).unwrap();
    disk.create_dir_all(&dir.join("d")).unwrap();
    assert!(disk.list(&dir.join("d")).unwrap().is_empty());
}

fn creating_a_directory_creates_its_parents(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(&dir.join("d/e/f")).unwrap();
    disk.create_dir_all(&dir.join("d/e/f")).unwrap();
    assert!(disk.exists(&dir.join("d/e/f")).unwrap());
    assert_eq!(disk.list(&dir.join("d")).unwrap(), ["e"]);
}

fn creating_a_directory_over_a_file_fails(disk: &dyn Disk, dir: &Path) {
    write_file(disk, &dir.join("a"), b"");
    expect_error(disk.create_dir_all(&dir.join("a")), ErrorKind::AlreadyExists);
    expect_error(disk.create_dir_all(&dir.join("a/b")), ErrorKind::NotADirectory);
}

fn a_mapping_holds_the_whole_file_and_outlives_it(disk: &dyn Disk, dir: &Path) {
    let bytes: Vec<u8> = (0..10_000u32).map(|number| (number % 253) as u8).collect();
    write_file(disk, &dir.join("a"), &bytes).sync().unwrap();
    let map = disk.map(&dir.join("a")).unwrap();
    assert!(map == bytes);
    let slice = map.slice(5000..5010);
    disk.remove(&dir.join("a")).unwrap();
    disk.sync_dir(dir).unwrap();
    assert!(map == bytes);
    drop(map);
    assert_eq!(slice, bytes[5000..5010]);
}

fn mapping_nothing_fails_or_is_empty(disk: &dyn Disk, dir: &Path) {
    write_file(disk, &dir.join("empty"), b"");
    assert!(disk.map(&dir.join("empty")).unwrap().is_empty());
    expect_error(disk.map(&dir.join("missing")), ErrorKind::NotFound);
    expect_error(disk.map(dir), ErrorKind::IsADirectory);
}

fn syncing_works_and_a_missing_directory_fails(disk: &dyn Disk, dir: &Path) {
    let file = write_file(disk, &dir.join("a"), b"hello");
    file.sync().unwrap();
    file.sync().unwrap();
    disk.sync_dir(dir).unwrap();
    expect_content(&*file, b"hello");
    expect_error(disk.sync_dir(&dir.join("missing")), ErrorKind::NotFound);
    expect_error(disk.sync_dir(&dir.join("a")), ErrorKind::NotADirectory);
}

fn a_lock_keeps_out_a_second_one_until_dropped(disk: &dyn Disk, dir: &Path) {
    let lock = disk.lock(dir).unwrap();
    expect_error(disk.lock(dir), ErrorKind::WouldBlock);
    drop(lock);
    assert_eq!(disk.list(dir).unwrap(), [LOCK_FILE_NAME]);
    let _again = disk.lock(dir).unwrap();
    expect_error(disk.lock(dir), ErrorKind::WouldBlock);
}

fn locks_of_two_directories_are_apart(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(&dir.join("d")).unwrap();
    let _one = disk.lock(dir).unwrap();
    let _other = disk.lock(&dir.join("d")).unwrap();
    expect_error(disk.lock(&dir.join("missing")), ErrorKind::NotFound);
}

fn there_is_space_left(disk: &dyn Disk, dir: &Path) {
    assert!(disk.space_left(dir).unwrap() > 0);
    expect_error(disk.space_left(&dir.join("missing")), ErrorKind::NotFound);
}

fn an_error_names_the_operation_and_the_path(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let Err(error) = disk.open(&path) else { panic!("a missing file was opened") };
    assert_eq!((error.operation, &error.path), ("open", &path));
    assert!(error.to_string().starts_with(&format!("cannot open {}: ", path.display())));
}

fn a_file_is_shared_between_threads(disk: &dyn Disk, dir: &Path) {
    let file = disk.create(&dir.join("a")).unwrap();
    std::thread::scope(|scope| {
        for number in 0..4u8 {
            let file = &file;
            scope.spawn(move || file.write_at(u64::from(number) * 100, &[number; 100]).unwrap());
        }
    });
    expect_content(&*file, &[[0; 100], [1; 100], [2; 100], [3; 100]].concat());
}

fn a_durable_write_is_read_back_through_any_handle(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = file_of_ones(disk, &path);
    let mut memory = Vec::new();
    for (round, (_, mut writer)) in backends_here(disk, &path).into_iter().enumerate() {
        let byte = 10 + round as u8;
        writer.write_durable_at(8192, aligned(&mut memory, 12288, byte)).unwrap();
        let expected = [vec![1; 8192], vec![byte; 12288], vec![1; (64 << 10) - 20480]].concat();
        expect_content(&*file, &expected);
        expect_content(&*disk.open(&path).unwrap(), &expected);
    }
}

/// Reads before, between and after: what is cached must not outlive a write past the cache.
fn a_durable_write_is_seen_where_the_old_bytes_were_cached(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = file_of_ones(disk, &path);
    let mut memory = Vec::new();
    let mut expected = vec![1; 64 << 10];
    for (round, (backend, mut writer)) in backends_here(disk, &path).into_iter().enumerate() {
        for block in 0..16 {
            expect_content(&*file, &expected);
            let byte = 20 + (round * 16 + block) as u8;
            writer.write_durable_at(block as u64 * 4096, aligned(&mut memory, 4096, byte)).unwrap();
            expected[block * 4096..(block + 1) * 4096].fill(byte);
            let mut buffer = [0; 4096];
            file.read_exact_at(block as u64 * 4096, &mut buffer).unwrap();
            assert!(buffer.iter().all(|found| *found == byte), "{backend}, block {block}");
        }
        // Dirty pages of the cache under a later direct write: the later one counts.
        file.write_at(0, &[3; 4096]).unwrap();
        writer.write_durable_at(0, aligned(&mut memory, 4096, 4)).unwrap();
        expected[..4096].fill(4);
        expect_content(&*file, &expected);
    }
}

fn a_durable_write_needs_no_alignment(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = file_of_ones(disk, &path);
    let mut memory = Vec::new();
    let mut expected = vec![1; 64 << 10];
    for (round, (_, mut writer)) in backends_here(disk, &path).into_iter().enumerate() {
        for (step, (offset, length)) in
            [(1, 3), (512, 512), (4096, 100), (4097, 4096), (0, 8192), (600, 9000)]
                .into_iter()
                .enumerate()
        {
            let byte = 100 + (round * 6 + step) as u8;
            writer.write_durable_at(offset as u64, aligned(&mut memory, length, byte)).unwrap();
            expected[offset..offset + length].fill(byte);
            expect_content(&*file, &expected);
            // The same at an address that no device likes.
            let odd = vec![byte; length + 1];
            writer.write_durable_at(offset as u64, &odd[1..]).unwrap();
            expect_content(&*file, &expected);
        }
        writer.write_durable_at(5, &[]).unwrap();
        expect_content(&*file, &expected);
    }
}

fn a_durable_write_keeps_what_is_beside_it(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = file_of_ones(disk, &path);
    let mut memory = Vec::new();
    for (_, mut writer) in backends_here(disk, &path) {
        // Not synced, and in pages beside the one that is written past the cache.
        file.write_at(4096, &[5; 4096]).unwrap();
        file.write_at(12288, &[6; 100]).unwrap();
        writer.write_durable_at(8192, aligned(&mut memory, 4096, 7)).unwrap();
        let mut expected = vec![1; 64 << 10];
        expected[4096..8192].fill(5);
        expected[8192..12288].fill(7);
        expected[12288..12388].fill(6);
        expect_content(&*file, &expected);
    }
}

fn a_durable_writer_moves_between_threads(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = file_of_ones(disk, &path);
    for (_, mut writer) in backends_here(disk, &path) {
        for byte in 2..5 {
            writer = std::thread::spawn(move || {
                let mut memory = Vec::new();
                writer.write_durable_at(4096, aligned(&mut memory, 4096, byte)).unwrap();
                writer
            })
            .join()
            .unwrap();
        }
        let mut buffer = [0; 4096];
        file.read_exact_at(4096, &mut buffer).unwrap();
        assert_eq!(buffer, [4; 4096]);
    }
}

fn durable_writes_to_a_missing_file_fail(disk: &dyn Disk, dir: &Path) {
    for &backend in disk.backends() {
        expect_error(disk.open_durable(&dir.join("a"), backend), ErrorKind::NotFound);
    }
}

fn the_last_backend_is_the_one_that_works_everywhere(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    file_of_ones(disk, &path);
    assert_eq!(disk.backends().last(), Some(&Backend::Fdatasync));
    assert!(disk.open_durable(&path, Backend::Fdatasync).is_ok());
}

fn a_link_is_a_second_name_that_outlives_the_first(disk: &dyn Disk, dir: &Path) {
    let (first, second) = (dir.join("first"), dir.join("second"));
    let file = disk.create(&first).unwrap();
    file.write_at(0, b"once").unwrap();
    file.sync().unwrap();
    disk.link(&first, &second).unwrap();
    assert_eq!(disk.map(&second).unwrap(), &b"once"[..]);
    disk.remove(&first).unwrap();
    assert_eq!(disk.map(&second).unwrap(), &b"once"[..]);
    assert_eq!(disk.list(dir).unwrap(), ["second"]);
}

fn a_link_takes_no_name_that_is_taken(disk: &dyn Disk, dir: &Path) {
    let (first, second) = (dir.join("first"), dir.join("second"));
    let error = disk.link(&first, &second).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    disk.create(&first).unwrap();
    disk.create(&second).unwrap();
    let error = disk.link(&first, &second).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

fn what_is_mapped_can_be_asked_for_and_let_go(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("file");
    let file = disk.create(&path).unwrap();
    file.write_at(0, &[7; 100_000]).unwrap();
    file.sync().unwrap();
    let map = disk.map(&path).unwrap();
    // It was just written, and is read here.
    assert!(map.iter().all(|byte| *byte == 7));
    assert!(disk.is_resident(&map[5_000..70_000]) && disk.is_resident(&map[9..9]));
    drop(map);
    // Other tests may let go at the same time; all that can be said is that it works.
    disk.unmap_let_go(usize::MAX);
    assert_eq!(disk.map(&path).unwrap().len(), 100_000);
}
