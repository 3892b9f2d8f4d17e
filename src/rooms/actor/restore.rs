//! The first steps of the actor: tasks out of the index, set against what their folders say.
//!
//! Owns: what is believed of the two, and in which order the shelf's word is told. Must not touch: what becomes of a
//! task (it decides).
//! Law: the index is believed where it is not behind the folder; what it lacks is made again and committed before
//! anything is told to a task. Doors open only after what was taken up is on the disk.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::model::event::Event;
use crate::model::output::Hold;
use crate::model::packed::PackedFile;
use crate::model::segment::{ClosedSegment, oldest_first};
use crate::model::task::{Found, Shape};
use crate::model::vod::Which;
use crate::spool::Shelved;

use super::*;

/// A task that has heard the shelf's word on its files, and not yet that there is no more.
struct TakenIn {
    id: TaskId,
    /// (run, index) of what lies on the shelf.
    here: BTreeSet<(u32, u32)>,
    /// Of it, what the index did not know.
    adopted: Vec<ClosedSegment>,
    /// Records that the index lacked.
    repaired: usize,
}

/// What the index says of a task: its record, byte by byte, and its segments.
struct Indexed {
    saved: Vec<u8>,
    pieces: Vec<Piece>,
}

/// All that the index says of tasks. It may be read while the shelf is looked through, which changes none of it.
pub struct Remembered {
    /// Each task, and its record as it stands there.
    tasks: BTreeMap<TaskId, (RecordingTask, Vec<u8>)>,
    pieces: BTreeMap<TaskId, Vec<Piece>>,
    /// Events in the outbox. What tasks' folders hold may be behind it.
    untaken: BTreeMap<TaskId, Vec<Event>>,
    /// Some task's record cannot be read.
    torn: bool,
}

impl Remembered {
    pub async fn of(store: &Store) -> Result<Remembered, Error> {
        let (tasks, torn) = tasks(store).await?;
        Ok(Remembered { tasks, torn, pieces: pieces(store).await?, untaken: untaken(store).await? })
    }
}

/// Files without a record that are handed to the shelf before it is waited for.
const ADOPTED_AT_ONCE: usize = 1024;

impl Actor {
    /// Takes up the tasks of the index and of the shelf. `recovered` is what the spool found on the disk.
    pub async fn restore(parts: Parts, recovered: Recovered) -> Result<Actor, Error> {
        let remembered = Remembered::of(&parts.store).await?;
        Actor::restore_of(parts, recovered, remembered).await
    }

    /// The same with what was read of the index meanwhile.
    pub async fn restore_of(parts: Parts, mut recovered: Recovered, remembered: Remembered) -> Result<Actor, Error> {
        let mut actor = Actor::new(parts);
        let Remembered { tasks: mut indexed, mut pieces, mut untaken, torn } = remembered;
        if torn {
            actor.parts.health.degraded("index", "a task's record cannot be read");
        }
        let mut ids: BTreeSet<TaskId> = indexed.keys().cloned().collect();
        ids.extend(recovered.tasks.iter().filter(|(_, found)| found.shape.is_some()).map(|(id, _)| id.clone()));
        let (mut taken_in, mut forgotten) = (Vec::new(), 0);
        for id in ids {
            let mut found = recovered.tasks.remove(&id).unwrap_or_default();
            let shape = actor.shape_of(&id, &found);
            let (indexed, saved) = indexed.remove(&id).unzip();
            let (mut task, known) = match (indexed, shape) {
                (indexed, Some(shape)) => RecordingTask::reconcile_index(indexed, shape),
                (Some(_), None) if !actor.parts.store.was_whole() && found.is_of_nobody() => {
                    warn!(task = %id, "the index has gone back to a task that was over: forgotten once more");
                    actor.forget(&id).await;
                    forgotten += 1;
                    continue;
                }
                (Some(task), None) => (task, true),
                (None, None) => {
                    recovered.tasks.insert(id, found);
                    continue;
                }
            };
            if !found.destination {
                task.describe_anew();
            }
            found.shape = None;
            let untaken = untaken.remove(&id).unwrap_or_default();
            let indexed = Indexed { saved: saved.unwrap_or_default(), pieces: pieces.remove(&id).unwrap_or_default() };
            taken_in.push(actor.take_in(task, known, found, indexed, untaken).await?);
        }
        // what has waited longest goes first, whoever's it is
        let adopted = taken_in.iter_mut().flat_map(|taken| std::mem::take(&mut taken.adopted)).collect();
        for (count, segment) in oldest_first(adopted).into_iter().enumerate() {
            actor.queue.push_back((segment.run.task.clone(), Input::SegmentClosed(segment)));
            // the shelf takes so many at once
            if count % ADOPTED_AT_ONCE == ADOPTED_AT_ONCE - 1 {
                actor.drain().await;
                actor.parts.spool.drained().await.map_err(|e| Error::Spool(e.to_string()))?;
            }
        }
        actor.drain().await;
        let repaired = taken_in.iter().map(|taken| taken.repaired).sum::<usize>() + forgotten;
        for TakenIn { id, here, .. } in taken_in {
            actor.settle(&id, &here).await;
        }
        if repaired > 0 {
            warn!(repaired, "the index had lost records; they were made again of what the shelf holds");
            metrics::counter!("holdfast_index_repaired_total").increment(repaired as u64);
            actor.parts.health.degraded("index", "it had lost records, which were made again of what the shelf holds");
        }
        actor.drop_old_erasures().await?;
        actor.leave_unknown(recovered).await;
        actor.parts.spool.drained().await.map_err(|e| Error::Spool(e.to_string()))?;
        Ok(actor)
    }

