//! What the benches have in common: publishers in a process of their own, their packets, and what a process used.
#![allow(dead_code, reason = "each bench uses its part")]

#[path = "../../tests/support/mod.rs"]
pub mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast::media::publish::{Made, RIDS, RtpPublisher, Script, WhipAddress};
use holdfast::model::{Codec, TrackKind};
use nix::unistd::{SysconfVar, sysconf};
use support::daemon::{Daemon, Settings};
use support::sdk::Sdk;
use tokio_util::sync::CancellationToken;

pub fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("'{text}' is not a number; see scripts/bench"))
}

pub fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| number(&text))
}

/// How long each turn is measured.
pub fn measured() -> Duration {
    Duration::from_secs(setting("HOLDFAST_BENCH_SECONDS", 20))
}

/// How many turns each side has.
pub fn turns() -> u64 {
    setting("HOLDFAST_BENCH_TURNS", 2)
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be built")
}

pub fn middle(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    let half = all.len() / 2;
    if all.len().is_multiple_of(2) { (all[half - 1] + all[half]) / 2.0 } else { all[half] }
}

pub async fn start_box() -> (Daemon, Sdk) {
    let settings = Settings { segment_seconds: 10, user_sigs: false, log: "warn".to_owned(), ..Settings::default() };
    let daemon = Daemon::start(settings).await;
    let sdk = Sdk::start(&daemon).await;
    (daemon, sdk)
}

/// RTP packets of a file, by a GStreamer chain from `filesrc` to a payloader.
pub fn payed(source: &Path, chain: &str, kind: TrackKind) -> Vec<Made> {
    let out = source.with_extension(kind.as_str());
    let mut launch = Command::new(support::program("gst-launch-1.0"));
    launch.args(["-q", "filesrc"]).arg(format!("location={}", source.display())).arg("!");
    launch.args(chain.split_whitespace()).args(["timestamp-offset=0", "!", "rtpstreampay", "!", "filesink"]);
    // with a buffer, filesink 1.22 loses bytes between many small packets
    launch.arg("buffer-mode=unbuffered");
    launch.arg(format!("location={}", out.display()));
    support::output_of(&mut launch);
    let clock_rate = if kind == TrackKind::Video { 90_000 } else { 48_000 };
    framed(&fs::read(out).expect("gst-launch-1.0 wrote it"), kind, clock_rate)
}

/// RTP packets as RFC 4571 frames them: two bytes of length before each.
fn framed(mut bytes: &[u8], kind: TrackKind, clock_rate: u64) -> Vec<Made> {
    let mut packets = Vec::new();
    while let [high, low, rest @ ..] = bytes {
        let (packet, after) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        bytes = after;
        let timestamp = u32::from_be_bytes(packet[4..8].try_into().expect("four bytes"));
        let at = Duration::from_nanos(u64::from(timestamp) * 1_000_000_000 / clock_rate);
        let payload = Bytes::copy_from_slice(&packet[12..]);
        packets.push(Made { kind, layer: 0, at, timestamp, marker: packet[1] & 0x80 != 0, payload });
    }
    assert!(!packets.is_empty(), "no packets of {kind:?} were made");
    packets
}

/// Both kinds of packets as one script.
pub fn script(mut packets: Vec<Made>, length: Duration) -> Script {
    packets.retain(|made| made.at < length);
    // Stable: packets of one frame keep their order.
    packets.sort_by_key(|made| made.at);
    Script { packets, length }
}

/// utime + stime of a process; of one that has ended too, until it is waited for.
pub fn cpu_seconds(process: i32) -> f64 {
    seconds_of(&Path::new("/proc").join(process.to_string())).expect("the process lives")
}

fn seconds_of(proc: &Path) -> Option<f64> {
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    // The name in brackets may hold spaces; what counts comes after it.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("stat has a name").split_whitespace().collect();
    let ticks: u64 = number::<u64>(fields[11]) + number::<u64>(fields[12]);
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().expect("the kernel counts in ticks");
    Some(ticks as f64 / per_second as f64)
}

/// CPU seconds of a process by the names of its threads, without their numbers.
pub fn cpu_by_thread(process: i32) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process lives");
    for task in tasks.flatten() {
        // Threads come and go.
        let Ok(name) = fs::read_to_string(task.path().join("comm")) else { continue };
        let Some(seconds) = seconds_of(&task.path()) else { continue };
        let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit()).trim().to_owned();
        *all.entry(name).or_default() += seconds;
    }
    all
}

/// Waits until a child has ended; what it used. Panics if it failed.
pub async fn used_to_the_end(mut child: Guard) -> f64 {
    let id = child.id();
    support::halted(id).await;
    let used = cpu_seconds(id);
    let status = child.0.wait().expect("it is ours");
    assert!(status.success(), "a peer ended with {status}");
    used
}

pub fn resident_mb(process: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("status tells VmRSS");
    number::<f64>(line.trim().trim_end_matches(" kB")) / 1024.0
}

/// A child that dies with this value.
pub struct Guard(pub Child);

