//! What must hold when everything is well again, whatever happened on the way.
//!
//! Owns: the comparison of what was written with the bucket, the playlists and the callbacks. Must not touch: the box.
//! Law: it knows what was closed and announced, and nothing of how the box works.

use std::collections::{BTreeMap, BTreeSet};

use holdfast::model::TaskId;
use holdfast::model::output::Output;
use holdfast::model::playlist::Playlist;
use holdfast::model::segment::{encode_id, segment_stem};
use serde_json::Value;

use crate::carrier::Server;
use crate::studio::{FrameId, Written, frames, frames_of_segment};
use crate::support::receiver::Callback;

/// By their keys.
pub type Objects = BTreeMap<String, Vec<u8>>;

async fn names(server: &Server, bucket: &str) -> Vec<String> {
    let mut pages = server.client().list_objects_v2().bucket(bucket).into_paginator().send();
    let mut names = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.expect("the server lists");
        names.extend(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    names
}

pub async fn objects(server: &Server, bucket: &str) -> Objects {
    let mut objects = Objects::new();
    for name in names(server, bucket).await {
        let body = server.read(bucket, &name).await;
        objects.insert(name, body);
    }
    objects
}

/// At any moment: a playlist in the bucket lists only what the bucket holds.
/// Those of tasks that are being discarded aside: their files go in an order of their own.
pub async fn lists_name_what_is_there(server: &Server, bucket: &str, discarded: &BTreeSet<TaskId>) {
    let stays = |name: &&String| !discarded.iter().any(|task| name.contains(task.as_str()));
    let mut listed = BTreeSet::new();
    for list in names(server, bucket).await.iter().filter(|name| name.ends_with(".m3u8")).filter(stays) {
        let (folder, _) = list.rsplit_once('/').expect("a prefix");
        let playlist = parsed(list, &server.read(bucket, list).await);
        listed.extend(playlist.items.into_iter().map(|item| format!("{folder}/{}", item.name)));
    }
    // asked afterwards: what is there stays there
    let there: BTreeSet<String> = names(server, bucket).await.into_iter().collect();
    let missing: Vec<&String> = listed.difference(&there).collect();
    assert!(missing.is_empty(), "listed before they are there: {missing:?}");
}

pub fn parsed(name: &str, body: &[u8]) -> Playlist {
    let text = std::str::from_utf8(body).expect("a playlist is text");
    Playlist::parse(text).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"))
}

pub fn arrived(written: &Written, objects: &Objects) -> bool {
    let prefix = format!("p/{}/", written.task);
    objects.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix)).any(|(_, b)| *b == written.bytes)
}

/// An event as it was told first.
pub struct Told {
    pub seq: u64,
    pub event: u64,
    pub payload: Value,
}

/// In the order in which they were told first; that order is theirs, and repeats say the same.
pub fn told_of(task: &TaskId, callbacks: &[Callback]) -> Vec<Told> {
    let mut told = Vec::<Told>::new();
    let mut bodies = BTreeMap::<u64, Value>::new();
    for callback in callbacks.iter().filter(|c| c.task() == task.as_str()) {
        assert!(callback.signed, "{}", callback.body);
        let (_, seq) = callback.id().rsplit_once('-').expect("an id ends in a number");
        let seq = seq.parse().expect("an id ends in a number");
        let mut body = callback.json.clone();
        body["CallbackTs"] = Value::Null;
        match bodies.insert(seq, body.clone()) {
            Some(before) => assert_eq!(before, body, "two events have one number"),
            None => {
                let last = told.last().map(|last| last.seq);
                assert!(last < Some(seq), "{seq} was told after {last:?}: {}", callback.body);
                told.push(Told { seq, event: callback.event(), payload: callback.payload().clone() });
            }
        }
    }
    told
}

