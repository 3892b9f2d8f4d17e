//! The VOD platform of a walk, and what must hold of tasks whose files went there.
//!
//! Owns: what goes wrong with the platform, the comparison of its files with what was written. Must not touch: the box.
//! Law: a session is committed as often as it is asked for and makes one file (API.md §5: CommitUpload is repeated with
//! the same VodSessionKey when nobody heard its answer), so each file of a task is there once, whatever is repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast::config::Config;
use holdfast::model::output::Output;
use holdfast::model::vod::Vod;
use holdfast::model::{Secret, TaskId};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::Value;

use crate::carrier::{KEYS, Server};
use crate::life::Wall;
use crate::model::{Told, in_files, lost_one_by_one, parsed, told_of};
use crate::proxy::{Mode, Proxy};
use crate::studio::{FrameId, Written, frames};
use crate::support::receiver::Callback;
use crate::support::vod::{SUB_APP, Upload, VOD_ID, VOD_KEY, VodServer};

/// What may come over the platform.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Word {
    Api(Mode),
    Storage(Mode),
    /// The next call of this action is answered by this code.
    Refuse(&'static str, &'static str),
    KeysEnd,
    /// Sessions that were not committed are unknown from now on.
    Forgets,
}

pub fn word(rng: &mut StdRng) -> Word {
    let modes = [
        Mode::Pass,
        Mode::Pass,
        Mode::Refuse,
        Mode::Stall,
        Mode::Cut(900),
        // the platform does it, and nobody hears
        Mode::Deaf,
        Mode::Deaf,
        Mode::Slow(20_000),
        Mode::Answer(503, "Scripted"),
    ];
    let refusals = [
        ("ApplyUpload", "InvalidParameterValue.ClassId"),
        ("ApplyUpload", "AuthFailure.SecretIdNotFound"),
        ("ApplyUpload", "RequestLimitExceeded"),
        ("CommitUpload", "InternalError"),
        ("CommitUpload", "FailedOperation.InvalidVodUser"),
        ("DeleteMedia", "InternalError"),
        ("DeleteMedia", "UnauthorizedOperation"),
    ];
    match rng.random_range(0..10) {
        0..4 => Word::Api(*modes.choose(rng).expect("not empty")),
        4..6 => Word::Storage(*modes.choose(rng).expect("not empty")),
        6..8 => {
            let (action, code) = *refusals.choose(rng).expect("not empty");
            Word::Refuse(action, code)
        }
        8 => Word::KeysEnd,
        _ => Word::Forgets,
    }
}

pub struct Platform {
    server: VodServer,
    api: Proxy,
    storage: Proxy,
}

/// What a task with VOD is.
pub struct Asked {
    /// Its own.
    pub room: u32,
    pub output: Output,
    pub lists: bool,
}

/// What the platform has of a file.
struct Media {
    upload: Upload,
    body: Vec<u8>,
    /// Of a list, by their names.
    segments: BTreeMap<String, Vec<u8>>,
}

impl Platform {
    /// In front of the S3 server, by the clock of the walk: what is signed by a clock that is wrong is no matter of this.
    pub async fn begin(server: &Server, seed: u64, token_seconds: i64, wall: &Arc<Wall>) -> Platform {
        let (wall, bucket) = (wall.clone(), format!("vod-{seed}"));
        let clock = Arc::new(move || wall.now().secs());
        let server = VodServer::by_clock(&server.endpoint, KEYS, token_seconds, &bucket, clock).await;
        let api = Proxy::to(&server.api, Mode::Pass).await;
        let storage = Proxy::to(&server.storage, Mode::Pass).await;
        Platform { server, api, storage }
    }

    pub fn tell(&self, config: &mut Config) {
        config.vod.endpoint = self.api.endpoint.clone();
        config.vod.storage_endpoint = Some(self.storage.endpoint.clone());
        config.vod.secret_id = Some(VOD_ID.into());
        config.vod.secret_key = Some(Secret::new(VOD_KEY));
    }

    pub fn hear(&self, word: Word) {
        match word {
            Word::Api(mode) => self.api.set(mode),
            Word::Storage(mode) => self.storage.set(mode),
            Word::Refuse(action, code) => self.server.refuse(action, code),
            Word::KeysEnd => self.server.end_keys(),
            Word::Forgets => self.server.forget_sessions(),
        }
    }

    pub fn heal(&self) {
        self.api.set(Mode::Pass);
        self.storage.set(Mode::Pass);
        self.server.heal();
    }

