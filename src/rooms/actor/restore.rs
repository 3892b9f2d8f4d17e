//! The first steps of the actor: tasks out of the index, set against what their folders say.
//!
//! Owns: what is believed of the two, and in which order the shelf's word is told. Must not touch: what becomes of a
//! task (it decides).
//! Law: the index is believed where it is not behind the folder; what it lacks is made again and committed before
//! anything is told to a task. Doors open only after what was taken up is on the disk.

use crate::model::task::{Found, Shape};
use crate::spool::Shelved;

use super::*;

impl Actor {
    /// Takes up the tasks of the index and of the shelf. `recovered` is what the spool found on the disk.
    pub async fn restore(parts: Parts, mut recovered: Recovered) -> Result<Actor, Error> {
        let mut actor = Actor::new(parts);
        let mut indexed = actor.indexed().await?;
        let mut ids: BTreeSet<TaskId> = indexed.keys().cloned().collect();
        ids.extend(recovered.tasks.iter().filter(|(_, found)| found.shape.is_some()).map(|(id, _)| id.clone()));
        let mut repaired = 0;
        for id in ids {
            let mut found = recovered.tasks.remove(&id).unwrap_or_default();
            let shape = actor.shape_of(&id, &found);
            let (task, known) = match (indexed.remove(&id), shape) {
                (indexed, Some(shape)) => RecordingTask::reconcile_index(indexed, shape),
                (Some(task), None) => (task, true),
                (None, None) => {
                    recovered.tasks.insert(id, found);
                    continue;
                }
            };
            found.shape = None;
            repaired += actor.take_up(task, known, found).await?;
        }
        if repaired > 0 {
            warn!(repaired, "the index had lost records; they were made again of what the shelf holds");
            metrics::counter!("holdfast_index_repaired_total").increment(repaired as u64);
            actor.parts.health.degraded("index", "it had lost records, which were made again of what the shelf holds");
        }
        actor.leave_unknown(recovered).await;
        actor.parts.spool.drained().await.map_err(|e| Error::Spool(e.to_string()))?;
        Ok(actor)
    }

    fn new(parts: Parts) -> Actor {
        let epoch_wall = parts.media_clock.epoch_wall();
        let automatic = automatic::Automatic::new(parts.config.automatic.template());
        Actor {
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
            stopping: false,
            automatic,
        }
    }

    async fn indexed(&self) -> Result<BTreeMap<TaskId, RecordingTask>, Error> {
        let mut indexed = BTreeMap::new();
        for (key, bytes) in self.parts.store.scan(records::TASKS).await.map_err(failed)? {
            match serde_json::from_slice::<RecordingTask>(&bytes) {
                Ok(task) => drop(indexed.insert(task.id.clone(), task)),
                Err(e) => {
                    error!(%key, error = %e, "a task's record cannot be read; its folder may tell more");
                    self.parts.health.degraded("index", "a task's record cannot be read");
                }
            }
        }
        Ok(indexed)
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

    /// Takes up one task. `known`: the index has it as its folder does, or newer. Answers how many records the index
    /// lacked.
    async fn take_up(&mut self, mut task: RecordingTask, known: bool, found: Shelved) -> Result<usize, Error> {
        let id = task.id.clone();
        let store = self.parts.store.clone();
        let mut pieces: Vec<Piece> = Vec::new();
        for (key, bytes) in store.scan(records::segments_prefix(&id)).await.map_err(failed)? {
            match serde_json::from_slice(&bytes) {
                Ok(piece) => pieces.push(piece),
                Err(e) => error!(%key, error = %e, "a segment's record cannot be read"),
            }
        }
        let Shelved { adopted, spooled, uploaded, lost, playlists, noted_uploaded, noted_lost, .. } = found;
        let gone = lost.iter().map(|(object, segment, _)| (object.clone(), segment.clone()));
        let found = Found {
            uploaded: noted_uploaded,
            lost: noted_lost,
            spooled: spooled.iter().cloned().chain(gone).collect(),
            adopted,
            playlists,
        };
        let (pieces, lacking) = task.mend(pieces, &found);
        let mut effects = Vec::new();
        if !known || !store.was_whole() {
            effects.extend(task.tell_again());
        }
        let repaired = lacking.len() + usize::from(!known);
        if repaired > 0 {
            warn!(task = %id, known, segments = lacking.len(), "the index lacked records of the task");
        }
        effects.extend(lacking.into_iter().map(Effect::SavePiece));
        let keys = records::load_keys(&store, &self.parts.box_key, &id).await.unwrap_or_else(|e| {
            error!(task = %id, error = %e, "the task's keys cannot be had; its uploads wait");
            self.parts.health.degraded("upload", "a task's keys cannot be had");
            None
        });

        let (task, restored) = task.restore(pieces, self.policy(), self.now());
        effects.extend(restored);
        info!(task = %id, phase = ?task.phase, takeover = task.takeover, "task taken in");
        let dir = self.parts.spool.begin_task(&id).await.map_err(|e| Error::Spool(e.to_string()))?;
        let base = self.parts.media_clock.now();
        self.tasks.insert(id.clone(), Running { task, keys: keys.map(|keys| keys.storage), dir, base, from: base });
        self.perform(&id, effects).await;

        // The shelf's own word on each file comes first; what neither it nor recovery knows is lost.
        let mut here: BTreeSet<(u32, u32)> = BTreeSet::new();
        let mut tell = |input: Input| self.queue.push_back((id.clone(), input));
        for (_, segment) in spooled {
            here.insert((segment.run.run, segment.index));
            tell(Input::Fate(Fate::Spooled(segment)));
        }
        for object in uploaded {
            tell(Input::Fate(Fate::SegmentUploaded { object }));
        }
        for (_, segment, why) in lost {
            tell(Input::Fate(Fate::Lost { segment, why }));
        }
        for segment in found.adopted {
            here.insert((segment.run.run, segment.index));
            tell(Input::SegmentClosed(segment));
        }
        self.drain().await;
        let now = self.now();
        let Some(running) = self.tasks.get_mut(&id) else { return Ok(repaired) };
        let effects = running.task.settle_unfound(&here, now);
        self.perform(&id, effects).await;
        self.reconcile_task(&id).await;
        self.drain().await;
        self.save(&id).await;
        Ok(repaired)
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

fn failed(e: crate::store::Error) -> Error {
    Error::Store(e.to_string())
}
