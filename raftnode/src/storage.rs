//! The log as the `raft` crate sees it: `raft::Storage` over the [`Wal`].
//!
//! What followers are sent is read back from the log, a bounded number of bytes in a cycle: a
//! follower that was away for long is caught up with piece by piece, whatever it lacks.
//!
//! Entries that are not durable yet never get here; the crate keeps them itself until
//! [`LogStorage::write`] has put them into one frame. Terms are answered from memory.
//!
//! A failed read cannot be returned through the crate without it panicking: it is kept here, the
//! crate is told that there is nothing to read, and the node fails at its next
//! [`crate::Node::persist`].

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use varve_wal::{Batch, Wal, trial};

use crate::change::change_of;
use crate::entry::{decode_entry, decode_state, encode_entry, encode_state};
use crate::snapshot::{LogView, Opening, opening, snapshot_of};
use crate::terms::Terms;
use crate::{Applied, Error, Index, NodeId, Result};

/// Bytes read at once while the log is opened.
const SCAN_BYTES: u64 = 1 << 20;

/// The durable part of a node.
///
/// Invariants: `terms` covers the same last index as `wal`; its base is at or above the index
/// before the first entry of `wal`, and at or below what the state machine has applied;
/// `durable` is the state in `wal`, where its commit index may lag behind what is known.
pub(crate) struct LogStorage {
    wal: Wal,
    terms: Terms,
    durable: HardState,
    members: ConfState,
    /// The newest state of the state machine that can be sent as a snapshot.
    mark: Applied,
    /// Entry bytes that may be read for followers in one cycle, and what is left of them.
    catch_up_bytes_max: u64,
    catch_up_bytes_left: Cell<u64>,
    failure: RefCell<Option<Error>>,
}

impl LogStorage {
    /// Makes sense of a recovered log and what its state machine has applied.
    pub(crate) fn open(mut wal: Wal, applied: &Applied, catch_up_bytes_max: u64) -> Result<Self> {
        let state = match wal.state() {
            Some(bytes) => decode_state(bytes.clone())?,
            None => HardState::default(),
        };
        let scanned = scan(&wal)?;
        let view = LogView {
            first: wal.first_index(),
            last: wal.last_index(),
            commit: state.commit,
            term_at_applied: scanned.as_ref().and_then(|terms| terms.at(applied.index.0)),
        };
        let (terms, durable) = match opening(view, applied)? {
            Opening::Keep => {
                let terms = keep_terms(scanned, view.first, applied)?;
                let durable = raised(state, applied, terms.last());
                (terms, durable)
            }
            Opening::Reset => {
                trial::reach("log reset at start");
                let durable = raised(state, applied, applied.index.0);
                reset(&mut wal, applied.index.0, &durable)?;
                (Terms::new(applied.index.0, applied.term.0), durable)
            }
        };
        if durable.term < terms.last_term() {
            return Err(Error::Malformed {
                what: "hard state",
                expected: format!("a term of at least {}, the last entry's", terms.last_term()),
                found: durable.term.to_string(),
            });
        }
        let members = snapshot_of(applied).take_metadata().take_conf_state();
        let mark = applied.clone();
        Ok(Self {
            wal,
            terms,
            durable,
            members,
            mark,
            catch_up_bytes_max,
            catch_up_bytes_left: Cell::new(catch_up_bytes_max),
            failure: RefCell::new(None),
        })
    }

    /// Writes what a cycle must make durable, as one frame with one sync: first forgets the log
    /// if a snapshot was installed, then the entries, then the hard state.
    pub(crate) fn write(
        &mut self,
        installed: Option<&Applied>,
        entries: &[Entry],
        state: &HardState,
    ) -> Result<()> {
        let mut batch = Batch::default();
        if let Some(mark) = installed {
            batch.reset(mark.index.0 + 1);
        }
        for entry in entries {
            batch.entry(entry.index, encode_entry(entry));
        }
        let is_bug = trial::has_bug("vote-forgotten");
        if is_bug && entries.is_empty() && state.commit == self.durable.commit {
            // Neither term nor vote.
        } else if *state != self.durable {
            batch.state(encode_state(state));
        }
        // Durable after this: the vote, so that no second one is cast in this term; the entries,
        // so that they may be acknowledged to the leader or counted by this one.
        self.wal.append(&batch)?;
        if let Some(mark) = installed {
            self.terms = Terms::new(mark.index.0, mark.term.0);
            self.mark = mark.clone();
            self.members = snapshot_of(mark).take_metadata().take_conf_state();
        }
        for entry in entries {
            self.terms.push(entry.index, entry.term);
        }
        self.durable = state.clone();
        assert_eq!(self.terms.last(), self.wal.last_index(), "the log and its terms differ");
        Ok(())
    }

    /// Whether a hard state holds a promise that is not durable. A commit index alone does not:
    /// it is found again, and goes along with the next frame.
    pub(crate) fn owes(&self, state: &HardState) -> bool {
        state.term != self.durable.term || state.vote != self.durable.vote
    }

    /// Up to here it is durable that entries are committed.
    pub(crate) fn durable_commit(&self) -> u64 {
        self.durable.commit
    }

    /// A cycle begins: followers may read again.
    pub(crate) fn begin_cycle(&mut self) {
        self.catch_up_bytes_left.set(self.catch_up_bytes_max);
    }

    /// The state machine is durable up to `mark`; forgets entries up to `cut`.
    pub(crate) fn flushed(&mut self, mark: &Applied, cut: u64) -> Result<()> {
        assert!(cut <= mark.index.0, "cut {cut} is above the flushed {:?}", mark.index);
        if mark.index > self.mark.index {
            self.mark = mark.clone();
        }
        if cut > self.terms.base() && cut <= self.terms.last() {
            self.wal.truncate_front(cut)?;
            self.terms.cut_front(cut);
        }
        Ok(())
    }