    /// Of the task of this room, which has one only.
    fn uploads(&self, room: u32) -> Vec<Upload> {
        let mut uploads = self.server.uploads();
        let name = format!("_{room}__UserId_s_");
        uploads.retain(|upload| upload.asked["MediaName"].as_str().is_some_and(|media| media.contains(&name)));
        uploads
    }

    async fn media(&self, upload: Upload) -> Media {
        let body = self.server.object(&upload.key).await;
        let mut segments = BTreeMap::new();
        if upload.key.ends_with(".m3u8") {
            let (folder, _) = upload.key.rsplit_once('/').expect("a folder");
            for item in parsed(&upload.key, &body).items {
                segments.insert(item.name.clone(), self.server.object(&format!("{folder}/{}", item.name)).await);
            }
        }
        Media { upload, body, segments }
    }

    /// Everything about a task that was not discarded; `blind` as in [`crate::model::check`].
    pub async fn check(
        &self,
        task: &TaskId,
        asked: &Asked,
        written: &[Written],
        callbacks: &[Callback],
        (lives, blind): (usize, usize),
    ) {
        let written: Vec<&Written> = written.iter().filter(|w| w.task == *task).collect();
        let told = told_of(task, callbacks);
        let story: Vec<String> = told.iter().map(|t| format!("{} {} {}", t.seq, t.event, t.payload)).collect();
        let doomed = written.iter().filter(|w| w.doomed).count();
        let medias = self.files(task, asked.room, (doomed > 0, blind), &told, &story).await;

        // every segment, in its file and in its list
        let packed = medias.iter().filter(|(name, _)| name.ends_with(".aac"));
        let packed: BTreeMap<&str, Vec<FrameId>> =
            packed.map(|(name, media)| (name.as_str(), frames(&media.body))).collect();
        let (mut there, listed) = (in_files(task, &packed, &written), in_lists(task, &medias, &written));
        match (asked.output.container().is_some(), asked.lists) {
            // a list may lack what the disk had no room for, and what is in a file all the same
            (true, true) if doomed > 0 => there.extend(listed),
            (true, true) => assert_eq!(there, listed, "{task}: the files and the lists\n{story:#?}"),
            (true, false) => assert!(listed.is_empty(), "{task}: nobody asked for lists"),
            (false, _) => {
                assert!(there.is_empty(), "{task}: nobody asked for {:?}", packed.keys());
                there = listed;
            }
        }
        let missing: Vec<&&Written> = written.iter().filter(|w| !there.contains(&(w.run, w.index))).collect();
        lost_one_by_one(task, &missing, &told, &BTreeSet::new(), true, &story);

        // what else was told
        let count = |event: u64| told.iter().filter(|t| t.event == event).count();
        for event in [301, 302] {
            assert!((1..=1 + blind).contains(&count(event)), "{task}: {event}\n{story:#?}");
        }
        let others = [303, 304, 305, 307, 310].map(count);
        assert_eq!(others, [0; 5], "{task}: 303, 304, 305, 307, 310 are of buckets\n{story:#?}");
        let ends = told.iter().filter(|t| t.event == 312).filter_map(|t| t.payload["Status"].as_u64());
        let mut ends: Vec<u64> = ends.collect();
        if blind > 0 {
            ends.drain(..ends.len().saturating_sub(1));
        }
        let right: &[&[u64]] = match (medias.is_empty() && !written.is_empty(), missing.is_empty()) {
            (true, _) => &[&[1]],
            (false, true) => &[&[0], &[1, 0]],
            // what was there when the disk had no room for the rest: nothing more comes
            (false, false) => &[&[0], &[1, 0], &[1]],
        };
        assert!(right.contains(&&ends[..]), "{task}: 312 says {ends:?}\n{story:#?}");
        crate::model::errors_are_few(task, &told, missing.len().max(doomed), lives, &story);
    }

