//! The shapes of what the index keeps, and under which keys.
//!
//! Owns: key layout, versions, bytes. Must not touch: what follows from a record.
//! Law: every record says its version; a shape that was ever written is never changed (its golden bytes are tests),
//! a new one gets a new number and old ones are read forward.
//!
//! | key | value | written by |
//! | --- | --- | --- |
//! | `task/<task>` | opaque | `rooms` |
//! | `seg/<task>/<object>` | opaque | `rooms` |
//! | `out/<app>/<task>/<seq:010>` | [`OutboxEntry`] | `rooms` puts, `webhook` deletes |
//! | `spool/<task>/<object>` | [`SpoolEntry`], a segment | `spool`; a settled one is deleted by `rooms` ([`settle`]) |
//! | `spool/<task>/<object>` | [`SpoolEntry`], a packed file | as a segment |
//! | `spool/<task>/<object>.v<version>` | [`SpoolEntry`], a playlist | `spool` |
//! | `parts/<task>/<object>` | [`PartsEntry`] | `upload` puts, `spool` deletes with the file's fate |
//! | `vod/<task>/<object>` | sealed [`super::vod::VodSession`] | `upload` puts, `spool` deletes with the file's fate |
//! | `erase/<task>` | [`EraseEntry`] | `spool` puts, `upload` goes on with it, `spool` deletes with the task |
//! | `dest/<task>` | [`DestinationEntry`] | `rooms` puts ([`put_destination`]), `spool` deletes with the task |
//! | `keys/<task>` | sealed [`TaskKeys`] | as `dest/` |
//! | `mirror/<app>/<task>/<seq:010>` | [`OutboxEntry`] | `rooms` puts, `fleet` deletes |
//! | `line/…` | [`MessageEntry`] and counters | `fleet` |
//!
//! Task ids and object names have no `/`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::seal::BoxKey;
use super::{Batch, Error, Store};
use crate::model::event::Event;
use crate::model::recording::{Destination, StorageKeys, Vendor};
use crate::model::segment::ClosedSegment;
use crate::model::vod::{Media, Which};
use crate::model::{SdkAppId, Secret, TaskId, Timestamp};

pub const TASKS: &str = "task/";
pub const PIECES: &str = "seg/";
pub const OUTBOX: &str = "out/";
pub const SPOOL: &str = "spool/";
pub const PARTS: &str = "parts/";
/// Sessions of files that go to VOD.
pub const VOD: &str = "vod/";
pub const ERASE: &str = "erase/";
/// Events as the operators are told of them; by the side of [`OUTBOX`], since each has its own receiver.
pub const MIRROR: &str = "mirror/";
/// What `fleet` keeps of its own.
pub const LINE: &str = "line/";

pub fn task_key(task: &TaskId) -> String {
    format!("{TASKS}{task}")
}

/// Facts of one segment, if `rooms` keeps them apart from its task.
pub fn segment_key(task: &TaskId, object: &str) -> String {
    format!("{PIECES}{task}/{object}")
}

/// All segments' facts of a task.
pub fn segments_prefix(task: &TaskId) -> String {
    format!("{PIECES}{task}/")
}

pub fn keys_key(task: &TaskId) -> String {
    format!("keys/{task}")
}

pub fn destination_key(task: &TaskId) -> String {
    format!("dest/{task}")
}

/// `seq` is written with ten digits or more; up to ten, keys sort as numbers do.
pub fn outbox_key(app: SdkAppId, task: &TaskId, seq: u64) -> String {
    format!("{OUTBOX}{app}/{task}/{seq:010}")
}

/// As [`outbox_key`].
pub fn mirror_key(app: SdkAppId, task: &TaskId, seq: u64) -> String {
    format!("{MIRROR}{app}/{task}/{seq:010}")
}

/// The task of which an event in the outbox speaks.
pub fn task_of_event(key: &str) -> Option<&str> {
    key.strip_prefix(OUTBOX)?.split('/').nth(1)
}

pub fn spool_key(task: &TaskId, object: &str) -> String {
    format!("{SPOOL}{task}/{object}")
}

/// A playlist's name on the shelf and in the index.
pub fn versioned(object: &str, version: u64) -> String {
    format!("{object}.v{version}")
}

