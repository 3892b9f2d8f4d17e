//! Calls that the cloud does not have: pause, resume, discard.
//!
//! Owns: the moment at which a pause begins and ends. Must not touch: what follows from it (the task's).
//! Law: the answer to a pause comes after lanes were told and the index has it: whoever has it may speak freely.

use super::*;
use crate::model::event::Event;

/// What went of a discarded task, for whoever has to prove it.
pub(super) fn tell_receipt(event: &Event) {
    let Some(receipt) = event.body.receipt() else { return };
    let (event_type, task, room) = (event.body.event_type(), &event.task, &event.room);
    info!(
        %task, ?room, event = event_type, by = receipt.by, asked_ms = receipt.at.ms(), files = receipt.files,
        bytes = receipt.bytes, objects = receipt.objects, object_bytes = ?receipt.object_bytes, uploads = receipt.uploads,
        file_ids = ?receipt.media,
        "a recording is discarded"
    );
}

impl Actor {
    /// Both are harmless when the task is as it should be already.
    pub(super) async fn pause(&mut self, app: SdkAppId, id: &TaskId, pause: bool) -> Result<(), Error> {
        self.modifiable(app, id, false)?;
        let now = self.parts.media_clock.now();
        let input = match pause {
            true => Input::Pause,
            false => Input::Resume,
        };
        if let Some(running) = self.tasks.get_mut(id)
            && running.task.is_paused() != pause
        {
            info!(task = %id, pause, "the recording pauses, or goes on");
            if !pause {
                running.from = now;
            }
        }
        self.queue.push_back((id.clone(), input));
        self.drain().await;
        self.save(id).await;
        if pause {
            self.written_down().await;
        }
        self.reconcile_task(id).await;
        match self.unsaved.is_empty() {
            true => Ok(()),
            // what is paused must be paused after a crash, too: the caller is told to ask again
            false => Err(Error::Store("what was asked is done, and could not be written down yet".into())),
        }
    }

    /// Ends a task, running or not, and lets every byte of it go.
    pub(super) async fn discard(&mut self, app: SdkAppId, id: &TaskId, by: String) -> Result<(), Error> {
        let running = self.tasks.get(id).filter(|running| running.task.spec.app == app).ok_or(Error::TaskUnknown)?;
        if running.task.phase == Phase::Done {
            return Err(Error::TaskUnknown);
        }
        if self.now().since(running.task.created) > running.task.spec.call_expiry {
            return Err(Error::CallsExpired);
        }
        self.queue.push_back((id.clone(), Input::Discard { by }));
        self.drain().await;
        self.save(id).await;
        self.written_down().await;
        match self.unsaved.is_empty() {
            true => Ok(()),
            false => Err(Error::Store("what was asked is begun, and could not be written down yet".into())),
        }
    }

    /// What is private must be so for a start that has lost its index, too: the answer waits for the folder's word.
    async fn written_down(&self) {
        if let Err(e) = self.parts.spool.drained().await {
            error!(error = %e, "what was asked is not in the task's folder yet");
        }
    }

    /// Nothing of a discarded task is shelved, packed or carried any more.
    pub(super) fn withhold(&mut self, id: &TaskId) {
        let stays = |effect: &Effect| matches!(effect, Effect::Announce(_) | Effect::Clear | Effect::Erase { .. });
        self.unshelved.retain(|(task, effect)| task != id || stays(effect));
        self.parts.packer.give_up(id);
        self.parts.spool.withhold(id);
    }

    /// Before anything is saved, and at one moment for all lanes of a task: what comes while the disk works is not
    /// recorded any more.
    pub(super) fn pause_lanes<'a>(&self, effects: impl Iterator<Item = &'a Effect>) {
        let until = self.parts.media_clock.now();
        for effect in effects {
            if let Effect::PauseLane(run) = effect {
                self.parts.engine.pause_lane(run, until);
            }
        }
    }
}
