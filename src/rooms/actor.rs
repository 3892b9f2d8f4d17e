//! The actor's loop: everything that happens becomes one input, and what follows from it is done in order.
//!
//! Owns: the live rooms and tasks. Must not touch: decisions (they are the task's), frames, the network.
//! Law: the saves and announcements of one step are one commit, made before anything else of that step is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Ask, Error, TaskStatus, TaskView};
use crate::config::{Config, OnStop};
use crate::health::Reporter;
use crate::media::stills::Stills;
use crate::media::{LaneEnd, LaneFeed, LaneOrder, MediaClock, MediaEngine, MediaNews};
use crate::model::board::Board;
use crate::model::event::LeaveCode;
use crate::model::mix::{ImageFailure, ImageWant, MixSpec};
use crate::model::recording::{Fate, RecordingSpec, StorageKeys};
use crate::model::room::{Feed, Room, Track};
use crate::model::segment::object_key;
use crate::model::task::{Effect, Input, Phase, Piece, PieceFate, Policy, RecordingTask};
use crate::model::{LaneKind, LaneRun, MediaTime, RoomKey, SdkAppId, Secret, SessionId, TaskId, Timestamp, TrackKind};
use crate::spool::{Recovered, Spool};
use crate::store::records::{self, OutboxEntry};
use crate::store::seal::BoxKey;
use crate::store::{Batch, Store};

/// After the last task has left, so long for its files to arrive before the daemon goes.
const LINGER: Duration = Duration::from_secs(5);

/// What the actor is built from.
pub struct Parts {
    pub config: Arc<Config>,
    pub store: Store,
    pub spool: Arc<Spool>,
    pub engine: Arc<dyn MediaEngine>,
    pub media_clock: MediaClock,
    pub box_key: Arc<BoxKey>,
    /// What mixed recordings are admitted by; `None`: all are.
    pub board: Option<Arc<Board>>,
    /// Told whenever an event was committed.
    pub outbox: Arc<Notify>,
    /// Images that layouts show, for whoever fetches them.
    pub images: mpsc::Sender<ImageWant>,
    /// Where they appear; those that no task shows any more are let go.
    pub stills: Stills,
    pub health: Reporter,
}

/// A task and what the actor keeps beside it.
struct Running {
    task: RecordingTask,
    keys: Option<StorageKeys>,
    dir: PathBuf,
    /// Files' timelines count from here: shared by the task's lanes.
    base: MediaTime,
}

fn to_bytes(record: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have text keys and no floats")
}

/// What sound alone takes is not counted.
fn mixed_picture(spec: &RecordingSpec) -> Option<&MixSpec> {
    spec.mix.as_ref().filter(|_| spec.streams.wants(TrackKind::Video))
}

pub struct Actor {
    parts: Parts,
    rooms: BTreeMap<RoomKey, Room>,
    sessions: BTreeMap<SessionId, RoomKey>,
    tasks: BTreeMap<TaskId, Running>,
    /// What follows from effects themselves (a lane that could not start), taken in turn.
    queue: VecDeque<(TaskId, Input)>,
    /// Writes that the index refused; they go with the next commit.
    unsaved: BTreeMap<String, Option<Vec<u8>>>,
    /// Files that the shelf could not take when they were handed to it.
    unshelved: Vec<(TaskId, Effect)>,
    /// What lanes that run have said of a part.
    troubles: BTreeMap<&'static str, BTreeMap<LaneRun, String>>,
    stopping: bool,
}

