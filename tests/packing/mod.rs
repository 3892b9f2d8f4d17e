//! Recordings without a network, packed, and what ffmpeg, ffprobe and GStreamer read of the files.
#![allow(dead_code, reason = "each test file uses its share")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSink;
use holdfast::model::output::{Container, LARGEST, LONGEST, Limits, Output};
use holdfast::model::package::{Order, order};
use holdfast::model::packed::Packed;
use holdfast::model::piece::{Piece, PieceFate};
use holdfast::model::recording::{Destination, MediaFilter, RecordingSpec, StreamType, Subscription, Vendor};
use holdfast::model::segment::{ClosedSegment, KEPT_SUFFIX, LocalName};
use holdfast::model::{LaneKind, RoomId, SdkAppId, TaskId, UserId};
use holdfast::package::Packer;
use holdfast::vault::Vault;

use crate::recording::{Publisher, Site, Told};

pub fn spec(black: bool) -> RecordingSpec {
    RecordingSpec {
        app: SdkAppId(1_400_000_001),
        room: RoomId::Number(12345),
        recorder: UserId::parse("recorder").expect("a user id"),
        mix: None,
        streams: StreamType::AudioVideo,
        media: MediaFilter::Both,
        subscription: Subscription::default(),
        max_idle: Duration::from_secs(30),
        av_merge: false,
        fill_black: black,
        call_expiry: Duration::from_secs(72 * 3600),
        output: Output::Mp4,
        file_length: LONGEST,
        resume_wait: None,
        destination: Destination {
            vendor: Vendor::S3,
            region: "local".into(),
            bucket: "recordings".into(),
            prefix: vec![],
        },
    }
}

pub fn no_limits() -> Limits {
    Limits { length: LONGEST, bytes: LARGEST }
}

/// A task's folder with what lanes wrote into it.
pub struct Shelf {
    pub task: TaskId,
    pub pieces: Vec<Piece>,
    pub packer: Packer,
    pub out: tempfile::TempDir,
}

impl Shelf {
    pub fn new() -> Shelf {
        let out = tempfile::tempdir().expect("a folder");
        Shelf { task: TaskId::from_random(&[7; 16]), pieces: Vec::new(), packer: Packer::new(), out }
    }

    /// Takes in what a lane told, as the spool would.
    pub fn take(&mut self, dir: &Path, takeover: u8, told: &[ClosedSegment]) {
        for segment in told {
            let name = LocalName::of(segment).to_string();
            // every other one has gone up already
            let kept = if segment.index % 2 == 1 { KEPT_SUFFIX } else { "" };
            std::fs::rename(dir.join(&segment.part_name), dir.join(format!("{name}{kept}"))).expect("it was written");
            self.pieces.push(piece(segment, takeover));
        }
    }

    pub fn order(&self, container: Container, black: bool, limits: Limits) -> Order {
        order(&spec(black), container, limits, Duration::from_secs(3), self.pieces.iter().map(|piece| (0, piece)))
    }

    /// Plans, and writes every file.
    pub fn pack(&self, dir: &Path, order: Order) -> (Packed, Vec<PathBuf>) {
        let (to, from) = std::sync::mpsc::sync_channel(1);
        let done = move |packed| to.send(packed).expect("the test waits");
        self.packer.plan(&self.task, dir.to_owned(), Vault::default(), order, done).expect("nothing else waits");
        let packed = from.recv_timeout(Duration::from_secs(90)).expect("a plan in time");
        let write = |(file, plan): &(holdfast::model::packed::PackedFile, String)| {
            // by other hands, which know nothing but the plan
            let opened = Packer::new().open(&self.task, dir.to_owned(), Vault::default(), plan);
            let opened = opened.expect("what was planned can be made");
            assert_eq!((opened.len(), opened.crc32()), (file.bytes, file.crc32));
            let mut bytes = Vec::new();
            while (bytes.len() as u64) < opened.len() {
                // stretches that end anywhere
                bytes.extend(opened.stretch(bytes.len() as u64, 100_003).expect("it can be read"));
            }
            let path = self.out.path().join(&file.object);
            std::fs::write(&path, &bytes).expect("room for the file");
            path
        };
        let paths = packed.files.iter().map(write).collect();
        (packed, paths)
    }
}

pub fn piece(segment: &ClosedSegment, takeover: u8) -> Piece {
    Piece {
        takeover,
        lane: segment.run.lane.clone(),
        run: segment.run.run,
        index: segment.index,
        object: format!("{}-{}", segment.run.run, segment.index),
        start: segment.start,
        duration: segment.duration,
        size: segment.size,
        discontinuity: segment.discontinuity,
        fate: PieceFate::Spooled,
    }
}

