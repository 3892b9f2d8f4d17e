//! Files: access units in, `.part` files out, each one playable alone.
//!
//! Owns: the open file of a lane, where it is cut, what is told of it when it is closed. Must not touch: codecs, tracks.
//! Law: what was taken is with the kernel after each [`Segmenter::settle`], and on the disk after `sync_interval`; a
//! closed file is never touched again. A file with pictures has a keyframe as its first picture, behind its tables.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::picture::{PictureUnit, StreamId};
use super::sound::SoundFrame;
use super::{LaneOrder, MediaClock, MediaError, MediaNews, Teller};
use crate::container::ts_out::{Streams, TsWriter};
use crate::crash;
use crate::model::disk::Fault;
use crate::model::segment::{ClosedSegment, LOST_SUFFIX, LocalName, identity};
use crate::model::{MediaTime, Timestamp};
use crate::vault::{Output, Vault};

/// Frames of AAC share a PES of at most this length (six of 48 kHz): one each would double the bytes of sound.
const PES_LENGTH: Duration = Duration::from_millis(129);
/// What a picture lasts when there is no next one to tell.
const USUAL_PERIOD: Duration = Duration::from_millis(33);
/// A picture that stood longer than this was no regular frame.
const LONGEST_PERIOD: Duration = Duration::from_millis(500);
/// A keyframe counts as the one for the next file when it comes this much before the time: see [`Segmenter::early`].
const MOST_EARLY: Duration = Duration::from_millis(500);

/// What is asked of the disk; another one only in tests.
#[derive(Clone, Copy)]
struct Disk {
    create: fn(&Vault, &Path, &str) -> io::Result<Output>,
    write: fn(&mut Output, &[u8]) -> io::Result<()>,
    sync: fn(&File) -> io::Result<()>,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk { create: Vault::create, write: Output::write, sync: File::sync_data }
    }
}

