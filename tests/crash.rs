//! The box dies at every step of the order on disk, and at any moment; what it promised is kept.
//!
//! `scripts/torture` runs more of the random ones: TORTURE_KILLS and TORTURE_CUTS deaths, from TORTURE_SEED.

mod support;
mod torture;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Duration;

use holdfast::crash::POINTS;
use serde_json::json;
use support::publisher::Sends;
use support::scene::{Scene, until};
use support::small_disk::{SmallDisk, shelved};
use support::{APP, LATER, halted};
use torture::Life::{Ending, Quiet, Recording};
use torture::after::{
    ERASED, PACKED, PACKED_ALONE, TO_VOD, dies_on_the_way_to_vod, dies_while_it_lets_go, dies_while_it_packs,
    dies_while_vod_is_cleared,
};
use torture::power::Chance;
use torture::{End, PLACES, Plan, World, all, at, logged};

/// Every point in some life of some box, but for those that have tests of their own: [`REFOUND`], [`DISCARDED`], and
/// what follows the end ([`PACKED`], [`PACKED_ALONE`], [`TO_VOD`], [`ERASED`]).
fn walk() -> Vec<Plan> {
    let plans = [
        (
            "create",
            false,
            vec![
                Recording(at("task.folder-made")),
                Recording(at("task.committed")),
                Recording(at("segment.created:3")),
                Quiet(at("takeover.restored")),
            ],
        ),
        (
            "create again",
            false,
            vec![
                Recording(at("task.folder-synced")),
                Recording(at("task.described")),
                Recording(at("shelf.recorded:3")),
                Quiet(at("takeover.told")),
                Ending(at("forget.committed")),
            ],
        ),
        (
            "segments",
            false,
            vec![
                Recording(at("segment.synced:4")),
                Quiet(at("recover.planned")),
                Quiet(at("recover.trimmed")),
                Recording(at("segment.closed:4")),
                Ending(at("forget.undescribed")),
            ],
        ),
        (
            "shelf",
            false,
            vec![
                Recording(at("shelf.synced:3")),
                Recording(at("shelf.renamed:3")),
                Quiet(at("takeover.settled")),
                Ending(at("forget.emptied")),
            ],
        ),
        (
            "shelf, mixed",
            true,
            vec![Recording(at("shelf.folder-synced:2")), Recording(at("shelf.told:2")), Ending(at("forget.removed"))],
        ),
        (
            "lists",
            false,
            vec![
                Recording(at("playlist.written:2")),
                Recording(at("playlist.synced:3")),
                Ending(at("forget.forgotten")),
            ],
        ),
        (
            "lists, mixed",
            true,
            vec![Recording(at("playlist.renamed:2")), Recording(at("segment.closed:2")), Ending(at("webhook.sent:3"))],
        ),
        (
            "folders",
            false,
            vec![Recording(at("folder.written:4")), Recording(at("folder.synced:4")), Ending(at("folder.renamed:2"))],
        ),
        (
            "uploads",
            false,
            vec![Recording(at("upload.put:3")), Recording(at("upload.confirmed:4")), Ending(at("journal.written:3"))],
        ),
        (
            "uploads, mixed",
            true,
            vec![
                Recording(at("journal.synced:2")),
                Recording(at("upload.recorded:3")),
                Ending(at("upload.unlinked:3")),
            ],
        ),
        (
            "rooms",
            false,
            vec![Recording(at("rooms.decided:12")), Recording(at("rooms.committed:12")), Ending(at("rooms.acted:8"))],
        ),
        (
            "index",
            false,
            vec![
                Recording(at("index.applied:20")),
                Recording(at("index.flushed:25")),
                Quiet(at("takeover.saved")),
                Ending(at("index.synced:12")),
            ],
        ),
        (
            "news",
            false,
            vec![
                Recording(at("webhook.forgotten:3")),
                Quiet(at("index.synced:1")),
                Recording(at("webhook.sent:2")),
                Ending(at("playlist.replaced")),
            ],
        ),
    ];
    let plan = |(name, mixed, lives): (&str, bool, Vec<torture::Life>)| Plan {
        name: name.to_owned(),
        mixed,
        lives,
        ..Plan::default()
    };
    let mut plans: Vec<Plan> = plans.into_iter().map(plan).collect();
    let in_parts = ["parts.begun", "parts.recorded", "parts.put", "parts.counted", "parts.completed"];
    let lives = [Recording(at("segment.synced:4"))].into_iter().chain(in_parts.map(|point| Quiet(at(point))));
    plans.push(Plan { name: "parts".into(), large: true, lives: lives.collect(), ..Plan::default() });
    plans
}

