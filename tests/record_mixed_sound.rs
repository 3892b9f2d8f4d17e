//! The sound of a mixed recording: in step with the pictures, without clicks, holes or clipping, in the form asked for.

mod mixing;
mod recording;

use std::path::Path;
use std::process::Command;

use holdfast::media::LaneOrder;
use holdfast::model::layout::Scene;
use holdfast::model::mix::{AudioParams, Layout, Size, VideoParams};
use holdfast::model::{Codec, LaneKind};
use mixing::play::{Guest, Play, assert_sound_steady, guest, scene_for};
use mixing::{Film, H264, SIZE, badge, order, video};
use recording::{
    BASE, Frame, MS, assert_plays_alone, beeps, flashes, packets, packets_of, sound_of, stamped, streams, times,
    tone_starts,
};

const FLASHES: &str = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 ! rtph264pay pt=96 mtu=1200";

/// Sound that is `wave(sample)` (−1 … 1) for so many packets of 20 ms; Opus, mono.
fn tone(packets: u64, bitrate: u32, wave: impl Fn(u64) -> f64) -> Vec<Frame> {
    let sample = |n: u64| ((wave(n) * 32_767.0).round() as i16).to_le_bytes();
    // the encoder hears more than is sent: its last packet has the click of a sound that is cut off
    let raw = (0..packets + 3).map(|n| (n * 20 * MS, (n * 960..(n + 1) * 960).flat_map(sample).collect()));
    let caps = "audio/x-raw,format=S16LE,layout=interleaved,rate=48000,channels=1";
    let coder = format!("opusenc bitrate={bitrate} audio-type=restricted-lowdelay ! rtpopuspay pt=96");
    let mut frames = packets_of(&format!("appsrc name=in format=time caps={caps} ! {coder}"), raw.collect(), 0);
    frames.truncate(packets as usize);
    frames
}

fn sine(hertz: f64, loud: f64) -> impl Fn(u64) -> f64 {
    move |n| (n as f64 / 48_000.0 * hertz * std::f64::consts::TAU).sin() * loud
}

/// A clock that differs: stamps step by so many millionths more.
fn drifting(frames: Vec<Frame>, ppm: i64) -> Vec<Frame> {
    stamped(frames, |_, at| at.wrapping_add_signed((at - BASE) as i64 * ppm / 1_000_000))
}

fn mean_ms(pairs: &[(f64, f64)]) -> f64 {
    pairs.iter().map(|(flash, tone)| (tone - flash) * 1_000.0).sum::<f64>() / pairs.len() as f64
}

/// Each flash with the tone nearest to it.
fn paired(flashes: &[f64], tones: &[f64]) -> Vec<(f64, f64)> {
    let near = |flash: &f64| tones.iter().copied().min_by(|a, b| (a - flash).abs().total_cmp(&(b - flash).abs()));
    flashes.iter().map(|flash| (*flash, near(flash).expect("there are tones"))).collect()
}

/// When a part of the picture turns white, seconds on the file's line.
fn flash_times(film: &Film, part: holdfast::model::mix::Rect) -> Vec<f64> {
    let light: Vec<(f64, f64)> = film.pictures.iter().map(|(at, p)| (*at, film.mean(p, part)[0])).collect();
    let first = light.first().filter(|first| first.1 > 128.0).map(|first| first.0);
    let turned = light.windows(2).filter(|pair| pair[0].1 < 128.0 && pair[1].1 > 128.0).map(|pair| pair[1].0);
    first.into_iter().chain(turned).collect()
}

