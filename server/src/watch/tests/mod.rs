//! Watchers over a real state machine on a simulated disk.
//!
//! - `world`: the state machine, a mailbox that the test drains when it likes, streams whose
//!   clients read when the test likes, and a model of what has happened.
//! - `client`: what the client of one stream has got, held against the model response by response.
//! - `random`: all of it at random, from seeds.
//! - `cases`: one sentence each.

mod cases;
mod client;
mod random;
mod world;
