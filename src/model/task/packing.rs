//! The job after the end: a task's segments are packed, and its files reach the destination.
//!
//! Owns: how far it is, the files, what is told of them (310; of VOD in `vod`). Must not touch: how files are made or sent.
//! Law: it begins when no segment can come any more, goes on where it was after a restart, and is over when the
//! destination has every file, or none could be made; each file goes up once, and what is announced is true. A file that
//! is up, or waits to go up, is never planned again: what is planned anew is what no such file holds, under other names.
//! Sources: RECORDING.md §6, §8 (310).

mod vod;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Effect, Policy, RecordingTask};
use crate::model::Timestamp;
use crate::model::bundle;
use crate::model::event::EventBody;
use crate::model::output::{Container, Limits};
use crate::model::package;
use crate::model::packed::{Packed, PackedFile};
use crate::model::piece::{Piece, PieceFate};
use crate::model::vod::{Committed, Which};

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    #[default]
    Unmade,
    /// The files are known.
    Made { at: Timestamp },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Packing {
    stage: Stage,
    /// Those that are up or wait on the shelf.
    files: Vec<PackedFile>,
    /// Names of others that were to be made once: something of them may be at the destination.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    dropped: BTreeSet<String>,
    /// 310's Status (of VOD 312's), as it was said last.
    told: Option<u8>,
    /// Of files that go to VOD, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    vod: BTreeMap<String, vod::Said>,
    /// Asked for in this life of the process, and not answered.
    #[serde(skip)]
    asked: bool,
    /// A plan was lost while others were asked for: what comes is not all.
    #[serde(skip)]
    broke: bool,
    /// Not before: the last try broke off.
    #[serde(skip)]
    again_at: Option<Timestamp>,
    /// Files whose plans wait on the shelf, as is known in this life.
    #[serde(skip)]
    here: Vec<String>,
    /// Files that VOD has, as the task's folder says.
    #[serde(skip)]
    known: Vec<Committed>,
}

impl Packing {
    pub(super) fn is_new(&self) -> bool {
        *self == Packing::default()
    }

    pub(super) fn deadline(&self, policy: &Policy) -> Option<Timestamp> {
        match self.stage {
            Stage::Unmade => self.again_at,
            Stage::Made { at } if self.told.is_none() => Some(at.plus(policy.grace)),
            Stage::Made { .. } => None,
        }
    }

    /// Moments that it waits for or counts from.
    pub(super) fn waits(&mut self) -> impl Iterator<Item = &mut Timestamp> {
        let made = match &mut self.stage {
            Stage::Made { at } => Some(at),
            Stage::Unmade => None,
        };
        made.into_iter().chain(&mut self.again_at)
    }

    /// After a restart: what a file should hold that is neither at the destination nor on the shelf is planned again.
    pub(super) fn settle(&mut self) {
        let here = &self.here;
        let gone = |file: &PackedFile| !file.uploaded && !here.contains(&file.object);
        let lost: Vec<String> = self.files.iter().filter(|file| gone(file)).map(|file| file.object.clone()).collect();
        lost.iter().for_each(|object| self.drop_plan(object));
    }

    /// The plan of a file is lost; it has not gone up.
    fn drop_plan(&mut self, object: &str) {
        self.files.retain(|file| file.object != *object);
        self.dropped.insert(object.to_owned());
        self.stage = Stage::Unmade;
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &PackedFile> {
        self.files.iter()
    }

    /// Every name that a file may have at the destination.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.files.iter().map(|file| &file.object).chain(&self.dropped)
    }

    fn all_up(&self) -> bool {
        self.files.iter().all(|file| file.uploaded)
    }
}

impl RecordingTask {
    /// Brings the job to where it should be; `true` when it is over, or was never wanted.
    pub(super) fn drive_packing(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        let (container, lists) = (self.spec.output.container(), self.spec.vod().is_some_and(|vod| vod.lists));
        if container.is_none() && !lists {
            return true;
        }
        match self.packing.stage {
            Stage::Unmade => {
                let due = self.packing.again_at.is_none_or(|at| now >= at);
                if due && !self.packing.asked {
                    self.packing.asked = true;
                    self.packing.again_at = None;
                    let limits = Limits { length: self.spec.file_length, bytes: self.policy.file_bytes };
                    let pieces = || self.records.iter().flat_map(|record| record.pieces.values());
                    let listed = self.records.iter().flat_map(|record| {
                        let of_its_lane = record.part;
                        record.pieces.values().map(move |piece| (of_its_lane, piece))
                    });
                    let (spec, gap) = (&self.spec, self.policy.gap);
                    let mut order = package::order(spec, container.unwrap_or(Container::Mp4), limits, gap, listed);
                    if container.is_none() {
                        order.groups.clear();
                    }
                    if lists {
                        order.lists = bundle::lists(spec, self.policy.segment_length, pieces());
                        let made = |object: &str| self.packing.files.iter().any(|file| file.object == *object);
                        order.lists.retain(|list| !made(&list.object));
                    }
                    order.made = self.packing.files.clone();
                    effects.push(Effect::Package(order));
                }
                false
            }
            Stage::Made { at } if self.spec.vod().is_some() => {
                self.drive_vod(at, now, effects);
                self.packing.all_up()
            }
            Stage::Made { at } => {
                let pieces = self.records.iter().any(|record| !record.pieces.is_empty());
                let status = match (self.packing.files.is_empty() && pieces, self.packing.all_up()) {
                    (true, _) => Some(2),
                    (false, true) => Some(0),
                    (false, false) => (now >= at.plus(self.policy.grace)).then_some(1),
                };
                if let Some(status) = status
                    && self.packing.told.is_none_or(|told| told == 1 && status != 1)
                {
                    self.packing.told = Some(status);
                    let files = self.packing.files.clone();
                    effects.push(self.announce(EventBody::Mp4Stop { status, files }, now));
                }
                self.packing.all_up()
            }
        }
    }

