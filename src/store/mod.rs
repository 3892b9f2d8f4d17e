//! The memory of the box: an index of small records that outlasts power cuts.
//!
//! Owns: the sled database, on one plain thread named `store`; durability. Must not touch: media files, the meaning of
//! records ([`records`] has their shapes, their owners the rest).
//! Law: when [`Store::commit`] returns `Ok`, the whole batch is on the disk; when it returns an error, nobody knows.
//! The index is never the truth about files: a broken one is set aside, and recovery makes a new one from the shelf.
//!
//! Why one thread: sled 0.34 loses what was not flushed, its async flush is reported to deadlock and so are many
//! callers at once. The thread takes what waits (up to 64 requests), applies it as one batch, flushes once, and
//! answers all. It opens without panicking only on a healthy folder, so opening is fenced by `catch_unwind`.

pub mod records;
pub mod seal;
pub mod vod;

mod index;
mod sum;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::model::disk::Fault;
use index::Index;
use sum::{Sum, Witness};

/// Requests that may wait for the thread; more of them wait for a place.
const QUEUE: usize = 256;
/// Requests answered with one flush.
const GROUP: usize = 64;
/// Records are small and read rarely.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// What sled says of a database that somebody has open, which is no reason to set it aside.
const SLED_IS_HELD: &str = "could not acquire lock";

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("another process holds the index {0}")]
    Held(PathBuf),
    #[error("the index {path} does not open: {why}")]
    Open { path: PathBuf, why: String },
    #[error("the index answers: {0}")]
    Database(String),
    /// It is in order; the disk that it lies on is not.
    #[error("the index cannot be written: {why}")]
    Disk { fault: Fault, why: String },
    #[error("the index has stopped")]
    Stopped,
    #[error("the record {key} cannot be read: {why}")]
    Record { key: String, why: String },
}

impl Error {
    /// What it says of the disk.
    pub fn fault(&self) -> Option<Fault> {
        if let Error::Disk { fault, .. } = self { Some(*fault) } else { None }
    }
}

impl From<sled::Error> for Error {
    fn from(error: sled::Error) -> Error {
        match &error {
            // sled keeps the kind of an error and not its number
            sled::Error::Io(io) => {
                let full = matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
                Error::Disk { fault: if full { Fault::Full } else { Fault::Failed }, why: error.to_string() }
            }
            _ => Error::Database(error.to_string()),
        }
    }
}

/// Changes that are made together or not at all. Later ones win over earlier ones of the same key.
#[derive(Debug, Clone, Default)]
pub struct Batch(Vec<(String, Option<Vec<u8>>)>);

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: Vec<u8>) -> Batch {
        self.0.push((key.into(), Some(value)));
        self
    }

    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Batch {
        self.0.push((key.into(), None));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether bytes read as the sum over all records, for the fuzz targets.
#[doc(hidden)]
pub fn is_sum(bytes: &[u8]) -> bool {
    Sum::from_bytes(bytes).is_some()
}

/// Keys and what is under them.
pub type Records = Vec<(String, Vec<u8>)>;

enum Request {
    Commit(Batch, oneshot::Sender<Result<(), Error>>),
    Get(String, oneshot::Sender<Result<Option<Vec<u8>>, Error>>),
    Scan(String, oneshot::Sender<Result<Records, Error>>),
    Ping(oneshot::Sender<Result<(), Error>>),
    Close(oneshot::Sender<Result<(), Error>>),
}

/// The line to the thread. Cloned freely; if the thread is gone every call answers [`Error::Stopped`].
#[derive(Debug, Clone)]
pub struct Store {
    to: mpsc::Sender<Request>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    whole: bool,
}

/// An open index.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    /// Where the index that did not open lies now; `None` when all was well. Recovery has to make up for it.
    pub set_aside: Option<PathBuf>,
}

impl Store {
    /// Opens the index in `dir`, or makes it. Blocks: for the start of the process.
    ///
    /// One that does not open (an error, or a panic inside sled) is moved to `<dir>.bad-<n>` and a fresh one is made.
    /// One that another process holds is left alone and refused.
    pub fn open(dir: &Path) -> Result<Opened, Error> {
        Store::open_then(dir, || {})
    }

