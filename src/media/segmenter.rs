//! Files: access units in, `.part` files out, each one playable alone.
//!
//! Owns: the open file of a lane, where it is cut, what is told of it when it is closed. Must not touch: codecs, tracks.
//! Law: what was taken is with the kernel after each [`Segmenter::settle`], and on the disk after `sync_interval`; a
//! closed file is never touched again. A file with pictures has a keyframe as its first picture, behind its tables.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::picture::{PictureUnit, StreamId};
use super::sound::SoundFrame;
use super::ts::{Streams, TsWriter};
use super::{LaneOrder, MediaClock, MediaError, MediaNews, Teller};
use crate::model::segment::{ClosedSegment, LOST_SUFFIX, LocalName, identity};
use crate::model::{MediaTime, Timestamp};
use crate::vault::Output;

/// Frames of AAC share a PES of at most this length (six of 48 kHz): one each would double the bytes of sound.
const PES_LENGTH: Duration = Duration::from_millis(129);
/// What a picture lasts when there is no next one to tell.
const USUAL_PERIOD: Duration = Duration::from_millis(33);
/// A picture that stood longer than this was no regular frame.
const LONGEST_PERIOD: Duration = Duration::from_millis(500);
/// A keyframe counts as the one for the next file when it comes this much before the time: see [`Segmenter::early`].
const MOST_EARLY: Duration = Duration::from_millis(500);

pub struct Segmenter {
    order: LaneOrder,
    clock: MediaClock,
    teller: Teller,
    ts: TsWriter,
    open: Option<Open>,
    index: u32,
    /// The next file does not join on.
    broken: bool,
    /// Where the next file begins, if that is before its first unit.
    begin_at: Option<Duration>,
    /// What comes now is the rest of an encoder, and joins the open file whatever its length.
    last_words: bool,
    period: Duration,
    out: Vec<u8>,
    pes: Vec<u8>,
    pes_frames: usize,
    pes_at: Duration,
    pes_end: Duration,
}

struct Open {
    file: Output,
    name: LocalName,
    streams: Streams,
    stream: StreamId,
    first: Duration,
    last_picture: Option<Duration>,
    end: Duration,
    unsynced: bool,
    /// The folder knows of the file for sure.
    listed: bool,
    synced: Instant,
}

impl Segmenter {
    pub fn new(order: LaneOrder, clock: MediaClock, teller: Teller) -> Segmenter {
        Segmenter {
            order,
            clock,
            teller,
            ts: TsWriter::new(),
            open: None,
            index: 0,
            // a new run never joins on to what was before it
            broken: true,
            begin_at: None,
            last_words: false,
            period: USUAL_PERIOD,
            out: Vec::new(),
            pes: Vec::new(),
            pes_frames: 0,
            pes_at: Duration::ZERO,
            pes_end: Duration::ZERO,
        }
    }

    /// A keyframe asked for at `segment_length - early` begins the next file, so that no file grows past its length
    /// while the publisher takes its time.
    fn early(&self) -> Duration {
        MOST_EARLY.min(self.order.segment_length / 10)
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the open file has pictures.
    pub fn shows(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.streams.picture)
    }

    /// Whether a keyframe is wanted: to begin with, or to cut at.
    pub fn wants_keyframe(&self) -> bool {
        let Some(open) = &self.open else {
            return true;
        };
        let age = open.last_picture.map(|last| last.saturating_sub(open.first));
        age.is_none_or(|age| age + self.early() >= self.order.segment_length)
    }

    /// The open file has its length: a keyframe at this time begins the next one.
    pub fn is_full(&self, at: Duration) -> bool {
        self.open.as_ref().is_some_and(|open| at.saturating_sub(open.first) >= self.order.segment_length)
    }

    /// The next file begins here, though its first picture comes later.
    pub fn begin_at(&mut self, at: Duration) {
        self.begin_at = Some(at);
    }

    /// Whether the pictures of the open file had stopped long before `at`.
    pub fn stopped_before(&self, at: Duration) -> bool {
        let last = self.open.as_ref().and_then(|open| open.last_picture);
        last.is_some_and(|last| at >= last + self.order.gap_limit)
    }

    /// What comes next does not join on to what was before: ends the open file.
    pub fn break_here(&mut self) -> Result<(), MediaError> {
        self.broken = true;
        self.close(None)
    }

