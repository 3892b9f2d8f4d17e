//! From a session's RTP packets to tracks of the hub: ordered, stamped, one stream per track whatever layers it has.
//!
//! Owns: a session's clock, its tracks, the change from one layer to another. Must not touch: the WebRTC core, sockets.
//! Law: a track of the hub never steps back: not in sequence numbers, not in stamps, not at a change of layer, SSRC
//! or encoder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

use super::keyframe::{begins_keyframe, holds_picture};
use super::layers::{Layer, Layers, Received};
use super::reorder::{Released, Taken};
use super::stamped::StampedPacket;
use super::tracks::{Feedback, TrackInput, TrackSource, Tracks};
use super::{Ids, MediaClock};
use crate::model::rtp_time::{NtpTime, SessionClock};
use crate::model::{Codec, MediaTime, TrackId, TrackKind};

/// Bytes of one frame: none is larger, and a stranger's packets without an end do not fill the memory.
const MOST_HELD: usize = 8 << 20;
/// A publisher is asked for a keyframe at most so often.
const KEYFRAME_PAUSE: Duration = Duration::from_millis(500);
/// A new stream is held back until its sender's first report says what its time stamps mean, at most for so long:
/// what is stamped by arrival alone may be off by all that made the first packets late.
const REPORT_WITHIN: Duration = Duration::from_millis(1200);

/// What the session must tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Up { track: TrackId, kind: TrackKind, codec: Codec },
    Down { track: TrackId },
}

/// What whoever records wishes, on its way to the session's task.
#[derive(Debug)]
struct Wish {
    keyframe: AtomicBool,
    /// Pixels of height that are of use.
    need: AtomicU32,
    bell: Arc<Notify>,
}

impl Wish {
    fn new(keyframe: bool, bell: Arc<Notify>) -> Arc<Wish> {
        Arc::new(Wish { keyframe: AtomicBool::new(keyframe), need: AtomicU32::new(u32::MAX), bell })
    }

    fn wants_keyframe(&self) -> bool {
        self.keyframe.load(Ordering::Acquire)
    }
}

impl Feedback for Wish {
    fn request_keyframe(&self) {
        self.keyframe.store(true, Ordering::Release);
        self.bell.notify_one();
    }

    fn need(&self, height: u32) {
        self.need.store(height, Ordering::Release);
        self.bell.notify_one();
    }
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
    layers: Layers,
    /// The layer to begin with, while nothing has begun and there is a choice.
    first: Option<u32>,
    out: Option<Output>,
    packets: Vec<StampedPacket>,
    packet_bytes: usize,
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
    ids: Ids,
    changes: Vec<Change>,
}

impl Intake {
    pub fn new(clock: MediaClock, tracks: Tracks, ids: Ids) -> Intake {
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
        let layers = self.feeds.iter_mut().flat_map(|feed| &mut feed.layers.all);
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
        feed.layers.all[layer].hear(kind, &packet, at);
        // Before it is decided what becomes of the packet: it may be the keyframe of a layer that is better.
        feed.compare(at);
        let taken = feed.layers.takes(packet.ssrc);
        let layer = &mut feed.layers.all[layer];
        self.session.arrived(layer.clock, packet.timestamp, self.clock.at(at));
        metrics::counter!("holdfast_rtp_packets_total", "kind" => kind.as_str()).increment(1);
        if !taken {
            // A layer that is not recorded costs no more than this.
            return;
        }
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
        let waiting = self.feeds.iter().filter_map(Feed::deadline);
        let wishes = self
            .feeds
            .iter()
            .filter(|feed| feed.wish.wants_keyframe())
            .filter_map(|feed| feed.asked.map(|asked| asked + KEYFRAME_PAUSE));
        waiting.chain(wishes).min()
    }

    /// SSRCs whose sender should be asked for a keyframe now.
    pub fn keyframes(&mut self, now: Instant) -> Vec<u32> {
        self.feeds.iter_mut().flat_map(|feed| feed.keyframes(now)).collect()
    }

    /// The session is over: what is held goes out, then the tracks end.
    pub fn close(&mut self) {
        for feed in &mut self.feeds {
            for index in 0..feed.layers.all.len() {
                for released in feed.layers.all[index].order.drain() {
                    feed.emit(index, released, &mut self.session, &mut self.hub);
                }
            }
            feed.end(&mut self.hub);
        }
        self.feeds.clear();
    }
}

impl Feed {
    fn new(kind: TrackKind, bell: Arc<Notify>) -> Feed {
        Feed {
            kind,
            open: None,
            layers: Layers::default(),
            first: None,
            out: None,
            packets: Vec::new(),
            packet_bytes: 0,
            lost: false,
            wish: Wish::new(false, bell),
            asked: None,
        }
    }

