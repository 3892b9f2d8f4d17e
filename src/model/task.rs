//! The recording task's machine: what happens goes in, what must be done comes out.
//!
//! Owns: a task's phases, its records (one playlist each), the fate of every segment, the events it announces.
//! Must not touch: anything that can fail; the clock (time is an argument).
//! Law: while it leaves, wishes only change what comes after; every closed segment is spooled exactly once; a playlist
//! lists only what the destination holds, and gets its ENDLIST only when nothing more can come; no waiting phase
//! is without a deadline or a word that must arrive; the end is announced once.
//!
//! ```text
//!   Active ──stop, idle──► Leaving ──every lane ended, every piece spooled──► Draining ──all arrived──► Done
//!             (302 is told when it leaves Leaving, 305 when Draining ends or its grace is over)
//! ```
//! Sources: RECORDING.md §1–3, §5, §8, §11.

mod discard;
mod fates;
mod packing;
mod pause;
mod record;
mod shape;
mod takeover;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Event, EventBody, LeaveCode};
use super::fate::Fate;
use super::layout::Scene;
use super::mix::Layout;
use super::output::{self, Output};
use super::package;
use super::piece::{Piece, PieceFate};
use super::playlist::Playlist;
use super::recording::{RecordingSpec, Subscription};
use super::room::{Begin, Feed, Room, WantedLane, wanted_lanes};
use super::segment::{ClosedSegment, LaneFile, segment_name};
use super::{Lane, LaneRun, TaskId, Timestamp};

use discard::Discard;
use packing::Packing;
use record::{Live, LiveState, Record};
pub use shape::{Found, Shape};
use takeover::TookUp;
pub use takeover::{TAKEOVERS, WAITS};

/// So many different upload errors are announced within one time of quiet.
const ERROR_CODES: usize = 8;

/// 308's code for what no storage has a word for: a segment that will never arrive.
const SEGMENT_LOST: &str = "SegmentLost";

/// Times and limits by which tasks are run; the same for all tasks of a box.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What segments should be long; the least TARGETDURATION.
    pub segment_length: Duration,
    /// Streams that one task subscribes.
    pub streams: usize,
    /// A merged lane waits so long for the second of sound and picture.
    pub merge_wait: Duration,
    /// A mixed lane goes on for so long when everybody has left: who comes back within it comes back into the same
    /// run. Of an empty room no more is recorded than the gap that parts two sections (RECORDING.md §10).
    pub mix_hold: Duration,
    /// EOS must have gone through a lane by then; otherwise it is killed. The engine itself kills one that gets nothing
    /// done for some seconds; a mix that is behind may need longer.
    pub finish_limit: Duration,
    /// A killed lane must have said so by then; otherwise it is wedged and given up.
    pub kill_limit: Duration,
    /// After the end, so long for the files to arrive before 305 says that some are left behind.
    pub grace: Duration,
    /// An upload error of the same code is announced again only after so long.
    pub error_quiet: Duration,
    /// A closed list that the disk has lost is made again after so long.
    pub list_again: Duration,
    /// While more of its pieces wait on the shelf a list is published so often at most.
    pub list_pause: Duration,
    /// Between two takeovers: see [`WAITS`].
    pub takeover_waits: [Duration; 3],
    /// No packed file is larger.
    pub file_bytes: u64,
    /// A packed file is filled with black where pictures stop for so long, if that was asked for.
    pub gap: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            segment_length: Duration::from_secs(10),
            streams: 25,
            merge_wait: Duration::from_secs(1),
            mix_hold: Duration::from_secs(15),
            finish_limit: Duration::from_secs(20),
            kill_limit: Duration::from_secs(4),
            grace: Duration::from_secs(60),
            error_quiet: Duration::from_secs(600),
            file_bytes: output::LARGEST,
            gap: Duration::from_secs(3),
            list_again: Duration::from_secs(30),
            list_pause: Duration::from_secs(2),
            takeover_waits: WAITS,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Active,
    Leaving { code: LeaveCode },
    Draining { since: Timestamp },
    Done,
}

