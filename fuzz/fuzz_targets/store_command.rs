//! Hands libFuzzer's input to `store_command` of the library.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| varve_fuzz::run("store_command", data));
