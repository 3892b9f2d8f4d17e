//! The thread that puts files on the shelf.
//!
//! Owns: the order sync, rename, sync folder, record. Must not touch: leases.
//! Law: HOUSE §5: a file whose sync failed is lost, and is not synced again; what could not be recorded is recorded
//! later, since its file is safe.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;

use rustix::io::Errno;

use super::*;
use crate::model::segment::UNFINISHED;
use crate::store::records::{EraseEntry, SealedFile};

/// Orders done with one sync of each folder and one commit.
const GROUP: usize = 256;
/// After which what the disk or the index refused is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// After which the actor is looked at again that had no room for news.
const TELL_AGAIN: Duration = Duration::from_millis(20);

pub(super) struct Hands {
    shared: Arc<Shared>,
    /// Whose files are safe and whose record the index did not take.
    unrecorded: Vec<Safe>,
    /// Playlists that could not be written; a newer version replaces an older.
    unwritten: BTreeMap<Waiting, Playlist>,
    /// What could not be written into tasks' folders.
    undescribed: BTreeMap<TaskId, String>,
    /// Events that could not be written into tasks' folders.
    unkept: Vec<(TaskId, String)>,
    /// Plans of packed files that could not be written.
    unplanned: Vec<Package>,
    /// Tasks that need their segments no more, and still have them.
    ungone: BTreeSet<TaskId>,
    /// Tasks that are to be cleared, and destinations that are to be rid of theirs.
    uncleared: BTreeSet<TaskId>,
    unerased: Vec<EraseEntry>,
    /// Segments that could not be read (a box short of descriptors) or given their name (a full folder) yet.
    unsafe_yet: Vec<Order>,
    /// News that the actor has no room for now. It may be waiting for this thread: while it takes up its tasks it hears
    /// nothing, and hands over more files than there is room for news of.
    untold: VecDeque<(TaskId, Fate)>,
}

/// Why a segment is not safe.
enum Unsafe {
    Lost(String),
    /// Nothing is known against its bytes: it is tried again.
    Later(String),
}

impl Unsafe {
    /// A file that cannot be opened or read is lost, unless it is the box that is short of descriptors or memory.
    fn of(step: &str, error: &io::Error) -> Unsafe {
        let why = format!("{step}: {error}");
        match Errno::from_io_error(error) {
            Some(Errno::NOMEM | Errno::NFILE | Errno::MFILE) => Unsafe::Later(why),
            _ => Unsafe::Lost(why),
        }
    }
}

/// A file that is safe, and as what it was counted when it was handed over.
struct Safe {
    entry: SpoolEntry,
    counted: Pending,
}

/// What a group of orders asks for, and what has come of it so far.
#[derive(Default)]
struct Turn {
    playlists: BTreeMap<Waiting, Playlist>,
    packages: Vec<Package>,
    shapes: BTreeMap<TaskId, String>,
    /// Files that have their names; their folders are not synced yet.
    renamed: Vec<Safe>,
    /// Segments, each with its name at the destination and with what befell it.
    lost: Vec<(String, ClosedSegment, String)>,
    drains: Vec<oneshot::Sender<()>>,
}

impl Hands {
    pub(super) fn new(shared: Arc<Shared>) -> Hands {
        let (unrecorded, unwritten, undescribed, unkept, unplanned, unsafe_yet, untold) = Default::default();
        let (ungone, uncleared, unerased) = Default::default();
        Hands {
            shared,
            unrecorded,
            unwritten,
            undescribed,
            unkept,
            unplanned,
            ungone,
            uncleared,
            unerased,
            unsafe_yet,
            untold,
        }
    }

    /// The life of the thread: until the shelf's last holder is gone, or the index has stopped.
    pub(super) fn serve(mut self, from: &Receiver<Order>) {
        loop {
            let owed = !self.unrecorded.is_empty()
                || !self.unwritten.is_empty()
                || !self.undescribed.is_empty()
                || !self.unkept.is_empty()
                || !self.unplanned.is_empty()
                || !self.ungone.is_empty()
                || !self.uncleared.is_empty()
                || !self.unerased.is_empty()
                || !self.unsafe_yet.is_empty();
            self.tell_on();
            let wait = match self.untold.is_empty() {
                false => Some(TELL_AGAIN),
                true => owed.then_some(AGAIN),
            };
            let received = wait.map_or_else(|| from.recv().map_err(Into::into), |wait| from.recv_timeout(wait));
            let first = match received {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) if !self.untold.is_empty() => continue,
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let orders: Vec<Order> = first.into_iter().chain(from.try_iter().take(GROUP - 1)).collect();
            if self.turn(orders).is_err() {
                tracing::error!("the index has stopped, and the spool with it");
                return;
            }
        }
    }

