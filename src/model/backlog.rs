//! When to try again, and which of the waiting files goes up next.
//!
//! Owns: the waiting line of uploads and its order; `backoff`. Must not touch: files, clocks, randomness: time is the
//! caller's monotonic time since some moment, and the spread of a wait is an argument.
//! Law: oldest first within a destination, but for every fourth file, which is the newest of a task that is being
//! recorded; destinations take turns; one that fails or hangs is given places of its own, waits by itself and is then
//! tried with one file at a time, and takes nothing from the others; one object is never in flight twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use super::TaskId;

/// Of so many segments of a destination one is the newest of a task that is being recorded, when more than these wait.
pub const FRESH_SEGMENTS: usize = 4;
/// Of so many playlists one is of a task that is being recorded.
pub const FRESH_PLAYLISTS: usize = 2;
/// A destination that let nothing land for so long, though something flies, gives its places back to the others.
pub const SLOW: Duration = Duration::from_secs(10);

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
    /// Large, and made while it goes up: after everything else.
    Package,
}

/// So many packed files go up at once: each has its tables in memory, and one that was begun is finished first.
pub const PACKAGES: usize = 2;

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

/// How much may fly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of all destinations that are well, and one playlist more. As many again may be tried of those that are not.
    pub at_once: usize,
    /// Of one destination, and one playlist more.
    pub per_line: usize,
    /// Whether segments go at all; playlists always do.
    pub segments: bool,
}

impl Limits {
    /// At most so many of one destination, and no other bound.
    pub fn per_line(per_line: usize) -> Limits {
        Limits { at_once: usize::MAX, per_line, segments: true }
    }
}

/// Files of one class that can be tried now.
#[derive(Debug, Clone, Default)]
struct Ready {
    /// All, (order, who).
    all: BTreeSet<(u64, Waiting)>,
    /// Those of tasks that are being recorded.
    fresh: BTreeMap<TaskId, BTreeSet<(u64, Waiting)>>,
    /// Taken since the last one that was taken because it is fresh.
    since_fresh: usize,
    /// Whose turn it was last.
    last_fresh: Option<TaskId>,
}

/// One destination's part of the line.
#[derive(Debug, Clone, Default)]
struct Line {
    playlists: Ready,
    segments: Ready,
    packages: Ready,
    /// (when, who)
    later: BTreeSet<(Duration, Waiting)>,
    in_flight: usize,
    /// Failures in a row that were the destination's.
    failures: u32,
    not_before: Duration,
    playlist_went_last: bool,
    /// When a file last landed, or took off while none flew.
    moved_at: Duration,
    /// Its last turn among the destinations.
    turn: u64,
}

/// The file that a line would give.
struct Pick {
    class: Class,
    order: u64,
    waiting: Waiting,
    fresh: bool,
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
    /// Nobody can tell: the destination waits, and this file so much longer, so that another one finds out.
    Either(Duration),
}

/// Everything that waits for a destination.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    places: BTreeMap<Waiting, Place>,
    lines: BTreeMap<String, Line>,
    tasks: BTreeMap<TaskId, Pending>,
    /// Tasks that are being recorded.
    live: BTreeSet<TaskId>,
    turns: u64,
    /// Packed files that fly.
    packages: usize,
}

