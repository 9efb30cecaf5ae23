//! The order in which everything was agreed, carried out: read from the log, where one can look into
//! it, else concluded from what a member says has changed.
//!
//! One idea of the second way: a revision is one command, and almost all commands sign what they do.
//! An answered one was told its revision, a put has a value of its own. What is left are deletions
//! that nobody was told of: whatever would have deleted just these keys may have done it, a lease that
//! ran out among them. What changed nothing is placed behind the revision that it was told.
//!
//! Whoever is found is carried out by the model, and must make the changes that members have. So a
//! wrong conclusion can reject a history, never accept one. When something was agreed is not known
//! then; the time of the first answer that knows of it is taken, which is never too early.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use varve_api::etcdserverpb::request_op::Request as Op;
use varve_api::etcdserverpb::response_op::Response as OpResponse;
use varve_api::etcdserverpb::{DeleteRangeRequest, LeaseRevokeRequest};
use varve_store::{Command, CommandKind, decode_batch};

use crate::durable::{is_tagged, revision_of};
use crate::history::{
    Agreed, Change, History, Micros, Operation, Outcome, Replica, Request, Response, is_certain,
    operation_of,
};
use crate::model::{Model, contains};

/// Carries out everything that was agreed.
///
/// # Errors
/// What cannot be, in words.
pub fn replay(history: &History) -> Result<Model, String> {
    match history.log.is_empty() {
        false => replay_log(&history.log).map_err(|error| format!("log: {error}")),
        true => replay_changes(history).map_err(|error| format!("order: {error}")),
    }
}

fn replay_log(log: &BTreeMap<u64, Agreed>) -> Result<Model, String> {
    let mut model = Model::empty();
    let first = log.keys().next().copied().unwrap_or(2);
    for (expected, (index, agreed)) in (first..).zip(log) {
        if expected != *index {
            return Err(format!("expected entry {expected}, found {index}"));
        }
        if agreed.payload.is_empty() {
            continue;
        }
        for command in decode_batch(&agreed.payload).map_err(|error| error.to_string())? {
            if let Some(request) = request_of(&command) {
                model.execute(&request, operation_of(&command.body), agreed.at);
            }
        }
    }
    Ok(model)
}

/// What a client, or a clock, asked for by a command.
fn request_of(command: &Command) -> Option<Request> {
    fn body<M: Message + Default>(command: &Command) -> M {
        M::decode(command.body.clone()).expect("clients send what can be decoded")
    }
    Some(match command.kind {
        CommandKind::Put => Request::Put(body(command)),
        CommandKind::DeleteRange => Request::Delete(body(command)),
        CommandKind::Txn => Request::Txn(body(command)),
        CommandKind::Compact => Request::Compact(body(command)),
        CommandKind::LeaseGrant => Request::Grant(body(command)),
        CommandKind::LeaseRevoke => Request::Revoke(body(command)),
        _ => return None,
    })
}

fn replay_changes(history: &History) -> Result<Model, String> {
    let first = history.replicas.first().ok_or("no member was asked for what it has")?;
    let changes = first.changes.as_ref().ok_or("no member was asked for what changed")?;
    let mut clues = Clues::gather(&history.operations);
    let mut model = Model::empty();
    clues.carry_out_idle(1, &mut model);
    for group in changes.chunk_by(|left, right| left.revision == right.revision) {
        let revision = group[0].revision;
        let at = clues.known_at(revision);
        let Some((request, operation)) = clues.find_owner(group, &model, at) else {
            return Err(format!("nobody asked for {group:?}"));
        };
        let made = model.execute(&request, operation, at);
        if made != group {
            return Err(format!("{operation:?} {request:?} makes {made:?}, found {group:?}"));
        }
        clues.carry_out_idle(revision, &mut model);
    }
    end_leases(first, &history.operations, &mut model)?;
    Ok(model)
}

/// What operations tell about the order.
struct Clues<'a> {
    operations: &'a [Operation],
    /// Who was told that it made a revision.
    by_revision: BTreeMap<i64, usize>,
    /// Who writes a value.
    by_value: BTreeMap<&'a Bytes, usize>,
    /// Who was told of a revision, and that it changed nothing, in the order of calls.
    idle: BTreeMap<i64, Vec<usize>>,
    /// Who may have made a revision and was not told which; they have not been found yet.
    unplaced: BTreeSet<usize>,
    /// Revisions that were told, and by when this or a later one was.
    known: Vec<(i64, Micros)>,
}

