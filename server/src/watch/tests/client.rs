//! The client of one watch stream: decodes what it gets and holds it against the model.
//!
//! etcd's promises, checked at every response: ordered, unique, complete (reliable), atomic by
//! revision, and a told revision means that nothing at or below it is still to come.

use std::collections::BTreeMap;

use varve_api::etcdserverpb::WatchResponse;
use varve_api::mvccpb::event::EventType;

use super::world::Change;
use crate::grpc::Outgoing;
use crate::grpc::frame::{Decoder, decode};
use crate::watch::hub::WatchSpec;

/// Longest message that a client takes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

pub struct Client {
    pub outgoing: Outgoing,
    decoder: Decoder,
    pub watchers: BTreeMap<i64, Watched>,
    /// The watcher of whose response only a part has come.
    in_parts: Option<i64>,
    /// Revisions told for the whole stream.
    pub progress: Vec<i64>,
}

pub struct Watched {
    /// As it was created; `next_revision` is its start.
    pub spec: WatchSpec,
    pub is_created: bool,
    /// Whether the client asked for its end.
    pub is_canceled: bool,
    pub has_ended: bool,
    /// Set when it ended because of a compaction.
    pub compacted: Option<i64>,
    /// Changes received, in order: positions in the model.
    pub received: Vec<usize>,
    pub progress: Vec<i64>,
}

impl Watched {
    pub fn new(spec: WatchSpec) -> Self {
        Self {
            spec,
            is_created: false,
            is_canceled: false,
            has_ended: false,
            compacted: None,
            received: Vec::new(),
            progress: Vec::new(),
        }
    }

    pub fn wants(&self, change: &Change) -> bool {
        let spec = &self.spec;
        let is_in_range = match spec.range_end.as_ref() {
            [] => change.key == spec.key,
            [0] => change.key >= spec.key,
            end => change.key >= spec.key && change.key.as_ref() < end,
        };
        let is_filtered = if change.is_delete() { spec.no_delete } else { spec.no_put };
        is_in_range && !is_filtered && change.revision >= spec.next_revision
    }

    /// The next change that must come, if one has happened.
    fn next(&self, model: &[Change]) -> Option<usize> {
        let from = self.received.last().map_or(0, |last| last + 1);
        (from..model.len()).find(|position| self.wants(&model[*position]))
    }

    /// Everything at or below `revision` must have come.
    pub fn check_complete(&self, model: &[Change], revision: i64) {
        if let Some(next) = self.next(model) {
            let change = &model[next];
            let spec = &self.spec;
            assert!(change.revision > revision, "told {revision}: {change:?} is missing: {spec:?}");
        }
    }
}

impl Client {
    pub fn new(outgoing: Outgoing) -> Self {
        Self {
            outgoing,
            decoder: Decoder::new(MESSAGE_BYTES_MAX, false),
            watchers: BTreeMap::new(),
            in_parts: None,
            progress: Vec::new(),
        }
    }

    /// Reads what one turn of the connection would bring; whether there was anything.
    pub fn read(&mut self, model: &[Change], compacted: i64) -> bool {
        let Some(chunk) = self.outgoing.take_chunk() else { return false };
        self.decoder.push(chunk);
        while let Some(message) = self.decoder.next_message().unwrap() {
            let bytes = message.len();
            self.take(decode(message).unwrap(), bytes, model, compacted);
        }
        true
    }

    fn take(&mut self, response: WatchResponse, bytes: usize, model: &[Change], compacted: i64) {
        let id = response.watch_id;
        let revision = response.header.as_ref().expect("a response has a header").revision;
        if let Some(open) = self.in_parts {
            assert_eq!(open, id, "between the fragments of a response: {response:?}");
        }
        if id == -1 {
            // One whose creation is still on its way is created after the progress was told.
            let open = self.watchers.values().filter(|open| open.is_created && !open.has_ended);
            for watched in open {
                assert!(watched.spec.progress_from <= revision, "progress at {revision}");
                watched.check_complete(model, revision);
            }
            self.progress.push(revision);
            return;
        }
        let watched = self.watchers.get_mut(&id).expect("a response for a watcher that exists");
        assert!(!watched.has_ended, "after its end: {response:?}");
        if response.created {
            assert!(!watched.is_created && response.events.is_empty());
            watched.is_created = true;
            return;
        }
        assert!(watched.is_created, "before it was created: {response:?}");
        if response.canceled {
            assert!(response.events.is_empty());
            watched.has_ended = true;
            if response.compact_revision == 0 {
                assert!(watched.is_canceled, "nobody asked for this end");
            } else {
                assert_eq!(revision, 0);
                watched.compacted = Some(response.compact_revision);
            }
            return;
        }
        if response.events.is_empty() {
            assert!(watched.spec.progress_notify, "nobody asked for progress of {id}");
            assert!(watched.spec.progress_from <= revision);
            watched.check_complete(model, revision);
            watched.progress.push(revision);
            return;
        }
        let is_continued = self.in_parts == Some(id);
        take_events(watched, &response, is_continued, model, compacted);
        if response.fragment {
            assert!(watched.spec.fragment, "nobody asked for fragments");
            self.in_parts = Some(id);
        } else {
            self.in_parts = None;
            watched.check_complete(model, revision);
        }
        if watched.spec.fragment {
            let overhead = 64;
            let limit = super::world::FRAGMENT_BYTES_MAX + overhead;
            assert!(bytes <= limit || response.events.len() == 1, "{bytes} bytes in one piece");
        }
    }
}

/// Each event is the next change that the watcher wants; none is left out or repeated.
fn take_events(
    watched: &mut Watched,
    response: &WatchResponse,
    is_continued: bool,
    model: &[Change],
    compacted: i64,
) {
    for (number, event) in response.events.iter().enumerate() {
        let kv = event.kv.as_ref().expect("an event has a key");
        let position = watched.next(model);
        let position = position.unwrap_or_else(|| panic!("nothing more has happened: {event:?}"));
        let change = &model[position];
        let is_delete = event.r#type() == EventType::Delete;
        let found = (kv.mod_revision, &kv.key, is_delete);
        assert_eq!(found, (change.revision, &change.key, change.is_delete()), "out of order");
        assert_eq!(kv.value.as_ref(), change.value.as_deref().unwrap_or_default());
        if let Some(last) = watched.received.last()
            && number == 0
            && !is_continued
        {
            let last = model[*last].revision;
            assert!(last < change.revision, "revision {last} is split over responses");
        }
        match &event.prev_kv {
            Some(previous) => {
                assert!(watched.spec.prev_kv);
                assert_eq!(Some(&previous.value), change.previous.as_ref(), "{change:?}");
            }
            None if watched.spec.prev_kv && change.revision > compacted => {
                assert_eq!(change.previous, None, "{change:?}");
            }
            None => {}
        }
        watched.received.push(position);
    }
    let last = response.events.last().and_then(|event| event.kv.as_ref());
    let last = last.expect("not empty").mod_revision;
    let revision = response.header.as_ref().expect("has a header").revision;
    assert!(revision >= last, "an event of {last} under a header of {revision}");
}
