//! Changes of a revision range, for watchers that catch up.
//!
//! One idea: the engine keeps every version down to the compacted revision and can walk them in
//! revision order, so the past is read from where it is stored and no list of events is kept for
//! it. What comes out is, event for event, what [`crate::Applied::events`] had when it happened.

use varve_api::Status;
use varve_api::mvccpb::event::EventType;
use varve_api::mvccpb::{Event, KeyValue};
use varve_lsm::db::History;
use varve_lsm::{Entry, Kind};

use crate::error::Result;
use crate::schema;

/// Iterator of [`crate::View::history`]: events in revision order, without `prev_kv`. Pins its
/// snapshot. Ends after the first error.
pub struct Events {
    /// `None`: nothing more to come.
    entries: Option<History>,
}

impl Events {
    pub(crate) fn new(entries: Option<History>) -> Self {
        Self { entries }
    }
}

impl Iterator for Events {
    type Item = std::result::Result<Event, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = match self.entries.as_mut()?.next()? {
            Ok(entry) => event(entry),
            Err(error) => Err(error.into()),
        };
        if event.is_err() {
            self.entries = None;
        }
        Some(event.map_err(Status::from))
    }
}

/// The change that an entry is. A deletion has key and revision only.
fn event(entry: Entry) -> Result<Event> {
    let (kind, kv) = match entry.kind {
        Kind::Put => (EventType::Put, schema::key_value(entry)?),
        Kind::Delete => {
            let mod_revision = entry.revision.main.cast_signed();
            (EventType::Delete, KeyValue { key: entry.key, mod_revision, ..KeyValue::default() })
        }
    };
    Ok(Event { r#type: kind as i32, kv: Some(kv), prev_kv: None })
}
