//! A source's seat in its room: the session that the room sees, and the tracks that its media becomes.
//!
//! Owns: presence, numbers and stamps of the packets of media that was made here. Must not touch: how media is fetched.
//! Law: a seat outlives what feeds it. Whoever comes back within the grace goes on in the same tracks, which never step
//! back; a room is told of each coming and going once and in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

use super::Kit;
use crate::media::intake::{Change, Intake};
use crate::media::keyframe::holds_picture;
use crate::media::stamped::StampedPacket;
use crate::media::tracks::{Feedback, TrackInput, TrackSource};
use crate::media::{LeaveReason, MediaNews};
use crate::model::source::SourceSpec;
use crate::model::{Codec, MediaTime, SessionId, TrackId, TrackKind};

/// A new track is heard so much later, so that whoever is told of it and records it has its first keyframe: a camera
/// sends the next one when it likes.
const HELD: Duration = Duration::from_millis(800);
/// Frames are at least so far apart, ns: more than a tick of RTP time of either kind.
const APART: u64 = 25_000;
/// Whom the room sent out comes back after so long: a room that was dismissed has its camera for the next consultation.
const OUT: Duration = Duration::from_secs(60);

/// One RTP packet as a payloader made it.
pub(super) struct Made {
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Bytes,
}

/// Payload type and clock rate of what is made here.
fn rtp_of(kind: TrackKind) -> (u8, u32) {
    match kind {
        TrackKind::Audio => (111, 48_000),
        TrackKind::Video => (102, 90_000),
    }
}

struct Wish {
    asked: AtomicBool,
    bell: Arc<Notify>,
}

impl Feedback for Wish {
    fn request_keyframe(&self) {
        self.asked.store(true, Ordering::Release);
        self.bell.notify_one();
    }
}

/// A track of the hub, fed with packets that were made here.
struct Channel {
    track: TrackId,
    codec: Codec,
    input: TrackInput,
    ssrc: u32,
    sequence: u16,
    /// The frame at hand: its time stamp as it was made, its packets, and its stamp.
    frame: Option<u32>,
    packets: Vec<StampedPacket>,
    at: MediaTime,
    /// Frames that wait for those who record.
    held: Option<(Instant, Vec<Vec<StampedPacket>>)>,
    lost: bool,
    heard: Instant,
}

#[derive(Default)]
struct State {
    session: Option<SessionId>,
    /// What the source has, as far as is known: a merged lane waits for all of it.
    offers: BTreeSet<TrackKind>,
    channels: BTreeMap<TrackKind, Channel>,
    /// Of media that another server sends: it has stamps and numbers of its own.
    intake: Option<Intake>,
    /// Tracks that the intake has up, and when it was fed last.
    received: Vec<TrackId>,
    fed: Option<Instant>,
    out_until: Option<Instant>,
    gone: bool,
    came: BTreeMap<TrackKind, Instant>,
    news: VecDeque<MediaNews>,
}

pub(super) struct Seat {
    spec: Arc<SourceSpec>,
    kit: Kit,
    state: Mutex<State>,
    wish: Arc<Wish>,
    told: Notify,
}

impl Seat {
    pub fn new(spec: Arc<SourceSpec>, kit: Kit) -> Seat {
        let wish = Arc::new(Wish { asked: AtomicBool::new(false), bell: Arc::new(Notify::new()) });
        Seat { spec, kit, state: Mutex::default(), wish, told: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // whoever panicked while holding it left a room that can still be left
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the source will send, told before any of it comes.
    pub fn offers(&self, kinds: impl IntoIterator<Item = TrackKind>) {
        self.state().offers.extend(kinds);
    }

    /// Rings when a recording wants a keyframe.
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.wish.bell)
    }

    /// Whether a keyframe was wished since the last call.
    pub fn keyframe_wished(&self) -> bool {
        self.wish.asked.swap(false, Ordering::AcqRel)
    }

    /// When media of this kind came last, whether it was taken or not: who is out is fed all the same.
    pub fn heard(&self, kind: TrackKind) -> Option<Instant> {
        self.state().came.get(&kind).copied()
    }

    /// What comes next of this kind does not join on to what came before.
    pub fn lost(&self, kind: TrackKind) {
        if let Some(channel) = self.state().channels.get_mut(&kind) {
            channel.lost = true;
        }
    }

