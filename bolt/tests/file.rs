//! Files written, read back, pinned byte for byte, and damaged in every way.
//!
//! One idea: what a reader gives from a damaged file may be an error or rows, but never a panic, a
//! walk without end, or rows of a bucket out of order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;

use proptest::prelude::*;
use varve_bolt::{Builder, Error, PAGE_BYTES, Reader, Source};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Buckets = BTreeMap<Vec<u8>, Rows>;

#[derive(Debug)]
struct Memory(Vec<u8>);

impl Source for &Memory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let bytes = self.0.get(start..start + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn write(buckets: &Buckets) -> Vec<u8> {
    let mut pages = Vec::new();
    let mut builder = Builder::new(|page: &[u8]| -> Result<(), Infallible> {
        pages.extend_from_slice(page);
        Ok(())
    });
    for (name, rows) in buckets {
        builder.bucket(name).unwrap();
        for (key, value) in rows {
            builder.row(key, value).unwrap();
        }
    }
    let layout = builder.finish().unwrap();
    let file = [layout.head(), pages].concat();
    assert_eq!(file.len() as u64, layout.bytes());
    file
}

fn read(file: &Memory) -> Result<Buckets, Error> {
    let reader = Reader::open(file)?;
    let mut buckets = Buckets::new();
    for bucket in reader.buckets()? {
        let mut rows = Rows::new();
        let mut cursor = reader.rows(&bucket)?;
        while let Some((key, value)) = cursor.next_row()? {
            let last = rows.last_key_value().map(|(last, _): (&Vec<u8>, _)| last.as_slice());
            assert!(last.is_none_or(|last| last < key), "keys grow");
            rows.insert(key.to_vec(), value.to_vec());
        }
        buckets.insert(bucket.name.clone(), rows);
    }
    Ok(buckets)
}

/// Buckets with an empty one, a branch of several levels, and a value over many pages.
fn example(rows: u32) -> Buckets {
    let number = |number: u32| (number.to_be_bytes().to_vec(), vec![b'v'; number as usize % 300]);
    let mut many: Rows = (0..rows).map(number).collect();
    many.insert(b"zz".to_vec(), vec![7; 100_000]);
    BTreeMap::from([
        (b"empty".to_vec(), Rows::new()),
        (b"many".to_vec(), many),
        (b"one".to_vec(), Rows::from([(b"k".to_vec(), b"v".to_vec())])),
    ])
}

#[test]
fn a_small_file_has_these_bytes() {
    let rows = Rows::from([(b"k1".to_vec(), b"one".to_vec()), (b"k2".to_vec(), Vec::new())]);
    let buckets = BTreeMap::from([(b"a".to_vec(), rows), (b"b".to_vec(), Rows::new())]);
    let file = write(&buckets);
    assert_eq!(file.len(), 5 * PAGE_BYTES);
    let page = |number: usize, bytes: usize| &file[number * PAGE_BYTES..][..bytes];
    for transaction in 0..2_u8 {
        let meta = page(transaction.into(), 80);
        let mut head = vec![transaction, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        head.extend_from_slice(b"\xed\xda\x0c\xed\x02\0\0\0\0\x10\0\0\0\0\0\0");
        head.extend_from_slice(b"\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        head.extend_from_slice(b"\x02\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
        head.extend_from_slice(&[transaction, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(meta[..72], head);
    }
    assert_eq!(page(2, 16), b"\x02\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0");
    let leaf = b"\x03\0\0\0\0\0\0\0\x02\0\x02\0\0\0\0\0\
        \0\0\0\0\x20\0\0\0\x02\0\0\0\x03\0\0\0\
        \0\0\0\0\x15\0\0\0\x02\0\0\0\0\0\0\0k1onek2";
    assert_eq!(page(3, leaf.len()), leaf);
    let root = b"\x04\0\0\0\0\0\0\0\x02\0\x02\0\0\0\0\0\
        \x01\0\0\0\x20\0\0\0\x01\0\0\0\x10\0\0\0\
        \x01\0\0\0\x21\0\0\0\x01\0\0\0\x20\0\0\0\
        a\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
        b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0";
    assert_eq!(page(4, root.len()), root);
    assert_eq!(read(&Memory(file)).unwrap(), buckets);
}

#[test]
fn many_levels_and_long_values_come_back() {
    for rows in [0, 1, 200, 70_000] {
        let buckets = example(rows);
        assert_eq!(read(&Memory(write(&buckets))).unwrap(), buckets, "{rows} rows");
    }
}

#[test]
fn the_older_meta_serves_when_the_newer_is_damaged() {
    let buckets = example(200);
    for damaged in 0..2 {
        let mut file = write(&buckets);
        file[damaged * PAGE_BYTES + 40] ^= 1;
        assert_eq!(read(&Memory(file)).unwrap(), buckets);
    }
    let mut file = write(&buckets);
    file[40] ^= 1;
    file[PAGE_BYTES + 40] ^= 1;
    let error = read(&Memory(file)).unwrap_err().to_string();
    assert!(error.contains("expected a bbolt database, found none (expected checksum"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = write(&example(200));
    for length in (0..file.len()).step_by(509).chain([file.len() - 1]) {
        let error = read(&Memory(file[..length].to_vec())).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "cut to {length}: {error}");
    }
    let error = read(&Memory(file[..file.len() - 1].to_vec())).unwrap_err().to_string();
    assert!(error.contains("the file is truncated"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        buckets in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 1..20),
            prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 1..300),
                prop::collection::vec(any::<u8>(), 0..2_000),
                0..60,
            ),
            0..8,
        ),
    ) {
        prop_assert_eq!(read(&Memory(write(&buckets))).unwrap(), buckets);
    }

    #[test]
    fn damage_never_panics_nor_runs_for_ever(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..48_usize), 1..12),
    ) {
        // Mostly where the structure is: in the first bytes of a page, behind the metas.
        let mut file = write(&example(2_000));
        let pages = file.len() / PAGE_BYTES;
        for (page, byte, offset) in changes {
            file[(2 + page.index(pages - 2)) * PAGE_BYTES + offset] = byte;
        }
        let _rows_or_error = read(&Memory(file));
    }
}
