//! Everybody's sound as one: voices on one line of samples, their sum, and a limiter.
//!
//! Owns: decoded samples that wait for their moment, the fades at both ends of a voice. Must not touch: the encoder,
//! who is heard.
//! Law: sample n of the mix is sample n of every voice; a voice that begins, ends or has a hole never clicks; however
//! many talk, nothing clips.

use std::collections::VecDeque;

use super::MediaError;
use super::pace::{Pace, nanos, samples};
use super::sound::{Opus, OpusPacket};
use super::stamped::StampedPacket;
use super::tracks::Subscription;
use crate::model::MediaTime;

/// A voice fades out over so many samples (2.5 ms) before a hole; `Pace` fades in.
const FADE: i64 = 120;
/// A hole longer than this (ns) is not filled with samples of silence: the line begins anew behind it.
const LONG_HOLE: i64 = 500_000_000;

/// One track's sound.
pub(super) struct Voice {
    track: Subscription,
    base: MediaTime,
    channels: usize,
    packets: VecDeque<StampedPacket>,
    opus: Opus,
    pace: Option<Pace>,
    /// Interleaved samples that were not read yet, and the place of the first of them on the line.
    pcm: VecDeque<i16>,
    first: i64,
    /// The sample before the first was in the mix.
    heard: bool,
    fresh: Vec<i16>,
}

impl Voice {
    pub fn new(track: Subscription, base: MediaTime, channels: usize) -> Result<Voice, MediaError> {
        Ok(Voice {
            track,
            base,
            channels,
            packets: VecDeque::new(),
            opus: Opus::new(channels)?,
            pace: None,
            pcm: VecDeque::new(),
            first: 0,
            heard: false,
            fresh: Vec::new(),
        })
    }

    pub fn take(&mut self, packets: Vec<StampedPacket>) {
        self.packets.extend(packets);
    }

    /// Decodes what was captured before a moment of the lane's line, ns.
    pub fn advance(&mut self, until: i64) {
        while let Some(packet) = self.packets.pop_front() {
            let Some(opus) = OpusPacket::read(&packet, self.base) else { continue };
            if opus.at >= until {
                self.packets.push_front(packet);
                return;
            }
            if self.pace.as_ref().is_some_and(|pace| opus.at - pace.end() > LONG_HOLE) {
                self.pace = None;
            }
            if self.pace.is_none() {
                // what is not read yet ends in a hole; silence goes between
                let pace = Pace::new(self.channels, opus.at);
                let at = samples(opus.at);
                if self.pcm.is_empty() {
                    self.first = at;
                } else {
                    let end = self.first + (self.pcm.len() / self.channels) as i64;
                    fade_out(&mut self.pcm, self.channels);
                    let missing = usize::try_from(at - end).unwrap_or(0) * self.channels;
                    self.pcm.extend(std::iter::repeat_n(0, missing));
                }
                self.pace = Some(pace);
            }
            let pace = self.pace.as_mut().expect("made above");
            self.opus.packet(&opus, pace, &mut self.fresh);
            self.track.senses().heard(packet.at, &self.fresh);
            self.pcm.extend(self.fresh.drain(..));
        }
    }

