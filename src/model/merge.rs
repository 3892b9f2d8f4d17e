//! Merging single-stream files: from their names, times and lengths to the files that are to be made of them.
//!
//! Owns: what a single-stream file's name says, sections and gaps, which streams go together, what must be coded anew.
//! Must not touch: files, GStreamer.
//! Law: pure. Every picture and every sound of the streams that were chosen has one place in one result, and none is
//! before that of an earlier one of its kind. Times are ticks of 90 kHz, as in the files; a millisecond is 90.
//! Sources: RECORDING.md §10, API.md §7.2, the source's "单流文件合并脚本".

use std::collections::{BTreeMap, BTreeSet};

use time::{Date, Month, PrimitiveDateTime, Time};

use super::mix::Size;
use super::{LaneKind, MediaId, Timestamp};

/// Ticks of a second.
pub const SECOND: i64 = 90_000;
/// So long with neither sound nor picture parts two sections.
pub const GAP: i64 = 15 * SECOND;
/// PTS count in 33 bits.
const WRAP: i64 = 1 << 33;
/// A file's time stamps are followed from one file to the next as long as they agree with the names to this: names are
/// rounded to the millisecond, and the cloud's clock is not the one of its stamps.
const AGREE: i64 = SECOND / 10;
/// Pictures a second where they are coded anew and nobody said how many.
pub const USUAL_FPS: u32 = 15;
const LEAST_FPS: i64 = 5;
const MOST_FPS: i64 = 120;
const LEAST_SIDE: u32 = 16;
const MOST_SIDE: u32 = 8192;

/// Which pictures go with a user's sound (`-a`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pick {
    /// 0
    #[default]
    Main,
    /// 1: aux where main has nothing for as long as parts two sections
    Auto,
    /// 2
    Aux,
}

/// What somebody wants made of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// All sections of a user in one file (`-m 1`).
    pub whole: bool,
    /// The gaps between them are left out (`-s`).
    pub skip_gaps: bool,
    pub pick: Pick,
    /// `-p`
    pub fps: Option<u32>,
    /// `-r`
    pub size: Option<Size>,
}

/// `-p`: what is too little or too much is drawn to the nearest that is taken.
pub fn fps(asked: i64) -> u32 {
    u32::try_from(asked.clamp(LEAST_FPS, MOST_FPS)).expect("it was clamped")
}

/// `-r`
pub fn size(width: u32, height: u32) -> Result<Size, String> {
    let sane = |side: u32| (LEAST_SIDE..=MOST_SIDE).contains(&side) && side.is_multiple_of(2);
    if sane(width) && sane(height) {
        return Ok(Size { width, height });
    }
    Err(format!("{width}x{height}: width and height are even numbers from {LEAST_SIDE} to {MOST_SIDE}"))
}

/// What a single-stream file's name says of its stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamName {
    /// What stands before the user: application, room, which takeover. Streams that share it share a clock.
    pub recording: String,
    /// As encoded.
    pub user: String,
    pub media: MediaId,
    pub kind: LaneKind,
}

impl StreamName {
    /// Of `<recording>__UserId_s_<user>__UserId_e_<media>_<kind>[_<number>].m3u8`.
    pub fn of_playlist(file: &str) -> Option<StreamName> {
        StreamName::parse(file.strip_suffix(".m3u8")?)
    }

    /// Of the same with `_<17 digits>.ts`; with the 17 digits and the time that they say.
    pub fn of_segment(file: &str) -> Option<(StreamName, &str, Timestamp)> {
        let (stem, digits) = file.strip_suffix(".ts")?.rsplit_once('_')?;
        Some((StreamName::parse(stem)?, digits, stamp(digits)?))
    }

    fn parse(stem: &str) -> Option<StreamName> {
        // newer pages write one underscore before it, real files have two, and exports without a room none
        let (recording, rest) = stem.split_once("UserId_s_")?;
        let (user, rest) = rest.split_once("_UserId_e_")?;
        let (recording, user) = (recording.trim_end_matches('_'), user.trim_end_matches('_'));
        let mut fields = rest.split('_');
        let media = match fields.next()? {
            "main" => MediaId::Main,
            "aux" => MediaId::Aux,
            _ => return None,
        };
        let kind = match fields.next()? {
            "audio" => LaneKind::Audio,
            "video" => LaneKind::Video,
            "audiovideo" => LaneKind::AudioVideo,
            _ => return None,
        };
        let number = fields.next().unwrap_or_default();
        if user.is_empty() || fields.next().is_some() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let recording = if number.is_empty() { recording.to_owned() } else { format!("{recording}#{number}") };
        Some(StreamName { recording, user: user.to_owned(), media, kind })
    }
}