    /// The same; `held` is called as soon as no other process can have it, and before it is read, which takes its time.
    pub fn open_then(dir: &Path, held: impl FnOnce()) -> Result<Opened, Error> {
        let parent = dir.parent().unwrap_or(Path::new("."));
        let failed = |why: String| Error::Open { path: dir.to_owned(), why };
        std::fs::create_dir_all(parent).map_err(|e| failed(e.to_string()))?;

        // held beside the folder, not in it: the folder may be moved aside while it is held
        let lock = (OpenOptions::new().read(true).write(true).create(true).truncate(false))
            .open(dir.with_extension("lock"))
            .map_err(|e| failed(e.to_string()))?;
        let locked = patiently(|| match lock.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => None,
            done => Some(done),
        });
        match locked {
            Some(Ok(())) => {}
            Some(Err(e)) => return Err(failed(e.to_string())),
            None => return Err(Error::Held(dir.to_owned())),
        }

        held();
        index::settle(dir).map_err(|e| failed(e.to_string()))?;
        let first = patiently(|| match open_fenced(dir) {
            Err(why) if why.contains(SLED_IS_HELD) => None,
            done => Some(done),
        });
        let ((db, sum), set_aside) = match first {
            None => return Err(Error::Held(dir.to_owned())),
            Some(Ok(db)) => (db, None),
            Some(Err(why)) => {
                let bad = free_name(dir);
                tracing::error!(index = %dir.display(), aside = %bad.display(), why, "the index does not open: set aside");
                metrics::counter!("holdfast_index_set_aside_total").increment(1);
                std::fs::rename(dir, &bad).map_err(|e| failed(format!("{why}; and it cannot be set aside: {e}")))?;
                match open_fenced(dir) {
                    Ok(db) => (db, Some(bad)),
                    Err(again) => {
                        // no fault of the folder's (a full disk, say): what was there is still the best there is
                        let _ = std::fs::remove_dir_all(dir);
                        let _ = std::fs::rename(&bad, dir);
                        return Err(failed(format!("{why}; nor does a fresh one: {again}")));
                    }
                }
            }
        };

        let kept = db.get(sum::KEY).map_err(|e| failed(e.to_string()))?;
        let confirmed = sum.confirmed(kept.as_deref());
        let (witness, seen) = Witness::new(lock);
        let whole = confirmed.is_some_and(|sum| !sum.is_behind(seen));
        let sum = confirmed.unwrap_or(sum).go_on_from(seen);
        let index = Index::new(db, sum, dir).map_err(|e| failed(e.to_string()))?;
        let (to, from) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || serve(index, witness, from))
            .map_err(|e| failed(e.to_string()))?;
        Ok(Opened { store: Store { to, thread: Arc::new(Mutex::new(Some(thread))), whole }, set_aside })
    }

    /// Every record that was ever committed was there when the index was opened. `false`: it is a fresh one, or has lost
    /// something and did not notice.
    pub fn was_whole(&self) -> bool {
        self.whole
    }

    /// Makes all changes of the batch durable, as one.
    pub async fn commit(&self, batch: Batch) -> Result<(), Error> {
        self.ask(|reply| Request::Commit(batch, reply)).await
    }

    /// [`Store::commit`] for a plain thread; panics on a thread of the async runtime.
    pub fn commit_blocking(&self, batch: Batch) -> Result<(), Error> {
        self.ask_blocking(|reply| Request::Commit(batch, reply))
    }

    pub async fn get(&self, key: impl Into<String>) -> Result<Option<Vec<u8>>, Error> {
        let key = key.into();
        self.ask(|reply| Request::Get(key, reply)).await
    }

    pub fn get_blocking(&self, key: impl Into<String>) -> Result<Option<Vec<u8>>, Error> {
        let key = key.into();
        self.ask_blocking(|reply| Request::Get(key, reply))
    }

    /// All records whose key begins with `prefix`, in the order of their keys.
    pub async fn scan(&self, prefix: impl Into<String>) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let prefix = prefix.into();
        self.ask(|reply| Request::Scan(prefix, reply)).await
    }

    pub fn scan_blocking(&self, prefix: impl Into<String>) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let prefix = prefix.into();
        self.ask_blocking(|reply| Request::Scan(prefix, reply))
    }

    /// Answers when the thread turns its loop.
    pub async fn ping(&self) -> Result<(), Error> {
        self.ask(Request::Ping).await
    }

    /// Flushes, closes the database and ends the thread. Calls of other holders answer [`Error::Stopped`] from then on.
    pub async fn close(&self) -> Result<(), Error> {
        self.ask(Request::Close).await?;
        let thread = self.thread.lock().expect("nothing panics while it holds this lock").take();
        if let Some(thread) = thread {
            // the answer is the last thing it does before it drops the database
            tokio::task::spawn_blocking(move || thread.join()).await.ok();
        }
        Ok(())
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.to.send(make(reply)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    fn ask_blocking<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.to.blocking_send(make(reply)).map_err(|_| Error::Stopped)?;
        answer.blocking_recv().map_err(|_| Error::Stopped)?
    }
}

