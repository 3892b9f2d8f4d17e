//! A mixed lane: one thread that makes one picture and one sound out of everybody.
//!
//! Owns: the lane's line of time, whom it listens to, what is decoded when. Must not touch: bytes of files, pixels.
//! Law: every picture of the constant rate is made, once, at its place on the line, whoever comes, goes or breaks;
//! what is shown and heard of a moment is what was captured at that moment.
//!
//! The lane runs `BEHIND` the clock, so that what a moment needs has arrived (retransmitted packets, a sender's first
//! report) before the moment is mixed, and sleeps for a while between the moments; nobody watches live. Packets wait
//! undecoded until then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use tracing::{debug, warn};

use super::canvas::{Planes, Shape};
use super::coder::{Coder, Failure, LostDevices};
use super::inbox::{Inbox, Letters, Word};
use super::picture::PictureUnit;
use super::round::{Help, Plan, Took, steps_of_round, steps_of_sleep};
use super::segmenter::Segmenter;
use super::sound::{Aac, SoundFrame, encoder_of};
use super::stage::{Seen, Stage, Views};
use super::stills::Stills;
use super::tracks::Tracks;
use super::viewer::{Shown, Spot, Viewer};
use super::voice::{SoundMix, Voice};
use super::{LaneEnd, LaneOrder, MediaClock, MediaError, MediaNews, Teller, timeline};
use crate::model::encoder::{Coding, PictureEncoder};
use crate::model::fit::Cut;
use crate::model::layout::{Scene, Tile};
use crate::model::mix::{AudioParams, Rect, Size, VideoParams};
use crate::model::{MediaTime, TrackId, TrackKind};

/// What a packet may wait for (see `reorder::WAIT` and the first report of a sender), and some time to spare.
pub(super) const BEHIND: Duration = Duration::from_millis(1300);
/// Sound is decoded so much further than it is mixed: a fade wants to know what comes.
const SOUND_AHEAD: i64 = 60_000_000;
/// Without pictures, sound is mixed in steps of this.
const SOUND_STEP: Duration = Duration::from_millis(100);
/// While nothing has come, the lane looks so often.
const LOOK: Duration = Duration::from_millis(20);
/// A lane that is further behind than this is told of, until it is less than a tenth of it.
const MOST_LATE: Duration = Duration::from_secs(1);
/// A device has so long to give what is still inside.
const CODER_END: Duration = Duration::from_secs(2);
/// Bytes of a picture that is shown at several places, or at none yet, before it has come.
const UNSEEN: u64 = 1920 * 1080 * 3 / 2;
/// Threads that decode for all mixed lanes of the box together.
const MOST_DECODING: usize = 4;

/// Bounds of a mixed lane's inbox: 25 publishers of 4 Mbit/s for seven seconds, of which it may sleep two.
const INBOX_BYTES: usize = 88 << 20;
const INBOX_BATCHES: usize = 25_000;

pub(super) fn inbox() -> Inbox {
    Inbox::new(INBOX_BYTES, INBOX_BATCHES)
}

/// What a mixed lane is made with.
pub(super) struct Kit<'a> {
    pub tracks: &'a Tracks,
    pub stills: Stills,
    /// Encoders that work on this board, best first.
    pub encoders: &'a [PictureEncoder],
    pub lost: LostDevices,
    pub present: &'a BTreeSet<&'static str>,
}

/// Runs a lane to its end.
pub(super) fn run(
    order: LaneOrder,
    (scene, video, audio): (Scene, VideoParams, AudioParams),
    kit: &Kit<'_>,
    inbox: &Arc<Inbox>,
    clock: MediaClock,
    teller: Teller,
) -> LaneEnd {
    let mut lane = match Lane::new(order, &video, audio, kit, inbox, clock, teller) {
        Ok(lane) => lane,
        Err(e) => return LaneEnd::Failed(e.to_string()),
    };
    // what comes first may have been captured before the lane began
    lane.scene_comes(scene, lane.order.base);
    lane.make_ready();
    match lane.live() {
        Ok(end) => end,
        Err(e) => {
            let run = &lane.order.run;
            warn!(task = %run.task, lane = ?run.lane, run = run.run, error = %e, "lane failed");
            // what is in the file is good; if it was the file that failed, this says nothing new
            let _ = lane.segmenter.close(None);
            LaneEnd::Failed(e.to_string())
        }
    }
}

