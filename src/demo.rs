//! Box, two publishers, a recording and a callback receiver in one process, on the embedded defaults.
//!
//! Owns: the story that it tells. Must not touch: anything but the box's own doors: it publishes by WHIP, asks by the
//! signed API, and listens to the callbacks as a clinic's server would.
//! Law: it succeeds only if everything that it prints was so.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::{self, RunningBox};
use crate::config::{ApiKey, App, Config, StorageKind};
use crate::media::publish::{PublishSettings, Source, TestPicture, VideoCodec, publish};
use crate::model::playlist::Playlist;
use crate::model::signature::{callback_sign, gen_user_sig, sign_tc3};
use crate::model::{SdkAppId, Secret};

const APP: SdkAppId = SdkAppId(1_400_000_001);
const ROOM: &str = "consultation-7";
/// Who is in the room, and the colour of each one's picture.
const USERS: [(&str, u32); 2] = [("dr-wang", 0x0020_5080), ("patient-li", 0x0080_3020)];
const BUCKET: &str = "recordings-1250000000";

/// One of the recordings that are made.
struct Kind {
    told: &'static str,
    robot: &'static str,
    mode: u8,
    /// Playlists that it leaves behind, and what ffprobe finds in each.
    lists: usize,
    holds: &'static str,
}

const APART: Kind = Kind { told: "each stream apart", robot: "recorder", mode: 1, lists: 4, holds: "" };
const MIXED: Kind = Kind { told: "mixed", robot: "mixer", mode: 2, lists: 1, holds: "h264 1280x720 + aac" };

impl Kind {
    /// `CreateCloudRecording`; what is for mixed recordings means nothing to the other.
    fn order(&self, sig: &Secret) -> Value {
        json!({
            "SdkAppId": APP.0, "RoomId": ROOM, "RoomIdType": 0,
            "UserId": self.robot, "UserSig": sig.expose(),
            "RecordParams": { "RecordMode": self.mode, "StreamType": 0, "MaxIdleTime": 30 },
            "StorageParams": { "CloudStorage": {
                "Vendor": 1, "Region": "local", "Bucket": BUCKET, "AccessKey": "local", "SecretKey": "local",
                "FileNamePrefix": ["demo"],
            } },
            "MixTranscodeParams": {
                "VideoParams": { "Width": 1280, "Height": 720, "Fps": 15, "BitRate": 1_500_000, "Gop": 5 },
                "AudioParams": { "SampleRate": 1, "Channel": 2, "BitRate": 64_000 },
            },
            "MixLayoutParams": {
                "MixLayoutMode": 3,
                "BackGroundColor": "#202830",
                "RenderMode": 2,
                "WaterMarkList": [
                    { "WaterMarkType": 1, "WaterMarkChar": {
                        "Top": 16, "Left": 16, "Width": 600, "Height": 60, "Chars": "会诊 7 号 · consultation 7", "FontSize": 28,
                    } },
                    { "WaterMarkType": 2, "WaterMarkTimestamp": { "Pos": 3, "TimeZone": 8 } },
                ],
            },
        })
    }
}

#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// How long to record, seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Where to keep the box's state and the recording; a new folder in the temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep serving the recording over HTTP afterwards, until Ctrl-C.
    #[arg(long)]
    stay: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    App(#[from] app::Error),
    #[error("the API answered {code}: {message}")]
    Api { code: String, message: String },
    #[error("the API could not be reached: {0}")]
    Http(#[from] reqwest::Error),
    #[error("not so: {0}")]
    NotSo(String),
}

/// One callback as it arrived.
#[derive(Debug, Clone)]
struct Heard {
    body: Value,
    signed: bool,
}

impl Heard {
    fn event(&self) -> u64 {
        self.body["EventType"].as_u64().unwrap_or_default()
    }
    fn payload(&self) -> &Value {
        &self.body["EventInfo"]["Payload"]
    }
    fn task(&self) -> &str {
        self.body["EventInfo"]["TaskId"].as_str().unwrap_or_default()
    }
}

/// A clinic's server: takes callbacks and checks their signature.
struct Receiver {
    addr: SocketAddr,
    heard: watch::Receiver<Vec<Heard>>,
}

impl Receiver {
    async fn start(key: Secret, cancel: CancellationToken) -> Result<Receiver, Error> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (told, heard) = watch::channel(Vec::new());
        let told = Arc::new(told);
        let take = move |headers: HeaderMap, body: Bytes| {
            let told = told.clone();
            let sign = headers.get("Sign").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let signed = sign == callback_sign(key.expose(), &body);
            async move {
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                told.send_modify(|all: &mut Vec<Heard>| all.push(Heard { body, signed }));
                axum::Json(json!({ "code": 0 }))
            }
        };
        let router = axum::Router::new().route("/callback", axum::routing::post(take));
        tokio::spawn(async move {
            let _ = axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await;
        });
        Ok(Receiver { addr, heard })
    }

    /// Waits until something was heard that `is` it.
    async fn wait_for(&mut self, limit: Duration, is: impl Fn(&Heard) -> bool) -> Result<(), Error> {
        let found = self.heard.wait_for(|all| all.iter().any(&is));
        match tokio::time::timeout(limit, found).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::NotSo("an expected callback did not arrive".into())),
        }
    }

    fn all(&self) -> Vec<Heard> {
        self.heard.borrow().clone()
    }
}

