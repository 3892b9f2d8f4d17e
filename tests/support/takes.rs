//! Single-stream recordings as the cloud leaves them, made by ffmpeg: flash and beep at every whole second.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use time::OffsetDateTime;

use super::probe::{self, Stream};
use super::{output_of, program};

/// When second 0 is: 2026-03-05T08:00:00Z.
const BEGAN_MS: i64 = 1_772_697_600_000;
/// What the stamps in the files say at second 0.
const OFFSET: f64 = 100.0;

/// Whose stream, and which.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// `ha1_` or nothing
    pub before: &'a str,
    /// As encoded.
    pub user: &'a str,
    /// `main_video` and such
    pub stream: &'a str,
}

pub struct Folder {
    pub dir: PathBuf,
    lists: BTreeMap<String, Vec<(String, f64, String)>>,
    _root: tempfile::TempDir,
}

/// The 17 digits of a second.
pub fn stamp(at: f64) -> String {
    let ms = BEGAN_MS + (at * 1000.0).round() as i64;
    let t = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).expect("a time of our days");
    format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}{:03}",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    )
}

impl Folder {
    /// Its path has spaces and a plus.
    pub fn new() -> Folder {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let dir = root.path().join("room 1 + notes");
        std::fs::create_dir(&dir).expect("the folder is ours");
        Folder { dir, lists: BTreeMap::new(), _root: root }
    }

    pub fn picture(&mut self, who: Who<'_>, at: f64, seconds: f64, size: (u32, u32)) {
        self.coded(who, at, seconds, size, &["-preset", "ultrafast"]);
    }

    /// With more of ffmpeg's options for its encoder.
    pub fn coded(&mut self, who: Who<'_>, at: f64, seconds: f64, (width, height): (u32, u32), coding: &[&str]) {
        let film = format!(
            "testsrc2=s={width}x{height}:r=25:d={seconds},lutyuv=y='val*0.3',\
             drawbox=color=white:t=fill:enable='lt(mod(t+{at},1),0.1)'"
        );
        let mut command = ffmpeg(&film);
        command.args(["-c:v", "libx264", "-pix_fmt", "yuv420p", "-force_key_frames", "expr:gte(t,n_forced*2)"]);
        command.args(coding);
        self.cut(command, who, at, seconds);
    }

    pub fn sound(&mut self, who: Who<'_>, at: f64, seconds: f64) {
        self.heard(who, at, seconds, &["-ac", "1", "-ar", "48000"]);
    }

    pub fn heard(&mut self, who: Who<'_>, at: f64, seconds: f64, coding: &[&str]) {
        let mut command = ffmpeg(&beeping(at, seconds));
        command.args(["-c:a", "aac"]).args(coding);
        self.cut(command, who, at, seconds);
    }

    /// Sound and picture in one stream of files.
    pub fn both(&mut self, who: Who<'_>, at: f64, seconds: f64) {
        let film = format!(
            "testsrc2=s=320x240:r=25:d={seconds},lutyuv=y='val*0.3',\
             drawbox=color=white:t=fill:enable='lt(mod(t+{at},1),0.1)'"
        );
        let mut command = ffmpeg(&film);
        command.args(["-f", "lavfi", "-i", &beeping(at, seconds), "-c:v", "libx264", "-pix_fmt", "yuv420p"]);
        command.args(["-preset", "ultrafast", "-force_key_frames", "expr:gte(t,n_forced*2)", "-c:a", "aac"]);
        self.cut(command, who, at, seconds);
    }

