//! The carrier: takes files from the shelf to their destination.
//!
//! Owns: object PUTs, how many fly at once, when to try again. Must not touch: the states of tasks: it reports fates.
//! Law: a file is acknowledged only after the destination, asked again, has said that it holds it, all of it, with its
//! checksum; a key is written with the same bytes however often it is repeated; nothing is ever given up: what a
//! destination refuses is told, with the storage's own code and message, and tried again later.

pub mod body;
pub mod local;
pub mod pace;
pub mod s3;

mod erase;
mod erase_vod;
mod packed;
mod parts;
mod vod;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use body::Body;

use crate::config::{Config, Live, StorageKind};
use crate::crash;
use crate::health::Reporter;
use crate::model::backlog::{Fault, Limits, backoff};
use crate::model::budget::Rate;
use crate::model::fate::Fate;
use crate::model::recording::{Destination, StorageKeys, Vendor};
use crate::model::{TaskId, WallClock};
use crate::package::Packer;
use crate::spool::{Spool, UploadJob};
use crate::store::records::{self, DestinationEntry, SpoolEntry, SpoolKind, TaskKeys};
use crate::store::seal::BoxKey;
use crate::store::{self, Store};
use crate::vault::{self, Input};
use body::Sums;
use pace::Pacer;

/// What a storage says of an upload in parts that it does not know (any more).
pub const NO_SUCH_UPLOAD: &str = "NoSuchUpload";
/// Of a storage's message so much is told.
const MESSAGE: usize = 512;
/// As long as the slowest rhythm of a light.
const LIGHTS_EVERY: Duration = Duration::from_secs(3);
/// Beside the count of flights: some were begun since the lights were told.
const FLEW: usize = 1 << (usize::BITS - 1);
/// Flights get so long to end when the process stops.
const LANDING: Duration = Duration::from_secs(5);
/// The disk's fault, not a destination's.
const LOCAL_READ_ERROR: &str = "LocalReadError";
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
    /// It may be the destination or this one object: tried again later, and other objects before it.
    Doubtful,
    /// We broke it off, for the upload budget gives nothing now. No failure.
    Paused,
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

    /// What is held is not what was sent.
    pub fn differs(message: impl Into<String>) -> PutError {
        PutError::new(Class::Doubtful, "ChecksumMismatch", message)
    }

    pub fn paused() -> PutError {
        PutError::new(Class::Paused, "Paused", "the upload budget gives nothing now")
    }
}

/// What a storage says that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub size: u64,
    /// The ETag, in lower case and without quotation marks.
    pub tag: String,
    /// The tag follows from the contents: the MD5, or for an object made of parts the MD5 of their MD5s.
    pub checksum: bool,
}

impl Held {
    /// Whether this is an object of `size` bytes that should have the tag `expected`. Where tags do not follow from the
    /// contents it must at least be the `answered` one: the object that was stored just now.
    pub fn is(&self, size: u64, expected: &str, answered: &str) -> bool {
        let tag = if self.checksum { expected } else { answered };
        self.size == size && self.tag == tag
    }
}

/// A bucket. Repeating a `put` is harmless.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Stores an object and returns only when the storage says that it holds all of it; gives the tag that it answered.
    async fn put(&self, key: &str, body: &Body, content_type: &str) -> Result<String, PutError>;

    /// What it holds of this name; `None` when there is nothing.
    async fn head(&self, key: &str) -> Result<Option<Held>, PutError>;

    /// Removes an object. Harmless when it is not there.
    async fn delete(&self, key: &str) -> Result<(), PutError>;

    /// Keys that begin so and come after `after`, in order, with their sizes; not all at once. None: there are no more.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<(String, u64)>, PutError>;

    /// `None`: it takes files of any size at once.
    fn parts(&self) -> Option<&dyn PartStore> {
        None
    }
}

/// A bucket that takes large objects in parts.
#[async_trait]
pub trait PartStore: Send + Sync {
    /// Gives the storage's name for what was begun.
    async fn begin(&self, key: &str, content_type: &str) -> Result<String, PutError>;

