//! Publishers who can be told apart in a mixed picture, and the reading of it.
#![allow(dead_code, reason = "each test file uses its share")]

pub mod play;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast::media::engine::Mixing;
use holdfast::media::stills::Stills;
use holdfast::media::{LaneFeed, LaneOrder, MediaClock};
use holdfast::model::layout::Scene;
use holdfast::model::mix::{AudioParams, Rect, Size, VideoParams};
use holdfast::model::{Lane, LaneKind, LaneRun, MediaTime, TaskId};

use crate::recording::{BASE, Frame, MS, Site, WALL, packets_of};

/// A site whose media clock stands at `BASE`, where packets made by `recording` begin.
pub fn site() -> Site {
    site_with(Mixing::new(Stills::default(), None))
}

pub fn site_with(mixing: Mixing) -> Site {
    holdfast::media::init().expect("GStreamer with what a recording needs");
    let epoch = Instant::now().checked_sub(Duration::from_nanos(BASE)).expect("the machine runs for some seconds");
    Site::with(MediaClock::new(epoch, WALL), mixing)
}

/// Colours that stay apart in YUV, as (Y, U, V).
pub const COLOURS: [[u8; 3]; 6] =
    [[81, 90, 240], [145, 54, 34], [41, 240, 110], [210, 16, 146], [170, 166, 16], [106, 202, 222]];

/// Pictures of publisher `n`: a colour of its own, and in the middle its number in five bars, white for one and black
/// for nought, the smallest first. 30 a second.
pub fn badge(n: usize, size: (u32, u32), frames: u64, coder: &str) -> Vec<Frame> {
    let [y, u, v] = COLOURS[n % COLOURS.len()];
    let (width, height) = (size.0 as usize, size.1 as usize);
    let mut bytes = vec![y; width * height];
    for row in height * 3 / 8..height * 5 / 8 {
        for x in width / 4..width * 3 / 4 {
            let bar = (x - width / 4) * 5 / (width / 2);
            bytes[row * width + x] = if n >> bar & 1 == 1 { 235 } else { 16 };
        }
    }
    // the bars have no colour
    for (plane, value) in [(0, u), (1, v)] {
        let from = bytes.len();
        bytes.resize(from + width * height / 4, value);
        for row in height * 3 / 16..height * 5 / 16 {
            let at = from + row * (width / 2);
            bytes[at + width / 8..at + width * 3 / 8].fill(128);
        }
        let _ = plane;
    }
    let raw = (0..frames).map(|k| (k * 1_000 * MS / 30, bytes.clone())).collect();
    packets_of(
        &format!(
            "appsrc name=in format=time caps=video/x-raw,format=I420,width={width},height={height},framerate=30/1 ! {coder}"
        ),
        raw,
        0,
    )
}

pub const H264: &str = "x264enc tune=zerolatency speed-preset=ultrafast bitrate=600 key-int-max=30 \
    ! video/x-h264,profile=constrained-baseline ! rtph264pay pt=96 mtu=1200";

pub const SIZE: Size = Size { width: 640, height: 360 };

pub fn video(fps: u32) -> VideoParams {
    VideoParams { size: SIZE, fps, bitrate: 1_500_000, gop: 2 }
}

/// An order for a mixed lane of two-second segments on the site's clock.
pub fn order(site: &Site, kind: LaneKind, scene: Scene, video: VideoParams, audio: AudioParams) -> LaneOrder {
    let run = LaneRun { task: TaskId::from_random(&[7; 16]), lane: Lane::mixed(kind), run: 0 };
    LaneOrder {
        run,
        feed: LaneFeed::Mixed { scene: Box::new(scene), video, audio },
        dir: site.dir.path().to_owned(),
        vault: Default::default(),
        segment_length: Duration::from_secs(2),
        gap_limit: Duration::from_secs(1),
        sync_interval: Duration::from_secs(2),
        fill_black: false,
        base: MediaTime(BASE),
        from: MediaTime(0),
    }
}

pub fn wait_until(clock: &MediaClock, at: MediaTime) {
    let left = clock.instant(at).saturating_duration_since(Instant::now());
    std::thread::sleep(left);
}

/// The lane's pictures: time on the file's line, and planes.
pub struct Film {
    pub size: Size,
    pub pictures: Vec<(f64, Vec<u8>)>,
}

impl Film {
    /// Decodes a file, whole.
    pub fn read(path: &Path, size: Size) -> Film {
        let raw = path.with_extension("yuv");
        let out = Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-copyts", "-i", path.to_str().expect("plain"), "-map", "0:v"])
            .args(["-fps_mode", "passthrough", "-pix_fmt", "yuv420p", "-f", "rawvideo", raw.to_str().expect("plain")])
            .output()
            .expect("ffmpeg runs; apt install ffmpeg");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let bytes = std::fs::read(&raw).expect("written above");
        let one = (size.width * size.height * 3 / 2) as usize;
        assert!(bytes.len().is_multiple_of(one), "all pictures have the size");
        let times = crate::recording::times(path, "v");
        let pictures = times.iter().map(|t| t.0).zip(bytes.chunks_exact(one).map(<[u8]>::to_vec)).collect();
        Film { size, pictures }
    }

    /// The picture of a moment, ms on the lane's line; the file's line has the same beginning as its first picture.
    pub fn at(&self, ms: u64) -> &[u8] {
        let first = self.pictures[0].0;
        let wanted = first + ms as f64 / 1000.0;
        let found = self.pictures.iter().rev().find(|(at, _)| *at <= wanted + 1e-3);
        &found.expect("the film has begun by then").1
    }

    /// Mean of a rectangle in YUV.
    pub fn mean(&self, picture: &[u8], rect: Rect) -> [f64; 3] {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let mut means = [0.0; 3];
        for (plane, mean) in means.iter_mut().enumerate() {
            let half = if plane == 0 { 1 } else { 2 };
            let from = [0, width * height, width * height * 5 / 4][plane];
            let stride = width / half;
            let xs = rect.x as usize / half..(rect.x + rect.width) as usize / half;
            let ys = rect.y as usize / half..(rect.y + rect.height) as usize / half;
            let mut sum = 0.0;
            for y in ys.clone() {
                sum += xs.clone().map(|x| f64::from(picture[from + y * stride + x])).sum::<f64>();
            }
            *mean = sum / (xs.len() * ys.len()) as f64;
        }
        means
    }

    /// Which badge fills the rectangle: its colour at the top, its number in the middle; `None` for none.
    pub fn badge(&self, picture: &[u8], rect: Rect) -> Option<usize> {
        let top = Rect {
            x: rect.x + rect.width / 4,
            y: rect.y + rect.height / 8,
            width: rect.width / 2,
            height: rect.height / 8,
        };
        let colour = self.mean(picture, top);
        let number = (0..5)
            .filter(|bar| {
                let width = rect.width / 2 / 5;
                let x = rect.x + rect.width / 4 + bar * rect.width / 2 / 5 + width / 4;
                let bar = Rect { x, y: rect.y + rect.height * 7 / 16, width: width / 2, height: rect.height / 8 };
                self.mean(picture, bar)[0] > 125.0
            })
            .map(|bar| 1 << bar)
            .sum::<usize>();
        let expected = COLOURS[number % COLOURS.len()];
        near(colour, expected, 14.0).then_some(number)
    }
}

pub fn near(found: [f64; 3], expected: [u8; 3], by: f64) -> bool {
    found.iter().zip(expected).all(|(a, b)| (a - f64::from(b)).abs() <= by)
}
