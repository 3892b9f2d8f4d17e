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
        self.broker.desire(BOX, version, config);
    }

    /// The first report of which this holds.
    async fn report(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.broker.report(BOX, what, holds).await
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
    operator.broker.assert_told_nothing_of(&[NEW_KEY, API_KEY, APP_KEY, PASSWORD]);
    assert_eq!(daemon.terminate().await, Some(0));
    for secret in [NEW_KEY, PASSWORD] {
        assert!(!daemon.log().contains(secret), "a secret is in the log");
        assert!(!holds_secret(&daemon.state_dir(), secret), "a secret lies plain on the disk");
    }
}

/// The leaked key is refused and the new one holds: at once, over the document that the broker still keeps, after a start;
/// until a newer document decides.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_changed_by_a_command_until_a_newer_document_decides() {
    const ROTATED: &str = "api-secret-of-the-command-91";
    const LAST: &str = "api-secret-of-the-newer-document-13";
    const FOR_APP: &str = "app-secret-of-the-command-55";
    let operator = Operator::new().await;
    let mut daemon = fleet_box(&operator.broker, TRIAL).await;
    operator.report("the first report", |told| told["in_force"] == Value::Null).await;
    let known = async |daemon: &Daemon, key: &str| answered(daemon, key).await.starts_with("ResourceNotFound");
    let api_keys = |key: &str| json!([{"secret_id": API_ID, "secret_key": key}]);
    operator.desire(1, json!({"api_keys": api_keys(NEW_KEY), "limits": {"tasks": 7}}));
    operator.report("version 1", |told| told["in_force"] == 1).await;
    assert!(known(&daemon, NEW_KEY).await);

    let wrong = json!({"api_keys": [{"secret_id": API_ID, "secret_key": 7}], "apps": [{"sdk_app_id": 5, "secret_key": ROTATED}],
        "limits": {"tasks": 9}});
    let (code, why) = operator.broker.refused(BOX, "keys-1", "rotate_keys", wrong).await;
    assert_eq!(code, "bad_request");
    for part in ["api_keys[0].secret_key: must be a text", "limits: is no key"] {
        assert!(why.contains(part), "{why}");
    }
    let stranger = json!({"apps": [{"sdk_app_id": 5, "secret_key": ROTATED}]});
    let (_, why) = operator.broker.refused(BOX, "keys-2", "rotate_keys", stranger).await;
    assert_eq!(why, "apps[0].sdk_app_id: is none of the configuration in force");
    assert!(known(&daemon, NEW_KEY).await, "the keys before stay in force");

    let keys = json!({"api_keys": api_keys(ROTATED), "apps": [{"sdk_app_id": APP, "secret_key": FOR_APP}]});
    let done = operator.broker.done(BOX, "keys-3", "rotate_keys", keys).await;
    assert_eq!(
        (&done["version"], &done["fields"]),
        (&json!(1), &json!(["api_keys", format!("apps[{APP}].secret_key")]))
    );
    assert!(known(&daemon, ROTATED).await && !known(&daemon, NEW_KEY).await);
    let rotated = |told: &Value| told["keys_rotated"]["fields"] == done["fields"] && told["in_force"] == 1;
    let told = operator.report("the keys", rotated).await;
    assert_eq!(told["config"]["api_keys"], done["keys"]["api_keys"], "the same fingerprints");
    assert_eq!((&told["accepted"], &told["config"]["limits"]["tasks"]), (&json!(true), &json!(7)));
    operator.report("they passed", |told| rotated(told) && told["on_trial"] == false).await;

    // what the broker keeps comes again with each session
    assert_eq!(daemon.terminate().await, Some(0));
    let before = operator.broker.messages().len();
    daemon.start_again().await;
    let again = |message: &broker::Message| {
        (message.topic.ends_with("/twin/reported") && rotated(&message.payload)).then_some(())
    };
    operator.broker.wait_from(before, "a report of the next life", again).await;
    operator.broker.done(BOX, "list-1", "list_recordings", json!({})).await;
    assert!(known(&daemon, ROTATED).await && !known(&daemon, NEW_KEY).await);

    operator.desire(2, json!({"api_keys": api_keys(LAST)}));
    let told = operator.report("version 2", |told| told["in_force"] == 2).await;
    assert_eq!(told["keys_rotated"], Value::Null);
    assert!(known(&daemon, LAST).await && !known(&daemon, ROTATED).await);
    operator.broker.assert_told_nothing_of(&[ROTATED, LAST, NEW_KEY, FOR_APP]);
    assert_eq!(daemon.terminate().await, Some(0));
    for secret in [ROTATED, LAST, FOR_APP] {
        assert!(!daemon.log().contains(secret), "a secret is in the log");
        assert!(!holds_secret(&daemon.state_dir(), secret), "a secret lies plain on the disk");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_broker_address_is_rolled_back_and_not_tried_again() {
    let mut operator = Operator::new().await;
    let mut daemon = fleet_box(&operator.broker, TRIAL).await;
    operator.report("the first report", |told| told["in_force"] == Value::Null).await;
    let nowhere = support::Port::take();
    operator.desire(9, json!({"fleet": {"broker": format!("mqtts://{}", nowhere.address)}, "limits": {"tasks": 7}}));
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
