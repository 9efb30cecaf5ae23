//! What a follower that is down costs the others in memory, while clients write large values.
//!
//! One idea: the figures are of the members that stay, before the first put and after the last, and the
//! most that they ever had; what they must keep for the one that is down grows with every put, and
//! their memory must not. History is compacted now and then, as everywhere, so that the disk suffices.
//! Then it comes back. A member that applies more slowly than it is written to refuses requests; these
//! are told, and no failure.

use std::time::Duration;

use super::{Settings, block_on, compact, say, side_by_side};
use crate::load::{self, Limit, Operation, Report};
use crate::process::Figures;
use crate::server::{Error, Program, Server};
use crate::table::Cell;
use crate::table::Table;
use crate::workload::{Order, ValueSizes};

/// Puts in flight.
const WRITERS: usize = 16;
/// Different keys: nearly every put replaces a value.
const KEYS: u64 = 64;

/// More history than a member that was away for a moment lacks, less than fills a disk.
const PUTS_BETWEEN_COMPACTIONS: u64 = 2_000;

/// What is written meanwhile.
#[derive(Clone, Debug)]
pub struct Behind {
    /// Puts while a member is down.
    pub entries: u64,
    /// How long their values are.
    pub value_sizes: ValueSizes,
}

struct Measured {
    puts: Report,
    before: Figures,
    after: Figures,
    anonymous_bytes_max: u64,
    back: Duration,
    after_return: Figures,
}

/// Measures and makes the table.
///
/// # Errors
/// A server does not serve, or a call failed.
///
/// # Panics
/// If clusters have one member.
pub fn run(settings: &Settings, scenario: &Behind) -> Result<Table, Error> {
    let measured =
        settings.interleave(|program, server| measure(settings, scenario, program, server))?;
    let columns = measured.iter().filter_map(|rounds| Some(column(rounds.last()?))).collect();
    Ok(side_by_side(settings, columns))
}

fn column(measured: &Measured) -> Vec<(&'static str, Cell)> {
    let Measured { puts, before, after, anonymous_bytes_max, back, after_return } = measured;
    let mebibytes = |bytes: u64| Cell::mebibytes(bytes);
    vec![
        ("puts/s", Cell::count(puts.calls_per_second())),
        ("puts refused, too many requests", Cell::count(puts.failed as f64)),
        ("memory without files before, MiB", mebibytes(before.anonymous_bytes)),
        ("memory without files after, MiB", mebibytes(after.anonymous_bytes)),
        ("most of it between compactions, MiB", mebibytes(*anonymous_bytes_max)),
        ("most memory, files included, MiB", mebibytes(after.resident_bytes_max)),
        ("until it was back, s", Cell::Number(back.as_secs_f64(), "", 1)),
        ("memory without files then, MiB", mebibytes(after_return.anonymous_bytes)),
    ]
}

fn measure(
    settings: &Settings,
    scenario: &Behind,
    program: &Program,
    server: &mut Server,
) -> Result<Measured, Error> {
    let mut away = server.split_off();
    away.terminate()?;
    let workload = settings.workload(KEYS, Order::Random, scenario.value_sizes);
    let mut spec = settings.spec(server, Operation::Put, WRITERS, &workload);
    let before = server.figures()?;
    let (mut puts, mut after, mut anonymous_bytes_max) = (Report::default(), before, 0);
    for done in (0..scenario.entries).step_by(PUTS_BETWEEN_COMPACTIONS as usize) {
        spec.limit = Limit::Calls(PUTS_BETWEEN_COMPACTIONS.min(scenario.entries - done));
        puts.add(&load::run(&spec)?);
        after = server.figures()?;
        anonymous_bytes_max = after.anonymous_bytes.max(anonymous_bytes_max);
        block_on(compact(server))?;
    }
    say(&format!("{}: puts without a member", program.label), &puts);
    away.spawn()?;
    let back = away.wait()?.first_get;
    let after_return = server.figures()?;
    eprintln!("  {}: {before:?}, {after:?}, back in {back:?}", program.label);
    Ok(Measured { puts, before, after, anonymous_bytes_max, back, after_return })
}
