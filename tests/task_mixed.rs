//! The machine of a mixed recording against its promises, on random walks: one lane at most, whose scene is always that
//! of who is there; it begins when something flows, outlives an empty room for a while, and asks for each image once.

mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast::model::event::{EventBody, LeaveCode};
use holdfast::model::fate::Fate;
use holdfast::model::layout::{self, Person, Scene};
use holdfast::model::mix::{Fit, Layout, LayoutMode, MixSpec, Named, Pane, Rect, Watermark};
use holdfast::model::piece::Piece;
use holdfast::model::playlist::Playlist;
use holdfast::model::recording::{RecordingSpec, StreamType, Subscribers, Subscription};
use holdfast::model::room::{Feed, Room, Track};
use holdfast::model::segment::ClosedSegment;
use holdfast::model::task::{Effect, Input, Phase, Policy, RecordingTask};
use holdfast::model::{
    Codec, Lane, LaneKind, LaneRun, MediaId, RoomId, SessionId, TaskId, Timestamp, TrackId, TrackKind, UserId,
};
use proptest::prelude::*;

/// Fewer than people, so that the limit is met.
const STREAMS: usize = 3;
const PEOPLE: u8 = 5;

fn policy() -> Policy {
    Policy { streams: STREAMS, ..Policy::default() }
}

fn user(n: u8) -> UserId {
    UserId::parse(&format!("user{n}")).unwrap()
}

fn url(n: u8) -> String {
    format!("http://images/{n}.png")
}

/// Some layouts, with images that overlap from one to the next.
fn some_layout(n: u8) -> Layout {
    let mark = |n| Watermark::Image { url: url(n), rect: Rect { x: 0, y: 0, width: 20, height: 20 } };
    let pane = |n: u8, user: Option<u8>| Pane {
        rect: Rect { x: u32::from(n) * 100, y: 0, width: 100, height: 100 },
        user: user.map(self::user),
        media: MediaId::Main,
        alpha: 0,
        fit: Fit::Crop,
        layer: 0,
        image: Some(url(n)),
    };
    let named = |n| Some(Named { user: user(n), media: MediaId::Main });
    match n % 4 {
        0 => Layout::default(),
        1 => Layout { mode: LayoutMode::Floating { large: named(1) }, watermarks: vec![mark(0)], ..Layout::default() },
        2 => Layout {
            mode: LayoutMode::ScreenShare { large: named(2), large_on_the_right: true },
            background_image: Some((url(0), Fit::Crop)),
            placeholder: Some(url(1)),
            sound_takes_no_place: true,
            ..Layout::default()
        },
        _ => Layout {
            mode: LayoutMode::Custom(vec![pane(1, Some(0)), pane(2, None), pane(3, Some(3))]),
            hold_places: true,
            watermarks: vec![mark(2), mark(2)],
            ..Layout::default()
        },
    }
}

fn some_list(n: u8) -> Subscribers {
    let ids = |all: &[u8]| all.iter().map(|n| user(*n).as_str().to_owned()).collect();
    match n % 4 {
        0 | 1 => Subscribers::Everybody,
        2 => Subscribers::Only(ids(&[0, 2])),
        _ => Subscribers::AllBut(ids(&[1, 2])),
    }
}

fn spec(streams: StreamType, room: RoomId) -> RecordingSpec {
    let mix = Some(MixSpec { layout: some_layout(1), ..MixSpec::default() });
    RecordingSpec { room, mix, streams, max_idle: Duration::from_secs(60), ..walk::spec(false) }
}

#[derive(Debug, Clone)]
enum Step {
    Enter(u8),
    Leave(u8),
    TrackUp(u8, bool),
    TrackDown(u8, bool),
    Modify(u8, u8, u8),
    ImageFails(u8),
    Close,
    /// the lane ends by itself, or as it was asked to
    End(bool),
    Stop,
    Wait(u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        6 => (0..PEOPLE).prop_map(Enter),
        4 => (0..PEOPLE).prop_map(Leave),
        10 => (0..PEOPLE, any::<bool>()).prop_map(|(u, a)| TrackUp(u, a)),
        3 => (0..PEOPLE, any::<bool>()).prop_map(|(u, a)| TrackDown(u, a)),
        4 => (0u8..4, 0u8..4, 0u8..4).prop_map(|(l, a, v)| Modify(l, a, v)),
        2 => (0u8..5).prop_map(ImageFails),
        6 => Just(Close),
        2 => any::<bool>().prop_map(End),
        1 => Just(Stop),
        6 => (1u8..25).prop_map(Wait),
        1 => Just(Restart),
    ]
}

