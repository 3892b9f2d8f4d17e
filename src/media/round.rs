//! How a mixed lane does its work: how often it wakes, how many steps it makes at a time, and with how many threads.
//!
//! Owns: what was measured of the last round. Must not touch: clocks, threads, what is in a step.
//! Law: pure; a lane sleeps as long as a power cut costs no more for it than the configuration allows; the more it has to
//! do, the more threads help it, and one that can do it alone has no help.

use std::time::Duration;

/// A lane sleeps no longer: what it has not made when the recording ends, somebody waits for.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// Steps of a length that become due between two wakings of a lane. Each costs: the processor has gone to sleep, and its
/// caches are cold (on a virtual one, the host has had others on it). What is written is synced after so long, so what is
/// made sooner than that would be lost to a power cut all the same.
pub(super) fn steps_of_sleep(step: Duration, synced_after: Duration) -> u64 {
    within(synced_after.min(LONGEST_SLEEP), step)
}

/// The steps between two wakings of a lane; times in ns on the task's line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// The first one.
    pub first: u64,
    /// When all that they need has come.
    pub due: u64,
    /// How long what they make lasts.
    pub length: Duration,
}

impl Plan {
    /// By how much a step at `at` is made too late at `now`. Making them may take as long as they last; then the time of the
    /// next ones has come. Of a lane that is told to finish, which goes on beyond its plan at once, no step is late.
    pub fn overdue(&self, at: u64, now: u64) -> Duration {
        let since_due = now.saturating_sub(self.due + at.saturating_sub(self.first));
        Duration::from_nanos(since_due).saturating_sub(self.length)
    }
}

/// Of the steps that are due, some are made at a time: the pictures of one publisher are decoded in a row while the
/// decoder's tables and references are in the cache, and all of them are still there when they are painted. Twice as many while
/// the pictures that wait for their step take little memory.
const ROUND: Duration = Duration::from_millis(200);
/// Bytes of all of them, for a long round.
const ROUND_BYTES: u64 = 32 << 20;

/// Steps of a length that are made together when the pictures of one take so many bytes.
pub(super) fn steps_of_round(step: Duration, bytes: u64) -> u64 {
    let long = within(2 * ROUND, step);
    if bytes * long <= ROUND_BYTES { long } else { within(ROUND, step) }
}

fn within(time: Duration, step: Duration) -> u64 {
    (time.as_nanos() / step.as_nanos().max(1)).max(1) as u64
}

/// Whether the lane needs help with decoding. Without it, all that is done for one picture is done on one processor, whose
/// cache has it: a twentieth of the cost where there are few publishers.
#[derive(Debug)]
pub(super) struct Help {
    wanted: bool,
}

/// What a round took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    pub decoding: Duration,
    pub rest: Duration,
    /// How long what it made lasts.
    pub length: Duration,
}

impl Help {
    /// Nothing is known yet.
    pub fn new() -> Help {
        Help { wanted: true }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// After a round that was decoded by `threads`.
    pub fn learn(&mut self, threads: usize, took: Took) {
        let alone = took.decoding * u32::try_from(threads).unwrap_or(u32::MAX) + took.rest;
        // less to be left alone than to stay so, or it would go to and fro
        let most = if self.wanted { took.length / 3 } else { took.length / 2 };
        self.wanted = alone > most;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_longer_while_its_pictures_are_small() {
        let step = Duration::from_secs(1) / 15;
        let i420 = |width: u64, height: u64| width * height * 3 / 2;
        assert_eq!(steps_of_round(step, 9 * i420(640, 360)), 6, "19 MB");
        assert_eq!(steps_of_round(step, 25 * i420(1920, 1080)), 3);
        assert_eq!(steps_of_round(Duration::from_secs(1), i420(640, 360)), 1, "at one picture a second");
        assert_eq!(steps_of_round(Duration::from_millis(100), 0), 4, "sound alone");
    }

    #[test]
    fn a_lane_sleeps_until_the_next_sync_and_never_long() {
        let step = Duration::from_secs(1) / 15;
        assert_eq!(steps_of_sleep(step, Duration::from_secs(1)), 15);
        assert_eq!(steps_of_sleep(step, Duration::from_secs(2)), 30);
        assert_eq!(steps_of_sleep(step, Duration::from_secs(60)), 30);
        assert_eq!(steps_of_sleep(step, Duration::from_millis(10)), 1, "a step at least");
        assert_eq!(steps_of_sleep(Duration::from_secs(5), Duration::from_secs(2)), 1);
    }

    #[test]
    fn a_step_is_late_when_the_next_plans_time_has_come() {
        const MS: u64 = 1_000_000;
        let plan = Plan { first: 10_000 * MS, due: 13_300 * MS, length: Duration::from_secs(2) };
        let overdue = |at, now| plan.overdue(at * MS, now * MS).as_millis();
        assert_eq!(overdue(10_000, 13_300), 0, "on time");
        assert_eq!(overdue(10_000, 15_300), 0, "just in time");
        assert_eq!(overdue(10_000, 15_301), 1);
        assert_eq!(overdue(11_900, 17_200), 0, "the last one, when as much of it should have been made");
        assert_eq!(overdue(11_900, 17_500), 300);
        assert_eq!(overdue(12_900, 12_950), 0, "beyond the plan, by a lane that finishes");
    }

    #[test]
    fn help_comes_when_half_the_time_is_used_and_goes_when_a_third_would_do() {
        let took = |decoding, rest| Took {
            decoding: Duration::from_millis(decoding),
            rest: Duration::from_millis(rest),
            length: Duration::from_millis(400),
        };
        let mut help = Help::new();
        assert!(help.is_wanted(), "at first");
        help.learn(2, took(50, 40));
        assert!(help.is_wanted(), "it would be 140 ms alone");
        help.learn(2, took(40, 50));
        assert!(!help.is_wanted());
        help.learn(1, took(120, 80));
        assert!(!help.is_wanted(), "half is not more than half");
        help.learn(1, took(120, 81));
        assert!(help.is_wanted());
        help.learn(4, took(30, 70));
        assert!(help.is_wanted(), "190 ms");
    }
}
