//! The words of the wire: actions, their requests as orders of the model, their answers as JSON.
//!
//! Owns: what fields mean together, the conversion both ways. Must not touch: single fields (`schema`), pictures and
//! their places (`mix`), HTTP, the actor.
//! Law: a request is well-formed first and possible second: what the box does not do is refused with
//! `UnsupportedOperation` after everything else was found good, never taken and ignored (`call`). Keys and tickets leave here as
//! `Secret`s.
//! Source: API.md §1.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::Fields;
use super::mix;
use super::schema::{self, Field};
use crate::model::mix::{Layout, MixSpec};
use crate::model::output::{Container, Output};
use crate::model::recording::{
    Destination, MediaFilter, RecordingSpec, StorageKeys, StreamType, Subscribers, Subscription, Vendor,
};
use crate::model::template::{BUTTON, RECORDER};
use crate::model::vod::{self, Vod};
use crate::model::{BadId, RoomKey, SdkAppId, Secret, TaskId, UserId};
use crate::rooms::{TaskStatus, TaskView};

pub const VERSION: &str = "2019-07-22";

/// What the box answers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    CreateCloudRecording,
    DescribeCloudRecording,
    ModifyCloudRecording,
    DeleteCloudRecording,
    /// Ours, as the next one.
    PauseCloudRecording,
    ResumeCloudRecording,
    RemoveUser,
    RemoveUserByStrRoomId,
    DismissRoom,
    DismissRoomByStrRoomId,
}

impl Action {
    pub const ALL: [Action; 10] = [
        Action::CreateCloudRecording,
        Action::DescribeCloudRecording,
        Action::ModifyCloudRecording,
        Action::DeleteCloudRecording,
        Action::PauseCloudRecording,
        Action::ResumeCloudRecording,
        Action::RemoveUser,
        Action::RemoveUserByStrRoomId,
        Action::DismissRoom,
        Action::DismissRoomByStrRoomId,
    ];

    pub fn parse(name: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Action::CreateCloudRecording => "CreateCloudRecording",
            Action::DescribeCloudRecording => "DescribeCloudRecording",
            Action::ModifyCloudRecording => "ModifyCloudRecording",
            Action::DeleteCloudRecording => "DeleteCloudRecording",
            Action::PauseCloudRecording => "PauseCloudRecording",
            Action::ResumeCloudRecording => "ResumeCloudRecording",
            Action::RemoveUser => "RemoveUser",
            Action::RemoveUserByStrRoomId => "RemoveUserByStrRoomId",
            Action::DismissRoom => "DismissRoom",
            Action::DismissRoomByStrRoomId => "DismissRoomByStrRoomId",
        }
    }

    pub fn fields(self) -> &'static [Field] {
        match self {
            Action::CreateCloudRecording => schema::CREATE,
            Action::DescribeCloudRecording => schema::DESCRIBE,
            Action::ModifyCloudRecording => schema::MODIFY,
            Action::DeleteCloudRecording => schema::DELETE,
            Action::PauseCloudRecording => schema::PAUSE,
            Action::ResumeCloudRecording => schema::RESUME,
            Action::RemoveUser => schema::REMOVE_USER,
            Action::RemoveUserByStrRoomId => schema::REMOVE_USER_BY_STR_ROOM_ID,
            Action::DismissRoom => schema::DISMISS_ROOM,
            Action::DismissRoomByStrRoomId => schema::DISMISS_ROOM_BY_STR_ROOM_ID,
        }
    }
}

/// Create, well-formed and possible. Printing it shows no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOrder {
    pub spec: RecordingSpec,
    pub keys: StorageKeys,
    pub user_sig: Secret,
    pub private_map_key: Option<Secret>,
}

/// A request, understood. A Modify without `MixLayoutParams` has no layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Create(Box<CreateOrder>),
    Describe {
        app: SdkAppId,
        task: TaskId,
    },
    Modify {
        app: SdkAppId,
        task: TaskId,
        subscription: Subscription,
        layout: Option<Layout>,
    },
    /// `discard`: every byte of it goes.
    Delete {
        app: SdkAppId,
        task: TaskId,
        discard: bool,
    },
    Pause {
        app: SdkAppId,
        task: TaskId,
    },
    Resume {
        app: SdkAppId,
        task: TaskId,
    },
    RemoveUsers {
        room: RoomKey,
        users: Vec<UserId>,
    },
    Dismiss {
        room: RoomKey,
    },
}

