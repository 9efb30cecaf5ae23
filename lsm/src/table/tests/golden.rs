//! The bytes of two tables, which must never change: files of version 1 open forever.
//!
//! `VARVE_BLESS=1 cargo test -p varve-lsm golden` writes them anew, which is right only before a
//! version is released.

use std::path::PathBuf;

use super::*;

/// All kinds of rows, by hand.
fn plain_rows() -> Vec<Row> {
    let row = |key: &'static str, main, sub, delta, meta: &[u8], value| Row {
        key: Bytes::from(key),
        revision: Revision { main, sub },
        kind: if value == ValueRef::None { Kind::Delete } else { Kind::Put },
        delta,
        meta: Meta::new(meta).expect("short"),
        value,
    };
    let stored =
        |segment, offset, length| ValueRef::Stored(ValueHandle { segment, offset, length });
    let inline = |value: &'static str| ValueRef::Inline(Bytes::from(value));
    vec![
        row("/registry/pods/a", 900, 0, Delta::Zero, b"\x01", stored(0xaaaa, 4096, 700)),
        row("/registry/pods/a", 17, 2, Delta::Plus, b"", stored(0xaaaa, 64, 300)),
        row("/registry/pods/ab", 300, 1, Delta::Minus, b"", ValueRef::None),
        row("/registry/pods/ab", 20, 0, Delta::Plus, b"meta", inline("")),
        row("/registry/pods/b", 17, 3, Delta::Plus, b"\x05\x06", inline("value")),
        row("/registry/services/kubernetes", 18, 0, Delta::Plus, b"", stored(0xbbbb, 64, 9)),
    ]
}

/// Enough rows for several blocks and bundles, and a key whose versions straddle blocks.
fn many_rows() -> Vec<Row> {
    let mut rows = random_rows(&mut Random::new(20), Shape { keys: 60, ..SHAPES[2] });
    rows.extend(random_rows(
        &mut Random::new(21),
        Shape { keys: 1, versions: 1500, prefix: "~", ..SHAPES[3] },
    ));
    rows.sort_by(|left, right| left.key.cmp(&right.key).then(right.revision.cmp(&left.revision)));
    rows
}

fn check(name: &str, rows: &[Row]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let disk = SimDisk::new(0);
    let info = write(&disk, rows);
    let written = file_of(&disk);
    if std::env::var_os("VARVE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("not the root")).expect("a writable tree");
        std::fs::write(&path, &written).expect("a writable tree");
    }
    let golden = std::fs::read(&path).expect("VARVE_BLESS=1 writes it");
    let differs = golden.iter().zip(&written).position(|(golden, written)| golden != written);
    assert_eq!(differs, None, "first differing byte of {name}");
    assert_eq!(golden.len(), written.len(), "bytes of {name}");

    let table = open(&disk_with(golden), &info).expect("a file of version 1");
    table.verify().expect("a sound table");
    let mut cursor = table.cursor();
    for row in rows {
        cursor.advance().expect("a sound table");
        assert_eq!(&cursor.row().expect("a sound table"), row);
    }
}

#[test]
fn golden_table_of_six_rows() {
    check("table_v1_plain.kt", &plain_rows());
}

#[test]
fn golden_table_of_several_blocks() {
    check("table_v1_blocks.kt", &many_rows());
}
