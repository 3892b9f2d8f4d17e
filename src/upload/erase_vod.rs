//! Discarded tasks whose files went to VOD: what the platform made of them goes.
//!
//! Owns: which FileIds are of a task, and DeleteMedia. Must not touch: the shelf, other destinations, what is told.
//! Law: all that the task, its folder and its sessions know of is written down before the first file is deleted, and
//! nothing of it is ever given up; a commit whose answer nobody heard is asked for again, by the same session, since only
//! its answer names what is to go. What the platform does not have counts as deleted.
//! Sources: API.md §5; DeleteMedia of VOD 2018-07-17.

use std::collections::BTreeMap;

use super::vod::{put_error, without_key, without_secrets};
use super::*;
use crate::model::vod::{self, Committed, Means, Vod, Which};
use crate::store::Batch;
use crate::store::records::{EraseEntry, EraseStage, PartsEntry};
use crate::store::vod::{VodSession, load_session};

impl Uploader {
    /// Once; nothing of the task flies.
    pub(super) async fn erase_media(&self, entry: &mut EraseEntry, vod: &Vod) -> Result<(), PutError> {
        if entry.stage == EraseStage::Counting {
            entry.uploads = self.drop_all_parts(&entry.task).await?;
            let known = self.media_of(&entry.task, vod).await?;
            // those that the task alone knows were committed by a version that kept no journal of them
            entry.objects = (known.len() + entry.media.iter().filter(|id| !known.contains_key(*id)).count()) as u64;
            entry.bytes = known.values().sum();
            entry.media.retain(|id| !known.contains_key(id));
            entry.media.extend(known.into_keys());
            self.goes_on(entry, EraseStage::Erasing).await?;
            crash::point("discard.known");
        }
        for file_id in &entry.media {
            self.delete_media(&entry.task, vod, file_id).await?;
            crash::point("discard.deleted");
        }
        let mut batch = Batch::new();
        for prefix in [records::parts_prefix(&entry.task), records::vod_prefix(&entry.task)] {
            for (key, _) in self.store.scan(prefix).await.map_err(ours)? {
                batch = batch.delete(key);
            }
        }
        self.store.commit(batch).await.map_err(ours)?;
        self.goes_on(entry, EraseStage::Done).await?;
        crash::point("discard.erased");
        Ok(())
    }

    async fn delete_media(&self, task: &TaskId, vod: &Vod, file_id: &str) -> Result<(), PutError> {
        let platform = self.platform()?;
        let answer = platform.call("DeleteMedia", &vod.delete_request(file_id), (self.clock)()).await?;
        vod::read_deleted(&answer).map_err(|refusal| without_key(put_error(refusal), &platform))?;
        tracing::info!(%task, file_id, "VOD has the file no more");
        Ok(())
    }

    /// How many uploads were under way. They are dropped at the storage while their keys work.
    async fn drop_all_parts(&self, task: &TaskId) -> Result<u64, PutError> {
        let mut begun = 0;
        for (key, bytes) in self.store.scan(records::parts_prefix(task)).await.map_err(ours)? {
            if let Ok(record) = PartsEntry::from_bytes(&key, &bytes) {
                self.drop_parts(&record).await;
                begun += 1;
            }
        }
        Ok(begun)
    }

    /// FileIds and lengths of what the platform has of the task.
    async fn media_of(&self, task: &TaskId, vod: &Vod) -> Result<BTreeMap<String, u64>, PutError> {
        let noted = self.spool.noted_at_vod(task).await;
        let (stored, committed) = noted.map_err(|e| PutError::new(Class::Never, LOCAL_READ_ERROR, e.to_string()))?;
        let answered = |which: &Which| committed.iter().any(|committed| committed.which == *which);
        let mut doubtful = Vec::<(Which, VodSession)>::new();
        for stored in stored.iter().filter(|stored| !answered(&stored.which)) {
            let sealed = hex::decode(&stored.session).unwrap_or_default();
            let session = VodSession::of_sealed(&self.box_key, &sealed, task, &stored.which.object);
            match session {
                Some(session) => doubtful.push((stored.which.clone(), session)),
                None => tracing::warn!(%task, object = stored.which.object, "a session with VOD does not open"),
            }
        }
        let prefix = records::vod_prefix(task);
        for (key, _) in self.store.scan(prefix.clone()).await.map_err(ours)? {
            let object = key.strip_prefix(prefix.as_str()).unwrap_or_default();
            let Some(session) = load_session(&self.store, &self.box_key, task, object).await.map_err(ours)? else {
                continue;
            };
            let which = Which { object: object.to_owned(), bytes: session.bytes, crc32: session.crc32 };
            let new = || doubtful.iter().all(|(_, known)| known.applied.session != session.applied.session);
            if session.stored && !answered(&which) && new() {
                doubtful.push((which, session));
            }
        }
        let mut found: BTreeMap<String, u64> =
            committed.iter().map(|committed| (committed.media.file_id.clone(), committed.which.bytes)).collect();
        for (which, session) in doubtful {
            if let Some(learned) = self.ask_by_commit(task, vod, which, &session).await? {
                found.insert(learned.media.file_id, learned.which.bytes);
            }
        }
        Ok(found)
    }

    /// What became of a file that is stored, and of whose commit nobody knows. `None`: nothing.
    async fn ask_by_commit(
        &self,
        task: &TaskId,
        vod: &Vod,
        which: Which,
        session: &VodSession,
    ) -> Result<Option<Committed>, PutError> {
        let platform = self.platform()?;
        let answer = platform.call("CommitUpload", &vod.commit_request(&session.applied.session), (self.clock)()).await;
        let hidden = |error| without_secrets(error, &platform, session);
        let media = match vod::read_committed(&answer.map_err(hidden)?) {
            Ok(media) => media,
            Err(refusal) if matches!(vod::meaning(&refusal.code), Means::Session | Means::File) => {
                tracing::info!(%task, object = which.object, code = refusal.code, "VOD has made nothing of a stored file");
                return Ok(None);
            }
            Err(refusal) => return Err(hidden(put_error(refusal))),
        };
        let committed = Committed { which, media };
        // before it is deleted: a second answer may name nothing
        let noted = self.spool.note_committed(task, committed.clone()).await;
        noted.map_err(|e| PutError::new(Class::Never, LOCAL_READ_ERROR, e.to_string()))?;
        crash::point("discard.learned");
        Ok(Some(committed))
    }
}
