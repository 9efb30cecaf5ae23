//! A million objects of Kubernetes: load, rewrite, restart, compact, count.
//!
//! One idea: one server goes through the life of a cluster, and each step is a column. A restart is
//! measured twice: after a clean stop and after a kill, both with the files in the page cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use varve_api::etcdserverpb::{RangeRequest, RangeResponse};
use varve_api::method::KV_RANGE;

use super::{Settings, block_on, checked, compact, fill, say, side_by_side, sum};
use crate::grpc::{Connection, Error as CallError};
use crate::load::{self, Limit, Operation, Report};
use crate::process::Figures;
use crate::server::{Error, Program, Server, StartTimes};
use crate::table::{Cell, Table, maybe};
use crate::workload::{Order, PREFIX, PREFIX_END, ValueSizes, Workload};

/// Counts in a row; the first may touch what no count has touched before.
const COUNTS: usize = 20;
/// How long a server may work in the background after a load before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);

/// How much there is.
#[derive(Clone, Debug)]
pub struct Million {
    /// Objects.
    pub keys: u64,
    /// Further puts of random keys, so that a compaction has something to drop.
    pub rewrites: u64,
}

/// What one server did in one round.
struct Measured {
    load: Report,
    after_load: Figures,
    disk_after_load: u64,
    after_stop: StartTimes,
    after_kill: StartTimes,
    after_restart: Figures,
    compaction: Duration,
    disk_after_compaction: u64,
    first_count: Duration,
    count: Duration,
    counted: u64,
}

/// Measures and makes the table.
///
/// # Errors
/// A server does not serve, a call failed, or a server lost a key.
pub fn run(settings: &Settings, scenario: &Million) -> Result<Table, Error> {
    let measured =
        settings.interleave(|program, server| measure(settings, scenario, program, server))?;
    let columns = measured.iter().map(|rounds| column(rounds)).collect();
    Ok(side_by_side(settings, columns))
}

/// The figures of one server: sums of the loads, means of the rest.
fn column(rounds: &[Measured]) -> Vec<(&'static str, Cell)> {
    let load = sum(rounds.iter().map(|round| &round.load));
    let mean =
        |of: fn(&Measured) -> f64| rounds.iter().map(of).sum::<f64>() / rounds.len().max(1) as f64;
    let seconds = |of| Cell::Number(mean(of), "", 3);
    let mebibytes = |of| Cell::mebibytes(mean(of) as u64);
    vec![
        ("load, puts/s", Cell::count(load.calls_per_second())),
        ("load, p99 ms", Cell::millis(load.latencies.quantile(0.99))),
        ("load, server CPU us/put", maybe(load.server_cpu_per_call(), Cell::micros)),
        ("load, bytes written, MiB", mebibytes(|round| round.after_load.written_bytes as f64)),
        ("RSS after load, MiB", mebibytes(|round| round.after_load.resident_bytes as f64)),
        ("of it without files, MiB", mebibytes(|round| round.after_load.anonymous_bytes as f64)),
        ("most RSS, MiB", mebibytes(|round| round.after_load.resident_bytes_max as f64)),
        ("disk after load, MiB", mebibytes(|round| round.disk_after_load as f64)),
        ("ready after SIGTERM, s", seconds(|round| round.after_stop.ready.as_secs_f64())),
        ("first get after SIGTERM, s", seconds(|round| round.after_stop.first_get.as_secs_f64())),
        ("ready after SIGKILL, s", seconds(|round| round.after_kill.ready.as_secs_f64())),
        ("first get after SIGKILL, s", seconds(|round| round.after_kill.first_get.as_secs_f64())),
        ("RSS after restart, MiB", mebibytes(|round| round.after_restart.resident_bytes as f64)),
        ("of it without files, MiB", mebibytes(|round| round.after_restart.anonymous_bytes as f64)),
        ("count all, first, ms", seconds_as_millis(mean(|r| r.first_count.as_secs_f64()))),
        ("count all, ms", seconds_as_millis(mean(|r| r.count.as_secs_f64()))),
        ("compaction, s", seconds(|round| round.compaction.as_secs_f64())),
        ("disk after compaction, MiB", mebibytes(|round| round.disk_after_compaction as f64)),
        ("keys counted", Cell::count(mean(|round| round.counted as f64))),
    ]
}

