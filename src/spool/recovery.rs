//! After a restart: what lies on the shelf against what the index says.
//!
//! Owns: the plan. Must not touch: files and records: the hands in `spool` do what the plan says.
//! Law: a plan made again after a crash in the middle of the first one harms nothing; nothing that may hold media is
//! deleted without having been looked into.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::TaskId;
use crate::model::packed::PLAN_SUFFIX;
use crate::model::segment::{LocalName, UNFINISHED};
use crate::store::records::{SpoolEntry, SpoolKind, SpoolState};

/// A file in a task's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    pub task: TaskId,
    pub name: String,
    pub bytes: u64,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It waits for its destination as before.
    Keep(SpoolEntry),
    /// A finished segment that the index does not know; `bytes` as they lie there.
    Adopt { task: TaskId, name: LocalName, bytes: u64 },
    /// A segment whose writer died: adopt what plays of it.
    Examine { task: TaskId, name: LocalName },
    /// The index says it is here; it is not, or is not the same.
    Lose { entry: SpoolEntry, why: String },
    /// Its fate is settled and its task may not yet have heard.
    Tell(SpoolEntry),
    /// The packed file of this name is up: its plan says what it holds.
    KeepPlan { task: TaskId, object: String },
    /// A packed file's plan that the index does not have any more: the file may have been sent.
    GiveUpPlan { task: TaskId, name: String },
    /// Nobody needs the file any more.
    Unlink { task: TaskId, name: String },
    /// Nobody needs the record any more.
    Drop(SpoolEntry),
    /// Nobody knows what it is: counted, left alone.
    Leave { task: TaskId, name: String },
}

/// Decides for every file and every record. Segments of one lane come in their order.
pub fn plan(files: &[FoundFile], entries: &[SpoolEntry]) -> Vec<Step> {
    let sizes: BTreeMap<(&TaskId, &str), u64> = files.iter().map(|f| ((&f.task, f.name.as_str()), f.bytes)).collect();
    let mut known = BTreeSet::<(&TaskId, &str)>::new();
    let mut steps = Vec::new();

    let mut newest = BTreeMap::<(&TaskId, &str), u64>::new();
    for entry in entries {
        if let SpoolKind::Playlist { version } = entry.kind {
            let seen = newest.entry((&entry.task, &entry.object)).or_insert(version);
            *seen = version.max(*seen);
        }
    }

    for entry in entries {
        let place = (&entry.task, entry.file.as_str());
        known.insert(place);
        let newest = newest.get(&(&entry.task, entry.object.as_str())).copied();
        of_record(entry, sizes.get(&place).copied(), newest, &mut steps);
    }

    let mut adopted = Vec::new();
    for file in files {
        let (task, name) = (file.task.clone(), file.name.clone());
        if known.contains(&(&file.task, file.name.as_str())) {
            continue;
        }
        match LocalName::parse(&name) {
            Some(local) if local.duration.is_some() => adopted.push((task, local, Some(file.bytes))),
            Some(local) => adopted.push((task, local, None)),
            None if name.ends_with(UNFINISHED) || is_playlist(&name) => steps.push(Step::Unlink { task, name }),
            None if name.ends_with(PLAN_SUFFIX) => steps.push(Step::GiveUpPlan { task, name }),
            None => steps.push(Step::Leave { task, name }),
        }
    }
    adopted.sort_by(|(task_a, a, _), (task_b, b, _)| {
        (task_a, &a.lane, a.run, a.index, a.duration).cmp(&(task_b, &b.lane, b.run, b.index, b.duration))
    });
    steps.extend(adopted.into_iter().map(|(task, name, finished)| match finished {
        Some(bytes) => Step::Adopt { task, name, bytes },
        None => Step::Examine { task, name },
    }));
    steps
}

/// `found`: the bytes of its file, if that is there. `newest`: of a playlist, the newest version that has a record.
fn of_record(entry: &SpoolEntry, found: Option<u64>, newest: Option<u64>, steps: &mut Vec<Step>) {
    let unlink = || Step::Unlink { task: entry.task.clone(), name: entry.file.clone() };
    match (&entry.kind, &entry.state) {
        (SpoolKind::Segment(_), SpoolState::Spooled) => steps.push(match found {
            Some(bytes) if bytes == entry.stored_bytes() => Step::Keep(entry.clone()),
            Some(bytes) => {
                let why = format!("{bytes} bytes lie on the shelf, {} were put there", entry.stored_bytes());
                Step::Lose { entry: entry.clone(), why }
            }
            None => Step::Lose { entry: entry.clone(), why: "the file is gone".into() },
        }),
        (SpoolKind::Segment(_), SpoolState::Uploaded | SpoolState::Committed(_)) => {
            steps.extend(found.map(|_| unlink()));
            steps.push(Step::Tell(entry.clone()));
        }
        (SpoolKind::Segment(_), SpoolState::Lost { .. }) => steps.push(Step::Tell(entry.clone())),
        // its length is not the record's: who reads it finds out whether it is whole
        (SpoolKind::Package, SpoolState::Spooled) if found.is_some() => steps.push(Step::Keep(entry.clone())),
        (SpoolKind::Package, SpoolState::Uploaded | SpoolState::Committed(_)) => {
            let keep = |_| Step::KeepPlan { task: entry.task.clone(), object: entry.object.clone() };
            steps.extend(found.map(keep));
            steps.push(Step::Tell(entry.clone()));
        }
        // its task plans it again
        (SpoolKind::Package, SpoolState::Spooled | SpoolState::Lost { .. }) => {
            steps.extend(found.map(|_| Step::GiveUpPlan { task: entry.task.clone(), name: entry.file.clone() }));
            steps.push(Step::Drop(entry.clone()));
        }
        (SpoolKind::Playlist { version }, state) => {
            let whole = found == Some(entry.stored_bytes());
            if *state == SpoolState::Spooled && newest == Some(*version) && whole {
                steps.push(Step::Keep(entry.clone()));
            } else {
                // a task that is still owed its playlist publishes it again
                steps.extend(found.map(|_| unlink()));
                steps.push(Step::Drop(entry.clone()));
            }
        }
    }
}

