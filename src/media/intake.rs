//! From a session's RTP packets to tracks of the hub: ordered, stamped, one stream per track whatever layers it has.
//!
//! Owns: a session's clock, its tracks, the choice among simulcast layers. Must not touch: the WebRTC core, sockets.
//! Law: a track of the hub never steps back: not in sequence numbers, not in stamps, not at a change of layer, SSRC
//! or encoder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

use super::MediaClock;
use super::keyframe::{begins_keyframe, holds_picture};
use super::reorder::{Released, Reorder, Taken, WAIT};
use super::tracks::{Feedback, StampedPacket, TrackInput, TrackSource, Tracks};
use crate::model::rtp_time::{NtpTime, SessionClock, TrackClock};
use crate::model::{Codec, MediaTime, TrackId, TrackKind};

/// A publisher is asked for a keyframe at most so often.
const KEYFRAME_PAUSE: Duration = Duration::from_millis(500);
/// A simulcast layer that sent nothing for so long does not flow.
const LAYER_SILENT: Duration = Duration::from_millis(1000);
/// A new stream is held back until its sender's first report says what its time stamps mean, at most for so long:
/// what is stamped by arrival alone may be off by all that made the first packets late.
const REPORT_WITHIN: Duration = Duration::from_millis(1200);
/// Over this time the rates of layers are compared.
const RATE_OVER: Duration = Duration::from_secs(1);
/// Layers of one track that are listened to at once.
const MOST_LAYERS: usize = 8;

/// One RTP packet as the WebRTC core hands it over: decrypted, padding taken off.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub ssrc: u32,
    pub payload_type: u8,
    pub codec: Codec,
    pub sequence: u16,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Bytes,
}

/// What the session must tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Up { track: TrackId, kind: TrackKind, codec: Codec },
    Down { track: TrackId },
}

/// Keyframe wishes of whoever records, on their way to the session's task.
#[derive(Debug, Default)]
struct Wish {
    wanted: AtomicBool,
    bell: Arc<Notify>,
}

impl Feedback for Wish {
    fn request_keyframe(&self) {
        self.wanted.store(true, Ordering::Release);
        self.bell.notify_one();
    }
}

struct Layer {
    ssrc: u32,
    /// Simulcast layers have one; others replace each other.
    rid: Option<String>,
    clock: TrackClock,
    order: Reorder<Received>,
    held_until: Option<Instant>,
    heard: Instant,
    /// Bytes since `measured`, and those of the period before.
    bytes: usize,
    rate: usize,
    measured: Instant,
}

/// Where the track of the hub stands.
struct Output {
    ssrc: u32,
    sequence: u16,
    /// As sent, and what is added to the active layer's to come to it.
    timestamp: u32,
    shift: u32,
    /// The frame at hand: its time stamp as received, and its stamp.
    frame: Option<u32>,
    at: MediaTime,
}

/// One track of the session.
struct Feed {
    kind: TrackKind,
    open: Option<Open>,
    layers: Vec<Layer>,
    /// SSRC of the layer that is recorded, and of one that flows better and is waited for.
    active: Option<u32>,
    better: Option<u32>,
    out: Option<Output>,
    packets: Vec<StampedPacket>,
    lost: bool,
    wish: Arc<Wish>,
    asked: Option<Instant>,
}

struct Open {
    track: TrackId,
    codec: Codec,
    payload_type: u8,
    input: TrackInput,
}

/// Everything that one session takes in.
pub(super) struct Intake {
    clock: MediaClock,
    session: SessionClock,
    feeds: Vec<Feed>,
    hub: Hub,
    bell: Arc<Notify>,
}

/// What a feed needs of the world.
struct Hub {
    tracks: Tracks,
    ids: Arc<AtomicU64>,
    changes: Vec<Change>,
}

impl Intake {
    pub fn new(clock: MediaClock, tracks: Tracks, ids: Arc<AtomicU64>) -> Intake {
        Intake {
            clock,
            session: SessionClock::default(),
            feeds: Vec::new(),
            hub: Hub { tracks, ids, changes: Vec::new() },
            bell: Arc::new(Notify::new()),
        }
    }

