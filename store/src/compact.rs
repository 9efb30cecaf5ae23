//! Compaction: which revisions still have an answer.
//!
//! One idea: compacting is one number. It is visible to every later read at once; the engine drops
//! what lies below it whenever it merges tables. So a compaction costs nothing here, and `physical`
//! is the server's to wait for.

use varve_api::error as api;
use varve_api::etcdserverpb::{CompactionRequest, CompactionResponse};

use crate::error::Outcome;
use crate::kv;
use crate::state::State;

/// Applies a `Compact`.
///
/// Revision 0 of a store that was never compacted is accepted and changes nothing, as etcd's first
/// compaction at 0 does.
pub(crate) fn compact(
    state: &mut State,
    request: &CompactionRequest,
    compacted: &mut Option<i64>,
) -> Outcome<CompactionResponse> {
    if request.revision <= floor(state.compacted) {
        return Err(api::COMPACTED.into());
    }
    if request.revision > state.revision.cast_signed() {
        return Err(api::FUTURE_REV.into());
    }
    state.compacted = request.revision.cast_unsigned();
    *compacted = Some(request.revision);
    Ok(CompactionResponse { header: kv::header(state.revision) })
}

/// The compacted revision as etcd compares it: -1 when never compacted.
pub(crate) fn floor(compacted: u64) -> i64 {
    match compacted {
        0 => -1,
        revision => revision.cast_signed(),
    }
}
