//! Packed files, made of real segments: every packet once, in step, within limits; read by ffprobe, ffmpeg and GStreamer.

mod packing;
mod recording;

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast::model::made::{Made, Plan};
use holdfast::model::output::{Container, Limits};
use holdfast::model::packed::{Packed, PackedFile};
use holdfast::model::segment::LocalName;
use holdfast::model::{Codec, LaneKind};
use packing::{Shelf, boxes, nals, no_limits, played, record, seconds, sounds};
use recording::{Site, Told, beeps, brightness, complaints, flash_starts, flashes, h264, opus, times, tone_starts};

/// A tick of 90 kHz, as ffprobe rounds it.
const TICK: f64 = 0.000_03;
const H264: &str = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 ! rtph264pay pt=96 mtu=1200";

/// All segments of a lane in one file, under whatever names they have by now.
fn joined(shelf: &Shelf, dir: &Path, told: &Told, name: &str) -> PathBuf {
    let read = |segment: &holdfast::model::segment::ClosedSegment| {
        let file = dir.join(LocalName::of(segment).to_string());
        let kept = dir.join(format!("{}.kept", LocalName::of(segment)));
        std::fs::read(&file).or_else(|_| std::fs::read(kept)).expect("it is on the shelf")
    };
    let bytes: Vec<u8> = told.segments.iter().flat_map(read).collect();
    let path = shelf.out.path().join(name);
    std::fs::write(&path, bytes).expect("room");
    path
}

/// Times of a packed stream are those of the segments, moved by one amount.
fn assert_same_times(ts: &Path, mp4: &Path, stream: &str) -> f64 {
    let (there, here) = (times(ts, stream), times(mp4, stream));
    assert_eq!(there.len(), here.len(), "{stream}");
    let by = there[0].0 - here[0].0;
    for (a, b) in there.iter().zip(&here) {
        assert!(
            (a.0 - b.0 - by).abs() <= 2.0 * TICK + 1.0 / 48_000.0,
            "{stream}: {} in the segments, {}",
            a.0 - by,
            b.0
        );
        assert!(stream == "a" || a.1 == b.1, "{stream}: keyframes");
    }
    by
}

#[test]
fn sound_and_picture_of_a_user_become_one_file_with_every_packet_once() {
    let mut site = Site::new();
    let (video, audio) = (site.publish(Codec::H264), site.publish(Codec::Opus));
    let tracks = vec![(LaneKind::Video, video, flashes(7, H264)), (LaneKind::Audio, audio, beeps(7))];
    let told = record(&mut site, 0, tracks);
    let dir = site.dir.path().to_owned();
    let mut shelf = Shelf::new();
    told.iter().for_each(|told| shelf.take(&dir, 0, &told.segments));
    assert!(told.iter().all(|t| t.segments.len() >= 3), "{told:?}");
    let (packed, files) = shelf.pack(&dir, shelf.order(Container::Mp4, false, no_limits()));
    assert_eq!(packed.broken, []);
    let [(facts, _)] = &packed.files[..] else { panic!("{packed:?}") };
    let file = &files[0];
    assert_eq!(facts.object, "1400000001_12345__UserId_s_YW5u__UserId_e_main.mp4");
    assert_eq!((facts.user.as_str(), facts.kind), ("ann", LaneKind::AudioVideo));
    let order: Vec<String> = boxes(file).into_iter().map(|(name, _)| name).collect();
    assert_eq!(order, ["ftyp", "moov", "mdat"], "it plays while it loads");

    let (seen, heard) = (joined(&shelf, &dir, &told[0], "v.ts"), joined(&shelf, &dir, &told[1], "a.ts"));
    assert_eq!(nals(&seen), nals(file));
    assert_eq!(sounds(&heard), sounds(file));
    let (by_picture, by_sound) = (assert_same_times(&seen, file, "v"), assert_same_times(&heard, file, "a"));
    assert!((by_picture - by_sound).abs() <= 0.001, "one line for both: {by_picture} and {by_sound}");
    let longest = told.iter().map(Told::seconds).fold(0.0, f64::max);
    assert!((seconds(file) - longest).abs() < 0.05, "{} s of file, {longest} s of segments", seconds(file));
    let told_length = facts.end.since(facts.start).as_secs_f64();
    assert!((told_length - seconds(file)).abs() < 0.002, "{told_length}");
    assert_eq!(facts.start, told.iter().filter_map(|t| t.first).min().unwrap());
    assert_eq!(complaints(file), "");

    // at the start, at the end, and everywhere between
    let beats = flash_starts(file).into_iter().zip(tone_starts(file));
    let off: Vec<f64> = beats.map(|(flash, tone)| (flash - tone).abs()).collect();
    assert!(off.len() >= 6 && off.iter().all(|off| *off < 0.04), "{off:?}");

    let (pictures, heard) = played(file, true, true);
    assert_eq!(pictures, times(file, "v").len());
    assert!((heard - told[1].seconds()).abs() < 0.1, "{heard} s");
}

