//! Data directories of somebody else: another cluster, another member, etcd, no directory at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use varve_tests::process::{Cluster, Options, Program, Server, fresh_directory, skip_or_fail};

use crate::{
    CALL_TIMEOUT, assert_ends, assert_keys, assert_no_panic, assert_refuses_restart, put_keys,
};

/// The member's directory below a server's data directory.
pub fn member_directory(server: &Server) -> PathBuf {
    server.options().data_directory.join("member")
}

/// A number in the identity file of a data directory, as log lines print ids.
fn identity_field(server: &Server, field: &str) -> String {
    let text = std::fs::read_to_string(member_directory(server).join("IDENTITY"))
        .expect("a server that has served has an identity");
    let (_, rest) = text.split_once(&format!("\"{field}\": ")).expect("the field is there");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    format!("{:x}", digits.parse::<u64>().expect("a number"))
}

fn swap(one: &Path, other: &Path) {
    let aside = one.with_extension("aside");
    for (from, to) in [(one, aside.as_path()), (other, one), (aside.as_path(), other)] {
        std::fs::rename(from, to).expect("both are on one file system");
    }
}

#[test]
fn a_member_with_the_directory_of_another_cluster_is_kept_out_with_both_ids_and_no_data_is_lost() {
    let mut cluster = Cluster::start(&Program::varve(), 3, &[]);
    let keys = put_keys(&cluster.servers[0], "before", 5);
    cluster.servers[2].kill();

    // The same member of another cluster: the same flags but for the token. It founds its
    // directory and waits for a quorum that does not come.
    let own = cluster.servers[2].options().clone();
    let mut foreign_options = own.clone();
    foreign_options.data_directory = fresh_directory("foreign");
    foreign_options.token = "another".into();
    let mut foreign = Server::spawn(&Program::varve(), foreign_options);
    assert!(foreign.wait_for_log("the peer refuses", CALL_TIMEOUT), "{}", foreign.log());
    foreign.kill();
    let ids =
        [identity_field(&cluster.servers[0], "cluster_id"), identity_field(&foreign, "cluster_id")];
    assert_ne!(ids[0], ids[1]);

    // That directory, with the flags of this cluster.
    let foreign_directory = foreign.options().data_directory.clone();
    swap(&own.data_directory, &foreign_directory);
    cluster.servers[2].restart_unawaited();
    assert!(cluster.servers[2].wait_for_log("the peer refuses", CALL_TIMEOUT));
    let mismatch = format!(
        "expected cluster id {}, found cluster id {} (cluster ID mismatch)",
        ids[0], ids[1]
    );
    let own_words = format!(
        "expected cluster id {}, found cluster id {} (cluster ID mismatch)",
        ids[1], ids[0]
    );
    for (server, text) in [
        (&cluster.servers[0], &mismatch),
        (&cluster.servers[2], &mismatch),
        (&cluster.servers[2], &own_words),
        (&cluster.servers[2], &"the data directory belongs to another cluster".to_owned()),
    ] {
        assert!(server.wait_for_log(text, CALL_TIMEOUT), "{text:?} in:\n{}", server.log());
    }
    // It is not ready, and it is no busy loop: it dials more and more rarely.
    assert!(!cluster.servers[2].wait_for_log("ready to serve", Duration::from_millis(1_500)));
    let refusals = cluster.servers[2].log().matches("lost a peer stream").count();
    assert!(refusals < 60, "{refusals} refusals in two seconds");
    let more = put_keys(&cluster.servers[1], "meanwhile", 5);

    cluster.servers[2].kill();
    swap(&own.data_directory, &foreign_directory);
    cluster.servers[2].restart();
    for server in &cluster.servers {
        assert_keys(server, &keys);
        assert_keys(server, &more);
        assert_no_panic(&server.log());
    }
}

#[test]
fn the_log_of_one_member_beside_the_engine_of_another_is_refused_with_both_identities() {
    let mut one = Server::start(&Program::varve(), &[]);
    let mut other = Server::start(&Program::varve(), &[]);
    let (keys, others) = (put_keys(&one, "one", 5), put_keys(&other, "other", 7));
    one.kill();
    other.kill();
    let identities = [hexadecimal_identity(&one), hexadecimal_identity(&other)];
    for part in ["log", "engine"] {
        swap(&member_directory(&one).join(part), &member_directory(&other).join(part));
        let path = member_directory(&one).join(part).display().to_string();
        assert_refuses_restart(&mut one, &[&path, &identities[0], &identities[1]]);
        assert_refuses_restart(&mut other, &[&identities[0], &identities[1]]);
        swap(&member_directory(&one).join(part), &member_directory(&other).join(part));
    }
    one.restart();
    other.restart();
    assert_keys(&one, &keys);
    assert_keys(&other, &others);
}