    fn turn(&mut self, orders: Vec<Order>) -> Result<(), Error> {
        let mut turn = Turn {
            playlists: std::mem::take(&mut self.unwritten),
            shapes: std::mem::take(&mut self.undescribed),
            packages: std::mem::take(&mut self.unplanned),
            ..Turn::default()
        };
        for order in std::mem::take(&mut self.unsafe_yet).into_iter().chain(orders) {
            self.take_up(order, &mut turn);
        }
        self.write_playlists(&mut turn);
        self.write_plans(&mut turn);
        let described = self.describe(std::mem::take(&mut turn.shapes));
        let unsynced = self.sync_folders(&turn.renamed, &described);
        self.shelve(&mut turn, &unsynced);
        for (object, segment, why) in turn.lost {
            self.lose(object, segment, why)?;
        }
        self.record()?;
        self.keep_events();
        self.let_go(&unsynced)?;
        self.clear();
        self.erase();
        for reply in turn.drains {
            // who asked may have given up waiting
            let _ = reply.send(());
        }
        Ok(())
    }

    /// Makes segments safe at once; all else is sorted.
    fn take_up(&mut self, order: Order, turn: &mut Turn) {
        match order {
            Order::Segment { segment, .. } if self.shared.is_withheld(&segment.run.task) => {
                self.shared.state().dequeue(&segment.run.task, of_segment(&segment));
            }
            Order::Segment { segment, object, object_key } => {
                match self.make_safe(&segment, object.clone(), object_key.clone()) {
                    Ok(entry) => turn.renamed.push(Safe { entry, counted: of_segment(&segment) }),
                    Err(Unsafe::Lost(why)) => turn.lost.push((object, segment, why)),
                    Err(Unsafe::Later(why)) => self.try_again(segment, object, object_key, &why),
                }
            }
            Order::Playlist(playlist) if self.shared.is_withheld(&playlist.task) => self.uncount(&playlist),
            Order::Playlist(playlist) => {
                let waiting = Waiting { task: playlist.task.clone(), object: playlist.object.clone() };
                match turn.playlists.get(&waiting) {
                    Some(older) if older.version < playlist.version => {
                        self.uncount(older);
                        turn.playlists.insert(waiting, playlist);
                    }
                    Some(_) => self.uncount(&playlist),
                    None => drop(turn.playlists.insert(waiting, playlist)),
                }
            }
            Order::Package(package) if self.shared.is_withheld(&package.task) => {
                self.shared.state().dequeue(&package.task, package.counted());
            }
            Order::Package(package) => turn.packages.push(package),
            Order::LetGo(task) => drop(self.ungone.insert(task)),
            Order::Task { task, shape } => drop(turn.shapes.insert(task, shape)),
            Order::Event { task, event } => self.unkept.push((task, event)),
            Order::Clear { task } => drop(self.uncleared.insert(task)),
            Order::Erase(entry) => self.unerased.push(entry),
            Order::Drain(reply) => turn.drains.push(reply),
        }
    }

    fn write_playlists(&mut self, turn: &mut Turn) {
        for (waiting, playlist) in std::mem::take(&mut turn.playlists) {
            match self.write(&playlist) {
                Ok(Some(entry)) => turn.renamed.push(Safe { entry, counted: of_playlist(&playlist) }),
                Ok(None) => self.uncount(&playlist),
                Err(error) => {
                    tracing::error!(task = %playlist.task, playlist = playlist.object, %error, "a playlist cannot be written");
                    self.met("playlist", &error);
                    metrics::counter!("holdfast_spool_errors_total").increment(1);
                    self.unwritten.insert(waiting, playlist);
                }
            }
        }
    }

