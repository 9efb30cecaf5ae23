//! Many seeds on all cores: progress, the first failures, and a sum at the end.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use varve_api::etcdserverpb::WatchResponse;

use crate::bar::Bar;
use crate::marks;
use crate::operator::CHANGES;
use crate::plan::{Plan, SECOND, TROUBLES};
use crate::plant::{self, PLANTS, Plant};
use crate::seed::{Player, Report};
use crate::shorten;

/// Of so many seeds one is played twice.
const REPEAT_ONE_IN: u64 = 100;
/// Failures after which a run stops.
const FAILURES_MAX: usize = 20;
/// Seeds within which a planted bug must be found.
const SEEDS_PLANTED_MAX: u64 = 10_000;

/// Plays after which the search for a shorter failure ends.
const SHORTEN_PLAYS_MAX: usize = 400;

const USAGE: &str = "expected: run [--seconds N | --seeds N] [--from SEED] [--threads N], \
                     or: replay SEED [PLANTED BUG], or: shorten SEED [PLANTED BUG], \
                     or: plant NAME|all [--seeds N] [--from SEED]";

/// What a run was asked for.
pub struct Wanted {
    from: u64,
    pub seeds: u64,
    pub time: Duration,
    threads: usize,
}

/// Carries out a command line; whether nothing was wrong.
///
/// # Errors
/// What was expected and found, if it is none.
pub fn command(arguments: &[String]) -> Result<bool, String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["replay", seed] => Ok(replay(&plan(seed, None)?)),
        ["replay", seed, plant] => Ok(replay(&plan(seed, Some(plant))?)),
        ["shorten", seed] => Ok(shorten(&plan(seed, None)?)),
        ["shorten", seed, plant] => Ok(shorten(&plan(seed, Some(plant))?)),
        ["plant", "all", options @ ..] => {
            let wanted = wanted(options)?;
            Ok(PLANTS.iter().fold(true, |all, (plant, ..)| seek(*plant, &wanted) && all))
        }
        ["plant", name, options @ ..] => Ok(seek(planted(name)?, &wanted(options)?)),
        ["run", options @ ..] => Ok(run(&wanted(options)?)),
        other => Err(format!("{USAGE}; found: {}", other.join(" "))),
    }
}

fn number(what: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("expected {what}, found {text:?}"))
}

fn wanted(options: &[&str]) -> Result<Wanted, String> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut wanted = Wanted {
        from: since_epoch.as_secs() * 1_000_000,
        seeds: u64::MAX,
        time: Duration::from_secs(60),
        threads,
    };
    for pair in options.chunks(2) {
        let &[name, value] = pair else { return Err(format!("{USAGE}; found: {}", pair[0])) };
        let value = number("a number", value)?;
        match name {
            "--seconds" => wanted.time = Duration::from_secs(value),
            "--seeds" => (wanted.seeds, wanted.time) = (value, Duration::MAX),
            "--from" => wanted.from = value,
            "--threads" => wanted.threads = (value as usize).max(1),
            other => return Err(format!("{USAGE}; found: {other}")),
        }
    }
    Ok(wanted)
}

fn planted(name: &str) -> Result<Plant, String> {
    let names: Vec<&str> = PLANTS.iter().map(|(_, name, _)| *name).collect();
    plant::named(name).ok_or_else(|| format!("expected one of {names:?}, found {name:?}"))
}

/// Looks for a planted bug; whether it was found.
fn seek(plant: Plant, wanted: &Wanted) -> bool {
    if let Err(error) = needs_trial(Some(plant)) {
        println!("{error}");
        return false;
    }
    std::panic::set_hook(Box::new(|_| {}));
    let (_, name, what) = PLANTS.iter().find(|(known, ..)| *known == plant).expect("it is listed");
    let (player, started) = (Player::new(), Instant::now());
    let from = if wanted.seeds == u64::MAX { 0 } else { wanted.from };
    for number in 0..wanted.seeds.min(SEEDS_PLANTED_MAX) {
        let plan = Plan::draw(from + number).with(Some(plant));
        let report = player.play(&plan, false);
        if let Some(violation) = report.violations.first() {
            let text: String = violation.chars().take(160).collect();
            println!("{name}: {what}: found after {} seeds: {text}", number + 1);
            return true;
        }
        if started.elapsed() >= wanted.time {
            break;
        }
    }
    println!("{name}: {what}: NOT FOUND");
    false
}

fn plan(seed: &str, plant: Option<&str>) -> Result<Plan, String> {
    let plant = plant.map(planted).transpose()?;
    needs_trial(plant)?;
    Ok(Plan::draw(number("a seed", seed)?).with(plant))
}

fn needs_trial(plant: Option<Plant>) -> Result<(), String> {
    match plant.and_then(plant::bug_within) {
        Some(name) if !marks::HAS_CODE => {
            Err(format!("expected a build with --features trial for {name}, found one without"))
        }
        _ => Ok(()),
    }
}

