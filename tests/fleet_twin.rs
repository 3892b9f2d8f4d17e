//! Configuration by document, over a real broker into a real box: what is good holds at once and after a start, what is
//! bad is refused whole, what cuts the box off goes again by itself, and no secret is in any message.

mod support;

use std::process::Stdio;

use serde_json::{Value, json};
use support::broker::Broker;
use support::daemon::{Daemon, Settings};
use support::sdk::Sdk;
use support::{API_ID, API_KEY, APP, APP_KEY, Running, within};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const BOX: &str = "ward-7";
const NEW_KEY: &str = "api-secret-of-the-document-77";
const PASSWORD: &str = "hush-password-of-the-document";

/// Whoever steers the boxes: Debian's own clients.
struct Operator {
    broker: Broker,
    /// Everything below `holdfast/`, one message a line, its topic first.
    heard: Running,
}

impl Operator {
    async fn at(broker: Broker) -> Operator {
        let mut command = Command::new("mosquitto_sub");
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &broker.port().to_string(),
            "-q",
            "1",
            "-t",
            "holdfast/#",
            "-F",
            "%t %p",
        ]);
        let heard = Running::start("mosquitto_sub", &mut command);
        Operator { broker, heard }
    }

    async fn desire(&self, version: i64, config: Value) {
        self.publish(&json!({"version": version, "config": config}).to_string()).await;
    }

    async fn publish(&self, document: &str) {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &self.broker.port().to_string(), "-q", "1", "-r", "-s"]);
        command.args(["-t", &format!("holdfast/{BOX}/twin/desired")]).stdin(Stdio::piped());
        let mut running = Running::start("mosquitto_pub", &mut command);
        let mut stdin = running.stdin().expect("stdin is piped");
        stdin.write_all(document.as_bytes()).await.expect("it reads");
        drop(stdin);
        assert_eq!(running.ended().await, Some(0), "{}", running.lines.text());
    }

    /// The first report of which this holds.
    async fn report(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let topic = format!("holdfast/{BOX}/twin/reported ");
        let pick = |line: &str| {
            let report = serde_json::from_str::<Value>(line.strip_prefix(&topic)?).expect("a report is JSON");
            holds(&report).then_some(report)
        };
        self.heard.lines.wait_for(what, pick).await
    }

    /// No message that ever went out holds any of these; what the operator said himself is not the box's.
    fn assert_told_nothing_of(&self, secrets: &[&str]) {
        let desired = format!("holdfast/{BOX}/twin/desired ");
        let of_the_box = self.heard.lines.all().into_iter().filter(|line| !line.starts_with(&desired));
        for line in of_the_box {
            assert!(secrets.iter().all(|secret| !line.contains(secret)), "a secret is in a message: {line}");
        }
    }
}

async fn fleet_box(broker: &Broker, rollback_seconds: u64) -> Daemon {
    let more = format!(
        "[fleet]\nenabled = true\nbox_id = \"{BOX}\"\nbroker = \"mqtt://127.0.0.1:{}\"\nallow_plain = true\n\
         rollback_seconds = {rollback_seconds}\nretry_longest_seconds = 1\n",
        broker.port()
    );
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
    let operator = Operator::at(Broker::start().await).await;
    let mut daemon = fleet_box(&operator.broker, 2).await;
    operator.report("the first report", |told| told["in_force"] == Value::Null).await;
    let (known, stranger) = ("ResourceNotFound", "AuthFailure.SignatureFailure");
    let starts_with = |code: String, of: &str| assert!(code.starts_with(of), "{code}, not {of}");
    starts_with(answered(&daemon, API_KEY).await, known);

    let keys = json!([{"secret_id": API_ID, "secret_key": NEW_KEY}]);
    let more = json!({"api_keys": keys, "limits": {"tasks": 7}, "fleet": {"username": "box", "password": PASSWORD}});
    operator.desire(1, more).await;
    let taken = operator.report("version 1", |told| told["in_force"] == 1).await;
    assert_eq!(
        (&taken["accepted"], &taken["errors"], &taken["pending_restart"]),
        (&json!(true), &json!([]), &json!([]))
    );
    assert_eq!(taken["config"]["limits"]["tasks"], 7);
    assert_eq!(taken["config"]["api_keys"][0]["secret_key"]["set"], true);
    starts_with(answered(&daemon, NEW_KEY).await, known);
    starts_with(answered(&daemon, API_KEY).await, stranger);

    operator.desire(2, json!({"api_keys": [], "limits": {"tasks": 0}, "disk": {"low_percent": 91}})).await;
    let refused = operator.report("version 2", |told| told["version"] == 2).await;
    assert_eq!((&refused["accepted"], &refused["in_force"]), (&json!(false), &json!(1)));
    let fields: Vec<&Value> = refused["errors"].as_array().unwrap().iter().map(|fault| &fault["field"]).collect();
    assert_eq!(fields, ["limits.tasks", "disk.low_percent"]);
    operator.publish("{\"version\": 3, \"config\": {\"server\": {\"state_dir\": \"/tmp\"}}}").await;
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
    let operator = Operator::at(Broker::start().await).await;
    let mut daemon = fleet_box(&operator.broker, 4).await;
    operator.report("the first report", |told| told["in_force"] == Value::Null).await;
    let nowhere = support::free_tcp();
    operator.desire(9, json!({"fleet": {"broker": format!("mqtt://{nowhere}")}, "limits": {"tasks": 7}})).await;
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
    operator.desire(10, json!({"limits": {"tasks": 8}})).await;
    operator.report("version 10", |told| told["in_force"] == 10).await;
    let mut broker = operator.broker;
    broker.stop().await;
    broker.start_again().await;
    let operator = Operator::at(broker).await;
    operator.report("it passed", |told| told["in_force"] == 10 && told["on_trial"] == false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_start_gets_one_when_nothing_is_recorded() {
    let operator = Operator::at(Broker::start().await).await;
    let mut daemon = fleet_box(&operator.broker, 3).await;
    operator.report("the first report", |told| told["in_force"] == Value::Null).await;
    operator.desire(1, json!({"whip": {"max_sessions": 7}})).await;
    let told = operator.report("version 1", |told| told["version"] == 1).await;
    assert_eq!(told["pending_restart"], json!(["whip.max_sessions"]));
    assert_eq!(within(support::SOON, "the box to end", daemon.ended()).await, Some(75), "systemd starts it again");
    daemon.start_again().await;
    let passed = |told: &Value| told["in_force"] == 1 && told["on_trial"] == false;
    let told = operator.report("it passed", passed).await;
    assert_eq!((&told["pending_restart"], &told["config"]["whip"]["max_sessions"]), (&json!([]), &json!(7)));
}
