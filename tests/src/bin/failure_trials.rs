//! For how long a cluster of three acknowledges nothing when something befalls it, trial after trial:
//! varve, and any other program that takes etcd's flags, beside it.
//!
//! ```sh
//! cargo run --release -p varve-tests --bin failure_trials -- --trials 100 --program /usr/bin/etcd
//! ```
//!
//! One idea: probes, not clients. Every few milliseconds a put begins at every member, whatever
//! became of those before it; so what is measured is the cluster, and not how some client waits,
//! tries again, and fails over. All with default timeouts, over a network of namespaces
//! (`varve_tests::network`).
//!
//! | event | what is measured |
//! | --- | --- |
//! | `kill` | the longest time without an acknowledged write, from SIGKILL of the leader |
//! | `terminate` | the same, from SIGTERM of the leader until a second after its end |
//! | `heal` | from the end of a partition of 3 s, of the leader or another in turn, until every member has acknowledged a write that began after it |
//! | `power-loss` | all are killed at once; from the start of the last until a write is acknowledged |
//!
//! What it does not do: judge. Safety under the same events is shown by `tests/tests/trouble.rs`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use varve_api::etcdserverpb::PutRequest;
use varve_tests::group::Group;
use varve_tests::grpc_client::Client;
use varve_tests::network;
use varve_tests::process::Program;
use varve_tests::trouble::{Victim, Wire};

const MEMBERS: usize = 3;
const PROBE_EVERY: Duration = Duration::from_millis(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than anything may take; a trial that takes so long ends the program.
const PATIENCE: Duration = Duration::from_secs(60);
const PARTITION: Duration = Duration::from_secs(3);
/// Between two trials, so that each begins with a cluster at rest.
const REST: Duration = Duration::from_millis(500);
/// Afterwards, gaps that the end of the event brings are seen, too.
const AFTERMATH: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Kill,
    Terminate,
    Heal,
    PowerLoss,
}

impl Event {
    const ALL: [Event; 4] = [Event::Kill, Event::Terminate, Event::Heal, Event::PowerLoss];

    fn name(self) -> &'static str {
        match self {
            Event::Kill => "kill",
            Event::Terminate => "terminate",
            Event::Heal => "heal",
            Event::PowerLoss => "power-loss",
        }
    }
}

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    member: usize,
    began: Instant,
    ended: Instant,
}

/// What probes have come to, in the order of their ends.
#[derive(Clone, Default)]
struct Probes(Arc<Mutex<Vec<Acknowledged>>>);

impl Probes {
    fn start(&self, runtime: &Runtime, addresses: Vec<String>) {
        for (member, address) in addresses.into_iter().enumerate() {
            runtime.spawn(probe(self.clone(), member, address));
        }
    }

