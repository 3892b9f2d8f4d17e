//! A publisher's offer, and the fragments that follow it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| holdfast::media::read_description(text));
