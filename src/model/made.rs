//! What files that are made hold of a task's segments: those that are up, and those that wait to go up.
//!
//! Owns: reading plans, which units of which segment are in a file, what nobody needs any more. Must not touch: files.
//! Law: only what a plan says for sure counts: a segment is held when every unit of it is in some file, and is needed no
//! more when no other file is to have it either.

use std::collections::{BTreeMap, BTreeSet};

use super::LaneKind;
use super::bundle::{BUNDLE_VERSION, BundlePlan};
use super::output::Container;
use super::packed::{FilePlan, PLAN_VERSION, PackedFile, Source};
use super::segment::LocalName;

/// How a file is made, by the text that lies on the shelf.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    File(FilePlan),
    List(BundlePlan),
}

impl Plan {
    /// `None`: it is no plan, or one of another version.
    pub fn parse(object: &str, text: &str) -> Option<Plan> {
        if object.ends_with(".m3u8") {
            let plan: BundlePlan = serde_json::from_str(text).ok()?;
            return (plan.v == BUNDLE_VERSION).then_some(Plan::List(plan));
        }
        let plan: FilePlan = serde_json::from_str(text).ok()?;
        (plan.v == PLAN_VERSION).then_some(Plan::File(plan))
    }

    /// The segments that it needs, by their files in the task's folder.
    pub fn sources(&self) -> Vec<&str> {
        match self {
            Plan::File(plan) => plan.sources.iter().map(|source| source.file.as_str()).collect(),
            Plan::List(plan) => plan.files.iter().map(|file| file.file.as_str()).collect(),
        }
    }

    /// The file as its task knows it, for a task that has forgotten it: its end is that of its last segment.
    pub fn file(&self, object: &str) -> Option<PackedFile> {
        let names: Vec<LocalName> = self.sources().into_iter().filter_map(LocalName::parse).collect();
        let first = names.first()?;
        let (bytes, crc32) = self.contents();
        let (start, kind) = match self {
            Plan::File(plan) => {
                let any = |of: fn(&Source) -> bool| plan.sources.iter().any(of);
                let kind = match (any(|source| source.pictures.is_some()), any(|source| source.sounds.is_some())) {
                    (true, true) => LaneKind::AudioVideo,
                    (true, false) => LaneKind::Video,
                    _ => LaneKind::Audio,
                };
                (plan.start, kind)
            }
            Plan::List(_) => (first.start, first.lane.kind),
        };
        let end = names.iter().map(|name| name.start.plus(name.duration.unwrap_or_default())).max()?;
        let (user, media) = (first.lane.user_id().to_owned(), first.lane.media);
        Some(PackedFile { object: object.to_owned(), user, media, kind, start, end, bytes, crc32, uploaded: false })
    }

    /// What names the contents: length and sum.
    pub fn contents(&self) -> (u64, u32) {
        match self {
            Plan::File(plan) => (plan.bytes, plan.crc32),
            Plan::List(plan) => (plan.text.len() as u64, crc32fast::hash(plan.text.as_bytes())),
        }
    }
}

/// Units of a segment that one file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    pictures: (u32, u32),
    sounds: (u32, u32),
    /// Which of the files.
    file: usize,
}

impl Share {
    fn units(&self) -> u32 {
        let count = |(first, end): (u32, u32)| end.saturating_sub(first);
        count(self.pictures).saturating_add(count(self.sounds))
    }
}

/// What is in packed files of one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Packed {
    shares: Vec<Share>,
    /// Pictures and frames of sound that are to be packed of it; one that was planned by an older box does not say.
    of: Option<(u32, u32)>,
    /// It is in a list as well, now or later.
    listed: bool,
}

impl Packed {
    fn whole(&self) -> bool {
        let there = self.shares.iter().map(Share::units).fold(0u32, u32::saturating_add);
        self.of.is_some_and(|(pictures, sounds)| there >= pictures.saturating_add(sounds))
    }
}

