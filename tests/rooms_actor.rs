//! The actor with a real index and a real shelf, and a media engine and a destination that do as the test says.

mod life;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast::config::Config;
use holdfast::media::{LaneEnd, LaneFeed, LeaveReason, MediaNews};
use holdfast::model::board::{Board, Measured, Milli, Overload, Speed, Tried};
use holdfast::model::event::EventBody;
use holdfast::model::layout::Scene;
use holdfast::model::mix::{ImageFailure, ImageOrder, ImageWant, Layout, LayoutMode, MixSpec, Size, VideoParams};
use holdfast::model::playlist::Playlist;
use holdfast::model::recording::{RecordingSpec, StreamType, Subscribers, Subscription};
use holdfast::model::segment::LocalName;
use holdfast::model::task::RecordingTask;
use holdfast::model::{SdkAppId, SessionId, Timestamp, TrackId, TrackKind, UserId};
use holdfast::rooms::{Error, TaskStatus};
use holdfast::store::records;

use life::*;

#[tokio::test]
async fn a_recording_from_create_to_the_last_event() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), Config::default()).await;
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let task = create(&life, spec()).await.unwrap();
    let app = SdkAppId(1_400_000_001);
    assert_eq!(life.rooms.describe(app, task.clone()).await.unwrap().status, TaskStatus::Idle);
    let order = life.started().await;
    assert!(matches!(order.feed, LaneFeed::Single { audio: Some(TrackId(10)), video: None }), "{:?}", order.feed);
    life.write_segment(&order, 0).await;
    life.write_segment(&order, 1).await;

    let mut bucket = BTreeMap::new();
    life.carry_until(&mut bucket, |e| e.iter().any(|e| matches!(e, EventBody::FileInfo { .. }))).await;
    let view = life.rooms.describe(app, task.clone()).await.unwrap();
    assert_eq!(view.status, TaskStatus::InProgress);
    assert_eq!(view.files[0].begin, Timestamp::from_ms(1_800_000_000_000));
    assert_eq!(view.files[0].file_name, "1400000001_12345__UserId_s_YWxpY2U.__UserId_e_main_audio.m3u8");

    life.rooms.delete(app, task.clone()).await.unwrap();
    match life.next_asked().await {
        Asked::Finish(run) => life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await,
        other => panic!("the lane is finished, not {other:?}"),
    }
    life.carry_until(&mut bucket, stopped).await;
    assert_eq!(life.rooms.describe(app, task.clone()).await, Err(Error::TaskUnknown), "an ended task is an error");

    let key = format!("p1/p2/{task}/{}", view.files[0].file_name);
    let list = Playlist::parse(std::str::from_utf8(&bucket[&key]).unwrap()).unwrap();
    assert!(list.ended && list.items.len() == 2);
    assert_eq!(list.begin, view.files[0].begin);
    for item in &list.items {
        assert!(bucket.contains_key(&format!("p1/p2/{task}/{}", item.name)));
    }
    assert_eq!(list.items[0].name, "1400000001_12345__UserId_s_YWxpY2U.__UserId_e_main_audio_20270115080000000.ts");
    let types: Vec<u32> = life.events().await.iter().map(EventBody::event_type).collect();
    assert_eq!(types, [301, 303, 307, 304, 302, 305]);
    life.deliver().await;
    let folder = dir.path().join("spool").join(task.as_str());
    while folder.exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    life.end().await;
}

/// A board of one core: half of it goes into a mixed recording of 1280x720@15 with the four expected publishers.
fn small_board() -> Arc<Board> {
    let speed = Speed { pixels_per_second: 60 * 921_600, pixels_per_core_second: 60 * 921_600, luma_db: 37 };
    let encoders = vec![Measured { factory: "x264enc".into(), hardware: false, tried: Tried::Works(speed) }];
    Arc::new(Board { cores: 1, encoders, decode: 2400 * 640 * 360, compose: 100 * 921_600 })
}

