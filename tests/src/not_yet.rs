//! What varve does not do yet, as a table that tests hold against the server.
//!
//! One idea: a method that is not there answers `Unimplemented`, and that is asserted. So the table
//! cannot be longer than the truth: whoever adds a method must take its row out, and then the cases
//! that were left out run.

use varve_api::method::Method;

/// Methods that answer `Unimplemented` today.
pub const NOT_YET: &[Method] = &[];

/// Whether a method is in the table.
pub fn is_not_yet(method: &Method) -> bool {
    NOT_YET.contains(method)
}
