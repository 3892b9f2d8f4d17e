//! How a mixed recording is coded: its rate of pictures, its keyframes, its bitrate; and encoders and publishers that
//! break.

#[path = "mixing/faulty.rs"]
mod faulty;
mod mixing;
mod recording;

use std::path::Path;
use std::process::Command;

use holdfast::media::engine::Mixing;
use holdfast::media::stills::Stills;
use holdfast::media::{LaneEnd, LaneOrder};
use holdfast::model::encoder::{Coding, PictureEncoder, mixing_encoders};
use holdfast::model::layout::Scene;
use holdfast::model::mix::{AudioParams, Fit, Layout, Rect, Size, VideoParams};
use holdfast::model::{Codec, LaneKind};
use mixing::play::{Guest, Play, assert_sound_steady, assert_steady, guest, scene_for};
use mixing::{Film, H264, SIZE, badge, order, video};
use recording::{Frame, MS, Told, assert_plays_alone, beeps, packets, packets_of, streams, times};

const SMALL: (u32, u32) = (320, 180);

fn lane(play: &Play, run: u32, scene: &Scene, video: VideoParams) -> LaneOrder {
    let mut order = order(&play.site, LaneKind::Video, scene.clone(), video, AudioParams::default());
    order.run.run = run;
    order
}

fn size(width: u32, height: u32) -> Size {
    Size { width, height }
}

/// Every rate and shape at once, from one publisher.
#[test]
fn rates_sizes_and_keyframes_are_as_asked() {
    let mut play = Play::new();
    let track = play.track(Codec::H264, badge(5, SMALL, 150, H264));
    let person = guest("user1", Some(track), None);
    let forms = [
        (size(66, 34), 1, 4),
        (size(198, 358), 15, 1),
        (size(322, 182), 24, 2),
        (size(160, 90), 60, 1),
        (size(160, 90), 25, 60),
    ];
    let orders = (0..).zip(forms).map(|(run, (size, fps, gop))| {
        let layout = Layout { fit: Fit::Stretch, ..Layout::default() };
        let scene = scene_for(&layout, size, &[&person]);
        let mut order = lane(&play, run, &scene, VideoParams { size, fps, bitrate: 300_000, gop });
        order.segment_length = std::time::Duration::from_millis(1_500);
        order
    });
    let orders = orders.collect();
    play.start(orders);
    play.until(4_700);
    for (told, (size, fps, gop)) in play.finish_all().iter().zip(forms) {
        let what = format!("{size:?} {fps} fps, GOP of {gop} s");
        for segment in &told.segments {
            assert_plays_alone(&play.site.path(segment));
            assert_eq!(segment.size, Some((size.width, size.height)), "{what}");
        }
        let film = play.film(told, size, fps);
        let joined = play.joined(told);
        assert_eq!(streams(&joined), [format!("h264,{},{}", size.width, size.height)]);
        let all = times(&joined, "v");
        let length = told.seconds();
        assert!(
            (length - all.len() as f64 / f64::from(fps)).abs() < 0.001,
            "{what}: {length} s, {} pictures",
            all.len()
        );
        assert!(length > 4.4, "{what}: {length} s");
        // a keyframe each GOP, and one for each file, as soon as it has its length
        let keys: Vec<f64> = all.iter().filter(|(_, key)| *key).map(|(at, _)| at - all[0].0).collect();
        let longest = keys.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!(longest <= f64::from(gop) + 0.001, "{what}: {keys:?}");
        let cuts: Vec<f64> =
            (told.segments.iter()).map(|segment| segment.start.since(told.segments[0].start).as_secs_f64()).collect();
        for cut in &cuts {
            assert!(keys.iter().any(|key| (key - cut).abs() < 0.002), "{what}: cuts {cuts:?}, keyframes {keys:?}");
        }
        // 1.35 s is enough for a keyframe that comes by itself
        let most = 1.5 + 1.0 / f64::from(fps);
        let lengths = told.segments.iter().rev().skip(1).map(|segment| segment.duration.as_secs_f64());
        assert!(lengths.clone().all(|length| (1.35..most).contains(&length)), "{what}: {cuts:?}");
        if fps == 25 {
            assert_eq!(keys.len(), told.segments.len(), "{what}: none but those of the files");
        }
        if size.width >= 160 {
            for (at, picture) in play.between(&film, 100.0, 4_500.0) {
                let whole = Rect { x: 0, y: 0, width: size.width, height: size.height };
                assert_eq!(film.badge(picture, whole), Some(5), "{what} at {at} ms");
            }
        }
    }
}

