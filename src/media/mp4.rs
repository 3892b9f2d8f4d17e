//! MP4 files that play while they load: the index stands before the media, and nothing is copied to bring it there.
//!
//! Owns: boxes, tables, chunks, the room that is kept for the index. Must not touch: when pictures and sounds are due,
//! what the file is called.
//! Law: memory holds tables, never media. Times are true to the tick: a track that begins late says so in its edit list,
//! a picture stands until the next. Pictures with other parameter sets belong to another sample entry.
//! Sources: ISO/IEC 14496-12 (boxes), 14496-15 §5 (H.264 in them), 14496-1 §7.2.6 (esds).

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use mp4_atom::esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig};
use mp4_atom::{
    Audio, Avc1, Avcc, Co64, Codec, Ctts, CttsEntry, Dinf, Dref, DrefEntry, Edts, Elst, ElstEntry, Encode, Esds,
    FourCC, Ftyp, Hdlr, Mdhd, Mdia, Minf, Moov, Mp4a, Mvhd, Smhd, Stbl, Stco, Stsc, StscEntry, Stsd, Stss, Stsz,
    StszSamples, Stts, SttsEntry, Tkhd, Trak, Url, Visual, Vmhd,
};

use super::demux::{FRAME, rate_index, units};
use super::dimensions;
use crate::model::merge::{SECOND, SoundForm};

/// A chunk of media is at most about so long, in seconds, so that sound and picture lie near to each other.
const CHUNK_SECONDS: f64 = 0.5;
/// And not much larger than this.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of index that a picture takes at most: size, time, offset of presentation, keyframe.
const PICTURE_ROOM: u64 = 4 + 8 + 8 + 4;
const SOUND_ROOM: u64 = 4 + 8;
/// Of a chunk: where it is, and how many it has.
const CHUNK_ROOM: u64 = 8 + 12;
const BASE_ROOM: u64 = 16 * 1024;
const MDAT_HEAD: u64 = 16;

/// How much there will be, at most: the room for the index follows from it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    pub pictures: u64,
    pub sounds: u64,
    pub seconds: u64,
    pub bytes: u64,
}

pub(super) struct Mp4 {
    out: BufWriter<File>,
    at: u64,
    room: u64,
    mdat: u64,
    picture: Option<Track<Parameters>>,
    sound: Option<(Track<()>, SoundForm)>,
}

/// What a decoder of pictures must know before the first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parameters {
    sets: Vec<Vec<u8>>,
    pictures: Vec<Vec<u8>>,
}

struct Track<E> {
    scale: u32,
    entries: Vec<E>,
    /// When the first one is decoded, and how much later it is seen.
    first: Option<(i64, i64)>,
    last: i64,
    end: i64,
    sizes: Vec<u32>,
    deltas: Vec<(u32, u32)>,
    offsets: Vec<(u32, i64)>,
    keys: Vec<u32>,
    /// Where, how many, which entry.
    chunks: Vec<(u64, u32, u32)>,
    pending: Vec<u8>,
    waiting: u32,
    pending_since: i64,
    entry: u32,
}

fn run<T: PartialEq>(runs: &mut Vec<(u32, T)>, value: T) {
    match runs.last_mut() {
        Some((count, same)) if *same == value => *count += 1,
        _ => runs.push((1, value)),
    }
}

impl<E> Track<E> {
    fn new(scale: u32) -> Track<E> {
        Track {
            scale,
            entries: Vec::new(),
            first: None,
            last: 0,
            end: 0,
            sizes: Vec::new(),
            deltas: Vec::new(),
            offsets: Vec::new(),
            keys: Vec::new(),
            chunks: Vec::new(),
            pending: Vec::new(),
            waiting: 0,
            pending_since: 0,
            entry: 1,
        }
    }

    fn delta(&mut self, next: i64) {
        // thirteen hours of one picture and more are shown as thirteen
        let delta = u32::try_from((next - self.last).max(0)).unwrap_or(u32::MAX);
        run(&mut self.deltas, delta);
    }

    /// Takes the times of a sample, and says the time it is decoded at: none is before the last.
    fn stamp(&mut self, dts: i64, pts: i64) -> i64 {
        let dts = match self.first {
            None => dts,
            Some(_) => dts.max(self.last + 1),
        };
        if self.first.is_none() {
            self.first = Some((dts, pts - dts));
        } else {
            self.delta(dts);
        }
        run(&mut self.offsets, pts - dts);
        self.last = dts;
        if self.waiting == 0 {
            self.pending_since = dts;
        }
        self.waiting += 1;
        dts
    }

