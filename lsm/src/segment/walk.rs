//! Values for background work, past the cache.
//!
//! A merge and the verifier go through keys in order, and the values of a segment lie in that
//! order. So the frame that was decoded last is the one that the next value of its segment is in,
//! and one frame for each compressed segment is all that must be kept. What they read once does not
//! push out what readers read again.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Segment, Value};
use crate::Result;
use crate::table::ValueHandle;

/// Reads values, in whatever order, and cheaply in that of keys.
#[derive(Default)]
pub struct Walk {
    /// Of each compressed segment the frame that was decoded last, and its number.
    frames: BTreeMap<u64, (usize, Bytes)>,
}

impl Walk {
    /// The value at `handle`, verified.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if there is no such value or it is damaged.
    pub fn value<'a>(&mut self, segment: &'a Segment, handle: ValueHandle) -> Result<Value<'a>> {
        segment.value_by(handle, None, |frame| {
            let id = segment.info().id;
            if let Some((number, content)) = self.frames.get(&id)
                && *number == frame.number
            {
                return Ok(content.clone());
            }
            let content = segment.decode(frame)?;
            self.frames.insert(id, (frame.number, content.clone()));
            Ok(content)
        })
    }
}
