//! What must be true of a recording whose box died, by what anybody can see: files, bucket, callbacks.
//!
//! Owns: the verdict. Must not touch: the box: it asks neither its API nor its index nor its log.
//! Law: each fault says what was promised and what is there; no fault ends the search for others.

use std::collections::{BTreeMap, BTreeSet};

use super::ts::Ts;
use crate::support::APP;
use crate::support::receiver::Callback;
use crate::support::recorded::{Playlist, stamp_ms};

/// Objects by the part of their key behind the task's folder.
pub type Objects = BTreeMap<String, Vec<u8>>;

/// What is written until so long before a power cut is kept: the box's `sync_seconds`, and what a sync takes.
const KEPT_MS: i64 = 1000 + 3000;
/// Between what was published and what is kept lie publishers, encoders and mixing, which are late on a machine that does
/// other things, too. Past it something has stopped.
const BUSY_MS: i64 = 60_000;

/// A file that was written when the box died.
#[derive(Debug, Clone)]
pub struct Part {
    /// All that had been handed to the kernel.
    pub written: Vec<u8>,
    /// What the next start found: less after the power went. `None`: not even its name.
    pub kept: Option<Vec<u8>>,
    /// What it found ends in a torn write.
    pub torn: bool,
}

/// The moment of a death, as an onlooker sees it.
#[derive(Debug, Clone, Default)]
pub struct Death {
    /// How, for the reader of a fault.
    pub what: String,
    pub at_ms: i64,
    /// The power went, too.
    pub power: bool,
    /// Publishers were there, and nobody had asked it to end: media was on its way.
    pub recording: bool,
    /// Files that had their final name, by it.
    pub finished: BTreeMap<String, Vec<u8>>,
    pub parts: BTreeMap<String, Part>,
    /// What the bucket held.
    pub objects: Objects,
}

/// All that there is to see.
#[derive(Debug)]
pub struct Evidence<'a> {
    pub deaths: &'a [Death],
    /// What the bucket holds in the end.
    pub objects: &'a Objects,
    /// The task's callbacks in order of arrival, repeats included.
    pub callbacks: &'a [Callback],
    /// What is left below the spool, the reserve aside.
    pub spool: &'a [String],
}

/// What is wrong, and the longest stretch of media that a death cost.
#[derive(Debug, Default)]
pub struct Verdict {
    pub faults: Vec<String>,
    pub most_lost_ms: i64,
}

/// The facts of a local name: lane, run, start and, of a finished one, length (both in ms).
fn facts(name: &str) -> Option<(String, u32, i64, Option<i64>)> {
    let stem =
        name.strip_suffix(".ts.part").or_else(|| name.strip_suffix(".part")).or_else(|| name.strip_suffix(".ts"));
    let fields: Vec<&str> = stem?.split('_').collect();
    let [user, media, kind, run, _, start, _, _, rest @ ..] = &fields[..] else { return None };
    let length = rest.first().and_then(|us| us.strip_prefix('d')?.parse::<i64>().ok());
    let start = start.strip_prefix('t')?.parse::<i64>().ok()?;
    Some((
        format!("{user}_{media}_{kind}"),
        run.strip_prefix('r')?.parse().ok()?,
        start / 1000,
        length.map(|us| us / 1000),
    ))
}

fn whole_packets(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len() / 188 * 188]
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Part {
    /// What must be in the bucket of it: the beginning of it, at least so long.
    fn promised(&self) -> usize {
        let Some(kept) = &self.kept else { return 0 };
        let whole = whole_packets(&self.written[..common(&self.written, kept)]).len();
        // a hole costs the packet in which it begins, and which nobody can tell from a whole one
        if self.has_hole() { whole.saturating_sub(188) } else { whole }
    }

    /// Something else stands behind what was kept of it: a torn write, or a length that was safe before the bytes were.
    fn has_hole(&self) -> bool {
        self.torn || self.kept.as_ref().is_some_and(|kept| common(&self.written, kept) < kept.len())
    }

    fn is(&self, object: &[u8]) -> bool {
        let sure = if self.has_hole() { object.len().saturating_sub(188) } else { object.len() };
        object.len().is_multiple_of(188) && object.len() >= self.promised() && self.written.starts_with(&object[..sure])
    }
}

