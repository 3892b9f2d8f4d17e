//! The engine: starts lanes, passes words on to them, and sees to it that each one ends.
//!
//! Owns: the threads of lanes and the watchdog over them. Must not touch: media.
//! Law: exactly one `LaneEnded` for each lane that was started, even if its thread hangs in a codec for ever.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{error, info, warn};

pub use super::coder::LostDevices;
use super::inbox::{Inbox, Word};
use super::mixed::{self, Kit};
use super::senses::Sensed;
use super::single::{self, Sides};
use super::stills::Stills;
use super::tracks::Tracks;
use super::{LaneEnd, LaneFeed, LaneOrder, MediaClock, MediaEngine, MediaError, MediaNews, Sessions, Teller, present};
use crate::model::board::Board;
use crate::model::encoder::{PictureEncoder, mixing_encoders};
use crate::model::layout::Scene;
use crate::model::{LaneRun, MediaTime, SessionId, TrackId};

/// A lane that was told to finish, or to die, has so long for it; one that was told to finish and still gets something
/// done has so long since then.
const PATIENCE: Duration = Duration::from_secs(5);
/// One that was killed and does not end for so long hangs. What it still writes then is nobody's until the next start, so
/// that one that is only slow, on a disk or a board that is busy, is waited for.
const HANGS: Duration = Duration::from_secs(30);

/// What mixed lanes have beside their tracks.
#[derive(Clone)]
pub struct Mixing {
    /// Where images of layouts appear.
    pub stills: Stills,
    /// Encoders of pictures that work on this board, best first.
    pub encoders: Vec<PictureEncoder>,
    /// Which of them were lost since.
    pub lost: LostDevices,
}

impl Mixing {
    /// With the encoders of the table that were tried and work; where none was tried, with those whose elements are
    /// there.
    pub fn new(stills: Stills, board: Option<&Board>) -> Mixing {
        let there = |factory: &str| gstreamer::ElementFactory::find(factory).is_some();
        let tried = board.map(Board::working);
        let usable = |e: &&PictureEncoder| match &tried {
            Some(working) => working.iter().any(|factory| factory == e.factory),
            None => there(e.factory) && e.needs.iter().all(|needed| there(needed)),
        };
        let encoders = mixing_encoders().iter().filter(usable).copied().collect();
        Mixing { stills, encoders, lost: LostDevices::default() }
    }
}

#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    clock: MediaClock,
    tracks: Tracks,
    mixing: Mixing,
    news: mpsc::Sender<MediaNews>,
    sessions: Arc<dyn Sessions>,
    lanes: Mutex<Lanes>,
    /// The watchdog waits here.
    changed: Condvar,
}

#[derive(Default)]
struct Lanes {
    running: BTreeMap<Key, Running>,
    watched: bool,
}

/// A run as a key: task, user, stream, kind, number.
type Key = (String, String, &'static str, &'static str, u32);

fn key(run: &LaneRun) -> Key {
    let lane = &run.lane;
    (run.task.to_string(), lane.user_id().to_owned(), lane.media.as_str(), lane.kind.in_names(), run.run)
}

struct Running {
    run: LaneRun,
    inbox: Arc<Inbox>,
    teller: Teller,
    /// Told to finish: dies at this time.
    kill_at: Option<Instant>,
    /// Signs of life when that was set.
    beats: u64,
    /// Told to die: given up at this time.
    give_up_at: Option<Instant>,
}

impl Engine {
    /// `news` is sent to from plain threads, which wait when it is full.
    pub fn new(
        clock: MediaClock,
        tracks: Tracks,
        news: mpsc::Sender<MediaNews>,
        sessions: Arc<dyn Sessions>,
        mixing: Mixing,
    ) -> Engine {
        let (lanes, changed) = (Mutex::default(), Condvar::new());
        Engine { inner: Arc::new(Inner { clock, tracks, mixing, news, sessions, lanes, changed }) }
    }

    /// What was noticed of a live track; of its delay since the call before.
    pub fn sensed(&self, track: TrackId) -> Option<Sensed> {
        self.inner.tracks.sensed(track)
    }

