//! A publisher's end of WebRTC: an offer goes out, an answer comes in, RTP follows, with sender reports that are true.
//!
//! Owns: one connection of the client's side. Must not touch: HTTP, where the packets come from.
//! Law: a report says what the packets' own times say, however late they were sent; dropping a link is a power cut.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc::interceptor::{self, NackResponderBuilder, Slot, TwccSenderBuilder};
use rtc::rtp_transceiver::rtp_sender::{
    RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters,
    RTCRtpHeaderExtensionCapability, RtpCodecKind,
};
use rtc::{rtcp, rtp};
use tokio::sync::{mpsc, watch};
use webrtc::media_stream::MediaStreamTrack;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCPeerConnectionState, RTCSessionDescription, Registry, SettingEngineBuilder,
};
use webrtc::rtp_transceiver::RtpSender;

use super::PublishError;
use crate::media::ear::{Ear, Hear, is_closed, rtcp_of};
use crate::model::rtp_time::NtpTime;
use crate::model::{Codec, TrackKind};

const CONNECT_WITHIN: Duration = Duration::from_secs(15);
const GATHER_WITHIN: Duration = Duration::from_secs(2);
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// The core tells nobody when the other side closes: it is asked so often.
const CLOSED_LOOK: Duration = Duration::from_millis(250);
/// Reports count from here: NTP time may be a sender's own (RFC 3550 §4), and the box ties it to its clock.
const NTP_BEGIN_SECONDS: u128 = 3_900_000_000;
/// Names of simulcast layers, smallest first, as browsers' publishers commonly spell them.
pub const RIDS: [&str; 3] = ["q", "h", "f"];
const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
pub(in crate::media) const TRANSPORT_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// A packet to be sent. Sequence numbers and SSRC are the link's.
#[derive(Debug, Clone)]
pub struct Packet {
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Bytes,
    /// When what it holds happened: the moment to which `timestamp` belongs.
    pub captured: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    Connecting,
    Connected,
    /// The other side closed it, or is gone
    Over,
}

struct Stream {
    kind: TrackKind,
    /// Place among the layers of its track; 0 without simulcast.
    layer: usize,
    /// What tells a layer's packets from another's (RFC 8852, 8843): element and value.
    extensions: Vec<(u8, Bytes)>,
    ssrc: u32,
    payload_type: u8,
    clock_rate: u32,
    track: Arc<TrackLocalStaticRTP>,
    sent: Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    sequence: u16,
    packets: u32,
    octets: u32,
    anchor: Option<(u32, Instant)>,
}

impl Stream {
    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A WebRTC connection that sends.
pub struct Link {
    connection: Box<dyn PeerConnection>,
    streams: Vec<Arc<Stream>>,
    state: watch::Receiver<LinkState>,
    /// SSRCs that are asked for a keyframe.
    keyframes: mpsc::Receiver<u32>,
    keyframes_asked: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

struct Events {
    state: watch::Sender<LinkState>,
    gathered: watch::Sender<bool>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Events {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.gathered.send_replace(true);
        }
    }
    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        match state {
            RTCPeerConnectionState::Connected => self.state.send_replace(LinkState::Connected),
            RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => self.state.send_replace(LinkState::Over),
            _ => LinkState::Connecting,
        };
    }
}

