//! `holdfast merge` on directories in the cloud's form: what is made, how long it is, what is told.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use holdfast::vault::{Key, Vault};
use support::beat::Beats;
use support::probe::{self, Stream};
use support::takes::{Folder, Who, seconds, stamp};

const USER: &str = "ZHItd2FuZw..";
const VIDEO: Who<'_> = Who { before: "", user: USER, stream: "main_video" };
const AUDIO: Who<'_> = Who { before: "", user: USER, stream: "main_audio" };
const AUX: Who<'_> = Who { before: "", user: USER, stream: "aux_video" };
const SIZE: (u32, u32) = (320, 240);
/// A picture, a frame of sound, and names in milliseconds.
const NEAR: f64 = 0.09;
/// A tick of 15 pictures a second, to either side, and what a sharp picture of 25 adds.
const SYNC_CODED: f64 = 0.080;
const SYNC_COPIED: f64 = 0.045;

fn merge(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("merge").arg("-f").arg(dir).args(args).output().expect("our own program runs")
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// Merges, with nothing to complain of; what was made, with its length.
fn made(folder: &Folder, args: &[&str]) -> Vec<(String, f64)> {
    for old in folder.others() {
        std::fs::remove_file(folder.dir.join(old)).expect("it is ours");
    }
    folder.close();
    let out = merge(&folder.dir, args);
    assert_eq!(lines(&out.stderr), Vec::<String>::new(), "{args:?}");
    assert!(out.status.success(), "{args:?}: {:?}", lines(&out.stdout));
    let names = folder.others();
    let told = lines(&out.stdout).join("\n");
    for name in &names {
        assert!(told.contains(name.as_str()), "{name} is not told of: {told}");
        let complaints = probe::decode_errors(&folder.dir.join(name));
        assert_eq!(complaints, "", "{name} does not decode cleanly");
    }
    names.iter().map(|name| (name.clone(), seconds(&folder.dir.join(name)))).collect()
}

fn near(what: &str, is: f64, should: f64) {
    assert!((is - should).abs() < NEAR, "{what}: {is:.3} s, and not {should:.3}");
}

/// Sound and picture from 0 to 5, and from `again` on for four more.
fn two_sections(again: f64) -> Folder {
    let mut folder = Folder::new();
    folder.picture(VIDEO, 0.0, 5.0, SIZE);
    folder.sound(AUDIO, 0.0, 5.0);
    folder.picture(VIDEO, again, 4.0, SIZE);
    folder.sound(AUDIO, again, 4.0);
    folder
}

/// The pictures of the recording, decoded, are those of the result: nothing was coded anew.
fn assert_copied(folder: &Folder, who: Who<'_>, result: &Path) {
    let source: Vec<f64> = folder.files(who).iter().flat_map(|file| probe::luma(file)).collect();
    assert_eq!(source, probe::luma(result), "the pictures are not the same");
}

#[test]
fn sections_are_files_and_a_short_gap_is_none() {
    let folder = two_sections(5.0 + 14.8);
    let one = made(&folder, &[]);
    assert_eq!(one.len(), 1, "{one:?}");
    // the sound's first frame lies a little before the picture
    assert!(one[0].0.starts_with(&format!("{USER}_2026030")) && one[0].0.ends_with("_av.mp4"), "{one:?}");
    near("one section", one[0].1, 23.8);
    let file = folder.dir.join(&one[0].0);
    assert_copied(&folder, VIDEO, &file);
    let beats = Beats::in_file(&file);
    assert!(beats.largest() <= SYNC_COPIED, "{beats:?}");
    assert!(beats.0.iter().any(|beat| beat.flash > 20.0), "after the gap too: {beats:?}");
    // it plays while it loads
    let bytes = std::fs::read(&file).expect("it was made");
    let at = |name: &[u8]| bytes.windows(4).position(|w| w == name).expect("it has it");
    assert!(at(b"moov") < at(b"mdat"));

    let folder = two_sections(5.0 + 15.2);
    let two = made(&folder, &["-m", "0"]);
    assert_eq!(two.len(), 2, "{two:?}");
    near("the first", two[0].1, 5.0);
    near("the second", two[1].1, 4.0);
    assert!(two[1].0.starts_with(&format!("{USER}_{}", &stamp(20.2)[..14])), "{two:?}");
}

#[test]
fn gaps_are_filled_or_left_out() {
    let folder = two_sections(25.0);
    let filled = made(&folder, &["-m", "1"]);
    assert_eq!(filled.len(), 1, "{filled:?}");
    near("filled", filled[0].1, 29.0);
    let file = folder.dir.join(&filled[0].0);
    let times = probe::frames(&file, Stream::Video);
    // 15 a second, all the way
    assert!((times.len() as f64 - 29.0 * 15.0).abs() <= 2.0, "{} pictures", times.len());
    let luma = probe::luma(&file);
    let between: Vec<f64> =
        times.iter().zip(&luma).filter(|((t, _), _)| (5.2..24.8).contains(t)).map(|(_, luma)| *luma).collect();
    assert!(between.len() > 280 && between.iter().all(|luma| *luma < 20.0), "the gap is not black: {between:?}");
    let samples = probe::samples(&file);
    let loud = |from: f64, to: f64| {
        let range = (from * 48_000.0) as usize..(to * 48_000.0) as usize;
        samples[range].iter().fold(0.0f32, |most, s| most.max(s.abs()))
    };
    near("its sound", samples.len() as f64 / 48_000.0, 29.0);
    assert!(loud(5.3, 24.8) < 0.001 && loud(0.9, 1.2) > 0.1 && loud(25.9, 26.2) > 0.1);
    let beats = Beats::in_file(&file);
    assert!(beats.largest() <= SYNC_CODED, "{beats:?}");
    assert!(beats.0.iter().any(|beat| beat.flash > 25.0), "after the gap too: {beats:?}");

    let dense = made(&folder, &["-m", "1", "-s"]);
    assert_eq!(dense.len(), 1, "{dense:?}");
    near("without the gap", dense[0].1, 9.0);
    let file = folder.dir.join(&dense[0].0);
    assert_copied(&folder, VIDEO, &file);
    let beats = Beats::in_file(&file);
    assert!(beats.largest() <= SYNC_COPIED, "{beats:?}");
}

#[test]
fn frame_rate_and_size_are_as_asked() {
    let mut folder = Folder::new();
    folder.picture(VIDEO, 0.0, 4.0, SIZE);
    folder.sound(AUDIO, 0.0, 4.0);
    for (args, fps, size) in [
        (&["-p", "3"][..], 5.0, (320, 240)),
        (&["-p", "-1"], 5.0, (320, 240)),
        (&["-p", "20"], 20.0, (320, 240)),
        (&["-p", "500"], 120.0, (320, 240)),
        (&["-r", "640", "360"], 15.0, (640, 360)),
        (&["-p", "30", "-r", "160", "120"], 30.0, (160, 120)),
        (&["-r", "320", "240"], 25.0, (320, 240)),
        (&[], 25.0, (320, 240)),
    ] {
        let made = made(&folder, args);
        near(&format!("{args:?}"), made[0].1, 4.0);
        let file = folder.dir.join(&made[0].0);
        let (_, format) = &probe::formats(&file)[0];
        assert_eq!((format.width, format.height), size, "{args:?}");
        let frames = probe::frames(&file, Stream::Video).len() as f64;
        assert!((frames - made[0].1 * fps).abs() <= 2.0, "{args:?}: {frames} pictures");
        let beats = Beats::in_file(&file);
        assert!(beats.largest() <= 0.030 + 0.5 / fps, "{args:?}: {beats:?}");
    }
}

#[test]
fn main_and_aux_go_with_the_sound_as_asked() {
    let mut folder = Folder::new();
    folder.sound(AUDIO, 0.0, 26.0);
    folder.picture(VIDEO, 0.0, 4.0, SIZE);
    folder.picture(AUX, 6.0, 18.0, (480, 270));
    let size = |made: &[(String, f64)]| {
        let (_, format) = probe::formats(&folder.dir.join(&made[0].0))[0].clone();
        (format.width, format.height)
    };
    folder.close();
    let main = made(&folder, &["-a", "0"]);
    near("main", main[0].1, 26.0);
    assert_eq!(size(&main), (320, 240));
    let aux = made(&folder, &["-a", "2"]);
    near("aux", aux[0].1, 26.0);
    assert_eq!(size(&aux), (480, 270));
    // aux pictures begin six seconds late, and say so
    let first = probe::frames(&folder.dir.join(&aux[0].0), Stream::Video)[0].0;
    near("the first aux picture", first, 6.0);
    let beats = Beats::in_file(&folder.dir.join(&aux[0].0));
    assert!(beats.largest() <= SYNC_COPIED, "{beats:?}");
    // both, at the size of the larger
    let auto = made(&folder, &["-a", "1"]);
    near("both", auto[0].1, 26.0);
    assert_eq!(size(&auto), (480, 270));
    let beats = Beats::in_file(&folder.dir.join(&auto[0].0));
    assert!(beats.largest() <= SYNC_CODED, "{beats:?}");
    let flashes = |range: std::ops::Range<f64>| beats.0.iter().filter(|beat| range.contains(&beat.flash)).count();
    assert!(flashes(0.5..4.0) >= 2 && flashes(7.0..23.5) >= 14, "{beats:?}");
}

#[test]
fn a_size_that_changes_becomes_one() {
    let mut folder = Folder::new();
    folder.picture(VIDEO, 0.0, 4.0, SIZE);
    folder.picture(VIDEO, 4.0, 4.0, (240, 426));
    folder.sound(AUDIO, 0.0, 8.0);
    let made = made(&folder, &[]);
    near("two sizes", made[0].1, 8.0);
    let file = folder.dir.join(&made[0].0);
    let (_, format) = &probe::formats(&file)[0];
    assert_eq!((format.width, format.height), (240, 426), "the larger one");
    let beats = Beats::in_file(&file);
    assert!(beats.largest() <= SYNC_CODED, "{beats:?}");
}

#[test]
fn pictures_that_are_stored_in_another_order_keep_their_times() {
    let mut folder = Folder::new();
    folder.coded(VIDEO, 0.0, 6.0, SIZE, &["-preset", "veryfast", "-bf", "2"]);
    folder.sound(AUDIO, 0.0, 6.0);
    let made = made(&folder, &[]);
    near("with B frames", made[0].1, 6.0);
    let file = folder.dir.join(&made[0].0);
    assert_copied(&folder, VIDEO, &file);
    let beats = Beats::in_file(&file);
    assert!(beats.largest() <= SYNC_COPIED, "{beats:?}");
}

#[test]
fn other_parameter_sets_of_one_size_are_copied_side_by_side() {
    let mut folder = Folder::new();
    folder.coded(VIDEO, 0.0, 4.0, SIZE, &["-preset", "ultrafast", "-profile:v", "baseline"]);
    folder.coded(VIDEO, 4.0, 4.0, SIZE, &["-preset", "veryfast", "-bf", "0", "-profile:v", "high"]);
    folder.sound(AUDIO, 0.0, 8.0);
    let made = made(&folder, &[]);
    near("two kinds", made[0].1, 8.0);
    assert_copied(&folder, VIDEO, &folder.dir.join(&made[0].0));
}

#[test]
fn ids_prefixes_and_streams_that_begin_apart() {
    let user = "Zmlu+m4-Kys.";
    let who = |before, stream| Who { before, user, stream };
    let mut folder = Folder::new();
    // sound comes first; after a crash the box goes on as ha1
    folder.sound(who("", "main_audio"), 0.0, 8.0);
    folder.picture(who("", "main_video"), 2.0, 6.0, SIZE);
    folder.picture(who("ha1_", "main_video"), 12.0, 4.0, SIZE);
    folder.sound(who("ha1_", "main_audio"), 12.0, 4.0);
    // another user, whose sound and picture share files
    folder.both(Who { before: "", user: "dHdv", stream: "main_audiovideo" }, 1.0, 4.0);
    let made = made(&folder, &[]);
    let of = |user: &str| made.iter().find(|(name, _)| name.starts_with(user)).expect("the user has a file");
    assert_eq!(made.len(), 2, "{made:?}");
    near("both runs", of(user).1, 16.0);
    let file = folder.dir.join(&of(user).0);
    near("the first picture", probe::frames(&file, Stream::Video)[0].0, 2.0);
    let beats = Beats::in_file(&file);
    assert!(beats.largest() <= SYNC_COPIED, "{beats:?}");
    assert!(beats.0.iter().any(|beat| beat.flash > 12.0), "{beats:?}");
    near("sound and picture in one", of("dHdv").1, 4.0);
    let beats = Beats::in_file(&folder.dir.join(&of("dHdv").0));
    assert!(beats.largest() <= SYNC_COPIED, "{beats:?}");
}

#[test]
fn sound_alone_is_an_m4a_and_its_gaps_are_silence() {
    let mut folder = Folder::new();
    folder.sound(AUDIO, 0.0, 4.0);
    folder.sound(AUDIO, 30.0, 4.0);
    let two = made(&folder, &[]);
    assert_eq!(two.len(), 2);
    assert!(two.iter().all(|(name, length)| name.ends_with(".m4a") && (length - 4.0).abs() < NEAR), "{two:?}");
    let one = made(&folder, &["-m", "1"]);
    near("filled", one[0].1, 34.0);
    let samples = probe::samples(&folder.dir.join(&one[0].0));
    near("its samples", samples.len() as f64 / 48_000.0, 34.0);
    assert!(samples[5 * 48_000..29 * 48_000].iter().all(|sample| sample.abs() < 0.001));
    let dense = made(&folder, &["-m", "1", "-s"]);
    near("without the gap", dense[0].1, 8.0);
}

#[test]
fn sound_of_two_forms_becomes_one() {
    let mut folder = Folder::new();
    folder.heard(AUDIO, 0.0, 4.0, &["-ac", "1", "-ar", "48000"]);
    folder.heard(AUDIO, 4.0, 4.0, &["-ac", "2", "-ar", "44100"]);
    folder.picture(VIDEO, 0.0, 8.0, SIZE);
    let made = made(&folder, &[]);
    near("two forms", made[0].1, 8.0);
    let file = folder.dir.join(&made[0].0);
    let formats = probe::formats(&file);
    let (_, sound) = formats.iter().find(|(stream, _)| *stream == Stream::Audio).expect("it has sound");
    assert_eq!((sound.sample_rate, sound.channels), (48_000, 2));
    assert_copied(&folder, VIDEO, &file);
    let beats = Beats::in_file(&file);
    assert!(beats.largest() <= SYNC_COPIED, "{beats:?}");
    assert!(beats.0.len() >= 6, "{beats:?}");
}

#[test]
fn what_is_broken_is_named_and_the_rest_is_made() {
    let mut folder = Folder::new();
    folder.picture(VIDEO, 0.0, 6.0, SIZE);
    folder.sound(AUDIO, 0.0, 6.0);
    let other = Who { before: "", user: "b3RoZXI.", stream: "main_audio" };
    folder.sound(other, 0.0, 4.0);
    let rubbish: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let broken = folder.segment(VIDEO, 6.0, 2.0, Some(&rubbish));
    let empty = folder.segment(AUDIO, 6.0, 2.0, Some(&[]));
    let missing = folder.segment(AUDIO, 8.0, 2.0, None);
    // a file that lost its end still gives its beginning
    let torn = folder.files(VIDEO)[2].clone();
    let bytes = std::fs::read(&torn).expect("it is ours");
    std::fs::write(&torn, &bytes[..bytes.len() * 2 / 3 + 50]).expect("it is ours");
    let lost = Who { before: "", user: "bG9zdA..", stream: "main_video" };
    let alone = folder.segment(lost, 0.0, 2.0, Some(&rubbish));
    folder.close();
    std::fs::write(folder.dir.join("1_r__UserId_s_b3RoZXI.__UserId_e_main_video.m3u8"), "#EXTM3U\nx.ts\n")
        .expect("ours");

    let out = merge(&folder.dir, &[]);
    assert_eq!(out.status.code(), Some(1));
    let complaints = lines(&out.stderr);
    let torn = torn.file_name().expect("it has one").to_string_lossy().into_owned();
    for (name, why) in [
        (&broken, "it is no transport stream; skipped"),
        (&empty, "it is empty; skipped"),
        (&missing, "it is not there; skipped"),
        (&torn, "it is torn at byte"),
        (&alone, "skipped"),
    ] {
        assert!(
            complaints.iter().any(|line| line.starts_with(name.as_str()) && line.contains(why)),
            "{name} {complaints:?}"
        );
    }
    assert!(complaints.iter().any(|line| line.contains("main_video.m3u8: line 2")), "{complaints:?}");
    assert_eq!(complaints.len(), 6, "{complaints:?}");
    let told = lines(&out.stdout);
    assert_eq!(told.len(), 3, "a line for each user: {told:?}");
    assert!(told.iter().any(|line| line.starts_with("bG9zdA.. (\"lost\"): nothing made")), "{told:?}");
    let made = folder.others();
    assert_eq!(made.len(), 2, "{made:?}");
    let whole = made.iter().find(|name| name.starts_with(USER)).expect("it was made");
    let length = seconds(&folder.dir.join(whole));
    assert!((5.9..6.3).contains(&length), "{length}");
    assert_eq!(probe::decode_errors(&folder.dir.join(whole)), "");
}

#[test]
fn results_are_replaced_and_nothing_else_is_left() {
    let mut folder = Folder::new();
    folder.sound(AUDIO, 0.0, 3.0);
    let first = made(&folder, &[]);
    let result = folder.dir.join(&first[0].0);
    let bytes = std::fs::read(&result).expect("it was made");
    std::fs::write(&result, b"an older one").expect("it is ours");
    // what a merge that was killed leaves
    std::fs::write(folder.dir.join(format!(".{}.part", first[0].0)), vec![7; 1 << 20]).expect("it is ours");
    let out = merge(&folder.dir, &[]);
    assert!(out.status.success());
    assert_eq!(folder.others(), [first[0].0.clone()]);
    assert_eq!(std::fs::read(&result).expect("it was made"), bytes, "the same recording gives the same file");
}

#[test]
fn what_makes_no_sense_is_refused_and_says_why() {
    let mut folder = Folder::new();
    let refused = |dir: &Path, args: &[&str], code: i32, why: &str| {
        let out = merge(dir, args);
        let said = lines(&out.stderr).join("\n");
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(why), "{args:?}: {said}");
    };
    refused(&folder.dir, &[], 1, "there is no single-stream recording in it");
    refused(&folder.dir.join("nowhere"), &[], 1, "No such file or directory");
    refused(&folder.dir, &["-m", "2"], 2, "2 is not in 0..=1");
    refused(&folder.dir, &["-a", "3"], 2, "3 is not in 0..=2");
    refused(&folder.dir, &["-p", "fast"], 2, "invalid digit");
    refused(&folder.dir, &["-r", "640"], 2, "2 values required");
    refused(&folder.dir, &["-r", "641", "360"], 1, "641x360: width and height are even numbers from 16 to 8192");
    folder.sound(AUDIO, 0.0, 3.0);
    folder.close();
    let out = merge(&folder.dir, &["-s"]);
    assert!(out.status.success());
    assert!(lines(&out.stderr).join("\n").contains("-s says nothing without -m 1"));

    // recordings as the shelf keeps them, sealed or not
    let sealed = folder.dir.join(format!("1_r__UserId_s_{USER}__UserId_e_main_audio_{}.ts", stamp(50.0)));
    let key = Key::parse(&b"4f1d0c9a7be2385566a1b0c2d3e4f5061728394a5b6c7d8e9fa0b1c2d3e4f506"[..]).expect("a key");
    let mut output = Vault::new(Some(key), Vec::new()).create(&sealed, "task/file").expect("it can be made");
    output.write(&[0x47; 188]).expect("it can be written");
    output.finish().expect("it can be ended");
    refused(&folder.dir, &[], 1, "holdfast spool export");
    std::fs::remove_file(&sealed).expect("it is ours");
    let local = folder.dir.join(format!("{USER}_main_audio_r0_i0_t1772697600000000_nosize_join_d2000000.ts"));
    std::fs::write(local, [0x47; 188]).expect("it is ours");
    refused(&folder.dir, &[], 1, "holdfast spool export");
}
