//! The identity of a data directory damaged, of another format, or gone.

use std::path::PathBuf;

use varve_tests::process::{Program, Server};

use crate::directories::member_directory;
use crate::{Acknowledged, assert_keys, assert_refuses_restart, change_file, put_keys};

/// A stopped server with some writes, and the path of its identity.
fn stopped() -> (Server, Vec<Acknowledged>, PathBuf) {
    let mut server = Server::start(&Program::varve(), &[]);
    let keys = put_keys(&server, "k", 5);
    server.kill();
    let path = member_directory(&server).join("IDENTITY");
    (server, keys, path)
}

#[test]
fn a_damaged_identity_is_refused_and_starts_when_it_is_put_back() {
    let (mut server, keys, path) = stopped();
    // A port of a peer URL: still JSON, still an identity, but another one.
    let sound = change_file(&path, |bytes| {
        let text = String::from_utf8(std::mem::take(bytes)).expect("it is text");
        *bytes = text.replacen("127.0.0.1:", "127.0.0.2:", 1).into_bytes();
    });
    assert_refuses_restart(
        &mut server,
        &["IDENTITY", "expected checksum", "found", "put the file"],
    );
    for damaged in [&b""[..], b"{}", b"\xff\xfe\x00", &sound[..sound.len() / 2]] {
        std::fs::write(&path, damaged).expect("the test's own file");
        assert_refuses_restart(&mut server, &["IDENTITY", "expected an identity", "put the file"]);
    }
    std::fs::write(&path, &sound).expect("the test's own file");
    server.restart();
    assert_keys(&server, &keys);
}

#[test]
fn an_identity_of_a_newer_format_is_refused_by_its_number() {
    let (mut server, keys, path) = stopped();
    let sound = change_file(&path, |bytes| {
        let text = String::from_utf8(std::mem::take(bytes)).expect("it is text");
        let (json, _) = text.rsplit_once("\ncrc32 ").expect("the checksum is the last line");
        let json = json.replacen("\"format\": 1", "\"format\": 2", 1);
        *bytes = format!("{json}\ncrc32 {:08x}\n", crate::peers::crc32(json.as_bytes())).into();
    });
    assert_refuses_restart(&mut server, &["IDENTITY", "expected format 1, found 2"]);
    std::fs::write(&path, &sound).expect("the test's own file");
    server.restart();
    assert_keys(&server, &keys);
}

#[test]
fn a_missing_identity_is_refused_and_starts_when_it_is_put_back() {
    let (mut server, keys, path) = stopped();
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).expect("the server is stopped");
    assert_refuses_restart(
        &mut server,
        &["expected the file IDENTITY", "found none", "put it back"],
    );
    std::fs::rename(&aside, &path).expect("the server is stopped");
    server.restart();
    assert_keys(&server, &keys);
}