    /// Lanes that run, and when each one's file last grew.
    pub fn written(&self) -> Vec<(LaneRun, Option<MediaTime>)> {
        let lanes = self.inner.lanes();
        lanes.running.values().map(|lane| (lane.run.clone(), lane.teller.written())).collect()
    }

    /// Lanes that are at work and have got nothing done for so long. One that waits for packets is well.
    pub fn standing_still(&self, limit: Duration) -> Vec<LaneRun> {
        let (now, lanes) = (Instant::now(), self.inner.lanes());
        let still = lanes.running.values().filter(|lane| lane.inbox.stands_still(now) >= limit);
        still.map(|lane| lane.run.clone()).collect()
    }

    /// Lanes that have not ended.
    pub fn lanes(&self) -> usize {
        self.inner.lanes().running.len()
    }
}

impl MediaEngine for Engine {
    fn start_lane(&self, order: LaneOrder) -> Result<(), MediaError> {
        let inner = &self.inner;
        let run = order.run.clone();
        let key = key(&run);
        let teller = Teller::new(inner.news.clone());
        let (inbox, life) = inner.life_of(order, teller.clone())?;
        let mut lanes = inner.lanes();
        if lanes.running.contains_key(&key) {
            return Err(MediaError::Pipeline(format!("run {} of this lane is there already", run.run)));
        }
        watch(inner, &mut lanes)?;
        let lane = {
            let (inner, run, teller, key) = (inner.clone(), run.clone(), teller.clone(), key.clone());
            move || {
                let made = catch_unwind(AssertUnwindSafe(life));
                let end = made.unwrap_or_else(|_| LaneEnd::Failed("the lane's thread panicked".into()));
                info!(task = %run.task, lane = ?run.lane, run = run.run, ?end, "lane ended");
                {
                    let mut lanes = inner.lanes();
                    lanes.running.remove(&key);
                    metrics::gauge!("holdfast_lanes").set(lanes.running.len() as f64);
                }
                teller.end(run, end);
            }
        };
        std::thread::Builder::new()
            .name("lane".into())
            .spawn(lane)
            .map_err(|e| MediaError::Pipeline(format!("a thread for the lane: {e}")))?;
        info!(task = %run.task, lane = ?run.lane, run = run.run, "lane started");
        lanes.running.insert(key, Running { run, inbox, teller, kill_at: None, beats: 0, give_up_at: None });
        metrics::gauge!("holdfast_lanes").set(lanes.running.len() as f64);
        Ok(())
    }

    fn change_scene(&self, run: &LaneRun, scene: Scene) {
        let now = self.inner.clock.now();
        if let Some(lane) = self.inner.lanes().running.get(&key(run)) {
            lane.inbox.tell(Word::Scene(Box::new(scene), now));
        }
    }

    fn finish_lane(&self, run: &LaneRun) {
        let mut lanes = self.inner.lanes();
        if let Some(lane) = lanes.running.get_mut(&key(run)) {
            lane.inbox.finish();
            lane.beats = lane.inbox.beats();
            lane.kill_at.get_or_insert(Instant::now() + PATIENCE);
            self.inner.changed.notify_all();
        }
    }

    fn pause_lane(&self, run: &LaneRun, until: MediaTime) {
        let mut lanes = self.inner.lanes();
        if let Some(lane) = lanes.running.get_mut(&key(run)) {
            lane.inbox.end_at(until);
            lane.beats = lane.inbox.beats();
            lane.kill_at.get_or_insert(Instant::now() + mixed::BEHIND + PATIENCE);
            self.inner.changed.notify_all();
        }
    }

    fn kill_lane(&self, run: &LaneRun) {
        let mut lanes = self.inner.lanes();
        if let Some(lane) = lanes.running.get_mut(&key(run)) {
            lane.inbox.kill();
            lane.give_up_at.get_or_insert(Instant::now() + HANGS);
            self.inner.changed.notify_all();
        }
    }

    fn close_session(&self, session: SessionId) {
        self.inner.sessions.close_session(session);
    }
}

