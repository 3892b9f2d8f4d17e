//! Private minutes: what lanes take until a pause, and from a resume on, to the picture and to the packet of sound.
//!
//! Publishers whose pictures tell when they were captured: each is of one grey, a little lighter than the one before.

mod mixing;
mod recording;

use std::time::{Duration, Instant};

use holdfast::media::{LaneEnd, LaneOrder, MediaEngine};
use holdfast::model::mix::{AudioParams, Layout, Size, VideoParams};
use holdfast::model::{Codec, LaneKind, LaneRun, MediaTime};
use mixing::play::{Play, guest, scene_for};
use recording::*;

const X264: &str =
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 pass=quant quantizer=4 ! rtph264pay pt=96 mtu=1200";
const SMALL: Size = Size { width: 160, height: 120 };
const DARKEST: f64 = 24.0;

/// `count` pictures, 30 a second, of the greys 24, 26, 28 …
fn greys(count: u64) -> Vec<Frame> {
    let (width, height) = (SMALL.width as usize, SMALL.height as usize);
    let raw = (0..count).map(|n| {
        let mut bytes = vec![(DARKEST as u64 + 2 * n) as u8; width * height];
        bytes.resize(width * height * 3 / 2, 128);
        (n * 1_000 * MS / 30, bytes)
    });
    let caps = format!("video/x-raw,format=I420,width={width},height={height},framerate=30/1");
    packets_of(&format!("appsrc name=in format=time caps={caps} ! {X264}"), raw.collect(), 0)
}

/// When the picture of this brightness was captured, ms on the line of frames.
fn captured_ms(grey: f64) -> f64 {
    ((luma(grey) - DARKEST) / 2.0).round() * 1000.0 / 30.0
}

/// What `brightness` tells is of the full range.
fn luma(grey: f64) -> f64 {
    grey * 219.0 / 255.0 + 16.0
}

/// A tone without an end, in packets of 20 ms.
fn tone(packets: u64) -> Vec<Frame> {
    let raw = (0..packets).map(|n| {
        let sample = |i: u64| {
            let t = (n * 960 + i) as f64;
            ((t * std::f64::consts::TAU / 48.0).sin() * 16_000.0) as i16
        };
        (n * 20 * MS, (0..960).flat_map(|i| sample(i).to_le_bytes()).collect())
    });
    let caps = "audio/x-raw,format=S16LE,layout=interleaved,rate=48000,channels=1";
    let described = format!("appsrc name=in format=time caps={caps} ! opusenc bitrate=64000 ! rtpopuspay pt=96");
    packets_of(&described, raw.collect(), 0)
}

/// First and last moment at which something is heard, seconds on the file's line.
fn heard(path: &std::path::Path) -> (f64, f64) {
    let (start, samples) = sound_of(path);
    let loud = |(_, sample): &(usize, &f32)| sample.abs() > 0.05;
    let at = |n: usize| start + n as f64 / 48_000.0;
    let first = samples.iter().enumerate().find(loud).expect("something is heard").0;
    let last = samples.len() - 1 - samples.iter().rev().enumerate().find(loud).expect("looked at above").0;
    (at(first), at(last))
}

#[test]
fn a_lane_keeps_every_picture_before_the_pause_and_none_after_it() {
    let mut b = Site::new();
    let ann = b.publish(Codec::H264);
    let order = b.order(LaneKind::Video, None, Some(&ann));
    b.start(&order);
    let frames = greys(90);
    // the pause is the very moment of the 47th picture; what is told before and after makes no difference
    let until = frames[46][0].at;
    ann.push(&frames[..20]);
    ann.settle();
    b.engine.pause_lane(&order.run, until);
    b.engine.pause_lane(&order.run, MediaTime(until.0 + 500 * MS));
    ann.push(&frames[20..]);
    let told = b.until_end();
    assert_eq!(told.end, Some(LaneEnd::Finished), "it ends when the publisher has come to the pause");
    let seen = brightness(&b.joined(&told.segments));
    assert_eq!(seen.len(), 46);
    for (n, (at, grey)) in seen.iter().enumerate() {
        let captured = captured_ms(*grey) / 1000.0;
        assert!((captured - n as f64 / 30.0).abs() < 1e-6 && (at - captured).abs() < 0.001, "{n}: {at} {grey}");
    }
    assert_eq!(complaints(&b.joined(&told.segments)), "");
}

