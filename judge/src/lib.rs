//! What must be true of a history, whatever happened: one file for each promise.
//!
//! One idea: the agreed log, replayed by [`model`], is the order of everything; each checker holds
//! what clients and members say against it. They search nothing, so they never run out of time.
//! [`search`] is the second opinion: it believes no revision and tries orders.

pub mod durable;
pub mod history;
pub mod leases;
pub mod linear;
pub mod model;
pub mod replicas;
pub mod search;
pub mod watch;

use crate::history::History;
use crate::model::Model;

/// Everything that is wrong, in words; empty if nothing is.
pub fn violations(history: &History) -> Vec<String> {
    let model = match Model::replay(&history.log) {
        Ok(model) => model,
        Err(error) => return vec![format!("log: {error}")],
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
