//! A shelf as a box leaves it that was cut off from its bucket: recordings that have ended, none of them uploaded.
//!
//! The box's own actor, spool and index make it; only the engine is a script, which writes bytes in place of pictures.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::app::wall_clock;
use holdfast::config::Config;
use holdfast::health::Reporter;
use holdfast::media::stills::Stills;
use holdfast::media::{LaneEnd, LaneOrder, MediaClock, MediaEngine, MediaError, MediaNews};
use holdfast::model::event::EventBody;
use holdfast::model::layout::Scene;
use holdfast::model::recording::{
    Destination, MediaFilter, RecordingSpec, StorageKeys, StreamType, Subscription, Vendor,
};
use holdfast::model::segment::{ClosedSegment, LocalName};
use holdfast::model::{
    Codec, LaneRun, MediaId, MediaTime, RoomId, SdkAppId, Secret, SessionId, TaskId, TrackId, TrackKind, UserId,
};
use holdfast::package::Packer;
use holdfast::rooms::{Actor, Parts, Rooms};
use holdfast::spool::Spool;
use holdfast::store::Store;
use holdfast::store::records::{self, OutboxEntry};
use holdfast::store::seal::BoxKey;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::common::support::{ACCESS_KEY, APP, BUCKET, SECRET_KEY};

/// Below it lie all objects of such a shelf.
pub const PREFIX: &str = "backlog";

/// What lies on it.
#[derive(Debug, Clone, Copy)]
pub struct Shelf {
    pub tasks: u32,
    pub segments_of_each: u32,
    pub segment_bytes: usize,
}

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
        self.0.try_send(Asked::Finish(run.clone())).expect("one lane is asked for at a time");
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

struct Life {
    rooms: Rooms,
    news: mpsc::Sender<MediaNews>,
    asked: mpsc::Receiver<Asked>,
    store: Store,
    outbox: Arc<Notify>,
    clock: MediaClock,
}

/// Fills a state directory and lets it lie, as if the power had gone.
pub async fn fill(state: &Path, shelf: Shelf) {
    fs::create_dir_all(state).expect("the folder is ours");
    let mut config = Config::default();
    config.server.state_dir = state.to_owned();
    let config = Arc::new(config);
    let store = Store::open(&config.index_dir()).expect("a new index opens").store;
    let box_key = Arc::new(BoxKey::load_or_create(&state.join("box.key")).expect("a key is made"));
    let (fates, fates_out) = mpsc::channel(1024);
    let (news, news_out) = mpsc::channel(1024);
    let (asks, asks_out) = mpsc::channel(64);
    let (asked_in, asked) = mpsc::channel(1024);
    let (images, _images_out) = mpsc::channel(64);
    let (_image_failures_in, image_failures) = mpsc::channel(64);
    let spool = Spool::open(&config.spool_dir(), store.clone(), fates.clone()).expect("a new shelf opens");
    let recovered = spool.recover().await.expect("it is empty");
    let (outbox, clock) = (Arc::new(Notify::new()), MediaClock::new(Instant::now(), wall_clock()()));
    let parts = Parts {
        config: config.into(),
        store: store.clone(),
        spool: spool.clone(),
        engine: Arc::new(ScriptedEngine(asked_in)),
        media_clock: clock,
        box_key,
        packer: Packer::new(),
        fates,
        board: None,
        outbox: outbox.clone(),
        mirror: None,
        images,
        stills: Stills::default(),
        health: Reporter::default(),
    };
    let actor = Actor::restore(parts, recovered).await.expect("there is nothing to restore");
    let running = tokio::spawn(actor.run(asks_out, news_out, fates_out, image_failures, CancellationToken::new()));
    let mut life = Life { rooms: Rooms::new(asks), news, asked, store, outbox, clock };
    let began = Instant::now();
    for number in 0..shelf.tasks {
        life.record(number, shelf).await;
        if began.elapsed() > Duration::from_secs(10) && number % 50 == 49 {
            eprintln!("  {} of {} recordings are on the shelf", number + 1, shelf.tasks);
        }
    }
    running.abort();
    let _ = running.await;
    spool.drained().await.expect("the shelf works");
    life.store.close().await.expect("the index closes");
}

