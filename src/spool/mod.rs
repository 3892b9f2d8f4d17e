//! The safe shelf: where every finished file lies until its destination has it.
//!
//! Owns: task folders, the order of sync, rename and record, the backlog in memory, recovery after a restart. Must not
//! touch: the network, GStreamer, the states of tasks.
//! Law: a segment is told as spooled only when its bytes, its name and its record are on the disk, in this order; a
//! sync that failed is never tried again (what is in the file is then unknown); a file is unlinked only after the
//! record says that its destination has it. The record of an uploaded or lost segment stays until its task has noted
//! it ([`records::settle`]) or is forgotten, so that a crash between the two repeats the news and never loses it.
//!
//! ```text
//! <dir>/<task>/task.json, destination.json, uploaded.txt              what a lost index is made again of: folder
//!              <local name>.part      media writes                      model::segment::LocalName
//!              <local name>.ts        synced, renamed, folder synced, recorded: on the shelf
//!              <local name>.ts.kept   at its destination, and kept until it is packed
//!              <object>.m3u8.v<n>     version n of a playlist
//!              <object>.plan          a packed file: how it is made of segments
//!              <object>.plan.kept     the same of one that is up
//!              <object>.plan.lost     the same of one that was given up, and may have been sent
//! ```
//! With a key, files are sealed ([`crate::vault`]); sizes and checksums of records are of what is in them, and whoever
//! reads one does so by [`open_plain`]. Plain files from before there was a key lie beside them.
//!
//! One plain thread named `spool` does the work in the order in which it was handed over, several files for one sync
//! of a folder and one commit. The actor never waits for it.

pub mod export;
pub mod folder;
pub mod look;
pub mod recovery;
pub mod ts;

mod discard;
mod disk;
mod hold;
mod lease;
mod notes;
mod plans;
mod restart;
mod shelf;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use disk::{Disk, RealDisk, Standing, make_room_to_start};
pub use lease::{ShelfFile, UploadJob};
pub use restart::Listing;

use crate::crash;
use crate::model::backlog::{Backlog, Class, Limits, Pending, Waiting};
use crate::model::disk::{Fault, Limits as DiskLimits};
use crate::model::fate::Fate;
use crate::model::made::Made;
use crate::model::output::Hold;
use crate::model::packed::PackedFile;
use crate::model::segment::{ClosedSegment, KEPT_SUFFIX, LOST_SUFFIX, LocalName, identity};
use crate::model::vod::{Committed, Media, Stored};
use crate::model::{LaneKind, LaneRun, TaskId, WallClock};
use crate::store::records::{self, DestinationEntry, SpoolEntry, SpoolKind, SpoolState};
use crate::store::{self, Batch, Store};
use crate::vault::{self, Input, Vault};
use folder::Note;
use hold::Package;
use recovery::{FoundFile, Step};

/// Files that may wait for the thread; past it the actor is told.
const QUEUE: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(
        "{file} of the task {task} is sealed with the key {key}, which is not among the keys of the configuration \
         (spool.key_file, spool.old_key_files …)"
    )]
    MissingKey { task: TaskId, file: String, key: String },
    #[error("{QUEUE} files wait for the disk already")]
    Full,
    #[error("the spool has stopped")]
    Stopped,
    #[error("{segments} segments and {playlists} playlists of the task are still on the shelf")]
    NotEmpty { segments: usize, playlists: usize },
}

/// What was handed over.
enum Order {
    Segment {
        segment: ClosedSegment,
        object: String,
        object_key: String,
    },
    Playlist(Playlist),
    Package(Package),
    /// What was held of a task goes.
    LetGo(TaskId),
    /// What the task's folder says of the task.
    Task {
        task: TaskId,
        shape: String,
    },
    /// An event that the task's folder is to keep.
    Event {
        task: TaskId,
        event: String,
    },
    /// Of a withheld task nothing stays.
    Clear {
        task: TaskId,
    },
    Erase(records::EraseEntry),
    /// Answered when everything before it is done.
    Drain(oneshot::Sender<()>),
}

struct Playlist {
    task: TaskId,
    object: String,
    object_key: String,
    version: u64,
    text: String,
}

