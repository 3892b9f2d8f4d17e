//! Plans of packed files that are up: what the destination has of segments that still lie here.
//!
//! Owns: `<object>.plan.kept`, what is known by it. Must not touch: how files are made; what becomes of a task.
//! Law: a plan gets this name when its file is up, and before the index says so; so neither a crash nor a lost index
//! forgets which segments are safe. What such a file holds is never called lost.

use std::collections::btree_map::Entry;

use super::*;
use crate::crash;
use crate::model::made::{Made, Plan};
use crate::model::packed::{PLAN_SUFFIX, PackedFile};

/// The file whose plan this is, if it is up.
pub(super) fn of_kept_plan(name: &str) -> Option<&str> {
    name.strip_suffix(KEPT_SUFFIX)?.strip_suffix(PLAN_SUFFIX)
}

/// What recovery knows of segments in packed files.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    /// By task: run and index of what is in files that are up, or in the plans of others.
    segments: BTreeMap<TaskId, BTreeSet<(u32, u32)>>,
}

impl Spoken {
    fn has(&self, task: &TaskId, run: u32, index: u32) -> bool {
        self.segments.get(task).is_some_and(|of_task| of_task.contains(&(run, index)))
    }
}

impl Shared {
    /// The file is up: its plan stays, under a name that says so, until the task is forgotten. Blocks.
    pub(super) fn keep_plan(&self, task: &TaskId, object: &str) -> io::Result<()> {
        if self.is_withheld(task) {
            return Ok(());
        }
        let dir = self.task_dir(task);
        let waits = dir.join(format!("{object}{PLAN_SUFFIX}"));
        match fs::rename(&waits, dir.join(format!("{object}{PLAN_SUFFIX}{KEPT_SUFFIX}"))) {
            // a try before this one was not recorded
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        crash::point("plan.kept");
        self.hardware.sync(&File::open(&dir)?)?;
        if let Ok(Some(plan)) = self.read_plan(task, object, true) {
            self.state().made.entry(task.clone()).or_default().add(object, &plan);
        }
        Ok(())
    }

    /// `Ok(None)`: it is no plan.
    fn read_plan(&self, task: &TaskId, object: &str, kept: bool) -> Result<Option<Plan>, Error> {
        let name = format!("{object}{PLAN_SUFFIX}{}", if kept { KEPT_SUFFIX } else { "" });
        let mut text = String::new();
        match self.open(task, &name)?.read_to_string(&mut text) {
            Ok(_) => Ok(Plan::parse(object, &text)),
            Err(error) => {
                tracing::error!(%task, object, %error, "the plan of a packed file cannot be read");
                Ok(None)
            }
        }
    }

    /// Takes in the plans of files that are up.
    pub(super) fn hear_plans(&self, task: &TaskId, objects: &[String], shelved: &mut Shelved) -> Result<(), Error> {
        for object in objects {
            let plan = match self.read_plan(task, object, true) {
                Err(error @ Error::MissingKey { .. }) => return Err(error),
                read => read.ok().flatten(),
            };
            let Some((plan, file)) = plan.and_then(|plan| plan.file(object).map(|file| (plan, file))) else {
                tracing::error!(%task, object, "what is in a packed file that is up is not known any more");
                continue;
            };
            self.state().made.entry(task.clone()).or_default().add(object, &plan);
            shelved.up.push(file);
        }
        Ok(())
    }

    /// Sets what the index says of packed files against the plans, and leaves of segments what is in such files or is
    /// waited for by one: whether it is lost shows when that file is sent. Of tasks whose segments go up by themselves
    /// every one counts.
    pub(super) fn believe_plans(
        &self,
        recovered: &mut Recovered,
        files: &mut Vec<FoundFile>,
        entries: &mut Vec<SpoolEntry>,
    ) -> Result<(), Error> {
        self.keep_noted_plans(recovered, files)?;
        for entry in entries.iter_mut().filter(|entry| entry.kind == SpoolKind::Package) {
            let up = recovered.tasks.get(&entry.task).map(|shelved| &shelved.up[..]).unwrap_or_default();
            let Some(up) = up.iter().find(|file| file.object == entry.object) else { continue };
            let same = (up.bytes, up.crc32) == (entry.bytes, entry.crc32);
            entry.state = match (&entry.state, same) {
                (SpoolState::Committed(media), true) => SpoolState::Committed(media.clone()),
                (_, true) => SpoolState::Uploaded,
                // the index has gone back to a plan that was lost since
                (_, false) => SpoolState::Lost { why: "another file of its name is up".into() },
            };
        }
        let spoken = self.spoken(recovered, files, entries)?;
        for (task, shelved) in &mut recovered.tasks {
            shelved.noted_lost.retain(|name| !spoken.has(task, name.run, name.index));
            shelved.packed_segments = spoken.segments.get(task).cloned().unwrap_or_default();
        }
        let there: BTreeSet<(&TaskId, &str)> = files.iter().map(|file| (&file.task, file.name.as_str())).collect();
        let given_up = |entry: &SpoolEntry| {
            let Some(segment) = entry.segment() else { return false };
            let here = there.contains(&(&entry.task, entry.file.as_str())) && entry.state == SpoolState::Spooled;
            !here && spoken.has(&entry.task, segment.run.run, segment.index)
        };
        let batch = entries.iter().filter(|entry| given_up(entry)).fold(Batch::new(), |b, entry| b.delete(entry.key()));
        // a start that finds all as it was writes nothing
        if !batch.is_empty() {
            self.store.commit_blocking(batch)?;
            entries.retain(|entry| !given_up(entry));
        }
        Ok(())
    }

    /// The process died between the word of VOD and the plan's new name, and the index does not know the plan.
    fn keep_noted_plans(&self, recovered: &mut Recovered, files: &mut Vec<FoundFile>) -> Result<(), Error> {
        for (task, shelved) in recovered.tasks.iter_mut().filter(|(_, shelved)| !shelved.noted_committed.is_empty()) {
            let noted: BTreeSet<&str> = shelved.noted_committed.iter().map(|c| c.which.object.as_str()).collect();
            let waits = |object: &&str| {
                let name = format!("{object}{PLAN_SUFFIX}");
                files.iter().any(|file| file.task == *task && file.name == name)
            };
            let objects: Vec<String> = noted.into_iter().filter(waits).map(str::to_owned).collect();
            for object in objects {
                let Ok(Some(plan)) = self.read_plan(task, &object, false) else { continue };
                let (bytes, crc32) = plan.contents();
                let up = |noted: &&Committed| {
                    noted.which.object == object && (noted.which.bytes, noted.which.crc32) == (bytes, crc32)
                };
                if shelved.noted_committed.iter().any(|noted| up(&noted)) {
                    self.keep_plan(task, &object).map_err(at(&self.task_dir(task)))?;
                    files.retain(|file| file.task != *task || file.name != format!("{object}{PLAN_SUFFIX}"));
                    shelved.up.extend(plan.file(&object));
                }
            }
        }
        Ok(())
    }

    fn spoken(&self, recovered: &mut Recovered, files: &[FoundFile], entries: &[SpoolEntry]) -> Result<Spoken, Error> {
        let mut spoken = Spoken::default();
        let place = |file: &str| LocalName::parse(file).map(|name| (name.run, name.index));
        for task in recovered.tasks.keys().filter(|task| self.state().hold_of(task) == Hold::All) {
            let state = self.state();
            let held = state.made.get(task).map(|made| made.files().filter(|file| made.holds(file)).filter_map(place));
            spoken.segments.insert(task.clone(), held.into_iter().flatten().collect());
        }
        let there: BTreeSet<(&TaskId, &str)> = files.iter().map(|file| (&file.task, file.name.as_str())).collect();
        let waits = |entry: &&SpoolEntry| {
            let here = there.contains(&(&entry.task, entry.file.as_str()));
            entry.kind == SpoolKind::Package && entry.state == SpoolState::Spooled && here
        };
        for entry in entries.iter().filter(waits) {
            let plan = match self.read_plan(&entry.task, &entry.object, false) {
                Err(error @ Error::MissingKey { .. }) => return Err(error),
                read => read.ok().flatten(),
            };
            let Some(plan) = plan.filter(|plan| plan.contents() == (entry.bytes, entry.crc32)) else { continue };
            if let Entry::Occupied(mut of_task) = spoken.segments.entry(entry.task.clone()) {
                of_task.get_mut().extend(plan.sources().into_iter().filter_map(place));
            }
            recovered.tasks.entry(entry.task.clone()).or_default().waiting.extend(plan.file(&entry.object));
        }
        Ok(spoken)
    }

    /// The segments of which files are made: of those that are up too, since one that has just got there may not be known.
    pub(super) fn waited_for(&self, task: &TaskId) -> BTreeSet<String> {
        let files = fs::read_dir(self.task_dir(task)).into_iter().flatten().flatten();
        let names: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        let plan = |name: &String| {
            let (object, kept) = match of_kept_plan(name) {
                Some(object) => (object, true),
                None => (name.strip_suffix(PLAN_SUFFIX)?, false),
            };
            self.read_plan(task, object, kept).ok().flatten()
        };
        let plans = names.iter().filter_map(plan);
        plans.flat_map(|plan| plan.sources().into_iter().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// Whether a file that is up holds all of a segment that never goes up by itself.
    pub(super) fn is_in_file(&self, task: &TaskId, file: &str) -> bool {
        let state = self.state();
        state.hold_of(task) == Hold::All && state.made.get(task).is_some_and(|made: &Made| made.holds(file))
    }
}

impl Shelved {
    /// Packed files that the shelf knows of.
    pub fn packed_files(&self) -> Vec<PackedFile> {
        self.up.iter().chain(&self.waiting).cloned().collect()
    }
}
