//! Packing: what a task's segments become after its end, without a second copy on the disk.
//!
//! Owns: mp4 and aac files made of segments: their plans, their tables, their bytes. Must not touch: tasks, records, the
//! network; any file of the shelf but to read it.
//! Law: no packed file ever lies on the shelf. It follows from its segments: its plan says which, and any stretch of it
//! can be made again at any time, with the same bytes. One segment of each track is in memory, and the tables.
//!
//! ```text
//!   model::package::order ──► Packer::plan ──► FilePlan (a small file on the shelf) ──► Packer::open ──► read_at
//! ```
//! All of it is done on two threads of low priority, which slow down while a live recording is in trouble.

pub mod black;
pub mod bundle;
pub mod layout;
pub mod plan;
pub mod shelf;
pub mod tables;
pub mod units;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use shelf::Shelf;

use crate::container::adts;
use crate::crash;
use crate::model::TaskId;
use crate::model::package::Order;
use crate::model::packed::{FilePlan, Packed};
use crate::vault::Vault;
use layout::{Layout, Placed};
use shelf::Loader;
use tables::From;

/// As `nice` has it.
const NICE: i32 = 10;
/// While a live recording is in trouble, a segment waits so long for its turn.
const YIELD: Duration = Duration::from_secs(1);
/// Works that may wait for a thread.
const QUEUE: usize = 64;
/// Files whose tables are kept.
const OPEN: usize = 3;
/// A plan that takes long says how far it is.
const TELL: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

/// The packing hands. Cloned freely.
#[derive(Clone)]
pub struct Packer {
    plans: SyncSender<Work>,
    reads: SyncSender<Work>,
    pressed: Arc<AtomicBool>,
    open: Arc<Mutex<Open>>,
    /// Tasks whose plans are asked for, and whether they were given up since.
    planning: Arc<Mutex<BTreeMap<TaskId, Arc<AtomicBool>>>>,
}

type Key = (TaskId, u64, u32);
/// Files whose tables are kept, those used last behind the others.
type Open = VecDeque<(Key, Arc<View>)>;

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

impl Default for Packer {
    fn default() -> Packer {
        Packer::new()
    }
}

fn stopped() -> io::Error {
    io::Error::other("the packer has stopped")
}

/// A thread of low priority that works off what it is given.
fn worker(name: &str) -> SyncSender<Work> {
    let (to, from) = sync_channel::<Work>(QUEUE);
    let spawned = std::thread::Builder::new().name(name.into()).spawn(move || {
        // of a thread, where Linux is concerned; the disk's scheduler follows it
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "packing has the priority of everything else");
        }
        while let Ok(work) = from.recv() {
            // one file that cannot be packed does not end packing; its segments stay, and the next start tries again
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
                metrics::counter!("holdfast_package_panics_total").increment(1);
                tracing::error!("packing met with something that it does not know");
            }
        }
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "there is no thread for packing");
    }
    to
}

impl Packer {
    pub fn new() -> Packer {
        Packer {
            plans: worker("package"),
            reads: worker("package-read"),
            pressed: Arc::default(),
            open: Arc::default(),
            planning: Arc::default(),
        }
    }

    /// Whether a live recording is in trouble: packing takes its time then.
    pub fn press(&self, pressed: bool) {
        self.pressed.store(pressed, Ordering::Relaxed);
    }

    /// Plans the files of a task whose recording is over. `done` is called on the packer's own thread, unless the task is
    /// given up before.
    pub fn plan(
        &self,
        task: &TaskId,
        dir: PathBuf,
        vault: Vault,
        order: Order,
        done: impl FnOnce(Packed) + Send + 'static,
    ) -> io::Result<()> {
        let (packer, of, given_up) = (self.clone(), task.clone(), Arc::<AtomicBool>::default());
        self.plans_asked().insert(task.clone(), given_up.clone());
        let work: Work = Box::new(move || {
            let packed = packer.plan_now(&of, dir, vault, &order, &given_up);
            packer.plans_asked().remove(&of);
            packed.map_or_else(|| tracing::info!(task = %of, "packing is given up"), done);
        });
        self.plans.try_send(work).map_err(|_| {
            self.plans_asked().remove(task);
            io::Error::other("too many tasks wait for packing")
        })
    }

    /// Nobody wants this task's files any more: what is planned of it is dropped, and nothing of it stays in memory.
    pub fn give_up(&self, task: &TaskId) {
        if let Some(given_up) = self.plans_asked().get(task) {
            given_up.store(true, Ordering::Relaxed);
        }
        self.views().retain(|((of, _, _), _)| of != task);
    }