impl Backlog {
    /// Which tasks are being recorded.
    pub fn set_live(&mut self, live: BTreeSet<TaskId>) {
        if live == self.live {
            return;
        }
        let changed: Vec<TaskId> = live.symmetric_difference(&self.live).cloned().collect();
        self.live = live;
        for task in changed {
            let live = self.live.contains(&task);
            for (waiting, place) in of_task(&self.places, &task).filter(|(_, place)| place.state == PlaceState::Ready) {
                let line = self.lines.get_mut(&place.line).expect("a file's line is kept");
                line.of(place.class).mark(place.order, waiting, live);
            }
        }
    }

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
            Class::Playlist | Class::Package => pending.playlists += 1,
            Class::Segment => pending.segments += 1,
        }
        let live = self.live.contains(&waiting.task);
        self.lines.entry(line.to_owned()).or_default().of(class).insert(order, &waiting, live);
        let state = PlaceState::Ready;
        self.places.insert(waiting, Place { line: line.to_owned(), class, order, bytes, attempts: 0, state });
    }

    /// The next file to carry. Of several destinations the one with the fewest in flight goes first, then the one whose
    /// turn was longest ago.
    pub fn lease(&mut self, now: Duration, limits: Limits) -> Option<Lease> {
        let packages = self.packages;
        let (mut well, mut lagging) = (0, 0);
        for line in self.lines.values_mut() {
            line.promote(now, &mut self.places, &self.live);
            let group = if line.lags(now) { &mut lagging } else { &mut well };
            *group += line.in_flight;
        }
        let (line, pick) = (self.lines.values_mut())
            .filter_map(|line| {
                let flying = if line.lags(now) { lagging } else { well };
                let segments = limits.segments && flying < limits.at_once;
                // one place more, here and in the line: a playlist does not wait until a segment on a thin line lands
                let playlists = flying <= limits.at_once;
                let packages = segments && packages < PACKAGES;
                let pick = line.pick(now, limits.per_line, segments, playlists, packages)?;
                Some((line, pick))
            })
            .min_by_key(|(line, _)| (line.in_flight, line.turn))?;

        self.turns += 1;
        line.turn = self.turns;
        if line.in_flight == 0 {
            line.moved_at = now;
        }
        line.in_flight += 1;
        self.packages += usize::from(pick.class == Class::Package);
        line.playlist_went_last = pick.class == Class::Playlist;
        let failures = line.failures;
        let ready = line.of(pick.class);
        ready.remove(pick.order, &pick.waiting);
        ready.taken(&pick);
        let place = self.places.get_mut(&pick.waiting).expect("a file in a line has a place");
        place.state = PlaceState::Leased;
        Some(Lease { waiting: pick.waiting, attempts: place.attempts, line_failures: failures })
    }

    /// The destination has it: it leaves the line.
    pub fn done(&mut self, waiting: &Waiting, now: Duration) {
        self.line_is_well(waiting, now);
        self.remove(waiting);
    }

    /// It was carried, and stays, ready: a newer version has come meanwhile, or it goes up in parts.
    pub fn again(&mut self, waiting: &Waiting, now: Duration) {
        self.line_is_well(waiting, now);
        self.unlease(waiting, |place| {
            place.attempts = 0;
            PlaceState::Ready
        });
    }

    /// One success opens the line again.
    fn line_is_well(&mut self, waiting: &Waiting, now: Duration) {
        if let Some(line) = self.places.get(waiting).and_then(|place| self.lines.get_mut(&place.line)) {
            line.failures = 0;
            line.not_before = Duration::ZERO;
            line.moved_at = now;
        }
    }

    /// It failed; it (or its whole destination) is tried again at `next_try`.
    pub fn failed(&mut self, waiting: &Waiting, fault: Fault, next_try: Duration) {
        let Some(place) = self.places.get(waiting) else { return };
        if matches!(fault, Fault::Line | Fault::Either(_))
            && let Some(line) = self.lines.get_mut(&place.line)
        {
            line.failures = line.failures.saturating_add(1);
            line.not_before = line.not_before.max(next_try);
        }
        self.unlease(waiting, |place| {
            place.attempts = place.attempts.saturating_add(1);
            match fault {
                Fault::File => PlaceState::Later(next_try),
                Fault::Either(longer) => PlaceState::Later(next_try + longer),
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
                PlaceState::Ready => line.of(place.class).remove(place.order, waiting),
                PlaceState::Later(at) => {
                    line.later.remove(&(at, waiting.clone()));
                }
                PlaceState::Leased => {
                    line.in_flight -= 1;
                    self.packages -= usize::from(place.class == Class::Package);
                }
            }
            // a line that failed is remembered while it has files; the next task may have better keys
            if line.is_empty() {
                self.lines.remove(&place.line);
            }
        }
        if let Some(pending) = self.tasks.get_mut(&waiting.task) {
            pending.bytes -= place.bytes;
            match place.class {
                Class::Playlist | Class::Package => pending.playlists -= 1,
                Class::Segment => pending.segments -= 1,
            }
            if pending.is_empty() {
                self.tasks.remove(&waiting.task);
            }
        }
    }

    /// Forgets every file of a task that is not in flight.
    pub fn remove_task(&mut self, task: &TaskId) {
        let waiting: Vec<Waiting> = of_task(&self.places, task).map(|(waiting, _)| waiting.clone()).collect();
        for waiting in waiting {
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
            if line.not_before > now && line.in_flight == 0 && !line.is_empty() {
                return Some(line.not_before);
            }
            // from then on it counts among those that lag, and the others have its places
            let lags_at = line.moved_at + SLOW;
            let lags_at = (line.in_flight > 0 && line.failures == 0 && lags_at > now).then_some(lags_at);
            line.later.first().map(|(at, _)| *at).into_iter().chain(lags_at).min()
        };
        self.lines.values().filter_map(of_line).min()
    }

    /// Whether anything waits for a destination.
    pub fn has_line(&self, line: &str) -> bool {
        self.lines.contains_key(line)
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
        self.packages -= usize::from(place.class == Class::Package);
        match place.state {
            PlaceState::Later(at) => {
                line.later.insert((at, waiting.clone()));
            }
            PlaceState::Ready | PlaceState::Leased => {
                let live = self.live.contains(&waiting.task);
                line.of(place.class).insert(place.order, waiting, live);
            }
        }
    }
}