/// The signed API, as any client of it would call it.
struct Api {
    http: reqwest::Client,
    addr: SocketAddr,
    key: ApiKey,
}

impl Api {
    async fn call(&self, action: &str, body: Value) -> Result<Value, Error> {
        let host = self.addr.to_string();
        let body = body.to_string();
        let now = app::wall_clock()();
        let authorization = sign_tc3(&self.key.secret_id, self.key.secret_key.expose(), &host, body.as_bytes(), now);
        let answer: Value = (self.http.post(format!("http://{host}/")))
            .header("Content-Type", "application/json")
            .header("X-TC-Action", action)
            .header("X-TC-Version", "2019-07-22")
            .header("X-TC-Timestamp", now.secs().to_string())
            .header("Authorization", authorization)
            .body(body)
            .send()
            .await?
            .json()
            .await?;
        let response = &answer["Response"];
        if let Some(error) = response.get("Error") {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            return Err(Error::Api { code: text("Code"), message: text("Message") });
        }
        Ok(response.clone())
    }
}

pub fn run(args: DemoArgs) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(tell(args))
}

fn secret() -> Secret {
    Secret::new(uuid::Uuid::new_v4().simple().to_string())
}

fn config(dir: &Path, callback: SocketAddr, keys: &Keys) -> Config {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::default();
    config.server.http = Some(loopback);
    config.server.https = None;
    config.server.state_dir = dir.join("state");
    config.limits.probe = false;
    config.whip.udp = loopback;
    config.storage.kind = StorageKind::Local;
    config.storage.local_root = dir.join("files");
    config.apps = vec![App {
        sdk_app_id: APP,
        secret_key: Some(keys.app.clone()),
        callback_url: Some(format!("http://{callback}/callback")),
        callback_key: Some(keys.callback.clone()),
    }];
    config.api_keys = vec![keys.api.clone()];
    config
}

/// Made anew for each demo: nothing is hard-coded that could be left in place.
struct Keys {
    app: Secret,
    callback: Secret,
    api: ApiKey,
}

impl Keys {
    /// UserSig of a day.
    fn sig(&self, user: &str) -> Secret {
        Secret::new(gen_user_sig(self.app.expose(), APP, user, app::wall_clock()(), 86_400))
    }
}

async fn tell(args: DemoArgs) -> Result<ExitCode, Error> {
    let dir = match args.dir.clone() {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!("holdfast-demo-{}", uuid::Uuid::new_v4().simple())),
    };
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let cancel = CancellationToken::new();
    let keys = Keys {
        app: secret(),
        callback: Secret::new(&secret().expose()[..16]),
        api: ApiKey { secret_id: "AKIDdemo".into(), secret_key: secret(), apps: Default::default() },
    };
    let mut receiver = Receiver::start(keys.callback.clone(), cancel.clone()).await?;
    println!("1. The box starts on its embedded defaults, in {}", dir.display());
    let the_box = app::start(config(&dir, receiver.addr, &keys)).await?;
    let outcome = record(&args, &dir, &the_box, &keys, &mut receiver, &cancel).await;
    if outcome.is_ok() && args.stay {
        println!("The box goes on serving; Ctrl-C ends it.");
        tokio::signal::ctrl_c().await?;
    }
    cancel.cancel();
    the_box.stop().await;
    outcome?;
    println!("\nEverything held.");
    Ok(ExitCode::SUCCESS)
}

