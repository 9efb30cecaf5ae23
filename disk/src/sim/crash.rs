//! What a loss of power leaves of the unsynced changes.
//!
//! One idea: a style is a rule that says of each unsynced change whether it took place, from the
//! number of the operation that made it and a seed; everything else (atomic renames, whole
//! sectors) is kept by how `names.rs` and `content.rs` ask.
//!
//! What it does not do: it does not go beyond what the crate's "What we assume of a disk" allows;
//! bit rot is asked for apart ([`super::SimDisk::flip_bit`]).

use super::content::PickVersions;
use super::random::Random;
use super::tree::Tree;
use crate::SECTOR_BYTES;

/// Which of the changes that were not synced are found after a crash.
///
/// Operations are numbered as by [`super::SimDisk::operations`]: the first mutating call is 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CrashStyle {
    /// All, as after a kill of the process: the kernel lives on.
    KeepAll,
    /// The bytes and lengths, but no created, renamed or removed name.
    KeepData,
    /// The names, but no bytes and no lengths: the renamed file that is empty.
    KeepNames,
    /// None.
    LoseAll,
    /// Those of the operations before the one of this number, and no later ones.
    Prefix(u64),
    /// Any legal subset, each file in its own manner: nothing, all, a prefix, or each sector for
    /// itself. The seed decides.
    Random(u64),
    /// As `Prefix`, and of the operation itself any legal subset: the torn last write.
    Torn {
        /// The operation that was being carried out.
        operation: u64,
        /// Decides the subset.
        seed: u64,
    },
}

/// How the changes of one file, or all changes of names, are kept.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Keep,
    Lose,
    Before(u64),
    Torn(u64),
    Each,
}

/// The tree that a crash of this style leaves.
pub(super) fn crash(tree: &Tree, style: CrashStyle) -> Tree {
    let mut random = Random::new(match style {
        CrashStyle::Random(seed) | CrashStyle::Torn { seed, .. } => seed,
        _ => 0,
    });
    let (names, data) = match style {
        CrashStyle::KeepAll => (Manner::Keep, Some(Manner::Keep)),
        CrashStyle::KeepData => (Manner::Lose, Some(Manner::Keep)),
        CrashStyle::KeepNames => (Manner::Keep, Some(Manner::Lose)),
        CrashStyle::LoseAll => (Manner::Lose, Some(Manner::Lose)),
        CrashStyle::Prefix(operation) => {
            (Manner::Before(operation), Some(Manner::Before(operation)))
        }
        CrashStyle::Random(_) => (any_manner(&mut random, tree.changes.unsynced()), None),
        CrashStyle::Torn { operation, .. } => {
            (Manner::Torn(operation), Some(Manner::Torn(operation)))
        }
    };
    let kept = tree.changes.after_crash(|operation| names.keeps(operation, &mut random));
    tree.after_crash(kept, |file| {
        let manner = data.unwrap_or_else(|| any_manner(&mut random, file.unsynced()));
        file.after_crash(&mut Picker { manner, random: &mut random })
    })
}

/// A manner for a thing whose unsynced operations are first to last.
///
/// Not `Each` every time: of a hundred sectors, chance alone would never keep all or none.
fn any_manner(random: &mut Random, unsynced: Option<(u64, u64)>) -> Manner {
    let Some((first, last)) = unsynced else { return Manner::Keep };
    match random.below(5) {
        0 => Manner::Keep,
        1 => Manner::Lose,
        2 => Manner::Before(first + random.below(last - first + 2)),
        3 => Manner::Torn(first + random.below(last - first + 1)),
        _ => Manner::Each,
    }
}

impl Manner {
    fn keeps(self, operation: u64, random: &mut Random) -> bool {
        match self {
            Self::Keep => true,
            Self::Lose => false,
            Self::Before(limit) => operation < limit,
            Self::Torn(torn) => operation < torn || (operation == torn && random.one_in(2)),
            Self::Each => random.one_in(2),
        }
    }

    /// Whether an operation may be found half done.
    fn tears(self, operation: u64) -> bool {
        match self {
            Self::Keep | Self::Lose | Self::Before(_) => false,
            Self::Torn(torn) => operation == torn,
            Self::Each => true,
        }
    }
}

struct Picker<'a> {
    manner: Manner,
    random: &'a mut Random,
}

impl PickVersions for Picker<'_> {
    fn pick(&mut self, operations: &[u64]) -> usize {
        match self.manner {
            // Uniform over the states that there were, not a coin for each.
            Manner::Each => self.random.below(operations.len() as u64 + 1) as usize,
            manner => operations
                .iter()
                .take_while(|&&operation| manner.keeps(operation, self.random))
                .count(),
        }
    }

    fn pick_length(&mut self, from: u64, to: u64, operation: u64) -> u64 {
        // A file grows by steps while a long write is carried out.
        let first_step = from / SECTOR_BYTES + 1;
        let steps = (to / SECTOR_BYTES).saturating_sub(first_step);
        if steps > 0 && self.manner.tears(operation) && self.random.one_in(4) {
            return (first_step + self.random.below(steps)) * SECTOR_BYTES;
        }
        to
    }
}
