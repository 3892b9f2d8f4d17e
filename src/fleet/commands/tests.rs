//! Commands on their channels, without a broker, over lives of the part on one index.

use std::path::Path;
use std::sync::Mutex;

use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::model::Timestamp;

/// One life, on the index in `dir`.
struct Life {
    to: mpsc::Sender<Incoming>,
    from: mpsc::Receiver<Outgoing>,
    store: Store,
    cancel: CancellationToken,
    running: JoinHandle<()>,
    /// What was called, and what holds a call of `slow` up.
    called: Arc<Mutex<Vec<(String, Value)>>>,
    blinked: Arc<Mutex<Vec<Duration>>>,
}

impl Life {
    fn begin(dir: &Path, boot: &str) -> Life {
        let store = Store::open(&dir.join("index")).expect("it opens").store;
        let (to, incoming) = mpsc::channel(8);
        let (outgoing, from) = mpsc::channel(64);
        let (called, blinked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (calls, blinks) = (called.clone(), blinked.clone());
        let never = Arc::new(Notify::new());
        let slow: Hand = Arc::new(move |_| {
            let never = never.clone();
            Box::pin(async move {
                never.notified().await;
                Ok(json!({}))
            })
        });
        let broken: Hand = Arc::new(|_| Box::pin(async { panic!("the test breaks here, on purpose") }));
        let hands = Hands {
            call: Arc::new(move |action, args| {
                calls.lock().expect("no test panics with it").push((action, args.clone()));
                Box::pin(async move {
                    match args.get("SdkAppId") {
                        Some(_) => json!({ "TaskId": "t", "RequestId": "r" }),
                        None => {
                            json!({ "Error": { "Code": "MissingParameter", "Message": "SdkAppId" }, "RequestId": "r" })
                        }
                    }
                })
            }),
            rooms: Rooms::new(mpsc::channel(1).0),
            identify: Arc::new(move |during| blinks.lock().expect("no test panics with it").push(during)),
            reboot: Arc::new(|| Box::pin(async { Ok(()) })),
            more: BTreeMap::from([("slow", slow), ("broken", broken)]),
        };
        let mut part = Commands {
            incoming,
            outgoing,
            store: store.clone(),
            clock: Arc::new(|| Timestamp::from_ms(1_764_122_400_000)),
            boot: boot.to_owned(),
            hands,
        };
        let cancel = CancellationToken::new();
        let until = cancel.clone();
        let running = tokio::spawn(async move { part.run(until).await.expect("the index takes it") });
        Life { to, from, store, cancel, running, called, blinked }
    }

    async fn ask(&self, id: &str, payload: &str) {
        let message = Incoming { topic: format!("command/{id}"), payload: payload.to_owned().into(), retained: false };
        self.to.send(message).await.expect("it listens");
    }

    /// The next that is told: of which command, and its state with what else matters.
    async fn told(&mut self) -> (String, Value) {
        let told = self.from.recv().await.expect("it tells");
        assert!(told.retain && told.class == Class::Reply);
        let id = told.topic.strip_prefix("command/").and_then(|rest| rest.strip_suffix("/status")).expect("a status");
        (id.to_owned(), serde_json::from_slice(&told.payload).unwrap_or(Value::Null))
    }

    async fn states(&mut self, id: &str, states: &[&str]) -> Value {
        let mut last = Value::Null;
        for state in states {
            let (of, told) = self.told().await;
            assert_eq!((of.as_str(), told["state"].as_str()), (id, Some(*state)), "{told}");
            last = told;
        }
        last
    }

    async fn end(self) {
        self.cancel.cancel();
        self.running.await.expect("it ends in order");
        self.store.close().await.expect("it closes");
    }
}

#[tokio::test]
async fn a_command_is_done_once_and_told_at_each_step() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let mut life = Life::begin(dir.path(), "a");
    life.ask("1", r#"{"command": "stop_recording", "args": {"SdkAppId": 7, "TaskId": "t"}}"#).await;
    let done = life.states("1", &["accepted", "running", "done"]).await;
    assert_eq!((&done["command"], &done["result"]["TaskId"]), (&json!("stop_recording"), &json!("t")));
    // again, however it is put: it is not done again
    life.ask("1", r#"{"command": "reboot"}"#).await;
    assert_eq!(life.states("1", &["done"]).await, done);
    life.ask("2", r#"{"command": "discard_recording", "args": {"SdkAppId": 7, "TaskId": "t"}}"#).await;
    life.states("2", &["accepted", "running", "done"]).await;
    let calls = life.called.lock().expect("no test panics with it").clone();
    let actions: Vec<&str> = calls.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(actions, ["DeleteCloudRecording", "DeleteCloudRecording"]);
    assert_eq!((calls[0].1.get("Discard"), calls[1].1.get("Discard")), (None, Some(&json!(true))));
    life.ask("3", r#"{"command": "identify", "args": {"seconds": 3}}"#).await;
    life.states("3", &["accepted", "running", "done"]).await;
    assert_eq!(*life.blinked.lock().expect("no test panics with it"), [Duration::from_secs(3)]);
    life.end().await;
    // and not after a restart
    let mut life = Life::begin(dir.path(), "b");
    life.ask("1", r#"{"command": "stop_recording", "args": {"SdkAppId": 7, "TaskId": "t"}}"#).await;
    assert_eq!(life.states("1", &["done"]).await, done);
    assert!(life.called.lock().expect("no test panics with it").is_empty());
    life.end().await;
}

#[tokio::test]
async fn what_is_wrong_fails_with_a_reason_and_changes_nothing() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let mut life = Life::begin(dir.path(), "a");
    for (id, payload, code) in [
        ("1", "{", "bad_request"),
        ("2", r#"{"command": "make_coffee"}"#, "unknown_command"),
        ("3", r#"{"command": "identify", "expires_at": "2025-11-26T01:59:59Z"}"#, "expired"),
    ] {
        life.ask(id, payload).await;
        assert_eq!(life.states(id, &["failed"]).await["error"]["code"], code);
    }
    for (id, payload, code) in [
        ("4", r#"{"command": "identify", "args": {"seconds": 0}}"#, "bad_request"),
        ("5", r#"{"command": "start_recording", "args": {}}"#, "MissingParameter"),
        ("6", r#"{"command": "broken"}"#, "failed"),
    ] {
        life.ask(id, payload).await;
        assert_eq!(life.states(id, &["accepted", "running", "failed"]).await["error"]["code"], code);
    }
    // no id, and a retained message that was cleared: nobody could be answered, and nobody asks
    life.ask("a b", r#"{"command": "identify"}"#).await;
    life.ask("7", "").await;
    for n in 0..AT_ONCE {
        let id = format!("slow-{n}");
        life.ask(&id, r#"{"command": "slow"}"#).await;
        life.states(&id, &["accepted", "running"]).await;
    }
    life.ask("8", r#"{"command": "slow"}"#).await;
    assert_eq!(life.states("8", &["failed"]).await["error"]["code"], "busy");
    assert!(life.blinked.lock().expect("no test panics with it").is_empty());
    life.end().await;
}

#[tokio::test]
async fn a_restart_tells_what_it_cut_short_and_a_reboot_what_it_was_for() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let mut life = Life::begin(dir.path(), "a");
    for (id, command) in [("1", "reboot"), ("2", "slow")] {
        life.ask(id, &json!({ "command": command }).to_string()).await;
        life.states(id, &["accepted", "running"]).await;
    }
    life.end().await;
    let mut life = Life::begin(dir.path(), "b");
    life.states("1", &["done"]).await;
    let cut = life.states("2", &["failed"]).await;
    assert_eq!(cut["error"]["code"], "interrupted");
    life.ask("2", r#"{"command": "slow"}"#).await;
    assert_eq!(life.states("2", &["failed"]).await, cut);
    life.end().await;
    // told once
    let mut life = Life::begin(dir.path(), "b");
    life.ask("3", r#"{"command": "reboot"}"#).await;
    life.states("3", &["accepted", "running"]).await;
    life.end().await;
    let mut life = Life::begin(dir.path(), "b");
    assert_eq!(life.states("3", &["failed"]).await["error"]["code"], "interrupted");
    life.end().await;
}

#[tokio::test]
async fn so_many_are_remembered_and_older_ones_leave_the_broker() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let mut life = Life::begin(dir.path(), "a");
    for n in 0..KEEP + 2 {
        let id = n.to_string();
        life.ask(&id, r#"{"command": "nothing"}"#).await;
        life.states(&id, &["failed"]).await;
        if n >= KEEP {
            assert_eq!(life.told().await, ((n - KEEP).to_string(), Value::Null));
        }
    }
    assert_eq!(life.store.scan(KEPT).await.expect("it is read").len(), KEEP);
    life.end().await;
}