    /// Parts count from 1. Gives the part's tag as [`PartStore::complete`] wants it; repeating it is harmless.
    async fn put_part(&self, key: &str, upload: &str, number: u32, body: &Body) -> Result<String, PutError>;

    /// Puts all parts together, in order; gives the tag of the whole.
    async fn complete(&self, key: &str, upload: &str, tags: &[String]) -> Result<String, PutError>;

    /// Whether what was begun, and holds a part at least, is still there.
    async fn knows(&self, key: &str, upload: &str) -> Result<bool, PutError>;

    /// Forgets what was begun. Harmless when it is forgotten already.
    async fn abort(&self, key: &str, upload: &str) -> Result<(), PutError>;
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
    config: Live,
    store: Store,
    spool: Arc<Spool>,
    box_key: Arc<BoxKey>,
    fates: mpsc::Sender<(TaskId, Fate)>,
    clock: WallClock,
    pacer: Arc<Pacer>,
    health: Reporter,
    packer: Packer,
    platform: Mutex<Option<Arc<vod::Platform>>>,
    clients: Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>,
    /// Where tasks' files go, which never changes.
    destinations: Mutex<BTreeMap<TaskId, DestinationEntry>>,
    /// Of files that go up in parts.
    sums: Mutex<BTreeMap<String, Arc<Sums>>>,
    /// Destinations whose last try failed, and how.
    down: Mutex<BTreeMap<String, String>>,
    /// How many are in the air, and [`FLEW`].
    flights: AtomicUsize,
    /// Discarded tasks whose destination cannot be rid of them yet, and why.
    unerased: Mutex<BTreeMap<TaskId, String>>,
}

/// Where a task's files go.
#[derive(Clone)]
struct Line {
    name: String,
    bucket: String,
    store: Arc<dyn ObjectStore>,
    /// What arrived is asked for by what follows the upload, where the storage may not be asked.
    asked_by_commit: bool,
}

/// How far a lease went.
enum Went {
    /// The destination has all of it.
    Up,
    /// A part of it.
    On,
}

/// One that is in the air, for the lights.
struct Flight<'a>(&'a AtomicUsize);

