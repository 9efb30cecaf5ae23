//! A key block: some hundred rows, read in place.
//!
//! One idea: every property of a row is one load at a computed place, and every key three slices
//! (block prefix, bundle prefix, suffix), so a row costs the same wherever it stands. Rows come in
//! bundles of [`BUNDLE_ROWS`]; a bundle stores the prefix its keys share once, and a row whose key
//! is that of the row before it stores no suffix. The search goes over the bundles' heads first
//! (eight bytes each, in one or two cache lines) and touches key bytes only where heads are equal.
//! Layout: docs/FORMAT.md section 2.1, "Block".
//!
//! [`Layout::parse`] has checked that all columns lie inside of the block; what depends on single
//! elements is checked where it is used. Nothing in here panics on damaged bytes.

use std::cmp::Ordering;

use super::control::{Control, ValuePlace};
use super::frame::{Flaw, Parsed};
use super::layout::{BUNDLE_ROWS, HEAD_BYTES, Layout};
use crate::entry::META_BYTES_MAX;
use crate::{Meta, Revision};

/// Where a search shall stop among the versions of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// At the newest version with this revision or an older one.
    At(Revision),
    /// Behind the oldest version.
    Past,
}

impl Version {
    /// Whether a row of the searched key with this revision comes before the target.
    #[inline]
    pub fn is_after(self, revision: Revision) -> bool {
        match self {
            Self::At(at) => revision > at,
            Self::Past => true,
        }
    }
}

/// The first eight bytes of a key as a number that orders like the keys do, where it differs.
#[inline]
pub(super) fn head(key: &[u8]) -> u64 {
    let mut word = [0; HEAD_BYTES];
    let length = key.len().min(HEAD_BYTES);
    word[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(word)
}

/// A block and its layout.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    bytes: &'a [u8],
    layout: &'a Layout,
}

/// The value of a row, before the segment's number is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockValue {
    /// There is none.
    None,
    /// At this place in the block.
    Inline { start: u32, length: u32 },
    /// In the segment with this number in the table's dictionary.
    Stored { segment: u32, offset: u32, length: u32 },
}

impl<'a> Block<'a> {
    /// `bytes` must be those that `layout` was parsed from.
    #[inline]
    pub fn new(bytes: &'a [u8], layout: &'a Layout) -> Self {
        Self { bytes, layout }
    }

