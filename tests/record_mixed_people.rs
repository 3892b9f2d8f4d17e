//! People come, go, stop and change what they send: a mixed recording shows it at once and is never cut for it.

mod mixing;
mod recording;

use holdfast::model::Codec;
use holdfast::model::mix::{Fit, Layout, LayoutMode, Named};
use holdfast::model::{MediaId, UserId};
use mixing::play::{Guest, Play, guest, scene_for};
use mixing::{H264, SIZE, badge, near, video};
use recording::{Frame, av1_in_rtp, go_on_after, later};

const SMALL: (u32, u32) = (320, 180);
const VP8: &str = "vp8enc deadline=1 keyframe-max-dist=30 target-bitrate=600000 ! rtpvp8pay pt=96";
const VP9: &str = "vp9enc deadline=1 cpu-used=8 keyframe-max-dist=30 target-bitrate=600000 ! rtpvp9pay pt=96";
const AV1: &str = "av1enc cpu-used=9 usage-profile=realtime lag-in-frames=0 keyframe-max-dist=30 \
    ! av1parse ! video/x-av1,stream-format=obu-stream,alignment=tu";

/// One picture of a lane of 15 a second, ms, and something for rounding.
const STEP: f64 = 1000.0 / 15.0 + 1.0;
/// The issue: the picture follows within half a second.
const FOLLOWS: f64 = 500.0;

fn badges(n: usize, frames: u64) -> Vec<Frame> {
    badge(n, SMALL, frames, H264)
}

/// Small ones that fill their places whole, whatever the shape, so that all of a badge can be read.
fn stretched(mode: LayoutMode) -> Layout {
    Layout { mode, fit: Fit::Stretch, ..Layout::default() }
}

fn named(name: &str) -> Option<Named> {
    Some(Named { user: UserId::parse(name).expect("an id"), media: MediaId::Main })
}

#[test]
fn people_enter_stop_and_leave() {
    let mut play = Play::new();
    let people: Vec<Guest> = (1..=4)
        .map(|n| {
            let frames = badges(n, if n == 2 { 30 } else { 120 });
            guest(&format!("user{n}"), Some(play.track(Codec::H264, frames)), None)
        })
        .collect();
    let scene = |who: &[usize]| {
        let who: Vec<&Guest> = who.iter().map(|n| &people[n - 1]).collect();
        scene_for(&Layout::default(), SIZE, &who)
    };
    let tracks: Vec<_> = people.iter().map(|person| person.picture.expect("sends")).collect();
    let order = play.pictures_of(scene(&[1, 2, 3]), video(15));
    play.start_with(vec![order], &tracks[..3]);
    play.until(1_200);
    let entered = play.change(scene(&[1, 2, 3, 4]));
    let sent = play.send(tracks[3]);
    play.until(2_400);
    let left = play.change(scene(&[2, 3, 4]));
    play.end_track(tracks[1]);
    play.until(3_400);
    let told = play.finish();

    let film = play.film(&told, SIZE, 15);
    let four = scene(&[1, 2, 3, 4]);
    let shown = |from, to| {
        let pictures = play.between(&film, from, to).into_iter();
        pictures.map(|(at, picture)| (at, film.badges(picture, &four))).collect::<Vec<_>>()
    };
    for (at, seen) in shown(0.0, entered.0) {
        assert_eq!(seen, [Some(1), Some(2), Some(3), None], "at {at} ms");
    }
    // who has stopped sending stands there still
    for (at, seen) in shown(entered.1 + STEP, left.0) {
        assert_eq!(seen[..3], [Some(1), Some(2), Some(3)], "at {at} ms");
        assert!(seen[3] == Some(4) || (seen[3].is_none() && at < sent + FOLLOWS), "at {at} ms: {seen:?}");
    }
    for (at, seen) in shown(left.1 + STEP, 3_300.0) {
        assert_eq!(seen, [Some(2), Some(3), Some(4), None], "at {at} ms");
    }
}

/// `FillType` black: a picture that has stopped is black a while later, and nothing else is; when it goes on, so does
/// what is shown, and not before.
#[test]
fn who_stops_is_black_after_the_gap_until_they_go_on() {
    let mut play = Play::new();
    let mut stops = badges(2, 30);
    let mut more = later(badges(2, 60), 3_300);
    go_on_after(&stops, &mut more);
    stops.extend(more);
    let goes = play.track(Codec::H264, badges(1, 150));
    let stops = play.track(Codec::H264, stops);
    let (one, two) = (guest("one", Some(goes), None), guest("two", Some(stops), None));
    let scene = scene_for(&stretched(LayoutMode::Grid), SIZE, &[&one, &two]);
    let mut order = play.pictures_of(scene.clone(), video(15));
    order.fill_black = true;
    play.start(vec![order]);
    play.until(4_500);
    let told = play.finish();

    let film = play.film(&told, SIZE, 15);
    for (at, picture) in play.between(&film, 0.0, 4_400.0) {
        let tile = scene.tiles[1].rect;
        let black = near(film.mean(picture, tile), [16, 128, 128], 6.0);
        let seen = film.badges(picture, &scene);
        assert_eq!(seen[0], Some(1), "at {at} ms");
        // the last one came at 967 ms
        if at < 1_967.0 {
            assert_eq!(seen[1], Some(2), "at {at} ms");
        } else if (1_968.0 + STEP..3_300.0 - STEP).contains(&at) {
            assert!(black, "at {at} ms: {seen:?}");
        } else if at > 3_300.0 {
            assert_eq!(seen[1], Some(2), "at {at} ms");
        }
    }
}

