//! Deaths after the end of a recording: while its files are packed, and while they go to VOD.
//!
//! Owns: where the box dies, and what must be there then. Must not touch: how a file is read (`support::probe`).
//! Law: whatever the moment, the file is there once, holds every packet of the recording once, and is told of once.

use serde_json::json;

use super::PLACES;
use crate::support::bucket::{Kind, S3};
use crate::support::publisher::Sends;
use crate::support::recorded::Recording;
use crate::support::scene::{Scene, until};
use crate::support::vod::{SUB_APP, VodServer};
use crate::support::{ACCESS_KEY, APP, LATER, SECRET_KEY, halted, probe};

/// From the plan to the day on which its sources go.
pub const PACKED: [&str; 7] =
    ["package.planned", "plan.written", "plan.synced", "plan.renamed", "plan.kept", "held.removed", "held.forgotten"];

/// Where nothing but the file is kept: it is noted that its segments go, and then they do.
pub const PACKED_ALONE: [&str; 2] = ["held.gone", "held.removed"];

/// The three steps of an upload to VOD, and what is kept of them.
pub const TO_VOD: [&str; 5] = ["vod.applied", "vod.kept", "vod.stored", "vod.committed", "vod.noted"];

/// What VOD has of a discarded task is found out, written down and deleted.
pub const ERASED: [&str; 3] = ["discard.learned", "discard.known", "discard.deleted"];

/// Kills the box that stands at its point, and starts it again without one.
async fn dies(scene: &mut Scene, point: &str) {
    let died = tokio::time::timeout(LATER, halted(scene.daemon.id())).await;
    assert!(died.is_ok(), "the point {point} was not passed");
    scene.daemon.kill().await;
    scene.daemon.settings.crash = None;
    scene.daemon.start_again().await;
}

fn packets(file: &std::path::Path) -> [usize; 2] {
    [probe::Stream::Video, probe::Stream::Audio].map(|stream| probe::packets(file, stream).len())
}

/// hls+mp4, so that the file can be held against the lists that lie beside it.
pub async fn dies_while_it_packs(point: &str) {
    let _place = PLACES.acquire().await.expect("nobody closes it");
    let mut scene = Scene::new(|settings| {
        settings.segment_seconds = 2;
        settings.crash = Some(point.to_owned());
    })
    .await;
    let format = |p: &mut serde_json::Value| p["RecordParams"]["OutputFormat"] = json!(1);
    let task = scene.sdk.create("clinic", "recorder", format).await.expect("hls+mp4 is known");
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 2).await;
    scene.sdk.delete(&task).await.expect("it runs");
    dies(&mut scene, point).await;

    is_told_once(&scene, &task, point).await;

    let mut objects = scene.objects(&task).await;
    let mp4: Vec<Vec<u8>> = objects.extract_if(.., |name, _| name.ends_with(".mp4")).map(|(_, body)| body).collect();
    let [body] = &mp4[..] else { panic!("{point}: one mp4, not {}", mp4.len()) };
    let recording = Recording::of(&objects, &task);
    recording.assert_whole();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a.mp4");
    std::fs::write(&file, body).expect("the folder is ours");
    assert_eq!(probe::decode_errors(&file), "", "{point}");
    let of = |kind, stream| recording.lane("dr-wang", kind).packets(stream).concat().len();
    let (there, here) = ([of("video", probe::Stream::Video), of("audio", probe::Stream::Audio)], packets(&file));
    assert_eq!(here[0], there[0], "{point}: pictures of the file and of the lists");
    // an interruption is filled with silence, and nothing is missing
    assert!((there[1]..there[1] + 20).contains(&here[1]), "{point}: {} sounds of {}", here[1], there[1]);
}

/// mp4 alone, in the bucket.
pub async fn dies_while_it_lets_go(point: &str) {
    let _place = PLACES.acquire().await.expect("nobody closes it");
    let mut scene = Scene::new(|settings| {
        settings.segment_seconds = 2;
        settings.crash = Some(point.to_owned());
    })
    .await;
    let format = |p: &mut serde_json::Value| p["RecordParams"]["OutputFormat"] = json!(3);
    let task = scene.sdk.create("clinic", "recorder", format).await.expect("mp4 is known");
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    let dir = scene.daemon.spool_dir().join(&task);
    has_finished(&dir, 4).await;
    scene.sdk.delete(&task).await.expect("it runs");
    dies(&mut scene, point).await;

    is_told_once(&scene, &task, point).await;
    let lost: Vec<String> =
        scene.receiver.of(&task).iter().filter(|c| c.event() == 308).map(|c| c.body.clone()).collect();
    assert!(lost.is_empty(), "{point}: {lost:?}");
    let objects = scene.objects(&task).await;
    let names: Vec<&String> = objects.keys().collect();
    let [name] = &names[..] else { panic!("{point}: one file, not {names:?}") };
    assert!(name.ends_with(".mp4"), "{point}: {name}");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a.mp4");
    std::fs::write(&file, &objects[*name]).expect("the folder is ours");
    assert_eq!(probe::decode_errors(&file), "", "{point}");
    let [pictures, sounds] = packets(&file);
    // two segments of two seconds at least
    assert!(pictures >= 50 && sounds >= 150, "{point}: {pictures} pictures, {sounds} sounds");
}