/// What recovery found of one task.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shelved {
    /// Segments that the index did not know, in the order of lane, run, index. Each is to be handed to
    /// [`Spool::accept_segment`] with its object name; until then it is on the disk and nowhere else.
    pub adopted: Vec<ClosedSegment>,
    /// On the shelf, known, and waiting for the destination: (object, segment).
    pub spooled: Vec<(String, ClosedSegment)>,
    /// At the destination since, which the task may not have heard: objects.
    pub uploaded: Vec<String>,
    /// Gone, or not to be trusted: (object, segment, why).
    pub lost: Vec<(String, ClosedSegment, String)>,
    /// Playlists that wait for the destination, and their versions.
    pub playlists: Vec<(String, u64)>,
    /// Packed files that wait for the destination.
    pub packages: Vec<String>,
    /// The same, of those whose plans can be read.
    pub waiting: Vec<PackedFile>,
    /// Packed files that are at the destination, in all lives, as their plans say.
    pub up: Vec<PackedFile>,
    /// (run, index) of segments that are in these, or wait to be: whatever lies here of them, they are not lost.
    pub packed_segments: BTreeSet<(u32, u32)>,
    /// Packed files that are at the destination since, which the task may not have heard.
    pub packed: Vec<String>,
    /// The same of files that are on VOD, and what it made of them.
    pub committed: Vec<(String, Media)>,
    /// What the folder says of the task ([`Spool::describe_task`]).
    pub shape: Option<String>,
    /// The folder holds the task's destination and keys, too.
    pub destination: bool,
    /// What the folder's journal says, of all lives: segments that the destination has, with their objects.
    pub noted_uploaded: Vec<(LocalName, String)>,
    /// Segments that were lost, in all lives.
    pub noted_lost: Vec<LocalName>,
    /// Events that were kept ([`Spool::keep_event`]), in all lives.
    pub noted_events: Vec<String>,
    /// Files that VOD has, in all lives.
    pub noted_committed: Vec<Committed>,
}

impl Shelved {
    /// No folder says that there is such a task, and nothing of it is on the disk. The folder of a task that is over goes
    /// before its records do.
    pub fn is_of_nobody(&self) -> bool {
        self.shape.is_none() && self.adopted.is_empty() && self.spooled.is_empty()
    }
}

/// What [`Spool::recover`] found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recovered {
    /// Every task that has a folder or a record.
    pub tasks: BTreeMap<TaskId, Shelved>,
    /// Files and folders that nobody knows; they were left alone.
    pub unknown: usize,
}

/// The shelf. Shared by the actor, which puts files on it, and the uploader, which takes them off.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    to: SyncSender<Order>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    store: Store,
    vault: Vault,
    fates: mpsc::Sender<(TaskId, Fate)>,
    hardware: Arc<dyn Disk>,
    state: Mutex<State>,
    /// The journal of each task that is written to, if it is not the first. Held while a line is written.
    journals: Mutex<BTreeMap<TaskId, u32>>,
    /// Held while a task's folder is described or removed, so that none is described that was removed.
    describing: Mutex<()>,
    /// A file became ready.
    ready: Notify,
    /// A destination is to be rid of a task.
    erase: Notify,
    /// An upload ended.
    landed: Notify,
    epoch: Instant,
    disk: disk::Line,
}

#[derive(Debug, Default)]
struct State {
    backlog: Backlog,
    /// Since when the oldest segment has waited, as it was looked at last.
    oldest: Duration,
    /// Handed over, not yet on the shelf.
    queued: BTreeMap<TaskId, Pending>,
    /// The version of each playlist that waits.
    playlists: BTreeMap<Waiting, u64>,
    /// The destination's line of each task.
    lines: BTreeMap<TaskId, String>,
    last_order: u64,
    /// How tasks hold their segments, and those that go nowhere: by their order.
    holds: BTreeMap<TaskId, Hold>,
    /// Those of them that need their segments no more, as their folders say.
    let_go: BTreeSet<TaskId>,
    held: BTreeMap<u64, Held>,
    /// What packed files hold that are up.
    made: BTreeMap<TaskId, Made>,
    /// Uploaded files that could not be unlinked.
    leftovers: Vec<PathBuf>,
    withheld: discard::Withheld,
}

/// A segment that goes nowhere by itself.
#[derive(Debug)]
struct Held {
    waiting: Waiting,
    bytes: u64,
    file: String,
}