/// What the files of a task hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Names of packed files.
    names: Vec<String>,
    packed: BTreeMap<String, Packed>,
    /// Of lists: whether the segment is packed as well.
    listed: BTreeMap<String, bool>,
}

impl Made {
    pub fn add(&mut self, object: &str, plan: &Plan) {
        match plan {
            Plan::File(plan) => {
                let known = self.names.iter().position(|name| name == object);
                let at = known.unwrap_or_else(|| {
                    self.names.push(object.to_owned());
                    self.names.len() - 1
                });
                for source in &plan.sources {
                    let packed = self.packed.entry(source.file.clone()).or_default();
                    let (pictures, sounds) = (source.pictures.unwrap_or_default(), source.sounds.unwrap_or_default());
                    let share = Share { pictures, sounds, file: at };
                    if !packed.shares.contains(&share) {
                        packed.shares.push(share);
                    }
                    packed.of = source.of;
                    packed.listed |= plan.listed;
                }
            }
            Plan::List(plan) => {
                self.listed.extend(plan.files.iter().map(|file| (file.file.clone(), plan.packed)));
            }
        }
    }

    /// All that there is of the segment is in some file.
    pub fn holds(&self, file: &str) -> bool {
        self.listed.contains_key(file) || self.is_packed(file)
    }

    /// And no other file is to have it.
    pub fn is_done(&self, file: &str) -> bool {
        let needs_list = self.packed.get(file).is_some_and(|packed| packed.listed);
        let needs_file = self.listed.get(file).is_some_and(|packed| *packed);
        self.holds(file) && (!needs_list || self.listed.contains_key(file)) && (!needs_file || self.is_packed(file))
    }

    /// All that is to be packed of the segment is in packed files.
    pub fn is_packed(&self, file: &str) -> bool {
        self.packed.get(file).is_some_and(Packed::whole)
    }

    /// The packed file that has this unit of the segment.
    pub fn file_of(&self, file: &str, pictures: bool, index: u32) -> Option<&str> {
        let has = |share: &&Share| {
            let (first, end) = if pictures { share.pictures } else { share.sounds };
            (first..end).contains(&index)
        };
        self.packed.get(file)?.shares.iter().find(has).map(|share| self.names[share.file].as_str())
    }

    /// The packed files that have anything of the segment.
    pub fn files_of(&self, file: &str) -> impl Iterator<Item = &str> {
        let shares = self.packed.get(file).into_iter().flat_map(|packed| &packed.shares);
        shares.map(|share| self.names[share.file].as_str())
    }

    /// Every segment of which they have anything.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let files: BTreeSet<&String> = self.packed.keys().chain(self.listed.keys()).collect();
        files.into_iter().map(String::as_str)
    }
}

