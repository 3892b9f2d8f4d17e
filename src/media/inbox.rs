//! A lane's letter box: packets from publishers and words from the engine, for the one thread that is the lane.
//!
//! Owns: the bound on what a lane may have waiting, and what is lost beyond it. Must not touch: what is in the letters.
//! Law: posting never waits; a lane that falls behind loses whole batches of its own, counted, and is told so.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::tracks::StampedPacket;
use crate::model::TrackKind;

/// A disk that hangs for some seconds must not cost media: at 4 Mbit/s this is half a minute.
const MOST_BYTES: usize = 16 << 20;
/// Half a minute of pictures at 60 frames a second, 40 s of sound at 50 packets.
const MOST_BATCHES: usize = 2_000;
/// Packets are taken some at a time: a recording has no hurry, and each waking costs.
const PAUSE: Duration = Duration::from_millis(80);

#[derive(Debug)]
pub struct Batch {
    pub kind: TrackKind,
    pub packets: Vec<StampedPacket>,
    /// Batches before this one did not fit.
    pub after_overflow: bool,
}

/// What a lane finds when it looks. Each word is told once.
#[derive(Debug, Default)]
pub struct Letters {
    pub batches: VecDeque<Batch>,
    /// Tracks that ended after the last of `batches`.
    pub sound_ended: bool,
    pub picture_ended: bool,
    pub finish: bool,
    pub kill: bool,
}

#[derive(Default)]
struct State {
    letters: Letters,
    bytes: usize,
    overflowed: [bool; 2],
    taken: Option<Instant>,
    /// The lane sleeps until something comes; at other times it looks by itself soon.
    asleep: bool,
}

#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // whoever panicked while holding it left whole letters: each change is one assignment
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts packets of one track; if the box is full they are dropped and counted.
    pub fn post(&self, kind: TrackKind, packets: &[StampedPacket]) {
        let bytes: usize = packets.iter().map(|packet| packet.rtp.len()).sum();
        let mut state = self.state();
        let side = usize::from(kind == TrackKind::Video);
        if state.bytes + bytes > MOST_BYTES || state.letters.batches.len() >= MOST_BATCHES {
            state.overflowed[side] = true;
            metrics::counter!("holdfast_lane_packets_dropped_total", "kind" => kind.as_str())
                .increment(packets.len() as u64);
            return;
        }
        let after_overflow = std::mem::take(&mut state.overflowed[side]);
        state.bytes += bytes;
        state.letters.batches.push_back(Batch { kind, packets: packets.to_vec(), after_overflow });
        if std::mem::take(&mut state.asleep) {
            self.wake.notify_one();
        }
    }

    /// Batches that the lane has not taken yet.
    pub fn waiting(&self) -> usize {
        self.state().letters.batches.len()
    }

    pub fn track_ended(&self, kind: TrackKind) {
        let mut state = self.state();
        match kind {
            TrackKind::Audio => state.letters.sound_ended = true,
            TrackKind::Video => state.letters.picture_ended = true,
        }
        self.wake.notify_one();
    }

    pub fn finish(&self) {
        self.state().letters.finish = true;
        self.wake.notify_one();
    }

    pub fn kill(&self) {
        self.state().letters.kill = true;
        self.wake.notify_one();
    }

    /// Waits until there is something, at most until `deadline`, and takes it all.
    pub fn take(&self, deadline: Instant) -> Letters {
        let mut state = self.state();
        let gathered = state.taken.map(|at| at + PAUSE);
        loop {
            let now = Instant::now();
            let letters = &state.letters;
            let word = letters.finish || letters.kill || letters.sound_ended || letters.picture_ended;
            if word || now >= deadline {
                break;
            }
            let gathering = gathered.filter(|until| *until > now);
            if gathering.is_none() && !letters.batches.is_empty() {
                break;
            }
            state.asleep = gathering.is_none();
            let until = gathering.unwrap_or(deadline).min(deadline);
            state = self.wake.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.asleep = false;
        state.taken = Some(Instant::now());
        state.bytes = 0;
        std::mem::take(&mut state.letters)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::MediaTime;

    fn packet(bytes: usize) -> StampedPacket {
        StampedPacket { rtp: Bytes::from(vec![0; bytes]), at: MediaTime(0), after_loss: false }
    }

    #[test]
    fn what_does_not_fit_is_lost_and_told_to_the_same_kind() {
        let inbox = Inbox::default();
        for _ in 0..MOST_BATCHES + 3 {
            inbox.post(TrackKind::Video, &[packet(10)]);
        }
        let letters = inbox.take(Instant::now());
        assert_eq!(letters.batches.len(), MOST_BATCHES);
        inbox.post(TrackKind::Audio, &[packet(10)]);
        inbox.post(TrackKind::Video, &[packet(10)]);
        inbox.post(TrackKind::Video, &[packet(10)]);
        let told: Vec<bool> = inbox.take(Instant::now()).batches.iter().map(|b| b.after_overflow).collect();
        assert_eq!(told, [false, true, false]);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let inbox = Inbox::default();
        for _ in 0..40 {
            inbox.post(TrackKind::Video, &[packet(1 << 20)]);
        }
        assert_eq!(inbox.take(Instant::now()).batches.len(), MOST_BYTES >> 20);
    }

    #[test]
    fn words_wake_and_are_told_once() {
        let inbox = std::sync::Arc::new(Inbox::default());
        let other = inbox.clone();
        let thread = std::thread::spawn(move || other.take(Instant::now() + Duration::from_secs(60)));
        inbox.finish();
        assert!(thread.join().expect("no panic").finish);
        assert!(!inbox.take(Instant::now()).finish);
    }
}
