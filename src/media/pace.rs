//! Sound that keeps step: samples are made to follow the stamps of the packets that they came in.
//!
//! Owns: how many samples are written, and the small lies that keep them at the right place. Must not touch: codecs.
//! Law: the stamps are right. A hole becomes silence, an overlap is cut, and a clock that runs a little fast or slow is
//! followed by stretching a packet by a few samples, which nobody hears.

/// Samples per second, of every sound in the recorder.
pub const RATE: u64 = 48_000;
/// A difference of more than this is a hole or an overlap, not drift: 15 ms.
const STEP: i64 = 720;
/// Differences of less than this are left alone: 0.5 ms.
const DEADBAND: i64 = 24;
/// A packet is stretched by no more than one part in so many: 0.4 %, seven cents of a semitone.
const STRETCH: i64 = 240;
/// Edges of a hole fade over so many samples (2.5 ms), so that they do not click.
const FADE: usize = 120;

/// Nanoseconds to samples, rounded.
pub fn samples(ns: i64) -> i64 {
    let product = i128::from(ns) * i128::from(RATE);
    i64::try_from((product + 500_000_000).div_euclid(1_000_000_000)).expect("a recording is shorter than 292 years")
}

/// Samples to nanoseconds, rounded down.
pub fn nanos(samples: i64) -> i64 {
    let product = i128::from(samples) * 1_000_000_000;
    i64::try_from(product.div_euclid(i128::from(RATE))).expect("a recording is shorter than 292 years")
}

/// One unbroken stretch of interleaved sound.
#[derive(Debug)]
pub struct Pace {
    channels: usize,
    /// Where sample 0 is, ns.
    origin: i64,
    written: i64,
    last: Vec<i16>,
    /// The last samples were silence: what comes next fades in.
    quiet: bool,
    pub filled: u64,
    pub cut: u64,
}

impl Pace {
    pub fn new(channels: usize, origin: i64) -> Pace {
        Pace { channels, origin, written: 0, last: vec![0; channels], quiet: true, filled: 0, cut: 0 }
    }

    /// Where the next sample will be, ns.
    pub fn end(&self) -> i64 {
        self.origin + nanos(self.written)
    }

    /// Silence up to `at` (ns), if sound has not come so far.
    pub fn silence_to(&mut self, at: i64, out: &mut Vec<i16>) {
        let missing = samples(at - self.origin) - self.written;
        let Ok(missing) = usize::try_from(missing) else {
            return;
        };
        for n in 0..missing.min(FADE) {
            let left = (FADE - n) as i32;
            out.extend(
                self.last.iter().map(|s| if self.quiet { 0 } else { (i32::from(*s) * left / FADE as i32) as i16 }),
            );
        }
        out.resize(out.len() + missing.saturating_sub(FADE) * self.channels, 0);
        if missing > 0 {
            self.last.fill(0);
            self.quiet = true;
        }
        self.written += missing as i64;
        self.filled += missing as u64;
    }

    /// Sound whose first sample belongs at `at` (ns).
    pub fn sound(&mut self, at: i64, pcm: &[i16], out: &mut Vec<i16>) {
        let mut pcm = pcm;
        let mut length = (pcm.len() / self.channels) as i64;
        let mut late = samples(at - self.origin) - self.written;
        if late > STEP {
            self.silence_to(at, out);
            late = 0;
        } else if late < -STEP {
            let cut = (-late).min(length);
            pcm = &pcm[cut as usize * self.channels..];
            length -= cut;
            self.cut += cut as u64;
            late = 0;
            self.quiet = true;
        }
        if length == 0 {
            return;
        }
        let most = length / STRETCH;
        let change = if late.abs() < DEADBAND { 0 } else { (late / DEADBAND).clamp(-most, most) };
        let from = out.len();
        if change == 0 {
            out.extend_from_slice(&pcm[..length as usize * self.channels]);
        } else {
            self.stretch(pcm, length, length + change, out);
        }
        if std::mem::take(&mut self.quiet) {
            for (n, frame) in out[from..].chunks_mut(self.channels).take(FADE).enumerate() {
                for sample in frame {
                    *sample = (i32::from(*sample) * n as i32 / FADE as i32) as i16;
                }
            }
        }
        let end = out.len();
        self.last.copy_from_slice(&out[end - self.channels..]);
        self.written += length + change;
    }

