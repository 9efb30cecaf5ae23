//! Addresses that somebody else has: refused before anything is written, so that the same data
//! directory can be started with other ports.

use std::net::{Ipv4Addr, TcpListener};

use varve_tests::process::{Options, Program, Server, free_port};

use crate::{assert_ends, assert_keys, put_keys};

/// Takes one port of `options` away, sees the start refused, and starts with another one.
fn occupied(choose: impl Fn(&mut Options) -> &mut u16) {
    let mut options = Options::single("ports");
    let port = *choose(&mut options);
    let occupier = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
    let mut refused = Server::spawn(&Program::varve(), options.clone());
    let text = format!("listen tcp 127.0.0.1:{port}: bind: address already in use");
    assert_ends(&mut refused, &[&text]);
    assert!(!options.data_directory.join("member").exists(), "a refused start founds nothing");

    *choose(&mut options) = free_port();
    options.initial_cluster = format!("default=http://127.0.0.1:{}", options.peer_port);
    let mut server = Server::start_with(&Program::varve(), options).expect("another port is free");
    let keys = put_keys(&server, "k", 3);
    drop(occupier);
    server.kill();
    server.restart();
    assert_keys(&server, &keys);
}

#[test]
fn an_occupied_client_port_is_refused_and_another_one_starts() {
    occupied(|options| &mut options.client_port);
}

#[test]
fn an_occupied_peer_port_is_refused_and_another_one_starts() {
    occupied(|options| &mut options.peer_port);
}

#[test]
fn a_running_server_keeps_its_port_and_its_data_when_another_one_asks_for_them() {
    let server = Server::start(&Program::varve(), &[]);
    let keys = put_keys(&server, "k", 3);
    // The same port, its own directory.
    let mut options = Options::single("ports");
    options.client_port = server.options().client_port;
    let mut other = Server::spawn(&Program::varve(), options);
    assert_ends(&mut other, &["bind: address already in use"]);
    // The same directory (through a link, which is what this test removes), its own ports.
    let mut options = Options::single("ports");
    let link = options.data_directory.join("link");
    std::os::unix::fs::symlink(&server.options().data_directory, &link).expect("a fresh directory");
    let parent = std::mem::replace(&mut options.data_directory, link);
    let text = format!("{} is in use by another process", options.data_directory.display());
    let mut other = Server::spawn(&Program::varve(), options);
    assert_ends(&mut other, &[&text]);
    drop(other);
    std::fs::remove_dir_all(parent).expect("the test's own directory");
    assert_keys(&server, &keys);
    put_keys(&server, "after", 3);
}