impl Flight<'_> {
    fn begin(flights: &AtomicUsize) -> Flight<'_> {
        flights.fetch_add(1, Ordering::Relaxed);
        flights.fetch_or(FLEW, Ordering::Relaxed);
        Flight(flights)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Uploader {
    /// `box_key` opens the keys that [`records::put_destination`] sealed; `fates` gets `SegmentUploaded`,
    /// `PlaylistUploaded`, `UploadFailed` (once for each failed try) and `Lost`. `clock` tells the budget's time of day.
    pub fn new(
        config: impl Into<Live>,
        store: Store,
        spool: Arc<Spool>,
        box_key: Arc<BoxKey>,
        fates: mpsc::Sender<(TaskId, Fate)>,
        clock: WallClock,
        health: Reporter,
    ) -> Uploader {
        let config = config.into();
        let pacer = Pacer::new(config.now().upload.the_budget(), clock.clone());
        let (clients, destinations, sums, down, unerased, flights) = Default::default();
        let (packer, platform) = (Packer::default(), Mutex::default());
        Uploader {
            config,
            store,
            spool,
            box_key,
            fates,
            clock,
            pacer,
            health,
            packer,
            platform,
            clients,
            destinations,
            sums,
            down,
            flights,
            unerased,
        }
    }

    /// Packed files are made by these hands, which know them already if it is they who planned them.
    #[must_use]
    pub fn packing_with(self, packer: Packer) -> Uploader {
        Uploader { packer, ..self }
    }

    /// Until `cancel`: then nothing more is leased, and what flies gets five seconds.
    pub async fn run(self, cancel: CancellationToken) {
        let uploader = Arc::new(self);
        let mut changes = uploader.config.changes();
        let mut taken = changes.borrow_and_update().clone();
        let mut chores = JoinSet::new();
        let sweeper = uploader.clone();
        chores.spawn(async move { sweeper.sweep().await });
        let eraser = uploader.clone();
        chores.spawn(async move { eraser.erase_discarded().await });
        let teller = uploader.clone();
        chores.spawn(async move { teller.tell_lights().await });
        let mut flights = JoinSet::new();
        while !cancel.is_cancelled() {
            let mut wait = None;
            loop {
                match uploader.spool.lease_within(uploader.limits()).await {
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
            uploader.tell_health();
            tokio::select! {
                () = cancel.cancelled() => break,
                landed = flights.join_next(), if !flights.is_empty() => {
                    if let Some(Err(error)) = landed {
                        tracing::error!(%error, "an upload ended in a panic");
                    }
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = uploader.spool.wait_ready(), if wait.is_none() => {}
                () = uploader.pacer.changed() => {}
                Ok(()) = changes.changed() => {
                    let config = changes.borrow_and_update().clone();
                    uploader.take_up(&taken, &config);
                    taken = config;
                }
            }
        }
        chores.shutdown().await;
        let landing = async { while flights.join_next().await.is_some() {} };
        if tokio::time::timeout(LANDING, landing).await.is_err() {
            // a job that is dropped puts its file back
            tracing::info!(flights = flights.len(), "uploads are broken off; they are repeated after the next start");
            flights.shutdown().await;
        }
    }

    /// Another configuration is in force: what goes up from now on goes by it; what flies lands as it began.
    fn take_up(&self, before: &Config, now: &Config) {
        self.pacer.set(now.upload.the_budget());
        let same_timeout = before.upload.timeout_seconds == now.upload.timeout_seconds;
        if (&before.storage, &before.vod) != (&now.storage, &now.vod) || !same_timeout {
            self.clients().clear();
            *self.platform.lock().expect("nothing panics while it holds this lock") = None;
        }
    }

    fn limits(&self) -> Limits {
        let config = self.config.now();
        let upload = &config.upload;
        let at_once = upload.concurrency.max(1);
        let segments = self.pacer.rate() != Rate::Closed;
        Limits { at_once, per_line: upload.per_destination.clamp(1, at_once), segments }
    }

    /// What the upload light shows. A flight may be over in a moment: it is shown until the next look.
    async fn tell_lights(&self) {
        let mut look = tokio::time::interval(LIGHTS_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let before = self.flights.fetch_and(!FLEW, Ordering::Relaxed);
            let limit = Duration::from_secs(self.config.now().panel.backlog_seconds);
            let (uploading, backlog) = (before != 0, self.spool.oldest_waits() > limit);
            self.health.tell(|facts| (facts.uploading, facts.backlog) = (uploading, backlog));
        }
    }

    async fn carry(&self, job: UploadJob) {
        let _flight = Flight::begin(&self.flights);
        let (task, entry) = (job.task().clone(), job.entry().clone());
        let destination = match self.destination_of(&task).await {
            Ok(destination) => destination,
            Err(error) => {
                let fate = self.failed(job, None, error);
                return self.tell(task, fate).await;
            }
        };
        if let Vendor::Vod(vod) = &destination.destination.vendor {
            return self.carry_vod(job, &destination, vod).await;
        }
        let line = match self.line_of(&task, destination).await {
            Ok(line) => line,
            Err(error) => {
                let fate = self.failed(job, None, error);
                return self.tell(task, fate).await;
            }
        };
        let went = tokio::select! {
            biased;
            // dropped, it goes nowhere: its task is discarded. A local copy would go on all the same, and is short
            () = job.withheld(), if self.config.now().storage.kind == StorageKind::Cloud => return,
            went = self.try_carry(&job, &line) => went,
        };
        let fate = match went {
            Ok(Went::Up) => {
                self.is_well(&line.name);
                // the next file flies while this one is noted: that takes some turns of the disk
                job.landed();
                self.landed(job).await
            }
            Ok(Went::On) => {
                self.is_well(&line.name);
                job.ack_part();
                None
            }
            Err(Broken::Local(why)) => {
                self.give_up_parts(&entry, &line).await;
                match job.ack_lost(why).await {
                    Ok(fate) => fate,
                    Err(error) => {
                        tracing::error!(%task, segment = entry.object, %error, "a loss cannot be recorded");
                        None
                    }
                }
            }
            Err(Broken::Superseded) => {
                job.ack_failed(Fault::File, Duration::from_millis(100));
                None
            }
            Err(Broken::Anew) => {
                job.ack_failed(Fault::File, Duration::from_secs(self.config.now().upload.retry_first_seconds));
                None
            }
            // dropped, it goes back to its place
            Err(Broken::Put(error)) if error.class == Class::Paused => None,
            Err(Broken::Put(error)) => self.failed(job, Some((&line.name, &line.bucket)), error),
        };
        self.tell(task, fate).await;
    }

    async fn tell(&self, task: TaskId, fate: Option<Fate>) {
        if let Some(fate) = fate {
            // nobody listens any more only while the process ends; recovery tells it again
            let _ = self.fates.send((task, fate)).await;
        }
    }

    async fn try_carry(&self, job: &UploadJob, line: &Line) -> Result<Went, Broken> {
        let entry = job.entry();
        if entry.kind == SpoolKind::Package {
            return self.carry_packed(job, line).await;
        }
        let large = entry.bytes >= self.config.now().upload.multipart_from_bytes;
        if let Some(parts) = line.store.parts().filter(|_| large) {
            return self.carry_part(job, line, parts).await;
        }
        let body = match entry.kind {
            SpoolKind::Segment(_) | SpoolKind::Package => read(job).await?.paced(&self.pacer),
            // small, and what says that the rest is there: it waits for no budget, and is counted
            SpoolKind::Playlist { .. } => {
                self.pacer.charge(usize::try_from(entry.bytes).unwrap_or(usize::MAX));
                read(job).await?
            }
        };
        let began = std::time::Instant::now();
        let answered = line.store.put(&entry.object_key, &body, content_type(&entry.object)).await?;
        crash::point("upload.put");
        self.confirm(entry, line, &body.tag(), &answered).await?;
        crash::point("upload.confirmed");
        metrics::histogram!("holdfast_upload_seconds").record(began.elapsed().as_secs_f64());
        Ok(Went::Up)
    }

    /// Asks the destination what it holds now. `expected` is the tag of what was sent, `answered` what the storage said
    /// when it took it.
    async fn confirm(&self, entry: &SpoolEntry, line: &Line, expected: &str, answered: &str) -> Result<(), PutError> {
        match line.store.head(&entry.object_key).await {
            Ok(Some(held)) if held.is(entry.bytes, expected, answered) => Ok(()),
            Ok(Some(Held { size, tag, .. })) => {
                let sent = entry.bytes;
                Err(PutError::differs(format!(
                    "{sent} bytes with the tag {expected} were sent, {size} with {tag} are held"
                )))
            }
            Ok(None) => Err(PutError::differs("it was stored, and is not there")),
            // keys that may write and not read; the storage's own sum of what it took has to do then
            Err(error) if error.class == Class::Refused && (answered == expected || line.asked_by_commit) => {
                metrics::counter!("holdfast_uploads_unasked_total").increment(1);
                tracing::debug!(task = %entry.task, bucket = line.bucket, code = error.code, "what is held may not be asked");
                Ok(())
            }
            Err(error) => Err(error),
        }
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

    /// `line`: name and bucket of the destination.
    fn failed(&self, job: UploadJob, line: Option<(&str, &str)>, error: PutError) -> Option<Fate> {
        let outcome = match error.class {
            Class::Later => "later",
            Class::Refused => "refused",
            Class::Never => "never",
            Class::Doubtful => "doubtful",
            Class::Paused => "paused",
        };
        metrics::counter!("holdfast_uploads_total", "outcome" => outcome).increment(1);
        let config = self.config.now();
        let upload = &config.upload;
        let first = Duration::from_secs(upload.retry_first_seconds);
        let longest = Duration::from_secs(upload.retry_longest_seconds);
        let of_line = || backoff(job.line_failures() + 1, first, longest, rand::random());
        let (fault, wait) = match error.class {
            Class::Later | Class::Refused | Class::Paused => (Fault::Line, of_line()),
            Class::Doubtful => (Fault::Either(backoff(job.attempts() + 1, first, longest, rand::random())), of_line()),
            Class::Never => (Fault::File, longest),
        };
        let (task, object) = (job.task(), &job.entry().object);
        if error.class == Class::Doubtful {
            // it may be the file: it is read once more
            self.sums
                .lock()
                .expect("nothing panics while it holds this lock")
                .remove(&records::parts_key(task, object));
        }
        let message: String = error.message.chars().take(MESSAGE).collect();
        tracing::warn!(%task, object, outcome, code = error.code, why = message, ?wait, "an upload failed");
        if let Some((line, bucket)) = line {
            // the message may name keys of objects or users of the storage; it is in the log
            self.down().insert(line.to_owned(), format!("bucket {bucket}: {}", error.code));
        }
        job.ack_failed(fault, wait);
        Some(Fate::UploadFailed { code: error.code, message })
    }

    fn is_well(&self, line: &str) {
        self.down().remove(line);
    }

    /// Each destination that fails and is still needed, by its bucket.
    fn tell_health(&self) {
        let mut down = self.down();
        down.retain(|line, _| self.spool.waits_for(line));
        let words: std::collections::BTreeSet<&String> = down.values().collect();
        if words.is_empty() {
            self.health.ok("upload");
        } else {
            self.health.degraded("upload", words.into_iter().cloned().collect::<Vec<_>>().join(", "));
        }
    }

    /// Where a task's files go, which is read once: the index may be at a commit.
    async fn destination_of(&self, task: &TaskId) -> Result<DestinationEntry, PutError> {
        let destinations = || self.destinations.lock().expect("nothing panics while it holds this lock");
        let known = destinations().get(task).cloned();
        if let Some(entry) = known {
            return Ok(entry);
        }
        let entry = records::load_destination(&self.store, task).await.map_err(ours)?.ok_or_else(missing)?;
        let mut destinations = destinations();
        if destinations.len() >= CLIENTS {
            destinations.clear();
        }
        destinations.insert(task.clone(), entry.clone());
        Ok(entry)
    }

    /// The destination of a task: the local one, or a client that tasks of the same destination and keys share.
    async fn line_of(&self, task: &TaskId, entry: DestinationEntry) -> Result<Line, PutError> {
        let (name, bucket) = (entry.line, entry.destination.bucket.clone());
        if self.config.now().storage.kind == StorageKind::Local {
            let store = Arc::new(local::Local::new(self.config.now().local_root(), bucket.clone()));
            return Ok(Line { name, bucket, store, asked_by_commit: false });
        }
        if let Some(store) = self.clients().get(&name).cloned() {
            return Ok(Line { name, bucket, store, asked_by_commit: false });
        }
        let keys = records::load_keys(&self.store, &self.box_key, task).await.map_err(ours)?.ok_or_else(missing)?;
        let config = self.config.now();
        let store: Arc<dyn ObjectStore> = Arc::new(connect(&config, &entry.destination, &keys)?);
        let store = self.keep_client(name.clone(), store, &config);
        Ok(Line { name, bucket, store, asked_by_commit: false })
    }

    /// `made_by`: the configuration that it was made of.
    fn keep_client(&self, name: String, store: Arc<dyn ObjectStore>, made_by: &Config) -> Arc<dyn ObjectStore> {
        let mut clients = self.clients();
        // looked at under the lock: of one that is in force now, what was made is swept out when it goes; one that has gone
        // meanwhile was swept already, and serves this once
        let now = self.config.now();
        if (&now.storage, &now.vod, now.upload.timeout_seconds)
            != (&made_by.storage, &made_by.vod, made_by.upload.timeout_seconds)
        {
            return store;
        }
        if clients.len() >= CLIENTS {
            clients.clear();
        }
        clients.entry(name).or_insert(store).clone()
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<String, Arc<dyn ObjectStore>>> {
        self.clients.lock().expect("nothing panics while it holds this lock")
    }

    fn down(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.down.lock().expect("nothing panics while it holds this lock")
    }
}

fn connect(config: &Config, destination: &Destination, keys: &TaskKeys) -> Result<s3::S3, PutError> {
    let storage = &config.storage;
    let endpoint = match destination.vendor {
        Vendor::S3 => storage.s3_endpoint.clone(),
        Vendor::Cos | Vendor::Vod(_) => {
            Some(storage.cos_endpoint.clone().unwrap_or_else(|| cos_endpoint(&destination.region)))
        }
    };
    s3::S3::new(s3::Settings {
        endpoint,
        region: destination.region.clone(),
        bucket: destination.bucket.clone(),
        keys: keys.storage.clone(),
        path_style: storage.path_style,
        tags_of_parts: destination.vendor == Vendor::S3,
        timeout: Duration::from_secs(config.upload.timeout_seconds.max(1)),
    })
}

fn ours(error: store::Error) -> PutError {
    PutError::new(Class::Later, "InternalError", error.to_string())
}

fn missing() -> PutError {
    PutError::new(Class::Refused, "InternalError", "the destination of the task is not known")
}

fn cos_endpoint(region: &str) -> String {
    format!("https://cos.{region}.myqcloud.com")
}

/// Why a file did not go up.
enum Broken {
    Put(PutError),
    /// What lies on the shelf is not what was put there.
    Local(String),
    /// A newer version of the playlist took its place.
    Superseded,
    /// The storage has forgotten the parts that it had.
    Anew,
}

impl From<PutError> for Broken {
    fn from(error: PutError) -> Broken {
        Broken::Put(error)
    }
}

/// A leased file that is what was put on the shelf, and its sums.
async fn sound(job: &UploadJob, part_bytes: Option<u64>) -> Result<(Arc<Mutex<Input>>, Sums), Broken> {
    let file = job.file();
    let summed = tokio::task::spawn_blocking(move || {
        let file = Mutex::new(file.open()?);
        let sums = Sums::of(&file, part_bytes)?;
        Ok::<_, io::Error>((Arc::new(file), sums))
    });
    let (file, sums) = match summed.await.map_err(io::Error::other).flatten() {
        Ok(summed) => summed,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(gone(job)),
        Err(e) if matches!(vault::Error::of(&e), Some(vault::Error::Head)) => {
            return Err(Broken::Local(format!("the file does not open: {e}")));
        }
        // a disk that cannot be read just now, or a key that is not there, holds up this file alone
        Err(e) => return Err(PutError::new(Class::Never, LOCAL_READ_ERROR, e.to_string()).into()),
    };
    if sums.bytes != job.entry().bytes || sums.crc32 != job.entry().crc32 {
        return Err(Broken::Local("the checksum of the file has changed".into()));
    }
    Ok((file, sums))
}

fn gone(job: &UploadJob) -> Broken {
    match job.entry().kind {
        SpoolKind::Playlist { .. } if job.is_superseded() => Broken::Superseded,
        SpoolKind::Segment(_) | SpoolKind::Playlist { .. } | SpoolKind::Package => {
            Broken::Local("the file is gone".into())
        }
    }
}

/// All of a leased file.
async fn read(job: &UploadJob) -> Result<Body, Broken> {
    let (file, sums) = sound(job, None).await?;
    let body = Body::new(file, 0, sums.bytes, sums.md5);
    // of a sealed file another name would not do
    Ok(if job.file().is_sealed() { body } else { body.linked(job.file().path()) })
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
