//! The file format of bbolt, the database in which etcd keeps its state and its backups: a writer
//! that streams a new file from sorted rows, and a reader that trusts nothing.
//!
//! ```text
//! page 0, 1          meta: where the root is, how many pages there are; two, for a torn write
//! page 2             free pages: none
//! page 3 ..          leaves and branches, each page behind its children
//! last page          root: a leaf of buckets, each with the page of its own tree's root
//! ```
//!
//! One idea: rows come sorted, so a tree can be built from the leaves up with one open page a level,
//! and every page is written once, in order. Only the first two pages need to know the end. So a
//! file is made twice from the same rows: [`Builder`] into nothing, for the [`Layout`], and then
//! into the receiver, behind [`Layout::head`]. No temporary file, memory for a few pages.
//!
//! Byte for byte: `docs/FORMAT.md`, section 7. What it does not do: change a file, reuse pages,
//! buckets in buckets, know what the rows mean, touch files ([`Source`] is the caller's).

mod builder;
mod page;
mod reader;

pub use builder::{Builder, Layout};
pub use page::PAGE_BYTES;
pub use reader::{Bucket, Cursor, Error, Reader, Source};
