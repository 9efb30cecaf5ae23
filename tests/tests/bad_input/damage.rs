//! Bytes on the disk that are not what was written: in the log, at its end, in the engine.
//!
//! Acknowledged data that is damaged is refused with file and offset, what was expected and found,
//! and what to do; the end of the log, where a crash leaves torn writes, is not.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use varve_api::etcdserverpb::{DefragmentRequest, DefragmentResponse, RangeRequest};
use varve_api::method;
use varve_tests::grpc_client::Client;
use varve_tests::process::{Program, Server};

use crate::directories::member_directory;
use crate::{
    Acknowledged, CALL_TIMEOUT, assert_keys, assert_no_panic, assert_refuses_restart, block_on,
    change_file, put, put_keys,
};

/// What frames of the log begin with, where on a block (docs/FORMAT.md section 1.3).
const FRAME_MAGIC: &[u8] = b"VWLF";
const FRAME_HEADER_BYTES: usize = 64;

/// A stopped server with some writes, and its only segment.
fn stopped() -> (Server, Vec<Acknowledged>, PathBuf) {
    let mut server = Server::start(&Program::varve(), &[]);
    let keys = put_keys(&server, "k", 20);
    server.kill();
    let path = member_directory(&server).join("log").join("0000000000000001.wal");
    (server, keys, path)
}

/// Where the frames of a segment lie, without their padding.
fn frames(segment: &[u8]) -> Vec<Range<usize>> {
    let number = |at: usize| {
        u32::from_le_bytes(segment[at..at + 4].try_into().expect("four bytes")) as usize
    };
    let block = number(12);
    (1..segment.len() / block)
        .map(|position| position * block)
        .filter(|at| segment[*at..].starts_with(FRAME_MAGIC))
        .map(|at| at..at + FRAME_HEADER_BYTES + number(at + 40))
        .collect()
}

/// Where the next frame would begin.
fn end_of_log(segment: &[u8]) -> usize {
    let block = u32::from_le_bytes(segment[12..16].try_into().expect("four bytes")) as usize;
    frames(segment).last().expect("there are frames").end.next_multiple_of(block)
}

#[test]
fn a_damaged_frame_in_the_middle_of_the_log_is_refused_with_its_place_and_what_to_do() {
    let (mut server, keys, path) = stopped();
    let segment = std::fs::read(&path).expect("the segment");
    let frames = frames(&segment);
    let middle = &frames[frames.len() / 2];
    let file = path.display().to_string();
    for at in [middle.start, middle.start + 60, middle.start + FRAME_HEADER_BYTES, middle.end - 1] {
        change_file(&path, |bytes| bytes[at] ^= 0x20);
        let offset = format!("at offset {}", middle.start);
        let texts = ["log damaged", &file, &offset, "expected", "found", "do not delete or edit"];
        assert_refuses_restart(&mut server, &texts);
        // Refused twice: the first refusal has changed nothing.
        assert_refuses_restart(&mut server, &texts);
        std::fs::write(&path, &segment).expect("the test's own file");
    }
    server.restart();
    assert_keys(&server, &keys);
}

#[test]
fn a_damaged_header_of_a_segment_is_refused() {
    let (mut server, keys, path) = stopped();
    let file = path.display().to_string();
    for at in [0, 8, 20, 50, 300, 509] {
        let sound = change_file(&path, |bytes| bytes[at] ^= 0x20);
        assert_refuses_restart(&mut server, &[&file, "expected", "found"]);
        std::fs::write(&path, sound).expect("the test's own file");
    }
    server.restart();
    assert_keys(&server, &keys);
}

#[test]
fn a_torn_tail_is_cut_and_nothing_acknowledged_is_lost() {
    let (mut server, mut keys, path) = stopped();
    let segment = std::fs::read(&path).expect("the segment");
    let frames = frames(&segment);
    // Bytes of an earlier frame stand for a frame whose write was torn after its first sector.
    let torn = segment[frames[3].start..frames[3].start + 50].to_vec();
    let garbage: Vec<u8> = (0..5_000_u32).map(|number| (number * 37 % 251) as u8).collect();
    for (number, tail) in [torn, garbage, vec![0xff; 700]].iter().enumerate() {
        change_file(&path, |bytes| {
            let end = end_of_log(bytes);
            bytes[end..end + tail.len()].copy_from_slice(tail);
        });
        server.restart();
        assert_keys(&server, &keys);
        // And the log goes on where it was cut.
        keys.extend(put_keys(&server, &format!("after-{number}"), 3));
        server.kill();
        assert_no_panic(&server.log());
    }
    server.restart();
    assert_keys(&server, &keys);
}

