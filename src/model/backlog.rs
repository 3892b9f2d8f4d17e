//! When to try again, and which of the waiting files goes up next.
//!
//! Owns: the waiting line of uploads and its order; `backoff`. Must not touch: files, clocks, randomness: time is the
//! caller's monotonic time since some moment, and the spread of a wait is an argument.
//! Law: oldest first within a destination; a destination that fails waits by itself and is then tried with one file at
//! a time, and takes nothing from the others; one object is never in flight twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::TaskId;

/// How long to wait after the `attempts`-th failure in a row (1 is the first).
///
/// Doubles from `first` to `longest`; `spread` (0 … 1, drawn by the caller) takes up to a half off, so that many who
/// failed together do not come back together. For one `spread` it never shrinks and never passes `longest`.
pub fn backoff(attempts: u32, first: Duration, longest: Duration, spread: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(31);
    let full = first.saturating_mul(1 << doublings).min(longest);
    full - full.mul_f64(spread.clamp(0.0, 1.0) / 2.0)
}

/// Names one object of one task: its file name at the destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting {
    pub task: TaskId,
    pub object: String,
}

/// Segments go oldest first; a playlist is small and says that they are there, so it does not queue behind an outage's
/// worth of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Playlist,
    Segment,
}

/// What a task still has on the shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    pub segments: usize,
    pub playlists: usize,
    pub bytes: u64,
}

impl Pending {
    pub fn is_empty(self) -> bool {
        self.segments == 0 && self.playlists == 0
    }
}

#[derive(Debug, Clone)]
struct Place {
    line: String,
    class: Class,
    order: u64,
    bytes: u64,
    attempts: u32,
    state: PlaceState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlaceState {
    Ready,
    Later(Duration),
    Leased,
}

/// One destination's part of the line.
#[derive(Debug, Clone, Default)]
struct Line {
    /// (class, order, who)
    ready: BTreeSet<(Class, u64, Waiting)>,
    /// (when, who)
    later: BTreeSet<(Duration, Waiting)>,
    in_flight: usize,
    /// Failures in a row that were the destination's.
    failures: u32,
    not_before: Duration,
    playlist_went_last: bool,
}

/// A file that was taken from the line, to be given back with [`Backlog::done`], [`Backlog::failed`] or
/// [`Backlog::returned`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub waiting: Waiting,
    /// Tries that failed before this one.
    pub attempts: u32,
    /// Failures in a row of its destination.
    pub line_failures: u32,
}

/// Whose fault a failed upload was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The destination's: nothing else of it is tried until the wait is over.
    Line,
    /// This file's alone.
    File,
}

/// Everything that waits for a destination.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    places: BTreeMap<Waiting, Place>,
    lines: BTreeMap<String, Line>,
    tasks: BTreeMap<TaskId, Pending>,
}

impl Backlog {
    /// Puts a file at its place. A file that is there already keeps its place and its lease, and takes on the new size
    /// (a newer version of a playlist).
    pub fn put(&mut self, waiting: Waiting, line: &str, class: Class, order: u64, bytes: u64) {
        let pending = self.tasks.entry(waiting.task.clone()).or_default();
        if let Some(place) = self.places.get_mut(&waiting) {
            pending.bytes = pending.bytes - place.bytes + bytes;
            place.bytes = bytes;
            return;
        }
        pending.bytes += bytes;
        match class {
            Class::Playlist => pending.playlists += 1,
            Class::Segment => pending.segments += 1,
        }
        self.lines.entry(line.to_owned()).or_default().ready.insert((class, order, waiting.clone()));
        let state = PlaceState::Ready;
        self.places.insert(waiting, Place { line: line.to_owned(), class, order, bytes, attempts: 0, state });
    }

