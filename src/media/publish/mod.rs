//! A WHIP publisher for technicians, the demo and tests: a test picture with flash and beep, a file, or RTP packets.
//!
//! Owns: the client's side of WHIP. Must not touch: the box; it knows it by its address only, like any publisher.
//! Law: flash and beep happen at the same moment, and the sender reports say so.

mod draw;
mod link;
mod picture;
mod whip;

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use link::{Link, LinkState, Packet, RIDS};
pub use picture::{Made, Script};
pub use whip::{RtpPublisher, WhipAddress, through};

pub(super) use link::{TRANSPORT_CC, codec_parameters};
pub(super) use whip::local_address;

use crate::model::source::Address;
use crate::model::{Codec, Secret, TrackKind};

/// Codec of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VideoCodec {
    #[default]
    H264,
    Vp8,
}

impl VideoCodec {
    fn codec(self) -> Codec {
        match self {
            VideoCodec::H264 => Codec::H264,
            VideoCodec::Vp8 => Codec::Vp8,
        }
    }
}

/// A moving ball, a running clock, a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestPicture {
    /// Pixels; even.
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    /// Of the picture, bits per second.
    pub bitrate: u32,
    pub label: String,
    /// Background, 0x00RRGGBB.
    pub colour: u32,
    /// At every full second of media time, for a tenth of it: a white picture and a 1 kHz tone.
    pub flash_beep: bool,
}

impl Default for TestPicture {
    fn default() -> Self {
        TestPicture {
            width: 1280,
            height: 720,
            fps: 30,
            bitrate: 1_500_000,
            label: String::new(),
            colour: 0x0020_5080,
            flash_beep: true,
        }
    }
}

/// What to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    TestPicture(TestPicture),
    /// A media file, at its own pace, once.
    File(PathBuf),
}

#[derive(Clone)]
pub struct PublishSettings {
    /// WHIP address
    pub url: String,
    pub bearer: Option<Secret>,
    /// Take any certificate.
    pub insecure: bool,
    pub source: Source,
    pub video: VideoCodec,
    /// Leave after so long; otherwise when cancelled, or when the file is over.
    pub duration: Option<Duration>,
}

/// What was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishReport {
    /// From connected to left.
    pub lasted: Duration,
    pub packets: u64,
    /// Payload of RTP.
    pub bytes: u64,
    /// Keyframes that the box asked for.
    pub keyframes_asked: u64,
    /// The box ended it.
    pub shown_out: bool,
}

impl fmt::Display for PublishReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.lasted.as_secs_f64();
        let kilobits = if seconds > 0.0 { self.bytes as f64 * 8.0 / 1000.0 / seconds } else { 0.0 };
        write!(
            f,
            "published {seconds:.1} s: {} packets, {} bytes ({kilobits:.0} kbit/s), {} keyframes asked for{}",
            self.packets,
            self.bytes,
            self.keyframes_asked,
            if self.shown_out { ", ended by the box" } else { "" }
        )
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("WHIP address: {0}")]
    Address(String),
    #[error("HTTP")]
    Http(#[source] reqwest::Error),
    #[error("refused with status {0}: {1}")]
    Refused(u16, String),
    #[error("WebRTC")]
    WebRtc(#[from] webrtc::error::Error),
    #[error("no offer could be made for it")]
    NoOffer,
    #[error("the answer came, but no connection")]
    NotConnected,
    #[error("pipeline: {0}")]
    Pipeline(String),
}

/// Publishes until it is cancelled, the time or the file is over, or the box ends it; then leaves with DELETE.
pub async fn publish(settings: PublishSettings, cancel: CancellationToken) -> Result<PublishReport, PublishError> {
    let mut picture = picture::Picture::new(&settings.source, settings.video)?;
    let address = WhipAddress {
        url: settings.url.clone(),
        bearer: settings.bearer.clone(),
        insecure: settings.insecure,
        via: None,
    };
    let codecs = [Codec::Opus, settings.video.codec()];
    let mut publisher = tokio::select! {
        publisher = RtpPublisher::publish(&address, &codecs) => publisher?,
        () = cancel.cancelled() => {
            return Ok(PublishReport { lasted: Duration::ZERO, packets: 0, bytes: 0, keyframes_asked: 0, shown_out: false });
        }
    };
    // its query may hold a token
    let to = Address::parse(&settings.url, &["http", "https"]).map_or_else(str::to_owned, |(to, _)| to.to_string());
    tracing::info!(to, "connected");
    let began = Instant::now();
    picture.play()?;
    let until = async {
        match settings.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(until);
    let mut state = publisher.state();
    let mut shown_out = false;
    let failed = loop {
        tokio::select! {
            () = cancel.cancelled() => break None,
            () = &mut until => break None,
            () = over(&mut state) => {
                shown_out = true;
                break None;
            }
            _ = publisher.keyframe_asked() => {
                tracing::debug!("a keyframe is asked for");
                picture.keyframe();
            }
            made = picture.next() => match made {
                Ok(Some(made)) => {
                    if let Err(error) = publisher.send(made.kind, made.packet).await {
                        tracing::debug!(%error, "the connection is over");
                        shown_out = true;
                        break None;
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            },
        }
    };
    let (packets, bytes) = publisher.sent();
    let keyframes_asked = publisher.keyframes_asked();
    let lasted = began.elapsed();
    drop(picture);
    if let Err(error) = publisher.leave().await {
        tracing::debug!(%error, "DELETE");
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(PublishReport { lasted, packets, bytes, keyframes_asked, shown_out }),
    }
}

/// Waits until the connection is over.
async fn over(state: &mut watch::Receiver<LinkState>) {
    // What is watched may be gone with the connection, which is an end as well.
    let _ = state.wait_for(|state| *state == LinkState::Over).await.map(drop);
}

impl RtpPublisher {
    /// Sends a script's packets at their times, over and over, until cancelled or the connection is over.
    pub async fn play(&self, script: &Script, cancel: &CancellationToken) -> Result<(), PublishError> {
        self.link().play(script, cancel).await
    }
}

impl Link {
    /// Sends a script's packets at their times, over and over, until cancelled or the connection is over.
    pub async fn play(&self, script: &Script, cancel: &CancellationToken) -> Result<(), PublishError> {
        let began = Instant::now();
        let (mut state, mut round) = (self.state(), 0u32);
        loop {
            for made in &script.packets {
                let captured = began + script.length * round + made.at;
                tokio::select! {
                    () = tokio::time::sleep_until(captured.into()) => {}
                    () = cancel.cancelled() => return Ok(()),
                    () = over(&mut state) => return Ok(()),
                }
                let ticks = match made.kind {
                    TrackKind::Audio => 48_000u128,
                    TrackKind::Video => 90_000,
                };
                let moved = script.length.as_nanos() * u128::from(round) * ticks / 1_000_000_000;
                let packet = Packet {
                    timestamp: made.timestamp.wrapping_add(moved as u32),
                    marker: made.marker,
                    payload: made.payload.clone(),
                    captured,
                };
                self.send_layer(made.kind, made.layer, packet).await?;
            }
            round += 1;
        }
    }
}
