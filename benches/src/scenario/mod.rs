//! What is compared: each scenario starts both servers in turn and makes a table.
//!
//! One idea: rounds are interleaved (varve, etcd, varve, etcd), each on fresh data, so that what
//! the machine does meanwhile hits both. A figure is of all rounds together; the figures of single
//! rounds go to standard error, where their spread is seen.

pub mod auth;
pub mod behind;
pub mod calls;
pub mod floor;
pub mod join;
pub mod leases;
pub mod long_reads;
pub mod million;
pub mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use varve_api::etcdserverpb::{CompactionRequest, CompactionResponse, PutRequest, PutResponse};
use varve_api::method::{KV_COMPACT, KV_PUT};

use crate::grpc::{self, Connection};
use crate::load::{self, Limit, Operation, Report, Spec};
use crate::server::{Error, Program, Server};
use crate::table::{Cell, Table, maybe};
use crate::workload::{Order, ValueSizes, Workload};

/// What all scenarios need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server that is measured.
    pub varve: Program,
    /// The server it is measured against; without it tables have no ratios.
    pub peer: Option<Program>,
    /// Members of each cluster. Clients are spread over them.
    pub members: usize,
    /// Where data go: a directory of a disk.
    pub directory: PathBuf,
    /// How often each server is measured.
    pub rounds: usize,
    /// How long one measurement is.
    pub time: Duration,
    /// Threads of the load generator.
    pub threads: usize,
    /// Seed of keys and values.
    pub seed: u64,
}

impl Settings {
    /// The servers in the order in which they run.
    pub fn programs(&self) -> Vec<&Program> {
        std::iter::once(&self.varve).chain(&self.peer).collect()
    }

    /// Runs `measure` for each round and server, interleaved, each on fresh data; what it measured
    /// for each server, in the order of [`Settings::programs`].
    ///
    /// # Errors
    /// The first that `measure` or a start had.
    pub fn interleave<T>(
        &self,
        mut measure: impl FnMut(&Program, &mut Server) -> Result<T, Error>,
    ) -> Result<Vec<Vec<T>>, Error> {
        let programs = self.programs();
        let mut measured: Vec<Vec<T>> = programs.iter().map(|_| Vec::new()).collect();
        for round in 0..self.rounds {
            for (program, results) in programs.iter().zip(&mut measured) {
                eprintln!("round {} of {}: {}", round + 1, self.rounds, program.label);
                let mut server = Server::start(program, &self.directory, self.members)?;
                results.push(measure(program, &mut server)?);
                server.remove()?;
            }
        }
        Ok(measured)
    }

    /// A load on a server of so many clients, as long as this scenario measures.
    pub fn spec(
        &self,
        server: &Server,
        operation: Operation,
        clients: usize,
        workload: &Arc<Workload>,
    ) -> Spec {
        Spec {
            endpoints: server.addresses(),
            operation,
            clients,
            connections: connections_of(clients),
            threads: self.threads,
            rate: None,
            limit: Limit::Time(self.time),
            workload: Arc::clone(workload),
            server_pids: server.pids(),
            token: None,
        }
    }

    /// Keys and values of this run.
    pub fn workload(&self, keys: u64, order: Order, sizes: ValueSizes) -> Arc<Workload> {
        Arc::new(Workload::new(keys, order, sizes, self.seed))
    }
}

/// Connections for so many clients: ten clients share one, at most 100.
pub fn connections_of(clients: usize) -> usize {
    clients.div_ceil(10).clamp(1, 100)
}

/// Puts each key of a workload once, as fast as the server takes them.
///
/// # Errors
/// A put failed.
pub fn fill(
    settings: &Settings,
    server: &Server,
    workload: &Arc<Workload>,
) -> Result<Report, Error> {
    let sequential = workload.in_order(Order::Sequential);
    let mut spec = settings.spec(server, Operation::Put, 256, &sequential);
    spec.limit = Limit::Calls(workload.key_space);
    checked(load::run(&spec)?)
}

/// A report without failed calls.
///
/// # Errors
/// A call failed.
pub fn checked(report: Report) -> Result<Report, Error> {
    match report.first_error.clone() {
        Some(first) => Err(Error::Failed { failed: report.failed, first }),
        None => Ok(report),
    }
}

/// All rounds together.
pub fn sum<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Report {
    let mut total = Report::default();
    reports.into_iter().for_each(|report| total.add(report));
    total
}

/// A table with a column for each server, from the rows of each.
pub fn side_by_side(settings: &Settings, columns: Vec<Vec<(&str, Cell)>>) -> Table {
    let mut heads = vec!["what"];
    let programs = settings.programs();
    heads.extend(programs.iter().map(|program| program.label.as_str()));
    if settings.peer.is_some() {
        heads.push("ratio");
    }
    let mut table = Table::new(&heads);
    for (at, (what, _)) in columns[0].iter().enumerate() {
        let mut row = vec![Cell::text(*what)];
        row.extend(columns.iter().map(|column| column[at].1.clone()));
        if settings.peer.is_some() {
            row.push(row[1].ratio_to(&row[2]));
        }
        table.row(row);
    }
    table
}

/// Runs a few calls to their end.
///
/// # Errors
/// The first that one had.
pub fn block_on<T>(future: impl Future<Output = Result<T, grpc::Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::System { what: "runtime".to_owned(), source })?;
    Ok(runtime.block_on(future)?)
}

/// Heads of the columns of [`cells`].
pub const HEADS: [&str; 10] = [
    "calls/s",
    "mean us",
    "p50 us",
    "p90 us",
    "p99 us",
    "p99.9 us",
    "max us",
    "server CPU us/call",
    "client CPU us/call",
    "RSS MiB",
];

/// What a table says of a load.
pub fn cells(report: &Report) -> Vec<Cell> {
    let latencies = &report.latencies;
    vec![
        Cell::count(report.calls_per_second()),
        Cell::micros(latencies.mean()),
        Cell::micros(latencies.quantile(0.5)),
        Cell::micros(latencies.quantile(0.9)),
        Cell::micros(latencies.quantile(0.99)),
        Cell::micros(latencies.quantile(0.999)),
        Cell::micros(latencies.longest()),
        maybe(report.server_cpu_per_call(), Cell::micros),
        Cell::micros(report.client_cpu_per_call()),
        maybe(report.server, |figures| Cell::mebibytes(figures.resident_bytes)),
    ]
}

/// Compacts at the current revision; how long until the server said that it is done physically.
pub async fn compact(server: &Server) -> Result<Duration, grpc::Error> {
    let connection = Connection::open(server.addresses()[0]).await?;
    // A put tells the current revision. Its key is outside of what is counted.
    let put = PutRequest { key: "compact".into(), ..Default::default() };
    let put: PutResponse = connection.unary(&connection.target(&KV_PUT), &put).await?;
    let revision = put.header.map_or(0, |header| header.revision);
    let request = CompactionRequest { revision, physical: true };
    let begun = Instant::now();
    let target = connection.target(&KV_COMPACT);
    let _: CompactionResponse = connection.unary(&target, &request).await?;
    Ok(begun.elapsed())
}

/// One line for the eyes while a comparison runs.
pub fn say(what: &str, report: &Report) {
    let latencies = &report.latencies;
    eprintln!(
        "  {what}: {:.0}/s, p50 {:?}, p99 {:?}, max {:?}",
        report.calls_per_second(),
        latencies.quantile(0.5),
        latencies.quantile(0.99),
        latencies.longest()
    );
}