/// Bytes of each packet of pictures.
fn sizes(path: &Path) -> Vec<usize> {
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-show_entries", "packet=size", "-of", "csv=p=0"])
        .arg(path)
        .output()
        .expect("ffprobe runs; apt install ffmpeg");
    let text = String::from_utf8(out.stdout).expect("text");
    text.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect()
}

#[test]
fn the_bitrate_is_about_what_was_asked_for() {
    let mut play = Play::new();
    // nothing is harder to code than snow
    let snow = packets(
        "videotestsrc num-buffers=150 pattern=snow ! video/x-raw,width=160,height=90,framerate=30/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=4000 key-int-max=30 \
         ! video/x-h264,profile=constrained-baseline ! rtph264pay pt=96 mtu=1200",
        0,
    );
    let person = guest("snow", Some(play.track(Codec::H264, snow)), None);
    let canvas = size(320, 180);
    let scene = scene_for(&Layout::default(), canvas, &[&person]);
    let rates = [300_000, 1_200_000];
    let orders = (0..)
        .zip(rates)
        .map(|(run, bitrate)| lane(&play, run, &scene, VideoParams { size: canvas, fps: 15, bitrate, gop: 2 }));
    let orders = orders.collect();
    play.start(orders);
    play.until(4_600);
    for (told, asked) in play.finish_all().iter().zip(rates) {
        let bytes: usize = sizes(&play.joined(told)).iter().take(60).sum();
        let found = bytes as f64 * 8.0 / 4.0;
        println!("asked for {asked}, {found:.0} bits per second");
        assert!((0.6..1.4).contains(&(found / f64::from(asked))), "asked for {asked}, {found:.0} bits per second");
    }
}

fn x264() -> PictureEncoder {
    *mixing_encoders().iter().find(|encoder| encoder.factory == "x264enc").expect("the table has it")
}

fn breaks_after(pictures: u32) -> PictureEncoder {
    fn chain(coding: &Coding, pictures: u32) -> String {
        format!("identity error-after={pictures} ! {}", (x264().chain)(coding))
    }
    let chain: fn(&Coding) -> String = match pictures {
        20 => |coding| chain(coding, 20),
        40 => |coding| chain(coding, 40),
        _ => panic!("a chain is a plain function: name the number here"),
    };
    PictureEncoder { factory: "identity", chain, ..x264() }
}

/// Takes what it gets, and gives nothing.
fn swallows() -> PictureEncoder {
    let chain = |coding: &Coding| format!("identity drop-probability=1 ! {}", (x264().chain)(coding));
    PictureEncoder { factory: "identity", chain, ..x264() }
}

fn mixing_with(encoders: Vec<PictureEncoder>) -> Mixing {
    Mixing { encoders, ..Mixing::new(Stills::default(), None) }
}

fn encoder_troubles(told: &Told) -> Vec<&str> {
    let of = told.troubles.iter().filter(|(part, _)| *part == "encoder");
    of.filter_map(|(_, why)| why.as_deref()).collect()
}