/// `YYYYMMDDhhmmssmmm`, UTC.
fn stamp(digits: &str) -> Option<Timestamp> {
    if digits.len() != 17 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| digits[from..to].parse::<u16>().ok();
    let small = |from: usize| u8::try_from(number(from, from + 2)?).ok();
    let month = Month::try_from(small(4)?).ok()?;
    let date = Date::from_calendar_date(i32::from(number(0, 4)?), month, small(6)?).ok()?;
    let time = Time::from_hms_milli(small(8)?, small(10)?, small(12)?, number(14, 17)?).ok()?;
    let nanos = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp_nanos();
    i64::try_from(nanos / 1_000_000).ok().map(Timestamp::from_ms)
}

/// What a file has of one kind: from the first to the end of the last, ticks as they stand in it, without turning over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: i64,
    /// When the last one begins.
    pub last: i64,
    pub end: i64,
    pub count: u64,
}

/// AAC as it lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SoundForm {
    pub rate: u32,
    /// As the stream's configuration counts them: 1 to 7, and 7 are eight channels.
    pub channels: u8,
    /// Audio object type; 2 is LC.
    pub object: u8,
}

/// A file that plays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which of the files that were looked at.
    pub file: usize,
    pub stream: StreamName,
    pub start: Timestamp,
    /// The name's own digits of it.
    pub stamp: String,
    /// EXTINF; 0 when no playlist has it.
    pub listed: i64,
    /// Pixels; more than one size when it changes within the file.
    pub sizes: BTreeSet<Size>,
    pub picture: Option<Span>,
    pub sound: Option<Span>,
    pub forms: BTreeSet<SoundForm>,
}

impl Piece {
    fn first(&self) -> i64 {
        [self.picture, self.sound].into_iter().flatten().map(|span| span.first).min().unwrap_or(0)
    }

    fn measured(&self) -> i64 {
        let end = [self.picture, self.sound].into_iter().flatten().map(|span| span.end).max();
        end.map_or(0, |end| end - self.first())
    }

    /// By the playlist; a file that holds more than its playlist says is as long as it is.
    fn length(&self) -> i64 {
        self.listed.max(self.measured())
    }
}

/// Where a file's pictures or sounds go: what stands at `t` in the file is at `t + shift` in the result. What would be
/// before `from` or not before `until` is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub file: usize,
    pub shift: i64,
    pub from: i64,
    pub until: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picturing {
    /// As they are.
    Copy,
    Encode {
        size: Size,
        fps: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sounding {
    Copy(SoundForm),
    /// At 48 kHz, since not all files have it in one form.
    Encode {
        channels: u32,
    },
}

/// A file to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub name: String,
    pub length: i64,
    /// Where there is something, in order; between them is black.
    pub sections: Vec<(i64, i64)>,
    pub picturing: Option<Picturing>,
    pub pictures: Vec<Placed>,
    /// How many there are to copy, at most.
    pub picture_count: u64,
    pub sounding: Option<Sounding>,
    pub sounds: Vec<Placed>,
}

/// A piece on the line of all of a user's pieces.
#[derive(Debug, Clone, Copy)]
struct Laid<'a> {
    piece: &'a Piece,
    shift: i64,
    /// By name and playlist: what sections are told by.
    nominal: (i64, i64),
}

impl Laid<'_> {
    fn begin(&self) -> i64 {
        self.piece.first() + self.shift
    }

    fn end(&self) -> i64 {
        self.begin() + self.piece.length()
    }
}

/// A stretch of pictures or sounds that is used.
#[derive(Debug, Clone, Copy)]
struct Used<'a> {
    laid: Laid<'a>,
    picture: bool,
    from: i64,
    until: i64,
}

