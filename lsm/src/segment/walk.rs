//! Values for background work, past the cache.
//!
//! A merge and the verifier go through keys in order, and the values of a segment lie in that
//! order. So the frame that was decoded last is the one that the next value of its segment is in,
//! and one frame for each compressed segment is all that must be kept; none that has one value only.
//! What they read once does not push out what readers read again.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Segment, VALUE_ALIGNMENT, VALUE_HEADER_BYTES, Value};
use crate::Result;
use crate::table::ValueHandle;

/// Longer frames, which only other writers than ours make of several values, are not kept.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Reads values, in whatever order, and cheaply in that of keys.
#[derive(Default)]
pub struct Walk {
    /// Of each compressed segment the frame of several values that was decoded last, and its number.
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
            segment.advise_soon(frame.stored.clone());
            let content = segment.decode(frame)?;
            let value_bytes = VALUE_HEADER_BYTES + handle.length as usize;
            let has_more = value_bytes.next_multiple_of(VALUE_ALIGNMENT as usize) < content.len();
            if has_more && content.len() <= KEPT_BYTES_MAX {
                self.frames.insert(id, (frame.number, content.clone()));
            }
            Ok(content)
        })
    }

    /// Bytes of the frames that are kept.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.frames.values().map(|(_, content)| content.len()).sum()
    }
}