/// Two whose clocks drift apart, ten times as much as the issue asks, so that a short recording shows it: both stay in
/// step, each with themselves.
#[test]
fn two_whose_clocks_drift_apart_stay_in_step() {
    let mut play = Play::new();
    let people: Vec<Guest> = [(1_000, 0), (-1_000, 500)]
        .into_iter()
        .map(|(ppm, ms)| {
            let made = |frames| recording::later(drifting(frames, ppm), ms);
            let picture = play.track(Codec::H264, made(flashes(10, FLASHES)));
            let sound = play.track(Codec::Opus, made(beeps(10)));
            guest(&format!("drifts{ms}"), Some(picture), Some(sound))
        })
        .collect();
    let size = Size { width: 320, height: 180 };
    let scene = scene_for(&Layout::default(), size, &people.iter().collect::<Vec<_>>());
    let video = VideoParams { size, fps: 30, bitrate: 500_000, gop: 2 };
    let order = lane(&play, 0, LaneKind::AudioVideo, &scene, video, AudioParams::default());
    play.start(vec![order]);
    play.until(9_800);
    let told = play.finish();

    let film = play.film(&told, size, 30);
    let tones = tone_starts(&play.joined(&told));
    for (n, tile) in scene.tiles.iter().enumerate() {
        let flashes = flash_times(&film, tile.rect);
        assert!((9..=10).contains(&flashes.len()), "{flashes:?}");
        let pairs = paired(&flashes, &tones);
        let offset = mean_ms(&pairs);
        println!("publisher {n}: beep after flash {offset:.1} ms in the mean, of {pairs:.3?}");
        assert!(offset.abs() < 40.0, "{offset:.1} ms: {pairs:.3?}");
        // and beside the box's own clock, to what a picture of 30 a second can show
        let drift = if n == 0 { 1.001 } else { 0.999 };
        for (k, (flash, tone)) in pairs.iter().enumerate() {
            let wanted = (play.lead as f64 + if n == 0 { 0.0 } else { 500.0 }) / 1_000.0 + k as f64 * drift;
            assert!((flash - wanted).abs() < 0.020, "flash {k}: {flash} instead of {wanted}");
            // the first one begins before the mix does
            assert!(k == 0 || (tone - wanted).abs() < 0.010, "tone {k}: {tone} instead of {wanted}");
        }
    }
}

/// What is measured sample by sample has one channel: ffmpeg adds two up to more than either.
const FINE: AudioParams = AudioParams { rate: 48_000, channels: 1, bitrate: 128_000 };

fn lane(play: &Play, run: u32, kind: LaneKind, scene: &Scene, video: VideoParams, audio: AudioParams) -> LaneOrder {
    let mut order = order(&play.site, kind, scene.clone(), video, audio);
    order.run.run = run;
    order
}

/// The line of a talker is held up for longer than the mix waits, and loses nothing: what comes too late is not heard, and
/// what comes after it is where it was said.
#[test]
fn whose_line_was_held_up_is_in_step_again() {
    let mut play = Play::new();
    let picture = play.track(Codec::H264, flashes(9, FLASHES));
    let sound = play.track(Codec::Opus, beeps(9));
    play.stall(sound, 1_700, 5_700);
    let person = guest("user1", Some(picture), Some(sound));
    let size = Size { width: 160, height: 120 };
    let scene = scene_for(&Layout::default(), size, &[&person]);
    let video = VideoParams { size, fps: 15, bitrate: 200_000, gop: 2 };
    let order = lane(&play, 0, LaneKind::AudioVideo, &scene, video, AudioParams::default());
    play.start(vec![order]);
    play.until(8_700);
    let told = play.finish();
    let tones = tone_starts(&play.joined(&told));
    let wanted = |k: u32| play.lead as f64 / 1_000.0 + f64::from(k);
    // of the fifth second the mix may have come to any part
    let after: Vec<f64> = tones.iter().copied().filter(|at| *at > wanted(5) + 0.5).collect();
    assert_eq!(after.len(), 3, "{tones:?}");
    for (k, tone) in (6..).zip(&after) {
        assert!((tone - wanted(k)).abs() < 0.010, "tone {k}: {tone} instead of {}", wanted(k));
    }
}

