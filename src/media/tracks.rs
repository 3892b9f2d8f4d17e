//! The hub: a live track is a stream of ordered, stamped packets that recordings subscribe to.
//!
//! Owns: the registry of live tracks and the fan-out. Must not touch: sessions, files.
//! Law: the publisher's side never waits; a subscriber that falls behind loses its own packets, counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::MediaError;
use super::inbox::Inbox;
use super::senses::{Sensed, Senses, Sensing, SharedSensing};
use super::stamped::StampedPacket;
use crate::model::{Codec, TrackId, TrackKind};

/// What a track may ask of its publisher. Called from any thread; returns at once.
pub trait Feedback: Send + Sync + 'static {
    /// Picture loss: the publisher should send a keyframe soon (PLI).
    fn request_keyframe(&self);

    /// The tallest picture, in pixels, that is of use to anybody: a publisher of several sizes need not be heard in
    /// a larger one. `u32::MAX`: the largest that there is; so it is until told, and when nobody listens.
    fn need(&self, _height: u32) {}
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

/// The registry of live tracks.
#[derive(Clone, Default)]
pub struct Tracks {
    live: Arc<Mutex<BTreeMap<TrackId, Arc<Track>>>>,
    sensing: SharedSensing,
}

struct Track {
    source: TrackSource,
    senses: Arc<Senses>,
    /// `None` once the track has ended: whoever comes later finds it gone.
    subscribers: Mutex<Option<Vec<Subscriber>>>,
}

struct Subscriber {
    number: u64,
    inbox: Arc<Inbox>,
    need: u32,
}

/// The greatest need; whoever comes next finds the best at once.
fn need_of(subscribers: &[Subscriber]) -> u32 {
    subscribers.iter().map(|subscriber| subscriber.need).max().unwrap_or(u32::MAX)
}

impl Track {
    fn subscribers(&self) -> MutexGuard<'_, Option<Vec<Subscriber>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes who listens and how, and tells the source if it need send otherwise; `None` when the track has ended.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Subscriber>) -> T) -> Option<T> {
        let (done, before, mut need) = {
            let mut subscribers = self.subscribers();
            let subscribers = subscribers.as_mut()?;
            let before = need_of(subscribers);
            (change(subscribers), before, need_of(subscribers))
        };
        if before == need {
            return Some(done);
        }
        // Without a lock: sources may be anything. Two who tell at once may overtake each other, so each looks again
        // afterwards, and the last word is the one that holds.
        loop {
            self.source.feedback.need(need);
            match self.subscribers().as_deref().map(need_of) {
                Some(now) if now != need => need = now,
                _ => return Some(done),
            }
        }
    }
}

impl Tracks {
    /// So much is noticed of all tracks from now on.
    pub fn sense(&self, sensing: Sensing) {
        self.sensing.set(sensing);
    }

    /// What was noticed of a live track. Of its delay: since the call before.
    pub fn sensed(&self, id: TrackId) -> Option<Sensed> {
        self.live().get(&id).map(|track| track.senses.take())
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<TrackId, Arc<Track>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a track. Dropping the returned input ends it: lanes that record it end with `TrackGone`.
    pub fn open(&self, source: TrackSource) -> Result<TrackInput, MediaError> {
        let id = source.id;
        let senses = Arc::new(Senses::new(self.sensing.clone()));
        let track = Arc::new(Track { source, senses, subscribers: Mutex::new(Some(Vec::new())) });
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
        let added = track.change(|subscribers| {
            let number = subscribers.last().map_or(0, |last| last.number + 1);
            subscribers.push(Subscriber { number, inbox: inbox.clone(), need: u32::MAX });
            number
        });
        let number = added.ok_or(MediaError::NoTrack(id))?;
        Ok(Subscription { track, number })
    }
}

/// A lane's end of a track.
pub(super) struct Subscription {
    track: Arc<Track>,
    number: u64,
}

impl Subscription {
    pub fn source(&self) -> &TrackSource {
        &self.track.source
    }

    /// Whoever decodes the track tells them of it.
    pub fn senses(&self) -> &Arc<Senses> {
        &self.track.senses
    }

