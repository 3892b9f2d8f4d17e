//! A publisher without a network, a lane's news, and what ffprobe says of files.
#![allow(dead_code, reason = "each test file uses its share")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};
use holdfast::media::engine::{Engine, Mixing};
use holdfast::media::stamped::StampedPacket;
use holdfast::media::stills::Stills;
use holdfast::media::tracks::{Feedback, TrackInput, TrackSource, Tracks};
use holdfast::media::{LaneEnd, LaneFeed, LaneOrder, MediaClock, MediaEngine, MediaNews, Sessions};
use holdfast::model::segment::ClosedSegment;
use holdfast::model::{
    Codec, Lane, LaneKind, LaneRun, MediaId, MediaTime, SessionId, TaskId, Timestamp, TrackId, TrackKind, UserId,
};
use tokio::sync::mpsc;

pub const MS: u64 = 1_000_000;
/// Where the packets' line begins on the media clock.
pub const BASE: u64 = 5_000 * MS;
pub const WALL: Timestamp = Timestamp(1_700_000_000_000_000);
/// No test needs so long; one that does hangs.
const GUARD: Duration = Duration::from_secs(90);

struct NoSessions;
impl Sessions for NoSessions {
    fn close_session(&self, _: SessionId) {}
}

#[derive(Default)]
pub struct Asked(AtomicU64);
impl Feedback for Asked {
    fn request_keyframe(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
impl Asked {
    pub fn times(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Packets of one frame.
pub type Frame = Vec<StampedPacket>;

/// A box's recording side, with a folder of its own.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub clock: MediaClock,
    pub tracks: Tracks,
    pub engine: Engine,
    pub news: mpsc::Receiver<MediaNews>,
    ids: u64,
}

/// What a lane told, in order.
#[derive(Debug, Default)]
pub struct Told {
    pub first: Option<Timestamp>,
    pub segments: Vec<ClosedSegment>,
    /// (part, why)
    pub troubles: Vec<(&'static str, Option<String>)>,
    /// Encoders that the lane lost for all.
    pub lost: Vec<&'static str>,
    pub end: Option<LaneEnd>,
}

pub struct Publisher {
    pub id: TrackId,
    pub input: TrackInput,
    pub asked: Arc<Asked>,
}

impl Site {
    pub fn new() -> Site {
        holdfast::media::init().expect("GStreamer with what a recording needs");
        Site::with(MediaClock::new(Instant::now(), WALL), Mixing::new(Stills::default(), None))
    }

    pub fn with(clock: MediaClock, mixing: Mixing) -> Site {
        let tracks = Tracks::default();
        let (to, news) = mpsc::channel(64);
        let engine = Engine::new(clock, tracks.clone(), to, Arc::new(NoSessions), mixing);
        Site { dir: tempfile::tempdir().expect("a folder"), clock, tracks, engine, news, ids: 0 }
    }

    pub fn publish(&mut self, codec: Codec) -> Publisher {
        self.ids += 1;
        let asked = Arc::new(Asked::default());
        let sound = codec == Codec::Opus;
        let source = TrackSource {
            id: TrackId(self.ids),
            kind: if sound { TrackKind::Audio } else { TrackKind::Video },
            codec,
            payload_type: 96,
            clock_rate: if sound { 48_000 } else { 90_000 },
            feedback: asked.clone(),
        };
        let id = source.id;
        Publisher { id, input: self.tracks.open(source).expect("a free id"), asked }
    }

    /// An order for a lane of two-second segments.
    pub fn order(&self, kind: LaneKind, audio: Option<&Publisher>, video: Option<&Publisher>) -> LaneOrder {
        let lane = Lane::single(UserId::parse("ann").expect("an id"), MediaId::Main, kind);
        LaneOrder {
            run: LaneRun { task: TaskId::from_random(&[7; 16]), lane, run: 0 },
            feed: LaneFeed::Single { audio: audio.map(|p| p.id), video: video.map(|p| p.id) },
            dir: self.dir.path().to_owned(),
            vault: Default::default(),
            segment_length: Duration::from_secs(2),
            gap_limit: Duration::from_secs(3),
            sync_interval: Duration::from_millis(200),
            fill_black: false,
            base: MediaTime(BASE),
            from: MediaTime(0),
        }
    }

    pub fn start(&self, order: &LaneOrder) {
        self.engine.start_lane(order.clone()).expect("a lane starts");
    }

    pub fn next(&mut self) -> MediaNews {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let next = runtime.block_on(async { tokio::time::timeout(GUARD, self.news.recv()).await });
        next.expect("news in time").expect("the engine lives")
    }

    /// All that a lane tells until its end.
    pub fn until_end(&mut self) -> Told {
        let mut told = Told::default();
        while told.end.is_none() {
            let news = self.next();
            told.take(news);
        }
        told
    }

    pub fn path(&self, segment: &ClosedSegment) -> PathBuf {
        self.dir.path().join(&segment.part_name)
    }

    /// All segments behind one another, as a player gets them.
    pub fn joined(&self, segments: &[ClosedSegment]) -> PathBuf {
        let bytes: Vec<u8> =
            segments.iter().flat_map(|s| std::fs::read(self.path(s)).expect("a closed segment is there")).collect();
        let path = self.dir.path().join("joined.ts");
        std::fs::write(&path, bytes).expect("room for the joined file");
        path
    }
}

impl Told {
    pub fn take(&mut self, news: MediaNews) {
        match news {
            MediaNews::FirstMedia { at, .. } => {
                assert!(self.first.is_none() && self.segments.is_empty());
                self.first = Some(at);
            }
            MediaNews::SegmentClosed(segment) => {
                assert_eq!(segment.index as usize, self.segments.len());
                self.segments.push(segment);
            }
            MediaNews::Trouble { part, why, .. } => self.troubles.push((part, why)),
            MediaNews::EncoderLost { factory, .. } => self.lost.push(factory),
            MediaNews::LaneEnded { end, .. } => self.end = Some(end),
            other => panic!("a lane does not tell {other:?}"),
        }
    }

    pub fn seconds(&self) -> f64 {
        self.segments.iter().map(|s| s.duration.as_secs_f64()).sum()
    }
}

impl Publisher {
    /// Pushes frames as fast as they are taken.
    pub fn push(&self, frames: &[Frame]) {
        for frame in frames {
            self.make_room();
            self.input.push(frame.clone());
        }
    }

    /// Waits until the lanes have not much left to do.
    pub fn make_room(&self) {
        let since = Instant::now();
        while self.input.backlog() > 200 {
            assert!(since.elapsed() < GUARD, "a lane takes nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until all of it was taken.
    pub fn settle(&self) {
        let since = Instant::now();
        while self.input.backlog() > 0 {
            assert!(since.elapsed() < GUARD, "a lane takes nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Runs a launch description that ends in RTP, and stamps what comes out: `from_ms` on the lane's line plus what the
/// element's own time says. One `Vec` for each frame.
pub fn packets(described: &str, from_ms: u64) -> Vec<Frame> {
    packets_of(described, Vec::new(), from_ms)
}

/// The same, behind an `appsrc name=in` that gets these raw buffers: (time in ns, bytes).
pub fn packets_of(described: &str, raw: Vec<(u64, Vec<u8>)>, from_ms: u64) -> Vec<Frame> {
    gst::init().expect("GStreamer");
    let pipeline = gst::parse::launch(&format!("{described} ! appsink name=out sync=false max-buffers=100000"))
        .unwrap_or_else(|e| panic!("{described}: {e}"))
        .downcast::<gst::Pipeline>()
        .expect("several elements are a pipeline");
    let sink = pipeline.by_name("out").expect("named above").downcast::<AppSink>().expect("an appsink");
    pipeline.set_state(gst::State::Playing).expect("it plays");
    let feeder = pipeline.by_name("in").map(|source| {
        let source = source.downcast::<AppSrc>().expect("an appsrc");
        std::thread::spawn(move || {
            for (at, bytes) in raw {
                let mut buffer = gst::Buffer::from_slice(bytes);
                buffer.get_mut().expect("new").set_pts(gst::ClockTime::from_nseconds(at));
                source.push_buffer(buffer).expect("it takes buffers");
            }
            source.end_of_stream().expect("it takes the end");
        })
    });
    let mut frames: Vec<Frame> = Vec::new();
    let mut last = None;
    let mut first = None;
    while let Ok(sample) = sink.pull_sample() {
        let buffer = sample.buffer().expect("a sample has a buffer");
        // x264enc begins at 1000 hours
        let pts = buffer.pts().expect("RTP has times").nseconds();
        let first = *first.get_or_insert(pts);
        let at = MediaTime(BASE + from_ms * MS + (pts - first));
        let rtp = Bytes::copy_from_slice(&buffer.map_readable().expect("readable"));
        let packet = StampedPacket { rtp, at, after_loss: false };
        if last == Some(pts) {
            frames.last_mut().expect("there is one").push(packet);
        } else {
            frames.push(vec![packet]);
        }
        last = Some(pts);
    }
    if let Some(feeder) = feeder {
        feeder.join().expect("the feeder does not panic");
    }
    let error = pipeline.bus().expect("a bus").pop_filtered(&[gst::MessageType::Error]);
    assert!(error.is_none(), "{described}: {error:?}");
    pipeline.set_state(gst::State::Null).expect("it stops");
    assert!(!frames.is_empty(), "{described}: nothing came");
    frames
}

/// Black pictures, 30 a second, but white for the first tenth of each second; through an encoder and payloader.
pub fn flashes(seconds: u64, encoder: &str) -> Vec<Frame> {
    let (width, height) = (160, 120);
    let raw = (0..seconds * 30).map(|n| {
        let mut bytes = vec![if n % 30 < 3 { 235 } else { 16 }; width * height];
        bytes.resize(width * height * 3 / 2, 128);
        (n * 1_000 * MS / 30, bytes)
    });
    let described = format!(
        "appsrc name=in format=time caps=video/x-raw,format=I420,width={width},height={height},framerate=30/1 ! {encoder}"
    );
    packets_of(&described, raw.collect(), 0)
}

/// Silence, but a tone of 1 kHz for the first tenth of each second; Opus.
pub fn beeps(seconds: u64) -> Vec<Frame> {
    let raw = (0..seconds * 50).map(|n| {
        let sample = |i: u64| {
            let t = n * 960 + i;
            let loud = t % 48_000 < 4_800;
            let value = if loud { (t as f64 * std::f64::consts::TAU / 48.0).sin() * 16_000.0 } else { 0.0 };
            (value as i16).to_le_bytes()
        };
        (n * 20 * MS, (0..960).flat_map(sample).collect())
    });
    let caps = "audio/x-raw,format=S16LE,layout=interleaved,rate=48000,channels=1";
    packets_of(
        &format!("appsrc name=in format=time caps={caps} ! opusenc bitrate=64000 ! rtpopuspay pt=96"),
        raw.collect(),
        0,
    )
}

/// Temporal units of AV1 in packets of at most 300 bytes of one OBU each, by the RTP payload format.
pub fn av1_in_rtp(units: Vec<Frame>) -> Vec<Frame> {
    let mut number = 0_u16;
    let mut packet = |at: MediaTime, marker: bool, aggregation: u8, part: &[u8]| {
        let mut bytes = vec![0x80, if marker { 0xe0 } else { 0x60 }];
        bytes.extend(number.to_be_bytes());
        bytes.extend(((at.0 / 100_000 * 9) as u32).to_be_bytes());
        bytes.extend([0, 0, 0, 1, aggregation]);
        bytes.extend_from_slice(part);
        number = number.wrapping_add(1);
        StampedPacket { rtp: bytes.into(), at, after_loss: false }
    };
    let frame = |unit: Frame| {
        let at = unit[0].at;
        let bytes = &unit[0].rtp;
        let mut obus = Vec::new();
        let mut place = 0;
        while place < bytes.len() {
            let header = bytes[place];
            assert!(header & 2 != 0, "in a file each OBU has a size");
            place += if header & 4 != 0 { 2 } else { 1 };
            let (mut size, mut shift) = (0, 0);
            loop {
                size |= usize::from(bytes[place] & 0x7f) << shift;
                shift += 7;
                place += 1;
                if bytes[place - 1] & 0x80 == 0 {
                    break;
                }
            }
            if header >> 3 != 2 {
                obus.push([&[header & !2][..], &bytes[place..place + size]].concat());
            }
            place += size;
        }
        let mut frame = Vec::new();
        let last_obu = obus.len() - 1;
        // a sequence header: what comes can be decoded without what came before
        let fresh = obus.iter().any(|obu| obu[0] >> 3 == 1);
        for (n, obu) in obus.iter().enumerate() {
            let parts: Vec<&[u8]> = obu.chunks(300).collect();
            for (m, part) in parts.iter().enumerate() {
                let more = m + 1 < parts.len();
                let begins = if fresh && n == 0 && m == 0 { 0x08 } else { 0 };
                let aggregation = 0x10 | begins | if m > 0 { 0x80 } else { 0 } | if more { 0x40 } else { 0 };
                frame.push(packet(at, n == last_obu && !more, aggregation, part));
            }
        }
        frame
    };
    units.into_iter().map(frame).collect()
}

/// Shifts all stamps.
pub fn later(frames: Vec<Frame>, by_ms: u64) -> Vec<Frame> {
    stamped(frames, |_, at| at + by_ms * MS)
}

/// Stamps by a rule: (number of the frame, stamp) to stamp.
pub fn stamped(mut frames: Vec<Frame>, rule: impl Fn(usize, u64) -> u64) -> Vec<Frame> {
    for (n, frame) in frames.iter_mut().enumerate() {
        for packet in frame {
            packet.at = MediaTime(rule(n, packet.at.0));
        }
    }
    frames
}

/// Pictures with noise and motion, 30 a second, a keyframe every `gop`.
pub fn h264(frames: u32, size: (u32, u32), gop: u32, from_ms: u64) -> Vec<Frame> {
    let (width, height) = size;
    packets(
        &format!(
            "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,width={width},height={height},framerate=30/1 \
             ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=400 key-int-max={gop} \
             ! video/x-h264,profile=constrained-baseline ! rtph264pay pt=96 mtu=1200"
        ),
        from_ms,
    )
}

pub fn opus(packets_20ms: u32, from_ms: u64) -> Vec<Frame> {
    packets(
        &format!(
            "audiotestsrc num-buffers={packets_20ms} samplesperbuffer=960 ! audio/x-raw,rate=48000,channels=1 \
             ! opusenc ! rtpopuspay pt=96"
        ),
        from_ms,
    )
}

/// The same packets with numbers that go on from those of `before`.
pub fn go_on_after(before: &[Frame], frames: &mut [Frame]) {
    let number = |p: &StampedPacket| u16::from_be_bytes([p.rtp[2], p.rtp[3]]);
    let last = number(before.last().and_then(|f| f.last()).expect("not empty"));
    let ssrc = before[0][0].rtp[8..12].to_vec();
    for (n, packet) in frames.iter_mut().flatten().enumerate() {
        let mut bytes = packet.rtp.to_vec();
        bytes[2..4].copy_from_slice(&last.wrapping_add(n as u16 + 1).to_be_bytes());
        bytes[8..12].copy_from_slice(&ssrc);
        packet.rtp = bytes.into();
    }
}

fn tool(name: &str, args: &[&str]) -> String {
    let out = Command::new(name).args(args).output().unwrap_or_else(|e| panic!("{name}: {e}; apt install ffmpeg"));
    assert!(out.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

/// What ffmpeg complains of when it decodes the file, whole.
pub fn complaints(path: &Path) -> String {
    let file = path.to_str().expect("a plain path");
    let out = Command::new("ffmpeg")
        .args(["-v", "warning", "-i", file, "-f", "null", "-"])
        .output()
        .expect("ffmpeg runs; apt install ffmpeg");
    String::from_utf8(out.stderr).expect("text")
}

/// (seconds, key) of each packet of the stream `v` or `a`.
pub fn times(path: &Path, stream: &str) -> Vec<(f64, bool)> {
    let text = tool(
        "ffprobe",
        &[
            "-v",
            "error",
            "-select_streams",
            stream,
            "-show_entries",
            "packet=pts_time,flags",
            "-of",
            "csv=p=0",
            path.to_str().expect("a plain path"),
        ],
    );
    let line = |line: &str| {
        let (time, flags) = line.split_once(',')?;
        Some((time.parse().ok()?, flags.starts_with('K')))
    };
    text.lines().filter_map(line).collect()
}

/// `codec` and size, or channels, of each stream.
pub fn streams(path: &Path) -> Vec<String> {
    let text = tool(
        "ffprobe",
        &[
            "-v",
            "error",
            "-show_entries",
            "stream=codec_name,width,height,channels,sample_rate",
            "-of",
            "csv=p=0",
            path.to_str().expect("a plain path"),
        ],
    );
    // one line for each stream, and for each stream in each program
    let mut lines: Vec<String> = text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
    let mut seen = std::collections::BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines
}

/// Mono samples at 48 kHz of the whole file, and the time of the first one.
pub fn sound_of(path: &Path) -> (f64, Vec<f32>) {
    let start = times(path, "a").first().expect("there is sound").0;
    let raw = path.with_extension("raw");
    tool(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-y",
            "-i",
            path.to_str().expect("plain"),
            "-map",
            "0:a",
            "-ac",
            "1",
            "-ar",
            "48000",
            "-f",
            "f32le",
            raw.to_str().expect("plain"),
        ],
    );
    let bytes = std::fs::read(raw).expect("written above");
    (start, bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Mean brightness (0 … 255) of each picture, with its time.
pub fn brightness(path: &Path) -> Vec<(f64, f64)> {
    let raw = path.with_extension("gray");
    tool(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-y",
            "-copyts",
            "-i",
            path.to_str().expect("plain"),
            "-map",
            "0:v",
            "-vf",
            "scale=8:8:flags=area",
            "-fps_mode",
            "passthrough",
            "-pix_fmt",
            "gray",
            "-f",
            "rawvideo",
            raw.to_str().expect("plain"),
        ],
    );
    let bytes = std::fs::read(raw).expect("written above");
    let means = bytes.chunks_exact(64).map(|p| p.iter().map(|b| f64::from(*b)).sum::<f64>() / 64.0);
    let mut when: Vec<f64> = times(path, "v").into_iter().map(|t| t.0).collect();
    when.sort_by(f64::total_cmp);
    when.into_iter().zip(means).collect()
}

/// When tones begin, seconds on the file's line.
pub fn tone_starts(path: &Path) -> Vec<f64> {
    let (start, samples) = sound_of(path);
    let mut starts = Vec::new();
    let mut quiet = 4_800;
    for (n, sample) in samples.iter().enumerate() {
        if sample.abs() > 0.1 {
            if quiet >= 4_800 {
                starts.push(start + n as f64 / 48_000.0);
            }
            quiet = 0;
        } else {
            quiet += 1;
        }
    }
    starts
}

/// When pictures turn white, seconds on the file's line.
pub fn flash_starts(path: &Path) -> Vec<f64> {
    let all = brightness(path);
    let first = all.first().filter(|p| p.1 > 128.0).map(|p| p.0);
    let turned = all.windows(2).filter(|w| w[0].1 < 128.0 && w[1].1 > 128.0).map(|w| w[1].0);
    first.into_iter().chain(turned).collect()
}

/// A file that plays alone: tables, then a keyframe if it has pictures; whole packets; nothing to complain of.
pub fn assert_plays_alone(path: &Path) {
    let bytes = std::fs::read(path).expect("a closed segment is there");
    assert!(bytes.len().is_multiple_of(188) && !bytes.is_empty());
    let pid = |n: usize| u16::from(bytes[n * 188 + 1] & 0x1f) << 8 | u16::from(bytes[n * 188 + 2]);
    assert_eq!((pid(0), pid(1)), (0, 0x1000), "{path:?} begins with PAT and PMT");
    if let Some((_, key)) = times(path, "v").first() {
        assert!(key, "{path:?} begins with a keyframe");
        assert_eq!(pid(2), 0x100, "{path:?}: the keyframe is the first thing in it");
    }
    assert_eq!(complaints(path), "", "{path:?}");
}