#[tokio::test]
async fn a_mixed_recording_that_the_board_has_no_room_for_is_refused_with_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin_on(dir.path(), Config::default(), Some(small_board())).await;
    let mixed = |recorder: &str, fps: u32| {
        let video = VideoParams { size: Size { width: 1280, height: 720 }, fps, ..VideoParams::default() };
        let recorder = UserId::parse(recorder).unwrap();
        RecordingSpec { recorder, mix: Some(MixSpec { video, ..MixSpec::default() }), ..spec() }
    };
    create(&life, mixed("first", 15)).await.unwrap();
    let full = Overload::Cores { needs: Milli(500), most: Milli(800), taken: Milli(500), running: 1 };
    assert_eq!(
        full.to_string(),
        "needs 0.50 of the 0.80 cores that mixing may use; 0.50 are taken by 1 mixed recording"
    );
    assert_eq!(create(&life, mixed("second", 15)).await, Err(Error::BoardFull(full)));
    // smaller fits; so does what has no mixed picture
    create(&life, mixed("second", 2)).await.unwrap();
    create(&life, RecordingSpec { streams: StreamType::Audio, ..mixed("third", 15) }).await.unwrap();
    create(&life, RecordingSpec { mix: None, ..mixed("fourth", 15) }).await.unwrap();
    // what it replaces is not in its way
    create(&life, mixed("first", 14)).await.unwrap();
    life.end().await;

    // without a board every one is taken
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(dir.path(), Config::default()).await;
    for recorder in ["first", "second", "third"] {
        create(&life, mixed(recorder, 60)).await.unwrap();
    }
    life.end().await;
}

/// A device that is lost while it records is not counted on for what comes: the processor has to do it all.
#[tokio::test]
async fn what_comes_after_an_encoder_was_lost_has_to_fit_on_what_is_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut board = Arc::unwrap_or_clone(small_board());
    let fast = Speed { pixels_per_second: 600 * 921_600, pixels_per_core_second: 600 * 921_600, luma_db: 37 };
    let device = Measured { factory: "v4l2h264enc".into(), hardware: true, tried: Tried::Works(fast) };
    board.encoders.insert(0, device);
    let mut life = Life::begin_on(dir.path(), Config::default(), Some(Arc::new(board))).await;
    let mixed = |recorder: &str, size: Size| {
        let video = VideoParams { size, fps: 15, ..VideoParams::default() };
        let recorder = UserId::parse(recorder).expect("an id");
        RecordingSpec { recorder, mix: Some(MixSpec { video, ..MixSpec::default() }), ..spec() }
    };
    let small = Size { width: 1280, height: 720 };
    create(&life, mixed("first", small)).await.expect("there is room");
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let order = life.started().await;
    let why = "it hangs".to_owned();
    life.tell(MediaNews::EncoderLost { run: order.run, factory: "v4l2h264enc", why }).await;
    let refused =
        create(&life, mixed("second", small)).await.expect_err("the processor is half taken, and this is half");
    let full = Overload::Cores { needs: Milli(500), most: Milli(800), taken: Milli(500), running: 1 };
    assert_eq!(refused, Error::BoardFull(full));
    life.health.started();
    let told = format!("{:?}", life.health.summary());
    assert!(told.contains("v4l2h264enc was lost (it hangs)"), "{told}");
    life.crash().await;
}

