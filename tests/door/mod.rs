//! A door with nobody behind it: the real router, an actor that answers as it is told, publishers that are made up.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use holdfast::api::{self, Door, WhipDoor};
use holdfast::config::{ApiKey, App, Config, Limits};
use holdfast::health::Reporter;
use holdfast::media::whip::{Patched, PublishOrder, Published, WhipError};
use holdfast::model::mix::Layout;
use holdfast::model::recording::{RecordingSpec, StorageKeys, Subscription};
use holdfast::model::segment::LaneFile;
use holdfast::model::signature::{gen_user_sig, sign_tc3};
use holdfast::model::{
    Lane, LaneKind, MediaId, RoomKey, SdkAppId, Secret, SessionId, TaskId, Timestamp, UserId, WallClock,
};
use holdfast::rooms::{Ask, Error, Rooms, TaskStatus, TaskView};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceExt;

pub const APP: SdkAppId = SdkAppId(1400000001);
pub const APP_KEY: &str = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e";
pub const KEYLESS_APP: SdkAppId = SdkAppId(1400000002);
pub const API_ID: &str = "AKIDEXAMPLE";
pub const API_KEY: &str = "SECRETEXAMPLE0123456789";
/// A key that may speak for `KEYLESS_APP` alone.
pub const OTHER_ID: &str = "AKIDOTHER";
pub const OTHER_KEY: &str = "OTHERSECRET";
pub const NOW: i64 = 1795343500;

/// What the actor was asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Create { spec: Box<RecordingSpec>, keys: StorageKeys, user_sig: Secret },
    Describe { app: SdkAppId, task: TaskId },
    Modify { app: SdkAppId, task: TaskId, subscription: Subscription, layout: Option<Layout> },
    Delete { app: SdkAppId, task: TaskId },
    Discard { app: SdkAppId, task: TaskId, by: String },
    Pause { app: SdkAppId, task: TaskId, pause: bool },
    RemoveUsers { room: RoomKey, users: Vec<UserId> },
    Dismiss { room: RoomKey },
}

/// Publishers' requests as they arrive, and the answers to them.
#[derive(Default)]
pub struct Publishers {
    pub orders: Mutex<Vec<PublishOrder>>,
    pub patches: Mutex<Vec<(String, Option<String>, String)>>,
    pub left: Mutex<Vec<String>>,
    pub refuse: Mutex<Option<WhipError>>,
    pub restart: Mutex<bool>,
}

