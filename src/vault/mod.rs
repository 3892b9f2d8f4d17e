//! The vault: how recordings lie encrypted on the shelf, and how they are read again.
//!
//! Owns: the format of a sealed file, its keys, writing and reading it. Must not touch: where keys come from, which
//! files there are, what is in them.
//! Law: a nonce is used once; what is read was written by a holder of the key, for this very file, in this order;
//! whatever was handed over before a crash can be read. Without a key files are plain, and plain files are always read.
//!
//! ```text
//! head      magic 8 | version 1 | key id 8 | random 19 | tag 16                      52 bytes
//! record    number 4 | length 4 | ciphertext of `length` bytes | tag 16              for each hand-over to the kernel
//! end       number 4 | ff ff ff ff | ciphertext of (records 4, plain bytes 8) | tag 16
//! ```
//! Numbers are big-endian. The cipher is XChaCha20-Poly1305 in the STREAM construction (Hoang, Reyhanitabar, Rogaway,
//! Vizár: "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015): the nonce is `random`, the
//! record's number, and whether it is the end. The head's tag is that of an empty record 0.
//!
//! * Each file has a key of its own, HMAC-SHA256 of the box's key over the head and the file's *identity*, a text that
//!   the caller makes of what the file is (task, lane, run, index). So no two files share a nonce, and one that was put
//!   in the place of another does not open.
//! * A record authenticates its own number and length and the number before it: none can be left out, doubled or moved.
//!   Numbers rise but may leave some out: one whose write failed is never used again, since its first ciphertext may
//!   still lie somewhere on the disk.
//! * A file without its end is what a crash leaves: it is good up to its last whole record ([`Input::mend`] puts the end
//!   there). A record holds at most [`BOUND`] bytes, whole packets of a transport stream where whole packets came.
//! * The key's id tells which key of several opens a file, so that a key can be replaced while files of the old one wait.

mod input;
mod output;

use std::fmt;
use std::io;
use std::sync::Arc;

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::stream::{NewStream, StreamBE32, StreamPrimitive};
use chacha20poly1305::aead::{KeyInit, Payload};
use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;

pub use input::Input;
pub use output::Output;

const MAGIC: [u8; 8] = *b"\x8ahfvault";
const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
const RANDOM_BYTES: usize = 19;
const TAG_BYTES: usize = 16;
/// The head without its tag.
const NAMED_BYTES: usize = MAGIC.len() + 1 + ID_BYTES + RANDOM_BYTES;
const HEAD_BYTES: usize = NAMED_BYTES + TAG_BYTES;
/// Number and length before each ciphertext.
const FRAME_BYTES: usize = 8;
/// Plain bytes of the end: how many records and bytes there are.
const END_BYTES: usize = 12;
/// In place of a length: the end.
const END: u32 = u32::MAX;
/// Most plain bytes of one record; a multiple of a transport stream's packet.
pub const BOUND: usize = 188 * 1024;

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum Error {
    #[error("it is sealed with the key {0}, which is not among the keys of the configuration")]
    MissingKey(KeyId),
    #[error("its format {0} is not known here")]
    Version(u8),
    #[error("its head is not authentic: it is damaged, or another file in its place")]
    Head,
    #[error("all numbers of its records are used up")]
    Full,
    #[error("an earlier write could not be taken back")]
    Broken,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

impl Error {
    /// The vault's own word in an error of reading or writing.
    pub fn of(error: &io::Error) -> Option<&Error> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether a file could be read if only its key were there.
    pub fn is_missing_key(error: &io::Error) -> bool {
        matches!(Error::of(error), Some(Error::MissingKey(_)))
    }
}

/// Names a key, and tells nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key of the box.
#[derive(Clone)]
pub struct Key {
    bytes: [u8; KEY_BYTES],
    id: KeyId,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    pub fn new(bytes: [u8; KEY_BYTES]) -> Key {
        let id = keyed(&bytes, &[b"holdfast vault key id"]);
        Key { bytes, id: KeyId(*id.first_chunk().expect("a hash is longer than an id")) }
    }

    /// A key as files hold it: 32 bytes, or 64 hex digits with or without an end of line. `Err` says what is wrong, and
    /// nothing of what is there.
    pub fn parse(text: &[u8]) -> Result<Key, &'static str> {
        let bytes: [u8; KEY_BYTES] = match <[u8; KEY_BYTES]>::try_from(text) {
            Ok(bytes) => bytes,
            Err(_) => {
                let digits = text.trim_ascii_end();
                let mut bytes = [0; KEY_BYTES];
                let read = hex::decode_to_slice(digits, &mut bytes);
                read.map_err(|_| "a key is 32 bytes, or 64 hexadecimal digits, and nothing else")?;
                bytes
            }
        };
        // what a torn disk or a forgotten step leaves
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err("32 times the same byte is no key");
        }
        Ok(Key::new(bytes))
    }

    pub fn id(&self) -> KeyId {
        self.id
    }
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The keys of a box: the one that new files are sealed with, and those that older files may have. Cheap to clone.
///
/// The default has none: files are written plain, and sealed ones cannot be read.
#[derive(Clone, Default)]
pub struct Vault(Arc<Keys>);

