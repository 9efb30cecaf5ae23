//! Batches of commands: arbitrary bytes, and arbitrary commands applied to the state machine.
//!
//! What must hold: bytes are decoded or refused, and what was decoded encodes to the same bytes;
//! commands that a server lets through are answered, never fatal, and afterwards the state
//! machine's own checker finds nothing, before and after the engine's background work.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use varve_api::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, compare, request_op,
};
use varve_disk::sim::SimDisk;
use varve_lsm::{Db, Options, Work};
use varve_store::{
    Command, CommandKind, Founding, Member, RequestId, Store, check, decode_batch, encode_batch,
    validate,
};

use super::input::Input;

const ENTRIES_MAX: usize = 64;
const TXN_OPS_MAX: usize = 8;

/// Runs one input: the payload of a log entry.
pub fn command(data: &[u8]) {
    let payload = Bytes::copy_from_slice(data);
    let Ok(commands) = decode_batch(&payload) else { return };
    assert_eq!(encode_batch(&commands), payload, "one form for each batch");
}

/// Runs one input: a tape of commands.
pub fn apply(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut store, db) = open();
    for _ in 0..ENTRIES_MAX {
        if input.is_over() {
            break;
        }
        if input.below(8) == 0 {
            store.freeze().expect("the simulated disk works");
            while db.work().expect("the simulated disk works") != Work::Idle {}
        }
        let commands: Vec<Command> =
            (0..1 + input.below(3)).filter_map(|_| one(&mut input)).collect();
        let count = commands.len();
        let index = store.applied().index + 1;
        let applied = store.apply(index, 1, &encode_batch(&commands));
        let applied = applied.unwrap_or_else(|error| panic!("{commands:?}: {error}"));
        assert_eq!(applied.replies.len(), count, "a reply for each command");
    }
    expect_nothing_found(&store, &db);
    store.freeze().expect("the simulated disk works");
    while db.work().expect("the simulated disk works") != Work::Idle {}
    expect_nothing_found(&store, &db);
}

fn expect_nothing_found(store: &Store, db: &Db) {
    let found = check::check_store(store, db).expect("the simulated disk works");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn open() -> (Store, Db) {
    let options = Options {
        memtable_bytes: 16 << 10,
        segment_bytes: 64 << 10,
        table_bytes: 16 << 10,
        level0_tables: 2,
        bottom_factor: 0,
        inline_value_bytes_max: 8,
        ..Options::default()
    };
    let disk = Arc::new(SimDisk::new(1));
    let (db, writer) = Db::open(disk, Path::new("/engine"), options).expect("it is empty");
    let member = Member {
        id: 1,
        name: "one".to_owned(),
        peer_urls: vec!["http://127.0.0.1:2380".to_owned()],
        client_urls: Vec::new(),
        is_learner: false,
    };
    let founding = Founding { cluster_id: 1, members: vec![member] };
    let store = Store::open(db.clone(), writer, &founding).expect("an empty engine is founded");
    (store, db)
}

/// A command that a server would propose; none if it would refuse the request.
fn one(input: &mut Input) -> Option<Command> {
    let (kind, body) = match input.below(8) {
        0..=2 => {
            let request = put(input);
            validate::put(&request).ok()?;
            (CommandKind::Put, request.encode_to_vec())
        }
        3 => {
            let request = delete(input);
            validate::delete_range(&request).ok()?;
            (CommandKind::DeleteRange, request.encode_to_vec())
        }
        4 => {
            let request = txn(input, 2);
            validate::txn(&request, TXN_OPS_MAX).ok()?;
            (CommandKind::Txn, request.encode_to_vec())
        }
        5 => {
            let revision = i64::from(input.byte()) - 2;
            (CommandKind::Compact, CompactionRequest { revision, physical: false }.encode_to_vec())
        }
        6 => {
            let request = LeaseGrantRequest { ttl: 60, id: lease(input).max(1) };
            validate::lease_grant(&request).ok()?;
            (CommandKind::LeaseGrant, request.encode_to_vec())
        }
        _ => {
            let request = LeaseRevokeRequest { id: lease(input) };
            (CommandKind::LeaseRevoke, request.encode_to_vec())
        }
    };
    Some(Command { id: RequestId(1), kind, author: None, body: body.into() })
}

/// Few keys, so that they are changed often; the empty one is among them.
fn key(input: &mut Input) -> Bytes {
    const KEYS: [&str; 8] = ["", "a", "ab", "abc", "b", "ba", "\0", "z"];
    Bytes::from_static(KEYS[input.below(KEYS.len())].as_bytes())
}

fn lease(input: &mut Input) -> i64 {
    input.below(4) as i64
}

fn put(input: &mut Input) -> PutRequest {
    let flags = input.byte();
    let value = if flags & 8 == 0 { vec![flags; usize::from(flags)] } else { Vec::new() };
    PutRequest {
        key: key(input),
        value: value.into(),
        lease: lease(input),
        prev_kv: flags & 1 != 0,
        ignore_value: flags & 2 != 0,
        ignore_lease: flags & 4 != 0,
    }
}

fn delete(input: &mut Input) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key(input), range_end: key(input), prev_kv: input.below(2) == 1 }
}

