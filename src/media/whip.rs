//! WHIP (RFC 9725): publishers' sessions, from the offer to the farewell.
//!
//! Owns: the table of sessions, their resources and ETags, the UDP port they share. Must not touch: HTTP, who may
//! publish, what is recorded.
//! Law: every `Entered` is followed by exactly one `Left`; a session that never connects is never heard of.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use rtc::peer_connection::certificate::RTCCertificate;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use super::answer::{Patched, WhipError};
use super::intake::Intake;
use super::mux::Mux;
use super::peer::{Peer, PeerError};
use super::sdp::{Fragment, Offer, SdpError};
use super::session::{Command, Presence, Session, Who};
use super::tracks::Tracks;
use super::{Ids, LeaveReason, MediaClock, MediaError, MediaNews, Sessions};
use crate::model::{MediaId, RoomKey, SessionId, UserId};

/// Commands that wait for one session; a publisher trickles a candidate at a time.
const COMMANDS: usize = 32;
/// Sessions that are told to go have gone after so long.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);

/// How WebRTC comes in.
#[derive(Debug, Clone)]
pub struct WhipSettings {
    /// The one UDP port of all publishers; port 0 takes a free one.
    pub udp: SocketAddr,
    /// Addresses offered as host candidates; empty: that of `udp`, or of the box's interfaces when it names none.
    pub addresses: Vec<IpAddr>,
    /// Who was not heard for so long has vanished.
    pub ice_timeout: Duration,
    /// Sessions at once, connected or not.
    pub max_sessions: usize,
}

/// What a publisher asks for; who it is has been checked.
#[derive(Debug, Clone)]
pub struct PublishOrder {
    pub room: RoomKey,
    pub user: UserId,
    pub media: MediaId,
    /// `application/sdp`
    pub offer: String,
}

/// A session that was made: 201 Created.
#[derive(Debug, Clone)]
pub struct Published {
    pub session: SessionId,
    /// Last part of the session's URL; not to be guessed.
    pub resource: String,
    /// Value of the `ETag` header, quotes included.
    pub etag: String,
    /// `application/sdp`
    pub answer: String,
}

struct Entry {
    resource: String,
    commands: mpsc::Sender<Command>,
    closing: CancellationToken,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<SessionId, Entry>,
    by_resource: HashMap<String, SessionId>,
    /// Places taken by offers that are being answered.
    pending: usize,
    shut: bool,
}

/// The WHIP endpoint's inside. Cheap to share; all calls may be dropped at any await.
pub struct WhipServer {
    /// For the tasks that outlive a call.
    me: Weak<WhipServer>,
    mux: Arc<Mux>,
    /// One thread reads the port and runs all sessions: what a datagram sets off is done without waking another.
    reception: tokio::runtime::Handle,
    settings: WhipSettings,
    clock: MediaClock,
    tracks: Tracks,
    news: mpsc::Sender<MediaNews>,
    certificate: RTCCertificate,
    ids: Ids,
    table: Mutex<Table>,
    /// Ends the port's reader.
    port: CancellationToken,
}

/// A place in the table, given back when the offer comes to nothing.
struct Place<'a>(&'a WhipServer);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.table().pending -= 1;
    }
}