impl Actor {
    /// Takes up the tasks of the index. `recovered` is what the spool found on the disk.
    pub async fn restore(parts: Parts, mut recovered: Recovered) -> Result<Actor, Error> {
        let store = parts.store.clone();
        let mut actor = Actor {
            parts,
            rooms: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tasks: BTreeMap::new(),
            queue: VecDeque::new(),
            unsaved: BTreeMap::new(),
            unshelved: Vec::new(),
            troubles: BTreeMap::new(),
            stopping: false,
        };
        let failed = |e: crate::store::Error| Error::Store(e.to_string());
        for (key, bytes) in store.scan(records::TASKS).await.map_err(failed)? {
            let task: RecordingTask = match serde_json::from_slice(&bytes) {
                Ok(task) => task,
                Err(e) => {
                    error!(%key, error = %e, "a task's record cannot be read; its files stay on the shelf");
                    actor.parts.health.degraded("index", "a task's record cannot be read");
                    continue;
                }
            };
            let id = task.id.clone();
            let mut pieces: Vec<Piece> = Vec::new();
            for (key, bytes) in store.scan(records::segments_prefix(&id)).await.map_err(failed)? {
                match serde_json::from_slice(&bytes) {
                    Ok(piece) => pieces.push(piece),
                    Err(e) => error!(%key, error = %e, "a segment's record cannot be read"),
                }
            }
            let keys = records::load_keys(&store, &actor.parts.box_key, &id).await.map_err(failed)?;
            let now = actor.now();
            let (task, effects) = task.restore(pieces, actor.policy(), now);
            info!(task = %id, phase = ?task.phase, takeover = task.takeover, "task taken up again");
            let dir = actor.parts.spool.begin_task(&id).await.map_err(|e| Error::Spool(e.to_string()))?;
            let base = actor.parts.media_clock.now();
            actor.tasks.insert(id.clone(), Running { task, keys: keys.map(|keys| keys.storage), dir, base });
            actor.perform(&id, effects).await;

            // The shelf's own word on each file comes first; what neither it nor recovery knows is lost.
            let found = recovered.tasks.remove(&id).unwrap_or_default();
            let mut known: BTreeSet<(u32, u32)> = BTreeSet::new();
            let mut tell = |input: Input| actor.queue.push_back((id.clone(), input));
            for segment in found.adopted {
                known.insert((segment.run.run, segment.index));
                tell(Input::SegmentClosed(segment));
            }
            for (_, segment) in found.spooled {
                known.insert((segment.run.run, segment.index));
                tell(Input::Fate(Fate::Spooled(segment)));
            }
            for object in found.uploaded {
                tell(Input::Fate(Fate::SegmentUploaded { object }));
            }
            for (_, segment, why) in found.lost {
                tell(Input::Fate(Fate::Lost { segment, why }));
            }
            actor.drain().await;
            let now = actor.now();
            let Some(running) = actor.tasks.get_mut(&id) else { continue };
            let effects = running.task.settle_unfound(&known, now);
            actor.perform(&id, effects).await;
            actor.reconcile_task(&id).await;
            actor.drain().await;
        }
        for (task, found) in recovered.tasks {
            let files = found.adopted.len() + found.spooled.len() + found.lost.len();
            if files == 0 {
                // The process died between forgetting a finished task and emptying its folder.
                if let Err(e) = actor.parts.spool.forget_task(&task).await {
                    warn!(%task, error = %e, "something of a finished task stays on the shelf");
                }
                continue;
            }
            warn!(%task, files, "the shelf holds files of a task that the index does not know; they are left alone");
            actor.parts.health.degraded("spool", "files of an unknown task are on the shelf");
        }
        Ok(actor)
    }

    /// Runs until `cancel`, then ends what is running within its bounds and returns.
    pub async fn run(
        mut self,
        mut asks: mpsc::Receiver<Ask>,
        mut news: mpsc::Receiver<MediaNews>,
        mut fates: mpsc::Receiver<(TaskId, Fate)>,
        mut image_failures: mpsc::Receiver<ImageFailure>,
        cancel: CancellationToken,
    ) {
        let mut linger = None;
        loop {
            self.drain().await;
            self.tell_gauges();
            if self.stopping && self.all_left() {
                // What is at the destination in a moment is told now rather than after the next start.
                let until = *linger.get_or_insert_with(|| self.now().plus(LINGER));
                if self.tasks.is_empty() || self.parts.config.recording.on_stop == OnStop::Resume || self.now() >= until
                {
                    break;
                }
            }
            let wake = self.next_wake();
            tokio::select! {
                ask = asks.recv(), if !self.stopping => match ask {
                    Some(ask) => self.ask(ask).await,
                    None => self.begin_stop().await,
                },
                Some(told) = news.recv() => self.news(told).await,
                Some((task, fate)) = fates.recv() => {
                    self.tell_health(&fate);
                    self.queue.push_back((task, Input::Fate(fate)));
                }
                Some(ImageFailure { task, url, why }) = image_failures.recv() => {
                    warn!(%task, why, "an image of the layout is not to be had");
                    self.queue.push_back((task, Input::ImageFailed { url }));
                }
                () = tokio::time::sleep(wake) => self.tick().await,
                () = cancel.cancelled(), if !self.stopping => {
                    asks.close();
                    self.begin_stop().await;
                }
            }
        }
        info!("rooms closed");
    }

