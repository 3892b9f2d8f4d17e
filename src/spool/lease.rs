//! Leases: an upload's claim on a file of the shelf.
//!
//! Owns: taking a file off the shelf and giving it back. Must not touch: how it is carried.
//! Law: a job that ends in any way but an acknowledgement puts its file back; an uploaded segment is recorded as such,
//! then unlinked.

use super::discard::Flight;
use super::*;
use crate::model::backlog::{Fault, Lease, Limits};

/// How a file of the shelf is read, by whomever, as often as needed and from any place.
#[derive(Debug, Clone)]
pub struct ShelfFile {
    path: PathBuf,
    /// The keys, and what the file is.
    sealed: Option<(Vault, String)>,
}

impl ShelfFile {
    pub fn plain(path: PathBuf) -> ShelfFile {
        ShelfFile { path, sealed: None }
    }

    /// A file of a task's folder.
    pub fn sealed(vault: &Vault, task: &TaskId, path: PathBuf) -> ShelfFile {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let identity = identity(task, &name);
        ShelfFile { path, sealed: Some((vault.clone(), identity)) }
    }

    /// Blocks. What is torn or damaged ends the file there: compare its length and its checksum with the record's.
    pub fn open(&self) -> io::Result<Input> {
        match &self.sealed {
            Some((vault, identity)) => vault.open(&self.path, identity),
            None => Vault::default().open(&self.path, ""),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what lies at the path is not what is read.
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }
}

/// A leased file. Acknowledge it, or drop it to put it back.
#[derive(Debug)]
pub struct UploadJob {
    shared: Arc<Shared>,
    lease: Lease,
    entry: SpoolEntry,
    settled: bool,
    flight: Flight,
}

pub(super) async fn lease(shared: &Arc<Shared>, limits: Limits) -> Result<Option<UploadJob>, Error> {
    loop {
        let now = shared.now();
        let Some((lease, key)) = ({
            let mut state = shared.state();
            state.backlog.lease(now, limits).map(|lease| {
                let Waiting { task, object } = &lease.waiting;
                let name = match state.playlists.get(&lease.waiting) {
                    Some(version) => records::versioned(object, *version),
                    None => object.clone(),
                };
                let key = records::spool_key(task, &name);
                (lease, key)
            })
        }) else {
            return Ok(None);
        };
        // given back if this future is dropped, or the index fails, before there is a job
        let mut held = Held { shared, waiting: Some(&lease.waiting) };
        let bytes = shared.store.get(&key).await?;
        let entry = bytes.map(|bytes| SpoolEntry::from_bytes(&key, &bytes)).transpose();
        let entry = match entry {
            Ok(Some(entry)) => entry,
            other => {
                held.waiting = None;
                let superseded = {
                    let mut state = shared.state();
                    let current = state.playlists.get(&lease.waiting);
                    let superseded = current.is_some_and(|v| {
                        records::spool_key(&lease.waiting.task, &records::versioned(&lease.waiting.object, *v)) != key
                    });
                    match superseded {
                        true => state.backlog.returned(&lease.waiting),
                        false => state.backlog.remove(&lease.waiting),
                    }
                    superseded
                };
                if !superseded {
                    tracing::error!(key, error = ?other.err(), "a file on the shelf has no record: left for recovery");
                }
                continue;
            }
        };
        held.waiting = None;
        drop(held);
        let flight = Flight::begin(shared, &lease.waiting.task);
        return Ok(Some(UploadJob { shared: shared.clone(), lease, entry, settled: false, flight }));
    }
}

struct Held<'a> {
    shared: &'a Shared,
    waiting: Option<&'a Waiting>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting {
            self.shared.state().backlog.returned(waiting);
        }
    }
}

impl UploadJob {
    pub fn task(&self) -> &TaskId {
        &self.entry.task
    }

    pub fn entry(&self) -> &SpoolEntry {
        &self.entry
    }

    /// Returns when the task is discarded: nobody wants the file to arrive any more.
    pub fn withheld(&self) -> impl Future<Output = ()> + Send + use<> {
        self.flight.broken_off()
    }

    /// The file, as it is read: sealed ones as what is in them.
    pub fn file(&self) -> ShelfFile {
        match self.entry.sealed {
            Some(_) => ShelfFile::sealed(&self.shared.vault, &self.entry.task, self.path()),
            None => ShelfFile::plain(self.path()),
        }
    }