/// Everything that can happen to a task, but for changes of its room (see [`RecordingTask::reconcile`]).
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    FirstMedia {
        run: LaneRun,
        at: Timestamp,
    },
    SegmentClosed(ClosedSegment),
    /// It never became a file that can be trusted.
    SegmentLost {
        segment: ClosedSegment,
        why: String,
    },
    /// The lane's pipeline is over; `failed` when it was not because it was asked to or its track went.
    LaneEnded {
        run: LaneRun,
        failed: bool,
    },
    Fate(Fate),
    /// Both are replaced whole; no layout is the default one. A task of single streams has none.
    Modify {
        subscription: Subscription,
        layout: Option<Layout>,
    },
    Stop(LeaveCode),
    /// It goes with every byte of it; `by` is for the receipt.
    Discard {
        by: String,
    },
    /// Nothing is taken from now on, until `Resume`.
    Pause,
    Resume,
    /// An image of the layout could not be fetched or decoded.
    ImageFailed {
        url: String,
    },
    /// A deadline may have passed.
    Tick,
}

/// Everything that a task can ask for. Saves and announcements of one call are one commit, before all else.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    SavePiece(Piece),
    Announce(Event),
    StartLane {
        run: LaneRun,
        feed: Feed,
    },
    /// The mixed lane shows and plays this from now on.
    ChangeScene {
        run: LaneRun,
        scene: Box<Scene>,
    },
    /// The layout shows the image of this address.
    FetchImage {
        url: String,
    },
    FinishLane(LaneRun),
    /// The lane takes nothing that was captured from this moment on, and ends when it has all that was captured before.
    /// It is told before anything is saved: what comes meanwhile must not be written.
    PauseLane(LaneRun),
    KillLane(LaneRun),
    Spool {
        segment: ClosedSegment,
        object: String,
    },
    PublishPlaylist {
        object: String,
        version: u64,
        text: String,
    },
    /// Pack the segments; `Fate::Packaged` follows.
    Package(package::Order),
    /// Put the plan of a packed file on the shelf, so that it goes to the destination.
    SpoolPackage {
        object: String,
        bytes: u64,
        crc32: u32,
        plan: String,
    },
    /// The task has noted that the destination has this packed file: the shelf's record of it goes in the same commit.
    PackageSettled {
        object: String,
    },
    /// Segments that were held for packing are not needed any more.
    LetGo,
    /// Nothing of the task is carried to its destination any more.
    Withhold,
    /// What lies of it on the shelf goes, but for what the folder says of the task.
    Clear,
    /// What its destination has of it goes: its segments, files of these names, and whatever else lies under its id; of
    /// VOD these FileIds, and those that its folder knows beside them.
    Erase {
        names: Vec<String>,
        media: Vec<String>,
    },
    /// A lane did not answer to being killed: its thread is given up.
    Wedged(LaneRun),
    /// The task is over and everything is where it belongs: drop its records and its folder.
    Forget,
}

/// One task. Serialises without its pieces and without what dies with the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordingTask {
    pub id: TaskId,
    pub spec: RecordingSpec,
    pub created: Timestamp,
    pub takeover: u8,
    pub phase: Phase,
    /// When the task was last taken up again, and how often.
    #[serde(default)]
    took_up: Option<TookUp>,
    /// Rises with every change of the [`Shape`].
    #[serde(default)]
    edition: u64,
    next_run: u32,
    next_seq: u64,
    /// 305 with Status 1 was sent.
    told_left_behind: bool,
    /// 305 was sent that says how it ended.
    #[serde(default)]
    told_stop: bool,
    #[serde(default)]
    packing: Packing,
    /// Since when nothing is taken.
    #[serde(default)]
    paused: Option<Timestamp>,
    #[serde(default)]
    discard: Option<Discard>,
    /// Its next step was asked for in this life of the process.
    #[serde(skip)]
    discard_asked: bool,
    records: Vec<Record>,
    #[serde(skip)]
    objects: BTreeMap<String, (usize, (u32, u32))>,
    #[serde(skip)]
    wanted: BTreeMap<Lane, WantedLane>,
    #[serde(skip)]
    idle_since: Option<Timestamp>,
    /// Since when nobody has been there whom the mixed lane could record.
    #[serde(skip)]
    nobody_since: Option<Timestamp>,
    /// Images of the layout that were asked for in this life of the process; whether they were told as failed.
    #[serde(skip)]
    images: BTreeMap<String, bool>,
    /// When each code was last announced. Messages name objects and requests, so they do not tell errors apart.
    #[serde(skip)]
    told_errors: BTreeMap<String, Timestamp>,
    /// Kept, but not yet taken up again: the box failed a moment ago.
    #[serde(skip)]
    held_until: Option<Timestamp>,
    /// Announced and told in the shape: told again when the index is lost.
    #[serde(skip)]
    told: Vec<Event>,
    /// Numbers of events below it are spoken for, as the shape says.
    #[serde(skip)]
    seq_limit: u64,
    /// The shape has changed since it was last taken.
    #[serde(skip)]
    reshaped: bool,
    /// The shape as it was found: it is not written again as it is.
    #[serde(skip)]
    lies_there: Option<Box<Shape>>,
    /// Between `restore` and `settle_unfound`: what is on the disk is not all told yet, so nothing is concluded.
    #[serde(skip)]
    recovering: bool,
    #[serde(skip)]
    policy: Policy,
}

