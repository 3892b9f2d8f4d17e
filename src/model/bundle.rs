//! Bundles: a lane's segments of all lives and one list of them, which go up together after the end (HLS on VOD).
//!
//! Owns: which segments belong to one list, its name and its text, the plan of a bundle. Must not touch: bytes.
//! Law: a list names what lies beside it, in the order in which it was recorded; what was lost leaves a discontinuity.
//! Sources: RECORDING.md §2, §7; API.md §1.7 (`MediaType` 1, 3, 4), §5.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::packed::PackedFile;
use super::piece::{Piece, PieceFate};
use super::playlist::{Item, Playlist};
use super::recording::RecordingSpec;
use super::segment::playlist_name;
use super::{Lane, Timestamp};

/// One list that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    pub object: String,
    pub lane: Lane,
    /// The length that segments were asked to have, seconds.
    pub target: u64,
    /// In order, with each one's file in the task's folder.
    pub pieces: Vec<(String, Item)>,
    /// They are packed as well.
    pub packed: bool,
}

/// A list and its segments, as they lie on the shelf: what the carrier takes up one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundlePlan {
    pub v: u32,
    /// The list itself; it goes up last.
    pub text: String,
    pub files: Vec<BundleFile>,
    /// Its segments are packed as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub packed: bool,
}

pub const BUNDLE_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFile {
    /// Its file in the task's folder.
    pub file: String,
    /// Its name beside the list.
    pub name: String,
    pub bytes: u64,
    pub crc32: u32,
}

/// One list for each lane, over all lives of the task. `pieces` in any order; lost ones are left out.
pub fn lists<'a>(spec: &RecordingSpec, target: Duration, pieces: impl Iterator<Item = &'a Piece>) -> Vec<List> {
    let mut of_lanes = BTreeMap::<&Lane, Vec<&Piece>>::new();
    for piece in pieces {
        of_lanes.entry(&piece.lane).or_default().push(piece);
    }
    let list = |(lane, mut pieces): (&Lane, Vec<&Piece>)| {
        pieces.sort_by_key(|piece| (piece.takeover, piece.run, piece.index));
        let (mut life, mut gap) = (None, false);
        let mut listed = Vec::new();
        for piece in pieces {
            if piece.fate == PieceFate::Lost {
                gap = true;
                continue;
            }
            let anew = life.replace(piece.takeover).is_some_and(|before| before != piece.takeover);
            let item = Item {
                name: piece.object.clone(),
                duration: piece.duration,
                start: piece.start,
                size: piece.size,
                // the gap is over with this piece, whatever else breaks here
                discontinuity: std::mem::take(&mut gap) || anew || piece.discontinuity,
            };
            listed.push((piece.local_file(), item));
        }
        let object = playlist_name(spec.app, &spec.room, 0, lane);
        List {
            object,
            lane: lane.clone(),
            target: target.as_secs(),
            pieces: listed,
            packed: spec.output.container().is_some(),
        }
    };
    of_lanes.into_iter().map(list).filter(|list| !list.pieces.is_empty()).collect()
}

impl List {
    /// The list of those pieces that can be read: of each its bytes and their CRC-32. `None` when there are none.
    pub fn plan(&self, readable: &BTreeMap<String, (u64, u32)>) -> Option<(PackedFile, BundlePlan)> {
        let (mut items, mut files, mut gap) = (Vec::new(), Vec::new(), false);
        for (file, item) in &self.pieces {
            let Some((bytes, crc32)) = readable.get(file).copied() else {
                gap = true;
                continue;
            };
            items.push(Item { discontinuity: std::mem::take(&mut gap) || item.discontinuity, ..item.clone() });
            files.push(BundleFile { file: file.clone(), name: item.name.clone(), bytes, crc32 });
        }
        let (first, last) = (items.first()?.clone(), items.last()?.clone());
        let text = Playlist { begin: first.start, target: self.target, items, ended: true }.render();
        let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
        debug_assert_eq!(names.len(), files.len(), "no two segments of a task have one name");
        let packed = PackedFile {
            object: self.object.clone(),
            user: self.lane.user_id().to_owned(),
            media: self.lane.media,
            kind: self.lane.kind,
            start: first.start,
            end: end(&last),
            bytes: text.len() as u64,
            crc32: crc32fast::hash(text.as_bytes()),
            uploaded: false,
        };
        Some((packed, BundlePlan { v: BUNDLE_VERSION, text, files, packed: self.packed }))
    }
}

