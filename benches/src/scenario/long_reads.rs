//! Puts at a fixed rate, without and with clients that read the whole database in a loop.
//!
//! One idea: what hurts users is not how long a read takes but what it does to writes. The rate is
//! fixed and the loop open, so a server that stalls is charged for all puts that were due.
//!
//! The client's CPU time beside readers includes that of the readers, which run in its process.

use std::sync::Arc;
use std::time::Duration;

use super::{HEADS, Settings, cells, checked, fill, say, sum};
use crate::load::{self, Limit, Operation, Reading, Report, Spec};
use crate::server::{Error, Program, Server};
use crate::table::{Cell, Table};
use crate::workload::{Order, ValueSizes, Workload};

/// Calls in flight at most: enough for a stall of half a second at the default rate.
const WRITERS: usize = 1000;
/// How long readers run before the puts are measured.
const READERS_AHEAD: Duration = Duration::from_secs(1);

/// What is read and written.
#[derive(Clone, Debug)]
pub struct LongReads {
    /// Keys in the database.
    pub keys: u64,
    /// Bytes of their values.
    pub value_bytes: usize,
    /// Puts that are due each second.
    pub rate: f64,
    /// Clients that read everything in a loop.
    pub readers: usize,
    /// Reads of all of them that are due each second; without it each reads again at once, so that
    /// a faster server is read more often.
    pub read_rate: Option<f64>,
    /// How they read.
    pub reading: Reading,
}

/// What one server did in one round.
struct Measured {
    alone: Report,
    beside_readers: Report,
    reads: Report,
}

/// Measures and makes the tables: of the puts, and of the reads.
///
/// # Errors
/// A server does not serve, or a call failed.
pub fn run(settings: &Settings, scenario: &LongReads) -> Result<(Table, Table), Error> {
    let measured =
        settings.interleave(|program, server| measure(settings, scenario, program, server))?;
    let heads: Vec<&str> = ["server", "readers"].into_iter().chain(HEADS).collect();
    let mut puts = Table::new(&heads);
    let mut reads =
        Table::new(&["server", "", "whole reads/s", "MiB/s", "read p50 ms", "read max ms"]);
    for (program, rounds) in settings.programs().iter().zip(&measured) {
        let mut row = |readers: usize, report: &Report| {
            let mut row = vec![Cell::text(&program.label), Cell::text(readers.to_string())];
            row.extend(cells(report));
            puts.row(row);
        };
        row(0, &sum(rounds.iter().map(|round| &round.alone)));
        row(scenario.readers, &sum(rounds.iter().map(|round| &round.beside_readers)));
        puts.ratio("with / without", 1, 0, 1);
        let all = sum(rounds.iter().map(|round| &round.reads));
        let bytes_per_second = all.response_bytes as f64 / all.elapsed.as_secs_f64().max(1e-9);
        reads.row(vec![
            Cell::text(&program.label),
            Cell::text(format!("{} readers", scenario.readers)),
            Cell::Number(all.calls_per_second(), "", 2),
            Cell::mebibytes(bytes_per_second as u64),
            Cell::millis(all.latencies.quantile(0.5)),
            Cell::millis(all.latencies.longest()),
        ]);
    }
    if settings.peer.is_some() {
        // The rows beside readers: of the first server and of the second.
        puts.ratio("varve / etcd", 0, 4, 1);
        reads.ratio("ratio", 0, 1, 0);
    }
    Ok((puts, reads))
}

fn measure(
    settings: &Settings,
    scenario: &LongReads,
    program: &Program,
    server: &mut Server,
) -> Result<Measured, Error> {
    let sizes = ValueSizes::Fixed(scenario.value_bytes);
    let workload = settings.workload(scenario.keys, Order::Random, sizes);
    fill(settings, server, &workload)?;
    let mut puts = settings.spec(server, Operation::Put, WRITERS, &workload);
    puts.connections = 10;
    puts.rate = Some(scenario.rate);
    let alone = checked(load::run(&puts)?)?;
    say(&format!("{} without readers", program.label), &alone);
    let (beside_readers, reads) = beside(settings, scenario, server, &puts, &workload)?;
    say(&format!("{} with readers", program.label), &beside_readers);
    say(&format!("{} reading", program.label), &reads);
    Ok(Measured { alone, beside_readers, reads })
}

/// Runs the puts while readers read, each on a connection and a thread of its own.
fn beside(
    settings: &Settings,
    scenario: &LongReads,
    server: &Server,
    puts: &Spec,
    workload: &Arc<Workload>,
) -> Result<(Report, Report), Error> {
    let operation = Operation::RangeAll(scenario.reading);
    let mut reads = settings.spec(server, operation, scenario.readers, workload);
    reads.connections = scenario.readers;
    reads.threads = scenario.readers;
    reads.rate = scenario.read_rate;
    reads.limit = Limit::Time(READERS_AHEAD + settings.time);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| load::run(&reads));
        std::thread::sleep(READERS_AHEAD);
        let written = load::run(puts);
        let read = reader.join().expect("a reader does not panic");
        Ok((checked(written?)?, checked(read?)?))
    })
}
