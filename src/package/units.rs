//! A segment taken apart: its pictures and frames of sound, each once and in order, and where they lie.
//!
//! Owns: access units and frames of one file in memory. Must not touch: where the file lies; what is made of it; packets
//! (`container`).
//! Law: every access unit that is whole comes out, byte for byte, once.

use std::ops::Range;

use crate::container::adts::SoundForm;
use crate::container::h264;
use crate::container::ts_in::{self, Demux, Unit, WRAP};

/// A file in memory: its streams without packets, and where their units are.
#[derive(Debug, Default)]
pub struct Demuxed {
    pictures: Vec<u8>,
    sounds: Vec<u8>,
    pub units: Vec<Picture>,
    pub frames: Vec<Sound>,
    nals: Vec<Range<u32>>,
    /// The least PTS of the file, 33 bits; times of units count from here.
    pub first: i64,
}

/// An access unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// 90 kHz, from the file's first.
    pub pts: i64,
    /// When it is decoded: the times of the file in their order.
    pub dts: i64,
    pub key: bool,
    nals: Range<u32>,
}

/// A frame of AAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// 90 kHz, from the file's first.
    pub pts: i64,
    pub form: SoundForm,
    at: u32,
    header: u32,
    end: u32,
}

impl Demuxed {
    pub fn of(file: &[u8]) -> Demuxed {
        let mut demuxed = Demuxed::default();
        let mut least: Option<i64> = None;
        let mut demux = Demux::new(file);
        while let Some(unit) = demux.next_unit().expect("memory can be read") {
            let pts = match unit {
                Unit::Picture(picture) => {
                    if demuxed.pictures.capacity() == 0 {
                        // more than what its pictures take
                        demuxed.pictures.reserve_exact(file.len());
                    }
                    demuxed.add_picture(&picture);
                    picture.pts
                }
                Unit::Sound(sound) => {
                    demuxed.add_sound(&sound);
                    sound.pts
                }
            };
            least = Some(least.map_or(pts, |least| least.min(pts)));
        }
        let least = least.unwrap_or(0);
        demuxed.first = least.rem_euclid(WRAP);
        demuxed.units.iter_mut().for_each(|unit| unit.pts -= least);
        demuxed.frames.iter_mut().for_each(|frame| frame.pts -= least);
        demuxed.decoding_times();
        demuxed
    }

    pub fn is_empty(&self) -> bool {
        self.units.is_empty() && self.frames.is_empty()
    }

    /// What of its contents is kept in memory.
    pub fn bytes(&self) -> usize {
        self.pictures.len() + self.sounds.len()
    }

    pub fn nals(&self, unit: &Picture) -> impl Iterator<Item = &[u8]> {
        let nals = &self.nals[unit.nals.start as usize..unit.nals.end as usize];
        nals.iter().map(|nal| &self.pictures[nal.start as usize..nal.end as usize])
    }

    /// Length of a picture with a length of four bytes before each NAL unit.
    pub fn picture_bytes(&self, unit: &Picture) -> u32 {
        self.nals[unit.nals.start as usize..unit.nals.end as usize].iter().map(|nal| nal.end - nal.start + 4).sum()
    }

    pub fn put_picture(&self, unit: &Picture, out: &mut Vec<u8>) {
        for nal in self.nals(unit) {
            let length = u32::try_from(nal.len()).expect("files of a shelf are below 4 GB");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(nal);
        }
    }

    /// A frame without its header, or with it.
    pub fn sound(&self, frame: &Sound, header: bool) -> &[u8] {
        let from = if header { frame.at } else { frame.header };
        &self.sounds[from as usize..frame.end as usize]
    }

