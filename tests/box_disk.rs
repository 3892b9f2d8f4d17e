//! The disk: nearly full, full, out of inodes, failing, without power. A real small file system, a real box on it.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use support::daemon::Settings;
use support::probe::Stream;
use support::publisher::Sends;
use support::recorded::{Lane, Recording};
use support::scene::{Scene, until};
use support::small_disk::{SmallDisk, shelved};

const MIB: u64 = 1024 * 1024;

fn on(disk: &SmallDisk, limits: &str) -> impl FnOnce(&mut Settings) {
    let (state, more) = (disk.state_dir(), format!("[disk]\nlow_percent = 0\n{limits}\n"));
    move |settings| {
        settings.state_dir = Some(state);
        settings.more = more;
        settings.segment_seconds = 2;
    }
}

async fn health_says(scene: &Scene, status: &str, why: &str) {
    until(&format!("health to be {status}: {why}"), || async {
        let health = scene.daemon.health().await;
        let reasons = health["reasons"].to_string();
        (health["status"] == status && reasons.contains(why)).then_some(())
    })
    .await;
}

async fn wait_shelved(disk: &SmallDisk, n: usize) -> BTreeMap<PathBuf, Vec<u8>> {
    until(&format!("{n} segments on the shelf"), || async {
        let there = shelved(&disk.state_dir());
        (there.len() >= n).then_some(there)
    })
    .await
}

/// The box no longer lists the task as one that runs.
async fn not_recording(scene: &Scene, task: &str) {
    until("the task not to run any more", || async {
        match scene.sdk.describe(task).await {
            Ok(described) => (described["Status"] == "Exited").then_some(()),
            Err(_) => Some(()),
        }
    })
    .await;
    assert_eq!(scene.daemon.metric("holdfast_lanes").await, 0.0, "nothing pretends to be recording");
}

fn assert_holds(recording: &Recording, shelf: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in shelf {
        let there = recording.objects.values().any(|object| object == bytes);
        assert!(there, "{} did not arrive as it lay on the shelf", path.display());
    }
}

/// New tasks are refused while it is nearly full; when it is full, the running one ends in order; nothing of it is lost,
/// and with room again there are new tasks.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_recordings_end_in_order() {
    let disk = SmallDisk::new(96, &[]);
    let mut scene = Scene::new(on(&disk, "low_bytes = 25165824\nlow_inodes = 0\nreserve_bytes = 8388608")).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    let reserve = disk.state_dir().join("spool/.reserve");
    assert!(reserve.exists());
    scene.s3.as_mut().expect("the scene has one").stop().await;

    disk.fill_but(16 * MIB);
    health_says(&scene, "degraded", "disk: it is nearly full").await;
    let refused = scene.sdk.create("other", "recorder", |_| {}).await.expect_err("there is no room for it");
    assert_eq!(refused.code, "ResourceInsufficient.RequestRejection");
    let shelf = wait_shelved(&disk, 4).await;
    assert_eq!(scene.sdk.describe(&task).await.expect("it runs")["Status"], "InProgress");

    disk.fill_but(0);
    assert_eq!(scene.leave_code(&task).await, 3);
    health_says(&scene, "failed", "disk: it is full").await;
    not_recording(&scene, &task).await;
    assert!(!reserve.exists(), "it is what the task ended on");

    scene.s3.as_mut().expect("the scene has one").start_again().await;
    let recording = scene.uploaded(&task).await;
    recording.lanes.iter().for_each(Lane::assert_sound);
    assert_holds(&recording, &shelf);
    assert_eq!(scene.daemon.metric("holdfast_segments_lost_total").await, 0.0);

    disk.clear();
    until("the box to take a task again", || async { scene.sdk.create("clinic", "recorder", |_| {}).await.ok() }).await;
    health_says(&scene, "ok", "").await;
    assert!(reserve.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inodes_recordings_end_in_order() {
    let disk = SmallDisk::new(64, &["-N", "256"]);
    let scene = Scene::new(on(&disk, "low_bytes = 1048576\nlow_inodes = 80\nreserve_bytes = 1048576")).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    disk.fill_inodes_but(50);
    health_says(&scene, "degraded", "disk: it is nearly full").await;
    let refused = scene.sdk.create("other", "recorder", |_| {}).await.expect_err("there is no room for it");
    assert_eq!(refused.code, "ResourceInsufficient.RequestRejection");
    disk.fill_inodes_but(10);
    assert_eq!(scene.leave_code(&task).await, 3);
    let recording = scene.uploaded(&task).await;
    recording.lanes.iter().for_each(Lane::assert_sound);
    disk.clear();
    until("the box to take a task again", || async { scene.sdk.create("clinic", "recorder", |_| {}).await.ok() }).await;
}

/// By policy the oldest goes, told as lost, and recording goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_is_given_up_where_the_policy_says_so() {
    let disk = SmallDisk::new(96, &[]);
    let limits = "low_bytes = 16777216\nlow_inodes = 0\nreserve_bytes = 8388608\nwhen_full = \"drop_oldest\"";
    let mut scene = Scene::new(on(&disk, limits)).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    scene.s3.as_mut().expect("the scene has one").stop().await;
    let shelf = wait_shelved(&disk, 8).await;
    // a quarter more than the mark is wanted again, which all that waits does not make: everything idle goes
    disk.fill_but(15 * MIB);
    let lost = until("308 for a segment that was given up", || async {
        let told = scene.receiver.of(&task);
        told.into_iter().find(|c| c.event() == 308 && c.payload()["Code"] == "SegmentLost")
    })
    .await;
    assert!(lost.payload()["Message"].to_string().contains("given up to make room"), "{}", lost.body);
    assert!(scene.daemon.metric("holdfast_segments_dropped_total").await >= 1.0);
    assert!(shelf.keys().any(|path| !path.exists()));
    assert_eq!(scene.sdk.describe(&task).await.expect("it runs")["Status"], "InProgress");
    disk.clear();
    health_says(&scene, "degraded", "given up to make room").await;
    scene.s3.as_mut().expect("the scene has one").start_again().await;
    scene.has_segments(&task, "dr-wang", "video", 3).await;
    scene.sdk.delete(&task).await.expect("it runs");
    let end = scene.receiver.event(&task, 305).await;
    assert_eq!(end.payload()["Status"], 1, "something never arrives: {}", end.body);
    let recording = scene.recording(&task).await;
    recording.assert_whole();
    let video = recording.lane("dr-wang", "video");
    assert!(video.playlist.discontinuities() >= 1, "the gap shows: {}", video.playlist.text);
    video.assert_sound();
}

