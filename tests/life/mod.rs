//! One life of the box's deciding half: the actor with a real index and a real shelf, and an engine and a destination
//! that do as the test says.
#![allow(dead_code, reason = "each test file uses its share")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast::config::Config;
use holdfast::health::Reporter;
use holdfast::media::stills::Stills;
use holdfast::media::{LaneOrder, MediaClock, MediaEngine, MediaError, MediaNews};
use holdfast::model::board::Board;
use holdfast::model::event::EventBody;
use holdfast::model::layout::Scene;
use holdfast::model::mix::{ImageFailure, ImageOrder};
use holdfast::model::recording::{
    Destination, MediaFilter, RecordingSpec, StorageKeys, StreamType, Subscription, Vendor,
};
use holdfast::model::segment::{ClosedSegment, LocalName};
use holdfast::model::{
    Codec, LaneRun, MediaId, MediaTime, RoomId, RoomKey, SdkAppId, Secret, SessionId, TaskId, Timestamp, TrackId,
    TrackKind, UserId,
};
use holdfast::package::Packer;
use holdfast::rooms::{Actor, Error, Parts, Rooms};
use holdfast::spool::Spool;
use holdfast::store::records::{self, OutboxEntry};
use holdfast::store::seal::BoxKey;
use holdfast::store::{Batch, Store};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes: only a hang reaches it.
pub const LIMIT: Duration = Duration::from_secs(30);
/// When a life begins, of the wall clock, unless it says otherwise.
pub const DAWN: i64 = 1_800_000_000_000;

/// What the actor asked of the engine, in order.
#[derive(Debug, Clone)]
pub enum Asked {
    Start(Box<LaneOrder>),
    Scene(LaneRun, Box<Scene>),
    Finish(LaneRun),
    Pause(LaneRun, MediaTime),
    Kill(LaneRun),
    CloseSession(SessionId),
}

pub struct ScriptedEngine {
    pub asked: mpsc::Sender<Asked>,
    pub refuse: Mutex<bool>,
}

impl MediaEngine for ScriptedEngine {
    fn start_lane(&self, order: LaneOrder) -> Result<(), MediaError> {
        if *self.refuse.lock().unwrap() {
            return Err(MediaError::Pipeline("as the test says".into()));
        }
        self.asked.try_send(Asked::Start(Box::new(order))).expect("room in the test's channel");
        Ok(())
    }
    fn finish_lane(&self, run: &LaneRun) {
        self.asked.try_send(Asked::Finish(run.clone())).expect("room in the test's channel");
    }
    fn change_scene(&self, run: &LaneRun, scene: Scene) {
        self.asked.try_send(Asked::Scene(run.clone(), Box::new(scene))).expect("room in the test's channel");
    }
    fn pause_lane(&self, run: &LaneRun, until: MediaTime) {
        self.asked.try_send(Asked::Pause(run.clone(), until)).expect("room in the test's channel");
    }
    fn kill_lane(&self, run: &LaneRun) {
        self.asked.try_send(Asked::Kill(run.clone())).expect("room in the test's channel");
    }
    fn close_session(&self, session: SessionId) {
        self.asked.try_send(Asked::CloseSession(session)).expect("room in the test's channel");
    }
}

