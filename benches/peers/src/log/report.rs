//! What a run of the logs found: tables, goals, JSON and a plot.

use serde_json::{Value, json};
use varve_benches::table::{Cell, Table};

use super::measure::{Load, Measured};
use crate::plot::{Bar, Group, bars, short};

/// One row: a contestant under one load.
pub struct Row {
    /// Bytes of a record.
    pub record_bytes: usize,
    /// Who appended.
    pub load: Load,
    /// The contestant.
    pub name: String,
    /// What came of it.
    pub measured: Measured,
}

impl Row {
    /// Records a second.
    pub fn rate(&self) -> f64 {
        self.measured.records as f64 / self.measured.used.elapsed.as_secs_f64()
    }

    /// CPU time of a record, microseconds.
    pub fn cpu_micros(&self) -> f64 {
        self.measured.used.cpu.as_secs_f64() * 1e6 / self.measured.records.max(1) as f64
    }

    fn micros(&self, share: f64) -> f64 {
        self.measured.latencies.quantile(share).as_secs_f64() * 1e6
    }

    /// So many bytes were written for a byte that was appended.
    fn amplification(&self, bytes: u64) -> f64 {
        bytes as f64 / (self.measured.records.max(1) * self.record_bytes as u64) as f64
    }

    fn is_ours(&self) -> bool {
        self.name.starts_with("varve-")
    }

    fn json(&self) -> Value {
        let used = &self.measured.used;
        json!({
            "record_bytes": self.record_bytes,
            "load": self.load.to_string(),
            "contestant": self.name,
            "records": self.measured.records,
            "records_per_second": self.rate(),
            "p50_us": self.micros(0.5),
            "p99_us": self.micros(0.99),
            "p999_us": self.micros(0.999),
            "cpu_us_per_record": self.cpu_micros(),
            "charged_bytes_per_byte": self.amplification(used.charged_bytes),
            "device_bytes_per_byte": used.device_bytes.map(|bytes| self.amplification(bytes)),
        })
    }
}

/// All rows of a run, those of one size and load one after another.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds one.
    pub fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    fn groups(&self) -> impl Iterator<Item = &[Row]> {
        self.rows
            .chunk_by(|one, other| one.record_bytes == other.record_bytes && one.load == other.load)
    }

    /// The table of the rows that were added last.
    pub fn last_table(&self) -> String {
        self.groups().last().map_or_else(String::new, table)
    }

    /// What was to be reached, and what was.
    pub fn goals(&self) -> String {
        let heads = ["goal", "record", "load", "contestant", "found", "the floor's", ""];
        let mut table = Table::new(&heads);
        for group in self.groups() {
            let (Some(best), Some(floor)) = (best_of_ours(group), named(group, "floor")) else {
                continue;
            };
            let mut goal = |what: &str, found: f64, floors: Cell, is_reached: bool| {
                table.row(vec![
                    Cell::text(what),
                    Cell::text(format!("{} B", best.record_bytes)),
                    Cell::text(best.load.to_string()),
                    Cell::text(&best.name),
                    Cell::Number(found, "", 2),
                    floors,
                    Cell::text(if is_reached { "reached" } else { "not reached" }),
                ]);
            };
            let spread = |row: &Row| row.micros(0.99) / row.micros(0.5);
            let floors = Cell::Number(spread(floor), "", 2);
            goal("p99 at most 2 x p50", spread(best), floors, spread(best) <= 2.0);
            match best.load {
                Load::Appenders(1) => {
                    let ratio = best.micros(0.5) / floor.micros(0.5);
                    goal("p50 at most 1.1 x the floor's", ratio, Cell::None, ratio <= 1.1);
                }
                Load::Batch(_) => {
                    let (cpu, floors) = (best.cpu_micros(), floor.cpu_micros());
                    let floors = Cell::Number(floors, "", 2);
                    goal("at most 1 us of CPU a record", cpu, floors, cpu <= 1.0);
                }
                Load::Appenders(_) => {}
            }
            if best.load != Load::Appenders(64) {
                continue;
            }
            // With the queue that it brings, and helped by the one that our log has here.
            for (peer, what) in [
                ("raft-engine", "at least 2 x raft-engine's records/s"),
                ("raft-engine-queue", "the same, of raft-engine behind our queue"),
            ] {
                let Some(peer) = named(group, peer).map(Row::rate) else { continue };
                let floors = Cell::Number(floor.rate() / peer, "", 2);
                goal(what, best.rate() / peer, floors, best.rate() >= 2.0 * peer);
            }
        }
        table.markdown()
    }

    /// All rows.
    pub fn json(&self) -> Value {
        Value::Array(self.rows.iter().map(Row::json).collect())
    }

    /// Records a second, a group for each size and load.
    pub fn plot(&self) -> String {
        let groups: Vec<Group> = self.groups().map(group_of).collect();
        let meaning = "durable records a second (p50 / p99 latency in us); longer is better";
        bars("Logs: durable appends, one run, one file system", meaning, &groups)
    }
}

