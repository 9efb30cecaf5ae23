//! Engines written by hand, from `docs/FORMAT.md` alone: a sound one opens, and what is wrong with
//! the others is said.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::sim::SimDisk;
use varve_lsm::{Commit, Db, Delta, Keyspace, Meta, Options, Revision, Writer};
use varve_store::{Founding, LeaseId, Mark, Store, check};

use crate::machine::founding;

const MARK: &[u8] = b"\x01\x09\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0";
const CLUSTER: (&[u8], &[u8]) = (b"cluster", b"\x01\xc1\0\0\0\0\0\0\0");
const LEASE: (&[u8], &[u8]) = (b"lease/\0\0\0\0\0\0\0\x05", b"\x01\x3c\0\0\0\0\0\0\0");
const ATTACHMENT: (&[u8], &[u8]) = (b"lease_key/\0\0\0\0\0\0\0\x05/k", b"");
const MEMBER: (&[u8], &[u8]) = (b"member/\0\0\0\0\0\0\0\x01", b"\x01\x00\x03one\x01\x01p\x00");
/// Created 0 revisions ago, version 1, attached to lease 5.
const ATTACHED: &[u8] = b"\x00\x01\x05\0\0\0\0\0\0\0";

struct ByHand {
    db: Db,
    writer: Writer,
    rows: u32,
}

impl ByHand {
    fn new(rows: &[(&[u8], &[u8])]) -> Self {
        let disk = Arc::new(SimDisk::new(1));
        let (db, writer) = Db::open(disk, Path::new("/engine"), Options::default()).unwrap();
        let mut by_hand = Self { db, writer, rows: 0 };
        rows.iter().for_each(|(row, value)| by_hand.row(row, value));
        by_hand
    }

    fn row(&mut self, row: &[u8], value: &[u8]) {
        let revision = Revision { main: 9, sub: self.rows };
        self.rows += 1;
        self.writer.put(Keyspace::Sys, row, revision, Delta::Plus, Meta::EMPTY, value);
    }

    fn key(&mut self, key: &[u8], meta: &[u8]) {
        let revision = Revision { main: 7, sub: 0 };
        let meta = Meta::new(meta).unwrap();
        self.writer.put(Keyspace::Kv, key, revision, Delta::Plus, meta, b"value");
    }

    fn commit(mut self, mark: &'static [u8]) -> Self {
        let mark = Bytes::from_static(mark);
        self.writer.commit(Commit { mark, kv_visible: 7, compacted: 2 }).unwrap();
        self
    }

    fn open(self, founding: &Founding) -> Result<Store, String> {
        Store::open(self.db, self.writer, founding).map_err(|error| error.to_string())
    }
}

fn opening_says(rows: &[(&[u8], &[u8])], mark: &'static [u8]) -> String {
    ByHand::new(rows).commit(mark).open(&founding()).err().unwrap_or("sound".into())
}

fn check_says(rows: &[(&[u8], &[u8])], meta: &[u8]) -> Vec<String> {
    let mut by_hand = ByHand::new(rows);
    by_hand.key(b"k", meta);
    check::check(&by_hand.commit(MARK).db).unwrap()
}

#[test]
fn an_engine_written_by_hand_opens() {
    let mut by_hand = ByHand::new(&[CLUSTER, MEMBER, LEASE, ATTACHMENT]);
    by_hand.key(b"k", ATTACHED);
    let by_hand = by_hand.commit(MARK);
    let db = by_hand.db.clone();
    let store = by_hand.open(&founding()).unwrap();
    assert_eq!(check::check_store(&store, &db).unwrap(), Vec::<String>::new());
    assert_eq!(store.applied(), Mark { index: 9, term: 3 });
    let view = store.view();
    assert_eq!((view.revision(), view.compacted()), (7, 2));
    assert_eq!(view.leases().unwrap(), [(LeaseId(5), 60)]);
    assert_eq!(view.lease(LeaseId(5)).unwrap().unwrap().keys, ["k"]);
    let kv = view.previous(b"k", 8).unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (7, 7, 1, 5));
    assert_eq!(view.members().unwrap()[0].peer_urls, ["p"]);
}

#[test]
fn data_of_another_cluster_is_refused_and_both_are_named() {
    let other = Founding { cluster_id: 0xc2, members: Vec::new() };
    let error = ByHand::new(&[CLUSTER]).commit(MARK).open(&other).err().unwrap();
    let expected = "the data belongs to cluster 00000000000000c1, \
        this member to cluster 00000000000000c2";
    assert_eq!(error, expected);
}

#[test]
fn rows_that_cannot_be_understood_are_named() {
    assert_eq!(opening_says(&[CLUSTER], MARK), "sound");
    assert_eq!(
        opening_says(&[CLUSTER], b"\x09"),
        "row (mark): expected version 1 or 2, found \"9\""
    );
    assert_eq!(opening_says(&[], MARK), "row cluster: expected a row, found \"none\"");
    assert_eq!(
        opening_says(&[(b"cluster", b"\x01\x02")], MARK),
        "row cluster: expected a number, found \"1 bytes where 8 were due\""
    );
    assert_eq!(
        opening_says(&[CLUSTER, (b"lease/short", b"")], MARK),
        "row lease/short: expected an id of 8 bytes behind the prefix, found 11"
    );
    assert_eq!(
        opening_says(&[CLUSTER, (MEMBER.0, b"\x07")], MARK),
        "row member/\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01: expected version 1, found \"7\""
    );
    assert_eq!(
        opening_says(&[CLUSTER, ATTACHMENT], MARK),
        "row lease_key/\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x05/k: \
         expected a lease with a row, found LeaseId(5)"
    );
}

#[test]
fn leases_and_keys_that_disagree_are_found() {
    assert_eq!(check_says(&[CLUSTER, LEASE, ATTACHMENT], ATTACHED), Vec::<String>::new());
    assert_eq!(
        check_says(&[CLUSTER, LEASE, ATTACHMENT], b"\x00\x01"),
        ["LeaseId(5) has k, which does not name it"]
    );
    assert_eq!(
        check_says(&[CLUSTER, LEASE], ATTACHED),
        ["k names LeaseId(5), which does not have it"]
    );
}

#[test]
fn a_key_whose_meta_is_damaged_is_data_loss_to_its_reader() {
    let mut by_hand = ByHand::new(&[CLUSTER]);
    by_hand.key(b"k", b"\x00");
    let view = by_hand.commit(MARK).open(&founding()).unwrap().view();
    let status = view.previous(b"k", 8).unwrap_err();
    assert_eq!(
        (status.code.name(), status.message.as_ref()),
        ("DataLoss", "row k: expected a version, found \"an unfinished varint\"")
    );
}
