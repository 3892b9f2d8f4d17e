//! Commands over a real broker into a real box: each is done once, told at each step and after a restart in its middle; a
//! debug bundle holds what somebody far away needs, and neither media nor secrets.

mod support;

#[path = "support/broker.rs"]
mod broker;

use std::collections::BTreeMap;
use std::io::Read;

use broker::{Broker, Entry};
use serde_json::{Value, json};
use support::daemon::{Daemon, Settings};
use support::sdk::create_params;
use support::{ACCESS_KEY, API_KEY, APP, CALLBACK_KEY, SECRET_KEY, SOON, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const BOX: &str = "b-1";
const SIGNATURE: &str = "hush-signature-of-the-address";

struct Operator {
    broker: Broker,
}

impl Operator {
    async fn new() -> Operator {
        Operator { broker: Broker::start(Entry::Certificates).await }
    }

    async fn box_with(&self, more: &str) -> Daemon {
        let more = self.broker.fleet(BOX, more);
        // nobody signs for recorders here
        let daemon = Daemon::start(Settings { more, user_sigs: false, ..Settings::default() }).await;
        // it says that it is there once it hears
        let topic = format!("holdfast/{BOX}/state");
        let online =
            |message: &broker::Message| (message.topic == topic && message.payload["online"] == true).then_some(());
        self.broker.wait("the box on the line", online).await;
        daemon
    }

    fn ask(&self, id: &str, command: &str, args: Value) {
        self.broker.ask(BOX, id, command, args);
    }

    fn statuses(&self, id: &str) -> Vec<Value> {
        let topic = format!("holdfast/{BOX}/command/{id}/status");
        self.broker
            .messages()
            .into_iter()
            .filter(|message| message.topic == topic)
            .map(|message| message.payload)
            .collect()
    }

    async fn status(&self, id: &str, state: &str) -> Value {
        self.broker.status(BOX, id, state).await
    }

    async fn done(&self, id: &str, command: &str, args: Value) -> Value {
        self.broker.done(BOX, id, command, args).await
    }

    async fn refused(&self, id: &str, command: &str, args: Value) -> String {
        self.broker.refused(BOX, id, command, args).await.0
    }
}

fn states(statuses: &[Value]) -> Vec<&str> {
    statuses.iter().filter_map(|status| status["state"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_are_begun_listed_and_ended_by_commands_and_each_is_done_once() {
    let operator = Operator::new().await;
    let daemon = operator.box_with("").await;
    let begun = operator.done("start-1", "start_recording", create_params("ward", "robot", "unchecked")).await;
    let task = begun["TaskId"].as_str().expect("a task").to_owned();
    assert_eq!(states(&operator.statuses("start-1")), ["accepted", "running", "done"]);
    let listed = operator.done("list-1", "list_recordings", json!({})).await;
    let line = &listed["recordings"][0];
    assert_eq!((&line["TaskId"], &line["RoomId"], &line["Status"]), (&json!(task), &json!("ward"), &json!("Idle")));
    // the same id again, with something else in it
    operator.ask("start-1", "start_recording", create_params("another", "robot", "unchecked"));
    let of_task = json!({ "SdkAppId": APP, "TaskId": task });
    operator.done("pause-1", "pause_recording", of_task.clone()).await;
    assert_eq!(
        operator.done("list-2", "list_recordings", json!({})).await["recordings"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(states(&operator.statuses("start-1")), ["accepted", "running", "done", "done"]);
    operator.done("stop-1", "stop_recording", of_task).await;
    assert_eq!(operator.broker.retained(&format!("holdfast/{BOX}/command/stop-1/status"))["state"], "done");
    // what is wrong is told in the API's own words, or in the box's
    let none = json!({ "SdkAppId": APP, "TaskId": "none" });
    assert_eq!(operator.refused("stop-2", "stop_recording", none).await, "ResourceNotFound");
    assert_eq!(operator.refused("bad-1", "make_coffee", json!({})).await, "unknown_command");
    let inner = json!({ "url": "https://127.0.0.1/x" });
    assert_eq!(operator.refused("bad-2", "debug_bundle", inner).await, "bad_request");
    operator.done("who-1", "identify", json!({ "seconds": 1 })).await;
    let said = operator.statuses("start-1").iter().map(Value::to_string).collect::<String>() + &daemon.log();
    assert!(!said.contains(SECRET_KEY) && !said.contains(ACCESS_KEY), "a key of the storage was told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_a_kill_cut_short_is_told_after_the_start_and_not_done_again() {
    let operator = Operator::new().await;
    let mut daemon = operator.box_with("bundle_allow = [\"127.0.0.1\"]\nreboot_command = [\"true\"]").await;
    // it takes the bundle, and never says so
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let url = format!("http://{}/bundle", silent.local_addr().expect("it is bound"));
    operator.ask("bundle-1", "debug_bundle", json!({ "url": url }));
    let (_held, _) = within(SOON, "the bundle to come", silent.accept()).await.expect("it comes");
    operator.status("bundle-1", "running").await;
    operator.ask("reboot-1", "reboot", json!({}));
    operator.status("reboot-1", "running").await;
    daemon.kill().await;
    daemon.start_again().await;
    assert_eq!(operator.status("bundle-1", "failed").await["error"]["code"], "interrupted");
    // the machine is the same as before, so it was not started anew
    assert_eq!(operator.status("reboot-1", "failed").await["error"]["code"], "interrupted");
    operator.ask("bundle-1", "debug_bundle", json!({ "url": url }));
    operator.done("list-1", "list_recordings", json!({})).await;
    assert_eq!(states(&operator.statuses("bundle-1")), ["accepted", "running", "failed", "failed"]);
}

/// Takes one PUT and answers it; its path and body.
async fn one_put(listener: TcpListener) -> (String, Vec<u8>) {
    let (mut line, _) = listener.accept().await.expect("somebody comes");
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 65_536]);
    loop {
        let n = line.read(&mut chunk).await.expect("it is read");
        bytes.extend_from_slice(&chunk[..n]);
        let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().expect("a number"))
        });
        if bytes.len() >= end + 4 + length.expect("a length") || n == 0 {
            line.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("it is answered");
            return (head.lines().next().unwrap_or_default().to_owned(), bytes.split_off(end + 4));
        }
    }
}

fn unpacked(bundle: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bundle));
    let entries = archive.entries().expect("it is an archive");
    let page = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.expect("it is whole");
        let name = entry.path().expect("it has a name").display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("it is text, and so no media");
        (name, text)
    };
    entries.map(page).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debug_bundle_goes_where_it_may_with_neither_media_nor_secrets() {
    let operator = Operator::new().await;
    let callback = "\n[automatic]\nbucket = \"rec\"\nsecret_key = \"hush-key-of-the-table\"\n\
                    callback_url = \"https://user:hush-login@clinic.example/news?token=hush-token\"";
    let more = format!("bundle_allow = [\"127.0.0.0/8\"]{callback}");
    let daemon = operator.box_with(&more).await;
    operator.done("start-1", "start_recording", create_params("ward", "robot", "unchecked")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let url = format!("http://{}/bundle?sig={SIGNATURE}", listener.local_addr().expect("it is bound"));
    operator.ask("bundle-1", "debug_bundle", json!({ "url": url }));
    let (asked, bundle) = within(SOON, "the bundle", one_put(listener)).await;
    assert_eq!(asked, format!("PUT /bundle?sig={SIGNATURE} HTTP/1.1"));
    assert_eq!(operator.status("bundle-1", "done").await["result"]["bytes"], bundle.len());
    let pages = unpacked(&bundle);
    let page = |name: &str| {
        pages.get(&format!("holdfast-debug/{name}")).unwrap_or_else(|| panic!("{name}: {:?}", pages.keys()))
    };
    assert!(page("log.txt").contains("the box is ready"));
    assert!(page("config.txt").contains("sdk_app_id") && page("config.txt").contains("https://clinic.example/news?…"));
    assert!(page("metrics.txt").contains("holdfast_tasks") && page("about.txt").contains("health"));
    page("shelf.txt");
    let written: String = pages.values().cloned().collect();
    for secret in [API_KEY, CALLBACK_KEY, SECRET_KEY, ACCESS_KEY, SIGNATURE, "hush"] {
        assert!(!written.contains(secret), "{secret} is in the bundle");
        assert!(!daemon.log().contains(secret), "{secret} is in the log");
    }
}
