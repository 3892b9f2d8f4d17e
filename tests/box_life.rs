//! The life of a room while it is recorded: people vanish, come back, are sent out; tasks end in every way there is.

mod support;

use serde_json::{Value, json};
use support::daemon::Settings;
use support::publisher::{Publisher, Sends};
use support::scene::{Scene, assert_story, until};
use support::{APP, BUCKET};

async fn in_room(scene: &Scene, room: &str, user: &str) -> Publisher {
    scene.publish(room, user, Sends::default()).await
}

/// A publisher whose machine dies is noticed; when it comes back, the same files go on after a discontinuity.
#[tokio::test(flavor = "multi_thread")]
async fn who_vanishes_and_comes_back_goes_on_in_the_same_files() {
    let scene = Scene::new(|s| s.ice_timeout_seconds = 3).await;
    let task = scene.create("clinic").await;
    let mut first = in_room(&scene, "clinic", "dr-wang").await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    first.vanish().await;
    // Noticed: the tail of the old run is cut and uploaded though the task goes on.
    let before = scene.segments(&task, "dr-wang", "video").await.len();
    scene.has_segments(&task, "dr-wang", "video", before + 1).await;
    let mut again = in_room(&scene, "clinic", "dr-wang").await;
    scene.has_segments(&task, "dr-wang", "video", before + 2).await;
    scene.has_segments(&task, "dr-wang", "audio", before + 2).await;
    let recording = scene.finish(&task).await;
    again.leave().await;
    assert_eq!(recording.lanes.len(), 2, "one list each for sound and picture: {:?}", recording.objects.keys());
    for lane in &recording.lanes {
        lane.assert_sound();
        assert_eq!(lane.playlist.discontinuities(), 1, "{}:\n{}", lane.name, lane.playlist.text);
    }
    assert_story(&scene.receiver.of(&task), 2);
}

/// The same user enters a second time: the newer one is recorded, the older one is shown out.
#[tokio::test(flavor = "multi_thread")]
async fn of_the_same_user_twice_the_newer_wins() {
    let scene = Scene::local(|_| {}).await;
    let task = scene.create("clinic").await;
    let mut older = in_room(&scene, "clinic", "dr-wang").await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    let mut newer = in_room(&scene, "clinic", "dr-wang").await;
    older.ended().await;
    let before = scene.segments(&task, "dr-wang", "video").await.len();
    scene.has_segments(&task, "dr-wang", "video", before + 2).await;
    let recording = scene.finish(&task).await;
    newer.leave().await;
    assert_eq!(recording.lanes.len(), 2, "{:?}", recording.objects.keys());
    let video = recording.lane("dr-wang", "video");
    video.assert_sound();
    assert!(video.playlist.discontinuities() >= 1, "{}", video.playlist.text);
}

fn modify(task: &str, lists: Value) -> Value {
    json!({ "SdkAppId": APP, "TaskId": task, "SubscribeStreamUserIds": lists })
}

/// Allow and deny lists, with prefixes, changed while it records.
#[tokio::test(flavor = "multi_thread")]
async fn lists_say_who_is_recorded_and_modify_changes_them_live() {
    let scene = Scene::local(|_| {}).await;
    let _wang = in_room(&scene, "clinic", "dr-wang").await;
    let _li = in_room(&scene, "clinic", "patient-li").await;
    let created = scene.sdk.create("clinic", "recorder", |p| {
        p["RecordParams"]["SubscribeStreamUserIds"] =
            json!({ "SubscribeAudioUserIds": ["dr-.*$"], "UnSubscribeVideoUserIds": ["patient-li"] });
    });
    let task = created.await.expect("lists are known");
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    let early = scene.recording(&task).await;
    assert!(early.find("patient-li", "audio").is_none() && early.find("patient-li", "video").is_none());

    // The other way round, picture only.
    let lists = json!({ "SubscribeAudioUserIds": ["nobody"], "SubscribeVideoUserIds": ["patient-.*$"] });
    scene.sdk.call("ModifyCloudRecording", modify(&task, lists)).await.expect("lists may change");
    scene.has_segments(&task, "patient-li", "video", 2).await;
    let wang_then = scene.segments(&task, "dr-wang", "video").await;
    scene.has_segments(&task, "patient-li", "video", 3).await;
    assert_eq!(scene.segments(&task, "dr-wang", "video").await, wang_then, "dr-wang is not recorded any more");

    let both = json!({ "SubscribeAudioUserIds": ["a"], "UnSubscribeAudioUserIds": ["b"] });
    let refused =
        scene.sdk.call("ModifyCloudRecording", modify(&task, both)).await.expect_err("they exclude each other");
    assert!(refused.code.starts_with("InvalidParameter"), "{refused:?}");

    let recording = scene.finish(&task).await;
    let mut lanes: Vec<_> = recording.lanes.iter().map(|l| (l.user.as_str(), l.kind.as_str())).collect();
    lanes.sort_unstable();
    assert_eq!(lanes, [("dr-wang", "audio"), ("dr-wang", "video"), ("patient-li", "video")]);
    recording.lanes.iter().for_each(support::recorded::Lane::assert_sound);
}

