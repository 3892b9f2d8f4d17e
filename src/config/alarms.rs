//! `[alarms]`: from when on something that is wrong with a running recording is told.
//!
//! Owns: the table, its defaults and faults. Must not touch: how it is found out, who is told.
//! Law: 0 switches an alarm off; whatever stands here, no alarm ends a recording.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::alarm::Limits;

/// The longest time that may stand here: a day.
const LONGEST: u64 = 86_400;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alarms {
    pub silent_seconds: u64,
    pub black_seconds: u64,
    pub frozen_seconds: u64,
    pub nothing_written_seconds: u64,
    pub loss_percent: u32,
    pub loss_seconds: u64,
    pub drift_ms: u64,
    /// Sound that is no louder is silence; decibels of full scale.
    pub quietest_dbfs: i32,
    /// Who sends nothing at all is silent, and frozen, too.
    pub muted: bool,
}

impl Default for Alarms {
    fn default() -> Self {
        Alarms {
            silent_seconds: 120,
            black_seconds: 60,
            frozen_seconds: 60,
            nothing_written_seconds: 30,
            loss_percent: 5,
            loss_seconds: 60,
            drift_ms: 200,
            quietest_dbfs: -60,
            muted: false,
        }
    }
}

impl Alarms {
    pub fn limits(&self) -> Limits {
        Limits {
            silent: Duration::from_secs(self.silent_seconds),
            black: Duration::from_secs(self.black_seconds),
            frozen: Duration::from_secs(self.frozen_seconds),
            nothing_written: Duration::from_secs(self.nothing_written_seconds),
            loss_percent: self.loss_percent,
            loss_over: Duration::from_secs(self.loss_seconds),
            drift: Duration::from_millis(self.drift_ms),
            muted: self.muted,
        }
    }

    /// How often pictures must be looked at for these limits; `None`: not at all.
    pub fn picture_every(&self) -> Option<Duration> {
        let shortest = [self.black_seconds, self.frozen_seconds].into_iter().filter(|seconds| *seconds > 0).min()?;
        Some(Duration::from_secs((shortest / 6).clamp(1, 10)))
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, value, low, high) in [
            ("silent_seconds", self.silent_seconds, 0, LONGEST),
            ("black_seconds", self.black_seconds, 0, LONGEST),
            ("frozen_seconds", self.frozen_seconds, 0, LONGEST),
            ("nothing_written_seconds", self.nothing_written_seconds, 0, LONGEST),
            ("loss_percent", self.loss_percent.into(), 0, 100),
            ("loss_seconds", self.loss_seconds, 1, 3600),
            ("drift_ms", self.drift_ms, 0, 60_000),
        ] {
            if !(low..=high).contains(&value) {
                faults.push(format!("alarms.{name} must be {low} to {high}, not {value}"));
            }
        }
        if !(-90..=0).contains(&self.quietest_dbfs) {
            faults.push(format!("alarms.quietest_dbfs must be -90 to 0, not {}", self.quietest_dbfs));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn every_fault_is_named() {
        let bad = "[alarms]\nblack_seconds = 86401\nloss_percent = 101\nloss_seconds = 0\nquietest_dbfs = 3\n";
        let told = Config::parse(bad).expect_err("four faults").to_string();
        assert_eq!(
            told.lines().collect::<Vec<_>>(),
            [
                "alarms.black_seconds must be 0 to 86400, not 86401",
                "alarms.loss_percent must be 0 to 100, not 101",
                "alarms.loss_seconds must be 1 to 3600, not 0",
                "alarms.quietest_dbfs must be -90 to 0, not 3",
            ]
        );
    }

    #[test]
    fn pictures_are_looked_at_as_often_as_the_shortest_limit_needs() {
        let every = |black_seconds, frozen_seconds| {
            Alarms { black_seconds, frozen_seconds, ..Alarms::default() }.picture_every().map(|every| every.as_secs())
        };
        assert_eq!([every(60, 60), every(3, 60), every(0, 24), every(0, 0)], [Some(10), Some(1), Some(4), None]);
    }
}