#[derive(Default)]
struct Keys {
    current: Option<Key>,
    old: Vec<Key>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.current {
            Some(key) => write!(f, "Vault({key:?} and {} old)", self.0.old.len()),
            None => write!(f, "Vault(plain, {} old)", self.0.old.len()),
        }
    }
}

impl Vault {
    pub fn new(current: Option<Key>, old: Vec<Key>) -> Vault {
        Vault(Arc::new(Keys { current, old }))
    }

    /// The key that new files are sealed with.
    pub fn current(&self) -> Option<KeyId> {
        self.0.current.as_ref().map(Key::id)
    }

    /// Whether a file that says this id can be read.
    pub fn has(&self, id: &str) -> bool {
        self.0.keys().any(|key| key.id.to_string() == id)
    }
}

impl Keys {
    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.current.iter().chain(&self.old)
    }
}

type Stream = StreamBE32<XChaCha20Poly1305>;

/// What a file's head says, and the cipher that follows from it.
struct Cipher(Stream);

impl Cipher {
    fn of(key: &Key, named: &[u8], identity: &str) -> Cipher {
        let own = keyed(&key.bytes, &[b"holdfast vault file", named, identity.as_bytes()]);
        let random = &named[NAMED_BYTES - RANDOM_BYTES..];
        let aead = XChaCha20Poly1305::new(&own.into());
        Cipher(Stream::from_aead(aead, random.into()))
    }

    fn seal(&self, at: Place, plain: &[u8], out: &mut Vec<u8>) {
        let sealed = self.0.encrypt(at.number, at.end, Payload { msg: plain, aad: &at.authentic() });
        out.extend_from_slice(&sealed.expect("it errs only past 256 GB"));
    }

    /// `None`: it is not what was sealed there.
    fn open(&self, at: Place, sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(at.number, at.end, Payload { msg: sealed, aad: &at.authentic() }).ok()
    }

    /// The head's tag: it holds nothing, so all of it is authentic data.
    fn head_tag(&self, named: &[u8]) -> [u8; TAG_BYTES] {
        let sealed = self.0.encrypt(0, false, Payload { msg: &[], aad: named });
        let sealed = sealed.expect("it errs only past 256 GB");
        sealed.try_into().expect("of nothing the tag remains")
    }

    fn head_holds(&self, named: &[u8], tag: &[u8]) -> bool {
        self.0.decrypt(0, false, Payload { msg: tag, aad: named }).is_ok()
    }
}

/// Where in the order of its file a record is.
#[derive(Clone, Copy)]
struct Place {
    before: u32,
    number: u32,
    /// As it stands in the frame.
    length: u32,
    end: bool,
}

impl Place {
    fn authentic(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.before.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// The record that closes a file: the same for the same records before it, however often it is written.
fn put_end(cipher: &Cipher, last: u32, records: u32, plain: u64, out: &mut Vec<u8>) -> Result<(), Error> {
    let number = last.checked_add(1).ok_or(Error::Full)?;
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&END.to_be_bytes());
    let mut says = [0; END_BYTES];
    says[..4].copy_from_slice(&records.to_be_bytes());
    says[4..].copy_from_slice(&plain.to_be_bytes());
    cipher.seal(Place { before: last, number, length: END, end: true }, &says, out);
    Ok(())
}

#[cfg(test)]
mod tests;
