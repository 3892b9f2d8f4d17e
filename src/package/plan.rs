//! From segments to files: one line of time, cut where a file is full, and the tables of each file.
//!
//! Owns: where on the line a segment lies, where a file ends. Must not touch: bytes that go out.
//! Law: every unit of every segment that can be read is in one file, once, and in order; a file begins with a keyframe
//! where there are pictures, and is within its limits unless one group of pictures is not; made again of its plan it is
//! the same to the last byte. What a file that is made already holds is not packed again, and its name is its own.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::layout::{Layout, Tracks};
use super::shelf::{Loader, Shelf};
use super::tables::{NewPicture, PictureTrack, SoundTrack};
use super::units::Demuxed;
use crate::container::adts::FRAME;
use crate::container::h264::{self, PICTURE_SET, SEQUENCE_SET};
use crate::container::mp4::Described;
use crate::container::ts_in::{WRAP, clock_difference};
use crate::media::stream_size;
use crate::model::LaneKind;
use crate::model::made::{Made, Plan, place_among};
use crate::model::output::{Container, Limits};
use crate::model::package::{Group, Order, Part, TICKS, file_name, of_ticks, ticks};
use crate::model::packed::{FilePlan, PLAN_SUFFIX, PLAN_VERSION, Packed, PackedFile, Source, of_given_up_plan};

/// Sound alone is looked at in steps of this.
const STEP: i64 = TICKS;
/// What a picture lasts when there is no other to tell.
const USUAL_PERIOD: i64 = 3_000;
const LONGEST_PERIOD: i64 = TICKS / 2;
/// The head of a file without its samples, a black picture at its end, and what it has for each of them at most.
const HEAD_BYTES: u64 = 16 * 1024 + BLACK_BYTES;
const PICTURE_BYTES: u64 = 24;
const SOUND_BYTES: u64 = 12;
/// Chunks, for each second that was begun.
const STEP_BYTES: u64 = 48;
/// A black picture, and what describes it: of 4K it has 33 kB.
const BLACK_BYTES: u64 = 40_000;
/// Silence of one second, its tables included.
const SILENCE_BYTES: u64 = 47 * 33;
/// A time stamp that is so much behind the one before has not turned over.
const BACK: i64 = 60 * TICKS;

/// What the files hold that an order says are made. One that is up and whose plan cannot be had (it is of an older box)
/// holds nothing for sure. `None`: the plan of one that waits is not there yet, or is broken, which its carrier will find.
pub fn made(order: &Order, shelf: &Shelf) -> Option<Made> {
    let mut made = Made::default();
    for file in &order.made {
        let text = shelf.read(&format!("{}{PLAN_SUFFIX}", file.object));
        let text = text.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match text.and_then(|text| Plan::parse(&file.object, &text)) {
            Some(plan) if plan.contents() == (file.bytes, file.crc32) => made.add(&file.object, &plan),
            _ if !file.uploaded => return None,
            _ => tracing::warn!(task = %shelf.task, object = file.object, "what is in a packed file is not known"),
        }
    }
    Some(made)
}

/// A file's name at the destination, and what names its contents: length and sum. `None`: nobody knows.
type Taken = (String, Option<(u64, u32)>);

/// Files whose plans were given up. They may have been sent.
fn given_up(shelf: &Shelf) -> Vec<Taken> {
    let contents = |object: &str, name: &str| {
        let text = shelf.read(name).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
        Plan::parse(object, &text).map(|plan| plan.contents())
    };
    let taken = |name: String| of_given_up_plan(&name).map(|object| (object.to_owned(), contents(object, &name)));
    shelf.names().into_iter().filter_map(taken).collect()
}

/// Names for the files of one stem. Those that are made keep theirs, whatever becomes of the others; each of the others
/// is called after its place among them. The name of one that was given up is for the same contents only: what was sent
/// of it may arrive after what is sent now.
struct Names<'a> {
    stem: &'a str,
    container: Container,
    taken: Vec<(u32, &'a Taken)>,
    last: u32,
}

