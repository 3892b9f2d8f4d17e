//! WHIP sessions over real UDP: what publishers send arrives in the hub, whole, in order, and every end is told once.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast::media::publish::{Link, LinkState, Packet, RIDS, Script, TestPicture, VideoCodec, through};
use holdfast::media::stamped::StampedPacket;
use holdfast::media::tracks::{Listener, Tracks};
use holdfast::media::whip::{Patched, PublishOrder, Published, WhipError, WhipServer, WhipSettings};
use holdfast::media::{LeaveReason, MediaClock, MediaNews};
use holdfast::model::{Codec, MediaId, RoomId, RoomKey, SdkAppId, SessionId, Timestamp, TrackId, TrackKind, UserId};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A guard against hanging, never a measure.
const SOON: Duration = Duration::from_secs(30);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Box_ {
    server: Arc<WhipServer>,
    tracks: Tracks,
    news: mpsc::Receiver<MediaNews>,
}

async fn the_box(ice_timeout: Duration, max_sessions: usize) -> Box_ {
    let (news_in, news) = mpsc::channel(1024);
    let tracks = Tracks::default();
    let settings = WhipSettings { udp: SocketAddr::new(LOOPBACK, 0), addresses: Vec::new(), ice_timeout, max_sessions };
    let clock = MediaClock::new(Instant::now(), Timestamp(0));
    let server = WhipServer::bind(settings, clock, tracks.clone(), news_in).await.expect("a free port");
    Box_ { server, tracks, news }
}

impl Box_ {
    async fn next(&mut self) -> MediaNews {
        tokio::time::timeout(SOON, self.news.recv()).await.expect("news within time").expect("the box lives")
    }

    async fn publish(&self, user: &str, offer: String) -> Result<Published, WhipError> {
        let room = RoomKey { app: SdkAppId(1400000001), room: RoomId::text("room").expect("an id") };
        let user = UserId::parse(user).expect("an id");
        self.server.publish(PublishOrder { room, user, media: MediaId::Main, offer }).await
    }