    fn write_plans(&mut self, turn: &mut Turn) {
        for package in std::mem::take(&mut turn.packages) {
            match self.shared.write_plan(&package) {
                Ok(entry) => turn.renamed.push(Safe { entry, counted: package.counted() }),
                Err(error) => {
                    tracing::error!(task = %package.task, object = package.object, %error, "a plan cannot be written");
                    self.met("plan", &error);
                    metrics::counter!("holdfast_spool_errors_total").increment(1);
                    self.unplanned.push(package);
                }
            }
        }
    }

    /// Syncs the folder of each file that has its name, and of each task that was described, once. Those that failed.
    fn sync_folders(&self, renamed: &[Safe], described: &BTreeSet<TaskId>) -> BTreeMap<TaskId, Unsafe> {
        let folders: BTreeSet<&TaskId> = renamed.iter().map(|safe| &safe.entry.task).chain(described).collect();
        let failed = folders.into_iter().filter_map(|task| {
            let failed = self.sync_folder(task).err()?;
            Some((task.clone(), failed))
        });
        let failed = failed.collect();
        if renamed.iter().any(|safe| matches!(safe.entry.kind, SpoolKind::Segment(_))) {
            crash::point("shelf.folder-synced");
        }
        failed
    }

    /// Files whose folder is synced are to be recorded; the others are lost, or handed over again.
    fn shelve(&mut self, turn: &mut Turn, unsynced: &BTreeMap<TaskId, Unsafe>) {
        for Safe { entry, counted } in std::mem::take(&mut turn.renamed) {
            let Some(failed) = unsynced.get(&entry.task) else {
                self.unrecorded.push(Safe { entry, counted });
                continue;
            };
            let (Unsafe::Lost(why) | Unsafe::Later(why)) = failed;
            match entry.kind {
                SpoolKind::Segment(segment) => {
                    let segment = ClosedSegment { bytes: counted.bytes, ..segment };
                    match failed {
                        Unsafe::Lost(why) => turn.lost.push((entry.object, segment, why.clone())),
                        Unsafe::Later(_) => self.try_again(segment, entry.object, entry.object_key, why),
                    }
                }
                SpoolKind::Playlist { version } => {
                    tracing::error!(task = %entry.task, playlist = entry.object, why, "a playlist's folder does not sync");
                    metrics::counter!("holdfast_spool_errors_total").increment(1);
                    self.shared.state().dequeue(&entry.task, counted);
                    self.tell(entry.task, Fate::PlaylistLost { object: entry.object, version });
                }
                SpoolKind::Package => {
                    self.shared.state().dequeue(&entry.task, counted);
                    self.tell(entry.task, Fate::PackageLost { object: entry.object, why: why.clone() });
                }
            }
        }
    }

    /// What is on the disk is handed over again with the next turn.
    fn try_again(&mut self, segment: ClosedSegment, object: String, object_key: String, why: &str) {
        tracing::error!(task = %segment.run.task, object, why, "a segment cannot be made safe yet");
        self.unsafe_yet.push(Order::Segment { segment, object, object_key });
    }

    fn sync_folder(&self, task: &TaskId) -> Result<(), Unsafe> {
        // nobody removes it meanwhile; if it is gone already, its task was forgotten, which says nothing of the disk
        let _describing = self.shared.describing.lock().expect("nothing panics while it holds this lock");
        let dir = File::open(self.shared.task_dir(task)).map_err(|error| {
            self.met("open a folder", &error);
            Unsafe::of("open the folder", &error)
        })?;
        self.shared.hardware.sync(&dir).map_err(|error| {
            self.shared.disk.report(disk::fault_of_sync(&error), &format!("sync of a folder: {error}"));
            Unsafe::Lost(format!("sync of the folder: {error}"))
        })
    }

    /// What is packed goes, once its folder says that the task is over: a folder that says less would want it again.
    fn let_go(&mut self, unsynced: &BTreeMap<TaskId, Unsafe>) -> Result<(), Error> {
        for task in std::mem::take(&mut self.ungone) {
            if self.undescribed.contains_key(&task) || unsynced.contains_key(&task) {
                self.ungone.insert(task);
                continue;
            }
            match self.shared.let_go(&task) {
                Ok(()) => {}
                Err(Error::Stopped) => return Err(Error::Stopped),
                Err(error) => {
                    tracing::error!(%task, %error, "segments that are packed stay on the disk");
                    metrics::counter!("holdfast_spool_errors_total").increment(1);
                    if let Error::Io { source, .. } = &error {
                        self.met("let go", source);
                    }
                    self.ungone.insert(task);
                }
            }
        }
        Ok(())
    }