impl<'a> Names<'a> {
    fn new(order: &Order, stem: &'a str, taken: &'a [Taken]) -> Names<'a> {
        let place = |taken: &'a Taken| Some((place_among(stem, &taken.0, order.container)?, taken));
        Names { stem, container: order.container, taken: taken.iter().filter_map(place).collect(), last: 0 }
    }

    fn next(&mut self, (nth, count): (usize, usize), done: &Done) -> String {
        if self.taken.is_empty() {
            return file_name(self.stem, self.container, nth, count);
        }
        let contents = Some((done.plan.bytes, done.plan.crc32));
        let mut place = self.last.max(done.after) + 1;
        loop {
            let mut there = self.taken.iter().filter(|(of, _)| *of == place).peekable();
            if there.peek().is_none() {
                break;
            }
            if let Some((_, (object, _))) = there.find(|(_, (_, of))| *of == contents) {
                self.last = place;
                return object.clone();
            }
            place += 1;
        }
        self.last = place;
        format!("{}_{place}.{}", self.stem, self.container.extension())
    }
}

/// Plans all files of an order. `each` hears of every segment before it is read, `made` gets the tables of files that are
/// at hand anyway.
pub fn plan(
    order: &Order,
    there: &Made,
    shelf: &Shelf,
    each: &mut dyn FnMut(&str),
    made: &mut dyn FnMut(FilePlan, Layout),
) -> Packed {
    let mut packed = Packed::default();
    let of_made = |file: &PackedFile| (file.object.clone(), Some((file.bytes, file.crc32)));
    let taken: Vec<Taken> = order.made.iter().map(of_made).chain(given_up(shelf)).collect();
    for alike in order.groups.chunk_by(|a, b| a.stem == b.stem) {
        let mut all = Vec::new();
        for group in alike {
            let mut planning = Planning::new(order, there, group, shelf.clone());
            planning.run(each);
            packed.broken.append(&mut planning.line.broken);
            all.extend(planning.done.into_iter().map(|done| (group, done)));
        }
        let count = all.len();
        let mut names = Names::new(order, &alike[0].stem, &taken);
        for (nth, (group, done)) in all.into_iter().enumerate() {
            let object = names.next((nth, count), &done);
            let Done { plan, start, end, picture, sound, layout, .. } = done;
            let kind = match (picture, sound) {
                (true, true) => LaneKind::AudioVideo,
                (true, false) => LaneKind::Video,
                _ => LaneKind::Audio,
            };
            let file = PackedFile {
                object,
                user: group.user.clone(),
                media: group.media,
                kind,
                start: plan.start,
                end: plan.start.plus(of_ticks(end - start)),
                bytes: plan.bytes,
                crc32: plan.crc32,
                uploaded: false,
            };
            let text = serde_json::to_string(&plan).expect("a plan has text keys and no floats");
            packed.files.push((file, text));
            if let Some(layout) = layout {
                made(plan, layout);
            }
        }
    }
    packed
}

/// The same file again, of its plan.
pub fn again(plan: &FilePlan, shelf: &Shelf) -> io::Result<Layout> {
    let refused = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if plan.v != PLAN_VERSION {
        return Err(refused("the plan of the file is of another version"));
    }
    let mut loader = Loader::new(shelf.clone());
    let mut tracks = empty(plan.container, plan.black_after);
    for (n, source) in (0u32..).zip(&plan.sources) {
        let demuxed = loader.load_planned(n, &source.file, source.crc32)?;
        let (first, end) = source.pictures.unwrap_or_default();
        let (heard, unheard) = source.sounds.unwrap_or_default();
        if end as usize > demuxed.units.len() || unheard as usize > demuxed.frames.len() {
            return Err(refused("a segment holds less than was packed"));
        }
        (first..end).for_each(|index| add_picture(&mut tracks, n, index, source.at, &demuxed));
        (heard..unheard).for_each(|index| add_sound(&mut tracks, n, index, source.at, &demuxed));
    }
    let layout = tracks.finish(plan.start);
    let crc32 = fingerprint(&layout, &plan.sources);
    if layout.bytes != plan.bytes || crc32 != plan.crc32 {
        return Err(refused("what was packed does not come out again"));
    }
    Ok(layout)
}

fn empty(container: Container, black_after: Option<i64>) -> Tracks {
    Tracks { pictures: PictureTrack::new(black_after), sounds: SoundTrack::new(container == Container::Adts) }
}

fn fingerprint(layout: &Layout, sources: &[Source]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&layout.head);
    for source in sources {
        crc.update(&source.crc32.to_be_bytes());
    }
    crc.finalize()
}

