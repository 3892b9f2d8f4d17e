//! Nothing is lost and nothing leaks: kills, outages, orderly stops, secrets.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use support::publisher::Sends;
use support::receiver::Callback;
use support::recorded::Lane;
use support::scene::{Scene, assert_story, until};
use support::{ACCESS_KEY, API_KEY, APP_KEY, CALLBACK_KEY, SECRET_KEY};

/// Finished segments on the shelf: every `.ts` below the spool that is no `.part`.
fn on_the_shelf(state: &Path) -> Vec<Vec<u8>> {
    let finished = |key: &&String| key.ends_with(".ts") && !key.contains(".part");
    let all = support::bucket::local_objects(&state.join("spool"));
    all.keys().filter(finished).map(|key| all[key].clone()).collect()
}

/// The daemon dies in mid-recording. What was closed before and the unfinished tails reach the destination; the task
/// goes on under its own id.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_box_loses_nothing_that_was_written() {
    let mut scene = Scene::new(|_| {}).await;
    let task = scene.create("clinic").await;
    let mut publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 2).await;
    let before = scene.segments(&task, "dr-wang", "video").await;
    scene.daemon.kill().await;
    publisher.vanish().await;
    scene.daemon.start_again().await;

    let failover = scene.receiver.event(&task, 306).await;
    assert_eq!(failover.payload()["Status"], 0);
    // The tail of the first life is adopted into the first life's list.
    scene.has_segments(&task, "dr-wang", "video", before.len() + 1).await;
    let _again = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.lanes_began(&task, 4).await;
    let described = scene.sdk.describe(&task).await.expect("the task goes on");
    assert_eq!(described["Status"], "InProgress", "{described}");
    until("a segment of the second life", || async {
        let recording = scene.recording(&task).await;
        recording.lanes.iter().any(|l| l.name.starts_with("ha1_") && l.kind == "video").then_some(())
    })
    .await;
    let recording = scene.finish(&task).await;
    let (old, new): (Vec<&Lane>, Vec<&Lane>) = recording.lanes.iter().partition(|l| !l.name.starts_with("ha1_"));
    assert_eq!((old.len(), new.len()), (2, 2), "{:?}", recording.objects.keys());
    for lane in old.iter().chain(&new) {
        assert!(!lane.playlist.segments.is_empty());
    }
    new.iter().for_each(|lane| lane.assert_sound());
    let video = old.iter().find(|l| l.kind == "video").expect("a picture");
    let names: Vec<_> = video.playlist.segments.iter().map(|s| s.name.clone()).collect();
    assert_eq!(names[..before.len()], before[..], "what was listed stays listed");
    assert!(names.len() > before.len(), "the tail is there: {names:?}");
    for lane in &old {
        // A cut tail may end in half a frame; all before it is whole.
        let files = lane.files();
        for file in &files[..files.len() - 1] {
            assert_eq!(support::probe::decode_errors(file), "", "{}", file.display());
        }
    }
}

/// The daemon dies and its index with it. The tasks' folders tell enough: the task goes on, nothing is carried twice or
/// left behind, its lists are closed, and no event has two meanings.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_box_without_its_index_loses_nothing() {
    let mut scene = Scene::new(|_| {}).await;
    let task = scene.create("clinic").await;
    let mut publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 2).await;
    let before = scene.objects(&task).await;
    let listed = scene.segments(&task, "dr-wang", "video").await;
    scene.daemon.kill().await;
    publisher.vanish().await;
    let state = scene.daemon.state_dir();
    let folder = state.join("spool").join(&task);
    let journal = std::fs::read_to_string(folder.join("uploaded.txt")).expect("uploads are noted");
    assert!(listed.iter().all(|name| journal.contains(name.as_str())), "{journal}");
    std::fs::remove_dir_all(state.join("index")).expect("the index is a folder");
    scene.daemon.start_again().await;

    scene.receiver.event(&task, 306).await;
    let described = scene.sdk.describe(&task).await.expect("the task goes on");
    assert_eq!(described["Status"], "InProgress", "{described}");
    scene.has_segments(&task, "dr-wang", "video", listed.len() + 1).await;
    let _again = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.lanes_began(&task, 4).await;
    let recording = scene.finish(&task).await;
    let (old, new): (Vec<&Lane>, Vec<&Lane>) = recording.lanes.iter().partition(|l| !l.name.starts_with("ha1_"));
    assert_eq!((old.len(), new.len()), (2, 2), "{:?}", recording.objects.keys());
    let video = old.iter().find(|l| l.kind == "video").expect("a picture");
    let names: Vec<_> = video.playlist.segments.iter().map(|s| s.name.clone()).collect();
    assert_eq!(names[..listed.len()], listed[..], "what was listed stays listed");
    for (name, bytes) in before.iter().filter(|(name, _)| name.ends_with(".ts")) {
        let name = name.rsplit('/').next().unwrap_or(name);
        assert_eq!(&recording.objects[name], bytes, "{name} has changed");
    }
    let story = scene.receiver.of(&task);
    let count = |event| story.iter().filter(|c| c.event() == event).count();
    assert_eq!([301, 302, 303, 304, 305, 306, 307].map(count), [1, 1, 1, 4, 1, 1, 4], "{}", scene.receiver.story());
    until("the folder to go", || async { (!folder.exists()).then_some(()) }).await;
    assert_eq!(on_the_shelf(&state), Vec::<Vec<u8>>::new());
}