/// A user who goes and comes back: the gap is time, and what follows it is in step; black where it was asked for.
#[test]
fn a_gap_is_kept_as_time_and_filled_as_asked() {
    let mut site = Site::new();
    let mut shelf = Shelf::new();
    let dir = site.dir.path().to_owned();
    let bright = "videotestsrc num-buffers=60 pattern=white ! video/x-raw,width=320,height=180,framerate=30/1 \
        ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 ! rtph264pay pt=96 mtu=1200";
    for (run, from) in [(0, 0), (1, 9_000)] {
        let (video, audio) = (site.publish(Codec::H264), site.publish(Codec::Opus));
        let tracks =
            vec![(LaneKind::Video, video, recording::packets(bright, from)), (LaneKind::Audio, audio, opus(100, from))];
        for told in record(&mut site, run, tracks) {
            shelf.take(&dir, 0, &told.segments);
        }
    }
    for black in [false, true] {
        let (packed, files) = shelf.pack(&dir, shelf.order(Container::Mp4, black, no_limits()));
        assert_eq!((packed.files.len(), packed.broken.len()), (1, 0));
        let file = &files[0];
        assert_eq!(complaints(file), "", "black: {black}");
        assert!((seconds(file) - 11.0).abs() < 0.1, "{}", seconds(file));
        let seen = brightness(file);
        let second = seen.iter().filter(|(at, _)| *at > 8.5).map(|(at, _)| *at).fold(f64::MAX, f64::min);
        assert!((second - 9.0).abs() < 0.05, "the picture is back at {second}");
        let dark: Vec<f64> = seen.iter().filter(|(_, light)| *light < 40.0).map(|(at, _)| *at).collect();
        assert_eq!(dark.len(), usize::from(black), "{dark:?}");
        assert!(dark.iter().all(|at| (at - 2.0).abs() < 0.1), "black from the end of the pictures on: {dark:?}");
        // silence is told frame by frame: sound has no hole, and comes back in its place
        let heard = times(file, "a");
        assert!(heard.windows(2).all(|pair| pair[1].0 - pair[0].0 < 0.045), "a hole in the sound");
        assert_eq!(played(file, true, true).0, 120 + usize::from(black));
    }
    let (packed, files) = shelf.pack(&dir, shelf.order(Container::Adts, false, no_limits()));
    assert_eq!(packed.files[0].0.object, "1400000001_12345__UserId_s_YW5u__UserId_e_main.aac");
    assert_eq!(packed.files[0].0.kind, LaneKind::Audio);
    let frames = packing::frames_of_adts(&std::fs::read(&files[0]).expect("it was written"));
    let length = frames.len() as f64 * 1024.0 / 48_000.0;
    assert!((length - 11.0).abs() < 0.1, "{length} s of sound, the gap with it");
    // ffmpeg says of every such file that it guesses its length
    let said = complaints(&files[0]);
    assert!(said.lines().all(|line| line.contains("Estimating duration from bitrate")), "{said}");
}

#[test]
fn a_size_that_changes_and_a_life_after_a_restart_go_on_in_the_same_file() {
    let mut shelf = Shelf::new();
    let mut site = Site::new();
    let dir = site.dir.path().to_owned();
    for (life, run, size, from) in [(0, 0, (320, 180), 0), (0, 1, (640, 360), 2_000), (1, 2, (320, 180), 500)] {
        let video = site.publish(Codec::H264);
        let mut told = record(&mut site, run, vec![(LaneKind::Video, video, h264(60, size, 30, from))]);
        // the restarted box has a line of its own; only wall time tells how it lies beside the first
        if life == 1 {
            for segment in &mut told[0].segments {
                let moved = segment.start.plus(Duration::from_secs(6));
                segment.start = moved;
            }
        }
        shelf.take(&dir, life, &told[0].segments);
    }
    let (packed, files) = shelf.pack(&dir, shelf.order(Container::Mp4, false, no_limits()));
    assert_eq!((packed.files.len(), packed.broken.len()), (1, 0));
    let at: Vec<f64> = times(&files[0], "v").into_iter().map(|t| t.0).collect();
    assert_eq!(at.len(), 180);
    for (n, expected) in [(0, 0.0), (60, 2.0), (120, 6.5)] {
        assert!((at[n] - expected).abs() < 0.04, "picture {n} at {}", at[n]);
    }
    assert_eq!(complaints(&files[0]), "");
    assert_eq!(played(&files[0], true, false).0, 180);
}

