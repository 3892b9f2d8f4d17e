//! A browser publishes, the official SDK records, a bucket holds the files, a receiver hears the story.

mod support;

use serde_json::{Value, json};
use support::browser::{Browser, Origin};
use support::bucket::{Kind, S3};
use support::daemon::encoded;
use support::probe::{self, Stream};
use support::recorded::Recording;
use support::scene::{Scene, assert_story, until};
use support::sdk::ApiError;

/// What ffmpeg says of a picture that Chromium's H.264 encoder makes of its fake camera in some 3 of 100 starts: the second
/// one, always with the same 595 bytes in one packet. What was sent so is recorded so.
const CHROMIUMS_OWN: [&str; 2] = ["corrupted macroblock 13 11 (total_coeff=-1)", "error while decoding MB 13 11"];

/// Describe, 307 and START-REC-TIME tell one and the same moment.
fn assert_one_beginning(described: &Value, scene: &Scene, task: &str, recording: &Recording) {
    for lane in &recording.lanes {
        let files = described["StorageFileList"].as_array().expect("Describe lists the files");
        let file = files.iter().find(|f| f["FileName"] == lane.name.as_str());
        let file = file.unwrap_or_else(|| panic!("Describe does not know {}: {described}", lane.name));
        assert_eq!(file["BeginTimeStamp"], lane.playlist.start_ms, "Describe of {}", lane.name);
        assert_eq!(file["UserId"], lane.user.as_str());
        assert_eq!(file["TrackType"], lane.kind.as_str());
        let told = scene
            .receiver
            .of(task)
            .into_iter()
            .find(|c| c.event() == 307 && c.payload()["FileName"] == lane.name.as_str());
        let told = told.unwrap_or_else(|| panic!("no 307 of {}", lane.name));
        assert_eq!(told.payload()["BeginTimeStamp"], lane.playlist.start_ms, "307 of {}", lane.name);
        assert_eq!(told.payload()["UserId"], lane.user.as_str());
        assert_eq!(told.payload()["TrackType"], lane.kind.as_str());
    }
}

