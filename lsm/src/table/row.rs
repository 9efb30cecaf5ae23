//! A row of a table where it lies: what it says is read when it is asked for.

use super::block::Block;
use super::reader::Table;
use super::{ValueHandle, ValueRef};
use crate::{Kind, Result, Revision};

/// The value of a row where it lies.
pub(crate) enum RowValue<'a> {
    /// Beside the key; empty without a value.
    Here(&'a [u8]),
    /// In a segment.
    Stored(ValueHandle),
}

/// One row of one block, borrowed. Its key is with whoever found it.
#[derive(Clone, Copy)]
pub(crate) struct TableRow<'a> {
    table: &'a Table,
    number: usize,
    block: Block<'a>,
    row: u32,
}

impl<'a> TableRow<'a> {
    /// Row `row` of `block`, which has this number in `table`.
    #[inline]
    pub(super) fn new(table: &'a Table, number: usize, block: Block<'a>, row: u32) -> Self {
        Self { table, number, block, row }
    }

    #[inline]
    pub(crate) fn revision(&self) -> Revision {
        self.block.revision(self.row)
    }

    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        self.block.control(self.row).kind()
    }

    /// The bytes beside the key.
    #[inline]
    pub(crate) fn meta(&self) -> Result<&'a [u8]> {
        self.table.in_block(self.number, || self.block.meta_bytes(self.row))
    }

    /// Length of the value, be it inline or stored; 0 without a value.
    #[inline]
    pub(crate) fn value_bytes(&self) -> u32 {
        self.block.value_length(self.row)
    }

    /// The value, or where it is stored.
    #[inline]
    pub(crate) fn value(&self) -> Result<RowValue<'a>> {
        self.table.row_value(self.number, &self.block, self.row)
    }

    /// Where the value lies.
    pub(crate) fn value_ref(&self) -> Result<ValueRef> {
        self.table.value_ref(self.number, &self.block, self.row)
    }
}
