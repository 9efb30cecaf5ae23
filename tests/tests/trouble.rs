//! Clusters of real processes on a network of namespaces, in every trouble that a seed draws, under
//! a load of everything: no client ever sees what one sound store could not have shown.
//!
//! One idea: `trouble` draws and makes the trouble, `workload` the load, `history` judges what
//! clients, watchers and members have seen. A run ends with all links and processes whole; then all
//! members must serve and have the same.
//!
//! Every `cargo test` makes a few short runs, some of fresh seeds. The full run is
//!
//! ```sh
//! VARVE_LONG=1 VARVE_SEEDS=150 cargo test --release -p varve-tests --test trouble -- --nocapture
//! ```
//!
//! A failure prints the command that makes the same plan again; what it meets, the machine decides.

use std::time::{Duration, SystemTime};

use varve_tests::group::Group;
use varve_tests::history::check;
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

fn plan(seed: u64) -> Plan {
    if is_long() { Plan::draw(seed, 4, 30) } else { Plan::draw(seed, 2, 3) }
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

#[test]
fn no_client_sees_what_one_sound_store_could_not_have_shown() {
    let program = Program::varve();
    let (mut runs, mut all) = (0, Counts::default());
    for seed in seeds() {
        let long = if is_long() { "VARVE_LONG=1 " } else { "" };
        println!("seed {seed}: {long}VARVE_SEED={seed} cargo test -p varve-tests --test trouble");
        let Some(counts) = run(&program, seed) else { return };
        println!("seed {seed}: {counts:?}");
        runs += 1;
        all.answered += counts.answered;
        all.writes += counts.writes;
        all.unknown += counts.unknown;
        all.changes += counts.changes;
        all.settled = all.settled.max(counts.settled);
    }
    println!("{runs} runs, 0 violations; of all runs, with the longest time to settle: {all:?}");
}

/// Makes one run; `None` where there can be no network.
fn run(program: &Program, seed: u64) -> Option<Counts> {
    let plan = plan(seed);
    network::within(plan.members, seed, |network| {
        println!("  {} members, {:?}; {}", plan.members, plan.flags, who_is_where(plan.members));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let mut group = Group::start(network, &runtime, program, plan.members, &plan.flags);
        group.wait_leader(PATIENCE);
        let workload = Workload::start(&runtime, group.addresses(), seed);
        assert!(workload.wait_for(20, PATIENCE), "no writes\n{}", group.logs());
        for phase in &plan.phases {
            let before = workload.acknowledged();
            let done = phase.carry_out(&mut group);
            println!("  {done}: {} writes", workload.acknowledged() - before);
        }
        assert!(workload.wait_for(20, PATIENCE), "no writes in the end\n{}", group.logs());
        let (history, counts) = workload.finish(&group);
        if let Err(violations) = check(&history) {
            let shown: Vec<_> = violations.iter().take(20).collect();
            panic!("{} violations: {shown:#?}\n{}", violations.len(), group.logs());
        }
        counts
    })
}
