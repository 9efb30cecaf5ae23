//! How many bytes are written and kept for what the user gave: counted at the disk, not timed.
//!
//! The limits of the design: each byte of a value is written at most twice (the caller's log apart),
//! and files hold at most one and a half times what can still be read. Both are looked at while
//! writing goes on, not after everything has come to rest.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use support::counting::CountingDisk;
use support::{compressed_segments, dir, small_options};
use varve_disk::sim::{Random, SimDisk};
use varve_lsm::{Commit, Compression, Db, Delta, Keyspace, Meta, Options, Revision, Work, Writer};

const KEYS: u64 = 4_000;
const VALUE_BYTES: u64 = 1_000;

/// The default limits, each divided by the same number: all keys are some 70 memtables, as a million
/// keys with values of 2 KiB are.
fn scaled_options() -> Options {
    let Options { level0_tables, bottom_factor, .. } = Options::default();
    Options {
        memtable_bytes: 64 << 10,
        level0_tables,
        bottom_factor,
        segment_bytes: 128 << 10,
        table_bytes: 16 << 10,
        inline_value_bytes_max: 128,
        step_bytes: 64 << 10,
        ..small_options()
    }
}

struct Load {
    simulated: SimDisk,
    disk: CountingDisk,
    db: Db,
    writer: Writer,
    main: u64,
    compacted: u64,
    /// Values are of text, of which much repeats.
    is_text: bool,
}

/// The worst that was seen, in hundredths.
#[derive(Debug)]
struct Seen {
    value_write_percent: u64,
    key_write_percent: u64,
    space_percent_mean: u64,
    space_percent_max: u64,
    runs_max: usize,
}

impl Load {
    fn new(options: Options) -> Self {
        Self::with(options, false)
    }

    fn with(options: Options, is_text: bool) -> Self {
        let simulated = SimDisk::new(1);
        let disk = CountingDisk::new(Arc::new(simulated.clone()));
        let (db, writer) = Db::open(Arc::new(disk.clone()), dir(), options).unwrap();
        let mut load = Self { simulated, disk, db, writer, main: 0, compacted: 0, is_text };
        (0..KEYS).for_each(|key| load.put(key, Delta::Plus));
        load
    }

    fn put(&mut self, key: u64, delta: Delta) {
        self.main += 1;
        let revision = Revision { main: self.main, sub: 0 };
        let name = format!("/registry/things/{key:06}");
        // No two values are alike.
        let word = |at: u64| match self.is_text {
            true => *[b"\"image\":", b"\"phase\":", b"\"Running", &self.main.to_be_bytes()]
                [(at % 4) as usize],
            false => (self.main * 1_000 + at).to_le_bytes(),
        };
        let value: Vec<u8> = (0..VALUE_BYTES / 8).flat_map(word).collect();
        self.writer.put(Keyspace::Kv, name.as_bytes(), revision, delta, Meta::EMPTY, &value);
        let mark = Bytes::copy_from_slice(&self.main.to_le_bytes());
        let (kv_visible, compacted) = (self.main, self.compacted);
        self.writer.commit(Commit { mark, kv_visible, compacted }).unwrap();
        // Background work keeps pace with the writer.
        while self.main.is_multiple_of(16) && self.db.work().unwrap() != Work::Idle {}
    }

    /// Overwrites keys, compacting every so often up to some way back.
    fn overwrite(&mut self, puts: u64, mut key: impl FnMut() -> u64) -> Seen {
        let history = KEYS / 20;
        let (values_before, keys_before) = (self.disk.written("vs"), self.disk.written("kt"));
        let (mut samples, mut sum, mut max, mut runs_max) = (0, 0, 0, 0);
        for put in 0..puts {
            self.put(key(), Delta::Zero);
            if put % history == history - 1 {
                self.compacted = self.main - history;
            }
            // The first half is for coming to a steady state.
            if put >= puts / 2 && put % 20 == 0 {
                let readable = (KEYS + self.main - self.compacted) * VALUE_BYTES;
                let sizes = self.db.sizes();
                runs_max = runs_max.max(sizes.runs);
                let percent = sizes.disk_bytes * 100 / readable;
                (samples, sum, max) = (samples + 1, sum + percent, percent.max(max));
            }
        }
        let user_bytes = puts * VALUE_BYTES;
        let report = self.db.check().unwrap();
        assert!(report.violations.is_empty(), "{report:#?}");
        Seen {
            value_write_percent: (self.disk.written("vs") - values_before) * 100 / user_bytes,
            key_write_percent: (self.disk.written("kt") - keys_before) * 100 / user_bytes,
            space_percent_mean: sum / samples,
            space_percent_max: max,
            runs_max,
        }
    }
}

