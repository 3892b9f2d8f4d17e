//! The watch over the shelf's disk: how much room there is, what goes to make more, whether it still works.
//!
//! Owns: the reserve, the look at the file system once a second, dropping segments, the trial of a disk that failed.
//! Must not touch: what the tasks do about it; which segments go (`model::disk` decides).
//! Law: a segment is dropped only when its record says that it is lost; the reserve is given free before tasks are told
//! to end, and taken again only when there is room beside it; a disk that failed is trusted again only after new files
//! were written, synced and named on it several times in a row.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::{Condvar, MutexGuard, Weak};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;
use tokio::sync::watch;

use super::*;
use crate::model::WallClock;
use crate::model::disk::{Decision, Fault, Level, Limits, Shelf, Space, level, make_room};
use crate::model::packed::of_given_up_plan;

/// Names of our own in the spool's folder, which are no task's.
pub(super) const RESERVE: &str = ".reserve";
const TRIAL: &str = ".trial";
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The age of the oldest segment needs a record of the index.
const AGE_EVERY: Duration = Duration::from_secs(5);
const TRIAL_EVERY: Duration = Duration::from_secs(5);
/// A disk whose every second write fails is no disk.
const TRIALS: u32 = 3;
/// Segments dropped at one look; the next one goes on. Each is a commit.
const DROPS: usize = 64;

/// What the shelf asks of its disk. A test may answer for one that is small or fails.
pub trait Disk: std::fmt::Debug + Send + Sync {
    /// Returns when what was written is safe.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// What the file system has that `dir` lies on.
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

/// The one that the folder lies on.
#[derive(Debug, Clone, Copy)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let facts = statvfs(dir)?;
        let block = facts.fragment_size();
        Ok(Space {
            free_bytes: facts.blocks_available() * block,
            total_bytes: facts.blocks() * block,
            free_inodes: facts.files_available(),
            total_inodes: facts.files(),
        })
    }
}

/// Before the index is opened, which takes room of its own: on a full disk the reserve is given free, and where that is
/// not enough, what nobody needs goes. Blocks.
pub fn make_room_to_start(dir: &Path, limits: &Limits) {
    let is_full = || RealDisk.space(dir).is_ok_and(|space| level(&space, limits, Level::Roomy) == Level::Full);
    if !is_full() {
        return;
    }
    match fs::remove_file(dir.join(RESERVE)) {
        Ok(()) => tracing::warn!("the disk is full at the start: its reserve is given free"),
        Err(error) => tracing::error!(%error, "the disk is full at the start, and there is no reserve to give free"),
    }
    for path in set_aside_files(dir) {
        if !is_full() {
            return;
        }
        match fs::remove_file(&path) {
            Ok(()) => tracing::warn!(path = %path.display(), "removed to make room on the disk"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "it cannot be removed to make room"),
        }
    }
}

/// Where the disk stands, for whoever has to do something about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    pub level: Level,
    /// What was free when the level was reached.
    pub space: Space,
    /// There is no room for new tasks.
    pub refuses: bool,
    /// There is none for the running ones either.
    pub full: bool,
    /// It does not do what it is for, and why.
    pub failed: Option<String>,
    /// It had failed, and works again.
    pub failed_before: Option<String>,
    /// Segments that were given up since the start.
    pub dropped: u64,
}

impl Standing {
    /// Nothing can be recorded: running tasks end with what can be saved.
    pub fn ends_tasks(&self) -> bool {
        self.full || self.failed.is_some()
    }

    pub fn takes_tasks(&self) -> bool {
        !self.refuses && !self.ends_tasks()
    }
}

/// The line to the watch: what others met with on the disk, and where it stands.
#[derive(Debug)]
pub(super) struct Line {
    met: Mutex<Met>,
    wake: Condvar,
    standing: watch::Sender<Standing>,
    /// Other ones, until the watch has taken them.
    limits: Mutex<Option<Limits>>,
}

#[derive(Debug, Default)]
struct Met {
    full: Option<String>,
    failed: Option<String>,
}