/// EIO: health says so, what runs ends, and the process stays. The disk that comes back has to show that it works.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_ends_recordings_and_may_come_back() {
    let disk = SmallDisk::new(96, &["-O", "^has_journal"]);
    let mut scene = Scene::new(on(&disk, "low_bytes = 1048576\nlow_inodes = 0\nreserve_bytes = 1048576")).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    scene.s3.as_mut().expect("the scene has one").stop().await;
    let shelf = wait_shelved(&disk, 4).await;

    disk.fail();
    health_says(&scene, "failed", "disk: it fails").await;
    not_recording(&scene, &task).await;
    let refused = scene.sdk.create("other", "recorder", |_| {}).await.expect_err("nothing is recorded");
    assert_eq!(refused.code, "InternalError.CRInternalError");

    disk.heal();
    health_says(&scene, "degraded", "works again").await;
    scene.s3.as_mut().expect("the scene has one").start_again().await;
    assert_eq!(scene.leave_code(&task).await, 3);
    scene.receiver.event(&task, 305).await;
    let recording = scene.recording(&task).await;
    recording.assert_whole();
    assert_holds(&recording, &shelf);
    let next = scene.create("clinic").await;
    scene.has_segments(&next, "dr-wang", "video", 1).await;
    scene.finish(&next).await;
}

/// With a journal the file system is over at the first error, until it is checked: nothing that was closed is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_gives_itself_up_keeps_what_was_closed() {
    let disk = SmallDisk::new(96, &[]);
    let mut scene = Scene::new(on(&disk, "low_bytes = 1048576\nlow_inodes = 0\nreserve_bytes = 1048576")).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    scene.s3.as_mut().expect("the scene has one").stop().await;
    let shelf = wait_shelved(&disk, 4).await;
    disk.fail();
    health_says(&scene, "failed", "disk: it fails").await;
    not_recording(&scene, &task).await;
    assert!(scene.daemon.terminate().await.is_some(), "it ends by itself, in its time");
    disk.heal();
    disk.mount_again(true);
    scene.s3.as_mut().expect("the scene has one").start_again().await;
    scene.daemon.start_again().await;
    until("everything that was closed to arrive", || async {
        let recording = scene.recording(&task).await;
        shelf.values().all(|bytes| recording.objects.values().any(|object| object == bytes)).then_some(())
    })
    .await;
}