    /// A connected publisher and its tracks, sound and picture, with its first packets sent.
    async fn enter(&mut self, user: &str, via: Option<SocketAddr>) -> Entered {
        let (mut link, offer) = Link::offer(&[Codec::Opus, Codec::H264], LOOPBACK).await.expect("an offer");
        let published = self.publish(user, offer).await.expect("an answer");
        let answer = via.map_or_else(|| published.answer.clone(), |via| through(&published.answer, via));
        link.answer(&answer).await.expect("a connection");
        let mut sender = Sender { link, sent: 0, began: Instant::now() };
        let (mut entered, mut audio, mut video) = (false, None, None);
        let deadline = Instant::now() + SOON;
        while !entered || audio.is_none() || video.is_none() {
            assert!(Instant::now() < deadline, "tracks come up");
            sender.send(1).await;
            while let Ok(news) = self.news.try_recv() {
                match news {
                    MediaNews::Entered { session, user: who, ref offers, .. } => {
                        assert_eq!((session, who.as_str()), (published.session, user));
                        assert_eq!(offers.len(), 2);
                        assert!(!std::mem::replace(&mut entered, true), "entered once");
                    }
                    MediaNews::TrackUp { session, track, kind: TrackKind::Audio, codec: Codec::Opus } => {
                        assert!(entered && session == published.session);
                        assert!(audio.replace(track).is_none(), "up once");
                    }
                    MediaNews::TrackUp { session, track, kind: TrackKind::Video, codec: Codec::H264 } => {
                        assert!(entered && session == published.session);
                        assert!(video.replace(track).is_none(), "up once");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        Entered { published, sender, audio: audio.expect("up"), video: video.expect("up") }
    }

    /// What is told until the session has left: both tracks down, then `Left`, nothing else, nothing after.
    async fn left(&mut self, entered: &Entered) -> LeaveReason {
        self.left_of(entered.published.session, [entered.audio, entered.video]).await
    }

    async fn left_of(&mut self, session: SessionId, tracks: [TrackId; 2]) -> LeaveReason {
        let mut down = BTreeSet::new();
        loop {
            match self.next().await {
                MediaNews::TrackDown { session: of, track } => {
                    assert_eq!(of, session);
                    assert!(down.insert(track), "down once");
                }
                MediaNews::Left { session: of, reason } => {
                    assert_eq!(of, session);
                    assert_eq!(down, BTreeSet::from(tracks));
                    assert!(self.news.try_recv().is_err(), "nothing comes after the farewell");
                    return reason;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

struct Entered {
    published: Published,
    sender: Sender,
    audio: TrackId,
    video: TrackId,
}

struct Sender {
    link: Link,
    /// Frames of 20 ms so far
    sent: u32,
    began: Instant,
}

impl Sender {
    /// Sends `frames` of 20 ms each, at their time: a sound packet, and a picture of three packets, whose payloads
    /// say which frame they are.
    async fn send(&mut self, frames: u32) {
        for _ in 0..frames {
            self.sent += 1;
            let captured = self.began + Duration::from_millis(20) * self.sent;
            tokio::time::sleep_until(captured.into()).await;
            let mut sound = vec![0xfc];
            sound.extend(self.sent.to_be_bytes());
            let sound = Packet { timestamp: self.sent * 960, marker: false, payload: sound.into(), captured };
            self.link.send(TrackKind::Audio, sound).await.expect("sent");
            for part in 0..3u8 {
                let nal = if self.sent % 50 == 1 { 0x65 } else { 0x41 };
                let mut picture = vec![nal];
                picture.extend(self.sent.to_be_bytes());
                picture.extend([part; 200]);
                let payload = Bytes::from(picture);
                let picture = Packet { timestamp: self.sent * 1800, marker: part == 2, payload, captured };
                self.link.send(TrackKind::Video, picture).await.expect("sent");
            }
        }
    }
}

fn sequence(packet: &StampedPacket) -> u16 {
    u16::from_be_bytes([packet.rtp[2], packet.rtp[3]])
}

fn frame(packet: &StampedPacket) -> u32 {
    u32::from_be_bytes([packet.rtp[13], packet.rtp[14], packet.rtp[15], packet.rtp[16]])
}

/// Takes packets until the frame has come (or the track has ended); checks order and stamps on the way.
async fn hear(listener: Listener, until: u32) -> Vec<StampedPacket> {
    let heard = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + SOON;
        let mut all: Vec<StampedPacket> = Vec::new();
        loop {
            let (packets, ended) = listener.take(Duration::from_millis(200));
            all.extend(packets);
            if ended || all.last().is_some_and(|last| frame(last) >= until) {
                return all;
            }
            assert!(Instant::now() < deadline, "frame {until} comes; {:?} was the last", all.last().map(frame));
        }
    });
    let all = heard.await.expect("it hears");
    for pair in all.windows(2) {
        assert!(sequence(&pair[1]).wrapping_sub(sequence(&pair[0])) < 0x8000, "in order");
        assert!(pair[1].at >= pair[0].at, "stamps do not fall");
        assert_eq!(pair[1].at == pair[0].at, frame(&pair[1]) == frame(&pair[0]), "a stamp for each frame");
        assert_eq!(pair[1].rtp[0], 0x80, "no extension, no padding");
    }
    all
}

fn frames(packets: &[StampedPacket]) -> Vec<u32> {
    packets.iter().map(frame).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_arrive_in_order_stamped_and_delete_ends_it() {
    let mut the_box = the_box(Duration::from_secs(10), 10).await;
    let mut entered = the_box.enter("wang", None).await;
    let (audio, video) =
        (the_box.tracks.listen(entered.audio).expect("live"), the_box.tracks.listen(entered.video).expect("live"));
    let first = entered.sender.sent + 5;
    entered.sender.send(105).await;
    let last = entered.sender.sent - 5;
    let (sounds, pictures) = (hear(audio, last).await, hear(video, last).await);
    let whole = |packets: &[StampedPacket]| -> BTreeSet<u32> {
        frames(packets).into_iter().filter(|n| (first..=last).contains(n)).collect()
    };
    let all: BTreeSet<u32> = (first..=last).collect();
    assert_eq!(whole(&sounds), all);
    assert_eq!(whole(&pictures), all);
    assert!(pictures.iter().chain(&sounds).all(|packet| !packet.after_loss));
    // The same moment has the same stamp in both tracks, as the sender reports say.
    let at = |packets: &[StampedPacket], n| packets.iter().find(|p| frame(p) == n).map(|p| p.at.0).expect("it came");
    let apart = at(&sounds, last).abs_diff(at(&pictures, last));
    assert!(apart < 5_000_000, "sound and picture are {apart} ns apart");

    assert_eq!(the_box.server.sessions(), 1);
    the_box.server.leave(&entered.published.resource).await.expect("a session");
    assert_eq!(the_box.left(&entered).await, LeaveReason::Left);
    assert_eq!(the_box.server.sessions(), 0);
    assert_eq!(the_box.server.leave(&entered.published.resource).await, Err(WhipError::Unknown));
    assert_eq!(the_box.server.patch(&entered.published.resource, None, "a=mid:0").await, Err(WhipError::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyframe_is_asked_for() {
    let mut the_box = the_box(Duration::from_secs(10), 10).await;
    let mut entered = the_box.enter("wang", None).await;
    let video = the_box.tracks.listen(entered.video).expect("live");
    video.request_keyframe();
    let asked = tokio::time::timeout(SOON, entered.sender.link.keyframe_asked()).await;
    asked.expect("a keyframe request comes");
    assert_eq!(entered.sender.link.keyframes_asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_closes_dtls_has_left_and_who_is_silent_has_vanished() {
    let mut the_box = the_box(Duration::from_secs(3), 10).await;
    // a client has a tenth of a second to say that it closes, and on a busy machine does not always get to say it
    let mut heard = false;
    for _ in 0..5 {
        let Entered { published, sender, audio, video } = the_box.enter("wang", None).await;
        sender.link.close().await;
        heard = the_box.left_of(published.session, [audio, video]).await == LeaveReason::Left;
        if heard {
            break;
        }
    }
    assert!(heard, "who closes DTLS has left");

    let Entered { published, sender, audio, video } = the_box.enter("wang", None).await;
    drop(sender);
    assert_eq!(the_box.left_of(published.session, [audio, video]).await, LeaveReason::Vanished);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_box_closes_one_and_shuts_down_all() {
    let mut the_box = the_box(Duration::from_secs(10), 10).await;
    let one = the_box.enter("one", None).await;
    let two = the_box.enter("two", None).await;
    assert_eq!(the_box.server.sessions(), 2);
    let mut state = one.sender.link.state();
    the_box.server.close_session(one.published.session);
    // ICE alone would tell of it after half a minute
    let told = tokio::time::timeout(SOON / 2, state.wait_for(|state| *state == LinkState::Over)).await;
    told.expect("the publisher is told at once").expect("its link is there");
    assert_eq!(the_box.left(&one).await, LeaveReason::Closed);
    the_box.server.shutdown().await;
    assert_eq!(the_box.left(&two).await, LeaveReason::Closed);
    let (_link, offer) = Link::offer(&[Codec::Opus], LOOPBACK).await.expect("an offer");
    assert!(matches!(the_box.publish("three", offer).await, Err(WhipError::TooMany)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_publishers_share_the_port() {
    let mut the_box = the_box(Duration::from_secs(10), 10).await;
    let mut one = the_box.enter("one", None).await;
    let mut two = the_box.enter("two", None).await;
    let (first, second) =
        (the_box.tracks.listen(one.video).expect("live"), the_box.tracks.listen(two.video).expect("live"));
    let (from_one, from_two) = (one.sender.sent, two.sender.sent);
    tokio::join!(one.sender.send(30), two.sender.send(60));
    let first = hear(first, from_one + 25).await;
    let second = hear(second, from_two + 55).await;
    assert!(frames(&first).iter().all(|n| *n <= from_one + 30), "only its own");
    assert!(second.len() >= 150);
    assert_ne!(one.published.resource, two.published.resource);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_that_are_none_are_refused_and_leave_nothing() {
    let mut the_box = the_box(Duration::from_secs(10), 1).await;
    let (_link, offer) = Link::offer(&[Codec::Opus, Codec::Vp8], LOOPBACK).await.expect("an offer");
    for bad in ["", "v=0", "{\"sdp\":1}", &offer[..60], &offer.repeat(30), &offer.replace("a=ice-pwd", "a=no")] {
        let refused = the_box.publish("x", bad.to_owned()).await;
        assert!(matches!(refused, Err(WhipError::BadOffer(_) | WhipError::NoUsableMedia)), "{refused:?}");
    }
    let unusable = offer.replace("opus", "speex").replace("VP8", "H266");
    assert_eq!(the_box.publish("x", unusable).await.err(), Some(WhipError::NoUsableMedia));
    assert_eq!(the_box.server.sessions(), 0);

    let published = the_box.publish("x", offer.clone()).await.expect("an answer");
    assert!(published.answer.contains(&format!("127.0.0.1 {} typ host", the_box.server.local_addr().port())));
    assert!(matches!(the_box.publish("y", offer).await, Err(WhipError::TooMany)));
    // It never connected: nobody hears of it.
    the_box.server.leave(&published.resource).await.expect("a session");
    while the_box.server.sessions() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(the_box.news.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patch_trickles_and_restarts() {
    let mut the_box = the_box(Duration::from_secs(10), 10).await;
    let entered = the_box.enter("wang", None).await;
    let (server, resource) = (the_box.server.clone(), entered.published.resource.clone());
    let trickle = "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na=candidate:1 1 udp 1 192.0.2.9 9 typ host\r\n";
    let etag = Some(entered.published.etag.as_str());
    assert_eq!(server.patch(&resource, etag, trickle).await, Ok(Patched::NoContent));
    assert_eq!(server.patch(&resource, None, trickle).await, Err(WhipError::PreconditionRequired));
    assert_eq!(server.patch(&resource, Some("\"x\""), trickle).await, Err(WhipError::PreconditionFailed));
    assert!(matches!(server.patch(&resource, etag, "candidates!").await, Err(WhipError::BadFragment(_))));

    let restart = "a=ice-ufrag:newfrag\r\na=ice-pwd:anewpasswordof24letters!\r\n".replace('!', "0");
    let Ok(Patched::Restarted { etag: newer, fragment }) = server.patch(&resource, Some("*"), &restart).await else {
        panic!("a restart");
    };
    assert_ne!(newer, entered.published.etag);
    assert!(fragment.contains("a=ice-ufrag:") && fragment.contains("typ host"), "{fragment}");
    assert_eq!(server.patch(&resource, etag, trickle).await, Err(WhipError::PreconditionFailed));
    assert_eq!(server.patch(&resource, Some(&newer), trickle).await, Ok(Patched::NoContent));
}

/// A network between publishers and the box that loses and delays: one way in, one socket towards the box for each.
struct LossyNetwork {
    addr: SocketAddr,
    lost: Arc<AtomicU64>,
}

impl LossyNetwork {
    /// Every `nth` datagram of media towards the box is lost.
    async fn before(target: SocketAddr, nth: u64) -> LossyNetwork {
        let outside = Arc::new(UdpSocket::bind((LOOPBACK, 0)).await.expect("a port"));
        let inside = Arc::new(UdpSocket::bind((LOOPBACK, 0)).await.expect("a port"));
        let addr = outside.local_addr().expect("bound");
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        tokio::spawn(async move {
            let (mut there, mut back) = ([0u8; 2048], [0u8; 2048]);
            let (mut publisher, mut count) = (None, 0u64);
            loop {
                tokio::select! {
                    Ok((length, from)) = outside.recv_from(&mut there) => {
                        publisher = Some(from);
                        // RTP, and a sound or a picture packet, no report.
                        if matches!(there[0], 128..=191) && !(192..=223).contains(&there[1]) {
                            count += 1;
                            if count.is_multiple_of(nth) {
                                counted.fetch_add(1, Ordering::Relaxed);
                                continue;
                            }
                        }
                        let _ = inside.send_to(&there[..length], target).await;
                    }
                    Ok((length, _)) = inside.recv_from(&mut back) => {
                        if let Some(publisher) = publisher {
                            let _ = outside.send_to(&back[..length], publisher).await;
                        }
                    }
                }
            }
        });
        LossyNetwork { addr, lost }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_network_loses_is_sent_again_sound_as_well() {
    let mut the_box = the_box(Duration::from_secs(10), 10).await;
    let network = LossyNetwork::before(the_box.server.local_addr(), 10).await;
    let mut entered = the_box.enter("wang", Some(network.addr)).await;
    let (audio, video) =
        (the_box.tracks.listen(entered.audio).expect("live"), the_box.tracks.listen(entered.video).expect("live"));
    let first = entered.sender.sent + 60;
    entered.sender.send(260).await;
    // The last ones may be lost with nothing behind them that would show it.
    let last = entered.sender.sent - 80;
    let (sounds, pictures) = (hear(audio, last).await, hear(video, last).await);
    assert!(network.lost.load(Ordering::Relaxed) > 50, "the network loses");
    let all: Vec<u32> = (first..=last).collect();
    let sounds: Vec<u32> = frames(&sounds).into_iter().filter(|n| (first..=last).contains(n)).collect();
    assert_eq!(sounds, all, "no sound is missing");
    let pictures: Vec<u32> = frames(&pictures).into_iter().filter(|n| (first..=last).contains(n)).collect();
    let thrice: Vec<u32> = all.iter().flat_map(|n| [*n; 3]).collect();
    assert_eq!(pictures, thrice, "no part of a picture is missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_without_ssrcs_is_understood_from_the_packets() {
    let mut the_box = the_box(Duration::from_secs(10), 10).await;
    let (mut link, offer) = Link::offer(&[Codec::Opus, Codec::H264], LOOPBACK).await.expect("an offer");
    let offer: String = offer.lines().filter(|line| !line.starts_with("a=ssrc")).map(|l| format!("{l}\r\n")).collect();
    let published = the_box.publish("wang", offer).await.expect("an answer");
    link.answer(&published.answer).await.expect("a connection");
    let mut sender = Sender { link, sent: 0, began: Instant::now() };
    let mut up = BTreeSet::new();
    let deadline = Instant::now() + SOON;
    while up.len() < 2 {
        assert!(Instant::now() < deadline, "both tracks come up");
        sender.send(1).await;
        while let Ok(news) = the_box.news.try_recv() {
            if let MediaNews::TrackUp { kind, .. } = news {
                assert!(up.insert(kind), "up once");
            }
        }
    }
}

/// A second of sound and of three sizes of the same picture; and the parameter sets of each.
fn three_layers() -> (Script, [Vec<u8>; 3]) {
    let scripts = [(320, 180), (640, 360), (1280, 720)].map(|(width, height)| {
        let picture = TestPicture { width, height, fps: 15, bitrate: width * 400, ..Default::default() };
        Script::record(&picture, VideoCodec::H264, 1).expect("GStreamer encodes")
    });
    let sets = scripts.each_ref().map(|script| {
        let first = script.packets.iter().find(|made| made.kind == TrackKind::Video).expect("a picture");
        assert_eq!(first.payload[0] & 0x1f, 24, "several units in one packet, parameter sets among them");
        let mut rest = &first.payload[1..];
        loop {
            let (unit, after) = rest[2..].split_at(usize::from(u16::from_be_bytes([rest[0], rest[1]])));
            if unit[0] & 0x1f == 7 {
                return unit.to_vec();
            }
            rest = after;
        }
    });
    (Script::simulcast(&scripts), sets)
}

/// Takes packets until two keyframes in a row are of this layer; the layers of all keyframes until then. Checks that
/// the stream is one.
fn hear_layer(listener: &Listener, sets: &[Vec<u8>; 3], layer: usize, last: &mut Option<StampedPacket>) -> Vec<usize> {
    let (mut keyframes, deadline) = (Vec::new(), Instant::now() + SOON);
    loop {
        for packet in listener.take(Duration::from_millis(200)).0 {
            if let Some(last) = last {
                assert_eq!(sequence(&packet).wrapping_sub(sequence(last)), 1, "nothing is lost or repeated");
                assert!(packet.at >= last.at && packet.rtp[8..12] == last.rtp[8..12]);
            }
            let payload = &packet.rtp[12..];
            let holds = |set: &Vec<u8>| payload.windows(set.len()).any(|part| part == set);
            keyframes.extend(sets.iter().position(holds));
            *last = Some(packet);
        }
        if keyframes.ends_with(&[layer; 2]) {
            return keyframes;
        }
        assert!(Instant::now() < deadline, "layer {layer} comes; the keyframes were of {keyframes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_layers_the_one_that_is_needed_is_taken() {
    let (script, sets) = tokio::task::spawn_blocking(three_layers).await.expect("it encodes");
    let mut the_box = the_box(Duration::from_secs(10), 10).await;
    let (mut link, offer) = Link::offer_layers(&[Codec::Opus, Codec::H264], &RIDS, LOOPBACK).await.expect("an offer");
    assert!(offer.contains("a=simulcast:send q;h;f"), "{offer}");
    let published = the_box.publish("wang", offer).await.expect("an answer");
    assert!(published.answer.contains("a=simulcast:recv q;h;f"), "{}", published.answer);
    link.answer(&published.answer).await.expect("a connection");
    let cancel = CancellationToken::new();
    let (playing, played) = (cancel.clone(), script.clone());
    let player = tokio::spawn(async move { link.play(&played, &playing).await.map(|()| link) });
    let track = loop {
        if let MediaNews::TrackUp { track, kind: TrackKind::Video, .. } = the_box.next().await {
            break track;
        }
    };
    let listener = the_box.tracks.listen(track).expect("live");
    let heard = tokio::task::spawn_blocking(move || {
        let mut last = None;
        let mut heard = |layer| {
            let mut layers = hear_layer(&listener, &sets, layer, &mut last);
            layers.dedup();
            layers
        };
        let mut all = vec![heard(2)];
        for (need, layer) in [(180, 0), (181, 1), (u32::MAX, 2)] {
            listener.need(need);
            all.push(heard(layer));
        }
        all
    });
    let heard = heard.await.expect("it hears");
    // Whoever wants the best has it until less is needed; up goes by one step, since each is asked for by itself.
    assert_eq!(heard[1..], [vec![2, 0], vec![0, 1], vec![1, 2]], "{heard:?}");
    cancel.cancel();
    let link = player.await.expect("it plays").expect("it is sent");
    assert!(link.keyframes_asked() >= 3, "each layer was asked for a keyframe");
}

#[test]
fn a_script_is_what_a_publisher_sends() {
    let picture =
        TestPicture { width: 320, height: 180, bitrate: 300_000, label: "script".into(), ..Default::default() };
    let script = Script::record(&picture, VideoCodec::H264, 2).expect("GStreamer encodes");
    let count = |kind| {
        script.packets.iter().filter(|made| made.kind == kind && (kind == TrackKind::Audio || made.marker)).count()
    };
    assert_eq!(count(TrackKind::Video), 60, "pictures");
    assert!((99..=102).contains(&count(TrackKind::Audio)), "sound packets");
    assert!(script.packets.windows(2).all(|pair| pair[0].at <= pair[1].at));
    let first = script.packets.iter().find(|made| made.kind == TrackKind::Video).expect("a picture");
    assert!(matches!(first.payload[0] & 0x1f, 7 | 24), "it begins with parameter sets: {:02x}", first.payload[0]);
}