/// The next encoder of the table goes on in the same recording: not one picture is lost, and sound does not notice.
#[test]
fn an_encoder_that_fails_in_mid_recording_is_replaced() {
    let mut play = Play::with(mixing_with(vec![breaks_after(20), breaks_after(40), x264()]));
    let picture = play.track(Codec::H264, badge(6, SMALL, 180, H264));
    let sound = play.track(Codec::Opus, beeps(6));
    let person = guest("user1", Some(picture), Some(sound));
    let scene = scene_for(&Layout::default(), SIZE, &[&person]);
    let order = play.order(scene.clone());
    play.start(vec![order]);
    play.until(5_300);
    play.finish_word();
    let told = play.until_end();
    assert_eq!(told.end, Some(LaneEnd::Finished));
    let troubles = encoder_troubles(&told);
    assert_eq!(troubles.len(), 2, "{told:?}");
    assert!(troubles[0].starts_with("identity: ") && troubles[0].ends_with("; identity goes on"), "{troubles:?}");
    assert!(troubles[1].starts_with("identity: ") && troubles[1].ends_with("; x264enc goes on"), "{troubles:?}");

    for segment in &told.segments {
        assert_plays_alone(&play.site.path(segment));
    }
    // 15 a second: the 20th picture breaks the first encoder, the 40th that the next one gets breaks that
    let begins: Vec<u128> = (told.segments.iter())
        .filter(|segment| segment.discontinuity)
        .map(|segment| (segment.start.since(told.segments[0].start).as_micros() + 500) / 1_000)
        .collect();
    assert_eq!(begins.len(), 3, "{:?}", told.segments);
    assert_eq!(begins, [0, 19 * 1_000 / 15 + 1, 58 * 1_000 / 15 + 1], "that picture is the first of the next one's");
    let joined = play.joined(&told);
    assert_steady(&times(&joined, "v"), 15);
    assert_sound_steady(&times(&joined, "a"), 48_000);
    let film = Film::read(&joined, SIZE);
    for (at, picture) in play.between(&film, 0.0, 5_200.0) {
        assert_eq!(film.badges(picture, &scene), [Some(6)], "at {at} ms");
    }
}

/// What it swallowed until it was found out is lost; the recording is not.
#[test]
fn an_encoder_that_gives_nothing_is_replaced() {
    let mut play = Play::with(mixing_with(vec![swallows(), x264()]));
    let picture = play.track(Codec::H264, badge(6, SMALL, 180, H264));
    let person = guest("user1", Some(picture), None);
    let scene = scene_for(&Layout::default(), SIZE, &[&person]);
    let order = play.pictures_of(scene.clone(), video(15));
    play.start(vec![order]);
    play.until(5_000);
    let told = play.finish();
    let troubles = encoder_troubles(&told);
    assert!(troubles.len() == 1 && troubles[0].ends_with("; x264enc goes on"), "{told:?}");
    let film = play.film(&told, SIZE, 15);
    assert!(film.pictures.len() >= 25, "{}", film.pictures.len());
    for (at, picture) in play.between(&film, 3_200.0, 4_900.0) {
        assert_eq!(film.badges(picture, &scene), [Some(6)], "at {at} ms");
    }
}

/// x264enc behind an element with the fault of that name.
fn faulty(fault: &str, coding: &Coding) -> String {
    format!("faulty name={fault} ! {}", (x264().chain)(coding))
}

/// A driver that keeps a picture for ever keeps a thread, not the lane: the next encoder goes on with that picture.
#[test]
fn a_device_that_hangs_in_mid_recording_is_replaced() {
    faulty::register();
    let hangs = PictureEncoder { factory: "faulty", hardware: true, chain: |coding| faulty("stuck", coding), ..x264() };
    let mut play = Play::with(mixing_with(vec![hangs, x264()]));
    let picture = play.track(Codec::H264, badge(6, SMALL, 240, H264));
    let person = guest("user1", Some(picture), None);
    let scene = scene_for(&Layout::default(), SIZE, &[&person]);
    let order = play.pictures_of(scene.clone(), video(15));
    play.start(vec![order]);
    play.until(7_000);
    play.finish_word();
    let told = play.until_end();
    let troubles = encoder_troubles(&told);
    assert!(
        troubles.len() == 1 && troubles[0].contains("hangs") && troubles[0].ends_with("; x264enc goes on"),
        "{told:?}"
    );
    assert_eq!(told.lost, ["faulty"], "nobody else is to begin with it");
    for segment in &told.segments {
        assert_plays_alone(&play.site.path(segment));
    }
    assert_steady(&times(&play.joined(&told), "v"), 15);
    let film = play.film(&told, SIZE, 15);
    for (at, picture) in play.between(&film, 0.0, 6_900.0) {
        assert_eq!(film.badges(picture, &scene), [Some(6)], "at {at} ms");
    }
}