/// A recording that was begun: what it should become, and its task.
type Begun = (&'static Kind, String);

async fn record(
    args: &DemoArgs,
    dir: &Path,
    the_box: &RunningBox,
    keys: &Keys,
    receiver: &mut Receiver,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let http = the_box.http.ok_or_else(|| Error::NotSo("the box has an HTTP door".into()))?;
    let api = Api { http: reqwest::Client::new(), addr: http, key: keys.api.clone() };

    println!("2. Two people publish by WebRTC (WHIP): a picture with a clock, a flash and a beep each second");
    let publishers = Publishers::start(http, keys, cancel.child_token());

    println!("3. Two recordings start through the signed API: each stream apart, and everybody in one picture");
    let tasks = create(&api, keys).await?;
    let began = Instant::now();
    let recorded = watch_files(args, dir, &api, &tasks, &publishers, receiver).await?;

    println!("4. They are stopped");
    for (_, task) in &tasks {
        api.call("DeleteCloudRecording", ask(task)).await?;
    }
    for (_, task) in &tasks {
        receiver.wait_for(Duration::from_secs(60), |heard| heard.event() == 305 && heard.task() == task).await?;
    }
    publishers.leave().await;

    println!("5. What was recorded (read by ffprobe over HTTP)");
    let bounds = (recorded.as_secs_f64() - 1.5, began.elapsed().as_secs_f64() + 1.5);
    for (kind, task) in &tasks {
        let folder = folder(dir, task);
        let lists = playlists(&folder)?;
        for path in &lists {
            check(path, &format!("http://{http}/files/{BUCKET}/demo/{task}"), kind, bounds).await?;
        }
        if lists.len() != kind.lists {
            return Err(Error::NotSo(format!("{} has {} playlists, not {}", kind.told, kind.lists, lists.len())));
        }
    }

    println!("6. What the clinic's server heard");
    let heard = receiver.all();
    for event in &heard {
        let signed = if event.signed { "signature ok" } else { "SIGNATURE WRONG" };
        println!("   {}  {signed}  {}", event.event(), event.payload());
    }
    for (kind, task) in &tasks {
        let of_task: Vec<&Heard> = heard.iter().filter(|event| event.task() == task).collect();
        expect_events(&of_task, kind.lists)?;
    }
    println!("\nPlay it:");
    for (_, task) in &tasks {
        for path in playlists(&folder(dir, task))? {
            println!("   ffplay '{}'", path.display());
        }
        if args.stay {
            println!("   or http://{http}/files/{BUCKET}/demo/{task}/…");
        }
    }
    Ok(())
}

/// The people of the room, each with a test picture of his own colour.
struct Publishers {
    tasks: Vec<JoinHandle<()>>,
    leave: CancellationToken,
    problems: Arc<Mutex<Vec<String>>>,
}

impl Publishers {
    fn start(http: SocketAddr, keys: &Keys, leave: CancellationToken) -> Publishers {
        let problems: Arc<Mutex<Vec<String>>> = Arc::default();
        let publisher = |(user, colour): (&'static str, u32)| {
            let settings = PublishSettings {
                url: format!("http://{http}/whip/{ROOM}/{user}"),
                bearer: Some(keys.sig(user)),
                insecure: false,
                source: Source::TestPicture(TestPicture {
                    width: 640,
                    height: 360,
                    fps: 30,
                    bitrate: 800_000,
                    label: user.to_owned(),
                    colour,
                    flash_beep: true,
                }),
                video: VideoCodec::H264,
                duration: None,
            };
            println!("   {}", settings.url);
            let (leave, problems) = (leave.clone(), problems.clone());
            tokio::spawn(async move {
                if let Err(e) = publish(settings, leave).await {
                    problems.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{user}: {e}"));
                }
            })
        };
        let tasks = USERS.into_iter().map(publisher).collect();
        Publishers { tasks, leave, problems }
    }

    /// An error if one of them has failed.
    fn well(&self) -> Result<(), Error> {
        let told = self.problems.lock().unwrap_or_else(PoisonError::into_inner).join("; ");
        if told.is_empty() { Ok(()) } else { Err(Error::NotSo(format!("a publisher failed: {told}"))) }
    }

    async fn leave(self) {
        self.leave.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

async fn create(api: &Api, keys: &Keys) -> Result<Vec<Begun>, Error> {
    let mut tasks = Vec::new();
    for kind in [&APART, &MIXED] {
        let created = api.call("CreateCloudRecording", kind.order(&keys.sig(kind.robot))).await?;
        let task = created["TaskId"].as_str().unwrap_or_default().to_owned();
        println!("   TaskId {task} ({})", kind.told);
        tasks.push((kind, task));
    }
    Ok(tasks)
}

fn ask(task: &str) -> Value {
    json!({ "SdkAppId": APP.0, "TaskId": task })
}

/// Until all playlists have been there for as long as was asked; for how long they were.
async fn watch_files(
    args: &DemoArgs,
    dir: &Path,
    api: &Api,
    tasks: &[Begun],
    publishers: &Publishers,
    receiver: &Receiver,
) -> Result<Duration, Error> {
    let expected: usize = tasks.iter().map(|(kind, _)| kind.lists).sum();
    let length = Duration::from_secs(args.seconds);
    let began = Instant::now();
    let mut flowing: Option<Instant> = None;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut files = 0;
        for (_, task) in tasks {
            let seen = api.call("DescribeCloudRecording", ask(task)).await?;
            files += seen["StorageFileList"].as_array().map_or(0, Vec::len);
        }
        println!(
            "   {:>3} s  {files} of {expected} playlists  {} on disk  {} callbacks",
            began.elapsed().as_secs(),
            size(bytes_below(dir)),
            receiver.all().len()
        );
        publishers.well()?;
        match flowing {
            Some(since) if since.elapsed() >= length => return Ok(since.elapsed()),
            None if files == expected => flowing = Some(Instant::now()),
            None if began.elapsed() > Duration::from_secs(60) => {
                return Err(Error::NotSo("all streams are recorded within a minute".into()));
            }
            Some(_) | None => {}
        }
    }
}

fn folder(dir: &Path, task: &str) -> PathBuf {
    dir.join("files").join(BUCKET).join("demo").join(task)
}

/// A playlist is closed, and it and what ffprobe reads of it are as long as they should be, seconds.
async fn check(path: &Path, base: &str, kind: &Kind, (low, high): (f64, f64)) -> Result<(), Error> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let text = std::fs::read_to_string(path)?;
    let list = Playlist::parse(&text).map_err(|e| Error::NotSo(format!("{name} is a playlist: {e}")))?;
    let told: Duration = list.items.iter().map(|item| item.duration).sum();
    let read = probe(&format!("{base}/{name}")).await?;
    println!("   {:>7.3} s  {:<24} {:>2} segments  {}", read.seconds, read.streams, list.items.len(), name);
    if !list.ended {
        return Err(Error::NotSo(format!("{name} is closed")));
    }
    for seconds in [read.seconds, told.as_secs_f64()] {
        if !(low..=high).contains(&seconds) {
            return Err(Error::NotSo(format!("{name} holds {low:.1} to {high:.1} s, not {seconds:.3}")));
        }
    }
    if !read.streams.contains(kind.holds) {
        return Err(Error::NotSo(format!("{name} holds {}, not {}", kind.holds, read.streams)));
    }
    Ok(())
}

fn expect_events(heard: &[&Heard], lists: usize) -> Result<(), Error> {
    if let Some(wrong) = heard.iter().find(|event| !event.signed) {
        return Err(Error::NotSo(format!("every callback is signed ({})", wrong.event())));
    }
    let count = |event: u64| heard.iter().filter(|h| h.event() == event).count();
    for (event, times) in [(301, 1), (303, 1), (307, lists), (304, lists), (302, 1), (305, 1), (308, 0)] {
        if count(event) != times {
            return Err(Error::NotSo(format!("event {event} is told {times} times, not {}", count(event))));
        }
    }
    let ends = heard.iter().find(|h| h.event() == 305).map(|h| h.payload()["Status"].clone());
    if ends != Some(json!(0)) {
        return Err(Error::NotSo(format!("305 says Status 0, not {ends:?}")));
    }
    let order: Vec<u64> = heard.iter().map(|h| h.event()).collect();
    if order.first() != Some(&301) || order.last() != Some(&305) {
        return Err(Error::NotSo(format!("301 comes first and 305 last: {order:?}")));
    }
    Ok(())
}

fn playlists(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "m3u8") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

struct Probed {
    seconds: f64,
    streams: String,
}

async fn probe(address: &str) -> Result<Probed, Error> {
    let asked = tokio::process::Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-of",
            "json",
            "-show_entries",
            "format=duration:stream=codec_name,width,height",
            address,
        ])
        .output()
        .await
        .map_err(|e| Error::NotSo(format!("ffprobe can be run (Debian package ffmpeg): {e}")))?;
    let told: Value = serde_json::from_slice(&asked.stdout).unwrap_or(Value::Null);
    let seconds = told["format"]["duration"].as_str().and_then(|s| s.parse().ok());
    let Some(seconds) = seconds else {
        let why = String::from_utf8_lossy(&asked.stderr).trim().to_owned();
        return Err(Error::NotSo(format!("ffprobe reads {address}: {why}")));
    };
    let stream = |s: &Value| match (s["codec_name"].as_str(), s["width"].as_u64(), s["height"].as_u64()) {
        (Some(codec), Some(w), Some(h)) if w > 0 => format!("{codec} {w}x{h}"),
        (Some(codec), ..) => codec.to_owned(),
        _ => String::new(),
    };
    let streams: Vec<String> =
        told["streams"].as_array().map(|all| all.iter().map(stream).collect()).unwrap_or_default();
    Ok(Probed { seconds, streams: streams.join(" + ") })
}

fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let below = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    below.sum()
}

fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