    /// The task's folder, and by what its files are read.
    pub fn folder(&self) -> (PathBuf, &Vault) {
        (self.shared.task_dir(&self.entry.task), &self.shared.vault)
    }

    /// Where the file lies; what lies there may be sealed.
    pub fn path(&self) -> PathBuf {
        self.shared.task_dir(&self.entry.task).join(&self.entry.file)
    }

    /// Tries of this file that failed before.
    pub fn attempts(&self) -> u32 {
        self.lease.attempts
    }

    /// Failures in a row of its destination.
    pub fn line_failures(&self) -> u32 {
        self.lease.line_failures
    }

    /// The destination has it, and the line to it is free for the next file. [`UploadJob::ack_uploaded`] is to follow.
    pub fn landed(&self) {
        self.shared.state().backlog.landed(&self.lease.waiting, self.shared.now());
        self.shared.ready.notify_one();
    }

    /// The destination has it: recorded, then unlinked. Says what to tell the task.
    ///
    /// When the journal or the index does not take it the file stays, and is uploaded once more later.
    pub async fn ack_uploaded(mut self) -> Result<Fate, Error> {
        if let Err(error) = self.note_uploaded().await {
            self.ack_failed(Fault::File, Duration::from_secs(5));
            return Err(error);
        }
        let key = self.entry.key();
        let (batch, fate) = match self.entry.kind {
            SpoolKind::Segment(_) => {
                self.entry.state = SpoolState::Uploaded;
                let parts = records::parts_key(&self.entry.task, &self.entry.object);
                let batch = Batch::new().put(key, self.entry.to_bytes()).delete(parts);
                (batch, Fate::SegmentUploaded { object: self.entry.object.clone() })
            }
            SpoolKind::Playlist { version } => {
                let object = self.entry.object.clone();
                (Batch::new().delete(key), Fate::PlaylistUploaded { object, version })
            }
            SpoolKind::Package => {
                self.entry.state = SpoolState::Uploaded;
                let parts = records::parts_key(&self.entry.task, &self.entry.object);
                let batch = Batch::new().put(key, self.entry.to_bytes()).delete(parts);
                (batch, Fate::PackageUploaded { object: self.entry.object.clone() })
            }
        };
        self.gone_up(batch).await?;
        Ok(fate)
    }

    /// All of it is stored at VOD, and `session` (sealed) commits it: on the disk when this returns, in the task's folder.
    pub async fn note_stored(&self, session: &[u8]) -> Result<(), Error> {
        let stored = Stored { which: self.entry.which(), session: hex::encode(session) };
        let (shared, task) = (self.shared.clone(), self.entry.task.clone());
        blocking(move || shared.note_stored(&task, &stored).map_err(at(&shared.task_dir(&task)))).await
    }

    /// VOD has it: as [`UploadJob::ack_uploaded`].
    pub async fn ack_committed(mut self, media: Media) -> Result<Fate, Error> {
        let (task, object) = (self.entry.task.clone(), self.entry.object.clone());
        let committed = Committed { which: self.entry.which(), media: media.clone() };
        let (shared, of) = (self.shared.clone(), task.clone());
        let noted = blocking(move || shared.note_committed(&of, &committed).map_err(at(&shared.task_dir(&of)))).await;
        if let Err(error) = noted {
            self.ack_failed(Fault::File, Duration::from_secs(5));
            return Err(error);
        }
        crash::point("vod.noted");
        if let Err(error) = self.note_uploaded().await {
            self.ack_failed(Fault::File, Duration::from_secs(5));
            return Err(error);
        }
        self.entry.state = SpoolState::Committed(media.clone());
        let batch = Batch::new().put(self.entry.key(), self.entry.to_bytes());
        let batch = batch.delete(records::parts_key(&task, &object)).delete(records::vod_key(&task, &object));
        self.gone_up(batch).await?;
        Ok(Fate::VodCommitted { object, media })
    }

