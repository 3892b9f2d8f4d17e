//! What a packed file says of its samples: sizes, times, keyframes, and the chunks in which they lie.
//!
//! Owns: one track's tables while they grow. Must not touch: bytes of samples, offsets in the file.
//! Law: samples are told apart only where they differ: times are kept in runs, and a day of two tracks fits in tens of
//! megabytes. Where media stops, its time goes on: the last picture stands or black follows, and silence is filled in.
//! Sources: ISO/IEC 14496-12 §8.6 (times), §8.7 (sizes, chunks).

use super::black::Black;
use crate::container::adts::{FRAME, SoundForm, silence};
use crate::container::mp4::{Described, Runs};
use crate::model::package::TICKS;

/// A chunk holds so much of one track.
const CHUNK: i64 = TICKS;
/// What a picture lasts when there is no other to tell.
const USUAL_PERIOD: i64 = 3_000;
/// A picture that stood longer was no regular frame.
const LONGEST_PERIOD: i64 = TICKS / 2;
/// Sound that is off by less has only been rounded.
const TOLERANCE: i64 = TICKS / 1_000;

/// Samples that lie behind one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// On the file's line, ticks.
    pub time: i64,
    pub samples: u32,
    pub bytes: u64,
    /// Which description they have, from 0.
    pub description: u32,
    pub from: From,
}

/// Where a chunk's samples are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// So many-th source, from this unit on.
    Pictures {
        source: u32,
        first: u32,
    },
    Sounds {
        source: u32,
        first: u32,
    },
    Silence,
    Black,
}

impl From {
    fn goes_on(self, samples: u32, next: From) -> bool {
        match (self, next) {
            (From::Pictures { source, first }, From::Pictures { source: s, first: f })
            | (From::Sounds { source, first }, From::Sounds { source: s, first: f }) => {
                source == s && first + samples == f
            }
            (From::Silence, From::Silence) => true,
            _ => false,
        }
    }
}

#[derive(Debug, Default)]
pub struct Samples {
    pub sizes: Vec<u32>,
    pub deltas: Runs<u32>,
    pub chunks: Vec<Chunk>,
}

impl Samples {
    fn add(&mut self, time: i64, bytes: u32, description: u32, from: From) {
        self.sizes.push(bytes);
        if let Some(last) = self.chunks.last_mut()
            && last.description == description
            && time < last.time + CHUNK
            && last.from.goes_on(last.samples, from)
        {
            last.samples += 1;
            last.bytes += u64::from(bytes);
            return;
        }
        self.chunks.push(Chunk { time, samples: 1, bytes: u64::from(bytes), description, from });
    }
}

/// A picture that is added.
#[derive(Debug, Clone, Copy)]
pub struct NewPicture {
    pub source: u32,
    pub index: u32,
    pub pts: i64,
    pub dts: i64,
    pub key: bool,
    pub bytes: u32,
}

/// The track of pictures; its times are ticks.
#[derive(Debug, Default)]
pub struct PictureTrack {
    pub samples: Samples,
    pub offsets: Runs<i32>,
    pub keys: Vec<u32>,
    pub descriptions: Vec<Described>,
    /// Black pictures, by the description that they have.
    pub blacks: Vec<(u32, Black)>,
    black_after: Option<i64>,
    pub first: Option<i64>,
    last: i64,
    period: i64,
    description: u32,
    /// Where the last picture ends, once the track is finished.
    pub end: i64,
}

impl PictureTrack {
    pub fn new(black_after: Option<i64>) -> PictureTrack {
        PictureTrack { black_after, period: USUAL_PERIOD, ..PictureTrack::default() }
    }

    /// `described`: the parameter sets before a keyframe.
    pub fn add(&mut self, new: NewPicture, described: Option<Described>) {
        let mut dts = new.dts;
        if self.first.is_some() {
            let gap = dts - self.last;
            if self.wants_black(gap) {
                self.black(self.last + self.period);
            }
            dts = dts.max(self.last + 1);
            if (1..LONGEST_PERIOD).contains(&gap) {
                self.period = gap;
            }
            self.samples.deltas.push(delta(dts - self.last));
        }
        if let Some(described) = described {
            self.description = self.describe(described);
        }
        self.first.get_or_insert(dts);
        self.last = dts;
        let from = From::Pictures { source: new.source, first: new.index };
        self.samples.add(dts, new.bytes, self.description, from);
        self.offsets.push(i32::try_from(new.pts - dts).unwrap_or(0));
        if new.key {
            self.keys.push(self.number());
        }
    }

    /// The last picture lasts as the others did; where sound goes on for long behind it, until the end of the sound.
    pub fn finish(&mut self, sound_end: Option<i64>) {
        if self.first.is_none() {
            return;
        }
        let mut end = self.last + self.period;
        if let Some(sound_end) = sound_end
            && sound_end > end
        {
            if self.wants_black(sound_end - self.last) {
                self.black(end);
            }
            // beyond what is usual: the picture stands as long as something is to be heard
            if sound_end - self.last > LONGEST_PERIOD {
                end = sound_end;
            }
        }
        self.samples.deltas.push(delta(end - self.last));
        self.end = end.max(self.last + 1);
    }

