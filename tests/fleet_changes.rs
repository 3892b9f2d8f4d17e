//! What operators change while media flies, over a real broker: sources that come and go by command, and a storage that
//! becomes another one in the middle of its uploads.

mod support;

#[path = "support/broker.rs"]
mod broker;
#[path = "support/proxy.rs"]
mod proxy;

use broker::{Broker, Entry};
use proxy::{Mode, Proxy};
use serde_json::{Value, json};
use support::APP;
use support::bucket::{Kind, S3};
use support::camera::{Camera, Films};
use support::publisher::Sends;
use support::recorded::{PREFIX, Recording};
use support::scene::{Scene, until};

const BOX: &str = "b-1";
const PASSWORD: &str = "hush-tr0ub4dor";

async fn on_the_line(broker: &Broker) {
    broker.report(BOX, "the first report", |told| told["in_force"] == Value::Null).await;
}

/// A camera is put into a room by command, is recorded like everybody else, and is taken out again; it lasts until the next
/// start. Its password, which stands in its address, is told nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_comes_by_command_is_recorded_and_goes_by_command() {
    let broker = Broker::start(Entry::Certificates).await;
    let films = Films { video: "h264", audio: "aac", colour: "30a050", login: Some(("viewer", PASSWORD)) };
    let camera = Camera::start(films).await;
    let url = camera.url().replace("rtsp://", &format!("rtsp://viewer:{PASSWORD}@"));
    let more = broker.fleet(BOX, "");
    let mut scene = Scene::local(|settings| {
        settings.segment_seconds = 2;
        settings.more = more;
    })
    .await;
    on_the_line(&broker).await;
    let door = json!({
        "name": "door", "kind": "rtsp", "sdk_app_id": APP, "room": "ward", "user": "door", "url": url, "transport": "tcp",
    });
    let with = |field: &str, value: Value| {
        let mut door = door.clone();
        door[field] = value;
        door
    };
    for (n, (args, why)) in [
        (json!({}), "name"),
        (with("kind", "film".into()), "kind: is not what is expected: one of `rtsp`"),
        (with("colour", 7.into()), "colour: unknown field `colour`"),
        (with("grace_seconds", PASSWORD.into()), "grace_seconds: is not what is expected: u64"),
        (with("sdk_app_id", 5.into()), "sdk_app_id is no application of the box"),
        (with("url", Value::Null), "url is missing"),
        (with("device", "x".into()), "device is not for kind rtsp"),
    ]
    .into_iter()
    .enumerate()
    {
        let (code, told) = broker.refused(BOX, &format!("bad-{n}"), "add_source", args).await;
        assert!(code == "bad_request" && told.contains(why), "{code}: {told}, not {why}");
    }

    let task = scene.create("ward").await;
    assert_eq!(broker.done(BOX, "add-1", "add_source", door.clone()).await, json!({"name": "door"}));
    for kind in ["video", "audio"] {
        scene.has_segments(&task, "door", kind, 2).await;
    }
    let (_, told) = broker.refused(BOX, "add-2", "add_source", door.clone()).await;
    assert_eq!(told, "a source has this name already");
    let (_, told) = broker.refused(BOX, "add-3", "add_source", with("name", "gate".into())).await;
    assert_eq!(told, "a source is in the room as this user already");
    broker.done(BOX, "remove-1", "remove_source", json!({"name": "door"})).await;
    let (_, told) = broker.refused(BOX, "remove-2", "remove_source", json!({"name": "door"})).await;
    assert_eq!(told, "no source has this name");
    // the room is empty: the recording waits for the next one, and ends when nobody comes
    assert_eq!(scene.leave_code(&task).await, 99);
    let recording = scene.uploaded(&task).await;
    assert_eq!(recording.lanes.len(), 2, "{:?}", recording.objects.keys());
    for kind in ["video", "audio"] {
        recording.lane("door", kind).assert_sound();
    }

    // it lasts until the next start
    broker.done(BOX, "add-4", "add_source", door).await;
    assert_eq!(scene.daemon.terminate().await, Some(0));
    scene.daemon.start_again().await;
    let (_, told) = broker.refused(BOX, "remove-3", "remove_source", json!({"name": "door"})).await;
    assert_eq!(told, "no source has this name");
    broker.assert_told_nothing_of(&[PASSWORD]);
    assert!(!scene.daemon.log().contains(PASSWORD), "the password is in the log");
}

/// The storage takes nothing more in the middle of a recording, and operators give the box another one: what is there
/// stays there, what was under way and all that follows goes to the new one, and nothing is lost in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_becomes_another_one_in_the_middle_of_uploads_loses_nothing() {
    let broker = Broker::start(Entry::Certificates).await;
    let (old, new) = (S3::start(Kind::S3sFs).await, S3::start(Kind::S3sFs).await);
    let line = Proxy::to(&old.endpoint, Mode::Pass).await;
    let more = broker.fleet(BOX, "");
    let scene = Scene::with(Some(old), |settings| {
        settings.s3_endpoint = Some(line.endpoint.clone());
        settings.segment_seconds = 2;
        settings.more_upload = "timeout_seconds = 5".into();
        settings.more = more;
    })
    .await;
    on_the_line(&broker).await;
    let task = scene.create("ward").await;
    let mut anna = scene.publish("ward", "anna", Sends::default()).await;
    for kind in ["video", "audio"] {
        scene.has_segments(&task, "anna", kind, 2).await;
    }
    let calls = line.connections();
    line.set(Mode::Stall);
    until("uploads that hang", || async { (line.connections() > calls + 1).then_some(()) }).await;
    broker.desire(BOX, 1, json!({"storage": {"s3_endpoint": new.endpoint}}));
    let told = broker.report(BOX, "version 1", |told| told["in_force"] == 1).await;
    assert_eq!((&told["accepted"], &told["pending_restart"]), (&json!(true), &json!([])));
    let folder = format!("{PREFIX}/{task}/");
    until("files at the new storage", || async { (new.keys(&folder).await.len() >= 3).then_some(()) }).await;
    anna.leave().await;
    scene.sdk.delete(&task).await.expect("it runs");
    let arrived = |all: &[support::receiver::Callback]| {
        let mut ends = all.iter().filter(|c| c.task() == task && c.event() == 305);
        ends.any(|c| c.payload()["Status"] == 0 || c.payload()["Status"] == 2).then_some(())
    };
    scene.receiver.wait_for("305 with everything uploaded", arrived).await;

    let (at_old, at_new) = (scene.objects(&task).await, new.objects(&folder).await);
    let lists = |objects: &std::collections::BTreeMap<String, Vec<u8>>| {
        objects.keys().filter(|key| key.ends_with(".m3u8")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(lists(&at_new).len(), 2, "the last lists are where the files went last");
    assert_eq!(lists(&at_old), lists(&at_new), "those that were there stay");
    let mut both = at_old.clone();
    both.extend(at_new.clone());
    let recording = Recording::of(&both, &task);
    recording.assert_whole();
    for kind in ["video", "audio"] {
        let lane = recording.lane("anna", kind);
        lane.assert_sound();
        assert_eq!(lane.playlist.discontinuities(), 0, "{}", lane.playlist.text);
        let here = |objects: &std::collections::BTreeMap<String, Vec<u8>>, name: &str| {
            objects.keys().any(|key| key.ends_with(name))
        };
        let first = lane.playlist.segments.first().expect("there are some");
        let last = lane.playlist.segments.last().expect("there are some");
        assert!(here(&at_old, &first.name) && here(&at_new, &last.name) && !here(&at_old, &last.name));
    }
}