    /// The next file to carry, at most `per_line` of one destination at once; of several destinations the one with the
    /// fewest in flight goes first, then the one that waits longest.
    pub fn lease(&mut self, now: Duration, per_line: usize) -> Option<Lease> {
        for line in self.lines.values_mut() {
            line.promote(now, &mut self.places);
        }
        let (_, _, line, waiting) = self
            .lines
            .values_mut()
            .filter(|line| line.has_room(now, per_line))
            .filter_map(|line| {
                let (_, order, waiting) = line.front()?.clone();
                Some((line.in_flight, order, line, waiting))
            })
            .min_by_key(|(in_flight, order, ..)| (*in_flight, *order))?;

        let place = self.places.get_mut(&waiting).expect("a file in a line has a place");
        line.ready.remove(&(place.class, place.order, waiting.clone()));
        line.in_flight += 1;
        line.playlist_went_last = place.class == Class::Playlist;
        place.state = PlaceState::Leased;
        Some(Lease { waiting, attempts: place.attempts, line_failures: line.failures })
    }

    /// The destination has it: it leaves the line.
    pub fn done(&mut self, waiting: &Waiting) {
        if let Some(line) = self.places.get(waiting).and_then(|place| self.lines.get_mut(&place.line)) {
            line.failures = 0;
            line.not_before = Duration::ZERO;
        }
        self.remove(waiting);
    }

    /// It was carried, but a newer version has come meanwhile: it stays, ready.
    pub fn again(&mut self, waiting: &Waiting) {
        if let Some(line) = self.places.get(waiting).and_then(|place| self.lines.get_mut(&place.line)) {
            line.failures = 0;
            line.not_before = Duration::ZERO;
        }
        self.unlease(waiting, |place| {
            place.attempts = 0;
            PlaceState::Ready
        });
    }

    /// It failed; it (or its whole destination) is tried again at `next_try`.
    pub fn failed(&mut self, waiting: &Waiting, fault: Fault, next_try: Duration) {
        let Some(place) = self.places.get(waiting) else { return };
        if fault == Fault::Line
            && let Some(line) = self.lines.get_mut(&place.line)
        {
            line.failures = line.failures.saturating_add(1);
            line.not_before = line.not_before.max(next_try);
        }
        self.unlease(waiting, |place| {
            place.attempts = place.attempts.saturating_add(1);
            match fault {
                Fault::File => PlaceState::Later(next_try),
                Fault::Line => PlaceState::Ready,
            }
        });
    }

    /// It was not tried after all.
    pub fn returned(&mut self, waiting: &Waiting) {
        self.unlease(waiting, |_| PlaceState::Ready);
    }

    /// Takes a file out of the line, leased or not.
    pub fn remove(&mut self, waiting: &Waiting) {
        let Some(place) = self.places.remove(waiting) else { return };
        if let Some(line) = self.lines.get_mut(&place.line) {
            match place.state {
                PlaceState::Ready => {
                    line.ready.remove(&(place.class, place.order, waiting.clone()));
                }
                PlaceState::Later(at) => {
                    line.later.remove(&(at, waiting.clone()));
                }
                PlaceState::Leased => line.in_flight -= 1,
            }
            // a line that failed is remembered while it has files; the next task may have better keys
            if line.is_empty() {
                self.lines.remove(&place.line);
            }
        }
        if let Some(pending) = self.tasks.get_mut(&waiting.task) {
            pending.bytes -= place.bytes;
            match place.class {
                Class::Playlist => pending.playlists -= 1,
                Class::Segment => pending.segments -= 1,
            }
            if pending.is_empty() {
                self.tasks.remove(&waiting.task);
            }
        }
    }

    /// Forgets every file of a task that is not in flight.
    pub fn remove_task(&mut self, task: &TaskId) {
        let first = Waiting { task: task.clone(), object: String::new() };
        let of_task: Vec<Waiting> =
            self.places.range(first..).map(|(w, _)| w.clone()).take_while(|w| w.task == *task).collect();
        for waiting in of_task {
            self.remove(&waiting);
        }
    }

    /// Takes a segment out of the line, unless it is being carried just now. `false`: it is, or is not here.
    pub fn remove_idle(&mut self, waiting: &Waiting) -> bool {
        let idle = self.places.get(waiting).is_some_and(|place| place.state != PlaceState::Leased);
        if idle {
            self.remove(waiting);
        }
        idle
    }

