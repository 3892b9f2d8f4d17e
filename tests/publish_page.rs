//! The box's own publish page in a real browser: it starts by itself, sends H.264 and Opus, and comes back.

mod door;
mod support;

use std::time::{Duration, Instant};

use door::{Bench, user_sig};
use holdfast::api::{self, Door};
use holdfast::media::tracks::Tracks;
use holdfast::media::whip::{WhipServer, WhipSettings};
use holdfast::media::{MediaClock, MediaNews};
use holdfast::model::{Codec, MediaId, SessionId, Timestamp, TrackKind};
use support::browser::Browser;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Waits until somebody has entered with a picture and a sound.
async fn published(news: &mut mpsc::Receiver<MediaNews>) -> (SessionId, Vec<(TrackKind, Codec)>) {
    let (mut entered, mut tracks) = (None, Vec::new());
    let waiting = async {
        while entered.is_none() || tracks.len() < 2 {
            match news.recv().await.expect("the server lives") {
                MediaNews::Entered { session, user, media, .. } => {
                    assert_eq!((user.as_str(), media), ("alice", MediaId::Main));
                    entered = Some(session);
                    tracks.clear();
                }
                MediaNews::TrackUp { session, kind, codec, .. } if Some(session) == entered => {
                    tracks.push((kind, codec))
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(90), waiting).await.expect("the page publishes");
    tracks.sort();
    (entered.expect("it entered"), tracks)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_publishes_by_itself_and_comes_back() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (to, mut news) = mpsc::channel(64);
    let settings = WhipSettings {
        udp: "127.0.0.1:0".parse().expect("an address"),
        addresses: Vec::new(),
        ice_timeout: Duration::from_secs(10),
        max_sessions: 4,
    };
    let clock = MediaClock::new(Instant::now(), Timestamp::from_ms(door::NOW * 1000));
    let whip = WhipServer::bind(settings, clock, Tracks::default(), to).await.expect("a UDP port");
    let bench = Bench::new();
    let router = api::router(Door { whip: whip.clone(), ..bench.door.clone() });
    let cancel = CancellationToken::new();
    let any = "127.0.0.1:0".parse().expect("an address");
    let (addr, _serving) = api::serve_http(any, router, cancel.clone()).await.expect("a TCP port");

    let sig = user_sig("alice");
    let url = format!("http://{addr}/publish?room=7&user=alice&token={sig}&auto=1&width=640&height=360");
    let mut browser = Browser::open(&url, None);
    let (first, tracks) = published(&mut news).await;
    assert_eq!(tracks, [(TrackKind::Audio, Codec::Opus), (TrackKind::Video, Codec::H264)]);
    browser.says("publisher: publishing").await;

    whip.close_session(first);
    browser.says("publisher: waiting").await;
    let (second, tracks) = published(&mut news).await;
    assert_ne!(first, second);
    assert_eq!(tracks, [(TrackKind::Audio, Codec::Opus), (TrackKind::Video, Codec::H264)]);
    browser.kill().await;
    cancel.cancel();
    whip.shutdown().await;
}
