//! What must not be kept: pauses and discards of the whole box, with real media, the official SDK and a real bucket; and
//! rooms that are recorded without anybody asking.

mod support;

use serde_json::{Value, json};
use support::publisher::Sends;
use support::scene::{Scene, until};
use support::{ACCESS_KEY, APP, BUCKET, SECRET_KEY};

fn by_task(task: &str) -> Value {
    json!({ "SdkAppId": APP, "TaskId": task })
}

async fn pause(scene: &Scene, task: &str) {
    let answer = scene.sdk.call_json("PauseCloudRecording", by_task(task)).await.expect("a running task pauses");
    assert_eq!(answer["TaskId"], task, "{answer}");
}

/// A single-stream recording with a pause in it: two stretches of each list, whole files, one break between them as long
/// as the pause, sound and picture in step in both.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_consultation_has_a_break_and_nothing_of_the_pause() {
    let scene = Scene::new(|s| s.segment_seconds = 2).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    pause(&scene, &task).await;
    let again = scene.sdk.call_json_as("HmacSHA256", "GET", "PauseCloudRecording", by_task(&task)).await;
    again.expect("it may be said twice, by the older signature, too");
    let shown = scene.sdk.call_json("DescribeCloudRecording", by_task(&task)).await.expect("it is described");
    assert_eq!((&shown["Paused"], &shown["Status"]), (&json!(true), &json!("InProgress")), "{shown}");
    assert_eq!(scene.sdk.describe(&task).await.expect("the typed call knows no Paused")["Status"], "InProgress");
    // all that was captured before is at the destination; then nothing more comes
    until("the lanes to end", || async { (scene.daemon.metric("holdfast_lanes").await == 0.0).then_some(()) }).await;
    until("the shelf to be empty", || async {
        (scene.daemon.metric("holdfast_spool_files").await == 0.0).then_some(())
    })
    .await;
    let before = scene.recording(&task).await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(scene.objects(&task).await.len(), before.objects.len(), "nothing is taken while it is paused");
    let answer = scene.sdk.call_json("ResumeCloudRecording", by_task(&task)).await.expect("it goes on");
    assert_eq!(answer["TaskId"], task);
    let shown = scene.sdk.call_json("DescribeCloudRecording", by_task(&task)).await.expect("it is described");
    assert!(shown.get("Paused").is_none(), "{shown}");
    let listed = scene.segments(&task, "dr-wang", "video").await.len();
    scene.has_segments(&task, "dr-wang", "video", listed + 1).await;
    let recording = scene.finish(&task).await;
    assert_eq!(recording.lanes.len(), 2);
    for lane in &recording.lanes {
        assert_eq!(lane.playlist.discontinuities(), 1, "{}", lane.playlist.text);
        for file in lane.files() {
            assert_eq!(support::probe::decode_errors(&file), "", "{}", file.display());
        }
    }
    let refused = scene.sdk.call_json("PauseCloudRecording", by_task(&task)).await.expect_err("it has ended");
    assert_eq!(refused.code, "ResourceNotFound");
}

/// The same for a mixed recording; it is paused when the box is killed, and is still when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_mix_is_paused_after_a_crash() {
    let mut scene = Scene::new(|s| s.segment_seconds = 2).await;
    let mixed = scene.sdk.create("clinic", "recorder", |p| p["RecordParams"]["RecordMode"] = json!(2)).await;
    let task = mixed.expect("a mixed recording");
    let mut publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.lanes_began(&task, 1).await;
    pause(&scene, &task).await;
    until("the lane to end", || async { (scene.daemon.metric("holdfast_lanes").await == 0.0).then_some(()) }).await;
    scene.daemon.kill().await;
    publisher.vanish().await;
    scene.daemon.start_again().await;
    scene.receiver.event(&task, 306).await;
    let shown = scene.sdk.call_json("DescribeCloudRecording", by_task(&task)).await.expect("the task goes on");
    assert_eq!(shown["Paused"], true, "{shown}");
    let _again = scene.publish("clinic", "dr-wang", Sends::default()).await;
    until("the publisher to be there", || async {
        (scene.daemon.metric("holdfast_tracks").await == 2.0).then_some(())
    })
    .await;
    assert_eq!(scene.daemon.metric("holdfast_lanes").await, 0.0);
    scene.sdk.call_json("ResumeCloudRecording", by_task(&task)).await.expect("it goes on");
    scene.lanes_began(&task, 2).await;
    let recording = scene.finish(&task).await;
    assert_eq!(recording.lanes.len(), 2, "one list of each life");
    for lane in &recording.lanes {
        assert_eq!(support::probe::decode_errors(&lane.joined()), "", "{}", lane.name);
    }
}

