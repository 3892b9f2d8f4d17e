//! Puts a stream's RTP packets in order, waits for late ones, and says what is lost for good.
//!
//! Owns: the order of one SSRC's packets. Must not touch: sockets, clocks (time is an argument), what packets hold.
//! Law: what comes out rises by sequence number, each number at most once; nothing waits longer than the wait.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Nobody listens live, so there is time for several retransmissions.
pub(super) const WAIT: Duration = Duration::from_millis(1000);
/// A jump further than this, confirmed by the next packet, is a new sequence (RFC 3550 A.1, MAX_DROPOUT).
const FURTHEST_JUMP: i64 = 3000;
/// Packets held at most while one is missing; then it is given up before its time.
const MOST_HELD: usize = 4096;

/// What became of a packet that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// In its place
    Kept,
    /// It was there already
    Duplicate,
    /// Its place has been given up
    TooLate,
    /// Too far from the others to be believed before a second one confirms it
    Doubted,
    /// A new sequence begins with it; what was held of the old one was let go
    Restarted,
}

/// A packet in its turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Released<T> {
    pub item: T,
    /// Packets directly before it that are lost for good.
    pub lost_before: u64,
    /// The sender began a new sequence here.
    pub restarted: bool,
}

struct Held<T> {
    item: T,
    since: Instant,
}

/// The order of one SSRC.
pub(super) struct Reorder<T> {
    wait: Duration,
    /// Extended number of the packet that is due.
    next: Option<i64>,
    highest: i64,
    held: BTreeMap<i64, Held<T>>,
    /// The number that would confirm a jump, and the packet that jumped.
    doubted: Option<(u16, T)>,
    restarted: bool,
    /// Since when packets wait for the one that is due.
    blocked: Option<Instant>,
}

impl<T> Reorder<T> {
    pub fn new(wait: Duration) -> Reorder<T> {
        Reorder { wait, next: None, highest: 0, held: BTreeMap::new(), doubted: None, restarted: false, blocked: None }
    }

    pub fn push(&mut self, sequence: u16, item: T, now: Instant) -> Taken {
        let Some(next) = self.next else {
            self.begin(sequence, item, now);
            return Taken::Kept;
        };
        let step = i64::from(sequence.wrapping_sub(self.highest as u16) as i16);
        let number = self.highest + step;
        if step.abs() > FURTHEST_JUMP {
            if let Some((confirms, first)) = self.doubted.take()
                && confirms == sequence
            {
                self.held.clear();
                self.restarted = true;
                self.begin(sequence.wrapping_sub(1), first, now);
                self.highest += 1;
                self.held.insert(self.highest, Held { item, since: now });
                return Taken::Restarted;
            }
            self.doubted = Some((sequence.wrapping_add(1), item));
            return Taken::Doubted;
        }
        if number < next {
            return Taken::TooLate;
        }
        if self.held.contains_key(&number) {
            return Taken::Duplicate;
        }
        self.doubted = None;
        self.highest = self.highest.max(number);
        self.held.insert(number, Held { item, since: now });
        if number != next && self.blocked.is_none() {
            self.blocked = Some(now);
        }
        Taken::Kept
    }

    fn begin(&mut self, sequence: u16, item: T, now: Instant) {
        // One cycle up, so that a packet from before the first one has a number as well.
        let number = i64::from(sequence) + 0x1_0000;
        self.next = Some(number);
        self.highest = number;
        self.blocked = None;
        self.held.insert(number, Held { item, since: now });
    }

    /// The next packet whose turn it is: because all before it are out, or because they are given up.
    pub fn pop(&mut self, now: Instant) -> Option<Released<T>> {
        let next = self.next?;
        let number = *self.held.first_key_value()?.0;
        let overdue = self.blocked.is_some_and(|since| now.saturating_duration_since(since) >= self.wait);
        if number != next && !overdue && self.held.len() <= MOST_HELD {
            return None;
        }
        let (number, held) = self.held.pop_first().expect("it was looked at above");
        self.next = Some(number + 1);
        let gap_follows = self.held.first_key_value().is_some_and(|(following, _)| *following != number + 1);
        self.blocked = if gap_follows { self.held.values().map(|held| held.since).min() } else { None };
        let restarted = std::mem::take(&mut self.restarted);
        Some(Released { item: held.item, lost_before: (number - next).unsigned_abs(), restarted })
    }

