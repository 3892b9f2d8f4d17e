//! What the shelf does for a task that is discarded.
//!
//! Owns: holding its files back, removing them, the record of what its destination is to be rid of. Must not touch: the
//! destination.
//! Law: from the moment it is withheld nothing of the task is leased, put on the shelf or adopted, and flights of it are
//! broken off; what its folder says of the task stays until the task is forgotten, so that a lost index does not bring
//! it back as one that is to be kept.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::store::records::{EraseEntry, EraseStage};

/// Tasks of which nothing is carried any more, and flights of all tasks.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    tasks: BTreeSet<TaskId>,
    /// How many fly of each task, and what breaks them off.
    flights: BTreeMap<TaskId, (usize, CancellationToken)>,
}

impl Withheld {
    /// Whether it was among them.
    pub(super) fn let_go(&mut self, task: &TaskId) -> bool {
        self.tasks.remove(task)
    }
}

/// That a file flies.
#[derive(Debug)]
pub(super) struct Flight {
    shared: Arc<Shared>,
    task: TaskId,
    broken_off: CancellationToken,
}

impl Flight {
    pub(super) fn begin(shared: &Arc<Shared>, task: &TaskId) -> Flight {
        let mut state = shared.state();
        let withheld = state.withheld.tasks.contains(task);
        let (count, token) = state.withheld.flights.entry(task.clone()).or_default();
        *count += 1;
        if withheld {
            token.cancel();
        }
        Flight { shared: shared.clone(), task: task.clone(), broken_off: token.clone() }
    }

    /// Returns when its task is discarded.
    pub(super) fn broken_off(&self) -> impl Future<Output = ()> + Send + use<> {
        self.broken_off.clone().cancelled_owned()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some((count, _)) = state.withheld.flights.get_mut(&self.task) {
            *count -= 1;
            if *count == 0 {
                state.withheld.flights.remove(&self.task);
            }
        }
        drop(state);
        self.shared.landed.notify_waiters();
    }
}

impl Spool {
    /// Nothing of the task is carried any more; what flies is broken off.
    pub fn withhold(&self, task: &TaskId) {
        let mut state = self.shared.state();
        state.withheld.tasks.insert(task.clone());
        state.backlog.remove_task(task);
        state.held.retain(|_, held| held.waiting.task != *task);
        state.playlists.retain(|waiting, _| waiting.task != *task);
        if let Some((_, token)) = state.withheld.flights.get(task) {
            token.cancel();
        }
        state.tell_size();
    }

    /// Removes what lies on the shelf of a withheld task, and what was handed over before. Returns at once;
    /// `Fate::Cleared` follows.
    pub fn clear_task(&self, task: &TaskId) -> Result<(), Error> {
        self.order(Order::Clear { task: task.clone() })
    }

    /// Writes down that the destination is to be rid of the task, unless that stands there already. Returns at once.
    /// `prefix`: of the task's keys; `names`: of files beside its segments; `media`: at VOD.
    pub fn erase_task(
        &self,
        task: &TaskId,
        prefix: String,
        names: Vec<String>,
        media: Vec<String>,
    ) -> Result<(), Error> {
        let stage = EraseStage::Counting;
        let entry = EraseEntry { task: task.clone(), prefix, names, stage, objects: 0, bytes: 0, uploads: 0, media };
        self.order(Order::Erase(entry))
    }

    fn order(&self, order: Order) -> Result<(), Error> {
        self.to.try_send(order).map_err(|refused| match refused {
            TrySendError::Full(_) => Error::Full,
            TrySendError::Disconnected(_) => Error::Stopped,
        })
    }

    /// Returns when there may be something new to erase.
    pub async fn wait_erase(&self) {
        self.shared.erase.notified().await;
    }

    /// Returns when nothing flies of the task.
    pub async fn grounded(&self, task: &TaskId) {
        loop {
            let landed = self.shared.landed.notified();
            let mut landed = std::pin::pin!(landed);
            // whoever lands between the look and the wait is heard
            landed.as_mut().enable();
            if !self.shared.state().withheld.flights.contains_key(task) {
                return;
            }
            landed.await;
        }
    }
}

impl Shared {
    pub(super) fn is_withheld(&self, task: &TaskId) -> bool {
        self.state().withheld.tasks.contains(task)
    }

    /// Everything in the folder that is not what the folder says of its task. Files first: a record without its file
    /// brings nothing back. Answers how many files went, and their bytes. Blocks.
    pub(super) fn clear(&self, task: &TaskId) -> Result<(u64, u64), Error> {
        let dir = self.task_dir(task);
        let (mut files, mut bytes) = (0, 0);
        let found = match fs::read_dir(&dir) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
            Err(e) => return Err(at(&dir)(e)),
        };
        for file in found {
            let path = file.map_err(at(&dir))?.path();
            if folder::is_ours(&path.file_name().unwrap_or_default().to_string_lossy()) {
                continue;
            }
            let size = fs::metadata(&path).map_err(at(&path))?.len();
            fs::remove_file(&path).map_err(at(&path))?;
            files += 1;
            bytes += size;
        }
        self.hardware.sync(&File::open(&dir).map_err(at(&dir))?).map_err(at(&dir))?;
        crash::point("discard.emptied");
        let mut batch = Batch::new();
        for (key, _) in self.store.scan_blocking(records::spool_prefix(task))? {
            batch = batch.delete(key);
        }
        self.store.commit_blocking(batch)?;
        crash::point("discard.cleared");
        Ok((files, bytes))
    }

    /// Blocks.
    pub(super) fn note_erase(&self, entry: &EraseEntry) -> Result<(), Error> {
        if self.store.get_blocking(entry.key())?.is_none() {
            self.store.commit_blocking(Batch::new().put(entry.key(), entry.to_bytes()))?;
            crash::point("discard.noted");
        }
        self.erase.notify_one();
        Ok(())
    }
}
