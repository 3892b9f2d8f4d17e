//! A segment: a finished piece of a lane, its name on the shelf and its key at the destination.
//!
//! Owns: names, both directions; duration arithmetic. Must not touch: files.
//! Law: `LocalName::parse(name.to_string()) == name`; an object key is a pure function of the task and the segment,
//! so that a repeated upload is harmless.
//! Sources: RECORDING.md §2 (object names), HOUSE order on disk (local names carry their facts).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Lane, LaneKind, LaneRun, MediaId, RoomId, SdkAppId, TaskId, Timestamp, UserId};

/// What follows a file's name when what it holds is not known: kept for a technician until its task is forgotten, and
/// never taken for a segment.
pub const LOST_SUFFIX: &str = ".lost";

/// What follows a segment's name when its destination has it and its task will pack it.
pub const KEPT_SUFFIX: &str = ".kept";

/// Suffix of a file of the shelf that is not yet whole and that is made anew.
pub const UNFINISHED: &str = ".tmp";

/// Stands for the user in local names of mixed segments: encoded ids have four characters or more.
const MIXED: &str = "mix";

/// base64 with `/` → `-` and `=` → `.` (RECORDING.md §2); `+` stays.
pub fn encode_bytes(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes).replace('/', "-").replace('=', ".")
}

/// A user id or a string room id as it stands in file names.
pub fn encode_id(id: &str) -> String {
    encode_bytes(id.as_bytes())
}

/// The id that [`encode_id`] made `text` of; `None` when it made no such text.
pub fn decode_id(text: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.replace('-', "/").replace('.', "=")).ok()?;
    let id = String::from_utf8(bytes).ok()?;
    (encode_id(&id) == text).then_some(id)
}

/// What stands before `.m3u8` and before `_<UTC>.ts` (RECORDING.md §2).
///
/// `takeover` counts how often the task was taken up again after a failure; 0 has no `ha<n>_`.
pub fn lane_stem(app: SdkAppId, room: &RoomId, takeover: u8, lane: &Lane) -> String {
    let ha = if takeover == 0 { String::new() } else { format!("ha{takeover}_") };
    export_stem(Some(&format!("{ha}{}", room_stem(app, room))), lane)
}

/// `<SdkAppId>_<RoomId>`
pub fn room_stem(app: SdkAppId, room: &RoomId) -> String {
    format!("{app}_{}", room.in_names())
}

/// A lane's names as far as they can be said: without its room, of which local names tell nothing, what is left of them.
pub fn export_stem(room: Option<&str>, lane: &Lane) -> String {
    let user = lane
        .user
        .as_ref()
        .map(|user| format!("UserId_s_{}__UserId_e_{}_{}", user.in_names(), lane.media, lane.kind.in_names()));
    match (room, user) {
        (Some(room), Some(user)) => format!("{room}__{user}"),
        (Some(room), None) => room.to_owned(),
        (None, Some(user)) => user,
        (None, None) => "mixed".to_owned(),
    }
}

/// What stands before the time in a segment's name at the destination.
pub fn segment_stem(object: &str) -> Option<&str> {
    let (stem, stamp) = object.strip_suffix(".ts")?.rsplit_once('_')?;
    (stamp.len() == 17 && stamp.bytes().all(|b| b.is_ascii_digit())).then_some(stem)
}

/// A segment's name at the destination, from what stands before its time.
pub fn segment_file(stem: &str, start: Timestamp) -> String {
    format!("{stem}_{}.ts", utc_stamp(start))
}

/// File name of a lane's playlist at the destination (RECORDING.md §2).
pub fn playlist_name(app: SdkAppId, room: &RoomId, takeover: u8, lane: &Lane) -> String {
    format!("{}.m3u8", lane_stem(app, room, takeover, lane))
}

/// The same of the `part`-th list of a lane, from 0. Tools that merge by the cloud's rules take digits there.
pub fn part_name(app: SdkAppId, room: &RoomId, takeover: u8, lane: &Lane, part: u32) -> String {
    match part {
        0 => playlist_name(app, room, takeover, lane),
        part => format!("{}_{}.m3u8", lane_stem(app, room, takeover, lane), part + 1),
    }
}

/// File name of a segment at the destination (RECORDING.md §2): its start in UTC, `YYYYMMDDhhmmssmmm`.
///
/// Two segments of one lane that begin in the same millisecond would get one name, and the later upload would
/// replace the earlier: whoever names them (the actor) moves the start of the second by a millisecond.
pub fn segment_name(app: SdkAppId, room: &RoomId, takeover: u8, lane: &Lane, start: Timestamp) -> String {
    segment_file(&lane_stem(app, room, takeover, lane), start)
}