fn range(input: &mut Input) -> RangeRequest {
    RangeRequest {
        key: key(input),
        range_end: key(input),
        revision: i64::from(input.byte() / 8),
        limit: input.below(4) as i64,
        sort_order: input.below(3) as i32,
        sort_target: input.below(5) as i32,
        ..RangeRequest::default()
    }
}

fn txn(input: &mut Input, depth: usize) -> TxnRequest {
    let mut compares = Vec::new();
    for _ in 0..input.below(3) {
        let number = i64::from(input.byte() / 32);
        let target = match input.below(5) {
            0 => compare::TargetUnion::Version(number),
            1 => compare::TargetUnion::CreateRevision(number),
            2 => compare::TargetUnion::ModRevision(number),
            3 => compare::TargetUnion::Value(Bytes::from_static(b"v")),
            _ => compare::TargetUnion::Lease(number),
        };
        compares.push(Compare {
            result: input.below(4) as i32,
            target: input.below(5) as i32,
            key: key(input),
            range_end: key(input),
            target_union: Some(target),
        });
    }
    let success = operations(input, depth);
    let failure = operations(input, depth);
    TxnRequest { compare: compares, success, failure }
}

fn operations(input: &mut Input, depth: usize) -> Vec<RequestOp> {
    let mut found = Vec::new();
    for _ in 0..input.below(4) {
        let request = match input.below(4) {
            0 => request_op::Request::RequestPut(put(input)),
            1 => request_op::Request::RequestDeleteRange(delete(input)),
            2 => request_op::Request::RequestRange(range(input)),
            _ if depth > 0 => request_op::Request::RequestTxn(txn(input, depth - 1)),
            _ => continue,
        };
        found.push(RequestOp { request: Some(request) });
    }
    found
}

/// Batches of no, one and several commands.
pub fn command_seeds() -> Vec<(String, Vec<u8>)> {
    let mut input = Input::new(&[0, 9, 1, 1, 5, 4, 6, 1, 3, 2, 0, 0]);
    let commands: Vec<Command> = (0..4).filter_map(|_| one(&mut input)).collect();
    vec![
        ("empty".to_owned(), encode_batch(&[]).to_vec()),
        ("one".to_owned(), encode_batch(&commands[..1]).to_vec()),
        ("several".to_owned(), encode_batch(&commands).to_vec()),
    ]
}

/// Tapes that reach every kind of command.
pub fn apply_seeds() -> Vec<(String, Vec<u8>)> {
    let mut random = varve_disk::sim::Random::new(7);
    let mut tape = |length: usize| (0..length).map(|_| random.below(256) as u8).collect();
    vec![
        ("short".to_owned(), tape(40)),
        ("middle".to_owned(), tape(300)),
        ("long".to_owned(), tape(1500)),
        ("puts".to_owned(), [1, 0, 0, 200, 1, 0].repeat(40)),
    ]
}