impl WhipServer {
    /// Takes the UDP port and makes the DTLS certificate that all sessions show.
    pub async fn bind(
        settings: WhipSettings,
        clock: MediaClock,
        tracks: Tracks,
        news: mpsc::Sender<MediaNews>,
    ) -> Result<Arc<WhipServer>, MediaError> {
        let certificate = certificate().map_err(MediaError::Certificate)?;
        let port = CancellationToken::new();
        let unmade = |error| MediaError::Port(settings.udp, error);
        let reception = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unmade)?;
        let (mux, sessions) = (Mux::bind(settings.udp).map_err(unmade)?, reception.handle().clone());
        let (reader, closed) = (Arc::clone(&mux), port.clone());
        let receive = async move { closed.run_until_cancelled(reader.run()).await };
        let thread = std::thread::Builder::new().name("reception".into());
        thread.spawn(move || reception.block_on(receive)).map_err(unmade)?;
        Ok(Arc::new_cyclic(|me| WhipServer {
            me: me.clone(),
            mux,
            reception: sessions,
            settings,
            clock,
            tracks,
            news,
            certificate,
            ids: Ids::default(),
            table: Mutex::default(),
            port,
        }))
    }

    /// The port's address.
    pub fn local_addr(&self) -> SocketAddr {
        self.mux.local_addr()
    }

    /// For others who bring media: no number is given twice.
    pub fn ids(&self) -> Ids {
        self.ids.clone()
    }

    /// Sessions at once, connected or not.
    pub fn sessions(&self) -> usize {
        self.table().sessions.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Answers an offer. The session is unannounced until it connects, and forgotten if it does not within 30 s.
    pub async fn publish(&self, order: PublishOrder) -> Result<Published, WhipError> {
        let server = self.me.upgrade().expect("it lives while it is called");
        // In a task of its own: a caller who goes away leaves no half-made session, and what strangers' offers do
        // to the WebRTC core stays there.
        let made = tokio::task::spawn_blocking(move || server.make(order));
        made.await.unwrap_or_else(|fault| {
            tracing::error!(%fault, "an offer broke its negotiation");
            Err(WhipError::Internal("the offer cannot be answered".into()))
        })
    }

    fn make(self: &Arc<Self>, order: PublishOrder) -> Result<Published, WhipError> {
        {
            let mut table = self.table();
            if table.shut || table.sessions.len() + table.pending >= self.settings.max_sessions {
                return Err(WhipError::TooMany);
            }
            table.pending += 1;
        }
        let _place = Place(self);
        let offer = Offer::parse(&order.offer)?;
        let peer = Peer::answer(offer, self.certificate.clone(), Instant::now()).map_err(|error| match error {
            PeerError::Offer(error) => WhipError::from(error),
            error => {
                tracing::warn!(room = %order.room, user = %order.user, %error, "offer refused");
                WhipError::BadOffer("the offer cannot be answered".into())
            }
        })?;

        let session = self.ids.session();
        let candidates = self.candidates();
        let (resource, etag) = (new_resource(), new_etag());
        let answer = peer.offer.answer(&peer.local, &candidates, session.0, 1);
        let inbox = self.mux.open(session, &peer.local.credentials.ufrag);
        let (commands, received) = mpsc::channel(COMMANDS);
        let closing = self.port.child_token();
        let who = Who { session, room: order.room, user: order.user, media: order.media };
        let presence = Arc::new(Mutex::new(Presence::default()));
        let running = Session {
            who: who.clone(),
            peer,
            mux: Arc::clone(&self.mux),
            inbox,
            commands: received,
            closing: closing.clone(),
            intake: Intake::new(self.clock, self.tracks.clone(), self.ids.clone()),
            news: self.news.clone(),
            presence: Arc::clone(&presence),
            ice_timeout: self.settings.ice_timeout,
            candidates,
            etag: etag.clone(),
            new_etag,
        };
        {
            let mut table = self.table();
            if table.shut {
                self.mux.close(session);
                return Err(WhipError::TooMany);
            }
            table.by_resource.insert(resource.clone(), session);
            table.sessions.insert(session, Entry { resource: resource.clone(), commands, closing });
            metrics::gauge!("holdfast_whip_sessions").set(table.sessions.len() as f64);
        }
        tokio::spawn(Arc::clone(self).see_out(who, running, presence));
        Ok(Published { session, resource, etag, answer })
    }

    /// Runs a session to its end and says goodbye for it, whatever the end was.
    async fn see_out(self: Arc<Self>, who: Who, running: Session, presence: Arc<Mutex<Presence>>) {
        let ended = self.reception.spawn(running.run()).await;
        let session = who.session;
        self.mux.close(session);
        {
            let mut table = self.table();
            if let Some(entry) = table.sessions.remove(&session) {
                table.by_resource.remove(&entry.resource);
            }
            metrics::gauge!("holdfast_whip_sessions").set(table.sessions.len() as f64);
        }
        let reason = ended.unwrap_or_else(|fault| {
            metrics::counter!("holdfast_whip_faults_total").increment(1);
            tracing::error!(session = session.0, room = %who.room, user = %who.user, %fault, "a session broke");
            LeaveReason::Closed
        });
        let presence = {
            let mut presence = presence.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            std::mem::take(&mut *presence)
        };
        tracing::info!(session = session.0, room = %who.room, user = %who.user, ?reason, entered = presence.entered, "session over");
        for track in presence.up {
            let _ = self.news.send(MediaNews::TrackDown { session, track }).await;
        }
        if presence.entered {
            let _ = self.news.send(MediaNews::Left { session, reason }).await;
        }
    }

    fn commands(&self, resource: &str) -> Result<mpsc::Sender<Command>, WhipError> {
        let table = self.table();
        let session = table.by_resource.get(resource).ok_or(WhipError::Unknown)?;
        table.sessions.get(session).map(|entry| entry.commands.clone()).ok_or(WhipError::Unknown)
    }

    /// PATCH (RFC 9725 §4.3): trickled candidates, or an ICE restart when the credentials are new ones.
    pub async fn patch(&self, resource: &str, if_match: Option<&str>, fragment: &str) -> Result<Patched, WhipError> {
        let commands = self.commands(resource)?;
        let fragment = Fragment::parse(fragment).map_err(|error| match error {
            SdpError::Bad(why) => WhipError::BadFragment(why.into()),
            SdpError::NoUsableMedia => WhipError::BadFragment("the fragment is malformed".into()),
        })?;
        let (reply, answer) = oneshot::channel();
        let if_match = if_match.map(str::to_owned);
        commands.send(Command::Patch { if_match, fragment, reply }).await.map_err(|_| WhipError::Unknown)?;
        answer.await.map_err(|_| WhipError::Unknown)?
    }

    /// DELETE: `Left(Left)` follows if it had connected.
    pub async fn leave(&self, resource: &str) -> Result<(), WhipError> {
        let commands = self.commands(resource)?;
        let (done, answer) = oneshot::channel();
        commands.send(Command::Leave { done }).await.map_err(|_| WhipError::Unknown)?;
        answer.await.map_err(|_| WhipError::Unknown)
    }

    /// Ends a session; `Left(Closed)` follows if it had connected.
    pub fn close_session(&self, session: SessionId) {
        if let Some(entry) = self.table().sessions.get(&session) {
            entry.closing.cancel();
        }
    }

    /// Ends all sessions, takes no new ones, and gives the port up.
    pub async fn shutdown(&self) {
        let entries: Vec<_> = {
            let mut table = self.table();
            table.shut = true;
            table.sessions.values().map(|entry| (entry.closing.clone(), entry.commands.clone())).collect()
        };
        for (closing, _) in &entries {
            closing.cancel();
        }
        let gone = async {
            for (_, commands) in &entries {
                commands.closed().await;
            }
        };
        let _ = tokio::time::timeout(SHUTDOWN_WITHIN, gone).await;
        self.port.cancel();
    }

    /// Host candidates of an answer: as configured, or the addresses that the port can be reached at.
    fn candidates(&self) -> Vec<SocketAddr> {
        let local = self.mux.local_addr();
        let addresses = if !self.settings.addresses.is_empty() {
            self.settings.addresses.clone()
        } else if !local.ip().is_unspecified() {
            vec![local.ip()]
        } else {
            interface_addresses(local.is_ipv6())
        };
        addresses.into_iter().map(|ip| SocketAddr::new(ip, local.port())).collect()
    }
}

