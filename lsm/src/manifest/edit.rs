//! One change of the set of files, and what a sequence of changes adds up to.
//!
//! An [`Edit`] is what the manifest is a log of. Applied in order to an empty [`State`] the edits
//! give the state of the engine; a state turned back into one edit is a snapshot. Both are pure
//! data. Their bytes are specified in docs/FORMAT.md section 2.3.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::codec::{Decoder, Encoder, Wrong};
use crate::Keyspace;
use crate::garbage::Garbage;
use crate::segment::SegmentInfo;
use crate::table::TableInfo;

/// Where a table stands among the tables of its keyspace, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Above the bottom: in tier 0 a flushed memtable, in each higher tier what was merged out of
    /// those with lower numbers. Newer than what was added to its tier before, than tiers with higher
    /// numbers, and than the bottom. Tables of a tier that one edit added do not overlap.
    Tier(u8),
    /// Part of the one sorted run of all else; key ranges of its tables do not overlap.
    Bottom,
}

impl Level {
    /// Level 0: where memtables are flushed to.
    pub(crate) const ZERO: Self = Self::Tier(0);
}

/// The highest tier that there is.
pub(crate) const TIER_MAX: u8 = 15;

/// A table as the manifest knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableRecord {
    pub keyspace: Keyspace,
    pub level: Level,
    pub info: TableInfo,
    pub garbage: Garbage,
}

/// One atomic change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Where the caller's log stands with these files; `None`: nothing was ever flushed.
    pub mark: Option<Bytes>,
    pub kv_visible: u64,
    pub compacted: u64,
    /// Sequence numbers below this one were given to files.
    pub next_sequence: u32,
    pub removed_tables: Vec<u64>,
    pub removed_segments: Vec<u64>,
    pub added_tables: Vec<TableRecord>,
    pub added_segments: Vec<SegmentInfo>,
}

/// What the edits so far add up to.
///
/// Invariants: file ids are unique; `compacted <= kv_visible`; neither goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub mark: Option<Bytes>,
    pub kv_visible: u64,
    pub compacted: u64,
    pub next_sequence: u32,
    /// In the order they were added: those of a tier oldest first.
    pub tables: Vec<TableRecord>,
    pub segments: BTreeMap<u64, SegmentInfo>,
}

impl State {
    /// Applies an edit, or says what in it cannot be.
    pub(crate) fn apply(&mut self, edit: Edit) -> Result<(), (String, String)> {
        let wrong = |expected: &str, found: String| Err((expected.to_owned(), found));
        if edit.kv_visible < self.kv_visible || edit.compacted < self.compacted {
            let before = (self.kv_visible, self.compacted);
            let found = format!("{:?}, before {before:?}", (edit.kv_visible, edit.compacted));
            return wrong("growing visible and compacted revisions", found);
        }
        if edit.compacted > edit.kv_visible || edit.next_sequence < self.next_sequence {
            let found = format!(
                "compacted {}, visible {}, sequence {} after {}",
                edit.compacted, edit.kv_visible, edit.next_sequence, self.next_sequence
            );
            return wrong("compacted <= visible and a growing file sequence", found);
        }
        for id in edit.removed_tables {
            let Some(position) = self.tables.iter().position(|table| table.info.id == id) else {
                return wrong("the removal of a table that is there", format!("{id:016x}"));
            };
            self.tables.remove(position);
        }
        for id in edit.removed_segments {
            if self.segments.remove(&id).is_none() {
                return wrong("the removal of a segment that is there", format!("{id:016x}"));
            }
        }
        for table in edit.added_tables {
            if self.tables.iter().any(|known| known.info.id == table.info.id) {
                return wrong("a new table", format!("{:016x} twice", table.info.id));
            }
            self.tables.push(table);
        }
        for segment in edit.added_segments {
            let id = segment.id;
            if self.segments.insert(id, segment).is_some() {
                return wrong("a new segment", format!("{id:016x} twice"));
            }
        }
        self.mark = edit.mark;
        self.kv_visible = edit.kv_visible;
        self.compacted = edit.compacted;
        self.next_sequence = edit.next_sequence;
        Ok(())
    }

    /// The edit that makes this state from nothing.
    pub(crate) fn to_edit(&self) -> Edit {
        Edit {
            mark: self.mark.clone(),
            kv_visible: self.kv_visible,
            compacted: self.compacted,
            next_sequence: self.next_sequence,
            removed_tables: Vec::new(),
            removed_segments: Vec::new(),
            added_tables: self.tables.clone(),
            added_segments: self.segments.values().cloned().collect(),
        }
    }
}

