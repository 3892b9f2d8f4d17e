//! The actor over lives between which its index is damaged: what the tasks' folders tell is enough to go on.

#[path = "memory/starts.rs"]
mod starts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::config::Config;
use holdfast::health::Reporter;
use holdfast::media::stills::Stills;
use holdfast::media::{LaneEnd, LaneOrder, MediaClock, MediaEngine, MediaError, MediaNews};
use holdfast::model::event::{Event, EventBody};
use holdfast::model::layout::Scene;
use holdfast::model::playlist::Playlist;
use holdfast::model::recording::{
    Destination, Fate, MediaFilter, RecordingSpec, StorageKeys, StreamType, Subscription, Vendor,
};
use holdfast::model::segment::{ClosedSegment, LocalName};
use holdfast::model::{
    Codec, LaneRun, MediaId, MediaTime, RoomId, SdkAppId, Secret, SessionId, TaskId, Timestamp, TrackId, TrackKind,
    UserId,
};
use holdfast::package::Packer;
use holdfast::rooms::{Actor, Error, Parts, Rooms, TaskStatus};
use holdfast::spool::Spool;
use holdfast::store::records::{self, OutboxEntry};
use holdfast::store::seal::BoxKey;
use holdfast::store::{Batch, Store};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes: only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(30);
const APP: SdkAppId = SdkAppId(1_400_000_001);
/// When the first life begins.
const DAWN: i64 = 1_800_000_000_000;

enum Asked {
    Start(Box<LaneOrder>),
    Finish(LaneRun),
}

struct ScriptedEngine(mpsc::Sender<Asked>);

impl MediaEngine for ScriptedEngine {
    fn start_lane(&self, order: LaneOrder) -> Result<(), MediaError> {
        self.0.try_send(Asked::Start(Box::new(order))).map_err(|e| MediaError::Pipeline(e.to_string()))
    }
    fn finish_lane(&self, run: &LaneRun) {
        self.0.try_send(Asked::Finish(run.clone())).expect("room in the test's channel");
    }
    fn change_scene(&self, run: &LaneRun, _: Scene) {
        panic!("{run:?} is no mixed lane");
    }
    fn pause_lane(&self, run: &LaneRun, _: MediaTime) {
        panic!("{run:?} was paused, though nobody asked for it");
    }
    fn kill_lane(&self, run: &LaneRun) {
        panic!("{run:?} was killed, though it always answers");
    }
    fn close_session(&self, session: SessionId) {
        panic!("{session:?} was closed, though nobody asked for it");
    }
}

/// What is outside of the box: it outlasts its lives.
#[derive(Default)]
struct World {
    bucket: BTreeMap<String, Vec<u8>>,
    /// How often each object was put.
    puts: BTreeMap<String, u32>,
    events: BTreeMap<u64, Event>,
}

/// One life of the box's deciding half.
struct Life {
    rooms: Rooms,
    news: mpsc::Sender<MediaNews>,
    asked: mpsc::Receiver<Asked>,
    fates: mpsc::Sender<(TaskId, Fate)>,
    spool: Arc<Spool>,
    store: Store,
    box_key: Arc<BoxKey>,
    outbox: Arc<Notify>,
    clock: MediaClock,
    health: Reporter,
    task: JoinHandle<()>,
}

