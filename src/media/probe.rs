//! Tries the board's encoders for real: a second of pictures is coded, decoded again, compared and timed.
//!
//! Owns: the trial of one encoder, the measuring of decoding and composing. Must not touch: what the figures are used
//! for (`model::board`), where they are kept.
//! Law: a probe never brings the process down by itself: an error, a panic and a driver that never answers are rows of
//! the result. Who does not answer in time is left behind in a thread of its own, and counted.

use std::collections::BTreeSet;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use gstreamer as gst;
use nix::time::{ClockId, clock_gettime};
use tracing::{info, warn};

use super::MediaError;
use super::chain::{Chain, Out};
use crate::model::board::{Board, EXPECTED, Makeup, Measured, PROBED, Speed, Tried};
use crate::model::encoder::{Coding, H264_DECODERS, H264Decoder, PictureEncoder};
use crate::model::mix::Size;

/// Raised when figures change their meaning, so that kept ones are measured anew.
const VERSION: u32 = 1;

/// A second of pictures.
const FRAMES: u32 = PROBED.fps;

/// What came back is this like what went in, or it is something else: a picture coded badly has 30 dB, a green one 10.
const LEAST_DB: f64 = 24.0;

/// An encoder that has not coded a second of pictures, and given them back, after so long has hung or is of no use.
pub const TRIAL_LIMIT: Duration = Duration::from_secs(10);

/// Coding is timed once more until so much time was spent on it.
const LEAST_TIMED: Duration = Duration::from_millis(400);

/// A tile of a canvas of nine or so: what is measured for composing.
const TILE: Size = Size { width: 480, height: 270 };

/// CPU time of the process: nothing else of weight runs in it while it probes.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

struct Stopwatch {
    began: Instant,
    cpu: Duration,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch { began: Instant::now(), cpu: cpu_time() }
    }

    /// Wall time and CPU time since.
    fn read(&self) -> (Duration, Duration) {
        (self.began.elapsed(), cpu_time().saturating_sub(self.cpu))
    }
}

fn rate(pixels: u64, time: Duration) -> u64 {
    // a clock that did not move says nothing; a microsecond is less than any of this takes
    let rate = u128::from(pixels) * 1_000_000 / time.as_micros().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Moving pictures, made by copying rows: 16 panes whose pattern drifts, each in its own direction, as a mixed picture
/// is made of pictures that move each for itself.
struct Film {
    size: Size,
    luma: Vec<u8>,
}

impl Film {
    /// Panes drift by up to so many pixels a frame.
    const DRIFT: usize = 4;

    fn stride(size: Size) -> usize {
        size.width as usize + 2 * Film::DRIFT * FRAMES as usize
    }

    fn new(size: Size) -> Film {
        let (width, height) = (Film::stride(size), size.height as usize + 2 * Film::DRIFT * FRAMES as usize);
        let wave = |n: usize, length: f64| -> Vec<f64> { (0..n).map(|i| (i as f64 / length).sin()).collect() };
        let (across, down) = (wave(width, 19.0), wave(height, 23.0));
        let mut luma = Vec::with_capacity(width * height);
        for (y, down) in down.iter().enumerate() {
            for (x, across) in across.iter().enumerate() {
                // grain, the same each time: 4 × 4 blocks of 16 shades
                let (column, row) = ((x / 4) as u64, (y / 4) as u64);
                let grain = (((column * 2_654_435_761) ^ (row * 40_503)) >> 7) & 15;
                luma.push((120.0 + 70.0 * across * down) as u8 + grain as u8);
            }
        }
        Film { size, luma }
    }

    /// One plane, `scale` 1 for luma and 2 for chroma, of picture `n`.
    fn plane(&self, n: usize, scale: usize, into: &mut Vec<u8>) {
        let (width, height) = (self.size.width as usize / scale, self.size.height as usize / scale);
        let (stride, n) = (Film::stride(self.size), n % FRAMES as usize);
        let middle = Film::DRIFT * FRAMES as usize;
        for y in 0..height {
            let row = y * 4 / height;
            for column in 0..4 {
                let (begin, end) = (column * width / 4, (column + 1) * width / 4);
                let pane = row * 4 + column;
                let drift = |step: usize| middle + n * (pane * step % (2 * Film::DRIFT)) - n * Film::DRIFT;
                let at = (y + drift(3) / scale) * stride + drift(5) / scale;
                into.extend_from_slice(&self.luma[at + begin..at + end]);
            }
        }
    }

    fn picture(&self, n: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size.width as usize * self.size.height as usize * 3 / 2);
        self.plane(n, 1, &mut bytes);
        self.plane(n, 2, &mut bytes);
        self.plane(n + 7, 2, &mut bytes);
        bytes
    }
}