struct Running {
    run: LaneRun,
    scene: Scene,
    segments: u32,
    asked_to_end: bool,
}

/// Between two takeovers a task waits at most so long.
const LONGEST_HOLD: Duration = Duration::from_secs(120);

/// The world around one mixed task. Its shelf and its destination take everything at once.
struct World {
    task: RecordingTask,
    room: Room,
    now: Timestamp,
    next_track: u64,
    lane: Option<Running>,
    /// The last run failed: the next one may wait until then.
    failed_until: Option<Timestamp>,
    nobody_since: Option<Timestamp>,
    /// In this life of the process.
    fetched: BTreeSet<String>,
    failed: BTreeSet<String>,
    /// The box has failed: a task may wait before it is taken up again.
    restarted: bool,
    told: Vec<EventBody>,
    pieces: BTreeMap<String, Piece>,
    lists: BTreeMap<String, String>,
    segments: usize,
}

impl World {
    fn new(streams: StreamType, room: RoomId) -> World {
        let now = Timestamp::from_ms(1_800_000_000_000);
        let id = TaskId::from_random(b"0123456789abcdef");
        let (task, effects) = RecordingTask::create(id, spec(streams, room), policy(), now);
        let mut world = World {
            task,
            room: Room::default(),
            now,
            next_track: 0,
            lane: None,
            failed_until: None,
            nobody_since: None,
            fetched: BTreeSet::new(),
            failed: BTreeSet::new(),
            restarted: false,
            told: Vec::new(),
            pieces: BTreeMap::new(),
            lists: BTreeMap::new(),
            segments: 0,
        };
        world.perform(effects);
        world.reconcile();
        world
    }

    /// Who is recorded, in order of entry: (user, sound, picture).
    fn admitted(&self) -> Vec<(UserId, Option<TrackId>, Option<TrackId>)> {
        let spec = &self.task.spec;
        let admits = |list: &Subscribers, user: &UserId| match list {
            Subscribers::Everybody => true,
            Subscribers::Only(ids) => ids.iter().any(|id| id == user.as_str()),
            Subscribers::AllBut(ids) => !ids.iter().any(|id| id == user.as_str()),
        };
        let mut people = Vec::new();
        for presence in self.room.presences() {
            let hears = spec.streams != StreamType::Video && admits(&spec.subscription.audio, &presence.user);
            let sees = spec.streams != StreamType::Audio && admits(&spec.subscription.video, &presence.user);
            let track = |kind, wanted| presence.tracks.get(&kind).filter(|_| wanted).map(|track: &Track| track.id);
            if hears || sees {
                people.push((presence.user.clone(), track(TrackKind::Audio, hears), track(TrackKind::Video, sees)));
            }
        }
        people.truncate(STREAMS);
        people
    }

    fn flows(&self) -> bool {
        self.admitted().iter().any(|(_, sound, picture)| sound.is_some() || picture.is_some())
    }

    fn scene(&self) -> Scene {
        let mix = self.task.spec.mix.as_ref().unwrap();
        let admitted = self.admitted();
        let people: Vec<Person> = match self.task.spec.streams {
            StreamType::Audio => Vec::new(),
            _ => (admitted.iter())
                .map(|(user, _, video)| Person { user: user.clone(), media: MediaId::Main, video: *video })
                .collect(),
        };
        layout::scene(&mix.layout, mix.video.size, &people, admitted.iter().filter_map(|person| person.1).collect())
    }

    fn kind(&self) -> LaneKind {
        match self.task.spec.streams {
            StreamType::Audio => LaneKind::Audio,
            StreamType::Video => LaneKind::Video,
            StreamType::AudioVideo => LaneKind::AudioVideo,
        }
    }