impl Life {
    /// One recording from Create to its end.
    async fn record(&mut self, number: u32, shelf: Shelf) {
        let keys = StorageKeys { access_key: Secret::new(ACCESS_KEY), secret_key: Secret::new(SECRET_KEY) };
        let spec = spec(number);
        let (room, session) = (spec.room_key(), SessionId(u64::from(number)));
        let task = self.rooms.create(spec, keys, Secret::new("no ticket")).await.expect("Create");
        let (user, kind) = (UserId::parse("alice").expect("an id"), TrackKind::Video);
        self.tell(MediaNews::Entered { session, room, user, media: MediaId::Main, offers: vec![kind] }).await;
        let track = TrackId(u64::from(number));
        self.tell(MediaNews::TrackUp { session, track, kind, codec: Codec::H264 }).await;
        let Some(Asked::Start(order)) = self.asked.recv().await else { panic!("a lane starts") };
        for index in 0..shelf.segments_of_each {
            self.write(&order, number, index, shelf.segment_bytes).await;
        }
        self.rooms.delete(SdkAppId(APP), task.clone()).await.expect("Delete");
        let Some(Asked::Finish(run)) = self.asked.recv().await else { panic!("the lane is to end") };
        self.tell(MediaNews::LaneEnded { run, end: LaneEnd::Finished }).await;
        self.has_left(&task).await;
    }

    async fn write(&self, order: &LaneOrder, number: u32, index: u32, bytes: usize) {
        let length = Duration::from_secs(10);
        let mut segment = ClosedSegment {
            run: order.run.clone(),
            index,
            start: self.clock.wall(self.clock.now()).plus(length * index),
            duration: length,
            bytes: bytes as u64,
            size: Some((1280, 720)),
            discontinuity: index == 0,
            part_name: String::new(),
        };
        segment.part_name = LocalName::of(&segment).part().to_string();
        let stamp = [number.to_be_bytes(), index.to_be_bytes()].concat();
        let contents: Vec<u8> = stamp.into_iter().cycle().take(bytes).collect();
        fs::write(order.dir.join(&segment.part_name), contents).expect("there is room for it");
        if index == 0 {
            self.tell(MediaNews::FirstMedia { run: order.run.clone(), at: segment.start }).await;
        }
        self.tell(MediaNews::SegmentClosed(segment)).await;
    }

    async fn tell(&self, news: MediaNews) {
        self.news.send(news).await.expect("the actor lives");
    }

    /// Every segment is on the shelf then.
    async fn has_left(&self, task: &TaskId) {
        loop {
            let prefix = format!("{}{APP}/{task}/", records::OUTBOX);
            let events = self.store.scan(prefix).await.expect("the index answers");
            let left = |(key, bytes): &(String, Vec<u8>)| {
                let event = OutboxEntry::from_bytes(key, bytes).expect("it was just written").event;
                matches!(event.body, EventBody::RecorderStop { .. })
            };
            if events.iter().any(left) {
                return;
            }
            self.outbox.notified().await;
        }
    }
}

fn spec(number: u32) -> RecordingSpec {
    RecordingSpec {
        app: SdkAppId(APP),
        room: RoomId::Number(number + 1),
        mix: None,
        recorder: UserId::parse("recorder").expect("an id"),
        streams: StreamType::AudioVideo,
        media: MediaFilter::Both,
        subscription: Subscription::default(),
        max_idle: Duration::from_secs(3600),
        av_merge: false,
        fill_black: false,
        output: Default::default(),
        file_length: Duration::from_secs(24 * 3600),
        resume_wait: None,
        call_expiry: Duration::from_secs(72 * 3600),
        destination: Destination {
            vendor: Vendor::S3,
            region: "us-east-1".into(),
            bucket: BUCKET.into(),
            prefix: vec![PREFIX.into()],
        },
    }
}