    /// Waits until of each of these members a write is acknowledged that began after `start`; the
    /// end of the last one's first.
    fn wait_for(&self, members: &[usize], start: Instant) -> Instant {
        let first = |member: usize| {
            let all = self.all();
            let mut its = all.iter().filter(|one| one.member == member && one.began > start);
            its.next().map(|one| one.ended)
        };
        loop {
            let found: Vec<Instant> = members.iter().filter_map(|member| first(*member)).collect();
            if found.len() == members.len() {
                return found.into_iter().max().expect("some member is waited for");
            }
            assert!(start.elapsed() < PATIENCE, "of {members:?} only {found:?} in {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The longest time without an acknowledgement that ends after `start`.
    fn longest_gap(&self, start: Instant) -> Duration {
        let mut ends: Vec<Instant> = self.all().iter().map(|one| one.ended).collect();
        ends.sort();
        let gaps = ends.windows(2).filter(|pair| pair[1] > start).map(|pair| pair[1] - pair[0]);
        gaps.max().expect("something was acknowledged before and after")
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Acknowledged>> {
        self.0.lock().expect("no panic under this lock")
    }
}

/// Begins a put every few milliseconds, whatever becomes of those before.
async fn probe(probes: Probes, member: usize, address: String) {
    let client = Client::new(&address, PROBE_TIMEOUT);
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let (client, probes) = (client.clone(), probes.clone());
        tokio::spawn(async move {
            let request = PutRequest {
                key: format!("probe{member}").into(),
                value: vec![b'x'; 100].into(),
                ..PutRequest::default()
            };
            let began = Instant::now();
            if client.put(request).await.is_ok() {
                let ended = Instant::now();
                probes.all().push(Acknowledged { member, began, ended });
            }
        });
    }
}

/// Makes one event happen; how long it was felt.
fn trial(event: Event, nth: usize, group: &mut Group<'_>, probes: &Probes) -> Duration {
    let all: Vec<usize> = (0..MEMBERS).collect();
    // A cluster that is whole: every member acknowledges.
    probes.wait_for(&all, Instant::now());
    std::thread::sleep(REST);
    probes.all().retain(|one| one.ended.elapsed() < REST);
    let leader = group.wait_leader(PATIENCE);
    let others: Vec<usize> = all.iter().copied().filter(|member| *member != leader).collect();
    match event {
        Event::Kill | Event::Terminate => {
            let start = Instant::now();
            if event == Event::Kill {
                group.kill(leader)
            } else {
                group.terminate(leader)
            }
            probes.wait_for(&others, Instant::now());
            std::thread::sleep(AFTERMATH);
            let gap = probes.longest_gap(start);
            group.revive(leader);
            gap
        }
        Event::Heal => {
            let victim = (leader + nth % 2) % MEMBERS;
            Wire::Isolated(Victim::Leader).set(group, victim);
            std::thread::sleep(PARTITION);
            group.network.heal();
            let start = Instant::now();
            probes.wait_for(&all, start) - start
        }
        Event::PowerLoss => {
            all.iter().for_each(|member| group.kill(*member));
            all.iter().for_each(|member| group.revive(*member));
            let start = Instant::now();
            let acknowledged = || probes.all().iter().find(|one| one.began > start).copied();
            loop {
                if let Some(first) = acknowledged() {
                    return first.ended - start;
                }
                assert!(start.elapsed() < PATIENCE, "nothing in {PATIENCE:?}\n{}", group.logs());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn run(program: &Program, event: Event, trials: usize) -> Option<Vec<Duration>> {
    network::within(MEMBERS, 0, |network| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let mut group = Group::start(network, &runtime, program, MEMBERS, &[]);
        group.wait_leader(PATIENCE);
        let probes = Probes::default();
        probes.start(&runtime, group.addresses());
        let trials = (0..trials).map(|nth| trial(event, nth, &mut group, &probes));
        let mut took: Vec<Duration> = trials.collect();
        took.sort();
        took
    })
}

/// The nearest rank.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

struct Arguments {
    trials: usize,
    programs: Vec<Program>,
    events: Vec<Event>,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments { trials: 100, programs: Vec::new(), events: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--trials" => {
                let count = value.parse().ok().filter(|count| *count > 0);
                arguments.trials = count
                    .ok_or_else(|| format!("--trials: expected a number above 0, found {value}"))?;
            }
            "--program" => {
                let label = value.rsplit('/').next().unwrap_or(&value).to_owned();
                arguments.programs.push(Program { label, path: PathBuf::from(value) });
            }
            "--event" => {
                let known = Event::ALL.into_iter().find(|event| event.name() == value);
                arguments.events.push(known.ok_or_else(|| {
                    format!(
                        "--event: expected one of {:?}, found {value}",
                        Event::ALL.map(Event::name)
                    )
                })?);
            }
            _ => return Err(format!("expected --trials, --program or --event, found {flag}")),
        }
    }
    if arguments.events.is_empty() {
        arguments.events = Event::ALL.to_vec();
    }
    arguments.programs.insert(0, Program::varve());
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(reason) => {
            eprintln!("failure_trials: {reason}");
            return ExitCode::from(2);
        }
    };
    println!(
        "| event | program | trials | p50 ms | p99 ms | max ms |\n| --- | --- | --- | --- | --- | --- |"
    );
    for event in arguments.events {
        for program in &arguments.programs {
            let Some(took) = run(program, event, arguments.trials) else {
                return ExitCode::FAILURE;
            };
            let [p50, p99, max] =
                [50, 99, 100].map(|percent| percentile(&took, percent).as_millis());
            let (name, label, trials) = (event.name(), &program.label, took.len());
            println!("| {name} | {label} | {trials} | {p50} | {p99} | {max} |");
        }
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let sorted: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 50), Duration::from_millis(50));
        assert_eq!(percentile(&sorted, 99), Duration::from_millis(99));
        assert_eq!(percentile(&sorted, 100), Duration::from_millis(100));
        assert_eq!(percentile(&sorted[..1], 50), Duration::from_millis(1));
    }

    #[test]
    fn the_longest_gap_begins_before_the_event_and_not_earlier() {
        let zero = Instant::now();
        let at = |milliseconds| zero + Duration::from_millis(milliseconds);
        let probes = Probes::default();
        for milliseconds in [0, 500, 510, 900, 950, 960] {
            let (began, ended) = (zero, at(milliseconds));
            probes.all().push(Acknowledged { member: 0, began, ended });
        }
        assert_eq!(probes.longest_gap(at(505)), Duration::from_millis(390));
        assert_eq!(probes.longest_gap(at(905)), Duration::from_millis(50));
    }
}