    /// When [`pop`](Self::pop) will give up what is missing.
    pub fn deadline(&self) -> Option<Instant> {
        let (number, held) = self.held.first_key_value()?;
        if self.next == Some(*number) { Some(held.since) } else { self.blocked.map(|since| since + self.wait) }
    }

    /// Everything that is held, in order: the stream is over.
    pub fn drain(&mut self) -> Vec<Released<T>> {
        let mut all = Vec::with_capacity(self.held.len());
        while let Some((number, held)) = self.held.pop_first() {
            let lost_before = self.next.map_or(0, |next| (number - next).unsigned_abs());
            self.next = Some(number + 1);
            all.push(Released { item: held.item, lost_before, restarted: std::mem::take(&mut self.restarted) });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn out(order: &mut Reorder<u16>, now: Instant) -> Vec<(u16, u64)> {
        std::iter::from_fn(|| order.pop(now)).map(|r| (r.item, r.lost_before)).collect()
    }

    #[test]
    fn late_packets_take_their_place() {
        let now = Instant::now();
        let mut order = Reorder::new(WAIT);
        for n in [65534, 65535, 1, 2] {
            assert_eq!(order.push(n, n, now), Taken::Kept);
        }
        assert_eq!(out(&mut order, now), [(65534, 0), (65535, 0)]);
        assert_eq!(order.deadline(), Some(now + WAIT));
        assert_eq!(order.push(0, 0, now), Taken::Kept);
        assert_eq!(order.push(1, 1, now), Taken::Duplicate);
        assert_eq!(out(&mut order, now), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(order.push(65535, 65535, now), Taken::TooLate);
        assert_eq!(order.deadline(), None);
    }

    #[test]
    fn a_missing_packet_is_given_up_after_the_wait() {
        let now = Instant::now();
        let mut order = Reorder::new(WAIT);
        order.push(10, 10, now);
        order.push(13, 13, now);
        assert_eq!(out(&mut order, now), [(10, 0)]);
        assert_eq!(out(&mut order, now + WAIT - Duration::from_millis(1)), []);
        assert_eq!(out(&mut order, now + WAIT), [(13, 2)]);
        assert_eq!(order.push(11, 11, now + WAIT), Taken::TooLate);
    }

    #[test]
    fn a_far_jump_needs_two_packets() {
        let now = Instant::now();
        let mut order = Reorder::new(WAIT);
        order.push(100, 100, now);
        assert_eq!(out(&mut order, now), [(100, 0)]);
        assert_eq!(order.push(30000, 30000, now), Taken::Doubted);
        assert_eq!(order.push(101, 101, now), Taken::Kept);
        assert_eq!(order.push(30000, 30000, now), Taken::Doubted);
        assert_eq!(order.push(30001, 30001, now), Taken::Restarted);
        let released = order.pop(now).unwrap();
        assert_eq!((released.item, released.restarted, released.lost_before), (30000, true, 0));
        assert_eq!(out(&mut order, now), [(30001, 0)]);
    }

    proptest! {
        /// Whatever comes in, in whatever order: what comes out rises, without repeats, and together with what is
        /// counted as lost it has no hole.
        #[test]
        fn rises_without_repeats_or_holes(
            start in any::<u16>(),
            sent in prop::collection::vec((0u16..400, 0u64..40), 1..600),
        ) {
            let begin = Instant::now();
            let mut now = begin;
            let mut order = Reorder::new(Duration::from_millis(200));
            let mut seen: Vec<(u16, u64)> = Vec::new();
            for (offset, pause) in sent {
                now += Duration::from_millis(pause);
                let sequence = start.wrapping_add(offset);
                order.push(sequence, sequence, now);
                seen.extend(out(&mut order, now));
                prop_assert!(order.deadline().is_none_or(|at| at > now));
            }
            seen.extend(order.drain().into_iter().map(|r| (r.item, r.lost_before)));
            for pair in seen.windows(2) {
                let step = u64::from(pair[1].0.wrapping_sub(pair[0].0));
                prop_assert_eq!(step, pair[1].1 + 1);
            }
        }
    }
}