    /// Rings when a recording wants a keyframe.
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.hub.changes)
    }

    /// A sender report, of whichever track has the SSRC.
    pub fn report(&mut self, ssrc: u32, ntp: NtpTime, rtp: u32, at: Instant) {
        let layers = self.feeds.iter_mut().flat_map(|feed| &mut feed.layers);
        if let Some(layer) = layers.into_iter().find(|layer| layer.ssrc == ssrc) {
            self.session.report(layer.clock, ntp, rtp, self.clock.at(at));
            layer.held_until = None;
        }
    }

    /// A packet of the track of this kind; `rid` names its simulcast layer.
    pub fn packet(&mut self, kind: TrackKind, rid: Option<&str>, packet: Received, at: Instant) {
        let index = self.feeds.iter().position(|feed| feed.kind == kind).unwrap_or_else(|| {
            self.feeds.push(Feed::new(kind, Arc::clone(&self.bell)));
            self.feeds.len() - 1
        });
        let feed = &mut self.feeds[index];
        // Who records is there before the first packet is let go.
        if feed.open.is_none() && !packet.payload.is_empty() && !feed.begin(&packet, &mut self.hub) {
            return;
        }
        let Some(layer) = feed.layer(packet.ssrc, rid, &mut self.session, &mut self.hub, at) else { return };
        layer.hear(packet.payload.len(), at);
        self.session.arrived(layer.clock, packet.timestamp, self.clock.at(at));
        metrics::counter!("holdfast_rtp_packets_total", "kind" => kind.as_str()).increment(1);
        match layer.order.push(packet.sequence, packet, at) {
            Taken::Kept | Taken::Doubted => {}
            Taken::Duplicate | Taken::TooLate => {
                metrics::counter!("holdfast_rtp_useless_total", "kind" => kind.as_str()).increment(1);
            }
            Taken::Restarted => self.session.restart(layer.clock),
        }
        feed.release(&mut self.session, &mut self.hub, at);
    }

    /// Lets go of what has waited long enough.
    pub fn release(&mut self, now: Instant) {
        for feed in &mut self.feeds {
            feed.release(&mut self.session, &mut self.hub, now);
        }
    }

    /// When to call [`release`](Self::release) or [`keyframes`](Self::keyframes) next.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.feeds.iter().flat_map(|feed| &feed.layers).filter_map(Layer::deadline);
        let wishes = self
            .feeds
            .iter()
            .filter(|feed| feed.wish.wanted.load(Ordering::Acquire))
            .filter_map(|feed| feed.asked.map(|asked| asked + KEYFRAME_PAUSE));
        waiting.chain(wishes).min()
    }

    /// SSRCs whose sender should be asked for a keyframe now.
    pub fn keyframes(&mut self, now: Instant) -> Vec<u32> {
        self.feeds.iter_mut().filter_map(|feed| feed.keyframe(now)).collect()
    }

    /// The session is over: what is held goes out, then the tracks end.
    pub fn close(&mut self) {
        for feed in &mut self.feeds {
            for index in 0..feed.layers.len() {
                for released in feed.layers[index].order.drain() {
                    feed.emit(index, released, &mut self.session, &mut self.hub);
                }
            }
            feed.end(&mut self.hub);
        }
        self.feeds.clear();
    }
}

impl Layer {
    fn deadline(&self) -> Option<Instant> {
        let due = self.order.deadline()?;
        Some(self.held_until.map_or(due, |held| held.max(due)))
    }

    fn hear(&mut self, bytes: usize, at: Instant) {
        self.heard = at;
        self.bytes += bytes;
        if at.saturating_duration_since(self.measured) >= RATE_OVER {
            self.rate = std::mem::take(&mut self.bytes);
            self.measured = at;
        }
    }
}

impl Feed {
    fn new(kind: TrackKind, bell: Arc<Notify>) -> Feed {
        Feed {
            kind,
            open: None,
            layers: Vec::new(),
            active: None,
            better: None,
            out: None,
            packets: Vec::new(),
            lost: false,
            wish: Arc::new(Wish { wanted: AtomicBool::new(false), bell }),
            asked: None,
        }
    }

