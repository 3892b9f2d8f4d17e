//! Cameras and another media server as participants: what the box fetches itself is recorded like everybody else, and an
//! interruption is a gap in the same recording.

mod support;

use std::process::Command;

use holdfast::media::publish::{TestPicture, VideoCodec};
use serde_json::Value;
use support::beat::Beats;
use support::camera::{Camera, Films, Theatre};
use support::daemon::Settings;
use support::probe::{self, Stream};
use support::recorded::Lane;
use support::scene::{Scene, assert_story, until};
use support::{ACCESS_KEY, APP, BUCKET, SECRET_KEY, output_of, program};

/// One `[[sources]]` table.
fn source(name: &str, kind: &str, room: &str, url: &str, more: &str) -> String {
    format!(
        "[[sources]]\nname = \"{name}\"\nkind = \"{kind}\"\nsdk_app_id = {APP}\nroom = \"{room}\"\nuser = \"{name}\"\n\
         url = \"{url}\"\n{more}\n"
    )
}

fn quick(settings: &mut Settings, sources: String) {
    settings.segment_seconds = 2;
    settings.more = sources;
}

/// What health says of the sources; empty: they are all well.
async fn told(scene: &Scene) -> String {
    let health = scene.daemon.health().await;
    let reasons = health["reasons"].as_array().cloned().unwrap_or_default();
    let of_sources = reasons.iter().filter_map(Value::as_str).filter(|reason| reason.starts_with("sources: "));
    of_sources.collect::<Vec<_>>().join("\n")
}

/// The usual colour of the decoded pictures (flashes are rare), as RGB.
fn colour(lane: &Lane) -> [u8; 3] {
    let mut command = Command::new(program("ffmpeg"));
    command.args(["-nostdin", "-v", "error", "-i"]).arg(lane.joined());
    command.args(["-an", "-vsync", "passthrough", "-vf", "scale=1:1:flags=area,format=rgb24", "-f", "rawvideo", "-"]);
    let mut all: Vec<[u8; 3]> = output_of(&mut command).chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
    all.sort_by_key(|[r, g, b]| u32::from(*r) + u32::from(*g) + u32::from(*b));
    all[all.len() / 2]
}

fn assert_colour(lane: &Lane, wanted: [u8; 3]) {
    let found = colour(lane);
    assert!(found.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 24), "{found:?} is not {wanted:?}");
}

fn assert_codecs(video: &Lane, audio: &Lane, size: (u64, u64)) {
    let seen = &probe::formats(&video.joined())[0];
    assert_eq!((seen.0, seen.1.codec.as_str()), (Stream::Video, "h264"));
    assert_eq!((seen.1.width, seen.1.height), size);
    let heard = &probe::formats(&audio.joined())[0];
    assert_eq!((heard.0, heard.1.codec.as_str(), heard.1.sample_rate), (Stream::Audio, "aac", 48_000));
}

/// H.264 is taken as it is, AAC is made the recording's own sound, and both are in step. The camera's cable is pulled
/// for longer than the gap: the same recording goes on, with one discontinuity.
#[tokio::test(flavor = "multi_thread")]
async fn a_camera_whose_cable_is_pulled_goes_on_in_the_same_recording() {
    let films = Films { video: "h264", audio: "aac", colour: "30a050", login: None };
    let mut camera = Camera::start(films).await;
    let wanted = source("door", "rtsp", "ward", &camera.url(), "transport = \"tcp\"\ngrace_seconds = 120");
    let scene = Scene::local(|s| quick(s, wanted)).await;
    let task = scene.create("ward").await;
    scene.has_segments(&task, "door", "video", 2).await;
    scene.has_segments(&task, "door", "audio", 2).await;
    assert_eq!(told(&scene).await, "");

    camera.cut().await;
    until("health to say so", || async { told(&scene).await.contains("door: rtsp: ").then_some(()) }).await;
    // the third try in vain comes when the gap is over: three seconds after the first
    until("some tries in vain", || async {
        (scene.daemon.metric("holdfast_source_interruptions_total").await >= 3.0).then_some(())
    })
    .await;
    let before = scene.segments(&task, "door", "video").await.len();
    camera.back().await;
    scene.has_segments(&task, "door", "video", before + 2).await;
    scene.has_segments(&task, "door", "audio", before + 2).await;
    assert_eq!(told(&scene).await, "", "it is well again");

    let recording = scene.finish(&task).await;
    assert_eq!(recording.lanes.len(), 2, "{:?}", recording.objects.keys());
    let (video, audio) = (recording.lane("door", "video"), recording.lane("door", "audio"));
    for lane in [video, audio] {
        lane.assert_sound();
        assert_eq!(lane.playlist.discontinuities(), 1, "{}:\n{}", lane.name, lane.playlist.text);
    }
    assert_codecs(video, audio, (320, 180));
    assert_colour(video, [0x30, 0xa0, 0x50]);
    let beats = Beats::of(video, audio);
    println!("beep after flash: {:.1} ms in the middle, spread {:.1} ms", beats.median() * 1e3, beats.spread() * 1e3);
    assert!(beats.median().abs() < 0.08, "{beats:?}");
    assert_story(&scene.receiver.of(&task), 2);
    assert!(!scene.daemon.log().contains("the source leaves the room"), "it stayed in the room");
}

