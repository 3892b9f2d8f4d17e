//! Callbacks against a real server: signature, headers, order, failures, restarts.
//!
//! Owns: a receiver whose answers are scripted. Must not touch: how the outbox is drained.
//! Law: events of a task arrive in order and none is left out, whatever the server answered on the way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use holdfast::config::{App, Config};
use holdfast::health::{Reporter, Summary};
use holdfast::model::event::{Event, EventBody, LeaveCode};
use holdfast::model::{RoomId, SdkAppId, Secret, TaskId, Timestamp, UserId};
use holdfast::store::records::{self, OUTBOX};
use holdfast::store::{Batch, Store};
use holdfast::webhook::Webhook;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const GUARD: Duration = Duration::from_secs(30);
const NOW: i64 = 1_700_000_000_123;

/// What the server does with the next request of a path.
#[derive(Debug, Clone)]
enum Answer {
    Status(u16),
    /// Never answers; told when the request is there.
    Silence,
}

struct Request {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
    /// (task, event id's number)
    fn event(&self) -> (String, u64) {
        let json = self.json();
        let id = json["EventInfo"]["EventId"].as_str().unwrap().to_owned();
        let (task, seq) = id.rsplit_once('-').unwrap();
        assert_eq!(json["EventInfo"]["TaskId"], task);
        (task.to_owned(), seq.parse().unwrap())
    }
}

#[derive(Clone)]
struct Script {
    answers: Arc<Mutex<BTreeMap<String, VecDeque<Answer>>>>,
    seen: mpsc::Sender<Request>,
}

struct Receiver {
    address: String,
    script: Script,
    seen: mpsc::Receiver<Request>,
    serving: JoinHandle<()>,
}

