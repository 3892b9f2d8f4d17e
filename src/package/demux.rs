//! A transport stream taken apart: pictures and frames of sound, each once and in order.
//!
//! Owns: packets, PES, access units and ADTS frames of one file in memory. Must not touch: where the file lies; what is
//! made of it.
//! Law: every access unit that is whole comes out, byte for byte; what is torn is left out and breaks nothing else.
//! Sources: ISO/IEC 13818-1 §2.4.3 (packets, PES), §2.4.4 (tables); H.264 Annex B; ISO/IEC 13818-7 §6.2 (ADTS).

use std::collections::BTreeMap;
use std::ops::Range;

use memchr::memmem;

const PACKET: usize = 188;
const SYNC: u8 = 0x47;
const TYPE_H264: u8 = 0x1b;
const TYPE_ADTS: u8 = 0x0f;
/// PTS count at 90 kHz in 33 bits.
const PTS_WRAP: i64 = 1 << 33;
/// Samples of a frame of AAC-LC.
pub const FRAME: u32 = 1024;

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
    pub coding: Coding,
    at: u32,
    header: u32,
    end: u32,
}

/// What a decoder must know of frames of AAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// Audio object type.
    pub object: u8,
    pub rate_index: u8,
    pub channels: u8,
}

impl Coding {
    pub fn rate(self) -> u32 {
        const RATES: [u32; 13] =
            [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
        RATES.get(usize::from(self.rate_index)).copied().unwrap_or(48_000)
    }

    /// A frame of nothing, as every encoder of AAC-LC could have made it; for more than two channels there is none.
    pub fn silence(self) -> Option<&'static [u8]> {
        match self.channels {
            1 => Some(&[0x00, 0xc8, 0x00, 0x80, 0x23, 0x80]),
            2 => Some(&[0x21, 0x00, 0x49, 0x90, 0x02, 0x19, 0x00, 0x23, 0x80]),
            _ => None,
        }
    }

    /// The header before a frame of so many bytes, without a checksum.
    pub fn adts(self, payload: usize) -> [u8; 7] {
        let length = payload + 7;
        [
            0xff,
            0xf1,
            (self.object - 1) << 6 | self.rate_index << 2 | self.channels >> 2,
            (self.channels & 3) << 6 | (length >> 11) as u8 & 3,
            (length >> 3) as u8,
            (length << 5) as u8 | 0x1f,
            0xfc,
        ]
    }
}

/// `a - b` on a clock of 33 bits: the nearest of all that it may be.
pub fn clock_difference(a: i64, b: i64) -> i64 {
    (a - b + PTS_WRAP / 2).rem_euclid(PTS_WRAP) - PTS_WRAP / 2
}

