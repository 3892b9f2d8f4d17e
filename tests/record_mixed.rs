//! Mixed recordings by real GStreamer: what is decoded again is what the layout says.

mod mixing;
mod recording;

use holdfast::media::{LaneEnd, MediaEngine};
use holdfast::model::mix::{AudioParams, Layout};
use holdfast::model::{Codec, LaneKind};
use mixing::{Film, Guest, H264, SIZE, badge, order, scene_of, send, site, video, wait_for};
use recording::{assert_plays_alone, beeps, streams, times};

#[test]
fn four_people_stand_where_the_grid_says() {
    let pictures: Vec<_> = (1..=4).map(|n| badge(n, (320, 180), 120, H264)).collect();
    let sound = beeps(4);
    let mut site = site();
    let guests: Vec<Guest> = (1..=4)
        .map(|n| {
            let picture = site.publish(Codec::H264);
            let sound = site.publish(Codec::Opus);
            Guest::new(&format!("user{n}"), Some(picture), Some(sound))
        })
        .collect();
    let all: Vec<&Guest> = guests.iter().collect();
    let scene = scene_of(&Layout::default(), SIZE, &all);
    let tiles: Vec<_> = scene.tiles.iter().map(|tile| tile.rect).collect();
    let order = order(&site, LaneKind::AudioVideo, scene, video(15), AudioParams::default());
    site.start(&order);
    let mut sending = Vec::new();
    for (guest, pictures) in guests.into_iter().zip(pictures) {
        sending.push(send(&site, guest.picture.expect("sends"), pictures));
        sending.push(send(&site, guest.sound.expect("sends"), sound.clone()));
    }
    wait_for(&site, 4_000);
    site.engine.finish_lane(&order.run);
    let told = site.until_end();
    assert_eq!(told.end, Some(LaneEnd::Finished));
    for segment in &told.segments {
        assert_plays_alone(&site.path(segment));
        assert_eq!(segment.size, Some((640, 360)));
    }
    assert_eq!(told.segments.len(), 2, "{:?}", told.segments);
    let joined = site.joined(&told.segments);
    assert_eq!(streams(&joined).len(), 2, "{:?}", streams(&joined));
    let shown: Vec<f64> = times(&joined, "v").into_iter().map(|t| t.0).collect();
    for pair in shown.windows(2) {
        assert!((pair[1] - pair[0] - 1.0 / 15.0).abs() < 1e-4, "constant rate: {pair:?}");
    }
    let film = Film::read(&joined, SIZE);
    for ms in [500, 1_500, 2_500, 3_500] {
        let picture = film.at(ms);
        let found: Vec<_> = tiles.iter().map(|tile| film.badge(picture, *tile)).collect();
        assert_eq!(found, [Some(1), Some(2), Some(3), Some(4)], "at {ms} ms");
    }
    for thread in sending {
        thread.join().expect("no panic");
    }
}
