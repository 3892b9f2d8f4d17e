//! Alarms of the whole box: real publishers of whom something is wrong for a while; health, lights, figures, log and
//! operators are told while it lasts, and the recording goes on to its end.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use broker::{Broker, Entry, Message};
use bytes::Bytes;
use holdfast::media::publish::{Packet, RtpPublisher, Script, TestPicture, VideoCodec, WhipAddress};
use holdfast::model::{Codec, Secret, TrackKind};
use serde_json::{Value, json};
use support::publisher::Publisher;
use support::relay::Relay;
use support::scene::{Scene, until};
use support::{output_of, program};
use tokio::task::JoinSet;

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
const LIMITS: &str = "silent_seconds = 4\nblack_seconds = 4\nfrozen_seconds = 4\nloss_percent = 0\ndrift_ms = 0";
/// Nothing is an alarm, but for what a test adds.
const NONE: &str = "silent_seconds = 0\nblack_seconds = 0\nfrozen_seconds = 0\nnothing_written_seconds = 0";
/// Three publishers, a box and its films at once are enough for two cores.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// 160×90 at 10 frames a second, with a tone; but for its beginning.
fn film(file: &Path, fault: Fault) -> PathBuf {
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
    let mut ffmpeg = Command::new(program("ffmpeg"));
    ffmpeg.args(["-nostdin", "-v", "error", "-filter_complex", &format!("{picture}[v];{sound}[s]")]);
    ffmpeg.args(["-map", "[v]", "-map", "[s]", "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "pcm_s16le"]);
    output_of(ffmpeg.arg(file));
    file.to_owned()
}

/// A box with its operators, on whose line nothing but good messages go.
struct Ward {
    broker: Broker,
    scene: Scene,
}

/// What `/healthz` says of alarms, and what the lights of power and recording show.
struct Seen {
    reasons: Vec<String>,
    power: String,
    recording: String,
}

impl Ward {
    async fn open(segment_seconds: u64, limits: &str) -> Ward {
        let broker = Broker::start(Entry::Certificates).await;
        let more = format!("{}[alarms]\n{limits}\n", broker.fleet("b-1", ""));
        let settings = |s: &mut support::daemon::Settings| {
            s.segment_seconds = segment_seconds;
            s.more = more;
        };
        Ward { scene: Scene::local(settings).await, broker }
    }

    async fn seen(&self) -> Seen {
        let health = self.scene.daemon.health().await;
        assert_ne!(health["status"], "failed", "{health}");
        let reasons = health["reasons"].as_array().cloned().unwrap_or_default();
        let reasons = reasons.iter().filter_map(Value::as_str).filter(|reason| reason.starts_with("alarm: "));
        let light = |name: &str| health["lights"][name].as_str().unwrap_or_default().to_owned();
        let seen = Seen {
            reasons: reasons.map(str::to_owned).collect(),
            power: light("power"),
            recording: light("recording"),
        };
        // all alarms are one part's word
        assert!(seen.reasons.len() <= 1, "{:?}", seen.reasons);
        seen
    }

    /// Health says this sentence, and the lights show one of these, as power and recording.
    async fn shown(&self, sentence: &str, lights: &[(&str, &str)]) {
        let shown = || async {
            let seen = self.seen().await;
            let named = seen.reasons.iter().any(|reason| reason.contains(sentence));
            (named && lights.contains(&(&seen.power, &seen.recording))).then_some(())
        };
        until(&format!("health and lights to tell: {sentence}"), shown).await;
    }

    async fn active(&self, kind: &str) -> f64 {
        self.scene.daemon.metric(&format!("holdfast_alarms{{kind=\"{kind}\"}}")).await
    }

    /// The operators are told of it in the same words.
    async fn operators_told(&self, kind: &str, sentence: &str) {
        let told = |message: &Message| {
            let alarms = message.payload["alarms"].as_array().filter(|_| message.topic == "holdfast/b-1/telemetry")?;
            alarms.iter().any(|alarm| alarm["kind"] == kind && alarm["text"] == sentence).then_some(())
        };
        self.broker.wait(&format!("telemetry with: {sentence}"), told).await;
    }

    /// Nothing is wrong any more, wherever one looks; everything that was raised was taken back once.
    async fn all_is_well(&self) {
        let well = || async {
            let seen = self.seen().await;
            (seen.reasons.is_empty() && seen.power == "well").then_some(())
        };
        until("every alarm to be taken back", well).await;
        assert_eq!(self.scene.daemon.metric("holdfast_alarms").await, 0.0);
        let raised = self.scene.daemon.metric("holdfast_alarms_raised_total").await;
        let over = self.scene.daemon.log().lines().filter(|line| line.contains("alarm is over")).count();
        assert!(over as f64 == raised, "{raised} raised, {over} taken back");
        let silence = || async {
            let messages = self.broker.messages();
            let mut telemetry = messages.iter().rev().filter(|message| message.topic == "holdfast/b-1/telemetry");
            telemetry.next().filter(|message| message.payload.get("alarms").is_none()).map(drop)
        };
        until("telemetry without alarms", silence).await;
    }
}

async fn joined(scene: &Scene, name: &str, film: &Path, codec: &str) -> Publisher {
    let token = scene.sdk.user_sig(name).await;
    Publisher::play(&scene.daemon.whip("ward", name), &token, film, codec)
}

/// The film of each fault. They are there before the task is, which waits for nobody for longer than 30 s.
fn films() -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().expect("a folder");
    let films = FAULTS.iter().map(|(name, fault, _)| film(&dir.path().join(format!("{name}.mkv")), *fault)).collect();
    (dir, films)
}

/// Three people of whom each has something wrong: every alarm is told by name, counted, and taken back.
async fn told_and_taken_back(ward: &Ward, films: &[PathBuf]) {
    let mut publishers = Vec::new();
    for ((name, _, codec), film) in FAULTS.iter().zip(films) {
        publishers.push(joined(&ward.scene, name, film, codec).await);
    }
    let sentences = [
        ("silent", "ann in room ward has been silent for 4 s"),
        ("black", "bob in room ward has been black for 4 s"),
        ("frozen", "cyd in room ward has been frozen for 4 s"),
    ];
    let unheard = [("well", "no-sound"), ("well", "no-sound-no-picture")];
    ward.shown(sentences[0].1, &unheard).await;
    for (kind, sentence) in sentences {
        // the log and the line keep what health may have taken back when the last of them is told
        ward.scene.daemon.logged(&format!("text=\"{sentence}\"")).await;
        ward.operators_told(kind, sentence).await;
    }
    ward.all_is_well().await;
    // or more, where the publishers were starved in between
    assert!(ward.scene.daemon.metric("holdfast_alarms_raised_total").await >= 3.0);
    for publisher in &mut publishers {
        publisher.leave().await;
    }
}

/// Each on lanes of their own, whose keyframes are looked at; H.264 goes to the file as it came.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_black_or_frozen_is_named_while_streams_are_recorded() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (_dir, films) = films();
    let ward = Ward::open(1, LIMITS).await;
    let task = ward.scene.create("ward").await;
    told_and_taken_back(&ward, &films).await;
    let recording = ward.scene.finish(&task).await;
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
    let (_dir, films) = films();
    let ward = Ward::open(2, LIMITS).await;
    let mixed = |params: &mut Value| {
        params["RecordParams"]["RecordMode"] = json!(2);
        params["MixTranscodeParams"] =
            json!({ "VideoParams": { "Width": 320, "Height": 180, "Fps": 10, "BitRate": 300_000, "Gop": 2 } });
        params["MixLayoutParams"] = json!({ "MixLayoutMode": 3 });
    };
    let task = ward.scene.sdk.create("ward", "recorder", mixed).await.expect("a mixed task");
    told_and_taken_back(&ward, &films).await;
    let recording = ward.scene.finish(&task).await;
    let seconds = recording.lanes[0].playlist.seconds();
    assert!(seconds > f64::from(WRONG), "{seconds} s");
}