/// A task's files.
fn of_task<'a>(
    places: &'a BTreeMap<Waiting, Place>,
    task: &'a TaskId,
) -> impl Iterator<Item = (&'a Waiting, &'a Place)> {
    let first = Waiting { task: task.clone(), object: String::new() };
    places.range(first..).take_while(move |(waiting, _)| waiting.task == *task)
}

impl Ready {
    fn insert(&mut self, order: u64, waiting: &Waiting, live: bool) {
        self.all.insert((order, waiting.clone()));
        if live {
            self.mark(order, waiting, true);
        }
    }

    fn remove(&mut self, order: u64, waiting: &Waiting) {
        self.all.remove(&(order, waiting.clone()));
        self.mark(order, waiting, false);
    }

    fn mark(&mut self, order: u64, waiting: &Waiting, live: bool) {
        if live {
            self.fresh.entry(waiting.task.clone()).or_default().insert((order, waiting.clone()));
        } else if let Some(fresh) = self.fresh.get_mut(&waiting.task) {
            fresh.remove(&(order, waiting.clone()));
            if fresh.is_empty() {
                self.fresh.remove(&waiting.task);
            }
        }
    }

    /// The oldest, unless it is the turn of those that are being recorded: of these the newest, one task after the
    /// other.
    fn front(&self, class: Class) -> Option<Pick> {
        let every = match class {
            Class::Playlist => FRESH_PLAYLISTS,
            Class::Segment => FRESH_SEGMENTS,
            // one that was begun is gone on with
            Class::Package => usize::MAX,
        };
        let oldest = self.all.first()?;
        let fresh = (self.all.len() > every && self.since_fresh >= every - 1).then(|| self.freshest()).flatten();
        let (order, waiting) = fresh.unwrap_or(oldest).clone();
        Some(Pick { class, order, waiting, fresh: fresh.is_some() })
    }

    fn freshest(&self) -> Option<&(u64, Waiting)> {
        let next = self
            .last_fresh
            .as_ref()
            .and_then(|last| self.fresh.range::<TaskId, _>((Bound::Excluded(last), Bound::Unbounded)).next());
        let (_, of_task) = next.or_else(|| self.fresh.first_key_value())?;
        of_task.last()
    }

    fn taken(&mut self, pick: &Pick) {
        self.since_fresh = if pick.fresh { 0 } else { self.since_fresh.saturating_add(1) };
        if pick.fresh {
            self.last_fresh = Some(pick.waiting.task.clone());
        }
    }
}

impl Line {
    fn of(&mut self, class: Class) -> &mut Ready {
        match class {
            Class::Playlist => &mut self.playlists,
            Class::Segment => &mut self.segments,
            Class::Package => &mut self.packages,
        }
    }

    fn is_empty(&self) -> bool {
        let ready = [&self.playlists, &self.segments, &self.packages];
        ready.iter().all(|ready| ready.all.is_empty()) && self.later.is_empty() && self.in_flight == 0
    }

    /// It fails, or what flies to it does not land.
    fn lags(&self, now: Duration) -> bool {
        self.failures > 0 || (self.in_flight > 0 && now >= self.moved_at + SLOW)
    }

    fn promote(&mut self, now: Duration, places: &mut BTreeMap<Waiting, Place>, live: &BTreeSet<TaskId>) {
        while let Some((at, _)) = self.later.first()
            && *at <= now
        {
            let (_, waiting) = self.later.pop_first().expect("looked at just now");
            let place = places.get_mut(&waiting).expect("a file in a line has a place");
            place.state = PlaceState::Ready;
            self.of(place.class).insert(place.order, &waiting, live.contains(&waiting.task));
        }
    }

    /// A playlist, unless one went last and a segment waits: neither starves the other. While the destination fails, one
    /// file at a time finds out whether it is back.
    fn pick(&self, now: Duration, per_line: usize, segments: bool, playlists: bool, packages: bool) -> Option<Pick> {
        if self.not_before > now || (self.failures > 0 && self.in_flight > 0) {
            return None;
        }
        let per_line = per_line.max(1);
        let playlist = || self.playlists.front(Class::Playlist).filter(|_| playlists && self.in_flight <= per_line);
        let segment = || self.segments.front(Class::Segment).filter(|_| segments && self.in_flight < per_line);
        let package = || self.packages.front(Class::Package).filter(|_| packages && self.in_flight < per_line);
        let first = if self.playlist_went_last { segment().or_else(playlist) } else { playlist().or_else(segment) };
        first.or_else(package)
    }
}

#[cfg(test)]
mod tests;
