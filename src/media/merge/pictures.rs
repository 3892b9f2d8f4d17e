//! Pictures that are coded anew: decoded, brought to one size, taken at a constant rate, coded.
//!
//! Owns: which decoded picture is seen when. Must not touch: sound, files.
//! Law: a section begins black and is left black; within it the last picture stands until the next. A picture is seen at
//! the tick next to its time. What cannot be decoded costs the rest of its file, and is named.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use gstreamer as gst;

use super::{MergeError, Picture, Reader, Unit, name};
use crate::media::canvas::Shape;
use crate::media::chain::{Chain, Out};
use crate::media::coder::{Coder, LostDevices};
use crate::media::picture::PictureUnit;
use crate::media::{MediaError, probe};
use crate::model::encoder::{Coding, PictureEncoder, mixing_encoders};
use crate::model::merge::{Output, Placed, SECOND};
use crate::model::mix::Size;

/// Most seconds between two keyframes: how exactly a player can seek.
const GOP: u32 = 5;
/// Bits that a pixel gets, in hundredths: what a talking head needs to look as it did.
const HUNDREDTHS_PER_PIXEL: u64 = 12;
const LEAST_BITRATE: u64 = 300_000;
/// For what a device still has inside.
const CODER_END: Duration = Duration::from_secs(10);

pub(super) struct Coded<'a> {
    length: i64,
    sections: &'a [(i64, i64)],
    fps: i64,
    decoded: Decoded<'a>,
    coder: Coder,
    black: gst::Buffer,
    /// What is seen now, and since when.
    seen: Option<gst::Buffer>,
    section: Option<usize>,
    tick: i64,
    ready: VecDeque<PictureUnit>,
    over: bool,
}

fn ns(ticks: i64) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(u64::try_from(i128::from(ticks) * 100_000 / 9).unwrap_or(0))
}

/// The encoders to use, best first: those of the table that are there; devices only when they pass a trial.
fn encoders() -> Vec<PictureEncoder> {
    let there = |encoder: &&PictureEncoder| gst::ElementFactory::find(encoder.factory).is_some();
    let mut table: Vec<PictureEncoder> = mixing_encoders().iter().filter(there).copied().collect();
    if table.iter().any(|encoder| encoder.hardware) {
        let devices: Vec<PictureEncoder> = table.iter().filter(|encoder| encoder.hardware).copied().collect();
        let works = probe::probe(&devices, probe::TRIAL_LIMIT, &Default::default(), |_| {}).working();
        table.retain(|encoder| !encoder.hardware || works.iter().any(|works| works == encoder.factory));
    }
    table
}

impl<'a> Coded<'a> {
    pub fn new(
        output: &'a Output,
        files: &'a [PathBuf],
        size: Size,
        fps: u32,
        told: &'a dyn Fn(u64),
    ) -> Result<Coded<'a>, MergeError> {
        let table = encoders();
        if table.is_empty() {
            return Err(MediaError::MissingElement("x264enc", "gstreamer1.0-plugins-ugly").into());
        }
        let decoder = probe::decoder().ok_or(MediaError::MissingElement("avdec_h264", "gstreamer1.0-libav"))?.whole;
        let pixels = u64::from(size.width) * u64::from(size.height) * u64::from(fps);
        let bitrate = (pixels * HUNDREDTHS_PER_PIXEL / 100).clamp(LEAST_BITRATE, 50_000_000);
        let coding = Coding { size, fps, bitrate: u32::try_from(bitrate).expect("it was clamped"), gop: GOP };
        let described = format!(
            "h264parse ! capsfilter caps=video/x-h264,stream-format=byte-stream,alignment=au ! {decoder} ! \
             videoconvert ! videoscale add-borders=true ! capsfilter caps=video/x-raw,format=I420,width={},height={},\
             pixel-aspect-ratio=1/1",
            size.width, size.height
        );
        Ok(Coded {
            length: output.length,
            sections: &output.sections,
            fps: i64::from(fps),
            decoded: Decoded {
                reader: Reader::new(files, &output.pictures, true, told),
                files,
                described,
                chain: None,
                ready: VecDeque::new(),
                over: false,
                notes: Vec::new(),
            },
            coder: Coder::new(&table, LostDevices::default(), coding),
            black: black(size),
            seen: None,
            section: None,
            tick: 0,
            ready: VecDeque::new(),
            over: false,
        })
    }

    /// What went wrong on the way.
    pub fn into_notes(mut self) -> Vec<String> {
        let mut notes = self.decoded.notes;
        let failures = self.coder.take_failures();
        notes.extend(failures.into_iter().map(|failure| format!("{}: {}", failure.factory, failure.why)));
        notes
    }

    pub fn next(&mut self) -> Result<Option<Picture>, MergeError> {
        loop {
            if let Some(unit) = self.ready.pop_front() {
                let map = unit.bytes.map_readable().map_err(|e| MediaError::Pipeline(e.to_string()))?;
                // the tick that it was made for
                let nanos = unit.pts.as_nanos() as i128;
                let tick = (nanos * i128::from(self.fps) + 500_000_000) / 1_000_000_000;
                let pts = i64::try_from(tick).unwrap_or(i64::MAX) * SECOND / self.fps;
                return Ok(Some(Picture { pts, dts: pts, key: unit.key, bytes: map.to_vec() }));
            }
            if self.over {
                return Ok(None);
            }
            let at = self.tick * SECOND / self.fps;
            if at >= self.length {
                self.over = true;
                let (units, ended) = self.coder.finish(CODER_END);
                ended?;
                self.ready.extend(units);
                continue;
            }
            let key = self.look(at)?;
            let mut picture = self.seen.as_ref().unwrap_or(&self.black).copy();
            {
                let picture = picture.make_mut();
                picture.set_pts(ns(at));
                picture.set_dts(gst::ClockTime::NONE);
                picture.set_duration(ns(SECOND / self.fps));
            }
            self.ready.extend(self.coder.push(&picture, key)?);
            self.tick += 1;
        }
    }

    /// Brings what is seen up to a time. Says whether another section begins.
    fn look(&mut self, at: i64) -> Result<bool, MergeError> {
        let half = SECOND / self.fps / 2;
        let inside = |(from, until): &(i64, i64)| (*from..*until).contains(&at);
        let section = self.sections.iter().position(inside);
        let begins = section != self.section;
        if begins {
            self.section = section;
            self.seen = None;
        }
        while self.decoded.front()?.is_some_and(|(next, _)| next <= at + half) {
            let Some((shown_at, picture)) = self.decoded.ready.pop_front() else { break };
            let here = section.is_some_and(|n| self.sections[n].0 <= shown_at + half);
            self.seen = here.then_some(picture);
        }
        Ok(begins)
    }
}