/// Who is not to be heard for a moment is not heard in it, though the scenes before and after it need the voice.
#[test]
fn who_is_left_out_for_a_moment_is_not_heard_in_it() {
    let mut play = Play::new();
    let sound = play.track(Codec::Opus, tone(300, 96_000, sine(440.0, 0.5)));
    let person = guest("user1", None, Some(sound));
    let size = Size { width: 160, height: 120 };
    let scene = scene_for(&Layout::default(), size, &[&person]);
    let order = lane(&play, 0, LaneKind::Audio, &scene, video(15), FINE);
    play.start(vec![order]);
    play.until(2_000);
    let out = play.change(Scene { sounds: Vec::new(), ..scene.clone() });
    play.until(2_800);
    let back = play.change(scene);
    play.until(5_500);
    let told = play.finish();
    let (start, samples) = sound_of(&play.joined(&told));
    // some 15 ms around a step of the mix, and what the encoder smears
    let loudest = |from: f64, until: f64| {
        let at = |ms: f64| (((play.lead as f64 + ms) / 1_000.0 - start) * 48_000.0) as usize;
        samples[at(from)..at(until)].iter().fold(0.0_f32, |most, sample| most.max(sample.abs()))
    };
    assert!(loudest(out.0 - 600.0, out.0 - 100.0) > 0.4, "it was heard before");
    let between = loudest(out.1 + 200.0, back.0 - 100.0);
    assert!(between < 0.01, "{between} is heard of who is left out");
    assert!(loudest(back.1 + 200.0, back.1 + 900.0) > 0.4, "and it was heard again");
}

#[test]
fn every_form_of_sound_is_what_was_asked_for_and_in_step() {
    let mut play = Play::new();
    let picture = play.track(Codec::H264, flashes(5, FLASHES));
    let sound = play.track(Codec::Opus, beeps(5));
    let person = guest("user1", Some(picture), Some(sound));
    let size = Size { width: 160, height: 120 };
    let scene = scene_for(&Layout::default(), size, &[&person]);
    let mut forms = Vec::new();
    for rate in [48_000, 44_100, 16_000] {
        for channels in [1, 2] {
            forms.push(AudioParams { rate, channels, bitrate: 48_000 });
        }
    }
    let video = VideoParams { size, fps: 30, bitrate: 200_000, gop: 2 };
    let orders = (0..)
        .zip(&forms)
        .map(|(run, form)| lane(&play, run, LaneKind::AudioVideo, &scene, video.clone(), form.clone()));
    let orders = orders.collect();
    play.start(orders);
    play.until(4_600);
    let told = play.finish_all();
    for (told, form) in told.iter().zip(&forms) {
        for segment in &told.segments {
            assert_plays_alone(&play.site.path(segment));
        }
        let film = play.film(told, size, 30);
        let joined = play.joined(told);
        assert_eq!(streams(&joined), ["h264,160,120".to_owned(), format!("aac,{},{}", form.rate, form.channels)]);
        let (seen, heard) = (times(&joined, "v"), times(&joined, "a"));
        assert_sound_steady(&heard, form.rate);
        let (first, last) = (heard[0].0 - seen[0].0, heard[heard.len() - 1].0 - seen[seen.len() - 1].0);
        assert!((0.0..0.070).contains(&first), "sound begins with the pictures: {first}");
        assert!(last.abs() < 0.150, "and ends with them: {last}");
        let flashes = flash_times(&film, holdfast::model::mix::Rect { x: 8, y: 8, width: 144, height: 104 });
        let pairs = paired(&flashes, &tone_starts(&joined));
        let offset = mean_ms(&pairs);
        println!("{form:?}: beep after flash {offset:.1} ms");
        assert!(pairs.len() == 5 && offset.abs() < 20.0, "{form:?}: {offset:.1} ms of {pairs:.3?}");
    }
}

