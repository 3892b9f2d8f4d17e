//! The open database, and a new one in its place when the disk refused it a write.
//!
//! Owns: what makes a commit durable; carrying every record over into fresh files. Must not touch: why the disk refused.
//! Law: what is read is durable; a commit is when the file has been synced, which sled does not do: its flush ends in `sync_file_range`,
//! which leaves out the file's metadata and the disk's own cache. What lies in files whose write or sync failed is never
//! trusted, and never synced again as if nothing had happened: every record is written anew, synced, and counted before
//! the old files go. (sled itself takes nothing more after its first error.)

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::sum::{self, Sum};
use super::{Error, Records, SLED_IS_HELD, count, open_fenced, patiently};
use crate::crash;
use crate::model::disk::Fault;

/// A disk that refused is left alone for so long before the records are written anew.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a file is made safe; another one only in tests.
type Sync = fn(&File) -> io::Result<()>;

#[derive(Debug)]
pub(super) struct Index {
    dir: PathBuf,
    sync: Sync,
    /// `None`: the new files, and the old ones are gone, do not open. The next start finds them or the shelf.
    open: Option<Open>,
    /// The sum over all records, and whether it is known: after a failure nobody knows which there are.
    sum: (Sum, bool),
    /// The disk refused a write, then, and said so.
    refused: Option<(Instant, Error)>,
}

#[derive(Debug)]
struct Open {
    db: sled::Db,
    file: File,
}

impl Open {
    /// `db` lies in `dir`. Its file's name is made durable here.
    fn new(db: sled::Db, dir: &Path) -> io::Result<Open> {
        let file = File::open(dir.join("db"))?;
        File::open(dir)?.sync_all()?;
        File::open(dir.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(Open { db, file })
    }
}

fn refused(error: &io::Error) -> Error {
    let fault = error.raw_os_error().and_then(Fault::of_errno).unwrap_or(Fault::Failed);
    Error::Disk { fault, why: error.to_string() }
}

/// Beside the folder of the index while it is made.
fn beside(dir: &Path) -> PathBuf {
    dir.with_extension("new")
}

/// After a crash in the middle: the new one counts when the old one is gone already, and is nothing otherwise.
pub(super) fn settle(dir: &Path) -> io::Result<()> {
    let new = beside(dir);
    if !new.exists() {
        return Ok(());
    }
    if dir.exists() { fs::remove_dir_all(&new) } else { fs::rename(&new, dir) }
}

impl Index {
    pub(super) fn new(db: sled::Db, sum: Sum, dir: &Path) -> io::Result<Index> {
        Index::with(db, sum, dir, File::sync_data)
    }

    fn with(db: sled::Db, sum: Sum, dir: &Path, sync: Sync) -> io::Result<Index> {
        Ok(Index { dir: dir.to_owned(), sync, open: Some(Open::new(db, dir)?), sum: (sum, true), refused: None })
    }