pub fn spool_prefix(task: &TaskId) -> String {
    format!("{SPOOL}{task}/")
}

/// How far a large file has gone up.
pub fn parts_key(task: &TaskId, object: &str) -> String {
    format!("{PARTS}{task}/{object}")
}

pub fn parts_prefix(task: &TaskId) -> String {
    format!("{PARTS}{task}/")
}

/// A file's session with the VOD platform.
pub fn vod_key(task: &TaskId, object: &str) -> String {
    format!("{VOD}{task}/{object}")
}

pub fn vod_prefix(task: &TaskId) -> String {
    format!("{VOD}{task}/")
}

/// What a discarded task's destination is to be rid of.
pub fn erase_key(task: &TaskId) -> String {
    format!("{ERASE}{task}")
}

/// One thing on the shelf that must reach its destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpoolEntry {
    pub task: TaskId,
    /// File name at the destination.
    pub object: String,
    /// The whole key at the destination.
    pub object_key: String,
    /// File name in the task's folder.
    pub file: String,
    pub bytes: u64,
    /// CRC-32 (IEEE) of the file's contents when it was put on the shelf.
    pub crc32: u32,
    /// Rises with every file that is put on the shelf: oldest first.
    pub order: u64,
    pub kind: SpoolKind,
    pub state: SpoolState,
    /// How it lies on the shelf, when it is not plain. `bytes` and `crc32` are of its contents all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedFile {
    /// Length of the file.
    pub bytes: u64,
    /// Names the key that opens it.
    pub key: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpoolKind {
    Segment(ClosedSegment),
    Playlist {
        version: u64,
    },
    /// A packed file: `file` holds its plan, `bytes` are those of what is made by it, `crc32` names its contents.
    Package,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpoolState {
    /// It is on the shelf and waits for its destination.
    Spooled,
    /// The destination has it. Kept until the task has noted it, so that a crash between cannot hide the news.
    Uploaded,
    /// VOD has it, as this. Kept like `Uploaded`.
    Committed(Media),
    /// Its contents cannot be trusted or are gone. Kept like `Uploaded`.
    Lost { why: String },
}

/// An event that its receiver has not yet taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxEntry {
    pub event: Event,
}

/// A message that the operators' broker has not yet taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageEntry {
    /// Below the box's own.
    pub topic: String,
    #[serde(with = "as_base64")]
    pub payload: Vec<u8>,
    pub retain: bool,
    /// When it was written.
    pub at: Timestamp,
}

mod as_base64 {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// A large file that goes up in parts: what its destination holds of it. Losing it only means beginning anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsEntry {
    pub task: TaskId,
    pub object: String,
    pub object_key: String,
    /// The storage's name for what has been begun.
    pub upload: String,
    pub part_bytes: u64,
    /// Of the whole file: another file has other parts.
    pub bytes: u64,
    pub crc32: u32,
    /// In order from the first.
    pub parts: Vec<PartEntry>,
}

/// A part that the destination has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEntry {
    /// Its ETag, as the storage said it.
    pub tag: String,
    /// MD5 in hex.
    pub md5: String,
}

/// A discarded task's objects, which are to go from its destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseEntry {
    pub task: TaskId,
    /// What keys of the task begin with.
    pub prefix: String,
    /// File names beside those of the task's segments, for a destination that does not say what it holds.
    pub names: Vec<String>,
    pub stage: EraseStage,
    /// What was found there.
    pub objects: u64,
    pub bytes: u64,
    /// Uploads in parts that were under way.
    pub uploads: u64,
    /// What VOD made of the task's files: its FileIds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EraseStage {
    /// What is there is not counted yet.
    Counting,
    Erasing,
    /// All is gone; what was on its way may still have arrived.
    Verifying,
    Done,
}

/// Where a task's files go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationEntry {
    pub destination: Destination,
    /// Equal for tasks that share destination and keys, and so also their failures.
    pub line: String,
}

/// What a task needs that must never be seen: its storage keys, and the UserSig with which it enters the room (again).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskKeys {
    pub storage: StorageKeys,
    pub user_sig: Secret,
}

