//! Random walks of the recording machine: the world around one task, which holds it to its promises at every step.
#![allow(dead_code, reason = "each test file uses its share")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast::model::event::{EventBody, LeaveCode};
use holdfast::model::fate::Fate;
use holdfast::model::piece::Piece;
use holdfast::model::playlist::Playlist;
use holdfast::model::recording::{
    Destination, MediaFilter, RecordingSpec, StreamType, Subscribers, Subscription, Vendor,
};
use holdfast::model::room::{Room, Track};
use holdfast::model::segment::{ClosedSegment, LocalName};
use holdfast::model::task::{Effect, Found, Input, Phase, Policy, RecordingTask, Shape};
use holdfast::model::{
    Codec, LaneRun, MediaId, RoomId, SdkAppId, SessionId, TaskId, Timestamp, TrackId, TrackKind, UserId,
};
use proptest::prelude::*;

pub fn spec(av_merge: bool) -> RecordingSpec {
    RecordingSpec {
        app: SdkAppId(1_400_000_001),
        room: RoomId::Number(12345),
        mix: None,
        recorder: UserId::parse("recorder").unwrap(),
        streams: StreamType::AudioVideo,
        media: MediaFilter::Both,
        subscription: Subscription::default(),
        max_idle: Duration::from_secs(30),
        av_merge,
        fill_black: false,
        call_expiry: Duration::from_secs(72 * 3600),
        output: Default::default(),
        file_length: Duration::from_secs(24 * 3600),
        resume_wait: None,
        destination: Destination { vendor: Vendor::S3, region: "r".into(), bucket: "b".into(), prefix: vec![] },
    }
}

#[derive(Debug, Clone)]
pub enum Step {
    Enter(u8),
    Leave(u8),
    TrackUp(u8, bool),
    TrackDown(u8, bool),
    /// the n-th live lane closes a segment
    Close(u8),
    /// the n-th live lane loses what it was writing, and fails
    Tear(u8),
    /// the n-th live lane ends (by itself, or as it was asked to)
    End(u8, bool),
    /// the n-th open spool order is answered
    Spooled(u8),
    Lost(u8),
    /// the n-th spooled object arrives
    Uploaded(u8),
    /// the n-th published playlist arrives
    PlaylistUp(u8),
    UploadFailed(u8),
    Deny(u8),
    Stop,
    Wait(u16),
    /// the process dies and comes back
    Restart,
    /// the same, and the index is gone
    LoseIndex,
    /// the same, and of the index some of the pieces are gone
    Forgetful(u64),
    /// the n-th published playlist is lost by the disk
    ListLost(u8),
    /// the wall clock is set, by so many seconds
    SetClock(i32),
    Pause,
    Resume,
    /// once it is discarded: the shelf is cleared, or the destination is
    Gone,
}

pub fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        3 => (0u8..3).prop_map(Enter),
        2 => (0u8..3).prop_map(Leave),
        6 => (0u8..3, any::<bool>()).prop_map(|(u, a)| TrackUp(u, a)),
        1 => (0u8..3, any::<bool>()).prop_map(|(u, a)| TrackDown(u, a)),
        8 => any::<u8>().prop_map(Close),
        1 => any::<u8>().prop_map(Tear),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(n, f)| End(n, f)),
        8 => any::<u8>().prop_map(Spooled),
        1 => any::<u8>().prop_map(Lost),
        8 => any::<u8>().prop_map(Uploaded),
        6 => any::<u8>().prop_map(PlaylistUp),
        1 => (0u8..2).prop_map(UploadFailed),
        1 => (0u8..3).prop_map(Deny),
        1 => Just(Stop),
        3 => (1u16..40).prop_map(Wait),
        1 => Just(Restart),
        1 => Just(LoseIndex),
        1 => any::<u64>().prop_map(Forgetful),
        1 => any::<u8>().prop_map(ListLost),
        1 => (-100_000..100_000i32).prop_map(SetClock),
        1 => Just(Pause),
        1 => Just(Resume),
        1 => Just(Gone),
    ]
}

/// A lane that runs.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// Segments closed so far.
    pub index: u32,
    /// What the open one holds begins here.
    pub since: Timestamp,
    /// It takes nothing from then on.
    pub until: Option<Timestamp>,
}

