//! The actor over lives between which its index is damaged: what the tasks' folders tell is enough to go on.

mod life;
#[path = "memory/starts.rs"]
mod starts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use holdfast::config::Config;
use holdfast::media::{LaneEnd, LaneOrder, MediaNews};
use holdfast::model::event::{Event, EventBody};
use holdfast::model::fate::Fate;
use holdfast::model::playlist::Playlist;
use holdfast::model::recording::RecordingSpec;
use holdfast::model::segment::{ClosedSegment, LocalName};
use holdfast::model::{Codec, MediaId, RoomId, SessionId, TaskId, Timestamp, TrackId, TrackKind, UserId};
use holdfast::rooms::{Error, TaskStatus};
use holdfast::store::Batch;
use holdfast::store::records::{self, OutboxEntry};
use life::{Asked, DAWN, LIMIT, Life, create, room, spec};

/// What is outside of the box: it outlasts its lives.
#[derive(Default)]
struct World {
    bucket: BTreeMap<String, Vec<u8>>,
    /// How often each object was put.
    puts: BTreeMap<String, u32>,
    events: BTreeMap<u64, Event>,
}

impl Life {
    /// With the wall clock so much later than in the first life.
    async fn later(dir: &Path, by: Duration) -> Life {
        Life::begin_at(dir, Config::default(), None, Timestamp::from_ms(DAWN).plus(by)).await
    }

    async fn create(&self) -> TaskId {
        create(self, spec()).await.unwrap()
    }

    async fn alice_enters(&self) {
        self.enter(1, "alice", &[TrackKind::Audio]).await;
    }

    /// A lane writes a segment that is like no other, at the time that the clock shows, and tells of it.
    async fn record(&self, order: &LaneOrder, index: u32) {
        let mut segment = ClosedSegment {
            run: order.run.clone(),
            index,
            start: self.clock.wall(self.clock.now()).plus(Duration::from_secs(10) * index),
            duration: Duration::from_secs(10),
            bytes: 188 * 10,
            size: None,
            discontinuity: index == 0,
            part_name: String::new(),
        };
        segment.part_name = LocalName::of(&segment).part().to_string();
        let contents = [0x47, index as u8, order.run.run as u8].repeat(188 * 10 / 3);
        std::fs::write(order.dir.join(&segment.part_name), contents).unwrap();
        if index == 0 {
            self.tell(MediaNews::FirstMedia { run: order.run.clone(), at: segment.start }).await;
        }
        self.tell(MediaNews::SegmentClosed(segment)).await;
    }

    /// Awaits that a file of this kind waits for the destination.
    async fn has_on_the_shelf(&self, kind: &str) {
        let waiting = async {
            loop {
                let mut leased = Vec::new();
                while let Some(job) = self.spool.lease(8).await.unwrap() {
                    leased.push(job);
                }
                if leased.iter().any(|job| job.entry().object.ends_with(kind)) {
                    return;
                }
                drop(leased);
                self.spool.wait_ready().await;
            }
        };
        tokio::time::timeout(LIMIT, waiting).await.expect("it comes to the shelf");
    }
}

impl World {
    /// Takes what the outbox holds; one number never has two contents.
    async fn hear(&mut self, life: &Life) {
        for (key, bytes) in life.store.scan(records::OUTBOX).await.unwrap() {
            let event = OutboxEntry::from_bytes(&key, &bytes).unwrap().event;
            let before = self.events.insert(event.seq, event.clone());
            assert!(before.is_none_or(|before| before == event), "two events of one number: {event:?}");
        }
    }

    /// The clinic's server has taken what the outbox holds.
    async fn deliver(&mut self, life: &Life) {
        self.hear(life).await;
        life.deliver().await;
    }