    pub(super) fn packaged(&mut self, packed: Packed, now: Timestamp) -> Vec<Effect> {
        if !std::mem::take(&mut self.packing.asked) {
            return Vec::new();
        }
        if packed.unready {
            self.packing.broke = false;
            self.packing.again_at = Some(now.plus(self.policy.list_again));
            return Vec::new();
        }
        let mut effects = Vec::new();
        for (file, why) in packed.broken {
            effects.extend(self.not_packed(&file, &why, now));
        }
        for (file, plan) in packed.files {
            let (object, bytes, crc32) = (file.object.clone(), file.bytes, file.crc32);
            // planned by an older box, whose plans do not say what they hold: what is there already is not sent again
            if self.packing.files.iter().any(|made| made.object == object) {
                continue;
            }
            self.packing.dropped.remove(&object);
            self.packing.files.push(file);
            let which = Which { object: object.clone(), bytes, crc32 };
            let there = self.packing.known.iter().rfind(|known| known.which == which).map(|known| known.media.clone());
            match there {
                // the index, which has lost it, is not asked
                Some(media) => effects.extend(self.vod_committed(&object, media, now)),
                None => effects.push(Effect::SpoolPackage { object, bytes, crc32, plan }),
            }
        }
        if !std::mem::take(&mut self.packing.broke) {
            self.packing.stage = Stage::Made { at: now };
        }
        self.reshaped = true;
        effects
    }

    /// What the shelf has of packed files, those that are up included; before `restore`. It was written first, so that the
    /// task learns of those that it has forgotten.
    pub fn hear_packed(&mut self, found: Vec<PackedFile>) {
        for file in found {
            let known = |there: &PackedFile| {
                (&there.object, there.bytes, there.crc32) == (&file.object, file.bytes, file.crc32)
            };
            if !self.packing.files.iter().any(known) {
                self.packing.files.retain(|there| there.object != file.object);
                self.packing.files.push(file);
            }
        }
    }

    /// What VOD has of the task's files, as its folder says; before `restore`.
    pub fn hear_committed(&mut self, known: Vec<Committed>) {
        self.packing.known = known;
    }

    /// A segment could not be read when it was its turn.
    fn not_packed(&mut self, file: &str, why: &str, now: Timestamp) -> Vec<Effect> {
        let pieces = self.records.iter_mut().flat_map(|record| record.pieces.values_mut());
        let Some(piece) = pieces.into_iter().find(|piece: &&mut Piece| piece.local_file() == *file) else {
            return Vec::new();
        };
        let message = format!("{}: {why}", piece.object);
        let mut effects = Vec::new();
        // where the destination has it as a segment it is not lost
        if piece.fate == PieceFate::Spooled && !self.spec.output.hls() {
            piece.fate = PieceFate::Lost;
            effects.push(Effect::SavePiece(piece.clone()));
        }
        effects.push(self.announce(EventBody::UploadError { code: "SegmentNotPacked".into(), message }, now));
        effects
    }

    pub(super) fn package_waits(&mut self, object: &str) -> Vec<Effect> {
        self.packing.here.push(object.to_owned());
        Vec::new()
    }

    pub(super) fn package_uploaded(&mut self, object: &str) -> Vec<Effect> {
        if let Some(file) = self.packing.files.iter_mut().find(|file| file.object == object && !file.uploaded) {
            file.uploaded = true;
            self.reshaped = true;
        }
        vec![Effect::PackageSettled { object: object.to_owned() }]
    }

    /// A source of the file is not what it was, or gone: what it should hold is planned again, after a while, since the
    /// disk is unwell.
    pub(super) fn package_lost(&mut self, object: &str, why: &str, now: Timestamp) -> Vec<Effect> {
        if !self.packing.files.iter().any(|file| file.object == *object && !file.uploaded) {
            return Vec::new();
        }
        self.packing.drop_plan(object);
        self.packing.broke |= self.packing.asked;
        self.packing.again_at = Some(now.plus(self.policy.list_again));
        self.reshaped = true;
        let message = format!("{object}: {why}");
        vec![self.announce(EventBody::UploadError { code: "FileNotPacked".into(), message }, now)]
    }
}
