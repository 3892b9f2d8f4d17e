//! What is told of files that go to VOD: 311 for each of them, 312 for the task.
//!
//! Owns: which Status was told of which file, and why it is not there. Must not touch: how files get there.
//! Law: every file is told of once before 312, and once more when it has arrived after all; a refusal for good is told
//! at once and the file stays: it is tried again, since people mend what was refused.
//! Sources: RECORDING.md §7, §8 (311, 312).

use serde::{Deserialize, Serialize};

use super::*;
use crate::model::vod::Media;

/// What was heard and told of one file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Said {
    /// 311's Status, as it was said last.
    told: Option<u8>,
    /// What VOD or its storage said last.
    why: Option<String>,
    /// The same would be refused again.
    refused: bool,
}

const NOT_YET: &str = "the file has not reached VOD yet; it goes on";

impl RecordingTask {
    /// What is due to be told. `at`: since when the files are known.
    pub(super) fn drive_vod(&mut self, at: Timestamp, now: Timestamp, effects: &mut Vec<Effect>) {
        let late = now >= at.plus(self.policy.grace);
        for file in self.packing.files.clone().into_iter().filter(|file| !file.uploaded) {
            let said = self.packing.vod.entry(file.object.clone()).or_default();
            let status = match (said.refused, late) {
                (true, _) => 2,
                (false, true) => 1,
                (false, false) => continue,
            };
            // a refusal is worth telling after a mere delay, and not the other way round
            if said.told.is_some_and(|told| told >= status) {
                continue;
            }
            said.told = Some(status);
            let why = said.why.clone().unwrap_or_else(|| NOT_YET.to_owned());
            effects.push(self.announce_vod(status, &file, why, None, now));
        }
        let nothing = self.packing.files.is_empty() && self.records.iter().any(|record| !record.pieces.is_empty());
        let told = |file: &PackedFile| {
            file.uploaded || self.packing.vod.get(&file.object).is_some_and(|said| said.told.is_some())
        };
        if !self.packing.files.iter().all(told) {
            return;
        }
        let status = u8::from(nothing || !self.packing.all_up());
        if self.packing.told.is_none_or(|told| told == 1 && status == 0) {
            self.packing.told = Some(status);
            effects.push(self.announce(EventBody::VodStop { status }, now));
        }
    }

    pub(in crate::model::task) fn vod_committed(&mut self, object: &str, media: Media, now: Timestamp) -> Vec<Effect> {
        let mut effects = vec![Effect::PackageSettled { object: object.to_owned() }];
        let found = self.packing.files.iter_mut().find(|file| file.object == object && !file.uploaded);
        if let Some(file) = found {
            file.uploaded = true;
            let file = file.clone();
            self.packing.vod.insert(object.to_owned(), Said { told: Some(0), ..Said::default() });
            self.reshaped = true;
            effects.push(self.announce_vod(0, &file, String::new(), Some(media), now));
        }
        effects
    }

    /// A try of a file failed; it is told as any other error of the uploader too (308).
    pub(in crate::model::task) fn vod_failed(&mut self, object: &str, why: String, refused: bool) {
        if self.packing.files.iter().any(|file| file.object == *object && !file.uploaded) {
            let said = self.packing.vod.entry(object.to_owned()).or_default();
            said.why = Some(why);
            said.refused |= refused;
        }
    }

    fn announce_vod(
        &mut self,
        status: u8,
        file: &PackedFile,
        why: String,
        media: Option<Media>,
        now: Timestamp,
    ) -> Effect {
        let name = self.spec.vod().map_or_else(|| file.object.clone(), |vod| vod.media_name(&file.object));
        self.announce(EventBody::VodCommit { status, why, name, file: file.clone(), media }, now)
    }
}