impl Receiver {
    async fn start() -> Receiver {
        let (to, seen) = mpsc::channel(256);
        let script = Script { answers: Arc::default(), seen: to };
        let router = Router::new().route("/{path}", post(take)).with_state(script.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Receiver { address, script, seen, serving }
    }

    /// Answers for the next requests of a path; after them 200.
    fn will(&self, path: &str, answers: &[Answer]) {
        self.script.answers.lock().unwrap().insert(path.into(), answers.iter().cloned().collect());
    }

    async fn next(&mut self) -> Request {
        tokio::time::timeout(GUARD, self.seen.recv()).await.expect("a request comes").unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(script): State<Script>, Path(path): Path<String>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let answer = script.answers.lock().unwrap().get_mut(&path).and_then(VecDeque::pop_front);
    script.seen.send(Request { path, headers, body }).await.unwrap();
    match answer {
        None => StatusCode::OK,
        Some(Answer::Status(status)) => StatusCode::from_u16(status).unwrap(),
        Some(Answer::Silence) => std::future::pending().await,
    }
}

/// The box's side: outbox and webhook, over several lives.
struct Appliance {
    dir: tempfile::TempDir,
    config: Arc<Config>,
}

struct Life {
    store: Store,
    news: Arc<Notify>,
    cancel: CancellationToken,
    health: Reporter,
    running: JoinHandle<()>,
}

fn app(id: u32, url: Option<String>, key: Option<&str>) -> App {
    App { sdk_app_id: SdkAppId(id), secret_key: None, callback_url: url, callback_key: key.map(Secret::new) }
}

impl Appliance {
    fn new(apps: Vec<App>) -> Appliance {
        static RING: Once = Once::new();
        RING.call_once(|| {
            rustls::crypto::ring::default_provider().install_default().expect("nobody else installs one here");
        });
        let mut config = Config { apps, ..Config::default() };
        config.callbacks.timeout_seconds = 1;
        config.callbacks.retry_longest_seconds = 1;
        Appliance { dir: tempfile::tempdir().unwrap(), config: Arc::new(config) }
    }

    async fn live(&self) -> Life {
        self.live_at(NOW).await
    }

    async fn live_at(&self, now_ms: i64) -> Life {
        let store = Store::open(&self.dir.path().join("index")).unwrap().store;
        let (news, cancel, health) = (Arc::new(Notify::new()), CancellationToken::new(), Reporter::default());
        health.started();
        let clock = Arc::new(move || Timestamp::from_ms(now_ms));
        let webhook = Webhook::new(self.config.clone(), store.clone(), clock, news.clone(), health.clone()).unwrap();
        let running = tokio::spawn(webhook.run(cancel.clone()));
        Life { store, news, cancel, health, running }
    }
}

impl Life {
    async fn tell(&self, events: &[Event]) {
        let batch = events.iter().fold(Batch::new(), records::put_event);
        self.store.commit(batch).await.unwrap();
        self.news.notify_one();
    }

    async fn outbox(&self) -> usize {
        self.store.scan(OUTBOX).await.unwrap().len()
    }

    /// Returns when the outbox is empty.
    async fn emptied(&self) {
        let wait = async {
            while self.outbox().await > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(GUARD, wait).await.expect("the outbox is emptied");
    }

    async fn die(self) {
        self.cancel.cancel();
        tokio::time::timeout(GUARD, self.running).await.expect("it stops").unwrap();
        self.store.close().await.unwrap();
    }
}

fn event(app: u32, task: &str, seq: u64) -> Event {
    Event {
        app: SdkAppId(app),
        room: RoomId::Number(77),
        recorder: UserId::parse("recorder").unwrap(),
        task: TaskId::parse(task).unwrap(),
        seq,
        at: Timestamp::from_ms(NOW),
        body: EventBody::UploadStart { failed: false },
    }
}

#[tokio::test]
async fn an_event_arrives_signed_and_leaves_the_outbox() {
    let mut receiver = Receiver::start().await;
    let apps = vec![
        app(1400, Some(format!("{}/signed", receiver.address)), Some("k3y")),
        app(1500, Some(format!("{}/plain", receiver.address)), None),
    ];
    let appliance = Appliance::new(apps);
    let life = appliance.live().await;
    life.tell(&[event(1400, "t1", 0)]).await;
    let request = receiver.next().await;
    assert_eq!(request.path, "signed");
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.headers["sdkappid"], "1400");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"k3y").unwrap();
    mac.update(&request.body);
    let sign = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    assert_eq!(request.headers["sign"], sign);
    let json = request.json();
    assert_eq!((&json["EventType"], &json["CallbackTs"]), (&Value::from(303), &Value::from(NOW)));

    life.tell(&[event(1500, "t2", 0)]).await;
    let request = receiver.next().await;
    assert_eq!(request.path, "plain");
    assert!(!request.headers.contains_key("sign"));
    assert_eq!(request.headers["sdkappid"], "1500");
    life.emptied().await;
    life.die().await;
}

#[tokio::test]
async fn events_of_a_task_keep_their_order_over_every_failure() {
    let mut receiver = Receiver::start().await;
    // a redirect and a 204 are no 200; silence is a time-out
    let failures = [Answer::Status(500), Answer::Status(204), Answer::Status(302), Answer::Silence];
    receiver.will("hook", &failures);
    let appliance = Appliance::new(vec![app(1400, Some(format!("{}/hook", receiver.address)), None)]);
    let life = appliance.live().await;
    life.tell(&(0..5).map(|seq| event(1400, "t", seq)).collect::<Vec<_>>()).await;
    let mut seen = Vec::new();
    for _ in 0..9 {
        seen.push(receiver.next().await.event().1);
    }
    assert_eq!(seen, [0, 0, 0, 0, 0, 1, 2, 3, 4]);
    life.emptied().await;
    life.die().await;
    assert!(receiver.seen.try_recv().is_err(), "nothing is sent twice once it was taken");
}

#[tokio::test]
async fn a_server_that_fails_holds_up_no_other_application() {
    let mut receiver = Receiver::start().await;
    receiver.will("dead", &vec![Answer::Silence; 200]);
    let apps = vec![
        app(1400, Some(format!("{}/dead", receiver.address)), None),
        app(1500, Some(format!("{}/alive", receiver.address)), None),
        app(1600, Some("http://127.0.0.1:9/nobody".into()), None),
    ];
    let appliance = Appliance::new(apps);
    let life = appliance.live().await;
    let mut events: Vec<Event> =
        (0..40).flat_map(|n| [event(1400, &format!("d{n:02}"), 0), event(1600, &format!("n{n:02}"), 0)]).collect();
    events.extend((0..20).map(|seq| event(1500, "z", seq)));
    life.tell(&events).await;
    let mut alive = Vec::new();
    while alive.len() < 20 {
        let request = receiver.next().await;
        if request.path == "alive" {
            alive.push(request.event().1);
        }
    }
    assert_eq!(alive, (0..20).collect::<Vec<_>>());
    life.die().await;
}

#[tokio::test]
async fn what_was_not_taken_is_told_after_a_restart() {
    let mut receiver = Receiver::start().await;
    receiver.will("hook", &[Answer::Status(200), Answer::Silence]);
    let appliance = Appliance::new(vec![app(1400, Some(format!("{}/hook", receiver.address)), None)]);
    let life = appliance.live().await;
    life.tell(&[event(1400, "t", 0), event(1400, "t", 1), event(1400, "t", 2)]).await;
    assert_eq!(receiver.next().await.event().1, 0);
    assert_eq!(receiver.next().await.event().1, 1);
    // the process dies while the server keeps silent
    life.die().await;

    let life = appliance.live().await;
    assert_eq!(receiver.next().await.event().1, 1);
    assert_eq!(receiver.next().await.event().1, 2);
    life.emptied().await;
    life.die().await;
}

#[tokio::test]
async fn events_that_nobody_is_to_hear_or_nobody_took_for_days_are_dropped() {
    let mut receiver = Receiver::start().await;
    let apps = vec![app(1400, Some(format!("{}/hook", receiver.address)), None), app(1500, None, None)];
    let appliance = Appliance::new(apps);
    let keep_ms = i64::try_from(appliance.config.callbacks.keep_hours).unwrap() * 3_600_000;
    let life = appliance.live_at(NOW + keep_ms + 60_000).await;
    let fresh = Event { at: Timestamp::from_ms(NOW + 120_000), ..event(1400, "t", 1) };
    let unreadable = Batch::new().put("out/1400/x/0000000000", b"torn".to_vec());
    life.store.commit(unreadable).await.unwrap();
    // too old; young enough; without an address; of an application that is not configured
    life.tell(&[event(1400, "t", 0), fresh, event(1500, "u", 0), event(9, "v", 0)]).await;
    assert_eq!(receiver.next().await.event().1, 1);
    life.emptied().await;
    life.die().await;
    assert!(receiver.seen.try_recv().is_err());
}

#[tokio::test]
async fn dozens_of_dead_servers_hold_up_no_other_application() {
    let mut receiver = Receiver::start().await;
    receiver.will("dead", &vec![Answer::Silence; 2000]);
    let mut apps: Vec<App> = (0..60).map(|n| app(2000 + n, Some(format!("{}/dead", receiver.address)), None)).collect();
    apps.push(app(1500, Some(format!("{}/alive", receiver.address)), None));
    let appliance = Appliance::new(apps);
    let life = appliance.live().await;
    let dead = |n: u32, task: u32| event(2000 + n, &format!("d{n:02}-{task}"), 0);
    let events: Vec<Event> = (0..60).flat_map(|n| (0..10).map(move |task| dead(n, task))).collect();
    life.tell(&events).await;
    // every one of the sixty is known to be dead by now
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 60 {
        let request = receiver.next().await;
        seen.insert(request.headers["sdkappid"].to_str().unwrap().to_owned());
    }
    let began = tokio::time::Instant::now();
    life.tell(&(0..20).map(|seq| event(1500, "z", seq)).collect::<Vec<_>>()).await;
    let mut alive = Vec::new();
    while alive.len() < 20 {
        let request = receiver.next().await;
        if request.path == "alive" {
            alive.push(request.event().1);
        }
    }
    assert_eq!(alive, (0..20).collect::<Vec<_>>());
    // far less than one time-out for each: the places of the dead are not theirs
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    life.die().await;
}

#[tokio::test]
async fn of_too_many_the_least_important_go_and_the_newest_of_these_first_and_it_is_told() {
    let mut receiver = Receiver::start().await;
    receiver.will("hook", &vec![Answer::Status(500); 1]);
    let mut appliance = Appliance::new(vec![app(1400, Some(format!("{}/hook", receiver.address)), None)]);
    let mut config = (*appliance.config).clone();
    config.callbacks.keep_events = 6;
    // after the first failure nobody is asked again until the next life
    config.callbacks.retry_first_seconds = 3600;
    config.callbacks.retry_longest_seconds = 3600;
    appliance.config = Arc::new(config);
    let life = appliance.live().await;
    let body =
        |seq: u64, body: EventBody| Event { body, at: Timestamp::from_ms(NOW + seq as i64), ..event(1400, "t", seq) };
    let error = || EventBody::UploadError { code: "SlowDown".into(), message: String::new() };
    let events = [
        body(0, EventBody::RecorderStart { failed: false }),
        body(1, EventBody::UploadStart { failed: false }),
        body(2, error()),
        body(3, EventBody::FileInfo { playlist: "a".into() }),
        body(4, error()),
        body(5, error()),
        body(6, EventBody::RecorderStop { code: LeaveCode::Stopped }),
        body(7, EventBody::FileInfo { playlist: "b".into() }),
        body(8, EventBody::UploadStop { status: 1 }),
    ];
    life.tell(&events).await;
    assert_eq!(receiver.next().await.event().1, 0);
    let mut summary = life.health.watch();
    let told = summary.wait_for(|summary| matches!(summary, Summary::Degraded(_)));
    let told = tokio::time::timeout(GUARD, told).await.expect("health says so").unwrap().clone();
    assert_eq!(
        told,
        Summary::Degraded(vec![
            "callbacks: 3 events of application 1400 were dropped: its server does not take them".into()
        ])
    );
    life.die().await;

    let life = appliance.live().await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(receiver.next().await.event().1);
    }
    assert_eq!(seen, [0, 1, 3, 6, 7, 8], "of what is left the order holds");
    life.emptied().await;
    life.die().await;
}

