//! Many leases: what holding them costs, and what it feels like when a great many end at once.
//!
//! One idea: leases have the numbers of the calls that granted them, so a second load can revoke
//! them or hang keys on them. In the storm all keys hang on leases that end within seconds of each
//! other, while a writer goes on at a steady rate: its latencies tell what the ending costs others,
//! the count of the keys when it is over.

use std::time::{Duration, Instant};

use varve_api::etcdserverpb::{RangeRequest, RangeResponse};
use varve_api::method::KV_RANGE;

use super::{HEADS, Settings, block_on, cells, checked, say, side_by_side, sum};
use crate::grpc::{Connection, Error as CallError};
use crate::load::{self, Limit, Operation, Report, all_keys};
use crate::process::Figures;
use crate::server::{Error, Program, Server, StartTimes};
use crate::table::{Cell, Table, maybe};
use crate::workload::{Order, ValueSizes};

/// Grants and revocations in flight.
const CLIENTS: usize = 256;
/// Leases that are held do not end meanwhile.
const LONG_TTL_S: i64 = 36_000;
/// How long a server may work in the background before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);
/// Puts a second beside the storm; their keys hang on no lease and stand beside the others.
const STORM_RATE: f64 = 500.0;
/// How long one burst of those puts is.
const BURST: Duration = Duration::from_secs(1);
/// How long leases may take to end.
const STORM_MAX: Duration = Duration::from_secs(600);

/// How many there are.
#[derive(Clone, Debug)]
pub struct Leases {
    /// Leases that are held.
    pub held: u64,
    /// Of these, so many are revoked.
    pub revoked: u64,
    /// Leases that end at about the same time.
    pub storm: u64,
    /// After so many seconds.
    pub storm_ttl_s: i64,
}

struct Held {
    grant: Report,
    revoke: Report,
    before: Figures,
    after_grant: Figures,
    after_kill: StartTimes,
    after_restart: Figures,
}

/// Holds many leases, starts again with them, revokes some.
///
/// # Errors
/// A server does not serve, or a call failed.
pub fn hold(settings: &Settings, scenario: &Leases) -> Result<Table, Error> {
    let measured =
        settings.interleave(|program, server| held(settings, scenario, program, server))?;
    let columns = measured.iter().map(|rounds| column(rounds)).collect();
    Ok(side_by_side(settings, columns))
}

fn column(rounds: &[Held]) -> Vec<(&'static str, Cell)> {
    let grant = sum(rounds.iter().map(|round| &round.grant));
    let revoke = sum(rounds.iter().map(|round| &round.revoke));
    let mean = |of: fn(&Held) -> f64| rounds.iter().map(of).sum::<f64>() / rounds.len() as f64;
    let mebibytes = |of| Cell::mebibytes(mean(of) as u64);
    vec![
        ("grants/s", Cell::count(grant.calls_per_second())),
        ("grant, p99 ms", Cell::millis(grant.latencies.quantile(0.99))),
        ("server CPU us/grant", maybe(grant.server_cpu_per_call(), Cell::micros)),
        ("RSS before, MiB", mebibytes(|round| round.before.resident_bytes as f64)),
        ("RSS with them, MiB", mebibytes(|round| round.after_grant.resident_bytes as f64)),
        ("of it without files, MiB", mebibytes(|round| round.after_grant.anonymous_bytes as f64)),
        (
            "first get after SIGKILL, s",
            Cell::Number(mean(|round| round.after_kill.first_get.as_secs_f64()), "", 3),
        ),
        ("RSS after it, MiB", mebibytes(|round| round.after_restart.resident_bytes as f64)),
        ("of it without files, MiB", mebibytes(|round| round.after_restart.anonymous_bytes as f64)),
        ("revocations/s", Cell::count(revoke.calls_per_second())),
        ("server CPU us/revocation", maybe(revoke.server_cpu_per_call(), Cell::micros)),
    ]
}

fn held(
    settings: &Settings,
    scenario: &Leases,
    program: &Program,
    server: &mut Server,
) -> Result<Held, Error> {
    let before = server.figures()?;
    let operation = Operation::GrantLease { ttl_s: LONG_TTL_S };
    let grant = each(settings, server, operation, scenario.held)?;
    say(&format!("{} granted", program.label), &grant);
    std::thread::sleep(SETTLE);
    let after_grant = server.figures()?;
    server.kill();
    let after_kill = server.restart()?;
    eprintln!("  {} after SIGKILL: {after_kill:?}", program.label);
    std::thread::sleep(SETTLE);
    let after_restart = server.figures()?;
    let revoke = each(settings, server, Operation::RevokeLease, scenario.revoked)?;
    say(&format!("{} revoked", program.label), &revoke);
    Ok(Held { grant, revoke, before, after_grant, after_kill, after_restart })
}

