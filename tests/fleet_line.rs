//! A box and its operators: a real broker with TLS, and everything that goes wrong between them.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::collections::BTreeMap;

use broker::{Broker, Entry, Message, PASSWORD};
use serde_json::{Value, json};
use support::daemon::{Daemon, Settings};
use support::receiver::Receiver;
use support::scene::{now_ms, until};
use support::sdk::Sdk;
use support::{ACCESS_KEY, API_KEY, APP_KEY, CALLBACK_KEY, SECRET_KEY};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

fn with(more: String) -> Settings {
    Settings { more, ..Settings::default() }
}

/// The session and whether it lives, of a message on a box's `state`.
fn state_of(message: &Message, box_id: &str) -> Option<(u64, bool)> {
    (message.topic == format!("holdfast/{box_id}/state"))
        .then(|| Some((message.payload["session"].as_u64()?, message.payload["online"].as_bool()?)))
        .flatten()
}

async fn session(broker: &Broker, box_id: &str, after: u64) -> u64 {
    let born = |message: &Message| match state_of(message, box_id) {
        Some((number, true)) if number > after => Some(number),
        _ => None,
    };
    broker.wait(&format!("a birth of {box_id} after session {after}"), born).await
}

#[tokio::test(flavor = "multi_thread")]
async fn birth_will_and_an_old_will_that_is_put_right() {
    let broker = Broker::start(Entry::Certificates).await;
    let mut daemon = Daemon::start(with(broker.fleet("b-1", ""))).await;
    let first = session(&broker, "b-1", 0).await;
    let figures = |message: &Message| (message.topic == "holdfast/b-1/telemetry").then(|| message.payload.clone());
    let told = broker.wait("telemetry", figures).await;
    assert_eq!((&told["recording"], &told["tasks"]), (&json!(false), &json!(0)));
    assert!(told["disk"]["free_bytes"].as_u64() < told["disk"]["total_bytes"].as_u64(), "{told}");

    daemon.kill().await;
    broker.wait("the will", |message| (state_of(message, "b-1") == Some((first, false))).then_some(())).await;
    assert_eq!(broker.retained("holdfast/b-1/state")["online"], false);

    daemon.start_again().await;
    let second = session(&broker, "b-1", first).await;
    assert_eq!(broker.retained("holdfast/b-1/state")["online"], true);

    // a will that comes too late, and one that speaks of a session that lives
    for number in [first, second] {
        let will = json!({
            "session": number, "online": false, "since": "2026-11-26T00:00:00Z", "version": "0.1.0",
        });
        let before = broker.messages().len();
        broker.publish("holdfast/b-1/state", &will.to_string(), true);
        let born = |message: &Message| (state_of(message, "b-1") == Some((second, true))).then_some(());
        broker.wait_from(before, "a birth again", born).await;
        assert_eq!(broker.retained("holdfast/b-1/state")["session"], second);
        assert_eq!(broker.retained("holdfast/b-1/state")["online"], true);
    }

    let before = broker.messages().len();
    assert_eq!(daemon.terminate().await, Some(0));
    let gone = |message: &Message| (state_of(message, "b-1") == Some((second, false))).then_some(());
    broker.wait_from(before, "the last word", gone).await;
    let last_words = broker.messages().iter().skip(before).filter(|m| state_of(m, "b-1").is_some()).count();
    assert_eq!(last_words, 1, "an orderly end takes the will back");
}

