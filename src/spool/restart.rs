//! The hands of recovery: what the plan says is done to files and records, one step after the other.
//!
//! Owns: reading the shelf at a start, trimming what was being written, setting aside what nobody can read. Must not touch:
//! what is to be done ([`recovery`] plans it).
//! Law: a step that is repeated after a crash does no harm.

use super::*;
use crate::model::packed::of_given_up_plan;

/// The folders of a shelf as they were found, before anything of it was read.
#[derive(Debug, Default)]
pub struct Listing {
    folders: Vec<Listed>,
    unknown: usize,
}

#[derive(Debug)]
struct Listed {
    task: TaskId,
    /// Files that say something of the task.
    ours: Vec<String>,
    noted_lost: Vec<LocalName>,
    /// Packed files that are up, whose plans are here.
    up: Vec<String>,
    files: Vec<FoundFile>,
}

impl Listing {
    /// Names and sizes. Folders that are no task's are counted and left. Blocks.
    pub fn of(dir: &Path) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        let folders = match fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(listing),
            folders => folders.map_err(at(dir))?,
        };
        for folder in folders {
            let folder = folder.map_err(at(dir))?.path();
            let name = folder.file_name().and_then(|name| name.to_str());
            if name == Some(disk::RESERVE) {
                continue;
            }
            // the file system's own folder could be a task's by its name
            let name = name.filter(|name| *name != "lost+found" && folder.is_dir());
            let Some(task) = name.and_then(|name| TaskId::parse(name).ok()) else {
                tracing::warn!(path = %folder.display(), "not a task's folder: left alone");
                listing.unknown += 1;
                continue;
            };
            listing.folders.push(Listed::of(task, &folder)?);
        }
        Ok(listing)
    }
}

impl Listed {
    fn of(task: TaskId, folder: &Path) -> Result<Listed, Error> {
        let (ours, noted_lost, up, files) = Default::default();
        let mut listed = Listed { task, ours, noted_lost, up, files };
        for file in fs::read_dir(folder).map_err(at(folder))? {
            let file = file.map_err(at(folder))?;
            let name = file.file_name().to_string_lossy().into_owned();
            if folder::is_ours(&name) {
                listed.ours.push(name);
                continue;
            }
            if let Some(lost) = name.strip_suffix(LOST_SUFFIX).and_then(LocalName::parse) {
                listed.noted_lost.push(lost);
                continue;
            }
            if name.strip_suffix(KEPT_SUFFIX).and_then(LocalName::parse).is_some() {
                continue;
            }
            if of_given_up_plan(&name).is_some() {
                continue;
            }
            if let Some(object) = plans::of_kept_plan(&name) {
                listed.up.push(object.to_owned());
                continue;
            }
            let bytes = file.metadata().map_err(at(&file.path()))?.len();
            listed.files.push(FoundFile { task: listed.task.clone(), name, bytes });
        }
        Ok(listed)
    }
}

