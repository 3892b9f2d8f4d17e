//! Large files, in parts: one part a lease, so that others have their turn in between.
//!
//! Owns: the order begin, part after part, complete, ask; the record of what has arrived; giving up what is not wanted
//! any more. Must not touch: what a request is.
//! Law: a part counts as arrived only when its record is on the disk; after a restart the next part is the first that
//! has no record; what the storage has forgotten begins anew, and losing the record only means beginning anew.

use super::*;
use crate::store::Batch;
use crate::store::records::{PartEntry, PartsEntry, SpoolState};

/// S3's own limit.
pub(super) const MOST_PARTS: u64 = 10_000;
/// What is not wanted any more is looked for at least so often.
const SWEEP: Duration = Duration::from_secs(600);
/// So many failures of the line pass before the storage is asked whether it still knows the parts.
const BLIPS: u32 = 2;
/// After so many failures in a row parts that cannot be asked for are taken for lost.
const HOPELESS: u32 = 10;
/// After so many, parts that the storage shows and refuses to go on with.
const STUCK: u32 = 5;
/// Files whose sums are kept in memory.
const SUMS: usize = 64;

impl Uploader {
    /// The next step of a leased file.
    pub(super) async fn carry_part(&self, job: &UploadJob, line: &Line, parts: &dyn PartStore) -> Result<Went, Broken> {
        let entry = job.entry();
        let part_bytes = self.config.now().upload.part_bytes.max(entry.bytes.div_ceil(MOST_PARTS));
        let (file, sums) = self.sums_of(job, part_bytes).await?;
        let mut record = match self.parts_of(entry).await? {
            Some(there) if fits(&there, entry, part_bytes, &sums) => there,
            other => {
                if let Some(other) = other {
                    parts.abort(&other.object_key, &other.upload).await?;
                }
                self.begin(entry, part_bytes, parts).await?
            }
        };

        let there = record.parts.len();
        if let Some(md5) = sums.parts.get(there) {
            let at = there as u64 * part_bytes;
            let body = Body::new(file, at, part_bytes.min(entry.bytes - at), *md5).paced(&self.pacer);
            let number = u32::try_from(there + 1).expect("there are at most ten thousand parts");
            let began = std::time::Instant::now();
            let sent = parts.put_part(&entry.object_key, &record.upload, number, &body).await;
            let tag = match sent {
                Ok(tag) => tag,
                Err(error) => return Err(self.part_failed(job, &record, parts, error).await),
            };
            metrics::histogram!("holdfast_upload_seconds").record(began.elapsed().as_secs_f64());
            tracing::debug!(task = %entry.task, object = entry.object, number, of = sums.parts.len(), "a part has arrived");
            crash::point("parts.put");
            record.parts.push(PartEntry { tag, md5: hex::encode(md5) });
            self.commit(Batch::new().put(record.key(), record.to_bytes())).await?;
            crash::point("parts.counted");
            if record.parts.len() < sums.parts.len() {
                return Ok(Went::On);
            }
        }

        let expected = sums.tag_of_parts();
        self.complete_parts(job, line, parts, &record, &expected).await
    }

    /// All parts are there: puts them together, and asks for what came of it.
    pub(super) async fn complete_parts(
        &self,
        job: &UploadJob,
        line: &Line,
        parts: &dyn PartStore,
        record: &PartsEntry,
        expected: &str,
    ) -> Result<Went, Broken> {
        let entry = job.entry();
        let tags: Vec<String> = record.parts.iter().map(|part| part.tag.clone()).collect();
        let answered = match parts.complete(&entry.object_key, &record.upload, &tags).await {
            Ok(answered) => answered,
            Err(error) => {
                let answered = !matches!(error.class, Class::Later | Class::Paused);
                // it may be complete already, and the answer was lost
                if answered
                    && let Some(held) = line.store.head(&entry.object_key).await?
                    && held.checksum
                    && held.is(entry.bytes, expected, "")
                {
                    self.sums().remove(&record.key());
                    return Ok(Went::Up);
                }
                return Err(self.part_failed(job, record, parts, error).await);
            }
        };
        crash::point("parts.completed");
        match self.confirm(entry, line, expected, &answered).await {
            Ok(()) => {
                self.sums().remove(&record.key());
                Ok(Went::Up)
            }
            Err(error) => {
                // the upload is used up; the object is written once more
                if error.class == Class::Doubtful {
                    self.forget_parts(&record.key()).await;
                }
                Err(error.into())
            }
        }
    }