    fn new(parts: Parts) -> Actor {
        let epoch_wall = parts.media_clock.epoch_wall();
        let automatic = automatic::Automatic::new(parts.config.now().automatic.template());
        Actor {
            recorded: recorded::Told::default(),
            parts,
            rooms: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tasks: BTreeMap::new(),
            queue: VecDeque::new(),
            unsaved: BTreeMap::new(),
            unshelved: Vec::new(),
            undescribed: BTreeMap::new(),
            ended: BTreeSet::new(),
            look: (Instant::now(), LOOK_FIRST),
            troubles: BTreeMap::new(),
            epoch_wall,
            shown: BTreeMap::new(),
            stopping: false,
            automatic,
        }
    }

    fn shape_of(&self, id: &TaskId, found: &Shelved) -> Option<Shape> {
        match Shape::parse(found.shape.as_deref()?) {
            Ok(shape) if shape.id == *id => Some(shape),
            Ok(shape) => {
                error!(task = %id, other = %shape.id, "the folder of a task speaks of another one: not believed");
                None
            }
            Err(e) => {
                error!(task = %id, error = %e, "what the folder says of its task cannot be read");
                self.parts.health.degraded("spool", "a task's folder cannot be read");
                None
            }
        }
    }

    /// Takes in one task, and tells it what the shelf knows of its files. `known`: the index has it as its folder does,
    /// or newer. `untaken`: its events in the outbox, which its folder has to keep.
    async fn take_in(
        &mut self,
        mut task: RecordingTask,
        known: bool,
        mut shelved: Shelved,
        indexed: Indexed,
        untaken: Vec<Event>,
    ) -> Result<TakenIn, Error> {
        let id = task.id.clone();
        let Indexed { saved, pieces } = indexed;
        let kept = kept_events(&shelved.noted_events);
        hear_packed(&mut task, &mut shelved);
        untaken.iter().for_each(|event| task.recall(event));
        let found = found(&mut shelved);
        self.note_losses(&id, &pieces, &found, &shelved).await;
        let (pieces, lacking) = task.mend(pieces, &found);
        let mut effects = Vec::new();
        if !known || !self.parts.store.was_whole() {
            effects.extend(task.tell_again(&kept));
        }
        effects.extend(task.tell_losses(&lacking, &kept, self.now()));
        let repaired = lacking.len() + usize::from(!known);
        if repaired > 0 {
            warn!(task = %id, known, segments = lacking.len(), "the index lacked records of the task");
        }
        effects.extend(lacking.into_iter().map(Effect::SavePiece));
        let (task, restored) = task.restore(pieces, self.policy(), self.now());
        effects.extend(restored);
        info!(task = %id, phase = ?task.phase, takeover = task.takeover, "task taken in");
        self.run_again(task, saved).await?;
        self.perform(&id, effects).await;
        crash::point("takeover.restored");
        // the process died before they were kept
        for event in untaken.into_iter().filter(|event| !event.body.is_state() && !kept.contains(event)) {
            self.shelve(&id, Effect::Announce(event));
        }

        // The shelf's own word on each file comes first; what neither it nor recovery knows is lost.
        let place = |segment: &ClosedSegment| (segment.run.run, segment.index);
        let mut here: BTreeSet<(u32, u32)> = shelved.spooled.iter().map(|(_, segment)| place(segment)).collect();
        here.extend(std::mem::take(&mut shelved.packed_segments));
        here.extend(found.adopted.iter().map(place));
        self.queue.extend(words(shelved).into_iter().map(|fate| (id.clone(), Input::Fate(fate))));
        self.drain().await;
        crash::point("takeover.told");
        Ok(TakenIn { id, here, adopted: found.adopted, repaired })
    }

