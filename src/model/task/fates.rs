//! What becomes of a task's segments, and the lists that say which of them are there.
//!
//! Owns: the fate of every segment, which version of a list is to be carried when. Must not touch: lanes, the end of the
//! task.
//! Law: a list names only what the destination holds; what was lost is a gap in it, and is told.

use super::*;

impl RecordingTask {
    /// A piece of a run that this task began. One that is known already (told twice) changes nothing.
    pub(super) fn segment_closed(&mut self, mut segment: ClosedSegment) -> Vec<Effect> {
        if self.discard.is_some() {
            return Vec::new();
        }
        let key = (segment.run.run, segment.index);
        let Some(at) = self.records.iter().position(|r| r.lane == segment.run.lane && r.runs.contains(&key.0)) else {
            return Vec::new();
        };
        if let Some(known) = self.records[at].pieces.get_mut(&key) {
            // After a restart the spool may hand over a file that was on its way to the shelf.
            let object = known.object.clone();
            // the name of its part is from before two of one moment were told apart: packing looks for the piece's
            (segment.start, segment.discontinuity) = (known.start, known.discontinuity);
            return match known.fate {
                // a power cut may have taken the end of it
                PieceFate::Closing if known.duration != segment.duration => {
                    known.duration = segment.duration;
                    vec![Effect::SavePiece(known.clone()), Effect::Spool { segment, object }]
                }
                PieceFate::Closing => vec![Effect::Spool { segment, object }],
                // The shelf's record of it is lost.
                PieceFate::Spooled | PieceFate::Uploaded if self.recovering => vec![Effect::Spool { segment, object }],
                PieceFate::Spooled | PieceFate::Uploaded | PieceFate::Lost => Vec::new(),
            };
        }
        let record = &mut self.records[at];
        // The playlist's start and its first segment's name are one moment (RECORDING.md §3).
        self.reshaped |= record.begin.is_none();
        let begin = *record.begin.get_or_insert(segment.start);
        if record.pieces.is_empty() {
            segment.start = begin;
        } else if segment.index == 0 {
            segment.discontinuity = true;
        }
        let takeover = record.takeover;
        let mut object = segment_name(self.spec.app, &self.spec.room, takeover, &segment.run.lane, segment.start);
        // Names have whole milliseconds; two pieces of one lane must not have one name.
        while self.objects.contains_key(&object) {
            segment.start = segment.start.plus(Duration::from_millis(1));
            object = segment_name(self.spec.app, &self.spec.room, takeover, &segment.run.lane, segment.start);
        }
        let piece = Piece {
            takeover,
            lane: segment.run.lane.clone(),
            run: key.0,
            index: key.1,
            object: object.clone(),
            start: segment.start,
            duration: segment.duration,
            size: segment.size,
            discontinuity: segment.discontinuity,
            fate: PieceFate::Closing,
        };
        self.remember(piece.clone());
        vec![Effect::SavePiece(piece), Effect::Spool { segment, object }]
    }

