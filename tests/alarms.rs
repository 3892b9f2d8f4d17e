//! Alarms of the whole box: real publishers who are silent, black, or stand still for a while; health, metrics and log
//! name them while it lasts, and the recording goes on to its end.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use holdfast::media::publish::{Packet, RtpPublisher, WhipAddress};
use holdfast::model::{Codec, Secret, TrackKind};
use serde_json::{Value, json};
use support::publisher::Publisher;
use support::scene::{Scene, until};
use support::{output_of, program};

/// What is wrong with a film for its first seconds.
#[derive(Clone, Copy)]
enum Fault {
    Silent,
    Black,
    Frozen,
}

/// Who, what, and in which codec: VP8 is coded anew for a stream of its own.
const FAULTS: [(&str, Fault, &str); 3] =
    [("ann", Fault::Silent, "h264"), ("bob", Fault::Black, "vp8"), ("cyd", Fault::Frozen, "h264")];
/// Seconds for which something is wrong, and of the whole film.
const WRONG: u32 = 30;
const LONG: u32 = 120;
/// What a busy machine does to packets and delays is not looked at here.
const LIMITS: &str =
    "[alarms]\nsilent_seconds = 4\nblack_seconds = 4\nfrozen_seconds = 4\nloss_percent = 0\ndrift_ms = 0\n";
/// Three publishers, a box and its films at once are enough for two cores.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// 160×90 at 10 frames a second, with a tone; but for its beginning.
fn film(dir: &Path, fault: Fault) -> PathBuf {
    let moving = format!("testsrc2=s=160x90:r=10:d={}", LONG - WRONG);
    let tone = |seconds: u32| format!("sine=f=440:r=48000:d={seconds}");
    let (picture, sound) = match fault {
        Fault::Silent => {
            let sound = format!("anullsrc=r=48000:cl=mono:d={WRONG}[a];{}[b];[a][b]concat=v=0:a=1", tone(LONG - WRONG));
            (format!("testsrc2=s=160x90:r=10:d={LONG}"), sound)
        }
        Fault::Black => {
            let picture = format!("color=black:s=160x90:r=10:d={WRONG}[a];{moving}[b];[a][b]concat=v=1");
            (picture, tone(LONG))
        }
        // its first picture, again and again
        Fault::Frozen => (format!("{moving},loop=loop={}:size=1:start=0", WRONG * 10), tone(LONG)),
    };
    let file = dir.join("film.mkv");
    let mut ffmpeg = Command::new(program("ffmpeg"));
    ffmpeg.args(["-nostdin", "-v", "error", "-filter_complex", &format!("{picture}[v];{sound}[s]")]);
    ffmpeg.args(["-map", "[v]", "-map", "[s]", "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "pcm_s16le"]);
    output_of(ffmpeg.arg(&file));
    file
}

async fn reasons(scene: &Scene) -> Vec<String> {
    let health = scene.daemon.health().await;
    assert_ne!(health["status"], "failed", "{health}");
    let reasons = health["reasons"].as_array().cloned().unwrap_or_default();
    reasons.iter().filter_map(Value::as_str).filter(|reason| reason.starts_with("alarm: ")).map(str::to_owned).collect()
}

async fn joined(scene: &Scene, name: &str, film: &Path, codec: &str) -> Publisher {
    let token = scene.sdk.user_sig(name).await;
    Publisher::play(&scene.daemon.whip("ward", name), &token, film, codec)
}

/// Three people of whom each has something wrong: every alarm is told by name, counted, and taken back.
async fn told_and_taken_back(scene: &Scene) {
    let dirs: Vec<tempfile::TempDir> = FAULTS.iter().map(|_| tempfile::tempdir().expect("a folder")).collect();
    let films: Vec<PathBuf> = FAULTS.iter().zip(&dirs).map(|((_, fault, _), dir)| film(dir.path(), *fault)).collect();
    let mut publishers = Vec::new();
    for ((name, _, codec), film) in FAULTS.iter().zip(&films) {
        publishers.push(joined(scene, name, film, codec).await);
    }
    let sentences = [
        "ann in room ward has been silent for 4 s",
        "bob in room ward has been black for 4 s",
        "cyd in room ward has been frozen for 4 s",
    ];
    let named = |reasons: Vec<String>| {
        // all alarms are one part's word
        assert!(reasons.len() <= 1, "{reasons:?}");
        reasons.iter().any(|reason| reason.contains(sentences[0])).then_some(())
    };
    until("health to name who is silent", || async { named(reasons(scene).await) }).await;
    for sentence in sentences {
        // the log keeps what health may have taken back when the last of them is told
        scene.daemon.logged(&format!("text=\"{sentence}\"")).await;
    }
    until("every alarm to be taken back", || async { reasons(scene).await.is_empty().then_some(()) }).await;
    assert_eq!(scene.daemon.metric("holdfast_alarms").await, 0.0);
    // once each, where the publishers were not starved in between
    let raised = scene.daemon.metric("holdfast_alarms_raised_total").await;
    let over = scene.daemon.log().lines().filter(|line| line.contains("alarm is over")).count();
    assert!(raised >= 3.0 && over as f64 == raised, "{raised} raised, {over} taken back");
    for publisher in &mut publishers {
        publisher.leave().await;
    }
}

/// Each on lanes of their own, whose keyframes are looked at; H.264 goes to the file as it came.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_black_or_frozen_is_named_while_streams_are_recorded() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let scene = Scene::local(|s| {
        s.segment_seconds = 1;
        s.more = LIMITS.to_owned();
    })
    .await;
    let task = scene.create("ward").await;
    told_and_taken_back(&scene).await;
    let recording = scene.finish(&task).await;
    for (name, ..) in FAULTS {
        for kind in ["audio", "video"] {
            let seconds = recording.lane(name, kind).playlist.seconds();
            assert!(seconds > f64::from(WRONG), "{name} {kind}: {seconds} s");
        }
    }
}