    fn clock_rate(&self) -> u32 {
        match self.kind {
            TrackKind::Audio => 48_000,
            TrackKind::Video => 90_000,
        }
    }

    /// The place of this SSRC's layer; a new one takes the place of the one before that had its rid, or none either.
    fn layer(
        &mut self,
        ssrc: u32,
        rid: Option<&str>,
        session: &mut SessionClock,
        hub: &mut Hub,
        at: Instant,
    ) -> Option<usize> {
        let known = self.layers.position(ssrc);
        if known.is_some() {
            return known;
        }
        if let Some(index) = self.layers.all.iter().position(|layer| layer.rid.as_deref() == rid) {
            for released in self.layers.all[index].order.drain() {
                self.emit(index, released, session, hub);
            }
            if self.layers.remove(index) {
                self.wish.request_keyframe();
            }
        }
        let clock = session.add_track(self.clock_rate());
        let added = self.layers.add(Layer::new(ssrc, rid, clock, at + REPORT_WITHIN, at));
        added.then(|| self.layers.all.len() - 1)
    }

    fn release(&mut self, session: &mut SessionClock, hub: &mut Hub, now: Instant) {
        self.first = match self.layers.active {
            None if self.layers.is_simulcast() => self.layers.first(self.need(), now),
            _ => None,
        };
        for index in 0..self.layers.all.len() {
            let layer = &self.layers.all[index];
            if self.waits(layer) || layer.held_until.is_some_and(|until| now < until) {
                continue;
            }
            while let Some(released) = self.layers.all[index].order.pop(now) {
                self.emit(index, released, session, hub);
            }
        }
    }

    /// Whether the layer must let another one begin.
    fn waits(&self, layer: &Layer) -> bool {
        self.layers.active.is_none() && self.first.is_some_and(|first| first != layer.ssrc)
    }

    fn deadline(&self) -> Option<Instant> {
        self.layers.all.iter().filter(|layer| !self.waits(layer)).filter_map(Layer::deadline).min()
    }

    fn need(&self) -> u32 {
        self.wish.need.load(Ordering::Acquire)
    }

    fn compare(&mut self, now: Instant) {
        if self.layers.is_simulcast() && self.layers.compare(self.need(), now) {
            self.asked = None;
            self.wish.request_keyframe();
        }
    }

