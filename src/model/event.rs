//! Events 301–312 and their outgoing JSON.
//!
//! Owns: the shapes of `RECORDING.md` §8. Must not touch: delivery, signing.
//! Law: ids never repeat; `seq` counts per task without holes; the body is a pure function of the event and of the
//! moment at which it is sent.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::packed::PackedFile;
use super::vod::Media;
use super::{LaneKind, RoomId, SdkAppId, TaskId, Timestamp, UserId};

/// Why the recorder left (302's `LeaveCode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaveCode {
    Stopped,
    Removed,
    Dismissed,
    RemovedByServer,
    DismissedByServer,
    IdleTimeout,
    TimedOut,
    SameUserEntered,
}

impl LeaveCode {
    pub fn code(self) -> u32 {
        match self {
            LeaveCode::Stopped => 0,
            LeaveCode::Removed => 1,
            LeaveCode::Dismissed => 2,
            LeaveCode::RemovedByServer => 3,
            LeaveCode::DismissedByServer => 4,
            LeaveCode::IdleTimeout => 99,
            LeaveCode::TimedOut => 100,
            LeaveCode::SameUserEntered => 101,
        }
    }
}

/// What went of a discarded task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Who asked: the SecretId of the call.
    pub by: String,
    /// When it was asked.
    pub at: Timestamp,
    /// On the box.
    pub files: u64,
    pub bytes: u64,
    /// At the destination: in 302 those that are to go, as far as they are known; in 305 those that went.
    pub objects: u64,
    pub object_bytes: Option<u64>,
    /// Uploads in parts that were given up.
    pub uploads: u64,
    /// What VOD had made of its files: the FileIds, known so far in 302, deleted in 305.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<String>,
}

