//! The carrier: takes files from the shelf to their destination.
//!
//! Owns: object PUTs, how many fly at once, when to try again. Must not touch: the states of tasks: it reports fates.
//! Law: a file is acknowledged only after the destination has said that it holds it, all of it; a key is written with
//! the same bytes however often it is repeated; nothing is ever given up: what a destination refuses is told, with the
//! storage's own code and message, and tried again later.

pub mod local;
pub mod s3;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use md5::{Digest, Md5};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, StorageKind};
use crate::model::TaskId;
use crate::model::backlog::{Fault, backoff};
use crate::model::recording::{Destination, Fate, Vendor};
use crate::spool::{ShelfFile, Spool, UploadJob};
use crate::store::records::{self, SpoolEntry, SpoolKind, TaskKeys};
use crate::store::seal::BoxKey;
use crate::store::{self, Store};
use crate::vault;

/// Files up to this size are read into memory, checked against their checksum, and sent with their MD5.
const IN_MEMORY: u64 = 32 * 1024 * 1024;
/// Flights get so long to end when the process stops.
const LANDING: Duration = Duration::from_secs(5);
/// Clients kept for destinations in use; past it all are made anew.
const CLIENTS: usize = 256;

/// What a failed PUT means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The destination is out of reach or overloaded: the same again later.
    Later,
    /// The destination does not let us in: wrong keys, no such bucket. Tried again later, since people mend it.
    Refused,
    /// The destination will never take this one object as it is. Tried again at the longest wait, and told.
    Never,
}

/// As the storage said it, where it said anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct PutError {
    pub class: Class,
    pub code: String,
    pub message: String,
}

impl PutError {
    pub fn new(class: Class, code: impl Into<String>, message: impl Into<String>) -> PutError {
        PutError { class, code: code.into(), message: message.into() }
    }
}

/// What to store.
#[derive(Debug, Clone)]
pub struct Body {
    /// The file. It may be gone (a newer version replaced it) where `bytes` holds its contents.
    pub file: ShelfFile,
    /// The contents, unless they are too many for the memory.
    pub bytes: Option<Bytes>,
    pub size: u64,
}

impl Body {
    /// MD5 of the contents that are in memory.
    pub fn md5(&self) -> Option<[u8; 16]> {
        self.bytes.as_ref().map(|bytes| Md5::digest(bytes).into())
    }
}

/// A bucket. Repeating a `put` is harmless.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Stores an object and returns only when the storage holds all of it.
    async fn put(&self, key: &str, body: &Body, content_type: &str) -> Result<(), PutError>;

    /// The size of an object; `None` when there is none.
    async fn head(&self, key: &str) -> Result<Option<u64>, PutError>;
}

/// `Content-Type` of an object, by its name.
pub fn content_type(object: &str) -> &'static str {
    match object.rsplit_once('.') {
        Some((_, "ts")) => "video/mp2t",
        Some((_, "m3u8")) => "application/vnd.apple.mpegurl",
        Some((_, "mp4")) => "video/mp4",
        Some((_, "aac")) => "audio/aac",
        _ => "application/octet-stream",
    }
}

/// Carries what is on the shelf, several files at once.
pub struct Uploader {
    config: Arc<Config>,
    store: Store,
    spool: Arc<Spool>,
    box_key: Arc<BoxKey>,
    fates: mpsc::Sender<(TaskId, Fate)>,
    clients: Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>,
}

impl Uploader {
    /// `box_key` opens the keys that [`records::put_destination`] sealed; `fates` gets `SegmentUploaded`,
    /// `PlaylistUploaded`, `UploadFailed` (once for each failed try) and `Lost`.
    pub fn new(
        config: Arc<Config>,
        store: Store,
        spool: Arc<Spool>,
        box_key: Arc<BoxKey>,
        fates: mpsc::Sender<(TaskId, Fate)>,
    ) -> Uploader {
        Uploader { config, store, spool, box_key, fates, clients: Mutex::default() }
    }