/// H.265 and A-law over UDP from a camera that wants a password: the room is recorded of itself. One with a wrong
/// password is a reason of health, and disturbs nobody; no password is told anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_recording_holds_is_transcoded_and_a_password_stays_unsaid() {
    let films = Films { video: "h265", audio: "pcma", colour: "a03060", login: Some(("viewer", "tr0ub4dor")) };
    let camera = Camera::start(films).await;
    let right = "transport = \"udp\"\nusername = \"viewer\"\npassword = \"tr0ub4dor\"\nbitrate = 500000";
    let wrong = camera.url().replace("rtsp://", "rtsp://viewer:wrong-horse@") + "?key=battery-staple";
    let automatic = format!(
        "[automatic]\nenabled = true\nrooms = [\"ward*\"]\nbucket = \"{BUCKET}\"\nregion = \"us-east-1\"\n\
         access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\nprefix = [\"clinic\", \"day1\"]\n"
    );
    let sources =
        source("door", "rtsp", "ward-1", &camera.url(), right) + &source("gate", "rtsp", "ward-1", &wrong, "");
    let scene = Scene::local(|s| quick(s, sources + &automatic)).await;
    let began = scene.receiver.wait_for("301", |all| all.iter().find(|c| c.event() == 301).cloned()).await;
    let task = began.task().to_owned();
    scene.has_segments(&task, "door", "video", 3).await;
    scene.has_segments(&task, "door", "audio", 3).await;
    let why = told(&scene).await;
    assert!(why.contains("gate: rtsp: ") && !why.contains("door: "), "{why}");
    let recording = scene.finish(&task).await;
    let (video, audio) = (recording.lane("door", "video"), recording.lane("door", "audio"));
    assert_eq!(recording.lanes.len(), 2, "nothing of the other one");
    for lane in [video, audio] {
        lane.assert_sound();
    }
    assert_codecs(video, audio, (320, 180));
    assert_colour(video, [0xa0, 0x30, 0x60]);
    let beats = Beats::of(video, audio);
    println!("beep after flash: {:.1} ms in the middle, spread {:.1} ms", beats.median() * 1e3, beats.spread() * 1e3);
    assert!(beats.median().abs() < 0.08, "{beats:?}");
    let said = scene.daemon.log() + &why;
    for secret in ["tr0ub4dor", "wrong-horse", "battery-staple"] {
        assert!(!said.contains(secret), "{secret} was told");
    }
}

/// A camera that speaks TLS, with a certificate of its own making: taken where that is allowed, and otherwise refused in
/// words that say why. What it sends goes through the same TLS.
#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_speaks_tls_is_taken_when_its_certificate_is() {
    let films = Films { video: "h264", audio: "pcma", colour: "3060a0", login: Some(("viewer", "tr0ub4dor")) };
    let camera = Camera::sealed(films).await;
    let login = "username = \"viewer\"\npassword = \"tr0ub4dor\"\n";
    let sources = source("door", "rtsp", "ward", &camera.url(), &format!("{login}insecure = true"))
        + &source("gate", "rtsp", "ward", &camera.url(), login);
    let scene = Scene::local(|s| quick(s, sources)).await;
    let task = scene.create("ward").await;
    scene.has_segments(&task, "door", "video", 2).await;
    scene.has_segments(&task, "door", "audio", 2).await;
    let why = told(&scene).await;
    assert!(why.contains("gate: rtsp: its certificate is not trusted (unknown-ca"), "{why}");
    let recording = scene.finish(&task).await;
    assert_eq!(recording.lanes.len(), 2, "nothing of the other one");
    let (video, audio) = (recording.lane("door", "video"), recording.lane("door", "audio"));
    for lane in [video, audio] {
        lane.assert_sound();
    }
    assert_codecs(video, audio, (320, 180));
    assert_colour(video, [0x30, 0x60, 0xa0]);
    assert!(!(scene.daemon.log() + &why).contains("tr0ub4dor"), "the password was told");
}

/// Another media server's stream, fetched by WHEP, with sound and picture in step; the session is taken down at the end.
#[tokio::test(flavor = "multi_thread")]
async fn another_servers_stream_is_fetched_and_left_properly() {
    let picture = TestPicture { width: 320, height: 180, fps: 15, bitrate: 300_000, ..TestPicture::default() };
    let mut theatre = Theatre::open("let-me-in", VideoCodec::Vp8, picture).await;
    let wanted = source("clinic-b", "whep", "ward", &theatre.url(), "token = \"let-me-in\"");
    let mut scene = Scene::local(|s| quick(s, wanted)).await;
    let task = scene.create("ward").await;
    scene.has_segments(&task, "clinic-b", "video", 3).await;
    scene.has_segments(&task, "clinic-b", "audio", 3).await;
    assert_eq!(told(&scene).await, "");
    let recording = scene.finish(&task).await;
    let (video, audio) = (recording.lane("clinic-b", "video"), recording.lane("clinic-b", "audio"));
    for lane in [video, audio] {
        lane.assert_sound();
        assert_eq!(lane.playlist.discontinuities(), 0, "{}:\n{}", lane.name, lane.playlist.text);
    }
    assert_codecs(video, audio, (320, 180));
    let beats = Beats::of(video, audio);
    println!("beep after flash: {:.1} ms in the middle, spread {:.1} ms", beats.median() * 1e3, beats.spread() * 1e3);
    assert!(beats.median().abs() < 0.05, "{beats:?}");
    assert_eq!(scene.daemon.terminate().await, Some(0));
    assert!(!scene.daemon.log().contains("let-me-in"), "the token was told");
    support::within(support::SOON, "the viewer to leave", theatre.viewers.wait_for(|(came, left)| came == left))
        .await
        .expect("the theatre is open");
    assert_eq!(*theatre.viewers.borrow(), (1, 1));
}