impl Spool {
    /// Makes the folder and starts the thread. Nothing can be leased before [`Spool::recover`].
    ///
    /// `fates` gets `Spooled`, `Lost` of segments that were handed over; it may be full, then they come later.
    pub fn open(dir: &Path, store: Store, fates: mpsc::Sender<(TaskId, Fate)>) -> Result<Arc<Spool>, Error> {
        Spool::open_on(dir, store, Vault::default(), fates, Arc::new(RealDisk))
    }

    /// [`Spool::open`] with keys: what is put on the shelf is sealed.
    pub fn open_sealed(
        dir: &Path,
        store: Store,
        vault: Vault,
        fates: mpsc::Sender<(TaskId, Fate)>,
    ) -> Result<Arc<Spool>, Error> {
        Spool::open_on(dir, store, vault, fates, Arc::new(RealDisk))
    }

    /// [`Spool::open_sealed`] on a disk that somebody else answers for.
    pub fn open_on(
        dir: &Path,
        store: Store,
        vault: Vault,
        fates: mpsc::Sender<(TaskId, Fate)>,
        hardware: Arc<dyn Disk>,
    ) -> Result<Arc<Spool>, Error> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            store,
            vault,
            fates,
            hardware,
            state: Mutex::default(),
            journals: Mutex::default(),
            describing: Mutex::default(),
            ready: Notify::new(),
            erase: Notify::new(),
            landed: Notify::new(),
            epoch: Instant::now(),
            disk: disk::Line::default(),
        });
        let (to, from) = sync_channel(QUEUE);
        let hands = shelf::Hands::new(shared.clone());
        std::thread::Builder::new().name("spool".into()).spawn(move || hands.serve(&from)).map_err(at(dir))?;
        Ok(Arc::new(Spool { shared, to }))
    }

    /// Looks at the room on the disk once, and from then on each second on a thread of its own. Once for a shelf.
    pub async fn watch_disk(&self, limits: DiskLimits, clock: WallClock) -> Result<(), Error> {
        let shared = self.shared.clone();
        blocking(move || {
            let mut watch = disk::Watch::new(&shared, limits, clock);
            watch.first_look(&shared);
            let weak = Arc::downgrade(&shared);
            let spawned = std::thread::Builder::new().name("disk".into()).spawn(move || watch.serve(&weak));
            spawned.map(drop).map_err(at(&shared.dir))
        })
        .await
    }

    /// Other limits of the disk from the next look on.
    pub fn keep_disk_to(&self, limits: DiskLimits) {
        self.shared.disk.keep_to(limits);
    }

    /// Where the disk stands, as [`Spool::watch_disk`] sees it.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.disk.standing()
    }

    /// Somebody met with an error of the disk.
    pub fn report(&self, fault: Fault, why: &str) {
        self.shared.disk.report(fault, why);
    }

    /// What files of the shelf are sealed with: whoever writes a `.part` writes through it.
    pub fn vault(&self) -> &Vault {
        &self.shared.vault
    }

    /// The folder of a task; it exists after [`Spool::begin_task`].
    pub fn task_dir(&self, task: &TaskId) -> PathBuf {
        self.shared.task_dir(task)
    }

    /// Makes a task's folder, durably, and says where it is. Repeating it is harmless.
    pub async fn begin_task(&self, task: &TaskId) -> Result<PathBuf, Error> {
        let (shared, dir) = (self.shared.clone(), self.task_dir(task));
        blocking(move || {
            let made = fs::create_dir_all(&dir).map_err(at(&dir));
            crash::point("task.folder-made");
            let made = made.and_then(|()| sync_dir(&shared.dir).map_err(at(&shared.dir)));
            crash::point("task.folder-synced");
            if let Err(Error::Io { path, source }) = &made
                && let Some(fault) = disk::fault_of(source)
            {
                shared.disk.report(fault, &format!("{}: {source}", path.display()));
            }
            made.map(|()| dir)
        })
        .await
    }

    /// Writes into the task's folder what a lost index is made again of: `shape` (the task as `rooms` knows it), and its
    /// destination and sealed keys as they are in the index. Durable when it returns.
    pub async fn describe_task(&self, task: &TaskId, shape: String) -> Result<(), Error> {
        let (shared, task) = (self.shared.clone(), task.clone());
        blocking(move || {
            let dir = shared.task_dir(&task);
            let _describing = shared.describing.lock().expect("nothing panics while it holds this lock");
            shared.keep_destination(&task)?;
            folder::replace(&dir, folder::TASK, shape.as_bytes(), &*shared.hardware)
                .map_err(at(&dir.join(folder::TASK)))?;
            sync_dir(&dir).map_err(at(&dir))
        })
        .await
    }

    /// The same of a task that has changed. Returns at once; of several that wait the last is written.
    pub fn redescribe_task(&self, task: &TaskId, shape: String) -> Result<(), Error> {
        self.to.try_send(Order::Task { task: task.clone(), shape }).map_err(|refused| match refused {
            TrySendError::Full(_) => Error::Full,
            TrySendError::Disconnected(_) => Error::Stopped,
        })
    }

    /// Keeps an event in the task's folder, so that it can be told again when the index is lost. Returns at once.
    pub fn keep_event(&self, task: &TaskId, event: String) -> Result<(), Error> {
        self.to.try_send(Order::Event { task: task.clone(), event }).map_err(|refused| match refused {
            TrySendError::Full(_) => Error::Full,
            TrySendError::Disconnected(_) => Error::Stopped,
        })
    }

    /// Puts a closed segment on the shelf. Returns at once; `Fate::Spooled` or `Fate::Lost` follows.
    ///
    /// `segment.part_name` may be the `.part` that was written, or the final name of one that recovery adopted.
    pub fn accept_segment(&self, segment: ClosedSegment, object: String, object_key: String) -> Result<(), Error> {
        let (task, pending) = (segment.run.task.clone(), of_segment(&segment));
        self.hand_over(&task, pending, Order::Segment { segment, object, object_key })
    }

    /// Puts a version of a playlist on the shelf. Returns at once; a newer one replaces an older one that is not yet
    /// uploaded, an older one than what is there is ignored. Versions count from 1 for each playlist.
    pub fn accept_playlist(
        &self,
        task: &TaskId,
        object: String,
        object_key: String,
        version: u64,
        text: String,
    ) -> Result<(), Error> {
        let playlist = Playlist { task: task.clone(), object, object_key, version, text };
        self.hand_over(task, of_playlist(&playlist), Order::Playlist(playlist))
    }

    fn hand_over(&self, task: &TaskId, pending: Pending, order: Order) -> Result<(), Error> {
        // counted first: the thread may be done with it before this call returns
        self.shared.state().enqueue(task, pending);
        let Err(refused) = self.to.try_send(order) else { return Ok(()) };
        self.shared.state().dequeue(task, pending);
        Err(match refused {
            TrySendError::Full(_) => Error::Full,
            TrySendError::Disconnected(_) => Error::Stopped,
        })
    }

    /// Returns when everything that was handed over before is on the shelf.
    pub async fn drained(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let to = self.to.clone();
        blocking(move || to.send(Order::Drain(reply)).map_err(|_| Error::Stopped)).await?;
        answer.await.map_err(|_| Error::Stopped)
    }

    /// What of a task has not reached its destination: on the shelf, or handed over and not yet there.
    pub fn pending(&self, task: &TaskId) -> Pending {
        let state = self.shared.state();
        let (a, b) = (state.backlog.pending(task), state.queued.get(task).copied().unwrap_or_default());
        Pending { segments: a.segments + b.segments, playlists: a.playlists + b.playlists, bytes: a.bytes + b.bytes }
    }

    /// What of all tasks lies on the shelf.
    pub fn total(&self) -> Pending {
        self.shared.state().backlog.total()
    }

    /// Removes a task's folder, its records, destination and keys. Refused while something of it waits.
    ///
    /// Files that nobody knows keep their folder, and are told.
    pub async fn forget_task(&self, task: &TaskId) -> Result<(), Error> {
        let pending = self.pending(task);
        if !pending.is_empty() {
            return Err(Error::NotEmpty { segments: pending.segments, playlists: pending.playlists });
        }
        self.let_go_now(task).await?;
        let mut batch = Batch::new().delete(records::destination_key(task)).delete(records::keys_key(task));
        batch = batch.delete(records::erase_key(task));
        for prefix in [records::spool_prefix(task), records::parts_prefix(task), records::vod_prefix(task)] {
            for (key, _) in self.shared.store.scan(prefix).await? {
                batch = batch.delete(key);
            }
        }
        self.shared.store.commit(batch).await?;
        {
            let mut state = self.shared.state();
            state.backlog.remove_task(task);
            state.lines.remove(task);
            state.holds.remove(task);
            state.let_go.remove(task);
            state.made.remove(task);
            state.playlists.retain(|waiting, _| waiting.task != *task);
        }
        self.shared.journals().remove(task);
        crash::point("forget.committed");
        let (shared, task) = (self.shared.clone(), task.clone());
        blocking(move || {
            if shared.state().withheld.let_go(&task) {
                // whatever came after it was cleared (of a lane that hung) has nobody who knows it
                shared.clear(&task)?;
            }
            let _describing = shared.describing.lock().expect("nothing panics while it holds this lock");
            remove_folder(&shared.task_dir(&task), &task)
        })
        .await
    }

    /// Looks at everything on the shelf against the index, repairs, and fills the backlog.
    ///
    /// Once, before anything writes into a task's folder and before anything is leased.
    pub async fn recover(&self) -> Result<Recovered, Error> {
        let dir = self.shared.dir.clone();
        self.recover_listed(move || Listing::of(&dir)).await
    }

    /// The same; `listing` gives what lies there, and may block. Nothing has changed on the shelf since it was made.
    pub async fn recover_listed(
        &self,
        listing: impl FnOnce() -> Result<Listing, Error> + Send + 'static,
    ) -> Result<Recovered, Error> {
        let shared = self.shared.clone();
        blocking(move || shared.recover(listing)).await
    }

    /// The next file to carry; at most `per_line` at once of one destination. `None`: nothing is ready now.
    pub async fn lease(&self, per_line: usize) -> Result<Option<UploadJob>, Error> {
        self.lease_within(Limits::per_line(per_line)).await
    }

    /// The next file to carry. `None`: nothing is ready now, or there is no place for it.
    pub async fn lease_within(&self, limits: Limits) -> Result<Option<UploadJob>, Error> {
        lease::lease(&self.shared, limits).await
    }

    /// Which tasks are being recorded: an old backlog does not keep their newest files from their destination.
    pub fn tell_live(&self, tasks: BTreeSet<TaskId>) {
        self.shared.state().backlog.set_live(tasks);
    }

    /// Whether anything waits for a destination ([`DestinationEntry::line`]).
    pub fn waits_for(&self, line: &str) -> bool {
        self.shared.state().backlog.has_line(line)
    }

    /// For how long the oldest segment has waited; looked at every few seconds.
    pub fn oldest_waits(&self) -> Duration {
        self.shared.state().oldest
    }

    /// Returns when a file may have become ready, by being put there or by time.
    pub async fn wait_ready(&self) {
        let now = self.shared.now();
        let wake = self.shared.state().backlog.next_wake(now);
        match wake {
            Some(at) => {
                let _ = tokio::time::timeout(at.saturating_sub(now), self.shared.ready.notified()).await;
            }
            None => self.shared.ready.notified().await,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// The backlog's time: monotonic, so that a step of the wall clock stops no upload.
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn task_dir(&self, task: &TaskId) -> PathBuf {
        self.dir.join(task.as_str())
    }

    fn open(&self, task: &TaskId, file: &str) -> Result<Input, Error> {
        let path = self.task_dir(task).join(file);
        open_plain(&self.vault, task, &path).map_err(|source| match vault::Error::of(&source) {
            Some(vault::Error::MissingKey(key)) => {
                Error::MissingKey { task: task.clone(), file: file.to_owned(), key: key.to_string() }
            }
            _ => at(&path)(source),
        })
    }

    /// Blocks. A task without a destination (a local one, a test's) is a line of its own.
    fn line_of(&self, task: &TaskId) -> String {
        if let Some(line) = self.state().lines.get(task) {
            return line.clone();
        }
        let key = records::destination_key(task);
        let read = self.store.get_blocking(&key).and_then(|bytes| {
            bytes.map(|bytes| DestinationEntry::from_bytes(&key, &bytes).map(|entry| entry.line)).transpose()
        });
        let line = match read {
            Ok(Some(line)) => line,
            Ok(None) => task.to_string(),
            Err(error) => {
                tracing::warn!(%task, %error, "the task's destination cannot be read");
                return task.to_string();
            }
        };
        self.state().lines.insert(task.clone(), line.clone());
        line
    }

    /// Puts a recorded entry into the backlog and wakes the uploader.
    fn put(&self, entry: &SpoolEntry) {
        self.place(entry);
        self.state().tell_size();
        self.ready.notify_one();
    }

    fn place(&self, entry: &SpoolEntry) {
        if self.is_withheld(&entry.task) {
            return;
        }
        let line = self.line_of(&entry.task);
        let waiting = Waiting { task: entry.task.clone(), object: entry.object.clone() };
        let class = match entry.kind {
            SpoolKind::Segment(_) => Class::Segment,
            SpoolKind::Playlist { .. } => Class::Playlist,
            SpoolKind::Package => Class::Package,
        };
        let mut state = self.state();
        if class == Class::Segment && state.hold_of(&entry.task) == Hold::All {
            let (bytes, file) = (entry.bytes, entry.file.clone());
            state.held.insert(entry.order, Held { waiting, bytes, file });
            state.tell_size();
            return;
        }
        if let SpoolKind::Playlist { version } = entry.kind {
            state.playlists.insert(waiting.clone(), version);
        }
        state.backlog.put(waiting, &line, class, entry.order, entry.bytes);
    }
}

impl State {
    fn enqueue(&mut self, task: &TaskId, pending: Pending) {
        let queued = self.queued.entry(task.clone()).or_default();
        queued.segments += pending.segments;
        queued.playlists += pending.playlists;
        queued.bytes += pending.bytes;
    }

    fn dequeue(&mut self, task: &TaskId, pending: Pending) {
        let Some(queued) = self.queued.get_mut(task) else { return };
        queued.segments -= pending.segments;
        queued.playlists -= pending.playlists;
        queued.bytes -= pending.bytes;
        if queued.is_empty() {
            self.queued.remove(task);
        }
    }

    fn next_order(&mut self) -> u64 {
        self.last_order += 1;
        self.last_order
    }

    fn tell_size(&self) {
        let mut total = self.backlog.total();
        total.segments += self.held.len();
        total.bytes += self.held.values().map(|held| held.bytes).sum::<u64>();
        metrics::gauge!("holdfast_spool_files").set((total.segments + total.playlists) as f64);
        metrics::gauge!("holdfast_spool_bytes").set(total.bytes as f64);
    }
}

/// As what it is counted while it waits for the thread.
fn of_segment(segment: &ClosedSegment) -> Pending {
    Pending { segments: 1, playlists: 0, bytes: segment.bytes }
}

fn of_playlist(playlist: &Playlist) -> Pending {
    Pending { segments: 0, playlists: 1, bytes: playlist.text.len() as u64 }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), source }
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(run).await {
        Ok(outcome) => outcome,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Stopped),
        },
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a file of a task's folder as what was written into it, sealed or not. What is torn or damaged ends it there:
/// who knows how long it was and its checksum compares them.
pub fn open_plain(vault: &Vault, task: &TaskId, path: &Path) -> io::Result<Input> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    vault.open(path, &identity(task, &name))
}

