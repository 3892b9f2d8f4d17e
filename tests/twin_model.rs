//! The twin on random walks: whatever is offered, whatever breaks, one of two documents is in force, none that was rolled
//! back, a trial ends, and the last good one is never lost.

use std::time::Duration;

use holdfast::model::Timestamp;
use holdfast::model::twin::{Edition, Effect, Input, Now, Reach, Twin, Version, Why};
use proptest::prelude::*;

const PERIOD: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
enum Step {
    Offer {
        version: i64,
        content: u8,
        line: bool,
        restart: bool,
    },
    /// Keys by command, over what holds.
    Rotate {
        keys: u8,
        line: bool,
    },
    Connect(bool),
    Fail(bool),
    Wait(u64),
    /// Of the box: what was kept is what is known.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0i64..4, 0u8..3, any::<bool>(), any::<bool>())
            .prop_map(|(version, content, line, restart)| Step::Offer { version, content, line, restart }),
        2 => (0u8..3, any::<bool>()).prop_map(|(keys, line)| Step::Rotate { keys, line }),
        3 => any::<bool>().prop_map(Step::Connect),
        2 => any::<bool>().prop_map(Step::Fail),
        5 => (0u64..400).prop_map(Step::Wait),
        2 => Just(Step::Restart),
    ]
}

/// A box around the machine, with a disk.
#[derive(Default)]
struct World {
    twin: Twin,
    disk: Option<Vec<u8>>,
    uses: Option<Edition>,
    refused: Vec<Edition>,
    uptime: Duration,
    connected: bool,
    failed: bool,
    /// The line was met since the last document was taken, in this life.
    met: bool,
}

impl World {
    fn input(&mut self, input: Input) -> Vec<Effect> {
        let now = Now { uptime: self.uptime, wall: Timestamp(1) };
        let before = self.twin.clone();
        let effects = self.twin.apply(input.clone(), now);
        let mut kept = false;
        for effect in &effects {
            match effect {
                Effect::Keep => {
                    kept = true;
                    self.disk = Some(serde_json::to_vec(&self.twin).expect("it is written"));
                }
                Effect::Use(edition) => {
                    assert!(kept || matches!(input, Input::Restarted), "{input:?}: what is used is safe first");
                    self.uses = edition.clone();
                    self.met = false;
                }
                Effect::Refuse(told) => assert!(self.refused.contains(&told.edition)),
                Effect::Tell => {}
            }
        }
        let in_force = self.twin.in_force().cloned();
        assert_eq!(self.uses, in_force, "{input:?}: what holds is what the twin says");
        let good = self.twin.last_good().cloned();
        let on_trial = self.twin.trial().map(|trial| trial.edition.clone());
        assert!(in_force == good || in_force == on_trial);
        self.check_rollback(&before, &input);
        if good.as_ref() != before.last_good() {
            let good = good.expect("the last good one is never lost");
            match &input {
                Input::Tick => {
                    assert_eq!(before.trial().map(|trial| &trial.edition), Some(&good), "only what was tried is good");
                    assert!(self.connected || self.met, "and has shown that it keeps the line");
                }
                Input::Offered { .. } => {
                    let same = before.last_good().map(|before| &before.fingerprint);
                    assert_eq!(same, Some(&good.fingerprint), "only the same needs no trial");
                }
                other => panic!("{other:?} makes nothing good"),
            }
        }
        effects
    }

    fn check_rollback(&mut self, before: &Twin, input: &Input) {
        let told = self.twin.rolled_back().filter(|told| before.rolled_back() != Some(told));
        let Some(told) = told.cloned() else { return };
        assert_eq!(
            before.trial().map(|trial| &trial.edition),
            Some(&told.edition),
            "only what was on trial comes back"
        );
        assert_eq!(self.twin.in_force(), before.last_good(), "what comes back is the last good one");
        match told.why {
            Why::CutOff => assert!(!self.connected && *input == Input::Tick),
            Why::HealthFailed => assert!(self.failed && *input == Input::Tick),
            Why::DidNotStayUp => assert_eq!(*input, Input::Restarted),
        }
        self.refused.push(told.edition);
    }

    fn restart(&mut self) {
        let bytes = self.disk.clone();
        self.twin = bytes.map_or_else(Twin::default, |bytes| serde_json::from_slice(&bytes).expect("it is read"));
        (self.uptime, self.connected, self.failed, self.met) = (Duration::ZERO, false, false, false);
        self.uses = self.twin.in_force().cloned();
        self.input(Input::Restarted);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Offer { version, content, line, restart } => {
                let edition = Edition::of_document(Version::Number(version), format!("c{content}"));
                let refused = self.refused.contains(&edition);
                let before = self.uses.clone();
                let reach = Reach { line, restart };
                let effects = self.input(Input::Offered { edition: edition.clone(), reach, period: PERIOD });
                let held = before.as_ref().is_some_and(|now| {
                    now.version == edition.version
                        && *now.rotated.as_ref().unwrap_or(&now.fingerprint) == edition.fingerprint
                });
                if held {
                    assert_eq!(
                        self.uses, before,
                        "what holds is not undone by its own repetition, nor are keys over it"
                    );
                    assert_eq!(effects, [Effect::Tell]);
                } else if refused {
                    assert_eq!(self.uses, before, "what was rolled back is not taken again");
                    assert!(matches!(effects[..], [Effect::Refuse(_)]));
                } else {
                    assert_eq!(self.uses, Some(edition));
                }
            }
            Step::Rotate { keys, line } => {
                let document = self.uses.as_ref().map(|now| now.rotated.as_ref().unwrap_or(&now.fingerprint).clone());
                let version = self.uses.as_ref().map_or(Version::File, |now| now.version.clone());
                let document = document.unwrap_or_default();
                let edition = self.twin.with_keys(format!("{document}+k{keys}"));
                assert_eq!((&edition.version, edition.rotated.as_ref()), (&version, Some(&document)));
                let reach = Reach { line, restart: false };
                self.input(Input::Offered { edition: edition.clone(), reach, period: PERIOD });
                assert_eq!(self.uses, Some(edition), "a command is always taken, and lies over what held");
            }
            Step::Connect(true) => {
                (self.connected, self.met) = (true, true);
                self.input(Input::Connected);
            }
            Step::Connect(false) => {
                self.connected = false;
                self.input(Input::Disconnected);
            }
            Step::Fail(failed) => {
                self.failed = failed;
                self.input(Input::Health { failed });
            }
            Step::Wait(seconds) => {
                self.uptime += Duration::from_secs(seconds);
                self.input(Input::Tick);
            }
            Step::Restart => self.restart(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn promises_hold_on_every_walk(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::default();
        world.input(Input::Restarted);
        for step in steps {
            world.step(step);
        }
        // whatever was going on, a start and the length of a trial end it, or twelve where only the line is away
        world.restart();
        for _ in 0..12 {
            world.uptime += PERIOD;
            world.input(Input::Tick);
        }
        prop_assert!(world.twin.trial().is_none(), "a trial ends");
    }
}
