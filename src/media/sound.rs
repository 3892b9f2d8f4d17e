//! Sound: Opus packets in, AAC frames out, in step with the stamps to a few milliseconds.
//!
//! Owns: the chains for sound, and what makes up for the delays of two codecs. Must not touch: files, when to cut.
//! Law: an AAC frame's time is where its samples were captured: the look-ahead of the Opus encoder and the priming of
//! the AAC encoder are taken off.

use std::collections::BTreeSet;
use std::time::Duration;

use gstreamer as gst;

use super::chain::{Chain, Out};
use super::pace::{Pace, RATE, nanos, samples};
use super::stamped::StampedPacket;
use super::{MediaError, timeline};
use crate::model::MediaTime;
use crate::model::encoder::{self, Encoder};
use crate::model::mix::AudioParams;

/// Samples in an AAC frame.
const FRAME: i64 = 1024;
/// What an Opus encoder looks ahead, in samples: 6.5 ms in every mode that WebRTC uses (RFC 7845 calls it pre-skip).
const LOOK_AHEAD: i64 = 312;
/// A loss up to this long is concealed by the decoder; a longer one is silence.
const MOST_CONCEALED: i64 = 100_000_000;

/// One AAC frame with its ADTS header, ready for the file.
#[derive(Debug)]
pub struct SoundFrame {
    pub pts: Duration,
    /// 1024 samples
    pub duration: Duration,
    pub bytes: gst::Buffer,
}

#[derive(Debug)]
pub enum SoundOut {
    Frame(SoundFrame),
    /// What follows does not join on to what came before.
    Break,
}

/// Turns one track's packets into AAC frames.
pub struct Sound {
    encoder: Encoder,
    gap_limit: i64,
    opus: Option<Opus>,
    stretch: Option<Stretch>,
    channels: usize,
    frames: Vec<SoundOut>,
    /// What the last packets were decoded to.
    fresh: Vec<i16>,
}

struct Stretch {
    pace: Pace,
    aac: Aac,
}

impl Sound {
    pub fn new(gap_limit: Duration, present: &BTreeSet<&str>) -> Result<Sound, MediaError> {
        let encoder = encoder_of(present)?;
        let gap_limit = i64::try_from(gap_limit.as_nanos()).unwrap_or(i64::MAX);
        Ok(Sound { encoder, gap_limit, opus: None, stretch: None, channels: 1, frames: Vec::new(), fresh: Vec::new() })
    }

    /// Takes packets; those stamped before `base` are left out. Gives what they completed.
    pub fn push(&mut self, packets: &[StampedPacket], base: MediaTime) -> Result<Vec<SoundOut>, MediaError> {
        let mut pcm = Vec::new();
        self.fresh.clear();
        for packet in packets {
            let Some(packet) = OpusPacket::read(packet, base) else { continue };
            self.packet(&packet, &mut pcm)?;
        }
        self.fresh.extend_from_slice(&pcm);
        self.encode(&mut pcm)?;
        Ok(std::mem::take(&mut self.frames))
    }

    /// The samples of the last packets, for whoever wants to know how loud they are.
    pub fn fresh(&self) -> &[i16] {
        &self.fresh
    }

    /// Silence up to `at`, for a picture that goes on while nothing is heard. Without sound so far: from `since` on.
    pub fn silence_to(&mut self, since: Duration, at: Duration) -> Result<Vec<SoundOut>, MediaError> {
        let line = |at: Duration| i64::try_from(at.as_nanos()).unwrap_or(i64::MAX);
        self.begin(line(since))?;
        let mut pcm = Vec::new();
        if let Some(stretch) = &mut self.stretch {
            stretch.pace.silence_to(line(at), &mut pcm);
        }
        self.encode(&mut pcm)?;
        Ok(std::mem::take(&mut self.frames))
    }

