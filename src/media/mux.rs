//! One UDP port for every publisher: datagrams go to the session they belong to.
//!
//! Owns: the socket, and which remote address or ICE user fragment belongs to which session. Must not touch: what is
//! inside a datagram beyond its STUN user name.
//! Law: a session that does not keep up loses its own datagrams, counted; nobody else's.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::sync::{Notify, mpsc};

use crate::model::SessionId;

/// Datagrams that may wait for one session; at 2.5 Mbit/s some three seconds.
const INBOX: usize = 1024;
/// Addresses that one session may be reached from at once: candidates of a restless publisher.
const ADDRESSES_PER_SESSION: usize = 16;
/// The kernel's buffer for the whole port: bursts of many publishers' keyframes fit.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// The port is read after so long: nobody listens live, and each waking costs.
const GATHER: Duration = Duration::from_millis(40);
/// What comes meanwhile fills at most one part in so many of the kernel's buffer, or the port is read sooner. The kernel
/// counts what it needs for a datagram, which is about twice its bytes.
const GATHER_PART: usize = 8;
/// An arrival that the kernel says is longer ago than this is not believed: its clock was stepped.
const OLDEST: Duration = Duration::from_millis(500);
/// Room for one datagram; WebRTC keeps below 1500.
const DATAGRAM_BYTES: usize = 2048;

/// What came in, when and from where.
#[derive(Debug)]
pub(super) struct Datagram {
    pub from: SocketAddr,
    pub at: Instant,
    pub bytes: BytesMut,
}

#[derive(Debug)]
struct Route {
    session: SessionId,
    to: mpsc::Sender<Datagram>,
    /// The box's address that the publisher talks to; answers must come from it.
    local: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Routes {
    by_remote: HashMap<SocketAddr, Route>,
    by_ufrag: HashMap<String, (SessionId, mpsc::Sender<Datagram>)>,
    /// Oldest first, so that a session cannot fill the table.
    remotes: BTreeMap<SessionId, Vec<SocketAddr>>,
}

/// The port.
#[derive(Debug)]
pub(super) struct Mux {
    /// Nobody waits for it to become readable: that would wake the thread with each datagram.
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    routes: Mutex<Routes>,
    /// Rung when a session opens its inbox.
    opened: Notify,
}

impl Mux {
    pub fn bind(addr: SocketAddr) -> io::Result<Arc<Mux>> {
        let socket = UdpSocket::bind(addr)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // The kernel may grant less; that is a limit of the box and no fault.
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER_BYTES);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER_BYTES / 4);
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        Ok(Arc::new(Mux { socket, state, local, routes: Mutex::default(), opened: Notify::new() }))
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Opens a session's inbox under its ICE user fragment.
    pub fn open(&self, session: SessionId, ufrag: &str) -> mpsc::Receiver<Datagram> {
        let (to, inbox) = mpsc::channel(INBOX);
        self.routes().by_ufrag.insert(ufrag.to_owned(), (session, to));
        self.opened.notify_one();
        inbox
    }

    /// After an ICE restart both user fragments lead to the session, until it closes.
    pub fn also(&self, session: SessionId, ufrag: &str) {
        let mut routes = self.routes();
        let Some(to) = routes.by_ufrag.values().find(|(id, _)| *id == session).map(|(_, to)| to.clone()) else {
            return;
        };
        routes.by_ufrag.insert(ufrag.to_owned(), (session, to));
    }

    pub fn close(&self, session: SessionId) {
        let mut routes = self.routes();
        routes.by_ufrag.retain(|_, (id, _)| *id != session);
        for remote in routes.remotes.remove(&session).unwrap_or_default() {
            if routes.by_remote.get(&remote).is_some_and(|route| route.session == session) {
                routes.by_remote.remove(&remote);
            }
        }
    }

    /// Sends one datagram, from the address of the box that `to` talks to. What the kernel has no room for is lost,
    /// as on any network.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) {
        let src_ip = self.routes().by_remote.get(&to).and_then(|route| route.local);
        // A dual-stack socket knows IPv4 peers by mapped addresses.
        let to = match (self.local, to.ip()) {
            (SocketAddr::V6(_), IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        let transmit = Transmit { destination: to, ecn: None, contents: bytes, segment_size: None, src_ip };
        if let Err(error) = self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
            metrics::counter!("holdfast_whip_datagrams_unsent_total").increment(1);
            tracing::trace!(%to, %error, "datagram not sent");
        }
    }