    /// A disk that fails loses segments and takes no note of it. What the index knows of that is noted now: without it the
    /// next life would say that all has arrived.
    async fn note_losses(&self, id: &TaskId, pieces: &[Piece], found: &Found, shelved: &Shelved) {
        // of segments that are in a file that is up, the plan of that says what became of them
        if !shelved.up.is_empty() {
            return;
        }
        let noted: BTreeSet<(u32, u32)> = found.lost.iter().map(|name| (name.run, name.index)).collect();
        let unknown = |piece: &&Piece| piece.fate == PieceFate::Lost && !noted.contains(&(piece.run, piece.index));
        let losses: Vec<(String, String)> =
            pieces.iter().filter(unknown).map(|piece| (piece.local_file(), piece.object.clone())).collect();
        if !losses.is_empty() {
            self.parts.spool.note_losses(id, losses).await;
        }
    }

    /// It is among those that run, with its keys and its folder. `saved`: its record as it stands in the index.
    async fn run_again(&mut self, task: RecordingTask, saved: Vec<u8>) -> Result<(), Error> {
        let keys = records::load_keys(&self.parts.store, &self.parts.box_key, &task.id).await.unwrap_or_else(|e| {
            error!(task = %task.id, error = %e, "the task's keys cannot be had; its uploads wait");
            self.parts.health.degraded("upload", "a task's keys cannot be had");
            None
        });
        // recovery has found most folders, and made them durable
        let mut dir = self.parts.spool.task_dir(&task.id);
        let hold = task.spec.output.hold();
        if !dir.is_dir() || hold != Hold::Nothing {
            let begun = self.parts.spool.begin_holding(&task.id, hold).await;
            dir = begun.map_err(|e| Error::Spool(e.to_string()))?;
        }
        let base = self.parts.media_clock.now();
        let keys = keys.map(|keys| keys.storage);
        self.tasks.insert(task.id.clone(), Running { task, keys, dir, base, from: base, saved });
        Ok(())
    }

    /// The shelf has said everything: what becomes of the task is decided.
    async fn settle(&mut self, id: &TaskId, here: &BTreeSet<(u32, u32)>) {
        let now = self.now();
        let Some(running) = self.tasks.get_mut(id) else { return };
        let effects = running.task.settle_unfound(here, now);
        self.perform(id, effects).await;
        crash::point("takeover.settled");
        self.reconcile_task(id).await;
        self.drain().await;
        self.save(id).await;
        crash::point("takeover.saved");
    }

    /// A task is forgotten once it is erased: an index that has gone back further than its folder wants it again, and
    /// has nobody left who knows where.
    async fn drop_old_erasures(&mut self) -> Result<(), Error> {
        let wanted = self.parts.store.scan(records::ERASE).await.map_err(failed)?;
        let known = |key: &str| {
            let task = key.strip_prefix(records::ERASE).and_then(|id| TaskId::parse(id).ok());
            task.is_some_and(|task| self.tasks.contains_key(&task))
        };
        let old: BTreeMap<_, _> =
            wanted.into_iter().filter(|(key, _)| !known(key)).map(|(key, _)| (key, None)).collect();
        if !old.is_empty() {
            warn!(tasks = old.len(), "the index has gone back to what was erased before: passed over");
            self.commit(old).await;
        }
        Ok(())
    }

    async fn leave_unknown(&self, recovered: Recovered) {
        for (task, found) in recovered.tasks {
            let files = found.adopted.len() + found.spooled.len() + found.lost.len();
            if files == 0 && found.shape.is_none() {
                // The process died between forgetting a finished task and emptying its folder.
                if let Err(e) = self.parts.spool.forget_task(&task).await {
                    warn!(%task, error = %e, "something of a finished task stays on the shelf");
                }
                continue;
            }
            warn!(%task, files, "the shelf holds files of a task that nobody knows; they are left alone");
            self.parts.health.degraded("spool", "files of an unknown task are on the shelf");
        }
    }
}