/// Bytes of each packet of a stream.
fn sizes(path: &Path, stream: &str) -> Vec<usize> {
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", stream, "-show_entries", "packet=size", "-of", "csv=p=0"])
        .arg(path)
        .output()
        .expect("ffprobe runs; apt install ffmpeg");
    let text = String::from_utf8(out.stdout).expect("text");
    text.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect()
}

/// `StreamType` audio: no picture anywhere, cut by time; and the bitrate is about the one asked for.
#[test]
fn sound_alone_has_its_bitrate_and_no_pictures() {
    let mut play = Play::new();
    let noise = packets(
        "audiotestsrc num-buffers=250 samplesperbuffer=960 wave=pink-noise ! audio/x-raw,rate=48000,channels=2 \
         ! opusenc bitrate=256000 ! rtpopuspay pt=96",
        0,
    );
    let sound = play.track(Codec::Opus, noise);
    let scene = scene_for(&Layout::default(), SIZE, &[&guest("user1", None, Some(sound))]);
    let forms: Vec<AudioParams> = [(48_000, 2, 128_000), (48_000, 1, 64_000), (44_100, 2, 64_000), (16_000, 1, 32_000)]
        .into_iter()
        .map(|(rate, channels, bitrate)| AudioParams { rate, channels, bitrate })
        .collect();
    let orders =
        (0..).zip(&forms).map(|(run, form)| lane(&play, run, LaneKind::Audio, &scene, video(15), form.clone()));
    let orders = orders.collect();
    play.start(orders);
    play.until(4_900);
    for (told, form) in play.finish_all().iter().zip(&forms) {
        assert!(told.segments.iter().all(|segment| segment.size.is_none()));
        assert!((4.5..6.5).contains(&told.seconds()), "{}", told.seconds());
        let lengths: Vec<f64> = told.segments.iter().map(|segment| segment.duration.as_secs_f64()).collect();
        assert!(lengths.iter().rev().skip(1).all(|length| (length - 2.0).abs() < 0.07), "{lengths:?}");
        let joined = play.joined(told);
        assert_eq!(streams(&joined), [format!("aac,{},{}", form.rate, form.channels)]);
        assert_sound_steady(&times(&joined, "a"), form.rate);
        let sizes = sizes(&joined, "a");
        let frame = 1024.0 / f64::from(form.rate);
        let middle = &sizes[sizes.len() / 10..sizes.len() * 8 / 10];
        let bits = 8.0 * middle.iter().sum::<usize>() as f64 / (middle.len() as f64 * frame);
        println!("{form:?}: {bits:.0} bits per second");
        let asked = f64::from(form.bitrate);
        assert!((asked * 0.6..asked * 1.3).contains(&bits), "{form:?}: {bits:.0} bits per second");
    }
}

/// The largest step from one sample to the next between two moments, seconds on the file's line.
fn largest_step(start: f64, samples: &[f32], from: f64, to: f64) -> (f64, f32) {
    let at = |second: f64| (((second - start) * 48_000.0) as usize).min(samples.len());
    let part = &samples[at(from)..at(to)];
    assert!(part.len() > 480, "{from} … {to} of {}", samples.len());
    let step = |pair: &[f32]| (pair[1] - pair[0]).abs();
    let (n, pair) = part.windows(2).enumerate().max_by(|a, b| step(a.1).total_cmp(&step(b.1))).expect("not empty");
    (from + n as f64 / 48_000.0, step(pair))
}

