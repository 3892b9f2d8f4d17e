//! How fast a box catches up: its backlog beside `rclone copy`, and its start with a full shelf.
//!
//! `scripts/bench catchup [drain] [restart]`; both when none is named.
//! *drain*: 2,000 segments, 2 GB, of 20 recordings that have ended go to an S3 server on loopback (s3s-fs, which checks
//! signatures), by the box (a) and by `rclone copy` on the same files with the same number of connections (b), in turns
//! (A/B/A/B), each while 4 publishers are being recorded by a box; in (a) it is the same box. The server stands still
//! until the recording runs, so that both begin at the same moment. (a) ends when every recording of the backlog is
//! complete, its closed playlist included.
//! *restart*: 100,000 segments of 500 recordings lie on the shelf, and their bucket is out of reach; from the start of the
//! process to `READY=1`, with what the disk holds in memory and not, with the index and without.
//! `HOLDFAST_BENCH_TURNS` (3) is how often each has a turn; `HOLDFAST_BENCH_SEGMENTS` (2000) and `HOLDFAST_BENCH_SHELF`
//! (100000) are for a quick look.

mod common;
#[path = "common/shelf.rs"]
mod shelf;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::support::bucket::{Kind, S3};
use common::support::daemon::{Daemon, Settings};
use common::support::scene::until;
use common::support::sdk::Sdk;
use common::support::{ACCESS_KEY, BUCKET, SECRET_KEY};
use common::{Feeder, Guard, cpu_seconds, middle, number, runtime, save, script, setting, support};
use holdfast::config::Config;
use holdfast::media::publish::Script;
use holdfast::model::TrackKind;
use nix::sys::signal::Signal;
use shelf::Shelf;
use tempfile::TempDir;

const PUBLISHERS: usize = 4;
const CLIP: Duration = Duration::from_secs(20);
const SEGMENT_BYTES: usize = 1_000_000;
/// Of one recording.
const SEGMENTS: u32 = 100;
/// Recording goes on for so long before the server wakes, and after the last file has gone up.
const SETTLE: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(20);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["feed-whip", base, count, ref scripts @ ..] => common::feed_whip(base, number(count), scripts),
        _ => runtime().block_on(async {
            for part in if words.is_empty() { &["drain", "restart"] } else { &words[..] } {
                match *part {
                    "drain" => drain().await,
                    "restart" => restart().await,
                    other => panic!("'{other}' is neither drain nor restart; see scripts/bench"),
                }
            }
        }),
    }
}

fn turns() -> u64 {
    setting("HOLDFAST_BENCH_TURNS", 3)
}

fn settings(endpoint: &str) -> Settings {
    Settings {
        s3_endpoint: Some(endpoint.to_owned()),
        segment_seconds: 10,
        user_sigs: false,
        log: "warn".to_owned(),
        ..Settings::default()
    }
}

/// What one turn of the drain took.
struct Drained {
    seconds: f64,
    /// CPU seconds of the box, or of the box and rclone.
    cpu: f64,
    lost: f64,
}

