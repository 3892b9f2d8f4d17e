//! What the rooms do about the disk: tasks are refused, or end, as it stands.
//!
//! Owns: the words about the disk, to callers and to health. Must not touch: how much room there is, and what goes to
//! make more (`spool` watches it).
//! Law: on a disk that is full or fails nothing pretends to be recording: every running task ends (302 with LeaveCode 3)
//! with what could be saved of it.

use super::*;
use crate::model::disk::Level;
use crate::spool::Standing;

impl Actor {
    /// Ends what cannot go on, and says why.
    pub(super) fn disk_stands(&mut self, standing: &Standing) {
        self.tell_disk(standing);
        if !standing.ends_tasks() {
            return;
        }
        let active = self.tasks.values().filter(|r| r.task.phase == Phase::Active).map(|r| r.task.id.clone());
        let active: Vec<TaskId> = active.collect();
        if !active.is_empty() {
            error!(tasks = active.len(), failed = ?standing.failed, "the disk takes nothing more: recordings end");
        }
        self.queue.extend(active.into_iter().map(|id| (id, Input::Stop(LeaveCode::RemovedByServer))));
    }

    fn tell_disk(&self, standing: &Standing) {
        let health = &self.parts.health;
        let Standing { level, space, dropped, .. } = standing;
        health.tell(|facts| facts.disk_low = standing.full || *level != Level::Roomy);
        if let Some(why) = &standing.failed {
            health.failed("disk", format!("it fails ({why}); nothing is recorded"));
        } else if standing.full {
            health.failed("disk", format!("it is full ({space}); nothing is recorded"));
        } else if standing.refuses {
            health.degraded("disk", format!("it is nearly full ({space}); no new recordings are taken"));
        } else if *level != Level::Roomy {
            health.degraded("disk", format!("it is nearly full ({space}); the oldest segments are given up"));
        } else if *dropped > 0 {
            health.degraded("disk", format!("{dropped} segments were given up to make room"));
        } else if let Some(why) = &standing.failed_before {
            health.degraded("disk", format!("it failed ({why}) and works again; have it looked at"));
        } else {
            health.ok("disk");
        }
    }

    /// Whether the disk lets a new task begin.
    pub(super) fn disk_takes_tasks(&self) -> Result<(), Error> {
        let standing = self.parts.spool.standing();
        let standing = standing.borrow();
        match &standing.failed {
            Some(why) => Err(Error::DiskFailed(why.clone())),
            None if standing.takes_tasks() => Ok(()),
            None => Err(Error::DiskFull(standing.space.to_string())),
        }
    }

    /// The index refused a commit, perhaps because of the disk.
    pub(super) fn index_refused(&self, error: &crate::store::Error) {
        if let Some(fault) = error.fault() {
            self.parts.spool.report(fault, &error.to_string());
        }
    }
}
