//! Hands libFuzzer's input to `lsm_manifest` of the library.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| varve_fuzz::run("lsm_manifest", data));