    /// Segments that are not being carried just now, oldest first, and their sizes.
    pub fn idle_segments(&self) -> Vec<(Waiting, u64)> {
        let idle = |(_, place): &(&Waiting, &Place)| place.class == Class::Segment && place.state != PlaceState::Leased;
        let mut segments: Vec<_> = self.places.iter().filter(idle).collect();
        segments.sort_by_key(|(_, place)| place.order);
        segments.into_iter().map(|(waiting, place)| (waiting.clone(), place.bytes)).collect()
    }

    /// The segment that has waited longest.
    pub fn oldest_segment(&self) -> Option<&Waiting> {
        let segments = self.places.iter().filter(|(_, place)| place.class == Class::Segment);
        segments.min_by_key(|(_, place)| place.order).map(|(waiting, _)| waiting)
    }

    /// When the next waiting file may be tried, if time alone brings it.
    pub fn next_wake(&self, now: Duration) -> Option<Duration> {
        let of_line = |line: &Line| -> Option<Duration> {
            if line.not_before > now && line.in_flight == 0 && !(line.ready.is_empty() && line.later.is_empty()) {
                return Some(line.not_before);
            }
            line.later.first().map(|(at, _)| *at)
        };
        self.lines.values().filter_map(of_line).min()
    }

    pub fn pending(&self, task: &TaskId) -> Pending {
        self.tasks.get(task).copied().unwrap_or_default()
    }

    /// Files and bytes of all tasks.
    pub fn total(&self) -> Pending {
        self.tasks.values().fold(Pending::default(), |sum, of_task| Pending {
            segments: sum.segments + of_task.segments,
            playlists: sum.playlists + of_task.playlists,
            bytes: sum.bytes + of_task.bytes,
        })
    }

    fn unlease(&mut self, waiting: &Waiting, next: impl FnOnce(&mut Place) -> PlaceState) {
        let Some(place) = self.places.get_mut(waiting) else { return };
        if place.state != PlaceState::Leased {
            return;
        }
        place.state = next(place);
        let line = self.lines.get_mut(&place.line).expect("a leased file's line is kept");
        line.in_flight -= 1;
        match place.state {
            PlaceState::Later(at) => {
                line.later.insert((at, waiting.clone()));
            }
            PlaceState::Ready | PlaceState::Leased => {
                line.ready.insert((place.class, place.order, waiting.clone()));
            }
        }
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.later.is_empty() && self.in_flight == 0
    }

    /// While a destination fails, one file at a time finds out whether it is back.
    fn has_room(&self, now: Duration, per_line: usize) -> bool {
        let limit = if self.failures > 0 { 1 } else { per_line.max(1) };
        self.not_before <= now && self.in_flight < limit
    }

    fn promote(&mut self, now: Duration, places: &mut BTreeMap<Waiting, Place>) {
        while let Some((at, _)) = self.later.first()
            && *at <= now
        {
            let (_, waiting) = self.later.pop_first().expect("looked at just now");
            let place = places.get_mut(&waiting).expect("a file in a line has a place");
            place.state = PlaceState::Ready;
            self.ready.insert((place.class, place.order, waiting));
        }
    }