/// One life of the box's deciding half.
pub struct Life {
    pub rooms: Rooms,
    pub news: mpsc::Sender<MediaNews>,
    pub asked: mpsc::Receiver<Asked>,
    pub engine: Arc<ScriptedEngine>,
    pub fates: mpsc::Sender<(TaskId, holdfast::model::fate::Fate)>,
    pub images: mpsc::Receiver<ImageOrder>,
    image_failures: mpsc::Sender<ImageFailure>,
    pub spool: Arc<Spool>,
    pub store: Store,
    pub box_key: Arc<BoxKey>,
    pub outbox: Arc<Notify>,
    pub clock: MediaClock,
    pub health: Reporter,
    pub cancel: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Life {
    pub async fn begin(dir: &Path, config: Config) -> Life {
        Life::begin_on(dir, config, None).await
    }

    pub async fn begin_on(dir: &Path, config: Config, board: Option<Arc<Board>>) -> Life {
        Life::begin_at(dir, config, board, Timestamp::from_ms(DAWN)).await
    }

    pub async fn begin_at(dir: &Path, config: Config, board: Option<Arc<Board>>, wall: Timestamp) -> Life {
        let store = Store::open(&dir.join("index")).unwrap().store;
        let box_key = Arc::new(BoxKey::load_or_create(&dir.join("box.key")).unwrap());
        let (fates, fates_out) = mpsc::channel(1024);
        let (news, news_out) = mpsc::channel(1024);
        let (asks, asks_out) = mpsc::channel(64);
        let (asked_in, asked) = mpsc::channel(1024);
        let spool = Spool::open(&dir.join("spool"), store.clone(), fates.clone()).unwrap();
        let recovered = spool.recover().await.unwrap();
        let engine = Arc::new(ScriptedEngine { asked: asked_in, refuse: Mutex::new(false) });
        let outbox = Arc::new(Notify::new());
        let (images_in, images) = mpsc::channel(64);
        let (image_failures, failures_out) = mpsc::channel(64);
        let (clock, health) = (MediaClock::new(Instant::now(), wall), Reporter::default());
        let parts = Parts {
            config: config.into(),
            store: store.clone(),
            spool: spool.clone(),
            engine: engine.clone(),
            media_clock: clock,
            box_key: box_key.clone(),
            packer: Packer::new(),
            fates: fates.clone(),
            board,
            outbox: outbox.clone(),
            mirror: None,
            images: images_in,
            stills: Stills::default(),
            health: health.clone(),
        };
        let actor = Actor::restore(parts, recovered).await.unwrap();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(actor.run(asks_out, news_out, fates_out, failures_out, cancel.clone()));
        let rooms = Rooms::new(asks);
        Life {
            rooms,
            news,
            asked,
            engine,
            fates,
            images,
            image_failures,
            spool,
            store,
            box_key,
            outbox,
            clock,
            health,
            cancel,
            task,
        }
    }

    pub async fn next_asked(&mut self) -> Asked {
        tokio::time::timeout(LIMIT, self.asked.recv()).await.expect("the actor asks the engine").expect("it lives")
    }

    pub async fn started(&mut self) -> LaneOrder {
        match self.next_asked().await {
            Asked::Start(order) => *order,
            other => panic!("a lane starts, not {other:?}"),
        }
    }

    pub async fn enter(&self, session: u64, user: &str, kinds: &[TrackKind]) {
        self.tell(MediaNews::Entered {
            session: SessionId(session),
            room: room(),
            user: UserId::parse(user).unwrap(),
            media: MediaId::Main,
            offers: kinds.to_vec(),
        })
        .await;
        for (i, kind) in kinds.iter().enumerate() {
            let codec = if *kind == TrackKind::Audio { Codec::Opus } else { Codec::H264 };
            let track = TrackId(session * 10 + i as u64);
            self.tell(MediaNews::TrackUp { session: SessionId(session), track, kind: *kind, codec }).await;
        }
    }

    /// Returns when the actor has taken it up: what it is asked then is asked after the news.
    pub async fn tell(&self, news: MediaNews) {
        self.news.send(news).await.expect("the actor lives");
        let all = self.news.max_capacity();
        drop(self.news.reserve_many(all).await.expect("the actor lives"));
    }

    /// An image could not be had. Returns when the actor has taken it up.
    pub async fn image_failed(&self, failure: ImageFailure) {
        self.image_failures.send(failure).await.expect("the actor lives");
        let all = self.image_failures.max_capacity();
        drop(self.image_failures.reserve_many(all).await.expect("the actor lives"));
    }

    /// A lane of the engine writes a segment.
    pub async fn write_segment(&self, order: &LaneOrder, index: u32) {
        let mut segment = ClosedSegment {
            run: order.run.clone(),
            index,
            start: Timestamp::from_ms(DAWN + i64::from(index) * 10_000),
            duration: Duration::from_secs(10),
            bytes: 188 * 10,
            size: None,
            discontinuity: false,
            part_name: String::new(),
        };
        segment.part_name = LocalName::of(&segment).part().to_string();
        std::fs::write(order.dir.join(&segment.part_name), [0x47; 188 * 10]).unwrap();
        if index == 0 {
            self.tell(MediaNews::FirstMedia { run: order.run.clone(), at: segment.start }).await;
        }
        self.tell(MediaNews::SegmentClosed(segment)).await;
    }

    /// The destination takes everything that is on the shelf, until `done`.
    pub async fn carry_until(&self, bucket: &mut BTreeMap<String, Vec<u8>>, done: impl Fn(&[EventBody]) -> bool) {
        let all = async {
            while !done(&self.events().await) {
                let Some(job) = self.spool.lease(8).await.unwrap() else {
                    tokio::select! {
                        () = self.spool.wait_ready() => {}
                        () = self.outbox.notified() => {}
                    }
                    continue;
                };
                let task = job.task().clone();
                match std::fs::read(job.path()) {
                    Ok(contents) => drop(bucket.insert(job.entry().object_key.clone(), contents)),
                    // a newer version of the list has just taken its place
                    Err(_) if job.is_superseded() => continue,
                    Err(e) => panic!("{}: {e}", job.entry().object_key),
                }
                let fate = job.ack_uploaded().await.unwrap();
                self.fates.send((task, fate)).await.unwrap();
            }
        };
        tokio::time::timeout(LIMIT, all).await.expect("the task comes to where the test waits for it");
    }

    pub async fn events(&self) -> Vec<EventBody> {
        let entries = self.store.scan(records::OUTBOX).await.unwrap();
        entries.iter().map(|(key, bytes)| OutboxEntry::from_bytes(key, bytes).unwrap().event.body).collect()
    }

    /// The clinic's server takes what the outbox holds.
    pub async fn deliver(&self) {
        let taken = self.store.scan(records::OUTBOX).await.unwrap();
        let batch = taken.into_iter().fold(Batch::new(), |batch, (key, _)| batch.delete(key));
        self.store.commit(batch).await.unwrap();
    }

    /// The actor dies where it is; nothing is told to anybody.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
        self.spool.drained().await.unwrap();
        self.store.close().await.unwrap();
    }

