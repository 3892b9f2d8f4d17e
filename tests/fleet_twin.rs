//! Configuration by document, over a real broker into a real box: what is good holds at once and after a start, what is
//! bad is refused whole, what cuts the box off goes again by itself, and no secret is in any message.

mod support;

#[path = "support/broker.rs"]
mod broker;

use broker::{Broker, Entry};
use serde_json::{Value, json};
use support::daemon::{Daemon, Settings};
use support::sdk::Sdk;
use support::{API_ID, API_KEY, APP, APP_KEY};

const BOX: &str = "b-1";
const NEW_KEY: &str = "api-secret-of-the-document-77";
/// Long enough for a box on a busy machine to open its session again.
const TRIAL: u64 = 15;
const PASSWORD: &str = "hush-password-of-the-document";

/// Whoever steers the boxes.
struct Operator {
    broker: Broker,
}

impl Operator {
    async fn new() -> Operator {
        Operator { broker: Broker::start(Entry::Certificates).await }
    }

    fn desire(&self, version: i64, config: Value) {
        let document = json!({"version": version, "config": config}).to_string();
        self.broker.publish(&format!("holdfast/{BOX}/twin/desired"), &document, true);
    }

    /// The first report of which this holds.
    async fn report(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let topic = format!("holdfast/{BOX}/twin/reported");
        let pick = |message: &broker::Message| {
            (message.topic == topic && holds(&message.payload)).then(|| message.payload.clone())
        };
        self.broker.wait(what, pick).await
    }

    /// No message that ever went out holds any of these; what the operator said himself is not the box's.
    fn assert_told_nothing_of(&self, secrets: &[&str]) {
        let desired = format!("holdfast/{BOX}/twin/desired");
        for message in self.broker.messages().into_iter().filter(|message| message.topic != desired) {
            let text = message.payload.to_string();
            assert!(secrets.iter().all(|secret| !text.contains(secret)), "a secret is in a message: {text}");
        }
    }
}

async fn fleet_box(broker: &Broker, rollback_seconds: u64) -> Daemon {
    let more = broker.fleet(BOX, &format!("rollback_seconds = {rollback_seconds}"));
    Daemon::start(Settings { more, ..Settings::default() }).await
}

/// What a call with this key is answered; there is no such task.
async fn answered(daemon: &Daemon, key: &str) -> String {
    let sdk = Sdk::with_key(daemon, key).await;
    sdk.call("DescribeCloudRecording", json!({"SdkAppId": APP, "TaskId": "none"})).await.expect_err("no such task").code
}