fn add_picture(tracks: &mut Tracks, source: u32, index: u32, at: i64, demuxed: &Demuxed) {
    let unit = &demuxed.units[index as usize];
    let described = unit.key.then(|| described(demuxed, index)).flatten();
    let new = NewPicture {
        source,
        index,
        pts: at + unit.pts,
        dts: at + unit.dts,
        key: unit.key,
        bytes: demuxed.picture_bytes(unit),
    };
    tracks.pictures.add(new, described);
}

fn add_sound(tracks: &mut Tracks, source: u32, index: u32, at: i64, demuxed: &Demuxed) {
    let frame = &demuxed.frames[index as usize];
    let bytes = demuxed.sound(frame, tracks.sounds.adts()).len();
    let bytes = u32::try_from(bytes).expect("a frame of ADTS has 8 kB at most");
    tracks.sounds.add(source, index, at + frame.pts, frame.form, bytes);
}

/// The parameter sets that a keyframe brings along.
fn described(demuxed: &Demuxed, index: u32) -> Option<Described> {
    let of_kind = |kind: u8| -> Vec<Vec<u8>> {
        let nals = demuxed.nals(&demuxed.units[index as usize]);
        nals.filter(|nal| h264::kind(nal) == kind).map(<[u8]>::to_vec).collect()
    };
    let sps = of_kind(SEQUENCE_SET);
    let size = stream_size(&[&[0, 0, 1], sps.first()?.as_slice()].concat()).unwrap_or((0, 0));
    Some(Described { sps, pps: of_kind(PICTURE_SET), size })
}

/// A unit that comes next on its track.
#[derive(Clone)]
struct Next {
    source: u32,
    index: u32,
    /// When it is shown or heard; of pictures, when it is decoded.
    time: i64,
    key: bool,
    bytes: u64,
    lasts: i64,
    data: Arc<Demuxed>,
}

/// The line on which a group's segments lie.
struct Line<'a> {
    order: &'a Order,
    group: &'a Group,
    made: &'a Made,
    loader: Loader,
    sources: Vec<Source>,
    by_file: BTreeMap<&'a str, u32>,
    /// Where each life's clock stands at the beginning of its first segment: (33 bits, ticks on the line).
    anchors: Vec<Option<(i64, i64)>>,
    /// Of a kind of lane: life, clock and place of its last segment.
    lasts: BTreeMap<LaneKind, (usize, i64, i64)>,
    broken: Vec<(String, String)>,
}

impl<'a> Line<'a> {
    /// Reads a segment and says where it lies. `None`: it cannot be read, which is noted.
    fn place(&mut self, life: usize, part: &'a Part, each: &mut dyn FnMut(&str)) -> Option<(u32, Arc<Demuxed>)> {
        if let Some(n) = self.by_file.get(part.file.as_str()).copied() {
            let (demuxed, _) = self.loader.load(n, &part.file).ok()?;
            return Some((n, demuxed));
        }
        if self.broken.iter().any(|(file, _)| *file == part.file) {
            return None;
        }
        each(&part.file);
        let n = u32::try_from(self.sources.len()).expect("a task has less than four billion segments");
        let (demuxed, crc32) = match self.loader.load(n, &part.file) {
            Ok((demuxed, crc32)) if !demuxed.is_empty() => (demuxed, crc32.unwrap_or_default()),
            Ok(_) => return self.give_up(part, "nothing in it plays".into()),
            Err(error) => return self.give_up(part, error.to_string()),
        };
        let at = self.where_is(life, part, demuxed.first);
        self.by_file.insert(&part.file, n);
        self.lasts.insert(part.kind, (life, demuxed.first, at));
        let of = Some(self.to_be_packed(part, &demuxed));
        let source = Source { file: part.file.clone(), at, crc32, pictures: None, sounds: None, of };
        self.sources.push(source);
        Some((n, demuxed))
    }

    fn to_be_packed(&self, part: &Part, demuxed: &Demuxed) -> (u32, u32) {
        let count = |units: usize| u32::try_from(units).expect("a segment has few units");
        let pictures = self.order.container == Container::Mp4 && part.kind != LaneKind::Audio;
        let pictures = if pictures { count(demuxed.units.len()) } else { 0 };
        (pictures, if part.kind == LaneKind::Video { 0 } else { count(demuxed.frames.len()) })
    }

