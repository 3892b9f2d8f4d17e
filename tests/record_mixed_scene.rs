//! What a scene shows beside the pictures themselves: fits, layers, transparency, images, watermarks. All of it is read
//! back from the recording, at the places that the layout says.

mod mixing;
mod recording;

use holdfast::media::stills::{Still, Stills};
use holdfast::model::mix::{Colour, Fit, Layout, LayoutMode, Pane, Place, Rect, Watermark};
use holdfast::model::{Codec, MediaId, UserId};
use mixing::play::{Guest, Play, guest, scene_for, whole};
use mixing::{COLOURS, Film, H264, SIZE, badge, near, video};
use recording::Frame;

const WIDE: (u32, u32) = (320, 180);
const STEP: f64 = 1000.0 / 15.0 + 1.0;
const BLACK: [u8; 3] = [16, 128, 128];
/// Colours that no badge has, as RGB.
const GROUND: [u8; 3] = [128, 128, 0];
const GREY: [u8; 3] = [128, 128, 128];
const ROSE: [u8; 3] = [255, 128, 128];
const SKY: [u8; 3] = [64, 160, 255];

/// BT.601 in the limited range: what a canvas of 360 lines has.
fn yuv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = [f64::from(r), f64::from(g), f64::from(b)];
    let y = 0.299 * r + 0.587 * g + 0.114 * b;
    let (u, v) = ((b - y) / 1.772, (r - y) / 1.402);
    [y * 219.0 / 255.0 + 16.0, u * 224.0 / 255.0 + 128.0, v * 224.0 / 255.0 + 128.0].map(|n| n.round() as u8)
}

fn badges(n: usize) -> Vec<Frame> {
    badge(n, WIDE, 150, H264)
}

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect { x, y, width, height }
}

fn pane(at: Rect, user: Option<&str>) -> Pane {
    let user = user.map(|user| UserId::parse(user).expect("an id"));
    Pane { rect: at, user, media: MediaId::Main, alpha: 0, fit: Fit::Stretch, layer: 0, image: None }
}

fn custom(panes: Vec<Pane>) -> Layout {
    Layout { mode: LayoutMode::Custom(panes), background: colour(GROUND), ..Layout::default() }
}

fn colour([r, g, b]: [u8; 3]) -> Colour {
    Colour(u32::from_be_bytes([0, r, g, b]))
}

/// An image of one colour.
fn plain(width: u32, height: u32, [r, g, b]: [u8; 3]) -> Still {
    Still { width, height, rgba: [r, g, b, 255].repeat((width * height) as usize) }
}

fn assert_colour(film: &Film, picture: &[u8], at: Rect, colour: [u8; 3], what: &str) {
    let found = film.mean(picture, at);
    assert!(near(found, colour, 5.0), "{what}: {found:.0?} instead of {colour:?} at {at:?}");
}

fn mixed(under: [u8; 3], over: [u8; 3], alpha: u8) -> [u8; 3] {
    let part = f64::from(alpha) / 255.0;
    [0, 1, 2].map(|n| (f64::from(under[n]) * part + f64::from(over[n]) * (1.0 - part)).round() as u8)
}

/// Four people, and the play of them.
fn four(stills: Stills) -> (Play, Vec<Guest>) {
    let mut play = Play::showing(stills);
    let people = (1..=4).map(|n| guest(&format!("user{n}"), Some(play.track(Codec::H264, badges(n))), None)).collect();
    (play, people)
}

