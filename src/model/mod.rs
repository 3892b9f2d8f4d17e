//! The truth of the box: what may happen, and what follows from it.
//!
//! Owns: the words of the field as types (room, participant, track, lane, segment, task), the rules of
//! `RECORDING.md` and `API.md` as pure functions. Must not touch: files, sockets, clocks, threads, GStreamer.
//! Law: time is an argument; the same input gives the same output.

pub mod address;
pub mod alarm;
pub mod backlog;
pub mod board;
pub mod budget;
pub mod bundle;
pub mod button;
pub mod command;
pub mod disk;
pub mod encoder;
pub mod event;
pub mod fate;
pub mod fit;
pub mod lamps;
pub mod layout;
pub mod made;
pub mod merge;
pub mod mix;
pub mod output;
pub mod package;
pub mod packed;
pub mod piece;
pub mod playlist;
pub mod recording;
pub mod room;
pub mod rtp_time;
pub mod segment;
pub mod signature;
pub mod source;
pub mod task;
pub mod template;
pub mod twin;
pub mod vod;

use std::fmt;

use serde::{Deserialize, Serialize};

/// Application id of a TRTC application; every room, task and callback belongs to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SdkAppId(pub u32);

impl fmt::Display for SdkAppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is not an id. `field` is the API's own name of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct BadId {
    pub field: &'static str,
    pub reason: &'static str,
}

/// A room's id. A number and a text that looks like it are two rooms (API.md §1.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomId {
    /// 1 ..= 4294967294
    Number(u32),
    /// 1 ..= 64 bytes of the 89 allowed characters
    Text(String),
}

/// The 89 characters of a string room id (API.md §1.1).
fn room_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || " !#$%&()+-:;<=.>?@[]^_{}|~,".contains(c)
}

impl RoomId {
    /// A numeric room: 1 ..= 4294967294, decimal digits only.
    pub fn number(text: &str) -> Result<RoomId, BadId> {
        let bad = BadId { field: "RoomId", reason: "must be a number from 1 to 4294967294" };
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad);
        }
        match text.parse::<u32>() {
            Ok(n) if n != 0 && n != u32::MAX => Ok(RoomId::Number(n)),
            _ => Err(bad),
        }
    }

    /// A string room: at most 64 bytes of letters, digits and ``space !#$%&()+-:;<=.>?@[]^_{}|~,``.
    pub fn text(text: &str) -> Result<RoomId, BadId> {
        if text.is_empty() || text.len() > 64 {
            return Err(BadId { field: "RoomId", reason: "must be 1 to 64 bytes long" });
        }
        if !text.chars().all(room_char) {
            return Err(BadId { field: "RoomId", reason: "holds a character that a string room id must not have" });
        }
        Ok(RoomId::Text(text.to_owned()))
    }

    /// As it stands in file names: a number as it is, a text encoded like a user id (RECORDING.md §2).
    pub fn in_names(&self) -> String {
        match self {
            RoomId::Number(n) => n.to_string(),
            RoomId::Text(text) => segment::encode_id(text),
        }
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoomId::Number(n) => n.fmt(f),
            RoomId::Text(text) => text.fmt(f),
        }
    }
}

/// One room of one application: the key under which the box knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoomKey {
    pub app: SdkAppId,
    pub room: RoomId,
}

impl fmt::Display for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.room {
            RoomId::Number(n) => write!(f, "{}/{n}", self.app),
            RoomId::Text(text) => write!(f, "{}/'{text}'", self.app),
        }
    }
}

/// A participant's (or the recorder's) user id: 1 ..= 64 bytes, no control characters.
///
/// The client SDKs advise 32 bytes of letters, digits, `_` and `-` (API.md §1.1); the box takes more, since
/// names are encoded before they reach a file or an object key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(String);