    /// Where sound has come to.
    pub fn end(&self) -> Option<Duration> {
        self.stretch.as_ref().map(|stretch| Duration::from_nanos(u64::try_from(stretch.pace.end()).unwrap_or(0)))
    }

    /// Ends the stretch: gives the frames that were still inside the encoder.
    pub fn pause(&mut self) -> Result<Vec<SoundOut>, MediaError> {
        if let Some(mut stretch) = self.stretch.take() {
            self.frames.extend(stretch.aac.finish()?.into_iter().map(SoundOut::Frame));
            count_lies(&stretch.pace);
        }
        Ok(std::mem::take(&mut self.frames))
    }

    fn packet(&mut self, packet: &OpusPacket<'_>, pcm: &mut Vec<i16>) -> Result<(), MediaError> {
        let heard = self.opus.as_ref().map_or(i64::MIN, |opus| opus.heard_until);
        // silence may have been written since
        let written = self.stretch.as_ref().map_or(i64::MIN, |stretch| stretch.pace.end());
        let missing = packet.at.saturating_sub(heard.max(written));
        let more_channels = packet.toc.channels > self.channels;
        if self.stretch.is_some() && (missing >= self.gap_limit || more_channels) {
            self.encode(pcm)?;
            let frames = self.pause()?;
            self.frames = frames;
            self.frames.push(SoundOut::Break);
        }
        if more_channels {
            // never fewer again: an encoder that falls back to mono for a while is still a stereo source
            self.channels = packet.toc.channels;
        }
        self.begin(packet.at)?;
        let opus = match &mut self.opus {
            Some(opus) if opus.channels == self.channels => opus,
            _ => self.opus.insert(Opus::new(self.channels)?),
        };
        let pace = &mut self.stretch.as_mut().expect("begun above").pace;
        opus.packet(packet, pace, pcm);
        Ok(())
    }

    fn begin(&mut self, at: i64) -> Result<(), MediaError> {
        if self.stretch.is_some() {
            return Ok(());
        }
        let channels = self.channels as u32;
        let form = AudioParams { rate: RATE as u32, channels, bitrate: encoder::sound_bitrate(channels) };
        self.stretch = Some(Stretch { pace: Pace::new(self.channels, at), aac: Aac::new(self.encoder, &form, at)? });
        Ok(())
    }

    fn encode(&mut self, pcm: &mut Vec<i16>) -> Result<(), MediaError> {
        if pcm.is_empty() {
            return Ok(());
        }
        let stretch = self.stretch.as_mut().expect("samples come from a stretch");
        self.frames.extend(stretch.aac.push(pcm)?.into_iter().map(SoundOut::Frame));
        pcm.clear();
        Ok(())
    }
}

/// The encoder of sound that this board has.
pub fn encoder_of(present: &BTreeSet<&str>) -> Result<Encoder, MediaError> {
    encoder::sound_encoder(present).ok_or(MediaError::MissingElement("avenc_aac", "gstreamer1.0-libav"))
}

/// Interleaved samples of 48 kHz to AAC frames.
pub struct Aac {
    chain: Chain,
    /// Where the first sample is, ns on the file's line.
    origin: i64,
    rate: i64,
    priming: i64,
    frames: i64,
}

impl Aac {
    pub fn new(encoder: Encoder, form: &AudioParams, origin: i64) -> Result<Aac, MediaError> {
        let AudioParams { rate, channels, bitrate } = form;
        let resample = if u64::from(*rate) == RATE {
            String::new()
        } else {
            format!("audioresample ! capsfilter caps=audio/x-raw,rate={rate} ! ")
        };
        let described = format!(
            "{resample}audioconvert ! {} bitrate={bitrate} ! aacparse ! \
             capsfilter caps=audio/mpeg,mpegversion=4,stream-format=adts",
            encoder.described,
        );
        let chain = Chain::new(&described, &raw_caps(*channels))?;
        Ok(Aac { chain, origin, rate: i64::from(*rate), priming: i64::from(encoder.priming), frames: 0 })
    }