pub struct Segmenter {
    order: LaneOrder,
    disk: Disk,
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
    /// Pictures come at a constant rate, so the period needs no guess.
    paced: bool,
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
        Segmenter::on(Disk::default(), order, clock, teller)
    }

    fn on(disk: Disk, order: LaneOrder, clock: MediaClock, teller: Teller) -> Segmenter {
        Segmenter {
            order,
            disk,
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
            paced: false,
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

    /// Each picture lasts so long.
    pub fn pace(&mut self, period: Duration) {
        self.period = period;
        self.paced = true;
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
            if !self.paced && !period.is_zero() && period < LONGEST_PERIOD {
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

    /// Hands to the kernel what was taken, and syncs what is due before the next call, which is to come at `next`.
    pub fn settle(&mut self, next: Instant) -> Result<(), MediaError> {
        self.write_out()?;
        if self.settle_by().is_none_or(|due| due > Instant::now() && due >= next) {
            return Ok(());
        }
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let dir = &self.order.dir;
        let began = Instant::now();
        let synced = (self.disk.sync)(open.file.file()).and_then(|()| match open.listed {
            true => Ok(()),
            false => File::open(dir)?.sync_all(),
        });
        if let Err(e) = synced {
            let what = format!("{}: sync", open.name);
            // What the file holds is not known any more, and a second sync would not tell: it is told as lost, under a
            // name that no recovery takes for a segment.
            if let Some(open) = self.open.take() {
                let part = open.name.to_string();
                let _ = std::fs::rename(dir.join(&part), dir.join(format!("{part}{LOST_SUFFIX}")));
                let segment = self.closed(&open, open.end);
                self.teller.tell(MediaNews::SegmentLost { segment, why: e.to_string() });
            }
            return Err(self.refused(&what, &e, Some(Fault::Failed)));
        }
        crash::point("segment.synced");
        tell_slowest(began.elapsed());
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
        crash::point("segment.closed");
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
        let of = identity(&run.task, &name.to_string());
        let file = (self.disk.create)(&self.order.vault, &path, &of);
        let file = file.map_err(|e| self.refused(&name.to_string(), &e, None))?;
        crash::point("segment.created");
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

    /// Tells what an error says of the disk; `otherwise` where its number says nothing.
    fn refused(&self, what: &str, error: &io::Error, otherwise: Option<Fault>) -> MediaError {
        let why = format!("{what}: {error}");
        if let Some(fault) = error.raw_os_error().and_then(Fault::of_errno).or(otherwise) {
            self.teller.tell(MediaNews::DiskRefused { fault, why: why.clone() });
        }
        MediaError::Pipeline(why)
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
        let written = (self.disk.write)(&mut open.file, &self.out);
        if let Err(e) = written {
            self.out.clear();
            let what = open.name.to_string();
            return Err(self.refused(&what, &e, None));
        }
        open.unsynced = true;
        self.teller.wrote(self.clock.now());
        metrics::counter!("holdfast_recorded_bytes_total").increment(self.out.len() as u64);
        self.out.clear();
        Ok(())
    }
}

/// A disk that takes seconds for a sync keeps less than it promises; who watches should know.
fn tell_slowest(took: Duration) {
    static SLOWEST_MS: AtomicU64 = AtomicU64::new(0);
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let before = SLOWEST_MS.fetch_max(took_ms, Ordering::Relaxed);
    metrics::gauge!("holdfast_sync_slowest_seconds").set(before.max(took_ms) as f64 / 1000.0);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI32;

    use gstreamer as gst;
    use tokio::sync::mpsc;

    use super::*;
    use crate::media::LaneFeed;
    use crate::model::{Lane, LaneKind, LaneRun, MediaId, TaskId, UserId};

    fn segmenter(disk: Disk, dir: &Path, sync_interval: Duration) -> (Segmenter, mpsc::Receiver<MediaNews>) {
        gst::init().unwrap();
        let lane = Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, LaneKind::Audio);
        let clock = MediaClock::new(Instant::now(), Timestamp(0));
        let order = LaneOrder {
            run: LaneRun { task: TaskId::parse("t").unwrap(), lane, run: 0 },
            feed: LaneFeed::Single { audio: None, video: None },
            dir: dir.to_owned(),
            segment_length: Duration::from_secs(10),
            gap_limit: Duration::from_secs(3),
            sync_interval,
            fill_black: false,
            base: clock.now(),
            from: MediaTime(0),
            vault: Vault::default(),
        };
        let (to, news) = mpsc::channel(64);
        (Segmenter::on(disk, order, clock, Teller::new(to)), news)
    }

    /// The n-th frame of 20 ms. Its bytes mean nothing to the segmenter.
    fn frame(n: u32) -> SoundFrame {
        let duration = Duration::from_millis(20);
        SoundFrame { pts: duration * n, duration, bytes: gst::Buffer::from_slice([n as u8; 100]) }
    }

    fn told(news: &mut mpsc::Receiver<MediaNews>) -> Vec<MediaNews> {
        std::iter::from_fn(|| news.try_recv().ok()).collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let files = std::fs::read_dir(dir).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn on_a_full_disk_the_file_ends_with_its_last_whole_packet() {
        static ROOM: AtomicI32 = AtomicI32::new(3);
        fn write(file: &mut Output, bytes: &[u8]) -> io::Result<()> {
            if ROOM.fetch_sub(1, Ordering::SeqCst) > 0 {
                return file.write(bytes);
            }
            // what was written in part is cut off by the output itself
            Err(io::Error::from_raw_os_error(28))
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk { write, ..Disk::default() };
        let (mut segmenter, mut news) = segmenter(disk, dir.path(), Duration::from_secs(60));
        let error =
            (0..1000).find_map(|n| segmenter.sound(&frame(n)).and_then(|()| segmenter.settle(Instant::now())).err());
        assert!(error.is_some_and(|e| e.to_string().contains("No space left")));
        let _ = segmenter.close(None);
        let told = told(&mut news);
        let [MediaNews::FirstMedia { .. }, MediaNews::DiskRefused { fault: Fault::Full, .. }, rest @ ..] = &told[..]
        else {
            panic!("{told:?}");
        };
        let closed = rest.iter().find_map(|n| if let MediaNews::SegmentClosed(s) = n { Some(s) } else { None });
        let closed = closed.expect("what was written is told");
        let file = std::fs::metadata(dir.path().join(&closed.part_name)).unwrap();
        assert_eq!((file.len(), file.len() % 188), (closed.bytes, 0));
        assert!(closed.bytes > 0);
    }

    #[test]
    fn a_sync_that_fails_is_not_repeated_and_the_file_is_set_aside() {
        static SYNCS: AtomicI32 = AtomicI32::new(0);
        fn sync(_: &File) -> io::Result<()> {
            SYNCS.fetch_add(1, Ordering::SeqCst);
            Err(io::Error::from_raw_os_error(5))
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk { sync, ..Disk::default() };
        let (mut segmenter, mut news) = segmenter(disk, dir.path(), Duration::ZERO);
        let failed =
            (0..1000).find(|n| segmenter.sound(&frame(*n)).and_then(|()| segmenter.settle(Instant::now())).is_err());
        assert!(failed.is_some());
        let _ = segmenter.close(None);
        assert_eq!(SYNCS.load(Ordering::SeqCst), 1);
        assert!(names(dir.path()).iter().all(|name| name.ends_with(LOST_SUFFIX)), "{:?}", names(dir.path()));
        let told = told(&mut news);
        assert!(told.iter().any(|n| matches!(n, MediaNews::SegmentLost { .. })), "{told:?}");
        assert!(told.iter().any(|n| matches!(n, MediaNews::DiskRefused { fault: Fault::Failed, .. })), "{told:?}");
        assert!(!told.iter().any(|n| matches!(n, MediaNews::SegmentClosed(_))), "{told:?}");
    }

    #[test]
    fn a_sync_does_not_wait_for_a_call_that_comes_too_late_for_it() {
        static SYNCS: AtomicI32 = AtomicI32::new(0);
        fn sync(file: &File) -> io::Result<()> {
            SYNCS.fetch_add(1, Ordering::SeqCst);
            file.sync_data()
        }
        let dir = tempfile::tempdir().unwrap();
        let interval = Duration::from_secs(60);
        let (mut segmenter, _news) = segmenter(Disk { sync, ..Disk::default() }, dir.path(), interval);
        segmenter.sound(&frame(0)).unwrap();
        segmenter.settle(Instant::now() + interval / 2).unwrap();
        assert_eq!(SYNCS.load(Ordering::SeqCst), 0, "the next call is soon enough");
        segmenter.settle(Instant::now() + interval).unwrap();
        assert_eq!(SYNCS.load(Ordering::SeqCst), 1);
        segmenter.settle(Instant::now() + interval * 2).unwrap();
        assert_eq!(SYNCS.load(Ordering::SeqCst), 1, "nothing came meanwhile");
    }

    #[test]
    fn a_file_that_cannot_be_made_says_why() {
        fn create(_: &Vault, _: &Path, _: &str) -> io::Result<Output> {
            Err(io::Error::from_raw_os_error(30))
        }
        let dir = tempfile::tempdir().unwrap();
        let (mut segmenter, mut news) = segmenter(Disk { create, ..Disk::default() }, dir.path(), Duration::ZERO);
        assert!(segmenter.sound(&frame(0)).is_err());
        let told = told(&mut news);
        assert!(matches!(&told[..], [MediaNews::DiskRefused { fault: Fault::Failed, .. }]), "{told:?}");
        assert!(!segmenter.is_open());
    }
}