/// Some drivers make keyframes when they like. Files begin with one all the same, and have their length.
#[test]
fn an_encoder_that_makes_no_keyframe_when_asked_begins_anew() {
    faulty::register();
    for hardware in [false, true] {
        let deaf = PictureEncoder { factory: "faulty", hardware, chain: |coding| faulty("deaf", coding), ..x264() };
        let mut play = Play::with(mixing_with(vec![deaf]));
        let picture = play.track(Codec::H264, badge(6, SMALL, 180, H264));
        let person = guest("user1", Some(picture), None);
        let canvas = size(SIZE.width, SIZE.height);
        let scene = scene_for(&Layout::default(), canvas, &[&person]);
        let coding = VideoParams { size: canvas, fps: 15, bitrate: 500_000, gop: 60 };
        let mut order = lane(&play, 0, &scene, coding);
        order.segment_length = std::time::Duration::from_millis(1_500);
        play.start(vec![order]);
        play.until(5_000);
        let told = play.finish();
        assert_eq!(encoder_troubles(&told), Vec::<&str>::new());
        assert!(told.segments.len() >= 3, "{:?}", told.segments);
        for (n, segment) in told.segments.iter().enumerate() {
            assert_plays_alone(&play.site.path(segment));
            assert_eq!(segment.discontinuity, n == 0, "it is one stream: {:?}", told.segments);
        }
        // the first that is asked for tells that none comes, and the next picture is it
        let lengths = told.segments.iter().rev().skip(1).map(|segment| segment.duration.as_secs_f64());
        assert!(lengths.clone().all(|length| (1.35..1.65).contains(&length)), "{:?}", told.segments);
        assert_steady(&times(&play.joined(&told), "v"), 15);
        let film = play.film(&told, SIZE, 15);
        for (at, picture) in play.between(&film, 100.0, 4_900.0) {
            assert_eq!(film.badges(picture, &scene), [Some(6)], "at {at} ms");
        }
    }
}

#[test]
fn without_an_encoder_that_works_the_lane_ends_and_keeps_what_it_has() {
    let mut play = Play::with(mixing_with(vec![breaks_after(20), breaks_after(40)]));
    let picture = play.track(Codec::H264, badge(6, SMALL, 180, H264));
    let person = guest("user1", Some(picture), None);
    let scene = scene_for(&Layout::default(), SIZE, &[&person]);
    let order = play.pictures_of(scene, video(15));
    play.start(vec![order]);
    let told = play.until_end();
    assert!(matches!(&told.end, Some(LaneEnd::Failed(why)) if why.contains("identity")), "{:?}", told.end);
    assert!(encoder_troubles(&told).last().is_some_and(|why| why.ends_with("; none goes on")), "{told:?}");
    let joined = play.joined(&told);
    let times = times(&joined, "v");
    assert_steady(&times, 15);
    assert_eq!(times.len(), 19 + 39, "all but the picture that broke the last one");
    for segment in &told.segments {
        assert_plays_alone(&play.site.path(segment));
    }

    let mut play = Play::with(mixing_with(Vec::new()));
    let picture = play.track(Codec::H264, badge(6, SMALL, 30, H264));
    let scene = scene_for(&Layout::default(), SIZE, &[&guest("user1", Some(picture), None)]);
    let order = play.pictures_of(scene, video(15));
    play.start(vec![order]);
    let told = play.until_end();
    assert!(matches!(told.end, Some(LaneEnd::Failed(_))), "{:?}", told.end);
    assert!(told.segments.is_empty());
}