/// The version beside the record's own fields.
#[derive(Serialize)]
struct Versioned<T> {
    v: u32,
    #[serde(flatten)]
    record: T,
}

/// The version alone: reading it first costs less than reading a flattened record, which is kept in between.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

const VERSION: u32 = 1;

fn encode<T: Serialize>(record: T) -> Vec<u8> {
    serde_json::to_vec(&Versioned { v: VERSION, record }).expect("records have text keys and no floats")
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, Error> {
    let broken = |why: String| Error::Record { key: key.to_owned(), why };
    let Version { v } = serde_json::from_slice(bytes).map_err(|e| broken(e.to_string()))?;
    if v != VERSION {
        return Err(broken(format!("version {v} is not known here")));
    }
    serde_json::from_slice(bytes).map_err(|e| broken(e.to_string()))
}

impl SpoolEntry {
    /// Each version of a playlist has a key of its own, so that a newer one put on the shelf and an older one taken
    /// off at the same moment do not meet.
    pub fn key(&self) -> String {
        match self.kind {
            SpoolKind::Segment(_) | SpoolKind::Package => spool_key(&self.task, &self.object),
            SpoolKind::Playlist { version } => spool_key(&self.task, &versioned(&self.object, version)),
        }
    }
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }
    pub fn from_bytes(key: &str, bytes: &[u8]) -> Result<SpoolEntry, Error> {
        decode(key, bytes)
    }
    pub fn which(&self) -> Which {
        Which { object: self.object.clone(), bytes: self.bytes, crc32: self.crc32 }
    }
    /// Length of the file on the shelf.
    pub fn stored_bytes(&self) -> u64 {
        self.sealed.as_ref().map_or(self.bytes, |sealed| sealed.bytes)
    }
    /// The segment, when it is one.
    pub fn segment(&self) -> Option<&ClosedSegment> {
        match &self.kind {
            SpoolKind::Segment(segment) => Some(segment),
            SpoolKind::Playlist { .. } | SpoolKind::Package => None,
        }
    }
}

impl OutboxEntry {
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }
    pub fn from_bytes(key: &str, bytes: &[u8]) -> Result<OutboxEntry, Error> {
        decode(key, bytes)
    }
}

impl MessageEntry {
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }
    pub fn from_bytes(key: &str, bytes: &[u8]) -> Result<MessageEntry, Error> {
        decode(key, bytes)
    }
}

impl PartsEntry {
    pub fn key(&self) -> String {
        parts_key(&self.task, &self.object)
    }
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }
    pub fn from_bytes(key: &str, bytes: &[u8]) -> Result<PartsEntry, Error> {
        decode(key, bytes)
    }
}

impl EraseEntry {
    pub fn key(&self) -> String {
        erase_key(&self.task)
    }
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }
    pub fn from_bytes(key: &str, bytes: &[u8]) -> Result<EraseEntry, Error> {
        decode(key, bytes)
    }
}

impl DestinationEntry {
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }
    pub fn from_bytes(key: &str, bytes: &[u8]) -> Result<DestinationEntry, Error> {
        decode(key, bytes)
    }
}

/// Adds an event to the outbox, in the commit of the change that it reports.
#[must_use]
pub fn put_event(batch: Batch, event: &Event) -> Batch {
    let key = outbox_key(event.app, &event.task, event.seq);
    batch.put(key, OutboxEntry { event: event.clone() }.to_bytes())
}

/// Adds a new task's destination, and its keys sealed, to the commit that creates it.
#[must_use]
pub fn put_destination(
    batch: Batch,
    task: &TaskId,
    destination: &Destination,
    keys: &StorageKeys,
    user_sig: &Secret,
    box_key: &BoxKey,
) -> Batch {
    let Destination { vendor, region, bucket, .. } = destination;
    let secrets = [keys.access_key.expose(), keys.secret_key.expose()];
    let line = match vendor {
        // the box's own keys; the platform says where files go
        Vendor::Vod(vod) => format!("vod/{}", vod.sub_app.unwrap_or_default()),
        _ => format!("{vendor:?}/{region}/{bucket}/{}", box_key.fingerprint(&secrets)).to_lowercase(),
    };
    let entry = DestinationEntry { destination: destination.clone(), line };
    let sealed = box_key.seal(&PlainKeys::of(keys, user_sig).to_bytes(), &keys_key(task));
    batch.put(destination_key(task), entry.to_bytes()).put(keys_key(task), sealed)
}

