//! What this box can mix: its encoders as they were measured, and whether one more mixed recording fits.
//!
//! Owns: the figures of a probe, the load of a mixed recording, admission. Must not touch: elements, files: the probe
//! (`media::probe`) brings the figures.
//! Law: pure, in whole numbers. More pixels are never less load, and what was admitted together stays admitted when one
//! of it goes. An encoder that was not measured is not relied on.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::encoder::Coding;
use super::mix::{MixSpec, Size, VideoParams};

/// What the probe codes: every figure in frames means frames of this.
pub const PROBED: Coding = Coding { size: Size { width: 1280, height: 720 }, fps: 30, bitrate: 2_000_000, gop: 10 };

/// What a publisher is taken to send when a mixed recording is asked for: the room is not there yet.
pub const EXPECTED: Coding = Coding { size: Size { width: 640, height: 360 }, fps: 30, bitrate: 800_000, gop: 10 };

/// Of a hundred parts of the box, so many may be planned for mixing; the rest is for what comes unasked.
const MOST_PERCENT: u64 = 80;

/// Reception, sound, container, disk and upload of one publisher's part, beside decoding its pictures. Measured on
/// x86_64: 17 to 26 ms of a core a second for a publisher of 720p that is recorded as it comes (README), 16 for
/// decoding 640x360@30.
const REST_PERCENT_OF_DECODING: u64 = 100;

/// How fast an encoder is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speed {
    /// Pixels that come out coded in a second, on a box that does nothing else.
    pub pixels_per_second: u64,
    /// Pixels for each second of a core's time, everything that is done on the processor included.
    pub pixels_per_core_second: u64,
    /// How like what came back was to what went in: PSNR of the luma.
    pub luma_db: u32,
}

impl Speed {
    /// Frames of 1280x720 a second.
    pub fn fps(&self) -> u64 {
        self.pixels_per_second / pixels(PROBED.size)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tried {
    Works(Speed),
    /// and why not
    Fails(String),
}

/// An encoder that is there, and what came of trying it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub factory: String,
    pub hardware: bool,
    pub tried: Tried,
}

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Board {
    pub cores: u32,
    /// In the order of the table.
    pub encoders: Vec<Measured>,
    /// Pixels of H.264 that one core decodes in a second; 0: no decoder works.
    pub decode: u64,
    /// Pixels that one core scales and places on a canvas in a second; 0: it could not be measured.
    pub compose: u64,
}

/// What the figures of a board depend on. Another makeup needs another probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Makeup {
    /// Of the probe itself: raised when its figures change their meaning.
    pub version: u32,
    pub gstreamer: String,
    pub cores: u32,
    /// Encoders of the table that are there with all that they need, and decoders.
    pub factories: BTreeSet<String>,
}

/// A probe's result as it is kept between starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptBoard {
    pub makeup: Makeup,
    pub board: Board,
}

/// Thousandths of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Milli(pub u64);

impl std::fmt::Display for Milli {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // upwards: what does not fit must not look as if it did
        let hundredths = self.0.div_ceil(10);
        write!(f, "{}.{:02}", hundredths / 100, hundredths % 100)
    }
}

/// What mixed recordings take of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Of the processor: decoding, composing, what there is of encoding, and the rest.
    pub cores: Milli,
    /// Of the encoder's own time, where it is a device; 1000 is all of it.
    pub device: Milli,
}

impl Load {
    fn with(self, other: Load) -> Load {
        Load {
            cores: Milli(self.cores.0.saturating_add(other.cores.0)),
            device: Milli(self.device.0.saturating_add(other.device.0)),
        }
    }
}

fn taken_by(taken: Milli, running: usize) -> String {
    match running {
        0 => "nothing else is mixed".to_owned(),
        1 => format!("{taken} are taken by 1 mixed recording"),
        _ => format!("{taken} are taken by {running} mixed recordings"),
    }
}

