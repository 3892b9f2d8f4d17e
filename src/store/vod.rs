//! A file's session with the VOD platform, sealed: where it goes, by which keys, how far it is.
//!
//! Owns: the shape of `vod/<task>/<object>`. Must not touch: what follows from it (`upload`).
//! Law: all of it is sealed with the box's key under its own name, since the session's key commits the file and the
//! temporary keys write to the platform's storage; losing it means beginning anew.

use serde::{Deserialize, Serialize};

use super::records::vod_key;
use super::seal::BoxKey;
use super::{Error, Store};
use crate::model::vod::{Applied, Temporary};
use crate::model::{Secret, TaskId};

const VERSION: u32 = 1;

/// What ApplyUpload gave for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VodSession {
    /// Of the file: another one has another session.
    pub bytes: u64,
    pub crc32: u32,
    pub applied: Applied,
    /// Unix seconds after which new keys are asked for.
    pub renew_at: Option<i64>,
    /// The storage has taken something in this session: its keys did work.
    pub worked: bool,
    /// All of the file is stored; what is left is to commit it.
    pub stored: bool,
    /// Sessions of this file before this one that CommitUpload did not know.
    pub unknown: u32,
}

/// Only ever alive between [`Secret`]s and the seal.
#[derive(Serialize, Deserialize)]
struct Plain {
    v: u32,
    bytes: u64,
    crc32: u32,
    session: String,
    bucket: String,
    region: String,
    path: String,
    /// id, key, token, end
    keys: Option<(String, String, String, i64)>,
    renew_at: Option<i64>,
    worked: bool,
    stored: bool,
    unknown: u32,
}

impl VodSession {
    pub fn to_sealed(&self, box_key: &BoxKey, task: &TaskId, object: &str) -> Vec<u8> {
        let Applied { session, bucket, region, path, keys } = &self.applied;
        let exposed = |secret: &Secret| secret.expose().to_owned();
        let plain = Plain {
            v: VERSION,
            bytes: self.bytes,
            crc32: self.crc32,
            session: exposed(session),
            bucket: bucket.clone(),
            region: region.clone(),
            path: path.clone(),
            keys: keys.as_ref().map(|k| (exposed(&k.secret_id), exposed(&k.secret_key), exposed(&k.token), k.expires)),
            renew_at: self.renew_at,
            worked: self.worked,
            stored: self.stored,
            unknown: self.unknown,
        };
        let text = serde_json::to_vec(&plain).expect("it has text keys and no floats");
        box_key.seal(&text, &vod_key(task, object))
    }

    /// Of the file of this name. `None`: it was sealed by another box, or for another file, or is none.
    pub fn of_sealed(box_key: &BoxKey, sealed: &[u8], task: &TaskId, object: &str) -> Option<VodSession> {
        VodSession::open(box_key, sealed, &vod_key(task, object))
    }

    fn open(box_key: &BoxKey, sealed: &[u8], key: &str) -> Option<VodSession> {
        let plain: Plain = serde_json::from_slice(&box_key.open(sealed, key).ok()?).ok()?;
        let keys = plain.keys.map(|(id, key, token, expires)| Temporary {
            secret_id: Secret::new(id),
            secret_key: Secret::new(key),
            token: Secret::new(token),
            expires,
        });
        let Plain { bytes, crc32, session, bucket, region, path, renew_at, worked, stored, unknown, .. } = plain;
        let applied = Applied { session: Secret::new(session), bucket, region, path, keys };
        Some(VodSession { bytes, crc32, applied, renew_at, worked, stored, unknown }).filter(|_| plain.v == VERSION)
    }
}

/// The session of a file; one that does not open is as good as none.
pub async fn load_session(
    store: &Store,
    box_key: &BoxKey,
    task: &TaskId,
    object: &str,
) -> Result<Option<VodSession>, Error> {
    let key = vod_key(task, object);
    let Some(sealed) = store.get(&key).await? else { return Ok(None) };
    let session = VodSession::open(box_key, &sealed, &key);
    if session.is_none() {
        tracing::warn!(%task, object, "a session with the VOD platform does not open: a new one is begun");
    }
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_is_kept_sealed_and_opens_for_its_own_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("index")).unwrap().store;
        let box_key = BoxKey::load_or_create(&dir.path().join("box.key")).unwrap();
        let task = TaskId::parse("hT..").unwrap();
        let keys = Temporary {
            secret_id: Secret::new("hush-id"),
            secret_key: Secret::new("hush-key"),
            token: Secret::new("hush-token"),
            expires: 7,
        };
        let applied = Applied {
            session: Secret::new("hush-session"),
            bucket: "b".into(),
            region: "r".into(),
            path: "p/a.mp4".into(),
            keys: Some(keys),
        };
        let session =
            VodSession { bytes: 1, crc32: 2, applied, renew_at: Some(5), worked: true, stored: false, unknown: 1 };
        assert!(!format!("{session:?}").contains("hush"));
        let sealed = session.to_sealed(&box_key, &task, "a.mp4");
        assert!(!sealed.windows(4).any(|four| four == b"hush"));
        let batch = super::super::Batch::new().put(vod_key(&task, "a.mp4"), sealed.clone());
        store.commit(batch.put(vod_key(&task, "b.mp4"), sealed)).await.unwrap();
        assert_eq!(load_session(&store, &box_key, &task, "a.mp4").await.unwrap(), Some(session));
        assert_eq!(load_session(&store, &box_key, &task, "b.mp4").await.unwrap(), None);
        assert_eq!(load_session(&store, &box_key, &task, "c.mp4").await.unwrap(), None);
    }
}
