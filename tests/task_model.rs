//! The recording machine against its promises, on random walks: whatever happens, in whatever order, every closed
//! segment is spooled exactly once, playlists list only what arrived and only grow, and the end is told once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast::model::event::{EventBody, LeaveCode};
use holdfast::model::playlist::Playlist;
use holdfast::model::recording::{
    Destination, Fate, MediaFilter, RecordingSpec, StreamType, Subscribers, Subscription, Vendor,
};
use holdfast::model::room::{Room, Track};
use holdfast::model::segment::ClosedSegment;
use holdfast::model::task::{Effect, Input, Phase, Piece, Policy, RecordingTask};
use holdfast::model::{
    Codec, LaneRun, MediaId, RoomId, SdkAppId, SessionId, TaskId, Timestamp, TrackId, TrackKind, UserId,
};
use proptest::prelude::*;

fn spec(av_merge: bool) -> RecordingSpec {
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
        destination: Destination { vendor: Vendor::S3, region: "r".into(), bucket: "b".into(), prefix: vec![] },
    }
}

#[derive(Debug, Clone)]
enum Step {
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
}

fn step() -> impl Strategy<Value = Step> {
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
    ]
}

/// The world around one task: a room, lanes that run, a shelf, a destination.
struct World {
    task: RecordingTask,
    room: Room,
    now: Timestamp,
    next_track: u64,
    /// live lanes: run → (segments closed so far, asked to end)
    lanes: BTreeMap<LaneRun, (u32, bool)>,
    closed: BTreeSet<(u32, u32)>,
    spool_orders: Vec<(ClosedSegment, String)>,
    spooled_orders_seen: BTreeMap<(u32, u32), u32>,
    shelf: Vec<(ClosedSegment, String)>,
    destination: BTreeSet<String>,
    playlists: Vec<(String, u64, String)>,
    newest_text: BTreeMap<String, (u64, String)>,
    pieces: BTreeMap<String, Piece>,
    told: Vec<(u64, EventBody)>,
    lost: BTreeSet<(u32, u32)>,
    restarts: u8,
}

impl World {
    fn new(av_merge: bool) -> World {
        let now = Timestamp::from_ms(1_800_000_000_000);
        let id = TaskId::from_random(b"0123456789abcdef");
        let (task, effects) = RecordingTask::create(id, spec(av_merge), Policy::default(), now);
        let mut world = World {
            task,
            room: Room::default(),
            now,
            next_track: 0,
            lanes: BTreeMap::new(),
            closed: BTreeSet::new(),
            spool_orders: Vec::new(),
            spooled_orders_seen: BTreeMap::new(),
            shelf: Vec::new(),
            destination: BTreeSet::new(),
            playlists: Vec::new(),
            newest_text: BTreeMap::new(),
            pieces: BTreeMap::new(),
            told: Vec::new(),
            lost: BTreeSet::new(),
            restarts: 0,
        };
        world.perform(effects);
        world.reconcile();
        world
    }

    fn user(n: u8) -> UserId {
        UserId::parse(&format!("user{n}")).unwrap()
    }

    fn reconcile(&mut self) {
        let effects = self.task.reconcile(&self.room, self.now);
        self.perform(effects);
    }