#[test]
fn fits_layers_and_transparency_of_a_custom_layout() {
    let stills = Stills::default();
    stills.put("grey", plain(64, 64, GREY)).expect("room");
    let (mut play, people) = four(stills);
    let people: Vec<&Guest> = people.iter().collect();
    // squares for what fits, at odd places; then one over another
    let square = |x: u32| rect(x, 11, 121, 121);
    let kept = |x: u32| rect(x, 12, 120, 120);
    let fitted = custom(vec![
        Pane { fit: Fit::Letterbox, image: Some("grey".into()), ..pane(square(11), Some("user1")) },
        Pane { fit: Fit::Smart, ..pane(square(151), Some("user2")) },
        Pane { fit: Fit::Crop, ..pane(square(291), Some("user3")) },
        pane(square(431), Some("user4")),
    ]);
    let (back, front) = (rect(0, 0, 320, 180), rect(160, 90, 320, 180));
    let layered = |front_layer, alpha| {
        custom(vec![
            Pane { layer: front_layer, alpha, ..pane(front, Some("user2")) },
            pane(back, Some("user1")),
            Pane { layer: -7, ..pane(rect(320, 180, 320, 180), None) },
        ])
    };
    let layouts = [fitted, layered(1, 0), layered(-1, 0), layered(1, 102), layered(1, 255)];
    let scenes: Vec<_> = layouts.iter().map(|layout| scene_for(layout, SIZE, &people)).collect();
    let order = play.pictures_of(scenes[0].clone(), video(15));
    play.start(vec![order]);
    let mut changes = vec![(0.0, 0.0)];
    for (n, scene) in scenes.iter().enumerate().skip(1) {
        play.until(700 * n as u64);
        changes.push(play.change(scene.clone()));
    }
    play.until(700 * scenes.len() as u64);
    changes.push((play.now(), 0.0));
    let told = play.finish();

    let film = play.film(&told, SIZE, 15);
    let shown = |n: usize| {
        let from = changes[n].1 + if n == 0 { 0.0 } else { STEP };
        play.between(&film, from, changes[n + 1].0)
    };
    for (_, picture) in shown(0) {
        let tiles: Vec<Rect> = scenes[0].tiles.iter().map(|tile| tile.rect).collect();
        assert_eq!(tiles, [kept(12), kept(152), kept(292), kept(432)]);
        let fits = [Fit::Letterbox, Fit::Smart, Fit::Crop, Fit::Stretch];
        for (n, (tile, fit)) in tiles.iter().zip(fits).enumerate() {
            assert_eq!(film.fitted(picture, *tile, fit, WIDE), Some(n + 1), "{fit:?}");
        }
        // 120 x 68 in the middle of the square: the pane's own image above and below
        assert_colour(&film, picture, rect(16, 14, 112, 20), yuv(GREY), "beside a letterbox");
        assert_colour(&film, picture, rect(16, 110, 112, 20), yuv(GREY), "beside a letterbox");
        // a fifth of the width is cut off: 120 x 84
        assert_colour(&film, picture, rect(156, 14, 112, 12), yuv(GROUND), "beside a smart crop");
        assert_colour(&film, picture, rect(156, 118, 112, 12), yuv(GROUND), "beside a smart crop");
        assert_colour(&film, picture, rect(296, 14, 112, 20), COLOURS[3], "a crop fills its place");
        assert_colour(&film, picture, rect(436, 14, 112, 12), COLOURS[4], "a stretched one fills its place");
        assert_colour(&film, picture, rect(0, 140, 640, 220), yuv(GROUND), "the rest");
    }
    for (n, number) in [(1, Some(2)), (2, None), (3, None), (4, None)] {
        for (at, picture) in shown(n) {
            // an unnamed pane, far back, is for the next who has none
            assert_colour(&film, picture, rect(484, 300, 150, 50), COLOURS[3], "user3");
            assert_eq!(film.badge(picture, front), number, "scene {n} at {at} ms");
            // left of user2 and above, of user1
            assert_colour(&film, picture, rect(84, 20, 150, 20), COLOURS[1], "user1");
        }
    }
    for (_, picture) in shown(2) {
        assert_eq!(film.badge(picture, back), Some(1), "user1 is in front");
    }
    for (_, picture) in shown(3) {
        // the right of user1's bars is under user2; where neither has bars, both are seen
        let both = rect(250, 120, 60, 24);
        assert_colour(&film, picture, both, mixed(COLOURS[1], COLOURS[2], 102), "user1 through user2");
        assert_colour(
            &film,
            picture,
            rect(330, 100, 140, 24),
            mixed(yuv(GROUND), COLOURS[2], 102),
            "ground through user2",
        );
    }
    for (_, picture) in shown(4) {
        assert_eq!(film.badge(picture, back), Some(1), "user2 is not to be seen");
        assert_colour(&film, picture, rect(330, 10, 300, 160), yuv(GROUND), "nor anything of user2");
    }
}

