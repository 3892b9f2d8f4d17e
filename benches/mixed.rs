//! What a mixed recording costs: the box beside ffmpeg's `xstack` and a bare GStreamer compositor that mix the same
//! streams out of files.
//!
//! `scripts/bench mixed [CASE…]`. A case is a number of publishers (4 9) who send 640x360@30; with `-simulcast`
//! (16-simulcast) they send three layers, and the peers decode the largest, which is what they have; with `-small`
//! (25-small) they send 320x180@30, and what is asked is whether a step comes late or a packet is lost.
//! They take turns (A/B/B'/B"/C/A/B/B'/B"/C), each in a process of its own; the box's publishers are in another. CPU time is read
//! from `/proc`. The box records live and everything that it does is counted (WebRTC, sound, TS, synced files, upload to
//! a folder); the peers read files as fast as they can, but for (b'), ffmpeg at the pace of the clock (`-re`): the same
//! work costs a processor more when it comes in pieces with rests between them, and a live recorder has no choice. (b) has
//! one thread for each decoder and filter and for x264, which is what costs least; (b") as many as ffmpeg takes unasked.
//! `HOLDFAST_BENCH_AWAKE` (0): 1 keeps the processors from sleeping meanwhile. (b) and (c) never let one sleep, the box does
//! after each round, and the first milliseconds after that are slow.
//! `HOLDFAST_BENCH_SECONDS` (20) is how long the box is measured in each turn, `HOLDFAST_BENCH_TURNS` (2) how often each
//! has one.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::support::scene::until;
use common::{
    Awake, Feeder, Guard, middle, number, runtime, save, script, start_box, support, turns, used_to_the_end, watch,
};
use holdfast::media::publish::Script;
use holdfast::model::TrackKind;
use holdfast::model::encoder::{Coding, mixing_encoders};
use holdfast::model::mix::Size;
use serde_json::json;

