//! The twin on its channels, without a broker: time is the runtime's, which goes on when nobody has anything to do.

use std::path::Path;

use serde_json::Value;
use tokio::task::JoinHandle;

use super::*;
use crate::config::document::Base;
use crate::model::Timestamp;

const FILE: &str = r#"
    [limits]
    tasks = 5
    [[api_keys]]
    secret_id = "file"
    secret_key = "hush-of-the-file"
    [fleet]
    enabled = true
    box_id = "ward-7"
    broker = "mqtts://broker.example"
    rollback_seconds = 60
"#;

/// One life of a box, as far as the twin is concerned.
struct Life {
    live: Live,
    health: Reporter,
    to_twin: mpsc::Sender<Incoming>,
    rotations: mpsc::Sender<Rotation>,
    from_twin: mpsc::Receiver<Outgoing>,
    connected: watch::Sender<bool>,
    restart: Arc<Notify>,
    cancel: CancellationToken,
    running: JoinHandle<()>,
    told: Vec<String>,
}

impl Life {
    fn begin(dir: &Path) -> Life {
        Life::begin_with(dir, FILE)
    }

    fn begin_with(dir: &Path, file: &str) -> Life {
        let mut config = Config::parse(file).expect("the file is valid");
        config.server.state_dir = dir.to_owned();
        let health = Reporter::default();
        health.started();
        let needs = Needs {
            box_key: Arc::new(BoxKey::load_or_create(&dir.join("box.key")).unwrap()),
            layers: Arc::new(Mutex::new(Layers::new(Base::parse(file).unwrap()))),
            prepare: Arc::new(|config| match config.vod.secret_key_file.take() {
                Some(_) => Err(Fault::new("vod.secret_key_file", "is not there")),
                None => Ok(()),
            }),
            clock: Arc::new(|| Timestamp::from_ms(1_764_122_400_000)),
            health: health.clone(),
        };
        let twin = Twin::begin(needs, config);
        let live = Live::new(twin.config());
        let (to_twin, incoming) = mpsc::channel(4);
        let (rotations, asked) = mpsc::channel(4);
        let (outgoing, from_twin) = mpsc::channel(64);
        let (connected, seen) = watch::channel(true);
        let (restart, cancel) = (Arc::new(Notify::new()), CancellationToken::new());
        let (live_too, restart_too, ends) = (live.clone(), restart.clone(), cancel.clone());
        let mut station = Station {
            twin,
            live: live_too,
            incoming,
            rotations: asked,
            outgoing,
            connected: seen,
            restart: restart_too,
        };
        let running = tokio::spawn(async move { station.run(ends).await });
        Life { live, health, to_twin, rotations, from_twin, connected, restart, cancel, running, told: Vec::new() }
    }

    async fn desire(&self, version: i64, config: Value) {
        let payload = json!({"version": version, "config": config}).to_string().into_bytes().into();
        self.to_twin.send(Incoming { topic: DESIRED.into(), payload, retained: true }).await.unwrap();
    }

    async fn rotate(&self, args: Value) -> Result<Value, Refusal> {
        let (answer, answered) = oneshot::channel();
        assert!(self.rotations.send(Rotation { args, answer }).await.is_ok(), "the twin lives");
        let done = answered.await.expect("it is answered");
        if let Ok(told) = &done {
            assert!(!told.to_string().contains("hush"), "{told}");
        }
        done
    }

    /// The next report of which this holds.
    async fn report(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                let message = self.from_twin.recv().await.expect("the twin lives");
                assert_eq!((message.topic.as_str(), message.retain, message.class), (REPORTED, true, Class::State));
                let text = String::from_utf8(message.payload).unwrap();
                let report: Value = serde_json::from_str(&text).unwrap();
                self.told.push(text);
                if holds(&report) {
                    return report;
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(3600), found).await;
        found.unwrap_or_else(|_| panic!("no report: {what}\n{}", self.told.join("\n")))
    }