/// What is seen through stays as much to be seen through, though what it half stands over is painted again and again and it
/// is not.
#[test]
fn a_translucent_picture_that_stands_still_over_one_that_moves_stays_as_it_is() {
    let mut play = Play::new();
    let moves = guest("user1", Some(play.track(Codec::H264, badges(1))), None);
    let stands = guest("user2", Some(play.track(Codec::H264, badge(2, WIDE, 20, H264))), None);
    let layout = custom(vec![
        pane(rect(0, 0, 320, 180), Some("user1")),
        Pane { layer: 1, alpha: 102, ..pane(rect(160, 90, 320, 180), Some("user2")) },
    ]);
    let scene = scene_for(&layout, SIZE, &[&moves, &stands]);
    let order = play.pictures_of(scene, video(15));
    play.start(vec![order]);
    play.until(3_000);
    let told = play.finish();
    let film = play.film(&told, SIZE, 15);
    for (at, picture) in play.between(&film, 1_000.0, 2_900.0) {
        let half = mixed(yuv(GROUND), COLOURS[2], 102);
        assert_colour(&film, picture, rect(330, 100, 140, 24), half, &format!("ground through user2 at {at} ms"));
        let both = rect(250, 120, 60, 24);
        assert_colour(&film, picture, both, mixed(COLOURS[1], COLOURS[2], 102), "user1 through user2");
    }
}

/// Who stands behind another is seen until that one's first picture has come.
#[test]
fn who_is_covered_is_seen_until_there_is_a_picture_that_covers() {
    let mut play = Play::new();
    let behind = play.track(Codec::H264, badges(1));
    let front = play.track(Codec::H264, badges(2));
    let people = [guest("user1", Some(behind), None), guest("user2", Some(front), None)];
    let whole = rect(0, 0, 640, 360);
    let layout = custom(vec![pane(whole, Some("user1")), Pane { layer: 1, ..pane(whole, Some("user2")) }]);
    let scene = scene_for(&layout, SIZE, &[&people[0], &people[1]]);
    assert!(scene.tiles[0].hidden);
    let order = play.pictures_of(scene, video(15));
    play.start_with(vec![order], &[behind]);
    play.until(1_500);
    let from = play.send(front);
    // a picture is asked for by whoever begins to watch, so the first of these is a keyframe
    play.until(4_000);
    let told = play.finish();
    let film = play.film(&told, SIZE, 15);
    for (at, picture) in play.between(&film, 200.0, from) {
        assert_eq!(film.badge(picture, whole), Some(1), "at {at} ms");
    }
    for (at, picture) in play.between(&film, from + 200.0, 3_900.0) {
        assert_eq!(film.badge(picture, whole), Some(2), "at {at} ms");
    }
}

