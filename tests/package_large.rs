//! Files that are large, or long: one over 2 GB, of segments of real H.264, planned whole and made where it is looked at;
//! one of half an hour, whose sound and picture are still in step at its end.

mod packing;
mod recording;

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use holdfast::model::output::Container;
use holdfast::model::segment::{ClosedSegment, LocalName};
use holdfast::model::{Lane, LaneKind, LaneRun, MediaId, Timestamp, UserId};
use packing::{Shelf, no_limits, piece, seconds};
use recording::{flash_starts, tone_starts};

/// A segment of noise that compresses badly.
const SECONDS: u64 = 5;
/// The task was taken over so often, says its shelf: every life has this one segment, by a name of its own.
const LIVES: u8 = 34;

#[test]
fn a_file_over_two_gigabytes_has_its_head_first_and_its_end_plays() {
    let dir = tempfile::tempdir().expect("a folder");
    let clip = dir.path().join("clip.ts");
    let noise = "color=gray:size=640x360:rate=30,noise=alls=100:allf=t";
    let mut draw = Command::new("ffmpeg");
    draw.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", noise, "-t", &SECONDS.to_string()]);
    draw.args(["-c:v", "libx264", "-preset", "ultrafast", "-qp", "3", "-g", "30", "-bf", "0", "-pix_fmt", "yuv420p"]);
    let drawn = draw.arg(&clip).status().expect("ffmpeg runs; apt install ffmpeg");
    assert!(drawn.success());
    let bytes = std::fs::metadata(&clip).expect("it was written").len();
    assert!(bytes * u64::from(LIVES) > 2_200_000_000, "a segment has {bytes} bytes");

    let mut shelf = Shelf::new();
    for life in 0..LIVES {
        let lane = Lane::single(UserId::parse("ann").expect("an id"), MediaId::Main, LaneKind::Video);
        let segment = ClosedSegment {
            run: LaneRun { task: shelf.task.clone(), lane, run: u32::from(life) },
            index: 0,
            start: Timestamp::from_ms(1_800_000_000_000).plus(Duration::from_secs(SECONDS * u64::from(life))),
            duration: Duration::from_secs(SECONDS),
            bytes,
            size: Some((640, 360)),
            discontinuity: true,
            part_name: String::new(),
        };
        std::fs::hard_link(&clip, dir.path().join(LocalName::of(&segment).to_string())).expect("one file, many names");
        shelf.pieces.push(piece(&segment, life));
    }
    let mut order = shelf.order(Container::Mp4, false, no_limits());
    order.limits.bytes = u64::MAX;
    let (to, from) = std::sync::mpsc::sync_channel(1);
    let told = shelf.packer.plan(&shelf.task, dir.path().into(), Default::default(), order, move |p| drop(to.send(p)));
    told.expect("nothing else waits");
    let packed = from.recv().expect("a plan");
    let [(facts, plan)] = &packed.files[..] else { panic!("one file: {:?}", packed.broken) };
    assert!(facts.bytes > 2_147_483_648, "{} bytes", facts.bytes);

    // its head, and its last stretch, where they belong; between them nothing was written
    let file = shelf.packer.open(&shelf.task, dir.path().into(), Default::default(), plan).expect("it opens");
    let path = shelf.out.path().join("large.mp4");
    let mut sparse = std::fs::File::create(&path).expect("room for some of it");
    sparse.set_len(facts.bytes).expect("a file with a hole");
    let end = bytes * 2;
    for (at, length) in [(0, 4_000_000), (facts.bytes - end, end)] {
        sparse.seek(SeekFrom::Start(at)).expect("within the file");
        sparse.write_all(&file.stretch(at, length).expect("it can be made")).expect("room");
    }
    let length = (SECONDS * u64::from(LIVES)) as f64;
    assert!((seconds(&path) - length).abs() < 0.05, "{} s", seconds(&path));
    let mut play = Command::new("ffmpeg");
    let late = format!("{}", SECONDS * u64::from(LIVES) - 4);
    play.args(["-nostdin", "-v", "error", "-ss", &late, "-i"]).arg(&path).args(["-f", "null", "-"]);
    let played = play.output().expect("ffmpeg runs");
    assert!(played.status.success() && played.stderr.is_empty(), "{}", String::from_utf8_lossy(&played.stderr));
}

