//! `holdfast spool`: every fault of a file is named, and what is copied out plays.
//!
//! Owns: shelves with real transport streams, and what is wrong with them. Must not touch: how a shelf is filled.
//! Law: looking changes nothing; no copy replaces another file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use holdfast::model::segment::{LocalName, identity};
use holdfast::model::{Lane, LaneKind, MediaId, TaskId, Timestamp, UserId};
use holdfast::vault::{Key, Vault};

const KEY: &[u8] = b"a key of thirty-two bytes, no more";
const SECONDS: u64 = 4;

fn key() -> Key {
    Key::parse(&KEY[..32]).unwrap()
}

/// 100 pictures at 25 a second with a keyframe each second, and four seconds of AAC.
fn stream(kind: LaneKind) -> &'static [u8] {
    static MADE: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
    MADE[usize::from(kind.has_video())].get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out.ts");
        let from = match kind.has_video() {
            true => {
                "videotestsrc num-buffers=100 pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 \
                 ! x264enc key-int-max=25 tune=zerolatency ! video/x-h264,profile=baseline ! h264parse"
            }
            false => {
                "audiotestsrc num-buffers=188 samplesperbuffer=1024 ! audio/x-raw,rate=48000,channels=1 \
                 ! avenc_aac ! aacparse"
            }
        };
        let graph = format!("{from} ! mpegtsmux ! filesink location={}", out.display());
        let ran = Command::new("gst-launch-1.0").arg("-q").args(graph.split_whitespace()).output();
        let ran = ran.expect("gst-launch-1.0 is needed: apt-get install gstreamer1.0-tools");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        fs::read(out).unwrap()
    })
}

/// Frames that a player gets out of a playlist or a file, and what it complains of.
fn played(path: &Path) -> (u32, String) {
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-allowed_extensions", "ALL", "-count_frames", "-show_entries", "stream=nb_read_frames"])
        .args(["-of", "csv=p=0"])
        .arg(path)
        .output()
        .expect("ffprobe is needed: apt-get install ffmpeg");
    let text = String::from_utf8_lossy(&probe.stdout);
    let frames = text.lines().next().and_then(|n| n.trim_matches(',').trim().parse().ok()).unwrap_or(0);
    (frames, String::from_utf8_lossy(&probe.stderr).into_owned())
}

/// A box that is stopped.
struct Stopped {
    dir: tempfile::TempDir,
    task: TaskId,
    vault: Vault,
}

impl Stopped {
    /// With four pieces of pictures (one is missing between them), and three of sound, the last of which is torn.
    fn new(vault: Vault) -> Stopped {
        let stopped = Stopped { dir: tempfile::tempdir().unwrap(), task: TaskId::parse("hTask+1..").unwrap(), vault };
        fs::create_dir_all(stopped.path("")).unwrap();
        let (mut config, key) = (format!("[server]\nstate_dir = '{}'\n", stopped.dir.path().display()), stopped.key());
        fs::write(&key, &KEY[..32]).unwrap();
        if stopped.vault.current().is_some() {
            config.push_str(&format!("[spool]\nkey_file = '{}'\n", key.display()));
        }
        fs::write(stopped.dir.path().join("holdfast.toml"), config).unwrap();
        for index in [0, 1, 3, 4] {
            stopped.write(&name(index, LaneKind::Video), stream(LaneKind::Video));
        }
        for index in [0, 1] {
            stopped.write(&name(index, LaneKind::Audio), stream(LaneKind::Audio));
        }
        let torn = stream(LaneKind::Audio);
        stopped.write(&name(2, LaneKind::Audio).part(), &torn[..torn.len() / 2 / 188 * 188]);
        stopped
    }

    fn sealed() -> Stopped {
        Stopped::new(Vault::new(Some(key()), vec![]))
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("spool.key")
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join("spool").join(self.task.as_str()).join(file)
    }