/// Nonsense in place of packets: some frames from the first on, whatever the codec; the payload's own header is kept in
/// half of them, so that more than the depayloader gets to see it.
fn corrupted(good: Vec<Frame>, mut seed: u32) -> Vec<Frame> {
    let mut random = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed >> 8
    };
    let broken = |(n, mut frame): (usize, Frame)| {
        if n >= 20 && n % 3 != 0 {
            for packet in &mut frame {
                let mut bytes = packet.rtp.to_vec();
                let from = if random() % 2 == 0 { 12 } else { 18 }.min(bytes.len());
                bytes[from..].iter_mut().for_each(|byte| *byte = random() as u8);
                bytes.truncate(13 + random() as usize % 1_200);
                packet.rtp = bytes.into();
            }
        }
        frame
    };
    good.into_iter().enumerate().map(broken).collect()
}

#[test]
fn a_corrupt_stream_harms_nobody_else() {
    let mut play = Play::new();
    let vp8 = "vp8enc deadline=1 keyframe-max-dist=30 target-bitrate=600000 ! rtpvp8pay pt=96";
    let vp9 = "vp9enc deadline=1 cpu-used=8 keyframe-max-dist=30 target-bitrate=600000 ! rtpvp9pay pt=96";
    let good = [(1, Codec::H264, H264), (2, Codec::Vp8, vp8), (3, Codec::H264, H264)];
    let bad = [
        (Codec::H264, H264, 1),
        (Codec::H264, H264, 2),
        (Codec::H264, H264, 3),
        (Codec::Vp8, vp8, 4),
        (Codec::Vp8, vp8, 5),
        (Codec::Vp9, vp9, 6),
    ];
    let mut people = Vec::new();
    for (n, codec, coder) in good {
        people.push(guest(&format!("good{n}"), Some(play.track(codec, badge(n, SMALL, 120, coder))), None));
    }
    for (codec, coder, seed) in bad {
        let frames = corrupted(badge(10, SMALL, 120, coder), seed);
        people.push(guest(&format!("bad{seed}"), Some(play.track(codec, frames)), None));
    }
    // and one whose sound is nonsense, beside one whose sound is good
    let sound = play.track(Codec::Opus, beeps(4));
    let noise = play.track(Codec::Opus, corrupted(beeps(4), 7));
    people.push(guest("heard", None, Some(sound)));
    people.push(guest("not heard", None, Some(noise)));
    let layout = Layout { sound_takes_no_place: true, ..Layout::default() };
    let scene = scene_for(&layout, SIZE, &people.iter().collect::<Vec<&Guest>>());
    let order = play.order(scene.clone());
    play.start(vec![order]);
    play.until(3_700);
    let told = play.finish();
    let film = play.film(&told, SIZE, 15);
    assert_sound_steady(&times(&play.joined(&told), "a"), 48_000);
    for (at, picture) in play.between(&film, 0.0, 3_600.0) {
        let seen = film.badges(picture, &scene);
        assert_eq!(seen[..3], [Some(1), Some(2), Some(3)], "at {at} ms: {seen:?}");
    }
    // before it began, the others were to be seen as well
    for (at, picture) in play.between(&film, 0.0, 600.0) {
        let seen = film.badges(picture, &scene);
        assert_eq!(seen[3..], [Some(10); 6], "at {at} ms: {seen:?}");
    }
}

/// Pictures that step from dark to bright, each of one light all over but for some noise, in many small packets.
fn steps(frames: u64, coder: &str) -> Vec<Frame> {
    let (width, height) = (320, 180);
    let mut seed = 9_u32;
    let raw = (0..frames).map(|n| {
        let light = light_of(n as i64) as u8;
        let mut bytes: Vec<u8> = (0..width * height)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                light - 8 + (seed >> 28) as u8
            })
            .collect();
        bytes.resize(width * height * 3 / 2, 128);
        (n * 1_000 * MS / 30, bytes)
    });
    let caps = format!("video/x-raw,format=I420,width={width},height={height},framerate=30/1");
    packets_of(&format!("appsrc name=in format=time caps={caps} ! {coder}"), raw.collect(), 0)
}