/// Events of each task by number, as they were first heard.
fn events(broker: &Broker) -> BTreeMap<String, Vec<(u64, Value)>> {
    let mut all = BTreeMap::<String, Vec<(u64, Value)>>::new();
    for Message { topic, payload, .. } in broker.messages() {
        let Some(number) = topic.strip_prefix("holdfast/b-1/event/") else { continue };
        assert_eq!(payload["EventType"].to_string(), number);
        let id = payload["EventInfo"]["EventId"].as_str().expect("by schema").to_owned();
        let (task, seq) = id.rsplit_once('-').expect("by schema");
        let seq = seq.parse().expect("by schema");
        let of_task = all.entry(task.to_owned()).or_default();
        if !of_task.iter().any(|(known, _)| *known == seq) {
            of_task.push((seq, payload));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_broker_is_away_is_told_when_it_is_back() {
    let mut broker = Broker::start(Entry::Certificates).await;
    let receiver = Receiver::start().await;
    let more = broker.fleet("b-1", "keep_messages = 10\ntelemetry_seconds = 1");
    let settings = Settings { callback_url: Some(receiver.url.clone()), ..with(more) };
    let mut daemon = Daemon::start(settings).await;
    let sdk = Sdk::start(&daemon).await;
    session(&broker, "b-1", 0).await;
    let task = sdk.create("room-0", "recorder", |_| {}).await.expect("a plain Create works");
    broker.wait("301", |message| (message.topic == "holdfast/b-1/event/301").then_some(())).await;
    // and the box knows that the broker has it
    let acknowledged = || async { (daemon.metric("holdfast_fleet_waiting").await < 1.0).then_some(()) };
    until("the broker's word", acknowledged).await;

    let told_before = broker.messages().len();
    broker.kill().await;
    daemon.logged("no session with the broker").await;
    sdk.delete(&task).await.expect("it runs");
    let mut tasks = vec![task];
    for n in 1..8 {
        let task = sdk.create(&format!("room-{n}"), "recorder", |_| {}).await.expect("a plain Create works");
        sdk.delete(&task).await.expect("it runs");
        tasks.push(task);
    }
    // the box has told its callbacks everything, and dies before the broker is back
    for task in &tasks {
        receiver.nth(task, 305, 1).await;
    }
    daemon.logged("more waits for the broker than may").await;
    daemon.kill().await;
    daemon.start_again().await;
    let back_at = now_ms();
    broker.start_again().await;

    let happened: BTreeMap<String, Vec<Value>> =
        tasks.iter().map(|task| (task.clone(), receiver.of(task).iter().map(|c| c.json.clone()).collect())).collect();
    let all: usize = happened.values().map(Vec::len).sum();
    let dropped = |message: &Message| {
        let count = message.payload["broker"]["dropped_events"].as_u64().filter(|count| *count > 0)?;
        (message.topic == "holdfast/b-1/telemetry" && message.payload["broker"]["waiting"] == 0).then_some(count)
    };
    let dropped = broker.wait("telemetry with what was dropped, and nothing that waits", dropped).await as usize;
    let heard = events(&broker);
    assert_eq!(heard.values().map(Vec::len).sum::<usize>() + dropped, all, "{heard:?}\n{happened:?}");
    for (task, of_task) in &heard {
        let seqs: Vec<u64> = of_task.iter().map(|(seq, _)| *seq).collect();
        assert!(seqs.is_sorted(), "{task}: {seqs:?}");
        for (_, event) in of_task {
            let same = |called: &Value| {
                let mut event = event.clone();
                event["CallbackTs"] = called["CallbackTs"].clone();
                event == *called
            };
            assert!(happened[task].iter().any(same), "{task}: {event}\n{:?}", happened[task]);
        }
    }
    // of how things were while nobody heard it, one telemetry a second, at most the newest is told
    let old = |message: &&Message| {
        let at = message.payload["at"].as_str().filter(|_| message.topic == "holdfast/b-1/telemetry");
        let at = at.map(|at| OffsetDateTime::parse(at, &Rfc3339).expect("by schema"));
        at.is_some_and(|at| at.unix_timestamp_nanos() < i128::from(back_at) * 1_000_000)
    };
    let messages = broker.messages();
    let old = messages[told_before..].iter().filter(old).count();
    // one that the first broker was given may have no answer yet
    assert!(old <= 2, "{old} old states");
    // what says how a task ended is worth most
    let last = tasks.last().expect("there are tasks");
    assert!(heard[last].iter().any(|(_, event)| event["EventType"] == 305), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_boxes_and_one_that_trusts_somebody_else() {
    let broker = Broker::start(Entry::Passwords).await;
    let mut first = Daemon::start(with(broker.fleet("b-1", "home_assistant = true"))).await;
    let second = Daemon::start(with(broker.fleet("b-2", ""))).await;
    let numbers = (session(&broker, "b-1", 0).await, session(&broker, "b-2", 0).await);
    // events of an application without a callback
    let sdk = Sdk::start(&second).await;
    let task = sdk.create("room", "recorder", |_| {}).await.expect("a plain Create works");
    sdk.delete(&task).await.expect("it runs");
    broker.wait("302", |message| (message.topic == "holdfast/b-2/event/302").then_some(())).await;

    let configs = || broker.messages().into_iter().filter(|m| m.topic.starts_with("homeassistant/"));
    broker.wait("the last entity", |m| m.topic.ends_with("/temperature/config").then_some(())).await;
    assert_eq!(configs().count(), 6);
    assert!(configs().all(|m| m.topic.contains("/holdfast-b-1/") && m.payload["device"]["name"] == "b-1"));
    first.kill().await;
    broker.wait("the will", |message| (state_of(message, "b-1") == Some((numbers.0, false))).then_some(())).await;
    assert_eq!(broker.retained("holdfast/b-2/state")["online"], true);
    let before = broker.messages().len();
    first.settings.more = broker.fleet("b-1", "");
    first.start_again().await;
    let taken_back = |m: &Message| (m.topic.ends_with("/temperature/config") && m.payload.is_null()).then_some(());
    broker.wait_from(before, "the entities to be taken back", taken_back).await;

    let foreign = format!("unreachable_minutes = 0\nca = \"{}\"", broker.foreign_ca().display());
    let stranger = Daemon::start(with(broker.fleet("b-3", &foreign))).await;
    stranger.logged("UnknownIssuer").await;
    let told = until("health to tell of it", || async {
        let health = stranger.health().await.to_string();
        health.contains("the broker is out of reach").then_some(health)
    });
    assert!(told.await.contains("UnknownIssuer"));
    assert!(broker.messages().iter().all(|message| !message.topic.contains("b-3")));

    let everything = [broker.heard(), first.log(), second.log(), stranger.log()].join("\n");
    for secret in [APP_KEY, API_KEY, ACCESS_KEY, SECRET_KEY, CALLBACK_KEY, PASSWORD] {
        assert!(!everything.contains(secret), "a secret was told: {secret}");
    }
}
