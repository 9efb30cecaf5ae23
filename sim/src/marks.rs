//! Rare places that many seeds together must have reached: what a run lists if it never came there.
//!
//! One idea: a simulator that never gets somewhere proves nothing about it, and nobody notices. So
//! such places have names: in the code ([`CODE`], `varve_disk::trial`, compiled in by the feature
//! `trial`), in the simulation ([`WORLD`]), and in what clients saw ([`HISTORY`]). The names in the
//! code are held against [`CODE`] by `tests/tests/tidy.rs`.

use std::collections::BTreeSet;

use prost::Message;
use varve_api::error as api;
use varve_api::etcdserverpb::LeaseRevokeRequest;
use varve_store::CommandKind;

use crate::check::linear::is_read_only;
use crate::history::{History, Operation, Outcome, Request, Response, operation_of};
use crate::world::Counts;

/// In the crates below.
pub const CODE: &[&str] = &[
    "torn tail overwritten",
    "log segment retired",
    "entries read back from files",
    "log reset",
    "log reset at start",
    "a follower needs what was cut",
    "read round dies with its leader",
    "read round repeated",
    "read round given up",
    "a follower's read held for a new leader",
    "a commit index written for a change",
    "change refused: another is pending",
    "change judged again",
    "a leader that is no voter any more",
    "a removed leader that told too few",
    "flushed while a snapshot is installed",
    "manifest rotated",
    "merge before a flush",
    "flush in several steps",
    "merge in several steps",
    "merge of level 0 alone",
    "merge of tiers",
    "merge of bottom tables for their garbage",
    "merge of upper tables for their garbage",
    "value moved to another segment",
    "bottom table cut where another begins",
    "a renewed lease comes up",
    "renewed by who leads no more",
    "an end of a lease by who leads no more",
    "a read answered by a lease",
    "a lease for reads is over",
    "a candidate met with silence",
    "a proposal held for a leader",
    "a snapshot asked of another member",
    "a snapshot sent instead of another member",
    "watcher behind after a piece of history",
    "progress asked for and not there yet",
    "piece of history ends between two revisions",
    "no room for history",
    "watcher of what was compacted",
];

/// Counted while the world turns, beside [`crate::plan::TROUBLES`] and
/// [`crate::operator::CHANGES`].
pub const WORLD: &[&str] = &[
    "message lost",
    "message repeated",
    "snapshot offered",
    "snapshot cut",
    "snapshot delivered",
    "snapshot declined by another member",
    "snapshot delivered by another member",
    "snapshot installed",
    "start refused by a faulty disk",
    "stopped by its disk",
    "restart at once",
    "memtable flushed",
    "tables merged",
    "files removed",
    "given up",
    "watch closed",
    "two members lead at once",
    "asked to remove itself",
    "disk lost",
    "change done",
    "change refused",
    "change of unknown outcome",
    "change refused when it was applied",
    "change agreed after the operator gave up",
    "learner promoted while the leader changed",
    "leader removed",
    "one voter left",
    "member joined",
    "joining refused",
    "snapshot to a joining member",
    "snapshot to a joining member cut",
    "told by others that it was removed",
    "removed member ended",
    "removed member started again",
    "watch refused by a learner",
    "believed where it is by a member that is behind",
    "core widened for a change of the members",
    "lost with a removed leader",
    "rot of the log",
    "rot of a key table",
    "rot of a value segment",
    "rot of the manifest",
    "start refused for rot",
    "stopped by rot",
    "rot did no harm",
    "rot found by a read",
    "rotten member given up",
    "rotten member removed",
    "power loss behind a change",
];

/// In what clients saw and what was agreed.
pub const HISTORY: &[&str] = &[
    "a write of unknown outcome that happened",
    "a write of unknown outcome that did not",
    "a refused write that happened all the same",
    "a put refused for its lease",
    "compaction of what is compacted",
    "compaction of the future",
    "read of what is compacted",
    "read of the past",
    "serializable read behind a write that was answered",
    "range cut by its limit",
    "deletion of several keys",
    "transaction that took its else",
    "transaction that only read",
    "lease ended by the clock",
    "lease ended by a client",
    "lease renewed",
    "renewal of a lease that is gone",
    "watch resumed",
    "watch ended for compaction",
    "watch told progress",
    "several revisions in one response",
    "several events in one revision",
    "several commands in one entry",
    "ten terms",
];

/// Whether marks in the code are compiled in.
pub const HAS_CODE: bool = cfg!(feature = "trial");

/// All that can be reached by this program.
pub fn all() -> impl Iterator<Item = &'static str> {
    let code = if HAS_CODE { CODE } else { &[] };
    code.iter().chain(WORLD).chain(HISTORY).copied()
}

/// A seed begins on this thread, with a bug planted in the code or none.
pub fn begin(bug: Option<&'static str>) {
    #[cfg(feature = "trial")]
    varve_disk::trial::begin(bug);
    #[cfg(not(feature = "trial"))]
    assert!(bug.is_none(), "bugs in the code are compiled in by --features trial");
}