/// Background image, placeholder, a pane's own image, image watermarks with holes: at their places, one of them coming
/// late and one never.
#[test]
fn images_stand_where_they_belong_and_a_missing_one_costs_nothing_else() {
    let stills = Stills::default();
    let put = |url: &str, still| stills.put(url, still).expect("room");
    // the left half of the background is sky, the right half is grey
    let mut ground = plain(64, 36, SKY);
    for (n, pixel) in ground.rgba.chunks_exact_mut(4).enumerate() {
        if n % 64 >= 32 {
            pixel.copy_from_slice(&[128, 128, 128, 255]);
        }
    }
    put("ground", ground);
    put("place", plain(160, 90, ROSE));
    // a ring: its middle is a hole
    let mut ring = plain(40, 40, GROUND);
    for (n, pixel) in ring.rgba.chunks_exact_mut(4).enumerate() {
        let (x, y) = (n % 40, n / 40);
        if (10..30).contains(&x) && (10..30).contains(&y) {
            pixel[3] = 0;
        }
    }
    put("ring", ring);
    let mut play = Play::showing(stills.clone());
    let first = guest("user1", Some(play.track(Codec::H264, badges(1))), None);
    let silent = guest("user2", None, Some(play.track(Codec::Opus, Vec::new())));
    let mark = |url: &str, x, y| Watermark::Image { url: url.into(), rect: rect(x, y, 80, 80) };
    let layout = Layout {
        mode: LayoutMode::Custom(vec![
            pane(rect(0, 0, 320, 180), Some("user1")),
            pane(rect(320, 0, 320, 180), Some("user2")),
            // nobody is there, and nobody will be: held by its own image, which does not come
            Pane { image: Some("never".into()), ..pane(rect(0, 180, 160, 90), Some("absent")) },
            pane(rect(160, 180, 160, 90), Some("absent too")),
        ]),
        background: colour(GROUND),
        background_image: Some(("ground".into(), Fit::Stretch)),
        placeholder: Some("place".into()),
        hold_places: true,
        watermarks: vec![mark("ring", 540, 260), mark("never", 400, 200), mark("late", 330, 270)],
        ..Layout::default()
    };
    let grid = Layout { mode: LayoutMode::Grid, background_image: None, ..layout.clone() };
    let scenes = [&layout, &grid].map(|layout| scene_for(layout, SIZE, &[&first, &silent]));
    let order = play.pictures_of(scenes[0].clone(), video(15));
    play.start(vec![order]);
    play.until(1_000);
    put("late", plain(8, 8, SKY));
    let late = play.now();
    play.until(2_400);
    let changed = play.change(scenes[1].clone());
    play.until(3_200);
    let told = play.finish();

    let film = play.film(&told, SIZE, 15);
    let (sky, rose, grey) = (yuv(SKY), yuv(ROSE), yuv(GREY));
    let watermarks = |picture: &[u8], under: [u8; 3], what: &str| {
        for (x, y) in [(542, 262), (602, 262), (542, 322), (602, 322)] {
            assert_colour(&film, picture, rect(x, y, 16, 16), yuv(GROUND), &format!("{what}: the ring"));
        }
        assert_colour(&film, picture, rect(566, 286, 28, 28), under, &format!("{what}: the hole in the ring"));
        assert_colour(&film, picture, rect(402, 202, 76, 40), under, &format!("{what}: the mark that never came"));
    };
    for (at, picture) in play.between(&film, 0.0, changed.0) {
        assert_eq!(film.badge(picture, rect(0, 0, 320, 180)), Some(1), "at {at} ms");
        assert_colour(&film, picture, rect(326, 6, 308, 168), rose, "the placeholder of who sends sound alone");
        assert_colour(&film, picture, rect(8, 188, 144, 74), sky, "an image that never came shows the background");
        assert_colour(&film, picture, rect(168, 188, 144, 74), rose, "the placeholder holds a place");
        assert_colour(&film, picture, rect(8, 280, 300, 70), sky, "the background's left half");
        watermarks(picture, grey, "custom");
        let mark = rect(336, 276, 68, 68);
        let there = near(film.mean(picture, mark), sky, 5.0);
        if !there {
            assert!(at < late + STEP, "the mark had come at {late} ms and is not there at {at} ms");
            assert_colour(&film, picture, mark, grey, "where the late mark will be");
        }
    }
    for (at, picture) in play.between(&film, changed.1 + STEP, 3_100.0) {
        let tiles: Vec<Rect> = scenes[1].tiles.iter().map(|tile| tile.rect).collect();
        assert_eq!(tiles, [rect(0, 0, 320, 360), rect(320, 0, 320, 360)]);
        assert_eq!(film.fitted(picture, tiles[0], Fit::Crop, WIDE), Some(1), "at {at} ms");
        watermarks(picture, rose, "grid");
        assert_colour(&film, picture, rect(336, 276, 68, 68), sky, "the late mark");
    }
}