/// A publisher in this process, by whose packets the test decides.
async fn enter(scene: &Scene, user: &str, whip: &str) -> RtpPublisher {
    let token = scene.sdk.user_sig(user).await;
    let address = WhipAddress { url: whip.into(), bearer: Some(Secret::new(token)), insecure: false, via: None };
    // it is the first here that needs TLS
    let _ = rustls::crypto::ring::default_provider().install_default();
    RtpPublisher::publish(&address, &[Codec::Opus, Codec::H264]).await.expect("it is taken in")
}

/// Pictures come, and none of them can begin a file, since no keyframe is among them; sound is recorded all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_grow_is_told_while_pictures_come() {
    let ward = Ward::open(1, "nothing_written_seconds = 3").await;
    let scene = &ward.scene;
    let task = scene.create("ward").await;
    let publisher = enter(scene, "dee", &scene.daemon.whip("ward", "dee")).await;
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
    let sentence = "nothing of dee's picture in room ward has been written for 3 s";
    ward.shown(sentence, &[("well", "not-written")]).await;
    assert_eq!(ward.active("nothing_written").await, 1.0);
    ward.operators_told("nothing_written", sentence).await;
    scene.has_segments(&task, "dee", "audio", 2).await;
    let recording = scene.finish(&task).await;
    assert!(recording.lane("dee", "audio").playlist.seconds() > 2.0);
    // it goes with the task
    ward.all_is_well().await;
    sending.abort();
}

/// Four seconds of a small picture with sound.
async fn script() -> Arc<Script> {
    let picture = TestPicture { width: 160, height: 90, fps: 10, bitrate: 60_000, ..TestPicture::default() };
    let record = move || Script::record(&picture, VideoCodec::H264, 4).expect("a script can be made");
    Arc::new(tokio::task::spawn_blocking(record).await.expect("it does not panic"))
}

