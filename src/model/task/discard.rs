//! Discard: a task goes with every byte of it.
//!
//! Owns: the order in which it goes, and the receipt. Must not touch: files, objects; who removes them is told.
//! Law: lanes die first, then what lies on the box goes, then what the destination has; nothing of it is shelved,
//! listed or packed any more (no 310 follows). Each step is asked for again after a restart until its word has come. 302
//! is told when nothing is left on the box, 305 when nothing is left anywhere.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::record::LiveState;
use super::{Effect, Phase, RecordingTask};
use crate::model::event::{EventBody, LeaveCode, Receipt};
use crate::model::fate::Fate;
use crate::model::piece::PieceFate;
use crate::model::{LaneRun, Timestamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// until no lane runs
    Ending,
    /// until the shelf has removed what it had
    Clearing,
    /// until the destination has nothing more
    Erasing,
}

/// That a task is discarded, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Discard {
    by: String,
    pub(super) at: Timestamp,
    stage: Stage,
    /// What the shelf has removed.
    files: u64,
    bytes: u64,
    /// What VOD made of files that were under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    media: Vec<String>,
}

impl RecordingTask {
    pub fn is_discarded(&self) -> bool {
        self.discard.is_some()
    }

    /// A task that has left already is discarded as well, while something of it is known.
    pub(super) fn begin_discard(&mut self, by: String, now: Timestamp) -> Vec<Effect> {
        if self.discard.is_some() || self.phase == Phase::Done {
            return Vec::new();
        }
        if self.phase == Phase::Active {
            self.leave(LeaveCode::Stopped);
        }
        for record in &mut self.records {
            (record.again_at, record.list_at) = (None, None);
        }
        self.discard = Some(Discard { by, at: now, stage: Stage::Ending, files: 0, bytes: 0, media: Vec::new() });
        self.reshaped = true;
        vec![Effect::Withhold]
    }

    /// Of a discarded task only this is heard: that it is gone, or why it cannot go yet.
    pub(super) fn fate_of_discarded(&mut self, fate: Fate, now: Timestamp) -> Vec<Effect> {
        let over = self.phase == Phase::Done;
        let Some(discard) = self.discard.as_mut().filter(|_| !over) else { return Vec::new() };
        match (fate, discard.stage) {
            (Fate::Cleared { files, bytes }, Stage::Clearing) => {
                // what a life before this one had removed is in its own word, which was not heard
                (discard.files, discard.bytes) = (discard.files.max(files), discard.bytes.max(bytes));
                discard.stage = Stage::Erasing;
                (self.discard_asked, self.reshaped) = (false, true);
                self.left_discarded(now)
            }
            (Fate::Erased { objects, bytes, uploads, media }, Stage::Erasing) => {
                let receipt = Receipt { objects, object_bytes: Some(bytes), uploads, media, ..self.receipt() };
                self.phase = Phase::Done;
                self.reshaped = true;
                vec![self.announce(EventBody::Erased { receipt }, now), Effect::Forget]
            }
            (Fate::UploadFailed { code, message }, _) => self.upload_failed(code, message, now),
            // it flew when the task was discarded: to be erased like the others
            (Fate::SegmentUploaded { object }, _) => self.arrived_all_the_same(&object),
            (Fate::PlaylistUploaded { object, version }, _) => {
                let list = self.records.iter_mut().find(|record| record.file_name == object);
                list.into_iter().for_each(|record| record.arrived = record.arrived.max(version));
                Vec::new()
            }
            (Fate::PackageUploaded { object }, _) => self.package_uploaded(&object),
            (Fate::VodCommitted { object, media }, _) => {
                discard.media.push(media.file_id);
                self.package_uploaded(&object)
            }
            _ => Vec::new(),
        }
    }

    fn arrived_all_the_same(&mut self, object: &str) -> Vec<Effect> {
        let Some((at, key)) = self.objects.get(object).copied() else { return Vec::new() };
        let Some(piece) = self.records[at].pieces.get_mut(&key) else { return Vec::new() };
        piece.fate = PieceFate::Uploaded;
        vec![Effect::SavePiece(piece.clone())]
    }

    /// 302, unless it was told before the discard.
    fn left_discarded(&mut self, now: Timestamp) -> Vec<Effect> {
        let Phase::Leaving { code } = self.phase else { return Vec::new() };
        self.phase = Phase::Draining { since: now };
        let receipt = self.receipt();
        vec![self.announce(EventBody::RecorderDiscarded { code, receipt }, now)]
    }

    /// What is known of what goes: `objects` are those that the destination has said it holds.
    fn receipt(&self) -> Receipt {
        let uploaded = |p: &&super::Piece| p.fate == PieceFate::Uploaded;
        let segments = self.records.iter().flat_map(|r| r.pieces.values()).filter(uploaded).count();
        let lists = self.records.iter().filter(|record| record.arrived > 0).count();
        let packed = self.packing.files().filter(|file| file.uploaded).count();
        let (by, at, files, bytes) = self.discard.as_ref().map_or_else(
            || (String::new(), self.created, 0, 0),
            |discard| (discard.by.clone(), discard.at, discard.files, discard.bytes),
        );
        let objects = (segments + lists + packed) as u64;
        Receipt { by, at, files, bytes, objects, object_bytes: None, uploads: 0, media: self.media() }
    }

    /// The FileIds that the task was told, each once.
    fn media(&self) -> Vec<String> {
        let told = self.told.iter().filter_map(|event| match &event.body {
            EventBody::VodCommit { media: Some(media), .. } => Some(&media.file_id),
            _ => None,
        });
        let flew = self.discard.iter().flat_map(|discard| &discard.media);
        told.chain(flew).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(super) fn drive_discard(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Done {
            return;
        }
        let until = now.plus(self.policy.kill_limit);
        for record in &mut self.records {
            let Some(live) = &mut record.live else { continue };
            let run = LaneRun { task: self.id.clone(), lane: record.lane.clone(), run: live.run };
            match live.state {
                LiveState::Running | LiveState::Finishing { .. } => {
                    live.state = LiveState::Killed { until };
                    effects.push(Effect::KillLane(run));
                }
                LiveState::Killed { until } if now >= until => {
                    record.live = None;
                    effects.push(Effect::Wedged(run));
                }
                LiveState::Killed { .. } => {}
            }
        }
        let ended = self.records.iter().all(|record| record.live.is_none());
        let lists = self.records.iter().map(|record| &record.file_name);
        let names = lists.chain(self.packing.names()).cloned().collect();
        let media = self.media();
        let Some(discard) = &mut self.discard else { return };
        if discard.stage == Stage::Ending && ended {
            discard.stage = Stage::Clearing;
            (self.discard_asked, self.reshaped) = (false, true);
        }
        if discard.stage != Stage::Ending && !std::mem::replace(&mut self.discard_asked, true) {
            effects.push(match discard.stage {
                Stage::Erasing => Effect::Erase { names, media },
                Stage::Ending | Stage::Clearing => Effect::Clear,
            });
        }
    }
}
