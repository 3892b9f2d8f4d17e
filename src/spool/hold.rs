//! Segments that stay until they are packed, and the plans of packed files.
//!
//! Owns: `hold.txt`, the names of kept segments and of plans, letting them go. Must not touch: what a plan says.
//! Law: which segments a task holds is on the disk before the first of them; a held one is never unlinked but when its
//! task lets it go, is forgotten, or the disk's policy gives it up as lost. That all are let go is on the disk before
//! the first of them goes, so that an index which has gone back to them calls none of them lost.

use super::*;
use crate::crash;
use crate::model::packed::{PLAN_SUFFIX, of_given_up_plan};
use crate::model::segment::UNFINISHED;
use crate::store::records::SealedFile;

/// Whether a file of a task's folder is there for packing only.
pub(super) fn is_of_packing(name: &str) -> bool {
    let plan = name.ends_with(PLAN_SUFFIX) || plans::of_kept_plan(name).or_else(|| of_given_up_plan(name)).is_some();
    plan || name.strip_suffix(KEPT_SUFFIX).and_then(LocalName::parse).is_some()
}

/// A packed file, by its plan.
pub(super) struct Package {
    pub(super) task: TaskId,
    pub(super) object: String,
    object_key: String,
    bytes: u64,
    crc32: u32,
    plan: String,
}

impl Package {
    /// As what it is counted while it waits for the thread.
    pub(super) fn counted(&self) -> Pending {
        Pending { segments: 0, playlists: 1, bytes: self.plan.len() as u64 }
    }
}

impl Spool {
    /// Puts a packed file on the shelf: `plan` says how it is made. Returns at once; a newer plan replaces an older one.
    pub fn accept_package(
        &self,
        task: &TaskId,
        object: String,
        object_key: String,
        (bytes, crc32): (u64, u32),
        plan: String,
    ) -> Result<(), Error> {
        let package = Package { task: task.clone(), object, object_key, bytes, crc32, plan };
        self.hand_over(task, package.counted(), Order::Package(package))
    }

    /// [`Spool::begin_task`] of a task that holds segments until they are packed.
    pub async fn begin_holding(&self, task: &TaskId, hold: Hold) -> Result<PathBuf, Error> {
        let dir = self.begin_task(task).await?;
        if self.shared.state().hold_of(task) == hold {
            return Ok(dir);
        }
        let (shared, task) = (self.shared.clone(), task.clone());
        blocking(move || {
            let dir = shared.task_dir(&task);
            folder::write_hold(&dir, hold, &*shared.hardware).map_err(at(&dir.join(folder::HOLD)))?;
            sync_dir(&dir).map_err(at(&dir))?;
            shared.state().holds.insert(task, hold);
            Ok(dir)
        })
        .await
    }

    /// The task needs no segment any more. Returns at once.
    pub fn let_go(&self, task: &TaskId) -> Result<(), Error> {
        self.to.try_send(Order::LetGo(task.clone())).map_err(|refused| match refused {
            TrySendError::Full(_) => Error::Full,
            TrySendError::Disconnected(_) => Error::Stopped,
        })
    }

    pub(super) async fn let_go_now(&self, task: &TaskId) -> Result<(), Error> {
        let (shared, task) = (self.shared.clone(), task.clone());
        blocking(move || shared.let_go(&task)).await
    }
}

impl State {
    pub(super) fn hold_of(&self, task: &TaskId) -> Hold {
        self.holds.get(task).copied().unwrap_or_default()
    }
}

impl Shared {
    /// Takes in what the folder says of it.
    pub(super) fn hear_hold(&self, task: &TaskId) {
        match folder::read_hold(&self.task_dir(task)) {
            Ok((Hold::Nothing, _)) => {}
            Ok((hold, gone)) => {
                let mut state = self.state();
                state.holds.insert(task.clone(), hold);
                if gone {
                    state.let_go.insert(task.clone());
                }
            }
            Err(error) => {
                // rather too much is kept than too little
                tracing::error!(%task, %error, "whether the task holds segments cannot be read: it keeps copies");
                self.state().holds.insert(task.clone(), Hold::Copies);
            }
        }
    }

    /// A file that is not needed for its upload any more: a segment that is still to be packed stays, under another name.
    pub(super) fn unlink(&self, task: &TaskId, file: &str) -> io::Result<()> {
        let path = self.task_dir(task).join(file);
        // what is discarded is not packed
        let hold = if self.is_withheld(task) { Hold::Nothing } else { self.state().hold_of(task) };
        if hold == Hold::Nothing || LocalName::parse(file).is_none() {
            return fs::remove_file(path);
        }
        fs::rename(path, self.task_dir(task).join(format!("{file}{KEPT_SUFFIX}")))
    }

