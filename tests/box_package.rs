//! Packing through the whole box: asked for by the SDK, recorded from WebRTC, packed after the end, read back from S3.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::browser::{Browser, Origin};
use support::publisher::Sends;
use support::receiver::Callback;
use support::recorded::{PREFIX, Recording};
use support::scene::{Scene, until};
use support::{APP, BUCKET, output_of, probe, program};

/// `clinic` and `dr-wang` as names have them.
const FILE: &str = "Y2xpbmlj__UserId_s_ZHItd2FuZw..__UserId_e_main";

fn format(number: u8) -> impl FnOnce(&mut Value) {
    move |p| p["RecordParams"]["OutputFormat"] = json!(number)
}

/// The objects of a task that have this ending, laid out in a folder.
async fn packed(scene: &Scene, task: &str, ending: &str, dir: &Path) -> Vec<PathBuf> {
    let objects = scene.objects(task).await;
    let mine = objects.iter().filter(|(key, _)| key.contains(&format!("{PREFIX}/{task}/")) && key.ends_with(ending));
    let write = |(key, bytes): (&String, &Vec<u8>)| {
        let path = dir.join(key.rsplit('/').next().expect("a name"));
        std::fs::write(&path, bytes).expect("the folder is ours");
        path
    };
    mine.map(write).collect()
}

fn packets(file: &Path) -> [usize; 2] {
    [probe::Stream::Video, probe::Stream::Audio].map(|stream| probe::packets(file, stream).len())
}

/// What 310 says of each file: (name, user, kind, from, to).
fn told(callback: &Callback) -> Vec<(String, String, String, i64, i64)> {
    let files = callback.payload()["FileMessage"].as_array().cloned().unwrap_or_default();
    let text = |file: &Value, name: &str| file[name].as_str().unwrap_or_default().to_owned();
    let names: Vec<Value> = files.iter().map(|file| file["FileName"].clone()).collect();
    assert_eq!(callback.payload()["FileList"], Value::from(names));
    let number = |file: &Value, name: &str| file[name].as_i64().expect("a number");
    let one = |file: &Value| {
        assert_eq!(file["MediaId"], "main");
        let (from, to) = (number(file, "StartTimeStamp"), number(file, "EndTimeStamp"));
        (text(file, "FileName"), text(file, "UserId"), text(file, "TrackType"), from, to)
    };
    files.iter().map(one).collect()
}

/// Awaits the 310 of this status, and that the shelf holds nothing of the task any more.
async fn stopped(scene: &Scene, task: &str, status: u8) -> Callback {
    let said = |all: &[Callback]| {
        all.iter().find(|c| c.task() == task && c.event() == 310 && c.payload()["Status"] == status).cloned()
    };
    scene.receiver.wait_for(&format!("310 with {status}"), said).await
}

async fn shelf_is_empty(scene: &Scene, task: &str) {
    let dir = scene.daemon.spool_dir().join(task);
    until("the segments to be let go", || async {
        let files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let media = files.filter(|f| f.file_name().to_string_lossy().contains(".ts"));
        (media.count() == 0).then_some(())
    })
    .await;
}

/// hls+mp4: the lists and segments as ever, and beside them one file with every packet of both.
#[tokio::test(flavor = "multi_thread")]
async fn an_mp4_lies_beside_the_hls_with_every_packet_of_it() {
    let scene = Scene::new(|s| s.segment_seconds = 2).await;
    let task = scene.sdk.create("clinic", "recorder", format(1)).await.expect("hls+mp4 is known");
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 3).await;
    scene.sdk.delete(&task).await.expect("it runs");
    let told = told(&stopped(&scene, &task, 0).await);
    let name = format!("{APP}_{FILE}.mp4");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].0.as_str(), told[0].1.as_str(), told[0].2.as_str()), (name.as_str(), "dr-wang", "audio_video"));
    scene.receiver.event(&task, 305).await;

    let dir = tempfile::tempdir().expect("a folder");
    let files = packed(&scene, &task, ".mp4", dir.path()).await;
    assert_eq!(files.len(), 1);
    let mut objects = scene.objects(&task).await;
    objects.retain(|key, _| !key.ends_with(".mp4"));
    let recording = Recording::of(&objects, &task);
    recording.assert_whole();
    let (video, audio) = (recording.lane("dr-wang", "video"), recording.lane("dr-wang", "audio"));
    let there =
        [video.packets(probe::Stream::Video).concat().len(), audio.packets(probe::Stream::Audio).concat().len()];
    let here = packets(&files[0]);
    assert_eq!(here[0], there[0]);
    // an interruption is filled with silence, and nothing is missing
    assert!((there[1]..there[1] + 20).contains(&here[1]), "{} frames of {}", here[1], there[1]);
    assert_eq!(probe::decode_errors(&files[0]), "");
    let begin = video.playlist.start_ms.min(audio.playlist.start_ms);
    assert!((told[0].3 - begin).abs() <= 1, "{} and {begin}", told[0].3);
    assert_eq!(scene.receiver.events(&task).iter().filter(|e| **e == 310).count(), 1);
    shelf_is_empty(&scene, &task).await;
    scene.gone(&task).await;
}