impl Demuxed {
    pub fn of(file: &[u8]) -> Demuxed {
        let mut streams = Streams { file: file.len(), ..Streams::default() };
        for packet in file.chunks_exact(PACKET) {
            // what follows a hole is not where it seems to be
            if packet[0] != SYNC {
                break;
            }
            streams.packet(packet);
        }
        let Streams { pictures, sounds, .. } = streams;
        let mut demuxed = Demuxed { pictures: pictures.bytes, sounds: sounds.bytes, ..Demuxed::default() };
        let first = pictures.marks.iter().chain(&sounds.marks).map(|mark| mark.pts);
        let Some(some) = first.clone().next() else { return demuxed };
        let least = first.map(|pts| clock_difference(pts, some)).min().unwrap_or(0);
        demuxed.first = (some + least).rem_euclid(PTS_WRAP);
        demuxed.find_pictures(&pictures.marks);
        demuxed.find_sounds(&sounds.marks);
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

    fn find_pictures(&mut self, marks: &[Mark]) {
        let ends = marks.iter().skip(1).map(|mark| mark.at).chain([self.pictures.len()]);
        for (mark, end) in marks.iter().zip(ends) {
            let from = self.nals.len();
            find_nals(&self.pictures, mark.at..end, &mut self.nals);
            let nals = index(from)..index(self.nals.len());
            if nals.is_empty() {
                continue;
            }
            let kinds = self.nals[from..].iter().map(|nal| self.pictures[nal.start as usize] & 0x1f);
            let idr = kinds.clone().any(|kind| kind == 5);
            if !kinds.clone().any(|kind| (1..=5).contains(&kind)) {
                self.nals.truncate(from);
                continue;
            }
            let pts = clock_difference(mark.pts, self.first);
            self.units.push(Picture { pts, dts: pts, key: idr || mark.random_access, nals });
        }
        if self.units.windows(2).any(|pair| pair[1].pts < pair[0].pts) {
            let mut times: Vec<i64> = self.units.iter().map(|unit| unit.pts).collect();
            times.sort_unstable();
            self.units.iter_mut().zip(times).for_each(|(unit, dts)| unit.dts = dts);
        }
    }

    fn find_sounds(&mut self, marks: &[Mark]) {
        let mut at = marks.first().map_or(0, |mark| mark.at);
        let (mut next, mut since) = (0, 0);
        let mut base = 0;
        while let Some((header, end, coding)) = adts(&self.sounds, at) {
            // a PES tells the time of the first frame that begins in it
            if let Some(mark) = marks.get(next)
                && mark.at <= at
            {
                base = clock_difference(mark.pts, self.first);
                since = 0;
                next += 1;
            }
            let pts = base + i64::from(since * FRAME) * 90_000 / i64::from(coding.rate());
            since += 1;
            self.frames.push(Sound { pts, coding, at: index(at), header: index(header), end: index(end) });
            at = end;
            // behind something that is no frame, a PES begins with one
            if adts(&self.sounds, at).is_none()
                && let Some(mark) = marks[next.min(marks.len())..].iter().find(|mark| mark.at >= at)
            {
                at = mark.at;
            }
        }
    }
}

fn index(n: usize) -> u32 {
    u32::try_from(n).expect("files of a shelf are below 4 GB")
}

/// Where the NAL units of a byte stream are, without the zeros between them.
fn find_nals(bytes: &[u8], within: Range<usize>, nals: &mut Vec<Range<u32>>) {
    let unit = &bytes[within.clone()];
    let mut begun: Option<usize> = None;
    let mut end_at = |begin: usize, mut end: usize| {
        while end > begin && unit[end - 1] == 0 {
            end -= 1;
        }
        if end > begin {
            nals.push(index(within.start + begin)..index(within.start + end));
        }
    };
    for code in memmem::find_iter(unit, &[0, 0, 1]) {
        if let Some(begin) = begun {
            end_at(begin, code);
        }
        begun = Some(code + 3);
    }
    if let Some(begin) = begun {
        end_at(begin, unit.len());
    }
}

/// The frame that begins here: where its payload begins, where it ends, its coding. `None`: there is no whole one.
fn adts(bytes: &[u8], at: usize) -> Option<(usize, usize, Coding)> {
    let header = bytes.get(at..at + 7)?;
    if header[0] != 0xff || header[1] & 0xf6 != 0xf0 {
        return None;
    }
    let coding = Coding {
        object: (header[2] >> 6) + 1,
        rate_index: header[2] >> 2 & 0x0f,
        channels: (header[2] & 1) << 2 | header[3] >> 6,
    };
    let length = usize::from(header[3] & 3) << 11 | usize::from(header[4]) << 3 | usize::from(header[5] >> 5);
    let header_bytes = if header[1] & 1 == 1 { 7 } else { 9 };
    if coding.rate_index > 12 || length <= header_bytes || at + length > bytes.len() {
        return None;
    }
    Some((at + header_bytes, at + length, coding))
}

/// A PES packet's beginning in its stream.
struct Mark {
    at: usize,
    pts: i64,
    random_access: bool,
}

#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
    /// The next packet of it must have this counter.
    counter: Option<u8>,
    /// Packets are missing: what comes belongs to a unit that is torn.
    torn: bool,
}

#[derive(Default)]
struct Streams {
    map: Option<u16>,
    kinds: BTreeMap<u16, u8>,
    pictures: Stream,
    sounds: Stream,
    /// Length of the file, and so more than what its pictures take.
    file: usize,
}

impl Streams {
    fn packet(&mut self, packet: &[u8]) {
        let pid = u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff;
        let (start, adapted, filled) = (packet[1] & 0x40 != 0, packet[3] & 0x20 != 0, packet[3] & 0x10 != 0);
        let skipped = if adapted { 5 + usize::from(packet[4]) } else { 4 };
        let (Some(payload), true) = (packet.get(skipped..), filled) else { return };
        if pid == 0 && start {
            self.map = program_map(payload);
        } else if Some(pid) == self.map && start {
            self.streams(payload);
        } else if let Some(kind) = self.kinds.get(&pid) {
            let random_access = adapted && packet[4] > 0 && packet[5] & 0x40 != 0;
            let stream = if *kind == TYPE_H264 { &mut self.pictures } else { &mut self.sounds };
            stream.payload(payload, start, packet[3] & 0x0f, random_access);
        }
    }

