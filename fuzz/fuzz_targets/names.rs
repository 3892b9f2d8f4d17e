//! Names that may stand on a disk: none panics, and what is read is written back as it was.
#![no_main]

use holdfast::model::TaskId;
use holdfast::model::segment::{LocalName, decode_id, encode_id, identity, segment_stem};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(name) = LocalName::parse(text) {
        assert_eq!(name.to_string(), text);
    }
    if let Some(id) = decode_id(text) {
        assert_eq!(encode_id(&id), text);
    }
    let _ = segment_stem(text);
    if let Ok(task) = TaskId::parse(text) {
        assert_eq!(TaskId::parse(task.as_str()).as_ref(), Ok(&task));
        assert!(!task.as_str().contains('/') && !task.as_str().starts_with('.'));
        let _ = identity(&task, text);
    }
});
