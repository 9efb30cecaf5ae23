//! Watchers of all keys beside a writer, without and with the values that were there before.
//!
//! One idea: a put's value begins with the time at which it was due, so each event tells how old it
//! is when it arrives; events are what is counted.

use super::{HEADS, Settings, cells, checked, fill, say, sum};
use crate::load::{self, Operation, Report};
use crate::server::{Error, Program, Server};
use crate::table::{Cell, Table};
use crate::workload::{Order, ValueSizes};

/// How much is watched.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Watchers, each of all keys.
    pub watchers: usize,
    /// Puts a second.
    pub rate: f64,
    /// Different keys.
    pub keys: u64,
}

/// Measures and makes the table, whose calls are events.
///
/// # Errors
/// A server does not serve, a call failed, or events did not arrive.
pub fn run(settings: &Settings, scenario: &Watch) -> Result<Table, Error> {
    let measured =
        settings.interleave(|program, server| measure(settings, scenario, program, server))?;
    let heads: Vec<&str> = ["previous values", "server"].into_iter().chain(HEADS).collect();
    let mut table = Table::new(&heads);
    for (of, previous) in ["without", "with"].into_iter().enumerate() {
        for (program, rounds) in settings.programs().iter().zip(&measured) {
            let total = sum(rounds.iter().map(|round| &round[of]));
            let mut row = [previous, program.label.as_str()].map(Cell::text).to_vec();
            row.extend(cells(&total));
            table.row(row);
        }
        if settings.peer.is_some() {
            table.ratio("ratio", 1, 1, 0);
        }
    }
    Ok(table)
}

fn measure(
    settings: &Settings,
    scenario: &Watch,
    program: &Program,
    server: &mut Server,
) -> Result<[Report; 2], Error> {
    let workload = settings.workload(scenario.keys, Order::Random, ValueSizes::Fixed(256));
    fill(settings, server, &workload)?;
    let mut spec = settings.spec(server, Operation::Put, 10, &workload);
    spec.rate = Some(scenario.rate);
    let watch = |has_previous: bool| {
        let report = load::watch(&spec, scenario.watchers, has_previous)?;
        checked(report.puts)?;
        let events = checked(report.events)?;
        say(&format!("{}: events, previous {has_previous}", program.label), &events);
        Ok::<_, Error>(events)
    };
    Ok([watch(false)?, watch(true)?])
}
