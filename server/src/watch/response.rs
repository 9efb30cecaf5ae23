//! The bytes of watch responses. Events are encoded already (`batch`), so a response is a small
//! head and the events' bytes one after the other; concatenated fields of a protobuf message are
//! the message.

use bytes::Bytes;
use prost::Message;
use varve_api::etcdserverpb::WatchResponse;

use crate::cluster::Cluster;
use crate::grpc::Encoded;
use crate::limits;

/// Beyond this size a response is sent as parts instead of being copied together.
const COPY_BYTES_MAX: usize = 64 << 10;

/// A response without events.
pub fn control(response: &WatchResponse) -> Encoded {
    Encoded::message(response)
}

/// A response with events.
pub fn events(
    cluster: &Cluster,
    revision: i64,
    watch_id: i64,
    fragment: bool,
    events: &[Bytes],
) -> Encoded {
    let head = WatchResponse {
        header: Some(cluster.header(revision)),
        watch_id,
        fragment,
        ..WatchResponse::default()
    }
    .encode_to_vec();
    let length = head.len() + events.iter().map(Bytes::len).sum::<usize>();
    if length > COPY_BYTES_MAX {
        return Encoded::parts(&head, events.to_vec());
    }
    Encoded::written(length, |buffer| {
        buffer.extend_from_slice(&head);
        events.iter().for_each(|event| buffer.extend_from_slice(event));
    })
}

/// Most bytes of events in one response. Whoever did not ask for fragments gets them only when no
/// gRPC client could take the whole.
pub fn piece_bytes_max(wants_fragments: bool, fragment_bytes_max: usize) -> usize {
    if wants_fragments { fragment_bytes_max } else { limits::RESPONSE_BYTES_MAX }
}

/// Cuts events into pieces of at most `bytes_max`, at least one event each.
pub fn fragments(events: &[Bytes], bytes_max: usize) -> Vec<&[Bytes]> {
    let mut pieces = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, event) in events.iter().enumerate() {
        if at > from && bytes + event.len() > bytes_max {
            pieces.push(&events[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += event.len();
    }
    pieces.push(&events[from..]);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_keep_order_and_respect_the_bound_where_they_can() {
        let events: Vec<Bytes> =
            [3, 3, 3, 9, 1].iter().map(|length| Bytes::from(vec![0; *length])).collect();
        let sizes: Vec<Vec<usize>> = fragments(&events, 6)
            .iter()
            .map(|piece| piece.iter().map(Bytes::len).collect())
            .collect();
        assert_eq!(sizes, [vec![3, 3], vec![3], vec![9], vec![1]]);
    }
}