/// Why a mixed recording is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Overload {
    #[error("no encoder of this box works")]
    NoEncoder,
    #[error("no H.264 decoder of this box works")]
    NoDecoder,
    /// No matter what else runs.
    #[error("more pixels than {encoder} keeps up with: {most} frames of that size a second are the most")]
    Pace { encoder: String, most: u64 },
    #[error("needs {needs} of the {most} cores that mixing may use; {}", taken_by(*.taken, *.running))]
    Cores { needs: Milli, most: Milli, taken: Milli, running: usize },
    #[error("needs {needs} of {encoder}, of which mixing may use {most}; {}", taken_by(*.taken, *.running))]
    Device { encoder: String, needs: Milli, most: Milli, taken: Milli, running: usize },
}

fn pixels(size: Size) -> u64 {
    u64::from(size.width) * u64::from(size.height)
}

/// Thousandths of a second that `amount` takes at `rate` a second, upwards.
fn share(amount: u64, rate: u64) -> u64 {
    amount.saturating_mul(1000).div_ceil(rate.max(1))
}

impl VideoParams {
    pub fn coding(&self) -> Coding {
        Coding { size: self.size, fps: self.fps, bitrate: self.bitrate, gop: self.gop }
    }
}

impl Board {
    /// Factories of the encoders that work, best first.
    pub fn working(&self) -> Vec<String> {
        let works = |e: &&Measured| matches!(e.tried, Tried::Works(_));
        self.encoders.iter().filter(works).map(|e| e.factory.clone()).collect()
    }

    /// An encoder that worked when it was tried does not any more.
    pub fn lose(&mut self, factory: &str, why: &str) {
        for encoder in self.encoders.iter_mut().filter(|encoder| encoder.factory == factory) {
            encoder.tried = Tried::Fails(why.to_owned());
        }
    }

    /// The encoder that mixed recordings begin with.
    fn best(&self) -> Result<(&Measured, &Speed), Overload> {
        let found = self.encoders.iter().find_map(|encoder| match &encoder.tried {
            Tried::Works(speed) => Some((encoder, speed)),
            Tried::Fails(_) => None,
        });
        found.ok_or(Overload::NoEncoder)
    }

    /// Cores that mixing may use.
    pub fn most_cores(&self) -> Milli {
        Milli(u64::from(self.cores) * 10 * MOST_PERCENT)
    }

    /// What a mixed recording takes while so many publishers send what is expected of them.
    pub fn load(&self, mix: &MixSpec, publishers: u32) -> Result<Load, Overload> {
        let (encoder, speed) = self.best()?;
        if self.decode == 0 || self.compose == 0 {
            return Err(Overload::NoDecoder);
        }
        let canvas = mix.video.coding().pixels_per_second();
        let decode = share(u64::from(publishers) * EXPECTED.pixels_per_second(), self.decode);
        let cores = decode
            + (decode * REST_PERCENT_OF_DECODING).div_ceil(100)
            + share(canvas, self.compose)
            + share(canvas, speed.pixels_per_core_second);
        let device = if encoder.hardware { share(canvas, speed.pixels_per_second) } else { 0 };
        Ok(Load { cores: Milli(cores), device: Milli(device) })
    }

    /// Whether one more fits beside what runs.
    pub fn admits(&self, running: &[&MixSpec], new: &MixSpec, publishers: u32) -> Result<(), Overload> {
        let needs = self.load(new, publishers)?;
        let (encoder, speed) = self.best()?;
        let coding = new.video.coding();
        let frame = pixels(coding.size).max(1);
        let reached = if encoder.hardware {
            speed.pixels_per_second
        } else {
            speed.pixels_per_core_second * u64::from(coding.threads().min(self.cores.max(1)))
        };
        let most = reached * MOST_PERCENT / 100 / frame;
        if most < u64::from(coding.fps) {
            return Err(Overload::Pace { encoder: encoder.factory.clone(), most });
        }
        let mut taken = Load::default();
        for mix in running {
            taken = taken.with(self.load(mix, publishers)?);
        }
        let (all, running) = (taken.with(needs), running.len());
        let most = self.most_cores();
        if all.cores > most {
            return Err(Overload::Cores { needs: needs.cores, most, taken: taken.cores, running });
        }
        let most = Milli(10 * MOST_PERCENT);
        if all.device > most {
            let (encoder, needs, taken) = (encoder.factory.clone(), needs.device, taken.device);
            return Err(Overload::Device { encoder, needs, most, taken, running });
        }
        Ok(())
    }

