//! The actor's loop: everything that happens becomes one input, and what follows from it is done in order.
//!
//! Owns: the live rooms and tasks. Must not touch: decisions (they are the task's), frames, the network.
//! Law: the saves and announcements of one step are one commit, made before anything else of that step is done ([`steps`]).

mod automatic;
mod calls;
mod disk;
mod news;
mod pack;
mod recorded;
mod restore;
mod steps;
mod tell;

pub use restore::Remembered;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Ask, Error, TaskLine, TaskStatus, TaskView};
use crate::config::{Live, OnStop};
use crate::crash;
use crate::health::Reporter;
use crate::media::stills::Stills;
use crate::media::{LaneEnd, LaneFeed, LaneOrder, MediaClock, MediaEngine, MediaNews};
use crate::model::board::Board;
use crate::model::event::LeaveCode;
use crate::model::fate::Fate;
use crate::model::mix::{ImageFailure, ImageOrder, ImageWant, MixSpec};
use crate::model::piece::{Piece, PieceFate};
use crate::model::recording::{RecordingSpec, StorageKeys};
use crate::model::room::{Feed, Room, Track};
use crate::model::segment::object_key;
use crate::model::task::{Effect, Input, Phase, Policy, RecordingTask};
use crate::model::{LaneKind, LaneRun, MediaTime, RoomKey, SdkAppId, Secret, SessionId, TaskId, Timestamp, TrackKind};
use crate::package::Packer;
use crate::spool::{Recovered, Spool};
use crate::store::records::{self, OutboxEntry};
use crate::store::seal::BoxKey;
use crate::store::{Batch, Store};
use calls::tell_receipt;

/// Waits between two looks at whether the events of finished tasks have been taken: the first and the longest.
const LOOK_FIRST: Duration = Duration::from_secs(1);
const LOOK_LONGEST: Duration = Duration::from_secs(60);

/// After the last task has left, so long for its files to arrive before the daemon goes.
const LINGER: Duration = Duration::from_secs(5);

/// What the actor is built from.
pub struct Parts {
    pub config: Live,
    pub store: Store,
    pub spool: Arc<Spool>,
    pub engine: Arc<dyn MediaEngine>,
    pub media_clock: MediaClock,
    pub box_key: Arc<BoxKey>,
    /// Packs what tasks recorded, and tells it by `fates`.
    pub packer: Packer,
    pub fates: mpsc::Sender<(TaskId, Fate)>,
    /// What mixed recordings are admitted by; `None`: all are.
    pub board: Option<Arc<Board>>,
    /// Told whenever an event was committed.
    pub outbox: Arc<Notify>,
    /// Notified likewise; with it every event is put down for the operators, too.
    pub mirror: Option<Arc<Notify>>,
    /// Images that layouts show, for whoever fetches them.
    pub images: mpsc::Sender<ImageOrder>,
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
    /// What was captured before is not recorded: the task paused until then.
    from: MediaTime,
    /// Its record as the index has it: what has not changed is not written.
    saved: Vec<u8>,
}

fn to_bytes(record: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have text keys and no floats")
}

/// What an effect has to tell, as it lies in the outbox and, with `mirror`, for the operators beside it.
fn outbox_records(effect: &Effect, mirror: bool) -> Vec<(String, Vec<u8>)> {
    let Effect::Announce(event) = effect else { return Vec::new() };
    info!(task = %event.task, event = event.body.event_type(), seq = event.seq, "event");
    tell_receipt(event);
    metrics::counter!("holdfast_events_total", "type" => event.body.event_type().to_string()).increment(1);
    let bytes = OutboxEntry { event: event.clone() }.to_bytes();
    let mirrored = mirror.then(|| (records::mirror_key(event.app, &event.task, event.seq), bytes.clone()));
    let key = records::outbox_key(event.app, &event.task, event.seq);
    [Some((key, bytes)), mirrored].into_iter().flatten().collect()
}

