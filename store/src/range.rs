//! Range reads at a revision, with etcd's rules on what is counted, cut and sorted.
//!
//! One idea: read as little as the answer allows. The rules, in order:
//!
//! 1. The revision: above the current one `FUTURE_REV`, 0 or less is the current one, below the
//!    compacted one `COMPACTED`. The header has the current revision, whatever was asked for.
//! 2. `count` is all keys in the range at that revision, whatever limit and filters say.
//! 3. Filters drop keys, then the rest is sorted, then cut at the limit; `more` is only about the
//!    cut.
//! 4. No filters and no order: the limit holds already while reading (and so comes *before* the
//!    sort if a target other than the key is given without an order, which sorts ascending).
//! 5. `keys_only` has no values and no lease; sorted by value it reads values, and keeps the lease.
//!
//! What is saved: counts are asked of the engine (sums, no walk); a sort with a limit runs over
//! entries without values and loads the values of the survivors only.

use std::cmp::Ordering;

use bytes::Bytes;
use varve_api::error as api;
use varve_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use varve_api::etcdserverpb::{RangeRequest, RangeResponse};
use varve_api::mvccpb::KeyValue;
use varve_lsm::{Direction, KeyRange, Keyspace, Kind, Snapshot, Values};

use crate::error::{Outcome, Result};
use crate::{kv, schema};

/// Whether a response says how many keys there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// `count` is all keys of the range.
    All,
    /// `count` stays 0.
    Skip,
}

/// A snapshot and the revisions by which requests are judged.
///
/// Invariant: `compacted <= current`.
pub(crate) struct Reader<'a> {
    pub snapshot: &'a Snapshot,
    /// The newest revision to be read.
    pub current: u64,
    pub compacted: u64,
}

impl Reader<'_> {
    /// What is committed.
    pub fn committed(snapshot: &Snapshot) -> Reader<'_> {
        Reader { snapshot, current: snapshot.visible(), compacted: snapshot.compacted() }
    }

    /// Answers a request.
    pub fn range(&self, request: &RangeRequest, count: Count) -> Outcome<RangeResponse> {
        let at = self.revision(request.revision)?;
        let mut response = RangeResponse { header: kv::header(self.current), ..Default::default() };
        let Some(range) = schema::key_range(&request.key, &request.range_end) else {
            return Ok(response);
        };
        if request.count_only {
            response.count = self.snapshot.count(Keyspace::Kv, &range, at)?.cast_signed();
            return Ok(response);
        }
        let plan = Plan::new(request);
        let (mut kvs, seen_all) = self.scan(request, &plan, &range, at)?;
        let filtered = has_filters(request);
        if count == Count::All {
            response.count = match seen_all && !filtered {
                true => kvs.len() as i64,
                false => self.snapshot.count(Keyspace::Kv, &range, at)?.cast_signed(),
            };
        }
        if let Some((target, order)) = plan.sort {
            kvs.sort_by(|left, right| compare(left, right, target, order));
        }
        if let Some(limit) = plan.limit
            && kvs.len() > limit
        {
            kvs.truncate(limit);
            response.more = true;
        }
        self.finish(request, &plan, &mut kvs, at)?;
        response.kvs = kvs;
        Ok(response)
    }

    /// The revision to read at.
    pub fn revision(&self, requested: i64) -> Outcome<u64> {
        if requested > self.current.cast_signed() {
            return Err(api::FUTURE_REV.into());
        }
        let at = if requested <= 0 { self.current } else { requested.cast_unsigned() };
        if at < self.compacted {
            return Err(api::COMPACTED.into());
        }
        Ok(at)
    }

    /// The keys that pass the filters, in key order, at most `plan.read_max` of them; and whether
    /// these are all.
    fn scan(
        &self,
        request: &RangeRequest,
        plan: &Plan,
        range: &KeyRange,
        at: u64,
    ) -> Result<(Vec<KeyValue>, bool)> {
        if request.range_end.is_empty() {
            let key = &request.key;
            let kv = self.snapshot.get_with(Keyspace::Kv, key, at, |row| {
                let is_live = row.kind() == Kind::Put;
                is_live.then(|| schema::key_value_of_row(&row, key.clone(), plan.values))
            })?;
            let kv = kv.flatten().transpose()?;
            return Ok((kv.into_iter().filter(|kv| passes_filters(request, kv)).collect(), true));
        }
        let mut kvs = Vec::new();
        let mut rows = self.snapshot.rows(Keyspace::Kv, range.clone(), at, Direction::Forward);
        while let Some(row) = rows.next_row()? {
            let key = Bytes::copy_from_slice(row.key());
            let kv = schema::key_value_of_row(&row, key, plan.values)?;
            if !passes_filters(request, &kv) {
                continue;
            }
            kvs.push(kv);
            if kvs.len() >= plan.read_max {
                return Ok((kvs, false));
            }
        }
        Ok((kvs, true))
    }

    /// Gives the keys that are left the values that they should have.
    fn finish(
        &self,
        request: &RangeRequest,
        plan: &Plan,
        kvs: &mut [KeyValue],
        at: u64,
    ) -> Result<()> {
        for kv in kvs {
            if plan.is_value_late {
                let entry = self.snapshot.get(Keyspace::Kv, &kv.key, at)?;
                kv.value = schema::live(entry).expect("it was live in the same snapshot").value;
            }
            if request.keys_only {
                kv.value.clear();
            }
            if plan.is_index_only {
                kv.lease = 0;
            }
        }
        Ok(())
    }
}

