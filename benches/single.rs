//! What single-stream recording costs: the box beside a bare GStreamer pipeline that is fed with the same packets.
//!
//! `scripts/bench single [N…]`. For each number of publishers, box and bare pipeline take turns (A/B/A/B), each in a
//! process of its own with the publishers in another; CPU time and memory are read from `/proc`. Then the time from
//! Create to the first byte of media on the disk.
//! `HOLDFAST_BENCH_SECONDS` (20) is how long each turn is measured, `HOLDFAST_BENCH_TURNS` (2) how often each has one.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast::media::publish::{Made, RtpPublisher, Script, WhipAddress};
use holdfast::model::{Codec, TrackKind};
use nix::unistd::{SysconfVar, sysconf};
use support::daemon::{Daemon, Settings};
use support::publisher::{Publisher, Sends};
use support::scene::until;
use support::sdk::Sdk;
use tokio_util::sync::CancellationToken;

/// Between the start of the last stream and the beginning of what is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// What is sent over and over.
const SCRIPT: Duration = Duration::from_secs(60);
const VIDEO_TYPE: u8 = 96;
const AUDIO_TYPE: u8 = 111;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["feed-whip", script, base, count] => feed_whip(Path::new(script), base, number(count)),
        ["feed-udp", script, port, count] => feed_udp(Path::new(script), number(port), number(count)),
        _ => {
            let counts: Vec<usize> = words.iter().map(|word| number(word)).collect();
            runtime().block_on(measure(if counts.is_empty() { vec![1, 10, 25] } else { counts }));
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("'{text}' is not a number; usage: scripts/bench single [N…]"))
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| number(&text))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be built")
}

/// A busy picture (noise over a moving pattern fills the whole rate, as a camera does) and a tone, as RTP.
fn packets(dir: &Path) -> Script {
    let (picture, sound) = (dir.join("picture.h264"), dir.join("sound.wav"));
    let seconds = SCRIPT.as_secs();
    let mut ffmpeg = Command::new(support::program("ffmpeg"));
    ffmpeg.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i"]);
    ffmpeg.arg(format!("testsrc2=s=1280x720:r=30:d={seconds},noise=alls=12:allf=t,format=yuv420p"));
    ffmpeg.args(["-c:v", "libx264", "-preset", "superfast", "-tune", "zerolatency", "-profile:v", "baseline"]);
    ffmpeg.args(["-g", "60", "-b:v", "1M", "-maxrate", "1M", "-bufsize", "500k"]).arg(&picture);
    support::output_of(&mut ffmpeg);
    let mut ffmpeg = Command::new(support::program("ffmpeg"));
    ffmpeg.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i"]);
    ffmpeg.arg(format!("sine=frequency=300:beep_factor=4:r=48000:d={seconds},volume=0.5")).arg(&sound);
    support::output_of(&mut ffmpeg);

    let pay = |source: &Path, chain: &str, out: &str| {
        let out = dir.join(out);
        let mut launch = Command::new(support::program("gst-launch-1.0"));
        launch.args(["-q", "filesrc"]).arg(format!("location={}", source.display())).arg("!");
        launch.args(chain.split_whitespace()).args(["timestamp-offset=0", "!", "rtpstreampay", "!", "filesink"]);
        launch.arg(format!("location={}", out.display()));
        support::output_of(&mut launch);
        fs::read(out).expect("gst-launch-1.0 wrote it")
    };
    let video =
        "h264parse ! video/x-h264,framerate=30/1 ! rtph264pay config-interval=-1 aggregate-mode=zero-latency mtu=1200";
    let audio = "wavparse ! audioconvert ! audioresample ! opusenc bitrate=48000 frame-size=20 ! rtpopuspay";
    let mut made = framed(&pay(&picture, video, "picture.rtp"), TrackKind::Video, 90_000);
    made.extend(framed(&pay(&sound, audio, "sound.rtp"), TrackKind::Audio, 48_000));
    made.retain(|made| made.at < SCRIPT);
    // Stable: packets of one frame keep their order.
    made.sort_by_key(|made| made.at);
    Script { packets: made, length: SCRIPT }
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

/// One turn's figures.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// CPU seconds for a minute of one publisher's stream (sound and picture).
    cpu: f64,
    /// Resident memory at the end, MB.
    memory: f64,
}

