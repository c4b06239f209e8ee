#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| blyan_fuzz::fuzz(blyan_fuzz::delta, bytes));
