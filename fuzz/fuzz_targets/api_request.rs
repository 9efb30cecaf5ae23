//! Hands libFuzzer's input to `api_request` of the library.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| varve_fuzz::run("api_request", data));
