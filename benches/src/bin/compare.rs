//! Runs varve and etcd one after the other on this machine and prints tables with ratios.
//!
//! ```text
//! compare [floor] [put] [get] [long-reads] [million] [leases] [storm] [auth] [watch]
//!         [join] [behind]       (only where they are named: they take tens of gigabytes)
//!                               (none: all of them)
//!     [--varve target/release/varve] [--peer etcd]       (--peer none: varve alone)
//!     [--members 1]             of each cluster, all on this machine; clients are spread over them
//!     [--dir target/compare]    where data go; a disk, not tmpfs
//!     [--rounds 2] [--seconds 5] [--threads 1] [--seed 1]
//!     [--clients 1,100,1000] [--value-bytes 256] [--key-space 100000]   put, get
//!     [--keys 300000] [--rate 2000] [--readers 2] [--reading whole|pages|stream]
//!     [--read-rate READS_PER_SECOND]                     long-reads; the default is a loop
//!     [--objects 1000000] [--rewrites 200000]            million, in one round
//!     [--leases 1000000] [--revoked 100000]              leases, in one round
//!     [--storm-leases 100000] [--storm-ttl 60]           storm, in one round
//!     [--auth-clients 100]                               auth
//!     [--watchers 100] [--watch-rate 500]                watch
//!     [--join-keys 1310720] [--join-value-bytes 4096] [--join-rate 200]   join, in one round
//!     [--behind-entries 100000] [--behind-value-bytes 1048576]            behind, in one round
//! ```
//!
//! Tables go to standard output as Markdown, progress to standard error.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use varve_benches::arguments::Arguments;
use varve_benches::load::{Operation, Reading};
use varve_benches::scenario::auth::{self, Auth};
use varve_benches::scenario::behind::{self, Behind};
use varve_benches::scenario::calls::{self, Calls};
use varve_benches::scenario::join::{self, Join};
use varve_benches::scenario::leases::{self, Leases};
use varve_benches::scenario::long_reads::{self, LongReads};
use varve_benches::scenario::million::{self, Million};
use varve_benches::scenario::watch::{self, Watch};
use varve_benches::scenario::{Settings, floor};
use varve_benches::server::{Error, Program};
use varve_benches::workload::ValueSizes;

/// A mistake on the command line.
const EXIT_USAGE: u8 = 2;
/// All scenarios, in the order in which they run.
const SCENARIOS: [&str; 9] =
    ["floor", "put", "get", "long-reads", "million", "leases", "storm", "auth", "watch"];
/// These take tens of gigabytes of disk and a quarter of an hour: nobody gets them without asking.
const LARGE: [&str; 2] = ["join", "behind"];

/// What the command line asks for.
struct Plan {
    settings: Settings,
    scenarios: Vec<String>,
    put_clients: Vec<usize>,
    get_clients: Vec<usize>,
    key_space: u64,
    value_sizes: ValueSizes,
    long_reads: LongReads,
    million: Million,
    leases: Leases,
    auth: Auth,
    watch: Watch,
    join: Join,
    behind: Behind,
    /// Millions of anything take long: one round unless more are asked for.
    million_rounds: usize,
}

