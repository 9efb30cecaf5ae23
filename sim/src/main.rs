//! The simulator: whole clusters on one thread from one seed, and checkers of what their clients
//! saw.
//!
//! ```text
//! varve-sim run [--seconds N | --seeds N] [--from SEED] [--threads N]   plays seeds, sums up
//! varve-sim replay SEED [PLANTED BUG]                                   one seed, with its trace
//! varve-sim shorten SEED [PLANTED BUG]                                  the same with less in it
//! varve-sim plant NAME|all [--seeds N] [--from SEED]                    looks for planted bugs
//! ```
//!
//! One idea: members are the server's own ([`node`]), with another disk, network and clock beneath
//! and other people's hands on their threads. [`plan`] draws what a seed is like, [`world`] plays
//! it, [`check`] judges the [`history`] that it leaves. How to read a failure: docs/TESTING.md.

#![allow(missing_docs, reason = "nobody uses this as a library")]

mod bar;
mod carry;
mod client;
mod end;
mod lone;
mod marks;
mod members;
#[cfg(test)]
mod mutations;
mod needed;
mod node;
mod operator;
mod plan;
mod plant;
mod roster;
mod rot;
mod run;
mod seed;
mod serve;
mod shorten;
#[cfg(test)]
mod tests;
mod trouble;
mod world;

use std::process::ExitCode;

use varve_judge::{self as check, history};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run::command(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("varve-sim: {error}");
            ExitCode::from(2)
        }
    }
}