    /// Unlinks what was held of a task, and forgets its records.
    pub(super) fn let_go(&self, task: &TaskId) -> Result<(), Error> {
        let hold = self.state().hold_of(task);
        if hold == Hold::Nothing {
            return Ok(());
        }
        let dir = self.task_dir(task);
        let files = match fs::read_dir(&dir) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(at(&dir)(error)),
        };
        if hold == Hold::All && !self.state().let_go.contains(task) {
            folder::write_all_gone(&dir, &*self.hardware).map_err(at(&dir.join(folder::HOLD)))?;
            let synced = File::open(&dir).and_then(|dir| self.hardware.sync(&dir));
            synced.map_err(at(&dir))?;
            self.state().let_go.insert(task.clone());
            crash::point("held.gone");
        }
        let mut freed = 0u64;
        for file in files.flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let kept = name.strip_suffix(KEPT_SUFFIX).and_then(LocalName::parse).is_some();
            let held = hold == Hold::All && LocalName::parse(&name).is_some_and(|name| name.duration.is_some());
            if !kept && !held {
                continue;
            }
            let bytes = file.metadata().map_or(0, |facts| facts.len());
            match fs::remove_file(file.path()) {
                Ok(()) => freed += bytes,
                Err(error) => tracing::warn!(%task, name, %error, "a segment that was packed stays on the disk"),
            }
        }
        crash::point("held.removed");
        if hold == Hold::All {
            let mut batch = Batch::new();
            for (key, bytes) in self.store.scan_blocking(records::spool_prefix(task))? {
                if SpoolEntry::from_bytes(&key, &bytes).is_ok_and(|entry| entry.segment().is_some()) {
                    batch = batch.delete(key);
                }
            }
            match self.store.commit_blocking(batch) {
                Ok(()) => {}
                Err(store::Error::Stopped) => return Err(Error::Stopped),
                Err(error) => tracing::warn!(%task, %error, "records of packed segments stay in the index"),
            }
        }
        crash::point("held.forgotten");
        let mut state = self.state();
        state.held.retain(|_, held| held.waiting.task != *task);
        state.tell_size();
        drop(state);
        tracing::info!(%task, freed, "segments that were held for packing are let go");
        Ok(())
    }

    /// Leaves of what was found what is not of a task that has let its segments go. What is left of these goes with
    /// their records: they are in packed files, whatever an index that has gone back says of them.
    pub(super) fn pass_over_gone(
        &self,
        files: &mut Vec<FoundFile>,
        entries: &mut Vec<SpoolEntry>,
    ) -> Result<(), Error> {
        let gone = self.state().let_go.clone();
        if gone.is_empty() {
            return Ok(());
        }
        let left = |file: &FoundFile| gone.contains(&file.task) && LocalName::parse(&file.name).is_some();
        for file in files.iter().filter(|file| left(file)) {
            let path = self.task_dir(&file.task).join(&file.name);
            fs::remove_file(&path).map_err(at(&path))?;
        }
        files.retain(|file| !left(file));
        let record = |entry: &SpoolEntry| gone.contains(&entry.task) && entry.segment().is_some();
        let batch = entries.iter().filter(|entry| record(entry)).fold(Batch::new(), |b, entry| b.delete(entry.key()));
        self.store.commit_blocking(batch)?;
        entries.retain(|entry| !record(entry));
        Ok(())
    }

    /// A packed file's plan, on the disk under its last name.
    pub(super) fn write_plan(&self, package: &Package) -> io::Result<SpoolEntry> {
        let Package { task, object, object_key, bytes, crc32, plan } = package;
        let file = format!("{object}{PLAN_SUFFIX}");
        let dir = self.task_dir(task);
        let unfinished = dir.join(format!("{file}{UNFINISHED}"));
        match fs::remove_file(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut output = self.vault.create(&unfinished, &identity(task, &file))?;
        for part in plan.as_bytes().chunks(256 * 1024) {
            output.write(part)?;
        }
        output.finish()?;
        crash::point("plan.written");
        self.hardware.sync(output.file())?;
        crash::point("plan.synced");
        let stored = output.file().metadata()?.len();
        let sealed = self.vault.current().map(|key| SealedFile { bytes: stored, key: key.to_string() });
        fs::rename(&unfinished, dir.join(&file))?;
        crash::point("plan.renamed");
        Ok(SpoolEntry {
            task: task.clone(),
            object: object.clone(),
            object_key: object_key.clone(),
            file,
            bytes: *bytes,
            crc32: *crc32,
            order: self.state().next_order(),
            kind: SpoolKind::Package,
            state: SpoolState::Spooled,
            sealed,
        })
    }
}
