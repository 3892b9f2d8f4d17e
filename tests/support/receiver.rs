//! The clinic's server: takes callbacks, keeps them in order, checks their signatures, and can be told to fail.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use tokio::sync::watch;

use super::{CALLBACK_KEY, LATER, within};

/// One callback as it came in.
#[derive(Debug, Clone)]
pub struct Callback {
    pub body: String,
    pub json: Value,
    /// `Sign` is what the key and the body make.
    pub signed: bool,
    pub content_type: String,
    pub app: String,
}

impl Callback {
    pub fn event(&self) -> u64 {
        self.json["EventType"].as_u64().unwrap_or(0)
    }
    pub fn info(&self) -> &Value {
        &self.json["EventInfo"]
    }
    pub fn payload(&self) -> &Value {
        &self.json["EventInfo"]["Payload"]
    }
    pub fn task(&self) -> &str {
        self.json["EventInfo"]["TaskId"].as_str().unwrap_or_default()
    }
    pub fn id(&self) -> &str {
        self.json["EventInfo"]["EventId"].as_str().unwrap_or_default()
    }
}

#[derive(Default)]
struct Inbox {
    taken: Mutex<Vec<Callback>>,
    refused: Mutex<Vec<Callback>>,
    failing: AtomicBool,
}

/// A callback receiver on a port of its own.
pub struct Receiver {
    pub url: String,
    inbox: Arc<Inbox>,
    count: watch::Receiver<usize>,
    server: tokio::task::JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Receiver {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let url = format!("http://{}/events", listener.local_addr().expect("it is bound"));
        let inbox = Arc::new(Inbox::default());
        let (told, count) = watch::channel(0);
        let router = Router::new().fallback(take).with_state((inbox.clone(), Arc::new(told)));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the listener lives as long as the test");
        });
        Receiver { url, inbox, count, server }
    }

    /// While `true`, every callback is answered 500 (and counted as refused).
    pub fn fail(&self, failing: bool) {
        self.inbox.failing.store(failing, Ordering::SeqCst);
    }

    /// What was taken, in order of arrival, repeats included.
    pub fn taken(&self) -> Vec<Callback> {
        self.inbox.taken.lock().expect("no writer panics").clone()
    }

    pub fn refused(&self) -> Vec<Callback> {
        self.inbox.refused.lock().expect("no writer panics").clone()
    }

    /// What was taken of one task, in order, each event once.
    pub fn of(&self, task: &str) -> Vec<Callback> {
        let mut seen = BTreeSet::new();
        let mut all = self.taken();
        all.retain(|c| c.task() == task && seen.insert(if c.id().is_empty() { c.body.clone() } else { c.id().into() }));
        all
    }

    /// The task's events as numbers, in order.
    pub fn events(&self, task: &str) -> Vec<u64> {
        self.of(task).iter().map(Callback::event).collect()
    }

    /// The first value that `pick` finds in what was taken.
    pub async fn wait_for<T>(&self, what: &str, mut pick: impl FnMut(&[Callback]) -> Option<T>) -> T {
        let mut count = self.count.clone();
        let found = async {
            loop {
                count.borrow_and_update();
                if let Some(found) = pick(&self.taken()) {
                    return found;
                }
                count.changed().await.expect("the receiver lives as long as the test");
            }
        };
        match tokio::time::timeout(LATER, found).await {
            Ok(found) => found,
            Err(_) => panic!("waited for {what}; callbacks so far:\n{}", self.story()),
        }
    }

    /// The `n`-th (from 1) callback of this event in the task.
    pub async fn nth(&self, task: &str, event: u64, n: usize) -> Callback {
        let what = format!("event {event} ({n}) of task {task}");
        self.wait_for(&what, |_| self.of(task).into_iter().filter(|c| c.event() == event).nth(n - 1)).await
    }

    pub async fn event(&self, task: &str, event: u64) -> Callback {
        self.nth(task, event, 1).await
    }

    /// Awaits that a callback was refused at least `n` times.
    pub async fn wait_refused(&self, n: usize) {
        let mut count = self.count.clone();
        let enough = async {
            while self.refused().len() < n {
                count.changed().await.expect("the receiver lives as long as the test");
            }
        };
        within(Duration::from_secs(120), &format!("{n} refused callbacks"), enough).await;
    }

    pub fn story(&self) -> String {
        self.taken().iter().map(|c| format!("{} {}\n", c.event(), c.body)).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
        if std::thread::panicking() {
            eprintln!("---- callbacks ----\n{}", self.story());
        }
    }
}

type Shared = (Arc<Inbox>, Arc<watch::Sender<usize>>);

async fn take(State((inbox, told)): State<Shared>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let callback = Callback {
        json: serde_json::from_slice(&body).unwrap_or(Value::Null),
        signed: text("Sign") == sign(CALLBACK_KEY, &body),
        content_type: text("Content-Type"),
        app: text("SdkAppId"),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let failing = inbox.failing.load(Ordering::SeqCst);
    let list = if failing { &inbox.refused } else { &inbox.taken };
    list.lock().expect("no writer panics").push(callback);
    told.send_modify(|n| *n += 1);
    if failing { (StatusCode::INTERNAL_SERVER_ERROR, "") } else { (StatusCode::OK, "{\"code\":0}") }
}

/// `Sign` as a receiver computes it: base64(HMAC-SHA256(key, body)), written here apart from the box's own.
pub fn sign(key: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).expect("any length is a key");
    mac.update(body);
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}