async fn measure(counts: Vec<usize>) {
    let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
    let script = dir.path().join("packets");
    eprintln!("encoding a minute of 720p30 at 1 Mbit/s with sound …");
    let (folder, path) = (dir.path().to_owned(), script.clone());
    let record = tokio::task::spawn_blocking(move || {
        let recorded = packets(&folder);
        save(&recorded, &path);
        let bytes: usize = recorded.packets.iter().map(|made| made.payload.len()).sum();
        eprintln!("{} packets, {:.2} Mbit/s", recorded.packets.len(), bytes as f64 * 8e-6 / SCRIPT.as_secs_f64());
    });
    record.await.expect("encoding does not panic");

    println!("| publishers | box: CPU s / stream-minute | bare | ratio | box: MB resident | bare |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    for count in counts {
        let (mut of_box, mut of_bare) = (Vec::new(), Vec::new());
        for turn in 1..=setting("HOLDFAST_BENCH_TURNS", 2) {
            of_box.push(box_turn(&script, count).await);
            eprintln!("{count} publishers, turn {turn}, box: {:?}", of_box[of_box.len() - 1]);
            of_bare.push(bare_turn(&script, count).await);
            eprintln!("{count} publishers, turn {turn}, bare: {:?}", of_bare[of_bare.len() - 1]);
        }
        let (a, b) = (median(&of_box), median(&of_bare));
        println!(
            "| {count} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            a.cpu,
            b.cpu,
            a.cpu / b.cpu,
            a.memory,
            b.memory
        );
    }
    let (any, picture) = first_byte().await;
    println!();
    println!(
        "Create to the first byte of media on the disk: {any:.0} ms (median of 5), of the picture: {picture:.0} ms"
    );
}

fn median(costs: &[Cost]) -> Cost {
    let of = |pick: fn(&Cost) -> f64| middle(costs.iter().map(pick).collect());
    Cost { cpu: of(|c| c.cpu), memory: of(|c| c.memory) }
}

fn middle(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    let half = all.len() / 2;
    if all.len().is_multiple_of(2) { (all[half - 1] + all[half]) / 2.0 } else { all[half] }
}

async fn start_box() -> (Daemon, Sdk) {
    let settings = Settings { segment_seconds: 10, user_sigs: false, log: "warn".to_owned(), ..Settings::default() };
    let daemon = Daemon::start(settings).await;
    let sdk = Sdk::start(&daemon).await;
    (daemon, sdk)
}

async fn box_turn(script: &Path, count: usize) -> Cost {
    let (daemon, sdk) = start_box().await;
    let base = daemon.url("whip/bench");
    let mut feeder = Feeder::start(&["feed-whip", &script.display().to_string(), &base, &count.to_string()]);
    feeder.wait_for("connected");
    let task = sdk.create("bench", "recorder", |_| {}).await.expect("Create");
    until("every lane to begin", || async {
        let seen = sdk.describe(&task).await.expect("the task runs");
        (seen["StorageFileList"].as_array().map_or(0, Vec::len) == 2 * count).then_some(())
    })
    .await;
    let cost = watch(daemon.id(), count).await;
    let lost =
        daemon.metric("holdfast_lane_packets_dropped_total").await + daemon.metric("holdfast_rtp_lost_total").await;
    if lost > 0.0 {
        eprintln!("  {lost} packets were lost on the way: the machine is too small for this number");
    }
    cost
}

async fn bare_turn(script: &Path, count: usize) -> Cost {
    let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
    let first: u16 = support::free_udp().port().min(60_000);
    // mode=none: with its own clock recovery the jitter buffer steps back under load, which ends splitmuxsink.
    let mut launch = Command::new(support::program("gst-launch-1.0"));
    launch.arg("-q");
    for n in 0..count {
        let port = first + 2 * u16::try_from(n).expect("not so many");
        let sink = |kind: &str| {
            let location = dir.path().join(format!("{n}-{kind}-%05d.ts"));
            format!("splitmuxsink muxer-factory=mpegtsmux max-size-time=10000000000 location={}", location.display())
        };
        let video = format!(
            "udpsrc address=127.0.0.1 port={port} buffer-size=2000000 \
             caps=application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload={VIDEO_TYPE} \
             ! rtpjitterbuffer mode=none ! rtph264depay ! h264parse ! {}",
            sink("video")
        );
        let audio = format!(
            "udpsrc address=127.0.0.1 port={} buffer-size=2000000 \
             caps=application/x-rtp,media=audio,clock-rate=48000,encoding-name=OPUS,payload={AUDIO_TYPE} \
             ! rtpjitterbuffer mode=none ! rtpopusdepay ! opusdec ! audioconvert ! audioresample ! avenc_aac bitrate=64000 \
             ! aacparse ! {}",
            port + 1,
            sink("audio")
        );
        launch.args(video.split_whitespace()).args(audio.split_whitespace());
    }
    let mut bare = Guard(launch.stdout(Stdio::null()).spawn().expect("gst-launch-1.0 starts"));
    let id = i32::try_from(bare.0.id()).expect("a process id fits");
    let port = first.to_string();
    let mut feeder = Feeder::start(&["feed-udp", &script.display().to_string(), &port, &count.to_string()]);
    feeder.wait_for("connected");
    until("every branch to write", || async {
        let files = fs::read_dir(dir.path()).expect("it is ours").count();
        (files >= 2 * count).then_some(())
    })
    .await;
    let cost = watch(id, count).await;
    assert!(bare.0.try_wait().expect("a child can be asked").is_none(), "the bare pipeline ended early");
    cost
}