impl Call {
    /// The application that it speaks of.
    pub fn app(&self) -> SdkAppId {
        match self {
            Call::Create(order) => order.spec.app,
            Call::Describe { app, .. } | Call::Modify { app, .. } | Call::Delete { app, .. } => *app,
            Call::Pause { app, .. } | Call::Resume { app, .. } => *app,
            Call::RemoveUsers { room, .. } | Call::Dismiss { room } => room.app,
        }
    }
}

impl From<BadId> for ApiError {
    fn from(bad: BadId) -> ApiError {
        ApiError::invalid(bad.field, bad.field, bad.reason)
    }
}

/// Understands an action's parameters.
pub fn read(action: Action, params: &Map<String, Value>) -> Result<Call, ApiError> {
    schema::check(action.fields(), params, "")?;
    let given = Fields::of(params);
    let app = given.app();
    match action {
        Action::CreateCloudRecording => create(given).map(|order| Call::Create(Box::new(order))),
        Action::DescribeCloudRecording => {
            let task = given.task()?;
            if !given.text("RecorderKey").is_empty() {
                return Err(ApiError::unsupported(
                    "RecorderKey names recordings started by a relay task, which this box does not have: leave it out",
                ));
            }
            Ok(Call::Describe { app, task })
        }
        Action::ModifyCloudRecording => {
            let task = given.task()?;
            let subscription = subscription(given.object("SubscribeStreamUserIds"))?;
            let params = given.object("MixLayoutParams");
            let layout = if given.has("MixLayoutParams") { Some(mix::layout(params, None)?) } else { None };
            Ok(Call::Modify { app, task, subscription, layout })
        }
        Action::DeleteCloudRecording => Ok(Call::Delete { app, task: given.task()?, discard: given.flag("Discard") }),
        Action::PauseCloudRecording => Ok(Call::Pause { app, task: given.task()? }),
        Action::ResumeCloudRecording => Ok(Call::Resume { app, task: given.task()? }),
        Action::RemoveUser | Action::RemoveUserByStrRoomId => {
            let room = given.room(action == Action::RemoveUser)?;
            let users: Result<Vec<UserId>, BadId> =
                given.texts("UserIds").iter().map(|user| UserId::parse(user)).collect();
            let users = users.map_err(|bad| ApiError::invalid("UserIds", "UserIds", bad.reason))?;
            Ok(Call::RemoveUsers { room: RoomKey { app, room }, users })
        }
        Action::DismissRoom | Action::DismissRoomByStrRoomId => {
            let room = given.room(action == Action::DismissRoom)?;
            Ok(Call::Dismiss { room: RoomKey { app, room } })
        }
    }
}

