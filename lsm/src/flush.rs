//! A frozen memtable becomes files: value segments, and one level-0 key table for each keyspace.
//!
//! Values longer than the inline limit are written to segments in key order, so that a range read
//! later walks them forward. Versions that nobody may read any more are not written at all: for
//! `kv` those whose successor is at or below the compacted revision *of this memtable's last
//! commit*, which becomes durable in the same manifest edit; for `sys` all but the newest.
//!
//! What it does not do: it makes no name durable and edits no manifest; see `worker.rs`.

use std::sync::Arc;

use bytes::Bytes;

use crate::files::FileIds;
use crate::garbage::{self, Fold};
use crate::manifest::{Level, TableRecord};
use crate::memtable::{Memtable, RecordRef};
use crate::output::{Place, SegmentOutput, TableOutput};
use crate::segment::SegmentInfo;
use crate::table::{Row, ValueRef};
use crate::{Delta, Error, Keyspace, Kind, Options, Result};

/// The files that came out of a memtable.
#[derive(Default)]
pub(crate) struct Flushed {
    pub tables: Vec<TableRecord>,
    pub segments: Vec<SegmentInfo>,
}

/// Writes a frozen memtable into new files; their contents are durable on return.
pub(crate) fn flush(
    memtable: &Arc<Memtable>,
    place: &Place,
    options: &Options,
    ids: &mut FileIds,
) -> Result<Flushed> {
    let compacted = memtable.committed().compacted;
    let segments = SegmentOutput::new(place.clone(), options.segment_bytes);
    let mut output = Output { place, options, ids, segments };
    let mut tables = Vec::new();
    for keyspace in [Keyspace::Kv, Keyspace::Sys] {
        tables.extend(output.flush_keyspace(memtable, keyspace, compacted)?);
    }
    Ok(Flushed { tables, segments: output.segments.finish()? })
}

struct Output<'a> {
    place: &'a Place,
    options: &'a Options,
    ids: &'a mut FileIds,
    segments: SegmentOutput,
}

impl Output<'_> {
    fn flush_keyspace(
        &mut self,
        memtable: &Arc<Memtable>,
        keyspace: Keyspace,
        compacted: u64,
    ) -> Result<Vec<TableRecord>> {
        // One table, however large: level 0 is ordered by age, not by key.
        let mut tables = TableOutput::new(self.place.clone(), keyspace, Level::Zero, u64::MAX);
        let mut fold = Fold::new(garbage::floor(keyspace, compacted));
        let mut next = memtable.first(keyspace);
        while let Some(newest) = next {
            let key = Bytes::copy_from_slice(newest.key());
            let mut record = Some(newest);
            while let Some(version) = record {
                let (revision, kind, delta) = (version.revision(), version.kind(), version.delta());
                if let Some(version) = fold.push(revision, kind, delta, version) {
                    self.write(&mut tables, &key, version, delta)?;
                }
                record = version.previous();
            }
            let oldest = fold.end_key().map_err(|sum| {
                let found = format!("{sum} for key {key:02x?}");
                Error::corrupt(&self.place.dir, 0, "deltas of a key within -1..=1", found)
            })?;
            if let Some((version, delta)) = oldest {
                self.write(&mut tables, &key, version, delta)?;
            }
            tables.end_key()?;
            next = newest.next_key();
        }
        tables.finish()
    }

    fn write(
        &mut self,
        tables: &mut TableOutput,
        key: &Bytes,
        version: RecordRef<'_>,
        delta: Delta,
    ) -> Result<()> {
        let value = match version.kind() {
            Kind::Delete => ValueRef::None,
            Kind::Put if version.value().len() <= self.options.inline_value_bytes_max => {
                ValueRef::Inline(Bytes::copy_from_slice(version.value()))
            }
            Kind::Put => ValueRef::Stored(self.segments.add(self.ids, version.value())?),
        };
        let row = Row {
            key: key.clone(),
            revision: version.revision(),
            kind: version.kind(),
            delta,
            meta: version.meta(),
            value,
        };
        tables.add(self.ids, &row)
    }
}