/// What log and engine carry: cluster id and member id, little-endian.
fn hexadecimal_identity(server: &Server) -> String {
    let hexadecimal = |field| {
        let id = u64::from_str_radix(&identity_field(server, field), 16).expect("just printed");
        id.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    hexadecimal("cluster_id") + &hexadecimal("member_id")
}

#[test]
fn a_directory_of_etcd_is_refused_and_stays_as_it_was() {
    let Some(program) = Program::etcd() else {
        skip_or_fail("etcd");
        return;
    };
    let mut etcd = Server::start(&program, &[]);
    let keys = put_keys(&etcd, "of-etcd", 5);
    etcd.kill();
    let mut options = Options::single("varve");
    std::fs::remove_dir_all(&options.data_directory).expect("the test's own directory");
    options.data_directory = etcd.options().data_directory.clone();
    // Dropped last but one: both remove the directory.
    let mut varve = Server::spawn(&Program::varve(), options);
    assert_ends(&mut varve, &["was written by etcd", "member/snap", "empty --data-dir"]);
    etcd.restart();
    assert_keys(&etcd, &keys);
}

#[test]
fn a_file_where_a_directory_is_expected_is_refused_by_name() {
    let mut options = Options::single("file");
    let parent = options.data_directory.clone();
    options.data_directory = parent.join("file");
    std::fs::write(&options.data_directory, "not a directory").expect("a fresh directory");
    let path = options.data_directory.display().to_string();
    let mut server = Server::spawn(&Program::varve(), options);
    assert_ends(&mut server, &[&path, "Not a directory"]);
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "not a directory");
    std::fs::remove_dir_all(parent).expect("the test's own directory");
}

#[test]
fn a_member_without_its_log_is_refused_rather_than_founded_anew() {
    let mut server = Server::start(&Program::varve(), &[]);
    let keys = put_keys(&server, "k", 5);
    server.kill();
    let (log, aside) =
        (member_directory(&server).join("log"), member_directory(&server).join("aside"));
    std::fs::rename(&log, &aside).expect("the server is stopped");
    assert_refuses_restart(&mut server, &["member/log", "found no segment", "put the log back"]);
    // Emptied, not removed: the refused start has not made it into a new log.
    let _ = std::fs::create_dir(&log);
    assert_refuses_restart(&mut server, &["member/log", "found no segment"]);
    std::fs::remove_dir_all(&log).expect("the server is stopped");
    std::fs::rename(&aside, &log).expect("the server is stopped");
    server.restart();
    assert_keys(&server, &keys);
}

#[test]
fn another_wal_dir_than_before_is_refused_rather_than_begun() {
    let options = Options::single("wal-dir");
    let mut server = Server::start_with(&Program::varve(), options.clone()).expect("it serves");
    let keys = put_keys(&server, "k", 5);
    server.kill();
    let wal_directory = fresh_directory("wal-dir");
    let mut moved = options;
    moved.extra_flags = vec!["--wal-dir".into(), wal_directory.display().to_string()];
    // Through a link, which is what dropping this server removes.
    let links = fresh_directory("links");
    let link = links.join("data");
    std::os::unix::fs::symlink(&moved.data_directory, &link).expect("a fresh directory");
    moved.data_directory = link;
    let mut refused = Server::spawn(&Program::varve(), moved);
    assert_ends(&mut refused, &["found no segment", "check --wal-dir"]);
    drop(refused);
    server.restart();
    assert_keys(&server, &keys);
    for directory in [wal_directory, links] {
        std::fs::remove_dir_all(directory).expect("the test's own directory");
    }
}

#[test]
fn a_member_without_its_engine_makes_it_anew_from_the_log() {
    let mut server = Server::start(&Program::varve(), &[]);
    let keys = put_keys(&server, "k", 5);
    server.kill();
    std::fs::remove_dir_all(member_directory(&server).join("engine")).expect("it is stopped");
    server.restart();
    assert_keys(&server, &keys);
}
