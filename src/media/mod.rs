//! Where frames are. GStreamer and WebRTC are named in this folder and nowhere else.
//!
//! Owns: sessions, tracks, pipelines, the media clock. Must not touch: the store, the spool's records, tasks: it does
//! not know why it records, it writes `.part` files where it is told to and says what it closed.
//! Law: no frame leaves this folder, and sources never wait for a recording.

mod answer;
mod av1;
mod canvas;
mod chain;
mod coder;
mod device;
mod dimensions;
mod ear;
pub mod engine;
pub mod graphs;
mod inbox;
mod intake;
mod keyframe;
mod layers;
mod look;
pub mod merge;
mod mixed;
mod mp4;
mod mux;
mod pace;
mod peer;
mod picture;
pub mod probe;
pub mod publish;
mod reorder;
mod round;
mod scale;
mod sdp;
mod segmenter;
pub mod senses;
mod session;
mod sieve;
mod single;
mod sound;
pub mod sources;
mod stage;
pub mod stamped;
pub mod stills;
pub mod tracks;
mod unpack;
mod viewer;
mod voice;
pub mod whip;
pub mod words;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

pub use dimensions::stream_size;

/// All that reads the payloads of a stranger's packets, for the fuzz targets.
#[doc(hidden)]
pub fn read_payloads(bytes: &[u8]) {
    for codec in [Codec::Opus, Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1] {
        let _ = (keyframe::begins_keyframe(codec, bytes), keyframe::holds_picture(codec, bytes));
        if dimensions::tells_size(codec) {
            let _ = dimensions::picture_size(codec, bytes);
        }
    }
    // packets of a length that the first byte of each says
    let (mut rest, mut units) = (bytes, av1::Assembler::default());
    while let Some((length, after)) = rest.split_first() {
        let (packet, after) = after.split_at(usize::from(*length).min(after.len()));
        let _ = units.push(packet, length % 7 == 0);
        rest = after;
    }
    let _ = av1::Assembler::default().push(bytes, false);
}

/// All that reads a stranger's session description, for the fuzz targets.
#[doc(hidden)]
pub fn read_description(text: &str) {
    if let Ok(offer) = sdp::Offer::parse(text) {
        let _ = offer.for_core();
    }
    let _ = (sdp::Fragment::parse(text), sdp::Local::of(text));
}

use crate::model::disk::Fault;
use crate::model::layout::Scene;
use crate::model::mix::{AudioParams, VideoParams};
use crate::model::segment::ClosedSegment;
use crate::model::{
    Codec, LaneRun, MediaId, MediaTime, RoomKey, SessionId, Timestamp, TrackId, TrackKind, UserId, encoder,
};
use crate::vault::Vault;

/// The one clock of media: monotonic time since the process began, tied to wall time.
///
/// A step of the wall clock does not move it, so durations and order stay true. Wall times of files come from one
/// mapping, made at start and made anew when the wall clock is found to have been set ([`MediaClock::follow`]): files
/// that are open keep their times, later ones begin by the new one. Copies share it.
#[derive(Debug, Clone, Copy)]
pub struct MediaClock {
    epoch: Instant,
    /// Unix microseconds at the epoch. A box makes one clock, which lasts as long as the process.
    epoch_wall: &'static AtomicI64,
}