/// How a codec is asked for by this end.
pub(in crate::media) fn codec_parameters(codec: Codec) -> (RTCRtpCodecParameters, RtpCodecKind) {
    let feedback = |typ: &str, parameter: &str| RTCPFeedback { typ: typ.into(), parameter: parameter.into() };
    let video =
        || vec![feedback("nack", ""), feedback("nack", "pli"), feedback("ccm", "fir"), feedback("transport-cc", "")];
    let (mime, clock_rate, channels, fmtp, payload_type) = match codec {
        Codec::Opus => ("audio/opus", 48_000, 2, "minptime=10;useinbandfec=1;stereo=1", 111),
        Codec::H264 => {
            ("video/H264", 90_000, 0, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f", 102)
        }
        Codec::Vp8 => ("video/VP8", 90_000, 0, "", 96),
        Codec::Vp9 => ("video/VP9", 90_000, 0, "profile-id=0", 98),
        Codec::Av1 => ("video/AV1", 90_000, 0, "", 45),
    };
    let sound = codec == Codec::Opus;
    let rtcp_feedback = if sound { vec![feedback("nack", ""), feedback("transport-cc", "")] } else { video() };
    let rtp_codec =
        RTCRtpCodec { mime_type: mime.into(), clock_rate, channels, sdp_fmtp_line: fmtp.into(), rtcp_feedback };
    let kind = if sound { RtpCodecKind::Audio } else { RtpCodecKind::Video };
    (RTCRtpCodecParameters { rtp_codec, payload_type }, kind)
}

impl Link {
    /// Makes a connection that will send these codecs from `local`, and the offer for it.
    pub async fn offer(codecs: &[Codec], local: IpAddr) -> Result<(Link, String), PublishError> {
        Link::offer_layers(codecs, &[], local).await
    }

    /// The same with a picture in several layers (simulcast, RFC 8853), which these rids name, smallest first.
    pub async fn offer_layers(codecs: &[Codec], rids: &[&str], local: IpAddr) -> Result<(Link, String), PublishError> {
        Link::make(codecs, rids, local, None).await
    }

    /// A media server's end: answers a viewer's offer (WHEP), and will send these codecs. Then it waits for
    /// [`Link::connected`].
    pub async fn serve(offer: &str, codecs: &[Codec], local: IpAddr) -> Result<(Link, String), PublishError> {
        Link::make(codecs, &[], local, Some(offer)).await
    }

    /// A connection and its description: an offer, or the answer to the other side's.
    async fn make(
        codecs: &[Codec],
        rids: &[&str],
        local: IpAddr,
        offered: Option<&str>,
    ) -> Result<(Link, String), PublishError> {
        let (keyframe, keyframes) = mpsc::channel(8);
        let keyframes_asked = Arc::new(AtomicU64::new(0));
        let ear = KeyframeEar { keyframe, asked: Arc::clone(&keyframes_asked) };
        let (state_in, state) = watch::channel(LinkState::Connecting);
        let (gathered_in, mut gathered) = watch::channel(false);
        let events = Events { state: state_in.clone(), gathered: gathered_in };
        let connection = connection(media_engine(codecs, rids)?, ear, events, local).await?;
        if let Some(offered) = offered {
            connection.set_remote_description(RTCSessionDescription::offer(offered.to_owned())?).await?;
        }
        let (mut streams, mut senders) = (Vec::new(), Vec::new());
        for codec in codecs {
            senders.push(add_streams(&*connection, *codec, rids, &mut streams).await?);
        }
        let described = match offered {
            None => connection.create_offer(None).await?,
            Some(_) => connection.create_answer(None).await?,
        };
        connection.set_local_description(described).await?;
        let _ = tokio::time::timeout(GATHER_WITHIN, gathered.wait_for(|done| *done)).await;
        let offer = connection.local_description().await.ok_or(PublishError::NoOffer)?;
        // WHIP publishers only send (RFC 9725 §4.2).
        let offer = offer.sdp.replace("a=sendrecv", "a=sendonly");
        for stream in streams.iter_mut().filter(|stream| !stream.extensions.is_empty()) {
            let names = layer_names(&offer).ok_or(PublishError::NoOffer)?;
            let rid = stream.extensions.remove(0).1;
            stream.extensions = vec![(names.mid_element, names.mid), (names.rid_element, rid)];
        }
        let streams: Vec<Arc<Stream>> = streams.into_iter().map(Arc::new).collect();
        let reports = streams.iter().map(|stream| tokio::spawn(report(Arc::clone(stream), Instant::now())));
        let mut tasks: Vec<_> = reports.collect();
        // all senders are bundled on one transport
        tasks.extend(senders.pop().map(|sender| tokio::spawn(closed(sender, state_in))));
        Ok((Link { connection, streams, state, keyframes, keyframes_asked, tasks }, offer))
    }

    /// Takes the answer and waits until the connection stands.
    pub async fn answer(&mut self, answer: &str) -> Result<(), PublishError> {
        self.connection.set_remote_description(RTCSessionDescription::answer(answer.to_owned())?).await?;
        self.connected().await
    }

    /// Waits until the connection stands.
    pub async fn connected(&mut self) -> Result<(), PublishError> {
        let connected = self.state.wait_for(|state| *state != LinkState::Connecting);
        match tokio::time::timeout(CONNECT_WITHIN, connected).await {
            Ok(Ok(state)) if *state == LinkState::Connected => Ok(()),
            _ => Err(PublishError::NotConnected),
        }
    }

    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Sends a packet of the stream of this kind, at once.
    pub async fn send(&self, kind: TrackKind, packet: Packet) -> Result<(), PublishError> {
        self.send_layer(kind, 0, packet).await
    }

    /// Sends a packet of a layer, counted from the smallest.
    pub async fn send_layer(&self, kind: TrackKind, layer: usize, packet: Packet) -> Result<(), PublishError> {
        let stream = self.streams.iter().find(|stream| stream.kind == kind && stream.layer == layer);
        let stream = stream.ok_or(PublishError::NoOffer)?;
        let sequence = {
            let mut sent = stream.sent();
            sent.sequence = sent.sequence.wrapping_add(1);
            sent.packets = sent.packets.wrapping_add(1);
            sent.octets = sent.octets.wrapping_add(u32::try_from(packet.payload.len()).unwrap_or(0));
            sent.anchor = Some((packet.timestamp, packet.captured));
            sent.sequence
        };
        let mut header = rtp::Header {
            version: 2,
            marker: packet.marker,
            payload_type: stream.payload_type,
            sequence_number: sequence,
            timestamp: packet.timestamp,
            ssrc: stream.ssrc,
            ..Default::default()
        };
        for (element, value) in &stream.extensions {
            header.set_extension(*element, value.clone())?;
        }
        stream.track.write_rtp(rtp::Packet { header, payload: packet.payload }).await?;
        Ok(())
    }

    /// Waits until the other side asks for a keyframe; tells of which layer.
    pub async fn keyframe_asked(&mut self) -> usize {
        match self.keyframes.recv().await {
            Some(ssrc) => self.streams.iter().find(|stream| stream.ssrc == ssrc).map_or(0, |stream| stream.layer),
            None => std::future::pending().await,
        }
    }

    /// Keyframe requests (PLI, FIR) so far.
    pub fn keyframes_asked(&self) -> u64 {
        self.keyframes_asked.load(Ordering::Relaxed)
    }

    /// Packets and payload bytes that went out.
    pub fn sent(&self) -> (u64, u64) {
        self.streams.iter().fold((0, 0), |(packets, bytes), stream| {
            let sent = stream.sent();
            (packets + u64::from(sent.packets), bytes + u64::from(sent.octets))
        })
    }

    /// Closes the connection properly: the other side hears of it by DTLS.
    pub async fn close(self) {
        let _ = self.connection.close().await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn media_engine(codecs: &[Codec], rids: &[&str]) -> Result<MediaEngine, PublishError> {
    let mut engine = MediaEngine::default();
    for codec in codecs {
        let (parameters, kind) = codec_parameters(*codec);
        engine.register_codec(parameters, kind)?;
        let layered = kind == RtpCodecKind::Video && !rids.is_empty();
        for uri in [TRANSPORT_CC].into_iter().chain(layered.then_some([MID, RID]).into_iter().flatten()) {
            engine.register_header_extension(RTCRtpHeaderExtensionCapability { uri: uri.into() }, kind, None)?;
        }
    }
    Ok(engine)
}

async fn connection(
    engine: MediaEngine,
    ear: KeyframeEar,
    events: Events,
    local: IpAddr,
) -> Result<Box<dyn PeerConnection>, PublishError> {
    // The core's own sender reports tell when packets were sent; those of `report` tell when what they hold happened.
    let registry = Registry::new()
        .with(Slot::Custom(1), Ear::new(ear))
        .with(Slot::NackResponder, NackResponderBuilder::new().build())
        .with(Slot::TwccSender, TwccSenderBuilder::new().build());
    let settings = SettingEngineBuilder::new()
        .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
        .with_include_loopback_candidate(true)
        .build();
    let connection = PeerConnectionBuilder::new()
        .with_media_engine(engine)
        .with_interceptor_registry(registry)
        .with_setting_engine(settings)
        .with_handler(Arc::new(events))
        .with_udp_addrs(vec![std::net::SocketAddr::new(local, 0)])
        // On a thread of its own the connection ends when it is dropped.
        .with_dedicated_reactor_pool_size(1)
        .build()
        .await?;
    Ok(Box::new(connection))
}

/// Adds a track of this codec, and its stream, or of a layered picture all its streams.
async fn add_streams(
    connection: &dyn PeerConnection,
    codec: Codec,
    rids: &[&str],
    streams: &mut Vec<Stream>,
) -> Result<Arc<dyn RtpSender>, PublishError> {
    let (parameters, codec_kind) = codec_parameters(codec);
    let kind = if codec == Codec::Opus { TrackKind::Audio } else { TrackKind::Video };
    let rids = if kind == TrackKind::Video && !rids.is_empty() { rids } else { &[""] };
    let layers: Vec<(u32, &str)> = rids.iter().map(|rid| (rand::random::<u32>() | 1, *rid)).collect();
    let codings = layers.iter().map(|(ssrc, rid)| RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters {
            ssrc: Some(*ssrc),
            rid: (*rid).to_owned(),
            ..Default::default()
        },
        codec: parameters.rtp_codec.clone(),
        ..Default::default()
    });
    let name = kind.as_str().to_owned();
    let track = MediaStreamTrack::new("publisher".to_owned(), name.clone(), name, codec_kind, codings.collect());
    let track = Arc::new(TrackLocalStaticRTP::new(track));
    let sender = connection.add_track(Arc::clone(&track) as Arc<dyn TrackLocal>).await?;
    streams.extend(layers.into_iter().enumerate().map(|(layer, (ssrc, rid))| Stream {
        kind,
        layer,
        extensions: if rid.is_empty() { Vec::new() } else { vec![(0, Bytes::from(rid.to_owned()))] },
        ssrc,
        payload_type: parameters.payload_type,
        clock_rate: parameters.rtp_codec.clock_rate,
        track: Arc::clone(&track),
        sent: Mutex::new(Sent { sequence: rand::random(), ..Sent::default() }),
    }));
    Ok(sender)
}

/// Hears keyframe requests: what the core's chain of interceptors does not use itself, it drops.
struct KeyframeEar {
    keyframe: mpsc::Sender<u32>,
    asked: Arc<AtomicU64>,
}

impl Hear for KeyframeEar {
    fn came(&mut self, packet: &interceptor::Packet, _: Instant) {
        use rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
        use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
        let lost = rtcp_of::<PictureLossIndication>(packet).map(|lost| lost.media_ssrc);
        let full = rtcp_of::<FullIntraRequest>(packet);
        let full = full.map(|full| full.fir.first().map_or(full.media_ssrc, |entry| entry.ssrc));
        for ssrc in lost.chain(full) {
            self.asked.fetch_add(1, Ordering::Relaxed);
            // Those that wait are enough.
            let _ = self.keyframe.try_send(ssrc);
        }
    }
}

/// Waits for the other side's word that it is over.
async fn closed(sender: Arc<dyn RtpSender>, state: watch::Sender<LinkState>) {
    let mut look = tokio::time::interval(CLOSED_LOOK);
    loop {
        look.tick().await;
        if is_closed(sender.transport().await).await {
            state.send_replace(LinkState::Over);
            return;
        }
    }
}

/// How the offer's picture names its layers.
struct LayerNames {
    mid: Bytes,
    mid_element: u8,
    rid_element: u8,
}

fn layer_names(offer: &str) -> Option<LayerNames> {
    let section = &offer[offer.find("m=video")?..];
    let mut lines = section.lines().skip(1).take_while(|line| !line.starts_with("m="));
    let (mut mid, mut mid_element, mut rid_element) = (None, None, None);
    for line in &mut lines {
        if let Some(value) = line.strip_prefix("a=mid:") {
            mid = Some(Bytes::from(value.trim().to_owned()));
        }
        if let Some((element, uri)) = line.strip_prefix("a=extmap:").and_then(|map| map.trim().split_once(' ')) {
            let element = element.split('/').next().and_then(|element| element.parse().ok());
            match uri {
                MID => mid_element = element,
                RID => rid_element = element,
                _ => {}
            }
        }
    }
    Some(LayerNames { mid: mid?, mid_element: mid_element?, rid_element: rid_element? })
}

async fn report(stream: Arc<Stream>, began: Instant) {
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        tick.tick().await;
        let now = Instant::now();
        let (timestamp, packet_count, octet_count) = {
            let sent = stream.sent();
            let Some((timestamp, captured)) = sent.anchor else { continue };
            let passed = now.saturating_duration_since(captured).as_nanos() * u128::from(stream.clock_rate);
            (timestamp.wrapping_add((passed / 1_000_000_000) as u32), sent.packets, sent.octets)
        };
        let ntp = NTP_BEGIN_SECONDS * 1_000_000_000 + now.saturating_duration_since(began).as_nanos();
        let report = rtcp::sender_report::SenderReport {
            ssrc: stream.ssrc,
            ntp_time: NtpTime::from_nanos(ntp).0,
            rtp_time: timestamp,
            packet_count,
            octet_count,
            ..Default::default()
        };
        if stream.track.write_rtcp(vec![Box::new(report)]).await.is_err() {
            return;
        }
    }
}