    pub(super) fn fate(&mut self, fate: Fate, now: Timestamp) -> Vec<Effect> {
        if self.discard.is_some() {
            return self.fate_of_discarded(fate, now);
        }
        match fate {
            Fate::Spooled(segment) => {
                let Some(record) = self.record_of(&segment.run) else { return Vec::new() };
                let Some(piece) = record.pieces.get_mut(&(segment.run.run, segment.index)) else { return Vec::new() };
                if piece.fate != PieceFate::Closing {
                    return Vec::new();
                }
                piece.fate = PieceFate::Spooled;
                let mut effects = vec![Effect::SavePiece(piece.clone())];
                let object = piece.object.clone();
                effects.extend(self.first_slice(&object, now));
                effects
            }
            Fate::Lost { segment, why } => {
                let Some(record) = self.record_of(&segment.run) else { return Vec::new() };
                let Some(piece) = record.pieces.get_mut(&(segment.run.run, segment.index)) else { return Vec::new() };
                if matches!(piece.fate, PieceFate::Lost | PieceFate::Uploaded) {
                    return Vec::new();
                }
                piece.fate = PieceFate::Lost;
                let saved = Effect::SavePiece(piece.clone());
                let message = format!("{}: {why}", piece.object);
                let mut effects =
                    vec![saved, self.announce(EventBody::UploadError { code: SEGMENT_LOST.into(), message }, now)];
                effects.extend(self.publish_grown(&segment.run, now));
                effects
            }
            Fate::SegmentUploaded { object } => {
                let Some((at, key)) = self.objects.get(&object).copied() else { return Vec::new() };
                let Some(piece) = self.records[at].pieces.get_mut(&key) else { return Vec::new() };
                if piece.fate == PieceFate::Uploaded {
                    return Vec::new();
                }
                piece.fate = PieceFate::Uploaded;
                let mut effects = vec![Effect::SavePiece(piece.clone())];
                // It may have been spooled in a life before, whose word of it was lost.
                effects.extend(self.first_slice(&object, now));
                effects.extend(self.publish_in_time(at, now));
                effects
            }
            Fate::PlaylistUploaded { object, version } => {
                let Some(record) = self.records.iter_mut().find(|record| record.file_name == object) else {
                    return Vec::new();
                };
                record.arrived = record.arrived.max(version);
                self.reshaped |= record.closed.is_some_and(|closed| record.arrived >= closed);
                if std::mem::replace(&mut record.told_file, true) {
                    return Vec::new();
                }
                vec![self.announce(EventBody::FileInfo { playlist: object }, now)]
            }
            Fate::PlaylistLost { object, version } => {
                // Nothing else comes after a closed list: it is made again, and not at once, since the disk is unwell.
                let again_at = now.plus(self.policy.list_again);
                for record in self.records.iter_mut().filter(|r| r.file_name == object && r.closed == Some(version)) {
                    if record.arrived < version {
                        record.closed = None;
                        record.again_at = Some(again_at);
                    }
                }
                Vec::new()
            }
            Fate::Packaged(packed) => self.packaged(packed, now),
            Fate::PackageWaits { object } => self.package_waits(&object),
            Fate::PackageUploaded { object } => self.package_uploaded(&object),
            Fate::PackageLost { object, why } => self.package_lost(&object, &why, now),
            Fate::VodCommitted { object, media } => self.vod_committed(&object, media, now),
            Fate::VodFailed { object, code, message, refused } => {
                self.vod_failed(&object, format!("{code}: {message}"), refused);
                self.fate(Fate::UploadFailed { code, message }, now)
            }
            Fate::UploadFailed { code, message } => self.upload_failed(code, message, now),
            Fate::Cleared { .. } | Fate::Erased { .. } => Vec::new(),
        }
    }

    pub(super) fn upload_failed(&mut self, code: String, message: String, now: Timestamp) -> Vec<Effect> {
        self.told_errors.retain(|_, at| now.since(*at) < self.policy.error_quiet);
        if self.told_errors.contains_key(&code) || self.told_errors.len() >= ERROR_CODES {
            return Vec::new();
        }
        self.told_errors.insert(code.clone(), now);
        vec![self.announce(EventBody::UploadError { code, message }, now)]
    }

    /// 307, once for each playlist.
    pub(super) fn first_slice(&mut self, object: &str, now: Timestamp) -> Option<Effect> {
        let (at, key) = self.objects.get(object).copied()?;
        if !self.spec.output.hls() {
            return None;
        }
        let record = &mut self.records[at];
        if std::mem::replace(&mut record.told_slice, true) {
            return None;
        }
        let start = record.pieces.get(&key).map(|piece| piece.start);
        let body = EventBody::FileSlice {
            playlist: record.file_name.clone(),
            user: record.lane.user_id().to_owned(),
            kind: record.lane.kind,
            begin: record.begin.or(start).unwrap_or(now),
        };
        Some(self.announce(body, now))
    }

    pub(super) fn publish_grown(&mut self, run: &LaneRun, now: Timestamp) -> Vec<Effect> {
        let found = self.records.iter().position(|r| r.lane == run.lane && r.runs.contains(&run.run));
        found.and_then(|at| self.publish(at, false, now)).into_iter().collect()
    }

    /// An outage's worth of pieces goes up one after the other: a list for each of them would take more than they do.
    pub(super) fn publish_in_time(&mut self, at: usize, now: Timestamp) -> Option<Effect> {
        let record = &mut self.records[at];
        let next = record.listed.map(|listed| listed.plus(self.policy.list_pause)).filter(|next| now < *next);
        if let Some(next) = next
            && record.pieces.values().any(|piece| piece.fate == PieceFate::Spooled)
        {
            record.list_at = Some(next);
            return None;
        }
        self.publish(at, false, now)
    }

