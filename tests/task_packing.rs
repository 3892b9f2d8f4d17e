//! The recording machine after the end: packing begins once, goes on over restarts, and what it tells is true.

use std::time::Duration;

use holdfast::model::event::{EventBody, LeaveCode};
use holdfast::model::fate::Fate;
use holdfast::model::output::{Container, LONGEST, Limits, Output};
use holdfast::model::package::order;
use holdfast::model::packed::{Packed, PackedFile};
use holdfast::model::piece::Piece;
use holdfast::model::recording::{Destination, MediaFilter, RecordingSpec, StreamType, Subscription, Vendor};
use holdfast::model::room::{Room, Track};
use holdfast::model::segment::{ClosedSegment, LocalName};
use holdfast::model::task::{Effect, Found, Input, Phase, Policy, RecordingTask, Shape};
use holdfast::model::vod::{Media, Vod};
use holdfast::model::{
    Codec, LaneKind, LaneRun, MediaId, RoomId, SdkAppId, SessionId, TaskId, Timestamp, TrackId, TrackKind, UserId,
};

struct World {
    task: RecordingTask,
    now: Timestamp,
    effects: Vec<Effect>,
    shape: Option<Shape>,
    pieces: std::collections::BTreeMap<String, holdfast::model::piece::Piece>,
}

fn spec(output: Output) -> RecordingSpec {
    RecordingSpec {
        app: SdkAppId(1_400_000_001),
        room: RoomId::Number(12345),
        mix: None,
        recorder: UserId::parse("recorder").unwrap(),
        streams: StreamType::AudioVideo,
        media: MediaFilter::Both,
        subscription: Subscription::default(),
        max_idle: Duration::from_secs(30),
        av_merge: false,
        fill_black: false,
        call_expiry: Duration::from_secs(72 * 3600),
        output,
        file_length: LONGEST,
        resume_wait: None,
        destination: Destination { vendor: Vendor::S3, region: "r".into(), bucket: "b".into(), prefix: vec![] },
    }
}

impl World {
    fn new(output: Output) -> World {
        World::of(spec(output))
    }

    fn of(spec: RecordingSpec) -> World {
        let now = Timestamp::from_ms(1_800_000_000_000);
        let id = TaskId::from_random(b"0123456789abcdef");
        let (task, effects) = RecordingTask::create(id, spec, Policy::default(), now);
        let mut world = World { task, now, effects: Vec::new(), shape: None, pieces: Default::default() };
        world.perform(effects);
        world
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        if let Some(shape) = self.task.take_shape() {
            self.shape = Some(Shape::parse(&shape.to_text()).unwrap());
        }
        for effect in &effects {
            if let Effect::SavePiece(piece) = effect {
                self.pieces.insert(piece.object.clone(), piece.clone());
            }
        }
        self.effects.extend(effects);
    }

    fn apply(&mut self, input: Input) {
        let effects = self.task.apply(input, self.now);
        self.perform(effects);
    }

    fn wait(&mut self, by: Duration) {
        self.now = self.now.plus(by);
        self.apply(Input::Tick);
    }

    /// Two segments of ann's sound; then the task is ended.
    fn record(&mut self, uploaded: bool) {
        let mut room = Room::default();
        room.enter(SessionId(1), UserId::parse("ann").unwrap(), MediaId::Main, [TrackKind::Audio]);
        room.track_up(SessionId(1), TrackKind::Audio, Track { id: TrackId(1), codec: Codec::Opus });
        let effects = self.task.reconcile(&room, self.now);
        self.perform(effects);
        let run =
            self.effects.iter().find_map(|e| if let Effect::StartLane { run, .. } = e { Some(run) } else { None });
        let run: LaneRun = run.expect("a lane starts").clone();
        for index in 0..2 {
            let segment = ClosedSegment {
                run: run.clone(),
                index,
                start: self.now.plus(Duration::from_secs(u64::from(index))),
                duration: Duration::from_secs(1),
                bytes: 188,
                size: None,
                discontinuity: false,
                part_name: String::new(),
            };
            self.apply(Input::SegmentClosed(segment));
        }
        let orders: Vec<(ClosedSegment, String)> = (self.effects.iter())
            .filter_map(|e| if let Effect::Spool { segment, object } = e { Some((segment, object)) } else { None })
            .map(|(segment, object)| (segment.clone(), object.clone()))
            .collect();
        for (segment, _) in &orders {
            self.apply(Input::Fate(Fate::Spooled(segment.clone())));
        }
        self.apply(Input::Stop(LeaveCode::Stopped));
        assert!(!self.effects.iter().any(|e| matches!(e, Effect::Package(_))), "something may still come");
        self.apply(Input::LaneEnded { run, failed: false });
        if uploaded {
            for (_, object) in orders {
                self.apply(Input::Fate(Fate::SegmentUploaded { object }));
            }
        }
    }

