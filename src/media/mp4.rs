//! MP4 files that play while they load: the index stands before the media, and nothing is copied to bring it there.
//!
//! Owns: times, chunks, the room that is kept for the index. Must not touch: when pictures and sounds are due, what the file
//! is called, how boxes are written (`container`).
//! Law: memory holds tables, never media. Times are true to the tick, and a picture stands until the next. Pictures with
//! other parameter sets belong to another sample entry.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use super::dimensions;
use crate::container::adts::FRAME;
use crate::container::h264::{self, DELIMITER, FILLER, PICTURE_SET, SEQUENCE_SET};
use crate::container::mp4::{self, Chunk, Described, Media, Runs, WIDE_HEAD, unfit};
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
    picture: Option<(Track, Vec<Described>)>,
    sound: Option<(Track, SoundForm)>,
}

#[derive(Default)]
struct Track {
    scale: u32,
    /// When the first one is decoded, and how much later it is seen.
    first: Option<(i64, i64)>,
    last: i64,
    end: i64,
    sizes: Vec<u32>,
    deltas: Runs<u32>,
    offsets: Runs<i32>,
    keys: Vec<u32>,
    chunks: Vec<Chunk>,
    pending: Vec<u8>,
    waiting: u32,
    pending_since: i64,
    /// What describes the samples that wait.
    description: u32,
}

impl Track {
    fn new(scale: u32) -> Track {
        Track { scale, ..Track::default() }
    }

    fn delta(&mut self, next: i64) {
        // thirteen hours of one picture and more are shown as thirteen
        let delta = u32::try_from((next - self.last).max(0)).unwrap_or(u32::MAX);
        self.deltas.push(delta);
    }

    /// Takes the times of a sample; none is decoded before the last.
    fn stamp(&mut self, dts: i64, pts: i64) -> io::Result<()> {
        let dts = match self.first {
            None => dts,
            Some(_) => dts.max(self.last + 1),
        };
        let offset = i32::try_from(pts - dts).map_err(unfit)?;
        if self.first.is_none() {
            self.first = Some((dts, pts - dts));
        } else {
            self.delta(dts);
        }
        self.offsets.push(offset);
        self.last = dts;
        if self.waiting == 0 {
            self.pending_since = dts;
        }
        self.waiting += 1;
        Ok(())
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
        self.chunks.push(Chunk { at: *at, samples: self.waiting, description: self.description });
        *at += self.pending.len() as u64;
        self.pending.clear();
        self.waiting = 0;
        Ok(())
    }

    /// The last one lasts until `end`, or as long as the one before.
    fn close(&mut self, end: i64) {
        if self.first.is_some() {
            let usual = self.deltas.0.last().map_or(1, |(_, delta)| i64::from(*delta));
            self.end = if end > self.last { end } else { self.last + usual };
            self.delta(self.end);
        }
    }

    /// Its length as it plays, ticks of 90 kHz.
    fn length(&self) -> u64 {
        let ticks = i128::from(self.end) * i128::from(SECOND) / i128::from(self.scale);
        u64::try_from(ticks).unwrap_or(0)
    }

    fn told<'a>(&'a self, media: Media<'a>) -> mp4::Track<'a> {
        let (first, offset) = self.first.unwrap_or_default();
        let seen = u64::try_from(i128::from(first + offset) * i128::from(SECOND) / i128::from(self.scale)).unwrap_or(0);
        mp4::Track {
            media,
            scale: self.scale,
            sizes: &self.sizes,
            deltas: &self.deltas,
            chunks: self.chunks.clone(),
            late: seen,
            length: self.length().saturating_sub(seen),
            skipped: u64::try_from(offset).unwrap_or(0),
            duration: u64::try_from(self.end - first).unwrap_or(0),
        }
    }
}

/// Parameter sets with which pictures can be decoded.
fn described(sps: Vec<Vec<u8>>, pps: Vec<Vec<u8>>) -> io::Result<Described> {
    let (Some(set), Some(_)) = (sps.first(), pps.first()) else { return Err(unfit("a parameter set is missing")) };
    let fits = |(width, height): &(u32, u32)| *width.max(height) <= u32::from(u16::MAX);
    let size = dimensions::set_size(set).filter(fits).ok_or_else(|| unfit("a parameter set makes no sense"))?;
    Ok(Described { sps, pps, size })
}