/// The wait before the n-th relaunch of a lane that failed: 1, 2, 4 … 30 s.
fn relaunch_wait(failures: u32) -> Duration {
    Duration::from_secs(1u64 << failures.saturating_sub(1).min(5)).min(Duration::from_secs(30))
}

impl RecordingTask {
    /// A new task: the recorder has entered (301) and its uploads can begin (303).
    pub fn create(id: TaskId, spec: RecordingSpec, policy: Policy, now: Timestamp) -> (RecordingTask, Vec<Effect>) {
        let mut task = RecordingTask {
            id,
            spec,
            created: now,
            takeover: 0,
            phase: Phase::Active,
            took_up: None,
            edition: 0,
            next_run: 0,
            next_seq: 0,
            told_left_behind: false,
            told_stop: false,
            packing: Packing::default(),
            paused: None,
            discard: None,
            discard_asked: false,
            records: Vec::new(),
            objects: BTreeMap::new(),
            wanted: BTreeMap::new(),
            idle_since: None,
            nobody_since: None,
            images: BTreeMap::new(),
            told_errors: BTreeMap::new(),
            held_until: None,
            told: Vec::new(),
            seq_limit: 0,
            reshaped: true,
            lies_there: None,
            recovering: false,
            policy,
        };
        let mut effects = vec![task.announce(EventBody::RecorderStart { failed: false }, now)];
        // of files that go to VOD 311 and 312 speak
        if task.spec.vod().is_none() {
            effects.push(task.announce(EventBody::UploadStart { failed: false }, now));
        }
        (task, effects)
    }

    pub fn has_media(&self) -> bool {
        self.records.iter().any(|record| record.begin.is_some())
    }

    /// The playlists, in the order in which they came to be (Describe's `StorageFileList`). Where only packed files go to
    /// the destination there are none.
    pub fn files(&self) -> Vec<LaneFile> {
        if !self.spec.output.hls() {
            return Vec::new();
        }
        let file = |record: &Record| {
            let begin = record.begin?;
            Some(LaneFile { lane: record.lane.clone(), file_name: record.file_name.clone(), begin })
        };
        self.records.iter().filter_map(file).collect()
    }

    /// Lanes whose pipelines run.
    pub fn lanes_running(&self) -> usize {
        self.records.iter().filter(|record| record.live.is_some()).count()
    }

    /// Lanes that should be written now.
    pub fn recorded(&self) -> impl Iterator<Item = &WantedLane> {
        self.wanted.values().filter(|wanted| self.may_record() && wanted.begin == Begin::Now)
    }

    /// When `Input::Tick` is due at the latest.
    pub fn deadline(&self) -> Option<Timestamp> {
        let mut due: Vec<Timestamp> = Vec::new();
        match self.phase {
            Phase::Active => {
                due.extend(self.idle_since.map(|since| since.plus(self.spec.max_idle)));
                due.extend(self.held_until);
                let away = self.records.iter().filter_map(|record| record.away_since);
                due.extend(
                    away.zip(std::iter::repeat(self.spec.resume_wait)).filter_map(|(a, wait)| Some(a.plus(wait?))),
                );
            }
            Phase::Draining { since } if self.discard.is_none() => {
                if !self.told_left_behind && !self.told_stop {
                    due.push(since.plus(self.policy.grace));
                }
                due.extend(self.packing.deadline(&self.policy));
            }
            _ => {}
        }
        for record in &self.records {
            due.extend(record.again_at);
            due.extend(record.list_at);
            match record.live.as_ref().map(|live| &live.state) {
                Some(LiveState::Finishing { until } | LiveState::Killed { until }) => due.push(*until),
                Some(LiveState::Running) => due.extend(self.nobody_since.map(|since| since.plus(self.policy.mix_hold))),
                None if self.may_record() && self.wanted.contains_key(&record.lane) => {
                    due.extend(record.not_before);
                    due.extend(record.merge_since.map(|since| since.plus(self.policy.merge_wait)));
                }
                None => {}
            }
        }
        due.into_iter().min()
    }