    async fn end(self) -> Vec<String> {
        self.cancel.cancel();
        self.running.await.unwrap();
        self.told
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_document_holds_at_once_and_after_a_start_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path());
    let first = life.report("the first", |_| true).await;
    assert_eq!((&first["version"], &first["in_force"], &first["accepted"]), (&Value::Null, &Value::Null, &json!(true)));
    life.desire(1, json!({"limits": {"tasks": 6}, "api_keys": [{"secret_id": "new", "secret_key": "hush-new"}]})).await;
    let taken = life.report("version 1", |told| told["version"] == 1).await;
    assert_eq!((&taken["in_force"], &taken["on_trial"]), (&json!(1), &json!(true)));
    let now = life.live.now();
    assert_eq!((now.limits.tasks, now.api_keys[0].secret_id.as_str()), (6, "new"));
    life.desire(2, json!({"limits": {"tasks": 0}, "server": {"public_names": 5}})).await;
    let refused = life.report("version 2", |told| told["version"] == 2).await;
    assert_eq!((&refused["accepted"], &refused["in_force"]), (&json!(false), &json!(1)));
    let fields: Vec<&Value> = refused["errors"].as_array().unwrap().iter().map(|fault| &fault["field"]).collect();
    assert_eq!(fields, ["server.public_names"]);
    life.desire(3, json!({"vod": {"secret_id": "a", "secret_key_file": "/none"}})).await;
    let refused = life.report("version 3", |told| told["version"] == 3).await;
    assert_eq!(refused["errors"][0]["field"], "vod.secret_key_file");
    assert_eq!(life.live.now().limits.tasks, 6);
    life.report("it passed", |told| told["on_trial"] == false).await;
    let told = life.end().await;
    assert!(told.iter().all(|text| !text.contains("hush")), "{told:?}");