    /// The tallest picture, in pixels, that is of use to this subscriber; `u32::MAX`, as at the beginning: the best.
    pub fn need(&self, height: u32) {
        let _ended = self.track.change(|subscribers| {
            let own = subscribers.iter_mut().find(|subscriber| subscriber.number == self.number);
            own.map(|own| own.need = height)
        });
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _ended = self.track.change(|subscribers| subscribers.retain(|other| other.number != self.number));
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

    /// The tallest picture, in pixels, that is of use; `u32::MAX`, as at the beginning: the best.
    pub fn need(&self, height: u32) {
        self.lane.need(height);
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
        self.track.senses.count(&packets);
        for subscriber in self.track.subscribers().iter().flatten() {
            subscriber.inbox.post(self.track.source.id, self.track.source.kind, &packets);
        }
    }
}

impl TrackInput {
    /// Batches that the slowest of those who record has still before it.
    pub fn backlog(&self) -> usize {
        self.track.subscribers().iter().flatten().map(|subscriber| subscriber.inbox.waiting()).max().unwrap_or(0)
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
        for subscriber in self.track.subscribers().take().into_iter().flatten() {
            subscriber.inbox.track_ended(self.track.source.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::MediaTime;

    /// Notes what is told.
    #[derive(Default)]
    struct Ear(Mutex<Vec<u32>>);
    impl Feedback for Ear {
        fn request_keyframe(&self) {}
        fn need(&self, height: u32) {
            self.0.lock().unwrap().push(height);
        }
    }

    fn source(id: u64) -> TrackSource {
        source_with(id, Arc::default())
    }

    fn source_with(id: u64, feedback: Arc<Ear>) -> TrackSource {
        TrackSource {
            id: TrackId(id),
            kind: TrackKind::Audio,
            codec: Codec::Opus,
            payload_type: 111,
            clock_rate: 48_000,
            feedback,
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

    #[test]
    fn the_greatest_need_of_those_who_listen_is_told_when_it_changes() {
        let (tracks, ear) = (Tracks::default(), Arc::new(Ear::default()));
        let input = tracks.open(source_with(1, ear.clone())).expect("a free id");
        let told = || std::mem::take(&mut *ear.0.lock().unwrap());
        let one = tracks.listen(TrackId(1)).expect("a live track");
        assert_eq!(told(), [0u32; 0], "the best is what a source begins with");
        one.need(180);
        one.need(180);
        assert_eq!(told(), [180]);
        let two = tracks.listen(TrackId(1)).expect("a live track");
        assert_eq!(told(), [u32::MAX], "who comes wants the best");
        two.need(90);
        assert_eq!(told(), [180]);
        one.need(100);
        two.need(360);
        assert_eq!(told(), [100, 360]);
        drop(two);
        assert_eq!(told(), [100]);
        drop(one);
        assert_eq!(told(), [u32::MAX], "whoever comes next finds the best");
        let last = tracks.listen(TrackId(1)).expect("a live track");
        drop(input);
        last.need(10);
        drop(last);
        assert_eq!(told(), [0u32; 0], "the track has ended");
    }

    #[test]
    fn an_inbox_may_hear_a_track_twice_and_leave_once() {
        let tracks = Tracks::default();
        let input = tracks.open(source(1)).expect("a free id");
        let inbox = Arc::new(Inbox::default());
        let first = tracks.subscribe(TrackId(1), &inbox).expect("a live track");
        let _second = tracks.subscribe(TrackId(1), &inbox).expect("a live track");
        drop(first);
        input.push(vec![packet()]);
        assert_eq!(inbox.take(Instant::now()).batches.len(), 1);
    }

    #[test]
    fn the_last_need_that_is_told_is_the_one_that_holds() {
        let (tracks, ear) = (Tracks::default(), Arc::new(Ear::default()));
        let _input = tracks.open(source_with(1, ear.clone())).expect("a free id");
        let keeper = tracks.listen(TrackId(1)).expect("a live track");
        keeper.need(1);
        std::thread::scope(|scope| {
            for n in 0..4u32 {
                let tracks = &tracks;
                scope.spawn(move || {
                    for round in 0..200 {
                        let listener = tracks.listen(TrackId(1)).expect("a live track");
                        listener.need(2 + n + round % 7);
                    }
                });
            }
        });
        assert_eq!(ear.0.lock().unwrap().last(), Some(&1));
    }
}