    fn clock_rate(&self) -> u32 {
        match self.kind {
            TrackKind::Audio => 48_000,
            TrackKind::Video => 90_000,
        }
    }

    /// The layer of this SSRC; a new one without a rid takes the place of the one before.
    fn layer(
        &mut self,
        ssrc: u32,
        rid: Option<&str>,
        session: &mut SessionClock,
        hub: &mut Hub,
        at: Instant,
    ) -> Option<&mut Layer> {
        if let Some(index) = self.layers.iter().position(|layer| layer.ssrc == ssrc) {
            return Some(&mut self.layers[index]);
        }
        if let Some(index) = self.layers.iter().position(|layer| layer.rid.as_deref() == rid) {
            for released in self.layers[index].order.drain() {
                self.emit(index, released, session, hub);
            }
            let former = self.layers.remove(index);
            if self.active == Some(former.ssrc) {
                self.active = None;
                self.wish.request_keyframe();
            }
        }
        if self.layers.len() >= MOST_LAYERS {
            return None;
        }
        self.layers.push(Layer {
            ssrc,
            rid: rid.map(str::to_owned),
            clock: session.add_track(self.clock_rate()),
            order: Reorder::new(WAIT),
            held_until: Some(at + REPORT_WITHIN),
            heard: at,
            bytes: 0,
            rate: 0,
            measured: at,
        });
        self.layers.last_mut()
    }

    fn release(&mut self, session: &mut SessionClock, hub: &mut Hub, now: Instant) {
        if self.layers.len() > 1 {
            self.compare(now);
        }
        for index in 0..self.layers.len() {
            if self.layers[index].held_until.is_some_and(|until| now < until) {
                continue;
            }
            while let Some(released) = self.layers[index].order.pop(now) {
                self.emit(index, released, session, hub);
            }
        }
    }

    /// Whether another layer flows better than the one that is recorded.
    fn compare(&mut self, now: Instant) {
        let flows = |layer: &&Layer| now.saturating_duration_since(layer.heard) < LAYER_SILENT;
        let active = self.layers.iter().filter(flows).find(|layer| Some(layer.ssrc) == self.active);
        let enough = active.map_or(0, |layer| layer.rate + layer.rate / 4);
        let better = self
            .layers
            .iter()
            .filter(flows)
            .filter(|layer| Some(layer.ssrc) != self.active && (active.is_none() || layer.rate > enough))
            .max_by_key(|layer| layer.rate)
            .map(|layer| layer.ssrc);
        if better != self.better {
            self.better = better;
            self.asked = None;
            if better.is_some() {
                self.wish.request_keyframe();
            }
        }
    }