/// A picture and a sound of twelve seconds, on a shelf and as they are by themselves.
struct Taken {
    site: Site,
    dir: PathBuf,
    shelf: Shelf,
    seen: PathBuf,
    heard: PathBuf,
}

fn twelve_seconds() -> Taken {
    let mut site = Site::new();
    let (video, audio) = (site.publish(Codec::H264), site.publish(Codec::Opus));
    let tracks = vec![(LaneKind::Video, video, h264(360, (320, 180), 30, 0)), (LaneKind::Audio, audio, opus(600, 0))];
    let told = record(&mut site, 0, tracks);
    let dir = site.dir.path().to_owned();
    let mut shelf = Shelf::new();
    told.iter().for_each(|told| shelf.take(&dir, 0, &told.segments));
    let (seen, heard) = (joined(&shelf, &dir, &told[0], "v.ts"), joined(&shelf, &dir, &told[1], "a.ts"));
    Taken { site, dir, shelf, seen, heard }
}

#[test]
fn limits_of_length_and_size_split_at_keyframes() {
    let Taken { site: _site, dir, shelf, seen, heard } = twelve_seconds();
    let (all_nals, all_sounds) = (nals(&seen), sounds(&heard));
    let whole: u64 = [&seen, &heard].iter().map(|f| std::fs::metadata(f).unwrap().len()).sum();
    let by_length = Limits { length: Duration::from_millis(3_500), ..no_limits() };
    let by_size = Limits { bytes: whole / 3, ..no_limits() };
    for limits in [by_length, by_size] {
        let (packed, files) = shelf.pack(&dir, shelf.order(Container::Mp4, false, limits));
        assert!(files.len() >= 3, "{limits:?}: {} files", files.len());
        for (nth, (facts, _)) in packed.files.iter().enumerate() {
            let name = format!("1400000001_12345__UserId_s_YW5u__UserId_e_main_{}.mp4", nth + 1);
            assert_eq!(facts.object, name);
            assert!(facts.bytes <= limits.bytes, "{} bytes of {}", facts.bytes, limits.bytes);
            assert!(facts.end.since(facts.start) <= limits.length, "{facts:?}");
            assert!(seconds(&files[nth]) <= limits.length.as_secs_f64() + 0.001);
            let first = times(&files[nth], "v")[0];
            assert!(first.1 && first.0 < 0.05, "a keyframe begins it: {first:?}");
            assert_eq!(complaints(&files[nth]), "");
        }
        assert_eq!(files.iter().flat_map(|f| nals(f)).collect::<Vec<_>>(), all_nals);
        assert_eq!(files.iter().flat_map(|f| sounds(f)).collect::<Vec<_>>(), all_sounds);
        let pairs = packed.files.windows(2);
        assert!(
            pairs.into_iter().all(|pair| pair[0].0.end.0.abs_diff(pair[1].0.start.0) < 45_000),
            "one after another"
        );
    }
}