fn named<'a>(group: &'a [Row], name: &str) -> Option<&'a Row> {
    group.iter().find(|row| row.name == name)
}

/// The backend with the lowest median, as the probe would choose.
fn best_of_ours(group: &[Row]) -> Option<&Row> {
    let ours = group.iter().filter(|row| row.is_ours() && row.measured.records > 0);
    ours.min_by(|one, other| one.micros(0.5).total_cmp(&other.micros(0.5)))
}

fn table(group: &[Row]) -> String {
    let heads = [
        "contestant",
        "records/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "CPU us/record",
        "charged/byte",
        "device/byte",
        "p50 / floor",
        "rate / raft-engine",
    ];
    let mut table = Table::new(&heads);
    let floor = named(group, "floor").map(|row| row.micros(0.5));
    let peer = named(group, "raft-engine").map(Row::rate);
    let ratio = |number: f64, other: Option<f64>| match other {
        Some(other) if other > 0.0 => Cell::Number(number / other, "x", 2),
        _ => Cell::None,
    };
    for row in group {
        let used = &row.measured.used;
        let device = used.device_bytes.map(|bytes| row.amplification(bytes));
        table.row(vec![
            Cell::text(&row.name),
            Cell::count(row.rate()),
            Cell::Number(row.micros(0.5), "", 1),
            Cell::Number(row.micros(0.99), "", 1),
            Cell::Number(row.micros(0.999), "", 1),
            Cell::Number(row.cpu_micros(), "", 2),
            Cell::Number(row.amplification(used.charged_bytes), "", 2),
            device.map_or(Cell::None, |number| Cell::Number(number, "", 2)),
            ratio(row.micros(0.5), floor),
            ratio(row.rate(), peer),
        ]);
    }
    let (bytes, load) = (group[0].record_bytes, group[0].load);
    format!("\n### records of {bytes} B, {load}\n\n{}", table.markdown())
}

fn group_of(rows: &[Row]) -> Group {
    let title = format!("{} B, {}", rows[0].record_bytes, rows[0].load);
    let bar = |row: &Row| Bar {
        name: row.name.clone(),
        length: Some(row.rate()),
        text: format!(
            "{} ({} / {})",
            short(row.rate()),
            short(row.micros(0.5)),
            short(row.micros(0.99))
        ),
        is_ours: row.is_ours(),
    };
    Group { title, bars: rows.iter().map(bar).collect() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn row(name: &str, load: Load, records: u64, micros: u64) -> Row {
        let mut measured = Measured { records, ..Measured::default() };
        measured.used.elapsed = Duration::from_secs(2);
        measured.used.cpu = Duration::from_micros(3 * records);
        measured.used.charged_bytes = 512 * records;
        measured.latencies.record(Duration::from_micros(micros));
        Row { record_bytes: 256, load, name: name.to_owned(), measured }
    }

    #[test]
    fn goals_compare_the_best_backend_with_floor_and_raft_engine() {
        let mut report = Report::default();
        let load = Load::Appenders(64);
        report.row(row("floor", load, 1000, 100));
        report.row(row("varve-dsync", load, 900, 110));
        report.row(row("varve-uring", load, 800, 120));
        report.row(row("raft-engine", load, 300, 300));
        report.row(row("raft-engine-queue", load, 600, 200));
        assert_eq!(report.rows[0].rate(), 500.0);
        assert_eq!(report.rows[0].cpu_micros(), 3.0);
        let goals = report.goals();
        let line = "| at least 2 x raft-engine's records/s | 256 B | 64 appenders | varve-dsync | \
                    3.00 | 3.33 | reached |";
        assert!(goals.contains(line), "{goals}");
        let line = "| the same, of raft-engine behind our queue | 256 B | 64 appenders | varve-dsync | \
                    1.50 | 1.67 | not reached |";
        assert!(goals.contains(line), "{goals}");
        assert!(!goals.contains("varve-uring"));
        assert!(report.last_table().contains("| 2.00 |"), "{}", report.last_table());
        assert_eq!(report.json()[0]["charged_bytes_per_byte"], 2.0);
    }

    #[test]
    fn a_group_is_one_size_and_one_load() {
        let mut report = Report::default();
        report.row(row("floor", Load::Appenders(1), 10, 100));
        report.row(row("floor", Load::Appenders(16), 10, 100));
        assert_eq!(report.groups().count(), 2);
        assert!(report.plot().contains("256 B, 16 appenders"));
    }
}
