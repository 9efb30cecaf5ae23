//! Watches: etcd's promises, held against the replayed log. Ordered, unique, atomic by revision,
//! complete (reliable), resumable, and a told revision means that nothing at or below it is still
//! to come (bookmarkable); filters and previous values besides.
//!
//! One idea: a stream must get exactly the changes from its start on that it wants, in order; what
//! comes is compared with the next one that must.

use varve_api::etcdserverpb::WatchResponse;
use varve_api::mvccpb::Event;
use varve_api::mvccpb::event::EventType;

use crate::history::{Change, History, WatchStream, Watched};
use crate::model::{Model, contains};

/// Adds what is wrong.
pub fn check(history: &History, model: &Model, found: &mut Vec<String>) {
    for (number, watched) in history.watched.iter().enumerate() {
        for (at, stream) in watched.streams.iter().enumerate() {
            if let Err(error) = judge(watched, stream, model) {
                let start = stream.start_revision;
                let key = watched.key.escape_ascii();
                found.push(format!("watch: {number} of {key}, stream {at} from {start}: {error}"));
            }
        }
    }
}

/// Where a stream stands.
struct Reader<'a> {
    watched: &'a Watched,
    model: &'a Model,
    /// First revision that it wants; known when it was created.
    start: i64,
    /// Changes below this position have come or are not wanted.
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next change that must come.
    fn next(&mut self) -> Option<&'a Change> {
        let changes = &self.model.changes[self.at..];
        let ahead = changes.iter().position(|change| self.wants(change));
        self.at += ahead.unwrap_or(changes.len());
        self.model.changes.get(self.at)
    }

    fn wants(&self, change: &Change) -> bool {
        let watched = self.watched;
        let is_filtered = if change.is_delete { watched.no_delete } else { watched.no_put };
        change.revision >= self.start
            && !is_filtered
            && contains(&watched.key, &watched.range_end, &change.kv.key)
    }

    /// Everything at or below a revision must have come.
    fn require_all_up_to(&mut self, revision: i64) -> Result<(), String> {
        match self.next() {
            Some(missing) if missing.revision <= revision => {
                Err(format!("told {revision}, and this is missing: {missing:?}"))
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, event: &Event) -> Result<i64, String> {
        let Some(change) = self.next() else {
            return Err(format!("nothing more has happened, found {event:?}"));
        };
        let is_delete = event.r#type() == EventType::Delete;
        if event.kv.as_ref() != Some(&change.kv) || is_delete != change.is_delete {
            return Err(format!("expected {change:?}, found {event:?}"));
        }
        let is_compacted = change.revision <= self.model.compacted;
        let expected = change.previous.as_ref().filter(|_| self.watched.prev_kv);
        let found = event.prev_kv.as_ref();
        if found != expected && !(found.is_none() && is_compacted) {
            return Err(format!("expected previous {expected:?}, found {event:?}"));
        }
        self.at += 1;
        Ok(change.revision)
    }
}

fn judge(watched: &Watched, stream: &WatchStream, model: &Model) -> Result<(), String> {
    let mut reader = Reader { watched, model, start: i64::MAX, at: 0 };
    let mut last = 0;
    let mut has_ended = false;
    for (number, response) in stream.responses.iter().enumerate() {
        if has_ended {
            return Err(format!("after its end: {response:?}"));
        }
        let told = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created != (number == 0) {
            return Err(format!("expected \"created\" once and first, found {response:?}"));
        }
        if response.created {
            let from_now = told + 1;
            let start = stream.start_revision;
            reader.start = if start == 0 { from_now } else { start };
            has_ended = response.canceled;
            continue;
        }
        if response.canceled {
            judge_end(response, reader.start, last, model)?;
            has_ended = true;
            continue;
        }
        for (number, event) in response.events.iter().enumerate() {
            let revision = reader.take(event)?;
            if number == 0 && revision <= last {
                return Err(format!("revision {revision} is split over responses"));
            }
            last = revision;
        }
        if told < last {
            return Err(format!("an event of {last} under a header of {told}"));
        }
        if response.events.is_empty() && told < reader.start - 1 {
            return Err(format!("progress {told} of a watcher from {}", reader.start));
        }
        reader.require_all_up_to(told)?;
    }
    match stream.is_complete && !has_ended && reader.start < i64::MAX {
        true => reader.require_all_up_to(model.revision),
        false => Ok(()),
    }
}

/// A watcher that nobody canceled ends only when its history is gone.
fn judge_end(response: &WatchResponse, start: i64, last: i64, model: &Model) -> Result<(), String> {
    let compacted = response.compact_revision;
    if compacted == 0 || compacted > model.compacted {
        return Err(format!("ended without a reason: {response:?}"));
    }
    let next = start.max(last + 1);
    match next < compacted {
        true => Ok(()),
        false => Err(format!("ended at {compacted}, and wanted no more than from {next}")),
    }
}
