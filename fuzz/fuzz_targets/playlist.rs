//! A playlist of a stranger or of a torn disk.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::playlist(bytes));