/// All records of the index in `dir`, for somebody who only looks; `None` while a process holds it, or where there is
/// none. Blocks.
///
/// A copy is opened, since opening one writes: by another user than the box's, it would keep the box out for good.
pub fn peek(dir: &Path) -> Result<Option<Records>, Error> {
    let failed = |why: String| Error::Open { path: dir.to_owned(), why };
    let lock = match File::open(dir.with_extension("lock")) {
        Ok(lock) => lock,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e.to_string())),
    };
    match lock.try_lock_shared() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
        Err(std::fs::TryLockError::Error(e)) => return Err(failed(e.to_string())),
    }
    let copy = Copy(std::env::temp_dir().join(format!("holdfast-index-{}", uuid::Uuid::new_v4())));
    copy.fill(dir).map_err(|e| failed(e.to_string()))?;
    let (witness, seen) = Witness::new(lock);
    drop(witness);
    let (db, sum) = open_fenced(&copy.0).map_err(failed)?;
    let kept = db.get(sum::KEY).map_err(Error::from)?;
    let confirmed = sum.confirmed(kept.as_deref()).unwrap_or_default();
    if confirmed.is_behind(seen) {
        return Err(failed("it has lost records".into()));
    }
    let text = |key: sled::IVec| String::from_utf8_lossy(&key).into_owned();
    let records = db.iter().map(|record| record.map(|(key, value)| (text(key), value.to_vec())));
    let records = records.filter(|record| record.as_ref().map_or(true, |(key, _)| key != sum::KEY));
    records.collect::<sled::Result<Records>>().map(Some).map_err(Error::from)
}

/// A folder that is gone when it is no longer needed.
struct Copy(PathBuf);