/// One file of several is up, and its sources are gone: what no file has yet is planned again, and only that.
#[test]
fn what_a_made_file_holds_is_not_packed_again() {
    let Taken { site: _site, dir, shelf, seen, heard } = twelve_seconds();
    let (all_nals, all_sounds) = (nals(&seen), sounds(&heard));
    let limits = Limits { length: Duration::from_millis(3_500), ..no_limits() };
    let (first, files) = shelf.pack(&dir, shelf.order(Container::Mp4, false, limits));
    assert!(files.len() >= 4, "{} files", files.len());
    let held: Vec<Vec<Vec<u8>>> = files.iter().map(|file| nals(file)).collect();
    let heard: Vec<Vec<Vec<u8>>> = files.iter().map(|file| sounds(file)).collect();
    let name = |nth: usize| format!("1400000001_12345__UserId_s_YW5u__UserId_e_main_{nth}.mp4");

    for up in [0, 1] {
        let mut order = shelf.order(Container::Mp4, false, limits);
        let (facts, plan) = &first.files[up];
        std::fs::write(dir.join(format!("{}.plan.kept", facts.object)), plan).expect("room");
        order.made = vec![PackedFile { uploaded: true, ..facts.clone() }];
        // the disk has taken what is in it alone
        let mut made = Made::default();
        made.add(&facts.object, &Plan::parse(&facts.object, plan).expect("a plan"));
        let gone: Vec<String> = made.files().filter(|file| made.is_done(file)).map(str::to_owned).collect();
        assert!(!gone.is_empty() && made.files().count() > gone.len(), "some are in two files");
        let paths = || gone.iter().flat_map(|file| [dir.join(file), dir.join(format!("{file}.kept"))]);
        let taken: Vec<(PathBuf, Vec<u8>)> =
            paths().filter_map(|path| std::fs::read(&path).ok().map(|bytes| (path, bytes))).collect();
        assert_eq!(taken.len(), gone.len());
        taken.iter().for_each(|(path, _)| std::fs::remove_file(path).expect("it was read"));
        let (again, rest) = shelf.pack(&dir, order);
        assert_eq!(again.broken, [], "what is in a file is not missed");
        let names: Vec<&str> = again.files.iter().map(|(file, _)| file.object.as_str()).collect();
        let expected: Vec<String> = (1..=files.len()).filter(|nth| *nth != up + 1).map(name).collect();
        assert_eq!(names, expected, "its name is its own, and the others keep theirs");
        let mut pictures: Vec<Vec<Vec<u8>>> = rest.iter().map(|file| nals(file)).collect();
        pictures.insert(up, held[up].clone());
        let mut tones: Vec<Vec<Vec<u8>>> = rest.iter().map(|file| sounds(file)).collect();
        tones.insert(up, heard[up].clone());
        assert_eq!((pictures.concat() == all_nals, tones.concat() == all_sounds), (true, true), "each once, in order");
        for file in &rest {
            let first = times(file, "v")[0];
            assert!(first.1 && first.0 < 0.05, "a keyframe begins it: {first:?}");
            assert_eq!(complaints(file), "");
        }
        taken.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("room"));
    }

    // what an older box planned does not say what it holds: nothing is lost, and nothing takes its place
    let mut order = shelf.order(Container::Mp4, false, no_limits());
    order.made = vec![first.files[0].0.clone()];
    std::fs::remove_file(dir.join(format!("{}.plan.kept", first.files[0].0.object))).expect("it was written");
    let (waits, _) = shelf.pack(&dir, order.clone());
    assert_eq!((waits.unready, waits.files.len()), (true, 0), "one that is to go up may hold everything");
    order.made[0].uploaded = true;
    let (again, rest) = shelf.pack(&dir, order);
    assert_eq!(again.files.iter().map(|(file, _)| file.object.clone()).collect::<Vec<_>>(), [name(2)]);
    assert_eq!(nals(&rest[0]), all_nals);
}

/// It may be on its way still, and would take the place of the new one.
#[test]
fn the_name_of_a_file_that_was_given_up_is_not_used_again() {
    let Taken { site: _site, dir, shelf, .. } = twelve_seconds();
    let limits = Limits { length: Duration::from_millis(3_500), ..no_limits() };
    let names = |packed: &Packed| packed.files.iter().map(|(file, _)| file.object.clone()).collect::<Vec<_>>();
    let packed = shelf.pack(&dir, shelf.order(Container::Mp4, false, limits)).0;
    let before = names(&packed);
    let given_up = dir.join(format!("{}.plan.lost", before[1]));
    std::fs::write(&given_up, &packed.files[1].1).expect("room");
    let same = shelf.pack(&dir, shelf.order(Container::Mp4, false, limits)).0;
    assert_eq!(names(&same), before, "the same contents have the same name");
    std::fs::write(&given_up, &packed.files[2].1).expect("room");
    let (after, files) = shelf.pack(&dir, shelf.order(Container::Mp4, false, limits));
    let after = names(&after);
    assert_eq!((after.len(), &after[0]), (before.len(), &before[0]));
    assert_eq!(after[1..after.len() - 1], before[2..], "the place is passed over");
    files.iter().for_each(|file| assert_eq!(complaints(file), ""));
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_packed() {
    let mut site = Site::new();
    let audio = site.publish(Codec::Opus);
    let told = record(&mut site, 0, vec![(LaneKind::Audio, audio, opus(400, 0))]);
    let dir = site.dir.path().to_owned();
    let mut shelf = Shelf::new();
    shelf.take(&dir, 0, &told[0].segments);
    std::fs::write(dir.join(LocalName::of(&told[0].segments[2]).to_string()), [0; 188 * 20]).expect("room");
    std::fs::remove_file(dir.join(format!("{}.kept", LocalName::of(&told[0].segments[1])))).expect("it is there");
    let (packed, files) = shelf.pack(&dir, shelf.order(Container::Mp4, false, no_limits()));
    assert_eq!((packed.files.len(), packed.broken.len()), (1, 2), "{packed:?}");
    assert_eq!(complaints(&files[0]), "");
    assert!((seconds(&files[0]) - told[0].seconds()).abs() < 0.1, "the hole is silence: {}", seconds(&files[0]));
    // a source that is changed under a plan is refused, never sent
    let plan = &packed.files[0].1;
    std::fs::write(dir.join(LocalName::of(&told[0].segments[0]).to_string()), [0x47; 188]).expect("room");
    let opened = holdfast::package::Packer::new().open(&shelf.task, dir, Default::default(), plan);
    assert_eq!(opened.err().map(|e| e.kind()), Some(std::io::ErrorKind::InvalidData));
}