    /// The room changed, or the subscription did: lanes follow.
    pub fn reconcile(&mut self, room: &Room, now: Timestamp) -> Vec<Effect> {
        if self.phase != Phase::Active {
            return Vec::new();
        }
        self.idle_since = room.is_empty().then(|| self.idle_since.unwrap_or(now));
        let wanted = wanted_lanes(&self.spec, room, self.policy.streams);
        let nobody = wanted.iter().any(|w| w.begin == Begin::Nobody);
        self.nobody_since = nobody.then(|| self.nobody_since.unwrap_or(now));
        self.wanted = wanted.into_iter().map(|w| (w.lane.clone(), w)).collect();
        self.drive(now)
    }

    /// The wall clock was found to be wrong and now shows `by_us` more: what was written by the old one moves with it,
    /// so that no wait grows or shrinks. To be saved.
    pub fn clock_stepped(&mut self, by_us: i64) {
        let step = |at: &mut Timestamp| at.0 = at.0.saturating_add(by_us);
        step(&mut self.created);
        if let Phase::Draining { since } = &mut self.phase {
            step(since);
        }
        self.took_up.iter_mut().for_each(|took| step(&mut took.at));
        self.packing.waits().for_each(step);
        self.discard.iter_mut().for_each(|discard| step(&mut discard.at));
        self.told_errors.values_mut().for_each(step);
        [&mut self.idle_since, &mut self.nobody_since, &mut self.held_until, &mut self.paused]
            .into_iter()
            .flatten()
            .for_each(step);
        for record in &mut self.records {
            let Record { not_before, merge_since, again_at, listed, list_at, away_since, .. } = record;
            let waits = [not_before, merge_since, again_at, listed, list_at, away_since];
            waits.into_iter().flatten().for_each(step);
            if let Some(Live { state: LiveState::Finishing { until } | LiveState::Killed { until }, .. }) =
                &mut record.live
            {
                step(until);
            }
        }
        self.reshaped = true;
    }

