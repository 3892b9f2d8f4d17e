//! Rooms that are recorded without anybody asking for it.
//!
//! Owns: which rooms came to be while it was switched on, and have no recording yet. Must not touch: what is recorded
//! (the template's and the task's).
//! Law: a room has one automatic recording at most: one that is running is never joined by a second, and one that was
//! ended by a call is not begun again while somebody is in the room. What cannot be begun now is told, and tried again
//! while the room lasts.
//! Source: RECORDING.md §9.

use super::*;
use crate::model::template::{RECORDER, Template};

/// A recording that could not be begun is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);

pub(super) struct Automatic {
    template: Option<Template>,
    /// Created while it was switched on; nobody has published in them yet.
    waiting: BTreeSet<RoomKey>,
    /// Those of them that could not be begun.
    failed: BTreeSet<RoomKey>,
    next_try: Instant,
}

impl Automatic {
    pub(super) fn new(template: Option<Template>) -> Automatic {
        Automatic { template, waiting: BTreeSet::new(), failed: BTreeSet::new(), next_try: Instant::now() }
    }

    fn forget(&mut self, room: &RoomKey) {
        self.waiting.remove(room);
        self.failed.remove(room);
    }

    /// How long until something is tried again.
    pub(super) fn wait(&self) -> Option<Duration> {
        (!self.failed.is_empty()).then(|| self.next_try.saturating_duration_since(Instant::now()))
    }
}

impl Actor {
    /// Another template, or none, from now on: for rooms that come to be. What runs goes on to its end.
    pub(super) fn set_template(&mut self, template: Option<Template>) {
        info!(on = template.is_some(), changed = self.automatic.template != template, "automatic recording");
        if template.is_none() {
            self.automatic.waiting.clear();
            self.automatic.failed.clear();
        }
        self.automatic.template = template;
        self.tell_automatic(None);
    }

    pub(super) fn room_came_to_be(&mut self, room: &RoomKey) {
        if self.automatic.template.as_ref().is_some_and(|template| template.takes(room)) {
            self.automatic.waiting.insert(room.clone());
        }
    }

    pub(super) fn room_is_gone(&mut self, room: &RoomKey) {
        self.automatic.forget(room);
        self.tell_automatic(None);
    }

    /// Somebody publishes in the room: what should be recorded of itself is.
    pub(super) async fn record_of_itself(&mut self, room: &RoomKey) {
        if self.stopping || !self.automatic.waiting.contains(room) {
            return;
        }
        let Some(template) = self.automatic.template.clone() else { return };
        let there = self.rooms.get(room).map(Room::presences).unwrap_or_default();
        if !there.iter().flat_map(|presence| presence.tracks.keys()).any(|kind| template.wants(*kind)) {
            return;
        }
        // of a life before this one, or of the same people a moment ago
        if !self.tasks_in(room, |task| task.spec.recorder.as_str() == RECORDER).is_empty() {
            self.automatic.forget(room);
            return;
        }
        match self.create(template.spec(room), template.keys, Secret::new("")).await {
            Ok(task) => {
                info!(%task, %room, "recorded of itself");
                metrics::counter!("holdfast_automatic_tasks_total").increment(1);
                self.automatic.forget(room);
                self.tell_automatic(None);
            }
            Err(error) => {
                error!(%room, %error, "a room that should be recorded of itself is not; it is tried again");
                metrics::counter!("holdfast_automatic_failures_total").increment(1);
                self.automatic.failed.insert(room.clone());
                self.automatic.next_try = Instant::now() + AGAIN;
                self.tell_automatic(Some(error.to_string()));
            }
        }
    }

    /// What could not be begun is tried again.
    pub(super) async fn try_automatic_again(&mut self) {
        if self.automatic.wait() != Some(Duration::ZERO) {
            return;
        }
        let failed: Vec<RoomKey> = self.automatic.failed.iter().cloned().collect();
        for room in failed {
            self.record_of_itself(&room).await;
        }
    }

    fn tell_automatic(&self, why: Option<String>) {
        match why {
            Some(why) => {
                self.parts.health.degraded("automatic", format!("a room is not recorded though it should be: {why}"));
            }
            None if self.automatic.failed.is_empty() => self.parts.health.ok("automatic"),
            None => {}
        }
    }
}
