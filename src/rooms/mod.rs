//! The one actor: rooms, who is in them, and the recording tasks.
//!
//! Owns: the live set of rooms and tasks; the order of effects. Must not touch: the network, sled, GStreamer.
//! Law: one thing happens at a time; what is durable is committed before anything else is done; it never waits for
//! the cloud.

mod actor;

pub use actor::{Actor, Parts, Remembered};

use crate::model::board::Overload;
use crate::model::mix::Layout;
use crate::model::recording::{RecordingSpec, StorageKeys, Subscription};
use crate::model::segment::LaneFile;
use crate::model::template::Template;
use crate::model::{RoomKey, SdkAppId, Secret, TaskId, UserId};
use tokio::sync::{mpsc, oneshot};

/// Why the actor did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no such task, or it has ended")]
    TaskUnknown,
    #[error("no such room, or nobody is in it")]
    RoomUnknown,
    #[error("{running} recording tasks are running, and {limit} is the limit")]
    TooManyTasks { running: usize, limit: usize },
    #[error("the board has no room for one more mixed recording: {0}")]
    BoardFull(Overload),
    #[error("the recorder's user id is in use in the room")]
    RecorderInUse,
    #[error("the time within which this task takes calls (ResourceExpiredHour) is over")]
    CallsExpired,
    #[error("a layout is for mixed recordings, and this task records single streams")]
    NotMixed,
    #[error("the disk has no room for one more recording: {0}")]
    DiskFull(String),
    #[error("the disk fails: {0}")]
    DiskFailed(String),
    #[error("the box has more requests waiting than it takes")]
    Busy,
    #[error("the box is shutting down")]
    ShuttingDown,
    #[error("the index refused: {0}")]
    Store(String),
    #[error("the spool refused: {0}")]
    Spool(String),
}

/// `Status` of DescribeCloudRecording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    Idle,
    InProgress,
    Exited,
}

/// What Describe shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    pub task: TaskId,
    pub status: TaskStatus,
    /// Nothing is taken until it is resumed.
    pub paused: bool,
    pub files: Vec<LaneFile>,
}

/// What the door asks of the actor.
#[derive(Debug)]
pub enum Ask {
    Create {
        spec: Box<RecordingSpec>,
        keys: StorageKeys,
        user_sig: Secret,
        reply: oneshot::Sender<Result<TaskId, Error>>,
    },
    Describe {
        app: SdkAppId,
        task: TaskId,
        reply: oneshot::Sender<Result<TaskView, Error>>,
    },
    Modify {
        app: SdkAppId,
        task: TaskId,
        subscription: Subscription,
        /// `None`: not given, which means the default one to a mixed recording.
        layout: Option<Layout>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Delete {
        app: SdkAppId,
        task: TaskId,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// Ends it, and removes every byte of it.
    Discard {
        app: SdkAppId,
        task: TaskId,
        /// Who asks, for the receipt.
        by: String,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// What is recorded of itself from now on.
    SetTemplate {
        template: Option<Box<Template>>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// `pause` or resume.
    Pause {
        app: SdkAppId,
        task: TaskId,
        pause: bool,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    RemoveUsers {
        room: RoomKey,
        users: Vec<UserId>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// Whether the actor turns.
    Turn {
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Dismiss {
        room: RoomKey,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// The door's end of the line to the actor. Cloned freely; every call answers or says why not.
#[derive(Debug, Clone)]
pub struct Rooms {
    to: mpsc::Sender<Ask>,
}

impl Rooms {
    pub fn new(to: mpsc::Sender<Ask>) -> Rooms {
        Rooms { to }
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Ask) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.to.try_send(make(reply)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => Error::ShuttingDown,
        })?;
        answer.await.map_err(|_| Error::ShuttingDown)?
    }

    /// Starts a task; the same request again (API.md §0.6) answers with the task that it already started.
    pub async fn create(&self, spec: RecordingSpec, keys: StorageKeys, user_sig: Secret) -> Result<TaskId, Error> {
        self.ask(|reply| Ask::Create { spec: Box::new(spec), keys, user_sig, reply }).await
    }

    pub async fn describe(&self, app: SdkAppId, task: TaskId) -> Result<TaskView, Error> {
        self.ask(|reply| Ask::Describe { app, task, reply }).await
    }

    /// Replaces the subscription lists and a mixed recording's layout, whole.
    pub async fn modify(
        &self,
        app: SdkAppId,
        task: TaskId,
        subscription: Subscription,
        layout: Option<Layout>,
    ) -> Result<(), Error> {
        self.ask(|reply| Ask::Modify { app, task, subscription, layout, reply }).await
    }

    pub async fn delete(&self, app: SdkAppId, task: TaskId) -> Result<(), Error> {
        self.ask(|reply| Ask::Delete { app, task, reply }).await
    }

    /// Ends a task, or finds one that has ended and has not all arrived, and removes every byte of it, here and at the
    /// destination.
    pub async fn discard(&self, app: SdkAppId, task: TaskId, by: String) -> Result<(), Error> {
        self.ask(|reply| Ask::Discard { app, task, by, reply }).await
    }

    /// Nothing is recorded until the task is resumed.
    pub async fn pause(&self, app: SdkAppId, task: TaskId) -> Result<(), Error> {
        self.ask(|reply| Ask::Pause { app, task, pause: true, reply }).await
    }

    pub async fn resume(&self, app: SdkAppId, task: TaskId) -> Result<(), Error> {
        self.ask(|reply| Ask::Pause { app, task, pause: false, reply }).await
    }

    /// What is recorded of itself from now on, in rooms that come to be; `None`: nothing.
    pub async fn set_template(&self, template: Option<Template>) -> Result<(), Error> {
        self.ask(|reply| Ask::SetTemplate { template: template.map(Box::new), reply }).await
    }

    /// Publishers and recorders among `users` leave the room (RemoveUser).
    pub async fn remove_users(&self, room: RoomKey, users: Vec<UserId>) -> Result<(), Error> {
        self.ask(|reply| Ask::RemoveUsers { room, users, reply }).await
    }

    /// Answers once the actor has come round to it.
    pub async fn turned(&self) -> Result<(), Error> {
        self.ask(|reply| Ask::Turn { reply }).await
    }

    /// Everybody leaves, and tasks in it end with LeaveCode 2.
    pub async fn dismiss(&self, room: RoomKey) -> Result<(), Error> {
        self.ask(|reply| Ask::Dismiss { room, reply }).await
    }
}