/// Whoever comes and goes while they talk, and however: no step in the samples is larger than the tones' own.
#[test]
fn who_enters_or_leaves_in_mid_tone_does_not_click() {
    const LOUD: f64 = 0.2;
    let tones = [313.0, 467.0, 559.0, 401.0];
    let mut play = Play::new();
    let talks = |n: usize, packets| tone(packets, 96_000, sine(tones[n], LOUD));
    // 0 talks on; 1 stops in mid-tone, and goes on after a short hole, a long one, and for ever; 2 comes and goes with
    // the scene while it talks; 3 comes late, and its track ends
    let mut holes = talks(1, 250);
    holes.retain(|frame| {
        let ms = (frame[0].at.0 - BASE) / MS;
        !(300..520).contains(&ms) && !(800..1_700).contains(&ms) && ms < 2_300
    });
    let frames = [talks(0, 250), holes, talks(2, 250), talks(3, 35)];
    let people: Vec<Guest> = (0..)
        .zip(frames)
        .map(|(n, frames)| guest(&format!("user{n}"), None, Some(play.track(Codec::Opus, frames))))
        .collect();
    let tracks: Vec<_> = people.iter().map(|person| person.sound.expect("talks")).collect();
    let scene = |who: &[usize]| {
        let who: Vec<&Guest> = who.iter().map(|n| &people[*n]).collect();
        scene_for(&Layout::default(), SIZE, &who)
    };
    let order = lane(&play, 0, LaneKind::Audio, &scene(&[0, 1]), video(15), FINE);
    play.start_with(vec![order], &tracks[..3]);
    play.until(2_500);
    let entered = play.change(scene(&[0, 1, 2, 3]));
    play.until(3_000);
    let came = play.send(tracks[3]);
    play.until(3_400);
    let left = play.change(scene(&[0, 1, 3]));
    play.end_track(tracks[3]);
    play.until(4_600);
    let told = play.finish();

    let joined = play.joined(&told);
    assert_sound_steady(&times(&joined, "a"), 48_000);
    let (start, samples) = sound_of(&joined);
    let line = |ms: f64| (play.lead as f64 + ms) / 1_000.0;
    let own = |who: &[usize]| who.iter().map(|n| LOUD * tones[*n] * std::f64::consts::TAU / 48_000.0).sum::<f64>();
    // two codecs are between, which add some noise
    let bound = |who: &[usize]| (own(who) * 1.1 + 0.006) as f32;
    let quiet = |from: f64, to: f64, who: &[usize], what: &str| {
        let (at, step) = largest_step(start, &samples, line(from), line(to));
        println!("{what}: {step:.4} at {at:.3} s, bound {:.4}", bound(who));
        assert!(step < bound(who), "{what}: a step of {step} at {at} s; {}", bound(who));
    };
    quiet(100.0, 2_250.0, &[0, 1], "holes");
    quiet(2_250.0, entered.0 - 110.0, &[0, 1], "an end in mid-tone");
    quiet(entered.0 - 110.0, entered.1 + 250.0, &[0, 2], "the scene takes somebody in");
    quiet(entered.1 + 250.0, left.0 - 110.0, &[0, 2, 3], "somebody begins to talk");
    quiet(left.0 - 110.0, left.1 + 250.0, &[0, 2, 3], "the scene leaves somebody out");
    quiet(came, came + 1_000.0, &[0, 2, 3], "a track ends in mid-tone");
    quiet(came + 1_000.0, 4_400.0, &[0], "one alone");
    // and all of them were heard
    let power = |from: f64, to: f64, hertz: f64| {
        let at = |ms: f64| ((line(ms) - start) * 48_000.0) as usize;
        let part = &samples[at(from)..at(to)];
        let (mut re, mut im) = (0.0, 0.0);
        for (n, sample) in part.iter().enumerate() {
            let turn = n as f64 / 48_000.0 * hertz * std::f64::consts::TAU;
            re += f64::from(*sample) * turn.cos();
            im += f64::from(*sample) * turn.sin();
        }
        (re * re + im * im).sqrt() * 2.0 / part.len() as f64
    };
    let heard = |from: f64, to: f64| [0, 1, 2, 3].map(|n| power(from, to, tones[n]) > LOUD / 2.0);
    assert_eq!(heard(100.0, 290.0), [true, true, false, false]);
    assert_eq!(heard(540.0, 780.0), [true, true, false, false]);
    assert_eq!(heard(1_720.0, 2_280.0), [true, true, false, false]);
    assert_eq!(heard(900.0, 1_600.0), [true, false, false, false]);
    assert_eq!(heard(entered.1 + 120.0, came.min(left.0) - 20.0), [true, false, true, false]);
    assert_eq!(heard(left.1 + 120.0, came + 680.0), [true, false, false, true]);
    assert_eq!(heard(came + 800.0, 4_400.0), [true, false, false, false]);
}