    /// The place of a file that is made among those of this group.
    fn place_of(&self, object: &str) -> u32 {
        place_among(&self.group.stem, object, self.order.container).unwrap_or(0)
    }

    fn give_up<T>(&mut self, part: &Part, why: String) -> Option<T> {
        self.broken.push((part.file.clone(), why));
        self.loader.forget_newest();
        None
    }

    fn where_is(&mut self, life: usize, part: &Part, first: i64) -> i64 {
        if let Some((of, clock, at)) = self.lasts.get(&part.kind).copied()
            && of == life
        {
            // a lane goes forward, also over a gap of hours
            let step = clock_difference(first, clock);
            return at + if step < -BACK { step + WRAP } else { step };
        }
        let (clock, at) = match self.anchors[life] {
            Some(anchor) => anchor,
            None => {
                // the earliest segment of the life says where its clock stands; this one may be it
                let of_life = &self.group.lives[life];
                let earliest = &of_life.pieces[of_life.first];
                let clock = match earliest.file == part.file {
                    true => Some(first),
                    false => self.loader.peek(&earliest.file),
                };
                let offset = ticks(of_life.offset);
                let anchor = match clock {
                    Some(clock) => (clock, offset),
                    None => (first, offset + ticks(part.start.since(earliest.start))),
                };
                self.anchors[life] = Some(anchor);
                anchor
            }
        };
        // only wall time tells how often the clock has turned over meanwhile
        let step = clock_difference(first, clock);
        let earliest = &self.group.lives[life].pieces[self.group.lives[life].first];
        let wall = ticks(part.start.since(earliest.start));
        let turns = (wall - step + WRAP / 2).div_euclid(WRAP);
        at + step + if turns == 1 { WRAP } else { 0 }
    }
}

/// The units of one track, from segment to segment.
struct Feed<'a> {
    pictures: bool,
    parts: Vec<(usize, &'a Part)>,
    part: usize,
    index: u32,
    next: Option<Next>,
    /// Units that are in files already were passed over before the next one: the place of the last of these files.
    passed: Option<u32>,
}

impl<'a> Feed<'a> {
    fn new(group: &'a Group, pictures: bool) -> Feed<'a> {
        let mine = |part: &&Part| match part.kind {
            LaneKind::AudioVideo => true,
            LaneKind::Video => pictures,
            LaneKind::Audio => !pictures,
        };
        let lives = group.lives.iter().enumerate();
        let parts = lives.flat_map(|(life, of)| of.pieces.iter().filter(mine).map(move |part| (life, part))).collect();
        Feed { pictures, parts, part: 0, index: 0, next: None, passed: None }
    }

    fn peek(&mut self, line: &mut Line<'a>, each: &mut dyn FnMut(&str)) -> Option<&Next> {
        while self.next.is_none() {
            let (life, part) = *self.parts.get(self.part)?;
            if line.made.is_packed(&part.file) {
                let last = line.made.files_of(&part.file).map(|object| line.place_of(object)).max();
                self.passed = self.passed.max(last);
                (self.part, self.index) = (self.part + 1, 0);
                continue;
            }
            if let Some(object) = line.made.file_of(&part.file, self.pictures, self.index) {
                self.passed = self.passed.max(Some(line.place_of(object)));
                self.index += 1;
                continue;
            }
            let Some((source, data)) = line.place(life, part, each) else {
                (self.part, self.index) = (self.part + 1, 0);
                continue;
            };
            let at = line.sources[source as usize].at;
            let index = self.index;
            self.next = match self.pictures {
                true => data.units.get(index as usize).map(|unit| Next {
                    source,
                    index,
                    time: at + unit.dts,
                    key: unit.key,
                    bytes: u64::from(data.picture_bytes(unit)),
                    lasts: USUAL_PERIOD,
                    data: data.clone(),
                }),
                false => data.frames.get(index as usize).map(|frame| Next {
                    source,
                    index,
                    time: at + frame.pts,
                    key: true,
                    bytes: data.sound(frame, true).len() as u64,
                    lasts: FRAME * TICKS / i64::from(frame.form.rate),
                    data: data.clone(),
                }),
            };
            match self.next {
                Some(_) => self.index += 1,
                None => (self.part, self.index) = (self.part + 1, 0),
            }
        }
        self.next.as_ref()
    }
}

/// What is added to a file as a whole: a group of pictures with its sound, or a while of sound.
#[derive(Default)]
struct Unit {
    start: i64,
    end: i64,
    bytes: u64,
    pictures: Vec<Next>,
    sounds: Vec<Next>,
    /// It follows what is in a file already: that one's place.
    after: Option<u32>,
}

struct Planning<'a> {
    order: &'a Order,
    line: Line<'a>,
    pictures: Feed<'a>,
    sounds: Feed<'a>,
    tracks: Tracks,
    begun: Option<(i64, i64)>,
    /// Beginning of the file, unless it is the first, and an upper bound of its size.
    size: u64,
    heard: Option<i64>,
    seen: Option<i64>,
    /// The place of the last file that was passed over.
    after: u32,
    done: Vec<Done>,
}