    /// `from` frames become `to`, by straight lines between them; the first line begins at the last sample written.
    fn stretch(&self, pcm: &[i16], from: i64, to: i64, out: &mut Vec<i16>) {
        for n in 1..=to {
            let position = n * from;
            let (index, part) = ((position / to) as usize, (position % to) as i32);
            let to = to as i32;
            for channel in 0..self.channels {
                let sample = |frame: usize| match frame {
                    0 => i32::from(self.last[channel]),
                    _ => i32::from(pcm[(frame - 1) * self.channels + channel]),
                };
                let (a, b) = (sample(index), if part == 0 { 0 } else { sample(index + 1) });
                let value = if part == 0 { a } else { a + (b - a) * part / to };
                out.push(value as i16);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(from: i64, count: i64) -> Vec<i16> {
        (from..from + count).map(|n| ((n as f64 * 0.0576).sin() * 12_000.0) as i16).collect()
    }

    #[test]
    fn a_clock_that_drifts_is_followed_without_a_click() {
        for ppm in [-300.0, -100.0, 100.0, 300.0] {
            let mut pace = Pace::new(1, 0);
            let mut out = Vec::new();
            for packet in 0..30_000_i64 {
                let at = (packet as f64 * 20e6 * (1.0 + ppm / 1e6)) as i64;
                pace.sound(at, &sine(packet * 960, 960), &mut out);
                let late = at + 20_000_000 - pace.end();
                assert!(late.abs() < 2_000_000, "{ppm} ppm, packet {packet}: {late} ns out of step");
            }
            assert_eq!((pace.filled, pace.cut), (0, 0));
            // the sine's own steepest step is 12000 * 0.0576 = 691
            let steepest = out.windows(2).skip(FADE).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs()).max();
            assert!(steepest < Some(760), "{ppm} ppm: {steepest:?}");
        }
    }

    #[test]
    fn a_hole_is_silence_of_its_length_and_does_not_click() {
        let mut pace = Pace::new(2, 1_000);
        let mut out = Vec::new();
        pace.sound(1_000, &[20_000; 1920], &mut out);
        pace.sound(1_000 + 400_000_000, &[20_000; 1920], &mut out);
        assert_eq!(out.len() as i64, 2 * (samples(400_000_000) + 960));
        assert_eq!(out[2 * 5_000], 0);
        let jump = out.chunks(2).map(|f| i32::from(f[0])).collect::<Vec<_>>();
        assert!(jump.windows(2).all(|w| (w[1] - w[0]).abs() < 400));
        assert_eq!(pace.filled, 19_200 - 960);
    }

    #[test]
    fn an_overlap_is_cut() {
        let mut pace = Pace::new(1, 0);
        let mut out = Vec::new();
        pace.sound(0, &[1; 4800], &mut out);
        pace.sound(50_000_000, &[2; 960], &mut out);
        assert_eq!(out.len(), 4800, "all of it was there before");
        pace.sound(84_000_000, &[2; 960], &mut out);
        assert_eq!(out.len(), 4800 + 192);
        assert_eq!(pace.cut, 960 + 768);
    }

    #[test]
    fn a_small_offset_is_worked_off() {
        let mut pace = Pace::new(1, 0);
        let mut out = Vec::new();
        pace.sound(0, &[0; 960], &mut out);
        for n in 1..200 {
            pace.sound(n * 20_000_000 + 10_000_000, &[0; 960], &mut out);
        }
        let late = 200 * 20_000_000 + 10_000_000 - pace.end();
        assert!(late.abs() <= 500_000, "{late}");
    }
}