    fn lists_arrive(&mut self) {
        let lists: Vec<(String, u64)> = (self.effects.iter())
            .filter_map(|e| match e {
                Effect::PublishPlaylist { object, version, .. } => Some((object.clone(), *version)),
                _ => None,
            })
            .collect();
        for (object, version) in lists {
            self.apply(Input::Fate(Fate::PlaylistUploaded { object, version }));
        }
    }

    fn told(&self) -> Vec<(u32, u8)> {
        let one = |effect: &Effect| {
            let Effect::Announce(event) = effect else { return None };
            Some(match &event.body {
                EventBody::UploadStop { status }
                | EventBody::Mp4Stop { status, .. }
                | EventBody::VodCommit { status, .. }
                | EventBody::VodStop { status } => (event.body.event_type(), *status),
                _ => (event.body.event_type(), 0),
            })
        };
        self.effects.iter().filter_map(one).collect()
    }

    fn count(&self, pick: impl Fn(&Effect) -> bool) -> usize {
        self.effects.iter().filter(|effect| pick(effect)).count()
    }

    /// The process dies and comes back, with the index or with the folder alone; `here`: plans on the shelf.
    fn restart(&mut self, index: bool, here: &[&str]) {
        let saved = serde_json::to_vec(&self.task).unwrap();
        let indexed = index.then(|| serde_json::from_slice(&saved).unwrap());
        let (mut task, _) = RecordingTask::reconcile_index(indexed, self.shape.clone().expect("it was written"));
        let pieces = self.pieces.values().cloned().collect();
        let (pieces, _) = task.mend(pieces, &Found::default());
        let known = pieces.iter().map(|piece| (piece.run, piece.index)).collect();
        let (task, effects) = task.restore(pieces, Policy::default(), self.now);
        self.task = task;
        self.effects.clear();
        self.perform(effects);
        for object in here {
            self.apply(Input::Fate(Fate::PackageWaits { object: (*object).to_owned() }));
        }
        let effects = self.task.settle_unfound(&known, self.now);
        self.perform(effects);
    }
}

fn file(object: &str) -> (PackedFile, String) {
    let file = PackedFile {
        object: object.into(),
        user: "ann".into(),
        media: MediaId::Main,
        kind: LaneKind::Audio,
        start: Timestamp::from_ms(1_800_000_000_000),
        end: Timestamp::from_ms(1_800_000_002_000),
        bytes: 100,
        crc32: 7,
        uploaded: false,
    };
    (file, "{}".into())
}

fn packed(objects: &[&str]) -> Input {
    Input::Fate(Fate::Packaged(Packed {
        files: objects.iter().map(|object| file(object)).collect(),
        broken: vec![],
        unready: false,
    }))
}

/// To VOD, as `MediaType` says.
fn vod(media_type: i64) -> RecordingSpec {
    let (output, lists) = holdfast::model::vod::output(media_type);
    let vod = Vod { lists, record_id: Some("visit".into()), ..Vod::default() };
    let destination =
        Destination { vendor: Vendor::Vod(Box::new(vod)), region: "".into(), bucket: "".into(), prefix: vec![] };
    RecordingSpec { destination, ..spec(output) }
}

fn committed(object: &str) -> Input {
    let media = Media { file_id: format!("id of {object}"), url: format!("http://vod/{object}") };
    Input::Fate(Fate::VodCommitted { object: object.into(), media })
}

fn failed(object: &str, code: &str, refused: bool) -> Input {
    let (code, message) = (code.into(), "as it said".into());
    Input::Fate(Fate::VodFailed { object: object.into(), code, message, refused })
}

fn up(object: &str) -> Input {
    Input::Fate(Fate::PackageUploaded { object: object.into() })
}

