//! Crash enumeration: in every canonical run, power is lost at *every* disk call, every time
//! several of the states that the disk may then be found in are opened, and during each of those
//! recoveries power is lost again, at every call.
//!
//! Each image is opened and compared with the model: nothing acknowledged is lost, nothing is
//! invented, order is kept; the checker finds nothing; the log takes another batch, which is there
//! after one more loss of power. Counts are printed. The short run, of every `cargo test`, visits
//! every point of the first level and a sample of the second; all of it is
//!
//! ```sh
//! VARVE_LONG=1 cargo test --release -p varve-wal --test log crash_points -- --nocapture
//! ```

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use varve_disk::sim::{CrashStyle, SimDisk};
use varve_wal::check;

use crate::crash::survive;
use crate::model::{DIR, IDENTITY, Outcome, run};
use crate::workload::{Workload, workloads};

/// Images of each crash point.
const IMAGES: usize = 12;
/// The short run recovers this part of the images once more, with a loss of power at each call.
const SAMPLE: u64 = 101;

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    points: u64,
    images: u64,
    distinct: u64,
    recovery_points: u64,
    recovery_images: u64,
}

#[test]
fn power_may_fail_at_every_call_of_every_workload_and_of_its_recovery() {
    let is_long = std::env::var_os("VARVE_LONG").is_some_and(|value| value == "1");
    let all = workloads();
    let counts: Vec<Count> = std::thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            let all = &all;
            scope.spawn(move || {
                let mine = all.iter().skip(half).step_by(2);
                mine.map(|workload| enumerate(workload, is_long)).collect::<Vec<_>>()
            })
        });
        halves.into_iter().flat_map(|half| half.join().expect("no image is wrong")).collect()
    });
    let sum = |what: fn(&Count) -> u64| counts.iter().map(what).sum::<u64>();
    let total = sum(|count| count.images) + sum(|count| count.recovery_images);
    println!(
        "{} workloads: {} crash points with {} images ({} distinct); {} crash points in \
         recoveries with {} images; {total} images in all",
        counts.len(),
        sum(|count| count.points),
        sum(|count| count.images),
        sum(|count| count.distinct),
        sum(|count| count.recovery_points),
        sum(|count| count.recovery_images),
    );
    assert!(counts.len() >= 5);
    assert!(counts.iter().all(|count| count.points > 20 && count.recovery_points > 0));
    assert!(total >= if is_long { 100_000 } else { 10_000 }, "{total} images");
}

fn enumerate(workload: &Workload, is_long: bool) -> Count {
    let mut count = Count::default();
    let clean = SimDisk::new(0);
    let (_, error) = run(&clean, workload.shape, &workload.operations);
    assert!(error.is_none(), "{}: {error:?}", workload.name);
    let mut seen = BTreeSet::new();
    for stop in 0..clean.operations() {
        let disk = SimDisk::new(stop);
        disk.stop_at_operation(stop);
        let (outcome, error) = run(&disk, workload.shape, &workload.operations);
        assert!(error.is_some(), "{}: the power went out at {stop}", workload.name);
        count.points += 1;
        for style in styles(stop) {
            let context = format!("{}, call {stop}, {style:?}", workload.name);
            let image = disk.crash_with(style);
            let files = image.durable_files();
            let is_new = seen.insert(fingerprint(&(&files, &outcome.acknowledged.next)));
            count.images += 1;
            count.distinct += u64::from(is_new);
            let is_recovered_again = is_new && (is_long || count.distinct % SAMPLE == 1);
            survive(&image, workload.shape, &outcome, &context);
            if is_recovered_again {
                let again = || SimDisk::from_files(stop, &files).expect("files of a disk");
                recover_again(workload, again, &outcome, &context, &mut count);
            }
        }
    }
    println!("{:?}: {count:?}", workload.name);
    count
}

/// Loses power at every call of the recovery of an image.
fn recover_again(
    workload: &Workload,
    image: impl Fn() -> SimDisk,
    outcome: &Outcome,
    context: &str,
    count: &mut Count,
) {
    let counted = image();
    drop(workload.shape.open(&counted).expect("it was opened before"));
    let report = check(&counted, Path::new(DIR), &IDENTITY).expect("the disk works");
    assert!(report.violations.is_empty(), "{context}: {:#?}", report.violations);
    for second in 0..counted.operations() {
        let disk = image();
        disk.stop_at_operation(second);
        assert!(workload.shape.open(&disk).is_err(), "{context}: it has no power");
        count.recovery_points += 1;
        for style in styles(second) {
            let context = format!("{context}, then call {second}, {style:?}");
            survive(&disk.crash_with(style), workload.shape, outcome, &context);
            count.recovery_images += 1;
        }
    }
}

/// From all to nothing, prefixes, torn last calls and any subset.
fn styles(stop: u64) -> [CrashStyle; IMAGES] {
    let last = stop.saturating_sub(1);
    let torn = |seed| CrashStyle::Torn { operation: last, seed };
    [
        CrashStyle::KeepAll,
        CrashStyle::LoseAll,
        CrashStyle::KeepData,
        CrashStyle::KeepNames,
        CrashStyle::Prefix(last),
        torn(stop),
        torn(!stop),
        CrashStyle::Random(stop),
        CrashStyle::Random(!stop),
        CrashStyle::Random(stop << 32),
        torn(stop << 32),
        CrashStyle::Prefix(stop.saturating_sub(2)),
    ]
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