    /// Of the task's n-th life (RECORDING.md §2).
    fn name(&self, life: u8) -> String {
        let room = match &self.task.spec.room {
            RoomId::Number(number) => number.to_string(),
            RoomId::Text(_) => "d2FyZCAz".to_owned(),
        };
        let life = if life == 0 { String::new() } else { format!("ha{life}_") };
        format!("{life}1400000001_{room}")
    }

    fn reconcile(&mut self) {
        let nobody = self.admitted().is_empty();
        self.nobody_since = nobody.then(|| self.nobody_since.unwrap_or(self.now));
        let effects = self.task.reconcile(&self.room, self.now);
        self.perform(effects);
    }

    fn apply(&mut self, input: Input) {
        let effects = self.task.apply(input, self.now);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut fates = Vec::new();
        for effect in effects {
            match effect {
                Effect::SavePiece(piece) => drop(self.pieces.insert(piece.object.clone(), piece)),
                Effect::Announce(event) => {
                    if let EventBody::ImageError { url } = &event.body {
                        assert!(self.failed.insert(url.clone()), "309 of {url} twice");
                    }
                    self.told.push(event.body);
                }
                Effect::StartLane { run, feed } => {
                    assert!(self.lane.is_none(), "two mixed lanes at once");
                    assert_eq!(self.task.phase, Phase::Active);
                    assert_eq!(run.lane, Lane::mixed(self.kind()));
                    assert!(self.flows(), "a lane began though nothing flows");
                    let Feed::Mixed(scene) = feed else { panic!("a mixed lane is fed from {feed:?}") };
                    assert_eq!(*scene, self.scene());
                    self.lane = Some(Running { run, scene: *scene, segments: 0, asked_to_end: false });
                    self.failed_until = None;
                }
                Effect::ChangeScene { run, scene } => {
                    let expected = self.scene();
                    let lane = self.lane.as_mut().expect("a scene is for a lane that runs");
                    assert_eq!(lane.run, run);
                    assert!(!lane.asked_to_end, "a lane that ends gets no scene");
                    assert_ne!(lane.scene, *scene, "the same scene again");
                    assert_eq!(*scene, expected);
                    lane.scene = *scene;
                }
                Effect::FinishLane(run) => {
                    let held = self.nobody_since.is_some_and(|since| self.now >= since.plus(policy().mix_hold));
                    assert!(held || self.task.phase != Phase::Active, "the lane ends without a reason");
                    let lane = self.lane.as_mut().expect("it runs");
                    assert_eq!(lane.run, run);
                    lane.asked_to_end = true;
                }
                Effect::KillLane(run) => {
                    assert!(self.lane.as_ref().is_some_and(|lane| lane.run == run && lane.asked_to_end));
                }
                Effect::Wedged(run) => {
                    assert_eq!(self.lane.take().map(|lane| lane.run), Some(run));
                }
                Effect::FetchImage { url } => {
                    let layout = &self.task.spec.mix.as_ref().unwrap().layout;
                    assert!(layout.image_urls().contains(&url.as_str()), "{url} is in no layout");
                    assert!(self.fetched.insert(url.clone()), "{url} is asked for twice");
                }
                Effect::Spool { segment, object } => {
                    let digits = object
                        .strip_prefix(&format!("{}_", self.name(self.task.takeover)))
                        .and_then(|n| n.strip_suffix(".ts"));
                    let stamp = digits.is_some_and(|d| d.len() == 17 && d.bytes().all(|b| b.is_ascii_digit()));
                    assert!(stamp, "{object} is no name of {}", self.name(self.task.takeover));
                    fates.push(Fate::Spooled(segment));
                    fates.push(Fate::SegmentUploaded { object });
                }
                Effect::PublishPlaylist { object, version, text } => {
                    self.lists.insert(object.clone(), text);
                    fates.push(Fate::PlaylistUploaded { object, version });
                }
                Effect::Package(_) | Effect::SpoolPackage { .. } | Effect::PackageSettled { .. } | Effect::LetGo => {
                    panic!("hls alone is not packed")
                }
                Effect::Forget => assert_eq!(self.task.phase, Phase::Done),
                Effect::PauseLane(_) | Effect::Withhold | Effect::Clear | Effect::Erase { .. } => {
                    panic!("nobody asked for {effect:?}");
                }
            }
        }
        for fate in fates {
            self.apply(Input::Fate(fate));
        }
    }