    /// Until `cancel`: then nothing more is leased, and what flies gets five seconds.
    pub async fn run(self, cancel: CancellationToken) {
        let uploader = Arc::new(self);
        let at_once = uploader.config.upload.concurrency.max(1);
        // one destination never has all places, unless there is only one place
        let per_line = at_once.saturating_sub(1).max(1);
        let mut flights = JoinSet::new();
        while !cancel.is_cancelled() {
            let mut wait = None;
            while flights.len() < at_once {
                match uploader.spool.lease(per_line).await {
                    Ok(Some(job)) => {
                        let uploader = uploader.clone();
                        flights.spawn(async move { uploader.carry(job).await });
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(%error, "nothing can be taken off the shelf");
                        wait = Some(Duration::from_secs(2));
                        break;
                    }
                }
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                landed = flights.join_next(), if !flights.is_empty() => {
                    if let Some(Err(error)) = landed {
                        tracing::error!(%error, "an upload ended in a panic");
                    }
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = uploader.spool.wait_ready(), if wait.is_none() && flights.len() < at_once => {}
            }
        }
        let landing = async { while flights.join_next().await.is_some() {} };
        if tokio::time::timeout(LANDING, landing).await.is_err() {
            // a job that is dropped puts its file back
            tracing::info!(flights = flights.len(), "uploads are broken off; they are repeated after the next start");
            flights.shutdown().await;
        }
    }

    async fn carry(&self, job: UploadJob) {
        let (task, entry) = (job.task().clone(), job.entry().clone());
        let fate = match self.try_carry(&job).await {
            Ok(()) => self.landed(job).await,
            Err(Broken::Local(why)) => match job.ack_lost(why).await {
                Ok(fate) => fate,
                Err(error) => {
                    tracing::error!(%task, segment = entry.object, %error, "a loss cannot be recorded");
                    None
                }
            },
            Err(Broken::Superseded) => {
                job.ack_failed(Fault::File, Duration::from_millis(100));
                None
            }
            Err(Broken::Put(error)) => Some(self.failed(job, error)),
        };
        if let Some(fate) = fate {
            // nobody listens any more only while the process ends; recovery tells it again
            let _ = self.fates.send((task, fate)).await;
        }
    }

    async fn try_carry(&self, job: &UploadJob) -> Result<(), Broken> {
        let entry = job.entry();
        let body = read(job).await?;
        let storage = self.storage_of(&entry.task).await?;
        let began = std::time::Instant::now();
        storage.put(&entry.object_key, &body, content_type(&entry.object)).await?;
        metrics::histogram!("holdfast_upload_seconds").record(began.elapsed().as_secs_f64());
        Ok(())
    }

    async fn landed(&self, job: UploadJob) -> Option<Fate> {
        let (task, entry) = (job.task().clone(), job.entry().clone());
        match job.ack_uploaded().await {
            Ok(fate) => {
                metrics::counter!("holdfast_uploads_total", "outcome" => "ok").increment(1);
                metrics::counter!("holdfast_uploaded_bytes_total").increment(entry.bytes);
                tracing::debug!(%task, object = entry.object, bytes = entry.bytes, "uploaded");
                Some(fate)
            }
            Err(error) => {
                tracing::error!(%task, object = entry.object, %error, "an upload cannot be recorded; it is repeated");
                None
            }
        }
    }

    fn failed(&self, job: UploadJob, error: PutError) -> Fate {
        let outcome = match error.class {
            Class::Later => "later",
            Class::Refused => "refused",
            Class::Never => "never",
        };
        metrics::counter!("holdfast_uploads_total", "outcome" => outcome).increment(1);
        let upload = &self.config.upload;
        let first = Duration::from_secs(upload.retry_first_seconds);
        let longest = Duration::from_secs(upload.retry_longest_seconds);
        let (fault, wait) = match error.class {
            Class::Later | Class::Refused => {
                (Fault::Line, backoff(job.line_failures() + 1, first, longest, rand::random()))
            }
            Class::Never => (Fault::File, longest),
        };
        let (task, object) = (job.task(), &job.entry().object);
        tracing::warn!(%task, object, outcome, code = error.code, message = error.message, ?wait, "an upload failed");
        job.ack_failed(fault, wait);
        Fate::UploadFailed { code: error.code, message: error.message }
    }

    /// The bucket of a task: the local one, or a client that tasks of the same destination and keys share.
    async fn storage_of(&self, task: &TaskId) -> Result<Arc<dyn ObjectStore>, PutError> {
        let ours = |e: store::Error| PutError::new(Class::Later, "InternalError", e.to_string());
        let missing = || PutError::new(Class::Refused, "InternalError", "the destination of the task is not known");
        let entry = records::load_destination(&self.store, task).await.map_err(ours)?.ok_or_else(missing)?;
        if self.config.storage.kind == StorageKind::Local {
            return Ok(Arc::new(local::Local::new(self.config.local_root(), entry.destination.bucket)));
        }
        if let Some(client) = self.clients().get(&entry.line) {
            return Ok(client.clone());
        }
        let keys = records::load_keys(&self.store, &self.box_key, task).await.map_err(ours)?.ok_or_else(missing)?;
        let client: Arc<dyn ObjectStore> = Arc::new(self.connect(&entry.destination, &keys)?);
        let mut clients = self.clients();
        if clients.len() >= CLIENTS {
            clients.clear();
        }
        Ok(clients.entry(entry.line).or_insert(client).clone())
    }

    fn connect(&self, destination: &Destination, keys: &TaskKeys) -> Result<s3::S3, PutError> {
        let storage = &self.config.storage;
        let endpoint = match destination.vendor {
            Vendor::S3 => storage.s3_endpoint.clone(),
            Vendor::Cos => Some(
                storage
                    .cos_endpoint
                    .clone()
                    .unwrap_or_else(|| format!("https://cos.{}.myqcloud.com", destination.region)),
            ),
        };
        s3::S3::new(s3::Settings {
            endpoint,
            region: destination.region.clone(),
            bucket: destination.bucket.clone(),
            keys: keys.storage.clone(),
            path_style: storage.path_style,
            timeout: Duration::from_secs(self.config.upload.timeout_seconds.max(1)),
        })
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<dyn ObjectStore>>> {
        self.clients.lock().expect("nothing panics while it holds this lock")
    }
}

/// Why a file did not go up.
enum Broken {
    Put(PutError),
    /// What lies on the shelf is not what was put there.
    Local(String),
    /// A newer version of the playlist took its place.
    Superseded,
}

impl From<PutError> for Broken {
    fn from(error: PutError) -> Broken {
        Broken::Put(error)
    }
}

/// Reads a leased file, and checks that it is what was put on the shelf.
async fn read(job: &UploadJob) -> Result<Body, Broken> {
    let SpoolEntry { kind, bytes, crc32, .. } = job.entry();
    let file = job.file();
    if *bytes > IN_MEMORY {
        return Ok(Body { file, bytes: None, size: *bytes });
    }
    let (from, most) = (file.clone(), *bytes + 1);
    let contents = tokio::task::spawn_blocking(move || {
        let mut contents = Vec::new();
        from.open()?.take(most).read_to_end(&mut contents).map(|_| contents)
    });
    let contents = match contents.await.map_err(io::Error::other).and_then(|read| read) {
        Ok(contents) => contents,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(match kind {
                SpoolKind::Segment(_) => Broken::Local("the file is gone".into()),
                SpoolKind::Playlist { .. } => Broken::Superseded,
            });
        }
        Err(e) if matches!(vault::Error::of(&e), Some(vault::Error::Head)) => {
            return Err(Broken::Local(format!("the file does not open: {e}")));
        }
        // a disk that cannot be read just now, or a key that is not there, holds up this file alone
        Err(e) => return Err(PutError::new(Class::Never, "LocalReadError", e.to_string()).into()),
    };
    if contents.len() as u64 != *bytes || crc32fast::hash(&contents) != *crc32 {
        return Err(Broken::Local("the checksum of the file has changed".into()));
    }
    Ok(Body { file, bytes: Some(contents.into()), size: *bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_follow_the_name() {
        assert_eq!(content_type("a_20210531.ts"), "video/mp2t");
        assert_eq!(content_type("a.b.m3u8"), "application/vnd.apple.mpegurl");
        assert_eq!(content_type("ts"), "application/octet-stream");
    }
}