    /// The sums of a file in parts: taken at its first lease of this life, and again after a doubt.
    async fn sums_of(&self, job: &UploadJob, part_bytes: u64) -> Result<(Arc<Mutex<Input>>, Arc<Sums>), Broken> {
        let key = records::parts_key(job.task(), &job.entry().object);
        let known = self.sums().get(&key).cloned();
        if let Some(sums) = known {
            let file = job.file();
            let opened = tokio::task::spawn_blocking(move || file.open()).await.map_err(io::Error::other).flatten();
            return match opened {
                Ok(file) => Ok((Arc::new(Mutex::new(file)), sums)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Err(gone(job)),
                Err(e) => Err(PutError::new(Class::Never, "LocalReadError", e.to_string()).into()),
            };
        }
        let (file, sums) = sound(job, Some(part_bytes)).await?;
        let sums = Arc::new(sums);
        let mut all = self.sums();
        if all.len() >= SUMS {
            all.clear();
        }
        all.insert(key, sums.clone());
        Ok((file, sums))
    }

    pub(super) async fn parts_of(&self, entry: &SpoolEntry) -> Result<Option<PartsEntry>, PutError> {
        let key = records::parts_key(&entry.task, &entry.object);
        let Some(bytes) = self.store.get(&key).await.map_err(ours)? else { return Ok(None) };
        // an unreadable one is as good as none
        Ok(PartsEntry::from_bytes(&key, &bytes)
            .inspect_err(|error| tracing::warn!(%error, "an upload in parts begins anew"))
            .ok())
    }

    pub(super) async fn begin(
        &self,
        entry: &SpoolEntry,
        part_bytes: u64,
        parts: &dyn PartStore,
    ) -> Result<PartsEntry, Broken> {
        let upload = parts.begin(&entry.object_key, content_type(&entry.object)).await?;
        crash::point("parts.begun");
        tracing::info!(task = %entry.task, object = entry.object, bytes = entry.bytes, "a large file goes up in parts");
        let record = PartsEntry {
            task: entry.task.clone(),
            object: entry.object.clone(),
            object_key: entry.object_key.clone(),
            upload,
            part_bytes,
            bytes: entry.bytes,
            crc32: entry.crc32,
            parts: Vec::new(),
        };
        self.commit(Batch::new().put(record.key(), record.to_bytes())).await?;
        crash::point("parts.recorded");
        Ok(record)
    }

    /// What a failed step of an upload means. One that the storage has forgotten begins anew, and nobody is told.
    pub(super) async fn part_failed(
        &self,
        job: &UploadJob,
        record: &PartsEntry,
        parts: &dyn PartStore,
        error: PutError,
    ) -> Broken {
        let entry = job.entry();
        let spoilt = matches!(error.code.as_str(), "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall");
        // before the first part has arrived it was never known to work: that is an error like any other
        if record.parts.is_empty() || error.class == Class::Paused {
            return error.into();
        }
        let mut let_in = false;
        let forgotten = error.code == NO_SUCH_UPLOAD
            || spoilt
            || (error.class != Class::Later || job.attempts() >= BLIPS)
                && match parts.knows(&entry.object_key, &record.upload).await {
                    Ok(known) => {
                        let_in = known && error.class == Class::Refused;
                        !known || let_in && job.attempts() >= STUCK
                    }
                    // it may not be asked: then it is enough that a new one can be begun
                    Err(_) => job.attempts() >= HOPELESS,
                };
        if !forgotten {
            // who may ask for the parts is let in: it is this upload that cannot go on (a storage that died while it put
            // the parts together, say), and its failures are its own
            let class = if let_in { Class::Doubtful } else { error.class };
            return PutError { class, ..error }.into();
        }
        match self.begin(entry, record.part_bytes, parts).await {
            Ok(anew) => {
                let (object, upload) = (&entry.object, &anew.upload);
                tracing::warn!(task = %entry.task, object, upload, code = error.code, "the storage has lost the parts: anew");
                metrics::counter!("holdfast_uploads_total", "outcome" => "forgotten").increment(1);
                self.sums().remove(&record.key());
                if error.code != NO_SUCH_UPLOAD
                    && let Err(error) = parts.abort(&record.object_key, &record.upload).await
                {
                    tracing::debug!(task = %entry.task, object, %error, "what is left of the old parts stays");
                }
                Broken::Anew
            }
            // neither works: it is the destination, and what has arrived is kept
            Err(_) => error.into(),
        }
    }

    /// Nobody wants the rest: what has arrived of it is dropped at the destination, too.
    pub(super) async fn give_up_parts(&self, entry: &SpoolEntry, line: &Line) {
        let Ok(Some(record)) = self.parts_of(entry).await else { return };
        let Some(parts) = line.store.parts() else { return };
        match parts.abort(&record.object_key, &record.upload).await {
            Ok(()) => self.forget_parts(&record.key()).await,
            Err(error) => {
                tracing::warn!(task = %entry.task, object = entry.object, %error, "parts stay at the storage")
            }
        }
    }

    pub(super) async fn forget_parts(&self, key: &str) {
        self.sums().remove(key);
        if let Err(error) = self.store.commit(Batch::new().delete(key)).await {
            tracing::warn!(key, %error, "the record of an upload in parts stays");
        }
    }

    /// Gives up, now and then, what was begun for files that are no longer to go up.
    pub(super) async fn sweep(&self) {
        loop {
            if let Err(error) = self.sweep_once().await {
                tracing::warn!(%error, "uploads in parts cannot be looked through");
            }
            tokio::time::sleep(SWEEP).await;
        }
    }

    async fn sweep_once(&self) -> Result<(), store::Error> {
        for (key, bytes) in self.store.scan(records::PARTS).await? {
            let Ok(record) = PartsEntry::from_bytes(&key, &bytes) else {
                self.forget_parts(&key).await;
                continue;
            };
            let spool_key = records::spool_key(&record.task, &record.object);
            let entry = self.store.get(&spool_key).await?;
            let entry = entry.and_then(|bytes| SpoolEntry::from_bytes(&spool_key, &bytes).ok());
            if entry.is_some_and(|entry| entry.state == SpoolState::Spooled) {
                continue;
            }
            let destination = match self.destination_of(&record.task).await {
                Ok(destination) if matches!(destination.destination.vendor, Vendor::Vod(_)) => {
                    // the platform drops what is not committed
                    self.forget_parts(&key).await;
                    continue;
                }
                destination => destination,
            };
            let line = match destination {
                Ok(destination) => self.line_of(&record.task, destination).await,
                Err(error) => Err(error),
            };
            let aborted = match line {
                Ok(line) => match line.store.parts() {
                    Some(parts) => parts.abort(&record.object_key, &record.upload).await,
                    None => Ok(()),
                },
                Err(error) => Err(error),
            };
            match aborted {
                Ok(()) => self.forget_parts(&key).await,
                Err(error) => {
                    tracing::warn!(task = %record.task, object = record.object, %error, "parts stay at the storage")
                }
            }
        }
        Ok(())
    }

    pub(super) async fn commit(&self, batch: Batch) -> Result<(), PutError> {
        self.store.commit(batch).await.map_err(ours)
    }

    fn sums(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Sums>>> {
        self.sums.lock().expect("nothing panics while it holds this lock")
    }
}

/// Whether what was begun is this file, cut in this way, and every part there is what the file holds.
fn fits(there: &PartsEntry, entry: &SpoolEntry, part_bytes: u64, sums: &Sums) -> bool {
    let same = there.bytes == entry.bytes && there.crc32 == entry.crc32 && there.object_key == entry.object_key;
    let cut = there.part_bytes == part_bytes && there.parts.len() <= sums.parts.len();
    let parts = there.parts.iter().zip(&sums.parts).all(|(part, md5)| part.md5 == hex::encode(md5));
    same && cut && parts
}