/// Records tracks in lanes of their own, all at once, until they end.
pub fn record(
    site: &mut Site,
    run: u32,
    tracks: Vec<(LaneKind, Publisher, Vec<crate::recording::Frame>)>,
) -> Vec<Told> {
    let mut all = Vec::new();
    for (kind, publisher, frames) in tracks {
        let sound = kind == LaneKind::Audio;
        let mut order = site.order(kind, sound.then_some(&publisher), (!sound).then_some(&publisher));
        order.run.run = run;
        site.start(&order);
        publisher.push(&frames);
        publisher.settle();
        drop(publisher);
        all.push(site.until_end());
    }
    all
}

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}: run scripts/setup"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// NAL units of the pictures of a file, as ffmpeg takes them out.
pub fn nals(file: &Path) -> Vec<Vec<u8>> {
    let bsf: &[&str] = if file.extension().is_some_and(|e| e == "mp4") { &["-bsf:v", "h264_mp4toannexb"] } else { &[] };
    let args = [&["-v", "error", "-i", text(file), "-map", "0:v", "-c", "copy"], bsf, &["-f", "h264", "-"]].concat();
    let bytes = run("ffmpeg", &args);
    let starts: Vec<usize> = starts_of_nals(&bytes);
    let ends = starts.iter().skip(1).map(|s| s - 3).chain([bytes.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(from, to)| {
            let mut nal = bytes[*from..to].to_vec();
            while nal.last() == Some(&0) {
                nal.pop();
            }
            nal
        })
        .collect()
}

fn starts_of_nals(bytes: &[u8]) -> Vec<usize> {
    bytes.windows(3).enumerate().filter(|(_, w)| *w == [0, 0, 1]).map(|(at, _)| at + 3).collect()
}

/// Frames of AAC without their headers.
pub fn sounds(file: &Path) -> Vec<Vec<u8>> {
    let bytes = run("ffmpeg", &["-v", "error", "-i", text(file), "-map", "0:a", "-c", "copy", "-f", "adts", "-"]);
    frames_of_adts(&bytes)
}

pub fn frames_of_adts(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at + 7 <= bytes.len() {
        assert_eq!((bytes[at], bytes[at + 1] & 0xf0), (0xff, 0xf0), "ADTS at byte {at}");
        let header = if bytes[at + 1] & 1 == 1 { 7 } else { 9 };
        let length =
            usize::from(bytes[at + 3] & 3) << 11 | usize::from(bytes[at + 4]) << 3 | usize::from(bytes[at + 5] >> 5);
        frames.push(bytes[at + header..at + length].to_vec());
        at += length;
    }
    frames
}

/// Seconds that ffprobe says of the file.
pub fn seconds(file: &Path) -> f64 {
    let args = ["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", text(file)];
    String::from_utf8(run("ffprobe", &args)).expect("text").trim().parse().expect("a duration")
}

/// Order of the file's top boxes.
pub fn boxes(file: &Path) -> Vec<(String, u64)> {
    let bytes = std::fs::read(file).expect("it was written");
    let mut at = 0usize;
    let mut found = Vec::new();
    while at + 8 <= bytes.len() {
        let size = u64::from(u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes")));
        let size = match size {
            1 => u64::from_be_bytes(bytes[at + 8..at + 16].try_into().expect("eight bytes")),
            size => size,
        };
        found.push((String::from_utf8_lossy(&bytes[at + 4..at + 8]).into_owned(), size));
        at += usize::try_from(size).expect("it is in memory");
    }
    assert_eq!(at, bytes.len(), "boxes fill the file");
    found
}

/// What GStreamer's demuxer and decoders make of the file: how many pictures, and seconds of sound.
pub fn played(file: &Path, picture: bool, sound: bool) -> (usize, f64) {
    gst::init().expect("GStreamer");
    let mut described = format!("filesrc location={} ! qtdemux name=d", text(file));
    if picture {
        described += " d.video_0 ! queue ! h264parse ! avdec_h264 ! appsink name=v sync=false";
    }
    if sound {
        described += " d.audio_0 ! queue ! aacparse ! avdec_aac ! appsink name=a sync=false";
    }
    let pipeline = gst::parse::launch(&described).unwrap_or_else(|e| panic!("{described}: {e}: run scripts/setup"));
    let pipeline = pipeline.downcast::<gst::Pipeline>().expect("several elements are a pipeline");
    pipeline.set_state(gst::State::Playing).expect("it plays");
    let sink = |name: &str| pipeline.by_name(name).map(|e| e.downcast::<AppSink>().expect("an appsink"));
    let (pictures, sounds) = (sink("v"), sink("a"));
    let count = pictures.map(|sink| std::thread::spawn(move || std::iter::from_fn(|| sink.pull_sample().ok()).count()));
    let heard: u64 = sounds.map_or(0, |sink| {
        let length = |sample: gst::Sample| sample.buffer().and_then(|b| b.duration()).map_or(0, |d| d.nseconds());
        std::iter::from_fn(|| sink.pull_sample().ok()).map(length).sum()
    });
    let pictures = count.map_or(0, |count| count.join().expect("counting does not panic"));
    let error = pipeline.bus().expect("a bus").pop_filtered(&[gst::MessageType::Error]);
    assert!(error.is_none(), "{described}: {error:?}");
    pipeline.set_state(gst::State::Null).expect("it stops");
    (pictures, heard as f64 / 1e9)
}