#[test]
fn beside_hls_the_file_is_packed_at_once_and_told_when_it_is_there() {
    let mut world = World::new(Output::HlsMp4);
    world.record(true);
    let orders: Vec<&Effect> = world.effects.iter().filter(|e| matches!(e, Effect::Package(_))).collect();
    let [Effect::Package(order)] = orders[..] else { panic!("asked once: {orders:?}") };
    assert_eq!((order.container, order.groups.len()), (Container::Mp4, 1));
    let life = &order.groups[0].lives[0];
    let names: Vec<bool> = life.pieces.iter().map(|p| LocalName::parse(&p.file).is_some()).collect();
    assert_eq!((order.groups[0].user.as_str(), names), ("ann", vec![true, true]));
    world.lists_arrive();
    assert_eq!(world.told().iter().filter(|(event, _)| *event == 305).collect::<Vec<_>>(), [&(305, 0)]);
    assert!(matches!(world.task.phase, Phase::Draining { .. }), "the file is not there yet");
    world.apply(packed(&["a.mp4"]));
    world.apply(packed(&["a.mp4"]));
    assert_eq!(
        world.count(|e| matches!(e, Effect::SpoolPackage { .. })),
        1,
        "an answer that was not asked for is none"
    );
    world.apply(up("a.mp4"));
    assert_eq!(world.told().last(), Some(&(310, 0)));
    assert_eq!(world.task.phase, Phase::Done);
    assert_eq!(world.count(|e| matches!(e, Effect::LetGo | Effect::Forget)), 2);
}

#[test]
fn alone_it_is_what_305_speaks_of_and_no_list_is_told() {
    let mut world = World::new(Output::Mp4);
    world.record(false);
    assert!(world.task.files().is_empty());
    world.apply(packed(&["a_1.mp4", "a_2.mp4"]));
    world.apply(up("a_1.mp4"));
    world.wait(Policy::default().grace);
    world.wait(Duration::from_secs(1));
    assert_eq!(
        world.told().iter().filter(|(event, _)| *event >= 303).collect::<Vec<_>>(),
        [&(303, 0), &(310, 1), &(305, 1)]
    );
    world.apply(up("a_2.mp4"));
    assert_eq!(world.told()[world.told().len() - 2..], [(310, 0), (305, 2)]);
    assert_eq!(world.count(|e| matches!(e, Effect::PublishPlaylist { .. })), 0);
    assert_eq!(world.task.phase, Phase::Done);
    world.restart(true, &[]);
    assert_eq!(world.told(), [], "what is done is not told again, and nothing of it is lost");
    assert_eq!(world.count(|e| matches!(e, Effect::LetGo)), 1, "what was held may still lie there");
}

#[test]
fn nothing_that_could_be_packed_is_a_failure_and_nothing_recorded_is_none() {
    let mut world = World::new(Output::Mp4);
    world.record(false);
    let broken = world.pieces.values().map(|p| (p.local_file(), "torn".to_owned())).collect();
    world.apply(Input::Fate(Fate::Packaged(Packed { files: vec![], broken, unready: false })));
    assert_eq!(
        world.told().iter().filter(|(event, _)| *event >= 305).collect::<Vec<_>>(),
        [&(308, 0), &(308, 0), &(310, 2), &(305, 1)]
    );
    assert_eq!(world.task.phase, Phase::Done);

    let mut world = World::new(Output::Mp4);
    world.apply(Input::Stop(LeaveCode::Stopped));
    world.apply(packed(&[]));
    assert_eq!(world.told().iter().filter(|(event, _)| *event >= 305).collect::<Vec<_>>(), [&(310, 0), &(305, 0)]);
}

