//! Hands libFuzzer's input to `wal_frame` of the library.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| varve_fuzz::run("wal_frame", data));