/// The disk was filled while the box was off: it starts on its reserve, ends in order what it had taken up again, uploads
/// all that waits, and is whole again when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_box_starts_on_a_full_disk() {
    let disk = SmallDisk::new(96, &[]);
    let mut scene = Scene::new(on(&disk, "low_bytes = 25165824\nlow_inodes = 0\nreserve_bytes = 8388608")).await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    scene.s3.as_mut().expect("the scene has one").stop().await;
    let shelf = wait_shelved(&disk, 4).await;
    scene.daemon.kill().await;
    disk.fill_but(0);
    let reserve = disk.state_dir().join("spool/.reserve");
    assert!(reserve.exists());

    scene.daemon.start_again().await;
    health_says(&scene, "failed", "disk: it is full").await;
    assert!(!reserve.exists(), "it is what the box starts on");
    scene.s3.as_mut().expect("the scene has one").start_again().await;
    assert_eq!(scene.leave_code(&task).await, 3);
    let recording = scene.uploaded(&task).await;
    assert_holds(&recording, &shelf);
    assert_eq!(scene.daemon.metric("holdfast_segments_lost_total").await, 0.0);

    disk.clear();
    until("the box to take a task again", || async { scene.sdk.create("clinic", "recorder", |_| {}).await.ok() }).await;
    assert!(reserve.exists());
}

/// Unix ms up to which pictures were written, synced or not. Measured by the files, since a publisher on a busy machine
/// may be far behind the clock.
fn written_until(disk: &SmallDisk) -> i64 {
    let files = support::bucket::local_objects(&disk.state_dir().join("spool"));
    let ends =
        files.iter().filter(|(name, body)| name.contains("_main_video_r") && !body.is_empty()).map(|(name, body)| {
            let copy = tempfile::NamedTempFile::new().expect("a temporary file can be made");
            std::fs::write(copy.path(), body).expect("the file is ours");
            let packets = support::probe::packets(copy.path(), Stream::Video);
            let start_us = name.split("_t").last().and_then(|rest| rest.split('_').next()?.parse::<i64>().ok());
            let span = packets.last().zip(packets.first()).map_or(0.0, |(last, first)| last.pts - first.pts);
            start_us.expect("a local name tells its start") / 1000 + (span * 1000.0) as i64
        });
    ends.max().expect("pictures were written")
}

/// Power loss: what was not synced is gone. What was on the shelf is whole, what was written until `sync_seconds` before
/// is adopted, the index opens as it was, and the task goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_only_the_last_seconds() {
    let disk = SmallDisk::new(128, &[]);
    let change = on(&disk, "low_bytes = 1048576\nlow_inodes = 0\nreserve_bytes = 1048576");
    let mut scene = Scene::new(|settings| {
        change(settings);
        settings.segment_seconds = 5;
    })
    .await;
    let task = scene.create("clinic").await;
    let mut publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    for life in 1..=2 {
        scene.s3.as_mut().expect("the scene has one").stop().await;
        let shelf = wait_shelved(&disk, 3).await;
        // what is told as spooled is safe; the newest may be a moment before it
        let spooled = scene.daemon.metric("holdfast_spool_files").await;
        assert!(spooled >= 2.0, "{spooled} files");
        let slowest_ms = scene.daemon.metric("holdfast_sync_slowest_seconds").await * 1000.0;
        let written_ms = written_until(&disk);
        disk.cut_power();
        scene.daemon.kill().await;
        publisher.vanish().await;
        disk.mount_again(false);
        scene.s3.as_mut().expect("the scene has one").start_again().await;
        scene.daemon.start_again().await;
        assert!(!scene.daemon.log().contains("the index does not open"), "{}", scene.daemon.log());
        scene.receiver.nth(&task, 306, life).await;
        until("everything that was on the shelf to arrive", || async {
            let recording = scene.recording(&task).await;
            shelf.values().all(|bytes| recording.objects.values().any(|object| object == bytes)).then_some(())
        })
        .await;
        let prefix = if life == 1 { String::new() } else { format!("ha{}_", life - 1) };
        let tail = until("the list of the life before to end", || async {
            let recording = scene.recording(&task).await;
            let of_life = |l: &&Lane| l.kind == "video" && l.name.starts_with(&format!("{prefix}{}", support::APP));
            let lane = recording.lanes.iter().find(of_life)?;
            let last = lane.playlist.segments.last()?;
            let end = support::recorded::stamp_ms(&last.name) + (last.seconds * 1000.0) as i64;
            lane.playlist.ended.then_some(end)
        })
        .await;
        let lost_ms = written_ms - tail;
        // a sync that takes seconds keeps the next one waiting as long: the machine's disk is shared here
        let most_ms = 3500 + 3 * slowest_ms as i64;
        assert!(lost_ms <= most_ms, "life {life}: {lost_ms} ms are lost, not up to {most_ms}");
        publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
        scene.receiver.nth(&task, 307, 2 * (life + 1)).await;
    }
    scene.finish(&task).await;
}