fn light_of(picture: i64) -> f64 {
    (48 + picture * 5 % 160) as f64
}

/// After a loss the last good picture stands until the next that is whole: none is torn, and all that are seen were
/// sent. (A decoder of VP8 does not see that what it builds on is missing.)
#[test]
fn lost_packets_show_the_last_good_picture_and_no_torn_one() {
    let mut play = Play::new();
    let h264 = "x264enc tune=zerolatency speed-preset=ultrafast bitrate=3000 key-int-max=30 \
        ! video/x-h264,profile=constrained-baseline ! rtph264pay pt=96 mtu=500";
    let vp8 = "vp8enc deadline=1 keyframe-max-dist=30 target-bitrate=3000000 \
        ! rtpvp8pay pt=96 mtu=500";
    let mut losing = Vec::new();
    for (codec, coder) in [(Codec::H264, h264), (Codec::Vp8, vp8)] {
        let mut frames = steps(120, coder);
        assert!(frames.iter().filter(|frame| frame.len() > 5).count() > 100, "pictures have several packets");
        let mut lost = false;
        for (n, frame) in frames.iter_mut().enumerate() {
            let (packets, mut m) = (frame.len(), 0);
            frame.retain_mut(|packet| {
                m += 1;
                // of some pictures of each second the middle or the end, and a whole one
                let gone = (n % 30 == 12 && m == packets / 2) || (n % 30 == 17 && m == packets) || n % 30 == 22;
                packet.after_loss = lost;
                lost = gone;
                !gone
            });
        }
        frames.retain(|frame| !frame.is_empty());
        losing.push(play.track(codec, frames));
    }
    let people = [guest("h264", Some(losing[0]), None), guest("vp8", Some(losing[1]), None)];
    let layout = Layout { fit: Fit::Stretch, ..Layout::default() };
    let canvas = size(640, 180);
    let scene = scene_for(&layout, canvas, &people.iter().collect::<Vec<_>>());
    let order = play.pictures_of(scene.clone(), VideoParams { size: canvas, fps: 30, bitrate: 6_000_000, gop: 2 });
    play.start(vec![order]);
    play.until(3_800);
    let told = play.finish();
    let film = play.film(&told, canvas, 30);
    for (tile, track) in scene.tiles.iter().map(|tile| tile.rect).zip(losing) {
        assert!(play.asked(track) >= 2, "a loss asks for a keyframe");
        let mut seen = Vec::new();
        for (at, picture) in play.between(&film, 0.0, 3_700.0) {
            let part = |n: u32| Rect { x: tile.x + n % 6 * 52 + 4, y: tile.y + n / 6 * 29 + 2, width: 48, height: 24 };
            let lights: Vec<f64> = (0..36).map(|n| film.mean(picture, part(n))[0]).collect();
            let (least, most) = lights.iter().fold((f64::MAX, 0.0_f64), |(l, m), x| (l.min(*x), m.max(*x)));
            assert!(most - least < 8.0, "torn at {at} ms: {least:.0} … {most:.0}");
            // which picture of the last second it is
            let light = lights.iter().sum::<f64>() / 36.0;
            let now = (at / 1_000.0 * 30.0).round() as i64;
            let mut recent = (0..32).map(|back| now + 1 - back).filter(|n| *n >= 0);
            let which = recent.find(|n| (light - light_of(*n)).abs() < 3.0);
            let which = which.unwrap_or_else(|| panic!("at {at} ms a light of {light:.1}, which nobody sent"));
            assert!(now - which < 25, "at {at} ms picture {which} stands: the next keyframe ends that");
            seen.push(which);
        }
        assert!(seen.windows(2).all(|pair| pair[0] <= pair[1]), "never backwards: {seen:?}");
        // nothing of what was lost, nor of what was built on it
        assert!(seen.iter().all(|n| n % 30 < 12), "{seen:?}");
    }
}