/// Length of the long file, and how often it flashes and beeps.
const LONG: u64 = 1800;
const EVERY: usize = 10;

/// A stream cut into segments of ten seconds, more or less: (start, duration) of each. The cuts of sound and picture are
/// not at the same times, and none of sound is at a whole second.
fn cut(dir: &Path, name: &str, source: &str, coding: &[&str]) -> Vec<(f64, f64)> {
    let list = dir.join(format!("{name}.csv"));
    let mut draw = Command::new("ffmpeg");
    draw.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", source, "-t", &LONG.to_string()]).args(coding);
    draw.args(["-f", "segment", "-segment_time", "10", "-segment_format", "mpegts", "-segment_list"]);
    let drawn =
        draw.arg(&list).arg(dir.join(format!("{name}%d.ts"))).status().expect("ffmpeg runs; apt install ffmpeg");
    assert!(drawn.success());
    let text = std::fs::read_to_string(list).expect("it was written");
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<f64>().ok()).expect("a time");
    let times = |line: &str| {
        let mut words = line.split(',').skip(1);
        let (from, to) = (number(words.next()), number(words.next()));
        (from, to - from)
    };
    text.lines().map(times).collect()
}

#[test]
fn a_file_of_half_an_hour_is_in_step_at_its_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let flash = format!("color=black:size=96x54:rate=10,drawbox=t=fill:color=white:enable='lt(mod(t,{EVERY}),0.2)'");
    let beep = format!("aevalsrc='0.5*sin(2000*PI*t)*lt(mod(t,{EVERY}),0.2)':s=48000:c=mono");
    let h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "50", "-pix_fmt", "yuv420p"];
    let mut shelf = Shelf::new();
    for (name, source, coding, kind) in [
        ("v", &flash, &h264[..], LaneKind::Video),
        ("a", &beep, &["-c:a", "aac", "-aac_coder", "fast", "-b:a", "32k"], LaneKind::Audio),
    ] {
        let pieces = cut(dir.path(), name, source, coding);
        assert!(pieces.len() >= 170, "{} segments", pieces.len());
        for (n, (from, length)) in pieces.into_iter().enumerate() {
            let file = dir.path().join(format!("{name}{n}.ts"));
            let segment = ClosedSegment {
                run: LaneRun {
                    task: shelf.task.clone(),
                    lane: Lane::single(UserId::parse("ann").expect("an id"), MediaId::Main, kind),
                    run: 0,
                },
                index: n as u32,
                start: Timestamp::from_ms(1_800_000_000_000).plus(Duration::from_secs_f64(from)),
                duration: Duration::from_secs_f64(length),
                bytes: std::fs::metadata(&file).expect("it was cut").len(),
                size: (kind == LaneKind::Video).then_some((96, 54)),
                discontinuity: n == 0,
                part_name: String::new(),
            };
            std::fs::rename(file, dir.path().join(LocalName::of(&segment).to_string())).expect("the folder is ours");
            shelf.pieces.push(piece(&segment, 0));
        }
    }
    let (packed, files) = shelf.pack(dir.path(), shelf.order(Container::Mp4, false, no_limits()));
    assert_eq!((packed.files.len(), packed.broken.len()), (1, 0), "{:?}", packed.broken);
    assert!((seconds(&files[0]) - LONG as f64).abs() < 0.2, "{} s", seconds(&files[0]));
    let (flashes, tones) = (flash_starts(&files[0]), tone_starts(&files[0]));
    assert_eq!((flashes.len(), tones.len()), (LONG as usize / EVERY, LONG as usize / EVERY));
    let off: Vec<f64> = flashes.iter().zip(&tones).map(|(flash, tone)| tone - flash).collect();
    let (least, most) = off.iter().fold((f64::MAX, f64::MIN), |(low, high), off| (low.min(*off), high.max(*off)));
    assert!(least > -0.04 && most < 0.04, "from {least} to {most} s");
    assert!(most - least < 0.005, "it drifts: {} s at the start, {} s at the end", off[0], off[off.len() - 1]);
}