    /// A packet; those of one frame have one `at`, when it was captured, and come together.
    pub fn packet(&self, kind: TrackKind, codec: Codec, made: Made, at: MediaTime) {
        let mut state = self.state();
        let now = Instant::now();
        state.came.insert(kind, now);
        if state.is_out(now) || made.payload.is_empty() {
            return;
        }
        if state.channels.get(&kind).is_some_and(|channel| channel.codec != codec) {
            self.close_channel(&mut state, kind);
        }
        if !state.channels.contains_key(&kind) && !self.open_channel(&mut state, kind, codec, now) {
            return;
        }
        let channel = state.channels.get_mut(&kind).expect("it was opened above");
        channel.heard = now;
        channel.take(kind, made, at, now);
        metrics::counter!("holdfast_source_packets_total", "kind" => kind.as_str()).increment(1);
        self.told.notify_one();
    }

    fn open_channel(&self, state: &mut State, kind: TrackKind, codec: Codec, now: Instant) -> bool {
        let (payload_type, clock_rate) = rtp_of(kind);
        let track = self.kit.ids.track();
        let feedback = Arc::clone(&self.wish) as Arc<dyn Feedback>;
        let source = TrackSource { id: track, kind, codec, payload_type, clock_rate, feedback };
        let input = match self.kit.tracks.open(source) {
            Ok(input) => input,
            Err(error) => {
                tracing::error!(source = self.spec.name, ?track, %error, "the hub does not take the track");
                return false;
            }
        };
        let session = self.enter(state);
        state.news.push_back(MediaNews::TrackUp { session, track, kind, codec });
        let channel = Channel {
            track,
            codec,
            input,
            ssrc: rand::random::<u32>() | 1,
            sequence: rand::random(),
            frame: None,
            packets: Vec::new(),
            at: MediaTime(0),
            held: Some((now + HELD, Vec::new())),
            lost: false,
            heard: now,
        };
        state.channels.insert(kind, channel);
        true
    }

    fn enter(&self, state: &mut State) -> SessionId {
        if let Some(session) = state.session {
            return session;
        }
        let session = self.kit.ids.session();
        state.session = Some(session);
        let SourceSpec { room, user, media, .. } = (*self.spec).clone();
        let offers = state.offers.iter().copied().collect();
        state.news.push_back(MediaNews::Entered { session, room, user, media, offers });
        session
    }

    fn close_channel(&self, state: &mut State, kind: TrackKind) {
        let Some(mut channel) = state.channels.remove(&kind) else { return };
        channel.push();
        channel.let_go();
        if let Some(session) = state.session {
            state.news.push_back(MediaNews::TrackDown { session, track: channel.track });
        }
    }

    /// What takes in another server's packets, as long as it has not been silent for the grace. `None`: the seat is out.
    pub fn intake<T>(&self, feed: impl FnOnce(&mut Intake) -> T) -> Option<T> {
        let mut state = self.state();
        if state.is_out(Instant::now()) {
            return None;
        }
        let mut intake = state
            .intake
            .take()
            .unwrap_or_else(|| Intake::new(self.kit.clock, self.kit.tracks.clone(), self.kit.ids.clone()));
        let done = feed(&mut intake);
        self.tell_changes(&mut state, &mut intake);
        state.intake = Some(intake);
        Some(done)
    }

    /// Another server's packet came.
    pub fn fed(&self) {
        self.state().fed = Some(Instant::now());
    }

    fn tell_changes(&self, state: &mut State, intake: &mut Intake) {
        for change in intake.take_changes() {
            let session = self.enter(state);
            state.news.push_back(match change {
                Change::Up { track, kind, codec } => {
                    state.received.push(track);
                    MediaNews::TrackUp { session, track, kind, codec }
                }
                Change::Down { track } => {
                    state.received.retain(|up| *up != track);
                    MediaNews::TrackDown { session, track }
                }
            });
            self.told.notify_one();
        }
    }

    fn close_intake(&self, state: &mut State) {
        if let Some(mut intake) = state.intake.take() {
            intake.close();
            self.tell_changes(state, &mut intake);
        }
        state.fed = None;
    }

    /// Who was silent for the grace leaves.
    pub fn look(&self, now: Instant) {
        let mut state = self.state();
        let over = |heard: Instant| now.saturating_duration_since(heard) >= self.spec.grace;
        let silent: Vec<TrackKind> = state.channels.iter().filter(|(_, c)| over(c.heard)).map(|(k, _)| *k).collect();
        for kind in silent {
            self.close_channel(&mut state, kind);
        }
        if state.fed.is_some_and(over) {
            self.close_intake(&mut state);
        }
        for channel in state.channels.values_mut() {
            channel.release(now);
        }
        if state.channels.is_empty() && state.received.is_empty() {
            self.leave(&mut state, LeaveReason::Vanished);
        }
    }

