//! The actor and what must not be kept, or is kept without being asked: pause, discard, automatic recording.

mod life;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use holdfast::config::Config;
use holdfast::media::{LaneEnd, LeaveReason, MediaNews};
use holdfast::model::event::EventBody;
use holdfast::model::output::Output;
use holdfast::model::recording::RecordingSpec;
use holdfast::model::task::RecordingTask;
use holdfast::model::{RoomId, SdkAppId, SessionId, TaskId, TrackKind};
use holdfast::rooms::Error;
use holdfast::store::{Batch, records};

use life::*;

/// Nothing of a discarded task is on the box any more: its destination is to be rid of it.
async fn cleared(life: &Life, task: &TaskId) {
    let noted = async {
        while life.store.get(records::erase_key(task)).await.unwrap().is_none() {
            life.spool.wait_erase().await;
        }
    };
    tokio::time::timeout(LIMIT, noted).await.expect("the destination is to be rid of it");
}

/// Pause tells the lanes at once, and the resume begins them anew where it was asked; Describe says so, over a restart.
#[tokio::test]
async fn a_pause_is_told_to_the_lanes_and_outlasts_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let app = SdkAppId(1_400_000_001);
    let mut life = Life::begin(dir.path(), Config::default()).await;
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let task = create(&life, spec()).await.unwrap();
    let order = life.started().await;
    life.write_segment(&order, 0).await;
    assert_eq!(life.rooms.pause(SdkAppId(7), task.clone()).await, Err(Error::TaskUnknown));
    for _ in 0..2 {
        life.rooms.pause(app, task.clone()).await.unwrap();
    }
    let Asked::Pause(run, until) = life.next_asked().await else { panic!("the lane is paused") };
    assert_eq!(run, order.run);
    assert!(life.rooms.describe(app, task.clone()).await.unwrap().paused);
    // another person comes while it is paused: nobody is recorded
    life.enter(2, "bob", &[TrackKind::Audio]).await;
    life.write_segment(&order, 1).await;
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    for _ in 0..2 {
        life.rooms.resume(app, task.clone()).await.unwrap();
    }
    let (first, second) = (life.started().await, life.started().await);
    assert!(first.run.run > order.run.run && second.run.run > first.run.run, "two lanes begin, and none before");
    assert!(first.from > until && second.from == first.from && first.base == order.base);
    assert!(!life.rooms.describe(app, task.clone()).await.unwrap().paused);
    life.rooms.pause(app, task.clone()).await.unwrap();
    life.crash().await;

    let mut life = Life::begin(dir.path(), Config::default()).await;
    assert!(life.rooms.describe(app, task.clone()).await.unwrap().paused, "it is paused after a crash");
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    life.rooms.resume(app, task.clone()).await.unwrap();
    let again = life.started().await;
    life.rooms.pause(app, task.clone()).await.unwrap();
    assert!(matches!(life.next_asked().await, Asked::Pause(run, _) if run == again.run));
    life.rooms.delete(app, task.clone()).await.unwrap();
    life.tell(MediaNews::LaneEnded { run: again.run, end: LaneEnd::Finished }).await;
    life.carry_until(&mut BTreeMap::new(), stopped).await;
    assert_eq!(life.rooms.pause(app, task.clone()).await, Err(Error::TaskUnknown), "an ended task cannot pause");
    assert_eq!(life.rooms.resume(app, task).await, Err(Error::TaskUnknown));
    life.end().await;
}

