//! A range in chunks.

use varve_api::Status;
use varve_api::etcdserverpb::RangeResponse;

/// Iterator of [`crate::View::range_stream`]: chunks whose merge is the unary response. Ends after
/// the first error.
pub struct RangeStream {
    _private: (),
}

impl Iterator for RangeStream {
    type Item = Result<RangeResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
