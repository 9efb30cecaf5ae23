//! What a run of the engines found: a table of ratios, JSON and plots.
//!
//! One idea: a row is one figure of every engine, and a ratio above 1 always means that varve is
//! better by that factor, whether more or less is better.

use serde_json::{Value, json};
use varve_benches::table::{Cell, Table};

use super::NAMES;
use super::rows::Row;
use crate::plot::{Bar, Group, bars, short};

/// The rows of all engines for one size of values, or of the trace.
pub struct Section {
    /// What it is.
    pub title: String,
    engines: Vec<(String, Vec<Row>)>,
}

impl Section {
    /// An empty one.
    pub fn new(title: String) -> Self {
        Self { title, engines: Vec::new() }
    }

    /// Adds an engine's rows; those of ours come first.
    pub fn engine(&mut self, name: &str, rows: Vec<Row>) {
        self.engines.push((name.to_owned(), rows));
    }

    /// Names of the rows of the first engine.
    fn rows(&self) -> &[Row] {
        self.engines.first().map_or(&[], |(_, rows)| rows)
    }

    fn value(&self, engine: &str, row: &str) -> Option<f64> {
        let (_, rows) = self.engines.iter().find(|(name, _)| name == engine)?;
        rows.iter().find(|found| found.name == row).map(|found| found.value)
    }

    /// The engine with the best figure.
    fn first(&self, row: &Row) -> Option<&str> {
        let figures = self
            .engines
            .iter()
            .filter_map(|(name, _)| Some((name.as_str(), self.value(name, &row.name)?)));
        let sign = if row.is_higher_better { -1.0 } else { 1.0 };
        figures.min_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1))).map(|(name, _)| name)
    }

    /// How many times better varve is than `peer`.
    fn ratio(&self, peer: &str, row: &Row) -> Option<f64> {
        let (ours, theirs) = (self.value("varve", &row.name)?, self.value(peer, &row.name)?);
        let ratio = if row.is_higher_better { ours / theirs } else { theirs / ours };
        ratio.is_finite().then_some(ratio)
    }

    /// Absolute figures, then how many times better varve is.
    pub fn markdown(&self) -> String {
        let heads = ["", "unit", "varve", "rocksdb", "fjall", "redb", "lmdb", "first"];
        let peers = &NAMES[1..];
        let ratio_heads = peers.iter().map(|peer| format!("varve : {peer}"));
        let all: Vec<String> = heads.map(str::to_owned).into_iter().chain(ratio_heads).collect();
        let mut table = Table::new(&all.iter().map(String::as_str).collect::<Vec<_>>());
        for row in self.rows() {
            let number = |value: Option<f64>| value.map_or(Cell::None, |v| Cell::text(short(v)));
            let mut cells = vec![Cell::text(&row.name), Cell::text(&row.unit)];
            cells.extend(NAMES.iter().map(|name| number(self.value(name, &row.name))));
            cells.push(Cell::text(self.first(row).unwrap_or("-")));
            let ratio = |peer: &&str| match self.ratio(peer, row) {
                Some(ratio) => Cell::text(format!("{}x", short(ratio))),
                None => Cell::None,
            };
            cells.extend(peers.iter().map(ratio));
            table.row(cells);
        }
        let firsts = self.rows().iter().filter(|row| self.first(row) == Some("varve")).count();
        format!(
            "\n### {}\n\n{}\nvarve is first in {firsts} of {} rows.\n",
            self.title,
            table.markdown(),
            self.rows().len()
        )
    }

    /// All figures.
    pub fn json(&self) -> Value {
        let rows = |rows: &[Row]| -> Vec<Value> {
            rows.iter()
                .map(|row| {
                    json!({ "name": row.name, "unit": row.unit, "value": row.value,
                "is_higher_better": row.is_higher_better })
                })
                .collect()
        };
        let engines = self.engines.iter().map(|(name, found)| (name.clone(), json!(rows(found))));
        json!({ "title": self.title, "engines": Value::Object(engines.collect()) })
    }

    /// A group of bars for each row; longer is always better.
    pub fn plot(&self) -> String {
        let group = |row: &Row| {
            let bar = |(name, _): &(String, Vec<Row>)| {
                let value = self.value(name, &row.name);
                let better = |v: f64| if row.is_higher_better { v } else { 1.0 / v.max(1e-9) };
                Bar {
                    name: name.clone(),
                    length: value.map(better),
                    text: value.map_or("-".to_owned(), |v| format!("{} {}", short(v), row.unit)),
                    is_ours: name == "varve",
                }
            };
            Group { title: row.name.clone(), bars: self.engines.iter().map(bar).collect() }
        };
        let groups: Vec<Group> = self.rows().iter().map(group).collect();
        bars(&self.title, "longer is better, also where a smaller figure is", &groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_above_one_mean_that_varve_is_better() {
        let mut section = Section::new("title".to_owned());
        let rows =
            |rate, time| vec![Row::higher("rate", "1/s", rate), Row::lower("time", "us", time)];
        section.engine("varve", rows(20.0, 1.0));
        section.engine("redb", rows(10.0, 0.5));
        let (rate, time) = (&section.rows()[0], &section.rows()[1]);
        assert_eq!((section.ratio("redb", rate), section.first(rate)), (Some(2.0), Some("varve")));
        assert_eq!((section.ratio("redb", time), section.first(time)), (Some(0.5), Some("redb")));
        assert_eq!(section.ratio("lmdb", time), None);
        assert!(section.markdown().contains("varve is first in 1 of 2 rows"));
        assert!(section.plot().contains("longer is better"));
    }
}