impl Publishers {
    fn refusal(&self) -> Result<(), WhipError> {
        self.refuse.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

#[async_trait::async_trait]
impl WhipDoor for Publishers {
    async fn publish(&self, order: PublishOrder) -> Result<Published, WhipError> {
        self.refusal()?;
        self.orders.lock().unwrap().push(order);
        Ok(Published {
            session: SessionId(7),
            resource: "b1946ac92492d2347c6235b4d2611184".into(),
            etag: "1".into(),
            answer: "v=0\r\nanswer\r\n".into(),
        })
    }

    async fn patch(&self, resource: &str, if_match: Option<&str>, fragment: &str) -> Result<Patched, WhipError> {
        self.refusal()?;
        self.patches.lock().unwrap().push((resource.into(), if_match.map(str::to_owned), fragment.into()));
        if *self.restart.lock().unwrap() {
            return Ok(Patched::Restarted { etag: "2".into(), fragment: "a=ice-ufrag:new\r\n".into() });
        }
        Ok(Patched::NoContent)
    }

    async fn leave(&self, resource: &str) -> Result<(), WhipError> {
        self.refusal()?;
        self.left.lock().unwrap().push(resource.into());
        Ok(())
    }
}

pub struct Bench {
    pub door: Door,
    pub router: Router,
    pub heard: Arc<Mutex<Vec<Heard>>>,
    /// What the actor answers instead of its usual, one question each.
    pub fail: Arc<Mutex<VecDeque<Error>>>,
    pub publishers: Arc<Publishers>,
    pub health: Reporter,
    pub now: Arc<Mutex<Timestamp>>,
}

pub fn config() -> Config {
    Config {
        apps: vec![
            App { sdk_app_id: APP, secret_key: Some(Secret::new(APP_KEY)), callback_url: None, callback_key: None },
            App { sdk_app_id: KEYLESS_APP, secret_key: None, callback_url: None, callback_key: None },
        ],
        api_keys: vec![
            ApiKey { secret_id: API_ID.into(), secret_key: Secret::new(API_KEY), apps: Default::default() },
            ApiKey { secret_id: OTHER_ID.into(), secret_key: Secret::new(OTHER_KEY), apps: [KEYLESS_APP].into() },
        ],
        ..Config::default()
    }
}

/// The process has one recorder of metrics.
fn figures() -> PrometheusHandle {
    static HANDLE: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();
    HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().expect("the first recorder")).clone()
}

pub fn task() -> TaskId {
    TaskId::parse("hAAAAAAAAAAAAAAAAAAAAAA..").unwrap()
}

fn view(task: TaskId) -> TaskView {
    let lane = |user: &str, kind| Lane::single(UserId::parse(user).unwrap(), MediaId::Main, kind);
    let file = |user: &str, kind: LaneKind, ms| LaneFile {
        lane: lane(user, kind),
        file_name: format!("1400000001_7__UserId_s_{user}__UserId_e_main_{}.m3u8", kind.in_names()),
        begin: Timestamp::from_ms(ms),
    };
    TaskView {
        task,
        status: TaskStatus::InProgress,
        paused: false,
        files: vec![file("YQ..", LaneKind::Audio, 1622425551884), file("YQ..", LaneKind::Video, 1622425551999)],
    }
}

async fn actor(mut asks: mpsc::Receiver<Ask>, heard: Arc<Mutex<Vec<Heard>>>, fail: Arc<Mutex<VecDeque<Error>>>) {
    while let Some(ask) = asks.recv().await {
        let failure = fail.lock().unwrap().pop_front();
        fn answer<T>(reply: tokio::sync::oneshot::Sender<Result<T, Error>>, failure: Option<Error>, usual: T) {
            let _ = reply.send(failure.map_or(Ok(usual), Err));
        }
        let note = |what: Heard| heard.lock().unwrap().push(what);
        match ask {
            Ask::Create { spec, keys, user_sig, reply } => {
                note(Heard::Create { spec, keys, user_sig });
                answer(reply, failure, task());
            }
            Ask::Describe { app, task, reply } => {
                note(Heard::Describe { app, task: task.clone() });
                answer(reply, failure, view(task));
            }
            Ask::Modify { app, task, subscription, layout, reply } => {
                note(Heard::Modify { app, task, subscription, layout });
                answer(reply, failure, ());
            }
            Ask::Delete { app, task, reply } => {
                note(Heard::Delete { app, task });
                answer(reply, failure, ());
            }
            Ask::Discard { app, task, by, reply } => {
                note(Heard::Discard { app, task, by });
                answer(reply, failure, ());
            }
            Ask::SetTemplate { reply, .. } | Ask::Turn { reply } => answer(reply, failure, ()),
            Ask::Pause { app, task, pause, reply } => {
                note(Heard::Pause { app, task, pause });
                answer(reply, failure, ());
            }
            Ask::RemoveUsers { room, users, reply } => {
                note(Heard::RemoveUsers { room, users });
                answer(reply, failure, ());
            }
            Ask::List { reply } => {
                let _ = reply.send(Ok(Vec::new()));
            }
            Ask::Dismiss { room, reply } => {
                note(Heard::Dismiss { room });
                answer(reply, failure, ());
            }
        }
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Got {
    pub async fn read(response: Response<Body>) -> Got {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes().to_vec();
        Got { status: parts.status, headers: parts.headers, body }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }

    /// `Response` of an API answer, whose outer form is checked.
    pub fn response(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK);
        assert_eq!(self.header("content-type"), "application/json");
        let mut answer: Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(answer.as_object().expect("an object").len(), 1);
        let response = answer["Response"].take();
        let id = response["RequestId"].as_str().expect("a RequestId");
        assert!(uuid::Uuid::parse_str(id).is_ok(), "{id}");
        assert!(response.get("Error").is_none_or(Value::is_object), "{response}");
        response
    }

    /// The code of a refused call, `ok` of a taken one.
    pub fn code(&self) -> String {
        let response = self.response();
        match response.get("Error") {
            None => "ok".into(),
            Some(error) => {
                assert!(!error["Message"].as_str().expect("a message").is_empty());
                error["Code"].as_str().expect("a code").to_owned()
            }
        }
    }

    pub fn message(&self) -> String {
        self.response()["Error"]["Message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Bench {
    pub fn new() -> Bench {
        Bench::with(config())
    }

    pub fn with(config: Config) -> Bench {
        let now = Arc::new(Mutex::new(Timestamp::from_ms(NOW * 1000)));
        let clock = now.clone();
        Bench::with_clock(config, now, Arc::new(move || *clock.lock().unwrap()))
    }

    pub fn with_clock(config: Config, now: Arc<Mutex<Timestamp>>, clock: WallClock) -> Bench {
        let (to, asks) = mpsc::channel(64);
        let (heard, fail) = (Arc::default(), Arc::default());
        tokio::spawn(actor(asks, Arc::clone(&heard), Arc::clone(&fail)));
        let publishers = Arc::new(Publishers::default());
        let health = Reporter::default();
        health.started();
        let door = Door {
            config: config.into(),
            rooms: Rooms::new(to),
            whip: publishers.clone(),
            clock,
            health: health.clone(),
            metrics: figures(),
        };
        let router = api::router(door.clone());
        Bench { door, router, heard, fail, publishers, health, now }
    }

    pub async fn send(&self, request: Request<Body>) -> Got {
        Got::read(self.router.clone().oneshot(request).await.expect("a router does not fail")).await
    }

    /// A JSON call signed with TC3.
    pub async fn call(&self, action: &str, params: &Value) -> Got {
        self.send(signed(action, params.to_string().as_bytes(), API_ID, API_KEY)).await
    }

    pub async fn code(&self, action: &str, params: &Value) -> String {
        self.call(action, params).await.code()
    }

    pub fn last(&self) -> Heard {
        self.heard.lock().unwrap().last().cloned().expect("the actor was asked")
    }
}

pub fn signed(action: &str, body: &[u8], secret_id: &str, secret_key: &str) -> Request<Body> {
    let now = Timestamp::from_ms(NOW * 1000);
    Request::post("/")
        .header("Host", "box.lan:8080")
        .header("Content-Type", "application/json")
        .header("X-TC-Action", action)
        .header("X-TC-Version", "2019-07-22")
        .header("X-TC-Timestamp", NOW.to_string())
        .header("Authorization", sign_tc3(secret_id, secret_key, "box.lan:8080", body, now))
        .body(Body::from(body.to_vec()))
        .unwrap()
}

pub fn user_sig(user: &str) -> String {
    gen_user_sig(APP_KEY, APP, user, Timestamp::from_ms(NOW * 1000), 86_400)
}

/// A plain CreateCloudRecording.
pub fn create() -> Value {
    json!({
        "SdkAppId": APP.0,
        "RoomId": "7",
        "UserId": "rec_bot",
        "UserSig": user_sig("rec_bot"),
        "RecordParams": {"RecordMode": 1},
        "StorageParams": {"CloudStorage": {
            "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "rec-1250000000",
            "AccessKey": "AKIDstorage", "SecretKey": "sk+/=&storage", "FileNamePrefix": ["p1", "p2"],
        }},
    })
}

/// Every field of a layout, well-formed.
pub fn layout() -> Value {
    json!({
        "MixLayoutMode": 4,
        "MixLayoutList": [{
            "Top": 0, "Left": 0, "Width": 1280, "Height": 720, "UserId": "alice", "Alpha": 255, "RenderMode": 3,
            "MediaId": 1, "ImageLayer": -1, "SubBackgroundImage": "https://a.b/c.jpg",
        }],
        "BackGroundColor": "#FFA500", "MaxResolutionUserId": "alice", "MediaId": 0,
        "BackgroundImageUrl": "http://a.b/c.png", "PlaceHolderMode": 1, "BackgroundImageRenderMode": 2,
        "DefaultSubBackgroundImage": "http://a.b/c.jpeg", "RenderMode": 1, "MaxResolutionUserAlign": 1,
        "PureAudioDisableLayout": true,
        "WaterMarkList": [
            {"WaterMarkType": 0, "WaterMarkImage": {"WaterMarkUrl": "http://a.b/c.png", "Top": 1, "Left": 1, "Width": 10, "Height": 10}},
            {"WaterMarkType": 1, "WaterMarkChar": {"Top": 1, "Left": 1, "Width": 10, "Height": 10, "Chars": "室", "FontSize": 14,
                "FontColor": "#000000", "BackGroundColor": "", "Font": "SourceHanSans"}},
            {"WaterMarkType": 2, "WaterMarkTimestamp": {"Pos": 6, "TimeZone": 8, "Font": "Tencent"}},
        ],
    })
}

/// `params` with the value at a path of names put in; `null` takes the name away.
pub fn with(mut params: Value, path: &str, value: Value) -> Value {
    let mut at = &mut params;
    for part in path.split('/') {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
    }
    *at = value;
    params
}

pub fn without(mut params: Value, path: &str) -> Value {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut at = &mut params;
    for part in parent.split('/').filter(|part| !part.is_empty()) {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
    }
    at.as_object_mut().unwrap().remove(name).expect("it was there");
    params
}

/// Limits that no test reaches by accident.
pub fn generous() -> Limits {
    Limits { requests_per_second: 10_000, ..Default::default() }
}

/// Compares with a file of `tests/golden`; a missing one is written, and the test fails all the same.
pub fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let Ok(wanted) = std::fs::read_to_string(&path) else {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        panic!("{} was missing and is written: look at it and run again", path.display());
    };
    assert_eq!(wanted, text, "{}", path.display());
}
