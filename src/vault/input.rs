//! Reading a file of the shelf, plain or sealed, as if it were plain.
//!
//! Owns: what of a file is whole. Must not touch: what its bytes mean.
//! Law: no byte is given out that is not authentic. What is torn or damaged ends the file there, as a plain one ends
//! where it was torn; who needs all of it asks [`Input::fault`], or knows its length and checksum.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::{
    BOUND, Cipher, END, END_BYTES, Error, FRAME_BYTES, HEAD_BYTES, ID_BYTES, KeyId, MAGIC, NAMED_BYTES, Place,
    TAG_BYTES, VERSION, Vault, put_end,
};

/// A file that is being read. At most one record of it is in memory.
pub struct Input<R = File> {
    from: R,
    /// Where the next byte is read, of the plain bytes.
    at: u64,
    len: u64,
    sealed: Option<Sealed>,
}

struct Sealed {
    cipher: Option<Cipher>,
    key: Option<KeyId>,
    records: Vec<Record>,
    /// The end is there, says what is true, and nothing follows.
    closed: bool,
    fault: Option<String>,
    /// So many records from the first on have been opened.
    authentic: usize,
    open: Option<(usize, Vec<u8>)>,
}

#[derive(Clone, Copy)]
struct Record {
    /// Where its frame begins in the file.
    at: u64,
    /// Where its first byte is among the plain ones.
    begins: u64,
    length: u32,
    number: u32,
}

impl Record {
    fn plain_end(&self) -> u64 {
        self.begins + u64::from(self.length)
    }

    fn end(&self) -> u64 {
        self.at + (FRAME_BYTES + TAG_BYTES) as u64 + u64::from(self.length)
    }
}

impl Vault {
    /// Opens a file that was made for `identity`, or is plain.
    pub fn open(&self, path: &Path, identity: &str) -> io::Result<Input> {
        self.read(File::open(path)?, identity)
    }

    /// [`Vault::open`] of anything that is like a file.
    pub fn read<R: Read + Seek>(&self, mut from: R, identity: &str) -> io::Result<Input<R>> {
        let size = from.seek(SeekFrom::End(0))?;
        from.seek(SeekFrom::Start(0))?;
        let mut head = [0; HEAD_BYTES];
        let there = read_up_to(&mut from, &mut head)?;
        let magic = MAGIC.len().min(there);
        if there == 0 || head[..magic] != MAGIC[..magic] {
            from.seek(SeekFrom::Start(0))?;
            return Ok(Input { from, at: 0, len: size, sealed: None });
        }
        if there < HEAD_BYTES {
            let fault = Some("it ends within its head".to_owned());
            let sealed =
                Sealed { cipher: None, key: None, records: Vec::new(), closed: false, fault, authentic: 0, open: None };
            return Ok(Input { from, at: 0, len: 0, sealed: Some(sealed) });
        }
        let (named, tag) = head.split_at(NAMED_BYTES);
        let (version, rest) = (named[MAGIC.len()], &named[MAGIC.len() + 1..]);
        if version != VERSION {
            return Err(Error::Version(version).into());
        }
        let id = KeyId(*rest.first_chunk::<ID_BYTES>().expect("the head has one"));
        let key = self.0.keys().find(|key| key.id == id).ok_or(Error::MissingKey(id))?;
        let cipher = Cipher::of(key, named, identity);
        if !cipher.head_holds(named, tag) {
            return Err(Error::Head.into());
        }
        let mut sealed = Sealed {
            cipher: None,
            key: Some(id),
            records: Vec::new(),
            closed: false,
            fault: None,
            authentic: 0,
            open: None,
        };
        sealed.walk(&mut from, size, &cipher)?;
        sealed.cipher = Some(cipher);
        let len = sealed.plain_len();
        Ok(Input { from, at: 0, len, sealed: Some(sealed) })
    }
}