fn main() -> ExitCode {
    let plan = match parse() {
        Ok(plan) => plan,
        Err(message) => {
            eprintln!("compare: {message}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    print_head(&plan.settings);
    for scenario in &plan.scenarios {
        if let Err(error) = run(&plan, scenario) {
            eprintln!("compare: {scenario}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn parse() -> Result<Plan, String> {
    let mut arguments = Arguments::of_process()?;
    let mut scenarios = arguments.words().to_vec();
    let known = [&SCENARIOS[..], &LARGE].concat();
    if let Some(unknown) = scenarios.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("unknown scenario {unknown}, expected {}", known.join(", ")));
    }
    if scenarios.is_empty() {
        scenarios = SCENARIOS.map(str::to_owned).to_vec();
    }
    let varve = arguments.value("varve", "target/release/varve".to_owned())?;
    let peer = arguments.value("peer", "etcd".to_owned())?;
    let rounds: Option<usize> = arguments.optional("rounds")?;
    let clients: Option<Vec<usize>> = match arguments.list("clients", Vec::new())? {
        clients if clients.is_empty() => None,
        clients => Some(clients),
    };
    let key_space = arguments.value("key-space", 100_000)?;
    let plan = Plan {
        settings: Settings {
            varve: Program { label: "varve".to_owned(), path: PathBuf::from(varve) },
            peer: (peer != "none")
                .then(|| Program { label: "etcd".to_owned(), path: PathBuf::from(peer) }),
            members: arguments.value("members", 1)?.max(1),
            directory: PathBuf::from(arguments.value("dir", "target/compare".to_owned())?),
            rounds: rounds.unwrap_or(2),
            time: seconds(arguments.value("seconds", 5.0)?)?,
            threads: arguments.value("threads", 1)?,
            seed: arguments.value("seed", 1)?,
        },
        scenarios,
        put_clients: clients.clone().unwrap_or_else(|| vec![1, 100, 1000]),
        get_clients: clients.unwrap_or_else(|| vec![1, 100]),
        key_space,
        value_sizes: arguments.value("value-bytes", ValueSizes::Fixed(256))?,
        long_reads: LongReads {
            keys: arguments.value("keys", 300_000)?,
            value_bytes: 256,
            rate: arguments.value("rate", 2000.0)?,
            readers: arguments.value("readers", 2)?,
            read_rate: arguments.optional("read-rate")?,
            reading: reading(&arguments.value("reading", "whole".to_owned())?)?,
        },
        million: Million {
            keys: arguments.value("objects", 1_000_000)?,
            rewrites: arguments.value("rewrites", 200_000)?,
        },
        leases: Leases {
            held: arguments.value("leases", 1_000_000)?,
            revoked: arguments.value("revoked", 100_000)?,
            storm: arguments.value("storm-leases", 100_000)?,
            storm_ttl_s: arguments.value("storm-ttl", 60)?,
        },
        auth: Auth { clients: arguments.value("auth-clients", 100)?, keys: key_space },
        watch: Watch {
            watchers: arguments.value("watchers", 100)?,
            rate: arguments.value("watch-rate", 500.0)?,
            keys: key_space,
        },
        join: Join {
            keys: arguments.value("join-keys", 1_310_720)?,
            value_sizes: arguments.value("join-value-bytes", ValueSizes::Fixed(4096))?,
            rate: arguments.value("join-rate", 200.0)?,
        },
        behind: Behind {
            entries: arguments.value("behind-entries", 100_000)?,
            value_sizes: arguments.value("behind-value-bytes", ValueSizes::Fixed(1 << 20))?,
        },
        million_rounds: rounds.unwrap_or(1),
    };
    arguments.finish()?;
    Ok(plan)
}

fn seconds(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("--seconds: {error}"))
}

fn reading(text: &str) -> Result<Reading, String> {
    match text {
        "whole" => Ok(Reading::Whole),
        "pages" => Ok(Reading::Pages),
        "stream" => Ok(Reading::Stream),
        _ => Err(format!("--reading {text}: expected whole, pages or stream")),
    }
}

/// What a figure needs to be understood: the programs, the machine, the command line.
fn print_head(settings: &Settings) {
    let command: Vec<String> = std::env::args().skip(1).collect();
    println!("- command: `compare {}`", command.join(" "));
    for program in settings.programs() {
        println!("- {}: {}", program.label, program.version());
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cpu = cpu.trim_start_matches([' ', '\t', ':']);
    if settings.members > 1 {
        println!("- clusters of {} members on this machine", settings.members);
    }
    println!("- machine: {cores} cores, {cpu}, Linux {}", kernel.trim());
}

fn run(plan: &Plan, scenario: &str) -> Result<(), Error> {
    let settings = &plan.settings;
    let calls = |operation, clients: &[usize], is_filled| Calls {
        operation,
        clients: clients.to_vec(),
        keys: plan.key_space,
        value_sizes: plan.value_sizes,
        is_filled,
    };
    let rounds = format!("{} rounds of {:?}", settings.rounds, settings.time);
    match scenario {
        "floor" => {
            println!("\n### floor: put by 1 client beside sync and empty call, {rounds}\n");
            print!("{}", floor::run(settings)?.markdown());
        }
        "put" => {
            println!(
                "\n### put, values of {}, {} keys, {rounds}\n",
                plan.value_sizes, plan.key_space
            );
            let calls = calls(Operation::Put, &plan.put_clients, false);
            print!("{}", calls::run(settings, &calls)?.markdown());
        }
        "get" => {
            println!(
                "\n### linearizable get, values of {}, {} keys, {rounds}\n",
                plan.value_sizes, plan.key_space
            );
            let get = Operation::Get { is_serializable: false };
            let calls = calls(get, &plan.get_clients, true);
            print!("{}", calls::run(settings, &calls)?.markdown());
        }
        "long-reads" => {
            let LongReads { keys, value_bytes, rate, readers, read_rate, reading } =
                &plan.long_reads;
            let pace = read_rate.map_or("in a loop".to_owned(), |rate| format!("{rate} reads/s"));
            println!(
                "\n### long reads: {keys} keys of {value_bytes} B, {rate} puts/s, \
                 {readers} readers ({reading}, {pace}), {rounds}\n"
            );
            let (puts, reads) = long_reads::run(settings, &plan.long_reads)?;
            print!("{}\n{}", puts.markdown(), reads.markdown());
        }
        "million" => {
            let Million { keys, rewrites } = plan.million;
            let settings = Settings { rounds: plan.million_rounds, ..settings.clone() };
            println!(
                "\n### {keys} objects of 0.3-8 KiB, {rewrites} rewrites, {} rounds\n",
                settings.rounds
            );
            print!("{}", million::run(&settings, &plan.million)?.markdown());
        }
        "leases" => {
            let Leases { held, revoked, .. } = plan.leases;
            println!("\n### {held} leases held, {revoked} of them revoked\n");
            let settings = Settings { rounds: plan.million_rounds, ..settings.clone() };
            print!("{}", leases::hold(&settings, &plan.leases)?.markdown());
        }
        "storm" => {
            let Leases { storm, storm_ttl_s, .. } = plan.leases;
            println!("\n### {storm} leases of {storm_ttl_s} s end, puts beside them\n");
            let settings = Settings { rounds: plan.million_rounds, ..settings.clone() };
            let (puts, late) = leases::storm(&settings, &plan.leases)?;
            print!("{}\n{}", puts.markdown(), late.markdown());
        }
        "auth" => {
            println!("\n### authentication off and on, {} clients, {rounds}\n", plan.auth.clients);
            print!("{}", auth::run(settings, &plan.auth)?.markdown());
        }
        "watch" => {
            let Watch { watchers, rate, .. } = plan.watch;
            println!("\n### {watchers} watchers of all keys, {rate} puts/s, {rounds}\n");
            print!("{}", watch::run(settings, &plan.watch)?.markdown());
        }
        "join" => {
            let Join { keys, value_sizes, rate } = plan.join;
            println!(
                "\n### a member joins {keys} keys of {value_sizes}, {rate} puts/s beside it\n"
            );
            let settings = Settings { rounds: plan.million_rounds, ..settings.clone() };
            let (puts, transfers) = join::run(&settings, &plan.join)?;
            print!("{}\n{}", puts.markdown(), transfers.markdown());
        }
        "behind" => {
            let Behind { entries, value_sizes } = plan.behind;
            println!("\n### {entries} puts of {value_sizes} while a member is down\n");
            let settings = Settings { rounds: plan.million_rounds, ..settings.clone() };
            print!("{}", behind::run(&settings, &plan.behind)?.markdown());
        }
        _ => unreachable!("scenarios were checked: {scenario}"),
    }
    Ok(())
}
