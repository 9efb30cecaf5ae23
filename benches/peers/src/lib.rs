//! Our log and our engine beside others of their kind: same machine, same run, same durability.
//!
//! One idea: an adapter for each contestant, as thin as it can be and used as its authors would,
//! behind one trait; one driver measures all of them, in turns, and says how they compare. Tests
//! hold the adapters against one another first: a contestant that answers something else is not
//! measured.
//!
//! What it does not do: it is no part of the workspace, so that no ordinary build compiles other
//! people's engines; `README.md` has the commands and what must be installed.

#[cfg(feature = "engine")]
pub mod engine;
pub mod limit;
pub mod log;
pub mod machine;
pub mod plot;
pub mod resources;
