//! The WebRTC core of one publisher, set up for taking in: no sockets, no clock, no task.
//!
//! Owns: how the core is configured (codecs, feedback, ICE, DTLS) and negotiated. Must not touch: tracks of the hub.
//! Law: the core is told only what [`super::sdp`] understood.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::interceptor::{NackGeneratorBuilder, Packet, ReceiverReportBuilder, Registry, Slot, TwccReceiverBuilder};
use rtc::peer_connection::RTCPeerConnection;
use rtc::peer_connection::RTCPeerConnectionBuilder;
use rtc::peer_connection::certificate::RTCCertificate;
use rtc::peer_connection::configuration::RTCConfigurationBuilder;
use rtc::peer_connection::configuration::media_engine::MediaEngine;
use rtc::peer_connection::configuration::setting_engine::SettingEngineBuilder;
use rtc::peer_connection::message::{RTCMessage, TaggedRTCMessage};
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::transport::{RTCDtlsRole, RTCDtlsTransportState, RTCIceCandidateInit};
use rtc::rtcp;
use rtc::rtp_transceiver::rtp_sender::{
    RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpHeaderExtensionCapability, RtpCodecKind,
};
use rtc::sansio::Protocol;
use rtc::shared::error::Error;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};

use super::ear::{Ear, Hear, rtcp_of};
use super::sdp::{Local, Offer, SdpError};
use crate::model::rtp_time::NtpTime;
use crate::model::{Codec, TrackKind};

/// Inside the core the box has these addresses, one of each family: all datagrams come over one port, and which of
/// its addresses a publisher uses is the port's affair.
const INSIDE: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];
/// Sequence numbers that NACK looks back: a second of 8 Mbit/s.
const NACK_LOG: u16 = 2048;
const NACK_INTERVAL: Duration = Duration::from_millis(100);
/// As long as the packet is waited for.
const NACK_TRIES: u16 = 10;
/// Retransmissions come late and must still pass.
const REPLAY_WINDOW: usize = 4096;

/// A sender report that went by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    pub ssrc: u32,
    pub ntp: NtpTime,
    pub rtp: u32,
    pub at: Instant,
}

/// What the interceptor next to the wire saw.
#[derive(Debug, Default)]
struct Seen {
    reports: Vec<Report>,
    nacked: u64,
}

struct Tap(Arc<Mutex<Seen>>);