/// Lanes are killed, the shelf is emptied, the destination is asked to be rid of it, over a crash; then it is told.
#[tokio::test]
async fn a_discarded_task_leaves_the_shelf_and_waits_for_its_destination() {
    let dir = tempfile::tempdir().unwrap();
    let app = SdkAppId(1_400_000_001);
    let mut life = Life::begin(dir.path(), Config::default()).await;
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let task = create(&life, spec()).await.unwrap();
    let order = life.started().await;
    life.write_segment(&order, 0).await;
    life.write_segment(&order, 1).await;
    let uploaded = |events: &[EventBody]| events.iter().any(|e| matches!(e, EventBody::FileInfo { .. }));
    life.carry_until(&mut BTreeMap::new(), uploaded).await;
    life.write_segment(&order, 2).await;
    while life.spool.pending(&task).segments == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(life.rooms.discard(SdkAppId(7), task.clone(), "AKID".into()).await, Err(Error::TaskUnknown));
    for _ in 0..2 {
        life.rooms.discard(app, task.clone(), "AKID".into()).await.unwrap();
    }
    let Asked::Kill(run) = life.next_asked().await else { panic!("the lane is killed") };
    assert!(life.spool.lease(8).await.unwrap().is_none(), "nothing of it is carried any more");
    // a dying lane closes its file
    life.write_segment(&order, 3).await;
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Killed }).await;
    cleared(&life, &task).await;
    let folder = dir.path().join("spool").join(task.as_str());
    let left = |folder: &Path| {
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        files.filter(|name| !name.contains(".json") && !name.ends_with(".txt")).collect::<Vec<_>>()
    };
    assert_eq!(left(&folder), Vec::<String>::new());
    assert_eq!(life.rooms.describe(app, task.clone()).await, Err(Error::TaskUnknown));
    let key = records::erase_key(&task);
    let record = life.store.get(&key).await.unwrap().expect("it is to be erased");
    let entry = records::EraseEntry::from_bytes(&key, &record).unwrap();
    // as an index has it that has gone back to before a task was erased and forgotten
    let old = records::EraseEntry { task: TaskId::parse("forgotten").unwrap(), ..entry.clone() };
    life.store.commit(Batch::new().put(old.key(), old.to_bytes())).await.unwrap();
    life.crash().await;

    let life = Life::begin(dir.path(), Config::default()).await;
    assert_eq!(life.store.get(&key).await.unwrap(), Some(record), "it is still to be erased");
    assert_eq!(life.store.get(old.key()).await.unwrap(), None, "and what nobody knows is not");
    assert_eq!((entry.prefix.as_str(), entry.names.len()), (format!("p1/p2/{task}/").as_str(), 1));
    let fate = holdfast::model::fate::Fate::Erased { objects: 3, bytes: 4000, uploads: 1, media: Vec::new() };
    life.fates.send((task.clone(), fate)).await.unwrap();
    let gone = async {
        while !life.events().await.iter().any(|e| matches!(e, EventBody::Erased { .. })) {
            life.outbox.notified().await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("305");
    let events = life.events().await;
    let types: Vec<u32> = events.iter().map(EventBody::event_type).collect();
    assert_eq!(types, [301, 303, 307, 304, 302, 305]);
    let receipts: Vec<_> = events.iter().filter_map(EventBody::receipt).collect();
    // a version of the list may have waited beside the two segments
    assert!(receipts[0].by == "AKID" && receipts[0].files >= 2 && receipts[0].bytes >= 2 * 1880, "{receipts:?}");
    // a segment at least and a list had gone up
    assert!(receipts[0].objects >= 2 && receipts[0].object_bytes.is_none(), "{receipts:?}");
    let last = receipts[1];
    assert_eq!((last.files, last.objects, last.object_bytes, last.uploads), (receipts[0].files, 3, Some(4000), 1));
    life.deliver().await;
    while folder.exists() || life.store.get(&key).await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(life.rooms.discard(app, task, "AKID".into()).await, Err(Error::TaskUnknown));
    life.end().await;
}

/// The disk may refuse to let go of it for as long as it likes: the box stops, and the next life goes on with it.
#[tokio::test]
async fn a_discard_that_the_disk_holds_up_does_not_hold_up_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let app = SdkAppId(1_400_000_001);
    let mut life = Life::begin(dir.path(), Config::default()).await;
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let task = create(&life, spec()).await.unwrap();
    let order = life.started().await;
    life.write_segment(&order, 0).await;
    let stuck = dir.path().join("spool").join(task.as_str()).join("stuck");
    std::fs::create_dir(&stuck).unwrap();
    life.rooms.discard(app, task.clone(), "AKID".into()).await.unwrap();
    let Asked::Kill(run) = life.next_asked().await else { panic!("the lane is killed") };
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Killed }).await;
    life.end().await;

    std::fs::remove_dir(&stuck).unwrap();
    let life = Life::begin(dir.path(), Config::default()).await;
    cleared(&life, &task).await;
    life.end().await;
}

