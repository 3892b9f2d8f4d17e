//! The encoder of a mixed picture, and the next one when it fails.
//!
//! Owns: the chain of the encoder that is in use, which devices were lost. Must not touch: what is encoded, files.
//! Law: an encoder that fails costs a moment, never the recording: the next one of the table goes on with a keyframe, as
//! another stream, and it is told.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gstreamer as gst;

use super::MediaError;
use super::chain::{Chain, Out};
use super::device::Device;
use super::picture::{PARSE, PictureUnit, unit};
use crate::container::h264;
use crate::model::encoder::{Coding, PictureEncoder};

/// Pictures that may be inside an encoder, in seconds of them; one that holds more back has stopped working.
const MOST_INSIDE: u32 = 3;
/// What a device has for giving its last pictures before it begins anew.
const RENEWAL: Duration = Duration::from_secs(1);
/// Drivers count microseconds.
const EXACT: Duration = Duration::from_millis(1);

/// Devices that were lost in this life of the process. A device that refuses a lane from the start may be good for
/// another (sizes, sessions at once); one that stops in the middle would stop in each.
#[derive(Debug, Clone, Default)]
pub struct LostDevices(Arc<Mutex<BTreeSet<&'static str>>>);

impl LostDevices {
    /// Those of the table that are left; all, when none is.
    fn left_of(&self, table: &[PictureEncoder]) -> VecDeque<PictureEncoder> {
        let lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left: VecDeque<_> = table.iter().filter(|encoder| !lost.contains(encoder.factory)).copied().collect();
        if left.is_empty() { table.iter().copied().collect() } else { left }
    }

    fn note(&self, factory: &'static str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(factory)
    }
}

/// An encoder that does not go on.
#[derive(Debug)]
pub(super) struct Failure {
    pub factory: &'static str,
    pub why: String,
    /// A device, and this lane is the first that lost it.
    pub lost: bool,
}

enum Work {
    /// It works in the lane's own thread.
    Here(Chain),
    /// Its driver may hang.
    There(Device),
}

impl Work {
    fn new(encoder: &PictureEncoder, coding: &Coding) -> Result<Work, MediaError> {
        let caps = gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .field("width", coding.size.width as i32)
            .field("height", coding.size.height as i32)
            .field("framerate", gst::Fraction::new(coding.fps as i32, 1))
            .field("interlace-mode", "progressive")
            .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
            .build();
        let described = format!("{} ! {PARSE}", (encoder.chain)(coding));
        if encoder.hardware {
            Device::open(described, caps).map(Work::There)
        } else {
            Chain::new(&described, &caps).map(Work::Here)
        }
    }

    fn push(&self, picture: gst::Buffer, key: bool) -> Result<Vec<Out>, MediaError> {
        match self {
            Work::Here(chain) => {
                if key {
                    chain.force_keyframe();
                }
                chain.push(picture).map(|()| chain.take())
            }
            Work::There(device) => device.push(picture, key),
        }
    }

    fn take(&self) -> Vec<Out> {
        match self {
            Work::Here(chain) => chain.take(),
            Work::There(device) => device.take(),
        }
    }

    fn broken(&self) -> Option<MediaError> {
        match self {
            Work::Here(chain) => chain.broken(),
            Work::There(device) => device.broken(),
        }
    }

    fn finish_within(&self, limit: Duration) -> Result<Vec<Out>, MediaError> {
        match self {
            Work::Here(chain) => chain.finish_within(limit),
            Work::There(device) => device.finish_within(limit),
        }
    }
}

pub(super) struct Coder {
    /// Those that have not failed, best first.
    table: VecDeque<PictureEncoder>,
    lost: LostDevices,
    coding: Coding,
    work: Option<Work>,
    in_use: Option<InUse>,
    /// Counts the encoders that were used.
    era: u32,
    inside: u32,
    /// The encoder in use has given something.
    gave: bool,
    /// When the picture was that a keyframe was asked for with.
    asked: Option<Duration>,
    /// The encoder in use makes keyframes when it likes: one that is asked for is the first of a new chain.
    deaf: bool,
    /// The next picture is to be the keyframe that did not come.
    owed: bool,
    failures: Vec<Failure>,
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
    pub fn new(table: &[PictureEncoder], lost: LostDevices, coding: Coding) -> Coder {
        Coder {
            table: lost.left_of(table),
            lost,
            coding,
            work: None,
            in_use: None,
            era: 0,
            inside: 0,
            gave: false,
            asked: None,
            deaf: false,
            owed: false,
            failures: Vec::new(),
        }
    }

    /// The factory that encodes.
    pub fn factory(&self) -> Option<&'static str> {
        self.table.front().map(|encoder| encoder.factory)
    }

    /// Encoders that failed since the last call.
    pub fn take_failures(&mut self) -> Vec<Failure> {
        std::mem::take(&mut self.failures)
    }

    /// Takes a picture; gives the units that are ready. Fails when no encoder is left.
    pub fn push(&mut self, picture: &gst::Buffer, key: bool) -> Result<Vec<PictureUnit>, MediaError> {
        let mut units = Vec::new();
        loop {
            match self.encode(picture, key, &mut units) {
                Ok(()) => return Ok(units),
                Err(error) => {
                    // what it had done is good
                    if let Some(work) = self.work.take() {
                        self.units(work.take(), &mut units);
                    }
                    self.failed(&error);
                    if self.table.is_empty() {
                        return Err(error);
                    }
                    self.era += 1;
                }
            }
        }
    }

    fn failed(&mut self, error: &MediaError) {
        self.in_use = None;
        let Some(encoder) = self.table.pop_front() else { return };
        let stopped = self.gave || matches!(error, MediaError::Hangs(_));
        let lost = encoder.hardware && stopped && self.lost.note(encoder.factory);
        self.failures.push(Failure { factory: encoder.factory, why: error.to_string(), lost });
        (self.gave, self.asked, self.deaf, self.owed) = (false, None, false, false);
    }

    fn encode(&mut self, picture: &gst::Buffer, key: bool, units: &mut Vec<PictureUnit>) -> Result<(), MediaError> {
        let key = key || std::mem::take(&mut self.owed);
        if key && self.deaf {
            self.end(RENEWAL, units)?;
        }
        let fresh = self.work.is_none();
        if fresh {
            let encoder =
                self.table.front().ok_or_else(|| MediaError::Pipeline("there is no encoder for pictures".into()))?;
            self.work = Some(Work::new(encoder, &self.coding)?);
            self.in_use = None;
            self.in_use = Some(InUse::new(encoder.factory));
            self.inside = 0;
        }
        let work = self.work.as_ref().expect("made above");
        if let Some(error) = work.broken() {
            return Err(error);
        }
        if key && !fresh && self.asked.is_none() {
            self.asked = picture.pts().map(|pts| Duration::from_nanos(pts.nseconds()));
        }
        let out = work.push(picture.clone(), key && !fresh)?;
        self.inside += 1;
        let pictures = out.iter().filter(|out| matches!(out, Out::Buffer(_))).count() as u32;
        self.inside = self.inside.saturating_sub(pictures);
        self.units(out, units);
        if self.inside > MOST_INSIDE * self.coding.fps {
            return Err(MediaError::Hangs(format!("{} pictures went in and none came out", self.inside)));
        }
        Ok(())
    }

    /// What is still inside, waiting at most so long for a device, and why that may not be all.
    pub fn finish(&mut self, within: Duration) -> (Vec<PictureUnit>, Result<(), MediaError>) {
        let mut units = Vec::new();
        let ended = self.end(within, &mut units);
        self.in_use = None;
        (units, ended)
    }

    fn end(&mut self, within: Duration, units: &mut Vec<PictureUnit>) -> Result<(), MediaError> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let ended = work.finish_within(within);
        let (out, ended) = match ended {
            Ok(out) => (out, Ok(())),
            Err(e) => (work.take(), Err(e)),
        };
        self.units(out, units);
        ended
    }

    fn units(&mut self, out: Vec<Out>, units: &mut Vec<PictureUnit>) {
        let size = (self.coding.size.width, self.coding.size.height);
        for out in out {
            let Out::Buffer(buffer) = out else { continue };
            let Some(mut unit) = unit(buffer, None, size, (self.era, 0)) else { continue };
            // parsers take a picture without motion for a keyframe: some encoders make such a one when they are asked
            unit.key = unit.key && begins_anew(&unit.bytes);
            self.gave = true;
            if self.asked.is_some_and(|asked| unit.pts + EXACT >= asked) {
                self.asked = None;
                (self.deaf, self.owed) = (self.deaf || !unit.key, !unit.key);
            }
            units.push(unit);
        }
    }
}

/// Whether a unit can be decoded without those before it.
fn begins_anew(bytes: &gst::Buffer) -> bool {
    bytes.map_readable().is_ok_and(|bytes| h264::units(&bytes).any(|unit| h264::kind(unit) == h264::IDR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::encoder::mixing_encoders;

    #[test]
    fn no_lane_begins_with_a_device_that_was_lost() {
        let (lost, table) = (LostDevices::default(), mixing_encoders());
        let first = |lost: &LostDevices| lost.left_of(table).front().map(|encoder| encoder.factory);
        assert_eq!(first(&lost), Some("nvv4l2h264enc"));
        assert!(lost.note("nvv4l2h264enc") && !lost.clone().note("nvv4l2h264enc"), "it is told once");
        assert_eq!(first(&lost), Some("v4l2h264enc"));
        let all = table.iter().filter(|encoder| lost.note(encoder.factory)).count();
        assert_eq!((all, first(&lost)), (table.len() - 1, Some("nvv4l2h264enc")), "rather one that failed than none");
    }
}
