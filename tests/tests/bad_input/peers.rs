//! Garbage on the peer port (docs/FORMAT.md sections 4.3 and 5): from strangers, and from somebody
//! who says hello as a member and then lies.
//!
//! A stream with garbage is closed, the reason goes to the log and, where the protocol allows it,
//! to the other side; messages that make no sense are refused one by one. The member stays up.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use varve_api::etcdserverpb::{StatusRequest, StatusResponse};
use varve_api::method;
use varve_tests::grpc_client::Client;
use varve_tests::process::{Cluster, Program, Server};

use crate::{CALL_TIMEOUT, assert_keys, assert_no_panic, block_on, put_keys};

// Kinds of frames, of streams, and of Raft messages.
const HELLO: u8 = 1;
const RAFT: u8 = 2;
const LEASE_QUESTION: u8 = 3;
const SNAPSHOT_OFFER: u8 = 5;
const SNAPSHOT_END: u8 = 8;
const REFUSED: u8 = 10;
const CALL: u8 = 11;

const SMALL: u8 = 1;
const SNAPSHOT: u8 = 3;

const PROPOSE: u8 = 1;
const APPEND: u8 = 2;
const APPEND_RESPONSE: u8 = 3;
const HEARTBEAT: u8 = 8;
const SNAPSHOT_MESSAGE: u8 = 10;

/// CRC-32/ISO-HDLC, bit by bit.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let checksum = crc32(&[&[kind], payload].concat());
    let length = u32::try_from(payload.len()).expect("a small payload");
    [&length.to_le_bytes()[..], &[kind], &checksum.to_le_bytes(), payload].concat()
}

/// The beginning of a frame that is longer than any.
fn oversize(kind: u8) -> Vec<u8> {
    [&0x7fff_ffff_u32.to_le_bytes()[..], &[kind, 0, 0, 0, 0]].concat()
}

/// Who a member is.
#[derive(Clone, Copy)]
struct Ids {
    cluster: u64,
    member: u64,
    term: u64,
}

fn ids(server: &Server) -> Ids {
    block_on(async {
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        let status: StatusResponse = client
            .unary(&method::MAINTENANCE_STATUS, StatusRequest::default())
            .await
            .expect("the server serves");
        let header = status.header.expect("every response has a header");
        Ids { cluster: header.cluster_id, member: header.member_id, term: status.raft_term }
    })
}

fn hello(cluster: u64, from: u64, to: u64, stream: u8) -> Vec<u8> {
    let mut payload = b"varvpeer\x02\x00".to_vec();
    for id in [cluster, from, to] {
        payload.extend(id.to_le_bytes());
    }
    payload.push(stream);
    // Nothing applied, no URLs.
    payload.extend([0; 9]);
    frame(HELLO, &payload)
}

/// Sends bytes to a member's peer port; what it answers until it closes the stream.
fn send(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(server);
    // The member may close before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the member keeps the stream: {error}"),
    }
    answer
}

fn connect(server: &Server) -> TcpStream {
    let address = format!("127.0.0.1:{}", server.options().peer_port);
    let stream = TcpStream::connect(address).expect("the member listens");
    stream.set_read_timeout(Some(CALL_TIMEOUT)).expect("a positive time");
    stream
}

/// The member closes the stream, says `reason` in its log and, if it answers, to the other side.
fn assert_closed(server: &Server, what: &str, bytes: &[u8], reason: &str) {
    let answer = send(server, bytes);
    assert!(server.wait_for_log(reason, CALL_TIMEOUT), "{what}: {reason:?} in\n{}", server.log());
    if !answer.is_empty() {
        assert_eq!(answer[4], REFUSED, "{what}: {answer:02x?}");
        let text = String::from_utf8_lossy(&answer[9..]).into_owned();
        assert!(text.contains(reason), "{what}: {reason:?} in {text:?}");
    }
}

