//! Packing, as far as the rooms have to do with it: it is asked for, and its answer comes like any other fate.
//!
//! Owns: the line to the packer. Must not touch: when a task packs, and what (it decides).
//! Law: a task that could not ask asks again.

use super::*;
use crate::model::package::Order;

impl Actor {
    pub(super) fn pack(&mut self, id: &TaskId, order: Order) {
        let Some(running) = self.tasks.get(id) else { return };
        let (told, task) = (self.parts.fates.clone(), id.clone());
        let done = move |packed| {
            // nobody listens any more only while the process ends; after the next start it is asked again
            let _ = told.blocking_send((task, Fate::Packaged(packed)));
        };
        let (dir, vault) = (running.dir.clone(), self.parts.spool.vault().clone());
        if let Err(e) = self.parts.packer.plan(id, dir, vault, order.clone(), done) {
            warn!(task = %id, error = %e, "packing waits");
            self.unshelved.push((id.clone(), Effect::Package(order)));
        }
    }
}
