//! Discarded tasks: what their destinations have of them goes.
//!
//! Owns: finding and removing a task's objects, giving up its uploads in parts, trying again. Must not touch: the shelf,
//! and what is told (the task's).
//! Law: nothing is removed while something of the task flies, and it is looked for once more a while after nothing was
//! left, since what was broken off may have arrived; what was found is written down before it is removed; nothing of it
//! is ever given up, however long the destination is away.

use std::collections::BTreeSet;

use super::*;
use crate::store::Batch;
use crate::store::records::{EraseEntry, EraseStage, PartsEntry};

/// What was on its way when it was broken off has arrived by then, or never will.
const SETTLE: Duration = Duration::from_secs(3);
/// Objects that go at once from one destination.
const AT_ONCE: usize = 8;
/// Tasks that go at once; most of them wait for a destination that is away.
const TASKS: usize = 64;
/// What stands in the index is looked at so often, though nobody called.
const LOOK: Duration = Duration::from_secs(60);

impl Uploader {
    /// Until it is dropped.
    pub(super) async fn erase_discarded(self: Arc<Self>) {
        let mut at_work = BTreeSet::<TaskId>::new();
        let mut told = BTreeSet::<TaskId>::new();
        let mut erasing = JoinSet::new();
        loop {
            match self.store.scan(records::ERASE).await {
                Ok(found) => {
                    for (key, bytes) in found {
                        if at_work.len() >= TASKS {
                            break;
                        }
                        let entry = match EraseEntry::from_bytes(&key, &bytes) {
                            Ok(entry) => entry,
                            Err(error) => {
                                tracing::error!(key, %error, "what is to be erased cannot be read");
                                self.health.degraded("erase", "what is to be erased cannot be read");
                                continue;
                            }
                        };
                        if !told.contains(&entry.task) && at_work.insert(entry.task.clone()) {
                            let uploader = self.clone();
                            erasing.spawn(async move { uploader.erase_task(entry).await });
                        }
                    }
                }
                Err(error) => tracing::error!(%error, "what is to be erased cannot be looked through"),
            }
            tokio::select! {
                done = erasing.join_next(), if !erasing.is_empty() => match done {
                    Some(Ok(task)) => {
                        at_work.remove(&task);
                        told.insert(task);
                    }
                    Some(Err(error)) => {
                        tracing::error!(%error, "the removal of a discarded task ended in a panic");
                        at_work.clear();
                        erasing.shutdown().await;
                    }
                    None => {}
                },
                () = self.spool.wait_erase() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Tries until nothing is left.
    async fn erase_task(&self, mut entry: EraseEntry) -> TaskId {
        let task = entry.task.clone();
        self.spool.grounded(&task).await;
        let mut attempts = 0;
        while let Err(error) = self.erase_once(&mut entry).await {
            attempts += 1;
            let config = self.config.now();
            let upload = &config.upload;
            let first = Duration::from_secs(upload.retry_first_seconds);
            let longest = Duration::from_secs(upload.retry_longest_seconds);
            let wait = backoff(attempts, first, longest, rand::random());
            let message: String = error.message.chars().take(MESSAGE).collect();
            tracing::warn!(%task, code = error.code, why = message, ?wait, "a discarded task cannot be removed yet");
            metrics::counter!("holdfast_erase_failures_total").increment(1);
            self.tell_unerased(&task, Some(format!("a discarded task is still at its destination: {}", error.code)));
            self.tell(task.clone(), Some(Fate::UploadFailed { code: error.code, message })).await;
            tokio::time::sleep(wait).await;
        }
        self.tell_unerased(&task, None);
        let EraseEntry { objects, bytes, uploads, media, .. } = entry;
        tracing::info!(%task, objects, bytes, uploads, "nothing of a discarded task is left at its destination");
        metrics::counter!("holdfast_erased_objects_total").increment(objects);
        self.tell(task.clone(), Some(Fate::Erased { objects, bytes, uploads, media })).await;
        task
    }

    fn tell_unerased(&self, task: &TaskId, why: Option<String>) {
        let mut unerased = self.unerased.lock().expect("nothing panics while it holds this lock");
        match why {
            Some(why) => drop(unerased.insert(task.clone(), why)),
            None => drop(unerased.remove(task)),
        }
        match unerased.values().next() {
            Some(why) => self.health.degraded("erase", why.as_str()),
            None => self.health.ok("erase"),
        }
    }

    async fn erase_once(&self, entry: &mut EraseEntry) -> Result<(), PutError> {
        if entry.stage == EraseStage::Done {
            return Ok(());
        }
        let destination = self.destination_of(&entry.task).await?;
        if let Vendor::Vod(vod) = &destination.destination.vendor {
            return self.erase_media(entry, vod).await;
        }
        let line = self.line_of(&entry.task, destination).await?;
        let begun = self.abort_parts(&entry.task, &line).await?;
        if entry.stage == EraseStage::Counting {
            let found = self.remaining(entry, &line).await?;
            entry.objects = found.len() as u64;
            entry.bytes = found.iter().map(|(_, bytes)| bytes).sum();
            entry.uploads = begun.len() as u64;
            self.goes_on(entry, EraseStage::Erasing).await?;
            crash::point("discard.counted");
        }
        loop {
            let found = self.remaining(entry, &line).await?;
            if found.is_empty() {
                if entry.stage == EraseStage::Verifying {
                    break;
                }
                self.goes_on(entry, EraseStage::Verifying).await?;
                tokio::time::sleep(SETTLE).await;
                // a part that was under way may have begun the upload anew
                self.abort_parts(&entry.task, &line).await?;
                continue;
            }
            if entry.stage == EraseStage::Verifying {
                entry.objects += found.len() as u64;
                entry.bytes += found.iter().map(|(_, bytes)| bytes).sum::<u64>();
                self.goes_on(entry, EraseStage::Erasing).await?;
            }
            self.remove(found, &line).await?;
            crash::point("discard.removed");
        }
        let parts = begun.into_iter().fold(Batch::new(), Batch::delete);
        self.store.commit(parts).await.map_err(ours)?;
        self.goes_on(entry, EraseStage::Done).await?;
        crash::point("discard.erased");
        Ok(())
    }

    pub(super) async fn goes_on(&self, entry: &mut EraseEntry, stage: EraseStage) -> Result<(), PutError> {
        entry.stage = stage;
        self.store.commit(Batch::new().put(entry.key(), entry.to_bytes())).await.map_err(ours)
    }

    /// Gives up what has gone up in parts; their records, whose keys are answered, stay until the end.
    async fn abort_parts(&self, task: &TaskId, line: &Line) -> Result<Vec<String>, PutError> {
        let mut keys = Vec::new();
        for (key, bytes) in self.store.scan(records::parts_prefix(task)).await.map_err(ours)? {
            if let (Ok(record), Some(parts)) = (PartsEntry::from_bytes(&key, &bytes), line.store.parts()) {
                parts.abort(&record.object_key, &record.upload).await?;
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// What the destination has of the task. Where it may not be asked for a list, it is asked for every name.
    async fn remaining(&self, entry: &EraseEntry, line: &Line) -> Result<Vec<(String, u64)>, PutError> {
        let mut found: Vec<(String, u64)> = Vec::new();
        loop {
            let after = found.last().map(|(key, _)| key.clone());
            match line.store.list(&entry.prefix, after.as_deref()).await {
                Ok(page) if page.is_empty() => return Ok(found),
                Ok(page) => found.extend(page),
                Err(error) if matches!(error.class, Class::Refused | Class::Never) => {
                    tracing::debug!(task = %entry.task, code = error.code, "the destination gives no list: asked name by name");
                    return self.remaining_by_name(entry, line).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn remaining_by_name(&self, entry: &EraseEntry, line: &Line) -> Result<Vec<(String, u64)>, PutError> {
        let prefix = records::segments_prefix(&entry.task);
        let segments = self.store.scan(prefix.clone()).await.map_err(ours)?;
        let segments = segments.iter().filter_map(|(key, _)| key.strip_prefix(prefix.as_str()));
        let mut found = Vec::new();
        for name in segments.chain(entry.names.iter().map(String::as_str)) {
            let key = format!("{}{name}", entry.prefix);
            match line.store.head(&key).await {
                Ok(Some(held)) => found.push((key, held.size)),
                Ok(None) => {}
                // it may not even be asked: once removed unseen, it is taken for gone
                Err(error) if error.class == Class::Refused => {
                    if entry.stage == EraseStage::Erasing {
                        line.store.delete(&key).await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn remove(&self, found: Vec<(String, u64)>, line: &Line) -> Result<(), PutError> {
        let mut removing = JoinSet::new();
        let mut keys = found.into_iter().map(|(key, _)| key);
        loop {
            while removing.len() < AT_ONCE
                && let Some(key) = keys.next()
            {
                let store = line.store.clone();
                removing.spawn(async move { store.delete(&key).await });
            }
            match removing.join_next().await {
                Some(Ok(removed)) => removed?,
                Some(Err(error)) => return Err(PutError::new(Class::Later, "InternalError", error.to_string())),
                None => return Ok(()),
            }
        }
    }
}

fn ours(error: store::Error) -> PutError {
    PutError::new(Class::Later, "InternalError", error.to_string())
}