/// A merged lane has files of sound alone, before its first picture: their names have no size.
fn wants_picture(name: &LocalName) -> bool {
    name.size.is_some() || name.lane.kind == LaneKind::Video
}

/// Keeps what cannot be trusted under a name that nothing reads.
fn set_aside(path: &Path) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(LOST_SUFFIX);
    if let Err(error) = fs::rename(path, aside)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a lost segment cannot be set aside");
    }
}

fn remove_folder(dir: &Path, task: &TaskId) -> Result<(), Error> {
    let files = match fs::read_dir(dir) {
        Ok(files) => files,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(at(dir)(e)),
    };
    // First, and for sure: a folder that says what its task was would bring it back.
    let shape = dir.join(folder::TASK);
    match fs::remove_file(&shape) {
        Ok(()) => {
            sync_dir(dir).map_err(at(dir))?;
            crash::point("forget.undescribed");
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(at(&shape)(e)),
    }
    let mut left = 0;
    for file in files {
        let path = file.map_err(at(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == folder::TASK {
            continue;
        }
        if folder::is_ours(&name)
            || hold::is_of_packing(&name)
            || path.extension().is_some_and(|ext| ext == "lost" || ext == "tmp")
        {
            fs::remove_file(&path).map_err(at(&path))?;
        } else {
            left += 1;
        }
    }
    if left > 0 {
        tracing::warn!(%task, left, "the task is forgotten, and its folder holds files that nobody knows");
        return Ok(());
    }
    crash::point("forget.emptied");
    fs::remove_dir(dir).map_err(at(dir))
}

#[cfg(test)]
mod tests;