fn view(task: &RecordingTask) -> TaskView {
    let status = match task.phase {
        Phase::Active if task.has_media() => TaskStatus::InProgress,
        Phase::Active => TaskStatus::Idle,
        Phase::Leaving { .. } | Phase::Draining { .. } | Phase::Done => TaskStatus::Exited,
    };
    TaskView { task: task.id.clone(), status, paused: task.is_paused(), files: task.files() }
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
    /// Shapes of tasks that it could not take.
    undescribed: BTreeMap<TaskId, String>,
    /// Tasks that are done, and whose events wait for their receiver: until then their folders can tell them again. The
    /// next look, and the wait before it.
    ended: BTreeSet<TaskId>,
    look: (Instant, Duration),
    /// What lanes that run have said of a part.
    troubles: BTreeMap<&'static str, BTreeMap<LaneRun, String>>,
    /// The mapping to wall time by which the tasks' waits are written down.
    epoch_wall: Timestamp,
    /// Who shows which images, by what who fetches them was told last.
    shown: BTreeMap<String, BTreeSet<TaskId>>,
    stopping: bool,
    automatic: automatic::Automatic,
    recorded: recorded::Told,
}

impl Actor {
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
        let mut disk = self.parts.spool.standing();
        disk.mark_changed();
        loop {
            self.follow_clock().await;
            self.drain().await;
            self.tell_gauges();
            self.tell_recorded();
            if self.stopping && self.all_left() {
                // What is at the destination in a moment is told now rather than after the next start.
                let until = *linger.get_or_insert_with(|| Instant::now() + LINGER);
                let over = Instant::now() >= until;
                if self.ended.len() == self.tasks.len()
                    || self.parts.config.now().recording.on_stop == OnStop::Resume
                    || over
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
                    // an old backlog goes up faster than a disk takes commits
                    while self.queue.len() < steps::AT_ONCE && let Ok((task, fate)) = fates.try_recv() {
                        self.tell_health(&fate);
                        self.queue.push_back((task, Input::Fate(fate)));
                    }
                }
                Some(ImageFailure { task, url, why }) = image_failures.recv() => {
                    warn!(%task, why, "an image of the layout is not to be had");
                    self.queue.push_back((task, Input::ImageFailed { url }));
                }
                Ok(()) = disk.changed() => {
                    let standing = disk.borrow_and_update().clone();
                    self.disk_stands(&standing);
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

    /// No lane runs and no task is on its way out. What is discarded goes on its way after the next start: a disk that refuses
    /// to let go of it must not keep the box from stopping.
    fn all_left(&self) -> bool {
        let leaves = |task: &RecordingTask| matches!(task.phase, Phase::Leaving { .. }) && !task.is_discarded();
        self.tasks.values().all(|r| r.task.lanes_running() == 0 && !leaves(&r.task))
    }

    /// Monotonic but for [`Actor::follow_clock`], which moves all that waits by it.
    fn now(&self) -> Timestamp {
        self.epoch_wall.plus(Duration::from_nanos(self.parts.media_clock.now().0))
    }

    /// The wall clock was set: from here on times are told by it, and no wait grows or shrinks.
    async fn follow_clock(&mut self) {
        let epoch_wall = self.parts.media_clock.epoch_wall();
        let by_us = epoch_wall.0.saturating_sub(self.epoch_wall.0);
        if by_us == 0 {
            return;
        }
        self.epoch_wall = epoch_wall;
        let ids: Vec<TaskId> = self.tasks.keys().cloned().collect();
        for id in ids {
            if let Some(running) = self.tasks.get_mut(&id) {
                running.task.clock_stepped(by_us);
            }
            self.save(&id).await;
        }
    }

    fn policy(&self) -> Policy {
        let config = self.parts.config.now();
        Policy {
            segment_length: Duration::from_secs(config.recording.segment_seconds),
            streams: config.limits.streams_per_task,
            grace: Duration::from_secs(config.upload.grace_seconds),
            list_pause: Duration::from_secs(config.upload.list_seconds),
            takeover_waits: config.recording.takeover_seconds.map(Duration::from_secs),
            gap: Duration::from_secs(config.recording.gap_seconds),
            ..Policy::default()
        }
    }

    fn next_wake(&self) -> Duration {
        let now = self.now();
        let due = self.tasks.values().filter_map(|running| running.task.deadline()).min();
        let wait = due.map_or(Duration::from_secs(3600), |due| due.since(now));
        // A little late rather than early: an early tick finds nothing due and would spin.
        let wait = wait + Duration::from_millis(1);
        let owed = !self.unsaved.is_empty() || !self.unshelved.is_empty() || !self.undescribed.is_empty();
        let calm = !owed && !self.stopping;
        let wait = if calm { wait } else { wait.min(Duration::from_secs(1)) };
        let wait = self.automatic.wait().map_or(wait, |again| wait.min(again));
        match self.ended.is_empty() {
            true => wait,
            false => wait.min(self.look.0.saturating_duration_since(Instant::now())),
        }
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
        for (id, shape) in std::mem::take(&mut self.undescribed) {
            self.redescribe(&id, shape);
        }
        if !self.ended.is_empty() && Instant::now() >= self.look.0 {
            self.forget_the_told().await;
        }
        self.try_automatic_again().await;
    }

    /// Forgets the tasks that are done and of which everything has been told.
    async fn forget_the_told(&mut self) {
        let waiting = match self.parts.store.scan(records::OUTBOX).await {
            Ok(waiting) => waiting,
            Err(e) => return error!(error = %e, "the outbox cannot be looked at"),
        };
        let untold: BTreeSet<&str> = waiting.iter().filter_map(|(key, _)| records::task_of_event(key)).collect();
        let told: Vec<TaskId> = self.ended.iter().filter(|id| !untold.contains(id.as_str())).cloned().collect();
        let ended = self.ended.len();
        for id in &told {
            self.forget(id).await;
        }
        let wait = if self.ended.len() == ended { (self.look.1 * 2).min(LOOK_LONGEST) } else { LOOK_FIRST };
        self.look = (Instant::now() + wait, wait);
    }

    async fn begin_stop(&mut self) {
        self.stopping = true;
        let code = match self.parts.config.now().recording.on_stop {
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
            Ask::List { reply } => {
                let _ = reply.send(Ok(self.list()));
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
            Ask::Discard { app, task, by, reply } => {
                let _ = reply.send(self.discard(app, &task, by).await);
            }
            Ask::Turn { reply } => drop(reply.send(Ok(()))),
            Ask::SetTemplate { template, reply } => {
                self.set_template(template.map(|template| *template));
                let _ = reply.send(Ok(()));
            }
            Ask::Pause { app, task, pause, reply } => {
                let _ = reply.send(self.pause(app, &task, pause).await);
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
        self.callable(app, id).map(view)
    }

    /// Those that run or are leaving.
    fn list(&self) -> Vec<TaskLine> {
        let there = |r: &&Running| matches!(r.task.phase, Phase::Active | Phase::Leaving { .. });
        let line = |RecordingTask { spec, created, .. }: &RecordingTask, view| TaskLine {
            app: spec.app,
            room: spec.room.clone(),
            recorder: spec.recorder.clone(),
            created: *created,
            view,
        };
        self.tasks.values().filter(there).map(|r| line(&r.task, view(&r.task))).collect()
    }

    /// Whether the board has room for `spec`'s mixed picture beside those that run and stay.
    fn admit(&self, spec: &RecordingSpec, replaced: &[TaskId]) -> Result<(), Error> {
        let (Some(board), Some(new)) = (&self.parts.board, mixed_picture(spec)) else { return Ok(()) };
        let stays = |r: &&Running| {
            matches!(r.task.phase, Phase::Active | Phase::Leaving { .. }) && !replaced.contains(&r.task.id)
        };
        let running: Vec<&MixSpec> =
            self.tasks.values().filter(stays).filter_map(|r| mixed_picture(&r.task.spec)).collect();
        let publishers = self.parts.config.now().limits.mix_publishers;
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
        let limit = self.parts.config.now().limits.tasks;
        if running >= limit {
            return Err(Error::TooManyTasks { running, limit });
        }
        self.disk_takes_tasks()?;
        self.admit(&spec, &replaced)?;
        let id = TaskId::from_random(uuid::Uuid::new_v4().as_bytes());
        let dir = match self.parts.spool.begin_holding(&id, spec.output.hold()).await {
            Ok(dir) => dir,
            Err(e) => {
                self.unmake(&id, &[]).await;
                return Err(Error::Spool(e.to_string()));
            }
        };
        let (mut task, effects) = RecordingTask::create(id.clone(), spec, self.policy(), self.now());
        let shape = task.take_shape();
        let batch = Batch::new().put(records::task_key(&id), to_bytes(&task));
        let destination = &task.spec.destination;
        let batch = records::put_destination(batch, &id, destination, &keys, &user_sig, &self.parts.box_key);
        // with the task: one that a crash leaves behind has told that it began
        let told: Vec<_> = effects.iter().flat_map(|effect| outbox_records(effect, self.mirrors())).collect();
        let batch = told.iter().fold(batch, |batch, (key, bytes)| batch.put(key.clone(), bytes.clone()));
        if let Err(e) = self.parts.store.commit(batch).await {
            self.index_refused(&e);
            self.unmake(&id, &told).await;
            return Err(Error::Store(e.to_string()));
        }
        crash::point("task.committed");
        if let Some(shape) = shape
            && let Err(e) = self.parts.spool.describe_task(&id, shape.to_text()).await
        {
            self.unmake(&id, &told).await;
            return Err(Error::Spool(e.to_string()));
        }
        crash::point("task.described");
        info!(task = %id, %room, recorder = %task.spec.recorder, "task created");
        let base = self.parts.media_clock.now();
        self.tasks.insert(id.clone(), Running { task, keys: Some(keys), dir, base, from: base, saved: Vec::new() });
        self.tell_news();
        for effect in effects {
            self.act(&id, effect).await;
        }
        self.queue.extend(replaced.into_iter().map(|old| (old, Input::Stop(LeaveCode::SameUserEntered))));
        self.reconcile_task(&id).await;
        Ok(id)
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
        self.recorded.is_stale();
        self.perform(id, effects).await;
    }

    async fn act(&mut self, id: &TaskId, effect: Effect) {
        let Some(running) = self.tasks.get(id) else { return };
        let spec = &running.task.spec;
        match effect {
            // the shape has the others
            Effect::Announce(ref event) if !event.body.is_state() => self.shelve(id, effect),
            Effect::SavePiece(_) | Effect::Announce(_) | Effect::PackageSettled { .. } | Effect::PauseLane(_) => {}
            Effect::StartLane { run, feed } => {
                let feed = match (feed, &spec.mix) {
                    (Feed::Mixed(scene), Some(mix)) => {
                        LaneFeed::Mixed { scene, video: mix.video.clone(), audio: mix.audio.clone() }
                    }
                    (Feed::Single { audio, video }, _) => LaneFeed::Single { audio, video },
                    (Feed::Mixed(_), None) => unreachable!("only a mixed task has a mixed lane"),
                };
                let config = self.parts.config.now();
                let recording = &config.recording;
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
                    from: running.from,
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
                if !running.task.is_discarded() {
                    warn!(task = %id, lane = ?run.lane, run = run.run, "lane did not finish in time: killed");
                }
                self.parts.engine.kill_lane(&run);
            }
            Effect::Wedged(run) => {
                error!(task = %id, lane = ?run.lane, run = run.run, "lane did not even die: given up");
                metrics::counter!("holdfast_lanes_wedged_total").increment(1);
                self.parts.health.degraded("media", "a pipeline is wedged");
            }
            Effect::Withhold => self.withhold(id),
            Effect::Spool { .. }
            | Effect::PublishPlaylist { .. }
            | Effect::Package(_)
            | Effect::SpoolPackage { .. }
            | Effect::LetGo
            | Effect::Clear
            | Effect::Erase { .. } => self.shelve(id, effect),
            Effect::Forget => {
                info!(task = %id, "task done");
                self.ended.insert(id.clone());
                self.look = (Instant::now() + LOOK_FIRST, LOOK_FIRST);
            }
        }
    }

    /// Asks for an image. When more wait than the fetcher takes, this one has failed: it is announced, not forgotten.
    fn fetch_image(&mut self, id: &TaskId, url: String) {
        let want = ImageWant { task: id.clone(), url: url.clone() };
        if self.parts.images.try_send(ImageOrder::Fetch(want)).is_ok() {
            self.shown.entry(url).or_default().insert(id.clone());
        } else {
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
            Effect::Announce(event) => {
                let event = serde_json::to_string(&event).expect("events have text keys and no floats");
                spool.keep_event(id, event)
            }
            Effect::SpoolPackage { object, bytes, crc32, plan } => {
                let key = key(&object);
                spool.accept_package(id, object, key, (bytes, crc32), plan)
            }
            Effect::LetGo => spool.let_go(id),
            Effect::Package(order) => return self.pack(id, order),
            Effect::Clear => spool.clear_task(id),
            Effect::Erase { names, media } => {
                spool.erase_task(id, object_key(&running.task.spec.destination.prefix, id, ""), names, media)
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

    /// A task that was refused on its way: who is told that there is none must not find one after the next start.
    async fn unmake(&mut self, id: &TaskId, told: &[(String, Vec<u8>)]) {
        self.unsaved.extend(told.iter().map(|(key, _)| (key.clone(), None)));
        self.forget(id).await;
    }

    /// The task is done and told: its folder and its records go. What the disk keeps for now is tried again: until then
    /// the task is one that is done.
    async fn forget(&mut self, id: &TaskId) {
        // The folder goes first: one that outlives its task would bring it back.
        self.undescribed.remove(id);
        if let Err(e) = self.parts.spool.forget_task(id).await {
            warn!(task = %id, error = %e, "something of a finished task stays on the shelf");
            if self.tasks.contains_key(id) {
                return;
            }
        }
        self.ended.remove(id);
        self.parts.packer.give_up(id);
        crash::point("forget.removed");
        let mut writes = BTreeMap::from([(records::task_key(id), None)]);
        match self.parts.store.scan(records::segments_prefix(id)).await {
            Ok(pieces) => writes.extend(pieces.into_iter().map(|(key, _)| (key, None))),
            Err(e) => error!(task = %id, error = %e, "a finished task's segments could not be listed"),
        }
        self.commit(writes).await;
        crash::point("forget.forgotten");
        self.tasks.remove(id);
        self.let_images_go();
    }

    /// Images that no layout shows any more are kept no longer, and nobody fetches them.
    fn let_images_go(&mut self) {
        let mut shown: BTreeMap<String, BTreeSet<TaskId>> = BTreeMap::new();
        for (id, running) in self.tasks.iter().filter(|(_, running)| running.task.phase != Phase::Done) {
            for url in running.task.spec.mix.iter().flat_map(|mix| mix.layout.image_urls()) {
                shown.entry(url.to_owned()).or_default().insert(id.clone());
            }
        }
        self.parts.stills.keep_only(&shown);
        // whoever has no ear for it now hears it with the next change
        if self.shown != shown && self.parts.images.try_send(ImageOrder::Shown(shown.clone())).is_ok() {
            self.shown = shown;
        }
    }

    fn tell_health(&self, fate: &Fate) {
        let health = &self.parts.health;
        match fate {
            Fate::Lost { why, .. } => health.degraded("spool", format!("a segment was lost: {why}")),
            Fate::PlaylistLost { object, .. } => health.degraded("spool", format!("a list was lost: {object}")),
            Fate::PackageLost { object, .. } => health.degraded("spool", format!("{object} cannot be packed")),
            // the uploader, who knows the destinations, speaks of them
            Fate::Spooled(_)
            | Fate::SegmentUploaded { .. }
            | Fate::PlaylistUploaded { .. }
            | Fate::Packaged(_)
            | Fate::PackageWaits { .. }
            | Fate::PackageUploaded { .. }
            | Fate::VodCommitted { .. }
            | Fate::VodFailed { .. }
            | Fate::UploadFailed { .. }
            | Fate::Cleared { .. }
            | Fate::Erased { .. } => {}
        }
    }
}