#[tokio::test]
async fn create_again_is_the_same_task_and_another_with_that_recorder_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.limits.tasks = 1;
    let mut life = Life::begin(dir.path(), config).await;
    let first = create(&life, spec()).await.unwrap();
    assert_eq!(create(&life, spec()).await.unwrap(), first);
    let mut other = spec();
    other.recorder = UserId::parse("second").unwrap();
    assert_eq!(create(&life, other).await, Err(Error::TooManyTasks { running: 1, limit: 1 }));
    let mut changed = spec();
    changed.streams = StreamType::Audio;
    let second = create(&life, changed.clone()).await.unwrap();
    assert_ne!(first, second);
    life.carry_until(&mut BTreeMap::new(), stopped).await;
    let codes: Vec<u32> = (life.events().await.iter())
        .filter_map(|e| if let EventBody::RecorderStop { code } = e { Some(code.code()) } else { None })
        .collect();
    assert_eq!(codes, [101]);

    life.enter(1, "alice", &[]).await;
    life.enter(2, "alice", &[]).await;
    assert!(matches!(life.next_asked().await, Asked::CloseSession(SessionId(1))), "the newer session stays");
    let mut taken = spec();
    taken.recorder = UserId::parse("alice").unwrap();
    assert_eq!(create(&life, taken).await, Err(Error::RecorderInUse));
    assert_eq!(life.rooms.delete(SdkAppId(7), second).await, Err(Error::TaskUnknown), "another app's task");
    life.end().await;
}

#[tokio::test]
async fn modify_and_leaving_move_the_lanes_and_a_lane_that_fails_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), Config::default()).await;
    let task = create(&life, spec()).await.unwrap();
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let order = life.started().await;
    let nobody = Subscription { audio: Subscribers::AllBut(vec!["a.*$".into()]), video: Subscribers::Everybody };
    life.rooms.modify(SdkAppId(1_400_000_001), task.clone(), nobody, None).await.unwrap();
    let Asked::Finish(run) = life.next_asked().await else { panic!("the lane is finished") };
    assert_eq!(run, order.run);
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    life.rooms.modify(SdkAppId(1_400_000_001), task.clone(), Subscription::default(), None).await.unwrap();
    let again = life.started().await;
    assert_eq!(again.run.run, order.run.run + 1, "a new run of the same lane");

    *life.engine.refuse.lock().unwrap() = true;
    life.tell(MediaNews::LaneEnded { run: again.run.clone(), end: LaneEnd::Failed("codec".into()) }).await;
    // Describe comes after the news in the actor's order only by chance; the relaunch below is what counts.
    *life.engine.refuse.lock().unwrap() = false;
    let relaunched = life.started().await;
    assert!(relaunched.run.run > again.run.run);
    life.tell(MediaNews::Left { session: SessionId(1), reason: LeaveReason::Vanished }).await;
    assert!(matches!(life.next_asked().await, Asked::Finish(_)));
    life.tell(MediaNews::LaneEnded { run: relaunched.run, end: LaneEnd::TrackGone }).await;

    assert_eq!(life.rooms.dismiss(room()).await, Ok(()), "the recorder is in the room still");
    life.carry_until(&mut BTreeMap::new(), stopped).await;
    assert_eq!(life.rooms.dismiss(room()).await, Err(Error::RoomUnknown));
    life.end().await;
}

#[tokio::test]
async fn a_task_is_taken_over_after_a_crash_and_what_was_written_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), Config::default()).await;
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let task = create(&life, spec()).await.unwrap();
    let order = life.started().await;
    life.write_segment(&order, 0).await;
    // Wait until it is on the shelf, then the process dies: nothing is told to anybody.
    let on_shelf = async {
        while !life.events().await.iter().any(|e| matches!(e, EventBody::FileSlice { .. })) {
            life.outbox.notified().await;
        }
    };
    tokio::time::timeout(LIMIT, on_shelf).await.expect("307");
    life.crash().await;

    let mut life = Life::begin(dir.path(), Config::default()).await;
    assert_eq!(life.rooms.describe(SdkAppId(1_400_000_001), task.clone()).await.unwrap().files.len(), 1);
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let order = life.started().await;
    life.write_segment(&order, 0).await;
    life.rooms.delete(SdkAppId(1_400_000_001), task.clone()).await.unwrap();
    let mut bucket = BTreeMap::new();
    let finishing = async {
        loop {
            if let Asked::Finish(run) = life.next_asked().await {
                break run;
            }
        }
    };
    let run = finishing.await;
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    life.carry_until(&mut bucket, stopped).await;
    let names: Vec<&str> = bucket.keys().filter_map(|k| k.rsplit('/').next()).filter(|n| n.ends_with("m3u8")).collect();
    assert_eq!(
        names,
        [
            "1400000001_12345__UserId_s_YWxpY2U.__UserId_e_main_audio.m3u8",
            "ha1_1400000001_12345__UserId_s_YWxpY2U.__UserId_e_main_audio.m3u8"
        ]
    );
    let types: Vec<u32> = life.events().await.iter().map(EventBody::event_type).collect();
    assert_eq!(types.iter().filter(|t| **t == 306).count(), 1);
    assert_eq!(types.last(), Some(&305));
    life.end().await;
}

