//! Sealing of the few secrets that must outlast a restart: storage keys and the recorder's UserSig.
//!
//! Owns: the box's own key, XChaCha20-Poly1305. Must not touch: where sealed bytes are kept.
//! Law: a secret is on the disk only sealed, and opens only under the name it was sealed for. The box's key lies in a
//! file of its own (mode 0600), so that a copy of the index alone tells nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::rand_core::RngCore;
use chacha20poly1305::aead::{Aead, KeyInit, OsRng, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// First byte of everything sealed.
const FORM: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the box's key {path} cannot be had: {source}")]
    Key { path: PathBuf, source: io::Error },
    #[error("the box's key {0} does not have 32 bytes")]
    KeyLength(PathBuf),
    #[error("what was sealed does not open: it is damaged, or sealed with another key or under another name")]
    Closed,
}

/// The key of this box.
pub struct BoxKey([u8; KEY_BYTES]);

impl std::fmt::Debug for BoxKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoxKey(…)")
    }
}

impl BoxKey {
    /// Reads the key, or makes one: 32 random bytes, readable by the owner alone, whole or not there at all.
    pub fn load_or_create(path: &Path) -> Result<BoxKey, Error> {
        let failed = |source| Error::Key { path: path.to_owned(), source };
        match fs::read(path) {
            Ok(bytes) => {
                let key = <[u8; KEY_BYTES]>::try_from(bytes).map_err(|_| Error::KeyLength(path.to_owned()))?;
                return Ok(BoxKey(key));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        let mut key = [0; KEY_BYTES];
        OsRng.fill_bytes(&mut key);
        write_new(path, &key).map_err(failed)?;
        Ok(BoxKey(key))
    }

    /// Seals `plain` for the name `aad` (the key of its record).
    pub fn seal(&self, plain: &[u8], aad: &str) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        OsRng.fill_bytes(&mut nonce);
        let sealed = self
            .cipher()
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: plain, aad: aad.as_bytes() })
            .expect("it errs only past 256 GB");
        [&[FORM][..], &nonce, &sealed].concat()
    }

    /// Opens what [`BoxKey::seal`] made for the same name.
    pub fn open(&self, sealed: &[u8], aad: &str) -> Result<Vec<u8>, Error> {
        let Some((&FORM, rest)) = sealed.split_first() else { return Err(Error::Closed) };
        let Some((nonce, sealed)) = rest.split_at_checked(NONCE_BYTES) else { return Err(Error::Closed) };
        let payload = Payload { msg: sealed, aad: aad.as_bytes() };
        self.cipher().decrypt(XNonce::from_slice(nonce), payload).map_err(|_| Error::Closed)
    }

    /// A short name that two secrets share only if they are equal, and that tells nothing to who lacks this key.
    pub fn fingerprint(&self, parts: &[&str]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        hex::encode(&mac.finalize().into_bytes()[..8])
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.0.into())
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let unfinished = path.with_extension("new");
    let _ = fs::remove_file(&unfinished);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/box.key");
        let sealed = BoxKey::load_or_create(&path).unwrap().seal(b"secret", "keys/t");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(BoxKey::load_or_create(&path).unwrap().open(&sealed, "keys/t").unwrap(), b"secret");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn it_opens_only_whole_and_only_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let key = BoxKey::load_or_create(&dir.path().join("a")).unwrap();
        let sealed = key.seal(b"secret", "keys/t");
        assert!(!sealed.windows(6).any(|w| w == b"secret"));
        assert_ne!(sealed, key.seal(b"secret", "keys/t"), "a nonce is never used twice");
        assert!(key.open(&sealed, "keys/u").is_err());
        let other = BoxKey::load_or_create(&dir.path().join("b")).unwrap();
        assert!(other.open(&sealed, "keys/t").is_err());
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert!(key.open(&bent, "keys/t").is_err());
            assert!(key.open(&sealed[..at], "keys/t").is_err());
        }
        assert_eq!(format!("{key:?}"), "BoxKey(…)");
    }

    #[test]
    fn a_key_of_the_wrong_length_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, b"short").unwrap();
        assert!(matches!(BoxKey::load_or_create(&path), Err(Error::KeyLength(_))));
        assert_eq!(fs::read(&path).unwrap(), b"short");
    }

    #[test]
    fn fingerprints_tell_secrets_apart() {
        let dir = tempfile::tempdir().unwrap();
        let key = BoxKey::load_or_create(&dir.path().join("a")).unwrap();
        assert_eq!(key.fingerprint(&["ab", "c"]), key.fingerprint(&["ab", "c"]));
        assert_ne!(key.fingerprint(&["ab", "c"]), key.fingerprint(&["a", "bc"]));
    }
}
