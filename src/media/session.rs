//! One publisher's session: a task that turns datagrams into packets of the hub, until it is over.
//!
//! Owns: one publisher's WebRTC core and its timers. Must not touch: the table of sessions, HTTP.
//! Law: exactly one reason ends it; whatever strangers send, the worst is the end of their own session.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rtc::peer_connection::event::{RTCPeerConnectionEvent, RTCTrackEvent};
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::state::RTCPeerConnectionState;
use rtc::sansio::Protocol;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::answer::{Patched, WhipError};
use super::intake::{Change, Intake};
use super::layers::Received;
use super::mux::{Datagram, Mux, is_stun, next_look};
use super::peer::Peer;
use super::sdp::{Credentials, Fragment};
use super::{LeaveReason, MediaNews};
use crate::model::{MediaId, RoomKey, SessionId, TrackId, TrackKind, UserId};

/// A publisher who is not connected after so long never will be.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// Datagrams taken between two looks at everything else.
const BATCH: usize = 64;
/// A timer comes so long after the port is read: a session that got datagrams then has heard its timers with them, and is
/// not woken twice.
const AFTER_LOOK: Duration = Duration::from_millis(2);
/// SSRCs that the offer did not name and that are let in; a stranger's noise must not keep the core busy.
const MOST_LEARNT: u32 = 16;

/// What the table of sessions asks of a session.
pub(super) enum Command {
    Patch {
        if_match: Option<String>,
        fragment: Fragment,
        reply: oneshot::Sender<Result<Patched, WhipError>>,
    },
    /// DELETE
    Leave {
        done: oneshot::Sender<()>,
    },
}

/// Whose session it is.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub session: SessionId,
    pub room: RoomKey,
    pub user: UserId,
    pub media: MediaId,
}

/// What the world has been told of the session and must hear the end of, even if the session dies of a fault.
#[derive(Debug, Default)]
pub(super) struct Presence {
    pub entered: bool,
    pub up: std::collections::BTreeSet<TrackId>,
}

pub(super) struct Session {
    pub who: Who,
    pub peer: Peer,
    pub mux: Arc<Mux>,
    pub inbox: mpsc::Receiver<Datagram>,
    pub commands: mpsc::Receiver<Command>,
    pub closing: CancellationToken,
    pub intake: Intake,
    pub news: mpsc::Sender<MediaNews>,
    pub presence: Arc<Mutex<Presence>>,
    pub ice_timeout: Duration,
    pub candidates: Vec<SocketAddr>,
    pub etag: String,
    pub new_etag: fn() -> String,
}

/// What a session remembers while it runs.
struct Course {
    began: Instant,
    heard: Instant,
    connected: bool,
    /// Where media comes from; ICE may move it, and so may a NAT.
    source: Option<SocketAddr>,
    rids: BTreeMap<u32, String>,
    known: Vec<u32>,
    learnt: u32,
}

impl Session {
    /// Runs until it is over, says why, and leaves nothing open but the farewell.
    pub async fn run(mut self) -> LeaveReason {
        let now = Instant::now();
        let mut course = Course {
            began: now,
            heard: now,
            connected: false,
            source: None,
            rids: BTreeMap::new(),
            known: self.peer.offer.sections().filter_map(|section| section.ssrc).collect(),
            learnt: 0,
        };
        let reason = self.course(&mut course).await;
        self.intake.close();
        self.tell_changes().await;
        if let Err(error) = self.peer.core.close() {
            tracing::debug!(session = self.who.session.0, %error, "close");
        }
        self.send(&course);
        reason
    }