/// A life's list gets its torn tail before it is closed.
#[tokio::test]
async fn a_torn_tail_is_listed_in_the_life_that_wrote_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), Config::default()).await;
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let task = create(&life, spec()).await.unwrap();
    let order = life.started().await;
    life.write_segment(&order, 0).await;
    let mut bucket = BTreeMap::new();
    life.carry_until(&mut bucket, |e| e.iter().any(|e| matches!(e, EventBody::FileInfo { .. }))).await;
    // The second segment is being written when the process dies.
    let open = LocalName {
        lane: order.run.lane.clone(),
        run: order.run.run,
        index: 1,
        start: Timestamp::from_ms(1_800_000_010_000),
        duration: None,
        size: None,
        discontinuity: false,
    };
    let torn = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "sine=duration=2", "-c:a", "aac", "-f", "mpegts"])
        .arg(order.dir.join(open.part().to_string()))
        .status()
        .expect("ffmpeg (Debian package ffmpeg)");
    assert!(torn.success());
    life.crash().await;

    let life = Life::begin(dir.path(), Config::default()).await;
    life.rooms.delete(SdkAppId(1_400_000_001), task.clone()).await.unwrap();
    life.carry_until(&mut bucket, stopped).await;
    let key = bucket.keys().find(|key| key.ends_with("m3u8")).unwrap();
    let list = Playlist::parse(std::str::from_utf8(&bucket[key]).unwrap()).unwrap();
    let listed: Vec<String> = list.items.iter().map(|item| format!("p1/p2/{task}/{}", item.name)).collect();
    let there: Vec<&String> = bucket.keys().filter(|key| key.ends_with(".ts")).collect();
    assert_eq!(listed.iter().collect::<Vec<_>>(), there);
    assert!(list.ended && listed.len() == 2);
    life.end().await;
}

/// A layout is for mixed tasks alone; there each Modify replaces all of it, and one without a layout the same.
#[tokio::test]
async fn modify_replaces_the_layout_of_a_mixed_task() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(dir.path(), Config::default()).await;
    let app = SdkAppId(1_400_000_001);
    let single = create(&life, spec()).await.unwrap();
    let everybody = Subscription::default;
    let floating = Layout { mode: LayoutMode::Floating { large: None }, ..Layout::default() };
    let refused = life.rooms.modify(app, single, everybody(), Some(floating.clone())).await;
    assert_eq!(refused, Err(Error::NotMixed));

    let mixed = RecordingSpec { mix: Some(MixSpec::default()), recorder: UserId::parse("mixer").unwrap(), ..spec() };
    let mixed = create(&life, mixed).await.unwrap();
    for (layout, wanted) in [(Some(floating.clone()), floating), (None, Layout::default())] {
        life.rooms.modify(app, mixed.clone(), everybody(), layout).await.unwrap();
        let record = life.store.get(records::task_key(&mixed)).await.unwrap().expect("the task is in the index");
        let task: RecordingTask = serde_json::from_slice(&record).unwrap();
        assert_eq!(task.spec.mix.unwrap().layout, wanted);
    }
    life.end().await;
}

