//! What packing costs: ten minutes of 1080p out of the spool's segments, beside `ffmpeg -c copy -movflags +faststart`.
//!
//! `scripts/bench package [SECONDS]` (600). The two take turns (A/B/A/B), each in a process of its own, reading the same
//! segments and writing one mp4 with `fsync`. CPU time is read from `/proc`. The box's side plans the file and then makes all
//! of it in parts of 16 MB with their MD5, as it does for a bucket; ffmpeg sums nothing.
//! `HOLDFAST_BENCH_TURNS` (2) is how often each has a turn.
//!
//! `scripts/bench package day [HOURS]` (24): small segments of a whole day become one mp4, which is sent nowhere. It tells
//! the most memory that the process had, its time, and what lies on the disk meanwhile.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Guard, middle, number, runtime, support, turns, used_to_the_end};
use holdfast::model::output::{Container, LARGEST, LONGEST, Limits};
use holdfast::model::package::{Group, Life, Order, Part};
use holdfast::model::packed::{FilePlan, Packed};
use holdfast::model::{LaneKind, MediaId, TaskId, Timestamp};
use holdfast::package::Packer;
use holdfast::vault::Vault;
use md5::{Digest, Md5};

const SEGMENT: u64 = 10;
/// What is repeated.
const CLIP: u64 = 20;
const PART: u64 = 16 * 1024 * 1024;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["pack", dir, count, out] => pack(Path::new(dir), number(count), Path::new(out)),
        ["pack-day", dir, count] => pack_day(Path::new(dir), number(count)),
        ["day"] => day(24),
        ["day", hours] => day(number(hours)),
        [] => runtime().block_on(measure(600)),
        [seconds] => runtime().block_on(measure(number(seconds))),
        _ => panic!("usage: scripts/bench package [SECONDS | day [HOURS]]"),
    }
}

fn name(n: u64) -> String {
    format!("{n:05}.ts")
}

/// What is drawn: its size, and the bit rate of its pictures.
type Drawn = (&'static str, &'static str);
const LARGE: Drawn = ("1920x1080", "4M");
/// As many pictures and sounds in fewer bytes: what a day of it takes is tables.
const SMALL: Drawn = ("160x90", "60k");

/// A clip of moving pictures and sound, cut as the box cuts.
fn prepare(dir: &Path, seconds: u64, (size, rate): Drawn) -> u64 {
    let ffmpeg = || {
        let mut command = Command::new(support::program("ffmpeg"));
        command.args(["-nostdin", "-v", "error", "-y"]).stdin(Stdio::null());
        command
    };
    let clip = dir.join("clip.mp4");
    let clip_seconds = CLIP.to_string();
    let mut draw = ffmpeg();
    let pictures = format!("testsrc2=size={size}:rate=30");
    draw.args(["-f", "lavfi", "-i", &pictures, "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
    draw.args([
        "-t",
        &clip_seconds,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-b:v",
        rate,
        "-maxrate",
        rate,
        "-bufsize",
        "8M",
    ]);
    draw.args(["-g", "60", "-bf", "0", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "64k"]).arg(&clip);
    assert!(draw.status().expect("ffmpeg runs").success());
    let mut cut = ffmpeg();
    cut.args(["-stream_loop", "-1", "-i"]).arg(&clip).args(["-t", &seconds.to_string(), "-c", "copy"]);
    cut.args(["-f", "segment", "-segment_time", &SEGMENT.to_string(), "-segment_format", "mpegts"]);
    assert!(cut.arg(dir.join("%05d.ts")).status().expect("ffmpeg runs").success());
    let count = (0u64..).take_while(|n| dir.join(name(*n)).exists()).count() as u64;
    let list: String = (0..count).map(|n| format!("file '{}'\n", name(n))).collect();
    std::fs::write(dir.join("list.txt"), list).expect("room for the list");
    count
}

/// All segments, one behind the other, as one file.
fn order(count: u64) -> Order {
    let part = |n: u64| Part {
        file: name(n),
        kind: LaneKind::AudioVideo,
        start: Timestamp(0).plus(Duration::from_secs(n * SEGMENT)),
    };
    let life = Life { offset: Duration::ZERO, pieces: (0..count).map(part).collect(), first: 0 };
    let group = Group {
        user: "bench".into(),
        media: MediaId::Main,
        stem: "bench".into(),
        begin: Timestamp(0),
        lives: vec![life],
    };
    let limits = Limits { length: LONGEST, bytes: LARGEST };
    Order::new(Container::Mp4, limits, vec![group])
}

fn planned(packer: &Packer, task: &TaskId, dir: &Path, count: u64) -> Packed {
    let (to, from) = std::sync::mpsc::sync_channel(1);
    let told = packer.plan(task, dir.to_owned(), Vault::default(), order(count), move |packed| drop(to.send(packed)));
    told.expect("the packer takes it");
    let packed = from.recv().expect("a plan");
    assert!(packed.broken.is_empty() && packed.files.len() == 1, "{:?}", packed.broken);
    packed
}

/// The box's side: as the carrier does it, into a file.
fn pack(dir: &Path, count: u64, out: &Path) {
    let (packer, task) = (Packer::new(), TaskId::from_random(&[1; 16]));
    let packed = planned(&packer, &task, dir, count);
    let plan: FilePlan = serde_json::from_str(&packed.files[0].1).expect("a plan");
    let file = packer.open(&task, dir.to_owned(), Vault::default(), &packed.files[0].1).expect("it opens");
    let mut to = std::fs::File::create(out).expect("room for the file");
    let mut at = 0;
    while at < plan.bytes {
        let part = file.stretch(at, PART).expect("it can be made");
        let _sum = Md5::digest(&part);
        to.write_all(&part).expect("room for the file");
        at += part.len() as u64;
    }
    to.sync_all().expect("the disk takes it");
}

/// The most that this process had in memory, in MB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the line of the peak");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1000.0
}

/// What lies in a folder.
fn lies_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("it is there").flatten();
    entries.map(|entry| entry.metadata().map_or(0, |facts| facts.len())).sum()
}

