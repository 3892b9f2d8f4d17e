//! WHEP (draft-ietf-wish-whep): the box fetches a stream from another media server, as a viewer would.
//!
//! Owns: the viewer's half of WHEP, one WebRTC connection that takes in. Must not touch: reconnecting, the room.
//! Law: packets go into the same intake as those of a WHIP publisher, stamped as they came off the wire; a session that
//! was made is taken down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use reqwest::{Client, RequestBuilder, StatusCode};
use rtc::interceptor::{self, NackGeneratorBuilder, ReceiverReportBuilder, Slot, TwccReceiverBuilder};
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::sender_report::SenderReport;
use rtc::rtp_transceiver::rtp_sender::{RTCRtpHeaderExtensionCapability, RtpCodecKind};
use rtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use webrtc::media_stream::track_remote::TrackRemote;
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCPeerConnectionState, RTCSessionDescription, Registry, SettingEngineBuilder,
};

use super::seat::Seat;
use crate::media::ear::{Ear, Hear, is_closed, rtcp_of};
use crate::media::layers::Received;
use crate::media::publish::{TRANSPORT_CC, codec_parameters, local_address};
use crate::model::rtp_time::NtpTime;
use crate::model::source::Address;
use crate::model::{Codec, Secret, TrackKind};

const HTTP_WITHIN: Duration = Duration::from_secs(15);
const GATHER_WITHIN: Duration = Duration::from_secs(2);
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// Nothing has come for so long: it is begun anew.
const SILENT: Duration = Duration::from_secs(10);
/// The connection is looked at so often: that the server has closed it, it tells nobody.
const LOOK: Duration = Duration::from_millis(500);
/// Packets on their way from the connection's thread; some seconds of 8 Mbit/s.
const QUEUE: usize = 4096;
/// No server's answer comes near it.
const LONGEST_ANSWER: usize = 64 * 1024;
/// What is asked for, best first of each kind.
const CODECS: [Codec; 3] = [Codec::Opus, Codec::H264, Codec::Vp8];
/// As long as packets are waited for (see `media/reorder`).
const NACK_LOG: u16 = 2048;
const NACK_INTERVAL: Duration = Duration::from_millis(100);
const NACK_TRIES: u16 = 10;

/// Another media server.
pub(super) struct Server {
    pub address: Address,
    pub token: Option<Secret>,
    pub insecure: bool,
}

enum Heard {
    Packet(TrackKind, Received, Instant),
    Report(SenderReport, Instant),
    Track(Arc<dyn TrackRemote>),
}

/// A session at the server.
struct Session<'a> {
    server: &'a Server,
    connection: Box<dyn PeerConnection>,
    http: Client,
    resource: Option<url::Url>,
    heard: mpsc::Receiver<Heard>,
    over: watch::Receiver<Option<bool>>,
    tracks: Vec<Arc<dyn TrackRemote>>,
}