struct Storm {
    quiet: Report,
    beside: Report,
    /// From the end of the last lease, by its time to live, until no key was left.
    late: Duration,
}

/// Lets many leases end at once beside a writer. The tables: of the puts, and how long it took.
///
/// # Errors
/// A server does not serve, a call failed, or keys outlive their leases for long.
pub fn storm(settings: &Settings, scenario: &Leases) -> Result<(Table, Table), Error> {
    let measured =
        settings.interleave(|program, server| end(settings, scenario, program, server))?;
    let heads: Vec<&str> = ["server", "leases"].into_iter().chain(HEADS).collect();
    let mut puts = Table::new(&heads);
    for (program, rounds) in settings.programs().iter().zip(&measured) {
        let mut row = |what: &str, report: &Report| {
            let mut row = vec![Cell::text(&program.label), Cell::text(what)];
            row.extend(cells(report));
            puts.row(row);
        };
        row("all live", &sum(rounds.iter().map(|round| &round.quiet)));
        row("ending", &sum(rounds.iter().map(|round| &round.beside)));
        puts.ratio("ending / live", 1, 0, 1);
    }
    let late = |rounds: &Vec<Storm>| {
        let seconds = rounds.iter().map(|round| round.late.as_secs_f64()).sum::<f64>();
        vec![(
            "last key gone after its lease, s",
            Cell::Number(seconds / rounds.len() as f64, "", 1),
        )]
    };
    Ok((puts, side_by_side(settings, measured.iter().map(late).collect())))
}

fn end(
    settings: &Settings,
    scenario: &Leases,
    program: &Program,
    server: &mut Server,
) -> Result<Storm, Error> {
    let ttl = Duration::from_secs(u64::try_from(scenario.storm_ttl_s).unwrap_or(0));
    let operation = Operation::GrantLease { ttl_s: scenario.storm_ttl_s };
    each(settings, server, operation, scenario.storm)?;
    let granted = Instant::now();
    each(settings, server, Operation::PutLeased, scenario.storm)?;
    let quiet = checked(load::run(&beside(settings, server))?)?;
    say(&format!("{} with all live", program.label), &quiet);
    let mut storm = Report::default();
    // The first that was granted ends first; what is measured begins when the last one does.
    std::thread::sleep(ttl.saturating_sub(granted.elapsed()));
    while granted.elapsed() < STORM_MAX {
        storm.add(&checked(load::run(&beside(settings, server))?)?);
        if block_on(count(server))? == 0 {
            say(&format!("{} with all ending", program.label), &storm);
            return Ok(Storm { quiet, beside: storm, late: granted.elapsed().saturating_sub(ttl) });
        }
    }
    let first = format!("{} keys outlive their leases", block_on(count(server))?);
    Err(Error::Failed { failed: 1, first })
}

/// One burst of puts of keys that are not counted.
fn beside(settings: &Settings, server: &Server) -> load::Spec {
    let workload = settings.workload(1, Order::Sequential, ValueSizes::Fixed(256));
    let mut spec = settings.spec(server, Operation::PutBeside, 10, &workload);
    spec.rate = Some(STORM_RATE);
    spec.limit = Limit::Time(BURST);
    spec
}

/// One call for each of the numbers below `calls`.
fn each(
    settings: &Settings,
    server: &Server,
    operation: Operation,
    calls: u64,
) -> Result<Report, Error> {
    let workload = settings.workload(calls.max(1), Order::Sequential, ValueSizes::Fixed(256));
    let mut spec = settings.spec(server, operation, CLIENTS, &workload);
    spec.limit = Limit::Calls(calls);
    checked(load::run(&spec)?)
}

/// Keys of leases that are there.
async fn count(server: &Server) -> Result<i64, CallError> {
    let connection = Connection::open(server.addresses()[0]).await?;
    let request = RangeRequest { count_only: true, ..all_keys() };
    let response: RangeResponse = connection.unary(&connection.target(&KV_RANGE), &request).await?;
    Ok(response.count)
}