/// Leaves out of a failing seed what does not matter, and plays what is left; false if it fails.
fn shorten(plan: &Plan) -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    match shorten::shorten(&Player::new(), plan, SHORTEN_PLAYS_MAX) {
        Some(shorter) => replay(&shorter),
        None => true,
    }
}

fn replay(plan: &Plan) -> bool {
    println!("{plan:#?}");
    let report = Player::new().play(plan, true);
    for (number, watched) in report.history.watched.iter().enumerate() {
        for (at, stream) in watched.streams.iter().enumerate() {
            println!("watcher {number}, stream {at} from {}:", stream.start_revision);
            stream.responses.iter().for_each(|response| println!("  {}", brief(response)));
        }
    }
    for violation in &report.violations {
        println!("VIOLATION {violation}");
    }
    println!("digest {:016x}, {} operations", report.digest, report.operations);
    report.violations.is_empty()
}

/// What a watcher was told, in a line.
fn brief(response: &WatchResponse) -> String {
    let told = response.header.as_ref().map_or(0, |header| header.revision);
    let kvs = response.events.iter().filter_map(|event| event.kv.as_ref());
    let events: Vec<String> =
        kvs.map(|kv| format!("{}@{}", kv.key.escape_ascii(), kv.mod_revision)).collect();
    let WatchResponse { watch_id, created, canceled, compact_revision, .. } = response;
    format!(
        "{told}: watch {watch_id} created {created} canceled {canceled} \
         compacted {compact_revision} {}",
        events.join(" ")
    )
}

/// What all threads have found.
#[derive(Default)]
pub struct Sum {
    pub seeds: u64,
    operations: usize,
    seconds: u64,
    repeated: u64,
    counts: BTreeMap<&'static str, u64>,
    pub failures: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.operations += report.operations;
        self.seconds += report.time / SECOND;
        for (name, count) in &report.counts {
            *self.counts.entry(name).or_default() += count;
        }
        if let Some(first) = report.violations.first() {
            let text: String = first.chars().take(600).collect();
            eprintln!("\nseed {}: {text}", report.seed);
            eprintln!(
                "replay: cargo run --profile simulation -p varve-sim -- replay {}",
                report.seed
            );
            self.failures.push((report.seed, text));
        }
    }
}

fn run(wanted: &Wanted) -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let sum = Mutex::new((Sum::default(), Bar::default()));
    let locked = || sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..wanted.threads {
            scope.spawn(|| {
                let player = Player::new();
                while !stop.load(Ordering::Relaxed) && started.elapsed() < wanted.time {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= wanted.seeds {
                        return;
                    }
                    let seed = wanted.from + number;
                    let report = player.play(&Plan::draw(seed), false);
                    let again = seed.is_multiple_of(REPEAT_ONE_IN);
                    let again = again.then(|| player.play(&Plan::draw(seed), false).digest);
                    let (sum, bar) = &mut *locked();
                    sum.add(&report);
                    if let Some(digest) = again {
                        sum.repeated += 1;
                        if digest != report.digest {
                            eprintln!("\nseed {seed}: another trace the second time");
                            sum.failures.push((seed, "another trace".to_owned()));
                        }
                    }
                    if sum.failures.len() >= FAILURES_MAX {
                        stop.store(true, Ordering::Relaxed);
                    }
                    bar.show(sum, started.elapsed(), wanted);
                }
            });
        }
    });
    let (sum, _) = &*locked();
    summary(sum, started.elapsed(), wanted);
    sum.failures.is_empty()
}

fn summary(sum: &Sum, elapsed: Duration, wanted: &Wanted) {
    let seconds = elapsed.as_secs_f64();
    println!("\nseeds {} from {}", sum.seeds, wanted.from);
    println!("seeds/s {:.2} on {} threads", sum.seeds as f64 / seconds, wanted.threads);
    println!("operations {}", sum.operations);
    println!("simulated hours {:.1}", sum.seconds as f64 / 3600.0);
    println!("played twice {}", sum.repeated);
    println!("faults");
    for name in TROUBLES {
        println!("  {name}: {}", sum.counts.get(name).unwrap_or(&0));
    }
    println!("changes of the members");
    for name in CHANGES {
        println!("  {name}: {}", sum.counts.get(name).unwrap_or(&0));
    }
    let is_listed = |name: &&str| TROUBLES.contains(name) || CHANGES.contains(name);
    println!("besides");
    for (name, count) in sum.counts.iter().filter(|(name, _)| !is_listed(name)) {
        println!("  {name}: {count}");
    }
    let marks: Vec<&str> = marks::all().chain(TROUBLES).chain(CHANGES).collect();
    let missed: Vec<&&str> = marks.iter().filter(|name| !sum.counts.contains_key(*name)).collect();
    println!("marks reached {} of {}", marks.len() - missed.len(), marks.len());
    for name in missed {
        println!("  missed: {name}");
    }
    if !marks::HAS_CODE {
        println!("  not compiled in, see --features trial: {}", marks::CODE.len());
    }
    println!("failures {}", sum.failures.len());
    for (seed, text) in &sum.failures {
        println!("  {seed}: {text}");
    }
}