impl Edit {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Encoder::default();
        to.u8(u8::from(self.mark.is_some()));
        to.string(self.mark.as_deref().unwrap_or_default());
        to.u64(self.kv_visible);
        to.u64(self.compacted);
        to.u32(self.next_sequence);
        for ids in [&self.removed_tables, &self.removed_segments] {
            to.length(ids.len());
            ids.iter().for_each(|id| to.u64(*id));
        }
        to.length(self.added_tables.len());
        self.added_tables.iter().for_each(|table| encode_table(&mut to, table));
        to.length(self.added_segments.len());
        self.added_segments.iter().for_each(|segment| encode_segment(&mut to, segment));
        to.finish()
    }

    /// From a manifest of this version.
    pub(super) fn decode(bytes: &[u8], version: u32) -> Result<Self, Wrong> {
        let mut from = Decoder::new(bytes);
        let has_mark = match from.u8()? {
            0 => false,
            1 => true,
            other => return Err(from.wrong("0 or 1 before the mark", other.to_string())),
        };
        let mark = from.string()?;
        let edit = Self {
            mark: has_mark.then_some(mark),
            kv_visible: from.u64()?,
            compacted: from.u64()?,
            next_sequence: from.u32()?,
            removed_tables: from.list(Decoder::u64)?,
            removed_segments: from.list(Decoder::u64)?,
            added_tables: from.list(|from| decode_table(from, version))?,
            added_segments: from.list(decode_segment)?,
        };
        from.end()?;
        Ok(edit)
    }
}

const KEYSPACE_KV: u8 = 0;
const KEYSPACE_SYS: u8 = 1;
const LEVEL_ZERO: u8 = 0;
const LEVEL_BOTTOM: u8 = 1;
/// Behind the two that were there first: tiers from 1 on.
const LEVEL_TIER_1: u8 = 2;
const LEVEL_TIER_MAX: u8 = LEVEL_TIER_1 + TIER_MAX - 1;

fn encode_table(to: &mut Encoder, table: &TableRecord) {
    to.u8(match table.keyspace {
        Keyspace::Kv => KEYSPACE_KV,
        Keyspace::Sys => KEYSPACE_SYS,
    });
    to.u8(match table.level {
        Level::ZERO => LEVEL_ZERO,
        Level::Bottom => LEVEL_BOTTOM,
        Level::Tier(tier) => LEVEL_TIER_1 + tier - 1,
    });
    let info = &table.info;
    to.u64(info.id);
    to.u64(info.bytes);
    to.u128(info.digest);
    to.string(&info.first_key);
    to.string(&info.last_key);
    to.u64(info.rows);
    to.revision(info.revision_min);
    to.revision(info.revision_max);
    to.i64(info.delta_sum);
    to.length(info.segments.len());
    for (segment, rows, value_bytes) in &info.segments {
        to.u64(*segment);
        to.u64(*rows);
        to.u64(*value_bytes);
    }
    to.length(table.garbage.buckets.len());
    for (revision, rows, value_bytes) in &table.garbage.buckets {
        to.u64(*revision);
        to.u64(*rows);
        to.u64(*value_bytes);
    }
}

fn decode_table(from: &mut Decoder<'_>, version: u32) -> Result<TableRecord, Wrong> {
    let keyspace = match from.u8()? {
        KEYSPACE_KV => Keyspace::Kv,
        KEYSPACE_SYS => Keyspace::Sys,
        other => return Err(from.wrong("keyspace 0 or 1", other.to_string())),
    };
    let level = match from.u8()? {
        LEVEL_ZERO => Level::ZERO,
        LEVEL_BOTTOM => Level::Bottom,
        tier @ LEVEL_TIER_1..=LEVEL_TIER_MAX => Level::Tier(tier - LEVEL_TIER_1 + 1),
        other => {
            return Err(from.wrong(format!("level 0 to {LEVEL_TIER_MAX}"), other.to_string()));
        }
    };
    let info = TableInfo {
        id: from.u64()?,
        bytes: from.u64()?,
        digest: from.u128()?,
        first_key: from.string()?,
        last_key: from.string()?,
        rows: from.u64()?,
        revision_min: from.revision()?,
        revision_max: from.revision()?,
        delta_sum: from.i64()?,
        segments: from.list(|from| Ok((from.u64()?, from.u64()?, from.u64()?)))?,
    };
    // Version 1 counts no bytes: none that could be proven.
    let value_bytes = |from: &mut Decoder<'_>| if version == 1 { Ok(0) } else { from.u64() };
    let buckets = from.list(|from| Ok((from.u64()?, from.u64()?, value_bytes(from)?)))?;
    Ok(TableRecord { keyspace, level, info, garbage: Garbage { buckets } })
}

fn encode_segment(to: &mut Encoder, segment: &SegmentInfo) {
    to.u64(segment.id);
    to.u64(segment.bytes);
    to.u128(segment.digest);
    to.u64(segment.values);
    to.u64(segment.value_bytes);
}

fn decode_segment(from: &mut Decoder<'_>) -> Result<SegmentInfo, Wrong> {
    Ok(SegmentInfo {
        id: from.u64()?,
        bytes: from.u64()?,
        digest: from.u128()?,
        values: from.u64()?,
        value_bytes: from.u64()?,
    })
}
