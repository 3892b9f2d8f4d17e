//! Which document configures the box: the last good one, or one that is on trial and comes back by itself if it is bad.
//!
//! Owns: the trial of a document and what was refused by it. Must not touch: what a document says, clocks (time is an
//! argument), files.
//! Law: one of two is in force, the last good one or the one on trial; a document that was rolled back is not taken again
//! until its version or its content changes; a trial ends; the last good one is let go only for one that passed. Keys that
//! a command changed lie over the document in force and are tried as one: its own repetition does not undo them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A box that was begun so often with a document on trial, and not to its end, does not stay up with it.
const MOST_STARTS: u32 = 5;
/// So many further times a trial waits for a line that its document does not touch; a broker may be away for reasons of its
/// own, and yet it may be what a document does that keeps the box from it.
const MOST_WAITS: u32 = 11;
/// Editions that were rolled back and are remembered; the oldest goes.
const MOST_REFUSED: usize = 16;

/// What the operators call a document. They number or name it as they like; it is compared, never ordered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Version {
    Number(i64),
    Text(String),
    /// No document's: what lies over the file alone. Written as `null`.
    File,
}

/// One wording of one version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Edition {
    pub version: Version,
    /// Of all that it says, keys of a command included.
    pub fingerprint: String,
    /// A command changed keys since: the fingerprint of the document that they lie over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<String>,
}

impl Edition {
    /// As the operators put it on the broker.
    pub fn of_document(version: Version, fingerprint: String) -> Edition {
        Edition { version, fingerprint, rotated: None }
    }

    /// The fingerprint of the document alone.
    fn document(&self) -> &str {
        self.rotated.as_deref().unwrap_or(&self.fingerprint)
    }

    /// Whether both are of one document, whatever keys lie over it.
    pub fn same_document(&self, other: &Edition) -> bool {
        (&self.version, self.document()) == (&other.version, other.document())
    }

    /// Whether a box that has this has what is wanted: a document that comes again does not undo keys over it.
    pub fn answers(&self, wanted: &Edition) -> bool {
        self == wanted || wanted.rotated.is_none() && self.same_document(wanted)
    }
}

/// Why a document was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    CutOff,
    HealthFailed,
    DidNotStayUp,
}

impl Why {
    pub fn reason(self) -> &'static str {
        match self {
            Why::CutOff => "the box had no line to its broker at the end of the trial",
            Why::HealthFailed => "the box failed with it, and did not before",
            Why::DidNotStayUp => "the box was started again and again with it",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    pub edition: Edition,
    pub why: Why,
    pub at: Timestamp,
}

/// What a document changes, as far as its trial is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// How the broker is met.
    pub line: bool,
    /// Something that holds at the next start only.
    pub restart: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub edition: Edition,
    reach: Reach,
    /// How long a trial is, and what is left of this one.
    period: Duration,
    left: Duration,
    /// Health had failed without it.
    failed_before: bool,
    /// Lives of the box that began with it.
    starts: u32,
    /// How often it has waited on for the line.
    #[serde(default)]
    waits: u32,
    /// The broker was met again after it was taken, in this life.
    #[serde(skip)]
    reached: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Somebody wants this document, which is valid.
    Offered {
        edition: Edition,
        reach: Reach,
        period: Duration,
    },
    Connected,
    Disconnected,
    Health {
        failed: bool,
    },
    Tick,
    /// A new life of the box, the first input of it.
    Restarted,
}

/// What follows, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Makes the twin safe on the disk, before anything else is done.
    Keep,
    /// The configuration of this document holds from now on; `None`: that of the file.
    Use(Option<Edition>),
    /// The offered document was rolled back before, and is not taken.
    Refuse(RolledBack),
    /// Tells how things are.
    Tell,
}