impl UserId {
    pub fn parse(text: &str) -> Result<UserId, BadId> {
        if text.is_empty() || text.len() > 64 {
            return Err(BadId { field: "UserId", reason: "must be 1 to 64 bytes long" });
        }
        if text.chars().any(char::is_control) {
            return Err(BadId { field: "UserId", reason: "holds a control character" });
        }
        Ok(UserId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in file names (RECORDING.md §2).
    pub fn in_names(&self) -> String {
        segment::encode_id(&self.0)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A recording task's id: opaque, `[A-Za-z0-9+.-]`, never beginning with `-` (API.md §0.5).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(String);

impl TaskId {
    /// From random bytes (a UUID's, say): base64 as the cloud writes it, behind a letter that is never `-`.
    pub fn from_random(bytes: &[u8]) -> TaskId {
        TaskId(format!("h{}", segment::encode_bytes(bytes)))
    }

    /// A task id that somebody sent, or that a folder is called: 1 ..= 128 characters of the alphabet.
    pub fn parse(text: &str) -> Result<TaskId, BadId> {
        let fits = (1..=128).contains(&text.len())
            && !text.starts_with(['-', '.'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b));
        if !fits {
            return Err(BadId { field: "TaskId", reason: "is not a task id" });
        }
        Ok(TaskId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Main or auxiliary (screen share) stream of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaId {
    Main,
    Aux,
}

impl MediaId {
    pub fn as_str(self) -> &'static str {
        match self {
            MediaId::Main => "main",
            MediaId::Aux => "aux",
        }
    }
}

impl fmt::Display for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrackKind {
    Audio,
    Video,
}

impl TrackKind {
    pub fn as_str(self) -> &'static str {
        match self {
            TrackKind::Audio => "audio",
            TrackKind::Video => "video",
        }
    }
}

/// Wall time, Unix microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub const fn from_ms(ms: i64) -> Timestamp {
        Timestamp(ms.saturating_mul(1000))
    }
    /// Unix milliseconds, rounded down: the unit of every time in the API, the callbacks and the playlists.
    pub fn ms(self) -> i64 {
        self.0.div_euclid(1000)
    }
    pub fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
    pub fn plus(self, by: std::time::Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }
    /// How long after `earlier`; zero if it is not after it.
    pub fn since(self, earlier: Timestamp) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Asks the system for the wall time; made in `app`, the only reader of the system clock.
pub type WallClock = std::sync::Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Nanoseconds of the box's one monotonic media clock, which starts near 0 when the process starts.
/// All media of all publishers is stamped on it, so stamps compare across tracks, users and pipelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MediaTime(pub u64);

/// Something that must not be printed: a key, a UserSig, a storage credential. `Debug` and `Display` hide it.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// What the one entry is named that a secret is written as.
    pub const DIGEST: &str = "$secret";

    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }
    /// The secret itself, for the one place that signs or sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Never the secret: a digest of it, so that two can be compared. That too is for memory alone: whoever shows it to
/// somebody hides it under a key first.
impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, document: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = document.serialize_map(Some(1))?;
        let digest = (!self.is_empty()).then(|| hex::encode(<sha2::Sha256 as sha2::Digest>::digest(self.0.as_bytes())));
        map.serialize_entry(Secret::DIGEST, &digest)?;
        map.end()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// One WHIP session (or, later, one camera): a publisher's presence with one MediaId. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

/// One live track of one session. Never reused in the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrackId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    H264,
    Vp8,
    Vp9,
    Av1,
    Opus,
}

/// What a lane holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneKind {
    Audio,
    Video,
    /// Sound and picture in one TS: AvMerge = 1, or mixed
    AudioVideo,
}

impl LaneKind {
    /// `TrackType` of the API and the callbacks.
    pub fn track_type(self) -> &'static str {
        match self {
            LaneKind::Audio => "audio",
            LaneKind::Video => "video",
            LaneKind::AudioVideo => "audio_video",
        }
    }
    /// `<Type>` of file names; the merged one has no underscore (API.md §7.1).
    pub fn in_names(self) -> &'static str {
        match self {
            LaneKind::Audio => "audio",
            LaneKind::Video => "video",
            LaneKind::AudioVideo => "audiovideo",
        }
    }
    pub fn has_video(self) -> bool {
        self != LaneKind::Audio
    }
    pub fn has_audio(self) -> bool {
        self != LaneKind::Video
    }
}

/// One output of a task: a user's stream of one kind, or everybody mixed. Each has a playlist of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    /// `None`: everybody, mixed.
    pub user: Option<UserId>,
    pub media: MediaId,
    pub kind: LaneKind,
}

impl Lane {
    pub fn single(user: UserId, media: MediaId, kind: LaneKind) -> Lane {
        Lane { user: Some(user), media, kind }
    }

    /// The one lane of a mixed recording.
    pub fn mixed(kind: LaneKind) -> Lane {
        Lane { user: None, media: MediaId::Main, kind }
    }

    /// As the API and the callbacks write it: empty when mixed.
    pub fn user_id(&self) -> &str {
        self.user.as_ref().map_or("", UserId::as_str)
    }
}

/// One unbroken life of a lane's pipeline. A new run of the same lane begins with a discontinuity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LaneRun {
    pub task: TaskId,
    pub lane: Lane,
    /// Counts from 0 over the whole life of the task, restarts of the process included; never reused.
    pub run: u32,
}