    fn is_full(&self) -> bool {
        let seconds = (self.last - self.pending_since) as f64 / f64::from(self.scale);
        self.waiting > 0 && (seconds >= CHUNK_SECONDS || self.pending.len() >= CHUNK_BYTES)
    }

    fn flush(&mut self, out: &mut impl Write, at: &mut u64) -> io::Result<()> {
        if self.waiting == 0 {
            return Ok(());
        }
        out.write_all(&self.pending)?;
        self.chunks.push((*at, self.waiting, self.entry));
        *at += self.pending.len() as u64;
        self.pending.clear();
        self.waiting = 0;
        Ok(())
    }

    /// The last one lasts until `end`, or as long as the one before.
    fn close(&mut self, end: i64) {
        if self.first.is_some() {
            let usual = self.deltas.last().map_or(1, |(_, delta)| i64::from(*delta));
            self.end = if end > self.last { end } else { self.last + usual };
            self.delta(self.end);
        }
    }

    fn table(&self, codecs: Vec<Codec>) -> Stbl {
        let mut ranges = Vec::<StscEntry>::new();
        for (n, (_, count, entry)) in self.chunks.iter().enumerate() {
            let same = |last: &StscEntry| last.samples_per_chunk == *count && last.sample_description_index == *entry;
            if !ranges.last().is_some_and(same) {
                ranges.push(StscEntry {
                    first_chunk: n as u32 + 1,
                    samples_per_chunk: *count,
                    sample_description_index: *entry,
                });
            }
        }
        let far = self.chunks.last().is_some_and(|(at, ..)| *at > u64::from(u32::MAX));
        let places = || self.chunks.iter().map(|(at, ..)| *at);
        let near = || places().map(|at| u32::try_from(at).expect("the last one is the largest")).collect();
        let late = self.offsets.iter().any(|(_, offset)| *offset != 0);
        let entries = |(count, offset): &(u32, i64)| CttsEntry { sample_count: *count, sample_offset: *offset };
        let all_keys = self.keys.is_empty() || self.keys.len() == self.sizes.len();
        Stbl {
            stsd: Stsd { codecs },
            stts: Stts {
                entries: self
                    .deltas
                    .iter()
                    .map(|(count, delta)| SttsEntry { sample_count: *count, sample_delta: *delta })
                    .collect(),
            },
            ctts: late.then(|| Ctts { entries: self.offsets.iter().map(entries).collect() }),
            stss: (!all_keys).then(|| Stss { entries: self.keys.clone() }),
            stsc: Stsc { entries: ranges },
            stsz: Stsz { samples: StszSamples::Different { sizes: self.sizes.clone() } },
            stco: (!far).then(|| Stco { entries: near() }),
            co64: far.then(|| Co64 { entries: places().collect() }),
            ..Stbl::default()
        }
    }

    /// Its length as it plays, ticks of 90 kHz.
    fn length(&self) -> u64 {
        let ticks = i128::from(self.end) * i128::from(SECOND) / i128::from(self.scale);
        u64::try_from(ticks).unwrap_or(0)
    }

    fn trak(&self, id: u32, size: Option<(u16, u16)>, codecs: Vec<Codec>) -> Trak {
        let (first, offset) = self.first.unwrap_or_default();
        let seen = u64::try_from(i128::from(first + offset) * i128::from(SECOND) / i128::from(self.scale)).unwrap_or(0);
        let media_time = Some(u64::try_from(offset).unwrap_or(0));
        let mut entries =
            vec![ElstEntry { segment_duration: self.length().saturating_sub(seen), media_time, media_rate: 1.into() }];
        if seen > 0 {
            entries.insert(0, ElstEntry { segment_duration: seen, media_time: None, media_rate: 1.into() });
        }
        let url = DrefEntry::Url(Url::default());
        let minf = Minf {
            vmhd: size.is_some().then(Vmhd::default),
            smhd: size.is_none().then(Smhd::default),
            dinf: Dinf { dref: Dref { entries: vec![url] } },
            stbl: self.table(codecs),
            ..Minf::default()
        };
        let (handler, name) = if size.is_some() { (b"vide", "Picture") } else { (b"soun", "Sound") };
        let (width, height) = size.unwrap_or_default();
        Trak {
            tkhd: Tkhd {
                track_id: id,
                duration: self.length(),
                enabled: true,
                in_movie: true,
                volume: if size.is_some() { 0.into() } else { 1.into() },
                width: width.into(),
                height: height.into(),
                ..Tkhd::default()
            },
            edts: Some(Edts { elst: Some(Elst { entries }) }),
            mdia: Mdia {
                mdhd: Mdhd {
                    timescale: self.scale,
                    duration: u64::try_from(self.end - first).unwrap_or(0),
                    language: "und".into(),
                    ..Mdhd::default()
                },
                hdlr: Hdlr { handler: FourCC::new(handler), name: name.into() },
                minf,
            },
            ..Trak::default()
        }
    }
}

