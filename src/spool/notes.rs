//! The shelf's own hand in the tasks' folders: what is noted there, and what is believed of it after a restart.
//!
//! Owns: when a folder is written and read. Must not touch: how ([`folder`]).
//! Law: what a folder says goes before what the index says, since it was written first.

use super::*;

impl Spool {
    /// What the task's folder says of its files at VOD: those that are stored, those that are committed.
    pub async fn noted_at_vod(&self, task: &TaskId) -> Result<(Vec<Stored>, Vec<Committed>), Error> {
        let dir = self.task_dir(task);
        blocking(move || {
            let read = || {
                let names = fs::read_dir(&dir)?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
                let names: Vec<String> = names.collect::<io::Result<_>>()?;
                folder::read_journals(&dir, names.iter().map(String::as_str))
            };
            match read() {
                Ok((noted, _)) => Ok((noted.stored, noted.committed)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Default::default()),
                Err(error) => Err(at(&dir)(error)),
            }
        })
        .await
    }

    /// Notes segments as lost that were lost before, each by its file and its object. What cannot be noted is not: the index
    /// has it.
    pub async fn note_losses(&self, task: &TaskId, losses: Vec<(String, String)>) {
        let (shared, task) = (self.shared.clone(), task.clone());
        let noted = blocking(move || {
            let note = |(file, object): &(String, String)| shared.note(&task, Note::Lost, file, object);
            losses.iter().try_for_each(note).map_err(at(&shared.task_dir(&task)))
        });
        if let Err(error) = noted.await {
            tracing::warn!(%error, "losses cannot be noted in the task's folder");
        }
    }

    /// Notes that VOD has a file of which the shelf has nothing more.
    pub async fn note_committed(&self, task: &TaskId, committed: Committed) -> Result<(), Error> {
        let (shared, task) = (self.shared.clone(), task.clone());
        blocking(move || shared.note_committed(&task, &committed).map_err(at(&shared.task_dir(&task)))).await
    }
}

