//! A recording as its destination holds it: objects, playlists, segments, and what must be true of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use tempfile::TempDir;
use time::{Date, Month, PrimitiveDateTime, Time};

use super::probe::{self, Packet, Stream};
use super::{APP, BUCKET};

/// The key before the task's id, from the prefix that [`super::sdk::create_params`] asks for.
pub const PREFIX: &str = "clinic/day1";

#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    pub name: String,
    /// EXTINF, seconds
    pub seconds: f64,
    pub discontinuity: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Playlist {
    pub text: String,
    pub target: f64,
    /// `#EXT-X-TRTC-START-REC-TIME`, Unix ms
    pub start_ms: i64,
    /// `#EXT-X-TRTC-VIDEO-METADATA` lines, in order
    pub sizes: Vec<String>,
    pub segments: Vec<Segment>,
    pub ended: bool,
}

impl Playlist {
    pub fn parse(text: &str) -> Playlist {
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("#EXTM3U"), "{text}");
        let mut playlist =
            Playlist { text: text.to_owned(), target: 0.0, start_ms: 0, sizes: vec![], segments: vec![], ended: false };
        let (mut seconds, mut discontinuity) = (0.0, false);
        for line in lines {
            let (tag, value) = line.split_once(':').unwrap_or((line, ""));
            match tag {
                "#EXT-X-TARGETDURATION" => playlist.target = value.parse().expect("a number"),
                "#EXT-X-TRTC-START-REC-TIME" => playlist.start_ms = value.parse().expect("ms"),
                "#EXT-X-TRTC-VIDEO-METADATA" => playlist.sizes.push(value.to_owned()),
                "#EXT-X-DISCONTINUITY" => discontinuity = true,
                "#EXT-X-ENDLIST" => playlist.ended = true,
                "#EXTINF" => seconds = value.trim_end_matches(',').parse().expect("seconds"),
                _ if !line.starts_with('#') && !line.is_empty() => {
                    playlist.segments.push(Segment { name: line.to_owned(), seconds, discontinuity });
                    discontinuity = false;
                }
                _ => {}
            }
        }
        playlist
    }

    pub fn seconds(&self) -> f64 {
        self.segments.iter().map(|s| s.seconds).sum()
    }

    pub fn discontinuities(&self) -> usize {
        self.segments.iter().filter(|s| s.discontinuity).count()
    }
}

/// One user's stream of one kind, or everybody's mixed.
#[derive(Debug)]
pub struct Lane {
    /// Empty when mixed.
    pub user: String,
    pub media: String,
    /// `audio`, `video` or `audiovideo`
    pub kind: String,
    /// File name of the playlist.
    pub name: String,
    pub playlist: Playlist,
    dir: PathBuf,
}

/// All of a task's objects, laid out in a folder so that players can read them.
pub struct Recording {
    pub lanes: Vec<Lane>,
    /// By file name.
    pub objects: BTreeMap<String, Vec<u8>>,
    dir: TempDir,
}

impl Recording {
    /// From objects by key; `bucket` names are cut off where a local store has them.
    pub fn of(objects: &BTreeMap<String, Vec<u8>>, task: &str) -> Recording {
        let folder = format!("{PREFIX}/{task}/");
        let mut mine = BTreeMap::new();
        for (key, body) in objects {
            let key = key.strip_prefix(BUCKET).map_or(key.as_str(), |k| k.trim_start_matches('/'));
            if let Some(name) = key.strip_prefix(&folder) {
                assert!(!name.contains('/'), "a recording is one folder: {key}");
                mine.insert(name.to_owned(), body.clone());
            }
        }
        let dir = TempDir::new().expect("a temporary folder can be made");
        for (name, body) in &mine {
            std::fs::write(dir.path().join(name), body).expect("the folder is ours");
        }
        let mut lanes = Vec::new();
        for (name, body) in mine.iter().filter(|(name, _)| name.ends_with(".m3u8")) {
            let (user, media, kind) = taken_apart(name).unwrap_or_else(|| panic!("not a playlist's name: {name}"));
            let playlist = Playlist::parse(std::str::from_utf8(body).expect("a playlist is UTF-8"));
            lanes.push(Lane { user, media, kind, name: name.clone(), playlist, dir: dir.path().to_owned() });
        }
        Recording { lanes, objects: mine, dir }
    }

    pub fn lane(&self, user: &str, kind: &str) -> &Lane {
        self.find(user, kind).unwrap_or_else(|| panic!("no {kind} of {user} among {:?}", self.objects.keys()))
    }