    /// The first H.264 and the first AAC stream of the program.
    fn streams(&mut self, payload: &[u8]) {
        let Some(table) = payload.first().and_then(|skip| payload.get(1 + usize::from(*skip)..)) else { return };
        let [2, high, low, ..] = table else { return };
        let end = 3 + (usize::from(high & 0x0f) << 8 | usize::from(*low));
        // behind it is the checksum
        let Some(body) = table.get(..end.saturating_sub(4)) else { return };
        let Some([a, b]) = body.get(10..12) else { return };
        let mut at = 12 + (usize::from(a & 0x0f) << 8 | usize::from(*b));
        self.kinds.clear();
        while let Some([kind, a, b, c, d]) = body.get(at..at + 5) {
            let known = matches!(*kind, TYPE_H264 | TYPE_ADTS) && !self.kinds.values().any(|there| there == kind);
            if known {
                if *kind == TYPE_H264 && self.pictures.bytes.capacity() == 0 {
                    self.pictures.bytes.reserve_exact(self.file);
                }
                self.kinds.insert(u16::from_be_bytes([*a, *b]) & 0x1fff, *kind);
            }
            at += 5 + (usize::from(c & 0x0f) << 8 | usize::from(*d));
        }
    }
}

impl Stream {
    fn payload(&mut self, payload: &[u8], start: bool, counter: u8, random_access: bool) {
        let joins = self.counter.is_none_or(|expected| expected == counter);
        self.counter = Some((counter + 1) & 0x0f);
        if start {
            self.torn = false;
            let Some((skip, pts)) = pes(payload) else {
                self.torn = true;
                return;
            };
            self.marks.push(Mark { at: self.bytes.len(), pts, random_access });
            self.bytes.extend_from_slice(&payload[skip..]);
            return;
        }
        if !joins && !self.torn {
            self.torn = true;
            // the unit that was begun is not whole
            if let Some(mark) = self.marks.pop() {
                self.bytes.truncate(mark.at);
            }
        }
        if !self.torn && !self.marks.is_empty() {
            self.bytes.extend_from_slice(payload);
        }
    }
}

/// The PID of the first program's map.
fn program_map(payload: &[u8]) -> Option<u16> {
    let table = payload.get(1 + usize::from(*payload.first()?)..)?;
    let [0, _, _, _, _, _, _, _, _, _, high, low, ..] = table else { return None };
    Some(u16::from_be_bytes([*high, *low]) & 0x1fff)
}

/// Length of a PES header, and its PTS.
fn pes(payload: &[u8]) -> Option<(usize, i64)> {
    let [0, 0, 1, _, _, _, _, flags, length, a, b, c, d, e, ..] = payload else { return None };
    if flags & 0x80 == 0 {
        return None;
    }
    let pts = i64::from(a >> 1 & 7) << 30
        | i64::from(*b) << 22
        | i64::from(c >> 1) << 15
        | i64::from(*d) << 7
        | i64::from(e >> 1);
    let skip = 9 + usize::from(*length);
    (skip <= payload.len()).then_some((skip, pts))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nal_units_are_found_without_what_is_between_them() {
        let bytes = [9, 9, 0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0, 0, 0, 0, 1, 0x65, 0, 3, 0, 0];
        let mut nals = Vec::new();
        find_nals(&bytes, 2..bytes.len(), &mut nals);
        let found: Vec<&[u8]> = nals.iter().map(|n| &bytes[n.start as usize..n.end as usize]).collect();
        assert_eq!(found, [&[0x67, 1][..], &[0x68, 2], &[0x65, 0, 3]]);
    }

    #[test]
    fn a_header_of_adts_reads_back() {
        let coding = Coding { object: 2, rate_index: 3, channels: 2 };
        let mut bytes = coding.adts(9).to_vec();
        bytes.extend_from_slice(coding.silence().unwrap());
        assert_eq!(adts(&bytes, 0), Some((7, 16, coding)));
        assert_eq!(adts(&bytes[..15], 0), None);
        assert_eq!(coding.rate(), 48_000);
    }

    #[test]
    fn a_clock_that_turned_over_is_near() {
        assert_eq!(clock_difference(10, PTS_WRAP - 10), 20);
        assert_eq!(clock_difference(PTS_WRAP - 10, 10), -20);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut file = vec![
                SYNC, 0x40, 0, 0x10, 0, 0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xf0, 0, 0, 0, 0, 0,
            ];
            file.resize(PACKET, 0xff);
            file.extend(bytes.chunks(PACKET - 1).flat_map(|chunk| [&[SYNC], chunk].concat()));
            file.resize(file.len().next_multiple_of(PACKET), 0xff);
            let demuxed = Demuxed::of(&file);
            for unit in &demuxed.units {
                let mut out = Vec::new();
                demuxed.put_picture(unit, &mut out);
                prop_assert_eq!(out.len() as u32, demuxed.picture_bytes(unit));
            }
        }
    }
}