/// Where a task's files go; `None` when there is no such task (any more).
pub async fn load_destination(store: &Store, task: &TaskId) -> Result<Option<DestinationEntry>, Error> {
    let key = destination_key(task);
    let Some(bytes) = store.get(&key).await? else { return Ok(None) };
    DestinationEntry::from_bytes(&key, &bytes).map(Some)
}

/// A task's keys, opened; `None` when there is no such task (any more).
pub async fn load_keys(store: &Store, box_key: &BoxKey, task: &TaskId) -> Result<Option<TaskKeys>, Error> {
    let key = keys_key(task);
    let Some(sealed) = store.get(&key).await? else { return Ok(None) };
    let broken = |why: String| Error::Record { key: key.clone(), why };
    let plain = box_key.open(&sealed, &key).map_err(|e| broken(e.to_string()))?;
    // the parser's own words could quote what they stumble over
    let plain: PlainKeys = decode(&key, &plain).map_err(|_| broken("it opens, and is no record of keys".into()))?;
    Ok(Some(TaskKeys {
        storage: StorageKeys { access_key: Secret::new(plain.access_key), secret_key: Secret::new(plain.secret_key) },
        user_sig: Secret::new(plain.user_sig),
    }))
}

/// Deletes the shelf's memory of an uploaded or lost file, in the commit with which its task notes the fate.
#[must_use]
pub fn settle(batch: Batch, task: &TaskId, object: &str) -> Batch {
    batch.delete(spool_key(task, object))
}

/// Only ever alive between [`Secret`]s and the seal.
#[derive(Serialize, Deserialize)]
struct PlainKeys {
    access_key: String,
    secret_key: String,
    user_sig: String,
}

impl PlainKeys {
    fn of(keys: &StorageKeys, user_sig: &Secret) -> PlainKeys {
        PlainKeys {
            access_key: keys.access_key.expose().to_owned(),
            secret_key: keys.secret_key.expose().to_owned(),
            user_sig: user_sig.expose().to_owned(),
        }
    }
    fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::event::EventBody;
    use crate::model::{Lane, LaneKind, LaneRun, MediaId, RoomId, UserId};

    fn task() -> TaskId {
        TaskId::parse("hAb+c-9..").unwrap()
    }