    let mut life = Life::begin(dir.path());
    assert_eq!(life.live.now().limits.tasks, 6);
    let first = life.report("the first", |_| true).await;
    assert_eq!((&first["version"], &first["in_force"], &first["on_trial"]), (&json!(1), &json!(1), &json!(false)));
    let key = &first["config"]["api_keys"][0]["secret_key"];
    assert_eq!((&key["set"], key["fingerprint"].as_str().unwrap().len()), (&json!(true), SHOWN));
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_cuts_the_box_off_goes_again_and_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path());
    let wrong = json!({"fleet": {"broker": "mqtts://nowhere.example"}});
    life.desire(7, wrong.clone()).await;
    life.report("version 7", |told| told["in_force"] == 7).await;
    assert_eq!(life.live.now().fleet.broker, "mqtts://nowhere.example");
    life.connected.send_replace(false);
    let back = life.report("rolled back", |told| told["rolled_back"] != Value::Null).await;
    assert_eq!((&back["version"], &back["accepted"], &back["in_force"]), (&json!(7), &json!(false), &Value::Null));
    assert_eq!(back["rolled_back"]["version"], 7);
    assert_eq!(life.live.now().fleet.broker, "mqtts://broker.example");
    life.connected.send_replace(true);
    life.desire(7, wrong.clone()).await;
    life.report("again", |told| told["version"] == 7 && told["accepted"] == false).await;
    life.end().await;

    // the retained one comes in every life
    let mut life = Life::begin(dir.path());
    life.desire(7, wrong).await;
    let told = life.report("refused", |told| told["accepted"] == false).await;
    assert_eq!(told["in_force"], Value::Null);
    assert_eq!(life.live.now().fleet.broker, "mqtts://broker.example");
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_trial_goes_on_in_the_next_life() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path());
    life.desire(1, json!({"fleet": {"broker": "mqtts://nowhere.example"}})).await;
    life.report("version 1", |told| told["on_trial"] == true).await;
    life.end().await;
    let mut life = Life::begin(dir.path());
    assert_eq!(life.live.now().fleet.broker, "mqtts://nowhere.example");
    life.connected.send_replace(false);
    let began = Instant::now();
    life.report("rolled back", |told| told["rolled_back"] != Value::Null).await;
    assert!(began.elapsed() <= Duration::from_secs(61));
    assert_eq!(life.live.now().fleet.broker, "mqtts://broker.example");
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_needs_a_start_waits_for_recordings_and_health_that_fails_rolls_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path());
    life.health.recording(true);
    life.desire(1, json!({"whip": {"max_sessions": 7}, "limits": {"tasks": 9}})).await;
    let told = life.report("version 1", |told| told["version"] == 1).await;
    assert_eq!(told["pending_restart"], json!(["whip.max_sessions"]));
    let asked = life.restart.clone();
    assert!(tokio::time::timeout(Duration::from_secs(600), asked.notified()).await.is_err(), "it is recording");
    life.health.recording(false);
    tokio::time::timeout(Duration::from_secs(5), asked.notified()).await.expect("now it may");
    life.end().await;

    let mut life = Life::begin(dir.path());
    let told = life.report("the first", |_| true).await;
    assert_eq!((&told["in_force"], &told["pending_restart"], &told["on_trial"]), (&json!(1), &json!([]), &json!(true)));
    life.health.failed("media", "it does not come up");
    let told = life.report("rolled back", |told| told["rolled_back"] != Value::Null).await;
    assert_eq!(told["pending_restart"], json!(["whip.max_sessions"]));
    tokio::time::timeout(Duration::from_secs(5), life.restart.notified()).await.expect("back needs a start too");
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_memory_that_is_damaged_or_does_not_fit_leaves_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path());
    life.desire(1, json!({"upload": {"retry_longest_seconds": 5}})).await;
    life.report("it passed", |told| told["version"] == 1 && told["on_trial"] == false).await;
    life.end().await;

    // the file was changed by hand, and both together are no configuration
    let mut life = Life::begin_with(dir.path(), &format!("{FILE}\n[upload]\nretry_first_seconds = 100\n"));
    let told = life.report("the first", |_| true).await;
    assert_eq!((&told["accepted"], &told["in_force"]), (&json!(false), &Value::Null));
    assert_eq!(told["errors"][0]["field"], "upload.retry_longest_seconds");
    assert_eq!(life.live.now().upload.retry_first_seconds, 100);
    assert!(matches!(life.health.summary(), Summary::Degraded(_)));
    life.end().await;

    std::fs::write(dir.path().join("twin"), b"torn").unwrap();
    let mut life = Life::begin(dir.path());
    assert_eq!(life.live.now().upload.retry_longest_seconds, 300);
    assert!(matches!(life.health.summary(), Summary::Degraded(_)));
    life.desire(1, json!({"upload": {"retry_longest_seconds": 5}})).await;
    life.report("it is taken again", |told| told["in_force"] == 1).await;
    assert_eq!(life.health.summary(), Summary::Idle);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_does_not_hold() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path());
    std::fs::create_dir(dir.path().join("twin.new")).unwrap();
    life.desire(1, json!({"limits": {"tasks": 6}})).await;
    let told = life.report("version 1", |told| told["version"] == 1).await;
    assert_eq!((&told["accepted"], &told["in_force"]), (&json!(false), &Value::Null));
    assert_eq!(life.live.now().limits.tasks, 5);
    assert!(matches!(life.health.summary(), Summary::Degraded(_)));
    std::fs::remove_dir(dir.path().join("twin.new")).unwrap();
    life.desire(1, json!({"limits": {"tasks": 6}})).await;
    life.report("version 1", |told| told["in_force"] == 1).await;
    assert_eq!((life.live.now().limits.tasks, life.health.summary()), (6, Summary::Idle));
    life.end().await;
}

