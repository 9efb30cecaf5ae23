//! Hands libFuzzer's input to `raftnode_step` of the library.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| varve_fuzz::run("raftnode_step", data));