/// The bucket is away for a while: recording goes on, files wait, 308 says why, and everything arrives byte by byte.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_bucket_delays_but_loses_nothing() {
    let mut scene = Scene::new(|_| {}).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    scene.s3.as_mut().expect("the scene has one").stop().await;
    let error = scene.receiver.event(&task, 308).await;
    assert!(error.payload()["Code"].is_string() && error.payload()["Message"].is_string(), "{}", error.body);
    let state = scene.daemon.state_dir();
    let waiting = until("six segments to wait on the shelf", || async {
        let shelf = on_the_shelf(&state);
        (shelf.len() >= 6).then_some(shelf)
    })
    .await;
    assert_eq!(scene.sdk.describe(&task).await.expect("it records")["Status"], "InProgress");
    scene.s3.as_mut().expect("the scene has one").start_again().await;
    let recording = scene.finish(&task).await;
    let bodies: BTreeSet<&Vec<u8>> = recording.objects.values().collect();
    for segment in &waiting {
        assert!(bodies.contains(segment), "a segment of {} bytes did not arrive as it was spooled", segment.len());
    }
    for lane in &recording.lanes {
        lane.assert_sound();
        assert_eq!(lane.playlist.discontinuities(), 0, "the outage does not show: {}", lane.playlist.text);
    }
    until("the shelf to be empty", || async { on_the_shelf(&state).is_empty().then_some(()) }).await;
}

/// The clinic's server is away for a while: the events come afterwards, in order.
#[tokio::test(flavor = "multi_thread")]
async fn callbacks_wait_for_their_receiver() {
    let scene = Scene::local(|_| {}).await;
    scene.receiver.fail(true);
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.receiver.wait_refused(2).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    assert!(scene.receiver.taken().is_empty());
    scene.receiver.fail(false);
    scene.finish(&task).await;
    assert_story(&scene.receiver.of(&task), 2);
}

/// SIGTERM ends recordings properly: closed lists, the end announced, exit code 0.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_recordings_in_order() {
    let mut scene = Scene::new(|_| {}).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    let code = scene.daemon.terminate().await;
    assert_eq!(code, Some(0), "{}", scene.daemon.log());
    assert_eq!(scene.leave_code(&task).await, 3);
    let recording = scene.uploaded(&task).await;
    recording.lanes.iter().for_each(Lane::assert_sound);
    assert_story(&scene.receiver.of(&task), 2);
    // Nothing of it comes back with the next start.
    scene.daemon.start_again().await;
    let told = scene.receiver.of(&task).iter().map(Callback::event).collect::<Vec<_>>();
    assert!(!told.contains(&306), "{told:?}");
    assert_eq!(scene.gone(&task).await.code, "ResourceNotFound");
}

/// No key, no UserSig in a log line or in the state directory, in plain text.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_secret() {
    let mut scene = Scene::new(|_| {}).await;
    let user_sig = scene.sdk.user_sig("recorder").await;
    let room_sig = scene.sdk.user_sig("dr-wang").await;
    let task = scene.sdk.create("clinic", "recorder", |p| p["UserSig"] = user_sig.as_str().into()).await;
    let task = task.expect("a plain Create works");
    let publisher =
        support::publisher::Publisher::launch(&scene.daemon.whip("clinic", "dr-wang"), &room_sig, Sends::default());
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    // A failed upload and a refused call talk most.
    scene.s3.as_mut().expect("the scene has one").stop().await;
    scene.receiver.event(&task, 308).await;
    let _ = scene.sdk.create("clinic", "recorder", |p| p["StorageParams"]["CloudStorage"]["Vendor"] = 9.into()).await;
    scene.daemon.kill().await;

    let sigs = [user_sig.as_str(), room_sig.as_str()];
    let secrets = [ACCESS_KEY, SECRET_KEY, API_KEY, APP_KEY, CALLBACK_KEY].into_iter().chain(sigs);
    let log = scene.daemon.log() + &publisher.log();
    let files = support::bucket::local_objects(&scene.daemon.state_dir());
    assert!(!files.is_empty(), "the state directory is where the harness looks");
    for secret in secrets {
        if let Some(line) = log.lines().find(|line| line.contains(secret)) {
            panic!("'{secret}' is in the log: {line}");
        }
        for (name, bytes) in &files {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "'{secret}' is in {name}");
        }
    }
}

/// Health and metrics tell what is going on.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_speak() {
    let scene = Scene::local(|_| {}).await;
    let client = support::daemon::client();
    let healthy = client.get(scene.daemon.url("healthz")).send().await.expect("the box answers");
    assert_eq!(healthy.status(), 200, "{:?}", healthy.text().await);
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    let metrics = support::daemon::get(&scene.daemon.url("metrics")).await;
    let names: BTreeSet<&str> =
        metrics.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(['{', ' ']).next()).collect();
    assert!(names.iter().any(|n| n.starts_with("holdfast_")), "{metrics}");
    assert!(!metrics.contains("dr-wang"), "user ids are no labels");
    scene.finish(&task).await;
}