/// When it is, by a clock that only goes on (since the start of the process), and by the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub uptime: Duration,
    pub wall: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Twin {
    /// `None`: the file alone.
    good: Option<Edition>,
    trial: Option<Trial>,
    /// Oldest first.
    refused: Vec<RolledBack>,
    /// The last one, until another document is good.
    rolled_back: Option<RolledBack>,
    #[serde(skip)]
    connected: bool,
    #[serde(skip)]
    failed: bool,
    #[serde(skip)]
    ticked: Duration,
}

impl Twin {
    /// The one that holds at this moment; `None`: the file alone.
    pub fn in_force(&self) -> Option<&Edition> {
        self.trial.as_ref().map(|trial| &trial.edition).or(self.good.as_ref())
    }

    pub fn last_good(&self) -> Option<&Edition> {
        self.good.as_ref()
    }

    pub fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
    }

    pub fn rolled_back(&self) -> Option<&RolledBack> {
        self.rolled_back.as_ref()
    }

    /// What keys of a command make of the document in force. `fingerprint`: of both.
    pub fn with_keys(&self, fingerprint: String) -> Edition {
        let (version, document) = match self.in_force() {
            Some(edition) => (edition.version.clone(), edition.document().to_owned()),
            None => (Version::File, String::new()),
        };
        Edition { version, fingerprint, rotated: Some(document) }
    }

    /// What is left of the trial, to be written down now and then.
    pub fn left(&self) -> Option<Duration> {
        self.trial.as_ref().map(|trial| trial.left)
    }

    pub fn apply(&mut self, input: Input, now: Now) -> Vec<Effect> {
        let passed = now.uptime.saturating_sub(self.ticked);
        self.ticked = now.uptime;
        if let Some(trial) = &mut self.trial {
            trial.left = trial.left.saturating_sub(passed);
        }
        match input {
            Input::Offered { edition, reach, period } => self.offered(edition, reach, period),
            Input::Connected => {
                self.connected = true;
                if let Some(trial) = &mut self.trial {
                    trial.reached = true;
                    // it was only this that it waited for
                    if trial.waits > 0 {
                        trial.left = Duration::ZERO;
                    }
                }
                vec![Effect::Tell]
            }
            Input::Disconnected => {
                self.connected = false;
                Vec::new()
            }
            Input::Health { failed } => {
                self.failed = failed;
                Vec::new()
            }
            Input::Tick => self.judged(now.wall),
            Input::Restarted => self.restarted(now.wall),
        }
    }

    fn offered(&mut self, edition: Edition, reach: Reach, period: Duration) -> Vec<Effect> {
        if self.in_force().is_some_and(|now| now.answers(&edition)) {
            return vec![Effect::Tell];
        }
        // what a broker keeps comes again by itself; a command is given anew
        let retained = edition.rotated.is_none();
        if let Some(before) = self.refused.iter().find(|refused| retained && refused.edition == edition) {
            return vec![Effect::Refuse(before.clone())];
        }
        // back to what is known to be good, or the same under another name: there is nothing to try
        let known = self.good.as_ref().is_some_and(|good| good.fingerprint == edition.fingerprint);
        if known {
            self.trial = None;
            self.good = Some(edition.clone());
            self.rolled_back = None;
            return vec![Effect::Keep, Effect::Use(Some(edition)), Effect::Tell];
        }
        // what a trial that is superseded has touched must hold too
        let earlier = self.trial.as_ref().map(|trial| (trial.reach, trial.failed_before));
        let (earlier, failed_before) = earlier.unwrap_or((Reach { line: false, restart: false }, self.failed));
        self.trial = Some(Trial {
            edition: edition.clone(),
            reach: Reach { line: reach.line || earlier.line, restart: reach.restart },
            period,
            left: period,
            failed_before,
            starts: 0,
            waits: 0,
            reached: false,
        });
        vec![Effect::Keep, Effect::Use(Some(edition)), Effect::Tell]
    }

    fn judged(&mut self, wall: Timestamp) -> Vec<Effect> {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.left.is_zero()) else { return Vec::new() };
        // where the line was not touched, a broker that is away for a time is not the document's fault
        let met = self.connected || trial.reached && !trial.reach.line;
        if !met && trial.reach.line {
            return self.roll_back(Why::CutOff, wall);
        }
        if self.failed && !trial.failed_before {
            return self.roll_back(Why::HealthFailed, wall);
        }
        if !met && trial.waits < MOST_WAITS {
            trial.waits += 1;
            trial.left = trial.period;
            return vec![Effect::Keep];
        }
        if !met {
            return self.roll_back(Why::CutOff, wall);
        }
        if trial.reach.restart {
            // the part of it that needs a start has not been tried
            trial.left = trial.period;
            return vec![Effect::Keep];
        }
        self.good = Some(trial.edition.clone());
        self.trial = None;
        self.rolled_back = None;
        vec![Effect::Keep, Effect::Tell]
    }

    fn roll_back(&mut self, why: Why, at: Timestamp) -> Vec<Effect> {
        let Some(trial) = self.trial.take() else { return Vec::new() };
        let told = RolledBack { edition: trial.edition, why, at };
        if told.edition.rotated.is_none() {
            if self.refused.len() >= MOST_REFUSED {
                self.refused.remove(0);
            }
            self.refused.push(told.clone());
        }
        self.rolled_back = Some(told);
        vec![Effect::Keep, Effect::Use(self.good.clone()), Effect::Tell]
    }

    fn restarted(&mut self, wall: Timestamp) -> Vec<Effect> {
        let Some(trial) = &mut self.trial else { return vec![Effect::Use(self.good.clone()), Effect::Tell] };
        if trial.starts >= MOST_STARTS {
            return self.roll_back(Why::DidNotStayUp, wall);
        }
        trial.starts += 1;
        if trial.reach.restart {
            trial.reach.restart = false;
            (trial.left, trial.waits) = (trial.period, 0);
        }
        vec![Effect::Keep, Effect::Use(Some(trial.edition.clone())), Effect::Tell]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(300);

    fn edition(version: i64) -> Edition {
        Edition::of_document(Version::Number(version), format!("of {version}"))
    }

    fn at(seconds: u64) -> Now {
        Now { uptime: Duration::from_secs(seconds), wall: Timestamp::from_ms(seconds as i64 * 1000) }
    }

    fn offer(version: i64, line: bool, restart: bool) -> Input {
        Input::Offered { edition: edition(version), reach: Reach { line, restart }, period: PERIOD }
    }

    /// Told over a line that stands.
    fn connected() -> Twin {
        let mut twin = Twin::default();
        assert_eq!(twin.apply(Input::Restarted, at(0)), [Effect::Use(None), Effect::Tell]);
        twin.apply(Input::Connected, at(0));
        twin
    }

    #[test]
    fn a_document_that_keeps_the_line_and_the_health_becomes_the_good_one() {
        let mut twin = connected();
        let taken = twin.apply(offer(1, false, false), at(10));
        assert_eq!(taken, [Effect::Keep, Effect::Use(Some(edition(1))), Effect::Tell]);
        assert_eq!((twin.in_force(), twin.last_good()), (Some(&edition(1)), None));
        assert_eq!(twin.apply(offer(1, false, false), at(11)), [Effect::Tell], "the retained one comes again");
        assert!(twin.apply(Input::Tick, at(309)).is_empty());
        assert_eq!(twin.apply(Input::Tick, at(310)), [Effect::Keep, Effect::Tell]);
        assert_eq!((twin.in_force(), twin.last_good()), (Some(&edition(1)), Some(&edition(1))));
    }

    #[test]
    fn one_that_cuts_the_box_off_comes_back_and_is_not_taken_again() {
        let mut twin = connected();
        twin.apply(offer(1, false, false), at(0));
        twin.apply(Input::Tick, at(300));
        twin.apply(offer(2, true, false), at(400));
        twin.apply(Input::Disconnected, at(401));
        let back = twin.apply(Input::Tick, at(700));
        assert_eq!(back, [Effect::Keep, Effect::Use(Some(edition(1))), Effect::Tell]);
        let told = twin.rolled_back().expect("it is told").clone();
        assert_eq!((told.edition.clone(), told.why), (edition(2), Why::CutOff));
        twin.apply(Input::Connected, at(701));
        assert_eq!(twin.apply(offer(2, true, false), at(702)), [Effect::Refuse(told)]);
        // the same under another version is another wish
        let again = Edition { version: Version::Text("2b".into()), ..edition(2) };
        let offered =
            Input::Offered { edition: again.clone(), reach: Reach { line: true, restart: false }, period: PERIOD };
        assert!(twin.apply(offered, at(703)).contains(&Effect::Use(Some(again))));
    }

    #[test]
    fn a_broker_that_is_away_for_a_time_is_not_the_fault_of_what_does_not_touch_the_line() {
        for (line, stays) in [(false, true), (true, false)] {
            let mut twin = connected();
            twin.apply(offer(1, line, false), at(0));
            twin.apply(Input::Disconnected, at(10));
            twin.apply(Input::Connected, at(20));
            twin.apply(Input::Disconnected, at(250));
            twin.apply(Input::Tick, at(300));
            assert_eq!(twin.last_good().is_some(), stays, "line {line}");
        }
    }

    /// The broker goes by itself in the middle of a trial and is not back at its end.
    #[test]
    fn a_line_that_the_document_does_not_touch_is_waited_for_and_not_for_ever() {
        for back_at in [Some(700), None] {
            let mut twin = connected();
            twin.apply(offer(1, false, false), at(0));
            twin.apply(Input::Disconnected, at(200));
            assert_eq!(twin.apply(Input::Tick, at(300)), [Effect::Keep], "the trial goes on");
            assert_eq!(twin.in_force(), Some(&edition(1)));
            if let Some(back_at) = back_at {
                twin.apply(Input::Tick, at(600));
                twin.apply(Input::Connected, at(back_at));
                assert_eq!(twin.apply(Input::Tick, at(back_at + 1)), [Effect::Keep, Effect::Tell], "it passed at once");
                assert_eq!((twin.last_good(), twin.rolled_back()), (Some(&edition(1)), None));
                continue;
            }
            // health is judged meanwhile, too
            let mut ill = twin.clone();
            ill.apply(Input::Health { failed: true }, at(400));
            ill.apply(Input::Tick, at(600));
            assert_eq!(ill.rolled_back().map(|told| told.why), Some(Why::HealthFailed));
            // as long as it may be waited for, over starts too
            for period in 2..=u64::from(MOST_WAITS) {
                assert_eq!(twin.apply(Input::Tick, at(300 * period)), [Effect::Keep], "period {period}");
            }
            let mut next: Twin = serde_json::from_slice(&serde_json::to_vec(&twin).expect("written")).expect("read");
            next.apply(Input::Restarted, at(0));
            next.apply(Input::Tick, at(300));
            assert_eq!(next.rolled_back().map(|told| told.why), Some(Why::CutOff));
        }
    }

    #[test]
    fn keys_over_a_document_are_tried_and_its_repetition_does_not_undo_them() {
        let mut twin = connected();
        twin.apply(offer(1, false, false), at(0));
        twin.apply(Input::Tick, at(300));
        let keys = twin.with_keys("1 with keys".into());
        assert_eq!((&keys.version, keys.rotated.as_deref()), (&Version::Number(1), Some("of 1")));
        let rotate =
            |edition: Edition, line| Input::Offered { edition, reach: Reach { line, restart: false }, period: PERIOD };
        let taken = twin.apply(rotate(keys.clone(), false), at(400));
        assert_eq!(taken, [Effect::Keep, Effect::Use(Some(keys.clone())), Effect::Tell]);
        assert_eq!(twin.apply(offer(1, false, false), at(401)), [Effect::Tell], "the retained one comes again");
        twin.apply(Input::Tick, at(700));
        assert_eq!(twin.last_good(), Some(&keys));
        let mut twin: Twin = serde_json::from_slice(&serde_json::to_vec(&twin).expect("written")).expect("read");
        twin.apply(Input::Restarted, at(0));
        twin.apply(Input::Connected, at(1));
        assert_eq!(twin.apply(offer(1, false, false), at(2)), [Effect::Tell], "after a start, too");
        // keys over keys lie over the same document; those that cut the box off go, and may be tried again
        let worse = twin.with_keys("1 with others".into());
        assert_eq!(worse.rotated.as_deref(), Some("of 1"));
        twin.apply(rotate(worse.clone(), true), at(3));
        twin.apply(Input::Disconnected, at(4));
        assert!(twin.apply(Input::Tick, at(303)).contains(&Effect::Use(Some(keys.clone()))));
        assert_eq!(twin.rolled_back().map(|told| &told.edition), Some(&worse));
        assert!(twin.apply(rotate(worse.clone(), true), at(304)).contains(&Effect::Use(Some(worse))));
        // another document decides everything itself
        assert!(twin.apply(offer(2, false, false), at(305)).contains(&Effect::Use(Some(edition(2)))));
    }

    #[test]
    fn keys_over_the_file_alone_are_of_no_version_and_old_records_have_none() {
        let mut twin = connected();
        let keys = twin.with_keys("keys".into());
        assert_eq!(serde_json::to_value(&keys).expect("written")["version"], serde_json::Value::Null);
        twin.apply(
            Input::Offered { edition: keys.clone(), reach: Reach { line: false, restart: false }, period: PERIOD },
            at(0),
        );
        let twin: Twin = serde_json::from_slice(&serde_json::to_vec(&twin).expect("written")).expect("read");
        assert_eq!(twin.in_force(), Some(&keys));
        let old = serde_json::json!({"version": 7, "fingerprint": "f"});
        let read: Edition = serde_json::from_value(old).expect("as it was written before");
        assert_eq!(read, Edition::of_document(Version::Number(7), "f".into()));
    }

    #[test]
    fn only_health_that_failed_with_it_counts() {
        for (before, why) in [(false, Some(Why::HealthFailed)), (true, None)] {
            let mut twin = connected();
            twin.apply(Input::Health { failed: before }, at(1));
            twin.apply(offer(1, false, false), at(2));
            twin.apply(Input::Health { failed: true }, at(3));
            twin.apply(Input::Tick, at(302));
            assert_eq!(twin.rolled_back().map(|told| told.why), why);
        }
    }

    #[test]
    fn what_needs_a_start_is_tried_after_it_and_a_box_that_does_not_stay_up_goes_back() {
        let mut twin = connected();
        twin.apply(offer(1, false, true), at(0));
        assert_eq!(
            twin.apply(Input::Tick, at(300)),
            [Effect::Keep],
            "recordings are waited for, and so is the verdict"
        );
        assert_eq!(twin.left(), Some(PERIOD));
        let kept = serde_json::to_vec(&twin).expect("it is written");
        let mut next: Twin = serde_json::from_slice(&kept).expect("it is read");
        for _ in 0..MOST_STARTS {
            next = serde_json::from_slice(&serde_json::to_vec(&next).expect("written")).expect("read");
            let began = next.apply(Input::Restarted, at(0));
            assert_eq!(began, [Effect::Keep, Effect::Use(Some(edition(1))), Effect::Tell]);
        }
        let mut last: Twin = serde_json::from_slice(&serde_json::to_vec(&next).expect("written")).expect("read");
        last.apply(Input::Restarted, at(0));
        assert_eq!(last.rolled_back().map(|told| told.why), Some(Why::DidNotStayUp));
        // a box that stays up and is connected again passes
        next.apply(Input::Connected, at(1));
        assert_eq!(next.apply(Input::Tick, at(300)), [Effect::Keep, Effect::Tell]);
        assert_eq!(next.last_good(), Some(&edition(1)));
    }
}