/// Reads what a process used over the measured time.
async fn watch(process: i32, count: usize) -> Cost {
    tokio::time::sleep(SETTLE).await;
    let (began, before) = (Instant::now(), cpu_seconds(process));
    tokio::time::sleep(Duration::from_secs(setting("HOLDFAST_BENCH_SECONDS", 20))).await;
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let used = cpu_seconds(process) - before;
    Cost { cpu: used / minutes / count as f64, memory: resident_mb(process) }
}

/// utime + stime of `/proc/<id>/stat`.
fn cpu_seconds(process: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process lives");
    // The name in brackets may hold spaces; what counts comes after it.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("stat has a name").split_whitespace().collect();
    let ticks: u64 = number::<u64>(fields[11]) + number::<u64>(fields[12]);
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().expect("the kernel counts in ticks");
    ticks as f64 / per_second as f64
}

fn resident_mb(process: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("status tells VmRSS");
    number::<f64>(line.trim().trim_end_matches(" kB")) / 1024.0
}

/// From Create to the first byte in any file, and in a picture's file, ms; medians of five recordings of a publisher
/// who answers keyframe requests.
async fn first_byte() -> (f64, f64) {
    let (daemon, sdk) = start_box().await;
    let _publisher = Publisher::launch(&daemon.whip("bench", "one"), "-", Sends::default());
    until("the publisher to come in", || async { (daemon.metric("holdfast_tracks").await >= 2.0).then_some(()) }).await;
    let spool = daemon.state_dir().join("spool");
    let (mut any, mut picture) = (Vec::new(), Vec::new());
    for turn in 0..5 {
        let began = Instant::now();
        let robot = format!("recorder-{turn}");
        let create = sdk.create("bench", &robot, |_| {});
        let seen = async {
            let (mut first, mut first_picture) = (None, None);
            while first_picture.is_none() {
                for name in growing(&spool) {
                    first.get_or_insert(began.elapsed());
                    if name.contains("video") {
                        first_picture.get_or_insert(began.elapsed());
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (first.expect("it is not later"), first_picture.expect("the loop ended"))
        };
        let (task, (first, first_picture)) = tokio::join!(create, support::within(support::SOON, "a first byte", seen));
        any.push(first.as_secs_f64() * 1000.0);
        picture.push(first_picture.as_secs_f64() * 1000.0);
        let task = task.expect("Create");
        sdk.delete(&task).await.expect("it runs");
        until("the task to end", || async { sdk.describe(&task).await.err() }).await;
        until("the shelf to be empty", || async { growing(&spool).is_empty().then_some(()) }).await;
    }
    (middle(any), middle(picture))
}

/// Names of the unfinished files below the spool that hold something.
fn growing(spool: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let tasks = fs::read_dir(spool).into_iter().flatten().flatten();
    for file in tasks.filter_map(|task| fs::read_dir(task.path()).ok()).flatten().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.ends_with(".part") && file.metadata().is_ok_and(|meta| meta.len() > 0) {
            names.push(name);
        }
    }
    names
}

/// A child that dies with this value.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program once more, as the publishers.
struct Feeder {
    _child: Guard,
    out: BufReader<ChildStdout>,
}

impl Feeder {
    fn start(args: &[&str]) -> Feeder {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program).args(args).stdout(Stdio::piped()).spawn().expect("it starts once more");
        let out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Feeder { _child: Guard(child), out }
    }

    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        while line.trim() != word {
            line.clear();
            let read = self.out.read_line(&mut line).expect("the feeder writes text");
            assert!(read > 0, "the feeder ended before it said '{word}'");
        }
    }
}

