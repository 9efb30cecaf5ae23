//! Puts and gets by 1, 100 and 1,000 clients in a closed loop.
//!
//! One idea: each number of clients is measured on the same fresh server, after a short warm-up
//! that nobody counts. Keys are taken at random.

use std::time::Duration;

use super::{HEADS, Settings, cells, checked, fill, say, sum};
use crate::load::{self, Limit, Operation, Report};
use crate::server::{Error, Program, Server};
use crate::table::{Cell, Table};
use crate::workload::{Order, ValueSizes};

/// The part of the measured time that is spent warming up first.
const WARM_UP_SHARE: f64 = 0.2;

/// What is called and by how many.
#[derive(Clone, Debug)]
pub struct Calls {
    /// The kind of call.
    pub operation: Operation,
    /// Numbers of clients.
    pub clients: Vec<usize>,
    /// Different keys.
    pub keys: u64,
    /// How long values are.
    pub value_sizes: ValueSizes,
    /// Whether all keys are put before.
    pub is_filled: bool,
}

/// Measures and makes the table.
///
/// # Errors
/// A server does not serve, or a call failed.
pub fn run(settings: &Settings, calls: &Calls) -> Result<Table, Error> {
    let measured =
        settings.interleave(|program, server| measure(settings, calls, program, server))?;
    let heads: Vec<&str> = ["clients", "server"].into_iter().chain(HEADS).collect();
    let mut table = Table::new(&heads);
    for (at, clients) in calls.clients.iter().enumerate() {
        for (program, rounds) in settings.programs().iter().zip(&measured) {
            let total = sum(rounds.iter().map(|reports| &reports[at]));
            let mut row = vec![Cell::text(clients.to_string()), Cell::text(&program.label)];
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
    calls: &Calls,
    program: &Program,
    server: &mut Server,
) -> Result<Vec<Report>, Error> {
    let workload = settings.workload(calls.keys, Order::Random, calls.value_sizes);
    if calls.is_filled {
        fill(settings, server, &workload)?;
    }
    let mut reports = Vec::new();
    for clients in &calls.clients {
        let mut spec = settings.spec(server, calls.operation, *clients, &workload);
        let time: Duration = settings.time.mul_f64(WARM_UP_SHARE);
        spec.limit = Limit::Time(time);
        checked(load::run(&spec)?)?;
        spec.limit = Limit::Time(settings.time);
        let report = checked(load::run(&spec)?)?;
        say(&format!("{} with {clients} clients", program.label), &report);
        reports.push(report);
    }
    Ok(reports)
}