impl Shared {
    pub(super) fn recover(&self, listing: impl FnOnce() -> Result<Listing, Error> + Send) -> Result<Recovered, Error> {
        let mut recovered = Recovered::default();
        // the folders are read while the index is: both take their time with a full shelf
        let (files, entries) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| self.files(listing()?, &mut recovered));
            let entries = self.entries();
            (reading.join(), entries)
        });
        let mut files = files.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let mut entries = entries?;
        self.state().last_order = entries.last().map_or(0, |entry| entry.order);
        self.pass_over_gone(&mut files, &mut entries)?;
        self.believe_plans(&mut recovered, &mut files, &mut entries)?;
        self.believe_journals(&recovered, &mut files, &mut entries)?;
        crash::point("recover.planned");
        for step in recovery::plan(&files, &entries) {
            self.recover_step(step, &mut recovered)?;
        }
        self.state().tell_size();
        self.ready.notify_one();
        // a folder that was made in a life before is there for good: nobody needs to make it durable again
        sync_dir(&self.dir).map_err(at(&self.dir))?;
        for (task, shelved) in &recovered.tasks {
            let Shelved { adopted, spooled, uploaded, lost, .. } = shelved;
            tracing::info!(
                %task,
                adopted = adopted.len(),
                spooled = spooled.len(),
                uploaded = uploaded.len(),
                lost = lost.len(),
                "found on the shelf"
            );
        }
        Ok(recovered)
    }

    /// What the index says of the shelf, in the order in which it was put there.
    fn entries(&self) -> Result<Vec<SpoolEntry>, Error> {
        let records = self.store.scan_blocking(records::SPOOL)?;
        let read = |(key, bytes): &(String, Vec<u8>)| match SpoolEntry::from_bytes(key, bytes) {
            Ok(entry) => Some(entry),
            Err(error) => {
                // its file is adopted like any other that the index does not know
                tracing::warn!(%error, "a record of the shelf cannot be read");
                None
            }
        };
        let mut entries: Vec<SpoolEntry> = records.par_iter().filter_map(read).collect();
        entries.sort_by_key(|entry| entry.order);
        Ok(entries)
    }

    fn recover_step(&self, step: Step, recovered: &mut Recovered) -> Result<(), Error> {
        match step {
            Step::Keep(entry) => {
                if let Some(sealed) = entry.sealed.as_ref().filter(|sealed| !self.vault.has(&sealed.key)) {
                    let (task, file, key) = (entry.task.clone(), entry.file.clone(), sealed.key.clone());
                    return Err(Error::MissingKey { task, file, key });
                }
                let shelved = recovered.of(&entry.task);
                match &entry.kind {
                    SpoolKind::Segment(segment) => shelved.spooled.push((entry.object.clone(), segment.clone())),
                    SpoolKind::Playlist { version } => shelved.playlists.push((entry.object.clone(), *version)),
                    SpoolKind::Package => shelved.packages.push(entry.object.clone()),
                }
                self.place(&entry);
            }
            Step::Adopt { task, name, bytes } => {
                let bytes = match self.open(&task, &name.to_string()) {
                    Ok(input) => input.len(),
                    Err(error @ Error::MissingKey { .. }) => return Err(error),
                    // whoever puts it on the shelf finds that, too, and tells
                    Err(_) => bytes,
                };
                recovered.of(&task).adopted.push(name.closed(&task, Duration::ZERO, bytes));
            }
            Step::Examine { task, name } => self.examine(&task, &name, recovered)?,
            Step::Lose { mut entry, why } => {
                let Some(segment) = entry.segment().cloned() else { return Ok(()) };
                tracing::error!(task = %entry.task, segment = entry.object, why, "a segment is lost");
                metrics::counter!("holdfast_segments_lost_total").increment(1);
                set_aside(&self.task_dir(&entry.task).join(&entry.file));
                self.note_lost(&entry.task, &segment, &entry.object);
                entry.state = SpoolState::Lost { why: why.clone() };
                self.store.commit_blocking(Batch::new().put(entry.key(), entry.to_bytes()))?;
                recovered.of(&entry.task).lost.push((entry.object, segment, why));
            }
            Step::Tell(entry) => {
                let shelved = recovered.of(&entry.task);
                match (entry.state, entry.kind) {
                    (SpoolState::Lost { why }, SpoolKind::Segment(segment)) => {
                        shelved.lost.push((entry.object, segment, why));
                    }
                    (SpoolState::Committed(media), _) => shelved.committed.push((entry.object, media)),
                    (_, SpoolKind::Package) => shelved.packed.push(entry.object),
                    _ => shelved.uploaded.push(entry.object),
                }
            }
            Step::KeepPlan { task, object } => {
                self.keep_plan(&task, &object).map_err(at(&self.task_dir(&task)))?;
            }
            Step::GiveUpPlan { task, name } => set_aside(&self.task_dir(&task).join(name)),
            Step::Unlink { task, name } => self.unlink(&task, &name).map_err(at(&self.task_dir(&task).join(&name)))?,
            Step::Drop(entry) => self.store.commit_blocking(Batch::new().delete(entry.key()))?,
            Step::Leave { task, name } => {
                tracing::warn!(%task, name, "a file on the shelf that nobody knows is left alone");
                recovered.unknown += 1;
            }
        }
        Ok(())
    }

    /// Of a segment that was being written, what plays is adopted.
    fn examine(&self, task: &TaskId, name: &LocalName, recovered: &mut Recovered) -> Result<(), Error> {
        let path = self.task_dir(task).join(name.to_string());
        let mut input = match self.open(task, &name.to_string()) {
            Err(Error::Io { source, .. }) if vault::Error::of(&source).is_some() => {
                tracing::error!(%task, lane = ?name.lane, segment = name.index, error = %source, "a torn segment cannot be opened");
                recovered.of(task);
                set_aside(&path);
                return Ok(());
            }
            opened => opened?,
        };
        match trim(&mut input, &path, wants_picture(name)).map_err(at(&path))? {
            Some(usable) => {
                crash::point("recover.trimmed");
                tracing::info!(%task, lane = ?name.lane, segment = name.index, ?usable, "a torn segment is adopted");
                metrics::counter!("holdfast_segments_adopted_total").increment(1);
                recovered.of(task).adopted.push(name.closed(task, usable.duration, usable.bytes));
            }
            None => {
                tracing::warn!(%task, lane = ?name.lane, segment = name.index, "a torn segment holds nothing that plays");
                recovered.of(task);
                fs::remove_file(&path).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    /// What lies in the tasks' folders, and what they say.
    fn files(&self, listing: Listing, recovered: &mut Recovered) -> Result<Vec<FoundFile>, Error> {
        recovered.unknown += listing.unknown;
        let mut files = Vec::new();
        for Listed { task, ours, noted_lost, up, files: found } in listing.folders {
            let shelved = recovered.of(&task);
            shelved.noted_lost.extend(noted_lost);
            self.hear(&task, &ours, shelved)?;
            self.hear_hold(&task);
            self.hear_plans(&task, &up, shelved)?;
            files.extend(found);
        }
        files.sort_by(|a, b| (&a.task, &a.name).cmp(&(&b.task, &b.name)));
        Ok(files)
    }
}

impl Recovered {
    fn of(&mut self, task: &TaskId) -> &mut Shelved {
        self.tasks.entry(task.clone()).or_default()
    }
}

/// Cuts a torn segment behind its last whole packet; `None` when nothing in it plays. A sealed one gets its end: its
/// records hold whole packets, so it loses no more than a plain one.
fn trim(input: &mut Input, path: &Path, wants_picture: bool) -> io::Result<Option<ts::Usable>> {
    let usable = ts::examine(io::BufReader::with_capacity(256 * 1024, &mut *input), wants_picture)?;
    let Some(usable) = usable else { return Ok(None) };
    let bytes = input.mend(path, usable.bytes)?;
    Ok(Some(ts::Usable { bytes, ..usable }))
}