    fn segment(&self, run: &LaneRun, index: u32) -> ClosedSegment {
        ClosedSegment {
            run: run.clone(),
            index,
            start: self.now,
            duration: Duration::from_secs(1),
            bytes: 188,
            size: Some((360, 640)),
            discontinuity: index == 0,
            part_name: String::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Enter(u) => {
                // a session that has left may come again; the one that is there stays
                let session = SessionId(u64::from(u));
                if self.room.presences().iter().all(|p| p.session != session) {
                    self.room.enter(session, user(u), MediaId::Main, [TrackKind::Audio, TrackKind::Video]);
                }
                self.reconcile();
            }
            Step::Leave(u) => {
                self.room.leave(SessionId(u64::from(u)));
                self.reconcile();
            }
            Step::TrackUp(u, sound) => {
                let (kind, codec) =
                    if sound { (TrackKind::Audio, Codec::Opus) } else { (TrackKind::Video, Codec::H264) };
                self.next_track += 1;
                let track = Track { id: TrackId(self.next_track), codec };
                self.room.track_up(SessionId(u64::from(u)), kind, track);
                self.reconcile();
            }
            Step::TrackDown(u, sound) => {
                let kind = if sound { TrackKind::Audio } else { TrackKind::Video };
                let presences = self.room.presences().to_vec();
                for presence in presences.iter().filter(|p| p.session == SessionId(u64::from(u))) {
                    if let Some(track) = presence.tracks.get(&kind) {
                        self.room.track_down(presence.session, track.id);
                    }
                }
                self.reconcile();
            }
            Step::Modify(layout, audio, video) => {
                if self.task.phase != Phase::Active {
                    return;
                }
                let subscription = Subscription { audio: some_list(audio), video: some_list(video) };
                let layout = (layout > 0).then(|| some_layout(layout));
                let shown = layout.clone().unwrap_or_default();
                let stays = |url: &String| shown.image_urls().contains(&url.as_str());
                self.fetched.retain(stays);
                self.failed.retain(stays);
                self.apply(Input::Modify { subscription, layout });
                self.reconcile();
            }
            Step::ImageFails(n) => {
                let (url, before) = (url(n), self.failed.clone());
                let wanted = self.fetched.contains(&url) && self.task.phase == Phase::Active;
                self.apply(Input::ImageFailed { url: url.clone() });
                if wanted {
                    assert!(self.failed.contains(&url), "309 is told");
                } else {
                    assert_eq!(self.failed, before, "nobody shows it any more");
                }
            }
            Step::Close => {
                let Some(lane) = &mut self.lane else { return };
                let (run, index) = (lane.run.clone(), lane.segments);
                lane.segments += 1;
                self.segments += 1;
                // names of segments have their beginnings, to the millisecond
                self.now = self.now.plus(Duration::from_millis(1));
                if index == 0 {
                    self.apply(Input::FirstMedia { run: run.clone(), at: self.now });
                }
                self.apply(Input::SegmentClosed(self.segment(&run, index)));
            }
            Step::End(failed) => {
                let Some(lane) = &self.lane else { return };
                // a mixed lane has no track whose end would be its own
                let failed = failed || !lane.asked_to_end;
                let run = lane.run.clone();
                self.lane = None;
                self.failed_until = failed.then(|| self.now.plus(Duration::from_secs(30)));
                self.apply(Input::LaneEnded { run, failed });
                self.reconcile();
            }
            Step::Stop => self.apply(Input::Stop(LeaveCode::Stopped)),
            Step::Wait(seconds) => {
                self.now = self.now.plus(Duration::from_secs(u64::from(seconds)));
                self.apply(Input::Tick);
            }
            Step::Restart => self.restart(),
        }
        self.look();
    }