    /// The destination takes what is on the shelf, until `done` says so of the world.
    async fn carry_until(&mut self, life: &Life, what: &str, done: impl Fn(&World) -> bool) {
        let all = async {
            loop {
                self.hear(life).await;
                if done(&*self) {
                    return;
                }
                let Some(job) = life.spool.lease(8).await.unwrap() else {
                    tokio::select! {
                        () = life.spool.wait_ready() => {}
                        () = life.outbox.notified() => {}
                    }
                    continue;
                };
                let task = job.task().clone();
                let keys = records::load_keys(&life.store, &life.box_key, &task).await.unwrap().expect("it has keys");
                assert_eq!(keys.storage.secret_key.expose(), "hush-storage");
                let key = job.entry().object_key.clone();
                let contents = match std::fs::read(job.path()) {
                    Ok(contents) => contents,
                    // a newer version of the list has just taken its place
                    Err(_) if job.is_superseded() => continue,
                    Err(e) => panic!("{key}: {e}"),
                };
                *self.puts.entry(key.clone()).or_default() += 1;
                self.bucket.insert(key, contents);
                let fate = job.ack_uploaded().await.unwrap();
                life.fates.send((task, fate)).await.unwrap();
            }
        };
        let carried = tokio::time::timeout(LIMIT, all).await;
        assert!(carried.is_ok(), "in vain for {what}: {:?}", self.events);
    }

    fn count(&self, is: impl Fn(&EventBody) -> bool) -> usize {
        self.events.values().filter(|event| is(&event.body)).count()
    }

    fn stopped(&self) -> bool {
        self.count(|e| matches!(e, EventBody::UploadStop { status: 0 | 2 })) > 0
    }

    fn segments(&self) -> BTreeSet<String> {
        self.bucket.keys().filter(|key| key.ends_with(".ts")).cloned().collect()
    }

    /// Every segment is there, listed once in a closed list, and was carried once.
    fn assert_whole(&self, task: &TaskId, segments: usize) {
        assert_eq!(self.segments().len(), segments, "{:?}", self.bucket.keys());
        let mut listed = Vec::new();
        for (key, text) in self.bucket.iter().filter(|(key, _)| key.ends_with(".m3u8")) {
            let list = Playlist::parse(std::str::from_utf8(text).unwrap()).unwrap();
            assert!(list.ended, "{key} is left open");
            assert!(list.items.is_sorted_by_key(|item| item.start), "{list:?}");
            listed.extend(list.items.into_iter().map(|item| format!("p1/p2/{task}/{}", item.name)));
        }
        listed.sort();
        assert_eq!(listed, self.segments().into_iter().collect::<Vec<_>>());
        for key in self.segments() {
            assert_eq!(self.puts[&key], 1, "{key} was carried again");
        }
        assert_eq!(self.bucket.values().collect::<BTreeSet<_>>().len(), self.bucket.len(), "no two are the same");
        let stops = self.count(|e| matches!(e, EventBody::UploadStop { .. }));
        assert_eq!((stops, self.count(|e| matches!(e, EventBody::RecorderStop { .. }))), (1, 1), "{:?}", self.events);
        assert_eq!(self.count(|e| matches!(e, EventBody::RecorderStart { .. })), 1);
        let slices = self.count(|e| matches!(e, EventBody::FileSlice { .. }));
        assert_eq!((slices, self.count(|e| matches!(e, EventBody::FileInfo { .. }))), (2, 2), "{:?}", self.events);
    }
}

/// A task records three segments, of which two arrive; the box dies and `damage` is done to its index; it records two
/// more in the next life, and ends.
async fn survives(damage: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let mut life = Life::later(dir.path(), Duration::ZERO).await;
    life.alice_enters().await;
    let task = life.create().await;
    let order = life.started().await;
    life.record(&order, 0).await;
    life.record(&order, 1).await;
    let arrived =
        |world: &World| world.segments().len() == 2 && world.count(|e| matches!(e, EventBody::FileInfo { .. })) == 1;
    world.carry_until(&life, "304", arrived).await;
    world.deliver(&life).await;
    // One is on the shelf when the process dies.
    life.record(&order, 2).await;
    life.has_on_the_shelf(".ts").await;
    life.crash().await;
    damage(&dir.path().join("index"));

    let mut life = Life::later(dir.path(), Duration::from_secs(60)).await;
    let view = life.rooms.describe(room().app, task.clone()).await.expect("the task goes on");
    assert_eq!((view.status, view.files.len()), (TaskStatus::InProgress, 1));
    assert_eq!(view.files[0].begin.ms(), list_begin(&world).ms());
    assert_eq!(life.create().await, task, "the same Create again is the same task");
    life.alice_enters().await;
    let order = life.started().await;
    assert!(order.run.run >= 1, "runs are never used twice");
    life.record(&order, 0).await;
    life.record(&order, 1).await;
    world.carry_until(&life, "all segments", |world| world.segments().len() == 5).await;
    life.rooms.delete(room().app, task.clone()).await.unwrap();
    let Some(Asked::Finish(run)) = life.asked.recv().await else { panic!("the lane is finished") };
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    world.carry_until(&life, "305", World::stopped).await;
    assert_eq!(life.rooms.describe(room().app, task.clone()).await, Err(Error::TaskUnknown));
    world.assert_whole(&task, 5);
    let folder = dir.path().join("spool").join(task.as_str());
    assert!(folder.join("task.json").exists(), "until its events are taken, its folder can tell them");
    world.deliver(&life).await;
    gone(&folder).await;
    // the folder goes first; when the actor answers again, the records are gone, too
    assert!(life.rooms.describe(room().app, task.clone()).await.is_err());
    assert_eq!(life.store.scan(records::TASKS).await.unwrap(), []);
    assert_eq!(life.store.scan(records::SPOOL).await.unwrap(), []);
    life.crash().await;

    // and it does not come back
    let life = Life::later(dir.path(), Duration::from_secs(120)).await;
    assert_eq!(life.rooms.describe(room().app, task).await, Err(Error::TaskUnknown));
    life.crash().await;
}