#[test]
fn a_segment_that_lost_its_end_is_refused() {
    let (mut server, keys, path) = stopped();
    let sound = change_file(&path, |bytes| bytes.truncate(end_of_log(bytes)));
    let file = path.display().to_string();
    assert_refuses_restart(&mut server, &[&file, "expected", "found"]);
    std::fs::write(&path, sound).expect("the test's own file");
    server.restart();
    assert_keys(&server, &keys);
}

/// A stopped server whose writes are in tables of the engine, and the engine's directory.
fn flushed() -> (Server, Vec<Acknowledged>, PathBuf) {
    let flags = ["--snapshot-count", "20", "--snapshot-catchup-entries", "5"];
    let mut server = Server::start(&Program::varve(), &flags);
    let keys = put_keys(&server, "k", 100);
    assert!(server.wait_for_log("saved snapshot", CALL_TIMEOUT), "{}", server.log());
    let engine = member_directory(&server).join("engine");
    server.kill();
    // The kill may have left files that nothing names: a start removes them. Then all is quiet.
    server.restart();
    let mut before = Vec::new();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(300));
        let now = names(&engine, "");
        if now == before {
            server.kill();
            assert!(!names(&engine, ".kt").is_empty(), "the engine has tables");
            return (server, keys, engine);
        }
        before = now;
    }
    panic!("the engine works without end: {before:?}");
}

/// The files in a directory whose names contain `part`.
fn names(directory: &Path, part: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("the directory is there");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)))
        .collect();
    paths.sort();
    paths
}

#[test]
fn a_damaged_manifest_of_the_engine_is_refused_with_its_place() {
    let (mut server, keys, engine) = flushed();
    for part in ["CURRENT", "MANIFEST-"] {
        for path in names(&engine, part) {
            let file = path.display().to_string();
            let sound = change_file(&path, |bytes| bytes[10] ^= 0x20);
            assert_refuses_restart(&mut server, &[&file, "at offset", "expected", "found"]);
            std::fs::write(&path, &sound).expect("the test's own file");
        }
    }
    server.restart();
    assert_keys(&server, &keys);
}

/// Anywhere in the manifest: the place of its newest edit looks like a torn write, and what a start
/// without it lacks is still in the log, or is missed there.
#[test]
fn a_manifest_damaged_anywhere_is_refused_or_made_good_from_the_log() {
    let (mut server, keys, engine) = flushed();
    let manifest = names(&engine, "MANIFEST-").pop().expect("a manifest");
    let directory = member_directory(&server);
    let aside = directory.with_extension("aside");
    let length = std::fs::metadata(&manifest).expect("a manifest").len() as usize;
    for part in 1..8 {
        copy_directory(&directory, &aside);
        let at = length * part / 8;
        change_file(&manifest, |bytes| bytes[at] ^= 0x20);
        server.restart_unawaited();
        match wait_for_either(&mut server) {
            None => assert_keys(&server, &keys),
            Some(code) => assert_eq!(code, Some(1), "byte {at}:\n{}", server.log()),
        }
        server.kill();
        assert_no_panic(&server.log());
        std::fs::remove_dir_all(&directory).expect("the server is stopped");
        std::fs::rename(&aside, &directory).expect("the server is stopped");
    }
    server.restart();
    assert_keys(&server, &keys);
}

fn copy_directory(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .args(["-a", "--sparse=always"])
        .args([from, to])
        .status()
        .expect("cp runs");
    assert!(status.success());
}

#[test]
fn a_missing_file_of_the_engine_is_refused_by_name_and_nothing_is_changed() {
    let (mut server, keys, engine) = flushed();
    // A file that no manifest names, as a crash leaves: only a start that succeeds removes it.
    let stray = engine.join("ffffffffffffffff.kt");
    let files = names(&engine, ".kt").into_iter().chain(names(&engine, "CURRENT"));
    std::fs::write(&stray, "a table that was never finished").expect("the server is stopped");
    for path in files {
        let aside = engine.with_extension("aside");
        std::fs::rename(&path, &aside).expect("the server is stopped");
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        assert_refuses_restart(&mut server, &[&name]);
        assert!(stray.exists(), "a refused start changed the directory");
        std::fs::rename(&aside, &path).expect("the server is stopped");
    }
    server.restart();
    assert_keys(&server, &keys);
}

