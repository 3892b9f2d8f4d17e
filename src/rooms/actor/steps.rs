//! What follows from steps: what is to be kept is committed, then the rest is done.
//!
//! Owns: which steps share a commit, what the index refused. Must not touch: what a step decides (the task does), how its
//! effects are done.
//! Law: the saves and announcements of one step are one commit, made before anything else of that step is done; steps
//! that wait side by side share it. What has not changed is not written.

use super::*;

/// Steps that share a commit.
pub(super) const AT_ONCE: usize = 64;

impl Actor {
    pub(super) async fn drain(&mut self) {
        while !self.queue.is_empty() {
            let mut steps = Vec::new();
            while steps.len() < AT_ONCE
                && let Some((id, input)) = self.queue.pop_front()
            {
                let now = self.now();
                let Some(running) = self.tasks.get_mut(&id) else { continue };
                let effects = running.task.apply(input, now);
                steps.push((id, effects));
            }
            self.perform_all(steps).await;
        }
    }

    pub(super) async fn save(&mut self, id: &TaskId) {
        self.save_with(BTreeSet::from([id.clone()]), BTreeMap::new()).await;
    }

    /// Commits `writes` and the tasks as they are now; what their folders say of them follows.
    async fn save_with(&mut self, ids: BTreeSet<TaskId>, mut writes: BTreeMap<String, Option<Vec<u8>>>) {
        let shapes: Vec<(TaskId, String)> =
            ids.into_iter().filter_map(|id| self.write_down(&id, &mut writes).map(|shape| (id, shape))).collect();
        self.commit(writes).await;
        for (id, shape) in shapes {
            self.redescribe(&id, shape);
        }
    }

    /// Adds the task's record, if it has changed. Gives its shape, if that has.
    fn write_down(&mut self, id: &TaskId, writes: &mut BTreeMap<String, Option<Vec<u8>>>) -> Option<String> {
        let running = self.tasks.get_mut(id)?;
        let shape = running.task.take_shape();
        let record = to_bytes(&running.task);
        if record != running.saved {
            running.saved.clone_from(&record);
            writes.insert(records::task_key(id), Some(record));
        }
        Some(shape?.to_text())
    }

    pub(super) fn redescribe(&mut self, id: &TaskId, shape: String) {
        if let Err(e) = self.parts.spool.redescribe_task(id, shape.clone()) {
            error!(task = %id, error = %e, "the shelf does not take what a task has become; it is asked again");
            self.undescribed.insert(id.clone(), shape);
        } else {
            self.undescribed.remove(id);
        }
    }

    /// One commit of `writes` and of what was refused before. A refusal is kept for the next one: the files on the
    /// disk are the truth, and recording goes on.
    pub(super) async fn commit(&mut self, writes: BTreeMap<String, Option<Vec<u8>>>) {
        self.unsaved.extend(writes);
        if self.unsaved.is_empty() {
            return;
        }
        let mut batch = Batch::new();
        for (key, value) in &self.unsaved {
            batch = match value {
                Some(bytes) => batch.put(key.clone(), bytes.clone()),
                None => batch.delete(key.clone()),
            };
        }
        match self.parts.store.commit(batch).await {
            Ok(()) => {
                self.unsaved.clear();
                self.parts.health.ok("store");
            }
            Err(e) => {
                error!(error = %e, waiting = self.unsaved.len(), "the index refuses writes");
                self.index_refused(&e);
                self.parts.health.degraded("store", "the index refuses writes");
            }
        }
    }

    pub(super) async fn perform(&mut self, id: &TaskId, effects: Vec<Effect>) {
        self.perform_all(vec![(id.clone(), effects)]).await;
    }

    /// What follows from several steps, in their order.
    async fn perform_all(&mut self, steps: Vec<(TaskId, Vec<Effect>)>) {
        self.pause_lanes(steps.iter().flat_map(|(_, effects)| effects));
        let mut writes = BTreeMap::new();
        let (mut changed, mut announced) = (BTreeSet::new(), false);
        for (id, effects) in &steps {
            let reshaped = self.tasks.get(id).is_some_and(|running| running.task.is_reshaped());
            if !effects.is_empty() || reshaped {
                changed.insert(id.clone());
            }
        }
        if changed.is_empty() {
            return;
        }
        self.recorded.is_stale();
        for (id, effect) in steps.iter().flat_map(|(id, effects)| effects.iter().map(move |effect| (id, effect))) {
            if let Effect::SavePiece(piece) = effect {
                writes.insert(records::segment_key(id, &piece.object), Some(to_bytes(piece)));
                // The shelf's entry goes in the commit that notes its fate, so that no crash hides the news.
                if matches!(piece.fate, PieceFate::Uploaded | PieceFate::Lost) {
                    writes.insert(records::spool_key(id, &piece.object), None);
                }
            }
            if let Effect::PackageSettled { object } = effect {
                writes.insert(records::spool_key(id, object), None);
            }
            let told = outbox_records(effect, self.mirrors());
            announced |= !told.is_empty();
            writes.extend(told.into_iter().map(|(key, bytes)| (key, Some(bytes))));
        }
        crash::point("rooms.decided");
        self.save_with(changed, writes).await;
        crash::point("rooms.committed");
        if announced {
            self.tell_news();
        }
        for (id, effects) in steps {
            for effect in effects {
                self.act(&id, effect).await;
            }
        }
        crash::point("rooms.acted");
    }
}
