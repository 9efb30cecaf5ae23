//! The control byte of a row: kind, delta, where the value is, whether the key is repeated.
//! The bits are in docs/FORMAT.md section 2.1, "Block".

use crate::{Delta, Kind};

/// The byte of a row that says what it is; the bits are part of the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Control(pub u8);

/// Where the value of a row is, as its control byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValuePlace {
    /// There is none.
    None,
    /// In the value area of the block.
    Inline,
    /// In a segment.
    Stored,
    /// A combination of bits that is not in use.
    Invalid,
}

impl Control {
    const DELETE: u8 = 1;
    const DELTA_SHIFT: u8 = 1;
    const PLACE_SHIFT: u8 = 3;
    const SAME_KEY: u8 = 1 << 5;
    const UNUSED: u8 = 0b1100_0000;

    /// The control byte of a row.
    pub fn new(kind: Kind, delta: Delta, place: ValuePlace, is_same_key: bool) -> Self {
        let kind = if kind == Kind::Delete { Self::DELETE } else { 0 };
        let delta = match delta {
            Delta::Zero => 0,
            Delta::Plus => 1,
            Delta::Minus => 2,
        };
        let same = if is_same_key { Self::SAME_KEY } else { 0 };
        Self(kind | delta << Self::DELTA_SHIFT | (place as u8) << Self::PLACE_SHIFT | same)
    }

    /// Put or delete.
    pub fn kind(self) -> Kind {
        if self.0 & Self::DELETE == 0 { Kind::Put } else { Kind::Delete }
    }

    /// The delta; an invalid one reads as zero.
    #[inline]
    pub fn delta(self) -> Delta {
        match self.0 >> Self::DELTA_SHIFT & 3 {
            1 => Delta::Plus,
            2 => Delta::Minus,
            _ => Delta::Zero,
        }
    }

    /// Where the value is.
    #[inline]
    pub fn place(self) -> ValuePlace {
        match self.0 >> Self::PLACE_SHIFT & 3 {
            0 => ValuePlace::None,
            1 => ValuePlace::Inline,
            2 => ValuePlace::Stored,
            _ => ValuePlace::Invalid,
        }
    }

    /// Whether the row has the key of the row before it in the block.
    #[inline]
    pub fn is_same_key(self) -> bool {
        self.0 & Self::SAME_KEY != 0
    }

    /// Whether only combinations are used that have a meaning.
    pub fn is_valid(self) -> bool {
        self.0 & Self::UNUSED == 0
            && self.0 >> Self::DELTA_SHIFT & 3 != 3
            && self.place() != ValuePlace::Invalid
    }
}
