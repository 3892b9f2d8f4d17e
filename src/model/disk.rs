//! Room on the disk: how much is left, what follows from it, and what goes to make more of it.
//!
//! Owns: the marks below which a disk is nearly full and full, what is given up and in which order, what an error number
//! says of a disk. Must not touch: files: who watches the disk does what is decided here.
//! Law: what nobody needs goes first; nothing that a destination lacks is given up unless the configuration says so, and
//! then the oldest first; a level that was reached is left only when there is a quarter more room than it asks for.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::backlog::Waiting;

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    pub free_bytes: u64,
    pub total_bytes: u64,
    pub free_inodes: u64,
    /// 0: the file system makes them as it goes, and they do not run out by themselves.
    pub total_inodes: u64,
}

/// What is done when room runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// running tasks go on as long as there is any room; new ones are refused
    #[default]
    RefuseNewTasks,
    /// the oldest segments that are not uploaded are given up; recording goes on
    DropOldest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub low_bytes: u64,
    pub low_percent: u64,
    pub low_inodes: u64,
    /// Held back, and given free so that tasks can end in order on a full disk.
    pub reserve_bytes: u64,
    pub when_full: WhenFull,
}

/// Worse is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    #[default]
    Roomy,
    /// Nearly full.
    Low,
    /// What is still there is needed to end in order.
    Full,
}

/// What an error says of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Full,
    /// Errors of the device, a file system that has become read-only or inconsistent.
    Failed,
}

impl Fault {
    /// By the error numbers of Linux. `None`: it says nothing of the disk (a missing file, too many open ones).
    pub fn of_errno(errno: i32) -> Option<Fault> {
        const EIO: i32 = 5;
        const ENXIO: i32 = 6;
        const ENODEV: i32 = 19;
        const ENOSPC: i32 = 28;
        const EROFS: i32 = 30;
        const EUCLEAN: i32 = 117;
        const EDQUOT: i32 = 122;
        match errno {
            ENOSPC | EDQUOT => Some(Fault::Full),
            EIO | ENXIO | ENODEV | EROFS | EUCLEAN => Some(Fault::Failed),
            _ => None,
        }
    }

    /// For metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Full => "full",
            Fault::Failed => "failed",
        }
    }
}

/// Bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    bytes: u64,
    inodes: u64,
}

impl Limits {
    fn low(&self, space: &Space) -> Mark {
        let share = u128::from(space.total_bytes) * u128::from(self.low_percent) / 100;
        let bytes = self.low_bytes.max(u64::try_from(share).unwrap_or(u64::MAX));
        Mark { bytes, inodes: if space.total_inodes == 0 { 0 } else { self.low_inodes } }
    }

    /// There is room again from here on.
    fn high(&self, space: &Space) -> Mark {
        let low = self.low(space);
        let more = |n: u64| n.saturating_add(n.div_ceil(4));
        Mark { bytes: more(low.bytes), inodes: more(low.inodes) }
    }

    /// Tasks end here, before the last writes fail: an eighth of the reserve beside it, a quarter of the low inodes.
    fn full(&self, space: &Space) -> Mark {
        let low = self.low(space);
        Mark { bytes: (self.reserve_bytes / 8).min(low.bytes / 4), inodes: low.inodes / 4 }
    }
}

impl Space {
    /// As if so many bytes were taken.
    #[must_use]
    pub fn less(mut self, bytes: u64) -> Space {
        self.free_bytes = self.free_bytes.saturating_sub(bytes);
        self
    }

    fn below(&self, mark: Mark) -> bool {
        self.free_bytes < mark.bytes || self.free_inodes < mark.inodes
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} MB free", self.free_bytes / 1_000_000, self.total_bytes.div_ceil(1_000_000))?;
        match self.total_inodes {
            0 => Ok(()),
            total => write!(f, ", {} of {total} inodes", self.free_inodes),
        }
    }
}

/// Where the disk stands, given where it stood. `space` is what is free beside a whole reserve.
pub fn level(space: &Space, limits: &Limits, before: Level) -> Level {
    if space.below(limits.full(space)) {
        return Level::Full;
    }
    if space.below(limits.low(space)) {
        return before.max(Level::Low);
    }
    if space.below(limits.high(space)) { before } else { Level::Roomy }
}