fn unfit(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

impl Mp4 {
    /// Begins a file, which is empty, with room for the index of what is to come.
    pub fn new(file: File, pictures: bool, sound: Option<SoundForm>, extent: &Extent) -> io::Result<Mp4> {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let brand = |name: &[u8; 4]| FourCC::new(name);
        let brands = vec![brand(b"isom"), brand(b"iso2"), brand(b"avc1"), brand(b"mp41")];
        let ftyp = Ftyp { major_brand: brand(b"isom"), minor_version: 0x200, compatible_brands: brands };
        let mut head = Vec::new();
        ftyp.encode(&mut head).map_err(unfit)?;
        let chunks = 2 * (extent.seconds * 2 + 2) + extent.bytes / CHUNK_BYTES as u64;
        let index = extent.pictures * PICTURE_ROOM + extent.sounds * SOUND_ROOM + chunks * CHUNK_ROOM + BASE_ROOM;
        let room = head.len() as u64;
        out.write_all(&head)?;
        free(&mut out, index)?;
        let mdat = room + index;
        out.write_all(&[0, 0, 0, 1])?;
        out.write_all(b"mdat")?;
        out.write_all(&[0; 8])?;
        Ok(Mp4 {
            out,
            at: mdat + MDAT_HEAD,
            room,
            mdat,
            picture: pictures.then(|| Track::new(SECOND as u32)),
            sound: sound.map(|form| (Track::new(form.rate), form)),
        })
    }

    /// One access unit of H.264 as a byte stream; times in ticks of 90 kHz. The first has its parameter sets with it.
    pub fn picture(&mut self, pts: i64, dts: i64, key: bool, unit: &[u8]) -> io::Result<()> {
        let track = self.picture.as_mut().expect("who writes pictures has said so");
        let mut found = Parameters { sets: Vec::new(), pictures: Vec::new() };
        let mut sample = Vec::with_capacity(unit.len() + 64);
        for unit in units(unit) {
            match unit[0] & 0x1f {
                7 => found.sets.push(unit.to_vec()),
                8 => found.pictures.push(unit.to_vec()),
                // delimiters and stuffing have no place here
                9 | 12 => {}
                _ => {
                    sample.extend_from_slice(&u32::try_from(unit.len()).map_err(unfit)?.to_be_bytes());
                    sample.extend_from_slice(unit);
                }
            }
        }
        if sample.is_empty() {
            return Ok(());
        }
        if !found.sets.is_empty() {
            if found.pictures.is_empty() {
                found.pictures = track.entries.last().map(|last| last.pictures.clone()).unwrap_or_default();
            }
            let known = track.entries.iter().position(|known| *known == found);
            let entry = known.unwrap_or_else(|| {
                track.entries.push(found);
                track.entries.len() - 1
            });
            let entry = entry as u32 + 1;
            if entry != track.entry {
                track.flush(&mut self.out, &mut self.at)?;
                track.entry = entry;
            }
        }
        if track.entries.is_empty() {
            return Err(unfit("the pictures begin without parameter sets"));
        }
        if track.is_full() {
            track.flush(&mut self.out, &mut self.at)?;
        }
        track.stamp(dts, pts);
        track.sizes.push(u32::try_from(sample.len()).map_err(unfit)?);
        if key {
            track.keys.push(track.sizes.len() as u32);
        }
        track.pending.extend_from_slice(&sample);
        Ok(())
    }

    /// One AAC frame without its header; `at` in samples.
    pub fn sound(&mut self, at: i64, frame: &[u8]) -> io::Result<()> {
        let (track, _) = self.sound.as_mut().expect("who writes sound has said so");
        if track.is_full() {
            track.flush(&mut self.out, &mut self.at)?;
        }
        track.stamp(at, at);
        track.sizes.push(u32::try_from(frame.len()).map_err(unfit)?);
        track.pending.extend_from_slice(frame);
        Ok(())
    }

    /// Ends the file: pictures stand until `end`. What it gives is on its way to the disk, not synced.
    pub fn finish(mut self, end: i64) -> io::Result<File> {
        let mut traks = Vec::new();
        if let Some(track) = &mut self.picture {
            track.flush(&mut self.out, &mut self.at)?;
            track.close(end);
        }
        if let Some((track, _)) = &mut self.sound {
            track.flush(&mut self.out, &mut self.at)?;
            let end = track.last + FRAME;
            track.close(end);
        }
        if let Some(track) = self.picture.as_ref().filter(|track| track.first.is_some()) {
            let entries = track.entries.iter().map(avc1).collect::<io::Result<Vec<_>>>()?;
            let largest = entries.iter().map(|(_, size)| *size).max();
            traks.push(track.trak(1, largest, entries.into_iter().map(|(codec, _)| codec).collect()));
        }
        if let Some((track, form)) = self.sound.as_ref().filter(|(track, _)| track.first.is_some()) {
            traks.push(track.trak(traks.len() as u32 + 1, None, vec![mp4a(form)?]));
        }
        let duration = traks.iter().map(|trak| trak.tkhd.duration).max().unwrap_or(0);
        let next_track_id = traks.len() as u32 + 1;
        let mvhd = Mvhd {
            timescale: SECOND as u32,
            duration,
            rate: 1.into(),
            volume: 1.into(),
            next_track_id,
            creation_time: 0,
            modification_time: 0,
            matrix: Default::default(),
        };
        let moov = Moov { mvhd, meta: None, mvex: None, trak: traks, udta: None, ainf: None };
        let mut index = Vec::new();
        moov.encode(&mut index).map_err(unfit)?;
        let kept = self.mdat - self.room;
        let left = kept.checked_sub(index.len() as u64).filter(|left| *left == 0 || *left >= 8);
        match left {
            Some(left) => {
                self.out.seek(SeekFrom::Start(self.room))?;
                self.out.write_all(&index)?;
                if left > 0 {
                    free(&mut self.out, left)?;
                }
            }
            // it plays all the same, once it is there whole
            None => self.out.write_all(&index)?,
        }
        self.out.seek(SeekFrom::Start(self.mdat + 8))?;
        self.out.write_all(&(self.at - self.mdat).to_be_bytes())?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// A box of nothing.
fn free(out: &mut impl Write, bytes: u64) -> io::Result<()> {
    out.write_all(&u32::try_from(bytes).map_err(unfit)?.to_be_bytes())?;
    out.write_all(b"free")?;
    io::copy(&mut io::Read::take(io::repeat(0), bytes - 8), out).map(drop)
}

fn avc1(parameters: &Parameters) -> io::Result<(Codec, (u16, u16))> {
    let (Some(set), Some(picture)) = (parameters.sets.first(), parameters.pictures.first()) else {
        return Err(unfit("a parameter set is missing"));
    };
    let mut avcc = Avcc::new(set, picture).map_err(unfit)?;
    avcc.sequence_parameter_sets = parameters.sets.clone();
    avcc.picture_parameter_sets = parameters.pictures.clone();
    let (width, height) = dimensions::set_size(set).ok_or_else(|| unfit("a parameter set makes no sense"))?;
    let side = |side: u32| u16::try_from(side).map_err(unfit);
    let size = (side(width)?, side(height)?);
    let visual = Visual { data_reference_index: 1, width: size.0, height: size.1, ..Visual::default() };
    Ok((Codec::Avc1(Avc1 { visual, avcc, ..Avc1::default() }), size))
}

fn mp4a(form: &SoundForm) -> io::Result<Codec> {
    let freq_index = rate_index(form.rate).ok_or_else(|| unfit("sound of an unknown rate"))?;
    let specific = DecoderSpecific { profile: form.object, freq_index, chan_conf: form.channels, raw: Vec::new() };
    let config = DecoderConfig {
        object_type_indication: 0x40,
        stream_type: 5,
        dec_specific: Some(specific),
        ..DecoderConfig::default()
    };
    let es_desc = EsDescriptor { dec_config: config, sl_config: SLConfig::default(), ..EsDescriptor::default() };
    let channel_count = if form.channels == 7 { 8 } else { u16::from(form.channels) };
    let audio = Audio {
        data_reference_index: 1,
        channel_count,
        sample_size: 16,
        // what does not fit says nothing; the stream's own configuration does
        sample_rate: u16::try_from(form.rate).unwrap_or(0).into(),
    };
    Ok(Codec::Mp4a(Mp4a { audio, esds: Esds { es_desc }, btrt: None, taic: None }))
}