/// 25 who shout the same at once, and one who is heard alone before and after.
#[test]
fn twenty_five_at_full_scale_do_not_clip() {
    let mut play = Play::new();
    // one packet before the others is alone for half a second
    let shout = tone(100, 128_000, sine(440.0, 0.99));
    let alone = tone(200, 128_000, sine(440.0, 0.1));
    let first = play.track(Codec::Opus, alone);
    let mut people = vec![guest("first", None, Some(first))];
    for n in 0..24 {
        let sound = play.track(Codec::Opus, recording::later(shout.clone(), 1_000));
        people.push(guest(&format!("user{n}"), None, Some(sound)));
    }
    let scene = scene_for(&Layout::default(), SIZE, &people.iter().collect::<Vec<_>>());
    assert_eq!(scene.sounds.len(), 25);
    let order = lane(&play, 0, LaneKind::Audio, &scene, video(15), FINE);
    play.start(vec![order]);
    play.until(3_900);
    let told = play.finish();
    let (start, samples) = sound_of(&play.joined(&told));
    let loudest = |from: f64, to: f64| {
        let at = |ms: f64| (((play.lead as f64 + ms) / 1_000.0 - start) * 48_000.0) as usize;
        samples[at(from)..at(to)].iter().fold(0.0_f32, |most, sample| most.max(sample.abs()))
    };
    let all = loudest(0.0, 3_800.0);
    println!("the loudest sample is {all:.4}");
    // as whole numbers: below 32767
    assert!(all < 32_766.0 / 32_768.0, "{all}");
    assert!(loudest(1_200.0, 2_900.0) > 0.8, "what is loud stays loud");
    let (before, after) = (loudest(200.0, 900.0), loudest(3_600.0, 3_800.0));
    assert!((0.08..0.12).contains(&before) && (0.08..0.12).contains(&after), "{before} {after}: the gain comes back");
    let (at, step) =
        largest_step(start, &samples, (play.lead as f64 + 100.0) / 1_000.0, play.lead as f64 / 1_000.0 + 3.8);
    let own = 440.0 * std::f64::consts::TAU / 48_000.0;
    assert!(f64::from(step) < own * 1.5, "a step of {step} at {at} s; a tone of full scale has {own}");
}

#[test]
fn silence_is_written_when_nobody_talks() {
    let mut play = Play::new();
    let picture = play.track(Codec::H264, badge(1, (320, 180), 90, H264));
    let mute = play.track(Codec::Opus, Vec::new());
    let (seen, mute) = (guest("seen", Some(picture), None), guest("mute", None, Some(mute)));
    let with_mute = scene_for(&Layout::default(), SIZE, &[&seen, &mute]);
    let order = play.order(scene_for(&Layout::default(), SIZE, &[&seen]));
    play.start(vec![order]);
    play.until(1_000);
    play.change(with_mute);
    play.until(2_800);
    let told = play.finish();
    let joined = play.joined(&told);
    assert_eq!(streams(&joined), ["h264,640,360", "aac,48000,2"]);
    let (pictures, sounds) = (times(&joined, "v"), times(&joined, "a"));
    assert_sound_steady(&sounds, 48_000);
    let ends = [pictures[0].0 - sounds[0].0, pictures[pictures.len() - 1].0 - sounds[sounds.len() - 1].0];
    assert!(ends[0].abs() < 0.030 && ends[1].abs() < 0.100, "as long as the pictures: {ends:?}");
    let (_, samples) = sound_of(&joined);
    assert!(samples.len() > 2 * 48_000 && samples.iter().all(|sample| sample.abs() < 0.001));
}