    fn leave(&self, state: &mut State, reason: LeaveReason) {
        if let Some(session) = state.session.take() {
            tracing::info!(source = self.spec.name, session = session.0, ?reason, "the source leaves the room");
            state.news.push_back(MediaNews::Left { session, reason });
        }
        self.told.notify_one();
    }

    /// Leaves at once and for good, whatever still comes.
    pub fn close(&self, reason: LeaveReason) {
        let mut state = self.state();
        state.gone = true;
        self.empty(&mut state, reason);
    }

    fn empty(&self, state: &mut State, reason: LeaveReason) {
        for kind in [TrackKind::Audio, TrackKind::Video] {
            self.close_channel(state, kind);
        }
        self.close_intake(state);
        self.leave(state, reason);
    }

    /// The room sends the session out; `false`: it is not this one.
    pub fn send_out(&self, session: SessionId) -> bool {
        let mut state = self.state();
        if state.session != Some(session) {
            return false;
        }
        state.out_until = Some(Instant::now() + OUT);
        self.empty(&mut state, LeaveReason::Closed);
        true
    }

    /// Tells what happens, in order, until it is dropped.
    pub async fn tell(&self) {
        loop {
            self.tell_all().await;
            self.told.notified().await;
        }
    }

    /// Tells what has happened so far.
    pub async fn tell_all(&self) {
        loop {
            let Some(news) = self.state().news.pop_front() else { return };
            tracing::info!(source = self.spec.name, ?news, "source");
            // a listener that is gone wants no news
            let _ = self.kit.news.send(news).await;
        }
    }
}

impl State {
    fn is_out(&mut self, now: Instant) -> bool {
        self.out_until = self.out_until.filter(|until| now < *until);
        self.gone || self.out_until.is_some()
    }
}

impl Channel {
    fn take(&mut self, kind: TrackKind, made: Made, at: MediaTime, now: Instant) {
        let Made { timestamp, marker, payload } = made;
        if self.frame != Some(timestamp) {
            self.push();
            self.frame = Some(timestamp);
            if at < self.at {
                metrics::counter!("holdfast_source_disordered_total", "kind" => kind.as_str()).increment(1);
            }
            // some devices give two frames one time, and no player takes that
            self.at = at.max(MediaTime(self.at.0 + APART));
        }
        // RTP time is the box's own media time, so that it goes on over all that feeds the track
        let (payload_type, clock_rate) = rtp_of(kind);
        let ticks = (u128::from(self.at.0) * u128::from(clock_rate) / 1_000_000_000) as u32;
        self.sequence = self.sequence.wrapping_add(1);
        let marker = kind == TrackKind::Video && marker && holds_picture(self.codec, &payload);
        let mut rtp = BytesMut::with_capacity(12 + payload.len());
        rtp.put_u8(0x80);
        rtp.put_u8(u8::from(marker) << 7 | payload_type);
        rtp.put_u16(self.sequence);
        rtp.put_u32(ticks);
        rtp.put_u32(self.ssrc);
        rtp.put_slice(&payload);
        let after_loss = std::mem::take(&mut self.lost);
        self.packets.push(StampedPacket { rtp: rtp.freeze(), at: self.at, after_loss });
        if marker || kind == TrackKind::Audio {
            self.push();
            // what follows is another one, whatever its time
            self.frame = None;
        }
        self.release(now);
    }

    /// The frame at hand is whole.
    fn push(&mut self) {
        if self.packets.is_empty() {
            return;
        }
        let packets = std::mem::take(&mut self.packets);
        match &mut self.held {
            Some((_, held)) => held.push(packets),
            None => self.input.push(packets),
        }
    }

