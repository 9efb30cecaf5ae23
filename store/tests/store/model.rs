//! Random commands, with flushes, merges, power losses and replays between them, against the naive
//! model: every reply, every event, and reads at every readable revision must be the same.
//!
//! `VARVE_SEED=n` runs one seed; a failing run prints its own.

use bytes::Bytes;
use prost::Message;
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseRevokeRequest, RangeResponse, TxnRequest,
};
use varve_api::mvccpb::Event;
use varve_lsm::Options;
use varve_store::{Command, CommandKind, LeaseChange, LeaseId, RequestId, validate};

use crate::machine::Machine;
use crate::naive::{Naive, Write, within};
use crate::random::{self, Random};

const SEEDS: u64 = 24;
const ENTRIES: u64 = 250;
const TXN_OPS_MAX: usize = 128;

#[test]
fn random_commands_do_what_the_model_says() {
    let seeds = match std::env::var("VARVE_SEED") {
        Ok(seed) => seed.parse().unwrap()..seed.parse::<u64>().unwrap() + 1,
        Err(_) => 0..SEEDS,
    };
    for seed in seeds {
        // Shown only if the test fails.
        println!("VARVE_SEED={seed}");
        run(seed);
    }
}

fn run(seed: u64) {
    let mut random = Random::new(seed);
    let mut model = Naive::new();
    let options = Options {
        memtable_bytes: 8 << 10,
        segment_bytes: 16 << 10,
        table_bytes: 8 << 10,
        inline_value_bytes_max: 24,
        ..Options::default()
    };
    let mut machine = Machine::new(seed, options);
    for _ in 0..ENTRIES {
        step(&mut random, &mut model, &mut machine);
        match random.below(40) {
            0 => machine.restart(),
            1 => machine.flush(),
            2..6 => drop(machine.db.work().unwrap()),
            6..16 => compare_reads(&mut random, &model, &machine),
            _ => {}
        }
    }
    machine.work();
    machine.check();
    compare_leases(&model, &machine);
    for revision in model.compacted.max(1)..=model.revision {
        let request = random::everything(revision);
        assert_eq!(machine.view().range(&request), model.range(&request));
    }
}

/// Applies one entry to both.
fn step(random: &mut Random, model: &mut Naive, machine: &mut Machine) {
    let mut commands = Vec::new();
    let mut replies = Vec::new();
    let mut leases = Vec::new();
    let known = model.events.len();
    let compacted = model.compacted;
    for position in 0..random.below(4) {
        let write = write(random, model);
        let id = RequestId(position);
        commands.push(command(id, &write));
        let lease = match &write {
            Write::Grant { id, ttl } => {
                Some(LeaseChange::Granted { id: LeaseId(*id), ttl_seconds: *ttl })
            }
            Write::Revoke(id) => Some(LeaseChange::Revoked { id: LeaseId(*id) }),
            _ => None,
        };
        let reply = model.apply(write);
        leases.extend(lease.filter(|_| reply.is_ok()));
        replies.push((id, reply));
    }
    let applied = machine.apply(&commands);
    assert_eq!(applied.replies, replies);
    assert_eq!(applied.events, model.events[known..]);
    assert_eq!(applied.leases, leases);
    assert_eq!(applied.compacted, (model.compacted != compacted).then_some(model.compacted));
    assert_eq!(machine.view().revision(), model.revision);
    assert_eq!(machine.view().compacted(), model.compacted.max(0));
}

fn write(random: &mut Random, model: &Naive) -> Write {
    match random.below(100) {
        0..40 => {
            let put = random.put(model);
            if validate::put(&put).is_ok() { Write::Put(put) } else { write(random, model) }
        }
        40..55 => Write::Delete(random.delete()),
        55..85 => {
            let txn = random.txn(model, 2);
            match validate::txn(&txn, TXN_OPS_MAX) {
                Ok(()) => Write::Txn(txn),
                Err(_) => write(random, model),
            }
        }
        85..88 => Write::Compact(1 + random.below(model.revision as u64 + 1) as i64),
        88..95 => Write::Grant { id: random.lease(), ttl: 1 + random.below(1000) as i64 },
        _ => Write::Revoke(random.lease()),
    }
}

