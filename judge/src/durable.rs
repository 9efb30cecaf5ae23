//! What was acknowledged is in the agreed order, once, with the answer that was given; what was
//! refused is not there, or was refused there.

use std::collections::BTreeMap;

use crate::history::{History, Operation, Outcome, Request, Response, is_certain};
use crate::model::{Carried, Model};

/// Adds what is wrong.
pub fn check(history: &History, model: &Model, found: &mut Vec<String>) {
    let mut commands: BTreeMap<usize, Vec<&Carried>> = BTreeMap::new();
    for command in &model.commands {
        if let Some(operation) = command.operation {
            commands.entry(operation).or_default().push(command);
        }
    }
    for (number, operation) in history.operations.iter().enumerate() {
        let carried = commands.get(&number).map_or(&[][..], Vec::as_slice);
        if let Err(error) = judge(operation, carried) {
            found.push(format!("durable: operation {number} {operation:?}: {error}"));
        }
    }
    grants(history, model, found);
}

/// Whether a request is a write of keys or a compaction: those go through a simulated log under their
/// operation's number.
pub fn is_tagged(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::Delete(_) | Request::Compact(_) => true,
        Request::Txn(txn) => !crate::linear::is_read_only(txn),
        Request::Range(_) | Request::Grant(_) | Request::Revoke(_) | Request::KeepAlive(_) => false,
    }
}

fn judge(operation: &Operation, carried: &[&Carried]) -> Result<(), String> {
    if !is_tagged(&operation.request) {
        return Ok(());
    }
    if carried.len() > 1 {
        return Err(format!("carried out {} times", carried.len()));
    }
    match (&operation.outcome, carried.first()) {
        (Outcome::Unknown, _) => Ok(()),
        (Outcome::Done(_), None) => Err("acknowledged and not agreed".to_owned()),
        (Outcome::Done(response), Some(carried)) => {
            if carried.at > operation.returned {
                return Err(format!("acknowledged before it was agreed at {}", carried.at));
            }
            let expected = carried.result.as_ref().map_err(|error| format!("refused: {error}"))?;
            let revision = revision_of(response);
            if revision != Some(carried.revision) {
                return Err(format!("expected revision {}, found {revision:?}", carried.revision));
            }
            let told = headless(response.clone());
            match *expected == told {
                true => Ok(()),
                false => Err(format!("expected {expected:?}")),
            }
        }
        (Outcome::Refused(status), carried) if is_certain(status) => match carried {
            None => Ok(()),
            Some(carried) => match &carried.result {
                Err(text) if *text == status.message => Ok(()),
                other => Err(format!("refused, and agreed: {other:?}")),
            },
        },
        (Outcome::Refused(_), _) => Ok(()),
    }
}

/// A lease that was granted was agreed.
fn grants(history: &History, model: &Model, found: &mut Vec<String>) {
    for operation in &history.operations {
        if let (Request::Grant(request), Outcome::Done(_)) =
            (&operation.request, &operation.outcome)
            && !model.leases.contains_key(&request.id)
            && !model.revoked.contains_key(&request.id)
        {
            found.push(format!("durable: lease {} was granted and is unknown", request.id));
        }
    }
}

/// The revision in a response's header.
pub fn revision_of(response: &Response) -> Option<i64> {
    let header = match response {
        Response::Put(response) => &response.header,
        Response::Range(response) => &response.header,
        Response::Delete(response) => &response.header,
        Response::Txn(response) => &response.header,
        Response::Compact(response) => &response.header,
        Response::Grant(response) => &response.header,
        Response::Revoke(response) => &response.header,
        Response::KeepAlive(_) => return None,
    };
    header.as_ref().map(|header| header.revision)
}

/// A response without its headers, within a transaction too.
pub fn headless(mut response: Response) -> Response {
    use varve_api::etcdserverpb::response_op::Response as Op;
    match &mut response {
        Response::Put(response) => response.header = None,
        Response::Range(response) => response.header = None,
        Response::Delete(response) => response.header = None,
        Response::Compact(response) => response.header = None,
        Response::Grant(response) => response.header = None,
        Response::Revoke(response) => response.header = None,
        Response::KeepAlive(_) => {}
        Response::Txn(response) => {
            response.header = None;
            for op in &mut response.responses {
                match &mut op.response {
                    Some(Op::ResponsePut(response)) => response.header = None,
                    Some(Op::ResponseRange(response)) => response.header = None,
                    Some(Op::ResponseDeleteRange(response)) => response.header = None,
                    _ => {}
                }
            }
        }
    }
    response
}
