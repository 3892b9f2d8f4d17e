//! Sound and picture stay together: flash and beep, measured from the recorded files.

mod support;

use std::time::Duration;

use holdfast::media::publish::{RtpPublisher, Script, TestPicture, VideoCodec, WhipAddress};
use holdfast::model::{Codec, Secret};
use serde_json::json;
use support::beat::{Beats, Film};
use support::browser::{Browser, Feed, Origin};
use support::publisher::{Publisher, Sends};
use support::relay::Relay;
use support::scene::Scene;
use tokio_util::sync::CancellationToken;

const LIMIT: f64 = 0.040;

fn tell(what: &str, beats: &Beats) {
    let (n, median) = (beats.0.len(), beats.median() * 1000.0);
    println!(
        "{what}: {n} beats, median {median:+.1} ms, largest {:.1} ms, spread {:.1} ms",
        beats.largest() * 1000.0,
        beats.spread() * 1000.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn separate_files_of_a_publisher_are_in_sync() {
    let scene = Scene::local(|_| {}).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 3).await;
    let recording = scene.finish(&task).await;
    let (video, audio) = (recording.lane("dr-wang", "video"), recording.lane("dr-wang", "audio"));
    video.assert_sound();
    audio.assert_sound();
    video.assert_frames(0.05);
    let beats = Beats::of(video, audio);
    tell("time stamps in the files", &beats);
    assert!(beats.largest() <= LIMIT, "{beats:?}");
    let named = Beats::by_start_time(video, audio);
    tell("start times of the files", &named);
    assert!(named.largest() <= LIMIT, "{named:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_file_is_in_sync() {
    let scene = Scene::local(|_| {}).await;
    let merged = scene.sdk.create("clinic", "recorder", |p| p["RecordParams"]["AvMerge"] = json!(1)).await;
    let task = merged.expect("AvMerge is known");
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "audiovideo", 3).await;
    let recording = scene.finish(&task).await;
    assert_eq!(recording.lanes.len(), 1, "{:?}", recording.objects.keys());
    let told = scene.receiver.event(&task, 307).await;
    assert_eq!(told.payload()["TrackType"], "audio_video", "{}", told.body);
    let lane = recording.lane("dr-wang", "audiovideo");
    lane.assert_sound();
    let beats = Beats::in_one(lane);
    tell("one file", &beats);
    assert!(beats.largest() <= LIMIT, "{beats:?}");
}

/// Loss and delay cost neither the picture nor the sync: what is lost is asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_does_not_part_them() {
    let scene = Scene::local(|_| {}).await;
    let relay = Relay::start(&scene.daemon, 7).await;
    let task = scene.create("clinic").await;
    let token = scene.sdk.user_sig("dr-wang").await;
    let _publisher = Publisher::launch(&relay.whip("clinic", "dr-wang"), &token, Sends::default());
    scene.lanes_began(&task, 2).await;
    relay.weather.delay(Duration::from_millis(20));
    relay.weather.lose(50);
    scene.has_segments(&task, "dr-wang", "video", 4).await;
    let recording = scene.finish(&task).await;
    let lost = relay.weather.lost.load(std::sync::atomic::Ordering::Relaxed);
    assert!(lost > 50, "the relay lost only {lost} packets: the weather was too good to prove anything");
    let (video, audio) = (recording.lane("dr-wang", "video"), recording.lane("dr-wang", "audio"));
    video.assert_frames(0.1);
    let beats = Beats::of(video, audio);
    tell("5 % loss, 20 ms each way", &beats);
    assert!(beats.median().abs() <= LIMIT, "{beats:?}");
}

/// Through a browser the source's own offset (its camera and its microphone start apart) is not the box's: what the
/// box must keep is that it does not change.
#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_sound_and_picture_do_not_drift() {
    let scene = Scene::local(|_| {}).await;
    let film = Film::make();
    let origin = Origin::start().await;
    let token = scene.sdk.user_sig("dr-wang").await;
    let feed = Feed { y4m: &film.y4m, wav: &film.wav };
    let page = origin.page(&scene.daemon.whip("clinic", "dr-wang"), &token, "");
    let browser = Browser::open(&page, Some(&feed));
    browser.says("page: state connected").await;
    let task = scene.create("clinic").await;
    scene.has_segments(&task, "dr-wang", "video", 4).await;
    let recording = scene.finish(&task).await;
    let beats = Beats::steadiest(recording.lane("dr-wang", "video"), recording.lane("dr-wang", "audio"));
    tell("Chromium", &beats);
    // One frame of 30 fps is 33 ms: the flash is only seen at a frame.
    assert!(beats.spread() <= 0.034 + LIMIT, "{beats:?}");
}

/// Packets made beforehand and sent at their times: no encoder's load in between, so what is off here is off for all.
#[tokio::test(flavor = "multi_thread")]
async fn prepared_packets_are_in_sync() {
    let scene = Scene::local(|_| {}).await;
    // Whoever came first set the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let picture = TestPicture { width: 640, height: 360, ..TestPicture::default() };
    let record = tokio::task::spawn_blocking(move || Script::record(&picture, VideoCodec::H264, 30));
    let script = record.await.expect("encoding does not panic").expect("the test picture can be encoded");
    let task = scene.create("clinic").await;
    let bearer = Some(Secret::new(scene.sdk.user_sig("dr-wang").await));
    let address = WhipAddress { url: scene.daemon.whip("clinic", "dr-wang"), bearer, insecure: false, via: None };
    let publisher = RtpPublisher::publish(&address, &[Codec::Opus, Codec::H264]).await.expect("the box takes it");
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let playing = tokio::spawn(async move { publisher.play(&script, &stop).await });
    scene.has_segments(&task, "dr-wang", "video", 3).await;
    let recording = scene.finish(&task).await;
    cancel.cancel();
    playing.await.expect("the publisher does not panic").expect("it could send");
    let mut beats = Beats::of(recording.lane("dr-wang", "video"), recording.lane("dr-wang", "audio"));
    // The script's first beep falls into the first packets of its encoder, which has not found its level yet.
    beats.0.remove(0);
    tell("prepared packets", &beats);
    assert!(beats.largest() <= LIMIT, "{beats:?}");
    assert!(beats.spread() <= 0.005, "{beats:?}");
}