/// What a file in a task's folder is, whatever happens to its name: a segment stays itself while its name gets its
/// length, and when its task moves its start. Sealed files are bound to it.
pub fn identity(task: &TaskId, file_name: &str) -> String {
    let name = [LOST_SUFFIX, UNFINISHED, KEPT_SUFFIX]
        .iter()
        .fold(file_name, |name, end| name.strip_suffix(end).unwrap_or(name));
    match LocalName::parse(name) {
        Some(LocalName { lane, run, index, .. }) => format!("{task}/{}_r{run}_i{index}", local_lane(&lane)),
        None => format!("{task}/{name}"),
    }
}

/// A lane as it stands in local names.
fn local_lane(lane: &Lane) -> String {
    let user = lane.user.as_ref().map_or(MIXED.to_owned(), UserId::in_names);
    format!("{user}_{}_{}", lane.media, lane.kind.in_names())
}

/// Key of a file at the destination: `<prefix…>/<task>/<file name>`.
pub fn object_key(prefix: &[String], task: &TaskId, file_name: &str) -> String {
    let mut key = String::new();
    for part in prefix {
        key.push_str(part);
        key.push('/');
    }
    key.push_str(task.as_str());
    key.push('/');
    key.push_str(file_name);
    key
}

/// `YYYYMMDDhhmmssmmm`, UTC. Always 17 digits: times outside of the years 1970 … 9999 are drawn to the nearest.
fn utc_stamp(at: Timestamp) -> String {
    /// 9999-12-31T23:59:59.999Z
    const LAST_MS: i64 = 253_402_300_799_999;
    let ms = at.ms().clamp(0, LAST_MS);
    let utc = OffsetDateTime::from_unix_timestamp(ms / 1000).expect("clamped to the years 1970 to 9999");
    let (date, time) = (utc.date(), utc.time());
    format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}{:03}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        ms % 1000
    )
}

/// A segment's name on the shelf, inside its task's folder. It carries every fact of the segment but its byte
/// count, so that a lost index can be made again from the folder.
///
/// ```text
/// <user>_main_video_r<run>_i<index>_t<start µs>_<W>x<H>|nosize_join|gap_d<duration µs>.ts
/// <user>_main_video_r<run>_i<index>_t<start µs>_<W>x<H>|nosize_join|gap.part     while it is written
/// ```
/// `<user>` is encoded as in object names; its alphabet has no `_`, and no encoded id has the three characters `mix` that
/// stand for everybody. The longest name has 185 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalName {
    pub lane: Lane,
    pub run: u32,
    pub index: u32,
    pub start: Timestamp,
    /// Pixels; `None` for sound, or while they are not known.
    pub size: Option<(u32, u32)>,
    pub discontinuity: bool,
    /// Whole microseconds. `None`: the segment is still written, or its writer died.
    pub duration: Option<Duration>,
}

impl LocalName {
    /// The final name of a closed segment.
    pub fn of(segment: &ClosedSegment) -> LocalName {
        LocalName {
            lane: segment.run.lane.clone(),
            run: segment.run.run,
            index: segment.index,
            start: segment.start,
            size: segment.size,
            discontinuity: segment.discontinuity,
            duration: Some(Duration::from_micros(micros(segment.duration))),
        }
    }

    /// The name while it is written.
    pub fn part(mut self) -> LocalName {
        self.duration = None;
        self
    }

    /// Reads a file name back; `None` when [`LocalName`] writes no such name.
    pub fn parse(text: &str) -> Option<LocalName> {
        let (stem, part) = match text.strip_suffix(".part") {
            Some(stem) => (stem, true),
            None => (text.strip_suffix(".ts")?, false),
        };
        let mut fields = stem.split('_');
        let user = match fields.next()? {
            MIXED => None,
            user => Some(UserId::parse(&decode_id(user)?).ok()?),
        };
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
        let run = fields.next()?.strip_prefix('r')?.parse().ok()?;
        let index = fields.next()?.strip_prefix('i')?.parse().ok()?;
        let start = Timestamp(fields.next()?.strip_prefix('t')?.parse().ok()?);
        let size = match fields.next()? {
            "nosize" => None,
            size => {
                let (width, height) = size.split_once('x')?;
                Some((width.parse().ok()?, height.parse().ok()?))
            }
        };
        let discontinuity = match fields.next()? {
            "gap" => true,
            "join" => false,
            _ => return None,
        };
        let duration = match (part, fields.next()) {
            (true, None) => None,
            (false, Some(us)) => Some(Duration::from_micros(us.strip_prefix('d')?.parse().ok()?)),
            _ => return None,
        };
        let name = LocalName { lane: Lane { user, media, kind }, run, index, start, size, discontinuity, duration };
        // one file, one name: leading zeros, a plus sign or a further field are somebody else's
        (name.to_string() == text).then_some(name)
    }