    /// What must be true between any two steps.
    fn look(&self) {
        let active = self.task.phase == Phase::Active;
        let hold_over = self.nobody_since.is_some_and(|since| self.now >= since.plus(policy().mix_hold));
        match &self.lane {
            Some(lane) if !lane.asked_to_end => {
                assert!(active, "a lane runs on in {:?}", self.task.phase);
                assert!(!hold_over, "a lane outlives an empty room");
                assert_eq!(lane.scene, self.scene(), "what is shown is not who is there");
                if let Some(since) = self.nobody_since {
                    let deadline = self.task.deadline().expect("an empty room is looked at again");
                    assert!(deadline <= since.plus(policy().mix_hold));
                }
            }
            Some(_) => assert!(self.task.deadline().is_some(), "a lane that is to end is waited for"),
            None if active && self.flows() => {
                // only the wait after a failure, of the lane or of the box, keeps it from beginning
                let lane = self.failed_until.filter(|until| self.now < *until);
                assert!(lane.is_some() || self.restarted, "something flows and nothing is recorded");
                let until = lane.unwrap_or(self.now.plus(LONGEST_HOLD));
                assert!(self.task.deadline().is_some_and(|at| at <= until), "it never begins again");
            }
            None => {}
        }
        // between two takeovers nothing is asked for
        if active && (self.lane.is_some() || !self.restarted) {
            let layout = &self.task.spec.mix.as_ref().unwrap().layout;
            for url in layout.image_urls() {
                assert!(self.fetched.contains(url), "{url} is not asked for");
            }
        }
    }

    fn restart(&mut self) {
        if self.task.phase == Phase::Done {
            return;
        }
        let bytes = serde_json::to_vec(&self.task).unwrap();
        let task: RecordingTask = serde_json::from_slice(&bytes).unwrap();
        self.room = Room::default();
        self.fetched.clear();
        self.failed.clear();
        (self.lane, self.failed_until, self.nobody_since, self.restarted) = (None, None, None, true);
        let pieces = self.pieces.values().cloned().collect();
        let (task, effects) = task.restore(pieces, policy(), self.now);
        self.task = task;
        self.perform(effects);
        let effects = self.task.settle_unfound(&BTreeSet::new(), self.now);
        self.perform(effects);
        self.reconcile();
    }