/// Fills `buffer` as far as there are bytes.
fn read_up_to(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut there = 0;
    while there < buffer.len() {
        match from.read(&mut buffer[there..]) {
            Ok(0) => break,
            Ok(n) => there += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(there)
}

impl Sealed {
    fn plain_len(&self) -> u64 {
        self.records.last().map_or(0, Record::plain_end)
    }

    /// Finds the records by their frames. What the frames say shows to be true when the records are opened.
    fn walk<R: Read + Seek>(&mut self, from: &mut R, size: u64, cipher: &Cipher) -> io::Result<()> {
        let (mut at, mut before) = (HEAD_BYTES as u64, 0);
        let torn = |at: u64| Some(format!("it has no end: torn behind byte {at}"));
        loop {
            from.seek(SeekFrom::Start(at))?;
            let mut frame = [0; FRAME_BYTES];
            if read_up_to(from, &mut frame)? < FRAME_BYTES {
                self.fault = torn(at);
                return Ok(());
            }
            let [a, b, c, d, e, f, g, h] = frame;
            let (number, length) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
            if length == END {
                let mut end = [0; END_BYTES + TAG_BYTES];
                let whole = read_up_to(from, &mut end)? == end.len();
                let place = Place { before, number, length, end: true };
                let says = whole.then(|| cipher.open(place, &end)).flatten();
                let mut true_end = Vec::new();
                true_end.extend_from_slice(&u32::try_from(self.records.len()).unwrap_or(u32::MAX).to_be_bytes());
                true_end.extend_from_slice(&self.plain_len().to_be_bytes());
                if says.as_deref() != Some(&true_end[..]) {
                    self.fault = torn(at);
                } else if size != at + (FRAME_BYTES + end.len()) as u64 {
                    self.fault = Some(format!("something follows its end at byte {at}"));
                } else {
                    self.closed = true;
                }
                return Ok(());
            }
            let record = Record { at, begins: self.plain_len(), length, number };
            if length == 0 || length as usize > BOUND || number <= before || record.end() > size {
                self.fault = torn(at);
                return Ok(());
            }
            self.records.push(record);
            (at, before) = (record.end(), number);
        }
    }

    /// Opens a record. `false`: it is not authentic, and the file ends before it.
    fn load<R: Read + Seek>(&mut self, from: &mut R, index: usize) -> io::Result<bool> {
        if self.open.as_ref().is_some_and(|(open, _)| *open == index) {
            return Ok(true);
        }
        let record = self.records[index];
        let before = index.checked_sub(1).map_or(0, |before| self.records[before].number);
        from.seek(SeekFrom::Start(record.at + FRAME_BYTES as u64))?;
        let mut sealed = vec![0; record.length as usize + TAG_BYTES];
        let there = read_up_to(from, &mut sealed)?;
        let place = Place { before, number: record.number, length: record.length, end: false };
        let cipher = self.cipher.as_ref().expect("a file without a cipher has no records");
        let plain = (there == sealed.len()).then(|| cipher.open(place, &sealed)).flatten();
        let Some(plain) = plain else {
            self.fault = Some(format!("the record at byte {} is damaged", record.at));
            self.closed = false;
            self.records.truncate(index);
            self.authentic = self.authentic.min(index);
            return Ok(false);
        };
        if self.authentic == index {
            self.authentic += 1;
        }
        self.open = Some((index, plain));
        Ok(true)
    }
}

impl<R> Input<R> {
    /// Plain bytes, as far as can be said before they are read.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// The key that opens it.
    pub fn key(&self) -> Option<KeyId> {
        self.sealed.as_ref()?.key
    }

    /// What is not as it was when the file was closed, as far as it was read. A plain file never says.
    pub fn fault(&self) -> Option<&str> {
        self.sealed.as_ref()?.fault.as_deref()
    }
}

impl Input<File> {
    /// Makes the file at `path`, which this one is, end behind its first `keep` plain bytes, or before the record that
    /// holds more than those: only what was read already is kept. Says how many plain bytes there are now.
    pub fn mend(&mut self, path: &Path, keep: u64) -> io::Result<u64> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        let Some(sealed) = &self.sealed else {
            let keep = keep.min(self.len);
            file.set_len(keep)?;
            return Ok(keep);
        };
        let kept = &sealed.records[..sealed.authentic];
        let kept = &kept[..kept.partition_point(|record| record.plain_end() <= keep)];
        let (Some(last), Some(cipher)) = (kept.last(), &sealed.cipher) else {
            file.set_len(0)?;
            return Ok(0);
        };
        if sealed.closed && kept.len() == sealed.records.len() {
            return Ok(self.len);
        }
        let mut end = Vec::new();
        let records = u32::try_from(kept.len()).expect("records are numbered by 32 bits");
        put_end(cipher, last.number, records, last.plain_end(), &mut end)?;
        file.set_len(last.end())?;
        file.seek(SeekFrom::Start(last.end()))?;
        file.write_all(&end)?;
        Ok(last.plain_end())
    }
}

impl<R: Read + Seek> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(sealed) = &mut self.sealed else {
            let n = self.from.read(buffer)?;
            self.at += n as u64;
            return Ok(n);
        };
        if self.at >= self.len || buffer.is_empty() {
            return Ok(0);
        }
        let index = sealed.records.partition_point(|record| record.plain_end() <= self.at);
        if !sealed.load(&mut self.from, index)? {
            self.len = sealed.plain_len();
            return Ok(0);
        }
        let (_, plain) = sealed.open.as_ref().expect("loaded above");
        let skip = usize::try_from(self.at - sealed.records[index].begins).expect("within a record");
        let n = buffer.len().min(plain.len() - skip);
        buffer[..n].copy_from_slice(&plain[skip..skip + n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl<R: Read + Seek> Seek for Input<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let before_zero = || io::Error::new(io::ErrorKind::InvalidInput, "a seek to before the first byte");
        let at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(by) => self.len.checked_add_signed(by).ok_or_else(before_zero)?,
            SeekFrom::Current(by) => self.at.checked_add_signed(by).ok_or_else(before_zero)?,
        };
        if self.sealed.is_none() {
            self.from.seek(SeekFrom::Start(at))?;
        }
        self.at = at;
        Ok(at)
    }
}