    /// The segment that lies under this name. `duration` counts where the name has none.
    pub fn closed(&self, task: &TaskId, duration: Duration, bytes: u64) -> ClosedSegment {
        ClosedSegment {
            run: LaneRun { task: task.clone(), lane: self.lane.clone(), run: self.run },
            index: self.index,
            start: self.start,
            duration: self.duration.unwrap_or(duration),
            bytes,
            size: self.size,
            discontinuity: self.discontinuity,
            part_name: self.to_string(),
        }
    }
}

impl fmt::Display for LocalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_r{}_i{}_t{}_", local_lane(&self.lane), self.run, self.index, self.start.0)?;
        match self.size {
            Some((width, height)) => write!(f, "{width}x{height}")?,
            None => f.write_str("nosize")?,
        }
        f.write_str(if self.discontinuity { "_gap" } else { "_join" })?;
        match self.duration {
            Some(duration) => write!(f, "_d{}.ts", micros(duration)),
            None => f.write_str(".part"),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What the segmenter tells of a piece that it has finished. The bytes are with the kernel, not yet synced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClosedSegment {
    pub run: LaneRun,
    /// Counts from 0 within the run.
    pub index: u32,
    /// Wall time at which the first frame was captured.
    pub start: Timestamp,
    pub duration: Duration,
    pub bytes: u64,
    /// Pixels of the picture; `None` for sound.
    pub size: Option<(u32, u32)>,
    /// The media before it did not join on: a gap, a loss, a change of size or a new run.
    pub discontinuity: bool,
    /// Name of the file in the task's folder: the `.part` that was written ([`LocalName::part`]), or, when the segment
    /// was found again after a restart, whatever it is called by then.
    pub part_name: String,
}

/// Oldest first, over all tasks. The segments of a lane keep the order that they come in, whatever its clock showed.
pub fn oldest_first(segments: Vec<ClosedSegment>) -> Vec<ClosedSegment> {
    let mut newest = BTreeMap::new();
    let mut aged: Vec<(Timestamp, ClosedSegment)> = Vec::with_capacity(segments.len());
    for segment in segments {
        let of_lane = (segment.run.task.clone(), segment.run.lane.clone());
        let newest = newest.entry(of_lane).or_insert(segment.start);
        *newest = segment.start.max(*newest);
        aged.push((*newest, segment));
    }
    // stable: what is as old stays as it came
    aged.sort_by_key(|(age, _)| *age);
    aged.into_iter().map(|(_, segment)| segment).collect()
}

/// One lane's state of a task in the words of the API: used for Describe and for 304 and 307.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneFile {
    pub lane: Lane,
    /// The playlist's file name (without prefix and task id).
    pub file_name: String,
    /// When the lane's first data arrived: RECORDING.md §3.
    pub begin: Timestamp,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane(user: &str, kind: LaneKind) -> Lane {
        Lane::single(UserId::parse(user).unwrap(), MediaId::Main, kind)
    }

    #[test]
    fn object_names_are_those_of_the_cloud() {
        let (app, room) = (SdkAppId(1400123456), RoomId::Number(12345));
        let video = lane("1686119", LaneKind::Video);
        assert_eq!(
            playlist_name(app, &room, 0, &video),
            "1400123456_12345__UserId_s_MTY4NjExOQ..__UserId_e_main_video.m3u8"
        );
        // 2033-05-31T09:45:51.825Z
        assert_eq!(
            segment_name(app, &room, 0, &video, Timestamp(2_001_145_551_825_999)),
            "1400123456_12345__UserId_s_MTY4NjExOQ..__UserId_e_main_video_20330531094551825.ts"
        );
        let text = RoomId::text("ward 3?").unwrap();
        assert_eq!(
            playlist_name(app, &text, 2, &lane("a", LaneKind::AudioVideo)),
            "ha2_1400123456_d2FyZCAzPw..__UserId_s_YQ..__UserId_e_main_audiovideo.m3u8"
        );
        let mixed = Lane::mixed(LaneKind::AudioVideo);
        assert_eq!(playlist_name(app, &room, 0, &mixed), "1400123456_12345.m3u8");
        assert_eq!(
            segment_name(app, &room, 1, &mixed, Timestamp(2_001_145_551_825_999)),
            "ha1_1400123456_12345_20330531094551825.ts"
        );
    }

    #[test]
    fn stamps_have_17_digits_and_are_utc() {
        assert_eq!(utc_stamp(Timestamp::from_ms(0)), "19700101000000000");
        assert_eq!(utc_stamp(Timestamp::from_ms(1_622_425_551_884)), "20210531014551884");
        assert_eq!(utc_stamp(Timestamp::from_ms(951_782_399_007)), "20000228235959007");
        assert_eq!(utc_stamp(Timestamp(i64::MIN)), "19700101000000000");
        assert_eq!(utc_stamp(Timestamp(i64::MAX)), "99991231235959999");
    }

    #[test]
    fn keys_carry_the_prefix_only_where_there_is_one() {
        let task = TaskId::parse("hABC..").unwrap();
        assert_eq!(object_key(&[], &task, "f.ts"), "hABC../f.ts");
        assert_eq!(object_key(&["p1".into(), "p2".into()], &task, "f.ts"), "p1/p2/hABC../f.ts");
    }

    #[test]
    fn ids_decode_only_what_encode_wrote() {
        assert_eq!(decode_id("MTY4NjExOQ..").as_deref(), Some("1686119"));
        for wrong in ["MTY4NjExOQ", "MTY4NjExOQ==", "MTY4NjExOR..", "_", "/w=="] {
            assert_eq!(decode_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_of_strangers_are_refused() {
        let good = "YQ.._main_video_r1_i2_t3_640x360_gap_d4.ts";
        assert_eq!(LocalName::parse(good).unwrap().to_string(), good);
        for wrong in [
            "",
            ".ts",
            "YQ.._main_video_r1_i2_t3_640x360_gap.ts",
            "YQ.._main_video_r1_i2_t3_640x360_gap_d4.part",
            "YQ.._main_video_r01_i2_t3_640x360_gap_d4.ts",
            "YQ.._main_video_r+1_i2_t3_640x360_gap_d4.ts",
            "YQ.._main_video_r1_i2_t3_640x360_gap_d4_x.ts",
            "YQ.._main_video_r1_i2_t3_640_gap_d4.ts",
            "YQ==_main_video_r1_i2_t3_nosize_gap_d4.ts",
            "1400123456_12345__UserId_s_YQ..__UserId_e_main_video_20330531094551825.ts",
        ] {
            assert_eq!(LocalName::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_stays_itself_under_each_of_its_names() {
        let task = TaskId::parse("hABC..").unwrap();
        for name in
            ["_t3_640x360_join.part", "_t3_640x360_join.part.lost", "_t9_640x360_gap_d4.ts", "_t3_nosize_gap_d4.ts"]
        {
            let identity = identity(&task, &format!("YQ.._main_video_r1_i2{name}"));
            assert_eq!(identity, "hABC../YQ.._main_video_r1_i2", "{name}");
        }
        assert_ne!(identity(&task, "YQ.._main_video_r1_i3_t3_nosize_gap_d4.ts"), "hABC../YQ.._main_video_r1_i2");
        for name in ["l.m3u8.v3", "l.m3u8.v3.tmp"] {
            assert_eq!(identity(&task, name), "hABC../l.m3u8.v3");
        }
    }

    fn any_name() -> impl Strategy<Value = LocalName> {
        let user = prop::option::of("[^\\pC]{1,16}");
        let lane = (user, any::<bool>(), 0..3u8).prop_map(|(user, main, kind)| Lane {
            user: user.map(|user| UserId::parse(&user).expect("16 characters have at most 64 bytes")),
            media: if main { MediaId::Main } else { MediaId::Aux },
            kind: [LaneKind::Audio, LaneKind::Video, LaneKind::AudioVideo][usize::from(kind)],
        });
        let facts = (any::<u32>(), any::<u32>(), any::<i64>(), any::<Option<(u32, u32)>>(), any::<bool>());
        (lane, facts, any::<Option<u64>>()).prop_map(|(lane, (run, index, start, size, discontinuity), us)| LocalName {
            lane,
            run,
            index,
            start: Timestamp(start),
            size,
            discontinuity,
            duration: us.map(Duration::from_micros),
        })
    }

    proptest! {
        #[test]
        fn local_names_read_back(name in any_name()) {
            let text = name.to_string();
            prop_assert!(text.len() <= 255 && !text.contains('/'));
            prop_assert_eq!(LocalName::parse(&text), Some(name));
        }

        #[test]
        fn local_names_never_panic(text in ".{0,80}") {
            let _ = LocalName::parse(&text);
        }

        #[test]
        fn ids_read_back(id in ".{0,64}") {
            prop_assert_eq!(decode_id(&encode_id(&id)), Some(id));
        }

        #[test]
        fn a_closed_segment_has_the_name_it_was_read_from(name in any_name(), bytes in any::<u64>()) {
            prop_assume!(name.duration.is_some());
            let task = TaskId::from_random(b"x");
            let closed = name.closed(&task, Duration::ZERO, bytes);
            prop_assert_eq!(LocalName::of(&closed), name);
        }
    }
}