    pub fn apply(&mut self, input: Input, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::FirstMedia { run, at } => {
                if let Some(record) = self.record_of(&run)
                    && record.begin.is_none()
                {
                    record.begin = Some(at);
                    self.reshaped = true;
                }
            }
            Input::SegmentClosed(segment) => effects.extend(self.segment_closed(segment)),
            Input::SegmentLost { segment, why } => {
                // It takes its place among the pieces, and is lost there; nothing of it goes to the shelf.
                effects.extend(self.segment_closed(segment.clone()));
                effects.retain(|effect| !matches!(effect, Effect::Spool { .. }));
                effects.extend(self.fate(Fate::Lost { segment, why }, now));
            }
            Input::LaneEnded { run, failed } => {
                if let Some(record) = self.record_of(&run)
                    && record.live.as_ref().is_some_and(|live| live.run == run.run)
                {
                    record.live = None;
                    record.failures = if failed { record.failures + 1 } else { 0 };
                    record.not_before = failed.then(|| now.plus(relaunch_wait(record.failures)));
                }
            }
            Input::Fate(fate) => effects.extend(self.fate(fate, now)),
            Input::Modify { subscription, layout } => {
                self.spec.subscription = subscription;
                if let Some(mix) = &mut self.spec.mix {
                    mix.layout = layout.unwrap_or_default();
                    // an image that comes back later was let go meanwhile
                    self.images.retain(|url, _| mix.layout.image_urls().contains(&url.as_str()));
                }
                self.reshaped = true;
            }
            Input::Stop(code) => {
                if self.phase == Phase::Active {
                    self.leave(code);
                }
            }
            Input::Discard { by } => effects.extend(self.begin_discard(by, now)),
            Input::Pause => effects.extend(self.pause(now)),
            Input::Resume => self.resume(),
            Input::ImageFailed { url } => {
                // one that no layout shows any more is nobody's loss, and is fetched anew should it come back
                let told = self.images.get_mut(&url).filter(|_| self.phase == Phase::Active);
                if told.is_some_and(|told| !std::mem::replace(told, true)) {
                    effects.push(self.announce(EventBody::ImageError { url }, now));
                }
            }
            Input::Tick => {}
        }
        effects.extend(self.drive(now));
        effects
    }

    fn announce(&mut self, body: EventBody, at: Timestamp) -> Effect {
        let seq = self.next_seq;
        // what comes out of a folder may be anything
        self.next_seq = self.next_seq.saturating_add(1);
        let event = Event {
            app: self.spec.app,
            room: self.spec.room.clone(),
            recorder: self.spec.recorder.clone(),
            task: self.id.clone(),
            seq,
            at,
            body,
        };
        self.note_told(&event);
        Effect::Announce(event)
    }

    fn leave(&mut self, code: LeaveCode) {
        self.phase = Phase::Leaving { code };
        self.reshaped = true;
    }

    /// Lanes may run.
    fn may_record(&self) -> bool {
        self.phase == Phase::Active && self.held_until.is_none() && self.paused.is_none()
    }

    fn record_of(&mut self, run: &LaneRun) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.lane == run.lane && record.runs.contains(&run.run))
    }

    fn remember(&mut self, piece: Piece) {
        let of = |r: &Record| r.lane == piece.lane && r.runs.contains(&piece.run);
        let Some(at) = self.records.iter().position(of) else { return };
        let key = (piece.run, piece.index);
        self.objects.insert(piece.object.clone(), (at, key));
        self.records[at].pieces.insert(key, piece);
    }

    /// Brings lanes, playlists and phase to where they should be by now.
    fn drive(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.recovering {
            return effects;
        }
        if self.discard.is_some() {
            self.drive_discard(now, &mut effects);
            return effects;
        }
        if self.phase == Phase::Active && self.idle_since.is_some_and(|since| now >= since.plus(self.spec.max_idle)) {
            self.leave(LeaveCode::IdleTimeout);
        }
        if self.phase == Phase::Active && self.held_until.is_some_and(|until| now >= until) {
            self.take_up(now, &mut effects);
        }
        self.drive_images(&mut effects);
        self.end_files(now);
        self.drive_lanes(now, &mut effects);
        for at in 0..self.records.len() {
            if self.records[at].list_at.is_some_and(|due| now >= due) {
                effects.extend(self.publish(at, false, now));
            }
        }
        // Nothing more can come into the lists of lives before this one.
        self.close_settled(self.takeover, now, &mut effects);
        if let Phase::Leaving { code } = self.phase {
            let closing = |r: &Record| r.live.is_some() || r.pieces.values().any(|p| p.fate == PieceFate::Closing);
            if !self.records.iter().any(closing) {
                self.phase = Phase::Draining { since: now };
                self.reshaped = true;
                let left = self.announce(EventBody::RecorderStop { code }, now);
                effects.push(left);
            }
        }
        if let Phase::Draining { since } = self.phase {
            self.drive_end(since, now, &mut effects);
        }
        effects
    }

    /// Closes the lists of lives before `life` whose pieces' fates are all known.
    fn close_settled(&mut self, life: u8, now: Timestamp, effects: &mut Vec<Effect>) {
        for at in 0..self.records.len() {
            let record = &self.records[at];
            let due = record.again_at.is_none_or(|at| now >= at);
            if (record.takeover < life || record.over) && record.closed.is_none() && record.settled() && due {
                effects.extend(self.publish(at, true, now));
            }
        }
    }

    /// What the layout shows is fetched while the task can still show it.
    fn drive_images(&mut self, effects: &mut Vec<Effect>) {
        let Some(mix) = self.spec.mix.as_ref().filter(|_| self.phase == Phase::Active) else { return };
        for url in mix.layout.image_urls() {
            if !self.images.contains_key(url) {
                self.images.insert(url.to_owned(), false);
                effects.push(Effect::FetchImage { url: url.to_owned() });
            }
        }
    }

    /// Who was away for too long begins another file when they come back.
    fn end_files(&mut self, now: Timestamp) {
        let Some(wait) = self.spec.resume_wait.filter(|_| self.phase == Phase::Active) else { return };
        for record in self.records.iter_mut().filter(|r| r.takeover == self.takeover && !r.over && !r.runs.is_empty()) {
            let here = record.live.is_some() || self.wanted.contains_key(&record.lane);
            record.away_since = (!here).then(|| record.away_since.unwrap_or(now));
            if record.away_since.take_if(|since| now >= since.plus(wait)).is_some() {
                record.over = true;
                self.reshaped = true;
            }
        }
    }

    fn drive_lanes(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let mut wanted = if self.may_record() { self.wanted.clone() } else { BTreeMap::new() };
        if self.nobody_since.is_some_and(|since| now >= since.plus(self.policy.mix_hold)) {
            wanted.retain(|_, w| w.begin != Begin::Nobody);
        }
        for record in &mut self.records {
            let wish = wanted.get(&record.lane).filter(|_| record.takeover == self.takeover);
            let Some(live) = &mut record.live else { continue };
            let run = LaneRun { task: self.id.clone(), lane: record.lane.clone(), run: live.run };
            match live.state {
                LiveState::Running => match (wish.map(|w| &w.feed), &mut live.feed) {
                    (Some(wished), fed) if wished == fed => {}
                    (Some(Feed::Mixed(scene)), Feed::Mixed(shown)) => {
                        shown.clone_from(scene);
                        effects.push(Effect::ChangeScene { run, scene: scene.clone() });
                    }
                    _ => {
                        live.state = LiveState::Finishing { until: now.plus(self.policy.finish_limit) };
                        effects.push(Effect::FinishLane(run));
                    }
                },
                LiveState::Finishing { until } if now >= until => {
                    live.state = LiveState::Killed { until: now.plus(self.policy.kill_limit) };
                    effects.push(Effect::KillLane(run));
                }
                LiveState::Killed { until } if now >= until => {
                    record.live = None;
                    effects.push(Effect::Wedged(run));
                }
                LiveState::Finishing { .. } | LiveState::Killed { .. } => {}
            }
        }
        for wish in wanted.values().filter(|w| matches!(w.begin, Begin::Now | Begin::Soon)) {
            let of = |r: &Record| r.lane == wish.lane && r.takeover == self.takeover;
            let found = self.records.iter().position(|r| of(r) && !r.over);
            let at = found.unwrap_or_else(|| {
                let part = self.records.iter().filter(|r| of(r)).count() as u32;
                self.records.push(Record::new(self.takeover, wish.lane.clone(), part, &self.spec));
                self.records.len() - 1
            });
            let record = &mut self.records[at];
            if record.live.is_some() || record.not_before.is_some_and(|at| now < at) {
                continue;
            }
            if wish.begin == Begin::Soon {
                let since = *record.merge_since.get_or_insert(now);
                if now < since.plus(self.policy.merge_wait) {
                    continue;
                }
            }
            record.merge_since = None;
            record.not_before = None;
            let run = self.next_run;
            self.next_run = self.next_run.saturating_add(1);
            record.runs.push(run);
            self.reshaped = true;
            record.live = Some(Live { run, feed: wish.feed.clone(), state: LiveState::Running });
            let run = LaneRun { task: self.id.clone(), lane: wish.lane.clone(), run };
            effects.push(Effect::StartLane { run, feed: wish.feed.clone() });
        }
    }

    fn drive_end(&mut self, since: Timestamp, now: Timestamp, effects: &mut Vec<Effect>) {
        self.close_settled(u8::MAX, now, effects);
        let packed = self.drive_packing(now, effects);
        let hls = !self.spec.output.hls() || self.records.iter().all(Record::complete);
        // the files of the task: its lists and segments, or only what they are packed into
        let all_there = hls && (self.spec.output.hls() || packed);
        if all_there && !self.told_stop {
            let lost = self.records.iter().flat_map(|r| r.pieces.values()).any(|p| p.fate == PieceFate::Lost);
            // A lost piece never arrives: the task ends with Status 1, said once.
            let status = match (lost, self.told_left_behind) {
                (false, false) => Some(0),
                (false, true) => Some(2),
                (true, false) => Some(1),
                (true, true) => None,
            };
            self.told_stop = true;
            self.reshaped = true;
            if let Some(status) = status.filter(|_| self.spec.vod().is_none()) {
                effects.push(self.announce(EventBody::UploadStop { status }, now));
            }
        } else if !all_there && !self.told_left_behind && now >= since.plus(self.policy.grace) {
            self.told_left_behind = true;
            if self.spec.vod().is_none() {
                effects.push(self.announce(EventBody::UploadStop { status: 1 }, now));
            }
        }
        if all_there && packed {
            self.phase = Phase::Done;
            self.reshaped = true;
            if self.spec.output != Output::Hls {
                effects.push(Effect::LetGo);
            }
            effects.push(Effect::Forget);
        }
    }
}