/// Awaits that a folder is removed.
async fn gone(folder: &Path) {
    let removed = async {
        while folder.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, removed).await.expect("nothing of a finished task is left");
}

fn list_begin(world: &World) -> Timestamp {
    let list = world.bucket.iter().find(|(key, _)| key.ends_with(".m3u8")).expect("a list has arrived");
    Playlist::parse(std::str::from_utf8(list.1).unwrap()).unwrap().begin
}

#[tokio::test]
async fn an_index_that_is_whole_is_only_believed() {
    survives(|_| {}).await;
}

#[tokio::test]
async fn an_index_that_is_gone_is_made_again() {
    survives(|index| std::fs::remove_dir_all(index).unwrap()).await;
}

#[tokio::test]
async fn an_index_with_a_torn_page_is_made_whole() {
    for eighth in 0..8 {
        survives(|index| {
            let mut bytes = std::fs::read(index.join("db")).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            let at = used * eighth / 8;
            bytes[at..at + 64].fill(0);
            std::fs::write(index.join("db"), bytes).unwrap();
        })
        .await;
    }
}

/// Records vanish, each with an even chance, by eight seeds.
#[tokio::test]
async fn an_index_that_lost_records_silently_gets_them_back() {
    for seed in 1..=8u64 {
        survives(|index| {
            let db = sled::open(index).unwrap();
            let mut state = seed;
            for record in db.iter() {
                let (key, _) = record.unwrap();
                // xorshift64
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if state % 2 == 0 {
                    db.remove(key).unwrap();
                }
            }
            db.flush().unwrap();
        })
        .await;
    }
}

/// The index goes back to what it was: an older copy of it lies there after the crash.
#[tokio::test]
async fn an_index_of_yesterday_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let (index, copy) = (dir.path().join("index"), dir.path().join("copy"));
    let life = Life::later(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    life.crash().await;
    std::fs::create_dir(&copy).unwrap();
    for file in ["conf", "db"] {
        std::fs::copy(index.join(file), copy.join(file)).unwrap();
    }
    let mut life = Life::later(dir.path(), Duration::from_secs(1)).await;
    life.alice_enters().await;
    let order = life.started().await;
    life.record(&order, 0).await;
    world.carry_until(&life, "304", |world| world.count(|e| matches!(e, EventBody::FileInfo { .. })) == 1).await;
    world.deliver(&life).await;
    life.rooms.delete(room().app, task.clone()).await.unwrap();
    life.crash().await;
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::rename(&copy, &index).unwrap();

    let life = Life::later(dir.path(), Duration::from_secs(2)).await;
    assert!(!life.store.was_whole());
    life.health.started();
    assert!(format!("{:?}", life.health.summary()).contains("lost records"), "{:?}", life.health.summary());
    world.carry_until(&life, "305", World::stopped).await;
    assert_eq!(world.count(|e| matches!(e, EventBody::RecorderStop { .. })), 1, "told again under its own number");
    assert_eq!((world.segments().len(), world.puts.values().max()), (1, Some(&2)), "{:?}", world.puts);
    life.crash().await;
}