/// A lane from its beginning to its end.
type Life = Box<dyn FnOnce() -> LaneEnd + Send>;

impl Inner {
    /// A lane's letter box, and what its thread will do.
    fn life_of(self: &Arc<Inner>, mut order: LaneOrder, teller: Teller) -> Result<(Arc<Inbox>, Life), MediaError> {
        let kind = order.run.lane.kind;
        let inner = self.clone();
        let mixed = match &mut order.feed {
            LaneFeed::Mixed { scene, video, audio } => {
                Some((std::mem::take(&mut **scene), video.clone(), audio.clone()))
            }
            LaneFeed::Single { .. } => None,
        };
        if let Some(parts) = mixed {
            let inbox = Arc::new(mixed::inbox().beginning_at(order.from));
            let letters = inbox.clone();
            let life = move || {
                let Mixing { stills, encoders, lost } = inner.mixing.clone();
                let kit = Kit { tracks: &inner.tracks, stills, encoders: &encoders, lost, present: &present() };
                mixed::run(order, parts, &kit, &letters, inner.clock, teller)
            };
            return Ok((inbox, Box::new(life)));
        }
        let LaneFeed::Single { audio, video } = order.feed else { unreachable!("looked at above") };
        let inbox = Arc::new(Inbox::default().beginning_at(order.from));
        let subscribe = |wanted: bool, track: Option<_>| match track {
            Some(track) if wanted => self.tracks.subscribe(track, &inbox).map(Some),
            _ => Ok(None),
        };
        let sides = Sides { sound: subscribe(kind.has_audio(), audio)?, picture: subscribe(kind.has_video(), video)? };
        if sides.sound.is_none() && sides.picture.is_none() {
            return Err(MediaError::Pipeline(format!("a lane of {} without a track", kind.track_type())));
        }
        let letters = inbox.clone();
        let life = move || single::run(order, sides, &letters, inner.clock, teller, &present());
        Ok((inbox, Box::new(life)))
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the watchdog, if there is none.
fn watch(inner: &Arc<Inner>, lanes: &mut Lanes) -> Result<(), MediaError> {
    if lanes.watched {
        return Ok(());
    }
    let weak = Arc::downgrade(inner);
    std::thread::Builder::new()
        .name("lane watchdog".into())
        .spawn(move || while watch_once(&weak) {})
        .map_err(|e| MediaError::Pipeline(format!("a thread for the watchdog: {e}")))?;
    lanes.watched = true;
    Ok(())
}

/// `false`: the engine is gone.
fn watch_once(inner: &Weak<Inner>) -> bool {
    let Some(inner) = inner.upgrade() else {
        return false;
    };
    let now = Instant::now();
    let mut lanes = inner.lanes();
    let mut wedged = Vec::new();
    for (key, lane) in &mut lanes.running {
        let run = &lane.run;
        let beats = lane.inbox.beats();
        if lane.kill_at.is_some() && beats != lane.beats {
            lane.beats = beats;
            lane.kill_at = Some(now + PATIENCE);
        }
        if lane.give_up_at.is_none() && lane.kill_at.is_some_and(|at| at <= now) {
            warn!(task = %run.task, lane = ?run.lane, run = run.run, "the end did not come in time; killing the lane");
            lane.inbox.kill();
            lane.give_up_at = Some(now + HANGS);
        }
        if lane.give_up_at.is_some_and(|at| at <= now) {
            error!(task = %run.task, lane = ?run.lane, run = run.run, "lane hangs and is given up");
            wedged.push(key.clone());
        }
    }
    let wedged: Vec<Running> = wedged.iter().filter_map(|key| lanes.running.remove(key)).collect();
    if wedged.is_empty() {
        // looks again each second; an engine that nobody holds any more is noticed too
        drop(inner.changed.wait_timeout(lanes, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner));
        return true;
    }
    drop(lanes);
    for lane in wedged {
        metrics::counter!("holdfast_lanes_wedged_total").increment(1);
        lane.teller.end(lane.run, LaneEnd::Killed);
    }
    true
}