    /// How many of the same kind it takes, when nothing else is mixed.
    pub fn at_once(&self, size: Size, fps: u32, publishers: u32) -> u64 {
        let mix = MixSpec { video: VideoParams { size, fps, ..VideoParams::default() }, ..MixSpec::default() };
        let Ok(one) = self.load(&mix, publishers) else { return 0 };
        if self.admits(&[], &mix, publishers).is_err() {
            return 0;
        }
        let by_device = (10 * MOST_PERCENT).checked_div(one.device.0).unwrap_or(u64::MAX);
        by_device.min(self.most_cores().0 / one.cores.0.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn measured(factory: &str, hardware: bool, fps: u64, fps_per_core: u64) -> Measured {
        let frame = pixels(PROBED.size);
        let speed = Speed { pixels_per_second: fps * frame, pixels_per_core_second: fps_per_core * frame, luma_db: 38 };
        Measured { factory: factory.into(), hardware, tried: Tried::Works(speed) }
    }

    fn broken(factory: &str) -> Measured {
        Measured { factory: factory.into(), hardware: true, tried: Tried::Fails("green frames".into()) }
    }

    /// Two cores; 100 fps of 720p, 400 publishers' frames a second decoded by a core.
    fn small(encoders: Vec<Measured>) -> Board {
        Board { cores: 2, encoders, decode: 400 * 640 * 360, compose: 400 * 1280 * 720 }
    }

    fn mix(width: u32, height: u32, fps: u32) -> MixSpec {
        let video = VideoParams { size: Size { width, height }, fps, ..VideoParams::default() };
        MixSpec { video, ..MixSpec::default() }
    }

    #[test]
    fn the_first_that_works_is_counted_on() {
        let board = small(vec![broken("v4l2h264enc"), measured("x264enc", false, 150, 100)]);
        assert_eq!(board.working(), ["x264enc"]);
        // 4 × 30/400 s of decoding, as much for the rest, 15/400 of composing, 15/100 of encoding
        let load = board.load(&mix(1280, 720, 15), 4).expect("it works");
        assert_eq!(load, Load { cores: Milli(300 + 300 + 38 + 150), device: Milli(0) });
        assert_eq!(small(vec![broken("a")]).load(&mix(2, 2, 1), 1), Err(Overload::NoEncoder));
        let deaf = Board { decode: 0, ..board };
        assert_eq!(deaf.admits(&[], &mix(2, 2, 1), 1), Err(Overload::NoDecoder));
        assert_eq!(deaf.at_once(PROBED.size, 15, 4), 0);
    }

    #[test]
    fn a_refusal_has_the_numbers() {
        let board = small(vec![measured("x264enc", false, 150, 100)]);
        let hd = mix(1280, 720, 15);
        assert_eq!(board.admits(&[&hd], &hd, 4), Ok(()));
        assert_eq!(board.at_once(PROBED.size, 15, 4), 2);
        let told = board.admits(&[&hd, &hd], &mix(640, 360, 15), 4).expect_err("two are all").to_string();
        assert_eq!(told, "needs 0.65 of the 1.60 cores that mixing may use; 1.58 are taken by 2 mixed recordings");
        let told = board.admits(&[], &mix(1920, 1080, 60), 4).expect_err("135 frames of 720p").to_string();
        assert_eq!(told, "needs 2.29 of the 1.60 cores that mixing may use; nothing else is mixed");
        // one thread of 37 frames a second has not even two of them to spare for 30
        let slow = Board { cores: 1, ..small(vec![measured("x264enc", false, 37, 37)]) };
        let told = slow.admits(&[], &mix(1280, 720, 30), 1).expect_err("too slow").to_string();
        assert_eq!(told, "more pixels than x264enc keeps up with: 29 frames of that size a second are the most");
    }

    #[test]
    fn a_device_has_its_own_pace() {
        let board = Board { cores: 8, ..small(vec![measured("v4l2h264enc", true, 60, 1000)]) };
        let hd = mix(1280, 720, 15);
        assert_eq!(board.load(&hd, 4).expect("it works").device, Milli(250));
        assert_eq!(board.at_once(PROBED.size, 15, 4), 3);
        let told = board.admits(&[&hd, &hd, &hd], &hd, 4).expect_err("a fourth is a second's whole time").to_string();
        assert_eq!(
            told,
            "needs 0.25 of v4l2h264enc, of which mixing may use 0.80; 0.75 are taken by 3 mixed recordings"
        );
    }

    #[test]
    fn a_board_is_kept_as_json() {
        let board = small(vec![broken("vah264enc"), measured("openh264enc", false, 90, 80)]);
        let text = serde_json::to_string(&board).expect("plain values");
        assert!(text.contains(r#""tried":{"fails":"green frames"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Board>(&text).expect("as it was written"), board);
    }

    fn any_board() -> impl Strategy<Value = Board> {
        let encoder =
            (any::<bool>(), 1u64..2000, 1u64..2000).prop_map(|(hardware, a, b)| measured("e", hardware, a, b));
        (1u32..32, encoder, 1u64..1 << 34, 1u64..1 << 34).prop_map(|(cores, encoder, decode, compose)| Board {
            cores,
            encoders: vec![encoder],
            decode,
            compose,
        })
    }

    fn any_mix() -> impl Strategy<Value = MixSpec> {
        (1u32..=960, 1u32..=540, 1u32..=60).prop_map(|(w, h, fps)| mix(2 * w, 2 * h, fps))
    }

    proptest! {
        #[test]
        fn more_is_never_less(board in any_board(), a in any_mix(), more in (0u32..500, 0u32..500, 0u32..30), n in 0u32..25) {
            let (w, h) = (a.video.size.width + 2 * more.0, a.video.size.height + 2 * more.1);
            let b = mix(w, h, a.video.fps + more.2);
            let (small, large) = (board.load(&a, n).unwrap(), board.load(&b, n).unwrap());
            prop_assert!(small.cores <= large.cores && small.device <= large.device);
            prop_assert!(small.cores <= board.load(&a, n + 1).unwrap().cores);
            prop_assert!(board.at_once(b.video.size, b.video.fps, n) <= board.at_once(a.video.size, a.video.fps, n)
                || b.video.coding().threads() > a.video.coding().threads());
        }

        /// One after the other as they were admitted; then any one of them goes, and all that stay are admitted again.
        #[test]
        fn what_was_admitted_stays_so(board in any_board(), asked in prop::collection::vec(any_mix(), 1..12), gone in any::<prop::sample::Index>()) {
            let mut running: Vec<&MixSpec> = Vec::new();
            for mix in &asked {
                if board.admits(&running, mix, 4).is_ok() {
                    running.push(mix);
                }
            }
            if !running.is_empty() {
                running.remove(gone.index(running.len()));
            }
            for i in 0..running.len() {
                let others: Vec<&MixSpec> = running.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, m)| *m).collect();
                prop_assert_eq!(board.admits(&others, running[i], 4), Ok(()));
            }
        }

        #[test]
        fn at_once_is_what_is_admitted(board in any_board(), mix in any_mix()) {
            let most = board.at_once(mix.video.size, mix.video.fps, 4);
            prop_assume!(most < 50);
            let running = vec![&mix; most as usize];
            prop_assert!(board.admits(&running, &mix, 4).is_err());
            prop_assert!(most == 0 || board.admits(&running[1..], &mix, 4).is_ok());
        }
    }
}