/// The API keys in force.
fn api_keys(life: &Life) -> Vec<String> {
    life.live.now().api_keys.iter().map(|key| key.secret_key.expose().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn keys_by_command_lie_over_the_document_and_only_another_one_undoes_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path());
    let document = json!({"limits": {"tasks": 6}, "api_keys": [{"secret_id": "doc", "secret_key": "hush-doc"}]});
    life.desire(1, document.clone()).await;
    life.report("it passed", |told| told["version"] == 1 && told["on_trial"] == false).await;
    let bad = life.rotate(json!({"limits": {"tasks": 7}, "apps": [{"sdk_app_id": 9, "secret_key": "hush"}]})).await;
    let bad = bad.expect_err("it holds more than keys");
    assert_eq!(bad, Refusal::new("bad_request", "limits: is no key: this changes keys alone"));
    let bad = life.rotate(json!({"vod": {"secret_key": "hush-alone"}})).await.expect_err("half an account");
    assert!(bad.code == "bad_request" && bad.message.starts_with("vod.secret_id "), "{bad}");
    assert_eq!(api_keys(&life), ["hush-doc"]);

    let keys = json!({"api_keys": [{"secret_id": "new", "secret_key": "hush-new"}], "fleet": {"username": "box", "password": "hush-line"}});
    let done = life.rotate(keys.clone()).await.expect("they are taken");
    assert_eq!((&done["version"], &done["on_trial"]), (&json!(1), &json!(true)));
    assert_eq!(done["fields"], json!(["api_keys", "fleet.password", "fleet.username"]));
    assert_eq!(done["keys"]["api_keys"][0]["secret_id"], "new");
    assert_eq!(api_keys(&life), ["hush-new"]);
    let told = life.report("told", |told| told["keys_rotated"] != Value::Null).await;
    assert_eq!(done["keys"]["api_keys"], told["config"]["api_keys"], "with the same fingerprints");
    assert_eq!((&told["version"], &told["in_force"], &told["accepted"]), (&json!(1), &json!(1), &json!(true)));
    life.desire(1, document.clone()).await;
    life.report("the retained one came again", |told| told["version"] == 1).await;
    assert_eq!(api_keys(&life), ["hush-new"]);
    life.report("they passed", |told| told["on_trial"] == false).await;
    life.end().await;
    let on_disk = std::fs::read(dir.path().join("twin")).unwrap();
    assert!(!on_disk.windows(4).any(|bytes| bytes == b"hush"));

    let mut life = Life::begin(dir.path());
    assert_eq!((api_keys(&life), life.live.now().limits.tasks), (vec!["hush-new".to_owned()], 6));
    life.desire(1, document).await;
    let told = life.report("after a start", |told| told["version"] == 1).await;
    assert_eq!((&told["accepted"], &told["keys_rotated"]["fields"]), (&json!(true), &done["fields"]));
    assert_eq!(api_keys(&life), ["hush-new"]);
    life.desire(2, json!({"api_keys": [{"secret_id": "doc", "secret_key": "hush-2"}]})).await;
    let told = life.report("version 2", |told| told["in_force"] == 2).await;
    assert_eq!((&told["keys_rotated"], life.live.now().fleet.password.is_none()), (&Value::Null, true));
    assert_eq!(api_keys(&life), ["hush-2"]);
    let told = life.end().await;
    assert!(told.iter().all(|text| !text.contains("hush")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn keys_that_cut_the_box_off_go_again_and_the_file_alone_takes_keys() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path());
    let done = life.rotate(json!({"fleet": {"username": "box", "password": "hush-wrong"}})).await.expect("taken");
    assert_eq!((&done["version"], &done["keys"]["fleet"]["username"]), (&Value::Null, &json!("box")));
    life.connected.send_replace(false);
    let back = life.report("rolled back", |told| told["rolled_back"] != Value::Null).await;
    assert_eq!((&back["rolled_back"]["keys_alone"], &back["keys_rotated"]), (&json!(true), &Value::Null));
    assert_eq!((&back["accepted"], &back["version"]), (&json!(true), &Value::Null), "no document was refused");
    assert_eq!(life.live.now().fleet.password, None);
    // a disk that takes nothing: neither does the box
    std::fs::create_dir(dir.path().join("twin.new")).unwrap();
    let keys = json!({"api_keys": [{"secret_id": "new", "secret_key": "hush-new"}]});
    assert_eq!(life.rotate(keys.clone()).await.expect_err("it cannot be kept").code, "failed");
    assert_eq!(api_keys(&life), ["hush-of-the-file"]);
    std::fs::remove_dir(dir.path().join("twin.new")).unwrap();
    life.connected.send_replace(true);
    life.rotate(keys).await.expect("now it can");
    assert_eq!(api_keys(&life), ["hush-new"]);
    life.report("they passed", |told| told["on_trial"] == false && told["keys_rotated"] != Value::Null).await;
    // whoever changes the file by hand finds the keys over it still
    life.end().await;
    let life = Life::begin_with(dir.path(), &FILE.replace("tasks = 5", "tasks = 8"));
    assert_eq!((life.live.now().limits.tasks, api_keys(&life)), (8, vec!["hush-new".to_owned()]));
    life.end().await;
}