/// The world around one task: a room, lanes that run, a shelf, a destination.
pub struct World {
    pub task: RecordingTask,
    pub room: Room,
    pub now: Timestamp,
    pub next_track: u64,
    pub lanes: BTreeMap<LaneRun, Running>,
    /// Stretches that nobody but those in the room may hear; the last one may go on.
    pub private: Vec<(Timestamp, Option<Timestamp>)>,
    /// What was asked for a discarded task in this life, and has not been done.
    pub withheld: bool,
    pub to_clear: bool,
    pub to_erase: bool,
    pub cleared: bool,
    pub closed: BTreeSet<(u32, u32)>,
    pub spool_orders: Vec<(ClosedSegment, String)>,
    pub spooled_orders_seen: BTreeMap<(u32, u32), u32>,
    pub shelf: Vec<(ClosedSegment, String)>,
    pub destination: BTreeSet<String>,
    pub playlists: Vec<(String, u64, String)>,
    pub newest_text: BTreeMap<String, (u64, String)>,
    pub pieces: BTreeMap<String, Piece>,
    pub told: BTreeMap<u64, EventBody>,
    pub lost: BTreeSet<(u32, u32)>,
    pub restarts: u8,
    /// The record in the index, and what the task's folder knows.
    pub indexed: Vec<u8>,
    pub shape: Option<Shape>,
    pub journal: Vec<(LocalName, String)>,
    pub lost_files: Vec<LocalName>,
    pub index_was_lost: bool,
    pub forgotten: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Memory {
    Whole,
    Holes(u64),
    Gone,
}

impl World {
    pub fn new(av_merge: bool) -> World {
        let now = Timestamp::from_ms(1_800_000_000_000);
        let id = TaskId::from_random(b"0123456789abcdef");
        let (task, effects) = RecordingTask::create(id, spec(av_merge), Policy::default(), now);
        let mut world = World {
            task,
            room: Room::default(),
            now,
            next_track: 0,
            lanes: BTreeMap::new(),
            private: Vec::new(),
            withheld: false,
            to_clear: false,
            to_erase: false,
            cleared: false,
            closed: BTreeSet::new(),
            spool_orders: Vec::new(),
            spooled_orders_seen: BTreeMap::new(),
            shelf: Vec::new(),
            destination: BTreeSet::new(),
            playlists: Vec::new(),
            newest_text: BTreeMap::new(),
            pieces: BTreeMap::new(),
            told: BTreeMap::new(),
            lost: BTreeSet::new(),
            restarts: 0,
            indexed: Vec::new(),
            shape: None,
            journal: Vec::new(),
            lost_files: Vec::new(),
            index_was_lost: false,
            forgotten: false,
        };
        world.perform(effects);
        world.reconcile();
        world
    }

    pub fn user(n: u8) -> UserId {
        UserId::parse(&format!("user{n}")).unwrap()
    }

    pub fn reconcile(&mut self) {
        let effects = self.task.reconcile(&self.room, self.now);
        self.perform(effects);
    }

    pub fn apply(&mut self, input: Input) {
        let effects = self.task.apply(input, self.now);
        self.perform(effects);
    }