pub(super) fn is_playlist(name: &str) -> bool {
    name.rsplit_once(".m3u8.v").is_some_and(|(_, version)| version.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::segment::ClosedSegment;
    use crate::model::{Lane, LaneKind, LaneRun, MediaId, Timestamp, UserId};

    fn task() -> TaskId {
        TaskId::parse("t").unwrap()
    }

    fn segment(index: u32) -> ClosedSegment {
        let lane = Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, LaneKind::Video);
        ClosedSegment {
            run: LaneRun { task: task(), lane, run: 0 },
            index,
            start: Timestamp(i64::from(index) * 10_000_000),
            duration: Duration::from_secs(10),
            bytes: 188,
            size: None,
            discontinuity: false,
            part_name: String::new(),
        }
    }

    fn entry(index: u32, state: SpoolState) -> SpoolEntry {
        SpoolEntry {
            task: task(),
            object: format!("o{index}.ts"),
            object_key: format!("t/o{index}.ts"),
            file: LocalName::of(&segment(index)).to_string(),
            bytes: 188,
            crc32: 0,
            order: index.into(),
            kind: SpoolKind::Segment(segment(index)),
            state,
            sealed: None,
        }
    }

    fn playlist(version: u64, state: SpoolState) -> SpoolEntry {
        let file = format!("l.m3u8.v{version}");
        let kind = SpoolKind::Playlist { version };
        SpoolEntry { object: "l.m3u8".into(), file, bytes: 5, kind, ..entry(0, state) }
    }

    fn file(name: impl Into<String>, bytes: u64) -> FoundFile {
        FoundFile { task: task(), name: name.into(), bytes }
    }

    fn finished(index: u32) -> FoundFile {
        file(LocalName::of(&segment(index)).to_string(), 188)
    }

    fn unlink(name: impl Into<String>) -> Step {
        Step::Unlink { task: task(), name: name.into() }
    }

    #[test]
    fn each_state_of_a_segment_has_its_step() {
        let spooled = entry(1, SpoolState::Spooled);
        assert_eq!(plan(&[finished(1)], std::slice::from_ref(&spooled)), [Step::Keep(spooled.clone())]);
        assert_eq!(
            plan(&[], std::slice::from_ref(&spooled)),
            [Step::Lose { entry: spooled.clone(), why: "the file is gone".into() }]
        );
        let short = file(finished(1).name, 187);
        assert!(matches!(&plan(&[short], std::slice::from_ref(&spooled))[..], [Step::Lose { .. }]));

        let uploaded = entry(1, SpoolState::Uploaded);
        let both = [unlink(finished(1).name), Step::Tell(uploaded.clone())];
        assert_eq!(plan(&[finished(1)], std::slice::from_ref(&uploaded)), both);
        assert_eq!(plan(&[], std::slice::from_ref(&uploaded)), [Step::Tell(uploaded)]);

        let lost = entry(1, SpoolState::Lost { why: "x".into() });
        assert_eq!(plan(&[finished(1)], std::slice::from_ref(&lost)), [Step::Tell(lost)]);
    }

    #[test]
    fn what_the_index_does_not_know_is_adopted_in_order() {
        let part = LocalName::of(&segment(3)).part();
        let files = [file(part.to_string(), 1000), finished(2), finished(1)];
        let adopt = |n| Step::Adopt { task: task(), name: LocalName::of(&segment(n)), bytes: 188 };
        assert_eq!(plan(&files, &[]), [adopt(1), adopt(2), Step::Examine { task: task(), name: part }]);
    }

    #[test]
    fn only_the_newest_whole_playlist_is_kept() {
        let (old, new) = (playlist(1, SpoolState::Spooled), playlist(2, SpoolState::Spooled));
        let files = [file("l.m3u8.v1", 5), file("l.m3u8.v2", 5), file("l.m3u8.v3", 5), file("l.m3u8.v4.tmp", 2)];
        assert_eq!(
            plan(&files, &[old.clone(), new.clone()]),
            [
                unlink("l.m3u8.v1"),
                Step::Drop(old),
                Step::Keep(new.clone()),
                unlink("l.m3u8.v3"),
                unlink("l.m3u8.v4.tmp")
            ]
        );
        assert_eq!(plan(&[], std::slice::from_ref(&new)), [Step::Drop(new)]);
    }

    /// It may have been sent: its name is not for other contents.
    #[test]
    fn a_plan_that_the_index_does_not_have_is_given_up() {
        let name = "a_1.mp4.plan".to_owned();
        let lost = SpoolEntry {
            kind: SpoolKind::Package,
            file: name.clone(),
            ..entry(1, SpoolState::Lost { why: "it cannot be made".into() })
        };
        let given_up = Step::GiveUpPlan { task: task(), name: name.clone() };
        assert_eq!(plan(&[file(&name, 1)], &[]), std::slice::from_ref(&given_up));
        assert_eq!(plan(&[file(&name, 1)], std::slice::from_ref(&lost)), [given_up, Step::Drop(lost)]);
    }

    #[test]
    fn what_nobody_knows_is_left() {
        let files = [file("notes.txt", 1), file("x.lost", 1)];
        let left = |name: &str| Step::Leave { task: task(), name: name.into() };
        assert_eq!(plan(&files, &[]), [left("notes.txt"), left("x.lost")]);
    }
}