fn raw_caps(size: Size, fps: u32) -> gst::Caps {
    gst::Caps::builder("video/x-raw")
        .field("format", "I420")
        .field("width", size.width as i32)
        .field("height", size.height as i32)
        .field("framerate", gst::Fraction::new(fps as i32, 1))
        .field("interlace-mode", "progressive")
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        .build()
}

fn stamped(bytes: Vec<u8>, n: u32, fps: u32) -> gst::Buffer {
    let at = |n: u32| gst::ClockTime::from_nseconds(u64::from(n) * 1_000_000_000 / u64::from(fps));
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    let new = buffer.get_mut().expect("nobody else has it yet");
    new.set_pts(at(n));
    new.set_duration(at(n + 1) - at(n));
    buffer
}

/// H.264 as it came out of an encoder.
struct Coded {
    caps: gst::Caps,
    units: Vec<gst::Buffer>,
}

/// `frames` pictures through an encoder; how long it took by the wall and by the processor.
fn encode(
    encoder: &PictureEncoder,
    film: &Film,
    coding: &Coding,
    frames: u32,
    limit: Duration,
) -> Result<(Coded, Duration, Duration), MediaError> {
    let described = format!(
        "{} ! h264parse config-interval=-1 ! capsfilter caps=video/x-h264,stream-format=byte-stream,alignment=au",
        (encoder.chain)(coding)
    );
    let chain = Chain::new(&described, &raw_caps(coding.size, coding.fps))?;
    // the first picture waits for what is made once: threads, tables, a device that wakes
    chain.push(stamped(film.picture(0), 0, coding.fps))?;
    let watch = Stopwatch::start();
    for n in 1..frames {
        chain.push(stamped(film.picture(n as usize), n, coding.fps))?;
    }
    let out = chain.finish_within(limit)?;
    let (wall, cpu) = watch.read();
    let (mut caps, mut units) = (None, Vec::new());
    for out in out {
        match out {
            Out::Caps(new) => caps = Some(new),
            Out::Buffer(unit) => units.push(unit),
        }
    }
    let caps = caps.ok_or_else(|| MediaError::Pipeline("no picture came out".into()))?;
    Ok((Coded { caps, units }, wall, cpu))
}

/// The decoder that this board has; the first of the table.
pub(super) fn decoder() -> Option<&'static H264Decoder> {
    H264_DECODERS.iter().find(|decoder| gst::ElementFactory::find(decoder.factory).is_some())
}

/// The pictures that were coded, and the CPU time that decoding took.
fn decode(coded: &Coded, decoder: &H264Decoder, limit: Duration) -> Result<(Vec<gst::Buffer>, Duration), MediaError> {
    let chain = Chain::new(decoder.whole, &coded.caps)?;
    let watch = Stopwatch::start();
    for unit in &coded.units {
        chain.push(unit.clone())?;
    }
    let out = chain.finish_within(limit)?;
    let (_, cpu) = watch.read();
    let pictures = out.into_iter().filter_map(|out| match out {
        Out::Buffer(picture) => Some(picture),
        Out::Caps(_) => None,
    });
    Ok((pictures.collect(), cpu))
}

/// PSNR of the luma, dB, of every fourth pixel of every fourth row.
fn likeness(film: &Film, pictures: &[gst::Buffer]) -> Result<f64, MediaError> {
    let (width, height) = (film.size.width as usize, film.size.height as usize);
    let (mut sum, mut count) = (0u64, 0u64);
    let mut luma = Vec::new();
    for (n, picture) in pictures.iter().enumerate() {
        let map = picture.map_readable().map_err(|e| MediaError::Pipeline(e.to_string()))?;
        luma.clear();
        film.plane(n, 1, &mut luma);
        if map.len() < luma.len() {
            return Err(MediaError::Pipeline(format!("a picture of {} bytes came back", map.len())));
        }
        for y in (0..height).step_by(4) {
            let row = y * width..(y + 1) * width;
            for (a, b) in luma[row.clone()].iter().step_by(4).zip(map[row].iter().step_by(4)) {
                sum += u64::from(a.abs_diff(*b)).pow(2);
                count += 1;
            }
        }
    }
    let mean = sum as f64 / count.max(1) as f64;
    Ok(10.0 * (255.0 * 255.0 / mean.max(0.01)).log10())
}

