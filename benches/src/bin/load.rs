//! Load on any etcd endpoint: throughput, latencies, and what it cost the server.
//!
//! ```text
//! load OPERATION [--endpoints 127.0.0.1:2379] [--clients 1] [--connections 1] [--threads 1]
//!      [--rate CALLS_PER_SECOND] [--total CALLS | --seconds 5] [--key-space 10000]
//!      [--order random|sequential] [--value-bytes 256|log-normal] [--pid SERVER_PID,...] [--seed 1]
//!
//! OPERATION: put, get, get-serializable, txn, range-all, range-pages, range-stream, count,
//!            or watch (with --watchers 100: they watch what --clients put)
//! ```
//!
//! With `--rate` the loop is open: latencies count from when a call was due.

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use varve_benches::arguments::Arguments;
use varve_benches::load::{self, Limit, Operation, Report, Spec};
use varve_benches::scenario::{HEADS, cells};
use varve_benches::table::Table;
use varve_benches::workload::{Order, ValueSizes, Workload};

/// A mistake on the command line.
const EXIT_USAGE: u8 = 2;
/// Responses of more bytes than this are worth a line of their own.
const BULK_BYTES: u64 = 64 << 10;

fn main() -> ExitCode {
    let (spec, watchers) = match parse() {
        Ok(parsed) => parsed,
        Err(message) => {
            eprintln!("load: {message}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let result = match watchers {
        None => load::run(&spec).map(|report| print(&[("calls", &report)])),
        Some(watchers) => load::watch(&spec, watchers, false)
            .map(|report| print(&[("puts", &report.puts), ("events", &report.events)])),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What to do, and the number of watchers if there are to be any.
fn parse() -> Result<(Spec, Option<usize>), String> {
    let mut arguments = Arguments::of_process()?;
    let [operation] = arguments.words() else {
        return Err("expected one operation in front of the options".to_owned());
    };
    let operation = operation.clone();
    let watchers = match operation.as_str() {
        "watch" => Some(arguments.value("watchers", 100)?),
        _ => None,
    };
    let operation =
        if watchers.is_some() { Operation::Put } else { operation.parse::<Operation>()? };
    let clients: usize = arguments.value("clients", 1)?;
    let total = arguments.optional("total")?;
    let seconds: f64 = arguments.value("seconds", 5.0)?;
    let rate: Option<f64> = arguments.optional("rate")?;
    if let Some(rate) = rate.filter(|rate| rate.is_nan() || *rate <= 0.0) {
        return Err(format!("--rate {rate}: expected more than 0"));
    }
    let workload = Workload::new(
        arguments.value("key-space", 10_000)?,
        arguments.value("order", Order::Random)?,
        arguments.value("value-bytes", ValueSizes::Fixed(256))?,
        arguments.value("seed", 1)?,
    );
    let endpoints: Vec<String> = arguments.list("endpoints", vec!["127.0.0.1:2379".to_owned()])?;
    let spec = Spec {
        endpoints: endpoints.iter().map(|text| resolve(text)).collect::<Result<_, _>>()?,
        operation,
        clients: clients.max(1),
        connections: arguments.value("connections", 1)?,
        threads: arguments.value("threads", 1)?,
        rate,
        limit: match total {
            Some(calls) => Limit::Calls(calls),
            None => Limit::Time(
                Duration::try_from_secs_f64(seconds)
                    .map_err(|error| format!("--seconds: {error}"))?,
            ),
        },
        workload: Arc::new(workload),
        token: None,
        server_pids: arguments.list("pid", Vec::new())?,
    };
    arguments.finish()?;
    Ok((spec, watchers))
}

/// An endpoint as etcdctl takes it: `host:port`, also with `http://` in front.
fn resolve(endpoint: &str) -> Result<SocketAddr, String> {
    let address = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    let found = address.to_socket_addrs().map_err(|error| format!("{endpoint}: {error}"))?;
    let mut found: Vec<SocketAddr> = found.collect();
    found.sort_by_key(|address| address.is_ipv6());
    found.first().copied().ok_or_else(|| format!("{endpoint}: no address"))
}

/// Prints a line for each report; whether all calls were answered.
fn print(reports: &[(&str, &Report)]) -> bool {
    let heads: Vec<&str> = ["", "number"].into_iter().chain(HEADS).collect();
    let mut table = Table::new(&heads);
    let mut is_good = true;
    for (label, report) in reports {
        let count = report.calls().to_string();
        let mut row = [*label, &count].map(varve_benches::table::Cell::text).to_vec();
        row.extend(cells(report));
        table.row(row);
        if report.failed > 0 {
            is_good = false;
            let first = report.first_error.as_deref().unwrap_or("they did not arrive");
            eprintln!("load: {} {label} failed, the first: {first}", report.failed);
        }
    }
    print!("{}", table.markdown());
    let is_bulk = |report: &Report| report.response_bytes > report.calls() * BULK_BYTES;
    for (label, report) in reports.iter().filter(|(_, report)| is_bulk(report)) {
        let mebibytes = report.response_bytes as f64 / f64::from(1 << 20);
        let per_second = mebibytes / report.elapsed.as_secs_f64().max(1e-9);
        println!("responses of {label}: {mebibytes:.1} MiB, {per_second:.1} MiB/s");
    }
    is_good
}
