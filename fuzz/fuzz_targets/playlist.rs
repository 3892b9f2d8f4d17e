//! A playlist of a stranger or of a torn disk: what is read is written, and reads back the same.
#![no_main]

use holdfast::model::playlist::Playlist;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(read) = Playlist::parse(text) else { return };
    let _ = Playlist::parse(&read.render()).expect("what render writes can be read");
});