/// How a request is read.
struct Plan {
    /// Cut behind so many keys.
    limit: Option<usize>,
    /// Stop reading after so many keys that pass the filters.
    read_max: usize,
    sort: Option<(SortTarget, SortOrder)>,
    /// What the scan reads.
    values: Values,
    /// The values are loaded after the cut.
    is_value_late: bool,
    /// etcd answers from its index, which knows no leases.
    is_index_only: bool,
}

impl Plan {
    fn new(request: &RangeRequest) -> Self {
        let (target, order) = (request.sort_target(), request.sort_order());
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        let sort = match (target, order) {
            (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => None,
            (target, SortOrder::None) => Some((target, SortOrder::Ascend)),
            sort => Some(sort),
        };
        // Rule 4: without an order the limit is applied while reading, even if a sort follows.
        let is_limit_first = is_default_order(request) && !has_filters(request);
        let read_max = match limit {
            Some(limit) if is_limit_first || sort.is_none() => limit.saturating_add(1),
            _ => usize::MAX,
        };
        let is_index_only = request.keys_only && target != SortTarget::Value;
        let is_value_late = !is_index_only
            && limit.is_some()
            && read_max == usize::MAX
            && target != SortTarget::Value;
        let values = if is_index_only || is_value_late { Values::Skip } else { Values::Load };
        Self { limit, read_max, sort, values, is_value_late, is_index_only }
    }
}

/// Whether keys come in the order in which they are stored, as far as the request says.
pub(crate) fn is_default_order(request: &RangeRequest) -> bool {
    let (target, order) = (request.sort_target(), request.sort_order());
    order == SortOrder::None || (target == SortTarget::Key && order == SortOrder::Ascend)
}

/// Whether a request filters by revision.
pub(crate) fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn passes_filters(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |revision: i64, min: i64, max: i64| {
        (min == 0 || revision >= min) && (max == 0 || revision <= max)
    };
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

/// Equals keep the order of their keys, up or down: the sort is stable.
fn compare(left: &KeyValue, right: &KeyValue, target: SortTarget, order: SortOrder) -> Ordering {
    let ascending = match target {
        SortTarget::Key => left.key.cmp(&right.key),
        SortTarget::Version => left.version.cmp(&right.version),
        SortTarget::Create => left.create_revision.cmp(&right.create_revision),
        SortTarget::Mod => left.mod_revision.cmp(&right.mod_revision),
        SortTarget::Value => left.value.cmp(&right.value),
    };
    match order {
        SortOrder::Descend => ascending.reverse(),
        SortOrder::None | SortOrder::Ascend => ascending,
    }
}
