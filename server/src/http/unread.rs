//! A request's body that nobody looks at: it is read away before the answer, within bounds.
//!
//! One idea: over HTTP/2 an answer to a request that has not ended is followed by a reset, and a client
//! that still sends may lose the answer over it (curl 7 did, nine times of ten). etcd has mostly read a
//! small body by then; who sends more than fits, or nothing for long, gets the answer and the reset.

use bytes::{Buf, Bytes};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::limits;

/// Reads to the end of a body, or until it is too long or too slow.
pub async fn read_away(mut body: impl Body<Data = Bytes> + Unpin) {
    let read = async {
        let mut bytes = 0;
        while bytes <= limits::UNREAD_BODY_BYTES_MAX {
            let Some(Ok(frame)) = body.frame().await else { return };
            bytes += frame.data_ref().map_or(0, Buf::remaining);
        }
    };
    let _late = timeout(limits::UNREAD_BODY_TIME_MAX, read).await;
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;

    /// Pieces, and then its end or nothing for ever.
    struct Pieces {
        left: VecDeque<Bytes>,
        ends: bool,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.left.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None if self.ends => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    fn left_of(pieces: usize, ends: bool) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let piece = Bytes::from(vec![0; 1024]);
        let mut body = Pieces { left: vec![piece; pieces].into(), ends };
        runtime.block_on(read_away(&mut body));
        body.left.len()
    }

    #[test]
    fn a_body_is_read_to_its_end_unless_it_is_long_or_silent() {
        assert_eq!(left_of(0, true), 0);
        assert_eq!(left_of(200, true), 0);
        assert_eq!(left_of(200, false), 0, "it says no more");
        assert_eq!(left_of(400, true), 400 - 257, "one piece beyond the bound");
    }
}