/// A second of pictures through one encoder and back.
fn trial(encoder: &PictureEncoder, limit: Duration) -> Result<Speed, String> {
    let missing = encoder.needs.iter().find(|factory| gst::ElementFactory::find(factory).is_none());
    if let Some(factory) = missing {
        return Err(format!("element {factory}, which it needs, is missing"));
    }
    let decoder = decoder().ok_or("no H.264 decoder to check it with: install gstreamer1.0-libav")?;
    let film = Film::new(PROBED.size);
    let told = |e: MediaError| match e {
        MediaError::Pipeline(why) => why,
        other => other.to_string(),
    };
    let (coded, mut wall, mut cpu) = encode(encoder, &film, &PROBED, FRAMES, limit).map_err(told)?;
    let mut spent = wall;
    while spent < LEAST_TIMED {
        // what else the box did then cost it time; the best is nearest to what it can do
        let (_, again, again_cpu) = encode(encoder, &film, &PROBED, FRAMES, limit).map_err(told)?;
        (wall, cpu, spent) = (wall.min(again), cpu.min(again_cpu), spent + again);
    }
    let (pictures, _) = decode(&coded, decoder, limit).map_err(|e| format!("not decodable: {}", told(e)))?;
    if pictures.len() != FRAMES as usize {
        return Err(format!("{FRAMES} pictures went in, and {} came back", pictures.len()));
    }
    let db = likeness(&film, &pictures).map_err(told)?;
    if db < LEAST_DB {
        return Err(format!("what comes back is not what went in: {db:.0} dB, and {LEAST_DB:.0} are the least"));
    }
    let coded_pixels = u64::from(PROBED.size.width) * u64::from(PROBED.size.height) * u64::from(FRAMES - 1);
    Ok(Speed {
        pixels_per_second: rate(coded_pixels, wall),
        pixels_per_core_second: rate(coded_pixels, cpu),
        luma_db: db as u32,
    })
}

/// Runs `work` in a thread of its own and waits for it, not longer than `limit`.
fn guarded<T: Send + 'static>(
    name: &str,
    limit: Duration,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (tell, told) = sync_channel(1);
    let run = move || {
        // nobody listens any more when it took too long
        let _ = tell.send(work());
    };
    if let Err(e) = std::thread::Builder::new().name("probe".into()).spawn(run) {
        return Err(format!("no thread to try it in: {e}"));
    }
    told.recv_timeout(limit).unwrap_or_else(|gone| match gone {
        RecvTimeoutError::Disconnected => Err("the trial panicked".into()),
        RecvTimeoutError::Timeout => {
            metrics::counter!("holdfast_probe_threads_left_total").increment(1);
            warn!(what = name, ?limit, "no answer; its thread is left behind");
            Err(format!("no answer in {:.1} s", limit.as_secs_f64()))
        }
    })
}

/// Pixels a core decodes in a second: what publishers are expected to send, coded by an encoder that works.
fn decoding(encoder: &PictureEncoder, limit: Duration) -> Result<u64, String> {
    let decoder = decoder().ok_or("no H.264 decoder is there")?;
    let film = Film::new(EXPECTED.size);
    let frames = 2 * EXPECTED.fps;
    let (coded, _, _) = encode(encoder, &film, &EXPECTED, frames, limit).map_err(|e| e.to_string())?;
    let (pictures, cpu) = decode(&coded, decoder, limit).map_err(|e| e.to_string())?;
    let size = EXPECTED.size;
    Ok(rate(u64::from(size.width) * u64::from(size.height) * pictures.len() as u64, cpu))
}