    /// Reads the port until the task is dropped, some datagrams at a time, while there are sessions; each has the time at
    /// which it arrived, which is what congestion control and the sync of sound and picture are made of. Errors of single
    /// peers (unreachable ports) are not the socket's end.
    pub async fn run(self: Arc<Self>) -> Infallible {
        let stride = DATAGRAM_BYTES * self.state.gro_segments().max(1);
        let mut storage = vec![0u8; stride * BATCH_SIZE];
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let buffer = self.state.recv_buffer_size(UdpSockRef::from(&self.socket)).unwrap_or(0);
        let mut last = Instant::now();
        loop {
            let opened = self.opened.notified();
            if self.routes().by_ufrag.is_empty() {
                opened.await;
            }
            let mut buffers: Vec<IoSliceMut<'_>> = storage.chunks_mut(stride).map(IoSliceMut::new).collect();
            let count = match self.state.recv(UdpSockRef::from(&self.socket), &mut buffers, &mut meta) {
                Ok(count) => count,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::debug!(%error, "receive");
                    }
                    0
                }
            };
            let read = Read::now();
            let since = read.at.saturating_duration_since(std::mem::replace(&mut last, read.at));
            for (slot, meta) in meta.iter().enumerate().take(count) {
                let at = read.arrival(meta.timestamp);
                let message = &storage[slot * stride..][..meta.len];
                for piece in message.chunks(meta.stride.max(1)) {
                    self.deliver(meta.addr, meta.dst_ip, at, piece);
                }
            }
            if count < BATCH_SIZE {
                let bytes = meta[..count].iter().map(|meta| meta.len).sum();
                let wait = gather(bytes, since, buffer / GATHER_PART);
                let until = if wait == GATHER { next_look(Instant::now()) } else { Instant::now() + wait };
                tokio::time::sleep_until(until.into()).await;
            } else {
                // whoever sends more than that must not keep the sessions from their turn
                tokio::task::yield_now().await;
            }
        }
    }

    fn deliver(&self, from: SocketAddr, local: Option<IpAddr>, at: Instant, bytes: &[u8]) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let mut routes = self.routes();
        let named = stun_local_ufrag(bytes).and_then(|ufrag| routes.by_ufrag.get(ufrag).cloned());
        if let Some((session, to)) = named
            && routes.by_remote.get(&from).is_none_or(|route| route.session != session || route.local != local)
        {
            routes.learn(from, Route { session, to, local });
        }
        let Some(route) = routes.by_remote.get(&from) else {
            metrics::counter!("holdfast_whip_datagrams_unknown_total").increment(1);
            return;
        };
        if route.to.try_send(Datagram { from, at, bytes: BytesMut::from(bytes) }).is_err() {
            metrics::counter!("holdfast_whip_datagrams_dropped_total").increment(1);
        }
    }
}

/// The next time, not before `at`, at which the port is read while little comes. Whoever has something to do at about
/// that time does it then, so that all of it costs one waking.
pub(super) fn next_look(at: Instant) -> Instant {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(Instant::now);
    let looks = at.saturating_duration_since(first).as_nanos().div_ceil(GATHER.as_nanos());
    u32::try_from(looks).ok().and_then(|looks| GATHER.checked_mul(looks)).map_or(at, |since| first + since)
}

/// How long it takes `most` bytes to come, if `bytes` came in the time since the last look; not longer than [`GATHER`].
fn gather(bytes: usize, since: Duration, most: usize) -> Duration {
    since.mul_f64(most as f64 / bytes.max(1) as f64).min(GATHER)
}

/// One moment by both clocks.
struct Read {
    at: Instant,
    /// since 1970, as the kernel stamps datagrams
    wall: Duration,
}

impl Read {
    #[expect(clippy::disallowed_methods, reason = "the kernel stamps by this clock; only an age comes of it")]
    fn now() -> Read {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Read { at: Instant::now(), wall }
    }

    fn arrival(&self, stamped: Option<Duration>) -> Instant {
        let age = stamped.and_then(|stamped| self.wall.checked_sub(stamped)).filter(|age| *age <= OLDEST);
        age.and_then(|age| self.at.checked_sub(age)).unwrap_or(self.at)
    }
}

impl Routes {
    fn learn(&mut self, from: SocketAddr, route: Route) {
        let session = route.session;
        if let Some(former) = self.by_remote.insert(from, route)
            && former.session != session
            && let Some(list) = self.remotes.get_mut(&former.session)
        {
            list.retain(|remote| *remote != from);
        }
        let list = self.remotes.entry(session).or_default();
        list.retain(|remote| *remote != from);
        list.push(from);
        if list.len() > ADDRESSES_PER_SESSION {
            let oldest = list.remove(0);
            self.by_remote.remove(&oldest);
        }
    }
}

/// Whether it is a STUN message (RFC 8489 §5: two zero bits, the magic cookie).
pub(super) fn is_stun(bytes: &[u8]) -> bool {
    bytes.len() >= 20 && bytes[0] < 4 && bytes[4..8] == [0x21, 0x12, 0xA4, 0x42]
}