/// A file that was ended.
struct Done {
    plan: FilePlan,
    start: i64,
    end: i64,
    picture: bool,
    sound: bool,
    layout: Option<Layout>,
    /// The place of the last file before it that was made already.
    after: u32,
}

impl<'a> Planning<'a> {
    fn new(order: &'a Order, made: &'a Made, group: &'a Group, shelf: Shelf) -> Planning<'a> {
        let line = Line {
            order,
            group,
            made,
            loader: Loader::new(shelf),
            sources: Vec::new(),
            by_file: BTreeMap::new(),
            anchors: vec![None; group.lives.len()],
            lasts: BTreeMap::new(),
            broken: Vec::new(),
        };
        let mut pictures = Feed::new(group, true);
        if order.container == Container::Adts {
            pictures.parts.clear();
        }
        Planning {
            order,
            line,
            pictures,
            sounds: Feed::new(group, false),
            tracks: empty(order.container, order.black_after.map(ticks)),
            begun: None,
            size: HEAD_BYTES,
            heard: None,
            seen: None,
            after: 0,
            done: Vec::new(),
        }
    }

    fn run(&mut self, each: &mut dyn FnMut(&str)) {
        let Limits { length, bytes } = self.order.limits;
        while let Some(mut unit) = self.unit(each) {
            if let Some(place) = unit.after {
                // a file that is made lies between: nothing is laid together over it
                self.finish();
                self.after = self.after.max(place);
            }
            unit.bytes += STEP_BYTES * (1 + u64::try_from((unit.end - unit.start) / TICKS).unwrap_or(0));
            if let Some((start, _)) = self.begun
                && (unit.end - start > ticks(length) || self.size + unit.bytes > bytes)
            {
                self.finish();
            }
            let (start, end) = self.begun.unwrap_or((unit.start, unit.end));
            self.begun = Some((start.min(unit.start), end.max(unit.end)));
            self.size += unit.bytes;
            for next in unit.pictures {
                let at = self.line.sources[next.source as usize].at;
                add_picture(&mut self.tracks, next.source, next.index, at, &next.data);
            }
            for next in unit.sounds {
                let at = self.line.sources[next.source as usize].at;
                add_sound(&mut self.tracks, next.source, next.index, at, &next.data);
            }
        }
        self.finish();
    }

    /// The next unit, in the order of time.
    fn unit(&mut self, each: &mut dyn FnMut(&str)) -> Option<Unit> {
        let seen = self.pictures.peek(&mut self.line, each).map(|next| next.time);
        let heard = self.sounds.peek(&mut self.line, each).map(|next| next.time);
        let mut unit = Unit { after: self.pictures.passed.take().max(self.sounds.passed.take()), ..Unit::default() };
        if unit.after.is_some() {
            // neither silence nor black is made for what a file has
            (self.heard, self.seen) = (None, None);
        }
        let until = match (seen, heard) {
            (None, None) => return None,
            (Some(seen), heard) if heard.is_none_or(|heard| seen <= heard) => {
                unit.start = seen;
                self.group_of_pictures(&mut unit, each)
            }
            (seen, Some(heard)) => {
                unit.start = heard;
                seen.unwrap_or(i64::MAX).min(heard + STEP)
            }
            (Some(_), None) => unreachable!("the arm above has no sound to wait for"),
        };
        unit.end = unit.end.max(unit.start);
        while let Some(next) = self.sounds.peek(&mut self.line, each)
            && next.time < until
        {
            let silence = self.heard.map_or(0, |heard| u64::try_from((next.time - heard) / TICKS).unwrap_or(0));
            unit.bytes += next.bytes + SOUND_BYTES + silence * SILENCE_BYTES;
            unit.end = unit.end.max(next.time + next.lasts);
            self.heard = Some(next.time + next.lasts);
            unit.sounds.extend(self.sounds.next.take());
        }
        Some(unit)
    }

    /// From a keyframe to the next one. Answers where its sound ends.
    fn group_of_pictures(&mut self, unit: &mut Unit, each: &mut dyn FnMut(&str)) -> i64 {
        let mut period = USUAL_PERIOD;
        while let Some(next) = self.pictures.peek(&mut self.line, each) {
            let Some(last) = unit.pictures.last() else {
                unit.bytes += next.bytes + PICTURE_BYTES;
                // there may be black before it
                let black = self
                    .seen
                    .is_some_and(|seen| self.order.black_after.is_some_and(|after| next.time - seen >= ticks(after)));
                unit.bytes += if black { BLACK_BYTES } else { 0 };
                unit.pictures.extend(self.pictures.next.take());
                continue;
            };
            let step = next.time - last.time;
            if (1..LONGEST_PERIOD).contains(&step) {
                period = step;
            }
            if next.key {
                unit.end = (last.time + period).min(next.time);
                self.seen = Some(unit.end);
                return unit.end;
            }
            unit.bytes += next.bytes + PICTURE_BYTES;
            unit.pictures.extend(self.pictures.next.take());
        }
        unit.end = unit.pictures.last().map_or(unit.start, |last| last.time + period);
        self.seen = Some(unit.end);
        unit.end
    }

    /// Ends the file.
    fn finish(&mut self) {
        let group = self.line.group;
        let container = self.order.container;
        let black_after = self.order.black_after.map(ticks);
        let tracks = std::mem::replace(&mut self.tracks, empty(container, black_after));
        (self.size, self.begun) = (HEAD_BYTES, None);
        if tracks.is_empty() {
            return;
        }
        let start = [tracks.pictures.first, tracks.sounds.first].into_iter().flatten().min().unwrap_or(0);
        let start = group.begin.plus(of_ticks(start));
        let mut layout = tracks.finish(start);
        let sources = self.used_by(&mut layout);
        let crc32 = fingerprint(&layout, &sources);
        let bytes = layout.bytes;
        let listed = self.order.listed;
        let plan = FilePlan { v: PLAN_VERSION, container, black_after, start, sources, bytes, crc32, listed };
        let (start, end) = (layout.start, layout.end);
        let (picture, sound) = (layout.picture, layout.sound);
        // of the others the tables are made again when they are needed
        let layout = self.done.is_empty().then_some(layout);
        self.done.push(Done { plan, start, end, picture, sound, layout, after: self.after });
    }

    /// The sources that the file is made of, numbered anew for it.
    fn used_by(&mut self, layout: &mut Layout) -> Vec<Source> {
        use super::tables::From;
        let mut numbers = BTreeMap::<u32, u32>::new();
        let mut used = BTreeMap::<u32, [Option<(u32, u32)>; 2]>::new();
        for chunk in &layout.chunks {
            let (source, first, track) = match chunk.from {
                From::Pictures { source, first } => (source, first, 0),
                From::Sounds { source, first } => (source, first, 1),
                From::Silence | From::Black => continue,
            };
            let range = &mut used.entry(source).or_default()[track];
            let (from, to) = range.unwrap_or((first, first));
            *range = Some((from.min(first), to.max(first + chunk.samples)));
        }
        let mut sources = Vec::new();
        for (n, [pictures, sounds]) in used {
            numbers.insert(n, u32::try_from(sources.len()).expect("fewer than there were"));
            sources.push(Source { pictures, sounds, ..self.line.sources[n as usize].clone() });
        }
        for chunk in &mut layout.chunks {
            match &mut chunk.from {
                From::Pictures { source, .. } | From::Sounds { source, .. } => *source = numbers[source],
                From::Silence | From::Black => {}
            }
        }
        sources
    }
}
