//! What it costs to read a cold value, and what compression saves: figures of decision 0024.
//!
//! ```sh
//! cargo run --release -p varve-lsm --example cold_values
//! ```
//!
//! Objects as Kubernetes has them, in JSON, 2 KiB each. Every second one is written once more and the
//! engine is compacted, so that a merge moves the others, and compresses them if it may. Those are
//! then read in random order, with everything in the page cache: what is left is the engine's work.
//!
//! `VARVE_BENCH_KEYS` sets the number of objects (40,000).

#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use varve_disk::os::OsDisk;
use varve_disk::sim::Random;
use varve_lsm::{
    Commit, Compression, Db, Delta, KeyRange, Keyspace, Meta, Options, Result, Revision, Values,
    Work, Writer,
};

/// Point reads of a measurement.
const READS: usize = 50_000;
/// Keys of a list.
const LIST_KEYS: usize = 500;

fn main() -> Result<()> {
    let keys = std::env::var("VARVE_BENCH_KEYS").ok();
    let keys = keys.map_or(40_000, |keys| keys.parse().expect("VARVE_BENCH_KEYS is a number"));
    let cold_bytes: usize = (0..keys).step_by(2).map(|number| object(number, 1).len()).sum();
    println!("{} cold values of {cold_bytes} bytes together", keys / 2);
    println!("| stored | cache | bytes of cold values | p50 | p99 | list of {LIST_KEYS} |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut plain_disk_bytes = 0;
    for (level, frame_kibibytes) in
        [(0, 0), (1, 4), (1, 16), (3, 16), (9, 16), (1, 64), (3, 64), (3, 256)]
    {
        let is_plain = level == 0;
        let compression =
            (!is_plain).then_some(Compression { level, frame_bytes: frame_kibibytes << 10 });
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = Options { compression, frame_cache_bytes: 1 << 30, ..Options::default() };
        let disk_bytes = {
            let (db, mut writer) = open(directory.path(), options.clone())?;
            fill(&db, &mut writer, keys)?;
            db.sizes().disk_bytes
        };
        plain_disk_bytes = if is_plain { disk_bytes } else { plain_disk_bytes };
        let stored = cold_bytes as u64 - (plain_disk_bytes - disk_bytes);
        let name = match is_plain {
            true => "plain".to_owned(),
            false => format!("zstd {level}, {frame_kibibytes} KiB"),
        };
        let caches: &[(&str, usize)] = match is_plain {
            true => &[("-", 1 << 30)],
            false => &[("hit", 1 << 30), ("miss", 0)],
        };
        for (cache, frame_cache_bytes) in caches {
            let options = Options { frame_cache_bytes: *frame_cache_bytes, ..options.clone() };
            let (db, _writer) = open(directory.path(), options)?;
            let (p50, p99) = point_reads(&db, keys)?;
            let list = list(&db, keys)?;
            let percent = stored * 100 / cold_bytes as u64;
            println!(
                "| {name} | {cache} | {percent} % | {p50:.2} us | {p99:.2} us | {list:.0} us |"
            );
        }
    }
    Ok(())
}

fn open(dir: &Path, options: Options) -> Result<(Db, Writer)> {
    Db::open(Arc::new(OsDisk::new()), dir, options)
}

fn key(number: u64) -> Vec<u8> {
    format!("/registry/widgets/namespace-{:03}/widget-{number:07}", number / 400).into_bytes()
}

/// An object in JSON: names, numbers and times that differ, words that do not.
fn object(number: u64, generation: u64) -> Vec<u8> {
    let mut random = Random::new(number * 16 + generation);
    let mut hex = || format!("{:016x}", random.next_u64());
    let uid = format!("{}-{}", hex(), hex());
    let (hash, digest) = (hex(), [hex(), hex(), hex(), hex()].concat());
    let mut below = |limit| random.below(limit);
    let time = |seconds: u64| {
        format!(
            "2026-0{}-1{}T1{}:{:02}:{:02}Z",
            1 + seconds % 9,
            seconds % 7,
            seconds % 5,
            seconds / 7 % 60,
            seconds / 11 % 60
        )
    };
    let app = ["frontend", "checkout", "ledger", "search", "mailer"][below(5) as usize];
    let mut text = format!(
        "{{\"apiVersion\":\"things.example.com/v1\",\"kind\":\"Widget\",\"metadata\":{{\"name\":\"widget-\
         {number:07}\",\"namespace\":\"namespace-{:03}\",\"uid\":\"{uid}\",\"generation\":{generation},\
         \"creationTimestamp\":\"{}\",\"labels\":{{\"app.kubernetes.io/name\":\"{app}\",\
         \"pod-template-hash\":\"{hash}\",\"tier\":\"backend\"}},\"ownerReferences\":[{{\"apiVersion\":\
         \"apps/v1\",\"kind\":\"ReplicaSet\",\"name\":\"{app}-{hash}\",\"controller\":true,\
         \"blockOwnerDeletion\":true}}]}},\"spec\":{{\"replicas\":{},\"template\":{{\"containers\":[",
        number / 400,
        time(below(1 << 30)),
        below(9),
    );
    for container in 0..3 {
        text += &format!(
            "{{\"name\":\"{app}-{container}\",\"image\":\"registry.example.com/{app}@sha256:{digest}\",\
             \"resources\":{{\"limits\":{{\"cpu\":\"{}m\",\"memory\":\"{}Mi\"}},\"requests\":{{\"cpu\":\
             \"100m\",\"memory\":\"128Mi\"}}}},\"ports\":[{{\"containerPort\":80{:02},\"protocol\":\
             \"TCP\"}}],\"terminationMessagePath\":\"/dev/termination-log\",\"imagePullPolicy\":\
             \"IfNotPresent\"}},",
            below(40) * 50,
            below(64) * 32,
            below(100),
        );
    }
    text += "]}},\"status\":{\"conditions\":[";
    for condition in ["Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        text += &format!(
            "{{\"type\":\"{condition}\",\"status\":\"True\",\"lastTransitionTime\":\"{}\"}},",
            time(below(1 << 30)),
        );
    }
    text +=
        &format!("],\"hostIP\":\"10.0.{}.{}\",\"phase\":\"Running\"}}}}", below(256), below(256));
    text.into_bytes()
}