/// What to make of one user's pieces.
pub fn plan(user: &str, pieces: &[Piece], wish: &Wish) -> Vec<Output> {
    let heard = if pieces.iter().any(|p| p.sound.is_some() && p.stream.media == MediaId::Main) {
        MediaId::Main
    } else {
        MediaId::Aux
    };
    let shows = |piece: &Piece| {
        let media = piece.stream.media;
        let wanted = match wish.pick {
            Pick::Main => media == MediaId::Main,
            Pick::Auto => true,
            Pick::Aux => media == MediaId::Aux,
        };
        piece.picture.is_some() && wanted
    };
    let sounds = |piece: &Piece| piece.sound.is_some() && piece.stream.media == heard;
    let laid = lay(pieces.iter().filter(|piece| shows(piece) || sounds(piece)).collect());

    let of = |laid: &Laid| laid.piece.stream.media;
    let seen: Vec<Laid> = laid.iter().copied().filter(|laid| shows(laid.piece)).collect();
    let (main, aux): (Vec<Laid>, Vec<Laid>) = seen.into_iter().partition(|laid| of(laid) == MediaId::Main);
    let mut used = match wish.pick {
        Pick::Main => in_turn(main, true),
        Pick::Aux => in_turn(aux, true),
        Pick::Auto => with_aux(in_turn(main, true), in_turn(aux, true)),
    };
    used.extend(in_turn(laid.iter().copied().filter(|laid| sounds(laid.piece)).collect(), false));
    let sections = sections(used);
    if wish.whole {
        outputs(user, vec![sections], wish)
    } else {
        outputs(user, sections.into_iter().map(|section| vec![section]).collect(), wish)
    }
}

fn ticks(at: Timestamp) -> i64 {
    at.ms() * (SECOND / 1000)
}

/// Gives every piece its place: by its name, followed by its time stamps, and recordings that overlap (one clock step
/// back, two rooms at once) one after the other.
fn lay(mut pieces: Vec<&Piece>) -> Vec<Laid<'_>> {
    pieces.sort_by(|a, b| (a.start, &a.stream, a.file).cmp(&(b.start, &b.stream, b.file)));
    let mut recordings = BTreeMap::<&str, Vec<&Piece>>::new();
    for piece in pieces {
        recordings.entry(&piece.stream.recording).or_default().push(piece);
    }
    // stretches of one recording without a gap
    let mut takes = Vec::<(i64, i64, Vec<&Piece>)>::new();
    for (_, pieces) in recordings {
        let mut open: Option<(i64, i64, Vec<&Piece>)> = None;
        for piece in pieces {
            let begin = ticks(piece.start);
            let end = begin + piece.length();
            match &mut open {
                Some((_, until, take)) if begin - *until < GAP => {
                    *until = end.max(*until);
                    take.push(piece);
                }
                _ => takes.extend(open.replace((begin, end, vec![piece]))),
            }
        }
        takes.extend(open);
    }
    takes.sort_by_key(|(begin, end, _)| (*begin, *end));
    let mut laid = Vec::new();
    let mut free = i64::MIN;
    for (begin, end, take) in takes {
        let moved = (free.saturating_sub(begin)).max(0);
        free = end + moved;
        let mut lanes = BTreeMap::<&StreamName, Laid>::new();
        for piece in take {
            let nominal = ticks(piece.start) + moved;
            let mut shift = nominal - piece.first();
            if let Some(before) = lanes.get(&piece.stream) {
                // how far the stamps went on, and how far the names did
                let went = (piece.first() - before.piece.first()).rem_euclid(WRAP);
                let went = if went > WRAP / 2 { went - WRAP } else { went };
                let followed = before.begin() + went;
                if (followed - nominal).abs() <= AGREE {
                    shift = followed - piece.first();
                }
            }
            let new = Laid { piece, shift, nominal: (nominal, nominal + piece.length()) };
            lanes.insert(&piece.stream, new);
            laid.push(new);
        }
    }
    laid
}