/// A disk that fails loses a segment and takes no note of it, and what was left of it goes when the disk is full. The next
/// life knows of the loss by its index, and makes up for the note: so the one after it does without the index, and does not
/// say that all has arrived.
#[tokio::test]
async fn a_loss_of_which_no_note_was_taken_is_noted_in_the_next_life() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::default();
    let mut life = Life::later(dir.path(), Duration::ZERO).await;
    life.alice_enters().await;
    let task = life.create().await;
    let order = life.started().await;
    life.record(&order, 0).await;
    world.carry_until(&life, "the first segment", |world| world.segments().len() == 1).await;
    life.record(&order, 1).await;
    life.has_on_the_shelf(".ts").await;
    let lost = async {
        loop {
            match life.spool.lease(8).await.expect("the shelf answers") {
                Some(job) if job.entry().object.ends_with(".ts") => {
                    let fate = job.ack_lost("as the test says".into()).await.expect("it is known");
                    life.fates
                        .send((task.clone(), fate.expect("its task hears of it")))
                        .await
                        .expect("the actor lives");
                    return;
                }
                Some(job) => drop(job.ack_uploaded().await.expect("it is known")),
                None => life.spool.wait_ready().await,
            }
        }
    };
    tokio::time::timeout(LIMIT, lost).await.expect("it is on the shelf");
    world.carry_until(&life, "308", |world| world.count(|e| matches!(e, EventBody::UploadError { .. })) == 1).await;
    life.crash().await;
    let journal = dir.path().join("spool").join(task.as_str()).join("uploaded.txt");
    let is_loss = |line: &&str| line.contains(" lost ");
    let text = std::fs::read_to_string(&journal).expect("losses are noted");
    assert_eq!(text.lines().filter(is_loss).count(), 1, "{text}");
    let rest: String = text.lines().filter(|line| !is_loss(line)).map(|line| format!("{line}\n")).collect();
    std::fs::write(&journal, rest).expect("the folder is ours");
    let files = std::fs::read_dir(journal.parent().expect("a folder")).expect("it is there");
    let set_aside: Vec<_> = files.map(|file| file.expect("it can be read").path()).collect();
    let set_aside: Vec<_> = set_aside.iter().filter(|path| path.extension().is_some_and(|e| e == "lost")).collect();
    assert_eq!(set_aside.len(), 1, "{set_aside:?}");
    std::fs::remove_file(set_aside[0]).expect("the folder is ours");

    let life = Life::later(dir.path(), Duration::from_secs(60)).await;
    life.crash().await;
    std::fs::remove_dir_all(dir.path().join("index")).expect("it is there");
    let life = Life::later(dir.path(), Duration::from_secs(120)).await;
    life.rooms.delete(room().app, task).await.expect("the task goes on");
    world.carry_until(&life, "305", |world| world.count(|e| matches!(e, EventBody::UploadStop { .. })) > 0).await;
    assert_eq!(world.count(|e| matches!(e, EventBody::UploadStop { status: 1 })), 1, "{:?}", world.events);
    life.crash().await;
}

/// A task that was over, or nearly, when the box died comes to its end in the next life.
#[tokio::test]
async fn what_was_ending_ends() {
    for index_is_lost in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::default();
        let mut life = Life::later(dir.path(), Duration::ZERO).await;
        life.alice_enters().await;
        let task = life.create().await;
        let order = life.started().await;
        life.record(&order, 0).await;
        world.carry_until(&life, "307", |world| world.count(|e| matches!(e, EventBody::FileInfo { .. })) == 1).await;
        life.rooms.delete(room().app, task.clone()).await.unwrap();
        life.crash().await;
        if index_is_lost {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let life = Life::later(dir.path(), Duration::from_secs(5)).await;
        world.carry_until(&life, "305", World::stopped).await;
        assert_eq!(world.count(|e| matches!(e, EventBody::Failover)), 0, "it had left");
        assert_eq!(world.count(|e| matches!(e, EventBody::RecorderStop { .. })), 1);
        assert_eq!(life.rooms.describe(room().app, task.clone()).await, Err(Error::TaskUnknown));
        life.crash().await;

        // The events have not been taken, and now they are gone with the index: they are told again.
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        let life = Life::later(dir.path(), Duration::from_secs(10)).await;
        let mut again = World::default();
        again.deliver(&life).await;
        assert_eq!(again.events, world.events);
        gone(&dir.path().join("spool").join(task.as_str())).await;
        life.crash().await;
    }
}