/// Modify reaches a mixed lane that runs as another scene of the same run; its images are asked for, and one that fails
/// is told to the clinic once.
#[tokio::test]
async fn modify_changes_the_scene_of_a_running_mix_and_a_failed_image_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), Config::default()).await;
    let app = SdkAppId(1_400_000_001);
    let layout = |url: &str| Layout { placeholder: Some(url.to_owned()), ..Layout::default() };
    let mix = MixSpec { layout: layout("http://images/first.png"), ..MixSpec::default() };
    let task = create(&life, RecordingSpec { mix: Some(mix), ..spec() }).await.unwrap();
    let ordered = async |life: &mut Life| {
        tokio::time::timeout(LIMIT, life.images.recv()).await.expect("in time").expect("the actor lives")
    };
    let fetch = |url: &str| ImageOrder::Fetch(ImageWant { task: task.clone(), url: url.to_owned() });
    assert_eq!(ordered(&mut life).await, fetch("http://images/first.png"));

    life.enter(1, "alice", &[TrackKind::Video]).await;
    let order = life.started().await;
    let LaneFeed::Mixed { scene, video, audio } = &order.feed else { panic!("a mixed lane, not {:?}", order.feed) };
    assert_eq!((video, audio), (&MixSpec::default().video, &MixSpec::default().audio));
    assert_eq!(order.run.lane.user, None);
    let tracks = |scene: &Scene| scene.tiles.iter().map(|tile| tile.track).collect::<Vec<_>>();
    assert_eq!((tracks(scene), scene.sounds.clone()), (vec![Some(TrackId(10))], vec![]));

    life.enter(2, "bob", &[TrackKind::Audio, TrackKind::Video]).await;
    // bob enters, is heard, is seen: each time the scene says so
    let mut scenes = Vec::new();
    for _ in 0..3 {
        let Asked::Scene(run, scene) = life.next_asked().await else { panic!("a scene for the lane that runs") };
        assert_eq!(run, order.run);
        scenes.push((tracks(&scene), scene.sounds.len()));
    }
    let (alice, bob) = (Some(TrackId(10)), Some(TrackId(21)));
    assert_eq!(scenes, [(vec![alice, None], 0), (vec![alice, None], 1), (vec![alice, bob], 1)]);

    let only_bob = Subscription { video: Subscribers::Only(vec!["bob".into()]), ..Subscription::default() };
    let floating = Layout { mode: LayoutMode::Floating { large: None }, ..layout("http://images/second.png") };
    life.rooms.modify(app, task.clone(), only_bob, Some(floating)).await.unwrap();
    let Asked::Scene(run, scene) = life.next_asked().await else { panic!("a scene for the lane that runs") };
    assert_eq!((run, scene.sounds.clone()), (order.run.clone(), vec![TrackId(20)]));
    // alice is admitted for her sound alone, and has a place in which the new image stands
    assert_eq!(tracks(&scene), [None, bob]);
    assert_eq!(scene.tiles[0].image.as_deref(), Some("http://images/second.png"));
    assert_eq!(ordered(&mut life).await, fetch("http://images/second.png"));
    let second = BTreeMap::from([("http://images/second.png".to_owned(), BTreeSet::from([task.clone()]))]);
    assert_eq!(ordered(&mut life).await, ImageOrder::Shown(second));

    for _ in 0..2 {
        let (url, why) = ("http://images/second.png".to_owned(), "404".to_owned());
        life.image_failed(ImageFailure { task: task.clone(), url, why }).await;
    }
    life.write_segment(&order, 0).await;
    life.rooms.delete(app, task.clone()).await.unwrap();
    let Asked::Finish(run) = life.next_asked().await else { panic!("the lane is finished") };
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    let mut bucket = BTreeMap::new();
    life.carry_until(&mut bucket, stopped).await;
    let events = life.events().await;
    let failed: Vec<&EventBody> = events.iter().filter(|e| matches!(e, EventBody::ImageError { .. })).collect();
    assert_eq!(failed, [&EventBody::ImageError { url: "http://images/second.png".into() }]);
    let names: Vec<&str> = bucket.keys().filter_map(|key| key.rsplit('/').next()).collect();
    assert_eq!(names, ["1400000001_12345.m3u8", "1400000001_12345_20270115080000000.ts"]);
    life.end().await;
}