impl Default for Line {
    fn default() -> Line {
        let standing = watch::Sender::new(Standing::default());
        Line { met: Mutex::default(), wake: Condvar::new(), standing, limits: Mutex::default() }
    }
}

impl Line {
    fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().expect("nothing panics while it holds this lock")
    }

    pub(super) fn report(&self, fault: Fault, why: &str) {
        tracing::error!(fault = fault.as_str(), why, "the disk refused");
        metrics::counter!("holdfast_disk_faults_total", "fault" => fault.as_str()).increment(1);
        let mut met = self.met();
        let place = match fault {
            Fault::Full => &mut met.full,
            Fault::Failed => &mut met.failed,
        };
        place.get_or_insert_with(|| why.to_owned());
        drop(met);
        self.wake.notify_one();
    }

    pub(super) fn keep_to(&self, limits: Limits) {
        *self.limits.lock().expect("nothing panics while it holds this lock") = Some(limits);
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// What was met with until now, or within the next second.
    fn wait(&self) -> Met {
        let met = self.met();
        let nothing = |met: &mut Met| met.full.is_none() && met.failed.is_none();
        let waited = self.wake.wait_timeout_while(met, LOOK_EVERY, nothing);
        std::mem::take(&mut *waited.expect("nothing panics while it holds this lock").0)
    }
}

/// What an error says of the disk. Of a sync it always says something.
pub(super) fn fault_of(error: &io::Error) -> Option<Fault> {
    error.raw_os_error().and_then(Fault::of_errno)
}

pub(super) fn fault_of_sync(error: &io::Error) -> Fault {
    fault_of(error).unwrap_or(Fault::Failed)
}

/// What `shared` was told to keep to since the last look.
fn other_limits(shared: &Shared) -> Option<Limits> {
    shared.disk.limits.lock().expect("nothing panics while it holds this lock").take()
}

pub(super) struct Watch {
    limits: Limits,
    clock: WallClock,
    dir: PathBuf,
    /// The reserve lies on the disk.
    held: bool,
    trials: u32,
    tried: Instant,
    aged: Option<Instant>,
}

impl Watch {
    pub(super) fn new(shared: &Shared, limits: Limits, clock: WallClock) -> Watch {
        Watch { limits, clock, dir: shared.dir.clone(), held: false, trials: 0, tried: Instant::now(), aged: None }
    }

    /// The life of the thread: until the shelf is gone.
    pub(super) fn serve(mut self, shared: &Weak<Shared>) {
        while let Some(shared) = shared.upgrade() {
            let met = shared.disk.wait();
            if let Some(limits) = other_limits(&shared) {
                self.keep_to(limits);
            }
            self.look(&shared, met);
        }
    }

    pub(super) fn first_look(&mut self, shared: &Shared) {
        self.held = self.limits.reserve_bytes == 0 || self.reserve_is_there();
        self.look(shared, Met::default());
    }

    /// Another reserve is laid aside when there is room for it.
    fn keep_to(&mut self, limits: Limits) {
        if limits.reserve_bytes != self.limits.reserve_bytes {
            self.release();
        }
        self.limits = limits;
        self.held = limits.reserve_bytes == 0 || self.reserve_is_there();
    }