impl Copy {
    fn fill(&self, from: &Path) -> std::io::Result<()> {
        let mut folders = vec![(from.to_owned(), self.0.clone())];
        while let Some((from, to)) = folders.pop() {
            std::fs::DirBuilder::new().mode(0o700).create(&to)?;
            for entry in std::fs::read_dir(from)? {
                let entry = entry?;
                let to = to.join(entry.file_name());
                if entry.file_type()?.is_dir() {
                    folders.push((entry.path(), to));
                } else {
                    std::fs::copy(entry.path(), to)?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The life of the thread. The lock, which is the witness's file, is held until the database is closed.
fn serve(mut index: Index, witness: Witness, mut from: mpsc::Receiver<Request>) {
    let mut closing = None;
    while closing.is_none() {
        let Some(first) = from.blocking_recv() else { break };
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = from.try_recv()
        {
            group.push(next);
        }

        // questions first: they need not wait for a disk, and who has awaited a commit finds it
        let (mut changes, mut committed, mut asked) = (BTreeMap::new(), Vec::new(), Vec::new());
        for request in group {
            match request {
                Request::Commit(batch, reply) => {
                    changes.extend(batch.0);
                    committed.push(reply);
                }
                Request::Get(key, reply) => {
                    let _ = reply.send(index.get(&key));
                }
                Request::Scan(prefix, reply) => {
                    let _ = reply.send(index.scan(&prefix));
                }
                Request::Ping(_) | Request::Close(_) => asked.push(request),
            }
        }

        if !committed.is_empty() {
            let outcome = index.commit(changes);
            if let Err(e) = &outcome {
                tracing::error!(error = %e, commits = committed.len(), "the index does not take a commit");
                metrics::counter!("holdfast_index_errors_total").increment(1);
            }
            if let Ok(sum) = &outcome
                && let Err(error) = witness.see(*sum)
            {
                tracing::debug!(%error, "the last commit is not noted beside the index");
            }
            metrics::counter!("holdfast_index_commits_total").increment(committed.len() as u64);
            for reply in committed {
                let _ = reply.send(outcome.clone().map(drop));
            }
        }
        for request in asked {
            match request {
                Request::Ping(reply) => {
                    let _ = reply.send(Ok(()));
                }
                Request::Close(reply) => closing = Some(reply),
                _ => unreachable!("they were answered above"),
            }
        }
    }

    from.close();
    let closed = index.close();
    drop(witness);
    // what still waits is dropped with its channel and answers `Stopped`
    if let Some(reply) = closing {
        let _ = reply.send(closed);
    }
}

fn count(db: &sled::Db) -> sled::Result<Sum> {
    let mut sum = Sum::default();
    for record in db.iter() {
        let (key, value) = record?;
        sum.add(&key, &value);
    }
    Ok(sum)
}

/// Opens, and reads every record once: a torn page shows at the first touch, and it should show here.
fn open_fenced(dir: &Path) -> Result<(sled::Db, Sum), String> {
    let open = || -> Result<(sled::Db, Sum), String> {
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()
            .map_err(|e| e.to_string())?;
        let sum = count(&db).map_err(|e| e.to_string())?;
        Ok((db, sum))
    };
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        Err(format!("panic: {}", why.or_else(|| panic.downcast_ref().cloned()).unwrap_or_default()))
    })
}

/// Asks again for two seconds: a process that is just being started by this one holds its locks for a moment, too.
fn patiently<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..40 {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    None
}

fn free_name(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (1u32..)
        .map(|n| dir.with_file_name(format!("{name}.bad-{n}")))
        .find(|path| !path.exists())
        .expect("no folder has four thousand million neighbours")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Store {
        let opened = Store::open(&dir.join("index")).unwrap();
        assert_eq!(opened.set_aside, None);
        opened.store
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let batch = Batch::new().put("task/b", b"2".to_vec()).put("task/a", b"1".to_vec()).put("out/x", b"3".to_vec());
        store.commit(batch).await.unwrap();
        store.commit(Batch::new().delete("out/x").put("task/c", vec![]).put("task/c", b"4".to_vec())).await.unwrap();
        store.close().await.unwrap();
        assert!(matches!(store.get("task/a").await, Err(Error::Stopped)));

        let store = open(dir.path());
        let tasks = store.scan("task/").await.unwrap();
        let expected = [("task/a", "1"), ("task/b", "2"), ("task/c", "4")].map(|(k, v)| (k.into(), v.into()));
        assert_eq!(tasks, expected);
        assert_eq!(store.get("out/x").await.unwrap(), None);
        assert_eq!(store.get("task/b").await.unwrap().as_deref(), Some(&b"2"[..]));
        store.ping().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_callers_are_answered_in_groups() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut callers = tokio::task::JoinSet::new();
        for n in 0..500u32 {
            let store = store.clone();
            callers.spawn(async move { store.commit(Batch::new().put(format!("n/{n:05}"), vec![1])).await });
        }
        while let Some(done) = callers.join_next().await {
            done.unwrap().unwrap();
        }
        let seen = store.scan("n/").await.unwrap();
        assert_eq!(seen.len(), 500);
        assert!(seen.is_sorted());
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn who_only_looks_changes_nothing_and_waits_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index");
        assert!(peek(&index).unwrap().is_none() && std::fs::read_dir(dir.path()).unwrap().count() == 0);
        let store = open(dir.path());
        store.commit(Batch::new().put("a", vec![1]).put("b", vec![2])).await.unwrap();
        assert!(peek(&index).unwrap().is_none(), "a box holds it");
        store.close().await.unwrap();
        for _ in 0..2 {
            assert_eq!(peek(&index).unwrap().unwrap(), [("a".into(), vec![1]), ("b".into(), vec![2])]);
        }
        std::fs::write(index.join("db"), [0; 64]).unwrap();
        assert!(peek(&index).is_err());
        assert!(index.join("db").exists(), "whoever starts the box sets it aside");
    }

    #[tokio::test]
    async fn a_second_holder_is_refused_and_harms_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.commit(Batch::new().put("a", vec![1])).await.unwrap();
        assert!(matches!(Store::open(&dir.path().join("index")), Err(Error::Held(_))));
        assert_eq!(store.get("a").await.unwrap(), Some(vec![1]));
        store.close().await.unwrap();
        open(dir.path()).close().await.unwrap();
    }

    #[tokio::test]
    async fn a_database_that_somebody_has_open_is_not_broken() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index");
        let held = sled::open(&index).unwrap();
        assert!(matches!(Store::open(&index), Err(Error::Held(_))));
        drop(held);
        open(dir.path()).close().await.unwrap();
    }

    #[tokio::test]
    async fn a_broken_index_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        for n in 1..=2 {
            let index = dir.path().join("index");
            let _ = std::fs::remove_dir_all(&index);
            std::fs::create_dir(&index).unwrap();
            std::fs::write(index.join("conf"), b"this is no configuration of sled's").unwrap();
            let opened = Store::open(&index).unwrap();
            assert_eq!(opened.set_aside, Some(dir.path().join(format!("index.bad-{n}"))));
            opened.store.commit(Batch::new().put("a", vec![1])).await.unwrap();
            opened.store.close().await.unwrap();
        }
    }

