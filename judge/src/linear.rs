//! Linearizability: every answered operation took effect at one moment between its call and its
//! return, in the order in which it was agreed.
//!
//! One idea: the order is given, so nothing is searched. A write is at the position of its command;
//! a read, anywhere between the command that made its revision and the next that makes another.
//! Going through calls and returns by time, an operation must find a position at or behind all that
//! had returned before it was called. What a read tells must be the keys of its revision.
//!
//! A write that was never answered has a position too, and must not be there before it was called. A
//! serializable read may be old; but what it has shown, later operations must know.

use std::collections::BTreeMap;

use varve_api::etcdserverpb::TxnRequest;
use varve_api::etcdserverpb::request_op::Request as Op;

use crate::durable::{headless, is_tagged, revision_of};
use crate::history::{History, Micros, Operation, Outcome, Request, Response};
use crate::model::Model;

/// Whether a transaction holds only ranges: then it is a read.
pub fn is_read_only(txn: &TxnRequest) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.all(|op| matches!(op.request, Some(Op::RequestRange(_))))
}

/// Where an operation may be in the order: command numbers, from 1; 0 is before all.
struct Place {
    from: usize,
    to: usize,
    invoked: Micros,
    returned: Micros,
    number: usize,
    kind: Kind,
}

/// What must be true of a place.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// It is behind all that had returned.
    Write,
    /// It is not before all that had returned.
    Read,
    /// Nothing.
    OldRead,
}

/// Adds what is wrong.
pub fn check(history: &History, model: &Model, found: &mut Vec<String>) {
    let mut position: BTreeMap<usize, usize> = BTreeMap::new();
    // The first and the last command with each revision behind it.
    let mut spans: BTreeMap<i64, (usize, usize)> = BTreeMap::from([(1, (0, 0))]);
    for (at, command) in model.commands.iter().enumerate() {
        if let Some(operation) = command.operation {
            position.insert(operation, at + 1);
        }
        let span = spans.entry(command.revision).or_insert((at + 1, at + 1));
        span.1 = at + 1;
    }
    let mut places = Vec::new();
    for (number, operation) in history.operations.iter().enumerate() {
        if is_tagged(&operation.request) {
            // What is not there is told by `durable`.
            if let Some(at) = position.get(&number) {
                places.push(place(number, operation, (*at, *at), Kind::Write));
            }
            continue;
        }
        let Outcome::Done(response) = &operation.outcome else { continue };
        let mut wrong = |what: String| {
            found.push(format!("linear: operation {number} {operation:?}: {what}"));
        };
        let Some(told) = revision_of(response) else { continue };
        let Some(span) = spans.get(&told) else {
            wrong(format!("no command made revision {told}"));
            continue;
        };
        if let Err(error) = judge_read(model, operation, response, told) {
            wrong(error);
        }
        let kind = if is_serializable(&operation.request) { Kind::OldRead } else { Kind::Read };
        places.push(place(number, operation, *span, kind));
    }
    order(places, found);
}

fn place(number: usize, operation: &Operation, at: (usize, usize), kind: Kind) -> Place {
    let is_answered = matches!(operation.outcome, Outcome::Done(_));
    let returned = if is_answered { operation.returned } else { Micros::MAX };
    Place { from: at.0, to: at.1, invoked: operation.invoked, returned, number, kind }
}

fn is_serializable(request: &Request) -> bool {
    matches!(request, Request::Range(range) if range.serializable)
}

/// What a read tells is what its revision holds.
fn judge_read(
    model: &Model,
    operation: &Operation,
    response: &Response,
    told: i64,
) -> Result<(), String> {
    let expected = match &operation.request {
        Request::Range(request) => {
            let at = if request.revision > 0 { request.revision } else { told };
            Response::Range(model.answer(request, at))
        }
        Request::Txn(request) => Response::Txn(model.read_txn(request, told)),
        _ => return Ok(()),
    };
    let found = headless(response.clone());
    match found == expected {
        true => Ok(()),
        false => Err(format!("expected {expected:?}")),
    }
}

/// Gives every operation the first position that is left to it.
fn order(mut places: Vec<Place>, found: &mut Vec<String>) {
    // (when it returned, the position that it took), and the greatest position up to there.
    places.sort_by_key(|place| (place.invoked, place.number));
    let mut returns: Vec<(Micros, usize)> =
        places.iter().map(|place| (place.returned, place.from)).collect();
    returns.sort_unstable();
    let mut next = 0;
    let mut floor = 0;
    for place in &places {
        while let Some((_, position)) = returns.get(next).filter(|(at, _)| *at < place.invoked) {
            floor = floor.max(*position);
            next += 1;
        }
        let is_late = match place.kind {
            Kind::Write => place.to <= floor,
            Kind::Read => place.to < floor,
            Kind::OldRead => false,
        };
        if is_late {
            found.push(format!(
                "linear: operation {} was called at {} behind position {floor} and took effect \
                 at {} to {}",
                place.number, place.invoked, place.from, place.to
            ));
        }
    }
}