    /// What the platform has of a task, by the names: each once, and told of once by 311. Of a file that was planned anew,
    /// since the disk had no room for all of it (`doomed`), one may be there as well whose commit nobody heard of.
    async fn files(
        &self,
        task: &TaskId,
        room: u32,
        (doomed, blind): (bool, usize),
        told: &[Told],
        story: &[String],
    ) -> BTreeMap<String, Media> {
        let mut medias = Vec::new();
        for upload in self.uploads(room).into_iter().filter(|upload| upload.file_id.is_some()) {
            assert!(!upload.deleted, "{task}: {upload:?} was deleted\n{story:#?}");
            medias.push(self.media(upload).await);
        }
        let name = |media: &Media| media.upload.asked["MediaName"].as_str().expect("a name").to_owned();
        let id = |media: &Media| media.upload.file_id.clone().expect("only these were asked for");
        let names: BTreeSet<String> = medias.iter().map(name).collect();
        let there: BTreeSet<String> = medias.iter().map(id).collect();
        assert!(doomed || names.len() == medias.len(), "{task}: some of {names:?} are there twice\n{story:#?}");
        let arrived = told.iter().filter(|t| t.event == 311 && t.payload["Status"] == 0);
        let arrived: Vec<String> =
            arrived.map(|t| t.payload["TencentVod"]["FileId"].as_str().expect("an id").to_owned()).collect();
        let once: BTreeSet<String> = arrived.iter().cloned().collect();
        let most = once.iter().map(|id| arrived.iter().filter(|other| *other == id).count()).max().unwrap_or(0);
        assert!(most <= 1 + blind, "{task}: a file was told {most} times\n{story:#?}");
        assert!(once.is_subset(&there) && (doomed || once == there), "{task}: {there:?}\n{story:#?}");
        medias.retain(|media| once.contains(&id(media)));
        let count = medias.len();
        let by_name: BTreeMap<String, Media> = medias.into_iter().map(|media| (name(&media), media)).collect();
        assert_eq!(by_name.len(), count, "{task}: what is up has taken the place of what was\n{story:#?}");
        by_name
    }

    /// Nothing of it is left, and the receipt names what went.
    pub fn check_discarded(&self, task: &TaskId, room: u32, callbacks: &[Callback]) {
        let told = told_of(task, callbacks);
        let story: Vec<String> = told.iter().map(|t| format!("{} {} {}", t.seq, t.event, t.payload)).collect();
        let committed: Vec<Upload> = self.uploads(room).into_iter().filter(|u| u.file_id.is_some()).collect();
        let left: Vec<&Upload> = committed.iter().filter(|upload| !upload.deleted).collect();
        assert!(left.is_empty(), "{task}: {left:?} are left\n{story:#?}");
        let gone: BTreeSet<String> = committed.into_iter().filter_map(|upload| upload.file_id).collect();
        let receipt = told.last().map(|t| t.payload["Discard"]["FileIds"].clone()).unwrap_or_default();
        let receipt = receipt.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        assert_eq!(receipt.collect::<BTreeSet<_>>(), gone, "{task}\n{story:#?}");
    }

    /// Nothing was asked that the rules do not allow; a clock may be set between a signature and the look at it.
    pub fn assert_by_the_rules(&self) {
        let mut faults = self.server.faults();
        faults.retain(|fault| !fault.contains("SignatureExpire"));
        assert_eq!(faults, Vec::<String>::new());
    }
}

/// Each list is whole and in order. Answers with what is in them.
fn in_lists(task: &TaskId, medias: &BTreeMap<String, Media>, written: &[&Written]) -> BTreeSet<(u32, u32)> {
    let mut there = BTreeSet::new();
    for (name, media) in medias.iter().filter(|(name, _)| name.ends_with(".m3u8")) {
        let playlist = parsed(name, &media.body);
        assert!(playlist.ended, "{task}: {name} is left open");
        let mut before: Option<&Written> = None;
        for item in &playlist.items {
            let body = &media.segments[&item.name];
            let piece = written.iter().find(|w| w.bytes == *body);
            let piece = piece.unwrap_or_else(|| panic!("{task}/{name}: {} is nothing that was written", item.name));
            assert!(there.insert((piece.run, piece.index)), "{task}: {piece:?} is listed twice");
            if let Some(before) = before {
                assert_eq!(piece.lane, before.lane, "{task}");
                assert!((before.run, before.index) < (piece.run, piece.index), "{task}: {name} is out of order");
                let joins = before.run == piece.run && before.index + 1 == piece.index;
                assert_eq!(item.discontinuity, !joins, "{task}: {} in {name} ({before:?}, {piece:?})", item.name);
            }
            before = Some(piece);
        }
    }
    there
}

/// What VOD is asked for: no list, lists beside files, or lists alone.
pub fn asked(rng: &mut StdRng) -> (Output, Vod) {
    let (output, lists) =
        *[(Output::Aac, false), (Output::Aac, true), (Output::Lists, true)].choose(rng).expect("three");
    (output, Vod { sub_app: Some(SUB_APP), lists, ..Vod::default() })
}