impl Evidence<'_> {
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        let mut seen_runs = BTreeMap::<String, u32>::new();
        for death in self.deaths {
            self.files(death, &mut verdict.faults);
            self.bucket_then(death, &mut verdict.faults);
            let lost = self.media_lost(death, &mut seen_runs, &mut verdict.faults);
            verdict.most_lost_ms = verdict.most_lost_ms.max(lost);
        }
        let lists = lists_of(self.objects, "in the end", &mut verdict.faults);
        self.bucket(&lists, &mut verdict.faults);
        self.story(&lists, &mut verdict.faults);
        if !self.spool.is_empty() {
            verdict.faults.push(format!("left on the shelf: {:?}", self.spool));
        }
        verdict
    }

    /// What lay on the shelf is in the bucket, unchanged and once.
    fn files(&self, death: &Death, faults: &mut Vec<String>) {
        let what = &death.what;
        for (name, bytes) in &death.finished {
            let there: Vec<&String> = self.objects.iter().filter(|(_, o)| *o == bytes).map(|(name, _)| name).collect();
            if there.len() != 1 {
                faults.push(format!(
                    "{what}: {name} ({} bytes) was finished and is in the bucket as {there:?}",
                    bytes.len()
                ));
            }
        }
        for (name, part) in &death.parts {
            let promised = part.promised();
            let needs_picture = name.contains("_video_") || !name.contains("_nosize_") && !name.contains("_audio_");
            let kept = part.kept.as_deref().unwrap_or_default();
            let lost = Ts::read(&part.written).span_ms() - Ts::read(&kept[..common(kept, &part.written)]).span_ms();
            if lost > KEPT_MS {
                faults.push(format!("{what}: of {name} {lost} ms are gone with the power"));
            }
            let plays = Ts::read(&part.written[..promised]).plays(needs_picture);
            let there: Vec<&String> = self.objects.iter().filter(|(_, o)| part.is(o)).map(|(name, _)| name).collect();
            if plays && there.len() != 1 {
                let kept = part.kept.as_ref().map(Vec::len);
                faults.push(format!(
                    "{what}: of {name} {} bytes were written, {kept:?} kept, {promised} promised; in the bucket as {there:?}",
                    part.written.len()
                ));
            }
        }
    }

    /// The bucket told no lie when the box was dead, and what it held it holds.
    fn bucket_then(&self, death: &Death, faults: &mut Vec<String>) {
        lists_of(&death.objects, &death.what, faults);
        for (name, bytes) in death.objects.iter().filter(|(name, _)| name.ends_with(".ts")) {
            if self.objects.get(name) != Some(bytes) {
                faults.push(format!("{}: {name} was in the bucket, and is gone or another one", death.what));
            }
        }
    }

    /// The media until shortly before a death was with the disk. Answers with the longest stretch that was not.
    fn media_lost(&self, death: &Death, seen: &mut BTreeMap<String, u32>, faults: &mut Vec<String>) -> i64 {
        let mut ends = BTreeMap::<(String, u32), i64>::new();
        let parts = death.parts.iter().filter_map(|(name, part)| Some((name, part.kept.as_deref()?)));
        for (name, bytes) in death.finished.iter().map(|(name, bytes)| (name, &bytes[..])).chain(parts) {
            let Some((lane, run, start, length)) = facts(name) else {
                faults.push(format!("{}: {name} is no name of a segment", death.what));
                continue;
            };
            let end = start + length.unwrap_or_else(|| Ts::read(bytes).span_ms());
            let entry = ends.entry((lane, run)).or_insert(end);
            *entry = end.max(*entry);
        }
        let mut most = 0;
        let newest: BTreeMap<String, (u32, i64)> =
            ends.into_iter().map(|((lane, run), end)| (lane, (run, end))).collect();
        for (lane, (run, end)) in newest {
            let fresh = seen.insert(lane.clone(), run).is_none_or(|before| before < run);
            if !fresh || !death.recording {
                continue;
            }
            let lost = death.at_ms - end;
            if lost > BUSY_MS {
                faults.push(format!("{}: {lost} ms of {lane} were not with the disk", death.what));
            }
            most = most.max(lost);
        }
        most
    }

    /// Lists and segments, in the end.
    fn bucket(&self, lists: &BTreeMap<String, Playlist>, faults: &mut Vec<String>) {
        let mut listed = BTreeSet::new();
        for (name, list) in lists {
            if !list.ended {
                faults.push(format!("{name} has no ENDLIST"));
            }
            if list.segments.first().is_none_or(|first| stamp_ms(&first.name) != list.start_ms) {
                faults.push(format!("{name} begins at {}, not with its first segment", list.start_ms));
            }
            for segment in &list.segments {
                if !listed.insert(segment.name.clone()) {
                    faults.push(format!("{} is listed twice", segment.name));
                }
                if segment.seconds.round() > list.target {
                    faults.push(format!("{}: {} s, above the target {}", segment.name, segment.seconds, list.target));
                }
                let Some(object) = self.objects.get(&segment.name) else { continue };
                let ts = Ts::read(object);
                let span = ts.span_ms() as f64 / 1000.0;
                if !ts.whole || !ts.plays_to_its_end() {
                    faults.push(format!("{}: {} bytes that are no whole stream", segment.name, object.len()));
                } else if (span - segment.seconds).abs() > 0.3 {
                    faults.push(format!("{}: EXTINF {} and {span:.3} s of media", segment.name, segment.seconds));
                }
            }
        }
        for name in self.objects.keys().filter(|name| !name.ends_with(".m3u8")) {
            if !listed.contains(name) {
                faults.push(format!("{name} is in the bucket, and no list knows it"));
            }
        }
        let mut bodies = BTreeMap::new();
        for (name, body) in self.objects.iter().filter(|(name, _)| name.ends_with(".ts")) {
            if let Some(other) = bodies.insert(body, name) {
                faults.push(format!("{name} and {other} are one segment"));
            }
        }
    }

    /// The callbacks: each at least once, in order, and true.
    fn story(&self, lists: &BTreeMap<String, Playlist>, faults: &mut Vec<String>) {
        let mut story: Vec<(u64, &Callback)> = Vec::new();
        for callback in self.callbacks {
            if !callback.signed {
                faults.push(format!("wrong Sign: {}", callback.body));
            }
            let Some(seq) = callback.id().rsplit('-').next().and_then(|seq| seq.parse::<u64>().ok()) else {
                faults.push(format!("an event without a number: {}", callback.body));
                continue;
            };
            match story.iter().find(|(known, _)| *known == seq) {
                Some((_, known)) if known.info() == callback.info() && known.event() == callback.event() => {}
                Some((_, known)) => faults.push(format!("one number, two events: {} / {}", known.body, callback.body)),
                None => story.push((seq, callback)),
            }
        }
        if !story.is_sorted_by_key(|(seq, _)| *seq) {
            faults.push("the events came out of order".into());
        }
        let events: Vec<u64> = story.iter().map(|(_, c)| c.event()).collect();
        let of = |event: u64| story.iter().map(|(_, c)| *c).filter(move |c| c.event() == event).collect::<Vec<_>>();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                faults.push(format!("{what}: {events:?}"));
            }
        };
        must(events.first() == Some(&301) && of(301).len() == 1, "301 once, and first");
        must(of(303).len() == 1, "303 once");
        must(of(302).len() == 1, "302 once");
        must(of(302).iter().all(|c| c.payload()["LeaveCode"] == 0), "302 says that it was stopped");
        let ends: Vec<u64> = of(305).iter().filter_map(|c| c.payload()["Status"].as_u64()).collect();
        must(ends == [0] || ends == [1, 2], &format!("305 is 0, or 1 and then 2, not {ends:?}"));
        must(events.last() == Some(&305), "305 is the last");
        must(of(308).iter().all(|c| c.payload()["Code"] != "SegmentLost"), "no segment is lost");
        // every takeover that recorded has names of its own, and was told
        let lives: BTreeSet<u64> = lists.keys().map(|name| life_of(name)).collect();
        let takeovers = of(306).len() as u64;
        must(takeovers >= lives.last().copied().unwrap_or(0), "306 for each takeover");
        must(takeovers <= 3, "306 at most three times");
        let last_start = story.iter().rposition(|(_, c)| c.event() == 306);
        let ended = story.iter().position(|(_, c)| c.event() == 302);
        must(last_start.is_none_or(|at| ended.is_none_or(|end| at < end)), "no takeover after the end");
        let names = |event: u64, field: &str| -> Vec<String> {
            of(event).iter().map(|c| c.payload()[field].as_str().unwrap_or_default().to_owned()).collect()
        };
        let (made, up) = (names(307, "FileName"), names(304, "FileList"));
        for name in lists.keys() {
            let once = |told: &Vec<String>| told.iter().filter(|told| *told == name).count() == 1;
            must(once(&made) && once(&up), &format!("{name} once in 307 and in 304"));
        }
        must(made.len() == lists.len() && up.len() == lists.len(), "307 and 304 for what is in the bucket only");
    }
}

