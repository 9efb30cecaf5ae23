//! Reading over several sources at once.
//!
//! [`merge`] puts memtables and tables into one order, key ascending and revision descending;
//! [`visible`] picks of each key what a reader at one revision sees; [`history`] goes by revision
//! instead of by key. All of them load values only where they are asked for.

pub(crate) mod history;
pub(crate) mod level;
pub(crate) mod merge;
pub(crate) mod visible;
