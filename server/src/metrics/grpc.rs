//! The metrics of gRPC calls, summed over socket threads and written as text directly.
//!
//! One idea: 52 methods times 17 codes would be a thousand counter objects with four label strings
//! each; here they are arrays of integers, and labels exist only while a scrape is written.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use varve_api::error::CODES;
use varve_api::method::{METHODS, Method};

use super::Detail;
use crate::grpc::GrpcCounters;
use crate::grpc::counters::{HANDLING_BUCKETS_SECONDS, MethodCounters};

/// Appends all families of gRPC.
pub(super) fn render(out: &mut String, sockets: &[Arc<GrpcCounters>], detail: Detail) {
    // The only error of writing to a String would be one of a Display of ours; there is none.
    write_all(out, sockets, detail).expect("writing to a String cannot fail");
}

fn write_all(out: &mut String, sockets: &[Arc<GrpcCounters>], detail: Detail) -> std::fmt::Result {
    let total = |pick: fn(&GrpcCounters) -> &AtomicU64| -> u64 {
        sockets.iter().map(|counters| pick(counters).load(Ordering::Relaxed)).sum()
    };
    let name = "etcd_network_client_grpc_received_bytes_total";
    head(out, name, "Bytes received from gRPC clients.", "counter")?;
    writeln!(out, "{name} {}", total(|counters| &counters.received_bytes))?;
    let name = "etcd_network_client_grpc_sent_bytes_total";
    head(out, name, "Bytes sent to gRPC clients.", "counter")?;
    writeln!(out, "{name} {}", total(|counters| &counters.sent_bytes))?;
    for (name, help, pick) in PER_METHOD {
        head(out, name, help, "counter")?;
        for method in METHODS {
            writeln!(out, "{name}{{{}}} {}", Labels(method), sum(sockets, method, *pick))?;
        }
    }
    write_handled(out, sockets)?;
    if detail == Detail::Extensive {
        write_handling_seconds(out, sockets)?;
    }
    Ok(())
}

type Pick = fn(&MethodCounters) -> &AtomicU64;

const PER_METHOD: &[(&str, &str, Pick)] = &[
    ("grpc_server_started_total", "Calls that began.", |counters| &counters.started),
    ("grpc_server_msg_received_total", "Messages received.", |counters| {
        &counters.messages_received
    }),
    ("grpc_server_msg_sent_total", "Messages sent.", |counters| &counters.messages_sent),
];

fn write_handled(out: &mut String, sockets: &[Arc<GrpcCounters>]) -> std::fmt::Result {
    let name = "grpc_server_handled_total";
    head(out, name, "Calls that ended, by status code.", "counter")?;
    for method in METHODS {
        for code in CODES {
            let count: u64 = sockets
                .iter()
                .map(|counters| &counters.method(method).handled[usize::from(code.number())])
                .map(|counter| counter.load(Ordering::Relaxed))
                .sum();
            let code = code.name();
            writeln!(out, "{name}{{grpc_code=\"{code}\",{}}} {count}", Labels(method))?;
        }
    }
    Ok(())
}

fn write_handling_seconds(out: &mut String, sockets: &[Arc<GrpcCounters>]) -> std::fmt::Result {
    let name = "grpc_server_handling_seconds";
    head(out, name, "Time from the beginning to the end of calls.", "histogram")?;
    for method in METHODS {
        let labels = Labels(method);
        let mut cumulated = 0;
        for (position, bound) in HANDLING_BUCKETS_SECONDS.iter().enumerate() {
            cumulated += sockets
                .iter()
                .map(|counters| &counters.method(method).handling_buckets[position])
                .map(|counter| counter.load(Ordering::Relaxed))
                .sum::<u64>();
            writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {cumulated}")?;
        }
        cumulated += sum(sockets, method, |counters| {
            &counters.handling_buckets[HANDLING_BUCKETS_SECONDS.len()]
        });
        let nanos = sum(sockets, method, |counters| &counters.handling_nanos);
        writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {cumulated}")?;
        writeln!(out, "{name}_sum{{{labels}}} {}", nanos as f64 / 1e9)?;
        writeln!(out, "{name}_count{{{labels}}} {cumulated}")?;
    }
    Ok(())
}

fn sum(sockets: &[Arc<GrpcCounters>], method: &Method, pick: Pick) -> u64 {
    sockets.iter().map(|counters| pick(counters.method(method)).load(Ordering::Relaxed)).sum()
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// The labels that identify a method, in alphabetical order as Prometheus clients write them.
struct Labels<'a>(&'a Method);

impl std::fmt::Display for Labels<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Method { name, service, kind, .. } = self.0;
        let kind = kind.metric_label();
        write!(formatter, "grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_summed_over_socket_threads() {
        let method = &METHODS[0];
        let sockets = [Arc::<GrpcCounters>::default(), Arc::default()];
        for (position, counters) in sockets.iter().enumerate() {
            counters.method(method).started.fetch_add(position as u64 + 1, Ordering::Relaxed);
        }
        let mut text = String::new();
        render(&mut text, &sockets, Detail::Extensive);
        let line = format!("grpc_server_started_total{{{}}} 3", Labels(method));
        assert!(text.lines().any(|found| found == line), "{line}");
    }
}
