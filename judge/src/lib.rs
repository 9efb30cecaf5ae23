//! What must be true of a history, whatever happened: one file for each promise.
//!
//! ```text
//! history       what clients, watchers and members saw: data
//!    |
//! order         what was agreed, in order: read from the log, or concluded from changes
//!    |
//! model         what follows from it, by etcd's rules
//!    |
//! durable, linear, watch, leases, replicas       a promise each, held against the model
//! ```
//!
//! One idea: the order is given, so the checkers search nothing and never run out of time. [`search`]
//! is the second opinion: it believes no revision and tries orders.
//!
//! What it does not do: I/O, or anything that depends on how the history came about.

pub mod durable;
pub mod history;
pub mod leases;
pub mod linear;
pub mod model;
pub mod order;
pub mod replicas;
pub mod search;
#[cfg(test)]
mod tests;
pub mod watch;

use crate::history::History;

/// Everything that is wrong, in words; empty if nothing is.
pub fn violations(history: &History) -> Vec<String> {
    let model = match order::replay(history) {
        Ok(model) => model,
        Err(error) => return vec![error],
    };
    let mut found = Vec::new();
    durable::check(history, &model, &mut found);
    linear::check(history, &model, &mut found);
    watch::check(history, &model, &mut found);
    leases::check(history, &model, &mut found);
    replicas::check(history, &model, &mut found);
    search::check(history, &mut found);
    found
}