impl MediaClock {
    pub fn new(epoch: Instant, epoch_wall: Timestamp) -> MediaClock {
        MediaClock { epoch, epoch_wall: Box::leak(Box::new(AtomicI64::new(epoch_wall.0))) }
    }
    pub fn now(&self) -> MediaTime {
        self.at(Instant::now())
    }
    pub fn at(&self, instant: Instant) -> MediaTime {
        let since = instant.saturating_duration_since(self.epoch);
        MediaTime(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
    /// When the clock shows, or showed, this.
    pub fn instant(&self, at: MediaTime) -> Instant {
        self.epoch + Duration::from_nanos(at.0)
    }
    pub fn wall(&self, at: MediaTime) -> Timestamp {
        self.epoch_wall().plus(Duration::from_nanos(at.0))
    }
    /// The wall time at which this clock showed 0, by what is known now.
    pub fn epoch_wall(&self) -> Timestamp {
        Timestamp(self.epoch_wall.load(Ordering::Relaxed))
    }
    /// The wall clock shows `wall` at `at`. When that is more than `least` from what was thought, it was set, and is
    /// followed from now on. Says by how many microseconds.
    pub fn follow(&self, wall: Timestamp, at: MediaTime, least: Duration) -> Option<i64> {
        let by = wall.0.saturating_sub(self.wall(at).0);
        if u128::from(by.unsigned_abs()) <= least.as_micros() {
            return None;
        }
        self.epoch_wall.fetch_add(by, Ordering::Relaxed);
        Some(by)
    }
}

/// Numbers of sessions and tracks, one row of each for everything that brings media. Copies share it.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    sessions: Arc<AtomicU64>,
    tracks: Arc<AtomicU64>,
}

impl Ids {
    fn session(&self) -> SessionId {
        SessionId(self.sessions.fetch_add(1, Ordering::Relaxed) + 1)
    }
    fn track(&self) -> TrackId {
        TrackId(self.tracks.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// What a recording lane is fed from, and what it makes of it.
#[derive(Debug, Clone)]
pub enum LaneFeed {
    /// Audio lanes: the audio track. Video lanes: the video track. Merged: one or both.
    Single { audio: Option<TrackId>, video: Option<TrackId> },
    /// Everybody's tracks, as the scene says until the next one comes.
    Mixed { scene: Box<Scene>, video: VideoParams, audio: AudioParams },
}

/// What a recording lane should be made of.
#[derive(Debug, Clone)]
pub struct LaneOrder {
    pub run: LaneRun,
    pub feed: LaneFeed,
    /// Folder for the `.part` files; it exists.
    pub dir: PathBuf,
    /// What they are sealed with, if they are.
    pub vault: Vault,
    /// Length at which the next keyframe begins a new segment.
    pub segment_length: Duration,
    /// No data for so long: the segment is closed, and the next data begins a new one with a discontinuity.
    pub gap_limit: Duration,
    /// Written data reaches the disk at least so often.
    pub sync_interval: Duration,
    /// When the picture stops while the user stays: `true` writes black frames, `false` leaves the last one standing.
    pub fill_black: bool,
    /// Sound and picture of one task share it: PTS in the files counts from here.
    pub base: MediaTime,
    /// What was captured before is not taken: it was said while the recording paused.
    pub from: MediaTime,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveReason {
    /// DELETE, or the peer closed DTLS
    Left,
    /// nothing was heard for the ICE time-out
    Vanished,
    /// closed by us: removed, replaced, room dismissed, shutting down
    Closed,
}

/// Why a lane's pipeline is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneEnd {
    /// EOS went through: everything is in the files that were told of
    Finished,
    /// the track went away (and what it had sent is in the files)
    TrackGone,
    Failed(String),
    Killed,
}

/// What media tells the actor. Facts only: no frame, no file handle.
#[derive(Debug)]
pub enum MediaNews {
    /// A publisher's transport is up.
    Entered {
        session: SessionId,
        room: RoomKey,
        user: UserId,
        media: MediaId,
        offers: Vec<TrackKind>,
    },
    /// The first packet of a track arrived. Codec as negotiated and seen.
    TrackUp {
        session: SessionId,
        track: TrackId,
        kind: TrackKind,
        codec: Codec,
    },
    TrackDown {
        session: SessionId,
        track: TrackId,
    },
    Left {
        session: SessionId,
        reason: LeaveReason,
    },
    /// The lane's first data arrived and its first file is open.
    FirstMedia {
        run: LaneRun,
        at: Timestamp,
    },
    SegmentClosed(ClosedSegment),
    /// A sync of its file failed: what it holds is not known, and it is set aside.
    SegmentLost {
        segment: ClosedSegment,
        why: String,
    },
    /// A file could not be made, written or synced.
    DiskRefused {
        fault: Fault,
        why: String,
    },
    /// Something of the lane is not as it should be, though it goes on; `None`: it is well again.
    Trouble {
        run: LaneRun,
        part: &'static str,
        why: Option<String>,
    },
    /// An encoder that is a device was lost in mid-recording: no lane begins with it any more.
    EncoderLost {
        run: LaneRun,
        factory: &'static str,
        why: String,
    },
    /// After this nothing more comes from the run.
    LaneEnded {
        run: LaneRun,
        end: LaneEnd,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    #[error("track {0:?} is gone")]
    NoTrack(TrackId),
    #[error("element {0} is missing: install {1}")]
    MissingElement(&'static str, &'static str),
    #[error("the font {0} is missing: install {1}")]
    MissingFont(&'static str, &'static str),
    #[error("pipeline: {0}")]
    Pipeline(String),
    /// Of an encoder: it takes pictures and gives none, or not even takes them.
    #[error("it hangs: {0}")]
    Hangs(String),
    #[error("no {0}")]
    NoSession(&'static str),
    #[error("UDP port {0} cannot be taken: {1}")]
    Port(std::net::SocketAddr, #[source] std::io::Error),
    #[error("the DTLS certificate cannot be made: {0}")]
    Certificate(String),
}

/// The seam between deciding and GStreamer. `rooms` is tested with a fake.
///
/// All calls return at once; what comes of them arrives as [`MediaNews`].
pub trait MediaEngine: Send + Sync + 'static {
    /// Starts a lane's pipeline. Exactly one `LaneEnded` follows a call that returned `Ok`.
    fn start_lane(&self, order: LaneOrder) -> Result<(), MediaError>;
    /// A mixed lane shows and plays this from now on.
    fn change_scene(&self, run: &LaneRun, scene: Scene);
    /// Sends EOS through it; `LaneEnded(Finished)` follows once the last segment is told.
    fn finish_lane(&self, run: &LaneRun);
    /// The lane takes nothing that was captured at `until` or later, waits for what is under way of before, and ends as
    /// by `finish_lane`. Of several moments the first holds.
    fn pause_lane(&self, run: &LaneRun, until: MediaTime);
    /// Takes it down at once; `LaneEnded(Killed)` follows.
    fn kill_lane(&self, run: &LaneRun);
    /// Ends a publisher's session; `Left(Closed)` follows if it was there.
    fn close_session(&self, session: SessionId);
}

/// What the engine asks of whoever holds the publishers' sessions.
pub trait Sessions: Send + Sync + 'static {
    /// Ends a session; returns at once.
    fn close_session(&self, session: SessionId);
}

/// Elements that every recording needs, and the Debian package that brings each.
const NEEDED: [(&str, &str); 11] = [
    ("rtph264depay", "gstreamer1.0-plugins-good"),
    ("rtpvp8depay", "gstreamer1.0-plugins-good"),
    ("rtpvp9depay", "gstreamer1.0-plugins-good"),
    ("vp8dec", "gstreamer1.0-plugins-good"),
    ("vp9dec", "gstreamer1.0-plugins-good"),
    ("capssetter", "gstreamer1.0-plugins-good"),
    ("h264parse", "gstreamer1.0-plugins-bad"),
    ("aacparse", "gstreamer1.0-plugins-good"),
    ("audioconvert", "gstreamer1.0-plugins-base"),
    ("videoconvert", "gstreamer1.0-plugins-base"),
    // upstream it is part of base; Debian keeps pango apart
    ("textoverlay", "gstreamer1.0-x"),
];

/// Starts GStreamer and looks for what recordings need; the first that is missing is named.
pub fn init() -> Result<(), MediaError> {
    gstreamer::init().map_err(|e| MediaError::Pipeline(e.to_string()))?;
    for (factory, package) in NEEDED {
        if gstreamer::ElementFactory::find(factory).is_none() {
            return Err(MediaError::MissingElement(factory, package));
        }
    }
    let present = present();
    if encoder::sound_encoder(&present).is_none() {
        return Err(MediaError::MissingElement("avenc_aac", "gstreamer1.0-libav"));
    }
    if encoder::picture_encoder(&present).is_none() {
        return Err(MediaError::MissingElement("x264enc", "gstreamer1.0-plugins-ugly"));
    }
    Ok(())
}

/// The encoders of the tables that this board has.
fn present() -> BTreeSet<&'static str> {
    encoder::candidates().filter(|factory| gstreamer::ElementFactory::find(factory).is_some()).collect()
}

/// A stamp on the line of a lane's files, ns; `None` before its beginning.
fn timeline(at: MediaTime, base: MediaTime) -> Option<u64> {
    at.0.checked_sub(base.0)
}

/// A lane's mouth. Once the lane's end was told, by whomever, it is silent.
#[derive(Clone)]
struct Teller {
    news: mpsc::Sender<MediaNews>,
    over: Arc<AtomicBool>,
    /// When the lane's file last grew: ns of the media clock; 0: not yet.
    written: Arc<AtomicU64>,
}

impl Teller {
    fn new(news: mpsc::Sender<MediaNews>) -> Teller {
        Teller { news, over: Arc::default(), written: Arc::default() }
    }

    /// The lane's file has grown.
    fn wrote(&self, at: MediaTime) {
        self.written.store(at.0.max(1), Ordering::Relaxed);
    }

    fn written(&self) -> Option<MediaTime> {
        Some(self.written.load(Ordering::Relaxed)).filter(|at| *at > 0).map(MediaTime)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// May wait for the listener; so only plain threads tell.
    fn tell(&self, news: MediaNews) {
        if !self.is_over() {
            // a listener that is gone wants no news
            let _ = self.news.blocking_send(news);
        }
    }

    /// Tells the end, once.
    fn end(&self, run: LaneRun, end: LaneEnd) {
        if !self.over.swap(true, Ordering::AcqRel) {
            let _ = self.news.blocking_send(MediaNews::LaneEnded { run, end });
        }
    }
}