/// Everything about one task. `lives`: of the box, at the most. `blind`: so often both the index and what the folders had
/// still to be told were lost at once; what was told in that moment may be told once more, under another number.
pub fn check(
    task: &TaskId,
    output: Output,
    written: &[Written],
    objects: &Objects,
    callbacks: &[Callback],
    (lives, blind): (usize, usize),
) {
    let written: Vec<&Written> = written.iter().filter(|w| w.task == *task).collect();
    let prefix = format!("p/{task}/");
    let of_task: BTreeMap<&str, &Vec<u8>> =
        objects.iter().filter_map(|(key, body)| Some((key.strip_prefix(&prefix)?, body))).collect();
    let told = told_of(task, callbacks);
    let story: Vec<String> = told.iter().map(|t| format!("{} {} {}", t.seq, t.event, t.payload)).collect();

    let announced = announced(&told);

    // once, under one name, byte by byte
    let mut names = BTreeMap::<&str, &Written>::new();
    let mut places = BTreeMap::new();
    let mut given_up = 0;
    for (name, body) in of_task.iter().filter(|(name, _)| name.ends_with(".ts")) {
        let piece = written.iter().find(|w| w.bytes == **body);
        let piece = piece.unwrap_or_else(|| panic!("{task}/{name} is nothing that was written ({} bytes)", body.len()));
        let twice = places.insert((piece.run, piece.index), *name);
        assert_eq!(twice, None, "{task}: {name} is there twice");
        // the storage took it, its answer was lost on the way, and then the disk had no room for it: no list has it
        if announced.contains(name) {
            assert!(piece.doomed, "{task}: {piece:?} was lost for no reason\n{story:#?}");
            given_up += 1;
        } else {
            names.insert(name, piece);
        }
    }
    let told_packed: Vec<&Told> = told.iter().filter(|t| t.event == 310).collect();
    let last = told_packed.last().map(|t| (t.payload["Status"].as_u64(), t.payload["FileList"].clone()));
    let told_files: BTreeSet<&str> =
        last.iter().flat_map(|(_, files)| files.as_array()).flatten().filter_map(Value::as_str).collect();
    // one that the storage took, whose answer was lost, and whose segments the disk then had no room for, is not told
    let packed = of_task.iter().filter(|(name, _)| name.ends_with(".aac") && told_files.contains(*name));
    let packed: BTreeMap<&str, Vec<FrameId>> = packed.map(|(name, body)| (*name, frames(body))).collect();
    if output == Output::Hls {
        assert!(packed.is_empty(), "{task}: nobody asked for {:?}", packed.keys());
    } else {
        let there = in_files(task, &packed, &written);
        for piece in &written {
            let here = there.contains(&(piece.run, piece.index));
            if output.hls() {
                // of what went up and was given up all the same, since nobody heard so, nothing was left to be packed
                let up = places.get(&(piece.run, piece.index)).is_some_and(|name| !announced.contains(name));
                assert!(here || !up, "{task}: {piece:?} is in no file\n{story:#?}");
            } else if here {
                places.insert((piece.run, piece.index), "");
            }
        }
    }
    let missing: Vec<&&Written> = written.iter().filter(|w| !places.contains_key(&(w.run, w.index))).collect();
    lost_one_by_one(task, &missing, &told, &of_task.keys().copied().collect(), !output.hls(), &story);
    let lost = missing.len() + given_up;

    // the lists, in order, and their gaps
    let mut listed = BTreeSet::new();
    let lists: BTreeSet<&str> = of_task.keys().copied().filter(|name| name.ends_with(".m3u8")).collect();
    for list in &lists {
        let playlist = parsed(list, of_task[list]);
        assert!(playlist.ended, "{task}: {list} is left open");
        let mut before: Option<&Written> = None;
        for item in &playlist.items {
            let piece = names.get(item.name.as_str()).unwrap_or_else(|| panic!("{list} lists {}", item.name));
            assert_eq!(segment_stem(&item.name), list.strip_suffix(".m3u8"), "{task}");
            assert!(listed.insert(item.name.clone()), "{task}: {} is listed twice", item.name);
            if let Some(before) = before {
                assert_eq!(piece.lane, before.lane, "{task}");
                assert!((before.run, before.index) < (piece.run, piece.index), "{task}: {list} is out of order");
                let joins = before.run == piece.run && before.index + 1 == piece.index;
                assert_eq!(
                    item.discontinuity, !joins,
                    "{task}: {} in {list} ({before:?}, {piece:?})\n{story:#?}",
                    item.name
                );
            }
            before = Some(piece);
        }
    }
    let unlisted: Vec<&&str> = names.keys().filter(|name| !listed.contains(**name)).collect();
    assert!(unlisted.is_empty(), "{task}: {unlisted:?} are in no list");

    // what was told
    let count = |event: u64| told.iter().filter(|t| t.event == event).count();
    let files = |event: u64, field: &str| {
        let named = told.iter().filter(|t| t.event == event).filter_map(|t| t.payload[field].as_str());
        let named: Vec<&str> = named.collect();
        let once: BTreeSet<&str> = named.iter().copied().collect();
        let most = once.iter().map(|name| named.iter().filter(|other| *other == name).count()).max().unwrap_or(0);
        assert!(most <= 1 + blind, "{task}: {event} was told {most} times of one list\n{story:#?}");
        once
    };
    for event in [301, 302, 303] {
        assert!((1..=1 + blind).contains(&count(event)), "{task}: {event}\n{story:#?}");
    }
    assert_eq!(files(304, "FileList"), lists, "{task}\n{story:#?}");
    assert!(files(307, "FileName").is_superset(&lists), "{task}\n{story:#?}");
    let mut ends: Vec<u64> =
        told.iter().filter(|t| t.event == 305).filter_map(|t| t.payload["Status"].as_u64()).collect();
    if blind > 0 {
        ends.dedup();
    }
    let right: &[&[u64]] = if lost == 0 { &[&[0], &[1, 2]] } else { &[&[1]] };
    assert!(right.contains(&&ends[..]), "{task}: 305 says {ends:?}, and {lost} are lost\n{story:#?}");
    let takeovers = lists.iter().filter_map(|list| list.strip_prefix("ha")?.split('_').next()?.parse::<usize>().ok());
    assert!(count(306) <= 3 && takeovers.max().unwrap_or(0) <= count(306), "{task}\n{story:#?}");
    let names: Vec<&str> = packed.keys().copied().collect();
    match last {
        None => assert_eq!(output, Output::Hls, "{task}: 310 was never told\n{story:#?}"),
        Some((status, _)) => {
            let right = if packed.is_empty() && !written.is_empty() { Some(2) } else { Some(0) };
            assert_eq!(status, right, "{task}\n{story:#?}");
            assert_eq!(told_files.into_iter().collect::<Vec<_>>(), names, "{task}\n{story:#?}");
        }
    }
    errors_are_few(task, &told, lost, lives, &story);
}

