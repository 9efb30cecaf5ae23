//! Replays the corpus of every fuzz target, without a fuzzer.
//!
//! One idea: what fuzzing has found once stays found, on every machine and in every run of the
//! tests. The targets are plain functions of bytes, included from `fuzz/src`.
//!
//! `VARVE_BLESS=1` writes the seeds of each target anew; other files of a corpus are left alone.
//! What it does not do: look for new inputs (`fuzz/README.md`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

/// An input that takes longer is a finding of its own; generous, for debug builds under load.
const INPUT_TIME_MAX: Duration = Duration::from_secs(20);

fn corpus(target: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the root");
    root.join("fuzz/corpus").join(target)
}

/// Names the input when a target panics.
struct Announce(PathBuf);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed on {}", self.0.display());
        }
    }
}

fn replay(name: &str) {
    let directory = corpus(name);
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("the corpus can be read").path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "no inputs in {}", directory.display());
    for input in inputs {
        let data = std::fs::read(&input).expect("the corpus can be read");
        let (announce, started) = (Announce(input), Instant::now());
        fuzz::run(name, &data);
        let took = started.elapsed();
        assert!(took < INPUT_TIME_MAX, "{} took {took:?}", announce.0.display());
    }
}

#[test]
fn damaged_logs_are_opened_or_refused() {
    replay("wal_recovery");
}

#[test]
fn frames_of_any_content_are_read_or_refused() {
    replay("wal_frame");
}

#[test]
fn a_log_is_its_model_whatever_the_tape_does() {
    replay("wal_model");
}

#[test]
fn damaged_engines_are_opened_or_refused() {
    replay("lsm_directory");
}

#[test]
fn an_engine_is_its_model_whatever_the_tape_does() {
    replay("lsm_model");
}

#[test]
fn forged_tables_are_walked_or_refused() {
    replay("lsm_table");
}

#[test]
fn forged_manifests_are_refused_and_change_nothing() {
    replay("lsm_manifest");
}

#[test]
fn hostile_messages_do_not_stop_a_node() {
    replay("raftnode_step");
}

#[test]
fn commands_are_answered_and_leave_a_sound_state() {
    replay("store_apply");
}

#[test]
fn batches_have_one_form() {
    replay("store_command");
}

#[test]
fn requests_are_decoded_or_refused() {
    replay("api_request");
}

#[test]
fn every_target_has_a_program_and_its_seeds() {
    for target in &fuzz::TARGETS {
        let program = corpus(target.name).join("../../fuzz_targets").join(target.name);
        assert!(program.with_extension("rs").exists(), "no program for {}", target.name);
        for (name, data) in (target.seeds)() {
            let path = corpus(target.name).join(&name);
            if std::env::var_os("VARVE_BLESS").is_some_and(|value| value == "1") {
                std::fs::create_dir_all(corpus(target.name)).expect("the corpus can be written");
                std::fs::write(&path, &data).expect("the corpus can be written");
            }
            let found = std::fs::read(&path).unwrap_or_default();
            assert!(found == data, "{} is not the seed {name}; see the header", path.display());
        }
    }
}