#[test]
fn sound_ends_with_the_last_packet_that_was_over_before_the_pause() {
    let mut b = Site::new();
    let ann = b.publish(Codec::Opus);
    let order = b.order(LaneKind::Audio, Some(&ann), None);
    b.start(&order);
    let frames = tone(150);
    // in the middle of the 76th packet
    let until = MediaTime(frames[75][0].at.0 + 10 * MS);
    ann.push(&frames[..70]);
    b.engine.pause_lane(&order.run, until);
    ann.push(&frames[70..]);
    let told = b.until_end();
    assert_eq!(told.end, Some(LaneEnd::Finished));
    let (first, last) = heard(&b.joined(&told.segments));
    let over = 75.0 * 0.020;
    println!(
        "the pause is at {:.4} s, the last packet before it is over at {over:.4} s: heard {first:.4} to {last:.4}",
        over + 0.010
    );
    // an encoder of Opus begins softly
    assert!(first < 0.030, "{first}");
    // what an Opus packet holds is heard up to 6.5 ms earlier
    assert!((over - 0.020..=over).contains(&last), "{last} and {over}");
}

#[test]
fn a_lane_takes_nothing_from_before_the_resume() {
    let mut b = Site::new();
    let (sound, picture) = (b.publish(Codec::Opus), b.publish(Codec::H264));
    let frames = greys(90);
    let from = MediaTime(frames[40][0].at.0 + 5 * MS);
    let heard_from = (from.0 - BASE) as f64 / 1e9;
    let seen = LaneOrder { from, ..b.order(LaneKind::Video, None, Some(&picture)) };
    b.start(&seen);
    picture.push(&frames);
    picture.settle();
    b.engine.finish_lane(&seen.run);
    let told = b.until_end();
    let pictures = brightness(&b.joined(&told.segments));
    // keyframes are the 1st, 16th, 31st, 46th …
    assert_eq!(captured_ms(pictures[0].1), 45_000.0 / 30.0, "the first keyframe after the resume");
    assert!(pictures.iter().all(|(at, _)| *at >= heard_from));

    let lane = LaneOrder { from, ..b.order(LaneKind::Audio, Some(&sound), None) };
    b.start(&lane);
    sound.push(&tone(150));
    sound.settle();
    b.engine.finish_lane(&lane.run);
    let told = b.until_end();
    let (first, _) = heard(&b.joined(&told.segments));
    assert!((heard_from - 0.0065..heard_from + 0.025).contains(&first), "{first} and {heard_from}");
}

/// Nobody sends: then the pause is over when nothing can be under way any more, and not before.
#[test]
fn a_lane_that_hears_nothing_ends_soon_after_the_pause() {
    let mut b = mixing::site();
    let ann = b.publish(Codec::Opus);
    let order = b.order(LaneKind::Audio, Some(&ann), None);
    b.start(&order);
    let until = b.clock.now();
    b.engine.pause_lane(&order.run, until);
    let told = b.until_end();
    assert_eq!((told.end, told.segments.len()), (Some(LaneEnd::Finished), 0));
    assert!(Instant::now() >= b.clock.instant(until) + Duration::from_millis(1300));
}