/// Discarded while the bucket is away and a part of it is there; the box is killed in the middle. In the end nothing is
/// left: not in the bucket, not on the shelf, not in the index; what is left is a receipt.
#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_recording_is_gone_everywhere_after_outage_and_crash() {
    let mut scene = Scene::new(|s| s.segment_seconds = 2).await;
    let task = scene.create("clinic").await;
    let other = scene.sdk.create("clinic", "recorder2", |_| {}).await.expect("another recording of the room");
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 2).await;
    scene.has_segments(&other, "dr-wang", "video", 1).await;
    scene.s3.as_mut().expect("the scene has one").stop().await;
    let mut order = by_task(&task);
    order["Discard"] = json!(true);
    scene.sdk.call_json("DeleteCloudRecording", order.clone()).await.expect("it is discarded");
    let left = scene.receiver.event(&task, 302).await;
    let receipt = &left.payload()["Discard"];
    assert_eq!(left.payload()["LeaveCode"], 0);
    assert!(receipt["Objects"].as_u64() >= Some(2) && receipt["By"] == support::API_ID, "{receipt}");
    let folder = scene.daemon.state_dir().join("spool").join(&task);
    let media = || -> Vec<String> {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.contains(".json") && !name.ends_with(".txt")).collect()
    };
    assert_eq!(media(), Vec::<String>::new(), "302 is told when nothing is left on the box");
    scene.daemon.kill().await;
    scene.daemon.start_again().await;
    scene.s3.as_mut().expect("the scene has one").start_again().await;
    let gone = scene.receiver.event(&task, 305).await;
    let receipt = &gone.payload()["Discard"];
    assert_eq!(gone.payload()["Status"], 3, "{}", gone.body);
    assert!(receipt["Objects"].as_u64() >= Some(4) && receipt["ObjectBytes"].as_u64() > Some(10_000), "{receipt}");
    assert_eq!(scene.objects(&task).await.len(), 0);
    assert!(!scene.objects(&other).await.is_empty(), "another task's files stay");
    until("the folder to go", || async { (!folder.exists()).then_some(()) }).await;
    assert!(scene.daemon.log().contains("a recording is discarded"), "the receipt is in the log");
    let refused = scene.sdk.call_json("DeleteCloudRecording", order).await.expect_err("nobody knows it any more");
    assert_eq!(refused.code, "ResourceNotFound");
    let events = scene.receiver.events(&task);
    assert_eq!(events.iter().filter(|event| **event == 302).count(), 1, "{events:?}");
}

fn template(enabled: bool, more: &str) -> String {
    format!(
        "[automatic]\nenabled = {enabled}\nrooms = [\"ward*\"]\nbucket = \"{BUCKET}\"\nregion = \"us-east-1\"\n\
         access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\nprefix = [\"clinic\", \"day1\"]\n\
         resume_seconds = 3\n{more}\n"
    )
}

/// Switched on by SIGHUP; a file with a fault changes nothing. A publisher alone makes a recording, which knows its calls
/// and ends when all have left for longer than the wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_recorded_of_itself() {
    let mut scene = Scene::new(|s| s.segment_seconds = 2).await;
    let mut before = scene.publish("ward-0", "dr-li", Sends::default()).await;
    until("the publisher", || async { (scene.daemon.metric("holdfast_tracks").await == 2.0).then_some(()) }).await;
    scene.daemon.reload(&template(true, ""));
    scene.daemon.logged("[automatic] is taken").await;
    scene.daemon.reload(&template(true, "resume = 1"));
    scene.daemon.logged("automatic recording stays as it is").await;
    let _elsewhere = scene.publish("lab", "dr-li", Sends::default()).await;
    let mut publisher = scene.publish("ward-3", "dr-wang", Sends::default()).await;
    let began = scene.receiver.wait_for("301", |all| all.iter().find(|c| c.event() == 301).cloned()).await;
    let task = began.task().to_owned();
    assert_eq!((&began.info()["UserId"], &began.info()["RoomId"]), (&json!("holdfast-automatic"), &json!("ward-3")));
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    assert_eq!(scene.sdk.describe(&task).await.expect("Describe knows it")["Status"], "InProgress");
    let mut refused = support::sdk::create_params("ward-3", "holdfast-automatic", "x");
    refused["UserSig"] = json!(scene.sdk.user_sig("holdfast-automatic").await);
    let refused = scene.sdk.call("CreateCloudRecording", refused).await.expect_err("the name is the box's own");
    assert_eq!(refused.code, "InvalidParameter.UserId");
    scene.daemon.reload(&template(false, ""));
    publisher.leave().await;
    assert_eq!(scene.receiver.event(&task, 302).await.payload()["LeaveCode"], 99);
    let recording = scene.uploaded(&task).await;
    assert_eq!(recording.lanes.len(), 2);
    let tasks = scene.receiver.taken().iter().filter(|c| c.event() == 301).count();
    assert_eq!(tasks, 1, "neither the room that was there before nor the one that no pattern takes");
    before.leave().await;
}
