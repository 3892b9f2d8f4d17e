//! Pause and resume: a consultation's private minutes are in no file.
//!
//! Owns: when lanes stop taking and when they may begin again. Must not touch: media; who makes lanes is told.
//! Law: from the moment of the pause on no lane takes anything, whatever state it is in, and none begins before the
//! resume; a paused task stays paused over restarts; both are harmless when they are repeated.

use super::record::LiveState;
use super::{Effect, Phase, RecordingTask};
use crate::model::{LaneRun, Timestamp};

impl RecordingTask {
    pub fn is_paused(&self) -> bool {
        self.paused.is_some() && self.phase == Phase::Active
    }

    /// Lanes that are ending already are told, too: they take what comes until they are over.
    pub(super) fn pause(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.phase != Phase::Active || self.paused.is_some() {
            return Vec::new();
        }
        self.paused = Some(now);
        self.reshaped = true;
        let until = now.plus(self.policy.finish_limit);
        let mut effects = Vec::new();
        for record in &mut self.records {
            record.merge_since = None;
            let Some(live) = &mut record.live else { continue };
            if live.state == LiveState::Running {
                live.state = LiveState::Finishing { until };
            }
            effects.push(Effect::PauseLane(LaneRun {
                task: self.id.clone(),
                lane: record.lane.clone(),
                run: live.run,
            }));
        }
        effects
    }

    pub(super) fn resume(&mut self) {
        if self.phase == Phase::Active && self.paused.take().is_some() {
            self.reshaped = true;
        }
    }
}