/// Pieces of one kind in order, none before the media of the last one has ended; a picture stands until the next.
fn in_turn(mut laid: Vec<Laid<'_>>, picture: bool) -> Vec<Used<'_>> {
    laid.sort_by_key(|laid| (laid.begin(), laid.piece.file));
    let mut used = Vec::<Used>::with_capacity(laid.len());
    let mut free = i64::MIN;
    for mut laid in laid {
        let span = if picture { laid.piece.picture } else { laid.piece.sound };
        let Some(span) = span else { continue };
        let moved = (free.saturating_sub(span.first + laid.shift)).max(0);
        laid.shift += moved;
        if moved > AGREE {
            laid.nominal = (laid.nominal.0 + moved, laid.nominal.1 + moved);
        }
        let from = span.first + laid.shift;
        // how long the last picture stood is a guess; how long a sound is is not
        free = laid.shift + if picture { span.last + 1 } else { span.end };
        if let Some(before) = used.last_mut() {
            before.until = before.until.min(from);
        }
        used.push(Used { laid, picture, from, until: laid.end().max(span.end + laid.shift) });
    }
    used
}

/// Main pictures, and aux ones in the holes between them.
fn with_aux<'a>(main: Vec<Used<'a>>, aux: Vec<Used<'a>>) -> Vec<Used<'a>> {
    let ends = main.iter().map(|used| used.until);
    let begins = main.iter().map(|used| used.from);
    let holes: Vec<(i64, i64)> = std::iter::once(i64::MIN).chain(ends).zip(begins.chain([i64::MAX])).collect();
    let mut all = main;
    for (begin, end) in holes {
        if end.saturating_sub(begin) < GAP {
            continue;
        }
        for used in &aux {
            let (from, until) = (used.from.max(begin), used.until.min(end));
            if from < until {
                all.push(Used { from, until, ..*used });
            }
        }
    }
    all.sort_by_key(|used| used.from);
    all
}

fn sections(mut used: Vec<Used<'_>>) -> Vec<Vec<Used<'_>>> {
    used.sort_by_key(|used| (used.laid.nominal.0, used.from));
    let mut sections = Vec::<Vec<Used>>::new();
    let mut until = i64::MIN;
    for used in used {
        match sections.last_mut() {
            Some(section) if used.laid.nominal.0 - until < GAP => section.push(used),
            _ => sections.push(vec![used]),
        }
        until = until.max(used.laid.nominal.1);
    }
    sections
}

fn outputs(user: &str, files: Vec<Vec<Vec<Used<'_>>>>, wish: &Wish) -> Vec<Output> {
    files.into_iter().filter_map(|sections| output(user, sections, wish)).collect()
}

/// One result of one or more sections.
fn output(user: &str, sections: Vec<Vec<Used<'_>>>, wish: &Wish) -> Option<Output> {
    let stamp = &sections.first()?.iter().min_by_key(|used| used.laid.nominal.0)?.laid.piece.stamp;
    let gaps = sections.len() > 1 && !wish.skip_gaps;
    let (mut pictures, mut sounds, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sizes, mut forms) = (BTreeSet::new(), BTreeSet::new());
    let mut origin: Option<i64> = None;
    let (mut length, mut picture_count) = (0, 0);
    for section in &sections {
        let begin = section.iter().map(|used| used.from).min()?;
        let end = section.iter().map(|used| used.until).max()?;
        let shift = match origin {
            None => -begin,
            Some(_) if wish.skip_gaps => length - begin,
            Some(shift) => shift.max(length - begin),
        };
        origin.get_or_insert(shift);
        for used in section {
            let (from, until) = (used.from + shift, used.until + shift);
            let placed = Placed { file: used.laid.piece.file, shift: used.laid.shift + shift, from, until };
            if used.picture {
                pictures.push(placed);
                picture_count += used.laid.piece.picture.map_or(0, |span| span.count);
                sizes.extend(&used.laid.piece.sizes);
            } else {
                sounds.push(placed);
                forms.extend(&used.laid.piece.forms);
            }
        }
        bounds.push((begin + shift, end + shift));
        length = end + shift;
    }
    pictures.sort_by_key(|placed| placed.from);
    sounds.sort_by_key(|placed| placed.from);
    let picturing = (!pictures.is_empty()).then(|| picturing(&sizes, gaps, wish));
    let ending = if picturing.is_some() { "_av.mp4" } else { ".m4a" };
    Some(Output {
        name: format!("{user}_{stamp}{ending}"),
        length,
        sections: bounds,
        picturing,
        pictures,
        picture_count,
        sounding: sounding(&forms),
        sounds,
    })
}

fn picturing(sizes: &BTreeSet<Size>, gaps: bool, wish: &Wish) -> Picturing {
    let other = wish.size.is_some_and(|size| sizes.iter().any(|is| *is != size));
    if !gaps && !other && sizes.len() <= 1 && wish.fps.is_none() {
        return Picturing::Copy;
    }
    let pixels = |size: &&Size| u64::from(size.width) * u64::from(size.height);
    let largest = sizes.iter().max_by_key(pixels).copied().unwrap_or(Size { width: 640, height: 360 });
    // four pixels share a colour
    let even = |side: u32| (side & !1).max(LEAST_SIDE);
    let size = wish.size.unwrap_or(Size { width: even(largest.width), height: even(largest.height) });
    Picturing::Encode { size, fps: wish.fps.unwrap_or(USUAL_FPS) }
}

fn sounding(forms: &BTreeSet<SoundForm>) -> Option<Sounding> {
    let first = forms.first()?;
    let silence_known = (1..=2).contains(&first.channels) && first.object == 2;
    if forms.len() == 1 && silence_known {
        return Some(Sounding::Copy(*first));
    }
    let channels = if forms.iter().all(|form| form.channels == 1) { 1 } else { 2 };
    Some(Sounding::Encode { channels })
}

#[cfg(test)]
mod tests;