/// Adds what a seed has reached in the code and in its history.
pub fn collect(history: &History, counts: &mut Counts) {
    #[cfg(feature = "trial")]
    for (name, count) in varve_disk::trial::reached() {
        *counts.entry(name).or_default() += count;
    }
    let mut mark = |name: &'static str| *counts.entry(name).or_default() += 1;
    let written = of_log(history, &mut mark);
    let mut latest = 0;
    for (number, operation) in history.operations.iter().enumerate() {
        of_operation(operation, written.contains(&number), latest, &mut mark);
        if let Outcome::Done(response) = &operation.outcome {
            latest = latest.max(crate::check::durable::revision_of(response).unwrap_or(0));
        }
    }
    of_watchers(history, &mut mark);
}

/// Operations in the log.
fn of_log(history: &History, mark: &mut impl FnMut(&'static str)) -> BTreeSet<usize> {
    let asked = history.operations.iter().filter_map(|operation| match &operation.request {
        Request::Revoke(request) => Some(request.id),
        _ => None,
    });
    let asked: BTreeSet<i64> = asked.collect();
    let mut written = BTreeSet::new();
    for agreed in history.log.values().filter(|agreed| !agreed.payload.is_empty()) {
        let commands = varve_store::decode_batch(&agreed.payload).unwrap_or_default();
        if commands.len() > 1 {
            mark("several commands in one entry");
        }
        for command in commands.iter().filter(|one| one.kind == CommandKind::LeaseRevoke) {
            let revoked = LeaseRevokeRequest::decode(command.body.clone()).unwrap_or_default();
            if !asked.contains(&revoked.id) {
                mark("lease ended by the clock");
            }
        }
        written.extend(commands.iter().filter_map(|command| operation_of(&command.body)));
    }
    if history.log.values().next_back().is_some_and(|last| last.term > 10) {
        mark("ten terms");
    }
    written
}

fn of_operation(
    operation: &Operation,
    is_written: bool,
    latest: i64,
    mark: &mut impl FnMut(&'static str),
) {
    let is_tagged = crate::check::durable::is_tagged(&operation.request);
    match (&operation.request, &operation.outcome) {
        (_, Outcome::Unknown) if is_tagged && is_written => {
            mark("a write of unknown outcome that happened");
        }
        (_, Outcome::Unknown) if is_tagged => mark("a write of unknown outcome that did not"),
        (Request::Put(_), Outcome::Refused(status)) if *status == api::LEASE_NOT_FOUND => {
            mark("a put refused for its lease");
        }
        (Request::Compact(_), Outcome::Refused(status)) if *status == api::COMPACTED => {
            mark("compaction of what is compacted");
        }
        (Request::Compact(_), Outcome::Refused(status)) if *status == api::FUTURE_REV => {
            mark("compaction of the future");
        }
        (Request::Range(_), Outcome::Refused(status)) if *status == api::COMPACTED => {
            mark("read of what is compacted");
        }
        (_, Outcome::Refused(_)) if is_tagged && is_written => {
            mark("a refused write that happened all the same");
        }
        (Request::Range(request), Outcome::Done(Response::Range(told))) => {
            let revision = told.header.as_ref().map_or(0, |header| header.revision);
            if request.revision > 0 {
                mark("read of the past");
            }
            if request.serializable && revision < latest {
                mark("serializable read behind a write that was answered");
            }
            if told.more {
                mark("range cut by its limit");
            }
        }
        (Request::Delete(_), Outcome::Done(Response::Delete(told))) if told.deleted > 1 => {
            mark("deletion of several keys");
        }
        (Request::Txn(request), Outcome::Done(Response::Txn(told))) => {
            if !told.succeeded {
                mark("transaction that took its else");
            }
            if is_read_only(request) {
                mark("transaction that only read");
            }
        }
        (Request::KeepAlive(_), Outcome::Done(Response::KeepAlive(seconds))) => {
            let is_gone = *seconds <= 0;
            mark(if is_gone { "renewal of a lease that is gone" } else { "lease renewed" });
        }
        (Request::Revoke(_), Outcome::Done(_)) => mark("lease ended by a client"),
        _ => {}
    }
}

fn of_watchers(history: &History, mark: &mut impl FnMut(&'static str)) {
    for stream in history.watched.iter().flat_map(|watched| &watched.streams) {
        if stream.start_revision > 0 {
            mark("watch resumed");
        }
        for response in &stream.responses {
            let revision = |position: usize| {
                let kv = response.events.get(position).and_then(|event| event.kv.as_ref());
                kv.map(|kv| kv.mod_revision)
            };
            let events = response.events.len();
            if response.canceled && response.compact_revision > 0 {
                mark("watch ended for compaction");
            }
            if events == 0 && !response.created && !response.canceled {
                mark("watch told progress");
            }
            if events > 1 && revision(0) != revision(events - 1) {
                mark("several revisions in one response");
            }
            if (1..events).any(|at| revision(at) == revision(at - 1)) {
                mark("several events in one revision");
            }
        }
    }
}
