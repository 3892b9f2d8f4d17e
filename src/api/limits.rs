//! How often and how large: the limits of the API.
//!
//! Owns: the rate of each action, the sizes of requests. Must not touch: the number of tasks (the actor's).
//! Law: within any second at most the configured number of requests of one action passes; memory is bounded by that
//! number times the number of actions.
//! Source: API.md §1.1 (20 per second and action), §2.1 (sizes).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::wire::Action;

/// Body of a signed JSON POST.
pub const JSON_BYTES: usize = 10 * 1024 * 1024;
/// Body of a form POST.
pub const FORM_BYTES: usize = 1024 * 1024;
/// Query of a GET.
pub const QUERY_BYTES: usize = 32 * 1024;
/// An offer or a fragment of a publisher.
pub const SDP_BYTES: usize = 256 * 1024;

const WINDOW: Duration = Duration::from_secs(1);

/// For each action, when the requests of the last second came.
#[derive(Debug, Default)]
pub struct Rate {
    seen: Mutex<BTreeMap<Action, VecDeque<Instant>>>,
}

impl Rate {
    /// Whether one more request of this action may pass at `now`. A refused one does not count.
    pub fn admit(&self, action: Action, per_second: u32, now: Instant) -> bool {
        let per_second = usize::try_from(per_second).unwrap_or(usize::MAX);
        let mut seen = self.seen.lock().expect("nothing panics while it is held");
        let times = seen.entry(action).or_default();
        while times.front().is_some_and(|first| now.saturating_duration_since(*first) >= WINDOW) {
            times.pop_front();
        }
        if times.len() >= per_second {
            return false;
        }
        times.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_has_its_own_second() {
        let rate = Rate::default();
        let start = Instant::now();
        for n in 0..20 {
            assert!(rate.admit(Action::CreateCloudRecording, 20, start + Duration::from_millis(n)));
        }
        assert!(!rate.admit(Action::CreateCloudRecording, 20, start + Duration::from_millis(999)));
        assert!(rate.admit(Action::DescribeCloudRecording, 20, start + Duration::from_millis(999)));
        assert!(rate.admit(Action::CreateCloudRecording, 20, start + Duration::from_millis(1000)));
        assert!(!rate.admit(Action::CreateCloudRecording, 20, start + Duration::from_millis(1000)));
        assert!(rate.admit(Action::CreateCloudRecording, 20, start + Duration::from_millis(1001)));
    }

    #[test]
    fn no_window_of_a_second_holds_more() {
        let rate = Rate::default();
        let start = Instant::now();
        let passed: Vec<u64> = (0..5000u64)
            .step_by(37)
            .filter(|ms| rate.admit(Action::RemoveUser, 3, start + Duration::from_millis(*ms)))
            .collect();
        assert!(passed.windows(4).all(|four| four[3] - four[0] >= 1000));
        assert!(passed.len() >= 14);
    }
}
