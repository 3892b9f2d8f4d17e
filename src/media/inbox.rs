//! A lane's letter box: packets from publishers and words from the engine, for the one thread that is the lane.
//!
//! Owns: the bound on what a lane may have waiting, and what is lost beyond it. Must not touch: what is in the letters.
//! Law: posting never waits; a lane that falls behind loses whole batches of its own, counted, and is told so. What was
//! captured before the lane may begin, or after it has to end, does not come out of the box, whenever it was posted.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::sound::packet_length;
use super::stamped::StampedPacket;
use crate::model::layout::Scene;
use crate::model::{MediaTime, TrackId, TrackKind};

/// A disk that hangs for some seconds must not cost media: at 4 Mbit/s this is half a minute.
const MOST_BYTES: usize = 16 << 20;
/// Half a minute of pictures at 60 frames a second, 40 s of sound at 50 packets.
const MOST_BATCHES: usize = 2_000;
/// Packets are taken some at a time: a recording has no hurry, and each waking costs.
const PAUSE: Duration = Duration::from_millis(80);

#[derive(Debug)]
pub struct Batch {
    pub track: TrackId,
    pub kind: TrackKind,
    pub packets: Vec<StampedPacket>,
    /// Batches of the track before this one did not fit.
    pub after_overflow: bool,
}

/// What the engine has to say to a lane, beside its end.
#[derive(Debug)]
pub enum Word {
    /// What is to be seen and heard from that moment on.
    Scene(Box<Scene>, MediaTime),
}

/// What a lane finds when it looks. Each word is told once.
#[derive(Debug, Default)]
pub struct Letters {
    pub batches: VecDeque<Batch>,
    /// Tracks that ended after the last of `batches`.
    pub ended: Vec<TrackId>,
    /// In the order in which they were told.
    pub words: Vec<Word>,
    /// Nothing comes any more that was captured then or later.
    pub until: Option<MediaTime>,
    /// Tracks that have come to `until`.
    pub passed: Vec<TrackId>,
    pub finish: bool,
    pub kill: bool,
}

impl Letters {
    /// There is something that does not wait until enough packets are there.
    fn urgent(&self) -> bool {
        let told = self.finish || self.kill || self.until.is_some();
        told || !self.ended.is_empty() || !self.passed.is_empty() || !self.words.is_empty()
    }
}

#[derive(Default)]
struct State {
    letters: Letters,
    bytes: usize,
    overflowed: BTreeSet<TrackId>,
    taken: Option<Instant>,
    /// What was captured outside of these is not taken.
    from: MediaTime,
    until: Option<MediaTime>,
    passed: BTreeSet<TrackId>,
    /// The lane sleeps until something comes; at other times it looks by itself soon.
    asleep: bool,
    /// Since when the lane has been at work; `None`: it waits here.
    at_work: Option<Instant>,
}

impl State {
    /// A picture is of a moment; a packet of sound must have ended by `until`.
    fn admits(&self, kind: TrackKind, packet: &StampedPacket) -> bool {
        let ends = || match kind {
            TrackKind::Video => packet.at.0.saturating_add(1),
            TrackKind::Audio => packet.at.0.saturating_add(packet_length(packet)),
        };
        packet.at >= self.from && self.until.is_none_or(|until| ends() <= until.0)
    }

    /// The same track's packets come in order.
    fn passes(&mut self, track: TrackId, packets: &[StampedPacket]) -> bool {
        let over = self.until.is_some_and(|until| packets.iter().any(|packet| packet.at >= until));
        let news = over && self.passed.insert(track);
        if news {
            self.letters.passed.push(track);
        }
        news
    }
}

pub struct Inbox {
    most_bytes: usize,
    most_batches: usize,
    state: Mutex<State>,
    wake: Condvar,
    killed: AtomicBool,
    beats: AtomicU64,
}

impl Default for Inbox {
    /// For one participant's packets.
    fn default() -> Inbox {
        Inbox::new(MOST_BYTES, MOST_BATCHES)
    }
}

impl Inbox {
    /// A box that holds so much at most.
    pub fn new(most_bytes: usize, most_batches: usize) -> Inbox {
        let (state, killed, beats) = Default::default();
        let inbox = Inbox { most_bytes, most_batches, state, wake: Condvar::new(), killed, beats };
        // its thread begins with work: elements, fonts
        inbox.state().at_work = Some(Instant::now());
        inbox
    }

    /// What was captured before is not taken.
    pub fn beginning_at(self, from: MediaTime) -> Inbox {
        self.state().from = from;
        self
    }