    fn wants_black(&self, gap: i64) -> bool {
        self.black_after.is_some_and(|after| gap - self.period >= after)
    }

    fn black(&mut self, at: i64) {
        let (width, height) = self.descriptions.get(self.description as usize).map_or((640, 360), |d| d.size);
        let black = Black::new(width, height);
        let described = Described { sps: vec![black.sps.clone()], pps: vec![black.pps.clone()], size: (width, height) };
        let description = self.describe(described);
        self.samples.deltas.push(delta(at - self.last));
        self.last = at;
        let bytes = u32::try_from(black.slice.len() + 4).expect("a black picture is small");
        self.samples.add(at, bytes, description, From::Black);
        self.offsets.push(0);
        self.keys.push(self.number());
        if !self.blacks.iter().any(|(there, _)| *there == description) {
            self.blacks.push((description, black));
        }
    }

    fn describe(&mut self, described: Described) -> u32 {
        let found = self.descriptions.iter().position(|there| *there == described);
        let at = found.unwrap_or_else(|| {
            self.descriptions.push(described);
            self.descriptions.len() - 1
        });
        u32::try_from(at).expect("there are few descriptions")
    }

    /// Of the newest sample, from 1.
    fn number(&self) -> u32 {
        u32::try_from(self.samples.sizes.len()).expect("a day has some millions of samples")
    }
}

/// The track of sound; its times are samples of the first frame's rate.
#[derive(Debug, Default)]
pub struct SoundTrack {
    pub samples: Samples,
    pub forms: Vec<SoundForm>,
    /// Frames keep their headers, and times cannot be told: only whole frames of silence fill what is missing.
    adts: bool,
    pub first: Option<i64>,
    /// Where the last frame ends, in samples after the first.
    next: i64,
    /// What the last frame lasts.
    last: i64,
}

impl SoundTrack {
    pub fn new(adts: bool) -> SoundTrack {
        SoundTrack { adts, ..SoundTrack::default() }
    }

    pub fn rate(&self) -> u32 {
        self.forms.first().map_or(48_000, |form| form.rate)
    }

    pub fn adts(&self) -> bool {
        self.adts
    }

    pub fn add(&mut self, source: u32, index: u32, time: i64, form: SoundForm, bytes: u32) {
        let description = self.describe(form);
        let first = *self.first.get_or_insert(time);
        let rate = i64::from(self.rate());
        let lasts = FRAME * rate / i64::from(form.rate);
        if !self.samples.sizes.is_empty() {
            let place = ((time - first) * rate + TICKS / 2).div_euclid(TICKS);
            let ahead = place - self.next;
            if ahead.abs() * TICKS > TOLERANCE * rate {
                self.bridge(ahead, lasts, form, description);
            }
            self.samples.deltas.push(delta(self.last));
        }
        self.last = lasts;
        self.samples.add(self.time(), bytes, description, From::Sounds { source, first: index });
        self.next += lasts;
    }

    /// So many samples are missing before the next frame, or it comes so early.
    fn bridge(&mut self, ahead: i64, lasts: i64, form: SoundForm, description: u32) {
        let mut ahead = ahead;
        while ahead >= lasts
            && let Some(silence) = silence(form)
        {
            self.samples.deltas.push(delta(self.last));
            self.last = lasts;
            let header = if self.adts { 7 } else { 0 };
            let bytes = u32::try_from(silence.len() + header).expect("silence is short");
            self.samples.add(self.time(), bytes, description, From::Silence);
            self.next += lasts;
            ahead -= lasts;
        }
        // the rest is stretched or cut off the last frame's time, as far as it has some
        if !self.adts {
            let rest = ahead.max(1 - self.last);
            self.last += rest;
            self.next += rest;
        }
    }

    pub fn finish(&mut self) {
        if !self.samples.sizes.is_empty() {
            self.samples.deltas.push(delta(self.last));
        }
    }

    /// Where the next frame begins, in ticks.
    pub fn time(&self) -> i64 {
        self.first.unwrap_or(0) + self.next * TICKS / i64::from(self.rate())
    }

    pub fn length(&self) -> i64 {
        self.next
    }

    fn describe(&mut self, form: SoundForm) -> u32 {
        let found = self.forms.iter().position(|there| *there == form);
        let at = found.unwrap_or_else(|| {
            self.forms.push(form);
            self.forms.len() - 1
        });
        u32::try_from(at).expect("there are few descriptions")
    }
}

fn delta(ticks: i64) -> u32 {
    u32::try_from(ticks.max(1)).unwrap_or(u32::MAX)
}
