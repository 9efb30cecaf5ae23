//! What the fuzz targets do, and the inputs they begin with.
//!
//! One idea: a target is a plain function of bytes, so that libFuzzer drives it (`fuzz_targets/`)
//! and `cargo test` replays its corpus without libFuzzer (`tests/tests/fuzz_corpus.rs` includes
//! this file). Every target asks for more than "no panic" where it can: damage is never returned as data,
//! what was decoded encodes to the same bytes, the state machine's own checker finds nothing.
//!
//! What it does not do: guess checksums. Targets over files begin with good files and damage them, or
//! compute the checksums (`seal.rs`).

mod api;
mod damage;
mod input;
mod lsm;
mod lsm_model;
mod lsm_table;
mod raftnode;
mod seal;
mod store;
mod wal;
mod wal_frame;
mod wal_model;

/// The naive log of the log's own tests.
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../wal/tests/log/model.rs"]
mod log_model;

/// The naive engine of the engine's own tests.
#[path = "../../lsm/tests/support/mod.rs"]
mod lsm_support;

/// One target.
pub struct Target {
    /// Its name: of the program in `fuzz_targets/` and of the directory in `corpus/`.
    pub name: &'static str,
    /// Runs one input; panics on a finding.
    pub run: fn(&[u8]),
    /// Inputs to begin with, each with a name.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// All targets.
pub const TARGETS: [Target; 11] = [
    Target { name: "api_request", run: api::request, seeds: api::seeds },
    Target { name: "lsm_directory", run: lsm::directory, seeds: lsm::seeds },
    Target { name: "lsm_manifest", run: lsm_table::manifest, seeds: lsm_table::manifest_seeds },
    Target { name: "lsm_model", run: lsm_model::operations, seeds: lsm_model::seeds },
    Target { name: "lsm_table", run: lsm_table::table, seeds: lsm_table::table_seeds },
    Target { name: "raftnode_step", run: raftnode::step, seeds: raftnode::seeds },
    Target { name: "store_apply", run: store::apply, seeds: store::apply_seeds },
    Target { name: "store_command", run: store::command, seeds: store::command_seeds },
    Target { name: "wal_frame", run: wal_frame::decode, seeds: wal_frame::seeds },
    Target { name: "wal_model", run: wal_model::operations, seeds: wal_model::seeds },
    Target { name: "wal_recovery", run: wal::recovery, seeds: wal::seeds },
];

/// Runs one input of the target with this name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a program is named after its target").run)(data);
}