    pub fn push(&mut self, pcm: &[i16]) -> Result<Vec<SoundFrame>, MediaError> {
        let bytes: Vec<u8> = pcm.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        self.chain.push(gst::Buffer::from_slice(bytes))?;
        let out = self.chain.take();
        Ok(self.collect(out))
    }

    /// What was still inside.
    pub fn finish(&mut self) -> Result<Vec<SoundFrame>, MediaError> {
        let out = self.chain.finish()?;
        Ok(self.collect(out))
    }

    fn collect(&mut self, out: Vec<Out>) -> Vec<SoundFrame> {
        let mut frames = Vec::with_capacity(out.len());
        for out in out {
            let Out::Buffer(bytes) = out else {
                continue;
            };
            let ns = |samples: i64| samples * 1_000_000_000 / self.rate;
            let first = self.frames * FRAME - self.priming;
            self.frames += 1;
            // the priming before the line begins
            let Ok(at) = u64::try_from(self.origin + ns(first)) else {
                continue;
            };
            let duration = Duration::from_nanos(ns(FRAME).unsigned_abs());
            frames.push(SoundFrame { pts: Duration::from_nanos(at), duration, bytes });
        }
        frames
    }
}

/// A packet of Opus that may be decoded.
pub struct OpusPacket<'a> {
    /// Where its first sample was captured, ns on the file's line.
    pub at: i64,
    after_loss: bool,
    opus: &'a [u8],
    toc: Toc,
}

impl<'a> OpusPacket<'a> {
    /// `None` for one that was stamped before `base`, or is none (counted).
    pub fn read(packet: &'a StampedPacket, base: MediaTime) -> Option<OpusPacket<'a>> {
        let at = timeline(packet.at, base)?;
        let at = i64::try_from(at).expect("a recording is shorter than 292 years") - nanos(LOOK_AHEAD);
        let read = packet.payload().and_then(|opus| Some((opus, Toc::read(opus)?)));
        let Some((opus, toc)) = read else {
            metrics::counter!("holdfast_lane_bad_packets_total", "kind" => "audio").increment(1);
            return None;
        };
        Some(OpusPacket { at, after_loss: packet.after_loss, opus, toc })
    }
}

/// How long the sound of a packet is, ns; of one that is none, nothing.
pub(super) fn packet_length(packet: &StampedPacket) -> u64 {
    let toc = packet.payload().and_then(Toc::read);
    toc.map_or(0, |toc| nanos(toc.samples).unsigned_abs())
}

/// Samples of the longest Opus packet, 120 ms.
const MOST_SAMPLES: usize = 5760;

/// Decodes one track's packets, by libopus itself: GStreamer's element knows no redundancy of a packet that is late, and
/// asks libopus for the processor's features with each packet, which costs more than the decoding where that traps.
pub struct Opus {
    channels: usize,
    decoder: opus::Decoder,
    /// Where the last packet ended, ns on the file's line.
    heard_until: i64,
    /// Room for one packet's samples, interleaved.
    room: Vec<i16>,
}

impl Opus {
    /// Whatever the packets have, `channels` come out.
    pub fn new(channels: usize) -> Result<Opus, MediaError> {
        let form = if channels == 1 { opus::Channels::Mono } else { opus::Channels::Stereo };
        let decoder = opus::Decoder::new(RATE as u32, form).map_err(|e| MediaError::Pipeline(format!("Opus: {e}")))?;
        Ok(Opus { channels, decoder, heard_until: i64::MIN, room: vec![0; MOST_SAMPLES * channels] })
    }