impl Receipt {
    fn json(&self) -> Value {
        let mut json = json!({
            "By": self.by, "At": self.at.ms(), "Files": self.files, "Bytes": self.bytes, "Objects": self.objects,
        });
        if let Some(bytes) = self.object_bytes {
            json["ObjectBytes"] = bytes.into();
            json["Uploads"] = self.uploads.into();
        }
        if !self.media.is_empty() {
            json["FileIds"] = self.media.clone().into();
        }
        json
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventBody {
    /// 301; `failed` is `Status` 1
    RecorderStart { failed: bool },
    /// 302
    RecorderStop { code: LeaveCode },
    /// 302 of a discarded task: nothing of it is left on the box
    RecorderDiscarded { code: LeaveCode, receipt: Receipt },
    /// 303; `failed` is `Status` 1
    UploadStart { failed: bool },
    /// 304: a playlist was made and uploaded the first time
    FileInfo { playlist: String },
    /// 305: 0 all there, 1 something is left behind, 2 what was left behind has arrived
    UploadStop { status: u8 },
    /// 305 of a discarded task, with a status of ours, 3: nothing of it is left at its destination either
    Erased { receipt: Receipt },
    /// 306
    Failover,
    /// 307: a playlist was made (first segment cut)
    FileSlice { playlist: String, user: String, kind: LaneKind, begin: Timestamp },
    /// 308: as the storage said it
    UploadError { code: String, message: String },
    /// 309: an image of the layout could not be fetched or decoded
    ImageError { url: String },
    /// 310: 0 all packed files are there, 1 at least one is left behind, 2 none could be made
    Mp4Stop { status: u8, files: Vec<PackedFile> },
    /// 311: 0 VOD has the file, 1 it is left behind, 2 VOD refused it; `name` is the recording's own
    VodCommit { status: u8, why: String, name: String, file: PackedFile, media: Option<Media> },
    /// 312: 0 all files are on VOD, 1 some are not
    VodStop { status: u8 },
}

impl EventBody {
    pub fn event_type(&self) -> u32 {
        match self {
            EventBody::RecorderStart { .. } => 301,
            EventBody::RecorderStop { .. } | EventBody::RecorderDiscarded { .. } => 302,
            EventBody::UploadStart { .. } => 303,
            EventBody::FileInfo { .. } => 304,
            EventBody::UploadStop { .. } | EventBody::Erased { .. } => 305,
            EventBody::Failover => 306,
            EventBody::FileSlice { .. } => 307,
            EventBody::UploadError { .. } => 308,
            EventBody::ImageError { .. } => 309,
            EventBody::Mp4Stop { .. } => 310,
            EventBody::VodCommit { .. } => 311,
            EventBody::VodStop { .. } => 312,
        }
    }

    /// It says in which state its task is. Upload errors and pictures that did not come do not.
    pub fn is_state(&self) -> bool {
        !matches!(self, EventBody::UploadError { .. } | EventBody::ImageError { .. })
    }

    /// How much a receiver loses that never hears it; 0 is least. Errors are repeated while they last; 307 and 304 name
    /// what the bucket shows; without the others nobody knows that a task began, went on, or ended.
    pub fn worth(&self) -> u8 {
        match self {
            EventBody::UploadError { .. } => 0,
            EventBody::ImageError { .. } => 1,
            EventBody::FileInfo { .. } => 2,
            EventBody::FileSlice { .. } => 3,
            EventBody::UploadStart { .. } => 4,
            EventBody::RecorderStart { .. } | EventBody::Failover => 5,
            EventBody::RecorderStop { .. }
            | EventBody::UploadStop { .. }
            | EventBody::Mp4Stop { .. }
            | EventBody::VodCommit { .. }
            | EventBody::VodStop { .. } => 6,
            EventBody::RecorderDiscarded { .. } | EventBody::Erased { .. } => 6,
        }
    }

    /// What went of a discarded task.
    pub fn receipt(&self) -> Option<&Receipt> {
        match self {
            EventBody::RecorderDiscarded { receipt, .. } | EventBody::Erased { receipt } => Some(receipt),
            _ => None,
        }
    }

    fn payload(&self) -> Value {
        match self {
            EventBody::RecorderStart { failed } | EventBody::UploadStart { failed } => {
                json!({ "Status": u8::from(*failed) })
            }
            EventBody::RecorderStop { code } => json!({ "LeaveCode": code.code() }),
            EventBody::RecorderDiscarded { code, receipt } => {
                json!({ "LeaveCode": code.code(), "Discard": receipt.json() })
            }
            EventBody::Erased { receipt } => json!({ "Status": 3, "Discard": receipt.json() }),
            EventBody::FileInfo { playlist } => json!({ "FileList": playlist }),
            EventBody::UploadStop { status } | EventBody::VodStop { status } => json!({ "Status": status }),
            EventBody::Failover => json!({ "Status": 0 }),
            EventBody::FileSlice { playlist, user, kind, begin } => json!({
                "FileName": playlist, "UserId": user, "TrackType": kind.track_type(), "BeginTimeStamp": begin.ms(),
            }),
            EventBody::UploadError { code, message } => json!({ "Code": code, "Message": message }),
            EventBody::ImageError { url } => json!({ "Url": url }),
            EventBody::Mp4Stop { status, files } => {
                let names: Vec<&str> = files.iter().map(|file| file.object.as_str()).collect();
                let messages: Vec<Value> = files.iter().map(file_message).collect();
                json!({ "Status": status, "FileList": names, "FileMessage": messages })
            }
            EventBody::VodCommit { status, why, name, file, media } => {
                vod_commit(*status, why, name, file, media.as_ref())
            }
        }
    }

    /// The source's samples write `EventTs` as text in 301, 302 and 307 and as a number elsewhere; receivers written
    /// against them expect just that (API.md §4), and `EventMsTs` is a number everywhere.
    fn event_ts(&self, at: Timestamp) -> Value {
        match self.event_type() {
            301 | 302 | 307 => Value::String(at.secs().to_string()),
            _ => Value::from(at.secs()),
        }
    }
}

/// One of 310's `FileMessage`.
fn file_message(file: &PackedFile) -> Value {
    json!({
        "FileName": file.object,
        "UserId": file.user,
        "TrackType": file.kind.track_type(),
        "MediaId": file.media.as_str(),
        "StartTimeStamp": file.start.ms(),
        "EndTimeStamp": file.end.ms(),
    })
}

/// 311's payload: of a file that is there its address, of one that is not its name and why.
fn vod_commit(status: u8, why: &str, name: &str, file: &PackedFile, media: Option<&Media>) -> Value {
    let mut vod = json!({
        "UserId": file.user, "TrackType": file.kind.track_type(), "MediaId": file.media.as_str(),
    });
    match media {
        Some(media) => {
            vod["FileId"] = media.file_id.as_str().into();
            vod["VideoUrl"] = media.url.as_str().into();
            json!({ "Status": status, "TencentVod": vod })
        }
        None => {
            vod["CacheFile"] = name.into();
            json!({ "Status": status, "Errmsg": why, "TencentVod": vod })
        }
    }
}

/// A fact to announce: written in the same commit as the change that it reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub app: SdkAppId,
    pub room: RoomId,
    pub recorder: UserId,
    pub task: TaskId,
    /// Counts from 0 per task. `<task>-<seq>` is the event's id, by which a receiver drops repeats.
    pub seq: u64,
    pub at: Timestamp,
    pub body: EventBody,
}

impl Event {
    /// The request body, as sent at `sent`.
    pub fn to_json(&self, sent: Timestamp) -> String {
        let room = match &self.room {
            RoomId::Number(n) => Value::from(*n),
            RoomId::Text(text) => Value::from(text.as_str()),
        };
        json!({
            "EventGroupId": 3,
            "EventType": self.body.event_type(),
            "CallbackTs": sent.ms(),
            "EventInfo": {
                "RoomId": room,
                "EventTs": self.body.event_ts(self.at),
                "EventMsTs": self.at.ms(),
                "UserId": self.recorder.as_str(),
                "TaskId": self.task.as_str(),
                "EventId": format!("{}-{}", self.task, self.seq),
                "Payload": self.body.payload(),
            },
        })
        .to_string()
    }
}
