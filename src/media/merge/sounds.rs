//! Sound of many files as one that goes on: frames as they are, with silent ones where there are none; coded anew only
//! where the files have it in different forms.
//!
//! Owns: when which frame is heard. Must not touch: pictures, files.
//! Law: a frame is heard within half of one from its time, whatever came before; nothing overlaps.

use std::collections::VecDeque;
use std::path::PathBuf;

use gstreamer as gst;

use super::{MergeError, Reader, Sound, Unit};
use crate::container::adts::FRAME;
use crate::media::chain::{Chain, Out};
use crate::media::sound::{Aac, encoder_of};
use crate::media::{MediaError, present};
use crate::model::encoder::sound_bitrate;
use crate::model::merge::{Output, SECOND, SoundForm, Sounding};
use crate::model::mix::AudioParams;

/// Samples by which a frame may come early: two clocks, and times in milliseconds.
const SLACK: i64 = 240;
const RATE: i64 = 48_000;
/// ADTS without a check sum, as our own encoder's parser makes it.
const HEADER: usize = 7;
/// Samples of silence that are coded at once.
const SILENCE: i64 = RATE;
/// Frames that begin further apart than this, in samples, have a gap between them.
const MOST_APART: i64 = 4 * FRAME;
/// A frame of silence behind those in which the encoder still rings.
const SETTLED: usize = 4;

pub(super) struct Sounds<'a> {
    reader: Reader<'a>,
    form: SoundForm,
    /// Where sound has come to, in samples.
    until: i64,
    ready: VecDeque<Sound>,
    /// A frame that waits for the silence before it.
    held: Option<Heard>,
    way: Way,
    over: bool,
}

/// A frame with its header, and when it is heard, in samples of the result.
struct Heard {
    at: i64,
    header: usize,
    bytes: Vec<u8>,
}

enum Way {
    Copy { silence: Vec<u8> },
    Code(Box<Recoder>),
}

/// From any AAC to the one form of the result.
struct Recoder {
    channels: usize,
    decoder: Option<(SoundForm, Chain)>,
    /// Where the last frame began that went into it.
    fed: i64,
    /// What came out of it, by the time that it gives: decoders hold back as much as they like.
    chunks: VecDeque<(i64, Vec<i16>)>,
    over: bool,
    aac: Aac,
    /// Something went into the encoder.
    begun: bool,
}

impl<'a> Sounds<'a> {
    pub fn new(
        sounding: Sounding,
        output: &'a Output,
        files: &'a [PathBuf],
        told: &'a dyn Fn(u64),
    ) -> Result<Sounds<'a>, MergeError> {
        let (form, way) = match sounding {
            Sounding::Copy(form) => (form, Way::Copy { silence: silent_frame(&form)? }),
            Sounding::Encode { channels } => {
                let form = SoundForm { rate: RATE as u32, channels: channels as u8, object: 2 };
                (form, Way::Code(Box::new(Recoder::new(channels)?)))
            }
        };
        let reader = Reader::new(files, &output.sounds, false, told);
        Ok(Sounds { reader, form, until: 0, ready: VecDeque::new(), held: None, way, over: false })
    }

    pub fn form(&self) -> SoundForm {
        self.form
    }

    pub fn next(&mut self) -> Result<Option<Sound>, MergeError> {
        loop {
            if let Some(sound) = self.ready.pop_front() {
                return Ok(Some(sound));
            }
            if self.over {
                return Ok(None);
            }
            match &mut self.way {
                Way::Copy { .. } => self.copy()?,
                Way::Code(recoder) => {
                    let Some((at, pcm)) = recoder.chunk(&mut self.reader)? else {
                        self.over = true;
                        self.ready.extend(recoder.finish()?);
                        continue;
                    };
                    let missing = at - self.until;
                    if missing > SLACK {
                        let now = missing.min(SILENCE);
                        self.ready.extend(recoder.silence(now)?);
                        self.until += now;
                        recoder.chunks.push_front((at, pcm));
                        continue;
                    }
                    let early = if missing < -SLACK { missing.unsigned_abs() as usize * recoder.channels } else { 0 };
                    let pcm = &pcm[early.min(pcm.len())..];
                    self.until += (pcm.len() / recoder.channels) as i64;
                    self.ready.extend(recoder.encode(pcm)?);
                }
            }
        }
    }

    /// Takes the next frame, or gives one of the silence before it.
    fn copy(&mut self) -> Result<(), MergeError> {
        let Some(frame) = self.take()? else {
            self.over = true;
            return Ok(());
        };
        let Way::Copy { silence } = &self.way else { return Ok(()) };
        let missing = frame.at - self.until;
        if missing >= FRAME {
            self.ready.push_back((self.until, silence.clone()));
            self.held = Some(frame);
        } else if missing > -FRAME / 2 {
            if missing > SLACK {
                self.until = frame.at;
            }
            self.ready.push_back((self.until, frame.bytes[frame.header..].to_vec()));
        } else {
            // it is in the way of what was there before
            return Ok(());
        }
        self.until += FRAME;
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Heard>, MergeError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let Some(Unit::Sound { pts, header, bytes, .. }) = self.reader.next(true)? else { return Ok(None) };
        Ok(Some(Heard { at: samples(pts, i64::from(self.form.rate)), header, bytes }))
    }
}

impl Recoder {
    fn new(channels: u32) -> Result<Recoder, MediaError> {
        let form = AudioParams { rate: RATE as u32, channels, bitrate: sound_bitrate(channels) };
        let aac = Aac::new(encoder_of(&present())?, &form, 0)?;
        Ok(Recoder {
            channels: channels as usize,
            decoder: None,
            fed: 0,
            chunks: VecDeque::new(),
            over: false,
            aac,
            begun: false,
        })
    }