    /// Decodes a packet to where it belongs. What was lost before it is made of the redundancy that it brings (RFC 6716
    /// §2.1.7), and concealed where that does not reach.
    pub fn packet(&mut self, packet: &OpusPacket<'_>, pace: &mut Pace, pcm: &mut Vec<i16>) {
        let lost_from = self.heard_until.max(pace.end());
        let missing = packet.at.saturating_sub(lost_from);
        let concealable = (missing / 2_500_000) * 2_500_000;
        if packet.after_loss && (2_500_000..=MOST_CONCEALED).contains(&concealable) {
            let wanted = usize::try_from(samples(concealable)).unwrap_or(0);
            self.decode(packet.opus, Some(wanted), lost_from, pace, pcm);
        }
        let whole = self.decode(packet.opus, None, packet.at, pace, pcm);
        self.heard_until = whole.unwrap_or_else(|| {
            metrics::counter!("holdfast_lane_bad_packets_total", "kind" => "audio").increment(1);
            let wanted = usize::try_from(packet.toc.samples).unwrap_or(0);
            self.decode(&[], Some(wanted), packet.at, pace, pcm).unwrap_or(packet.at)
        });
    }

    /// Decodes a packet, or with `instead` that many samples of what should have come before it (or, without bytes, in
    /// its place). Gives where it ends, ns; `None` for what is no Opus.
    fn decode(
        &mut self,
        bytes: &[u8],
        instead: Option<usize>,
        at: i64,
        pace: &mut Pace,
        pcm: &mut Vec<i16>,
    ) -> Option<i64> {
        let room = instead.unwrap_or(MOST_SAMPLES).min(MOST_SAMPLES) * self.channels;
        let count = self.decoder.decode(bytes, &mut self.room[..room], instead.is_some()).ok()?;
        pace.sound(at, &self.room[..count * self.channels], pcm);
        Some(at + nanos(count as i64))
    }
}

fn count_lies(pace: &Pace) {
    metrics::counter!("holdfast_lane_silence_samples_total").increment(pace.filled);
    metrics::counter!("holdfast_lane_overlap_samples_total").increment(pace.cut);
}

fn raw_caps(channels: u32) -> gst::Caps {
    let caps = gst::Caps::builder("audio/x-raw")
        .field("format", "S16LE")
        .field("layout", "interleaved")
        .field("rate", 48_000_i32)
        .field("channels", channels as i32);
    if channels == 2 { caps.field("channel-mask", gst::Bitmask::new(3)).build() } else { caps.build() }
}

/// What the first bytes of an Opus packet say (RFC 6716 §3.1).
struct Toc {
    channels: usize,
    /// At 48 kHz.
    samples: i64,
}

impl Toc {
    fn read(opus: &[u8]) -> Option<Toc> {
        let toc = *opus.first()?;
        let frame = match toc >> 3 {
            config @ 0..=11 => [480, 960, 1920, 2880][usize::from(config & 3)],
            config @ 12..=15 => [480, 960][usize::from(config & 1)],
            config => [120, 240, 480, 960][usize::from(config & 3)],
        };
        let frames = match toc & 3 {
            0 => 1,
            1 | 2 => 2,
            _ => i64::from(opus.get(1)? & 0x3f),
        };
        // more than 120 ms is no Opus packet
        (1..=5760)
            .contains(&(frame * frames))
            .then_some(Toc { channels: if toc & 4 == 0 { 1 } else { 2 }, samples: frame * frames })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_says_how_long_it_is() {
        let samples = |opus: &[u8]| Toc::read(opus).map(|toc| (toc.samples, toc.channels));
        assert_eq!(samples(&[0x78, 1]), Some((960, 1)), "hybrid, 20 ms");
        assert_eq!(samples(&[0xfc, 1]), Some((960, 2)), "CELT, 20 ms, stereo");
        assert_eq!(samples(&[0x18, 1]), Some((2880, 1)), "SILK, 60 ms");
        assert_eq!(samples(&[0x0b, 0x03]), Some((2880, 1)), "SILK, three of 20 ms");
        assert_eq!(samples(&[0x1b, 0x03]), None, "180 ms");
        assert_eq!(samples(&[0x0b]), None);
        assert_eq!(samples(&[]), None);
    }
}