    /// Runs ffmpeg, and gives what it cut the names that the cloud would have given it.
    fn cut(&mut self, mut command: Command, who: Who<'_>, at: f64, seconds: f64) {
        let raw = tempfile::tempdir().expect("a temporary folder can be made");
        let ticks = format!("{:.6}", OFFSET + at);
        command.args(["-muxdelay", "0", "-muxpreload", "0", "-output_ts_offset", &ticks]);
        let cuts: Vec<String> = (1..)
            .map(|n| f64::from(n) * 2.0)
            .take_while(|cut| *cut < seconds + 2.0)
            .map(|cut| format!("{:.3}", OFFSET + at + cut - 0.001))
            .collect();
        command.args(["-f", "segment", "-segment_times", &cuts.join(","), "-segment_format", "mpegts"]);
        command.arg(raw.path().join("%03d.ts"));
        output_of(&mut command);
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(raw.path()).expect("it is ours").map(|e| e.expect("it is ours").path()).collect();
        files.sort();
        assert!(!files.is_empty(), "ffmpeg cut nothing");
        let stem = stem(who);
        for file in files {
            let stream = if who.stream.ends_with("audio") { Stream::Audio } else { Stream::Video };
            let mut times: Vec<(f64, f64)> =
                probe::packets(&file, stream).iter().map(|p| (p.pts, p.duration)).collect();
            times.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (first, (last, lasts)) = (times[0].0, times[times.len() - 1]);
            let lasts = if lasts > 0.0 { lasts } else { 0.04 };
            let name = format!("{stem}_{}.ts", stamp(first - OFFSET));
            std::fs::copy(&file, self.dir.join(&name)).expect("the folder is ours");
            let size =
                probe::formats(&file).iter().find(|(s, _)| *s == Stream::Video).map(|(_, f)| (f.width, f.height));
            let tag = size.map_or_else(String::new, |(w, h)| {
                format!("#EXT-X-TRTC-VIDEO-METADATA:WIDTH:{w} HEIGHT:{h} Codec:27\n")
            });
            self.lists.entry(stem.clone()).or_default().push((name, last + lasts - first, tag));
        }
    }

    /// A listed segment that is not there, or is what `bytes` say.
    pub fn segment(&mut self, who: Who<'_>, at: f64, seconds: f64, bytes: Option<&[u8]>) -> String {
        let name = format!("{}_{}.ts", stem(who), stamp(at));
        if let Some(bytes) = bytes {
            std::fs::write(self.dir.join(&name), bytes).expect("the folder is ours");
        }
        self.lists.entry(stem(who)).or_default().push((name.clone(), seconds, String::new()));
        name
    }

    /// The files of a stream, in order.
    pub fn files(&self, who: Who<'_>) -> Vec<PathBuf> {
        self.lists[&stem(who)].iter().map(|(name, ..)| self.dir.join(name)).collect()
    }

    /// Writes the playlists, with all the tags that the cloud writes.
    pub fn close(&self) {
        for (stem, segments) in &self.lists {
            let mut text = String::from(
                "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-ALLOW-CACHE:NO\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-TARGETDURATION:10\n\
                 #EXT-X-TRTC-VERSION:6a1f9c\n#EXT-X-TRTC-DATE:2026-01-10 10:00:00 +0800\n",
            );
            text += &format!("#EXT-X-TRTC-START-REC-TIME:{BEGAN_MS}\n#EXT-X-TRTC-MEDIA-ID:main\n");
            text += "#EXT-X-TRTC-USER-ID:somebody\n#EXT-X-TRTC-MIX-STREAM:0\n#EXT-X-TRTC-STREAM-TYPE:0\n";
            text += "#EXT-X-TRTC-AUDIO-METADATA:Channel:1 SampleRate:48000 SampleFormat:1 Codec:86018\n";
            for (name, seconds, tag) in segments {
                text += &format!("{tag}#EXT-X-TRTC-FILE-ATTR:{BEGAN_MS},188\n#EXTINF:{seconds:.3}\n{name}\n");
            }
            text += "#EXT-X-ENDLIST\n";
            std::fs::write(self.dir.join(format!("{stem}.m3u8")), text).expect("the folder is ours");
        }
    }

    /// What is there beside the recordings.
    pub fn others(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&self.dir)
            .expect("the folder is ours")
            .map(|entry| entry.expect("the folder is ours").file_name().to_string_lossy().into_owned())
            .filter(|name| !name.ends_with(".ts") && !name.ends_with(".m3u8"))
            .collect();
        names.sort();
        names
    }
}

fn stem(who: Who<'_>) -> String {
    format!("{}1400123456_cm9vbQ..__UserId_s_{}__UserId_e_{}", who.before, who.user, who.stream)
}

fn beeping(at: f64, seconds: f64) -> String {
    format!("aevalsrc='if(lt(mod(t+{at},1),0.1),0.6*sin(2*PI*1000*t),0)':s=48000:d={seconds}")
}

fn ffmpeg(source: &str) -> Command {
    let mut command = Command::new(program("ffmpeg"));
    command.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", source]);
    command
}

/// Length of a file as players are told it, seconds.
pub fn seconds(file: &Path) -> f64 {
    let mut command = Command::new(program("ffprobe"));
    command.args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"]).arg(file);
    String::from_utf8(output_of(&mut command)).expect("a number").trim().parse().expect("a number")
}