    /// Adds the samples from `from` on to `sum`, which is interleaved, or lets them go by. What lies before `from` is
    /// forgotten: it came too late, and what comes behind it belongs where its stamps say.
    pub fn add_to(&mut self, from: i64, plays: bool, sum: &mut [i32]) {
        let channels = self.channels;
        let late = usize::try_from(from - self.first).unwrap_or(0).min(self.pcm.len() / channels);
        if late > 0 {
            self.pcm.drain(..late * channels);
            self.first += late as i64;
            self.heard = false;
        }
        if !plays {
            if std::mem::take(&mut self.heard) {
                let mut rest: VecDeque<i16> = self.pcm.iter().take(FADE as usize * channels).copied().collect();
                fade_out(&mut rest, channels);
                let skip = usize::try_from(self.first - from).unwrap_or(usize::MAX / 4).saturating_mul(channels);
                sum.iter_mut().skip(skip).zip(rest).for_each(|(slot, sample)| *slot += i32::from(sample));
            }
            return;
        }
        if !self.heard && !self.pcm.is_empty() {
            fade_in(&mut self.pcm, channels);
            self.heard = true;
        }
        let skip = usize::try_from(self.first - from).unwrap_or(usize::MAX / 4).saturating_mul(channels);
        if skip >= sum.len() || self.pcm.is_empty() {
            return;
        }
        let held = (self.pcm.len() / channels) as i64;
        let end = self.first + held;
        let wanted = ((sum.len() - skip) / channels).min(held as usize);
        let ends_here = end < from + (sum.len() / channels) as i64 + FADE;
        let frames = sum[skip..].chunks_exact_mut(channels).take(wanted);
        for (n, (frame, _)) in frames.zip(0..wanted).enumerate() {
            let left = end - (self.first + n as i64);
            for (channel, slot) in frame.iter_mut().enumerate() {
                let sample = i32::from(self.pcm[n * channels + channel]);
                *slot += if ends_here && left < FADE { sample * left as i32 / FADE as i32 } else { sample };
            }
        }
        self.pcm.drain(..wanted * channels);
        self.first += wanted as i64;
    }

    /// It is not to be heard any more: what is left of it, if it was heard, is a fade.
    pub fn last_words(mut self) -> Option<Voice> {
        self.pcm.truncate(FADE as usize * self.channels);
        fade_out(&mut self.pcm, self.channels);
        self.heard.then_some(self)
    }
}

/// The beginning of what waits, faded.
fn fade_in(pcm: &mut VecDeque<i16>, channels: usize) {
    for (n, sample) in pcm.iter_mut().take(FADE as usize * channels).enumerate() {
        *sample = (i32::from(*sample) * (n / channels) as i32 / FADE as i32) as i16;
    }
}

/// The end of what waits, faded.
fn fade_out(pcm: &mut VecDeque<i16>, channels: usize) {
    let frames = pcm.len() / channels;
    let fading = frames.min(FADE as usize);
    for n in 0..fading {
        let left = (fading - n) as i32 - 1;
        for channel in 0..channels {
            let sample = &mut pcm[(frames - fading + n) * channels + channel];
            *sample = (i32::from(*sample) * left / FADE as i32) as i16;
        }
    }
}

/// Samples (of each channel) over which the limiter decides: 5 ms.
const CHUNK: usize = 240;
/// What is never passed: −0.5 dB, since an encoder may overshoot a little.
const CEILING: f32 = 30_935.0;
/// The gain comes back by this much in a chunk: from half to whole in a third of a second.
const RELEASE: f32 = 0.0075;

/// Sums up to a limit: the gain goes down before a peak and comes back slowly.
///
/// It looks one chunk ahead: what [`Limiter::push`] gives is one chunk behind what it takes.
pub(super) struct Limiter {
    channels: usize,
    /// The chunk before, and the gain that it may have at most.
    held: Vec<i32>,
    held_gain: f32,
    /// The gain at the beginning of the held chunk.
    gain: f32,
    rest: Vec<i32>,
}

impl Limiter {
    pub fn new(channels: usize) -> Limiter {
        Limiter { channels, held: Vec::new(), held_gain: 1.0, gain: 1.0, rest: Vec::new() }
    }

    /// Takes samples of the sum, gives those that are limited.
    pub fn push(&mut self, sum: &[i32], out: &mut Vec<i16>) {
        self.rest.extend_from_slice(sum);
        let length = CHUNK * self.channels;
        let whole = self.rest.len() / length * length;
        let rest = self.rest.split_off(whole);
        for chunk in std::mem::replace(&mut self.rest, rest).chunks(length) {
            self.chunk(chunk, out);
        }
    }

