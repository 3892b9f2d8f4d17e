//! HLS media playlists: text from segments, and back.
//!
//! Owns: the format of a recording's `.m3u8`. Must not touch: which segments belong in it.
//! Law: `parse(render(p)) == p`; no EXTINF rounds above TARGETDURATION; a playlist only grows until ENDLIST.
//! Sources: RFC 8216 §4.3, RECORDING.md §3 (the cloud's own tags).

use std::fmt::Write as _;
use std::time::Duration;

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::Timestamp;

/// One segment as the playlist lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// File name, beside the playlist.
    pub name: String,
    /// Whole milliseconds: what EXTINF can say.
    pub duration: Duration,
    pub start: Timestamp,
    /// Pixels of the picture; `None` for sound.
    pub size: Option<(u32, u32)>,
    /// The media before it did not join on.
    pub discontinuity: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Playlist {
    /// `#EXT-X-TRTC-START-REC-TIME`: when the first data arrived; whole milliseconds.
    pub begin: Timestamp,
    /// The length that segments were asked to have, seconds; TARGETDURATION is not below it.
    pub target: u64,
    pub items: Vec<Item>,
    /// Nothing will be added.
    pub ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadPlaylist {
    pub line: usize,
    pub what: &'static str,
}

/// `2021-05-31T01:45:51.884Z`
pub fn rfc3339_ms(at: Timestamp) -> String {
    let nanos = i128::from(at.ms()) * 1_000_000;
    let Ok(time) = OffsetDateTime::from_unix_timestamp_nanos(nanos) else { return "1970-01-01T00:00:00.000Z".into() };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

/// `2021-05-31T01:45:51Z`, of Unix seconds. A moment past all years is the last one.
pub fn rfc3339_s(seconds: i64) -> String {
    let last = PrimitiveDateTime::MAX.assume_utc();
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(last);
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second())
}

impl Playlist {
    pub fn render(&self) -> String {
        let longest = self.items.iter().map(|item| item.duration.as_millis().div_ceil(1000)).max().unwrap_or(1);
        let target = longest.max(u128::from(self.target)).max(1);
        let mut text = String::with_capacity(256 + self.items.len() * 140);
        text.push_str("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-ALLOW-CACHE:NO\n#EXT-X-MEDIA-SEQUENCE:0\n");
        // Writing to a String cannot fail; the results are nothing to look at.
        let _ = writeln!(text, "#EXT-X-TARGETDURATION:{target}");
        let _ = writeln!(text, "#EXT-X-TRTC-START-REC-TIME:{}", self.begin.ms());
        let mut size = None;
        for (i, item) in self.items.iter().enumerate() {
            if item.discontinuity && i > 0 {
                text.push_str("#EXT-X-DISCONTINUITY\n");
            }
            if let (Some((width, height)), true) = (item.size, item.size != size) {
                let _ = writeln!(text, "#EXT-X-TRTC-VIDEO-METADATA:WIDTH:{width} HEIGHT:{height}");
                size = item.size;
            }
            let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{}", rfc3339_ms(item.start));
            let ms = item.duration.as_millis();
            let _ = writeln!(text, "#EXTINF:{}.{:03},\n{}", ms / 1000, ms % 1000, item.name);
        }
        if self.ended {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        text
    }

    /// Reads what `render` writes, and what the cloud writes: unknown tags are passed over, EXTINF may lack its comma,
    /// a playlist without dates gets them from the start and the durations before.
    pub fn parse(text: &str) -> Result<Playlist, BadPlaylist> {
        let bad = |line: usize, what| BadPlaylist { line: line + 1, what };
        let mut lines = text.lines().map(str::trim).enumerate().filter(|(_, l)| !l.is_empty());
        if lines.next().map(|(_, l)| l) != Some("#EXTM3U") {
            return Err(bad(0, "a playlist begins with #EXTM3U"));
        }
        let mut playlist = Playlist { begin: Timestamp(0), target: 1, items: Vec::new(), ended: false };
        let (mut size, mut discontinuity, mut duration, mut date) = (None, false, None, None);
        let mut next_start = None;
        for (n, line) in lines {
            if let Some(value) = line.strip_prefix("#EXT-X-TARGETDURATION:") {
                playlist.target = value.parse().map_err(|_| bad(n, "TARGETDURATION is not a number"))?;
            } else if let Some(value) = line.strip_prefix("#EXT-X-TRTC-START-REC-TIME:") {
                let ms = value.parse().map_err(|_| bad(n, "START-REC-TIME is not a number of milliseconds"))?;
                playlist.begin = Timestamp::from_ms(ms);
            } else if let Some(value) = line.strip_prefix("#EXT-X-TRTC-VIDEO-METADATA:") {
                size = Some(parse_size(value).ok_or(bad(n, "VIDEO-METADATA has no WIDTH and HEIGHT"))?);
            } else if let Some(value) = line.strip_prefix("#EXT-X-PROGRAM-DATE-TIME:") {
                let time = OffsetDateTime::parse(value, &Rfc3339).map_err(|_| bad(n, "not a date"))?;
                let micros = i64::try_from(time.unix_timestamp_nanos() / 1000).map_err(|_| bad(n, "not a date"))?;
                date = Some(Timestamp(micros));
            } else if line == "#EXT-X-DISCONTINUITY" {
                discontinuity = true;
            } else if let Some(value) = line.strip_prefix("#EXTINF:") {
                let seconds = value.split(',').next().unwrap_or_default();
                duration = Some(parse_seconds(seconds).ok_or(bad(n, "EXTINF is not a number of seconds"))?);
            } else if line == "#EXT-X-ENDLIST" {
                playlist.ended = true;
            } else if !line.starts_with('#') {
                let duration = duration.take().ok_or(bad(n, "a segment without EXTINF"))?;
                let start = date.take().or(next_start).unwrap_or(playlist.begin);
                next_start = Some(start.plus(duration));
                let discontinuity = std::mem::take(&mut discontinuity);
                playlist.items.push(Item { name: line.to_owned(), duration, start, size, discontinuity });
            }
        }
        Ok(playlist)
    }
}

fn parse_size(value: &str) -> Option<(u32, u32)> {
    let field = |name: &str| value.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok());
    Some((field("WIDTH:")?, field("HEIGHT:")?))
}

/// Decimal seconds to whole milliseconds, without the detour over a float.
fn parse_seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let whole: u64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    whole.checked_mul(1000)?.checked_add(digits.parse::<u64>().ok()?).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn looks_as_the_cloud_writes_it() {
        let item = |name: &str, ms: u64, start: i64, size, discontinuity| Item {
            name: name.into(),
            duration: Duration::from_millis(ms),
            start: Timestamp::from_ms(start),
            size,
            discontinuity,
        };
        let begin = 1_622_425_551_884;
        let playlist = Playlist {
            begin: Timestamp::from_ms(begin),
            target: 10,
            items: vec![
                item("a.ts", 12_074, begin, Some((1920, 1080)), false),
                item("b.ts", 9_001, begin + 12_074, Some((1920, 1080)), false),
                item("c.ts", 500, begin + 60_000, Some((640, 360)), true),
            ],
            ended: true,
        };
        assert_eq!(
            playlist.render(),
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-ALLOW-CACHE:NO\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-TARGETDURATION:13\n\
             #EXT-X-TRTC-START-REC-TIME:1622425551884\n#EXT-X-TRTC-VIDEO-METADATA:WIDTH:1920 HEIGHT:1080\n\
             #EXT-X-PROGRAM-DATE-TIME:2021-05-31T01:45:51.884Z\n#EXTINF:12.074,\na.ts\n\
             #EXT-X-PROGRAM-DATE-TIME:2021-05-31T01:46:03.958Z\n#EXTINF:9.001,\nb.ts\n\
             #EXT-X-DISCONTINUITY\n#EXT-X-TRTC-VIDEO-METADATA:WIDTH:640 HEIGHT:360\n\
             #EXT-X-PROGRAM-DATE-TIME:2021-05-31T01:46:51.884Z\n#EXTINF:0.500,\nc.ts\n#EXT-X-ENDLIST\n"
        );
    }

    #[test]
    fn reads_the_clouds_own() {
        let text = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:70\n#EXT-X-TRTC-START-REC-TIME:1000\n\
                    #EXT-X-TRTC-FILE-ATTR:1,188\n#EXTINF:12.074\nx.ts\n#EXTINF:1\ny.ts\n#EXT-X-ENDLIST";
        let playlist = Playlist::parse(text).expect("it is well-formed");
        assert_eq!(playlist.items[0].duration, Duration::from_millis(12_074));
        assert_eq!(playlist.items[1].start, Timestamp::from_ms(1000 + 12_074));
        assert!(playlist.ended);
        for torn in ["", "x.ts", "#EXTM3U\nx.ts", "#EXTM3U\n#EXTINF:a,\nx.ts", "#EXTM3U\n#EXT-X-TARGETDURATION:x"] {
            assert!(Playlist::parse(torn).is_err(), "{torn:?}");
        }
    }

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let item = ("[A-Za-z0-9_.+-]{1,20}\\.ts", 0u64..100_000, 0i64..4_000_000_000_000, any::<bool>());
        (proptest::collection::vec(item, 0..12), proptest::option::of((2u32..4000, 2u32..4000))).prop_map(
            |(items, size)| {
                let item = |(i, (name, ms, start, discontinuity)): (usize, (String, u64, i64, bool))| Item {
                    name,
                    duration: Duration::from_millis(ms),
                    start: Timestamp::from_ms(start),
                    size,
                    discontinuity: discontinuity && i > 0,
                };
                items.into_iter().enumerate().map(item).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_rendered_reads_back(items in items(), begin in 0i64..4_000_000_000_000, ended: bool) {
            let mut playlist = Playlist { begin: Timestamp::from_ms(begin), target: 10, items, ended };
            let text = playlist.render();
            let read = Playlist::parse(&text).expect("our own text");
            prop_assert!(playlist.items.iter().all(|i| i.duration.as_millis().div_ceil(1000) <= u128::from(read.target)));
            playlist.target = read.target;
            prop_assert_eq!(read, playlist);
        }

        #[test]
        fn strangers_text_never_panics(text in ".{0,200}") {
            let _ = Playlist::parse(&text);
            let _ = Playlist::parse(&format!("#EXTM3U\n{text}"));
        }
    }
}