#[tokio::test]
async fn an_outbox_that_grows_too_large_loses_the_least_important_too() {
    let mut receiver = Receiver::start().await;
    receiver.will("hook", &[Answer::Status(500)]);
    let mut appliance = Appliance::new(vec![app(1400, Some(format!("{}/hook", receiver.address)), None)]);
    let mut config = (*appliance.config).clone();
    config.callbacks.keep_bytes = 25_000;
    config.callbacks.retry_first_seconds = 3600;
    config.callbacks.retry_longest_seconds = 3600;
    appliance.config = Arc::new(config);
    let life = appliance.live().await;
    let body =
        |seq: u64, body: EventBody| Event { body, at: Timestamp::from_ms(NOW + seq as i64), ..event(1400, "t", seq) };
    let error = || EventBody::UploadError { code: "SlowDown".into(), message: "x".repeat(10_000) };
    life.tell(&[
        body(0, EventBody::RecorderStart { failed: false }),
        body(1, error()),
        body(2, error()),
        body(3, error()),
        body(4, error()),
        body(5, EventBody::UploadStop { status: 1 }),
    ])
    .await;
    assert_eq!(receiver.next().await.event().1, 0);
    let mut summary = life.health.watch();
    let told = summary.wait_for(|summary| format!("{summary:?}").contains("2 events of application 1400 were dropped"));
    drop(tokio::time::timeout(GUARD, told).await.expect("health says so").unwrap());
    life.die().await;

    let life = appliance.live().await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(receiver.next().await.event().1);
    }
    assert_eq!(seen, [0, 1, 2, 5], "of the errors the newest go, and how it ended stays");
    life.emptied().await;
    life.die().await;
}