impl Shared {
    pub(super) fn journals(&self) -> MutexGuard<'_, BTreeMap<TaskId, u32>> {
        self.journals.lock().expect("nothing panics while it holds this lock")
    }

    /// Notes in the task's folder what became of a segment, durably. After a failure what is in the journal is unknown:
    /// the next line begins another one. Blocks.
    pub(super) fn note(&self, task: &TaskId, note: Note, name: &str, object: &str) -> io::Result<()> {
        self.note_line(task, &folder::of_segment(note, name, object))
    }

    /// The same of an event.
    pub(super) fn note_event(&self, task: &TaskId, event: &str) -> io::Result<()> {
        self.note_line(task, &folder::of_event(event))
    }

    /// The same of a file that VOD has.
    pub(super) fn note_committed(&self, task: &TaskId, committed: &Committed) -> io::Result<()> {
        self.note_line(task, &folder::of_committed(committed))
    }

    /// The same of a file that is stored at VOD.
    pub(super) fn note_stored(&self, task: &TaskId, stored: &Stored) -> io::Result<()> {
        self.note_line(task, &folder::of_stored(stored))
    }

    fn note_line(&self, task: &TaskId, line: &str) -> io::Result<()> {
        let dir = self.task_dir(task);
        let mut journals = self.journals();
        let number = journals.get(task).copied().unwrap_or(1);
        let written = folder::note(&dir, number, line, &*self.hardware);
        if written.is_err() {
            journals.insert(task.clone(), number.saturating_add(1));
        }
        drop(journals);
        let synced = self.hardware.sync(&written?);
        crash::point("journal.synced");
        if synced.is_err() {
            let mut journals = self.journals();
            if journals.get(task).copied().unwrap_or(1) == number {
                journals.insert(task.clone(), number.saturating_add(1));
            }
        }
        synced
    }

    /// Copies the task's destination and keys from the index into its folder, once. Blocks.
    pub(super) fn keep_destination(&self, task: &TaskId) -> Result<(), Error> {
        let dir = self.task_dir(task);
        let path = dir.join(folder::DESTINATION);
        if path.exists() {
            return Ok(());
        }
        let destination = self.store.get_blocking(records::destination_key(task))?;
        let keys = self.store.get_blocking(records::keys_key(task))?;
        let (Some(destination), Some(keys)) = (destination, keys) else { return Ok(()) };
        let Some(text) = folder::destination_text(&folder::Destination { destination, keys }) else {
            tracing::warn!(%task, "the record of the task's destination cannot be kept in its folder");
            return Ok(());
        };
        folder::replace(&dir, folder::DESTINATION, &text, &*self.hardware).map_err(at(&path))
    }

    /// The other way round: what the index has lost. Blocks.
    fn restore_destination(&self, task: &TaskId, kept: folder::Destination) -> Result<(), Error> {
        let (destination, keys) = (records::destination_key(task), records::keys_key(task));
        if self.store.get_blocking(&destination)?.is_some() && self.store.get_blocking(&keys)?.is_some() {
            return Ok(());
        }
        tracing::warn!(%task, "the index has lost the task's destination: taken from its folder");
        self.store.commit_blocking(Batch::new().put(destination, kept.destination).put(keys, kept.keys))?;
        Ok(())
    }

    /// What the journals say goes before what the index says: it was written first. A file that its destination has is
    /// not needed any more, whatever the index thinks of it.
    pub(super) fn believe_journals(
        &self,
        recovered: &Recovered,
        files: &mut Vec<FoundFile>,
        entries: &mut [SpoolEntry],
    ) -> Result<(), Error> {
        let names = |shelved: &Shelved| shelved.noted_uploaded.iter().map(|(name, _)| name.to_string()).collect();
        let uploaded: BTreeMap<&TaskId, BTreeSet<String>> =
            recovered.tasks.iter().map(|(task, shelved)| (task, names(shelved))).collect();
        let is_uploaded = |task: &TaskId, file: &str| uploaded.get(task).is_some_and(|names| names.contains(file));
        for entry in entries.iter_mut().filter(|entry| entry.segment().is_some()) {
            if is_uploaded(&entry.task, &entry.file) {
                entry.state = SpoolState::Uploaded;
            }
        }
        for entry in entries.iter_mut().filter(|entry| entry.kind == SpoolKind::Package) {
            let noted = recovered.tasks.get(&entry.task).map(|shelved| &shelved.noted_committed[..]);
            let mine = |noted: &&Committed| noted.which == entry.which();
            if let Some(noted) = noted.unwrap_or_default().iter().rfind(mine) {
                entry.state = SpoolState::Committed(noted.media.clone());
            }
        }
        for file in files.iter().filter(|file| is_uploaded(&file.task, &file.name)) {
            self.unlink(&file.task, &file.name).map_err(at(&self.task_dir(&file.task).join(&file.name)))?;
        }
        files.retain(|file| !is_uploaded(&file.task, &file.name));
        Ok(())
    }

    /// A loss that cannot be noted is no less told; after the loss of the index it is forgotten.
    pub(super) fn note_lost(&self, task: &TaskId, segment: &ClosedSegment, object: &str) {
        if let Err(error) = self.note(task, Note::Lost, &LocalName::of(segment).to_string(), object) {
            tracing::warn!(%task, object, %error, "a loss cannot be noted in the task's folder");
        }
    }

    /// Takes in what a folder says. One that cannot be read stops nothing: the index may know all of it.
    pub(super) fn hear(&self, task: &TaskId, names: &[String], shelved: &mut Shelved) -> Result<(), Error> {
        let told = match folder::read(&self.task_dir(task), names.iter().map(String::as_str)) {
            Ok(told) => told,
            Err(error) => {
                tracing::error!(%task, %error, "what the task's folder says of it cannot be read");
                return Ok(());
            }
        };
        let noted = told.noted;
        if noted.torn > 0 {
            tracing::warn!(%task, lines = noted.torn, "lines of a journal of uploads are torn");
        }
        if told.journal > 1 {
            self.journals().insert(task.clone(), told.journal);
        }
        shelved.shape = told.shape;
        shelved.noted_events = noted.events;
        shelved.noted_committed = noted.committed;
        shelved.destination = told.destination.is_some();
        for (note, name, object) in noted.segments {
            match note {
                Note::Uploaded => shelved.noted_uploaded.push((name, object)),
                Note::Lost => shelved.noted_lost.push(name),
            }
        }
        match told.destination {
            // what has no shape is about to be removed
            Some(kept) if shelved.shape.is_some() => self.restore_destination(task, kept),
            _ => Ok(()),
        }
    }
}