    /// What could not be kept is tried again, in another journal. A folder that is gone is a task's that is over.
    fn keep_events(&mut self) {
        for (task, event) in std::mem::take(&mut self.unkept) {
            // nothing comes into a folder while it is removed
            let describing = self.shared.describing.lock().expect("nothing panics while it holds this lock");
            let noted = self.shared.note_event(&task, &event);
            drop(describing);
            match noted {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(%task, %error, "an event cannot be kept in its task's folder yet");
                    self.met("event", &error);
                    metrics::counter!("holdfast_spool_errors_total").increment(1);
                    self.unkept.push((task, event));
                }
            }
        }
    }

    /// Writes what tasks' folders say of them; answers with the folders that are to be synced. A folder that is gone is
    /// a task's that is over.
    fn describe(&mut self, shapes: BTreeMap<TaskId, String>) -> BTreeSet<TaskId> {
        let mut described = BTreeSet::new();
        for (task, shape) in shapes {
            let _describing = self.shared.describing.lock().expect("nothing panics while it holds this lock");
            if let Err(error) = self.shared.keep_destination(&task) {
                tracing::warn!(%task, %error, "the task's destination is not in its folder yet");
            }
            match folder::replace(&self.shared.task_dir(&task), folder::TASK, shape.as_bytes(), &*self.shared.hardware)
            {
                Ok(()) => drop(described.insert(task)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(%task, %error, "what the folder says of its task cannot be written");
                    metrics::counter!("holdfast_spool_errors_total").increment(1);
                    self.undescribed.insert(task, shape);
                }
            }
        }
        described
    }

    /// Steps 1 and 2 of a segment: its bytes are on the disk, and it has its final name.
    fn make_safe(&self, segment: &ClosedSegment, object: String, object_key: String) -> Result<SpoolEntry, Unsafe> {
        let lost = |step: &'static str| {
            move |error: io::Error| {
                self.met(step, &error);
                Unsafe::of(step, &error)
            }
        };
        let dir = self.shared.task_dir(&segment.run.task);
        let name = LocalName::of(segment).to_string();
        let (part, last) = (dir.join(&segment.part_name), dir.join(&name));
        // a hand-over that is repeated after a crash finds it renamed already
        let from = if part.exists() { &part } else { &last };
        let file = File::open(from).map_err(lost("open"))?;
        let vault = &self.shared.vault;
        let mut input = open_plain(vault, &segment.run.task, from).map_err(lost("open"))?;
        let (bytes, crc32) = checksum(&mut input).map_err(lost("read"))?;
        // its writer could not close it: a full disk. What was handed over is there, and has its size in the record
        if input.fault().is_some()
            && let Err(error) = input.mend(from, bytes)
        {
            tracing::warn!(path = %from.display(), %error, "a sealed segment stays without its end");
        }
        // one that has its name already has got it after its sync
        if from != &last {
            self.shared.hardware.sync(&file).map_err(|error| {
                self.shared.disk.report(disk::fault_of_sync(&error), &format!("sync: {error}"));
                Unsafe::Lost(format!("sync: {error}"))
            })?;
        }
        let sealed = sealed(&input, &file).map_err(lost("read"))?;
        crash::point("shelf.synced");
        if from != &last {
            fs::rename(from, &last).map_err(|error| {
                self.met("rename", &error);
                match disk::fault_of(&error) {
                    Some(Fault::Full) => Unsafe::Later(error.to_string()),
                    _ => Unsafe::of("rename", &error),
                }
            })?;
        }
        crash::point("shelf.renamed");
        Ok(SpoolEntry {
            task: segment.run.task.clone(),
            object,
            object_key,
            file: name,
            bytes,
            crc32,
            order: self.shared.state().next_order(),
            kind: SpoolKind::Segment(ClosedSegment { bytes, ..segment.clone() }),
            state: SpoolState::Spooled,
            sealed,
        })
    }

    /// Steps 1 and 2 of a playlist. `None`: a newer version is there already.
    fn write(&self, playlist: &Playlist) -> io::Result<Option<SpoolEntry>> {
        let Playlist { task, object, object_key, version, text } = playlist;
        let waiting = Waiting { task: task.clone(), object: object.clone() };
        if self.shared.state().playlists.get(&waiting).is_some_and(|there| there >= version) {
            return Ok(None);
        }
        let file_name = records::versioned(object, *version);
        let last = self.shared.task_dir(task).join(&file_name);
        let unfinished = self.shared.task_dir(task).join(format!("{file_name}{UNFINISHED}"));
        match fs::remove_file(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut output = self.shared.vault.create(&unfinished, &identity(task, &file_name))?;
        output.write(text.as_bytes())?;
        output.finish()?;
        crash::point("playlist.written");
        self.shared.hardware.sync(output.file())?;
        crash::point("playlist.synced");
        let bytes = output.file().metadata()?.len();
        let sealed = self.shared.vault.current().map(|key| SealedFile { bytes, key: key.to_string() });
        fs::rename(&unfinished, &last)?;
        crash::point("playlist.renamed");
        Ok(Some(SpoolEntry {
            task: task.clone(),
            object: object.clone(),
            object_key: object_key.clone(),
            file: file_name,
            bytes: text.len() as u64,
            crc32: crc32fast::hash(text.as_bytes()),
            order: self.shared.state().next_order(),
            kind: SpoolKind::Playlist { version: *version },
            state: SpoolState::Spooled,
            sealed,
        }))
    }

    /// Removes what there is of tasks that are discarded. What the disk or the index refuses is tried again.
    fn clear(&mut self) {
        for task in std::mem::take(&mut self.uncleared) {
            for (_, playlist) in self.unwritten.extract_if(.., |waiting, _| waiting.task == task) {
                self.shared.state().dequeue(&task, of_playlist(&playlist));
            }
            for package in self.unplanned.extract_if(.., |package| package.task == task) {
                self.shared.state().dequeue(&task, package.counted());
            }
            for Safe { entry, counted } in self.unrecorded.extract_if(.., |safe| safe.entry.task == task) {
                self.shared.state().dequeue(&entry.task, counted);
            }
            match self.shared.clear(&task) {
                Ok((files, bytes)) => {
                    tracing::info!(%task, files, bytes, "what lay on the shelf of a discarded task is removed");
                    self.tell(task, Fate::Cleared { files, bytes });
                }
                Err(error) => {
                    tracing::error!(%task, %error, "what lies on the shelf of a discarded task cannot be removed yet");
                    metrics::counter!("holdfast_spool_errors_total").increment(1);
                    self.uncleared.insert(task);
                }
            }
        }
    }

    fn erase(&mut self) {
        for entry in std::mem::take(&mut self.unerased) {
            if let Err(error) = self.shared.note_erase(&entry) {
                tracing::error!(task = %entry.task, %error, "that a destination is to be rid of a task cannot be noted yet");
                self.unerased.push(entry);
            }
        }
    }

    /// Step 3: the records, in one commit; then the news.
    fn record(&mut self) -> Result<(), Error> {
        if self.unrecorded.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        let (mut replaced, mut lists) = (Vec::new(), false);
        for Safe { entry, .. } in &self.unrecorded {
            batch = batch.put(entry.key(), entry.to_bytes());
            lists |= matches!(entry.kind, SpoolKind::Playlist { .. });
            if let SpoolKind::Playlist { .. } = entry.kind
                && let Some(older) = self.shared.waiting_version(&entry.task, &entry.object)
            {
                let file = records::versioned(&entry.object, older);
                batch = batch.delete(records::spool_key(&entry.task, &file));
                replaced.push(self.shared.task_dir(&entry.task).join(file));
            }
        }
        match self.shared.store.commit_blocking(batch) {
            Ok(()) => {}
            Err(store::Error::Stopped) => return Err(Error::Stopped),
            Err(error) => {
                if let Some(fault) = error.fault() {
                    self.shared.disk.report(fault, &error.to_string());
                }
                tracing::error!(%error, files = self.unrecorded.len(), "files on the shelf cannot be recorded yet");
                return Ok(());
            }
        }
        if self.unrecorded.iter().any(|safe| matches!(safe.entry.kind, SpoolKind::Segment(_))) {
            crash::point("shelf.recorded");
        }
        for Safe { entry, counted } in std::mem::take(&mut self.unrecorded) {
            self.shared.put(&entry);
            self.shared.state().dequeue(&entry.task, counted);
            let SpoolKind::Segment(segment) = entry.kind else { continue };
            metrics::counter!("holdfast_segments_spooled_total").increment(1);
            metrics::counter!("holdfast_spooled_bytes_total").increment(entry.bytes);
            let LaneRun { task, lane, run } = &segment.run;
            tracing::debug!(%task, ?lane, run, segment = segment.index, bytes = entry.bytes, "spooled");
            self.tell(entry.task, Fate::Spooled(segment));
            crash::point("shelf.told");
        }
        if lists {
            // the files of older versions, if some wait, are still there
            crash::point("playlist.replaced");
        }
        for path in replaced {
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(path = %path.display(), %error, "an older playlist is gone already");
            }
        }
        Ok(())
    }

    fn lose(&mut self, object: String, segment: ClosedSegment, why: String) -> Result<(), Error> {
        let LaneRun { task, lane, run } = segment.run.clone();
        tracing::error!(%task, ?lane, run, segment = segment.index, object, why, "a segment is lost");
        metrics::counter!("holdfast_segments_lost_total").increment(1);
        for name in [segment.part_name.clone(), LocalName::of(&segment).to_string()] {
            set_aside(&self.shared.task_dir(&task).join(name));
        }
        self.shared.note_lost(&task, &segment, &object);
        let entry = SpoolEntry {
            task: task.clone(),
            object,
            object_key: String::new(),
            file: String::new(),
            bytes: segment.bytes,
            crc32: 0,
            order: self.shared.state().next_order(),
            kind: SpoolKind::Segment(segment.clone()),
            state: SpoolState::Lost { why: why.clone() },
            sealed: None,
        };
        match self.shared.store.commit_blocking(Batch::new().put(entry.key(), entry.to_bytes())) {
            Ok(()) => {}
            Err(store::Error::Stopped) => return Err(Error::Stopped),
            Err(error) => tracing::error!(%task, %error, "a loss cannot be recorded"),
        }
        self.shared.state().dequeue(&task, of_segment(&segment));
        self.tell(task, Fate::Lost { segment, why });
        Ok(())
    }

    fn met(&self, step: &str, error: &io::Error) {
        if let Some(fault) = disk::fault_of(error) {
            self.shared.disk.report(fault, &format!("{step}: {error}"));
        }
    }

    fn uncount(&self, playlist: &Playlist) {
        self.shared.state().dequeue(&playlist.task, of_playlist(playlist));
    }

    fn tell(&mut self, task: TaskId, fate: Fate) {
        self.untold.push_back((task, fate));
        self.tell_on();
    }

    /// In their order, as long as there is room.
    fn tell_on(&mut self) {
        while let Some(news) = self.untold.pop_front() {
            match self.shared.fates.try_send(news) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(news)) => return self.untold.push_front(news),
                // nobody listens any more only while the process ends; recovery tells it again
                Err(mpsc::error::TrySendError::Closed(_)) => return self.untold.clear(),
            }
        }
    }
}