    fn look(&mut self, shared: &Shared, mut met: Met) {
        let before = shared.disk.standing.borrow().clone();
        let mut now = before.clone();
        let space = match shared.hardware.space(&self.dir) {
            Ok(space) => space,
            Err(error) => {
                met.failed.get_or_insert_with(|| format!("it does not tell its space: {error}"));
                before.space
            }
        };
        let missing = if self.held { 0 } else { self.limits.reserve_bytes };
        let room = space.less(missing);
        now.level = match met.full {
            Some(_) => Level::Full,
            None => level(&room, &self.limits, before.level),
        };
        if now.level == Level::Full {
            self.release();
        }
        let decisions = match now.level {
            Level::Roomy => Vec::new(),
            Level::Low | Level::Full => make_room(now.level, &room, &useless_and_waiting(shared), &self.limits),
        };
        now.refuses = decisions.contains(&Decision::RefuseTasks);
        now.full = decisions.contains(&Decision::EndTasks);
        now.dropped += carry_out(shared, &decisions);
        if now.level == Level::Roomy && !self.held {
            self.take();
        }
        self.look_at_failure(&*shared.hardware, &mut now, met.failed);
        if now.level != before.level || now.refuses != before.refuses || now.full != before.full {
            now.space = space;
            tracing::warn!(level = ?now.level, refuses = now.refuses, full = now.full, %space, "room on the disk");
        }
        self.tell_gauges(shared, &space);
        shared.disk.standing.send_if_modified(|standing| {
            let changed = *standing != now;
            *standing = now;
            changed
        });
    }

    fn look_at_failure(&mut self, hardware: &dyn Disk, now: &mut Standing, met: Option<String>) {
        if let Some(why) = met {
            self.trials = 0;
            self.tried = Instant::now();
            now.failed.get_or_insert(why);
            return;
        }
        if now.failed.is_none() || self.tried.elapsed() < TRIAL_EVERY {
            return;
        }
        self.tried = Instant::now();
        match try_out(&self.dir, hardware) {
            Ok(()) => self.trials += 1,
            Err(error) => {
                tracing::error!(%error, "the disk still fails");
                self.trials = 0;
            }
        }
        if self.trials >= TRIALS {
            tracing::warn!("the disk takes files again");
            now.failed_before = now.failed.take();
        }
    }

    fn reserve_is_there(&self) -> bool {
        let there = fs::metadata(self.dir.join(RESERVE));
        there.is_ok_and(|file| file.len() == self.limits.reserve_bytes && file.blocks() * 512 >= file.len())
    }