/// The box around what is bright in a rectangle, from its corner; `None` when nothing is.
fn bright(film: &Film, picture: &[u8], at: Rect) -> Option<Rect> {
    let width = film.size.width;
    let lit = (at.y..at.y + at.height).flat_map(|y| (at.x..at.x + at.width).map(move |x| (x, y)));
    let lit: Vec<(u32, u32)> = lit.filter(|(x, y)| picture[(y * width + x) as usize] > 180).collect();
    let (left, right) = (lit.iter().map(|p| p.0).min()?, lit.iter().map(|p| p.0).max()?);
    let (top, bottom) = (lit.iter().map(|p| p.1).min()?, lit.iter().map(|p| p.1).max()?);
    Some(rect(left - at.x, top - at.y, right - left + 1, bottom - top + 1))
}

/// Chinese signs, not boxes that stand for what no font has: 一 is flat, 川 is not, and a box would be the same for both.
#[test]
fn texts_and_timestamps_are_written_over_whatever_is_shown() {
    let mut play = Play::new();
    let person = guest("user1", Some(play.track(Codec::H264, badge(8, WIDE, 150, H264))), None);
    let words = [(rect(20, 60, 80, 80), "一"), (rect(120, 60, 80, 80), "川"), (rect(220, 60, 220, 80), "会诊 3")];
    let text = |(at, text): &(Rect, &str)| Watermark::Text {
        rect: *at,
        text: (*text).to_owned(),
        font_size: 56,
        colour: Colour(0x00ff_ffff),
        background: Some(Colour(0)),
    };
    let places = [
        (Place::TopLeft, rect(0, 0, 200, 30)),
        (Place::TopCentre, rect(220, 0, 200, 30)),
        (Place::TopRight, rect(440, 0, 200, 30)),
        (Place::Centre, rect(220, 165, 200, 30)),
        (Place::BottomLeft, rect(0, 330, 200, 30)),
        (Place::BottomCentre, rect(220, 330, 200, 30)),
        (Place::BottomRight, rect(440, 330, 200, 30)),
    ];
    let stamps = places.iter().map(|(place, _)| Watermark::Timestamp { place: *place, zone: 8 });
    // dark below the words, so that what is bright are they; the colour of 8 is dark
    let mode = LayoutMode::Custom(vec![pane(rect(460, 200, 160, 90), Some("user1"))]);
    let layout = Layout { mode, watermarks: words.iter().map(text).chain(stamps).collect(), ..Layout::default() };
    let full = Layout { mode: LayoutMode::Grid, ..layout.clone() };
    let scenes = [&layout, &full].map(|layout| scene_for(layout, SIZE, &[&person]));
    let order = play.pictures_of(scenes[0].clone(), video(15));
    play.start(vec![order]);
    play.until(2_400);
    let changed = play.change(scenes[1].clone());
    play.until(3_200);
    let told = play.finish();

    let film = play.film(&told, SIZE, 15);
    let mut turned: Vec<f64> = Vec::new();
    let mut before: Option<Vec<u8>> = None;
    let rows = |picture: &[u8]| picture[..(SIZE.width * 30) as usize].to_vec();
    for (at, picture) in play.between(&film, 0.0, changed.0) {
        let [one, three, mixed] = words.map(|(at, _)| bright(&film, picture, at).expect("it is written"));
        assert!(one.width > 30 && one.height < 12, "一 is flat: {one:?}");
        assert!(three.height > 30 && three.width > 30, "川 is not: {three:?}");
        assert!(mixed.width > 110 && mixed.height > 30, "{mixed:?}");
        for (place, near) in places {
            let found = bright(&film, picture, near).unwrap_or_else(|| panic!("no time at {place:?} at {at} ms"));
            assert!(found.width > 80 && (8..24).contains(&found.height), "{place:?}: {found:?}");
        }
        assert_eq!(film.badge(picture, rect(460, 200, 160, 90)), Some(8), "at {at} ms");
        let now = rows(picture);
        if let Some(before) = &before {
            let other = now.iter().zip(before).filter(|(a, b)| a.abs_diff(**b) > 60).count();
            if other > 20 {
                turned.push(at);
            }
        }
        before = Some(now);
    }
    // the media clock's own seconds; `lead` is where the line of frames begins on it
    let wanted: Vec<f64> = (0..10)
        .map(|second| f64::from(second) * 1_000.0 - (play.lead % 1_000) as f64)
        .filter(|at| (STEP..changed.0 - STEP).contains(at))
        .collect();
    assert!(wanted.len() >= 2, "{changed:?}");
    for second in &wanted {
        let near = turned.iter().find(|at| (*at - second).abs() < STEP);
        assert!(near.is_some(), "the time turned at {turned:?}, seconds began at {wanted:?}");
    }
    assert!(turned.len() <= wanted.len() + 2, "{turned:?}");
    for (at, picture) in play.between(&film, changed.1 + STEP, 3_100.0) {
        let words = words.map(|(at, _)| bright(&film, picture, at).expect("it is written"));
        assert!(words[0].width > 30 && words[0].height < 12, "at {at} ms: {:?}", words[0]);
        assert_colour(&film, picture, rect(20, 60, 80, 8), BLACK, "the words' own ground");
        // a white bar of user1 is under the one in the middle
        for (place, near) in places.into_iter().filter(|(place, _)| *place != Place::Centre) {
            let found = bright(&film, picture, near).unwrap_or_else(|| panic!("no time at {place:?} at {at} ms"));
            assert!(found.width > 80 && (8..24).contains(&found.height), "{place:?}: {found:?}");
        }
        // colour and bars away from the words
        assert_colour(&film, picture, rect(480, 60, 140, 60), COLOURS[8 % 6], "user1 fills the canvas");
    }
    assert_eq!(scenes[1].tiles[0].rect, whole());
}

