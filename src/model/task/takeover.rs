//! A task after the box failed: what becomes of it, when it is taken up again, and how often.
//!
//! Owns: `restore` and what follows from it. Must not touch: what lies on the disk; it is told.
//! Law: a life in which something was recorded is one of three; one in which nothing was, is not. Between two of them
//! there is a wait that grows, so that a crash loop neither uses up the three nor takes the other tasks' time.
//! Sources: RECORDING.md §11.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Effect, Phase, Policy, RecordingTask, SEGMENT_LOST};
use crate::model::Timestamp;
use crate::model::event::{EventBody, LeaveCode};
use crate::model::output::Output;
use crate::model::piece::{Piece, PieceFate};

/// How often a task is taken up again after the box failed (RECORDING.md §11).
pub const TAKEOVERS: u8 = 3;

/// The waits before the first, the second, and the third and every later one, each counted since the one before began.
pub const WAITS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(30), Duration::from_secs(120)];

/// So many times in a row a lane may begin and leave nothing behind. Then it is the task that brings the box down.
const FRUITLESS: u32 = 10;

/// The last time that a task was taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TookUp {
    pub(super) at: Timestamp,
    /// How often so far, those that do not count included.
    times: u32,
    /// Those in a row in which a lane began and nothing was recorded.
    fruitless: u32,
    /// The task's next run at that time, or when this one was found fruitless.
    next_run: u32,
}

impl RecordingTask {
    /// A task out of the index after the process died. Pieces that the spool adopts come as `SegmentClosed` afterwards
    /// and find their playlist by their run; [`settle_unfound`](Self::settle_unfound) then ends the recovery, and what
    /// becomes of the task is decided there.
    pub fn restore(mut self, pieces: Vec<Piece>, policy: Policy, now: Timestamp) -> (RecordingTask, Vec<Effect>) {
        self.policy = policy;
        self.recovering = true;
        // what the folder says was read before the index was set against it
        self.reshaped = true;
        for piece in pieces {
            self.remember(piece);
        }
        // A clock that is behind at this start makes no wait longer.
        self.created = self.created.min(now);
        let mut effects = Vec::new();
        match &mut self.phase {
            Phase::Active => self.idle_since = Some(now),
            Phase::Leaving { .. } => {}
            Phase::Draining { since } => *since = now.min(*since),
            Phase::Done => {
                effects.extend((self.spec.output != Output::Hls).then_some(Effect::LetGo));
                effects.push(Effect::Forget);
            }
        }
        if self.is_discarded() {
            // first of all, and to the very end: whatever is found of it goes when it is forgotten
            effects.insert(0, Effect::Withhold);
        }
        // A closed list that is not known to have arrived is published again: nobody else remembers it.
        for record in &mut self.records {
            record.closed = record.closed.filter(|closed| record.arrived >= *closed);
        }
        (self, effects)
    }

    /// After recovery: pieces that were on their way to the shelf and that it does not know, are lost. `known` says
    /// which (run, index) it has or has taken in anew. A task that was recording is held until it is taken up again
    /// (306, `ha<n>_` names); after the third time that it recorded, it has left.
    pub fn settle_unfound(&mut self, known: &BTreeSet<(u32, u32)>, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.recovering = false;
        if self.phase == Phase::Done {
            // what was held for packing may be gone already
            return effects;
        }
        if self.is_discarded() {
            return self.drive(now);
        }
        self.packing.settle();
        let lost: Vec<Piece> = (self.records.iter_mut())
            .flat_map(|record| record.pieces.values_mut())
            .filter(|piece| matches!(piece.fate, PieceFate::Closing | PieceFate::Spooled))
            .filter(|piece| !known.contains(&(piece.run, piece.index)))
            .map(|piece| {
                piece.fate = PieceFate::Lost;
                piece.clone()
            })
            .collect();
        for piece in lost {
            let message = format!("{} was not on the disk after a restart", piece.object);
            effects.push(self.announce(EventBody::UploadError { code: SEGMENT_LOST.into(), message }, now));
            effects.push(Effect::SavePiece(piece));
        }
        // The shelf may know of a piece's arrival by its journal alone, and then nothing more comes of that piece.
        let told_late: Vec<String> = (self.records.iter())
            .filter_map(|record| {
                let there = |piece: &&Piece| matches!(piece.fate, PieceFate::Spooled | PieceFate::Uploaded);
                record.pieces.values().find(there).map(|piece| piece.object.clone())
            })
            .collect();
        effects.extend(told_late.iter().filter_map(|object| self.first_slice(object, now)));
        // What was begun and left no piece is no file: nobody is shown it, and what comes has its own beginning.
        for record in self.records.iter_mut().filter(|record| record.pieces.is_empty()) {
            self.reshaped |= record.begin.take().is_some();
        }
        if self.phase == Phase::Active {
            if self.may_be_taken_up() {
                self.held_until = Some(now.plus(self.wait_left(now)));
            } else {
                self.leave(LeaveCode::TimedOut);
            }
        }
        effects.extend(self.drive(now));
        effects
    }

    fn may_be_taken_up(&mut self) -> bool {
        if self.has_recorded() {
            return self.takeover < TAKEOVERS;
        }
        let Some(took) = &mut self.took_up else { return true };
        if self.next_run > took.next_run {
            took.next_run = self.next_run;
            took.fruitless = took.fruitless.saturating_add(1);
            self.reshaped = true;
        }
        took.fruitless < FRUITLESS
    }

    /// Something was recorded since the task was last taken up, or created: objects of these names may exist.
    fn has_recorded(&self) -> bool {
        self.records.iter().any(|record| record.takeover == self.takeover && !record.pieces.is_empty())
    }

    fn wait_left(&self, now: Timestamp) -> Duration {
        let waits = self.policy.takeover_waits;
        let Some(took) = self.took_up else { return waits[0] };
        let wait = waits[(took.times as usize).min(waits.len() - 1)];
        wait.saturating_sub(now.since(took.at))
    }

    /// The wait is over: the task records again. Only what follows a life that recorded has a new number; another one
    /// goes on under the names that nobody has used.
    pub(super) fn take_up(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.held_until = None;
        let before = self.took_up;
        let counts = before.is_none() || self.has_recorded();
        self.took_up = Some(TookUp {
            at: now,
            times: before.map_or(0, |took| took.times).saturating_add(1),
            fruitless: before.filter(|_| !counts).map_or(0, |took| took.fruitless),
            next_run: self.next_run,
        });
        self.reshaped = true;
        if counts {
            self.takeover = self.takeover.saturating_add(1);
            effects.push(self.announce(EventBody::Failover, now));
        }
    }
}