/// A task that is done when the process dies, before it is forgotten, is forgotten by the next one.
#[tokio::test]
async fn a_done_task_is_not_stuck() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::later(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    let key = records::task_key(&task);
    let bytes = life.store.get(&key).await.unwrap().unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    life.task.abort();
    record["phase"] = "done".into();
    life.store.commit(Batch::new().put(key, serde_json::to_vec(&record).unwrap())).await.unwrap();
    life.crash().await;
    let life = Life::later(dir.path(), Duration::from_secs(1)).await;
    World::default().deliver(&life).await;
    gone(&dir.path().join("spool").join(task.as_str())).await;
    assert!(life.rooms.describe(room().app, task.clone()).await.is_err());
    assert_eq!(life.store.scan(records::TASKS).await.unwrap(), []);
    life.crash().await;
}

/// A crash loop: the task is kept, and shown, and waits; who comes back is recorded when the wait is over.
#[tokio::test]
async fn between_takeovers_a_task_waits_and_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::later(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    life.crash().await;
    for seconds in 1..5 {
        let life = Life::later(dir.path(), Duration::from_secs(seconds)).await;
        assert!(life.rooms.describe(room().app, task.clone()).await.is_ok());
        life.crash().await;
    }
    let mut life = Life::later(dir.path(), Duration::from_secs(5)).await;
    life.alice_enters().await;
    assert!(life.rooms.describe(room().app, task.clone()).await.is_ok());
    assert!(life.asked.try_recv().is_err(), "it waits for 30 s since it was taken up");
    let mut world = World::default();
    world.hear(&life).await;
    assert_eq!(world.count(|e| matches!(e, EventBody::Failover)), 1);
    // a stop does not wait
    life.rooms.delete(room().app, task.clone()).await.unwrap();
    world.carry_until(&life, "305", World::stopped).await;
    life.crash().await;

    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let life = Life::later(dir.path(), Duration::ZERO).await;
    life.create().await;
    life.crash().await;
    Life::later(dir.path(), Duration::from_secs(1)).await.crash().await;
    let mut life = Life::later(dir.path(), Duration::from_secs(31)).await;
    life.alice_enters().await;
    let order = life.started().await;
    life.record(&order, 0).await;
    world.carry_until(&life, "a list", |world| world.bucket.keys().any(|key| key.contains("/ha1_"))).await;
    life.crash().await;
}

/// The wall clock is set by years while a task runs: it goes on, and what comes has the new time.
#[tokio::test]
async fn a_clock_that_is_set_ends_nothing_and_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let mut life = Life::later(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    life.alice_enters().await;
    let order = life.started().await;
    life.record(&order, 0).await;
    world.carry_until(&life, "304", |world| world.count(|e| matches!(e, EventBody::FileInfo { .. })) == 1).await;
    let years = Duration::from_secs(3 * 365 * 86_400);
    let now = life.clock.now();
    let by = life.clock.follow(life.clock.wall(now).plus(years), now, Duration::from_secs(2));
    assert_eq!(by, Some(i64::try_from(years.as_micros()).unwrap()));
    assert_eq!(life.clock.follow(life.clock.wall(now), now, Duration::from_secs(2)), None, "once");

    let view = life.rooms.describe(room().app, task.clone()).await.expect("its calls have not expired");
    assert_eq!(view.status, TaskStatus::InProgress);
    life.record(&order, 1).await;
    // back by an hour: names differ all the same
    let now = life.clock.now();
    let earlier = Timestamp(life.clock.wall(now).0 - 3_600_000_000);
    life.clock.follow(earlier, now, Duration::from_secs(2)).expect("it was set");
    life.record(&order, 2).await;
    life.rooms.delete(room().app, task.clone()).await.expect("its calls have not expired");
    let Some(Asked::Finish(run)) = life.asked.recv().await else { panic!("the lane is finished") };
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    world.carry_until(&life, "305", World::stopped).await;

    let (_, text) = world.bucket.iter().find(|(key, _)| key.ends_with(".m3u8")).unwrap();
    let text = std::str::from_utf8(text).unwrap();
    let list = Playlist::parse(text).unwrap();
    assert!(list.ended && list.items.len() == 3);
    assert_eq!(text.matches("#EXT-X-PROGRAM-DATE-TIME:").count(), 3, "{text}");
    assert!(!text.contains("#EXT-X-DISCONTINUITY"), "media went on: {text}");
    let starts: Vec<i64> = list.items.iter().map(|item| item.start.secs() - DAWN / 1000).collect();
    let years = i64::try_from(years.as_secs()).unwrap();
    assert!(starts[1] - years < 60 && starts[2] - (years - 3600) < 60 && starts[0] < 60, "{starts:?}");
    let stop = world.events.values().find(|e| matches!(e.body, EventBody::RecorderStop { .. })).unwrap();
    assert!((stop.at.secs() - DAWN / 1000 - years + 3600).abs() < 60, "told by the new clock");
    life.crash().await;
}