async fn drain() {
    let segments = u32::try_from(setting("HOLDFAST_BENCH_SEGMENTS", 2_000)).expect("not so many");
    let shelf = Shelf { tasks: segments.div_ceil(SEGMENTS), segments_of_each: SEGMENTS, segment_bytes: SEGMENT_BYTES };
    let count = shelf.tasks * shelf.segments_of_each;
    let connections = Config::default().upload.per_destination;
    let rclone = rclone();
    let dir = TempDir::new().expect("a temporary folder can be made");
    let (backlog, packets_of) = (dir.path().join("backlog"), dir.path().join("packets"));
    eprintln!("making a backlog of {count} segments, {:.1} GB …", f64::from(count) * SEGMENT_BYTES as f64 / 1e9);
    shelf::fill(&backlog, shelf).await;
    let (folder, file) = (dir.path().to_owned(), packets_of.clone());
    let made = tokio::task::spawn_blocking(move || save(&packets(&folder), &file));
    made.await.expect("encoding does not panic");

    let (mut a, mut b) = (Vec::new(), Vec::new());
    for turn in 1..=turns() {
        for by_box in [true, false] {
            let copy = dir.path().join("copy");
            copy_linked(&backlog, &copy);
            // what the turn before wrote is not this one's burden
            nix::unistd::sync();
            let drained = match by_box {
                true => box_drain(&copy, &packets_of, count).await,
                false => rclone_drain(&rclone, &copy, &packets_of, count, connections).await,
            };
            fs::remove_dir_all(&copy).expect("the folder is ours");
            let side = if by_box { "box" } else { "rclone" };
            let Drained { seconds, cpu, lost } = drained;
            eprintln!("turn {turn}, {side}: {seconds:.2} s, {cpu:.1} CPU s, {lost} packets or segments lost");
            if by_box { &mut a } else { &mut b }.push(drained);
        }
    }
    let of = |all: &[Drained], pick: fn(&Drained) -> f64| middle(all.iter().map(pick).collect());
    let (time_a, time_b) = (of(&a, |d| d.seconds), of(&b, |d| d.seconds));
    let (cpu_a, cpu_b) = (of(&a, |d| d.cpu), of(&b, |d| d.cpu));
    let lost = |all: &[Drained]| all.iter().map(|d| d.lost).sum::<f64>();
    println!("{count} segments of 1 MB, {connections} connections, {PUBLISHERS} publishers recorded meanwhile:");
    println!();
    println!("| | (a) box | (b) rclone | a / b | goal |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    println!("| time, s | {time_a:.2} | {time_b:.2} | {:.2} | 1.10 |", time_a / time_b);
    println!("| CPU s, recording included | {cpu_a:.1} | {cpu_b:.1} | {:.2} | |", cpu_a / cpu_b);
    println!("| packets and segments lost in the recording | {} | {} | | 0 |", lost(&a), lost(&b));
    println!();
    assert_eq!(lost(&a), 0.0, "the recording lost something while the box caught up");
}

/// A box that records while files go up.
struct Scene {
    bucket: S3,
    daemon: Daemon,
    sdk: Sdk,
    _feeder: Feeder,
    task: String,
}

impl Scene {
    /// The server stands still when it returns.
    async fn new(state: Option<&Path>, packets: &Path) -> Scene {
        let bucket = S3::start(Kind::S3sFs).await;
        bucket.signal(Signal::SIGSTOP);
        let mut settings = settings(&bucket.endpoint);
        settings.state_dir = state.map(Path::to_owned);
        let daemon = Daemon::start(settings).await;
        let sdk = Sdk::start(&daemon).await;
        let base = daemon.url("whip/bench");
        let mut feeder = Feeder::start(&["feed-whip", &base, &PUBLISHERS.to_string(), &packets.display().to_string()]);
        feeder.wait_for("connected");
        let task = sdk.create("bench", "recorder", |_| {}).await.expect("Create");
        until("every lane to begin", || async {
            let seen = sdk.describe(&task).await.expect("the task runs");
            (seen["StorageFileList"].as_array().map_or(0, Vec::len) == 2 * PUBLISHERS).then_some(())
        })
        .await;
        tokio::time::sleep(SETTLE).await;
        Scene { bucket, daemon, sdk, _feeder: feeder, task }
    }

    /// Ends the recording; says what it lost.
    async fn end(self) -> f64 {
        tokio::time::sleep(SETTLE).await;
        let mut lost = 0.0;
        for name in [
            "holdfast_lane_packets_dropped_total",
            "holdfast_rtp_lost_total",
            "holdfast_segments_lost_total",
            "holdfast_segments_dropped_total",
        ] {
            lost += self.daemon.metric(name).await;
        }
        self.sdk.delete(&self.task).await.expect("it runs");
        until("the recording to arrive", || async { self.sdk.describe(&self.task).await.err() }).await;
        lost
    }
}

async fn arrived(bucket: &S3, count: u32) {
    let keys = bucket.keys(&format!("{}/", shelf::PREFIX)).await;
    let segments = keys.iter().filter(|key| key.ends_with(".ts")).count();
    assert_eq!(segments, count as usize, "not every segment has arrived");
}

async fn box_drain(state: &Path, packets: &Path, count: u32) -> Drained {
    let scene = Scene::new(Some(state), packets).await;
    let (began, before) = (Instant::now(), cpu_seconds(scene.daemon.id()));
    scene.bucket.signal(Signal::SIGCONT);
    while scene.daemon.metric("holdfast_tasks_draining").await > 0.0 {
        tokio::time::sleep(LOOK).await;
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds(scene.daemon.id()) - before);
    arrived(&scene.bucket, count).await;
    Drained { seconds, cpu, lost: scene.end().await }
}

async fn rclone_drain(rclone: &Path, state: &Path, packets: &Path, count: u32, connections: usize) -> Drained {
    let scene = Scene::new(None, packets).await;
    let (began, before) = (Instant::now(), cpu_seconds(scene.daemon.id()));
    scene.bucket.signal(Signal::SIGCONT);
    let mut copy = Command::new(rclone);
    copy.arg("copy").arg(state.join("spool")).arg(format!(":s3:{BUCKET}/{}", shelf::PREFIX));
    copy.args(["--include", "*.ts", "--config", "/dev/null", "--s3-provider", "Other", "--s3-region", "us-east-1"]);
    copy.args(["--s3-endpoint", &scene.bucket.endpoint, "--s3-force-path-style", "--s3-no-check-bucket"]);
    copy.args(["--transfers", &connections.to_string(), "--checkers", &connections.to_string()]);
    copy.env("RCLONE_S3_ACCESS_KEY_ID", ACCESS_KEY).env("RCLONE_S3_SECRET_ACCESS_KEY", SECRET_KEY);
    // it is for the world, and rclone does not begin with it
    copy.env_remove("AWS_CA_BUNDLE");
    let child = Guard(copy.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("rclone starts"));
    let used = common::used_to_the_end(child).await;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), used + cpu_seconds(scene.daemon.id()) - before);
    arrived(&scene.bucket, count).await;
    Drained { seconds, cpu, lost: scene.end().await }
}