    fn chunk(&mut self, chunk: &[i32], out: &mut Vec<i16>) {
        let peak = chunk.iter().map(|s| s.unsigned_abs()).max().unwrap_or(0) as f32;
        let most = if peak > CEILING { CEILING / peak } else { 1.0 };
        // straight from the gain at its beginning to the one at its end, neither above what the chunk may have
        let end = self.held_gain.min(most).min(self.gain + RELEASE);
        self.give(end, out);
        self.gain = end;
        self.held.clear();
        self.held.extend_from_slice(chunk);
        self.held_gain = most;
    }

    fn give(&self, end: f32, out: &mut Vec<i16>) {
        let length = self.held.len() / self.channels;
        if self.gain == 1.0 && end == 1.0 {
            out.extend(self.held.iter().map(|s| *s as i16));
            return;
        }
        for (n, frame) in self.held.chunks(self.channels).enumerate() {
            let gain = self.gain + (end - self.gain) * n as f32 / length as f32;
            out.extend(frame.iter().map(|s| (*s as f32 * gain) as i16));
        }
    }
}

/// The mix of a lane: reads all voices block by block, from the lane's origin on.
pub(super) struct SoundMix {
    channels: usize,
    /// Place on the line of the next sample to read.
    next: i64,
    limiter: Limiter,
    sum: Vec<i32>,
}

impl SoundMix {
    /// `origin`: ns on the lane's line.
    pub fn new(channels: usize, origin: i64) -> SoundMix {
        SoundMix { channels, next: samples(origin), limiter: Limiter::new(channels), sum: Vec::new() }
    }

    /// Where the first sample of the mix is, ns.
    pub fn origin(&self) -> i64 {
        nanos(self.next)
    }

    /// Mixes up to a moment, ns, the voices that play. What comes out is 5 to 10 ms behind it.
    pub fn mix<'a>(
        &mut self,
        until: i64,
        voices: impl Iterator<Item = (&'a mut Voice, bool)>,
        out: &mut Vec<i16>,
    ) -> Result<(), MediaError> {
        let Ok(count) = usize::try_from(samples(until) - self.next) else { return Ok(()) };
        if count == 0 {
            return Ok(());
        }
        self.sum.clear();
        self.sum.resize(count * self.channels, 0);
        for (voice, plays) in voices {
            voice.add_to(self.next, plays, &mut self.sum);
        }
        self.next += count as i64;
        self.limiter.push(&self.sum, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(sum: &[i32]) -> Vec<i16> {
        let mut limiter = Limiter::new(1);
        let mut out = Vec::new();
        for part in sum.chunks(333) {
            limiter.push(part, &mut out);
        }
        out
    }

    #[test]
    fn what_is_not_loud_goes_through_as_it_is() {
        let sum: Vec<i32> = (0..4800).map(|n| ((n as f64 * 0.05).sin() * 20_000.0) as i32).collect();
        let out = limited(&sum);
        assert_eq!(out.len(), 4800 - CHUNK);
        assert!(out.iter().zip(&sum).all(|(a, b)| i32::from(*a) == *b));
    }

    #[test]
    fn twenty_five_that_shout_are_limited_and_nothing_jumps() {
        // quiet, then 25 voices of full scale in phase, then quiet again
        let level = |n: usize| if (9_600..28_800).contains(&n) { 25.0 * 32_000.0 } else { 4_000.0 };
        let sine = |n: usize| (n as f64 * 0.0576).sin();
        let sum: Vec<i32> = (0..72_000).map(|n| (sine(n) * level(n)) as i32).collect();
        let out = limited(&sum);
        assert!(out.iter().all(|s| f32::from(s.abs()) <= CEILING), "nothing clips");
        let loud = &out[14_400..24_000];
        assert!(loud.iter().any(|s| *s > 29_000), "and what is loud stays loud");
        // the gain itself moves without steps: the shape of the sine is kept within a chunk
        for (n, sample) in out.iter().enumerate().take(24_000).skip(14_400) {
            let expected = sine(n) * f64::from(CEILING);
            assert!((f64::from(*sample) - expected).abs() < 1_000.0, "{n}");
        }
        let back = out[70_000..].iter().map(|s| s.abs()).max().expect("some");
        assert!((3_900..=4_000).contains(&back), "the gain has come back: {back}");
    }
}
