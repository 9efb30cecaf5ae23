//! Faults on demand, and the count of operations that makes every disk call a crash point.
//!
//! One idea: each call of the simulated disk passes [`Faults::admit`] first. It counts the calls
//! that change something, fails all of them from a chosen one on (the power went out), and looks
//! for a rule that makes this one call fail.
//!
//! What it does not do: what a failed call leaves behind is decided where the call is (`calls.rs`).

use std::io;
use std::path::Path;

use crate::{Error, Result};

/// How an operation fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The device failed: `EIO`.
    Io,
    /// No space left: `ENOSPC`, [`io::ErrorKind::StorageFull`].
    StorageFull,
}

impl Fault {
    /// The error that the operating system would return.
    pub fn to_io_error(self) -> io::Error {
        // The numbers are those of Linux; a raw error keeps the kind that real code sees.
        io::Error::from_raw_os_error(match self {
            Self::Io => libc::EIO,
            Self::StorageFull => libc::ENOSPC,
        })
    }
}

/// A kind of call. `Read` (which covers mapping), `Open` and `List` change nothing and are not
/// counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OperationKind {
    /// A file was to be created, also by taking a lock for the first time.
    Create,
    /// A directory was to be created.
    CreateDir,
    /// A directory was to be listed.
    List,
    /// A file was to be opened.
    Open,
    /// Space was to be reserved.
    Preallocate,
    /// Bytes were to be read or mapped.
    Read,
    /// A file or a directory with all below it was to be removed.
    Remove,
    /// A name was to be changed; the path is the old one.
    Rename,
    /// A length was to be set.
    SetLen,
    /// A file was to be synced.
    Sync,
    /// A directory was to be synced.
    SyncDir,
    /// Bytes were to be written.
    Write,
}

impl OperationKind {
    /// Whether it changes the disk, or what of it is durable. These are counted.
    pub fn is_mutating(self) -> bool {
        !matches!(self, Self::List | Self::Open | Self::Read)
    }
}

/// Which operation fails, and how. Without a filter it meets all mutating operations.
#[derive(Clone, Debug)]
pub struct FaultRule {
    fault: Fault,
    kind: Option<OperationKind>,
    path_suffix: Option<String>,
    /// So many matching operations still succeed.
    pass: u64,
    /// So many fail then; afterwards the rule is spent.
    fail: u64,
}

impl FaultRule {
    /// The next mutating operation fails, once.
    pub fn new(fault: Fault) -> Self {
        Self { fault, kind: None, path_suffix: None, pass: 0, fail: 1 }
    }

    /// Only operations of this kind.
    pub fn on(mut self, kind: OperationKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Only on paths that end in `suffix` (of characters, not components: `.log` is one). An open
    /// file keeps the path that it was opened by.
    pub fn path(mut self, suffix: &str) -> Self {
        self.path_suffix = Some(suffix.to_owned());
        self
    }

    /// Lets `count` matching operations pass first.
    pub fn after(mut self, count: u64) -> Self {
        self.pass = count;
        self
    }

    /// Fails every matching operation from then on, not only one.
    pub fn always(mut self) -> Self {
        self.fail = u64::MAX;
        self
    }

    fn matches(&self, kind: OperationKind, path: &Path) -> bool {
        let kind_matches = self.kind.map_or(kind.is_mutating(), |wanted| wanted == kind);
        let suffix = self.path_suffix.as_deref().unwrap_or("");
        kind_matches && path.as_os_str().as_encoded_bytes().ends_with(suffix.as_bytes())
    }

    /// Counts a matching operation; whether it fails.
    fn strike(&mut self) -> bool {
        if self.pass > 0 {
            self.pass -= 1;
            return false;
        }
        self.fail = self.fail.saturating_sub(1);
        true
    }
}

/// An admitted operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    /// Its number among the mutating operations; of the next one, if it is not mutating.
    pub(super) operation: u64,
    /// It is to fail, after leaving behind what such a failure leaves.
    pub(super) fault: Option<Fault>,
}

/// The rules, the count and the switch.
///
/// Invariants: once the power is out it stays out; no rule is kept that cannot fail anything.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<FaultRule>,
    operations: u64,
    stop_at: Option<u64>,
    power_is_out: bool,
}

impl Faults {
    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    pub(super) fn power_is_out(&self) -> bool {
        self.power_is_out
    }

    pub(super) fn cut_power(&mut self) {
        self.power_is_out = true;
    }

    pub(super) fn stop_at(&mut self, operation: u64) {
        self.stop_at = Some(operation);
        self.power_is_out |= self.operations > operation;
    }

    pub(super) fn add(&mut self, rule: FaultRule) {
        self.rules.push(rule);
    }

    pub(super) fn clear_rules(&mut self) {
        self.rules.clear();
    }

    /// Lets a call begin, or fails it because the power is out.
    pub(super) fn admit(
        &mut self,
        kind: OperationKind,
        verb: &'static str,
        path: &Path,
    ) -> Result<Admitted> {
        let operation = self.operations;
        if kind.is_mutating() {
            self.power_is_out |= self.stop_at.is_some_and(|stop| operation >= stop);
        }
        if self.power_is_out {
            return Err(power_is_out(verb, path));
        }
        if kind.is_mutating() {
            self.operations += 1;
        }
        let mut fault = None;
        for rule in &mut self.rules {
            // Every rule counts the operation, but the first that fails it says how.
            if rule.matches(kind, path) && rule.strike() {
                fault = fault.or(Some(rule.fault));
            }
        }
        self.rules.retain(|rule| rule.fail > 0);
        Ok(Admitted { operation, fault })
    }
}

/// The error of every call on a disk that crashed.
pub(super) fn power_is_out(verb: &'static str, path: &Path) -> Error {
    Error::new(verb, path, io::Error::other("the simulated disk has lost its power"))
}