    fn apply(&mut self, input: Input) {
        let effects = self.task.apply(input, self.now);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::SavePiece(piece) => drop(self.pieces.insert(piece.object.clone(), piece)),
                Effect::Announce(event) => self.told.push((event.seq, event.body)),
                Effect::StartLane { run, .. } => {
                    let same_lane = self.lanes.keys().filter(|r| r.lane == run.lane).count();
                    assert_eq!(same_lane, 0, "two pipelines of one lane at once");
                    assert_eq!(self.task.phase, Phase::Active, "a lane started outside Active");
                    self.lanes.insert(run, (0, false));
                }
                Effect::FinishLane(run) | Effect::KillLane(run) => {
                    if let Some(lane) = self.lanes.get_mut(&run) {
                        lane.1 = true;
                    }
                }
                Effect::Wedged(run) => drop(self.lanes.remove(&run)),
                Effect::Spool { segment, object } => {
                    let key = (segment.run.run, segment.index);
                    *self.spooled_orders_seen.entry(key).or_default() += 1;
                    assert_eq!(self.spooled_orders_seen[&key], 1, "a segment was spooled twice");
                    assert!(self.spool_orders.iter().all(|(_, o)| *o != object), "two segments with one name");
                    assert!(self.shelf.iter().all(|(_, o)| *o != object), "two segments with one name");
                    self.spool_orders.push((segment, object));
                }
                Effect::PublishPlaylist { object, version, text } => {
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
                Effect::Forget => assert_eq!(self.task.phase, Phase::Done),
            }
        }
    }

    fn close_segment(&mut self, run: &LaneRun) {
        let Some(lane) = self.lanes.get_mut(run) else { return };
        let index = lane.0;
        lane.0 += 1;
        self.closed.insert((run.run, index));
        if index == 0 {
            self.apply(Input::FirstMedia { run: run.clone(), at: self.now });
        }
        self.apply(Input::SegmentClosed(self.segment(run, index)));
    }

    fn segment(&self, run: &LaneRun, index: u32) -> ClosedSegment {
        ClosedSegment {
            run: run.clone(),
            index,
            start: self.now,
            duration: Duration::from_secs(1),
            bytes: 188,
            size: None,
            discontinuity: false,
            part_name: String::new(),
        }
    }

    fn nth<T: Clone>(list: &[T], n: u8) -> Option<T> {
        (!list.is_empty()).then(|| list[usize::from(n) % list.len()].clone())
    }

    fn nth_lane(&self, n: u8) -> Option<LaneRun> {
        Self::nth(&self.lanes.keys().cloned().collect::<Vec<_>>(), n)
    }

    fn step(&mut self, step: Step) {
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
                if let Some(run) = self.nth_lane(n) {
                    let (index, _) = self.lanes.remove(&run).unwrap();
                    self.closed.insert((run.run, index));
                    self.lost.insert((run.run, index));
                    let segment = self.segment(&run, index);
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
                    self.apply(Input::Fate(Fate::Lost { segment: order.0, why: "fsync failed".into() }));
                }
            }
            Step::Uploaded(n) => {
                if let Some(order) = Self::nth(&self.shelf, n) {
                    self.shelf.retain(|o| o != &order);
                    self.destination.insert(order.1.clone());
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
            Step::Restart => self.restart(),
        }
        let waiting_for_word = !self.lanes.is_empty()
            || !self.spool_orders.is_empty()
            || !self.shelf.is_empty()
            || !self.playlists.is_empty();
        let may_rest = self.task.phase == Phase::Active || self.task.phase == Phase::Done;
        assert!(may_rest || waiting_for_word || self.task.deadline().is_some(), "stuck in {:?}", self.task.phase);
    }

    fn restart(&mut self) {
        if self.task.phase == Phase::Done {
            return;
        }
        self.restarts += 1;
        let bytes = serde_json::to_vec(&self.task).unwrap();
        let task: RecordingTask = serde_json::from_slice(&bytes).unwrap();
        let pieces: Vec<Piece> = self.pieces.values().cloned().collect();
        self.room = Room::default();
        // What a lane was writing when the process died is torn, and found on the disk.
        let torn: Vec<ClosedSegment> = std::mem::take(&mut self.lanes)
            .into_iter()
            .map(|(run, (index, _))| {
                self.closed.insert((run.run, index));
                self.segment(&run, index)
            })
            .collect();
        if self.restarts % 2 == 1 {
            // The lists had arrived, and the word of it died with the process.
            self.playlists.clear();
        }
        let (task, effects) = task.restore(pieces, Policy::default(), self.now);
        self.task = task;
        self.perform(effects);
        // The shelf knows what it has, and takes in what was on its way.
        let mut known = BTreeSet::new();
        for (segment, _) in self.shelf.clone().into_iter().chain(std::mem::take(&mut self.spool_orders)) {
            let key = (segment.run.run, segment.index);
            known.insert(key);
            self.spooled_orders_seen.remove(&key);
            let on_shelf = self.shelf.iter().any(|(s, _)| *s == segment);
            if on_shelf {
                self.spooled_orders_seen.insert(key, 1);
                self.apply(Input::Fate(Fate::Spooled(segment)));
            } else {
                self.apply(Input::SegmentClosed(segment));
            }
        }
        for segment in torn {
            known.insert((segment.run.run, segment.index));
            self.apply(Input::SegmentClosed(segment));
        }
        let effects = self.task.settle_unfound(&known, self.now);
        self.perform(effects);
        self.reconcile();
    }

    /// Everything that is under way comes to its end.
    fn finish(&mut self) {
        self.apply(Input::Stop(LeaveCode::Stopped));
        for _ in 0..10_000 {
            if self.task.phase == Phase::Done {
                return;
            }
            if !self.lanes.is_empty() {
                self.step(Step::End(0, false));
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

    fn count(&self, is: impl Fn(&EventBody) -> bool) -> usize {
        self.told.iter().filter(|(_, body)| is(body)).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn promises_hold_on_every_walk(av_merge: bool, steps in proptest::collection::vec(step(), 1..150)) {
        let mut world = World::new(av_merge);
        for step in steps {
            world.step(step);
        }
        world.finish();

        let seqs: Vec<u64> = world.told.iter().map(|(seq, _)| *seq).collect();
        prop_assert_eq!(seqs, (0..world.told.len() as u64).collect::<Vec<_>>(), "event numbers have no holes");
        prop_assert_eq!(world.count(|b| matches!(b, EventBody::RecorderStart { .. })), 1);
        prop_assert_eq!(world.count(|b| matches!(b, EventBody::RecorderStop { .. })), 1, "302 is told once");
        prop_assert!(world.count(|b| matches!(b, EventBody::Failover)) <= 3);
        let stops: Vec<u8> = world.told.iter()
            .filter_map(|(_, b)| if let EventBody::UploadStop { status } = b { Some(*status) } else { None })
            .collect();
        let expected: &[&[u8]] = if world.lost.is_empty() { &[&[0], &[1, 2]] } else { &[&[1]] };
        prop_assert!(expected.contains(&stops.as_slice()), "305 says {:?}, lost {:?}", stops, world.lost);

        // Every segment that was closed is at the destination and in its closed playlist, or was told lost.
        let mut listed = BTreeSet::new();
        for (_, text) in world.newest_text.values() {
            let list = Playlist::parse(text).unwrap();
            prop_assert!(list.ended, "an open playlist is left behind");
            listed.extend(list.items.into_iter().map(|item| item.name));
        }
        prop_assert_eq!(&listed, &world.destination);
        prop_assert_eq!(listed.len() + world.lost.len(), world.closed.len());
        let slices = world.count(|b| matches!(b, EventBody::FileSlice { .. }));
        let infos = world.count(|b| matches!(b, EventBody::FileInfo { .. }));
        prop_assert_eq!(infos, world.newest_text.len(), "304 for each playlist");
        prop_assert!(slices >= infos);
    }
}

#[test]
fn the_fourth_failure_of_the_box_ends_the_task() {
    let mut world = World::new(false);
    for _ in 0..3 {
        world.restart();
        assert_eq!(world.task.phase, Phase::Active);
    }
    world.restart();
    assert_eq!(world.count(|b| matches!(b, EventBody::Failover)), 3);
    assert_eq!(world.count(|b| matches!(b, EventBody::RecorderStop { code: LeaveCode::TimedOut })), 1);
    assert_eq!(world.task.phase, Phase::Done);
}

#[test]
fn nobody_in_the_room_for_the_idle_time_ends_it() {
    let mut world = World::new(false);
    world.step(Step::Wait(29));
    assert_eq!(world.task.phase, Phase::Active);
    world.step(Step::Enter(0));
    world.step(Step::Wait(39));
    assert_eq!(world.task.phase, Phase::Active, "somebody who sends nothing keeps the task alive");
    world.step(Step::Leave(0));
    world.step(Step::Wait(30));
    assert_eq!(world.count(|b| matches!(b, EventBody::RecorderStop { code: LeaveCode::IdleTimeout })), 1);
    assert_eq!(world.task.phase, Phase::Done);
}

#[test]
fn upload_errors_of_days_are_told_once_in_their_time_of_quiet_each_code_apart() {
    let mut world = World::new(false);
    let quiet = Policy::default().error_quiet;
    let days = Duration::from_secs(3 * 86_400);
    let began = world.now;
    let (mut told, mut tries) = (Vec::<(String, Timestamp)>::new(), 0u64);
    while world.now.since(began) < days {
        // each of thousands of files fails with words of its own, by two codes in turn and now and then by any other
        let code = match tries % 50 {
            49 => format!("Odd{tries}"),
            n if n % 2 == 0 => "ConnectionError".into(),
            _ => "SlowDown".into(),
        };
        let errors = |world: &World| world.count(|b| matches!(b, EventBody::UploadError { .. }));
        let before = errors(&world);
        let message = format!("file {tries} of request {}", tries * 7);
        world.apply(Input::Fate(Fate::UploadFailed { code: code.clone(), message }));
        if errors(&world) > before {
            told.push((code, world.now));
        }
        tries += 1;
        world.now = world.now.plus(Duration::from_secs(7));
    }
    let windows = usize::try_from(days.as_secs() / quiet.as_secs() + 1).unwrap();
    for code in ["ConnectionError", "SlowDown"] {
        let times: Vec<Timestamp> = told.iter().filter(|(c, _)| c == code).map(|(_, at)| *at).collect();
        assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) >= quiet), "{code} came too early");
        assert!((windows - 10..=windows).contains(&times.len()), "{code} was told {} times", times.len());
    }
    assert!(told.len() <= windows * 8, "{} of {tries} were told", told.len());
}