    pub async fn end(self) {
        self.cancel.cancel();
        tokio::time::timeout(LIMIT, self.task).await.expect("it stops").unwrap();
        self.spool.drained().await.unwrap();
        self.store.close().await.unwrap();
    }
}

pub fn room() -> RoomKey {
    RoomKey { app: SdkAppId(1_400_000_001), room: RoomId::Number(12345) }
}

pub fn spec() -> RecordingSpec {
    RecordingSpec {
        app: SdkAppId(1_400_000_001),
        room: RoomId::Number(12345),
        mix: None,
        recorder: UserId::parse("recorder").unwrap(),
        streams: StreamType::AudioVideo,
        media: MediaFilter::Both,
        subscription: Subscription::default(),
        max_idle: Duration::from_secs(86_400),
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
            prefix: vec!["p1".into(), "p2".into()],
        },
    }
}

pub fn keys() -> StorageKeys {
    StorageKeys { access_key: Secret::new("AKIDstorage"), secret_key: Secret::new("hush-storage") }
}

pub async fn create(life: &Life, spec: RecordingSpec) -> Result<TaskId, Error> {
    life.rooms.create(spec, keys(), Secret::new("hush-sig")).await
}

pub fn stopped(events: &[EventBody]) -> bool {
    events.iter().any(|e| matches!(e, EventBody::UploadStop { .. }))
}
