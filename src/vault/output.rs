//! Writing a file of the shelf: plain, or sealed as it is handed over.
//!
//! Owns: the open file, what of it is whole. Must not touch: when it is synced.
//! Law: a hand-over is in the file whole or not at all; a number whose record may have reached the disk is never used
//! for another.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use chacha20poly1305::aead::OsRng;
use chacha20poly1305::aead::rand_core::RngCore;

use super::{
    BOUND, Cipher, Error, HEAD_BYTES, ID_BYTES, Key, MAGIC, NAMED_BYTES, Place, RANDOM_BYTES, VERSION, Vault, put_end,
};

/// A file that is being written.
pub struct Output {
    file: File,
    seal: Option<Seal>,
    /// Bytes that were handed over, and bytes that lie in the file.
    plain: u64,
    stored: u64,
    broken: bool,
    sealed: Vec<u8>,
    #[cfg(test)]
    failing: bool,
}

/// The running state of a sealed file; it makes bytes and writes none.
pub(super) struct Seal {
    cipher: Cipher,
    head: [u8; HEAD_BYTES],
    /// The last number that was used, and the last whose record is in the file.
    used: u32,
    kept: u32,
    records: u32,
    closed: bool,
}

impl Vault {
    /// Begins a new file: sealed for `identity` when there is a key. One that exists is an error.
    pub fn create(&self, path: &Path, identity: &str) -> io::Result<Output> {
        let file = File::create_new(path)?;
        let seal = self.0.current.as_ref().map(|key| {
            let mut random = [0; RANDOM_BYTES];
            OsRng.fill_bytes(&mut random);
            Seal::new(key, random, identity)
        });
        Ok(Output {
            file,
            seal,
            plain: 0,
            stored: 0,
            broken: false,
            sealed: Vec::new(),
            #[cfg(test)]
            failing: false,
        })
    }
}

impl Output {
    /// Hands bytes to the kernel. After an error the file is as it was before, and the same bytes may be tried again.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(Error::Broken.into());
        }
        let Some(seal) = &mut self.seal else {
            let written = self.file.write_all(bytes);
            return self.settle(written, bytes.len(), bytes.len());
        };
        self.sealed.clear();
        if self.stored == 0 {
            self.sealed.extend_from_slice(&seal.head);
        }
        let records = seal.put(bytes, &mut self.sealed)?;
        let written = self.file.write_all(&self.sealed);
        #[cfg(test)]
        let written = if std::mem::take(&mut self.failing) { Err(io::ErrorKind::StorageFull.into()) } else { written };
        let (seal, sealed) = (self.seal.as_mut().expect("looked at above"), self.sealed.len());
        if written.is_ok() {
            seal.kept = seal.used;
            seal.records += records;
        }
        self.settle(written, bytes.len(), sealed)
    }

    /// Closes a sealed file by its end. What was handed over stays readable also where this fails.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(Error::Broken.into());
        }
        let Some(seal) = self.seal.as_mut().filter(|seal| !seal.closed && self.stored > 0) else { return Ok(()) };
        self.sealed.clear();
        seal.end(self.plain, &mut self.sealed)?;
        let written = self.file.write_all(&self.sealed);
        seal.closed = written.is_ok();
        self.settle(written, 0, self.sealed.len())
    }

    /// A hand-over that is there in part is cut off again.
    fn settle(&mut self, written: io::Result<()>, plain: usize, stored: usize) -> io::Result<()> {
        if let Err(error) = written {
            let cut = self.file.set_len(self.stored).and_then(|()| self.file.seek(SeekFrom::Start(self.stored)));
            self.broken = cut.is_err();
            return Err(error);
        }
        self.plain += plain as u64;
        self.stored += stored as u64;
        Ok(())
    }

    /// Bytes that were handed over.
    pub fn plain(&self) -> u64 {
        self.plain
    }

    #[cfg(test)]
    pub(super) fn fail_next(&mut self) {
        self.failing = true;
    }

    /// Whoever makes it safe needs the file itself.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Seal {
    pub(super) fn new(key: &Key, random: [u8; RANDOM_BYTES], identity: &str) -> Seal {
        let mut head = [0; HEAD_BYTES];
        let (magic, rest) = head.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        rest[0] = VERSION;
        rest[1..=ID_BYTES].copy_from_slice(&key.id.0);
        rest[1 + ID_BYTES..][..RANDOM_BYTES].copy_from_slice(&random);
        let cipher = Cipher::of(key, &head[..NAMED_BYTES], identity);
        let tag = cipher.head_tag(&head[..NAMED_BYTES]);
        head[NAMED_BYTES..].copy_from_slice(&tag);
        Seal { cipher, head, used: 0, kept: 0, records: 0, closed: false }
    }

    /// Appends records to `out`, and says how many. They count as kept when the caller says so.
    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<u32, Error> {
        let (mut before, mut records) = (self.kept, 0);
        for chunk in bytes.chunks(BOUND) {
            let number = self.used.checked_add(1).filter(|number| *number < u32::MAX).ok_or(Error::Full)?;
            self.used = number;
            let length = u32::try_from(chunk.len()).expect("chunks have at most BOUND bytes");
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&length.to_be_bytes());
            self.cipher.seal(Place { before, number, length, end: false }, chunk, out);
            before = number;
            records += 1;
        }
        Ok(records)
    }

    fn end(&self, plain: u64, out: &mut Vec<u8>) -> Result<(), Error> {
        put_end(&self.cipher, self.kept, self.records, plain, out)
    }

    /// A whole file in memory: for tests.
    #[cfg(test)]
    pub(super) fn whole(mut self, hand_overs: &[&[u8]]) -> Vec<u8> {
        let mut out = self.head.to_vec();
        for bytes in hand_overs {
            let records = self.put(bytes, &mut out).expect("few records");
            self.kept = self.used;
            self.records += records;
        }
        let plain = hand_overs.iter().map(|bytes| bytes.len() as u64).sum();
        self.end(plain, &mut out).expect("few records");
        out
    }
}
