//! Flash and beep: how far sound and picture of a recording are apart, measured from the files.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::probe::{self, Stream};
use super::recorded::Lane;
use super::{output_of, program};

/// One beep and the flash nearest to it. Seconds on the files' own clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beat {
    pub flash: f64,
    pub beep: f64,
}

impl Beat {
    /// Positive: the sound comes late.
    pub fn offset(&self) -> f64 {
        self.beep - self.flash
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Beats(pub Vec<Beat>);

impl Beats {
    /// From one user's separate sound and picture, by the time stamps in the files.
    pub fn of(video: &Lane, audio: &Lane) -> Beats {
        pair(&flashes(&video.joined()), &beeps(&audio.joined()))
    }

    /// The longest run of flashes a second apart, each with its beep. A browser's fake camera stalls when the machine
    /// is busy and goes on late from then: what lies between two stalls is what the box can be judged by.
    pub fn steadiest(video: &Lane, audio: &Lane) -> Beats {
        let (flashes, beeps) = (flashes(&video.joined()), beeps(&audio.joined()));
        let runs = flashes.chunk_by(|a, b| (b - a - 1.0).abs() < 0.050);
        let run = runs.max_by_key(|run| run.len()).expect("it flashes");
        let nearest = |to: f64| beeps.iter().copied().min_by(|a, b| (a - to).abs().total_cmp(&(b - to).abs()));
        // Camera and microphone start apart; by how much is theirs. The others must keep the first one's offset.
        let apart = nearest(run[0]).expect("it beeps") - run[0];
        let beat = |flash: &f64| nearest(flash + apart).map(|beep| Beat { flash: *flash, beep });
        let beats: Vec<Beat> = run.iter().filter_map(beat).collect();
        assert!(beats.len() >= 3, "the camera stalled all the time: flashes {flashes:?}, beeps {beeps:?}");
        Beats(beats)
    }

    /// The same, but each lane's clock is set by its start (`START-REC-TIME`), as one who has only names does it.
    pub fn by_start_time(video: &Lane, audio: &Lane) -> Beats {
        let (video_file, audio_file) = (video.joined(), audio.joined());
        let shift = |lane: &Lane, file: &Path, stream| {
            let first = probe::packets(file, stream).first().map_or(0.0, |p| p.pts);
            lane.playlist.start_ms as f64 / 1000.0 - first
        };
        let video_shift = shift(video, &video_file, Stream::Video);
        let audio_shift = shift(audio, &audio_file, Stream::Audio);
        let moved = |times: Vec<f64>, by: f64| times.into_iter().map(|t| t + by).collect::<Vec<_>>();
        pair(&moved(flashes(&video_file), video_shift), &moved(beeps(&audio_file), audio_shift))
    }

    /// From one file that has both.
    pub fn in_one(lane: &Lane) -> Beats {
        Beats::in_file(&lane.joined())
    }

    /// The same of any file.
    pub fn in_file(file: &Path) -> Beats {
        pair(&flashes(file), &beeps(file))
    }

    pub fn median(&self) -> f64 {
        let mut all: Vec<f64> = self.0.iter().map(Beat::offset).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    }

    pub fn largest(&self) -> f64 {
        self.0.iter().map(|b| b.offset().abs()).fold(0.0, f64::max)
    }

    /// Between the smallest and the largest offset: drift and jitter, whatever the source's own offset is.
    pub fn spread(&self) -> f64 {
        let all = || self.0.iter().map(Beat::offset);
        all().fold(f64::MIN, f64::max) - all().fold(f64::MAX, f64::min)
    }
}

/// When the picture turns from dark to bright.
pub fn flashes(file: &Path) -> Vec<f64> {
    let times: Vec<f64> = probe::frames(file, Stream::Video).iter().map(|(pts, _)| *pts).collect();
    let luma = probe::luma(file);
    assert_eq!(times.len(), luma.len(), "{}: as many pictures as times", file.display());
    let (low, high) = luma.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    assert!(high - low > 40.0, "{}: the picture does not flash ({low:.0} … {high:.0})", file.display());
    let bright = (low + high) / 2.0;
    let mut found = Vec::new();
    for i in 1..luma.len() {
        if luma[i] > bright && luma[i - 1] <= bright {
            found.push(times[i]);
        }
    }
    found
}

/// When the sound sets in after at least 0.2 s of quiet.
pub fn beeps(file: &Path) -> Vec<f64> {
    const RATE: usize = 48_000;
    const WINDOW: usize = RATE / 1000;
    let samples = probe::samples(file);
    let frames = probe::frames(file, Stream::Audio);
    let loud = samples.iter().fold(0.0f32, |m, s| m.max(s.abs())) * 0.25;
    assert!(loud > 0.005, "{}: there is no sound", file.display());
    // Where each decoded frame begins among the samples, so that gaps do not shift what comes after them.
    let mut begins = Vec::with_capacity(frames.len());
    let mut at = 0usize;
    for (pts, count) in &frames {
        begins.push((at, *pts));
        at += usize::try_from(*count).expect("a frame is small");
    }
    let time_of = |sample: usize| {
        let (from, pts) = begins[begins.partition_point(|(from, _)| *from <= sample).saturating_sub(1)];
        pts + (sample - from) as f64 / RATE as f64
    };
    let mut found = Vec::new();
    let mut quiet = 200;
    for (i, window) in samples.chunks(WINDOW).enumerate() {
        if window.iter().any(|s| s.abs() > loud) {
            if quiet >= 200 {
                let inside = window.iter().position(|s| s.abs() > loud).unwrap_or(0);
                found.push(time_of(i * WINDOW + inside));
            }
            quiet = 0;
        } else {
            quiet += 1;
        }
    }
    found
}

/// Each beep with the flash nearest to it; beeps at the edges, where the other lane has nothing, are left out.
fn pair(flashes: &[f64], beeps: &[f64]) -> Beats {
    let mut beats = Vec::new();
    for beep in beeps {
        let nearest = flashes.iter().copied().min_by(|a, b| (a - beep).abs().total_cmp(&(b - beep).abs()));
        if let Some(flash) = nearest.filter(|flash| (flash - beep).abs() < 0.45) {
            beats.push(Beat { flash, beep: *beep });
        }
    }
    assert!(beats.len() >= 3, "too few beats: flashes {flashes:?}, beeps {beeps:?}");
    Beats(beats)
}

/// Camera and microphone files for a browser: ten seconds of flash and beep at the same moments.
pub struct Film {
    pub y4m: PathBuf,
    pub wav: PathBuf,
    dir: tempfile::TempDir,
}

impl Film {
    pub fn make() -> Film {
        let dir = tempfile::TempDir::new().expect("a temporary folder can be made");
        let (y4m, wav) = (dir.path().join("flash.y4m"), dir.path().join("beep.wav"));
        // Something moves all the time: encoders send next to nothing of a still picture.
        let picture = "testsrc2=s=320x240:r=30:d=10,lutyuv=y='val*0.3',\
            geq=lum='if(lt(mod(T,1),0.1),235,lum(X,Y))':cb='if(lt(mod(T,1),0.1),128,cb(X,Y))':cr='if(lt(mod(T,1),0.1),128,cr(X,Y))'";
        let mut video = Command::new(program("ffmpeg"));
        video.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", picture, "-pix_fmt", "yuv420p"]).arg(&y4m);
        output_of(&mut video);
        let sound = "aevalsrc='if(lt(mod(t,1),0.1),0.6*sin(2*PI*1000*t),0)':s=48000:d=10";
        let mut audio = Command::new(program("ffmpeg"));
        audio.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", sound, "-c:a", "pcm_s16le"]).arg(&wav);
        output_of(&mut audio);
        Film { y4m, wav, dir }
    }
}