    /// `None`: it was given up.
    fn plan_now(
        &self,
        task: &TaskId,
        dir: PathBuf,
        vault: Vault,
        order: &Order,
        given_up: &AtomicBool,
    ) -> Option<Packed> {
        let given_up = || given_up.load(Ordering::Relaxed);
        if given_up() {
            return None;
        }
        let shelf = Shelf { task: task.clone(), dir, vault };
        let Some(there) = plan::made(order, &shelf) else {
            tracing::warn!(%task, "the plan of a file that waits cannot be read yet: packing waits, too");
            return Some(Packed { unready: true, ..Packed::default() });
        };
        let packed = order.groups.iter().flat_map(|group| &group.lives).map(|life| life.pieces.len());
        let pieces = packed.chain(order.lists.iter().map(|list| list.pieces.len()));
        let (total, mut read, began) = (pieces.sum::<usize>(), 0, Instant::now());
        tracing::info!(%task, segments = total, files_of = order.groups.len(), "packing begins");
        let running = Running::begin();
        let mut told = began;
        let mut each = |_: &str| {
            if self.pressed.load(Ordering::Relaxed) && !given_up() {
                metrics::counter!("holdfast_package_yields_total").increment(1);
                std::thread::sleep(YIELD);
            }
            read += 1;
            metrics::counter!("holdfast_package_segments_total").increment(1);
            if told.elapsed() >= TELL {
                told = Instant::now();
                tracing::info!(%task, read, of = total, "packing goes on");
            }
        };
        let mut made = |plan: FilePlan, layout| {
            let key = (task.clone(), plan.bytes, plan.crc32);
            self.keep(key, Arc::new(View::new(plan, layout, shelf.clone())));
        };
        // the segments of one that is given up are removed, so that it comes to its end soon
        let mut packed = plan::plan(order, &there, &shelf, &mut each, &mut made);
        bundle::plan(order, &there, &shelf, &mut each, &mut packed);
        drop(running);
        if given_up() {
            self.give_up(task);
            return None;
        }
        metrics::histogram!("holdfast_package_plan_seconds").record(began.elapsed().as_secs_f64());
        for (file, why) in &packed.broken {
            tracing::error!(%task, file, why, "a segment cannot be packed");
        }
        for (file, _) in &packed.files {
            metrics::counter!("holdfast_package_files_total").increment(1);
            metrics::counter!("holdfast_package_bytes_total").increment(file.bytes);
            tracing::info!(%task, object = file.object, bytes = file.bytes, "a file is planned");
        }
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(%task, files = packed.files.len(), broken = packed.broken.len(), took_ms, "packing is planned");
        crash::point("package.planned");
        Some(packed)
    }

    /// Opens a file by the text of its plan; its tables are made again, unless they are still there. Blocks.
    pub fn open(&self, task: &TaskId, dir: PathBuf, vault: Vault, plan: &str) -> io::Result<Packaged> {
        let plan: FilePlan = serde_json::from_str(plan)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("no plan of a file: {error}")))?;
        let key = (task.clone(), plan.bytes, plan.crc32);
        if let Some(view) = self.known(&key) {
            return Ok(Packaged { packer: self.clone(), view });
        }
        let shelf = Shelf { task: task.clone(), dir, vault };
        let view = self.on_thread(move || plan::again(&plan, &shelf).map(|layout| View::new(plan, layout, shelf)))?;
        let view = Arc::new(view);
        self.keep(key, view.clone());
        Ok(Packaged { packer: self.clone(), view })
    }

    fn known(&self, key: &Key) -> Option<Arc<View>> {
        let mut open = self.views();
        let at = open.iter().position(|(there, _)| there == key)?;
        let found = open.remove(at)?;
        let view = found.1.clone();
        open.push_back(found);
        Some(view)
    }

    fn keep(&self, key: Key, view: Arc<View>) {
        let mut open = self.views();
        open.retain(|(there, _)| *there != key);
        if open.len() >= OPEN {
            open.pop_front();
        }
        open.push_back((key, view));
    }

    /// Its tables are not needed any more.
    pub fn close(&self, file: &Packaged) {
        self.views().retain(|(_, view)| !Arc::ptr_eq(view, &file.view));
    }

    fn plans_asked(&self) -> MutexGuard<'_, BTreeMap<TaskId, Arc<AtomicBool>>> {
        self.planning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn views(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_thread<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (to, from) = sync_channel(1);
        let work: Work = Box::new(move || {
            // whoever asked may have given up
            let _ = to.send(work());
        });
        self.reads.send(work).map_err(|_| stopped())?;
        from.recv().map_err(|_| stopped())?
    }
}

/// One packing in the gauge, however it ends.
struct Running;

impl Running {
    fn begin() -> Running {
        metrics::gauge!("holdfast_package_running").increment(1.0);
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        metrics::gauge!("holdfast_package_running").decrement(1.0);
    }
}

/// A packed file: its bytes, which are made while they are read.
#[derive(Clone)]
pub struct Packaged {
    packer: Packer,
    view: Arc<View>,
}