    pub fn perform(&mut self, effects: Vec<Effect>) {
        let shape = self.task.take_shape();
        self.indexed = serde_json::to_vec(&self.task).unwrap();
        if let Some(shape) = shape {
            let text = shape.to_text();
            assert_eq!(Shape::parse(&text).unwrap(), shape);
            self.shape = Some(shape);
        }
        for effect in effects {
            match effect {
                Effect::SavePiece(piece) => drop(self.pieces.insert(piece.object.clone(), piece)),
                Effect::Announce(event) => {
                    let before = self.told.insert(event.seq, event.body.clone());
                    assert!(before.is_none_or(|b| b == event.body), "one number, two events: {}", event.seq);
                }
                Effect::StartLane { run, .. } => {
                    let same_lane = self.lanes.keys().filter(|r| r.lane == run.lane).count();
                    assert_eq!(same_lane, 0, "two pipelines of one lane at once");
                    assert_eq!(self.task.phase, Phase::Active, "a lane started outside Active");
                    assert!(!self.is_private(), "a lane started while paused");
                    self.lanes.insert(run, Running { index: 0, since: self.now, until: None });
                }
                Effect::FinishLane(_) | Effect::KillLane(_) => {}
                Effect::PauseLane(run) => {
                    let now = self.now;
                    let lane = self.lanes.get_mut(&run).expect("only what runs can pause");
                    lane.until = Some(lane.until.map_or(now, |before| before.min(now)));
                }
                Effect::Withhold => self.withheld = true,
                Effect::Clear => {
                    assert!(self.withheld && self.lanes.is_empty(), "it is cleared while something still writes");
                    self.to_clear = true;
                }
                Effect::Erase { names, .. } => {
                    assert!(self.withheld && self.cleared, "the destination is cleared before the box");
                    let known = |object: &&String| self.pieces.contains_key(*object);
                    assert!(self.destination.iter().all(|object| known(&object)), "{:?}", self.destination);
                    assert!(self.newest_text.keys().all(|list| names.contains(list)), "{names:?}");
                    self.to_erase = true;
                }
                Effect::Wedged(run) => drop(self.lanes.remove(&run)),
                Effect::Spool { segment, object } => {
                    assert!(!self.task.is_discarded(), "{object} of a discarded task is shelved");
                    let key = (segment.run.run, segment.index);
                    *self.spooled_orders_seen.entry(key).or_default() += 1;
                    assert_eq!(self.spooled_orders_seen[&key], 1, "a segment was spooled twice");
                    assert!(self.spool_orders.iter().all(|(_, o)| *o != object), "two segments with one name");
                    assert!(self.shelf.iter().all(|(_, o)| *o != object), "two segments with one name");
                    self.spool_orders.push((segment, object));
                }
                Effect::PublishPlaylist { object, version, text } => {
                    assert!(!self.task.is_discarded(), "{object} of a discarded task is published");
                    let list = Playlist::parse(&text).expect("a playlist that parses");
                    for item in &list.items {
                        assert!(self.destination.contains(&item.name), "{} is listed before it arrived", item.name);
                    }
                    if let Some((older, before)) = self.newest_text.get(&object) {
                        assert!(version > *older, "versions rise");
                        let before = Playlist::parse(before).unwrap();
                        assert!(list.items.starts_with(&before.items), "a playlist only grows");
                        assert!(!before.ended || list.items == before.items, "nothing grows after ENDLIST");
                    }
                    self.newest_text.insert(object.clone(), (version, text.clone()));
                    self.playlists.push((object, version, text));
                }
                Effect::ChangeScene { .. } => panic!("single streams have no scene"),
                Effect::FetchImage { .. } => panic!("single streams show no image"),
                Effect::Package(_) | Effect::SpoolPackage { .. } | Effect::PackageSettled { .. } | Effect::LetGo => {
                    panic!("hls alone is not packed")
                }
                Effect::Forget => {
                    assert_eq!(self.task.phase, Phase::Done);
                    self.forgotten = true;
                }
            }
        }
    }

    pub fn close_segment(&mut self, run: &LaneRun) {
        let Some(lane) = self.lanes.get(run).copied() else { return };
        let index = lane.index;
        self.assert_public(&lane);
        self.lanes.insert(run.clone(), Running { index: index + 1, since: self.now, ..lane });
        self.closed.insert((run.run, index));
        if index == 0 {
            self.apply(Input::FirstMedia { run: run.clone(), at: self.now });
        }
        self.apply(Input::SegmentClosed(self.segment(run, index)));
    }

    pub fn is_private(&self) -> bool {
        self.private.last().is_some_and(|(_, until)| until.is_none())
    }

    /// What the open segment of a lane holds has nothing of a private stretch.
    pub fn assert_public(&self, lane: &Running) {
        let until = lane.until.unwrap_or(self.now).min(self.now);
        for (from, to) in &self.private {
            let apart = until <= *from || to.is_some_and(|to| to <= lane.since) || until <= lane.since;
            assert!(apart, "{lane:?} holds something of {from:?} to {to:?}, now {:?}", self.now);
        }
    }

    pub fn segment(&self, run: &LaneRun, index: u32) -> ClosedSegment {
        let mut segment = ClosedSegment {
            run: run.clone(),
            index,
            start: self.now,
            duration: Duration::from_secs(1),
            bytes: 188,
            size: None,
            discontinuity: false,
            part_name: String::new(),
        };
        segment.part_name = LocalName::of(&segment).part().to_string();
        segment
    }

    pub fn nth<T: Clone>(list: &[T], n: u8) -> Option<T> {
        (!list.is_empty()).then(|| list[usize::from(n) % list.len()].clone())
    }