fn assert_limits(seen: &Seen) {
    println!("{seen:?}");
    assert!(seen.value_write_percent <= 200, "{seen:?}");
    // Keys are a twentieth of these bytes, so each is written about ten times.
    assert!(seen.key_write_percent <= 60, "{seen:?}");
    assert!(seen.space_percent_mean <= 150, "{seen:?}");
    assert!(seen.space_percent_max <= 200, "{seen:?}");
    assert!(seen.runs_max <= 10, "{seen:?}");
}

#[test]
fn space_shrinks_when_relocated_values_are_compressed_and_nothing_is_written_more_often() {
    // A twentieth of the keys takes four fifths of the writes, the others become cold.
    let overwrite = |compression| {
        let options = Options { compression, ..scaled_options() };
        let (mut load, mut random) = (Load::with(options, true), Random::new(6));
        let hot = KEYS / 20;
        let seen = load.overwrite(6 * KEYS, || {
            if random.one_in(5) { random.below(KEYS) } else { random.below(hot) * 20 }
        });
        println!("{seen:?}");
        (seen, compressed_segments(&load.simulated))
    };
    let (plain, none) = overwrite(None);
    let (compressed, some) = overwrite(Some(Compression { level: 1, frame_bytes: 16 << 10 }));
    assert!(none == 0 && some > 0);
    assert!(
        compressed.space_percent_mean * 4 < plain.space_percent_mean * 3,
        "{compressed:?}, {plain:?}"
    );
    assert!(compressed.value_write_percent < plain.value_write_percent);
    assert!(compressed.key_write_percent <= plain.key_write_percent + 1);
}

#[test]
fn uniform_overwrites_stay_within_the_limits_of_the_design() {
    let mut random = Random::new(5);
    let seen = Load::new(scaled_options()).overwrite(12 * KEYS, || random.below(KEYS));
    assert_limits(&seen);
}

/// Then all segments have about as much dead in them, and none is much worse than the others.
#[test]
fn keys_overwritten_once_in_no_order_take_at_most_half_as_much_space_again() {
    let (mut load, mut random) = (Load::new(scaled_options()), Random::new(8));
    (0..KEYS).for_each(|_| load.put(random.below(KEYS), Delta::Zero));
    load.compacted = load.main;
    load.put(0, Delta::Zero);
    load.writer.freeze().unwrap();
    while load.db.work().unwrap() != Work::Idle {}
    let percent = load.db.sizes().disk_bytes * 100 / (KEYS * VALUE_BYTES);
    println!("{percent} %");
    assert!(percent <= 150, "{percent} %");
}

/// So many memtables, that merging a few of them into the bottom each time would write each key
/// thirty times.
#[test]
fn uniform_overwrites_of_a_bottom_of_300_memtables_stay_within_the_limits_of_the_design() {
    let mut random = Random::new(7);
    let options = Options { memtable_bytes: 16 << 10, ..scaled_options() };
    let seen = Load::new(options).overwrite(5 * KEYS, || random.below(KEYS));
    assert_limits(&seen);
}

#[test]
fn overwrites_of_a_few_hot_keys_stay_within_the_limits_of_the_design() {
    let mut random = Random::new(6);
    let hot = KEYS / 20;
    let seen = Load::new(scaled_options()).overwrite(12 * KEYS, || {
        // Spread over all keys, as leases of nodes are not, but as a worst case.
        if random.one_in(5) { random.below(KEYS) } else { random.below(hot) * 20 }
    });
    assert_limits(&seen);
}

#[test]
fn overwrites_in_key_order_stay_within_the_limits_of_the_design() {
    let mut next = 0;
    let seen = Load::new(scaled_options()).overwrite(12 * KEYS, || {
        next = (next + 1) % KEYS;
        next
    });
    assert_limits(&seen);
}