/// Pictures wait as small as they are shown. Those that are shown in a larger place from the middle of a round on have not
/// been made small, and neither has the last one of somebody who has stopped.
#[test]
fn who_comes_to_a_larger_place_is_sharp_there() {
    for frames in [30, 90] {
        let mut play = Play::new();
        let one = guest("user1", Some(play.track(Codec::H264, badge(1, WIDE, frames, H264))), None);
        let shown_at = |at: Rect| scene_for(&custom(vec![pane(at, Some("user1"))]), SIZE, &[&one]);
        play.start(vec![play.pictures_of(shown_at(rect(0, 0, 32, 18)), video(15))]);
        play.until(1_500);
        let grown = play.change(shown_at(whole()));
        play.until(2_500);
        let told = play.finish();

        let film = play.film(&told, SIZE, 15);
        let large = play.between(&film, grown.1 + STEP, 2_400.0);
        assert!(large.len() > 5, "{grown:?}");
        for (at, picture) in large {
            // beside the edge of the first bar, the white one: of 32 pixels, each would be twenty here
            let light = |x: u32| film.mean(picture, rect(x, 170, 4, 20))[0];
            let (white, black) = (light(217), light(227));
            assert!(white > 215.0 && black < 36.0, "{frames} sent, at {at} ms: {white:.0} and {black:.0}");
        }
    }
}
