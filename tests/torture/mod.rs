//! Lives and deaths of a recording box, and what is left for the checker to see.
//!
//! A [`Subject`] is one box with one task. Each of its lives ends as a [`Death`] that a test chose: at a named point
//! (`src/crash.rs`) or at some moment, with or without the disk's power. The last life ends the task, and all that is there
//! then is judged by [`checker`]. Subjects of one test share a bucket, a receiver and the SDK.
#![allow(dead_code, reason = "each test file uses its share")]

pub mod after;
pub mod checker;
pub mod power;
mod ts;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::bucket::{Kind, S3};
use crate::support::daemon::{Daemon, Settings};
use crate::support::publisher::{Publisher, Sends};
use crate::support::receiver::{Callback, Receiver};
use crate::support::recorded::PREFIX;
use crate::support::scene::{now_ms, until};
use crate::support::sdk::Sdk;
use crate::support::small_disk::SmallDisk;
use crate::support::{LATER, SOON, halted, probe, program, within};
use checker::{Death, Evidence, Objects, Part};

/// Boxes that record at once, in all tests together; more of them measure the machine.
pub static PLACES: Semaphore = Semaphore::const_new(3);

const ROOM: &str = "clinic";
const USER: &str = "dr-wang";

/// What the boxes share.
pub struct World {
    pub s3: S3,
    pub receiver: Receiver,
    sdk: Sdk,
}

impl World {
    pub async fn new() -> World {
        let (s3, receiver, sdk) = tokio::join!(S3::start(Kind::S3sFs), Receiver::start(), Sdk::alone());
        World { s3, receiver, sdk }
    }
}

/// How a life ends.
#[derive(Debug, Clone)]
pub enum End {
    /// At a point: `name` or `name:count`.
    At(String),
    /// So long after its start.
    After(Duration),
}

/// One life before the last.
#[derive(Debug, Clone)]
pub enum Life {
    /// A publisher is there.
    Recording(End),
    /// Nobody comes.
    Quiet(End),
    /// The task is ended, once something of this life is in the bucket; then the box dies.
    Ending(End),
}

pub fn at(point: &str) -> End {
    End::At(point.to_owned())
}

/// What a subject is to be.
#[derive(Default)]
pub struct Plan {
    pub name: String,
    pub mixed: bool,
    pub lives: Vec<Life>,
    /// On a disk of its own, whose power goes with each death.
    pub power: bool,
    /// After the first death, its unfinished segments grow past the size from which files go up in parts.
    pub large: bool,
    /// Of everything that is left to chance.
    pub seed: u64,
}

pub struct Subject<'w> {
    world: &'w World,
    plan: Plan,
    daemon: Daemon,
    disk: Option<SmallDisk>,
    sdk: Sdk,
    user_sig: String,
    task: Option<String>,
    /// Delete was answered.
    deleted: bool,
    publisher: Option<Publisher>,
    deaths: Vec<Death>,
    chance: power::Chance,
}

/// Goes through the lives of a plan and one more, in which the task ends. Answers with the longest stretch of media that
/// a death cost, or panics with everything that is wrong.
pub async fn torture(world: &World, plan: Plan) -> i64 {
    let _place = PLACES.acquire().await.expect("nobody closes it");
    let disk = plan.power.then(|| SmallDisk::new(192, &[]));
    let settings = Settings {
        callback_url: Some(world.receiver.url.clone()),
        s3_endpoint: Some(world.s3.endpoint.clone()),
        segment_seconds: 2,
        state_dir: disk.as_ref().map(SmallDisk::state_dir),
        more: "[disk]\nlow_percent = 0\nlow_bytes = 1048576\nlow_inodes = 0\nreserve_bytes = 1048576\n".to_owned(),
        more_recording: "sync_seconds = 1\ntakeover_seconds = [0, 0, 0]".to_owned(),
        // each segment that lands has a list of its own, so that one replaces another
        more_upload: "list_seconds = 0\nmultipart_from_bytes = 5242880\npart_bytes = 5242880".to_owned(),
        crash: plan.lives.first().and_then(|life| crash_of(life, plan.power)),
        ..Settings::default()
    };
    let daemon = Daemon::start(settings).await;
    let sdk = world.sdk.of(&daemon);
    let user_sig = sdk.user_sig("recorder").await;
    let chance = power::Chance::new(plan.seed);
    let (task, publisher, deaths) = (None, None, Vec::new());
    let lives = plan.lives.clone();
    let mut subject =
        Subject { world, plan, daemon, disk, sdk, user_sig, task, deleted: false, publisher, deaths, chance };
    for (n, life) in lives.iter().enumerate() {
        subject.daemon.settings.crash = crash_of(life, subject.plan.power);
        let ready = n == 0 || subject.daemon.try_start_again().await;
        subject.live(n, life, ready).await;
    }
    subject.last_life().await
}