impl Sessions for WhipServer {
    fn close_session(&self, session: SessionId) {
        WhipServer::close_session(self, session);
    }
}

impl Drop for WhipServer {
    fn drop(&mut self) {
        self.port.cancel();
    }
}

/// Addresses of the box that others can reach; loopback when it has no others.
fn interface_addresses(ipv6: bool) -> Vec<IpAddr> {
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => ipv6 && (ip.segments()[0] & 0xffc0) != 0xfe80 && !ip.is_unspecified(),
    };
    let mut all: Vec<IpAddr> = match rtc::shared::ifaces::ifaces() {
        Ok(interfaces) => {
            interfaces.into_iter().filter_map(|face| face.addr.map(|addr| addr.ip())).filter(usable).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "the box's addresses cannot be read");
            Vec::new()
        }
    };
    all.sort_unstable();
    all.dedup();
    let (loopback, others): (Vec<IpAddr>, Vec<IpAddr>) = all.into_iter().partition(IpAddr::is_loopback);
    if others.is_empty() { loopback } else { others }
}

fn new_resource() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn new_etag() -> String {
    format!("\"{}\"", uuid::Uuid::new_v4().simple())
}

fn certificate() -> Result<RTCCertificate, String> {
    let provider = rtc::crypto::default_provider().map_err(|error| error.to_string())?;
    let parameters = rcgen::CertificateParams::new(vec!["holdfast".to_owned()]).map_err(|error| error.to_string())?;
    let scheme = rtc::crypto::SignatureScheme::EcdsaP256Sha256;
    RTCCertificate::generate(provider.crypto(), scheme, parameters).map_err(|error| error.to_string())
}