fn seconds_as_millis(seconds: f64) -> Cell {
    Cell::Number(seconds * 1e3, "", 3)
}

fn measure(
    settings: &Settings,
    scenario: &Million,
    program: &Program,
    server: &mut Server,
) -> Result<Measured, Error> {
    let workload = settings.workload(scenario.keys, Order::Random, ValueSizes::LogNormal);
    let load = load_all(settings, scenario, server, &workload)?;
    say(&format!("{} loaded", program.label), &load);
    std::thread::sleep(SETTLE);
    let (after_load, disk_after_load) = (server.figures()?, server.disk_bytes()?);
    server.terminate()?;
    let after_stop = server.restart()?;
    eprintln!("  {} after SIGTERM: {after_stop:?}", program.label);
    // So that there is something behind what the clean stop wrote.
    put_some(settings, server, &workload)?;
    server.kill();
    let after_kill = server.restart()?;
    eprintln!("  {} after SIGKILL: {after_kill:?}", program.label);
    std::thread::sleep(SETTLE);
    let after_restart = server.figures()?;
    let (first_count, count, counted) = block_on(count(server))?;
    if counted != scenario.keys {
        let first = format!("{counted} of {} keys are there", scenario.keys);
        return Err(Error::Failed { failed: scenario.keys.abs_diff(counted), first });
    }
    let compaction = block_on(compact(server))?;
    eprintln!("  {}: count {count:?}, compaction {compaction:?}", program.label);
    std::thread::sleep(SETTLE);
    let disk_after_compaction = server.disk_bytes()?;
    Ok(Measured {
        load,
        after_load,
        disk_after_load,
        after_stop,
        after_kill,
        after_restart,
        compaction,
        disk_after_compaction,
        first_count,
        count,
        counted,
    })
}

fn load_all(
    settings: &Settings,
    scenario: &Million,
    server: &Server,
    workload: &Arc<Workload>,
) -> Result<Report, Error> {
    let mut load = fill(settings, server, workload)?;
    let mut rewrite = settings.spec(server, Operation::Put, 256, workload);
    rewrite.limit = Limit::Calls(scenario.rewrites);
    load.add(&checked(load::run(&rewrite)?)?);
    Ok(load)
}

/// A few thousand puts of keys that are there already.
fn put_some(settings: &Settings, server: &Server, workload: &Arc<Workload>) -> Result<(), Error> {
    let mut spec = settings.spec(server, Operation::Put, 100, workload);
    spec.limit = Limit::Calls(5_000.min(workload.key_space));
    checked(load::run(&spec)?)?;
    Ok(())
}

/// The first count, the mean of the others, and the number of keys.
async fn count(server: &Server) -> Result<(Duration, Duration, u64), CallError> {
    let connection = Connection::open(server.addresses()[0]).await?;
    let target = connection.target(&KV_RANGE);
    let request = RangeRequest {
        key: Bytes::from_static(PREFIX.as_bytes()),
        range_end: Bytes::from_static(PREFIX_END.as_bytes()),
        count_only: true,
        ..Default::default()
    };
    let begun = Instant::now();
    let response: RangeResponse = connection.unary(&target, &request).await?;
    let first = begun.elapsed();
    let begun = Instant::now();
    for _ in 0..COUNTS {
        let _: RangeResponse = connection.unary(&target, &request).await?;
    }
    let mean = begun.elapsed() / COUNTS as u32;
    Ok((first, mean, u64::try_from(response.count).unwrap_or(0)))
}
