//! What was asked of a recording: whom of which room it takes, how, and where its files go.
//!
//! Owns: `RecordingSpec`. Must not touch: what becomes of it ([`super::task`]).
//! Law: a spec holds no secret, so that it can be stored and shown.
//! Sources: API.md §1.4–1.7.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::mix::MixSpec;
use super::output::{LONGEST, Output};
use super::vod::Vod;
use super::{MediaId, RoomId, RoomKey, SdkAppId, Secret, TrackKind, UserId};

/// Which kinds of media a task records (`StreamType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamType {
    AudioVideo,
    Audio,
    Video,
}

impl StreamType {
    pub fn wants(self, kind: TrackKind) -> bool {
        matches!(
            (self, kind),
            (StreamType::AudioVideo, _) | (StreamType::Audio, TrackKind::Audio) | (StreamType::Video, TrackKind::Video)
        )
    }
}

/// Which of a user's streams (`RecordParams.MediaId`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaFilter {
    Both,
    Main,
    Aux,
}

impl MediaFilter {
    pub fn wants(self, media: MediaId) -> bool {
        matches!(
            (self, media),
            (MediaFilter::Both, _) | (MediaFilter::Main, MediaId::Main) | (MediaFilter::Aux, MediaId::Aux)
        )
    }
}

/// One allow or deny list: entries are user ids, or prefixes where they end in `.*$` (API.md §1.6).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subscribers {
    #[default]
    Everybody,
    Only(Vec<String>),
    AllBut(Vec<String>),
}

/// `SubscribeStreamUserIds`: who is recorded, apart for sound and picture.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Subscription {
    pub audio: Subscribers,
    pub video: Subscribers,
}

/// Where a task's files go (`StorageParams.CloudStorage`, without its keys).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// 0 Tencent COS, 1 AWS S3; of VOD the rest is empty, since it says itself where each file goes
    pub vendor: Vendor,
    pub region: String,
    pub bucket: String,
    /// `FileNamePrefix`; joined with `/` before the task id
    pub prefix: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    Cos,
    S3,
    /// Tencent's VOD platform (`CloudVod`), by the box's own keys
    Vod(Box<Vod>),
}

/// Keys of a destination. Never in the spec, so that the spec can be stored and shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageKeys {
    pub access_key: Secret,
    pub secret_key: Secret,
}

/// What was asked for by Create, validated. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingSpec {
    pub app: SdkAppId,
    pub room: RoomId,
    /// The recorder's own user id in the room.
    pub recorder: UserId,
    /// `RecordMode` 2: one picture and one sound out of everybody. `None`: each stream apart.
    #[serde(default)]
    pub mix: Option<MixSpec>,
    pub streams: StreamType,
    pub media: MediaFilter,
    pub subscription: Subscription,
    /// Nobody in the room for so long ends the task (5 … 86400 s).
    pub max_idle: Duration,
    /// `AvMerge` = 1
    pub av_merge: bool,
    /// `FillType` = 1
    pub fill_black: bool,
    /// `ResourceExpiredHour`: after so long Describe, Modify and Delete refuse.
    pub call_expiry: Duration,
    /// `OutputFormat`
    #[serde(default)]
    pub output: Output,
    /// `MaxMediaFileDuration`: no packed file is longer.
    #[serde(default = "a_day")]
    pub file_length: Duration,
    /// A publisher who comes back later than this begins another file; `None`: always goes on in the same.
    #[serde(default)]
    pub resume_wait: Option<Duration>,
    pub destination: Destination,
}

fn a_day() -> Duration {
    LONGEST
}

impl RecordingSpec {
    pub fn room_key(&self) -> RoomKey {
        RoomKey { app: self.app, room: self.room.clone() }
    }

    /// What was asked for when the files go to VOD.
    pub fn vod(&self) -> Option<&Vod> {
        match &self.destination.vendor {
            Vendor::Vod(vod) => Some(vod),
            Vendor::Cos | Vendor::S3 => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Everybody, sound and pictures, main and aux.
    pub(crate) fn spec() -> RecordingSpec {
        RecordingSpec {
            app: SdkAppId(1_400_000_001),
            room: RoomId::Number(12345),
            recorder: UserId::parse("recorder").expect("a user id"),
            mix: None,
            streams: StreamType::AudioVideo,
            media: MediaFilter::Both,
            subscription: Subscription::default(),
            max_idle: Duration::from_secs(30),
            av_merge: false,
            fill_black: false,
            call_expiry: Duration::from_secs(72 * 3600),
            output: Output::Hls,
            file_length: LONGEST,
            resume_wait: None,
            destination: Destination {
                vendor: Vendor::S3,
                region: "local".into(),
                bucket: "recordings".into(),
                prefix: vec!["p1".into()],
            },
        }
    }
}