    /// No lane runs and no task is on its way out.
    fn all_left(&self) -> bool {
        let left = |r: &Running| !matches!(r.task.phase, Phase::Leaving { .. }) && r.task.lanes_running() == 0;
        self.tasks.values().all(left)
    }

    fn now(&self) -> Timestamp {
        self.parts.media_clock.wall(self.parts.media_clock.now())
    }

    fn policy(&self) -> Policy {
        let config = &self.parts.config;
        Policy {
            segment_length: Duration::from_secs(config.recording.segment_seconds),
            streams: config.limits.streams_per_task,
            grace: Duration::from_secs(config.upload.grace_seconds),
            ..Policy::default()
        }
    }

    fn next_wake(&self) -> Duration {
        let now = self.now();
        let due = self.tasks.values().filter_map(|running| running.task.deadline()).min();
        let wait = due.map_or(Duration::from_secs(3600), |due| due.since(now));
        // A little late rather than early: an early tick finds nothing due and would spin.
        let wait = wait + Duration::from_millis(1);
        let calm = self.unsaved.is_empty() && self.unshelved.is_empty() && !self.stopping;
        if calm { wait } else { wait.min(Duration::from_secs(1)) }
    }

    async fn tick(&mut self) {
        let ids: Vec<TaskId> = self.tasks.keys().cloned().collect();
        self.queue.extend(ids.into_iter().map(|id| (id, Input::Tick)));
        if !self.unsaved.is_empty() {
            self.commit(BTreeMap::new()).await;
        }
        for (id, effect) in std::mem::take(&mut self.unshelved) {
            self.shelve(&id, effect);
        }
    }

    async fn drain(&mut self) {
        while let Some((id, input)) = self.queue.pop_front() {
            let now = self.now();
            let Some(running) = self.tasks.get_mut(&id) else { continue };
            let effects = running.task.apply(input, now);
            self.perform(&id, effects).await;
        }
    }