/// Segments that are held for packing go like all others, whether the destination has them or not.
#[tokio::test]
async fn what_is_held_for_packing_is_discarded_too() {
    for output in [Output::HlsMp4, Output::Mp4] {
        let dir = tempfile::tempdir().unwrap();
        let app = SdkAppId(1_400_000_001);
        let mut life = Life::begin(dir.path(), Config::default()).await;
        life.enter(1, "alice", &[TrackKind::Audio]).await;
        let task = create(&life, RecordingSpec { output, ..spec() }).await.unwrap();
        let order = life.started().await;
        life.write_segment(&order, 0).await;
        life.write_segment(&order, 1).await;
        if output.hls() {
            let uploaded = |events: &[EventBody]| events.iter().any(|e| matches!(e, EventBody::FileInfo { .. }));
            life.carry_until(&mut BTreeMap::new(), uploaded).await;
        }
        let folder = dir.path().join("spool").join(task.as_str());
        let media = |ending: &str| {
            let files = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
            files.filter(|name| name.ends_with(ending)).count()
        };
        let held = if output.hls() { ".ts.kept" } else { ".ts" };
        let shelved = async {
            while media(held) == 0 || media(".part") > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, shelved).await.expect("it is held");
        life.rooms.discard(app, task.clone(), "AKID".into()).await.unwrap();
        let Asked::Kill(run) = life.next_asked().await else { panic!("the lane is killed") };
        life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Killed }).await;
        cleared(&life, &task).await;
        assert_eq!((media(".ts"), media(".kept"), media(".plan")), (0, 0, 0));
        let events = life.events().await;
        let receipt = events.iter().find_map(EventBody::receipt).expect("302");
        assert!(receipt.files >= 2 && receipt.bytes >= 2 * 1880, "{receipt:?}");
        life.end().await;
    }
}