/// The names of the points at which the plans die.
fn points(plans: &[Plan]) -> BTreeSet<String> {
    let lives = plans.iter().flat_map(|plan| &plan.lives);
    let ends = lives.filter_map(|life| match life {
        Recording(End::At(point)) | Quiet(End::At(point)) | Ending(End::At(point)) => Some(point),
        _ => None,
    });
    ends.map(|point| point.split(':').next().unwrap_or(point).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_point_it_loses_nothing() {
    if !cfg!(debug_assertions) {
        panic!("a release build has no points to die at: test a debug build");
    }
    let plans = walk();
    let mut walked = points(&plans);
    let apart = REFOUND.into_iter().chain(DISCARDED).chain(PACKED).chain(PACKED_ALONE).chain(TO_VOD).chain(ERASED);
    walked.extend(apart.map(str::to_owned));
    let table: BTreeSet<String> = POINTS.iter().map(|point| (*point).to_owned()).collect();
    assert_eq!(walked, table, "a point that nobody dies at, or one that is no point");
    // to look at one of them again
    let only = std::env::var("TORTURE_ONLY").unwrap_or_default();
    let plans = plans.into_iter().filter(|plan| plan.name.contains(&only)).collect();
    all(World::new().await, plans).await;
}

/// The disk fails, and is well again: the index is written anew, and the box dies while it does so.
const REFOUND: [&str; 3] = ["refound.written", "refound.removed", "refound.renamed"];

async fn dies_with_half_an_index(point: &str) {
    let _place = PLACES.acquire().await.expect("nobody closes it");
    // without a journal of its own, which would give the file system up at the first error
    let disk = SmallDisk::new(96, &["-O", "^has_journal"]);
    let mut scene = Scene::new(|settings| {
        settings.state_dir = Some(disk.state_dir());
        settings.segment_seconds = 2;
        settings.crash = Some(point.to_owned());
        settings.more =
            "[disk]\nlow_percent = 0\nlow_bytes = 1048576\nlow_inodes = 0\nreserve_bytes = 1048576\n".into();
    })
    .await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    scene.s3.as_mut().expect("the scene has one").stop().await;
    let shelf = until("two segments on the shelf", || async {
        let there = shelved(&disk.state_dir());
        (there.len() >= 2).then_some(there)
    })
    .await;
    disk.fail();
    logged(&scene.daemon, "the index does not take a commit").await;
    disk.heal();
    let died = tokio::time::timeout(LATER, halted(scene.daemon.id())).await;
    assert!(died.is_ok(), "the point {point} was not passed");

    scene.daemon.kill().await;
    scene.daemon.settings.crash = None;
    scene.s3.as_mut().expect("the scene has one").start_again().await;
    scene.daemon.start_again().await;
    let log = scene.daemon.log();
    assert!(!log.contains("the index does not open"), "{log}");
    assert!(!disk.state_dir().join("index.new").exists(), "there is one index");
    // the task may have ended with its disk, or goes on
    let _ = scene.sdk.delete(&task).await;
    scene.receiver.event(&task, 302).await;
    until("everything that was closed to arrive", || async {
        let objects = scene.objects(&task).await;
        shelf.values().all(|bytes| objects.values().any(|object| object == bytes)).then_some(())
    })
    .await;
    scene.receiver.event(&task, 305).await;
    scene.gone(&task).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_its_index_is_written_anew_it_has_one_index() {
    let [a, b, c] = REFOUND.map(|point| tokio::spawn(dies_with_half_an_index(point)));
    let (a, b, c) = tokio::join!(a, b, c);
    assert!(a.is_ok() && b.is_ok() && c.is_ok(), "see above");
}

/// What was recorded is to go, and the box dies while it goes.
const DISCARDED: [&str; 6] =
    ["discard.emptied", "discard.cleared", "discard.noted", "discard.counted", "discard.removed", "discard.erased"];

async fn dies_while_it_discards(point: &str) {
    let _place = PLACES.acquire().await.expect("nobody closes it");
    let mut scene = Scene::new(|settings| {
        settings.segment_seconds = 2;
        settings.crash = Some(point.to_owned());
    })
    .await;
    let task = scene.create("clinic").await;
    let _publisher = scene.publish("clinic", "dr-wang", Sends::default()).await;
    scene.has_segments(&task, "dr-wang", "video", 1).await;
    let order = json!({ "SdkAppId": APP, "TaskId": task, "Discard": true });
    // it may die while it answers
    let _ = scene.sdk.call_json("DeleteCloudRecording", order).await;
    let died = tokio::time::timeout(LATER, halted(scene.daemon.id())).await;
    assert!(died.is_ok(), "the point {point} was not passed");

    scene.daemon.kill().await;
    scene.daemon.settings.crash = None;
    scene.daemon.start_again().await;
    let left = scene.receiver.event(&task, 302).await;
    assert!(left.payload()["Discard"]["Objects"].as_u64() >= Some(1), "{point}: {}", left.body);
    let gone = scene.receiver.event(&task, 305).await;
    assert_eq!(gone.payload()["Status"], 3, "{point}: {}", gone.body);
    assert!(gone.payload()["Discard"]["Objects"].as_u64() >= Some(1), "{point}: {}", gone.body);
    assert_eq!(scene.objects(&task).await.len(), 0, "{point}");
    scene.gone(&task).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_recording_is_discarded_nothing_of_it_stays() {
    let dying: Vec<_> = DISCARDED.iter().map(|point| tokio::spawn(dies_while_it_discards(point))).collect();
    for (point, dies) in DISCARDED.iter().zip(dying) {
        assert!(dies.await.is_ok(), "{point}: see above");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_packs_every_packet_is_in_the_file_once() {
    let beside = PACKED.iter().map(|point| (point, tokio::spawn(dies_while_it_packs(point))));
    let alone = PACKED_ALONE.iter().map(|point| (point, tokio::spawn(dies_while_it_lets_go(point))));
    for (point, dies) in beside.chain(alone).collect::<Vec<_>>() {
        assert!(dies.await.is_ok(), "{point}: see above");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_on_the_way_to_vod_a_file_is_committed_once() {
    let dying: Vec<_> = TO_VOD.iter().map(|point| tokio::spawn(dies_on_the_way_to_vod(point))).collect();
    for (point, dies) in TO_VOD.iter().zip(dying) {
        assert!(dies.await.is_ok(), "{point}: see above");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_vod_is_cleared_nothing_stays_there() {
    let dying: Vec<_> = ERASED.iter().map(|point| tokio::spawn(dies_while_vod_is_cleared(point))).collect();
    for (point, dies) in ERASED.iter().zip(dying) {
        assert!(dies.await.is_ok(), "{point}: see above");
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}: '{text}' is no number")),
        Err(_) => otherwise,
    }
}

/// Three deaths a box: two while it records, one of them perhaps in its start, and one around the end.
fn random(name: &str, deaths: u64, seed: u64, power: bool) -> Vec<Plan> {
    let plan = |n: u64| {
        let seed = seed.wrapping_add(n);
        let mut chance = Chance::new(seed);
        let mut after = |low, high| End::After(Duration::from_millis(chance.between(low, high)));
        let lives = vec![Recording(after(1500, 7000)), Recording(after(20, 6000)), Ending(after(1500, 8000))];
        let mixed = chance.between(0, 3) == 0;
        Plan { name: format!("{name} {n}"), mixed, lives, power, seed, ..Plan::default() }
    };
    (0..deaths.div_ceil(3)).map(plan).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_loses_nothing() {
    let (deaths, seed) = (number("TORTURE_KILLS", 9), number("TORTURE_SEED", 20_261_126));
    println!("{deaths} kills, seed {seed}");
    all(World::new().await, random("kill", deaths, seed, false)).await;
}

/// With each death the disk loses what was not synced, and what was being written is torn.
#[tokio::test(flavor = "multi_thread")]
async fn without_power_at_any_moment_it_loses_what_it_may() {
    let (cuts, seed) = (number("TORTURE_CUTS", 3), number("TORTURE_SEED", 20_261_126));
    println!("{cuts} power cuts, seed {seed}");
    all(World::new().await, random("cut", cuts, seed, true)).await;
}

/// Where a missing sync would be seen. TORTURE_POWER_WALK=1: at every point.
#[tokio::test(flavor = "multi_thread")]
async fn without_power_at_the_points_of_the_order_it_loses_what_it_may() {
    let mut plans = match number("TORTURE_POWER_WALK", 0) {
        0 => {
            let lives = vec![
                Recording(at("shelf.renamed:3")),
                Recording(at("segment.synced:5")),
                Ending(at("upload.recorded:3")),
            ];
            let mixed =
                vec![Recording(at("folder.renamed:4")), Recording(at("shelf.told:2")), Ending(at("webhook.sent:3"))];
            vec![
                Plan { name: "points".into(), lives, ..Plan::default() },
                Plan { name: "points, mixed".into(), mixed: true, lives: mixed, ..Plan::default() },
            ]
        }
        _ => walk().into_iter().filter(|plan| !plan.large).collect(),
    };
    plans.iter_mut().for_each(|plan| {
        plan.power = true;
        plan.name.insert_str(0, "without power: ");
    });
    all(World::new().await, plans).await;
}

/// The harness itself: a cut takes what was not synced, and nothing else.
#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let disk = SmallDisk::new(64, &[]);
    let (synced, grown, written) = (disk.path().join("synced"), disk.path().join("grown"), disk.path().join("written"));
    let body = vec![7; 100_000];
    for path in [&synced, &grown] {
        std::fs::write(path, &body).expect("the disk has room");
        File::open(path).and_then(|file| file.sync_all()).expect("it syncs");
    }
    File::open(disk.path()).and_then(|dir| dir.sync_all()).expect("a folder syncs");
    std::fs::write(&written, &body).expect("the disk has room");
    OpenOptions::new().append(true).open(&grown).and_then(|mut file| file.write_all(&body)).expect("it grows");
    assert_eq!(std::fs::read(&written).expect("it is there, in memory"), body);
    disk.cut_power();
    disk.mount_again(false);
    assert_eq!(std::fs::read(&synced).expect("what was synced is there"), body);
    assert_eq!(std::fs::read(&grown).expect("its name was synced"), body, "what was added is gone");
    let left = std::fs::read(&written).unwrap_or_default();
    assert!(left.is_empty(), "{} bytes that were never synced are there", left.len());
}