impl Life {
    /// `later`: of the wall clock, after the first life's beginning.
    async fn begin(dir: &Path, later: Duration) -> Life {
        let store = Store::open(&dir.join("index")).unwrap().store;
        let box_key = Arc::new(BoxKey::load_or_create(&dir.join("box.key")).unwrap());
        let (fates, fates_out) = mpsc::channel(1024);
        let (news, news_out) = mpsc::channel(1024);
        let (asks, asks_out) = mpsc::channel(64);
        let (asked_in, asked) = mpsc::channel(1024);
        let (images, _) = mpsc::channel(64);
        let (_, image_failures) = mpsc::channel(64);
        let spool = Spool::open(&dir.join("spool"), store.clone(), fates.clone()).unwrap();
        let recovered = spool.recover().await.unwrap();
        let outbox = Arc::new(Notify::new());
        let clock = MediaClock::new(Instant::now(), Timestamp::from_ms(DAWN).plus(later));
        let health = Reporter::default();
        let parts = Parts {
            config: Config::default().into(),
            store: store.clone(),
            spool: spool.clone(),
            engine: Arc::new(ScriptedEngine(asked_in)),
            media_clock: clock,
            box_key: box_key.clone(),
            packer: Packer::new(),
            fates: fates.clone(),
            board: None,
            outbox: outbox.clone(),
            mirror: None,
            images,
            stills: Stills::default(),
            health: health.clone(),
        };
        let actor = Actor::restore(parts, recovered).await.unwrap();
        let task = tokio::spawn(actor.run(asks_out, news_out, fates_out, image_failures, CancellationToken::new()));
        Life { rooms: Rooms::new(asks), news, asked, fates, spool, store, box_key, outbox, clock, health, task }
    }

    async fn create(&self) -> TaskId {
        let keys = StorageKeys { access_key: Secret::new("AKIDstorage"), secret_key: Secret::new("hush-storage") };
        self.rooms.create(spec(), keys, Secret::new("hush-sig")).await.unwrap()
    }

    async fn enter(&self) {
        let (session, room, user) = (SessionId(1), spec().room_key(), UserId::parse("alice").unwrap());
        let offers = vec![TrackKind::Audio];
        self.tell(MediaNews::Entered { session, room, user, media: MediaId::Main, offers }).await;
        self.tell(MediaNews::TrackUp { session, track: TrackId(10), kind: TrackKind::Audio, codec: Codec::Opus }).await;
    }

    async fn tell(&self, news: MediaNews) {
        self.news.send(news).await.expect("the actor lives");
    }

    async fn started(&mut self) -> LaneOrder {
        let asked = tokio::time::timeout(LIMIT, self.asked.recv()).await.expect("the actor asks the engine");
        let Some(Asked::Start(order)) = asked else { panic!("a lane starts") };
        *order
    }

    /// A lane writes a segment; `whole`: and tells of it.
    async fn write_segment(&self, order: &LaneOrder, index: u32, whole: bool) {
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
        if whole {
            self.tell(MediaNews::SegmentClosed(segment)).await;
        }
    }

    /// The destination takes what is on the shelf, until `done` says so of the world.
    async fn carry_until(&self, world: &mut World, what: &str, done: impl Fn(&World) -> bool) {
        let all = async {
            loop {
                self.hear(world).await;
                if done(world) {
                    return;
                }
                let Some(job) = self.spool.lease(8).await.unwrap() else {
                    tokio::select! {
                        () = self.spool.wait_ready() => {}
                        () = self.outbox.notified() => {}
                    }
                    continue;
                };
                let task = job.task().clone();
                let keys = records::load_keys(&self.store, &self.box_key, &task).await.unwrap().expect("it has keys");
                assert_eq!(keys.storage.secret_key.expose(), "hush-storage");
                let key = job.entry().object_key.clone();
                let contents = match std::fs::read(job.path()) {
                    Ok(contents) => contents,
                    // a newer version of the list has just taken its place
                    Err(_) if job.is_superseded() => continue,
                    Err(e) => panic!("{key}: {e}"),
                };
                *world.puts.entry(key.clone()).or_default() += 1;
                world.bucket.insert(key, contents);
                let fate = job.ack_uploaded().await.unwrap();
                self.fates.send((task, fate)).await.unwrap();
            }
        };
        tokio::time::timeout(LIMIT, all).await.unwrap_or_else(|_| panic!("in vain for {what}: {:?}", world.events));
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

    /// Takes what the outbox holds; one number never has two contents.
    async fn hear(&self, world: &mut World) {
        for (key, bytes) in self.store.scan(records::OUTBOX).await.unwrap() {
            let event = OutboxEntry::from_bytes(&key, &bytes).unwrap().event;
            let before = world.events.insert(event.seq, event.clone());
            assert!(before.is_none_or(|before| before == event), "two events of one number: {event:?}");
        }
    }

    /// The clinic's server has taken what the outbox holds.
    async fn deliver(&self, world: &mut World) {
        self.hear(world).await;
        let taken = self.store.scan(records::OUTBOX).await.unwrap();
        let batch = taken.into_iter().fold(Batch::new(), |batch, (key, _)| batch.delete(key));
        self.store.commit(batch).await.unwrap();
    }

    /// The actor dies where it is; nothing is told to anybody.
    async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
        self.spool.drained().await.unwrap();
        self.store.close().await.unwrap();
    }
}

