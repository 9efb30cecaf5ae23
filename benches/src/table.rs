//! Markdown tables with a row of ratios.
//!
//! One idea: the two servers stand one above the other, and the row below them divides the first
//! by the second, so that nobody has to.

use std::time::Duration;

/// A value of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A number with its unit and number of decimals.
    Number(f64, &'static str, usize),
    /// Not known or not measured.
    None,
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Cell::Text(text.into())
    }

    /// A count or a rate.
    pub fn count(number: f64) -> Self {
        Cell::Number(number, "", 0)
    }

    /// Microseconds.
    pub fn micros(duration: Duration) -> Self {
        let micros = duration.as_secs_f64() * 1e6;
        Cell::Number(micros, "", if micros < 1000.0 { 1 } else { 0 })
    }

    /// Milliseconds.
    pub fn millis(duration: Duration) -> Self {
        Cell::Number(duration.as_secs_f64() * 1e3, "", 2)
    }

    /// Seconds.
    pub fn seconds(duration: Duration) -> Self {
        Cell::Number(duration.as_secs_f64(), "", 3)
    }

    /// Mebibytes.
    pub fn mebibytes(bytes: u64) -> Self {
        Cell::Number(bytes as f64 / f64::from(1 << 20), "", 1)
    }

    /// This number by another one; words stay if both have the same.
    pub fn ratio_to(&self, other: &Self) -> Self {
        match (self, other) {
            (Cell::Number(a, ..), Cell::Number(b, ..)) if *b != 0.0 => Cell::Number(a / b, "x", 2),
            (Cell::Text(a), Cell::Text(b)) if a == b => Cell::text(a),
            _ => Cell::None,
        }
    }

    fn show(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Number(number, unit, decimals) => format!("{number:.decimals$}{unit}"),
            Cell::None => "-".to_owned(),
        }
    }
}

/// `Some` of a cell or [`Cell::None`].
pub fn maybe<T>(value: Option<T>, cell: impl Fn(T) -> Cell) -> Cell {
    value.map_or(Cell::None, cell)
}

/// A table that grows row by row.
#[derive(Clone, Debug)]
pub struct Table {
    heads: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(heads: &[&str]) -> Self {
        Self { heads: heads.iter().map(|head| (*head).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has more or fewer cells than there are columns.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.heads.len(), "cells of a row of {:?}", self.heads);
        self.rows.push(cells);
    }

    /// Adds a row that divides the row `first` by the row `second`, counted from the last one,
    /// which is 0. Words stay where both rows have the same.
    ///
    /// # Panics
    /// If there are not as many rows.
    pub fn ratio(&mut self, label: &str, label_column: usize, first: usize, second: usize) {
        let count = self.rows.len();
        let (first, second) = (&self.rows[count - 1 - first], &self.rows[count - 1 - second]);
        let mut cells: Vec<Cell> = first.iter().zip(second).map(|(a, b)| a.ratio_to(b)).collect();
        cells[label_column] = Cell::text(label);
        self.rows.push(cells);
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let mut out = format!("| {} |\n", self.heads.join(" | "));
        let is_number = |column: usize| {
            self.rows.first().is_some_and(|row| !matches!(row[column], Cell::Text(_)))
        };
        let rule = |column| if is_number(column) { "---:" } else { "---" };
        let rules: Vec<&str> = (0..self.heads.len()).map(rule).collect();
        out.push_str(&format!("| {} |\n", rules.join(" | ")));
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(Cell::show).collect();
            out.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_divides_its_rows() {
        let mut table = Table::new(&["clients", "server", "calls/s", "RSS"]);
        let row = |name: &str, calls, rss| vec![Cell::text("1"), Cell::text(name), calls, rss];
        table.row(row("varve", Cell::count(30.0), Cell::mebibytes(1 << 20)));
        table.row(row("etcd", Cell::count(20.0), Cell::None));
        table.ratio("ratio", 1, 1, 0);
        let expected = "| clients | server | calls/s | RSS |\n| --- | --- | ---: | ---: |\n\
                        | 1 | varve | 30 | 1.0 |\n| 1 | etcd | 20 | - |\n\
                        | 1 | ratio | 1.50x | - |\n";
        assert_eq!(table.markdown(), expected);
    }
}
