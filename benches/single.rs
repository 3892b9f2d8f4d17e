//! What single-stream recording costs: the box beside a bare GStreamer pipeline that is fed with the same packets.
//!
//! `scripts/bench single [N…]`. For each number of publishers, box and bare pipeline take turns (A/B/A/B), each in a
//! process of its own with the publishers in another; CPU time and memory are read from `/proc`. Then the time from
//! Create to the first byte of media on the disk.
//! `HOLDFAST_BENCH_SECONDS` (20) is how long each turn is measured, `HOLDFAST_BENCH_TURNS` (2) how often each has one.

mod common;

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::support::publisher::{Publisher, Sends};
use common::support::scene::until;
use common::{Feeder, Guard, load, middle, number, resident_mb, runtime, save, start_box, support, turns};
use holdfast::media::publish::Script;
use holdfast::model::TrackKind;

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
        ["feed-whip", base, count, ref scripts @ ..] => common::feed_whip(base, number(count), scripts),
        ["feed-udp", script, port, count] => feed_udp(Path::new(script), number(port), number(count)),
        _ => {
            let counts: Vec<usize> = words.iter().map(|word| number(word)).collect();
            runtime().block_on(measure(if counts.is_empty() { vec![1, 10, 25] } else { counts }));
        }
    }
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

    let video =
        "h264parse ! video/x-h264,framerate=30/1 ! rtph264pay config-interval=-1 aggregate-mode=zero-latency mtu=1200";
    let audio = "wavparse ! audioconvert ! audioresample ! opusenc bitrate=48000 frame-size=20 ! rtpopuspay";
    let mut made = common::payed(&picture, video, TrackKind::Video);
    made.extend(common::payed(&sound, audio, TrackKind::Audio));
    common::script(made, SCRIPT)
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
        for turn in 1..=turns() {
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

async fn box_turn(script: &Path, count: usize) -> Cost {
    let (daemon, sdk) = start_box().await;
    let base = daemon.url("whip/bench");
    let mut feeder = Feeder::start(&["feed-whip", &base, &count.to_string(), &script.display().to_string()]);
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
    let id = bare.id();
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
    let used = common::watch(process, SETTLE).await;
    let minutes = used.passed.as_secs_f64() / 60.0;
    Cost { cpu: used.cpu / minutes / count as f64, memory: resident_mb(process) }
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