    async fn begin_stop(&mut self) {
        self.stopping = true;
        let code = match self.parts.config.recording.on_stop {
            OnStop::End => Some(LeaveCode::RemovedByServer),
            OnStop::Resume => None,
        };
        info!(tasks = self.tasks.len(), "stopping: recordings end");
        let ids: Vec<TaskId> = self.tasks.keys().cloned().collect();
        for id in ids {
            match code {
                Some(code) => self.queue.push_back((id, Input::Stop(code))),
                // Lanes end because their publishers are closed; the task waits in the index for the next start.
                None => self.reconcile_with(&id, &Room::default()).await,
            }
        }
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.parts.engine.close_session(session);
        }
    }

    async fn ask(&mut self, ask: Ask) {
        // A caller who went away does not undo what was done: the answers below go to nobody then.
        match ask {
            Ask::Create { spec, keys, user_sig, reply } => {
                let _ = reply.send(self.create(*spec, keys, user_sig).await);
            }
            Ask::Describe { app, task, reply } => {
                let _ = reply.send(self.describe(app, &task));
            }
            Ask::Modify { app, task, subscription, layout, reply } => {
                let checked = self.modifiable(app, &task, layout.is_some());
                if checked.is_ok() {
                    self.queue.push_back((task.clone(), Input::Modify { subscription, layout }));
                    self.drain().await;
                    self.save(&task).await;
                    self.reconcile_task(&task).await;
                    self.let_images_go();
                }
                let _ = reply.send(checked);
            }
            Ask::Delete { app, task, reply } => {
                let checked = self.callable(app, &task).map(|_| ());
                if checked.is_ok() {
                    self.queue.push_back((task.clone(), Input::Stop(LeaveCode::Stopped)));
                    self.drain().await;
                    self.save(&task).await;
                }
                let _ = reply.send(checked);
            }
            Ask::RemoveUsers { room, users, reply } => {
                let mut found = false;
                for user in &users {
                    if let Some(there) = self.rooms.get(&room) {
                        for session in there.sessions_of(user) {
                            found = true;
                            self.parts.engine.close_session(session);
                        }
                    }
                    let recorders = self.tasks_in(&room, |task| &task.spec.recorder == user);
                    found |= !recorders.is_empty();
                    self.queue.extend(recorders.into_iter().map(|id| (id, Input::Stop(LeaveCode::Removed))));
                }
                let exists = found || self.rooms.contains_key(&room) || !self.tasks_in(&room, |_| true).is_empty();
                let _ = reply.send(if exists { Ok(()) } else { Err(Error::RoomUnknown) });
            }
            Ask::Dismiss { room, reply } => {
                let recorders = self.tasks_in(&room, |_| true);
                let there = self.rooms.get(&room);
                let exists = there.is_some() || !recorders.is_empty();
                for presence in there.map(Room::presences).unwrap_or_default() {
                    self.parts.engine.close_session(presence.session);
                }
                self.queue.extend(recorders.into_iter().map(|id| (id, Input::Stop(LeaveCode::Dismissed))));
                let _ = reply.send(if exists { Ok(()) } else { Err(Error::RoomUnknown) });
            }
        }
    }

    fn tasks_in(&self, room: &RoomKey, also: impl Fn(&RecordingTask) -> bool) -> Vec<TaskId> {
        let active = |t: &RecordingTask| t.phase == Phase::Active && t.spec.room_key() == *room && also(t);
        self.tasks.values().filter(|r| active(&r.task)).map(|r| r.task.id.clone()).collect()
    }

    /// The task, if it belongs to `app`, has not left, and still takes calls.
    fn callable(&self, app: SdkAppId, id: &TaskId) -> Result<&RecordingTask, Error> {
        let running = self.tasks.get(id).filter(|running| running.task.spec.app == app).ok_or(Error::TaskUnknown)?;
        let task = &running.task;
        if matches!(task.phase, Phase::Draining { .. } | Phase::Done) {
            return Err(Error::TaskUnknown);
        }
        if self.now().since(task.created) > task.spec.call_expiry {
            return Err(Error::CallsExpired);
        }
        Ok(task)
    }

    fn modifiable(&self, app: SdkAppId, id: &TaskId, with_layout: bool) -> Result<(), Error> {
        let task = self.callable(app, id)?;
        match task.phase {
            Phase::Active if with_layout && task.spec.mix.is_none() => Err(Error::NotMixed),
            Phase::Active => Ok(()),
            Phase::Leaving { .. } | Phase::Draining { .. } | Phase::Done => Err(Error::TaskUnknown),
        }
    }

    fn describe(&self, app: SdkAppId, id: &TaskId) -> Result<TaskView, Error> {
        let task = self.callable(app, id)?;
        let status = match task.phase {
            Phase::Active if task.has_media() => TaskStatus::InProgress,
            Phase::Active => TaskStatus::Idle,
            Phase::Leaving { .. } | Phase::Draining { .. } | Phase::Done => TaskStatus::Exited,
        };
        Ok(TaskView { task: id.clone(), status, files: task.files() })
    }

    /// Whether the board has room for `spec`'s mixed picture beside those that run and stay.
    fn admit(&self, spec: &RecordingSpec, replaced: &[TaskId]) -> Result<(), Error> {
        let (Some(board), Some(new)) = (&self.parts.board, mixed_picture(spec)) else { return Ok(()) };
        let stays = |r: &&Running| {
            matches!(r.task.phase, Phase::Active | Phase::Leaving { .. }) && !replaced.contains(&r.task.id)
        };
        let running: Vec<&MixSpec> =
            self.tasks.values().filter(stays).filter_map(|r| mixed_picture(&r.task.spec)).collect();
        let publishers = self.parts.config.limits.mix_publishers;
        board.admits(&running, new, publishers).map_err(Error::BoardFull)
    }

    async fn create(&mut self, spec: RecordingSpec, keys: StorageKeys, user_sig: Secret) -> Result<TaskId, Error> {
        let room = spec.room_key();
        let mut replaced = Vec::new();
        for id in self.tasks_in(&room, |task| task.spec.recorder == spec.recorder) {
            let Some(same) = self.tasks.get(&id) else { continue };
            if same.task.spec == spec && same.keys.as_ref().is_none_or(|k| *k == keys) {
                info!(task = %id, %room, "the same Create again: the task that runs is the answer");
                return Ok(id);
            }
            replaced.push(id);
        }
        if self.rooms.get(&room).is_some_and(|there| there.holds(&spec.recorder)) {
            return Err(Error::RecorderInUse);
        }
        let recording = |r: &&Running| matches!(r.task.phase, Phase::Active | Phase::Leaving { .. });
        let running = self.tasks.values().filter(recording).count() - replaced.len();
        let limit = self.parts.config.limits.tasks;
        if running >= limit {
            return Err(Error::TooManyTasks { running, limit });
        }
        self.admit(&spec, &replaced)?;
        let id = TaskId::from_random(uuid::Uuid::new_v4().as_bytes());
        let dir = self.parts.spool.begin_task(&id).await.map_err(|e| Error::Spool(e.to_string()))?;
        let (task, effects) = RecordingTask::create(id.clone(), spec, self.policy(), self.now());
        let batch = Batch::new().put(records::task_key(&id), to_bytes(&task));
        let destination = &task.spec.destination;
        let batch = records::put_destination(batch, &id, destination, &keys, &user_sig, &self.parts.box_key);
        self.parts.store.commit(batch).await.map_err(|e| Error::Store(e.to_string()))?;
        info!(task = %id, %room, recorder = %task.spec.recorder, "task created");
        let base = self.parts.media_clock.now();
        self.tasks.insert(id.clone(), Running { task, keys: Some(keys), dir, base });
        self.perform(&id, effects).await;
        self.queue.extend(replaced.into_iter().map(|old| (old, Input::Stop(LeaveCode::SameUserEntered))));
        self.reconcile_task(&id).await;
        Ok(id)
    }

    async fn news(&mut self, news: MediaNews) {
        match news {
            MediaNews::Entered { session, room, user, media, offers } => {
                info!(%room, %user, %media, session = session.0, "participant entered");
                self.sessions.insert(session, room.clone());
                if self.stopping {
                    self.parts.engine.close_session(session);
                    return;
                }
                let clash = self.tasks_in(&room, |task| task.spec.recorder == user);
                self.queue.extend(clash.into_iter().map(|id| (id, Input::Stop(LeaveCode::SameUserEntered))));
                let there = self.rooms.entry(room.clone()).or_default();
                if let Some(older) = there.enter(session, user, media, offers) {
                    info!(%room, session = older.0, "the same user entered again: the newer session stays");
                    self.parts.engine.close_session(older);
                }
                self.reconcile_room(&room).await;
            }
            MediaNews::TrackUp { session, track, kind, codec } => {
                let Some(room) = self.sessions.get(&session).cloned() else { return };
                info!(%room, session = session.0, track = track.0, ?kind, ?codec, "track up");
                if let Some(there) = self.rooms.get_mut(&room) {
                    there.track_up(session, kind, Track { id: track, codec });
                }
                self.reconcile_room(&room).await;
            }
            MediaNews::TrackDown { session, track } => {
                let Some(room) = self.sessions.get(&session).cloned() else { return };
                if let Some(there) = self.rooms.get_mut(&room) {
                    there.track_down(session, track);
                }
                self.reconcile_room(&room).await;
            }
            MediaNews::Left { session, reason } => {
                let Some(room) = self.sessions.remove(&session) else { return };
                info!(%room, session = session.0, ?reason, "participant left");
                if let Some(there) = self.rooms.get_mut(&room) {
                    there.leave(session);
                    if there.is_empty() {
                        self.rooms.remove(&room);
                    }
                }
                self.reconcile_room(&room).await;
            }
            MediaNews::FirstMedia { run, at } => {
                info!(task = %run.task, lane = ?run.lane, run = run.run, begin_ms = at.ms(), "first media");
                self.queue.push_back((run.task.clone(), Input::FirstMedia { run, at }));
            }
            MediaNews::SegmentClosed(segment) => {
                self.queue.push_back((segment.run.task.clone(), Input::SegmentClosed(segment)));
            }
            MediaNews::SegmentLost { segment, why } => {
                metrics::counter!("holdfast_segments_lost_total").increment(1);
                let fate = Fate::Lost { segment, why };
                self.tell_health(&fate);
                if let Fate::Lost { segment, why } = fate {
                    self.queue.push_back((segment.run.task.clone(), Input::SegmentLost { segment, why }));
                }
            }
            MediaNews::Trouble { run, part, why } => {
                match &why {
                    Some(why) => warn!(task = %run.task, lane = ?run.lane, run = run.run, part, why, "lane in trouble"),
                    None => info!(task = %run.task, lane = ?run.lane, run = run.run, part, "lane is well again"),
                }
                let of_part = self.troubles.entry(part).or_default();
                match why {
                    Some(why) => drop(of_part.insert(run, why)),
                    None => drop(of_part.remove(&run)),
                }
                self.tell_troubles();
            }
            MediaNews::LaneEnded { run, end } => {
                self.troubles.values_mut().for_each(|of_part| drop(of_part.remove(&run)));
                self.tell_troubles();
                let failed = match &end {
                    LaneEnd::Finished | LaneEnd::TrackGone => false,
                    LaneEnd::Killed => true,
                    LaneEnd::Failed(why) => {
                        warn!(task = %run.task, lane = ?run.lane, run = run.run, why, "lane failed");
                        true
                    }
                };
                self.queue.push_back((run.task.clone(), Input::LaneEnded { run, failed }));
            }
        }
    }

    async fn reconcile_room(&mut self, room: &RoomKey) {
        for id in self.tasks_in(room, |_| true) {
            self.reconcile_task(&id).await;
        }
    }

    async fn reconcile_task(&mut self, id: &TaskId) {
        let Some(running) = self.tasks.get(id) else { return };
        let room = self.rooms.get(&running.task.spec.room_key()).cloned().unwrap_or_default();
        self.reconcile_with(id, &room).await;
    }

    async fn reconcile_with(&mut self, id: &TaskId, room: &Room) {
        let now = self.now();
        let Some(running) = self.tasks.get_mut(id) else { return };
        let effects = running.task.reconcile(room, now);
        self.perform(id, effects).await;
    }

    async fn save(&mut self, id: &TaskId) {
        let Some(running) = self.tasks.get(id) else { return };
        let writes = BTreeMap::from([(records::task_key(id), Some(to_bytes(&running.task)))]);
        self.commit(writes).await;
    }

    /// One commit of `writes` and of what was refused before. A refusal is kept for the next one: the files on the
    /// disk are the truth, and recording goes on.
    async fn commit(&mut self, writes: BTreeMap<String, Option<Vec<u8>>>) {
        self.unsaved.extend(writes);
        if self.unsaved.is_empty() {
            return;
        }
        let mut batch = Batch::new();
        for (key, value) in &self.unsaved {
            batch = match value {
                Some(bytes) => batch.put(key.clone(), bytes.clone()),
                None => batch.delete(key.clone()),
            };
        }
        match self.parts.store.commit(batch).await {
            Ok(()) => {
                self.unsaved.clear();
                self.parts.health.ok("store");
            }
            Err(e) => {
                error!(error = %e, waiting = self.unsaved.len(), "the index refuses writes; recording goes on");
                self.parts.health.degraded("store", "the index refuses writes");
            }
        }
    }

    async fn perform(&mut self, id: &TaskId, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        let Some(running) = self.tasks.get(id) else { return };
        let mut writes = BTreeMap::new();
        let mut announced = false;
        for effect in &effects {
            match effect {
                Effect::SavePiece(piece) => {
                    writes.insert(records::segment_key(id, &piece.object), Some(to_bytes(piece)));
                    // The shelf's entry goes in the commit that notes its fate, so that no crash hides the news.
                    if matches!(piece.fate, PieceFate::Uploaded | PieceFate::Lost) {
                        writes.insert(records::spool_key(id, &piece.object), None);
                    }
                }
                Effect::Announce(event) => {
                    info!(task = %id, event = event.body.event_type(), seq = event.seq, "event");
                    metrics::counter!("holdfast_events_total", "type" => event.body.event_type().to_string())
                        .increment(1);
                    let key = records::outbox_key(event.app, &event.task, event.seq);
                    writes.insert(key, Some(OutboxEntry { event: event.clone() }.to_bytes()));
                    announced = true;
                }
                _ => {}
            }
        }
        writes.insert(records::task_key(id), Some(to_bytes(&running.task)));
        self.commit(writes).await;
        if announced {
            self.parts.outbox.notify_one();
        }
        for effect in effects {
            self.act(id, effect).await;
        }
    }

    async fn act(&mut self, id: &TaskId, effect: Effect) {
        let Some(running) = self.tasks.get(id) else { return };
        let spec = &running.task.spec;
        match effect {
            Effect::SavePiece(_) | Effect::Announce(_) => {}
            Effect::StartLane { run, feed } => {
                let feed = match (feed, &spec.mix) {
                    (Feed::Mixed(scene), Some(mix)) => {
                        LaneFeed::Mixed { scene, video: mix.video.clone(), audio: mix.audio.clone() }
                    }
                    (Feed::Single { audio, video }, _) => LaneFeed::Single { audio, video },
                    (Feed::Mixed(_), None) => unreachable!("only a mixed task has a mixed lane"),
                };
                let recording = &self.parts.config.recording;
                let order = LaneOrder {
                    run: run.clone(),
                    feed,
                    dir: running.dir.clone(),
                    vault: self.parts.spool.vault().clone(),
                    segment_length: Duration::from_secs(recording.segment_seconds),
                    gap_limit: Duration::from_secs(recording.gap_seconds),
                    sync_interval: Duration::from_secs(recording.sync_seconds),
                    fill_black: spec.fill_black && run.lane.kind != LaneKind::Audio,
                    base: running.base,
                };
                if let Err(e) = self.parts.engine.start_lane(order) {
                    warn!(task = %id, lane = ?run.lane, run = run.run, error = %e, "lane did not start");
                    self.queue.push_back((id.clone(), Input::LaneEnded { run, failed: true }));
                }
            }
            Effect::ChangeScene { run, scene } => self.parts.engine.change_scene(&run, *scene),
            Effect::FetchImage { url } => self.fetch_image(id, url),
            Effect::FinishLane(run) => self.parts.engine.finish_lane(&run),
            Effect::KillLane(run) => {
                warn!(task = %id, lane = ?run.lane, run = run.run, "lane did not finish in time: killed");
                self.parts.engine.kill_lane(&run);
            }
            Effect::Wedged(run) => {
                error!(task = %id, lane = ?run.lane, run = run.run, "lane did not even die: given up");
                metrics::counter!("holdfast_lanes_wedged_total").increment(1);
                self.parts.health.degraded("media", "a pipeline is wedged");
            }
            Effect::Spool { .. } | Effect::PublishPlaylist { .. } => self.shelve(id, effect),
            Effect::Forget => self.forget(id).await,
        }
    }

    /// Asks for an image. When more wait than the fetcher takes, this one has failed: it is announced, not forgotten.
    fn fetch_image(&mut self, id: &TaskId, url: String) {
        if let Err(e) = self.parts.images.try_send(ImageWant { task: id.clone(), url }) {
            let (mpsc::error::TrySendError::Full(want) | mpsc::error::TrySendError::Closed(want)) = e;
            let url = want.url;
            warn!(task = %id, "too many images are waiting to be fetched");
            self.queue.push_back((id.clone(), Input::ImageFailed { url }));
        }
    }

    /// Hands a file to the shelf. One that it cannot take now is handed over again: it is on the disk meanwhile.
    fn shelve(&mut self, id: &TaskId, effect: Effect) {
        let Some(running) = self.tasks.get(id) else { return };
        let key = |object: &str| object_key(&running.task.spec.destination.prefix, id, object);
        let spool = &self.parts.spool;
        let shelved = match effect.clone() {
            Effect::Spool { segment, object } => {
                let key = key(&object);
                spool.accept_segment(segment, object, key)
            }
            Effect::PublishPlaylist { object, version, text } => {
                let key = key(&object);
                spool.accept_playlist(id, object, key, version, text)
            }
            _ => return,
        };
        if let Err(e) = shelved {
            error!(task = %id, error = %e, "the shelf takes nothing now; it is asked again");
            self.parts.health.degraded("shelf", "it takes nothing");
            self.unshelved.push((id.clone(), effect));
        } else if self.unshelved.is_empty() {
            // A part of its own: a segment that was lost stays told when the next one is taken.
            self.parts.health.ok("shelf");
        }
    }

    /// The task is done: its records go, its events stay until they are delivered.
    async fn forget(&mut self, id: &TaskId) {
        info!(task = %id, "task done");
        let mut writes = BTreeMap::from([(records::task_key(id), None)]);
        match self.parts.store.scan(records::segments_prefix(id)).await {
            Ok(pieces) => writes.extend(pieces.into_iter().map(|(key, _)| (key, None))),
            Err(e) => error!(task = %id, error = %e, "a finished task's segments could not be listed"),
        }
        self.commit(writes).await;
        self.tasks.remove(id);
        self.let_images_go();
        if let Err(e) = self.parts.spool.forget_task(id).await {
            warn!(task = %id, error = %e, "something of a finished task stays on the shelf");
        }
    }

    /// A part is well when no lane that runs says otherwise of it.
    fn tell_troubles(&self) {
        for (part, of_part) in &self.troubles {
            match of_part.values().next() {
                Some(why) => self.parts.health.degraded(part, why.as_str()),
                None => self.parts.health.ok(part),
            }
        }
    }

    fn let_images_go(&self) {
        let layouts = self.tasks.values().filter_map(|running| running.task.spec.mix.as_ref());
        let shown = layouts.flat_map(|mix| mix.layout.image_urls()).map(str::to_owned).collect();
        self.parts.stills.keep_only(&shown);
    }

    fn tell_health(&self, fate: &Fate) {
        let health = &self.parts.health;
        match fate {
            Fate::SegmentUploaded { .. } | Fate::PlaylistUploaded { .. } => health.ok("upload"),
            Fate::UploadFailed { code, message } => health.degraded("upload", format!("{code}: {message}")),
            Fate::Lost { why, .. } => health.degraded("spool", format!("a segment was lost: {why}")),
            Fate::Spooled(_) => {}
        }
    }

    fn tell_gauges(&self) {
        let count = |n: usize| n as f64;
        let recording = |r: &&Running| matches!(r.task.phase, Phase::Active | Phase::Leaving { .. });
        let tasks = self.tasks.values().filter(recording).count();
        let lanes: usize = self.tasks.values().map(|r| r.task.lanes_running()).sum();
        metrics::gauge!("holdfast_rooms").set(count(self.rooms.len()));
        metrics::gauge!("holdfast_sessions").set(count(self.sessions.len()));
        metrics::gauge!("holdfast_tasks").set(count(tasks));
        metrics::gauge!("holdfast_tasks_draining").set(count(self.tasks.len() - tasks));
        self.parts.health.recording(lanes > 0);
    }
}