/// Segments that were told as lost.
fn announced(told: &[Told]) -> Vec<&str> {
    named(told, "SegmentLost")
}

/// Segments that a 308 of this code names.
fn named<'a>(told: &'a [Told], code: &str) -> Vec<&'a str> {
    (told.iter().filter(|t| t.event == 308 && t.payload["Code"] == code))
        .filter_map(|t| t.payload["Message"].as_str()?.split([' ', ':']).next())
        .collect()
}

/// Each of the missing was told as lost, and had a reason to be; where segments do not go up one by one (`packed_alone`),
/// nothing else was told so. (One that goes up may be there and told as lost: nobody heard that the storage took it, or the
/// disk could not keep that it did.) `there`: names that are not among them.
pub fn lost_one_by_one(
    task: &TaskId,
    missing: &[&&Written],
    told: &[Told],
    there: &BTreeSet<&str>,
    packed_alone: bool,
    story: &[String],
) {
    // an index that has gone back has some told again
    let mut announced: BTreeSet<&str> = announced(told).into_iter().collect();
    // what packing finds gone; of a list's segment that says nothing
    if told.iter().all(|t| t.event != 304) {
        announced.extend(named(told, "SegmentNotPacked"));
    }
    for piece in missing {
        let user = encode_id(piece.lane.user.as_ref().expect("single streams").as_str());
        let is_it = |object: &&&str| {
            let told = segment_stem(object).is_some_and(|stem| stem.contains(&format!("UserId_s_{user}__")));
            told && !there.contains(**object)
        };
        let found = announced.iter().find(is_it).copied();
        let found = found.unwrap_or_else(|| panic!("{task}: {piece:?} is neither there nor announced\n{story:#?}"));
        announced.remove(found);
        assert!(piece.doomed, "{task}: {piece:?} was lost for no reason\n{story:#?}");
    }
    assert!(!packed_alone || announced.is_empty(), "{task}: {announced:?} are in files, and told as lost\n{story:#?}");
}