/// Puts all objects, the odd ones twice, and lets background work come to rest.
fn fill(db: &Db, writer: &mut Writer, keys: u64) -> Result<()> {
    let mut main = 0;
    for generation in 1..=2 {
        for number in (0..keys).filter(|number| generation == 1 || number % 2 == 1) {
            main += 1;
            let revision = Revision { main, sub: 0 };
            let delta = if generation == 1 { Delta::Plus } else { Delta::Zero };
            let value = object(number, generation);
            writer.put(Keyspace::Kv, &key(number), revision, delta, Meta::EMPTY, &value);
            commit(writer, main, 0)?;
            while db.is_writer_ahead() {
                db.work()?;
            }
        }
    }
    commit(writer, main, main)?;
    writer.freeze()?;
    while db.work()? != Work::Idle {}
    Ok(())
}

fn commit(writer: &mut Writer, main: u64, compacted: u64) -> Result<()> {
    let mark = Bytes::copy_from_slice(&main.to_le_bytes());
    writer.commit(Commit { mark, kv_visible: main, compacted })
}

/// Median and 99th percentile of a read of a cold value where it lies, in microseconds.
fn point_reads(db: &Db, keys: u64) -> Result<(f64, f64)> {
    let snapshot = db.snapshot();
    let mut random = Random::new(1);
    let read = |number: u64| -> Result<f64> {
        let key = key(number);
        let started = Instant::now();
        let length =
            snapshot.get_with(Keyspace::Kv, &key, u64::MAX, |row| row.value_with(<[u8]>::len))?;
        let took = started.elapsed();
        assert!(length.expect("it is there")? > 1_000);
        Ok(took.as_secs_f64() * 1e6)
    };
    // Into the page cache, and into the other one if there is one.
    for number in (0..keys).step_by(2) {
        read(number)?;
    }
    let mut took = Vec::with_capacity(READS);
    for _ in 0..READS {
        took.push(read(random.below(keys / 2) * 2)?);
    }
    took.sort_by(f64::total_cmp);
    Ok((took[READS / 2], took[READS / 100 * 99]))
}

/// Median of a list of keys with their values as copies, cold and others, in microseconds.
fn list(db: &Db, keys: u64) -> Result<f64> {
    let snapshot = db.snapshot();
    let mut random = Random::new(2);
    let mut took = Vec::new();
    for _ in 0..200 {
        let range = KeyRange::from(key(random.below(keys * 9 / 10)).into());
        let started = Instant::now();
        let rows = snapshot.range(Keyspace::Kv, range, u64::MAX, Values::Load).take(LIST_KEYS);
        assert_eq!(rows.filter(|row| row.is_ok()).count(), LIST_KEYS);
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    Ok(took[took.len() / 2])
}
