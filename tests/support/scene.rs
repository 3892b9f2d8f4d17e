//! A box with its surroundings: a callback receiver, a place for the files, and the SDK that drives it.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use serde_json::Value;

use super::bucket::{Kind, S3, local_objects};
use super::daemon::{Daemon, Settings};
use super::publisher::{Publisher, Sends};
use super::receiver::{Callback, Receiver};
use super::recorded::{PREFIX, Recording};
use super::sdk::{ApiError, Sdk};
use super::{LATER, within};

pub struct Scene {
    pub daemon: Daemon,
    pub sdk: Sdk,
    pub receiver: Receiver,
    /// `None`: the box stores locally.
    pub s3: Option<S3>,
    began_ms: i64,
}

/// Of the wall clock.
pub fn now_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "what a recording says of its time is compared with the real one")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).expect("the clock is set");
    i64::try_from(since.as_millis()).expect("a time of our days")
}

/// Asks again and again until there is an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    within(LATER, what, found).await
}

impl Scene {
    /// With s3s-fs as the destination.
    pub async fn new(change: impl FnOnce(&mut Settings)) -> Scene {
        Scene::with(Some(S3::start(Kind::S3sFs).await), change).await
    }

    /// With the box's own store as the destination.
    pub async fn local(change: impl FnOnce(&mut Settings)) -> Scene {
        Scene::with(None, change).await
    }

    pub async fn with(s3: Option<S3>, change: impl FnOnce(&mut Settings)) -> Scene {
        let began_ms = now_ms();
        let receiver = Receiver::start().await;
        let mut settings = Settings {
            callback_url: Some(receiver.url.clone()),
            s3_endpoint: s3.as_ref().map(|s3| s3.endpoint.clone()),
            ..Settings::default()
        };
        change(&mut settings);
        let daemon = Daemon::start(settings).await;
        let sdk = Sdk::start(&daemon).await;
        Scene { daemon, sdk, receiver, s3, began_ms }
    }

    /// `holdfast publish` into a string room.
    pub async fn publish(&self, room: &str, user: &str, sends: Sends) -> Publisher {
        let token = self.sdk.user_sig(user).await;
        Publisher::launch(&self.daemon.whip(room, user), &token, sends)
    }

    pub async fn create(&self, room: &str) -> String {
        self.sdk.create(room, "recorder", |_| {}).await.expect("a plain Create works")
    }

    /// Awaits that `lanes` playlists have begun (307).
    pub async fn lanes_began(&self, task: &str, lanes: usize) {
        self.receiver.nth(task, 307, lanes).await;
    }

    /// The destination's objects of a task, as they are now.
    pub async fn objects(&self, task: &str) -> BTreeMap<String, Vec<u8>> {
        match &self.s3 {
            Some(s3) => s3.objects(&format!("{PREFIX}/{task}/")).await,
            None => local_objects(&self.daemon.local_root()),
        }
    }

    pub async fn recording(&self, task: &str) -> Recording {
        Recording::of(&self.objects(task).await, task)
    }

    /// Names of the task's segments that the destination has, of one user and kind.
    pub async fn segments(&self, task: &str, user: &str, kind: &str) -> Vec<String> {
        let recording = self.recording(task).await;
        let Some(lane) = recording.find(user, kind) else { return Vec::new() };
        lane.playlist.segments.iter().map(|s| s.name.clone()).collect()
    }

    /// Awaits that a lane's list at the destination has at least `n` segments.
    pub async fn has_segments(&self, task: &str, user: &str, kind: &str, n: usize) {
        let what = format!("{n} {kind} segments of {user} at the destination");
        until(&what, || async { (self.segments(task, user, kind).await.len() >= n).then_some(()) }).await;
    }

    /// Deletes the task, awaits 305 with Status 0, and reads everything back.
    pub async fn finish(&self, task: &str) -> Recording {
        self.sdk.delete(task).await.expect("a running task can be deleted");
        assert_eq!(self.receiver.event(task, 302).await.payload()["LeaveCode"], 0);
        self.uploaded(task).await
    }

    /// Awaits that all files of an ended task are at the destination (305 Status 0, or 2 after a 1).
    pub async fn uploaded(&self, task: &str) -> Recording {
        let arrived = |all: &[Callback]| {
            let mut ends = all.iter().filter(|c| c.task() == task && c.event() == 305);
            ends.any(|c| c.payload()["Status"] == 0 || c.payload()["Status"] == 2).then_some(())
        };
        self.receiver.wait_for(&format!("305 of {task} with everything uploaded"), arrived).await;
        let recording = self.recording(task).await;
        recording.assert_whole();
        for lane in &recording.lanes {
            let start = lane.playlist.start_ms;
            assert!((self.began_ms..=now_ms()).contains(&start), "{} began at {start}, not in this test", lane.name);
        }
        recording
    }

    pub async fn leave_code(&self, task: &str) -> Value {
        self.receiver.event(task, 302).await.payload()["LeaveCode"].clone()
    }

    /// Awaits that the task is over for the API.
    pub async fn gone(&self, task: &str) -> ApiError {
        until("Describe to refuse", || async { self.sdk.describe(task).await.err() }).await
    }
}

/// What must be true of a finished task's callbacks: signed, in order, each playlist once in 307 and then in 304.
pub fn assert_story(callbacks: &[Callback], lanes: usize) {
    let events: Vec<u64> = callbacks.iter().map(Callback::event).collect();
    for callback in callbacks {
        assert!(callback.signed, "wrong Sign: {}", callback.body);
        assert_eq!(callback.content_type, "application/json");
        assert_eq!(callback.app, super::APP.to_string());
        assert_eq!(callback.json["EventGroupId"], 3, "{}", callback.body);
        assert!(callback.json["CallbackTs"].is_u64() && callback.info()["EventMsTs"].is_u64(), "{}", callback.body);
    }
    let count = |event| events.iter().filter(|e| **e == event).count();
    let place = |event| events.iter().position(|e| *e == event);
    assert_eq!(events.first(), Some(&301), "{events:?}");
    assert_eq!(events.last(), Some(&305), "{events:?}");
    assert_eq!((count(301), count(302), count(303), count(305)), (1, 1, 1, 1), "{events:?}");
    assert_eq!((count(307), count(304)), (lanes, lanes), "{events:?}");
    assert!(place(302) < place(305) && place(303) < place(304), "{events:?}");
    let names = |event: u64, field: &str| -> Vec<(usize, String)> {
        let found = callbacks.iter().enumerate().filter(|(_, c)| c.event() == event);
        found.map(|(i, c)| (i, c.payload()[field].as_str().unwrap_or_default().to_owned())).collect()
    };
    let made = names(307, "FileName");
    for (at, name) in names(304, "FileList") {
        let before = made.iter().any(|(i, made)| *made == name && *i < at);
        assert!(before, "{name} was uploaded (304) without having been made (307): {events:?}");
    }
}