    fn write(&self, name: &LocalName, bytes: &[u8]) {
        let file = name.to_string();
        let mut output = self.vault.create(&self.path(&file), &identity(&self.task, &file)).unwrap();
        bytes.chunks(188 * 50).for_each(|hand_over| output.write(hand_over).unwrap());
        if name.duration.is_some() {
            output.finish().unwrap();
        }
    }

    fn spool(&self, args: &[&str]) -> Output {
        let config = self.dir.path().join("holdfast.toml");
        Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .arg("spool")
            .arg("--config")
            .arg(config)
            .args(args)
            .output()
            .unwrap()
    }

    /// Lines of `verify`, which must say with its exit code whether there are faults among them.
    fn faults(&self) -> Vec<String> {
        let out = self.spool(&["verify"]);
        let lines: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
        let (sum, lines) = lines.split_last().expect("a sum");
        let faults: Vec<String> = lines.iter().filter(|line| !line.starts_with("note: ")).cloned().collect();
        assert!(sum.ends_with(&format!(": {} faults", faults.len())), "{sum} {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(i32::from(!faults.is_empty())), "{lines:?}");
        faults
    }

    fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = fs::read_dir(self.path("")).unwrap().map(|file| file.unwrap().path());
        files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }
}

fn name(index: u32, kind: LaneKind) -> LocalName {
    LocalName {
        lane: Lane::single(UserId::parse("ann").unwrap(), MediaId::Main, kind),
        run: 0,
        index,
        start: Timestamp(1_700_000_000_000_000 + i64::from(index) * 4_000_000),
        size: kind.has_video().then_some((320, 240)),
        discontinuity: index == 0,
        duration: Some(Duration::from_secs(SECONDS)),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_whole_shelf_has_no_fault_and_every_lane_has_its_line() {
    for stopped in [Stopped::sealed(), Stopped::new(Vault::default())] {
        let before = stopped.everything();
        assert_eq!(stopped.faults(), Vec::<String>::new());
        let listed = String::from_utf8(stopped.spool(&["ls"]).stdout).unwrap();
        let lane = |name: &str| {
            let line = listed.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{listed}"));
            line.split_whitespace().map(str::to_owned).collect::<Vec<String>>()
        };
        let (video, audio) = (lane("ann main video"), lane("ann main audio"));
        assert_eq!((video[0].as_str(), video[4].as_str(), video[5].as_str()), ("hTask+1..", "4", "0:00:16.000"));
        assert_eq!((video[7].as_str(), video[8].as_str()), ("2023-11-14T22:13:20.000Z", "4"));
        assert_eq!((audio[4].as_str(), &audio[8..]), ("2", &["2", "and", "1", "not", "closed"].map(str::to_owned)[..]));
        assert!(stopped.everything() == before);
    }
}

#[test]
fn every_fault_is_named() {
    let stopped = Stopped::sealed();
    let piece = |index| stopped.path(&name(index, LaneKind::Video).to_string());
    let rename = |index, other: LocalName| {
        // what a name says of a file's time and size is not sealed
        fs::rename(piece(index), stopped.path(&other.to_string())).unwrap();
    };
    let mut bent = fs::read(piece(0)).unwrap();
    bent[40_000] ^= 0x10;
    fs::write(piece(0), bent).unwrap();
    rename(1, LocalName { duration: Some(Duration::from_secs(9)), ..name(1, LaneKind::Video) });
    rename(3, LocalName { size: Some((640, 480)), ..name(3, LaneKind::Video) });
    let cut = fs::read(piece(4)).unwrap();
    fs::write(piece(4), &cut[..cut.len() - 36]).unwrap();
    fs::copy(stopped.path(&name(0, LaneKind::Audio).to_string()), stopped.path(&name(1, LaneKind::Audio).to_string()))
        .unwrap();
    fs::write(stopped.path("l.m3u8.v1"), "no playlist").unwrap();
    fs::write(stopped.path("notes.txt"), "x").unwrap();
    let faults = stopped.faults();
    for (file, what) in [
        ("_i0_t", "the record at byte "),
        ("_i1_t", "its name says 9.000 s"),
        ("_i3_t", "pictures of 320x240, its name says 640x480"),
        ("_i4_t", "it has no end"),
        ("main_audio_r0_i1", "another file in its place"),
        ("l.m3u8.v1", "no playlist: line 1"),
    ] {
        let named = faults.iter().any(|fault| fault.contains(file) && fault.contains(what));
        assert!(named, "{file}: {what} is not among {faults:#?}");
    }
    // one line each, but for the bent one, whose media end too early as well
    assert!(faults.len() <= 7, "{faults:#?}");
}

#[test]
fn what_is_wrong_with_a_stream_is_named() {
    let whole = stream(LaneKind::Video);
    let packets: Vec<&[u8]> = whole.chunks(188).collect();
    let without = |gone: std::ops::Range<usize>| {
        let kept = packets.iter().enumerate().filter(|(n, _)| !gone.contains(n));
        kept.flat_map(|(_, packet)| packet.iter().copied()).collect::<Vec<u8>>()
    };
    let mut hole = whole.to_vec();
    hole[188 * 100..188 * 110].fill(0);
    for (bytes, what) in [
        (without(60..61), "packets of PID"),
        (hole, "no packet begins here"),
        (without(0..1), "it does not begin with its tables"),
        ([whole, b"\x47torn"].concat(), "5 bytes behind its last whole packet"),
        (Vec::new(), "it is empty"),
        (stream(LaneKind::Audio).to_vec(), "it has no picture"),
    ] {
        let stopped = Stopped::new(Vault::default());
        fs::write(stopped.path(&name(0, LaneKind::Video).to_string()), bytes).unwrap();
        let faults = stopped.faults();
        assert!(faults.iter().any(|fault| fault.contains(what)), "{what} is not among {faults:#?}");
    }
}

#[test]
fn a_key_that_is_not_there_is_no_damage() {
    let stopped = Stopped::sealed();
    fs::write(stopped.key(), [&KEY[1..32], b"!"].concat()).unwrap();
    let faults = stopped.faults();
    assert_eq!(faults.len(), 6, "{faults:#?}");
    assert!(faults.iter().all(|fault| fault.contains(&format!("sealed with the key {}", key().id()))));
    fs::write(stopped.key(), "short").unwrap();
    let refused = stopped.spool(&["verify"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("a key is 32 bytes"));
}

#[test]
fn a_copy_plays_and_replaces_nothing() {
    let (stopped, stick) = (Stopped::sealed(), tempfile::tempdir().unwrap());
    let before = stopped.everything();
    let to = stick.path().display().to_string();
    let out = stopped.spool(&["export", &to, "--task", "hTask+1.."]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let dir = stick.path().join("hTask+1..");
    let (video, audio) = ("UserId_s_YW5u__UserId_e_main_video", "UserId_s_YW5u__UserId_e_main_audio");
    let there = names(&dir);
    assert_eq!(there.len(), 4 + 3 + 2, "{there:?}");
    assert!(there.contains(&format!("{video}_20231114221320000.ts")), "{there:?}");
    for entry in &there {
        let bytes = fs::read(dir.join(entry)).unwrap();
        assert!(entry.ends_with(".m3u8") || bytes.starts_with(&[0x47]), "{entry} is plain");
    }
    assert_eq!(fs::read(dir.join(format!("{video}_20231114221332000.ts"))).unwrap(), stream(LaneKind::Video));

    let list = fs::read_to_string(dir.join(format!("{video}.m3u8"))).unwrap();
    assert!(list.ends_with("#EXT-X-ENDLIST\n"));
    let (before_gap, after_gap) = list.split_once("#EXT-X-DISCONTINUITY\n").expect("a piece is missing");
    assert_eq!((before_gap.matches("#EXTINF").count(), after_gap.matches("#EXTINF").count()), (2, 2));
    assert_eq!(played(&dir.join(format!("{video}.m3u8"))), (400, String::new()));
    let (frames, complaints) = played(&dir.join(format!("{audio}.m3u8")));
    assert!((188 * 2 + 85..188 * 3).contains(&frames), "{frames} frames of sound: the torn piece counts, too");
    assert!(complaints.lines().count() <= 1, "half a frame, where it was torn: {complaints}");

    // again: nothing is written twice; and what somebody else put there stays
    fs::write(dir.join(format!("{video}.m3u8")), "somebody else's").unwrap();
    let again = stopped.spool(&["export", &to]);
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && said.contains("8 files were there already"), "{said}");
    assert_eq!(names(&dir).len(), there.len() + 1);
    assert_eq!(fs::read(dir.join(format!("{video}.m3u8"))).unwrap(), b"somebody else's");
    assert_eq!(fs::read_to_string(dir.join(format!("{video}-2.m3u8"))).unwrap(), list);
    assert!(stopped.everything() == before);
}

/// Without the index, the folder itself tells the names that the files would have had at the destination.
#[test]
fn a_folder_tells_its_room() {
    let (stopped, stick) = (Stopped::sealed(), tempfile::tempdir().unwrap());
    let list = |kind: &str, takeover: u8| {
        format!(r#"{{"takeover":{takeover},"lane":{{"user":"ann","media":"main","kind":"{kind}"}},"runs":[0]}}"#)
    };
    let lists = [list("video", 1), list("audio", 0)].join(",");
    let told = format!(r#"{{"v":1,"spec":{{"app":1400123456,"room":{{"number":12345}},"more":1}},"lists":[{lists}]}}"#);
    fs::write(stopped.path("task.json"), told).unwrap();
    assert_eq!(stopped.faults(), Vec::<String>::new());
    assert!(stopped.spool(&["export", &stick.path().display().to_string()]).status.success());
    let there = names(&stick.path().join("hTask+1.."));
    for name in [
        "1400123456_12345__UserId_s_YW5u__UserId_e_main_audio.m3u8",
        "ha1_1400123456_12345__UserId_s_YW5u__UserId_e_main_video.m3u8",
        "ha1_1400123456_12345__UserId_s_YW5u__UserId_e_main_video_20231114221320000.ts",
    ] {
        assert!(there.iter().any(|file| file == name), "{name} is not among {there:#?}");
    }
}

#[test]
fn a_damaged_piece_is_copied_as_far_as_it_is_good_and_told() {
    let (stopped, stick) = (Stopped::sealed(), tempfile::tempdir().unwrap());
    let path = stopped.path(&name(0, LaneKind::Video).to_string());
    let mut bent = fs::read(&path).unwrap();
    let half = bent.len() / 2;
    bent[half] ^= 1;
    fs::write(&path, bent).unwrap();
    let out = stopped.spool(&["export", &stick.path().display().to_string()]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(!out.status.success() && said.contains("copied up to where the record at byte"), "{said}");
    let (frames, _) = played(&stick.path().join("hTask+1../UserId_s_YW5u__UserId_e_main_video.m3u8"));
    assert!((310..400).contains(&frames), "{frames}");
}

#[test]
fn a_copy_goes_to_a_folder_that_is_there_and_not_the_boxs() {
    let stopped = Stopped::sealed();
    let inside = stopped.dir.path().display().to_string();
    for (to, why) in [(inside.as_str(), "state directory"), ("/nowhere/at/all", "No such file")] {
        let refused = stopped.spool(&["export", to]);
        assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains(why));
    }
    let none = stopped.spool(&["export", "/tmp", "--task", "hNone"]);
    assert!(!none.status.success() && String::from_utf8_lossy(&none.stderr).contains("nothing of it"));
}