/// The box's side of a day: planned, made part by part, and made again by hands that know nothing but the plan, as after a
/// restart. Nothing is written.
fn pack_day(dir: &Path, count: u64) {
    let (packer, task) = (Packer::new(), TaskId::from_random(&[1; 16]));
    let (before, began) = (peak(), Instant::now());
    let packed = planned(&packer, &task, dir, count);
    let (file, plan) = &packed.files[0];
    println!(
        "planned   {:8.1} s  peak {:6.1} MB (at first {before:.1})  {count} segments, {:.0} MB of mp4, a plan of {:.2} MB",
        began.elapsed().as_secs_f64(),
        peak(),
        file.bytes as f64 / 1e6,
        plan.len() as f64 / 1e6,
    );
    for (what, packer) in [("sent", packer), ("again", Packer::new())] {
        let began = Instant::now();
        let opened = packer.open(&task, dir.to_owned(), Vault::default(), plan).expect("it opens");
        let (mut at, mut all, known) = (0, Md5::new(), began.elapsed().as_secs_f64());
        while at < opened.len() {
            let part = opened.stretch(at, PART).expect("it can be made");
            all.update(&part);
            at += part.len() as u64;
        }
        let (seconds, sum) = (began.elapsed().as_secs_f64(), hex::encode(all.finalize()));
        println!("{what:9} {seconds:8.1} s  peak {:6.1} MB  open after {known:.1} s, {sum}", peak());
    }
}

fn day(hours: u64) {
    let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
    // what is longer than 24 h by a sample is two files
    let count = prepare(dir.path(), hours * 3600 - CLIP, SMALL);
    let before = lies_in(dir.path());
    let mut mine = Command::new(std::env::current_exe().expect("this program has a path"));
    mine.arg("pack-day").arg(dir.path()).arg(count.to_string());
    assert!(mine.stdin(Stdio::null()).status().expect("it runs").success());
    println!("on the disk {:.0} MB before, {:.0} MB after", before as f64 / 1e6, lies_in(dir.path()) as f64 / 1e6);
}

async fn turn(mut command: Command) -> (f64, f64) {
    let began = Instant::now();
    let child = Guard(command.stdin(Stdio::null()).spawn().expect("it was found above"));
    let cpu = used_to_the_end(child).await;
    (cpu, began.elapsed().as_secs_f64())
}

fn length(file: &Path) -> String {
    let mut probe = Command::new(support::program("ffprobe"));
    probe.args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"]).arg(file);
    String::from_utf8_lossy(&support::output_of(&mut probe)).trim().to_owned()
}

async fn measure(seconds: u64) {
    let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
    let count = prepare(dir.path(), seconds, LARGE);
    let (ours, theirs) = (dir.path().join("ours.mp4"), dir.path().join("theirs.mp4"));
    let (mut box_turns, mut peer_turns) = (Vec::new(), Vec::new());
    for _ in 0..turns() {
        let mut mine = Command::new(std::env::current_exe().expect("this program has a path"));
        mine.arg("pack").arg(dir.path()).arg(count.to_string()).arg(&ours);
        box_turns.push(turn(mine).await);
        let mut peer = Command::new(support::program("ffmpeg"));
        peer.args(["-nostdin", "-v", "error", "-y", "-f", "concat", "-i"]).arg(dir.path().join("list.txt"));
        peer.args(["-c", "copy", "-movflags", "+faststart"]).arg(&theirs);
        peer_turns.push(turn(peer).await);
    }
    let bytes = std::fs::metadata(&ours).expect("it was written").len();
    println!(
        "{seconds} s of 1080p, {count} segments, {:.0} MB of mp4 ({} s, ffmpeg's {} s)",
        bytes as f64 / 1e6,
        length(&ours),
        length(&theirs)
    );
    let middles =
        |all: &[(f64, f64)]| (middle(all.iter().map(|t| t.0).collect()), middle(all.iter().map(|t| t.1).collect()));
    let ((cpu, time), (peer_cpu, peer_time)) = (middles(&box_turns), middles(&peer_turns));
    println!("holdfast  {cpu:6.2} s CPU  {time:6.2} s");
    println!("ffmpeg    {peer_cpu:6.2} s CPU  {peer_time:6.2} s");
    println!("ratio     {:6.2} CPU    {:6.2} time   (goal: 1.2)", cpu / peer_cpu, time / peer_time);
}