/// No key is in what a folder says of its task.
#[tokio::test]
async fn folders_hold_no_secret_in_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::later(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    let folder = dir.path().join("spool").join(task.as_str());
    for name in ["task.json", "destination.json"] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        for secret in ["AKIDstorage", "hush-storage", "hush-sig"] {
            assert!(!text.contains(secret), "{secret} is in {name}");
        }
    }
    life.crash().await;
}

/// Upload errors are in no shape of a task; those that nobody has taken are told again all the same, as what they were.
#[tokio::test]
async fn an_upload_error_that_nobody_took_outlasts_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let life = Life::later(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    let failed = Fate::UploadFailed { code: "AccessDenied".into(), message: "you are not let in".into() };
    life.fates.send((task.clone(), failed)).await.unwrap();
    let journal = dir.path().join("spool").join(task.as_str()).join("uploaded.txt");
    let kept = async {
        while !std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("AccessDenied")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, kept).await.expect("the folder keeps it");
    world.hear(&life).await;
    let before = world.events.clone();
    assert_eq!(world.count(|e| matches!(e, EventBody::UploadError { .. })), 1, "{before:?}");
    life.crash().await;
    for lives in 1..=2 {
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        world.events.clear();
        let life = Life::later(dir.path(), Duration::from_secs(60 * lives)).await;
        world.hear(&life).await;
        for (seq, event) in &before {
            assert_eq!(world.events.get(seq), Some(event), "life {lives}: {:?}", world.events);
        }
        life.crash().await;
    }
}

/// What waited longest goes first, whichever task's it is.
#[tokio::test]
async fn what_an_index_has_lost_is_taken_in_again_by_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::later(dir.path(), Duration::ZERO).await;
    let mut orders = Vec::new();
    for (n, user) in [(1, "alice"), (2, "bob")] {
        let spec = RecordingSpec { room: RoomId::Number(n), ..spec() };
        let (session, room, user) = (SessionId(n.into()), spec.room_key(), UserId::parse(user).unwrap());
        create(&life, spec).await.unwrap();
        let (offers, track) = (vec![TrackKind::Audio], TrackId(n.into()));
        life.tell(MediaNews::Entered { session, room, user, media: MediaId::Main, offers }).await;
        life.tell(MediaNews::TrackUp { session, track, kind: TrackKind::Audio, codec: Codec::Opus }).await;
        orders.push(life.started().await);
    }
    // ten seconds lie between two segments of a lane, and less between the two lanes
    for index in 0..2 {
        for order in &orders {
            life.record(order, index).await;
        }
    }
    let all_there = async {
        while life.spool.total().segments < 4 {
            life.spool.drained().await.unwrap();
            tokio::task::yield_now().await;
        }
        life.spool.drained().await.unwrap();
    };
    tokio::time::timeout(LIMIT, all_there).await.expect("all four come to the shelf");
    life.crash().await;
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();

    let life = Life::later(dir.path(), Duration::from_secs(60)).await;
    let mut starts = Vec::new();
    let mut jobs = Vec::new();
    while starts.len() < 4 {
        let job = life.spool.lease(8).await.unwrap().expect("all four are on the shelf");
        starts.extend(job.entry().segment().map(|segment| (segment.start, segment.run.task.clone())));
        jobs.push(job);
    }
    let tasks: Vec<&TaskId> = starts.iter().map(|(_, task)| task).collect();
    assert!(starts.is_sorted_by_key(|(start, _)| *start), "{starts:?}");
    assert!(tasks[0] != tasks[1] && tasks[1] != tasks[2] && tasks[2] != tasks[3], "{starts:?}");
    drop(jobs);
    life.crash().await;
}