fn rclone() -> PathBuf {
    support::program("rclone")
}

/// 720p30 at 1.5 Mbit/s and a voice.
fn packets(dir: &Path) -> Script {
    let clip = dir.join("clip.mkv");
    let mut ffmpeg = Command::new(support::program("ffmpeg"));
    ffmpeg.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i"]);
    ffmpeg.arg(format!("testsrc2=s=1280x720:r=30:d={},noise=alls=8:allf=t,format=yuv420p", CLIP.as_secs()));
    ffmpeg.args(["-f", "lavfi", "-i", &format!("anoisesrc=color=pink:a=0.3:r=48000:d={}", CLIP.as_secs())]);
    ffmpeg.args(["-c:v", "libx264", "-preset", "superfast", "-tune", "zerolatency", "-profile:v", "baseline"]);
    ffmpeg.args(["-g", "60", "-b:v", "1500k", "-maxrate", "1500k", "-bufsize", "1500k"]);
    ffmpeg.args(["-c:a", "libopus", "-application", "voip", "-b:a", "40k"]).arg(&clip);
    support::output_of(&mut ffmpeg);
    let video = "matroskademux name=d d.video_0 ! h264parse ! rtph264pay config-interval=-1 aggregate-mode=zero-latency mtu=1200";
    let audio = "matroskademux name=d d.audio_0 ! opusparse ! rtpopuspay";
    let mut made = common::payed(&clip, video, TrackKind::Video);
    made.extend(common::payed(&clip, audio, TrackKind::Audio));
    script(made, CLIP)
}

