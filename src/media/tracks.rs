//! The hub: a live track is a stream of ordered, stamped packets that recordings subscribe to.
//!
//! Owns: the registry of live tracks and the fan-out. Must not touch: sessions, files.
//! Law: the publisher's side never waits; a subscriber that falls behind loses its own packets, counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::MediaError;
use super::inbox::Inbox;
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
pub struct Tracks {
    live: Arc<Mutex<BTreeMap<TrackId, Arc<Track>>>>,
}

struct Track {
    source: TrackSource,
    /// `None` once the track has ended: whoever comes later finds it gone.
    inboxes: Mutex<Option<Vec<Arc<Inbox>>>>,
}

impl Track {
    fn inboxes(&self) -> MutexGuard<'_, Option<Vec<Arc<Inbox>>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracks {
    fn live(&self) -> MutexGuard<'_, BTreeMap<TrackId, Arc<Track>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a track. Dropping the returned input ends it: lanes that record it end with `TrackGone`.
    pub fn open(&self, source: TrackSource) -> Result<TrackInput, MediaError> {
        let id = source.id;
        let track = Arc::new(Track { source, inboxes: Mutex::new(Some(Vec::new())) });
        let mut live = self.live();
        if live.contains_key(&id) {
            return Err(MediaError::Pipeline(format!("track {} is open already", id.0)));
        }
        live.insert(id, track.clone());
        metrics::gauge!("holdfast_tracks").set(live.len() as f64);
        Ok(TrackInput { tracks: self.clone(), track })
    }

    /// From now on the track's packets are posted to `inbox`, until the subscription is dropped.
    pub(super) fn subscribe(&self, id: TrackId, inbox: &Arc<Inbox>) -> Result<Subscription, MediaError> {
        let track = self.live().get(&id).cloned().ok_or(MediaError::NoTrack(id))?;
        {
            let mut inboxes = track.inboxes();
            let Some(inboxes) = inboxes.as_mut() else {
                return Err(MediaError::NoTrack(id));
            };
            inboxes.push(inbox.clone());
        }
        Ok(Subscription { track, inbox: inbox.clone() })
    }
}

/// A lane's end of a track.
pub(super) struct Subscription {
    track: Arc<Track>,
    inbox: Arc<Inbox>,
}

impl Subscription {
    pub fn source(&self) -> &TrackSource {
        &self.track.source
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(inboxes) = self.track.inboxes().as_mut() {
            inboxes.retain(|other| !Arc::ptr_eq(other, &self.inbox));
        }
    }
}

/// Hears a track without recording it: for whoever measures or tests.
pub struct Listener {
    inbox: Arc<Inbox>,
    lane: Subscription,
}

impl Tracks {
    /// Hears the track from now on.
    pub fn listen(&self, id: TrackId) -> Result<Listener, MediaError> {
        let inbox = Arc::new(Inbox::default());
        let lane = self.subscribe(id, &inbox)?;
        Ok(Listener { inbox, lane })
    }
}

impl Listener {
    pub fn codec(&self) -> Codec {
        self.lane.source().codec
    }

    /// Asks the publisher for a keyframe.
    pub fn request_keyframe(&self) {
        self.lane.source().feedback.request_keyframe();
    }

    /// What came since the last call, waiting for something at most so long; and whether the track has ended.
    /// Blocks.
    pub fn take(&self, wait: Duration) -> (Vec<StampedPacket>, bool) {
        let letters = self.inbox.take(Instant::now() + wait);
        let packets = letters.batches.into_iter().flat_map(|batch| batch.packets).collect();
        (packets, !letters.ended.is_empty())
    }
}

/// The session's end of a track.
pub struct TrackInput {
    tracks: Tracks,
    track: Arc<Track>,
}

impl TrackInput {
    /// Hands packets (all of one frame, say) to whoever records; never blocks.
    pub fn push(&self, packets: Vec<StampedPacket>) {
        if packets.is_empty() {
            return;
        }
        let inboxes = self.track.inboxes();
        for inbox in inboxes.iter().flatten() {
            inbox.post(self.track.source.id, self.track.source.kind, &packets);
        }
    }
}

impl TrackInput {
    /// Batches that the slowest of those who record has still before it.
    pub fn backlog(&self) -> usize {
        self.track.inboxes().iter().flatten().map(|inbox| inbox.waiting()).max().unwrap_or(0)
    }
}

impl Drop for TrackInput {
    fn drop(&mut self) {
        let left = {
            let mut live = self.tracks.live();
            live.remove(&self.track.source.id);
            live.len()
        };
        metrics::gauge!("holdfast_tracks").set(left as f64);
        for inbox in self.track.inboxes().take().into_iter().flatten() {
            inbox.track_ended(self.track.source.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;
    impl Feedback for Deaf {
        fn request_keyframe(&self) {}
    }

    fn source(id: u64) -> TrackSource {
        TrackSource {
            id: TrackId(id),
            kind: TrackKind::Audio,
            codec: Codec::Opus,
            payload_type: 111,
            clock_rate: 48_000,
            feedback: Arc::new(Deaf),
        }
    }

    fn packet() -> StampedPacket {
        StampedPacket { rtp: Bytes::from_static(&[0; 13]), at: MediaTime(0), after_loss: false }
    }

    #[test]
    fn every_subscriber_gets_its_own_until_it_leaves() {
        let tracks = Tracks::default();
        let input = tracks.open(source(1)).expect("a free id");
        let (one, two) = (Arc::new(Inbox::default()), Arc::new(Inbox::default()));
        let first = tracks.subscribe(TrackId(1), &one).expect("a live track");
        let _second = tracks.subscribe(TrackId(1), &two).expect("a live track");
        input.push(vec![packet()]);
        drop(first);
        input.push(vec![packet()]);
        assert_eq!(one.take(Instant::now()).batches.len(), 1);
        assert_eq!(two.take(Instant::now()).batches.len(), 2);
    }

    #[test]
    fn the_end_of_a_track_is_told_and_kept() {
        let tracks = Tracks::default();
        let input = tracks.open(source(1)).expect("a free id");
        assert!(tracks.open(source(1)).is_err(), "an id stands for one track");
        let inbox = Arc::new(Inbox::default());
        let _lane = tracks.subscribe(TrackId(1), &inbox).expect("a live track");
        drop(input);
        assert_eq!(inbox.take(Instant::now()).ended, [TrackId(1)]);
        assert!(matches!(tracks.subscribe(TrackId(1), &inbox), Err(MediaError::NoTrack(_))));
        tracks.open(source(1)).expect("the id is free again");
    }
}