struct Lane<'a> {
    order: LaneOrder,
    kit: &'a Kit<'a>,
    inbox: &'a Arc<Inbox>,
    clock: MediaClock,
    teller: Teller,
    segmenter: Segmenter,
    /// Scenes that begin later on the line, ns.
    scenes: VecDeque<(u64, Scene)>,
    /// Sounds of the scene that is shown.
    playing: Vec<TrackId>,
    /// Which tiles of a scene with hidden ones could be seen when it was looked at last.
    in_sight: Vec<bool>,
    views: Viewers,
    voices: BTreeMap<TrackId, Voice>,
    /// Who is heard no more, and fades.
    leaving: Vec<Voice>,
    /// Where the line of files begins, ns on the task's line; not known before something has come.
    origin: Option<u64>,
    /// The next step of the line.
    step: u64,
    picture: Option<PictureSide>,
    sound: Option<SoundSide>,
    /// Units that wait for their turn.
    pictures: VecDeque<PictureUnit>,
    sounds: VecDeque<SoundFrame>,
    sound_until: Duration,
    help: Help,
    /// What the lane waits for.
    plan: Option<Plan>,
    late: bool,
    muddled: bool,
    /// The recording pauses there, ns on the task's line: nothing is shown or heard of what comes after.
    until: Option<u64>,
}

struct PictureSide {
    stage: Stage,
    coder: Coder,
    fps: u64,
    gop: u64,
    since_key: u64,
    /// The step at which a keyframe was asked for since the file is as long as it is to be.
    cut_asked: Option<u64>,
}

struct SoundSide {
    form: AudioParams,
    mixer: Option<(SoundMix, Aac)>,
    pcm: Vec<i16>,
}

/// Everybody's pictures.
struct Viewers {
    all: BTreeMap<TrackId, Viewer>,
    /// Who has sent nothing since then (ns on the line) is black; `None`: the last picture stands.
    black_before: Option<u64>,
}

impl Viewers {
    fn shows(&self, track: TrackId) -> bool {
        self.all.get(&track).is_some_and(|viewer| viewer.shown().is_some())
    }
}

impl Views for Viewers {
    fn seen(&self, tile: &Tile) -> Seen {
        let Some(viewer) = tile.track.and_then(|track| self.all.get(&track)) else { return Seen::Nothing };
        let Some(shown) = viewer.shown() else { return Seen::Nothing };
        let stopped = self.black_before.is_some_and(|at| viewer.heard().is_none_or(|heard| heard < at));
        if stopped { Seen::Black } else { Seen::Picture(shown.serial) }
    }

    fn placed(&self, tile: &Tile) -> Option<(Planes<'_>, Cut, Rect)> {
        self.all.get(&tile.track?)?.shown()?.placed(Spot { fit: tile.fit, rect: tile.rect })
    }
}

/// The threads that decode, for all lanes.
fn decoding() -> Option<&'static rayon::ThreadPool> {
    static POOL: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
    POOL.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(MOST_DECODING);
        // with one core there is nothing to share out; without threads the lane decodes by itself
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("decode {n}"));
        (threads > 1).then(|| pool.build().ok()).flatten()
    })
    .as_ref()
}

