//! ffprobe and ffmpeg as independent readers of what was recorded.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{output_of, program};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Video,
    Audio,
}

impl Stream {
    fn select(self) -> &'static str {
        match self {
            Stream::Video => "v:0",
            Stream::Audio => "a:0",
        }
    }
}

/// One compressed packet. Times in seconds as they stand in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    pub pts: f64,
    pub duration: f64,
    pub key: bool,
    pub bytes: u64,
}

/// What a file says of one of its streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pub codec: String,
    pub width: u64,
    pub height: u64,
    pub sample_rate: u64,
    pub channels: u64,
}

fn ffprobe(file: &Path, args: &[&str]) -> Value {
    let mut command = Command::new(program("ffprobe"));
    command.args(["-v", "error", "-of", "json"]).args(args).arg(file);
    serde_json::from_slice(&output_of(&mut command)).expect("ffprobe writes JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0.0)
}

/// The streams of a file, video first.
pub fn formats(file: &Path) -> Vec<(Stream, Format)> {
    let probed = ffprobe(file, &["-show_streams"]);
    let mut all: Vec<(Stream, Format)> = probed["streams"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| {
            let stream = match s["codec_type"].as_str()? {
                "video" => Stream::Video,
                "audio" => Stream::Audio,
                _ => return None,
            };
            let format = Format {
                codec: s["codec_name"].as_str()?.to_owned(),
                width: s["width"].as_u64().unwrap_or(0),
                height: s["height"].as_u64().unwrap_or(0),
                sample_rate: s["sample_rate"].as_str().and_then(|r| r.parse().ok()).unwrap_or(0),
                channels: s["channels"].as_u64().unwrap_or(0),
            };
            Some((stream, format))
        })
        .collect();
    all.sort_by_key(|(stream, _)| *stream == Stream::Audio);
    all
}

/// The packets of one stream, in file order.
pub fn packets(file: &Path, stream: Stream) -> Vec<Packet> {
    let probed = ffprobe(file, &["-select_streams", stream.select(), "-show_packets"]);
    probed["packets"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| Packet {
            pts: number(&p["pts_time"]),
            duration: number(&p["duration_time"]),
            key: p["flags"].as_str().is_some_and(|f| f.starts_with('K')),
            bytes: p["size"].as_str().and_then(|s| s.parse().ok()).unwrap_or(0),
        })
        .collect()
}

/// Presentation times of the decoded frames and, for sound, how many samples each has.
pub fn frames(file: &Path, stream: Stream) -> Vec<(f64, u64)> {
    let args = ["-select_streams", stream.select(), "-show_frames", "-show_entries", "frame=pts_time,nb_samples"];
    let probed = ffprobe(file, &args);
    let frames = probed["frames"].as_array().into_iter().flatten();
    frames.map(|f| (number(&f["pts_time"]), f["nb_samples"].as_u64().unwrap_or(0))).collect()
}

/// What a decoder complains of; empty when it does not. Takes a `.ts` or a playlist.
pub fn decode_errors(file: &Path) -> String {
    let mut command = Command::new(program("ffmpeg"));
    command.args(["-nostdin", "-v", "error", "-i"]).arg(file);
    // The null muxer counts in frames of the guessed rate otherwise, and complains of two in one tick.
    command.args(["-vsync", "passthrough", "-enc_time_base:v", "1:90000", "-f", "null", "-"]);
    let output = command.output().expect("ffmpeg runs");
    let mut complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        complaints.push_str("\nffmpeg failed");
    }
    complaints.trim().to_owned()
}

/// Mean luma (0 … 255) of every decoded frame, in order of presentation.
pub fn luma(file: &Path) -> Vec<f64> {
    let mut command = Command::new(program("ffmpeg"));
    command.args(["-nostdin", "-v", "error", "-i"]).arg(file);
    command.args(["-an", "-vsync", "passthrough", "-vf", "scale=16:16:flags=area,format=gray", "-f", "rawvideo", "-"]);
    output_of(&mut command).chunks_exact(256).map(|f| f.iter().map(|b| f64::from(*b)).sum::<f64>() / 256.0).collect()
}

/// The sound as mono samples at 48 kHz, gaps left out.
pub fn samples(file: &Path) -> Vec<f32> {
    let mut command = Command::new(program("ffmpeg"));
    command.args(["-nostdin", "-v", "error", "-i"]).arg(file);
    command.args(["-vn", "-ac", "1", "-ar", "48000", "-f", "f32le", "-"]);
    output_of(&mut command).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
