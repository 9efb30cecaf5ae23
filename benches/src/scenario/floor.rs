//! The floor of a put by one client: a sync of the disk and a call that does nothing.
//!
//! One idea: a put cannot be faster than writing a block durably plus one round trip, so the
//! distance to their sum says what a server adds. The sync is measured where the servers have their
//! data, in the way that costs least: a block of a file whose blocks are written already.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use super::{Settings, checked, sum};
use crate::latency::Latencies;
use crate::load::{self, Limit, Operation, Report};
use crate::server::{Error, Server};
use crate::table::{Cell, Table};
use crate::workload::{Order, ValueSizes};

/// The block that is written and synced.
const BLOCK_BYTES: usize = 4096;
/// Blocks of the file.
const BLOCKS: u64 = 4096;
/// Values of the puts.
const VALUE_BYTES: usize = 256;

/// Measures and makes the table.
///
/// # Errors
/// A server does not serve, or the disk fails.
pub fn run(settings: &Settings) -> Result<Table, Error> {
    let workload = settings.workload(10_000, Order::Random, ValueSizes::Fixed(VALUE_BYTES));
    let mut syncs = Latencies::default();
    let measured = settings.interleave(|_, server| {
        add_syncs(settings, &mut syncs)?;
        let get = Operation::Get { is_serializable: true };
        let one = |operation, server: &Server| -> Result<Report, Error> {
            let mut spec = settings.spec(server, operation, 1, &workload);
            spec.limit = Limit::Time(settings.time);
            checked(load::run(&spec)?)
        };
        // Nothing was put yet: the server only parses and answers.
        let empty = one(get, server)?;
        Ok((empty, one(Operation::Put, server)?))
    })?;
    let mut table =
        Table::new(&["server", "", "sync p50 us", "empty get p50 us", "put p50 us", "put / floor"]);
    for (program, rounds) in settings.programs().iter().zip(&measured) {
        let empty = sum(rounds.iter().map(|(empty, _)| empty)).latencies.quantile(0.5);
        let put = sum(rounds.iter().map(|(_, put)| put)).latencies.quantile(0.5);
        let sync = syncs.quantile(0.5);
        let floor = (sync + empty).as_secs_f64().max(1e-9);
        table.row(vec![
            Cell::text(&program.label),
            Cell::text("1 client"),
            Cell::micros(sync),
            Cell::micros(empty),
            Cell::micros(put),
            Cell::Number(put.as_secs_f64() / floor, "x", 2),
        ]);
    }
    if settings.peer.is_some() {
        table.ratio("ratio", 0, 1, 0);
    }
    Ok(table)
}

/// Writes and syncs block after block for as long as a measurement takes.
fn add_syncs(settings: &Settings, syncs: &mut Latencies) -> Result<(), Error> {
    let path = settings.directory.join(format!("floor-{}", std::process::id()));
    let result = sync_blocks(settings, &path, syncs);
    // It may not have been made.
    let _ = std::fs::remove_file(&path);
    result.map_err(|source| Error::System { what: path.display().to_string(), source })
}

fn sync_blocks(
    settings: &Settings,
    path: &Path,
    syncs: &mut Latencies,
) -> Result<(), std::io::Error> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let block = [7; BLOCK_BYTES];
    for at in 0..BLOCKS {
        file.write_all_at(&block, at * BLOCK_BYTES as u64)?;
    }
    file.sync_all()?;
    let start = Instant::now();
    for at in (0..BLOCKS).cycle() {
        if start.elapsed() >= settings.time {
            break;
        }
        let begun = Instant::now();
        file.write_all_at(&block, at * BLOCK_BYTES as u64)?;
        file.sync_data()?;
        syncs.record(begun.elapsed());
    }
    Ok(())
}