    /// The control bytes of all rows.
    #[inline]
    pub fn controls(&self) -> &'a [u8] {
        self.layout.controls.of(self.bytes)
    }

    /// The control byte of a row.
    #[inline]
    pub fn control(&self, row: u32) -> Control {
        Control(self.bytes[self.layout.controls.start as usize + row as usize])
    }

    /// The `main` of a row's revision.
    #[inline]
    pub fn main(&self, row: u32) -> u64 {
        self.layout.main_min.wrapping_add(self.layout.main.get(self.bytes, row))
    }

    /// The revision of a row.
    #[inline]
    pub fn revision(&self, row: u32) -> Revision {
        Revision { main: self.main(row), sub: self.layout.sub.get(self.bytes, row) as u32 }
    }

    /// The meta of a row.
    pub fn meta(&self, row: u32) -> Parsed<Meta> {
        let bytes = self.meta_bytes(row)?;
        Ok(Meta::new(bytes).expect("the length was checked"))
    }

    /// The bytes of a row's meta, at most [`META_BYTES_MAX`].
    #[inline]
    pub fn meta_bytes(&self, row: u32) -> Parsed<&'a [u8]> {
        let start = if row == 0 { 0 } else { self.layout.meta_end.get(self.bytes, row - 1) };
        let end = self.layout.meta_end.get(self.bytes, row);
        self.layout
            .metas
            .of(self.bytes)
            .get(start as usize..end as usize)
            .filter(|bytes| bytes.len() <= META_BYTES_MAX)
            .ok_or_else(|| self.meta_flaw(row, start, end))
    }

    #[cold]
    fn meta_flaw(&self, row: u32, start: u64, end: u64) -> Box<Flaw> {
        self.flaw(row, "a short meta in the area", format!("{start}..{end}"))
    }

    /// Where the value of a row is.
    pub fn value(&self, row: u32) -> Parsed<BlockValue> {
        let layout = self.layout;
        let place = self.control(row).place();
        if place == ValuePlace::None {
            return Ok(BlockValue::None);
        }
        let offset = layout.value_offset.get(self.bytes, row) as u32;
        let length = layout.value_length.get(self.bytes, row) as u32;
        match place {
            ValuePlace::Inline => {
                let end = u64::from(offset) + u64::from(length);
                if end > u64::from(layout.values.length) {
                    let expected = format!("an end up to {}", layout.values.length);
                    return Err(self.flaw(row, expected, end));
                }
                Ok(BlockValue::Inline { start: layout.values.start + offset, length })
            }
            ValuePlace::Stored => Ok(BlockValue::Stored {
                segment: layout.segment.get(self.bytes, row) as u32,
                offset: layout.stored_offset_min.wrapping_add(offset),
                length,
            }),
            ValuePlace::None | ValuePlace::Invalid => {
                Err(self.flaw(row, "a valid control byte", self.control(row).0))
            }
        }
    }

    /// Length of the value of a row in bytes; 0 without a value.
    #[inline]
    pub fn value_length(&self, row: u32) -> u32 {
        self.layout.value_length.get(self.bytes, row) as u32
    }

    /// What all keys of the block begin with.
    #[inline]
    pub fn prefix(&self) -> &'a [u8] {
        self.layout.prefix.of(self.bytes)
    }

    /// What all keys of the row's bundle have behind the prefix of the block.
    #[inline]
    pub fn bundle_prefix(&self, row: u32) -> Parsed<&'a [u8]> {
        self.key_part(row, row / BUNDLE_ROWS * (BUNDLE_ROWS + 1))
    }

    /// The rest of the row's key as stored: empty if the row has the key of the one before.
    #[inline]
    pub fn stored_suffix(&self, row: u32) -> Parsed<&'a [u8]> {
        self.key_part(row, row + row / BUNDLE_ROWS + 1)
    }

    /// The rest of the row's key.
    #[inline]
    pub fn suffix(&self, row: u32) -> Parsed<&'a [u8]> {
        let mut owner = row;
        while !owner.is_multiple_of(BUNDLE_ROWS) && self.control(owner).is_same_key() {
            owner -= 1;
        }
        self.stored_suffix(owner)
    }

    /// Part `part` of the key bytes: per bundle its prefix, then the suffixes of its rows.
    #[inline]
    fn key_part(&self, row: u32, part: u32) -> Parsed<&'a [u8]> {
        let start = if part == 0 { 0 } else { self.layout.key_end.get(self.bytes, part - 1) };
        let end = self.layout.key_end.get(self.bytes, part);
        let keys = self.layout.keys.of(self.bytes);
        keys.get(start as usize..end as usize).ok_or_else(|| self.key_flaw(row, start, end))
    }

    #[cold]
    fn key_flaw(&self, row: u32, start: u64, end: u64) -> Box<Flaw> {
        self.flaw(row, "key bytes in the area", format!("{start}..{end}"))
    }

    /// Appends the row's key to `key`.
    pub fn append_key(&self, row: u32, key: &mut Vec<u8>) -> Parsed<()> {
        key.extend_from_slice(self.prefix());
        key.extend_from_slice(self.bundle_prefix(row)?);
        key.extend_from_slice(self.suffix(row)?);
        Ok(())
    }

    /// Whether the row's key is `key`.
    #[inline]
    fn is_key(&self, row: u32, key: &[u8]) -> Parsed<bool> {
        let Some(rest) = key.strip_prefix(self.prefix()) else { return Ok(false) };
        let Some(rest) = rest.strip_prefix(self.bundle_prefix(row)?) else { return Ok(false) };
        Ok(rest == self.suffix(row)?)
    }

    /// The first row that does not come before the target; `rows` if all do.
    pub fn lower_bound(&self, key: &[u8], version: Version) -> Parsed<u32> {
        Ok(self.search(key, version)?.0)
    }

    /// The first row that does not come before the target, if its key is `key`.
    pub fn find(&self, key: &[u8], version: Version) -> Parsed<Option<u32>> {
        let (row, rest) = self.search(key, version)?;
        let is_found = match rest {
            _ if row == self.layout.rows => false,
            Some(rest) => rest == self.suffix(row)?,
            None => self.is_key(row, key)?,
        };
        Ok(is_found.then_some(row))
    }

    /// The first row that does not come before the target, and, if that is in the bundle that was
    /// searched, what `key` has behind the prefixes of that.
    fn search<'k>(&self, key: &'k [u8], version: Version) -> Parsed<(u32, Option<&'k [u8]>)> {
        let rest = match split(key, self.prefix()) {
            Ok(rest) => rest,
            Err(Ordering::Less) => return Ok((0, None)),
            Err(_) => return Ok((self.layout.rows, None)),
        };
        let bundles = self.bundles_before(rest, version)?;
        if bundles == 0 {
            return Ok((0, None));
        }
        // The last bundle whose first row comes before the target.
        let first = (bundles - 1) * BUNDLE_ROWS;
        let end = self.bundle_end(first);
        let rest = match split(rest, self.bundle_prefix(first)?) {
            Ok(rest) => rest,
            Err(Ordering::Less) => return Ok((first, None)),
            Err(_) => return Ok((end, None)),
        };
        let row = self.lower_bound_in_bundle(first + 1, rest, version)?;
        Ok((row, (row < end).then_some(rest)))
    }

    /// Where the bundle of a row ends.
    #[inline]
    pub fn bundle_end(&self, row: u32) -> u32 {
        self.layout.rows.min((row / BUNDLE_ROWS + 1) * BUNDLE_ROWS)
    }

    /// From `row` to the end of its bundle, the first row that does not come before the target, of
    /// which `rest` is without the prefixes of block and bundle.
    pub fn lower_bound_in_bundle(&self, row: u32, rest: &[u8], version: Version) -> Parsed<u32> {
        let end = self.bundle_end(row);
        partition_point(row, end, |row| self.is_before(self.suffix(row)?, row, rest, version))
    }

    /// The sum of the deltas of `rows` with `revision.main <= at`.
    pub fn delta_sum(&self, rows: std::ops::Range<u32>, at: u64) -> i64 {
        let is_all = self.layout.main_max <= at;
        let mut sum = 0;
        for row in rows {
            if is_all || self.main(row) <= at {
                sum += i64::from(self.control(row).delta() as i8);
            }
        }
        sum
    }

    /// Number of bundles whose first row comes before the target; `rest` is without the prefix.
    fn bundles_before(&self, rest: &[u8], version: Version) -> Parsed<u32> {
        let (heads, _) = self.layout.heads.of(self.bytes).as_chunks::<HEAD_BYTES>();
        let target = head(rest);
        let less = heads.partition_point(|head| u64::from_be_bytes(*head) < target);
        let equal = heads[less..].partition_point(|head| u64::from_be_bytes(*head) == target);
        partition_point(less as u32, (less + equal) as u32, |bundle| {
            let row = bundle * BUNDLE_ROWS;
            match split(rest, self.bundle_prefix(row)?) {
                Ok(rest) => self.is_before(self.stored_suffix(row)?, row, rest, version),
                Err(order) => Ok(order == Ordering::Greater),
            }
        })
    }

    /// Whether a row with this suffix comes before the target.
    #[inline]
    fn is_before(&self, suffix: &[u8], row: u32, rest: &[u8], version: Version) -> Parsed<bool> {
        Ok(match suffix.cmp(rest) {
            Ordering::Less => true,
            Ordering::Equal => version.is_after(self.revision(row)),
            Ordering::Greater => false,
        })
    }

    #[cold]
    fn flaw(&self, row: u32, expected: impl ToString, found: impl ToString) -> Box<Flaw> {
        let found = format!("{} in row {row}", found.to_string());
        Flaw::new(0, expected, found)
    }
}

/// What `key` has behind `prefix`, or how it is ordered against the keys that begin with it.
#[inline]
pub(super) fn split<'k>(key: &'k [u8], prefix: &[u8]) -> std::result::Result<&'k [u8], Ordering> {
    match key.strip_prefix(prefix) {
        Some(rest) => Ok(rest),
        None => Err(key.cmp(prefix)),
    }
}

/// The first of `start..end` for which `is_before` is false; it must be true before and false
/// after.
#[inline]
fn partition_point(
    mut start: u32,
    mut end: u32,
    mut is_before: impl FnMut(u32) -> Parsed<bool>,
) -> Parsed<u32> {
    while start < end {
        let middle = start + (end - start) / 2;
        if is_before(middle)? {
            start = middle + 1;
        } else {
            end = middle;
        }
    }
    Ok(start)
}