fn feed_whip(script: &Path, base: &str, count: usize) {
    // Whoever came first set the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let script = std::sync::Arc::new(load(script));
    runtime().block_on(async {
        let cancel = CancellationToken::new();
        let mut playing = tokio::task::JoinSet::new();
        for n in 0..count {
            let address = WhipAddress { url: format!("{base}/user-{n}"), bearer: None, insecure: false, via: None };
            let publisher = RtpPublisher::publish(&address, &[Codec::Opus, Codec::H264]).await;
            let publisher = publisher.unwrap_or_else(|e| panic!("publisher {n}: {e}"));
            let (script, cancel) = (script.clone(), cancel.clone());
            playing.spawn(async move { publisher.play(&script, &cancel).await });
        }
        println!("connected");
        while let Some(ended) = playing.join_next().await {
            ended.expect("no publisher panics").unwrap_or_else(|e| panic!("a publisher failed: {e}"));
        }
    });
}

/// The same packets as plain RTP: picture to `first` + 2n, sound to the port after it.
fn feed_udp(script: &Path, first: u16, count: u16) {
    let script = load(script);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    println!("connected");
    let began = Instant::now();
    let (mut sequence, mut packet) = ([0u16; 2], Vec::new());
    for round in 0u32.. {
        for made in &script.packets {
            let at = began + script.length * round + made.at;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            let (kind, payload_type, ticks) = match made.kind {
                TrackKind::Video => (0usize, VIDEO_TYPE, 90_000u128),
                TrackKind::Audio => (1, AUDIO_TYPE, 48_000),
            };
            let moved = script.length.as_nanos() * u128::from(round) * ticks / 1_000_000_000;
            let timestamp = made.timestamp.wrapping_add(moved as u32);
            sequence[kind] = sequence[kind].wrapping_add(1);
            packet.clear();
            packet.push(0x80);
            packet.push(u8::from(made.marker) << 7 | payload_type);
            packet.extend(sequence[kind].to_be_bytes());
            packet.extend(timestamp.to_be_bytes());
            packet.extend([0, 0, 0, kind as u8 + 1]);
            packet.extend(&made.payload[..]);
            for n in 0..count {
                let port = first + 2 * n + kind as u16;
                // Before the pipeline listens, and after it ended, nobody takes it.
                let _ = socket.send_to(&packet, ("127.0.0.1", port));
            }
        }
    }
}

/// Per packet: kind, time (ns), RTP time, marker, length, payload; before them the script's length (ns).
fn save(script: &Script, path: &Path) {
    let mut out = Vec::new();
    out.extend(u64::try_from(script.length.as_nanos()).expect("a short script").to_be_bytes());
    for made in &script.packets {
        out.push(u8::from(made.kind == TrackKind::Video));
        out.extend(u64::try_from(made.at.as_nanos()).expect("a short script").to_be_bytes());
        out.extend(made.timestamp.to_be_bytes());
        out.push(u8::from(made.marker));
        out.extend(u16::try_from(made.payload.len()).expect("it fits a datagram").to_be_bytes());
        out.extend(&made.payload[..]);
    }
    let mut file = fs::File::create(path).expect("the folder is ours");
    file.write_all(&out).expect("there is room for it");
}

fn load(path: &Path) -> Script {
    let mut all = Vec::new();
    let path: PathBuf = path.to_owned();
    fs::File::open(&path).and_then(|mut f| f.read_to_end(&mut all)).expect("the script was saved");
    let mut rest = &all[..];
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at(n);
        rest = tail;
        head
    };
    let length = Duration::from_nanos(u64::from_be_bytes(take(8).try_into().expect("eight bytes")));
    let mut packets = Vec::new();
    let mut left = all.len() - 8;
    while left > 0 {
        let kind = if take(1)[0] == 1 { TrackKind::Video } else { TrackKind::Audio };
        let at = Duration::from_nanos(u64::from_be_bytes(take(8).try_into().expect("eight bytes")));
        let timestamp = u32::from_be_bytes(take(4).try_into().expect("four bytes"));
        let marker = take(1)[0] == 1;
        let bytes = usize::from(u16::from_be_bytes(take(2).try_into().expect("two bytes")));
        packets.push(Made { kind, layer: 0, at, timestamp, marker, payload: Bytes::copy_from_slice(take(bytes)) });
        left -= 16 + bytes;
    }
    Script { packets, length }
}
