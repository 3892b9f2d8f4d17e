//! A sum over all records, kept beside them: sled may lose records and say nothing, and this shows it.
//!
//! Owns: the record `meta/sum`, and the number of the last commit beside the index ([`Witness`]). Must not touch: the
//! database.
//! Law: the sum changes in the batch that changes the records. An index whose sum does not fit has lost something, one
//! whose last commit is older than the witness's has gone back as a whole (sled takes a torn log for its end), and one
//! without a sum was never written. The witness is not synced each time: it may lag after a power cut, and then tells
//! less, but nothing wrong.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The key of the sum itself, which does not count.
pub(super) const KEY: &str = "meta/sum";

/// How many records there are, and all their checksums, in an order that does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    /// Commits so far; a sum that was counted knows none.
    commits: u64,
    records: u64,
    crcs: u64,
}

fn checksum(key: &[u8], value: &[u8]) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(key.len() as u64).to_le_bytes());
    crc.update(key);
    crc.update(value);
    crc.finalize().into()
}

impl Sum {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        if key != KEY.as_bytes() {
            self.records = self.records.wrapping_add(1);
            self.crcs = self.crcs.wrapping_add(checksum(key, value));
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) {
        if key != KEY.as_bytes() {
            self.records = self.records.wrapping_sub(1);
            self.crcs = self.crcs.wrapping_sub(checksum(key, value));
        }
    }

    /// The sum after `writes`; `before` says what a key holds.
    pub(super) fn after<E>(
        mut self,
        writes: &BTreeMap<String, Option<Vec<u8>>>,
        mut before: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Sum, E> {
        for (key, value) in writes {
            if let Some(old) = before(key)? {
                self.take(key.as_bytes(), &old);
            }
            if let Some(new) = value {
                self.add(key.as_bytes(), new);
            }
        }
        self.commits = self.commits.saturating_add(1);
        Ok(self)
    }

    /// What was kept with the records, if it fits what was counted.
    pub(super) fn confirmed(self, kept: Option<&[u8]>) -> Option<Sum> {
        let kept = Sum::from_bytes(kept?)?;
        (kept.records == self.records && kept.crcs == self.crcs).then_some(kept)
    }

    pub(super) fn commits(self) -> u64 {
        self.commits
    }

    /// It is of an older commit than the witness has seen.
    pub(super) fn is_behind(self, seen: u64) -> bool {
        self.commits < seen
    }

    /// Its next commit has a number that nobody has seen.
    pub(super) fn go_on_from(self, seen: u64) -> Sum {
        Sum { commits: self.commits.max(seen), ..self }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        format!("{:020} {:020} {:020}\n", self.commits, self.records, self.crcs).into_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Sum> {
        let mut fields = std::str::from_utf8(bytes).ok()?.split_whitespace().map(str::parse);
        let mut field = || fields.next()?.ok();
        Some(Sum { commits: field()?, records: field()?, crcs: field()? })
    }
}

/// Commits after which the witness is synced.
const SYNC_EACH: u64 = 64;

/// The sum of the last commit, in a file beside the index.
pub(super) struct Witness(File);

impl Witness {
    /// Also answers with the number of the last commit that it saw.
    pub(super) fn new(file: File) -> (Witness, u64) {
        let mut text = [0; 63];
        let seen = file.read_at(&mut text, 0).ok().and_then(|n| Sum::from_bytes(text.get(..n)?));
        (Witness(file), seen.map_or(0, |sum| sum.commits))
    }

    pub(super) fn see(&self, sum: Sum) -> io::Result<()> {
        self.0.write_all_at(&sum.to_bytes(), 0)?;
        if sum.commits.is_multiple_of(SYNC_EACH) { self.0.sync_data() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_every_change_and_sees_every_loss() {
        let mut records = BTreeMap::<String, Vec<u8>>::new();
        let mut sum = Sum::default();
        for n in 0..1000u32 {
            let key = format!("k/{}", n % 97);
            let value = (n % 5 != 0).then(|| n.to_le_bytes().to_vec());
            let writes = BTreeMap::from([(key.clone(), value.clone())]);
            sum = sum.after(&writes, |key| Ok::<_, ()>(records.get(key).cloned())).unwrap();
            match value {
                Some(value) => drop(records.insert(key, value)),
                None => drop(records.remove(&key)),
            }
        }
        let of = |records: &BTreeMap<String, Vec<u8>>| {
            let mut sum = Sum::default();
            records.iter().for_each(|(key, value)| sum.add(key.as_bytes(), value));
            sum
        };
        assert_eq!(of(&records).confirmed(Some(&sum.to_bytes())), Some(sum));
        assert_eq!(Sum::default().confirmed(None), None);
        for gone in records.keys() {
            let mut fewer = records.clone();
            fewer.remove(gone);
            assert_eq!(of(&fewer).confirmed(Some(&sum.to_bytes())), None);
            let mut older = records.clone();
            older.insert(gone.clone(), vec![9]);
            assert_eq!(of(&older).confirmed(Some(&sum.to_bytes())), None);
        }
    }
}