/// The events that a folder keeps; one that was told again is kept again.
fn kept_events(noted: &[String]) -> Vec<Event> {
    let kept = noted.iter().filter_map(|text| serde_json::from_str::<Event>(text).ok());
    kept.map(|event| (event.seq, event)).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// Tells the task of its packed files. What is up outlasts the index: by its plan, and of VOD by what was noted of it.
fn hear_packed(task: &mut RecordingTask, shelved: &mut Shelved) {
    let files = shelved.packed_files();
    let noted = std::mem::take(&mut shelved.noted_committed);
    let media_of = |file: &PackedFile| {
        let which = Which { object: file.object.clone(), bytes: file.bytes, crc32: file.crc32 };
        noted.iter().rfind(|noted| noted.which == which).map(|noted| noted.media.clone())
    };
    let Shelved { up, packed, committed, .. } = shelved;
    let to_vod = task.spec.vod().is_some();
    let unknown = |file: &PackedFile| to_vod && up.contains(file) && media_of(file).is_none();
    task.hear_packed(files.into_iter().filter(|file| !unknown(file)).collect());
    match to_vod {
        true => committed.extend(up.iter().filter_map(|file| Some((file.object.clone(), media_of(file)?)))),
        false => packed.extend(up.iter().map(|file| file.object.clone())),
    }
    task.hear_committed(noted);
}

/// What the shelf has and knows of a task's segments and lists.
fn found(shelved: &mut Shelved) -> Found {
    let gone = shelved.lost.iter().map(|(object, segment, _)| (object.clone(), segment.clone()));
    Found {
        spooled: shelved.spooled.iter().cloned().chain(gone).collect(),
        uploaded: std::mem::take(&mut shelved.noted_uploaded),
        lost: std::mem::take(&mut shelved.noted_lost),
        adopted: std::mem::take(&mut shelved.adopted),
        playlists: std::mem::take(&mut shelved.playlists),
    }
}

/// What the shelf says of each file, in the order in which it is told.
fn words(shelved: Shelved) -> Vec<Fate> {
    let Shelved { spooled, uploaded, packages, packed, committed, lost, .. } = shelved;
    let mut words: Vec<Fate> = spooled.into_iter().map(|(_, segment)| Fate::Spooled(segment)).collect();
    words.extend(uploaded.into_iter().map(|object| Fate::SegmentUploaded { object }));
    words.extend(packages.into_iter().map(|object| Fate::PackageWaits { object }));
    words.extend(packed.into_iter().map(|object| Fate::PackageUploaded { object }));
    words.extend(committed.into_iter().map(|(object, media)| Fate::VodCommitted { object, media }));
    words.extend(lost.into_iter().map(|(_, segment, why)| Fate::Lost { segment, why }));
    words
}

fn failed(e: crate::store::Error) -> Error {
    Error::Store(e.to_string())
}

async fn tasks(store: &Store) -> Result<(BTreeMap<TaskId, (RecordingTask, Vec<u8>)>, bool), Error> {
    let (mut tasks, mut torn) = (BTreeMap::new(), false);
    for (key, bytes) in store.scan(records::TASKS).await.map_err(failed)? {
        match serde_json::from_slice::<RecordingTask>(&bytes) {
            Ok(task) => drop(tasks.insert(task.id.clone(), (task, bytes))),
            Err(e) => {
                error!(%key, error = %e, "a task's record cannot be read; its folder may tell more");
                torn = true;
            }
        }
    }
    Ok((tasks, torn))
}

/// The segments of every task, all at once: with a full shelf that takes less than task by task.
async fn pieces(store: &Store) -> Result<BTreeMap<TaskId, Vec<Piece>>, Error> {
    let records = store.scan(records::PIECES).await.map_err(failed)?;
    let read = |(key, bytes): &(String, Vec<u8>)| {
        let task = key.strip_prefix(records::PIECES)?.split('/').next()?;
        match (TaskId::parse(task), serde_json::from_slice(bytes)) {
            (Ok(task), Ok(piece)) => Some((task, piece)),
            (_, Err(e)) => {
                error!(%key, error = %e, "a segment's record cannot be read");
                None
            }
            (Err(_), Ok(_)) => None,
        }
    };
    let read: Vec<(TaskId, Piece)> = records.par_iter().filter_map(read).collect();
    let mut pieces: BTreeMap<TaskId, Vec<Piece>> = BTreeMap::new();
    for (task, piece) in read {
        pieces.entry(task).or_default().push(piece);
    }
    Ok(pieces)
}

async fn untaken(store: &Store) -> Result<BTreeMap<TaskId, Vec<Event>>, Error> {
    let mut untaken = BTreeMap::<TaskId, Vec<Event>>::new();
    for (key, bytes) in store.scan(records::OUTBOX).await.map_err(failed)? {
        // an unreadable one is told by whoever delivers it
        let Ok(OutboxEntry { event }) = OutboxEntry::from_bytes(&key, &bytes) else { continue };
        untaken.entry(event.task.clone()).or_default().push(event);
    }
    Ok(untaken)
}