    pub fn nth_lane(&self, n: u8) -> Option<LaneRun> {
        Self::nth(&self.lanes.keys().cloned().collect::<Vec<_>>(), n)
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Enter(u) => {
                let session = SessionId(u64::from(u));
                self.room.enter(session, Self::user(u), MediaId::Main, [TrackKind::Audio, TrackKind::Video]);
                self.reconcile();
            }
            Step::Leave(u) => {
                self.room.leave(SessionId(u64::from(u)));
                self.reconcile();
            }
            Step::TrackUp(u, audio) => {
                let kind = if audio { TrackKind::Audio } else { TrackKind::Video };
                self.next_track += 1;
                let track = Track { id: TrackId(self.next_track), codec: Codec::H264 };
                self.room.track_up(SessionId(u64::from(u)), kind, track);
                self.reconcile();
            }
            Step::TrackDown(u, audio) => {
                let kind = if audio { TrackKind::Audio } else { TrackKind::Video };
                let presences = self.room.presences().to_vec();
                for presence in presences.iter().filter(|p| p.session == SessionId(u64::from(u))) {
                    if let Some(track) = presence.tracks.get(&kind) {
                        self.room.track_down(presence.session, track.id);
                    }
                }
                self.reconcile();
            }
            Step::Close(n) => {
                if let Some(run) = self.nth_lane(n) {
                    self.close_segment(&run);
                }
            }
            Step::Tear(n) => {
                if let Some(run) = self.nth_lane(n).filter(|_| !self.task.is_discarded()) {
                    let Running { index, .. } = self.lanes.remove(&run).unwrap();
                    self.closed.insert((run.run, index));
                    self.lost.insert((run.run, index));
                    let segment = self.segment(&run, index);
                    // of a discarded task the file goes, and no note of it is kept
                    self.lost_files.push(LocalName::of(&segment).part());
                    self.apply(Input::SegmentLost { segment, why: "fsync failed".into() });
                    self.apply(Input::LaneEnded { run, failed: true });
                    self.reconcile();
                }
            }
            Step::End(n, failed) => {
                if let Some(run) = self.nth_lane(n) {
                    self.lanes.remove(&run);
                    self.apply(Input::LaneEnded { run, failed });
                    self.reconcile();
                }
            }
            Step::Spooled(n) => {
                if let Some(order) = Self::nth(&self.spool_orders, n) {
                    self.spool_orders.retain(|o| o != &order);
                    self.shelf.push(order.clone());
                    self.apply(Input::Fate(Fate::Spooled(order.0)));
                }
            }
            Step::Lost(n) => {
                if let Some(order) = Self::nth(&self.spool_orders, n) {
                    self.spool_orders.retain(|o| o != &order);
                    self.lost.insert((order.0.run.run, order.0.index));
                    self.lost_files.push(LocalName::of(&order.0));
                    self.apply(Input::Fate(Fate::Lost { segment: order.0, why: "fsync failed".into() }));
                }
            }
            Step::Uploaded(n) => {
                if let Some(order) = Self::nth(&self.shelf, n) {
                    self.shelf.retain(|o| o != &order);
                    self.destination.insert(order.1.clone());
                    self.journal.push((LocalName::of(&order.0), order.1.clone()));
                    self.apply(Input::Fate(Fate::SegmentUploaded { object: order.1 }));
                }
            }
            Step::PlaylistUp(n) => {
                if let Some(list) = Self::nth(&self.playlists, n) {
                    self.playlists.retain(|l| l.0 != list.0 || l.1 > list.1);
                    self.apply(Input::Fate(Fate::PlaylistUploaded { object: list.0, version: list.1 }));
                }
            }
            Step::UploadFailed(n) => {
                let message = format!("why {n}");
                self.apply(Input::Fate(Fate::UploadFailed { code: "SlowDown".into(), message }));
            }
            Step::Deny(u) => {
                let list = Subscribers::AllBut(vec![Self::user(u).as_str().into()]);
                let subscription = Subscription { audio: list.clone(), video: list };
                self.apply(Input::Modify { subscription, layout: None });
                self.reconcile();
            }
            Step::Stop => self.apply(Input::Stop(LeaveCode::Stopped)),
            Step::Wait(seconds) => {
                self.now = self.now.plus(Duration::from_secs(u64::from(seconds)));
                self.apply(Input::Tick);
            }
            Step::Restart => self.restart(Memory::Whole),
            Step::LoseIndex => self.restart(Memory::Gone),
            Step::Forgetful(which) => self.restart(Memory::Holes(which)),
            Step::ListLost(n) => {
                if let Some((object, version, _)) = Self::nth(&self.playlists, n) {
                    self.playlists.retain(|l| l.0 != object || l.1 != version);
                    self.apply(Input::Fate(Fate::PlaylistLost { object, version }));
                }
            }
            Step::SetClock(seconds) => {
                let by = i64::from(seconds) * 1_000_000;
                let left = self.task.deadline().map(|due| due.since(self.now));
                let phase = self.task.phase;
                self.now = Timestamp(self.now.0 + by);
                let step = |at: &mut Timestamp| at.0 += by;
                for (from, to) in &mut self.private {
                    step(from);
                    to.iter_mut().for_each(step);
                }
                for lane in self.lanes.values_mut() {
                    step(&mut lane.since);
                    lane.until.iter_mut().for_each(step);
                }
                self.task.clock_stepped(by);
                assert_eq!(self.task.deadline().map(|due| due.since(self.now)), left, "no wait grows or shrinks");
                self.apply(Input::Tick);
                let still = std::mem::discriminant(&phase) == std::mem::discriminant(&self.task.phase);
                assert!(still || left == Some(Duration::ZERO), "the clock alone ended {phase:?}");
            }
            Step::Pause => {
                if self.task.phase == Phase::Active && !self.is_private() {
                    self.private.push((self.now, None));
                }
                self.apply(Input::Pause);
                let limited = self.lanes.values().all(|lane| lane.until.is_some());
                assert!(self.task.phase != Phase::Active || limited, "a lane goes on: {:?}", self.lanes);
            }
            Step::Resume => {
                let now = self.now;
                if self.task.phase == Phase::Active && self.is_private() {
                    self.private.last_mut().expect("it is private").1 = Some(now);
                }
                self.apply(Input::Resume);
            }
            Step::Gone => self.gone(),
        }
        let private = self.task.phase == Phase::Active && self.is_private();
        assert_eq!(self.task.is_paused(), private, "whatever happens, it is paused until it is resumed");
        let waiting_for_word = !self.lanes.is_empty()
            || !self.spool_orders.is_empty()
            || !self.shelf.is_empty()
            || !self.playlists.is_empty()
            || self.to_clear
            || self.to_erase;
        let may_rest = self.task.phase == Phase::Active || self.task.phase == Phase::Done;
        assert!(may_rest || waiting_for_word || self.task.deadline().is_some(), "stuck in {:?}", self.task.phase);
    }