impl Mp4 {
    /// Begins a file, which is empty, with room for the index of what is to come.
    pub fn new(file: File, pictures: bool, sound: Option<SoundForm>, extent: &Extent) -> io::Result<Mp4> {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let head = mp4::brand();
        let chunks = 2 * (extent.seconds * 2 + 2) + extent.bytes / CHUNK_BYTES as u64;
        let index = extent.pictures * PICTURE_ROOM + extent.sounds * SOUND_ROOM + chunks * CHUNK_ROOM + BASE_ROOM;
        let room = head.len() as u64;
        out.write_all(&head)?;
        free(&mut out, index)?;
        let mdat = room + index;
        out.write_all(&mp4::media_head(0, true))?;
        Ok(Mp4 {
            out,
            at: mdat + WIDE_HEAD,
            room,
            mdat,
            picture: pictures.then(|| (Track::new(SECOND as u32), Vec::new())),
            sound: sound.map(|form| (Track::new(form.rate), form)),
        })
    }

    /// One access unit of H.264 as a byte stream; times in ticks of 90 kHz. The first has its parameter sets with it.
    pub fn picture(&mut self, pts: i64, dts: i64, key: bool, unit: &[u8]) -> io::Result<()> {
        let (track, known) = self.picture.as_mut().expect("who writes pictures has said so");
        let (mut sps, mut pps) = (Vec::new(), Vec::new());
        let mut sample = Vec::with_capacity(unit.len() + 64);
        for unit in h264::units(unit) {
            match h264::kind(unit) {
                SEQUENCE_SET => sps.push(unit.to_vec()),
                PICTURE_SET => pps.push(unit.to_vec()),
                // delimiters and stuffing have no place here
                DELIMITER | FILLER => {}
                _ => {
                    sample.extend_from_slice(&u32::try_from(unit.len()).map_err(unfit)?.to_be_bytes());
                    sample.extend_from_slice(unit);
                }
            }
        }
        if sample.is_empty() {
            return Ok(());
        }
        if !sps.is_empty() {
            if pps.is_empty() {
                pps = known.last().map(|last| last.pps.clone()).unwrap_or_default();
            }
            let at = match known.iter().position(|known| known.sps == sps && known.pps == pps) {
                Some(at) => at,
                None => {
                    known.push(described(sps, pps)?);
                    known.len() - 1
                }
            };
            let description = u32::try_from(at).map_err(unfit)?;
            if description != track.description {
                track.flush(&mut self.out, &mut self.at)?;
                track.description = description;
            }
        }
        if known.is_empty() {
            return Err(unfit("the pictures begin without parameter sets"));
        }
        if track.is_full() {
            track.flush(&mut self.out, &mut self.at)?;
        }
        track.stamp(dts, pts)?;
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
        track.stamp(at, at)?;
        track.sizes.push(u32::try_from(frame.len()).map_err(unfit)?);
        track.pending.extend_from_slice(frame);
        Ok(())
    }

    /// Ends the file: pictures stand until `end`. What it gives is on its way to the disk, not synced.
    pub fn finish(mut self, end: i64) -> io::Result<File> {
        if let Some((track, _)) = &mut self.picture {
            track.flush(&mut self.out, &mut self.at)?;
            track.close(end);
        }
        if let Some((track, _)) = &mut self.sound {
            track.flush(&mut self.out, &mut self.at)?;
            let end = track.last + FRAME;
            track.close(end);
        }
        let mut tracks = Vec::new();
        if let Some((track, descriptions)) = self.picture.as_ref().filter(|(track, _)| track.first.is_some()) {
            tracks.push(track.told(Media::Pictures { descriptions, offsets: &track.offsets, keys: &track.keys }));
        }
        if let Some((track, form)) = self.sound.as_ref().filter(|(track, _)| track.first.is_some()) {
            tracks.push(track.told(Media::Sounds { forms: std::slice::from_ref(form) }));
        }
        let duration = tracks.iter().map(|track| track.late + track.length).max().unwrap_or(0);
        // the same recordings give the same file: it has no date
        let index = mp4::index(&tracks, 0, duration, self.at > u64::from(u32::MAX))?;
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
        self.out.seek(SeekFrom::Start(self.mdat))?;
        self.out.write_all(&mp4::media_head(self.at - self.mdat - WIDE_HEAD, true))?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// A box of nothing.
fn free(out: &mut impl Write, bytes: u64) -> io::Result<()> {
    out.write_all(&u32::try_from(bytes).map_err(unfit)?.to_be_bytes())?;
    out.write_all(b"free")?;
    io::copy(&mut io::Read::take(io::repeat(0), bytes - 8), out).map(drop)
}