    pub fn find(&self, user: &str, kind: &str) -> Option<&Lane> {
        self.lanes.iter().find(|l| l.user == user && l.kind == kind && l.media == "main")
    }

    /// Every playlist lists what is there and is closed, and nothing is there that no playlist lists.
    pub fn assert_whole(&self) {
        let mut listed = std::collections::BTreeSet::new();
        for lane in &self.lanes {
            assert!(lane.playlist.ended, "{} has no ENDLIST:\n{}", lane.name, lane.playlist.text);
            assert!(!lane.playlist.segments.is_empty(), "{} lists nothing", lane.name);
            listed.insert(lane.name.clone());
            for segment in &lane.playlist.segments {
                let object = self.objects.get(&segment.name);
                let object =
                    object.unwrap_or_else(|| panic!("{} lists {}, which is not there", lane.name, segment.name));
                assert!(
                    !object.is_empty() && object.len().is_multiple_of(188),
                    "{}: {} bytes",
                    segment.name,
                    object.len()
                );
                assert!(listed.insert(segment.name.clone()), "{} is listed twice", segment.name);
            }
        }
        let there: std::collections::BTreeSet<String> = self.objects.keys().cloned().collect();
        assert_eq!(there, listed, "objects and playlists differ");
    }
}

/// `<UserId>`, `<MediaId>`, `<Type>` of `[ha1_]<app>_<room>__UserId_s_<UserId>__UserId_e_<MediaId>_<Type>.m3u8`; of
/// `[ha1_]<app>_<room>.m3u8`, which is mixed, nobody's and everything.
fn taken_apart(name: &str) -> Option<(String, String, String)> {
    let app = APP.to_string();
    let rest = name.strip_suffix(".m3u8")?;
    let rest = if rest.starts_with(&app) { rest } else { rest.split_once('_')?.1 };
    let rest = rest.strip_prefix(&format!("{app}_"))?;
    let Some((room, rest)) = rest.split_once("__UserId_s_") else {
        return (!rest.is_empty()).then(|| (String::new(), "main".to_owned(), "audiovideo".to_owned()));
    };
    assert!(!room.is_empty(), "{name}");
    let (user, rest) = rest.split_once("__UserId_e_")?;
    let (media, kind) = rest.split_once('_')?;
    let plain = user.replace('-', "/").replace('.', "=");
    let user = base64::engine::general_purpose::STANDARD.decode(plain).ok()?;
    Some((String::from_utf8(user).ok()?, media.to_owned(), kind.to_owned()))
}

/// Unix ms of the 17 digits `YYYYMMDDhhmmssmmm` at the end of a segment's name.
pub fn stamp_ms(name: &str) -> i64 {
    let stem = name.strip_suffix(".ts").unwrap_or(name);
    let digits = stem.rsplit('_').next().expect("rsplit gives at least one part");
    assert!(digits.len() == 17 && digits.bytes().all(|b| b.is_ascii_digit()), "{name} ends without a stamp");
    let part = |from: usize, to: usize| digits[from..to].parse::<u16>().expect("digits");
    let month = Month::try_from(u8::try_from(part(4, 6)).expect("two digits")).expect("a month");
    let small = |from| u8::try_from(part(from, from + 2)).expect("two digits");
    let date = Date::from_calendar_date(i32::from(part(0, 4)), month, small(6)).expect("a date");
    let time = Time::from_hms_milli(small(8), small(10), small(12), part(14, 17)).expect("a time");
    let stamp = PrimitiveDateTime::new(date, time).assume_utc();
    i64::try_from(stamp.unix_timestamp_nanos() / 1_000_000).expect("a stamp of our time")
}

impl Lane {
    pub fn files(&self) -> Vec<PathBuf> {
        self.playlist.segments.iter().map(|s| self.dir.join(&s.name)).collect()
    }

    /// All segments in one file, byte after byte, as the merge script joins sound.
    pub fn joined(&self) -> PathBuf {
        let whole = self.dir.join(format!("{}.joined.ts", self.name));
        let mut bytes = Vec::new();
        for file in self.files() {
            bytes.extend(std::fs::read(file).expect("it was written by the harness"));
        }
        std::fs::write(&whole, bytes).expect("the folder is ours");
        whole
    }

    /// Packets of every segment, in order.
    pub fn packets(&self, stream: Stream) -> Vec<Vec<Packet>> {
        self.files().iter().map(|file| probe::packets(file, stream)).collect()
    }

