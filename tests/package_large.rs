//! One file over 2 GB, of segments of real H.264: planned whole, made where it is looked at.

mod packing;
mod recording;

use std::io::{Seek, SeekFrom, Write};
use std::process::Command;
use std::time::Duration;

use holdfast::model::package::Container;
use holdfast::model::segment::{ClosedSegment, LocalName};
use holdfast::model::{Lane, LaneKind, LaneRun, MediaId, Timestamp, UserId};
use packing::{Shelf, no_limits, piece, seconds};

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