    fn emit(&mut self, index: usize, released: Released<Received>, session: &mut SessionClock, hub: &mut Hub) {
        let (ssrc, clock) = (self.layers[index].ssrc, self.layers[index].clock);
        let Released { item: packet, lost_before, restarted } = released;
        if lost_before > 0 {
            metrics::counter!("holdfast_rtp_lost_total", "kind" => self.kind.as_str()).increment(lost_before);
            if self.active == Some(ssrc) {
                self.lost = true;
                if self.kind == TrackKind::Video {
                    self.wish.request_keyframe();
                }
            }
        }
        // Probes for bandwidth have no payload, but a sequence number.
        if packet.payload.is_empty() {
            return;
        }
        let mut turned = restarted;
        if self.active != Some(ssrc) {
            let awaited = self.better == Some(ssrc) && begins_keyframe(packet.codec, &packet.payload);
            if self.active.is_some() && !awaited {
                return;
            }
            self.active = Some(ssrc);
            self.better = None;
            turned = true;
        }
        if self.open.as_ref().is_none_or(|open| open.codec != packet.codec) {
            self.end(hub);
            if !self.begin(&packet, hub) {
                return;
            }
            turned = true;
        }
        if turned || self.out.as_ref().is_some_and(|out| out.frame != Some(packet.timestamp)) {
            self.push();
        }
        let at = session.stamp(clock, packet.timestamp);
        let rate = u64::from(self.clock_rate());
        let after_loss = std::mem::take(&mut self.lost) || (restarted && self.out.is_some());
        let out = self.out.get_or_insert(Output {
            ssrc,
            sequence: packet.sequence.wrapping_sub(1),
            timestamp: packet.timestamp,
            shift: 0,
            frame: None,
            at: MediaTime(0),
        });
        if turned && out.frame.is_some() {
            // The stream goes on from where it was, by as much as time has passed.
            let passed = u128::from(at.0.saturating_sub(out.at.0)) * u128::from(rate) / 1_000_000_000;
            let ticks = u32::try_from(passed.clamp(1, u128::from(u32::MAX / 2))).unwrap_or(1);
            out.shift = out.timestamp.wrapping_add(ticks).wrapping_sub(packet.timestamp);
        }
        if turned || out.frame != Some(packet.timestamp) {
            out.at = if out.frame.is_some() { at.max(MediaTime(out.at.0 + 1000)) } else { at };
        }
        out.frame = Some(packet.timestamp);
        out.timestamp = packet.timestamp.wrapping_add(out.shift);
        let missing = if turned { 0 } else { lost_before.min(1000) as u16 };
        out.sequence = out.sequence.wrapping_add(1).wrapping_add(missing);
        let payload_type = self.open.as_ref().map_or(packet.payload_type, |open| open.payload_type);
        let marker = packet.marker && holds_picture(packet.codec, &packet.payload);
        let rtp = marshal(out, payload_type, marker, &packet.payload);
        self.packets.push(StampedPacket { rtp, at: out.at, after_loss });
        if marker || self.kind == TrackKind::Audio {
            self.push();
        }
    }

    /// Hands the frame at hand to the hub.
    fn push(&mut self) {
        if self.packets.is_empty() {
            return;
        }
        let packets = std::mem::take(&mut self.packets);
        if let Some(open) = &self.open {
            open.input.push(packets);
        }
    }

    fn begin(&mut self, packet: &Received, hub: &mut Hub) -> bool {
        let track = TrackId(hub.ids.fetch_add(1, Ordering::Relaxed));
        let opened = hub.tracks.open(TrackSource {
            id: track,
            kind: self.kind,
            codec: packet.codec,
            payload_type: packet.payload_type,
            clock_rate: self.clock_rate(),
            feedback: Arc::clone(&self.wish) as Arc<dyn Feedback>,
        });
        match opened {
            Ok(input) => {
                let (codec, payload_type) = (packet.codec, packet.payload_type);
                self.open = Some(Open { track, codec, payload_type, input });
                hub.changes.push(Change::Up { track, kind: self.kind, codec });
                true
            }
            Err(error) => {
                tracing::error!(?track, %error, "the hub does not take the track");
                false
            }
        }
    }

    fn end(&mut self, hub: &mut Hub) {
        self.push();
        self.out = None;
        if let Some(open) = self.open.take() {
            hub.changes.push(Change::Down { track: open.track });
        }
    }

    fn keyframe(&mut self, now: Instant) -> Option<u32> {
        let due = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= KEYFRAME_PAUSE);
        if self.kind != TrackKind::Video || !due || !self.wish.wanted.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.asked = Some(now);
        if self.better.is_some() {
            // It is waited for until it comes, however many requests get lost.
            self.wish.wanted.store(true, Ordering::Release);
        }
        self.better.or(self.active).or(self.layers.first().map(|layer| layer.ssrc))
    }
}