    fn finish(&mut self) {
        self.apply(Input::Stop(LeaveCode::Stopped));
        for _ in 0..100 {
            if self.task.phase == Phase::Done {
                return;
            }
            if self.lane.is_some() {
                self.step(Step::End(false));
            }
            self.step(Step::Wait(20));
        }
        panic!("the task never ended: {:?}", self.task);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn promises_hold_on_every_walk(
        streams in prop::sample::select(vec![StreamType::AudioVideo, StreamType::Audio, StreamType::Video]),
        text: bool,
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let room = if text { RoomId::Text("ward 3".into()) } else { RoomId::Number(12345) };
        let mut world = World::new(streams, room);
        for step in steps {
            world.step(step);
        }
        world.finish();
        let mut listed = 0;
        for (object, text) in &world.lists {
            let list = Playlist::parse(text).unwrap();
            prop_assert!(list.ended);
            listed += list.items.len();
            let named = (0..=world.task.takeover).any(|life| *object == format!("{}.m3u8", world.name(life)));
            prop_assert!(named, "{}", object);
        }
        prop_assert_eq!(listed, world.segments, "every segment is in the list of its life");
        prop_assert_eq!(world.pieces.len(), world.segments);
        let slices: Vec<&EventBody> =
            world.told.iter().filter(|body| matches!(body, EventBody::FileSlice { .. })).collect();
        prop_assert_eq!(slices.len(), world.lists.len(), "307 for each life that has segments");
        for body in slices {
            let EventBody::FileSlice { user, kind, .. } = body else { unreachable!("filtered above") };
            prop_assert_eq!((user.as_str(), *kind), ("", world.kind()), "UserId is empty when mixed");
        }
    }
}

fn world_with(people: u8) -> World {
    let mut world = World::new(StreamType::AudioVideo, RoomId::Number(12345));
    for u in 0..people {
        world.step(Step::Enter(u));
        world.step(Step::TrackUp(u, false));
    }
    world
}

#[test]
fn a_lane_holds_on_in_an_empty_room_and_ends_then() {
    let mut world = World::new(StreamType::AudioVideo, RoomId::Number(12345));
    world.step(Step::Enter(0));
    assert!(world.lane.is_none(), "who sends nothing is no recording");
    world.step(Step::TrackUp(0, true));
    let first = world.lane.as_ref().expect("sound is enough").run.clone();
    world.step(Step::TrackDown(0, true));
    world.step(Step::Wait(40));
    assert_eq!(world.lane.as_ref().map(|lane| &lane.run), Some(&first), "who is silent is there still");
    world.step(Step::Leave(0));
    world.step(Step::Wait(14));
    world.step(Step::Enter(1));
    world.step(Step::TrackUp(1, false));
    world.step(Step::Wait(14));
    assert_eq!(world.lane.as_ref().map(|lane| &lane.run), Some(&first), "the same run goes on for whoever comes");
    world.step(Step::Leave(1));
    world.step(Step::Wait(15));
    assert!(world.lane.as_ref().is_some_and(|lane| lane.asked_to_end));
    // somebody comes while it ends: they are in the next run
    world.step(Step::Enter(2));
    world.step(Step::TrackUp(2, false));
    world.step(Step::End(false));
    let second = &world.lane.as_ref().expect("it begins again").run;
    assert!(second.run > first.run && second.lane == first.lane);
}

/// How often 309 was told.
fn errors(world: &World) -> usize {
    world.told.iter().filter(|body| matches!(body, EventBody::ImageError { .. })).count()
}

#[test]
fn an_image_that_fails_is_told_once_and_asked_for_once() {
    let mut world = world_with(1);
    assert_eq!(world.fetched, BTreeSet::from([url(0)]));
    world.step(Step::ImageFails(0));
    world.step(Step::ImageFails(0));
    world.step(Step::Modify(3, 0, 0));
    assert_eq!(world.fetched, [1, 2, 3].into_iter().map(url).collect());
    assert_eq!(errors(&world), 1);
    // what had gone was let go, and is asked for again
    world.step(Step::Modify(1, 0, 0));
    assert_eq!(world.fetched, BTreeSet::from([url(0)]));
    world.step(Step::ImageFails(0));
    assert_eq!(errors(&world), 2);
    assert!(world.lane.as_ref().is_some_and(|lane| lane.run.run == 0), "and the recording goes on");
}

#[test]
fn a_failure_that_comes_after_modify_has_dropped_the_image_says_nothing() {
    let mut world = world_with(1);
    world.step(Step::Modify(3, 0, 0));
    world.step(Step::ImageFails(0));
    assert_eq!(errors(&world), 0);
    world.step(Step::ImageFails(1));
    assert_eq!(errors(&world), 1, "what is shown now is still spoken of");
}

#[test]
fn a_failure_that_comes_after_the_end_says_nothing() {
    let mut world = world_with(1);
    world.step(Step::Stop);
    world.step(Step::ImageFails(0));
    world.finish();
    world.step(Step::ImageFails(0));
    assert_eq!(errors(&world), 0);
}

#[test]
fn an_image_that_is_brought_back_after_a_late_failure_is_fetched_again() {
    let mut world = world_with(1);
    world.step(Step::Modify(0, 0, 0));
    assert_eq!(world.fetched, BTreeSet::new());
    world.apply(Input::ImageFailed { url: url(0) });
    world.step(Step::Modify(1, 0, 0));
    assert_eq!(world.fetched, BTreeSet::from([url(0)]));
    // the late failure was not its own
    let before = errors(&world);
    world.step(Step::ImageFails(0));
    assert_eq!(errors(&world), before + 1);
}

#[test]
fn a_lane_that_fails_is_started_again_after_a_wait() {
    let mut world = world_with(2);
    world.step(Step::Close);
    world.step(Step::End(true));
    assert!(world.lane.is_none());
    world.step(Step::Wait(1));
    assert!(world.lane.as_ref().is_some_and(|lane| lane.run.run == 1));
    world.step(Step::Close);
    world.finish();
    assert_eq!(world.lists.keys().collect::<Vec<_>>(), ["1400000001_12345.m3u8"], "both runs are in one list");
}