fn command(id: RequestId, write: &Write) -> Command {
    let (kind, body) = match write {
        Write::Put(put) => (CommandKind::Put, put.encode_to_vec()),
        Write::Delete(delete) => (CommandKind::DeleteRange, delete.encode_to_vec()),
        Write::Txn(txn) => (CommandKind::Txn, txn.encode_to_vec()),
        Write::Compact(revision) => {
            let request = CompactionRequest { revision: *revision, physical: false };
            (CommandKind::Compact, request.encode_to_vec())
        }
        Write::Grant { id, ttl } => {
            (CommandKind::LeaseGrant, LeaseGrantRequest { id: *id, ttl: *ttl }.encode_to_vec())
        }
        Write::Revoke(id) => {
            (CommandKind::LeaseRevoke, LeaseRevokeRequest { id: *id }.encode_to_vec())
        }
    };
    Command { id, kind, author: None, body: body.into() }
}

fn compare_reads(random: &mut Random, model: &Naive, machine: &Machine) {
    let view = machine.view();
    for _ in 0..5 {
        let request = random.range(model);
        let expected = model.range(&request);
        assert_eq!(view.range(&request), expected, "{request:?}");
        if validate::range_stream(&request).is_ok() {
            let chunk_bytes = 1 << random.below(12);
            let chunks: Result<Vec<_>, _> =
                view.range_stream(request.clone(), chunk_bytes).unwrap().collect();
            assert_eq!(chunks.map(merge), expected, "{request:?} in {chunk_bytes}");
        }
    }
    let txn = TxnRequest {
        compare: random.guards(model),
        success: vec![random::op(Request::RequestRange(random.range(model)))],
        failure: vec![random::op(Request::RequestRange(random.range(model)))],
    };
    assert_eq!(view.txn(&txn), model.read(&txn), "{txn:?}");
    compare_history(random, model, machine);
    compare_leases(model, machine);
}

/// Chunks as one answer: everything but the keys comes with the last.
fn merge(chunks: Vec<RangeResponse>) -> RangeResponse {
    let mut merged = RangeResponse::default();
    for chunk in chunks {
        assert_eq!((merged.header, merged.count, merged.more), (None, 0, false));
        merged.kvs.extend(chunk.kvs);
        (merged.header, merged.count, merged.more) = (chunk.header, chunk.count, chunk.more);
    }
    merged
}

fn compare_history(random: &mut Random, model: &Naive, machine: &Machine) {
    let view = machine.view();
    let (key, range_end) = random.keys();
    let from = model.compacted.max(1) + random.below(20) as i64;
    let to = from + random.below(20) as i64;
    let lies_within = |key_wanted: &Bytes| {
        let one = [(key_wanted.clone(), Default::default())];
        let with_key = |mut kv: varve_api::mvccpb::KeyValue| {
            kv.key = key_wanted.clone();
            kv
        };
        let keys = one.into_iter().map(|(key, kv)| (key, with_key(kv))).collect();
        !within(keys, &key, &range_end).is_empty()
    };
    let expected: Vec<Event> = model
        .events
        .iter()
        .filter(|event| {
            let kv = event.kv.as_ref().unwrap();
            kv.mod_revision >= from && kv.mod_revision <= to && lies_within(&kv.key)
        })
        .cloned()
        .collect();
    let found: Result<Vec<Event>, _> = view.history(&key, &range_end, from, to).unwrap().collect();
    assert_eq!(found.unwrap(), expected, "history {from}..={to}");
    for event in &expected {
        let kv = event.kv.as_ref().unwrap();
        let before = kv.mod_revision - 1;
        let expected = match before >= model.compacted.max(1) {
            true => model.keys(before).remove(&kv.key),
            false => None,
        };
        assert_eq!(view.previous(&kv.key, kv.mod_revision).unwrap(), expected);
    }
}

fn compare_leases(model: &Naive, machine: &Machine) {
    let view = machine.view();
    let mut leases = view.leases().unwrap();
    leases.sort();
    let expected: Vec<_> = model.leases.iter().map(|(id, ttl)| (LeaseId(*id), *ttl)).collect();
    assert_eq!(leases, expected);
    for (id, ttl_seconds) in &model.leases {
        let lease = view.lease(LeaseId(*id)).unwrap().unwrap();
        assert_eq!((lease.ttl_seconds, lease.keys), (*ttl_seconds, model.lease_keys(*id)));
    }
}