#[test]
fn a_restart_goes_on_with_what_is_on_the_shelf_and_plans_what_is_not() {
    for index in [true, false] {
        let mut world = World::new(Output::Mp4);
        world.record(false);
        world.restart(index, &[]);
        assert_eq!(world.count(|e| matches!(e, Effect::Package(_))), 1, "it was not made: it is asked for again");
        world.apply(packed(&["a_1.mp4", "a_2.mp4"]));
        world.apply(up("a_1.mp4"));
        world.restart(index, &["a_2.mp4"]);
        assert_eq!(world.count(|e| matches!(e, Effect::Package(_))), 0, "the second plan waits on the shelf");
        world.restart(index, &[]);
        assert_eq!(world.count(|e| matches!(e, Effect::Package(_))), 1, "it does not any more");
        assert_eq!(made(&world), ["a_1.mp4"], "what is up is not planned again");
        world.apply(packed(&["a_2.mp4"]));
        let again: Vec<&Effect> = world.effects.iter().filter(|e| matches!(e, Effect::SpoolPackage { .. })).collect();
        assert!(
            matches!(again[..], [Effect::SpoolPackage { object, .. }] if object == "a_2.mp4"),
            "never twice: {again:?}"
        );
        world.apply(up("a_2.mp4"));
        assert_eq!(world.told()[world.told().len() - 2..], [(310, 0), (305, 0)]);
        assert_eq!(world.task.phase, Phase::Done);
    }
}

/// What the newest order says is made already.
fn made(world: &World) -> Vec<String> {
    let mut orders =
        world.effects.iter().rev().filter_map(|e| if let Effect::Package(order) = e { Some(order) } else { None });
    orders.next().expect("it was asked for").made.iter().map(|file| file.object.clone()).collect()
}

/// Files that are up, and those that wait to go up, are out of reach of whatever is planned later.
#[test]
fn only_what_a_lost_plan_should_have_held_is_planned_again() {
    for index in [true, false] {
        let lost = |object: &str| Input::Fate(Fate::PackageLost { object: object.into(), why: "gone".into() });
        let mut world = World::new(Output::Mp4);
        world.record(false);
        world.apply(packed(&["a_1.mp4", "a_2.mp4", "a_3.mp4"]));
        world.apply(up("a_1.mp4"));
        world.apply(lost("a_1.mp4"));
        assert_eq!(world.count(|e| matches!(e, Effect::Package(_))), 1, "it is up: nothing of it can be lost");
        world.apply(lost("a_2.mp4"));
        world.wait(Policy::default().list_again);
        assert_eq!(made(&world), ["a_1.mp4", "a_3.mp4"]);
        // somebody waits for the plan of the third to be written
        world.apply(Input::Fate(Fate::Packaged(Packed { unready: true, ..Packed::default() })));
        world.wait(Policy::default().list_again);
        assert_eq!(made(&world), ["a_1.mp4", "a_3.mp4"]);
        // the third is lost while the rest of the second is planned
        world.apply(lost("a_3.mp4"));
        world.apply(packed(&["a_2.mp4"]));
        world.wait(Policy::default().list_again);
        assert_eq!(made(&world), ["a_1.mp4", "a_2.mp4"]);
        world.restart(index, &["a_2.mp4"]);
        assert_eq!(made(&world), ["a_1.mp4", "a_2.mp4"], "the answer died with the process");
        world.apply(up("a_2.mp4"));
        world.apply(packed(&[]));
        assert_eq!(world.told()[world.told().len() - 2..], [(310, 0), (305, 2)]);
        let told = world.effects.iter().rev().find_map(|e| match e {
            Effect::Announce(event) => match &event.body {
                EventBody::Mp4Stop { files, .. } => Some(files.clone()),
                _ => None,
            },
            _ => None,
        });
        let told: Vec<String> = told.expect("310").into_iter().map(|file| file.object).collect();
        assert_eq!((told, world.task.phase), (vec!["a_1.mp4".to_owned(), "a_2.mp4".to_owned()], Phase::Done));
    }
}

/// Neither the index nor the shape knows of a file: its plan does.
#[test]
fn a_file_that_only_the_shelf_knows_is_not_planned_again() {
    let mut world = World::new(Output::Mp4);
    world.record(false);
    let (mut task, _) = RecordingTask::reconcile_index(None, world.shape.clone().expect("it was written"));
    let (pieces, _) = task.mend(world.pieces.values().cloned().collect(), &Found::default());
    let known = pieces.iter().map(|piece| (piece.run, piece.index)).collect();
    task.hear_packed(vec![file("a_1.mp4").0, file("a_2.mp4").0]);
    (world.task, _) = task.restore(pieces, Policy::default(), world.now);
    world.effects.clear();
    world.apply(up("a_1.mp4"));
    let effects = world.task.settle_unfound(&known, world.now);
    world.perform(effects);
    assert_eq!(made(&world), ["a_1.mp4"], "the second is neither up nor here");
    world.apply(packed(&["a_2.mp4"]));
    world.apply(up("a_2.mp4"));
    assert_eq!(world.task.phase, Phase::Done);
    assert_eq!(world.count(|e| matches!(e, Effect::SpoolPackage { .. })), 1);
}