fn spec() -> RecordingSpec {
    RecordingSpec {
        app: APP,
        room: RoomId::Number(12345),
        mix: None,
        recorder: UserId::parse("recorder").unwrap(),
        streams: StreamType::AudioVideo,
        media: MediaFilter::Both,
        subscription: Subscription::default(),
        max_idle: Duration::from_secs(3600),
        av_merge: false,
        fill_black: false,
        call_expiry: Duration::from_secs(72 * 3600),
        output: Default::default(),
        file_length: Duration::from_secs(24 * 3600),
        resume_wait: None,
        destination: Destination {
            vendor: Vendor::S3,
            region: "r".into(),
            bucket: "b".into(),
            prefix: vec!["p".into()],
        },
    }
}

impl World {
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
            listed.extend(list.items.into_iter().map(|item| format!("p/{task}/{}", item.name)));
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
    let mut life = Life::begin(dir.path(), Duration::ZERO).await;
    life.enter().await;
    let task = life.create().await;
    let order = life.started().await;
    life.write_segment(&order, 0, true).await;
    life.write_segment(&order, 1, true).await;
    let arrived =
        |world: &World| world.segments().len() == 2 && world.count(|e| matches!(e, EventBody::FileInfo { .. })) == 1;
    life.carry_until(&mut world, "304", arrived).await;
    life.deliver(&mut world).await;
    // One is on the shelf when the process dies.
    life.write_segment(&order, 2, true).await;
    life.has_on_the_shelf(".ts").await;
    life.crash().await;
    damage(&dir.path().join("index"));

    let mut life = Life::begin(dir.path(), Duration::from_secs(60)).await;
    let view = life.rooms.describe(APP, task.clone()).await.expect("the task goes on");
    assert_eq!((view.status, view.files.len()), (TaskStatus::InProgress, 1));
    assert_eq!(view.files[0].begin.ms(), list_begin(&world).ms());
    assert_eq!(life.create().await, task, "the same Create again is the same task");
    life.enter().await;
    let order = life.started().await;
    assert!(order.run.run >= 1, "runs are never used twice");
    life.write_segment(&order, 0, true).await;
    life.write_segment(&order, 1, true).await;
    life.carry_until(&mut world, "all segments", |world| world.segments().len() == 5).await;
    life.rooms.delete(APP, task.clone()).await.unwrap();
    let Some(Asked::Finish(run)) = life.asked.recv().await else { panic!("the lane is finished") };
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    life.carry_until(&mut world, "305", World::stopped).await;
    assert_eq!(life.rooms.describe(APP, task.clone()).await, Err(Error::TaskUnknown));
    world.assert_whole(&task, 5);
    let folder = dir.path().join("spool").join(task.as_str());
    assert!(folder.join("task.json").exists(), "until its events are taken, its folder can tell them");
    life.deliver(&mut world).await;
    gone(&folder).await;
    // the folder goes first; when the actor answers again, the records are gone, too
    assert!(life.rooms.describe(APP, task.clone()).await.is_err());
    assert_eq!(life.store.scan(records::TASKS).await.unwrap(), []);
    assert_eq!(life.store.scan(records::SPOOL).await.unwrap(), []);
    life.crash().await;