/// The number in `ha<n>_`; 0 of a name of the first life.
fn life_of(name: &str) -> u64 {
    let digits = name.strip_prefix("ha").and_then(|rest| rest.split_once(&format!("_{APP}_")));
    digits.and_then(|(digits, _)| digits.parse().ok()).unwrap_or(0)
}

/// Every list of the bucket, each of which must list what is there.
fn lists_of(objects: &Objects, when: &str, faults: &mut Vec<String>) -> BTreeMap<String, Playlist> {
    let mut lists = BTreeMap::new();
    for (name, body) in objects.iter().filter(|(name, _)| name.ends_with(".m3u8")) {
        let text = String::from_utf8_lossy(body);
        if !text.starts_with("#EXTM3U\n") {
            faults.push(format!("{when}: {name} is no playlist: {text:?}"));
            continue;
        }
        let list = Playlist::parse(&text);
        for segment in list.segments.iter().filter(|segment| !objects.contains_key(&segment.name)) {
            faults.push(format!("{when}: {name} lists {}, which is not there", segment.name));
        }
        lists.insert(name.clone(), list);
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(written: &[u8], kept: Option<&[u8]>, torn: bool) -> Part {
        Part { written: written.to_vec(), kept: kept.map(<[u8]>::to_vec), torn }
    }

    #[test]
    fn what_is_promised_of_a_torn_part() {
        let written: Vec<u8> = (0..188 * 4u32).map(|n| n as u8).collect();
        assert_eq!(part(&written, Some(&written[..500]), false).promised(), 376);
        assert_eq!(part(&written, None, false).promised(), 0);
        let mut torn = written[..500].to_vec();
        torn.extend([0; 64]);
        let torn = part(&written, Some(&torn), true);
        assert_eq!(torn.promised(), 188);
        assert!(torn.is(&written[..376]) && torn.is(&written[..188]) && !torn.is(&written[188..564]));
    }

    /// A recording of nothing but lies: every promise that can be seen to be broken is seen.
    #[test]
    fn it_sees_every_lie() {
        let name = "dXNlcg.._main_video_r0_i0_t1000000_640x360_join_d2000000.ts";
        assert_eq!(facts(name), Some(("dXNlcg.._main_video".into(), 0, 1000, Some(2000))));
        let death = Death {
            what: "a death".into(),
            at_ms: 90_000,
            recording: true,
            finished: BTreeMap::from([(name.to_owned(), vec![0x47; 188])]),
            objects: Objects::from([("gone.ts".into(), vec![1])]),
            ..Death::default()
        };
        let list = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-TRTC-START-REC-TIME:1\n#EXTINF:5.0,\n\
                    1_20330531094551825.ts\n#EXTINF:5.0,\nmissing_20330531094551825.ts\n";
        let objects = Objects::from([
            ("a.m3u8".into(), list.as_bytes().to_vec()),
            ("1_20330531094551825.ts".into(), vec![0; 188]),
            ("2.ts".into(), vec![0; 188]),
        ]);
        let evidence =
            Evidence { deaths: &[death], objects: &objects, callbacks: &[], spool: &["task/x.part".to_owned()] };
        let faults = evidence.verdict().faults.join("\n");
        for lie in [
            "was finished and is in the bucket as []",
            "were not with the disk",
            "gone or another one",
            "no ENDLIST",
            "not with its first segment",
            "above the target",
            "which is not there",
            "no whole stream",
            "no list knows it",
            "are one segment",
            "left on the shelf",
            "301 once",
            "302 once",
            "305 is 0",
            "once in 307",
        ] {
            assert!(faults.contains(lie), "{lie} is not seen:\n{faults}");
        }
    }
}
