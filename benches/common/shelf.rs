//! A shelf as a box leaves it that was cut off from its bucket: recordings that have ended, none of them uploaded.
//!
//! The box's own actor, spool and index make it; only the engine is a script, which writes bytes in place of pictures.

#[path = "../../tests/life/mod.rs"]
mod life;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast::app::wall_clock;
use holdfast::config::Config;
use holdfast::media::{LaneEnd, LaneOrder, MediaNews};
use holdfast::model::event::EventBody;
use holdfast::model::recording::{Destination, RecordingSpec, StorageKeys, Vendor};
use holdfast::model::segment::{ClosedSegment, LocalName};
use holdfast::model::{Codec, MediaId, RoomId, SdkAppId, Secret, SessionId, TaskId, TrackId, TrackKind, UserId};
use holdfast::store::records::{self, OutboxEntry};

use self::life::{Asked, Life};
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

/// Fills a state directory and lets it lie, as if the power had gone.
pub async fn fill(state: &Path, shelf: Shelf) {
    fs::create_dir_all(state).expect("the folder is ours");
    let mut config = Config::default();
    config.server.state_dir = state.to_owned();
    let mut life = Life::begin_at(state, config, None, wall_clock()()).await;
    let began = Instant::now();
    for number in 0..shelf.tasks {
        life.record(number, shelf).await;
        if began.elapsed() > Duration::from_secs(10) && number % 50 == 49 {
            eprintln!("  {} of {} recordings are on the shelf", number + 1, shelf.tasks);
        }
    }
    life.crash().await;
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
        destination: Destination {
            vendor: Vendor::S3,
            region: "us-east-1".into(),
            bucket: BUCKET.into(),
            prefix: vec![PREFIX.into()],
        },
        ..life::spec()
    }
}