    fn emit(&mut self, index: usize, released: Released<Received>, session: &mut SessionClock, hub: &mut Hub) {
        let (ssrc, clock) = (self.layers.all[index].ssrc, self.layers.all[index].clock);
        let Released { item: packet, lost_before, restarted } = released;
        if lost_before > 0 {
            metrics::counter!("holdfast_rtp_lost_total", "kind" => self.kind.as_str()).increment(lost_before);
            if self.layers.active == Some(ssrc) {
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
        if self.layers.active != Some(ssrc) {
            let begins = begins_keyframe(packet.codec, &packet.payload);
            // A stream that is the only one is taken from wherever it begins.
            let may = match self.layers.active {
                Some(_) => begins && self.layers.better == Some(ssrc),
                None => begins || !self.layers.is_simulcast(),
            };
            if !may {
                return;
            }
            self.layers.activate(ssrc);
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
        self.packet_bytes += rtp.len();
        if self.packet_bytes > MOST_HELD {
            self.packets.clear();
            (self.packet_bytes, self.lost) = (0, true);
            self.wish.request_keyframe();
            return;
        }
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
        self.packet_bytes = 0;
        if let Some(open) = &self.open {
            open.input.push(packets);
        }
    }

    fn begin(&mut self, packet: &Received, hub: &mut Hub) -> bool {
        // What was wished of the track before is not wished of this one.
        self.wish = Wish::new(self.wish.wants_keyframe(), Arc::clone(&self.wish.bell));
        let track = hub.ids.track();
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

    fn keyframes(&mut self, now: Instant) -> Vec<u32> {
        if self.kind != TrackKind::Video {
            return Vec::new();
        }
        let wished = self.keyframe(now);
        let sized = self.layers.ask_size(self.need(), now).filter(|ssrc| Some(*ssrc) != wished);
        wished.into_iter().chain(sized).collect()
    }

    fn keyframe(&mut self, now: Instant) -> Option<u32> {
        let due = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= KEYFRAME_PAUSE);
        if !due || !self.wish.keyframe.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.asked = Some(now);
        let layers = &self.layers;
        if layers.better.is_some() || (layers.active.is_none() && layers.is_simulcast()) {
            // It is waited for until it comes, however many requests get lost.
            self.wish.keyframe.store(true, Ordering::Release);
        }
        let any = || layers.best(self.need(), now).or(layers.all.first().map(|layer| layer.ssrc));
        layers.better.or(layers.active).or_else(any)
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
    /// SSRC, rid and parameter set of three layers: 180, 360 and 1080 lines.
    const LAYERS: [(u32, &str, &str); 3] = [
        (1, "q", "6742c015d901419f9f016a0c0c0d4a000003000200000300791e2c5c90"),
        (2, "h", "6742c01e8c8d405017fcb00f08846a"),
        (3, "f", "67640028acd940780227e5c05a808080a0000003002000000791e30632c0"),
    ];

    struct Bench {
        intake: Intake,
        tracks: Tracks,
        begin: Instant,
    }

    fn bench() -> Bench {
        let (begin, tracks) = (Instant::now(), Tracks::default());
        let intake = Intake::new(MediaClock::new(begin, Timestamp(0)), tracks.clone(), Ids::default());
        Bench { intake, tracks, begin }
    }

    impl Bench {
        /// One frame in one packet, `n` frames of 33 ms after the beginning.
        fn frame(&mut self, ssrc: u32, rid: Option<&str>, codec: Codec, n: u32, first: u8, bytes: usize) {
            let mut payload = vec![n as u8; bytes];
            payload[0] = first;
            self.payload(ssrc, rid, codec, n, payload);
        }

        fn payload(&mut self, ssrc: u32, rid: Option<&str>, codec: Codec, n: u32, payload: Vec<u8>) {
            let packet = received(ssrc, codec, n, payload);
            let at = self.begin + Duration::from_millis(33) * n;
            self.intake.packet(TrackKind::Video, rid, packet, at);
        }

        /// A frame of one of three layers; a keyframe when it is the first one or was asked for.
        fn layer(&mut self, layer: usize, n: u32, key: bool) {
            let (ssrc, rid, set) = LAYERS[layer];
            let bytes = 100 << layer;
            if !key {
                return self.frame(ssrc, Some(rid), Codec::H264, n, SLICE, bytes);
            }
            let set = hex::decode(set).expect("it is written here");
            let mut payload = vec![0x78, 0, set.len() as u8];
            payload.extend(set);
            payload.extend([0, 100, IDR]);
            payload.extend([n as u8; 99]);
            self.payload(ssrc, Some(rid), Codec::H264, n, payload);
        }

        /// Frames of these layers, each sent by a publisher who does what is asked; the layers that were asked.
        fn layers(&mut self, layers: &[usize], frames: std::ops::Range<u32>) -> std::collections::BTreeSet<usize> {
            let mut asked = std::collections::BTreeSet::new();
            for n in frames {
                let now = self.begin + Duration::from_millis(33) * n;
                let ssrcs = self.intake.keyframes(now);
                for layer in layers {
                    let key = ssrcs.contains(&LAYERS[*layer].0);
                    self.layer(*layer, n, key || n == 0);
                    if key {
                        asked.insert(*layer);
                    }
                }
            }
            asked
        }

        fn listen(&mut self) -> Listener {
            let changes = self.intake.take_changes();
            let Some(Change::Up { track, .. }) = changes.last() else { panic!("{changes:?}") };
            self.tracks.listen(*track).expect("live")
        }
    }

    fn received(ssrc: u32, codec: Codec, n: u32, payload: Vec<u8>) -> Received {
        Received {
            ssrc,
            payload_type: if codec == Codec::H264 { 102 } else { 96 },
            codec,
            sequence: (ssrc as u16).wrapping_mul(1000).wrapping_add(n as u16),
            timestamp: ssrc.wrapping_mul(1_000_000).wrapping_add(n * 3000),
            marker: true,
            payload: payload.into(),
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

    /// The layers that the packets came from, without repeats; each is begun at a keyframe.
    fn turns(packets: &[StampedPacket]) -> Vec<usize> {
        let mut turns = Vec::new();
        for packet in packets {
            let (payload, last) = (&packet.rtp[12..], turns.last().copied());
            let layer = match payload[0] {
                0x78 => LAYERS.iter().position(|(_, _, set)| hex::encode(&payload[3..]).starts_with(set)),
                _ => (0..3).find(|layer| payload.len() == 100 << layer),
            };
            if layer != last {
                assert_eq!(payload[0], 0x78, "a layer is taken up at its keyframe");
                turns.extend(layer);
            }
        }
        turns
    }

    #[test]
    fn the_smallest_layer_that_is_tall_enough_is_recorded() {
        let mut bench = bench();
        bench.layers(&[0, 1, 2], 0..1);
        let listener = bench.listen();
        bench.layers(&[0, 1, 2], 1..60);
        listener.need(180);
        assert_eq!(bench.layers(&[0, 1, 2], 60..110), [].into(), "not in a hurry");
        assert_eq!(bench.layers(&[0, 1, 2], 110..200), [0].into(), "then only the one that is to be recorded is asked");
        listener.need(181);
        assert_eq!(bench.layers(&[0, 1, 2], 200..210), [1].into(), "up at once");
        listener.need(u32::MAX);
        assert_eq!(bench.layers(&[0, 1, 2], 210..220), [2].into());
        let packets = heard(&mut bench, &listener);
        assert_one_stream(&packets);
        assert_eq!(turns(&packets), [2, 0, 1, 2]);
        assert_eq!(packets.len(), 222, "each moment, and those of the changes up in both sizes");
    }

    #[test]
    fn a_need_that_passes_changes_nothing() {
        let mut bench = bench();
        bench.layers(&[0, 1, 2], 0..1);
        let listener = bench.listen();
        let mut asked = bench.layers(&[0, 1, 2], 1..60);
        for turn in 0..10 {
            listener.need(if turn % 2 == 0 { 100 } else { 1000 });
            asked.extend(bench.layers(&[0, 1, 2], 60 + turn * 40..100 + turn * 40));
        }
        assert_eq!(asked, [].into());
        assert_eq!(turns(&heard(&mut bench, &listener)), [2]);
    }

    #[test]
    fn what_is_not_sent_any_more_gives_way_to_the_next_best() {
        let mut bench = bench();
        bench.layers(&[0, 1, 2], 0..1);
        let listener = bench.listen();
        listener.need(200);
        bench.layers(&[0, 1, 2], 1..120);
        assert_eq!(bench.layers(&[0, 2], 120..200), [2].into(), "the other that is tall enough");
        assert_eq!(bench.layers(&[0], 200..280), [0].into(), "better a small one than none");
        assert_eq!(bench.layers(&[0, 1, 2], 280..360), [1].into(), "and back");
        let packets = heard(&mut bench, &listener);
        assert_one_stream(&packets);
        assert_eq!(turns(&packets), [1, 2, 0, 1]);
    }

    #[test]
    fn a_size_that_is_not_known_is_asked_for_only_when_it_matters() {
        let mut bench = bench();
        // The smallest one's first keyframe was lost: there is but a slice.
        bench.layer(2, 0, true);
        let listener = bench.listen();
        let idr = |bench: &mut Bench, n| bench.frame(1, Some("q"), Codec::H264, n, IDR, 100);
        (0..60).for_each(|n| {
            if n > 0 {
                bench.layer(2, n, false);
            }
            idr(&mut bench, n);
            assert_eq!(bench.intake.keyframes(bench.begin + Duration::from_millis(33) * n), [0u32; 0]);
        });
        listener.need(100);
        assert_eq!(bench.intake.keyframes(bench.begin + Duration::from_secs(2)), [1]);
        let mut asked = 0;
        (60..240).for_each(|n| {
            bench.layer(2, n, false);
            idr(&mut bench, n);
            asked += bench.intake.keyframes(bench.begin + Duration::from_millis(33) * n).len();
        });
        assert_eq!(asked, 2, "some never say");
        bench.layer(0, 240, true);
        bench.layers(&[0, 2], 241..400);
        assert_eq!(turns(&heard(&mut bench, &listener)), [2, 0]);
    }

    #[test]
    fn a_layer_with_a_new_ssrc_begins_at_a_keyframe() {
        let mut bench = bench();
        bench.layers(&[0, 2], 0..1);
        let listener = bench.listen();
        bench.layers(&[0, 2], 1..60);
        for n in 60..80 {
            bench.layer(0, n, false);
            bench.frame(9, Some("f"), Codec::H264, n, if n == 70 { IDR } else { SLICE }, 400);
        }
        let packets = heard(&mut bench, &listener);
        assert_one_stream(&packets);
        assert_eq!(packets.len(), 70);
        assert!(packets[60].rtp[12] == IDR && packets[60].rtp[13] == 70);
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
    fn a_frame_without_an_end_does_not_fill_the_memory() {
        let mut bench = bench();
        bench.frame(1, None, Codec::H264, 0, IDR, 100);
        let listener = bench.listen();
        for n in 1..9_000 {
            let packet = Received { timestamp: 7, marker: false, ..received(1, Codec::H264, n, vec![SLICE; 1000]) };
            bench.intake.packet(TrackKind::Video, None, packet, bench.begin);
        }
        bench.frame(1, None, Codec::H264, 9_000, IDR, 100);
        let heard = heard(&mut bench, &listener);
        assert!(heard.iter().map(|packet| packet.rtp.len()).sum::<usize>() < MOST_HELD / 2);
        assert_eq!(heard.iter().filter(|packet| packet.after_loss).count(), 1);
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