/// RFC 3550 §5.1 with nothing optional.
fn marshal(out: &Output, payload_type: u8, marker: bool, payload: &[u8]) -> Bytes {
    let mut rtp = BytesMut::with_capacity(12 + payload.len());
    rtp.put_u8(0x80);
    rtp.put_u8(u8::from(marker) << 7 | payload_type & 0x7f);
    rtp.put_u16(out.sequence);
    rtp.put_u32(out.timestamp);
    rtp.put_u32(out.ssrc);
    rtp.put_slice(payload);
    rtp.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tracks::Listener;
    use crate::model::Timestamp;

    const IDR: u8 = 0x65;
    const SLICE: u8 = 0x41;

    struct Bench {
        intake: Intake,
        tracks: Tracks,
        begin: Instant,
    }

    fn bench() -> Bench {
        let (begin, tracks) = (Instant::now(), Tracks::default());
        let intake = Intake::new(MediaClock::new(begin, Timestamp(0)), tracks.clone(), Arc::new(AtomicU64::new(1)));
        Bench { intake, tracks, begin }
    }

    impl Bench {
        /// One frame in one packet, `n` frames of 33 ms after the beginning.
        fn frame(&mut self, ssrc: u32, rid: Option<&str>, codec: Codec, n: u32, first: u8, bytes: usize) {
            let mut payload = vec![n as u8; bytes];
            payload[0] = first;
            let packet = Received {
                ssrc,
                payload_type: if codec == Codec::H264 { 102 } else { 96 },
                codec,
                sequence: (ssrc as u16).wrapping_mul(1000).wrapping_add(n as u16),
                timestamp: ssrc.wrapping_mul(1_000_000).wrapping_add(n * 3000),
                marker: true,
                payload: payload.into(),
            };
            let at = self.begin + Duration::from_millis(33) * n;
            self.intake.packet(TrackKind::Video, rid, packet, at);
        }

        fn listen(&mut self) -> Listener {
            let changes = self.intake.take_changes();
            let Some(Change::Up { track, .. }) = changes.last() else { panic!("{changes:?}") };
            self.tracks.listen(*track).expect("live")
        }
    }

    fn heard(bench: &mut Bench, listener: &Listener) -> Vec<StampedPacket> {
        bench.intake.release(bench.begin + Duration::from_secs(60));
        let mut all = Vec::new();
        loop {
            let (packets, _) = listener.take(Duration::ZERO);
            if packets.is_empty() {
                return all;
            }
            all.extend(packets);
        }
    }

    fn assert_one_stream(packets: &[StampedPacket]) {
        for pair in packets.windows(2) {
            let number = |p: &StampedPacket| u16::from_be_bytes([p.rtp[2], p.rtp[3]]);
            let ticks = |p: &StampedPacket| u32::from_be_bytes([p.rtp[4], p.rtp[5], p.rtp[6], p.rtp[7]]);
            assert_eq!(number(&pair[1]).wrapping_sub(number(&pair[0])), 1);
            assert!((1..400_000).contains(&ticks(&pair[1]).wrapping_sub(ticks(&pair[0]))));
            assert!(pair[1].at > pair[0].at);
            assert_eq!(pair[1].rtp[8..12], pair[0].rtp[8..12], "one SSRC");
        }
    }

    #[test]
    fn a_new_ssrc_goes_on_where_the_old_one_was() {
        let mut bench = bench();
        bench.frame(1, None, Codec::H264, 0, IDR, 100);
        let listener = bench.listen();
        (1..10).for_each(|n| bench.frame(1, None, Codec::H264, n, SLICE, 100));
        (10..20).for_each(|n| bench.frame(9, None, Codec::H264, n, if n == 12 { IDR } else { SLICE }, 100));
        let packets = heard(&mut bench, &listener);
        assert_eq!(packets.len(), 20);
        assert_one_stream(&packets);
        assert!(bench.intake.take_changes().is_empty(), "it is the same track");
        assert_eq!(bench.intake.keyframes(bench.begin + Duration::from_secs(2)), [9], "its decoder begins anew");
    }

    #[test]
    fn the_best_layer_is_taken_up_and_left_at_keyframes() {
        let mut bench = bench();
        bench.frame(1, Some("q"), Codec::H264, 0, IDR, 100);
        let listener = bench.listen();
        let mut asked_better = false;
        for n in 1..120 {
            bench.frame(1, Some("q"), Codec::H264, n, if n % 40 == 0 { IDR } else { SLICE }, 100);
            bench.frame(2, Some("f"), Codec::H264, n, if n == 60 { IDR } else { SLICE }, 1000);
            let now = bench.begin + Duration::from_millis(33) * n;
            asked_better |= bench.intake.keyframes(now) == [2];
        }
        assert!(asked_better, "the better layer is asked for a keyframe");
        for n in 120..240 {
            bench.frame(1, Some("q"), Codec::H264, n, if n % 40 == 0 { IDR } else { SLICE }, 100);
        }
        let packets = heard(&mut bench, &listener);
        assert_one_stream(&packets);
        let large: Vec<bool> = packets.iter().map(|p| p.rtp.len() > 500).collect();
        let turns: Vec<usize> = (1..large.len()).filter(|n| large[*n] != large[n - 1]).collect();
        assert_eq!(turns.len(), 2, "up once, down once");
        assert!(turns.iter().all(|n| packets[*n].rtp[12] == IDR), "at keyframes");
    }

    #[test]
    fn a_new_stream_waits_for_its_senders_report_but_not_for_ever() {
        let mut bench = bench();
        bench.frame(1, None, Codec::H264, 0, IDR, 100);
        let listener = bench.listen();
        (1..20).for_each(|n| bench.frame(1, None, Codec::H264, n, SLICE, 100));
        bench.intake.release(bench.begin + REPORT_WITHIN - Duration::from_millis(1));
        assert!(listener.take(Duration::ZERO).0.is_empty());
        assert_eq!(bench.intake.deadline(), Some(bench.begin + REPORT_WITHIN));
        // It says: what was captured at frame 10 was captured 200 ms before the report came.
        let at = bench.begin + Duration::from_millis(530);
        bench.intake.report(1, NtpTime::from_nanos(1_000_000_000_000), 1_000_000 + 10 * 3000 + 18_000, at);
        bench.intake.release(at);
        let (packets, _) = listener.take(Duration::ZERO);
        assert_eq!(packets.len(), 20);
        assert_eq!(packets[10].at.0 / 1_000_000, 330);
    }

    #[test]
    fn another_codec_is_another_track() {
        let mut bench = bench();
        bench.frame(1, None, Codec::H264, 0, IDR, 100);
        bench.frame(1, None, Codec::Vp8, 1, 0x10, 100);
        let up = |track, codec| Change::Up { track: TrackId(track), kind: TrackKind::Video, codec };
        bench.intake.release(bench.begin + REPORT_WITHIN);
        bench.frame(1, None, Codec::Vp8, 60, 0x10, 100);
        let changes = bench.intake.take_changes();
        assert_eq!(changes, [up(1, Codec::H264), Change::Down { track: TrackId(1) }, up(2, Codec::Vp8)]);
        bench.intake.close();
        assert_eq!(bench.intake.take_changes(), [Change::Down { track: TrackId(2) }]);
    }

    #[test]
    fn a_loss_is_told_and_a_keyframe_asked_for() {
        let mut bench = bench();
        bench.frame(1, None, Codec::H264, 0, IDR, 100);
        let listener = bench.listen();
        (1..60).filter(|n| *n != 5).for_each(|n| bench.frame(1, None, Codec::H264, n, SLICE, 100));
        let packets = heard(&mut bench, &listener);
        let after: Vec<bool> = packets.iter().map(|p| p.after_loss).collect();
        assert_eq!(after.iter().filter(|after| **after).count(), 1);
        assert!(packets.iter().find(|p| p.after_loss).is_some_and(|p| p.rtp[13] == 6));
        assert_eq!(bench.intake.keyframes(bench.begin + Duration::from_secs(3)), [1]);
    }

    #[test]
    fn parameter_sets_marked_as_a_picture_stay_with_it() {
        let mut bench = bench();
        bench.frame(1, None, Codec::H264, 0, IDR, 100);
        let listener = bench.listen();
        assert_eq!(heard(&mut bench, &listener).len(), 1, "the first picture");
        bench.frame(1, None, Codec::H264, 1, 0x67, 20);
        assert!(heard(&mut bench, &listener).is_empty(), "no access unit is complete");
        bench.frame(1, None, Codec::H264, 2, IDR, 100);
        assert_eq!(heard(&mut bench, &listener).first().map(|p| p.rtp[1] >> 7), Some(0));
    }
}