/// A copy of a state directory, in which segments, that nobody changes, are second names of the same files.
fn copy_linked(from: &Path, to: &Path) {
    copy_with(from, to, &|from, to| match from.extension().is_some_and(|ext| ext == "ts") {
        true => fs::hard_link(from, to),
        false => fs::copy(from, to).map(|_| ()),
    });
}

fn copy(from: &Path, to: &Path) {
    copy_with(from, to, &|from, to| fs::copy(from, to).map(|_| ()));
}

fn copy_with(from: &Path, to: &Path, file: &dyn Fn(&Path, &Path) -> std::io::Result<()>) {
    fs::create_dir(to).expect("the folder is ours");
    for entry in fs::read_dir(from).expect("it was just made").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy_with(&from, &to, file);
        } else {
            file(&from, &to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
        }
    }
}

async fn restart() {
    let segments = u32::try_from(setting("HOLDFAST_BENCH_SHELF", 100_000)).expect("not so many");
    let of_each = 200.min(segments);
    let shelf = Shelf { tasks: segments.div_ceil(of_each), segments_of_each: of_each, segment_bytes: 188 };
    let count = shelf.tasks * of_each;
    let dir = TempDir::new().expect("a temporary folder can be made");
    let state = dir.path().join("state");
    eprintln!("laying {count} segments of {} recordings on a shelf …", shelf.tasks);
    let began = Instant::now();
    // nothing is measured of it, so it need not wait for a disk
    let made = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a temporary folder can be made");
    shelf::fill(&made.path().join("state"), shelf).await;
    copy(&made.path().join("state"), &state);
    drop(made);
    eprintln!("  took {:.0} s", began.elapsed().as_secs_f64());
    // the first start settles what every start after it finds settled
    eprintln!("first start: {:.2} s", start(&state, count).await);
    println!("Start with {count} segments of {} recordings on the shelf, their bucket out of reach:", shelf.tasks);
    println!();
    println!("| | to READY=1, s (median) | goal |");
    println!("| --- | ---: | ---: |");
    for (index, goal) in [(true, "2.00"), (false, "")] {
        for warm in [true, false] {
            let mut all = Vec::new();
            for turn in 1..=turns() {
                if !index {
                    fs::remove_dir_all(state.join("index")).expect("the box is not running");
                    fs::remove_file(state.join("index.lock")).expect("the box is not running");
                }
                nix::unistd::sync();
                if !warm {
                    forget_files();
                }
                all.push(start(&state, count).await);
                eprintln!("index {index}, warm {warm}, turn {turn}: {:.2} s", all[all.len() - 1]);
            }
            let what = if index { "with its index" } else { "without an index" };
            let how = if warm { "files in memory" } else { "nothing in memory" };
            println!("| {what}, {how} | {:.2} | {goal} |", middle(all));
        }
    }
}

/// Seconds from the start of the process to its readiness; then it is killed.
async fn start(state: &Path, count: u32) -> f64 {
    let nowhere = support::Port::take();
    let settings = Settings { state_dir: Some(state.to_owned()), ..settings(&format!("http://{}", nowhere.address)) };
    let began = Instant::now();
    let mut daemon = Daemon::start(settings).await;
    let seconds = began.elapsed().as_secs_f64();
    let health = daemon.health().await;
    let waiting = daemon.metric("holdfast_spool_files").await;
    assert!(waiting >= f64::from(count), "{waiting} files wait for their bucket: {health}");
    daemon.kill().await;
    seconds
}

/// Every file is read from the disk from now on.
fn forget_files() {
    let drop = fs::OpenOptions::new().write(true).open("/proc/sys/vm/drop_caches");
    let dropped = drop.and_then(|mut file| file.write_all(b"3\n"));
    dropped.expect("a start with nothing in memory is measured as root");
}