impl Server {
    pub async fn live(&self, seat: &Seat, stop: &CancellationToken, flows: &(dyn Fn() + Sync)) -> Option<String> {
        let session = tokio::select! {
            session = self.enter(seat) => session,
            () = stop.cancelled() => return None,
        };
        let ended = match session {
            Ok(mut session) => {
                let ended = tokio::select! {
                    ended = session.course(seat, flows) => Some(ended),
                    () = stop.cancelled() => None,
                };
                session.leave().await;
                ended
            }
            Err(why) => Some(why),
        };
        ended.map(|why| self.address.redact(&why))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {}", token.expose())),
            None => request,
        }
    }

    /// Makes an offer, and takes the server's answer.
    async fn enter(&self, seat: &Seat) -> Result<Session<'_>, String> {
        let told = |error: &dyn std::error::Error| {
            // the outermost words alone may say but "error sending request"
            let cause = std::iter::successors(error.source(), |error| error.source()).last();
            cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
        };
        let http = Client::builder().tls_danger_accept_invalid_certs(self.insecure).timeout(HTTP_WITHIN).build();
        let http = http.map_err(|error| told(&error))?;
        let (say, heard) = mpsc::channel(QUEUE);
        let (connection, over) = self.connection(say).await.map_err(|error| told(&*error))?;
        let offer = connection.local_description().await.ok_or("no offer could be made")?.sdp;
        let request = http.post(self.address.url().clone()).header(CONTENT_TYPE, "application/sdp").body(offer);
        // the address stands beside the error already
        let response = self.authorized(request).send().await.map_err(|error| told(&error.without_url()))?;
        let (status, from) = (response.status(), response.url().clone());
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let resource = location.and_then(|location| from.join(location).ok());
        let answer = response.text().await.map_err(|error| told(&error.without_url()))?;
        let mut session = Session { server: self, connection, http, resource, heard, over, tracks: Vec::new() };
        if status != StatusCode::CREATED || answer.len() > LONGEST_ANSWER {
            return Err(format!("the server answers with status {}", status.as_u16()));
        }
        seat.offers(kinds(&answer));
        match session.connect(answer).await {
            Ok(()) => Ok(session),
            Err(why) => {
                session.leave().await;
                Err(why)
            }
        }
    }

    async fn connection(
        &self,
        say: mpsc::Sender<Heard>,
    ) -> Result<(Box<dyn PeerConnection>, watch::Receiver<Option<bool>>), Box<dyn std::error::Error + Send + Sync>>
    {
        let mut engine = MediaEngine::default();
        let (mut known, mut seen) = (Vec::new(), Vec::new());
        for codec in CODECS {
            let (parameters, kind) = codec_parameters(codec);
            known.push((parameters.payload_type, codec));
            engine.register_codec(parameters, kind)?;
            if !seen.contains(&kind) {
                engine.register_header_extension(
                    RTCRtpHeaderExtensionCapability { uri: TRANSPORT_CC.into() },
                    kind,
                    None,
                )?;
                seen.push(kind);
            }
        }
        let ear = Ear::new(WireEar { say: say.clone(), known });
        let nack = NackGeneratorBuilder::new().with_size(NACK_LOG).with_interval(NACK_INTERVAL);
        let registry = Registry::new()
            .with(Slot::Custom(1), ear)
            .with(Slot::NackGenerator, nack.with_max_nacks_per_packet(NACK_TRIES).build())
            .with(Slot::TwccReceiver, TwccReceiverBuilder::new().build())
            .with(Slot::ReceiverReport, ReceiverReportBuilder::new().build());
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
            .with_include_loopback_candidate(true)
            .build();
        let (over_in, over) = watch::channel(None);
        let (gathered_in, mut gathered) = watch::channel(false);
        let local = local_address(self.address.url()).await?;
        let connection = PeerConnectionBuilder::new()
            .with_media_engine(engine)
            .with_interceptor_registry(registry)
            .with_setting_engine(settings)
            .with_handler(Arc::new(Events { over: over_in, gathered: gathered_in, say }))
            .with_udp_addrs(vec![std::net::SocketAddr::new(local, 0)])
            // on a thread of its own the connection ends when it is dropped
            .with_dedicated_reactor_pool_size(1)
            .build()
            .await?;
        for kind in seen {
            let direction = RTCRtpTransceiverDirection::Recvonly;
            let init = RTCRtpTransceiverInit { direction, ..Default::default() };
            connection.add_transceiver_from_kind(kind, Some(init)).await?;
        }
        let offer = connection.create_offer(None).await?;
        connection.set_local_description(offer).await?;
        let _ = tokio::time::timeout(GATHER_WITHIN, gathered.wait_for(|done| *done)).await;
        Ok((Box::new(connection), over))
    }
}

impl Session<'_> {
    async fn connect(&mut self, answer: String) -> Result<(), String> {
        let answer =
            RTCSessionDescription::answer(answer).map_err(|_| "the server's answer is no session description")?;
        self.connection.set_remote_description(answer).await.map_err(|_| "the server's answer cannot be taken")?;
        let connected = self.over.wait_for(Option::is_some);
        match tokio::time::timeout(CONNECT_WITHIN, connected).await {
            Ok(Ok(over)) if *over == Some(false) => Ok(()),
            _ => Err("the answer came, but no connection".into()),
        }
    }

    /// Takes in until it is over, and says why.
    async fn course(&mut self, seat: &Seat, flows: &(dyn Fn() + Sync)) -> String {
        let (mut fed, mut looked) = (Instant::now(), Instant::now());
        let mut flowing = false;
        loop {
            // a seat that is out takes nothing; the connection waits with it
            let (bell, due) = match seat.intake(|intake| (intake.bell(), intake.deadline())) {
                Some((bell, due)) => (bell, due),
                None => (seat.bell(), None),
            };
            let look = looked + LOOK;
            let due = due.map_or(look, |due| due.min(look));
            let mut heard = None;
            tokio::select! {
                some = self.heard.recv() => match some {
                    Some(some) => heard = Some(some),
                    None => return "the connection is over".into(),
                },
                _ = self.over.wait_for(|over| *over != Some(false)) => return "the connection is over".into(),
                () = bell.notified() => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
            if heard.is_some_and(|heard| self.take(seat, heard)) {
                fed = Instant::now();
                if !std::mem::replace(&mut flowing, true) {
                    flows();
                }
            }
            let now = Instant::now();
            let wanted = seat.intake(|intake| {
                intake.release(now);
                intake.keyframes(now)
            });
            for ssrc in wanted.unwrap_or_default() {
                self.ask_for_keyframe(ssrc).await;
            }
            if now.duration_since(looked) >= LOOK {
                looked = now;
                if self.is_closed().await {
                    return "the server has closed the connection".into();
                }
            }
            if fed.elapsed() >= SILENT {
                return format!("nothing has come for {} s", SILENT.as_secs());
            }
        }
    }

    async fn is_closed(&self) -> bool {
        // all are bundled on one transport
        match self.connection.get_receivers().await.first() {
            Some(receiver) => is_closed(receiver.transport().await).await,
            None => false,
        }
    }

    /// `true`: it was media.
    fn take(&mut self, seat: &Seat, heard: Heard) -> bool {
        match heard {
            Heard::Packet(kind, packet, at) => {
                if seat.intake(|intake| intake.packet(kind, None, packet, at)).is_some() {
                    seat.fed();
                }
                true
            }
            Heard::Report(report, at) => {
                let ntp = NtpTime(report.ntp_time);
                seat.intake(|intake| intake.report(report.ssrc, ntp, report.rtp_time, at));
                false
            }
            Heard::Track(track) => {
                self.tracks.push(track);
                false
            }
        }
    }

    async fn ask_for_keyframe(&self, ssrc: u32) {
        for track in &self.tracks {
            if track.kind().await == RtpCodecKind::Video {
                let request = PictureLossIndication { sender_ssrc: 1, media_ssrc: ssrc };
                metrics::counter!("holdfast_rtp_plis_total").increment(1);
                // a connection that is gone is noticed by its state
                let _ = track.write_rtcp(vec![Box::new(request)]).await;
            }
        }
    }

    async fn leave(self) {
        if let Some(resource) = self.resource {
            // not to be told anything any more is no fault: the server may be gone
            let _ = self.server.authorized(self.http.delete(resource)).send().await;
        }
        let _ = self.connection.close().await;
    }
}

