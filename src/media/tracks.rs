//! The hub: a live track is a stream of ordered, stamped packets that recordings subscribe to.
//!
//! Owns: the registry of live tracks and the fan-out. Must not touch: sessions, files.
//! Law: the publisher's side never waits; a subscriber that falls behind loses its own packets, counted.

use std::sync::Arc;

use bytes::Bytes;

use super::MediaError;
use crate::model::{Codec, MediaTime, TrackId, TrackKind};

/// What a track may ask of its publisher. Called from any thread; returns at once.
pub trait Feedback: Send + Sync + 'static {
    /// Picture loss: the publisher should send a keyframe soon (PLI).
    fn request_keyframe(&self);
}

/// A live track as the session that feeds it describes it.
pub struct TrackSource {
    pub id: TrackId,
    pub kind: TrackKind,
    pub codec: Codec,
    pub payload_type: u8,
    /// RTP clock rate, Hz: 90000 for pictures, 48000 for Opus.
    pub clock_rate: u32,
    pub feedback: Arc<dyn Feedback>,
}

/// One RTP packet, in order, stamped on the box's media clock.
#[derive(Debug, Clone)]
pub struct StampedPacket {
    /// The packet as RFC 3550 writes it; no header extensions, no padding, never an empty payload.
    pub rtp: Bytes,
    pub at: MediaTime,
    /// Packets before this one were lost for good.
    pub after_loss: bool,
}

/// The registry of live tracks.
#[derive(Clone, Default)]
pub struct Tracks {}

impl Tracks {
    /// Opens a track. Dropping the returned input ends it: lanes that record it end with `TrackGone`.
    pub fn open(&self, source: TrackSource) -> Result<TrackInput, MediaError> {
        let _ = source;
        Ok(TrackInput {})
    }
}

/// The session's end of a track.
pub struct TrackInput {}

impl TrackInput {
    /// Hands packets (all of one frame, say) to whoever records; never blocks.
    pub fn push(&self, packets: Vec<StampedPacket>) {
        let _ = packets;
    }
}