    fn segment() -> ClosedSegment {
        let lane = Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, LaneKind::Video);
        ClosedSegment {
            run: LaneRun { task: task(), lane, run: 2 },
            index: 7,
            start: Timestamp(1_700_000_000_123_456),
            duration: Duration::from_micros(10_033_333),
            bytes: 1_880,
            size: Some((640, 360)),
            discontinuity: true,
            part_name: "a.part".into(),
        }
    }

    fn golden(bytes: &[u8], expected: &str) {
        assert_eq!(std::str::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn a_message_that_waits_has_these_bytes() {
        let entry = MessageEntry { topic: "telemetry".into(), payload: b"{}".to_vec(), retain: true, at: Timestamp(7) };
        golden(&entry.to_bytes(), r#"{"v":1,"topic":"telemetry","payload":"e30=","retain":true,"at":7}"#);
        assert_eq!(MessageEntry::from_bytes("line/x", &entry.to_bytes()).unwrap(), entry);
    }

    #[test]
    fn a_spooled_segment_has_these_bytes() {
        let entry = SpoolEntry {
            task: task(),
            object: "1_2.ts".into(),
            object_key: "p/hAb+c-9../1_2.ts".into(),
            file: "a.ts".into(),
            bytes: 1_880,
            crc32: 0xcbf4_3926,
            order: 41,
            kind: SpoolKind::Segment(segment()),
            state: SpoolState::Spooled,
            sealed: None,
        };
        golden(
            &entry.to_bytes(),
            concat!(
                r#"{"v":1,"task":"hAb+c-9..","object":"1_2.ts","object_key":"p/hAb+c-9../1_2.ts","file":"a.ts","#,
                r#""bytes":1880,"crc32":3421780262,"order":41,"kind":{"segment":{"run":{"task":"hAb+c-9..","#,
                r#""lane":{"user":"ann","media":"main","kind":"video"},"run":2},"index":7,"start":1700000000123456,"#,
                r#""duration":{"secs":10,"nanos":33333000},"bytes":1880,"size":[640,360],"discontinuity":true,"#,
                r#""part_name":"a.part"}},"state":"spooled"}"#
            ),
        );
        assert_eq!(SpoolEntry::from_bytes("k", &entry.to_bytes()).unwrap(), entry);
        assert_eq!(entry.key(), "spool/hAb+c-9../1_2.ts");

        let sealed = SealedFile { bytes: 2_000, key: "8d069dada3c85e2b".into() };
        let plain = String::from_utf8(entry.to_bytes()).unwrap();
        let entry = SpoolEntry { sealed: Some(sealed), ..entry };
        let tail = r#","sealed":{"bytes":2000,"key":"8d069dada3c85e2b"}}"#;
        golden(&entry.to_bytes(), &format!("{}{tail}", plain.strip_suffix('}').unwrap()));
        assert_eq!(SpoolEntry::from_bytes("k", &entry.to_bytes()).unwrap(), entry);
        assert_eq!(entry.stored_bytes(), 2_000);
    }

    #[test]
    fn what_is_to_be_erased_has_these_bytes() {
        let entry = EraseEntry {
            task: task(),
            prefix: "p/hAb+c-9../".into(),
            names: vec!["l.m3u8".into()],
            stage: EraseStage::Verifying,
            objects: 7,
            bytes: 1_316,
            uploads: 1,
            media: Vec::new(),
        };
        golden(
            &entry.to_bytes(),
            concat!(
                r#"{"v":1,"task":"hAb+c-9..","prefix":"p/hAb+c-9../","names":["l.m3u8"],"stage":"verifying","#,
                r#""objects":7,"bytes":1316,"uploads":1}"#
            ),
        );
        assert_eq!(EraseEntry::from_bytes("k", &entry.to_bytes()).unwrap(), entry);
        assert_eq!(entry.key(), "erase/hAb+c-9..");
        let plain = String::from_utf8(entry.to_bytes()).unwrap();
        let entry = EraseEntry { media: vec!["5285".into()], ..entry };
        golden(&entry.to_bytes(), &format!(r#"{},"media":["5285"]}}"#, plain.strip_suffix('}').unwrap()));
        assert_eq!(EraseEntry::from_bytes("k", &entry.to_bytes()).unwrap(), entry);
    }

    #[test]
    fn a_lost_playlist_has_these_bytes() {
        let entry = SpoolEntry {
            task: task(),
            object: "l.m3u8".into(),
            object_key: "hAb+c-9../l.m3u8".into(),
            file: "l.m3u8.v3".into(),
            bytes: 9,
            crc32: 1,
            order: 2,
            kind: SpoolKind::Playlist { version: 3 },
            state: SpoolState::Lost { why: "gone".into() },
            sealed: None,
        };
        golden(
            &entry.to_bytes(),
            concat!(
                r#"{"v":1,"task":"hAb+c-9..","object":"l.m3u8","object_key":"hAb+c-9../l.m3u8","file":"l.m3u8.v3","#,
                r#""bytes":9,"crc32":1,"order":2,"kind":{"playlist":{"version":3}},"state":{"lost":{"why":"gone"}}}"#
            ),
        );
        assert_eq!(SpoolEntry::from_bytes("k", &entry.to_bytes()).unwrap(), entry);
    }

    #[test]
    fn an_event_in_the_outbox_has_these_bytes() {
        let event = Event {
            app: SdkAppId(1400),
            room: RoomId::Number(5),
            recorder: UserId::parse("rec").unwrap(),
            task: task(),
            seq: 12,
            at: Timestamp(1_700_000_000_000_001),
            body: EventBody::RecorderStart { failed: false },
        };
        let entry = OutboxEntry { event };
        golden(
            &entry.to_bytes(),
            concat!(
                r#"{"v":1,"event":{"app":1400,"room":{"number":5},"recorder":"rec","task":"hAb+c-9..","seq":12,"#,
                r#""at":1700000000000001,"body":{"recorder_start":{"failed":false}}}}"#
            ),
        );
        assert_eq!(OutboxEntry::from_bytes("k", &entry.to_bytes()).unwrap(), entry);
        assert_eq!(outbox_key(SdkAppId(1400), &task(), 12), "out/1400/hAb+c-9../0000000012");
        assert_eq!(task_of_event("out/1400/hAb+c-9../0000000012"), Some("hAb+c-9.."));
    }

    #[test]
    fn parts_of_a_large_file_have_these_bytes() {
        let entry = PartsEntry {
            task: task(),
            object: "1.mp4".into(),
            object_key: "p/hAb+c-9../1.mp4".into(),
            upload: "VXBsb2Fk".into(),
            part_bytes: 5,
            bytes: 9,
            crc32: 7,
            parts: vec![PartEntry { tag: "\"t\"".into(), md5: "0a".into() }],
        };
        golden(
            &entry.to_bytes(),
            concat!(
                r#"{"v":1,"task":"hAb+c-9..","object":"1.mp4","object_key":"p/hAb+c-9../1.mp4","upload":"VXBsb2Fk","#,
                r#""part_bytes":5,"bytes":9,"crc32":7,"parts":[{"tag":"\"t\"","md5":"0a"}]}"#
            ),
        );
        assert_eq!(PartsEntry::from_bytes("k", &entry.to_bytes()).unwrap(), entry);
        assert_eq!(entry.key(), "parts/hAb+c-9../1.mp4");
    }

    #[test]
    fn other_versions_and_broken_bytes_are_refused_with_their_key() {
        for bytes in [r#"{"v":2,"event":{}}"#, r#"{"event":{}}"#, "", "\0\0"] {
            let Err(Error::Record { key, .. }) = OutboxEntry::from_bytes("out/k", bytes.as_bytes()) else { panic!() };
            assert_eq!(key, "out/k");
        }
    }

    #[tokio::test]
    async fn keys_come_back_and_are_never_on_the_disk_in_plain_text() {
        let dir = tempfile::tempdir().unwrap();
        let box_key = BoxKey::load_or_create(&dir.path().join("box.key")).unwrap();
        let store = Store::open(&dir.path().join("index")).unwrap().store;
        let destination =
            Destination { vendor: Vendor::S3, region: "eu-1".into(), bucket: "b".into(), prefix: vec!["p".into()] };
        let storage = StorageKeys {
            access_key: Secret::new("AKIA-VERY-VISIBLE"),
            secret_key: Secret::new("SECRET-VERY-VISIBLE"),
        };
        let user_sig = Secret::new("SIG-VERY-VISIBLE");
        let batch = put_destination(Batch::new(), &task(), &destination, &storage, &user_sig, &box_key);
        store.commit(batch).await.unwrap();

        let entry = load_destination(&store, &task()).await.unwrap().unwrap();
        golden(
            &entry.to_bytes(),
            &format!(
                r#"{{"v":1,"destination":{{"vendor":"s3","region":"eu-1","bucket":"b","prefix":["p"]}},"line":"s3/eu-1/b/{}"}}"#,
                entry.line.rsplit('/').next().unwrap()
            ),
        );
        let keys = load_keys(&store, &box_key, &task()).await.unwrap().unwrap();
        assert_eq!(keys, TaskKeys { storage, user_sig });
        assert_eq!(load_keys(&store, &box_key, &TaskId::parse("x").unwrap()).await.unwrap(), None);

        let other = BoxKey::load_or_create(&dir.path().join("other.key")).unwrap();
        let refused = load_keys(&store, &other, &task()).await.unwrap_err().to_string();
        assert!(refused.contains("keys/hAb+c-9..") && !refused.contains("VISIBLE"), "{refused}");

        store.close().await.unwrap();
        for file in ["index/db", "box.key"] {
            let bytes = std::fs::read(dir.path().join(file)).unwrap();
            assert!(!bytes.windows(7).any(|w| w == b"VISIBLE"), "{file}");
        }
    }
}