/// The kinds of media that an answer sends.
fn kinds(answer: &str) -> Vec<TrackKind> {
    let sections = answer.split("\nm=").skip(1);
    let sending = sections.filter(|section| {
        let refused = section.split(' ').nth(1) == Some("0");
        !refused && !section.contains("\na=inactive") && !section.contains("\na=recvonly")
    });
    let kind = |section: &str| match section.split(' ').next() {
        Some("audio") => Some(TrackKind::Audio),
        Some("video") => Some(TrackKind::Video),
        _ => None,
    };
    sending.filter_map(kind).collect()
}

struct Events {
    /// `None`: not yet connected; `Some(true)`: over.
    over: watch::Sender<Option<bool>>,
    gathered: watch::Sender<bool>,
    say: mpsc::Sender<Heard>,
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
            RTCPeerConnectionState::Connected => drop(self.over.send_replace(Some(false))),
            RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => drop(self.over.send_replace(Some(true))),
            _ => {}
        }
    }
    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let _ = self.say.send(Heard::Track(Arc::clone(&track))).await;
        // its packets were heard nearer to the wire; here they are but taken away
        tokio::spawn(async move { while track.poll().await.is_some() {} });
    }
}

/// Hears packets and sender reports next to the wire, with the time at which they came.
struct WireEar {
    say: mpsc::Sender<Heard>,
    known: Vec<(u8, Codec)>,
}

impl WireEar {
    fn hear(&self, heard: Heard) {
        if self.say.try_send(heard).is_err() {
            metrics::counter!("holdfast_source_overflows_total").increment(1);
        }
    }
}

impl Hear for WireEar {
    fn came(&mut self, packet: &interceptor::Packet, at: Instant) {
        if let interceptor::Packet::Rtp(packet) = packet {
            let codec = self.known.iter().find(|(number, _)| *number == packet.header.payload_type);
            if let Some((payload_type, codec)) = codec.copied() {
                let received = Received {
                    ssrc: packet.header.ssrc,
                    payload_type,
                    codec,
                    sequence: packet.header.sequence_number,
                    timestamp: packet.header.timestamp,
                    marker: packet.header.marker,
                    payload: packet.payload.clone(),
                };
                let kind = if codec == Codec::Opus { TrackKind::Audio } else { TrackKind::Video };
                self.hear(Heard::Packet(kind, received, at));
            }
        }
        for report in rtcp_of::<SenderReport>(packet) {
            self.hear(Heard::Report(report.clone(), at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_will_come() {
        let answer = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=sendonly\r\nm=video 0 UDP/TLS/RTP/SAVPF 102\r\n";
        assert_eq!(kinds(answer), [TrackKind::Audio]);
        assert_eq!(
            kinds("v=0\r\nm=video 9 X 96\r\na=sendonly\r\nm=audio 9 X 111\r\na=inactive\r\n"),
            [TrackKind::Video]
        );
        assert_eq!(kinds("v=0\r\nm=application 9 X 1\r\n"), []);
    }
}
