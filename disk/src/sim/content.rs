//! What a simulated file holds, now and after a crash.
//!
//! One idea: a sector, and likewise the length, is a list of versions: first the durable one, then
//! one for each unsynced write that touched it. A crash picks one version of each, independently.
//! That is the rule of the crate ("either old or new, never a mixture", "in any order") and
//! nothing more: because a version is the whole sector as it stood after a write, a later write is
//! never found without the earlier ones to the same sector, as with a page cache.
//!
//! Sectors are immutable and shared, so that a copy of a disk copies no bytes.
//!
//! What it does not do: names, capacity, and the choice of versions (`crash.rs`).

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::SECTOR_BYTES;

const SECTOR_USIZE: usize = SECTOR_BYTES as usize;

/// Bytes of a file, sparse.
///
/// Invariants: every stored sector is `SECTOR_BYTES` long; a missing one is zero; what lies behind
/// `length_bytes` is zero (except in a durable content whose longer length was abandoned by a
/// failed sync while a later one brought its bytes to the medium: no reader sees those).
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    length_bytes: u64,
    sectors: BTreeMap<u64, Bytes>,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.length_bytes
    }

    /// Fills `buffer` from `offset`; fewer bytes than asked only at the end.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let available = self.length_bytes.saturating_sub(offset);
        let count = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
        buffer[..count].fill(0);
        let end = offset + count as u64;
        for (&number, bytes) in
            self.sectors.range(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES))
        {
            let sector_start = number * SECTOR_BYTES;
            let from = offset.max(sector_start);
            let to = end.min(sector_start + SECTOR_BYTES);
            // An empty read in the middle of a sector still meets that sector.
            if from < to {
                let source = (from - sector_start) as usize..(to - sector_start) as usize;
                let target = (from - offset) as usize..(to - offset) as usize;
                buffer[target].copy_from_slice(&bytes[source]);
            }
        }
        count
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length_bytes as usize];
        self.read(0, &mut bytes);
        bytes
    }

    /// A sector, or `None` if it is all zeros.
    fn sector(&self, number: u64) -> Option<&Bytes> {
        self.sectors.get(&number)
    }

    fn put_sector(&mut self, number: u64, bytes: Option<Bytes>) {
        match bytes {
            Some(bytes) => {
                assert_eq!(bytes.len(), SECTOR_USIZE, "sector {number} has a wrong length");
                self.sectors.insert(number, bytes);
            }
            None => {
                self.sectors.remove(&number);
            }
        }
    }

    /// Sets the length and restores the invariants: zeros behind it.
    fn cut_or_extend(&mut self, length_bytes: u64) {
        self.length_bytes = length_bytes;
        drop(self.sectors.split_off(&length_bytes.div_ceil(SECTOR_BYTES)));
        let used = (length_bytes % SECTOR_BYTES) as usize;
        let last = length_bytes / SECTOR_BYTES;
        if used > 0
            && let Some(bytes) = self.sectors.get_mut(&last)
            && bytes[used..].iter().any(|&byte| byte != 0)
        {
            let mut cut = BytesMut::from(&bytes[..]);
            cut[used..].fill(0);
            *bytes = cut.freeze();
        }
    }
}

/// One state that a sector or a length was in since it was last durable.
#[derive(Clone, Debug)]
struct Version<T> {
    /// The number of the disk operation that made it.
    operation: u64,
    value: T,
    /// A sync failed after it: it may be found after a crash, but no later sync makes it durable
    /// (the kernel took the page for clean).
    abandoned: bool,
}

/// A file: its content now, its content on the medium, and what may be found in between.
///
/// Invariants: versions are in order of `operation`, abandoned ones before others; the current
/// content equals the durable content with the last version of everything applied.
#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    current: Content,
    durable: Content,
    sectors: BTreeMap<u64, Vec<Version<Option<Bytes>>>>,
    lengths: Vec<Version<u64>>,
}

/// Decides how many of the unsynced versions of one thing a crash keeps.
pub(super) trait PickVersions {
    /// `operations` holds the operation of each unsynced version, oldest first. The answer is how
    /// many of them took place, `0..=operations.len()`.
    fn pick(&mut self, operations: &[u64]) -> usize;

    /// The length found, if the write that made the file `to` bytes long was being carried out.
    fn pick_length(&mut self, from: u64, to: u64, operation: u64) -> u64;
}