fn end(item: &Item) -> Timestamp {
    item.start.plus(item.duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recording::tests::spec;
    use crate::model::{LaneKind, MediaId, UserId};

    fn piece(takeover: u8, run: u32, index: u32, fate: PieceFate) -> Piece {
        let lane = Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, LaneKind::AudioVideo);
        let start = Timestamp::from_ms(1_800_000_000_000 + i64::from(run * 100 + index) * 1000);
        let duration = Duration::from_secs(1);
        let object = format!("{run}-{index}.ts");
        Piece { takeover, lane, run, index, object, start, duration, size: None, discontinuity: false, fate }
    }

    #[test]
    fn one_list_has_all_lives_and_what_is_missing_leaves_a_mark() {
        use PieceFate::{Lost, Spooled};
        let pieces = [
            piece(1, 1, 0, Spooled),
            piece(0, 0, 0, Spooled),
            piece(0, 0, 1, Lost),
            piece(0, 0, 2, Spooled),
            piece(1, 1, 1, Spooled),
        ];
        let lists = lists(&spec(), Duration::from_secs(10), pieces.iter());
        let [list] = &lists[..] else { panic!("one lane, one list: {lists:?}") };
        assert_eq!(list.object, "1400000001_12345__UserId_s_YW5u__UserId_e_main_audiovideo.m3u8");
        let names: Vec<(&str, bool)> =
            list.pieces.iter().map(|(_, item)| (item.name.as_str(), item.discontinuity)).collect();
        assert_eq!(names, [("0-0.ts", false), ("0-2.ts", true), ("1-0.ts", true), ("1-1.ts", false)]);
        let mut readable: BTreeMap<String, (u64, u32)> =
            list.pieces.iter().map(|(file, _)| (file.clone(), (188, 1))).collect();
        readable.remove(&list.pieces[2].0);
        let (packed, plan) = list.plan(&readable).unwrap();
        let parsed = Playlist::parse(&plan.text).unwrap();
        let listed: Vec<(&str, bool)> = parsed.items.iter().map(|i| (i.name.as_str(), i.discontinuity)).collect();
        assert_eq!(listed, [("0-0.ts", false), ("0-2.ts", true), ("1-1.ts", true)]);
        assert!(parsed.ended);
        assert_eq!(packed.end.since(packed.start), Duration::from_secs(102));
        assert_eq!(plan.files.len(), 3);
        assert_eq!(list.plan(&BTreeMap::new()), None);
    }

    /// A life breaks by itself: what was lost before it, or cannot be read, does not break behind it once more.
    #[test]
    fn a_gap_before_a_life_breaks_once() {
        use PieceFate::{Lost, Spooled};
        let lives = |last: PieceFate| {
            let first = [piece(0, 0, 0, Spooled), piece(0, 0, 1, last)];
            let second = (0..3).map(|index| Piece { discontinuity: index == 0, ..piece(1, 1, index, Spooled) });
            first.into_iter().chain(second).collect::<Vec<Piece>>()
        };
        let broken = |items: &[Item]| items.iter().map(|item| item.discontinuity).collect::<Vec<bool>>();
        let made = |pieces: &[Piece]| lists(&spec(), Duration::from_secs(10), pieces.iter()).remove(0);
        let list = made(&lives(Lost));
        let items: Vec<Item> = list.pieces.iter().map(|(_, item)| item.clone()).collect();
        assert_eq!(broken(&items), [false, true, false, false]);
        let list = made(&lives(Spooled));
        let readable = |(at, (file, _)): (usize, &(String, Item))| (at != 1).then(|| (file.clone(), (188, 1)));
        let (_, plan) = list.plan(&list.pieces.iter().enumerate().filter_map(readable).collect()).unwrap();
        assert_eq!(broken(&Playlist::parse(&plan.text).unwrap().items), [false, true, false, false]);
    }
}