/// An mp4 of the box's own store, in a page of another origin: a browser plays it, knows its size and its length before it
/// has all of it, and finds its middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_plays_the_mp4() {
    let scene = Scene::local(|s| s.segment_seconds = 2).await;
    let task = scene.sdk.create("clinic", "recorder", format(1)).await.expect("hls+mp4 is known");
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 4).await;
    scene.sdk.delete(&task).await.expect("it runs");
    let told = told(&stopped(&scene, &task, 0).await);
    let length = (told[0].4 - told[0].3) as f64 / 1000.0;
    let objects = scene.objects(&task).await;
    let (name, body) = objects.iter().find(|(name, _)| name.ends_with(".mp4")).expect("an mp4");
    assert!(name.ends_with(&told[0].0), "{name}");

    let source = scene.daemon.url(&format!("files/{BUCKET}/{PREFIX}/{task}/{}", told[0].0));
    let origin = Origin::start().await;
    let browser = Browser::open(&origin.player(&source), None);
    assert!(body.len() > 2000);
    assert_eq!(browser.plays("range").await, [206.0, 1000.0]);
    let known = browser.plays("metadata").await;
    assert_eq!(known[..2], [640.0, 360.0]);
    let seconds = known[2];
    assert!((seconds - length).abs() < 0.1, "the browser knows of {seconds} s, 310 of {length} s");
    let plays = browser.plays("plays").await;
    let [at, pictures, sound, shades] = plays[..] else { panic!("{plays:?}") };
    assert!(at >= 1.5 && pictures > 20.0 && sound > 1000.0 && shades > 4.0, "{plays:?}");
    let middle = browser.plays("seeked").await;
    assert!((middle[0] - seconds / 2.0).abs() < 0.1 && middle[1] > 4.0, "{middle:?} of {seconds} s");
    assert!(browser.plays("goes-on").await[0] >= seconds / 2.0 + 1.0);
    let end = browser.plays("ended").await[0];
    assert!((end - seconds).abs() < 0.1, "it ends at {end} s of {seconds}");
}