/// Whoever fetches images hears that a task shows none any more, though its layout was never changed.
#[tokio::test]
async fn images_of_a_task_that_is_over_are_waited_for_by_nobody() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut life = Life::begin(dir.path(), Config::default()).await;
    let url = "http://images/first.png".to_owned();
    let layout = Layout { placeholder: Some(url.clone()), ..Layout::default() };
    let mix = MixSpec { layout, ..MixSpec::default() };
    let task = create(&life, RecordingSpec { mix: Some(mix), ..spec() }).await.expect("it begins");
    life.enter(1, "alice", &[TrackKind::Video]).await;
    let order = life.started().await;
    life.write_segment(&order, 0).await;
    life.rooms.delete(SdkAppId(1_400_000_001), task.clone()).await.expect("it is there");
    let Asked::Finish(run) = life.next_asked().await else { panic!("the lane is finished") };
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    life.carry_until(&mut BTreeMap::new(), stopped).await;
    life.deliver().await;
    let orders = async {
        let fetched = life.images.recv().await.expect("the actor lives");
        (fetched, life.images.recv().await.expect("the actor lives"))
    };
    let orders = tokio::time::timeout(LIMIT, orders).await.expect("it hears of the end");
    assert_eq!(orders, (ImageOrder::Fetch(ImageWant { task, url }), ImageOrder::Shown(BTreeMap::new())));
    life.end().await;
}

/// 305's statuses so far.
fn upload_stops(events: &[EventBody]) -> Vec<u8> {
    events.iter().filter_map(|e| if let EventBody::UploadStop { status } = e { Some(*status) } else { None }).collect()
}

#[tokio::test]
async fn a_task_that_ends_while_the_bucket_is_away_says_so_once_and_says_when_all_has_arrived_lives_later() {
    let dir = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = Config::default();
        config.upload.grace_seconds = 0;
        config
    };
    let mut life = Life::begin(dir.path(), config()).await;
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let task = create(&life, spec()).await.unwrap();
    let order = life.started().await;
    life.write_segment(&order, 0).await;
    life.write_segment(&order, 1).await;
    life.rooms.delete(SdkAppId(1_400_000_001), task.clone()).await.unwrap();
    let Asked::Finish(run) = life.next_asked().await else { panic!("the lane is finished") };
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    let left_behind = async {
        while upload_stops(&life.events().await) != [1] {
            life.outbox.notified().await;
        }
    };
    tokio::time::timeout(LIMIT, left_behind).await.expect("305 with Status 1");
    life.crash().await;

    // a whole life in which the bucket is still away
    let life = Life::begin(dir.path(), config()).await;
    assert_eq!(upload_stops(&life.events().await), [1], "said once");
    assert_eq!(life.spool.pending(&task).segments, 2);
    life.end().await;

    // a part of it arrives, and the box dies again
    let life = Life::begin(dir.path(), config()).await;
    let job = life.spool.lease(1).await.unwrap().expect("it waits");
    job.ack_uploaded().await.unwrap();
    life.crash().await;

    let life = Life::begin(dir.path(), config()).await;
    let mut bucket = BTreeMap::new();
    life.carry_until(&mut bucket, |events| upload_stops(events) == [1, 2]).await;
    let types: Vec<u32> = life.events().await.iter().map(EventBody::event_type).collect();
    assert_eq!(types, [301, 303, 307, 302, 305, 304, 305]);
    let list = bucket.iter().find(|(key, _)| key.ends_with(".m3u8")).expect("the playlist is there").1;
    let list = Playlist::parse(std::str::from_utf8(list).unwrap()).unwrap();
    assert!(list.ended && list.items.len() == 2);
    life.end().await;
}