#[test]
fn sizes_change_in_mid_stream_and_every_codec_is_shown() {
    let mut play = Play::new();
    let mut first = badges(1, 40);
    for (n, size) in [(640, 360), (160, 120)].into_iter().enumerate() {
        let mut other = later(badge(1, size, 40, H264), 40 * 1_000 / 30 * (n as u64 + 1));
        go_on_after(&first, &mut other);
        first.extend(other);
    }
    let grows = play.track(Codec::H264, first);
    let vp8 = play.track(Codec::Vp8, badge(2, SMALL, 110, VP8));
    let vp9 = play.track(Codec::Vp9, badge(3, SMALL, 110, VP9));
    let av1 = play.track(Codec::Av1, av1_in_rtp(badge(4, SMALL, 110, AV1)));
    let switched = play.track(Codec::Vp8, badge(7, SMALL, 60, VP8));
    let with = |third| {
        let people: Vec<Guest> = [grows, vp8, third, av1]
            .into_iter()
            .enumerate()
            .map(|(n, track)| guest(&format!("user{n}"), Some(track), None))
            .collect();
        scene_for(&stretched(LayoutMode::Grid), SIZE, &people.iter().collect::<Vec<_>>())
    };
    let order = play.pictures_of(with(vp9), video(15));
    play.start_with(vec![order], &[grows, vp8, vp9, av1]);
    play.until(2_000);
    let switch = play.change(with(switched));
    let sent = play.send(switched);
    play.end_track(vp9);
    play.until(3_500);
    let told = play.finish();

    let film = play.film(&told, SIZE, 15);
    for (at, picture) in play.between(&film, 0.0, 3_400.0) {
        let seen = film.badges(picture, &with(vp9));
        let third = seen[2];
        assert_eq!([seen[0], seen[1], seen[3]], [Some(1), Some(2), Some(4)], "at {at} ms");
        if at < switch.0 {
            assert_eq!(third, Some(3), "at {at} ms");
        } else if at > switch.1 + STEP {
            assert!(third == Some(7) || (third.is_none() && at < sent + FOLLOWS), "at {at} ms: {third:?}");
        }
    }
}

#[test]
fn the_scene_changes_between_all_templates_without_a_cut() {
    let mut play = Play::new();
    let people: Vec<Guest> =
        (1..=4).map(|n| guest(&format!("user{n}"), Some(play.track(Codec::H264, badges(n, 150))), None)).collect();
    let people: Vec<&Guest> = people.iter().collect();
    let layouts = [
        LayoutMode::Grid,
        LayoutMode::Floating { large: None },
        LayoutMode::Floating { large: named("user3") },
        LayoutMode::ScreenShare { large: named("user4"), large_on_the_right: false },
        LayoutMode::ScreenShare { large: named("user2"), large_on_the_right: true },
        LayoutMode::ScreenShare { large: None, large_on_the_right: false },
    ];
    let scenes: Vec<_> = layouts.into_iter().map(|mode| scene_for(&stretched(mode), SIZE, &people)).collect();
    let order = play.pictures_of(scenes[0].clone(), video(15));
    play.start(vec![order]);
    let mut changes = vec![(0.0, 0.0)];
    for (n, scene) in scenes.iter().enumerate().skip(1) {
        play.until(600 * n as u64);
        changes.push(play.change(scene.clone()));
    }
    play.until(600 * scenes.len() as u64);
    changes.push((play.now(), 0.0));
    let told = play.finish();

    let film = play.film(&told, SIZE, 15);
    for (n, scene) in scenes.iter().enumerate() {
        let numbers: Vec<Option<usize>> = (scene.tiles.iter())
            .map(|tile| people.iter().position(|person| person.picture == tile.track).map(|at| at + 1))
            .collect();
        assert!(numbers.len() == 4 && numbers.iter().all(Option::is_some), "{numbers:?}");
        let from = changes[n].1 + if n == 0 { 0.0 } else { STEP };
        for (at, picture) in play.between(&film, from, changes[n + 1].0) {
            assert_eq!(film.badges(picture, scene), numbers, "scene {n} at {at} ms");
        }
    }
}