/// mp4: no HLS goes up; the box is killed in mid-recording and again while it packs, and one file tells of both lives.
#[tokio::test(flavor = "multi_thread")]
async fn an_mp4_alone_survives_kills_and_tells_of_all_lives() {
    let keys = tempfile::tempdir().expect("a folder");
    let key = keys.path().join("spool.key");
    std::fs::write(&key, "4f1d0c9a7be2385566a1b0c2d3e4f5061728394a5b6c7d8e9fa0b1c2d3e4f506\n").expect("it is ours");
    let mut scene = Scene::new(|s| {
        s.segment_seconds = 2;
        s.more = format!("[spool]\nkey_file = \"{}\"\n", key.display());
    })
    .await;
    let task = scene.sdk.create("clinic", "recorder", format(3)).await.expect("mp4 is known");
    let mut publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    let dir = scene.daemon.spool_dir().join(&task);
    let segments = || async {
        let files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        files.filter(|f| f.file_name().to_string_lossy().ends_with(".ts")).count()
    };
    until("segments on the shelf", || async { (segments().await >= 4).then_some(()) }).await;
    assert_eq!(scene.sdk.describe(&task).await.expect("it records")["StorageFileList"], json!([]));
    scene.daemon.kill().await;
    publisher.vanish().await;
    scene.daemon.start_again().await;
    scene.receiver.event(&task, 306).await;
    let before = segments().await;
    let _again = scene.publish("clinic", "dr-wang", Sends::default()).await;
    until("segments of the second life", || async { (segments().await >= before + 4).then_some(()) }).await;
    // the bucket is away: what is packed waits
    scene.s3.as_mut().expect("a bucket").stop().await;
    scene.sdk.delete(&task).await.expect("it runs");
    scene.receiver.event(&task, 302).await;
    let plan = dir.join(format!("{APP}_{FILE}.mp4.plan"));
    until("the plan on the shelf", || async { plan.exists().then_some(()) }).await;
    scene.daemon.kill().await;
    scene.s3.as_mut().expect("a bucket").start_again().await;
    scene.daemon.start_again().await;

    let told = told(&stopped(&scene, &task, 0).await);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].0.clone(), told[0].2.as_str()), (format!("{APP}_{FILE}.mp4"), "audio_video"));
    assert_eq!(scene.receiver.event(&task, 305).await.payload()["Status"], 0);
    let events = scene.receiver.events(&task);
    assert!(!events.iter().any(|event| matches!(event, 304 | 307)), "{events:?}");
    assert_eq!(events.iter().filter(|event| **event == 310).count(), 1, "{events:?}");
    let objects = scene.objects(&task).await;
    assert_eq!(objects.len(), 1, "nothing but the file: {:?}", objects.keys());
    let out = tempfile::tempdir().expect("a folder");
    let files = packed(&scene, &task, ".mp4", out.path()).await;
    let length = (told[0].4 - told[0].3) as f64 / 1000.0;
    let mut command = Command::new(program("ffprobe"));
    command.args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"]).arg(&files[0]);
    let says: f64 = String::from_utf8_lossy(&output_of(&mut command)).trim().parse().expect("a duration");
    assert!((says - length).abs() < 0.01 && length > 6.0, "{says} s in the file, {length} s told");
    let seen = probe::packets(&files[0], probe::Stream::Video);
    let heard = probe::packets(&files[0], probe::Stream::Audio);
    // the life after the kill: sound and picture come back together
    let steps =
        |packets: &[probe::Packet]| packets.windows(2).map(|pair| pair[1].pts - pair[0].pts).fold(0.0, f64::max);
    let gap = steps(&seen);
    assert!(
        gap > 0.5,
        "a box that is killed leaves a gap in the picture, not of {gap} s: {told:?}\n{}",
        scene.daemon.log()
    );
    assert!(steps(&heard) < 0.1, "the gap is silent, and not a hole");
    shelf_is_empty(&scene, &task).await;
}

/// aac of sound alone, and a limit of length that splits nothing; a bucket that is away makes it 1 and then 0.
#[tokio::test(flavor = "multi_thread")]
async fn an_aac_waits_for_its_bucket_and_says_so() {
    let mut scene = Scene::new(|s| {
        s.segment_seconds = 2;
        s.upload_grace_seconds = 2;
    })
    .await;
    let task = scene.sdk.create("clinic", "recorder", format(4)).await.expect("aac is known");
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    let dir = scene.daemon.spool_dir().join(&task);
    until("segments on the shelf", || async {
        let files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        (files.filter(|f| f.file_name().to_string_lossy().ends_with(".ts")).count() >= 3).then_some(())
    })
    .await;
    scene.s3.as_mut().expect("a bucket").stop().await;
    scene.sdk.delete(&task).await.expect("it runs");
    let waits = told(&stopped(&scene, &task, 1).await);
    assert_eq!(scene.receiver.event(&task, 305).await.payload()["Status"], 1);
    scene.s3.as_mut().expect("a bucket").start_again().await;
    let there = told(&stopped(&scene, &task, 0).await);
    assert_eq!(waits, there);
    assert_eq!((there[0].0.clone(), there[0].2.as_str()), (format!("{APP}_{FILE}.aac"), "audio"));
    assert_eq!(scene.receiver.nth(&task, 305, 2).await.payload()["Status"], 2);
    let out = tempfile::tempdir().expect("a folder");
    let files = packed(&scene, &task, ".aac", out.path()).await;
    assert_eq!(scene.objects(&task).await.len(), 1);
    assert_eq!(probe::decode_errors(&files[0]), "");
    let samples: u64 = probe::frames(&files[0], probe::Stream::Audio).iter().map(|frame| frame.1).sum();
    let length = (there[0].4 - there[0].3) as f64 / 1000.0;
    assert!((samples as f64 / 48_000.0 - length).abs() < 0.1, "{samples} samples, {length} s told");
}