    fn release(&mut self, now: Instant) {
        if self.held.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        for packets in self.held.take().into_iter().flat_map(|(_, held)| held) {
            self.input.push(packets);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::tests::{kit, spec};
    use super::*;

    const FRAME: u64 = 33_000_000;

    struct Bench {
        seat: Seat,
        kit: Kit,
        news: mpsc::Receiver<MediaNews>,
    }

    fn bench() -> Bench {
        let (kit, news) = kit();
        Bench { seat: Seat::new(Arc::new(spec("cam")), kit.clone()), kit, news }
    }

    impl Bench {
        /// `n` frames of two packets each, from frame `first` on.
        fn frames(&self, first: u64, n: u64) {
            for frame in first..first + n {
                for (marker, byte) in [(false, 0x67), (true, 0x65)] {
                    let payload = Bytes::from(vec![byte; 20]);
                    let made = Made { timestamp: frame as u32 * 3000, marker, payload };
                    self.seat.packet(TrackKind::Video, Codec::H264, made, MediaTime((frame + 1) * FRAME));
                }
            }
        }

        async fn told(&mut self) -> Vec<String> {
            self.seat.tell_all().await;
            std::iter::from_fn(|| self.news.try_recv().ok())
                .map(|news| match news {
                    MediaNews::Entered { session, .. } => format!("entered {}", session.0),
                    MediaNews::TrackUp { track, .. } => format!("up {}", track.0),
                    MediaNews::TrackDown { track, .. } => format!("down {}", track.0),
                    MediaNews::Left { session, reason } => format!("left {} {reason:?}", session.0),
                    other => format!("{other:?}"),
                })
                .collect()
        }
    }

    #[tokio::test]
    async fn who_comes_back_within_the_grace_goes_on_in_the_same_track() {
        let mut bench = bench();
        bench.frames(0, 3);
        assert_eq!(bench.told().await, ["entered 1", "up 1"]);
        let listener = bench.kit.tracks.listen(TrackId(1)).expect("live");
        let now = Instant::now();
        bench.seat.look(now + bench.seat.spec.grace - Duration::from_millis(100));
        assert_eq!(bench.told().await, [""; 0]);
        bench.seat.lost(TrackKind::Video);
        // a device that begins anew may be behind what came before
        bench.frames(1, 3);
        bench.seat.look(Instant::now() + HELD);
        let (packets, ended) = listener.take(Duration::ZERO);
        assert_eq!((packets.len(), ended), (12, false), "nothing is lost while nobody listened");
        for pair in packets.windows(2) {
            let number = |p: &StampedPacket| u16::from_be_bytes([p.rtp[2], p.rtp[3]]);
            assert_eq!(number(&pair[1]).wrapping_sub(number(&pair[0])), 1);
            assert!(pair[1].at >= pair[0].at, "{pair:?}");
        }
        let lost: Vec<usize> = (0..12).filter(|n| packets[*n].after_loss).collect();
        assert_eq!(lost, [6]);
        let frames: std::collections::BTreeSet<MediaTime> = packets.iter().map(|p| p.at).collect();
        assert_eq!(frames.len(), 6);
        bench.seat.look(Instant::now() + bench.seat.spec.grace + Duration::from_secs(1));
        assert_eq!(bench.told().await, ["down 1", "left 1 Vanished"]);
        assert!(listener.take(Duration::ZERO).1);
        bench.frames(9, 1);
        assert_eq!(bench.told().await, ["entered 2", "up 2"]);
    }

    /// As cameras on a busy bus do.
    #[tokio::test]
    async fn two_frames_of_one_time_are_a_tick_apart() {
        let mut bench = bench();
        let frame = |at: u64| {
            let made = Made { timestamp: 3000, marker: true, payload: Bytes::from_static(&[0x65; 20]) };
            bench.seat.packet(TrackKind::Video, Codec::H264, made, MediaTime(at));
        };
        frame(FRAME);
        frame(FRAME);
        frame(FRAME - 5);
        let listener = bench.kit.tracks.listen(TrackId(1)).expect("live");
        bench.seat.look(Instant::now() + HELD);
        let (packets, _) = listener.take(Duration::ZERO);
        assert_eq!(packets.len(), 3);
        for pair in packets.windows(2) {
            let time = |p: &StampedPacket| u32::from_be_bytes([p.rtp[4], p.rtp[5], p.rtp[6], p.rtp[7]]);
            assert!(time(&pair[1]) > time(&pair[0]) && pair[1].at > pair[0].at, "{pair:?}");
            assert!(pair[1].at.0 - pair[0].at.0 < 100_000, "{pair:?}");
        }
        assert_eq!(bench.told().await, ["entered 1", "up 1"]);
    }

    #[tokio::test]
    async fn whom_the_room_sends_out_stays_out_for_a_while() {
        let mut bench = bench();
        bench.frames(0, 1);
        assert!(!bench.seat.send_out(SessionId(7)));
        assert!(bench.seat.send_out(SessionId(1)));
        let sent_out = Instant::now();
        bench.frames(1, 1);
        assert!(bench.seat.heard(TrackKind::Video) >= Some(sent_out), "what feeds it has not fallen silent");
        assert_eq!(bench.told().await, ["entered 1", "up 1", "down 1", "left 1 Closed"]);
        bench.seat.state().out_until = Some(Instant::now());
        bench.frames(2, 1);
        assert_eq!(bench.told().await, ["entered 2", "up 2"]);
        bench.seat.close(LeaveReason::Left);
        bench.frames(3, 1);
        assert_eq!(bench.told().await, ["down 2", "left 2 Left"]);
    }
}
