//! A file of a torn or strange disk: no byte is read from a sealed one that was not sealed for it.
#![no_main]

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::sync::LazyLock;

use holdfast::vault::{Key, Vault};
use libfuzzer_sys::fuzz_target;

const PLAIN: &[u8] = b"first hand-over, second hand-over, third";

static VAULT: LazyLock<Vault> = LazyLock::new(|| {
    let key = Key::new(std::array::from_fn(|i| i as u8));
    Vault::new(Some(key), Vec::new())
});

/// A file that was sealed, whole.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("holdfast-fuzz-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut output = VAULT.create(&path, "task/file").expect("the temporary folder takes a file");
    for part in PLAIN.chunks(16) {
        output.write(part).expect("the temporary folder takes a file");
    }
    output.finish().expect("the temporary folder takes a file");
    let whole = std::fs::read(&path).expect("it was just written");
    let _ = std::fs::remove_file(&path);
    whole
});

fn read(file: &[u8]) -> Option<(Vec<u8>, bool, bool)> {
    let mut input = VAULT.read(Cursor::new(file), "task/file").ok()?;
    let mut plain = Vec::new();
    input.read_to_end(&mut plain).expect("memory can be read");
    let _ = input.seek(SeekFrom::Start(3));
    let _ = input.read(&mut [0; 8]);
    Some((plain, input.is_sealed(), input.fault().is_some()))
}

fuzz_target!(|edits: &[u8]| {
    // as it is
    if let Some((plain, sealed, _)) = read(edits) {
        assert!(if sealed { plain.is_empty() } else { plain == edits });
    }
    // a whole file that is cut, and changed at some places
    let Some((cut, edits)) = edits.split_first_chunk::<2>() else { return };
    let mut file = WHOLE.clone();
    file.truncate(usize::from(u16::from_le_bytes(*cut)));
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]]));
        match file.get_mut(at) {
            Some(byte) => *byte ^= edit[2],
            None => file.push(edit[2]),
        }
    }
    if let Some((plain, true, faulty)) = read(&file) {
        assert!(PLAIN.starts_with(&plain));
        assert!(faulty || file == *WHOLE);
    }
});
