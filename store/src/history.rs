//! Changes of a revision range, for watchers that catch up.

use varve_api::Status;
use varve_api::mvccpb::Event;

/// Iterator of [`crate::View::history`]: events in revision order, without `prev_kv`.
pub struct Events {
    _private: (),
}

impl Iterator for Events {
    type Item = Result<Event, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