impl FileState {
    /// A file whose content is durable.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        let mut file = Self::default();
        file.write(0, 0, bytes);
        file.sync();
        file
    }

    pub(super) fn current(&self) -> &Content {
        &self.current
    }

    pub(super) fn durable_content(&self) -> &Content {
        &self.durable
    }

    pub(super) fn write(&mut self, operation: u64, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u64;
        if end > self.current.len() {
            self.set_length(operation, end);
        }
        let shared = Bytes::copy_from_slice(data);
        for number in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let sector_start = number * SECTOR_BYTES;
            let from = offset.max(sector_start);
            let to = end.min(sector_start + SECTOR_BYTES);
            let source = (from - offset) as usize..(to - offset) as usize;
            let sector = if source.len() == SECTOR_USIZE {
                shared.slice(source)
            } else {
                let mut whole = match self.current.sector(number) {
                    Some(bytes) => BytesMut::from(&bytes[..]),
                    None => BytesMut::zeroed(SECTOR_USIZE),
                };
                let target = (from - sector_start) as usize..(to - sector_start) as usize;
                whole[target].copy_from_slice(&data[source]);
                whole.freeze()
            };
            let sector = sector.iter().any(|&byte| byte != 0).then_some(sector);
            self.push_sector(operation, number, sector);
        }
    }

    /// Cuts or extends; the sectors that a cut clears get a version like any other.
    pub(super) fn set_length(&mut self, operation: u64, length_bytes: u64) {
        if length_bytes == self.current.len() {
            return;
        }
        let first_cut = length_bytes / SECTOR_BYTES;
        let cut: Vec<u64> = self.current.sectors.range(first_cut..).map(|(&n, _)| n).collect();
        self.current.cut_or_extend(length_bytes);
        for number in cut {
            let left = self.current.sector(number).cloned();
            self.push_sector(operation, number, left);
        }
        self.lengths.push(Version { operation, value: length_bytes, abandoned: false });
    }

    fn push_sector(&mut self, operation: u64, number: u64, bytes: Option<Bytes>) {
        self.current.put_sector(number, bytes.clone());
        let versions = self.sectors.entry(number).or_default();
        versions.push(Version { operation, value: bytes, abandoned: false });
    }

    /// Makes durable all that was written since the last sync, succeeded or failed.
    pub(super) fn sync(&mut self) {
        self.sync_sectors(0..u64::MAX);
        if self.sectors.is_empty() && self.lengths.is_empty() {
            assert_eq!(self.durable.len(), self.current.len(), "a sync left lengths apart");
        }
    }

    /// Makes durable what was written to a range of bytes, and the length. The sectors that the
    /// range touches are whole, as ever.
    pub(super) fn sync_range(&mut self, offset: u64, length_bytes: u64) {
        let end = offset.saturating_add(length_bytes);
        self.sync_sectors(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
    }

    fn sync_sectors(&mut self, synced: Range<u64>) {
        let durable = &mut self.durable;
        // The length first: it decides which sectors there are.
        if let Some(last) = self.lengths.last()
            && !last.abandoned
        {
            durable.cut_or_extend(last.value);
            self.lengths.clear();
        }
        self.sectors.retain(|number, versions| {
            if !synced.contains(number) {
                return true;
            }
            let last = versions.last().expect("a sector is listed for its versions");
            if !last.abandoned {
                durable.put_sector(*number, last.value.clone());
            }
            last.abandoned
        });
    }

    /// A sync that failed: what was unsynced may or may not be on the medium, for good.
    pub(super) fn abandon(&mut self) {
        self.lengths.iter_mut().for_each(|version| version.abandoned = true);
        self.sectors.values_mut().flatten().for_each(|version| version.abandoned = true);
    }

    /// The file as a crash leaves it: everything in it durable.
    pub(super) fn after_crash(&self, picker: &mut dyn PickVersions) -> Self {
        let mut found = self.durable.clone();
        let operations: Vec<u64> = self.lengths.iter().map(|version| version.operation).collect();
        let kept = picker.pick(&operations);
        let length_bytes = match kept {
            0 => found.len(),
            _ => {
                let before = if kept == 1 { found.len() } else { self.lengths[kept - 2].value };
                let last = &self.lengths[kept - 1];
                picker.pick_length(before, last.value, last.operation)
            }
        };
        for (&number, versions) in &self.sectors {
            let operations: Vec<u64> = versions.iter().map(|version| version.operation).collect();
            let kept = picker.pick(&operations);
            if kept > 0 {
                found.put_sector(number, versions[kept - 1].value.clone());
            }
        }
        found.cut_or_extend(length_bytes);
        Self { current: found.clone(), durable: found, ..Self::default() }
    }

    /// The operations that are not durable yet, the first and the last.
    pub(super) fn unsynced(&self) -> Option<(u64, u64)> {
        let lengths = self.lengths.iter().map(|version| version.operation);
        let all = lengths.chain(self.sectors.values().flatten().map(|version| version.operation));
        all.fold(None, |range, operation| match range {
            None => Some((operation, operation)),
            Some((first, last)) => Some((operation.min(first), operation.max(last))),
        })
    }

    /// Inverts a bit wherever the byte is held; false if the file is not that long.
    pub(super) fn flip_bit(&mut self, byte: u64, bit: u32) -> bool {
        if byte >= self.current.len() {
            return false;
        }
        let number = byte / SECTOR_BYTES;
        let flip = |sector: Option<&Bytes>| {
            let mut flipped = match sector {
                Some(bytes) => BytesMut::from(&bytes[..]),
                None => BytesMut::zeroed(SECTOR_USIZE),
            };
            flipped[(byte % SECTOR_BYTES) as usize] ^= 1 << bit;
            Some(flipped.freeze())
        };
        let current = flip(self.current.sector(number));
        self.current.put_sector(number, current);
        if byte < self.durable.len() {
            let durable = flip(self.durable.sector(number));
            self.durable.put_sector(number, durable);
        }
        for version in self.sectors.get_mut(&number).into_iter().flatten() {
            version.value = flip(version.value.as_ref());
        }
        true
    }
}