/// 310 under one id, 305, and then nothing of it on the shelf.
async fn is_told_once(scene: &Scene, task: &str, point: &str) {
    let packed = scene.receiver.event(task, 310).await;
    assert_eq!(packed.payload()["Status"], 0, "{point}: {}", packed.body);
    assert_eq!(packed.payload()["FileList"].as_array().map(Vec::len), Some(1), "{point}: {}", packed.body);
    assert_eq!(scene.receiver.event(task, 305).await.payload()["Status"], 0, "{point}");
    scene.gone(task).await;
    let folder = scene.daemon.spool_dir().join(task);
    until("nothing of it to be left on the shelf", || async { (!folder.exists()).then_some(()) }).await;
    let told = scene.receiver.of(task).into_iter().filter(|c| c.event() == 310);
    let told: std::collections::BTreeSet<String> = told.map(|c| c.id().to_owned()).collect();
    assert_eq!(told.len(), 1, "{point}: 310 was told under {told:?}");
}

/// So many finished segments lie there.
async fn has_finished(dir: &std::path::Path, count: usize) {
    until("segments on the shelf", || async {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        (files.filter(|f| f.file_name().to_string_lossy().ends_with(".ts")).count() >= count).then_some(())
    })
    .await;
}

/// A box that dies at the point, its VOD platform, and a recording that has ended.
async fn recorded_for_vod(point: &str, media_type: u8, commits: Option<usize>) -> (Scene, VodServer, String) {
    let s3 = S3::start(Kind::S3sFs).await;
    let vod = VodServer::start(&s3.endpoint, (ACCESS_KEY, SECRET_KEY)).await;
    vod.commits(commits);
    let table = vod.table(&vod.api);
    let scene = Scene::with(Some(s3), |settings| {
        settings.segment_seconds = 2;
        settings.crash = Some(point.to_owned());
        settings.more = table;
    })
    .await;
    let ask = |p: &mut serde_json::Value| {
        p["StorageParams"] = json!({ "CloudVod": { "TencentVod": { "MediaType": media_type, "SubAppId": SUB_APP } } });
    };
    let task = scene.sdk.create("clinic", "recorder", ask).await.expect("a task");
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    let dir = scene.daemon.spool_dir().join(&task);
    has_finished(&dir, 4).await;
    scene.sdk.delete(&task).await.expect("it runs");
    (scene, vod, task)
}

/// An mp4 and a list; one of them is committed, and of the other nobody knows. Then both are to go.
pub async fn dies_while_vod_is_cleared(point: &str) {
    let _place = PLACES.acquire().await.expect("nobody closes it");
    let (mut scene, vod, task) = recorded_for_vod(point, 3, Some(1)).await;
    vod.wait_for("one file, and another that waits", |vod| {
        (vod.medias().len() == 1 && vod.calls("CommitUpload") >= 2).then_some(())
    })
    .await;
    assert_eq!(scene.receiver.event(&task, 311).await.payload()["Status"], 0, "{point}");
    let order = json!({ "SdkAppId": APP, "TaskId": task, "Discard": true });
    scene.sdk.call_json("DeleteCloudRecording", order).await.expect("its files have not all arrived");
    vod.commits(None);
    dies(&mut scene, point).await;

    let gone = scene.receiver.event(&task, 305).await;
    assert_eq!(gone.payload()["Status"], 3, "{point}: {}", gone.body);
    let mut ids: Vec<String> = vod.uploads().into_iter().filter_map(|upload| upload.file_id).collect();
    ids.sort();
    assert_eq!(ids.len(), 2, "{point}: the one that was stored had to be committed to be named");
    assert_eq!(gone.payload()["Discard"]["FileIds"], json!(ids), "{point}");
    assert_eq!(gone.payload()["Discard"]["Objects"], 2, "{point}: {}", gone.body);
    assert_eq!(vod.medias(), [], "{point}");
    assert_eq!(vod.keys().await, Vec::<String>::new(), "{point}: no byte of them");
    scene.gone(&task).await;
    let log = scene.daemon.log();
    assert!(ids.iter().all(|id| log.contains(id)), "{point}: the receipt is in the log");
    vod.assert_by_the_rules();
}

/// mp4 alone.
pub async fn dies_on_the_way_to_vod(point: &str) {
    let _place = PLACES.acquire().await.expect("nobody closes it");
    let (mut scene, vod, task) = recorded_for_vod(point, 0, None).await;
    dies(&mut scene, point).await;

    assert_eq!(scene.receiver.event(&task, 312).await.payload()["Status"], 0, "{point}");
    let committed = scene.receiver.event(&task, 311).await;
    assert_eq!(committed.payload()["Status"], 0, "{point}: {}", committed.body);
    let medias = vod.medias();
    let [media] = &medias[..] else { panic!("{point}: one file is committed once: {medias:?}") };
    assert_eq!(committed.payload()["TencentVod"]["FileId"].as_str(), media.file_id.as_deref(), "{point}");
    scene.gone(&task).await;
    let out = tempfile::tempdir().expect("a folder");
    let file = out.path().join("a.mp4");
    std::fs::write(&file, vod.object(&media.key).await).expect("the folder is ours");
    assert_eq!(probe::decode_errors(&file), "", "{point}");
    assert!(packets(&file).iter().all(|packets| *packets > 60), "{point}: {:?}", packets(&file));
    vod.assert_by_the_rules();
}