    /// What comes until the file is closed is the rest of an encoder: some frames of sound make no file.
    pub fn last_words(&mut self) {
        self.last_words = true;
    }

    /// Takes a picture. `sound`: the file that it may begin will have sound too. `false`: it was left out, since only
    /// a keyframe can begin a file.
    pub fn picture(&mut self, unit: &PictureUnit, sound: bool) -> Result<bool, MediaError> {
        if let Some(open) = &self.open {
            let due = unit.pts.saturating_sub(open.first) + self.early() >= self.order.segment_length;
            let other = open.streams.picture && unit.stream != open.stream;
            if unit.key && (other || !open.streams.picture) {
                self.broken = true;
                self.close(Some(unit.pts))?;
            } else if unit.key && due {
                self.close(Some(unit.pts))?;
            } else if !unit.key && (other || !open.streams.picture) {
                return Ok(false);
            }
        }
        if self.open.is_none() {
            if !unit.key {
                return Ok(false);
            }
            let streams = Streams { picture: true, sound };
            self.begin(unit.pts, streams, Some(unit.size), unit.stream)?;
        }
        let open = self.open.as_mut().expect("opened above");
        if let Some(last) = open.last_picture {
            let period = unit.pts.saturating_sub(last);
            if !period.is_zero() && period < LONGEST_PERIOD {
                self.period = period;
            }
        }
        open.last_picture = Some(open.last_picture.map_or(unit.pts, |last| last.max(unit.pts)));
        open.end = open.end.max(unit.pts + self.period);
        let map = unit.bytes.map_readable().map_err(|_| MediaError::Pipeline("a picture cannot be read".into()))?;
        self.ts.picture(unit.pts, unit.key, &map, &mut self.out);
        Ok(true)
    }

    /// Takes a frame of sound.
    pub fn sound(&mut self, frame: &SoundFrame) -> Result<(), MediaError> {
        let end = frame.pts + frame.duration;
        if let Some(open) = &self.open {
            let due = !self.last_words && frame.pts.saturating_sub(open.first) >= self.order.segment_length;
            // where black is filled in, pictures never stop
            let stopped = !self.order.fill_black
                && open.last_picture.is_some_and(|last| last + self.order.gap_limit <= frame.pts);
            if !open.streams.picture && due {
                self.close(Some(frame.pts))?;
            } else if stopped || !open.streams.sound {
                // pictures are over, or sound was not expected: the tables of the file are no longer true
                self.broken = true;
                self.close(None)?;
            }
        }
        if self.open.is_none() {
            self.begin(frame.pts, Streams { picture: false, sound: true }, None, (0, 0))?;
        }
        let joins = self.pes_end.abs_diff(frame.pts) < Duration::from_millis(1);
        if self.pes_frames > 0 && (!joins || end.saturating_sub(self.pes_at) > PES_LENGTH) {
            self.write_pes();
        }
        if self.pes_frames == 0 {
            self.pes_at = frame.pts;
        }
        let map = frame.bytes.map_readable().map_err(|_| MediaError::Pipeline("a sound cannot be read".into()))?;
        self.pes.extend_from_slice(&map);
        self.pes_frames += 1;
        self.pes_end = end;
        let open = self.open.as_mut().expect("opened above");
        open.end = open.end.max(end);
        Ok(())
    }

    /// Hands to the kernel what was taken, and syncs what is due.
    pub fn settle(&mut self) -> Result<(), MediaError> {
        self.write_out()?;
        let interval = self.order.sync_interval;
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if !open.unsynced || open.synced.elapsed() < interval {
            return Ok(());
        }
        let dir = &self.order.dir;
        let synced = open.file.file().sync_data().and_then(|()| match open.listed {
            true => Ok(()),
            false => File::open(dir)?.sync_all(),
        });
        if let Err(e) = synced {
            let failed = MediaError::Pipeline(format!("{}: sync: {e}", open.name));
            // What the file holds is not known any more, and a second sync would not tell: it is told as lost, under a
            // name that no recovery takes for a segment.
            if let Some(open) = self.open.take() {
                let part = open.name.to_string();
                let _ = std::fs::rename(dir.join(&part), dir.join(format!("{part}{LOST_SUFFIX}")));
                let segment = self.closed(&open, open.end);
                self.teller.tell(MediaNews::SegmentLost { segment, why: e.to_string() });
            }
            return Err(failed);
        }
        open.listed = true;
        open.unsynced = false;
        open.synced = Instant::now();
        Ok(())
    }