/// All in one picture, of what is decoded for it anyway.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_black_or_frozen_is_named_while_a_mix_is_recorded() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let scene = Scene::local(|s| {
        s.segment_seconds = 2;
        s.more = LIMITS.to_owned();
    })
    .await;
    let mixed = |params: &mut Value| {
        params["RecordParams"]["RecordMode"] = json!(2);
        params["MixTranscodeParams"] =
            json!({ "VideoParams": { "Width": 320, "Height": 180, "Fps": 10, "BitRate": 300_000, "Gop": 2 } });
        params["MixLayoutParams"] = json!({ "MixLayoutMode": 3 });
    };
    let task = scene.sdk.create("ward", "recorder", mixed).await.expect("a mixed task");
    told_and_taken_back(&scene).await;
    let recording = scene.finish(&task).await;
    let seconds = recording.lanes[0].playlist.seconds();
    assert!(seconds > f64::from(WRONG), "{seconds} s");
}

/// Pictures come, and none of them can begin a file, since no keyframe is among them; sound is recorded all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_grow_is_told_while_pictures_come() {
    let scene = Scene::local(|s| {
        s.segment_seconds = 1;
        s.more = "[alarms]\nnothing_written_seconds = 3\n".to_owned();
    })
    .await;
    let task = scene.create("ward").await;
    let (url, token) = (scene.daemon.whip("ward", "dee"), scene.sdk.user_sig("dee").await);
    let address = WhipAddress { url, bearer: Some(Secret::new(token)), insecure: false, via: None };
    // the publisher is in this process, which has had no need of TLS so far
    let _ = rustls::crypto::ring::default_provider().install_default();
    let publisher = RtpPublisher::publish(&address, &[Codec::Opus, Codec::H264]).await.expect("it is taken in");
    let sending = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        for n in 0u32.. {
            let captured = tick.tick().await.into_std();
            // 20 ms of silence, and every second time a slice that builds on pictures which never came
            let sound = Bytes::from_static(&[0xf8, 0xff, 0xfe]);
            let sound = Packet { timestamp: n * 960, marker: false, payload: sound, captured };
            publisher.send(TrackKind::Audio, sound).await.expect("it goes out");
            if n % 2 == 0 {
                let slice = Bytes::from_static(&[0x41, 0x9a, 0x02, 0x05, 0x10, 0x21]);
                let slice = Packet { timestamp: n * 1800, marker: true, payload: slice, captured };
                publisher.send(TrackKind::Video, slice).await.expect("it goes out");
            }
        }
    });
    let sentence = "alarm: nothing of dee's picture in room ward has been written for 3 s";
    until("the alarm", || async { reasons(&scene).await.contains(&sentence.to_owned()).then_some(()) }).await;
    scene.has_segments(&task, "dee", "audio", 2).await;
    let recording = scene.finish(&task).await;
    assert!(recording.lane("dee", "audio").playlist.seconds() > 2.0);
    until("the alarm to go with the task", || async { reasons(&scene).await.is_empty().then_some(()) }).await;
    sending.abort();
}