/// Pixels of a canvas that a core fills in a second with what it scaled to their size.
fn composing(limit: Duration) -> Result<u64, String> {
    let film = Film::new(EXPECTED.size);
    let (width, height) = (TILE.width as usize, TILE.height as usize);
    let described = format!("videoscale ! capsfilter caps=video/x-raw,width={width},height={height}");
    let pictures: Vec<gst::Buffer> = (0..FRAMES).map(|n| stamped(film.picture(n as usize), n, EXPECTED.fps)).collect();
    let chain = Chain::new(&described, &raw_caps(EXPECTED.size, EXPECTED.fps)).map_err(|e| e.to_string())?;
    let stride = PROBED.size.width as usize;
    let mut canvas = vec![0u8; stride * PROBED.size.height as usize * 3 / 2];
    let watch = Stopwatch::start();
    for picture in pictures {
        chain.push(picture).map_err(|e| e.to_string())?;
        for out in chain.take() {
            let Out::Buffer(tile) = out else { continue };
            let map = tile.map_readable().map_err(|e| e.to_string())?;
            // as many rows as three planes have, of whatever plane: it is the copying that counts
            for (y, row) in map.chunks_exact(width).take(height * 3 / 2).enumerate() {
                canvas[y * stride..y * stride + width].copy_from_slice(row);
            }
        }
    }
    chain.finish_within(limit).map_err(|e| e.to_string())?;
    let (_, cpu) = watch.read();
    Ok(rate((width * height) as u64 * u64::from(FRAMES), cpu))
}

fn there(encoder: &&PictureEncoder) -> bool {
    gst::ElementFactory::find(encoder.factory).is_some()
}

fn cores() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores).unwrap_or(u32::MAX)
}

/// What the board is made of, as far as the figures depend on it. GStreamer has been started.
pub fn makeup(table: &[PictureEncoder]) -> Makeup {
    let encoders = table.iter().filter(there).flat_map(|encoder| encoder.needs.iter().chain([&encoder.factory]));
    let decoders = H264_DECODERS.iter().map(|decoder| &decoder.factory);
    let present = encoders.chain(decoders).filter(|factory| gst::ElementFactory::find(factory).is_some());
    let (major, minor, micro, _) = gst::version();
    Makeup {
        version: VERSION,
        gstreamer: format!("{major}.{minor}.{micro}"),
        cores: cores(),
        factories: present.map(|factory| (*factory).to_owned()).collect(),
    }
}

/// Tries every encoder of the table that is there, and measures the rest. Takes a second or two, and `limit` more for
/// each driver that hangs. `tries` is told the name of each encoder before it is touched, and `None` when that is over; of
/// those in `shunned` neither.
pub fn probe(
    table: &[PictureEncoder],
    limit: Duration,
    shunned: &BTreeSet<String>,
    mut tries: impl FnMut(Option<&str>),
) -> Board {
    let mut encoders = Vec::new();
    let mut works: Option<PictureEncoder> = None;
    for encoder in table.iter().filter(there).copied() {
        let tried = if shunned.contains(encoder.factory) {
            Err("the process died whenever it was tried".to_owned())
        } else {
            tries(Some(encoder.factory));
            let tried = guarded(encoder.factory, limit, move || trial(&encoder, limit));
            tries(None);
            tried
        };
        let tried = match tried {
            Ok(speed) => {
                info!(encoder = encoder.factory, fps = speed.fps(), luma_db = speed.luma_db, "encoder works");
                works.get_or_insert(encoder);
                Tried::Works(speed)
            }
            Err(why) => {
                warn!(encoder = encoder.factory, why, "encoder does not work");
                Tried::Fails(why)
            }
        };
        encoders.push(Measured { factory: encoder.factory.to_owned(), hardware: encoder.hardware, tried });
    }
    let measure = |what: &str, measured: Result<u64, String>| {
        measured.unwrap_or_else(|why| {
            warn!(what, why, "could not be measured");
            0
        })
    };
    let decode = match works {
        Some(encoder) => guarded("decoding", limit, move || decoding(&encoder, limit)),
        None => Err("no encoder works that could make something to decode".into()),
    };
    let compose = guarded("composing", limit, move || composing(limit));
    Board { cores: cores(), encoders, decode: measure("decoding", decode), compose: measure("composing", compose) }
}