    /// The next word of what is discarded.
    pub fn gone(&mut self) {
        if std::mem::take(&mut self.to_clear) {
            self.cleared = true;
            self.spool_orders.clear();
            self.shelf.clear();
            self.playlists.clear();
            self.apply(Input::Fate(Fate::Cleared { files: 3, bytes: 564 }));
        } else if std::mem::take(&mut self.to_erase) {
            let objects = self.destination.len() as u64;
            self.destination.clear();
            self.apply(Input::Fate(Fate::Erased { objects, bytes: objects * 188, uploads: 0, media: Vec::new() }));
        }
    }

    pub fn restart(&mut self, memory: Memory) {
        if self.task.phase == Phase::Done {
            assert!(self.forgotten, "a task that is done is forgotten");
            // The process dies before it is: that is all that is left to do.
            self.forgotten = false;
            let task: RecordingTask = serde_json::from_slice(&self.indexed).unwrap();
            let (task, effects) = task.restore(Vec::new(), Policy::default(), self.now);
            self.task = task;
            self.perform(effects);
            assert!(self.forgotten, "a task that was done is stuck");
            return;
        }
        self.restarts += 1;
        (self.withheld, self.to_clear, self.to_erase) = (false, false, false);
        self.lanes.values().for_each(|lane| self.assert_public(lane));
        self.room = Room::default();
        // What a lane was writing when the process died is torn, and found on the disk.
        let torn: Vec<ClosedSegment> = std::mem::take(&mut self.lanes)
            .into_iter()
            .map(|(run, Running { index, .. })| {
                self.closed.insert((run.run, index));
                self.segment(&run, index)
            })
            .collect();
        if self.restarts % 2 == 1 {
            // The lists had arrived, and the word of it died with the process.
            self.playlists.clear();
        }
        // Of what was on its way to the shelf, some have their last name already.
        let mut on_their_way: Vec<ClosedSegment> =
            std::mem::take(&mut self.spool_orders).into_iter().map(|(segment, _)| segment).collect();
        for segment in on_their_way.iter_mut().filter(|segment| segment.index % 2 == 0) {
            segment.part_name = LocalName::of(segment).to_string();
        }
        if let Memory::Holes(which) = memory {
            // The shelf has lost some of its own records: it finds the files.
            let mut n = 0;
            let (kept, adopted) = std::mem::take(&mut self.shelf).into_iter().partition(|_| {
                n += 1;
                which >> (n % 61) & 1 == 1
            });
            self.shelf = kept;
            on_their_way.extend(adopted.into_iter().map(|(segment, _): (ClosedSegment, String)| {
                let part_name = LocalName::of(&segment).to_string();
                ClosedSegment { part_name, ..segment }
            }));
        }
        let adopted: Vec<ClosedSegment> = on_their_way.into_iter().chain(torn).collect();
        let mut pieces: Vec<Piece> = self.pieces.values().cloned().collect();
        let mut indexed = Some(serde_json::from_slice::<RecordingTask>(&self.indexed).unwrap());
        match memory {
            Memory::Whole => {}
            Memory::Holes(which) => {
                let mut n = 0;
                pieces.retain(|_| {
                    n += 1;
                    which >> (n % 64) & 1 == 1
                });
                self.index_was_lost = true;
            }
            Memory::Gone => {
                (indexed, self.index_was_lost) = (None, true);
                pieces.clear();
                self.playlists.clear();
                self.newest_text.values_mut().for_each(|(version, _)| *version = 0);
            }
        }
        let found = Found {
            uploaded: self.journal.clone(),
            lost: self.lost_files.clone(),
            spooled: self.shelf.iter().map(|(segment, object)| (object.clone(), segment.clone())).collect(),
            adopted: adopted.clone(),
            playlists: self.playlists.iter().map(|(object, version, _)| (object.clone(), *version)).collect(),
        };
        let shape = self.shape.clone().expect("written when the task was created");
        let (mut task, believed) = RecordingTask::reconcile_index(indexed, shape);
        assert_eq!(believed, memory != Memory::Gone);
        let (pieces, lacking) = task.mend(pieces, &found);
        assert!(memory != Memory::Whole || lacking.is_empty(), "the index lacks {lacking:?}");
        self.pieces.extend(lacking.into_iter().map(|piece| (piece.object.clone(), piece)));
        let again = if memory == Memory::Whole { Vec::new() } else { task.tell_again(&[]) };
        let (task, effects) = task.restore(pieces, Policy::default(), self.now);
        self.task = task;
        self.perform(again);
        self.perform(effects);
        // The shelf knows what it has, and takes in what was on its way.
        let mut known = BTreeSet::new();
        for (segment, _) in self.shelf.clone() {
            known.insert((segment.run.run, segment.index));
            self.apply(Input::Fate(Fate::Spooled(segment)));
        }
        for segment in adopted {
            known.insert((segment.run.run, segment.index));
            self.spooled_orders_seen.remove(&(segment.run.run, segment.index));
            self.apply(Input::SegmentClosed(segment));
        }
        let effects = self.task.settle_unfound(&known, self.now);
        self.perform(effects);
        self.reconcile();
        assert!(self.withheld || !self.task.is_discarded(), "a discarded task is carried after a restart");
    }