impl Shared {
    fn waiting_version(&self, task: &TaskId, object: &str) -> Option<u64> {
        self.state().playlists.get(&Waiting { task: task.clone(), object: object.to_owned() }).copied()
    }
}

/// How a file that was read to its end lies on the shelf.
fn sealed(input: &Input, file: &File) -> io::Result<Option<SealedFile>> {
    let Some(key) = input.key() else { return Ok(None) };
    Ok(Some(SealedFile { bytes: file.metadata()?.len(), key: key.to_string() }))
}

/// Size and CRC-32 of what a file holds.
fn checksum(file: &mut impl Read) -> io::Result<(u64, u32)> {
    let (mut bytes, mut crc) = (0, crc32fast::Hasher::new());
    let mut chunk = vec![0; 256 * 1024];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok((bytes, crc.finalize())),
            n => {
                bytes += n as u64;
                crc.update(&chunk[..n]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_that_is_short_of_descriptors_has_not_lost_a_segment() {
        let of = |errno: Errno| Unsafe::of("open", &errno.into());
        for errno in [Errno::NOMEM, Errno::NFILE, Errno::MFILE] {
            assert!(matches!(of(errno), Unsafe::Later(why) if why.starts_with("open: ")), "{errno}");
        }
        // not there, or the disk cannot read it
        for errno in [Errno::NOENT, Errno::IO] {
            assert!(matches!(of(errno), Unsafe::Lost(why) if why.starts_with("open: ")), "{errno}");
        }
    }
}