/// The local half of the USERNAME of a STUN Binding request (RFC 8445 §7.2.2: `local:remote` as the receiver sees it).
fn stun_local_ufrag(bytes: &[u8]) -> Option<&str> {
    const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
    const USERNAME: u16 = 0x0006;
    if !is_stun(bytes) || bytes[..2] != BINDING_REQUEST {
        return None;
    }
    let mut rest = &bytes[20..];
    while rest.len() >= 4 {
        let kind = u16::from_be_bytes([rest[0], rest[1]]);
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let value = rest.get(4..4 + length)?;
        if kind == USERNAME {
            return std::str::from_utf8(value).ok()?.split(':').next();
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding_request(username: &str) -> Vec<u8> {
        let padded = username.len().next_multiple_of(4);
        let mut message = vec![0x00, 0x01];
        message.extend(u16::try_from(4 + padded).unwrap().to_be_bytes());
        message.extend([0x21, 0x12, 0xA4, 0x42]);
        message.extend([7; 12]);
        message.extend([0x00, 0x06]);
        message.extend(u16::try_from(username.len()).unwrap().to_be_bytes());
        message.extend(username.as_bytes());
        message.resize(24 + padded, 0);
        message
    }

    #[test]
    fn user_fragment_is_read_from_binding_requests_only() {
        let mut message = binding_request("abcd:efgh");
        assert_eq!(stun_local_ufrag(&message), Some("abcd"));
        message[1] = 0x11;
        assert_eq!(stun_local_ufrag(&message), None);
    }

    #[test]
    fn torn_stun_is_no_user_fragment() {
        let message = binding_request("abcd:efgh");
        for length in 0..message.len() - 3 {
            assert_eq!(stun_local_ufrag(&message[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn the_more_comes_the_sooner_it_is_fetched() {
        let ms = Duration::from_millis;
        assert_eq!(gather(0, GATHER, 50_000), GATHER);
        assert_eq!(gather(50_000, GATHER, 50_000), GATHER);
        assert_eq!(gather(200_000, ms(20), 50_000), ms(5));
        assert_eq!(gather(50_000, ms(5), 50_000), ms(5), "the same rate, the same wait");
        assert_eq!(gather(1_000, Duration::from_secs(3_600), 50_000), GATHER);
        assert_eq!(gather(1, GATHER, 0), Duration::ZERO, "a kernel that does not tell");
    }

    #[test]
    fn looks_are_at_times_that_all_have_in_common() {
        let first = next_look(Instant::now() + GATHER);
        assert_eq!(next_look(first), first);
        assert_eq!(next_look(first + Duration::from_nanos(1)), first + GATHER);
        assert_eq!(next_look(first + GATHER * 7), first + GATHER * 7);
    }

    #[test]
    fn a_datagram_arrived_when_the_kernel_says_unless_its_clock_jumped() {
        let read = Read { at: Instant::now() + Duration::from_secs(60), wall: Duration::from_secs(1_000) };
        let ago = |ms| read.at - Duration::from_millis(ms);
        assert_eq!(read.arrival(Some(Duration::from_millis(999_992))), ago(8));
        for jumped in [Duration::from_secs(900), Duration::from_secs(1_001)] {
            assert_eq!(read.arrival(Some(jumped)), ago(0));
        }
        assert_eq!(read.arrival(None), ago(0));
    }

    #[tokio::test]
    async fn datagrams_follow_the_user_fragment_and_then_the_address() {
        let mux = Mux::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        tokio::spawn(Arc::clone(&mux).run());
        let mut one = mux.open(SessionId(1), "one");
        let mut two = mux.open(SessionId(2), "two");
        let peer = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        peer.send_to(b"nobody knows me yet", mux.local_addr()).await.unwrap();
        peer.send_to(&binding_request("one:x"), mux.local_addr()).await.unwrap();
        peer.send_to(b"media", mux.local_addr()).await.unwrap();
        assert!(is_stun(&one.recv().await.unwrap().bytes));
        assert_eq!(&one.recv().await.unwrap().bytes[..], b"media");
        peer.send_to(&binding_request("two:x"), mux.local_addr()).await.unwrap();
        peer.send_to(b"more", mux.local_addr()).await.unwrap();
        assert!(is_stun(&two.recv().await.unwrap().bytes));
        assert_eq!(&two.recv().await.unwrap().bytes[..], b"more");
        mux.close(SessionId(2));
        assert!(mux.routes().by_remote.is_empty());
        assert!(two.recv().await.is_none());
        assert!(one.try_recv().is_err());
    }
}