/// The mixed lane works behind the clock: the pause comes long before it has mixed what was captured until then.
#[test]
fn a_mix_shows_and_plays_nothing_of_a_private_stretch_and_all_that_was_before_it() {
    let mut play = Play::new();
    let picture = play.track(Codec::H264, greys(105));
    let sound = play.track(Codec::Opus, tone(180));
    let person = guest("user1", Some(picture), Some(sound));
    let scene = scene_for(&Layout::default(), SMALL, &[&person]);
    let video = VideoParams { size: SMALL, fps: 30, bitrate: 2_000_000, gop: 2 };
    let mono = AudioParams { rate: 48_000, channels: 1, bitrate: 128_000 };
    let order = mixing::order(&play.site, LaneKind::AudioVideo, scene, video, mono);
    play.start(vec![order.clone()]);
    play.until(710);
    let paused = play.site.clock.now();
    play.site.engine.pause_lane(&order.run, paused);
    let first = play.site.until_end();
    play.until(2_500);
    // what came meanwhile is kept by nobody
    let resumed = play.site.clock.now();
    let again = LaneOrder { from: resumed, run: LaneRun { run: 1, ..order.run.clone() }, ..order };
    play.site.start(&again);
    play.end_track(picture);
    play.end_track(sound);
    play.site.engine.finish_lane(&again.run);
    let second = play.site.until_end();

    let ms = |at: MediaTime| (at.0 - BASE) as f64 / MS as f64 - play.lead as f64;
    let (paused, resumed) = (ms(paused), ms(resumed));
    let lead = play.lead as f64;
    let before = play.site.joined(&first.segments);
    let last = captured_ms(brightness(&before).last().expect("there are pictures").1);
    let heard_until = heard(&before).1 * 1000.0 - lead;
    println!("paused at {paused:.1} ms: seen until {last:.1}, heard until {heard_until:.1}");
    assert!(last < paused && last > paused - 2.1 * 1000.0 / 30.0, "{last}");
    // the limiter keeps some milliseconds to itself
    assert!(heard_until <= paused && heard_until > paused - 40.0, "{heard_until}");
    assert_eq!(first.end, Some(LaneEnd::Finished));

    let after = play.site.joined(&second.segments);
    let seen = brightness(&after);
    let from = captured_ms(seen.iter().find(|(_, grey)| luma(*grey) >= DARKEST - 2.0).expect("there are pictures").1);
    let heard_from = heard(&after).0 * 1000.0 - lead;
    println!("resumed at {resumed:.1} ms: seen from {from:.1}, heard from {heard_from:.1}");
    assert!(from >= resumed && heard_from >= resumed - 7.0, "{from} {heard_from}");
    // the last picture stands when its publisher has gone
    for (at, grey) in seen.iter().filter(|(_, grey)| luma(*grey) >= DARKEST - 2.0 && captured_ms(*grey) < 3_400.0) {
        let behind = at * 1000.0 - lead - captured_ms(*grey);
        assert!(behind.abs() < 40.0, "a picture of {} ms is shown at {at}", captured_ms(*grey));
    }
}

/// Sound and picture are in step before the pause and after it, on one line of time.
#[test]
fn flash_and_beep_are_together_after_a_pause() {
    let mut b = Site::new();
    let (sound, picture) = (b.publish(Codec::Opus), b.publish(Codec::H264));
    let (heard, seen) = (later(beeps(9), 500), later(flashes(9, X264), 500));
    let order = b.order(LaneKind::AudioVideo, Some(&sound), Some(&picture));
    let (until, from) = (MediaTime(BASE + 4_000 * MS), MediaTime(BASE + 6_000 * MS));
    let mut offsets = Vec::new();
    for (run, part) in [(0, 0..5), (1, 5..9)] {
        let order = LaneOrder { from: if run == 0 { MediaTime(0) } else { from }, ..order.clone() };
        let order = LaneOrder { run: LaneRun { run, ..order.run.clone() }, ..order };
        b.start(&order);
        for second in part {
            sound.push(&heard[second * 50..(second + 1) * 50]);
            picture.push(&seen[second * 30..(second + 1) * 30]);
            sound.settle();
            picture.settle();
            if second == 2 {
                b.engine.pause_lane(&order.run, until);
            }
        }
        b.engine.finish_lane(&order.run);
        let told = b.until_end();
        let joined = b.joined(&told.segments);
        let (tones, flashes) = (tone_starts(&joined), flash_starts(&joined));
        println!("run {run}: flashes {flashes:.3?}, beeps {tones:.3?}");
        let expected: &[f64] = if run == 0 { &[0.5, 1.5, 2.5, 3.5] } else { &[6.5, 7.5, 8.5] };
        assert_eq!((flashes.len(), tones.len()), (expected.len(), expected.len()));
        for ((flash, tone), wanted) in flashes.iter().zip(&tones).zip(expected) {
            assert!((flash - wanted).abs() < 0.040 && (tone - wanted).abs() < 0.040, "{flash} {tone} {wanted}");
            offsets.push((tone - flash) * 1000.0);
        }
    }
    assert!(offsets.iter().all(|ms| ms.abs() < 10.0), "{offsets:?}");
}
