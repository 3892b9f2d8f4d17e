//! The encoder of a mixed picture, and the next one when it fails.
//!
//! Owns: the chain of the encoder that is in use. Must not touch: what is encoded, files.
//! Law: an encoder that fails costs a moment, never the recording: the next one of the table goes on with a keyframe, as
//! another stream, and it is told.

use std::collections::VecDeque;
use std::time::Duration;

use gstreamer as gst;

use super::MediaError;
use super::chain::{Chain, Out};
use super::picture::{PARSE, PictureUnit, unit};
use crate::model::encoder::{Coding, PictureEncoder};

/// Pictures that may be inside an encoder, in seconds of them; one that holds more back has stopped working.
const MOST_INSIDE: u32 = 3;

pub(super) struct Coder {
    /// Those that have not failed, best first.
    table: VecDeque<PictureEncoder>,
    coding: Coding,
    chain: Option<Chain>,
    in_use: Option<InUse>,
    /// Counts the encoders that were used.
    era: u32,
    inside: u32,
    /// The next picture begins a stream.
    fresh: bool,
    failures: Vec<String>,
}

/// An encoder at work, as the figures show it.
struct InUse(&'static str);

impl InUse {
    fn new(factory: &'static str) -> InUse {
        metrics::gauge!("holdfast_encoders", "encoder" => factory).increment(1.0);
        InUse(factory)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        metrics::gauge!("holdfast_encoders", "encoder" => self.0).decrement(1.0);
    }
}

impl Coder {
    pub fn new(table: &[PictureEncoder], coding: Coding) -> Coder {
        let table = table.iter().copied().collect();
        Coder { table, coding, chain: None, in_use: None, era: 0, inside: 0, fresh: true, failures: Vec::new() }
    }

    /// The factory that encodes.
    pub fn factory(&self) -> Option<&'static str> {
        self.table.front().map(|encoder| encoder.factory)
    }

    /// Encoders that failed since the last call, each with the reason.
    pub fn take_failures(&mut self) -> Vec<String> {
        std::mem::take(&mut self.failures)
    }

    /// Takes a picture; gives the units that are ready. Fails when no encoder is left.
    pub fn push(&mut self, picture: &gst::Buffer, key: bool) -> Result<Vec<PictureUnit>, MediaError> {
        let mut units = Vec::new();
        loop {
            match self.encode(picture, key) {
                Ok(out) => {
                    units.extend(self.units(out));
                    return Ok(units);
                }
                Err(error) => {
                    self.in_use = None;
                    // what it had done is good
                    if let Some(chain) = self.chain.take() {
                        units.extend(self.units(chain.take()));
                    }
                    let failed = self.table.pop_front().map_or("", |encoder| encoder.factory);
                    self.failures.push(format!("{failed}: {error}"));
                    if self.table.is_empty() {
                        return Err(error);
                    }
                    self.era += 1;
                    self.fresh = true;
                }
            }
        }
    }

    fn encode(&mut self, picture: &gst::Buffer, key: bool) -> Result<Vec<Out>, MediaError> {
        let fresh = std::mem::take(&mut self.fresh);
        if fresh || self.chain.is_none() {
            let encoder =
                self.table.front().ok_or_else(|| MediaError::Pipeline("there is no encoder for pictures".into()))?;
            let caps = gst::Caps::builder("video/x-raw")
                .field("format", "I420")
                .field("width", self.coding.size.width as i32)
                .field("height", self.coding.size.height as i32)
                .field("framerate", gst::Fraction::new(self.coding.fps as i32, 1))
                .field("interlace-mode", "progressive")
                .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
                .build();
            self.chain = Some(Chain::new(&format!("{} ! {PARSE}", (encoder.chain)(&self.coding)), &caps)?);
            self.in_use = None;
            self.in_use = Some(InUse::new(encoder.factory));
            self.inside = 0;
        }
        let chain = self.chain.as_ref().expect("made above");
        if key && !fresh {
            chain.force_keyframe();
        }
        if let Some(error) = chain.broken() {
            return Err(error);
        }
        chain.push(picture.clone())?;
        self.inside += 1;
        let out = chain.take();
        let pictures = out.iter().filter(|out| matches!(out, Out::Buffer(_))).count() as u32;
        self.inside = self.inside.saturating_sub(pictures);
        if self.inside > MOST_INSIDE * self.coding.fps {
            return Err(MediaError::Pipeline(format!("{} pictures went in and none came out", self.inside)));
        }
        Ok(out)
    }

    /// What is still inside, waiting at most so long for a device.
    pub fn finish(&mut self, within: Duration) -> Result<Vec<PictureUnit>, MediaError> {
        let Some(chain) = self.chain.take() else { return Ok(Vec::new()) };
        self.in_use = None;
        let out = chain.finish_within(within)?;
        Ok(self.units(out))
    }

    fn units(&self, out: Vec<Out>) -> Vec<PictureUnit> {
        let size = (self.coding.size.width, self.coding.size.height);
        let buffers = out.into_iter().filter_map(|out| match out {
            Out::Buffer(buffer) => Some(buffer),
            Out::Caps(_) => None,
        });
        buffers.filter_map(|buffer| unit(buffer, None, size, (self.era, 0))).collect()
    }
}