/// What lies on the shelf.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shelf<F> {
    /// Files that nobody needs any more, and their sizes.
    pub useless: Vec<(F, u64)>,
    /// Segments that wait for their destination and are not on their way just now, oldest first, and their sizes.
    pub waiting: Vec<(Waiting, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<F> {
    Unlink(F),
    /// The segment is given up: its task is told that it is lost.
    Drop(Waiting),
    RefuseTasks,
    /// Running tasks end, while there is room for it.
    EndTasks,
}

/// What is to be done at `level`. Frees as much as it takes to be roomy again, or all that it may.
pub fn make_room<F: Clone>(level: Level, space: &Space, shelf: &Shelf<F>, limits: &Limits) -> Vec<Decision<F>> {
    if level == Level::Roomy {
        return Vec::new();
    }
    let high = limits.high(space);
    let mut then = *space;
    let mut frees = |bytes: u64| {
        let wanted = then.below(high);
        if wanted {
            then.free_bytes = then.free_bytes.saturating_add(bytes);
            then.free_inodes = then.free_inodes.saturating_add(1);
        }
        wanted
    };
    let mut decisions = Vec::new();
    let useless = shelf.useless.iter().take_while(|(_, bytes)| frees(*bytes));
    decisions.extend(useless.map(|(file, _)| Decision::Unlink(file.clone())));
    if limits.when_full == WhenFull::DropOldest {
        let given_up = shelf.waiting.iter().take_while(|(_, bytes)| frees(*bytes));
        decisions.extend(given_up.map(|(waiting, _)| Decision::Drop(waiting.clone())));
    }
    let nothing_goes = decisions.is_empty();
    if then.below(high) {
        decisions.push(Decision::RefuseTasks);
    }
    if level == Level::Full && nothing_goes {
        decisions.push(Decision::EndTasks);
    }
    decisions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::TaskId;

    const MB: u64 = 1_000_000;

    fn limits(when_full: WhenFull) -> Limits {
        Limits { low_bytes: 400 * MB, low_percent: 0, low_inodes: 40, reserve_bytes: 64 * MB, when_full }
    }

    fn space(free_mb: u64, free_inodes: u64) -> Space {
        Space { free_bytes: free_mb * MB, total_bytes: 10_000 * MB, free_inodes, total_inodes: 1000 }
    }

    fn segment(n: usize) -> Waiting {
        Waiting { task: TaskId::parse("t").unwrap(), object: format!("{n:03}") }
    }

    fn shelf(useless: usize, waiting: usize, mb: u64) -> Shelf<usize> {
        Shelf {
            useless: (0..useless).map(|n| (n, mb * MB)).collect(),
            waiting: (0..waiting).map(|n| (segment(n), mb * MB)).collect(),
        }
    }

    #[test]
    fn a_level_is_left_later_than_it_is_reached() {
        let limits = limits(WhenFull::RefuseNewTasks);
        let at = |free, before| level(&space(free, 900), &limits, before);
        assert_eq!(at(400, Level::Roomy), Level::Roomy);
        assert_eq!(at(399, Level::Roomy), Level::Low);
        assert_eq!(at(499, Level::Low), Level::Low);
        assert_eq!(at(500, Level::Low), Level::Roomy);
        assert_eq!(at(7, Level::Low), Level::Full);
        assert_eq!(at(450, Level::Full), Level::Full, "it was full a moment ago");
        assert_eq!(at(500, Level::Full), Level::Roomy);
        let inodes = |free, before| level(&space(9000, free), &limits, before);
        assert_eq!(
            [40, 39, 10, 9].map(|n| inodes(n, Level::Roomy)),
            [Level::Roomy, Level::Low, Level::Low, Level::Full]
        );
        let without = Space { total_inodes: 0, free_inodes: 0, ..space(9000, 0) };
        assert_eq!(level(&without, &limits, Level::Roomy), Level::Roomy, "no inodes are counted, so none are missing");
        let by_share = Limits { low_percent: 20, ..limits };
        assert_eq!(level(&space(1999, 900), &by_share, Level::Roomy), Level::Low);
    }

    #[test]
    fn what_nobody_needs_goes_first_and_segments_only_where_the_policy_says_so() {
        let nearly_full = space(350, 900);
        let refuse = limits(WhenFull::RefuseNewTasks);
        assert_eq!(make_room(Level::Roomy, &nearly_full, &shelf(9, 9, 60), &refuse), []);
        let enough = make_room(Level::Low, &nearly_full, &shelf(9, 9, 60), &refuse);
        assert_eq!(enough, [Decision::Unlink(0), Decision::Unlink(1), Decision::Unlink(2)]);
        let too_little = make_room(Level::Low, &nearly_full, &shelf(1, 9, 60), &refuse);
        assert_eq!(too_little, [Decision::Unlink(0), Decision::RefuseTasks]);
        let drop = limits(WhenFull::DropOldest);
        let oldest = make_room(Level::Low, &nearly_full, &shelf(1, 9, 60), &drop);
        assert_eq!(oldest, [Decision::Unlink(0), Decision::Drop(segment(0)), Decision::Drop(segment(1))]);
    }

    #[test]
    fn tasks_end_only_when_nothing_can_go() {
        let full = space(2, 900);
        let refuse = make_room(Level::Full, &full, &shelf(0, 9, 60), &limits(WhenFull::RefuseNewTasks));
        assert_eq!(refuse, [Decision::RefuseTasks, Decision::EndTasks]);
        let drop = make_room(Level::Full, &full, &shelf(0, 1, 60), &limits(WhenFull::DropOldest));
        assert_eq!(drop, [Decision::Drop(segment(0)), Decision::RefuseTasks]);
        let empty = make_room(Level::Full, &full, &shelf(0, 0, 60), &limits(WhenFull::DropOldest));
        assert_eq!(empty, [Decision::RefuseTasks, Decision::EndTasks]);
    }

    #[test]
    fn errors_of_the_disk_are_told_from_others() {
        assert_eq!([28, 122].map(Fault::of_errno), [Some(Fault::Full); 2]);
        assert_eq!([5, 30, 117].map(Fault::of_errno), [Some(Fault::Failed); 3]);
        assert_eq!([2, 13, 24].map(Fault::of_errno), [None; 3]);
    }

    #[test]
    fn space_reads_well() {
        assert_eq!(space(12, 7).to_string(), "12 of 10000 MB free, 7 of 1000 inodes");
    }

    proptest! {
        #[test]
        fn it_frees_enough_or_says_that_it_cannot(
            free in 0u64..1000, inodes in 0u64..60, useless in 0usize..20, waiting in 0usize..40, mb in 1u64..90,
            drops: bool, before in prop_oneof![Just(Level::Roomy), Just(Level::Low), Just(Level::Full)],
        ) {
            let limits = limits(if drops { WhenFull::DropOldest } else { WhenFull::RefuseNewTasks });
            let (before_it, shelf) = (space(free, inodes), shelf(useless, waiting, mb));
            let level_now = level(&before_it, &limits, before);
            let decisions = make_room(level_now, &before_it, &shelf, &limits);
            let gone = decisions.iter().filter(|d| matches!(d, Decision::Unlink(_) | Decision::Drop(_))).count();
            let dropped: Vec<&Waiting> =
                decisions.iter().filter_map(|d| if let Decision::Drop(w) = d { Some(w) } else { None }).collect();
            prop_assert!(drops || dropped.is_empty());
            prop_assert!(dropped.iter().enumerate().all(|(n, w)| **w == segment(n)), "oldest first, none left out");
            prop_assert!(dropped.is_empty() || gone - dropped.len() == useless, "what nobody needs went first");
            let after = Space {
                free_bytes: before_it.free_bytes + gone as u64 * mb * MB,
                free_inodes: inodes + gone as u64,
                ..before_it
            };
            let refused = decisions.contains(&Decision::RefuseTasks);
            if level_now == Level::Roomy {
                prop_assert!(decisions.is_empty());
            } else {
                prop_assert_eq!(level(&after, &limits, level_now) != Level::Roomy, refused);
            }
            if gone > 0 {
                // no more than it takes
                let one_less = Space { free_bytes: after.free_bytes - mb * MB, free_inodes: after.free_inodes - 1, ..after };
                prop_assert!(level(&one_less, &limits, Level::Full) != Level::Roomy);
                prop_assert!(!decisions.contains(&Decision::EndTasks));
            }
        }
    }
}