impl Guard {
    pub fn id(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process id fits")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keeps the processors from sleeping as long as it lives, if `HOLDFAST_BENCH_AWAKE` is 1, with threads that run when nobody
/// else wants to. One that has slept does its first work slowly (its clock, its caches; a virtual one has to be fetched by
/// the host): what is charged for that is the difference between the two.
pub struct Awake {
    _spinners: Vec<Guard>,
}

impl Awake {
    /// The argument with which this program is one of the spinners: whoever uses it calls [`spin`].
    pub const WORD: &str = "spin";

    pub fn new() -> Awake {
        let cores = if setting("HOLDFAST_BENCH_AWAKE", 0) == 0 {
            0
        } else {
            std::thread::available_parallelism().expect("Linux tells").get()
        };
        let program = std::env::current_exe().expect("this program has a path");
        let spinner = || {
            let mut idle = Command::new(support::program("chrt"));
            idle.args(["--idle", "0"]).arg(&program).arg(Awake::WORD).stdin(Stdio::piped());
            Guard(idle.spawn().expect("it starts once more"))
        };
        Awake { _spinners: (0..cores).map(|_| spinner()).collect() }
    }
}

/// Keeps one processor busy until the parent is gone, however it ended.
pub fn spin() {
    std::thread::spawn(|| {
        loop {
            std::hint::black_box(());
        }
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("stdin is a pipe");
}

/// This program once more, as the publishers.
pub struct Feeder {
    _child: Guard,
    out: BufReader<ChildStdout>,
}

impl Feeder {
    pub fn start(args: &[&str]) -> Feeder {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program).args(args).stdout(Stdio::piped()).spawn().expect("it starts once more");
        let out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Feeder { _child: Guard(child), out }
    }

    pub fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        while line.trim() != word {
            line.clear();
            let read = self.out.read_line(&mut line).expect("the feeder writes text");
            assert!(read > 0, "the feeder ended before it said '{word}'");
        }
    }
}

/// Publishes to the rooms's WHIP address `base` as so many users, each with the next of the scripts.
pub fn feed_whip(base: &str, count: usize, scripts: &[&str]) {
    // Whoever came first set the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let scripts: Vec<_> = scripts.iter().map(|path| std::sync::Arc::new(load(Path::new(path)))).collect();
    runtime().block_on(async {
        let cancel = CancellationToken::new();
        let mut playing = tokio::task::JoinSet::new();
        for n in 0..count {
            let script = scripts[n % scripts.len()].clone();
            let layered = script.packets.iter().any(|made| made.layer > 0);
            let rids: &[&str] = if layered { &RIDS } else { &[] };
            let address = WhipAddress { url: format!("{base}/user-{n}"), bearer: None, insecure: false, via: None };
            let publisher = RtpPublisher::publish_layers(&address, &[Codec::Opus, Codec::H264], rids).await;
            let publisher = publisher.unwrap_or_else(|e| panic!("publisher {n}: {e}"));
            let cancel = cancel.clone();
            playing.spawn(async move { publisher.play(&script, &cancel).await });
        }
        println!("connected");
        while let Some(ended) = playing.join_next().await {
            ended.expect("no publisher panics").unwrap_or_else(|e| panic!("a publisher failed: {e}"));
        }
    });
}

/// Per packet: kind, layer, time (ns), RTP time, marker, length, payload; before them the script's length (ns).
pub fn save(script: &Script, path: &Path) {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).expect("a short script").to_be_bytes();
    let mut out = Vec::new();
    out.extend(ns(script.length));
    for made in &script.packets {
        out.push(u8::from(made.kind == TrackKind::Video));
        out.push(u8::try_from(made.layer).expect("few layers"));
        out.extend(ns(made.at));
        out.extend(made.timestamp.to_be_bytes());
        out.push(u8::from(made.marker));
        out.extend(u16::try_from(made.payload.len()).expect("it fits a datagram").to_be_bytes());
        out.extend(&made.payload[..]);
    }
    let mut file = fs::File::create(path).expect("the folder is ours");
    file.write_all(&out).expect("there is room for it");
}

pub fn load(path: &Path) -> Script {
    let all = fs::read(path).expect("the script was saved");
    let mut rest = &all[..];
    fn take<'a>(rest: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (head, tail) = rest.split_at(n);
        *rest = tail;
        head
    }
    fn ns(bytes: &[u8]) -> Duration {
        Duration::from_nanos(u64::from_be_bytes(bytes.try_into().expect("eight bytes")))
    }
    let length = ns(take(&mut rest, 8));
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let kind = if take(&mut rest, 1)[0] == 1 { TrackKind::Video } else { TrackKind::Audio };
        let layer = usize::from(take(&mut rest, 1)[0]);
        let at = ns(take(&mut rest, 8));
        let timestamp = u32::from_be_bytes(take(&mut rest, 4).try_into().expect("four bytes"));
        let marker = take(&mut rest, 1)[0] == 1;
        let bytes = usize::from(u16::from_be_bytes(take(&mut rest, 2).try_into().expect("two bytes")));
        let payload = Bytes::copy_from_slice(take(&mut rest, bytes));
        packets.push(Made { kind, layer, at, timestamp, marker, payload });
    }
    Script { packets, length }
}

/// What a process used in a stretch of time.
pub struct Used {
    pub cpu: f64,
    pub threads: BTreeMap<String, f64>,
    pub passed: Duration,
}

/// Reads what a process uses over the measured time.
pub async fn watch(process: i32, settle: Duration) -> Used {
    tokio::time::sleep(settle).await;
    let (began, before, threads) = (Instant::now(), cpu_seconds(process), cpu_by_thread(process));
    tokio::time::sleep(measured()).await;
    let (passed, cpu) = (began.elapsed(), cpu_seconds(process) - before);
    let since = |(name, seconds): (String, f64)| {
        let before = threads.get(&name).copied().unwrap_or(0.0);
        (name, seconds - before)
    };
    Used { cpu, threads: cpu_by_thread(process).into_iter().map(since).collect(), passed }
}
