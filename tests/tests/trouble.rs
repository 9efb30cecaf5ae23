//! Clusters of real processes on a network of namespaces, in every trouble that a seed draws, under
//! a load of everything: no client ever sees what one sound store could not have shown.
//!
//! One idea: `trouble` draws and makes the trouble, `workload` the load, and the judge of the simulator
//! (`judge`) looks at what clients, watchers and members have seen. A run ends with all links and
//! processes whole; then all members must serve and have the same.
//!
//! Every `cargo test` makes a few short runs, some of fresh seeds. The full run is
//!
//! ```sh
//! VARVE_LONG=1 VARVE_SEEDS=200 VARVE_JOBS=4 \
//!     cargo test --release -p varve-tests --test trouble -- --nocapture
//! ```
//!
//! Runs at the same time have networks of their own. One that fails does not end the others. A failure
//! prints the command that makes the same plan again; what it meets, the machine decides.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use varve_judge::violations;
use varve_tests::group::Group;
use varve_tests::network;
use varve_tests::process::Program;
use varve_tests::trouble::{Plan, who_is_where};
use varve_tests::workload::{Counts, Workload};

/// Longer than a cluster needs to elect a leader, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Seeds of short runs: the first is fixed, others are fresh.
const SHORT_RUNS: u64 = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn is_long() -> bool {
    std::env::var_os("VARVE_LONG").is_some()
}

/// Long pauses are for some seeds only: two hundred runs are to end within an hour or so.
fn plan(seed: u64) -> Plan {
    match is_long() {
        true if seed.is_multiple_of(4) => Plan::draw(seed, 8, 30),
        true => Plan::draw(seed, 8, 5),
        false => Plan::draw(seed, 2, 3),
    }
}

/// The seeds to run.
fn seeds() -> Vec<u64> {
    if let Some(seed) = number("VARVE_SEED") {
        return vec![seed];
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let fresh = now.as_secs() % 1_000_000_000 * 1_000;
    let count = number("VARVE_SEEDS").unwrap_or(SHORT_RUNS);
    (0..count).map(|nth| if nth == 0 && !is_long() { 0 } else { fresh + nth }).collect()
}

/// What came of all runs so far.
#[derive(Default)]
struct Sum {
    runs: usize,
    counts: Counts,
    failed: Vec<u64>,
}

#[test]
fn no_client_sees_what_one_sound_store_could_not_have_shown() {
    let program = Program::varve();
    let (seeds, sum) = (Mutex::new(seeds().into_iter()), Mutex::new(Sum::default()));
    let work = || {
        loop {
            let next = seeds.lock().expect("no panic under this lock").next();
            let Some(seed) = next else { return };
            let long = if is_long() { "VARVE_LONG=1 " } else { "" };
            println!("{seed}: {long}VARVE_SEED={seed} cargo test -p varve-tests --test trouble");
            let began = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| run(&program, seed)));
            let mut sum = sum.lock().expect("no panic under this lock");
            match outcome {
                // There can be no network.
                Ok(None) => return,
                Ok(Some(counts)) => {
                    sum.runs += 1;
                    sum.counts.add(counts);
                    println!("{seed}: run {} took {:?}, {counts:?}", sum.runs, began.elapsed());
                }
                // It has been printed.
                Err(_) => sum.failed.push(seed),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..number("VARVE_JOBS").unwrap_or(1) {
            scope.spawn(work);
        }
    });
    let Sum { runs, counts, failed } = sum.into_inner().expect("no panic under this lock");
    assert!(failed.is_empty(), "{runs} runs without, and with violations: {failed:?}");
    println!("{runs} runs, 0 violations; of all runs, with the longest time to settle: {counts:?}");
}

/// Makes one run; `None` where there can be no network.
fn run(program: &Program, seed: u64) -> Option<Counts> {
    let plan = plan(seed);
    network::within(plan.members, seed, |network| {
        let (members, flags) = (plan.members, &plan.flags);
        println!("{seed}: {members} members, {flags:?}; {}", who_is_where(members));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let mut group = Group::start(network, &runtime, program, members, flags);
        group.wait_leader(PATIENCE);
        let workload = Workload::start(&runtime, group.addresses(), seed);
        assert!(workload.wait_for(20, PATIENCE), "{seed}: no writes\n{}", group.logs());
        for phase in &plan.phases {
            let before = workload.acknowledged();
            let done = phase.carry_out(&mut group);
            println!("{seed}: {done}: {} writes", workload.acknowledged() - before);
        }
        assert!(workload.wait_for(20, PATIENCE), "{seed}: no writes in the end\n{}", group.logs());
        let (history, counts) = workload.finish(&group);
        let found = violations(&history);
        if !found.is_empty() {
            let shown: Vec<_> = found.iter().take(20).collect();
            panic!("{seed}: {} violations: {shown:#?}\n{}", found.len(), group.logs());
        }
        counts
    })
}
