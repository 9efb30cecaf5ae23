//! Tests of key tables: against a plain list of rows, against damage, and byte by byte.
//!
//! This file makes the rows. A failing random test prints the seed to repeat it with.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::sim::{Random, SimDisk};

use super::{Row, Table, TableBuilder, TableInfo, ValueHandle, ValueRef};
use crate::{Delta, Kind, Meta, Result, Revision};

mod damage;
mod golden;
mod model;

const DIR: &str = "/";
const ID: u64 = 0x1122_3344_5566_7788;

/// What the rows of a random table look like.
#[derive(Clone, Copy, Debug)]
struct Shape {
    keys: u64,
    /// Most versions of one key.
    versions: u64,
    /// Longest key.
    key_bytes: u64,
    /// Longest inline value.
    value_bytes: u64,
    /// Longest shared beginning of keys, as in `/registry/pods/...`.
    prefix: &'static str,
    /// Number of segments that values are stored in; 0: all values are inline.
    segments: u64,
    /// Largest `revision.main`.
    revisions: u64,
}

/// The shapes that every property is tested with.
const SHAPES: [Shape; 8] = [
    Shape {
        keys: 1,
        versions: 1,
        key_bytes: 1,
        value_bytes: 3,
        prefix: "",
        segments: 0,
        revisions: 9,
    },
    Shape {
        keys: 40,
        versions: 3,
        key_bytes: 2,
        value_bytes: 9,
        prefix: "",
        segments: 1,
        revisions: 50,
    },
    Shape {
        keys: 3000,
        versions: 3,
        key_bytes: 40,
        value_bytes: 128,
        prefix: "/registry/pods/default/",
        segments: 3,
        revisions: 20_000,
    },
    Shape {
        keys: 4,
        versions: 4000,
        key_bytes: 12,
        value_bytes: 20,
        prefix: "/registry/leases/",
        segments: 1,
        revisions: 1 << 40,
    },
    Shape {
        keys: 20,
        versions: 2,
        key_bytes: 100_000,
        value_bytes: 50,
        prefix: "",
        segments: 2,
        revisions: 100,
    },
    Shape {
        keys: 40,
        versions: 3,
        key_bytes: 9,
        value_bytes: 200_000,
        prefix: "a",
        segments: 0,
        revisions: 100,
    },
    Shape {
        keys: 1500,
        versions: 1,
        key_bytes: 8,
        value_bytes: 0,
        prefix: "",
        segments: 300,
        revisions: u64::MAX - 9,
    },
    Shape {
        keys: 600,
        versions: 60,
        key_bytes: 20,
        value_bytes: 10,
        prefix: "/registry/\0\0\0\0\0\0\0\0",
        segments: 1,
        revisions: 3000,
    },
];

/// Random rows in order.
fn random_rows(random: &mut Random, shape: Shape) -> Vec<Row> {
    let mut keys = BTreeSet::new();
    for _ in 0..shape.keys {
        keys.insert(random_key(random, shape));
    }
    let mut rows = Vec::new();
    for key in keys {
        let mut revisions = BTreeSet::new();
        for _ in 0..=random.below(shape.versions) {
            let main = 1 + random.below(shape.revisions);
            let sub = if random.one_in(4) { random.below(70_000) as u32 } else { 0 };
            revisions.insert(Revision { main, sub });
        }
        let key = Bytes::from(key);
        for revision in revisions.into_iter().rev() {
            rows.push(random_row(random, shape, key.clone(), revision));
        }
    }
    rows
}

/// Few different bytes, so that keys share beginnings and are beginnings of each other.
fn random_key(random: &mut Random, shape: Shape) -> Vec<u8> {
    const BYTES: [u8; 5] = [0, b'a', b'b', b'/', 0xff];
    let prefix = if random.one_in(10) { "" } else { shape.prefix };
    let mut key = prefix.as_bytes().to_vec();
    let length = random.below(shape.key_bytes + 1);
    key.extend((0..length).map(|_| BYTES[random.below(BYTES.len() as u64) as usize]));
    key
}

fn random_row(random: &mut Random, shape: Shape, key: Bytes, revision: Revision) -> Row {
    let kind = if random.one_in(4) { Kind::Delete } else { Kind::Put };
    let delta = [Delta::Minus, Delta::Zero, Delta::Plus][random.below(3) as usize];
    let mut meta = vec![0; random.below(40) as usize];
    meta.fill_with(|| random.next_u64() as u8);
    let value = if kind == Kind::Delete {
        ValueRef::None
    } else if shape.segments == 0 || random.one_in(3) {
        let mut value = vec![0; random.below(shape.value_bytes + 1) as usize];
        value.fill_with(|| random.next_u64() as u8);
        ValueRef::Inline(Bytes::from(value))
    } else {
        ValueRef::Stored(ValueHandle {
            segment: random.below(shape.segments) * 0x0100_0000_0001,
            offset: random.next_u64() as u32,
            length: random.next_u64() as u32 >> random.below(32),
        })
    };
    Row { key, revision, kind, delta, meta: Meta::new(&meta).expect("39 bytes at most"), value }
}

/// Writes a table of these rows.
fn write(disk: &SimDisk, rows: &[Row]) -> TableInfo {
    let mut builder =
        TableBuilder::new(Arc::new(disk.clone()), Path::new(DIR), ID).expect("the name is free");
    for row in rows {
        builder.add(row).expect("the disk works");
    }
    let estimate = builder.bytes();
    let info = builder.finish().expect("the disk works");
    // An estimate, but one that callers size their tables by.
    assert!(info.bytes <= estimate * 3 / 2 + 4096, "{} bytes, estimated {estimate}", info.bytes);
    info
}

fn open(disk: &SimDisk, info: &TableInfo) -> Result<Arc<Table>> {
    Table::open(disk, Path::new(DIR), info.clone())
}

/// A disk with one file: that of table [`ID`].
fn disk_with(bytes: Vec<u8>) -> SimDisk {
    let path = Path::new(DIR).join(super::file_name(ID));
    SimDisk::from_files(0, &[(path, bytes)].into()).expect("a plain path")
}

/// The bytes of table [`ID`].
fn file_of(disk: &SimDisk) -> Vec<u8> {
    disk.current_files().remove(&Path::new(DIR).join(super::file_name(ID))).expect("was written")
}
