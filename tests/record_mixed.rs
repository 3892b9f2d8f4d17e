//! Mixed recordings by real GStreamer: what is decoded again is what the layout says.

mod mixing;
mod recording;

use holdfast::model::Codec;
use holdfast::model::mix::Layout;
use mixing::play::{Guest, Play, assert_sound_steady, assert_steady, guest, scene_for};
use mixing::{Film, H264, SIZE, badge};
use recording::{assert_plays_alone, beeps, streams, times};

#[test]
fn four_people_stand_where_the_grid_says() {
    let mut play = Play::new();
    let people: Vec<Guest> = (1..=4)
        .map(|n| {
            let picture = play.track(Codec::H264, badge(n, (320, 180), 120, H264));
            let sound = play.track(Codec::Opus, beeps(4));
            guest(&format!("user{n}"), Some(picture), Some(sound))
        })
        .collect();
    let scene = scene_for(&Layout::default(), SIZE, &people.iter().collect::<Vec<_>>());
    let order = play.order(scene.clone());
    play.start(vec![order]);
    play.until(4_000);
    let told = play.finish();
    for segment in &told.segments {
        assert_plays_alone(&play.site.path(segment));
        assert_eq!(segment.size, Some((640, 360)));
    }
    let joined = play.joined(&told);
    assert_eq!(streams(&joined).len(), 2, "{:?}", streams(&joined));
    assert_steady(&times(&joined, "v"), 15);
    assert_sound_steady(&times(&joined, "a"), 48_000);
    let film = Film::read(&joined, SIZE);
    let shown = play.between(&film, 200.0, 3_900.0);
    assert!(shown.len() > 50, "{} pictures", shown.len());
    for (at, picture) in shown {
        assert_eq!(film.badges(picture, &scene), [Some(1), Some(2), Some(3), Some(4)], "at {at} ms");
    }
}
