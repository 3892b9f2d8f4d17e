//! Packing: which of a task's segments go into which file after its end.
//!
//! Owns: which segments belong to one file, its name, the order of its sources. Must not touch: bytes.
//! Law: a plan of the same segments and limits is the same for ever; a name has an `<Index>` only when there is more
//! than one file.
//! Sources: RECORDING.md §2 (names), §6 (limits), §8 (310); API.md §1.5 (FillType).

use std::collections::BTreeMap;
use std::time::Duration;

use super::bundle::List;
use super::output::{Container, LARGEST, LONGEST, Limits};
use super::packed::PackedFile;
use super::piece::{Piece, PieceFate};
use super::recording::RecordingSpec;
use super::segment::{encode_id, room_stem};
use super::{LaneKind, MediaId, Timestamp};

/// Times in packed files count so often a second, as those of transport streams do.
pub const TICKS: i64 = 90_000;

/// What to pack: everything of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub container: Container,
    pub limits: Limits,
    /// Where pictures stop for so long, black follows; `None`: the last one stands.
    pub black_after: Option<Duration>,
    pub groups: Vec<Group>,
    /// Lists that go up with their segments.
    pub lists: Vec<List>,
    /// Files of the task that are up or wait to go up: what they hold is not packed again, and their names are taken.
    pub made: Vec<PackedFile>,
    /// Segments go up in lists as well.
    pub listed: bool,
}

impl Order {
    /// Of a task of which nothing is made yet: gaps stay empty, and nothing goes up in lists.
    pub fn new(container: Container, limits: Limits, groups: Vec<Group>) -> Order {
        let (lists, made) = (Vec::new(), Vec::new());
        Order { container, limits, black_after: None, groups, lists, made, listed: false }
    }
}

/// What goes into one file, or into one and those that follow it where it is split.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Empty when mixed.
    pub user: String,
    pub media: MediaId,
    /// What stands before `_<Index>` and the ending. Groups that follow each other and have the same are counted together.
    pub stem: String,
    /// When its first segment began.
    pub begin: Timestamp,
    pub lives: Vec<Life>,
}

/// Segments of one life of the task: their time stamps are on one line.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    /// Where its first segment begins, after the group's.
    pub offset: Duration,
    /// In the order in which they were recorded, lane by lane.
    pub pieces: Vec<Part>,
    /// Which of them begins first.
    pub first: usize,
}

/// One segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its file in the task's folder.
    pub file: String,
    pub kind: LaneKind,
    pub start: Timestamp,
}

/// `<stem>.mp4`, or `<stem>_<Index>.mp4` of several; `nth` counts from 0.
pub fn file_name(stem: &str, container: Container, nth: usize, count: usize) -> String {
    match count {
        0 | 1 => format!("{stem}.{}", container.extension()),
        _ => format!("{stem}_{}.{}", nth + 1, container.extension()),
    }
}

/// What a task's segments are to be packed into. `pieces` in any order, each with the number of its list among those of
/// its lane; lost ones are left out.
pub fn order<'a>(
    spec: &RecordingSpec,
    container: Container,
    limits: Limits,
    gap: Duration,
    pieces: impl Iterator<Item = (u32, &'a Piece)>,
) -> Order {
    let usable = |(_, piece): &(u32, &Piece)| {
        piece.fate != PieceFate::Lost && (container == Container::Mp4 || piece.lane.kind != LaneKind::Video)
    };
    let mut of_groups = BTreeMap::<(Option<String>, MediaId), Vec<(u32, &Piece)>>::new();
    for (list, piece) in pieces.filter(usable) {
        let user = piece.lane.user.as_ref().map(|user| user.as_str().to_owned());
        of_groups.entry((user, piece.lane.media)).or_default().push((list, piece));
    }
    let apart =
        |(of, pieces)| sections(pieces, spec.resume_wait).into_iter().map(move |section| (Clone::clone(&of), section));
    let groups = of_groups.into_iter().flat_map(apart).map(
        |((user, media), mut pieces): ((Option<String>, MediaId), Vec<&Piece>)| {
            pieces.sort_by(|a, b| (a.takeover, &a.lane, a.run, a.index).cmp(&(b.takeover, &b.lane, b.run, b.index)));
            let room = room_stem(spec.app, &spec.room);
            let stem = match &user {
                Some(user) => format!("{room}__UserId_s_{}__UserId_e_{media}", encode_id(user)),
                None => room,
            };
            let (begin, lives) = lives(&pieces);
            Group { user: user.unwrap_or_default(), media, stem, begin, lives }
        },
    );
    let length = limits.length.min(LONGEST);
    let limits = Limits { length, bytes: limits.bytes.min(LARGEST) };
    Order {
        black_after: spec.fill_black.then_some(gap),
        listed: spec.vod().is_some_and(|vod| vod.lists),
        ..Order::new(container, limits, groups.collect())
    }
}

/// A publisher who was away for longer than the wait has begun another list of each lane, and begins another file.
fn sections(mut pieces: Vec<(u32, &Piece)>, resume_wait: Option<Duration>) -> Vec<Vec<&Piece>> {
    pieces.sort_by_key(|(_, piece)| piece.start);
    let mut sections: Vec<Vec<&Piece>> = Vec::new();
    let (mut end, mut lists) = (Timestamp(0), BTreeMap::new());
    for (list, piece) in pieces {
        let before = lists.insert(&piece.lane, (piece.takeover, list));
        let away = resume_wait.is_some_and(|wait| piece.start.since(end) >= wait);
        match sections.last_mut() {
            // what is in one list stays together: its publisher was there, and the recording paused
            Some(section) if !away || before == Some((piece.takeover, list)) => section.push(piece),
            _ => sections.push(vec![piece]),
        }
        end = end.max(piece.start.plus(piece.duration));
    }
    sections
}

/// Lives lie on the line by the wall clock; one that was set back does not lay one over another.
fn lives(pieces: &[&Piece]) -> (Timestamp, Vec<Life>) {
    let mut begin = Timestamp(0);
    let mut lives: Vec<Life> = Vec::new();
    let mut taken = Duration::ZERO;
    for of_life in pieces.chunk_by(|a, b| a.takeover == b.takeover) {
        let first = (0..of_life.len()).min_by_key(|i| (of_life[*i].start, *i)).unwrap_or(0);
        let start = of_life[first].start;
        if lives.is_empty() {
            begin = start;
        }
        let offset = start.since(begin).max(taken);
        let end = of_life.iter().map(|piece| piece.start.since(start) + piece.duration).max().unwrap_or_default();
        taken = offset + end;
        let part = |piece: &&Piece| Part { file: piece.local_file(), kind: piece.lane.kind, start: piece.start };
        lives.push(Life { offset, pieces: of_life.iter().map(part).collect(), first });
    }
    (begin, lives)
}

pub fn ticks(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos() * 9 / 100_000).unwrap_or(i64::MAX)
}

pub fn of_ticks(ticks: i64) -> Duration {
    Duration::from_nanos(u64::try_from(ticks.max(0) as i128 * 100_000 / 9).unwrap_or(u64::MAX))
}