#[test]
fn strangers_on_the_peer_port_are_closed_with_a_reason_and_the_member_stays_up() {
    let cluster = Cluster::start(&Program::varve(), 3, &[]);
    let server = &cluster.servers[0];
    let (own, peer) = (ids(server), ids(&cluster.servers[1]));
    let keys = put_keys(server, "before", 3);
    let sound = hello(own.cluster, peer.member, own.member, SMALL);
    let mut wrong_checksum = sound.clone();
    wrong_checksum[20] ^= 1;
    let mut unknown_version = sound[9..].to_vec();
    unknown_version[8] = 9;
    let mut wrong_magic = sound[9..].to_vec();
    wrong_magic[0] = b'V';
    let cases: [(&str, Vec<u8>, String); 12] = [
        (
            "noise",
            (1..200).map(|n| n | 0x80).collect(),
            "expected a frame kind from 1 to 17".into(),
        ),
        (
            "an HTTP request",
            b"GET /version HTTP/1.1\r\n\r\n".to_vec(),
            "a frame kind from 1 to 17, found 47".into(),
        ),
        // Before anybody is known, little is read.
        ("an oversize hello", oversize(HELLO), "expected a frame of at most 65536 bytes".into()),
        ("a wrong checksum", wrong_checksum, "expected checksum".into()),
        ("another frame first", frame(RAFT, b"x"), "expected Hello, found Raft".into()),
        ("an empty hello", frame(HELLO, b""), "expected a hello with 8 more bytes".into()),
        ("a wrong magic", frame(HELLO, &wrong_magic), "expected magic".into()),
        ("a newer version", frame(HELLO, &unknown_version), "version 2, found 9".into()),
        (
            "another cluster",
            hello(0xabc, peer.member, own.member, SMALL),
            format!("expected cluster id {:x}, found cluster id abc", own.cluster),
        ),
        (
            "a stranger",
            hello(own.cluster, 0xdef, own.member, SMALL),
            "from another member of the cluster, found a stream from def".into(),
        ),
        (
            "the member itself",
            hello(own.cluster, own.member, own.member, SMALL),
            format!("found a stream from {:x}", own.member),
        ),
        (
            "a hello to somebody else",
            hello(own.cluster, peer.member, 0xfed, SMALL),
            "found a stream to member fed".into(),
        ),
    ];
    for (what, bytes, reason) in &cases {
        assert_closed(server, what, bytes, reason);
    }
    // Nobody is there: closed after a while, and no thread waits for it.
    drop(connect(server));
    let silent = connect(server);
    for server in &cluster.servers {
        assert_keys(server, &keys);
        put_keys(server, "after", 3);
        assert_no_panic(&server.log());
    }
    drop(silent);
}

/// A Raft message: docs/FORMAT.md section 4.3.
struct Message {
    kind: u8,
    flags: u8,
    to: u64,
    from: u64,
    term: u64,
    log_term: u64,
    index: u64,
    commit: u64,
    entries: u32,
    tail: Vec<u8>,
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![1, self.kind, self.flags, 0];
        let numbers = [self.to, self.from, self.term, self.log_term, self.index, self.commit];
        for number in numbers.into_iter().chain([0, 0, 0, 0]) {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(self.entries.to_le_bytes());
        bytes.extend(&self.tail);
        bytes
    }
}

