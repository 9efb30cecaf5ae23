//! A range in chunks, for answers too large for one message.
//!
//! One idea: etcd's. The first chunk has 10 keys; each next one twice as many while the chunks are
//! smaller than half the target, half as many while they are larger than twice the target. The
//! revision is pinned by the first chunk, the data is not: every chunk takes a new snapshot, so a
//! slow client keeps no old file alive, and a compaction in the middle ends the stream with
//! `COMPACTED`. Another target than the key, which is legal without an order, is not chunked: it
//! sorts, and etcd's chunks, each sorted for itself, lose keys there.
//!
//! Invariant: the chunks merged are the answer to the unary request at the pinned revision; header,
//! `more` and `count` come with the last.

use prost::Message;
use varve_api::Status;
use varve_api::etcdserverpb::range_request::SortTarget;
use varve_api::etcdserverpb::{RangeRequest, RangeResponse};
use varve_lsm::Db;

use crate::error::Outcome;
use crate::kv;
use crate::range::{Count, Reader};

/// Keys in the first chunk.
const FIRST_CHUNK_KEYS: i64 = 10;

/// Iterator of [`crate::View::range_stream`]: chunks whose merge is the unary response. Ends after
/// the first error.
pub struct RangeStream {
    db: Db,
    /// The rest of the range, at the pinned revision.
    request: RangeRequest,
    /// Keys that may still come.
    keys_left: i64,
    /// Keys of the next chunk.
    chunk_keys: i64,
    chunk_bytes: usize,
    /// Current revision when the first chunk was read.
    header_revision: Option<u64>,
    /// Keys sent.
    count: i64,
    is_done: bool,
}

impl RangeStream {
    /// A stream that answers a valid request in chunks of about `chunk_bytes`.
    pub(crate) fn new(db: Db, request: RangeRequest, chunk_bytes: usize) -> Self {
        let keys_left = if request.limit > 0 { request.limit } else { i64::MAX };
        Self {
            db,
            request,
            keys_left,
            chunk_keys: FIRST_CHUNK_KEYS,
            chunk_bytes,
            header_revision: None,
            count: 0,
            is_done: false,
        }
    }

    fn chunk(&mut self) -> Outcome<RangeResponse> {
        let snapshot = self.db.snapshot();
        let reader = Reader::committed(&snapshot);
        let header_revision = *self.header_revision.get_or_insert(reader.current);
        if self.request.count_only || self.request.sort_target() != SortTarget::Key {
            self.is_done = true;
            return reader.range(&self.request, Count::All);
        }
        if self.request.revision <= 0 {
            self.request.revision = header_revision.cast_signed();
        }
        self.request.limit = self.chunk_keys.min(self.keys_left);
        let mut response = reader.range(&self.request, Count::Skip)?;
        response.header = None;
        let keys = response.kvs.len() as i64;
        self.count += keys;
        self.keys_left -= keys;
        if response.more {
            let last = response.kvs.last().expect("there is more behind a key");
            self.request.key = [last.key.as_ref(), b"\0"].concat().into();
        }
        self.chunk_keys =
            next_chunk_keys(self.request.limit, response.encoded_len(), self.chunk_bytes);
        self.is_done = !response.more || self.keys_left == 0;
        if self.is_done {
            response.header = kv::header(header_revision);
            response.count = self.count;
            if response.more {
                let rest = RangeRequest { count_only: true, ..self.request.clone() };
                response.count += reader.range(&rest, Count::Skip)?.count;
            }
        } else {
            response.more = false;
        }
        Ok(response)
    }
}

impl Iterator for RangeStream {
    type Item = Result<RangeResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let chunk = self.chunk();
        self.is_done |= chunk.is_err();
        Some(chunk.map_err(Status::from))
    }
}

/// Moves towards chunks of `target` bytes; within half and twice the target nothing moves.
fn next_chunk_keys(keys: i64, bytes: usize, target: usize) -> i64 {
    let next = match bytes {
        bytes if bytes < target / 2 => keys.saturating_mul(2),
        bytes if bytes > target.saturating_mul(2) => keys / 2,
        _ => keys,
    };
    next.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_and_shrink_towards_the_target() {
        assert_eq!(next_chunk_keys(10, 49, 100), 20);
        assert_eq!(next_chunk_keys(10, 50, 100), 10);
        assert_eq!(next_chunk_keys(10, 200, 100), 10);
        assert_eq!(next_chunk_keys(10, 201, 100), 5);
        assert_eq!(next_chunk_keys(1, 201, 100), 1);
        assert_eq!(next_chunk_keys(i64::MAX, 0, 100), i64::MAX);
    }
}