/// A task that has left but whose files have not arrived is discarded, too.
#[tokio::test]
async fn a_task_that_has_ended_and_is_still_here_can_be_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let app = SdkAppId(1_400_000_001);
    let mut life = Life::begin(dir.path(), Config::default()).await;
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    let task = create(&life, spec()).await.unwrap();
    let order = life.started().await;
    life.write_segment(&order, 0).await;
    life.rooms.delete(app, task.clone()).await.unwrap();
    let Asked::Finish(run) = life.next_asked().await else { panic!("the lane is finished") };
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    let left = async {
        while !life.events().await.iter().any(|e| e.event_type() == 302) {
            life.outbox.notified().await;
        }
    };
    tokio::time::timeout(LIMIT, left).await.expect("302");
    assert_eq!(life.rooms.delete(app, task.clone()).await, Err(Error::TaskUnknown));
    life.rooms.discard(app, task.clone(), "AKID".into()).await.unwrap();
    let asked = async {
        while life.store.get(records::erase_key(&task)).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked).await.expect("its destination is to be rid of it");
    assert!(life.spool.pending(&task).is_empty());
    let fate = holdfast::model::fate::Fate::Erased { objects: 0, bytes: 0, uploads: 0, media: Vec::new() };
    life.fates.send((task.clone(), fate)).await.unwrap();
    let gone = async {
        while !life.events().await.iter().any(|e| matches!(e, EventBody::Erased { .. })) {
            life.outbox.notified().await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("305");
    let types: Vec<u32> = life.events().await.iter().map(EventBody::event_type).collect();
    assert_eq!(types, [301, 303, 307, 302, 305], "302 is told once");
    life.end().await;
}

fn automatic(rooms: &[&str]) -> Config {
    let mut config = Config::default();
    config.automatic.enabled = true;
    config.automatic.rooms = rooms.iter().map(|room| (*room).to_owned()).collect();
    config.automatic.bucket = "auto".into();
    config.automatic.resume_seconds = 86_400;
    config
}

/// Tasks of the index, with their recorders.
async fn tasks_of(life: &Life) -> Vec<RecordingTask> {
    let all = life.store.scan(records::TASKS).await.unwrap();
    all.iter().map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect()
}

/// The room is recorded as soon as somebody publishes, once, whatever happens; calls reach it by its id.
#[tokio::test]
async fn a_room_is_recorded_of_itself_and_never_twice() {
    let dir = tempfile::tempdir().unwrap();
    let app = SdkAppId(1_400_000_001);
    let mut life = Life::begin(dir.path(), automatic(&["123*"])).await;
    life.enter(1, "alice", &[]).await;
    assert!(tasks_of(&life).await.is_empty(), "nobody publishes yet");
    life.enter(1, "alice", &[TrackKind::Audio, TrackKind::Video]).await;
    assert!(matches!(life.next_asked().await, Asked::CloseSession(SessionId(1))));
    let (first, _) = (life.started().await, life.started().await);
    let tasks = tasks_of(&life).await;
    assert_eq!(tasks.len(), 1);
    let task = tasks[0].id.clone();
    assert_eq!((tasks[0].spec.destination.bucket.as_str(), tasks[0].spec.room_key()), ("auto", room()));
    life.rooms.pause(app, task.clone()).await.unwrap();
    assert!(life.rooms.describe(app, task.clone()).await.unwrap().paused);
    life.rooms.resume(app, task.clone()).await.unwrap();
    // all leave and come back within the wait
    life.tell(MediaNews::Left { session: SessionId(1), reason: LeaveReason::Left }).await;
    life.enter(2, "alice", &[TrackKind::Audio]).await;
    let _ = first;
    assert_eq!(tasks_of(&life).await.len(), 1);
    life.crash().await;

    let life = Life::begin(dir.path(), automatic(&["*"])).await;
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    life.rooms.describe(app, task.clone()).await.expect("it goes on after a crash");
    assert_eq!(tasks_of(&life).await.len(), 1, "and no other one beside it");
    life.rooms.delete(app, task.clone()).await.unwrap();
    life.enter(2, "bob", &[TrackKind::Audio]).await;
    let active = tasks_of(&life).await.into_iter().filter(|t| t.phase == holdfast::model::task::Phase::Active);
    assert_eq!(active.count(), 0, "what was ended by a call is not begun again while the room lasts");
    life.end().await;
}

/// Only rooms that come to be while it is on; switching it off ends nothing that runs.
#[tokio::test]
async fn automatic_recording_is_switched_on_and_off_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), Config::default()).await;
    life.enter(1, "alice", &[]).await;
    let template = automatic(&["*"]).automatic.template();
    life.rooms.set_template(template.clone()).await.unwrap();
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    assert!(tasks_of(&life).await.is_empty(), "the room was there before");
    life.tell(MediaNews::Left { session: SessionId(1), reason: LeaveReason::Left }).await;
    assert!(matches!(life.next_asked().await, Asked::CloseSession(SessionId(1))));
    life.enter(2, "bob", &[TrackKind::Audio]).await;
    life.started().await;
    assert_eq!(tasks_of(&life).await.len(), 1);
    life.rooms.set_template(None).await.unwrap();
    let task = tasks_of(&life).await.remove(0);
    assert_eq!(task.phase, holdfast::model::task::Phase::Active, "what runs goes on");
    life.end().await;
}

/// A room that cannot be recorded is tried again, and health says so meanwhile.
#[tokio::test]
async fn a_room_that_cannot_be_recorded_yet_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = automatic(&["*"]);
    config.limits.tasks = 1;
    let mut life = Life::begin(dir.path(), config).await;
    let other = RecordingSpec { room: RoomId::Text("elsewhere".into()), ..spec() };
    let asked = create(&life, other).await.unwrap();
    life.enter(1, "alice", &[TrackKind::Audio]).await;
    assert_eq!(tasks_of(&life).await.len(), 1, "the limit of tasks holds for it, too");
    life.rooms.delete(SdkAppId(1_400_000_001), asked).await.unwrap();
    let order = life.started().await;
    assert_eq!(order.run.lane.user_id(), "alice");
    life.end().await;
}
