//! The reduced state of the appliance: each part says how it is, and all of it becomes one `Summary`, and the `Facts` that
//! lights show.
//!
//! Owns: the parts' last words. Must not touch: actions; it reports, never repairs.
//! Law: the summary is a pure function of the words; whoever shows it (door, lamps, operators) shows the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::lamps::{Facts, Stage};

/// What one part says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    Ok,
    Degraded(String),
    Failed(String),
}

/// The box in one word, with reasons.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Summary {
    #[default]
    Starting,
    Idle,
    Recording,
    Degraded(Vec<String>),
    Failed(Vec<String>),
    Stopping,
}

#[derive(Debug, Default)]
struct State {
    started: bool,
    stopping: bool,
    recording: bool,
    words: BTreeMap<&'static str, Word>,
    /// As it was told; what follows from words and life is put in when it is asked for.
    facts: Facts,
}

impl State {
    fn summary(&self) -> Summary {
        if self.stopping {
            return Summary::Stopping;
        }
        let failed: Vec<String> = (self.words.iter())
            .filter(|(_, word)| matches!(word, Word::Failed(_)))
            .map(|(part, word)| word.with(part))
            .collect();
        if !failed.is_empty() {
            return Summary::Failed(failed);
        }
        if !self.started {
            return Summary::Starting;
        }
        let degraded: Vec<String> = (self.words.iter())
            .filter(|(_, word)| matches!(word, Word::Degraded(_)))
            .map(|(part, word)| word.with(part))
            .collect();
        if !degraded.is_empty() {
            return Summary::Degraded(degraded);
        }
        if self.recording { Summary::Recording } else { Summary::Idle }
    }

    fn facts(&self) -> Facts {
        let degraded = |part: &&str| matches!(self.words.get(part), Some(Word::Degraded(_)));
        // what a light of its own shows, or a state of its own, the power light does not repeat as "attention"
        let Facts { silent, blind, unwritten, disk_low, .. } = self.facts;
        let shown = |part: &str| match part {
            "upload" => true,
            "alarm" => silent || blind || unwritten,
            "disk" => disk_low,
            _ => false,
        };
        let mut parts = self.words.keys().copied();
        Facts {
            stage: match (self.stopping, self.started) {
                (true, _) => Stage::Stopping,
                (false, true) => Stage::Running,
                (false, false) => Stage::Starting,
            },
            failed: self.words.values().any(|word| matches!(word, Word::Failed(_))),
            degraded: parts.any(|part| degraded(&part) && !shown(part)),
            unreachable: degraded(&"upload"),
            ..self.facts
        }
    }
}

impl Word {
    fn with(&self, part: &str) -> String {
        match self {
            Word::Ok => part.to_owned(),
            Word::Degraded(why) | Word::Failed(why) => format!("{part}: {why}"),
        }
    }
}

/// A part's line to the summary. Cloned freely.
#[derive(Debug, Clone)]
pub struct Reporter {
    state: Arc<Mutex<State>>,
    summary: watch::Sender<Summary>,
    facts: watch::Sender<Facts>,
}

impl Default for Reporter {
    fn default() -> Self {
        Reporter {
            state: Arc::default(),
            summary: watch::Sender::new(Summary::Starting),
            facts: watch::Sender::new(Facts::default()),
        }
    }
}

impl Reporter {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let (summary, facts) = {
            // A panic of another part while it spoke leaves words that are still words.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state);
            (state.summary(), state.facts())
        };
        self.facts.send_if_modified(|current| std::mem::replace(current, facts) != facts);
        self.summary.send_if_modified(|current| {
            let changed = *current != summary;
            if changed {
                tracing::info!(from = ?current, to = ?summary, "health");
                *current = summary;
            }
            changed
        });
    }

    pub fn ok(&self, part: &'static str) {
        self.change(|state| drop(state.words.insert(part, Word::Ok)));
    }

    pub fn degraded(&self, part: &'static str, why: impl Into<String>) {
        self.change(|state| drop(state.words.insert(part, Word::Degraded(why.into()))));
    }

    pub fn failed(&self, part: &'static str, why: impl Into<String>) {
        self.change(|state| drop(state.words.insert(part, Word::Failed(why.into()))));
    }

    pub fn recording(&self, recording: bool) {
        self.change(|state| state.recording = recording);
    }

    /// What lights show and no word says: what the recordings are at, `disk_low`, `updating`, the alarms, what the upload is at. The rest of it follows
    /// from the words.
    pub fn tell(&self, tell: impl FnOnce(&mut Facts)) {
        self.change(|state| tell(&mut state.facts));
    }

    /// Whether media is being written; a box that is not well may record all the same.
    pub fn is_recording(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).recording
    }

    pub fn started(&self) {
        self.change(|state| state.started = true);
    }

    pub fn stopping(&self) {
        self.change(|state| state.stopping = true);
    }

    pub fn summary(&self) -> Summary {
        self.summary.borrow().clone()
    }

    /// For whoever shows it: wakes at each change.
    pub fn watch(&self) -> watch::Receiver<Summary> {
        self.summary.subscribe()
    }

    /// For the lights: wakes at each change.
    pub fn facts(&self) -> watch::Receiver<Facts> {
        self.facts.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lamps::Recording;

    #[test]
    fn the_worst_word_is_the_summary_and_it_heals() {
        let health = Reporter::default();
        assert_eq!(health.summary(), Summary::Starting);
        health.started();
        assert_eq!(health.summary(), Summary::Idle);
        health.recording(true);
        assert_eq!(health.summary(), Summary::Recording);
        health.degraded("upload", "destination unreachable");
        health.failed("spool", "disk failed");
        assert_eq!(health.summary(), Summary::Failed(vec!["spool: disk failed".into()]));
        health.ok("spool");
        assert_eq!(health.summary(), Summary::Degraded(vec!["upload: destination unreachable".into()]));
        health.ok("upload");
        assert_eq!(health.summary(), Summary::Recording);
        health.stopping();
        assert_eq!(health.summary(), Summary::Stopping);
    }
    #[test]
    fn lights_know_what_has_a_light_of_its_own() {
        let health = Reporter::default();
        let facts = health.facts();
        let now = || *facts.borrow();
        assert_eq!(now(), Facts::default());
        health.started();
        health.tell(|facts| facts.recording = Recording::Waiting);
        assert_eq!(now(), Facts { stage: Stage::Running, recording: Recording::Waiting, ..Facts::default() });
        let well = now();
        health.degraded("upload", "bucket b: AccessDenied");
        assert_eq!(now(), Facts { unreachable: true, ..well });
        health.ok("upload");
        health.degraded("alarm", "packets are lost");
        assert_eq!(now(), Facts { degraded: true, ..well });
        health.tell(|facts| facts.silent = true);
        assert_eq!(now(), Facts { silent: true, ..well });
        health.ok("alarm");
        health.tell(|facts| facts.silent = false);
        health.degraded("disk", "it failed before");
        assert_eq!(now(), Facts { degraded: true, ..well });
        health.tell(|facts| facts.disk_low = true);
        assert_eq!(now(), Facts { disk_low: true, ..well });
        health.failed("disk", "it is full");
        assert_eq!(now(), Facts { disk_low: true, failed: true, ..well });
        health.stopping();
        assert_eq!(now().stage, Stage::Stopping);
    }
}