    /// From now on nothing is taken, and nothing that waits is given, of what was captured at `until` or later. Of
    /// several the first holds.
    pub fn end_at(&self, until: MediaTime) {
        let mut state = self.state();
        let until = state.until.map_or(until, |before| before.min(until));
        state.until = Some(until);
        state.letters.until = Some(until);
        for mut batch in std::mem::take(&mut state.letters.batches) {
            state.passes(batch.track, &batch.packets);
            batch.packets.retain(|packet| state.admits(batch.kind, packet));
            if !batch.packets.is_empty() {
                state.letters.batches.push_back(batch);
            }
        }
        self.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // whoever panicked while holding it left whole letters: each change is one assignment
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts packets of one track; if the box is full they are dropped and counted.
    pub fn post(&self, track: TrackId, kind: TrackKind, packets: &[StampedPacket]) {
        let mut state = self.state();
        if state.passes(track, packets) {
            self.wake.notify_one();
        }
        let admitted = |packet: &&StampedPacket| state.admits(kind, packet);
        let packets: Vec<StampedPacket> = packets.iter().filter(admitted).cloned().collect();
        if packets.is_empty() {
            return;
        }
        let bytes: usize = packets.iter().map(|packet| packet.rtp.len()).sum();
        if state.bytes + bytes > self.most_bytes || state.letters.batches.len() >= self.most_batches {
            state.overflowed.insert(track);
            metrics::counter!("holdfast_lane_packets_dropped_total", "kind" => kind.as_str())
                .increment(packets.len() as u64);
            return;
        }
        let after_overflow = state.overflowed.remove(&track);
        state.bytes += bytes;
        state.letters.batches.push_back(Batch { track, kind, packets, after_overflow });
        if std::mem::take(&mut state.asleep) {
            self.wake.notify_one();
        }
    }

    /// Batches that the lane has not taken yet.
    pub fn waiting(&self) -> usize {
        self.state().letters.batches.len()
    }

    pub fn track_ended(&self, track: TrackId) {
        let mut state = self.state();
        state.overflowed.remove(&track);
        state.letters.ended.push(track);
        self.wake.notify_one();
    }

    /// Tells the lane something that it is to hear at once.
    pub fn tell(&self, word: Word) {
        self.state().letters.words.push(word);
        self.wake.notify_one();
    }

    pub fn finish(&self) {
        self.state().letters.finish = true;
        self.wake.notify_one();
    }

    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.state().letters.kill = true;
        self.wake.notify_one();
    }