    /// Torn pages: sled either opens with what it can read, or it errs or panics and is set aside; never more.
    #[tokio::test]
    async fn torn_pages_never_stop_the_box() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index");
        let store = open(dir.path());
        for n in 0..20u32 {
            let batch = (0..100).fold(Batch::new(), |b, m| b.put(format!("k/{n}/{m}"), vec![7; 500]));
            store.commit(batch).await.unwrap();
        }
        store.close().await.unwrap();
        let whole = std::fs::read(index.join("db")).unwrap();
        for eighth in 1..8 {
            let mut torn = whole.clone();
            let at = whole.len() * eighth / 8;
            torn[at..at + 64].fill(0);
            let _ = std::fs::remove_dir_all(&index);
            std::fs::create_dir(&index).unwrap();
            std::fs::write(index.join("db"), &torn).unwrap();
            let opened = Store::open(&index).unwrap();
            opened.store.commit(Batch::new().put("after", vec![1])).await.unwrap();
            assert_eq!(opened.store.get("after").await.unwrap(), Some(vec![1]));
            let lost = opened.store.scan("k/").await.unwrap().len() < 2000;
            assert!(!lost || !opened.store.was_whole(), "a loss that is not told of");
            opened.store.close().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_record_that_is_missing_or_old_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index");
        let store = open(dir.path());
        assert!(!store.was_whole(), "a fresh one remembers nothing");
        store.commit(Batch::new().put("a", vec![1]).put("b", vec![2])).await.unwrap();
        store.commit(Batch::new().put("a", vec![3]).delete("b").put("c", vec![4])).await.unwrap();
        store.close().await.unwrap();
        let store = open(dir.path());
        assert!(store.was_whole());
        store.close().await.unwrap();
        for change in [|db: &sled::Db| db.remove("c"), |db: &sled::Db| db.insert("a", vec![1])] {
            let db = sled::open(&index).unwrap();
            change(&db).unwrap();
            db.flush().unwrap();
            drop(db);
            let store = open(dir.path());
            assert!(!store.was_whole());
            // written once, it is as it is
            store.commit(Batch::new().put("d", vec![5])).await.unwrap();
            store.close().await.unwrap();
            let store = open(dir.path());
            assert!(store.was_whole());
            store.commit(Batch::new().put("a", vec![3]).put("c", vec![4])).await.unwrap();
            store.close().await.unwrap();
        }
    }
}