#[test]
fn a_source_that_changed_makes_a_new_plan_after_a_while() {
    let mut world = World::new(Output::HlsMp4);
    world.record(true);
    world.apply(packed(&["a.mp4"]));
    world.apply(Input::Fate(Fate::PackageLost { object: "a.mp4".into(), why: "another checksum".into() }));
    assert_eq!(world.count(|e| matches!(e, Effect::Package(_))), 1);
    world.wait(Policy::default().list_again);
    assert_eq!(world.count(|e| matches!(e, Effect::Package(_))), 2);
    assert!(world.told().contains(&(308, 0)));
}

#[test]
fn of_vod_every_file_is_told_and_then_the_task_and_nothing_else() {
    for index in [true, false] {
        let mut world = World::of(vod(0));
        world.record(false);
        assert!(world.task.files().is_empty());
        world.apply(packed(&["a_1.mp4", "a_2.mp4"]));
        world.apply(committed("a_1.mp4"));
        assert_eq!(world.told(), [(301, 0), (302, 0), (311, 0)]);
        world.restart(index, &["a_2.mp4"]);
        world.apply(committed("a_1.mp4"));
        world.apply(committed("a_2.mp4"));
        assert_eq!(world.told(), [(311, 0), (312, 0)], "each once");
        assert_eq!(world.task.phase, Phase::Done);
        assert_eq!(world.count(|e| matches!(e, Effect::LetGo | Effect::Forget)), 2);
    }
}

#[test]
fn of_vod_what_is_late_or_refused_is_told_so_and_once_more_when_it_arrives() {
    let mut world = World::of(vod(0));
    world.record(false);
    world.apply(packed(&["a_1.mp4", "a_2.mp4"]));
    world.apply(failed("a_1.mp4", "InternalError", false));
    world.apply(failed("a_2.mp4", "InvalidParameterValue.ClassId", true));
    let events = |world: &World| world.told().into_iter().filter(|(event, _)| *event > 308).collect::<Vec<_>>();
    assert_eq!(events(&world), [(311, 2)]);
    world.wait(Policy::default().grace);
    assert_eq!(events(&world), [(311, 2), (311, 1), (312, 1)]);
    world.wait(Policy::default().grace);
    assert_eq!(events(&world).len(), 3, "once");
    let bodies: Vec<serde_json::Value> = (world.effects.iter())
        .filter_map(|e| if let Effect::Announce(event) = e { Some(event.to_json(world.now)) } else { None })
        .map(|text| serde_json::from_str(&text).unwrap())
        .filter(|event: &serde_json::Value| event["EventType"] == 311)
        .map(|event| event["EventInfo"]["Payload"].clone())
        .collect();
    let payload = |status: u8, why: &str, name: &str| {
        let vod = serde_json::json!({"UserId": "ann", "TrackType": "audio", "MediaId": "main", "CacheFile": name});
        serde_json::json!({"Status": status, "Errmsg": why, "TencentVod": vod})
    };
    assert_eq!(
        bodies,
        [
            payload(2, "InvalidParameterValue.ClassId: as it said", "visit__UserDefine_u_a_2.mp4"),
            payload(1, "InternalError: as it said", "visit__UserDefine_u_a_1.mp4"),
        ]
    );
    world.restart(true, &["a_1.mp4", "a_2.mp4"]);
    world.apply(failed("a_1.mp4", "InternalError", false));
    world.wait(Policy::default().grace);
    assert_eq!(events(&world), [], "nor after a restart");
    world.apply(committed("a_1.mp4"));
    world.apply(committed("a_2.mp4"));
    assert_eq!(events(&world), [(311, 0), (311, 0), (312, 0)]);
    assert_eq!(world.task.phase, Phase::Done);
}