fn entry(kind: u8, index: u64, term: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(index.to_le_bytes());
    bytes.extend(term.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

/// A snapshot's mark, of a group of one member.
fn mark(index: u64, term: u64, member: u64) -> Vec<u8> {
    let numbers = [index.to_le_bytes(), term.to_le_bytes()].concat();
    let counts = [1_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat();
    [numbers, counts, member.to_le_bytes().to_vec()].concat()
}

/// Position of the member that leads.
fn leader(cluster: &Cluster) -> usize {
    for _ in 0..200 {
        for (position, server) in cluster.servers.iter().enumerate() {
            let status: StatusResponse = block_on(async {
                let client = Client::new(&server.client_address(), CALL_TIMEOUT);
                let request = StatusRequest::default();
                client.unary(&method::MAINTENANCE_STATUS, request).await.expect("it serves")
            });
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                return position;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no member leads");
}

#[test]
fn a_member_that_lies_after_its_hello_is_refused_and_the_group_goes_on() {
    let mut cluster = Cluster::start(&Program::varve(), 3, &[]);
    let leads = leader(&cluster);
    let server = &cluster.servers[leads];
    let (own, peer) = (ids(server), ids(&cluster.servers[(leads + 1) % 3]));
    let keys = put_keys(server, "before", 5);
    let greeting = hello(own.cluster, peer.member, own.member, SMALL);
    let after_hello = |frames: &[u8]| [&greeting, frames].concat();

    for (what, bytes, reason) in [
        (
            "a second hello",
            greeting.clone(),
            "expected a frame of Raft, leases, hashes, calls or snapshots, found Hello",
        ),
        ("an oversize frame", oversize(RAFT), "expected a frame of at most 67108864 bytes"),
        ("a chunk on a small stream", frame(7, &[0; 40]), "found SnapshotChunk"),
        (
            "half a question",
            frame(LEASE_QUESTION, &[1, 2, 3]),
            "a lease question with 8 more bytes",
        ),
        ("an empty message", frame(RAFT, b""), "expected a Raft message"),
        ("noise", frame(RAFT, &[0xa5; 300]), "expected version 1, found 165"),
        ("an unknown type", frame(RAFT, &[1, 99, 0, 0]), "expected a message type from 1 to 13"),
    ] {
        assert_closed(server, what, &after_hello(&bytes), reason);
    }
    let offer =
        [hello(own.cluster, peer.member, own.member, SNAPSHOT), frame(SNAPSHOT_OFFER, &[9; 9])];
    assert_closed(server, "a snapshot offer of noise", &offer.concat(), "a snapshot offer with");

    // Well-formed and wrong: refused one by one, on a stream that goes on.
    let mut stream = connect(server);
    stream.write_all(&greeting).expect("the member reads");
    for (reason, message) in lies(own, peer.member) {
        stream.write_all(&frame(RAFT, &message)).expect("the member reads");
        assert!(server.wait_for_log(reason, CALL_TIMEOUT), "{reason:?} in\n{}", server.log());
    }
    for change in changes_of_nobody() {
        stream.write_all(&frame(CALL, &change)).expect("the member reads");
    }
    drop(stream);
    for server in &cluster.servers {
        assert_keys(server, &keys);
        put_keys(server, "after", 3);
        assert_no_panic(&server.log());
    }
    // Nothing of it went into the log.
    cluster.servers.iter_mut().for_each(Server::kill);
    cluster.restart_all();
    for server in &cluster.servers {
        assert_keys(server, &keys);
        assert_no_panic(&server.log());
    }
}

/// Calls to add (as a voter, as a learner), remove and promote member 0, which is nobody: such an
/// entry in the log would stop every member at every start.
fn changes_of_nobody() -> [Vec<u8>; 4] {
    let call = |kind: u8, rest: &[u8]| [&[7; 8], &[1, kind][..], &[0; 8], rest].concat();
    let add = |is_learner: u8| call(1, &[&[is_learner, 1, 1, 10], &b"http://a:1"[..]].concat());
    [add(0), add(1), call(2, &[]), call(3, &[])]
}

/// Messages to a leader that no correct member sends, and what the leader says about each.
fn lies(own: Ids, peer: u64) -> Vec<(&'static str, Vec<u8>)> {
    let sound = || Message {
        kind: HEARTBEAT,
        flags: 0,
        to: own.member,
        from: peer,
        term: own.term,
        log_term: 0,
        index: 0,
        commit: 0,
        entries: 0,
        tail: Vec::new(),
    };
    let proposal = |entry| Message { kind: PROPOSE, term: 0, entries: 1, tail: entry, ..sound() };
    let gap = [entry(0, 6, 1, b""), entry(0, 9, 1, b"")].concat();
    let mark = mark(5, 1, own.member);
    let messages = [
        ("it says that it is from 7", Message { from: 7, ..sound() }),
        ("it is for 7", Message { to: 7, ..sound() }),
        ("out of range", Message { term: u64::MAX, ..sound() }),
        ("is above the end of the log", Message { commit: 1 << 40, ..sound() }),
        (
            "1 entries in MsgHeartbeat",
            Message { entries: 1, tail: entry(0, 1, 1, b"x"), ..sound() },
        ),
        (
            "entry 9 after 6",
            Message { kind: APPEND, log_term: 1, index: 5, entries: 2, tail: gap, ..sound() },
        ),
        ("the leader ends at", Message { kind: APPEND_RESPONSE, index: 1 << 40, ..sound() }),
        (
            "a snapshot that came without its files",
            Message { kind: SNAPSHOT_MESSAGE, flags: 2, tail: mark, ..sound() },
        ),
        // Committed, it would stop every member at every start.
        ("refused a proposal of a peer", proposal(entry(0, 0, 0, b"no batch of commands"))),
        ("membership change", proposal(entry(1, 0, 0, &[1, 0]))),
    ];
    messages.into_iter().map(|(reason, message)| (reason, message.encode())).collect()
}

#[test]
fn a_snapshot_of_garbage_is_refused_and_the_sound_one_after_it_is_installed() {
    let flags = ["--snapshot-count", "20", "--snapshot-catchup-entries", "5"];
    let mut cluster = Cluster::start(&Program::varve(), 3, &flags);
    let leads = leader(&cluster);
    let (follows, other) = ((leads + 1) % 3, (leads + 2) % 3);
    let keys = put_keys(&cluster.servers[leads], "before", 5);
    let (own, peer) = (ids(&cluster.servers[follows]), ids(&cluster.servers[other]));
    let announcement = |index, term| {
        let message = Message {
            kind: SNAPSHOT_MESSAGE,
            flags: 2,
            to: own.member,
            from: peer.member,
            term: own.term,
            log_term: 0,
            index: 0,
            commit: 0,
            entries: 0,
            tail: mark(index, term, own.member),
        };
        frame(SNAPSHOT_END, &message.encode())
    };
    // A manifest of four bytes, no files.
    let offer = frame(SNAPSHOT_OFFER, b"\x04\0\0\0junk\0\0\0\0");
    let greeting = hello(own.cluster, peer.member, own.member, SNAPSHOT);
    for (end, reason) in [
        (announcement(1 << 30, own.term), "expected a sound snapshot"),
        (frame(SNAPSHOT_END, b"no message"), "expected the announcement of a snapshot"),
        (frame(7, &[0; 12]), "expected the wanted files in order"),
    ] {
        let server = &cluster.servers[follows];
        // One snapshot is received at a time: the one before may still be being cleared away.
        let refused = (0..20).any(|_| {
            send(server, &[&greeting[..], &offer, &end].concat());
            server.wait_for_log(reason, Duration::from_secs(1))
        });
        assert!(refused, "{reason:?} in\n{}", server.log());
    }
    assert_keys(&cluster.servers[follows], &keys);

    cluster.servers[follows].kill();
    let more = put_keys(&cluster.servers[leads], "meanwhile", 200);
    cluster.servers[follows].restart();
    let server = &cluster.servers[follows];
    assert!(server.wait_for_log("applied snapshot", CALL_TIMEOUT), "{}", server.log());
    for server in &cluster.servers {
        assert_keys(server, &keys);
        assert_keys(server, &more);
        assert_no_panic(&server.log());
    }
}