/// The place of a file among those of this stem, from 1; one that stands alone is the first.
pub fn place_among(stem: &str, object: &str, container: Container) -> Option<u32> {
    let rest = object.strip_suffix(container.extension())?.strip_suffix('.')?.strip_prefix(stem)?;
    match rest.strip_prefix('_') {
        Some(n) => n.parse().ok(),
        None => rest.is_empty().then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::bundle::BundleFile;
    use crate::model::{Lane, MediaId, Timestamp, UserId};

    fn name(index: u32) -> String {
        let name = LocalName {
            lane: Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, LaneKind::AudioVideo),
            run: 0,
            index,
            start: Timestamp::from_ms(1_800_000_000_000 + i64::from(index) * 1000),
            size: None,
            discontinuity: false,
            duration: Some(Duration::from_secs(1)),
        };
        name.to_string()
    }

    fn source(index: u32, pictures: (u32, u32), sounds: (u32, u32)) -> Source {
        let of = Some((30, 47));
        Source { file: name(index), at: 0, crc32: 0, pictures: Some(pictures), sounds: Some(sounds), of }
    }

    fn file(sources: Vec<Source>, listed: bool) -> Plan {
        let (v, container, start) = (PLAN_VERSION, Container::Mp4, Timestamp::from_ms(1_800_000_000_000));
        Plan::File(FilePlan { v, container, black_after: None, start, sources, bytes: 9, crc32: 3, listed })
    }

    fn list(indices: &[u32], packed: bool) -> Plan {
        let file = |index: &u32| BundleFile { file: name(*index), name: String::new(), bytes: 1, crc32: 1 };
        let files = indices.iter().map(file).collect();
        Plan::List(BundlePlan { v: BUNDLE_VERSION, text: "#EXTM3U".into(), files, packed })
    }

    #[test]
    fn a_segment_is_held_when_all_of_it_is_in_files() {
        let mut made = Made::default();
        made.add("a_1.mp4", &file(vec![source(0, (0, 30), (0, 47)), source(1, (0, 10), (0, 20))], false));
        assert!(made.holds(&name(0)) && made.is_done(&name(0)));
        assert!(!made.holds(&name(1)), "the rest of it is in no file");
        assert_eq!(made.file_of(&name(1), true, 9), Some("a_1.mp4"));
        assert_eq!(made.file_of(&name(1), true, 10), None);
        made.add("a_2.mp4", &file(vec![source(1, (10, 30), (20, 47))], false));
        made.add("a_2.mp4", &file(vec![source(1, (10, 30), (20, 47))], false));
        assert!(made.holds(&name(1)));
        assert_eq!(made.files_of(&name(1)).collect::<Vec<_>>(), ["a_1.mp4", "a_2.mp4"]);

        let mut old = source(2, (0, 30), (0, 47));
        old.of = None;
        made.add("b.mp4", &file(vec![old], false));
        assert!(!made.holds(&name(2)), "nobody knows how much of it there was");
    }

    #[test]
    fn what_is_packed_and_listed_is_done_when_both_have_it() {
        let whole = || source(0, (0, 30), (0, 47));
        let mut made = Made::default();
        made.add("a.mp4", &file(vec![whole()], true));
        assert!(made.holds(&name(0)) && !made.is_done(&name(0)));
        made.add("l.m3u8", &list(&[0], true));
        assert!(made.is_done(&name(0)));
        let mut made = Made::default();
        made.add("l.m3u8", &list(&[0, 1], true));
        assert!(made.holds(&name(0)) && !made.is_done(&name(0)));
        let mut made = Made::default();
        made.add("l.m3u8", &list(&[0], false));
        assert!(made.is_done(&name(0)));
        assert_eq!(made.files().collect::<Vec<_>>(), [name(0)]);
    }

    #[test]
    fn a_plan_tells_its_file() {
        let plan = file(vec![source(0, (0, 30), (0, 47)), source(1, (0, 10), (0, 20))], false);
        let text = match &plan {
            Plan::File(plan) => serde_json::to_string(plan).unwrap(),
            Plan::List(_) => unreachable!("it is a file"),
        };
        assert_eq!(Plan::parse("a.mp4", &text).as_ref(), Some(&plan));
        assert_eq!(Plan::parse("a.m3u8", &text), None);
        let told = plan.file("a.mp4").unwrap();
        assert_eq!((told.user.as_str(), told.kind, told.bytes, told.crc32), ("ann", LaneKind::AudioVideo, 9, 3));
        assert_eq!(told.end.since(told.start), Duration::from_secs(2));
    }

    #[test]
    fn places_are_those_of_a_stem() {
        let place = |object: &str| place_among("1400_5", object, Container::Mp4);
        let named = ["1400_5.mp4", "1400_5_2.mp4", "1400_5.aac", "1400_5__UserId_s_x.mp4", "1400_51.mp4", "1400.mp4"];
        assert_eq!(named.map(place), [Some(1), Some(2), None, None, None, None]);
    }
}