/// The whole path once: another origin's page, the SDK, S3, callbacks; then every file is read.
async fn browser_to_bucket(kind: Kind) {
    let scene = Scene::with(Some(S3::start(kind).await), |_| {}).await;
    let origin = Origin::start().await;
    let room = "ward 3 (east)";
    let token = scene.sdk.user_sig("dr-wang").await;
    let task = scene.create(room).await;
    let idle = scene.sdk.describe(&task).await.expect("the task exists");
    assert_eq!(idle["Status"], "Idle", "nothing was received yet: {idle}");

    let page = origin.page(&scene.daemon.whip(room, "dr-wang"), &token, "");
    let browser = Browser::open(&page, None);
    browser.says("page: state connected").await;
    scene.lanes_began(&task, 2).await;
    scene.has_segments(&task, "dr-wang", "video", 2).await;
    let described = scene.sdk.describe(&task).await.expect("the task exists");
    assert_eq!(described["Status"], "InProgress", "{described}");
    assert_eq!(described["TaskId"], task.as_str());

    let recording = scene.finish(&task).await;
    let refused = scene.gone(&task).await;
    assert_eq!(refused.code, "ResourceNotFound", "{refused:?}");
    assert_story(&scene.receiver.of(&task), 2);
    assert_one_beginning(&described, &scene, &task, &recording);
    assert_eq!(recording.lanes.len(), 2, "{:?}", recording.objects.keys());
    for lane in &recording.lanes {
        lane.assert_sound_but_for(&CHROMIUMS_OWN);
    }
    let video = recording.lane("dr-wang", "video");
    video.assert_frames(0.25);
    let (_, format) = probe::formats(&video.files()[0]).remove(0);
    assert!(format.width >= 320 && format.height >= 240, "{format:?}");
    let named = format!("WIDTH:{} HEIGHT:{}", format.width, format.height);
    assert!(video.playlist.sizes.contains(&named), "{named} is not among {:?}", video.playlist.sizes);
    let audio = recording.lane("dr-wang", "audio");
    assert_eq!(probe::formats(&audio.files()[0])[0].1.sample_rate, 48_000);
    let both = (video.playlist.seconds() - audio.playlist.seconds()).abs();
    assert!(both < 2.0, "sound and picture differ by {both:.2} s in length");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_is_recorded_to_s3s_fs() {
    browser_to_bucket(Kind::S3sFs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_is_recorded_to_moto() {
    browser_to_bucket(Kind::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_boxs_own_page_publishes() {
    let scene = Scene::local(|_| {}).await;
    let token = encoded(&scene.sdk.user_sig("patient-li").await);
    let url = scene.daemon.url(&format!("publish?room=clinic&user=patient-li&token={token}&auto=1"));
    let mut browser = Browser::open(&url, None);
    let task = scene.create("clinic").await;
    scene.lanes_began(&task, 2).await;
    scene.has_segments(&task, "patient-li", "video", 1).await;
    browser.kill().await;
    let recording = scene.finish(&task).await;
    assert_story(&scene.receiver.of(&task), 2);
    recording.lane("patient-li", "video").assert_sound_but_for(&CHROMIUMS_OWN);
    recording.lane("patient-li", "audio").assert_sound();
}

/// A publisher who can only send VP8 is taken and its pictures become H.264.
#[tokio::test(flavor = "multi_thread")]
async fn a_vp8_only_browser_is_transcoded() {
    let scene = Scene::local(|_| {}).await;
    let origin = Origin::start().await;
    let token = scene.sdk.user_sig("old-tablet").await;
    let browser = Browser::open(&origin.page(&scene.daemon.whip("clinic", "old-tablet"), &token, "&codec=VP8"), None);
    browser.says("page: state connected").await;
    let task = scene.create("clinic").await;
    scene.lanes_began(&task, 2).await;
    scene.has_segments(&task, "old-tablet", "video", 2).await;
    let recording = scene.finish(&task).await;
    let video = recording.lane("old-tablet", "video");
    video.assert_sound();
    video.assert_frames(0.25);
}

/// Candidates may come later by PATCH, and DELETE leaves at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_trickles_and_leaves() {
    let scene = Scene::local(|_| {}).await;
    let origin = Origin::start().await;
    let token = scene.sdk.user_sig("dr-wang").await;
    let page = origin.page(&scene.daemon.whip("clinic", "dr-wang"), &token, "&trickle=1&seconds=8");
    let task = scene.create("clinic").await;
    let browser = Browser::open(&page, None);
    browser.says("page: trickled 204").await;
    browser.says("page: state connected").await;
    scene.lanes_began(&task, 2).await;
    browser.says("page: left 200").await;
    // The tail of what was sent comes without waiting for the ICE time-out's whole length or for the task's end.
    scene.has_segments(&task, "dr-wang", "audio", 2).await;
    let recording = scene.finish(&task).await;
    recording.lane("dr-wang", "video").assert_sound_but_for(&CHROMIUMS_OWN);
    recording.lane("dr-wang", "audio").assert_sound();
}

/// A browser that sends three sizes is recorded in the full one, as soon as its network carries it.
#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_simulcast_is_recorded_in_full_size() {
    let scene = Scene::local(|_| {}).await;
    let origin = Origin::start().await;
    let token = scene.sdk.user_sig("dr-wang").await;
    let page = origin.page(&scene.daemon.whip("clinic", "dr-wang"), &token, "&codec=H264&simulcast=1");
    let browser = Browser::open(&page, None);
    browser.says("page: state connected").await;
    let task = scene.create("clinic").await;
    scene.lanes_began(&task, 2).await;
    browser.says("page: layers 3").await;
    until("a segment whose picture has the full size", || async {
        let recording = scene.recording(&task).await;
        let sizes = recording.find("dr-wang", "video").map(|lane| lane.playlist.sizes.clone());
        sizes.is_some_and(|sizes| sizes.iter().any(|size| size == "WIDTH:1280 HEIGHT:720")).then_some(())
    })
    .await;
    let recording = scene.finish(&task).await;
    let video = recording.lane("dr-wang", "video");
    video.assert_sound();
    assert_eq!(video.playlist.sizes.last().map(String::as_str), Some("WIDTH:1280 HEIGHT:720"));
    recording.lane("dr-wang", "audio").assert_sound();
}

/// A wrong or missing UserSig does not get in; the right one of somebody else neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_needs_its_own_user_sig() {
    let scene = Scene::local(|_| {}).await;
    let client = support::daemon::client();
    let others = scene.sdk.user_sig("somebody-else").await;
    for token in [None, Some("nonsense"), Some(others.as_str())] {
        let mut request = client.post(scene.daemon.whip("clinic", "dr-wang"));
        request = request.header("Content-Type", "application/sdp").body("v=0\r\n");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let status = request.send().await.expect("the box answers").status().as_u16();
        assert!(status == 401 || status == 403, "{token:?} got {status}");
    }
    let preflight = client
        .request(reqwest::Method::OPTIONS, scene.daemon.whip("clinic", "dr-wang"))
        .header("Origin", "https://clinic.example")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization,content-type")
        .send()
        .await
        .expect("the box answers");
    assert!(preflight.status().is_success(), "{}", preflight.status());
    assert!(preflight.headers().contains_key("access-control-allow-origin"), "{:?}", preflight.headers());
}

/// The SDK's own faces of what the box refuses.
#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_sees_errors_by_their_codes() {
    let scene = Scene::local(|_| {}).await;
    let code = |result: Result<String, ApiError>| result.expect_err("it must be refused");
    let frames = json!({ "VideoParams": { "Width": 640, "Height": 360, "Fps": 61, "BitRate": 550_000, "Gop": 10 } });
    let mixed = |p: &mut serde_json::Value| {
        p["RecordParams"]["RecordMode"] = json!(2);
        p["MixTranscodeParams"] = frames;
    };
    let fps = code(scene.sdk.create("r", "rec", mixed).await);
    assert!(fps.code == "InvalidParameter.OutOfRange" && fps.message.contains("Fps"), "{fps:?}");
    let aac = |p: &mut serde_json::Value| {
        p["RecordParams"]["OutputFormat"] = json!(4);
        p["RecordParams"]["StreamType"] = json!(2);
    };
    let aac = code(scene.sdk.create("r", "rec", aac).await);
    assert!(aac.code == "InvalidParameter.OutputFormat", "{aac:?}");
    let idle = code(scene.sdk.create("r", "rec", |p| p["RecordParams"]["MaxIdleTime"] = json!(4)).await);
    assert!(idle.code.starts_with("InvalidParameter") && idle.message.contains("MaxIdleTime"), "{idle:?}");
    let bucket =
        code(scene.sdk.create("r", "rec", |p| drop(p["StorageParams"]["CloudStorage"]["Bucket"].take())).await);
    assert_eq!(bucket.code, "MissingParameter.Bucket", "{bucket:?}");
    let sig = code(scene.sdk.create("r", "rec", |p| p["UserSig"] = json!("eJw-wrong")).await);
    assert_eq!(sig.code, "InvalidParameter.UserSig", "{sig:?}");
    let unknown = scene.sdk.describe("no-such-task").await.expect_err("it must be refused");
    assert_eq!(unknown.code, "ResourceNotFound", "{unknown:?}");
    let forged = support::sdk::Sdk::with_key(&scene.daemon, "not-the-key").await;
    let refused = forged.describe("no-such-task").await.expect_err("it must be refused");
    assert_eq!(refused.code, "AuthFailure.SignatureFailure", "{refused:?}");

    // The same request again is the same task (the SDK's retryer repeats what succeeded); all signatures are taken.
    let task = scene.create("r").await;
    assert_eq!(scene.create("r").await, task);
    for (sign, method) in [("TC3-HMAC-SHA256", "GET"), ("HmacSHA1", "POST"), ("HmacSHA256", "GET")] {
        let params = json!({ "SdkAppId": support::APP, "TaskId": task });
        let seen = scene.sdk.call_as(sign, method, "DescribeCloudRecording", params).await;
        assert_eq!(seen.unwrap_or_else(|e| panic!("{sign} {method}: {e:?}"))["Status"], "Idle");
    }
    scene.sdk.delete(&task).await.expect("it runs");
    until("the task to end", || async { scene.sdk.describe(&task).await.err() }).await;
}

/// A listener's ears: the browser's fake microphone beeps, and the recording holds sound, not silence.
#[tokio::test(flavor = "multi_thread")]
async fn the_fake_microphone_is_heard() {
    let scene = Scene::local(|_| {}).await;
    let origin = Origin::start().await;
    let token = scene.sdk.user_sig("dr-wang").await;
    let browser = Browser::open(&origin.page(&scene.daemon.whip("clinic", "dr-wang"), &token, "&video=0"), None);
    browser.says("page: state connected").await;
    let task = scene.create("clinic").await;
    scene.has_segments(&task, "dr-wang", "audio", 2).await;
    let recording = scene.finish(&task).await;
    assert_eq!(recording.lanes.len(), 1, "a user without a camera has no video list: {:?}", recording.objects.keys());
    let audio = recording.lane("dr-wang", "audio");
    audio.assert_sound();
    let samples = probe::samples(&audio.joined());
    let loudest = samples.iter().fold(0.0f32, |m, s| m.max(s.abs()));
    assert!(loudest > 0.05, "the loudest sample is {loudest}");
    let frames = probe::frames(&audio.joined(), Stream::Audio).len();
    let expected = audio.playlist.seconds() * 48_000.0 / 1024.0;
    assert!((frames as f64 - expected).abs() < expected * 0.05, "{frames} AAC frames, {expected:.0} expected");
}