/// 308 is told of what is lost, and once in a while of what goes wrong.
pub fn errors_are_few(task: &TaskId, told: &[Told], lost: usize, lives: usize, story: &[String]) {
    let mut errors = BTreeMap::<&str, usize>::new();
    for t in told.iter().filter(|t| t.event == 308) {
        *errors.entry(t.payload["Code"].as_str().expect("a code")).or_default() += 1;
    }
    for (code, times) in errors {
        let most = match code {
            "SegmentLost" | "SegmentNotPacked" => lost * lives,
            // a file and a list
            "FileNotPacked" => lives.max(2 * lost * lives),
            _ => lives,
        };
        assert!(times <= most, "{task}: {code} was told {times} times in {lives} lives\n{story:#?}");
    }
}

/// Every frame is in one packed file, once and in order; a segment may go on in the next one. Answers with those that are
/// there to the last frame: (run, index). Of others the rest was lost.
pub fn in_files(task: &TaskId, packed: &BTreeMap<&str, Vec<FrameId>>, written: &[&Written]) -> BTreeSet<(u32, u32)> {
    let mut there = BTreeMap::<(u32, u32), usize>::new();
    let mut seen = BTreeSet::<FrameId>::new();
    for (name, frames) in packed {
        let mut before = None;
        for piece in frames.chunk_by(|a, b| a.0 == b.0) {
            let of_piece =
                |w: &&&Written| frames_of_segment(&w.bytes).first().is_some_and(|first| first.0 == piece[0].0);
            let made = written.iter().find(of_piece);
            let made = made.unwrap_or_else(|| panic!("{task}: {name} holds {:?}, which nobody wrote", piece[0]));
            let once = piece.iter().all(|frame| seen.insert(*frame));
            let sizes = packed.iter().map(|(name, frames)| (name, frames.len()));
            assert!(once, "{task}: {name} has frames of {made:?} again: {:?}", sizes.collect::<Vec<_>>());
            let whole = frames_of_segment(&made.bytes);
            let is_part = whole.windows(piece.len()).any(|part| part == piece);
            assert!(is_part, "{task}: {name} has {} frames of {made:?}", piece.len());
            let place = (made.run, made.index);
            assert!(before < Some(place), "{task}: {name}: {before:?} before {place:?}");
            before = Some(place);
            *there.entry(place).or_default() += piece.len();
        }
    }
    let whole = |(place, frames): ((u32, u32), usize)| {
        let made = written.iter().find(|w| (w.run, w.index) == place).expect("it was found a moment ago");
        let all = frames_of_segment(&made.bytes).len() == frames;
        assert!(all || made.doomed, "{task}: {frames} frames of {made:?} are in files, and no more");
        all.then_some(place)
    };
    there.into_iter().filter_map(whole).collect()
}

/// Nothing of it is left, and whoever is told knows.
pub fn check_discarded(task: &TaskId, objects: &Objects, callbacks: &[Callback], blind: usize) {
    let told = told_of(task, callbacks);
    let story: Vec<String> = told.iter().map(|t| format!("{} {} {}", t.seq, t.event, t.payload)).collect();
    let left: Vec<&String> = objects.keys().filter(|key| key.contains(task.as_str())).collect();
    assert!(left.is_empty(), "{task}: {left:?} are left\n{story:#?}");
    let count = |event: u64| told.iter().filter(|t| t.event == event).count();
    for event in [301, 302] {
        assert!((1..=1 + blind).contains(&count(event)), "{task}: {event}\n{story:#?}");
    }
    let last = told.last().map(|t| (t.event, t.payload["Status"].clone()));
    assert_eq!(last, Some((305, Value::from(3))), "{task}\n{story:#?}");
}