fn create(given: Fields<'_>) -> Result<CreateOrder, ApiError> {
    let room = given.room(given.int("RoomIdType", 1) == 1)?;
    let recorder = UserId::parse(given.text("UserId"))?;
    if [RECORDER, BUTTON].contains(&recorder.as_str()) {
        return Err(ApiError::invalid("UserId", "UserId", "is the name of the box's own recorder"));
    }
    let record = given.object("RecordParams");
    let subscription = subscription(record.object("SubscribeStreamUserIds"))?;
    let transcode = given.object("MixTranscodeParams");
    let (video, asked) = mix::video(transcode)?;
    let layout = mix::layout(given.object("MixLayoutParams"), Some(asked))?;
    // Both blocks belong to a mixed recording; with single streams they are checked, and mean nothing.
    let mix = MixSpec { video, audio: mix::audio(transcode), layout };
    let stream_type = record.int("StreamType", 0);

    let storage = given.object("StorageParams");
    let (output, destination) = destination(storage, record, stream_type)?;
    // one address for each user: sound and picture are in one file
    let lists = matches!(&destination.vendor, Vendor::Vod(vod) if vod.lists);
    let spec = RecordingSpec {
        app: given.app(),
        room,
        recorder,
        mix: (record.int("RecordMode", 1) == 2).then_some(mix),
        streams: match stream_type {
            // what is not to be written is not recorded
            _ if output == Output::Aac => StreamType::Audio,
            1 => StreamType::Audio,
            2 => StreamType::Video,
            _ => StreamType::AudioVideo,
        },
        media: match record.int("MediaId", 0) {
            1 => MediaFilter::Main,
            2 => MediaFilter::Aux,
            _ => MediaFilter::Both,
        },
        subscription,
        max_idle: Duration::from_secs(record.int("MaxIdleTime", 30).unsigned_abs()),
        av_merge: record.int("AvMerge", 0) == 1 || lists,
        fill_black: record.int("FillType", 0) == 1,
        call_expiry: Duration::from_secs(given.int("ResourceExpiredHour", 72).unsigned_abs() * 3600),
        output,
        file_length: Duration::from_secs(record.int("MaxMediaFileDuration", 1440).unsigned_abs() * 60),
        resume_wait: None,
        destination,
    };
    let (cloud, private_map_key) = (storage.object("CloudStorage"), given.secret("PrivateMapKey"));
    Ok(CreateOrder {
        spec,
        keys: StorageKeys { access_key: cloud.secret("AccessKey"), secret_key: cloud.secret("SecretKey") },
        user_sig: given.secret("UserSig"),
        private_map_key: (!private_map_key.is_empty()).then_some(private_map_key),
    })
}

/// What is asked for, and where it goes: `CloudStorage` or `CloudVod`.
fn destination(storage: Fields<'_>, record: Fields<'_>, stream_type: i64) -> Result<(Output, Destination), ApiError> {
    let vod = match (storage.has("CloudStorage"), storage.has("CloudVod")) {
        (true, true) => {
            return Err(ApiError::invalid(
                "StorageParams",
                "StorageParams",
                "must hold CloudStorage or CloudVod, not both",
            ));
        }
        (false, false) => return Err(ApiError::missing("CloudStorage", "StorageParams.CloudStorage")),
        (false, true) => Some(vod(storage.object("CloudVod").object("TencentVod"), stream_type)?),
        (true, false) => None,
    };
    let cloud = storage.object("CloudStorage");
    let prefix = cloud.texts("FileNamePrefix");
    // Task id and file name come behind it, and an object key ends at 1024 bytes.
    if prefix.iter().map(|part| part.len() + 1).sum::<usize>() > 512 {
        return Err(ApiError::invalid(
            "FileNamePrefix",
            "StorageParams.CloudStorage.FileNamePrefix",
            "must be at most 512 bytes long when joined",
        ));
    }
    let (output, vendor) = match vod {
        // OutputFormat means nothing to VOD (API.md §1.5)
        Some((output, vod)) => (output, Vendor::Vod(Box::new(vod))),
        None => (output(record, stream_type)?, if cloud.int("Vendor", 0) == 1 { Vendor::S3 } else { Vendor::Cos }),
    };
    let (region, bucket) = (cloud.text("Region").to_owned(), cloud.text("Bucket").to_owned());
    Ok((output, Destination { vendor, region, bucket, prefix }))
}

/// `OutputFormat`; aac needs sound.
fn output(record: Fields<'_>, stream_type: i64) -> Result<Output, ApiError> {
    let output = match record.int("OutputFormat", 0) {
        1 => Output::HlsMp4,
        2 => Output::HlsAac,
        3 => Output::Mp4,
        4 => Output::Aac,
        _ => Output::Hls,
    };
    if output.container() == Some(Container::Adts) && stream_type == 2 {
        return Err(ApiError::invalid(
            "OutputFormat",
            "RecordParams.OutputFormat",
            "must not be 2 or 4 (aac) when StreamType is 2 (video only)",
        ));
    }
    Ok(output)
}

/// Allow and deny list of one kind exclude each other; an empty list is as good as none (API.md §1.6).
fn subscription(given: Fields<'_>) -> Result<Subscription, ApiError> {
    Ok(Subscription {
        audio: subscribers(given, "SubscribeAudioUserIds", "UnSubscribeAudioUserIds")?,
        video: subscribers(given, "SubscribeVideoUserIds", "UnSubscribeVideoUserIds")?,
    })
}

