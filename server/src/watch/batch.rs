//! The events of one batch of log entries, shared by all socket threads. Each event is encoded at
//! most once (twice if somebody also wants its previous value), by whoever needs it first.

use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message;
use varve_api::Status;
use varve_api::mvccpb::Event;
use varve_api::mvccpb::event::EventType;
use varve_store::View;

/// Field `events` of `WatchResponse`, length-delimited.
const EVENTS_TAG: u8 = 11 << 3 | 2;

/// Events in revision order; never empty.
pub struct EventBatch {
    events: Vec<WatchEvent>,
}

/// One event and its encodings.
pub struct WatchEvent {
    event: Event,
    plain: OnceLock<Bytes>,
    with_previous: OnceLock<Bytes>,
}

impl EventBatch {
    /// A batch of at least one event.
    pub fn new(events: Vec<Event>) -> Self {
        assert!(!events.is_empty(), "a batch without events is not posted");
        let events: Vec<_> = events.into_iter().map(WatchEvent::new).collect();
        assert!(
            events.is_sorted_by_key(WatchEvent::revision),
            "the state machine hands out events in revision order"
        );
        Self { events }
    }

    /// About the memory that the events take.
    pub fn bytes(&self) -> usize {
        self.events.iter().map(WatchEvent::bytes).sum()
    }

    /// The events.
    pub fn events(&self) -> &[WatchEvent] {
        &self.events
    }

    /// Revision of the first event.
    pub fn first_revision(&self) -> i64 {
        self.events.first().map_or(0, WatchEvent::revision)
    }

    /// Revision of the last event: the store's revision after the batch.
    pub fn revision(&self) -> i64 {
        self.events.last().map_or(0, WatchEvent::revision)
    }
}

impl WatchEvent {
    /// An event as the state machine made it, without a previous value.
    pub fn new(event: Event) -> Self {
        Self { event, plain: OnceLock::new(), with_previous: OnceLock::new() }
    }

    fn bytes(&self) -> usize {
        let content = self.event.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
        std::mem::size_of::<Self>() + content
    }

    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        static NO_KEY: Bytes = Bytes::new();
        self.event.kv.as_ref().map_or(&NO_KEY, |kv| &kv.key)
    }

    /// The revision of the change.
    pub fn revision(&self) -> i64 {
        self.event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
    }

    /// Whether the key was deleted.
    pub fn is_delete(&self) -> bool {
        self.event.r#type == EventType::Delete as i32
    }

    /// The event as a field of a `WatchResponse`.
    pub fn encoded(&self) -> &Bytes {
        self.plain.get_or_init(|| encode(&self.event))
    }

    /// The same with the value that the change replaced, as far as it is not compacted.
    ///
    /// # Errors
    /// It is there and cannot be read. Etcd leaves it out then, and nobody learns that it was there.
    pub fn encoded_with_previous(&self, view: &View) -> Result<&Bytes, Status> {
        if let Some(encoded) = self.with_previous.get() {
            return Ok(encoded);
        }
        let encoded = match view.previous(self.key(), self.revision())? {
            None => self.encoded().clone(),
            previous => encode(&Event { prev_kv: previous, ..self.event.clone() }),
        };
        Ok(self.with_previous.get_or_init(|| encoded))
    }
}

fn encode(event: &Event) -> Bytes {
    let length = event.encoded_len();
    let mut buffer = Vec::with_capacity(11 + length);
    buffer.push(EVENTS_TAG);
    prost::encoding::encode_varint(length as u64, &mut buffer);
    event.encode(&mut buffer).expect("a Vec grows, so encoding into it cannot run out of room");
    buffer.into()
}