    /// Decoded samples and where they belong.
    fn chunk(&mut self, reader: &mut Reader<'_>) -> Result<Option<(i64, Vec<i16>)>, MergeError> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Ok(Some(chunk));
            }
            if self.over {
                return Ok(None);
            }
            match reader.next(true)? {
                Some(Unit::Sound { pts, form, bytes, .. }) => self.decode(form, samples(pts, RATE), bytes)?,
                _ => {
                    self.over = true;
                    self.drain()?;
                }
            }
        }
    }

    fn decode(&mut self, form: SoundForm, at: i64, frame: Vec<u8>) -> Result<(), MediaError> {
        // what went before has nothing to do with what comes behind a gap
        let goes_on = self.decoder.as_ref().is_some_and(|(of, _)| *of == form) && at - self.fed < MOST_APART;
        if !goes_on {
            self.drain()?;
            self.decoder = Some((form, decoder(self.channels)?));
        }
        self.fed = at;
        let (_, chain) = self.decoder.as_ref().expect("made above");
        let mut buffer = gst::Buffer::from_slice(frame);
        let pts = u64::try_from(at).unwrap_or(0) * 1_000_000_000 / RATE as u64;
        buffer.get_mut().expect("a new buffer has one owner").set_pts(gst::ClockTime::from_nseconds(pts));
        let pushed = chain.push(buffer);
        let out = chain.take();
        if let Err(error) = pushed {
            tracing::debug!(%error, "a frame of sound cannot be decoded");
            self.decoder = None;
        }
        self.take(out)
    }

    /// What is still in the decoder.
    fn drain(&mut self) -> Result<(), MediaError> {
        let Some((_, chain)) = self.decoder.take() else { return Ok(()) };
        // one that breaks at its very end has given what it had
        let out = chain.finish().unwrap_or_else(|_| chain.take());
        self.take(out)
    }

    fn take(&mut self, out: Vec<Out>) -> Result<(), MediaError> {
        for out in out {
            let Out::Buffer(buffer) = out else { continue };
            let map = buffer.map_readable().map_err(|e| MediaError::Pipeline(e.to_string()))?;
            let Some(pts) = buffer.pts() else { continue };
            let at = (i128::from(pts.nseconds()) * i128::from(RATE) + 500_000_000) / 1_000_000_000;
            let pcm = map.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect();
            self.chunks.push_back((i64::try_from(at).unwrap_or(i64::MAX), pcm));
        }
        Ok(())
    }

    fn silence(&mut self, samples: i64) -> Result<Vec<Sound>, MediaError> {
        let samples = usize::try_from(samples).unwrap_or(0);
        self.encode(&vec![0; samples * self.channels])
    }

    fn encode(&mut self, pcm: &[i16]) -> Result<Vec<Sound>, MediaError> {
        if pcm.is_empty() {
            return Ok(Vec::new());
        }
        self.begun = true;
        let frames = self.aac.push(pcm)?;
        bare(frames)
    }

    fn finish(&mut self) -> Result<Vec<Sound>, MediaError> {
        if !self.begun {
            return Ok(Vec::new());
        }
        let frames = self.aac.finish()?;
        bare(frames)
    }
}

fn samples(ticks: i64, rate: i64) -> i64 {
    (ticks * rate + SECOND / 2).div_euclid(SECOND)
}

/// Frames without their headers, at their samples.
fn bare(frames: Vec<crate::media::sound::SoundFrame>) -> Result<Vec<Sound>, MediaError> {
    let one = |frame: crate::media::sound::SoundFrame| {
        let map = frame.bytes.map_readable().map_err(|e| MediaError::Pipeline(e.to_string()))?;
        let at = (frame.pts.as_nanos() as i128 * i128::from(RATE) + 500_000_000) / 1_000_000_000;
        Ok((i64::try_from(at).unwrap_or(i64::MAX), map.get(HEADER..).unwrap_or_default().to_vec()))
    };
    frames.into_iter().map(one).collect()
}

fn decoder(channels: usize) -> Result<Chain, MediaError> {
    let factory = ["avdec_aac", "faad"].into_iter().find(|factory| gst::ElementFactory::find(factory).is_some());
    let factory = factory.ok_or(MediaError::MissingElement("avdec_aac", "gstreamer1.0-libav"))?;
    let caps = gst::Caps::builder("audio/mpeg").field("mpegversion", 4).field("stream-format", "adts").build();
    let raw = format!("audio/x-raw,format=S16LE,layout=interleaved,rate={RATE},channels={channels}");
    Chain::new(&format!("aacparse ! {factory} ! audioconvert ! audioresample ! capsfilter caps={raw}"), &caps)
}

/// A frame in which nothing is heard.
fn silent_frame(form: &SoundForm) -> Result<Vec<u8>, MediaError> {
    let channels = u32::from(form.channels);
    let params = AudioParams { rate: form.rate, channels, bitrate: sound_bitrate(channels) };
    let mut aac = Aac::new(encoder_of(&present())?, &params, 0)?;
    let mut frames = Vec::new();
    for _ in 0..4 * SETTLED {
        frames.extend(aac.push(&vec![0; SILENCE as usize / 10 * form.channels as usize])?);
    }
    frames.extend(aac.finish()?);
    let frame = frames.get(SETTLED).ok_or(MediaError::Pipeline("the encoder gave no silence".into()))?;
    let map = frame.bytes.map_readable().map_err(|e| MediaError::Pipeline(e.to_string()))?;
    Ok(map.get(HEADER..).unwrap_or_default().to_vec())
}