    // and it does not come back
    let life = Life::begin(dir.path(), Duration::from_secs(120)).await;
    assert_eq!(life.rooms.describe(APP, task).await, Err(Error::TaskUnknown));
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
    let life = Life::begin(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    life.crash().await;
    std::fs::create_dir(&copy).unwrap();
    for file in ["conf", "db"] {
        std::fs::copy(index.join(file), copy.join(file)).unwrap();
    }
    let mut life = Life::begin(dir.path(), Duration::from_secs(1)).await;
    life.enter().await;
    let order = life.started().await;
    life.write_segment(&order, 0, true).await;
    life.carry_until(&mut world, "304", |world| world.count(|e| matches!(e, EventBody::FileInfo { .. })) == 1).await;
    life.deliver(&mut world).await;
    life.rooms.delete(APP, task.clone()).await.unwrap();
    life.crash().await;
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::rename(&copy, &index).unwrap();

    let life = Life::begin(dir.path(), Duration::from_secs(2)).await;
    assert!(!life.store.was_whole());
    life.health.started();
    assert!(format!("{:?}", life.health.summary()).contains("lost records"), "{:?}", life.health.summary());
    life.carry_until(&mut world, "305", World::stopped).await;
    assert_eq!(world.count(|e| matches!(e, EventBody::RecorderStop { .. })), 1, "told again under its own number");
    assert_eq!((world.segments().len(), world.puts.values().max()), (1, Some(&2)), "{:?}", world.puts);
    life.crash().await;
}

/// A task that was over, or nearly, when the box died comes to its end in the next life.
#[tokio::test]
async fn what_was_ending_ends() {
    for index_is_lost in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::default();
        let mut life = Life::begin(dir.path(), Duration::ZERO).await;
        life.enter().await;
        let task = life.create().await;
        let order = life.started().await;
        life.write_segment(&order, 0, true).await;
        life.carry_until(&mut world, "307", |world| world.count(|e| matches!(e, EventBody::FileInfo { .. })) == 1)
            .await;
        life.rooms.delete(APP, task.clone()).await.unwrap();
        life.crash().await;
        if index_is_lost {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let life = Life::begin(dir.path(), Duration::from_secs(5)).await;
        life.carry_until(&mut world, "305", World::stopped).await;
        assert_eq!(world.count(|e| matches!(e, EventBody::Failover)), 0, "it had left");
        assert_eq!(world.count(|e| matches!(e, EventBody::RecorderStop { .. })), 1);
        assert_eq!(life.rooms.describe(APP, task.clone()).await, Err(Error::TaskUnknown));
        life.crash().await;

        // The events have not been taken, and now they are gone with the index: they are told again.
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        let life = Life::begin(dir.path(), Duration::from_secs(10)).await;
        let mut again = World::default();
        life.deliver(&mut again).await;
        assert_eq!(again.events, world.events);
        gone(&dir.path().join("spool").join(task.as_str())).await;
        life.crash().await;
    }
}

/// A task that is done when the process dies, before it is forgotten, is forgotten by the next one.
#[tokio::test]
async fn a_done_task_is_not_stuck() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    let key = records::task_key(&task);
    let bytes = life.store.get(&key).await.unwrap().unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    life.task.abort();
    record["phase"] = "done".into();
    life.store.commit(Batch::new().put(key, serde_json::to_vec(&record).unwrap())).await.unwrap();
    life.crash().await;
    let life = Life::begin(dir.path(), Duration::from_secs(1)).await;
    life.deliver(&mut World::default()).await;
    gone(&dir.path().join("spool").join(task.as_str())).await;
    assert!(life.rooms.describe(APP, task.clone()).await.is_err());
    assert_eq!(life.store.scan(records::TASKS).await.unwrap(), []);
    life.crash().await;
}

/// A crash loop: the task is kept, and shown, and waits; who comes back is recorded when the wait is over.
#[tokio::test]
async fn between_takeovers_a_task_waits_and_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::begin(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    life.crash().await;
    for seconds in 1..5 {
        let life = Life::begin(dir.path(), Duration::from_secs(seconds)).await;
        assert!(life.rooms.describe(APP, task.clone()).await.is_ok());
        life.crash().await;
    }
    let mut life = Life::begin(dir.path(), Duration::from_secs(5)).await;
    life.enter().await;
    assert!(life.rooms.describe(APP, task.clone()).await.is_ok());
    assert!(life.asked.try_recv().is_err(), "it waits for 30 s since it was taken up");
    let mut world = World::default();
    life.hear(&mut world).await;
    assert_eq!(world.count(|e| matches!(e, EventBody::Failover)), 1);
    // a stop does not wait
    life.rooms.delete(APP, task.clone()).await.unwrap();
    life.carry_until(&mut world, "305", World::stopped).await;
    life.crash().await;

    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let life = Life::begin(dir.path(), Duration::ZERO).await;
    life.create().await;
    life.crash().await;
    Life::begin(dir.path(), Duration::from_secs(1)).await.crash().await;
    let mut life = Life::begin(dir.path(), Duration::from_secs(31)).await;
    life.enter().await;
    let order = life.started().await;
    life.write_segment(&order, 0, true).await;
    life.carry_until(&mut world, "a list", |world| world.bucket.keys().any(|key| key.contains("/ha1_"))).await;
    life.crash().await;
}