    pub(super) fn publish(&mut self, at: usize, ended: bool, now: Timestamp) -> Option<Effect> {
        if !self.spec.output.hls() {
            return None;
        }
        let record = &mut self.records[at];
        record.list_at = None;
        let items = record.items();
        if items.is_empty() || record.closed.is_some() {
            return None;
        }
        record.again_at = None;
        record.listed = Some(now);
        record.version += 1;
        record.closed = ended.then_some(record.version);
        let begin = record.begin.unwrap_or(items[0].start);
        let text = Playlist { begin, target: self.policy.segment_length.as_secs(), items, ended }.render();
        Some(Effect::PublishPlaylist { object: record.file_name.clone(), version: record.version, text })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::recording::tests::spec;
    use crate::model::room::Track;
    use crate::model::segment::LocalName;
    use crate::model::{Codec, MediaId, SessionId, TrackId, TrackKind, UserId};

    const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

    /// A task with a lane that runs, and its first segment of so many milliseconds.
    fn recording() -> (RecordingTask, impl Fn(u64) -> ClosedSegment) {
        let (mut task, _) = RecordingTask::create(TaskId::from_random(&[7; 16]), spec(), Policy::default(), NOW);
        let mut room = Room::default();
        room.enter(SessionId(1), UserId::parse("ann").expect("an id"), MediaId::Main, [TrackKind::Audio]);
        room.track_up(SessionId(1), TrackKind::Audio, Track { id: TrackId(1), codec: Codec::Opus });
        let begun = task.reconcile(&room, NOW).into_iter();
        let run = begun.filter_map(|e| if let Effect::StartLane { run, .. } = e { Some(run) } else { None }).next();
        let run = run.expect("a lane starts");
        let closed = move |millis| ClosedSegment {
            run: run.clone(),
            index: 0,
            start: NOW,
            duration: Duration::from_millis(millis),
            bytes: 188,
            size: None,
            discontinuity: false,
            part_name: String::new(),
        };
        (task, closed)
    }

    fn pieces(task: &RecordingTask) -> Vec<Piece> {
        task.records.iter().flat_map(|record| record.pieces.values().cloned()).collect()
    }

    #[test]
    fn a_segment_whose_end_a_power_cut_took_is_as_long_as_what_is_left() {
        let (mut task, closed) = recording();
        let saved = |effects: Vec<Effect>| {
            effects.into_iter().find_map(|e| if let Effect::SavePiece(piece) = e { Some(piece.duration) } else { None })
        };
        assert_eq!(saved(task.apply(Input::SegmentClosed(closed(2_005)), NOW)), Some(Duration::from_millis(2_005)));
        // the index has it as it was closed; what recovery found is shorter
        let known = pieces(&task);
        let (mut task, _) = task.restore(known, Policy::default(), NOW);
        assert_eq!(saved(task.apply(Input::SegmentClosed(closed(1_280)), NOW)), Some(Duration::from_millis(1_280)));
        assert_eq!(saved(task.apply(Input::SegmentClosed(closed(1_280)), NOW)), None, "told twice");
    }

    #[test]
    fn what_a_crash_left_unnamed_gets_the_name_that_its_piece_says() {
        let (mut task, closed) = recording();
        task.apply(Input::SegmentClosed(closed(2_000)), NOW);
        let second = ClosedSegment { index: 1, ..closed(2_000) };
        task.apply(Input::SegmentClosed(second.clone()), NOW);
        let known = pieces(&task);
        assert!(known[0].start < known[1].start, "two of one moment");
        let (mut task, _) = task.restore(known.clone(), Policy::default(), NOW);
        let spooled = task.apply(Input::SegmentClosed(second), NOW).into_iter();
        let named =
            |e| if let Effect::Spool { segment, .. } = e { Some(LocalName::of(&segment).to_string()) } else { None };
        assert_eq!(spooled.filter_map(named).collect::<Vec<_>>(), [known[1].local_file()]);
    }

    #[test]
    fn a_list_is_told_of_whose_only_segment_arrived_before_the_index_heard_of_it() {
        let (mut task, closed) = recording();
        task.apply(Input::SegmentClosed(closed(2_000)), NOW);
        let mut known = pieces(&task);
        // the journal of the folder says so
        known[0].fate = PieceFate::Uploaded;
        let (mut task, _) = task.restore(known, Policy::default(), NOW);
        let slices = |effects: Vec<Effect>| {
            let told =
                effects.into_iter().filter_map(|e| if let Effect::Announce(event) = e { Some(event) } else { None });
            told.filter(|event| matches!(event.body, EventBody::FileSlice { .. })).count()
        };
        assert_eq!(slices(task.settle_unfound(&BTreeSet::new(), NOW)), 1);
        assert_eq!(slices(task.settle_unfound(&BTreeSet::new(), NOW)), 0, "told twice");
    }
}