/// As the environment of the box says it. Before its disk loses its power it is stopped, not killed.
fn crash_of(life: &Life, power: bool) -> Option<String> {
    let (Life::Recording(end) | Life::Quiet(end) | Life::Ending(end)) = life;
    let End::At(point) = end else { return None };
    let counted = if point.contains(':') { point.clone() } else { format!("{point}:1") };
    Some(if power { format!("{counted}:stop") } else { counted })
}

impl Subject<'_> {
    async fn live(&mut self, n: usize, life: &Life, ready: bool) {
        let name = self.plan.name.clone();
        let (Life::Recording(end) | Life::Quiet(end) | Life::Ending(end)) = life;
        let what = format!("{name}, life {n}, {life:?}");
        let began = tokio::time::Instant::now();
        let mut recording = false;
        if ready {
            let id = self.daemon.id();
            // it may come in the middle of anything
            let ends = async {
                match end {
                    End::At(_) => halted(id).await,
                    End::After(wait) => tokio::time::sleep_until(began + *wait).await,
                }
            };
            recording = tokio::select! {
                acted = self.act(life) => acted,
                () = ends => true,
            };
        }
        match end {
            End::At(point) => match tokio::time::timeout(LATER, halted(self.daemon.id())).await {
                Ok(()) => {}
                Err(_) => panic!("{what}: the point {point} was not passed\n{}", self.daemon.log()),
            },
            End::After(wait) => {
                tokio::time::sleep_until(began + *wait).await;
            }
        }
        self.bury(what, recording && matches!(life, Life::Recording(_))).await;
    }

    /// What a life is for. Answers whether media is on its way.
    async fn act(&mut self, life: &Life) -> bool {
        if !self.has_task().await {
            return false;
        }
        if matches!(life, Life::Quiet(_)) || self.deleted {
            return false;
        }
        self.tell_the_truth().await;
        self.publish().await;
        if let Life::Ending(_) = life {
            let before = self.objects().await.len();
            until("something of this life in the bucket", || async {
                (self.objects().await.len() > before + 2).then_some(())
            })
            .await;
            let task = self.task.clone().expect("looked at above");
            // it may die while it answers
            self.deleted |= self.sdk.delete(&task).await.is_ok();
        }
        true
    }

    /// Asks for the recording until somebody answers; the same request again is the same task.
    async fn has_task(&mut self) -> bool {
        if self.task.is_none() {
            let user_sig = self.user_sig.clone();
            let mixed = self.plan.mixed;
            let created = self.sdk.create(ROOM, "recorder", |p| {
                p["UserSig"] = json!(user_sig);
                if mixed {
                    p["RecordParams"]["RecordMode"] = json!(2);
                    p["MixTranscodeParams"] = json!({
                        "VideoParams": { "Width": 320, "Height": 180, "Fps": 15, "BitRate": 300_000, "Gop": 1 },
                        "AudioParams": { "SampleRate": 1, "Channel": 1, "BitRate": 64_000 },
                    });
                }
            });
            match created.await {
                Ok(task) => self.task = Some(task),
                Err(error) => {
                    let halted = tokio::time::timeout(SOON, halted(self.daemon.id())).await;
                    assert!(halted.is_ok(), "{}: a box that lives takes the task: {error:?}", self.plan.name);
                }
            }
        }
        self.task.is_some()
    }

    async fn publish(&mut self) {
        let token = self.sdk.user_sig(USER).await;
        self.publisher = Some(Publisher::launch(&self.daemon.whip(ROOM, USER), &token, Sends::default()));
    }

    /// Describe, after a start: a task that nobody ended is there, and one that was ended is not.
    async fn tell_the_truth(&mut self) {
        let Some(task) = &self.task else { return };
        let described = self.sdk.describe(task).await;
        let log = || self.daemon.log();
        match (described, self.deleted) {
            (Ok(described), false) => {
                let status = described["Status"].as_str().unwrap_or_default();
                assert!(["Idle", "InProgress", "Exited"].contains(&status), "{described}");
            }
            (Ok(described), true) => assert_eq!(described["Status"], "Exited", "it was ended\n{}", log()),
            // it may have died in the middle of the answer, or of the question
            (Err(error), _) if error.code.starts_with("ClientNetworkError") => {}
            (Err(error), true) => assert_eq!(error.code, "ResourceNotFound"),
            (Err(error), false) if self.may_have_ended() => assert_eq!(error.code, "ResourceNotFound"),
            (Err(error), false) => panic!("{}: Describe of a task that runs: {error:?}\n{}", self.plan.name, log()),
        }
    }

    /// A Delete was on its way when the box died.
    fn may_have_ended(&self) -> bool {
        self.deaths.iter().any(|death| death.what.contains("Ending"))
    }

    /// The end of a life: what is on the disk and in the bucket is written down.
    async fn bury(&mut self, what: String, recording: bool) {
        let at_ms = now_ms();
        let spool = self.daemon.state_dir().join("spool");
        let mut death = Death { what, at_ms, power: self.plan.power, recording, ..Death::default() };
        if let Some(disk) = &self.disk {
            // as one that met a point: what is written down here must be all that was written
            self.daemon.freeze().await;
            (death.finished, death.parts) = lying(&spool);
            let journals = power::journals(&spool);
            disk.cut_power();
            self.daemon.kill().await;
            disk.mount_again(false);
            power::tear(&spool, &mut death.parts, &journals, &mut self.chance);
        } else {
            self.daemon.kill().await;
            if self.plan.large && self.deaths.is_empty() {
                grow_parts(&spool);
            }
            (death.finished, death.parts) = lying(&spool);
        }
        if let Some(mut publisher) = self.publisher.take() {
            publisher.vanish().await;
        }
        death.objects = self.objects().await;
        self.deaths.push(death);
    }

    async fn objects(&self) -> Objects {
        let Some(task) = &self.task else { return Objects::new() };
        let folder = format!("{PREFIX}/{task}/");
        let all = self.world.s3.objects(&folder).await;
        all.into_iter().map(|(key, body)| (key[folder.len()..].to_owned(), body)).collect()
    }

    /// Nobody disturbs this one: people come back, the task is ended, all of it arrives.
    async fn last_life(mut self) -> i64 {
        self.daemon.settings.crash = None;
        self.daemon.start_again().await;
        let log = self.daemon.log();
        assert!(!log.contains("the index does not open"), "{log}");
        assert!(self.has_task().await, "{}: a box that lives takes the task", self.plan.name);
        self.tell_the_truth().await;
        let task = self.task.clone().expect("looked at above");
        let described = self.sdk.describe(&task).await;
        if described.is_ok_and(|described| described["Status"] != "Exited") {
            let before = self.objects().await.len();
            self.publish().await;
            until("something of the last life in the bucket", || async {
                (self.objects().await.len() > before + 2).then_some(())
            })
            .await;
            self.sdk.delete(&task).await.expect("a running task can be deleted");
        }
        let arrived = |all: &[Callback]| {
            let mut ends = all.iter().filter(|c| c.task() == task && c.event() == 305);
            ends.any(|c| c.payload()["Status"] != 1).then_some(())
        };
        self.world.receiver.wait_for(&format!("{}: the end of {task}", self.plan.name), arrived).await;
        let spool = self.daemon.state_dir().join("spool");
        let emptied = async {
            while !left_on(&spool).is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        // what is left then is for the verdict
        let _ = tokio::time::timeout(Duration::from_secs(30), emptied).await;
        let refused = self.sdk.describe(&task).await.expect_err("the task is over");
        assert_eq!(refused.code, "ResourceNotFound");
        let objects = self.objects().await;
        let callbacks = self.world.receiver.taken();
        let callbacks: Vec<Callback> = callbacks.into_iter().filter(|c| c.task() == task).collect();
        let left = left_on(&spool);
        let evidence = Evidence { deaths: &self.deaths, objects: &objects, callbacks: &callbacks, spool: &left };
        let mut verdict = evidence.verdict();
        verdict.faults.extend(self.played(&objects));
        assert!(
            verdict.faults.is_empty(),
            "{} (seed {}):\n{}\n---- objects ----\n{:#?}\n---- log ----\n{}",
            self.plan.name,
            self.plan.seed,
            verdict.faults.join("\n"),
            objects.iter().map(|(name, body)| format!("{name} {}", body.len())).collect::<Vec<_>>(),
            self.daemon.log()
        );
        println!("{}: {} deaths, at most {} ms lost", self.plan.name, self.deaths.len(), verdict.most_lost_ms);
        verdict.most_lost_ms
    }

    /// An independent reader plays some of the segments: the last of each list, which are the torn ones, and a whole one.
    fn played(&self, objects: &Objects) -> Vec<String> {
        let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
        let mut faults = Vec::new();
        let lists = objects.iter().filter(|(name, _)| name.ends_with(".m3u8"));
        for (n, (_, list)) in lists.enumerate().take(6) {
            let list = crate::support::recorded::Playlist::parse(&String::from_utf8_lossy(list));
            let last = list.segments.last().filter(|_| list.segments.len() > 1 || n < 4);
            let whole = list.segments.first().filter(|_| list.segments.len() > 1 && n == 0);
            for (segment, strict) in last.map(|s| (s, false)).into_iter().chain(whole.map(|s| (s, true))) {
                let Some(body) = objects.get(&segment.name) else { continue };
                let file = dir.path().join(&segment.name);
                fs::write(&file, body).expect("the folder is ours");
                let complaints = if strict { probe::decode_errors(&file) } else { String::new() };
                if !plays(&file) || !complaints.is_empty() {
                    faults.push(format!("{} of {} bytes does not play: {complaints}", segment.name, body.len()));
                }
            }
        }
        faults
    }
}