    async fn course(&mut self, course: &mut Course) -> LeaveReason {
        let bell = self.intake.bell();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let now = Instant::now();
            if let Some(reason) = self.look(course, now).await {
                return reason;
            }
            self.send(course);
            let due = self.deadline(course);
            let deadline = next_look(due.max(now + Duration::from_millis(1))) + AFTER_LOOK;
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return LeaveReason::Closed,
                count = self.inbox.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return LeaveReason::Closed;
                    }
                    for datagram in batch.drain(..) {
                        self.take(course, datagram);
                    }
                }
                command = self.commands.recv() => match command {
                    Some(Command::Patch { if_match, fragment, reply }) => {
                        let _ = reply.send(self.patch(if_match.as_deref(), fragment));
                    }
                    Some(Command::Leave { done }) => {
                        let _ = done.send(());
                        return LeaveReason::Left;
                    }
                    None => return LeaveReason::Closed,
                },
                () = bell.notified() => {}
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            // whatever woke it: datagrams come at the same moments as timers, and must not keep them from being heard
            let now = Instant::now();
            if due <= now {
                if let Err(error) = self.peer.core.handle_timeout(now) {
                    tracing::debug!(session = self.who.session.0, %error, "timer");
                }
                self.intake.release(now);
            }
        }
    }

    fn deadline(&mut self, course: &Course) -> Instant {
        let own = if course.connected { course.heard + self.ice_timeout } else { course.began + CONNECT_WITHIN };
        [self.peer.core.poll_timeout(), self.intake.deadline()].into_iter().flatten().fold(own, Instant::min)
    }

    /// Hands a datagram to the core and takes what media it gives.
    fn take(&mut self, course: &mut Course, datagram: Datagram) {
        let Datagram { from, at, bytes } = datagram;
        course.heard = at;
        let stun = is_stun(&bytes);
        let dtls = matches!(bytes.first(), Some(20..=63));
        if !stun && !dtls {
            self.learn(course, &bytes, at);
        }
        if let Err(error) = self.peer.take(from, at, bytes) {
            tracing::trace!(session = self.who.session.0, %from, %error, "datagram not taken");
        }
        if !stun && dtls {
            self.events(course);
        }
        // the core has taken the datagram to its end; `poll_read` would look through all its layers again, twice
        while let Some(message) = self.peer.core.poll_media_read() {
            let RTCMessage::RtpPacket(_, packet) = message.message else { continue };
            course.source = Some(from);
            let Some((kind, codec)) = self.peer.offer.codec(packet.header.payload_type) else { continue };
            let received = Received {
                ssrc: packet.header.ssrc,
                payload_type: packet.header.payload_type,
                codec: codec.codec,
                sequence: packet.header.sequence_number,
                timestamp: packet.header.timestamp,
                marker: packet.header.marker,
                payload: packet.payload,
            };
            if !course.rids.contains_key(&received.ssrc) && !course.known.contains(&received.ssrc) {
                // Its layer is named by the event that came with its first packet.
                course.known.push(received.ssrc);
                while let Some(event) = self.peer.core.poll_event() {
                    note(course, event);
                }
            }
            let rid = course.rids.get(&received.ssrc).map(String::as_str);
            self.intake.packet(kind, rid, received, at);
        }
    }

    fn events(&mut self, course: &mut Course) {
        while let Some(event) = self.peer.core.poll_event() {
            note(course, event);
        }
    }

    /// Tells the core of an SSRC that the offer did not name: senders may leave it out or change it (RFC 3550 §8.2).
    fn learn(&mut self, course: &mut Course, bytes: &[u8], now: Instant) {
        let [_, second, _, _, _, _, _, _, a, b, c, d, ..] = *bytes else { return };
        let payload_type = second & 0x7f;
        let ssrc = u32::from_be_bytes([a, b, c, d]);
        if (64..=95).contains(&payload_type) || course.known.contains(&ssrc) || course.learnt >= MOST_LEARNT {
            return;
        }
        let Some((kind, _)) = self.peer.offer.codec(payload_type) else { return };
        let Some(section) = self.peer.offer.section_mut(kind) else { return };
        if !section.rids.is_empty() {
            return;
        }
        section.ssrc = Some(ssrc);
        course.learnt += 1;
        course.known.push(ssrc);
        if let Err(error) = self.peer.negotiate(now) {
            tracing::warn!(session = self.who.session.0, ssrc, %error, "new SSRC not taken");
        }
    }

    /// News of the core, timers, and what follows from them; the reason if it is over.
    async fn look(&mut self, course: &mut Course, now: Instant) -> Option<LeaveReason> {
        let was = course.connected;
        let mut failed = false;
        while let Some(event) = self.peer.core.poll_event() {
            failed |= note(course, event);
        }
        if course.connected && !was || (course.source.is_some() && !self.entered()) {
            course.connected = true;
            self.enter().await;
        }
        let (reports, nacked) = self.peer.reports();
        for report in reports {
            self.intake.report(report.ssrc, report.ntp, report.rtp, report.at);
        }
        if nacked > 0 {
            metrics::counter!("holdfast_rtp_nacked_total").increment(nacked);
        }
        for ssrc in self.intake.keyframes(now) {
            metrics::counter!("holdfast_rtp_plis_total").increment(1);
            tracing::debug!(session = self.who.session.0, ssrc, "keyframe asked for");
            self.peer.picture_loss(ssrc, now);
        }
        self.tell_changes().await;
        if course.connected && self.peer.closed_by_publisher() {
            return Some(LeaveReason::Left);
        }
        if failed {
            return Some(LeaveReason::Vanished);
        }
        let silent = now.saturating_duration_since(course.heard) >= self.ice_timeout;
        let never = !course.connected && now.saturating_duration_since(course.began) >= CONNECT_WITHIN;
        ((course.connected && silent) || never).then_some(LeaveReason::Vanished)
    }

    fn entered(&self) -> bool {
        self.presence.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).entered
    }

    async fn enter(&mut self) {
        {
            let mut presence = self.presence.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if std::mem::replace(&mut presence.entered, true) {
                return;
            }
        }
        let offers: Vec<TrackKind> = self.peer.offer.sections().map(|section| section.kind).collect();
        let Who { session, room, user, media } = self.who.clone();
        tracing::info!(session = session.0, %room, %user, %media, ?offers, "publisher connected");
        let _ = self.news.send(MediaNews::Entered { session, room, user, media, offers }).await;
    }

    async fn tell_changes(&mut self) {
        let session = self.who.session;
        for change in self.intake.take_changes() {
            self.enter().await;
            let news = {
                let mut presence = self.presence.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                match change {
                    Change::Up { track, kind, codec } => {
                        presence.up.insert(track);
                        MediaNews::TrackUp { session, track, kind, codec }
                    }
                    Change::Down { track } => {
                        presence.up.remove(&track);
                        MediaNews::TrackDown { session, track }
                    }
                }
            };
            tracing::info!(session = session.0, ?news, "track");
            let _ = self.news.send(news).await;
        }
    }

    fn send(&mut self, course: &Course) {
        while let Some(out) = self.peer.core.poll_write() {
            // Checks go where ICE wants them; the rest goes where media comes from.
            let to = if is_stun(&out.message) {
                out.transport.peer_addr
            } else {
                course.source.unwrap_or(out.transport.peer_addr)
            };
            self.mux.send(to, &out.message);
        }
    }

    /// RFC 9725 §4.3.1: `If-Match` names the ICE session that is spoken of; `*` asks for a restart.
    fn patch(&mut self, if_match: Option<&str>, fragment: Fragment) -> Result<Patched, WhipError> {
        let if_match = if_match.ok_or(WhipError::PreconditionRequired)?.trim();
        let any = matches!(if_match, "*" | "\"*\"");
        if !any && !if_match.split(',').any(|tag| tag.trim() == self.etag) {
            return Err(WhipError::PreconditionFailed);
        }
        match fragment.credentials {
            Some(credentials) if credentials != self.peer.offer.credentials => self.restart(credentials),
            // Candidates are not needed: whoever knows the password is answered where the request came from.
            _ => Ok(Patched::NoContent),
        }
    }

    fn restart(&mut self, credentials: Credentials) -> Result<Patched, WhipError> {
        let former = std::mem::replace(&mut self.peer.offer.credentials, credentials);
        match self.peer.negotiate(Instant::now()) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(session = self.who.session.0, %error, "ICE restart");
                self.peer.offer.credentials = former;
                return Err(WhipError::Internal("the restart cannot be negotiated".into()));
            }
        }
        self.mux.also(self.who.session, &self.peer.local.credentials.ufrag);
        self.etag = (self.new_etag)();
        tracing::info!(session = self.who.session.0, "ICE restart");
        let fragment = self.peer.offer.restart_fragment(&self.peer.local.credentials, &self.candidates);
        Ok(Patched::Restarted { etag: self.etag.clone(), fragment })
    }
}

/// Notes an event of the core; `true` when the connection failed.
fn note(course: &mut Course, event: RTCPeerConnectionEvent) -> bool {
    match event {
        RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => {
            course.connected |= state == RTCPeerConnectionState::Connected;
            return state == RTCPeerConnectionState::Failed;
        }
        RTCPeerConnectionEvent::OnTrack(RTCTrackEvent::OnOpen(init)) => {
            if let Some(rid) = init.rid {
                course.rids.insert(init.ssrc, rid);
            }
        }
        _ => {}
    }
    false
}
