//! The state machine as its callers see it: through entries of the log and views.
//!
//! - `scripts`: scenarios as text, each with the trace that it must leave.
//! - `model`: random commands against the naive model, with power losses.
//! - `damage`, `refusal`: what is refused, and how it says so.

mod damage;
mod machine;
mod model;
mod naive;
mod notation;
mod random;
mod refusal;
mod scripts;