    /// The read that failed, once.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.get_mut().take()
    }

    /// Whether a read failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Highest index in the log.
    pub(crate) fn last(&self) -> u64 {
        self.terms.last()
    }

    /// Bytes of the log's files.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.wal.disk_bytes()
    }

    /// Bytes written to the log since it was opened.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.wal.counters().written_bytes
    }

    fn read(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>> {
        let payloads = self.wal.entries(low, high, bytes_max)?;
        (low..).zip(payloads).map(|(index, bytes)| read_entry(index, bytes)).collect()
    }
}

impl Storage for LogStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.durable.clone(), self.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.terms.base() {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.terms.last() + 1, "{low}..{high} asked of ..={}", self.terms.last());
        // For a follower, who gets the rest when it has acknowledged this much, or at the next
        // heartbeat.
        let left = self.catch_up_bytes_left.get();
        let is_late = context.can_async() && left == 0;
        if self.has_failed() || is_late {
            return nothing_to_read(&context);
        }
        match self.read(low, high, max_size.into().unwrap_or(u64::MAX)) {
            Ok(entries) => {
                if context.can_async() {
                    let bytes: usize = entries.iter().map(entry_bytes).sum();
                    self.catch_up_bytes_left.set(left.saturating_sub(bytes as u64));
                }
                Ok(entries)
            }
            Err(error) => {
                *self.failure.borrow_mut() = Some(error);
                nothing_to_read(&context)
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.terms.at(index).ok_or_else(|| {
            let before = index < self.terms.base();
            if before { StorageError::Compacted } else { StorageError::Unavailable }.into()
        })
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.terms.base() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.terms.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A new member takes no state of before it was one: it would not be in the configuration
        // that goes with it.
        let to = NodeId(to);
        let knows_it = self.mark.voters.contains(&to) || self.mark.learners.contains(&to);
        if self.mark.index.0 == 0 || self.mark.index.0 < request_index || !knows_it {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        trial::reach("a follower needs what was cut");
        Ok(snapshot_of(&self.mark))
    }
}

/// What the crate takes as "not now" without a panic.
fn nothing_to_read(context: &GetEntriesContext) -> raft::Result<Vec<Entry>> {
    if context.can_async() {
        return Err(StorageError::LogTemporarilyUnavailable.into());
    }
    Ok(Vec::new())
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len()
}

fn read_entry(index: u64, bytes: Bytes) -> Result<Entry> {
    decode_entry(index, bytes)
        .and_then(|entry| change_of(&entry).map(|_| entry))
        .map_err(|error| Error::LogEntry { index: Index(index), source: Box::new(error) })
}

/// The terms of all entries, with the first entry as the base; none for an empty log.
fn scan(wal: &Wal) -> Result<Option<Terms>> {
    let end = wal.last_index() + 1;
    let mut next = wal.first_index();
    let mut terms: Option<Terms> = None;
    while next < end {
        let payloads = wal.entries(next, end, SCAN_BYTES)?;
        assert!(!payloads.is_empty(), "the log returned nothing for {next}..{end}");
        for bytes in payloads {
            let entry = read_entry(next, bytes)?;
            match &mut terms {
                None => terms = Some(Terms::new(next, entry.term)),
                Some(terms) if entry.term >= terms.last_term() => terms.push(next, entry.term),
                Some(terms) => {
                    return Err(backward_term(next, entry.term, terms.last_term()));
                }
            }
            next += 1;
        }
    }
    Ok(terms)
}

/// Gives the log the term before its first entry, which Raft compares when it appends there.
///
/// It is known if the state machine ends right before the log. Otherwise the log overlaps the
/// state machine, and giving up its first entry, which is applied anyway, tells the term.
fn keep_terms(scanned: Option<Terms>, first: u64, applied: &Applied) -> Result<Terms> {
    let mut terms = Terms::new(applied.index.0, applied.term.0);
    let Some(scanned) = scanned else { return Ok(terms) };
    if first != applied.index.0 + 1 {
        return Ok(scanned);
    }
    for index in first..=scanned.last() {
        let term = scanned.at(index).expect("the scan has every index");
        if term < applied.term.0 {
            return Err(backward_term(index, term, applied.term.0));
        }
        terms.push(index, term);
    }
    Ok(terms)
}

fn backward_term(index: u64, found: u64, before: u64) -> Error {
    Error::Malformed {
        what: "log entry",
        expected: format!("a term of at least {before}, that of the entry before"),
        found: format!("{found} at index {index}"),
    }
}

/// The hard state to start with: its commit index is not lost below what is applied, and not
/// above what there is; its term not below the state machine's (a snapshot of a newer term was
/// installed, in which nothing was voted here, or the vote would be durable).
fn raised(mut state: HardState, applied: &Applied, last: u64) -> HardState {
    if state.term < applied.term.0 {
        state.term = applied.term.0;
        state.vote = 0;
    }
    state.commit = state.commit.clamp(applied.index.0, last);
    state
}

/// Forgets the log, so that it follows the state machine. Durable after this: the log is empty
/// and begins after the snapshot, so that no entry of before can come back.
fn reset(wal: &mut Wal, index: u64, state: &HardState) -> Result<()> {
    let mut batch = Batch::default();
    batch.reset(index + 1);
    batch.state(encode_state(state));
    wal.append(&batch)?;
    Ok(())
}