fn holds_secret(dir: &std::path::Path, secret: &str) -> bool {
    let entries = std::fs::read_dir(dir).expect("a folder of the box can be read");
    entries.filter_map(Result::ok).any(|entry| match entry.path() {
        path if path.is_dir() => holds_secret(&path, secret),
        path => {
            std::fs::read(path).is_ok_and(|bytes| bytes.windows(secret.len()).any(|part| part == secret.as_bytes()))
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_holds_at_once_and_after_a_start_and_a_bad_one_is_refused_whole() {
    let operator = Operator::new().await;
    let mut daemon = fleet_box(&operator.broker, TRIAL).await;
    operator.report("the first report", |told| told["in_force"] == Value::Null).await;
    let (known, stranger) = ("ResourceNotFound", "AuthFailure.SignatureFailure");
    let starts_with = |code: String, of: &str| assert!(code.starts_with(of), "{code}, not {of}");
    starts_with(answered(&daemon, API_KEY).await, known);

    let keys = json!([{"secret_id": API_ID, "secret_key": NEW_KEY}]);
    let more = json!({"api_keys": keys, "limits": {"tasks": 7}, "fleet": {"username": "box", "password": PASSWORD}});
    operator.desire(1, more);
    let taken = operator.report("version 1", |told| told["in_force"] == 1).await;
    assert_eq!(
        (&taken["accepted"], &taken["errors"], &taken["pending_restart"]),
        (&json!(true), &json!([]), &json!([]))
    );
    assert_eq!(taken["config"]["limits"]["tasks"], 7);
    assert_eq!(taken["config"]["api_keys"][0]["secret_key"]["set"], true);
    starts_with(answered(&daemon, NEW_KEY).await, known);
    starts_with(answered(&daemon, API_KEY).await, stranger);

    operator.desire(2, json!({"api_keys": [], "limits": {"tasks": 0}, "disk": {"low_percent": 91}}));
    let refused = operator.report("version 2", |told| told["version"] == 2).await;
    assert_eq!((&refused["accepted"], &refused["in_force"]), (&json!(false), &json!(1)));
    let fields: Vec<&Value> = refused["errors"].as_array().unwrap().iter().map(|fault| &fault["field"]).collect();
    assert_eq!(fields, ["limits.tasks", "disk.low_percent"]);
    operator.desire(3, json!({"server": {"state_dir": "/tmp"}}));
    let refused = operator.report("version 3", |told| told["version"] == 3).await;
    assert_eq!(refused["errors"][0]["field"], "server.state_dir");
    operator.report("version 1 passed", |told| told["in_force"] == 1 && told["on_trial"] == false).await;
    starts_with(answered(&daemon, NEW_KEY).await, known);

    assert_eq!(daemon.terminate().await, Some(0));
    daemon.start_again().await;
    starts_with(answered(&daemon, NEW_KEY).await, known);
    starts_with(answered(&daemon, API_KEY).await, stranger);
    operator.assert_told_nothing_of(&[NEW_KEY, API_KEY, APP_KEY, PASSWORD]);
    assert_eq!(daemon.terminate().await, Some(0));
    for secret in [NEW_KEY, PASSWORD] {
        assert!(!daemon.log().contains(secret), "a secret is in the log");
        assert!(!holds_secret(&daemon.state_dir(), secret), "a secret lies plain on the disk");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_broker_address_is_rolled_back_and_not_tried_again() {
    let mut operator = Operator::new().await;
    let mut daemon = fleet_box(&operator.broker, TRIAL).await;
    operator.report("the first report", |told| told["in_force"] == Value::Null).await;
    let nowhere = support::free_tcp();
    operator.desire(9, json!({"fleet": {"broker": format!("mqtts://{nowhere}")}, "limits": {"tasks": 7}}));
    let back = operator.report("rolled back", |told| told["rolled_back"]["version"] == 9).await;
    assert_eq!((&back["version"], &back["accepted"], &back["in_force"]), (&json!(9), &json!(false), &Value::Null));
    assert_eq!(back["config"]["limits"]["tasks"], 100);
    daemon.logged("a desired configuration is rolled back").await;
    // the broker keeps it, and hands it out at every subscription
    assert_eq!(daemon.terminate().await, Some(0));
    daemon.start_again().await;
    daemon.logged("a desired configuration is refused").await;
    assert_eq!(daemon.log().matches("a desired configuration is in force").count(), 1);
    // another wish is taken; meanwhile the broker goes for a while, which is nobody's fault
    operator.desire(10, json!({"limits": {"tasks": 8}}));
    operator.report("version 10", |told| told["in_force"] == 10).await;
    operator.broker.kill().await;
    operator.broker.start_again().await;
    operator.report("it passed", |told| told["in_force"] == 10 && told["on_trial"] == false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_start_gets_one_when_nothing_is_recorded() {
    let operator = Operator::new().await;
    let mut daemon = fleet_box(&operator.broker, TRIAL).await;
    operator.report("the first report", |told| told["in_force"] == Value::Null).await;
    operator.desire(1, json!({"whip": {"max_sessions": 7}}));
    let told = operator.report("version 1", |told| told["version"] == 1).await;
    assert_eq!(told["pending_restart"], json!(["whip.max_sessions"]));
    assert_eq!(daemon.ended().await, Some(75), "systemd starts it again");
    daemon.start_again().await;
    let passed = |told: &Value| told["in_force"] == 1 && told["on_trial"] == false;
    let told = operator.report("it passed", passed).await;
    assert_eq!((&told["pending_restart"], &told["config"]["whip"]["max_sessions"]), (&json!([]), &json!(7)));
}