fn look(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Hear for Tap {
    fn came(&mut self, packet: &Packet, at: Instant) {
        for report in rtcp_of::<rtcp::sender_report::SenderReport>(packet) {
            let ntp = NtpTime(report.ntp_time);
            look(&self.0).reports.push(Report { ssrc: report.ssrc, ntp, rtp: report.rtp_time, at });
        }
    }

    fn goes(&mut self, packet: &Packet) {
        use rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;
        for nack in rtcp_of::<TransportLayerNack>(packet) {
            let asked: usize = nack.nacks.iter().map(|pair| pair.packet_list().len()).sum();
            look(&self.0).nacked += asked as u64;
        }
    }
}

/// One publisher's core with what was negotiated.
pub(super) struct Peer {
    pub core: RTCPeerConnection,
    pub offer: Offer,
    pub local: Local,
    inside: [SocketAddr; 2],
    seen: Arc<Mutex<Seen>>,
}

/// Why the core would not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error(transparent)]
    Offer(#[from] SdpError),
    #[error("WebRTC: {0}")]
    Core(#[from] Error),
    #[error("the core wrote an answer without transport")]
    NoTransport,
}

impl Peer {
    /// Takes an offer and makes the core that answers it.
    pub fn answer(offer: Offer, certificate: RTCCertificate, now: Instant) -> Result<Peer, PeerError> {
        if !offer.one_transport() {
            return Err(SdpError::Bad("sound and picture must be bundled on one transport").into());
        }
        let configuration = RTCConfigurationBuilder::new().with_certificates(vec![certificate]).build();
        let settings = SettingEngineBuilder::new()
            .with_answering_dtls_role(RTCDtlsRole::Server)
            // Who is heard and who is not is counted by the session, which sees every datagram.
            .with_ice_timeouts(Some(Duration::ZERO), Some(Duration::ZERO), Some(Duration::from_secs(2)))
            .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
            .with_srtp_replay_protection_window(REPLAY_WINDOW)
            .with_srtcp_replay_protection_window(REPLAY_WINDOW)
            .build();
        let seen = Arc::default();
        let registry = Registry::new()
            .with(Slot::Custom(1), Ear::new(Tap(Arc::clone(&seen))))
            .with(
                Slot::NackGenerator,
                NackGeneratorBuilder::new()
                    .with_size(NACK_LOG)
                    .with_interval(NACK_INTERVAL)
                    .with_max_nacks_per_packet(NACK_TRIES)
                    .build(),
            )
            .with(Slot::TwccReceiver, TwccReceiverBuilder::new().build())
            .with(Slot::ReceiverReport, ReceiverReportBuilder::new().build());
        let core = RTCPeerConnectionBuilder::new()
            .with_configuration(configuration)
            .with_setting_engine(settings)
            .with_media_engine(media_engine(&offer)?)
            .with_interceptor_registry(registry)
            .build(now)?;
        let inside = INSIDE.map(|addr| addr.parse().expect("they are addresses"));
        let mut peer = Peer { core, local: Local::default(), offer, inside, seen };
        peer.negotiate(now)?;
        Ok(peer)
    }

    /// Tells the core of the offer as it now stands.
    pub fn negotiate(&mut self, now: Instant) -> Result<(), PeerError> {
        self.core.set_remote_description(now, RTCSessionDescription::offer(self.offer.for_core())?)?;
        for (n, addr) in self.inside.iter().enumerate() {
            let candidate = format!("candidate:{n} 1 udp {} {} {} typ host", 2130706431 - n, addr.ip(), addr.port());
            self.core.add_local_candidate(RTCIceCandidateInit { candidate, ..Default::default() })?;
        }
        let answer = self.core.create_answer(None)?;
        self.local = Local::of(&answer.sdp).ok_or(PeerError::NoTransport)?;
        self.core.set_local_description(now, answer)?;
        Ok(())
    }

    /// A datagram of the publisher's.
    pub fn take(&mut self, from: SocketAddr, at: Instant, bytes: BytesMut) -> Result<(), Error> {
        let local_addr = self.inside[usize::from(from.is_ipv6())];
        let transport =
            TransportContext { local_addr, peer_addr: from, transport_protocol: TransportProtocol::UDP, ecn: None };
        self.core.handle_read(TaggedBytesMut { now: at, transport, message: bytes })
    }

    /// Asks the sender of an SSRC for a keyframe (RFC 4585 §6.3.1).
    pub fn picture_loss(&mut self, ssrc: u32, now: Instant) {
        let request = rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication {
            sender_ssrc: 1,
            media_ssrc: ssrc,
        };
        let message = RTCMessage::RtcpPacket(String::new(), vec![Box::new(request)]);
        if let Err(error) = self.core.handle_write(TaggedRTCMessage { now, message }) {
            tracing::debug!(%error, "PLI not sent");
        }
    }

    /// Sender reports since the last call, and how many packets were asked for again.
    pub fn reports(&mut self) -> (Vec<Report>, u64) {
        let mut seen = look(&self.seen);
        (std::mem::take(&mut seen.reports), std::mem::take(&mut seen.nacked))
    }

    /// Whether the publisher closed the DTLS connection.
    pub fn closed_by_publisher(&mut self) -> bool {
        let receivers: Vec<_> = self.core.get_receivers().collect();
        receivers.into_iter().any(|id| {
            let Some(receiver) = self.core.rtp_receiver(id) else { return false };
            receiver.transport().is_some_and(|transport| transport.state() == RTCDtlsTransportState::Closed)
        })
    }
}

fn media_engine(offer: &Offer) -> Result<MediaEngine, Error> {
    let mut engine = MediaEngine::default();
    for section in offer.sections() {
        let kind = match section.kind {
            TrackKind::Audio => RtpCodecKind::Audio,
            TrackKind::Video => RtpCodecKind::Video,
        };
        for codec in &section.codecs {
            let (mime, clock_rate, channels) = match codec.codec {
                Codec::Opus => ("audio/opus", 48_000, 2),
                Codec::H264 => ("video/H264", 90_000, 0),
                Codec::Vp8 => ("video/VP8", 90_000, 0),
                Codec::Vp9 => ("video/VP9", 90_000, 0),
                Codec::Av1 => ("video/AV1", 90_000, 0),
            };
            let rtcp_feedback = codec
                .feedback
                .iter()
                .map(|text| {
                    let (typ, parameter) = text.split_once(' ').unwrap_or((text, ""));
                    RTCPFeedback { typ: typ.into(), parameter: parameter.into() }
                })
                .collect();
            let rtp_codec = RTCRtpCodec {
                mime_type: mime.into(),
                clock_rate,
                channels,
                sdp_fmtp_line: codec.fmtp.clone(),
                rtcp_feedback,
            };
            engine.register_codec(RTCRtpCodecParameters { rtp_codec, payload_type: codec.payload_type }, kind)?;
        }
        for (_, uri) in &section.extensions {
            engine.register_header_extension(RTCRtpHeaderExtensionCapability { uri: uri.clone() }, kind, None)?;
        }
    }
    Ok(engine)
}