/// The wall clock is set by years while a task runs: it goes on, and what comes has the new time.
#[tokio::test]
async fn a_clock_that_is_set_ends_nothing_and_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::default();
    let mut life = Life::begin(dir.path(), Duration::ZERO).await;
    let task = life.create().await;
    life.enter().await;
    let order = life.started().await;
    life.write_segment(&order, 0, true).await;
    life.carry_until(&mut world, "304", |world| world.count(|e| matches!(e, EventBody::FileInfo { .. })) == 1).await;
    let years = Duration::from_secs(3 * 365 * 86_400);
    let now = life.clock.now();
    let by = life.clock.follow(life.clock.wall(now).plus(years), now, Duration::from_secs(2));
    assert_eq!(by, Some(i64::try_from(years.as_micros()).unwrap()));
    assert_eq!(life.clock.follow(life.clock.wall(now), now, Duration::from_secs(2)), None, "once");

    let view = life.rooms.describe(APP, task.clone()).await.expect("its calls have not expired");
    assert_eq!(view.status, TaskStatus::InProgress);
    life.write_segment(&order, 1, true).await;
    // back by an hour: names differ all the same
    let now = life.clock.now();
    let earlier = Timestamp(life.clock.wall(now).0 - 3_600_000_000);
    life.clock.follow(earlier, now, Duration::from_secs(2)).expect("it was set");
    life.write_segment(&order, 2, true).await;
    life.rooms.delete(APP, task.clone()).await.expect("its calls have not expired");
    let Some(Asked::Finish(run)) = life.asked.recv().await else { panic!("the lane is finished") };
    life.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
    life.carry_until(&mut world, "305", World::stopped).await;

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
    let life = Life::begin(dir.path(), Duration::ZERO).await;
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
    let life = Life::begin(dir.path(), Duration::ZERO).await;
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
    life.hear(&mut world).await;
    let before = world.events.clone();
    assert_eq!(world.count(|e| matches!(e, EventBody::UploadError { .. })), 1, "{before:?}");
    life.crash().await;
    for lives in 1..=2 {
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        world.events.clear();
        let life = Life::begin(dir.path(), Duration::from_secs(60 * lives)).await;
        life.hear(&mut world).await;
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
    let mut life = Life::begin(dir.path(), Duration::ZERO).await;
    let mut orders = Vec::new();
    for (n, user) in [(1, "alice"), (2, "bob")] {
        let spec = RecordingSpec { room: RoomId::Number(n), ..spec() };
        let (session, room, user) = (SessionId(n.into()), spec.room_key(), UserId::parse(user).unwrap());
        let keys = StorageKeys { access_key: Secret::new("AKIDstorage"), secret_key: Secret::new("hush-storage") };
        life.rooms.create(spec, keys, Secret::new("hush-sig")).await.unwrap();
        let (offers, track) = (vec![TrackKind::Audio], TrackId(n.into()));
        life.tell(MediaNews::Entered { session, room, user, media: MediaId::Main, offers }).await;
        life.tell(MediaNews::TrackUp { session, track, kind: TrackKind::Audio, codec: Codec::Opus }).await;
        orders.push(life.started().await);
    }
    // ten seconds lie between two segments of a lane, and less between the two lanes
    for index in 0..2 {
        for order in &orders {
            life.write_segment(order, index, true).await;
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

    let life = Life::begin(dir.path(), Duration::from_secs(60)).await;
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