/// Damage of a table is found when it is read, at the start or later; what was damaged is never
/// given out, and the rest comes as it was written.
#[test]
fn a_damaged_table_gives_errors_and_never_wrong_data() {
    let (mut server, keys, engine) = flushed();
    let tables = names(&engine, ".kt");
    let length = std::fs::metadata(&tables[0]).expect("a table").len() as usize;
    let (mut refused, mut errors) = (0, 0);
    for at in [3, 70, length / 4, length / 2, length - 45, length - 4] {
        let sound = change_file(&tables[0], |bytes| bytes[at] ^= 0x20);
        server.restart_unawaited();
        if let Some(status) = wait_for_either(&mut server) {
            let log = server.log();
            assert_eq!(status, Some(1), "byte {at}:\n{log}");
            let file = tables[0].display().to_string();
            for text in [&file, "expected", "found"] {
                assert!(log.contains(text), "byte {at}: {text:?} in:\n{log}");
            }
            refused += 1;
        } else {
            errors += block_on(errors_of_reads(&server, &keys));
            server.kill();
        }
        assert_no_panic(&server.log());
        std::fs::write(&tables[0], &sound).expect("the test's own file");
    }
    assert!(refused + errors > 0, "six damages were all harmless: the test damages nothing");
    server.restart();
    assert_keys(&server, &keys);
}

/// Its exit code if it ends, `None` if it serves.
fn wait_for_either(server: &mut Server) -> Option<Option<i32>> {
    if server.wait_for_log("ready to serve client requests", CALL_TIMEOUT) {
        return None;
    }
    let status = server.wait_exit(CALL_TIMEOUT);
    Some(status.unwrap_or_else(|| panic!("it neither ends nor serves:\n{}", server.log())).code())
}

/// Reads all keys one by one; the number of errors. What is answered is right.
async fn errors_of_reads(server: &Server, keys: &[Acknowledged]) -> usize {
    let client = Client::new(&server.client_address(), CALL_TIMEOUT);
    let mut errors = 0;
    for write in keys {
        let request = RangeRequest { key: write.key.clone().into(), ..RangeRequest::default() };
        match client.range(request).await {
            Err(_) => errors += 1,
            Ok(response) => {
                let found: Vec<_> =
                    response.kvs.iter().map(|kv| (kv.value.clone(), kv.mod_revision)).collect();
                assert_eq!(found, [(write.value.clone().into(), write.revision)], "{}", write.key);
            }
        }
    }
    errors
}

#[test]
fn a_value_segment_that_is_cut_under_a_running_server_stops_it_with_file_and_offset() {
    use std::os::unix::process::ExitStatusExt as _;
    let mut server = Server::start(&Program::varve(), &["--snapshot-count", "10"]);
    let value = "v".repeat(2_000);
    block_on(async {
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        for number in 0..40 {
            put(&client, &format!("key {number}"), &value).await.expect("it is healthy");
        }
    });
    assert!(server.wait_for_log("saved snapshot", CALL_TIMEOUT), "{}", server.log());
    // After a restart no memtable holds the values that are in segments.
    server.kill();
    server.restart();
    // Nor is one half written or about to go: this answers when nothing is left to do.
    block_on(async {
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        let quiet = client
            .unary::<_, DefragmentResponse>(&method::MAINTENANCE_DEFRAGMENT, DefragmentRequest {});
        quiet.await.expect("it is healthy");
    });
    let engine = member_directory(&server).join("engine");
    let names = std::fs::read_dir(&engine).expect("the engine's directory");
    let paths = names.map(|name| name.expect("an entry").path());
    let cut: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "vs")).collect();
    assert!(!cut.is_empty(), "{}", server.log());
    for path in &cut {
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("our own file");
        file.set_len(0).expect("our own file");
    }
    let all = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        serializable: true,
        ..RangeRequest::default()
    };
    let answer =
        block_on(async { Client::new(&server.client_address(), CALL_TIMEOUT).range(all).await });
    assert!(answer.is_err(), "{answer:?}");
    let status = server.wait_exit(CALL_TIMEOUT).expect("the process ends");
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{}", server.log());
    let log = server.log();
    let named = cut.iter().any(|path| {
        log.contains(&format!("lost a page of the mapped file {} at offset ", path.display()))
    });
    assert!(named, "{log}");
    assert_no_panic(&log);
}
