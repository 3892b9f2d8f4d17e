//! What the rooms tell of themselves: gauges, and parts that are in trouble.
//!
//! Owns: the figures of rooms and tasks. Must not touch: anything that decides.
//! Law: every figure follows from what there is now.

use super::*;

impl Actor {
    /// Whether the operators hear of events, too.
    pub(super) fn mirrors(&self) -> bool {
        self.parts.mirror.is_some()
    }

    /// To those who carry events away.
    pub(super) fn tell_news(&self) {
        self.parts.outbox.notify_one();
        if let Some(mirror) = &self.parts.mirror {
            mirror.notify_one();
        }
    }

    /// A part is well when no lane that runs says otherwise of it.
    pub(super) fn tell_troubles(&self) {
        self.parts.packer.press(self.troubles.values().any(|of_part| !of_part.is_empty()));
        for (part, of_part) in &self.troubles {
            match of_part.values().next() {
                Some(why) => self.parts.health.degraded(part, why.as_str()),
                None => self.parts.health.ok(part),
            }
        }
    }

    pub(super) fn tell_gauges(&self) {
        let count = |n: usize| n as f64;
        let recording = |r: &&Running| matches!(r.task.phase, Phase::Active | Phase::Leaving { .. });
        let live: BTreeSet<TaskId> = self.tasks.values().filter(recording).map(|r| r.task.id.clone()).collect();
        let tasks = live.len();
        self.parts.spool.tell_live(live);
        let lanes: usize = self.tasks.values().map(|r| r.task.lanes_running()).sum();
        metrics::gauge!("holdfast_rooms").set(count(self.rooms.len()));
        metrics::gauge!("holdfast_sessions").set(count(self.sessions.len()));
        metrics::gauge!("holdfast_tasks").set(count(tasks));
        metrics::gauge!("holdfast_tasks_draining").set(count(self.tasks.len() - tasks - self.ended.len()));
        self.parts.health.recording(lanes > 0);
    }
}