impl<'a> Clues<'a> {
    fn gather(operations: &'a [Operation]) -> Self {
        let mut clues = Self {
            operations,
            by_revision: BTreeMap::new(),
            by_value: BTreeMap::new(),
            idle: BTreeMap::new(),
            unplaced: BTreeSet::new(),
            known: Vec::new(),
        };
        for (number, operation) in operations.iter().enumerate() {
            values(&operation.request, |value| _ = clues.by_value.entry(value).or_insert(number));
            let is_revocation = matches!(operation.request, Request::Revoke(_));
            let is_grant = matches!(operation.request, Request::Grant(_));
            let response = match &operation.outcome {
                Outcome::Done(response) => response,
                Outcome::Refused(status) if is_certain(status) => continue,
                Outcome::Refused(_) | Outcome::Unknown => {
                    clues.unplaced.insert(number);
                    continue;
                }
            };
            let Some(told) = revision_of(response) else { continue };
            clues.known.push((told, operation.returned));
            if is_revocation {
                // Its keys were gone at this revision or before.
                clues.unplaced.insert(number);
            }
            if is_tagged(&operation.request) && has_changed(response) {
                clues.by_revision.entry(told).or_insert(number);
            } else if is_tagged(&operation.request) || is_revocation || is_grant {
                clues.idle.entry(told).or_default().push(number);
            }
        }
        clues.known.sort_unstable();
        let mut first = Micros::MAX;
        for (_, at) in clues.known.iter_mut().rev() {
            first = first.min(*at);
            *at = first;
        }
        clues
    }

    /// When somebody knew of a revision.
    fn known_at(&self, revision: i64) -> Micros {
        let at = self.known.partition_point(|(told, _)| *told < revision);
        self.known.get(at).map_or(Micros::MAX, |(_, at)| *at)
    }

    /// Who made these changes of one revision, and by which request.
    fn find_owner(
        &mut self,
        group: &[Change],
        model: &Model,
        at: Micros,
    ) -> Option<(Request, Option<usize>)> {
        let by_value = |change: &Change| match change.is_delete {
            true => None,
            false => self.by_value.get(&change.kv.value),
        };
        let told = self.by_revision.get(&group[0].revision);
        let signed = told.or_else(|| group.iter().find_map(by_value));
        if let Some(number) = signed {
            return Some((self.operations[*number].request.clone(), Some(*number)));
        }
        let fits = |number: &usize| {
            let Operation { request, invoked, .. } = &self.operations[*number];
            *invoked <= at
                && may_delete(request, &group[0])
                && model.clone().execute(request, None, at) == group
        };
        if let Some(number) = self.unplaced.iter().copied().find(fits) {
            self.unplaced.remove(&number);
            return Some((self.operations[number].request.clone(), Some(number)));
        }
        let lease = group[0].previous.as_ref().map_or(0, |previous| previous.lease);
        let expiry = Request::Revoke(LeaseRevokeRequest { id: lease });
        (lease != 0).then_some((expiry, None))
    }

    /// Carries out those that changed nothing; a revocation may have been found already.
    fn carry_out_idle(&mut self, revision: i64, model: &mut Model) {
        for number in self.idle.remove(&revision).unwrap_or_default() {
            let Operation { request, returned, .. } = &self.operations[number];
            let is_revocation = matches!(request, Request::Revoke(_));
            if !is_revocation || self.unplaced.remove(&number) {
                model.execute(request, Some(number), *returned);
            }
        }
    }
}

/// Whether a request may be what deleted a key.
fn may_delete(request: &Request, change: &Change) -> bool {
    let has_key =
        |range: &DeleteRangeRequest| contains(&range.key, &range.range_end, &change.kv.key);
    match request {
        Request::Delete(range) => has_key(range),
        Request::Txn(txn) => {
            txn.success.iter().chain(&txn.failure).any(
                |op| matches!(&op.request, Some(Op::RequestDeleteRange(range)) if has_key(range)),
            )
        }
        Request::Revoke(revoke) => {
            change.previous.as_ref().is_some_and(|previous| previous.lease == revoke.id)
        }
        _ => false,
    }
}

/// Gives all values that a request may write.
fn values<'a>(request: &'a Request, mut give: impl FnMut(&'a Bytes)) {
    match request {
        Request::Put(put) => give(&put.value),
        Request::Txn(txn) => {
            for op in txn.success.iter().chain(&txn.failure) {
                if let Some(Op::RequestPut(put)) = &op.request {
                    give(&put.value);
                }
            }
        }
        _ => {}
    }
}

/// Whether an answer says that something was written.
fn has_changed(response: &Response) -> bool {
    match response {
        Response::Put(_) => true,
        Response::Delete(told) => told.deleted > 0,
        Response::Txn(told) => told.responses.iter().any(|op| match &op.response {
            Some(OpResponse::ResponsePut(_)) => true,
            Some(OpResponse::ResponseDeleteRange(told)) => told.deleted > 0,
            _ => false,
        }),
        _ => false,
    }
}

/// Leases that had no keys ended without a trace, and were granted without one, if the answer was
/// lost.
fn end_leases(first: &Replica, operations: &[Operation], model: &mut Model) -> Result<(), String> {
    let held: BTreeSet<i64> = first.leases.iter().map(|(id, _)| *id).collect();
    let known: BTreeSet<i64> = model.leases.keys().copied().collect();
    for id in known.difference(&held) {
        let ended = Request::Revoke(LeaseRevokeRequest { id: *id });
        let made = model.execute(&ended, None, Micros::MAX);
        if !made.is_empty() {
            return Err(format!("lease {id} is gone and would have taken along {made:?}"));
        }
    }
    for (number, operation) in operations.iter().enumerate() {
        if let Request::Grant(grant) = &operation.request
            && held.contains(&grant.id)
            && !known.contains(&grant.id)
        {
            model.execute(&operation.request, Some(number), Micros::MAX);
        }
    }
    Ok(())
}
