//! Reading over several sources at once.
//!
//! [`visible`] picks of each key what a reader at one revision sees, over memtables and levels
//! ([`source`]), both ways; [`history`] goes by revision instead of by key. Both load values only
//! where they are asked for. [`merge`] puts all rows of tables into one order, for merges of them.

pub(crate) mod history;
pub(crate) mod level;
pub(crate) mod merge;
pub(crate) mod source;
pub(crate) mod visible;
