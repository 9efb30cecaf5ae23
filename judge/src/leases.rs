//! Leases: none ends before its time, whoever leads and however wrong the clocks are.
//!
//! One idea: a client that was told of a grant or a renewal may count its time from when it *asked*.
//! A revocation that no client asked for must be agreed later than that, shortened by how fast a clock
//! may be and by how far behind it may be read.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{History, Micros, Outcome, Request, Response, SECOND};
use crate::model::Model;

/// Adds what is wrong.
pub fn check(history: &History, model: &Model, found: &mut Vec<String>) {
    let mut asked_for: BTreeSet<i64> = BTreeSet::new();
    let mut granted: BTreeMap<i64, i64> = BTreeMap::new();
    for operation in &history.operations {
        match &operation.request {
            Request::Revoke(request) => _ = asked_for.insert(request.id),
            Request::Grant(request) => {
                if let Outcome::Done(Response::Grant(told)) = &operation.outcome {
                    granted.insert(request.id, told.ttl);
                }
            }
            _ => {}
        }
    }
    for (number, operation) in history.operations.iter().enumerate() {
        let (lease, ttl) = match (&operation.request, &operation.outcome) {
            (Request::Grant(request), Outcome::Done(Response::Grant(told))) => {
                (request.id, told.ttl)
            }
            (Request::KeepAlive(lease), Outcome::Done(Response::KeepAlive(ttl))) if *ttl > 0 => {
                if granted.get(lease) != Some(ttl) {
                    let expected = granted.get(lease);
                    found.push(format!("lease: {lease} renewed for {ttl}, not {expected:?}"));
                }
                (*lease, *ttl)
            }
            _ => continue,
        };
        let ends =
            operation.invoked + shortest(ttl, history.drift).saturating_sub(history.clock_step);
        if let Some(revoked) = model.revoked.get(&lease)
            && *revoked < ends
            && !asked_for.contains(&lease)
        {
            found.push(format!(
                "lease: {lease} was revoked at {revoked}; operation {number} at {} gave it time \
                 until {ends}",
                operation.invoked
            ));
        }
    }
}

/// What a time to live may take by a fast clock.
fn shortest(ttl: i64, drift: u64) -> Micros {
    let nominal = ttl.unsigned_abs() * SECOND;
    nominal - nominal * drift / 1_000_000
}