    /// Commits what is to be remembered of it, and unlinks it.
    async fn gone_up(mut self, batch: Batch) -> Result<(), Error> {
        if let Err(error) = self.shared.store.commit(batch).await {
            let wait = Duration::from_secs(5);
            self.ack_failed(Fault::File, wait);
            return Err(error.into());
        }
        crash::point("upload.recorded");
        let (shared, task, file) = (self.shared.clone(), self.entry.task.clone(), self.entry.file.clone());
        let unlinked = tokio::task::spawn_blocking(move || shared.unlink(&task, &file)).await;
        if let Ok(Err(error)) = unlinked
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(task = %self.entry.task, file = self.entry.file, %error, "an uploaded file stays on the disk");
            self.shared.state().leftovers.push(self.path());
        }
        crash::point("upload.unlinked");
        self.settled = true;
        self.leave();
        Ok(())
    }

    /// Its key at the destination is another one than it was put on the shelf with. Nothing on the shelf changes.
    pub fn aim(&mut self, object_key: String) {
        self.entry.object_key = object_key;
    }

    /// In the task's folder first: what it says outlasts the index.
    async fn note_uploaded(&self) -> Result<(), Error> {
        let (shared, entry) = (self.shared.clone(), self.entry.clone());
        blocking(move || {
            if entry.kind == SpoolKind::Package {
                return shared.keep_plan(&entry.task, &entry.object).map_err(at(&shared.task_dir(&entry.task)));
            }
            if entry.segment().is_none() {
                return Ok(());
            }
            let noted = shared.note(&entry.task, Note::Uploaded, &entry.file, &entry.object);
            noted.map_err(at(&shared.task_dir(&entry.task)))
        })
        .await
    }

    /// A newer version of this playlist lies on the shelf.
    pub fn is_superseded(&self) -> bool {
        match self.entry.kind {
            SpoolKind::Playlist { version } => {
                self.shared.state().playlists.get(&self.lease.waiting).is_some_and(|newest| *newest > version)
            }
            SpoolKind::Segment(_) | SpoolKind::Package => false,
        }
    }

    /// Off the shelf, unless a newer version has come meanwhile: that one waits in its place.
    fn leave(&self) {
        let waiting = &self.lease.waiting;
        let now = self.shared.now();
        let mut state = self.shared.state();
        match self.entry.kind {
            SpoolKind::Playlist { version } if state.playlists.get(waiting) != Some(&version) => {
                state.backlog.again(waiting, now);
            }
            _ => {
                state.playlists.remove(waiting);
                state.backlog.done(waiting, now);
            }
        }
        state.tell_size();
        drop(state);
        self.shared.ready.notify_one();
    }

    /// A part of it has arrived; it goes back to its place, and the next lease goes on.
    pub fn ack_part(mut self) {
        self.settled = true;
        self.shared.state().backlog.again(&self.lease.waiting, self.shared.now());
        self.shared.ready.notify_one();
    }

    /// It did not go up. It, or with `Fault::Line` everything of its destination, is tried again after `wait`.
    pub fn ack_failed(mut self, fault: Fault, wait: Duration) {
        self.settled = true;
        let next_try = self.shared.now() + wait;
        self.shared.state().backlog.failed(&self.lease.waiting, fault, next_try);
        self.shared.ready.notify_one();
    }

    /// What lies on the shelf is not what was put there. Says what to tell the task.
    pub async fn ack_lost(mut self, why: String) -> Result<Option<Fate>, Error> {
        let key = self.entry.key();
        let (batch, fate) = match self.entry.kind.clone() {
            SpoolKind::Segment(segment) => {
                let (shared, object, lost) = (self.shared.clone(), self.entry.object.clone(), segment.clone());
                blocking(move || {
                    shared.note_lost(&lost.run.task, &lost, &object);
                    Ok(())
                })
                .await?;
                self.entry.state = SpoolState::Lost { why: why.clone() };
                let parts = records::parts_key(&self.entry.task, &self.entry.object);
                (Batch::new().put(key, self.entry.to_bytes()).delete(parts), Fate::Lost { segment, why })
            }
            SpoolKind::Playlist { version } => {
                (Batch::new().delete(key), Fate::PlaylistLost { object: self.entry.object.clone(), version })
            }
            SpoolKind::Package => {
                let session = records::vod_key(&self.entry.task, &self.entry.object);
                let fate = Fate::PackageLost { object: self.entry.object.clone(), why };
                (Batch::new().delete(key).delete(session), fate)
            }
        };
        self.shared.store.commit(batch).await?;
        let lost = self.entry.segment().is_some();
        metrics::counter!("holdfast_segments_lost_total").increment(u64::from(lost));
        let path = self.path();
        tokio::task::spawn_blocking(move || set_aside(&path)).await.ok();
        self.settled = true;
        self.leave();
        Ok(Some(fate))
    }
}

impl Drop for UploadJob {
    fn drop(&mut self) {
        if !self.settled {
            self.shared.state().backlog.returned(&self.lease.waiting);
            self.shared.ready.notify_one();
        }
    }
}