/// Sends a script over and over at its own pace, from now on; its sound is held up by `late_ms`, and comes with the
/// stamps of when it was heard.
fn play(publisher: RtpPublisher, script: &Arc<Script>, late_ms: &Arc<AtomicU64>) -> JoinSet<()> {
    let (publisher, began, mut sending) = (Arc::new(publisher), Instant::now(), JoinSet::new());
    for (kind, rate) in [(TrackKind::Audio, 48_000), (TrackKind::Video, 90_000)] {
        let (publisher, script, late_ms) = (publisher.clone(), script.clone(), late_ms.clone());
        sending.spawn(async move {
            for round in 0u32.. {
                let seconds = u32::try_from(script.length.as_secs()).expect("a short script") * round;
                for made in script.packets.iter().filter(|made| made.kind == kind) {
                    let captured = began + Duration::from_secs(seconds.into()) + made.at;
                    let late = if kind == TrackKind::Audio { late_ms.load(Ordering::Relaxed) } else { 0 };
                    tokio::time::sleep_until((captured + Duration::from_millis(late)).into()).await;
                    let timestamp = made.timestamp.wrapping_add(seconds.wrapping_mul(rate));
                    let packet = Packet { timestamp, marker: made.marker, payload: made.payload.clone(), captured };
                    publisher.send(kind, packet).await.expect("it goes out");
                }
            }
        });
    }
    sending
}

/// A network that loses most of what is sent, and of what is asked for again. The limit comes from the operators, while it
/// goes on.
#[tokio::test(flavor = "multi_thread")]
async fn who_loses_packets_is_named_until_the_network_is_well() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let ward = Ward::open(2, &format!("{NONE}\nloss_percent = 0\ndrift_ms = 0")).await;
    let scene = &ward.scene;
    let relay = Relay::start(&scene.daemon, 26).await;
    let task = scene.create("ward").await;
    let script = script().await;
    let publisher = enter(scene, "eve", &relay.whip("ward", "eve")).await;
    let sending = play(publisher, &script, &Arc::default());
    scene.has_segments(&task, "eve", "audio", 2).await;
    scene.has_segments(&task, "eve", "video", 2).await;

    relay.weather.lose(750);
    until("losses", || async { (scene.daemon.metric("holdfast_rtp_lost_total").await > 50.0).then_some(()) }).await;
    assert!(ward.seen().await.reasons.is_empty(), "there is no limit");
    let wish = json!({"version": 1, "config": {"alarms": {"loss_percent": 20, "loss_seconds": 3}}});
    ward.broker.publish("holdfast/b-1/twin/desired", &wish.to_string(), true);
    let sentence = "of eve in room ward over 20 % of the sound's packets are lost";
    ward.shown(sentence, &[("attention", "recording")]).await;
    assert_eq!(ward.active("loss").await, 1.0);
    ward.operators_told("loss", sentence).await;

    relay.weather.lose(0);
    ward.all_is_well().await;
    let after = scene.segments(&task, "eve", "audio").await.len();
    scene.has_segments(&task, "eve", "audio", after + 2).await;
    drop(sending);
    let recording = scene.finish(&task).await;
    assert!(recording.find("eve", "video").is_some() && recording.lanes.len() == 2);
}

/// A publisher whose sound comes ever later while its picture does not, as from an encoder that is not fast enough.
#[tokio::test(flavor = "multi_thread")]
async fn who_drifts_apart_is_named_until_both_are_together_again() {
    let ward = Ward::open(4, &format!("{NONE}\nloss_percent = 0\ndrift_ms = 200")).await;
    let scene = &ward.scene;
    let task = scene.create("ward").await;
    let script = script().await;
    let publisher = enter(scene, "fay", &scene.daemon.whip("ward", "fay")).await;
    let late_ms = Arc::default();
    let sending = play(publisher, &script, &late_ms);
    // the clocks have settled after 40 s
    scene.has_segments(&task, "fay", "audio", 12).await;
    assert!(ward.seen().await.reasons.is_empty());

    late_ms.store(600, Ordering::Relaxed);
    let sentence = "of fay in room ward sound and picture are 200 ms apart";
    ward.shown(sentence, &[("attention", "recording")]).await;
    assert_eq!(ward.active("drift").await, 1.0);
    ward.operators_told("drift", sentence).await;

    late_ms.store(0, Ordering::Relaxed);
    ward.all_is_well().await;
    let after = scene.segments(&task, "fay", "audio").await.len();
    scene.has_segments(&task, "fay", "audio", after + 2).await;
    drop(sending);
    let recording = scene.finish(&task).await;
    for kind in ["audio", "video"] {
        let playlist = &recording.lane("fay", kind).playlist;
        assert!(playlist.seconds() > 70.0, "{kind}: {} s", playlist.seconds());
        assert_eq!(playlist.discontinuities(), 0, "{kind}:\n{}", playlist.text);
    }
}
