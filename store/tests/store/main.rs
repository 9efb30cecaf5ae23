//! The state machine as its callers see it: through entries of the log and views.
//!
//! - `scripts`: scenarios as text, each with the trace that it must leave.
//! - `model`: random commands against the naive model, with power losses.
//! - `install`: a state received from another member.
//! - `rbac`: random requests of random users against a naive judge.
//! - `members`: who belongs to the cluster.
//! - `damage`, `refusal`: what is refused, and how it says so.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod damage;
mod install;
mod machine;
mod members;
mod model;
mod naive;
mod notation;
mod random;
mod rbac;
mod refusal;
mod scripts;