    /// For a lane that is at work and does not look.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// The lane got something done.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
        self.state().at_work = Some(Instant::now());
    }

    /// For how long the lane has got nothing done; one that waits for something to do has not stood still.
    pub fn stands_still(&self, now: Instant) -> Duration {
        self.state().at_work.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// How often [`Inbox::beat`] was called.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Waits until there is something, at most until `deadline`, and takes it all.
    pub fn take(&self, deadline: Instant) -> Letters {
        let mut state = self.state();
        state.at_work = None;
        let gathered = state.taken.map(|at| at + PAUSE);
        loop {
            let now = Instant::now();
            let letters = &state.letters;
            if letters.urgent() || now >= deadline {
                return take_all(&mut state);
            }
            let gathering = gathered.filter(|until| *until > now);
            if gathering.is_none() && !letters.batches.is_empty() {
                return take_all(&mut state);
            }
            state.asleep = gathering.is_none();
            let until = gathering.unwrap_or(deadline).min(deadline);
            state = self.wake.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes all that is there at `deadline`: packets do not end the wait, but words and ends do. For a lane that has
    /// something to make at a time of its own.
    pub fn take_at(&self, deadline: Instant) -> Letters {
        let mut state = self.state();
        state.asleep = false;
        state.at_work = None;
        loop {
            let now = Instant::now();
            if state.letters.urgent() || now >= deadline {
                return take_all(&mut state);
            }
            state = self.wake.wait_timeout(state, deadline - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn take_all(state: &mut State) -> Letters {
    state.asleep = false;
    let now = Instant::now();
    (state.taken, state.at_work) = (Some(now), Some(now));
    state.bytes = 0;
    std::mem::take(&mut state.letters)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::MediaTime;

    fn packet(bytes: usize) -> StampedPacket {
        StampedPacket { rtp: Bytes::from(vec![0; bytes]), at: MediaTime(0), after_loss: false }
    }

    const SOUND: TrackId = TrackId(1);
    const PICTURE: TrackId = TrackId(2);

    #[test]
    fn a_lane_stands_still_that_works_and_gets_nothing_done_not_one_that_waits() {
        let inbox = std::sync::Arc::new(Inbox::default());
        let minute = Duration::from_secs(60);
        assert!(inbox.stands_still(Instant::now() + minute) >= minute, "it begins with work");
        let waiting = std::sync::Arc::clone(&inbox);
        let lane = std::thread::spawn(move || waiting.take(Instant::now() + minute).batches.len());
        while inbox.stands_still(Instant::now() + minute) > Duration::ZERO {
            std::thread::yield_now();
        }
        inbox.post(SOUND, TrackKind::Audio, &[packet(10)]);
        assert_eq!(lane.join().expect("it takes"), 1);
        let taken = Instant::now();
        assert!(inbox.stands_still(taken + minute) >= minute);
        while Instant::now() == taken {}
        inbox.beat();
        assert!(inbox.stands_still(taken + minute) < minute, "it got something done");
    }

    #[test]
    fn what_waits_and_what_comes_is_given_until_the_end_and_no_later() {
        const MS: u64 = 1_000_000;
        // 20 ms of Opus
        let sound = |ms: u64| {
            let mut rtp = vec![0; 14];
            (rtp[0], rtp[12]) = (0x80, 15 << 3);
            StampedPacket { rtp: rtp.into(), at: MediaTime(ms * MS), after_loss: false }
        };
        let picture = |ms: u64| StampedPacket { at: MediaTime(ms * MS), ..packet(10) };
        let given = |letters: &Letters| {
            let of = |batch: &Batch| batch.packets.iter().map(|p| (batch.track, p.at.0 / MS)).collect::<Vec<_>>();
            letters.batches.iter().flat_map(of).collect::<Vec<_>>()
        };
        let inbox = Inbox::default();
        inbox.post(SOUND, TrackKind::Audio, &[sound(60), sound(80), sound(81), sound(99)]);
        inbox.post(PICTURE, TrackKind::Video, &[picture(99), picture(100)]);
        inbox.post(PICTURE, TrackKind::Video, &[picture(133)]);
        inbox.end_at(MediaTime(100 * MS));
        inbox.end_at(MediaTime(140 * MS));
        let letters = inbox.take(Instant::now());
        assert_eq!(given(&letters), [(SOUND, 60), (SOUND, 80), (PICTURE, 99)]);
        assert_eq!(letters.until, Some(MediaTime(100 * MS)), "of several the first holds");
        assert_eq!(letters.passed, [PICTURE], "sound may still come of before");
        inbox.post(SOUND, TrackKind::Audio, &[sound(75), sound(100)]);
        inbox.post(PICTURE, TrackKind::Video, &[picture(98), picture(166)]);
        let letters = inbox.take(Instant::now());
        assert_eq!(given(&letters), [(SOUND, 75), (PICTURE, 98)]);
        assert_eq!((letters.until, letters.passed), (None, vec![SOUND]), "each word is told once");
    }

    #[test]
    fn what_does_not_fit_is_lost_and_told_to_the_same_track() {
        let inbox = Inbox::default();
        for _ in 0..MOST_BATCHES + 3 {
            inbox.post(PICTURE, TrackKind::Video, &[packet(10)]);
        }
        let letters = inbox.take(Instant::now());
        assert_eq!(letters.batches.len(), MOST_BATCHES);
        inbox.post(SOUND, TrackKind::Audio, &[packet(10)]);
        inbox.post(TrackId(3), TrackKind::Video, &[packet(10)]);
        inbox.post(PICTURE, TrackKind::Video, &[packet(10)]);
        inbox.post(PICTURE, TrackKind::Video, &[packet(10)]);
        let batches = inbox.take(Instant::now()).batches;
        let told: Vec<(u64, bool)> = batches.iter().map(|b| (b.track.0, b.after_overflow)).collect();
        assert_eq!(told, [(1, false), (3, false), (2, true), (2, false)]);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let inbox = Inbox::default();
        for _ in 0..40 {
            inbox.post(PICTURE, TrackKind::Video, &[packet(1 << 20)]);
        }
        assert_eq!(inbox.take(Instant::now()).batches.len(), MOST_BYTES >> 20);
        let small = Inbox::new(25, 10);
        for _ in 0..20 {
            small.post(PICTURE, TrackKind::Video, &[packet(1)]);
            small.post(SOUND, TrackKind::Audio, &[packet(10)]);
        }
        let batches = small.take(Instant::now()).batches;
        assert_eq!(batches.iter().filter(|batch| batch.track == SOUND).count(), 2, "bytes");
        assert_eq!(batches.len(), 7, "a small batch finds room where a large one does not");
    }

    #[test]
    fn words_wake_and_are_told_once() {
        for at in [false, true] {
            let inbox = std::sync::Arc::new(Inbox::default());
            let take = move |inbox: &Inbox, deadline| if at { inbox.take_at(deadline) } else { inbox.take(deadline) };
            let waiting = |inbox: &std::sync::Arc<Inbox>| {
                let other = inbox.clone();
                std::thread::spawn(move || take(&other, Instant::now() + Duration::from_secs(60)))
            };
            let thread = waiting(&inbox);
            inbox.finish();
            assert!(thread.join().expect("no panic").finish);
            let thread = waiting(&inbox);
            inbox.tell(Word::Scene(Box::default(), MediaTime(7)));
            let words = thread.join().expect("no panic").words;
            assert!(matches!(&words[..], [Word::Scene(_, MediaTime(7))]));
            let thread = waiting(&inbox);
            inbox.track_ended(SOUND);
            assert_eq!(thread.join().expect("no panic").ended, [SOUND]);
            let letters = take(&inbox, Instant::now());
            assert!(!letters.finish && letters.words.is_empty() && letters.ended.is_empty());
        }
    }

    #[test]
    fn packets_do_not_end_a_wait_for_a_moment() {
        let inbox = Inbox::default();
        inbox.post(SOUND, TrackKind::Audio, &[packet(10)]);
        let deadline = Instant::now() + Duration::from_millis(30);
        assert_eq!(inbox.take_at(deadline).batches.len(), 1);
        assert!(Instant::now() >= deadline);
    }
}
