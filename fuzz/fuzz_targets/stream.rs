//! A transport stream whose writer died: whole packets are kept, and nothing panics.
#![no_main]

use holdfast::spool::ts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for wants_picture in [false, true] {
        let usable = ts::examine(bytes, wants_picture).expect("memory can be read");
        if let Some(usable) = usable {
            assert!(usable.bytes % 188 == 0 && usable.bytes <= bytes.len() as u64);
        }
        let checked = ts::check(bytes, wants_picture).expect("memory can be read");
        assert_eq!(checked.usable, usable);
        let _ = holdfast::media::stream_size(&checked.first_picture);
    }
});