    fn take(&mut self) {
        let path = self.dir.join(RESERVE);
        let length = i64::try_from(self.limits.reserve_bytes).unwrap_or(i64::MAX);
        let taken = File::create(&path).and_then(|file| Ok(posix_fallocate(&file, 0, length)?));
        match taken {
            Ok(()) => self.held = true,
            Err(error) => {
                tracing::warn!(%error, bytes = self.limits.reserve_bytes, "the reserve on the disk cannot be taken");
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn release(&mut self) {
        if !self.held || self.limits.reserve_bytes == 0 {
            return;
        }
        match fs::remove_file(self.dir.join(RESERVE)) {
            Ok(()) => {
                tracing::warn!(bytes = self.limits.reserve_bytes, "the reserve on the disk is given free");
                self.held = false;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.held = false,
            Err(error) => tracing::error!(%error, "the reserve on the disk cannot be given free"),
        }
    }

    fn tell_gauges(&mut self, shared: &Shared, space: &Space) {
        metrics::gauge!("holdfast_disk_free_bytes").set(space.free_bytes as f64);
        metrics::gauge!("holdfast_disk_total_bytes").set(space.total_bytes as f64);
        metrics::gauge!("holdfast_disk_free_inodes").set(space.free_inodes as f64);
        let reserve = if self.held { self.limits.reserve_bytes } else { 0 };
        metrics::gauge!("holdfast_disk_reserve_bytes").set(reserve as f64);
        if self.aged.is_some_and(|at| at.elapsed() < AGE_EVERY) {
            return;
        }
        self.aged = Some(Instant::now());
        let oldest = shared.state().backlog.oldest_segment().cloned();
        let entry = oldest.and_then(|waiting| shared.entry_of(&waiting));
        let age = entry.and_then(|entry| Some((self.clock)().since(entry.segment()?.start)));
        metrics::gauge!("holdfast_spool_oldest_seconds").set(age.unwrap_or_default().as_secs_f64());
        shared.state().oldest = age.unwrap_or_default();
    }
}

/// Writes, syncs and names a new file, as the shelf would.
fn try_out(dir: &Path, hardware: &dyn Disk) -> io::Result<()> {
    let (from, to) = (dir.join(format!("{TRIAL}.part")), dir.join(TRIAL));
    let tried = File::create(&from)
        .and_then(|mut file| io::Write::write_all(&mut file, &[0x5a; 4096]).and_then(|()| hardware.sync(&file)))
        .and_then(|()| fs::rename(&from, &to))
        .and_then(|()| hardware.sync(&File::open(dir)?));
    let _ = fs::remove_file(&from);
    let _ = fs::remove_file(&to);
    tried
}

fn useless_and_waiting(shared: &Shared) -> Shelf<PathBuf> {
    let sized = |path: PathBuf| {
        let bytes = fs::metadata(&path).ok()?.len();
        Some((path, bytes))
    };
    let state = shared.state();
    let (mut useless, mut waiting) = (state.leftovers.clone(), state.backlog.idle_segments());
    let made = |held: &Held, is: fn(&Made, &str) -> bool| {
        state.made.get(&held.waiting.task).is_some_and(|made| is(made, &held.file))
    };
    let (done, held): (Vec<&Held>, Vec<&Held>) = state.held.values().partition(|held| made(held, Made::is_done));
    useless.extend(done.into_iter().map(|held| shared.task_dir(&held.waiting.task).join(&held.file)));
    // a list may lack what is in a file that is up before anything is lost
    let (safe, unsafe_): (Vec<&Held>, Vec<&Held>) = held.into_iter().partition(|held| made(held, Made::holds));
    let pair = |held: &Held| (held.waiting.clone(), held.bytes);
    waiting.splice(0..0, safe.into_iter().map(pair));
    waiting.extend(unsafe_.into_iter().map(pair));
    for (task, made) in state.made.iter().filter(|(task, _)| state.hold_of(task) == Hold::Copies) {
        let done = made.files().filter(|file| made.is_done(file));
        useless.extend(done.map(|file| shared.task_dir(task).join(format!("{file}{KEPT_SUFFIX}"))));
    }
    drop(state);
    let useless = useless.into_iter().chain(set_aside_files(&shared.dir)).filter_map(sized).collect();
    Shelf { useless, waiting }
}

/// Segments that are told as lost, and kept for a technician while there is room. Plans, which are small, keep names from
/// being used again: they stay.
fn set_aside_files(dir: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let lost = |path: &PathBuf| {
        path.to_str().is_some_and(|path| path.ends_with(LOST_SUFFIX) && of_given_up_plan(path).is_none())
    };
    below(dir).filter(|folder| folder.is_dir()).flat_map(|folder| below(&folder)).filter(lost).collect()
}

/// Says how many segments were given up.
fn carry_out(shared: &Shared, decisions: &[Decision<PathBuf>]) -> u64 {
    let (mut dropped, mut waited_for) = (0u64, BTreeMap::<TaskId, BTreeSet<String>>::new());
    for decision in decisions {
        match decision {
            Decision::Unlink(path) => match fs::remove_file(path) {
                Ok(()) => tracing::warn!(path = %path.display(), "removed to make room on the disk"),
                Err(error) => tracing::debug!(path = %path.display(), %error, "it is gone already"),
            },
            Decision::Drop(waiting) => {
                if dropped < DROPS as u64 && give_up(shared, waiting, &mut waited_for) {
                    dropped += 1;
                }
            }
            Decision::RefuseTasks | Decision::EndTasks => {}
        }
    }
    let paths: BTreeSet<&PathBuf> =
        decisions.iter().filter_map(|d| if let Decision::Unlink(path) = d { Some(path) } else { None }).collect();
    if !paths.is_empty() {
        shared.state().leftovers.retain(|path| !paths.contains(path));
        forget_packed(shared, &paths);
    }
    dropped
}

/// Segments among these files are in packed files, which are up: they are gone, and nothing is lost.
fn forget_packed(shared: &Shared, paths: &BTreeSet<&PathBuf>) {
    let gone = |held: &Held| paths.contains(&shared.task_dir(&held.waiting.task).join(&held.file));
    let mut state = shared.state();
    let orders: Vec<u64> = state.held.iter().filter(|(_, held)| gone(held)).map(|(order, _)| *order).collect();
    let held: Vec<Held> = orders.iter().filter_map(|order| state.held.remove(order)).collect();
    state.tell_size();
    drop(state);
    forget_records(shared, held.iter().map(|held| &held.waiting));
}

/// A record that stays says of a file that it is here; the next start passes over it.
fn forget_records<'a>(shared: &Shared, of: impl Iterator<Item = &'a Waiting>) {
    let batch = of.fold(Batch::new(), |batch, w| batch.delete(records::spool_key(&w.task, &w.object)));
    if !batch.is_empty()
        && let Err(error) = shared.store.commit_blocking(batch)
    {
        tracing::warn!(%error, "records of segments that are in packed files stay in the index");
    }
}

/// Recorded as lost, unlinked, told. What a packed file holds that is up goes without a word; whether one that still goes
/// up has what it needs shows on its way, and its task finds out then what is lost.
fn give_up(shared: &Shared, waiting: &Waiting, waited_for: &mut BTreeMap<TaskId, BTreeSet<String>>) -> bool {
    let Waiting { task, object } = waiting;
    let Some(mut entry) = shared.entry_of(waiting) else {
        tracing::error!(%task, object, "a segment whose record cannot be read cannot be given up");
        return false;
    };
    let Some(segment) = entry.segment().cloned() else { return false };
    // nobody leases it from now on
    let idle = {
        let mut state = shared.state();
        state.held.remove(&entry.order).is_some() || state.backlog.remove_idle(waiting)
    };
    if !idle {
        return false;
    }
    let path = shared.task_dir(task).join(&entry.file);
    if shared.is_in_file(task, &entry.file) {
        match fs::remove_file(&path) {
            Ok(()) => tracing::warn!(%task, object, "in a packed file that is up: removed to make room on the disk"),
            Err(error) => tracing::warn!(%task, object, %error, "a segment that is packed stays on the disk"),
        }
        forget_records(shared, std::iter::once(waiting));
        return false;
    }
    let sources = waited_for.entry(task.clone()).or_insert_with(|| shared.waited_for(task));
    let undecided = shared.state().hold_of(task) == Hold::All && sources.contains(&entry.file);
    let why = "given up to make room on the disk".to_owned();
    let kept = entry.clone();
    entry.state = SpoolState::Lost { why: why.clone() };
    if let Err(error) = shared.store.commit_blocking(Batch::new().put(entry.key(), entry.to_bytes())) {
        tracing::error!(%task, object, %error, "a segment cannot be recorded as given up, and stays");
        shared.put(&kept);
        return false;
    }
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(%task, object, %error, "a segment that was given up stays on the disk");
    }
    // after the file has gone: a full disk has room for the line then
    shared.note_lost(task, &segment, object);
    let LaneRun { lane, run, .. } = &segment.run;
    tracing::error!(
        %task, ?lane, run, segment = segment.index, object, bytes = entry.bytes,
        "the oldest segment is given up to make room on the disk"
    );
    metrics::counter!("holdfast_segments_dropped_total").increment(1);
    metrics::counter!("holdfast_segments_lost_total").increment(1);
    shared.state().tell_size();
    if undecided {
        tracing::warn!(%task, object, "a packed file that is to go up needs it: it may have been sent already");
        return true;
    }
    // nobody listens any more only while the process ends; recovery tells it again
    let _ = shared.fates.blocking_send((task.clone(), Fate::Lost { segment, why }));
    true
}

impl Shared {
    fn entry_of(&self, waiting: &Waiting) -> Option<SpoolEntry> {
        let key = records::spool_key(&waiting.task, &waiting.object);
        let bytes = self.store.get_blocking(&key).ok()??;
        SpoolEntry::from_bytes(&key, &bytes).ok()
    }
}