    /// When [`Segmenter::settle`] has something to sync, if nothing comes before.
    pub fn settle_by(&self) -> Option<Instant> {
        let open = self.open.as_ref().filter(|open| open.unsynced)?;
        Some(open.synced + self.order.sync_interval)
    }

    /// Ends the open file and tells of it. `next`: the time of the unit that goes on where this file ends.
    pub fn close(&mut self, next: Option<Duration>) -> Result<(), MediaError> {
        let Some(bytes) = self.open.as_ref().map(|open| open.file.plain()) else {
            return Ok(());
        };
        self.write_pes();
        TsWriter::fill_up(bytes, &mut self.out);
        // whether or not the last bytes could be written: what was written is told
        let written = self.write_out();
        let mut open = self.open.take().expect("looked at above");
        if let Err(e) = open.file.finish() {
            // what was handed over is readable without its end
            warn!(file = %open.name, error = %e, "a sealed segment cannot be closed");
        }
        let segment = self.closed(&open, next.unwrap_or(open.end));
        let run = &self.order.run;
        debug!(
            task = %run.task, lane = ?run.lane, run = run.run, segment = segment.index,
            duration_ms = segment.duration.as_millis() as u64, bytes = segment.bytes, "segment closed"
        );
        metrics::counter!("holdfast_segments_closed_total", "kind" => run.lane.kind.track_type()).increment(1);
        if segment.bytes > 0 {
            self.teller.tell(MediaNews::SegmentClosed(segment));
        }
        written
    }

    fn closed(&self, open: &Open, end: Duration) -> ClosedSegment {
        ClosedSegment {
            run: self.order.run.clone(),
            index: open.name.index,
            start: open.name.start,
            duration: end.saturating_sub(open.first),
            bytes: open.file.plain(),
            size: open.name.size,
            discontinuity: open.name.discontinuity,
            part_name: open.name.to_string(),
        }
    }

    fn begin(
        &mut self,
        at: Duration,
        streams: Streams,
        size: Option<(u32, u32)>,
        stream: StreamId,
    ) -> Result<(), MediaError> {
        let first = self.begin_at.take().map_or(at, |earlier| earlier.min(at));
        let start = self.wall(first);
        let run = &self.order.run;
        let name = LocalName {
            lane: run.lane.clone(),
            run: run.run,
            index: self.index,
            start,
            size,
            discontinuity: self.broken,
            duration: None,
        };
        let path: PathBuf = self.order.dir.join(name.to_string());
        let file = self
            .order
            .vault
            .create(&path, &identity(&run.task, &name.to_string()))
            .map_err(|e| MediaError::Pipeline(format!("{}: {e}", path.display())))?;
        self.ts.begin(streams, self.broken && self.index > 0, &mut self.out);
        if self.index == 0 {
            info!(task = %run.task, lane = ?run.lane, run = run.run, ?size, "first media");
            self.teller.tell(MediaNews::FirstMedia { run: run.clone(), at: start });
        }
        self.broken = false;
        self.last_words = false;
        self.index += 1;
        self.open = Some(Open {
            file,
            name,
            streams,
            stream,
            first,
            last_picture: None,
            end: first,
            unsynced: false,
            listed: false,
            synced: Instant::now(),
        });
        Ok(())
    }

    fn wall(&self, at: Duration) -> Timestamp {
        let since_base = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        self.clock.wall(MediaTime(self.order.base.0.saturating_add(since_base)))
    }

    fn write_pes(&mut self) {
        if self.pes_frames > 0 {
            self.ts.sound(self.pes_at, &self.pes, &mut self.out);
            self.pes.clear();
            self.pes_frames = 0;
        }
    }

    fn write_out(&mut self) -> Result<(), MediaError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if let Err(e) = open.file.write(&self.out) {
            self.out.clear();
            return Err(MediaError::Pipeline(format!("{}: {e}", open.name)));
        }
        open.unsynced = true;
        metrics::counter!("holdfast_recorded_bytes_total").increment(self.out.len() as u64);
        self.out.clear();
        Ok(())
    }
}
