//! The reduced state of the appliance: each part says how it is, and all of it becomes one `Summary`.
//!
//! Owns: the parts' last words. Must not touch: actions; it reports, never repairs.
//! Law: the summary is a pure function of the words; whoever shows it (door, lamps, operators) shows the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

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
}

impl Default for Reporter {
    fn default() -> Self {
        Reporter { state: Arc::default(), summary: watch::Sender::new(Summary::Starting) }
    }
}

impl Reporter {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let summary = {
            // A panic of another part while it spoke leaves words that are still words.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state);
            state.summary()
        };
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