/// StreamType narrows what is recorded; two tasks of different recorders run beside each other in one room.
#[tokio::test(flavor = "multi_thread")]
async fn stream_types_and_two_tasks_in_one_room() {
    let scene = Scene::local(|_| {}).await;
    let _wang = in_room(&scene, "clinic", "dr-wang").await;
    let sound = scene.sdk.create("clinic", "ear", |p| p["RecordParams"]["StreamType"] = json!(1)).await;
    let picture = scene.sdk.create("clinic", "eye", |p| p["RecordParams"]["StreamType"] = json!(2)).await;
    let (sound, picture) = (sound.expect("StreamType 1"), picture.expect("StreamType 2"));
    assert_ne!(sound, picture);
    scene.has_segments(&sound, "dr-wang", "audio", 1).await;
    scene.has_segments(&picture, "dr-wang", "video", 1).await;
    let (sound, picture) = (scene.finish(&sound).await, scene.finish(&picture).await);
    let kinds = |r: &support::recorded::Recording| r.lanes.iter().map(|l| l.kind.clone()).collect::<Vec<_>>();
    assert_eq!((kinds(&sound), kinds(&picture)), (vec!["audio".to_owned()], vec!["video".to_owned()]));
}

/// A room called "77" and the room number 77 are two rooms.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_and_its_text_are_two_rooms() {
    let scene = Scene::local(|_| {}).await;
    let token = scene.sdk.user_sig("in-number").await;
    let numeric = format!("{}?room_id_type=1", scene.daemon.whip("77", "in-number"));
    let _number = Publisher::launch(&numeric, &token, Sends::default());
    let token = scene.sdk.user_sig("in-text").await;
    let textual = format!("{}?room_id_type=0", scene.daemon.whip("77", "in-text"));
    let _text = Publisher::launch(&textual, &token, Sends::default());
    let of_text = scene.create("77").await;
    let of_number = scene.sdk.create("77", "recorder", |p| p["RoomIdType"] = json!(1)).await.expect("a numeric room");
    scene.has_segments(&of_text, "in-text", "audio", 1).await;
    scene.has_segments(&of_number, "in-number", "audio", 1).await;
    let told = scene.receiver.event(&of_number, 307).await;
    assert_eq!(told.info()["RoomId"], 77, "a number stays a number: {}", told.body);
    assert_eq!(scene.receiver.event(&of_text, 307).await.info()["RoomId"], "77");
    for (task, user) in [(&of_text, "in-text"), (&of_number, "in-number")] {
        let recording = scene.finish(task).await;
        assert!(recording.lanes.iter().all(|l| l.user == user), "{:?}", recording.objects.keys());
    }
}

/// Nobody in the room for MaxIdleTime ends the task.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_room_ends_the_task_after_max_idle_time() {
    let scene = Scene::new(|_| {}).await;
    let created = scene.sdk.create("clinic", "recorder", |p| p["RecordParams"]["MaxIdleTime"] = json!(5)).await;
    let task = created.expect("5 s are allowed");
    let mut publisher = in_room(&scene, "clinic", "dr-wang").await;
    scene.has_segments(&task, "dr-wang", "video", 2).await;
    publisher.leave().await;
    assert_eq!(scene.leave_code(&task).await, 99);
    let recording = scene.uploaded(&task).await;
    recording.lanes.iter().for_each(support::recorded::Lane::assert_sound);
    assert_story(&scene.receiver.of(&task), 2);
    scene.gone(&task).await;

    let empty = scene.sdk.create("nobody", "recorder", |p| p["RecordParams"]["MaxIdleTime"] = json!(5)).await;
    let empty = empty.expect("an empty room can be recorded");
    assert_eq!(scene.leave_code(&empty).await, 99, "a room in which nobody ever was");
}

/// RemoveUser shows people and recorders out; DismissRoom everybody.
#[tokio::test(flavor = "multi_thread")]
async fn removed_and_dismissed() {
    let scene = Scene::local(|_| {}).await;
    let mut publisher = in_room(&scene, "clinic", "dr-wang").await;
    let task = scene.create("clinic").await;
    scene.lanes_began(&task, 2).await;
    let out = json!({ "SdkAppId": APP, "RoomId": "clinic", "UserIds": ["dr-wang"] });
    scene.sdk.call("RemoveUserByStrRoomId", out).await.expect("dr-wang is in the room");
    assert_eq!(publisher.ended().await, Some(0));
    assert!(publisher.log().contains("ended by the box"), "{}", publisher.log());
    let out = json!({ "SdkAppId": APP, "RoomId": "clinic", "UserIds": ["recorder"] });
    scene.sdk.call("RemoveUserByStrRoomId", out).await.expect("the recorder is in the room");
    assert_eq!(scene.leave_code(&task).await, 1);
    scene.uploaded(&task).await;

    let token = scene.sdk.user_sig("dr-wang").await;
    let mut publisher = Publisher::launch(&scene.daemon.whip("4711", "dr-wang"), &token, Sends::default());
    let numeric = scene.sdk.create("4711", "recorder", |p| p["RoomIdType"] = json!(1)).await;
    let task = numeric.expect("a numeric room");
    scene.lanes_began(&task, 2).await;
    let room = json!({ "SdkAppId": APP, "RoomId": 4711 });
    scene.sdk.call("DismissRoom", room.clone()).await.expect("the room exists");
    publisher.ended().await;
    assert_eq!(scene.leave_code(&task).await, 2);
    scene.uploaded(&task).await;
    let nobody = scene.sdk.call("DismissRoom", room).await.expect_err("nobody is in it");
    assert_eq!(nobody.code, "FailedOperation.RoomNotExist", "{nobody:?}");
}