fn subscribers(given: Fields<'_>, allow: &'static str, deny: &'static str) -> Result<Subscribers, ApiError> {
    let (allowed, denied) = (given.texts(allow), given.texts(deny));
    match (allowed.is_empty(), denied.is_empty()) {
        (true, true) => Ok(Subscribers::Everybody),
        (false, true) => Ok(Subscribers::Only(allowed)),
        (true, false) => Ok(Subscribers::AllBut(denied)),
        (false, false) => Err(ApiError::invalid(
            allow,
            &format!("SubscribeStreamUserIds.{allow}"),
            &format!("must not be given together with {deny}"),
        )),
    }
}

/// What goes to VOD. Two formats are for recordings of sound alone (API.md §1.7).
fn vod(given: Fields<'_>, stream_type: i64) -> Result<(Output, Vod), ApiError> {
    if matches!(given.int("MediaType", 0), 2 | 4) && stream_type != 1 {
        return Err(ApiError::invalid(
            "MediaType",
            "StorageParams.CloudVod.TencentVod.MediaType",
            "must not be 2 or 4 unless StreamType is 1",
        ));
    }
    let (output, lists) = vod::output(given.int("MediaType", 0));
    let text = |name: &str| given.filled(name).map(str::to_owned);
    let vod = Vod {
        procedure: text("Procedure"),
        expire_seconds: given.int("ExpireTime", 0).unsigned_abs(),
        storage_region: text("StorageRegion"),
        class_id: given.int("ClassId", 0),
        sub_app: Some(given.int("SubAppId", 0)).filter(|id| *id != 0),
        session_context: text("SessionContext"),
        source_context: text("SourceContext"),
        lists,
        record_id: text("UserDefineRecordId"),
    };
    Ok((output, vod))
}

/// What stands in `Response` beside `RequestId`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    Task(TaskAnswer),
    View(ViewAnswer),
    Nothing {},
}

/// Create, Modify, Delete, Pause, Resume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskAnswer {
    pub task_id: TaskId,
}

/// Describe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ViewAnswer {
    pub task_id: TaskId,
    /// `Idle`, `InProgress` or `Exited`
    pub status: &'static str,
    pub storage_file_list: Vec<StorageFile>,
    /// The box has no relay tasks that could have one.
    pub recorder_key: Option<String>,
    /// Ours; there only while the task is paused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StorageFile {
    pub user_id: String,
    pub file_name: String,
    /// `audio`, `video` or `audio_video`
    pub track_type: &'static str,
    /// Unix milliseconds; spelled as the API spells it.
    #[serde(rename = "BeginTimeStamp")]
    pub begin_time_stamp: i64,
}

impl From<TaskView> for ViewAnswer {
    fn from(view: TaskView) -> ViewAnswer {
        let file = |file: crate::model::segment::LaneFile| StorageFile {
            user_id: file.lane.user_id().to_owned(),
            file_name: file.file_name,
            track_type: file.lane.kind.track_type(),
            begin_time_stamp: file.begin.ms(),
        };
        ViewAnswer {
            task_id: view.task,
            status: match view.status {
                TaskStatus::Idle => "Idle",
                TaskStatus::InProgress => "InProgress",
                TaskStatus::Exited => "Exited",
            },
            storage_file_list: view.files.into_iter().map(file).collect(),
            recorder_key: None,
            paused: view.paused,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope<T: Serialize> {
    response: T,
}

#[derive(Serialize)]
struct Good<'a> {
    #[serde(flatten)]
    answer: &'a Answer,
    #[serde(rename = "RequestId")]
    request_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Bad<'a> {
    error: Fault<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Fault<'a> {
    code: &'a str,
    message: &'a str,
}

/// The body of an answer. `Error` is there or not there, never `null`; `RequestId` always (API.md §0.7).
pub fn body(outcome: &Result<Answer, ApiError>, request_id: &str) -> Vec<u8> {
    let written = match outcome {
        Ok(answer) => serde_json::to_vec(&Envelope { response: Good { answer, request_id } }),
        Err(error) => {
            let code = error.code.text();
            let error = Fault { code: &code, message: &error.outside };
            serde_json::to_vec(&Envelope { response: Bad { error, request_id } })
        }
    };
    written.expect("texts and integers can be written as JSON")
}