    /// Everything that is under way comes to its end.
    pub fn finish(&mut self) {
        self.apply(Input::Stop(LeaveCode::Stopped));
        for _ in 0..10_000 {
            if self.task.phase == Phase::Done {
                return;
            }
            if !self.lanes.is_empty() {
                self.step(Step::End(0, false));
            } else if self.to_clear || self.to_erase {
                self.step(Step::Gone);
            } else if !self.spool_orders.is_empty() {
                self.step(Step::Spooled(0));
            } else if !self.shelf.is_empty() {
                self.step(Step::Uploaded(0));
            } else if !self.playlists.is_empty() {
                self.step(Step::PlaylistUp(0));
            } else {
                self.step(Step::Wait(30));
            }
        }
        panic!("the task never ended: {:?}", self.task);
    }

    pub fn count(&self, is: impl Fn(&EventBody) -> bool) -> usize {
        self.told.values().filter(|body| is(body)).count()
    }
}

/// Somebody is there, and when the task has waited enough, a segment is recorded.
pub fn record_something(world: &mut World) {
    world.step(Step::Enter(0));
    world.step(Step::TrackUp(0, true));
    world.step(Step::Wait(120));
    assert!(!world.lanes.is_empty(), "a lane runs");
    world.step(Step::Close(0));
}