impl<'a> Lane<'a> {
    fn new(
        order: LaneOrder,
        video: &VideoParams,
        audio: AudioParams,
        kit: &'a Kit<'a>,
        inbox: &'a Arc<Inbox>,
        clock: MediaClock,
        teller: Teller,
    ) -> Result<Lane<'a>, MediaError> {
        let kind = order.run.lane.kind;
        let picture = kind.has_video().then(|| {
            let coding = Coding { size: video.size, fps: video.fps, bitrate: video.bitrate, gop: video.gop };
            PictureSide {
                stage: Stage::new(video.size, kit.stills.clone()),
                coder: Coder::new(kit.encoders, kit.lost.clone(), coding),
                fps: u64::from(video.fps),
                gop: u64::from(video.gop) * u64::from(video.fps),
                since_key: 0,
                cut_asked: None,
            }
        });
        let sound = kind.has_audio().then(|| SoundSide { form: audio, mixer: None, pcm: Vec::new() });
        let mut segmenter = Segmenter::new(order.clone(), clock, teller.clone());
        if let Some(side) = &picture {
            segmenter.pace(Duration::from_nanos(1_000_000_000 / side.fps));
        }
        Ok(Lane {
            order,
            kit,
            inbox,
            clock,
            teller,
            segmenter,
            scenes: VecDeque::new(),
            playing: Vec::new(),
            in_sight: Vec::new(),
            views: Viewers { all: BTreeMap::new(), black_before: None },
            voices: BTreeMap::new(),
            leaving: Vec::new(),
            origin: None,
            step: 0,
            picture,
            sound,
            pictures: VecDeque::new(),
            sounds: VecDeque::new(),
            sound_until: Duration::ZERO,
            help: Help::new(),
            plan: None,
            late: false,
            muddled: false,
            until: None,
        })
    }

    fn live(&mut self) -> Result<LaneEnd, MediaError> {
        loop {
            self.plan = self.plan();
            let Letters { batches, words, finish, kill, until, .. } = self.inbox.take_at(self.wake());
            if let Some(until) = until {
                self.until = Some(timeline(until, self.order.base).unwrap_or(0));
            }
            for word in words {
                let Word::Scene(scene, at) = word;
                self.scene_comes(*scene, at);
            }
            for batch in batches {
                self.begin_line(&batch.packets);
                if batch.kind == TrackKind::Video {
                    if let Some(viewer) = self.views.all.get_mut(&batch.track) {
                        viewer.take(batch.packets, batch.after_overflow);
                    }
                } else if let Some(voice) = self.voices.get_mut(&batch.track) {
                    voice.take(batch.packets);
                }
            }
            if kill {
                self.segmenter.close(None)?;
                return Ok(LaneEnd::Killed);
            }
            let now = self.now();
            let behind = now.saturating_sub(BEHIND.as_nanos() as u64);
            if finish || self.until.is_some_and(|until| behind >= until) {
                self.run_to(now)?;
                self.sound_until_pause()?;
                if self.inbox.is_killed() {
                    self.segmenter.close(None)?;
                    return Ok(LaneEnd::Killed);
                }
                self.end()?;
                return Ok(LaneEnd::Finished);
            }
            self.run_to(behind)?;
            self.segmenter.settle(self.wake())?;
        }
    }

    /// Now, on the task's line, ns.
    fn now(&self) -> u64 {
        timeline(self.clock.now(), self.order.base).unwrap_or(0)
    }

    /// The steps until the next waking; `None` before the line has begun. At first few, so that there is something soon.
    fn plan(&self) -> Option<Plan> {
        let first = self.place(self.step)?;
        let steps = if self.step == 0 { 1 } else { steps_of_sleep(self.step_length(), self.order.sync_interval) };
        let due = self.place(self.step + steps - 1)? + self.half_step() + BEHIND.as_nanos() as u64;
        Some(Plan { first, due, length: self.step_length() * steps as u32 })
    }

    /// When the lane is to look at its letters if none is urgent.
    fn wake(&self) -> Instant {
        let Some(plan) = self.plan() else { return Instant::now() + LOOK };
        let paused = self.until.map_or(u64::MAX, |until| until + BEHIND.as_nanos() as u64);
        self.clock.instant(MediaTime(self.order.base.0 + plan.due.min(paused)))
    }

    /// Where a step of the line begins.
    fn place(&self, step: u64) -> Option<u64> {
        let passed = match &self.picture {
            Some(side) => step * 1_000_000_000 / side.fps,
            None => step * SOUND_STEP.as_nanos() as u64,
        };
        Some(self.origin? + passed)
    }

    fn step_length(&self) -> Duration {
        self.picture.as_ref().map_or(SOUND_STEP, |side| Duration::from_nanos(1_000_000_000 / side.fps))
    }

    /// Steps that are made together.
    fn round(&self) -> u64 {
        steps_of_round(self.step_length(), self.kept())
    }

    /// Bytes of the pictures of a step at most, while they wait for it.
    fn kept(&self) -> u64 {
        let spots = self.spots();
        let kept = |(track, viewer): (&TrackId, &Viewer)| match spots.get(track) {
            // no larger than it is shown
            Some(spot) => Shape::of(Size { width: spot.rect.width, height: spot.rect.height }).bytes as u64,
            None => viewer.shown().map_or(UNSEEN, Shown::bytes),
        };
        self.views.all.iter().map(kept).sum()
    }

    /// A picture shows what was captured up to half a step after its time, so that it is early as often as late.
    fn half_step(&self) -> u64 {
        self.picture.as_ref().map_or(0, |side| 500_000_000 / side.fps)
    }

    /// The line begins with the first that is heard or seen.
    fn begin_line(&mut self, packets: &[super::stamped::StampedPacket]) {
        if self.origin.is_none() {
            self.origin = packets.iter().filter_map(|packet| timeline(packet.at, self.order.base)).min();
        }
    }

    /// What takes its time (fonts, images) is done while the first packets are on their way.
    fn make_ready(&mut self) {
        let wall = self.clock.wall(self.clock.now());
        if let (Some(side), Some((_, scene))) = (&mut self.picture, self.scenes.front()) {
            side.stage.set(scene.clone());
            side.stage.make_ready(wall);
        }
    }

    fn scene_comes(&mut self, scene: Scene, at: MediaTime) {
        let at = timeline(at, self.order.base).unwrap_or(0);
        self.scenes.push_back((at, scene));
        self.listen();
    }

    /// Listens to whom the scene or one to come shows or plays, and to nobody else.
    fn listen(&mut self) {
        let current = self.picture.as_ref().map(|side| side.stage.scene());
        let scenes: Vec<&Scene> = current.into_iter().chain(self.scenes.iter().map(|(_, scene)| scene)).collect();
        let mut needs: BTreeMap<TrackId, u32> = BTreeMap::new();
        if self.picture.is_some() {
            let sights = scenes.iter().flat_map(|scene| {
                let in_sight = scene.in_sight(|track| self.views.shows(track));
                scene.tiles.iter().zip(in_sight).filter(|(_, sees)| *sees).map(|(tile, _)| tile)
            });
            for tile in sights {
                let Some(track) = tile.track else { continue };
                // a picture of the usual shape that fills the tile is so tall
                let tall = tile.rect.height.max(tile.rect.width * 9 / 16);
                let need = needs.entry(track).or_default();
                *need = tall.max(*need);
            }
        }
        let sounds: BTreeSet<TrackId> = match &self.sound {
            Some(_) => self.scenes.iter().flat_map(|(_, scene)| &scene.sounds).chain(&self.playing).copied().collect(),
            None => BTreeSet::new(),
        };
        self.views.all.retain(|track, _| needs.contains_key(track));
        let silent = self.voices.extract_if(.., |track, _| !sounds.contains(track));
        self.leaving.extend(silent.filter_map(|(_, voice)| voice.last_words()));
        for (track, need) in needs {
            if let std::collections::btree_map::Entry::Vacant(place) = self.views.all.entry(track) {
                let viewer = self.kit.tracks.subscribe(track, self.inbox).and_then(|t| Viewer::new(t, self.order.base));
                match viewer {
                    Ok(viewer) => {
                        place.insert(viewer);
                        // what a round takes is not known any more
                        self.help = Help::new();
                    }
                    // it left again meanwhile
                    Err(MediaError::NoTrack(_)) => debug!(track = track.0, "not to be seen"),
                    Err(e) => {
                        let why = Some(format!("pictures of a publisher cannot be decoded: {e}"));
                        self.teller.tell(MediaNews::Trouble { run: self.order.run.clone(), part: "decoder", why });
                    }
                }
            }
            if let Some(viewer) = self.views.all.get(&track) {
                viewer.need(need);
            }
        }
        let Some(side) = &self.sound else { return };
        for track in sounds {
            if let std::collections::btree_map::Entry::Vacant(place) = self.voices.entry(track) {
                let channels = side.form.channels as usize;
                let voice =
                    self.kit.tracks.subscribe(track, self.inbox).and_then(|t| Voice::new(t, self.order.base, channels));
                match voice {
                    Ok(voice) => drop(place.insert(voice)),
                    Err(e) => debug!(track = track.0, error = %e, "not to be heard"),
                }
            }
        }
    }

    /// Makes every step of the line whose time has come, round by round, unless the lane is killed. A lane that is late
    /// may have much to make before it can finish, so each step is a sign of life.
    fn run_to(&mut self, now: u64) -> Result<(), MediaError> {
        let half = self.half_step();
        let now = self.before_pause(now);
        loop {
            let steps = (self.step..).map_while(|step| self.place(step)).take_while(|at| at + half <= now);
            let mut due: Vec<u64> = steps.take(self.round() as usize).collect();
            // the steps before another scene by themselves: what is decoded for them is as small as they show it
            let another = |at: &u64| self.scenes.iter().any(|(from, _)| due[0] < *from && from <= at);
            due.truncate(due.iter().position(another).unwrap_or(due.len()));
            let Some(first) = due.first().copied() else { return Ok(()) };
            let (began, length) = (Instant::now(), self.step_length() * due.len() as u32);
            if let Err(error) = self.scene_begins(first) {
                return Err(self.with_what_is_good(error));
            }
            let threads = if self.picture.is_some() { self.decode(&due) } else { 1 };
            let decoding = began.elapsed();
            self.look_who_covers();
            for at in due {
                if self.inbox.is_killed() {
                    return Ok(());
                }
                self.inbox.beat();
                self.look_at_delay(at);
                if self.picture.is_some()
                    && let Err(error) = self.make_picture(at)
                {
                    return Err(self.with_what_is_good(error));
                }
                self.step += 1;
            }
            self.make_sound()?;
            self.write(false)?;
            self.help.learn(threads, Took { decoding, rest: began.elapsed().saturating_sub(decoding), length });
        }
    }

    /// After an error: writes what was made before it.
    fn with_what_is_good(&mut self, error: MediaError) -> MediaError {
        let _ = self.write(true);
        error
    }

    fn look_at_delay(&mut self, at: u64) {
        let Some(plan) = self.plan else { return };
        let late = plan.overdue(at, self.now());
        if !late.is_zero() {
            metrics::counter!("holdfast_mix_steps_late_total").increment(1);
        }
        let told = match self.late {
            false => (late > MOST_LATE).then(|| Some(format!("mixing is {} ms behind", late.as_millis()))),
            true => (late < MOST_LATE / 10).then_some(None),
        };
        if let Some(why) = told {
            self.late = why.is_some();
            self.teller.tell(MediaNews::Trouble { run: self.order.run.clone(), part: "mixing", why });
        }
    }

    /// From the step at this time on, the scene is the one that has come for it.
    fn scene_begins(&mut self, at: u64) -> Result<(), MediaError> {
        let mut changed = false;
        while let Some((_, scene)) = self.scenes.pop_front_if(|(from, _)| *from <= at) {
            if !changed {
                // up to here the former ones are heard
                self.make_sound()?;
            }
            self.playing.clone_from(&scene.sounds);
            if let Some(side) = &mut self.picture {
                side.stage.set(scene);
            }
            changed = true;
        }
        if changed {
            self.in_sight.clear();
            self.listen();
        }
        Ok(())
    }

    /// Who stands behind a picture is listened to until that has come, and again when it cannot be decoded any more.
    fn look_who_covers(&mut self) {
        let Some(side) = &self.picture else { return };
        let scene = side.stage.scene();
        if !scene.tiles.iter().any(|tile| tile.hidden) {
            return;
        }
        let in_sight = scene.in_sight(|track| self.views.shows(track));
        if in_sight != self.in_sight {
            self.in_sight = in_sight;
            self.listen();
        }
    }

    /// No further than the pause.
    fn before_pause(&self, at: u64) -> u64 {
        at.min(self.until.unwrap_or(u64::MAX))
    }

    /// The last picture before a pause may be shown for less than its time, or have ended a little before it: what is
    /// heard goes on to the pause itself.
    fn sound_until_pause(&mut self) -> Result<(), MediaError> {
        match self.until {
            Some(until) if self.step > 0 && !self.inbox.is_killed() => self.mix_sound(until),
            _ => Ok(()),
        }
    }

    fn make_picture(&mut self, at: u64) -> Result<(), MediaError> {
        let moment = at + self.half_step();
        self.views.all.values_mut().for_each(|viewer| viewer.advance(moment));
        let gap = self.order.gap_limit.as_nanos() as u64;
        self.views.black_before = self.order.fill_black.then(|| at.saturating_sub(gap));
        let wall = self.clock.wall(MediaTime(self.order.base.0 + at));
        let side = self.picture.as_mut().expect("asked by the caller");
        let mut picture = side.stage.picture(wall, &self.views)?;
        let pts = Duration::from_nanos(at);
        picture.make_mut().set_pts(gstreamer::ClockTime::from_nseconds(at));
        let full = self.segmenter.is_full(pts);
        // the file is cut when the keyframe comes out of the encoder and is written, some steps later
        let cut = full && side.cut_asked.is_none_or(|asked| self.step >= asked + side.fps);
        side.cut_asked = if cut { Some(self.step) } else { side.cut_asked.filter(|_| full) };
        let key = side.since_key >= side.gop || cut;
        side.since_key = if key { 1 } else { side.since_key + 1 };
        let pushed = side.coder.push(&picture, key);
        for Failure { factory, why, lost } in side.coder.take_failures() {
            let next = side.coder.factory().unwrap_or("none");
            metrics::counter!("holdfast_mix_encoder_failures_total").increment(1);
            let told = Some(format!("{factory}: {why}; {next} goes on"));
            self.teller.tell(MediaNews::Trouble { run: self.order.run.clone(), part: "encoder", why: told });
            if lost {
                self.teller.tell(MediaNews::EncoderLost { run: self.order.run.clone(), factory, why });
            }
        }
        let troubles = side.stage.take_troubles();
        if let Some(why) = troubles.into_iter().next()
            && !std::mem::replace(&mut self.muddled, true)
        {
            self.teller.tell(MediaNews::Trouble { run: self.order.run.clone(), part: "watermark", why: Some(why) });
        }
        self.pictures.extend(pushed?);
        Ok(())
    }

    /// Where tracks are shown that have one place in the scene.
    fn spots(&self) -> BTreeMap<TrackId, Spot> {
        let tiles = self.picture.iter().flat_map(|side| &side.stage.scene().tiles).filter(|tile| !tile.hidden);
        let mut spots: BTreeMap<TrackId, Option<Spot>> = BTreeMap::new();
        for tile in tiles {
            let Some(track) = tile.track else { continue };
            let spot = Spot { fit: tile.fit, rect: tile.rect };
            spots.entry(track).and_modify(|spot| *spot = None).or_insert(Some(spot));
        }
        spots.into_iter().filter_map(|(track, spot)| Some((track, spot?))).collect()
    }

    /// Decodes everybody's pictures of the steps at these times, and says by how many threads. Who cannot be decoded any
    /// more is seen no more.
    fn decode(&mut self, due: &[u64]) -> usize {
        let moments: Vec<u64> = due.iter().map(|at| at + self.half_step()).collect();
        let spots = self.spots();
        let advance = |(track, viewer): (&TrackId, &mut Viewer)| {
            viewer.decode(&moments, spots.get(track).copied()).err().map(|e| (*track, e))
        };
        let pool = decoding().filter(|_| self.help.is_wanted() && self.views.all.len() > 1);
        let failed: Vec<(TrackId, MediaError)> = match pool {
            Some(pool) => pool.install(|| self.views.all.par_iter_mut().filter_map(advance).collect()),
            None => self.views.all.iter_mut().filter_map(advance).collect(),
        };
        for (track, error) in failed {
            warn!(track = track.0, %error, "a publisher's pictures cannot be decoded");
            self.views.all.remove(&track);
        }
        pool.map_or(1, rayon::ThreadPool::current_num_threads)
    }

    /// Mixes the sound up to the next step, or to the pause.
    fn make_sound(&mut self) -> Result<(), MediaError> {
        match self.place(self.step) {
            Some(next) => self.mix_sound(self.before_pause(next)),
            None => Ok(()),
        }
    }

    fn mix_sound(&mut self, until: u64) -> Result<(), MediaError> {
        let Some(origin) = self.origin else { return Ok(()) };
        let (origin, until) = (origin as i64, until as i64);
        if until <= origin {
            return Ok(());
        }
        let Some(side) = &mut self.sound else { return Ok(()) };
        self.voices.values_mut().for_each(|voice| voice.advance(until + SOUND_AHEAD));
        let (mixer, aac) = match &mut side.mixer {
            Some(mixer) => mixer,
            None => {
                let mixer = SoundMix::new(side.form.channels as usize, origin);
                let aac = Aac::new(encoder_of(self.kit.present)?, &side.form, mixer.origin())?;
                side.mixer.insert((mixer, aac))
            }
        };
        side.pcm.clear();
        // one that another scene needs is not in this one yet, or not any more
        let voices = self.voices.iter_mut().map(|(track, voice)| (voice, self.playing.contains(track)));
        mixer.mix(until, voices.chain(self.leaving.iter_mut().map(|voice| (voice, true))), &mut side.pcm)?;
        self.leaving.clear();
        let frames = aac.push(&side.pcm)?;
        self.take_sound(frames);
        Ok(())
    }

    fn take_sound(&mut self, frames: Vec<SoundFrame>) {
        let origin = Duration::from_nanos(self.origin.unwrap_or(0));
        for frame in frames {
            self.sound_until = frame.pts + frame.duration;
            // the encoder's priming lies before the line
            if frame.pts >= origin {
                self.sounds.push_back(frame);
            }
        }
    }

    /// Writes what has its turn, in the order of time; `all`: whatever waits.
    fn write(&mut self, all: bool) -> Result<(), MediaError> {
        let heard = self.sound.is_some();
        while let Some(picture) = self.pictures.front() {
            if heard && !all && self.sound_until < picture.pts {
                return Ok(());
            }
            let pts = picture.pts;
            while let Some(frame) = self.sounds.pop_front_if(|frame| frame.pts < pts) {
                self.segmenter.sound(&frame)?;
            }
            let picture = self.pictures.pop_front().expect("looked at above");
            self.segmenter.picture(&picture, heard)?;
        }
        if all || self.picture.is_none() {
            while let Some(frame) = self.sounds.pop_front() {
                self.segmenter.sound(&frame)?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), MediaError> {
        let Some(end) = self.place(self.step) else { return Ok(()) };
        let end = Duration::from_nanos(self.until.unwrap_or(end));
        if let Some(side) = &mut self.picture {
            let (units, ended) = side.coder.finish(CODER_END);
            self.pictures.extend(units);
            if let Err(e) = ended {
                // the file is closed with what there is
                warn!(error = %e, "the encoder did not give its last pictures");
            }
        }
        if let Some((_, aac)) = self.sound.as_mut().and_then(|side| side.mixer.as_mut()) {
            let frames = aac.finish()?;
            self.take_sound(frames);
        }
        self.sounds.retain(|frame| frame.pts < end);
        self.segmenter.last_words();
        self.write(true)?;
        self.segmenter.close(None)
    }
}