    /// A playlist, unless one went last and a segment waits: neither starves the other.
    fn front(&self) -> Option<&(Class, u64, Waiting)> {
        let first = self.ready.first()?;
        if first.0 == Class::Segment || !self.playlist_went_last {
            return Some(first);
        }
        // at most a task's lanes of playlists stand before the first segment
        self.ready.iter().find(|(class, ..)| *class == Class::Segment).or(Some(first))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn waiting(task: &str, object: &str) -> Waiting {
        Waiting { task: TaskId::parse(task).unwrap(), object: object.into() }
    }

    fn leased(backlog: &mut Backlog, now: Duration) -> Option<String> {
        backlog.lease(now, 2).map(|lease| lease.waiting.object)
    }

    #[test]
    fn oldest_first() {
        let mut backlog = Backlog::default();
        backlog.put(waiting("t1", "second"), "line", Class::Segment, 2, 1);
        backlog.put(waiting("t2", "first"), "line", Class::Segment, 1, 1);
        backlog.put(waiting("t1", "third"), "line", Class::Segment, 3, 1);
        assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("first"));
        assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("second"));
        assert_eq!(leased(&mut backlog, SECOND), None, "two at once of one destination");
        backlog.done(&waiting("t2", "first"));
        assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("third"));
    }

    #[test]
    fn playlists_and_segments_take_turns() {
        let mut backlog = Backlog::default();
        for n in 0..3 {
            backlog.put(waiting("t", &format!("s{n}")), "line", Class::Segment, n, 1);
            backlog.put(waiting("t", &format!("p{n}")), "line", Class::Playlist, 10 + n, 1);
        }
        let order: Vec<_> = std::iter::from_fn(|| backlog.lease(SECOND, 9)).map(|l| l.waiting.object).collect();
        assert_eq!(order, ["p0", "s0", "p1", "s1", "p2", "s2"]);
    }

    #[test]
    fn a_destination_that_fails_waits_and_is_probed_and_others_go_on() {
        let mut backlog = Backlog::default();
        for n in 0..3 {
            backlog.put(waiting("t", &format!("bad{n}")), "bad", Class::Segment, n, 1);
        }
        backlog.put(waiting("u", "good"), "good", Class::Segment, 9, 1);
        assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("bad0"));
        assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("good"), "the one with fewer in flight");
        assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("bad1"));
        backlog.failed(&waiting("t", "bad0"), Fault::Line, 5 * SECOND);
        backlog.failed(&waiting("t", "bad1"), Fault::Line, 4 * SECOND);
        assert_eq!(leased(&mut backlog, SECOND), None);
        assert_eq!(backlog.next_wake(SECOND), Some(5 * SECOND));

        let probe = backlog.lease(5 * SECOND, 2).unwrap();
        assert_eq!((probe.waiting.object.as_str(), probe.attempts, probe.line_failures), ("bad0", 1, 2));
        assert_eq!(leased(&mut backlog, 5 * SECOND), None, "one probe at a time");
        backlog.done(&probe.waiting);
        assert_eq!(leased(&mut backlog, 5 * SECOND).as_deref(), Some("bad1"));
        assert_eq!(leased(&mut backlog, 5 * SECOND).as_deref(), Some("bad2"));
    }

    #[test]
    fn a_file_that_fails_by_itself_holds_nobody_up() {
        let mut backlog = Backlog::default();
        backlog.put(waiting("t", "cursed"), "line", Class::Segment, 1, 1);
        backlog.put(waiting("t", "fine"), "line", Class::Segment, 2, 1);
        assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("cursed"));
        backlog.failed(&waiting("t", "cursed"), Fault::File, 9 * SECOND);
        assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("fine"));
        assert_eq!(backlog.next_wake(SECOND), Some(9 * SECOND));
        assert_eq!(leased(&mut backlog, 9 * SECOND).as_deref(), Some("cursed"));
    }

    #[test]
    fn a_newer_playlist_waits_for_the_older_one_in_flight() {
        let mut backlog = Backlog::default();
        backlog.put(waiting("t", "list"), "line", Class::Playlist, 1, 10);
        assert!(backlog.lease(SECOND, 2).is_some());
        backlog.put(waiting("t", "list"), "line", Class::Playlist, 2, 20);
        assert_eq!(backlog.lease(SECOND, 2), None);
        backlog.again(&waiting("t", "list"));
        assert_eq!(leased(&mut backlog, SECOND).as_deref(), Some("list"));
        let task = TaskId::parse("t").unwrap();
        assert_eq!(backlog.pending(&task), Pending { segments: 0, playlists: 1, bytes: 20 });
        backlog.done(&waiting("t", "list"));
        assert!(backlog.pending(&task).is_empty());
    }

    #[test]
    fn a_forgotten_task_leaves_the_others() {
        let mut backlog = Backlog::default();
        for (task, object) in [("a", "1"), ("b", "1"), ("b", "2"), ("c", "1")] {
            backlog.put(waiting(task, object), "line", Class::Segment, 1, 1);
        }
        backlog.remove_task(&TaskId::parse("b").unwrap());
        assert_eq!(backlog.total(), Pending { segments: 2, playlists: 0, bytes: 2 });
    }

    #[derive(Debug, Clone)]
    enum Move {
        Put { line: u8, object: u8, playlist: bool },
        Lease,
        Done(usize),
        Again(usize),
        Fail(usize, bool, u8),
        Return(usize),
        Wait(u8),
    }

    fn any_move() -> impl Strategy<Value = Move> {
        prop_oneof![
            3 => (0..3u8, 0..12u8, any::<bool>())
                .prop_map(|(line, object, playlist)| Move::Put { line, object, playlist }),
            4 => Just(Move::Lease),
            2 => (0..9usize).prop_map(Move::Done),
            1 => (0..9usize).prop_map(Move::Again),
            2 => (0..9usize, any::<bool>(), any::<u8>()).prop_map(|(n, line, wait)| Move::Fail(n, line, wait)),
            1 => (0..9usize).prop_map(Move::Return),
            1 => any::<u8>().prop_map(Move::Wait),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_in_flight_twice(moves in prop::collection::vec(any_move(), 0..200)) {
            let mut backlog = Backlog::default();
            let (mut now, mut order) = (Duration::ZERO, 0);
            let (mut flying, mut there) = (Vec::<Waiting>::new(), BTreeSet::<Waiting>::new());
            for step in moves {
                let pick = |n: usize, flying: &mut Vec<Waiting>| {
                    (!flying.is_empty()).then(|| flying.swap_remove(n % flying.len()))
                };
                match step {
                    Move::Put { line, object, playlist } => {
                        order += 1;
                        let who = waiting(&format!("t{line}"), &format!("o{object}{playlist}"));
                        let class = if playlist { Class::Playlist } else { Class::Segment };
                        backlog.put(who.clone(), &line.to_string(), class, order, 1);
                        there.insert(who);
                    }
                    Move::Lease => if let Some(lease) = backlog.lease(now, 2) {
                        prop_assert!(!flying.contains(&lease.waiting));
                        flying.push(lease.waiting.clone());
                        let of_line = flying.iter().filter(|w| w.task == lease.waiting.task).count();
                        prop_assert!(of_line <= 2);
                    },
                    Move::Done(n) => if let Some(who) = pick(n, &mut flying) {
                        backlog.done(&who);
                        there.remove(&who);
                    },
                    Move::Again(n) => if let Some(who) = pick(n, &mut flying) { backlog.again(&who) },
                    Move::Fail(n, line, wait) => if let Some(who) = pick(n, &mut flying) {
                        let fault = if line { Fault::Line } else { Fault::File };
                        backlog.failed(&who, fault, now + Duration::from_secs(wait.into()));
                    },
                    Move::Return(n) => if let Some(who) = pick(n, &mut flying) { backlog.returned(&who) },
                    Move::Wait(secs) => now += Duration::from_secs(secs.into()),
                }
                prop_assert_eq!(backlog.total().segments + backlog.total().playlists, there.len());
            }
            // everything still there can be carried in the end, one way or the other
            for who in flying {
                backlog.returned(&who);
            }
            while let Some(at) = backlog.next_wake(now).filter(|_| !there.is_empty()) {
                now = now.max(at);
                while let Some(lease) = backlog.lease(now, 2) {
                    prop_assert!(there.remove(&lease.waiting));
                    backlog.done(&lease.waiting);
                }
            }
            while let Some(lease) = backlog.lease(now, 2) {
                prop_assert!(there.remove(&lease.waiting));
                backlog.done(&lease.waiting);
            }
            prop_assert!(there.is_empty());
        }

        #[test]
        fn backoff_grows_to_its_cap(first in 0..10_000u64, longest in 0..1_000_000u64, spread in 0.0..=1.0f64) {
            let (first, longest) = (Duration::from_millis(first), Duration::from_millis(longest));
            let mut before = Duration::ZERO;
            for attempts in 1..40 {
                let wait = backoff(attempts, first, longest, spread);
                prop_assert!(wait >= before && wait <= longest);
                before = wait;
            }
        }
    }

    #[test]
    fn backoff_doubles() {
        let waits: Vec<u64> = (1..=6).map(|n| backoff(n, SECOND, 10 * SECOND, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff(1, SECOND, 10 * SECOND, 1.0), Duration::from_millis(500));
        assert_eq!(backoff(u32::MAX, SECOND, 300 * SECOND, 0.0), 300 * SECOND);
    }
}