/// The pictures of all files, in the order in which they are seen, each at the size that was asked for.
struct Decoded<'a> {
    reader: Reader<'a>,
    files: &'a [PathBuf],
    described: String,
    chain: Option<(Placed, Chain)>,
    ready: VecDeque<(i64, gst::Buffer)>,
    over: bool,
    notes: Vec<String>,
}

impl Decoded<'_> {
    fn front(&mut self) -> Result<Option<(i64, &gst::Buffer)>, MergeError> {
        while self.ready.is_empty() && !self.over {
            self.decode()?;
        }
        Ok(self.ready.front().map(|(at, picture)| (*at, picture)))
    }

    fn decode(&mut self) -> Result<(), MergeError> {
        let unit = self.reader.next(false)?;
        let place = self.reader.place();
        if self.chain.as_ref().is_some_and(|(of, _)| Some(*of) != place) {
            self.drain();
        }
        let Some(Unit::Picture { pts, dts, key, bytes }) = unit else {
            self.over = true;
            return Ok(());
        };
        let place = place.expect("a unit comes from somewhere");
        if self.chain.is_none() {
            let caps = gst::Caps::builder("video/x-h264")
                .field("stream-format", "byte-stream")
                .field("alignment", "au")
                .build();
            self.chain = Some((place, Chain::new(&self.described, &caps)?));
        }
        let (_, chain) = self.chain.as_ref().expect("made above");
        // times before the line have no place in a buffer: all are moved by a second
        let mut buffer = gst::Buffer::from_slice(bytes);
        {
            let buffer = buffer.get_mut().expect("a new buffer has one owner");
            buffer.set_pts(ns(pts - place.from + SECOND * 3600));
            buffer.set_dts(ns(dts - place.from + SECOND * 3600));
            if !key {
                buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
        }
        let pushed = chain.push(buffer);
        let out = chain.take();
        self.take(place, out);
        if let Err(error) = pushed {
            self.broke(place, &error);
        }
        Ok(())
    }

    fn broke(&mut self, place: Placed, error: &MediaError) {
        let note = format!("{}: a picture cannot be decoded: {error}", name(&self.files[place.file]));
        if self.notes.last() != Some(&note) {
            self.notes.push(note);
        }
        self.chain = None;
    }

    /// What is still in the decoder of a file that is over.
    fn drain(&mut self) {
        let Some((place, chain)) = self.chain.take() else { return };
        match chain.finish() {
            Ok(out) => self.take(place, out),
            Err(error) => self.broke(place, &error),
        }
    }

    fn take(&mut self, place: Placed, out: Vec<Out>) {
        for out in out {
            let Out::Buffer(picture) = out else { continue };
            let Some(pts) = picture.pts() else { continue };
            let ticks = (i128::from(pts.nseconds()) * 9 + 50_000) / 100_000;
            let at = i64::try_from(ticks).unwrap_or(i64::MAX) - SECOND * 3600 + place.from;
            if at >= place.from && at < place.until {
                self.ready.push_back((at, picture));
            }
        }
    }
}

fn black(size: Size) -> gst::Buffer {
    let shape = Shape::of(size);
    let mut bytes = vec![16; shape.bytes];
    bytes[shape.offsets[1]..].fill(128);
    gst::Buffer::from_slice(bytes)
}