#[test]
fn of_vod_lists_are_asked_for_where_they_are_wanted() {
    for (media_type, groups, lists) in [(0, 1, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1), (4, 1, 1)] {
        let mut world = World::of(vod(media_type));
        world.record(false);
        let order = world.effects.iter().find_map(|e| if let Effect::Package(order) = e { Some(order) } else { None });
        let order = order.expect("it is packed");
        assert_eq!((order.groups.len(), order.lists.len()), (groups, lists), "{media_type}");
        assert_eq!(world.count(|e| matches!(e, Effect::PublishPlaylist { .. })), 0);
    }
    let mut world = World::of(vod(1));
    world.apply(Input::Stop(LeaveCode::Stopped));
    world.apply(packed(&[]));
    assert_eq!(world.told(), [(301, 0), (302, 0), (312, 0)], "nothing was recorded");
}

#[test]
fn a_discarded_task_is_packed_no_more_and_what_went_up_is_erased_by_its_name() {
    for index in [true, false] {
        let mut world = World::new(Output::Mp4);
        world.record(false);
        let discard = || Input::Discard { by: "AKID".into() };
        world.apply(discard());
        assert_eq!(world.count(|e| matches!(e, Effect::Withhold | Effect::Clear)), 2);
        world.apply(packed(&["a.mp4"]));
        assert_eq!(world.count(|e| matches!(e, Effect::SpoolPackage { .. })), 0, "the answer comes too late");

        let mut world = World::new(Output::Mp4);
        world.record(false);
        world.apply(packed(&["a_1.mp4", "a_2.mp4"]));
        world.apply(up("a_1.mp4"));
        world.apply(discard());
        // it flew, and arrived all the same
        world.apply(up("a_2.mp4"));
        world.apply(Input::Fate(Fate::PackageLost { object: "a_2.mp4".into(), why: "gone".into() }));
        world.restart(index, &["a_2.mp4"]);
        assert!(matches!(world.effects[0], Effect::Withhold), "before anything is carried: {:?}", world.effects);
        assert_eq!(world.task.deadline(), None, "it waits for words alone");
        world.apply(Input::Fate(Fate::Cleared { files: 3, bytes: 400 }));
        let names =
            world.effects.iter().find_map(|e| if let Effect::Erase { names, .. } = e { Some(names) } else { None });
        let names = names.expect("then the destination").clone();
        assert!(["a_1.mp4", "a_2.mp4"].iter().all(|file| names.iter().any(|name| name == file)), "{names:?}");
        world.wait(Policy::default().grace);
        world.apply(Input::Fate(Fate::Erased { objects: 2, bytes: 200, uploads: 0, media: Vec::new() }));
        assert_eq!(world.task.phase, Phase::Done);
        let told: Vec<u32> = world.told().iter().map(|(event, _)| *event).filter(|event| *event > 303).collect();
        assert!(!told.contains(&310) && told.last() == Some(&305), "{told:?}");
        assert_eq!(world.count(|e| matches!(e, Effect::Package(_) | Effect::SpoolPackage { .. })), 0);
    }
}

/// A publisher who was away for longer than the wait of an automatic recording begins another list, and another file.
#[test]
fn who_comes_back_late_begins_another_file() {
    let mut world = World::new(Output::Mp4);
    world.record(false);
    let first = world.pieces.values().min_by_key(|piece| piece.start).expect("two were recorded").clone();
    let piece = |run: u32, second: u64, list: u32| {
        let start = first.start.plus(Duration::from_secs(second));
        (list, Piece { run, start, duration: Duration::from_secs(10), ..first.clone() })
    };
    let late = [piece(0, 0, 0), piece(1, 30, 0), piece(2, 100, 1), piece(3, 115, 1)];
    let paused = [piece(0, 0, 0), piece(1, 100, 0)];
    let files = |wait: Option<u64>, pieces: &[(u32, Piece)]| -> Vec<usize> {
        let spec = RecordingSpec { resume_wait: wait.map(Duration::from_secs), ..spec(Output::Mp4) };
        let limits = Limits { length: LONGEST, bytes: 1 << 30 };
        let pieces = pieces.iter().map(|(list, piece)| (*list, piece));
        let order = order(&spec, Container::Mp4, limits, Duration::from_secs(3), pieces);
        assert!(order.groups.iter().all(|group| group.stem == order.groups[0].stem), "they are counted together");
        order.groups.iter().map(|group| group.lives.iter().map(|life| life.pieces.len()).sum()).collect()
    };
    assert_eq!(files(Some(30), &late), [2, 2]);
    assert_eq!(files(None, &late), [4]);
    assert_eq!(files(Some(30), &paused), [2], "a pause ends no file");
}