const CANVAS: Size = Size { width: 1280, height: 720 };
const CODING: Coding = Coding { size: CANVAS, fps: 15, bitrate: 1_500_000, gop: 2 };
const SOUND_BITRATE: u32 = 64_000;
/// What is sent over and over.
const CLIP: Duration = Duration::from_secs(30);
/// Different contents; publisher n sends the n-th, modulo this.
const CONTENTS: usize = 9;
/// Width, height, kbit/s of the layers, smallest first.
const LAYERS: [(u32, u32, u32); 3] = [(160, 90, 80), (320, 180, 200), (640, 360, 700)];
/// Time for a smaller layer to be taken up (it must be enough for two seconds, then a keyframe comes every two).
const SETTLE: Duration = Duration::from_secs(7);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["feed-whip", base, count, ref scripts @ ..] => common::feed_whip(base, number(count), scripts),
        [Awake::WORD] => common::spin(),
        _ => {
            let usual = ["4", "9", "16-simulcast", "25-small"];
            let cases = if words.is_empty() { &usual[..] } else { &words[..] };
            runtime().block_on(measure(cases.iter().map(|word| Case::parse(word)).collect()));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sends {
    /// The largest layer alone.
    Large,
    Simulcast,
    /// The middle one alone.
    Small,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    count: usize,
    sends: Sends,
}

impl Case {
    fn parse(word: &str) -> Case {
        let (count, sends) = match word.split_once('-') {
            None => (word, Sends::Large),
            Some((count, "simulcast")) => (count, Sends::Simulcast),
            Some((count, "small")) => (count, Sends::Small),
            Some(_) => panic!("'{word}' is no case; see scripts/bench"),
        };
        let count = number(count);
        assert!((1..=25).contains(&count), "a grid has 1 to 25 places");
        Case { count, sends }
    }

    /// The layer that the peers read.
    fn file(&self) -> usize {
        if self.sends == Sends::Small { 1 } else { 2 }
    }

    fn told(&self) -> String {
        match self.sends {
            Sends::Large => format!("{} of 640x360", self.count),
            Sends::Simulcast => format!("{} with simulcast", self.count),
            Sends::Small => format!("{} of 320x180", self.count),
        }
    }

    /// (a) is at most so many times (b).
    fn goal(&self) -> f64 {
        if self.sends == Sends::Simulcast { 0.6 } else { 1.0 }
    }

    /// Places of the grid: left, top, width, height.
    fn grid(&self) -> Vec<[u32; 4]> {
        let side = (1u32..).find(|side| (side * side) as usize >= self.count).expect("some square is large enough");
        let edge = |n: u32, whole: u32| (whole * n / side) & !1;
        let cells = (0..side).flat_map(|row| (0..side).map(move |column| (row, column)));
        let place = |(row, column)| {
            let (left, top) = (edge(column, CANVAS.width), edge(row, CANVAS.height));
            [left, top, edge(column + 1, CANVAS.width) - left, edge(row + 1, CANVAS.height) - top]
        };
        cells.map(place).take(self.count).collect()
    }
}

/// What publishers send, as files for the peers and as scripts for the box.
struct Clips {
    dir: PathBuf,
}

impl Clips {
    fn file(&self, content: usize, layer: usize) -> PathBuf {
        self.dir.join(format!("{content}-{layer}.mkv"))
    }

    fn files(&self, case: Case) -> impl Iterator<Item = PathBuf> {
        (0..case.count).map(move |n| self.file(n % CONTENTS, case.file()))
    }

    fn scripts(&self, case: Case) -> Vec<String> {
        let name = |content| self.dir.join(format!("{content}-{:?}", case.sends)).display().to_string();
        (0..CONTENTS.min(case.count)).map(name).collect()
    }

    /// Moving patterns under the noise of a sensor, which fills the whole rate as a camera does, coded as a browser
    /// does; a voice-like noise with pauses.
    fn make(&self, content: usize) {
        let (width, height, _) = LAYERS[2];
        let mut ffmpeg = Command::new(support::program("ffmpeg"));
        ffmpeg.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i"]);
        ffmpeg.arg(format!(
            "testsrc2=s={width}x{height}:r=30:d={seconds},hue=h={hue},gblur=sigma=1.5,noise=alls=8:allf=t:all_seed={content},\
             format=yuv420p",
            seconds = CLIP.as_secs(),
            hue = content * 40,
        ));
        ffmpeg.args(["-f", "lavfi", "-i"]);
        ffmpeg.arg(format!(
            "anoisesrc=color=pink:amplitude=0.3:r=48000:d={}:seed={content},tremolo=f=0.{}:d=0.9",
            CLIP.as_secs(),
            content + 1
        ));
        let scaled = LAYERS[..2].iter().enumerate().map(|(n, (w, h, _))| format!("[c{n}]scale={w}:{h}[v{n}];"));
        ffmpeg
            .arg("-filter_complex")
            .arg(format!("[0:v]split=3[c0][c1][v2];{}[1:a]asplit=3[a0][a1][a2]", scaled.collect::<String>()));
        for (n, (_, _, kbit)) in LAYERS.iter().enumerate() {
            ffmpeg.args(["-map", &format!("[v{n}]"), "-map", &format!("[a{n}]")]);
            ffmpeg.args(["-c:v", "libx264", "-preset", "superfast", "-tune", "zerolatency", "-profile:v", "baseline"]);
            ffmpeg.args(["-g", "60", "-b:v", &format!("{kbit}k"), "-maxrate", &format!("{kbit}k")]);
            ffmpeg.args(["-bufsize", &format!("{kbit}k"), "-c:a", "libopus", "-application", "voip", "-b:a", "40k"]);
            ffmpeg.arg(self.file(content, n));
        }
        support::output_of(&mut ffmpeg);

        let layers: Vec<Script> = (0..LAYERS.len()).map(|layer| packets(&self.file(content, layer))).collect();
        let save = |script: &Script, sends: Sends| save(script, &self.dir.join(format!("{content}-{sends:?}")));
        save(&layers[1], Sends::Small);
        save(&layers[2], Sends::Large);
        save(&Script::simulcast(&layers), Sends::Simulcast);
    }
}

fn packets(file: &Path) -> Script {
    let video = "matroskademux name=d d.video_0 ! h264parse ! rtph264pay config-interval=-1 aggregate-mode=zero-latency mtu=1200";
    let audio = "matroskademux name=d d.audio_0 ! opusparse ! rtpopuspay";
    let mut made = common::payed(file, video, TrackKind::Video);
    made.extend(common::payed(file, audio, TrackKind::Audio));
    script(made, CLIP)
}

/// The chain of x264, which is what the box uses here.
fn x264() -> String {
    let x264 = mixing_encoders().iter().find(|encoder| encoder.factory == "x264enc");
    (x264.expect("the table has it").chain)(&CODING)
}

async fn measure(cases: Vec<Case>) {
    let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
    let clips = Clips { dir: dir.path().to_owned() };
    let contents = cases.iter().map(|case| case.count.min(CONTENTS)).max().unwrap_or(0);
    eprintln!("encoding {contents} times {} s of 640x360@30 and its smaller layers …", CLIP.as_secs());
    let made = tokio::task::spawn_blocking(move || {
        (0..contents).for_each(|content| clips.make(content));
        clips
    });
    let clips = made.await.expect("encoding does not panic");
    let _awake = Awake::new();
    println!("The box's encoder (that of GStreamer too): {}", x264());
    println!();
    println!(
        "| publishers | (a) box: CPU s / s | (b) ffmpeg | (b') ffmpeg -re | (b\") ffmpeg, its own threads | (c) GStreamer \
         | a / b | goal | a / b' | a / b\" | a / c | steps late | packets lost |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for case in cases {
        let (mut a, mut b, mut paced, mut unasked, mut c) = (vec![], vec![], vec![], vec![], vec![]);
        let mut late = (0.0, 0.0);
        for turn in 1..=turns() {
            let told = |side: &str, cpu: f64| eprintln!("{}, turn {turn}, {side}: {cpu:.3}", case.told());
            let (cpu, lost) = box_turn(&clips, case).await;
            told("box", cpu);
            a.push(cpu);
            late = (late.0 + lost.0, late.1 + lost.1);
            b.push(peer_turn(ffmpeg(&clips, case, Manner::Frugal)).await);
            told("ffmpeg", b[b.len() - 1]);
            paced.push(peer_turn(ffmpeg(&clips, case, Manner::Paced)).await);
            told("ffmpeg -re", paced[paced.len() - 1]);
            unasked.push(peer_turn(ffmpeg(&clips, case, Manner::OwnThreads)).await);
            told("ffmpeg, its own threads", unasked[unasked.len() - 1]);
            c.push(peer_turn(gstreamer(&clips, case)).await);
            told("GStreamer", c[c.len() - 1]);
        }
        let (a, b, paced, unasked, c) = (middle(a), middle(b), middle(paced), middle(unasked), middle(c));
        println!(
            "| {} | {a:.3} | {b:.3} | {paced:.3} | {unasked:.3} | {c:.3} | {:.2} | {} | {:.2} | {:.2} | {:.2} | {} | {} |",
            case.told(),
            a / b,
            case.goal(),
            a / paced,
            a / unasked,
            a / c,
            late.0,
            late.1
        );
    }
}

/// CPU seconds for a second of recording; steps that were late, packets that were lost.
async fn box_turn(clips: &Clips, case: Case) -> (f64, (f64, f64)) {
    let (daemon, sdk) = start_box().await;
    let base = daemon.url("whip/bench");
    let (count, scripts) = (case.count.to_string(), clips.scripts(case));
    let mut args = vec!["feed-whip", &base, &count];
    args.extend(scripts.iter().map(String::as_str));
    let mut feeder = Feeder::start(&args);
    feeder.wait_for("connected");
    until("everybody to be heard and seen", || async {
        (daemon.metric("holdfast_tracks").await >= 2.0 * case.count as f64).then_some(())
    })
    .await;
    let change = |params: &mut serde_json::Value| {
        params["RecordParams"]["RecordMode"] = json!(2);
        params["MixTranscodeParams"] = json!({
            "VideoParams": {
                "Width": CANVAS.width, "Height": CANVAS.height, "Fps": CODING.fps, "BitRate": CODING.bitrate,
                "Gop": CODING.gop,
            },
            "AudioParams": { "SampleRate": 1, "Channel": 1, "BitRate": SOUND_BITRATE },
        });
        params["MixLayoutParams"] = json!({ "MixLayoutMode": 3 });
    };
    let task = sdk.create("bench", "recorder", change).await.expect("Create");
    until("the recording to begin", || async {
        let seen = sdk.describe(&task).await.expect("the task runs");
        (seen["StorageFileList"].as_array().map_or(0, Vec::len) == 1).then_some(())
    })
    .await;
    let used = watch(daemon.id(), SETTLE).await;
    let seconds = used.passed.as_secs_f64();
    let threads: Vec<String> = by_cost(&used.threads)
        .into_iter()
        .map(|(name, cpu)| format!("{name} {:.3}", cpu / seconds))
        .filter(|told| !told.ends_with(" 0.000"))
        .collect();
    eprintln!("  box by threads: {}", threads.join(", "));
    let late = daemon.metric("holdfast_mix_steps_late_total").await;
    let lost =
        daemon.metric("holdfast_lane_packets_dropped_total").await + daemon.metric("holdfast_rtp_lost_total").await;
    (used.cpu / seconds, (late, lost))
}

fn by_cost(threads: &BTreeMap<String, f64>) -> Vec<(&str, f64)> {
    let mut all: Vec<(&str, f64)> = threads.iter().map(|(name, cpu)| (name.as_str(), *cpu)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

/// CPU seconds for a second of the clips.
async fn peer_turn(mut command: Command) -> f64 {
    let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
    command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let child = Guard(command.spawn().expect("it was found above"));
    used_to_the_end(child).await / CLIP.as_secs_f64()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// One thread for each decoder, for each filter and for x264.
    Frugal,
    /// The same at the pace of the clock.
    Paced,
    /// As many as it takes when it is not told.
    OwnThreads,
}

fn ffmpeg(clips: &Clips, case: Case, manner: Manner) -> Command {
    let mut ffmpeg = Command::new(support::program("ffmpeg"));
    let told = manner != Manner::OwnThreads;
    ffmpeg.args(["-nostdin", "-v", "error"]).args(told.then_some(["-filter_complex_threads", "1"]).iter().flatten());
    let (mut pictures, mut sounds, mut stack, mut layout) = (String::new(), String::new(), String::new(), Vec::new());
    for ((n, file), [left, top, width, height]) in clips.files(case).enumerate().zip(case.grid()) {
        ffmpeg.args((manner == Manner::Paced).then_some("-re"));
        ffmpeg.args(told.then_some(["-threads", "1"]).iter().flatten()).arg("-i").arg(file);
        pictures += &format!("[{n}:v]fps={},scale={width}:{height}:flags=bilinear[v{n}];", CODING.fps);
        stack += &format!("[v{n}]");
        sounds += &format!("[{n}:a]");
        layout.push(format!("{left}_{top}"));
    }
    let (count, layout) = (case.count, layout.join("|"));
    ffmpeg.arg("-filter_complex").arg(format!(
        "{pictures}{stack}xstack=inputs={count}:layout={layout}:fill=black[v];\
         {sounds}amix=inputs={count}:normalize=0[a]"
    ));
    let (rate, gop) = (format!("{}", CODING.bitrate), (CODING.gop * CODING.fps).to_string());
    let threads = CODING.threads().to_string();
    ffmpeg.args(told.then_some(["-threads:v", &threads]).iter().flatten());
    ffmpeg.args(["-map", "[v]", "-map", "[a]", "-c:v", "libx264", "-preset", "superfast", "-tune", "zerolatency"]);
    ffmpeg.args(["-b:v", &rate, "-maxrate", &rate, "-bufsize", &rate, "-g", &gop]);
    ffmpeg.args(["-c:a", "aac", "-aac_coder", "fast", "-ac", "1", "-b:a", &SOUND_BITRATE.to_string()]);
    ffmpeg.args(["-f", "segment", "-segment_time", "10", "-segment_format", "mpegts", "%05d.ts"]);
    ffmpeg
}

fn gstreamer(clips: &Clips, case: Case) -> Command {
    let mut launch = Command::new(support::program("gst-launch-1.0"));
    launch.arg("-q");
    let mut say = |text: String| {
        launch.args(text.split_whitespace());
    };
    let places: String = case
        .grid()
        .iter()
        .enumerate()
        .map(|(n, [left, top, ..])| format!(" sink_{n}::xpos={left} sink_{n}::ypos={top}"))
        .collect();
    say(format!(
        "compositor name=v background=black {places} \
         ! video/x-raw,format=I420,width={},height={},framerate={}/1 ! {} ! h264parse ! queue ! mpegtsmux name=m \
         ! filesink location=mixed.ts \
         audiomixer name=a ! audio/x-raw,rate=48000,channels=1 ! audioconvert \
         ! avenc_aac aac-coder=fast bitrate={SOUND_BITRATE} ! aacparse ! queue ! m.",
        CANVAS.width,
        CANVAS.height,
        CODING.fps,
        x264()
    ));
    for ((n, file), [_, _, width, height]) in clips.files(case).enumerate().zip(case.grid()) {
        say(format!(
            "filesrc location={} ! matroskademux name=d{n} \
             d{n}.video_0 ! queue ! h264parse ! avdec_h264 max-threads=1 ! videorate drop-only=true \
             ! video/x-raw,framerate={}/1 ! videoscale ! video/x-raw,width={width},height={height} ! queue ! v.sink_{n} \
             d{n}.audio_0 ! queue ! opusdec ! audioconvert ! audioresample ! queue ! a.",
            file.display(),
            CODING.fps
        ));
    }
    launch
}