    /// All changes and their sum, as one, are on the disk, or nobody knows.
    pub(super) fn commit(&mut self, changes: BTreeMap<String, Option<Vec<u8>>>) -> Result<Sum, Error> {
        let Open { db, file } = self.ready()?;
        let (db, file) = (db.clone(), file.try_clone().map_err(|e| refused(&e)));
        let (sum, known) = (self.sum.0, std::mem::replace(&mut self.sum.1, false));
        let before = if known { sum } else { count(&db)?.go_on_from(sum.commits()) };
        let after = before.after(&changes, |key| db.get(key).map(|value| value.map(|bytes| bytes.to_vec())))?;
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key.into_bytes(), value),
                None => batch.remove(key.into_bytes()),
            }
        }
        batch.insert(sum::KEY, after.to_bytes());
        let applied = db.apply_batch(batch).map_err(Error::from);
        crash::point("index.applied");
        let flushed = applied.and_then(|()| db.flush().map(|_| ()).map_err(Error::from));
        crash::point("index.flushed");
        let done = flushed.and_then(|()| (self.sync)(&file?).map_err(|e| refused(&e)));
        crash::point("index.synced");
        if let Err(error @ Error::Disk { .. }) = &done {
            self.refused = Some((Instant::now(), error.clone()));
        }
        done?;
        self.sum = (after, true);
        Ok(after)
    }

    pub(super) fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.ready()?.db.get(key.as_bytes())?.map(|bytes| bytes.to_vec()))
    }

    pub(super) fn scan(&mut self, prefix: &str) -> Result<Records, Error> {
        let text = |key: sled::IVec| String::from_utf8_lossy(&key).into_owned();
        let records = self.ready()?.db.scan_prefix(prefix.as_bytes());
        records.map(|record| record.map(|(key, value)| (text(key), value.to_vec())).map_err(Error::from)).collect()
    }

    pub(super) fn close(self) -> Result<(), Error> {
        if let Some((_, error)) = self.refused {
            if let Some(open) = self.open {
                let_go(open);
            }
            return Err(error);
        }
        let Some(open) = self.open else { return Ok(()) };
        let flushed = open.db.flush().map(|_| ()).map_err(Error::from);
        let synced = flushed.and_then(|()| (self.sync)(&open.file).map_err(|e| refused(&e)));
        let_go(open);
        synced
    }

    /// The database, when all that is in it is durable. After a refused commit it shows what may be gone after a power
    /// cut: an event that is delivered out of that would come back as another one of the same number.
    fn ready(&mut self) -> Result<&Open, Error> {
        if let Some((when, error)) = &self.refused {
            if when.elapsed() < PATIENCE {
                return Err(error.clone());
            }
            self.refound()?;
        }
        self.open()
    }

    fn open(&self) -> Result<&Open, Error> {
        let gone = || Error::Disk { fault: Fault::Failed, why: "its files are gone until the next start".into() };
        self.open.as_ref().ok_or_else(gone)
    }

    /// Every record into new files.
    fn refound(&mut self) -> Result<(), Error> {
        let new = beside(&self.dir);
        // an error in opening has lost its number: it is taken for what began it
        let began = self.refused.as_ref().and_then(|(_, error)| error.fault()).unwrap_or(Fault::Failed);
        let written =
            self.open().and_then(|old| records(&old.db)).and_then(|records| write(&new, records, self.sync, began));
        let Ok(count) = written else {
            let _ = fs::remove_dir_all(&new);
            let error = written.expect_err("looked at above");
            self.refused = Some((Instant::now(), error.clone()));
            return Err(error);
        };
        if let Some(old) = self.open.take() {
            let_go(old);
        }
        crash::point("refound.written");
        // from here on the new files are the index, whatever name they have: `settle` knows
        let removed = fs::remove_dir_all(&self.dir);
        crash::point("refound.removed");
        let moved = removed.and_then(|()| fs::rename(&new, &self.dir));
        crash::point("refound.renamed");
        let opened = moved.map_err(|e| refused(&e)).and_then(|()| patient_open(&self.dir, began));
        let opened = opened.and_then(|db| Open::new(db, &self.dir).map_err(|e| refused(&e)));
        match opened {
            Ok(open) => {
                tracing::warn!(records = count, "the index is written anew, and takes commits again");
                metrics::counter!("holdfast_index_refounded_total").increment(1);
                self.open = Some(open);
                self.refused = None;
                Ok(())
            }
            Err(error) => {
                self.refused = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

/// sled panics when its last sync fails.
fn let_go(open: Open) {
    if catch_unwind(AssertUnwindSafe(move || drop(open))).is_err() {
        tracing::error!("the index panicked while it was closed");
    }
}

/// A panic inside sled is an error of the disk here: it comes of what could not be read or written.
fn fenced<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let panicked = |_| Error::Disk { fault: Fault::Failed, why: "the index panicked".into() };
    catch_unwind(AssertUnwindSafe(run)).map_err(panicked)?
}

fn records(old: &sled::Db) -> Result<Vec<(sled::IVec, sled::IVec)>, Error> {
    fenced(|| old.iter().collect::<sled::Result<Vec<_>>>().map_err(Error::from))
}

/// Says how many there are.
fn write(new: &Path, records: Vec<(sled::IVec, sled::IVec)>, sync: Sync, began: Fault) -> Result<usize, Error> {
    if new.exists() {
        fs::remove_dir_all(new).map_err(|e| refused(&e))?;
    }
    let db = patient_open(new, began)?;
    let fill = || -> Result<(), Error> {
        for chunk in records.chunks(1000) {
            let mut batch = sled::Batch::default();
            chunk.iter().for_each(|(key, value)| batch.insert(key, value));
            db.apply_batch(batch)?;
        }
        db.flush()?;
        sync(&File::open(new.join("db")).map_err(|e| refused(&e))?).map_err(|e| refused(&e))
    };
    let filled = fenced(fill);
    // closed whether or not it was filled
    let closed = fenced(|| {
        drop(db);
        Ok(())
    });
    filled.and(closed)?;
    let there = patient_open(new, began)?.len();
    if there == records.len() {
        return Ok(there);
    }
    Err(Error::Database(format!("{there} of {} records are in the new files", records.len())))
}

fn patient_open(dir: &Path, fault: Fault) -> Result<sled::Db, Error> {
    let opened = patiently(|| match open_fenced(dir) {
        Err(why) if why.contains(SLED_IS_HELD) => None,
        done => Some(done),
    });
    let failed = |why: String| Error::Disk { fault, why };
    opened.unwrap_or_else(|| Err("its last life does not let go of it".into())).map(|(db, _)| db).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    static REFUSES: AtomicBool = AtomicBool::new(false);

    fn as_the_test_says(file: &File) -> io::Result<()> {
        match REFUSES.load(Ordering::SeqCst) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => file.sync_data(),
        }
    }

    fn put(n: u32) -> BTreeMap<String, Option<Vec<u8>>> {
        BTreeMap::from([(format!("n/{n:04}"), Some(n.to_string().into_bytes()))])
    }

    #[test]
    fn after_a_failed_sync_every_record_is_written_anew() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("index");
        let mut index =
            Index::with(patient_open(&dir, Fault::Failed).unwrap(), Sum::default(), &dir, as_the_test_says).unwrap();
        for n in 0..50 {
            index.commit(put(n)).unwrap();
        }
        REFUSES.store(true, Ordering::SeqCst);
        let error = index.commit(put(50)).unwrap_err();
        assert_eq!(error.fault(), Some(Fault::Failed));
        REFUSES.store(false, Ordering::SeqCst);
        assert!(index.commit(put(51)).is_err(), "the disk is left alone for a while");
        assert!(index.scan("n/").is_err(), "what is not safe is not shown");

        let old = index.open().unwrap().file.metadata().unwrap();
        index.refused.as_mut().unwrap().0 -= PATIENCE;
        index.commit(put(51)).unwrap();
        let new = index.open().unwrap().file.metadata().unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_ne!(old.ino(), new.ino(), "the old file is not synced again");
        index.close().unwrap();
        assert!(!beside(&dir).exists());

        let mut index = Index::new(patient_open(&dir, Fault::Failed).unwrap(), Sum::default(), &dir).unwrap();
        let there: Vec<String> = index.scan("n/").unwrap().into_iter().map(|(key, _)| key).collect();
        assert!((0..50).chain([51]).all(|n| there.contains(&format!("n/{n:04}"))), "{there:?}");
    }

    #[test]
    fn a_crash_in_the_middle_leaves_one_index() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("index");
        fs::create_dir(&dir).unwrap();
        fs::create_dir(beside(&dir)).unwrap();
        settle(&dir).unwrap();
        assert!(dir.exists() && !beside(&dir).exists(), "the old one is whole as long as it is there");
        fs::rename(&dir, beside(&dir)).unwrap();
        settle(&dir).unwrap();
        assert!(dir.exists() && !beside(&dir).exists());
    }
}