impl Packaged {
    pub fn len(&self) -> u64 {
        self.view.layout.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names the contents: of the plan.
    pub fn crc32(&self) -> u32 {
        self.view.plan.crc32
    }

    /// As `pread`: may read less than `buf`, and nothing at the end. Made on the packer's thread. Blocks.
    pub fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = self.stretch(at, buf.len() as u64)?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// A stretch of it, as far as it goes. Blocks.
    pub fn stretch(&self, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let (view, pressed) = (self.view.clone(), self.packer.pressed.clone());
        self.packer.on_thread(move || {
            if pressed.load(Ordering::Relaxed) {
                std::thread::sleep(YIELD / 10);
            }
            view.stretch(at, bytes)
        })
    }
}

/// One packed file, ready to be read from any place.
#[derive(Debug)]
pub struct View {
    plan: FilePlan,
    layout: Layout,
    hand: Mutex<Hand>,
}

#[derive(Debug)]
struct Hand {
    loader: Loader,
    /// The chunk that was made last.
    chunk: Option<usize>,
    bytes: Vec<u8>,
}

impl View {
    pub fn new(plan: FilePlan, layout: Layout, shelf: Shelf) -> View {
        let hand = Hand { loader: Loader::new(shelf), chunk: None, bytes: Vec::new() };
        View { plan, layout, hand: Mutex::new(hand) }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// `bytes` from `at` on, as far as the file goes.
    pub fn stretch(&self, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let end = at.saturating_add(bytes).min(self.layout.bytes);
        let mut out = Vec::with_capacity(usize::try_from(end.saturating_sub(at)).unwrap_or(0));
        let mut at = at;
        let head = self.layout.head.len() as u64;
        if at < head {
            let to = end.min(head);
            out.extend_from_slice(&self.layout.head[index(at)..index(to)]);
            at = to;
        }
        let mut hand = self.hand.lock().unwrap_or_else(PoisonError::into_inner);
        while at < end {
            let nth = self.layout.chunks.partition_point(|chunk| chunk.at + chunk.bytes <= at);
            let chunk = self.layout.chunks[nth];
            hand.make(nth, &chunk, &self.plan, &self.layout)?;
            let from = at - chunk.at;
            let to = (end - chunk.at).min(chunk.bytes);
            out.extend_from_slice(&hand.bytes[index(from)..index(to)]);
            at = chunk.at + to;
        }
        Ok(out)
    }
}

impl Hand {
    fn make(&mut self, nth: usize, chunk: &Placed, plan: &FilePlan, layout: &Layout) -> io::Result<()> {
        if self.chunk == Some(nth) {
            return Ok(());
        }
        self.chunk = None;
        self.bytes.clear();
        match chunk.from {
            From::Pictures { source, first } => {
                let of = &plan.sources[source as usize];
                let demuxed = self.loader.load_planned(source, &of.file, of.crc32)?;
                let units = &demuxed.units[first as usize..(first + chunk.samples) as usize];
                units.iter().for_each(|unit| demuxed.put_picture(unit, &mut self.bytes));
            }
            From::Sounds { source, first } => {
                let of = &plan.sources[source as usize];
                let demuxed = self.loader.load_planned(source, &of.file, of.crc32)?;
                let frames = &demuxed.frames[first as usize..(first + chunk.samples) as usize];
                frames.iter().for_each(|frame| self.bytes.extend_from_slice(demuxed.sound(frame, layout.adts)));
            }
            From::Silence => {
                let form = layout.forms[chunk.description as usize];
                let silence = adts::silence(form).unwrap_or_default();
                for _ in 0..chunk.samples {
                    if layout.adts {
                        self.bytes.extend_from_slice(&adts::header(form, silence.len()));
                    }
                    self.bytes.extend_from_slice(silence);
                }
            }
            From::Black => {
                if let Some((_, black)) = layout.blacks.iter().find(|(at, _)| *at == chunk.description) {
                    let length = u32::try_from(black.slice.len()).expect("a black picture is small");
                    self.bytes.extend_from_slice(&length.to_be_bytes());
                    self.bytes.extend_from_slice(&black.slice);
                }
            }
        }
        if self.bytes.len() as u64 != chunk.bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is not as long as it was planned"));
        }
        self.chunk = Some(nth);
        Ok(())
    }
}

/// Both bounds were compared with lengths in memory.
fn index(n: u64) -> usize {
    usize::try_from(n).expect("a place within what is in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::output::{Container, Limits};

    #[test]
    fn a_plan_that_is_given_up_is_not_told_and_the_next_one_is() {
        let packer = Packer::new();
        let (release, held) = sync_channel::<()>(0);
        let (tell, told) = sync_channel(4);
        let plan = |task: &'static str, first: Box<dyn FnOnce() + Send>| {
            let limits = Limits { length: Duration::from_secs(60), bytes: 1 << 20 };
            let order = Order::new(Container::Mp4, limits, Vec::new());
            let tell = tell.clone();
            let done = move |_| {
                first();
                let _ = tell.send(task);
            };
            let id = TaskId::parse(task).unwrap();
            packer.plan(&id, PathBuf::new(), Vault::default(), order, done).unwrap();
            id
        };
        plan("one", Box::new(move || held.recv().unwrap()));
        let two = plan("two", Box::new(|| {}));
        packer.give_up(&two);
        plan("three", Box::new(|| {}));
        release.send(()).unwrap();
        assert_eq!([told.recv().unwrap(), told.recv().unwrap()], ["one", "three"]);
        assert!(packer.plans_asked().keys().all(|task| *task != two), "nothing is kept of it");
    }
}