    fn add_picture(&mut self, picture: &ts_in::Picture<'_>) {
        let (mut slices, mut idr) = (false, false);
        for kind in h264::units(picture.bytes).map(h264::kind) {
            slices |= (1..=h264::IDR).contains(&kind);
            idr |= kind == h264::IDR;
        }
        if !slices {
            return;
        }
        let (base, from) = (self.pictures.len(), self.nals.len());
        self.pictures.extend_from_slice(picture.bytes);
        let places = h264::places(picture.bytes);
        self.nals.extend(places.map(|place| index(base + place.start)..index(base + place.end)));
        let nals = index(from)..index(self.nals.len());
        // segments are our own: what they call a keyframe is one, also where a camera refreshes without IDR
        let key = idr || picture.random_access;
        self.units.push(Picture { pts: picture.pts, dts: picture.pts, key, nals });
    }

    fn add_sound(&mut self, sound: &ts_in::Sound<'_>) {
        let at = self.sounds.len();
        self.sounds.extend_from_slice(sound.bytes);
        let (header, end) = (index(at + sound.header), index(self.sounds.len()));
        self.frames.push(Sound { pts: sound.pts, form: sound.form, at: index(at), header, end });
    }

    fn decoding_times(&mut self) {
        if self.units.windows(2).any(|pair| pair[1].pts < pair[0].pts) {
            let mut times: Vec<i64> = self.units.iter().map(|unit| unit.pts).collect();
            times.sort_unstable();
            self.units.iter_mut().zip(times).for_each(|(unit, dts)| unit.dts = dts);
        } else {
            self.units.iter_mut().for_each(|unit| unit.dts = unit.pts);
        }
    }
}

fn index(n: usize) -> u32 {
    u32::try_from(n).expect("files of a shelf are below 4 GB")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::container::adts;
    use crate::container::ts_out::{Streams, TsWriter};

    #[test]
    fn times_count_from_the_least_and_pictures_are_decoded_in_their_order() {
        let form = SoundForm { rate: 48_000, channels: 2, object: 2 };
        let silence = adts::silence(form).unwrap();
        let frame = [&adts::header(form, silence.len()), silence].concat();
        let mut out = Vec::new();
        let mut ts = TsWriter::new();
        ts.begin(Streams { picture: true, sound: true }, false, &mut out);
        for (ms, key, slice) in [(1_000, true, 0x65), (1_080, false, 0x41), (1_040, false, 0x01)] {
            ts.picture(Duration::from_millis(ms), key, &[0, 0, 0, 1, slice, 7], &mut out);
        }
        // no picture is in it
        ts.picture(Duration::from_millis(1_120), true, &[0, 0, 0, 1, 0x67, 7], &mut out);
        ts.sound(Duration::from_millis(990), &[&frame[..], &frame].concat(), &mut out);
        let demuxed = Demuxed::of(&out);
        assert_eq!(demuxed.first, 89_100);
        let units: Vec<_> = demuxed.units.iter().map(|unit| (unit.pts, unit.dts, unit.key)).collect();
        assert_eq!(units, [(900, 900, true), (8_100, 4_500, false), (4_500, 8_100, false)]);
        assert_eq!(demuxed.frames.iter().map(|frame| frame.pts).collect::<Vec<_>>(), [0, 1_920]);
        let mut picture = Vec::new();
        demuxed.put_picture(&demuxed.units[1], &mut picture);
        assert_eq!(picture, [0, 0, 0, 2, 9, 0xf0, 0, 0, 0, 2, 0x41, 7]);
        assert_eq!(demuxed.sound(&demuxed.frames[1], true), frame);
        assert_eq!(demuxed.sound(&demuxed.frames[1], false), silence);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut file = vec![
                0x47, 0x40, 0, 0x10, 0, 0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xf0, 0, 0, 0, 0, 0,
            ];
            file.resize(188, 0xff);
            file.extend(bytes.chunks(187).flat_map(|chunk| [&[0x47], chunk].concat()));
            file.resize(file.len().next_multiple_of(188), 0xff);
            let demuxed = Demuxed::of(&file);
            for unit in &demuxed.units {
                let mut out = Vec::new();
                demuxed.put_picture(unit, &mut out);
                prop_assert_eq!(out.len() as u32, demuxed.picture_bytes(unit));
            }
        }
    }
}