    fn streams(&self) -> Vec<(Stream, &'static str)> {
        match self.kind.as_str() {
            "audio" => vec![(Stream::Audio, "aac")],
            "video" => vec![(Stream::Video, "h264")],
            _ => vec![(Stream::Video, "h264"), (Stream::Audio, "aac")],
        }
    }

    /// All that `RECORDING.md` §1–3 and RFC 8216 ask of a playlist and its segments, read by ffprobe and ffmpeg.
    pub fn assert_sound(&self) {
        self.assert_sound_but_for(&[]);
    }

    /// The same of a publisher whose encoder does what it should not: complaints of ffmpeg that end so are known.
    pub fn assert_sound_but_for(&self, known: &[&str]) {
        let playlist = &self.playlist;
        assert_eq!(stamp_ms(&playlist.segments[0].name), playlist.start_ms, "{}: start", self.name);
        let mut last: Option<(f64, i64)> = None;
        let mut pictured = false;
        for segment in &playlist.segments {
            let file = self.dir.join(&segment.name);
            assert!(
                segment.seconds.round() <= playlist.target,
                "{}: {} s above the target",
                segment.name,
                segment.seconds
            );
            let formats = probe::formats(&file);
            let codecs: Vec<_> = formats.iter().map(|(s, f)| (*s, f.codec.as_str())).collect();
            let mut expected = self.streams();
            if !pictured && expected.len() == 2 && codecs.len() == 1 {
                // What is heard before the first picture has come is not thrown away.
                expected.remove(0);
            }
            pictured |= codecs.len() == 2;
            assert_eq!(codecs, expected, "{}", segment.name);
            let complaints = probe::decode_errors(&file);
            let complaints: Vec<&str> =
                complaints.lines().filter(|line| !known.iter().any(|known| line.ends_with(known))).collect();
            assert!(complaints.is_empty(), "{} does not decode cleanly: {complaints:?}", segment.name);
            let main = expected[0].0;
            let packets = probe::packets(&file, main);
            assert!(!packets.is_empty(), "{} holds nothing", segment.name);
            assert!(packets[0].key, "{} does not begin with a keyframe", segment.name);
            for pair in packets.windows(2) {
                assert!(pair[0].pts < pair[1].pts, "{}: pts {} then {}", segment.name, pair[0].pts, pair[1].pts);
            }
            let (first, end) = (packets[0].pts, packets[packets.len() - 1].pts);
            let span = end - first + frame_seconds(&packets);
            assert!(
                (span - segment.seconds).abs() < 0.2,
                "{}: EXTINF {} but {span:.3} s of media",
                segment.name,
                segment.seconds
            );
            // The step of time stamps from segment to segment is the step of wall time: true gaps, no restart at 0.
            let stamp = stamp_ms(&segment.name);
            if let Some((before, stamp_before)) = last {
                assert!(first > before, "{}: time stamps fall back from {before} to {first}", segment.name);
                let wall = (stamp - stamp_before) as f64 / 1000.0;
                let step = first - before;
                assert!(
                    (step - wall).abs() < 0.15,
                    "{}: stamps step by {step:.3} s, names by {wall:.3} s",
                    segment.name
                );
            }
            last = Some((first, stamp));
        }
    }

    /// The decoded frames of the picture against frame rate × time, within `tolerance` (0.1: a tenth).
    pub fn assert_frames(&self, tolerance: f64) {
        let segments = self.packets(Stream::Video);
        let all: Vec<Packet> = segments.concat();
        let fps = 1.0 / frame_seconds(&all);
        let expected = fps * self.playlist.seconds();
        let decoded: usize = self.files().iter().map(|file| probe::frames(file, Stream::Video).len()).sum();
        assert_eq!(decoded, all.len(), "{}: every packet is a frame that decodes", self.name);
        let off = (decoded as f64 - expected).abs() / expected;
        assert!(off <= tolerance, "{}: {decoded} frames, {expected:.0} expected at {fps:.2} fps", self.name);
    }
}

/// The usual distance of two frames, seconds.
fn frame_seconds(packets: &[Packet]) -> f64 {
    let mut steps: Vec<f64> = packets.windows(2).map(|p| p[1].pts - p[0].pts).collect();
    if steps.is_empty() {
        return packets.first().map_or(0.0, |p| p.duration);
    }
    steps.sort_by(f64::total_cmp);
    steps[steps.len() / 2]
}