/// A decoder gets at least one frame out of it.
fn plays(file: &Path) -> bool {
    let mut command = std::process::Command::new(program("ffmpeg"));
    // a stream of a few packets is told by its name only, as a player of the list is told
    command.args(["-nostdin", "-v", "quiet", "-f", "mpegts", "-i"]).arg(file).args(["-f", "framecrc", "-"]);
    let output = command.output().expect("ffmpeg runs");
    String::from_utf8_lossy(&output.stdout).lines().any(|line| !line.starts_with('#'))
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let below = |path: PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
    entries.flatten().flat_map(|entry| below(entry.path())).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

type Lying = (BTreeMap<String, Vec<u8>>, BTreeMap<String, Part>);

/// What lies on a shelf of which nobody takes anything: finished segments, and unfinished ones.
fn lying(spool: &Path) -> Lying {
    let (mut finished, mut parts) = Lying::default();
    for path in files_below(spool) {
        let name = name_of(&path);
        if name.ends_with(".ts") {
            finished.insert(name, fs::read(&path).expect("nobody takes it away"));
        } else if name.ends_with(".part") {
            let written = fs::read(&path).expect("nobody takes it away");
            parts.insert(name, Part { kept: Some(written.clone()), written, torn: false });
        }
    }
    (finished, parts)
}

/// Everything below a spool but its reserve, folders included.
fn left_on(spool: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(spool) else { return Vec::new() };
    let mut left: Vec<String> = entries.flatten().map(|entry| name_of(&entry.path())).collect();
    left.retain(|name| name != ".reserve");
    let files = files_below(spool).into_iter().filter(|path| name_of(path) != ".reserve");
    left.extend(files.map(|path| path.strip_prefix(spool).unwrap_or(&path).display().to_string()));
    left
}

/// Stuffing, as a segmenter may write any amount of it, behind the whole packets of each unfinished segment: files that are
/// large enough to go up in parts, without an hour of recording.
fn grow_parts(spool: &Path) {
    let mut stuffing = [0xff; 188];
    stuffing[..4].copy_from_slice(&[0x47, 0x1f, 0xff, 0x10]);
    for path in files_below(spool).into_iter().filter(|path| name_of(path).ends_with(".part")) {
        let mut bytes = fs::read(&path).expect("nobody takes it away");
        bytes.truncate(bytes.len() / 188 * 188);
        if !bytes.is_empty() {
            bytes.extend(stuffing.repeat(6 * 1024 * 1024 / 188));
            fs::write(&path, bytes).expect("the box is dead");
        }
    }
}

/// All subjects, as many at once as there are places; one that fails ends none of the others.
pub async fn all(world: World, plans: Vec<Plan>) {
    let world = Arc::new(world);
    let mut running = tokio::task::JoinSet::new();
    for plan in plans {
        let world = world.clone();
        running.spawn(async move { torture(&world, plan).await });
    }
    let (mut most, mut failed) = (0, 0);
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(lost) => most = most.max(lost),
            Err(error) => {
                failed += 1;
                let why = error.into_panic();
                let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
                eprintln!("==== {why}");
            }
        }
    }
    println!("at most {most} ms of media lost");
    assert_eq!(failed, 0, "see above");
}

/// Awaits a line of the box's log.
pub async fn logged(daemon: &Daemon, words: &str) {
    let said = async {
        while !daemon.log().contains(words) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(LATER, &format!("the box to say '{words}'"), said).await;
}