/// A second task with the same recorder interrupts the first, unless it is the very same request.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_recorder_again_interrupts_the_first_task() {
    let scene = Scene::local(|_| {}).await;
    let _publisher = in_room(&scene, "clinic", "dr-wang").await;
    let first = scene.create("clinic").await;
    scene.lanes_began(&first, 2).await;
    let other = scene.sdk.create("clinic", "recorder", |p| p["RecordParams"]["MaxIdleTime"] = json!(60)).await;
    let second = other.expect("it takes the first one's place");
    assert_ne!(first, second);
    assert_eq!(scene.leave_code(&first).await, 101);
    scene.uploaded(&first).await;
    scene.lanes_began(&second, 2).await;
    scene.finish(&second).await;

    let refused = scene.sdk.create("clinic", "dr-wang", |_| {}).await.expect_err("that id is in use in the room");
    assert!(!refused.code.starts_with("InternalError"), "{refused:?}");
}

/// A VP8 publisher that is no browser.
#[tokio::test(flavor = "multi_thread")]
async fn a_vp8_publisher_is_recorded_as_h264() {
    let scene = Scene::local(|_| {}).await;
    let _publisher = scene.publish("clinic", "old-tablet", Sends { codec: Some("vp8"), ..Sends::default() }).await;
    let task = scene.create("clinic").await;
    scene.has_segments(&task, "old-tablet", "video", 2).await;
    let recording = scene.finish(&task).await;
    recording.lane("old-tablet", "video").assert_sound();
}

/// The local store is laid out as the bucket would be, and the box serves it with ranges.
#[tokio::test(flavor = "multi_thread")]
async fn the_local_store_is_served_with_ranges() {
    let scene = Scene::local(|_| {}).await;
    let _publisher = in_room(&scene, "clinic", "dr-wang").await;
    let task = scene.create("clinic").await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    let recording = scene.finish(&task).await;
    let lane = recording.lane("dr-wang", "video");
    let client = support::daemon::client();
    let folder = scene.daemon.url(&format!("files/{BUCKET}/{}/{task}", support::recorded::PREFIX));
    let list = client.get(format!("{folder}/{}", lane.name)).send().await.expect("the box serves");
    assert_eq!(list.status(), 200);
    assert_eq!(list.text().await.expect("text"), lane.playlist.text);
    let segment = &lane.playlist.segments[0].name;
    let part = client.get(format!("{folder}/{segment}")).header("Range", "bytes=188-375").send().await;
    let part = part.expect("the box serves");
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.expect("bytes")[..], recording.objects[segment][188..376]);
    for outside in ["../../index", "%2e%2e/%2e%2e/index", "..%2f..%2fbox.key"] {
        let answer = client.get(scene.daemon.url(&format!("files/{outside}"))).send().await.expect("the box answers");
        assert!(!answer.status().is_success(), "{outside}: {}", answer.status());
    }
    let write = client.put(format!("{folder}/{segment}")).body("x").send().await.expect("the box answers");
    assert!(write.status().is_client_error(), "{}", write.status());
}

/// Over the limits of requests and of tasks the box says so, by the cloud's codes.
#[tokio::test(flavor = "multi_thread")]
async fn limits_have_the_clouds_codes() {
    let more = "[limits]\nrequests_per_second = 3\ntasks = 1\n".to_owned();
    let scene = Scene::local(|s: &mut Settings| s.more = more).await;
    let task = scene.create("clinic").await;
    let full = until("a second task to be refused", || async {
        let refused = scene.sdk.create("other", "recorder", |_| {}).await.err()?;
        (refused.code != "RequestLimitExceeded").then_some(refused)
    });
    assert_eq!(full.await.code, "FailedOperation.RestrictedConcurrency");
    let mut codes = Vec::new();
    for _ in 0..30 {
        codes.extend(scene.sdk.describe(&task).await.err().map(|e| e.code));
    }
    assert!(codes.iter().any(|c| c == "RequestLimitExceeded"), "30 quick calls against 3 a second: {codes:?}");
}
